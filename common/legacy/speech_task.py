"""What the three scripts on recordings do alike: flags, splits, weights of classes, and frozen features.

Not the tasks themselves: which data, which classes or transcripts, and which head, stand in the scripts; nor what is
written in the end (`common.legacy.speech_results`, `common.legacy.recognition`).
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from common.legacy.arguments import flag
from common.legacy.balancing import class_weights, weight_warning
from common.legacy.cache import cache_root
from common.legacy.data import choose, fingerprint
from common.legacy.errors import UserError
from common.legacy.hub import load_split
from common.legacy.recordings import Reading, Recordings, read_recordings, recordings_of_rows
from common.legacy.run import decided_by_main_process
from common.legacy.splitting import split_rows, split_words

SPLITS = ("train", "validation", "test")


@dataclass
class SpeechArguments:
    """What every task on recordings has."""

    _argument_group_name = "recordings"

    data_dir: str | None = flag(
        None, "all data in one: a folder, an archive, a table or a recording; --split makes splits of it", "--data"
    )
    split: Literal["auto", "given", "speaker", "stratified"] = flag(
        "auto",
        "how one source (--data_dir, or with speaker and stratified one split of --dataset) is split: as the data say "
        "(given), no speaker in two splits, or by class alone (stratified); auto: the first that the data allow",
    )
    validation_share: float = flag(0.1, "share of one source that becomes validation data")
    test_share: float = flag(0.1, "share of one source that becomes test data")
    split_seed: int = flag(42, "which speakers or clips go to which split; apart from --seed")
    name_pattern: str | None = flag(
        None, "what file names say: {label}_{speaker}_{index}, or a regular expression with such named groups"
    )
    audio_column: str | None = flag(
        None, "column of the recordings; unset = audio, path, file, ...", "--audio_column_name"
    )
    speaker_column: str | None = flag(None, "column of the speakers; unset = speaker, speaker_id, ...")
    train_split_name: str = flag("train", "split of --dataset to train on")
    eval_split_name: str = flag("validation", "split of --dataset that is validation data")
    test_split_name: str = flag("test", "split of --dataset that is test data")
    freeze: Literal["encoder", "convolution", "none"] = flag("encoder", "which part of the model is not trained")
    layer: str | None = flag(
        None, "N: the encoder's first N layers alone; weighted: a trained mixture of all; unset: its last one"
    )
    feature_cache: Literal["float32", "float16", "off"] = flag(
        "float32", "what a frozen encoder computes is kept on disk so (float16: half the space); off: in every epoch"
    )
    eval_train_samples: int = flag(
        1000, "training examples that are evaluated, too, whenever validation is, for the curves; 0 = none, -1 = all"
    )

    def __post_init__(self):
        for name in ("validation_share", "test_share"):
            if not 0 < getattr(self, name) < 0.5:
                raise UserError(f"--{name} {getattr(self, name)}: must lie between 0 and 0.5")
        if self.layer is not None and self.layer != "weighted" and not (self.layer.isdecimal() and int(self.layer)):
            raise UserError(f"--layer {self.layer}: give the number of layers to keep, from 1, or weighted")

    def check_use(self, training) -> None:
        """Raises `UserError` for a change of the model where nothing is trained that could get used to it."""
        if self.layer is not None and not training.do_train:
            raise UserError(f"--layer {self.layer}: a model that is only used has its layers; leave the flag out")

    @property
    def kept_layers(self) -> int | None:
        """`layer` as a number; None: all layers are kept."""
        return None if self.layer in (None, "weighted") else int(self.layer)

    @property
    def weighted(self) -> bool:
        """Whether the head gets a trained mixture of all layers."""
        return self.layer == "weighted"

    @property
    def columns(self) -> dict[str, str | None]:
        """The columns as given, for `Reading`."""
        names = ("audio", "label", "text", "speaker", "split")
        return {name: getattr(self, f"{name}_column", None) for name in names}


@dataclass
class ClassArguments(SpeechArguments):
    """What the tasks with classes have beside."""

    label_column: str | None = flag(None, "column of the class; unset = label, class, ...", "--label_column_name")
    label_order: str | None = flag(
        None, "what 0, 1, 2 stand for where data or a checkpoint number the classes: NAME,NAME,NAME"
    )
    drop_labels: list[str] = field(
        default_factory=list, metadata={"help": "classes that are left out, and counted as such"}
    )
    class_weights: Literal["none", "balanced", "sqrt", "effective"] = flag(
        "none",
        "weight of each class in the loss: as scikit-learn's balanced, its square root, or by the effective number of "
        "examples (Cui et al. 2019)",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.label_order is not None and not all(name.strip() for name in self.label_order.split(",")):
            raise UserError(f"--label_order {self.label_order}: must be names with commas between, one for each class")

    @property
    def order(self) -> tuple[str, ...] | None:
        """`label_order` as names."""
        return self.label_order and tuple(name.strip() for name in self.label_order.split(","))


def use_demo(data, task, model_args, make: Callable[[Path, str], dict[str, str]], folder: Path, default: str) -> None:
    """Points data and model at the built-in ones that `make` writes to `folder`; what was given stays.

    Args:
        default: what the built-in model is like, where `--model` is a folder.
    """
    given = Path(model_args.model).is_dir()
    # Written once: another process could rewrite what the first one already reads.
    made = decided_by_main_process(lambda: make(folder, default if given else model_args.model))
    model_args.model = model_args.model if given else str(made["model"])
    if not any((data.train_file, data.validation_file, data.test_file, task.data_dir)):
        task.data_dir = str(made["data"])


# Data


def load_splits(
    task: SpeechArguments,
    data,
    training,
    model_args,
    *,
    reading: Reading,
    folder: str | None = None,
    explicit: set[str],
    prepare: Callable[[Recordings], Recordings] = lambda recordings: recordings,
    silent_ok: tuple[str, ...] = (),
    audio_needed: bool = True,
) -> tuple[dict[str, Recordings], dict[str, tuple[int, str]], list[str]]:
    """The splits that the run needs, with sound that was decoded once to see that it is whole.

    They come from the files that are given, else from one source (`--data_dir`), else from the hub.

    Args:
        folder: of `--dataset`, see `hub.load_split`.
        explicit: names of the arguments that were given.
        prepare: what the task does with everything that was read, before it is split.
        silent_ok: classes whose clips may be silent.
        audio_needed: False: names without sound are good enough, and nothing is decoded.

    Returns:
        (splits, of each how many recordings there were and how its own were chosen, sentences on how it was split).
    """
    files = {"train": data.train_file, "validation": data.validation_file, "test": data.test_file}
    needed = {"train": training.do_train, "validation": training.do_eval, "test": training.do_predict}
    limits = {"train": data.max_train_samples, "validation": data.max_eval_samples, "test": data.max_predict_samples}
    reading = replace(reading, columns=task.columns, name_pattern=task.name_pattern or reading.name_pattern)
    reading = replace(reading, skip_bad=data.on_bad_example == "skip", audio_needed=audio_needed)
    root, notes = cache_root(model_args.cache_dir), []
    if any(files.values()):
        found = _from_files(files, needed, reading, prepare, root, explicit)
    elif task.data_dir is None and task.split in ("auto", "given"):
        names = {"train": task.train_split_name, "validation": task.eval_split_name, "test": task.test_split_name}
        found, classes = {}, None
        for name in (n for n in SPLITS if needed[n]):
            rows, source = load_split(data, model_args, names[name], folder=folder)
            recordings = recordings_of_rows(rows, source, _for_split(reading, name, classes))
            classes = recordings.names if name == "train" else classes
            found[name] = prepare(recordings)
    else:
        if task.data_dir is None:
            rows, source = load_split(data, model_args, task.train_split_name, folder=folder)
            whole = recordings_of_rows(rows, source, reading)
        else:
            whole = read_recordings(task.data_dir, reading, root)
        found, notes = _cut_up(prepare(whole), needed, task)
    splits, selection = {}, {}
    for name, recordings in found.items():
        chosen, words = choose(len(recordings), limits[name], data.sample_seed)
        selection[name] = len(recordings), words
        splits[name] = recordings.take(chosen)
        if audio_needed:
            quiet = training.disable_tqdm or training.process_index
            splits[name] = splits[name].checked(
                root,
                skip_bad=reading.skip_bad,
                workers=data.preprocessing_num_workers,
                progress=None if quiet else f"decoding, {name}",
                silent_ok=silent_ok,
            )
        if not len(splits[name]):
            raise UserError(f"{recordings.source}: no recording is left for {name}")
    if "train" in splits and reading.kind == "label":
        _several_classes(splits["train"])
    return splits, selection, notes


def _from_files(files, needed, reading: Reading, prepare, root: Path, explicit: set[str]) -> dict[str, Recordings]:
    found, classes = {}, None
    for name in (n for n in SPLITS if needed[n]):
        if files[name] is None and name == "test" and "do_predict" not in explicit:
            continue
        if files[name] is None:
            raise UserError(
                f"there is no {name} data: give --{name}_file, or choose among --do_train --do_eval --do_predict"
            )
        recordings = read_recordings(files[name], _for_split(reading, name, classes), root)
        classes = recordings.names if name == "train" else classes
        found[name] = prepare(recordings)
    return found


def _for_split(reading: Reading, name: str, classes: tuple[str, ...] | None) -> Reading:
    """Test data may come without truth, and no split may have classes that the training data, as read, do not have."""
    reading = replace(reading, truth=None) if name == "test" else reading
    return replace(reading, names=classes) if classes and reading.kind == "label" else reading


def _cut_up(whole: Recordings, needed, task: SpeechArguments) -> tuple[dict[str, Recordings], list[str]]:
    shares = {"validation": task.validation_share, "test": task.test_share}
    shares = {"train": 1 - sum(shares.values()), **shares}
    how = task.split
    if how == "auto":
        known = whole.speakers is not None  # of some: whoever is not known is nobody else
        how = "given" if whole.splits is not None else "speaker" if known else "stratified"
    rows = split_rows(whole, how, shares, task.split_seed)
    note = f"split {split_words(whole, how, shares, task.split_seed)}"
    return {name: whole.take(rows[name]) for name in SPLITS if needed[name]}, [note]


def _several_classes(recordings: Recordings) -> None:
    there = [name for name, count in recordings.label_counts().items() if count]
    if len(there) < 2:
        raise UserError(f"{recordings.source}: all recordings are of the class {there[0]!r}; there must be two or more")


def without_labels(recordings: Recordings, dropped: list[str]) -> Recordings:
    """The recordings without the classes `dropped`, which are counted among the skipped."""
    if not dropped or recordings.labels is None:
        return recordings
    unknown = [name for name in dropped if name not in recordings.names]
    if unknown:
        names = ", ".join(map(repr, recordings.names))
        raise UserError(f"--drop_labels {unknown[0]}: {recordings.source} has no such class, only {names}")
    names = tuple(name for name in recordings.names if name not in dropped)
    gone = np.isin(recordings.labels, [recordings.names.index(name) for name in dropped])
    kept = recordings.take(np.flatnonzero(~gone))
    kept = replace(kept, skipped=kept.skipped | {f"class dropped ({', '.join(dropped)})": int(gone.sum())})
    return kept.relabelled(names)


def of_length(recordings: Recordings, shortest: float, longest: float | None) -> Recordings:
    """The recordings of that many seconds; the others are counted among the skipped."""
    seconds = recordings.seconds
    kept = (seconds >= shortest) & (seconds <= (np.inf if longest is None else longest))
    if kept.all():
        return recordings
    if not kept.any():
        raise UserError(f"{recordings.source}: no recording is between --min_seconds and --max_seconds")
    chosen = recordings.take(np.flatnonzero(kept))
    return replace(chosen, skipped=chosen.skipped | {"too short or too long": int((~kept).sum())})


def weights_of(task: ClassArguments, train: Recordings | None) -> tuple[np.ndarray | None, dict, list[str]]:
    """The weight of each class in the loss (None: all alike), printed; the same for results.json; and warnings."""
    if train is None or task.class_weights == "none":
        return None, {}, []
    weights = class_weights(train.labels, len(train.names), task.class_weights)
    by_class = dict(zip(train.names, weights.round(4).tolist()))
    shown = ", ".join(f"{name} {weight:.3g}" for name, weight in by_class.items())
    print(f"class weights ({task.class_weights}): {shown}", file=sys.stderr)
    warning = weight_warning(weights, train.names)
    return weights, {f"class weights ({task.class_weights})": by_class}, [warning] if warning else []


# Model


def features_or_waveforms(model, inputs: dict, task: SpeechArguments, data, model_args, training) -> tuple:
    """What the trainer gets for each split: waveforms, or the features that the frozen encoder makes of them, once.

    Returns:
        (data sets, the `FrozenSpeech` or None, warnings: why nothing is cached).
    """
    import torch

    from common.legacy.speech_features import FrozenSpeech, features_of

    if task.freeze != "encoder" or task.feature_cache == "off":
        return inputs, None, []
    frozen, features = FrozenSpeech(model), {}
    lower = [kind for kind, asked in ((torch.bfloat16, training.bf16), (torch.float16, training.fp16)) if asked]
    for name, split in inputs.items():
        features[name] = features_of(
            split,
            frozen,
            cache_root(model_args.cache_dir),
            batch_size=training.per_device_eval_batch_size,
            autocast=lower[0] if lower else None,
            progress=None if training.disable_tqdm or training.process_index else f"features, {name}",
            storage=task.feature_cache,
            overwrite=data.overwrite_cache and training.process_index == 0,  # the others take what the first has made
            workers=data.preprocessing_num_workers,
        )
        if isinstance(features[name], str):
            return inputs, None, [f"the frozen encoder runs in every epoch: {features[name]}"]
    return features, frozen, []


# Training


def identity_of(parsed, train: Recordings, *names: str) -> dict:
    """What may not change when a training is resumed, for `start_training`; `names` are arguments of the task."""
    training = parsed.groups[-1]
    return {
        "script": parsed.command[0],
        "model": parsed.record["model"]["value"],
        "training data": fingerprint(train.rows()),
        **{name: getattr(training, name) for name in ("seed", "per_device_train_batch_size")},
        **{name: getattr(parsed.groups[0], name) for name in names},
    }
