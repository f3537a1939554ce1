"""Killed or stopped anywhere and resumed: the same model and the same predictions, byte for byte."""

import functools
import os
import random
import signal
import time
import zipfile
from pathlib import Path

import pytest

from tests.faults import COUNT
from tests.faults.conftest import SCRIPTS
from tests.helpers import read
from tests.test_jobs import free_port

SEED = int(os.environ.get("FAULTS_SEED", "0"))
QUICK = {("run_nli_parsbert", 1, "SIGKILL")}  # in `make test`, beside the stops of test_launch
CASES = [
    pytest.param(
        *(script, processes, number),
        id=f"{script}-{processes}-{number}",
        marks=() if (script, processes, number) in QUICK else pytest.mark.slow,
    )
    for script in SCRIPTS
    for processes in ((1,) if script == "run_fraud" else (1, 2))
    for number in ("SIGKILL", "SIGTERM")
]


def left_behind(folder: Path) -> dict[str, bytes]:
    """What a run is for: the model's file and what it predicts."""
    names = ("*.safetensors", "*predictions.csv", "*predictions.json", "*null_odds.json")
    found = {path.name: path.read_bytes() for name in names for path in folder.glob(name)}
    for path in folder.glob("*.keras"):
        with zipfile.ZipFile(path) as file:
            found[path.name] = file.read("model.weights.h5")
    assert len(found) > 1, sorted(path.name for path in folder.iterdir())
    return found


def begin(server, script: str, processes: int, flags, folder: Path) -> list:
    """The processes of a run into `folder`/out, as a launcher starts them."""
    argv = [*flags, "--output_dir", str(folder / "out")]
    argv += [] if script == "run_fraud" else ["--cache_dir", str(folder / "cache")]
    if processes == 1:
        return [server.start(script, argv, folder)]
    launch = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [
        server.start(script, argv, folder, RANK=str(rank), LOCAL_RANK=str(rank), **launch) for rank in range(processes)
    ]


@pytest.fixture(scope="module")
def straight(server, flags_of, tmp_path_factory):
    """(script, processes) -> what a run that nobody disturbs leaves, and its seconds."""

    @functools.cache
    def run(script: str, processes: int) -> tuple[dict[str, bytes], float]:
        folder, start = tmp_path_factory.mktemp("straight"), time.monotonic()
        run = begin(server, script, processes, flags_of(script), folder)
        assert [process.wait() for process in run] == [0] * processes, run[0].said()[-3000:]
        return left_behind(folder / "out"), time.monotonic() - start

    return run


@pytest.mark.parametrize(("script", "processes", "number"), CASES)
def test_stopped_anywhere_and_resumed_is_as_if_never_stopped(
    server, flags_of, straight, tmp_path, script, processes, number
):
    expected, seconds = straight(script, processes)
    points = random.Random(f"{SEED} {script} {processes} {number}")
    cases = 2 if script == "run_fraud" else 4
    for attempt in range(-(-COUNT // cases)):
        delay, folder = points.uniform(0, seconds), tmp_path / str(attempt)
        run = begin(server, script, processes, flags_of(script), folder)
        time.sleep(delay)
        for process in run:
            if process.alive():
                process.send(signal.Signals[number])
        ends = [process.wait() for process in run]
        said, at = "".join(process.said() for process in run), f"seed {SEED}, attempt {attempt}, {delay:.2f} s"
        killed = -signal.Signals[number]
        assert set(ends) <= {0, killed, 128 - killed}, (at, ends, said[-3000:])
        if number == "SIGTERM" and 143 in ends:
            assert "Traceback" not in said and "--resume_from_checkpoint auto" in said, (at, said[-3000:])
        resumed = begin(server, script, processes, [*flags_of(script), "--resume_from_checkpoint", "auto"], folder)
        assert [process.wait() for process in resumed] == [0] * processes, (at, resumed[0].said()[-3000:])
        assert left_behind(folder / "out") == expected, at
        assert read(folder / "out" / "results.json")["metrics"]
        left = [path.name for path in (folder / "out").iterdir() if path.name.startswith(".")]
        assert left == [], (at, left)
