"""From start and end scores to answers: the n best spans of a window, then of a question over all its windows.

The first half runs where the model runs and keeps of a window only its n best spans and its score for "no answer", so
that evaluation never holds scores by token. The second half is numpy over all windows at once.
"""

from dataclasses import dataclass

import numpy as np

NO_SPAN = -1e9  # score of what is not there; finite, since infinities are not json


def best_spans_of_windows(start, end, context_mask, null_at, *, n_best: int, max_answer_length: int) -> tuple:
    """The n best spans of each window, exactly: no better span inside the context is overlooked.

    A span's score is the sum of its start and its end score. Any of the n best spans starts at one of the n tokens
    whose own best span is best, so only the spans of these are compared.

    Args:
        start, end: tensors [B, L] of scores.
        context_mask: bool tensor [B, L], where an answer may lie.
        null_at: int tensor [B], position of the token that means "no answer".

    Returns:
        Tensors: scores float [B, n_best], first and last token int32 [B, n_best], null score float [B]. Where a window
        has fewer spans the score is `NO_SPAN`.
    """
    import torch

    start, end, at = start.float(), end.float(), null_at[:, None]
    null = (start.gather(1, at) + end.gather(1, at))[:, 0]
    width = min(max_answer_length, start.shape[1])
    start = torch.where(context_mask, start, NO_SPAN)
    padded = end.new_full((len(end), end.shape[1] + width - 1), NO_SPAN)
    padded[:, : end.shape[1]] = torch.where(context_mask, end, NO_SPAN)
    reach, covered = padded, 1  # the best end within reach of every start: a sliding maximum, by doubling
    while covered < width:
        shift = min(covered, width - covered)
        reach = torch.maximum(reach[:, :-shift], reach[:, shift:])
        covered += shift
    first = (start + reach).topk(min(n_best, start.shape[1]), sorted=False).indices
    ends = padded.unfold(1, width, 1).gather(1, first[:, :, None].expand(-1, -1, width))
    scores = start.gather(1, first)[:, :, None] + ends
    scores, index = scores.flatten(1).topk(min(n_best, scores[0].numel()))
    place = index.div(width, rounding_mode="floor")
    first = first.gather(1, place)
    last = first + index - place * width
    missing = n_best - scores.shape[1]
    if missing:
        scores = torch.nn.functional.pad(scores, (0, missing), value=NO_SPAN)
        first, last = (torch.nn.functional.pad(t, (0, missing)) for t in (first, last))
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
        shares, scores = self.probabilities(with_null).tolist(), self.scores.tolist()
        first, last = self.first.tolist(), self.last.tolist()
        counts = (self.scores > NO_SPAN / 2).sum(axis=1).tolist()
        better_than_null = (self.scores > self.null[:, None]).sum(axis=1).tolist()
        found = []
        for i, count in enumerate(counts):
            context = questions.context(i)
            entries = [
                {"text": context[begin:end], "probability": share, "score": score, "start": begin}
                for begin, end, share, score in zip(first[i][:count], last[i], shares[i], scores[i])
            ]
            if with_null:
                null = {"text": "", "probability": shares[i][-1], "score": float(self.null[i]), "start": None}
                entries.insert(better_than_null[i], null)
            found.append(entries)
        return found


def answers_of_questions(windows, spans: tuple[np.ndarray, ...], n_best: int) -> Answers:
    """Puts the spans of all windows of a question together; the same characters found in two windows count once.

    Args:
        windows: `common.text.Windows`, W of them.
        spans: what `best_spans_of_windows` returned, as arrays in the order of the windows.
    """
    scores, first, last, null = spans
    count = len(windows.context_of)
    lowest_null = np.full(count, np.inf)
    np.minimum.at(lowest_null, windows.pair, null.astype(np.float64))

    row, rank = np.nonzero(scores > NO_SPAN / 2)
    question = windows.pair[row]
    score = scores[row, rank].astype(np.float64)
    begin, _ = windows.characters(row, first[row, rank].astype(np.int64))
    _, end = windows.characters(row, last[row, rank].astype(np.int64))

    # Best first; of the same characters of a question the first, that is the best, is kept; then by question. Three
    # sorts by one key each are several times faster than one by four.
    order = np.argsort(-score)
    place = (question * (end.max(initial=0) + 1) + begin) * (end.max(initial=0) + 1) + end
    order = order[np.sort(np.unique(place[order], return_index=True)[1])]
    order = order[np.argsort(question[order] * len(order) + np.arange(len(order)))]  # as a stable sort, but faster
    question = question[order]
    rank = np.arange(len(order)) - np.searchsorted(question, question)
    kept = rank < n_best

    answers = Answers(
        scores=np.full((count, n_best), NO_SPAN),
        first=np.zeros((count, n_best), np.int64),
        last=np.zeros((count, n_best), np.int64),
        null=lowest_null,
    )
    where = question[kept], rank[kept]
    answers.scores[where] = score[order][kept]
    answers.first[where] = begin[order][kept]
    answers.last[where] = end[order][kept]
    return answers
