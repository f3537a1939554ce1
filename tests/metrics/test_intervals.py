"""Intervals: textbook values, hand-worked cases, and how often they cover the truth."""

import numpy as np
import pytest
from scipy import stats

from common.metrics.classification.classification import class_scores
from common.metrics.detection import detection_scores
from common.metrics.intervals import (
    auroc_interval,
    mean_interval,
    ratio_interval,
    table_interval,
    wilson_interval,
)


@pytest.mark.parametrize(("right", "n"), [(0, 20), (1, 20), (13, 20), (20, 20), (990, 1000)])
def test_of_right_and_wrong_it_is_wilsons(right, n):
    expected = stats.binomtest(right, n).proportion_ci(method="wilson")
    for found in (mean_interval(np.arange(n) < right), wilson_interval(right / n, n)):
        assert found == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found[0] < found[1], "also where all or none are right"


def test_of_other_means_n_is_what_their_variance_stands_for():
    values = np.repeat([0.0, 0.5, 1.0], [10, 30, 60])  # mean .75; variance (10 * .5625 + 30 * .0625 + 60 * .0625) / 100
    assert mean_interval(values) == pytest.approx(wilson_interval(0.75, 100 * 0.1875 / 0.1125))
    assert mean_interval(np.full(50, 0.3)) == pytest.approx(wilson_interval(0.3, 50))  # nothing varies
    assert mean_interval(np.ones(50))[0] == pytest.approx(50 / (50 + stats.norm.ppf(0.975) ** 2))


def test_of_what_leaves_0_to_1_it_is_the_bootstraps():
    values = np.random.default_rng(0).normal(7, 2, 400)
    low, high = mean_interval(values)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.2 * half)
    errors, words = np.array([9, 3, 14, 7] * 30), np.array([5, 4, 6, 3] * 30)
    low, high = ratio_interval(errors, words)
    assert 1 < low < errors.sum() / words.sum() < high
    assert ratio_interval(errors, words) == (low, high), "the same each time"


def test_of_an_error_rate_by_hand():
    errors, words = np.array([0, 1, 2, 0, 1]), np.array([4, 5, 6, 3, 2])  # rate 4 / 20
    variance = np.sum((errors - 0.2 * words) ** 2) / 20**2 * 5 / 4
    assert ratio_interval(errors, words) == pytest.approx(wilson_interval(0.2, 0.16 / variance))
    assert ratio_interval(np.zeros(30), np.full(30, 5)) == pytest.approx(wilson_interval(0, 30))
    assert ratio_interval(words, words) == pytest.approx(wilson_interval(1, 5)), "as of empty transcripts"
    assert ratio_interval(np.array([2]), np.array([0])) == (None, None)
    assert ratio_interval(np.array([2, 2]), np.array([1, 1])) == (None, None), "no width says nothing"
    assert ratio_interval(np.array([1]), np.array([4]))[1] < 1, "one utterance has an interval, too"


def recall(tables):
    return detection_scores(tables)[:, 1]


def test_a_table_of_two_classes_is_jeffreys():
    """The recall of Dirichlet draws is Beta: that of 17 hits and 3 misses with half a count each."""
    low, high = table_interval(np.array([[970, 10], [3, 17]]), recall, draws=40_000)
    assert (low, high) == pytest.approx(tuple(stats.beta(17.5, 3.5).ppf([0.025, 0.975])), abs=0.004)


def test_a_perfect_table_has_an_interval_and_it_holds_the_score():
    low, high = table_interval(np.diag([100, 20]), detection_scores)
    assert (high == 1).all() and (low < 0.95).all() and (low > 0.7).all()
    low, high = table_interval(np.diag([9, 9, 9, 0]), class_scores)
    assert (low[:3] < 1).all() and (high[:3] == 1).all()
    assert np.isnan(low[3]).all() and np.isnan(high[3]).all(), "a class that does not occur has no scores"
    never = table_interval(np.array([[50, 0], [10, 0]]), recall)
    assert never[0] == 0 and 0 < never[1] < 0.4


def test_a_class_that_is_predicted_and_never_true_has_no_recall():
    low, high = table_interval(np.array([[30, 5, 0], [4, 20, 2], [0, 0, 0]]), class_scores)
    assert np.isnan(low[2, 1]) and np.isnan(high[2, 1]) and low[2, 0] == 0 < high[2, 0]
    assert not np.isnan(low[3:]).any()


def test_many_classes_need_no_more_memory():
    import tracemalloc

    counts = np.random.default_rng(0).integers(0, 5, (400, 400))
    tracemalloc.start()
    table_interval(counts, class_scores, draws=40)
    assert tracemalloc.get_traced_memory()[1] < 200e6  # 40 tables at once, and their shares, would be 100 MB more
    tracemalloc.stop()


def test_area_under_roc_by_hand():
    """Of one positive above one of two negatives; and at 1 the limit where (1 - x)^2 = z^2 V(x)."""
    truth, scores = np.repeat([1, 0], [20, 100]), np.repeat([1.0, 0.0], [20, 100])
    low, high = auroc_interval(truth, scores)
    variance = low * (1 - low) * (1 + 59 * ((1 - low) / (2 - low) + low / (1 + low))) / 2000
    assert high == 1 and (1 - low) ** 2 == pytest.approx(1.95996**2 * variance, rel=1e-4)
    assert auroc_interval(truth, -scores) == pytest.approx((0, 1 - low))
    assert auroc_interval(truth, np.zeros(120))[0] < 0.5 < auroc_interval(truth, np.zeros(120))[1]
    assert auroc_interval(np.ones(5), scores[:5]) == (None, None)


# Coverage: of nominally 95 %, with few and many examples. The bootstrap's was 10 to 90 % in these cases.


def covered(interval, truth, trials: int) -> float:
    found = [interval() for _ in range(trials)]
    return float(np.mean([(low <= truth) & (truth <= high) for low, high in found]))


@pytest.mark.parametrize(("p", "n"), [(0.99, 60), (0.9, 40), (0.5, 200)])
def test_coverage_of_accuracy(p, n):
    generator = np.random.default_rng(1)
    assert covered(lambda: mean_interval(generator.random(n) < p), p, 600) > 0.91


def test_coverage_of_answers_f1():
    generator, values, shares = np.random.default_rng(2), np.array([0, 0.4, 0.8, 1]), [0.02, 0.03, 0.05, 0.9]
    assert 0.91 < covered(lambda: mean_interval(generator.choice(values, 150, p=shares)), values @ shares, 600) < 0.99


def test_coverage_of_a_small_word_error_rate():
    generator = np.random.default_rng(3)

    def drawn():
        words = generator.integers(3, 30, 150)
        return ratio_interval(generator.binomial(words, 0.005), words)

    assert covered(drawn, 0.005, 500) > 0.9


@pytest.mark.parametrize(("positives", "found", "alarms"), [(20, 0.99, 1e-4), (20, 0.8, 1e-3), (60, 0.9, 1e-3)])
def test_coverage_at_few_frauds(positives, found, alarms):
    generator, rows = np.random.default_rng(4), 10_000
    shares = np.array([[rows * (1 - alarms), rows * alarms], [positives * (1 - found), positives * found]])
    shares /= shares.sum()
    truth = detection_scores(shares[None])[0]

    def drawn():
        table = generator.multinomial(rows + positives, shares.ravel()).reshape(2, 2)
        return table_interval(table, detection_scores, draws=500)

    results = [drawn() for _ in range(200)]
    share = np.mean([(low <= truth) & (truth <= high) for low, high in results], axis=0)
    assert (share > 0.89).all(), share


@pytest.mark.parametrize(("distance", "area"), [(3.0, 0.98305), (6.0, 0.9999889)])
def test_coverage_of_the_area_under_roc_with_20_positives(distance, area):
    assert stats.norm.cdf(distance / np.sqrt(2)) == pytest.approx(area, abs=1e-5)
    generator, truth = np.random.default_rng(5), np.repeat([1, 0], [20, 1000])
    drawn = lambda: auroc_interval(truth, generator.normal(distance * truth))  # noqa: E731
    assert covered(drawn, stats.norm.cdf(distance / np.sqrt(2)), 200) > 0.92


def test_coverage_of_macro_f1():
    generator = np.random.default_rng(6)
    shares = np.array([[0.5, 0.08, 0.02], [0.05, 0.2, 0.02], [0.02, 0.02, 0.09]])
    truth = class_scores(shares[None])[0, -2]

    def drawn():
        low, high = table_interval(generator.multinomial(300, shares.ravel()).reshape(3, 3), class_scores, draws=400)
        return low[-2], high[-2]

    results = [drawn() for _ in range(200)]
    share = np.mean([(low <= truth) & (truth <= high) for low, high in results], axis=0)
    assert (share > 0.88).all(), share
