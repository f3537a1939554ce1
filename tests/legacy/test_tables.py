"""Tables against pandas, whichever file they come from; every refusal's sentence; OpenML from a stand-in."""

import hashlib
import json
import re
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jsonschema
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import common.legacy.table_cells
import common.legacy.tables
from common.legacy.tables import (
    Table,
    TableReading,
    check_trainable,
    contradictions,
    describe,
    duplicates,
    read_chunks,
    read_table,
    table_from_openml,
    table_of_arrow,
)
from tests.legacy.helpers import message

PLAIN, SKIP = TableReading(), TableReading(skip_bad=True)
MEND = "mend it or pass --on_bad_example skip"
AWKWARD = [0.1, -1e-308, 5e-324, 1.7976931348623157e308, 123456789.12345678, -0.0, 2.0, 1 / 3]


@pytest.fixture
def small_blocks(monkeypatch):
    """pyarrow gets a csv in blocks of 200 bytes, so that everything happens in a later one, too."""
    monkeypatch.setattr(common.legacy.tables, "CSV_BLOCK", 200)


def frame_of(rows: int, seed: int = 0) -> pandas.DataFrame:
    random = np.random.default_rng(seed)
    columns = {"Time": np.sort(random.integers(0, rows, rows)), "V1": random.normal(size=rows)}
    columns["V2"] = np.resize(AWKWARD, rows)
    return pandas.DataFrame({**columns, "Class": random.integers(0, 2, rows)})


def write(frame: pandas.DataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


def csv_of(path: Path, *lines: str, end: str = "\n") -> Path:
    path.write_bytes(end.join([*lines, ""]).encode())
    return path


def table(features, target=None, columns=None) -> Table:
    features = np.asarray(features, dtype=np.float64)
    columns = columns or [f"V{i}" for i in range(features.shape[1])]
    target = None if target is None else np.array(target, dtype=np.int8)
    return Table("t.csv", columns, features, target, np.arange(1, len(features) + 1), len(features), {})


# Reading


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_every_kind_of_file_gives_the_same_table(tmp_path, ending, small_blocks):
    frame = frame_of(500)
    found = read_table(write(frame, tmp_path / f"t.{ending}"), PLAIN)
    assert found.columns == ["Time", "V1", "V2"] and found.source == str(tmp_path / f"t.{ending}")
    assert found.features.dtype == np.float64 and found.target.dtype == np.int8 and found.rows.dtype == np.int64
    np.testing.assert_array_equal(found.features, frame[found.columns].to_numpy(np.float64))  # to the last bit
    assert found.target.tolist() == frame["Class"].tolist()
    assert found.rows.tolist() == list(range(1, 501)) and found.available == len(found) == 500 and not found.skipped
    same = table_of_arrow(pyarrow.Table.from_pandas(frame), "hub", PLAIN)
    assert same.source == "hub" and same.fingerprint() == found.fingerprint()
    assert found.label_counts() == {"legitimate": int((frame["Class"] == 0).sum()), "fraud": int(frame["Class"].sum())}
    assert list(found.label_counts(("no", "yes"))) == ["no", "yes"]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 2), min_size=1, max_size=30))
def test_numbers_in_a_csv_are_exact(tmp_path, rows):
    path = csv_of(tmp_path / "t.csv", "a,b", *(f"{a!r},{b:.17e}" for a, b in rows))
    np.testing.assert_array_equal(read_table(path, TableReading(truth=False)).features, np.array(rows))


def test_what_people_write_in_a_csv(tmp_path):
    rows = ["a;b;Class", "", '1.5; 2 ;"0"', '"+3";4e2;1', "", "TRUE;.5;'1'", "false;-5.;0.0"]
    for end, bom in (("\n", ""), ("\r\n", "\ufeff")):
        path = csv_of(tmp_path / "t.csv", bom + rows[0], *rows[1:], end=end)
        found = read_table(path, PLAIN)
        assert found.features.tolist() == [[1.5, 2], [3, 400], [1, 0.5], [0, -5]]
        assert (found.target.tolist(), found.rows.tolist()) == ([0, 1, 1, 0], [1, 2, 3, 4])
    path.write_text("\n\na\tClass\n1\t0\n2\t1")  # tabs in a csv, blank lines first, no line's end last
    assert read_table(path, PLAIN).features.tolist() == [[1], [2]]
    path = csv_of(tmp_path / "t.tsv", "a,b\tClass", "1\t0")
    assert read_table(path, PLAIN).columns == ["a,b"]
    path = csv_of(tmp_path / "T.CSV", '"a","note, or\nmore",Class', '1,"two\nlines",0', "2,x,1")
    found = read_table(path, TableReading(ignored=("note, or\nmore",)))
    assert found.columns == ["a"] and found.features.tolist() == [[1], [2]]


def test_columns_of_other_types_are_numbers_or_refused(tmp_path):
    columns = {
        "large": pyarrow.array([2**53 + 1, 3], pyarrow.int64()),
        "small": pyarrow.array([255, 0], pyarrow.uint8()),
        "half": pyarrow.array([0.5, 1.5], pyarrow.float32()),
        "flag": pyarrow.array([True, False]),
        "money": pyarrow.array(["1.25", "-2.5"]).cast(pyarrow.decimal128(12, 2)),
    }
    classes = pyarrow.array([1, 0])
    found = table_of_arrow(pyarrow.table({**columns, "Class": classes}), "t", PLAIN)
    assert found.features.tolist() == [[2.0**53, 255, 0.5, 1, 1.25], [3, 0, 1.5, 0, -2.5]]
    refused = {
        "when": (pandas.to_datetime(["2013-09-01", "2013-09-02"]), "2013-09-01 00:00:00"),
        "country": (["DE", "IR"], "DE"),
        "digits": (["1", "2"], "1"),
        "kind": (pandas.Categorical(["b", "a"]), "b"),
        "list": ([[1], [2]], "[1]"),
    }
    for name, (cells, shown) in refused.items():
        path = write(pandas.DataFrame({"V1": [1.0, 2.0], name: cells, "Class": [0, 1]}), tmp_path / "t.parquet")
        remedy = f"encode it as numbers, or leave it out with --ignore_columns {name}"
        assert message(read_table, path, PLAIN) == f"{path}: {name} holds {shown!r} in row 1: {remedy}"
        assert message(read_table, path, SKIP) == (
            f"{path}: no good row among 2; {name} holds {shown!r} in row 1: {remedy}"
        )
        assert read_table(path, TableReading(ignored=(name,))).columns == ["V1"]


def test_the_index_of_a_frame_is_no_feature(tmp_path):
    frame = frame_of(20).sample(frac=1, random_state=1)
    frame.to_parquet(tmp_path / "t.parquet")
    assert "__index_level_0__" in pyarrow.parquet.read_schema(tmp_path / "t.parquet").names
    assert read_table(tmp_path / "t.parquet", PLAIN).columns == ["Time", "V1", "V2"]


# In parts


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_parts_are_the_same_for_every_kind_of_file(tmp_path, ending, small_blocks):
    frame = frame_of(103)
    path = tmp_path / f"t.{ending}"
    if ending == "parquet":
        frame.to_parquet(path, row_group_size=17, index=False)
    else:
        write(frame, path)
    parts = list(read_chunks(path, PLAIN, rows=25))
    assert [len(part) for part in parts] == [25, 25, 25, 25, 3] == [part.available for part in parts]
    assert np.concatenate([part.rows for part in parts]).tolist() == list(range(1, 104))
    whole = read_table(path, PLAIN)
    np.testing.assert_array_equal(np.concatenate([part.features for part in parts]), whole.features)
    np.testing.assert_array_equal(np.concatenate([part.target for part in parts]), whole.target)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_good_parts_come_before_a_bad_cell_far_behind(tmp_path, ending, small_blocks):
    frame = frame_of(100)
    frame.loc[77, "V1"] = np.nan
    parts = read_chunks(write(frame, tmp_path / f"t.{ending}"), PLAIN, rows=10)
    given = []
    assert message(lambda: given.extend(part.rows[-1] for part in parts)).endswith(
        f"V1 is empty or NaN in row 78; {MEND}"
    )
    assert given == [10, 20, 30, 40, 50, 60]


def test_a_row_group_is_not_read_at_once(tmp_path):
    columns, rows = {f"V{i}": np.random.default_rng(i).normal(size=200_000) for i in range(20)}, 10_000
    path = tmp_path / "t.parquet"  # 32 MB in one row group
    options = {"row_group_size": 200_000, "compression": "none", "use_dictionary": False}
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)
    del columns
    before, most, seen = pyarrow.total_allocated_bytes(), 0, 0
    for part in read_chunks(path, TableReading(truth=False), rows=rows):
        most, seen = max(most, pyarrow.total_allocated_bytes() - before), seen + len(part)
    assert seen == 200_000 and most < 12e6, most


def test_a_wide_table_gets_fewer_rows_a_part(tmp_path, monkeypatch):
    monkeypatch.setattr(common.legacy.table_cells, "MOST_CELLS", 10_000)
    names = [f"V{i}" for i in range(1_000)]
    frame = pandas.DataFrame(np.random.default_rng(0).normal(size=(25, 1_000)), columns=names).assign(
        Class=[0, 1] * 12 + [1]
    )
    for ending in ("csv", "parquet"):
        path = write(frame, tmp_path / f"t.{ending}")
        assert [len(part) for part in read_chunks(path, PLAIN)] == [10, 10, 5]
        assert read_table(path, PLAIN).available == 25 and read_table(path, PLAIN).rows.tolist() == list(range(1, 26))
        np.testing.assert_array_equal(read_table(path, PLAIN).features, frame[names].to_numpy())


# Bad cells


@pytest.mark.parametrize("row", [1, 40, 100])
@pytest.mark.parametrize("parts", ["one block", "small blocks"])
def test_text_is_named_in_whichever_block_it_stands(tmp_path, monkeypatch, row, parts):
    if parts == "small blocks":
        monkeypatch.setattr(common.legacy.tables, "CSV_BLOCK", 200)
    lines = [f"{i},{i}.5,{i % 2}" for i in range(1, 101)]
    lines[row - 1] = f"{row},DE,0"
    path = csv_of(tmp_path / "t.csv", "a,country,Class", "", *lines)
    assert message(read_table, path, PLAIN) == (
        f"{path}: country holds 'DE' in row {row}: encode it as numbers, or leave it out with --ignore_columns "
        f"country; {MEND}"
    )
    assert len(read_table(path, TableReading(ignored=("country",)))) == 100


def test_a_column_of_text_in_a_csv(tmp_path):
    path = csv_of(tmp_path / "t.csv", "country,a,Class", "DE,x,0", '"I\nR",y,1')
    begin = f"{path}: country holds 'DE' in row 1: encode it as numbers, or leave it out with --ignore_columns country"
    assert message(read_table, path, PLAIN) == begin
    path = csv_of(tmp_path / "t.csv", "country,Class", '"I\nR",1', f'"{"long " * 50}",1')
    assert "country holds 'I\\nR' in row 1" in message(read_table, path, PLAIN)
    path = csv_of(tmp_path / "t.csv", "country,Class", f'"{"long " * 50}",1')
    assert len(message(read_table, path, PLAIN)) < 250
    path = csv_of(tmp_path / "t.csv", "my country,Class", "DE,1")
    assert message(read_table, path, PLAIN).endswith("or leave it out with --ignore_columns 'my country'")
    path = csv_of(tmp_path / "t.csv", "a;Class", "1,5;0", "2,5;1")
    assert "a holds '1,5' in row 1: write decimals with a point, " in message(
        read_table, path, TableReading(target="Class")
    )


@pytest.mark.parametrize("cell", ["1_000", "0x10", "1 2", "--1", "12a", "-", "2013-09-01"])
def test_what_is_no_number(tmp_path, cell):
    path = csv_of(tmp_path / "t.csv", "a,Class", "1,0", f"{cell},1")
    assert f"a holds {cell!r} in row 2" in message(read_table, path, PLAIN)


@pytest.mark.parametrize(
    "cells, what", [(["", " ", "NaN", "null", "NA"], "is empty or NaN"), (["inf", "-inf", "1e999"], "is infinite")]
)
def test_empty_and_infinite_cells_of_a_csv(tmp_path, cells, what, small_blocks):
    good = [f"{i},{i},1" for i in range(60)]
    for cell in cells:
        path = csv_of(tmp_path / "t.csv", "a,b,Class", *good, f"{cell},1,0", *good)
        assert message(read_table, path, PLAIN) == f"{path}: a {what} in row 61; {MEND}"
        path = csv_of(tmp_path / "t.csv", "a,b,Class", *good, f"5,{cell},0", *good, f"{cell},{cell},1")
        several = "(the first of 3 such cells)"
        assert message(read_table, path, PLAIN) == f"{path}: b {what} in row 61 {several}; {MEND}"


@pytest.mark.parametrize(
    "cell, what", [(np.nan, "is empty or NaN"), (None, "is empty or NaN"), (-np.inf, "is infinite")]
)
def test_empty_and_infinite_cells_of_arrow(cell, what):
    arrow = pyarrow.table({"a": [1.0, 2.0, cell], "b": [1.0, cell, 3.0], "Class": [0, 1, 1]})
    assert message(table_of_arrow, arrow, "t", PLAIN) == f"t: b {what} in row 2 (the first of 2 such cells); {MEND}"
    integers = pyarrow.table({"a": pyarrow.array([1, None]), "b": pyarrow.nulls(2), "Class": [0, 1]})
    assert message(table_of_arrow, integers, "t", PLAIN).startswith("t: b is empty or NaN in row 1 (the first of 3 ")


@pytest.mark.parametrize("blocks", [200, 2**22])
def test_rows_of_another_length(tmp_path, monkeypatch, blocks):
    monkeypatch.setattr(common.legacy.tables, "CSV_BLOCK", blocks)
    good = [f"{i},1,{i % 2}" for i in range(50)]
    path = csv_of(tmp_path / "t.csv", "a,b,Class", "", *good, "3,4", *good)
    assert message(read_table, path, PLAIN) == f"{path}: row 51 has 2 cells, the header has 3; {MEND}"
    path = csv_of(tmp_path / "t.csv", "a,b,Class", "1", *good, "", "3,,4,5", ",3,1", *good, "7", "8")
    several = f"{path}: row 1 has 1 cells, the header has 3 (the first of 4 such rows); {MEND}"
    assert message(read_table, path, PLAIN) == several
    found = read_table(path, SKIP)
    assert found.skipped == {"wrong row length": 4, "empty cell": 1} and found.available == 100
    assert found.rows.tolist() == [*range(2, 52), *range(54, 104)]
    assert found.features[:, 0].tolist() == [*range(50), *range(50)]
    parts = list(read_chunks(path, SKIP, rows=7))
    assert np.concatenate([part.rows for part in parts]).tolist() == found.rows.tolist()
    assert sum(sum(part.skipped.values()) for part in parts) == 5 and all(map(len, parts))
    path = csv_of(tmp_path / "t.csv", "a,b,Class", "x,1,0", *good, "3,4", *good)
    assert "a holds 'x' in row 1" in message(read_table, path, PLAIN)


@pytest.mark.parametrize("rows", [1, 2, 65_536])
def test_bad_rows_are_left_out_and_counted_once(tmp_path, rows):
    lines = ["1,2,0", "x,,0", "inf,3,1", "1,,1", "4,5,", "4,5,7", "6,7,1", "y,z,0", "8,9,0", ",,"]
    path = csv_of(tmp_path / "t.csv", "a,b,Class", *lines)
    expected = {"not a number": 2, "infinite cell": 1, "empty cell": 2, "empty target": 1, "target not 0 or 1": 1}
    parts = list(read_chunks(path, SKIP, rows=rows))
    assert [row for part in parts for row in part.rows] == [1, 7, 9] and all(map(len, parts))
    assert {reason: sum(p.skipped.get(reason, 0) for p in parts) for reason in expected} == expected
    found = read_table(path, SKIP)
    assert (found.skipped, found.available) == (expected, 3)
    assert (found.features.tolist(), found.target.tolist()) == ([[1, 2], [6, 7], [8, 9]], [0, 1, 0])


def test_the_first_bad_cell_of_a_row_is_the_one_that_counts(tmp_path):
    path = csv_of(tmp_path / "t.csv", "a,b,c,Class", "1,2,3,0", ",x,inf,", "1,2,3,1")
    assert message(read_table, path, PLAIN) == f"{path}: a is empty or NaN in row 2; {MEND}"
    assert read_table(path, SKIP).skipped == {"empty cell": 1}
    reading = TableReading(ignored=("a",))
    assert "b holds 'x' in row 2" in message(read_table, path, reading)
    assert read_table(path, TableReading(ignored=("a", "b"), skip_bad=True)).skipped == {"infinite cell": 1}


def test_no_good_row(tmp_path):
    path = csv_of(tmp_path / "t.csv", "a,Class", "x,0", ",1")
    sentence = message(read_table, path, SKIP)
    assert sentence.startswith(f"{path}: no good row among 2; a holds 'x' in row 1")
    path = csv_of(tmp_path / "t.csv", "a,Class", "1", "1,2,3")
    assert "no good row among 2; row 1 has 1 cells, the header has 2 (the first of 2" in message(read_table, path, SKIP)


# The target


CATEGORY = pandas.Categorical(["0", "1", "1"], categories=["1", "2", "0"])


@pytest.mark.parametrize(
    "values",
    [
        [0, 1, 1],
        [0.0, 1.0, 1.0],
        [False, True, True],
        ["0", "1", "1"],
        ["'0'", "'1'", "'1'"],
        ["0", "true", "1.0"],
        CATEGORY,
    ],
    ids=str,
)
def test_targets_that_are_0_and_1(tmp_path, values):
    frame = pandas.DataFrame({"V1": [1.0, 2.0, 3.0], "y": values})
    for ending in ("csv", "parquet"):
        path = write(frame, tmp_path / f"t.{ending}")
        assert read_table(path, TableReading(target="y")).target.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "values, found, first",
    [
        (["no", "yes"], "'no', 'yes'", "'no' in row 1"),
        ([1, 2], "'1', '2'", "'2' in row 2"),
        ([1, -1], "'1', '-1'", "'-1' in row 2"),
        ([0.25, 0], "'0.25', '0'", "'0.25' in row 1"),
    ],
)
def test_another_target_needs_its_positive_value(tmp_path, values, found, first):
    frame = pandas.DataFrame({"V1": [1.0, 2.0], "Class": values})
    for ending in ("csv", "parquet"):
        path = write(frame, tmp_path / f"t.{ending}")
        assert message(read_table, path, PLAIN) == (
            f"{path}: the target Class holds {found}, and not only 0 and 1 ({first}); say which value is the positive "
            "one with --positive VALUE"
        )
        reading = TableReading(positive=str(values[1]))
        assert read_table(path, reading).target.tolist() == [0, 1]


def test_the_positive_value_may_be_written_otherwise(tmp_path):
    for values, positive in (([1.0, 2.0], "2"), ([1, 2], "2.0"), ([True, False], "False"), (["'a'", "b"], "b")):
        frame = pandas.DataFrame({"V1": [1.0, 2.0], "Class": values})
        for ending in ("csv", "parquet"):
            reading = TableReading(positive=positive)
            assert read_table(write(frame, tmp_path / f"t.{ending}"), reading).target.tolist() == [0, 1]


def test_targets_of_many_values_are_named_by_a_few(tmp_path):
    path = csv_of(tmp_path / "t.csv", "a,Class", *(f"1,{i}.5" for i in range(1_000)))
    sentence = message(read_table, path, PLAIN)
    assert "holds '0.5', '1.5', " in sentence and " more, and not only 0 and 1 " in sentence and len(sentence) < 300


@pytest.mark.parametrize("positive", [None, "1"])
def test_a_target_with_missing_cells(tmp_path, positive):
    reading = TableReading(positive=positive)
    frame = pandas.DataFrame({"V1": [1.0, 2.0, 3.0], "Class": [0, np.nan, np.nan]})
    for ending in ("csv", "parquet"):
        path = write(frame, tmp_path / f"t.{ending}")
        several = "(the first of 2 such cells)"
        assert message(read_table, path, reading) == f"{path}: Class (the target) is empty in row 2 {several}; {MEND}"
    found = read_table(path, TableReading(positive=positive, skip_bad=True))
    assert (found.rows.tolist(), found.skipped) == ([1], {"empty target": 2})


def test_whether_the_target_is_read(tmp_path):
    with_target = csv_of(tmp_path / "with.csv", "a,Class", "1,yes")
    without = csv_of(tmp_path / "without.csv", "a", "1")
    assert read_table(with_target, TableReading(truth=False)).target is None
    assert read_table(with_target, TableReading(truth=False)).columns == ["a"]
    assert read_table(without, TableReading(truth=None)).target is None
    assert read_table(with_target, TableReading(truth=None, positive="yes")).target.tolist() == [1]
    assert "holds 'yes'" in message(read_table, with_target, TableReading(truth=None))
    assert message(read_table, without, PLAIN) == (
        f"{without}: no column 'Class' for the target; it has 'a'; name yours with --target"
    )


# Columns


def test_columns_by_name_in_the_wanted_order(tmp_path):
    path = csv_of(tmp_path / "t.csv", "c,Class,note,b,a", "3,1,text,2,1")
    for columns in (("a", "b", "c"), ("b", "a")):
        found = read_table(path, TableReading(columns=columns, ignored=("not there",)))
        assert found.columns == list(columns) and found.features.tolist() == [
            ["cba".index(c) * -1 + 3 for c in columns]
        ]
    sentence = message(read_table, path, TableReading(columns=("x", "a", "y")))
    assert sentence == f"{path}: no column 'x', 'y', as in training; it has 'c', 'Class', 'note', 'b', 'a'"
    assert message(read_table, path, TableReading(ignored=("note", "z"))) == (
        f"{path}: no column 'z' to leave out (--ignore_columns); it has 'c', 'Class', 'note', 'b', 'a'"
    )


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_thousands_of_columns_are_named_by_a_few(tmp_path, ending):
    frame = pandas.DataFrame(np.ones((2, 5_000)), columns=[f"V{i}" for i in range(5_000)])
    path = write(frame, tmp_path / f"t.{ending}")
    shown = ", ".join(f"'V{i}'" for i in range(8))
    sentence = message(read_table, path, PLAIN)
    assert (
        sentence == f"{path}: no column 'Class' for the target; it has {shown} and 4,992 more; name yours with --target"
    )


def test_columns_that_cannot_be_told_apart(tmp_path):
    path = csv_of(tmp_path / "t.csv", "a,b,a,Class", "1,2,3,0")
    sentence = "more than one column is called 'a'; give every column a name of its own"
    assert message(read_table, path, PLAIN) == f"{path}: {sentence}"
    arrow = pyarrow.table([[1], [2], [0]], names=["a", "a", "Class"])
    pyarrow.parquet.write_table(arrow, tmp_path / "t.parquet")
    assert message(read_table, tmp_path / "t.parquet", PLAIN) == f"{tmp_path / 't.parquet'}: {sentence}"
    assert message(table_of_arrow, arrow, "hub", PLAIN) == f"hub: {sentence}"
    frame_of(3).to_csv(path)  # with its index, which has no name
    assert message(read_table, path, PLAIN) == f"{path}: column 1 has no name; give it one, or take it out"
    assert read_table(path, TableReading(columns=("V1",))).columns == ["V1"]


def test_no_feature(tmp_path):
    path = csv_of(tmp_path / "t.csv", "a,Class", "1,0")
    assert message(read_table, path, TableReading(ignored=("a",))) == (
        f"{path}: has no column to learn from, only 'a', 'Class'"
    )


# Files


def test_files_that_cannot_be_read(tmp_path):
    for ending in ("csv", "tsv", "parquet"):
        path = tmp_path / f"t.{ending}"
        assert message(read_table, path, PLAIN) == f"{path}: no such file"
        path.touch()
        assert message(read_table, path, PLAIN) == f"{path}: the file is empty"
    for header in ("a,Class", "a,Class\n", "a,Class\n\n\n", "\n\n"):
        (tmp_path / "t.csv").write_text(header)
        assert message(read_table, tmp_path / "t.csv", PLAIN) == f"{tmp_path / 't.csv'}: the file has no rows"
    path = write(frame_of(0), tmp_path / "t.parquet")
    assert message(read_table, path, PLAIN) == f"{path}: the file has no rows"
    path.write_text("a,Class\n1,0\n")
    assert message(read_table, path, PLAIN).startswith(f"{path}: not a readable parquet file: ")
    broken = write(frame_of(5_000), tmp_path / "u.parquet").read_bytes()
    path.write_bytes(broken[:100] + b"\xff" * 20_000 + broken[20_100:])
    assert message(read_table, path, PLAIN).startswith(f"{path}: not a readable parquet file: ")
    path = csv_of(tmp_path / "t.xlsx", "a,Class")
    assert message(read_table, path, PLAIN) == f"{path}: cannot read '.xlsx'; use one of .csv, .tsv, .parquet"


def test_csv_files_that_are_no_text_or_never_close_a_quote(tmp_path, small_blocks):
    path = tmp_path / "t.csv"
    path.write_bytes("a,Class\n1,0\n".encode("utf-16"))
    assert message(read_table, path, PLAIN) == f"{path}: the header is not UTF-8 text; save the file as UTF-8"
    path.write_bytes(b"a,b,Class\n1,\xe9,0\n")
    assert message(read_table, path, PLAIN).endswith("a cell is not UTF-8 text; save the file as UTF-8")
    assert len(read_table(path, TableReading(ignored=("b",)))) == 1
    lines = "".join(f"{i},1\n" for i in range(20_000))
    path.write_text('a,Class\n1,0\n"2,1\n' + lines)
    assert "is there a quotation mark that nothing closes?" in message(read_table, path, PLAIN)
    path.write_text('a,Class\n1,0\n"2,1\n3,0\n')
    assert message(read_table, path, PLAIN).startswith(f"{path}: row 2 has 1 cells, the header has 2")
    path.write_text('a,"Class\n1,0\n' + lines)
    assert message(read_table, path, PLAIN).startswith(f"{path}: not a readable header: ")


# Copies, contradictions, fingerprints


def test_copies_and_contradictions_against_pandas():
    random = np.random.default_rng(5)
    frame = pandas.DataFrame(random.integers(-1, 2, (400, 4)).astype(float), columns=list("abcd"))
    frame["Class"] = random.integers(0, 2, 400)
    negative_zeros = np.where(random.random((400, 4)) < 0.5, -0.0, 0.0)
    found = table(np.where(frame[list("abcd")] == 0, negative_zeros, frame[list("abcd")]), frame["Class"])
    assert duplicates(found).tolist() == frame.duplicated().tolist() and duplicates(found).any()
    assert len(np.unique(found.keys())) == len(frame.drop_duplicates()) and found.keys().dtype == np.uint64
    both = frame.groupby(list("abcd"))["Class"].transform("nunique") > 1
    assert contradictions(found) == both.sum() > 0
    without = table(found.features)
    assert duplicates(without).tolist() == frame.duplicated(list("abcd")).tolist()


def test_keys_depend_on_the_place_of_a_number():
    found = table([[1, 2], [2, 1], [1, 2], [1, 2]], [0, 0, 1, 0])
    keys = found.keys().tolist()
    assert keys[0] == keys[3] and len(set(keys)) == 3
    assert duplicates(found).tolist() == [False, False, False, True] and contradictions(found) == 3
    assert contradictions(table([[1, 2], [1, 3]], [0, 1])) == 0
    assert found.take(np.array([3, 1])).keys().tolist() == [keys[3], keys[1]]


def test_fingerprints_change_with_everything_that_is_content():
    first = table([[0.0, 2], [3, 4]], [0, 1])
    assert first.fingerprint() == table([[-0.0, 2], [3, 4]], [0, 1]).fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", first.fingerprint())
    others = [
        table([[0.0, 2], [3, np.nextafter(4, 5)]], [0, 1]),
        table([[3, 4], [0.0, 2]], [1, 0]),
        table([[0.0, 2], [3, 4]], [1, 1]),
        table([[0.0, 2], [3, 4]]),
        table([[0.0, 2], [3, 4]], [0, 1], ["V0", "V2"]),
        first.take(np.array([0])),
    ]
    assert len({t.fingerprint() for t in [first, *others]}) == len(others) + 1


def test_taking_rows_keeps_where_they_come_from():
    found = table([[1.0], [2], [3]], [0, 1, 0])
    found.skipped, found.available = {"empty cell": 2}, 3
    for rows in (np.array([2, 0]), [2, 0]):
        part = found.take(rows)
        assert part.features.tolist() == [[3], [1]] and part.rows.tolist() == [3, 1] and part.target.tolist() == [0, 0]
        assert (part.available, part.skipped, part.source) == (3, {"empty cell": 2}, "t.csv")
    assert found.take(np.array([False, True, False])).rows.tolist() == [2]
    assert table([[1.0], [2]]).take(np.array([1])).target is None


def test_what_results_say_of_a_table():
    schema = json.loads((Path(common.legacy.tables.__file__).parent / "results.schema.json").read_text())
    found = table([[1.0], [2], [3]], [0, 1, 0])
    for part in (found, table([[1.0]])):
        described = describe(part, "all 3", {"copies": 1})
        jsonschema.validate(described, {**schema["$defs"]["split"], "$defs": schema["$defs"]})
        assert described["fingerprint"] == part.fingerprint() and described["statistics"] == {"copies": 1}
    described = describe(found.take(np.array([1])), "1 of 3", {})
    assert (described["examples"], described["available"], described["selection"]) == (1, 3, "1 of 3")
    assert described["label_counts"] == {"legitimate": 0, "fraud": 1}


def test_tables_that_nothing_can_be_learned_from():
    check_trainable(table([[1.0, 2], [2, 1]], [0, 1]))
    assert message(check_trainable, table([[1.0], [2]], [0, 0])).startswith("t.csv: none of the 2 rows is positive")
    assert message(check_trainable, table([[1.0], [2]], [1, 1])).startswith(
        "t.csv: every one of the 2 rows is positive"
    )
    constant = table([[1.0, 5, 7], [2, 5, 7]], [0, 1])
    assert message(check_trainable, constant) == (
        "t.csv: 'V1', 'V2' have the same value in every row, from which nothing can be learned; "
        "leave out with --ignore_columns V1 V2"
    )
    assert len(message(check_trainable, table(np.ones((2, 3_000)), [0, 1]))) < 500


# OpenML


class OpenML(BaseHTTPRequestHandler):
    """Data set 1597 as OpenML's API gives it: no Time, and the class a category in single quotes."""

    def __init__(self, files, asked, *request):
        self.files, self.asked = files, asked
        super().__init__(*request)

    def do_GET(self):
        self.asked.append(self.path)
        content = self.files.get(self.path)
        self.send_response(412 if content is None else 200)
        self.end_headers()
        self.wfile.write(content or b"{}")

    def log_message(self, *_):
        pass


@pytest.fixture
def openml(monkeypatch):
    """(Requests so far, the server's files); scikit-learn asks it in the place of openml.org and never waits."""
    files, asked = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(OpenML, files, asked))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    for name, path in (("INFO", ""), ("FEATURES", "features/"), ("QUALITIES", "qualities/")):
        monkeypatch.setattr(f"sklearn.datasets._openml._DATA_{name}", f"{base}/api/v1/json/data/{path}{{}}")
    monkeypatch.setattr("sklearn.datasets._openml.time.sleep", lambda seconds: None)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    names = ["V1", "V2", "Amount", "Class"]
    rows = [[-1.3598071336738, 0.1, 149.62, 0], [1e-3, -2.5, 0, 1], [3.0, 0.25, 7, 0]]
    lines = [",".join([*map(repr, row[:3]), f"'{row[3]}'"]) for row in rows]
    head = [*(f"@ATTRIBUTE {name} REAL" for name in names[:3]), "@ATTRIBUTE Class {'0','1'}"]
    arff = "\n".join(["@RELATION creditcard", *head, "@DATA", *lines, ""]).encode()
    info = {"id": "1597", "name": "creditcard", "version": "1", "format": "ARFF", "status": "active", "file_id": "7"}
    info |= {"description": "d", "url": f"{base}/data/v1/download/7/creditcard.arff"}
    info |= {"md5_checksum": hashlib.md5(arff).hexdigest(), "default_target_attribute": "Class"}
    features = [
        {"index": str(i), "name": name, "data_type": "nominal" if name == "Class" else "numeric"}
        | {"is_target": str(name == "Class").lower(), "is_ignore": "false", "is_row_identifier": "false"}
        for i, name in enumerate(names)
    ]
    api = "/api/v1/json/data"
    files |= {
        f"{api}/1597": json.dumps({"data_set_description": info}).encode(),
        f"{api}/features/1597": json.dumps({"data_features": {"feature": features}}).encode(),
        f"{api}/qualities/1597": json.dumps(
            {"data_qualities": {"quality": [{"name": "NumberOfInstances", "value": "3.0"}]}}
        ).encode(),
        "/data/v1/download/7/creditcard.arff": arff,
    }
    yield asked, files
    server.shutdown()
    server.server_close()


def test_a_data_set_of_openml_is_downloaded_once(openml, tmp_path):
    asked, _ = openml
    found = table_from_openml(1597, PLAIN, tmp_path)
    assert found.columns == ["V1", "V2", "Amount"] and found.source == "openml:1597"
    assert found.features.tolist() == [[-1.3598071336738, 0.1, 149.62], [1e-3, -2.5, 0], [3, 0.25, 7]]
    assert found.target.tolist() == [0, 1, 0] and found.rows.tolist() == [1, 2, 3]
    assert "/data/v1/download/7/creditcard.arff" in asked
    asked.clear()
    assert table_from_openml(1597, PLAIN, tmp_path).fingerprint() == found.fingerprint() and not asked
    assert "no column 'Time', as in training" in message(
        table_from_openml, 1597, TableReading(columns=("Time", "V1")), tmp_path
    )


def test_openml_without_the_set_or_with_another_content(openml, tmp_path):
    _, files = openml
    sentence = message(table_from_openml, 5, PLAIN, tmp_path)
    assert sentence == (
        "openml:5: this data set of OpenML cannot be loaded (Dataset with data_id 5 not found); use --demo, or give "
        "local files"
    )
    files["/data/v1/download/7/creditcard.arff"] += b"%"
    assert "checksum" in message(table_from_openml, 1597, PLAIN, tmp_path)


def test_openml_out_of_reach(openml, tmp_path, monkeypatch, recwarn):
    for name in ("INFO", "FEATURES", "QUALITIES"):
        monkeypatch.setattr(f"sklearn.datasets._openml._DATA_{name}", "http://127.0.0.1:9/{}")
    sentence = message(table_from_openml, 1597, PLAIN, tmp_path)
    assert sentence.startswith("openml:1597: OpenML cannot be reached (") and "refused" in sentence
    assert sentence.endswith("; use --demo, or give local files") and not recwarn.list


# Real data, and what is not loaded


def test_the_real_cards(shared_data, tmp_path):
    path = shared_data / "creditcard" / "creditcard_uniform.parquet"
    frame = pandas.read_parquet(path)
    found = read_table(path, PLAIN)
    assert found.columns == ["Time", *(f"V{i}" for i in range(1, 29)), "Amount"] and found.features.shape == (6698, 30)
    assert found.label_counts() == {"legitimate": 6206, "fraud": 492}
    np.testing.assert_array_equal(found.features, frame[found.columns].to_numpy())
    assert read_table(write(frame, tmp_path / "t.csv"), PLAIN).fingerprint() == found.fingerprint()
    copies = duplicates(found)
    assert copies.sum() == 19 and (found.target[copies] == 1).all()
    assert contradictions(found) == 0
    check_trainable(found)


def test_nothing_here_loads_a_framework():
    code = (
        "import sys, common.tables as t, common.table_splits as s, numpy as np; "
        "x = t.Table('', ['a'], np.arange(20.)[:, None], np.arange(20) % 2, np.arange(20), 20, {}); "
        "x.keys(); s.split_table(x, 'stratified', {'test': .3}, 0, None); "
        "assert not {'torch', 'tensorflow', 'keras', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(common.legacy.tables.__file__).parents[2])
