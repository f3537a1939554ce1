"""Flags of the three scripts on recordings: their data, and what of the encoder is trained; what --demo sets."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from common.arguments import Arguments, LabelArguments, TaskArguments, flag
from common.errors import UserError


@dataclass
class SpeechArguments(TaskArguments):
    """The data of the three scripts on recordings."""

    _argument_group_name = "recordings"

    data_dir: str | None = flag(None, "all data in one folder, archive, table or recording; see --split", "--data")
    corpus: str | None = flag(None, "corpus of emotions that names are of; unset: the one that all names match")
    name_pattern: str | None = flag(None, "what names say: {speaker}/{label}_{index}, or a regular expression")
    split: Literal["auto", "speaker", "random"] = flag(
        "auto", "how --data_dir is split: no speaker in two splits, or at random; auto: as it says, else by speaker"
    )
    validation_share: float = flag(0.1, "share of one source that becomes validation data")
    test_share: float = flag(0.1, "share of one source that becomes test data")
    split_seed: int = flag(42, "which speakers or clips go to which split; apart from --seed")
    audio_column: str | None = flag(None, "column of the recordings; unset: audio, path, ...", "--audio_column_name")
    speaker_column: str | None = flag(None, "column of the speakers; unset: speaker, speaker_id, client_id, ...")
    train_split_name: str = flag("train", "split of --dataset to train on")
    eval_split_name: str = flag("validation", "split of --dataset that is validation data")
    test_split_name: str = flag("test", "split of --dataset that is test data")

    def __post_init__(self):
        super().__post_init__()
        for name in ("validation_share", "test_share"):
            if not 0 < getattr(self, name) < 0.5:
                raise UserError(f"--{name} {getattr(self, name)}: must lie between 0 and 0.5")
        if self.data_dir and (self.train_file or self.validation_file or self.test_file):
            raise UserError("--data_dir is split by itself; give either it, or a file for each split")
        if self.corpus and self.name_pattern:
            raise UserError("--corpus and --name_pattern both say what names mean; give one of them")


@dataclass
class ClassArguments(LabelArguments, SpeechArguments):
    """What the scripts with classes have beside."""

    drop_labels: list[str] = flag([], "classes that are left out, and counted as such")


@dataclass
class TextArguments(SpeechArguments):
    """What the script with transcripts has beside."""

    text_column: str | None = flag(None, "column of the transcript; unset: text, sentence, ...", "--text_column_name")
    min_seconds: float = flag(0.0, "shorter recordings are left out", "--min_duration_in_seconds")
    max_seconds: float | None = flag(None, "longer recordings are left out", "--max_duration_in_seconds")


@dataclass
class EncoderArguments(Arguments):
    """What every task on recordings has beside its data."""

    _argument_group_name = "encoder"

    freeze: Literal["encoder", "convolution", "none"] = flag("encoder", "which part of the encoder is not trained")
    layer: Literal["last", "weighted"] = flag("last", "what the head gets: the last layer, or a trained mixture of all")
    feature_cache: Literal["float32", "float16", "off"] = flag("float32", "frozen parts' output on disk; off: not kept")
    encoder_learning_rate: float | None = flag(None, "of the encoder, where it is trained; unset: --learning_rate")
    eval_train_samples: int = flag(1000, "training examples evaluated beside validation, for curves; 0: none, -1: all")
    augment_speed: float = flag(0.0, "training clips are played up to this share faster or slower, as in 0.1")
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
        for name, value in self.configured.items():
            if value < 1 if name.endswith("length") else not 0 <= value < 1:
                needed = "1 or more" if name.endswith("length") else "from 0 up to 1"
                raise UserError(f"--{name} {value}: must be {needed}")
        if (self.encoder_learning_rate or 0) < 0:
            raise UserError(f"--encoder_learning_rate {self.encoder_learning_rate}: must be 0 or more")
        if not 0 <= self.augment_speed < 0.5:
            raise UserError(f"--augment_speed {self.augment_speed}: must be a share from 0 up to 0.5")

    def settle_freeze(self) -> None:
        """What is for a trained encoder trains it; raises `UserError` where --freeze encoder was given, too."""
        asked = [name for name in self.configured if name != "final_dropout"]
        asked += [name for name in ("encoder_learning_rate", "augment_speed") if getattr(self, name)]
        if asked and self.freeze == "encoder":
            if "freeze" in self.explicit:
                raise UserError(f"--{asked[0]}: has no effect on a frozen encoder; give --freeze convolution or none")
            self.set(f"--{asked[0]} is for a trained encoder", freeze="none")

    @property
    def configured(self) -> dict[str, float | int]:
        """What was given of the encoder's own configuration."""
        names = [field.name for field in fields(EncoderArguments)]
        names = [name for name in names if name.startswith("mask_") or name.endswith("_dropout")]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def use_demo(args, run, make: Callable[..., dict], architecture: str) -> bool:
    """With --demo: the data and tiny model that `make` writes, unless own ones are given; whether data are."""
    own = any((args.data_dir, args.train_file, args.validation_file, args.test_file))
    name = architecture if Path(args.model).is_dir() else args.model
    run.use_demo(lambda folder: {k: made for k, made in make(folder, name).items() if k == "model" or not own})
    return args.demo and own
