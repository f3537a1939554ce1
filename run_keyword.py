"""Keyword spotting with a frozen DistilHuBERT and a weighted loss, on Speech Commands (SUPERB's ks).

The published experiment is the default. The encoder is frozen, so it runs once: one vector a clip is kept on disk, and
epochs take seconds.

    python run_keyword.py
    python run_keyword.py --class_weights sqrt --drop_labels _silence_ --output_dir outputs/keyword-sqrt
    python run_keyword.py --model facebook/hubert-base-ls960 --layer weighted --output_dir outputs/keyword-hubert

Your own recordings: folders by class, Speech Commands' own tree or archive, tables, or names that say the class:

    python run_keyword.py --data_dir speech_commands_v0.02.tar.gz --unknown_share 1
    python run_keyword.py --data_dir recordings.zip --name_pattern "{label}_{speaker}_{index}" --split speaker
    python run_keyword.py --train_file train.csv --validation_file dev.csv --test_file test.csv

Classify clips, and find keywords in long recordings (keywords.csv: keyword, start, end, score):

    python run_keyword.py --do_predict --model outputs/keyword --test_file clips/ --output_dir outputs/heard
    python run_keyword.py --demo
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.legacy import results as facts
from common.legacy.arguments import DataArguments, ModelArguments, flag, parse_arguments
from common.legacy.audio import MINIMUM_SAMPLES, RATE
from common.legacy.class_names import in_order_of, listed
from common.legacy.errors import UserError, exit_status
from common.legacy.files import write_csv
from common.legacy.modeling import classes_of, load_feature_extractor, load_model, model_commit
from common.legacy.recordings import Reading, Recordings, describe_splits
from common.legacy.run import (
    Clock,
    StopRequest,
    check_launch,
    decided_by_main_process,
    prepare_output_dir,
    start_training,
)
from common.legacy.speech_commands import SILENCE, UNKNOWN, with_unknown
from common.legacy.speech_results import AUDIO_USAGE, judged_classes, publish_classes
from common.legacy.speech_task import (
    ClassArguments,
    features_or_waveforms,
    identity_of,
    load_splits,
    use_demo,
    weights_of,
    without_labels,
)
from common.legacy.spellings import SPEECH, Spelling
from common.legacy.splitting import cut
from common.legacy.spotting import sliding_windows, spotted
from common.legacy.task import PREFIX, classification_head, evaluated_sets

# The published recipe (report 002, keyword spotting), in one place; the names are the flags.
RECIPE = {
    "model": "ntu-spml/distilhubert",
    "dataset": "s3prl/superb",
    "output_dir": "outputs/keyword",
    "class_weights": "balanced",
    "learning_rate": 1e-3,
    "weight_decay": 5e-3,
    "warmup_steps": 250,
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 64,
    "num_train_epochs": 10.0,
    "train_sampling_strategy": "group_by_length",
    "eval_strategy": "steps",
    "eval_steps": 300,
    "save_strategy": "steps",
    "save_steps": 300,
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "validation_accuracy",
    "logging_steps": 50,
}
# The loading script of SUPERB is of no use any more: the hub's converter has made parquet files of its sets.
SUPERB_IDS = (RECIPE["dataset"], "superb")  # today's and that of older command lines
SUPERB = {"dataset_config": "ks", "dataset_revision": "refs/convert/parquet"}
DEMO = {
    "output_dir": "outputs/demo/keyword",
    "keywords": ["yes", "no", "stop", "go"],
    "learning_rate": 1e-2,
    "warmup_steps": 0.1,
    "num_train_epochs": 30.0,
    "per_device_train_batch_size": 32,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "logging_steps": 10,
}
WORDS = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]  # SUPERB's keywords
OFFICIAL = {"--max_length_seconds": Spelling(why="has no effect: clips are taken whole")}
PUBLISHED = [
    (
        "report 002, test",
        "DistilHuBERT frozen, weighted loss",
        {"accuracy": 97.09, "precision_micro": 97.09, "precision": 97.20, "recall_micro": 97.09, "recall": 97.10},
    ),
    ("SUPERB, test", "DistilHuBERT frozen", {"accuracy": 95.98}),
]


@dataclass
class KeywordArguments(ClassArguments):
    """What only this task has."""

    _argument_group_name = "keywords"

    keywords: list[str] = field(
        default_factory=list,
        metadata={
            "help": "words to tell apart, every other one is _unknown_; all: every word; unset: those of a trained "
            "model that is not trained on, or SUPERB's ten where they are among others, else all"
        },
    )
    unknown_share: float | None = flag(
        None, "unknown words that each split keeps, as a multiple of the clips of a keyword; unset: all of them"
    )
    window_seconds: float = flag(1.0, "keywords are looked for in windows of this length; longer recordings have many")
    hop_seconds: float = flag(0.25, "from one window to the next")
    spot_threshold: float = flag(0.5, "probability from which on a window counts as having heard a keyword")

    def __post_init__(self):
        super().__post_init__()
        words = [word.strip() for given in self.keywords for word in given.split(",")]
        self.keywords = [word for word in dict.fromkeys(words) if word and word != UNKNOWN]
        if self.window_seconds < MINIMUM_SAMPLES / RATE or self.hop_seconds <= 0:
            raise UserError(f"--window_seconds must be {MINIMUM_SAMPLES / RATE} or more, and --hop_seconds above 0")
        if not 0 < self.spot_threshold <= 1:
            raise UserError(f"--spot_threshold {self.spot_threshold}: must be a probability above 0")
        if self.unknown_share is not None and self.unknown_share < 0:
            raise UserError(f"--unknown_share {self.unknown_share}: must be 0 or more")


def main(argv: list[str] | None = None) -> dict:
    """Runs the script with the arguments `argv` (default: the command line); returns what results.json holds."""
    # Arguments
    check_launch()
    groups = (KeywordArguments, DataArguments, ModelArguments)
    phases = ("do_train", "do_eval", "do_predict")
    texts = {"description": __doc__, "spellings": {**SPEECH, **OFFICIAL}}
    parsed = parse_arguments(groups, argv, recipe=RECIPE, demo=DEMO, phases=phases, **texts)
    task, data, model_args, training = parsed.groups
    superb = data.dataset in SUPERB_IDS
    if superb:
        parsed.settle("where this set is on the hub", **SUPERB)
    task.check_use(training)
    clock, output_dir, warnings = Clock(), Path(training.output_dir), []
    checkpoint = decided_by_main_process(lambda: prepare_output_dir(training, overwrite=data.overwrite_output_dir))
    with StopRequest() as stop:
        # Data
        with clock.phase("data"):
            if data.demo:
                from common.legacy.demo_speech import keyword_demo

                own = any((task.data_dir, data.train_file, data.validation_file, data.test_file))
                if own and "keywords" not in parsed.explicit:
                    task.keywords = []  # those of the demo are in the built-in data
                use_demo(data, task, model_args, keyword_demo, output_dir / "demo", RECIPE["model"])
            with training.main_process_first(desc="data"):
                trained_for = () if training.do_train else tuple((classes_of(model_args) or {}).values())
                splits, selection, notes = load_splits(
                    task,
                    data,
                    training,
                    model_args,
                    reading=Reading(label_order=task.order),
                    folder=data.dataset_config if superb else None,
                    explicit=parsed.explicit,
                    prepare=lambda recordings: prepared(recordings, task, trained_for),
                    silent_ok=(SILENCE,),
                )

        # Preprocessing
        from common.legacy.waveforms import Waveforms, collate_waveforms

        with clock.phase("preprocessing"), training.main_process_first(desc="preprocessing"):
            if "test" in splits and trained_for:
                splits["test"], found = unlabelled_if_foreign(splits["test"], {*trained_for, *(task.order or ())})
                warnings += found
            order = {"classes": {}, "label_order": task.order, "training": training.do_train}
            splits = in_order_of(classes_of(model_args), splits, model_args.model, **order)
            if "test" in splits and splits["test"].labels is None:
                splits["test"] = sliding_windows(splits["test"], task.window_seconds, task.hop_seconds)
            extractor = load_feature_extractor(model_args)
            inputs = {name: Waveforms(part, extractor, targets=part.labels) for name, part in splits.items()}
            class_weights, weighing, found = weights_of(task, splits.get("train"))
            warnings += found

        # Model
        from transformers import AutoModelForAudioClassification, set_seed

        from common.legacy.speech_encoders import freeze, ignore_padding, keep_layers

        with clock.phase("model"), training.main_process_first(desc="model"):
            set_seed(training.seed)
            model, found = load_model(
                AutoModelForAudioClassification,
                model_args,
                head="classification",
                training=training.do_train,
                classes=next(iter(splits.values())).names,
                configured={"layerdrop": 0.0, **({"use_weighted_layer_sum": True} if task.weighted else {})},
            )
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

        trainer = FinetuneTrainer(
            head=classification_head(training.label_smoothing_factor, class_weights),
            stop=stop,
            headline="accuracy",
            forward=frozen.forward if frozen else None,
            model=model,
            args=training,
            train_dataset=fed.get("train"),
            eval_dataset=evaluated_sets(fed, task.eval_train_samples, data.sample_seed) or None,
            data_collator=collate_features if frozen else collate_waveforms,
            processing_class=extractor,
        )
        if training.do_train:
            identity = identity_of(parsed, splits["train"], "layer", "freeze", "class_weights")
            decided_by_main_process(lambda: start_training(output_dir, checkpoint, identity))
            with clock.phase("training"):
                trained = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

        # Results
        with clock.phase("results"):
            measured, logits = {}, {}
            for name in (n for n in ("validation", "test") if n in fed):
                (logits[name],), measured[name] = trainer.assess(fed[name], PREFIX[name], samples=len(splits[name]))
            if training.do_train:
                measured["train"] = trained.metrics | {"train_samples": len(splits["train"])}
        judgement, predictions = judged_classes(splits, logits, measured, headline_metric="accuracy")
        add_micro_averages(judgement)
        shared = {"task": "keyword-spotting", "warnings": warnings, "commit": model_commit(model_args)}
        results = {
            **facts.of_run(parsed, trainer, clock, **shared),
            "data": describe_splits(splits, selection, {name: {} for name in splits}),
            **judgement,
        }
        results["protocol"]["notes"] += notes
        results["extra"] = {"method": {"frozen": frozen_part, "features computed once": frozen is not None}, **weighing}
        on_superb = all(split["source"].startswith(SUPERB_IDS) for split in results["data"]["splits"].values())
        rows = PUBLISHED if training.do_train and on_superb else []
        results["published"] = [facts.published(*row, unit="percent") for row in rows]
        if trainer.is_world_process_zero():
            trainer.save_run({PREFIX[name]: numbers for name, numbers in measured.items()})
            if "test" in predictions and splits["test"].labels is None:
                results["files"] |= write_keywords(output_dir, splits["test"], predictions["test"], task)
            usage = AUDIO_USAGE.format(model=output_dir if training.do_train else model_args.model, clip="clip.wav")
            results = publish_classes(results, predictions, splits, output_dir, usage=usage)
    return results


# Data


def prepared(recordings: Recordings, task: KeywordArguments, trained_for: tuple[str, ...]) -> Recordings:
    """The recordings with the classes of the task: words, silence, and `_unknown_` for all other words.

    SUPERB's few clips of silence, of a minute or more, become clips of one second.

    Args:
        trained_for: the classes of a model that is only used.
    """
    keywords, there = task.keywords, set(recordings.names) - {SILENCE}
    if not keywords and UNKNOWN not in there:
        of_model = [name for name in trained_for if name in there] if UNKNOWN in trained_for else []
        keywords = of_model or (WORDS if set(WORDS) < there else [])
    if keywords not in ([], ["all"]) and there:
        recordings = with_unknown(recordings, keywords, task.unknown_share, task.split_seed)
    if recordings.labels is not None and SILENCE in recordings.names:
        silent = recordings.labels == recordings.names.index(SILENCE)
        recordings = cut(recordings, 1.0, only=silent & (recordings.seconds >= 2.0))
    return without_labels(recordings, task.drop_labels)


def unlabelled_if_foreign(recordings: Recordings, known: set[str]) -> tuple[Recordings, list[str]]:
    """Without classes where none of them is `known`, since clips to be heard lie in folders of any name; warnings."""
    if recordings.labels is None or {name.casefold() for name in recordings.names} & {n.casefold() for n in known}:
        return recordings, []
    warning = f"{recordings.source}: {listed(recordings.names)} are no classes of the model: taken as clips without any"
    return replace(recordings, labels=None, names=()), [warning]


# Results


def add_micro_averages(judgement: dict) -> None:
    """Adds precision, recall and F1 over all clips, in place: as each has one class, they are the accuracy."""
    baselines = [baseline["metrics"] for baseline in judgement["baseline"].values()]
    for metrics in (*judgement["metrics"].values(), *baselines):
        metrics |= dict.fromkeys(("precision_micro", "recall_micro", "f1_micro"), metrics["accuracy"])


def write_keywords(output_dir: Path, windows: Recordings, predictions, task: KeywordArguments) -> dict[str, str]:
    """Writes keywords.csv: what was heard in which recording, from when to when (seconds), how surely."""
    rule = {"threshold": task.spot_threshold, "ignored": (SILENCE, UNKNOWN)}
    found = spotted(windows, predictions.probabilities, predictions.labels, **rule)
    rows = [(s.recording, s.keyword, f"{s.start:.2f}", f"{s.end:.2f}", f"{s.score:.4f}") for s in found]
    write_csv(output_dir / "keywords.csv", ["recording", "keyword", "start", "end", "score"], rows)
    return {"keywords": "keywords.csv"}


if __name__ == "__main__":
    sys.exit(exit_status(main, "run_keyword.py"))
