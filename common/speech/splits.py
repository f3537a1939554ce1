"""Who is in which split: by speaker, at random, by hash; and long recordings cut into segments."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from common.errors import UserError
from common.speech.corpora import split_of

if TYPE_CHECKING:
    import datasets

SHORTEST_SEGMENT = 1.0  # seconds; a shorter rest is heard with the segment before it


def split_rows(
    dataset: "datasets.Dataset",
    how: Literal["speaker", "random", "hash"],
    shares: Mapping[str, float],
    seed: int,
    source: str = "the data",
) -> dict[str, np.ndarray]:
    """Split -> its rows, ascending; every row is in one split.

    Args:
        how: "speaker": no speaker is in two splits, and the classes' shares are about as wanted. "random": by row,
            every class in the same shares. "hash": as Speech Commands, by the speaker (10 % each, whatever `shares`).
        shares: split -> share; only their relations count.

    Raises:
        UserError: unknown speakers, too few of them, or a class that cannot be divided.
    """
    labels = np.array(dataset["labels"][:]) if "labels" in dataset.column_names else None
    speakers = dataset["speaker"][:]
    if how in ("speaker", "hash") and not any(speakers):
        raise UserError(
            f"{source}: does not say who speaks; name the column with --speaker_column or give --name_pattern, or "
            "--split random, with which a speaker may be in several splits"
        )
    if how == "hash":
        found = np.array([split_of(who or name) for who, name in zip(speakers, dataset["id"][:])])
        return {name: np.flatnonzero(found == name) for name in shares}
    if how == "random":
        return _at_random(dataset, labels, shares, seed, source)
    # Whoever is not known is taken for somebody else each time.
    who = np.unique([name or f"\0{i}" for i, name in enumerate(speakers)], return_inverse=True)[1]
    if who.max() + 1 < len(shares):
        raise UserError(
            f"{source}: has {who.max() + 1} speakers, too few for {len(shares)} splits; give --split random, with "
            "which a speaker may be in several splits"
        )
    clips = np.zeros((who.max() + 1, 1 if labels is None else labels.max() + 1), dtype=np.int64)
    np.add.at(clips, (who, 0 if labels is None else labels), 1)
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


def _at_random(dataset, labels: np.ndarray | None, shares: Mapping[str, float], seed: int, source: str) -> dict:
    from sklearn.model_selection import train_test_split

    left, rows, counts = np.arange(len(dataset)), {}, Counter([] if labels is None else labels.tolist())
    rarest = min(counts, key=counts.get, default=None)
    try:
        if counts and counts[rarest] < len(shares):
            raise ValueError
        for name in [*shares][1:]:
            size = max(round(shares[name] / sum(shares.values()) * len(dataset)), len(counts), 1)
            classes = labels[left] if counts else None
            left, rows[name] = train_test_split(left, test_size=size, stratify=classes, random_state=seed)
    except ValueError:
        remedy = ""
        if counts:
            label = dataset.features["labels"].names[rarest]
            remedy = f"; the class {label!r} has {counts[rarest]}: --drop_labels {label} leaves it out"
        raise UserError(f"{source}: {len(dataset):,} clips are too few for {len(shares)} splits{remedy}") from None
    return {name: np.sort(rows.get(name, left)) for name in shares}


def cut_segments(dataset: "datasets.Dataset", seconds: float, shortest: float = SHORTEST_SEGMENT) -> "datasets.Dataset":
    """Consecutive segments of so many seconds of each row; `recording` keeps whose they are.

    A rest of less than `shortest` seconds belongs to the segment before it. The segments of one row have its id with
    #1, #2, ...; a row that is not cut keeps it.
    """
    lengths, starts = np.array(dataset["seconds"][:]), np.array(dataset["start"][:])
    whole = np.floor(lengths / seconds + 1e-9)
    counts = np.maximum(whole + (lengths - whole * seconds >= shortest), 1).astype(np.int64)
    rows = np.repeat(np.arange(len(dataset)), counts)
    number = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    last, ids, ends = number == counts[rows] - 1, dataset["id"][:], dataset["end"][:]
    begins = starts[rows] + number * seconds
    stops = np.where(last, starts[rows] + lengths[rows], begins + seconds)
    columns = {
        "id": [f"{ids[row]}#{n + 1}" if counts[row] > 1 else ids[row] for row, n in zip(rows, number)],
        "start": begins.tolist(),
        "end": [ends[row] if final else stop for row, final, stop in zip(rows, last, stops.tolist())],
        "seconds": (stops - begins).tolist(),
    }
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
