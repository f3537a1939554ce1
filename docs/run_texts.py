"""Which class is a text of: its topic, its tone, its language? An eighth script, as an example: see NEW_TASK.md.

python -m docs.run_texts --demo     (or --dataset fancyzhx/ag_news, or --train_file train.csv --validation_file dev.csv)
python -m docs.run_texts --do_predict --model outputs/texts --test_file new.csv --output_dir outputs/predictions
"""

import sys
from dataclasses import dataclass
from functools import partial

from common.arguments import TaskArguments, flag, parse_arguments, show_help
from common.errors import exit_status

RECIPE = {"model": "distilbert-base-uncased", "output_dir": "outputs/texts", "learning_rate": 2e-5, "logging_steps": 20}
RECIPE |= {"eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 2, "load_best_model_at_end": True}
RECIPE |= {"metric_for_best_model": "accuracy", "train_sampling_strategy": "group_by_length"}
DEMO = {"output_dir": "outputs/demo/texts", "text_column": "hypothesis", "learning_rate": 1e-3, "num_train_epochs": 1.0}
USAGE = 'from transformers import pipeline\n\nprint(pipeline("text-classification", model="{}")("A text."))'


# 1. The task's flags
@dataclass
class TextArguments(TaskArguments):
    """What only this task has."""

    _argument_group_name = "texts"
    text_column: str = flag("text", "column of the text")
    label_column: str = flag("label", "column of the class")
    max_length: int = flag(256, "tokens of a text; a longer one is cut", "--max_seq_length")


show_help(TextArguments, recipe=RECIPE, demo=DEMO)  # --help ends here: what follows takes seconds to import

import numpy as np
from datasets import Dataset, Features, Value
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, set_seed

from common import metrics
from common.classification import Predictions, score_predictions, write_classes
from common.data import load_splits
from common.demo.nli import mnli_demo
from common.files import require_columns, without_bad
from common.labels import align_with_checkpoint, encode_labels
from common.models import classes_of, load_model, load_tokenizer
from common.run import start_run
from common.trainer import FinetuneTrainer


# 2. The loss of an example
class TextTrainer(FinetuneTrainer):
    metric_names = ("accuracy", "f1")

    def example_losses(self, outputs, batch):
        return cross_entropy(outputs["logits"].float(), batch["labels"], reduction="none")


def main(argv: list[str] | None = None) -> dict:
    """Runs the script with the arguments `argv` (default: the command line); returns what results.json holds."""
    args = parse_arguments(TextArguments, argv, recipe=RECIPE, demo=DEMO)
    with start_run(args, task="text-topics") as run:
        run.use_demo(lambda folder: mnli_demo(folder, RECIPE["model"]))
        with run.phase("data"):
            splits = load_texts(args)
            trained_for = {"known": {}, "training": args.training_args.do_train}
            splits = align_with_checkpoint(splits, classes_of(args), args.model, **trained_for)
            run.describe(splits)
        with run.phase("preprocessing"):  # 3. From examples to inputs
            tokenizer = load_tokenizer(args)

            def tokenize(batch: dict) -> dict:
                inputs = tokenizer(batch["text"], truncation=True, max_length=args.max_length)
                return {**inputs, "length": [len(ids) for ids in inputs["input_ids"]]}

            inputs = splits.map(tokenize, batched=True, remove_columns=["id", "text"])
        with run.phase("model"):
            set_seed(args.training_args.seed)
            classes = next(iter(splits.values())).features["labels"].names
            model = load_model(AutoModelForSequenceClassification, run, head="classification", classes=classes)

        metric = metrics.load("classification")  # 4. What is measured
        trainer = TextTrainer(
            run,
            model=model,
            train_dataset=inputs.get("train"),
            eval_dataset=inputs.get("validation"),
            data_collator=DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
            compute_metrics=lambda p: metric.compute(predictions=p.predictions.argmax(axis=1), references=p.label_ids),
        )
        if args.training_args.do_train:
            trainer.train()
        predictions = {}
        for name, output in trainer.predict_splits(inputs).items():
            ids, shown = splits[name]["id"][:], {"text": splits[name]["text"][:]}
            predictions[name] = Predictions(classes, output.predictions, output.label_ids, ids, shown)
        train_targets = np.array(splits["train"]["labels"][:]) if "train" in splits else None
        settings = {"headline_metric": "accuracy", "train_targets": train_targets}
        scores = score_predictions(predictions, trainer.losses, **settings)

        write = partial(write_classes, predictions=predictions, output_dir=run.output_dir)
        return run.finish(trainer, scores, write=write, usage=USAGE.format(run.output_dir))


def load_texts(args):
    """The splits with columns id, text, labels: a row with an empty cell stops the run, or is left out and counted."""
    names = None  # the classes of the training data; the other splits may have no others

    def to_dataset(frame, split: str):
        nonlocal names
        labelled = split != "test" or args.label_column in frame
        require_columns(frame, [args.text_column, *[args.label_column] * labelled], frame.attrs["source"])
        table, problems = frame[[args.text_column]].astype(str).set_axis(["text"], axis=1), {}
        table["id"] = [str(row) for _, row in frame.index]
        features = Features(dict.fromkeys(table, Value("string")))
        if labelled:
            table["labels"], features["labels"], problems = encode_labels(frame, args.label_column, names=names)
            names = features["labels"].names
        problems |= {i: ("empty text", "the text is empty") for i, text in enumerate(table["text"]) if not text.strip()}
        table, skipped = without_bad(table, problems, args.on_bad_example)
        return Dataset.from_pandas(table, features=features, preserve_index=False), skipped

    return load_splits(args, to_dataset, columns={"text": ["text"]})


if __name__ == "__main__":
    sys.exit(exit_status(main, "run_texts.py"))
