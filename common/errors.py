"""One sentence instead of a traceback, and files that are whole or not there.

Not for bugs: anything that is not a `UserError` (or one of the few system conditions below) keeps its traceback.
"""

import contextlib
import csv
import errno
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

DISK_ERRORS = {
    errno.ENOSPC: "no space is left on the disk; free some, or choose another --output_dir",
    errno.EDQUOT: "the disk quota is used up; free some space, or choose another --output_dir",
    errno.EROFS: "the file system is read-only; choose another --output_dir",
    errno.EACCES: "permission is denied; see who may read and write there",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}
# How libraries that write files by themselves say that the disk is full: safetensors, torch, numpy.
FULL = re.compile(
    r"os error 28|No space left|iostream error|inline_container|PytorchStreamWriter|\d+ requested and \d+ written"
)

# How gloo and NCCL say that a process of the launch is gone.
PEER = re.compile(r"onnection (closed|reset) by peer|remote process exited|NCCL .*(abort|remote)", re.IGNORECASE)
INTERRUPTED = "interrupted before anything was trained; nothing was written that a new run would need"
FORMULA = re.compile(r"'*[=+\-@\t\r]")
NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?", re.IGNORECASE)


class UserError(Exception):
    """A mistake the user can mend. The message is one sentence: the file, the row, the remedy."""


class Interrupted(BaseException):
    """The run was asked to stop (SIGINT or SIGTERM) and has left a state that can be resumed.

    No `Exception`, as `KeyboardInterrupt` is none: it may come anywhere, and libraries turn exceptions into others.
    `signal_number` is what asked; the exit status is the shell's convention, 128 + signal_number.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


def disk_problem(error: BaseException) -> str | None:
    """The sentence for an error that the disk is to blame for, whichever library raised it; None for others."""
    number = getattr(error, "errno", None)
    if number is None and isinstance(error, Exception) and FULL.search(str(error)):
        number = errno.ENOSPC
    if number not in DISK_ERRORS:
        return None
    name = getattr(error, "filename", None)
    return f"{name}: {DISK_ERRORS[number]}" if name else DISK_ERRORS[number]


def peer_ended(error: BaseException) -> bool:
    """Whether an error says that another process of the launch is gone."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and PEER.search(str(error)) is not None


def said_by(error: BaseException) -> str:
    """What an error says, on one line: its first that is not blank, else its kind."""
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)


def without_secrets(text: str) -> str:
    """The text with *** for the user and the query of web addresses, which may hold a password or a key."""
    text = re.sub(r'(https?://)[^/?"\0]*@', r"\1***@", text, flags=re.IGNORECASE)
    return re.sub(r'(https?://[^?"\0]*\?)[^"\0]*', r"\1***", text, flags=re.IGNORECASE)


def quiet_interrupt(kind: type[BaseException], error: BaseException, trace) -> None:
    """For `sys.excepthook`: Ctrl-C is no traceback while a script still imports its libraries."""
    if issubclass(kind, KeyboardInterrupt):
        print(f"{Path(sys.argv[0]).name}: {INTERRUPTED}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def exit_status(run: Callable[[], object], script: str) -> int:
    """Runs `run` and returns an exit status: 0, 2 for the user's mistakes, 128 + n after signal n, 1 where another
    process of the launch has ended.

    Every process of a distributed launch prints its own sentence; only what a user can act on is printed, on stderr.
    """
    try:
        run()
    except UserError as error:
        sentence, status = str(error), 2
    except Interrupted as stop:
        sentence, status = str(stop), 128 + stop.signal_number
    except KeyboardInterrupt:
        sentence, status = INTERRUPTED, 130
    except Exception as error:
        sentence, status = disk_problem(error), 2
        if sentence is None and peer_ended(error):
            sentence, status = "another process of this run has ended; its own message says why", 1
        if sentence is None:
            raise
    else:
        return 0
    sys.stdout.flush()
    rank = os.environ.get("RANK", "0")
    who = script if rank == "0" else f"{script} (process {rank})"
    print(f"{who}: error: {sentence}" if status in (1, 2) else f"{who}: {sentence}", file=sys.stderr, flush=True)
    return status


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


def csv_cell(value: object) -> object:
    """The value; a text that a spreadsheet would run as a formula (it begins with =, +, -, @) after an apostrophe."""
    dangerous = isinstance(value, str) and FORMULA.match(value) and not NUMBER.fullmatch(value)
    return f"'{value}" if dangerous else value


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> Path:
    """Writes a csv file (UTF-8), its texts by `csv_cell`."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([csv_cell(cell) for cell in row] for row in (header, *rows))
    return write_bytes(path, text.getvalue().encode())
