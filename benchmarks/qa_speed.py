"""How fast the parts of run_qa.py are, beside plain references, in one run.

    python -m benchmarks.qa_speed --train_file train.json --validation_file dev.json --model DIR
    python -m benchmarks.qa_speed ... --only training --repeats 5 --output qa_speed.json

The references of preprocessing and post-processing are those of `benchmarks.official`. Both sides of a row get the same
data and take turns; a row holds the ratio of the medians. Where the two must agree in what they compute, that is
checked, and a disagreement ends the run. For tokenizers that pad on the right and start with the class token (BERT,
DistilBERT, RoBERTa, XLM-R). `benchmarks/README.md` says what the rows mean.
"""

import argparse
import contextlib
import gc
import logging
import multiprocessing
import os
import re
import tempfile
from collections import deque
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import transformers
from datasets import Dataset, disable_caching, disable_progress_bars
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, set_seed
from transformers.trainer_pt_utils import EvalLoopContainer

import run_qa
from benchmarks import official_ways
from benchmarks.side_by_side import alternate, publish, row
from common.arguments import parse_arguments
from common.data import Splits
from common.files import read_files
from common.run import start_run
from common.samplers import epoch_order, evaluation_order
from common.text.spans import NO_SPAN, answers_of_questions, best_spans_of_windows
from common.text.squad import to_questions, training_span
from common.text.windows import LABELS, column, cut_splits

MAX_LENGTH, PUBLISHED_LENGTH, STRIDE = 384, 512, 128
BATCH, EVAL_BATCH = (run_qa.RECIPE[f"per_device_{phase}_batch_size"] for phase in ("train", "eval"))
N_BEST, LONGEST = 20, 30
OFFICIAL = SimpleNamespace(
    max_seq_length=MAX_LENGTH,
    doc_stride=STRIDE,
    n_best_size=N_BEST,
    max_answer_length=LONGEST,
    null_score_diff_threshold=0.0,
)
PARTS = ("preprocessing", "training", "postprocessing", "memory")
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@contextlib.contextmanager
def a_run(options: argparse.Namespace, **flags):
    """A run of run_qa.py in a folder of its own: its arguments are those of the recipe, of `options` and of `flags`."""
    with tempfile.TemporaryDirectory() as folder:
        flags = {"model": options.model, "train_file": options.train_file, **flags}
        flags |= {"output_dir": f"{folder}/run", "save_strategy": "no", "eval_strategy": "no", "do_train": True}
        argv = [f"--{name}={value}" for name, value in {"stride": STRIDE, "max_length": MAX_LENGTH, **flags}.items()]
        args = parse_arguments(run_qa.QuestionAnsweringArguments, argv, recipe=run_qa.RECIPE)
        with start_run(args, task="question-answering") as run:
            yield args, run


def questions_of(file: str, split: str, every: int = 1) -> Dataset:
    """All questions of a file, or one in `every`."""
    questions = to_questions(read_files(file), split, skip_bad=False)[0]
    return Dataset(questions.select(range(0, len(questions), every)).flatten_indices().data, split=split)


# Preprocessing


def our_windows(tokenizer, questions: Dataset, length: int = MAX_LENGTH) -> Dataset:
    """What run_qa.py does, with nothing in its cache."""
    alone = SimpleNamespace(world_size=1, process_index=0)
    with tempfile.TemporaryDirectory() as folder:  # what is mapped stays readable
        settings = {"cache_dir": folder, "overwrite_cache": False, "on_bad_example": "stop"}
        args = SimpleNamespace(stride=STRIDE, max_answer_length=LONGEST, training_args=alone, **settings)
        splits, name = Splits({str(questions.split): questions}), str(questions.split)
        splits.facts[name] = {"source": "benchmark", "statistics": {}}
        return cut_splits(splits, tokenizer, args, length, SimpleNamespace(warn=print))[name]


def official_features(tokenizer, rows: Dataset, labelled: bool) -> Dataset:
    """Windows padded to one length; labels by a walk over offsets, or the offsets."""
    cut_by_map = partial(official_ways.windows, tokenizer, OFFICIAL, labelled)
    return rows.map(cut_by_map, batched=True, remove_columns=rows.column_names, load_from_cache_file=False)


def only_the_trained_one(row: dict) -> dict:
    """The answer that we train on; the official example trains on the first one."""
    start, end = training_span(row["answers"])
    return {"answers": {"text": [row["context"][start:end]], "answer_start": [start]} if start >= 0 else row["answers"]}


def compare_labels(windows: Dataset, features: Dataset) -> dict[str, int]:
    """Counts windows and differing labels; anything but the official walk's step over the edge ends the run.

    The walk to the start does not end at the context's last token: where an answer starts there, it runs over the
    separator behind it (whose offsets are 0, 0) to the end of the window.
    """
    if column(windows, "length").tolist() != [sum(mask) for mask in features["attention_mask"]]:
        raise SystemExit(f"the windows differ: {len(windows)} here, {len(features)} in the reference")
    ours, theirs = (np.column_stack([column(data, name) for name in LABELS]) for data in (windows, features))
    last = column(windows, "context_end") - 1
    edge = (ours[:, 0] == last) & (theirs[:, 0] == last + 1) & (ours[:, 1] == theirs[:, 1])
    other = np.flatnonzero((ours != theirs).any(axis=1) & ~edge)
    if len(other):
        raise SystemExit(f"{len(other)} labels differ, for instance {ours[other[0]]} and {theirs[other[0]]}")
    return {"windows": len(windows), "labels off by one in the reference": int(edge.sum())}


def preprocessing(options: argparse.Namespace, tokenizer) -> tuple[list[dict], dict]:
    """All questions, and every third: about as many to a text as the published sample of SQuAD v2 has."""
    rows, facts = [], {}
    for every in (1, 3):
        questions = questions_of(options.train_file, "train", every).map(only_the_trained_one, keep_in_memory=True)
        questions = Dataset(questions.data, split="train")
        sides = {
            "ours": partial(our_windows, tokenizer, questions),
            "Dataset.map": partial(official_features, tokenizer, questions, True),
        }
        shared = f"{len(questions) / len(set(questions['context'][:])):.1f} questions a text"
        facts[shared] = compare_labels(sides["ours"](), sides["Dataset.map"]())
        seconds = alternate(sides, options.repeats, options.cpu_time)
        part = f"preprocessing, {shared}, to the official Dataset.map"
        rows.append(row(part, seconds["ours"], seconds["Dataset.map"], len(questions), 2.0, unit="questions/s"))
    return rows, facts


# Training


def picked(windows: Dataset, count: int) -> Dataset:
    """Some batches of an epoch over all windows, in the order's own composition: one at every so many by length.

    A few questions drawn at random would not find others of their length, and their batches would need padding that
    those of a real epoch do not need.
    """
    lengths = column(windows, "length")
    epoch = epoch_order(len(windows), 0, 0, lengths, BATCH)
    batches = epoch[: len(epoch) // BATCH * BATCH].reshape(-1, BATCH)
    by_length = np.argsort(lengths[batches].max(axis=1), kind="stable")
    return windows.select(batches[by_length[((np.arange(count) + 0.5) * len(batches) / count).astype(int)]].ravel())


def train(options, model, initial: dict, tokenizer, windows: Dataset, *, bare: bool = False, **flags) -> torch.Tensor:
    """Trains from the same weights and random state, by the script's trainer or a bare loop; gives the weights."""
    model.load_state_dict(initial)
    set_seed(0)
    schedule = {"num_train_epochs": 1, "learning_rate": 1e-5, "lr_scheduler_type": "constant", "disable_tqdm": True}
    with a_run(options, train_sampling_strategy="sequential", **schedule | flags) as (args, run):
        sides = model, tokenizer, {}, {"train": windows}, None, args.max_length
        trainer = run_qa.make_trainer(run, *sides)
        trainer.log = lambda *arguments, **named: None
        if not bare:
            trainer.train()
            return torch.cat([p.detach().flatten() for p in model.parameters()])
        matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) == wanted] for wanted in (True, False))
        groups = [
            {"params": matrices, "weight_decay": args.training_args.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=args.training_args.learning_rate, fused=True)
        model.train()
        steps = args.training_args.max_steps if args.training_args.max_steps > 0 else len(windows) // BATCH
        for step in range(steps):
            batch = trainer.data_collator([windows[i] for i in range(step * BATCH, (step + 1) * BATCH)])
            optimizer.zero_grad()
            outputs = model(**{name: batch[name] for name in MODEL_INPUTS if name in batch})
            trainer.example_losses(outputs, batch).mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.training_args.max_grad_norm)
            optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def training(options: argparse.Namespace, tokenizer) -> tuple[list[dict], dict]:
    """One pass over the same batches for every side."""
    set_seed(0)
    model = AutoModelForQuestionAnswering.from_pretrained(options.model)
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    questions, count = questions_of(options.train_file, "train"), max(1, options.train_questions // BATCH)
    lengths = {length: our_windows(tokenizer, questions, length) for length in (MAX_LENGTH, PUBLISHED_LENGTH)}
    batches = {length: picked(windows, count) for length, windows in lengths.items()}
    run = partial(train, options, model, initial, tokenizer)
    sides = {
        "ours": partial(run, batches[MAX_LENGTH]),
        "bare": partial(run, batches[MAX_LENGTH], bare=True),
        "padded": partial(run, batches[MAX_LENGTH], pad_to_max_length=True),
        "ours, long": partial(run, batches[PUBLISHED_LENGTH], max_length=PUBLISHED_LENGTH),
        "padded, long": partial(run, batches[PUBLISHED_LENGTH], max_length=PUBLISHED_LENGTH, pad_to_max_length=True),
    }
    dropout = [(module, module.p) for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    for module, _ in dropout:
        module.p = 0.0
    apart = float((sides["ours"](max_steps=2) - sides["bare"](max_steps=2)).abs().max())
    if apart > 1e-6:  # a tenth of a step at this learning rate
        raise SystemExit(f"two steps without dropout: weights of the trainer and of a bare loop differ by {apart:g}")
    for module, p in dropout:
        module.p = p
    seconds = alternate(sides, options.repeats, options.cpu_time)
    compared = (
        (f"every window padded to {MAX_LENGTH}", "ours", "padded", 3.0),
        (f"every window padded to {PUBLISHED_LENGTH}", "ours, long", "padded, long", 5.0),
        ("a bare torch loop", "ours", "bare", 0.9),
    )
    windows = count * BATCH
    rows = [
        row(f"training, to {what}", seconds[a], seconds[b], windows, goal, unit="windows/s")
        for what, a, b, goal in compared
    ]
    return rows, {"windows": windows, "largest difference of weights to a bare loop after two steps": apart}


# Post-processing


def spans_of(batch: dict) -> tuple:
    """What run_qa.py keeps of a batch."""
    place = torch.arange(batch["start"].shape[1])
    inside = (place >= batch["context_begin"][:, None]) & (place < batch["context_end"][:, None])
    return best_spans_of_windows(batch["start"], batch["end"], inside, batch["null_at"], N_BEST, LONGEST)


def our_answers(windows: Dataset, batches: list[dict], questions: Dataset) -> tuple:
    """The n best answers of each question, as arrays and, one question after the other, as they are written."""
    kept = [torch.cat(tensors).numpy() for tensors in zip(*(spans_of(batch) for batch in batches))]
    order = np.argsort(torch.cat([batch["row"] for batch in batches]).numpy())
    answers = answers_of_questions(windows, tuple(array[order] for array in kept), N_BEST)
    return answers, answers.n_best(questions, with_null=True)


def compare_answers(ours: tuple, official: dict[str, dict]) -> dict[str, int]:
    """Counts best answers that differ; one of ours with a lower score, or other null odds, ends the run."""
    answers, n_best = ours
    differ = higher = 0
    for (identity, entries), odds in zip(n_best, answers.null_odds.tolist()):
        mine = next(entry for entry in entries if entry["start"] is not None)
        other = next((one for one in official["nbest_predictions"][identity] if one["text"]), None)
        if other is None or mine["score"] < other["score"]:
            raise SystemExit(f"{identity}: {mine} scores lower than {other}, or there is no other")
        differ += mine["text"] != other["text"]
        higher += mine["score"] > other["score"]
        if mine["score"] == other["score"] and abs(odds - official["null_odds"][identity]) > 1e-4:
            raise SystemExit(f"{identity}: the null odds differ")
    return {"questions": len(answers.null), "best answer differs": differ, "ours scores higher": higher}


def postprocessing(options: argparse.Namespace, tokenizer) -> tuple[list[dict], dict]:
    """Both sides start from the same scores, of a model trained for a minute or so; neither writes its files."""
    questions = questions_of(options.validation_file, "validation")
    windows = our_windows(tokenizer, questions)
    set_seed(0)
    model = AutoModelForQuestionAnswering.from_pretrained(options.model)
    short = our_windows(tokenizer, questions_of(options.train_file, "train"))
    steps = {"max_steps": options.head_steps, "learning_rate": 1e-4}
    train(options, model, {k: v.clone() for k, v in model.state_dict().items()}, tokenizer, short, **steps)
    with a_run(options) as (args, run):
        collate = run_qa.make_trainer(run, model, tokenizer, {}, {}, None, args.max_length).data_collator
    model.eval()
    batches, order = [], evaluation_order(windows)
    for at in range(0, len(order), EVAL_BATCH):
        rows = order[at : at + EVAL_BATCH]
        batch = collate([windows[int(i)] for i in rows])
        with torch.no_grad():
            outputs = model(**{name: batch[name] for name in MODEL_INPUTS if name in batch})
        scores = {"start": outputs.start_logits, "end": outputs.end_logits, "row": torch.from_numpy(rows)}
        batches.append(batch | scores)
    padded = np.full((2, len(windows), MAX_LENGTH), NO_SPAN, np.float32)
    for batch in batches:
        for end, scores in enumerate((batch["start"], batch["end"])):
            padded[end, batch["row"].numpy(), : scores.shape[1]] = scores.numpy()
    features = official_features(tokenizer, questions, False)
    sides = {
        "ours": lambda: deque(our_answers(windows, batches, questions)[1], maxlen=0),
        "official": partial(official_ways.answers_by_loops, questions, features, padded, OFFICIAL),
    }
    facts = compare_answers(our_answers(windows, batches, questions), sides["official"]())
    seconds = alternate(sides, options.repeats, options.cpu_time)
    part = f"post-processing, to the official loops over {N_BEST} x {N_BEST}"
    return [row(part, seconds["ours"], seconds["official"], len(questions), 5.0, unit="questions/s")], facts


# Memory


def resident(name: str) -> int:
    """Bytes of this process's `VmRSS` (resident now) or `VmHWM` (the most so far); Linux only."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def bookkeeping(keep_logits: bool, questions: int, windows: int) -> int:
    """Bytes at the peak that evaluating full windows adds to this process; the model apart, so random scores."""
    container, generator = EvalLoopContainer(), torch.Generator().manual_seed(0)
    example = np.minimum(np.arange(windows), questions - 1).astype(np.int32)
    begin, size = np.full(windows, 15, np.int32), PUBLISHED_LENGTH - 16
    characters = [np.arange(size, dtype=np.int32) * 5] * windows
    data = {"example": example, "context_begin": begin, "first_characters": characters, "last_characters": characters}
    data = Dataset.from_dict(data)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = resident("VmRSS")
    for at in range(0, windows, EVAL_BATCH):
        count = min(EVAL_BATCH, windows - at)
        batch = {name: torch.randn(count, PUBLISHED_LENGTH, generator=generator) for name in ("start", "end")}
        places = {"context_begin": 15, "context_end": PUBLISHED_LENGTH - 1, "null_at": 0}
        batch |= {name: torch.full((count,), place) for name, place in places.items()}
        container.add((batch["start"], batch["end"]) if keep_logits else spans_of(batch))
    kept = container.get_arrays()
    if not keep_logits:
        answers_of_questions(data, kept, N_BEST)
    return resident("VmHWM") - before


def memory(options: argparse.Namespace, tokenizer) -> tuple[list[dict], dict]:
    """Each side in a process of its own; both collect with the container that `Trainer` collects with."""
    questions, windows, peaks = 12_000, 14_000, {}
    for keep_logits in (False, True):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peaks[keep_logits] = pool.apply(bookkeeping, (keep_logits, questions, windows)) / 1e6
    values = {"part": f"peak memory of evaluating {questions:,} questions, to keeping all scores", "unit": "MB"}
    values |= {"ours": peaks[False], "reference": peaks[True], "ratio": peaks[True] / peaks[False]}
    values |= {"goal": "< 1000 MB", "met": peaks[False] < 1000}
    return [values], {"windows": windows, "MB of all scores, once": 2 * windows * PUBLISHED_LENGTH * 4 / 1e6}


# Results


def main(argv: list[str] | None = None) -> dict:
    """Measures, prints the table and returns {"rows", "checks", "setting"}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_file", required=True, help="SQuAD json")
    parser.add_argument("--validation_file", required=True, help="SQuAD json")
    parser.add_argument("--model", required=True, help="folder of an encoder with a fast tokenizer")
    parser.add_argument("--only", choices=PARTS, help="measure this part alone")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each side (default 3)")
    parser.add_argument("--train_questions", type=int, default=64, help="questions of one training pass (default 64)")
    parser.add_argument("--head_steps", type=int, default=60, help="training steps before post-processing (default 60)")
    parser.add_argument("--cpu_time", action="store_true", help="processor time, not the clock's: for a busy machine")
    parser.add_argument("--output", type=Path, help="write everything to this json file")
    options = parser.parse_args(argv)
    logging.disable(logging.INFO)  # the table is what is printed
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    disable_progress_bars()
    disable_caching()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    setting = {"repeats": options.repeats, "cores": os.cpu_count(), "cpu_time": options.cpu_time}
    results = {"rows": [], "checks": {}, "setting": setting}
    for part in PARTS if options.only is None else (options.only,):
        rows, results["checks"][part] = globals()[part](options, tokenizer)
        results["rows"] += rows
    return publish(results, options.output)


if __name__ == "__main__":
    main()
