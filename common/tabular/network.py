"""The networks of run_fraud.py, how they are trained, and the flags for it. Heavy imports only inside functions."""

import json
import os
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from common.arguments import flag
from common.errors import UserError, said_by, write_json

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
    print(detector.probabilities(detector.columns.part(frame, skip_bad=False).features))
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
    loss: Literal["crossentropy", "focal"] = flag("crossentropy", "focal: easy rows count less (gamma 2)")
    num_train_epochs: int = flag(10, "passes over the training rows", "--epochs")
    per_device_train_batch_size: int = flag(32, "training rows per step", "--batch_size")
    load_best_model_at_end: bool = flag(False, "keep the weights of the best epoch, by validation AUPRC, not the last")
    save_total_limit: int = flag(1, "newest checkpoints to keep; there is one after every epoch")
    seed: int = flag(42, "of weights, dropout and the order of the rows")
    resume_from_checkpoint: str | None = flag(None, "auto: go on where a run stopped, if one did; or a checkpoint")
    report_to: str = flag("none", "tracker: tensorboard, wandb, mlflow, ...; none")
    push_to_hub: bool = flag(False, "upload model and results at the end")
    hub_model_id: str | None = flag(None, "where to; unset: the name of --output_dir")
    hub_private_repo: bool | None = flag(None, "a new repository is private")
    hub_revision: str | None = flag(None, "branch to upload to; unset: the main one")
    hub_token: str | None = flag(None, "access token for that; unset: --token")

    def __post_init__(self):
        if self.num_train_epochs < 1:
            raise UserError(f"--num_train_epochs {self.num_train_epochs}: must be 1 or more")
        if self.report_to != "none":
            from accelerate.tracking import get_available_trackers

            if self.report_to not in [tracker.value for tracker in get_available_trackers()]:
                raise UserError(f"--report_to {self.report_to}: no such tracker, or its package is not installed")


def prepare_keras(batch: int) -> None:
    """Before keras is imported: TensorFlow as its backend, and for small batches one thread without oneDNN,
    which is faster (benchmarks/README.md). What the user has set stays."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # on machines without a GPU even errors are said that are none
    if batch < LARGE_BATCH:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
        os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")


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
    stack = [keras.Input((features, 1))]
    for width, dropout in ((32, 0.2), (64, 0.5)):
        stack += [layers.Conv1D(width, 2, activation="relu"), layers.BatchNormalization()]
        stack += [layers.MaxPooling1D(2), layers.Dropout(dropout)]
    stack += [layers.Flatten(), layers.Dense(64, activation="relu"), layers.Dropout(0.5)]
    return keras.Sequential([*stack, layers.Dense(64, activation="relu"), layers.Dense(1, activation="sigmoid")])


@dataclass
class Detector:
    """A Keras model (standardised rows -> [N, 1]), the `Columns` and the `Calibration` before and after it, and the
    probability from which on a row is called fraud: model.keras and columns.json in one folder."""

    model: object
    columns: object
    threshold: float = 0.5
    calibration: object = None

    def save(self, folder: Path) -> None:
        """Writes both files, each in one move."""
        self.model.save(folder / f".{MODEL_FILE}")
        os.replace(folder / f".{MODEL_FILE}", folder / MODEL_FILE)
        facts = {"threshold": self.threshold, "calibration": asdict(self.calibration)}
        write_json(folder / COLUMNS_FILE, facts | asdict(self.columns))

    @classmethod
    def load(cls, folder: Path) -> "Detector":
        """What `save` has written. Raises `UserError`: nothing of that kind there, or damaged."""
        from common.tabular.columns import Columns
        from common.tabular.detection import Calibration

        try:
            facts = json.loads((folder / COLUMNS_FILE).read_text(encoding="utf-8"))
            threshold, calibration = float(facts.pop("threshold")), Calibration(**facts.pop("calibration"))
            columns = Columns(**facts)
            import keras

            model = keras.saving.load_model(folder / MODEL_FILE, compile=False, safe_mode=True)
            if model.input_shape[1] != len(columns.features):
                raise ValueError(f"{MODEL_FILE} and {COLUMNS_FILE} are not of the same training")
            return cls(model, columns, threshold, calibration)
        except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError, zipfile.BadZipFile) as error:
            problem = f"--model {folder}: cannot be loaded ({said_by(error)})"
            raise UserError(f"{problem}; give the output folder of a training") from None

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
        return self.calibration(self.raw(features))
