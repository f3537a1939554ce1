"""What the columns of a table mean to a model: learned from the training rows alone, kept in columns.json beside it.

Numbers and timestamps are standardised, missing ones get the median and a feature that says so; text becomes a feature
for each frequent value. Not for reading tables (`tables`), nor for which row is in which part (`splits`).
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from common.data import require_columns, where
from common.errors import UserError, write_json

COLUMNS_FILE, TASK = "columns.json", "card-fraud"
CLASSES = ("legitimate", "fraud")
INDEX = re.compile(r"|unnamed: \d+|index|level_\d+|__index_level_\d+__|row_?(id|number)", re.IGNORECASE)
LARGEST, FARTHEST = 1e30, 1e9  # of a cell: a square of more is infinite in float32; deviations from the mean
MOSTLY = 0.9  # from this share of cells on a column of text is one of numbers, or of times, with mistakes in it
TELLING, ALIKE = 0.995, 0.95  # area under ROC, and correlation, of a column that almost equals the target
ORDERS = [f"%{a}{s}%{b}{s}%Y{t}" for s in "/-." for a, b in ("md", "dm") for t in ("", " %H:%M", " %H:%M:%S")]
MEND = "mend it, or pass --on_bad_example skip"


@dataclass
class Part:
    """N rows that a model takes.

    Attributes:
        source: where they come from, in words; available: how many good rows are there.
        features: float32 [N, F], standardised.
        target: int8 [N], 1 = fraud; None where it is unknown.
        shown: N rows of what is carried into predictions.csv: row, perhaps file, and all columns that are no features.
        time, amount: float64 [N], time in seconds; None without such a column.
        skipped: reason -> rows left out.
        real: bool [N], false for rows that resampling made.
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
        columns: name -> {"kind": number, time or category, what was learned, "features": name -> (mean, scale)}.
        roles: "time" and "amount" -> the same of those columns, which need not be features, and "column", the name.
        left_out: column -> why it is no feature.
    """

    target: str
    classes: list[str]
    missing: str
    columns: dict[str, dict] = field(default_factory=dict)
    roles: dict[str, dict] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def features(self) -> list[str]:
        """Names of the F features."""
        return [name for about in self.columns.values() for name in about["features"]]

    def learn(self, rows: pd.DataFrame, ignored: dict[str, str], roles: dict[str, str], max_categories: int) -> None:
        """Learns from training rows. ignored: column -> why. Raises `UserError`: no feature; a role without order."""
        for role, name in roles.items():
            about = learned(rows[name], max_categories)
            if isinstance(about, str) or about["kind"] == "category":
                raise UserError(f"--{role}_column {name}: holds neither numbers nor times; name another")
            self.roles[role] = {"column": name, **about}
        for name in rows.columns.drop(self.target):
            about = ignored.get(name) or learned(rows[name], max_categories)
            if not isinstance(about, str):
                found, (values, wrong) = {}, values_of(rows[name], about)
                for feature, encoded in _encoded(name, about, values):
                    mean, scale = float(encoded.mean()), float(encoded.std())
                    if scale > 1e-12 * abs(mean) or wrong.any():  # what is wrong is said by `part`
                        found[feature] = [mean, scale or 1.0]
                about = about | {"features": found} if found else "one value throughout"
            (self.left_out if isinstance(about, str) else self.columns)[name] = about
        if not self.columns:
            raise UserError(f"no column is left to learn from beside the target {self.target!r}")

    def notices(self) -> list[str]:
        """What was left out and what was encoded, in sentences."""
        why = {reason: [] for reason in self.left_out.values() if reason != "ignored"}
        for name in [name for name, reason in self.left_out.items() if reason in why]:
            why[self.left_out[name]].append(name)
        found = {f"left out, {reason}": names for reason, names in why.items()}
        for kind, words in (("time", "times, as seconds"), ("category", "text, a feature for each frequent value")):
            found[words] = [name for name, about in self.columns.items() if about["kind"] == kind]
        found["missing cells, filled and marked"] = [name for name, about in self.columns.items() if about["missing"]]
        return [f"{words}: {few(names)}" for words, names in found.items() if names]

    def part(self, rows: pd.DataFrame, source: str, *, skip_bad: bool, truth: bool | None = None) -> Part:
        """The rows as features; truth: whether the target has to be there (None: where it is).

        Raises:
            UserError: a column is missing; a cell that cannot be computed with, of an unknown class or, with `missing`
                "error", empty, by its row, unless skip_bad: then its row is left out and counted.
        """
        require_columns(rows.columns, [*self.columns, *([self.target] if truth else [])], source)
        good, skipped = np.ones(len(rows), dtype=bool), Counter()

        def leave_out(bad: np.ndarray, reason: str, name: str, remedy: str = MEND, skip: bool = skip_bad) -> None:
            bad = bad & good
            if bad.any() and not skip:
                at, more = int(bad.argmax()), f" (the first of {bad.sum():,})" if bad.sum() > 1 else ""
                raise UserError(f"{where(rows, at)}: {name} {held(rows[name].iloc[at])}, {reason}{more}; {remedy}")
            good[bad] = False
            skipped[reason] += int(bad.sum())

        target = None
        if truth or (truth is None and self.target in rows.columns and rows[self.target].notna().any()):
            texts = class_texts(rows[self.target])
            leave_out(texts == "", "and is the target", self.target)
            leave_out(~np.isin(texts, self.classes), f"not {' or '.join(map(repr, self.classes))}", self.target)
            target = (texts == self.classes[1]).astype(np.int8)
        features, j = np.empty((len(rows), len(self.features)), dtype=np.float32), 0
        for name, about in self.columns.items():
            values, wrong = values_of(rows[name], about)
            leave_out(wrong, f"no {about['kind']} to compute with", name)
            if self.missing != "impute":
                remedy = "mend it, or give --missing impute or skip"
                leave_out(rows[name].isna().to_numpy(), "a missing cell", name, remedy, self.missing == "skip")
            for feature, encoded in _encoded(name, about, values):
                if feature in about["features"]:
                    mean, scale = about["features"][feature]
                    features[:, j] = np.clip((encoded - mean) / scale, -FARTHEST, FARTHEST)
                    j += 1
        roles = {role: about for role, about in self.roles.items() if about["column"] in rows.columns}
        carried = [name for name in rows.columns if name not in self.columns and name != self.target]
        carried += [about["column"] for about in roles.values() if about["column"] in self.columns]
        shown = rows[carried].reset_index()
        shown = shown if shown["file"].nunique() > 1 else shown.drop(columns="file")
        time, amount = (
            values_of(rows[roles[role]["column"]], roles[role])[0] if role in roles else None
            for role in ("time", "amount")
        )
        skipped = {reason: count for reason, count in skipped.items() if count}
        part = Part(source, int(good.sum()), features, target, shown, time, amount, skipped, np.ones_like(good))
        return part if good.all() else part.take(np.flatnonzero(good))

    def unknown(self, rows: pd.DataFrame) -> dict[str, int]:
        """Column -> how many rows have a value of it that training had not, where there is no feature for others."""
        texts = {
            name: about for name, about in self.columns.items() if about["kind"] == "category" and not about["other"]
        }
        counts = {n: int((values_of(rows[n], about)[0] == len(about["values"])).sum()) for n, about in texts.items()}
        return {name: count for name, count in counts.items() if count}

    def suspicions(self, part: Part) -> list[str]:
        """A sentence if a feature alone almost equals the target."""
        from scipy.stats import rankdata

        fraud, found = part.target == 1, []
        frauds, pairs = int(fraud.sum()), int(fraud.sum()) * int((~fraud).sum())
        for j, name in enumerate(self.features):
            right = rankdata(part.features[:, j])[fraud].sum() - frauds * (frauds + 1) / 2
            alike = abs(np.corrcoef(part.features[:, j], fraud)[0, 1])
            if max(right, pairs - right) >= TELLING * pairs or alike >= ALIKE:
                found.append(name)
        is_known = "is it known before anybody knows of the fraud? Otherwise leave it out by --ignore_columns"
        return [f"almost the target {self.target} itself: {few(found)}; {is_known}"] if found else []

    def categories(self) -> np.ndarray:
        """bool [F]: the features that are 0 or 1 by nature, between which nothing lies."""
        return np.array([name not in self.columns or "values" in self.columns[name] for name in self.features])

    def save(self, folder: Path, **more) -> None:
        """Writes columns.json with `more` facts."""
        write_json(folder / COLUMNS_FILE, {"task": TASK, **more, **asdict(self)})

    @classmethod
    def load(cls, folder: Path) -> tuple["Columns", dict]:
        """What `save` has written: the columns, and the other facts. Raises `UserError`."""
        path = folder / COLUMNS_FILE
        if not path.is_file():
            raise UserError(
                f"--model {folder}: holds no {COLUMNS_FILE}; give the output folder of a run of run_fraud.py"
            )
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            if facts.pop("task") != TASK:
                raise UserError(f"--model {folder}: was made for another task than {TASK}")
            return cls(**{name: facts.pop(name) for name in cls.__dataclass_fields__}), facts
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path}: damaged ({type(error).__name__}: {error})") from None


def few(names) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    return ", ".join(map(str, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def held(cell: object) -> str:
    return "is empty" if pd.isna(cell) else f"holds {cell!r}" if isinstance(cell, str) else f"holds {cell}"


def class_texts(cells: pd.Series) -> np.ndarray:
    """str [N]: one spelling for 1, 1.0, True, "1.0" and "true"; "" for an empty cell."""
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
    seen = f"{source}: the target {cells.name} holds " + few(f"{v!r} ({n:,} rows)" for v, n in zip(values, counts))
    if wanted not in values or (positive is None and not set(values) <= {"0", "1"}):
        given = "" if positive is None else f", and not {positive!r}"
        raise UserError(f"{seen}{given}; say which value means fraud with --positive VALUE")
    if len(values) == 1:
        raise UserError(f"{seen}; training needs legitimate rows, too")
    if len(values) > 2:
        rare = values[counts.argmin()]
        at = cells.index[int((texts == rare).argmax())]
        raise UserError(f"{seen}, and not two values ({rare!r} in {at[0]}, row {at[1]}); mend it")
    return [next(value for value in values if value != wanted), wanted]


def is_index(name: str, cells: pd.Series) -> bool:
    """Whether a column only counts the rows: by its name, or whole numbers that all follow on each other."""
    if INDEX.fullmatch(name):
        return True
    if not pd.api.types.is_numeric_dtype(cells.dtype) or cells.isna().any() or len(cells) < 50:
        return False
    return bool((np.diff(np.sort(cells.to_numpy(dtype=np.float64))) == 1).all())


def learned(cells: pd.Series, max_categories: int) -> dict | str:
    """What a column is, {"kind": ...}; or why it can be no feature."""
    present = cells.dropna()
    missing, dates = len(present) < len(cells), pd.api.types.is_datetime64_any_dtype(cells.dtype)
    if not len(present):
        return "empty"
    if isinstance(present.iloc[0], list | dict | np.ndarray):
        return "cells of several values"
    forms = ["ISO8601", *ORDERS]
    if not dates and _numbers(present).notna().mean() >= MOSTLY:
        about = {"kind": "number"}
    elif dates or (form := next((f for f in forms if _times(present, f).notna().mean() >= MOSTLY), None)):
        about = {"kind": "time", "format": "ISO8601" if dates else form}
    else:
        counts = _texts(present).value_counts()
        if len(counts) > max(len(present) / 2, 2):
            return "text that hardly ever repeats"
        values = sorted(counts.index, key=lambda value: (-counts[value], value))
        kept, more = values[:max_categories], len(values) > max_categories
        return {"kind": "category", "values": kept, "other": more, "missing": missing}
    return about | {"median": float(np.nanmedian(values_of(present, about)[0])), "missing": missing}


def _numbers(cells: pd.Series) -> pd.Series:
    if pd.api.types.is_numeric_dtype(cells.dtype):
        return cells.astype(np.float64)
    return pd.to_numeric(cells.astype(str).str.strip().replace({"True": "1", "False": "0"}), errors="coerce")


def _times(cells: pd.Series, form: str) -> pd.Series:
    return pd.to_datetime(cells, format=form, errors="coerce", utc=True)


def _texts(cells: pd.Series) -> pd.Series:
    return cells.map({value: _text(value).casefold() for value in cells.unique()})


def values_of(cells: pd.Series, about: dict) -> tuple[np.ndarray, np.ndarray]:
    """(float64 [N]: numbers, seconds, or places of categories, NaN where missing or wrong; bool [N]: wrong)."""
    there = cells.notna().to_numpy()
    if about["kind"] == "category":
        place = {value: at for at, value in enumerate(about["values"])}
        values = _texts(cells[there]).map(place).fillna(len(place))
    elif about["kind"] == "number":
        values = _numbers(cells[there])
        values = values.where(values.abs() <= LARGEST)
    else:
        values = (_times(cells[there], about["format"]) - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    found = np.full(len(cells), np.nan)
    found[there] = values.to_numpy(dtype=np.float64)
    return found, there & np.isnan(found)


def _encoded(name: str, about: dict, values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Name and float64 [N] of every feature that a column may give."""
    empty = np.isnan(values)
    if about["kind"] != "category":
        yield name, np.where(empty, about["median"], values)
        if about["missing"]:
            yield f"{name} is missing", empty.astype(np.float64)
        return
    known = len(about["values"])
    levels = [*enumerate(about["values"])]
    levels += [(known, "(other)")] * about["other"] + [(known + 1, "(missing)")] * about["missing"]
    places = np.where(empty, known + 1, values)
    for place, level in levels[:1] if len(levels) == 2 else levels:
        yield f"{name}={level}", (places == place).astype(np.float64)
