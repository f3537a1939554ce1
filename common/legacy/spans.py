"""From start and end scores to answers: the n best spans of a window, then of a question over all its windows.

The first half runs where the model runs and keeps of a window only its n best spans and its score for "no answer", so
that evaluation never holds scores by token. The second half is numpy over all windows at once.
"""

import math
from dataclasses import dataclass

import numpy as np

NO_SPAN = -1e9  # score of what is not there; finite, since infinities are not json


def best_spans_of_windows(start, end, context_mask, null_at, *, n_best: int, max_answer_length: int) -> tuple:
    """The n best spans of each window, exactly: no better span inside the context is overlooked.

    A span's score is the sum of its start and its end score. However spans are grouped, any of the n best is in one of
    the n groups whose own best span is best. So the n best starts are kept, then of their ends the n best blocks of
    neighbours (of equal size, about the root of the longest answer's), then the n best spans of these.

    Args:
        start, end: tensors [B, L] of scores.
        context_mask: bool tensor [B, L], where an answer may lie.
        null_at: int tensor [B], position of the token that means "no answer".

    Returns:
        Tensors: scores float [B, n_best], first and last token int32 [B, n_best], null score float [B]. Where a window
        has fewer spans the score is `NO_SPAN`.
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

    def probabilities(self, with_null: bool) -> np.ndarray:
        """float64 [Q, n (+1)]: softmax over the n best answers (and, last, "no answer")."""
        scores = np.column_stack([self.scores, self.null]) if with_null else self.scores
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def texts(self, questions, rank: int = 0) -> list[str]:
        """Q strings: the answers of this rank, cut from the contexts ("" where there are fewer)."""
        found = self.scores[:, rank] > NO_SPAN / 2
        return [
            questions.context(i)[self.first[i, rank] : self.last[i, rank]] if found[i] else ""
            for i in range(len(self.null))
        ]

    def n_best(self, questions, *, with_null: bool) -> list[list[dict]]:
        """Q lists of answers, best first: text, probability among them, score, first character in the context.

        With `with_null`, "no answer" is one of them: the empty text, at no place.
        """
        counts = (self.scores > NO_SPAN / 2).sum(axis=1).tolist()
        better_than_null = (self.scores > self.null[:, None]).sum(axis=1).tolist()
        arrays = zip(self.first, self.last, self.probabilities(with_null), self.scores, self.null.tolist())
        found = []
        for i, (first, last, shares, scores, null) in enumerate(arrays):
            context, shares = questions.context(i), shares.tolist()
            entries = [
                {"text": context[begin:end], "probability": share, "score": score, "start": begin}
                for begin, end, share, score in zip(first[: counts[i]].tolist(), last.tolist(), shares, scores.tolist())
            ]
            if with_null:
                nothing = {"text": "", "probability": shares[-1], "score": null, "start": None}
                entries.insert(better_than_null[i], nothing)
            found.append(entries)
        return found


def answers_of_questions(windows, spans: tuple[np.ndarray, ...], n_best: int) -> Answers:
    """Puts the spans of all windows of a question together; the same characters found in two windows count once.

    Args:
        windows: `common.legacy.text.Windows`, W of them.
        spans: what `best_spans_of_windows` returned, as arrays in the order of the windows.
    """
    scores, first, last, null = spans
    count = len(windows.context_of)
    lowest_null = np.full(count, np.inf)
    np.minimum.at(lowest_null, windows.pair, null.astype(np.float64))

    row, rank = np.nonzero(scores > NO_SPAN / 2)
    score = scores[row, rank]
    begin, _ = windows.characters(row, first[row, rank])
    _, end = windows.characters(row, last[row, rank])

    # By question, then best first, which they nearly are: a stable sort is fast then. Complex numbers are sorted by
    # their real part, then by their imaginary one. Of the same characters the first, that is the best, is kept.
    key = np.empty(len(row), complex)
    key.real, key.imag = windows.pair[row], -score
    order = np.argsort(key, kind="stable")
    question, length = windows.pair[row[order]], end.max(initial=0) + 1
    place = (question * length + begin[order]) * length + end[order]
    unique = np.zeros(len(order), bool)
    unique[np.unique(place, return_index=True)[1]] = True
    order, question = order[unique], question[unique]
    rank = np.arange(len(order)) - np.searchsorted(question, np.arange(count))[question]
    kept = rank < n_best

    answers = Answers(
        scores=np.full((count, n_best), NO_SPAN),
        first=np.zeros((count, n_best), np.int64),
        last=np.zeros((count, n_best), np.int64),
        null=lowest_null,
    )
    where, order = (question[kept], rank[kept]), order[kept]
    answers.scores[where], answers.first[where], answers.last[where] = score[order], begin[order], end[order]
    return answers
