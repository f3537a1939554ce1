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

from common.errors import UserError

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
    Raises `UserError` for a missing, empty or broken file (with the line) and for an unknown ending.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in TABLE_FORMATS:
        raise UserError(f"{path}: cannot read '{ending or path.name}'; use one of {', '.join(TABLE_FORMATS)}")
    if ending == ".parquet":
        rows = _read_parquet(path)
    elif ending in (".csv", ".tsv"):
        rows = _read_delimited(path, "," if ending == ".csv" else "\t")
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


def _read_delimited(path: Path, delimiter: str) -> list[dict]:
    csv.field_size_limit(2**31 - 1)  # contexts are longer than the module's default of 131072 characters
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        for row in reader:
            if None in row or None in row.values():
                found = sum(len(v) if isinstance(v, list) else v is not None for v in row.values())
                raise UserError(
                    f"{path}: line {reader.line_num} has {found} cells, the header has {len(reader.fieldnames)}"
                )
            rows.append(row)
    except csv.Error as error:
        raise UserError(f"{path}: the row that begins at line {reader.line_num + 1}: {error}") from None
    return rows


def _read_jsonl(path: Path) -> list[dict]:
    rows = []
    for number, line in enumerate(re.split(r"\r\n|\n|\r", _text(path)), start=1):
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
