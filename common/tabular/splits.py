"""The parts of a table: which rows are for training, validation and test, by chance or by time; what they share."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd

from common.data import overlaps
from common.errors import UserError
from common.files import require_columns, where, without_bad
from common.hub import load_frame
from common.tabular.columns import ORDERED, Columns, Part, class_texts, classes_of, held, is_index, learned
from common.tabular.tables import Tables


def training_parts(args) -> tuple[dict[str, Part], Columns]:
    """The parts of the data, train first, and what their columns mean, learned from the training rows.

    Parts without a file of their own are cut from the training table; of it `--protocol published` keeps only a holdout
    apart for now (`split_resampled` cuts the others). Raises `UserError`: what is wrong with the tables.
    """
    skip = args.on_bad_example == "skip"
    table = Tables(args.train_file, args).whole() if args.train_file else load_frame(args, "train")
    source = table.attrs["source"]
    roles = {"time": args.time_column, "amount": args.amount_column}
    for role in [role for role in roles if f"{role}_column" not in args.explicit and role != args.split]:
        if roles[role] not in table or learned(table[roles[role]], 2)[0].get("kind") not in ORDERED:
            del roles[role]
    require_columns(table.columns, [args.target, *args.ignore_columns, *roles.values()], source)
    counting = [name for name in table if name in table.attrs.get("indexes", ()) or is_index(name, table[name])]
    ignored = {name: "a saved index or running number" for name in counting if name not in roles.values()}
    ignored |= dict.fromkeys(args.ignore_columns, "ignored")
    empty = np.flatnonzero(class_texts(table[args.target]) == "").tolist()
    problem = "empty target", f"{args.target}, the target, {held(None)}"
    table, skipped = without_bad(table, dict.fromkeys(empty, problem), args.on_bad_example)
    classes = classes_of(table[args.target], args.positive, source)
    target = (class_texts(table[args.target]) == classes[1]).to_numpy(np.int8)

    shares = {"test": args.test_share, "validation": args.validation_share}
    if args.protocol == "published":
        shares = {"holdout": args.holdout_share or args.test_share}
    files = {"validation": args.validation_file, "test": args.test_file, "holdout": args.test_file}
    cut = {name: share for name, share in shares.items() if not files[name]}
    times = order_of(table, args.time_column) if args.split == "time" and cut else None
    rows = split_rows(target, cut, args.split_seed, times, source)
    rows["train"] = rows["train"][stratified(target[rows["train"]], args.max_train_samples, args.sample_seed)]
    frames = {name: table.iloc[part] for name, part in rows.items()}
    frames |= {name: Tables(files[name], args).whole() for name in shares if files[name]}

    columns = Columns(args.target, classes, args.missing, roles)
    columns.learn(frames["train"], ignored, args.max_categories)
    how = f"stratified, split_seed {args.split_seed}" if times is None else f"by {args.time_column}"
    limits, parts = {"train": None, "validation": args.max_eval_samples}, {}
    for name in [name for name in ("train", "validation", "test", "holdout") if name in frames]:
        part = columns.part(frames[name], skip_bad=skip, truth=True)
        parts[name] = part.take(stratified(part.target, limits.get(name, args.max_predict_samples), args.sample_seed))
        of = len(table) if name in rows else len(part)
        parts[name].selection = f"{len(parts[name]):,} of {of:,} rows, {how}, sample_seed {args.sample_seed}"
    parts["train"].skipped |= skipped
    for name, part in parts.items():
        if name != "test" and 0 in np.bincount(part.target, minlength=2):
            skipped = f" (skipped: {part.skipped})" * bool(part.skipped)
            raise UserError(f"{part.source}: the {name} rows{skipped} have one class; give rows of both")
    return parts, columns


def order_of(table: pd.DataFrame, column: str) -> np.ndarray:
    """float64 [N] of numbers or times. Raises `UserError`: a cell has no order."""
    about, times = learned(table[column], 2)
    ordered = np.isfinite(times) & (about.get("kind") in ORDERED)
    if not ordered.all():
        at = int(ordered.argmin())
        problem = f"{column} {held(table[column].iloc[at])}, neither a number nor a time, so that there is no past"
        raise UserError(f"{where(table, at)}: {problem}; name another --time_column, or give --split stratified")
    return times


def split_rows(
    target: np.ndarray, shares: Mapping[str, float], seed: int, times: np.ndarray | None, source: str
) -> dict[str, np.ndarray]:
    """Part -> its rows (positions, int64), train first; every row is in one part, and both classes are in every part.

    shares: {"test": 0.3, "validation": 0.2} is 30 % of all rows, then 20 % of the rest for these; "train" is what is
    left. times: float [N]: a part is what comes last, cut between two rows of different times nearest to the share;
    None: at random, with the classes in equal shares.
    """
    from sklearn.model_selection import train_test_split

    left = np.arange(len(target)) if times is None else np.argsort(times, kind="stable")
    parts = {}
    for name, share in shares.items():
        size = round(share * len(left))
        if times is not None:
            changes = np.flatnonzero(np.diff(times[left])) + 1  # the first row of every new time
            begin = changes[np.argmin(np.abs(changes - (len(left) - size)))] if len(changes) else 0
            left, parts[name] = left[:begin], left[begin:]
            continue
        try:
            left, parts[name] = train_test_split(left, test_size=size, stratify=target[left], random_state=seed)
        except ValueError as error:
            share = f"a part {name!r} of {100 * share:g} %"
            raise UserError(f"{source}: too few rows for {share} ({error}); give more, or a file for it") from None
    parts = {"train": left, **parts}
    for name, rows in parts.items():
        if len(np.unique(target[rows])) < 2:
            problem = f"the {len(rows):,} rows of {name!r} are not of both classes"
            raise UserError(f"{source}: {problem}; choose other shares")
    return {name: rows if times is not None else np.sort(rows) for name, rows in parts.items()}


def stratified(target: np.ndarray, limit: int | None, seed: int) -> np.ndarray:
    """Positions of `limit` rows (None, negative, or too many: all), in order, with the classes in equal shares and at
    least one row of each."""
    share = 1 if limit is None or limit < 0 else min(limit / len(target), 1)
    random = np.random.default_rng(seed)
    rows = [random.permutation(np.flatnonzero(target == value)) for value in (0, 1)]
    return np.sort(np.concatenate([of[: max(1, round(share * len(of)))] for of in rows]))


def split_resampled(parts: Mapping[str, Part], args) -> dict[str, Part]:
    """The published order of things: the resampled rows are split, so that what comes of one row is everywhere."""
    how = f"after --resample {args.resample}, split at random (split_seed {args.split_seed})"
    whole, shares = parts["train"], {"test": args.test_share, "validation": args.validation_share}
    rows = split_rows(whole.target, shares, args.split_seed, None, whole.source)
    made = {name: replace(whole.take(rows[name]), selection=how) for name in ("train", "validation", "test")}
    return made | {name: part for name, part in parts.items() if name == "holdout"}


def facts_of(part: Part) -> dict:
    """What results.json says of a split; the fingerprint is that of features and target, in order."""
    counts = {} if part.target is None else {"label_counts": part.label_counts()}
    content = part.features.tobytes() + (b"" if part.target is None else part.target.tobytes())
    facts = {"source": part.source, "examples": len(part), "available": part.available, "selection": part.selection}
    return facts | {"fingerprint": hashlib.sha256(content).hexdigest(), "skipped": part.skipped} | counts


def describe(parts: Mapping[str, Part], run) -> None:
    """Tells the run of every part, and of rows that two parts share, whatever their class."""
    facts, keys = {}, {}
    for name, part in parts.items():
        rounded = pd.DataFrame(np.round(part.features, 4) + 0.0)  # a copy may differ in its last digits
        facts[name], keys[name] = facts_of(part), pd.util.hash_pandas_object(rounded, index=False).tolist()
    shared = overlaps(keys, "row")
    run.describe(SimpleNamespace(facts=facts, overlaps=shared))
    for one in shared:
        (first, second), share = one["between"], 100 * one["share"]
        run.warn(f"{one['examples']:,} rows of {second} ({share:.2f} %) stand in {first}, too, whatever their class")
