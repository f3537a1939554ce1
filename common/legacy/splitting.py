"""Who is in which split, by speaker or by utterance; and long utterances cut into segments.

Not for choosing some examples of a split (`common.legacy.data.choose`), nor for copies (`common.legacy.balancing`).
"""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from common.legacy.class_names import listed
from common.legacy.errors import UserError
from common.legacy.recordings import Recordings

How = Literal["given", "speaker", "stratified"]
SPLITS = ("train", "validation", "test")
FOLDS, ATTEMPTS = 10, 20
SHORTEST_SEGMENT = 1.0  # seconds; a shorter rest is heard with the segment before it


def split_rows(recordings: Recordings, how: How, shares: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    """Split -> its rows, ascending; every row is in one split.

    Args:
        how: "given": the data's own splits; a missing one is taken from its training data, by speaker where speakers
            are known. "speaker": no speaker is in two splits, and the classes' shares are as even as that allows.
            "stratified": by utterance, every class in the same shares.
        shares: "train", "validation" and "test" -> share, 1 in all; those of 0 are left out.

    Raises:
        UserError: no splits given, unknown speakers, or a class that cannot be in every split.
    """
    wanted = {name: share for name, share in shares.items() if share > 0}
    if how == "given":
        if recordings.splits is None:
            raise UserError(f"{recordings.source}: does not say its splits; give --split speaker or --split stratified")
        given = np.array(recordings.splits)
        rows = {name: np.flatnonzero(given == name) for name in SPLITS if name in recordings.splits}
        missing = {name: share for name, share in wanted.items() if name not in rows}
        if missing:
            source, parts = rows["train"], {"train": wanted["train"], **missing}
            taken = _divided(recordings.take(source), _kind(recordings), parts, seed)
            rows |= {name: source[part] for name, part in taken.items()}
        return {name: rows[name] for name in SPLITS if name in rows}
    if how == "speaker" and recordings.speakers is None:
        raise UserError(
            f"{recordings.source}: does not say who speaks; name the column or a name pattern, or give "
            "--split stratified, with which a speaker may be in several splits"
        )
    return _divided(recordings, how, wanted, seed)


def split_words(recordings: Recordings, how: How, shares: Mapping[str, float], seed: int) -> str:
    """How `split_rows` divides, for results and cards."""
    wanted = {name: share for name, share in shares.items() if share > 0}
    kinds = {"speaker": "by speaker, none of whom is in two splits", "stratified": "by utterance, stratified by class"}
    if recordings.labels is None:
        kinds["stratified"] = "by utterance, at random"
    percent = ", ".join(f"{name} {100 * share:g} %" for name, share in wanted.items())
    if how != "given":
        return f"{kinds[how]}: {percent} (seed {seed})"
    missing = [name for name in wanted if name not in recordings.splits]
    taken = f"; {' and '.join(missing)} taken from its training data {kinds[_kind(recordings)]} (seed {seed})"
    return "as the data say" + (taken if missing else "")


def _kind(recordings: Recordings) -> str:
    return "stratified" if recordings.speakers is None else "speaker"


def _divided(recordings: Recordings, how: str, parts: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    """Split -> rows, in the relations of `parts`."""
    total = sum(parts.values())
    parts = {name: share / total for name, share in parts.items()}
    if len(parts) == 1:
        return {name: np.arange(len(recordings)) for name in parts}
    return (_by_speaker if how == "speaker" else _by_utterance)(recordings, parts, seed)


def _by_utterance(recordings: Recordings, parts: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    from sklearn.model_selection import train_test_split

    labels, left, rows = recordings.labels, np.arange(len(recordings)), {}
    if labels is not None:
        _require(recordings, np.bincount(labels), len(parts), "clips")
    for name in [name for name in parts if name != "train"]:
        size, of_class = max(round(parts[name] * len(recordings)), 1), None if labels is None else labels[left]
        if of_class is not None:
            counts = np.bincount(of_class)
            _require(recordings, counts, 2, f"clips left for the split {name!r}")
        if not (1 if labels is None else np.count_nonzero(counts)) <= size < len(left):
            raise UserError(
                f"{recordings.source}: {len(recordings)} clips are too few for a split {name!r} of {size}; choose "
                "other shares"
            )
        left, rows[name] = train_test_split(left, test_size=size, stratify=of_class, random_state=seed)
    rows = {name: np.sort(rows.get(name, left)) for name in parts}
    if labels is not None:
        _require_all(recordings, rows)
    return rows


def _by_speaker(recordings: Recordings, parts: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    """The best of some divisions: folds of scikit-learn's StratifiedGroupKFold, then single speakers moved.

    The folds alone are uneven where some speakers have many clips and some classes have few speakers.
    """
    # Whoever is not known is taken for somebody else each time.
    who = np.unique([name or f"\0{i}" for i, name in enumerate(recordings.speakers)], return_inverse=True)[1]
    labels = np.zeros(len(recordings), dtype=np.int64) if recordings.labels is None else recordings.labels
    clips = np.zeros((int(who.max()) + 1, int(labels.max()) + 1), dtype=np.int64)  # of each speaker and class
    np.add.at(clips, (who, labels), 1)
    if len(clips) < len(parts):
        raise UserError(
            f"{recordings.source}: has {len(clips)} speakers, too few for the splits {listed(parts)}; give "
            "--split stratified, with which a speaker may be in several splits"
        )
    if recordings.labels is not None:
        _require(recordings, (clips > 0).sum(0), len(parts), "speakers")
    clips, shares = clips[:, clips.any(0)].astype(np.float64), np.array(list(parts.values()))
    folds, random = min(FOLDS, len(clips)), np.random.default_rng(seed)
    fold_of = _folds(labels, who, folds, seed)
    wanted = np.searchsorted(np.cumsum(shares), (np.arange(folds) + 0.5) / folds)
    found = [_moved(clips, random.permutation(wanted)[fold_of], shares) for _ in range(ATTEMPTS)]
    part_of = min(found, key=lambda part_of: _unevenness(_clips_in(clips, part_of, len(shares)), shares))
    rows = {name: np.flatnonzero(part_of[who] == i) for i, name in enumerate(parts)}
    if recordings.labels is not None:
        _require_all(recordings, rows)
    return rows


def _folds(labels: np.ndarray, who: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """int [speakers]: the fold of each."""
    from sklearn.model_selection import StratifiedGroupKFold

    fold_of = np.zeros(int(who.max()) + 1, dtype=np.int64)
    if folds <= np.bincount(labels).max():  # else no class has a clip for every fold, which scikit-learn refuses
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of classes with fewer clips than folds
            divided = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, who)
            for fold, (_, rows) in enumerate(divided):
                fold_of[who[rows]] = fold
    return fold_of


def _clips_in(clips: np.ndarray, part_of: np.ndarray, parts: int) -> np.ndarray:
    """float64 [parts, classes]: the clips of every class in every split."""
    return np.stack([clips[part_of == part].sum(0) for part in range(parts)])


def _unevenness(found: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """[...] of found [..., parts, classes]: classes missing in splits, and how far the shares are from the wanted."""
    per_class = np.abs(found / found.sum(-2, keepdims=True) - shares[:, None]).mean((-1, -2))
    in_all = np.abs(found.sum(-1) / found.sum((-1, -2))[..., None] - shares).max(-1)
    return (found == 0).sum((-1, -2)) + per_class + in_all


def _moved(clips: np.ndarray, part_of: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """int [speakers]: their splits after moving one speaker at a time, as long as that makes the splits more even."""
    part_of, one = part_of.copy(), np.eye(len(shares))
    while True:
        found = _clips_in(clips, part_of, len(shares))
        steps = one[None] - one[part_of][:, None]  # [speakers, to which split, splits]
        after = _unevenness(found + steps[..., None] * clips[:, None, None], shares)
        speaker, part = np.unravel_index(after.argmin(), after.shape)
        if after[speaker, part] > _unevenness(found, shares) - 1e-9:
            return part_of
        part_of[speaker] = part


def _require(recordings: Recordings, counts: np.ndarray, needed: int, what: str) -> None:
    """Raises `UserError` for a class with fewer than `needed` of `what`; a class with none at all needs none."""
    for name, count in zip(recordings.names, counts.tolist()):
        if 0 < count < needed:
            raise UserError(
                f"{recordings.source}: the class {name!r} has {count} {what}, and {needed} are needed to divide it; "
                f"leave it out with --drop_labels {name}, or give --split "
                + ("stratified, with which a speaker may be in several splits" if what == "speakers" else "given")
            )


def _require_all(recordings: Recordings, rows: Mapping[str, np.ndarray]) -> None:
    """Raises `UserError` for a class that a split lacks."""
    counts = np.bincount(recordings.labels, minlength=len(recordings.names))
    for split, chosen in rows.items():
        there = np.bincount(recordings.labels[chosen], minlength=len(counts))
        for label in np.flatnonzero((there == 0) & (counts > 0)):
            name = recordings.names[label]
            raise UserError(
                f"{recordings.source}: no clip of the class {name!r}, which has {counts[label]}, comes into the split "
                f"{split!r}; leave it out with --drop_labels {name}, or give {split} a larger share"
            )


def cut(recordings: Recordings, seconds: float, only: np.ndarray | None = None) -> Recordings:
    """Consecutive segments of so many seconds, of each utterance; `utterances` keeps whose they are.

    A rest of less than a second belongs to the segment before it, which is then longer. Several segments of one
    recording have its id with #1, #2, ...; one that is not cut keeps it.

    Args:
        only: bool [N], which ones are cut; None: all.
    """
    if np.isnan(recordings.seconds).any():
        raise UserError(f"{recordings.source}: names without sound cannot be cut into segments")
    lengths = recordings.seconds
    whole = np.floor(lengths / seconds + 1e-9)
    counts = np.maximum(whole + (lengths - whole * seconds >= SHORTEST_SEGMENT), 1).astype(np.int64)
    if only is not None:
        counts[~only] = 1
    rows = np.repeat(np.arange(len(recordings)), counts)
    number = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    begins, nexts = (recordings.begins[rows] + n * seconds for n in (number, number + 1))
    ends = np.where(number == counts[rows] - 1, recordings.ends[rows], nexts)
    segments = recordings.take(rows)
    ids = [f"{name}#{n + 1}" if counts[row] > 1 else name for name, n, row in zip(segments.ids, number, rows)]
    return replace(segments, ids=ids, begins=begins, ends=ends)
