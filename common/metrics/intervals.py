"""95 % intervals of scores, from few examples on and up to 0 and 100 %; all in the fractions that they get.

Sources: Wilson (JASA 1927); Newcombe, Confidence intervals for an effect size measure based on the Mann-Whitney
statistic, part 2 (Statistics in Medicine 2006), method 5; DeLong, DeLong and Clarke-Pearson (Biometrics 1988); Boyd,
Eng and Page, Area under the precision-recall curve (ECML 2013), by which AUPRC has Wilson's, its n the positives.
"""

import math
from collections.abc import Callable

import numpy as np

Z = 1.959963984540054  # of the normal distribution, 2.5 % on either side
ENDS = (0.025, 0.975)
CELLS = 2_000_000  # random numbers drawn at a time

Interval = tuple[float, float]


def wilson_interval(p: float, n: float) -> Interval:
    """Of a proportion p (0 to 1) among n examples, or as many as its variance stands for."""
    middle, spread = p + Z**2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + (Z / (2 * n)) ** 2)
    low, high = ((middle + side * spread) / (1 + Z**2 / n) for side in (-1, 1))
    return max(low, 0.0) if p > 0 else 0.0, min(high, 1.0) if p < 1 else 1.0


def mean_interval(values: np.ndarray) -> Interval:
    """Of the mean of per-example values [N], N > 0: Wilson's where it lies in 0..1, else the bootstrap's."""
    values = np.asarray(values, dtype=np.float64)
    p, n, varies = float(values.mean()), len(values), np.ptp(values) > 0
    if not 0 <= p <= 1 or (p in (0, 1) and varies):
        return _bootstrap(values, np.ones(n))
    return wilson_interval(p, p * (1 - p) / (values.var() / n) if varies else n)


def ratio_interval(errors: np.ndarray, sizes: np.ndarray) -> Interval | tuple[None, None]:
    """Of sum(errors) / sum(sizes) of N examples [N], as word errors over words: Wilson's up to 1, else bootstrap."""
    errors, sizes = np.asarray(errors, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    n, whole = len(errors), sizes.sum()
    if not whole:
        return None, None
    rate = float(errors.sum() / whole)
    if rate <= 1 and np.allclose(errors, rate * sizes):
        return wilson_interval(rate, n)
    if rate >= 1:
        low, high = _bootstrap(errors, sizes)
        return (low, high) if low < high else (None, None)
    variance = np.sum((errors - rate * sizes) ** 2) / whole**2 * n / (n - 1)
    return wilson_interval(rate, rate * (1 - rate) / variance)


def _bootstrap(above: np.ndarray, below: np.ndarray, resamples: int = 2000) -> Interval:
    """Percentiles of the ratio of sums over examples [N] drawn with replacement; without a denominator left out."""
    random, n = np.random.default_rng(0), len(above)
    counts = (np.bincount(random.integers(n, size=n), minlength=n) for _ in range(resamples))
    sums = np.array([(above @ count, below @ count) for count in counts])
    sums = sums[sums[:, 1] > 0]
    low, high = np.quantile(sums[:, 0] / sums[:, 1], ENDS)
    return float(low), float(high)


def table_interval(confusion: np.ndarray, statistic: Callable, draws: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Of all that is computed from a confusion matrix [C, C] (rows: truth): quantiles over Dirichlet draws of it.

    Before anything is counted every class has half a count on the diagonal and half a count spread over the rest of its
    row; one of more than two classes that is neither true nor predicted has none. `statistic` maps tables of shares
    [R, C, C] to [R, ...]. Returns (low, high), each [...]: NaN where the table itself has NaN, or all draws one value.
    """
    confusion = np.asarray(confusion, dtype=np.float64)
    occurs = (confusion.sum(axis=0) + confusion.sum(axis=1) > 0) | (len(confusion) == 2)
    classes = max(int(occurs.sum()), 2)
    prior = np.where(np.eye(len(confusion), dtype=bool), 0.5, 0.5 / (classes - 1)) * np.outer(occurs, occurs)
    random, step, drawn = np.random.default_rng(0), max(1, CELLS // confusion.size), []
    for start in range(0, draws, step):
        tables = random.standard_gamma(confusion + prior, (min(step, draws - start), *confusion.shape))
        drawn.append(statistic(tables / tables.sum(axis=(1, 2), keepdims=True)))
    value, drawn = statistic(confusion[None] / confusion.sum())[0], np.concatenate(drawn)
    drawn = np.where(np.isnan(value), np.nan, drawn)
    low, high = np.quantile(np.where(np.isnan(drawn), value, drawn), ENDS, axis=0)
    low, high = np.minimum(low, value), np.maximum(high, value)  # the draws of a perfect table all lie below it
    known = np.where(high > low, 1.0, np.nan)
    return low * known, high * known


def auroc_interval(truth: np.ndarray, scores: np.ndarray) -> Interval | tuple[None, None]:
    """Of the area under ROC of scores [N], truth 0 or 1 [N]: Newcombe's method 5, its variance and DeLong's together.

    Either alone is too narrow: Newcombe's where positives are of two kinds, DeLong's where nearly all are found.
    """
    from scipy.optimize import brentq
    from scipy.stats import rankdata

    scores, positive = np.asarray(scores), np.asarray(truth) == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return None, None
    ranks = rankdata(scores)
    above = (ranks[positive] - rankdata(scores[positive])) / n  # the share of negatives below each positive
    below = (ranks[~positive] - rankdata(scores[~positive])) / m
    area, delong = above.mean(), above.var() / max(m - 1, 1) + below.var() / max(n - 1, 1)

    def distance(theta: float) -> float:
        half = (m + n) / 2 - 1
        newcombe = theta * (1 - theta) * (1 + half * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (m * n)
        return (theta - area) ** 2 - Z**2 * (newcombe + delong)

    tiny = 1e-9  # an area of 0 or 1 is a root itself, and not the one that is looked for
    low = brentq(distance, 0, area - tiny) if area > tiny and distance(0) > 0 else 0.0
    high = brentq(distance, area + tiny, 1) if area < 1 - tiny and distance(1) > 0 else 1.0
    return low, high
