"""Who is in which split: by speaker or at random; and long recordings cut into segments."""

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from common.errors import UserError

if TYPE_CHECKING:
    import datasets


def split_rows(
    dataset: "datasets.Dataset",
    how: Literal["speaker", "random"],
    shares: Mapping[str, float],
    seed: int,
    source: str = "the data",
) -> dict[str, np.ndarray]:
    """Split -> its rows, ascending; every row is in one split.

    Args:
        how: "speaker": no speaker is in two splits, and the classes' shares are about as wanted. "random": by row,
            every class in the same shares.
        shares: split -> share; only their relations count.

    Raises:
        UserError: unknown speakers, too few of them, or a class that cannot be divided.
    """
    labels = np.array(dataset["labels"][:]) if "labels" in dataset.column_names else np.zeros(len(dataset), dtype=int)
    if how == "random":
        return _at_random(dataset, labels, shares, seed, source)
    speakers, remedy = dataset["speaker"][:], "--split random, with which a speaker may be in several splits"
    if not any(speakers):
        raise UserError(f"{source}: does not say who speaks; give --speaker_column or --name_pattern, or {remedy}")
    # Whoever is not known is taken for somebody else each time.
    who = np.unique([name or f"\0{i}" for i, name in enumerate(speakers)], return_inverse=True)[1]
    if who.max() + 1 < len(shares):
        raise UserError(f"{source}: has {who.max() + 1} speakers, too few for {len(shares)} splits; give {remedy}")
    clips = np.zeros((who.max() + 1, labels.max() + 1), dtype=np.int64)
    np.add.at(clips, (who, labels), 1)
    part_of = _speakers_divided(clips, np.array([*shares.values()]) / sum(shares.values()), seed)
    return {name: np.flatnonzero(part_of[who] == i) for i, name in enumerate(shares)}


def _speakers_divided(clips: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """int [speakers]: the split of each, by the best of many random orders of the speakers.

    The best one has all classes in all splits, if any has, and then the most even shares, in all and by class. Folds of
    scikit-learn's StratifiedGroupKFold are less even where some speakers have many clips and some classes few speakers.

    Args:
        clips: [speakers, classes], how many there are.
        shares: [splits], 1 in all.
    """
    clips, random = clips[:, clips.any(0)], np.random.default_rng(seed)
    sizes, best, least = clips.sum(1), None, np.inf
    for _ in range(min(2_000, max(20, 1_000_000 // clips.size))):
        order = random.permutation(len(clips))
        middle = (np.cumsum(sizes[order]) - sizes[order] / 2) / sizes.sum()  # of each speaker's clips, in this order
        part_of = np.empty(len(clips), dtype=np.int64)
        least_part = np.arange(len(clips)) - (len(clips) - len(shares))  # so that every split gets somebody
        part_of[order] = np.maximum(np.searchsorted(np.cumsum(shares)[:-1], middle), least_part)
        found = np.stack([clips[part_of == part].sum(0) for part in range(len(shares))])
        uneven = (
            np.abs(found / clips.sum(0) - shares[:, None]).mean() + np.abs(found.sum(1) / sizes.sum() - shares).max()
        )
        if (found == 0).sum() + uneven < least:
            best, least = part_of, (found == 0).sum() + uneven
    return best


def _at_random(dataset, labels: np.ndarray, shares: Mapping[str, float], seed: int, source: str) -> dict:
    from sklearn.model_selection import train_test_split

    left, rows, counts = np.arange(len(dataset)), {}, Counter(labels.tolist())
    rarest = min(counts, key=counts.get)
    try:
        if counts[rarest] < len(shares):
            raise ValueError
        for name in [*shares][1:]:
            size = max(round(shares[name] / sum(shares.values()) * len(dataset)), len(counts))
            left, rows[name] = train_test_split(left, test_size=size, stratify=labels[left], random_state=seed)
    except ValueError:
        remedy = ""
        if "labels" in dataset.features:
            label = dataset.features["labels"].names[rarest]
            remedy = f"; the class {label!r} has {counts[rarest]}: --drop_labels {label} leaves it out"
        raise UserError(f"{source}: {len(dataset):,} clips are too few for {len(shares)} splits{remedy}") from None
    return {name: np.sort(rows.get(name, left)) for name in shares}


def cut_segments(dataset: "datasets.Dataset", seconds: float, shortest: float = 1.0) -> "datasets.Dataset":
    """Consecutive segments of so many seconds of each row; `recording` keeps whose they are.

    A rest of less than `shortest` seconds belongs to the segment before it. The segments of one row have its id with
    #1, #2, ...; a row that is not cut keeps it.
    """
    rows, columns = [], {"id": [], "start": [], "end": [], "seconds": []}
    for row, values in enumerate(zip(*(dataset[name][:] for name in columns))):
        name, start, end, length = values
        cuts = [0.0, *np.arange(seconds, length - shortest + 1e-9, seconds).tolist(), length]
        for number, (begin, stop) in enumerate(itertools.pairwise(cuts), start=1):
            rows.append(row)
            columns["id"].append(f"{name}#{number}" if len(cuts) > 2 else name)
            columns["start"].append(start + begin)
            columns["end"].append(end if stop == length else start + stop)
            columns["seconds"].append(stop - begin)
    return with_columns(dataset.select(rows), columns)


def shorten(dataset: "datasets.Dataset", seconds: float) -> "datasets.Dataset":
    """Of each longer row the first so many seconds."""
    lengths, ends = np.array(dataset["seconds"][:]), dataset["end"][:]
    long = lengths > seconds
    cut = [start + seconds if is_long else end for start, is_long, end in zip(dataset["start"][:], long, ends)]
    return with_columns(dataset, {"end": cut, "seconds": np.minimum(lengths, seconds).tolist()})


def with_columns(dataset: "datasets.Dataset", columns: Mapping[str, list]) -> "datasets.Dataset":
    """The data set, in memory, with other values in some columns, or further ones (of strings)."""
    import datasets

    features = dataset.features | {name: datasets.Value("string") for name in columns if name not in dataset.features}
    return datasets.Dataset.from_dict({**dataset[:], **columns}, features=datasets.Features(features))
