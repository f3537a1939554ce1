"""From start and end scores to answers: the n best spans of a window, then of a question over all its windows.

The first half runs where the model runs and keeps of a window only its n best spans and its score for "no answer", so
that evaluation never holds scores by token. The second half is numpy over all windows at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from datasets import Dataset

from common.text.windows import column

NO_SPAN = -1e9  # score of what is not there; finite, since infinities are not json


def best_spans_of_windows(start, end, context_mask, null_at, n_best: int, max_answer_length: int) -> tuple:
    """The n best spans of each window, exactly: no better span inside the context is overlooked.

    A span's score is the sum of its start and its end score. Any of the n best begins at one of the n starts whose own
    best span is best.

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
    start = torch.where(context_mask, start, NO_SPAN)
    end = pad(torch.where(context_mask, end, NO_SPAN), (0, width - 1), value=NO_SPAN)
    reach = start + max_pool1d(end, width, stride=1)  # the best span from each start
    first = reach.topk(min(n_best, reach.shape[1]), sorted=False).indices.repeat_interleave(width, dim=1)
    last = first + torch.arange(width, device=first.device).repeat(first.shape[1] // width)
    scores, index = (start.gather(1, first) + end.gather(1, last)).topk(min(n_best, first.shape[1]))
    missing = (0, n_best - scores.shape[1])
    scores = pad(scores, missing, value=NO_SPAN).clamp_min(NO_SPAN)
    first, last = (pad(tokens.gather(1, index), missing).to(torch.int32) for tokens in (first, last))
    return scores, first, last, null


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
        """(id, answers, best first) of each question, one at a time.

        An answer has text, probability among them, score, first character in the context. With `with_null`, "no
        answer" is one of them: the empty text, at no place.
        """
        scores = np.column_stack([self.scores, self.null] if with_null else [self.scores])
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        counts, better = (self.scores > NO_SPAN / 2).sum(axis=1), (self.scores > self.null[:, None]).sum(axis=1)
        rows = zip(questions["id"][:], questions["context"][:], self.first, self.last, shares, scores, counts, better)
        for identity, context, *spans, count, place in rows:
            entries = [
                {"text": context[first:last], "probability": share, "score": score, "start": first}
                for first, last, share, score in zip(*(values[:count].tolist() for values in spans))
            ]
            if with_null:
                share, score = (float(values[-1]) for values in spans[2:])
                entries.insert(place, {"text": "", "probability": share, "score": score, "start": None})
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

    # By question, then best first; of the same characters the first, that is the best, is kept.
    found = pd.DataFrame({"question": example[row], "begin": begin, "end": end, "score": score})
    found = found.iloc[np.lexsort((-score, found["question"]))].drop_duplicates(["question", "begin", "end"])
    rank = found.groupby("question").cumcount()
    found, rank = found[rank < n_best], rank[rank < n_best]

    shape = (len(lowest_null), n_best)
    answers = Answers(np.full(shape, NO_SPAN), np.zeros(shape, np.int64), np.zeros(shape, np.int64), lowest_null)
    where = found["question"].to_numpy(), rank.to_numpy()
    answers.scores[where], answers.first[where], answers.last[where] = (found[c] for c in ("score", "begin", "end"))
    return answers


def _characters(windows: Dataset, name: str, row: np.ndarray, token: np.ndarray) -> np.ndarray:
    """int64: what column `name` says of the tokens at positions `token` of windows `row` (ascending)."""
    at, found, begin = token - column(windows, "context_begin")[row], [np.zeros(0, np.int64)], 0
    for chunk in windows.data.column(name).chunks:
        mine = slice(*np.searchsorted(row, [begin, begin + len(chunk)]))
        found.append(chunk.values.to_numpy()[chunk.offsets.to_numpy()[row[mine] - begin] + at[mine]])
        begin += len(chunk)
    return np.concatenate(found)
