"""Classes by name, never by position: in files, in schemas, in checkpoints; whatever says nothing is refused."""

import time

import datasets
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import Splits, describe, fingerprint
from common.hub import numbered
from common.labels import align_with_checkpoint, canonical, class_names_of, encode_labels
from tests.helpers import message

ENGLISH = {"entailment": ("e",), "neutral": ("n",), "contradiction": ("c",)}
NAMES = list(ENGLISH)
CHECKPOINT = ["contradiction", "neutral", "entailment"]


def frame_of(labels: list, **attrs) -> pd.DataFrame:
    frame = numbered(pd.DataFrame({"label": pd.Series(labels, dtype=object)}), "f.csv")
    frame.attrs |= attrs
    return frame


def encoded(labels: list, *, schema: list | None = None, **settings) -> tuple:
    frame = frame_of(labels, **({"label_names": {"label": schema}} if schema else {}))
    return encode_labels(frame, "label", **{"known": ENGLISH, **settings})


def names_of(labels: list, **settings) -> list[str]:
    """The classes that the labels get, by name."""
    ids, feature, problems = encoded(labels, **settings)
    assert not problems and ids.dtype == np.int64
    return [feature.int2str(int(i)) for i in ids]


def refusal(labels: list, **settings) -> str:
    return message(encoded, labels, **settings)


def test_a_label_in_whatever_spelling():
    assert [canonical(one, ENGLISH) for one in ("E", " Entailment ", "c", "other ")] == [
        "entailment",
        "entailment",
        "contradiction",
        "other",
    ]


@pytest.mark.parametrize(
    "labels", [["e", "c", "n"], ["Entailment", "CONTRADICTION", " neutral "], ["E", "contradiction", "N"]]
)
def test_every_spelling_in_the_order_of_the_known_classes(labels):
    ids, feature, problems = encoded(labels)
    assert isinstance(feature, datasets.ClassLabel) and feature.names == NAMES
    assert ids.tolist() == [0, 2, 1] and problems == {}


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.sampled_from(["red", "green", "blue", " blue", "n"]), min_size=1))
def test_own_classes_in_the_order_of_the_alphabet(labels):
    ids, feature, _ = encoded(labels, known={})
    assert feature.names == sorted({label.strip() for label in labels})
    assert [feature.names[i] for i in ids] == [label.strip() for label in labels]


@pytest.mark.parametrize("labels", [[0, 2, 1], ["0", "2", "1"], [0.0, 2.0, 1.0], ["0.0", "2.0", "1.0"], [0, "2", 1.0]])
def test_numbers_need_to_be_explained(labels):
    sentence = refusal(labels)
    assert sentence.startswith("f.csv, row 1: the label is the number 0, which says nothing about its class;")
    assert sentence.endswith("such as --label_order entailment,neutral,contradiction")
    assert names_of(labels, label_order=("e", "Neutral", "contradiction")) == ["entailment", "contradiction", "neutral"]
    assert names_of(labels, label_order=("neutral", "entailment", "c")) == ["neutral", "contradiction", "entailment"]
    _, feature, _ = encoded(labels, label_order=("yes", "no", "maybe", "never"))
    assert feature.names == ["yes", "no", "maybe"], "own classes, in the order given"
    assert refusal(labels, label_order=("n", "e", "Neutral")).startswith(
        "--label_order n,e,Neutral: names the class 'neutral' twice"
    )
    _, _, problems = encoded(labels, label_order=("yes", "no"))
    assert problems == {1: ("unknown label", "the label '2' is not among the classes 'yes', 'no'")}


def test_names_in_the_schema_explain_numbers_and_decide_the_order():
    assert names_of(["yes", "no"], schema=["yes", "no", "maybe"]) == ["yes", "no"]
    assert encoded(["yes", "no"], schema=["yes", "no", "maybe"])[1].names == ["yes", "no", "maybe"]
    _, feature, problems = encoded(
        ["CONTRADICTION", None, "ENTAILMENT"], schema=["CONTRADICTION", "NEUTRAL", "ENTAILMENT"]
    )
    assert feature.names == NAMES and problems == {1: ("no gold label", None)}
    assert encoded(["yes", "", None], schema=["yes", "no"])[2] == {
        1: ("no label", "the label is empty"),
        2: ("no gold label", None),
    }
    assert names_of(["1", "2"], schema=["1", "2"]) == ["1", "2"], "names that are numbers"
    assert "the label '7' is not among" in encoded(["yes", 7], schema=["yes", "no"])[2][1][1]


@pytest.mark.parametrize(
    "labels, score",
    [
        (["0.0", "0.5", "5.0"], "0.5"),
        ([1, 3.4], "3.4"),
        (["a", "0.2"], "0.2"),
        ([0, 1e-3], "0.001"),
        (["1,5", "2"], "1,5"),
        (["7 %", "8 %"], "7 %"),
    ],
)
def test_scores_are_called_scores(labels, score):
    for order in (None, ("a", "b", "c")):
        row = [str(label) for label in labels].index(score) + 1
        assert refusal(labels, label_order=order).startswith(
            f"f.csv, row {row}: the label {score} is a score, not a class;"
        )


def test_the_cases_that_broke_it(shared_data):
    from common.files import read_files

    cases = shared_data.parent / "cases" / "pairs"
    if not cases.is_dir():
        pytest.skip("no cases")
    frame = read_files(cases / "hub_snli.parquet")
    ids, feature, problems = encode_labels(frame, "label", known=ENGLISH)
    assert feature.names == NAMES and (ids >= 0).sum() == 120 and list(problems.values()) == [("no gold label", None)]
    assert "is a score" in message(encode_labels, read_files(cases / "score.csv"), "label", known=ENGLISH)


def test_a_mistyped_class_beside_all_the_known_ones_is_no_class():
    ids, feature, problems = encoded([*NAMES, "entailmnt"])
    assert feature.names == NAMES and ids.tolist() == [0, 1, 2, -1]
    assert problems == {
        3: ("unknown label", "the label 'entailmnt' is not among the classes 'entailment', 'neutral', 'contradiction'")
    }


def test_what_cannot_be_seen_makes_no_other_class():
    assert names_of(["caf\u00e9", "cafe\u0301", "ok\u200c"], known={}) == ["caf\u00e9", "caf\u00e9", "ok"]
    assert names_of(["\u202bok\u202c", "\u2067ok\u2069", "ok\xad", "\u3000ok\u2003"], known={}) == ["ok"] * 4


def test_a_letter_stands_for_a_known_class_only_beside_known_ones():
    assert names_of(["n", "p", "n"]) == ["n", "p", "n"] and names_of(["c", "python"]) == ["c", "python"]
    assert names_of(["n", "p"], label_order=["p", "n"]) == ["n", "p"]
    assert names_of([0, 1, "n"], label_order=["p", "n"]) == ["p", "n", "n"]
    assert names_of(["n"], names=["n", "p"]) == ["n"] and names_of(["n"], names=["neutral"]) == ["neutral"]
    assert names_of(["n", "p"], schema=["p", "n"]) == ["n", "p"]
    assert encoded(["e", "n", "c", "x"])[1].names == NAMES, "x is a mistake"
    for names in (["n", "p"], []):
        assert class_names_of({0: "n", 1: "p"}, "m", names, known=ENGLISH) == ["n", "p"]
    emotions = {"anger": ("angry",), "happiness": ("happy",)}  # whole words say what they mean
    assert names_of(["angry", "other"], known=emotions) == ["anger", "other"]


def test_an_order_explains_numbers_that_are_called_names():
    assert names_of(["1", "0"], schema=["0", "1"], label_order=["no", "yes"]) == ["yes", "no"]


def test_classes_that_differ_in_case_alone_are_one():
    assert names_of(["Fraud", "ok", "fraud"], known={}) == ["Fraud", "ok", "Fraud"]
    assert names_of(["fraud", "Ok", "ok"], schema=["Fraud", "ok"], known={}) == ["Fraud", "ok", "ok"]
    assert names_of(["YES", "1", "0"], label_order=["no", "yes"], known={}) == ["yes", "yes", "no"]
    ids, feature, problems = encoded(["FRAUD", "ok"], names=["ok", "Fraud"], known={})
    assert (ids.tolist(), feature.names, problems) == ([1, 0], ["ok", "Fraud"], {})


def test_the_classes_of_the_training_data_are_those_of_the_others():
    _, feature, _ = encoded(["e", "e", "c"])
    assert feature.names == ["entailment", "contradiction"]
    ids, same, problems = encoded(["c", "n"], names=feature.names)
    assert same.names == feature.names and ids.tolist() == [1, -1] and problems[1][0] == "unknown label"


def test_no_gold_label_is_left_out_always_and_no_label_is_bad():
    ids, feature, problems = encoded(["-", "e", " -1", "c", "", None, float("nan")])
    assert feature.names == ["entailment", "contradiction"] and ids.tolist() == [-1, 0, -1, 1, -1, -1, -1]
    assert [problems[i] for i in (0, 2)] == [("no gold label", None)] * 2
    assert [problems[i] for i in (4, 5, 6)] == [("no label", "the label is empty")] * 3
    assert names_of([1, 0], label_order=("e", "n")) == ["neutral", "entailment"]
    assert encoded([1, -1], label_order=("e", "n"))[2] == {1: ("no gold label", None)}


@pytest.mark.parametrize("labels", [[None, None], ["", " "], [-1, -1], ["-", "-1"]])
def test_a_hidden_test_set_has_no_labels(labels):
    assert encoded(labels) == (None, None, {})
    ids, feature, problems = encoded(labels, names=CHECKPOINT)
    assert (ids, feature.names, problems) == (None, CHECKPOINT, {})


def test_what_is_no_class_at_all():
    assert refusal(["9" * 400, "1"]).startswith(f"f.csv, row 1: the label is the number {'9' * 40}, which")
    assert encoded(["9" * 400, "1"], label_order=("a", "b"))[2] == {
        0: ("unknown label", f"the label '{'9' * 60}' is not among the classes 'b'")
    }
    assert encoded(["²", "1"], label_order=("a", "b"))[1].names == ["b", "²"]
    many = refusal([f"class {i}" for i in range(1001)])
    assert many.startswith("f.csv: the column 'label' has 1,001 different labels")
    assert refusal(["e", ["e"]]) == "f.csv, row 2: the label must be a name or a number, not ['e']"
    assert refusal(["e", {"text": "e"}]).startswith("f.csv, row 2: the label must be a name")
    assert refusal(["e", b"n"]) == "f.csv, row 2: the label must be a name or a number, not b'n'"
    began = time.perf_counter()
    assert len(encoded(["1" * 50_000 + "x", "e"])[1].names) == 2 and time.perf_counter() - began < 2
    assert names_of([True, False], known={}) == ["True", "False"]


# Checkpoints


@pytest.mark.parametrize(
    "id2label", [{0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"}, {"2": "e", "0": "c", "1": "n"}]
)
def test_the_classes_of_a_checkpoint_by_name(id2label):
    for names in (NAMES, ["entailment"], []):
        assert class_names_of(id2label, "m", names, known=ENGLISH) == CHECKPOINT
    assert class_names_of({0: "Yes", 1: "no"}, "m", ["no", "yes"], known=ENGLISH) == ["yes", "no"], (
        "the data's spelling"
    )
    many = {str(i): f"c{i}" for i in range(12)}  # in the order of the numbers, not of their digits
    assert class_names_of(many, "m", list(many.values()), known={}) == [f"c{i}" for i in range(12)]


def test_nameless_classes_of_a_checkpoint():
    generic = {i: f"LABEL_{i}" for i in range(3)}
    sentence = message(class_names_of, generic, "some/model", NAMES, known=ENGLISH)
    assert sentence.startswith("some/model: ") and "LABEL_0, LABEL_1, LABEL_2" in sentence
    assert sentence.endswith("--label_order entailment,neutral,contradiction")
    order = ("c", "Neutral", "entailment")
    assert class_names_of(generic, "m", NAMES, known=ENGLISH, label_order=order) == CHECKPOINT
    for others in ({0: "0", 1: "1", 2: "2"}, {0: "class 0", 1: "class 1", 2: "class 2"}):
        assert class_names_of(others, "m", NAMES, known=ENGLISH, label_order=order) == CHECKPOINT
    digits = {i: str(i) for i in range(3)}  # of spoken digits: the data call them so, too
    assert (
        class_names_of(digits, "m", ["2", "0"], known={})
        == class_names_of(digits, "m", [], known={})
        == ["0", "1", "2"]
    )
    assert "--label_order" in message(class_names_of, digits, "m", NAMES, known=ENGLISH)
    assert "twice" in message(class_names_of, generic, "m", [], known=ENGLISH, label_order=("neutral", "c", "n"))
    sentence = message(class_names_of, generic, "m", ["a", "b"], known=ENGLISH, label_order=("a", "b"))
    assert "calls its 3 classes" in sentence and "a name for each" in sentence


@pytest.mark.parametrize(
    "id2label, names",
    [
        ({0: "entailment", 1: "not_entailment"}, NAMES),
        ({0: "NEGATIVE", 1: "NEUTRAL", 2: "POSITIVE"}, NAMES),
        ({0: "entailment", 1: "neutral", 2: "contradiction"}, ["no", "yes"]),
        ({0: "yes", 1: "Yes"}, ["yes"]),
    ],
)
def test_a_checkpoint_for_other_classes(id2label, names):
    sentence = message(class_names_of, id2label, "some/model", names, known=ENGLISH)
    assert sentence.startswith(f"some/model: was trained for {len(id2label)} classes") and "choose a model" in sentence
    assert all(repr(name) in sentence for name in (*id2label.values(), *names))


def split_of(ids: list[int], names: list[str]) -> datasets.Dataset:
    features = datasets.Features({"text": datasets.Value("string"), "labels": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict({"text": [str(i) for i in range(len(ids))], "labels": ids}, features=features)


def splits_of(**splits: datasets.Dataset) -> Splits:
    made = Splits(splits)
    made.facts = {name: describe(split, name, len(split), "all", {}) for name, split in splits.items()}
    return made


def test_labels_are_counted_in_the_checkpoints_order():
    train, test = split_of([0, 1, 2, 2], NAMES).select([3, 1, 0]), split_of([-1, -1], ["entailment"])
    splits = splits_of(train=train, test=test)
    id2label = dict(enumerate(name.upper() for name in CHECKPOINT))
    turned = align_with_checkpoint(splits, id2label, "m", known=ENGLISH, training=True)
    assert turned["train"].features["labels"].names == turned["test"].features["labels"].names == CHECKPOINT
    assert turned["train"]["labels"][:] == [0, 1, 2] and turned["test"]["labels"][:] == [-1, -1]
    assert turned["train"]["text"][:] == ["3", "1", "0"]
    assert fingerprint(turned["train"]) == fingerprint(train), "the same examples"
    assert turned.facts["train"]["label_counts"] == {"contradiction": 1, "neutral": 1, "entailment": 1}
    assert list(turned.facts["train"]["label_counts"]) == CHECKPOINT


def test_when_the_order_of_the_data_stays():
    splits = splits_of(train=split_of([0, 1, 2], NAMES))
    # No classifier; heads for other classes, which training replaces.
    for id2label in (None, {0: "yes", 1: "no"}, {0: "NEGATIVE", 1: "NEUTRAL", 2: "POSITIVE"}):
        same = align_with_checkpoint(splits, id2label, "m", known=ENGLISH, training=True)
        assert same["train"].features["labels"].names == NAMES
    used = {"known": ENGLISH, "training": False}
    assert "was trained for 2 classes" in message(align_with_checkpoint, splits, {0: "yes", 1: "no"}, "m", **used)
    generic = {i: f"LABEL_{i}" for i in range(3)}
    assert "--label_order" in message(align_with_checkpoint, splits, generic, "m", known=ENGLISH, training=True)
    apart = splits_of(validation=split_of([0], ["neutral", "entailment"]), test=split_of([0], ["contradiction"]))
    turned = align_with_checkpoint(apart, dict(enumerate(CHECKPOINT)), "m", **used)
    assert [turned[name]["labels"][:] for name in ("validation", "test")] == [[1], [0]]
    bare = splits_of(test=datasets.Dataset.from_dict({"text": ["a"]}))
    assert align_with_checkpoint(bare, {0: "yes", 1: "no"}, "m", **used)["test"].column_names == ["text"]
