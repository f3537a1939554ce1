"""Scores of a detector against scikit-learn, and what is undefined."""

import math

import numpy as np
import pytest
from sklearn import metrics as sk

from common.metrics.detection import confusion_counts, detection_scores, summary


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    truth = (generator.random(400) < 0.1).astype(int)
    probabilities = np.clip(0.3 * truth + generator.random(400) * 0.7, 0, 1).round(2)
    found, called = summary(truth, probabilities, 0.6), probabilities >= 0.6
    assert found["auprc"] == pytest.approx(100 * sk.average_precision_score(truth, probabilities))
    assert found["roc_auc"] == pytest.approx(100 * sk.roc_auc_score(truth, probabilities))
    for name in ("precision", "recall", "f1"):
        assert found[name] == pytest.approx(100 * getattr(sk, f"{name}_score")(truth, called))
    assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(truth, called))
    assert (confusion_counts(truth, probabilities, 0.6) == sk.confusion_matrix(truth, called)).all()


def test_a_probability_at_the_threshold_is_positive():
    assert confusion_counts(np.array([0, 1, 1]), np.array([0.5, 0.5, 0.4]), 0.5).tolist() == [[0, 1], [1, 1]]


def test_what_is_undefined_is_nan():
    nothing = dict.fromkeys(("auprc", "roc_auc", "precision", "recall", "f1"), math.nan) | {"mcc": 0.0}
    assert summary([0, 0], [0.1, 0.2]) == pytest.approx(nothing, nan_ok=True)
    alarmed = summary([0, 0], [0.1, 0.9])
    assert alarmed["precision"] == alarmed["f1"] == 0 and math.isnan(alarmed["recall"])
    missed = summary([0, 1], [0.1, 0.2])
    assert (missed["precision"], missed["recall"], missed["f1"], missed["roc_auc"]) == (0, 0, 0, 100)
    assert math.isnan(detection_scores(np.array([[[5, 0], [0, 0]]]))[0, 0])
