"""Weights against scikit-learn and by hand; copies counted."""

from collections import Counter

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from common.legacy.balancing import class_weights, oversampled_rows, weight_warning

LABELS = np.repeat([0, 1, 2, 3], [1059, 38, 201, 1028])
COUNTS = np.array([1059, 38, 201, 1028])


def test_balanced_is_scikit_learns():
    expected = compute_class_weight("balanced", classes=np.arange(4), y=LABELS)
    assert class_weights(LABELS, 4, "balanced") == pytest.approx(expected, rel=1e-12)


def test_sqrt_and_effective_by_hand():
    roots = 1 / np.sqrt(COUNTS)
    assert class_weights(LABELS, 4, "sqrt") == pytest.approx(roots / (roots @ COUNTS) * COUNTS.sum(), rel=1e-12)
    effective = np.array([sum(0.999**k for k in range(n)) for n in COUNTS])  # the definition: a geometric series
    expected = 1 / effective / (COUNTS / effective).sum() * COUNTS.sum()
    assert class_weights(LABELS, 4, "effective") == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("how", ["none", "balanced", "sqrt", "effective"])
def test_the_mean_weight_of_the_examples_is_one(how):
    weights = class_weights(LABELS, 4, how)
    assert weights.dtype == np.float64 and weights[LABELS].mean() == pytest.approx(1)
    assert (np.argsort(weights) == np.argsort(-COUNTS)).all() or how == "none"


@pytest.mark.parametrize("how", ["balanced", "sqrt", "effective"])
def test_a_class_without_examples(how):
    weights = class_weights(np.array([0, 0, 0, 2]), 4, how)
    assert weights[[1, 3]].tolist() == [0, 0] and weights[[0, 2]] == pytest.approx(
        class_weights(np.array([0, 0, 0, 1]), 2, how)
    )
    assert class_weights(np.array([0, 2]), 4, "none").tolist() == [1, 1, 1, 1]


def test_keyword_spottings_silence_is_warned_of():
    """51,094 clips, of which 6 are silence: the published weights."""
    counts = [1850] * 10 + [32_588, 6]
    labels = np.repeat(np.arange(12), counts)
    names = [*map(str, range(10)), "_unknown_", "_silence_"]
    sentence = weight_warning(class_weights(labels, 12, "balanced"), names)
    assert sentence.startswith("the class '_silence_' has the weight 710 in the loss") and "\n" not in sentence
    assert weight_warning(class_weights(labels, 12, "none"), names) is None
    assert weight_warning(np.array([1.0, 50.0]), names) is None
    assert "'1' has the weight 51" in weight_warning(np.array([1.0, 50.6]), names)


@pytest.mark.parametrize("share, expected", [(1.0, [1059] * 4), (0.5, [1059, 530, 530, 1028]), (0.01, COUNTS.tolist())])
def test_oversampling(share, expected):
    rows = oversampled_rows(LABELS, share, 3)
    assert np.bincount(LABELS[rows]).tolist() == expected and (np.diff(rows) >= 0).all()
    times = Counter(rows.tolist())
    assert set(times) == set(range(len(LABELS))), "nothing is lost"
    for label in range(4):
        of_class = [times[row] for row in np.flatnonzero(np.equal(LABELS, label))]
        assert max(of_class) - min(of_class) <= 1, "all are copied alike"
    assert oversampled_rows(LABELS, share, 3).tolist() == rows.tolist()
    other = oversampled_rows(LABELS, share, 4)
    assert (other.tolist() == rows.tolist()) == (share == 0.01)


def test_oversampling_without_some_class():
    rows = oversampled_rows(np.array([4, 4, 4, 1]), 1.0, 0)
    assert rows.tolist() == [0, 1, 2, 3, 3, 3]
