"""SQuAD in every form gives the same questions, real files what their readme counts, bad examples one sentence."""

import csv
import json
from collections import Counter, defaultdict

import numpy as np
import pytest

from common.legacy.squad import Questions, flat_questions, read_questions
from tests.legacy.helpers import message

KARUN = "The Karun is the longest river of Iran. \U0001f30a It rises in the Zard Kuh."
TEHRAN = "تهران پایتخت ایران است.\r\nجمعیت آن ۹ میلیون نفر است."
# id, question, context, [(text, character)]: the last of them not answerable
EXAMPLES = [
    ("a1", "Which river is the longest?", KARUN, [("The Karun", 0), ("Karun", 4)]),
    ("a2", 'Where does "it" rise?', KARUN, [("the Zard Kuh", KARUN.index("the Zard"))]),
    ("3", "جمعیت تهران؟", TEHRAN, [("۹ میلیون نفر", TEHRAN.index("۹"))]),
    ("4", "Who drained it,\nand why?", KARUN, []),
]
UNMARKED = {"truth": True, "skip_bad": False}


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
    """Writes json, jsonl, csv, tsv or parquet by the ending of `path`."""
    if path.suffix == ".json":
        path.write_text(json.dumps(content, ensure_ascii=path.stem == "ascii"), encoding="utf-8")
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


def examples_of(questions: Questions) -> list[tuple]:
    """What `Questions` holds, in the form of `EXAMPLES`."""
    answers = questions.answers or [None] * len(questions)
    return [(questions.ids[i], questions.questions[i], questions.context(i), answers[i]) for i in range(len(questions))]


# Forms


def forms(folder):
    """Name -> a file with `EXAMPLES`, in all the forms that are read."""
    rows = hub_rows()
    as_json = [{**row, "answers": json.dumps(row["answers"])} for row in rows]
    as_python = [{**row, "answers": str(row["answers"])} for row in rows]
    listed = [
        {
            **row,
            "answers": [
                {"text": t, "answer_start": s} for t, s in zip(row["answers"]["text"], row["answers"]["answer_start"])
            ],
        }
        for row in rows
    ]
    listed_text = [{**row, "answers": str(row["answers"])} for row in listed]
    numbered = [(int(i) if i.isdigit() else i, *rest) for i, *rest in EXAMPLES]
    plain = nested(numbered, version=None)
    return {
        "v2.0": saved(folder / "v2.json", nested()),
        "v2.0, escaped": saved(folder / "ascii.json", nested()),
        "v1.1": saved(folder / "v1.json", nested(version="1.1")),
        "like PQuAD: no plausible answers, ids that are numbers": saved(folder / "persian.json", plain),
        "articles without titles": saved(folder / "untitled.json", nested(title=None)),
        "a list of articles": saved(folder / "articles.json", nested()["data"]),
        "rows": saved(folder / "rows.json", rows),
        "rows under data": saved(folder / "under.json", {"version": "hub", "data": rows}),
        "rows with a list of answers": saved(folder / "listed.json", listed),
        "jsonl": saved(folder / "rows.jsonl", rows),
        "jsonl with a list of answers": saved(folder / "listed.jsonl", listed),
        "csv, answers as json": saved(folder / "json.csv", as_json),
        "csv, answers as Python": saved(folder / "python.csv", as_python),
        "csv, list of answers as Python": saved(folder / "listed.csv", listed_text),
        "tsv": saved(folder / "json.tsv", as_json),
        "parquet": saved(folder / "rows.parquet", rows),
        "parquet with a list of answers": saved(folder / "listed.parquet", listed),
    }


@pytest.mark.parametrize("truth", [True, None, False])
def test_every_form_gives_the_same_questions(tmp_path, truth):
    expected = [(*rest, answers if truth is not False else None) for *rest, answers in EXAMPLES]
    for name, path in forms(tmp_path).items():
        found = read_questions(path, truth=truth, skip_bad=False)
        rank = {e[0]: i for i, e in enumerate(EXAMPLES)}
        # Nested files go by article.
        order = sorted(range(len(found)), key=lambda i: rank[found.ids[i]])
        assert [examples_of(found)[i] for i in order] == expected, name
        assert sorted(found.contexts) == sorted({KARUN, TEHRAN}), name
        assert found.source == str(path) and found.skipped == {}
        assert (found.answers is None) == (truth is False), name


def test_rows_of_a_hub_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list(hub_rows()).to_list()
    found = flat_questions(rows, "hub/id, split train", truth=True, skip_bad=False)
    assert examples_of(found) == EXAMPLES and found.source == "hub/id, split train"


def test_properties_tell_what_is_answerable(tmp_path):
    found = read_questions(saved(tmp_path / "rows.json", hub_rows()), **UNMARKED)
    assert found.answerable.tolist() == [True, True, True, False]
    assert found.label_counts() == {"answerable": 3, "unanswerable": 1}
    assert found.golds == [["The Karun", "Karun"], ["the Zard Kuh"], ["۹ میلیون نفر"], []]
    assert list(found.rows()) == EXAMPLES


def test_an_empty_answer_text_is_no_answer(tmp_path):
    rows = hub_rows([("1", "q", KARUN, [("", 0)]), ("2", "q", KARUN, [("", 0), ("Karun", 4)])])
    found = read_questions(saved(tmp_path / "rows.json", rows), **UNMARKED)
    assert found.answers == [[], [("Karun", 4)]]


COUNTS = {  # shared/data/README.md: paragraphs, questions, answerable, unanswerable
    "squad_v2_train.json": (429, 4065, 1910, 2155),
    "squad_v2_dev.json": (217, 2013, 1000, 1013),
    "pquad_validation.json": (1103, 7976, 5995, 1981),
}


@pytest.mark.parametrize("name", COUNTS)
def test_real_files_give_what_their_readme_counts(shared_data, name):
    path = shared_data / "squad_v2" / name
    paragraphs, questions, answerable, unanswerable = COUNTS[name]
    found = read_questions(path, **UNMARKED)
    assert len(found) == questions == len(set(found.ids))
    assert found.label_counts() == {"answerable": answerable, "unanswerable": unanswerable}
    # Against the file itself, walked through by hand.
    told = [
        (str(q["id"]), q["question"], p["context"], [(a["text"], a["answer_start"]) for a in q["answers"]])
        for article in json.loads(path.read_bytes())["data"]
        for p in article["paragraphs"]
        for q in p["qas"]
    ]
    assert examples_of(found) == told
    assert len(found.contexts) == len(set(found.contexts)) == len({context for _, _, context, _ in told}) <= paragraphs
    for i, ((start, end), golds) in enumerate(zip(found.training_spans(), found.golds)):
        assert found.context(i)[start:end] in golds if golds else (start, end) == (-1, -1)


# Truth that may be there


@pytest.mark.parametrize("ending", ["json", "flat.json", "jsonl", "csv", "parquet"])
def test_answers_that_only_some_questions_have_are_left_aside(tmp_path, ending):
    content, rows = nested(), hub_rows()
    del content["data"][0]["paragraphs"][0]["qas"][1]["answers"]
    rows[1]["answers"] = None
    if ending == "jsonl":
        del rows[1]["answers"]
    path = saved(tmp_path / f"some.{ending}", content if ending == "json" else rows)
    found = read_questions(path, truth=None, skip_bad=False)
    assert found.answers is None and sorted(found.ids) == sorted(e[0] for e in EXAMPLES)
    assert "question 'a2'" in message(read_questions, path, **UNMARKED)


@pytest.mark.parametrize("ending", ["json", "flat.json", "jsonl", "csv", "parquet"])
def test_questions_alone_are_read_unless_truth_is_needed(tmp_path, ending):
    rows = [{k: v for k, v in row.items() if k != "answers"} for row in hub_rows()]
    content = nested(with_answers=False, version=None) if ending == "json" else rows
    path = saved(tmp_path / f"alone.{ending}", content)
    for truth in (None, False):
        assert read_questions(path, truth=truth, skip_bad=False).answers is None
    sentence = message(read_questions, path, **UNMARKED)
    assert str(path) in sentence and "'answers'" in sentence


def test_bad_answers_stop_unless_they_are_left_aside(tmp_path):
    rows = hub_rows([("1", "q", KARUN, [("Karun", 5)])])
    path = saved(tmp_path / "rows.json", rows)
    assert "answer_start 5" in message(read_questions, path, truth=None, skip_bad=False)
    assert len(read_questions(path, truth=False, skip_bad=False)) == 1


# Bad examples

GOOD = ("good", "Which river?", KARUN, [("Karun", 4)])


def bad(**changes) -> dict:
    """A hub row called 'bad' with `changes`."""
    return {**hub_rows([("bad", "Which river?", KARUN, [("Karun", 4)])])[0], **changes}


BAD_ROWS = {  # what is wrong -> (row, reason that is counted, what the sentence must contain)
    "one character off": (
        bad(answers={"text": ["Karun"], "answer_start": [3]}),
        "answer_start does not match",
        ["'Karun'", "answer_start 3"],
    ),
    "counted in another unit": (
        bad(answers={"text": ["It rises"], "answer_start": [KARUN.index("It rises") + 1]}),
        "answer_start does not match",
        ["'It rises'"],
    ),
    "from the end": (
        bad(answers={"text": ["Kuh"], "answer_start": [-4]}),
        "answer_start does not match",
        ["answer_start -4"],
    ),
    "behind the end": (
        bad(answers={"text": ["Karun"], "answer_start": [10_000]}),
        "answer_start does not match",
        ["answer_start 10000"],
    ),
    "only the second is wrong": (
        bad(answers={"text": ["Karun", "river"], "answer_start": [4, 4]}),
        "answer_start does not match",
        ["'river'", "answer_start 4"],
    ),
    "the same id": (bad(id="good"), "duplicate id", ["twice"]),
    "no id": (bad(id=None), "no id", ["no id"]),
    "no question": (bad(question=""), "empty question", ["question is empty"]),
    "a blank question": (bad(question=" \n\u00a0"), "empty question", ["question is empty"]),
    "a missing question": (bad(question=None), "empty question", ["question is empty"]),
    "no context": (bad(context="", answers={"text": [], "answer_start": []}), "empty context", ["context is empty"]),
    "a missing context": (bad(context=None), "empty context", ["context is empty"]),
    "a number for a question": (bad(question=5), "question of a wrong type", ["question must be text", "5"]),
    "a list for a context": (bad(context=["a"]), "context of a wrong type", ["context must be text", "['a']"]),
    "half a surrogate pair": (bad(question="\ud83d?"), "question is not Unicode", ["surrogate"]),
    "no answers": (bad(answers=None), "no answers", ["'answers'", "empty list"]),
    "answer_start is text": (
        bad(answers={"text": ["Karun"], "answer_start": ["4"]}),
        "answer of a wrong type",
        ["'Karun', '4'"],
    ),
    "answer_start is a truth value": (
        bad(answers={"text": ["T"], "answer_start": [False]}),
        "answer of a wrong type",
        ["False"],
    ),
    "answer_start is a fraction": (
        bad(answers={"text": ["Karun"], "answer_start": [4.0]}),
        "answer of a wrong type",
        ["4.0"],
    ),
    "answer text is a number": (bad(answers={"text": [4], "answer_start": [4]}), "answer of a wrong type", ["4, 4"]),
    "a start too few": (
        bad(answers={"text": ["Karun", "The"], "answer_start": [4]}),
        "answers of a wrong form",
        ["'answers' must be"],
    ),
    "a start too many": (
        bad(answers={"text": [], "answer_start": [4]}),
        "answers of a wrong form",
        ["'answers' must be"],
    ),
    "no starts": (bad(answers={"text": ["Karun"]}), "answers of a wrong form", ["'answers' must be"]),
    "text instead of lists": (
        bad(answers={"text": "Karun", "answer_start": 4}),
        "answers of a wrong form",
        ["'answers' must be"],
    ),
    "nothing but text": (bad(answers="Karun"), "answers of a wrong form", ["'answers' must be", "'Karun'"]),
    "a number": (bad(answers=4), "answers of a wrong form", ["'answers' must be"]),
    "a list of texts": (bad(answers=["Karun"]), "answers of a wrong form", ["'answers' must be"]),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_stops_with_file_and_question_or_is_counted(tmp_path, kind):
    row, reason, words = BAD_ROWS[kind]
    path = saved(tmp_path / "ascii.json", [*hub_rows([GOOD]), row])
    sentence = message(read_questions, path, **UNMARKED)
    named = "question 2 of the file" if row["id"] is None else f"question {row['id']!r}"
    assert sentence.startswith(f"{path}: {named}: ")
    assert all(word in sentence for word in [*words, "--on_bad_example skip"])
    found = read_questions(path, truth=True, skip_bad=True)
    assert found.skipped == {reason: 1} and examples_of(found) == [GOOD]


def test_nested_files_say_the_same_of_a_bad_question(tmp_path):
    content = nested([GOOD, ("x", "q", KARUN, [("Karun", 5)]), ("y", "q", KARUN, []), ("z", "", KARUN, [])])
    qas = content["data"][0]["paragraphs"][0]["qas"]
    del qas[2]["answers"]
    path = saved(tmp_path / "bad.json", content)
    assert message(read_questions, path, **UNMARKED).startswith(f"{path}: question 'x': the answer 'Karun' does not")
    found = read_questions(path, truth=True, skip_bad=True)
    assert examples_of(found) == [GOOD]
    assert found.skipped == {"answer_start does not match": 1, "no answers": 1, "empty question": 1}
    qas[1:] = [{"id": "w", "question": "q", "answers": [{"text": "Karun"}]}]
    path = saved(tmp_path / "bad.json", content)
    assert message(read_questions, path, **UNMARKED).startswith(f"{path}: question 'w': 'answers' must be")
    assert read_questions(path, truth=True, skip_bad=True).skipped == {"answers of a wrong form": 1}


def test_an_impossible_question_with_an_answer_contradicts_itself(tmp_path):
    content = nested([GOOD, ("x", "q", KARUN, [("Karun", 4)])])
    content["data"][0]["paragraphs"][0]["qas"][1]["is_impossible"] = True
    path = saved(tmp_path / "bad.json", content)
    sentence = message(read_questions, path, **UNMARKED)
    assert sentence.startswith(f"{path}: question 'x': is_impossible is true") and "'Karun'" in sentence
    found = read_questions(path, truth=True, skip_bad=True)
    assert found.skipped == {"contradiction": 1} and found.ids == ["good"]


def test_unreadable_csv_cells_and_blank_ones(tmp_path):
    rows = hub_rows([GOOD, ("x", "q", KARUN, []), ("y", "q", KARUN, []), ("z", "q", KARUN, [])])
    cells = [json.dumps(rows[0]["answers"]), "{'text': [", " ", "__import__('os').getcwd()"]
    path = saved(tmp_path / "rows.csv", [{**row, "answers": cell} for row, cell in zip(rows, cells)])
    sentence = message(read_questions, path, **UNMARKED)
    assert sentence.startswith(f"{path}: question 'x': 'answers' must be") and '"answer_start": [0]' in sentence
    found = read_questions(path, truth=True, skip_bad=True)
    assert found.skipped == {"answers of a wrong form": 2, "no answers": 1} and examples_of(found) == [GOOD]


def test_skipped_ids_are_free_again_and_reasons_add_up(tmp_path):
    rows = [bad(question=""), bad(), bad(), bad(), bad(id="other", question=None)]
    found = read_questions(saved(tmp_path / "rows.json", rows), truth=True, skip_bad=True)
    assert found.ids == ["bad"] and found.skipped == {"empty question": 2, "duplicate id": 2}


def test_an_id_may_be_a_number_or_the_same_as_text(tmp_path):
    path = saved(tmp_path / "rows.jsonl", [bad(id="7"), bad(id=7)])
    assert message(read_questions, path, **UNMARKED).startswith(f"{path}: question '7': the id is there twice")


def test_a_file_with_nothing_usable(tmp_path):
    path = saved(tmp_path / "rows.json", [bad(question="")])
    sentence = message(read_questions, path, truth=True, skip_bad=True)
    assert sentence.startswith(f"{path}: no usable question") and "'empty question': 1" in sentence


@pytest.mark.parametrize("missing", ["id", "question", "context", "answers"])
def test_missing_columns_are_named(tmp_path, missing):
    rows = [{k: v for k, v in row.items() if k != missing} for row in hub_rows()]
    sentence = message(read_questions, saved(tmp_path / "rows.jsonl", rows), **UNMARKED)
    assert f"no column {missing!r};" in sentence and "'title'" in sentence


QA = {"id": "1", "question": "q", "answers": []}
MALFORMED = {  # content -> what the sentence must contain
    "no paragraphs": ([{"paragraphs": []}, {"title": "T"}], ["article 2 needs 'paragraphs'", "it has 'title'"]),
    "an article that is text": ([{"paragraphs": []}, "T"], ["article 2 needs 'paragraphs'", "it is 'T'"]),
    "an empty article": ([{"paragraphs": []}, {}], ["article 2 needs 'paragraphs'", "it has nothing"]),
    "paragraphs that are no list": ([{"title": "T", "paragraphs": 5}], ["article 'T' needs a list of 'paragraphs'"]),
    "paragraphs that are an object": ([{"title": "T", "paragraphs": {"context": ""}}], ["a list of 'paragraphs'"]),
    "a paragraph that is text": ([{"title": "T", "paragraphs": ["text"]}], ["article 'T'", "'context', 'qas'"]),
    "no qas": ([{"title": "T", "paragraphs": [{"context": "c"}]}], ["article 'T'", "'qas'", "it has 'context'"]),
    "no context": ([{"title": "T", "paragraphs": [{"qas": [QA]}]}], ["article 'T'", "'context'", "it has 'qas'"]),
    "qas that are no list": (
        [{"title": "T", "paragraphs": [{"context": "c", "qas": None}]}],
        ["article 'T'", "a list of 'qas'", "it is None"],
    ),
    "a question without id": (
        [{"paragraphs": [{"context": "c", "qas": [{"question": "q"}]}]}],
        ["article 1: a question needs 'id', 'question'"],
    ),
    "a question that is a number": (
        [{"paragraphs": [{"context": "c", "qas": [7]}]}],
        ["article 1: a question needs 'id', 'question'", "it is 7"],
    ),
    "no questions at all": ([{"paragraphs": [{"context": "c", "qas": []}]}], ["no usable question"]),
}


@pytest.mark.parametrize("kind", MALFORMED)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_malformed_nesting_is_told_by_article(tmp_path, kind, skip_bad):
    data, words = MALFORMED[kind]
    path = saved(tmp_path / "bad.json", {"version": "v2.0", "data": data})
    sentence = message(read_questions, path, truth=True, skip_bad=skip_bad)
    assert sentence.startswith(f"{path}: ") and all(word in sentence for word in words)


# Parts


def many(seed=0, contexts=30, questions=200) -> Questions:
    """Random questions; every context is asked about, in no order."""
    random = np.random.default_rng(seed)
    owner = np.concatenate([np.arange(contexts), random.integers(0, contexts, questions - contexts)])
    random.shuffle(owner)
    rows = hub_rows([(str(i), f"question {i}", f"context {c}", [("context", 0)][: i % 2]) for i, c in enumerate(owner)])
    return flat_questions(rows, "rows", truth=True, skip_bad=False)


def test_take_keeps_order_and_only_the_contexts_it_needs():
    questions = many()
    random = np.random.default_rng(1)
    for count in (0, 1, 7, 200):
        indices = random.permutation(200)[:count]
        part = questions.take(indices)
        assert examples_of(part) == [examples_of(questions)[i] for i in indices]
        assert sorted(part.contexts) == sorted({questions.context(i) for i in indices})
        assert len(part.context_of) == count and part.source == questions.source
    unknown = Questions(questions.ids, questions.questions, questions.contexts, questions.context_of, None, "s")
    assert unknown.take(np.array([3, 1])).answers is None


@pytest.mark.parametrize("count", [0, 1, 6, 7, 50, 199, 200, 500])
@pytest.mark.parametrize("seed", range(4))
def test_hold_out_takes_whole_contexts_and_hardly_more_than_asked(count, seed):
    questions = many(seed)
    held, rest = questions.hold_out(count, seed)
    assert not set(held.contexts) & set(rest.contexts)
    assert sorted(held.ids + rest.ids, key=int) == questions.ids
    by_id = {e[0]: e for e in examples_of(questions)}
    for part in (held, rest):
        assert examples_of(part) == [by_id[identity] for identity in part.ids]
        assert [int(i) for i in part.ids] == sorted(int(i) for i in part.ids)
    assert len(held) >= min(count, len(questions))
    # Without some context of those held out there would be too few: none was taken in vain.
    asked = Counter(held.context_of.tolist())
    assert len(held) - max(asked.values()) < max(count, 1) or count > len(questions)
    again, _ = questions.hold_out(count, seed)
    assert again.ids == held.ids


def test_hold_out_is_random():
    questions = many()
    assert len({tuple(questions.hold_out(20, seed)[0].ids) for seed in range(8)}) == 8


def test_the_training_span_is_what_most_annotators_marked():
    context = "in 1921 or in 1922"
    cases = [
        ([("1921", 3)], (3, 7)),
        ([("1921", 3), ("in 1921", 0), ("in 1921", 0)], (0, 7)),
        ([("1921", 3), ("in 1921", 0)], (3, 7)),  # a tie: the first
        ([("in", 0), ("in", 11), ("in", 11)], (11, 13)),  # the same text elsewhere is another span
        ([("or", 8), ("in", 0), ("in", 11), ("in", 11), ("in", 0)], (0, 2)),
        ([], (-1, -1)),
    ]
    rows = hub_rows([(str(i), "When?", context, answers) for i, (answers, _) in enumerate(cases)])
    spans = flat_questions(rows, "rows", **UNMARKED).training_spans()
    assert spans.tolist() == [list(span) for _, span in cases]
    assert np.issubdtype(spans.dtype, np.integer)
