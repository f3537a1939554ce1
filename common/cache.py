"""Arrays that are computed once: kept on disk under a hash of all they depend on, and memory-mapped afterwards.

Safe when several processes want the same entry, when a run is killed in the middle and when the disk fills up: an entry
is built in a folder of its own and moved into place whole, so what is there is complete. A cache that cannot be written
is no error: the arrays are then used from memory.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np


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
    folder = root / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:40]
    if overwrite:
        _discard(folder)
    elif folder.is_dir():
        return _load(folder)
    arrays = build()
    partial = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        partial = _aside(root)
        partial.mkdir()  # not mkdtemp, whose folders nobody else may read: a cache may be shared
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array)
        (partial / "key.json").write_text(json.dumps(key, indent=1, sort_keys=True), encoding="utf-8")
        os.replace(partial, folder)
    except OSError as error:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        faster = not overwrite or error.errno in (errno.ENOTEMPTY, errno.EEXIST)  # or an old entry that would not go
        if faster and folder.is_dir():  # another process was faster
            return _load(folder)
        print(f"cache {root}: {error.strerror or error}; going on without it", file=sys.stderr)
        return arrays
    except BaseException:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    return _load(folder)


def _aside(root: Path) -> Path:
    return root / f"partial-{uuid.uuid4().hex}"


def _discard(folder: Path) -> None:
    """Removes an entry; moved aside first, so that one removed by half is never taken for whole."""
    aside = _aside(folder.parent)
    with contextlib.suppress(OSError):
        os.replace(folder, aside)
        shutil.rmtree(aside)


def _load(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
