"""Damaged checkpoints, full disks, two runs in a folder, clocks set back, folders that vanish."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults import COUNT
from tests.faults.conftest import SCRIPTS
from tests.faults.forks import wait_for
from tests.faults.test_signals import begin, left_behind, straight  # noqa: F401 (a fixture)

RESUME = ["--resume_from_checkpoint", "auto"]
KEPT = ["--save_total_limit", "9"]


def sentence(process, script: str) -> str:
    """The one sentence of a run that ended with status 2."""
    said = process.said()
    lines = [line for line in said.splitlines() if line.startswith(f"{script}.py: error: ")]
    assert process.wait() == 2 and len(lines) == 1 and "Traceback" not in said, (process.status, said[-3000:])
    return lines[0]


@pytest.fixture(scope="module")
def stopped(server, flags_of, tmp_path_factory):
    """script -> the folder of a run that was killed when it had two checkpoints at least."""

    def make(script: str) -> Path:
        folder = tmp_path_factory.mktemp("stopped")
        (process,) = begin(server, script, 1, [*flags_of(script), *KEPT], folder)
        out = folder / "out"
        wait_for(lambda: len(list(out.glob("checkpoint-*/checksums.json"))) > 1 or not process.alive(), 240)
        process.send(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.said()[-3000:]
        return folder

    made: dict[str, Path] = {}
    return lambda script: made[script] if script in made else made.setdefault(script, make(script))


def resumed(server, flags, folder: Path, script: str):
    (process,) = begin(server, script, 1, [*flags, *KEPT, *RESUME], folder)
    process.wait()
    return process


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_any_damaged_file_of_a_checkpoint(server, flags_of, stopped, straight, tmp_path, script):  # noqa: F811
    """Cut, empty or gone: from the checkpoint before, or without a file that is not needed, to the same end."""
    source, expected = stopped(script), straight(script, 1)[0]
    newest = max(source.glob("out/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    files = sorted(path.relative_to(source) for path in newest.rglob("*") if path.is_file())
    damages = [(name, how) for name in files for how in ("cut", "empty", "gone")]
    for name, how in random.Random(0).sample(damages, min(len(damages), 2 * COUNT)):
        folder = tmp_path / f"{name.name}-{how}"
        file = shutil.copytree(source, folder) / name
        content = file.read_bytes()
        file.unlink() if how == "gone" else file.write_bytes(content[: len(content) // 2 if how == "cut" else 0])
        process = resumed(server, flags_of(script), folder, script)
        assert process.wait() == 0, (name, how, process.said()[-3000:])
        assert left_behind(folder / "out") == expected, (name, how)
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_clock_was_set_back(server, flags_of, stopped, straight, tmp_path, script):  # noqa: F811
    """All that a resumed run finds was written in a year to come."""
    folder = shutil.copytree(stopped(script), tmp_path / "run")
    for path in folder.rglob("*"):
        os.utime(path, (time.time() + 3e7,) * 2)
    process = resumed(server, flags_of(script), folder, script)
    assert process.wait() == 0, process.said()[-3000:]
    assert left_behind(folder / "out") == straight(script, 1)[0]


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_two_runs_in_one_folder(server, flags_of, straight, tmp_path, script):  # noqa: F811
    flags = flags_of(script)
    (first,) = begin(server, script, 1, flags, tmp_path)
    wait_for(lambda: (tmp_path / "out" / ".run.holder").exists() or not first.alive(), 240)
    for more in ([], ["--overwrite_output_dir"], RESUME):
        (second,) = begin(server, script, 1, [*flags, *more], tmp_path)
        second.wait()
        assert f"is in use by process {first.pid}" in sentence(second, script)
    assert first.wait() == 0 and left_behind(tmp_path / "out") == straight(script, 1)[0]


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("what", ["out", "cache"])
def test_a_folder_that_vanishes_during_the_training(server, flags_of, tmp_path, script, what):
    """One sentence, or a whole run."""
    (process,) = begin(server, script, 1, flags_of(script), tmp_path)
    wait_for(lambda: any(tmp_path.glob("out/checkpoint-*/checksums.json")) or not process.alive(), 240)
    with contextlib.suppress(OSError):  # it is written to at this moment
        shutil.rmtree(tmp_path / what)
    if process.wait() == 0:
        left_behind(tmp_path / "out")
        assert (tmp_path / "out" / "results.json").is_file()
    else:
        assert str(tmp_path / what) in sentence(process, script)


@pytest.fixture
def disk(tmp_path):
    """size in KiB -> a disk of that size; again for another size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: int) -> Path:
        there = ["-o", f"{'remount,' if os.path.ismount(folder) else ''}size={size}k"]
        if subprocess.run(["mount", "-t", "tmpfs", *there, "tmpfs", str(folder)], capture_output=True).returncode:
            pytest.skip("cannot mount a small disk")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_disk_that_is_full_at_any_file(server, flags_of, straight, tmp_path, disk, script):  # noqa: F811
    """One sentence; when there is space, the run goes on to the same end."""
    expected, _ = straight(script, 1)
    (process,) = begin(server, script, 1, [*flags_of(script), *KEPT], tmp_path / "whole")
    assert process.wait() == 0
    needed = sum(path.stat().st_size for path in tmp_path.glob("whole/*/**/*") if path.is_file()) // 1024
    random_sizes = random.Random(f"{script} disk")
    for attempt in range(max(2, COUNT // 3)):
        folder = disk(random_sizes.randint(needed // 20, needed))
        log = tmp_path / f"logs-{attempt}"
        argv = [*flags_of(script), *KEPT, "--output_dir", str(folder / "out")]
        argv += [] if script == "run_fraud" else ["--cache_dir", str(folder / "cache")]
        process = server.run(script, argv, log)
        if process.wait() != 0:
            assert "no space is left" in sentence(process, script)
            disk(needed * 4 + 10_000)
            process = server.run(script, [*argv, *RESUME], log)
            assert process.wait() == 0, process.said()[-3000:]
        assert left_behind(folder / "out") == expected
        for path in folder.iterdir():
            shutil.rmtree(path)
