"""Flags of the three scripts on recordings that say what of the encoder is used and trained; what --demo sets."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from common.arguments import Arguments, flag
from common.errors import UserError


@dataclass
class EncoderArguments(Arguments):
    """What every task on recordings has beside its data."""

    _argument_group_name = "encoder"

    freeze: Literal["encoder", "convolution", "none"] = flag("encoder", "which part of the encoder is not trained")
    layer: str | None = flag(
        None, "N: the encoder's first N layers alone; weighted: a trained mixture of all; unset: its last one"
    )
    feature_cache: Literal["float32", "float16", "off"] = flag(
        "float32", "what the frozen part computes is kept on disk so (float16: half the space); off: in every epoch"
    )
    encoder_learning_rate: float | None = flag(None, "of the encoder, where it is trained; unset: --learning_rate")
    eval_train_samples: int = flag(
        1000, "training examples that are evaluated, too, whenever validation is, for the curves; 0: none, -1: all"
    )
    augment_speed: float = flag(0.0, "training clips are played up to this share faster or slower, as in 0.1")
    augment_noise: float | None = flag(None, "noise is added to training clips, at this many dB below them or more")
    mask_time_prob: float | None = flag(None, "SpecAugment: share of frames that is masked; unset: the checkpoint's")
    mask_time_length: int | None = flag(None, "SpecAugment: frames masked at once")
    mask_feature_prob: float | None = flag(None, "SpecAugment: share of the features that is masked")
    mask_feature_length: int | None = flag(None, "SpecAugment: features masked at once")
    attention_dropout: float | None = flag(None, "of the encoder, where it is trained; unset: the checkpoint's")
    activation_dropout: float | None = flag(None, "of the encoder, likewise")
    feat_proj_dropout: float | None = flag(None, "of the encoder, likewise")
    hidden_dropout: float | None = flag(None, "of the encoder, likewise")
    final_dropout: float | None = flag(None, "before transformers' linear CTC head; unset: the checkpoint's")

    def __post_init__(self):
        super().__post_init__()
        if self.layer is not None and self.layer != "weighted" and not (self.layer.isdecimal() and int(self.layer)):
            raise UserError(f"--layer {self.layer}: give the number of layers to keep, from 1, or weighted")
        for name, value in self.configured.items():
            if name.endswith(("prob", "dropout")) and not 0 <= value < 1:
                raise UserError(f"--{name} {value}: must be from 0 up to 1")
            if name.endswith("length") and value < 1:
                raise UserError(f"--{name} {value}: must be 1 or more")
        if not 0 <= self.augment_speed < 0.5:
            raise UserError(f"--augment_speed {self.augment_speed}: must be a share from 0 up to 0.5")

    def settle_freeze(self) -> None:
        """What is for a trained encoder trains it; raises `UserError` where --freeze encoder was given, too."""
        asked = [name for name in self.configured if name != "final_dropout"]
        asked += [name for name in ("encoder_learning_rate", "augment_noise") if getattr(self, name) is not None]
        asked += ["augment_speed"] * bool(self.augment_speed)
        if asked and self.freeze == "encoder":
            if "freeze" in self.explicit:
                raise UserError(f"--{asked[0]}: has no effect on a frozen encoder; give --freeze convolution or none")
            self.set(f"--{asked[0]} is for a trained encoder", freeze="none")

    @property
    def weighted(self) -> bool:
        """Whether the head gets a trained mixture of all layers."""
        return self.layer == "weighted"

    @property
    def configured(self) -> dict[str, float | int]:
        """What was given of the encoder's own configuration."""
        names = [field.name for field in fields(EncoderArguments)]
        names = [name for name in names if name.startswith("mask_") or name.endswith("_dropout")]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def use_demo(args, run, make: Callable[..., dict], architecture: str) -> bool:
    """With --demo: the built-in data, unless others are given, and a tiny model like --model, unless that is a folder.

    Args:
        make: (folder, architecture) -> {"model": folder, "data_dir": folder}, which it writes.
        architecture: what the tiny model is like where --model is a folder.

    Returns:
        Whether the built-in model is used with other data.
    """
    if not args.demo:
        return False
    folder, given = run.output_dir / "demo", Path(args.model).is_dir()
    made = run.decide(lambda: make(folder, architecture if given else args.model))
    own = any((args.data_dir, args.train_file, args.validation_file, args.test_file))
    for name in ["model"] * (not given) + ["data_dir"] * (not own):
        setattr(args, name, made[name])
        args.record[name]["value"] = made[name]
    return own
