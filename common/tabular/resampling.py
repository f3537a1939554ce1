"""Classes of unequal size in a table: synthetic rows for the rare one, copies of its rows, or fewer of the others.

For the training part alone: a row made of a test row gives the test away. Distances are Euclidean: scale before.
"""

from dataclasses import replace

import numpy as np
from scipy.spatial import KDTree
from sklearn.base import BaseEstimator
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from common.errors import UserError, said_by
from common.tabular.columns import Part


class ADASYN(BaseEstimator):
    """Adaptive synthetic sampling of the rarer of two classes (He et al. 2008), with the arguments of report 004.

    d = m_s / m_l is the degree of imbalance: above `imb_threshold` nothing is done. Otherwise G = (m_l - m_s) * ratio
    rows are wanted. r_i is the share of the majority among the k neighbours of minority row i; it gets
    G_i = G * r_i / sum(r) of them, rounded. Each is x_i + (x_z - x_i) * lambda: x_z one of the k neighbours of x_i in
    its own class, lambda uniform in [0, 1]. The same random_state gives the rows of imbalanced-learn's ADASYN.

    After fit: degree_ d, wanted_ G; of the m_s minority rows minority_, their positions, density_ r_i, generated_ G_i,
    and neighbours_ [m_s, k], positions. After transform: sample_indices_, the row that each one is, or was made from.
    """

    def __init__(self, ratio=1.0, imb_threshold=0.75, k=5, random_state=None, verbose=False):
        self.ratio = ratio
        self.imb_threshold = imb_threshold
        self.k = k
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y):
        """Finds how many rows are to be made of each minority row of X [N, F]; y: two labels [N]."""
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32))
        labels, counts = np.unique(y, return_counts=True)
        if len(labels) != 2:
            raise UserError(f"ADASYN takes two classes; {len(y):,} rows have {len(labels)}")
        if not (0 < self.ratio <= 1 and 0 < self.imb_threshold <= 1 and self.k >= 1):
            raise UserError(f"{self}: ratio and imb_threshold must be above 0, up to 1, and k 1 or more")
        rare = labels[::-1][counts[::-1].argmin()]  # of equally many the second, usually 1
        few, many = int(counts.min()), int(counts.max())
        self.target_, self.minority_ = y.copy(), np.flatnonzero(y == rare)
        self.degree_, self.wanted_ = few / many, (many - few) * self.ratio
        self.density_, self.generated_ = np.zeros(few), np.zeros(few, dtype=np.int64)
        self.neighbours_ = np.zeros((few, 0), dtype=np.int64)
        if self.degree_ <= self.imb_threshold and few > 1:  # one row has no second one towards which to go
            own, k = X[self.minority_], min(self.k, len(X) - 1)
            near = NearestNeighbors(n_neighbors=k + 1).fit(X).kneighbors(own, return_distance=False)
            itself = near == self.minority_[:, None]
            itself[~itself.any(1), -1] = True  # more than k rows equal to it came before
            self.density_ = (y[near[~itself].reshape(few, k)] != rare).mean(1)
            shares = self.density_ / (self.density_.sum() or 1)
            self.generated_ = np.rint(shares * self.wanted_).astype(np.int64)
            nearest = NearestNeighbors(n_neighbors=min(self.k, few - 1)).fit(own)
            self.neighbours_ = self.minority_[nearest.kneighbors(return_distance=False)]
        if self.verbose:
            print(self.summary())
        return self

    def summary(self) -> str:
        """d, G and what came of them, in a sentence."""
        d = f"ADASYN: d = {self.degree_:.4g} (nothing is done above {self.imb_threshold:g}), G = {self.wanted_:,.0f}"
        near = f"{np.count_nonzero(self.density_):,} of {len(self.density_):,} rows with neighbours of the other class"
        return f"{d}, {near}: {self.generated_.sum():,} rows are made"

    def transform(self, X, y):
        """X and y with the synthetic rows behind; X may be in another scale than in fit, y must be the same."""
        check_is_fitted(self)
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32), reset=False)
        if not np.array_equal(y, self.target_):
            raise ValueError("transform resamples the rows that fit was given, and this y is not theirs")
        random, of = check_random_state(self.random_state), np.repeat(np.arange(len(self.minority_)), self.generated_)
        self.sample_indices_ = np.concatenate([np.arange(len(X)), self.minority_[of]])
        made = X[self.minority_[of]]
        if len(of):
            towards = self.neighbours_[of, random.choice(self.neighbours_.shape[1], size=len(of))]
            made = made + random.uniform(size=(len(of), 1)) * (X[towards] - made)
        return np.concatenate([X, made.astype(X.dtype)]), y[self.sample_indices_]

    def fit_transform(self, X, y):
        """`fit`, then `transform` of the same rows."""
        return self.fit(X, y).transform(X, y)

    fit_resample = fit_transform  # imbalanced-learn's name


def resampled(part: Part, args, categories: np.ndarray) -> tuple[Part, ADASYN | None]:
    """The part with rows made, copied or left out as --resample says; and the ADASYN that did it, for the report.

    categories: bool [F], features that cannot be interpolated: a synthetic row has those of the nearest real one.
    Raises `UserError`: what imbalanced-learn refuses, such as fewer frauds than neighbours.
    """
    from imblearn import over_sampling, under_sampling

    ratio, k, seed = args.resample_ratio, args.neighbours, {"random_state": args.training_args.seed}
    sampler = {
        "adasyn": ADASYN(ratio, k=k, **seed),
        "smote": over_sampling.SMOTE(sampling_strategy=ratio, k_neighbors=k, **seed),
        "borderline-smote": over_sampling.BorderlineSMOTE(sampling_strategy=ratio, k_neighbors=k, **seed),
        "oversample": over_sampling.RandomOverSampler(sampling_strategy=ratio, **seed),
        "undersample": under_sampling.RandomUnderSampler(sampling_strategy=ratio, **seed),
    }[args.resample]
    try:
        X, y = sampler.fit_resample(part.features, part.target)
    except ValueError as error:
        raise UserError(
            f"--resample {args.resample}: {said_by(error)}; change --neighbours or --resample_ratio"
        ) from None
    origin = getattr(sampler, "sample_indices_", None)
    if args.resample == "undersample":
        return part.take(np.sort(origin)), None
    made = np.arange(len(X)) >= len(part)
    if origin is None:  # SMOTE does not say which rows it went out from
        own, origin = np.flatnonzero(part.target == y[-1]), np.arange(len(X))
        origin[made] = own[KDTree(part.features[own]).query(X[made])[1]]
    X[np.ix_(made, categories)] = part.features[np.ix_(origin[made], categories)]
    return replace(part.take(origin), features=X, target=y, real=~made), sampler if args.resample == "adasyn" else None
