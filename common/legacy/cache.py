"""Arrays that are computed once: kept on disk under a hash of all they depend on, and memory-mapped afterwards.

Safe when several processes want the same entry, when a run is killed in the middle and when the disk fills up: an entry
is built in a folder of its own and moved into place whole, so what is there is complete. A cache that cannot be written
is no error: small arrays are then used from memory, and what is too large for that is not kept.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

SPARE_SHARE, SPARE_BYTES = 0.1, 5 * 10**9  # of a disk, the smaller of both is never filled


def cache_root(cache_dir: str | None) -> Path:
    """Where entries live: `cache_dir` if given, else the user's cache folder."""
    if cache_dir:
        return Path(cache_dir) / "finetuning-scripts"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetuning-scripts"


def cached_arrays(
    key: dict, build: Callable[[], dict[str, np.ndarray]], root: Path, *, overwrite: bool = False
) -> dict[str, np.ndarray]:
    """The arrays that `build()` gives, from disk if an entry for `key` is there.

    Args:
        key: everything the arrays depend on (fingerprints, versions, settings); json.
        root: folder of the cache.
        overwrite: build anew and replace the entry.

    Returns:
        Name -> array; memory-mapped and read-only when it came from, or could be written to, disk.
    """
    folder = _entry(key, root, overwrite)
    if folder.is_dir() and not overwrite:
        return _load(folder)
    arrays = build()

    def save(partial: Path) -> None:
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array)

    try:
        _make(folder, key, save, overwrite)
    except OSError as error:
        print(f"cache {root}: {error.strerror or error}; going on without it", file=sys.stderr)
        return arrays
    return _load(folder)


def cached_files(
    key: dict, build: Callable[[Path], None], root: Path, *, size: int, overwrite: bool = False
) -> dict[str, np.ndarray]:
    """The arrays that `build(folder)` writes as `folder`/NAME.npy, from disk if an entry for `key` is there.

    For what is larger than memory: unlike `cached_arrays`, there is nothing to go on with when it cannot be written.

    Args:
        size: bytes that `build` is going to write.

    Returns:
        Name -> array, memory-mapped and read-only.

    Raises:
        OSError: what came in the way; with `ENOSPC`, before anything is built, when the disk would be left with less
            than 10 % or 5 GB, whichever is smaller.
    """

    def build_if_there_is_room(folder: Path) -> None:
        disk = shutil.disk_usage(root)
        if disk.free - size < min(SPARE_SHARE * disk.total, SPARE_BYTES):
            raise OSError(errno.ENOSPC, f"{size / 1e9:,.1f} GB are needed, and {disk.free / 1e9:,.1f} GB are free")
        build(folder)

    return _load(cached_folder(key, build_if_there_is_room, root, overwrite=overwrite))


def cached_folder(key: dict, build: Callable[[Path], None], root: Path, *, overwrite: bool = False) -> Path:
    """The folder that `build(folder)` fills, from disk if an entry for `key` is there; raises what comes in the way."""
    folder = _entry(key, root, overwrite)
    if overwrite or not folder.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        _make(folder, key, build, overwrite)
    return folder


class MappedDataset:
    """A data set of (self, row) with memory maps, which are pickled as the names of their files.

    So that a copy in another process (a data loader's worker) maps the same files. Subclasses have `lengths` [N].
    """

    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> tuple["MappedDataset", int]:
        return self, row

    def __getstate__(self) -> dict:
        maps = {name: value.filename for name, value in self.__dict__.items() if isinstance(value, np.memmap)}
        return {"maps": maps, "others": {name: v for name, v in self.__dict__.items() if name not in maps}}

    def __setstate__(self, state: dict) -> None:
        maps = {name: np.load(file, mmap_mode="r") for name, file in state["maps"].items()}
        self.__dict__ |= state["others"] | maps


def _entry(key: dict, root: Path, discard: bool) -> Path:
    """The folder of an entry, whether it is there or not; what is there is removed if so wished."""
    folder = root / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:40]
    if discard:
        _discard(folder)
    return folder


def _make(folder: Path, key: dict, write: Callable[[Path], None], replace: bool) -> None:
    """Moves a new folder that `write` fills to `folder`; if another process was faster, what is there stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _aside(folder.parent) as partial:
        try:
            partial.mkdir()  # not mkdtemp, whose folders nobody else may read: a cache may be shared
            write(partial)
            (partial / "key.json").write_text(json.dumps(key, indent=1, sort_keys=True), encoding="utf-8")
            os.replace(partial, folder)
        except OSError as error:
            faster = not replace or error.errno in (errno.ENOTEMPTY, errno.EEXIST)  # or an old entry that would not go
            if not (faster and folder.is_dir()):
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _aside(root: Path) -> Iterator[Path]:
    """A path of this process's own in `root`; a file beside it is locked as long as the process lives and needs it."""
    path = root / f"partial-{uuid.uuid4().hex}"
    lock = path.with_suffix(".lock")
    with lock.open("w") as file:
        try:
            with contextlib.suppress(OSError):  # no locks on this file system: what the killed leave stays there
                fcntl.flock(file, fcntl.LOCK_EX)
            yield path
        finally:
            lock.unlink(missing_ok=True)


def _sweep(root: Path) -> None:
    """Removes what killed processes left half built: it may be as large as what is to be built."""
    for lock in root.glob("partial-*.lock"):
        with contextlib.suppress(OSError), lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not while its process lives
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)


def _discard(folder: Path) -> None:
    """Removes an entry; moved aside first, so that one removed by half is never taken for whole."""
    with contextlib.suppress(OSError), _aside(folder.parent) as aside:
        os.replace(folder, aside)
        shutil.rmtree(aside)


def _load(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
