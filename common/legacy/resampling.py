"""Classes of unequal size in a table of numbers: synthetic rows for the rare (ADASYN), copies, or fewer of the others.

For the training part alone: a row made of a test row gives the test away. Not for weights in the loss, nor for copies
of recordings (both in `common.legacy.balancing`). Not for scaling, though ADASYN goes by Euclidean distances: scale before.
"""

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from common.legacy.balancing import oversampled_rows
from common.legacy.errors import UserError

BLOCK = 16_384  # synthetic rows moved at a time, so that little is held beside the result


class _Resampler(BaseEstimator):
    """fit and transform as the three have them; `_plan` says what is to be done, `_resampled` does it.

    Attributes:
        target_: [N], the y of fit.
        reasons_: dict[label, str]: one sentence for every class that should have been resampled but stays as it is.
        origin_: int64 [rows out], after transform: the row of X that each row is, or was made from.
    """

    dtype: object = None  # of X, in scikit-learn's terms; None: any

    def fit(self, X, y):
        """Decides what is to be done with the rows X, finite numbers [N, F], of the classes y, labels [N].

        Raises:
            UserError: a parameter out of its range, or rows of one class only.
            ValueError: NaN or infinite cells, X and y of unequal length, a continuous y; scikit-learn's own sentences.
        """
        X, y = validate_data(self, X, y, dtype=self.dtype)
        check_classification_targets(y)
        labels, counts = np.unique(y, return_counts=True)
        if len(labels) == 1:
            raise UserError(f"all {len(y):,} rows are of the class {labels[0]}; resampling needs a second class")
        _require_share("ratio", self.ratio)
        self.target_, self.reasons_ = y.copy(), {}
        self._plan(X, dict(zip(labels.tolist(), counts.tolist())))
        return self

    def transform(self, X, y):
        """X [rows out, F] and y [rows out] after resampling the rows that fit was given.

        X may be in another scale than the one in which fit looked for neighbours; y must be the same (ValueError).
        """
        check_is_fitted(self)
        X, y = validate_data(self, X, y, dtype=self.dtype, reset=False)
        if not np.array_equal(y, self.target_):
            raise ValueError("transform resamples the rows that fit was given, and this y is not theirs")
        self.origin_, resampled = self._resampled(X, check_random_state(self.random_state))
        return resampled, y[self.origin_]

    def fit_transform(self, X, y):
        """`fit`, then `transform` of the same rows."""
        return self.fit(X, y).transform(X, y)

    def fit_resample(self, X, y):
        """The same as `fit_transform`, under imbalanced-learn's name."""
        return self.fit_transform(X, y)


class ADASYN(_Resampler):
    """Adaptive synthetic sampling.

    Source: He et al. 2008, "ADASYN: Adaptive Synthetic Sampling Approach for Imbalanced Learning", IJCNN.

    A class of m_s rows, beside m_l of the largest one, gets about G = (m_l - m_s) * ratio synthetic rows, the more of
    them around a row the more of its k neighbours are of other classes: r_i = their share, and G_i = G * r_i / sum(r),
    rounded, so that the sum is near G but not always G. Each is x_i + (x_z - x_i) * lambda, x_z one of the k neighbours
    of x_i in its own class, lambda uniform in [0, 1]. No row is its own neighbour, even where others are equal to it.
    With several classes each but the largest is compared with all others together, as imbalanced-learn does, and the
    same random_state gives the same rows as there.

    transform returns the given rows first, unchanged and in order, then the synthetic ones, class after class. X of
    float32 stays that; other numbers become float64, since what lies between two integers is none.

    Args:
        ratio: beta of the paper, above 0, up to 1: the share of the difference to the largest class that is made up.
        imb_threshold: above 0, up to 1: a class is left alone where m_s / m_l is above it. The paper's d_th, a preset
            threshold for the imbalance that one tolerates; at 0.75 three rows to four of the largest class are too few,
            and every set that calls for resampling is far below.
        k: neighbours. Taken are as many as there are; `notes_` says it where that is fewer.
        random_state: int, numpy RandomState or None.
        verbose: print what is found for every class.

    Attributes, each with the classes but the largest:
        density_: float64 [m_s], r_i before normalising; only where neighbours had to be looked up.
        generated_: int64 [m_s], G_i; all 0 where a class stays as it is.
        neighbours_: int64 [m_s, k], rows of X, nearest first; only where something is generated.
        notes_: one sentence where there are fewer than k neighbours.
    """

    dtype = (np.float64, np.float32)

    def __init__(self, ratio=1.0, imb_threshold=0.75, k=5, random_state=None, verbose=False):
        self.ratio = ratio
        self.imb_threshold = imb_threshold
        self.k = k
        self.random_state = random_state
        self.verbose = verbose

    def _plan(self, X, counts: dict) -> None:
        _require_share("imb_threshold", self.imb_threshold)
        if self.k < 1:
            raise UserError(f"k is {self.k}; ADASYN needs at least 1 neighbour")
        self.density_, self.generated_, self.neighbours_, self.notes_ = {}, {}, {}, {}
        largest = max(counts, key=counts.get)
        among_all = None  # one index for all classes
        for label, count in counts.items():
            if label == largest:
                continue
            self.generated_[label] = np.zeros(count, dtype=np.int64)
            degree, missing = count / counts[largest], (counts[largest] - count) * self.ratio
            if degree > self.imb_threshold or missing == 0:
                self.reasons_[label] = (
                    f"class {label}: {count:,} rows are {degree:.3g} of the {counts[largest]:,} of the largest class, "
                    f"balanced enough for imb_threshold {self.imb_threshold:g}"
                )
            elif count == 1:
                self.reasons_[label] = (
                    f"class {label}: has 1 row beside {counts[largest]:,} of the largest class, and no second one "
                    "towards which a synthetic row could be put"
                )
            else:
                if among_all is None:
                    among_all = NearestNeighbors().fit(X)
                self._plan_class(X, label, missing, among_all)
            if self.verbose:
                said = self.reasons_.get(label) or (
                    f"class {label}: {count:,} rows are {degree:.3g} of the largest class's; "
                    f"{self.generated_[label].sum():,} synthetic ones for a wanted {missing:,.0f}"
                )
                print(f"ADASYN: {said}{'; ' + self.notes_[label] if label in self.notes_ else ''}")

    def _plan_class(self, X, label, missing: float, among_all: NearestNeighbors) -> None:
        rows = np.flatnonzero(self.target_ == label)
        near, k = min(self.k, len(X) - 1), min(self.k, len(rows) - 1)
        if k < self.k:
            self.notes_[label] = f"of {len(rows):,} rows only {k} can be neighbours of one, not k = {self.k}"
        others = self.target_[_neighbours(among_all, X[rows], rows, near)] != label
        self.density_[label] = others.mean(1)
        total = self.density_[label].sum()
        if total == 0:
            self.reasons_[label] = (
                f"class {label}: none of its {len(rows):,} rows has a row of another class among its {near} nearest "
                "neighbours, so no place is hard to learn"
            )
            return
        generated = np.rint(self.density_[label] / total * missing).astype(np.int64)
        if not generated.any():
            self.reasons_[label] = (
                f"class {label}: {missing:,.3g} synthetic rows for {np.count_nonzero(others.any(1)):,} rows with "
                "neighbours of another class are at most half a row for each, which rounds to 0"
            )
            return
        self.generated_[label] = generated
        own = X[rows]
        self.neighbours_[label] = rows[_neighbours(NearestNeighbors().fit(own), own, np.arange(len(own)), k)]

    def _resampled(self, X, random) -> tuple[np.ndarray, np.ndarray]:
        origins, targets, steps = [np.arange(len(X))], [], []
        for label, neighbours in self.neighbours_.items():
            of_class = np.repeat(np.arange(len(neighbours)), self.generated_[label])
            chosen = random.choice(neighbours.shape[1], size=len(of_class))
            origins.append(np.flatnonzero(self.target_ == label)[of_class])
            targets.append(neighbours[of_class, chosen])
            steps.append(random.uniform(size=len(of_class)))
        origin = np.concatenate(origins)
        resampled = X[origin]
        if targets:
            target, step = np.concatenate(targets), np.concatenate(steps)[:, None]
            for first in range(0, len(target), BLOCK):
                block = slice(first, first + BLOCK)
                made = resampled[len(X) :][block]  # x_i, and a view: what is added is added to the result
                made += step[block] * (X[target[block]] - made)
        return origin, resampled


class RandomOversampler(_Resampler):
    """Copies of rows: every class has at least `ratio` of the largest one's count afterwards.

    The rows of a class are copied equally often, but for a rest at random. transform returns the given rows first,
    unchanged and in order, then the copies.
    """

    def __init__(self, ratio=1.0, random_state=None):
        self.ratio = ratio
        self.random_state = random_state

    def _plan(self, X, counts: dict) -> None:
        largest = max(counts, key=counts.get)
        for label, count in counts.items():
            if label != largest and count >= round(self.ratio * counts[largest]):
                self.reasons_[label] = (
                    f"class {label}: {count:,} rows are at least {self.ratio:g} of the {counts[largest]:,} of the "
                    "largest class already"
                )

    def _resampled(self, X, random) -> tuple[np.ndarray, np.ndarray]:
        classes = np.unique(self.target_, return_inverse=True)[1]
        rows = oversampled_rows(classes, self.ratio, random.randint(2**31 - 1))
        copies = np.diff(rows, prepend=-1) == 0
        origin = np.concatenate([rows[~copies], rows[copies]])
        return origin, X[origin]


class RandomUndersampler(_Resampler):
    """Fewer rows, chosen at random: the smallest class has at least `ratio` of every other one's count afterwards.

    The rows that stay keep their order.
    """

    def __init__(self, ratio=1.0, random_state=None):
        self.ratio = ratio
        self.random_state = random_state

    def _plan(self, X, counts: dict) -> None:
        smallest = min(counts, key=counts.get)
        self.kept_ = {label: min(count, round(counts[smallest] / self.ratio)) for label, count in counts.items()}
        for label, count in counts.items():
            if label != smallest and self.kept_[label] == count:
                self.reasons_[label] = (
                    f"class {label}: {count:,} rows are no more than the {counts[smallest]:,} of the smallest class "
                    f"divided by {self.ratio:g} already"
                )

    def _resampled(self, X, random) -> tuple[np.ndarray, np.ndarray]:
        kept = [random.permutation(np.flatnonzero(self.target_ == label))[:n] for label, n in self.kept_.items()]
        origin = np.sort(np.concatenate(kept))
        return origin, X[origin]


def _neighbours(index: NearestNeighbors, points: np.ndarray, own: np.ndarray, k: int) -> np.ndarray:
    """int64 [points, k]: the nearest rows of the index, nearest first, without the row `own` [points] that each is."""
    found = index.kneighbors(points, k + 1, return_distance=False)
    itself = found == own[:, None]
    itself[~itself.any(1), -1] = True  # more than k rows equal to it came before: the point is missing, one is too many
    return found[~itself].reshape(len(points), k)


def _require_share(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise UserError(f"{name} is {value}; it must be above 0 and at most 1")
