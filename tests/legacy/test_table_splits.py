"""Splits by their properties and by hand: sizes, shares of the classes, order of time; and the real cards."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.legacy.errors import UserError
from common.legacy.table_splits import split_table
from common.legacy.tables import Table, TableReading, read_table
from tests.legacy.helpers import message

SHARES = {"test": 0.3, "validation": 0.2}


def table(target, times=None) -> Table:
    target = np.asarray(target, dtype=np.int8)
    times = np.arange(len(target)) if times is None else np.asarray(times)
    features = np.column_stack([np.zeros(len(target)), times.astype(np.float64)])
    return Table("t.csv", ["V1", "Time"], features, target, np.arange(1, len(target) + 1), len(target), {})


def published_table() -> Table:
    target = np.zeros(284_807, dtype=np.int8)
    target[np.random.default_rng(0).permutation(284_807)[:492]] = 1
    return table(target)


def check_partition(parts, rows, shares=SHARES):
    assert list(parts) == ["train", *shares]
    assert np.sort(np.concatenate(list(parts.values()))).tolist() == list(range(rows))


# By chance


def test_the_published_sizes():
    found = published_table()
    parts = split_table(found, "stratified", SHARES, 42, None)
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 159_492, "test": 85_442, "validation": 39_873}
    frauds = {name: int(found.target[rows].sum()) for name, rows in parts.items()}
    assert frauds == {"train": 275, "test": 148, "validation": 69}
    assert all((np.diff(rows) > 0).all() for rows in parts.values())
    check_partition(parts, 284_807)


@settings(max_examples=80, deadline=None)
@given(
    positive=st.integers(0, 30),
    negative=st.integers(0, 60),
    test=st.floats(0.01, 0.95),
    validation=st.floats(0.01, 0.95),
    how=st.sampled_from(["stratified", "time"]),
    seed=st.integers(0, 5),
)
def test_every_row_is_in_one_part_and_every_part_has_both_classes(positive, negative, test, validation, how, seed):
    target = np.random.default_rng(seed).permutation([1] * positive + [0] * negative)
    shares = {"test": test, "validation": validation}
    try:
        parts = split_table(table(target), how, shares, seed, None)
    except UserError:
        return
    check_partition(parts, len(target))
    left = len(target)
    for name, share in shares.items():
        assert len(parts[name]) == round(share * left) or (how == "time" and len(parts[name]) in (1, left - 1))
        of_part, before = parts[name], np.setdiff1d(np.arange(len(target)), [] if name == "test" else parts["test"])
        if how == "stratified":
            assert abs(target[of_part].sum() - target[before].sum() * len(of_part) / left) <= 1
        left -= len(of_part)
    assert all(0 < target[rows].sum() < len(rows) for rows in parts.values())


def test_the_seed_decides():
    found = table(np.arange(200) % 4 == 0)
    first, again, other = (split_table(found, "stratified", SHARES, seed, None)["test"].tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_rows_that_are_enough_are_not_refused():
    for positive in (3, 4, 6):
        parts = split_table(table([1] * positive + [0] * 100), "stratified", {"test": 0.4, "validation": 0.4}, 0, None)
        check_partition(parts, positive + 100)


def test_too_few_rows():
    few = message(split_table, table([1, 1] + [0] * 50), "stratified", SHARES, 0, None)
    assert few == (
        "t.csv: 36 rows, of which 1 are positive (fraud), are too few for a part 'validation' of 20 % with both "
        "classes; give more rows or a file for it"
    )
    for target in ([0] * 20, [1] * 20, [0, 1], [0, 1] * 3):
        assert "too few for a part 'test'" in message(
            split_table, table(target), "stratified", {"test": 0.1, "validation": 0.1}, 0, None
        )
    none = message(split_table, table([1] * 3 + [0] * 97), "stratified", {"test": 0.05}, 0, None)
    assert none == "t.csv: no positive (fraud) row among the 5 of the part 'test'; choose other shares"
    none = message(split_table, table([0] * 3 + [1] * 97), "stratified", {"test": 0.05}, 0, None)
    assert none.startswith("t.csv: no legitimate row among the 5 of the part 'test'")


# By time


def test_the_future_is_the_test():
    order = np.random.default_rng(3).permutation(100)
    found = table(np.arange(100) % 3 == 0, times=order * 10.0)
    parts = split_table(found, "time", SHARES, 0, "Time")
    check_partition(parts, 100)
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [56, 14, 30]
    times = [found.features[parts[name], 1] for name in ("train", "validation", "test")]
    assert np.concatenate(times).tolist() == sorted(order * 10.0)
    assert split_table(found, "time", SHARES, 9, "Time")["test"].tolist() == parts["test"].tolist()


def test_without_a_time_the_order_of_the_rows():
    parts = split_table(table([0, 1] * 10, times=-np.arange(20)), "time", SHARES, 0, None)
    assert parts["train"].tolist() == list(range(11)) and parts["validation"].tolist() == [11, 12, 13]
    assert parts["test"].tolist() == list(range(14, 20))


@pytest.mark.parametrize(
    "times, test",
    [
        ([1, 1, 2, 2, 3, 3, 3, 4, 4, 4], [7, 8, 9]),  # 30 %: exactly where the time changes
        ([1, 1, 2, 2, 3, 3, 4, 4, 4, 4], [6, 7, 8, 9]),  # would cut the fours, which begin one row earlier
        ([1, 1, 2, 2, 3, 3, 3, 3, 4, 4], [8, 9]),  # would cut the threes, which end one row later
        ([4, 4, 3, 3, 2, 2, 2, 1, 1, 1], [6, 2, 3, 0, 1][1:]),  # backwards: the last in time are the first in the file
    ],
)
def test_equal_times_are_never_cut(times, test):
    found = table([0, 1] * 5, times=times)
    assert sorted(split_table(found, "time", {"test": 0.3}, 0, "Time")["test"].tolist()) == sorted(test)


def test_rows_of_the_same_time_keep_their_order():
    parts = split_table(table([0, 1, 1, 0], times=[2, 2, 1, 1]), "time", {"test": 0.5}, 0, "Time")
    assert parts["train"].tolist() == [2, 3] and parts["test"].tolist() == [0, 1]


def test_times_that_cannot_be_cut():
    same = message(split_table, table([0, 1] * 5, times=[7] * 10), "time", SHARES, 0, "Time")
    assert same == (
        "t.csv: no two rows of different times are left to cut the part 'test' off; give a file for it, or "
        "--split stratified"
    )
    two = message(split_table, table([0, 1] * 5, times=[1] * 5 + [2] * 5), "time", SHARES, 0, "Time")
    assert "to cut the part 'validation' off" in two
    assert message(split_table, table([0, 1]), "time", SHARES, 0, "time") == (
        "t.csv: no column 'time' to split by; it has 'V1', 'Time'; name yours with --time_column, or give "
        "--split stratified"
    )
    early = message(split_table, table([1] * 10 + [0] * 90), "time", SHARES, 0, "Time")
    assert early == (
        "t.csv: no positive (fraud) row among the 30 of the part 'test'; choose other shares, or --split stratified"
    )


def test_parts_without_a_share_are_left_out():
    for how in ("stratified", "time"):
        assert list(split_table(table([0, 1] * 10), how, {"test": 0.0, "validation": 0.2}, 0, None)) == [
            "train",
            "validation",
        ]


# The real cards


@pytest.mark.parametrize("how", ["stratified", "time"])
def test_the_real_cards(shared_data, how):
    found = read_table(shared_data / "creditcard" / "creditcard_uniform.parquet", TableReading())
    parts = split_table(found, how, SHARES, 0, "Time")
    check_partition(parts, 6698)
    times = {name: found.features[rows, 0] for name, rows in parts.items()}
    frauds = {name: int(found.target[rows].sum()) for name, rows in parts.items()}
    if how == "stratified":
        assert {name: len(rows) for name, rows in parts.items()} == {"train": 3751, "test": 2009, "validation": 938}
        assert frauds == {"train": 275, "test": 148, "validation": 69}
    else:
        assert times["train"].max() < times["validation"].min() <= times["validation"].max() < times["test"].min()
        assert abs(len(parts["test"]) - 2009) <= 3 and abs(len(parts["validation"]) - 938) <= 3
        assert min(frauds.values()) > 20
