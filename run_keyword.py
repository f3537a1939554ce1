# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "accelerate==1.15.0", "datasets==5.2.0", "evaluate==0.4.6", "filelock==4.3.1", "huggingface-hub==2.4.0",
#   "jinja2==3.1.6", "jiwer==4.0.0", "librosa==0.11.0", "matplotlib==3.11.2", "numpy==2.4.6", "pandas==3.1.1",
#   "pyyaml==6.0.4", "scikit-learn==1.9.1", "soundfile==0.14.0", "soxr==1.1.0", "torch==2.13.0",
#   "transformers==5.23.0",
# ]
# ///
"""Keyword spotting with a frozen DistilHuBERT and a weighted loss, on Speech Commands (SUPERB's ks).

The published experiment is the default. The encoder is frozen, so it runs once: one vector a clip is kept on disk, and
epochs take seconds.

    python run_keyword.py
    python run_keyword.py --class_weights sqrt --drop_labels _silence_ --output_dir outputs/keyword-sqrt
    python run_keyword.py --model facebook/hubert-base-ls960 --layer weighted --output_dir outputs/keyword-hubert
    torchrun --nproc_per_node 8 run_keyword.py --freeze convolution --learning_rate 3e-5 --bf16

Your own recordings: folders by class, Speech Commands' own tree or archive, tables, or names that say the class:

    python run_keyword.py --data_dir speech_commands_v0.02.tar.gz
    python run_keyword.py --data_dir recordings.zip --name_pattern "{label}_{speaker}_{index}" --split speaker
    python run_keyword.py --train_file train.csv --validation_file dev.csv --test_file test.csv

Classify clips:

    python run_keyword.py --do_predict --model outputs/keyword --test_file clips/ --output_dir outputs/found
    python run_keyword.py --demo
"""

import sys
from dataclasses import dataclass
from functools import partial

from common.arguments import flag, parse_arguments, show_help
from common.errors import UserError, exit_status
from common.legacy_flags import SPEECH
from common.speech.settings import ClassArguments, EncoderArguments, use_demo

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
    "metric_for_best_model": "accuracy",
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
SILENCE, UNKNOWN = "_silence_", "_unknown_"  # as of Speech Commands
WORDS = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]  # SUPERB's keywords
METRICS = ("accuracy", "precision_micro", "precision", "recall_micro", "recall", "f1")
CURVES = dict(zip(METRICS, ("accuracy", "precision, micro", "precision, macro", "recall, micro", "recall, macro")))
REPORT = {"accuracy": 97.09, "precision_micro": 97.09, "precision": 97.20, "recall_micro": 97.09, "recall": 97.10}


@dataclass
class KeywordArguments(EncoderArguments, ClassArguments):
    """What only this task has."""

    _argument_group_name = "keywords"

    keywords: list[str] = flag(
        [],
        "words to tell apart, every other one is _unknown_; all: every word; unset: those of a trained model that is "
        "not trained on, or SUPERB's ten where they are among others, else all",
    )
    whole_silence: bool = flag(False, "long recordings of _silence_ stay one clip each; else they are cut into seconds")

    def __post_init__(self):
        super().__post_init__()
        words = [word.strip() for given in self.keywords for word in given.split(",")]
        words = {word.casefold(): word for word in words}.values()
        words = [word for word in words if word and word != UNKNOWN]
        if self.keywords and not words:
            raise UserError(f"--keywords {' '.join(self.keywords)}: names no word")
        self.keywords = words


COMMAND_LINE = {"recipe": RECIPE, "demo": DEMO, "legacy": SPEECH, "phases": ("do_train", "do_eval", "do_predict")}
show_help(KeywordArguments, **COMMAND_LINE)  # --help ends here: what follows takes seconds to import

import datasets
import numpy as np
from torch.nn.functional import cross_entropy
from transformers import AutoModelForAudioClassification, TrainerCallback, set_seed

from common import metrics
from common.classification import score_predictions, weights_by_class
from common.demo.speech import keyword_demo
from common.labels import align_with_checkpoint, listed
from common.metrics.classification.classification import summary
from common.models import load_feature_extractor, load_model, structure_table
from common.report import plots
from common.results import plain_metric, published
from common.run import start_run
from common.speech.features import model_inputs
from common.speech.recordings import load_recordings
from common.speech.results import labels_of, predictions_of, usage, write_clips
from common.speech.splits import cut_silence, describe_splits
from common.speech.training import SpeechTrainer, settle_encoder, trained_classes


class WeightedTrainer(SpeechTrainer):
    """Cross entropy weighted by class."""

    metric_names = METRICS

    def __init__(self, run, inputs, class_weights, **kwargs):
        super().__init__(run, inputs, **kwargs)
        self.class_weights = class_weights  # float [classes]

    def example_losses(self, outputs, batch):  # [B]; the base takes the exact mean over the whole step
        settings = {"reduction": "none", "label_smoothing": self.args.label_smoothing_factor}
        return cross_entropy(outputs["logits"].float(), batch["labels"], **settings)

    def example_weights(self, batch):  # [B]
        return self.class_weights.to(batch["labels"].device)[batch["labels"]]


class EvaluateAtTheEnd(TrainerCallback):
    """Beside every 300 steps (--eval_steps) the last one is evaluated: it may be the best."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps and args.eval_strategy == "steps":
            control.should_evaluate = control.should_save = True


def main(argv: list[str] | None = None) -> dict:
    """Runs the script with the arguments `argv` (default: the command line); returns what results.json holds."""
    args = parse_arguments(KeywordArguments, argv, **COMMAND_LINE)
    args.settle_freeze()
    if args.dataset in SUPERB_IDS:
        args.set("where this set is on the hub", **SUPERB)

    with start_run(args, task="keyword-spotting") as run:
        if use_demo(args, run, keyword_demo, RECIPE["model"]) and "keywords" not in args.explicit:
            args.keywords = args.record["keywords"]["value"] = []  # those of the demo are in the built-in data
        training = args.training_args.do_train
        with run.phase("data", together=True):  # a row a clip, with the classes of the task
            trained, known = trained_classes(args, {})
            if known and "keywords" in args.explicit and {*args.keywords} != {*known} - {SILENCE, UNKNOWN}:
                raise UserError("--keywords: a model that is only used has its words; leave the flag out")
            folder = args.dataset_config if args.dataset in SUPERB_IDS else None
            words = {"keywords": args.keywords, "usual": [] if known else WORDS}
            prepare = partial(task_classes, **words, whole_silence=args.whole_silence)
            splits = load_recordings(args, run, names=known, hub_folder=folder, prepare=prepare)
            options = {"known": {}, "label_order": args.order, "training": training}
            splits = align_with_checkpoint(splits, trained, args.model, **options)
            describe_splits(splits, run)
        labels = known or next(iter(splits.values())).features["labels"].names

        with run.phase("model"):
            set_seed(args.training_args.seed)
            extractor = load_feature_extractor(args)
            mixture = {"use_weighted_layer_sum": True} if args.layer == "weighted" else {}
            options = {"classes": labels, "configured": args.configured | mixture}
            model = load_model(AutoModelForAudioClassification, run, head="classification", **options)
            settle_encoder(model, args, run)
            model.to(args.training_args.device)
        with run.phase("frozen features", together=True):
            inputs, collator = model_inputs(run, model, splits, extractor)

        parts = {"model": model, "data_collator": collator, "processing_class": extractor}
        trainer = make_trainer(run, inputs, labels, **parts)
        if training:
            trainer.train()
        outputs = trainer.predict_splits(inputs)
        predictions = {n: predictions_of(splits[n], found.predictions, labels) for n, found in outputs.items()}
        options = {"headline_metric": "accuracy", "micro": True}
        options["train_targets"] = labels_of(splits["train"]) if training else None
        return run.finish(
            trainer,
            score_predictions(predictions, trainer.losses, **options),
            write=lambda results: write(results, predictions, splits, run),
            published=published_rows(splits) if training else [],
            usage=usage(model, "audio-classification", args, ", top_k=None"),
            extra={"frozen": args.freeze, **without_silence(predictions)},
            tables=[structure_table(model)],
        )


# The classes of the task


def task_classes(clips: datasets.Dataset, *, keywords, usual, whole_silence: bool = False) -> datasets.Dataset:
    """The clips with the classes of the task: words, silence in seconds, `_unknown_` for other words.

    `keywords` were asked for (["all"]: every word), `usual` are those otherwise, where they are among other words.
    """
    if "labels" not in clips.column_names:
        return clips
    spelt = {word.casefold(): word for word in (*usual, *keywords)}  # YES is yes
    names = [spelt.get(name.casefold(), name) for name in clips.features["labels"].names]
    clips = clips.cast_column("labels", datasets.ClassLabel(names=names))
    if not keywords and {*usual} < {*names} - {SILENCE, UNKNOWN}:
        keywords = usual
    if keywords not in ([], ["all"]):
        clips = with_unknown(clips, keywords)
    return clips if whole_silence else cut_silence(clips)


def with_unknown(clips: datasets.Dataset, keywords: list[str]) -> datasets.Dataset:
    """The clips with the classes `keywords`, `_silence_`, and `_unknown_` for other words."""
    there = clips.features["labels"].names
    if missing := [word for word in keywords if word not in there]:
        raise UserError(f"the keywords {listed(missing)} are not among the classes of the data, {listed(there)}")
    names = [*keywords, *(name for name in (SILENCE,) if name in there and name not in keywords)]
    names += [UNKNOWN] if len(names) < len(there) else []
    order = np.array([names.index(name) if name in names else len(names) - 1 for name in there])
    feature = datasets.ClassLabel(names=names)
    return clips.remove_columns("labels").add_column("labels", order[labels_of(clips)], feature=feature)


# Training


def make_trainer(run, inputs: dict, labels: list[str], **parts) -> WeightedTrainer:
    """The task's `Trainer`, scored by `evaluate`."""
    metric = metrics.load("classification")
    weights = weights_by_class(run, inputs["train"].clips if "train" in inputs else None, labels)

    def compute_metrics(output) -> dict[str, float]:
        predicted = output.predictions.argmax(axis=1)
        found = metric.compute(predictions=predicted, references=output.label_ids, labels=labels)
        return {name: found[name] for name in METRICS}

    parts |= {"compute_metrics": compute_metrics, "callbacks": [EvaluateAtTheEnd()]}
    return WeightedTrainer(run, inputs, weights, **parts)


# Results


def published_rows(splits) -> list[dict]:
    """What stands beside ours where the data are the published ones."""
    if not all(facts["source"].startswith(SUPERB_IDS) for facts in splits.facts.values()):
        return []
    ours = published("report 002, test", "DistilHuBERT frozen, weighted loss", REPORT)
    ours["metrics"]["loss"] = plain_metric(0.1031, "nats")
    return [ours, published("SUPERB, test", "DistilHuBERT frozen", {"accuracy": 95.98})]


def without_silence(predictions: dict) -> dict:
    """For results.json: the scores of clips that are no `_silence_`, which is easily told from words."""
    rows = {}
    for name, split in predictions.items():
        if split.targets is None or SILENCE not in split.labels:
            continue
        words = split.targets != split.labels.index(SILENCE)
        if words.any():
            found = summary(split.targets[words], split.predicted[words], len(split.labels))
            rows[name] = {"examples": int(words.sum())} | {key: f"{found[key]:.2f} %" for key in ("accuracy", "recall")}
    return {"without _silence_": rows} if rows else {}


def write(results: dict, predictions: dict, splits, run) -> tuple:
    """Writes predictions and plots; returns files, error cards and their title."""
    drawn = []
    if results["history"]:
        path, series = run.output_dir / "plots/metrics", {words: f"eval_{name}" for name, words in CURVES.items()}
        drawn.append(plots.curves(results["history"], path, title="Validation", series=series, x="step"))
    return write_clips(results, predictions, splits, run.output_dir, drawn)


if __name__ == "__main__":
    sys.exit(exit_status(main, "run_keyword.py"))
