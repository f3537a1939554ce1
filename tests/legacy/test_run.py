"""How a run is launched, where it may write, how it is stopped - by real signals - and with which status it ends."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.legacy.errors import Interrupted, UserError, exit_status
from common.legacy.run import (
    RUN_FILE,
    Clock,
    StopRequest,
    check_launch,
    checkpoints,
    decided_by_main_process,
    prepare_output_dir,
    start_training,
)
from tests.legacy.helpers import message

ROOT = Path(__file__).resolve().parents[2]


# Launch


@pytest.mark.parametrize(
    "environment, refused",
    [
        ({}, False),
        ({"PATH": "/bin"}, False),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, False),  # accelerate launch with one process
        ({"MASTER_ADDR": "127.0.0.1"}, False),  # somebody's cluster sets it everywhere
        ({"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "RANK": "0"}, False),  # torchrun
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}, False),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "PMI_SIZE": "2"}, False),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "OMPI_COMM_WORLD_SIZE": "2"}, False),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "MV2_COMM_WORLD_SIZE": "2"}, False),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}, True),
    ],
)
def test_a_launch_that_would_be_one_process_instead_of_several(environment, refused):
    if refused:
        assert "torchrun --nproc_per_node" in message(check_launch, environment)
    else:
        check_launch(environment)


def test_the_own_environment_is_what_is_checked(monkeypatch):
    for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    check_launch()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert "accelerate" in message(check_launch)


def test_decisions_of_a_single_process_are_its_own():
    assert decided_by_main_process(lambda: Path("x")) == Path("x")

    def refuse():
        raise UserError("no")

    assert message(decided_by_main_process, refuse) == "no"
    with pytest.raises(ZeroDivisionError):
        decided_by_main_process(lambda: 1 / 0)


# Output directory


def checkpoint(folder: Path, step: int, complete: bool = True) -> Path:
    """A checkpoint, or what a killed process left of one."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"x")
    if complete:
        (path / "trainer_state.json").write_text("{}")
    return path


def prepare(folder, resume=None, overwrite=False, training=True):
    before = sorted(folder.parent.rglob("*"))
    try:
        return prepare_output_dir(
            SimpleNamespace(output_dir=str(folder), resume_from_checkpoint=resume, do_train=training),
            overwrite=overwrite,
        )
    finally:
        assert sorted(folder.parent.rglob("*")) == before  # nothing is written here


CONTENTS = {
    "missing": lambda folder: None,
    "empty": lambda folder: folder.mkdir(),
    "results": lambda folder: (folder.mkdir(), (folder / "results.json").write_text("{}")),
    "hidden": lambda folder: (folder.mkdir(), (folder / ".keep").touch()),
    "begun": lambda folder: (folder.mkdir(), (folder / RUN_FILE).write_text("{}")),
    "finished": lambda folder: [folder.mkdir(), *((folder / n).write_text("{}") for n in (RUN_FILE, "results.json"))],
    "checkpoints": lambda folder: [checkpoint(folder, step) for step in (9, 10, 100, 20)],
    "partial": lambda folder: (checkpoint(folder, 5), checkpoint(folder, 7, complete=False)),
    "broken": lambda folder: checkpoint(folder, 7, complete=False),
}
REFUSED = "refused"
# What is there -> what comes of: nothing, overwrite, auto, auto without training, nothing without training
DECISIONS = {
    "missing": (None, None, None, None, None),
    "empty": (None, None, None, None, None),
    "results": (REFUSED, None, REFUSED, REFUSED, REFUSED),
    "hidden": (REFUSED, None, REFUSED, REFUSED, REFUSED),
    "begun": (REFUSED, None, None, REFUSED, REFUSED),
    "finished": (REFUSED, None, REFUSED, REFUSED, REFUSED),
    "checkpoints": (REFUSED, None, "checkpoint-100", REFUSED, REFUSED),
    "partial": (REFUSED, None, "checkpoint-5", REFUSED, REFUSED),
    "broken": (REFUSED, None, REFUSED, REFUSED, REFUSED),
}
ASKED = (
    {},
    {"overwrite": True},
    {"resume": "auto"},
    {"resume": "auto", "training": False},
    {"training": False},
)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("asked", range(len(ASKED)))
def test_what_happens_to_an_output_directory(tmp_path, content, asked):
    folder = tmp_path / "out"
    CONTENTS[content](folder)
    expected = DECISIONS[content][asked]
    if expected != REFUSED:
        assert prepare(folder, **ASKED[asked]) == (folder / expected if expected else None)
        return
    sentence = message(prepare, folder, **ASKED[asked])
    assert str(folder) in sentence and "is not empty" in sentence and "--overwrite_output_dir" in sentence
    resumable = {"checkpoints": "checkpoint-100", "partial": "checkpoint-5"}.get(content)
    assert ("--resume_from_checkpoint auto" in sentence) == (resumable is not None and not ASKED[asked])
    assert resumable is None or f"holds {resumable};" in sentence


@pytest.mark.parametrize("word", ["auto", "AUTO", "true", "True"])
def test_words_for_the_newest_checkpoint(tmp_path, word):
    newest = [checkpoint(tmp_path / "out", step) for step in (2, 11)][-1]
    assert prepare(tmp_path / "out", resume=word) == newest
    assert prepare(tmp_path / "out", resume=word, overwrite=True) == newest


@pytest.mark.parametrize("word", ["false", "False"])
def test_words_for_none(tmp_path, word):
    checkpoint(tmp_path / "out", 2)
    assert "is not empty" in message(prepare, tmp_path / "out", resume=word)
    assert prepare(tmp_path / "new", resume=word) is None


def test_an_explicit_checkpoint_is_taken_if_it_is_one(tmp_path):
    older, _ = (checkpoint(tmp_path / "out", step) for step in (1, 2))
    assert prepare(tmp_path / "out", resume=str(older)) == older
    assert prepare(tmp_path / "new", resume=str(older)) == older
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "results.json").write_text("{}")
    assert "is not empty" in message(prepare, tmp_path / "other", resume=str(older))
    assert prepare(tmp_path / "other", resume=str(older), overwrite=True) == older
    for missing in (tmp_path / "out", tmp_path / "nowhere", checkpoint(tmp_path / "out", 3, complete=False)):
        sentence = message(prepare, tmp_path / "out", resume=str(missing))
        assert str(missing) in sentence and "no checkpoint" in sentence
    assert "--model" in message(prepare, tmp_path / "out", resume=str(older), training=False)


@pytest.mark.parametrize("options", ASKED)
def test_a_file_is_no_output_directory(tmp_path, options):
    (tmp_path / "out").write_text("mine")
    assert message(prepare, tmp_path / "out", **options) == f"--output_dir {tmp_path / 'out'}: is a file"


@pytest.mark.parametrize("options", ASKED)
@pytest.mark.parametrize("content", ["missing", "empty", "checkpoints"])
def test_a_directory_that_cannot_be_written(tmp_path, monkeypatch, options, content):
    """As root everything can be: `os.access` is told to refuse writing into the nearest directory that exists."""
    folder = tmp_path / "a" / "out"
    CONTENTS[content](folder) if content != "empty" else folder.mkdir(parents=True)
    nearest = folder if folder.exists() else tmp_path
    access = os.access

    def refusing(path, mode):
        return not (Path(path) == nearest and mode & os.W_OK) and access(path, mode)

    monkeypatch.setattr(os, "access", refusing)
    assert f"--output_dir {folder}: cannot write there" in message(prepare, folder, **options)


def test_a_read_only_file_system(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    assert "cannot write there" in message(prepare, tmp_path / "out")


def test_a_relative_directory_is_looked_for_where_we_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert prepare(Path("new/deeper")) is None
    checkpoint(Path("out"), 3)
    assert prepare(Path("out"), resume="auto") == Path("out/checkpoint-3")


def test_only_complete_checkpoints_count_in_the_order_of_steps(tmp_path):
    found = {step: checkpoint(tmp_path, step) for step in (100, 9, 20)}
    checkpoint(tmp_path, 500, complete=False)
    (tmp_path / "checkpoint-600").write_text("a file")
    for name in ("checkpoint-7-old", "checkpoint-best", "my-checkpoint-8", "tmp-checkpoint-9"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text("{}")
    assert checkpoints(tmp_path) == [found[9], found[20], found[100]]
    assert checkpoints(tmp_path / "missing") == []


IDENTITY = {"task": "t", "model": "m", "seed": 1, "training data": "ab12", "learning_rate": 5e-5, "layers": None}


def test_training_anew_removes_what_could_be_taken_for_its_own(tmp_path):
    folder = tmp_path / "a" / "out"
    checkpoint(folder, 3)
    checkpoint(folder, 4, complete=False)
    kept = {"notes.txt": "mine", "results.json.bak": "mine"}
    for name, content in {**kept, "results.json": "{}"}.items():
        (folder / name).write_text(content)
    (folder / "checkpoint-best").mkdir()
    start_training(folder, None, IDENTITY)
    assert {p.name for p in folder.iterdir()} == {*kept, "checkpoint-best", RUN_FILE}
    assert json.loads((folder / RUN_FILE).read_text()) == IDENTITY
    start_training(tmp_path / "new" / "out", None, IDENTITY)
    assert json.loads((tmp_path / "new" / "out" / RUN_FILE).read_text()) == IDENTITY


def test_resuming_is_for_the_same_run(tmp_path):
    start_training(tmp_path, None, IDENTITY)
    last = checkpoint(tmp_path, 3)
    before = sorted(tmp_path.rglob("*"))
    start_training(tmp_path, last, dict(IDENTITY))
    for name, other in {"seed": 2, "model": "n", "training data": "cd34", "layers": 3}.items():
        sentence = message(start_training, tmp_path, last, {**IDENTITY, name: other})
        assert sentence.startswith(f"{last}: belongs to another run ({name} was {IDENTITY[name]}, is {other});")
    both = message(start_training, tmp_path, last, {**IDENTITY, "seed": 2, "model": "n"})
    assert "seed was 1, is 2" in both and "model was m, is n" in both
    assert sorted(tmp_path.rglob("*")) == before
    start_training(tmp_path, last, {**IDENTITY, "noted since": "a newer version"})
    (tmp_path / RUN_FILE).unlink()
    start_training(tmp_path, last, IDENTITY)  # a checkpoint of the official example, which notes nothing


# Time


def test_the_clock_adds_up_phases_and_the_whole():
    clock = Clock()
    for _ in range(2):
        with clock.phase("data"):
            time.sleep(0.03)
    with pytest.raises(ZeroDivisionError), clock.phase("training"):
        time.sleep(0.02)
        raise ZeroDivisionError
    time.sleep(0.04)
    total = clock.total()
    assert list(total) == ["data", "training", "total"]
    assert total["data"] >= 0.06 and total["training"] >= 0.02 and total["data"] < total["total"]
    assert total["total"] >= total["data"] + total["training"] + 0.04
    assert set(clock.seconds) == {"data", "training"}
    assert clock.total()["total"] > total["total"]


# Signals


def send(number):
    """Sends a real signal to this process; a handler has run when this returns."""
    os.kill(os.getpid(), number)
    for _ in range(1000):  # Python runs handlers between two instructions
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_outside_training_stops_at_once(number):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match=signal.Signals(number).name) as caught, StopRequest() as stop:
        send(number)
        pytest.fail("it went on")
    assert caught.value.signal_number == stop.signal_number == number
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_training_is_only_noted(number):
    with StopRequest() as stop:
        assert stop.signal_number is None
        with stop.defer():
            send(number)
            assert stop.signal_number == number
            send(signal.SIGTERM)  # from the launcher, which passes on what everybody got
            assert stop.signal_number == number
        assert stop.signal_number == number
        send(signal.SIGTERM)  # still the same request: it does not disturb the saving
        assert stop.signal_number == number


def test_a_second_interrupt_does_not_wait_for_anything():
    with pytest.raises(Interrupted) as caught, StopRequest() as stop, stop.defer():
        send(signal.SIGINT)
        send(signal.SIGINT)
        pytest.fail("it went on")
    assert caught.value.signal_number == signal.SIGINT
    with pytest.raises(Interrupted), StopRequest() as stop, stop.defer():
        send(signal.SIGTERM)
        send(signal.SIGINT)
        pytest.fail("it went on")


def test_after_training_signals_stop_at_once_again():
    with pytest.raises(Interrupted), StopRequest() as stop:
        with stop.defer():
            pass
        send(signal.SIGTERM)
        pytest.fail("it went on")
    with pytest.raises(Interrupted), StopRequest() as stop:
        with pytest.raises(ZeroDivisionError), stop.defer():
            raise ZeroDivisionError
        send(signal.SIGINT)
        pytest.fail("it went on")


def test_other_threads_take_no_signals_and_leave_the_handlers():
    handlers, failed = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)], []

    def run():
        try:
            with StopRequest() as stop, stop.defer():
                assert stop.signal_number is None
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failed
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


# Exit status


def fail_with(error):
    def run():
        raise error

    return run


@pytest.mark.parametrize(
    "run, status, said",
    [
        (lambda: {"results": 1}, 0, ""),
        (lambda: None, 0, ""),
        (fail_with(UserError("rows.csv: no such file")), 2, "run_x.py: error: rows.csv: no such file\n"),
        (fail_with(Interrupted("stopped by SIGINT", signal.SIGINT)), 130, "run_x.py: stopped by SIGINT\n"),
        (fail_with(Interrupted("stopped by SIGTERM", signal.SIGTERM)), 143, "run_x.py: stopped by SIGTERM\n"),
    ],
)
def test_every_end_has_its_status_and_at_most_one_line(monkeypatch, capsys, run, status, said):
    monkeypatch.delenv("RANK", raising=False)
    assert exit_status(run, "run_x.py") == status
    assert capsys.readouterr() == ("", said)


def test_ctrl_c_before_anything_began(capsys):
    assert exit_status(fail_with(KeyboardInterrupt()), "run_x.py") == 130
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("run_x.py: interrupted")


@pytest.mark.parametrize(
    "number, words",
    [
        (errno.ENOSPC, "no space is left"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission"),
    ],
)
@pytest.mark.parametrize("filename", [None, "/out/model.safetensors"])
def test_disks_end_in_one_sentence(capsys, number, words, filename):
    assert exit_status(fail_with(OSError(number, os.strerror(number), filename)), "run_x.py") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("run_x.py: error: ") and words in line
    assert ("--output_dir" in line) == (number != errno.EACCES)
    assert (filename or "no file") in line or filename is None
    assert "None" not in line


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        OSError("no number"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
        ConnectionError("gone"),
        SystemExit(3),
        AssertionError(),
    ],
)
def test_bugs_keep_their_traceback(error):
    with pytest.raises(type(error)) as caught:
        exit_status(fail_with(error), "run_x.py")
    assert caught.value is error


def test_every_process_says_who_it_is(monkeypatch, capsys):
    for rank, who in (("0", "run_x.py"), ("3", "run_x.py (process 3)")):
        monkeypatch.setenv("RANK", rank)
        exit_status(fail_with(UserError("no")), "run_x.py")
        assert capsys.readouterr().err == f"{who}: error: no\n"


PROGRAM = """
import os, signal, sys, time
from common.legacy.errors import Interrupted, exit_status
from common.legacy.run import StopRequest
def main():
    with StopRequest() as stop:
        {body}
def ready():
    print("ready", flush=True)
def training(stop):
    with stop.defer():
        ready()
        while not stop.signal_number:
            time.sleep(0.01)
        time.sleep(0.2)
    print("saved", flush=True)
    raise Interrupted("saved checkpoint-3", stop.signal_number)
sys.exit(exit_status(main, "run_x.py"))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", ["data", "training"])
def test_a_process_that_is_told_to_stop_ends_as_shells_expect(number, phase):
    body = "ready(); time.sleep(60)" if phase == "data" else "training(stop)"
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM).format(body=body)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert len(errors.splitlines()) == 1 and "Traceback" not in errors
    if phase == "training":
        assert output == "saved\n" and errors == "run_x.py: saved checkpoint-3\n"
    else:
        assert signal.Signals(number).name in errors
