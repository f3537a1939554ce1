"""The output directory of a run: whose it is, which checkpoint in it can be resumed, what may be replaced."""

import contextlib
import fnmatch
import hashlib
import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from common.errors import UserError, write_json

RUN_FILE, LOCK_FILE, HOLDER_FILE, SUMS_FILE = "run.json", ".run.lock", ".run.holder", "checksums.json"
# What a run writes: --overwrite_output_dir removes it, and nothing else.
WRITTEN = (
    *("checkpoint-*", RUN_FILE, "demo", "merged", "runs", "plots", "README.md", "report.html"),
    *("*results.json", "trainer_state.json", "training_args.bin", "*predictions.csv", "*predictions.json"),
    *("*null_odds.json", "config.json", "generation_config.json", "model*.safetensors*", "adapter_*", "*.keras"),
    *("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model", "*.jinja"),
    *("preprocessor_config.json", "processor_config.json", "columns.json", "recordings.csv"),
)
logger = logging.getLogger(__name__)


def checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name[11:]))


def seal(checkpoint: Path, identity: Mapping) -> None:
    """Puts a checkpoint safely on the disk, with the identity of its run; written last, sums show that it is whole."""
    write_json(checkpoint / RUN_FILE, identity)
    finish_files(checkpoint)
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != SUMS_FILE)
    write_json(checkpoint / SUMS_FILE, {path.relative_to(checkpoint).as_posix(): _sum(path) for path in files})


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None if every file is as it was saved."""
    try:
        sums = json.loads((checkpoint / SUMS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"it is not whole, or not of these scripts ({SUMS_FILE} is missing or damaged)"
    for name, expected in {RUN_FILE: None, **sums}.items():
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if _sum(checkpoint / name) != expected:
            return f"{name} is damaged"
    return None


def _newest_whole(output_dir: Path) -> Path | None:
    """The newest checkpoint that can be read; what is passed over is said."""
    for checkpoint in reversed(checkpoints(output_dir)):
        problem = damage(checkpoint)
        if problem is None:
            return checkpoint
        logger.warning("%s is passed over: %s", checkpoint, problem)
    return None


def prepare_output_dir(
    settings, until_end: contextlib.ExitStack, *, overwrite: bool, inputs: Iterable[str] = ()
) -> Path | None:
    """Decides what happens to an output directory, and locks it; the checkpoint to resume from, or None.

    `--resume_from_checkpoint PATH`, or `auto`, goes on where an earlier run stopped; `auto` starts anew where there is
    no checkpoint yet. Otherwise a directory with something in it is refused unless `overwrite`, which empties it.

    Args:
        settings: with `output_dir`, `resume_from_checkpoint` and `do_train`.
        until_end: what gives the lock back.
        inputs: files and folders that the run reads; overwriting must not remove them.

    Raises:
        UserError: a directory that is in use, not empty, not writable, not a run's, or no directory; a checkpoint that
            is not there or damaged.
    """
    folder, training = Path(settings.output_dir), settings.do_train
    resume = str(settings.resume_from_checkpoint or "false")
    auto = resume.lower() in ("auto", "true")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output_dir {folder}: is a file; choose another --output_dir")
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"--output_dir {folder}: cannot write there; choose another --output_dir")
    made = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    until_end.callback(_remove_empty, made)  # a run that was refused leaves no empty folders
    _lock(folder, until_end)
    wanted = None
    if not auto and resume.lower() != "false":
        wanted = Path(resume)
        if not training:
            raise UserError("--resume_from_checkpoint continues a training; to use a checkpoint as it is, give --model")
        if not wanted.is_dir():
            raise UserError(f"--resume_from_checkpoint {wanted}: no checkpoint of a training there")
        if problem := damage(wanted):
            raise UserError(f"--resume_from_checkpoint {wanted}: {problem}; choose an earlier checkpoint, or auto")
    # Hidden is the lock, what a killed run was writing, what systems leave; a refused run may have left demo data.
    there = {path.name for path in folder.iterdir() if not path.name.startswith(".") and path.name != "demo"}
    found = checkpoints(folder)
    if auto and training:
        goes_on = bool(found) or not there or (RUN_FILE in there and "results.json" not in there)
    else:
        goes_on = wanted is not None and wanted.resolve().parent == folder.resolve()
    if there and not goes_on and not overwrite:
        holds = f" and holds {found[-1].name}" if found else ""
        remedy = " --resume_from_checkpoint auto to go on from it," if found and training else ""
        raise UserError(
            f"--output_dir {folder}: is not empty{holds}; give{remedy} --overwrite_output_dir to replace it, "
            "or another --output_dir"
        )
    if there and not goes_on:
        foreign = sorted(name for name in there if not any(fnmatch.fnmatch(name, pattern) for pattern in WRITTEN))
        if foreign:
            raise UserError(
                f"--output_dir {folder}: holds {', '.join(foreign[:3])}, which no run has written; "
                "nothing is removed, choose another --output_dir"
            )
        if own := next((name for name in inputs if folder.resolve() in (p := Path(name).resolve(), *p.parents)), None):
            raise UserError(
                f"--overwrite_output_dir would remove {own}, which this run reads; choose another --output_dir"
            )
        for name in there:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return _newest_whole(folder) if auto and training else wanted


def _remove_empty(folders: Iterable[Path]) -> None:
    with contextlib.suppress(OSError):
        for path in folders:
            path.rmdir()


def _lock(folder: Path, until_end: contextlib.ExitStack) -> None:
    """One run a folder: the lock goes with the process that holds it, also when that is killed."""
    from filelock import FileLock, Timeout

    lock, holder = FileLock(folder / LOCK_FILE), folder / HOLDER_FILE
    try:
        lock.acquire(blocking=False)
    except Timeout:
        try:
            who = json.loads(holder.read_text(encoding="utf-8"))
            who = f"process {who['process']} on {who['host']}, since {who['since']}"
        except (OSError, ValueError, KeyError):
            who = "another process"
        raise UserError(
            f"--output_dir {folder}: is in use by {who}; wait for it, or choose another --output_dir"
        ) from None
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(holder, {"process": os.getpid(), "host": socket.gethostname(), "since": now})

    def release() -> None:
        holder.unlink(missing_ok=True)
        lock.release()
        with contextlib.suppress(OSError):
            (folder / LOCK_FILE).unlink(missing_ok=True)

    until_end.callback(release)


def finish_files(folder: Path) -> None:
    """Puts what was saved in `folder` safely on the disk, with the usual permissions (safetensors leaves 0600)."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(0o666 & ~mask)
            with path.open("rb+") as file:
                os.fsync(file.fileno())
