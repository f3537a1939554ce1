"""Classes of unequal size: weights for the loss, and copies of the rare ones' examples.

Not for how weights act in a loss (the scripts), nor for which examples are for training (`common.legacy.splitting`).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

BETA = 0.999  # Cui et al. try 0.9 to 0.9999; classes of more than about 1 / (1 - BETA) examples weigh alike
LARGE = 50.0


def class_weights(
    labels: np.ndarray, classes: int, how: Literal["none", "balanced", "sqrt", "effective"]
) -> np.ndarray:
    """float64 [classes]: weights whose mean over the examples is 1; 0 for a class without examples (but for "none").

    Args:
        labels: int [N], 0 to classes - 1.
        how: "balanced": as scikit-learn's, inverse to the class's count; "sqrt": the square root of that; "effective":
            inverse to the effective number of examples (Cui et al. 2019, "Class-Balanced Loss Based on Effective
            Number of Samples", equation 4).
    """
    if how == "none":
        return np.ones(classes)
    counts = np.bincount(labels, minlength=classes)
    there = np.flatnonzero(counts)
    if how == "effective":
        found = (1 - BETA) / -np.expm1(counts[there] * np.log(BETA))
    else:
        from sklearn.utils.class_weight import compute_class_weight

        found = compute_class_weight("balanced", classes=there, y=labels)
        found = np.sqrt(found) if how == "sqrt" else found
    weights = np.zeros(classes)
    weights[there] = found
    return weights * counts.sum() / (weights @ counts)


def weight_warning(weights: np.ndarray, names: Sequence[str]) -> str | None:
    """A sentence where a weight is so large that a few examples decide what is learned; None otherwise."""
    largest = int(np.argmax(weights))
    if weights[largest] <= LARGE:
        return None
    return (
        f"the class {names[largest]!r} has the weight {weights[largest]:,.0f} in the loss: each of its few examples "
        f"counts like that many; --class_weights sqrt is milder, --drop_labels {names[largest]} leaves the class out"
    )


def oversampled_rows(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Rows, ascending, with copies: every class that there is has at least `share` of the largest one's count.

    All examples of a class are copied equally often, but for a rest at random.

    Args:
        labels: int [N].
        share: above 0, up to 1.
    """
    random, counts = np.random.default_rng(seed), np.bincount(labels)
    wanted, rows = round(share * counts.max()), [np.arange(len(labels))]
    for label in np.flatnonzero((counts > 0) & (counts < wanted)):
        of_class = np.flatnonzero(labels == label)
        copies, rest = divmod(wanted, len(of_class))
        rows += [np.repeat(of_class, copies - 1), random.permutation(of_class)[:rest]]
    return np.sort(np.concatenate(rows))
