"""SQuAD v2 scoring: cases worked by hand, a plain loop as reference, and the module as `evaluate` loads it."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.metrics import load
from common.metrics.squad_v2.squad_v2 import normalize_answer, question_scores, summary, threshold_sweep
from tests import official_squad


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel\tTower!", "eiffel tower"),
        ("a an the", ""),
        ("Theatre of an Andean", "theatre of andean"),  # articles only as whole words
        ("a.k.a.", "aka"),  # the dots go first, so no "a" is left standing as an article
        ("A-Team", "ateam"),  # punctuation is deleted, not replaced by a space, before articles are looked for
        ("the-end", "theend"),
        ("it's $1,000.50", "its 100050"),
        ("in the\u00a0beginning", "in beginning"),  # a no-break space is white space
        ("CAFÉ “Ångström”", "café “ångström”"),  # typographic quotes are not ASCII punctuation: they stay
        ("a\u2013z", "\u2013z"),  # nor is the en dash, but it ends a word: this "a" is an article
        ("تهران، ایران", "تهران، ایران"),  # the Arabic comma stays as well
        (" \n ", ""),
        ("", ""),
    ],
)
def test_normalisation(text, normal):
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "golds", "exact", "f1"),
    [
        ("The Normans", ["Normans"], 1, 1),
        # prediction {in, 1066, ad}, gold {1066}: precision 1/3, recall 1, F1 = 2/3 / (4/3) = 1/2
        ("in 1066 AD", ["1066"], 0, 1 / 2),
        # the second gold has all of {in, 1066} : precision 2/3, recall 1, F1 = 4/3 / (5/3) = 4/5; the best counts
        ("in 1066 AD", ["1066", "in 1066", "1067"], 0, 4 / 5),
        # repeated tokens: new new new york against new york new jersey has new twice and york once in common = 3;
        # precision 3/4, recall 3/4
        ("new new new york", ["New York, New Jersey"], 0, 3 / 4),
        # and a token repeated in the prediction alone counts once: precision 1/3, recall 1, F1 1/2
        ("yes yes yes", ["yes"], 0, 1 / 2),
        ("Paris", ["London"], 0, 0),
        # unanswerable: the one gold is ""
        ("", [], 1, 1),
        ("Paris", [], 0, 0),
        ("the", [], 1, 1),  # normalises to nothing, and so does the gold
        # golds that normalise to nothing are dropped as long as another is there ...
        ("", ["the", "Paris"], 0, 0),
        ("Paris", ["the", "Paris"], 1, 1),
        # ... and stand for "" if none is
        ("", ["the"], 1, 1),
        ("the", ["!"], 1, 1),
        ("", ["Paris"], 0, 0),
    ],
)
def test_scores_by_hand(prediction, golds, exact, f1):
    assert question_scores([prediction], [golds])[0] == pytest.approx([exact, f1])


def test_scores_have_one_row_a_question():
    assert question_scores([], []).shape == (0, 2)
    np.testing.assert_allclose(question_scores(["x", "y"], [["y"], ["y"]]), [[0, 0], [1, 1]])
    with pytest.raises(ValueError, match="zip"):
        question_scores(["x", "y"], [["y"]])


def test_summary_by_hand():
    scores = np.array([[1, 1], [0, 0.5], [0, 0], [1, 1]])
    answerable = np.array([True, True, False, False])
    # exact 2/4; F1 2.5/4; HasAns exact 1/2, F1 1.5/2; NoAns 1/2
    assert summary(scores, answerable) == {
        "exact": 50.0,
        "f1": 62.5,
        "total": 4,
        "HasAns_exact": 50.0,
        "HasAns_f1": 75.0,
        "HasAns_total": 2,
        "NoAns_exact": 50.0,
        "NoAns_f1": 50.0,
        "NoAns_total": 2,
    }
    assert not [key for key in summary(scores[:2], answerable[:2]) if key.startswith("NoAns")]
    assert not [key for key in summary(scores[2:], answerable[2:]) if key.startswith("HasAns")]


def test_sweep_by_hand():
    #  null score   answerable   exact   f1 when answered   change (exact, f1) once answered
    #     -2            yes        1       1                 +1     +1
    #      0            yes        0       0.5                0     +0.5   (tie)
    #      0            no         0       0                 -1     -1     (tie)
    #      1            yes        1       1                 +1     +1
    #      3            no         0       0                 -1     -1
    null_scores = np.array([3.0, 0.0, -2.0, 0.0, 1.0])
    answerable = np.array([False, True, True, False, True])
    answered = np.array([[0, 0], [0, 0.5], [1, 1], [0, 0], [1, 1]])
    sweep = threshold_sweep(null_scores, answered, answerable)
    # Nothing answered: 2 of 5 right. At -2: 3. At 0, both of the tie: exact 3 - 1 = 2, F1 3 + 0.5 - 1 = 2.5.
    # At 1: exact 3, F1 3.5. At 3: exact 2, F1 2.5. Times 20 in percent.
    np.testing.assert_array_equal(sweep["thresholds"], [np.nextafter(-2.0, -3.0), -2, 0, 0, 1, 3])
    np.testing.assert_allclose(sweep["exact"], [40, 60, 40, 40, 60, 40])
    np.testing.assert_allclose(sweep["f1"], [40, 60, 50, 50, 70, 50])
    # Exact is best at -2 and at 1: the first going upwards. Taken one by one, the tie would offer F1 3.5 at 0.
    assert (sweep["best_exact"], sweep["best_exact_threshold"]) == (pytest.approx(60), -2.0)
    assert (sweep["best_f1"], sweep["best_f1_threshold"]) == (pytest.approx(70), 1.0)


def test_sweep_may_answer_nothing_or_everything():
    nothing = threshold_sweep([0.5, 0.5], np.zeros((2, 2)), [False, True])
    assert (nothing["best_f1"], nothing["best_f1_threshold"]) == (50.0, np.nextafter(0.5, 0.0))
    everything = threshold_sweep([-1.0, 7.0], np.ones((2, 2)), [True, True])
    assert (everything["best_exact"], everything["best_exact_threshold"]) == (100.0, 7.0)
    json.dumps(nothing["best_f1_threshold"], allow_nan=False)


def test_sweep_steps_below_a_float32_score():
    scores = np.array([0.3], dtype=np.float32)
    threshold = threshold_sweep(scores, np.zeros((1, 2)), [False])["best_exact_threshold"]
    assert not (scores.astype(np.float64) <= threshold).any()


QUESTIONS = st.lists(
    st.tuples(st.integers(-4, 4), st.booleans(), st.booleans(), st.sampled_from([0.0, 1 / 3, 0.4, 2 / 3, 0.8])),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=100)
@given(QUESTIONS)
def test_sweep_against_a_loop_over_all_thresholds(questions):
    null_scores = np.array([null / 2 for null, *_ in questions])
    answerable = np.array([answered for _, answered, *_ in questions])
    answered = np.array([[float(exact), 1.0 if exact else f1] for _, _, exact, f1 in questions])
    sweep = threshold_sweep(null_scores, answered, answerable)

    candidates = [min(null_scores) - 1, *sorted(null_scores)]
    for column, name in enumerate(("exact", "f1")):
        curve = []
        for threshold in candidates:
            total = 0.0
            for i in range(len(questions)):
                total += answered[i, column] if null_scores[i] <= threshold else float(not answerable[i])
            curve.append(100 * total / len(questions))
        np.testing.assert_allclose(sweep[name], curve, atol=1e-9)
        assert sweep[f"best_{name}"] == pytest.approx(max(curve))
        first = next(k for k, value in enumerate(curve) if value > max(curve) - 1e-7)
        if first == 0:
            assert sweep[f"best_{name}_threshold"] == np.nextafter(min(null_scores), -np.inf)
        else:
            assert sweep[f"best_{name}_threshold"] == candidates[first]


def _prediction(question, text, null=0.0):
    return {"id": question, "prediction_text": text, "no_answer_probability": null}


def _reference(question, *texts):
    return {"id": question, "answers": {"text": list(texts), "answer_start": [0] * len(texts)}}


REFERENCES = [
    _reference("answerable", "Normandy", "the Normandy"),
    _reference("unanswerable"),
    _reference("partly", "10th century"),
]
# In another order than the references: matched by id.
PREDICTIONS = [
    _prediction("partly", "the 10th", 0.3),
    _prediction("answerable", "normandy", 0.1),
    _prediction("unanswerable", "France", 0.9),
]


@pytest.fixture(scope="module")
def metric():
    return load("squad_v2")


def test_metric_answers_everything_by_default(metric):
    result = metric.compute(predictions=PREDICTIONS, references=REFERENCES)
    # answerable 1, 1; unanswerable 0, 0; partly 0 and F1: {10th} against {10th, century}: 1, 1/2 -> 2/3
    assert result["exact"] == pytest.approx(100 / 3)
    assert result["f1"] == pytest.approx(100 * (1 + 2 / 3) / 3)
    assert (result["HasAns_total"], result["NoAns_total"], result["total"]) == (2, 1, 3)
    assert result["NoAns_exact"] == 0
    # At 0.1: answerable and unanswerable right, exact 2/3. At 0.3 exact stays and F1 becomes (1 + 1 + 2/3) / 3.
    assert result["best_exact"] == pytest.approx(200 / 3)
    assert result["best_exact_thresh"] == pytest.approx(0.1)
    assert result["best_f1"] == pytest.approx(100 * (2 + 2 / 3) / 3)
    assert result["best_f1_thresh"] == pytest.approx(0.3)
    json.dumps(result, allow_nan=False)


def test_metric_threshold_is_exceeded_not_reached(metric):
    at = metric.compute(predictions=PREDICTIONS, references=REFERENCES, no_answer_threshold=0.9)
    assert at["NoAns_exact"] == 0
    below = metric.compute(predictions=PREDICTIONS, references=REFERENCES, no_answer_threshold=0.3)
    assert (below["NoAns_exact"], below["HasAns_f1"]) == (100, pytest.approx(100 * (1 + 2 / 3) / 2))
    none = metric.compute(predictions=PREDICTIONS, references=REFERENCES, no_answer_threshold=0.0)
    assert (none["NoAns_exact"], none["HasAns_exact"], none["HasAns_f1"]) == (100, 0, 0)
    # The best threshold, given back, attains the best figure.
    again = metric.compute(predictions=PREDICTIONS, references=REFERENCES, no_answer_threshold=at["best_f1_thresh"])
    assert again["f1"] == pytest.approx(at["best_f1"])


@pytest.mark.parametrize("predicted, expected", [("ab", "ac"), ("aa", "ab"), ("ab", "bb")])
def test_metric_wants_the_same_ids(metric, predicted, expected):
    with pytest.raises(ValueError, match="must have the same ids, each once"):
        metric.compute(
            predictions=[_prediction(i, "x") for i in predicted], references=[_reference(i) for i in expected]
        )


WORDS = st.lists(
    st.sampled_from(["the", "a", "New", "york,", "new", "an.", "1,066", "تهران،", "-", "\u00a0"]), max_size=5
)
TEXT = WORDS.map(" ".join)


@settings(deadline=None, max_examples=200)
@given(TEXT, st.lists(TEXT, max_size=3))
def test_scores_are_those_of_another_reading_of_the_official_definition(prediction, golds):
    assert question_scores([prediction], [golds])[0] == pytest.approx(official_squad.score(prediction, golds))
