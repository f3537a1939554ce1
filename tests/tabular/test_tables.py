"""Tables in every form that people save them, read alike; what is broken is one sentence with the file."""

import functools
import gzip
import http.server
import lzma
import os
import threading
import zipfile
from types import SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from common.tabular.tables import Tables
from tests.helpers import message

FRAME = pd.DataFrame(
    {
        "Time": [0.0, 10.5, 20.0, 30.0],
        "Amount": [1234.5, 7.25, 1000000.0, 0.35],
        "shop": ["a", "b", None, "a;b"],
        "Class": [0, 1, 0, 1],
    }
)


def german(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(Amount=[f"{value:,.2f}".translate(str.maketrans(",.", ".,")) for value in frame["Amount"]])


def saved(folder, how: str):
    """The frame as a file, written by pandas or by hand, and never by the code under test."""
    path = folder / how.replace(" ", "_")
    if how.endswith(".parquet"):
        FRAME.to_parquet(path)
    elif how == "comma.csv":
        FRAME.to_csv(path, index=False)
    elif how == "tab.tsv":
        FRAME.to_csv(path, index=False, sep="\t")
    elif how == "bar.csv":
        FRAME.to_csv(path, index=False, sep="|")
    elif how == "semicolon decimal comma.csv":
        FRAME.to_csv(path, index=False, sep=";", decimal=",")
    elif how == "german thousands.csv":
        german(FRAME).to_csv(path, index=False, sep=";", decimal=",")
    elif how == "thousands.csv":
        FRAME.assign(Amount=[f"{value:,.2f}" for value in FRAME["Amount"]]).to_csv(path, index=False)
    elif how == "quoted decimal comma.csv":
        FRAME.assign(Amount=[str(value).replace(".", ",") for value in FRAME["Amount"]]).to_csv(path, index=False)
    elif how == "excel.csv":
        path.write_text("sep=;\n" + FRAME.to_csv(index=False, sep=";"), encoding="utf-8-sig")
    elif how == "bom.csv":
        FRAME.to_csv(path, index=False, encoding="utf-8-sig")
    elif how == "utf16.csv":
        FRAME.to_csv(path, index=False, encoding="utf-16")
    elif how == "spaces.csv":
        path.write_text(FRAME.to_csv(index=False).replace(",", ", "), encoding="utf-8")
    elif how in ("packed.csv.gz", "packed.csv"):
        path.write_bytes(gzip.compress(FRAME.to_csv(index=False).encode()))
    elif how == "plain.csv.gz":
        path.write_text(FRAME.to_csv(index=False), encoding="utf-8")
    elif how == "packed.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("inside.csv", FRAME.to_csv(index=False))
    elif how == "lines.jsonl":
        FRAME.to_json(path, orient="records", lines=True)
    return path


FORMS = [
    *("comma.csv", "tab.tsv", "bar.csv", "semicolon decimal comma.csv", "german thousands.csv", "thousands.csv"),
    *("quoted decimal comma.csv", "bom.csv", "utf16.csv", "spaces.csv", "packed.csv.gz", "packed.zip", "lines.jsonl"),
    *("pandas.parquet", "excel.csv", "packed.csv", "plain.csv.gz"),
]


@pytest.mark.parametrize("block", [1_000, 60])
@pytest.mark.parametrize("how", FORMS)
def test_every_form_is_the_same_table(tmp_path, how, block):
    tables = Tables([str(saved(tmp_path, how))], block=block)
    parts = list(tables)
    assert (len(parts) > 1) == (block < 100 and how not in ("lines.jsonl", "pandas.parquet"))
    found = tables.whole()
    assert list(found.columns) == list(FRAME.columns)
    assert [row for _, row in found.index] == [1, 2, 3, 4]
    rounded = FRAME["Amount"].round(2) if "thousands" in how else FRAME["Amount"]
    assert found["Amount"].astype(float).tolist() == rounded.tolist()
    assert found["Time"].astype(float).tolist() == FRAME["Time"].tolist()
    assert found["Class"].astype(int).tolist() == FRAME["Class"].tolist()
    assert found["shop"].isna().tolist() == [False, False, True, False] and found["shop"].iloc[3] == "a;b"


def test_several_files_and_globs_in_order_with_their_own_rows(tmp_path):
    FRAME[:3].to_csv(tmp_path / "b.csv", index=False)
    FRAME[3:][[*FRAME.columns[::-1]]].to_csv(tmp_path / "a.csv", index=False)
    tables = Tables([str(tmp_path / "*.csv")])
    found = tables.whole()
    assert [(os.path.basename(file), row) for file, row in found.index] == [
        ("a.csv", 1),
        *(("b.csv", n) for n in (1, 2, 3)),
    ]
    assert found["Time"].tolist() == [30.0, 0.0, 10.5, 20.0] and "a.csv, " in tables.source
    FRAME.rename(columns={"shop": "store"}).to_csv(tmp_path / "c.csv", index=False)
    assert "other columns" in message(Tables([str(tmp_path / "*.csv")]).whole)


def test_numbers_are_exact(tmp_path):
    numbers = np.random.default_rng(0).standard_normal(2000) * 10.0 ** np.arange(-100, 100).repeat(10)
    pd.DataFrame({"a": numbers, "b": 1}).to_csv(tmp_path / "t.csv", index=False)
    assert Tables([str(tmp_path / "t.csv")]).whole()["a"].tolist() == numbers.tolist()


@pytest.mark.parametrize(
    "cells, numbers",
    [
        (["1,234.50", "7", "-8.25", "9"], [1234.5, 7, -8.25, 9]),
        (["1.234,50", "7,25", "8", "9"], [1234.5, 7.25, 8, 9]),
        (["1 234,50", "7,25", "1\xa0000,5", "-9"], [1234.5, 7.25, 1000.5, -9]),
        (["1'234.50", "12\u2019000", "8", "9"], [1234.5, 12000, 8, 9]),
        ([" 7", "-8.5 ", "+9", "1e5"], [7, -8.5, 9, 1e5]),
        (["0,350", "0,125", "0,5", "12,000"], [0.35, 0.125, 0.5, 12]),
        (["99999999999999999999", "1", "2", "3"], None),
        (["007", "012", "-1", "9"], None),
        (["0x1f", "1", "2", "3"], None),
        (["2199023255552000000", "1", "0", "-3"], [2199023255552000000, 1, 0, -3]),
        (["$1,234.50", "$7", "-$8.25", "$-9"], [1234.5, 7, -8.25, -9]),
        (["\u20ac 3,10", "1.200,00 \u20ac", "-5,00\u20ac", "7"], [3.1, 1200, -5, 7]),
        (["15 %", "3%", "7.5 %", "-2 %"], [15, 3, 7.5, -2]),
        (["\u20b91,23,456.00", "12,34,567", "\u20b95", "7.5"], [123456, 1234567, 5, 7.5]),
        (["$5", "\u20ac7", "$8", "\u20ac9"], None),
        (["none", "#NULL!", ".", "1.5"], [np.nan, np.nan, np.nan, 1.5]),
        (["(12.50)", "7.25-", "8", "9"], None),
        (["31.01.2024", "01.02.2024", "02.02.2024", "03.02.2024"], None),
        (["REF12", "REF7", "REF8", "REF9"], None),
        (["-", "-", "-", "."], [np.nan] * 4),
        (["--", "$", "1,234.5", ",5"], None),
    ],
)
def test_numbers_as_people_write_them(tmp_path, cells, numbers):
    path, frame = tmp_path / "t.csv", pd.DataFrame({"a": cells * 3, "b": range(12)})
    frame.to_csv(path, index=False)
    np.testing.assert_equal(Tables([str(path)]).whole()["a"].tolist(), (cells if numbers is None else numbers) * 3)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_id_keeps_its_digits_though_a_cell_is_empty(tmp_path, kind):
    """pandas makes floats of such a column: 8743247235686219852 would come out as 8.74324723568622e+18."""
    ids = pd.DataFrame({"id": pd.array([8743247235686219852, None, 12], dtype="Int64"), "V": [1.5, 2.5, 3.5]})
    path = tmp_path / f"t.{kind}"
    ids.to_csv(path, index=False) if kind == "csv" else ids.to_parquet(path)
    found = Tables([str(path)]).whole()
    assert found["id"].to_csv(index=False).split() == ["id", "8743247235686219852", '""', "12"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_words_for_an_empty_cell_mean_it_in_every_form(tmp_path, kind):
    words = ["", "NA", "\\N", "NaT", "Null", "nan", "None"]
    frame, path = pd.DataFrame({"a": ["1.5", *words, "2"], "b": ["x", *words, "y"]}), tmp_path / f"t.{kind}"
    write = {"csv": frame.to_csv, "parquet": frame.to_parquet}.get(kind)
    write(path, index=False) if write else frame.to_json(path, orient="records", lines=True)
    assert Tables([str(path)]).whole().isna().to_numpy().tolist() == [[False] * 2, *[[True] * 2] * 7, [False] * 2]


def test_texts_that_a_parquet_file_has_as_bytes(tmp_path):
    path = tmp_path / "t.parquet"
    for cells, found in (([b"a", None, "ü".encode()], ["a", None, "ü"]), ([b"\xff"], "not a readable table")):
        pa.parquet.write_table(pa.table({"a": pa.array(cells, pa.binary())}), path)
        tables = Tables([str(path)])
        said = (
            message(tables.whole)
            if isinstance(found, str)
            else tables.whole()["a"].astype(object).replace(np.nan, None)
        )
        assert found in said if isinstance(found, str) else said.tolist() == found


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_amounts_written_as_text_are_numbers_in_every_form(tmp_path, kind):
    frame, path = pd.DataFrame({"a": ["$1,200.50", "none", "$7"], "b": ["x", None, "y"]}), tmp_path / f"t.{kind}"
    write = {"csv": frame.to_csv, "parquet": frame.to_parquet}.get(kind)
    write(path, index=False) if write else frame.to_json(path, orient="records", lines=True)
    np.testing.assert_equal(Tables([str(path)]).whole()["a"].tolist(), [1200.5, np.nan, 7.0])


def test_columns_that_only_parquet_and_json_have(tmp_path):
    """Lists stay what they are, texts may have lines, categories and cells of several types are read as texts."""
    several = pd.DataFrame({"a": [[1, 2], [3]], "b": ["one\ntwo", "NA"], "c": pd.Categorical(["1,000", "2"])})
    several.to_parquet(tmp_path / "t.parquet")
    found = Tables([str(tmp_path / "t.parquet")]).whole()
    assert found["c"].tolist() == [1000.0, 2.0] and found["b"].iloc[0] == "one\ntwo" and pd.isna(found["b"].iloc[1])
    assert [len(cell) for cell in found["a"]] == [2, 1]
    for name in ("t.jsonl", "t.ndjson"):
        (tmp_path / name).write_text('{"a": 1.5}\n{"a": "NA"}\n{"a": "2"}\n', encoding="utf-8")
        np.testing.assert_equal(Tables([str(tmp_path / name)]).whole()["a"].tolist(), [1.5, np.nan, 2.0])
    assert "is there twice" in message(Tables, [str(tmp_path / "t.jsonl"), f"{tmp_path}/./t.jsonl"])


def test_addresses(tmp_path, monkeypatch):
    forms = ("comma.csv", "packed.csv.gz", "packed.zip", "lines.jsonl", "pandas.parquet")
    names = [saved(tmp_path, how).name for how in forms]
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    url, args = f"http://127.0.0.1:{server.server_port}", SimpleNamespace(cache_dir=str(tmp_path / "cache"))
    try:
        for name in names:
            tables = Tables([f"{url}/{name}?key=secret"], args)
            assert tables.whole()["Time"].tolist() == FRAME["Time"].tolist()
            assert tables.whole().index[3] == (f"{url}/{name}?***", 4) and tables.source == f"{url}/{name}?***"
        assert message(Tables, [f"{url}/gone.csv"], args).startswith(f"{url}/gone.csv: this file cannot be loaded")
    finally:
        server.shutdown()
        server.server_close()


def test_one_decimal_comma_decides_for_the_file(tmp_path):
    """1.234 alone could be either."""
    path = tmp_path / "t.csv"
    path.write_text("a;b\n1.234;7\n5.678;1 234,5\n", encoding="utf-8")
    assert Tables([str(path)]).whole().to_numpy().tolist() == [[1234, 7], [5678, 1234.5]]
    path.write_text("a;b\n1.234;7\n5.678;1 234.5\n", encoding="utf-8")
    assert Tables([str(path)]).whole().to_numpy().tolist() == [[1.234, 7], [5.678, 1234.5]]


def test_a_mistake_among_amounts_changes_no_other_cell(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a,b\n"1,200.50",1\n' + '"1,000",2\n' * 20 + "n/k,3\n?,4\n", encoding="utf-8")
    assert Tables([str(path)]).whole()["a"].tolist()[:-1] == [1200.5, *[1000.0] * 20, "n/k"]
    assert Tables([str(path)]).whole()["a"].isna().sum() == 1


def test_the_index_of_a_saved_frame_is_known(tmp_path):
    FRAME.set_index(pd.Index([7, 3, 9, 1], name="id")).to_parquet(tmp_path / "t.parquet")
    tables = Tables([str(tmp_path / "t.parquet")])
    assert "id" in tables.whole().columns and tables.indexes == {"id"}


@pytest.mark.parametrize("block", [20, 1_000])
@pytest.mark.parametrize("end, cells", [("8", 1), ("(2 rows affected)", 1), ("9,", 2), ("1,2,3,4", 4)])
def test_rows_with_too_few_or_too_many_cells_are_refused(tmp_path, end, cells, block):
    """As a download that was cut leaves; a cell that is there and empty is another thing."""
    path = tmp_path / "t.csv"
    good = 'a,b,c\n1,"x,y",\n\n2,3,4\n5,6,\n'
    path.write_text(good, encoding="utf-8")
    assert Tables([str(path)], block=block).whole()["a"].tolist() == [1, 2, 5]
    path.write_text(good + end, encoding="utf-8")
    said = message(Tables([str(path)], block=block).whole)
    assert said == f"{path}, row 4: has {cells} cells, but the header has 3; mend it"


def test_of_several_files_in_one_none_is_chosen(tmp_path):
    path = tmp_path / "t.zip"
    for inside, words in (
        (["a.csv"], None),
        (["a.csv", "__MACOSX/._a.csv", ".DS_Store"], None),
        (["a.csv", "b.csv"], "must hold one csv, but holds a.csv, b.csv; unpack it"),
        ([], "must hold one csv, but holds nothing; unpack it"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            for name in inside:
                archive.writestr(name, FRAME.to_csv(index=False))
        if words:
            assert words in message(Tables([str(path)]).whole)
        else:
            assert Tables([str(path)]).whole()["Time"].tolist() == FRAME["Time"].tolist()


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("t.csv", b"", "is empty"),
        ("t.csv", b"a,b\n", "no rows"),
        ("t.csv", b"a,b,a\n1,2,3\n", "'a' is there twice"),
        ("t.csv", b"a,b,a\nx,2,y\n", "'a' is there twice"),
        ("t.csv", b"a, a\n1,2\n", "'a' is there twice"),
        ("t.csv", b"a,b\n\xff\xfe,2\n", "can't decode byte 0xff"),
        ("t.csv", b"a,b\n" + 9_000 * b"1,2\n" + b"\xff,2\n", "invalid UTF8"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16-le"), "not UTF-8"),
        ("t.csv", "a,b\n1,2\n".encode("utf-32"), "not UTF-8"),
        ("t.csv", b'a,b\n1,2\n3,"4\n5,6\n', "b holds '4\\n5,6': a line break, or a quote that does not close"),
        ("t.parquet", b"PAR1 and no more", "not a readable table"),
        ("t.csv.gz", b"not gzip", "not a readable table"),
        ("t.zip", b"not zip", "not a readable table"),
        ("t.csv.xz", lzma.compress(b"a,b\n1,2\n" * 99)[:40] + bytes(60), "not a readable table"),
        ("t.xlsx", b"PK\x03\x04\x14\0\x06\0\x08\0", "save it as csv"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    said = message(Tables([str(path)]).whole)
    assert str(path) in said and words in said


def test_what_is_no_file(tmp_path):
    assert "no such file" in message(Tables, [str(tmp_path / "none.csv")])
    (tmp_path / "once.csv").write_text("a,Class\n1,0\n")
    assert "is there twice" in message(Tables, [str(tmp_path / "once.csv"), str(tmp_path / "on*.csv")])
    os.mkfifo(tmp_path / "pipe.csv")  # opened, it would wait for ever
    for path in (tmp_path, tmp_path / "pipe.csv"):
        assert message(Tables, [str(path)]) == f"{path}: is a folder, pipe or device, not a file"
