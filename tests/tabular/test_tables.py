"""Tables in every form that people save them, read alike; what is broken is one sentence with the file."""

import gzip
import os
import zipfile

import numpy as np
import pandas as pd
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
    elif how == "bom.csv":
        FRAME.to_csv(path, index=False, encoding="utf-8-sig")
    elif how == "utf16.csv":
        FRAME.to_csv(path, index=False, encoding="utf-16")
    elif how == "spaces.csv":
        path.write_text(FRAME.to_csv(index=False).replace(",", ", "), encoding="utf-8")
    elif how == "packed.csv.gz":
        path.write_bytes(gzip.compress(FRAME.to_csv(index=False).encode()))
    elif how == "packed.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("inside.csv", FRAME.to_csv(index=False))
    elif how == "lines.jsonl":
        FRAME.to_json(path, orient="records", lines=True)
    return path


FORMS = [
    *("comma.csv", "tab.tsv", "bar.csv", "semicolon decimal comma.csv", "german thousands.csv", "thousands.csv"),
    *("quoted decimal comma.csv", "bom.csv", "utf16.csv", "spaces.csv", "packed.csv.gz", "packed.zip", "lines.jsonl"),
    *("pandas.parquet",),
]


@pytest.mark.parametrize("rows", [4, 3])
@pytest.mark.parametrize("how", FORMS)
def test_every_form_is_the_same_table(tmp_path, how, rows):
    tables = Tables([str(saved(tmp_path, how))], rows=rows)
    parts = list(tables)
    assert [len(part) for part in parts] == ([4] if rows == 4 or how == "lines.jsonl" else [3, 1])
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


def test_the_index_of_a_saved_frame_is_known(tmp_path):
    FRAME.set_index(pd.Index([7, 3, 9, 1], name="id")).to_parquet(tmp_path / "t.parquet")
    tables = Tables([str(tmp_path / "t.parquet")])
    assert "id" in tables.whole().columns and tables.indexes == {"id"}


def test_rows_with_too_many_cells(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n3,4,5\n6,7\n", encoding="utf-8")
    assert str(path) in (said := message(Tables([str(path)]).whole)) and "line 3" in said
    tables = Tables([str(path)], skip_bad=True)
    assert tables.whole()["a"].tolist() == [1, 6] and tables.skipped == {"more cells than the header": 1}
    path.write_text("a,b\n1,2,3\n4,5,6\n", encoding="utf-8")
    for skip in (False, True):
        assert "more cells than the header" in message(Tables([str(path)], skip_bad=skip).whole)


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("t.csv", b"", "is empty"),
        ("t.csv", b"a,b\n", "no rows"),
        ("t.csv", b"a,b,a\n1,2,3\n", "'a' is there twice"),
        ("t.csv", b"a,b,a\nx,2,y\n", "'a' is there twice"),
        ("t.csv", b"a, a\n1,2\n", "'a' is there twice"),
        ("t.csv", b"a,b\n\xff\xfe,2\n", "not UTF-8"),
        ("t.csv", b'a,b\n"1,2\n', "not a readable table"),
        ("t.parquet", b"PAR1 and no more", "not a readable table"),
        ("t.csv.gz", b"not gzip", "not a readable table"),
        ("t.zip", b"not zip", "not a readable table"),
        ("t.xlsx", b"PK", ""),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    said = message(Tables([str(path)]).whole)
    assert str(path) in said and words in said


def test_what_is_no_file(tmp_path):
    assert "no such file" in message(Tables, [str(tmp_path / "none.csv")])
    assert "no such file" in message(Tables, [str(tmp_path)])
    os.mkfifo(tmp_path / "pipe.csv")  # opened, it would wait for ever
    assert "no such file" in message(Tables, [str(tmp_path / "pipe.csv")])
