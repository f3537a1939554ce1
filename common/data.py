"""Rows as splits: chosen, described, fingerprinted; what they share. Files are read by `common.files`."""

import hashlib
import itertools
import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import datasets
import numpy as np
import pandas as pd

from common.errors import UserError
from common.files import FORMATS, read_file, read_files
from common.hub import class_names, load_file, load_frame, named, numbered

SPLITS = ("train", "validation", "test")
LIMITS = {"train": "max_train_samples", "validation": "max_eval_samples", "test": "max_predict_samples"}
PHASES = {"train": "do_train", "validation": "do_eval", "test": "do_predict"}


class Splits(datasets.DatasetDict):
    """Split -> data set. `facts`: split -> what results.json says of it; `overlaps`: what splits share."""

    def __init__(self, *content, **splits):
        super().__init__(*content, **splits)
        self.facts: dict[str, dict] = {}
        self.overlaps: list[dict] = []


def load_splits(
    args,
    to_dataset: Callable[[pd.DataFrame, str], tuple[datasets.Dataset, dict[str, int]]],
    *,
    hub_splits: Mapping[str, str] = {},
    columns: Mapping[str, Sequence[str]] = {},
) -> Splits:
    """The splits that the run needs, train first, from the user's files if there are any, else from `--dataset`.

    Args:
        to_dataset: (rows, split) -> the examples, and reason -> how many rows were left out.
        hub_splits: split -> its name on the hub if that is another, or the path of a plain file in the repository.
        columns: name of what splits should not share -> the columns that make it.

    Raises:
        UserError: no data, no file for a split that is needed, or a split without an example.
    """
    needed = [name for name in SPLITS if getattr(args.training_args, PHASES[name])]
    files = {name: getattr(args, f"{name}_file") for name in SPLITS}
    given = [name for name in SPLITS if files[name]]
    if not given and not args.dataset:
        flags = ", ".join(f"--{name}_file" for name in needed)
        raise UserError(f"there are no data: give {flags}, or --dataset with a hub id, or --demo")
    splits = Splits()
    for name in needed:
        if given and not files[name]:
            if name == "test" and "do_predict" not in args.explicit:
                continue  # files without a test file are enough where nobody asked for a test
            choice = "--do_train --do_eval --do_predict"
            raise UserError(f"there is no {name} data: give --{name}_file, or choose among {choice}")
        place = hub_splits.get(name, name)
        if given:
            frame = read_files(files[name], args)
        elif place.endswith(FORMATS):
            path, source = load_file(args, place)
            frame = numbered(read_file(path, source), source)
        else:
            frame = load_frame(args, place)
        source = frame.attrs["source"]
        dataset, skipped = to_dataset(frame, name)
        if not len(dataset):
            raise UserError(f"{source}: no usable example{f' ({skipped})' if skipped else ''}")
        splits[name], selection = select(dataset, getattr(args, LIMITS[name]), args.sample_seed)
        splits.facts[name] = describe(splits[name], source, len(dataset), selection, skipped)
    for key, names in columns.items():
        splits.overlaps += overlaps({name: zip(*(split[c][:] for c in names)) for name, split in splits.items()}, key)
    return splits


def select(dataset: datasets.Dataset, limit: int | None, seed: int) -> tuple[datasets.Dataset, str]:
    """`limit` examples (None, or below 0: all), drawn at random and kept in order, and in words how."""
    available = len(dataset)
    if limit is None or not 0 <= limit < available:
        return dataset, f"all {available:,}"
    chosen = np.sort(np.random.default_rng(seed).permutation(available)[:limit])
    return dataset.select(chosen), f"{limit:,} of {available:,}, at random (sample_seed {seed})"


def describe(
    dataset: datasets.Dataset, source: str, available: int, selection: str, skipped: dict[str, int], **statistics
) -> dict:
    """What results.json says of a split; `available` and `selection`: of how many, and how, these were chosen."""
    facts = {"source": source, "examples": len(dataset), "available": available, "selection": selection}
    facts |= {"fingerprint": fingerprint(dataset), "skipped": skipped, "statistics": statistics}
    counts = label_counts(dataset)
    return facts if counts is None else facts | {"label_counts": counts}


def label_counts(dataset: datasets.Dataset) -> dict[str, int] | None:
    """How many examples each class has, in the classes' order; None without a column "labels" of known classes."""
    feature = dataset.features.get("labels")
    if not isinstance(feature, datasets.ClassLabel):
        return None
    labels = np.array(dataset.with_format("arrow")["labels"][:].fill_null(-1), dtype=np.int64)
    if (labels < 0).all():
        return None
    return dict(zip(feature.names, np.bincount(labels[labels >= 0], minlength=feature.num_classes).tolist()))


def fingerprint(dataset: datasets.Dataset) -> str:
    """SHA-256 over the rows' content, in order, classes by name: the same for two runs that saw the same examples."""
    classes, digest = class_names(dataset.features), hashlib.sha256()
    for table in dataset.with_format("arrow").iter(10_000):
        rows = table.to_pydict()
        for column, names in classes.items():
            rows[column] = named(rows[column], names)
        digest.update(json.dumps(rows, sort_keys=True, ensure_ascii=False, default=repr).encode())
    return digest.hexdigest()


def overlaps(splits: Mapping[str, Iterable[Hashable]], key: str) -> list[dict]:
    """What later splits share with earlier ones, as results.json's `data.overlaps` wants it.

    `splits`: split -> one key an example (a context, a premise, a speaker), which is called `key`.
    """
    keys, found = {name: list(own) for name, own in splits.items()}, []
    for earlier, later in itertools.combinations(keys, 2):
        seen = {*keys[earlier]}
        if shared := sum(k in seen for k in keys[later]):
            share = shared / len(keys[later])
            found.append({"between": [earlier, later], "key": key, "examples": shared, "share": share})
    return found
