"""Files that are whole or not there: everything a run leaves behind is written in one move."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path


def write_bytes(path: Path, content: bytes) -> Path:
    """Writes a file in one move: a reader finds the old one or the new one, never half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    return path


def write_json(path: Path, content: object) -> Path:
    """Writes json (UTF-8, readable, no NaN)."""
    return write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> Path:
    """Writes a csv file (UTF-8)."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    return write_bytes(path, text.getvalue().encode())
