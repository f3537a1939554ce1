"""The columns of a table that are wanted, and their cells checked in bulk: numbers and a 0/1 target, or one sentence
on the first cell that is neither, with its row and column and how many there are.

Not for where tables come from (`common.legacy.tables`).
"""

import re
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from common.legacy.class_names import NUMBER, listed
from common.legacy.errors import UserError

FEW = 8
MOST_CELLS = 2**24  # of a batch: a wide table gets fewer rows
PANDAS_INDEX = re.compile(r"__index_level_\d+__")  # what pandas calls the index of a frame in parquet
DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+([eE][-+]?\d+)?")
TEXT, EMPTY, INFINITE, NO_TARGET, OTHER_TARGET, RAGGED = range(1, 7)  # what is wrong with a row; 0: nothing
REASONS = ("", "not a number", "empty cell", "infinite cell", "empty target", "target not 0 or 1", "wrong row length")
MEND = "mend it or pass --on_bad_example skip"


@dataclass(frozen=True)
class TableReading:
    """What of a table is read, and how strictly.

    Attributes:
        target: the column with the class.
        positive: the value of the target that is 1, every other is 0; None: the target must hold 0 and 1 (as numbers,
            as text with or without quotes, or as true and false).
        ignored: columns that are left out.
        columns: the features wanted, in this order; further columns are ignored. None: every column but the target.
        truth: True: the target must be there; None: it is taken where it is; False: it is ignored.
        skip_bad: rows with a bad cell are left out and counted instead of ending the run.
    """

    target: str = "Class"
    positive: str | None = None
    ignored: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    truth: bool | None = True
    skip_bad: bool = False


def few(names: Iterable[str]) -> str:
    """Names for a message: the first ones, and how many more there are."""
    names = list(names)
    return listed(names[:FEW]) + (f" and {len(names) - FEW:,} more" if len(names) > FEW else "")


def wanted_columns(names: list[str], source: str, reading: TableReading) -> tuple[list[str], str | None]:
    """(Names of the features, name of the target or None) of a table with the columns `names`.

    Raises `UserError` for columns that are missing, double or nameless.
    """
    there = set(names)
    if len(there) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        raise UserError(f"{source}: more than one column is called {few(twice)}; give every column a name of its own")
    target = reading.target if reading.truth is not False and reading.target in there else None
    if reading.truth and target is None:
        raise UserError(
            f"{source}: no column {reading.target!r} for the target; it has {few(names)}; name yours with --target"
        )
    if reading.columns is not None:
        if missing := [name for name in reading.columns if name not in there]:
            raise UserError(f"{source}: no column {few(missing)}, as in training; it has {few(names)}")
        return list(reading.columns), target
    if unknown := [name for name in reading.ignored if name not in there]:
        raise UserError(f"{source}: no column {few(unknown)} to leave out (--ignore_columns); it has {few(names)}")
    left_out = {reading.target, *reading.ignored}
    columns = [name for name in names if name not in left_out and not PANDAS_INDEX.fullmatch(name)]
    if "" in columns:
        raise UserError(f"{source}: column {names.index('') + 1} has no name; give it one, or take it out")
    if not columns:
        raise UserError(f"{source}: has no column to learn from, only {few(names)}")
    return columns, target


class TableCheck:
    """Turns the batches of one table, in order, into numbers, and remembers what was bad.

    Args:
        numbers_are_text: the cells are text in which numbers are looked for (csv); otherwise text is no number.
    """

    def __init__(self, source: str, names: list[str], reading: TableReading, *, numbers_are_text: bool = False):
        self.source, self.reading, self.numbers_are_text = source, reading, numbers_are_text
        self.columns, self.target = wanted_columns(names, source, reading)
        self.wanted = [*self.columns, self.target] if self.target else self.columns
        self._seen = self._good = 0  # rows
        self._ragged: dict[int, str] = {}  # rows of another length that are not counted yet -> what is wrong with them
        self._cells: Counter[int] = Counter()  # what is wrong -> cells
        self._first: tuple[int, int, str, str] | None = None  # row, what is wrong with it, column, what stands there
        self._skipped: Counter[str] = Counter()
        self._classes_seen: dict[str, None] = {}

    def rows_at_once(self, rows: int) -> int:
        """`rows`, or as many as a batch of a wide table may have."""
        return max(min(rows, MOST_CELLS // len(self.columns)), 1)

    @property
    def failed(self) -> bool:
        """Whether a bad cell was met that ends the run, so that what follows is only counted."""
        return self._first is not None and not self.reading.skip_bad

    def ragged_row(self, row) -> str:
        """The `invalid_row_handler` of pyarrow's csv reader, which calls it before it gives the rows around it."""
        self._ragged[row.number - 1] = f"has {row.actual_columns} cells, the header has {row.expected_columns}"
        return "skip"

    def numbers(self, batch) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """The good rows of a `pyarrow.RecordBatch` with the columns `wanted`.

        Returns:
            Features float64 [n, F], target int8 [n] or None, rows int64 [n].
        """
        rows = self._numbered(batch.num_rows)
        features, text = np.empty((batch.num_rows, len(self.columns))), {}
        for j, name in enumerate(self.columns):
            features[:, j], is_text = _numbers(batch.column(name), self.numbers_are_text)
            if is_text.any():
                text[j] = is_text
        target = self._classes(batch.column(self.target)) if self.target else None
        wrong, cells = self._wrong(features, text, target)
        self._good += len(wrong) - np.count_nonzero(wrong)
        if not wrong.any():
            return features, target, rows
        self._skipped.update(REASONS[reason] for reason in wrong[wrong > 0].tolist())
        i = int(np.argmax(wrong > 0))
        column = self.columns[cells[i]] if wrong[i] <= INFINITE else self.target
        value = batch.column(column)[i].as_py()
        self._note(int(rows[i]), int(wrong[i]), column, value if isinstance(value, str) else str(value))
        good = wrong == 0
        return features[good], None if target is None else target[good], rows[good]

    def take_skipped(self) -> dict[str, int]:
        """Reason -> rows that were left out since the last call."""
        skipped, self._skipped = dict(self._skipped), Counter()
        return skipped

    def finish(self) -> None:
        """After the last batch: raises `UserError` for bad cells that end the run, and where no row is good."""
        self._count_ragged(max(self._ragged, default=0))
        if self.failed:
            raise UserError(f"{self.source}: {self._sentence()}")
        if not self._good:
            why = f"no good row among {self._seen:,}; {self._sentence()}" if self._first else "the file has no rows"
            raise UserError(f"{self.source}: {why}")

    def _numbered(self, count: int) -> np.ndarray:
        """int64 [count]: the next rows, without those of another length."""
        ragged = list(self._ragged)  # pyarrow may add to it at any time, from further behind
        rows = np.arange(self._seen + 1, self._seen + 1 + count + len(ragged))
        rows = rows[~np.isin(rows, ragged)][:count] if ragged else rows
        if count:
            self._count_ragged(int(rows[-1]))
        return rows

    def _count_ragged(self, end: int) -> None:
        """Counts the rows up to `end`, and those of another length among them."""
        for row in sorted(row for row in list(self._ragged) if row <= end):
            self._note(row, RAGGED, "", self._ragged.pop(row))
            self._skipped[REASONS[RAGGED]] += 1
            self._cells[RAGGED] += 1
        self._seen = max(self._seen, end)

    def _classes(self, column) -> np.ndarray:
        """int8 [n]: 0, 1, -1 for an empty cell, -2 for something else."""
        encoded = column if hasattr(column, "dictionary") else column.dictionary_encode()
        texts = [_class_text(value) for value in encoded.dictionary.to_pylist()]
        if len(self._classes_seen) <= FEW:
            self._classes_seen |= dict.fromkeys(text for text in texts if text)
        if self.reading.positive is None:
            known, other = {"": -1, "0": 0, "1": 1}, -2
        else:
            known, other = {"": -1, _class_text(self.reading.positive): 1}, 0
        classes = np.array([*(known.get(text, other) for text in texts), -1], dtype=np.int8)
        return classes[encoded.indices.cast("int64").fill_null(len(texts)).to_numpy(zero_copy_only=False)]

    def _wrong(self, features, text, target) -> tuple[np.ndarray, np.ndarray]:
        """(int8 [n]: what is wrong with each row; int64 [n]: its first feature that is not finite). Counts the cells.

        Args:
            text: index of a feature -> bool [n], where it holds text.
        """
        finite = np.isfinite(features)
        wrong, cells = np.zeros(len(features), dtype=np.int8), (~finite).argmax(1)
        bad = np.flatnonzero(~finite.all(1))
        wrong[bad] = np.where(np.isinf(features[bad, cells[bad]]), INFINITE, EMPTY)
        for j, is_text in text.items():
            wrong[is_text & (cells == j)] = TEXT
        texts, infinite = sum(int(is_text.sum()) for is_text in text.values()), int(np.isinf(features[bad]).sum())
        self._cells.update({TEXT: texts, INFINITE: infinite, EMPTY: int((~finite).sum()) - infinite - texts})
        for reason, value in ((NO_TARGET, -1), (OTHER_TARGET, -2)) if target is not None else ():
            self._cells[reason] += int((target == value).sum())
            wrong[(target == value) & (wrong == 0)] = reason
        return wrong, cells

    def _note(self, row: int, reason: int, column: str, value: str) -> None:
        if self._first is None or row < self._first[0]:
            self._first = (row, reason, column, value)

    def _sentence(self) -> str:
        """What is wrong with the first bad row, and what to do."""
        row, reason, column, value = self._first
        value, count = value if len(value) <= 40 else f"{value[:40]}...", self._cells[reason]
        what = "rows" if reason == RAGGED else "cells"
        several = f" (the first of {count:,} such {what})" if count > 1 else ""
        if reason == RAGGED:
            return f"row {row} {value}{several}; {MEND}"
        if reason == TEXT:
            point = "write decimals with a point, " if DECIMAL_COMMA.fullmatch(value) else ""
            chosen = self.reading.columns is None  # otherwise by the training table
            other = f"or leave it out with --ignore_columns {shlex.quote(column)}" if chosen else "as in training"
            return f"{column} holds {value!r} in row {row}: {point}encode it as numbers, {other}" + (
                f"{several}; {MEND}" if count < self._seen else ""
            )
        if reason == OTHER_TARGET:
            return (
                f"the target {column} holds {few(self._classes_seen)}, and not only 0 and 1 ({value!r} in row {row}); "
                "say which value is the positive one with --positive VALUE"
            )
        state = {EMPTY: "is empty or NaN", INFINITE: "is infinite", NO_TARGET: "(the target) is empty"}[reason]
        return f"{column} {state} in row {row}{several}; {MEND}"


def _numbers(column, from_text: bool) -> tuple[np.ndarray, np.ndarray]:
    """(float64 [n], NaN where a cell is empty or no number; bool [n], where it is no number)."""
    import pyarrow
    from pyarrow import compute, types

    kind = column.type
    none = np.zeros(len(column), dtype=bool)
    if from_text:
        try:
            column = compute.cast(compute.utf8_trim_whitespace(column), pyarrow.float64())
        except pyarrow.ArrowInvalid:
            found = [_number(cell) for cell in column.to_pylist()]
            values = np.array([np.nan if number is None else number for number in found])
            return values, np.array([number is None for number in found])
    elif any(is_kind(kind) for is_kind in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)):
        column = compute.cast(column, pyarrow.float64(), safe=False)  # integers beyond 2**53 are rounded
    elif not types.is_null(kind):
        return np.full(len(column), np.nan), compute.is_valid(column).to_numpy(zero_copy_only=False)
    return column.cast(pyarrow.float64()).to_numpy(zero_copy_only=False), none


def _number(cell: str | None) -> float | None:
    """NaN for an empty cell, None for what is no number."""
    text = (cell or "").strip().casefold()
    if text in ("", "true", "false"):
        return float(text == "true") if text else np.nan
    try:
        return float(text) if "_" not in text else None
    except ValueError:
        return None


def _class_text(value: object) -> str:
    """The one spelling of a value of a target: "1" for 1, 1.0, True and "'1'"; "" for none."""
    if value is None or value != value:
        return ""
    text = str(value).strip().strip("'\"")
    if NUMBER.fullmatch(text):
        return str(int(float(text)))
    return {"true": "1", "false": "0"}.get(text.casefold(), text)
