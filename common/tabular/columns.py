"""What the columns of a table mean to a model: learned from the training rows alone.

Numbers and timestamps are standardised, missing ones get the median and a feature that says so; text becomes a feature
for each frequent value.
"""

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from pandas.tseries.api import guess_datetime_format

from common.errors import UserError
from common.files import listed, require_columns, where

CLASSES = ("legitimate", "fraud")
INDEX = re.compile(r"|unnamed: [\d.]+|index|(__index_)?level_\d+(__)?|row[._]?(id|numbers?|names?)", re.IGNORECASE)
ROLES = ("time", "amount")  # what columns may be beside features
UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}  # a second has so many
ARRAYS = ("features", "target", "time", "amount", "real")  # of a part, by rows
OTHER, MISSING = "(other)", "(missing)"  # categories
LARGEST, FARTHEST = 1e30, 1e9  # of a cell: a square of more is infinite in float32; deviations from the mean
MOSTLY = 0.9  # from this share of cells on a column of text is one of numbers, or of times, with mistakes in it
TELLING = 0.995  # area under ROC of a feature that almost equals the target


@dataclass
class Part:
    """N rows that a model takes."""

    facts: dict  # for results.json: where they come from, how many good ones are there, which these are, those skipped
    features: np.ndarray  # float32 [N, F], standardised
    target: np.ndarray | None  # int8 [N], 1 = fraud; None where it is unknown
    time: np.ndarray  # float64 [N], seconds; NaN where there is none, as in
    amount: np.ndarray  # float64 [N]
    real: np.ndarray  # bool [N], false for rows that resampling made
    shown: pd.DataFrame  # N rows for predictions.csv, by (file, row): all columns that are no features
    unknown: dict[str, int] = field(default_factory=dict)  # column -> cells that training had not: new, or first empty

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: np.ndarray) -> "Part":
        """The rows at these positions."""
        arrays = {name: None if getattr(self, name) is None else getattr(self, name)[rows] for name in ARRAYS}
        return replace(self, shown=self.shown.iloc[rows], **arrays)

    def label_counts(self) -> dict[str, int]:
        return dict(zip(CLASSES, np.bincount(self.target, minlength=2).tolist()))


@dataclass
class Columns:
    """How rows of a table become features."""

    target: str
    classes: list[str]  # the two values of the target, fraud last
    missing: str  # what is done with an empty cell: impute, error or skip
    roles: dict[str, str] = field(default_factory=dict)  # of `ROLES` -> columns, which need not be features
    # name -> {"kind": number, time or category, what was learned, "features": name -> (mean, scale)}
    columns: dict[str, dict] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)  # name -> why it is no feature

    @property
    def features(self) -> list[str]:
        """Names of the F features."""
        return [name for about in self.columns.values() for name in about["features"]]

    def learn(self, rows: pd.DataFrame, ignored: Mapping, max_categories: int, kinds: Mapping = {}) -> None:
        """Learns from training rows; ignored: column -> why; kinds: column -> its `reading`. Raises `UserError`."""
        for name in rows.columns.drop(self.target):
            (about, values), features = learned(rows[name], max_categories, kinds.get(name)), {}
            why = ignored.get(name) or about.get("useless")
            for feature, encoded in {} if why else _encoded(name, values, about).items():
                mean, scale = float(encoded.mean()), float(encoded.std())
                if scale > 1e-12 * abs(mean) or np.isinf(values).any():  # `part` says these
                    features[feature] = [mean, scale or 1.0]
            if not features:
                self.left_out[name] = why or "one value throughout"
            if features or name in self.roles.values():
                self.columns[name] = about | {"features": features}
        if not self.features:
            raise UserError(f"no column is left to learn from beside the target {self.target!r}")

    def notices(self) -> list[str]:
        """What was left out and what was encoded, in sentences."""
        used = [(name, about) for name, about in self.columns.items() if about["features"]]
        found = [(f"left out, {why}", name) for name, why in self.left_out.items() if why != "ignored"]
        found += [(f"times, read as {a['format']}", name) for name, a in self.columns.items() if "format" in a]
        found += [("text, a feature for each frequent value", name) for name, about in used if "levels" in about]
        if self.missing == "impute":
            found += [("missing cells, filled and marked", name) for name, about in used if about["missing"]]
        return [f"{words}: {listed(n for w, n in found if w == words)}" for words in dict.fromkeys(w for w, _ in found)]

    def part(self, rows: pd.DataFrame, *, skip_bad: bool, truth: bool | None = None) -> Part:
        """The rows as features; truth: whether the target has to be there (None: where it is). Raises `UserError`: no
        such column; a cell that cannot be computed with, by its row, unless skip_bad."""
        source, used = rows.attrs["source"], [name for name, about in self.columns.items() if about["features"]]
        if truth is None:
            truth = self.target in rows.columns and rows[self.target].notna().any()
        scored = [self.target, self.roles.get("amount", self.target)] if truth else []
        require_columns(rows.columns, [*dict.fromkeys([*used, *scored])], source)
        values = {name: values_of(rows[name], about) for name, about in self.columns.items() if name in rows.columns}
        classes = class_texts(rows[self.target]) if truth else None
        good, skipped = self._usable(rows, values, classes, skip_bad)
        rows = rows[good]
        features, unknown = [], {}
        for name in used:
            about, kept = self.columns[name], values[name][good]
            encoded = _encoded(name, kept, about)
            for feature, (mean, scale) in about["features"].items():
                features.append(np.clip((encoded[feature] - mean) / scale, -FARTHEST, FARTHEST).astype(np.float32))
            is_filled = about["missing"] and about["kind"] != "category"
            unknown[name] = 0 if is_filled else int(np.isnan(kept).sum())
        target = (classes[good] == self.classes[1]).to_numpy(np.int8) if truth else None
        none = np.full(len(rows), np.nan)
        time, amount = (values[name][good] if (name := self.roles.get(of)) in values else none for of in ROLES)
        shown = rows[[name for name in rows if name not in {self.target, *used} - {*self.roles.values()}]]
        facts = {"source": source, "available": len(rows), "selection": "the whole file", "skipped": skipped}
        return Part(facts, np.column_stack(features), target, time, amount, np.ones(len(rows), bool), shown, unknown)

    def _usable(self, rows: pd.DataFrame, values: dict, classes: pd.Series | None, skip_bad: bool) -> tuple:
        """bool [N], the rows that can be computed with, and reason -> how many of the others; or raises `UserError`."""
        empty = "a missing cell (filled if trained with --missing impute)"
        neither = f"not {' or '.join(map(repr, self.classes))}"
        checks = [] if classes is None else [(self.target, ~classes.isin(self.classes).to_numpy(), neither)]
        for name, of in values.items():
            checks.append((name, np.isinf(of), f"no {self.columns[name]['kind']} to compute with"))
            if self.columns[name]["features"] and self.missing != "impute":
                checks.append((name, rows[name].isna().to_numpy(), empty))
        good, skipped = np.ones(len(rows), dtype=bool), Counter()
        for name, bad, reason in checks:
            if bad.any() and not skip_bad and (reason != empty or self.missing == "error"):
                at = int(bad.argmax())
                problem = f"{where(rows, at)}: {name} {held(rows[name].iloc[at])}, {reason}"
                raise UserError(f"{problem}; mend it or pass --on_bad_example skip")
            skipped[reason] += int((bad & good).sum())
            good &= ~bad
        return good, dict(+skipped)

    def suspicions(self, part: Part) -> list[str]:
        """A sentence if a feature alone almost equals the target."""
        from sklearn.metrics import roc_auc_score

        areas = [roc_auc_score(part.target, values) for values in part.features.T]
        found = [name for name, area in zip(self.features, areas) if max(area, 1 - area) >= TELLING]
        is_known = "is it known before anybody knows of the fraud? Otherwise leave it out by --ignore_columns"
        return [f"almost the target {self.target} itself: {listed(found)}; {is_known}"] if found else []

    def categories(self) -> np.ndarray:
        """bool [F]: the features that are 0 or 1 by nature, between which nothing lies."""
        return np.array([name not in self.columns or "levels" in self.columns[name] for name in self.features])


def held(cell: object) -> str:
    if np.ndim(cell) == 0 and pd.isna(cell):
        return "is empty, or a word for it, such as NA or None"
    return f"holds {cell[:60]!r}" if isinstance(cell, str) else f"holds {cell}"


def class_texts(cells: pd.Series) -> pd.Series:
    """str [N]: one spelling for 1, 1.0, True, "1.0" and "true"; "" for an empty cell."""
    texts = cells.dropna().astype(str)
    return texts.map({text: _text(text) for text in texts.unique()}).reindex(cells.index, fill_value="")


def _text(text: str) -> str:
    text = text.strip().strip("'\"")
    text = {"true": "1", "false": "0"}.get(text.casefold(), text)
    try:
        return str(int(float(text))) if float(text).is_integer() else text
    except ValueError:
        return text


def classes_of(cells: pd.Series, positive: str | None, source: str) -> list[str]:
    """The two values of a target, fraud last. Raises `UserError`: not two, or it is not clear which one is fraud."""
    texts, wanted = class_texts(cells), "1" if positive is None else _text(positive)
    counts = texts[texts != ""].value_counts()
    if len(counts) == 2 and wanted in counts and (positive is not None or "0" in counts):
        return [next(value for value in counts.index if value != wanted), wanted]
    seen = ", ".join(f"{value[:40]!r} ({count:,} rows)" for value, count in counts.sort_index()[:8].items())
    rarest = f"{counts.index[-1][:40]!r} is in {where(cells, int((texts == counts.index[-1]).argmax()))}"
    remedy = "it must hold 0 and 1, or two values of which --positive VALUE says which one means fraud"
    raise UserError(f"{source}: the target {cells.name} holds {seen}; {rarest}; {remedy}")


def is_index(name: str, cells: pd.Series) -> bool:
    """Whether a column only counts the rows: by its name, or whole numbers that all follow on each other."""
    is_number = pd.api.types.is_any_real_numeric_dtype(cells.dtype)
    numbers = cells if is_number else pd.to_numeric(cells.astype(str), errors="coerce")  # 0001, 0002
    counts = len(cells) >= 50 and numbers.is_unique and numbers.max() - numbers.min() == len(cells) - 1
    return bool(INDEX.fullmatch(name) or counts)


def reading(cells: pd.Series, role: str | None = None) -> tuple[dict | None, np.ndarray]:
    """How a column of numbers or times is read, and its `values_of`; None for a column of something else."""
    present, is_number = cells.dropna(), pd.api.types.is_numeric_dtype(cells.dtype)
    kinds = [{"kind": "number"}]
    if len(present) and not is_number:
        with warnings.catch_warnings(action="ignore"):  # that the day is first
            cell = str(present.iloc[0])
            forms = ["ISO8601", guess_datetime_format(cell), guess_datetime_format(cell, dayfirst=True)]
        kinds += [{"kind": "time", "format": form} for form in forms if form]
    read = [(kind, values_of(cells, kind)) for kind in kinds]
    kind, values = min(read, key=lambda one: np.isinf(one[1]).sum())
    good = np.abs(values[np.isfinite(values)])
    if not len(present) or not (is_number or len(good) >= MOSTLY * len(present)):
        return None, values
    if (role, kind["kind"]) == ("time", "number"):  # 1e11 seconds after 1970 is the year 5138
        unit = next((unit for unit, size in UNITS.items() if np.median(good) < 1e11 * size), "nanoseconds")
        kind, values = kind | {"format": unit}, values / UNITS[unit]
    return kind, values


def learned(cells: pd.Series, max_categories: int, kind: dict | None = None) -> tuple[dict, np.ndarray]:
    """What a column is, {"kind": ...} or {"useless": why it can be no feature}, and its `values_of`."""
    present = cells.dropna()
    if not len(present):
        return (kind or {}) | {"useless": "empty"}, np.full(len(cells), np.nan)
    missing = len(present) < len(cells)
    kind, values = (kind, values_of(cells, kind)) if kind else reading(cells)
    if kind:
        return kind | {"median": float(np.median(values[np.isfinite(values)])), "missing": missing}, values
    counts = class_texts(present).str.casefold().value_counts()
    if len(counts) > max(len(present) / 2, 2):
        return {"useless": "text, or numbers with text among them, that hardly ever repeats"}, values
    values = sorted(counts.index, key=lambda value: (-counts[value], value))
    levels = values[:max_categories] + [OTHER] * (len(values) > max_categories) + [MISSING] * missing
    about = {"kind": "category", "levels": levels, "missing": missing}
    return about, values_of(cells, about)


def values_of(cells: pd.Series, about: dict) -> np.ndarray:
    """float64 [N]: numbers, seconds since 1970, or places among the levels; NaN where a cell is empty, or of no level,
    and infinite where it cannot be computed with."""
    if about["kind"] == "category":
        levels = {level: at for at, level in enumerate(about["levels"])}
        texts = class_texts(cells).str.casefold()
        texts = texts.where(texts.isin(levels), OTHER).mask(cells.isna(), MISSING)
        return texts.map(levels).to_numpy(np.float64)
    if about["kind"] == "time":
        times = pd.to_datetime(cells.astype(str), format=about["format"], errors="coerce", utc=True)
        numbers = (times - pd.Timestamp("1970-01-01", tz="UTC")) / pd.Timedelta(seconds=1)
    elif pd.api.types.is_numeric_dtype(cells.dtype):
        numbers = cells
    else:
        texts = cells.astype(str).str.strip().str.lower().replace({"true": "1", "false": "0"})
        numbers = pd.to_numeric(texts, errors="coerce")
    numbers = numbers.to_numpy(dtype=np.float64, na_value=np.nan) / UNITS.get(about.get("format"), 1)
    return np.where(cells.notna() & ~(np.abs(numbers) <= LARGEST), np.inf, numbers)


def _encoded(name: str, values: np.ndarray, about: dict) -> dict[str, np.ndarray]:
    """float64 [N] of every feature that a column may give, by name."""
    if about["kind"] == "category":
        levels = about["levels"]
        levels = levels[:1] if len(levels) == 2 else levels
        return {f"{name}={level}": (values == at).astype(np.float64) for at, level in enumerate(levels)}
    empty = ~np.isfinite(values)
    marked = {f"{name} is missing": empty.astype(np.float64)} if about["missing"] else {}
    return {name: np.where(empty, about["median"], values), **marked}
