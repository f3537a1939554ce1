"""Persian natural language inference: does a sentence follow from another, contradict it, or neither? Six ways to adapt
an encoder, from training all of it to training the classifier alone.

The published experiment is the default (FarsTail, ParsBERT, full fine-tuning); the report's other rows are strategies:

    python run_nli_parsbert.py
    python run_nli_parsbert.py --strategy freeze_9 --head_learning_rate 1e-4 --output_dir outputs/nli-freeze-9
    python run_nli_parsbert.py --strategy last_layer        (or head_only, first_9, prune_heads)
    torchrun --nproc_per_node 8 run_nli_parsbert.py --bf16

Your own data, in csv, tsv, json, jsonl or parquet with premise, hypothesis and label:

    python run_nli_parsbert.py --train_file train.csv --validation_file dev.csv --test_file test.csv

Classify pairs with a trained model, evaluate it, or try everything without data or network:

    python run_nli_parsbert.py --do_predict --model outputs/nli --test_file pairs.csv --output_dir outputs/classes
    python run_nli_parsbert.py --do_eval --model outputs/nli --validation_file dev.csv --output_dir outputs/scores
    python run_nli_parsbert.py --demo

A pruned model is loaded by `common.legacy.pruning.load_pruned(AutoModelForSequenceClassification, "outputs/nli")`.
"""

import dataclasses
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from common.legacy import results as facts
from common.legacy.adapting import STRATEGIES, Strategy, apply, learning_rates, parameter_groups, trainable_formula
from common.legacy.arguments import DataArguments, ModelArguments, flag, parse_arguments
from common.legacy.class_names import in_order_of
from common.legacy.classification import PAIR_USAGE
from common.legacy.data import fingerprint
from common.legacy.errors import UserError, exit_status
from common.legacy.pair_inputs import collate_pairs
from common.legacy.pair_task import (
    PairArguments,
    encode,
    judged,
    load_splits,
    publish,
    states_or_inputs,
    use_demo,
)
from common.legacy.pairs import Pairs, describe_splits
from common.legacy.persian import PUBLISHED as PUBLISHED_STEPS
from common.legacy.persian import Steps, keep_steps, prepare
from common.legacy.pruning import choose_heads, importance, measure, prune, pruned_heads, random_scores
from common.legacy.run import (
    Clock,
    StopRequest,
    check_launch,
    decided_by_main_process,
    prepare_output_dir,
    start_training,
)
from common.legacy.spellings import TEXT_CLASSIFICATION, Spelling, only
from common.legacy.task import PREFIX, classification_head, evaluated_sets

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
    "metric_for_best_model": "validation_accuracy",
    "logging_steps": 50,
}
DEMO = {
    "output_dir": "outputs/demo/nli",
    "max_length": 64,
    "eval_train_samples": 200,
    "learning_rate": 1e-3,
    "num_train_epochs": 4.0,
    "warmup_steps": 0.1,
    "per_device_train_batch_size": 32,
    "logging_steps": 10,
}
FILES = {"train": "Train", "validation": "Val", "test": "Test"}
HUB = {name: {"split": name, "file": f"data/{file}-word.csv"} for name, file in FILES.items()}
SPELLINGS = {
    **TEXT_CLASSIFICATION,
    "--task_name": only("--task_name", "farstail", "this script knows FarsTail; run_mnli_lora.py is for GLUE's mnli"),
    "--language": only("--language", "fa", "this script is for Persian; other pairs are given as files"),
    "--train_language": only("--train_language", "fa", "this script is for Persian; other pairs are given as files"),
    "--do_lower_case": Spelling(switch=True, why="has no effect: Persian has one case"),
}
# The classes in the report's order, and how FarsTail calls them.
CLASSES = {"neutral": ("n",), "entailment": ("e",), "contradiction": ("c",)}
REPORT = "report 000, test set"
PUBLISHED = {
    "full": ("full fine-tuning", {"accuracy": 79.0, "f1": 78.75}),
    "freeze_9": ("first 9 layers frozen; not a plausible figure, see README", {"accuracy": 50.0, "f1": 49.4}),
    "last_layer": ("all frozen but the last layer, pooler and classifier", {"accuracy": 65.0, "f1": 63.8}),
    "head_only": ("all frozen but the classifier", {"accuracy": 64.0, "f1": 61.1}),
    "first_9": ("only the first 9 layers kept", {"accuracy": 76.0, "f1": 76.0}),
    "prune_heads": ("half of the heads removed at random", {"accuracy": 77.0, "f1": 77.0}),
}

PRUNED_USAGE = """\
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from common.legacy.pruning import load_pruned  # of the repository that trained it: transformers 5 cannot load pruned heads

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
    head_learning_rate: float | None = flag(None, "learning rate of the classifier; unset = --learning_rate")
    layer_decay: float = flag(1.0, "each layer's learning rate is this times that of the layer above it")
    pruned_share: float = flag(0.5, "share of the attention heads that --strategy prune_heads removes")
    pruning: Literal["random", "importance"] = flag(
        "random", "which heads: at random (published), or those that the loss of 1,024 training pairs needs least"
    )
    pruning_scope: Literal["layer", "global"] = flag("layer", "the same share in every layer, or of all heads together")
    pruning_seed: int = flag(0, "seed of --pruning random")
    preprocessing: Literal["raw", "published"] = flag(
        "raw", "published: normalise, remove stop words and joiners; the four flags below change single steps"
    )
    normalize: bool | None = flag(None, "write letters, digits and spaces one way (shekar)")
    remove_stop_words: bool | None = flag(None, "leave out the most common words (shekar)")
    stem: bool | None = flag(
        None, "cut the endings off words (shekar); the report's stemmer was for English: no effect"
    )
    remove_zwnj: bool | None = flag(None, "remove the zero-width non-joiner U+200C")

    def __post_init__(self):
        super().__post_init__()
        self.adaptation = Strategy.parse(self.strategy, train_embeddings=self.train_embeddings)
        if not 0 < self.pruned_share < 1:
            raise UserError("--pruned_share must be above 0 and below 1")
        if self.head_learning_rate is not None and self.head_learning_rate < 0:
            raise UserError("--head_learning_rate must be 0 or more")
        if not 0 < self.layer_decay <= 1:
            raise UserError("--layer_decay must be above 0, and 1 or less")

    @property
    def steps(self) -> Steps:
        """The preprocessing: the combination, with the single steps that were given."""
        given = {step.name: getattr(self, step.name) for step in dataclasses.fields(Steps)}
        chosen = PUBLISHED_STEPS if self.preprocessing == "published" else Steps()
        return dataclasses.replace(chosen, **{name: value for name, value in given.items() if value is not None})


def main(argv: list[str] | None = None) -> dict:
    """Runs the script with the arguments `argv` (default: the command line); returns what results.json holds."""
    # Arguments
    check_launch()
    groups = (PersianNliArguments, DataArguments, ModelArguments)
    phases = ("do_train", "do_eval", "do_predict")
    texts = {"description": __doc__, "spellings": SPELLINGS}
    parsed = parse_arguments(groups, argv, recipe=RECIPE, demo=DEMO, phases=phases, **texts)
    task, data, model_args, training = parsed.groups
    if "strategy" in parsed.explicit and not training.do_train:
        raise UserError(f"--strategy {task.strategy} is for training; a trained model is used as it is: leave it out")
    clock, output_dir, warnings = Clock(), Path(training.output_dir), []
    checkpoint = decided_by_main_process(lambda: prepare_output_dir(training, overwrite=data.overwrite_output_dir))
    with StopRequest() as stop:
        # Data
        with clock.phase("data"):
            if data.demo:
                from common.legacy.demo_nli import farstail_demo

                use_demo(data, model_args, farstail_demo, output_dir / "demo", RECIPE["model"])
            with training.main_process_first(desc="data"):
                splits, selection = load_splits(
                    task, data, training, model_args, classes=CLASSES, hub=HUB, explicit=parsed.explicit
                )

        # Preprocessing
        from common.legacy.modeling import classes_of, load_model, load_tokenizer, model_commit

        with clock.phase("preprocessing"), training.main_process_first(desc="preprocessing"):
            order = {"classes": CLASSES, "label_order": task.order, "training": training.do_train}
            splits = in_order_of(classes_of(model_args), splits, model_args.model, **order)
            tokenizer = load_tokenizer(model_args)
            prepared = {name: preprocess(pairs, task.steps) for name, pairs in splits.items()}
            inputs = {name: encode(prepared[name], tokenizer, task, data, model_args, training) for name in splits}

        # Model
        from transformers import AutoModelForSequenceClassification, set_seed

        with clock.phase("model"), training.main_process_first(desc="model"):
            set_seed(training.seed)
            model, notes = load_model(
                AutoModelForSequenceClassification,
                model_args,
                head="classification",
                training=training.do_train,
                classes=next(iter(splits.values())).names,
            )
            keep_steps(model.config, task.steps, model_args.model, training=training.do_train)
            model.to(training.device)
            adaptation, extra = adapt(model, task, training, inputs) if training.do_train else (None, {})
            for name, count in extra.get("strategy", {}).items():
                print(f"{name}: {count:,}" if isinstance(count, int) else f"{name}: {count}")
        with clock.phase("frozen part"), training.main_process_first(desc="frozen part"):
            layers = adaptation.frozen_layers if adaptation else None
            fed, forward, reason = states_or_inputs(model, layers, inputs, task, data, model_args, training)
            warnings += [f"the frozen part is computed in every epoch: {reason}"] if reason else []

        # Training
        from common.legacy.frozen import collate_states
        from common.legacy.trainer import FinetuneTrainer

        def groups_of(model) -> list[dict]:
            rates = learning_rates(model, training.learning_rate, task.head_learning_rate, task.layer_decay)
            return parameter_groups(model, rates, training.weight_decay)

        trainer = FinetuneTrainer(
            head=classification_head(training.label_smoothing_factor),
            stop=stop,
            headline="accuracy",
            forward=forward,
            groups=groups_of,
            model=model,
            args=training,
            train_dataset=fed.get("train"),
            eval_dataset=evaluated_sets(fed, task.eval_train_samples, data.sample_seed) or None,
            data_collator=collate_states,
            processing_class=tokenizer,
        )
        if training.do_train:
            identity = {
                "task": "persian-nli",
                "model": model_args.model,
                "training data": fingerprint(prepared["train"].rows()),
                "strategy": str(task.adaptation),
                **{name: getattr(training, name) for name in ("seed", "per_device_train_batch_size")},
                **{name: getattr(task, name) for name in ("max_length", "pruned_share", "pruning", "pruning_scope")},
                "pruning_seed": task.pruning_seed,
            }
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
        judgement, predictions = judged(splits, logits, measured, headline_metric="accuracy")
        results = {
            **facts.of_run(
                parsed,
                trainer,
                clock,
                task="persian-nli",
                warnings=warnings + notes,
                commit=model_commit(model_args),
            ),
            "data": describe_splits(splits, selection, {name: inputs[name].statistics() for name in splits}),
            **judgement,
            "extra": extra,
        }
        comparable = training.do_train and not data.demo and str(task.adaptation) in PUBLISHED
        rows = [PUBLISHED[str(task.adaptation)]] if comparable else []
        results["published"] = [facts.published(REPORT, *row, unit="percent") for row in rows]
        if trainer.is_world_process_zero():
            trainer.save_run({PREFIX[name]: numbers for name, numbers in measured.items()})
            usage = PRUNED_USAGE if pruned_heads(model.config) else PAIR_USAGE
            saved = output_dir if training.do_train else model_args.model
            results = publish(results, predictions, splits, inputs, output_dir, model=saved, usage=usage)
    return results


# Preprocessing


def preprocess(pairs: Pairs, steps: Steps) -> Pairs:
    """The pairs with texts as the model gets them; what is reported and shown are the texts as they were."""
    premises, hypotheses = (prepare(texts, steps) for texts in (pairs.premises, pairs.hypotheses))
    return dataclasses.replace(pairs, premises=premises, hypotheses=hypotheses)


# Model


def adapt(model, task: PersianNliArguments, training, inputs) -> tuple:
    """Freezes, truncates or prunes as the strategy says; what was done, and its facts for the results."""
    from common.legacy.modeling import count_parameters

    whole = count_parameters(model)["total"]
    extra = {}
    if task.adaptation.kind == "prune_heads":
        extra["pruning"] = prune_heads(model, task, training, inputs)
    adaptation = apply(model, task.adaptation)
    counted, formula = count_parameters(model), trainable_formula(model.config, task.adaptation)
    if formula is not None and formula != counted["trainable"]:
        raise AssertionError(f"{counted['trainable']:,} parameters are trainable, but the formula gives {formula:,}")
    extra["strategy"] = {
        "strategy": str(task.adaptation),
        "what": adaptation.summary,
        "parameters of the whole model": whole,
        "parameters": counted["total"],
        "trainable parameters": counted["trainable"],
        "trainable parameters by formula": formula,
    }
    return adaptation, extra


def prune_heads(model, task: PersianNliArguments, training, inputs) -> dict:
    """Removes heads from the model; parameters, bytes and latency of a batch before and after."""
    train = inputs["train"]
    batches = (
        collate_pairs([train[i] for i in range(at, min(at + 32, len(train)))]) for at in range(0, len(train), 32)
    )
    batch = collate_pairs([train[i] for i in range(min(8, len(train)))])
    before = measure(model, batch)
    if task.pruning == "random":
        scores = random_scores(model, task.pruning_seed)
    else:
        scores = importance(model, islice(batches, 32), classification_head(0.0).losses)
    prune(model, choose_heads(scores, task.pruned_share, per_layer=task.pruning_scope == "layer"))
    after = measure(model, batch)
    return {"before": before, "after": after, "after / before": {name: after[name] / before[name] for name in after}}


if __name__ == "__main__":
    sys.exit(exit_status(main, "run_nli_parsbert.py"))
