"""The cache: shared work is done once by any number of processes; what is damaged, killed or full does no harm."""

import errno
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.cache import arrays, cache_dir, is_archive, main, shared_map, unpacked
from common.errors import UserError
from tests.helpers import ROOT, message

N = 1_000
ROWS = datasets.Dataset.from_dict({"x": range(N)})
EXPECTED = [{"x": x, "y": [x, x * x]} for x in range(N)]


def arguments(cache: Path, processes: int = 1, process: int = 0, overwrite: bool = False) -> SimpleNamespace:
    place = SimpleNamespace(world_size=processes, process_index=process)
    return SimpleNamespace(cache_dir=str(cache), overwrite_cache=overwrite, training_args=place)


class Work:
    """A function for `map` that counts its rows, and a run that keeps its warnings."""

    def __init__(self):
        self.rows, self.warnings = 0, []
        self.run = SimpleNamespace(warn=self.warnings.append)

    def __call__(self, batch: dict) -> dict:
        self.rows += len(batch["x"])
        return {"y": [[x, x * x] for x in batch["x"]]}

    def map(self, args, key: dict | None = None, **more) -> list[dict]:
        made = shared_map(ROWS, self, key=key or {"k": 1}, args=args, run=self.run, batched=True, **more)
        return made.to_list()


def computed(*args, **more) -> int:
    """How many rows are computed; the result is right."""
    work = Work()
    assert work.map(*args, **more) == EXPECTED and work.warnings == []
    return work.rows


# Shared work


def test_computed_once_and_again_for_another_key(tmp_path):
    assert computed(arguments(tmp_path)) == N
    assert computed(arguments(tmp_path)) == 0
    assert computed(arguments(tmp_path), key={"k": 2}) == N
    assert computed(arguments(tmp_path / "elsewhere")) == N
    assert computed(arguments(tmp_path), batch_size=7) == 0


def test_what_is_missing_is_computed_by_whoever_comes(tmp_path):
    for process in range(3):  # one after the other: the first finds nobody and computes all parts
        assert computed(arguments(tmp_path, 3, process)) == (N if process == 0 else 0)
    next(tmp_path.rglob("2.arrow")).unlink()
    assert computed(arguments(tmp_path, 3, 1)) == N // 3, "the missing part alone"


def test_more_processes_than_rows(tmp_path):
    few = ROWS.select([0, 1])
    made = shared_map(few, Work(), key={}, args=arguments(tmp_path, 5, 4), batched=True)
    assert made.to_list() == EXPECTED[:2]


def test_overwriting_computes_again(tmp_path):
    assert computed(arguments(tmp_path)) == N
    for file in tmp_path.rglob("*.arrow"):
        os.utime(file, (1e9, 1e9))  # of an earlier run
    assert computed(arguments(tmp_path, overwrite=True)) == N
    assert computed(arguments(tmp_path, overwrite=True)) == 0, "once a run"


@pytest.mark.parametrize("size", [0, 100, 2_000, -200])
def test_a_damaged_part_is_computed_again_with_a_notice(tmp_path, size):
    assert computed(arguments(tmp_path, 2)) == N
    damaged = next(tmp_path.rglob("1.arrow"))
    os.truncate(damaged, size if size >= 0 else damaged.stat().st_size + size)
    work = Work()
    assert work.map(arguments(tmp_path, 2)) == EXPECTED and work.rows == N // 2
    assert len(work.warnings) == 1 and work.warnings[0].startswith(f"{damaged}: damaged (")
    assert computed(arguments(tmp_path, 2, 1)) == 0


def test_what_cannot_be_written_is_kept_in_memory(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "cache", Path("/proc/none")):  # the latter says that there is no such folder
        work = Work()
        assert work.map(arguments(place)) == EXPECTED
        assert len(work.warnings) == 1 and "in memory" in work.warnings[0]
    stock = datasets.Dataset.map

    def full(self, *args, **more):
        if more.get("cache_file_name"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return stock(self, *args, **more)

    monkeypatch.setattr(datasets.Dataset, "map", full)
    work = Work()
    assert work.map(arguments(tmp_path / "full")) == EXPECTED
    assert "No space left on device" in work.warnings[0]


def test_other_errors_are_not_hidden(tmp_path):
    def fails(_):
        raise FileNotFoundError(errno.ENOENT, "gone", "clip.wav")

    with pytest.raises(FileNotFoundError, match=r"clip\.wav"):
        shared_map(ROWS, fails, key={}, args=arguments(tmp_path))
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".lock"}
    assert computed(arguments(tmp_path), key={}) == N, "nothing half is left"


WORKER = """
import sys, time
from types import SimpleNamespace
import datasets
from common.cache import shared_map

process, processes, cache, pause = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
args = SimpleNamespace(cache_dir=cache, overwrite_cache=False)
args.training_args = SimpleNamespace(world_size=processes, process_index=process)
rows, computed = datasets.Dataset.from_dict({"x": range(1000)}), []

def function(batch):
    print("computing", flush=True)
    time.sleep(pause)
    computed.extend(batch["x"])
    return {"y": [[x, x * x] for x in batch["x"]]}

print("ready", flush=True)
sys.stdin.readline()
made = shared_map(rows, function, key={"k": 1}, args=args, batched=True, batch_size=100)
right = made.to_list() == [{"x": x, "y": [x, x * x]} for x in range(1000)]
print("done", len(computed), right, flush=True)
"""


def workers(processes: int, cache: Path, pause: float) -> list[subprocess.Popen]:
    """Processes that are ready to begin when they get a line."""
    environment = {**os.environ, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"}
    started = []
    for process in range(processes):
        command = [sys.executable, "-c", WORKER, str(process), str(processes), str(cache), str(pause)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
    for worker in started:
        assert worker.stdout.readline() == "ready\n"
    return started


def begin(worker: subprocess.Popen) -> None:
    worker.stdin.write("\n")
    worker.stdin.flush()


def rows_computed(worker: subprocess.Popen) -> int:
    output = worker.communicate(timeout=100)[0]
    assert worker.returncode == 0 and output.endswith(" True\n"), output
    return int(output.split()[-2])


def test_processes_at_once_share_the_work_and_get_the_same(tmp_path):
    two = workers(2, tmp_path, 0.1)
    for worker in two:
        begin(worker)
    assert [rows_computed(worker) for worker in two] == [N // 2, N // 2]
    again = workers(2, tmp_path, 0.1)
    for worker in again:
        begin(worker)
    assert [rows_computed(worker) for worker in again] == [0, 0]


def test_a_killed_process_leaves_nothing_and_its_share_is_done_by_the_other(tmp_path):
    first, second = workers(2, tmp_path, 0.1)
    begin(first)
    assert first.stdout.readline() == "computing\n"
    begin(second)
    assert second.stdout.readline() == "computing\n"
    first.kill()
    first.communicate()
    assert rows_computed(second) == N
    assert sorted(path.name for path in tmp_path.rglob("*.arrow")) == ["0.arrow", "1.arrow"]
    assert not [path for path in tmp_path.glob("*/maps/*/*") if path.is_dir()], "what the killed one had begun"


def test_changed_code_computes_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    made = {}
    for code in ("rows", "[2 * x for x in rows]", "rows"):
        (tmp_path / "own_step.py").write_text(f"def step(batch):\n    rows = batch['x']\n    return {{'y': {code}}}\n")
        sys.modules.pop("own_step", None)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        step = importlib.import_module("own_step").step
        for function in (step, partial(step)):
            found = shared_map(ROWS, function, key={}, args=arguments(tmp_path / "cache"), batched=True)
            made.setdefault(code, []).append(found["y"][1])
    assert made == {"rows": [1, 1, 1, 1], "[2 * x for x in rows]": [2, 2]}


# Reading


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=12), data=st.data())
def test_arrays_are_the_lists_of_the_rows_asked_for(lengths, data):
    values = [np.arange(length, dtype=np.float16) / 3 + i for i, length in enumerate(lengths)]
    features = datasets.Features({"states": datasets.List(datasets.Value("float16"))})
    rows = datasets.Dataset.from_dict({"states": values}, features=features)
    rows = datasets.concatenate_datasets([rows, rows]).with_format("arrow")
    chosen = data.draw(st.lists(st.integers(0, 2 * len(values) - 1), min_size=1))
    found = arrays(rows, "states", chosen)
    assert all(array.dtype == np.float16 for array in found) and len(found) == len(chosen)
    assert all(np.array_equal(array, values[i % len(values)]) for array, i in zip(found, chosen))


def test_the_cache_is_where_the_flag_or_the_user_says(tmp_path, monkeypatch):
    assert cache_dir(arguments(tmp_path)) == tmp_path / "finetuning-scripts"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == cache_dir(SimpleNamespace(cache_dir=None)) == tmp_path / "xdg" / "finetuning-scripts"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_dir() == tmp_path / "local" / "finetuning-scripts"
    monkeypatch.delenv("LOCALAPPDATA")
    assert cache_dir() == Path.home() / ".cache" / "finetuning-scripts"


def test_the_command_says_how_large_it_is_and_empties_it(tmp_path, capsys):
    computed(arguments(tmp_path))
    (tmp_path / "of somebody else").touch()
    size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    main(["--cache_dir", str(tmp_path)])
    assert capsys.readouterr().out == f"{tmp_path / 'finetuning-scripts'}: {size / 1e6:,.1f} MB\n"
    command = [sys.executable, "-m", "common.cache", "--cache_dir", str(tmp_path), "--clear"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.endswith("MB removed\n")
    assert [path.name for path in tmp_path.iterdir()] == ["of somebody else"]
    main(["--cache_dir", str(tmp_path)])
    assert capsys.readouterr().out.endswith(": 0.0 MB\n")


# Archives

FILES = {
    "a/one.wav": b"RIFF" + bytes(range(256)) * 40,
    "a/b/صدا دو.txt": "متن".encode(),
    "empty.csv": b"",
    "three.bin": os.urandom(70_000),
}
TARS = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz", ".TAR.GZ": "w:gz"}


def zipped(path: Path, files: dict, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: dict, mode: str = "w") -> Path:
    """`files` maps a name to its content, or to (type of member, link's name)."""
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def outside(cache: Path) -> set[Path]:
    return {path for path in cache.parent.rglob("*") if cache not in (path, *path.parents)}


def refused(path: Path, cache: Path) -> str:
    """The sentence that names the archive; nothing is left of what was unpacked, nor beside the cache."""
    beside = outside(cache)
    sentence = message(unpacked, path, arguments(cache))
    assert sentence.startswith(f"{path}: cannot be unpacked (")
    assert {p.suffix for p in cache.rglob("*") if p.is_file()} <= {".lock"} and outside(cache) == beside
    return sentence


def test_names_of_archives():
    for name in ("x.zip", "x.ZIP", "a.b.tar", "x.tar.gz", "x.tgz", "x.tar.xz", "x.txz", "x.tar.bz2", Path("y/x.tbz2")):
        assert is_archive(name)
    for name in ("x.gz", "x.json.gz", "x.wav", "zip", "tar", "x.zip.csv", "x.7z", Path("x.zip/y")):
        assert not is_archive(name)


@pytest.mark.parametrize("kind", [*TARS, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_file_of_an_archive(kind, tmp_path):
    tar = kind in TARS
    path = tarred(tmp_path / f"x{kind}", FILES, TARS[kind]) if tar else zipped(tmp_path / "x.zip", FILES, kind)
    assert content(unpacked(path, arguments(tmp_path / "cache"))) == FILES


def test_the_name_decides_which_kind_it_is(tmp_path):
    inner = zipped(tmp_path / "inner.zip", FILES, zipfile.ZIP_STORED).read_bytes()
    tar = tarred(tmp_path / "x.tar", {"inner.zip": inner})
    assert zipfile.is_zipfile(tar)  # as it ends with one
    assert content(unpacked(tar, arguments(tmp_path))) == {"inner.zip": inner}


def test_folders_as_some_programs_of_windows_write_them(tmp_path):
    content_of = b"RIFF" * 99
    data = zipped(tmp_path / "x.zip", {"data/yes/1.wav": content_of}).read_bytes()
    (tmp_path / "x.zip").write_bytes(data.replace(b"data/yes/", b"data\\yes\\"))
    assert content(unpacked(tmp_path / "x.zip", arguments(tmp_path / "cache"))) == {"data/yes/1.wav": content_of}


def test_a_real_archive_is_what_the_library_makes_of_it(shared_data, tmp_path):
    path = shared_data / "emotion" / "urdu_emotion_400.zip"
    with zipfile.ZipFile(path) as archive:
        expected = {name: archive.read(name) for name in archive.namelist() if name[-1] != "/"}
    assert content(unpacked(path, arguments(tmp_path))) == expected


def test_unpacked_once(tmp_path, monkeypatch):
    path, args = zipped(tmp_path / "x.zip", FILES), arguments(tmp_path / "cache")
    first = unpacked(path, args)
    monkeypatch.chdir(tmp_path)
    marked = first / "marked"
    marked.touch()
    assert unpacked("x.zip", args) == unpacked(path, args) == first and marked.exists()
    os.utime(path, ns=(1, 1))
    assert content(unpacked(path, args)) == FILES
    zipped(path, {"new.txt": b"new"})
    assert content(unpacked(path, args)) == {"new.txt": b"new"}


@pytest.mark.parametrize("name", ["../out.wav", "a/../../out.wav", "/tmp/finetuning-out.wav", "..\\..\\out.wav"])
def test_names_that_lead_out_do_not(name, tmp_path):
    cache = tmp_path / "in" / "cache"
    for path in (zipped(tmp_path / "x.zip", {name: b"out"}), tarred(tmp_path / "x.tar.gz", {name: b"out"}, "w:gz")):
        try:
            assert list(content(unpacked(path, arguments(cache))).values()) == [b"out"]
        except UserError as error:
            assert "outside the destination" in str(error)
        assert outside(cache) == set() and not Path("/tmp/finetuning-out.wav").exists()
        assert {p.name for p in tmp_path.iterdir()} <= {"x.zip", "x.tar.gz", "in"}


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_that_lead_out(kind, target, tmp_path):
    (tmp_path / "secret").write_text("secret")
    files = {"first.wav": b"1", "link": (kind, target)}
    assert "link" in refused(tarred(tmp_path / "x.tar", files), tmp_path / "in" / "cache")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices(kind, tmp_path):
    path = tarred(tmp_path / "x.tar", {"first.wav": b"1", "device": (kind, "")})
    assert "device" in refused(path, tmp_path / "in" / "cache")


def test_an_encrypted_member(tmp_path):
    path = zipped(tmp_path / "x.zip", {"first.wav": b"1", "secret.wav": b"2"})
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    assert "encrypted" in refused(path, tmp_path / "in" / "cache")


@pytest.mark.parametrize("ending", [*TARS, ".zip"])
def test_damage_anywhere_is_found_or_does_no_harm(ending, tmp_path):
    files = {f"{i}.bin": os.urandom(3000) for i in range(5)}
    path = tmp_path / f"x{ending}"
    data = (zipped(path, files) if ending == ".zip" else tarred(path, files, TARS[ending])).read_bytes()
    found = 0
    for i, place in enumerate(range(600, len(data), len(data) // 25)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        os.utime(path, ns=(i, i))
        try:
            got = content(unpacked(path, arguments(tmp_path / "cache")))
        except UserError as error:
            assert "cannot be unpacked (" in str(error)
            found += 1
        else:  # a plain tar has no checksums but those of its headers
            assert len(got) == 5 and (ending == ".tar" or list(got.values()) == list(files.values()))
    assert found > (0 if ending == ".tar" else 20)


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".zip"])
def test_cut_off(ending, tmp_path):
    files = {f"{i}.bin": os.urandom(3000) for i in range(5)}
    path = tmp_path / f"x{ending}"
    data = (zipped(path, files) if ending == ".zip" else tarred(path, files, TARS[ending])).read_bytes()
    for size in (int(0.001 * len(data)), int(0.3 * len(data)), int(0.7 * len(data)), 2 * (512 + 3072)):
        path.write_bytes(data[:size])
        refused(path, tmp_path / "in" / "cache")


def test_no_archive_at_all(tmp_path):
    for name in ("x.zip", "x.tar", "x.tar.gz"):
        (tmp_path / name).write_text("this is text " * 100)
        refused(tmp_path / name, tmp_path / "in" / "cache")
    (tmp_path / "empty.zip").touch()
    refused(tmp_path / "empty.zip", tmp_path / "in" / "cache")
    os.mkfifo(tmp_path / "pipe.zip")
    for name, said in (("pipe.zip", "is a folder, pipe or device, not a file"), ("gone.zip", "no such file")):
        assert message(unpacked, tmp_path / name, arguments(tmp_path)) == f"{tmp_path / name}: {said}"
    (tmp_path / "file").touch()
    sentence = message(unpacked, zipped(tmp_path / "y.zip", FILES), arguments(tmp_path / "file"))
    assert "Not a directory" in sentence and "--cache_dir" in sentence


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=300),
    start=st.sampled_from([b"PK\3\4", b"PK\5\6", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0", b""]),
)
def test_any_bytes_are_refused_in_one_sentence(tmp_path, data, start):
    path = tmp_path / "x.zip"
    path.write_bytes(start + data)
    os.utime(path, ns=(time.time_ns(), time.time_ns()))
    assert json.dumps(message(unpacked, path, arguments(tmp_path)))
