"""The parts of a table for one training: where its rows come from, how one table is split, copies, how many are used.

Not for reading and checking a table (`common.legacy.tables`) nor for which row goes where (`common.legacy.table_splits`).
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from common.legacy.data import choose, overlap
from common.legacy.errors import UserError
from common.legacy.hub import load_split
from common.legacy.table_cells import TableReading
from common.legacy.table_splits import split_table
from common.legacy.tables import (
    Table,
    check_trainable,
    contradictions,
    describe,
    duplicates,
    read_chunks,
    read_table,
    table_from_openml,
    table_of_arrow,
)

OPENML = "openml:"


def source_table(data, model_arguments, reading: TableReading) -> Table:
    """The table for training: `--train_file`, else `--dataset`, an id of the hub or openml:NUMBER."""
    if data.train_file is not None:
        return read_table(data.train_file, reading)
    if data.dataset is not None and data.dataset.startswith(OPENML):
        number = data.dataset.removeprefix(OPENML)
        if not number.isdigit():
            raise UserError(f"--dataset {data.dataset}: OpenML's data sets have numbers, as in openml:1597")
        return table_from_openml(int(number), reading, model_arguments.cache_dir)
    loaded, source = load_split(data, model_arguments, "train")
    return table_of_arrow(loaded.data.table, source, reading)


def load_parts(
    task, data, model_arguments, reading: TableReading, shares: Mapping[str, float]
) -> tuple[dict[str, Table], dict[str, str]]:
    """The parts of the data, train first, and, in words, how each was chosen.

    Parts that have a file of their own are read from it; the others are cut from the training table by `split_table`.

    Args:
        task: with split, split_seed, time_column and drop_duplicates.
        shares: part -> its share of what is left, in the order in which they are cut: {"test": 0.3, "validation": 0.2}.
    """
    train = source_table(data, model_arguments, reading)
    check_trainable(train)  # before it is split: what is wrong with all of it is said best of all of it
    files = {"validation": data.validation_file, "test": data.test_file, "untouched": data.test_file}
    same = replace(reading, columns=tuple(train.columns))
    parts = {"train": train}
    parts |= {name: read_table(files[name], same) for name in shares if files[name] is not None}
    if task.drop_duplicates:
        parts = without_copies(parts)
    chosen = dict.fromkeys(parts, "the whole file")
    cut = {name: share for name, share in shares.items() if name not in parts}
    if cut:
        time = task.time_column if task.time_column in train.columns else None
        rows = split_table(parts["train"], task.split, cut, task.split_seed, time)
        by_time = f"by {time or 'order of rows'}"
        how = by_time if task.split == "time" else f"stratified, split_seed {task.split_seed}"
        whole = len(parts["train"])
        parts |= {name: parts["train"].take(of_part) for name, of_part in rows.items()}
        chosen |= {name: f"{len(of_part):,} of {whole:,} rows, {how}" for name, of_part in rows.items()}
    limits = {"train": data.max_train_samples, "validation": data.max_eval_samples}
    limits |= dict.fromkeys(("test", "untouched"), data.max_predict_samples)
    order = [name for name in ("train", "validation", "test", "untouched") if name in parts]
    return limited({name: parts[name] for name in order}, chosen, limits, data)


def split_afterwards(parts: dict[str, Table], chosen: dict[str, str], task, data) -> tuple[dict, dict]:
    """The published order of things: the resampled rows are split, so that what comes of one row is everywhere."""
    whole, shares = parts.pop("train"), {"test": task.test_share, "validation": task.validation_share}
    rows = split_table(whole, "stratified", shares, task.split_seed, None)
    cut = {name: whole.take(rows[name]) for name in ("train", "validation", "test")}
    how = dict.fromkeys(cut, f"after {task.resample}, split at random (split_seed {task.split_seed})")
    cut, how = limited(cut, how, {"validation": data.max_eval_samples, "test": data.max_predict_samples}, data)
    return cut | parts, chosen | how


def limited(parts: Mapping[str, Table], chosen: Mapping[str, str], limits: Mapping[str, int | None], data):
    """The parts with at most `limits` rows (part -> number; None: all), and how they were chosen, in words."""
    fewer, how = dict(parts), {name: chosen[name] for name in parts}
    for name, part in parts.items():
        rows, of_these = choose(len(part), limits.get(name), data.sample_seed)
        if len(rows) < len(part):
            fewer[name], how[name] = part.take(rows), f"{chosen[name]}; of these {of_these}"
    return fewer, how


def without_copies(parts: Mapping[str, Table]) -> dict[str, Table]:
    """The parts without exact copies (numbers and target) of rows that stand earlier, in the same or another part."""
    seen, kept = np.array([], dtype=np.uint64), {}
    for name, part in parts.items():
        keys = part.keys()
        new = ~duplicates(part) & ~np.isin(keys, seen)
        seen = np.concatenate([seen, keys[new]])
        copies = int((~new).sum())
        kept[name] = part.take(np.flatnonzero(new))
        if copies:
            kept[name].skipped = {**part.skipped, "exact copy of an earlier row": copies}
    return kept


class ChunkedFile:
    """A file of any size, read a part at a time, and what results.json says of it once it has been read."""

    def __init__(self, path, reading: TableReading):
        self.path, self.reading = path, reading
        self.examples, self.counts, self.skipped, self.digest = 0, Counter(), Counter(), hashlib.sha256()

    def __iter__(self) -> Iterator[Table]:
        for part in read_chunks(self.path, self.reading):
            self.examples += len(part)
            self.counts.update({} if part.target is None else part.label_counts())
            self.skipped.update(part.skipped)
            self.digest.update(part.fingerprint().encode())
            yield part

    def described(self) -> dict:
        """For results.json's data.splits. The fingerprint is that of the parts', so it differs from a table's."""
        return {
            "source": str(self.path),
            "examples": self.examples,
            "available": self.examples,
            "selection": "the whole file, a part at a time",
            "fingerprint": self.digest.hexdigest(),
            "label_counts": dict(self.counts),
            "skipped": dict(self.skipped),
        }


def describe_parts(parts: Mapping[str, Table], chosen: Mapping[str, str]) -> dict:
    """results.json's `data`: sizes, classes, fingerprints, copies within a part, and rows that parts share."""
    described, keys = {}, {name: part.keys() for name, part in parts.items()}
    for name, part in parts.items():
        statistics = {
            "exact copies of other rows": int(duplicates(part).sum()),
            "rows that stand elsewhere with the other class": contradictions(part),
        }
        described[name] = describe(part, chosen[name], statistics)
    return {"splits": described, "overlaps": overlap({name: found.tolist() for name, found in keys.items()}, "row")}


def identity_of(parsed, train: Table, *names: str) -> dict:
    """What may not change when a training is resumed, for `start_training`; `names` are arguments of the task."""
    training = ("seed", "learning_rate", "per_device_train_batch_size", "num_devices")
    return {
        "script": parsed.command[0],
        "model": parsed.record["model"]["value"],
        "training data": train.fingerprint(),
        **{name: parsed.record[name]["value"] for name in (*training, *names)},
    }
