"""The flags of a script on Keras for model and training, named as those of the scripts on `Trainer`.

Not the training itself (`common.legacy.keras_trainer`): nothing heavy is imported, so that `--help` is there at once.
"""

from dataclasses import dataclass
from typing import Literal

from common.legacy.arguments import flag
from common.legacy.errors import UserError


@dataclass
class DetectorArguments:
    """The model, and how the hub is asked for data."""

    _argument_group_name = "model"

    model: str = flag("cnn", "cnn, the published one; mlp, fully connected; or the folder of a model trained here")
    token: str | None = flag(None, "access token for private data; unset = the one of `hf auth login`")
    cache_dir: str | None = flag(None, "folder for downloads; unset = each library's own cache")


@dataclass
class KerasArguments:
    """How a Keras model is trained, and where everything goes."""

    _argument_group_name = "training"

    output_dir: str | None = flag(None, "folder for the model and all results")
    do_train: bool = flag(False, "train; without any do_*: train, evaluate and predict")
    do_eval: bool = flag(False, "score the validation rows")
    do_predict: bool = flag(False, "predict the test rows, and score them where they have the target")
    learning_rate: float = flag(1e-3, "Adam's")
    num_train_epochs: int = flag(10, "passes over the training rows", "--epochs")
    per_device_train_batch_size: int = flag(32, "training rows a device and step", "--batch_size")
    per_device_eval_batch_size: int = flag(4096, "rows a step without training")
    steps_per_execution: int | None = flag(
        None, "steps between two looks at the progress, which cost time; unset: 32, and 1 with several devices"
    )
    early_stopping_patience: int | None = flag(
        None, "stop after this many epochs without a better --metric_for_best_model, and keep the best; unset: never"
    )
    load_best_model_at_end: bool = flag(False, "keep the best epoch's weights instead of the last one's")
    metric_for_best_model: Literal["auprc", "loss", "f1"] = flag("auprc", "on validation; which epoch is the best")
    save_total_limit: int = flag(1, "newest checkpoints to keep; there is one after every epoch")
    num_devices: int = flag(
        1, "GPUs to train on, each with its own batch (MirroredStrategy); without GPUs: parts of the CPU"
    )
    seed: int = flag(42, "of weights, dropout and the order of the rows")
    resume_from_checkpoint: str | None = flag(None, "auto: go on where a run stopped, if one did; or a checkpoint")

    def __post_init__(self):
        positive = ("num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size", "num_devices")
        for name in (*positive, "steps_per_execution", "early_stopping_patience", "save_total_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} {value}: must be 1 or more")
        if not 0 < self.learning_rate < 1:
            raise UserError(f"--learning_rate {self.learning_rate}: must be above 0 and below 1")
