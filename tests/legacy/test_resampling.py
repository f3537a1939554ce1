"""ADASYN against imbalanced-learn, brute force and a case worked by hand; copies and fewer rows counted."""

import tracemalloc

import numpy as np
import pytest
from imblearn.over_sampling import ADASYN as Reference
from imblearn.under_sampling import RandomUnderSampler as ReferenceUndersampler
from scipy.spatial.distance import cdist
from scipy.stats import kstest
from sklearn.base import clone

from common.legacy.resampling import ADASYN, RandomOversampler, RandomUndersampler
from tests.legacy.helpers import message

SAMPLERS = (ADASYN, RandomOversampler, RandomUndersampler)


def cloud(counts: list[int], columns: int, seed: int = 0, apart: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping normal clouds, one a class, in mixed order."""
    random = np.random.default_rng(seed)
    y = random.permutation(np.repeat(np.arange(len(counts)), counts))
    return random.standard_normal((len(y), columns)) + apart * y[:, None], y


def brute_densities(X: np.ndarray, y: np.ndarray, label: int, k: int) -> np.ndarray:
    """The share of other classes among the k nearest of each row of a class, itself left out."""
    distances = cdist(X, X)
    np.fill_diagonal(distances, np.inf)
    return (y[distances.argsort(1)[:, :k]] != label).mean(1)[y == label]


# ADASYN


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "counts, columns, k",
    [
        ([600, 40], 2, 5),
        ([20_000, 50], 2, 5),
        ([1500, 60], 30, 5),
        ([900, 30], 30, 11),
        ([500, 60, 30], 4, 5),
        ([300, 20, 200, 90], 30, 3),
    ],
)
def test_the_rows_are_imbalanced_learns(counts, columns, k, dtype):
    X, y = cloud(counts, columns)
    X = X.astype(dtype)
    found, labels = ADASYN(k=k, random_state=3).fit_resample(X, y)
    expected, expected_labels = Reference(n_neighbors=k, random_state=3).fit_resample(X, y)
    assert labels.tolist() == expected_labels.tolist()
    assert found.dtype == dtype and len(found) > 1.5 * len(X)
    np.testing.assert_allclose(found, expected, rtol=1e-12 if dtype == np.float64 else 1e-6)


@pytest.mark.parametrize("counts", [[400, 25], [300, 60, 30]])
def test_densities_and_numbers_follow_the_definition(counts):
    X, y = cloud(counts, 12)
    sampler = ADASYN(k=7, ratio=0.6).fit(X, y)
    assert set(sampler.generated_) == set(range(1, len(counts))) and not sampler.reasons_ and not sampler.notes_
    for label in sampler.generated_:
        density = brute_densities(X, y, label, 7)
        assert 0 <= density.min() < density.max() <= 1
        assert sampler.density_[label] == pytest.approx(density, abs=1e-12)
        expected = np.rint(density / density.sum() * (counts[0] - counts[label]) * 0.6)
        assert sampler.generated_[label].tolist() == expected.tolist()


def test_a_part_of_the_difference_as_in_imbalanced_learn():
    X, y = cloud([600, 100], 5)
    found, _ = ADASYN(ratio=0.5, random_state=1).fit_resample(X, y)
    expected, _ = Reference(sampling_strategy={1: 350}, random_state=1).fit_resample(X, y)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_worked_by_hand():
    """One column; the two nearest of 0.4 are 0 and 1, both of class 0; those of 20 and 21 are each other and 7."""
    X, y = np.array([[0.4], *([n] for n in range(8)), [20], [21]]), np.array([1] + [0] * 8 + [1] * 2)
    sampler = ADASYN(k=2, random_state=0).fit(X, y)
    assert sampler.density_[1].tolist() == [1, 0.5, 0.5]
    assert sampler.generated_[1].tolist() == [2, 1, 1]  # of 5 * (1/2, 1/4, 1/4), 2.5 being rounded to the even number
    assert sampler.neighbours_[1].tolist() == [[9, 10], [10, 0], [9, 0]]
    resampled, labels = sampler.transform(X, y)
    assert sampler.origin_.tolist() == [*range(11), 0, 0, 9, 10] and labels[11:].tolist() == [1] * 4
    assert (resampled[11:13] >= 0.4).all() and (resampled[11:] <= 21).all()


def test_every_synthetic_row_lies_between_its_origin_and_a_neighbour_of_its_class():
    X, y = cloud([5000, 80, 300], 6)
    sampler = ADASYN(k=4, random_state=5)
    resampled, labels = sampler.fit_resample(X, y)
    origin, made = sampler.origin_[len(X) :], resampled[len(X) :]
    assert np.array_equal(resampled[: len(X)], X) and np.array_equal(labels[: len(X)], y)
    assert sampler.origin_[: len(X)].tolist() == list(range(len(X)))
    assert np.array_equal(y[origin], labels[len(X) :]) and set(labels[len(X) :]) == {1, 2}
    for label in (1, 2):
        rows = np.flatnonzero(y == label)
        counts = np.bincount(np.searchsorted(rows, origin[y[origin] == label]), minlength=len(rows))
        assert counts.tolist() == sampler.generated_[label].tolist()
        distances = cdist(X[rows], X[rows])
        np.fill_diagonal(distances, np.inf)
        nearest = rows[distances.argsort(1)[:, :4]]
        assert np.array_equal(np.sort(sampler.neighbours_[label]), np.sort(nearest))
        of_class = labels[len(X) :] == label
        start, ends = X[origin[of_class]], X[nearest[np.searchsorted(rows, origin[of_class])]]
        way = ends - start[:, None]  # [made, k, columns]
        moved = made[of_class] - start
        step = (way * moved[:, None]).sum(2) / (way**2).sum(2)
        off = np.abs(moved[:, None] - step[..., None] * way).max(2)
        which = off.argmin(1)
        step = step[np.arange(len(which)), which]
        assert off.min(1).max() < 1e-9 and step.min() >= 0 and step.max() <= 1
        assert kstest(step, "uniform").pvalue > 0.01
        assert np.bincount(which).min() > 0.9 * len(which) / 4, "all neighbours alike"


def test_rows_of_another_seed_have_the_mean_and_covariance_of_imbalanced_learns():
    X, y = cloud([6000, 150], 5)
    sampler = ADASYN(random_state=1)
    found = sampler.fit_resample(X, y)[0][len(X) :]
    expected = Reference(random_state=2).fit_resample(X, y)[0][len(X) :]
    assert len(found) == len(expected) == pytest.approx(5850, rel=0.02) and not np.array_equal(found, expected)
    spread = expected.std(0)
    assert np.abs(found.mean(0) - expected.mean(0)).max() < 0.05 * spread.max()
    assert np.abs(np.cov(found.T) - np.cov(expected.T)).max() < 0.05 * spread.max() ** 2


@pytest.mark.parametrize("columns", [2, 30])
def test_a_row_is_not_its_own_neighbour_among_exact_copies(columns):
    random = np.random.default_rng(0)
    rare = np.repeat(random.standard_normal((3, columns)), 9, axis=0)  # each nine times, with k = 4
    X = np.concatenate([random.standard_normal((200, columns)), rare[:1].repeat(30, axis=0), rare])
    y = np.repeat([0, 1], [230, 27])
    sampler = ADASYN(k=4, random_state=0).fit(X, y)
    rows = np.flatnonzero(y == 1)
    neighbours = sampler.neighbours_[1]
    assert neighbours.shape == (27, 4) and not (neighbours == rows[:, None]).any()
    assert all(len(set(row)) == 4 for row in neighbours.tolist())
    assert np.array_equal(X[neighbours], X[rows][:, None].repeat(4, axis=1)), "the copies are the nearest"


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [1, 0, 2, 4, 3]])
def test_a_copy_in_the_other_class_counts_whichever_comes_first(order):
    X, y = np.array([[0.0], [0.0], [9.0], [50.0], [50.0]])[order], np.array([1, 0, 0, 1, 0])[order]
    assert ADASYN(k=1).fit(X, y).density_[1].tolist() == [1, 1]


def test_a_class_is_left_alone_above_the_threshold():
    X, y = cloud([400, 300], 3)
    assert ADASYN().fit(X, y).generated_[1].sum() > 0, "0.75 is not above 0.75"
    assert ADASYN(imb_threshold=0.74).fit(X, y).generated_[1].sum() == 0
    X, y = cloud([400, 301, 20], 3)
    sampler = ADASYN(random_state=0)
    labels = sampler.fit_resample(X, y)[1]
    assert np.bincount(labels)[:2].tolist() == [400, 301] and np.bincount(labels)[2] > 300
    assert sampler.reasons_ == {
        1: "class 1: 301 rows are 0.752 of the 400 of the largest class, balanced enough for imb_threshold 0.75"
    }
    assert set(sampler.density_) == {2} and set(sampler.generated_) == {1, 2}


def nothing_to_do() -> dict[str, tuple[np.ndarray, np.ndarray, dict, str]]:
    X, y = cloud([100, 20], 3, apart=100)  # class 1 is far from class 0
    near, near_y = cloud([100, 60], 3, apart=0)
    few = np.count_nonzero(brute_densities(near, near_y, 1, 5))
    return {
        "balanced": (
            *cloud([50, 50], 2),
            {"imb_threshold": 1.0},
            "class 1: 50 rows are 1 of the 50 of the largest class, balanced enough for imb_threshold 1",
        ),
        "one row": (
            *cloud([70, 1], 2),
            {},
            "class 1: has 1 row beside 70 of the largest class, and no second one towards which a synthetic row could "
            "be put",
        ),
        "no other neighbour": (
            X,
            y,
            {},
            "class 1: none of its 20 rows has a row of another class among its 5 nearest neighbours, so no place is "
            "hard to learn",
        ),
        "rounded to 0": (
            near,
            near_y,
            {"ratio": 0.1},
            f"class 1: 4 synthetic rows for {few} rows with neighbours of another class are at most half a row for "
            "each, which rounds to 0",
        ),
    }


@pytest.mark.parametrize("case", ["balanced", "one row", "no other neighbour", "rounded to 0"])
def test_where_nothing_can_be_done_it_says_why(case):
    X, y, parameters, sentence = nothing_to_do()[case]
    sampler = ADASYN(**parameters)
    resampled, labels = sampler.fit_resample(X, y)
    assert sampler.reasons_ == {1: sentence}
    assert (
        np.array_equal(resampled, X) and np.array_equal(labels, y) and sampler.origin_.tolist() == list(range(len(X)))
    )
    assert sampler.generated_[1].tolist() == [0] * np.count_nonzero(y == 1) and not sampler.neighbours_


def test_a_class_smaller_than_k_has_fewer_neighbours_and_says_so():
    X, y = cloud([60, 3], 2)
    sampler = ADASYN(random_state=0)
    labels = sampler.fit_resample(X, y)[1]
    assert sampler.notes_ == {1: "of 3 rows only 2 can be neighbours of one, not k = 5"} and not sampler.reasons_
    assert sampler.neighbours_[1].shape == (3, 2) and np.bincount(labels)[1] == pytest.approx(60, abs=2)
    assert sampler.density_[1] == pytest.approx(brute_densities(X, y, 1, 5), abs=1e-12)
    sampler = ADASYN(k=99).fit(X, y)
    assert sampler.density_[1] == pytest.approx([60 / 62] * 3, abs=1e-12), "all other rows are neighbours"


def test_rows_may_be_made_in_another_scale_than_the_neighbours_were_found_in():
    X, y = cloud([300, 20], 4)
    sampler = ADASYN(random_state=0).fit(X, y)
    plain, _ = sampler.transform(X, y)
    scaled, _ = sampler.transform(X * [1, 10, 100, 1000] + 7, y)
    np.testing.assert_allclose(scaled, plain * [1, 10, 100, 1000] + 7, rtol=1e-9, atol=1e-9)


def test_whole_numbers_become_fractions():
    X, y = cloud([100, 10], 2)
    resampled, _ = ADASYN(random_state=0).fit_resample(np.round(9 * X).astype(np.int64), y)
    assert resampled.dtype == np.float64 and (resampled[len(X) :] % 1 > 0).any()


def test_the_result_is_allocated_once():
    X, y = cloud([60_000, 400], 30)
    sampler = ADASYN(random_state=0).fit(X, y)
    tracemalloc.start()
    resampled, _ = sampler.transform(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(resampled) > 115_000 and peak < 1.5 * resampled.nbytes


def test_what_is_found_is_printed_when_asked_for(capsys):
    X, y = cloud([200, 4, 190], 2)
    sampler = ADASYN(verbose=True).fit(X, y)
    assert capsys.readouterr().out.splitlines() == [
        f"ADASYN: class 1: 4 rows are 0.02 of the largest class's; {sampler.generated_[1].sum()} synthetic ones for a "
        "wanted 196; of 4 rows only 3 can be neighbours of one, not k = 5",
        f"ADASYN: {sampler.reasons_[2]}",
    ]
    ADASYN().fit(X, y)
    assert capsys.readouterr().out == ""


# Copies and fewer rows


@pytest.mark.parametrize("ratio, expected", [(1.0, [300, 300, 300]), (0.5, [300, 150, 200]), (0.05, [300, 20, 200])])
def test_copies(ratio, expected):
    X, y = cloud([300, 20, 200], 3)
    sampler = RandomOversampler(ratio=ratio, random_state=4)
    resampled, labels = sampler.fit_resample(X, y)
    assert np.bincount(labels).tolist() == expected
    assert sampler.origin_[: len(X)].tolist() == list(range(len(X)))
    assert np.array_equal(resampled, X[sampler.origin_]) and np.array_equal(labels, y[sampler.origin_])
    times = np.bincount(sampler.origin_)[y == 1]
    assert times.max() - times.min() <= 1
    assert set(sampler.reasons_) == {label for label in (1, 2) if expected[label] == [300, 20, 200][label]}
    if ratio == 0.05:
        assert sampler.reasons_[1] == "class 1: 20 rows are at least 0.05 of the 300 of the largest class already"


@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.1, 0.05])
def test_fewer_rows_are_as_many_as_imbalanced_learn_keeps(ratio):
    X, y = cloud([300, 20], 3)
    sampler = RandomUndersampler(ratio=ratio, random_state=4)
    resampled, labels = sampler.fit_resample(X, y)
    expected = ReferenceUndersampler(sampling_strategy=max(ratio, 20 / 300)).fit_resample(X, y)[1]
    assert np.bincount(labels).tolist() == np.bincount(expected).tolist()
    assert (np.diff(sampler.origin_) > 0).all(), "the order of the rows, and none twice"
    assert np.array_equal(resampled, X[sampler.origin_]) and np.array_equal(labels, y[sampler.origin_])
    assert list(sampler.reasons_.values()) == (
        ["class 0: 300 rows are no more than the 20 of the smallest class divided by 0.05 already"]
        if ratio == 0.05
        else []
    )


def test_which_rows_stay_is_chance():
    X, y = cloud([50, 10], 1)
    kept = np.zeros(60)
    for seed in range(300):
        sampler = RandomUndersampler(random_state=seed)
        sampler.fit_resample(X, y)
        kept[sampler.origin_] += 1
    assert (kept[y == 1] == 300).all() and kept[y == 0].sum() == 3000
    assert kept[y == 0].min() > 30 and kept[y == 0].max() < 95  # 60 each, with a standard deviation of 7


def test_copying_keeps_the_kind_of_number():
    X, y = cloud([30, 5], 2)
    for sampler in (RandomOversampler(), RandomUndersampler()):
        assert sampler.fit_resample(X.astype(np.int16), y)[0].dtype == np.int16


# All three


@pytest.mark.parametrize("kind", SAMPLERS)
def test_parameters_and_seeds_as_in_scikit_learn(kind):
    X, y = cloud([200, 30], 3)
    sampler = kind(ratio=0.5, random_state=7)
    assert sampler.get_params()["ratio"] == 0.5 and "random_state=7" in repr(sampler)
    first = sampler.fit_transform(X, y)[0]
    copy = clone(sampler)
    assert copy.get_params() == sampler.get_params() and not hasattr(copy, "reasons_")
    assert np.array_equal(copy.fit_resample(X, y)[0], first) and np.array_equal(sampler.transform(X, y)[0], first)
    assert np.array_equal(kind(0.5, random_state=np.random.RandomState(7)).fit_resample(X, y)[0], first)
    assert not np.array_equal(copy.set_params(random_state=8).fit_resample(X, y)[0], first)
    assert not np.array_equal(*(kind().fit_resample(X, y)[0] for _ in range(2))), "None: another draw each time"


@pytest.mark.parametrize("kind", SAMPLERS)
def test_any_labels(kind):
    X, y = cloud([90, 10, 60], 2)
    names = np.array(["legitimate", "fraud", "odd"])[y]
    sampler = kind(random_state=0)
    labels = sampler.fit_resample(X, names.tolist())[1]
    assert labels.dtype == names.dtype and np.array_equal(labels, names[sampler.origin_])
    assert kind(random_state=0).fit_resample(X, y.astype(np.int8))[1].dtype == np.int8
    assert kind(random_state=0).fit_resample(X, y == 1)[1].dtype == bool


@pytest.mark.parametrize("kind", SAMPLERS)
def test_wrong_input(kind):
    X, y = cloud([90, 10], 2)
    assert message(kind().fit, X, np.zeros(100, int)) == (
        "all 100 rows are of the class 0; resampling needs a second class"
    )
    for ratio in (0, -1, 1.5, float("nan")):
        assert message(kind(ratio=ratio).fit, X, y) == f"ratio is {ratio}; it must be above 0 and at most 1"
    for bad in (np.nan, np.inf):
        broken = X.copy()
        broken[3, 1] = bad
        with pytest.raises(ValueError, match="NaN" if np.isnan(bad) else "infinity"):
            kind().fit(broken, y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        kind().fit(X, y[:-1])
    with pytest.raises(ValueError, match="continuous"):
        kind().fit(X, X[:, 0])
    with pytest.raises(ValueError, match="the rows that fit was given"):
        kind().fit(X, y).transform(X, 1 - y)
    with pytest.raises(ValueError, match="features"):
        kind().fit(X, y).transform(X[:, :1], y)
    with pytest.raises(ValueError, match="not fitted"):
        kind().transform(X, y)


def test_wrong_parameters_of_adasyn():
    X, y = cloud([90, 10], 2)
    assert message(ADASYN(k=0).fit, X, y) == "k is 0; ADASYN needs at least 1 neighbour"
    assert message(ADASYN(imb_threshold=0).fit, X, y) == "imb_threshold is 0; it must be above 0 and at most 1"
