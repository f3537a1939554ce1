"""Columns of every kind become features as scikit-learn and pandas would make them; what is wrong is named by row."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

from common.tabular.columns import Columns, class_texts, classes_of, is_index, reading
from common.tabular.detection import Detections
from common.tabular.results import write_predictions
from tests.helpers import message


def framed(columns: dict) -> pd.DataFrame:
    frame = pd.DataFrame(columns)
    frame.index = pd.MultiIndex.from_product([["t.csv"], range(1, len(frame) + 1)], names=["file", "row"])
    frame.attrs["source"] = "t.csv"
    return frame


@pytest.fixture
def rows() -> pd.DataFrame:
    random = np.random.default_rng(0)
    day = pd.Series(pd.date_range("2024-01-30 22:15", periods=60, freq="7h"))
    columns = {
        "V1": np.where(random.random(60) < 0.3, np.nan, random.standard_normal(60) * 5 + 3),
        "V2": random.standard_normal(60),
        "when": day.dt.strftime("%Y-%m-%d %H:%M:%S"),
        "day": day.dt.strftime("%d/%m/%Y"),
        "known": random.random(60) < 0.5,
        "shop": random.choice(["x", "y", "z", None], 60, p=[0.5, 0.2, 0.1, 0.2]),
        "flag": random.choice(["Yes", "no"], 60),
        "name": [f"customer {n}" for n in range(60)],
        "one": 7,
        "none": np.nan,
        "several": [[1, 2]] * 60,
        "stamp": day.dt.tz_localize("Europe/Berlin"),
        "id": range(100, 160),
        "Class": random.permutation([0, 1] * 30),
    }
    return framed(columns)


def learn(rows: pd.DataFrame, missing: str = "impute", ignored=None, most: int = 32) -> Columns:
    columns = Columns("Class", ["0", "1"], missing)
    columns.learn(rows, ignored or {}, most)
    return columns


def feature(columns: Columns, part, name: str) -> np.ndarray:
    return part.features[:, columns.features.index(name)]


def test_every_kind_of_column_is_encoded_as_others_would(rows):
    columns = learn(rows, ignored={"id": "a saved index"})
    part = columns.part(rows, skip_bad=False, truth=True)
    assert columns.left_out == {
        "name": "text, or numbers with text among them, that hardly ever repeats",
        "one": "one value throughout",
        "none": "empty",
        "several": "one value throughout",
        "id": "a saved index",
    }
    filled = SimpleImputer(strategy="median", add_indicator=True).fit_transform(rows[["V1"]])
    when = pd.to_datetime(rows["when"]).astype("int64").to_numpy()[:, None]
    day = pd.to_datetime(rows["day"], format="%d/%m/%Y").astype("int64").to_numpy()[:, None]
    stamp = rows["stamp"].astype("int64").to_numpy()[:, None]
    shop = [(rows["shop"] == level).to_numpy(float)[:, None] for level in "xyz"] + [
        rows[["shop"]].isna().to_numpy(float)
    ]
    expected = {
        "V1": filled[:, :1],
        "V1 is missing": filled[:, 1:],
        "V2": rows[["V2"]],
        "when": when,
        "day": day,
        "stamp": stamp,
        "known": rows[["known"]].astype(float),
        **dict(zip(("shop=x", "shop=y", "shop=z", "shop=(missing)"), shop)),
        "flag=yes": (rows[["flag"]] == "Yes").astype(float),
    }
    assert {name.replace("flag=no", "flag=yes") for name in columns.features} == set(expected)
    for name, values in expected.items():
        found = feature(columns, part, name) if name in columns.features else -feature(columns, part, "flag=no")
        np.testing.assert_allclose(found, StandardScaler().fit_transform(np.asarray(values))[:, 0], atol=1e-5)
    assert part.features.dtype == np.float32 and np.isfinite(part.features).all()
    assert part.target.tolist() == rows["Class"].tolist() and part.real.all()
    assert part.shown["name"].tolist() == rows["name"].tolist() and [row for _, row in part.shown.index] == list(
        range(1, 61)
    )
    said = " ".join(columns.notices())
    times = ("times, read as ISO8601: 'when', 'stamp'", "times, read as %d/%m/%Y: 'day'")
    assert all(words in said for words in ("name", "one value throughout: 'one', 'several'", "'V1', 'shop'", *times))


def test_only_what_was_learned_is_used_later(rows):
    """Medians, means and values are those of training, though the new rows have others, and survive json."""
    columns = learn(rows)
    again = Columns(**json.loads(json.dumps(asdict(columns))))
    assert again == columns
    new = (
        rows[:5]
        .assign(V1=np.nan, V2=1000.0, shop=["never seen", "X", None, "y", "z"], flag="YES")
        .drop(columns="Class")
    )
    part = again.part(new, skip_bad=False)
    assert part.target is None
    mean, scale = rows["V2"].mean(), rows["V2"].std(ddof=0)
    assert feature(again, part, "V2") == pytest.approx((1000 - mean) / scale, rel=1e-5)
    median = rows["V1"].median()
    filled = rows["V1"].fillna(median)
    assert feature(again, part, "V1") == pytest.approx((median - filled.mean()) / filled.std(ddof=0), abs=1e-5)
    for name, present in (("shop=x", [0, 1, 0, 0, 0]), ("shop=(missing)", [0, 0, 1, 0, 0])):
        assert (feature(again, part, name) > 0).astype(int).tolist() == present
    assert {name: count for name, count in part.unknown.items() if count} == {"shop": 1}
    empty = again.part(new.assign(V2=[1.0, None, None, 2.0, 3.0]), skip_bad=False)
    assert empty.unknown["V2"] == 2
    assert "no column 'V2'" in message(again.part, new.drop(columns="V2"), skip_bad=False)


@pytest.mark.parametrize("form", ["%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y %H:%M", "%d-%b-%Y", "%Y-%m-%dT%H:%M:%SZ", "%Y%m"])
def test_times_as_people_write_them(form):
    """A form that suits nine tenths of the cells must not win over the one that suits all."""
    days = pd.Series(pd.date_range("2024-01-01", periods=13, freq="D"))
    rows = framed({"when": days.dt.strftime(form), "V": range(13), "Class": [0, 1] * 6 + [0]})
    if form == "%Y%m":
        assert learn(rows).left_out == {"when": "one value throughout"}
        return
    columns = learn(rows)
    known = "ISO8601" if form.startswith("%Y") else form
    assert columns.notices() == [f"times, read as {known}: 'when'"]
    found = feature(columns, columns.part(rows, skip_bad=False), "when")
    seconds = days.astype("int64").to_numpy()[:, None] // 1_000_000
    np.testing.assert_allclose(found, StandardScaler().fit_transform(seconds)[:, 0], atol=1e-4)
    other = rows.assign(when="Monday")
    assert "when holds 'Monday', no time to compute with" in message(columns.part, other, skip_bad=False)


@pytest.mark.parametrize("cells", [["01/31/2024 10:30 PM", "02/01/2024 9:05 AM"], ["$12", "$7.50"], ["12%", "7 %"]])
def test_other_ways_to_write_times_and_amounts_are_text_which_is_said(cells):
    """Of texts that hardly ever repeat nothing is learned."""
    rows = framed({"a": [f"{cells[n % 2]}{' ' * n}{n}" for n in range(12)], "V": range(12), "Class": [0, 1] * 6})
    assert "left out, text, or numbers with text among them, that hardly ever repeats: 'a'" in learn(rows).notices()


def test_a_day_that_never_comes_is_a_time():
    """Cards that do not expire do so on 9999-12-31, which is more nanoseconds than 64 bits hold."""
    rows = framed({"expires": ["2024-01-31", "9999-12-31", "0001-01-01"] * 2, "Class": [0, 1] * 3})
    assert np.isfinite(learn(rows).part(rows, skip_bad=False).features).all()


@pytest.mark.parametrize("is_number", [True, False])
def test_the_time_is_in_seconds(is_number):
    when = pd.Series(pd.date_range("2024-01-01", periods=9, freq="8h"))
    when = when.dt.as_unit("s").astype("int64") if is_number else when
    columns = Columns("Class", ["0", "1"], "impute", {"time": "when"})
    rows = framed({"when": when, "Class": [0, 1, 0] * 3})
    columns.learn(rows, {}, 32)
    assert np.diff(columns.part(rows, skip_bad=False).time).tolist() == [8 * 3600.0] * 8


@pytest.mark.parametrize("unit, size", [("seconds", 1), ("milliseconds", 10**3), ("nanoseconds", 10**9)])
def test_numbers_of_a_time_may_count_parts_of_seconds(unit, size):
    """As json from pandas (milliseconds) and parquet from others; the feature does not mind."""
    seconds = 1_700_000_000 + np.arange(9) * 3600
    rows = framed({"when": seconds * size, "Class": [0, 1, 0] * 3})
    kind, values = reading(rows["when"], "time")
    assert kind == {"kind": "number", "format": unit} and values.tolist() == seconds.tolist()
    columns = Columns("Class", ["0", "1"], "impute", {"time": "when"})
    columns.learn(rows, {}, 32, {"when": kind})
    assert columns.part(rows, skip_bad=False).time.tolist() == seconds.tolist()
    assert columns.notices() == [f"times, read as {unit}: 'when'"]


def test_a_part_without_a_good_row_is_empty():
    """Other parts of a large file may have some."""
    rows = framed({"V": range(6), "Class": [0, 1] * 3})
    columns, bad = learn(rows), rows.assign(V=np.inf)
    part = columns.part(bad, skip_bad=True)
    assert len(part) == 0 and part.features.shape == (0, 1) and sum(part.facts["skipped"].values()) == 6
    assert message(columns.part, bad.assign(V="x" * 5_000), skip_bad=False).count("x") < 100


def written(part, folder) -> pd.DataFrame:
    write_predictions(folder / "p.csv", [Detections(part, np.zeros(len(part)), 0.5)])
    return pd.read_csv(folder / "p.csv")


def test_names_of_ours_may_be_columns_of_the_table(tmp_path):
    rows = framed({"row": ["a"] * 6, "file": ["b"] * 6, "truth": ["c"] * 6, "V": range(6), "Class": [0, 1] * 3})
    shown = written(learn(rows).part(rows, skip_bad=False), tmp_path)
    assert shown["row"].tolist() == [1, 2, 3, 4, 5, 6] and set(shown["row (data)"]) == {"a"}
    assert "file" not in shown and set(shown["truth (data)"]) == {"c"}


def test_rows_of_several_files_say_their_file_in_every_part(tmp_path):
    """A part of a large table has rows of one file alone."""
    rows = framed({"V": range(6), "Class": [0, 1] * 3})
    columns = learn(rows)
    rows.attrs["source"] = "s.csv, t.csv"
    assert [*written(columns.part(rows, skip_bad=False), tmp_path)][:2] == ["file", "row"]


def test_an_amount_that_costs_are_made_of_is_there():
    """Though it is no feature: a missed fraud would cost something else."""
    rows = framed({"paid": [1, 2, 3] * 2, "V": range(6), "Class": [0, 1] * 3})
    columns = Columns("Class", ["0", "1"], "impute", {"amount": "paid"})
    columns.learn(rows, {"paid": "ignored"}, 32)
    assert columns.part(rows, skip_bad=False).amount.tolist() == [1, 2, 3] * 2
    assert "no column 'paid'" in message(columns.part, rows.drop(columns="paid"), skip_bad=False)
    assert np.isnan(columns.part(rows.drop(columns=["paid", "Class"]), skip_bad=False).amount).all()


def test_numbers_with_words_among_them_are_left_out():
    rows = framed({"a": [*map(str, range(30)), *"----------"], "V": range(40), "Class": [0, 1] * 20})
    assert learn(rows).left_out == {"a": "text, or numbers with text among them, that hardly ever repeats"}


def test_rare_values_share_a_feature():
    values = ["a"] * 10 + ["b"] * 6 + ["c"] * 3 + ["d"] * 2
    rows = framed({"x": values, "V": np.arange(21.0) ** 2, "Class": [0, 1, 0] * 7})
    columns = learn(rows, most=2)
    assert columns.features[:3] == ["x=a", "x=b", "x=(other)"]
    part = columns.part(rows, skip_bad=False)
    assert (feature(columns, part, "x=(other)") > 0).tolist() == [value in "cd" for value in values]
    assert not any(part.unknown.values())


@pytest.mark.parametrize(
    "column, cell, words",
    [
        ("V2", "?", "V2 holds '?'"),
        ("V2", 1e200, "V2 holds 1e+200"),
        ("V2", np.inf, "V2 holds inf"),
        ("when", "yesterday", "when holds 'yesterday'"),
        ("Class", 2, "Class holds 2, not '0' or '1'"),
        ("Class", None, "Class is empty"),
    ],
)
def test_bad_cells_are_named_by_their_row_or_left_out_and_counted(rows, column, cell, words):
    bad = rows.astype({column: object})
    bad.iloc[[7, 9], bad.columns.get_loc(column)] = cell
    columns = learn(rows)
    said = message(columns.part, bad, skip_bad=False, truth=True)
    assert said.startswith("t.csv, row 8: ") and words in said and "--on_bad_example skip" in said
    part = columns.part(bad, skip_bad=True, truth=True)
    assert len(part) == part.facts["available"] == 58 and sum(part.facts["skipped"].values()) == 2
    assert [row for _, row in part.shown.index] == [n for n in range(1, 61) if n not in (8, 10)]


def test_a_bad_cell_is_said_even_where_all_others_are_alike(rows):
    """1e200 among ones: to leave the column out as constant would hide it."""
    bad = rows.assign(one=np.where(np.arange(60) == 11, 1e200, 1.0))
    assert "row 12: one holds 1e+200" in message(learn(bad).part, bad, skip_bad=False)


def test_missing_cells_may_be_refused_or_their_rows_left_out(rows):
    at = int(rows["V1"].isna().argmax()) + 1
    said = message(learn(rows, "error").part, rows, skip_bad=False)
    assert f"row {at}: V1 is empty" in said and "--missing impute" in said
    columns = learn(rows, "skip")
    assert not any("filled" in notice for notice in columns.notices())
    part = columns.part(rows, skip_bad=False)
    kept = rows["V1"].notna() & rows["shop"].notna()
    assert list(part.facts["skipped"].values()) == [int((~kept).sum())] and len(part) == kept.sum()


def test_a_feature_that_is_almost_the_target_is_suspicious(rows):
    near = rows.assign(copy=rows["Class"] * 3.0 + rows["V2"] / 100, flipped=["ny"[c] for c in rows["Class"]])
    columns = learn(near)
    (said,) = columns.suspicions(columns.part(near, skip_bad=False))
    assert "copy" in said and "flipped=" in said and "V2" not in said and "--ignore_columns" in said
    honest = learn(rows)
    assert honest.suspicions(honest.part(rows, skip_bad=False)) == []


def test_what_counts_rows_is_an_index():
    random = np.random.default_rng(1)
    assert is_index("TransactionID", pd.Series(random.permutation(500) + 2_987_000))
    assert is_index("account", pd.Series([f"{n:07d}" for n in random.permutation(500)]))
    for name in ("", "Unnamed: 0", "Unnamed: 0.1", "__index_level_0__", "rownames", "row.names", "row_id"):
        assert is_index(name, pd.Series([3, 3])), name
    assert not is_index("a", pd.Series([None] * 60)) and not is_index("a", pd.Series([None] * 60, dtype="Int64"))
    assert not is_index("Time", pd.Series(np.arange(500) * 10)) and not is_index("V1", pd.Series(random.random(500)))


@pytest.mark.parametrize(
    "cells",
    [
        [0, 1, 1],
        [0.0, 1.0, 1.0],
        [False, True, True],
        ["0", "1.0", " 1"],
        ["False", "true", "TRUE"],
        ["'0'", "'1'", "1"],
    ],
)
def test_classes_of_one_meaning_meet(cells):
    assert class_texts(pd.Series(cells)).tolist() == ["0", "1", "1"]
    assert classes_of(pd.Series(cells, name="Class"), None, "t.csv") == ["0", "1"]


def test_classes_that_are_not_two():
    def refused(cells, positive=None):
        said = message(classes_of, framed({"Class": cells})["Class"], positive, "t.csv")
        assert (
            said.startswith("t.csv: the target Class holds ") and "0 and 1, or two values of which --positive" in said
        )
        return said

    assert "'no' (2 rows), 'yes' (1 rows); 'yes' is in t.csv, row 2" in refused(["no", "yes", "no"])
    assert "'no' (1 rows), 'yes' (1 rows)" in refused(["no", "yes"], "fraud")
    assert "'Fraud' is in t.csv, row 3" in refused(["fraud", "ok", "Fraud", "ok", "fraud"], "fraud")
    for one in (0, 1):
        assert f"'{one}' (2 rows)" in refused([one, one])
    assert classes_of(pd.Series(["no", "yes"], name="y"), "yes", "t.csv") == ["no", "yes"]
