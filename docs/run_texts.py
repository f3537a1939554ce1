"""Which class is a text of: its topic, its tone, its language? An eighth script, as an example: see NEW_TASK.md.

    python -m docs.run_texts                                    (AG News; or --dataset stanfordnlp/imdb)
    python -m docs.run_texts --train_file train.csv --test_file test.csv
    python -m docs.run_texts --do_predict --model outputs/texts --test_file new.csv --output_dir outputs/said
    python -m docs.run_texts --demo                             (what a hypothesis alone says of its label)
"""

import random
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import results as facts
from common.arguments import ModelArguments, SourceArguments, flag, parse_arguments
from common.classification import Predictions, judge
from common.data import choose, fingerprint, overlap, read_rows, require_columns
from common.demo_nli import mnli_demo
from common.errors import UserError, exit_status
from common.hub import load_rows
from common.pair_task import use_demo
from common.run import Clock, StopRequest, check_launch, decided_by_main_process, prepare_output_dir, start_training
from common.task import PREFIX, classification_head, evaluated_sets, publish_predictions

RECIPE = {"model": "distilbert-base-uncased", "dataset": "fancyzhx/ag_news", "output_dir": "outputs/texts"}
RECIPE |= {"learning_rate": 2e-5, "num_train_epochs": 2.0, "per_device_train_batch_size": 32, "logging_steps": 20}
RECIPE |= {"eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 2, "load_best_model_at_end": True}
RECIPE |= {"metric_for_best_model": "validation_accuracy", "train_sampling_strategy": "group_by_length"}
DEMO = {"output_dir": "outputs/demo/texts", "text_column": "hypothesis", "learning_rate": 1e-3}
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
        with clock.phase("data"):
            if data.demo:
                use_demo(data, model_args, mnli_demo, output_dir / "demo", RECIPE["model"])
            with training.main_process_first(desc="data"):
                splits, described = load_splits(task, data, training, model_args, parsed.explicit)

        # Preprocessing
        from common.modeling import classes_of, load_model, load_tokenizer, model_commit

        with clock.phase("preprocessing"), training.main_process_first(desc="preprocessing"):
            trained_for = tuple((classes_of(model_args) or {}).values())
            found = {label for _, _, label in splits.get("train", ())}
            names = trained_for if found <= {*trained_for} else tuple(sorted(found))
            tokenizer = load_tokenizer(model_args)
            inputs = {name: TextInputs(splits[name], names, tokenizer, task.max_length) for name in splits}

        # Model
        from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, set_seed

        with clock.phase("model"), training.main_process_first(desc="model"):
            set_seed(training.seed)
            settings = {"head": "classification", "training": training.do_train, "classes": names}
            model, warnings = load_model(AutoModelForSequenceClassification, model_args, **settings)

        # Training
        from common.trainer import FinetuneTrainer

        head, collate = classification_head(training.label_smoothing_factor), DataCollatorWithPadding(tokenizer)
        sets = {"train_dataset": inputs.get("train"), "data_collator": collate, "processing_class": tokenizer}
        sets["eval_dataset"] = evaluated_sets(inputs, 1000, data.sample_seed) or None
        trainer = FinetuneTrainer(head=head, stop=stop, headline="accuracy", model=model, args=training, **sets)
        if training.do_train:
            identity = {"model": model_args.model, "seed": training.seed, "max_length": task.max_length}
            identity["training data"] = described["splits"]["train"]["fingerprint"]
            decided_by_main_process(lambda: start_training(output_dir, checkpoint, identity))
            with clock.phase("training"):
                trained = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

        # Results
        with clock.phase("results"):
            measured, predictions = {}, {}
            for name in (n for n in ("validation", "test") if n in inputs):
                (logits,), measured[name] = trainer.assess(inputs[name], PREFIX[name], samples=len(splits[name]))
                ids, texts, _ = zip(*splits[name])
                predictions[name] = Predictions([*names], logits, inputs[name].targets, ids, {"text": texts})
            if training.do_train:
                measured["train"] = trained.metrics | {"train_samples": len(splits["train"])}
        shared = {"task": "text-classification", "warnings": warnings, "commit": model_commit(model_args)}
        results = facts.of_run(parsed, trainer, clock, **shared) | {"data": described, "published": []}
        targets = inputs["train"].targets if training.do_train else None
        results |= judge(predictions, measured, headline_metric="accuracy", train_targets=targets)
        if trainer.is_world_process_zero():
            trainer.save_run({PREFIX[name]: numbers for name, numbers in measured.items()})
            saved, (_, text, _) = output_dir if training.do_train else model_args.model, next(iter(splits.values()))[0]
            results = publish_predictions(results, predictions, output_dir, usage=USAGE.format(saved, text))
    return results


def load_splits(task, data, training, model_args, explicit: set[str]) -> tuple[dict[str, list[tuple]], dict]:
    """By split, (row, text, class or None) of each text, and what results.json says of them. Where there is no file
    for validation, a tenth of the training texts is held out."""
    files, splits, described = {name: getattr(data, f"{name}_file") for name in PREFIX}, {}, {}
    data.dataset = None if any(files.values()) else data.dataset  # the hub's data are not mixed with one's own
    for name, prefix in PREFIX.items():
        optional = name == "test" and not data.dataset and "do_predict" not in explicit
        if not getattr(training, f"do_{prefix}") or (optional and not files[name]):
            continue
        if name == "validation" and not files[name] and "train" in splits:
            texts, source, skipped = held_out, f"{source}, a tenth at random", {}
        else:
            rows, source = (read_rows(files[name]), files[name]) if files[name] else load_rows(data, model_args, name)
            labelled = name != "test" or any(row.get(task.label_column) not in (None, "") for row in rows)
            columns = [task.text_column, task.label_column][: 1 + labelled]
            require_columns(rows[0], columns, source)
            cells = [["" if row.get(column) is None else str(row[column]).strip() for column in columns] for row in rows]
            bad = [number for number, row in enumerate(cells, start=1) if not all(row)]
            if bad and data.on_bad_example == "stop":
                raise UserError(f"{source}: row {bad[0]}: an empty cell; mend it or pass --on_bad_example skip")
            skipped = {"empty text or label": len(bad)} if bad else {}
            texts = [(str(n), *row, None)[:3] for n, row in enumerate(cells, start=1) if all(row)]
        if name == "train" and training.do_eval and not files["validation"]:
            texts = random.Random(data.sample_seed).sample(texts, len(texts))
            held_out, texts = texts[: len(texts) // 10], texts[len(texts) // 10 :]
        chosen, words = choose(len(texts), getattr(data, f"max_{prefix}_samples"), data.sample_seed)
        splits[name] = [texts[i] for i in chosen]
        counts = dict(sorted(Counter(label for _, _, label in splits[name] if label).items()))
        described[name] = {"source": source, "examples": len(chosen), "available": len(texts), "selection": words}
        described[name] |= {"fingerprint": fingerprint(splits[name]), "skipped": skipped, "label_counts": counts}
    texts = {name: [text for _, text, _ in rows] for name, rows in splits.items()}
    return splits, {"splits": described, "overlaps": overlap(texts, "text")}


class TextInputs(list):
    """A dictionary for each text, and what `FinetuneTrainer` looks at beside them: `lengths` and `targets`."""

    def __init__(self, texts: list[tuple], names: tuple[str, ...], tokenizer, max_length: int):
        labels = [label for _, _, label in texts if label]
        if foreign := ", ".join(sorted({*labels} - {*names})):
            raise UserError(f"the data have classes that the model or its training data do not have: {foreign}")
        encoded = tokenizer([text for _, text, _ in texts], truncation=True, max_length=max_length)
        self.lengths = np.array([len(ids) for ids in encoded["input_ids"]])
        self.targets = np.array([names.index(label) for label in labels]) if labels else None
        columns = {**encoded, "row": range(len(texts)), **({"targets": self.targets} if labels else {})}
        super().__init__(dict(zip(columns, values)) for values in zip(*columns.values()))


if __name__ == "__main__":
    sys.exit(exit_status(main, "run_texts.py"))
