"""Exact match and token F1 for SQuAD v2, and the search for the best no-answer threshold, by the official definition.

Source: Rajpurkar, Jia and Liang, Know What You Don't Know: Unanswerable Questions for SQuAD (ACL 2018), and the scorer
published with it (evaluate-v2.0). Three differences, in `threshold_sweep` alone, are stated there.
"""

import re
import string
from collections import Counter

import numpy as np

INPUTS = """\
Args:
    predictions: dictionaries with `id`, `prediction_text` ("" for no answer) and `no_answer_probability` (any scale).
    references: dictionaries with `id` and `answers`, which has the lists `text` and `answer_start`.
    no_answer_threshold: a question whose `no_answer_probability` is above it counts as declared unanswerable.
Returns:
    What `summary` does, and best_exact and best_f1 (percent) with their thresholds, best_exact_thresh and
    best_f1_thresh. The best_ figures were tuned on the very questions they score: they are upper bounds, not results.
"""
PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII alone, as officially: an en dash stays
ARTICLE = re.compile(r"\b(?:a|an|the)\b")
TIE = 1e-9  # sums of F1 in different orders differ by rounding: percentages nearer than this are equal


def normalize_answer(text: str) -> str:
    """An answer without what does not count: case, ASCII punctuation, the articles a/an/the, extra white space.

    In this order, which matters: "a.k.a." has lost its dots, and is no article, by the time articles are dropped.
    """
    return " ".join(ARTICLE.sub(" ", text.lower().translate(PUNCTUATION)).split())


def question_scores(predictions: list[str], golds: list[list[str]]) -> np.ndarray:
    """float64 [N, 2]: exact match and token F1 (0..1) of every question, each the best over its gold answers.

    predictions: N texts, "" for no answer. golds: N lists of texts, empty for an unanswerable question. Gold answers
    that normalise to nothing are dropped; a question left with none has the one gold answer "".
    """
    scores = np.zeros((len(predictions), 2))
    for row, (prediction, answers) in enumerate(zip(predictions, golds, strict=True)):
        predicted = normalize_answer(prediction)
        references = {normalize_answer(answer) for answer in answers} - {""} or {""}
        if predicted in references:
            scores[row] = 1.0
        else:
            scores[row, 1] = max(_token_f1(predicted.split(), reference.split()) for reference in references)
    return scores


def _token_f1(predicted: list[str], reference: list[str]) -> float:
    """The harmonic mean of the shares of predicted and of reference tokens that are common, repetitions counted."""
    common = (Counter(predicted) & Counter(reference)).total()
    return 2 * common / (len(predicted) + len(reference))


def threshold_sweep(null_scores: np.ndarray, answered_scores: np.ndarray, answerable: np.ndarray) -> dict:
    """Exact match and F1 (percent) at every no-answer threshold, and the best of them.

    A question is answered where its null score is at most the threshold; otherwise it is declared unanswerable, and
    scores 1 if it is and else 0. null_scores: [N], higher is more likely unanswerable, any unit. answered_scores:
    [N, 2], as of `question_scores`, of the best answer that is not "". answerable: bool [N].

    Returns thresholds, exact, f1, each [N + 1], by ascending threshold (the first answers nothing, the others are the
    null scores); best_exact, best_exact_threshold, best_f1, best_f1_threshold, the lowest of several best ones.

    Three differences from the official search: questions with equal null scores move together, so that a threshold
    attains every figure; the threshold that answers nothing is below all null scores, not 0.0; and an answer to an
    unanswerable question that normalises to nothing ("the") is right in F1 as it is in exact match.
    """
    null_scores, n = np.asarray(null_scores, dtype=np.float64), len(null_scores)
    answered_scores, answerable = np.asarray(answered_scores), np.asarray(answerable, dtype=bool)
    order = np.argsort(null_scores, kind="stable")
    ascending = null_scores[order]
    thresholds = np.concatenate([np.nextafter(ascending[:1], -np.inf), ascending])
    # Row k: the sum over all questions when the k with the smallest null scores are answered.
    declared = (~answerable).astype(np.float64)
    sums = np.zeros((n + 1, 2))
    np.cumsum((answered_scores - declared[:, None])[order], axis=0, out=sums[1:])
    answered = np.searchsorted(ascending, thresholds, side="right")
    exact, f1 = (100.0 * (sums + declared.sum())[answered] / n).T
    sweep = {"thresholds": thresholds, "exact": exact, "f1": f1}
    for name in ("exact", "f1"):
        first = np.argmax(sweep[name] >= sweep[name].max() - TIE)
        sweep |= {f"best_{name}": float(sweep[name][first]), f"best_{name}_threshold": float(thresholds[first])}
    return sweep


def summary(scores: np.ndarray, answerable: np.ndarray) -> dict[str, float]:
    """exact and f1 in percent, and total; where there are such questions, HasAns_exact, ... and NoAns_exact, ..., too.

    scores: [N, 2] in 0..1, as of `question_scores`. answerable: bool [N].
    """
    scores, answerable = np.asarray(scores), np.asarray(answerable, dtype=bool)
    figures: dict[str, float] = {}
    for prefix, chosen in (("", np.ones_like(answerable)), ("HasAns_", answerable), ("NoAns_", ~answerable)):
        if chosen.any():
            exact, f1 = (100.0 * scores[chosen].mean(axis=0)).tolist()
            figures |= {f"{prefix}exact": exact, f"{prefix}f1": f1, f"{prefix}total": int(chosen.sum())}
    return figures


if __name__.startswith("evaluate_modules"):  # loaded by `evaluate`, whose import takes seconds, and not by ours
    import datasets
    import evaluate

    class SquadV2(evaluate.Metric):
        """The functions above as an `evaluate` metric, with the inputs and the keys of the hub's `squad_v2`."""

        def _info(self) -> evaluate.MetricInfo:
            text, number, start = (datasets.Value(kind) for kind in ("string", "float64", "int32"))
            answers = datasets.Sequence({"text": text, "answer_start": start})
            prediction = {"id": text, "prediction_text": text, "no_answer_probability": number}
            features = datasets.Features(predictions=prediction, references={"id": text, "answers": answers})
            return evaluate.MetricInfo(__doc__, "", features, inputs_description=INPUTS)

        def _compute(self, predictions: list, references: list, no_answer_threshold: float = 1.0) -> dict[str, float]:
            """See INPUTS. Raises ValueError for ids that are repeated or have no counterpart."""
            predicted = {prediction["id"]: prediction for prediction in predictions}
            ids = [reference["id"] for reference in references]
            if len({*ids}) < len(ids) or len(predicted) < len(predictions) or predicted.keys() != {*ids}:
                odd = sorted(predicted.keys() ^ {*ids})
                raise ValueError(f"predictions and references must have the same ids, each once; only one has {odd}")
            golds = [reference["answers"]["text"] for reference in references]
            answerable = np.array([len(texts) > 0 for texts in golds], dtype=bool)
            null_scores = np.array([predicted[i]["no_answer_probability"] for i in ids])
            scores = question_scores([predicted[i]["prediction_text"] for i in ids], golds)
            declared = null_scores > no_answer_threshold
            figures = summary(np.where(declared[:, None], ~answerable[:, None], scores), answerable)
            sweep = threshold_sweep(null_scores, scores, answerable)
            for name in ("exact", "f1"):
                figures[f"best_{name}"] = sweep[f"best_{name}"]
                figures[f"best_{name}_thresh"] = sweep[f"best_{name}_threshold"]
            return figures
