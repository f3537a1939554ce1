"""SQuAD in every form gives the same questions, real files what their readme counts, bad examples one sentence."""

import csv
import gzip
import json
import time
from collections import Counter, defaultdict

import numpy as np
import pytest
from datasets import Dataset

from common.files import read_files
from common.hub import frame_of, numbered
from common.text.squad import ANSWERS, gold_texts, hold_out, is_answerable, to_questions, training_span
from tests.helpers import message

KARUN = "The Karun is the longest river of Iran. \U0001f30a It rises in the Zard Kuh."
TEHRAN = "تهران پایتخت ایران است.\r\nجمعیت آن ۹ میلیون نفر است."
# id, question, context, [(text, character)]: the last of them not answerable
EXAMPLES = [
    ("a1", "Which river is the longest?", KARUN, [("The Karun", 0), ("Karun", 4)]),
    ("a2", 'Where does "it" rise?', KARUN, [("the Zard Kuh", KARUN.index("the Zard"))]),
    ("3", "جمعیت تهران؟", TEHRAN, [("۹ میلیون نفر", TEHRAN.index("۹"))]),
    ("4", "Who drained it,\nand why?", KARUN, []),
]


def nested(examples=EXAMPLES, *, version="v2.0", with_answers=True, **article) -> dict:
    """Nested SQuAD: an article for each context; v2.0 marks and has plausible answers, v1.1 knows neither."""
    articles = defaultdict(list)
    for identity, question, context, answers in examples:
        asked = {"id": identity, "question": question}
        if with_answers:
            asked["answers"] = [{"text": text, "answer_start": start} for text, start in answers]
        if version == "v2.0":
            asked["is_impossible"] = not answers
            if not answers:
                asked["plausible_answers"] = [{"text": "The Karun", "answer_start": 0}]
        articles[context].append(asked)
    data = [
        {"title": f"T{i}", "paragraphs": [{"context": context, "qas": qas}], **article}
        for i, (context, qas) in enumerate(articles.items())
    ]
    return {"version": version, "data": data} if version else {"data": data}


def hub_rows(examples=EXAMPLES) -> list[dict]:
    """Rows as the hub has them."""
    return [
        {
            "id": identity,
            "title": "T",
            "context": context,
            "question": question,
            "answers": {"text": [t for t, _ in answers], "answer_start": [s for _, s in answers]},
        }
        for identity, question, context, answers in examples
    ]


def saved(path, content):
    """Writes json, jsonl, csv, tsv, parquet or gzipped json by the ending of `path`."""
    lines = "" if path.suffix == ".parquet" else json.dumps(content, ensure_ascii=path.stem == "ascii")
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.suffix == ".json":
        path.write_text(lines, encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), encoding="utf-8")
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            columns = list(dict.fromkeys(name for row in content for name in row))
            writer = csv.DictWriter(file, columns, delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(content)
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), path)
    return path


def read_questions(*paths, split="validation", skip_bad=False) -> tuple[Dataset, dict]:
    return to_questions(read_files(list(paths)), split, skip_bad)


def examples_of(questions: Dataset) -> list[tuple]:
    """What a data set holds, in the form of `EXAMPLES`."""
    pairs = [
        row.get("answers") and list(zip(row["answers"]["text"], row["answers"]["answer_start"])) for row in questions
    ]
    return [(row["id"], row["question"], row["context"], answers) for row, answers in zip(questions, pairs)]


# Forms


def forms(folder):
    """Name -> a file with `EXAMPLES`, in all the forms that are read."""
    rows = hub_rows()
    as_json = [{**row, "answers": json.dumps(row["answers"])} for row in rows]
    as_python = [{**row, "answers": str(row["answers"])} for row in rows]
    listed = [
        {**row, "answers": [{"text": t, "answer_start": s} for t, s in zip(*row["answers"].values())]} for row in rows
    ]
    floats = [{**row, "answers": {**row["answers"], "answer_start": [*map(float, row["answers"]["answer_start"])]}} for row in rows]  # fmt: skip # noqa: E501
    numbers = [(int(i) if i.isdigit() else i, *rest) for i, *rest in EXAMPLES]
    return {
        "v2.0": saved(folder / "v2.json", nested()),
        "v2.0, escaped": saved(folder / "ascii.json", nested()),
        "v2.0, compressed": saved(folder / "v2.json.gz", nested()),
        "v1.1": saved(folder / "v1.json", nested(version="1.1")),
        "no plausible answers, ids that are numbers": saved(folder / "persian.json", nested(numbers, version=None)),
        "articles without titles": saved(folder / "untitled.json", nested(title=None)),
        "a list of articles": saved(folder / "articles.json", nested()["data"]),
        "rows": saved(folder / "rows.json", rows),
        "rows under data": saved(folder / "under.json", {"version": "hub", "data": rows}),
        "rows with a list of answers": saved(folder / "listed.json", listed),
        "starts that are 4.0": saved(folder / "floats.json", floats),
        "jsonl": saved(folder / "rows.jsonl", rows),
        "json lines called .json": saved(folder / "rows.jsonl", rows).rename(folder / "lines.json"),
        "csv, answers as json": saved(folder / "json.csv", as_json),
        "csv, answers as Python": saved(folder / "python.csv", as_python),
        "tsv": saved(folder / "json.tsv", as_json),
        "parquet": saved(folder / "rows.parquet", rows),
        "parquet with a list of answers": saved(folder / "listed.parquet", listed),
    }


def test_every_form_gives_the_same_questions(tmp_path):
    rank = {e[0]: i for i, e in enumerate(EXAMPLES)}
    made = forms(tmp_path)
    made["jsonl"] = saved(tmp_path / "rows.jsonl", hub_rows())
    for name, path in made.items():
        for split in ("train", "validation", "test"):
            found, skipped = read_questions(path, split=split)
            # Nested files go by article.
            assert sorted(examples_of(found), key=lambda e: rank[e[0]]) == EXAMPLES, name
            assert str(found.split) == split and skipped == {}, name


def test_rows_of_a_hub_data_set_and_several_files(tmp_path):
    rows = Dataset.from_list(hub_rows())
    frame = numbered(frame_of(rows.with_format("arrow")[:], {}), "hub/id, train")
    assert examples_of(to_questions(frame, "train", False)[0]) == EXAMPLES
    parts = [saved(tmp_path / f"{i}.json", nested([example])) for i, example in enumerate(EXAMPLES)]
    assert examples_of(read_questions(*parts)[0]) == EXAMPLES
    assert "question 'a1': the id is there twice" in message(
        read_questions, *parts, saved(tmp_path / "again.json", nested(EXAMPLES[:1]))
    )


def test_what_questions_tell(tmp_path):
    found, _ = read_questions(saved(tmp_path / "rows.json", hub_rows()))
    assert found.features["answers"] == ANSWERS
    assert is_answerable(found).tolist() == [True, True, True, False]
    assert gold_texts(found) == [["The Karun", "Karun"], ["the Zard Kuh"], ["۹ میلیون نفر"], []]
    rows = hub_rows([("1", "q", KARUN, [("", 0), (" \u200b", -1)]), ("2", "q", KARUN, [("", 0), ("Karun", 4)])])
    empty, _ = read_questions(saved(tmp_path / "rows.json", rows))
    assert gold_texts(empty) == [[], ["Karun"]], "an empty answer text is no answer"


COUNTS = {  # shared/data/README.md: questions, answerable
    "squad_v2_train.json": (4065, 1910),
    "squad_v2_dev.json": (2013, 1000),
    "pquad_validation.json": (7976, 5995),
}


@pytest.mark.parametrize("name", COUNTS)
def test_real_files_give_what_their_readme_counts(shared_data, name):
    path = shared_data / "squad_v2" / name
    found, _ = read_questions(path)
    assert (len(found), int(is_answerable(found).sum())) == COUNTS[name]
    told = [  # the file itself, walked through by hand
        (str(q["id"]), q["question"], p["context"], [(a["text"], a["answer_start"]) for a in q["answers"]])
        for article in json.loads(path.read_bytes())["data"]
        for p in article["paragraphs"]
        for q in p["qas"]
    ]
    assert examples_of(found) == told
    for context, answers in zip(found["context"][:], found["answers"][:]):
        start, end = training_span(answers)
        assert context[start:end] in answers["text"] if answers["text"] else (start, end) == (-1, -1)


# Truth that may be there


@pytest.mark.parametrize("ending", ["json", "flat.json", "jsonl", "csv", "parquet"])
@pytest.mark.parametrize("some", [True, False])
def test_test_questions_have_answers_all_or_none(tmp_path, ending, some):
    content, rows = nested(with_answers=some), hub_rows()
    if some:
        del content["data"][0]["paragraphs"][0]["qas"][1]["answers"]
        rows[1]["answers"] = None
    else:
        rows = [{k: v for k, v in row.items() if k != "answers"} for row in rows]
    path = saved(tmp_path / f"some.{ending}", content if ending == "json" else rows)
    for split in ("validation", "test") if some else ("validation",):
        sentence = message(read_questions, path, split=split)
        assert str(path) in sentence and "'answers'" in sentence
        assert ("question 'a2'" in sentence) == some
    if not some:
        found, _ = read_questions(path, split="test")
        assert found.column_names == ["id", "question", "context"] and {*found["id"]} == {e[0] for e in EXAMPLES}


# Bad examples

GOOD = ("good", "Which river?", KARUN, [("Karun", 4)])


def bad(**changes) -> dict:
    """A hub row called 'bad' with `changes`."""
    return {**hub_rows([("bad", "Which river?", KARUN, [("Karun", 4)])])[0], **changes}


def answers(text, answer_start) -> dict:
    return bad(answers={"text": text, "answer_start": answer_start})


OFF, TYPE, FORM = "answer_start does not match", "answer of a wrong type", "answers of a wrong form"
BAD_ROWS = {  # what is wrong -> (row, reason that is counted, what the sentence must contain)
    "one character off": (answers(["Karun"], [3]), OFF, ["'Karun'", "answer_start 3"]),
    "counted in another unit": (answers(["It rises"], [KARUN.index("It rises") + 1]), OFF, ["'It rises'"]),
    "from the end": (answers(["Kuh"], [-4]), OFF, ["answer_start -4"]),
    "behind the end": (answers(["Karun"], [10_000]), OFF, ["answer_start 10000"]),
    "only the second is wrong": (answers(["Karun", "river"], [4, 4]), OFF, ["'river'", "answer_start 4"]),
    "the same id": (bad(id="good"), "duplicate id", ["twice"]),
    "no id": (bad(id=None), "no id", ["no id"]),
    "a blank id": (bad(id=" "), "no id", ["no id"]),
    "impossible, as a csv has it": (bad(is_impossible="TRUE"), "contradiction", ["is_impossible", "'Karun'"]),
    "impossible, as a number": (bad(is_impossible=1.0), "contradiction", ["is_impossible", "'Karun'"]),
    "possible, not yet annotated": ({**answers([], []), "is_impossible": False}, "contradiction", ["but there is no"]),
    "possible, with blanks": ({**answers([" "], [0]), "is_impossible": "0"}, "contradiction", ["is_impossible is 0"]),
    "an empty text within quotes": (bad(answers='""'), FORM, ["'answers' must be", "''"]),
    "a set": (bad(answers="set()"), FORM, ["'answers' must be", "set()"]),
    "a blank question": (bad(question=" \n\u00a0"), "empty question", ["question is empty"]),
    "a missing question": (bad(question=None), "empty question", ["question is empty"]),
    "no context": (bad(context="", answers={"text": [], "answer_start": []}), "empty context", ["context is empty"]),
    "a number for a question": (bad(question=5), "question of a wrong type", ["question must be text", "5"]),
    "a list for a context": (bad(context=["a"]), "context of a wrong type", ["context must be text", "['a']"]),
    "no answers": (bad(answers=None), "no answers", ["'answers'", "empty list"]),
    "answer_start is text": (answers(["Karun"], ["4"]), TYPE, ["'Karun', '4'"]),
    "answer_start is a truth value": (answers(["T"], [False]), TYPE, ["False"]),
    "answer_start is a fraction": (answers(["Karun"], [4.5]), TYPE, ["4.5"]),
    "answer_start is missing": (answers(["Karun"], [None]), TYPE, ["None"]),
    "answer_start is nothing": (answers(["Karun"], [float("nan")]), TYPE, ["nan"]),
    "answer_start is endless": (answers(["Karun"], [float("inf")]), TYPE, ["inf"]),
    "answer text is a number": (answers([4], [4]), TYPE, ["4, 4"]),
    "a start too few": (answers(["Karun", "The"], [4]), FORM, ["'answers' must be"]),
    "no starts": (bad(answers={"text": ["Karun"]}), FORM, ["'answers' must be"]),
    "text instead of lists": (answers("Karun", 4), FORM, ["'answers' must be"]),
    "nothing but text": (bad(answers="Karun"), FORM, ["'answers' must be", "'Karun'", "parquet"]),
    "a number": (bad(answers=4), FORM, ["'answers' must be"]),
    "a list of texts": (bad(answers=["Karun"]), FORM, ["'answers' must be"]),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_stops_with_file_and_question_or_is_counted(tmp_path, kind):
    row, reason, words = BAD_ROWS[kind]
    path = saved(tmp_path / "ascii.json", [*hub_rows([GOOD]), row])
    sentence = message(read_questions, path)
    assert sentence.startswith(f"{path}, row 2: question {str(row['id'])!r}: ")
    assert all(word in sentence for word in [*words, "--on_bad_example skip"])
    found, skipped = read_questions(path, skip_bad=True)
    assert skipped == {reason: 1} and examples_of(found) == [GOOD]


def test_nested_files_say_the_same_of_a_bad_question(tmp_path):
    content = nested([GOOD, ("x", "q", KARUN, [("Karun", 5)]), ("y", "q", KARUN, []), ("z", "", KARUN, [])])
    qas = content["data"][0]["paragraphs"][0]["qas"]
    del qas[2]["answers"]
    path = saved(tmp_path / "bad.json", content)
    assert message(read_questions, path).startswith(f"{path}, row 1: question 'x': the answer 'Karun' does not")
    found, skipped = read_questions(path, skip_bad=True)
    assert examples_of(found) == [GOOD]
    assert skipped == {"answer_start does not match": 1, "no answers": 1, "empty question": 1}
    qas[1:] = [{"id": "w", "question": "q", "answers": [{"text": "Karun", "answer_start": 4}], "is_impossible": True}]
    path = saved(tmp_path / "bad.json", content)
    sentence = message(read_questions, path)
    assert "question 'w': is_impossible is true" in sentence and "'Karun'" in sentence
    assert read_questions(path, skip_bad=True)[1] == {"contradiction": 1}


def test_unreadable_csv_cells_and_blank_ones(tmp_path):
    rows = hub_rows([GOOD, *((name, "q", KARUN, []) for name in "xyzuv")])
    arrays = "{'text': array(['Karun'], dtype=object), 'answer_start': array([4])}"  # as numpy prints them
    cells = [json.dumps(rows[0]["answers"]), "{'text': [", " ", "__import__('os').getcwd()", arrays, "[" * 9999]
    path = saved(tmp_path / "rows.csv", [{**row, "answers": cell} for row, cell in zip(rows, cells)])
    sentence = message(read_questions, path)
    assert sentence.startswith(f"{path}, row 2: question 'x': 'answers' must be") and '"answer_start": [0]' in sentence
    found, skipped = read_questions(path, skip_bad=True)
    assert skipped == {"answers of a wrong form": 4, "no answers": 1} and examples_of(found) == [GOOD]
    path = saved(tmp_path / "texts.csv", [{**row, "answers": cell} for row, cell in zip(rows, ["Karun", ""])])
    assert "'answers' must be" in message(read_questions, path)


def test_skipped_ids_are_free_again_and_ids_may_be_numbers(tmp_path):
    rows = [bad(question=""), bad(), bad(), bad(), bad(id="other", question=None)]
    found, skipped = read_questions(saved(tmp_path / "rows.json", rows), skip_bad=True)
    assert found["id"][:] == ["bad"] and skipped == {"empty question": 2, "duplicate id": 2}
    path = saved(tmp_path / "rows.jsonl", [bad(id="7"), bad(id=7)])
    assert message(read_questions, path).startswith(f"{path}, row 2: question '7': the id is there twice")
    path = saved(tmp_path / "rows.json", [bad(question="")])
    sentence = message(read_questions, path, skip_bad=True)
    assert sentence.startswith(f"{path}: no usable row") and "'empty question': 1" in sentence


@pytest.mark.parametrize("missing", ["id", "question", "context", "answers"])
def test_missing_columns_are_named(tmp_path, missing):
    rows = [{k: v for k, v in row.items() if k != missing} for row in hub_rows()]
    sentence = message(read_questions, saved(tmp_path / "rows.jsonl", rows))
    assert f"no column {missing!r};" in sentence and "'title'" in sentence


QA = {"id": "1", "question": "q", "answers": []}
ASKED = {"context": "c", "qas": [QA]}
MALFORMED = {  # content -> what the sentence must contain
    "no paragraphs": ([{"paragraphs": []}, {"title": "T"}], ["article 2"]),
    "paragraphs that are no list": ([{"title": "T", "paragraphs": 5}], ["article 1", "'int'"]),
    "paragraphs that are an object": ([{"paragraphs": ASKED}], ["article 1"]),
    "a paragraph that is text": ([{"paragraphs": ["text"]}], ["article 1"]),
    "no qas": ([{"paragraphs": [ASKED, {"context": "c"}]}], ["article 1", "KeyError: 'qas'"]),
    "no context": ([{"paragraphs": [ASKED]}, {"paragraphs": [{"qas": [QA]}]}], ["article 2", "KeyError: 'context'"]),
    "qas that are no list": ([{"paragraphs": [{"context": "c", "qas": None}]}], ["article 1", "'NoneType'"]),
    "a number": ([{"paragraphs": [{"context": "c", "qas": [7]}]}], ["article 1", "'int'"]),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_nesting_is_told_by_article(tmp_path, kind):
    data, words = MALFORMED[kind]
    path = saved(tmp_path / "bad.json", {"version": "v2.0", "data": data})
    for skip_bad in (False, True):
        sentence = message(read_questions, path, skip_bad=skip_bad)
        assert sentence.startswith(str(path)) and all(word in sentence for word in ["'paragraphs'", "'qas'", *words])


def test_nested_files_without_questions_or_their_parts(tmp_path):
    for qas, words in (([], "no column 'id'"), ([{"question": "q"}], "no column 'id'"), ([QA, {}], "it has no id")):
        path = saved(tmp_path / "bad.json", {"data": [{"paragraphs": [{"context": "c", "qas": qas}]}]})
        assert words in message(read_questions, path)


# Held-out questions


def questions_of(rows: list[dict]) -> Dataset:
    frame = numbered(frame_of(Dataset.from_list(rows).with_format("arrow")[:], {}), "rows")
    return to_questions(frame, "train", False)[0]


def many(seed=0, contexts=60, questions=400, unanswerable=0.5) -> Dataset:
    """Random questions; every context is asked about, in no order."""
    random = np.random.default_rng(seed)
    owner = np.concatenate([np.arange(contexts), random.integers(0, contexts, questions - contexts)])
    random.shuffle(owner)
    golds = [[("context", 0)] * (random.random() >= unanswerable) for _ in owner]
    rows = hub_rows([(str(i), f"question {i}", f"context {c}", gold) for i, (c, gold) in enumerate(zip(owner, golds))])
    return to_questions(
        numbered(frame_of(Dataset.from_list(rows).with_format("arrow")[:], {}), "rows"), "train", False
    )[0]


@pytest.mark.parametrize("wanted", [1, 10, 40])
@pytest.mark.parametrize("seed", range(4))
def test_whole_texts_are_held_out_with_both_kinds_of_questions(wanted, seed):
    questions = many(seed)
    held, rest = hold_out(questions, wanted, seed)
    assert str(held.split) == "tuning" and held.features == rest.features
    assert not {*held["context"]} & {*rest["context"]}
    by_id = {row["id"]: row for row in questions}
    for part in (held, rest):
        assert [*part] == [by_id[identity] for identity in part["id"]]
        assert [*map(int, part["id"])] == sorted(map(int, part["id"]))
    assert len(held) + len(rest) == len(questions) and set(is_answerable(held)) == {True, False}
    largest = max(Counter(questions["context"][:]).values())
    assert wanted <= len(held) < wanted + largest + 10
    assert hold_out(questions, wanted, seed)[0]["id"][:] == held["id"][:]
    assert len({tuple(hold_out(questions, wanted, seed)[0]["id"][:]) for seed in range(6)}) > 4


def test_a_large_text_is_not_held_out_whole_and_rare_kinds_are_found():
    one = many(contexts=1, questions=60)
    assert hold_out(one, 6, 0) == (None, one)
    rows = many(0, contexts=20, questions=60, unanswerable=0.15)
    for seed in range(10):
        held, _ = hold_out(rows, 6, seed)
        assert 6 <= len(held) <= 12 and set(is_answerable(held)) == {True, False}
    for share in (0, 1):
        same = many(unanswerable=share)
        assert hold_out(same, 40, 0) == (None, same), "one kind alone has no threshold"
    sizes = ["large"] * 90 + [f"small {i // 2}" for i in range(10)]
    rows = hub_rows([(str(i), "q", context, [("a", context.index("a"))] * (i % 2)) for i, context in enumerate(sizes)])
    questions = questions_of(rows)
    assert all("large" not in hold_out(questions, 5, seed)[0]["context"][:] for seed in range(10))


def test_that_all_questions_are_of_one_kind_is_seen_at_once():
    questions, began = many(contexts=20_000, questions=20_000, unanswerable=0), time.perf_counter()
    assert hold_out(questions, 4_000, 0) == (None, questions) and time.perf_counter() - began < 2


def test_the_training_span_is_what_most_annotators_marked():
    cases = [
        ([("1921", 3)], (3, 7)),
        ([("1921", 3), ("in 1921", 0), ("in 1921", 0)], (0, 7)),
        ([("1921", 3), ("in 1921", 0)], (3, 7)),  # a tie: the first
        ([("in", 0), ("in", 11), ("in", 11)], (11, 13)),  # the same text elsewhere is another span
        ([("or", 8), ("in", 0), ("in", 11), ("in", 11), ("in", 0)], (0, 2)),
        ([], (-1, -1)),
    ]
    for golds, span in cases:
        assert training_span({"text": [t for t, _ in golds], "answer_start": [s for _, s in golds]}) == span
