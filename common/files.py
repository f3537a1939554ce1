"""Files as people have them, as rows: read and checked, so that a sentence names file and row."""

import csv
import glob
import gzip
import io
import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet

from common.errors import UserError, without_secrets
from common.hub import class_names, downloaded, fetching, frame_of, numbered

FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
OTHER_ENDINGS = {".ndjson": ".jsonl", ".pq": ".parquet"}
ADDRESS = ("http://", "https://")


def read_files(spec: str | Path | Sequence[str | Path], args=None) -> pd.DataFrame:
    """The rows of csv, tsv, json (a list of rows, rows under "data", or a row a line), jsonl and parquet files.

    `spec`: file, glob or http(s) address, or several; compressed by gzip or in a zip of one file, too. A csv may be
    separated by commas, tabs, semicolons or `|`, whichever its header has most of; text is UTF-8, or UTF-16 with its
    mark. `args`: with cache_dir, where addresses are fetched to.

    Returns:
        A row each; the index is (file, row from 1). Cells of csv and tsv are strings as they stand ("007", "NA", "");
        those of the others have their types, and what is missing is None or NaN. attrs: "source" in words;
        "label_names", column -> names of the classes, where a parquet file's schema has them.

    Raises:
        UserError: naming the file, and the line or row, for whatever is wrong with it.
    """
    frames = [numbered(read_file(path, name), name) for name, path in files_of(spec, args)]
    first = frames[0]
    for frame in frames[1:]:
        if odd := {*frame.columns} ^ {*first.columns}:
            files = f"{first.attrs['source']}, {frame.attrs['source']}"
            raise UserError(f"{files}: must have the same columns, but only one has {listed(sorted(odd, key=str))}")
    if len(frames) == 1:
        return first
    together = pd.concat(frames)
    shown = [frame.attrs["source"] for frame in frames]
    shown = shown if len(shown) < 5 else [*shown[:2], "...", shown[-1]]
    together.attrs = {**first.attrs, "source": f"{len(frames)} files: {', '.join(shown)}"}
    return together


def where(frame: pd.DataFrame, i: int) -> str:
    """Which row of which file the i-th is: "train.csv, row 3"."""
    file, row = frame.index[i]
    return f"{file}, row {row}"


def listed(names: Iterable[str]) -> str:
    """Names for a message, the first 20."""
    names = list(names)
    return ", ".join(f"{name[:60]!r}" for name in names[:20]) + f", ... ({len(names):,})" * (len(names) > 20)


def require_columns(columns: Iterable[str], wanted: Sequence[str], where: object) -> None:
    """Raises `UserError` naming what was found and what is wanted when a wanted column is not there."""
    columns = list(columns)
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise UserError(f"{where}: no column {listed(missing)}; it has {listed(columns)} and needs {listed(wanted)}")


def without_bad(
    frame: pd.DataFrame, problems: Mapping[int, tuple[str, str | None]], on_bad_example: str
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The frame without its bad rows, and reason -> how many were left out; the first one stops the run if so wished.

    `problems`: position of a row -> the reason (to count) and the sentence (to say); without a sentence the row is left
    out whatever `on_bad_example` ("stop" or "skip") is.
    """
    skipped = Counter()
    for i, (reason, sentence) in sorted(problems.items()):
        if sentence and on_bad_example == "stop":
            raise UserError(f"{where(frame, i)}: {sentence}; mend it or pass --on_bad_example skip")
        skipped[reason] += 1
    if problems and len(problems) == len(frame):
        raise UserError(f"{frame.attrs['source']}: no usable row ({dict(skipped)})")
    return frame[~np.isin(np.arange(len(frame)), list(problems))], dict(skipped)


def files_of(spec: str | Path | Sequence[str | Path], args=None) -> list[tuple[str, Path]]:
    """(What it is called in messages, where it is) of each file that paths, patterns or http(s) addresses stand for."""
    names = [name for one in ([spec] if isinstance(spec, str | Path) else spec) for name in matching(str(one))]
    all_different([name if name.startswith(ADDRESS) else os.path.realpath(name) for name in names], "the data", "file")
    return [(without_secrets(n), downloaded(n, args) if n.startswith(ADDRESS) else Path(n)) for n in names]


def matching(name: str) -> list[str]:
    """The files that a path, a pattern or an address stands for."""
    if name.startswith(ADDRESS) or os.path.exists(name) or not glob.has_magic(name):
        return [name]
    found = sorted(path for path in glob.glob(name, recursive=True) if Path(path).is_file())
    if not found:
        raise UserError(f"{name}: no file has such a name")
    return found


def read_file(path: Path, name: str) -> pd.DataFrame:
    """The rows of one file, called `name` in messages and by its ending."""
    ending, content = _content(path, name)
    if ending == ".parquet":
        frame = _read_parquet(content, name)
    elif ending in (".csv", ".tsv"):
        frame = _read_delimited(_text(content, name), ending, name)
    else:
        frame = _read_json(_text(content, name), ending, name)
    if frame.empty:
        raise UserError(f"{name}: the file has no rows")
    return frame


def _content(path: Path, name: str) -> tuple[str, bytes]:
    """The ending that says what is in a file, and what is in it, decompressed."""
    inner = PurePath(name.partition("?")[0] if "://" in name else name)
    with fetching("file", name):
        require_file(path, name)
        content = path.read_bytes()
        inner = inner.with_suffix("") if inner.suffix.lower() == ".gz" else inner
        zipped = inner.suffix.lower() == ".zip" or (content.startswith(b"PK\3\4") and inner.suffix.lower() in FORMATS)
        if content.startswith(b"\x1f\x8b"):  # programs that fetch files unpack them and keep the name, or the reverse
            content = gzip.decompress(content)
        elif zipped and content:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:  # macOS adds files whose names begin with a point
                files = [i for i in archive.namelist() if not i.endswith("/") and not PurePath(i).name.startswith(".")]
                if len(files) != 1:
                    raise UserError(f"{name}: must hold one file, but holds {len(files)}; unpack it and name the files")
                inner, content = PurePath(files[0]), archive.read(files[0])
    if not content:
        raise UserError(f"{name}: the file is empty")
    ending = OTHER_ENDINGS.get(inner.suffix.lower(), inner.suffix.lower())
    if ending not in FORMATS:
        raise UserError(f"{name}: cannot read {inner.suffix or inner.name!r}; use one of {', '.join(FORMATS)}")
    return ending, content


def require_file(path: Path, name: str) -> None:
    """Raises `UserError` for what is no file, which is not opened: a pipe would wait for ever."""
    if not path.is_file():
        raise UserError(f"{name}: {'is a folder, pipe or device, not a file' if path.exists() else 'no such file'}")


def _text(content: bytes, name: str) -> str:
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        if "\0" not in (text := content.decode(encoding)):
            return text
        odd = content.index(0)
    except UnicodeDecodeError as error:
        odd = error.start
    raise UserError(f"{name}: not UTF-8 text (byte {odd}); save it as UTF-8")


def _lines(text: str) -> list[str]:
    """Lines without their ends; unlike `str.splitlines`, U+2028, U+0085 and others end none."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _read_delimited(text: str, ending: str, name: str) -> pd.DataFrame:
    """A tab-separated file is taken to be without any quoting (GLUE's are) when all its lines have as many tabs, but
    quotes make a row wrong or join lines."""
    text = re.sub(r'\A"?sep=.?"?(?=[\r\n])', "", text)  # Excel's line about the separator
    header = re.split("[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    delimiter = max(",\t;|", key=header.count) if ending == ".csv" else "\t"
    style = {"delimiter": delimiter, "skipinitialspace": delimiter != "\t" and f"{delimiter} " in header}
    lines = [line for line in _lines(text) if line] if delimiter == "\t" else []
    even = bool(lines) and {line.count("\t") for line in lines} == {header.count("\t")} != {0}
    try:
        frame = _cells(text, name, **style)
        if not even or len(frame) == len(lines) - 1:
            return frame
    except UserError:
        if not even:
            raise
    return _cells(text, name, quoting=csv.QUOTE_NONE, **style)


def _cells(text: str, name: str, **style) -> pd.DataFrame:
    csv.field_size_limit(2**31 - 1)  # contexts are longer than the module's default of 131072 characters
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, **style)
    lines, rows, begin = filter(None, reader), [], 1  # a blank line has no cells
    try:
        header = next(lines, [])
        begin = reader.line_num + 1
        for cells in lines:
            if len(cells) != len(header):
                raise UserError(f"{name}: line {reader.line_num} has {len(cells)} cells, the header has {len(header)}")
            rows.append(cells)
            begin = reader.line_num + 1
    except csv.Error as error:
        remedy = "in a quoted cell, a quote is written twice"
        raise UserError(f"{name}: the row that begins at line {begin}: {error}; {remedy}") from None
    # A column without a name is called what pandas calls it: it is mostly an index that was saved.
    header = [cell.strip() or f"Unnamed: {i}" for i, cell in enumerate(header)]
    all_different(header, name, "column")
    return pd.DataFrame(rows, columns=header, dtype=str)


def all_different(names: list[str], at: str, what: str) -> None:
    """Raises `UserError` for a name that is there twice."""
    if twice := [name for name, count in Counter(names).most_common(1) if count > 1]:
        raise UserError(f"{at}: the {what} {twice[0]!r} is there twice; rename or remove one")


def _read_json(text: str, ending: str, name: str) -> pd.DataFrame:
    lines = [(number, line.strip()) for number, line in enumerate(_lines(text), start=1) if line.strip()]
    by_line = ending == ".jsonl" or (len(lines) > 1 and all(line[0] + line[-1] == "{}" for _, line in lines[:2]))
    if by_line and not text.lstrip().startswith("["):
        rows = [_loads(line, name, number) for number, line in lines]
        if odd := next((number for (number, _), row in zip(lines, rows) if not isinstance(row, dict)), None):
            raise UserError(f"{name}: line {odd} is not an object with named columns")
    else:
        rows = _loads(text, name)
        if isinstance(rows, dict):
            is_row = len(lines) == 1 and any(not isinstance(value, list | dict) for value in rows.values())
            rows = rows.get("data", [rows] if is_row else None)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f'{name}: a json file must hold a list of rows, or an object with the rows under "data"')
    columns = dict.fromkeys(column for row in rows for column in row)
    return pd.DataFrame({column: [row.get(column) for row in rows] for column in columns}, dtype=object)


def _loads(text: str, name: str, line: int | None = None) -> object:
    """The content of a json text: a file, or its line `line`."""
    at = name if line is None else f"{name}: line {line}"

    def unique(pairs: list[tuple[str, object]]) -> dict:
        if len(found := dict(pairs)) < len(pairs):
            all_different([key for key, _ in pairs], at, "key")
        return found

    try:
        content = json.loads(text, object_pairs_hook=unique)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(content, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        place = f"line {line or error.lineno}, column {error.colno}"
        raise UserError(f"{name}: broken json at {place}: {error.msg}") from None
    except UnicodeEncodeError as error:
        before = error.object[max(0, error.start - 30) : error.start]
        raise UserError(f"{at}: half of a surrogate pair, which is no character, after {before!r}; remove it") from None
    except (ValueError, RecursionError):
        raise UserError(f"{at}: a number has too many digits, or lists are nested too deeply, to be read") from None
    return content


def _read_parquet(content: bytes, name: str) -> pd.DataFrame:
    with fetching("file", name):
        table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content)).read()
        table.validate(full=True)  # texts may be no UTF-8
        all_different(table.column_names, name, "column")
        numbers = [field for field in table.schema if pyarrow.types.is_integer(field.type)]  # others may be of any type
        features = datasets.Features.from_arrow_schema(pyarrow.schema(numbers, table.schema.metadata))
        return frame_of(table, class_names(features))
