"""The training of Keras models on rows of numbers: stock `model.fit`, with what a long run needs around it.

- The order of the rows is drawn from (seed, epoch) alone, and dropout's random state is saved with the weights: a run
  that was killed and resumed ends with the weights of one that never stopped.
- There is a checkpoint after every epoch; SIGINT and SIGTERM leave at once, and cost the unfinished epoch.
- After every epoch the validation rows are predicted once, for the history, early stopping and the best weights.
- The batches of an epoch are cut in one go, and several steps run without a look at Python in between: with the small
  batches of these models that is what takes the time.

Not for the scripts on `Trainer` (`common.legacy.trainer`), nor for building the models (`common.legacy.keras_models`).
"""

import io
import json
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from common.legacy.keras_models import predict  # first: it tells Keras how to run

# isort: split
import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from common.legacy.detection import HALF, cross_entropy, summary
from common.legacy.errors import Interrupted, UserError
from common.legacy.files import write_bytes, write_json
from common.legacy.keras_arguments import KerasArguments
from common.legacy.run import StopRequest, checkpoints

STEPS_PER_EXECUTION = 32
PREFETCHED = 64  # batches, of a few kB each with the published size
STATE_FILE, BEST_FILE, FACTS_FILE = "state.npz", "best.npz", "trainer_state.json"
MEASURED = {"auprc": "auprc", "precision": "precision_at_half", "recall": "recall_at_half", "f1": "f1_at_half"}


class KerasTrainer:
    """Trains `model` in place, with Adam and binary cross-entropy.

    Args:
        model: built, with one probability as its output; inside `devices_scope` if it is for several devices.
        train: features float32 [N, F] and target, int 0/1 [N].
        validation: the same of the rows that are predicted after every epoch; None: there are none.
        class_weights: float [2], of the rows of each class in the training loss, which is divided by the number of rows
            (as with `class_weight` of Keras); None: all 1. `eval_loss` is without them.
        stop: when it asks to stop, training ends with `Interrupted`.

    Attributes:
        history: a row an epoch: epoch, step, loss (of the epoch's steps, while the weights change), learning_rate, and
            of validation eval_loss, eval_auprc, eval_precision, eval_recall, eval_f1 (percent; the last three at 0.5).

    Raises:
        UserError: the validation rows cannot choose the best epoch; several steps an execution on several devices.
    """

    def __init__(
        self,
        model,
        args: KerasArguments,
        *,
        train: tuple[np.ndarray, np.ndarray],
        validation: tuple[np.ndarray, np.ndarray] | None,
        class_weights: np.ndarray | None,
        stop: StopRequest,
    ):
        self.model, self.args, self.stop = model, args, stop
        self.rows, self.validation = train, validation
        self.class_weights = None if class_weights is None or (class_weights == 1).all() else class_weights
        self.devices = model.distribute_strategy.num_replicas_in_sync
        self.batch = args.per_device_train_batch_size * self.devices
        self.steps = -(-len(train[1]) // self.batch)  # of an epoch
        self.per_execution = args.steps_per_execution or (STEPS_PER_EXECUTION if self.devices == 1 else 1)
        if self.devices > 1 and self.per_execution > 1:  # TensorFlow cannot take a distributed batch in a loop
            raise UserError(f"--steps_per_execution {self.per_execution}: has to be 1 on several devices")
        self.history: list[dict] = []
        self.checkpoint: Path | None = None
        self.best = {"epoch": 0, "metric": args.metric_for_best_model, "value": None}
        self.best_weights: list[np.ndarray] = []
        self.keeps_best = args.load_best_model_at_end or args.early_stopping_patience is not None
        wanted = args.metric_for_best_model
        if self.keeps_best and (validation is None or (wanted != "loss" and not validation[1].any())):
            lacking = "are no validation rows" if validation is None else "is no fraud among the validation rows"
            raise UserError(f"--metric_for_best_model {wanted}: cannot choose the best epoch, since there {lacking}")

    def train(self, resume_from_checkpoint: Path | None) -> dict[str, float]:
        """Trains to the end, from the beginning or from a checkpoint of the same run.

        Returns:
            train_loss (mean over all epochs), epoch (how many), train_runtime (seconds of this call),
            train_samples_per_second.

        Raises:
            Interrupted: the run was asked to stop.
            UserError: the loss is not a number any more; no checkpoint of this run.
        """
        args, model = self.args, self.model
        with model.distribute_strategy.scope():
            model.compile(
                optimizer=keras.optimizers.Adam(args.learning_rate),
                loss="binary_crossentropy",
                jit_compile=False,  # several times slower on a processor
                steps_per_execution=min(self.per_execution, self.steps),
            )
            model.optimizer.build(model.trainable_variables)
        if resume_from_checkpoint is not None:
            self._restore(resume_from_checkpoint)
        begun, start = len(self.history), time.perf_counter()
        for path in checkpoints(Path(args.output_dir)):
            if int(path.name.removeprefix("checkpoint-")) > begun * self.steps:  # would be taken for the newest
                _remove(path)
        if begun < args.num_train_epochs and not self.out_of_patience():
            total = {"total": self.steps * args.num_train_epochs, "initial": self.steps * begun}
            with self.stop.defer(), tqdm(**total, unit="step", disable=None) as bar:
                with tf.device("/CPU:0"):  # where batches are prepared
                    epoch = tf.Variable(begun, dtype=tf.int64)
                    batches = self._batches(epoch)
                follower = _Follower(self, epoch, bar)
                settings = {"initial_epoch": begun, "epochs": args.num_train_epochs, "shuffle": False, "verbose": 0}
                model.fit(batches, **settings, callbacks=[follower])
            if self.stop.signal_number is not None:
                raise Interrupted(self._farewell(follower.step), self.stop.signal_number)
        if self.keeps_best:
            _assign(model.variables, self.best_weights)
        seconds = time.perf_counter() - start
        return {
            "train_loss": float(np.mean([row["loss"] for row in self.history])),
            "epoch": float(len(self.history)),
            "train_runtime": seconds,
            "train_samples_per_second": (len(self.history) - begun) * len(self.rows[1]) / seconds,
        }

    def out_of_patience(self) -> bool:
        """Whether the best epoch lies so far back that training is to stop."""
        patience = self.args.early_stopping_patience
        return patience is not None and len(self.history) - self.best["epoch"] >= patience

    # Data

    def _batches(self, epoch: tf.Variable) -> tf.data.Dataset:
        """The batches of the epoch whose number is in `epoch`: features, target and, where they differ, weights.

        On several devices the last batch is filled up with rows of weight 0, so that each device gets as many rows; the
        others' weights keep the gradient the mean over those that count.
        """
        features, target = self.rows
        rows, batch, seed = len(target), self.batch, self.args.seed
        arrays = [features.reshape(rows, *self.model.input_shape[1:]), target.reshape(rows, 1).astype(np.float32)]
        filled, share = rows, 1.0
        if self.class_weights is not None or self.devices > 1:
            weights = np.ones(2) if self.class_weights is None else self.class_weights
            arrays.append(weights[target].astype(np.float32))
        if self.devices > 1 and rows % batch:
            filled = self.steps * batch
            share = np.ones(filled, np.float32)
            share[-batch:] = batch / (rows % batch)
            share[rows:] = 0
        tensors, full = [tf.constant(array) for array in arrays], filled // batch

        def cut(_) -> tf.data.Dataset:
            order = tf.random.experimental.stateless_shuffle(tf.range(rows), [seed, epoch.read_value()])
            if filled > rows:
                order = tf.gather(order, tf.range(filled) % rows)
            parts = [tf.gather(tensor, order) for tensor in tensors]
            if len(parts) == 3:
                parts[2] *= share
            whole = [tf.reshape(part[: full * batch], [full, batch, *part.shape[1:]]) for part in parts]
            rest = [part[full * batch :] for part in parts]
            batches = tf.data.Dataset.from_tensor_slices(tuple(whole))
            return batches.concatenate(tf.data.Dataset.from_tensors(tuple(rest))) if filled % batch else batches

        batches = tf.data.Dataset.range(1).flat_map(cut)
        options = tf.data.Options()
        options.autotune.enabled = False  # its thread sleeps 10, 20, 40 ... ms, and the end of an epoch waits for it
        batches = batches.apply(tf.data.experimental.assert_cardinality(self.steps))
        return batches.prefetch(PREFETCHED).with_options(options)

    # After every epoch

    def end_epoch(self, loss: float, step: int) -> dict:
        """Scores the validation rows, notes the best weights, saves a checkpoint; returns the new row of history."""
        row = {"epoch": float(len(self.history) + 1), "step": step, "loss": loss}
        self.history.append(row | {"learning_rate": self.args.learning_rate} | self._scores(step))
        if self.keeps_best:
            wanted, best = self.best["metric"], self.best["value"]
            value = self.history[-1][f"eval_{wanted}"]
            if best is None or (value < best if wanted == "loss" else value > best):
                self.best |= {"epoch": len(self.history), "value": value}
                self.best_weights = _values(self.model.variables)
        self._save(step)
        return self.history[-1]

    def _scores(self, step: int) -> dict[str, float]:
        """Of the validation rows, if there are any; what is undefined for them is left out."""
        if self.validation is None:
            return {}
        features, truth = self.validation
        probabilities = predict(self.model, features, self.args.per_device_eval_batch_size)
        if not np.isfinite(probabilities).all():
            raise diverged(step)
        found = summary(truth, probabilities, HALF)
        scores = {"eval_loss": cross_entropy(truth, probabilities)}
        scores |= {f"eval_{name}": found[key] for name, key in MEASURED.items()}
        return {name: float(value) for name, value in scores.items() if np.isfinite(value)}

    # Checkpoints

    def _save(self, step: int) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / STATE_FILE, _packed(_values(self._state())))
        if self.keeps_best:
            write_bytes(folder / BEST_FILE, _packed(self.best_weights))
        facts = {"epoch": len(self.history), "global_step": step, "best": self.best if self.keeps_best else None}
        write_json(folder / FACTS_FILE, facts | {"log_history": self.history})  # last: it makes the checkpoint valid
        self.checkpoint = folder
        for path in checkpoints(folder.parent)[: -self.args.save_total_limit]:
            _remove(path)

    def _restore(self, checkpoint: Path) -> None:
        facts = json.loads((checkpoint / FACTS_FILE).read_text(encoding="utf-8"))
        same = (checkpoint / STATE_FILE).is_file() and facts["global_step"] == facts["epoch"] * self.steps
        if not same or (self.keeps_best and (facts["best"] or {}).get("metric") != self.best["metric"]):
            raise UserError(
                f"--resume_from_checkpoint {checkpoint}: belongs to a run with other rows, batches or choice of the "
                "best epoch; resume with the same settings"
            )
        _assign(self._state(), _unpacked(checkpoint / STATE_FILE))
        if self.keeps_best:
            self.best, self.best_weights = facts["best"], _unpacked(checkpoint / BEST_FILE)
        self.history, self.checkpoint = facts["log_history"], checkpoint

    def _state(self) -> list:
        """All that changes in training: weights, moving averages, dropout's random state, Adam's moments and steps.

        Keras's own files leave the random state out.
        """
        return [*self.model.variables, *self.model.optimizer.variables]

    def _farewell(self, step: int) -> str:
        where = f"stopped at step {step} of {self.steps * self.args.num_train_epochs}"
        again = "run the same command with --resume_from_checkpoint auto to"
        if self.checkpoint is None:
            return f"{where}, before the first epoch was over: there is no checkpoint yet; {again} begin again"
        return f"{where}; {self.checkpoint.name} is saved in {self.checkpoint.parent}: {again} go on"


class _Follower(keras.callbacks.Callback):
    """What `fit` calls between its steps."""

    def __init__(self, trainer: KerasTrainer, epoch: tf.Variable, bar: tqdm):
        super().__init__()
        self.trainer, self.epoch, self.bar = trainer, epoch, bar
        self.step, self.shown = len(trainer.history) * trainer.steps, {}

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch.assign(epoch)

    def on_train_batch_end(self, batch, logs=None):
        steps = self.trainer.steps
        done = self.step // steps * steps + min(batch + 1, steps)  # `batch` counts whole executions
        if not np.isfinite(logs["loss"]):
            raise diverged(done)
        self.bar.set_postfix(self.shown | {"loss": f"{logs['loss']:.4g}"}, refresh=False)
        self.bar.update(done - self.step)
        self.step = done
        if self.trainer.stop.signal_number is not None:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if self.step < (epoch + 1) * self.trainer.steps:
            return  # stopped inside it
        row = self.trainer.end_epoch(logs["loss"], self.step)
        self.shown = {name: f"{row[name]:.4g}" for name in ("loss", "eval_loss", "eval_auprc") if name in row}
        self.bar.set_postfix(self.shown)
        if self.bar.disable:  # stderr is a file
            figures = ", ".join(f"{name} {value}" for name, value in self.shown.items())
            print(f"epoch {epoch + 1} of {self.trainer.args.num_train_epochs}: {figures}", file=sys.stderr, flush=True)
        if self.trainer.stop.signal_number is not None or self.trainer.out_of_patience():
            self.model.stop_training = True


def diverged(step: int) -> UserError:
    return UserError(f"the loss is not a number any more at step {step}: training has diverged; lower --learning_rate")


def _remove(checkpoint: Path) -> None:
    """So that half of it, if this is interrupted, is no checkpoint any more."""
    (checkpoint / FACTS_FILE).unlink()
    shutil.rmtree(checkpoint)


def _values(variables: Iterable) -> list[np.ndarray]:
    return [variable.numpy() for variable in variables]


def _assign(variables: Iterable, values: Iterable[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _packed(arrays: list[np.ndarray]) -> bytes:
    content = io.BytesIO()
    np.savez(content, *arrays)
    return content.getvalue()


def _unpacked(path: Path) -> list[np.ndarray]:
    with np.load(path) as arrays:
        return [arrays[f"arr_{at}"] for at in range(len(arrays.files))]
