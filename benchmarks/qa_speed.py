"""How fast the parts of run_qa.py are, beside plain references that stand in this file, in one run.

    python -m benchmarks.qa_speed --train_file train.json --validation_file dev.json --model DIR
    python -m benchmarks.qa_speed ... --only training --repeats 5 --output qa_speed.json

The references do what the official example for question answering does, written from its definition. Both sides of a
row get the same data and take turns; a row holds the ratio of the medians. Where the two must agree in what they
compute, that is checked, and a disagreement ends the run. For tokenizers that pad on the right and start with the class
token (BERT, DistilBERT, RoBERTa, XLM-R). `benchmarks/README.md` says what the rows mean.
"""

import argparse
import contextlib
import gc
import multiprocessing
import os
import re
import tempfile
import time
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, disable_caching, disable_progress_bars
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, logging, set_seed
from transformers.trainer_pt_utils import EvalLoopContainer

import common.legacy.trainer
import run_qa
from benchmarks.side_by_side import alternate, publish, row
from common.legacy.arguments import DataArguments, ModelArguments, parse_arguments
from common.legacy.run import StopRequest
from common.legacy.samplers import InOrder, LengthGroupedSampler
from common.legacy.spans import NO_SPAN, answers_of_questions, best_spans_of_windows
from common.legacy.squad import Questions, read_questions
from common.legacy.text import TokenLists, Windows, collate_windows, tokenize
from common.legacy.trainer import FinetuneTrainer, Head

MAX_LENGTH, PUBLISHED_LENGTH, STRIDE = 384, 512, 128
BATCH, EVAL_BATCH = (run_qa.RECIPE[f"per_device_{phase}_batch_size"] for phase in ("train", "eval"))
SPANS = {"n_best": 20, "max_answer_length": 30}
PARTS = ("preprocessing", "training", "postprocessing", "memory")
LENGTHS: dict[str, tuple[int, ...]] = {  # sides of training: tokens a window at most, and to which it is padded
    "ours": (MAX_LENGTH,),
    "ours, bare": (MAX_LENGTH,),  # a bare loop with our dropout and allocator
    "bare": (MAX_LENGTH,),
    "padded": (MAX_LENGTH, MAX_LENGTH),
    "ours, long": (PUBLISHED_LENGTH,),
    "padded, long": (PUBLISHED_LENGTH, PUBLISHED_LENGTH),
}
TRAININGS = None  # of a process that trains


# Preprocessing


def our_windows(tokenizer, questions: Questions, length: int = MAX_LENGTH, pad_to: int | None = None) -> Windows:
    """What run_qa.py does, without its cache."""
    tokens = tokenize(tokenizer, questions.questions), tokenize(tokenizer, questions.contexts)
    data = {"examples": questions, "answers": questions.training_spans()}
    return Windows(tokenizer, *tokens, questions.context_of, max_length=length, stride=STRIDE, pad_to=pad_to, **data)


def plain_encoding(tokenizer, questions: list[str], contexts: list[str]):
    """The tokenizer's own windows over pairs, with offsets, not padded."""
    cutting = {"truncation": "only_second", "max_length": MAX_LENGTH, "stride": STRIDE, "padding": False}
    return tokenizer(questions, contexts, **cutting, return_overflowing_tokens=True, return_offsets_mapping=True)


def plain_features(tokenizer, rows: Dataset) -> Dataset:
    """Windows with labels by `Dataset.map`: every pair is tokenised, and every window's offsets are walked."""

    def label(batch):
        encoded = plain_encoding(tokenizer, [q.lstrip() for q in batch["question"]], batch["context"])
        owner, offsets = encoded.pop("overflow_to_sample_mapping"), encoded.pop("offset_mapping")
        encoded["start_positions"], encoded["end_positions"] = [], []
        for window, places in enumerate(offsets):
            null = encoded["input_ids"][window].index(tokenizer.cls_token_id)
            text_of, answers = encoded.sequence_ids(window), batch["answers"][owner[window]]
            start = end = null
            if answers["answer_start"]:
                first_character = answers["answer_start"][0]
                last_character = first_character + len(answers["text"][0])
                left, right = 0, len(places) - 1
                while text_of[left] != 1:
                    left += 1
                while text_of[right] != 1:
                    right -= 1
                if places[left][0] <= first_character and places[right][1] >= last_character:
                    while left < len(places) and places[left][0] <= first_character:
                        left += 1
                    while places[right][1] >= last_character:
                        right -= 1
                    start, end = left - 1, right + 1
            encoded["start_positions"].append(start)
            encoded["end_positions"].append(end)
        return encoded

    return rows.map(label, batched=True, remove_columns=rows.column_names, load_from_cache_file=False)


def compare_labels(windows: Windows, features: Dataset) -> dict[str, int]:
    """Counts windows and differing labels; anything but the official walk's step over the edge ends the run.

    The walk to the start does not end at the context's last token: where an answer starts there, it runs over the
    separator behind it (whose offsets are 0, 0) to the end of the window.
    """
    if not np.array_equal(windows.lengths, [len(ids) for ids in features["input_ids"]]):
        raise SystemExit(f"the windows differ: {len(windows)} here, {len(features)} in the reference")
    ours, theirs = windows.targets, np.column_stack([features["start_positions"], features["end_positions"]])
    last = windows.context_at + windows.end - windows.begin - 1
    edge = (ours[:, 0] == last) & (theirs[:, 0] == last + 1) & (ours[:, 1] == theirs[:, 1])
    other = np.flatnonzero((ours != theirs).any(axis=1) & ~edge)
    if len(other):
        raise SystemExit(f"{len(other)} labels differ, for instance {ours[other[0]]} and {theirs[other[0]]}")
    return {"windows": len(windows), "labels off by one in the reference": int(edge.sum())}


def preprocessing(options: argparse.Namespace, tokenizer, questions: Questions) -> tuple[list[dict], dict]:
    """All questions, and every third: about as many to a text as the published sample of SQuAD v2 has."""
    rows, facts = [], {}
    for chosen in (questions, questions.take(np.arange(0, len(questions), 3))):
        contexts = [chosen.context(i) for i in range(len(chosen))]
        spans = [[span] if span[0] >= 0 else [] for span in chosen.training_spans().tolist()]
        answers = [
            {"text": [context[a:b] for a, b in span], "answer_start": [a for a, _ in span]}
            for context, span in zip(contexts, spans)
        ]
        table = Dataset.from_dict({"question": chosen.questions, "context": contexts, "answers": answers})

        def tokenizer_alone(asked=chosen.questions, contexts=contexts):
            for i in range(0, len(contexts), 1000):
                plain_encoding(tokenizer, asked[i : i + 1000], contexts[i : i + 1000])

        sides = {
            "ours": partial(our_windows, tokenizer, chosen),
            "Dataset.map": partial(plain_features, tokenizer, table),
            "the tokenizer alone": tokenizer_alone,
        }
        shared = f"{len(chosen) / len(chosen.contexts):.1f} questions a text"
        facts[shared] = compare_labels(sides["ours"](), sides["Dataset.map"]())
        seconds = alternate(sides, options.repeats, options.cpu_time)
        for what, goal in (("Dataset.map", 2.5), ("the tokenizer alone", 0.8)):
            part = f"preprocessing, {shared}, to {what}"
            rows.append(row(part, seconds["ours"], seconds[what], len(chosen), goal, unit="questions/s"))
    return rows, facts


# Training


class Counting:
    """`collate_windows`, counting the tokens of its batches with their padding."""

    def __init__(self):
        self.tokens = 0

    def __call__(self, items: list) -> dict:
        batch = collate_windows(items)
        self.tokens += batch["input_ids"].numel()
        return batch


def make_trainer(options: argparse.Namespace, model, windows: Windows, folder: str, **settings) -> FinetuneTrainer:
    """The trainer of run_qa.py with its own arguments, without evaluation and saving."""
    flags = {"model": options.model, "train_file": options.train_file, "output_dir": folder, "num_train_epochs": 1}
    flags |= {"per_device_train_batch_size": BATCH, "learning_rate": 1e-5, "lr_scheduler_type": "constant"}
    flags |= {"do_train": True, "save_strategy": "no", "disable_tqdm": True, "report_to": "none", **settings}
    flags["train_sampling_strategy"] = "sequential" if isinstance(windows, Picked) else "group_by_length"
    groups = (run_qa.QuestionAnsweringArguments, DataArguments, ModelArguments)
    argv = [f"--{name}={value}" for name, value in flags.items()]
    training = parse_arguments(groups, argv, recipe=run_qa.RECIPE, description="").groups[-1]
    losses = partial(run_qa.span_losses, smoothing=0.0)
    head = Head(("targets", "context_mask", "null_at"), losses, keep=None, score=None, has_truth=None)  # no evaluation
    parts = {"head": head, "stop": StopRequest(), "data_collator": Counting()}
    trainer = FinetuneTrainer(model=model, args=training, train_dataset=windows, **parts)
    trainer.log = lambda *args, **kwargs: None  # the table is what is printed
    return trainer


def model_inputs(batch: dict, model) -> dict:
    """What the model takes of a batch, where the model is."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: batch[name].to(model.device) for name in names if name in batch}


def bare_loop(trainer: FinetuneTrainer) -> None:
    """What training is at the least: the trainer's batches in its order, and torch."""
    args, model = trainer.args, trainer.model
    settings = {"sampler": trainer._get_train_sampler(), "collate_fn": collate_windows}
    loader = torch.utils.data.DataLoader(trainer.train_dataset, BATCH, **settings)
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) == wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": args.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, fused=True)
    model.train()
    for batch in islice(loader, args.max_steps if args.max_steps > 0 else None):
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        optimizer.zero_grad()
        with common.trainer.quick_dropout(args):  # in the process of the references: nothing
            run_qa.span_losses(model(**model_inputs(batch, model)), batch, 0.0).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()


class Picked(torch.utils.data.Dataset):
    """Some batches of an epoch over all windows, in the sampler's own composition: one at every so many by length.

    A few questions drawn at random would not find others of their length, and their batches would need padding that
    those of a real epoch do not need.
    """

    def __init__(self, windows: Windows, count: int):
        epoch = np.array(list(LengthGroupedSampler(windows.lengths, BATCH, seed=0)))
        batches = epoch[: len(epoch) // BATCH * BATCH].reshape(-1, BATCH)
        by_length = np.argsort(windows.lengths[batches].max(axis=1), kind="stable")
        picked = by_length[((np.arange(count) + 0.5) * len(batches) / count).astype(int)]
        self.windows, self.rows = windows, batches[picked].ravel()
        self.lengths = windows.lengths[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[Windows, int]:
        return self.windows, int(self.rows[i])


class Trainings:
    """What a process needs to train some sides, each from the same weights and random state.

    Args:
        stock: memory and dropout are PyTorch's, without `common.legacy.allocator` and `common.legacy.dropout`, which are ours.
    """

    def __init__(self, options: argparse.Namespace, names: list[str], stock: bool):
        if stock:
            common.trainer.keep_freed_memory = lambda: None
            common.trainer.quick_dropout = lambda args: contextlib.nullcontext()
        quiet()
        set_seed(0)
        self.options = options
        self.model = AutoModelForQuestionAnswering.from_pretrained(options.model)
        self.initial = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.dropouts = [(m, m.p) for m in self.model.modules() if isinstance(m, torch.nn.Dropout)]
        tokenizer = AutoTokenizer.from_pretrained(options.model)
        questions = read_questions(options.train_file, truth=True, skip_bad=False)
        count = max(1, options.train_questions // BATCH)
        self.windows = {name: Picked(our_windows(tokenizer, questions, *LENGTHS[name]), count) for name in names}

    def train(self, name: str, dropout: bool = True, **settings) -> tuple[float, dict, np.ndarray]:
        """Seconds, facts about the batches, and the weights afterwards."""
        for module, p in self.dropouts:
            module.p = p if dropout else 0.0
        clock = time.process_time if self.options.cpu_time else time.perf_counter
        with tempfile.TemporaryDirectory() as folder:
            self.model.load_state_dict(self.initial)
            trainer = make_trainer(self.options, self.model, self.windows[name], folder, **settings)
            set_seed(0)
            gc.collect()
            start = clock()
            bare_loop(trainer) if "bare" in name else trainer.train()
            seconds = clock() - start
        facts = {"windows": len(self.windows[name]), "tokens": trainer.data_collator.tokens}
        return seconds, facts, torch.cat([p.detach().flatten() for p in self.model.parameters()]).numpy()


def start_trainings(*arguments) -> None:
    """Of a process: makes its `Trainings`."""
    global TRAININGS
    TRAININGS = Trainings(*arguments)


def train_side(name: str, settings: dict) -> tuple[float, dict, np.ndarray]:
    """In such a process: `Trainings.train`."""
    return TRAININGS.train(name, **settings)


def training(options: argparse.Namespace) -> tuple[list[dict], dict]:
    """One pass over the same batches for every side; ours in one process, the plain references in another."""
    spawn, ours = multiprocessing.get_context("spawn"), [name for name in LENGTHS if name.startswith("ours")]
    seconds, facts, weights = {name: [] for name in LENGTHS}, {}, {}
    with contextlib.ExitStack() as stack:
        pools = {}
        for names, stock in ((ours, False), ([name for name in LENGTHS if name not in ours], True)):
            pool = stack.enter_context(spawn.Pool(1, start_trainings, (options, names, stock)))
            pools |= dict.fromkeys(names, pool)
        for name in LENGTHS:  # warm-up, and whether trainer and loop do the same
            *_, weights[name] = pools[name].apply(train_side, (name, {"dropout": False, "max_steps": 2}))
        for _ in range(options.repeats):
            for name, pool in pools.items():
                took, facts[name], _ = pool.apply(train_side, (name, {}))
                seconds[name].append(took)
    compared = (
        (f"every window padded to {MAX_LENGTH}", "ours", "padded", 3.0),
        (f"every window padded to {PUBLISHED_LENGTH}", "ours, long", "padded, long", 5.0),
        ("a bare torch loop", "ours", "bare", 0.9),
        ("a bare torch loop with our dropout", "ours", "ours, bare", 0.9),
    )
    rows = [
        row(f"training, to {what}", seconds[a], seconds[b], facts[a]["windows"], goal, unit="windows/s")
        for what, a, b, goal in compared
    ]
    tokens = {name: round(found["tokens"] / found["windows"]) for name, found in facts.items() if found["tokens"]}
    apart = max(float(np.abs(weights["ours"] - weights[name]).max()) for name in ("ours, bare", "bare"))
    if apart > 1e-6:  # a tenth of a step at this learning rate
        raise SystemExit(f"two steps without dropout: weights of the trainer and of a bare loop differ by {apart:g}")
    found = {"windows": facts["ours"]["windows"], "tokens a window, with padding": tokens}
    return rows, found | {"largest difference of weights to a bare loop after two steps without dropout": apart}


# Post-processing


def logits_of(options: argparse.Namespace, tokenizer, questions: Questions, windows: Windows) -> list[dict]:
    """Batches of `windows` in evaluation order with the scores of a model that was fine-tuned for a minute or so."""
    set_seed(0)
    model = AutoModelForQuestionAnswering.from_pretrained(options.model)
    short = our_windows(tokenizer, questions)
    with tempfile.TemporaryDirectory() as folder:
        make_trainer(options, model, short, folder, max_steps=options.head_steps, learning_rate=1e-4).train()
    model.eval()
    order, batches = InOrder(windows.lengths).order, []
    for at in range(0, len(order), EVAL_BATCH):
        batch = collate_windows([windows[i] for i in order[at : at + EVAL_BATCH]])
        with torch.no_grad():
            output = model(**model_inputs(batch, model))
        batches.append(batch | {"start": output.start_logits.cpu(), "end": output.end_logits.cpu()})
    return batches


def spans_of(batch: dict) -> tuple:
    """What run_qa.py keeps of a batch."""
    return best_spans_of_windows(*(batch[name] for name in ("start", "end", "context_mask", "null_at")), **SPANS)


def our_answers(windows: Windows, batches: list[dict], questions: Questions) -> tuple:
    """(the n best answers, the best one's text) of each question."""
    kept = [torch.cat(tensors).numpy() for tensors in zip(*(spans_of(batch) for batch in batches))]
    order = np.argsort(torch.cat([batch["row"] for batch in batches]).numpy())
    answers = answers_of_questions(windows, tuple(array[order] for array in kept), SPANS["n_best"])
    return answers, answers.n_best(questions, with_null=True)


def plain_answers(questions: Questions, features: list[list[tuple]]) -> list[list[dict]]:
    """The n best answers of each question, "no answer" among them, by three loops and a dictionary a candidate.

    A feature is (start scores, end scores, characters of each token or None outside the context).
    """
    n_best, longest = SPANS["n_best"], SPANS["max_answer_length"]
    found = []
    for question, windows in enumerate(features):
        null, candidates = None, []
        for start, end, places in windows:
            score = start[0] + end[0]
            if null is None or null["score"] > score:
                null = {"place": (0, 0), "score": score, "start_score": start[0], "end_score": end[0]}
            starts = np.argsort(start)[-1 : -n_best - 1 : -1].tolist()
            ends = np.argsort(end)[-1 : -n_best - 1 : -1].tolist()
            for first in starts:
                for last in ends:
                    if places[first] is None or places[last] is None:
                        continue
                    if last < first or last - first + 1 > longest:
                        continue
                    candidates.append(
                        {
                            "place": (places[first][0], places[last][1]),
                            "score": start[first] + end[last],
                            "start_score": start[first],
                            "end_score": end[last],
                        }
                    )
        best = sorted(candidates, key=lambda c: c["score"], reverse=True)[:n_best]
        best = sorted([*best, null], key=lambda c: c["score"], reverse=True)
        context = questions.context(question)
        for candidate in best:
            first, last = candidate["place"]
            candidate["text"] = context[first:last]
        scores = np.array([candidate["score"] for candidate in best])
        shares = np.exp(scores - scores.max())
        for candidate, share in zip(best, shares / shares.sum()):
            candidate["probability"] = share
        found.append(best)
    return found


def compare_answers(ours: tuple, reference: list[list[dict]]) -> dict[str, int]:
    """Counts best answers that differ; one of ours with a lower score, or another null score, ends the run."""
    answers, n_best = ours
    nulls = np.array([next(c["score"] for c in best if c["place"] == (0, 0)) for best in reference])
    if not np.array_equal(answers.null, nulls):
        raise SystemExit("the scores of 'no answer' differ")
    differ = higher = 0
    for entries, best in zip(n_best, reference):
        mine = next(e for e in entries if e["start"] is not None)
        other = next((c for c in best if c["place"] != (0, 0)), {"score": NO_SPAN, "place": (-1, -1), "text": ""})
        if mine["score"] < other["score"]:
            raise SystemExit(f"{mine} scores lower than the reference's {other}")
        differ += (mine["start"], mine["text"]) != (other["place"][0], other["text"])
        higher += bool(mine["score"] > other["score"])
    return {"questions": len(reference), "best answer differs": differ, "ours scores higher": higher}


def postprocessing(options: argparse.Namespace, tokenizer, train: Questions, validation: Questions):
    """Both sides start from the same scores, in the form that suits them."""
    windows = our_windows(tokenizer, validation)
    batches = logits_of(options, tokenizer, train, windows)
    features = [[] for _ in range(len(validation))]
    scores = {r: (b["start"][i], b["end"][i]) for b in batches for i, r in enumerate(b["row"].tolist())}
    for r, question in enumerate(windows.pair.tolist()):
        start, end = (tensor[: windows.lengths[r]].numpy() for tensor in scores[r])
        places = [None] * len(start)
        tokens = slice(windows.begin[r], windows.end[r])
        characters = zip(windows.contexts.first[tokens].tolist(), windows.contexts.last[tokens].tolist())
        places[windows.context_at[r] : windows.context_at[r] + windows.end[r] - windows.begin[r]] = characters
        features[question].append((start, end, places))
    sides = {
        "ours": partial(our_answers, windows, batches, validation),
        "loops": partial(plain_answers, validation, features),
    }
    facts = compare_answers(sides["ours"](), sides["loops"]())
    seconds = alternate(sides, options.repeats, options.cpu_time)
    part = f"post-processing, to loops over {SPANS['n_best']} x {SPANS['n_best']}"
    return [row(part, seconds["ours"], seconds["loops"], len(validation), 5.0, unit="questions/s")], facts


# Memory


def resident(name: str) -> int:
    """Bytes of this process's `VmRSS` (resident now) or `VmHWM` (the most so far); Linux only."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def synthetic_windows(model: str, questions: int, windows: int) -> Windows:
    """Full windows: every question has 12 tokens and a text of its own, which fills one window or more than one."""
    tokenizer = AutoTokenizer.from_pretrained(model)

    def tokens(counts: np.ndarray) -> TokenLists:
        begin = np.concatenate([[0], np.cumsum(counts)])
        first = (np.arange(begin[-1]) - np.repeat(begin[:-1], counts)).astype(np.int32) * 5
        return TokenLists(np.zeros(begin[-1], np.int32), begin, first, first + 4)

    counts = np.full(questions, PUBLISHED_LENGTH - 12 - tokenizer.num_special_tokens_to_add(pair=True))
    counts[: windows - questions] += 100
    asked, texts = tokens(np.full(questions, 12)), tokens(counts)
    return Windows(tokenizer, asked, texts, np.arange(questions), max_length=PUBLISHED_LENGTH, stride=STRIDE)


def bookkeeping(model: str, keep_logits: bool, questions: int, windows: int) -> tuple[int, int]:
    """(windows, bytes at the peak that their evaluation adds to this process); the model apart, so random scores."""
    data = synthetic_windows(model, questions, windows)
    order, container, generator = InOrder(data.lengths).order, EvalLoopContainer(), torch.Generator().manual_seed(0)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = resident("VmRSS")
    for at in range(0, len(order), EVAL_BATCH):
        batch = collate_windows([data[i] for i in order[at : at + EVAL_BATCH]])
        for name in ("start", "end"):
            batch[name] = torch.randn(batch["input_ids"].shape, generator=generator)
        container.add((batch["start"], batch["end"]) if keep_logits else spans_of(batch))
    kept = container.get_arrays()
    if not keep_logits:
        rows = np.argsort(order)
        answers_of_questions(data, tuple(array[rows] for array in kept), SPANS["n_best"])
    return len(data), resident("VmHWM") - before


def memory(options: argparse.Namespace) -> tuple[list[dict], dict]:
    """Each side in a process of its own; both collect with the container that `Trainer` collects with."""
    questions, windows, peaks = 12_000, 14_000, {}
    for keep_logits in (False, True):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            cut, peaks[keep_logits] = pool.apply(bookkeeping, (options.model, keep_logits, questions, windows))
    ours, reference = peaks[False] / 1e6, peaks[True] / 1e6
    values = {"part": f"peak memory of evaluating {questions:,} questions, to keeping all scores", "ours": ours}
    values |= {"reference": reference, "unit": "MB", "ratio": reference / ours, "goal": "< 1000 MB", "met": ours < 1000}
    scores = 2 * cut * PUBLISHED_LENGTH * 4
    return [values], {"windows": cut, "MB of all scores, once": scores / 1e6}


# Results


def quiet() -> None:
    """The table is what is printed."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    disable_caching()


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
    quiet()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    train = read_questions(options.train_file, truth=True, skip_bad=False)
    validation = read_questions(options.validation_file, truth=True, skip_bad=False)
    measure = {
        "preprocessing": lambda: preprocessing(options, tokenizer, train),
        "training": lambda: training(options),
        "postprocessing": lambda: postprocessing(options, tokenizer, train, validation),
        "memory": lambda: memory(options),
    }
    results = {
        "rows": [],
        "checks": {},
        "setting": {"repeats": options.repeats, "cores": os.cpu_count(), "cpu_time": options.cpu_time},
    }
    for part in PARTS if options.only is None else (options.only,):
        rows, results["checks"][part] = measure[part]()
        results["rows"] += rows
    return publish(results, options.output)


if __name__ == "__main__":
    main()
