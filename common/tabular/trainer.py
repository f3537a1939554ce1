"""The training of Keras models on rows of numbers: stock `model.fit`, an epoch at a time.

- After `keras.utils.set_random_seed`, `fit(shuffle=True)` repeats one order in every epoch (Keras 3.15.1). Here the
  order comes from (seed, epoch), and dropout's random state is saved with the weights: a run that was killed and
  resumed ends with the weights of one that never stopped.
- There is a checkpoint after every epoch; SIGINT and SIGTERM leave at once, and cost the unfinished epoch.
- Several steps run without a look at Python in between (`steps_per_execution`): with small batches that is the time.
"""

import json
import logging
import shutil
import time

import keras
import numpy as np
from safetensors.numpy import load_file, save
from tqdm import tqdm

from common.checkpoints import checkpoints, finish_files
from common.errors import Interrupted, UserError, write_bytes, write_json
from common.metrics.detection.detection import summary
from common.results import final_metrics
from common.tabular.columns import Part
from common.tabular.network import Detector, learning_rate_of

STATE_FILE, FACTS_FILE = "state.safetensors", "trainer_state.json"
logger = logging.getLogger(__name__)


class KerasTrainer:
    """Trains the model of a detector in place, with Adam; without training rows it only tells `Run.finish` about it.

    Args:
        detector: its model is built, inside `devices_scope` if it is for several devices.
        train, validation: the rows; validation rows are predicted after every epoch.
        class_weights: float [2], of the classes' rows in the loss, whose sum is divided by the number of rows.

    Attributes:
        history: a row an epoch: epoch, step, loss and train_accuracy (of the epoch's steps, while the weights change),
            and of validation eval_loss, eval_accuracy, eval_auprc; accuracy and auprc in percent.
        metrics: prefix ("train", "eval", "predict") -> metrics as official examples save them.
    """

    def __init__(self, run, detector: Detector, train: Part | None = None, validation=None, class_weights=None):
        self.run, self.args, self.detector, self.model = run, run.training_args, detector, detector.model
        self.train_rows, self.validation = train, validation
        self.weights = None if class_weights is None or (class_weights == 1).all() else class_weights
        self.history, self.metrics, self.best = [], {}, {"epoch": 0, "value": None, "weights": []}
        self.keeps_best = self.args.load_best_model_at_end or run.args.early_stopping_patience is not None
        self.batch = self.args.per_device_train_batch_size * self.args.num_devices
        self.steps = 0 if train is None else -(-len(train) // self.batch)  # of an epoch
        if self.keeps_best and self.args.metric_for_best_model == "auprc" and not validation.target.any():
            raise UserError("no fraud is among the validation rows, so that no epoch is the best; give others")

    def train(self) -> None:
        """Trains to the end, from the beginning or from the checkpoint of the run.

        Raises:
            Interrupted: the run was asked to stop. UserError: the loss is not a number any more; another run's state.
        """
        args, model, start = self.args, self.model, time.perf_counter()
        self.run.begin_training()
        focal, losses = args.loss == "focal", keras.losses
        with model.distribute_strategy.scope():
            model.compile(
                optimizer=keras.optimizers.Adam(learning_rate_of(args, self.steps * args.num_train_epochs)),
                loss=losses.BinaryFocalCrossentropy(gamma=args.focal_gamma) if focal else losses.BinaryCrossentropy(),
                metrics=[keras.metrics.BinaryAccuracy(name="accuracy")],
                jit_compile=False,  # several times slower on a processor
                steps_per_execution=min(args.steps_per_execution, self.steps),
            )
            model.optimizer.build(model.trainable_variables)
        if self.run.checkpoint is not None:
            self._restore()
        begun, patience = len(self.history), self.run.args.early_stopping_patience
        target = self.train_rows.target
        X, y = self.detector.inputs(self.train_rows.features), target.astype(np.float32)[:, None]
        total = {"total": self.steps * args.num_train_epochs, "initial": self.steps * begun}
        with self.run.stop.defer(), tqdm(**total, unit="step", disable=None) as bar:
            for epoch in range(begun, args.num_train_epochs):
                if patience is not None and epoch - self.best["epoch"] >= patience:
                    break
                order, follower = np.random.default_rng((args.seed, epoch)).permutation(len(y)), _Follower(self, bar)
                weights = None if self.weights is None else self.weights[target[order]]
                settings = {"batch_size": self.batch, "shuffle": False, "verbose": 0, "callbacks": [follower]}
                settings |= {"sample_weight": weights, "initial_epoch": epoch, "epochs": epoch + 1}
                model.fit(X[order], y[order], **settings)
                whole = follower.step == (epoch + 1) * self.steps
                if whole:
                    self._end_epoch(follower.logs, bar)
                if self.run.stop.signal_number is not None and not (whole and epoch + 1 == args.num_train_epochs):
                    saved = f"checkpoint-{len(self.history) * self.steps}" if self.history else "nothing"
                    where = f"stopped at step {follower.step} of {total['total']}; {saved} is saved"
                    again = f"in {args.output_dir}: run the same command with --resume_from_checkpoint auto to go on"
                    raise Interrupted(f"{where} {again}", self.run.stop.signal_number)
        if self.keeps_best:
            _assign(model.variables, self.best["weights"])
        seconds, rows = time.perf_counter() - start, len(y) * (len(self.history) - begun)
        self.metrics["train"] = {"train_loss": float(np.mean([row["loss"] for row in self.history]))}
        self.metrics["train"] |= {"epoch": float(len(self.history)), "train_runtime": seconds}
        self.metrics["train"] |= {"train_samples": len(y), "train_samples_per_second": rows / seconds}

    def save(self) -> None:
        """Writes model and columns into the output directory, where something was trained."""
        if self.train_rows is not None:
            self.detector.save(self.run.output_dir)

    def run_facts(self) -> dict:
        """What `Run.finish` wants to know."""
        trainable = sum(int(np.prod(weight.shape)) for weight in self.model.trainable_weights)
        parameters = {"total": self.model.count_params(), "trainable": trainable}
        model = {"revision": None, "architecture": "Sequential", "parameters": parameters}
        device = ", ".join(keras.distribution.list_devices()[: self.args.num_devices])
        return {"model": model, "history": self.history, "device": device, "processes": 1}

    def track(self, results: dict) -> None:
        """Sends flags, history and the final metrics with their intervals to the tracker of --report_to."""
        if self.args.report_to == "none":
            return
        from accelerate import Accelerator

        board = Accelerator(cpu=True, log_with=self.args.report_to, project_dir=str(self.run.output_dir / "runs"))
        flags = {name: str(row["value"]) for name, row in results["arguments"].items()}
        board.init_trackers("fraud", config=flags)
        for row in self.history:
            board.log({name: value for name, value in row.items() if name != "step"}, step=int(row["step"]))
        board.log(final_metrics(results), step=len(self.history) * (self.steps or 1))
        board.end_training()

    def _end_epoch(self, logs: dict, bar: tqdm) -> None:
        """Scores the validation rows, notes the best weights, saves a checkpoint."""
        epoch, truth = len(self.history) + 1, self.validation.target
        said = self.detector.raw(self.validation.features)
        loss = float(self.model.loss(truth[:, None].astype(np.float32), said[:, None].astype(np.float32)))
        row = {"epoch": float(epoch), "step": epoch * self.steps, "loss": logs["loss"], "eval_loss": loss}
        row |= {"train_accuracy": 100 * logs["accuracy"], "eval_accuracy": float(100 * np.mean((said >= 0.5) == truth))}
        if not np.isfinite([loss, logs["loss"]]).all():
            raise UserError("the loss is not a number any more: training has diverged; lower --learning_rate")
        if truth.any():
            row["eval_auprc"] = summary(truth, said)["auprc"]
        self.history.append(row)
        if self.keeps_best:
            wanted, best = self.args.metric_for_best_model, self.best["value"]
            value = row[f"eval_{wanted}"] * (-1 if wanted == "loss" else 1)
            if best is None or value > best + self.run.args.early_stopping_threshold:
                self.best = {"epoch": epoch, "value": value, "weights": [np.array(v) for v in self.model.variables]}
        self._save_checkpoint(row["step"])
        shown = {name: f"{row[name]:.4g}" for name in ("loss", "eval_loss", "eval_auprc") if name in row}
        bar.set_postfix(shown)
        if bar.disable:  # stderr is a file
            figures = ", ".join(f"{name} {value}" for name, value in shown.items())
            logger.info("epoch %s of %s: %s", epoch, self.args.num_train_epochs, figures)

    # Checkpoints

    def _state(self) -> list:
        """All that changes in training: weights, moving averages, dropout's random state (which Keras's own files leave
        out), Adam's moments and steps."""
        return [*self.model.variables, *self.model.optimizer.variables]

    def _save_checkpoint(self, step: int) -> None:
        folder = self.run.output_dir / f"checkpoint-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        state = {f"state.{at}": np.asarray(variable) for at, variable in enumerate(self._state())}
        state |= {f"best.{at}": value for at, value in enumerate(self.best["weights"])}
        write_bytes(folder / STATE_FILE, save(state))
        facts = {"global_step": step, "log_history": self.history, "best": self.best | {"weights": None}}
        write_json(folder / FACTS_FILE, facts)  # last: without it there is no checkpoint
        finish_files(folder)
        for path in checkpoints(self.run.output_dir)[: -self.args.save_total_limit]:
            (path / FACTS_FILE).unlink(missing_ok=True)  # first, for the same reason
            shutil.rmtree(path)

    def _restore(self) -> None:
        checkpoint = self.run.checkpoint
        facts, state = json.loads((checkpoint / FACTS_FILE).read_text("utf-8")), load_file(checkpoint / STATE_FILE)
        _assign(self._state(), [state[f"state.{at}"] for at in range(len(self._state()))])
        best = [state[f"best.{at}"] for at in range(len(self.model.variables)) if f"best.{at}" in state]
        self.best, self.history = facts["best"] | {"weights": best}, facts["log_history"]
        for path in checkpoints(self.run.output_dir):
            if int(path.name.removeprefix("checkpoint-")) > facts["global_step"]:  # would be taken for the newest
                shutil.rmtree(path)


class _Follower(keras.callbacks.Callback):
    """What `fit` calls between its steps."""

    def __init__(self, trainer: KerasTrainer, bar: tqdm):
        super().__init__()
        self.trainer, self.bar, self.logs = trainer, bar, {}
        self.step = self.begin = len(trainer.history) * trainer.steps

    def on_train_batch_end(self, batch, logs=None):
        done, self.logs = self.begin + min(batch + 1, self.trainer.steps), dict(logs)  # `batch`: whole executions
        self.bar.update(done - self.step)
        self.step = done
        if self.trainer.run.stop.signal_number is not None:
            self.model.stop_training = True


def _assign(variables: list, values: list[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
