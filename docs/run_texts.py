"""Which class is a text of: its topic, its tone, its language? An eighth script, as an example: see NEW_TASK.md.

python -m docs.run_texts --demo     (or --dataset fancyzhx/ag_news, or --train_file train.csv --test_file test.csv)
python -m docs.run_texts --do_predict --model outputs/texts --test_file new.csv --output_dir outputs/said
"""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.legacy import results as facts
from common.legacy.arguments import ModelArguments, SourceArguments, flag, parse_arguments
from common.legacy.class_names import listed
from common.legacy.classification import Predictions, judge
from common.legacy.data import choose, fingerprint, overlap, read_rows, require_columns
from common.legacy.demo_nli import mnli_demo
from common.legacy.errors import UserError, exit_status
from common.legacy.hub import load_rows
from common.legacy.pair_task import use_demo
from common.legacy.run import (
    Clock,
    StopRequest,
    check_launch,
    decided_by_main_process,
    prepare_output_dir,
    start_training,
)
from common.legacy.task import PREFIX, classification_head, evaluated_sets, publish_predictions

RECIPE = {"model": "distilbert-base-uncased", "output_dir": "outputs/texts", "learning_rate": 2e-5, "logging_steps": 20}
RECIPE |= {"eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 2, "load_best_model_at_end": True}
RECIPE |= {"metric_for_best_model": "validation_accuracy", "train_sampling_strategy": "group_by_length"}
DEMO = {"output_dir": "outputs/demo/texts", "text_column": "hypothesis", "learning_rate": 1e-3, "num_train_epochs": 1.0}
USAGE = 'from transformers import pipeline\n\nprint(pipeline("text-classification", model="{}")({!r}, truncation=True))'


@dataclass
class TextArguments:
    """What only this task has."""

    _argument_group_name = "texts"
    text_column: str = flag("text", "column of the text")
    label_column: str = flag("label", "column of the class; a number is a name like any other")
    max_length: int = flag(256, "tokens of a text; a longer one is cut", "--max_seq_length")


def main(argv: list[str] | None = None) -> dict:
    """Runs the script with the arguments `argv` (default: the command line); returns what results.json holds."""
    # Arguments
    check_launch()
    groups, phases = (TextArguments, SourceArguments, ModelArguments), ("do_train", "do_eval", "do_predict")
    parsed = parse_arguments(groups, argv, recipe=RECIPE, demo=DEMO, phases=phases, description=__doc__)
    task, data, model_args, training = parsed.groups
    clock, output_dir = Clock(), Path(training.output_dir)
    checkpoint = decided_by_main_process(lambda: prepare_output_dir(training, overwrite=data.overwrite_output_dir))
    with StopRequest() as stop:
        # Data
        if data.demo:
            use_demo(data, model_args, mnli_demo, output_dir / "demo", RECIPE["model"])
        with clock.phase("data"), training.main_process_first(desc="data"):
            splits, described = load_splits(task, data, training, model_args, parsed.explicit)

        # Preprocessing
        from common.legacy.modeling import classes_of, load_model, load_tokenizer, model_commit

        with clock.phase("preprocessing"), training.main_process_first(desc="preprocessing"):
            known = {label for *_, label in splits.get("train", ())} or (classes_of(model_args) or {}).values()
            names = sorted(known) if training.do_train else [*known]
            tokenizer = load_tokenizer(model_args)
            longest = min(task.max_length, tokenizer.model_max_length)
            inputs = {name: TextInputs(splits[name], names, tokenizer, longest) for name in splits}

        # Model
        from transformers import AutoModelForSequenceClassification, set_seed

        with clock.phase("model"), training.main_process_first(desc="model"):
            set_seed(training.seed)
            settings = {"head": "classification", "training": training.do_train, "classes": names}
            model, warnings = load_model(AutoModelForSequenceClassification, model_args, **settings)

        # Training
        from common.legacy.trainer import FinetuneTrainer

        shared = {"head": classification_head(training.label_smoothing_factor), "stop": stop, "headline": "accuracy"}
        sets = {"train_dataset": inputs.get("train"), "eval_dataset": evaluated_sets(inputs, 1000, data.sample_seed)}
        trainer = FinetuneTrainer(model=model, args=training, processing_class=tokenizer, **shared, **sets)
        measured, predictions, targets = {}, {}, getattr(inputs.get("train"), "targets", None)
        if training.do_train:
            identity = {**vars(task), "model": model_args.model, "seed": training.seed}
            identity["training data"] = described["splits"]["train"]["fingerprint"]
            decided_by_main_process(lambda: start_training(output_dir, checkpoint, identity))
            with clock.phase("training"):
                trained = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            measured["train"] = trained.metrics | {"train_samples": len(splits["train"])}

        # Results
        with clock.phase("results"):
            for name in (n for n in ("validation", "test") if n in inputs):
                (logits,), measured[name] = trainer.assess(inputs[name], PREFIX[name], samples=len(splits[name]))
                ids, texts, _ = zip(*splits[name])
                predictions[name] = Predictions(names, logits, inputs[name].targets, ids, {"text": texts})
        shared = {"task": "text-topics", "warnings": warnings, "commit": model_commit(model_args)}
        results = facts.of_run(parsed, trainer, clock, **shared) | {"data": described, "published": []}
        results |= judge(predictions, measured, headline_metric="accuracy", train_targets=targets)
        if trainer.is_world_process_zero():
            trainer.save_run({PREFIX[name]: numbers for name, numbers in measured.items()})
            usage = USAGE.format(output_dir if training.do_train else model_args.model, "A text.")
            results = publish_predictions(results, predictions, output_dir, usage=usage)
    return results


def load_splits(task, data, training, model_args, explicit: set[str]) -> tuple[dict[str, list[tuple]], dict]:
    """(row, text, class or None) of each text by split, and results.json's `data`."""
    files, splits, described = {name: getattr(data, f"{name}_file") for name in PREFIX}, {}, {}
    training.do_predict &= bool(data.dataset or files["test"] or "do_predict" in explicit)
    for name in (name for name, prefix in PREFIX.items() if getattr(training, f"do_{prefix}")):
        origin = "train" if name == "validation" and not files[name] else name  # a tenth of it is held out
        rows, source = (read_rows(f), f) if (f := files[origin]) else load_rows(data, model_args, origin)
        columns = [task.text_column, *([task.label_column] if name != "test" or task.label_column in rows[0] else [])]
        require_columns(rows[0], columns, source)
        cells = [[row.get(column) for column in columns] for row in rows]
        bad = [number for number, row in enumerate(cells) if None in row or "" in row]
        good = np.delete(np.arange(len(rows)), bad)
        if bad and (data.on_bad_example == "stop" or not len(good)):
            raise UserError(f"{source}: row {bad[0] + 1}: a cell is empty; mend it or pass --on_bad_example skip")
        if origin == "train" and training.do_eval and not files["validation"]:
            order = np.random.default_rng(data.sample_seed).permutation(good)
            good, source = np.split(order, [-(-len(good) // 10)])[name == "train"], f"{source}, 1 : 9 at random"
        chosen, how = choose(len(good), getattr(data, f"max_{PREFIX[name]}_samples"), data.sample_seed)
        splits[name] = [(str(i + 1), *map(str, cells[i]), None)[:3] for i in good[chosen]]
        described[name] = {"source": source, "examples": len(chosen), "available": len(good), "selection": how}
        described[name] |= {"fingerprint": fingerprint(splits[name]), "skipped": Counter(["empty cell"] * len(bad))}
        described[name]["label_counts"] = Counter(label for _, _, label in splits[name] if label)
    texts = {name: [text for _, text, _ in rows] for name, rows in splits.items()}
    return splits, {"splits": described, "overlaps": overlap(texts, "text")}


class TextInputs(list):
    """A dictionary for each text, and what `FinetuneTrainer` looks at beside them: `lengths` and `targets`."""

    def __init__(self, texts: list[tuple], names: list[str], tokenizer, max_length: int):
        labels = [label for _, _, label in texts if label]
        if len(names) < 2 or {*labels} - {*names}:
            raise UserError(f"the data have {listed({*labels})}, the model {listed(names)}: two classes, and no others")
        encoded = tokenizer([row[1] for row in texts], truncation=True, max_length=max_length)
        self.lengths = np.array([len(ids) for ids in encoded["input_ids"]])
        self.targets = np.array([names.index(label) for label in labels]) if labels else None
        columns = {**encoded, "row": range(len(texts)), **({"targets": self.targets} if labels else {})}
        super().__init__(dict(zip(columns, values)) for values in zip(*columns.values()))


if __name__ == "__main__":
    sys.exit(exit_status(main, "run_texts.py"))
