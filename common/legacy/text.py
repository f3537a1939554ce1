"""Pairs of texts as windows of tokens: cut with overlap, labelled, and put together a batch at a time.

A context is tokenised once, however many questions are asked about it, and kept as flat arrays of integers; a batch is
assembled when it is needed. So preparing costs less than tokenising every pair, and memory does not grow with the
number of windows times their length. The windows are those that a fast tokenizer gives for the pair with
`truncation="only_second"`, `stride` and `return_overflowing_tokens` (test: token for token).
"""

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.legacy.cache import cached_arrays
from common.legacy.data import fingerprint
from common.legacy.errors import UserError


@dataclass
class TokenLists:
    """Tokens of many texts, end to end: text i is `ids[begin[i]:begin[i + 1]]`.

    Attributes:
        ids: int32 [T].
        begin: int64 [texts + 1].
        first, last: int32 [T], first and one-past-last character of each token in its text.
    """

    ids: np.ndarray
    begin: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """int64 [texts]: tokens of each text."""
        return np.diff(self.begin)

    def arrays(self) -> dict[str, np.ndarray]:
        """The four arrays by name, for a cache."""
        return {"ids": self.ids, "begin": self.begin, "first": self.first, "last": self.last}


def tokenize(tokenizer, texts: list[str], chunk: int = 2048) -> TokenLists:
    """Tokenises `texts` with a fast tokenizer, without special tokens, on all cores."""
    backend = _whole_texts(tokenizer)
    ids, spans, counts = [], [], []
    for start in range(0, len(texts), chunk):  # chunks: an encoding is far larger than the arrays kept of it
        for encoding in backend.encode_batch(texts[start : start + chunk], add_special_tokens=False):
            ids.append(np.array(encoding.ids, dtype=np.int32))
            spans.append(np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2))
            counts.append(len(ids[-1]))
    offsets = np.concatenate(spans) if spans else np.zeros((0, 2), np.int32)
    return TokenLists(
        ids=np.concatenate(ids) if ids else np.zeros(0, np.int32),
        begin=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        first=np.ascontiguousarray(offsets[:, 0]),
        last=np.ascontiguousarray(offsets[:, 1]),
    )


def _whole_texts(tokenizer):
    """The fast tokenizer without truncation and padding, whatever its last call or its file have set."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend


def tokenize_once(tokenizer, texts: list[str], root: Path, *, overwrite: bool) -> TokenLists:
    """`tokenize`, kept in the cache at `root` under the tokenizer's and the texts' content."""
    key = {
        "tokenizer": hashlib.sha256(_whole_texts(tokenizer).to_str().encode()).hexdigest(),
        "texts": fingerprint((text,) for text in texts),
    }
    return TokenLists(**cached_arrays(key, lambda: tokenize(tokenizer, texts).arrays(), root, overwrite=overwrite))


@dataclass(frozen=True)
class PairTemplate:
    """The special tokens that a tokenizer puts before, between and after two texts, learnt from a probe.

    Attributes:
        before, between, after: token ids.
        types: token types of (before, first text, between, second text, after), one for each special token (XLNet's
            two last ones differ) and one for all tokens of a text; None where the model has none.
        null_in_after, null_offset: where the token stands that a model points at for "no answer": in `after` or in
            `before`, and at which place there.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[tuple[int, ...], ...] | None
    null_in_after: bool
    null_offset: int

    @property
    def specials(self) -> int:
        """How many special tokens a pair has."""
        return len(self.before) + len(self.between) + len(self.after)

    @classmethod
    def of(cls, tokenizer) -> "PairTemplate":
        """Reads the template off one encoded pair."""
        pair = tokenizer("a", "b")
        ids, sequence = pair["input_ids"], pair.sequence_ids(0)
        first = [i for i, s in enumerate(sequence) if s == 0]
        second = [i for i, s in enumerate(sequence) if s == 1]
        before, between, after = ids[: first[0]], ids[first[-1] + 1 : second[0]], ids[second[-1] + 1 :]
        types = None
        if "token_type_ids" in pair:
            kinds = pair["token_type_ids"]
            cuts = [0, first[0], first[-1] + 1, second[0], second[-1] + 1, len(kinds)]
            types = tuple(tuple(kinds[a:b]) for a, b in itertools.pairwise(cuts))
            types = (types[0], types[1][:1], types[2], types[3][:1], types[4])
        # The convention of the official examples: the class token, else the first token, stands for "no answer".
        in_after = tokenizer.cls_token_id not in before and tokenizer.cls_token_id in after
        source = after if in_after else before
        offset = source.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in source else 0
        return cls(tuple(before), tuple(between), tuple(after), types, in_after, offset)


class Windows:
    """Windows over (question, context) pairs, ready to be batched; a `torch.utils.data.Dataset` of (self, row).

    Attributes (W windows):
        pair: int64 [W], which pair a window belongs to.
        begin, end: int64 [W], its part of the flat context tokens.
        lengths: int64 [W], its number of tokens with everything.
        pair_lengths: int64 [Q], tokens of a whole pair before it was cut.
        examples: what the pairs were made of, for scoring.
        targets: int64 [W, 2] positions of the answer's first and last token (that of the class token where the answer
            is not whole inside this window), or None without answers.
    """

    def __init__(
        self,
        tokenizer,
        questions: TokenLists,
        contexts: TokenLists,
        context_of: np.ndarray,
        *,
        max_length: int,
        stride: int,
        examples: object = None,
        answers: np.ndarray | None = None,
        pad_to: int | None = None,
        pad_to_multiple_of: int | None = None,
    ):
        """Cuts every context so that question, window and special tokens fit into `max_length` tokens.

        Args:
            questions, contexts: tokens of Q questions and of M contexts.
            context_of: int [Q], the context of each question.
            stride: tokens that neighbouring windows share.
            answers: int [Q, 2] first and one-past-last character of the answer in the context; -1 for none.
            pad_to: pad every batch to this length instead of to its longest window.

        Raises:
            UserError: where a question leaves no more than `stride` tokens for the context (see `too_long`).
        """
        self.template = PairTemplate.of(tokenizer)
        self.examples = examples
        self.question_first = tokenizer.padding_side == "right"  # the convention of the official examples
        self.questions, self.contexts, self.context_of = questions, contexts, context_of
        self.pad_id = tokenizer.pad_token_id or 0
        self.max_length, self.pad_to, self.pad_to_multiple_of = max_length, pad_to, pad_to_multiple_of
        if too_long(questions, self.template, max_length, stride).any():
            raise UserError(f"--max_length {max_length} is too short for the longest question and --stride {stride}")
        room = max_length - self.template.specials - questions.counts
        total = contexts.counts[context_of]
        self.pair_lengths = total + questions.counts + self.template.specials
        step = room - stride
        count = 1 + np.maximum(0, -(-(total - room) // step))
        self.pair = np.repeat(np.arange(len(context_of)), count)
        number = np.arange(len(self.pair)) - np.repeat(np.cumsum(count) - count, count)
        origin = contexts.begin[context_of][self.pair]
        self.begin = origin + number * step[self.pair]
        self.end = np.minimum(self.begin + room[self.pair], origin + total[self.pair])
        self.lengths = self.end - self.begin + questions.counts[self.pair] + self.template.specials
        # First position of the context inside the window, and of the token that means "no answer".
        if self.question_first:
            self.context_at = len(self.template.before) + questions.counts[self.pair] + len(self.template.between)
        else:
            self.context_at = np.full(len(self.pair), len(self.template.before))
        self.null_at = np.full(len(self.pair), self.template.null_offset)
        if self.template.null_in_after:
            self.null_at += self.lengths - len(self.template.after)
        self.targets = None if answers is None else self._label(answers)

    def _label(self, answers: np.ndarray) -> np.ndarray:
        first = np.full(len(self.context_of), -1)
        last = np.full(len(self.context_of), -1)
        for i in np.flatnonzero(answers[:, 0] >= 0):
            begin, end = self.contexts.begin[self.context_of[i] : self.context_of[i] + 2]
            # The first token that ends behind the answer's start, the last one that starts before its end.
            first[i] = begin + np.searchsorted(self.contexts.last[begin:end], answers[i, 0], side="right")
            last[i] = begin + np.searchsorted(self.contexts.first[begin:end], answers[i, 1], side="left") - 1
        first, last = first[self.pair], last[self.pair]
        inside = (first >= self.begin) & (last < self.end) & (first <= last)
        at = self.context_at - self.begin
        return np.where(inside, [first + at, last + at], self.null_at).T

    def __len__(self) -> int:
        return len(self.pair)

    def __getitem__(self, row: int) -> tuple["Windows", int]:
        return self, row

    def width(self, rows: np.ndarray) -> int:
        """The padded length of a batch of windows `rows`."""
        if self.pad_to:
            return self.pad_to
        multiple = self.pad_to_multiple_of or 1
        return -(-int(self.lengths[rows].max()) // multiple) * multiple

    def characters(self, row: np.ndarray, token: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and one-past-last character in the context of the tokens at positions `token` of windows `row`."""
        at = self.begin[row] + token - self.context_at[row]
        return self.contexts.first[at], self.contexts.last[at]


def too_long(questions: TokenLists, template: PairTemplate, max_length: int, stride: int) -> np.ndarray:
    """bool [Q]: the questions that leave no more than `stride` tokens of `max_length` for the context."""
    return max_length - template.specials - questions.counts <= stride


def collate_windows(items: list[tuple[Windows, int]]) -> dict:
    """A batch of windows as tensors, padded on the right.

    Beside what the model takes (`input_ids`, `attention_mask` and, where it has them, `token_type_ids`, all [B, L]):
    `row` [B], `context_mask` bool [B, L] (where an answer may lie), `null_at` [B] and, if known, `targets` [B, 2].

    Padding on the right is right for every encoder: absolute positions then do not depend on the batch. Only the order
    of question and context follows the tokenizer's padding side.
    """
    import torch

    windows = items[0][0]
    rows = np.array([row for _, row in items])
    width = windows.width(rows)
    shape = (len(rows), width)
    input_ids = np.full(shape, windows.pad_id, dtype=np.int64)
    types = np.zeros(shape, dtype=np.int64)
    context_mask = np.zeros(shape, dtype=bool)
    template = windows.template
    for i, row in enumerate(rows):
        pair = windows.pair[row]
        question = windows.questions.ids[windows.questions.begin[pair] : windows.questions.begin[pair + 1]]
        context = windows.contexts.ids[windows.begin[row] : windows.end[row]]
        texts = (question, context) if windows.question_first else (context, question)
        at = 0
        for part, tokens in enumerate((template.before, texts[0], template.between, texts[1], template.after)):
            input_ids[i, at : at + len(tokens)] = tokens
            if template.types is not None:
                types[i, at : at + len(tokens)] = template.types[part]
            at += len(tokens)
        start = windows.context_at[row]
        context_mask[i, start : start + len(context)] = True
    batch = {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy((np.arange(width) < windows.lengths[rows, None]).astype(np.int64)),
        "row": torch.from_numpy(rows),
        "context_mask": torch.from_numpy(context_mask),
        "null_at": torch.from_numpy(windows.null_at[rows]),
    }
    if template.types is not None:
        batch["token_type_ids"] = torch.from_numpy(types)
    if windows.targets is not None:
        batch["targets"] = torch.from_numpy(windows.targets[rows])
    return batch
