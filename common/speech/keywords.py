"""Keywords: the classes of the task."""

from collections.abc import Sequence

import datasets
import numpy as np

from common.data import SPLITS
from common.errors import UserError
from common.labels import listed
from common.speech.corpora import SILENCE, UNKNOWN
from common.speech.results import labels_of
from common.speech.splits import cut_segments, with_columns


def task_classes(clips: datasets.Dataset, *, keywords, usual, whole_silence: bool = False) -> datasets.Dataset:
    """The clips with the classes of the task: words, silence in seconds, `_unknown_` for other words.

    `keywords` were asked for (["all"]: every word), `usual` are those otherwise, where they are among other words.
    """
    if "labels" not in clips.column_names:
        return clips
    spelt = {word.casefold(): word for word in (*usual, *keywords)}  # YES is yes
    names = [spelt.get(name.casefold(), name) for name in clips.features["labels"].names]
    clips = clips.cast_column("labels", datasets.ClassLabel(names=names))
    if not keywords and UNKNOWN not in names and {*usual} < {*names} - {SILENCE}:
        keywords = usual
    if keywords not in ([], ["all"]):
        clips = with_unknown(clips, keywords)
    return clips if whole_silence else cut_silence(clips)


def cut_silence(clips: datasets.Dataset) -> datasets.Dataset:
    """The clips with those of silence of two seconds or more cut; of data in splits each has its part of such a one."""
    silence = [name == SILENCE for name in clips.features["labels"].names]
    long = np.array(silence)[labels_of(clips)] & (np.array(clips["seconds"][:]) >= 2)
    if not long.any():
        return clips
    whole = clips.select(np.flatnonzero(long))
    cut, lengths = cut_segments(whole, 1.0), dict(zip(whole["recording"][:], whole["seconds"][:]))
    if "split" in cut.column_names:  # of Speech Commands' noise, 80, 10 and 10 %
        places = [start / lengths[name] for name, start in zip(cut["recording"][:], cut["start"][:])]
        splits, there = [SPLITS[(at >= 0.8) + (at >= 0.9)] for at in places], {*clips["split"][:]}
        splits = [name if name in there else "train" for name in splits]
        named = [f"{name}#{split}" for name, split in zip(cut["recording"][:], splits)]
        cut = with_columns(cut, {"split": splits, "recording": named})
    return datasets.concatenate_datasets([clips.select(np.flatnonzero(~long)), cut])


def with_unknown(clips: datasets.Dataset, keywords: Sequence[str]) -> datasets.Dataset:
    """The clips with the classes `keywords`, `_silence_`, and `_unknown_` for other words."""
    there = clips.features["labels"].names
    if missing := [word for word in keywords if word not in there]:
        raise UserError(f"the keywords {listed(missing)} are not among the classes of the data, {listed(there)}")
    names = [*keywords, *(name for name in (SILENCE,) if name in there and name not in keywords)]
    names += [UNKNOWN] if len(names) < len(there) else []
    order = np.array([names.index(name) if name in names else len(names) - 1 for name in there])
    feature = datasets.ClassLabel(names=names)
    return clips.remove_columns("labels").add_column("labels", order[labels_of(clips)], feature=feature)
