"""Bootstrap intervals against the normal approximation, against each other and on a case worked by hand."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from common.legacy.metrics import bootstrap_interval, bootstrap_statistic, ratio_interval

REPOSITORY = Path(__file__).resolve().parents[2]


def test_agrees_with_the_normal_approximation():
    values = np.random.default_rng(3).normal(5.0, 2.0, size=2000)
    low, high = bootstrap_interval(values, resamples=4000, seed=1)
    half = 1.96 * values.std() / np.sqrt(len(values))
    # A percentile from 4000 resamples is itself uncertain by about 2 % of the half width: 8 % is four times that.
    assert low == pytest.approx(values.mean() - half, abs=0.08 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.08 * half)


def test_covers_the_true_mean_as_often_as_it_says():
    # 90 % intervals from 300 samples of a proportion of 0.7: 270 +- 5 should cover it, 250..288 is four sigma.
    generator = np.random.default_rng(11)
    covered = 0
    for seed in range(300):
        low, high = bootstrap_interval(generator.random(150) < 0.7, resamples=200, seed=seed, confidence=0.9)
        covered += low <= 0.7 <= high
    assert 250 <= covered <= 288


def test_two_examples_by_hand():
    # Two draws from {0, 1}: the mean is 0, 0.5, 1 with probability 1/4, 1/2, 1/4. The middle 95 % is all of it; the
    # middle 40 % (from the 30th to the 70th percentile) lies inside the half at 0.5.
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], confidence=0.4) == (0.5, 0.5)


def test_constant_values_have_no_spread():
    assert bootstrap_interval(np.ones(57)) == (1.0, 1.0)


def test_columns_are_the_columns_alone():
    values = np.random.default_rng(0).random((400, 3))
    low, high = bootstrap_interval(values, resamples=200)
    assert low.shape == high.shape == (3,)
    for column in range(3):
        alone = bootstrap_interval(values[:, column], resamples=200)
        assert alone == pytest.approx((low[column], high[column]), abs=1e-12)


def test_both_functions_agree_on_the_mean():
    values = np.random.default_rng(5).exponential(size=500)
    expected = bootstrap_interval(values, resamples=300, seed=9)
    assert bootstrap_statistic(np.mean, values, resamples=300, seed=9) == pytest.approx(expected, abs=1e-12)


def test_arrays_of_a_statistic_are_resampled_together():
    truth = np.random.default_rng(2).integers(3, size=200)
    # Row by row the two are equal, so any statistic of their agreement is constant.
    assert bootstrap_statistic(lambda a, b: np.mean(a == b), truth, truth.copy(), resamples=50) == (1.0, 1.0)


def test_confidence_widens_and_seed_decides():
    values = np.random.default_rng(1).random(300)
    assert bootstrap_interval(values, seed=4) == bootstrap_interval(values, seed=4)
    assert bootstrap_interval(values, seed=4) != bootstrap_interval(values, seed=5)
    wide, narrow = bootstrap_interval(values, confidence=0.99), bootstrap_interval(values, confidence=0.5)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_no_examples_have_no_interval():
    assert bootstrap_interval([]) == (None, None)
    assert bootstrap_interval(np.zeros((0, 2))) == (None, None)
    assert bootstrap_statistic(np.mean, np.array([])) == (None, None)


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"\[3, 2\]"):
        bootstrap_statistic(lambda a, b: 0.0, np.zeros(3), np.zeros(2))


def test_memory_does_not_grow_with_the_resamples():
    values = np.random.default_rng(0).random((200_000, 2))
    peaks = []
    for resamples in (10, 100):
        tracemalloc.start()
        bootstrap_interval(values, resamples=resamples)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Columns (3.2 MB), draws, counts: under 16 MB, where 100 resamples in one piece would be 160 MB and more.
    assert max(peaks) < 16e6
    assert peaks[1] < 1.1 * peaks[0]


def test_nothing_heavy_is_imported():
    heavy = ("datasets", "evaluate", "scipy", "sklearn", "torch", "transformers")
    code = f"import sys, common.metrics; print([module for module in {heavy} if module in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_ratio_of_sums_against_resampled_rows():
    random = np.random.default_rng(8)
    words = random.integers(1, 40, size=300)
    errors = random.binomial(words, 0.2)
    plain = bootstrap_statistic(lambda a, b: a.sum() / b.sum(), errors, words, resamples=200, seed=3)
    assert ratio_interval(errors, words, resamples=200, seed=3) == pytest.approx(plain, abs=1e-12)
    assert ratio_interval(errors, np.ones(300)) == pytest.approx(bootstrap_interval(errors), abs=1e-12)


def test_a_ratio_agrees_with_the_delta_method():
    random = np.random.default_rng(6)
    words = random.integers(5, 60, size=2000)
    errors = random.binomial(words, 0.3)
    rate = errors.sum() / words.sum()
    half = 1.96 * np.std(errors - rate * words) / words.mean() / np.sqrt(2000)
    low, high = ratio_interval(errors, words, resamples=4000)
    assert (low, high) == (pytest.approx(rate - half, abs=0.08 * half), pytest.approx(rate + half, abs=0.08 * half))


def test_ratios_by_hand():
    # Two draws from (1 error in 1 word, 0 in 3): 1/1, 1/4 or 0/3
    assert ratio_interval([1, 0], [1, 3]) == (0.0, 1.0)
    # Two draws from (2 errors in 4 words, 1 error where nothing is said): 4/8, 3/4, or nothing to divide by
    low, high = ratio_interval([2, 1], [4, 0], resamples=400)
    assert (low, high) == (0.5, 0.75)
    assert ratio_interval([2, 1], [0, 0]) == ratio_interval([], []) == (None, None)


def test_memory_of_ratios_does_not_grow_with_the_resamples():
    values = np.random.default_rng(0).random(200_000)
    peaks = []
    for resamples in (10, 100):
        tracemalloc.start()
        ratio_interval(values, values, resamples=resamples)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 16e6 and peaks[1] < 1.1 * peaks[0]
