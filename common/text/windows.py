"""Question and context as windows of tokens that overlap, as in the official examples: cut and labelled."""

import copy
import hashlib
from collections import defaultdict
from functools import partial

import numpy as np
import pyarrow as pa
from datasets import Dataset

from common.cache import shared_map
from common.data import fingerprint
from common.errors import UserError
from common.text.squad import is_answerable, training_span

MODEL_INPUTS = ("input_ids", "token_type_ids")  # the collator adds attention_mask
LABELS = ("start_positions", "end_positions")
PLACES = ("context_begin", "context_end", "null_at")  # where an answer may lie, and the token that means "no answer"
PROBE = "The old tower stands in Brenn, built 1848."


def cut_batch(batch: dict[str, list], tokenizer, max_length: int, stride: int, keep_characters: bool) -> pa.Table:
    """Windows of at most `max_length` tokens of a batch of questions with their contexts, for `Dataset.map`.

    They are those of a tokenizer with truncation="only_second" and `stride`, but each text is tokenised once, however
    many questions are asked about it: a third of the time. A window has what the model takes, its `length`, the
    `example` it belongs to, the tokens of that whole pair (`pair_length`), and `PLACES`. `LABELS` are the positions of
    the answer's first and last token, or `null_at` where it is not whole inside the window. With `keep_characters`,
    `first_characters` and `last_characters` have where each token of the context stands in it.
    """
    question_first = tokenizer.padding_side == "right"
    (before, between, after), types = _layout(tokenizer)
    specials = len(before) + len(between) + len(after)
    texts, windows = [*dict.fromkeys(batch["context"])], defaultdict(list)
    contexts = dict(zip(texts, _tokens(tokenizer, texts)))
    for row, (question, *_) in enumerate(_tokens(tokenizer, batch["question"])):
        ids, first, last = contexts[batch["context"][row]]
        start, stop = training_span(batch["answers"][row]) if "answers" in batch else (-1, -1)
        # The first token that ends behind the answer's start, the last one that starts before its end.
        answer = last.searchsorted(start, "right"), first.searchsorted(stop) - 1
        room, at = max_length - specials - len(question), len(before)
        at += len(question) + len(between) if question_first else 0
        for begin in range(0, max(len(ids) - stride, 1), room - stride):
            end = min(begin + room, len(ids))
            pair = (question, ids[begin:end]) if question_first else (ids[begin:end], question)
            parts = [before, pair[0], between, pair[1], after]
            tokens = np.concatenate(parts)
            null = int((tokens == tokenizer.cls_token_id).argmax())  # the first token where it is not there
            window = {"example": batch["example"][row], "input_ids": tokens, "length": len(tokens)}
            window |= {"pair_length": specials + len(question) + len(ids)}
            window |= dict(zip(PLACES, (at, at + end - begin, null)))
            if types:
                window["token_type_ids"] = np.concatenate([np.resize(t, len(part)) for t, part in zip(types, parts)])
            if "answers" in batch:
                inside = start >= 0 and begin <= answer[0] <= answer[1] < end
                window |= {name: int(t) - begin + at if inside else null for name, t in zip(LABELS, answer)}
            if keep_characters:
                window |= {"first_characters": first[begin:end], "last_characters": last[begin:end]}
            for name, value in window.items():
                windows[name].append(value)
    return pa.table({name: pa.array(values) for name, values in windows.items()})


def _layout(tokenizer) -> tuple[tuple, list[np.ndarray] | None]:
    """The special tokens before, between and after two texts; the token types of these five parts, if there are any."""
    pair = tokenizer(PROBE, PROBE)
    parts, types = pair.sequence_ids(0), pair.get("token_type_ids")
    ends = [end for part in (0, 1) for end in (parts.index(part), parts.index(part) + parts.count(part))]
    before, _, between, _, after = np.split(np.array(pair["input_ids"], np.int32), ends)
    return (before, between, after), types and np.split(np.array(types, np.int8), ends)


def _tokens(tokenizer, texts: list[str]) -> list[tuple[np.ndarray, ...]]:
    """Of each text without special tokens: ids, first and one-past-last characters of the tokens."""
    settings = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    found = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, **settings)
    spans = (np.array(pairs, np.int32).reshape(-1, 2).T for pairs in found["offset_mapping"])
    return [(np.array(ids, np.int32), *span) for ids, span in zip(found["input_ids"], spans)]


def cut_splits(splits, tokenizer, args, max_length: int, run) -> dict[str, Dataset]:
    """Split -> its windows, a row a window, from the cache or by all processes.

    A row is what a batch needs; `column` reads the others. What became of the questions is said in the splits' facts.

    Raises:
        UserError: a question is too long, or the tokenizer does not say where its tokens stand.
    """
    _require_offsets(tokenizer)
    windows, specials = {}, tokenizer.num_special_tokens_to_add(pair=True)
    for name, questions in splits.items():
        facts = splits.facts[name]
        lengths = [len(ids) for ids in tokenizer(questions["question"][:], add_special_tokens=False)["input_ids"]]
        needed = np.array(lengths) + specials + args.stride + 1
        if (fits := needed <= max_length).sum() < len(fits):
            worst = int(needed.argmax())
            if args.on_bad_example == "stop" or not fits.any():
                raise UserError(
                    f"{facts['source']}: question {questions['id'][worst]!r} has {lengths[worst]} tokens and with "
                    f"--stride {args.stride} needs --max_length {needed[worst]}, but a window has {max_length}; raise "
                    "it, lower --stride or pass --on_bad_example skip"
                )
            splits[name] = questions = questions.select(np.flatnonzero(fits))
            facts["skipped"] = {**facts["skipped"], "question too long": int((~fits).sum())}
            facts |= {"examples": len(questions), "fingerprint": fingerprint(questions)}
        settings = {"max_length": max_length, "stride": args.stride, "keep_characters": name != "train"}
        key = {
            "questions": fingerprint(questions),
            "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
            "inputs": list(tokenizer.model_input_names),
            "cut": [*settings.values(), tokenizer.padding_side],
        }
        numbered = questions.add_column("example", np.arange(len(questions)))
        cutter = partial(cut_batch, tokenizer=tokenizer, **settings)
        mapped = {"batched": True, "remove_columns": numbered.column_names}
        found = shared_map(numbered, cutter, key=key, args=args, run=run, **mapped)
        shown = [n for n in (*MODEL_INPUTS, *LABELS, *PLACES, "length") if n in found.column_names]
        windows[name] = Dataset(found.data, split=name).with_format(None, columns=shown)
        facts["statistics"]["windows"] = len(found)
        if "answers" in questions.column_names:
            start, end, null_at, example = (column(found, place) for place in (*LABELS, "null_at", "example"))
            whole = (start != null_at) & (end - start < args.max_answer_length)
            answerable = np.flatnonzero(is_answerable(questions))
            if lost := len(np.setdiff1d(answerable, example[whole])):
                run.warn(
                    f"{name}: {lost:,} of {len(answerable):,} answers ({100 * lost / len(answerable):.1f} %) cannot be "
                    f"predicted: they have more than --max_answer_length {args.max_answer_length} tokens, or are whole "
                    "in no window"
                )
    return windows


def column(windows: Dataset, name: str) -> np.ndarray:
    """int [W]: a column of numbers, also one that rows do not show."""
    return windows.data.column(name).to_numpy()


def _require_offsets(tokenizer) -> None:
    for text in (PROBE, *PROBE.split()):
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        covered = {at for first, last in offsets for at in range(first, last)}
        if lost := [letter for at, letter in enumerate(text) if not letter.isspace() and at not in covered]:
            raise UserError(
                f"{tokenizer.name_or_path}: the tokenizer does not say rightly where its tokens stand (of {text!r} it "
                f"loses {lost[0]!r}), so answers would lose letters; give another --tokenizer_name or --model"
            )


def right_padding(tokenizer):
    """A copy that pads on the right, so that positions do not depend on the batch."""
    padder = copy.deepcopy(tokenizer)
    padder.padding_side = "right"
    return padder
