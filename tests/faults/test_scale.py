"""Eight processes: one set of files, evaluation exact, a killed one ends all, an elastic restart goes on."""

import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.forks import wait_for
from tests.faults.test_signals import begin, left_behind
from tests.helpers import ROOT, plain, read, rows_of, start

pytestmark = pytest.mark.slow
PROCESSES = 8
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(PROCESSES), "--standalone"]
# A step of eight processes has as many examples as the one of one process, and there are more steps than one.
SMALL = ["--per_device_train_batch_size", "1"]


@pytest.mark.parametrize("script", ["run_mnli_lora", "run_keyword"])
def test_one_set_of_files_and_an_exact_evaluation(server, flags_of, tmp_path, script):
    flags = [*flags_of(script), *SMALL]
    run = begin(server, script, PROCESSES, flags, tmp_path)
    assert [process.wait() for process in run] == [0] * PROCESSES, run[0].said()[-3000:]
    out = tmp_path / "out"
    left_behind(out)
    results = read(out / "results.json")
    assert results["environment"]["processes"] == PROCESSES
    assert sum(process.said().count("report: ") for process in run) == 1, "only the main process speaks"
    evaluation = [flag for flag in flags if not flag.startswith(("--model=", "--train_file="))]
    alone = [*evaluation, "--model", str(out), "--do_eval", "--do_predict"]
    found = {}
    for processes in (1, PROCESSES):
        folder = tmp_path / f"evaluated-{processes}"
        ended = begin(server, script, processes, alone, folder)
        assert [process.wait() for process in ended] == [0] * processes, ended[0].said()[-3000:]
        found[processes] = folder / "out"
    one, many = (read(folder / "results.json")["metrics"] for folder in found.values())
    for split, metrics in one.items():
        for name, metric in metrics.items():
            assert many[split][name]["value"] == pytest.approx(metric["value"], rel=1e-5), (split, name)
            assert many[split][name].get("examples") == metric.get("examples")
    for path in found[1].glob("*predictions.csv"):
        ours, theirs = rows_of(path), rows_of(found[PROCESSES] / path.name)
        assert [row["id"] for row in ours] == [row["id"] for row in theirs]
        assert [row["prediction"] for row in ours] == [row["prediction"] for row in theirs]


def kill_a_rank(process, out: Path) -> set[int]:
    """Kills one of the workers when there is a checkpoint; the ids of all of them."""
    wait_for(lambda: any(out.glob("checkpoint-*/checksums.json")) or process.poll() is not None, 400)
    assert process.poll() is None, process.communicate()[0][-3000:]
    workers = [one for one in psutil.Process(process.pid).children() if "RANK" in one.environ()]
    assert len(workers) == PROCESSES
    workers[3].send_signal(signal.SIGKILL)
    return {one.pid for one in workers}


def command(script: str, flags, folder: Path, *launch: str) -> list[str]:
    own = ["--output_dir", str(folder / "out"), "--cache_dir", str(folder / "cache"), *SMALL]
    return [*LAUNCH, *launch, str(ROOT / f"{script}.py"), *flags, *own]


@pytest.mark.parametrize("script", ["run_mnli_lora", "run_keyword"])
def test_a_killed_rank_ends_all_within_a_minute(flags_of, tmp_path, script):
    many = [*flags_of(script), "--num_train_epochs", "400"]
    process = start(command(script, many, tmp_path), tmp_path, plain(tmp_path))
    workers = kill_a_rank(process, tmp_path / "out")
    begin_ = time.monotonic()
    process.communicate(timeout=120)
    assert process.returncode not in (0, None) and time.monotonic() - begin_ < 60
    assert not workers & set(psutil.pids())
    assert not (tmp_path / "out" / "results.json").exists()


def test_an_elastic_restart_goes_on_to_the_same_model(server, flags_of, tmp_path):
    flags = [*flags_of("run_mnli_lora"), "--num_train_epochs", "6", "--resume_from_checkpoint", "auto"]
    launch = command("run_mnli_lora", flags, tmp_path / "a", "--max_restarts", "1")
    # Sharing its store, torchrun gives restarted processes the addresses of dead ones (PyTorch 2.13).
    process = start(launch, tmp_path, plain(tmp_path) | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"})
    kill_a_rank(process, tmp_path / "a" / "out")
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said[-3000:]
    straight = begin(server, "run_mnli_lora", PROCESSES, [*flags, *SMALL], tmp_path / "b")
    assert [one.wait() for one in straight] == [0] * PROCESSES, straight[0].said()[-3000:]
    assert left_behind(tmp_path / "a" / "out") == left_behind(tmp_path / "b" / "out")
