"""Tables as people save them: whole for training, a part at a time for files larger than memory."""

import contextlib
import csv
import io
import itertools
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd

from common.errors import UserError, said_by
from common.files import all_different, matching, read_files
from common.tabular.columns import MOSTLY

PART = 65_536  # rows
MARKS = ",;\t|"
BLANKS = " '\u2019\xa0\u202f"  # which may part thousands, as the sign does that is not the decimal one
POINT = re.compile(rf"-?(\d{{1,3}}([,{BLANKS}]\d{{2,3}})*[,{BLANKS}]\d{{3}}|\d+)(\.\d*)?")
COMMA = re.compile(rf"-?(\d{{1,3}}([.{BLANKS}]\d{{3}})+|\d+)(,\d+)?")


class Tables:
    """The rows of one file or of several with the same columns; iterating reads them anew, in parts of `rows` rows.

    csv, tsv and other separated text (comma, semicolon, tab or bar; UTF-8 or UTF-16; decimal comma; thousands), also
    compressed; parquet, json and jsonl; paths, globs or URLs. The index of a part is (file, row); row 1 is the first
    under the header. With skip_bad, rows of text with more or fewer cells than the header are left out and counted.

    Raises `UserError`: no such file, nothing in it, broken, other columns than the file before, a column twice.
    """

    def __init__(self, files: Sequence[str], skip_bad: bool = False, rows: int = PART):
        self.files = [name for pattern in files for name in matching(str(pattern))]
        all_different(self.files, "the data", "file")
        if wrong := [file for file in self.files if "://" not in file and not Path(file).is_file()]:
            raise UserError(f"{wrong[0]}: no such file")
        more = f" and {len(self.files) - 3} more" if len(self.files) > 3 else ""
        self.source = ", ".join(self.files[:3]) + more
        self.skip_bad, self.rows = skip_bad, rows
        self.skipped: Counter = Counter()  # reason -> rows left out, of what has been read so far
        self.indexes: set[str] = set()  # columns that parquet files name as the index of a saved data frame

    def __iter__(self) -> Iterator[pd.DataFrame]:
        columns = None
        for file in self.files:
            begin = 0
            for part in self._parts(file):
                part.columns = [str(name).strip() for name in part.columns]
                all_different([*part.columns], file, "column")
                columns = list(part.columns) if columns is None else columns
                if set(part.columns) != set(columns):
                    other = sorted(set(part.columns) ^ set(columns))
                    raise UserError(f"{file}: has other columns than {self.files[0]} ({', '.join(other[:5])})")
                rows = part.attrs.pop("rows", range(begin + 1, begin + len(part) + 1))
                part.index = pd.MultiIndex.from_product([[file], rows], names=["file", "row"])
                part.attrs["source"] = self.source
                begin += len(part)
                yield part[columns]
            if not begin:
                raise UserError(f"{file}: the file has no rows")

    def whole(self) -> pd.DataFrame:
        """All rows; `skipped` and `indexes` are in its `attrs`, too."""
        table = pd.concat(list(self))
        table.attrs = {"source": self.source, "skipped": dict(self.skipped), "indexes": self.indexes}
        return table

    def _parts(self, file: str) -> Iterator[pd.DataFrame]:
        with _one_sentence(file):
            if file.lower().endswith(".parquet"):
                yield from self._parquet(file)
            elif file.lower().removesuffix(".gz").endswith((".json", ".jsonl")):
                yield read_files(file).infer_objects()
            else:
                yield from self._text(file)

    def _text(self, file: str) -> Iterator[pd.DataFrame]:
        csv.field_size_limit(2**31 - 1)
        with fsspec.open(_address(file), "rb", compression="infer") as content:
            encoding = "utf-16" if content.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
            content.seek(0)
            lines = io.TextIOWrapper(content, encoding, newline="")
            header = next((line for line in lines if line.strip()), "")
            if not header:
                raise UserError(f"{file}: the file is empty")
            if "\0" in header:  # UTF-16 without its mark, or no text
                raise UnicodeError
            mark = max(MARKS, key=header.count)  # of equally many the first
            names = next(csv.reader(itertools.chain([header], lines), delimiter=mark, skipinitialspace=True))
            names = [name.strip() or f"Unnamed: {at}" for at, name in enumerate(names)]  # as pandas calls them
            all_different(names, file, "column")
            rows, comma = self._rows(lines, mark, len(names), file), None
            while part := list(itertools.islice(rows, self.rows)):
                numbers, texts = zip(*part)
                if comma is None:
                    cells = itertools.chain.from_iterable(csv.reader(texts[:200], delimiter=mark))
                    comma = mark != "," and any("," in cell and COMMA.fullmatch(cell) for cell in cells)
                settings = {"sep": mark, "decimal": "," if comma else ".", "na_values": ["?"], "skipinitialspace": True}
                settings |= {"names": names, "header": None, "index_col": False, "low_memory": False}
                frame = _with_numbers(pd.read_csv(io.BytesIO("".join(texts).encode()), **settings), comma)
                frame.attrs["rows"] = numbers
                yield frame

    def _rows(self, lines: Iterator[str], mark: str, width: int, file: str) -> Iterator[tuple[int, str]]:
        """Number and text of the rows that have as many cells as the header."""
        for number, line in enumerate((line for line in lines if line.strip(" \r\n")), start=1):
            cells, text = line.count(mark) + 1, [line]
            if '"' in line:  # marks and ends of lines may be within quotes
                more = (text.append(line) or line for line in lines)
                table = csv.reader(itertools.chain([line], more), delimiter=mark, skipinitialspace=True, strict=True)
                try:
                    cells = len(next(table))
                except csv.Error as error:
                    raise UserError(f"{file}, row {number}: {error}") from None
            if cells == width:
                yield number, "".join(text)
                continue
            problem = f"{'more' if cells > width else 'fewer'} cells than the header"
            if not self.skip_bad:
                raise UserError(f"{file}, row {number}: has {problem}; mend it or pass --on_bad_example skip")
            self.skipped[problem] += 1

    def _parquet(self, file: str) -> Iterator[pd.DataFrame]:
        import pyarrow.parquet

        # Otherwise all of a row group, which may be the whole file, is in memory.
        with pyarrow.parquet.ParquetFile(file, buffer_size=65_536, pre_buffer=False) as content:
            saved = content.schema_arrow.pandas_metadata or {}
            self.indexes |= {name for name in saved.get("index_columns", []) if isinstance(name, str)}
            for batch in content.iter_batches(self.rows):
                yield batch.to_pandas(ignore_metadata=True)


def _address(file: str) -> str:
    """Where fsspec finds a file: of a zip the one file in it."""
    if not file.lower().endswith(".zip"):
        return file
    found = [name for name in fsspec.filesystem("zip", fo=file).find("") if not name.startswith("__MACOSX/")]
    if len(found) != 1 or found[0].endswith((".parquet", ".json", ".jsonl")):
        raise UserError(f"{file}: must hold one csv, but holds {', '.join(found[:5]) or 'nothing'}; unpack it")
    return f"zip://{found[0]}::{file}"


@contextlib.contextmanager
def _one_sentence(file: str) -> Iterator[None]:
    try:
        yield
    except UnicodeError:
        raise UserError(f"{file}: is not UTF-8 text; save the table as csv (UTF-8), json or parquet") from None
    except (ValueError, OSError, EOFError, ImportError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"{file}: not a readable table: {said_by(error)}") from None


def _with_numbers(part: pd.DataFrame, comma: bool) -> pd.DataFrame:
    """Numbers instead of text where nearly all cells of a column are numbers in one notation."""
    for name in part.select_dtypes(exclude=["number", "bool"]):
        present = part[name].dropna().astype(str).str.strip()
        for number, point in ((COMMA, ","), (POINT, ".")) if comma else ((POINT, "."), (COMMA, ",")):
            fitting = present[present.str.fullmatch(number)]
            if len(fitting) and len(fitting) >= MOSTLY * len(present):
                plain = fitting.str.replace(rf"[^-\d{point}]", "", regex=True).str.replace(",", ".")
                numbers = plain.astype(np.float64).reindex(part.index)
                part[name] = part[name].astype(object).where(numbers.isna(), numbers).infer_objects()
                break
    return part
