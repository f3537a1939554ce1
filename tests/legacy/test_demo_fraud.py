"""The built-in card payments: columns and ranges of the ULB set, and neither too easy nor too hard to learn."""

import numpy as np
import pandas
import pyarrow.parquet
import pytest
from scipy.stats import kurtosis
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from common.legacy.demo_fraud import fraud_demo, synthetic_cards

COMPONENTS = [f"V{number}" for number in range(1, 29)]
COLUMNS = ["Time", *COMPONENTS, "Amount", "Class"]


@pytest.fixture(scope="module")
def cards() -> pandas.DataFrame:
    return pandas.DataFrame(synthetic_cards(40_000, 120))


@pytest.fixture(scope="module")
def crowd() -> pandas.DataFrame:
    """Many frauds, for what is chance with few."""
    return pandas.DataFrame(synthetic_cards(20_000, 1_000, seed=1))


def boosting() -> HistGradientBoostingClassifier:
    """Weighted, and without stopping by a validation part of a few frauds: unstable otherwise. Few bins: fast."""
    return HistGradientBoostingClassifier(
        class_weight="balanced", early_stopping=False, max_bins=32, max_leaf_nodes=8, max_iter=60, random_state=0
    )


def average_precision(model, table: pandas.DataFrame, split: str) -> float:
    """On the last 30 % of the rows ("time") or on a random 30 % ("stratified")."""
    X, y = table[COLUMNS[:-1]].to_numpy(), table["Class"].to_numpy()
    how = {"shuffle": False} if split == "time" else {"stratify": y, "random_state": 0}
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, **how)
    return average_precision_score(y_test, model.fit(X_train, y_train).predict_proba(X_test)[:, 1])


@pytest.mark.parametrize("rows, frauds", [(40_000, 120), (3_001, 7), (284_807, 492)])
def test_columns_and_counts(rows, frauds):
    columns = synthetic_cards(rows, frauds)
    assert list(columns) == COLUMNS
    assert all(values.shape == (rows,) for values in columns.values())
    assert {name: values.dtype for name, values in columns.items()} == (
        dict.fromkeys(COLUMNS[:-1], np.dtype(np.float64)) | {"Class": np.dtype(np.int64)}
    )
    assert columns["Class"].sum() == frauds and set(columns["Class"]) == {0, 1}
    assert all(np.isfinite(values).all() for values in columns.values())


def test_time_is_in_seconds_over_two_days_with_nights(cards):
    time = cards["Time"]
    assert time.is_monotonic_increasing and (time % 1 == 0).all()
    assert 0 <= time.min() < 600 and 172_000 < time.max() < 172_800
    by_hour = np.histogram(time, bins=48, range=(0, 172_800))[0].reshape(2, 24)
    assert (by_hour[:, 1:5].max(1) < 0.4 * by_hour[:, 9:22].min(1)).all(), "little is bought at night"
    night = (time // 3600 % 24).isin(range(1, 7)).groupby(cards["Class"]).mean()
    assert night[1] > 1.3 * night[0]


def test_components_are_like_principal_components(cards):
    legitimate = cards.loc[cards["Class"] == 0, COMPONENTS]
    deviations = legitimate.std().to_numpy()
    assert (np.diff(deviations) < 0).mean() > 0.9 and 1.7 < deviations[0] < 2.2 and 0.28 < deviations[-1] < 0.4
    assert legitimate.mean().abs().max() < 0.05
    correlations = legitimate.corr(method="spearman").to_numpy()
    assert np.abs(correlations - np.eye(28)).max() < 0.03
    assert kurtosis(legitimate).min() > 1.5, "heavy tails"
    assert legitimate.abs().corr(method="spearman").to_numpy().min() > 0.03, "what is odd in one is often odd in others"
    assert 10 < cards[COMPONENTS].abs().to_numpy().max() < 120


def test_amounts_have_cents_and_are_sometimes_nothing(cards):
    amount = cards["Amount"]
    assert (amount == amount.round(2)).all() and (amount % 1 != 0).mean() > 0.8
    assert amount.min() == 0 and 0.002 < (amount == 0).mean() < 0.01
    assert 15 < amount.median() < 30 and 60 < amount.mean() < 120 and amount.max() <= 25_691.16


def test_some_rows_are_exact_copies(cards):
    copies = cards[cards.duplicated()]
    assert len(copies) == pytest.approx(0.004 * len(cards), abs=5) and copies["Class"].sum() == 5
    assert not cards.drop_duplicates().duplicated(COLUMNS[:-1]).any(), "no row stands there with both classes"


def test_a_seed_gives_the_same_rows():
    first, again, other = (synthetic_cards(2_000, 20, seed) for seed in (5, 5, 6))
    assert all(np.array_equal(first[name], again[name]) for name in COLUMNS)
    assert not any(np.array_equal(first[name], other[name]) for name in COLUMNS)


def test_the_file(cards, tmp_path):
    first, second = (fraud_demo(tmp_path / name) for name in ("a", "b/c"))
    assert first == {"train_file": str(tmp_path / "a/creditcard.parquet")}
    content = (tmp_path / "a/creditcard.parquet").read_bytes()
    assert content == (tmp_path / "b/c/creditcard.parquet").read_bytes() and len(content) < 12e6
    pandas.testing.assert_frame_equal(pandas.read_parquet(second["train_file"]), cards)
    assert pyarrow.parquet.ParquetFile(first["train_file"]).metadata.row_group(0).column(3).compression == "ZSTD"


def test_there_is_something_to_learn_and_not_everything(cards):
    boosted = average_precision(boosting(), cards, "stratified")
    linear = average_precision(make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)), cards, "stratified")
    assert 0.6 < boosted < 0.95
    assert 100 * 0.003 < linear < boosted - 0.05, "a line learns something, but cannot divide all kinds"


def test_the_future_is_harder_than_a_random_part(crowd):
    future, part = (average_precision(boosting(), crowd, split) for split in ("time", "stratified"))
    assert 0.3 < future < part - 0.02
    frauds = crowd[crowd["Class"] == 1]
    away = frauds["V14"].abs().groupby(frauds["Time"] // 86_400).mean()
    assert away[1] < 0.8 * away[0]


def test_some_frauds_are_hidden_among_the_legitimate(crowd):
    X, y = crowd[COLUMNS[:-1]].to_numpy(), crowd["Class"].to_numpy()
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
    scores = boosting().fit(X_train, y_train).predict_proba(X_test)[:, 1]
    unsuspicious = scores[y_test == 1] < np.quantile(scores[y_test == 0], 0.95)
    assert 0.04 < unsuspicious.mean() < 0.15
