"""Files that are whole or not there: everything a run leaves behind is written in one move."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to; what is there when the block ends takes the place of `path`, and nothing if the block fails.

    A reader finds the old file or the new one, never half of it. For files that are written piece by piece.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> Path:
    """Writes a file in one move."""
    with whole_file(path) as partial:
        partial.write_bytes(content)
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
