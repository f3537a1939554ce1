"""Cache entries and files are whole or not there: killed, raced, full disks and folders nobody may write."""

import csv
import errno
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from common.legacy import cache, files
from common.legacy.cache import cache_root, cached_arrays, cached_files
from common.legacy.files import write_bytes, write_csv, write_json

ROOT = Path(__file__).resolve().parents[2]
ARRAYS = {"ids": np.arange(12, dtype=np.int32).reshape(3, 4), "none": np.zeros(0, np.int64), "x": np.float64([[0.5]])}


class Builder:
    """Gives `ARRAYS`, and counts how often it had to."""

    def __init__(self, arrays=ARRAYS):
        self.arrays, self.calls = arrays, 0

    def __call__(self):
        self.calls += 1
        return {name: array.copy() for name, array in self.arrays.items()}

    def write(self, folder):
        for name, array in self().items():
            np.save(folder / f"{name}.npy", array)


def assert_same(found, expected=ARRAYS):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert np.array_equal(found[name], array) and found[name].dtype == array.dtype


def refuse(number, filename=None):
    """A function that fails as a system call does."""

    def fail(*_, **__):
        raise OSError(number, os.strerror(number), filename)

    return fail


# Entries


def test_what_was_built_is_mapped_read_only_and_not_built_again(tmp_path):
    build, root = Builder(), tmp_path / "a" / "b"
    for _ in range(3):
        found = cached_arrays({"x": 1, "y": [2]}, build, root)
        assert_same(found)
        assert isinstance(found["ids"], np.memmap) and found["ids"].filename
        with pytest.raises(ValueError):
            found["ids"][0, 0] = 7
    assert build.calls == 1
    [entry] = root.iterdir()
    assert json.loads((entry / "key.json").read_text()) == {"x": 1, "y": [2]}
    assert sorted(p.name for p in entry.iterdir()) == ["ids.npy", "key.json", "none.npy", "x.npy"]


def test_an_entry_is_shared_by_all_who_may_read_the_folder(tmp_path):
    previous = os.umask(0o022)
    try:
        cached_arrays({}, Builder(), tmp_path)
    finally:
        os.umask(previous)
    [entry] = tmp_path.iterdir()
    assert entry.stat().st_mode & 0o777 == 0o755
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in entry.iterdir())


def test_any_change_of_the_key_is_another_entry(tmp_path):
    keys = [{}, {"a": 1}, {"a": "1"}, {"a": 2}, {"b": 1}, {"a": 1, "b": 1}, {"a": {"b": 1}}, {"a": [1]}, {"a": None}]
    builders = [Builder({"x": np.array([i])}) for i in range(len(keys))]
    for _ in range(2):
        for i, key in enumerate(keys):
            assert cached_arrays(key, builders[i], tmp_path)["x"].tolist() == [i]
    assert [build.calls for build in builders] == [1] * len(keys)
    # The order in which a key was put together is no difference.
    assert cached_arrays({"b": 1, "a": 1}, builders[0], tmp_path)["x"].tolist() == [5]


def test_overwrite_builds_anew_and_replaces(tmp_path):
    cached_arrays({}, Builder(), tmp_path)
    other = {"y": np.arange(3)}
    assert_same(cached_arrays({}, Builder(other), tmp_path, overwrite=True), other)
    assert_same(cached_arrays({}, Builder(), tmp_path), other)
    assert len(list(tmp_path.iterdir())) == 1
    fresh = Builder()
    cached_arrays({"new": 1}, fresh, tmp_path, overwrite=True)  # nothing there to replace
    cached_arrays({"new": 1}, fresh, tmp_path)
    assert fresh.calls == 1


def test_arrays_stay_usable_when_their_entry_is_replaced(tmp_path):
    found = cached_arrays({}, Builder(), tmp_path)
    cached_arrays({}, Builder({"ids": np.zeros((3, 4), np.int32)}), tmp_path, overwrite=True)
    assert_same(found)


def test_where_the_cache_lies(monkeypatch, tmp_path):
    assert cache_root(str(tmp_path)) == tmp_path / "finetuning-scripts"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root(None) == tmp_path / "xdg" / "finetuning-scripts"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unset in ("", None):
        monkeypatch.setenv("XDG_CACHE_HOME", unset) if unset is not None else monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_root(None) == tmp_path / "home" / ".cache" / "finetuning-scripts"


# Several processes, and the end of one

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from common.legacy import cache
root, name = Path(sys.argv[1]), sys.argv[2]
def build():
    (root.parent / f"building-{name}").touch()
    while not (root.parent / "go").exists():
        time.sleep(0.01)
    return {"x": np.full(200_000, int(name)), "y": np.full(200_000, int(name))}
def build_files(folder):
    for name, array in build().items():
        np.save(folder / f"{name}.npy", array)
"""
USE = {
    "arrays": 'found = cache.cached_arrays({"k": 1}, build, root, overwrite=len(sys.argv) > 3)\n',
    "files": 'found = cache.cached_files({"k": 1}, build_files, root, size=1, overwrite=len(sys.argv) > 3)\n',
}
KILL_WHILE = {
    "building": "build = lambda: os.kill(os.getpid(), signal.SIGKILL)\n",
    "writing": """
save = np.save
def killed(path, array):
    save(path, array)
    os.kill(os.getpid(), signal.SIGKILL)
np.save = killed
""",
    "moving": "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n",
    "replacing": """
import shutil
def killed(path, *_, **__):
    next(Path(path).glob("*.npy")).unlink()
    os.kill(os.getpid(), signal.SIGKILL)
shutil.rmtree = killed
""",
}


def start(program, *arguments) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.mark.parametrize("kind", USE)
@pytest.mark.parametrize("overwrite", [False, True])
def test_two_processes_at_once_end_with_one_whole_entry(tmp_path, overwrite, kind):
    root = tmp_path / "cache"
    if overwrite:
        cached_arrays({"k": 1}, Builder({"x": np.zeros(3)}), root)
    check = "assert len(set(found['x'].tolist() + found['y'].tolist())) == 1; print(found['x'][0], len(found['y']))"
    options = ["overwrite"] if overwrite else []
    processes = [start(PROGRAM + USE[kind] + check, root, number, *options) for number in (1, 2)]
    wait_for(lambda: all((tmp_path / f"building-{number}").exists() for number in (1, 2)))  # both found nothing
    (tmp_path / "go").touch()
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert [error for _, error in outputs] == ["", ""]
    assert len(list(root.iterdir())) == 1
    found = cached_arrays({"k": 1}, refuse(errno.EIO), root)
    assert set(found) == {"x", "y"}
    value = int(found["x"][0])
    assert value in (1, 2) and (found["x"] == value).all() and (found["y"] == value).all()
    # Both use the entry that is there, not copies of their own.
    assert [output.split() for output, _ in outputs] == [[str(value), "200000"]] * 2


@pytest.mark.parametrize("kind", USE)
@pytest.mark.parametrize("moment", KILL_WHILE)
def test_a_killed_process_leaves_nothing_that_is_taken_for_whole(tmp_path, moment, kind):
    root = tmp_path / "cache"
    (tmp_path / "go").touch()
    if moment == "replacing":
        cached_arrays({"k": 1}, Builder({"x": np.zeros(3), "y": np.ones(3)}), root)
    options = ["overwrite"] if moment == "replacing" else []
    process = start(PROGRAM + KILL_WHILE[moment] + USE[kind], root, 1, *options)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    build = Builder({"x": np.arange(4), "y": np.arange(5)})
    if kind == "arrays":
        assert_same(cached_arrays({"k": 1}, build, root), build.arrays)
    else:
        assert_same(cached_files({"k": 1}, build.write, root, size=1), build.arrays)
        assert len(list(root.iterdir())) == 1  # what it left may be large, and is removed
    assert build.calls == 1


def test_what_a_living_process_builds_is_not_removed(tmp_path):
    root = tmp_path / "cache"
    process = start(PROGRAM + USE["files"] + "print(found['x'][0])", root, 1)
    try:
        wait_for((tmp_path / "building-1").exists)
        build = Builder()
        assert_same(cached_files({"another": 1}, build.write, root, size=1))
        assert len(list(root.glob("partial-*"))) == 2  # its folder and its lock
    finally:
        (tmp_path / "go").touch()
        output, error = process.communicate(timeout=60)
    assert (output, error, process.returncode) == ("1\n", "", 0)
    assert len(list(root.iterdir())) == 2


# Files instead of arrays


def test_files_are_mapped_and_not_built_again(tmp_path):
    build = Builder()
    for _ in range(2):
        found = cached_files({"x": 1}, build.write, tmp_path, size=1)
        assert_same(found)
        assert all(isinstance(array, np.memmap) for array in found.values())
    assert build.calls == 1
    other = Builder({"y": np.arange(3)})
    assert_same(cached_files({"x": 1}, other.write, tmp_path, size=1, overwrite=True), other.arrays)
    assert_same(cached_files({"x": 1}, build.write, tmp_path, size=1), other.arrays)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError, OSError(errno.ENOSPC, "No space left on device")])
def test_files_that_cannot_be_built_leave_nothing(tmp_path, stop):
    def write(folder):
        np.save(folder / "x.npy", np.arange(9))
        raise stop

    with pytest.raises(stop if isinstance(stop, type) else type(stop)):
        cached_files({}, write, tmp_path, size=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("total", "free", "size", "fits"),
    [
        (10**12, 6 * 10**9, 10**9, True),
        (10**12, 6 * 10**9, 10**9 + 1, False),  # would leave less than 5 GB
        (10**10, 3 * 10**9, 2 * 10**9, True),
        (10**10, 3 * 10**9, 2 * 10**9 + 1, False),  # less than a tenth of a small disk
        (10**10, 10**6, 1, False),
    ],
)
def test_room_on_the_disk(tmp_path, monkeypatch, total, free, size, fits):
    usage = namedtuple("usage", "total used free")(total, total - free, free)
    build = Builder()
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage)
    if fits:
        assert_same(cached_files({}, build.write, tmp_path, size=size))
    else:
        with pytest.raises(
            OSError, match=f"{size / 1e9:.1f} GB are needed, and {free / 1e9:.1f} GB are free"
        ) as caught:
            cached_files({}, build.write, tmp_path, size=size)
        assert caught.value.errno == errno.ENOSPC and build.calls == 0 and list(tmp_path.iterdir()) == []
    # What is there needs none.
    cached_arrays({}, build, tmp_path)
    assert_same(cached_files({}, refuse(errno.EIO), tmp_path, size=size))


# Disks


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_full_disk_is_told_and_the_arrays_come_from_memory(tmp_path, monkeypatch, capsys, written):
    save, done = np.save, []

    def full(path, array):
        Path(path).write_bytes(b"\x93NUMPY half of it")
        if len(done) == written:
            refuse(errno.ENOSPC)()
        done.append(save(path, array))

    monkeypatch.setattr(np, "save", full)
    found = cached_arrays({}, Builder(), tmp_path / "cache")
    assert_same(found)
    assert not any(isinstance(array, np.memmap) for array in found.values())
    assert list((tmp_path / "cache").iterdir()) == []
    message = capsys.readouterr().err
    assert message == f"cache {tmp_path / 'cache'}: No space left on device; going on without it\n"


def test_numpys_own_message_of_a_short_write_is_passed_on(tmp_path, monkeypatch, capsys):
    """`ndarray.tofile` says how much it wrote, and gives no error number."""

    def short(*_):
        raise OSError("1000 requested and 24 written")

    monkeypatch.setattr(np, "save", short)
    assert_same(cached_arrays({}, Builder(), tmp_path))
    assert "1000 requested and 24 written; going on" in capsys.readouterr().err


@pytest.mark.parametrize("call", ["mkdir", "replace"])
def test_a_cache_that_cannot_be_written_is_not_needed(tmp_path, monkeypatch, capsys, call):
    target = (Path, "mkdir") if call == "mkdir" else (os, "replace")
    monkeypatch.setattr(*target, refuse(errno.EACCES))
    assert_same(cached_arrays({}, Builder(), tmp_path / "cache"))
    assert "Permission denied; going on without it" in capsys.readouterr().err
    assert not any(tmp_path.rglob("*.npy"))


def test_a_root_that_is_a_file(tmp_path, capsys):
    (tmp_path / "cache").write_text("in the way")
    assert_same(cached_arrays({}, Builder(), tmp_path / "cache"))
    assert "going on without it" in capsys.readouterr().err
    assert (tmp_path / "cache").read_text() == "in the way"


def test_overwrite_never_gives_the_old_arrays_back(tmp_path, monkeypatch, capsys):
    """Not even where the old entry cannot be removed."""
    cached_arrays({}, Builder(), tmp_path)
    monkeypatch.setattr(os, "replace", refuse(errno.EROFS))
    monkeypatch.setattr(Path, "mkdir", refuse(errno.EROFS))
    other = {"y": np.arange(3)}
    assert_same(cached_arrays({}, Builder(other), tmp_path, overwrite=True), other)
    assert "Read-only file system; going on without it" in capsys.readouterr().err


def test_a_builder_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        cached_arrays({}, lambda: 1 / 0, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_an_interrupted_writer_leaves_nothing(tmp_path, monkeypatch, stop):
    def interrupted(path, array):
        Path(path).write_bytes(b"half")
        raise stop

    monkeypatch.setattr(cache.np, "save", interrupted)
    with pytest.raises(stop):
        cached_arrays({}, Builder(), tmp_path)
    assert list(tmp_path.iterdir()) == []


# Files


def test_files_hold_what_was_written(tmp_path):
    assert write_bytes(tmp_path / "b", b"\x00\xff") == tmp_path / "b"
    assert (tmp_path / "b").read_bytes() == b"\x00\xff"
    content = {"متن": ["ß", None, 1.5], "n": {"x": True}}
    raw = write_json(tmp_path / "j.json", content).read_bytes()
    assert json.loads(raw) == content and "متن" in raw.decode() and raw.endswith(b"}\n")
    rows = [["a", 'quo"te', "two\nlines"], ["b", "comma, ß\r\n", ""], [1, 0.25, None]]
    path = write_csv(tmp_path / "c.csv", ["x", "y", "z"], iter(rows))
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.reader(file))
    assert found == [["x", "y", "z"], *rows[:2], ["1", "0.25", ""]]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "c.csv", "j.json"]


WRITERS = {
    "bytes": lambda path: write_bytes(path, b"new" * 1000),
    "json": lambda path: write_json(path, {"new": [1, 2]}),
    "csv": lambda path: write_csv(path, ["new"], [[1], [2]]),
}


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("call", ["write", "move"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, writer, call, stop, old):
    path = tmp_path / "file"
    if old:
        path.write_bytes(old)
    write = Path.write_bytes

    def half(self, content):
        write(self, content[: len(content) // 2])
        raise stop

    def immovable(*_):
        raise stop

    monkeypatch.setattr(*((Path, "write_bytes", half) if call == "write" else (files.os, "replace", immovable)))
    with pytest.raises(stop if isinstance(stop, type) else type(stop)):
        WRITERS[writer](path)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == (["file"] if old else [])
    assert not old or path.read_bytes() == old


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    for bad in (float("nan"), float("inf"), {1, 2}, object()):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, {"x": [bad]})

    def failing():
        yield [1]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_csv(path, ["x"], failing())
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_a_reader_never_sees_half_a_file(tmp_path):
    """Another process replaces the file again and again, killed at some moment: every read finds a whole version."""
    path = tmp_path / "file"
    program = """
    import sys
    from pathlib import Path
    from common.legacy.files import write_bytes
    for number in range(10**9):
        write_bytes(Path(sys.argv[1]), bytes([65 + number % 26]) * 100_000)
    """
    versions = []

    def replaced():
        """150 reads, and on until one differs: on a loaded machine the writer has its turn late."""
        versions.extend(path.read_bytes() for _ in range(10))
        return len(versions) >= 150 and versions[-1] != versions[0]

    writer = start(program, path)
    try:
        wait_for(path.exists)
        wait_for(replaced)
    finally:
        writer.kill()
        writer.communicate(timeout=30)
    versions.append(path.read_bytes())
    assert all(len(version) == 100_000 and len(set(version)) == 1 for version in versions)
    assert len(set(versions)) > 1
    # What a killed writer leaves is hidden, and is not the file.
    assert all(re.fullmatch(r"file|\.file\.\d+", p.name) for p in tmp_path.iterdir())
