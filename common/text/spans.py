"""From start and end scores to answers: the n best spans of a window, then of a question over all its windows.

The first half runs where the model runs and keeps of a window only its n best spans and its score for "no answer", so
that evaluation never holds scores by token. The second half is numpy over all windows at once.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from datasets import Dataset

from common.text.windows import column

NO_SPAN = -1e9  # score of what is not there; finite, since infinities are not json
PART = 1000  # questions whose answers are written at once


def best_spans_of_windows(start, end, context_mask, null_at, n_best: int, max_answer_length: int) -> tuple:
    """The n best spans of each window, exactly: no better span inside the context is overlooked.

    A span's score is the sum of its start and its end score. However spans are grouped, any of the n best is in one of
    the n groups whose own best span is best. So the n best starts are kept, then of their ends the n best blocks of
    neighbours (of equal size, about the root of the longest answer's), then the n best spans of these.

    Args: tensors of scores `start` and `end` [B, L]; `context_mask` bool [B, L], where an answer may lie; `null_at` int
        [B], the token that means "no answer".
    Returns: tensors of scores float [B, n_best] (`NO_SPAN` where a window has fewer spans), first and last token int32
        [B, n_best], null score float [B].
    """
    import torch
    from torch.nn.functional import max_pool1d, pad

    start, end, at = start.float(), end.float(), null_at[:, None]
    null = (start.gather(1, at) + end.gather(1, at))[:, 0]
    width = min(max_answer_length, start.shape[1])
    size = max(d for d in range(1, math.isqrt(width) + 1) if width % d == 0)
    start = torch.where(context_mask, start, NO_SPAN)
    end = pad(torch.where(context_mask, end, NO_SPAN), (0, width - 1), value=NO_SPAN)
    block = max_pool1d(end, size, stride=1)  # the best end of a block, by the block's first token
    reach = max_pool1d(block, width // size, stride=1, dilation=size)  # the best end within reach of every start
    first = last = (start + reach).topk(min(n_best, start.shape[1]), sorted=False).indices
    for best_end, steps in (block, range(0, width, size)), (end, range(size)):
        last = torch.cat([last + step for step in steps], 1)
        first = first.repeat(1, len(steps))
        scores = start.gather(1, first) + best_end.gather(1, last)
        scores, index = scores.topk(min(n_best, scores.shape[1]), sorted=best_end is end)
        first, last = first.gather(1, index), last.gather(1, index)
    missing = n_best - scores.shape[1]
    if missing:
        scores = pad(scores, (0, missing), value=NO_SPAN)
        first, last = (pad(tokens, (0, missing)) for tokens in (first, last))
    return scores.clamp_min(NO_SPAN), first.to(torch.int32), last.to(torch.int32), null


@dataclass
class Answers:
    """The n best answers of Q questions, best first.

    Attributes:
        scores: float64 [Q, n], `NO_SPAN` where there are fewer.
        first, last: int64 [Q, n], first and one-past-last character in the context.
        null: float64 [Q], the lowest "no answer" score over a question's windows.
    """

    scores: np.ndarray
    first: np.ndarray
    last: np.ndarray
    null: np.ndarray

    @property
    def null_odds(self) -> np.ndarray:
        """float64 [Q]: null score minus best answer's score; the higher, the less there is an answer."""
        return self.null - self.scores[:, 0]

    @property
    def no_answer_probability(self) -> np.ndarray:
        """float64 [Q]: of "no answer" against the best answer, as the model's scores have it."""
        return 1 / (1 + np.exp(-np.clip(self.null_odds, -700, 700)))

    def best_texts(self, questions: Dataset) -> list[str]:
        """Q strings: the best answer of each question as it stands in the context ("" where there is no span)."""
        spans = zip(questions["context"][:], self.first[:, 0].tolist(), self.last[:, 0].tolist())
        return [context[first:last] for context, first, last in spans]

    def n_best(self, questions: Dataset, with_null: bool) -> Iterator[tuple[str, list[dict]]]:
        """(id, answers, best first) of each question, a part of them in memory at a time.

        An answer has text, probability among them, score, first character in the context. With `with_null`, "no
        answer" is one of them: the empty text, at no place.
        """
        questions = questions.select_columns(["id", "context"])
        for begin in range(0, len(questions), PART):
            rows = slice(begin, begin + PART)
            scores = np.column_stack([self.scores[rows], self.null[rows]] if with_null else [self.scores[rows]])
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            shares /= shares.sum(axis=1, keepdims=True)
            counts = (self.scores[rows] > NO_SPAN / 2).sum(axis=1).tolist()
            better = (self.scores[rows] > self.null[rows, None]).sum(axis=1).tolist()
            arrays = (array.tolist() for array in (self.first[rows], self.last[rows], shares, scores))
            of_part = zip(*questions[rows].values(), *arrays, counts, better)
            for identity, context, first, last, share, score, count, place in of_part:
                entries = [
                    {"text": context[start:end], "probability": probability, "score": value, "start": start}
                    for start, end, probability, value in zip(first[:count], last, share, score)
                ]
                if with_null:
                    entries.insert(place, {"text": "", "probability": share[-1], "score": score[-1], "start": None})
                yield identity, entries


def answers_of_questions(windows: Dataset, spans: tuple[np.ndarray, ...], n_best: int) -> Answers:
    """Puts the spans of all windows of a question together; the same characters found in two windows count once.

    `windows` are of `common.text.windows.cut`, with characters, and every question has at least one; `spans` is what
    `best_spans_of_windows` gave, as arrays in the order of the windows.
    """
    scores, first, last, null = spans
    example = column(windows, "example")
    lowest_null = np.full(example.max(initial=-1) + 1, np.inf)
    np.minimum.at(lowest_null, example, null.astype(np.float64))

    row, rank = np.nonzero(scores > NO_SPAN / 2)
    begin = _characters(windows, "first_characters", row, first[row, rank])
    end = _characters(windows, "last_characters", row, last[row, rank])
    there = end > begin  # some tokens stand for no character
    row, begin, end, score = row[there], begin[there], end[there], scores[row, rank][there]

    # By question, then best first, which they nearly are: a stable sort is fast then. Complex numbers are sorted by
    # their real part, then by their imaginary one. Of the same characters the first, that is the best, is kept.
    key = np.empty(len(row), complex)
    key.real, key.imag = example[row], -score
    order = np.argsort(key, kind="stable")
    question, length = example[row[order]], int(end.max(initial=0)) + 1
    place = (question * length + begin[order]) * length + end[order]
    unique = ~pd.Index(place).duplicated()
    order, question = order[unique], question[unique]
    rank = np.arange(len(order)) - np.searchsorted(question, np.arange(len(lowest_null)))[question]
    kept = rank < n_best

    shape = (len(lowest_null), n_best)
    answers = Answers(np.full(shape, NO_SPAN), np.zeros(shape, np.int64), np.zeros(shape, np.int64), lowest_null)
    where, order = (question[kept], rank[kept]), order[kept]
    answers.scores[where], answers.first[where], answers.last[where] = score[order], begin[order], end[order]
    return answers


def _characters(windows: Dataset, name: str, row: np.ndarray, token: np.ndarray) -> np.ndarray:
    """int64: what column `name` says of the tokens at positions `token` of windows `row` (ascending)."""
    at, found, begin = token - column(windows, "context_begin")[row], [np.zeros(0, np.int64)], 0
    for chunk in windows.data.column(name).chunks:
        mine = slice(*np.searchsorted(row, [begin, begin + len(chunk)]))
        found.append(chunk.values.to_numpy()[chunk.offsets.to_numpy()[row[mine] - begin] + at[mine]])
        begin += len(chunk)
    return np.concatenate(found)
