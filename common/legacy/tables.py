"""Tables of numbers with a 0/1 target: read from csv, tsv, parquet, Arrow or OpenML, checked cell by cell, described.

Every reader goes over its source in blocks, so that `read_chunks` needs the memory of a block however large the file
is. Not for splitting (`common.legacy.table_splits`), scaling or resampling, and not for text, sound or classes with names.
"""

import contextlib
import csv
import hashlib
import json
import shlex
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.legacy.data import existing_file, is_unicode
from common.legacy.errors import UserError
from common.legacy.table_cells import TableCheck, TableReading, few

TABLE_ENDINGS = (".csv", ".tsv", ".parquet")
CSV_BLOCK = 4 * 2**20  # bytes; a row must fit into it, and pyarrow may read 32 of them ahead
SECONDS_TO_ANSWER = 10.0
LONGEST_NAME = 2**17  # characters
SHOWN = 40  # names of columns in a remedy


@dataclass
class Table:
    """N rows of F numbers.

    Attributes:
        source: file, or hub id.
        columns: the F names.
        features: float64 [N, F], finite.
        target: int8 [N], 1 = positive; None where it is not known.
        rows: int64 [N], the row in its source; 1 is the first under the header.
        available: how many good rows the source has.
        skipped: reason -> rows left out.
    """

    source: str
    columns: list[str]
    features: np.ndarray
    target: np.ndarray | None
    rows: np.ndarray
    available: int
    skipped: dict[str, int]

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: np.ndarray) -> "Table":
        """The rows at the positions `rows` (or where a mask is true), in that order."""
        target = None if self.target is None else self.target[rows]
        return replace(self, features=self.features[rows], target=target, rows=self.rows[rows])

    def label_counts(self, names: Sequence[str] = ("legitimate", "fraud")) -> dict[str, int]:
        """How many rows each class has; `names`: of 0 and of 1."""
        return dict(zip(names, np.bincount(self.target, minlength=2).tolist()))

    def keys(self) -> np.ndarray:
        """uint64 [N]: equal where features and target are equal (hashes of 64 bits; 0.0 and -0.0 are equal)."""
        return _hashes(self.features if self.target is None else np.column_stack([self.features, self.target]))

    def fingerprint(self) -> str:
        """SHA-256 of columns and content, in order; the kind of file makes no difference."""
        digest = hashlib.sha256(json.dumps(self.columns).encode())
        for begin in range(0, len(self), 65_536):
            digest.update((self.features[begin : begin + 65_536] + 0.0).astype("<f8").tobytes())
        digest.update(b"" if self.target is None else self.target.tobytes())
        return digest.hexdigest()


def describe(table: Table, selection: str, statistics: dict[str, float]) -> dict:
    """What results.json says of a split; `selection`: how its rows were chosen, in words."""
    described = {
        "source": table.source,
        "examples": len(table),
        "available": table.available,
        "selection": selection,
        "fingerprint": table.fingerprint(),
        "skipped": table.skipped,
        "statistics": statistics,
    }
    return described if table.target is None else {**described, "label_counts": table.label_counts()}


# Looking for what is wrong with a table as a whole


def _hashes(numbers: np.ndarray) -> np.ndarray:
    """uint64 [N] of float64 [N, F]."""
    import pandas

    return pandas.util.hash_pandas_object(pandas.DataFrame(numbers), index=False).to_numpy()


def duplicates(table: Table) -> np.ndarray:
    """bool [N]: an exact copy (features and target) of an earlier row."""
    copies = np.ones(len(table), dtype=bool)
    copies[np.unique(table.keys(), return_index=True)[1]] = False
    return copies


def contradictions(table: Table) -> int:
    """How many rows have features that stand in another row with the other class."""
    group = np.unique(_hashes(table.features), return_inverse=True)[1]
    positive, rows = np.bincount(group, weights=table.target), np.bincount(group)
    return int(((positive > 0) & (positive < rows))[group].sum())


def check_trainable(table: Table) -> None:
    """Raises `UserError` where only one class is there, or a column has one value throughout."""
    positive = np.count_nonzero(table.target)
    if positive in (0, len(table)):
        raise UserError(
            f"{table.source}: {'none' if positive == 0 else 'every one'} of the {len(table):,} rows is positive, and "
            "training needs both classes; if another value than 1 is the positive one, give it with --positive"
        )
    constant = [table.columns[j] for j in np.flatnonzero(table.features.min(0) == table.features.max(0))]
    if constant:
        raise UserError(
            f"{table.source}: {few(constant)} {'has' if len(constant) == 1 else 'have'} the same value in every row, "
            f"from which nothing can be learned; leave out with --ignore_columns {shlex.join(constant[:SHOWN])}"
            + (" ..." if len(constant) > SHOWN else "")
        )


# Reading


def read_table(path: str | Path, reading: TableReading) -> Table:
    """The whole table of a csv, tsv or parquet file.

    A csv whose header has no comma is separated by tabs or semicolons, where the header has these; blank lines are no
    rows. Numbers are as exact as float64 is; booleans are 1 and 0. Empty, NaN and infinite cells are bad, and so is all
    that is not a number.

    Raises:
        UserError: no such file, broken, empty, columns that are missing, double or nameless, or a bad cell, which is
            named by row and column; with `reading.skip_bad` only where no row is good.
    """
    return _joined(list(read_chunks(path, reading)))


def read_chunks(path: str | Path, reading: TableReading, rows: int = 65_536) -> Iterator[Table]:
    """The table in consecutive parts, for files larger than memory.

    A part is `rows` rows of the file (fewer of a table with hundreds of columns) without the bad ones; none is empty.
    Row numbers go on counting; `available` and `skipped` are each part's own. A bad cell raises `UserError` after the
    good parts before it were given. For what is read and refused see `read_table`.
    """
    path = existing_file(path)
    ending = path.suffix.lower()
    if ending not in TABLE_ENDINGS:
        raise UserError(f"{path}: cannot read '{ending or path.name}'; use one of {', '.join(TABLE_ENDINGS)}")
    yield from (_parquet_chunks if ending == ".parquet" else _csv_chunks)(path, reading, rows)


def table_of_arrow(arrow_table, source: str, reading: TableReading) -> Table:
    """The table of a `pyarrow.Table`; `source` is what it is called. Raises as `read_table` does."""
    check = TableCheck(source, arrow_table.column_names, reading)
    batches = arrow_table.select(check.wanted).to_batches(max_chunksize=check.rows_at_once(65_536))
    return _joined(list(_checked(batches, check)))


def table_from_openml(data_id: int, reading: TableReading, cache_dir: str | Path | None) -> Table:
    """The table of a data set of openml.org, which is downloaded once.

    Args:
        data_id: OpenML's number of the data set, 1597 for example.
        cache_dir: folder of the downloads; None: that of scikit-learn.

    Raises:
        UserError: as `read_table`; OpenML cannot be reached and the set is not in the cache, or it has no such set.
    """
    import socket
    from http.client import HTTPException
    from urllib.error import HTTPError

    import pyarrow
    from sklearn.datasets import fetch_openml

    source, patience = f"openml:{data_id}", socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS_TO_ANSWER)  # there is none otherwise
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "A network error occurred|Invalid cache")
            fetched = fetch_openml(data_id=data_id, as_frame=True, target_column=None, data_home=cache_dir)
    except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError, scikit-learn's are ValueErrors
        if isinstance(error, HTTPError):
            problem = f"OpenML answers with the status {error.code}"
        elif isinstance(error, OSError | HTTPException):
            problem = f"OpenML cannot be reached ({getattr(error, 'reason', error)}), and the data set is not at hand"
        else:
            problem = f"this data set of OpenML cannot be loaded ({str(error).splitlines()[0].rstrip('.')})"
        raise UserError(f"{source}: {problem}; use --demo, or give local files") from None
    finally:
        socket.setdefaulttimeout(patience)
    return table_of_arrow(pyarrow.Table.from_pandas(fetched.frame, preserve_index=False), source, reading)


def _parquet_chunks(path: Path, reading: TableReading, rows: int) -> Iterator[Table]:
    import pyarrow.parquet

    # Otherwise all of a row group, which may be the whole file, is in memory.
    thrift = {"buffer_size": 65_536, "pre_buffer": False}
    with _one_sentence(path, "not a readable parquet file"), pyarrow.parquet.ParquetFile(path, **thrift) as file:
        check = TableCheck(str(path), file.schema_arrow.names, reading)
        at_once = check.rows_at_once(rows)
        batches = file.iter_batches(at_once, columns=check.wanted)
        yield from _checked(_of_size(batches, at_once), check)


def _csv_chunks(path: Path, reading: TableReading, rows: int) -> Iterator[Table]:
    import pyarrow
    import pyarrow.csv

    names, delimiter = _csv_header(path)
    check = TableCheck(str(path), names, reading, numbers_are_text=True)
    with _one_sentence(path, "not a readable table"):
        parsing = {"delimiter": delimiter, "newlines_in_values": True, "invalid_row_handler": check.ragged_row}
        # Cells are cast here and not by the reader, which cannot go on behind one that is no number.
        types = dict.fromkeys(check.wanted, pyarrow.string())
        try:
            reader = pyarrow.csv.open_csv(
                path,
                pyarrow.csv.ReadOptions(block_size=CSV_BLOCK),
                pyarrow.csv.ParseOptions(**parsing),
                pyarrow.csv.ConvertOptions(include_columns=check.wanted, column_types=types, strings_can_be_null=True),
            )
        except pyarrow.ArrowInvalid as error:
            if "Empty CSV" in str(error):  # a header without a line's end
                raise UserError(f"{path}: the file has no rows") from None
            raise
        yield from _checked(_of_size(reader, check.rows_at_once(rows)), check)


def _csv_header(path: Path) -> tuple[list[str], str]:
    """(names, delimiter)."""
    csv.field_size_limit(LONGEST_NAME)  # behind a quotation mark that nothing closes the whole file would be one name
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            line = next((line for line in file if line.strip("\r\n")), None)
            if line is None:
                raise UserError(f"{path}: the file has no rows")
            delimiter = "\t" if path.suffix.lower() == ".tsv" else next((mark for mark in ",\t;" if mark in line), ",")
            file.seek(0)
            names = next(cells for cells in csv.reader(file, delimiter=delimiter) if cells)
    except csv.Error as error:
        raise UserError(f"{path}: not a readable header: {error}") from None
    if not all(map(is_unicode, names)):
        raise UserError(f"{path}: the header is not UTF-8 text; save the file as UTF-8")
    return names, delimiter


@contextlib.contextmanager
def _one_sentence(path: Path, what: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:  # a broken footer is an OSError
        problem = (str(error).splitlines() or [type(error).__name__])[0]
        if "UTF8" in problem:
            problem = "a cell is not UTF-8 text; save the file as UTF-8"
        elif "straddling" in problem:
            problem = f"a row is longer than {CSV_BLOCK:,} bytes; is there a quotation mark that nothing closes?"
        raise UserError(f"{path}: {what}: {problem}") from None


def _of_size(batches: Iterable, rows: int) -> Iterator:
    """The same rows in `pyarrow.RecordBatch`es of `rows` each; the last may have fewer."""
    import pyarrow

    held, count = [], 0
    for batch in batches:
        while count + batch.num_rows >= rows:
            yield pyarrow.concat_batches([*held, batch.slice(0, rows - count)])
            held, count, batch = [], 0, batch.slice(rows - count)
        held, count = [*held, batch], count + batch.num_rows
    if count:
        yield pyarrow.concat_batches(held)


def _checked(batches: Iterable, check: TableCheck) -> Iterator[Table]:
    """The good rows of each batch; raises `UserError` at the end, when all that is bad is counted."""
    last = None
    for batch in batches:
        features, target, rows = check.numbers(batch)
        if len(rows) and not check.failed:
            if last is not None:
                yield last
            last = Table(check.source, check.columns, features, target, rows, len(rows), check.take_skipped())
    check.finish()
    last.skipped = dict(Counter(last.skipped) + Counter(check.take_skipped()))  # bad rows behind the last good one
    yield last


def _joined(parts: list[Table]) -> Table:
    features = np.concatenate([part.features for part in parts])
    target = None if parts[0].target is None else np.concatenate([part.target for part in parts])
    skipped = dict(sum((Counter(part.skipped) for part in parts), Counter()))
    rows = np.concatenate([part.rows for part in parts])
    return replace(parts[0], features=features, target=target, rows=rows, available=len(rows), skipped=skipped)
