"""MultiNLI with RoBERTa in three ways, measured side by side: full fine-tuning, a frozen encoder, low-rank adapters.

The published experiment is the default (1,000 training pairs, LoRA of rank 32 on roberta-large); its other two rows:

    python run_mnli_lora.py
    python run_mnli_lora.py --method full --output_dir outputs/mnli-full
    python run_mnli_lora.py --method freeze --output_dir outputs/mnli-freeze
    python run_mnli_lora.py --max_train_samples -1 --max_eval_samples -1 --bf16        (all of MultiNLI)

Your own data, in csv, tsv, json, jsonl or parquet with premise, hypothesis and label; any encoder:

    python run_mnli_lora.py --model bert-base-uncased --train_file train.csv --validation_file dev.csv

Adapters: write the whole model too (--merge), go on from one, take its updates to other classes (--reset_classifier),
add several up, classify with one:

    python run_mnli_lora.py --adapter outputs/mnli --train_file b.csv --validation_file dev.csv --output_dir outputs/b
    python run_mnli_lora.py --do_eval --combine outputs/mnli:0.5 outputs/b:0.5 --output_dir outputs/both
    python run_mnli_lora.py --do_predict --adapter outputs/mnli --test_file pairs.csv --output_dir outputs/classes
    python run_mnli_lora.py --demo
"""

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from common.legacy import results as facts
from common.legacy.adapter_folder import is_adapter
from common.legacy.adapting import Strategy, apply
from common.legacy.arguments import DataArguments, ModelArguments, flag, parse_arguments
from common.legacy.class_names import in_order_of
from common.legacy.classification import PAIR_USAGE
from common.legacy.data import fingerprint
from common.legacy.errors import UserError, exit_status
from common.legacy.lora import (
    LoraArguments,
    add_lora,
    class_names,
    combine,
    load_adapter,
    merge,
    quantization,
    reloaded,
)
from common.legacy.pair_task import (
    PairArguments,
    encode,
    judged,
    load_splits,
    logits_of,
    publish,
    states_or_inputs,
    use_demo,
)
from common.legacy.pairs import Pairs, describe_splits
from common.legacy.run import (
    Clock,
    StopRequest,
    check_launch,
    decided_by_main_process,
    prepare_output_dir,
    start_training,
)
from common.legacy.spellings import TEXT_CLASSIFICATION, only
from common.legacy.task import PREFIX, Sample, classification_head, evaluated_sets

# The published recipe (report 004, MultiNLI), in one place; the names are the flags.
RECIPE = {
    "model": "roberta-base",
    "dataset": "nyu-mll/glue",
    "dataset_config": "mnli",
    "output_dir": "outputs/mnli",
    "max_length": 128,
    "max_train_samples": 1000,
    "max_eval_samples": 1000,
    "eval_train_samples": -1,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "num_train_epochs": 5.0,
    "train_sampling_strategy": "group_by_length",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "validation_accuracy",
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
    "learning_rate": 1e-3,
    "warmup_steps": 0.1,
    "max_train_samples": None,
    "eval_train_samples": 200,
    "logging_steps": 10,
}
HUB = {
    "train": {"split": "train"},
    "validation": {"split": "validation_matched"},
    "test": {"split": "validation_mismatched"},
}
OTHER_TASK = "this script is for MultiNLI, which is English; other pairs are given as files"
SPELLINGS = {
    **TEXT_CLASSIFICATION,
    "--task_name": only("--task_name", "mnli", OTHER_TASK),
    **{name: only(name, "en", OTHER_TASK) for name in ("--language", "--train_language")},
    "--do_lower_case": "--lower_case",
}
CLASSES = {"entailment": ("e",), "neutral": ("n",), "contradiction": ("c",)}
REPORT = "report 004, mismatched set"
PUBLISHED = {
    "full": ("roberta-base, full fine-tuning", {"accuracy": 61.0, "f1": 60.0}),
    "freeze": ("roberta-base, encoder frozen", {"accuracy": 51.0, "f1": 45.0}),
    "lora": ("roberta-large, LoRA of rank 32 on query and value", {"accuracy": 76.05, "f1": 76.0}),
}
ADAPTER_USAGE = """\
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

base = AutoModelForSequenceClassification.from_pretrained("{base}", num_labels={count})
model = PeftModel.from_pretrained(base, "{{model}}")
tokenizer = AutoTokenizer.from_pretrained("{{model}}")
logits = model(**tokenizer({{first!r}}, {{second!r}}, return_tensors="pt")).logits
print({names}[logits.argmax().item()])
"""


@dataclass
class MultiNliArguments(PairArguments):
    """What only this task has."""

    _argument_group_name = "MultiNLI"

    method: Literal["full", "freeze", "lora"] = flag("lora", "train everything, the classifier alone, or an adapter")
    lower_case: bool = flag(True, "lower-case all texts, as published; a model that saw capitals wants false")


def main(argv: list[str] | None = None) -> dict:
    """Runs the script with the arguments `argv` (default: the command line); returns what results.json holds."""
    # Arguments
    check_launch()
    groups = (MultiNliArguments, LoraArguments, DataArguments, ModelArguments)
    phases = ("do_train", "do_eval", "do_predict")
    texts = {"description": __doc__, "spellings": SPELLINGS}
    parsed = parse_arguments(groups, argv, recipe=RECIPE, demo=DEMO, phases=phases, **texts)
    task, lora, data, model_args, training = parsed.groups
    settle_method(parsed)
    training.do_predict = training.do_predict or training.do_eval  # matched and mismatched, always both
    clock, output_dir, warnings = Clock(), Path(training.output_dir), []
    checkpoint = decided_by_main_process(lambda: prepare_output_dir(training, overwrite=data.overwrite_output_dir))
    with StopRequest() as stop:
        # Data
        with clock.phase("data"):
            if data.demo:
                from common.legacy.demo_nli import mnli_demo

                use_demo(data, model_args, mnli_demo, output_dir / "demo", RECIPE["model"])
            with training.main_process_first(desc="data"):
                given = {"classes": CLASSES, "hub": HUB, "explicit": parsed.explicit}
                splits, selection = load_splits(task, data, training, model_args, **given)

        # Preprocessing
        from common.legacy.modeling import classes_of, load_model, load_tokenizer, model_commit

        with clock.phase("preprocessing"), training.main_process_first(desc="preprocessing"):
            source, trained_for = model_args.model, classes_of(model_args)
            if lora.sources and not lora.reset_classifier and class_names(lora.sources[0]):
                source, trained_for = lora.sources[0], dict(enumerate(class_names(lora.sources[0])))
            order = {"classes": CLASSES, "label_order": task.order, "training": training.do_train}
            splits = in_order_of(trained_for, splits, source, **order)
            tokenizer = load_tokenizer(model_args)
            prepared = {name: lowered(pairs) if task.lower_case else pairs for name, pairs in splits.items()}
            inputs = {name: encode(prepared[name], tokenizer, task, data, model_args, training) for name in splits}

        # Model
        from transformers import AutoModelForSequenceClassification, set_seed

        with clock.phase("model"), training.main_process_first(desc="model"):
            set_seed(training.seed)
            model, notes = load_model(
                AutoModelForSequenceClassification,
                model_args,
                head="classification",
                training=training.do_train or bool(lora.sources),  # these bring a classifier
                classes=next(iter(splits.values())).names,
                **quantization(lora),
            )
            model, layers = adapt(model, task, lora, training)
        with clock.phase("frozen part"), training.main_process_first(desc="frozen part"):
            layers = layers if training.do_train else None
            fed, forward, reason = states_or_inputs(model, layers, inputs, task, data, model_args, training)
            warnings += [f"the frozen part is computed in every epoch: {reason}"] if reason else []

        # Training
        from common.legacy.frozen import collate_states
        from common.legacy.trainer import FinetuneTrainer

        trainer = FinetuneTrainer(
            head=classification_head(training.label_smoothing_factor),
            stop=stop,
            headline="accuracy",
            forward=forward,
            model=model,
            args=training,
            train_dataset=fed.get("train"),
            eval_dataset=evaluated_sets(fed, task.eval_train_samples, data.sample_seed) or None,
            data_collator=collate_states,
            processing_class=tokenizer,
        )
        if training.do_train:
            identity = {
                "task": "multinli",
                "model": model_args.model,
                "training data": fingerprint(prepared["train"].rows()),
                **{name: getattr(training, name) for name in ("seed", "per_device_train_batch_size")},
                **{name: getattr(task, name) for name in ("max_length", "method")},
                **{name: value for name, value in dataclasses.asdict(lora).items() if name != "merge"},
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
        shared = {"task": "multinli", "warnings": warnings + notes, "commit": model_commit(model_args)}
        results = {
            **facts.of_run(parsed, trainer, clock, **shared),
            "data": describe_splits(splits, selection, {name: inputs[name].statistics() for name in splits}),
            **judgement,
        }
        total, trainable = (results["model"]["parameters"][name] for name in ("total", "trainable"))
        counts = {"trainable parameters": trainable, "parameters": total, "trainable share": trainable / total}
        results["extra"] = {"method": {"method": task.method, **counts}}
        rows = [PUBLISHED[task.method]] if training.do_train and not data.demo else []
        results["published"] = [facts.published(REPORT, *row, unit="percent") for row in rows]
        if trainer.is_world_process_zero():
            trainer.save_run({PREFIX[name]: numbers for name, numbers in measured.items()})
            usage, saved = PAIR_USAGE, output_dir if training.do_train else [*lora.sources, model_args.model][0]
            if task.method == "lora":
                names = list(next(iter(splits.values())).names)
                usage = ADAPTER_USAGE.format(base=model_args.model, count=len(names), names=names)
                if training.do_train and "validation" in logits:
                    found = check_saved(
                        output_dir, trainer, model_args, lora, inputs["validation"], logits["validation"]
                    )
                    results["extra"]["loaded again from disk"] = found
                if lora.merge:
                    found = write_merged(model, tokenizer, next(iter(inputs.values())), trainer, output_dir)
                    results["extra"]["merged"] = found
            results = publish(results, predictions, splits, inputs, output_dir, model=saved, usage=usage)
    return results


# Arguments


def settle_method(parsed) -> None:
    """Which method, model and rate, where nobody has said; an adapter, also one given as `--model`, brings its base."""
    task, lora, _, model_args, training = parsed.groups
    if is_adapter(model_args.model):
        lora.adapter, model_args.model = model_args.model, None
        parsed.record["adapter"] = parsed.record["model"] | {"value": lora.adapter}
    begun = training.do_train or lora.sources
    if not begun:
        parsed.settle("nothing is trained, and no adapter is given", method="full")
    parsed.settle(f"recipe of --method {task.method}", **METHODS[task.method])
    given = [field.name for field in dataclasses.fields(LoraArguments) if field.name in parsed.explicit]
    if task.method != "lora" and (given or lora.sources):
        what = f"--{given[0]} belongs" if given else f"--model {lora.adapter} is an adapter, which belongs"
        too = "" if begun else "; where nothing is trained, give --adapter or --combine, too"
        raise UserError(f"{what} to --method lora{too}")
    if task.method == "lora" and not begun:
        raise UserError("--method lora needs an adapter where nothing is trained: give --adapter or --combine")
    if lora.reset_classifier and not training.do_train:
        raise UserError("--reset_classifier makes a new classifier, which has to be trained: give --do_train, too")
    lora.check_given(parsed.explicit)
    if lora.sources and ("model" not in parsed.explicit or model_args.model is None):
        folder, *_ = lora.sources
        class_names(folder)  # a sentence, if this is no adapter
        settings = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
        model_args.model = settings["base_model_name_or_path"]
        parsed.record["model"] = {"value": model_args.model, "source": f"base of the adapter {folder}"}


# Preprocessing


def lowered(pairs: Pairs) -> Pairs:
    """The pairs in lower case."""
    premises, hypotheses = ([text.lower() for text in texts] for texts in (pairs.premises, pairs.hypotheses))
    return dataclasses.replace(pairs, premises=premises, hypotheses=hypotheses)


# Model


def adapt(model, task: MultiNliArguments, lora: LoraArguments, training) -> tuple:
    """The model as the method wants it, on its device; and how many layers are frozen so that a cache is of use."""
    if task.method == "lora":
        if lora.combine:
            model = combine(model, lora.weighted_adapters(), trainable=training.do_train)
        elif lora.adapter:
            settings = {"trainable": training.do_train, "reset_classifier": lora.reset_classifier}
            model = load_adapter(model, lora.adapter, **settings)
        elif training.do_train:
            model = add_lora(model, lora)
    layers = apply(model, Strategy("head_only")).frozen_layers if task.method == "freeze" else None
    return (model if lora.load_in_4bit else model.to(training.device)), layers


# Results


def check_saved(output_dir: Path, trainer, model_args, lora, inputs, logits: np.ndarray) -> dict:
    """Loads the adapter from disk into a fresh base model, which must score `inputs` as the trained one did."""
    from transformers import AutoModelForSequenceClassification

    from common.legacy.modeling import quietly, source_of

    settings = {**source_of(model_args, model_args.model), **quantization(lora)}
    settings["ignore_mismatched_sizes"] = True  # the base may have a head for other classes; the adapter brings its own
    with quietly():
        model = reloaded(AutoModelForSequenceClassification, model_args.model, output_dir, **settings)
    again = logits_of(model, inputs, trainer)
    difference, same = float(np.abs(again - logits).max()), float((again.argmax(1) == logits.argmax(1)).mean())
    if difference > (1e-3 if trainer.args.device.type == "cpu" and not trainer.args.bf16 else 0.5):
        raise UserError(
            f"{output_dir}: the saved adapter, loaded again, does not score as the trained one (logits differ by up to "
            f"{difference:.2g}); its results are not to be trusted"
        )
    return {"largest difference of a logit": difference, "same predictions": same}


def write_merged(model, tokenizer, inputs, trainer, output_dir: Path) -> dict:
    """Writes the model with the update added to its weights to `merged`; how its logits differ from the adapter's."""
    sample = Sample(inputs, np.arange(min(256, len(inputs))))
    before = logits_of(model, sample, trainer)
    merged = merge(model)
    merged.save_pretrained(output_dir / "merged")
    tokenizer.save_pretrained(output_dir / "merged")
    difference = float(np.abs(logits_of(merged, sample, trainer) - before).max())
    return {"folder": "merged", "largest difference of a logit": difference, "pairs compared": len(sample)}


if __name__ == "__main__":
    sys.exit(exit_status(main, "run_mnli_lora.py"))
