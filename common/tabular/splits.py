"""The parts of a table: which rows are for training, validation and test, by chance or by time; what they share."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd

from common.data import overlaps
from common.errors import UserError
from common.files import require_columns, without_bad
from common.hub import load_frame
from common.tabular.columns import Columns, Part, class_texts, classes_of, held, is_index, reading, values_of
from common.tabular.tables import Tables, typed


def training_parts(args) -> tuple[dict[str, Part], Columns]:
    """The parts of the data, train first, and what their columns mean, learned from the training rows.

    Parts without a file of their own are cut from the training table; of it `--protocol published` keeps only a holdout
    apart for now (`split_resampled` cuts the others). Raises `UserError`: what is wrong with the tables.
    """
    table = Tables(args.train_file, args).whole() if args.train_file else typed(load_frame(args, "train"))
    source = table.attrs["source"]
    require_columns(table.columns, [args.target, *args.ignore_columns], source)
    counting = [name for name in table if name in table.attrs.get("indexes", ()) or is_index(name, table[name])]
    roles, kinds = {"time": args.time_column, "amount": args.amount_column}, {}
    needs = {"time": {"time_column", "alerts_per_day"}, "amount": {"amount_column"}}
    for role, name in [*roles.items()]:
        is_asked = role == args.split or not needs[role].isdisjoint(args.explicit)
        require_columns(table.columns, [name] * is_asked, source)
        kinds[name] = reading(table[name], role)[0] if name in table else None
        if (kinds[name] or {}).get("kind") not in ("number", role):
            del roles[role]
            if is_asked:
                raise UserError(f"--{role}_column {name}: has no numbers or times that can be read; name another")
    ignored = {name: "a saved index or running number" for name in counting if name not in roles.values()}
    ignored |= dict.fromkeys(args.ignore_columns, "ignored")

    shares = {"test": args.test_share, "validation": args.validation_share}
    if args.protocol == "published":
        shares = {"holdout": args.holdout_share or args.test_share}
    files = {"validation": args.validation_file, "test": args.test_file, "holdout": args.test_file}
    cut = {name: share for name, share in shares.items() if not files[name]}
    by_time = args.time_column if args.split == "time" and cut else None
    empty = class_texts(table[args.target]) == ""
    problems = {at: ("empty target", f"{args.target}, the target, {held(None)}") for at in np.flatnonzero(empty)}
    for at in np.flatnonzero(~np.isfinite(values_of(table[by_time], kinds[by_time]))) if by_time else ():
        problems[at] = "no time", f"{by_time} {held(table[by_time].iloc[at])}, so that there is no past"
    table, skipped = without_bad(table, problems, args.on_bad_example)
    classes = classes_of(table[args.target], args.positive, source)
    target = (class_texts(table[args.target]) == classes[1]).to_numpy(np.int8)
    times = values_of(table[by_time], kinds[by_time]) if by_time else None
    rows = split_rows(target, cut, args.split_seed, times, source)
    rows["train"] = rows["train"][stratified(target[rows["train"]], args.max_train_samples, args.sample_seed)]
    frames = {name: table.iloc[part] for name, part in rows.items()}
    frames |= {name: Tables(files[name], args).whole() for name in shares if files[name]}

    columns = Columns(args.target, classes, args.missing, roles)
    columns.learn(frames["train"], ignored, args.max_categories, kinds)
    how = f", by {by_time}" if by_time else f", stratified, split_seed {args.split_seed}"
    limits, parts = {"train": None, "validation": args.max_eval_samples}, {}
    for name in [name for name in ("train", "validation", "test", "holdout") if name in frames]:
        part = columns.part(frames[name], skip_bad=args.on_bad_example == "skip", truth=True)
        part.facts["skipped"] |= skipped if name == "train" else {}
        of_both = np.bincount(part.target, minlength=2) > 0
        if not (of_both.any() if name == "test" else of_both.all()):
            left_out = f" (skipped: {part.facts['skipped']})" * bool(part.facts["skipped"])
            raise UserError(f"{part.facts['source']}: the {name} rows{left_out} are not of both classes; give others")
        parts[name] = part.take(stratified(part.target, limits.get(name, args.max_predict_samples), args.sample_seed))
        of = f"{len(table):,} rows{how}" if cut and name in rows else f"{len(part):,} rows"
        parts[name].facts["selection"] = f"{len(parts[name]):,} of {of}, sample_seed {args.sample_seed}"
    return parts, columns


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
    how = {"selection": f"after --resample {args.resample}, split at random (split_seed {args.split_seed})"}
    whole, shares = parts["train"], {"test": args.test_share, "validation": args.validation_share}
    rows = split_rows(whole.target, shares, args.split_seed, None, whole.facts["source"])
    made = {name: replace(whole.take(rows[name]), facts=whole.facts | how) for name in ("train", "validation", "test")}
    return made | {name: part for name, part in parts.items() if name == "holdout"}


def facts_of(part: Part) -> dict:
    """What results.json says of a split; the fingerprint is that of features and target, in order."""
    counts = {} if part.target is None else {"label_counts": part.label_counts()}
    content = part.features.tobytes() + (b"" if part.target is None else part.target.tobytes())
    return part.facts | {"examples": len(part), "fingerprint": hashlib.sha256(content).hexdigest()} | counts


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
