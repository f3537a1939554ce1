"""The Keras models of run_fraud.py, and what is saved of a trained one: model, scaling, threshold.

Importing this module decides how Keras runs, before it is imported: on TensorFlow, whatever the user's keras.json says.
Not for training (`common.legacy.keras_trainer`), nor for scores and thresholds (`common.legacy.detection`).
"""

import contextlib
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.legacy.errors import UserError
from common.legacy.files import write_json

os.environ["KERAS_BACKEND"] = "tensorflow"
# With small batches, oneDNN and several threads in one operation cost more than they save; and results depend less on
# the processor without them.
FOR_SMALL_BATCHES = {"TF_ENABLE_ONEDNN_OPTS": "0", "TF_NUM_INTRAOP_THREADS": "1"}
NOT_THE_USERS = sorted(set(FOR_SMALL_BATCHES) - set(os.environ))
os.environ.update({name: FOR_SMALL_BATCHES[name] for name in NOT_THE_USERS})
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # on machines without a GPU even errors are said that are none

TASK = "card-fraud"
MODEL_FILE, FACTS_FILE = "model.keras", "detector.json"
FARTHEST = 1e9  # standard deviations from the mean
LARGE_BATCH = 256  # rows a batch; measured, see benchmarks/README.md
SMALLEST = 7  # columns that two convolutions and two poolings leave something of
USAGE = """\
import json
import os

os.environ["KERAS_BACKEND"] = "tensorflow"
import keras
import numpy as np

with open("{model}/detector.json", encoding="utf-8") as file:
    detector = json.load(file)
model = keras.saving.load_model("{model}/model.keras")
with open("{csv}", encoding="utf-8") as file:
    header = file.readline().strip().replace('"', "").split(",")
    columns = [header.index(name) for name in detector["columns"]]
    rows = np.loadtxt(file, delimiter=",", usecols=columns, ndmin=2, quotechar='"')
scaled = (rows - detector["mean"]) / detector["scale"]
probabilities = model.predict(scaled.astype("float32"), verbose=0)[:, 0]
print(probabilities, probabilities >= detector["threshold"])  # of fraud, by row
"""


def choose_kernels(batch: int) -> None:
    """For large batches, TensorFlow's own choices instead of `FOR_SMALL_BATCHES`; before it is loaded.

    What the user has set in these variables stays.
    """
    if batch >= LARGE_BATCH:
        for name in NOT_THE_USERS:
            os.environ.pop(name, None)


@contextlib.contextmanager
def devices_scope(count: int):
    """A model that is built inside is trained on `count` devices, each with its own batch (`MirroredStrategy`).

    The devices are GPUs, or, where there is none, parts of the processor. Nothing may have used TensorFlow before, but
    for random seeds. With one device nothing special happens.

    Raises:
        UserError: there are GPUs, but fewer.
    """
    if count == 1:
        yield
        return
    import tensorflow as tf

    gpus, processor = tf.config.list_physical_devices("GPU"), tf.config.list_physical_devices("CPU")[0]
    if gpus and len(gpus) < count:
        raise UserError(f"--num_devices {count}: this machine has {len(gpus)} GPU{'s' * (len(gpus) > 1)}")
    if not gpus:
        tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * count)
    kind = "GPU" if gpus else "CPU"
    with tf.distribute.MirroredStrategy([f"/{kind}:{number}" for number in range(count)]).scope():
        yield


def published_cnn(columns: int):
    """The network of report 004 for rows of `columns` numbers, as `keras.Sequential` [N, columns, 1] -> [N, 1].

    29,345 parameters for 30 columns. Raises `UserError` when there are too few columns for it.
    """
    if columns < SMALLEST:
        raise UserError(f"--model cnn: needs {SMALLEST} columns or more, the table has {columns}; use --model mlp")
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((columns, 1)),
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
            layers.Dense(1, activation="sigmoid"),
        ]
    )


def mlp(columns: int):
    """A fully connected network, as `keras.Sequential` [N, columns] -> [N, 1]."""
    import keras
    from keras import layers

    hidden = [
        [layers.Dense(width, activation="relu"), layers.BatchNormalization(), layers.Dropout(0.3)] for width in (64, 32)
    ]
    return keras.Sequential([keras.Input((columns,)), *hidden[0], *hidden[1], layers.Dense(1, activation="sigmoid")])


def layer_table(model) -> dict[str, dict]:
    """Type, output shape of one row and number of parameters of each layer, by its name."""
    return {
        layer.name: {
            "type": type(layer).__name__,
            "output shape": " x ".join(map(str, layer.output.shape[1:])),
            "parameters": layer.count_params(),
        }
        for layer in model.layers
    }


def predict(model, features: np.ndarray, batch_size: int) -> np.ndarray:
    """float64 [N]: what a model with one output gives for float32 [N, F], by `batch_size` rows, on one device."""
    inputs = features.reshape(-1, *model.input_shape[1:])
    starts = range(0, len(inputs), batch_size)
    outputs = [np.asarray(model(inputs[at : at + batch_size], training=False)) for at in starts]
    return np.concatenate([np.zeros((0, 1)), *outputs])[:, 0]


@dataclass
class Detector:
    """A trained model and what it takes to use it: model.keras and detector.json in one folder.

    Attributes:
        model: uncompiled or compiled Keras model, standardised rows -> probability of fraud [N, 1].
        columns: names of the F features, in the order of the model's input.
        mean, scale: float64 [F], of the training rows.
        threshold: probability from which on a row is called fraud.
        target: the column with the class in the training table.
        positive: its value for fraud; None: 1.
        kind: what the model is called: "cnn" or "mlp".
    """

    model: object
    columns: list[str]
    mean: np.ndarray
    scale: np.ndarray
    threshold: float
    target: str
    positive: str | None
    kind: str

    def save(self, folder: Path) -> None:
        """Writes both files, each in one move."""
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{os.getpid()}.{MODEL_FILE}"  # Keras looks at the ending
        try:
            self.model.save(partial)
            os.replace(partial, folder / MODEL_FILE)
        finally:
            partial.unlink(missing_ok=True)
        facts = {"task": TASK, "kind": self.kind, "target": self.target, "positive": self.positive}
        numbers = {"mean": self.mean.tolist(), "scale": self.scale.tolist(), "threshold": float(self.threshold)}
        write_json(folder / FACTS_FILE, facts | {"columns": self.columns} | numbers)

    @classmethod
    def load(cls, folder: Path) -> "Detector":
        """What `save` has written. Raises `UserError`: nothing of that kind there, damaged, or of another task."""
        for name in (MODEL_FILE, FACTS_FILE):
            if not (folder / name).is_file():
                raise UserError(f"--model {folder}: holds no {name}; give the output folder of a run of run_fraud.py")
        try:
            facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
            task = facts["task"]
            numbers = {name: np.array(facts[name], dtype=np.float64) for name in ("mean", "scale")}
            kept = {name: facts[name] for name in ("columns", "threshold", "target", "positive", "kind")}
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{folder / FACTS_FILE}: damaged ({type(error).__name__}: {error})") from error
        if task != TASK:
            raise UserError(f"--model {folder}: was made for the task {task}, not {TASK}")
        import keras

        try:
            model = keras.saving.load_model(folder / MODEL_FILE, compile=False, safe_mode=True)
        except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile) as error:
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"{folder / MODEL_FILE}: cannot be loaded ({reason})") from error
        detector, features = cls(model, **kept, **numbers), len(facts["columns"])
        if model.input_shape[1:] not in ((features, 1), (features,)) or not (
            detector.mean.shape == detector.scale.shape == (features,)
        ):
            raise UserError(f"--model {folder}: its model and its {FACTS_FILE} are not of the same run")
        return detector

    def standardise(self, features: np.ndarray) -> np.ndarray:
        """float32 [N, F] of float64 [N, F]: what the model takes; a cell that is beyond all bounds is cut to `FARTHEST`
        deviations, since from infinity the model would make NaN, which is no probability."""
        return np.clip((features - self.mean) / self.scale, -FARTHEST, FARTHEST).astype(np.float32)

    def probabilities(self, features: np.ndarray, batch_size: int) -> np.ndarray:
        """float64 [N]: of fraud, for rows as they are in the table, float64 [N, F]."""
        return predict(self.model, self.standardise(features), batch_size)
