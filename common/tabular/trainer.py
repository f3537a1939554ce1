"""The training of Keras models on rows of numbers: stock `model.fit`, an epoch at a time.

After `keras.utils.set_random_seed`, `fit(shuffle=True)` repeats one order in every epoch (Keras 3.15.1). Here the order
comes from (seed, epoch), and a checkpoint after every epoch has dropout's random state, too: a run that was stopped and
resumed ends with the weights of one that never was. SIGINT and SIGTERM leave at once, and cost the unfinished epoch.
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
from common.metrics.detection import summary
from common.results import final_metrics
from common.tabular.columns import Part
from common.tabular.network import Detector

STATE_FILE, FACTS_FILE = "state.safetensors", "trainer_state.json"
STEPS = 32  # without a look at Python in between, which with small batches is most of the time
logger = logging.getLogger(__name__)


class KerasTrainer:
    """Trains the model of a detector in place, with Adam; without training rows it only tells `Run.finish` about it.

    class_weights: float [2], in the loss. history: a row an epoch, of training and validation rows.
    """

    def __init__(self, run, detector: Detector, train: Part | None = None, validation=None, class_weights=None):
        self.run, self.args, self.detector, self.model = run, run.training_args, detector, detector.model
        self.train_rows, self.validation = train, validation
        self.weights = np.ones(2) if class_weights is None else class_weights
        self.history, self.metrics, self.best = [], {}, {"epoch": 0, "value": None, "weights": []}
        self.keeps_best = self.args.load_best_model_at_end or run.args.early_stopping_patience is not None
        self.steps = 0 if train is None else -(-len(train) // self.args.per_device_train_batch_size)  # of an epoch

    def train(self) -> None:
        """Trains, from the checkpoint of the run if there is one.

        Raises `Interrupted`: it was asked to stop; `UserError`: the loss is not a number any more.
        """
        args, stop, patience = self.args, self.run.stop, self.run.args.early_stopping_patience
        self.start = time.perf_counter()
        self.run.begin_training()
        self._compile()
        if self.run.checkpoint is not None:
            self._restore()
        target = self.train_rows.target
        X, y = self.detector.inputs(self.train_rows.features), target.astype(np.float32)[:, None]

        def look(batch, logs):
            if stop.signal_number is not None:
                again = "run the same command with --resume_from_checkpoint auto to go on"
                raise Interrupted(f"stopped in epoch {len(self.history) + 1}; {again}", stop.signal_number)

        settings = {"batch_size": args.per_device_train_batch_size, "verbose": int(sys.stdout.isatty())}
        settings |= {"shuffle": False, "callbacks": [keras.callbacks.LambdaCallback(on_train_batch_end=look)]}
        with stop.defer():
            for epoch in range(len(self.history), args.num_train_epochs):
                if patience is not None and epoch - self.best["epoch"] >= patience:
                    break
                order = np.random.default_rng((args.seed, epoch)).permutation(len(y))
                weights = self.weights[target[order]] if (self.weights != 1).any() else None
                which = {"initial_epoch": epoch, "epochs": epoch + 1, "sample_weight": weights}
                logs = self.model.fit(X[order], y[order], **which, **settings).history
                self._end_epoch({name: values[-1] for name, values in logs.items()})
        if self.keeps_best:
            self.model.set_weights(self.best["weights"])
        self.run.seconds["training"], seconds = self.run.earlier_seconds, self.history[-1]["seconds"]
        self.metrics["train"] = {
            "train_loss": float(np.mean([row["loss"] for row in self.history])),
            "train_runtime": seconds,
            "train_samples": len(y),
            "train_samples_per_second": len(y) * len(self.history) / seconds,
            "epoch": float(len(self.history)),
        }

    def save(self) -> None:
        """Writes model and columns into the output directory, where something was trained."""
        if self.train_rows is not None:
            self.detector.save(self.run.output_dir)

    def run_facts(self) -> dict:
        """What `Run.finish` wants to know."""
        trainable = sum(weight.numpy().size for weight in self.model.trainable_weights)
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

    def _compile(self) -> None:
        args, steps = self.args, self.steps * self.args.num_train_epochs
        rate, schedules = args.learning_rate, keras.optimizers.schedules
        falling = {"linear": schedules.PolynomialDecay(rate, steps, 0.0), "cosine": schedules.CosineDecay(rate, steps)}
        losses = {"crossentropy": keras.losses.BinaryCrossentropy, "focal": keras.losses.BinaryFocalCrossentropy}
        self.model.compile(
            optimizer=keras.optimizers.Adam(falling.get(args.lr_scheduler_type, rate)),
            loss=losses[args.loss](),
            metrics=[keras.metrics.BinaryAccuracy(name="accuracy")],
            jit_compile=False,  # several times slower on a processor
            steps_per_execution=min(STEPS, self.steps),
        )
        self.model.optimizer.build(self.model.trainable_variables)

    def _end_epoch(self, logs: dict) -> None:
        """Scores the validation rows, notes the best weights, saves a checkpoint."""
        epoch, truth = len(self.history) + 1, self.validation.target
        said = self.detector.raw(self.validation.features)
        loss = float(self.model.loss(truth[:, None].astype(np.float32), said[:, None].astype(np.float32)))
        if not np.isfinite([loss, logs["loss"]]).all():
            raise UserError("the loss is not a number any more: training has diverged; lower --learning_rate")
        row = {"epoch": float(epoch), "step": epoch * self.steps, "loss": logs["loss"], "eval_loss": loss}
        row |= {"train_accuracy": 100 * logs["accuracy"], "eval_accuracy": float(100 * np.mean((said >= 0.5) == truth))}
        seconds = self.run.earlier_seconds + time.perf_counter() - self.start  # of all parts of the run
        row |= {"eval_auprc": summary(truth, said)["auprc"], "seconds": seconds}
        self.history.append(row)
        best, threshold = self.best["value"], self.run.args.early_stopping_threshold
        if self.keeps_best and (best is None or row["eval_auprc"] > best + threshold):
            self.best = {"epoch": epoch, "value": row["eval_auprc"], "weights": self.model.get_weights()}
        self._save_checkpoint(row["step"])
        figures = ", ".join(f"{name} {row[name]:.4g}" for name in ("loss", "eval_loss", "eval_auprc"))
        logger.info("epoch %s of %s: %s", epoch, self.args.num_train_epochs, figures)

    def _state(self) -> list:
        """All that changes in training, dropout's random state too, which Keras's own files leave out."""
        return [*self.model.variables, *self.model.optimizer.variables]

    def _save_checkpoint(self, step: int) -> None:
        folder = self.run.output_dir / f"checkpoint-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        state = [*map(np.asarray, self._state()), *self.best["weights"]]
        write_bytes(folder / STATE_FILE, save({str(at): values for at, values in enumerate(state)}))
        write_json(folder / FACTS_FILE, {"log_history": self.history, "best": self.best | {"weights": None}})
        seal(folder, self.run.identity)
        for path in checkpoints(self.run.output_dir)[: -self.args.save_total_limit]:
            shutil.rmtree(path)

    def _restore(self) -> None:
        saved = load_file(self.run.checkpoint / STATE_FILE)
        state, variables = [saved[str(at)] for at in range(len(saved))], self._state()
        for variable, values in zip(variables, state):
            variable.assign(values)
        facts = json.loads((self.run.checkpoint / FACTS_FILE).read_text("utf-8"))
        self.best, self.history = facts["best"] | {"weights": state[len(variables) :]}, facts["log_history"]
        self.run.earlier_seconds = self.history[-1]["seconds"]
        for path in checkpoints(self.run.output_dir):
            if int(path.name.removeprefix("checkpoint-")) > self.history[-1]["step"]:  # would be taken for the newest
                shutil.rmtree(path)
