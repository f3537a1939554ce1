"""Every row in one part, both classes in each, the future in the test; copies counted; what cannot be split is said."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.tabular.splits import describe, split_rows, stratified, training_parts
from tests.helpers import message

SHARES = {"test": 0.3, "validation": 0.2}


def rare(rows: int, frauds: int, seed: int = 0) -> np.ndarray:
    target = np.zeros(rows, dtype=np.int8)
    target[np.random.default_rng(seed).permutation(rows)[:frauds]] = 1
    return target


def framed(columns: dict) -> pd.DataFrame:
    frame = pd.DataFrame(columns)
    frame.index = pd.MultiIndex.from_product([["t.csv"], range(1, len(frame) + 1)], names=["file", "row"])
    frame.attrs["source"] = "t.csv"
    return frame


def arguments(train_file, **more) -> SimpleNamespace:
    given = {
        "train_file": [str(train_file)],
        "validation_file": [],
        "test_file": [],
        "target": "Class",
        "positive": None,
    }
    given |= {"on_bad_example": "stop", "ignore_columns": [], "time_column": "Time", "amount_column": None}
    given |= {"test_share": 0.3, "validation_share": 0.2, "protocol": "honest", "split": "stratified", "split_seed": 42}
    given |= {"max_train_samples": None, "max_eval_samples": None, "max_predict_samples": None, "sample_seed": 42}
    given |= {"missing": "impute", "max_categories": 32, "holdout_share": None}
    return SimpleNamespace(**given | {"explicit": set(more)} | more)


def parts_of(frame: pd.DataFrame, tmp_path, **more):
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    return training_parts(arguments(tmp_path / "t.parquet", **more))


@pytest.fixture
def table() -> pd.DataFrame:
    random = np.random.default_rng(5)
    columns = {"Time": np.sort(random.integers(0, 9_000, 1_000)) * 1.0, "V1": random.random(1_000)}
    return pd.DataFrame(columns | {"V2": random.random(1_000), "Class": rare(1_000, 60)})


def test_the_published_sizes():
    target = rare(284_807, 492)
    parts = split_rows(target, SHARES, 42, None, "t")
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 159_492, "test": 85_442, "validation": 39_873}
    assert {n: int(target[rows].sum()) for n, rows in parts.items()} == {"train": 275, "test": 148, "validation": 69}
    assert all((np.diff(rows) > 0).all() for rows in parts.values())


@settings(max_examples=60, deadline=None)
@given(
    positive=st.integers(0, 30),
    negative=st.integers(0, 60),
    test=st.floats(0.01, 0.95),
    validation=st.floats(0.01, 0.95),
    by_time=st.booleans(),
    seed=st.integers(0, 5),
)
def test_every_row_is_in_one_part_and_every_part_has_both_classes(positive, negative, test, validation, by_time, seed):
    target = np.random.default_rng(seed).permutation([1] * positive + [0] * negative).astype(np.int8)
    times = np.arange(len(target)) if by_time else None
    try:
        parts = split_rows(target, {"test": test, "validation": validation}, seed, times, "t")
    except UserError:
        return
    assert list(parts) == ["train", "test", "validation"]
    assert np.sort(np.concatenate(list(parts.values()))).tolist() == list(range(len(target)))
    assert all(0 < target[rows].sum() < len(rows) for rows in parts.values())
    if by_time:
        assert parts["train"].max() < parts["validation"].min() <= parts["validation"].max() < parts["test"].min()
    else:
        left = len(target) - len(parts["test"])
        assert len(parts["test"]) == round(test * len(target)) and len(parts["validation"]) == round(validation * left)
        assert abs(target[parts["test"]].mean() * len(parts["test"]) - test * positive) <= 1.5


@pytest.mark.parametrize(
    "times, test",
    [
        ([1, 1, 2, 2, 3, 3, 3, 4, 4, 4], [7, 8, 9]),  # 30 %: exactly where the time changes
        ([1, 1, 2, 2, 3, 3, 4, 4, 4, 4], [6, 7, 8, 9]),  # would cut the fours, which begin one row earlier
        ([1, 1, 2, 2, 3, 3, 3, 3, 4, 4], [8, 9]),  # would cut the threes, which end one row later
        ([4, 4, 3, 3, 2, 2, 2, 1, 1, 1], [0, 1, 2, 3]),  # backwards: the last in time are the first in the file
    ],
)
def test_equal_times_are_never_cut(times, test):
    target = np.array([0, 1] * 5, dtype=np.int8)
    assert sorted(split_rows(target, {"test": 0.3}, 0, np.array(times, float), "t")["test"].tolist()) == test


def test_a_row_without_a_time_has_no_place_in_the_order(table, tmp_path):
    for cell, held in ((None, "is empty, or a word for it"), ("soon", "holds 'soon'")):
        odd = table.assign(Time=(pd.Timestamp("2024-01-01") + pd.to_timedelta(table["Time"], unit="h")).astype(str))
        odd.loc[7, "Time"] = cell
        said = message(parts_of, odd, tmp_path, split="time")
        assert (
            f"row 8: Time {held}" in said and "so that there is no past; mend it or pass --on_bad_example skip" in said
        )
        parts, _ = parts_of(odd, tmp_path, split="time", on_bad_example="skip")
        assert sum(map(len, parts.values())) == 999 and parts["train"].facts["skipped"] == {"no time": 1}
        assert parts["train"].time.max() < parts["validation"].time.min() < parts["test"].time.min()


def test_too_few_rows_and_parts_without_a_class():
    assert "too few rows for a part 'test'" in message(split_rows, rare(50, 1), SHARES, 0, None, "t.csv")
    early = np.array([1] * 5 + [0] * 45, dtype=np.int8)
    assert "the 15 rows of 'test' are not of both classes" in message(
        split_rows, early, SHARES, 0, np.arange(50.0), "t.csv"
    )
    assert "the 0 rows of 'train'" in message(split_rows, rare(50, 9), SHARES, 0, np.zeros(50), "t.csv")


@pytest.mark.parametrize(
    "limit, expected", [(100, (94, 6)), (3, (3, 1)), (10**9, (940, 60)), (-1, (940, 60)), (None, (940, 60))]
)
def test_a_limit_keeps_both_classes(limit, expected):
    target = rare(1_000, 60)
    rows = stratified(target, limit, 1)
    assert tuple(np.bincount(target[rows])) == expected and (np.diff(rows) > 0).all()


def test_parts_are_learned_from_the_training_rows_alone(table, tmp_path):
    """The last rows, by time, are far away: nothing of them may be in the means."""
    late = table.assign(V1=np.where(table["Time"] > 6_000, 1e6, table["V1"]))
    parts, columns = parts_of(late, tmp_path, split="time")
    assert [len(parts[name]) for name in ("train", "validation", "test")] == pytest.approx([560, 140, 300], abs=6)
    assert columns.columns["V1"]["features"]["V1"][0] < 1 < parts["test"].features[:, 1].min()
    assert parts["train"].time.max() < parts["validation"].time.min() <= parts["test"].time.min()


def test_parts_may_be_limited(table, tmp_path):
    parts, _ = parts_of(table, tmp_path, max_train_samples=100, max_eval_samples=50, max_predict_samples=70)
    assert {name: len(part) for name, part in parts.items()} == {"train": 100, "validation": 50, "test": 70}
    assert parts["validation"].facts["available"] == 140
    assert parts["validation"].facts["selection"].startswith("50 of 1,000 rows, strat")
    assert all(part.target.sum() == pytest.approx(0.06 * len(part), abs=1) for part in parts.values())
    whole, _ = parts_of(table, tmp_path)
    assert {*whole["test"].shown.index} > {*parts["test"].shown.index}


def test_the_time_need_not_be_a_feature(table, tmp_path):
    parts, columns = parts_of(table, tmp_path, split="time", ignore_columns=["Time"])
    assert columns.features == ["V1", "V2"] and parts["train"].time.max() < parts["test"].time.min()
    assert "Time" in parts["test"].shown.columns


def test_an_amount_may_begin_after_the_training_rows(table, tmp_path):
    late = table.assign(paid=np.where(table["Time"] > 8_000, 7.0, np.nan))
    parts, columns = parts_of(late, tmp_path, split="time", amount_column="paid")
    assert columns.left_out == {"paid": "empty"} and np.isnan(parts["train"].amount).all()
    assert np.nanmax(parts["test"].amount) == 7


@pytest.mark.parametrize("times", [["morning", "noon"], [np.nan, np.nan], ["10:35 PM", "9:10 AM"]])
def test_a_column_called_time_that_has_no_order_is_one_as_others(table, tmp_path, times):
    """--time_column was not given; it is only Time by default."""
    odd = table.assign(Time=times * 500)
    parts, columns = parts_of(odd, tmp_path)
    assert columns.roles == {} and np.isnan(parts["test"].time).all()
    for asked in ({"time_column": "Time"}, {"split": "time"}, {"amount_column": "Time"}):
        assert "_column Time: has no numbers or times that can be read" in message(parts_of, odd, tmp_path, **asked)


def test_what_must_be_of_both_classes(table, tmp_path):
    """No threshold or best epoch comes of validation rows without fraud, and no leak's worth of such a holdout."""
    table[table["Class"] == 0].to_parquet(tmp_path / "none.parquet", index=False)
    file = [str(tmp_path / "none.parquet")]
    for more, name in (
        ({"validation_file": file}, "validation"),
        ({"test_file": file, "protocol": "published"}, "holdout"),
    ):
        said = message(parts_of, table, tmp_path, **more)
        assert said == f"{file[0]}: the {name} rows are not of both classes; give others"
    parts, _ = parts_of(table, tmp_path, test_file=file)
    assert parts["test"].target.sum() == 0 and parts["test"].facts["selection"] == "940 of 940 rows, sample_seed 42"
    table.assign(V1=np.inf).to_parquet(tmp_path / "none.parquet", index=False)
    said = message(parts_of, table, tmp_path, test_file=file, on_bad_example="skip", max_predict_samples=3)
    assert "the test rows (skipped: {'no number to compute with': 1000}) are not" in said


def test_a_running_number_is_no_feature_though_the_training_rows_have_gaps(table, tmp_path):
    shuffled = table.assign(id=np.random.default_rng(0).permutation(1_000) + 5)
    parts, columns = parts_of(shuffled, tmp_path)
    assert columns.left_out == {"id": "a saved index or running number"} and "id" in parts["test"].shown.columns


def test_copies_are_found_without_the_target_and_with_rounding(table, tmp_path):
    near = table[:200].assign(V1=table["V1"] + 1e-7, Class=1 - table["Class"])
    near.to_parquet(tmp_path / "near.parquet", index=False)
    parts, _ = parts_of(table, tmp_path, test_file=[str(tmp_path / "near.parquet")])
    said, told = [], []
    describe(parts, SimpleNamespace(describe=said.append, warn=told.append))
    shared = {tuple(one["between"]): one["examples"] for one in said[0].overlaps}
    assert 195 < shared["train", "test"] + shared["validation", "test"] <= 200 and len(told) == len(shared)
    assert ("train", "validation") not in shared
    assert said[0].facts["test"]["fingerprint"] != said[0].facts["validation"]["fingerprint"]


def test_what_is_missing_is_said(table, tmp_path):
    for more, words in (
        ({"target": "fraud"}, "no column 'fraud'"),
        ({"ignore_columns": ["V9"]}, "no column 'V9'"),
        ({"time_column": "when"}, "no column 'when'"),
        ({"split": "time", "time_column": "when"}, "no column 'when'"),
        ({"amount_column": "Amount"}, "no column 'Amount'"),
    ):
        assert words in message(parts_of, table, tmp_path, **more)
    empty = table.astype({"Class": object})
    empty.loc[6, "Class"] = None
    assert "row 7: Class, the target, is empty, or a word for it" in message(parts_of, empty, tmp_path)
    parts, _ = parts_of(empty, tmp_path, on_bad_example="skip")
    gone = table.assign(V1=np.where(table["Class"] == 1, np.nan, table["V1"]))
    said = message(parts_of, gone, tmp_path, missing="skip")
    assert "the train rows (skipped: {'a missing cell" in said and "are not of both classes" in said
    assert sum(map(len, parts.values())) == 999 and parts["train"].facts["skipped"] == {"empty target": 1}
