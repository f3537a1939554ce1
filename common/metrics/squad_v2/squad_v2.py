"""Exact match and token F1 for SQuAD v2, and the search for the best no-answer threshold, by the official definition.

A prediction is a text; the functions also serve those who have a model's null odds. Source: Rajpurkar, Jia and Liang,
Know What You Don't Know: Unanswerable Questions for SQuAD (ACL 2018), and the scorer published with it (evaluate-v2.0).
Three differences, in `threshold_sweep` alone, are stated there.
"""

import re
import string
from collections import Counter

import numpy as np

INPUTS = """\
Args:
    predictions: one dictionary a question: `id`, `prediction_text` (the best answer, "" for none) and
        `no_answer_probability` (higher is more likely unanswerable; any scale: a probability, or the null odds).
    references: one dictionary a question: `id` and `answers` with the lists `text` and `answer_start`, both empty for
        an unanswerable question. Matched to predictions by id, in any order.
    no_answer_threshold: in units of `no_answer_probability`. A question above it counts as declared unanswerable.
        The default of 1.0 lets a probability never act; pass a threshold for the null odds.
Returns:
    exact, f1 (percent) and total; the same with the prefixes HasAns_ and NoAns_, if there are such questions;
    best_exact and best_f1 (percent) with the thresholds that reach them, best_exact_thresh and best_f1_thresh.
    The best_ figures were tuned on the very questions they score: they are upper bounds, not results.
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
    that normalise to nothing are dropped; a question left with none has the one gold answer "". Raises ValueError if
    the lengths differ.
    """
    if len(predictions) != len(golds):
        raise ValueError(f"{len(predictions)} predictions, but gold answers for {len(golds)} questions")
    scores = np.zeros((len(predictions), 2))
    for row, (prediction, answers) in enumerate(zip(predictions, golds)):
        predicted = normalize_answer(prediction)
        # A set: annotators mostly agree, and what they agree on need not be compared again.
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
    scores 1 if it is and else 0.

    Args:
        null_scores: [N], higher is more likely unanswerable, any unit (null odds: no answer's score minus the best's).
        answered_scores: [N, 2], as of `question_scores`, of the best answer that is not "".
        answerable: bool [N].

    Returns:
        thresholds, exact, f1, each [N + 1], by ascending threshold: the first, one step below the smallest null score,
        answers nothing, the others are the null scores. best_exact, best_exact_threshold, best_f1, best_f1_threshold:
        of several best thresholds the first going upwards.

    Three differences from the official search. It moves questions with equal null scores one by one, and so can report
    a best figure that no threshold attains; here they move together. It calls the threshold that answers nothing 0.0,
    which does answer null odds below 0. And it counts an answer to an unanswerable question as wrong even if that
    normalises to nothing ("the"), though its exact match counts the same answer as right; here both agree.

    Raises ValueError for N = 0, for lengths that differ and for null scores that are not finite.
    """
    null_scores, answerable = np.asarray(null_scores), np.asarray(answerable, dtype=bool)
    if not np.issubdtype(null_scores.dtype, np.floating):
        null_scores = null_scores.astype(np.float64)
    answered_scores, n = np.asarray(answered_scores, dtype=np.float64), len(null_scores)
    if n == 0:
        raise ValueError("there are no questions to choose a threshold on")
    if answered_scores.shape != (n, 2) or answerable.shape != (n,):
        found = f"not {list(answered_scores.shape)} and {list(answerable.shape)}"
        raise ValueError(f"{n} null scores need answered scores [{n}, 2] and answerable [{n}], {found}")
    order = np.argsort(null_scores, kind="stable")
    ascending = null_scores[order]
    # In the type of the null scores: a float64 step below a float32 score would round back to the score.
    thresholds = np.concatenate([np.nextafter(ascending[:1], -np.inf, dtype=ascending.dtype), ascending])
    if not np.isfinite(thresholds).all():
        raise ValueError("null scores must be finite")
    # Row k: the sum over all questions when the k with the smallest null scores are answered.
    declared = (~answerable).astype(np.float64)
    sums = np.zeros((n + 1, 2))
    np.cumsum((answered_scores - declared[:, None])[order], axis=0, out=sums[1:])
    # Equal null scores are answered together: each of them is worth what the last of them is.
    answered = np.searchsorted(ascending, thresholds, side="right")
    exact, f1 = (100.0 * (sums + declared.sum())[answered] / n).T
    sweep = {"thresholds": thresholds, "exact": exact, "f1": f1}
    for name in ("exact", "f1"):
        first = np.argmax(sweep[name] >= sweep[name].max() - TIE)
        sweep |= {f"best_{name}": float(sweep[name][first]), f"best_{name}_threshold": float(thresholds[first])}
    return sweep


def summary(scores: np.ndarray, answerable: np.ndarray) -> dict[str, float]:
    """The official figures: mean exact match and F1 in percent, and the number of questions.

    scores: [N, 2] in 0..1, as of `question_scores`. answerable: bool [N]. Keys: exact, f1, total; HasAns_exact, ... for
    the answerable questions and NoAns_exact, ... for the others, where there are any. Raises ValueError for N = 0.
    """
    scores, answerable = np.asarray(scores, dtype=np.float64), np.asarray(answerable, dtype=bool)
    if len(scores) == 0:
        raise ValueError("there are no questions to score")
    figures: dict[str, float] = {}
    for prefix, chosen in (("", np.ones_like(answerable)), ("HasAns_", answerable), ("NoAns_", ~answerable)):
        if chosen.any():
            exact, f1 = (100.0 * scores[chosen].mean(axis=0)).tolist()
            figures |= {f"{prefix}exact": exact, f"{prefix}f1": f1, f"{prefix}total": int(chosen.sum())}
    return figures


def _by_id(rows: list[dict], kind: str) -> dict[str, dict]:
    """The rows keyed by their id, in order. Raises ValueError for a repeated id."""
    keyed: dict[str, dict] = {}
    for row in rows:
        if row["id"] in keyed:
            raise ValueError(f"the id {row['id']!r} occurs twice in the {kind}")
        keyed[row["id"]] = row
    return keyed


if __name__.startswith("evaluate_modules"):  # loaded by `evaluate`, whose import takes seconds, and not by ours
    import datasets
    import evaluate

    class SquadV2(evaluate.Metric):
        """The functions above as an `evaluate` metric, with the inputs and the keys of the hub's `squad_v2`."""

        def _info(self) -> evaluate.MetricInfo:
            text, number, start = (datasets.Value(kind) for kind in ("string", "float32", "int32"))
            answers = datasets.Sequence({"text": text, "answer_start": start})
            prediction = {"id": text, "prediction_text": text, "no_answer_probability": number}
            types = {"predictions": prediction, "references": {"id": text, "answers": answers}}
            features = datasets.Features(types)
            return evaluate.MetricInfo(__doc__, "", features, inputs_description=INPUTS)

        def _compute(self, predictions: list, references: list, no_answer_threshold: float = 1.0) -> dict[str, float]:
            """See INPUTS. Raises ValueError, with the id, for ids repeated or without counterpart."""
            predicted, expected = _by_id(predictions, "predictions"), _by_id(references, "references")
            for question in expected.keys() - predicted.keys():
                raise ValueError(f"the question with id {question!r} has no prediction")
            for question in predicted.keys() - expected.keys():
                raise ValueError(f"the prediction with id {question!r} has no reference")
            golds = [reference["answers"]["text"] for reference in expected.values()]
            answerable = np.array([len(texts) > 0 for texts in golds], dtype=bool)
            # Arrow keeps these as float32. The threshold has to be rounded alike, or 0.3 would lie above 0.3.
            null_scores = np.array([predicted[i]["no_answer_probability"] for i in expected], dtype=np.float32)
            scores = question_scores([predicted[i]["prediction_text"] for i in expected], golds)
            declared = null_scores > np.float32(no_answer_threshold)
            figures = summary(np.where(declared[:, None], ~answerable[:, None], scores), answerable)
            sweep = threshold_sweep(null_scores, scores, answerable)
            for name in ("exact", "f1"):
                figures[f"best_{name}"] = sweep[f"best_{name}"]
                figures[f"best_{name}_thresh"] = sweep[f"best_{name}_threshold"]
            return figures
