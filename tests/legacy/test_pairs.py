"""Pairs from every kind of table; labels by name in any order and spelling; every refusal one sentence."""

# ruff: noqa: RUF001 (Persian letters are no mistaken Latin ones)

import csv
import json
from collections import Counter

import numpy as np
import pytest

from common.legacy.class_names import classes_of_checkpoint
from common.legacy.data import read_rows
from common.legacy.pairs import describe_splits, pairs_from_rows, read_pairs, word_overlap
from tests.legacy.helpers import message

PERSIAN = {"neutral": ("n",), "entailment": ("e",), "contradiction": ("c",)}
ENGLISH = {"entailment": ("e",), "neutral": ("n",), "contradiction": ("c",)}
PLAIN = {"classes": ENGLISH, "truth": True, "skip_bad": False}
TEXTS = [("A man sleeps.", "Someone is asleep."), ("A man sleeps.", "He runs."), ("It rained.", "It rained at noon.")]
LABELS = ["entailment", "contradiction", "neutral"]
CHECKPOINT = ("contradiction", "neutral", "entailment")


def table(labels=LABELS, texts=TEXTS, columns=("premise", "hypothesis", "label"), **more) -> list[dict]:
    """Rows with these labels; `more` has further columns, a value for each row."""
    rows = [dict(zip(columns, (*pair, label))) for pair, label in zip(texts, labels)]
    return [{**row, **{name: values[i] for name, values in more.items()}} for i, row in enumerate(rows)]


def labelled(pairs) -> list[str]:
    return [pairs.names[i] for i in pairs.labels]


# Real data


@pytest.mark.parametrize(
    "split, counts", [("Train", (2448, 2429, 2389)), ("Val", (523, 515, 499)), ("Test", (535, 519, 510))]
)
def test_farstail_is_what_its_readme_counts(shared_data, split, counts):
    path = shared_data / "farstail" / f"{split}-word.csv"
    pairs = read_pairs(path, classes=PERSIAN, truth=True, skip_bad=False)
    assert pairs.label_counts() == dict(zip(PERSIAN, counts)) and list(pairs.label_counts()) == list(PERSIAN)
    assert len(pairs) == sum(counts) and pairs.skipped == {} and pairs.source == str(path)
    assert pairs.ids == [str(n) for n in range(1, len(pairs) + 1)]
    assert pairs.labels.dtype == np.int64
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    letter = {"n": "neutral", "e": "entailment", "c": "contradiction"}
    assert [(r["premise"], r["hypothesis"], letter[r["label"]]) for r in rows] == [row[1:] for row in pairs.rows()]
    if split == "Test":
        words, names = {"0": "easy", "1": "hard"}, ("hard(hypothesis)", "hard(overlap)")
        assert pairs.groups == {name: [words[row[name]] for row in rows] for name in names}
        assert pairs.groups["hard(hypothesis)"].count("hard") == 699
    else:
        assert pairs.groups == {}


def test_what_splits_share_is_counted(shared_data):
    splits = {
        name: read_pairs(shared_data / "farstail" / f"{name}-word.csv", classes=PERSIAN, truth=True, skip_bad=False)
        for name in ("Train", "Val", "Test")
    }
    expected = []
    for key, part in (("premise", slice(1, 2)), ("example", slice(1, 3))):
        keys = {name: [row[part] for row in pairs.rows()] for name, pairs in splits.items()}
        for one, two in (("Train", "Val"), ("Train", "Test"), ("Val", "Test")):
            seen = set(keys[one])
            count = sum(k in seen for k in keys[two])
            if count:
                expected.append((key, [one, two], count))
    described = describe_splits(splits, {name: (len(p), "all") for name, p in splits.items()}, {n: {} for n in splits})
    assert [(o["key"], o["between"], o["examples"]) for o in described["overlaps"]] == expected
    # Three of training in the test split: their premises belong to more pairs than these three.
    few = {"train": splits["Train"].take(np.arange(5)), "test": splits["Train"].take(np.array([4, 0, 6]))}
    described = describe_splits(few, {"train": (7266, "x"), "test": (7266, "y")}, {"train": {}, "test": {"tokens": 7}})
    premises = [p in few["train"].premises for p in few["test"].premises]
    assert described["overlaps"] == [
        {"between": ["train", "test"], "key": "premise", "examples": sum(premises), "share": sum(premises) / 3},
        {"between": ["train", "test"], "key": "example", "examples": 2, "share": 2 / 3},
    ]
    test = described["splits"]["test"]
    assert test["statistics"] == {"premises": len(set(few["test"].premises)), "tokens": 7}
    assert (test["examples"], test["available"], test["selection"]) == (3, 7266, "y")
    assert test["label_counts"] == few["test"].label_counts() and test["skipped"] == {}


def test_mnli_in_three_layouts(shared_data):
    dev = read_pairs(shared_data / "mnli" / "mnli_dev_matched.jsonl", **PLAIN)
    assert dev.label_counts() == {"entailment": 3479, "neutral": 3123, "contradiction": 3213}
    train = read_pairs(shared_data / "mnli" / "mnli_train_9999.jsonl", **PLAIN)
    assert train.label_counts() == {"entailment": 3408, "neutral": 3313, "contradiction": 3278}
    path = shared_data / "mnli" / "mnli_train_genre_480.tsv"
    glue = read_pairs(path, **PLAIN)
    assert glue.label_counts() == dict.fromkeys(ENGLISH, 160)
    assert Counter(glue.groups["genre"]) == {
        "telephone": 104,
        "fiction": 102,
        "slate": 101,
        "government": 91,
        "travel": 82,
    }
    rows = read_rows(path)
    assert glue.ids == [row["pairID"] for row in rows]
    assert glue.premises == [row["sentence1"] for row in rows] and sum('"' in p for p in glue.premises) == 16


# Columns and ids


@pytest.mark.parametrize(
    "columns",
    [
        ("premise", "hypothesis", "label"),
        ("sentence1", "sentence2", "gold_label"),
        ("sentence_A", "sentence_B", "entailment_label"),
        ("text_a", "text_b", "label"),
        ("Premise", "HYPOTHESIS", "Label"),
        ("text1", "text2", "label_text"),
    ],
)
def test_well_known_columns_are_found(columns):
    pairs = pairs_from_rows(table(columns=columns), "rows", **PLAIN)
    assert (list(zip(pairs.premises, pairs.hypotheses)), labelled(pairs)) == (TEXTS, LABELS)


def test_names_are_preferred_to_numbers_and_given_columns_to_all():
    rows = table(labels=[0, 2, 1], label_text=LABELS, other=LABELS[::-1], asked=["x", "y", "z"])
    assert labelled(pairs_from_rows(rows, "rows", **PLAIN)) == LABELS
    given = {"premise": "asked", "hypothesis": None, "label": "other"}
    pairs = pairs_from_rows(rows, "rows", **PLAIN, columns=given)
    assert pairs.premises == ["x", "y", "z"] and pairs.hypotheses == [h for _, h in TEXTS]
    assert labelled(pairs) == LABELS[::-1]


def test_wrong_columns_name_what_is_there_and_what_is_wanted():
    sentence = message(pairs_from_rows, table(), "f.csv", **PLAIN, columns={"premise": "premisse"})
    assert sentence.startswith("f.csv: no column 'premisse'; it has 'premise', 'hypothesis', 'label'")
    for i, part in enumerate(("premise", "hypothesis", "label")):
        columns = ["premise", "hypothesis", "label"]
        columns[i] = "x"
        sentence = message(pairs_from_rows, table(columns=columns), "f.csv", **PLAIN)
        assert sentence.startswith(f"f.csv: no column for the {part}; it has ") and f"--{part}_column" in sentence
        assert "'x'" in sentence and repr(part) in sentence


@pytest.mark.parametrize(
    "more, ids",
    [
        ({}, ["1", "2", "3"]),
        ({"pairID": ["7e", "7c", "8n"]}, ["7e", "7c", "8n"]),
        ({"idx": [0, 1, 2]}, ["0", "1", "2"]),
        ({"idx": [5, 6, 7], "id": ["a", "b", "c"]}, ["a", "b", "c"]),
        ({"id": ["a", "a", "c"]}, ["1", "2", "3"]),
        ({"id": ["a", None, "c"], "idx": [3, 4, 5]}, ["3", "4", "5"]),
        ({"promptID": ["1", "2", "9"]}, ["1", "2", "3"]),
    ],
)
def test_ids_where_all_are_different(more, ids):
    assert pairs_from_rows(table(**more), "rows", **PLAIN).ids == ids


# Labels


@pytest.mark.parametrize(
    "labels", [["e", "c", "n"], ["Entailment", "CONTRADICTION", " neutral "], ["E", "contradiction", "N"]]
)
@pytest.mark.parametrize("classes", [PERSIAN, ENGLISH])
def test_every_spelling_in_the_order_of_the_known_classes(labels, classes):
    pairs = pairs_from_rows(table(labels), "rows", classes=classes, truth=True, skip_bad=False)
    assert pairs.names == tuple(classes) and labelled(pairs) == LABELS
    assert list(pairs.rows()) == [(str(i + 1), *TEXTS[i], LABELS[i]) for i in range(3)]


@pytest.mark.parametrize("labels", [[0, 2, 1], ["0", "2", "1"], [0.0, 2.0, 1.0], ["0.0", "2.0", "1.0"]])
def test_numbers_need_to_be_explained(labels):
    sentence = message(pairs_from_rows, table(labels), "f.csv", **PLAIN)
    assert sentence.startswith("f.csv: row 1: the label is the number 0") and "--label_order" in sentence
    pairs = pairs_from_rows(table(labels), "f.csv", **PLAIN, label_order=("e", "Neutral", "contradiction"))
    assert labelled(pairs) == LABELS and pairs.names == tuple(ENGLISH)
    other = pairs_from_rows(table(labels), "f.csv", **PLAIN, label_order=("neutral", "entailment", "contradiction"))
    assert labelled(other) == ["neutral", "contradiction", "entailment"]
    own = pairs_from_rows(table(labels), "f.csv", **PLAIN, label_order=("yes", "no", "maybe", "never"))
    assert own.names == ("yes", "no", "maybe") and labelled(own) == ["yes", "maybe", "no"]
    sentence = message(pairs_from_rows, table(labels), "f.csv", **PLAIN, label_order=("yes", "no"))
    assert sentence.startswith("f.csv: row 2: the label is the number 2, for which --label_order has no name")
    sentence = message(pairs_from_rows, table(labels), "f.csv", **PLAIN, label_order=("n", "e", "Neutral"))
    assert sentence.startswith("--label_order n,e,Neutral: names the class 'neutral' twice")


def test_own_classes_are_in_alphabetical_order():
    pairs = pairs_from_rows(table(["yes", "no", "no"]), "rows", **PLAIN)
    assert pairs.names == ("no", "yes") and pairs.label_counts() == {"no": 2, "yes": 1}
    two = pairs_from_rows(table(["not_entailment", "entailment", "entailment"]), "rows", **PLAIN)
    assert two.names == ("entailment", "not_entailment")
    assert pairs_from_rows(table([True, False, True]), "rows", **PLAIN).names == ("False", "True")


def test_a_mistyped_class_beside_all_the_known_ones_is_no_class():
    rows = table([*LABELS, "entailmnt"], [*TEXTS, TEXTS[0]])
    sentence = message(pairs_from_rows, rows, "f.csv", **PLAIN)
    assert sentence.startswith("f.csv: row 4: the label 'entailmnt' is not among the classes 'entailment', 'neutral'")
    pairs = pairs_from_rows(rows, "f.csv", **{**PLAIN, "skip_bad": True})
    assert labelled(pairs) == LABELS and pairs.skipped == {"unknown label": 1}


def test_a_class_that_training_lacks():
    train = pairs_from_rows(table(["e", "e", "c"]), "train.csv", **PLAIN)
    assert train.names == ("entailment", "contradiction")
    fewer = pairs_from_rows(table(["c", "c", "c"]), "dev.csv", **PLAIN, names=train.names)
    assert fewer.names == train.names and fewer.labels.tolist() == [1, 1, 1]
    sentence = message(pairs_from_rows, table(["e", "c", "n"]), "dev.csv", **PLAIN, names=train.names)
    assert sentence.startswith(
        "dev.csv: row 3: the label 'n' is not among the classes of the training data, 'entailment', 'contradiction'"
    )
    own = pairs_from_rows(table(["yes", "no", "no"]), "train.csv", **PLAIN)
    sentence = message(pairs_from_rows, table(["no", "perhaps", "no"]), "dev.csv", **PLAIN, names=own.names)
    assert sentence.startswith(
        "dev.csv: row 2: the label 'perhaps' is not among the classes of the training data, 'no', 'yes'"
    )


def test_no_gold_label_is_left_out_and_counted():
    rows = table(["-", "e", "c"], pairID=["p", "q", "r"], genre=["x", "y", "z"])
    for truth in (True, None):
        pairs = pairs_from_rows(rows, "rows", classes=ENGLISH, truth=truth, skip_bad=False)
        assert pairs.ids == ["q", "r"] and labelled(pairs) == ["entailment", "contradiction"]
        assert pairs.groups == {"genre": ["y", "z"]} and pairs.skipped == {"no gold label": 1}
        assert pairs.hypotheses == [h for _, h in TEXTS[1:]]
    order = {"label_order": ("entailment", "neutral", "contradiction")}
    pairs = pairs_from_rows(table([2, -1, 0]), "rows", **PLAIN, **order)
    assert labelled(pairs) == ["contradiction", "entailment"] and pairs.skipped == {"no gold label": 1}


def test_labels_where_there_are_any():
    settings = {"classes": ENGLISH, "truth": None, "skip_bad": False}
    bare = [{"premise": p, "hypothesis": h, "genre": "x"} for p, h in TEXTS]
    hidden = [table(labels) for labels in ([None] * 3, [""] * 3, [-1] * 3, ["-"] * 3)]
    for rows in (bare, *hidden):
        pairs = pairs_from_rows(rows, "rows", **settings, names=CHECKPOINT)
        assert len(pairs) == 3 and pairs.labels is None and pairs.names == CHECKPOINT and pairs.skipped == {}
        assert list(pairs.rows()) == [(str(i + 1), *TEXTS[i], None) for i in range(3)]
        assert "label_counts" not in pairs.describe(3, "all") and pairs.take(np.array([1])).labels is None
    assert pairs_from_rows(bare, "rows", **settings).names == ()
    assert labelled(pairs_from_rows(table(), "rows", **settings)) == LABELS
    assert "row 2: the label is empty" in message(pairs_from_rows, table(["e", None, "c"]), "rows", **settings)
    for rows in hidden:
        assert "f.csv: no row has a label in the column 'label'" in message(pairs_from_rows, rows, "f.csv", **PLAIN)


# Bad pairs


@pytest.mark.parametrize(
    "column, value, reason, sentence",
    [
        ("premise", "", "empty premise", "the premise is empty"),
        ("premise", " \n", "empty premise", "the premise is empty"),
        ("hypothesis", None, "empty hypothesis", "the hypothesis is empty"),
        ("hypothesis", 7, "hypothesis of a wrong type", "the hypothesis must be text, not 7"),
        ("premise", "\ud800", "premise is not Unicode", "the premise has half a surrogate pair"),
        ("label", "", "no label", "the label is empty"),
        ("label", None, "no label", "the label is empty"),
        ("label", float("nan"), "no label", "the label is empty"),
    ],
)
def test_bad_pairs_stop_the_run_or_are_counted(column, value, reason, sentence):
    rows = table()
    rows[1][column] = value
    said = message(pairs_from_rows, rows, "f.json", **PLAIN)
    assert said.startswith(f"f.json: row 2: {sentence}") and said.endswith("mend it or pass --on_bad_example skip")
    pairs = pairs_from_rows(rows, "f.json", **{**PLAIN, "skip_bad": True})
    assert pairs.skipped == {reason: 1} and pairs.ids == ["1", "3"]
    assert labelled(pairs) == [LABELS[0], LABELS[2]] and pairs.premises == [TEXTS[0][0], TEXTS[2][0]]


def test_nothing_usable_and_labels_that_are_no_names():
    rows = table(texts=[("", "x")] * 3)
    sentence = message(pairs_from_rows, rows, "f.csv", **{**PLAIN, "skip_bad": True})
    assert sentence == "f.csv: no usable pair ({'empty premise': 3})"
    rows = table(["e", ["e"], "c"])
    assert "f.csv: row 2: the label must be a name or a number" in message(pairs_from_rows, rows, "f.csv", **PLAIN)


def test_every_format_gives_the_same_pairs(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = table(["n", "e", "c"], [('He said "no"\nand left', "x"), ("الف، ب", "y"), ("tab\there", "z")])
    for ending, delimiter in (("csv", ","), ("tsv", "\t")):
        with (tmp_path / f"r.{ending}").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    (tmp_path / "r.json").write_text(json.dumps({"data": rows}), encoding="utf-8")
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "r.parquet")
    expected = [(str(i + 1), r["premise"], r["hypothesis"], n) for i, (r, n) in enumerate(zip(rows, ENGLISH_ORDER))]
    for ending in ("csv", "tsv", "json", "jsonl", "parquet"):
        assert list(read_pairs(tmp_path / f"r.{ending}", **PLAIN).rows()) == expected, ending


ENGLISH_ORDER = ("neutral", "entailment", "contradiction")


# Into another order


def test_relabelled_keeps_every_name():
    rows = table(["e", "n", "n"], genre=["x", "y", "z"])
    pairs = pairs_from_rows(rows, "f.csv", **PLAIN)
    turned = pairs.relabelled(CHECKPOINT)
    assert turned.names == CHECKPOINT and turned.labels.tolist() == [2, 1, 1] and turned.labels.dtype == np.int64
    assert list(turned.rows()) == list(pairs.rows()) and turned.groups == pairs.groups
    assert turned.label_counts() == {"contradiction": 0, "neutral": 2, "entailment": 1}
    assert list(turned.relabelled(pairs.names).labels) == list(pairs.labels)
    assert list(turned.take(np.array([1])).relabelled(("neutral",)).labels) == [0]  # the others have no example
    sentence = message(pairs.relabelled, ("yes", "neutral"))
    assert sentence.startswith("f.csv: the classes 'entailment' are not among 'yes', 'neutral'")


def test_the_classes_of_a_checkpoint_by_name():
    named = {0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"}
    settings = {"classes": ENGLISH, "label_order": None}
    for id2label in (named, {"2": "e", "0": "c", "1": "n"}, dict(reversed(named.items()))):
        assert classes_of_checkpoint(id2label, "m", tuple(ENGLISH), **settings) == CHECKPOINT
        assert classes_of_checkpoint(id2label, "m", ("entailment",), **settings) == CHECKPOINT
        assert classes_of_checkpoint(id2label, "m", (), **settings) == CHECKPOINT  # texts without labels
    own = classes_of_checkpoint({0: "Yes", 1: "no"}, "m", ("no", "yes"), **settings)
    assert own == ("yes", "no"), "in the data's spelling"
    # Ten and more classes are in the order of their numbers, not of their digits.
    many = {str(i): f"c{i:02}" for i in range(12)}
    found = classes_of_checkpoint(many, "m", tuple(many.values()), **settings)
    assert found == tuple(many.values())


def test_nameless_classes_of_a_checkpoint():
    generic = {i: f"LABEL_{i}" for i in range(3)}
    ask = {"classes": ENGLISH, "label_order": None}
    sentence = message(classes_of_checkpoint, generic, "some/model", tuple(ENGLISH), **ask)
    assert sentence.startswith("some/model: ") and "LABEL_0, LABEL_1, LABEL_2" in sentence
    assert "--label_order entailment,neutral,contradiction" in sentence
    order = ("c", "Neutral", "entailment")
    found = classes_of_checkpoint(generic, "m", tuple(ENGLISH), classes=ENGLISH, label_order=order)
    assert found == CHECKPOINT
    twice = ("neutral", "contradiction", "n")
    assert "twice" in message(classes_of_checkpoint, generic, "m", (), classes=ENGLISH, label_order=twice)
    sentence = message(classes_of_checkpoint, generic, "m", ("a", "b"), classes=ENGLISH, label_order=("a", "b"))
    assert "3 classes" in sentence and "--label_order names 2" in sentence


@pytest.mark.parametrize(
    "id2label, names",
    [
        ({0: "entailment", 1: "not_entailment"}, tuple(ENGLISH)),
        ({0: "NEGATIVE", 1: "NEUTRAL", 2: "POSITIVE"}, tuple(ENGLISH)),
        ({0: "entailment", 1: "neutral", 2: "contradiction"}, ("no", "yes")),
    ],
)
def test_a_checkpoint_for_other_classes(id2label, names):
    sentence = message(classes_of_checkpoint, id2label, "some/model", names, classes=ENGLISH, label_order=None)
    assert sentence.startswith(f"some/model: was trained for {len(id2label)} classes")
    assert all(repr(name) in sentence for name in (*id2label.values(), *names)) and "choose a model" in sentence


# The rest


def test_taking_some(shared_data):
    pairs = read_pairs(shared_data / "farstail" / "Test-word.csv", classes=PERSIAN, truth=True, skip_bad=False)
    chosen = np.array([1500, 3, 3, 0])
    some = pairs.take(chosen)
    rows = list(pairs.rows())
    assert len(some) == 4 and list(some.rows()) == [rows[i] for i in chosen]
    assert some.groups == {name: [values[i] for i in chosen] for name, values in pairs.groups.items()}
    assert (some.names, some.source) == (pairs.names, pairs.source)


def test_word_overlap():
    texts = [
        ("The cat sat.", "the CAT slept"),
        ("a b c", "c, b; a!"),
        ("a b c", "d d d a"),
        ("a b", "..."),
        ("کتاب\u200cها را خواندم", "کتاب\u200cها کتاب"),
        ("Straße café", "STRASSE cafe\u0301"),
    ]
    pairs = pairs_from_rows(table(["e"] * 6, texts), "rows", **PLAIN)
    assert word_overlap(pairs).tolist() == pytest.approx([2 / 3, 1, 1 / 2, 0, 1 / 2, 1])


def test_entailed_hypotheses_of_farstail_overlap_most(shared_data):
    """Known of the set: overlap-only models beat chance on it."""
    pairs = read_pairs(shared_data / "farstail" / "Train-word.csv", classes=PERSIAN, truth=True, skip_bad=False)
    shares = word_overlap(pairs)
    means = {name: shares[pairs.labels == i].mean() for i, name in enumerate(pairs.names)}
    assert means["neutral"] < min(means["entailment"], means["contradiction"])
    assert ((shares >= 0) & (shares <= 1)).all()
