"""How sure a metric is: percentile bootstrap intervals over the evaluated examples.

Not the metrics themselves: each lives in its own folder here, as a module that `evaluate.load` can read. Nothing but
numpy is imported, so that every script can afford an interval.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3 (the percentile interval).
"""

from collections.abc import Callable, Iterator

import numpy as np


def bootstrap_interval(
    values: np.ndarray, *, resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float] | tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """The percentile bootstrap interval of the mean of per-example values, resampling examples.

    values: [N], or [N, M] for M metrics of the same examples, which are then resampled together. confidence: 0..1.
    Returns (low, high) in the units of `values`: floats for [N], arrays [M] for [N, M], (None, None) for N = 0.
    The same seed gives the same interval. Memory is a few times that of `values`, whatever `resamples` is.
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n == 0:
        return None, None
    columns = np.ascontiguousarray(values.reshape(n, -1).T)
    # How often each example was drawn, times the values: no resampled copy of [N, M] is gathered. einsum and not @,
    # whose threads wait for each other a thousand times over where the cores are busy.
    counts = (np.bincount(drawn, minlength=n) for drawn in _draws(n, resamples, seed))
    means = [np.einsum("mn,n->m", columns, count) / n for count in counts]
    low, high = _percentiles(means, confidence)
    return (float(low[0]), float(high[0])) if values.ndim == 1 else (low, high)


def bootstrap_statistic(
    statistic: Callable[..., float],
    *arrays: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float] | tuple[None, None]:
    """The percentile bootstrap interval of a statistic that is not a mean, such as a macro-averaged F1.

    arrays: each [N, ...], one row an example; all of them are resampled with the same draws, the very draws that
    `bootstrap_interval` makes with this seed. statistic: called as statistic(*resampled_arrays), returns a float; it
    must bear resamples in which a rare class is missing. Returns (low, high), or (None, None) for N = 0.
    Raises ValueError if the arrays differ in length.
    """
    arrays = tuple(np.asarray(array) for array in arrays)
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1:
        raise ValueError(f"the arrays must have one length, and have {[len(array) for array in arrays]}")
    n = lengths.pop()
    if n == 0:
        return None, None
    estimates = [statistic(*(array[drawn] for array in arrays)) for drawn in _draws(n, resamples, seed)]
    low, high = _percentiles(estimates, confidence)
    return float(low), float(high)


def _draws(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yields `resamples` times n indices [n] in 0..n-1, drawn with replacement.

    One resample at a time: with a million of indices a chunk of several costs memory and saves nothing, and with a
    few hundred the thousand rounds of Python take some ten milliseconds in all.
    """
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield generator.integers(n, size=n)


def _percentiles(estimates: list, confidence: float) -> np.ndarray:
    """The two ends [2, ...] of the central `confidence` share of estimates [resamples, ...]."""
    return np.quantile(np.asarray(estimates), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)


def ratio_interval(
    numerators: np.ndarray,
    denominators: np.ndarray,
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float] | tuple[None, None]:
    """The percentile bootstrap interval of sum(numerators) / sum(denominators), resampling examples.

    For rates of a whole set, such as the word errors of its utterances over their words: numerators, denominators: [N]
    of the same examples, denominators >= 0. The draws are those that `bootstrap_interval` makes with this seed.
    Resamples whose denominators are all 0 have no ratio and are left out. Returns (low, high), a plain ratio, or (None,
    None) where all denominators are 0 or N = 0.
    """
    columns = np.array([numerators, denominators], dtype=np.float64)
    n = columns.shape[1]
    if not columns[1].any():
        return None, None
    counts = (np.bincount(drawn, minlength=n) for drawn in _draws(n, resamples, seed))
    above, below = np.array([np.einsum("mn,n->m", columns, count) for count in counts]).T
    some = below > 0
    low, high = _percentiles(above[some] / below[some], confidence)
    return float(low), float(high)
