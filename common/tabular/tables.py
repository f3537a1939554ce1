"""Tables as people save them, read by pandas: whole for training, a part at a time for files larger than memory.

Not for what a column means (`common.tabular.columns`).
"""

import contextlib
import csv
import glob
import io
import re
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from common.data import read_files
from common.errors import UserError
from common.tabular.columns import MOSTLY

PART = 65_536  # rows
HEAD = 2**16  # bytes looked at to see how a text file is written
MARKS = ",;\t|"
# 12,345.67 and, where a comma is the decimal point, 12.345,67; blanks and apostrophes may part the groups, too
POINT = re.compile(r"-?(\d{1,3}([, ']\d{2,3})*[, ']\d{3}|\d+)(\.\d*)?(e[-+]?\d+)?", re.IGNORECASE)
COMMA = re.compile(r"-?(\d{1,3}([. ']\d{3})+|\d+)(,\d+)?(e[-+]?\d+)?", re.IGNORECASE)
UNIT = re.compile(r"[$€£¥₹%]|[A-Z]{3}(?= )|(?<= )[A-Z]{3}$")
MINUS = re.compile(r"\((.+)\)|(.+)-|- *(.+)")  # (12.50), 12.50- and - 12.50
TYPED = str.maketrans("\xa0\u202f\u2019\u2212", "  '-")  # blanks that do not break, apostrophe, minus


class Tables:
    """The rows of one file or of several with the same columns; iterating reads them anew, in parts.

    csv, tsv and other separated text (comma, semicolon, tab or bar; UTF-8 or UTF-16; decimal comma; thousands), also
    compressed; parquet, xlsx, json and jsonl. The index of a part is (file, row); row 1 is the first under the header.

    Args:
        files: paths, globs or URLs.
        skip_bad: leave out and count rows with too many cells, instead of refusing the file.
        rows: of a part.

    Attributes:
        source: the files, in words; also in the `attrs` of every part.
        skipped: reason -> rows left out, of what has been read so far.
        indexes: columns that parquet files name as the index of a saved data frame.

    Raises:
        UserError: no such file, nothing in it, broken, other columns than the file before, a column twice.
    """

    def __init__(self, files: Sequence[str], skip_bad: bool = False, rows: int = PART):
        self.files = _each_once([n for pattern in files for n in _matching(str(pattern))], "the data", "file")
        self.source = ", ".join(self.files[:3]) + (f" and {len(self.files) - 3} more" if len(self.files) > 3 else "")
        self.skip_bad, self.rows, self.skipped, self.indexes = skip_bad, rows, Counter(), set()

    def __iter__(self) -> Iterator[pd.DataFrame]:
        columns = None
        for file in self.files:
            begin = 0
            for part in self._parts(file):
                part.columns = _each_once([str(name).strip() for name in part.columns], file)
                columns = list(part.columns) if columns is None else columns
                if set(part.columns) != set(columns):
                    other = sorted(set(part.columns) ^ set(columns))
                    raise UserError(f"{file}: has other columns than {self.files[0]} ({', '.join(other[:5])})")
                rows = part.attrs.pop("rows", range(begin + 1, begin + len(part) + 1))
                part.index = pd.MultiIndex.from_product([[file], rows], names=["file", "row"])
                part.attrs["source"] = self.source
                for name in part.select_dtypes("timedelta"):
                    part[name] = part[name].dt.total_seconds()
                begin += len(part)
                yield part[columns]
            if not begin:
                raise UserError(f"{file}: the file has no rows")

    def whole(self) -> pd.DataFrame:
        """All rows."""
        return pd.concat(list(self))

    def _parts(self, file: str) -> Iterator[pd.DataFrame]:
        with _one_sentence(file):
            address = _address(file)
            name = re.sub(r"\.(gz|bz2|xz)$", "", address.partition("::")[0].lower())
            if name.endswith(".parquet"):
                yield from self._parquet(file)
            elif name.endswith((".xlsx", ".xls", ".ods")):
                yield _with_numbers(_sheet(file))
            elif name.endswith((".json", ".jsonl")):
                yield _with_numbers(read_files(file))
            else:
                yield from self._text(file, address)

    def _text(self, file: str, address: str) -> Iterator[pd.DataFrame]:
        import fsspec

        with fsspec.open(address, "rb", compression="infer") as content:
            encoding, mark, names, comma = _written(content.read(HEAD), file)
            content.seek(0)
            settings = {
                "sep": mark,
                "encoding": encoding,
                "decimal": "," if comma else ".",
                "low_memory": False,
                "na_values": ["?"],
            }
            settings |= {"index_col": False, "skipinitialspace": True, "chunksize": self.rows}
            settings |= {"on_bad_lines": "warn" if self.skip_bad else "error"}
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always", pd.errors.ParserWarning)
                begin, rows = 0, None
                for part in pd.read_csv(content, **settings):
                    if any("Length of header" in str(warning.message) for warning in told):
                        raise UserError(
                            f"{file}: rows have more cells than the first line, which must name every column"
                        )
                    long = sum(str(warning.message).count("Skipping line") for warning in told)
                    self.skipped += Counter({"more cells than the header": long})
                    told.clear()
                    if rows is None and len(names) > 1 and (long or part.iloc[:, -1].isna().any()):
                        rows = _rows(address, encoding, mark, len(names))
                    first, begin = begin, begin + len(part)
                    if rows is not None:
                        part = self._without_short(part, rows[first:begin], file)
                    part.columns = _each_once(names, file)  # pandas would call one that is there twice NAME.1
                    yield _with_numbers(part, (COMMA, POINT) if comma else (POINT, COMMA))

    def _without_short(self, part: pd.DataFrame, rows: np.ndarray, file: str) -> pd.DataFrame:
        """The part with numbers of its rows, and without those that have fewer cells than the header."""
        short = rows[:, 1] == 1
        if short.any() and not self.skip_bad:
            problem = "has fewer cells than the header; mend it or pass --on_bad_example skip"
            raise UserError(f"{file}, row {rows[short.argmax(), 0]}: {problem}")
        self.skipped += Counter({"fewer cells than the header": int(short.sum())})
        part = part[~short].reset_index(drop=True)
        part.attrs["rows"] = rows[~short, 0]
        return part

    def _parquet(self, file: str) -> Iterator[pd.DataFrame]:
        import pyarrow.parquet

        # Otherwise all of a row group, which may be the whole file, is in memory.
        with pyarrow.parquet.ParquetFile(file, buffer_size=65_536, pre_buffer=False) as content:
            saved = content.schema_arrow.pandas_metadata or {}
            self.indexes |= {name for name in saved.get("index_columns", []) if isinstance(name, str)}
            for batch in content.iter_batches(self.rows):
                yield _with_numbers(batch.to_pandas(ignore_metadata=True))


def _matching(pattern: str) -> list[str]:
    """The files that a path, glob or URL stands for."""
    if "://" in pattern or Path(pattern).is_file():
        return [pattern]
    if found := [name for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]:
        return found
    raise UserError(f"{pattern}: no such file")


def _address(file: str) -> str:
    """Where fsspec finds a file: of a zip the one file in it."""
    if not file.lower().endswith(".zip"):
        return file
    import fsspec

    found = [name for name in fsspec.filesystem("zip", fo=file).find("") if not name.startswith("__MACOSX/")]
    if len(found) != 1:
        raise UserError(f"{file}: must hold one file, but holds {len(found)}; unpack it and name the files")
    return f"zip://{found[0]}::{file}"


def _sheet(file: str) -> pd.DataFrame:
    sheets = {name: rows for name, rows in pd.read_excel(file, sheet_name=None, header=None).items() if len(rows)}
    if len(sheets) != 1:
        names = f" ({', '.join(sheets)})" * bool(sheets)
        raise UserError(f"{file}: {len(sheets)} of its sheets hold rows{names}; save the one with the table as a file")
    (rows,) = sheets.values()
    names = [f"Unnamed: {at}" if pd.isna(cell) else cell for at, cell in enumerate(rows.iloc[0])]
    return rows[1:].set_axis(names, axis=1).infer_objects()


def _rows(address: str, encoding: str, mark: str, width: int) -> np.ndarray:
    """int64 [N, 2] of the N rows that pandas gives: the number in the file, and whether there are fewer cells."""
    import fsspec

    csv.field_size_limit(2**31 - 1)
    with fsspec.open(address, "rt", compression="infer", encoding=encoding, newline="") as lines:
        cells = csv.reader((line.replace("\0", "") for line in lines), delimiter=mark, skipinitialspace=True)
        counts = np.array([len(row) for row in cells if len(row) > 1 or "".join(row).strip()])[1:]
    numbers = np.column_stack([np.arange(1, len(counts) + 1), counts < width])
    return numbers[counts <= max(width, counts[0])]


def _each_once(names: list[str], file: str, what: str = "column") -> list[str]:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{file}: the {what} {twice!r} is there twice; rename or remove one")
    return names


@contextlib.contextmanager
def _one_sentence(file: str) -> Iterator[None]:
    try:
        yield
    except UnicodeError:
        raise UserError(f"{file}: is not UTF-8 text; save it as UTF-8, or name it after what it is") from None
    except (ValueError, OSError, EOFError, ImportError, zlib.error, zipfile.BadZipFile) as error:
        problem = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{file}: not a readable table: {problem}") from None


def _written(head: bytes, file: str) -> tuple[str, str, list[str], bool]:
    """How a text file is written: encoding, separator, names of the columns, and whether decimals have a comma."""
    if not head.strip():
        raise UserError(f"{file}: the file is empty")
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = head.decode(encoding, errors="ignore" if len(head) >= HEAD - 1 else "strict")
    if "\0" in text:  # UTF-16 or 32 without a mark, or no text
        raise UnicodeError
    lines = [line for line in text.splitlines() if line.strip()][:200]
    mark = max(MARKS, key=lines[0].count)  # of equally many the first
    rows = list(csv.reader(io.StringIO("\n".join(lines)), delimiter=mark))
    cells = [_bare(cell)[0] for row in rows[1:] for cell in row]
    comma = mark != "," and any("," in cell and COMMA.fullmatch(cell) for cell in cells)
    names = [name.strip() or f"Unnamed: {at}" for at, name in enumerate(rows[0])]  # as pandas calls them
    return encoding, mark, names, comma


def _with_numbers(part: pd.DataFrame, notations: Sequence[re.Pattern] = (POINT, COMMA)) -> pd.DataFrame:
    """The part with numbers instead of text in columns of numbers in one notation, the likelier first, and at most one
    currency; a few cells may be mistakes, and stay as they are."""
    for name in part.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in part.dtypes]]:
        cells = part[name].dropna()
        for number in notations:
            numbers, units = _numbers(cells[:100], number)
            if len(numbers) < MOSTLY * len(cells[:100]) or not len(numbers):
                continue
            numbers, units = _numbers(cells, number)
            if len(numbers) >= MOSTLY * len(cells) and len(units) < 2:
                whole = len(numbers) == len(cells)
                numbers = numbers.reindex(part.index)
                part[name] = numbers if whole else numbers.astype(object).where(numbers.notna(), part[name])
                break
    return part


def _numbers(cells: pd.Series, number: re.Pattern) -> tuple[pd.Series, set[str]]:
    """float64 of the cells that are numbers in a notation, and the units that they have."""
    bare = {at: _bare(cell) for at, cell in cells.items()}
    good = {at: text for at, (text, _) in bare.items() if number.fullmatch(text)}
    plain = pd.Series(good, dtype=str).str.replace(f"[{',.'[number is COMMA]} ']", "", regex=True)
    return plain.str.replace(",", ".").astype(np.float64), {bare[at][1] for at in good} - {""}


def _bare(cell: object) -> tuple[str, str]:
    """A number as it stands, with a minus, where there is one, before it, but for its unit; and the unit."""
    text = str(cell).translate(TYPED).strip()
    unit = UNIT.search(text)
    text = UNIT.sub("", text, count=1).strip()
    minus = MINUS.fullmatch(text)
    return f"-{minus[minus.lastindex]}" if minus else text.removeprefix("+"), unit[0] if unit else ""
