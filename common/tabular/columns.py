"""What the columns of a table mean to a model: learned from the training rows alone (`network.Detector` keeps it).

Numbers and timestamps are standardised, missing ones get the median and a feature that says so; text becomes a feature
for each frequent value. Not for reading tables (`tables`), nor for which row is in which part (`splits`).
"""

import re
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from common.data import require_columns, where, without_bad
from common.errors import UserError

CLASSES = ("legitimate", "fraud")
INDEX = re.compile(r"|unnamed: \d+|index|level_\d+|__index_level_\d+__|row_?(id|number)", re.IGNORECASE)
ORDERED = ("number", "time")
SUBSECONDS = (1e11, 1e14, 1e17)  # since 1970, of a time in milliseconds and so on
LARGEST, FARTHEST = 1e30, 1e9  # of a cell: a square of more is infinite in float32; deviations from the mean
MOSTLY = 0.9  # from this share of cells on a column of text is one of numbers, or of times, with mistakes in it
TELLING = 0.995  # area under ROC of a feature that almost equals the target
DAYS = [f"%{a}{s}%{b}{s}%{y}" for s in "/-." for y in "Yy" for a, b in ("md", "dm")] + ["%d-%b-%Y", "%d %b %Y"]
CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")


@dataclass
class Part:
    """N rows that a model takes.

    Attributes:
        source: where they come from, in words; available: how many good rows are there; selection: which these are.
        features: float32 [N, F], standardised.
        target: int8 [N], 1 = fraud; None where it is unknown.
        shown: N rows of what is carried into predictions.csv: row, perhaps file, and all columns that are no features.
        time, amount: float64 [N], time in seconds; None without such a column.
        skipped: reason -> rows left out.
        real: bool [N], false for rows that resampling made.
        unknown: what training had not, "a value of shop" -> how many rows have it, where no feature stands for it.
    """

    source: str
    available: int
    features: np.ndarray
    target: np.ndarray | None
    shown: pd.DataFrame
    time: np.ndarray | None
    amount: np.ndarray | None
    skipped: dict[str, int]
    real: np.ndarray
    unknown: dict[str, int] = field(default_factory=dict)
    selection: str = "the whole file"

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: np.ndarray) -> "Part":
        """The rows at these positions."""
        names = ("features", "target", "time", "amount", "real")
        arrays = {name: None if getattr(self, name) is None else getattr(self, name)[rows] for name in names}
        return replace(self, shown=self.shown.iloc[rows], **arrays)

    def label_counts(self) -> dict[str, int]:
        return dict(zip(CLASSES, np.bincount(self.target, minlength=2).tolist()))


@dataclass
class Columns:
    """How rows of a table become features.

    Attributes:
        target: the column with the class; classes: its two values, fraud last.
        missing: what is done with an empty cell: impute, error or skip.
        roles: "time" and "amount" -> the columns of numbers or times that are so; they need not be features.
        columns: name -> {"kind": number, time or category, what was learned, "features": name -> (mean, scale)}.
        left_out: column -> why it is no feature.
    """

    target: str
    classes: list[str]
    missing: str
    roles: dict[str, str] = field(default_factory=dict)
    columns: dict[str, dict] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def features(self) -> list[str]:
        """Names of the F features."""
        return [name for about in self.columns.values() for name in about["features"]]

    def learn(
        self, rows: pd.DataFrame, ignored: dict[str, str], max_categories: int, table: pd.DataFrame | None = None
    ) -> None:
        """Learns from training rows. ignored: column -> why; table: all rows, where the training rows are some of them,
        which show how times are written. Raises `UserError`: no feature; a role without order."""
        for name in rows.columns.drop(self.target):
            about, features = learned(rows[name], max_categories, None if table is None else table[name]), {}
            why = ignored.get(name) or about.get("useless")
            values, wrong = (None, None) if why else values_of(rows[name], about)
            for feature, encoded in {} if why else _encoded(name, about, values).items():
                mean, scale = float(encoded.mean()), float(encoded.std())
                if scale > 1e-12 * abs(mean) or wrong.any():  # what is wrong is said by `part`
                    features[feature] = [mean, scale or 1.0]
            if not features:
                self.left_out[name] = why or "one value throughout"
            if features or name in self.roles.values():
                self.columns[name] = about | {"features": features}
        for role, name in self.roles.items():
            if self.columns[name].get("kind") not in ORDERED:
                raise UserError(f"--{role}_column {name}: holds neither numbers nor times; name another")
        if not self.features:
            raise UserError(f"no column is left to learn from beside the target {self.target!r}")

    def notices(self) -> list[str]:
        """What was left out and what was encoded, in sentences."""
        said = {"time": "times, as seconds", "category": "text, a feature for each frequent value"}
        found = [(f"left out, {why}", name) for name, why in self.left_out.items() if why != "ignored"]
        used = [(name, about) for name, about in self.columns.items() if about["features"]]
        found += [(said[about["kind"]], name) for name, about in used if about["kind"] in said]
        found += [("missing cells, filled and marked", name) for name, about in used if about["missing"]]
        unsure = "times, read with the month first, though the day might be; if so, write them as 2024-01-31"
        found += [(unsure, name) for name, about in self.columns.items() if about.get("unsure")]
        return [f"{words}: {few(n for w, n in found if w == words)}" for words in dict.fromkeys(w for w, _ in found)]

    def part(self, rows: pd.DataFrame, *, skip_bad: bool, truth: bool | None = None) -> Part:
        """The rows as features; truth: whether the target has to be there (None: where it is).

        Raises:
            UserError: a column is missing; a cell that cannot be computed with, of an unknown class or, with `missing`
                "error", empty, by its row, unless skip_bad: then its row is left out and counted.
        """
        used = [name for name, about in self.columns.items() if about["features"]]
        require_columns(rows.columns, [*used, *([self.target] if truth else [])], rows.attrs["source"])
        if truth is None:
            truth = self.target in rows.columns and rows[self.target].notna().any()
        rows, skipped = without_bad(rows, self._problems(rows, truth), "skip" if skip_bad else "stop")
        values = {name: values_of(rows[name], about)[0] for name, about in self.columns.items() if name in rows.columns}
        features, unknown = [], {}
        for name in used:
            about, encoded = self.columns[name], _encoded(name, self.columns[name], values[name])
            for feature, (mean, scale) in about["features"].items():
                deviations = np.clip((encoded[feature] - mean) / scale, -FARTHEST, FARTHEST)
                features.append(deviations.astype(np.float32))
            if about["kind"] == "category" and not about["other"]:
                unknown[f"a value of {name}"] = int((values[name] == len(about["values"])).sum())
            if not about["missing"]:
                unknown[f"an empty cell of {name}"] = int(np.isnan(values[name]).sum())
        target = (class_texts(rows[self.target]) == self.classes[1]).astype(np.int8) if truth else None
        time, amount = (values.get(self.roles.get(role)) for role in ("time", "amount"))
        if time is not None:  # numbers too large for seconds are milliseconds, microseconds or nanoseconds
            median = abs(self.columns[self.roles["time"]]["median"])
            time = time / 1e3 ** np.digitize(median, SUBSECONDS)
        hidden = {self.target, *used} - {*self.roles.values()}
        shown = rows[[name for name in rows.columns if name not in hidden]]
        shown = shown.rename(columns={name: f"{name} (data)" for name in rows.index.names}).reset_index()
        shown = shown if shown["file"].nunique() > 1 else shown.drop(columns="file")
        known = target, shown, time, amount, skipped, np.ones(len(rows), dtype=bool), unknown
        return Part(rows.attrs["source"], len(rows), np.column_stack(features), *known)

    def _problems(self, rows: pd.DataFrame, truth: bool) -> dict[int, tuple[str, str | None]]:
        """Rows that cannot be used, as `without_bad` wants them."""
        checks, found = [], {}
        if truth:
            wrong = ~np.isin(class_texts(rows[self.target]), self.classes)
            checks.append((self.target, wrong, f"not {' or '.join(map(repr, self.classes))}"))
        for name in [name for name in self.columns if name in rows.columns]:
            about = self.columns[name]
            checks.append((name, values_of(rows[name], about)[1], f"no {about['kind']} to compute with"))
            if about["features"] and self.missing != "impute":
                checks.append((name, rows[name].isna().to_numpy(), "a missing cell (--missing impute fills it)"))
        for name, bad, reason in checks:
            left_out = reason.startswith("a missing") and self.missing == "skip"
            for at in np.flatnonzero(bad):
                sentence = None if left_out else f"{name} {held(rows[name].iloc[at])}, {reason}"
                found.setdefault(int(at), (reason, sentence))
        return found

    def suspicions(self, part: Part) -> list[str]:
        """A sentence if a feature, or a column of text, alone almost equals the target."""
        from scipy.stats import rankdata

        known = dict(zip(self.features, part.features.T))
        for name, about in self.columns.items():
            if about["kind"] == "category" and len(about["features"]) > 1:  # instead of a value the share of frauds
                place = np.argmax([known.pop(feature) for feature in about["features"]], axis=0)
                known[name] = (np.bincount(place, part.target) / np.bincount(place).clip(1))[place]
        frauds = part.target == 1
        half, others = (frauds.sum() + 1) / 2, (~frauds).sum()
        areas = {name: (rankdata(values)[frauds].mean() - half) / others for name, values in known.items()}
        found = [name for name, area in areas.items() if max(area, 1 - area) >= TELLING]
        is_known = "is it known before anybody knows of the fraud? Otherwise leave it out by --ignore_columns"
        return [f"almost the target {self.target} itself: {few(found)}; {is_known}"] if found else []

    def categories(self) -> np.ndarray:
        """bool [F]: the features that are 0 or 1 by nature, between which nothing lies."""
        return np.array([name not in self.columns or "values" in self.columns[name] for name in self.features])


def few(names) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    return ", ".join(map(str, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def held(cell: object) -> str:
    if pd.isna(cell):
        return "is empty, or a word for it, such as NA or None"
    return f"holds {cell!r}" if isinstance(cell, str) else f"holds {cell}"


def class_texts(cells: pd.Series) -> np.ndarray:
    """str [N]: one spelling for 1, 1.0, True, "1.0" and "true"; "" for an empty cell."""
    if cells.dtype == object:  # whatever json may hold
        cells = cells.dropna().astype(str).reindex(cells.index)
    return cells.map({value: _text(value) for value in cells.dropna().unique()}).fillna("").to_numpy(dtype=str)


def _text(value: object) -> str:
    text = str(value).strip().strip("'\"")
    text = {"true": "1", "false": "0"}.get(text.casefold(), text)
    try:
        return str(int(float(text))) if float(text).is_integer() else text
    except ValueError:
        return text


def classes_of(cells: pd.Series, positive: str | None, source: str) -> list[str]:
    """The two values of a target, fraud last. Raises `UserError`: not two, or it is not clear which one is fraud."""
    texts = class_texts(cells)
    values, counts = np.unique(texts[texts != ""], return_counts=True)
    values, wanted = values.tolist(), "1" if positive is None else _text(positive)
    seen = f"{source}: the target {cells.name} holds " + few(f"{v[:40]!r} ({n:,} rows)" for v, n in zip(values, counts))
    if len(values) < 2:
        raise UserError(f"{seen}; training needs frauds and legitimate rows")
    if wanted not in values or (positive is None and "0" not in values):
        given = "" if positive is None else f", and not {positive!r}"
        raise UserError(f"{seen}{given}; say which value means fraud with --positive VALUE")
    if len(values) > 2:
        rare = values[counts.argmin()]
        raise UserError(f"{seen}, not two values ({rare!r} in {where(cells, int((texts == rare).argmax()))}); mend it")
    return [next(value for value in values if value != wanted), wanted]


def is_index(name: str, cells: pd.Series) -> bool:
    """Whether a column only counts the rows: by its name, or whole numbers that all follow on each other."""
    if INDEX.fullmatch(name):
        return True
    if not pd.api.types.is_numeric_dtype(cells.dtype) or cells.isna().any() or len(cells) < 50:
        return False
    return bool((np.diff(np.sort(cells.to_numpy(dtype=np.float64))) == 1).all())


def learned(cells: pd.Series, max_categories: int, table: pd.Series | None = None) -> dict:
    """What a column is, {"kind": ...}; or {"useless": why it can be no feature}. table: more cells."""
    present = cells.dropna()
    missing, numbers = len(present) < len(cells), pd.api.types.is_numeric_dtype(cells.dtype)
    if not len(present):
        return {"useless": "empty"}
    if isinstance(present.iloc[0], list | dict | np.ndarray):
        return {"useless": "cells of several values"}
    for kind in ORDERED:
        about = {"kind": kind} if kind == "number" else _time_format(present if table is None else table.dropna())
        values, wrong = values_of(present, about)
        if numbers or wrong.mean() <= 1 - MOSTLY:
            return about | {"median": float(np.nanmedian(values)), "missing": missing}
    counts = _categories(present).value_counts()
    if len(counts) > max(len(present) / 2, 2):
        odd = present[values_of(present, {"kind": "number"})[1]]
        mixed = f"numbers with other texts among them, such as {odd.iloc[0]!r}"
        return {"useless": mixed if len(odd) < len(present) / 2 else "text that hardly ever repeats"}
    values = sorted(counts.index, key=lambda value: (-counts[value], value))
    kept, more = values[:max_categories], len(values) > max_categories
    return {"kind": "category", "values": kept, "other": more, "missing": missing}


def _time_format(cells: pd.Series) -> dict:
    """The format in which the fewest cells are no times; unsure: another one fits as well."""

    def wrong(form: str, of: pd.Series) -> int:
        return int(pd.to_datetime(of, format=form, errors="coerce", utc=True).isna().sum())

    some, counts = cells.iloc[:50], {"ISO8601": wrong("ISO8601", cells)}
    if counts["ISO8601"] and some.astype(str).str.contains(r"\d[-/. ]").any():
        forms = [day + clock for day in DAYS for clock in CLOCKS]
        counts |= {form: wrong(form, cells) for form in forms if wrong(form, some) < len(some) / 2}
    best = min(counts, key=counts.get)
    return {"kind": "time", "format": best, "unsure": [*counts.values()].count(counts[best]) > 1}


def _categories(cells: pd.Series) -> pd.Series:
    return cells.map({value: _text(value).casefold() for value in cells.unique()})


def values_of(cells: pd.Series, about: dict) -> tuple[np.ndarray, np.ndarray]:
    """(float64 [N]: numbers, seconds, or places of categories, NaN where missing or wrong; bool [N]: wrong)."""
    there = cells.notna().to_numpy()
    present = cells if there.all() else cells[there]  # as slow as all the rest with thousands of columns
    if about["kind"] == "category":
        place = {value: at for at, value in enumerate(about["values"])}
        values = _categories(present).map(place).fillna(len(place))
    elif about["kind"] == "time":
        times = pd.to_datetime(present, format=about["format"], errors="coerce", utc=True)
        if times.isna().any():  # this form is never mistaken
            times = times.fillna(pd.to_datetime(present, format="ISO8601", errors="coerce", utc=True))
        values = (times - pd.Timestamp("1970-01-01", tz="UTC")) / pd.Timedelta(seconds=1)
    else:
        if not pd.api.types.is_numeric_dtype(present.dtype):
            texts = present.astype(str).str.strip().replace({"True": "1", "False": "0"})
            present = pd.to_numeric(texts, errors="coerce")
        numbers = present.to_numpy(dtype=np.float64)
        values = np.where(np.abs(numbers) <= LARGEST, numbers, np.nan)
    found = np.full(len(cells), np.nan)
    found[there] = np.asarray(values, dtype=np.float64)
    return found, there & np.isnan(found)


def _encoded(name: str, about: dict, values: np.ndarray) -> dict[str, np.ndarray]:
    """float64 [N] of every feature that a column may give, by name."""
    empty = np.isnan(values)
    if about["kind"] in ORDERED:
        marked = {f"{name} is missing": empty.astype(np.float64)} if about["missing"] else {}
        return {name: np.where(empty, about["median"], values), **marked}
    known = len(about["values"])
    levels = [*enumerate(about["values"])]
    levels += [(known, "(other)")] * about["other"] + [(known + 1, "(missing)")] * about["missing"]
    places, levels = np.where(empty, known + 1, values), levels[:1] if len(levels) == 2 else levels
    return {f"{name}={level}": (places == place).astype(np.float64) for place, level in levels}
