"""Scores of a detector against scikit-learn, and what is undefined."""

import math

import numpy as np
import pytest
from sklearn import metrics as sk

from common.metrics import load
from common.metrics.detection.detection import confusion_counts, detection_scores, summary


@pytest.fixture(scope="module")
def metric():
    return load("detection")


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(metric, seed):
    generator = np.random.default_rng(seed)
    truth = (generator.random(400) < 0.1).astype(int)
    probabilities = np.clip(0.3 * truth + generator.random(400) * 0.7, 0, 1).round(2)
    found, called = metric.compute(predictions=probabilities, references=truth, threshold=0.6), probabilities >= 0.6
    assert found["auprc"] == pytest.approx(100 * sk.average_precision_score(truth, probabilities))
    assert found["roc_auc"] == pytest.approx(100 * sk.roc_auc_score(truth, probabilities))
    for name in ("precision", "recall", "f1"):
        assert found[name] == pytest.approx(100 * getattr(sk, f"{name}_score")(truth, called))
    assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(truth, called))
    assert found["confusion"] == sk.confusion_matrix(truth, called).tolist()
    assert summary(truth, probabilities, 0.6) == {name: found[name] for name in found if name != "confusion"}


def test_a_probability_at_the_threshold_is_positive():
    assert confusion_counts(np.array([0, 1, 1]), np.array([0.5, 0.5, 0.4]), 0.5).tolist() == [[0, 1], [1, 1]]


def test_what_is_undefined_is_none(metric):
    silent = metric.compute(predictions=[0.1, 0.2], references=[0, 0])
    nothing = {"auprc": None, "roc_auc": None, "precision": None, "recall": None, "f1": None, "mcc": 0.0}
    assert silent == {**nothing, "confusion": [[2, 0], [0, 0]]}
    alarmed = metric.compute(predictions=[0.1, 0.9], references=[0, 0])
    assert (alarmed["precision"], alarmed["recall"], alarmed["f1"]) == (0, None, 0)
    missed = metric.compute(predictions=[0.1, 0.2], references=[0, 1])
    assert (missed["precision"], missed["recall"], missed["f1"], missed["roc_auc"]) == (0, 0, 0, 100)
    assert math.isnan(detection_scores(np.array([[[5, 0], [0, 0]]]))[0, 0])


@pytest.mark.parametrize(
    ("references", "predictions"), [([], []), ([0, 2], [0.1, 0.2]), ([0, -1], [0.1, 0.2]), ([0, 1], [0.1, math.nan])]
)
def test_what_cannot_be_scored_is_refused(metric, references, predictions):
    with pytest.raises(ValueError):
        metric._compute(predictions, references)
