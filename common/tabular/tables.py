"""Tables as people save them: whole for training, a part at a time for files larger than memory."""

import contextlib
import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from fsspec.utils import infer_compression

from common.errors import UserError, said_by
from common.files import all_different, files_of, read_file, require_file
from common.tabular.columns import MOSTLY

BLOCK, ROWS = 4_000_000, 65_536  # bytes of text, rows of parquet: a part
EMPTY = [word.lower() for word in pyarrow.csv.ConvertOptions().null_values]
EMPTY += ["<na>", "none", "nil", "?", "\\n", "nat", ".", "-", "#null!", "(null)"]
NO_HEADER = r"\ufeff?(sep=.)?\s*"  # blank, or a line by which Excel knows the separator
BLANKS = " '\u2019\xa0\u202f"  # which may part thousands, as the sign does that is not the decimal one
UNIT = rf"[\p{{Sc}}%{BLANKS}]*"  # a sign of currency, or percent
POINT, COMMA = (  # 1,23,456.00 is how India parts thousands
    rf"^([-+]?{UNIT}|{UNIT}[-+])([1-9]\d{{0,2}}([{mark}{BLANKS}]\d\d\d?)*[{mark}{BLANKS}]\d{{3}}|\d+)"
    rf"({point}\d*)?(e[-+]?\d+)?{UNIT}$"
    for mark, point in ((",", r"\."), (".", ","))
)
DECIMAL_COMMA = rf"^-?{UNIT}[\d.{BLANKS}]*,\d+{UNIT}$"
CODE = "^0[0-9xX]"  # 007 or 0x1f, perhaps an id, is carried as it stands; as a feature it is a number
KINDS = {
    pa.int64(): pd.Int64Dtype(),  # floats, as pandas has it where a cell is empty, would round ids
    pa.binary(): pd.StringDtype(na_value=float("nan")),  # as Spark and Impala write texts
}


class Tables:
    """The rows of one file or of several with the same columns; iterating reads them anew, a part at a time.

    csv, tsv and other separated text (comma, semicolon, tab or bar; UTF-8 or UTF-16; decimal comma; thousands), also
    compressed; parquet, json and jsonl; paths, globs or http(s) addresses. The index of a part is (file, row); row 1 is
    the first under the header.

    Raises `UserError`: no such file, nothing in it, other columns than the file before, a column twice, broken, such as
    a row with more or fewer cells than the header.
    """

    def __init__(self, files: Sequence[str], args=None, block: int = BLOCK):
        self.files = files_of(files, args)
        for name, path in self.files:
            require_file(path, name)
        names = [name for name, _ in self.files]
        self.source = ", ".join(names) if len(names) < 5 else f"{len(names)} files, {names[0]} ..."
        self.block = block
        self.indexes: set[str] = set()  # columns that parquet files name as the index of a saved data frame

    def __iter__(self) -> Iterator[pd.DataFrame]:
        columns = None
        for file, path in self.files:
            begin = 0
            for part in self._parts(file, str(path)):
                part.columns = [str(name).strip() for name in part.columns]
                all_different([*part.columns], file, "column")
                columns = columns or [*part.columns]
                if other := sorted({*part.columns} ^ {*columns}):
                    raise UserError(f"{file}: has other columns than {self.files[0][0]} ({', '.join(other[:5])})")
                end = begin + len(part)
                part.index = pd.MultiIndex.from_product([[file], range(begin + 1, end + 1)], names=["file", "row"])
                part.attrs["source"], begin = self.source, end
                yield part[columns]
            if not begin:
                raise UserError(f"{file}: the file has no rows")

    def whole(self) -> pd.DataFrame:
        """All rows; `source` and `indexes` are in its `attrs`, too."""
        table = pd.concat(list(self))
        table.attrs = {"source": self.source, "indexes": self.indexes}
        return table

    def _parts(self, file: str, path: str) -> Iterator[pd.DataFrame]:
        ending = (file.partition("?")[0] if "://" in file else file).lower()
        try:
            if ending.endswith((".parquet", ".pq")):
                yield from self._parquet(path)
            elif ending.removesuffix(".gz").endswith((".json", ".jsonl", ".ndjson")):
                yield typed(read_file(Path(path), file).map(str, na_action="ignore"))
            else:
                yield from self._text(file, *_inside(path, ending))
        except (UserError, MemoryError):
            raise
        except Exception as error:  # whatever damaged files make the libraries raise
            problem = f"{file}: not a readable table ({said_by(error)})"
            raise UserError(f"{problem}; mend it, or save it as csv (UTF-8), json or parquet") from None

    def _text(self, file: str, path: str, compression: str | None) -> Iterator[pd.DataFrame]:
        with fsspec.open(path, "rb", compression=compression) as content:
            encoding = "utf-16" if content.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf8"
            content.seek(0)
            lines = io.TextIOWrapper(content, encoding)
            full = ((at, line) for at, line in enumerate(lines) if not re.fullmatch(NO_HEADER, line))
            above, header = next(full, (0, ""))
            if not header or "\0" in header:  # UTF-16 without its mark, or no text
                raise ValueError("not UTF-8" if header else "the file is empty")
            mark = max(",;\t|", key=header.count)  # of equally many the first
            names = next(csv.reader([header.removeprefix("\ufeff")], delimiter=mark, skipinitialspace=True))
            names = [name.strip() or f"Unnamed: {at}" for at, name in enumerate(names)]  # as pandas calls them
            content.seek(0)
            reading = {"column_names": names, "skip_rows": above + 1, "encoding": encoding, "block_size": self.block}
            typing = {"column_types": dict.fromkeys(names, pa.large_string()), "strings_can_be_null": True}
            try:
                reader = pyarrow.csv.open_csv(
                    content,
                    pyarrow.csv.ReadOptions(use_threads=False, **reading),  # threads would not number the rows
                    pyarrow.csv.ParseOptions(delimiter=mark, newlines_in_values=True),
                    pyarrow.csv.ConvertOptions(**typing),
                )
                comma = None
                for batch in filter(len, reader):
                    if comma is None:
                        fits = [pc.match_substring_regex(cells[:200], DECIMAL_COMMA) for cells in batch.columns]
                        comma = mark != "," and any(pc.any(one).as_py() for one in fits)
                    yield typed(batch.to_pandas(), comma)
            except pa.ArrowInvalid as error:
                if row := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", str(error)):
                    at = f"{file}, row {int(row[1]) - above - 1}"  # the library counts what stands above, too
                    raise UserError(f"{at}: has {row[3]} cells, but the header has {row[2]}; mend it") from None
                raise

    def _parquet(self, path: str) -> Iterator[pd.DataFrame]:
        # Otherwise all of a row group, which may be the whole file, is in memory.
        with pyarrow.parquet.ParquetFile(path, buffer_size=65_536, pre_buffer=False) as content:
            saved = content.schema_arrow.pandas_metadata or {}
            self.indexes |= {name for name in saved.get("index_columns", []) if isinstance(name, str)}
            for batch in content.iter_batches(ROWS):
                yield typed(batch.to_pandas(ignore_metadata=True, types_mapper=KINDS.get))


def _inside(path: str, name: str) -> tuple[str, str | None]:
    """Where fsspec finds the text of a file of that name, and how it is compressed; of a zip the one file in it, beside
    what macOS adds, whose names begin with a point."""
    if not name.endswith(".zip"):
        with open(path, "rb") as file:  # programs that fetch files unpack them and keep the name, or the reverse
            is_gzip = file.read(2) == b"\x1f\x8b"
        return path, "gzip" if is_gzip else infer_compression(name.removesuffix(".gz"))
    found = [name for name in fsspec.filesystem("zip", fo=path).find("") if not PurePath(name).name.startswith(".")]
    if len(found) != 1 or found[0].endswith((".parquet", ".json", ".jsonl")):
        raise ValueError(f"must hold one csv, but holds {', '.join(found[:5]) or 'nothing'}; unpack it")
    return f"zip://{found[0]}::{path}", infer_compression(found[0])


def typed(frame: pd.DataFrame, comma: bool | None = None) -> pd.DataFrame:
    """The frame with its texts as numbers or empty, where they are; comma: whether a csv writes 1,5 and 1.234,5."""
    for at, name in enumerate(frame):
        if pd.api.types.infer_dtype(cells := frame.iloc[:, at], skipna=True) in ("string", "categorical"):
            frame.isetitem(at, _typed(name, pa.array(cells).cast(pa.large_string()), comma).array)
    return frame


def _typed(name: str, cells: pa.Array, comma: bool | None) -> pd.Series:
    """Texts as whole numbers, as numbers, or with numbers where nearly all of them are numbers in one notation."""
    for kind in (pa.int64(),) if comma else (pa.int64(), pa.float64()):
        with contextlib.suppress(pa.ArrowInvalid):
            cells[:100].cast(kind)  # every cell that fails takes its time
            numbers, is_whole = cells.cast(kind), kind == pa.int64()
            is_code = pc.any(pc.match_substring_regex(cells, CODE)) if is_whole else pc.all(pc.utf8_is_digit(cells))
            return (cells if is_code.as_py() else numbers).to_pandas(types_mapper=KINDS.get)
    cells = pc.utf8_trim_whitespace(cells)
    cells = pc.if_else(pc.is_in(pc.utf8_lower(cells), pa.array(EMPTY)), None, cells)
    broken = cells.filter(pc.match_substring_regex(cells, "[\r\n]"))[:1].to_pylist()
    if broken and comma is not None:
        raise ValueError(f"{name} holds {broken[0][:40]!r}: a line break, or a quote that does not close")
    for notation, point in ((COMMA, ","), (POINT, ".")) if comma else ((POINT, "."), (COMMA, ",")):
        fits = pc.match_substring_regex(cells, notation, ignore_case=True)
        units = {*pc.replace_substring_regex(cells.filter(fits), r"[^\p{Sc}%]", "").unique().to_pylist()}
        if (pc.mean(fits).as_py() or 0) >= MOSTLY and len(units - {""}) < 2:
            plain = pc.replace_substring_regex(pc.if_else(fits, cells, None), rf"[^-+\dEe{point}]", "")
            numbers = pc.replace_substring(plain, ",", ".").cast(pa.float64()).to_pandas()
            return cells.to_pandas().astype(object).where(numbers.isna(), numbers).infer_objects()
    return cells.to_pandas()
