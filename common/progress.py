"""Progress of a training: bars on a terminal, a line a minute in a log file."""

import logging
import time

from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

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
