"""The parts of a table: which rows are for training, validation and test, by chance or by time; what they share.

Not for reading tables (`tables`), nor for what their columns mean (`columns`).
"""

import hashlib
from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import pandas as pd

from common.data import overlaps, require_columns, where
from common.errors import UserError
from common.tabular.columns import MEND, Columns, Part, class_texts, classes_of, held, is_index, learned, values_of
from common.tabular.tables import Tables

OPENML = "openml:"


def training_parts(args, run) -> tuple[dict[str, Part], Columns]:
    """The parts of the data, train first, and what their columns mean, learned from the training rows.

    Parts with a file of their own are read from it; the others are cut from the training table, of which
    `--protocol published` keeps only a holdout apart for now (`split_resampled` cuts the others).

    Raises:
        UserError: what is wrong with the tables; a part that would have no fraud or no legitimate row.
    """
    table, source, indexes = _source(args)
    roles = {"time": args.time_column, "amount": args.amount_column}
    roles = {r: n for r, n in roles.items() if n in table.columns or (n is not None and f"{r}_column" in args.explicit)}
    require_columns(table.columns, [args.target, *args.ignore_columns, *roles.values()], source)
    skip, texts = args.on_bad_example == "skip", class_texts(table[args.target])
    if (texts == "").any() and not skip:
        raise UserError(
            f"{where(table, int((texts == '').argmax()))}: {args.target} is empty, and is the target; {MEND}"
        )
    empty = int((texts == "").sum())
    table, texts = (table, texts) if not empty else (table[texts != ""], texts[texts != ""])
    classes = classes_of(table[args.target], args.positive, source)
    target = (texts == classes[1]).astype(np.int8)

    shares = {"test": args.test_share, "validation": args.validation_share}
    if args.protocol == "published":
        shares = {"holdout": args.test_share if args.holdout_share is None else args.holdout_share}
    files = {"validation": args.validation_file, "test": args.test_file, "holdout": args.test_file}
    cut = {name: share for name, share in shares.items() if not files[name]}
    times = order_of(table, args.time_column, source) if args.split == "time" and cut else None
    rows = split_rows(target, cut, args.split_seed, times, source)
    how = f"by {args.time_column}" if times is not None else f"stratified, split_seed {args.split_seed}"
    chosen = {name: f"{len(part):,} of {len(table):,} rows, {how}" for name, part in rows.items()} if cut else {}
    if args.max_train_samples:
        kept = rows["train"][stratified(target[rows["train"]], args.max_train_samples, args.sample_seed)]
        rows["train"], chosen["train"] = kept, f"{len(kept):,} rows, stratified, sample_seed {args.sample_seed}"
    frames = {name: (table.iloc[part], source) for name, part in rows.items()}

    ignored = {name: "a saved index or running number" for name in table.columns if name not in roles.values()
               and (name in indexes or is_index(name, table[name]))}  # fmt: skip
    ignored |= dict.fromkeys(args.ignore_columns, "ignored")
    columns = Columns(args.target, classes, args.missing)
    columns.learn(frames["train"][0], ignored, roles, args.max_categories)
    for name in [name for name in shares if name not in rows and shares[name]]:
        own = Tables(files[name], skip, rows=None)
        frames[name] = own.whole(), own.source
    parts = {}
    for name in [name for name in ("train", "validation", "test", "holdout") if name in frames]:
        parts[name] = columns.part(*frames[name], skip_bad=skip, truth=True)
        run.data["splits"][name] = {"selection": chosen.get(name, "the whole file")}
    parts["train"].skipped |= {"empty target": empty} if empty else {}
    if 0 in np.bincount(parts["train"].target, minlength=2):
        raise UserError(f"{source}: the training rows that are left have one class; skipped: {parts['train'].skipped}")
    return without_copies(parts) if args.drop_duplicates else parts, columns


def _source(args) -> tuple[pd.DataFrame, str, set[str]]:
    """The table for training, where it comes from, and columns that are known to be its index."""
    if args.train_file:
        tables = Tables(args.train_file, args.on_bad_example == "skip", rows=None)
        return tables.whole(), tables.source, tables.indexes
    if not args.dataset.startswith(OPENML):
        from common.hub import load_frame

        table = load_frame(args, "train")
        return table, table.attrs["source"], set()
    from sklearn.datasets import fetch_openml

    try:
        number = int(args.dataset.removeprefix(OPENML))
        table = fetch_openml(data_id=number, target_column=None, data_home=args.cache_dir).frame
    except (OSError, ValueError) as error:  # not a number, no such set, no network
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--dataset {args.dataset}: cannot be loaded from OpenML ({reason}); give local files"
        ) from None
    table.index = pd.MultiIndex.from_product([[args.dataset], range(1, len(table) + 1)], names=["file", "row"])
    return table, args.dataset, set()


def order_of(table: pd.DataFrame, column: str, source: str) -> np.ndarray:
    """float64 [N] of numbers or times. Raises `UserError`: no such column, or no order in it."""
    require_columns(table.columns, [column], f"{source}, --split time")
    about = learned(table[column], 2)
    ordered = not isinstance(about, str) and about["kind"] != "category"
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
        size, share = round(shares[name] * len(left)), 100 * shares[name]
        if times is not None:
            changes = np.flatnonzero(np.diff(times[left])) + 1  # the first row of every new time
            if not len(changes):
                raise UserError(f"{source}: no two different times are left to cut the part {name!r} off")
            begin = int(changes[np.argmin(np.abs(changes - (len(left) - size)))])
            left, parts[name] = left[:begin], left[begin:]
            continue
        if not 2 <= size <= len(left) - 2 or np.bincount(target[left], minlength=2).min() < 2:
            raise UserError(
                f"{source}: {len(left):,} rows, of which {np.count_nonzero(target[left]):,} are fraud, are too few "
                f"for a part {name!r} of {share:g} % with both classes; give more rows or a file for it"
            )
        left, parts[name] = train_test_split(left, test_size=size, stratify=target[left], random_state=seed)
    parts = {"train": left, **parts}
    for name, rows in parts.items():
        if np.count_nonzero(target[rows]) in (0, len(rows)):
            lacking = "legitimate" if target[rows].any() else "fraud"
            raise UserError(f"{source}: no {lacking} row among the {len(rows):,} of {name!r}; choose other shares")
    return {name: rows if times is not None else np.sort(rows) for name, rows in parts.items()}


def stratified(target: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Positions of `limit` rows or all, in order, with the classes in equal shares and at least one row of each."""
    random, share = np.random.default_rng(seed), min(limit / len(target), 1)
    rows = [random.permutation(np.flatnonzero(target == value)) for value in (0, 1)]
    return np.sort(np.concatenate([of[: max(1, round(share * len(of)))] for of in rows]))


def split_resampled(parts: dict[str, Part], args, run) -> dict[str, Part]:
    """The published order of things: the resampled rows are split, so that what comes of one row is everywhere."""
    whole = parts["train"]
    shares = {"test": args.test_share, "validation": args.validation_share}
    rows = split_rows(whole.target, shares, args.split_seed, None, whole.source)
    for name in rows:
        how = f"after --resample {args.resample}, split at random (split_seed {args.split_seed})"
        run.data["splits"][name] = {"selection": how}
    return {name: whole.take(rows[name]) for name in ("train", "validation", "test")} | {
        name: part for name, part in parts.items() if name == "holdout"
    }


def limited(parts: dict[str, Part], args, run) -> dict[str, Part]:
    """At most --max_eval_samples validation rows, --max_predict_samples of test and holdout."""
    limits = {
        "validation": args.max_eval_samples,
        "test": args.max_predict_samples,
        "holdout": args.max_predict_samples,
    }
    for name in [name for name in parts if limits.get(name)]:
        parts[name] = parts[name].take(stratified(parts[name].target, limits[name], args.sample_seed))
        run.data["splits"][name]["selection"] += f"; of these {len(parts[name]):,}, sample_seed {args.sample_seed}"
    return parts


def keys(features: np.ndarray) -> np.ndarray:
    """uint64 [N]: alike for rows whose standardised features [N, F] are the same to four decimals."""
    return pd.util.hash_pandas_object(pd.DataFrame(np.round(features, 4) + 0.0), index=False).to_numpy()


def without_copies(parts: Mapping[str, Part]) -> dict[str, Part]:
    """The parts without copies (features and target) of rows that stand earlier, in the same or another part."""
    found = [keys(part.features) + part.target.astype(np.uint64) for part in parts.values()]
    copies, kept, begin = pd.Series(np.concatenate(found)).duplicated().to_numpy(), {}, 0
    for name, part in parts.items():
        new = ~copies[begin : begin + len(part)]
        begin += len(part)
        kept[name] = part.take(np.flatnonzero(new))
        kept[name].skipped = part.skipped | {"copy of an earlier row": int((~new).sum())}
    return kept


def fingerprint(part: Part) -> str:
    """SHA-256 of features and target, in order."""
    return hashlib.sha256(part.features.tobytes() + (b"" if part.target is None else part.target.tobytes())).hexdigest()


def facts_of(part: Part, selection: str) -> dict:
    """What results.json says of a split."""
    facts = {"source": part.source, "examples": len(part), "available": part.available, "selection": selection}
    facts |= {"fingerprint": fingerprint(part), "skipped": part.skipped}
    return facts if part.target is None else facts | {"label_counts": part.label_counts()}


def describe(parts: Mapping[str, Part], run) -> None:
    """Tells the run of every part, and of rows that two parts share, whatever their class."""
    facts, found = {}, {name: keys(part.features) for name, part in parts.items()}
    for name, part in parts.items():
        group = np.unique(found[name], return_inverse=True)[1]
        rows, frauds = np.bincount(group), np.bincount(group, weights=part.target)
        facts[name] = facts_of(part, run.data["splits"][name]["selection"])
        facts[name]["statistics"] = {
            "copies of other rows": int((rows - 1).sum()),
            "rows that stand elsewhere with the other class": int(rows[(frauds > 0) & (frauds < rows)].sum()),
        }
    shared = overlaps({name: key.tolist() for name, key in found.items()}, "row")
    run.describe(SimpleNamespace(facts=facts, overlaps=shared))
    for one in shared:
        (first, second), share = one["between"], 100 * one["share"]
        run.warn(f"{one['examples']:,} rows of {second} ({share:.2f} %) stand in {first}, too, whatever their class")
