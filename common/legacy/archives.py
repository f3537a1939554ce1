"""Files out of zip and tar archives, unpacked once into the cache.

Archives are somebody else's: nothing is written outside of the entry, no link is made, and a disk is never filled.
Not for what the files are.
"""

import contextlib
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from common.legacy.cache import SPARE_BYTES, SPARE_SHARE, cached_folder
from common.legacy.data import existing_file
from common.legacy.errors import DISK_ERRORS, UserError

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
LARGE = 200 * 10**6  # bytes; an archive beyond it has a progress bar
CLUSTER = 4096  # bytes that even an empty file takes
UNPACK_IT = "unpack it yourself and give the folder"
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError)
UNREADABLE = (
    *DAMAGED,
    NotImplementedError,
    KeyError,
    RecursionError,
)  # compression unknown, links to nothing or in rings


def is_archive(path: str | Path) -> bool:
    """Whether a name is that of an archive: zip, or tar with or without compression."""
    return str(path).lower().endswith(ENDINGS)


def extracted(path: str | Path, root: Path) -> Path:
    """The folder with an archive's files, from the cache at `root` if it was extracted before.

    Known by path, size and time of change. What macOS adds of its own (`__MACOSX`, `._*`, `.DS_Store`) is left out;
    a tar's links to its own files become copies of these.

    Raises:
        UserError: naming archive and member: it is damaged or encrypted, its name or its link leads out of the archive,
            it is a device, or there is no place for it (a tenth of the disk or 5 GB, whichever is smaller, stay free).
    """
    path = Path(os.path.abspath(existing_file(path)))
    try:
        status = path.stat()
        key = {"archive": str(path), "size": status.st_size, "changed": status.st_mtime_ns, "version": 1}
        folder = cached_folder(key, lambda partial: _extract(path, partial / "files"), root)
    except OSError as error:
        sentence = f"{path}: cannot be unpacked into {root}: {error.strerror or error}"
        raise UserError(f"{sentence}; pass another --cache_dir, or {UNPACK_IT}") from None
    return folder / "files"


class _Member(NamedTuple):
    """`size` in bytes; `open` gives the content, and is None for a folder."""

    name: str
    size: int
    open: Callable[[], BinaryIO] | None


def _extract(path: Path, folder: Path) -> None:
    """Writes an archive's files to a new folder."""
    from tqdm import tqdm

    folder.mkdir()
    disk = shutil.disk_usage(folder)
    left = disk.free - min(SPARE_SHARE * disk.total, SPARE_BYTES)
    size = path.stat().st_size
    hidden = None if size > LARGE else True  # None: only where nobody looks
    with path.open("rb") as file, tqdm(total=size, desc=path.name, unit="B", unit_scale=True, disable=hidden) as bar:
        zipped = file.read(4) in (b"PK\3\4", b"PK\5\6")  # not is_zipfile: a tar may end with a zip
        file.seek(0)
        for member in (_zip_members if zipped else _tar_members)(file, path):
            parts = PurePosixPath(member.name).parts
            if "__MACOSX" in parts or parts[-1:] == (".DS_Store",) or (parts and parts[-1].startswith("._")):
                continue
            left -= member.size + CLUSTER
            if left < 0:
                raise _refused(path, member.name, "has no place on the disk of the cache, with what comes before it")
            with _reading(f"{path}: {member.name!r}"):
                _write(member, folder / member.name)
            bar.update(file.tell() - bar.n)


def _write(member: _Member, target: Path) -> None:
    if member.open is None:
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as content, target.open("wb") as file:
        shutil.copyfileobj(content, file, 2**20)


def _zip_members(file: BinaryIO, path: Path) -> Iterator[_Member]:
    with _reading(f"{path}: the archive"):
        archive = zipfile.ZipFile(file)
    for info in archive.infolist():
        name = info.filename.replace("\\", "/")  # as some writers on Windows have it
        _check_name(name, path)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.flag_bits & 1:
            raise _refused(path, name, "is encrypted")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(path, name, "is a link or a device")
        yield _Member(name, info.file_size, None if info.is_dir() else lambda info=info: archive.open(info))


def _tar_members(file: BinaryIO, path: Path) -> Iterator[_Member]:
    with _reading(f"{path}: the archive"):
        archive = tarfile.open(fileobj=file, mode="r:*", tarinfo=_Header)  # noqa: SIM115 the caller closes the file
    members, where = iter(archive), f"{path}: the archive"
    while True:
        with _reading(where):
            info = next(members, None)
            while info is None and archive.fileobj.read(2**20):  # the checksum of what is compressed is at its end
                pass
        if info is None:
            return
        where = f"{path}: what comes after {info.name!r}"
        _check_name(info.name, path)
        try:
            tarfile.data_filter(info, "/nowhere")  # of which only links and kinds of file are wanted here
        except tarfile.FilterError:
            raise _refused(path, info.name, "is a device, or a link that leads out of the archive") from None
        size = info.size
        if info.islnk() or info.issym():
            with _reading(f"{path}: {info.name!r}"):
                content = archive.extractfile(info)
            if content is None:
                raise _refused(path, info.name, "is a link to a folder")
            size = content.seek(0, os.SEEK_END)
        yield _Member(info.name, size, None if info.isdir() else lambda info=info: archive.extractfile(info))


def _check_name(name: str, path: Path) -> None:
    if name.startswith("/") or ".." in PurePosixPath(name).parts or "\0" in name:
        raise _refused(path, name, "has a name that leads out of the archive")


class _Header(tarfile.TarInfo):
    """A header that says when it is damaged or missing, which `tarfile` takes for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_Header":
        try:
            return super().fromtarfile(archive)
        except (tarfile.EmptyHeaderError, tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:
            raise tarfile.ReadError(str(error)) from None


@contextlib.contextmanager
def _reading(what: str) -> Iterator[None]:
    """Makes one sentence of whatever damaged data raise."""
    try:
        yield
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        said = str(error).strip("\"'").splitlines() or [type(error).__name__]
        sentence = f"{what} cannot be read ({said[0].rstrip(':')})"
        raise UserError(f"{sentence}; fetch the archive again, or {UNPACK_IT}") from None


def _refused(path: Path, name: str, problem: str) -> UserError:
    return UserError(f"{path}: {name!r} {problem}; {UNPACK_IT}")
