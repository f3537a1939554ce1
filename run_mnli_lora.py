# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "accelerate==1.15.0", "datasets==5.2.0", "evaluate==0.4.6", "filelock==4.3.1", "huggingface-hub==2.4.0",
#   "jinja2==3.1.6", "matplotlib==3.11.2", "numpy==2.4.6", "pandas==3.1.1", "peft==0.21.2", "pyyaml==6.0.4",
#   "scikit-learn==1.9.1", "sentencepiece==0.2.3", "torch==2.13.0", "transformers==5.23.0",
# ]
# ///
"""MultiNLI with RoBERTa in three ways, measured side by side: full fine-tuning, a frozen encoder, low-rank adapters.

The published experiment is the default (1,000 training pairs, LoRA of rank 32 on roberta-large); its other two rows,
and theirs with the same model:

    python run_mnli_lora.py
    python run_mnli_lora.py --method full --output_dir outputs/mnli-full
    python run_mnli_lora.py --method freeze --output_dir outputs/mnli-freeze
    python run_mnli_lora.py --method full --model roberta-large --output_dir outputs/mnli-full-large
    python run_mnli_lora.py --max_train_samples -1 --max_eval_samples -1 --bf16        (all of MultiNLI)

Another task of pairs from the hub, or your own data, in csv, tsv, json, jsonl or parquet; any model:

    python run_mnli_lora.py --dataset_config rte                   (or qnli, qqp, wnli, mrpc, of GLUE)
    python run_mnli_lora.py --dataset facebook/xnli --dataset_config de --model xlm-roberta-base
    python run_mnli_lora.py --model bert-base-uncased --train_file train.csv --validation_file dev.csv

Adapters: merge one (--merge), go on from it, add several up:

    python run_mnli_lora.py --adapter outputs/mnli --train_file b.csv --validation_file dev.csv --output_dir outputs/b
    python run_mnli_lora.py --do_eval --combine outputs/mnli:0.5 outputs/b:0.5 --output_dir outputs/both
    python run_mnli_lora.py --do_predict --adapter outputs/mnli --test_file pairs.csv --output_dir outputs/classes
    python run_mnli_lora.py --demo
"""

import sys
from dataclasses import dataclass, fields
from typing import Literal

from common.arguments import flag, parse_arguments, show_help
from common.errors import UserError, exit_status
from common.legacy_flags import TEXT_CLASSIFICATION, only
from common.text.arguments import LoraArguments, PairArguments
from common.training_flags import PHASES

# The published recipe (report 004, MultiNLI), in one place; the names are the flags.
RECIPE = {
    "dataset": "nyu-mll/glue",
    "dataset_config": "mnli",
    "output_dir": "outputs/mnli",
    "max_length": 128,
    "lower_case": True,
    "max_train_samples": 1000,
    "max_eval_samples": 1000,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "num_train_epochs": 5.0,
    "train_sampling_strategy": "group_by_length",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "accuracy",
    "logging_steps": 8,
}
# What the method decides where nobody else does. The learning rates are ours: the report does not give them.
METHODS = {
    "full": {"model": "roberta-base", "learning_rate": 2e-5},
    "freeze": {"model": "roberta-base", "learning_rate": 1e-3},
    "lora": {"model": "roberta-large", "learning_rate": 3e-4},
}
DEMO = {
    "output_dir": "outputs/demo/mnli",
    "method": "full",
    "model": "roberta-base",
    "learning_rate": 1e-3,
    "warmup_steps": 0.1,
    "max_train_samples": None,
    "eval_training_set": True,
    "logging_steps": 10,
}
MNLI = {"train": "train", "validation": "validation_matched", "test": "validation_mismatched"}
LEGACY = {
    **TEXT_CLASSIFICATION,
    "--task_name": "--dataset_config",
    "--language": lambda _, language: ["--dataset=facebook/xnli", f"--dataset_config={language}"],
    "--train_language": only("en", "training and evaluation are in one language: give --language"),
}
CLASSES = {"entailment": ("e",), "neutral": ("n",), "contradiction": ("c",)}
# method -> setting; accuracy, macro F1; precision / recall / F1 by class in the order of `CLASSES` / their macro / and
# weighted averages; in percent.
REPORT = "report 004, mismatched set"
PUBLISHED = {
    "full": ("roberta-base, full fine-tuning", 61, 60, "66 53 67 / 72 67 43 / 69 59 53 / 62 61 60 / 62 61 60"),
    "freeze": ("roberta-base, encoder frozen", 51, 45, "57 44 73 / 72 71 9 / 63 54 17 / 58 51 45 / 58 51 45"),
    "lora": ("roberta-large, LoRA of rank 32", 76.05, 76, "87 63 84 / 71 80 78 / 78 70 81 / 78 76 76 / 78 76 76"),
}
PUBLISHED_EPOCHS = {  # of the frozen encoder
    "accuracy": {1: 32.8, 2: 36.6, 3: 45.1, 4: 45.0, 5: 48.0},
    "loss": {1: 1.1057, 2: 1.0971, 3: 1.0631, 4: 1.0547, 5: 1.0117},
}
ADAPTER_USAGE = """\
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer

classes = {classes}
model = AutoPeftModelForSequenceClassification.from_pretrained("{model}", num_labels=len(classes))
tokenizer = AutoTokenizer.from_pretrained("{model}")
logits = model(**tokenizer({first!r}, {second!r}, return_tensors="pt")).logits
print(classes[logits.argmax().item()])
"""


@dataclass
class MultiNliArguments(LoraArguments, PairArguments):
    """What only this task has."""

    _argument_group_name = "MultiNLI"

    method: Literal["full", "freeze", "lora"] = flag("lora", "train everything, the classifier alone, or an adapter")
    eval_training_set: bool = flag(
        False, "after each epoch evaluate as many training pairs as validation has, too (report 004 leaves it off)"
    )


COMMAND_LINE = {"recipe": RECIPE, "demo": DEMO, "variants": {"method": METHODS}, "legacy": LEGACY, "phases": PHASES}
show_help(MultiNliArguments, **COMMAND_LINE)  # --help ends here: what follows takes seconds to import

from torch.nn.functional import cross_entropy
from torch.utils.data import Subset
from transformers import TrainerCallback, set_seed

from common import metrics
from common.classification import weights_by_class
from common.demo.nli import mnli_demo
from common.models import classes_of, load_config, load_tokenizer, structure_table
from common.run import start_run
from common.text import pairs
from common.text.frozen import frozen_states, skipped
from common.text.layers import Strategy, apply_strategy
from common.text.lora import SETTINGS, SavedAdapter, add_lora, combine, is_adapter, trained_and_stored, write_adapters
from common.text.pairs import METRICS, USAGE, preparation_of
from common.trainer import FinetuneTrainer


class PairTrainer(FinetuneTrainer):
    """Cross entropy, weighted by class with --class_weights."""

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


class TrainingSetCallback(TrainerCallback):
    """Evaluates training pairs, too, after each epoch, under the prefix `train`: report 004's CustomCallback."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_epoch_end(self, args, state, control, **kwargs):
        train, validation = self.trainer.train_dataset, self.trainer.eval_dataset
        loader = self.trainer.get_eval_dataloader(Subset(train, range(min(len(train), len(validation)))))
        self.trainer.log(self.trainer.evaluation_loop(loader, "Training set", metric_key_prefix="train").metrics)


def main(argv: list[str] | None = None) -> dict:
    """Runs the script with the arguments `argv` (default: the command line); returns what results.json holds."""
    args = parse_arguments(MultiNliArguments, argv, **COMMAND_LINE)
    adapters, training = read_and_check(args), args.training_args.do_train

    with start_run(args, task="multinli") as run:
        run.use_demo(lambda folder: mnli_demo(folder, args.model))
        saved = adapters[0].facts.get("preparation") if adapters else getattr(load_config(args), "preparation", None)
        preparation = preparation_of(args, ("max_length", "lower_case"), saved)
        with run.phase("data"):
            splits = pairs.load_pairs(args, CLASSES, MNLI if args.dataset_config == "mnli" else {})
            trained_for, name = (adapters[0].id2label, adapters[0].name) if adapters else (classes_of(args), args.model)
            splits, classes = pairs.with_classes_of(splits, trained_for, name, args, CLASSES, run)
            run.describe(splits)
        with run.phase("model"):
            set_seed(args.training_args.seed)
            tokenizer = load_tokenizer(args)
            model = pairs.load_classifier(run, classes, tokenizer, preparation, training or bool(adapters))
            structure, whole = structure_table(model), model.num_parameters()
            model, layers = adapt(model, args, adapters)
            if training:
                run.extra["method"] = trained_and_stored(whole, model)
        with run.phase("preprocessing", together=True):
            case = str.lower if args.lower_case else str

            def prepared(texts):  # what is done to texts before they are tokenised
                return [case(text) for text in texts]

            def encode(batch, **settings):  # what `map` does with a batch of pairs
                return tokenizer(prepared(batch["premise"]), prepared(batch["hypothesis"]), **settings)

            inputs, collator, whole_lengths = pairs.tokenize(splits, tokenizer, encode, preparation, args, run)
        with run.phase("frozen part", together=True):
            vectors = pairs.pooled_vectors("before", model, inputs, collator, run) if training else {}
            data, batches, prefix = frozen_states(model, layers, inputs, collator, args, run)

        weights = weights_by_class(run, splits.get("train"), classes)
        trainer = make_trainer(run, model, prefix, data, batches, tokenizer, weights)
        if training:
            trainer.train()
            vectors |= pairs.pooled_vectors("after", model, inputs, collator, run)
        outputs = trainer.predict_splits(data)
        saved = run.output_dir if training or args.combine else args.adapter or args.model
        return pairs.finish(
            run,
            trainer,
            splits,
            classes,
            whole_lengths,
            outputs,
            prepare=prepared,
            known=tuple(CLASSES),
            vectors=vectors,
            published=(REPORT, *PUBLISHED[args.method]),
            epochs=PUBLISHED_EPOCHS if args.method == "freeze" else {},
            usage=ADAPTER_USAGE if args.method == "lora" else USAGE,
            model=saved,
            tables=[structure],
            write_more=lambda: write_adapters(model, tokenizer, inputs, collator, run),
        )


def read_and_check(args: MultiNliArguments) -> list[SavedAdapter]:
    """The adapters to start from, each with its base, rank, modules and scaling; refuses what does not go together."""
    training = args.training_args.do_train
    if args.training_args.do_eval and args.dataset_config == "mnli":
        args.set("with --do_eval, matched and mismatched", do_predict=True)
    if is_adapter(args.model):
        if args.weighted_adapters():
            raise UserError(f"--model {args.model}: is an adapter itself; give its base, or leave out the other ones")
        args.adapter = args.model
        args.explicit.discard("model")
    adapters = [SavedAdapter.read(name, args) for name, _ in args.weighted_adapters()]
    if not training and not adapters:
        args.set("nothing is trained, and no adapter is given", method="full")
    given = [field.name for field in fields(LoraArguments) if field.name in args.explicit]
    if args.method != "lora" and (given or adapters):
        raise UserError(
            f"--{(given or ['adapter'])[0]} belongs to --method lora, and to an adapter where nothing is trained"
        )
    if args.method == "lora" and not training and not adapters:
        raise UserError("--method lora needs an adapter where nothing is trained: give --adapter or --combine")
    if adapters and (odd := [name for name in (*SETTINGS, "init_lora_weights") if name in args.explicit]):
        raise UserError(f"an adapter brings its own rank, modules and scaling; leave out --{odd[0]}")
    if adapters:
        args.set(f"of {adapters[0].name}", **adapters[0].settings)
    return adapters


def adapt(model, args: MultiNliArguments, adapters: list[SavedAdapter]) -> tuple:
    """The model as the method wants it, on its device; and how many layers are frozen so that a cache is of use."""
    training, layers = args.training_args.do_train, None
    if args.combine:
        model = combine(model, adapters, [weight for _, weight in args.weighted_adapters()], trainable=training)
    elif adapters:
        model = adapters[0].apply(model, trainable=training)
    elif args.method == "lora":
        model = add_lora(model, args)
    elif args.method == "freeze" and training:
        layers = apply_strategy(model, Strategy("head_only"), new_pooler=any("pooler" in n for n in model.new_weights))
    return model.to(args.training_args.device), layers


def make_trainer(run, model, prefix, data, collator, tokenizer, class_weights) -> PairTrainer:
    """The task's Trainer with its data, its metrics and its callback."""
    metric = metrics.load("classification")

    def compute_metrics(evaluated):
        found = metric.compute(predictions=evaluated.predictions.argmax(axis=1), references=evaluated.label_ids)
        return {name: found[name] for name in METRICS}

    trainer = PairTrainer(
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
    if run.args.eval_training_set and {"train", "validation"} <= data.keys():
        trainer.add_callback(TrainingSetCallback(trainer))
    return trainer


if __name__ == "__main__":
    sys.exit(exit_status(main, "run_mnli_lora.py"))
