"""The life of a run: how it was launched, where it may write, when it is asked to stop, how long its phases take."""

import contextlib
import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from common.legacy.errors import Interrupted, UserError
from common.legacy.files import write_json

RUN_FILE = "run.json"
DEMO_FOLDER = "demo"  # in the output directory: built-in data, which a refused run may have left
T = TypeVar("T")


def decided_by_main_process(decide: Callable[[], T]) -> T:
    """Runs `decide` on the first process only and gives its result, or raises its `UserError`, on every process.

    For what all must agree on while it may look different to each: a directory's content, the newest checkpoint.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    state = PartialState()
    outcome: list = [None, None]
    if state.is_main_process:
        try:
            outcome = [decide(), None]
        except UserError as error:
            outcome = [None, str(error)]
    value, sentence = broadcast_object_list(outcome) if state.num_processes > 1 else outcome
    if sentence is not None:
        raise UserError(sentence)
    return value


def check_launch(environment: Mapping[str, str] = os.environ) -> None:
    """Refuses a launch of several processes that would silently run as one.

    `accelerate launch --cpu --num_processes N` sets a rendezvous address and starts a single process without telling
    it so; it would train N times longer than asked, with an N times smaller batch.
    """
    announced = "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment
    ranked = {"WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"} & set(environment)
    if announced and not ranked:
        raise UserError(
            "accelerate was asked for several processes but started only one (it does so with --cpu); "
            "use `torchrun --nproc_per_node N`, or "
            "`ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N`"
        )


def checkpoints(output_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first (the trainer's state is what is written last)."""
    found = [p for p in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)]
    return sorted((p for p in found if (p / "trainer_state.json").is_file()), key=lambda p: int(p.name[11:]))


def prepare_output_dir(arguments, *, overwrite: bool) -> Path | None:
    """Decides what happens to an output directory; returns the checkpoint to resume from, or None.

    `--resume_from_checkpoint PATH`, or `auto` (or `true`), goes on where an earlier run stopped; `auto` starts anew
    when the directory is empty or its run has no checkpoint yet. Otherwise a directory with something in it is refused
    unless `overwrite`, which removes the checkpoints that are in it. Nothing is written here.

    Args:
        arguments: with `output_dir`, `resume_from_checkpoint` and `do_train`.

    Raises:
        UserError: a directory that is not empty, not writable or not a directory; a checkpoint that is not there.
    """
    folder, resume, training = Path(arguments.output_dir), arguments.resume_from_checkpoint, arguments.do_train
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output_dir {folder}: is a file")
    parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not os.access(parent, os.W_OK | os.X_OK) or os.statvfs(parent).f_flag & os.ST_RDONLY:
        raise UserError(f"--output_dir {folder}: cannot write there; choose another --output_dir")
    auto = resume is not None and resume.lower() in ("auto", "true")
    if resume is not None and not auto and resume.lower() != "false":
        if not training:
            raise UserError("--resume_from_checkpoint continues a training; to use a checkpoint as it is, give --model")
        checkpoint = Path(resume)
        if not (checkpoint / "trainer_state.json").is_file():
            raise UserError(f"--resume_from_checkpoint {checkpoint}: no checkpoint of a training there")
        if checkpoint.resolve().parent == folder.resolve():
            return checkpoint
    else:
        checkpoint = None
    found = checkpoints(folder)
    if auto and training:
        begun = (folder / RUN_FILE).is_file() and not (folder / "results.json").is_file()
        if found or begun:  # begun: stopped before its first checkpoint
            return found[-1] if found else None
    if folder.is_dir() and any(path.name != DEMO_FOLDER for path in folder.iterdir()) and not overwrite:
        remedy = " --resume_from_checkpoint auto to go on from it," if found and training else ""
        last = f" and holds {found[-1].name}" if found else ""
        raise UserError(
            f"--output_dir {folder}: is not empty{last}; give{remedy} --overwrite_output_dir to replace it, "
            "or another --output_dir"
        )
    return checkpoint


def start_training(output_dir: Path, checkpoint: Path | None, identity: dict) -> None:
    """Called by the main process right before training, when everything has been checked.

    Anew: removes an earlier run's checkpoints and results, so that nothing of it can be taken for this one's, and
    notes what this run is. Resuming: makes sure that it is the same run.

    Args:
        identity: what may not change between the parts of one training (task, model, data fingerprint, ...); json.

    Raises:
        UserError: the checkpoint belongs to another run.
    """
    if checkpoint is not None:
        noted = checkpoint.parent / RUN_FILE
        earlier = json.loads(noted.read_text(encoding="utf-8")) if noted.is_file() else {}
        both = {name: (earlier.get(name, now), now) for name, now in identity.items()}
        changed = [f"{name} was {before}, is {now}" for name, (before, now) in both.items() if before != now]
        if changed:
            raise UserError(
                f"{checkpoint}: belongs to another run ({'; '.join(changed)}); "
                "resume with the same settings, or choose another --output_dir"
            )
    output_dir.mkdir(parents=True, exist_ok=True)
    if checkpoint is None or checkpoint.resolve().parent != output_dir.resolve():
        for path in output_dir.glob("checkpoint-*"):
            if re.fullmatch(r"checkpoint-\d+", path.name):
                shutil.rmtree(path)
    (output_dir / "results.json").unlink(missing_ok=True)
    write_json(output_dir / RUN_FILE, identity)


class Clock:
    """Seconds by phase, as results.json's `resources.seconds` wants them."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time inside the `with` under `name`, adding to what is already there."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def total(self) -> dict[str, float]:
        """All phases, and "total" since the clock was made."""
        return {**self.seconds, "total": time.perf_counter() - self._start}


class StopRequest:
    """SIGINT and SIGTERM: while training they are noted, to stop at the next step; elsewhere they stop at once.

    Launchers pass a signal on that the terminal has already sent to everybody, so a SIGTERM after the first signal is
    not taken for impatience; a second Ctrl-C is, and ends the process on the spot.
    """

    def __init__(self):
        self.signal_number: int | None = None
        self.deferred = False

    def __enter__(self) -> "StopRequest":
        in_main_thread = threading.current_thread() is threading.main_thread()  # elsewhere Python takes no signals
        numbers = (signal.SIGINT, signal.SIGTERM) if in_main_thread else ()
        self._previous = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame) -> None:
        again = self.signal_number is not None
        self.signal_number = self.signal_number or number
        if self.deferred and not (again and number == signal.SIGINT):
            return
        if not again or number == signal.SIGINT:
            name = signal.Signals(number).name
            raise Interrupted(
                f"stopped by {name}; nothing is lost that was not trained: run the same command again, "
                "with --resume_from_checkpoint auto if there is a checkpoint",
                number,
            )

    @contextlib.contextmanager
    def defer(self) -> Iterator[None]:
        """Inside the `with` a signal is only noted in `signal_number`."""
        self.deferred = True
        try:
            yield
        finally:
            self.deferred = False
