"""common/{run,checkpoints,errors}.py: folders, locks, launches, signals, disks, and what a run leaves behind."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from common.checkpoints import seal
from common.errors import Interrupted, UserError, exit_status, said_by, whole_file, write_csv, write_json
from common.launch import StopRequest, check_launch
from common.run import start_run
from tests.helpers import ROOT, message
from tests.trainer_worker import make_args, train


def begin(folder, **settings):
    """Enters and leaves a run, as far as it gets."""
    with start_run(make_args(folder, **settings), task="labels") as run:
        return run.checkpoint


def checkpoint(folder: Path, step: int) -> Path:
    """A checkpoint with the files that a resumed run reads."""
    import torch
    from safetensors.torch import save_file

    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"a": torch.zeros(2)}, path / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"a": torch.zeros(2)}, path / name)
    write_json(path / "trainer_state.json", {"global_step": step})
    if not (folder / "run.json").exists():
        write_json(folder / "run.json", {})
    seal(path, json.loads((folder / "run.json").read_text()))
    return path


def test_a_folder_with_something_in_it_is_not_written_to_unasked(tmp_path):
    out = tmp_path / "out"
    assert begin(out) is None and not out.exists(), "a run that wrote nothing leaves no folder"
    checkpoint(out, 3)
    assert "is not empty and holds checkpoint-3; give --resume_from_checkpoint auto" in message(begin, out)
    (out / "results.json").write_text("{}")
    assert "--overwrite_output_dir" in message(begin, out, do_train=False)
    file = tmp_path / "file"
    file.touch()
    assert "is a file" in message(begin, file)


def test_overwriting_empties_the_folder_of_what_runs_write_and_of_nothing_else(tmp_path):
    out = tmp_path / "out"
    checkpoint(out, 3)
    for name in ("results.json", "model.safetensors", "adapter_config.json", "validation_predictions.csv", "run.json"):
        (out / name).write_text("{}")
    (out / "plots").mkdir()
    (out / "thesis.docx").touch()
    assert "thesis.docx" in message(begin, out, overwrite=True) and (out / "results.json").exists()
    (out / "thesis.docx").unlink()
    hidden = {out / ".results.json.123", out / ".DS_Store"}  # of a killed run, of a system
    for path in hidden:
        path.touch()
    begin(out, overwrite=True)
    assert {*out.iterdir()} == hidden and begin(out) is None


def test_overwriting_never_removes_what_the_run_reads(tmp_path):
    out = tmp_path / "out"
    checkpoint(out, 3)
    args = make_args(out, overwrite=True)
    args.model = str(out / "checkpoint-3")
    with pytest.raises(UserError, match="would remove"), start_run(args, task="labels"):
        pass
    assert (out / "checkpoint-3").is_dir()


def test_auto_takes_the_newest_checkpoint_or_starts_anew(tmp_path):
    out = tmp_path / "out"
    assert begin(out, resume_from_checkpoint="auto") is None
    checkpoint(out, 9), checkpoint(out, 10)
    assert begin(out, resume_from_checkpoint="auto") == out / "checkpoint-10"
    assert begin(out, resume_from_checkpoint=str(out / "checkpoint-9")) == out / "checkpoint-9"
    shutil.rmtree(out / "checkpoint-9"), shutil.rmtree(out / "checkpoint-10")
    (out / "results.json").write_text("{}")
    assert "is not empty" in message(begin, out, resume_from_checkpoint="auto"), "a finished run without checkpoints"
    assert "no checkpoint" in message(begin, tmp_path / "new", resume_from_checkpoint=str(tmp_path / "nothing"))
    assert "give --model" in message(begin, tmp_path / "new", resume_from_checkpoint=str(out), do_train=False)


def test_data_and_models_may_lie_elsewhere_when_a_run_is_resumed(tmp_path):
    def started(name: str, fingerprint: str, task: str = "labels", **settings):
        args = make_args(tmp_path / "out", save_steps=len(name), **settings)
        args.record |= {"train_file": {"value": [f"{name}.csv"]}, "merge": {"value": name == "there"}}
        with start_run(args, task=task) as run:
            run.describe(SimpleNamespace(facts={"train": {"fingerprint": fingerprint}}, overlaps=[]))
            run.begin_training()

    started("here", "a" * 64)
    checkpoint(tmp_path / "out", 3)
    started("there", "a" * 64, resume_from_checkpoint="auto")
    assert "train data was aaa" in message(started, "here", "b" * 64, resume_from_checkpoint="auto")
    sentence = message(started, "here", "b" * 64, task="texts", resume_from_checkpoint="auto")
    assert "(task was labels, is texts)" in sentence, "all else differs, too"


HOLD = """
import sys, time
from common.run import start_run
from tests.trainer_worker import make_args
with start_run(make_args(sys.argv[1]), task="labels"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_run_a_folder_and_the_lock_of_a_killed_one_is_taken_over(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    holder = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        sentence = message(begin, tmp_path / "out", overwrite=True)
        assert f"is in use by process {holder.pid} on " in sentence
    finally:
        holder.kill()
        holder.wait()
    assert begin(tmp_path / "out") is None


def test_a_folder_that_is_removed_during_the_run_is_one_sentence(tmp_path):
    def run(gone: bool):
        with start_run(make_args(tmp_path / "out"), task="labels"):
            if gone:
                shutil.rmtree(tmp_path / "out")
            raise FileNotFoundError(2, "No such file", str(tmp_path / "out" / "checkpoint-2"))

    assert "out: was removed while the run wrote into it" in message(run, True)
    with pytest.raises(FileNotFoundError):  # anything else keeps its traceback
        run(False)


def test_a_process_that_is_left_alone_does_not_blame_the_folder(tmp_path, monkeypatch):
    """The main process was refused, and took its empty folder with it."""
    with pytest.raises(RuntimeError, match="closed by peer"), start_run(make_args(tmp_path / "out"), task="labels"):
        monkeypatch.setenv("WORLD_SIZE", "2")
        shutil.rmtree(tmp_path / "out")
        raise RuntimeError("[pair.cc:538] Connection closed by peer [127.0.0.1]:1234")


@pytest.mark.parametrize("then", ["the next phase", "an error"])
def test_a_stop_that_a_library_swallows_comes_again(tmp_path, then):
    def swallows():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except BaseException:  # as datasets does while it hashes a function
            return
        pytest.fail("no signal came")

    with pytest.raises(Interrupted, match="SIGTERM"), start_run(make_args(tmp_path / "out"), task="labels") as run:
        with run.phase("data"):
            swallows()
            if then == "an error":
                raise RuntimeError("Connection closed by peer")
        with run.phase("model"):
            pytest.fail("the run went on")


def test_launches_that_would_run_as_one_process_are_refused():
    single = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}
    assert "torchrun" in message(check_launch, single)
    check_launch({**single, "WORLD_SIZE": "2"})
    check_launch({})


def test_signals_stop_at_once_or_are_kept_for_the_next_step():
    def in_a_library():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except Exception as error:  # as of `inspect`, which TensorFlow calls while it is imported
            raise TypeError("unsupported callable") from error

    with StopRequest(), pytest.raises(Interrupted, match="SIGTERM"):
        in_a_library()
    with StopRequest() as stop, pytest.raises(Interrupted, match="SIGTERM"):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    with StopRequest() as stop, stop.defer():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal_number == signal.SIGINT
        with pytest.raises(Interrupted):  # the second Ctrl-C
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def test_one_sentence_and_the_status_of_each_ending(capsys, monkeypatch):
    def ends(error: BaseException) -> tuple[int, str]:
        def run():
            raise error

        status = exit_status(run, "run_x.py")
        return status, capsys.readouterr().err

    assert ends(UserError("row 3 is wrong")) == (2, "run_x.py: error: row 3 is wrong\n")
    assert ends(Interrupted("stopped", signal.SIGTERM)) == (143, "run_x.py: stopped\n")
    assert ends(KeyboardInterrupt())[0] == 130
    for full in (  # as open, safetensors, torch and numpy say it
        OSError(28, "No space left on device", "some/file"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        OSError("1000000 requested and 262112 written"),
    ):
        status, sentence = ends(full)
        assert status == 2 and "no space is left" in sentence and sentence.count("\n") == 1
    with pytest.raises(ZeroDivisionError):
        ends(ZeroDivisionError())
    assert exit_status(lambda: None, "run_x.py") == 0

    def left_alone():
        raise RuntimeError("[../gloo/transport/tcp/pair.cc:525] Read error [127.0.0.1]:1234: Connection reset by peer")

    with pytest.raises(RuntimeError):  # of one process it would be another fault
        exit_status(left_alone, "run_x.py")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert exit_status(left_alone, "run_x.py") == 1
    assert "another process of this run has ended" in capsys.readouterr().err


def test_files_are_whole_or_not_there(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"a": "é"})
    with pytest.raises(RuntimeError), whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "é"} and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError):
        write_json(path, float("nan"))
    write_csv(tmp_path / "file.csv", ["a"], [["x,y"]])
    assert (tmp_path / "file.csv").read_bytes() == b'a\r\n"x,y"\r\n'


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="mounts a small disk")
@pytest.mark.parametrize("size", [170, 200, 215, 230, 245])  # kilobytes: another file each is what does not fit
def test_a_full_disk_is_one_sentence_and_the_earlier_checkpoint_stays_whole(tmp_path, size):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount")
    try:
        from common.checkpoints import _newest_whole

        settings = {"save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 8}

        def run():
            train(disk / "out", **settings)

        assert exit_status(run, "worker.py") == 2
        assert _newest_whole(disk / "out") == disk / "out" / "checkpoint-1"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


class Detector:
    """The least that `finish` needs of a trainer."""

    metrics = {"eval": {"eval_loss": 0.25}}

    def __init__(self, folder: Path):
        self.folder = folder

    def save(self) -> None:
        (self.folder / "model.keras").touch()

    def run_facts(self) -> dict:
        model = {"revision": None, "architecture": "Sequential", "parameters": {"total": 3, "trainable": 2}}
        return {"model": model, "history": [{"epoch": 1, "loss": float("nan")}], "device": "cpu"}


def scores_of(values) -> dict:
    from common.results import headline, metric

    metrics = {"validation": {"accuracy": metric(np.asarray(values), "percent", scale=100)}}
    baseline = {"validation": {"name": "majority", "metrics": {"accuracy": metric(np.zeros(4), "percent", scale=100)}}}
    head = headline(metrics, baseline, "validation", "accuracy")
    return {"metrics": metrics, "baseline": baseline, "headline": head}


def test_what_a_run_leaves_behind(tmp_path, capsys, caplog):
    import jsonschema

    from common.results import published

    out = tmp_path / "out"
    with caplog.at_level(logging.INFO), start_run(make_args(out, do_train=False), task="labels") as run:
        with run.phase("data"):
            pass
        run.warn("few rows"), run.warn("few rows")
        run.leaks("test rows were trained on")

        def write(results):
            (out / "predictions.csv").write_text("id\n")
            return {"predictions": "predictions.csv"}, [], ""

        rows = [published("a report", "whole", {"accuracy": 90.0})]
        results = run.finish(Detector(out), scores_of([1, 1, 0, 1]), write=write, published=rows, extra={"k": 3})
    written = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(results))
    jsonschema.validate(written, json.loads((ROOT / "common" / "results.schema.json").read_text(encoding="utf-8")))
    assert written["headline"]["value"] == 75 and written["headline"]["low"] < 75 < written["headline"]["high"]
    assert (
        written["protocol"]["leaks"] and written["warnings"] == ["few rows"] and written["history"][0]["loss"] is None
    )
    assert {"data", "results", "total"} <= written["resources"]["seconds"].keys()
    assert json.loads((out / "all_results.json").read_text()) == {"eval_loss": 0.25}
    printed = capsys.readouterr().out
    assert "validation accuracy: 75.00 %" in printed and "LEAKS" in printed and "warning: few rows" in printed
    for name in ("report.html", "README.md", "predictions.csv", "model.keras", "eval_results.json"):
        assert (out / name).is_file(), name
    assert not list(out.glob(".run*"))


def test_what_an_error_says_is_one_line():
    assert said_by(EOFError()) == "EOFError" and said_by(ValueError("\n \n first \nsecond")) == "first"


def test_a_name_that_is_too_long_is_one_sentence(capsys):
    assert exit_status(lambda: os.stat("x" * 300), "run_x.py") == 2
    assert capsys.readouterr().err.startswith(f"run_x.py: error: {'x' * 300}: the name is too long")


def test_the_commit_is_that_of_the_scripts_checkout(tmp_path):
    """Not that of another project in whose folder they are installed."""

    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a", *arguments], cwd=tmp_path, check=True)

    shutil.copytree(ROOT / "common", tmp_path / "common", ignore=shutil.ignore_patterns("__pycache__"))
    code = "from common.results import git_commit; print(git_commit())"
    git("init", "-q"), git("commit", "-q", "--allow-empty", "-m", "another project")
    for own in (False, True):
        if own:
            git("add", "common"), git("commit", "-q", "-m", "the scripts")
        said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert (len(said.stdout.strip()) == 40) is own, said.stdout
