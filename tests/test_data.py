"""Files read to the cell, errors that name the place; splits, samples, fingerprints, overlaps by what they promise."""

import csv
import functools
import gzip
import http.server
import io
import json
import os
import threading
import zipfile
from types import SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.data import Splits, describe, fingerprint, load_splits, overlaps, select
from common.errors import UserError
from common.files import read_files, require_columns, where, without_bad
from tests.helpers import message

# What breaks naive readers: separators, quotes and all kinds of line breaks inside a cell, and what looks like one.
CELLS = [
    "plain",
    "",
    " spaces kept ",
    "comma, semicolon; pipe | tab\there",
    'a "quoted" word',
    '"',
    "two\nlines",
    "windows\r\nlines",
    "old\rmac",
    "\n",
    "line\u2028separator\u2029paragraph\x85next\x0bvertical\x0cform",
    "کتاب‌ها ۱۲۳",  # noqa: RUF001
    "👩‍👩‍👧",
    "\ufeffbom inside",
    "007",
    "NA",
    "1e5",
    "x" * 200_000,  # more than the csv module takes by default
]
ROWS = [{"id": str(i), "text": cell, "other": CELLS[-2 - i]} for i, cell in enumerate(CELLS[:-1])]
ROWS.append({"id": "last", "text": CELLS[-1], "other": ""})
ENDINGS = ("csv", "tsv", "json", "jsonl", "parquet")

cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def rows_of(frame: pd.DataFrame) -> list[dict]:
    return [
        {name: None if value is None or value != value else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]


def read(path) -> list[dict]:
    return rows_of(read_files(path))


def write_delimited(path, rows, delimiter=",", line_end="\n", encoding="utf-8"):
    text = io.StringIO(newline="")
    # Python's writer quotes a lone carriage return only where it is part of its line end; others always do.
    quoting = csv.QUOTE_MINIMAL if "\r" in line_end else csv.QUOTE_ALL
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))


def write(path, rows):
    """In the format of the path's ending."""
    ending = path.suffix[1:]
    if ending in ("csv", "tsv"):
        write_delimited(path, rows, "," if ending == "csv" else "\t")
    elif ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif ending == "json":
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    else:  # with the characters themselves: U+2028 and U+0085 end no line
        path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    return path


# Reading


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "name, delimiter", [("r.csv", ","), ("r.tsv", "\t"), ("R.CSV", ";"), ("r.csv", "|"), ("r.csv", "\t")]
)
def test_delimited_files_keep_every_character_of_every_cell(tmp_path, name, delimiter, line_end, encoding):
    write_delimited(tmp_path / name, ROWS, delimiter, line_end, encoding)
    assert read(tmp_path / name) == ROWS


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.fixed_dictionaries({"a": cells, "b": cells, "c": st.just("0")}), min_size=1, max_size=5))
def test_any_cell_comes_back_from_every_format(tmp_path, rows):
    for ending in ENDINGS:
        assert read(write(tmp_path / f"r.{ending}", rows)) == rows, ending


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.sampled_from('ab,"\t\n\r; |{}[]:1\\u'), max_size=40) | st.text(max_size=30),
    ending=st.sampled_from(["csv", "tsv", "json", "jsonl"]),
)
def test_whatever_is_in_a_file_gives_rows_or_one_sentence(tmp_path, text, ending):
    path = tmp_path / f"r.{ending}"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        frame = read_files(path)
    except UserError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    else:
        assert len(frame) and frame.columns.is_unique and where(frame, 0) == f"{path}, row 1"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.floats(0, 1),
    byte=st.integers(1, 255),
    cut=st.booleans(),
    name=st.sampled_from(["r.parquet", "r.json.gz", "r.zip"]),
)
def test_damage_gives_one_sentence_or_rows(tmp_path, place, byte, cut, name):
    write(tmp_path / "r.parquet", ROWS[:10])
    (tmp_path / "r.json.gz").write_bytes(gzip.compress(json.dumps(ROWS[:10]).encode()))
    with zipfile.ZipFile(tmp_path / "r.zip", "w") as archive:
        archive.writestr("r.json", json.dumps(ROWS[:10]))
    content = bytearray((tmp_path / name).read_bytes())
    at = int(place * (len(content) - 1))
    content[at] ^= byte
    (tmp_path / name).write_bytes(content[:at] if cut else content)
    try:
        assert len(read_files(tmp_path / name)) == 10
    except UserError as error:
        assert str(error).startswith(f"{tmp_path / name}: ") and "\n" not in str(error)


def test_a_row_knows_its_file_and_number(tmp_path):
    write(tmp_path / "a.csv", ROWS[:3])
    write(tmp_path / "b.jsonl", ROWS[3:5])
    frame = read_files([str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl")])
    assert [where(frame, i) for i in (0, 2, 3)] == [
        f"{tmp_path}/{place}" for place in ("a.csv, row 1", "a.csv, row 3", "b.jsonl, row 1")
    ]
    assert where(frame[frame["id"] == "4"], 0) == f"{tmp_path / 'b.jsonl'}, row 2"
    assert rows_of(frame) == ROWS[:5]
    assert frame.attrs["source"] == f"2 files: {tmp_path / 'a.csv'}, {tmp_path / 'b.jsonl'}"


def test_globs_and_several_files(tmp_path):
    for i in range(6):
        write(tmp_path / f"part-{i}.csv", [ROWS[i]])
    frame = read_files(f"{tmp_path}/part-*.csv")
    assert (
        rows_of(frame) == ROWS[:6] and frame.attrs["source"].startswith("6 files: ") and "..." in frame.attrs["source"]
    )
    assert read([f"{tmp_path}/part-[01].csv", f"{tmp_path}/part-5.csv"]) == [ROWS[i] for i in (0, 1, 5)]
    assert "no file has such a name" in message(read_files, f"{tmp_path}/none-*.csv")
    write(tmp_path / "part-[x].csv", [ROWS[7]])  # a name, not a glob
    assert read(tmp_path / "part-[x].csv") == [ROWS[7]]
    write(tmp_path / "other.csv", [{"id": "1", "text": "x", "label": "y"}])
    sentence = message(read_files, [f"{tmp_path}/part-0.csv", f"{tmp_path}/other.csv"])
    assert "must have the same columns" in sentence and "'label', 'other'" in sentence


@pytest.mark.parametrize("ending", ENDINGS)
def test_compressed_files(tmp_path, ending):
    content = write(tmp_path / f"r.{ending}", ROWS).read_bytes()
    (tmp_path / f"r.{ending}.gz").write_bytes(gzip.compress(content))
    with zipfile.ZipFile(tmp_path / "r.zip", "w") as archive:
        archive.writestr(f"folder/r.{ending}", content)
        archive.writestr(f"__MACOSX/folder/._r.{ending}", b"x")
    assert read(tmp_path / f"r.{ending}.gz") == read(tmp_path / "r.zip") == ROWS
    # What a browser unpacked under its old name, and the reverse.
    (tmp_path / f"r.{ending}.gz").write_bytes(content)
    (tmp_path / f"r.{ending}").write_bytes(gzip.compress(content))
    assert read(tmp_path / f"r.{ending}.gz") == read(tmp_path / f"r.{ending}") == ROWS
    with zipfile.ZipFile(tmp_path / "r.zip", "a") as archive:
        archive.writestr("folder/.DS_Store", b"x")
    (tmp_path / f"r.{ending}").write_bytes((tmp_path / "r.zip").read_bytes())  # a zip, too
    assert read(tmp_path / "r.zip") == read(tmp_path / f"r.{ending}") == ROWS
    with zipfile.ZipFile(tmp_path / "r.zip", "a") as archive:
        archive.writestr("another.csv", content)
    assert "must hold one file, but holds 2" in message(read_files, tmp_path / "r.zip")


def test_other_endings_of_the_same_formats(tmp_path):
    for ending, other in (("jsonl", "ndjson"), ("parquet", "pq")):
        write(tmp_path / f"r.{ending}", ROWS).rename(tmp_path / f"R.{other.upper()}")
        assert read(tmp_path / f"R.{other.upper()}") == ROWS


@pytest.mark.parametrize("mark", [";", ",", "\t"])
def test_a_line_about_the_separator_is_no_header(tmp_path, mark):
    path = tmp_path / "r.csv"
    for first in (f"sep={mark}", f'"sep={mark}"', f"\ufeffsep={mark}"):
        path.write_bytes(f"{first}\r\na{mark}b\r\n1{mark}2\r\n".encode())
        assert read(path) == [{"a": "1", "b": "2"}]
    path.write_text(f"sep={mark}\na{mark}b\n1\n")
    assert message(read_files, path) == f"{path}: line 3 has 1 cells, the header has 2"


def test_addresses(tmp_path, monkeypatch):
    write(tmp_path / "r.csv", ROWS)
    (tmp_path / "r.json.gz").write_bytes(gzip.compress(json.dumps(ROWS).encode()))
    args = SimpleNamespace(cache_dir=str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        assert rows_of(read_files(f"{url}/r.csv?download=true", args)) == ROWS
        secret = f"{url.replace('//', '//me:password@')}/r.csv?key=secret"
        frame, shown = read_files(secret, args), f"{url.replace('//', '//***@')}/r.csv?***"
        assert rows_of(frame) == ROWS and (frame.attrs["source"], where(frame, 0)) == (shown, f"{shown}, row 1")
        assert message(read_files, secret.replace("r.csv", "gone.csv"), args).startswith(shown.replace("r.", "gone."))
        assert rows_of(read_files([f"{url}/r.json.gz"], args)) == ROWS
        write(tmp_path / "r é.csv", ROWS)
        assert rows_of(read_files(f"{url}/r é.csv", args)) == ROWS
        quiet.send_header = lambda self, name, value: super(quiet, self).send_header(
            name, "999999999" if name == "Content-Length" else value
        )
        assert "not completed" in message(read_files, f"{url}/r.csv", args)
        del quiet.send_header
        write(tmp_path / "r.csv", ROWS[:2])
        quiet.end_headers = lambda self: (self.send_header("ETag", "new"), super(quiet, self).end_headers())
        assert len(read_files(f"{url}/r.csv?download=true", args)) == 2, "a new version is fetched"
        for odd in ("http://[/r.csv", f"{url}/gone.csv"):
            assert message(read_files, odd, args).startswith(f"{odd}: this file cannot be loaded")
    finally:
        server.shutdown()
        server.server_close()
    assert "cannot be loaded" in message(read_files, f"{url}/r.csv", args)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_line_ends_of_all_systems(tmp_path, line_end):
    (tmp_path / "r.csv").write_bytes(line_end.join(["a,b", "1,2", "", "3,4", ""]).encode())
    (tmp_path / "r.jsonl").write_bytes(
        ("\ufeff" + line_end.join(['{"a": "1", "b": "2"}', "", '{"a": "3", "b": "4"}'])).encode()
    )
    assert read(tmp_path / "r.csv") == read(tmp_path / "r.jsonl") == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_blanks_beside_the_separators(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text('premise, hypothesis , label\n"one, two", "three ""four""", yes\nfive,six,no\n')
    assert read(path) == [
        {"premise": "one, two", "hypothesis": 'three "four"', "label": "yes"},
        {"premise": "five", "hypothesis": "six", "label": "no"},
    ]
    path.write_text("a,b\n 1, 2\n")
    assert read(path) == [{"a": " 1", "b": " 2"}]


def test_the_separator_is_that_of_the_header(tmp_path):
    path = tmp_path / "r.csv"
    for text, rows in (
        ("a\tb,c\n1,2\n", [{"a\tb": "1", "c": "2"}]),
        ("a;b,c\n1,2\n", [{"a;b": "1", "c": "2"}]),
        ('"a, b";c;d\n1;2;3\n', [{"a, b": "1", "c": "2", "d": "3"}]),
        ("a\n1\t2\n", [{"a": "1\t2"}]),
        (",a\n0,1\n", [{"Unnamed: 0": "0", "a": "1"}]),
        ("\n\r\na;b;c\n\n1;2;3\n", [{"a": "1", "b": "2", "c": "3"}]),
    ):
        path.write_text(text)
        assert read(path) == rows


# As GLUE writes: no quoting at all, so quotes are characters wherever they stand.
UNQUOTED = {
    "a quote that nothing closes": [('"Yes', "b", "c"), ("d", "e", "f")],
    "text behind a closing quote": [('"Yes" he said', "b", "c")],
    "a quote at the end of a cell": [("a", 'said "yes"', "c"), ("d", "e", 'f"')],
    "a pair of quotes with whole lines between them": [('"Yes', "b", "c"), ("d", "e", "f"), ('she said."', "h", "i")],
    "other line breaks inside a cell": [('"one\u2028two\x85three\x0b', "b", "c")],
}


@pytest.mark.parametrize("ending", ["tsv", "csv"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("rows", UNQUOTED.values(), ids=UNQUOTED)
def test_tab_separated_files_without_quoting(tmp_path, rows, line_end, ending):
    path = tmp_path / f"rows.{ending}"
    path.write_bytes("".join("\t".join(cells) + line_end for cells in [("x", "y", "z"), *rows]).encode())
    assert read(path) == [dict(zip("xyz", cells)) for cells in rows]


def test_quotes_that_are_quotes_stay_quotes(tmp_path):
    """Where some line has another number of cells, quoting is meant; what is wrong with it is said."""
    path = tmp_path / "rows.tsv"
    path.write_text('x\ty\n"one\ntwo"\t"a\tb"\n"""c"""\td\n')
    assert read(path) == [{"x": "one\ntwo", "y": "a\tb"}, {"x": '"c"', "y": "d"}]
    path.write_text('x\ty\n1\t2\n"open\t3\n4\n')
    assert message(read_files, path).startswith(f"{path}: the row that begins at line 3: ")
    path = tmp_path / "rows.csv"  # between commas there is no such guess
    path.write_text('x,y\n"Yes" he said,b\n')
    assert message(read_files, path).startswith(f"{path}: the row that begins at line 2: ")


def test_json_keeps_types_in_all_its_forms(tmp_path):
    rows = [{"id": 1, "x": None, "nested": {"text": ["é"], "start": [0]}}, {"id": 2, "x": 0.5, "nested": {}}]
    path = tmp_path / "r.json"
    lines = "\n".join(map(json.dumps, rows))
    for content in (
        json.dumps(rows),
        json.dumps({"version": 1, "data": rows}, indent=1),
        json.dumps({"data": rows}),
        lines,
    ):
        path.write_text(content)
        assert read(path) == rows
    path.write_text(lines.splitlines()[0])
    assert read(path) == rows[:1]
    for indent in (None, 1):  # one list, whatever the file is called
        (tmp_path / "r.jsonl").write_text(json.dumps(rows, indent=indent))
        assert read(tmp_path / "r.jsonl") == rows
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"data": [{"paragraphs": []}]}).encode())
    assert read(path) == [{"paragraphs": []}]


def test_rows_of_json_need_not_all_have_the_same_keys(tmp_path):
    path = write(tmp_path / "r.jsonl", [{"a": 1}, {"b": True, "a": 2}])
    frame = read_files(path)
    assert rows_of(frame) == [{"a": 1, "b": None}, {"a": 2, "b": True}] and type(frame["a"].iloc[0]) is int


def test_parquet_keeps_types_and_names_the_classes_of_its_schema(tmp_path):
    rows = {
        "n": [3, None],
        "x": [0.5, -1.25],
        "s": ["a", None],
        "list": [[1, 2], []],
        "answers": [{"text": ["q"]}, None],
    }
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "r.parquet")
    assert read(tmp_path / "r.parquet") == [dict(zip(rows, values)) for values in zip(*rows.values())]
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    saved = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, -1, 0]}, features=features)
    saved.to_parquet(tmp_path / "c.parquet")
    frame = read_files(tmp_path / "c.parquet")
    assert [row["label"] for row in rows_of(frame)] == ["yes", None, "no"]
    assert frame.attrs["label_names"] == {"label": ["no", "yes"]}
    saved.cast_column("label", datasets.ClassLabel(names=["yes", "no"])).to_parquet(tmp_path / "d.parquet")
    both = read_files([tmp_path / "c.parquet", tmp_path / "d.parquet"])
    assert [row["label"] for row in rows_of(both)] == ["yes", None, "no", "no", None, "yes"], "each by its own names"


def test_real_tables_have_the_rows_their_readme_counts(shared_data):
    path = shared_data / "mnli" / "mnli_train_genre_480.tsv"
    rows, lines = read(path), path.read_text("utf-8").removesuffix("\n").split("\n")
    assert ["\t".join(row.values()) for row in rows] == lines[1:] and "\t".join(rows[0]) == lines[0]
    assert len(read_files(shared_data / "mnli" / "mnli_dev_matched.jsonl")) == 9815
    fraud = read_files(shared_data / "creditcard" / "creditcard_uniform.parquet")
    assert (len(fraud), fraud["Class"].sum()) == (6698, 492)
    labels = read_files(shared_data / "farstail" / "Train-word.csv")["label"].value_counts()
    assert [labels[name] for name in "ecn"] == [2429, 2389, 2448]


# Errors


def test_what_is_not_a_file(tmp_path):
    for ending in ENDINGS:
        path = tmp_path / f"rows.{ending}"
        assert message(read_files, path) == f"{path}: no such file"
        path.touch()
        assert message(read_files, path) == f"{path}: the file is empty"
        path.unlink()
        path.mkdir()
        assert message(read_files, path) == f"{path}: is a folder, pipe or device, not a file"
    for name in ("pipe.csv", "pipe.json.gz"):
        os.mkfifo(tmp_path / name)
        assert message(read_files, tmp_path / name) == f"{tmp_path / name}: is a folder, pipe or device, not a file"
    assert "is a folder, pipe or device" in message(read_files, "/dev/zero")
    (tmp_path / "rows.xlsx").write_text("x")
    sentence = message(read_files, tmp_path / "rows.xlsx")
    assert "'.xlsx'" in sentence and all(f".{ending}" in sentence for ending in ENDINGS)


@pytest.mark.parametrize(
    "name, content", [("h.csv", "a,b\n"), ("n.csv", "\n\n"), ("e.json", "[]"), ("b.jsonl", "\n \n"), ("b.json", "[{}]")]
)
def test_files_without_rows(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert message(read_files, tmp_path / name) == f"{tmp_path / name}: the file has no rows"


REMEDY = "rename or remove one"
QUOTES = "in a quoted cell, a quote is written twice"
NO_NAME = "Expecting property name enclosed in double quotes"
DIGITS = "a number has too many digits, or lists are nested too deeply, to be read"


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("r.csv", "a,b,c\n1,2,3\n1,2\n", "line 3 has 2 cells, the header has 3"),
        ("r.csv", "a,b,c\n1,2,3,4\n", "line 2 has 4 cells, the header has 3"),
        ("r.csv", 'a,b,c\n"one\ntwo\nthree",2,3\n\n1\n', "line 6 has 1 cells, the header has 3"),
        ("r.csv", 'a,b\n1,"never\n closed\n\n\n', f"the row that begins at line 2: unexpected end of data; {QUOTES}"),
        ("r.csv", 'a,b\n"say \\"hi\\"",2\n', f"the row that begins at line 2: ',' expected after '\"'; {QUOTES}"),
        ("r.csv", "a,b, a\n1,2,3\n", f"the column 'a' is there twice; {REMEDY}"),
        ("r.json", '[{"a": 1},\n {"a": 1, "b": 2, "a": 3}]', f"the key 'a' is there twice; {REMEDY}"),
        ("r.jsonl", '{"a": 1}\n{"b": {"c": 1, "c": 2}}', f"line 2: the key 'c' is there twice; {REMEDY}"),
        ("r.json", '[\n  {"a": 1},\n  {"a": oops}\n]', "broken json at line 3, column 9: Expecting value"),
        ("r.jsonl", '{"a": 1}\r\n\r\n{"a": 1,, }\n', f"broken json at line 3, column 9: {NO_NAME}"),
        ("r.jsonl", '{"a": 1}\n\n[1, 2]\n', "line 3 is not an object with named columns"),
        ("r.json", '[{"a": 1}, 2]', 'a json file must hold a list of rows, or an object with the rows under "data"'),
        ("r.json", '{\n"a": 1}', 'a json file must hold a list of rows, or an object with the rows under "data"'),
        ("r.json", '{"a": {"0": 1}}', 'a json file must hold a list of rows, or an object with the rows under "data"'),
        ("r.csv", "a,b\n1,\0\n", "not UTF-8 text (byte 6); save it as UTF-8"),
        ("r.json", '[\n{"a": ' + "9" * 5000 + "}]", DIGITS),
        ("r.jsonl", '{"a": 1}\n{"a": ' + "9" * 5000 + "}", f"line 2: {DIGITS}"),
        ("r.json", "[" * 200_000, DIGITS),
        ("r.jsonl", '{"a":' * 200_000, f"line 1: {DIGITS}"),
        (
            "r.jsonl",
            '{"a": "fine \\ud83d\\ude00"}\n{"a": "he said \\ud83d!"}',
            "line 2: half of a surrogate pair, which is no character, after '{\"a\": \"he said '; remove it",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_inside_names_the_place(tmp_path, name, content, sentence):
    path = tmp_path / name
    path.write_bytes(content.encode())
    assert message(read_files, path) == f"{path}: {sentence}"


def test_other_encodings_are_said_to_be_other(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes("a,b\ncafé,1\n".encode("latin-1"))
    assert message(read_files, path) == f"{path}: not UTF-8 text (byte 7); save it as UTF-8"


def test_a_parquet_file_with_texts_that_are_no_utf8(tmp_path):
    good = pyarrow.array(["ab", "cd"])
    bad = pyarrow.StringArray.from_buffers(2, good.buffers()[1], pyarrow.py_buffer(b"\xff\xfecd"))
    pyarrow.parquet.write_table(pyarrow.table({"a": good, "b": bad}), tmp_path / "r.parquet")
    assert "Invalid UTF8" in message(read_files, tmp_path / "r.parquet")


def test_a_class_of_a_schema_that_has_no_name_stays_a_number(tmp_path):
    features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pyarrow.table({"label": [1, 7, -1]}).replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, tmp_path / "r.parquet")
    assert [row["label"] for row in read(tmp_path / "r.parquet")] == ["yes", 7, None]


def test_a_parquet_file_with_a_column_of_a_type_that_datasets_does_not_know(tmp_path):
    pairs = pyarrow.array([[("k", 1)], []], pyarrow.map_(pyarrow.string(), pyarrow.int32()))
    pyarrow.parquet.write_table(pyarrow.table({"a": ["x", "y"], "m": pairs}), tmp_path / "r.parquet")
    assert read(tmp_path / "r.parquet") == [{"a": "x", "m": [("k", 1)]}, {"a": "y", "m": []}]


def test_a_parquet_file_with_a_column_twice(tmp_path):
    table = pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], names=["a", "a"])
    pyarrow.parquet.write_table(table, tmp_path / "r.parquet")
    assert "the column 'a' is there twice" in message(read_files, tmp_path / "r.parquet")


def test_a_file_given_twice_and_tables_of_many_columns(tmp_path):
    path = write(tmp_path / "r.csv", ROWS)
    assert f"the file '{path}' is there twice" in message(read_files, [path, path])
    (tmp_path / "wide.csv").write_text(",".join(f"c{i}" for i in range(20_000)) + "\n" + "," * 19_999)
    (tmp_path / "link.csv").symlink_to(path)
    for other in (f"{tmp_path}/../{tmp_path.name}/r.csv", f"{tmp_path}/link.csv"):
        assert f"the file '{path}' is there twice" in message(read_files, [path, other])
    frame = read_files(tmp_path / "wide.csv")
    assert len(message(require_columns, frame, ["a"], "f.csv")) < 400


def test_columns_are_asked_for_by_name():
    require_columns(iter(["b", "a", "extra"]), ["a", "b"], "rows.csv")
    sentence = message(require_columns, ["Text", "label "], ["text", "label", "Text"], "rows.csv")
    missing, rest = sentence.split("; ")
    assert missing == "rows.csv: no column 'text', 'label'"
    assert "'Text', 'label '" in rest and "'text', 'label', 'Text'" in rest


def test_bad_rows_stop_the_run_or_are_counted_once(tmp_path):
    frame = read_files(write(tmp_path / "r.csv", ROWS[:5]))
    problems = {
        3: ("empty text", "the text is empty"),
        1: ("empty text", "the text is empty"),
        0: ("no gold label", None),
    }
    sentence = message(without_bad, frame, problems, "stop")
    assert sentence == f"{tmp_path / 'r.csv'}, row 2: the text is empty; mend it or pass --on_bad_example skip"
    kept, skipped = without_bad(frame, problems, "skip")
    assert rows_of(kept) == [ROWS[2], ROWS[4]] and skipped == {"empty text": 2, "no gold label": 1}
    assert without_bad(frame, {0: ("no gold label", None)}, "stop")[1] == {"no gold label": 1}
    assert "no usable row" in message(without_bad, frame, dict.fromkeys(range(5), ("bad", "is bad")), "skip")
    assert rows_of(without_bad(frame, {}, "stop")[0]) == ROWS[:5]


# Splits


def arguments(**given) -> SimpleNamespace:
    phases = {name: given.pop(name, True) for name in ("do_train", "do_eval", "do_predict")}
    limits = {f"max_{name}_samples": given.pop(f"max_{name}_samples", None) for name in ("train", "eval", "predict")}
    files = {f"{name}_file": given.pop(f"{name}_file", []) for name in ("train", "validation", "test")}
    rest = {"dataset": None, "sample_seed": 3, "explicit": set(), "cache_dir": None, **given}
    return SimpleNamespace(**files, **limits, **rest, training_args=SimpleNamespace(**phases))


def labelled(frame: pd.DataFrame, split: str) -> tuple[datasets.Dataset, dict[str, int]]:
    """Texts with a class each; empty ones are left out."""
    frame, skipped = without_bad(
        frame, dict.fromkeys(np.flatnonzero(frame["text"] == ""), ("empty", "is empty")), "skip"
    )
    rows = datasets.Dataset.from_dict(
        {"text": list(frame["text"]), "labels": [len(text) % 2 for text in frame["text"]]}
    )
    return rows.cast_column("labels", datasets.ClassLabel(names=["even", "odd"])), skipped


def test_splits_with_all_that_results_json_wants(tmp_path):
    texts = {"train": [str(i) for i in range(100)] + [""], "validation": ["7", "8", "a"], "test": ["a", "b"]}
    files = {}
    for name, values in texts.items():
        files[f"{name}_file"] = [str(write(tmp_path / f"{name}.csv", [{"text": text, "x": "y"} for text in values]))]
    splits = load_splits(
        arguments(**files, max_train_samples=40, max_eval_samples=50), labelled, columns={"text": ["text"]}
    )
    assert isinstance(splits, Splits) and list(splits) == ["train", "validation", "test"]
    facts = splits.facts["train"]
    assert (facts["source"], facts["examples"], facts["available"]) == (str(tmp_path / "train.csv"), 40, 100)
    assert facts["skipped"] == {"empty": 1} and facts["selection"] == "40 of 100, at random (sample_seed 3)"
    chosen = splits["train"]["text"][:]
    assert len(set(chosen)) == 40 and chosen == sorted(chosen, key=int)
    assert facts["label_counts"] == {
        "even": sum(len(t) % 2 == 0 for t in chosen),
        "odd": sum(len(t) % 2 for t in chosen),
    }
    assert facts["fingerprint"] == fingerprint(splits["train"])
    assert splits.facts["validation"]["selection"] == "all 3"
    shared = len({"7", "8"} & set(chosen))
    expected = [(["train", "validation"], shared)] * (shared > 0) + [(["validation", "test"], 1)]
    assert [(one["between"], one["examples"]) for one in splits.overlaps] == expected


def test_splits_on_the_hub_are_called_as_here_unless_said_otherwise(monkeypatch, tmp_path):
    frame = read_files(write(tmp_path / "r.csv", [{"text": "a", "x": "y"}]))
    monkeypatch.setattr("common.data.load_frame", lambda args, split: frame.assign(text=split))
    splits = load_splits(arguments(dataset="glue"), labelled, hub_splits={"test": "test_matched"})
    assert [split["text"][0] for split in splits.values()] == ["train", "validation", "test_matched"]


def test_what_data_are_missing_is_said(tmp_path):
    file = [str(write(tmp_path / "r.csv", ROWS[:5]))]
    sentence = message(load_splits, arguments(do_predict=False), labelled)
    assert sentence == "there are no data: give --train_file, --validation_file, or --dataset with a hub id, or --demo"
    sentence = message(load_splits, arguments(train_file=file), labelled)
    assert sentence.startswith("there is no validation data: give --validation_file")
    both = {"train_file": file, "validation_file": file}
    assert list(load_splits(arguments(**both), labelled)) == ["train", "validation"]
    asked = arguments(**both, explicit={"do_predict"})
    assert message(load_splits, asked, labelled).startswith("there is no test data: give --test_file")
    assert list(load_splits(arguments(**both, do_train=False), labelled)) == ["validation"]
    nothing = message(
        load_splits, arguments(**both), lambda frame, _: (datasets.Dataset.from_dict({"a": []}), {"bad": 5})
    )
    assert nothing == f"{file[0]}: no usable example ({{'bad': 5}})"


@settings(max_examples=80, deadline=None)
@given(available=st.integers(1, 200), wanted=st.integers(0, 250), seed=st.integers(0, 10))
def test_a_sample_is_distinct_in_order_and_the_same_again(available, wanted, seed):
    rows = datasets.Dataset.from_dict({"i": range(available)})
    chosen, words = select(rows, wanted, seed)
    assert len(chosen) == min(available, wanted) and (np.diff(chosen["i"][:]) > 0).all()
    again, same_words = select(rows, wanted, seed)
    assert chosen["i"][:] == again["i"][:] and words == same_words


def test_a_sample_is_random_by_seed_and_says_so():
    rows = datasets.Dataset.from_dict({"i": range(10_000)})
    (chosen, words), (other, _) = select(rows, 1_000, 7), select(rows, 1_000, 8)
    assert words == "1,000 of 10,000, at random (sample_seed 7)"
    # Were they the first ones, or a stride, the two seeds would agree; drawn, they share about a tenth.
    assert 50 < len({*chosen["i"]} & {*other["i"]}) < 150
    assert 4_500 < np.mean(chosen["i"][:]) < 5_500
    for limit in (None, -1, 10_000):
        assert select(rows, limit, 0)[1] == "all 10,000"


def test_a_fingerprint_is_of_content_and_order_alone(tmp_path):
    rows = {"text": ["a", "b", None], "n": [1, 2, 3], "answers": [{"start": [1]}, {"start": []}, {"start": [2, 3]}]}
    plain = datasets.Dataset.from_dict(rows)
    expected = fingerprint(plain)
    assert len(expected) == 64
    plain.save_to_disk(tmp_path / "saved")
    large = plain.cast_column("text", datasets.Value("large_string")).cast_column("n", datasets.Value("int8"))
    chunks = datasets.concatenate_datasets([plain.select([0]), plain.select([1, 2])])
    for same in (datasets.load_from_disk(tmp_path / "saved"), large, chunks, plain.select([2, 1, 0]).select([2, 1, 0])):
        assert fingerprint(same) == expected
    for other in (
        plain.select([1, 0, 2]),
        plain.select([0, 1]),
        plain.rename_column("n", "m"),
        plain.remove_columns("n"),
    ):
        assert fingerprint(other) != expected
    classes = []
    for ids, names in (([0, 1, -1], ["x", "y"]), ([1, 0, -1], ["y", "x"]), ([0, 1, -1], ["y", "x"])):
        feature = datasets.Features({"labels": datasets.ClassLabel(names=names)})
        classes.append(datasets.Dataset.from_dict({"labels": ids}, features=feature))
    assert fingerprint(classes[0]) == fingerprint(classes[1]) != fingerprint(classes[2])


def test_a_split_described():
    rows = datasets.Dataset.from_dict({"labels": [0, 0, 2]}).cast_column(
        "labels", datasets.ClassLabel(names=["a", "b", "c"])
    )
    facts = describe(rows, "x.csv", 5, "3 of 5", {"bad": 2}, windows=7)
    assert facts["label_counts"] == {"a": 2, "b": 0, "c": 1} and facts["statistics"] == {"windows": 7}
    assert facts["skipped"] == {"bad": 2} and (facts["examples"], facts["available"]) == (3, 5)
    unknown = rows.map(lambda row: {"labels": -1})
    assert "label_counts" not in describe(unknown, "x.csv", 3, "all", {})


keys = st.lists(st.integers(0, 12), max_size=12)


@settings(max_examples=60, deadline=None)
@given(a=keys, b=keys, c=keys)
def test_overlaps_against_counting(a, b, c):
    found = {tuple(one["between"]): one for one in overlaps({"a": iter(a), "b": b, "c": c}, "key")}
    for (first, one), (second, other) in ((("a", a), ("b", b)), (("a", a), ("c", c)), (("b", b), ("c", c))):
        count = sum(1 for key in other if key in one)
        assert ((first, second) in found) == (count > 0)
        if count:
            assert found[first, second] == {
                "between": [first, second],
                "key": "key",
                "examples": count,
                "share": count / len(other),
            }
