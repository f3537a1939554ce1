# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "accelerate==1.15.0", "datasets==5.2.0", "evaluate==0.4.6", "filelock==4.3.1", "huggingface-hub==2.4.0",
#   "jinja2==3.1.6", "matplotlib==3.11.2", "numpy==2.4.6", "pandas==3.1.1", "pyyaml==6.0.4", "scikit-learn==1.9.1",
#   "sentencepiece==0.2.3", "torch==2.13.0", "transformers==5.23.0",
# ]
# ///
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

import logging
import math
import sys
from dataclasses import dataclass

from common.arguments import TaskArguments, flag, parse_arguments, show_help
from common.errors import UserError, exit_status
from common.legacy_flags import QUESTION_ANSWERING

# The published recipe (report 002, question answering), in one place; the names are the flags. Ours are: the loss every
# 2,500 steps, and the threshold for "no answer" from held-out training questions. The last model is kept: the evaluated
# questions choose nothing. With --load_best_model_at_end the held-out questions choose the best one.
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
    "eval_strategy": "steps",
    "eval_steps": 2500,
    "save_strategy": "steps",
    "save_steps": 2500,
    "save_total_limit": 2,
    "logging_steps": 50,
}
DEMO = {
    "output_dir": "outputs/demo/qa",
    "max_length": 64,
    "stride": 16,
    "learning_rate": 1e-3,
    "warmup_steps": 0.1,
    "per_device_train_batch_size": 16,
    "eval_steps": 100,
    "save_steps": 100,
    "logging_steps": 10,
}
# Reference rows, by model type: exact match and F1 on the whole validation set, with other settings than the recipe's.
PUBLISHED = {
    "distilbert": [("a model card on the hub (lauraparra28)", "whole set", {"exact": 63.91, "f1": 67.67})],
    "xlm-roberta": [("deepset/xlm-roberta-base-squad2", "whole set, 2 epochs", {"exact": 73.92, "f1": 77.14})],
}
WINDOWS = ("max_length", "stride", "max_answer_length")  # remembered with the model, to answer as it was evaluated
logger = logging.getLogger(__name__)


@dataclass
class QuestionAnsweringArguments(TaskArguments):
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
    tuning_samples: int | None = flag(
        None, "training questions held out, by whole texts, for the threshold; unset: a tenth of those used; 0: none"
    )

    def __post_init__(self):
        super().__post_init__()
        try:
            usable = self.null_threshold == "auto" or math.isfinite(float(self.null_threshold))
        except ValueError:
            usable = False
        if not usable:
            raise UserError(f"--null_threshold {self.null_threshold}: is neither a number nor auto")


COMMAND_LINE = {"recipe": RECIPE, "demo": DEMO, "legacy": QUESTION_ANSWERING}
show_help(QuestionAnsweringArguments, **COMMAND_LINE)  # --help ends here: what follows takes seconds to import

import torch
from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding, TrainerCallback, set_seed

from common.data import describe, load_splits, overlaps
from common.demo.qa import question_answering_demo
from common.files import read_files
from common.models import check_vocabulary, load_config, load_model, load_tokenizer, structure_table
from common.results import published
from common.run import start_run
from common.text.answers import NoAnswerRule, draw_plots, error_cards, score_splits, usage_of, write_answers
from common.text.layers import fit_to_model
from common.text.spans import answers_of_questions, best_spans_of_windows
from common.text.squad import hold_out, is_answerable, to_questions
from common.text.windows import LABELS, PLACES, cut_splits, right_padding
from common.trainer import FinetuneTrainer


class QuestionAnsweringTrainer(FinetuneTrainer):
    """Cross entropy of the answer's first and last token; keeps the n best spans of each window."""

    target_names = LABELS
    extra_names = (*PLACES, "length")
    metric_names = ("exact", "f1", "HasAns_f1", "NoAns_f1", "best_exact", "best_f1")

    def example_losses(self, outputs, batch):  # [B]
        # Padding is left out of the softmax: otherwise a window's loss would depend on the others of its batch.
        padding, smoothing = batch["attention_mask"] == 0, self.args.label_smoothing_factor
        losses = []
        for end, positions in zip(("start", "end"), LABELS):
            log_shares = outputs[f"{end}_logits"].float().masked_fill(padding, -1e9).log_softmax(dim=1)
            right = log_shares.gather(1, batch[positions][:, None])[:, 0]
            anywhere = log_shares.masked_fill(padding, 0).sum(dim=1) / (~padding).sum(dim=1)
            losses.append(-(1 - smoothing) * right - smoothing * anywhere)
        return sum(losses) / 2

    def example_predictions(self, outputs, batch):
        place = torch.arange(batch["input_ids"].shape[1], device=batch["input_ids"].device)
        inside = (place >= batch["context_begin"][:, None]) & (place < batch["context_end"][:, None])
        sizes = {"n_best": self.run.args.n_best_size, "max_answer_length": self.run.args.max_answer_length}
        return best_spans_of_windows(outputs["start_logits"], outputs["end_logits"], inside, batch["null_at"], **sizes)


class ShowAnswers(TrainerCallback):
    """After each evaluation, three of its questions with the answers that the model gives now."""

    latest = ()  # (question, answer, true answers) of the last evaluation

    def on_evaluate(self, args, state, control, **kwargs):
        for question, answer, golds in self.latest:
            logger.info("  %s  ->  %s  (%s)", question, answer or "no answer", " | ".join(golds) or "no answer")


def main(argv: list[str] | None = None) -> dict:
    """Runs the script with the arguments `argv` (default: the command line); returns what results.json holds."""
    args = parse_arguments(QuestionAnsweringArguments, argv, **COMMAND_LINE)
    with start_run(args, task="question-answering") as run:
        run.use_demo(lambda folder: question_answering_demo(folder, args.model))
        stored = getattr(load_config(args), "question_answering", {})
        args.set(f"remembered with {args.model}", **{name: stored[name] for name in WINDOWS if name in stored})
        with run.phase("data"):
            questions = load_questions(args, run)
        with run.phase("model"):
            set_seed(args.training_args.seed)
            tokenizer = load_tokenizer(args)
            settings = {"head": "question answering", "configured": {"num_labels": 2}, "ignore_mismatched_sizes": True}
            model = load_model(AutoModelForQuestionAnswering, run, **settings)
            check_vocabulary(model, tokenizer, args)
            max_length = fit_to_model(tokenizer, model, args.max_length, run.warn)
        with run.phase("preprocessing", together=True):
            windows = cut_splits(questions, tokenizer, args, max_length, run)
            run.describe(questions)

        rule = NoAnswerRule(args, questions, stored, run.warn)
        trainer = make_trainer(run, model, tokenizer, questions, windows, rule, max_length)
        if args.training_args.do_train:
            trainer.train()
        answers = {
            name: answers_of_questions(windows[name], output.predictions, args.n_best_size)
            for name, output in trainer.predict_splits(windows).items()
        }
        scores = score_splits(rule, questions, answers, trainer.metrics)
        model.config.question_answering = {**rule.settings(), **{name: getattr(args, name) for name in WINDOWS}}
        return run.finish(
            trainer,
            scores,
            write=lambda results: write(results, run, rule, questions, answers, windows, max_length),
            published=published_rows(args, model.config.model_type),
            usage=usage_of(args, rule, tokenizer, max_length),
            extra={"null_threshold": {**rule.settings(), "from": rule.chosen_by}},
            tables=[structure_table(model)],
        )


def load_questions(args: QuestionAnsweringArguments, run):
    """The splits that the run needs, a row a question, and "tuning": training questions held out by whole texts.

    They choose the threshold for "no answer" (and the best model, where that is asked for), so that the evaluated
    questions choose nothing. A trained model may be given a new threshold by --do_eval with --train_file.
    """
    tuning = []
    tunes = args.null_threshold == "auto" or args.training_args.load_best_model_at_end
    if args.tuning_samples and not tunes:
        raise UserError(f"--tuning_samples: --null_threshold {args.null_threshold} needs none; leave one of them out")

    def to_dataset(frame, split):
        questions, skipped = to_questions(frame, split, args.on_bad_example == "skip")
        used = min(args.max_train_samples or len(questions), len(questions))
        wanted = used // 10 if args.tuning_samples is None else args.tuning_samples
        if split == "train" and wanted and tunes:
            if wanted >= used:
                raise UserError(f"--tuning_samples {wanted}: must be fewer than the {used:,} training questions")
            held, questions = hold_out(questions, wanted, args.sample_seed)
            tuning.append((held, frame.attrs["source"], len(questions)))
        return questions, skipped

    splits = load_splits(args, to_dataset)
    if args.train_file and not args.training_args.do_train and args.null_threshold == "auto":
        to_dataset(read_files(args.train_file, args), "train")
    for held, source, rest in tuning:
        if held is not None:
            splits["tuning"] = held
            words = f"whole texts with {len(held):,} of {len(held) + rest:,} questions, at random"
            words += f" (sample_seed {args.sample_seed})"
            splits.facts["tuning"] = describe(held, source, len(held) + rest, words, {})
    for key, names in {"context": ["context"], "example": ["question", "context"]}.items():
        splits.overlaps += overlaps({name: zip(*(split[n][:] for n in names)) for name, split in splits.items()}, key)
    for name, split in splits.items():
        splits.facts[name]["statistics"]["contexts"] = len(set(split["context"][:]))
        if "answers" in split.column_names:
            answerable = int(is_answerable(split).sum())
            counts = {"answerable": answerable, "unanswerable": len(split) - answerable}
            splits.facts[name]["label_counts"] = counts
    return splits


def make_trainer(run, model, tokenizer, questions, windows, rule, max_length: int) -> QuestionAnsweringTrainer:
    """The task's Trainer with its data, its metrics and its callback."""
    args, training, shown = run.args, run.training_args, ShowAnswers()

    def compute_metrics(evaluated):
        asked = questions[str(evaluated.inputs.split)]
        answers = answers_of_questions(evaluated.inputs, evaluated.predictions, args.n_best_size)
        golds = [dict.fromkeys(answer["text"]) for answer in asked[:3]["answers"]]
        shown.latest = [*zip(asked[:3]["question"], rule.choose(answers, asked), golds)]
        return rule.score(answers, asked)

    evaluated = windows.get("validation")
    if training.do_train and training.load_best_model_at_end and evaluated is not None:
        if "tuning" in windows:
            args.set("held-out questions", metric_for_best_model="tuning_f1")
        if "tuning" in (training.metric_for_best_model or ""):  # costs an evaluation each time: only where it is used
            evaluated = {name: windows[name] for name in ("tuning", "validation") if name in windows}
        else:
            run.warn("the best model is chosen on the validation questions that are scored: a little too good")
    pad = {"max_length": max_length, "padding": "max_length"} if args.pad_to_max_length else {}
    eight = {"pad_to_multiple_of": 8} if training.fp16 or training.bf16 else {}
    return QuestionAnsweringTrainer(
        run,
        model=model,
        train_dataset=windows.get("train"),
        eval_dataset=evaluated,
        data_collator=DataCollatorWithPadding(right_padding(tokenizer), **pad, **eight),
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
        callbacks=[shown],
    )


def published_rows(args: QuestionAnsweringArguments, model_type: str) -> list[dict]:
    """Reference rows, where the run was scored on the published data."""
    own = args.demo or args.train_file or args.validation_file or args.test_file
    own = own or args.dataset.removeprefix("rajpurkar/") != "squad_v2"
    return [] if own or not args.training_args.do_eval else [published(*row) for row in PUBLISHED.get(model_type, ())]


def write(results: dict, run, rule, questions, answers, windows, max_length: int) -> tuple[dict, list, str]:
    """Writes answers and plots; returns file names and the worst errors for the report."""
    files = {}
    for name, prefix in (("validation", ""), ("test", "test_")):
        if name in answers:
            files |= write_answers(run.output_dir, prefix, rule, questions[name], answers[name])
    files |= draw_plots(results, rule, questions, answers, windows, max_length, run.output_dir)
    worst = results["headline"] and results["headline"]["split"]
    cards = error_cards(rule, questions[worst], answers[worst]) if worst else []
    return files, cards, "No word right, and the surest first"


if __name__ == "__main__":
    sys.exit(exit_status(main, "run_qa.py"))
