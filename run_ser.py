"""Speech emotion recognition with HuBERT on ShEMO: no speaker in two splits, segments and copies in training only.

ShEMO's audio is given by its authors: its zips or folders (names like M05N01.wav), or the corrected copy on the hub.

    python run_ser.py
    python run_ser.py --data_dir shemo/ --segment_seconds 5 --oversample 0.5 --output_dir outputs/ser-segments
    python run_ser.py --freeze encoder --learning_rate 1e-3 --output_dir outputs/ser-frozen    (seconds an epoch)

The report cuts and copies before it splits: pieces of a clip are in training and test. Its way, marked as leaking:

    python run_ser.py --protocol published --segment_seconds 5 --output_dir outputs/ser-published

Other sets: a table, folders by class, or names that say who speaks and how; one look at the data alone; predictions:

    python run_ser.py --data_dir clips.zip --name_pattern "{speaker}_{label}_{number}" --output_dir outputs/ser-mine
    python run_ser.py --data_only --data_dir shemo/ --output_dir outputs/ser-data
    python run_ser.py --do_predict --model outputs/ser --test_file calls/ --output_dir outputs/heard
    python run_ser.py --demo
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from common.legacy import results as facts
from common.legacy.archives import extracted, is_archive
from common.legacy.arguments import DataArguments, ModelArguments, flag, parse_arguments
from common.legacy.balancing import oversampled_rows
from common.legacy.cache import cache_root
from common.legacy.class_names import in_order_of
from common.legacy.errors import UserError, exit_status
from common.legacy.recording_readers import is_audio, list_files, name_pattern, stem
from common.legacy.recordings import Reading, Recordings, describe_splits
from common.legacy.run import (
    Clock,
    StopRequest,
    check_launch,
    decided_by_main_process,
    prepare_output_dir,
    start_training,
)
from common.legacy.speech_results import (
    AUDIO_USAGE,
    UAR,
    by_gender,
    by_utterance,
    draw_data,
    judged_classes,
    name_recall,
    pieces_of,
    publish_classes,
    publish_data,
    utterance_figures,
    utterance_score,
)
from common.legacy.speech_task import (
    ClassArguments,
    features_or_waveforms,
    identity_of,
    load_splits,
    use_demo,
    weights_of,
    without_labels,
)
from common.legacy.spellings import SPEECH
from common.legacy.splitting import cut
from common.legacy.task import PREFIX, classification_head, evaluated_sets

# The published recipe (report 000, emotion), in one place; the names are the flags. Batch, epochs and warm-up are ours:
# the report does not give them.
RECIPE = {
    "model": "facebook/hubert-base-ls960",
    "dataset": "aliyzd95/modified_shemo",
    "output_dir": "outputs/ser",
    "freeze": "none",
    "learning_rate": 1e-5,
    "warmup_steps": 0.1,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "num_train_epochs": 10.0,
    "train_sampling_strategy": "group_by_length",
    "eval_train_samples": 300,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "validation_unweighted_average_recall",
    "logging_steps": 20,
}
PROTOCOL = {"split": "stratified", "test_share": 0.2}  # the report's; 80/10/10 it says, but 600 of 3000 are tested
DEMO = {
    "output_dir": "outputs/demo/ser",
    "validation_share": 0.2,
    "test_share": 0.2,
    "freeze": "encoder",
    "learning_rate": 1e-2,
    "num_train_epochs": 20.0,
    "per_device_train_batch_size": 32,
    "logging_steps": 10,
}
# In the order of ShEMO's letters, A F H N S W.
EMOTIONS = {
    "anger": ("A", "angry"),
    "fear": ("F", "fearful"),
    "happiness": ("H", "happy"),
    "neutral": ("N",),
    "sadness": ("S", "sad"),
    "surprise": ("W", "surprised"),
}
SHEMO = r"(?P<speaker>(?P<gender>[MF])\d{2})(?P<label>[AFHNSW])(?P<utterance>\d+)"
REPORT = "report 000, test, published protocol"
PUBLISHED = {
    (False, False): (REPORT, "plain", {"accuracy": 74.0, "f1": 52.0, "f1_weighted": 73.0}),
    (True, False): (REPORT, "5 s segments", {"accuracy": 72.99, "f1": 47.0, "f1_weighted": 70.0}),
    (True, True): (REPORT, "5 s segments, oversampled", {"accuracy": 69.0, "f1": 66.0, "f1_weighted": 68.0}),
}
AUTHORS = ("ShEMO's authors", "support vector machine", {UAR: 58.2})
OUR_HEAD = (
    "import common.legacy.speech_heads  # of the repository with the training scripts; pipeline knows this head by it\n"
)


@dataclass
class EmotionArguments(ClassArguments):
    """What only this task has."""

    _argument_group_name = "emotions"

    head: Literal["published", "standard"] = flag(
        "published", "pooling, norm, linear, ReLU, dropout, linear; or the one that transformers' pipeline loads"
    )
    pooling: Literal["mean", "max", "first", "attention"] = flag("mean", "how frames become one (published head)")
    segment_seconds: float | None = flag(
        None, "recordings are cut into segments of this length; an utterance's score is the mean over its segments"
    )
    oversample: float | None = flag(None, "rare classes are copied, in training, up to this share of the largest one")
    max_seconds: float = flag(20.0, "of a longer training recording only so much is used", "--max_length_seconds")
    protocol: Literal["honest", "published"] = flag(
        "honest", "published: split by utterance, segments and copies made before the split, so that test data leak"
    )
    data_only: bool = flag(False, "counts, splits and plots, of names without sound too; nothing is trained")

    def __post_init__(self):
        super().__post_init__()
        if self.max_seconds < 1 or (self.segment_seconds is not None and self.segment_seconds < 1):
            raise UserError("--segment_seconds and --max_seconds must be 1 or more")
        if self.oversample is not None and not 0 < self.oversample <= 1:
            raise UserError(f"--oversample {self.oversample}: must be a share of the largest class, up to 1")
        if self.head == "standard" and self.pooling != "mean":
            raise UserError(f"--pooling {self.pooling}: the standard head takes the mean; leave out --head standard")


def main(argv: list[str] | None = None) -> dict:
    """Runs the script with the arguments `argv` (default: the command line); returns what results.json holds."""
    # Arguments
    check_launch()
    groups = (EmotionArguments, DataArguments, ModelArguments)
    phases = ("do_train", "do_eval", "do_predict")
    texts = {"description": __doc__, "spellings": SPEECH}
    parsed = parse_arguments(groups, argv, recipe=RECIPE, demo=DEMO, phases=phases, **texts)
    task, data, model_args, training = parsed.groups
    task.check_use(training)
    leaks = leaks_of(parsed)
    clock, output_dir, warnings = Clock(), Path(training.output_dir), []
    checkpoint = decided_by_main_process(lambda: prepare_output_dir(training, overwrite=data.overwrite_output_dir))
    with StopRequest() as stop:
        # Data
        with clock.phase("data"):
            if data.demo:
                from common.legacy.demo_speech import emotion_demo

                use_demo(data, task, model_args, emotion_demo, output_dir / "demo", RECIPE["model"])
            source = task.data_dir or data.train_file or data.validation_file or data.test_file
            on_hub = source is None and data.dataset == RECIPE["dataset"]
            if on_hub and task.split == "auto":
                parsed.settle("this set has one split only", split="speaker")
            pattern = SHEMO if source and named_like_shemo(Path(source), cache_root(model_args.cache_dir)) else None
            with training.main_process_first(desc="data"):
                whole, selection, notes = load_splits(
                    task,
                    data,
                    training,
                    model_args,
                    reading=Reading(classes=EMOTIONS, label_order=task.order, name_pattern=pattern),
                    explicit=parsed.explicit,
                    prepare=lambda recordings: prepared(recordings, task, published=bool(leaks)),
                    audio_needed=not task.data_only,
                )
            if leaks:  # each piece is scored for itself
                splits = {name: replace(part, utterances=part.ids) for name, part in whole.items()}
            else:
                splits = {name: cut_and_copied(part, name, task) for name, part in whole.items()}
            notes, statistics = [*notes, *pieces_of(whole, splits)], {name: {} for name in whole}
            if len(whole) > 1 and any(part.speakers is None for part in whole.values()):
                warnings.append("speakers are not known: the same one may be heard in several splits")
        if task.data_only:
            described = describe_splits(whole, selection, statistics) | {"leaks": leaks, "notes": notes + warnings}
            return publish_data(described, whole, splits, output_dir)

        # Preprocessing
        import common.legacy.speech_heads  # noqa: F401 - from here on the auto classes know models with the published head
        from common.legacy.modeling import classes_of, load_feature_extractor, model_commit
        from common.legacy.waveforms import Waveforms, collate_waveforms

        with clock.phase("preprocessing"), training.main_process_first(desc="preprocessing"):
            order = {"classes": EMOTIONS, "label_order": task.order, "training": training.do_train}
            splits = in_order_of(classes_of(model_args), splits, model_args.model, **order)
            extractor = load_feature_extractor(model_args)
            inputs = {name: Waveforms(part, extractor, targets=part.labels) for name, part in splits.items()}
            class_weights, weighing, found = weights_of(task, splits.get("train"))
            warnings += found

        # Model
        from transformers import set_seed

        from common.legacy.speech_encoders import freeze, ignore_padding, keep_layers

        with clock.phase("model"), training.main_process_first(desc="model"):
            set_seed(training.seed)
            names = next(iter(splits.values())).names
            model, found = emotion_model(task, model_args, names, training.do_train, parsed.explicit)
            warnings += found
            if task.kept_layers is not None:
                keep_layers(model, task.kept_layers)
            ignore_padding(model)
            frozen_part = freeze(model, task.freeze)
            model = model.to(training.device)
        with clock.phase("features"), training.main_process_first(desc="features"):
            fed, frozen, found = features_or_waveforms(model, inputs, task, data, model_args, training)
            warnings += found

        # Training
        from common.legacy.speech_features import collate_features
        from common.legacy.trainer import FinetuneTrainer

        head = classification_head(training.label_smoothing_factor, class_weights)
        trainer = FinetuneTrainer(
            head=replace(head, score=utterance_score),
            stop=stop,
            headline=UAR,
            forward=frozen.forward if frozen else None,
            model=model,
            args=training,
            train_dataset=fed.get("train"),
            eval_dataset=evaluated_sets(fed, task.eval_train_samples, data.sample_seed) or None,
            data_collator=collate_features if frozen else collate_waveforms,
            processing_class=extractor,
        )
        if training.do_train:
            identity = identity_of(parsed, splits["train"], "layer", "freeze", "class_weights", "head", "pooling")
            decided_by_main_process(lambda: start_training(output_dir, checkpoint, identity))
            with clock.phase("training"):
                trained = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

        # Results
        with clock.phase("results"):
            measured, logits, segments = {}, {}, {}
            for name in (n for n in ("validation", "test") if n in fed):
                (found,), measured[name] = trainer.assess(fed[name], PREFIX[name], samples=len(splits[name]))
                if splits[name].labels is not None:
                    segments[name] = {"segments": len(splits[name]), **utterance_figures(splits[name], found)}
                splits[name], logits[name] = by_utterance(splits[name], found)
            if training.do_train:
                measured["train"] = trained.metrics | {"train_samples": len(splits["train"])}
        judgement, predictions = judged_classes(splits, logits, measured, headline_metric="recall")
        name_recall(judgement)
        by_gender(judgement["groups"], predictions)
        shared = {"task": "speech-emotion", "warnings": warnings, "commit": model_commit(model_args), "leaks": leaks}
        data_facts = describe_splits(whole, selection, statistics)
        results = {**facts.of_run(parsed, trainer, clock, **shared), "data": data_facts, **judgement}
        results["protocol"]["notes"] += notes
        results["extra"] = {"method": {"frozen": frozen_part, "features computed once": frozen is not None}, **weighing}
        if task.segment_seconds and segments:
            results["extra"]["scored by segment"] = segments
        on_shemo = training.do_train and not data.demo and (pattern is not None or on_hub)
        rows = [PUBLISHED.get((bool(task.segment_seconds), bool(task.oversample))), AUTHORS] if on_shemo else []
        results["published"] = [facts.published(*row, unit="percent") for row in rows if row]
        if trainer.is_world_process_zero():
            trainer.save_run({PREFIX[name]: numbers for name, numbers in measured.items()})
            results["files"] |= draw_data(whole, splits, output_dir)
            usage = AUDIO_USAGE.format(model=output_dir if training.do_train else model_args.model, clip="clip.wav")
            usage = OUR_HEAD + usage if model.config.model_type == "pooled-speech-classifier" else usage
            results = publish_classes(results, predictions, splits, output_dir, usage=usage)
    return results


# Data


def leaks_of(parsed) -> list[str]:
    """What of the published protocol leaks, in words; [] for the honest one. Settles how the published one splits."""
    task, data = parsed.groups[:2]
    if task.protocol == "honest":
        return []
    parsed.settle("protocol of the report", **PROTOCOL)
    if task.split != "stratified" or data.train_file or data.validation_file or data.test_file:
        raise UserError("--protocol published splits --data_dir or --dataset by itself; leave out --split and files")
    leaks = ["the split is by utterance: speakers of the test data are in the training data"]
    if task.segment_seconds:
        leaks.append("recordings were cut before the split: segments of one recording are in training and test data")
    if task.oversample:
        leaks.append("rare classes were copied before the split: copies of one recording are in training and test data")
    return leaks


def named_like_shemo(path: Path, root: Path) -> bool:
    """Whether the files of a folder or archive all have names like M05N01."""
    if not (path.is_dir() or (path.is_file() and is_archive(path))):
        return False
    files = list_files(path if path.is_dir() else extracted(path, root), root)
    pattern, names = name_pattern(SHEMO), [name for name in files if is_audio(name)] or list(files)
    return bool(names) and all(pattern.fullmatch(stem(name).partition(".")[0]) for name in names)


def prepared(recordings: Recordings, task: EmotionArguments, *, published: bool) -> Recordings:
    """Without the dropped classes; in the published protocol cut and copied already."""
    recordings = without_labels(recordings, task.drop_labels)
    return cut_and_copied(recordings, "train", task) if published else recordings


def cut_and_copied(recordings: Recordings, name: str, task: EmotionArguments) -> Recordings:
    """The segments of a split's recordings; of training data also the copies, and of long ones only the beginning."""
    if task.segment_seconds:
        recordings = cut(recordings, task.segment_seconds)
    if name != "train":
        return recordings
    recordings = replace(recordings, ends=np.minimum(recordings.ends, recordings.begins + task.max_seconds))
    if task.oversample:
        recordings = recordings.take(oversampled_rows(recordings.labels, task.oversample, task.split_seed))
    return recordings


# Model


def emotion_model(task: EmotionArguments, model_args, names: tuple[str, ...], training: bool, explicit: set) -> tuple:
    """HuBERT with the published head or with that of transformers; warnings."""
    from transformers import AutoModel, AutoModelForAudioClassification

    from common.legacy.modeling import classes_of, load_model
    from common.legacy.speech_heads import PooledClassifier

    settings = {"training": training, "configured": {"layerdrop": 0.0}}
    trained = classes_of(model_args) is not None
    if trained and training and (asked := sorted({"head", "pooling"} & explicit)):
        raise UserError(f"--{asked[0]}: {model_args.model} has a head, which is trained on; give an encoder alone")
    if task.head == "published" and training and not trained:
        encoder, warnings = load_model(AutoModel, model_args, head="speech", **settings)
        return PooledClassifier.around(encoder, names, pooling=task.pooling, weighted=task.weighted), warnings
    if task.weighted:
        settings["configured"]["use_weighted_layer_sum"] = True
    return load_model(AutoModelForAudioClassification, model_args, head="classification", classes=names, **settings)


if __name__ == "__main__":
    sys.exit(exit_status(main, "run_ser.py"))
