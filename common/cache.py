"""The cache: what is computed or unpacked once, and computed by all processes together.

`python -m common.cache` says where it is and how large; `--clear` empties it. Everything in it can be made again.
"""

import argparse
import contextlib
import hashlib
import json
import logging
import os
import shutil
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import datasets
import filelock
import numpy as np

from common.errors import UserError, said_by
from common.files import require_file

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
STARTED = time.time()
logger = logging.getLogger(__name__)


def cache_dir(args=None) -> Path:
    """The folder of the cache: in `--cache_dir` if it is given, else in the user's folder for caches."""
    given = getattr(args, "cache_dir", None) or os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return Path(given or Path.home() / ".cache") / "finetuning-scripts"


def shared_map(
    dataset: datasets.Dataset, function: Callable, *, key: dict, args, run=None, **map_arguments
) -> datasets.Dataset:
    """`dataset.map(function, **map_arguments)`, kept on disk, memory-mapped; each process computes a share of the rows.

    A process computes whichever part is not there and not being computed by another, beginning with its own; so nobody
    waits in a collective, a slow or dead process does not hold up the others, and machines without a common disk each
    compute the whole. The function must treat each row alone: where batches begin depends on the number of processes.

    `key`: all that the result depends on (fingerprints, names, settings), for json; the code in the function's folder
    is in it, too. `run`: its `warn` gets what went wrong with the cache.
    """
    processes, process = min(args.training_args.world_size, len(dataset)), args.training_args.process_index
    settings = json.dumps([key, _code_of(function), len(dataset), processes], sort_keys=True)
    name = hashlib.sha256(settings.encode()).hexdigest()[:40]
    folder = cache_dir(args) / "maps" / name
    notice = run.warn if run else logger.warning
    oldest = STARTED if args.overwrite_cache else 0.0

    def compute(i: int) -> datasets.Dataset:
        for left in folder.glob(f"{i}-*"):  # of a killed process
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f"{i}-") as partial:  # a full disk leaves nothing half
            rows, target = dataset.shard(processes, i, contiguous=True), f"{partial}/rows.arrow"
            rows.map(function, cache_file_name=target, new_fingerprint=f"{name}-{i}", **map_arguments)
            os.replace(target, folder / f"{i}.arrow")
        return datasets.Dataset.from_file(str(folder / f"{i}.arrow"))

    try:
        folder.mkdir(parents=True, exist_ok=True)
        parts = {i: _load(folder / f"{i}.arrow", oldest, notice) for i in range(processes)}
        while missing := [i for i in parts if parts[i] is None]:
            for i in sorted(missing, key=lambda i: (i - process) % processes):
                with contextlib.suppress(filelock.Timeout), filelock.FileLock(folder / f"{i}.lock", timeout=0):
                    parts[i] = _load(folder / f"{i}.arrow", oldest)  # another process may have been quicker
                    if parts[i] is None:
                        parts[i] = compute(i)
            if None in parts.values():
                time.sleep(0.2)  # others compute what is missing
    except OSError as error:  # one of the function's own comes again
        notice(f"cache {folder.parent}: {error.strerror or error}; going on without it, in memory")
        return dataset.map(function, keep_in_memory=True, new_fingerprint=name, **map_arguments)
    return datasets.concatenate_datasets([*parts.values()])


def _code_of(function: Callable) -> str:
    """SHA-256 of the modules beside a function: who changes how something is computed wants it anew."""
    module = sys.modules[getattr(function, "func", function).__module__]
    file, digest = getattr(module, "__file__", None), hashlib.sha256()
    for path in sorted(Path(file).parent.glob("*.py")) if file else ():  # a notebook has none
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _load(file: Path, oldest: float, notice: Callable[[str], object] = logger.debug) -> datasets.Dataset | None:
    """A part that is there, whole, and not older than that."""
    try:
        if file.stat().st_mtime >= oldest:
            return datasets.Dataset.from_file(str(file))
    except FileNotFoundError:
        pass
    except Exception as error:  # whatever a damaged file makes the libraries raise
        notice(f"{file}: damaged ({type(error).__name__}); it is computed again")
    return None


def arrays(dataset: datasets.Dataset, column: str, rows: list[int]) -> list[np.ndarray]:
    """The numbers of a `List` column at `rows`, without copying them; the data set is in the format "arrow"."""
    chunks = dataset[rows][column].chunks
    return [item.values.to_numpy(zero_copy_only=False) for chunk in chunks for item in chunk]


def is_archive(path: str | Path) -> bool:
    """Whether a name is that of an archive: zip, or tar with or without compression."""
    return str(path).lower().endswith(ARCHIVES)


def unpacked(path: str | Path, args=None) -> Path:
    """The folder with an archive's files; unpacked once, known by path, size and time of change.

    Nothing is written outside of the folder. Raises `UserError` for a damaged or encrypted archive, for one that would
    write elsewhere, and where there is no place for it.
    """
    path = Path(os.path.abspath(path))
    require_file(path, str(path))
    try:
        status = path.stat()
        key = hashlib.sha256(json.dumps([str(path), status.st_size, status.st_mtime_ns]).encode()).hexdigest()[:40]
        folder = cache_dir(args) / "archives" / key
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
                    _unpack(path, Path(partial) / "files")
                    os.replace(Path(partial) / "files", folder)
    except Exception as error:  # whatever a damaged archive makes the libraries raise
        said = getattr(error, "strerror", None) or said_by(error)
        remedy = "fetch the archive again, give another --cache_dir, or unpack it yourself and give the folder"
        raise UserError(f"{path}: cannot be unpacked ({said}); {remedy}") from None
    return folder


def _unpack(path: Path, folder: Path) -> None:
    folder.mkdir()
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                member.filename = member.filename.replace("\\", "/")  # as some programs of Windows write it
                archive.extract(member, folder)
        return
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
        # tarfile takes a damaged header for the end, but after a true end there is nothing but zeros. Reading on also
        # checks the checksum at the end of compressed files.
        rest = [block.strip(b"\0") for block in iter(lambda: archive.fileobj.read(2**20), b"")]
    if not rest or any(rest):
        raise tarfile.ReadError("it is damaged, or ends too early")


def main(argv: list[str] | None = None) -> None:
    """Prints folder and size, or empties the cache."""
    parser = argparse.ArgumentParser(prog="python -m common.cache", description=__doc__)
    parser.add_argument("--cache_dir", help="as given to the scripts")
    parser.add_argument("--clear", action="store_true", help="remove everything in it")
    args = parser.parse_args(argv)
    folder = cache_dir(args)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if args.clear and folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as aside:  # so that no half of it is taken for whole
            os.replace(folder, Path(aside) / folder.name)
    print(f"{folder}: {size / 1e6:,.1f} MB{' removed' if args.clear else ''}")


if __name__ == "__main__":
    from common.errors import exit_status

    sys.exit(exit_status(main, "cache"))
