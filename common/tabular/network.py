"""The networks of run_fraud.py, how they are trained, and the flags for it. Heavy imports only inside functions."""

import contextlib
import json
import os
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from common.arguments import flag
from common.errors import UserError, write_json

MODEL_FILE, COLUMNS_FILE = "model.keras", "columns.json"
LARGE_BATCH = 256  # rows
SMALLEST = 7  # features that two convolutions and two poolings leave something of
USAGE = """\
# In a checkout of the scripts: probabilities of fraud for the rows of a table
from pathlib import Path

from common.tabular.network import Detector, prepare_keras
from common.tabular.tables import Tables

prepare_keras(256)
detector = Detector.load(Path("{model}"))
for frame in Tables(["{csv}"]):
    part = detector.columns.part(frame, skip_bad=False)
    probabilities = detector.probabilities(part.features)
    print(probabilities, probabilities >= detector.threshold)
"""


@dataclass
class KerasArguments:
    """How a Keras model is trained, and where everything goes."""

    _argument_group_name = "training"

    output_dir: str | None = flag(None, "folder for the model and all results")
    do_train: bool = flag(False, "train; without any do_*: train, evaluate and predict")
    do_eval: bool = flag(False, "score the validation rows")
    do_predict: bool = flag(False, "predict the test rows, and score them where they have the target")
    learning_rate: float = flag(1e-3, "Adam's, at its highest")
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = flag("constant", "how the learning rate falls")
    loss: Literal["crossentropy", "focal"] = flag("crossentropy", "focal: easy rows count less (--focal_gamma)")
    focal_gamma: float = flag(2.0, "of --loss focal: how much less")
    num_train_epochs: int = flag(10, "passes over the training rows", "--epochs")
    per_device_train_batch_size: int = flag(32, "training rows per device and step", "--batch_size")
    steps_per_execution: int = flag(32, "steps between two looks at the progress, which cost time")
    load_best_model_at_end: bool = flag(False, "keep the best epoch's weights instead of the last one's")
    metric_for_best_model: Literal["auprc", "loss", "accuracy"] = flag(
        "auprc", "on validation: which epoch is the best"
    )
    save_total_limit: int = flag(1, "newest checkpoints to keep; there is one after every epoch")
    num_devices: int = flag(1, "GPUs to train on, each with its own batch; without GPUs: parts of the CPU")
    seed: int = flag(42, "of weights, dropout and the order of the rows")
    resume_from_checkpoint: str | None = flag(None, "auto: go on where a run stopped, if one did; or a checkpoint")
    report_to: str = flag("none", "tracker: tensorboard, wandb, mlflow, ...; none")
    push_to_hub: bool = flag(False, "upload model and results at the end")
    hub_model_id: str | None = flag(None, "where to; unset: the name of --output_dir")
    hub_private_repo: bool | None = flag(None, "a new repository is private")
    hub_revision: str | None = flag(None, "branch to upload to; unset: the main one")
    hub_token: str | None = flag(None, "access token for that; unset: --token")

    def __post_init__(self):
        for name in ("num_train_epochs", "num_devices", "steps_per_execution"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: must be 1 or more")
        if not 0 <= self.focal_gamma < 100:
            raise UserError(f"--focal_gamma {self.focal_gamma}: must be 0 or more, and below 100")
        if self.report_to != "none":
            from accelerate.tracking import get_available_trackers

            if self.report_to not in [tracker.value for tracker in get_available_trackers()]:
                raise UserError(f"--report_to {self.report_to}: no such tracker, or its package is not installed")
        if self.num_devices > 1:  # TensorFlow cannot take a distributed batch in a loop
            self.steps_per_execution = 1


def prepare_keras(batch: int) -> None:
    """Before keras is imported: TensorFlow as its backend, and for small batches one thread per operation, without
    oneDNN: more cost more than they save there (benchmarks/README.md). What the user has set stays."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # on machines without a GPU even errors are said that are none
    if batch < LARGE_BATCH:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")


def devices_scope(count: int):
    """A model that is built inside is trained on `count` GPUs, or parts of the processor where there is none.

    Nothing may have used TensorFlow before, but for random seeds. Raises `UserError`: there are GPUs, but fewer.
    """
    if count == 1:
        return contextlib.nullcontext()
    import tensorflow as tf

    gpus, processor = tf.config.list_physical_devices("GPU"), tf.config.list_physical_devices("CPU")[0]
    if gpus and len(gpus) < count:
        raise UserError(f"--num_devices {count}: this machine has {len(gpus)} GPU{'s' * (len(gpus) > 1)}")
    if not gpus:
        tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * count)
    kind = "GPU" if gpus else "CPU"
    return tf.distribute.MirroredStrategy([f"/{kind}:{number}" for number in range(count)]).scope()


def build(kind: str, features: int):
    """The untrained network: "cnn", that of report 004, [N, features, 1] -> [N, 1], 33,505 parameters for 30 features;
    or "mlp", fully connected, [N, features] -> [N, 1]. Raises `UserError`: too few features for cnn."""
    import keras
    from keras import layers

    if kind == "mlp":
        stack = [keras.Input((features,))]
        for width in (64, 32):
            stack += [layers.Dense(width, activation="relu"), layers.BatchNormalization(), layers.Dropout(0.3)]
        return keras.Sequential([*stack, layers.Dense(1, activation="sigmoid")])
    if features < SMALLEST:
        raise UserError(f"--model cnn needs {SMALLEST} features or more, the table gives {features}; use --model mlp")
    return keras.Sequential(
        [
            keras.Input((features, 1)),
            layers.Conv1D(32, 2, activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling1D(2),
            layers.Dropout(0.2),
            layers.Conv1D(64, 2, activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling1D(2),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(64, activation="relu"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )


def layer_table(model) -> dict:
    """Layer, type, output of one row and parameters, for the report."""
    rows = [
        [layer.name, type(layer).__name__, " x ".join(map(str, layer.output.shape[1:])), f"{layer.count_params():,}"]
        for layer in model.layers
    ]
    return {"title": "The network", "head": ["layer", "type", "output", "parameters"], "rows": rows}


def learning_rate_of(args: KerasArguments, steps: int):
    """The learning rate, or its schedule over all `steps` of the training."""
    from keras.optimizers import schedules

    linear = schedules.PolynomialDecay(args.learning_rate, steps, end_learning_rate=0.0)
    kinds = {"linear": linear, "cosine": schedules.CosineDecay(args.learning_rate, steps)}
    return kinds.get(args.lr_scheduler_type, args.learning_rate)


@dataclass
class Detector:
    """A Keras model (standardised rows -> [N, 1]; kind "cnn" or "mlp"), the `Columns` and the `Calibration` before and
    after it, and the probability from which on a row is called fraud: model.keras and columns.json in one folder."""

    model: object
    kind: str
    columns: object
    threshold: float = 0.5
    calibration: object = None

    def save(self, folder: Path) -> None:
        """Writes both files, each in one move."""
        with tempfile.TemporaryDirectory(dir=folder) as partial:  # Keras looks at the ending
            self.model.save(Path(partial) / MODEL_FILE)
            os.replace(Path(partial) / MODEL_FILE, folder / MODEL_FILE)
        facts = {"kind": self.kind, "threshold": self.threshold, "calibration": None, **asdict(self.columns)}
        facts |= {"calibration": asdict(self.calibration)} if self.calibration else {}
        write_json(folder / COLUMNS_FILE, facts)

    @classmethod
    def load(cls, folder: Path) -> "Detector":
        """What `save` has written. Raises `UserError`: nothing of that kind there, damaged, or of another task."""
        from common.tabular.columns import Columns
        from common.tabular.detection import Calibration

        if not (folder / COLUMNS_FILE).is_file():
            raise UserError(f"--model {folder}: holds no {COLUMNS_FILE}; give the output folder of a training")
        import keras

        try:
            facts = json.loads((folder / COLUMNS_FILE).read_text(encoding="utf-8"))
            columns = Columns(**{name: facts[name] for name in Columns.__dataclass_fields__})
            calibration = facts["calibration"] and Calibration(**facts["calibration"])
            model = keras.saving.load_model(folder / MODEL_FILE, compile=False, safe_mode=True)
            if model.input_shape[1] != len(columns.features):
                raise ValueError(f"{MODEL_FILE} and {COLUMNS_FILE} are not of the same training")
            return cls(model, facts["kind"], columns, float(facts["threshold"]), calibration)
        except (ValueError, TypeError, KeyError, OSError, RecursionError, zipfile.BadZipFile) as error:
            raise UserError(f"--model {folder}: cannot be loaded ({str(error).strip().splitlines()[0]})") from None

    def inputs(self, features: np.ndarray) -> np.ndarray:
        """float32 [N, F] in the shape that the model takes."""
        return features.reshape(-1, *self.model.input_shape[1:])

    def raw(self, features: np.ndarray, batch_size: int = 4096) -> np.ndarray:
        """float64 [N]: what the model says of standardised features [N, F]."""
        inputs = self.inputs(features)
        batches = (inputs[at : at + batch_size] for at in range(0, len(inputs), batch_size))
        return np.concatenate([np.zeros((0, 1)), *(self.model(batch, training=False) for batch in batches)])[:, 0]

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """float64 [N]: of fraud, calibrated."""
        return self.calibration(self.raw(features)) if self.calibration else self.raw(features)
