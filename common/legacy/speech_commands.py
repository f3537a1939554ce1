"""Speech Commands as it is published: words in folders, lists of its splits, and minutes of noise.

Warden 2018, "Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition", and the data's own README. Not for
its official test archive nor other clips in folders by class, which are read as such (`common.legacy.recording_readers`).
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from common.legacy.audio import BadAudio, seconds_of
from common.legacy.class_names import listed
from common.legacy.errors import UserError
from common.legacy.recording_readers import Entries, Files, is_audio, read_lines

if TYPE_CHECKING:
    from common.legacy.recordings import Recordings

SILENCE, UNKNOWN = "_silence_", "_unknown_"
NOISE = "_background_noise_/"
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
SPEAKER = re.compile(r"(?:.*_)?([^_]+)_nohash_.*")
HASHES, SHARE = 2**27, 10.0  # percent of the speakers in each of validation and test
WINDOW = 1.0  # seconds, the length of the words' clips


def is_speech_commands(files: Files) -> bool:
    """Whether a tree has the lists or the noise of Speech Commands."""
    return any(name in files for name in LISTS.values()) or any(path.startswith(NOISE) for path in files)


def speakers_of(stems: Sequence[str]) -> list[str] | None:
    """The speakers that names like `0a7c2a8d_nohash_0` tell; "" in other names, None where no name tells one."""
    matches = [SPEAKER.fullmatch(name) for name in stems]
    return [m[1] if m else "" for m in matches] if any(matches) else None


def split_of(speaker: str) -> str:
    """The split of a speaker by the rule that the README gives for clips that are in no list."""
    percent = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % HASHES * 100 / (HASHES - 1)
    return "validation" if percent < SHARE else "test" if percent < 2 * SHARE else "train"


def speech_commands(files: Files, source: str) -> Entries:
    """Every word's clips, with the word as class, and the noise cut into clips of one second of the class `_silence_`.

    A list says what is in its split, and what is in none is for training; without any list, the hash rule decides. Of
    each file of noise the first 80 % of the seconds are for training, then come validation and test.
    """
    words = [path for path in files if is_audio(path) and "/" in path and not path.startswith(NOISE)]
    stems = [PurePosixPath(path).stem for path in words]
    speakers = speakers_of(stems) or [""] * len(words)
    lists = {line: split for split, name in LISTS.items() if name in files for line in read_lines(files[name])}
    if lists:
        splits = [lists.get(path, "train") for path in words]
    else:
        splits = [split_of(speaker or name) for speaker, name in zip(speakers, stems)]
    noise = [path for path in files if is_audio(path) and path.startswith(NOISE)]
    windows = [(path, *window) for path in noise for window in _windows(files[path])]
    unsaid = np.full(len(words), np.nan)
    return Entries(
        source,
        ids=words + [f"{path}#{number}" for path, number, _, _ in windows],
        places=[files[path] for path in words] + [files[path] for path, *_ in windows],
        stems=stems + [PurePosixPath(path).stem for path, *_ in windows],
        audio=[files[path] for path in words] + [files[path] for path, *_ in windows],
        labels=[path.split("/")[-2] for path in words] + [SILENCE] * len(windows),
        speakers=speakers + [""] * len(windows),
        splits=splits + [split for *_, split in windows],
        begins=np.concatenate([unsaid, [WINDOW * (number - 1) for _, number, _, _ in windows]]),
        ends=np.concatenate([unsaid, [end for _, _, end, _ in windows]]),
        remedies={"text": "Speech Commands has words as classes, and no transcripts"},
    )


def _windows(noise: str) -> list[tuple[int, float, str]]:
    """(number from 1, end in seconds, split) of the whole windows of a file; a shorter file is one."""
    try:
        seconds = seconds_of(noise, noise)
    except BadAudio:
        return [(1, np.nan, "train")]  # whoever opens it next says what is wrong
    count = max(int(seconds / WINDOW), 1)
    held = max(round(count * SHARE / 100), 1) if count >= 3 else 0
    names = ["train"] * (count - 2 * held) + ["validation"] * held + ["test"] * held
    return [(i + 1, min(WINDOW * (i + 1), seconds), name) for i, name in enumerate(names)]


def with_unknown(
    recordings: "Recordings", keywords: Sequence[str], unknown_share: float | None, seed: int
) -> "Recordings":
    """The same clips with the classes `keywords`, `_silence_` and `_unknown_`, where every other word is unknown.

    Args:
        unknown_share: how many unknown words each split keeps, as a multiple of the mean count of its keywords; the
            others are left out at random, and counted in `skipped`. None: all are kept.

    Raises:
        UserError: a keyword that is no class of the data.
    """
    if missing := [word for word in keywords if word not in recordings.names]:
        raise UserError(
            f"{recordings.source}: the keywords {listed(missing)} are not among its classes, {listed(recordings.names)}"
        )
    names = [*keywords, *(name for name in (SILENCE,) if name in recordings.names and name not in keywords)]
    if len(names) < len(recordings.names):
        names.append(UNKNOWN)
    order = [names.index(name) if name in names else len(names) - 1 for name in recordings.names]
    labels = None if recordings.labels is None else np.array(order, dtype=np.int64)[recordings.labels]
    recordings = replace(recordings, names=tuple(names), labels=labels)
    if labels is None or unknown_share is None or UNKNOWN not in names:
        return recordings
    splits = np.array(recordings.splits or [""] * len(recordings))
    keep, random = np.ones(len(recordings), dtype=bool), np.random.default_rng(seed)
    for split in sorted(set(splits)):
        unknown = np.flatnonzero((splits == split) & (labels == names.index(UNKNOWN)))
        wanted = round(unknown_share * np.isin(labels[splits == split], range(len(keywords))).sum() / len(keywords))
        keep[random.permutation(unknown)[wanted:]] = False
    left_out = {"unknown word above the share": int((~keep).sum())} if not keep.all() else {}
    return replace(recordings.take(np.flatnonzero(keep)), skipped={**recordings.skipped, **left_out})
