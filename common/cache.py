"""The cache: what is computed or unpacked once, and computed by all processes together.

`python -m common.cache` says where it is and how large; `--clear` empties it. Everything in it can be made again.
"""

import contextlib
import errno
import hashlib
import json
import logging
import lzma
import os
import shutil
import sys
import tarfile
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import DISK_ERRORS, UserError, said_by

if TYPE_CHECKING:
    import datasets
    import numpy as np

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
STARTED = time.time()
logger = logging.getLogger(__name__)


def cache_dir(args=None) -> Path:
    """The folder of the cache: in `--cache_dir` if it is given, else in the user's folder for caches."""
    given = getattr(args, "cache_dir", None) or os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return Path(given or Path.home() / ".cache") / "finetuning-scripts"


# Work that processes share


def shared_map(
    dataset: "datasets.Dataset", function: Callable, *, key: dict, args, run=None, **map_arguments
) -> "datasets.Dataset":
    """`dataset.map(function, **map_arguments)`, kept on disk, each process computing a share of the rows.

    The rows are cut into as many parts as there are processes. A process computes whichever part is not there and not
    being computed by another, beginning with its own; so nobody waits in a collective, a slow or dead process does not
    hold up the others, and machines without a common disk each compute the whole. The result is memory-mapped.

    Args:
        key: all that the result depends on besides the code (fingerprints, names, settings); json. The function must
            treat each row alone: where batches begin depends on the number of processes.
        args: with cache_dir, overwrite_cache and training_args.
        run: its `warn` gets what went wrong with the cache.
        map_arguments: as for `map`, but for `num_proc`: the processes are those of the launch.
    """
    processes, process = min(args.training_args.world_size, len(dataset)), args.training_args.process_index
    name = hashlib.sha256(json.dumps([key, len(dataset)], sort_keys=True).encode()).hexdigest()[:40]
    folder = cache_dir(args) / "maps" / name
    notice = run.warn if run else logger.warning
    oldest = STARTED if args.overwrite_cache else 0.0
    try:
        parts = _complete(folder, oldest) or _computed(
            dataset, function, folder, processes, process, oldest, notice, map_arguments
        )
    except OSError as error:
        if error.errno not in (*DISK_ERRORS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT):
            raise
        notice(f"cache {folder.parent}: {error.strerror or error}; going on without it, in memory")
        return dataset.map(function, keep_in_memory=True, new_fingerprint=name, **map_arguments)
    import datasets

    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _complete(folder: Path, oldest: float) -> list["datasets.Dataset"] | None:
    """A whole set of parts, made by whatever number of processes, if there is one."""
    for number in sorted({int(path.name.partition("-of-")[2]) for path in folder.glob("*-of-*[0-9]")}):
        parts = [_load(folder / f"{i}-of-{number}", oldest) for i in range(number)]
        if all(part is not None for part in parts):
            return parts
    return None


def _load(part: Path, oldest: float, notice: Callable[[str], object] = logger.debug) -> "datasets.Dataset | None":
    import datasets

    file = part / "rows.arrow"
    try:
        if file.stat().st_mtime >= oldest:
            return datasets.Dataset.from_file(str(file))
    except FileNotFoundError:
        pass
    except Exception as error:  # whatever a damaged file makes the libraries raise
        notice(f"{file}: damaged ({type(error).__name__}); it is computed again")
    return None


def _computed(dataset, function, folder: Path, processes: int, process: int, oldest: float, notice, map_arguments):
    """Computes parts until all are there."""
    import filelock

    order = [(process + i) % processes for i in range(processes)]
    folder.mkdir(parents=True, exist_ok=True)
    told = time.monotonic()
    done = {}
    while len(done) < processes:
        for i in (i for i in order if i not in done):
            part = folder / f"{i}-of-{processes}"
            with contextlib.suppress(filelock.Timeout), filelock.FileLock(f"{part}.lock", timeout=0):
                rows = _load(part, oldest, notice)
                if rows is None:
                    shutil.rmtree(part, ignore_errors=True)  # a damaged or old one, or what a killed process left
                    part.mkdir()
                    target = {"cache_file_name": str(part / "rows.arrow"), "load_from_cache_file": False}
                    target |= {"new_fingerprint": f"{folder.name}-{i}-{processes}", **map_arguments}
                    try:
                        dataset.shard(processes, i, contiguous=True).map(function, **target)
                    except BaseException:
                        shutil.rmtree(part, ignore_errors=True)  # it may be what fills the disk
                        raise
                    rows = _load(part, 0.0, notice)
                done[i] = rows
        if len(done) < processes:
            time.sleep(0.2)
        if time.monotonic() - told > 60:
            told = time.monotonic()
            logger.info("waiting for %d parts that other processes compute in %s", processes - len(done), folder)
    return [done[i] for i in range(processes)]


def arrays(dataset: "datasets.Dataset", column: str, rows: list[int]) -> list["np.ndarray"]:
    """The numbers of a `List` column at `rows`, without copying them; the data set is in the format "arrow"."""
    chunks = dataset[rows][column].chunks
    return [item.values.to_numpy(zero_copy_only=False) for chunk in chunks for item in chunk]


# Archives


def is_archive(path: str | Path) -> bool:
    """Whether a name is that of an archive: zip, or tar with or without compression."""
    return str(path).lower().endswith(ARCHIVES)


def unpacked(path: str | Path, args=None) -> Path:
    """The folder with an archive's files; unpacked once, known by path, size and time of change.

    Nothing is written outside of the folder. Raises `UserError` for a damaged or encrypted archive, for one that would
    write elsewhere, and where there is no place for it.
    """
    import filelock

    path = Path(os.path.abspath(path))
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        status = path.stat()
        key = hashlib.sha256(json.dumps([str(path), status.st_size, status.st_mtime_ns]).encode()).hexdigest()[:40]
        folder = cache_dir(args) / "archives" / key
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                _unpack(path, folder.with_name(f"{folder.name}.partial"))
                os.replace(folder.with_name(f"{folder.name}.partial"), folder)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError, OSError) as error:
        said = getattr(error, "strerror", None) or said_by(error)
        raise UserError(
            f"{path}: cannot be unpacked ({said}); fetch the archive again, give another --cache_dir, "
            "or unpack it yourself and give the folder"
        ) from None
    return folder


def _unpack(path: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of a killed process
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"  # not is_zipfile: a tar may end with a zip
        if zipped:
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    info.filename = info.filename.replace("\\", "/")  # as some writers on Windows have it
                    archive.extract(info, folder)
            return
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
            # tarfile takes a damaged header for the end, but after a true end there is nothing but zeros. Reading on
            # also checks the checksum at the end of compressed files.
            rest = [block.strip(b"\0") for block in iter(lambda: archive.fileobj.read(2**20), b"")]
        if not rest or any(rest):
            raise tarfile.ReadError("it is damaged, or ends too early")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


# The command


def main(argv: list[str] | None = None) -> None:
    """Prints folder and size, or empties the cache."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m common.cache", description=__doc__.splitlines()[0])
    parser.add_argument("--cache_dir", help="as given to the scripts")
    parser.add_argument("--clear", action="store_true", help="remove everything in it")
    args = parser.parse_args(argv)
    folder = cache_dir(args)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if args.clear and folder.exists():
        aside = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")  # so that no half of it is taken for whole
        os.replace(folder, aside)
        shutil.rmtree(aside)
    print(f"{folder}: {size / 1e6:,.1f} MB{' removed' if args.clear else ''}")


if __name__ == "__main__":
    from common.errors import exit_status

    sys.exit(exit_status(main, "cache"))
