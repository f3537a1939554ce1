"""Keywords: the classes of the task, and where in long recordings one is said."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import datasets
import numpy as np

from common.data import SPLITS
from common.errors import UserError
from common.labels import listed
from common.speech.corpora import SILENCE, UNKNOWN
from common.speech.results import labels_of
from common.speech.splits import cut_segments, parts_of, with_columns


class Spotted(NamedTuple):
    """A keyword that was found: in which recording, from when to when (seconds), and the best window's probability."""

    recording: str
    keyword: str
    start: float
    end: float
    score: float


def task_classes(
    clips: datasets.Dataset, *, keywords, usual, known, share: float | None, seed: int, whole_silence: bool
) -> tuple:
    """(The clips with the classes of the task: words, silence, `_unknown_` for other words; {reason: left out}).

    Clips of silence of two seconds or more become clips of one second.

    Args:
        keywords: those that were asked for; ["all"]: every word.
        usual: keywords otherwise, where they are among other words.
        known: the classes of a model that is only used.
    """
    if "labels" not in clips.column_names:
        return clips, {}
    spelt = {word.casefold(): word for word in (*usual, *keywords, *known)}  # YES is yes
    names, left_out = [spelt.get(name.casefold(), name) for name in clips.features["labels"].names], {}
    clips = clips.cast_column("labels", datasets.ClassLabel(names=names))
    if known and not {*names} & {*known}:  # folders of any name, with clips to be classified
        return clips.remove_columns("labels"), {}
    if not keywords and UNKNOWN not in names:
        of_model = [name for name in known if name in names] if UNKNOWN in known else []
        keywords = of_model or (usual if set(usual) < {*names} - {SILENCE} else [])
    if keywords not in ([], ["all"]):
        clips, left_out = with_unknown(clips, keywords, share, seed)
    if SILENCE in clips.features["labels"].names and not whole_silence:
        long = labels_of(clips) == clips.features["labels"].names.index(SILENCE)
        long &= np.array(clips["seconds"][:]) >= 2
        if long.any():
            whole = clips.select(np.flatnonzero(long))
            cut, lengths = cut_segments(whole, 1.0), dict(zip(whole["recording"][:], whole["seconds"][:]))
            if "split" in cut.column_names:  # of Speech Commands' noise, 80, 10 and 10 %
                places = [start / lengths[name] for name, start in zip(cut["recording"][:], cut["start"][:])]
                splits = [SPLITS[(at >= 0.8) + (at >= 0.9)] for at in places]
                there = {*clips["split"][:]}
                splits = [name if name in there else "train" for name in splits]
                named = [f"{name}#{split}" for name, split in zip(cut["recording"][:], splits)]
                cut = with_columns(cut, {"split": splits, "recording": named})
            clips = datasets.concatenate_datasets([clips.select(np.flatnonzero(~long)), cut])
    return clips, left_out


def with_unknown(clips: datasets.Dataset, keywords: Sequence[str], share: float | None, seed: int) -> tuple:
    """(The clips with the classes `keywords`, `_silence_`, and `_unknown_` for other words; {reason: left out}).

    Args:
        share: how many unknown words each split keeps, as a multiple of the mean count of its keywords; the others are
            left out at random. None: all are kept. Clips say their split in a column `split`, if it has several.

    Raises:
        UserError: a keyword that is no class of the data.
    """
    there = clips.features["labels"].names
    if missing := [word for word in keywords if word not in there]:
        raise UserError(f"the keywords {listed(missing)} are not among the classes of the data, {listed(there)}")
    names = [*keywords, *(name for name in (SILENCE,) if name in there and name not in keywords)]
    names += [UNKNOWN] if len(names) < len(there) else []
    order = np.array([names.index(name) if name in names else len(names) - 1 for name in there])
    labels = order[labels_of(clips)]
    clips = clips.remove_columns("labels").add_column("labels", labels, feature=datasets.ClassLabel(names=names))
    if share is None or UNKNOWN not in names:
        return clips, {}
    splits = np.array(clips["split"][:] if "split" in clips.column_names else [""] * len(clips), dtype=str)
    keep, random = np.ones(len(clips), dtype=bool), np.random.default_rng(seed)
    for split in sorted(set(splits)):
        unknown = np.flatnonzero((splits == split) & (labels == names.index(UNKNOWN)))
        wanted = round(share * np.count_nonzero(labels[splits == split] < len(keywords)) / len(keywords))
        keep[random.permutation(unknown)[wanted:]] = False
    left_out = {} if keep.all() else {"unknown word above the share": int((~keep).sum())}
    return clips.select(np.flatnonzero(keep)), left_out


def sliding_windows(clips: datasets.Dataset, seconds: float, hop: float) -> datasets.Dataset:
    """Windows of `seconds`, `hop` seconds apart, over each clip that is longer than two of them.

    Shorter clips stay whole. The last window ends where its clip ends; `recording` has the clip's id.
    """
    parts = []
    for row, (name, begin, length) in enumerate(zip(*(clips[column][:] for column in ("id", "start", "seconds")))):
        if length <= 2 * seconds:
            parts.append((row, name, begin, begin + length, length))
            continue
        count = int(np.ceil((length - seconds) / hop - 1e-6))  # not a hair before the last one
        for start in (*(hop * np.arange(count)).tolist(), length - seconds):
            parts.append((row, f"{name}@{start:.2f}", begin + start, begin + start + seconds, seconds))
    return parts_of(clips, parts)


def spotted(
    windows: datasets.Dataset, probabilities: np.ndarray, names: Sequence[str], *, threshold: float
) -> list[Spotted]:
    """Which keywords are said, by recording and time.

    Windows that follow each other and are surest of the same keyword, with at least `threshold`, are one occurrence. It
    is where all of them overlap; of a longer run, from the middle of the first to that of the last.

    Args:
        windows: of `sliding_windows`, those of a recording together and in order.
        probabilities: [N, C], of the classes `names`, of which silence and unknown words are no keywords.
    """
    best, sure, found = probabilities.argmax(axis=1), probabilities.max(axis=1), []
    words = [names[c] if p >= threshold and names[c] not in (SILENCE, UNKNOWN) else None for c, p in zip(best, sure)]
    recordings, begins, ends = (windows[column][:] for column in ("recording", "start", "end"))
    for (recording, word), run in groupby(range(len(windows)), key=lambda i: (recordings[i], words[i])):
        first, *_, last = first_and_last = [*run] * 2
        if word is None:
            continue
        start, end = begins[last], ends[first]
        if start >= end:
            start, end = (begins[first] + ends[first]) / 2, (begins[last] + ends[last]) / 2
        found.append(Spotted(recording, word, start, end, float(sure[first_and_last].max())))
    return found
