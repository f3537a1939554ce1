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

PART = 65_536  # rows
HEAD = 2**16  # bytes looked at to see how a text file is written
MARKS = ",;\t|"
# 12,345.67 and, where a comma is the decimal point, 12.345,67
POINT = re.compile(r"[-+]?(\d{1,3}(,\d{3})+|\d+)(\.\d*)?([eE][-+]?\d+)?")
COMMA = re.compile(r"[-+]?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?([eE][-+]?\d+)?")


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
        self.files = [name for pattern in files for name in _matching(str(pattern))]
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
                rows = range(begin + 1, begin + len(part) + 1)
                part.index = pd.MultiIndex.from_product([[file], rows], names=["file", "row"])
                part.attrs["source"] = self.source
                begin += len(part)
                yield part[columns]
            if not begin:
                raise UserError(f"{file}: the file has no rows")

    def whole(self) -> pd.DataFrame:
        """All rows."""
        return pd.concat(list(self))

    def _parts(self, file: str) -> Iterator[pd.DataFrame]:
        name = file.lower()
        with _one_sentence(file):
            if name.endswith(".parquet"):
                yield from self._parquet(file)
            elif name.endswith((".xlsx", ".xls", ".ods")):
                yield pd.read_excel(file)
            elif name.endswith((".json", ".jsonl", ".json.gz", ".jsonl.gz")):
                yield read_files(file)
            else:
                yield from self._text(file)

    def _text(self, file: str) -> Iterator[pd.DataFrame]:
        import fsspec

        with fsspec.open(file, "rb", compression="infer") as content:
            encoding, mark, names, comma = _written(content.read(HEAD), file)
            content.seek(0)
            settings = {"sep": mark, "encoding": encoding, "decimal": "," if comma else ".", "low_memory": False}
            settings |= {"index_col": False, "skipinitialspace": True, "chunksize": self.rows}
            settings |= {"on_bad_lines": "warn" if self.skip_bad else "error"}
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always", pd.errors.ParserWarning)
                for part in pd.read_csv(content, **settings):
                    if any("Length of header" in str(warning.message) for warning in told):
                        raise UserError(f"{file}: its rows have more cells than the header; name every column")
                    long = sum(str(warning.message).count("Skipping line") for warning in told)
                    self.skipped += Counter({"more cells than the header": long})
                    told.clear()
                    part.columns = _each_once(names, file)  # pandas would call one that is there twice NAME.1
                    yield _with_numbers(part, (COMMA, POINT) if comma else (POINT, COMMA))

    def _parquet(self, file: str) -> Iterator[pd.DataFrame]:
        import pyarrow.parquet

        # Otherwise all of a row group, which may be the whole file, is in memory.
        with pyarrow.parquet.ParquetFile(file, buffer_size=65_536, pre_buffer=False) as content:
            saved = content.schema_arrow.pandas_metadata or {}
            self.indexes |= {name for name in saved.get("index_columns", []) if isinstance(name, str)}
            for batch in content.iter_batches(self.rows):
                yield batch.to_pandas(ignore_metadata=True)


def _matching(pattern: str) -> list[str]:
    """The files that a path, glob or URL stands for."""
    if "://" in pattern or Path(pattern).is_file():
        return [pattern]
    if found := [name for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]:
        return found
    raise UserError(f"{pattern}: no such file")


def _each_once(names: list[str], file: str) -> list[str]:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{file}: the column {twice!r} is there twice; rename or remove one")
    return names


@contextlib.contextmanager
def _one_sentence(file: str) -> Iterator[None]:
    try:
        yield
    except UnicodeError:
        raise UserError(f"{file}: is not UTF-8 text; save it as UTF-8") from None
    except (ValueError, OSError, EOFError, ImportError, zlib.error, zipfile.BadZipFile) as error:
        problem = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{file}: not a readable table: {problem}") from None


def _written(head: bytes, file: str) -> tuple[str, str, list[str], bool]:
    """How a text file is written: encoding, separator, names of the columns, and whether decimals have a comma."""
    if not head.strip():
        raise UserError(f"{file}: the file is empty")
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = head.decode(encoding, errors="ignore" if len(head) >= HEAD - 1 else "strict")
    lines = [line for line in text.splitlines() if line.strip()][:200]
    mark = max(MARKS, key=lines[0].count)  # of equally many the first
    rows = list(csv.reader(io.StringIO("\n".join(lines)), delimiter=mark))
    cells = [cell.strip() for row in rows[1:] for cell in row]
    comma = mark != "," and any("," in cell and COMMA.fullmatch(cell) for cell in cells)
    names = [name.strip() or f"Unnamed: {at}" for at, name in enumerate(rows[0])]  # as pandas calls them
    return encoding, mark, names, comma


def _with_numbers(part: pd.DataFrame, notations: tuple[re.Pattern, re.Pattern]) -> pd.DataFrame:
    """The part with float64 instead of text in columns of nothing but numbers in one notation, the likelier first."""
    for name in part.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in part.dtypes]]:
        cells = part[name].dropna().astype(str).str.strip()
        for number in notations:
            if len(cells) and number.fullmatch(cells.iloc[0]) and cells.map(number.fullmatch).notna().all():
                plain = cells.str.replace("." if number is COMMA else ",", "").str.replace(",", ".")
                part[name] = plain.astype(np.float64).reindex(part.index)
                break
    return part
