# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "accelerate==1.15.0", "datasets==5.2.0", "evaluate==0.4.6", "filelock==4.3.1", "huggingface-hub==2.4.0",
#   "jinja2==3.1.6", "matplotlib==3.11.2", "numpy==2.4.6", "pandas==3.1.1", "pyyaml==6.0.4", "scikit-learn==1.9.1",
#   "sentencepiece==0.2.3", "shekar==1.7.0", "torch==2.13.0", "transformers==5.23.0",
# ]
# ///
"""Persian natural language inference: does a sentence follow from another, contradict it, or neither? Six ways to adapt
an encoder, from training all of it to training the classifier alone.

The published experiment is the default (FarsTail, ParsBERT, full fine-tuning); the report's other rows are strategies:

    python run_nli_parsbert.py
    python run_nli_parsbert.py --strategy freeze_9 --head_learning_rate 1e-4 --output_dir outputs/nli-freeze-9
    python run_nli_parsbert.py --strategy last_layer        (or head_only, first_9, prune_heads)
    torchrun --nproc_per_node 8 run_nli_parsbert.py --bf16

Your own data, in csv, tsv, json, jsonl or parquet with premise, hypothesis and label:

    python run_nli_parsbert.py --train_file train.csv --validation_file dev.csv --test_file test.csv

Classify pairs, evaluate a trained model, or try everything without data or network:

    python run_nli_parsbert.py --do_predict --model outputs/nli --test_file pairs.csv --output_dir outputs/classes
    python run_nli_parsbert.py --do_eval --model outputs/nli --validation_file dev.csv --output_dir outputs/scores
    python run_nli_parsbert.py --demo
"""

import sys
from dataclasses import dataclass

from common.arguments import flag, parse_arguments, show_help
from common.errors import UserError, exit_status
from common.legacy_flags import TEXT_CLASSIFICATION, only
from common.text import persian
from common.text.arguments import PairArguments
from common.text.layers import STRATEGIES, Strategy, apply_strategy, parameter_groups
from common.training_flags import PHASES

# The published recipe (report 000, Persian NLI), in one place; the names are the flags. Batch and length are ours: the
# report does not give them.
RECIPE = {
    "model": "HooshvareLab/bert-base-parsbert-uncased",
    "dataset": "azarijafari/FarsTail",
    "output_dir": "outputs/nli",
    "max_length": 256,
    "learning_rate": 2e-5,
    "weight_decay": 0.01,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "num_train_epochs": 5.0,
    "train_sampling_strategy": "group_by_length",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "accuracy",
    "logging_steps": 50,
}
DEMO = {
    "output_dir": "outputs/demo/nli",
    "max_length": 64,
    "learning_rate": 1e-3,
    "num_train_epochs": 4.0,
    "warmup_steps": 0.1,
    "per_device_train_batch_size": 32,
    "logging_steps": 10,
}
HUB = {"train": "data/Train-word.csv", "validation": "data/Val-word.csv", "test": "data/Test-word.csv"}
LEGACY = {
    **TEXT_CLASSIFICATION,
    "--task_name": only("farstail", "this script knows FarsTail; run_mnli_lora.py is for GLUE's tasks"),
    **dict.fromkeys(("--language", "--train_language"), only("fa", "this script is for Persian")),
}
# The classes in the report's order, and how FarsTail calls them.
CLASSES = {"neutral": ("n",), "entailment": ("e",), "contradiction": ("c",)}
# strategy -> setting; accuracy, macro F1; precision / recall / F1 of the `CLASSES` / macro / weighted averages.
REPORT = "report 000, test set"
PUBLISHED = {
    "full": ("full fine-tuning", 79, 78.75, "81 79 76 / 90 82 65 / 86 80 70 / 79 79 79 / 79 79 79"),
    "freeze_9": ("9 layers frozen; implausible", 50, 49.4, "54 52 42 / 65 55 30 / 59 54 35 / 49 50 49 / 49 50 49"),
    "last_layer": ("last layer, pooler, head", 65, 63.8, "75 64 51 / 82 70 41 / 78 67 45 / 63 64 64 / 63 65 64"),
    "head_only": ("the classifier alone", 64, 61.1, "71 62 51 / 84 77 29 / 77 68 37 / 61 63 61 / 62 64 61"),
    "first_9": ("the first 9 layers kept", 76, 76, "83 86 64 / 87 66 75 / 85 75 69 / 77 76 76 / 78 76 76"),
    "prune_heads": ("half of all heads, at random", 77, 77, "90 83 62 / 76 75 79 / 83 79 70 / 78 77 77 / 79 77 77"),
}
# Of the full fine-tuning, by epoch. The report's losses (.02006, ...) are sums over batches by the number of examples.
PUBLISHED_EPOCHS = {"accuracy": {1: 73.39, 2: 74.17, 3: 76.38, 4: 76.71, 5: 76.90}}
PUBLISHED_EPOCHS["loss"] = {1: 0.642, 2: 0.637, 3: 0.625, 4: 0.660, 5: 0.736}  # with batches of 32
PRUNED_USAGE = """\
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from common.text.pruning import load_pruned  # of the repository that trained it: transformers cannot load pruned heads

model = load_pruned(AutoModelForSequenceClassification, "{model}")
tokenizer = AutoTokenizer.from_pretrained("{model}")
logits = model(**tokenizer({first!r}, {second!r}, return_tensors="pt")).logits
print(model.config.id2label[logits.argmax().item()])
"""


@dataclass
class PersianNliArguments(PairArguments):
    """What only this task has."""

    _argument_group_name = "Persian NLI"

    strategy: str = flag("full", "; ".join(f"{name}: {words}" for name, words in STRATEGIES.items()))
    train_embeddings: bool = flag(False, "train the embeddings, too, with --strategy last_layer")
    head_learning_rate: float | None = flag(None, "learning rate of the classifier; unset: --learning_rate")
    pruned_share: float = flag(0.5, "share of each layer's attention heads that --strategy prune_heads removes")
    pruned_layers: list[int] = flag([], "layers, from 0, that lose heads (the report's text: 0 alone); unset: all")
    pruning_seed: int = flag(0, "seed by which --strategy prune_heads draws the heads")
    preprocessing: list[str] = flag(
        [], f"what is done to texts: {' '.join(persian.STEPS)} (shekar); published: the report's three; raw: nothing"
    )

    def __post_init__(self):
        super().__post_init__()
        Strategy.parse(self.strategy)
        if self.train_embeddings and self.strategy != "last_layer":
            raise UserError(f"--train_embeddings belongs to --strategy last_layer, not to {self.strategy}")
        named = {"raw": (), "published": persian.PUBLISHED, **{step: (step,) for step in persian.STEPS}}
        if odd := next((name for name in self.preprocessing if name not in named), None):
            raise UserError(f"--preprocessing {odd}: choose raw, published, or some of {', '.join(persian.STEPS)}")
        self.preprocessing = [step for step in persian.STEPS if any(step in named[name] for name in self.preprocessing)]


COMMAND_LINE = {"recipe": RECIPE, "demo": DEMO, "legacy": LEGACY, "phases": PHASES}
show_help(PersianNliArguments, **COMMAND_LINE)  # --help ends here: what follows takes seconds to import

from torch.nn.functional import cross_entropy
from transformers import set_seed

from common import metrics
from common.classification import weights_by_class
from common.demo.nli import farstail_demo
from common.models import classes_of, count_parameters, load_config, load_tokenizer, structure_table
from common.run import start_run
from common.text import pairs
from common.text.frozen import frozen_states, skipped
from common.text.pairs import METRICS, USAGE, preparation_of
from common.text.pruning import measure, prune, pruned_heads, random_heads
from common.trainer import FinetuneTrainer


class PairTrainer(FinetuneTrainer):
    """Cross entropy, weighted by class with --class_weights; the classifier may have its own learning rate."""

    metric_names, extra_names = METRICS, ("length",)

    def __init__(self, run, class_weights, prefix=None, **kwargs):
        super().__init__(run, **kwargs)
        self.class_weights = class_weights  # float [classes]
        self.prefix = prefix  # the frozen layers, if the data sets hold what they compute

    def model_outputs(self, model, batch):
        with skipped(self.prefix, batch):  # frozen layers, where the batch holds what they compute
            return super().model_outputs(model, batch)

    def example_losses(self, outputs, batch):  # [B]; the base takes the exact mean over the whole step
        logits, smoothing = outputs["logits"].float(), self.args.label_smoothing_factor
        return cross_entropy(logits, batch["labels"], reduction="none", label_smoothing=smoothing)

    def example_weights(self, batch):  # [B]
        return self.class_weights.to(batch["labels"].device)[batch["labels"]]

    def parameter_groups(self):
        if self.run.args.head_learning_rate is None:
            return None
        rates = self.args.learning_rate, self.run.args.head_learning_rate
        decaying = self.get_decay_parameter_names(self.model)
        return parameter_groups(self.model, *rates, self.args.weight_decay, decaying)


def main(argv: list[str] | None = None) -> dict:
    """Runs the script with the arguments `argv` (default: the command line); returns what results.json holds."""
    args = parse_arguments(PersianNliArguments, argv, **COMMAND_LINE)
    training = args.training_args.do_train
    if not training and (odd := args.explicit & {"strategy", "head_learning_rate"}):
        raise UserError(f"--{min(odd)} is for training; a trained model is used as it is: leave it out")
    if args.strategy != "prune_heads" and (odd := args.explicit & {"pruned_share", "pruned_layers", "pruning_seed"}):
        raise UserError(f"--{min(odd)} belongs to --strategy prune_heads, not to {args.strategy}")
    with start_run(args, task="persian-nli") as run:
        run.use_demo(lambda folder: farstail_demo(folder, args.model))
        saved = getattr(load_config(args), "preparation", None)
        preparation = preparation_of(args, ("max_length", "lower_case", "preprocessing"), saved)
        with run.phase("data"):
            splits = pairs.load_pairs(args, CLASSES, HUB)
            splits, classes = pairs.with_classes_of(splits, classes_of(args), args.model, args, CLASSES, run)
            run.describe(splits)
        with run.phase("model"):
            set_seed(args.training_args.seed)
            tokenizer = load_tokenizer(args)
            model = pairs.load_classifier(run, classes, tokenizer, preparation, training)
            model.to(args.training_args.device)
        with run.phase("preprocessing", together=True):
            prepared = preprocess(args)

            def encode(batch, **settings):  # what `map` does with a batch of pairs
                return tokenizer(prepared(batch["premise"]), prepared(batch["hypothesis"]), **settings)

            inputs, collator, whole_lengths = pairs.tokenize(splits, tokenizer, encode, preparation, args, run)
        with run.phase("strategy"):
            layers = adapt(model, args, inputs["train"], collator, run) if training else None
        with run.phase("frozen part", together=True):
            vectors = pairs.pooled_vectors("before", model, inputs, collator, run) if training else {}
            data, batches, prefix = frozen_states(model, layers, inputs, collator, args, run)

        weights = weights_by_class(run, splits.get("train"), classes)
        trainer = make_trainer(run, model, prefix, data, batches, tokenizer, weights)
        if training:
            trainer.train()
            vectors |= pairs.pooled_vectors("after", model, inputs, collator, run)
        outputs = trainer.predict_splits(data)
        return pairs.finish(
            run,
            trainer,
            splits,
            classes,
            whole_lengths,
            outputs,
            prepare=prepared,
            known=[*CLASSES],
            vectors=vectors,
            published=(REPORT, *PUBLISHED.get(args.strategy, ())),
            epochs=PUBLISHED_EPOCHS if args.strategy == "full" else {},
            usage=PRUNED_USAGE if pruned_heads(model.config) else USAGE,
            model=run.output_dir if training else args.model,
            tables=[structure_table(model)],
        )


def preprocess(args: PersianNliArguments):
    """What is done to a list of texts before they are tokenised."""
    lower = str.lower if args.lower_case else str
    return lambda texts: persian.prepare([lower(text) for text in texts], args.preprocessing)


def adapt(model, args: PersianNliArguments, train, collator, run) -> int | None:
    """Freezes, truncates or prunes as the strategy says, and notes it in the results; how many layers are frozen."""
    strategy, whole = Strategy.parse(args.strategy), count_parameters(model)["total"]
    if strategy.kind == "prune_heads":
        run.extra["pruning"] = cut_heads(model, args, train, collator)
    new_pooler = any("pooler" in name for name in model.new_weights)
    layers = apply_strategy(model, strategy, train_embeddings=args.train_embeddings, new_pooler=new_pooler)
    words = STRATEGIES[strategy.kind].replace("N layers", f"{strategy.count} layers")
    words += "; and the embeddings" * args.train_embeddings + "; and the pooler, which is new" * new_pooler
    facts = {"strategy": args.strategy, "what": words, "parameters of the whole model": whole}
    facts |= {f"{name} parameters": count for name, count in count_parameters(model).items()}
    run.extra["strategy"] = facts
    return layers


def cut_heads(model, args: PersianNliArguments, train, collator) -> dict:
    """Removes heads from the model; parameters, bytes and latency of a batch before and after."""
    batch = collator([train[i] for i in range(len(train))[:8]])
    before = measure(model, batch)
    prune(model, random_heads(model.config, args.pruned_share, args.pruning_seed, args.pruned_layers))
    return {"layers": args.pruned_layers or "all", "before": before, "after": measure(model, batch)}


def make_trainer(run, model, prefix, data, collator, tokenizer, class_weights) -> PairTrainer:
    """The task's Trainer with its data and its metrics."""
    metric = metrics.load("classification")

    def compute_metrics(evaluated):
        found = metric.compute(predictions=evaluated.predictions.argmax(axis=1), references=evaluated.label_ids)
        return {name: found[name] for name in METRICS}

    return PairTrainer(
        run,
        class_weights,
        prefix,
        model=model,
        train_dataset=data.get("train"),
        eval_dataset=data.get("validation"),
        data_collator=collator,
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
    )


if __name__ == "__main__":
    sys.exit(exit_status(main, "run_nli_parsbert.py"))
