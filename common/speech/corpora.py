"""What folders and corpora of known form say of their clips, as a table: a row a clip (`clips_frame`)."""

import itertools
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from common.cache import ARCHIVES, is_archive, unpacked
from common.errors import UserError
from common.files import require_file
from common.labels import canonical
from common.speech.audio import AUDIO_ENDINGS, FFMPEG_ENDINGS

SPLITS = dict.fromkeys(("train", "training"), "train") | dict.fromkeys(("test", "testing"), "test")
SPLITS |= dict.fromkeys(("validation", "valid", "val", "dev", "devel", "development"), "validation")
SPLITS |= dict.fromkeys(("eval", "evaluation"), "eval")  # test data beside validation data, else these: see `divided`
TEXTS = ("", ".txt", ".csv", ".tsv", ".json", ".jsonl", ".md", ".pdf", ".html")  # endings of what is no sound
# Class -> other spellings of it.
EMOTIONS = {
    "anger": ("angry", "ang"),
    "boredom": ("bored",),
    "calm": ("calmness",),
    "disgust": ("disgusted", "dis"),
    "excitement": ("excited", "exc"),
    "fear": ("fearful", "fea"),
    "frustration": ("frustrated", "fru"),
    "happiness": ("happy", "hap", "joy"),
    "neutral": ("neu",),
    "sadness": ("sad",),
    "surprise": ("surprised", "sur", "ps", "pleasant_surprise", "pleasant_surprised"),
}
SILENCE, UNKNOWN = "_silence_", "_unknown_"
NOISE = "_background_noise_"
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
# Of LibriSpeech and IEMOCAP: files whose lines say the text or class of a clip -> which, and name and truth in a line.
TRUTHS = {
    r"(?i)(\.trans|(^|/)transcripts)\.txt$": ("text", re.compile(r"\s*(\S+)\s+(.*)")),
    r"EmoEvaluation/[^/]+\.txt$": ("label", re.compile(r"\[[\d.]+ - [\d.]+\]\t(\S+)\t(\w+)\t.*")),
}
NOHASH = re.compile(r"(?:.*_)?([^_]+)_nohash_.*")


class Reading(NamedTuple):
    """How sources are read; see `common.speech.recordings.load_recordings`."""

    args: object
    run: object
    kind: Literal["label", "text"]
    classes: Mapping[str, Sequence[str]]
    names: Sequence[str]


def clips_frame(ids: Sequence[str], paths: Sequence[str], **columns: Sequence) -> pd.DataFrame:
    """The table of N clips: path; id; name, from which patterns read; where, for messages; reason and problem (`mark`).

    And what the source says of label, text, speaker, gender, split, start, end (seconds). Attrs: source; numbered,
    whether numbers as labels count classes; doubt, a sentence to say; remedy, why there are no labels or texts.
    """
    own = {"path": paths, "id": ids, "name": paths, "where": paths, "reason": "", "problem": ""}
    return pd.DataFrame(own | columns, dtype=object)


def mark(frame: pd.DataFrame, rows, reason: str | Sequence[str], problem: str | Sequence[str] = "") -> None:
    """Takes rows that are still good out, for a reason to count; with a problem, the first one may stop the run."""
    rows = np.array(rows, dtype=bool) & (frame["reason"] == "").to_numpy()
    for column, words in (("reason", reason), ("problem", problem)):  # one for all rows, or one each
        frame.loc[rows, column] = pd.Series(words, frame.index, dtype=object)[rows]


def without_bad(frame: pd.DataFrame, source: str, skip: bool) -> tuple[pd.DataFrame, dict[str, int]]:
    """The good rows, and {reason: rows left out}; `UserError` for one with a problem, unless `skip`, and for no row."""
    bad = frame[frame["reason"] != ""]
    broken = bad[bad["problem"] != ""]
    if len(broken) and not skip:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in broken["reason"].value_counts().items())
        more = f" ({len(broken):,} clips are unusable: {counts})" if len(broken) > 1 else ""
        where, problem = broken[["where", "problem"]].iloc[0]
        sentence = f"{where}: {problem.removeprefix(f'{where}: ')}{more}"
        raise UserError(f"{sentence}; mend it or pass --on_bad_example skip")
    skipped = bad["reason"].value_counts(sort=False).to_dict()
    if len(bad) == len(frame):
        raise UserError(f"{source}: no usable recording ({skipped})")
    return frame[frame["reason"] == ""], skipped


def split_of(word: str) -> str:
    """The split that a folder is called by, as train-clean-100 is; "" if by none."""
    return SPLITS.get(re.split("[-_. ]", word.lower())[0], "")


def add_splits(frame: pd.DataFrame, words: Sequence[str]) -> None:
    """Adds the split that a word of each row means; rows of another word are bad, unless all are: of something else."""
    splits = [*map(split_of, words)]
    if any(splits):
        frame["split"] = splits
        problems = [f"the split {word!r} is none of {', '.join(SPLITS)}" for word in words]
        mark(frame, frame["split"] == "", "unknown split", problems)


def is_audio(path: str) -> bool:
    """Whether the name of a file has an ending of sound."""
    return path.lower().endswith(AUDIO_ENDINGS + FFMPEG_ENDINGS)


def stem(path: str) -> str:
    """A file's name without folder and ending; what looks like an ending but is none of sound stays."""
    name = PurePosixPath(path.replace("\\", "/")).name
    return name.rpartition(".")[0] if is_audio(name) else name


def list_files(folder: Path, args) -> dict[str, str]:
    """Path below the innermost folder (not of a split) that all sound is in -> file; of archives alone, their files."""
    files: dict[str, str] = {}
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place).absolute()
        above = {path.resolve() for path in (here, *here.parents)}
        shown = [name for name in sorted(folders) if not name.startswith((".", "__MACOSX"))]
        folders[:] = [name for name in shown if (here / name).resolve() not in above]  # no link to one that it lies in
        paths = [Path(place, name) for name in sorted(names) if not name.startswith(".")]
        files |= {path.relative_to(folder).as_posix(): str(path) for path in paths}
    if not any(map(is_audio, files)):
        for path in [path for path in files if is_archive(path)]:
            inner = list_files(unpacked(files.pop(path), args), args)
            bare = path[: -len(next(filter(path.lower().endswith, ARCHIVES)))]
            files |= {f"{bare}/{name}": place for name, place in inner.items()}
    sounds = [posixpath.dirname(path) for path in filter(is_audio, files)]
    above = itertools.takewhile(lambda part: not split_of(part), posixpath.commonpath(sounds or [""]).split("/"))
    top = "".join(f"{part}/" for part in above)
    return {path.removeprefix(top): place for path, place in files.items()}


def class_folders(files: Mapping[str, str], reading: Reading) -> pd.DataFrame:
    """Clips in folders by class, also below folders by split or by speaker, or by lists as of Speech Commands."""
    paths = [path for path in files if is_audio(path)]
    folders, columns = [path.split("/")[:-1] for path in paths], {}
    named = [[bool(split_of(part)) for part in parts] for parts in folders]
    if all(map(any, named)):
        columns["split"] = [split_of(parts.pop(at.index(True))) for parts, at in zip(folders, named)]
    elif len({split_of(part) for parts in folders for part in parts} - {""}) > 1:
        outside = [path for path, at in zip(paths, named) if not any(at)]
        said = f"{len(outside):,} clips are in none of them, the first {outside[0]}: they are not taken for splits"
        reading.run.warn(f"folders are called by splits, but {said}; move these clips away")
    lists, bare = {}, [posixpath.splitext(path)[0] for path in paths]
    for split, name in LISTS.items():  # whose clips may have been converted since
        for place in (files[path] for path in files if posixpath.basename(path) == name):
            lines = [posixpath.normpath(line.strip().replace("\\", "/")) for line in read_lines(place) if line.strip()]
            lists |= {posixpath.splitext(line)[0]: split for line in lines}
    if missing := lists.keys() - {*bare}:
        reading.run.warn(f"{len(missing):,} clips of the lists are not there, the first {min(missing)}")
    if len(missing) < len(lists):  # the rest is for training
        columns["split"] = [lists.get(path, "train") for path in bare]
    kinds = {path: PurePosixPath(path).suffix.lower() for path in files if not is_audio(path)}
    if unread := {path: kind for path, kind in kinds.items() if kind not in TEXTS}:
        endings = ", ".join(sorted({*unread.values()}))
        reading.run.warn(f"{len(unread):,} files that end with {endings} are not read, the first {min(unread)}")
    labels, speakers, doubt = _levels(folders, reading)
    labels = [SILENCE if label.lower() == NOISE else label for label in labels]
    if not any(speakers):  # as the names of Speech Commands say
        speakers = [match[1] if match else "" for match in map(NOHASH.fullmatch, map(stem, paths))]
    frame = clips_frame(paths, [files[path] for path in paths], label=labels, speaker=speakers, **columns)
    frame.attrs["doubt"] = doubt
    return frame


def _levels(folders: list[list[str]], reading: Reading) -> tuple[list[str], list[str], str]:
    """Class and speaker of each clip by the folders it is in, and a sentence to say."""

    def coded(name: str) -> bool:
        return len(name) > 1 and any(map(str.isdigit, name))

    known = {*reading.classes, *reading.names}
    meant = {part: canonical(part, reading.classes) in known for parts in folders for part in parts}
    if any(meant.values()):  # the innermost one that is called like a known class
        labels = [next((p for p in reversed(parts) if meant[p]), (parts or [""])[-1]) for parts in folders]
        return labels, [next((p for p in parts if not meant[p] and coded(p)), "") for parts in folders], ""
    labels, above = ([parts[-at] if len(parts) >= at else "" for parts in folders] for at in (1, 2))
    # The innermost one, or the one above where only the innermost look like codes of speakers (s01, Actor_07).
    if swapped := all(above) and all(map(coded, labels)) and not all(map(coded, above)):
        labels, above = above, labels
    speakers = all(map(coded, above))
    shown = ", ".join(sorted({*labels} - {""})[:4])
    doubt = f"the folders {shown} are taken for classes; if they are something else, such as speakers, say with "
    doubt += "--name_pattern what folders are, as in {label}/{speaker}/{index}"
    doubtful = swapped or all(map(coded, labels)) or (any(above) and not speakers)
    return labels, above if speakers else [], doubt if doubtful and len({*labels}) > 1 else ""


def with_truths(files: Mapping[str, str], reading: Reading) -> pd.DataFrame | None:
    """LibriSpeech or IEMOCAP: a row for each name that has a clip or a truth; marked where one of both is missing."""
    kinds = ((*kind, [path for path in files if re.search(ending, path)]) for ending, kind in TRUTHS.items())
    column, line, lists = next((kind for kind in kinds if kind[2]), (None, None, []))
    if column is None:
        return None
    said, clips, what = {}, {}, "transcript" if column == "text" else "label"
    for path in lists:
        for match in filter(None, map(line.fullmatch, read_lines(files[path]))):
            if said.setdefault(match[1], (match[2], path)) != (match[2], path):
                raise UserError(f"{files[path]}: {match[1]} has another {what} already; remove one of the two lines")
    for path in filter(is_audio, files):
        if "dialog/" not in path and clips.setdefault(stem(path), path) != path:
            raise UserError(f"{files[path]}: has the name of {clips[stem(path)]}, which its {what} needs; remove one")
    names = sorted({*clips, *said})
    paths = [files.get(clips.get(name), name) for name in names]
    frame = clips_frame(names, paths, **{column: [said.get(name, [""])[0] for name in names]})
    frame["where"] = [path if name in clips else f"{files[said[name][1]]}, {name}" for name, path in zip(names, paths)]
    mark(frame, [name not in clips for name in names], "no such file", f"there is a {what}, but no clip")
    mark(frame, [name not in said for name in names], f"no {what}", f"there is a clip, but no {what}")
    if column == "label":
        mark(frame, frame["label"].isin(["xxx", "oth"]), "no label")  # no agreement
        return frame
    codes = [re.split("[-_]", name) for name in names]  # of speaker, chapter or book, and utterance
    frame["speaker"] = [code[0] if len(code) == 3 else "" for code in codes]
    parts = [(clips.get(name) or said[name][1]).split("/")[:-1] for name in names]
    frame["subset"] = [next(filter(split_of, one), "") for one in parts]
    if frame["subset"].all():
        add_splits(frame, frame["subset"])
    return frame


def read_lines(path: str) -> list[str]:
    """The lines of a UTF-8 file without their ends."""
    require_file(Path(path), path)
    try:
        return re.split("\r?\n", Path(path).read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
