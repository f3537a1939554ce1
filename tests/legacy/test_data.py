"""Files read to the cell, errors that name the place, and choosing, fingerprints and overlaps by their properties."""

import csv
import io
import json
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.legacy.data import (
    choose,
    existing_file,
    fingerprint,
    is_unicode,
    overlap,
    read_json,
    read_rows,
    require_columns,
)
from tests.legacy.helpers import message

# What breaks naive readers: separators, quotes and all kinds of line breaks inside a cell, and what looks like one.
CELLS = [
    "plain",
    "",
    " spaces kept ",
    "comma, semicolon; tab\there",
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
    "x" * 200_000,  # more than the csv module takes by default
]
ROWS = [{"id": str(i), "text": cell, "other": CELLS[-2 - i]} for i, cell in enumerate(CELLS[:-1])]
ROWS.append({"id": "last", "text": CELLS[-1], "other": ""})

cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def write_delimited(path, rows, delimiter, line_end, bom=False):
    text = io.StringIO(newline="")
    # Python's writer quotes a lone carriage return only where it is part of its line end; others always do.
    quoting = csv.QUOTE_MINIMAL if "\r" in line_end else csv.QUOTE_ALL
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + text.getvalue().encode())


# Reading


@pytest.mark.parametrize("bom", [False, True])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("ending, delimiter", [(".csv", ","), (".tsv", "\t"), (".CSV", ",")])
def test_delimited_files_keep_every_character_of_every_cell(tmp_path, ending, delimiter, line_end, bom):
    path = tmp_path / f"rows{ending}"
    write_delimited(path, ROWS, delimiter, line_end, bom)
    assert read_rows(path) == ROWS


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.fixed_dictionaries({"a": cells, "b": cells, "c": st.just("0")}), min_size=1, max_size=5))
def test_any_cell_comes_back_from_every_format(tmp_path, rows):
    import pyarrow
    import pyarrow.parquet

    write_delimited(tmp_path / "r.csv", rows, ",", "\r\n")
    write_delimited(tmp_path / "r.tsv", rows, "\t", "\n")
    (tmp_path / "r.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    # Written with the characters themselves: U+2028 and U+0085 end no line of a jsonl file.
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "r.jsonl").write_bytes(lines.encode())
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "r.parquet")
    for ending in ("csv", "tsv", "json", "jsonl", "parquet"):
        assert read_rows(tmp_path / f"r.{ending}") == rows, ending


# Separators


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_csv_whose_header_has_tabs_only_is_tab_separated(tmp_path, line_end):
    path = tmp_path / "rows.csv"
    write_delimited(path, ROWS, "\t", line_end)
    assert read_rows(path) == ROWS
    path.write_text("a\tb,c\n1,2\n")
    assert read_rows(path) == [{"a\tb": "1", "c": "2"}]
    path.write_text("a\tb\n1,2\n")
    assert message(read_rows, path) == f"{path}: line 2 has 1 cells, the header has 2"
    path.write_text("a\n1\t2\n")
    assert read_rows(path) == [{"a": "1\t2"}]


def test_a_csv_of_excel_with_semicolons(tmp_path):
    path = tmp_path / "rows.csv"
    write_delimited(path, ROWS, ";", "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_rows(path) == ROWS
    path.write_text("a;b,c\n1,2\n")
    assert read_rows(path) == [{"a;b": "1", "c": "2"}]


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
    assert read_rows(path) == [dict(zip("xyz", cells)) for cells in rows]


def test_quotes_that_are_quotes_stay_quotes(tmp_path):
    """Where some line has another number of cells, quoting is meant; what is wrong with it is said."""
    path = tmp_path / "rows.tsv"
    path.write_text('x\ty\n"one\ntwo"\t"a\tb"\n"""c"""\td\n')
    assert read_rows(path) == [{"x": "one\ntwo", "y": "a\tb"}, {"x": '"c"', "y": "d"}]
    path.write_text('x\n"one\ntwo"\n')
    assert read_rows(path) == [{"x": "one\ntwo"}]
    path.write_text('x\ty\n1\t2\n"open\t3\n4\n')
    assert message(read_rows, path).startswith(f"{path}: the row that begins at line 3: ")
    path.write_text('x\ty\n"1"\t2\n3\n')
    assert message(read_rows, path) == f"{path}: line 3 has 1 cells, the header has 2"
    # Between commas there is no such guess.
    path = tmp_path / "rows.csv"
    path.write_text('x,y\n"Yes" he said,b\n')
    assert message(read_rows, path).startswith(f"{path}: the row that begins at line 2: ")


@pytest.mark.parametrize(
    "name, counts", [("Train", (2429, 2389, 2448)), ("Val", (515, 499, 523)), ("Test", (519, 510, 535))]
)
def test_farstail_has_the_labels_its_readme_counts(shared_data, name, counts):
    rows = read_rows(shared_data / "farstail" / f"{name}-word.csv")
    labels = [row["label"] for row in rows]
    assert tuple(map(labels.count, "ecn")) == counts and len(rows) == sum(counts)
    assert all(row["premise"] and row["hypothesis"] for row in rows)
    extra = ["hard(hypothesis)", "hard(overlap)"] if name == "Test" else []
    assert list(rows[0]) == ["premise", "hypothesis", "label", *extra]


def test_glues_file_with_lone_quotes(shared_data):
    path = shared_data / "mnli" / "mnli_train_genre_480.tsv"
    rows = read_rows(path)
    lines = path.read_text("utf-8").removesuffix("\n").split("\n")
    assert ["\t".join(row.values()) for row in rows] == lines[1:] and "\t".join(rows[0]) == lines[0]
    assert len(rows) == 480 and sum('"' in line for line in lines) == 18


def test_json_keeps_types_with_rows_alone_or_under_data(tmp_path):
    rows = [{"id": 1, "x": None, "nested": {"text": ["é"], "start": [0]}}, {"id": 2, "x": 0.5, "nested": {}}]
    for name, content in (("list", rows), ("data", {"version": 1, "data": rows})):
        path = tmp_path / f"{name}.json"
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
        assert read_rows(str(path)) == rows
        assert read_json(path) == content


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_jsonl_may_have_blank_lines_and_a_bom(tmp_path, line_end):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(("\ufeff" + line_end.join(['{"a": 1}', "", "  ", '{"a": 2}', ""])).encode())
    assert read_rows(path) == [{"a": 1}, {"a": 2}]


def test_parquet_keeps_types(tmp_path):
    import pandas

    frame = pandas.DataFrame({"x": [0.5, -1.25], "n": [3, 4], "s": ["a", None], "list": [[1, 2], []]})
    frame.to_parquet(tmp_path / "rows.parquet")
    assert read_rows(tmp_path / "rows.parquet") == [
        {"x": 0.5, "n": 3, "s": "a", "list": [1, 2]},
        {"x": -1.25, "n": 4, "s": None, "list": []},
    ]


def test_real_tables_have_the_rows_their_readme_counts(shared_data):
    assert len(read_rows(shared_data / "mnli" / "mnli_dev_matched.jsonl")) == 9815
    fraud = read_rows(shared_data / "creditcard" / "creditcard_uniform.parquet")
    assert (len(fraud), sum(row["Class"] for row in fraud)) == (6698, 492)


# Errors


def test_a_file_that_is_not_there_a_folder_or_empty(tmp_path):
    for ending in ("csv", "tsv", "json", "jsonl", "parquet"):
        path = tmp_path / f"rows.{ending}"
        assert message(read_rows, path) == f"{path}: no such file"
        path.touch()
        assert message(read_rows, path) == f"{path}: the file is empty"
        path.unlink()
        path.mkdir()
        assert message(read_rows, path) == f"{path}: is a folder, not a file"
    (tmp_path / "full.txt").write_text("x")
    assert existing_file(str(tmp_path / "full.txt")) == tmp_path / "full.txt"


@pytest.mark.parametrize("name, shown", [("rows.xlsx", "'.xlsx'"), ("rows", "'rows'"), ("rows.csv.gz", "'.gz'")])
def test_unknown_endings_name_the_known_ones(tmp_path, name, shown):
    path = tmp_path / name
    path.write_text("a,b\n1,2\n")
    sentence = message(read_rows, path)
    assert str(path) in sentence and shown in sentence
    assert all(ending in sentence for ending in (".csv", ".tsv", ".json", ".jsonl", ".parquet"))


@pytest.mark.parametrize(
    "name, content", [("h.csv", "a,b\n"), ("n.csv", "\n\n"), ("e.json", "[]"), ("b.jsonl", "\n \n")]
)
def test_files_without_rows(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert message(read_rows, tmp_path / name) == f"{tmp_path / name}: the file has no rows"


def test_a_parquet_file_without_rows(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.array([], pyarrow.string())}), path)
    assert message(read_rows, path) == f"{path}: the file has no rows"


def test_broken_json_names_line_and_column(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[\n  {"a": 1},\n  {"a": oops}\n]')
    for read in (read_rows, read_json):
        assert message(read, path).startswith(f"{path}: broken json at line 3, column 9: ")


@pytest.mark.parametrize("content", ["3", '"text"', '{"rows": []}', '{"data": {"a": 1}}', '[{"a": 1}, 2]', "null"])
def test_json_that_holds_no_rows(tmp_path, content):
    path = tmp_path / "rows.json"
    path.write_text(content)
    assert message(read_rows, path).startswith(f"{path}: a json file must hold a list of rows")


def test_broken_jsonl_names_the_line_blank_ones_counted(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\r\n\r\n{"a": "\xe2\x80\xa8"}\n{"a": 1,, }\n')
    assert message(read_rows, path).startswith(f"{path}: broken json at line 4, column 9: ")
    path.write_text('{"a": 1}\n\n[1, 2]\n')
    assert message(read_rows, path) == f"{path}: line 3 is not an object with named columns"


@pytest.mark.parametrize(
    "text, line, found",
    [
        ("a,b,c\n1,2,3\n1,2\n", 3, 2),
        ("a,b,c\n1,2,3,4\n", 2, 4),
        ("a,b,c\n1,2,3,4,5\n", 2, 5),
        ('a,b,c\n"one\ntwo\nthree",2,3\n\n1\n', 6, 1),
    ],
)
def test_ragged_rows_name_their_line_and_cells(tmp_path, text, line, found):
    path = tmp_path / "rows.csv"
    path.write_text(text)
    assert message(read_rows, path) == f"{path}: line {line} has {found} cells, the header has 3"


@pytest.mark.parametrize(
    "text, line",
    [
        ('"a"x,b\n1,2\n', 1),
        ('a,b\n1,2\n"x"y,2\n', 3),
        ('a,b\n1,"never\n closed\n\n\n', 2),
        ('a,b\n"one\ntwo",2\n3,"four"five\n6,7\n', 4),
    ],
)
def test_broken_quotes_name_the_line_where_their_row_begins(tmp_path, text, line):
    path = tmp_path / "rows.csv"
    path.write_text(text)
    assert message(read_rows, path).startswith(f"{path}: the row that begins at line {line}: ")


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings_are_said_to_be_other(tmp_path, ending, encoding):
    path = tmp_path / f"rows.{ending}"
    path.write_bytes('[{"a": "café"}]'.encode(encoding))
    sentence = message(read_rows, path)
    assert sentence.startswith(f"{path}: not UTF-8 text") and "UTF-8" in sentence.split("; ")[1]
    if encoding == "latin-1":
        assert "(byte 11)" in sentence


def test_broken_parquet_wherever_it_is_broken(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": list(range(1000)), "b": ["x"] * 1000}), path)
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    broken = {
        "text": b"a,b\n1,2\n",
        "cut": whole[: len(whole) // 2],
        "first half only but with an end": whole[:100] + whole[-8:],
        "footer": whole[:footer] + b"\xff" * (len(whole) - 8 - footer) + whole[-8:],
        "pages": whole[:4] + b"\xff" * (footer - 4) + whole[footer:],
    }
    for name, content in broken.items():
        path.write_bytes(content)
        assert message(read_rows, path).startswith(f"{path}: not a readable parquet file: "), name


def test_columns_are_asked_for_by_name():
    require_columns(iter(["b", "a", "extra"]), ["a", "b"], "rows.csv")
    sentence = message(require_columns, ["Text", "label "], ["text", "label", "Text"], "rows.csv")
    missing, rest = sentence.split("; ")
    assert missing == "rows.csv: no column 'text', 'label'"
    assert "'Text', 'label '" in rest and "'text', 'label', 'Text'" in rest


# Choosing


@settings(max_examples=80, deadline=None)
@given(available=st.integers(0, 200), wanted=st.integers(0, 250), seed=st.integers(0, 10))
def test_chosen_are_distinct_ascending_and_the_same_again(available, wanted, seed):
    chosen, words = choose(available, wanted, seed)
    assert len(chosen) == min(available, wanted)
    assert (np.diff(chosen) > 0).all()
    assert all(0 <= i < available for i in chosen)
    assert np.issubdtype(np.asarray(chosen).dtype, np.integer)
    again, same_words = choose(available, wanted, seed)
    assert (chosen == again).all() and words == same_words


@pytest.mark.parametrize("wanted", [None, -1, 1234, 1235])
def test_all_are_taken_when_no_fewer_are_wanted(wanted):
    chosen, words = choose(1234, wanted, 0)
    assert chosen.tolist() == list(range(1234))
    assert words == ("all 1,234 (1,235 were asked for)" if wanted == 1235 else "all 1,234")


def test_a_sample_is_random_by_seed_and_says_so():
    chosen, words = choose(10_000, 1_000, 7)
    other, _ = choose(10_000, 1_000, 8)
    assert words == "1,000 of 10,000, at random (sample_seed 7)"
    # Were they the first ones, or a stride, the two seeds would agree; drawn, they share about a tenth.
    assert 50 < len(set(chosen) & set(other)) < 150
    assert abs(chosen.mean() - 5_000) < 400  # four standard errors of a uniform draw


def test_a_sample_hits_every_example_equally_often():
    hits = np.zeros(8)
    for seed in range(400):
        hits[choose(8, 3, seed)[0]] += 1
    assert (abs(hits - 150) < 4 * np.sqrt(400 * 3 / 8 * 5 / 8)).all()


# Fingerprints and overlaps

plain = st.none() | st.integers(-3, 3) | st.text("ab,[]\"' \\é", max_size=3) | st.lists(st.text("ab", max_size=2))
tables = st.lists(st.lists(plain, max_size=3).map(tuple), max_size=4)


@settings(max_examples=200, deadline=None)
@given(one=tables, other=tables)
def test_fingerprints_are_equal_exactly_for_equal_rows(one, other):
    assert (fingerprint(one) == fingerprint(other)) == (one == other)
    assert fingerprint(iter(one)) == fingerprint(list(one))


def test_fingerprints_see_order_content_and_borders():
    tables = [
        [("ab", "c")],
        [("a", "bc")],
        [("abc",)],
        [("ab",), ("c",)],
        [("c", "ab")],
        [("c",), ("ab",)],
        [("ab", "c"), ()],
        [],
        [("1",)],
        [(1,)],
        [(None,)],
        [("null",)],
        [('a","b',)],
        [("a", "b")],
        [("\ud800",)],  # half a surrogate pair: no tokenizer takes it, but reading it must not end in a traceback
    ]
    digests = [fingerprint(table) for table in tables]
    assert len(set(digests)) == len(tables)
    assert all(len(digest) == 64 and int(digest, 16) >= 0 for digest in digests)


def test_overlaps_are_those_of_a_brute_force():
    draw = random.Random(3)
    for _ in range(200):
        splits = {
            name: [draw.choice("abcdefghij") for _ in range(draw.randrange(8))] for name in ("train", "dev", "test")
        }
        expected = []
        names = list(splits)
        for later in range(3):
            for earlier in range(later):
                one, two = splits[names[earlier]], splits[names[later]]
                shared = len([k for k in two if one.count(k) > 0])
                if shared:
                    expected.append(
                        {
                            "between": [names[earlier], names[later]],
                            "key": "letter",
                            "examples": shared,
                            "share": pytest.approx(shared / len(two)),
                        }
                    )
        assert overlap({name: iter(keys) for name, keys in splits.items()}, "letter") == expected


def test_half_a_surrogate_pair_is_no_unicode():
    assert is_unicode("🙂 کتاب") and is_unicode("") and not is_unicode("a\ud83d")
