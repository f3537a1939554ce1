"""Callbacks of every training: progress on a terminal and in log files; saving when a run is stopped, resuming."""

import logging
import signal
import time
from pathlib import Path

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from common.checkpoints import damage, seal
from common.errors import Interrupted, UserError
from common.models import load_whole

logger = logging.getLogger(__name__)


class Bars(ProgressCallback):
    """The usual bars; that of training shows the latest losses and metrics, and nothing is printed between."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None:
            shown = {name: f"{value:.4g}" for name, value in (logs or {}).items() if _is_score(name)}
            self.training_bar.set_postfix(shown or None)


class LogLines(TrainerCallback):
    """For a log file: a line a minute, and one for each evaluation."""

    seconds = 60.0

    def on_train_begin(self, args, state, control, **kwargs):
        self.begin = self.last = time.monotonic()
        self.first_step, self.loss = state.global_step, ""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            self.loss = f", loss {logs['loss']:.4g}"

    def on_step_end(self, args, state, control, **kwargs):
        now = time.monotonic()
        if now - self.last < self.seconds:
            return
        self.last = now
        left = (now - self.begin) * (state.max_steps - state.global_step) / (state.global_step - self.first_step)
        minutes = f"{left / 60:,.0f} min left"
        logger.info("step %s of %s%s, %s", f"{state.global_step:,}", f"{state.max_steps:,}", self.loss, minutes)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        shown = ", ".join(f"{name} {value:.4g}" for name, value in (metrics or {}).items() if _is_score(name))
        logger.info("step %s: %s", f"{state.global_step:,}", shown)


def _is_score(name: str) -> bool:
    ends = ("runtime", "per_second", "preparation_time", "epoch", "seconds", "flos", "grad_norm", "learning_rate")
    return not name.endswith(ends)


class StopAndResume(TrainerCallback):
    """Saves and leaves when the run was asked to stop, and puts right what a resumed state says of its folder."""

    def __init__(self, trainer):
        self.trainer, self.stopping, self.over = trainer, False, False

    def _asked(self) -> bool:
        """Whether any process was asked to stop; all of them get the same answer, at the same step."""
        asked = self.trainer.run.stop.signal_number is not None
        if self.trainer.args.world_size > 1:
            flag = torch.tensor(float(asked), device=self.trainer.args.device)
            asked = bool(self.trainer.accelerator.reduce(flag, reduction="sum") > 0)
        self.stopping = self.stopping or asked
        self.trainer.args.save_only_model &= not self.stopping  # or the run could not be resumed
        return self.stopping

    def on_train_begin(self, args, state, control, **kwargs):
        del self.trainer.model.config.task_flags
        if (checkpoint := self.trainer.run.checkpoint) is None:
            return
        load_whole(self.trainer.model, checkpoint)
        ended = state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]
        self.over = control.should_training_stop = ended
        seconds = (entry.get("seconds", 0.0) for entry in state.log_history)
        self.trainer.run.earlier_seconds = max(seconds, default=0.0)
        if state.best_global_step:  # the folder may have been renamed or copied since
            best = checkpoint.resolve().parent / f"checkpoint-{state.best_global_step}"
            if args.load_best_model_at_end and (problem := damage(best)):
                raise UserError(f"{best}: the best model of this run: {problem}; start anew in another --output_dir")
            state.best_model_checkpoint = str(best)

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_evaluate or control.should_save or state.global_step >= state.max_steps:
            control.should_log = True  # or the loss of these steps would be lost in a run that is resumed
        if self._asked() and state.epoch % 1:  # at the end of an epoch what is due then comes first
            control.should_log = control.should_save = True

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_log = True
        if self.stopping:
            control.should_save = True
        if self.over:  # all of this was done before the run was resumed
            control.should_evaluate = control.should_save = False

    def on_evaluate(self, args, state, control, **kwargs):
        if self._asked() or args.load_best_model_at_end:  # the best model has to be on the disk, whatever --save_steps
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self.trainer.accelerator.wait_for_everyone()
        if args.should_save and not args.save_only_model:
            seal(checkpoint, self.trainer.run.identity)
        if not self.stopping:
            return
        self.trainer.accelerator.wait_for_everyone()
        self.trainer.is_in_train = False
        number = self.trainer.run.stop.signal_number
        raise Interrupted(
            f"stopped at step {state.global_step} of {state.max_steps}; {checkpoint.name} is saved in "
            f"{args.output_dir}: run the same command with --resume_from_checkpoint auto to go on",
            number if number is not None else signal.SIGTERM,  # another process got it
        )
