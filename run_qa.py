"""Extractive question answering: fine-tune an encoder to find the answer in a text, or to say that there is none.

The published experiment is the default (SQuAD v2, DistilBERT, 60,000 training and 5,000 validation questions):

    python run_qa.py
    python run_qa.py --model xlm-roberta-base --output_dir outputs/qa-xlmr
    torchrun --nproc_per_node 8 run_qa.py --bf16

Your own data, in SQuAD's json (v1.1 or v2.0) or as csv, tsv, json, jsonl, parquet with id, question, context, answers:

    python run_qa.py --train_file train.json --validation_file dev.json --output_dir outputs/mine

Answer questions with a trained model, evaluate it, or try everything without data or network:

    python run_qa.py --do_predict --model outputs/mine --test_file questions.json --output_dir outputs/answers
    python run_qa.py --do_eval --model outputs/mine --validation_file dev.json --output_dir outputs/scores
    python run_qa.py --demo
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.legacy import report
from common.legacy import results as facts
from common.legacy.arguments import DataArguments, ModelArguments, flag, parse_arguments
from common.legacy.cache import cache_root
from common.legacy.data import choose, fingerprint
from common.legacy.errors import UserError, exit_status
from common.legacy.hub import load_rows
from common.legacy.model_card import write_model_card
from common.legacy.run import (
    Clock,
    StopRequest,
    check_launch,
    decided_by_main_process,
    prepare_output_dir,
    start_training,
)
from common.legacy.spans import answers_of_questions, best_spans_of_windows
from common.legacy.squad import Questions, describe_splits, flat_questions, read_questions
from common.legacy.text import PairTemplate, Windows, collate_windows, tokenize_once, too_long

# The published recipe (report 002, question answering), in one place; the names are the flags.
RECIPE = {
    "model": "distilbert-base-uncased",
    "dataset": "rajpurkar/squad_v2",
    "output_dir": "outputs/qa",
    "max_train_samples": 60_000,
    "max_eval_samples": 5_000,
    "learning_rate": 1e-5,
    "weight_decay": 1e-4,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 64,
    "num_train_epochs": 3.0,
    "train_sampling_strategy": "group_by_length",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "tuning_f1",
    "logging_steps": 50,
}
DEMO = {
    "output_dir": "outputs/demo/qa",
    "max_length": 64,
    "stride": 16,
    "learning_rate": 1e-3,
    "warmup_steps": 0.1,
    "per_device_train_batch_size": 16,
    "logging_steps": 10,
}
SPELLINGS = {"--null_score_diff_threshold": "--null_threshold"}
# Reference rows, by model type: exact match and F1 on the whole validation set, with other settings than the recipe's.
PUBLISHED = {
    "distilbert": [("a model card on the hub (lauraparra28)", "whole set", {"exact": 63.91, "f1": 67.67})],
    "xlm-roberta": [("deepset/xlm-roberta-base-squad2", "whole set, 2 epochs", {"exact": 73.92, "f1": 77.14})],
}
PREFIX = {"train": "train", "tuning": "tuning", "validation": "eval", "test": "predict"}  # as in official examples


@dataclass
class QuestionAnsweringArguments:
    """What only this task has."""

    _argument_group_name = "question answering"

    max_length: int = flag(512, "tokens of question and text together in one window", "--max_seq_length")
    stride: int = flag(128, "tokens that neighbouring windows of a text share", "--doc_stride")
    pad_to_max_length: bool = flag(False, "pad every batch to max_length: slower, for compilers that want one shape")
    n_best_size: int = flag(20, "answers kept for each question")
    max_answer_length: int = flag(30, "longest answer, in tokens")
    version_2_with_negative: bool = flag(False, "allow 'no answer' even where no training question is unanswerable")
    null_threshold: str = flag(
        "auto", "no answer where its score exceeds the best answer's by more than this; auto = found on held-out data"
    )
    tuning_samples: int = flag(
        1000, "training questions held out, by whole texts, to choose threshold and epoch (at most a tenth); 0 = none"
    )

    def __post_init__(self):
        if self.null_threshold != "auto":
            try:
                float(self.null_threshold)
            except ValueError:
                raise UserError(f"--null_threshold {self.null_threshold}: is neither a number nor auto") from None
        for name in ("max_length", "n_best_size", "max_answer_length"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be 1 or more")
        if self.stride < 0 or self.tuning_samples < 0:
            raise UserError("--stride and --tuning_samples cannot be negative")


def main(argv: list[str] | None = None) -> dict:
    """Runs the script with the arguments `argv` (default: the command line); returns what results.json holds."""
    # Arguments
    check_launch()
    groups = (QuestionAnsweringArguments, DataArguments, ModelArguments)
    parsed = parse_arguments(groups, argv, recipe=RECIPE, demo=DEMO, description=__doc__, spellings=SPELLINGS)
    task, data, model_args, training = parsed.groups
    clock, output_dir, warnings = Clock(), Path(training.output_dir), []
    checkpoint = decided_by_main_process(lambda: prepare_output_dir(training, overwrite=data.overwrite_output_dir))
    with StopRequest() as stop:
        # Data
        with clock.phase("data"):
            if data.demo:
                use_demo(data, model_args, output_dir)
            with training.main_process_first(desc="data"):
                splits, selection = load_splits(task, data, training, model_args)

        # Preprocessing
        from common.legacy.modeling import load_model, load_tokenizer, model_commit

        with clock.phase("preprocessing"), training.main_process_first(desc="preprocessing"):
            tokenizer = load_tokenizer(model_args)
            windows = {name: cut(splits[name], tokenizer, task, data, model_args, training) for name in splits}
            splits = {name: windows[name].examples for name in splits}

        # Model
        from transformers import AutoModelForQuestionAnswering, set_seed

        if tokenizer.model_max_length < task.max_length:
            warnings.append(f"windows have {tokenizer.model_max_length} tokens, the longest that this model takes")
        with clock.phase("model"), training.main_process_first(desc="model"):
            set_seed(training.seed)
            model, notes = load_model(
                AutoModelForQuestionAnswering, model_args, head="question answering", training=training.do_train
            )

        # Training
        from common.legacy.answers import Scorer, judge
        from common.legacy.trainer import FinetuneTrainer, Head

        scorer = Scorer(
            splits,
            n_best=task.n_best_size,
            null_threshold=task.null_threshold,
            force_null=task.version_2_with_negative,
            stored=getattr(model.config, "question_answering", None),
        )
        evaluated = {name: windows[name] for name in ("tuning", "validation") if name in windows}
        if "tuning" not in windows and "metric_for_best_model" not in parsed.explicit:
            training.load_best_model_at_end, training.metric_for_best_model = False, None
        head = Head(
            targets=("targets", "context_mask", "null_at"),
            losses=lambda output, batch: span_losses(output, batch, training.label_smoothing_factor),
            keep=lambda output, batch: best_spans_of_windows(
                output["start_logits"],
                output["end_logits"],
                batch["context_mask"],
                batch["null_at"],
                n_best=task.n_best_size,
                max_answer_length=task.max_answer_length,
            ),
            score=scorer.score,
            has_truth=lambda batch: "targets" in batch,
        )
        trainer = FinetuneTrainer(
            head=head,
            stop=stop,
            headline="f1",
            model=model,
            args=training,
            train_dataset=windows.get("train"),
            eval_dataset=evaluated or None,
            data_collator=collate_windows,
            processing_class=tokenizer,
        )
        if training.do_train:
            identity = {
                "task": "question-answering",
                "model": model_args.model,
                "training data": fingerprint(splits["train"].rows()),
                **{name: getattr(training, name) for name in ("seed", "per_device_train_batch_size")},
                **{name: getattr(task, name) for name in ("max_length", "stride")},
            }
            decided_by_main_process(lambda: start_training(output_dir, checkpoint, identity))
            with clock.phase("training"):
                trained = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

        # Results
        with clock.phase("results"):
            measured, answers = {}, {}
            for name in (n for n in ("tuning", "validation", "test") if n in windows):  # the threshold before its use
                kept, measured[name] = trainer.assess(windows[name], PREFIX[name], samples=len(splits[name]))
                answers[name] = answers_of_questions(windows[name], kept, task.n_best_size)
            if training.do_train:
                measured["train"] = trained.metrics | {"train_samples": len(splits["train"])}
        notes = warnings + notes + scorer.warnings
        shared = {"task": "question-answering", "warnings": notes, "commit": model_commit(model_args)}
        results = {
            **facts.of_run(parsed, trainer, clock, **shared),
            "data": describe_splits(splits, selection, {name: {"windows": len(windows[name])} for name in windows}),
            **judge(scorer, splits, answers, measured),
        }
        published = [] if data.demo else PUBLISHED.get(model.config.model_type, [])
        results["published"] = [facts.published(*row, unit="percent") for row in published]
        if trainer.is_world_process_zero():
            model.config.question_answering = scorer.settings()
            trainer.save_run({PREFIX[name]: numbers for name, numbers in measured.items()})
            results = publish(results, scorer, splits, windows, answers, output_dir)
    return results


# Data


def use_demo(data: DataArguments, model_args: ModelArguments, output_dir: Path) -> None:
    """Points data and model at the built-in ones, written below the output directory; what was given stays."""
    from common.legacy.demo_qa import question_answering_demo

    given = Path(model_args.model).is_dir()
    architecture = RECIPE["model"] if given else model_args.model
    # Written once: another process could rewrite what the first one already reads.
    made = decided_by_main_process(lambda: question_answering_demo(output_dir / "demo", architecture))
    model_args.model = model_args.model if given else made["model"]
    for name in ("train_file", "validation_file", "test_file"):
        setattr(data, name, getattr(data, name) or made[name])


def load_splits(task, data, training, model_args) -> tuple[dict[str, Questions], dict[str, tuple[int, str]]]:
    """The splits that the run needs, and of each how many there were and how its questions were chosen.

    The tuning split is held out of the training data by whole texts, before anything is sampled: it chooses the
    threshold for "no answer" and the best epoch, so that the evaluated questions choose nothing.
    """
    files = {"train": data.train_file, "validation": data.validation_file, "test": data.test_file}
    tune_only = not training.do_train and task.null_threshold == "auto" and data.train_file is not None
    needed = {"train": training.do_train or tune_only, "validation": training.do_eval, "test": training.do_predict}
    splits, selection = {}, {}
    for name in (n for n in needed if needed[n]):
        truth = None if name == "test" else True  # test questions may come without answers
        skip_bad = data.on_bad_example == "skip"
        if not any(files.values()):
            rows, source = load_rows(data, model_args, name)
            splits[name] = flat_questions(rows, source, truth=truth, skip_bad=skip_bad)
        elif files[name] is None:
            raise UserError(
                f"there is no {name} data: give --{name}_file, or choose among --do_train --do_eval --do_predict"
            )
        else:
            splits[name] = read_questions(files[name], truth=truth, skip_bad=skip_bad)
    limits = {"train": data.max_train_samples, "validation": data.max_eval_samples, "test": data.max_predict_samples}
    if "train" in splits and task.tuning_samples and len(splits["train"]) >= 10:
        wanted = min(task.tuning_samples, len(splits["train"]) // 10)
        everything = len(splits["train"])
        splits["tuning"], splits["train"] = splits["train"].hold_out(wanted, data.sample_seed)
        held = f"whole texts with {len(splits['tuning']):,} of {everything:,} training questions, at random"
        selection["tuning"] = len(splits["tuning"]), f"{held} (sample_seed {data.sample_seed})"
    if tune_only:
        splits.pop("train")
    for name in limits.keys() & splits.keys():
        chosen, words = choose(len(splits[name]), limits[name], data.sample_seed)
        selection[name] = len(splits[name]), words
        splits[name] = splits[name].take(chosen)
    return splits, selection


# Preprocessing


def cut(questions: Questions, tokenizer, task, data, model_args, training) -> Windows:
    """Tokenises (once; then from the cache) and cuts into windows; a question that is too long is a bad example."""
    if data.preprocessing_num_workers:
        os.environ["RAYON_NUM_THREADS"] = str(data.preprocessing_num_workers)  # the tokenizer's own threads
    root, template = cache_root(model_args.cache_dir), PairTemplate.of(tokenizer)
    max_length = min(task.max_length, tokenizer.model_max_length)
    tokens = tokenize_once(tokenizer, questions.questions, root, overwrite=data.overwrite_cache)
    bad = too_long(tokens, template, max_length, task.stride)
    if bad.any() and data.on_bad_example == "stop":
        worst = int(tokens.counts.argmax())
        raise UserError(
            f"{questions.source}: question {questions.ids[worst]!r} has {tokens.counts[worst]} tokens and with "
            f"--stride {task.stride} needs --max_length {tokens.counts[worst] + template.specials + task.stride + 1}, "
            f"but a window has {max_length}; raise it, lower --stride or pass --on_bad_example skip"
        )
    if bad.any():
        questions = questions.take(np.flatnonzero(~bad))
        questions.skipped = {**questions.skipped, "question too long": int(bad.sum())}
        tokens = tokenize_once(tokenizer, questions.questions, root, overwrite=False)
    return Windows(
        tokenizer,
        tokens,
        tokenize_once(tokenizer, questions.contexts, root, overwrite=data.overwrite_cache),
        questions.context_of,
        max_length=max_length,
        stride=task.stride,
        examples=questions,
        answers=None if questions.answers is None else questions.training_spans(),
        pad_to=max_length if task.pad_to_max_length else None,
        pad_to_multiple_of=8 if training.fp16 or training.bf16 else None,
    )


# Training


def span_losses(output: dict, batch: dict, smoothing: float):
    """Cross entropy of the start and of the end, averaged: a loss for each window [B].

    Padding is left out of the softmax: otherwise the loss of a window would depend on the others of its batch.
    """
    padding, total = batch["attention_mask"] == 0, 0.0
    for column, end in enumerate(("start", "end")):
        log_shares = output[f"{end}_logits"].float().masked_fill(padding, -1e9).log_softmax(dim=1)
        right = log_shares.gather(1, batch["targets"][:, column : column + 1])[:, 0]
        anywhere = log_shares.masked_fill(padding, 0).sum(dim=1) / (~padding).sum(dim=1)
        total = total - (1 - smoothing) * right - smoothing * anywhere
    return total / 2


# Results


def publish(results: dict, scorer, splits, windows, answers, output_dir: Path) -> dict:
    """Writes answers, plots, results.json, report and model card; returns what results.json holds."""
    from common.legacy.answers import USAGE, draw_plots, error_cards, write_answers

    for name, prefix in (("validation", ""), ("test", "test_")):
        if name in answers:
            results["files"] |= write_answers(output_dir, prefix, scorer, splits[name], answers[name])
    results["files"] |= draw_plots(results, scorer, splits, answers, windows, output_dir)
    name = results["headline"]["split"] if results["headline"] else None
    results = facts.completed(results)
    cards = error_cards(scorer, splits[name], answers[name]) if name else []
    report.write_report(results, output_dir, error_cards=cards)
    model = output_dir if results["arguments"]["do_train"]["value"] else results["model"]["name"]
    write_model_card(results, output_dir, usage=USAGE.format(model=model))
    facts.write_results(output_dir, results)
    return results


if __name__ == "__main__":
    sys.exit(exit_status(main, "run_qa.py"))
