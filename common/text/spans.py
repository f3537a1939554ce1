"""From start and end scores to answers: the n best spans of a window, then of a question over all its windows."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from torch.nn.functional import pad

from common.text.windows import column

NO_SPAN = -1e9  # score of what is not there; finite, since infinities are not json


def best_spans_of_windows(start, end, context_mask, null_at, n_best: int, max_answer_length: int) -> tuple:
    """The n best spans of each window; a span's score is the sum of its start and its end score.

    Args: tensors of scores `start` and `end` [B, L]; `context_mask` bool [B, L], where an answer may lie; `null_at` int
        [B], the token that means "no answer".
    Returns: tensors of scores float [B, n_best] (`NO_SPAN` where a window has fewer spans), first and last token int32
        [B, n_best], null score float [B].
    """
    start, end, at = start.float(), end.float(), null_at[:, None]
    null = (start.gather(1, at) + end.gather(1, at))[:, 0]
    width = min(max_answer_length, start.shape[1])
    start = torch.where(context_mask, start, NO_SPAN)
    end = pad(torch.where(context_mask, end, NO_SPAN), (0, width - 1), value=NO_SPAN)
    every = start[:, :, None] + end.unfold(1, width, 1)  # [B, L, width]: by first token and length
    scores, place = pad(every.flatten(1), (0, n_best), value=NO_SPAN).topk(n_best)
    first = place // width
    return scores.clamp_min(NO_SPAN), first.to(torch.int32), (first + place % width).to(torch.int32), null


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
        """(id, answers, best first) of each question: text, probability among them, score, first character.

        With `with_null`, "no answer" is one of them: the empty text, at no place.
        """
        arrays = (array.tolist() for array in (self.scores, self.first, self.last, self.null))
        for identity, context, scores, first, last, null in zip(questions["id"][:], questions["context"][:], *arrays):
            texts = [context[begin:end] for begin, end in zip(first, last)]
            entries = [entry for entry in zip(scores, texts, first) if entry[0] > NO_SPAN / 2]
            if with_null:
                entries = sorted([(null, "", None), *entries], key=lambda entry: -entry[0])
            shares = np.exp([score - entries[0][0] for score, *_ in entries])
            shares = (shares / shares.sum()).tolist()
            pairs = zip(entries, shares)
            yield identity, [{"text": t, "probability": p, "score": s, "start": at} for (s, t, at), p in pairs]


def answers_of_questions(windows: Dataset, spans: tuple[np.ndarray, ...], n_best: int) -> Answers:
    """Puts the spans of all windows of a question together; the same characters found in two windows count once.

    `windows`: of `common.text.windows.cut`, with characters. `spans`: of `best_spans_of_windows`, as arrays.
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

    found = pd.DataFrame({"question": example[row], "score": score, "begin": begin, "end": end})
    found = found.sort_values(["question", "score"], ascending=[True, False], kind="stable")
    found = found.drop_duplicates(["question", "begin", "end"])  # the first, that is the best, is kept
    found["rank"] = found.groupby("question").cumcount()
    found = found[found["rank"] < n_best]

    shape, where = (len(lowest_null), n_best), (found["question"], found["rank"])
    answers = Answers(np.full(shape, NO_SPAN), np.zeros(shape, np.int64), np.zeros(shape, np.int64), lowest_null)
    answers.scores[where], answers.first[where], answers.last[where] = found["score"], found["begin"], found["end"]
    return answers


def _characters(windows: Dataset, name: str, row: np.ndarray, token: np.ndarray) -> np.ndarray:
    """What column `name` says of the tokens at positions `token` of windows `row`."""
    lists = windows.data.column(name).combine_chunks()
    begin = lists.offsets.to_numpy()[row] - column(windows, "context_begin")[row]
    return lists.values.to_numpy()[begin + token]
