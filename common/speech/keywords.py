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


def task_classes(
    clips: datasets.Dataset, *, keywords, usual, known, share: float | None, seed: int, whole_silence: bool = False
) -> tuple:
    """(The clips with the classes of the task: words, silence, `_unknown_` for other words; {reason: left out}).

    `keywords` were asked for (["all"]: every word), `usual` are those otherwise, where they are among other words, and
    `known` are the classes of a model that is only used.
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
    return clips if whole_silence else cut_silence(clips), left_out


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


def with_unknown(clips: datasets.Dataset, keywords: Sequence[str], share: float | None, seed: int) -> tuple:
    """(The clips with the classes `keywords`, `_silence_`, and `_unknown_` for other words; {reason: left out}).

    Each split keeps `share` times the mean count of its keywords of unknown words, drawn at random; None: all.
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
