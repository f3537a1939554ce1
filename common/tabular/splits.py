"""The parts of a table: which rows are for training, validation and test, by chance or by time; what they share.

Not for reading tables (`tables`), nor for what their columns mean (`columns`).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd

from common.data import overlaps, require_columns, where, without_bad
from common.errors import UserError
from common.hub import load_frame
from common.tabular.columns import ORDERED, Columns, Part, class_texts, classes_of, held, is_index, learned, values_of
from common.tabular.tables import Tables


def training_parts(args) -> tuple[dict[str, Part], Columns]:
    """The parts of the data, train first, and what their columns mean, learned from the training rows.

    Parts with a file of their own are read from it; the others are cut from the training table, of which
    `--protocol published` keeps only a holdout apart for now (`split_resampled` cuts the others).

    Raises:
        UserError: what is wrong with the tables; a part that would have no fraud or no legitimate row.
    """
    skip, indexes = args.on_bad_example == "skip", set()
    if args.train_file:
        tables = Tables(args.train_file, skip)
        table, indexes = tables.whole(), tables.indexes
    else:
        table = load_frame(args, "train")
    source = table.attrs["source"]
    roles = {"time": args.time_column, "amount": args.amount_column}
    roles = {r: n for r, n in roles.items() if n in table.columns or (n is not None and f"{r}_column" in args.explicit)}
    require_columns(table.columns, [args.target], f"{source}, --target")
    require_columns(table.columns, [*args.ignore_columns, *roles.values()], source)
    counting = {name for name in table.columns if name in indexes or is_index(name, table[name])} - {*roles.values()}
    problems = {}
    if args.drop_duplicates:
        copies = np.flatnonzero(table.drop(columns=[*counting]).duplicated())
        problems = dict.fromkeys(copies.tolist(), ("copy of an earlier row", None))
    empty = np.flatnonzero(class_texts(table[args.target]) == "")
    problems |= dict.fromkeys(empty.tolist(), ("empty target", f"{args.target}, the target, {held(None)}"))
    table, skipped = without_bad(table, problems, args.on_bad_example)
    read = {"train": tables} if args.train_file else {}
    classes = classes_of(table[args.target], args.positive, source)
    target = (class_texts(table[args.target]) == classes[1]).astype(np.int8)

    shares = {"test": args.test_share, "validation": args.validation_share}
    if args.protocol == "published":
        shares = {"holdout": args.test_share if args.holdout_share is None else args.holdout_share}
    files = {"validation": args.validation_file, "test": args.test_file, "holdout": args.test_file}
    cut = {name: share for name, share in shares.items() if not files[name]}
    times = order_of(table, args.time_column) if args.split == "time" and cut else None
    rows = split_rows(target, cut, args.split_seed, times, source)
    how = f"by {args.time_column}" if times is not None else f"stratified, split_seed {args.split_seed}"
    chosen = {name: f"{len(part):,} of {len(table):,} rows, {how}" for name, part in rows.items() if cut}
    kept = rows["train"][stratified(target[rows["train"]], args.max_train_samples, args.sample_seed)]
    if len(kept) < len(rows["train"]):
        rows["train"], chosen["train"] = kept, f"{len(kept):,} rows, stratified, sample_seed {args.sample_seed}"
    frames = {name: table.iloc[part] for name, part in rows.items()}
    read |= {name: Tables(files[name], skip) for name in shares if files[name] and shares[name]}
    frames |= {name: read[name].whole() for name in read if name != "train"}

    ignored = dict.fromkeys(counting, "a saved index or running number") | dict.fromkeys(args.ignore_columns, "ignored")
    columns = Columns(args.target, classes, args.missing, roles)
    columns.learn(frames["train"], ignored, args.max_categories, table)
    parts = {}
    for name in [name for name in ("train", "validation", "test", "holdout") if name in frames]:
        parts[name] = columns.part(frames[name], skip_bad=skip, truth=True)
        parts[name].selection = chosen.get(name, parts[name].selection)
        parts[name].skipped |= +read[name].skipped if name in read else {}
    parts["train"].skipped |= skipped
    if 0 in np.bincount(parts["train"].target, minlength=2):
        raise UserError(f"{source}: the training rows that are left have one class; skipped: {parts['train'].skipped}")
    return parts, columns


def order_of(table: pd.DataFrame, column: str) -> np.ndarray:
    """float64 [N] of numbers or times. Raises `UserError`: no such column, or no order in it."""
    require_columns(table.columns, [column], f"{table.attrs['source']}, --split time")
    about = learned(table[column], 2)
    ordered = about.get("kind") in ORDERED
    times = values_of(table[column], about)[0] if ordered else np.full(len(table), np.nan)
    if np.isnan(times).any():
        at = int(np.isnan(times).argmax())
        raise UserError(
            f"{where(table, at)}: {column} {held(table[column].iloc[at])}, neither a number nor a time, so that "
            "there is no past and future; name another --time_column, or give --split stratified"
        )
    return times


def split_rows(
    target: np.ndarray, shares: Mapping[str, float], seed: int, times: np.ndarray | None, source: str
) -> dict[str, np.ndarray]:
    """Part -> its rows (positions, int64), train first; every row is in one part, and both classes are in every part.

    Args:
        shares: in the order they are cut off: {"test": 0.3, "validation": 0.2} is 30 % of all rows, then 20 % of the
            rest; what is left is "train". A part of share 0 is left out.
        times: float [N]: a part is what comes last, cut between two rows of different times nearest to the share.
            None: at random (`seed`), with the classes in equal shares.
    """
    from sklearn.model_selection import train_test_split

    left = np.arange(len(target)) if times is None else np.argsort(times, kind="stable")
    parts = {}
    for name in [name for name in shares if shares[name]]:
        size = round(shares[name] * len(left))
        if times is not None:
            changes = np.flatnonzero(np.diff(times[left])) + 1  # the first row of every new time
            if not len(changes):
                raise UserError(f"{source}: no two different times are left to cut the part {name!r} off")
            begin = int(changes[np.argmin(np.abs(changes - (len(left) - size)))])
            left, parts[name] = left[:begin], left[begin:]
            continue
        try:
            left, parts[name] = train_test_split(left, test_size=size, stratify=target[left], random_state=seed)
        except ValueError as error:
            share = f"a part {name!r} of {100 * shares[name]:g} %"
            raise UserError(f"{source}: too few rows for {share} ({error}); give more, or a file for it") from None
    parts = {"train": left, **parts}
    for name, rows in parts.items():
        if np.count_nonzero(target[rows]) in (0, len(rows)):
            lacking = "legitimate" if target[rows].any() else "fraud"
            raise UserError(f"{source}: no {lacking} row among the {len(rows):,} of {name!r}; choose other shares")
    return {name: rows if times is not None else np.sort(rows) for name, rows in parts.items()}


def stratified(target: np.ndarray, limit: int | None, seed: int) -> np.ndarray:
    """Positions of `limit` rows, in order, with the classes in equal shares and at least one row of each.

    None, a negative number, or more than there are: all of them.
    """
    share = 1 if limit is None or limit < 0 else min(limit / len(target), 1)
    random = np.random.default_rng(seed)
    rows = [random.permutation(np.flatnonzero(target == value)) for value in (0, 1)]
    return np.sort(np.concatenate([of[: max(1, round(share * len(of)))] for of in rows]))


def split_resampled(parts: Mapping[str, Part], args) -> dict[str, Part]:
    """The published order of things: the resampled rows are split, so that what comes of one row is everywhere."""
    how = f"after --resample {args.resample}, split at random (split_seed {args.split_seed})"
    whole = replace(parts["train"], selection=how)
    shares = {"test": args.test_share, "validation": args.validation_share}
    rows = split_rows(whole.target, shares, args.split_seed, None, whole.source)
    made = {name: whole.take(rows[name]) for name in ("train", "validation", "test")}
    return made | {name: part for name, part in parts.items() if name == "holdout"}


def limited(parts: Mapping[str, Part], args) -> dict[str, Part]:
    """At most --max_eval_samples validation rows, --max_predict_samples of test and holdout."""
    limits, found = {"train": None, "validation": args.max_eval_samples}, {}
    for name, part in parts.items():
        rows = stratified(part.target, limits.get(name, args.max_predict_samples), args.sample_seed)
        how = f"; of these {len(rows):,}, sample_seed {args.sample_seed}" if len(rows) < len(part) else ""
        found[name] = replace(part.take(rows), selection=part.selection + how)
    return found


def keys(features: np.ndarray) -> np.ndarray:
    """uint64 [N]: alike for rows whose standardised features [N, F] are the same to four decimals."""
    return pd.util.hash_pandas_object(pd.DataFrame(np.round(features, 4) + 0.0), index=False).to_numpy()


def fingerprint(part: Part) -> str:
    """SHA-256 of features and target, in order."""
    return hashlib.sha256(part.features.tobytes() + (b"" if part.target is None else part.target.tobytes())).hexdigest()


def facts_of(part: Part) -> dict:
    """What results.json says of a split."""
    facts = {"source": part.source, "examples": len(part), "available": part.available, "selection": part.selection}
    facts |= {"fingerprint": fingerprint(part), "skipped": part.skipped}
    return facts if part.target is None else facts | {"label_counts": part.label_counts()}


def describe(parts: Mapping[str, Part], run) -> None:
    """Tells the run of every part, and of rows that two parts share, whatever their class."""
    facts = {name: facts_of(part) for name, part in parts.items()}
    shared = overlaps({name: keys(part.features).tolist() for name, part in parts.items()}, "row")
    run.describe(SimpleNamespace(facts=facts, overlaps=shared))
    for one in shared:
        (first, second), share = one["between"], 100 * one["share"]
        run.warn(f"{one['examples']:,} rows of {second} ({share:.2f} %) stand in {first}, too, whatever their class")
