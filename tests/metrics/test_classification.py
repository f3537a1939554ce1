"""Class scores: worked by hand, scikit-learn's own figures, and the module as `evaluate` loads it."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from common.metrics import load
from common.metrics.classification.classification import class_scores, confusion_counts, matthews, summary


@pytest.fixture(scope="module")
def metric():
    return load("classification")


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def pairs(matrix):
    """The true and the predicted classes of a confusion matrix."""
    cells = [(i, j) for i, row in enumerate(matrix) for j, count in enumerate(row) for _ in range(count)]
    return tuple(np.array(cells).T)


def test_by_hand():
    # true a 4 times (3 found), b 5 times (2 found), c once (found); predicted a 4, b 3, c 3 times
    truth, predicted = pairs([[3, 1, 0], [1, 2, 2], [0, 0, 1]])
    scores = class_scores(np.array([[[3, 1, 0], [1, 2, 2], [0, 0, 1]]]))[0]
    assert scores.tolist()[:3] == [
        [3 / 4, 3 / 4, 3 / 4],
        [2 / 3, 2 / 5, 1 / 2],  # F1 = 2 * 2 / (3 + 5)
        [1 / 3, 1, 1 / 2],
    ]
    macro = [(3 / 4 + 2 / 3 + 1 / 3) / 3, (3 / 4 + 2 / 5 + 1) / 3, (3 / 4 + 1 / 2 + 1 / 2) / 3]
    weighted = [(3 + 10 / 3 + 1 / 3) / 10, (3 + 2 + 1) / 10, (3 + 5 / 2 + 1 / 2) / 10]
    np.testing.assert_allclose(scores[3:], [macro, weighted])
    found = summary(truth, predicted, 3)
    assert found == pytest.approx(
        {
            "accuracy": 60,
            "f1": 100 * (3 / 4 + 1 / 2 + 1 / 2) / 3,
            "f1_weighted": 10 * (4 * 3 / 4 + 5 / 2 + 1 / 2),
            "precision": 100 * (3 / 4 + 2 / 3 + 1 / 3) / 3,
            "recall": 100 * (3 / 4 + 2 / 5 + 1) / 3,
            # (6 * 10 - (4*4 + 5*3 + 1*3)) / sqrt((100 - 16 - 25 - 1) * (100 - 16 - 9 - 9)) = 26 / sqrt(58 * 66)
            "mcc": 26 / math.sqrt(58 * 66),
        }
    )
    assert confusion_counts(truth, predicted, 3).tolist() == [[3, 1, 0], [1, 2, 2], [0, 0, 1]]


def test_classes_that_are_missing_by_hand():
    # a: true and found; b: true and never predicted; c: predicted and never true; d: nowhere
    truth, predicted = pairs([[2, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    scores = class_scores(confusion_counts(truth, predicted, 4)[None])[0, :4]
    nan = math.nan
    np.testing.assert_equal(scores, [[2 / 3, 1, 4 / 5], [0, 0, 0], [0, nan, 0], [nan, nan, nan]])
    found = summary(truth, predicted, 4)
    assert found["f1"] == pytest.approx(100 * (4 / 5 + 0 + 0) / 3)
    assert found["precision"] == pytest.approx(100 * (2 / 3) / 3)
    assert found["recall"] == pytest.approx(100 * (1 + 0) / 2)  # only over a and b: the unweighted average recall
    assert found["f1_weighted"] == pytest.approx(100 * (4 / 5) / 2)


@pytest.mark.parametrize(
    ("truth", "predicted"), [([0, 0], [0, 0]), ([1, 1], [0, 2]), ([0, 1], [2, 2]), ([2], [2]), ([0], [1])]
)
def test_constant_truth_or_prediction_has_no_correlation(truth, predicted):
    assert summary(np.array(truth), np.array(predicted), 3)["mcc"] == 0


CLASSES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


@settings(deadline=None, max_examples=60)
@given(CLASSES)
def test_agrees_with_scikit_learn(rows):
    truth, predicted = np.array(rows).T
    found = summary(truth, predicted, 5)
    counts = confusion_counts(truth, predicted, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single class
        # scikit-learn's default: over the classes that are true or predicted, what is undefined counting 0
        macro = sk.precision_recall_fscore_support(truth, predicted, average="macro", zero_division=0)
        weighted = sk.f1_score(truth, predicted, average="weighted", zero_division=0)
        expected = {
            "accuracy": 100 * sk.accuracy_score(truth, predicted),
            "f1": 100 * macro[2],
            "f1_weighted": 100 * weighted,
            "precision": 100 * macro[0],
            "recall": 100 * sk.balanced_accuracy_score(truth, predicted),
            "mcc": sk.matthews_corrcoef(truth, predicted),
        }
        assert counts.tolist() == sk.confusion_matrix(truth, predicted, labels=range(5)).tolist()
    assert found == pytest.approx(expected, abs=1e-9)


def test_many_tables_at_once_and_numbers_that_would_overflow():
    tables = np.random.default_rng(0).integers(0, 9, (20, 3, 3))
    np.testing.assert_allclose(class_scores(tables), np.concatenate([class_scores(one[None]) for one in tables]))
    np.testing.assert_allclose(matthews(tables * 10**9), matthews(tables))


def test_the_metric_itself(metric):
    truth, predicted = pairs([[3, 1, 0], [1, 2, 2], [0, 0, 0]])
    result = metric.compute(predictions=predicted, references=truth, labels=["anger", "fear", "شادی"])
    assert {name: result[name] for name in summary(truth, predicted, 3)} == summary(truth, predicted, 3)
    for name in ("precision", "recall"):
        average = getattr(sk, f"{name}_score")(truth, predicted, average="micro")
        assert result[f"{name}_micro"] == pytest.approx(100 * average)
    assert result["per_class"]["شادی"] == {"precision": 0, "recall": None, "f1": 0, "support": 0}
    assert result["per_class"]["fear"] == {"precision": 2 / 3, "recall": 2 / 5, "f1": 1 / 2, "support": 5}
    report = sk.classification_report(truth, predicted, labels=[0, 1, 2], output_dict=True, zero_division=0)
    for name in ("precision", "f1"):  # the macro recall leaves out what has none
        expected = report["macro avg"][name.replace("f1", "f1-score")]
        assert result["per_class"]["macro avg"][name] == pytest.approx(expected)
    for name in ("precision", "recall", "f1"):
        expected = report["weighted avg"][name.replace("f1", "f1-score")]
        assert result["per_class"]["weighted avg"][name] == pytest.approx(expected)
    assert result["confusion"] == [[3, 1, 0], [1, 2, 2], [0, 0, 0]]


@pytest.mark.parametrize(
    ("references", "predictions", "labels", "words"),
    [
        ([], [], None, "zero-size"),
        ([0, 3], [0, 0], ["a", "b"], "references have class 3"),
        ([0, 0], [0, -1], ["a", "b"], "predictions have class -1"),
        ([0, -100], [0, 0], None, "references have class -100"),
    ],
)
def test_what_cannot_be_scored_is_refused(metric, references, predictions, labels, words):
    with pytest.raises(ValueError, match=words):
        metric._compute(predictions, references, labels)
