"""Question and context as windows of tokens that overlap: cut, labelled, checked to fit the model.

The windows are those that a fast tokenizer gives for the pair with `truncation="only_second"`, `stride` and
`return_overflowing_tokens` (test: token for token), but each text of a batch is tokenised once, however many questions
are asked about it: a third of the time.
"""

import copy
import hashlib
from collections import defaultdict

import numpy as np
import pyarrow as pa
from datasets import Dataset
from torch.nn import Embedding

from common.cache import shared_map
from common.data import fingerprint
from common.errors import UserError
from common.text.squad import is_answerable, training_span

MODEL_INPUTS = ("input_ids", "token_type_ids")  # the collator adds attention_mask
LABELS = ("start_positions", "end_positions")
PLACES = ("context_begin", "context_end", "null_at")  # where an answer may lie, and the token that means "no answer"
PROBE = "Where stands the tower?", "The old tower stands in Brenn, built 1848."


class WindowCutter:
    """Cuts a batch of questions with their contexts into windows of at most `max_length` tokens, for `Dataset.map`.

    A window has `input_ids` and, where the tokenizer has them, `token_type_ids`; its `length`; the `example` it
    belongs to and the tokens of that whole pair (`pair_length`); `context_begin`, `context_end` and `null_at`. Labels
    are the positions of the answer's first and last token, or `null_at` where it is not whole inside the window.
    With `keep_characters`, `first_characters` and `last_characters` have where each token of the context stands in it.
    The order of question and context follows the tokenizer's padding side, as in the official examples. Every question
    must leave more than `stride` tokens for the context.
    """

    def __init__(self, tokenizer, max_length: int, stride: int, keep_characters: bool = False):
        self.tokenizer, self.max_length, self.stride = tokenizer, max_length, stride
        self.keep_characters, self.question_first = keep_characters, tokenizer.padding_side == "right"
        # The special tokens before, between and after two texts, and the types of these five parts, read off a pair.
        pair = tokenizer(*PROBE)
        ids, sequence = np.array(pair["input_ids"], np.int32), pair.sequence_ids(0)
        first, second = sequence.index(0), sequence.index(1)
        first_end, second_end = first + sequence.count(0), second + sequence.count(1)
        self.before, self.between, self.after = ids[:first], ids[first_end:second], ids[second_end:]
        self.specials = len(self.before) + len(self.between) + len(self.after)
        self.types = None
        if (kinds := pair.get("token_type_ids")) is not None:
            self.types = np.split(np.array(kinds, np.int8), [first, first_end, second, second_end])
            self.types[1::2] = [np.full(max_length, of_text[0], np.int8) for of_text in self.types[1::2]]

    def tokens(self, texts: list[str]) -> list[tuple[np.ndarray, ...]]:
        """Token ids of each text without special tokens, their first and one-past-last characters."""
        settings = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
        encoded = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, **settings)
        spans = (np.array(pairs, np.int32).reshape(-1, 2).T for pairs in encoded["offset_mapping"])
        return [(np.array(ids, np.int32), *span) for ids, span in zip(encoded["input_ids"], spans)]

    def __call__(self, batch: dict[str, list]) -> pa.Table:
        texts = list(dict.fromkeys(batch["context"]))
        contexts = dict(zip(texts, self.tokens(texts)))
        windows = defaultdict(list)
        for row, (question, *_) in enumerate(self.tokens(batch["question"])):
            ids, first, last = contexts[batch["context"][row]]
            span = training_span(batch["answers"][row]) if "answers" in batch else (-1, -1)
            # The first token that ends behind the answer's start, the last one that starts before its end.
            answer = last.searchsorted(span[0], "right"), first.searchsorted(span[1]) - 1
            room = self.max_length - self.specials - len(question)
            at = len(self.before) + (len(question) + len(self.between) if self.question_first else 0)
            for begin in range(0, max(len(ids) - self.stride, 1), room - self.stride):
                end = min(begin + room, len(ids))
                parts = [question, ids[begin:end]] if self.question_first else [ids[begin:end], question]
                parts = [self.before, parts[0], self.between, parts[1], self.after]
                tokens = np.concatenate(parts)
                null = int((tokens == self.tokenizer.cls_token_id).argmax())  # the first token where it is not there
                inside = span[0] >= 0 and begin <= answer[0] <= answer[1] < end
                windows["example"].append(batch["example"][row])
                windows["input_ids"].append(tokens)
                if self.types is not None:
                    types = [kinds[: len(part)] for kinds, part in zip(self.types, parts)]
                    windows["token_type_ids"].append(np.concatenate(types))
                windows["length"].append(len(tokens))
                windows["pair_length"].append(self.specials + len(question) + len(ids))
                for name, place in zip(PLACES, (at, at + end - begin, null)):
                    windows[name].append(place)
                if "answers" in batch:
                    for name, token in zip(LABELS, answer):
                        windows[name].append(int(token) - begin + at if inside else null)
                if self.keep_characters:
                    windows["first_characters"].append(first[begin:end])
                    windows["last_characters"].append(last[begin:end])
        return pa.table({name: pa.array(values) for name, values in windows.items()})


def cut(questions: Dataset, source: str, tokenizer, args, max_length: int, run=None) -> tuple[Dataset, Dataset]:
    """The questions that fit into a window, and all windows, a row a window, from the cache or by all processes.

    A row is what a batch needs; `column` reads the others. Both data sets keep the split of `questions`.

    Raises:
        UserError: a question is too long, and not --on_bad_example skip.
    """
    split = str(questions.split)
    cutter = WindowCutter(tokenizer, max_length, args.stride, keep_characters=split != "train")
    lengths = np.array([len(ids) for ids, *_ in cutter.tokens(questions["question"][:])])
    needed = lengths + cutter.specials + args.stride + 1
    if (fits := needed <= max_length).sum() < len(fits):
        worst = int(needed.argmax())
        if args.on_bad_example == "stop" or not fits.any():
            raise UserError(
                f"{source}: question {questions['id'][worst]!r} has {lengths[worst]} tokens and with --stride "
                f"{args.stride} needs --max_length {needed[worst]}, but a window has {max_length}; raise it, lower "
                "--stride or pass --on_bad_example skip"
            )
        questions = questions.select(np.flatnonzero(fits))
    key = {
        "questions": fingerprint(questions),
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "inputs": list(tokenizer.model_input_names),
        "cut": [max_length, args.stride, cutter.keep_characters, cutter.question_first],
    }
    numbered = questions.add_column("example", np.arange(len(questions)))
    settings = {"batched": True, "remove_columns": numbered.column_names}
    windows = shared_map(numbered, cutter, key=key, args=args, run=run, **settings)
    names = [name for name in (*MODEL_INPUTS, *LABELS, *PLACES, "length") if name in windows.column_names]
    return questions, Dataset(windows.data, split=split).with_format(None, columns=names)


def cut_splits(splits, tokenizer, args, max_length: int, run) -> dict[str, Dataset]:
    """`cut` for every split; says in their facts, and in warnings, what became of their questions."""
    windows = {}
    for name, questions in splits.items():
        facts = splits.facts[name]
        kept, windows[name] = cut(questions, facts["source"], tokenizer, args, max_length, run)
        facts["statistics"]["windows"] = len(windows[name])
        if len(kept) < len(questions):
            facts["skipped"] = {**facts["skipped"], "question too long": len(questions) - len(kept)}
            facts |= {"examples": len(kept), "fingerprint": fingerprint(kept)}
            splits[name] = kept
        if "answers" in kept.column_names and (asked := is_answerable(kept)).any():
            start, end, null_at = (column(windows[name], place) for place in (*LABELS, "null_at"))
            whole = (start != null_at) & (end - start < args.max_answer_length)
            asked[column(windows[name], "example")[whole]] = False
            if lost := int(asked.sum()):
                of = int(is_answerable(kept).sum())
                run.warn(
                    f"{name}: {lost:,} of {of:,} answers ({100 * lost / of:.1f} %) cannot be predicted: they have more "
                    f"than --max_answer_length {args.max_answer_length} tokens, or are whole in no window"
                )
    return windows


def column(windows: Dataset, name: str) -> np.ndarray:
    """int [W]: a column of numbers, also one that rows do not show."""
    return windows.data.column(name).to_numpy()


def fit_to_model(tokenizer, model, max_length: int) -> tuple[int, list[str]]:
    """How long windows may be, and warnings; makes the tokenizer give no token types that the model does not have.

    Raises:
        UserError: the tokenizer does not say where its tokens stand.
    """
    warnings = []
    for text in (PROBE[1], *PROBE[1].split()):
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        covered = {at for first, last in offsets for at in range(first, last)}
        if lost := [letter for at, letter in enumerate(text) if not letter.isspace() and at not in covered]:
            raise UserError(
                f"{tokenizer.name_or_path}: the tokenizer does not say rightly where its tokens stand (of {text!r} it "
                f"loses {lost[0]!r}), so answers would lose letters; give another --tokenizer_name or --model"
            )
    tables = {path.rpartition(".")[2]: part for path, part in model.named_modules() if isinstance(part, Embedding)}
    longest = tokenizer.model_max_length
    if (positions := tables.get("position_embeddings")) is not None:
        used = 0 if positions.padding_idx is None else positions.padding_idx + 1  # RoBERTa's begin behind the padding
        longest = min(longest, positions.num_embeddings - used)
    if longest < max_length:
        warnings.append(f"windows have {longest} tokens, the most that this model takes, not --max_length {max_length}")
    types = tables.get("token_type_embeddings")
    if "token_type_ids" in tokenizer.model_input_names and types is not None and types.num_embeddings < 2:
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
        warnings.append("the tokenizer gives token types that this model does not have; they are left out")
    return min(longest, max_length), warnings


def right_padding(tokenizer):
    """A copy that pads on the right, which is right for every encoder: positions do not depend on the batch then."""
    padder = copy.deepcopy(tokenizer)
    padder.padding_side = "right"
    return padder
