"""Rows from files and hubs: reading, checking, choosing, fingerprinting, and looking for overlap between splits.

Not for a task's own formats: a script (or the task's own module) turns rows into its examples.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

import numpy as np

from common.legacy.errors import UserError

TABLE_FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


def read_json(path: Path) -> object:
    """The content of a json file. Raises `UserError` naming line and column when it is broken."""
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: broken json at line {error.lineno}, column {error.colno}: {error.msg}") from None


def read_rows(path: str | Path) -> list[dict]:
    """The rows of a csv, tsv, json (a list of rows, or rows under "data"), jsonl or parquet file, as dictionaries.

    Cells of csv and tsv are strings, with quoting and line breaks inside quotes; those of the others have their types.
    A csv whose header has no comma is separated by tabs or, as Excel writes it in many countries, by semicolons, where
    the header has these. A tab-separated file is taken to be without any quoting (GLUE's are) when every line has as
    many cells as the header, split at tabs alone, but quotes make a row wrong or join lines. Raises `UserError` for
    a missing, empty or broken file (with the line) and for an unknown ending.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in TABLE_FORMATS:
        raise UserError(f"{path}: cannot read '{ending or path.name}'; use one of {', '.join(TABLE_FORMATS)}")
    if ending == ".parquet":
        rows = _read_parquet(path)
    elif ending in (".csv", ".tsv"):
        rows = _read_delimited(path)
    elif ending == ".jsonl":
        rows = _read_jsonl(path)
    else:
        content = read_json(path)
        rows = content.get("data") if isinstance(content, dict) else content
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f'{path}: a json file must hold a list of rows, or an object with the rows under "data"')
    if not rows:
        raise UserError(f"{path}: the file has no rows")
    return rows


def _text(path: Path) -> str:
    existing_file(path)
    try:
        return path.read_bytes().decode("utf-8-sig")  # not read_text, which would make every \r\n inside a cell a \n
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def existing_file(path: str | Path) -> Path:
    """`path`, if it is a file with something in it; otherwise `UserError`."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not a file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty")
    return path


def _read_delimited(path: Path) -> list[dict]:
    text = _text(path)
    header = re.split("[\r\n]", text, maxsplit=1)[0]
    delimiter = next((mark for mark in ",\t;" if mark in header), ",") if path.suffix.lower() == ".csv" else "\t"
    if delimiter != "\t":
        return _quoted_rows(text, delimiter, path)
    try:
        rows, error = _quoted_rows(text, "\t", path), None
    except UserError as broken:
        rows, error = [], str(broken)  # the exception itself would keep the rows read so far in memory
    # A line break inside quotes leaves lines with too few cells; where there are none, the quotes are only characters.
    width = header.count("\t")
    if width and '"' in text:
        lines = [line for line in _lines(text) if line]
        if len(rows) < len(lines) - 1 and all(line.count("\t") == width for line in lines):
            names = header.split("\t")
            return [dict(zip(names, line.split("\t"))) for line in lines[1:]]
    if error:
        raise UserError(error)
    return rows


def _quoted_rows(text: str, delimiter: str, path: Path) -> list[dict]:
    csv.field_size_limit(2**31 - 1)  # contexts are longer than the module's default of 131072 characters
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, begin = [], 1
    try:
        header = next(reader, [])
        begin = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(header):
                raise UserError(f"{path}: line {reader.line_num} has {len(cells)} cells, the header has {len(header)}")
            if cells:  # a blank line has none
                rows.append(dict(zip(header, cells)))
            begin = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}: the row that begins at line {begin}: {error}") from None
    return rows


def _lines(text: str) -> list[str]:
    """Lines without their ends; unlike `str.splitlines`, U+2028, U+0085 and others end none."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _read_jsonl(path: Path) -> list[dict]:
    rows = []
    for number, line in enumerate(_lines(_text(path)), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: broken json at line {number}, column {error.colno}: {error.msg}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {number} is not an object with named columns")
        rows.append(row)
    return rows


def _read_parquet(path: Path) -> list[dict]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(existing_file(path)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:  # a broken footer is an OSError
        raise UserError(f"{path}: not a readable parquet file: {str(error).splitlines()[0]}") from None


def require_columns(columns: Iterable[str], wanted: Sequence[str], where: object) -> None:
    """Raises `UserError` naming what was found and what is wanted when a wanted column is not there."""
    columns = list(columns)
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise UserError(
            f"{where}: no column {', '.join(map(repr, missing))}; "
            f"it has {', '.join(map(repr, columns))} and needs {', '.join(map(repr, wanted))}"
        )


def is_unicode(text: str) -> bool:
    """False for a lone surrogate: json can write one, but no tokenizer and no UTF-8 file takes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def choose(available: int, wanted: int | None, seed: int) -> tuple[np.ndarray, str]:
    """Indices (ascending) of `wanted` of `available` examples, and in words how they were chosen.

    None, a negative number, or more than there are: all of them.
    """
    if wanted is None or wanted < 0 or wanted >= available:
        asked = f" ({wanted:,} were asked for)" if wanted is not None and wanted > available else ""
        return np.arange(available), f"all {available:,}{asked}"
    chosen = np.sort(np.random.default_rng(seed).permutation(available)[:wanted])
    return chosen, f"{wanted:,} of {available:,}, at random (sample_seed {seed})"


def fingerprint(rows: Iterable[tuple]) -> str:
    """SHA-256 over the rows' content, in order: two runs with the same fingerprint saw the same examples."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def overlap(splits: dict[str, Iterable[Hashable]], key: str) -> list[dict]:
    """What later splits share with earlier ones, as results.json's `data.overlaps` wants it.

    `splits` maps a split's name to one key an example (a context, a premise, a speaker); `key` is what it is called.
    """
    found = []
    earlier: list[tuple[str, set]] = []
    for name, keys in splits.items():
        keys = list(keys)
        for other, seen in earlier:
            shared = sum(k in seen for k in keys)
            if shared:
                found.append(
                    {"between": [other, name], "key": key, "examples": shared, "share": shared / max(len(keys), 1)}
                )
        earlier.append((name, set(keys)))
    return found
