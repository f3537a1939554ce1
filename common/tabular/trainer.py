"""The training of Keras models on rows of numbers: stock `model.fit`, an epoch at a time.

- After `keras.utils.set_random_seed`, `fit(shuffle=True)` repeats one order in every epoch (Keras 3.15.1). Here the
  order comes from (seed, epoch), and dropout's random state is saved with the weights: a run that was killed and
  resumed ends with the weights of one that never stopped.
- There is a checkpoint after every epoch; SIGINT and SIGTERM leave at once, and cost the unfinished epoch.
"""

import json
import logging
import shutil
import sys
import time

import keras
import numpy as np
from safetensors.numpy import load_file, save

from common.checkpoints import checkpoints, seal
from common.errors import Interrupted, UserError, write_bytes, write_json
from common.metrics.detection.detection import summary
from common.results import final_metrics
from common.tabular.columns import Part
from common.tabular.network import Detector, learning_rate_of

STATE_FILE, FACTS_FILE = "state.safetensors", "trainer_state.json"
STEPS = 32  # without a look at Python in between, which with small batches is most of the time
logger = logging.getLogger(__name__)


class KerasTrainer:
    """Trains the model of a detector in place, with Adam; without training rows it only tells `Run.finish` about it.

    class_weights: float [2], of the rows of each class in the loss. history: a row an epoch, with loss and accuracy as
    the weights change, and of validation loss, accuracy and area under precision-recall.
    """

    def __init__(self, run, detector: Detector, train: Part | None = None, validation=None, class_weights=None):
        self.run, self.args, self.detector, self.model = run, run.training_args, detector, detector.model
        self.train_rows, self.validation = train, validation
        self.weights = None if class_weights is None or (class_weights == 1).all() else class_weights
        self.history, self.metrics, self.best = [], {}, {"epoch": 0, "value": None, "weights": []}
        self.keeps_best = self.args.load_best_model_at_end or run.args.early_stopping_patience is not None
        self.steps = 0 if train is None else -(-len(train) // self.args.per_device_train_batch_size)  # of an epoch
        if self.keeps_best and self.args.metric_for_best_model == "auprc" and not validation.target.any():
            raise UserError("no fraud is among the validation rows, so that no epoch is the best; give others")

    def train(self) -> None:
        """Trains, from the checkpoint of the run if there is one.

        Raises `Interrupted`: it was asked to stop; `UserError`: the loss is not a number any more.
        """
        args, model, start = self.args, self.model, time.perf_counter()
        self.run.begin_training()
        losses = {"crossentropy": keras.losses.BinaryCrossentropy, "focal": keras.losses.BinaryFocalCrossentropy}
        model.compile(
            optimizer=keras.optimizers.Adam(learning_rate_of(args, self.steps * args.num_train_epochs)),
            loss=losses[args.loss](),
            metrics=[keras.metrics.BinaryAccuracy(name="accuracy")],
            jit_compile=False,  # several times slower on a processor
            steps_per_execution=min(STEPS, self.steps),
        )
        model.optimizer.build(model.trainable_variables)
        if self.run.checkpoint is not None:
            self._restore()
        begun, patience = len(self.history), self.run.args.early_stopping_patience
        target = self.train_rows.target
        X, y = self.detector.inputs(self.train_rows.features), target.astype(np.float32)[:, None]
        stop = self.run.stop

        def look(batch, logs):
            model.stop_training = stop.signal_number is not None

        settings = {"batch_size": args.per_device_train_batch_size, "verbose": int(sys.stdout.isatty())}
        settings |= {"shuffle": False, "callbacks": [keras.callbacks.LambdaCallback(on_train_batch_end=look)]}
        with stop.defer():
            for epoch in range(begun, args.num_train_epochs):
                if patience is not None and epoch - self.best["epoch"] >= patience:
                    break
                order = np.random.default_rng((args.seed, epoch)).permutation(len(y))
                weights = None if self.weights is None else self.weights[target[order]]
                which = {"initial_epoch": epoch, "epochs": epoch + 1, "sample_weight": weights}
                logs = model.fit(X[order], y[order], **which, **settings).history
                if stop.signal_number is not None:
                    saved = f"checkpoint-{len(self.history) * self.steps}" if self.history else "nothing"
                    raise Interrupted(
                        f"stopped in epoch {epoch + 1} of {args.num_train_epochs}; {saved} is saved in "
                        f"{args.output_dir}: run the same command with --resume_from_checkpoint auto to go on",
                        stop.signal_number,
                    )
                self._end_epoch({name: values[-1] for name, values in logs.items()})
        if self.keeps_best:
            _assign(model.variables, self.best["weights"])
        seconds, rows = time.perf_counter() - start, len(y) * (len(self.history) - begun)
        figures = {"train_loss": float(np.mean([row["loss"] for row in self.history])), "train_runtime": seconds}
        figures |= {"train_samples": len(y), "train_samples_per_second": rows / seconds}
        self.metrics["train"] = figures | {"epoch": float(len(self.history))}

    def save(self) -> None:
        """Writes model and columns into the output directory, where something was trained."""
        if self.train_rows is not None:
            self.detector.save(self.run.output_dir)

    def run_facts(self) -> dict:
        """What `Run.finish` wants to know."""
        trainable = sum(int(np.prod(weight.shape)) for weight in self.model.trainable_weights)
        parameters = {"total": self.model.count_params(), "trainable": trainable}
        model = {"revision": None, "architecture": "Sequential", "parameters": parameters}
        return {"model": model, "history": self.history, "device": keras.distribution.list_devices()[0], "processes": 1}

    def track(self, results: dict) -> None:
        """Sends flags, history and the final metrics with their intervals to the tracker of --report_to."""
        if self.args.report_to == "none":
            return
        from accelerate import Accelerator

        board = Accelerator(cpu=True, log_with=self.args.report_to, project_dir=str(self.run.output_dir / "runs"))
        board.init_trackers("fraud", config={name: str(row["value"]) for name, row in results["arguments"].items()})
        for row in self.history:
            board.log({name: value for name, value in row.items() if name != "step"}, step=int(row["step"]))
        board.log(final_metrics(results), step=len(self.history) * (self.steps or 1))
        board.end_training()

    def _end_epoch(self, logs: dict) -> None:
        """Scores the validation rows, notes the best weights, saves a checkpoint."""
        epoch, truth = len(self.history) + 1, self.validation.target
        said = self.detector.raw(self.validation.features)
        loss = float(self.model.loss(truth[:, None].astype(np.float32), said[:, None].astype(np.float32)))
        if not np.isfinite([loss, logs["loss"]]).all():
            raise UserError("the loss is not a number any more: training has diverged; lower --learning_rate")
        row = {"epoch": float(epoch), "step": epoch * self.steps, "loss": logs["loss"], "eval_loss": loss}
        row |= {"train_accuracy": 100 * logs["accuracy"], "eval_accuracy": float(100 * np.mean((said >= 0.5) == truth))}
        row |= {"eval_auprc": summary(truth, said)["auprc"]} if truth.any() else {}
        self.history.append(row)
        if self.keeps_best:
            wanted, best = self.args.metric_for_best_model, self.best["value"]
            value = row[f"eval_{wanted}"] * (-1 if wanted == "loss" else 1)
            if best is None or value > best + self.run.args.early_stopping_threshold:
                self.best = {"epoch": epoch, "value": value, "weights": [np.array(v) for v in self.model.variables]}
        self._save_checkpoint(row["step"])
        figures = ", ".join(f"{name} {row[name]:.4g}" for name in ("loss", "eval_loss", "eval_auprc") if name in row)
        logger.info("epoch %s of %s: %s", epoch, self.args.num_train_epochs, figures)

    def _state(self) -> list:
        """All that changes in training, dropout's random state too, which Keras's own files leave out."""
        return [*self.model.variables, *self.model.optimizer.variables]

    def _save_checkpoint(self, step: int) -> None:
        folder = self.run.output_dir / f"checkpoint-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        state = {f"state.{at}": np.asarray(variable) for at, variable in enumerate(self._state())}
        state |= {f"best.{at}": value for at, value in enumerate(self.best["weights"])}
        write_bytes(folder / STATE_FILE, save(state))
        facts = {"global_step": step, "log_history": self.history, "best": self.best | {"weights": None}}
        write_json(folder / FACTS_FILE, facts)
        seal(folder)
        for path in checkpoints(self.run.output_dir)[: -self.args.save_total_limit]:
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


def _assign(variables: list, values: list[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
