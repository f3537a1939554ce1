"""ADASYN against imbalanced-learn, brute force and a case worked by hand; what --resample does to a part."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from imblearn.over_sampling import ADASYN as Reference
from scipy.spatial.distance import cdist
from sklearn.base import clone

from common.tabular.columns import Part
from common.tabular.resampling import ADASYN, resampled
from tests.helpers import message


def cloud(counts: list[int], columns: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping normal clouds, one a class, in mixed order."""
    random = np.random.default_rng(seed)
    y = random.permutation(np.repeat(np.arange(len(counts)), counts))
    return random.standard_normal((len(y), columns)) + 0.8 * y[:, None], y


def part_of(X: np.ndarray, y: np.ndarray) -> Part:
    shown = pd.DataFrame({"row": np.arange(1, len(X) + 1)})
    real = np.ones(len(X), dtype=bool)
    return Part(
        {"source": "t"}, X.astype(np.float32), y.astype(np.int8), np.arange(len(X)), np.arange(len(X)), real, shown
    )


def done(part: Part, how: str, categories=None, **more):
    settings = {"resample": how, "resample_ratio": 1.0, "neighbours": 5, "training_args": SimpleNamespace(seed=3)}
    none = np.zeros(part.features.shape[1], dtype=bool)
    return resampled(part, SimpleNamespace(**settings | more), none if categories is None else categories)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("counts, columns, k", [([600, 40], 2, 5), ([1500, 60], 30, 5), ([40, 900], 30, 11)])
def test_the_rows_are_imbalanced_learns(counts, columns, k, dtype):
    X, y = cloud(counts, columns)
    X = X.astype(dtype)
    found, labels = ADASYN(k=k, random_state=3).fit_transform(X, y)
    expected, expected_labels = Reference(n_neighbors=k, random_state=3).fit_resample(X, y)
    assert labels.tolist() == expected_labels.tolist() and found.dtype == dtype and len(found) > 1.5 * len(X)
    np.testing.assert_allclose(found, expected, rtol=1e-9 if dtype == np.float64 else 1e-5, atol=1e-6)


def test_a_part_of_the_difference_as_in_imbalanced_learn():
    X, y = cloud([600, 100], 5)
    found, _ = ADASYN(ratio=0.5, random_state=1).fit_transform(X, y)
    expected, _ = Reference(sampling_strategy={1: 350}, random_state=1).fit_resample(X, y)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_densities_and_numbers_follow_the_definition(capsys):
    X, y = cloud([400, 25], 12)
    sampler = ADASYN(k=7, ratio=0.6, verbose=True).fit(X, y)
    distances = cdist(X, X)
    np.fill_diagonal(distances, np.inf)
    density = (y[distances.argsort(1)[:, :7]] != 1).mean(1)[y == 1]
    assert (sampler.degree_, sampler.wanted_) == (25 / 400, 375 * 0.6)
    assert sampler.density_ == pytest.approx(density, abs=1e-12) and density.min() < density.max()
    assert sampler.generated_.tolist() == np.rint(density / density.sum() * 225).tolist()
    assert "d = 0.0625 (nothing is done above 0.75), G = 225, " in capsys.readouterr().out


def test_worked_by_hand():
    """One column; the two nearest of 0.4 are 0 and 1, both of class 0; those of 20 and 21 are each other and 7."""
    X, y = np.array([[0.4], *([n] for n in range(8)), [20], [21]]), np.array([1] + [0] * 8 + [1] * 2)
    sampler = ADASYN(k=2, random_state=0).fit(X, y)
    assert sampler.density_.tolist() == [1, 0.5, 0.5]
    assert sampler.generated_.tolist() == [2, 1, 1]  # of 5 * (1/2, 1/4, 1/4), 2.5 being rounded to the even number
    assert sampler.neighbours_.tolist() == [[9, 10], [10, 0], [9, 0]]
    found, labels = sampler.transform(X, y)
    assert sampler.sample_indices_.tolist() == [*range(11), 0, 0, 9, 10] and labels[11:].tolist() == [1] * 4
    assert (found[11:13] >= 0.4).all() and (found[11:] <= 21).all() and np.array_equal(found[:11], X)
    moved = sampler.transform(10 * X, y)[0]
    np.testing.assert_allclose(moved, 10 * found)  # in another scale than that of the neighbours
    with pytest.raises(ValueError, match="not theirs"):
        sampler.transform(X, 1 - y)


def test_copies_of_a_row_are_not_its_place_among_the_neighbours():
    X = np.array([[0.0]] * 8 + [[1.0], [2.0], [3.0]])
    y = np.array([1] * 2 + [0] * 6 + [0, 0, 1])
    sampler = ADASYN(k=3, random_state=0).fit(X, y)
    assert sampler.neighbours_.shape == (3, 2) and all(
        own not in row for own, row in zip(sampler.minority_, sampler.neighbours_)
    )


@pytest.mark.parametrize(
    "X, y, words",
    [
        ([[0.0]] * 7, [0, 0, 0, 0, 1, 1, 1], "d = 0.75 (nothing is done above 0.7)"),
        ([[0.0]] * 7, [0] * 6 + [1], "0 of 1 rows"),
        ([[float(n)] for n in (*range(20), *range(1000, 1006))], [0] * 20 + [1] * 6, "0 of 6 rows with neighbours of"),
    ],
)
def test_where_nothing_is_made_it_is_said(X, y, words):
    sampler = ADASYN(k=2, imb_threshold=0.7, random_state=0)
    found, labels = sampler.fit_transform(np.array(X), np.array(y))
    assert words in sampler.summary() and "0 rows are made" in sampler.summary()
    assert found.tolist() == X and labels.tolist() == y and not sampler.generated_.any()


def test_what_adasyn_refuses():
    X, y = cloud([50, 9], 3)
    for settings, words in (
        ({"ratio": 0}, "ADASYN(ratio=0): ratio and imb_threshold must be above 0, up to 1, and k 1 or more"),
        ({"imb_threshold": 2}, "ADASYN(imb_threshold=2): ratio"),
        ({"k": 0}, "ADASYN(k=0): ratio"),
    ):
        assert words in message(ADASYN(**settings).fit, X, y)
    assert "two classes" in message(ADASYN().fit, X, np.zeros(59)) and clone(ADASYN(k=3)).k == 3
    with pytest.raises(ValueError, match="NaN"):
        ADASYN().fit(np.full((59, 1), np.nan), y)


@pytest.mark.parametrize("how", ["adasyn", "smote", "borderline-smote", "oversample", "undersample"])
def test_every_way_balances_and_knows_what_is_real(how):
    part = part_of(*cloud([400, 40], 6))
    after, adasyn = done(part, how)
    legitimate, frauds = np.bincount(after.target)
    assert 0.9 < frauds / legitimate < 1.1 and (adasyn is not None) == (how == "adasyn")
    if how == "undersample":
        assert len(after) == 80 and after.real.all() and (np.diff(after.shown["row"]) > 0).all()
        return
    assert after.real.tolist() == [True] * 440 + [False] * (len(after) - 440)
    assert np.array_equal(after.features[:440], part.features) and after.features.dtype == np.float32
    assert (after.target[440:] == 1).all() and (part.target[after.shown["row"][440:] - 1] == 1).all()
    if how == "oversample":
        assert np.array_equal(after.features[440:], part.features[after.shown["row"][440:] - 1])
    half, _ = done(part, how, resample_ratio=0.5)
    assert 0.45 < half.target.sum() / 400 < 0.6  # of ADASYN: half of the difference is made up


@pytest.mark.parametrize("how", ["adasyn", "smote", "borderline-smote"])
def test_categories_are_not_interpolated(how):
    X, y = cloud([400, 40], 4)
    X[:, 2] = np.where(X[:, 2] > 0.5, 2.0, -0.5)
    after, _ = done(part_of(X, y), how, np.array([False, False, True, False]))
    assert set(np.unique(after.features[:, 2])) == {np.float32(2.0), np.float32(-0.5)}
    assert len(np.unique(after.features[440:, 1])) > 300


def test_categories_of_the_rarer_class_where_frauds_are_the_most():
    X, y = cloud([40, 400], 4)
    X[:, 2] = np.where(y == 1, 2.0, -0.5)
    after, _ = done(part_of(X, y), "smote", np.array([False, False, True, False]))
    assert (after.target[440:] == 0).all() and (after.features[440:, 2] == -0.5).all()


def test_frauds_that_are_far_from_all_others_have_no_border():
    X, y = cloud([100, 20], 4)
    X[y == 1] += 100
    for how in ("borderline-smote", "adasyn"):
        after, _ = done(part_of(X, y), how)
        assert len(after) == 120 and after.real.all(), how


def test_too_few_frauds_are_one_sentence():
    part = part_of(*cloud([100, 3], 4))
    for how in ("smote", "borderline-smote"):
        assert message(done, part, how).startswith(f"--resample {how}: ")
    assert len(done(part, "adasyn")[0]) > 150  # takes as many neighbours as there are
    assert message(done, part_of(*cloud([100, 60], 4)), "oversample", resample_ratio=0.1).startswith("--resample over")
