"""Class predictions: scores against scikit-learn, files read back, plots; weights and copies of rare classes."""

import json
import subprocess
import sys
from collections import Counter

import jsonschema
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk
from sklearn.utils.class_weight import compute_class_weight

from benchmarks.compare import csv_text
from common.classification import (
    Predictions,
    class_weights,
    copied_rows,
    draw_plots,
    error_cards,
    score_predictions,
    weight_warning,
    write_predictions,
)
from common.results import environment, peak_memory
from tests.helpers import ROOT, rows_of
from tests.report.helpers import SCHEMA, Page

LABELS = ["entailment", "خنثی", "<b>no</b>"]


def made(count=300, seed=0, known=True, **changes):
    random = np.random.default_rng(seed)
    targets = random.integers(3, size=count)
    logits = random.normal(size=(count, 3)).astype(np.float32)
    logits[np.arange(count), targets] += 1
    facts = {
        "labels": LABELS,
        "logits": logits,
        "targets": targets if known else None,
        "ids": [f"id {i}" for i in range(count)],
        "columns": {"premise": [f'متن {i}, "quoted"\nline' for i in range(count)], "hypothesis": ["<script>"] * count},
        "groups": {"genre": ["fiction", "slate", "travel"] * (count // 3)},
    }
    return Predictions(**facts | changes)


def test_nothing_heavy_is_imported():
    heavy = ("datasets", "evaluate", "sklearn", "torch", "transformers", "matplotlib")
    code = f"import sys, common.classification; print([module for module in {heavy} if module in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_probabilities_do_not_overflow():
    predictions = made(3, logits=np.array([[1000, 0, -1000], [0, 0, 0], [0, np.log(2), 0]], np.float32))
    np.testing.assert_allclose(predictions.probabilities, [[1, 0, 0], [1 / 3] * 3, [1 / 4, 1 / 2, 1 / 4]], atol=1e-7)


STATISTICS = {
    "f1": lambda t, p: 100 * sk.f1_score(t, p, average="macro", zero_division=0),
    "f1_weighted": lambda t, p: 100 * sk.f1_score(t, p, average="weighted", zero_division=0),
    "precision": lambda t, p: 100 * sk.precision_score(t, p, average="macro", zero_division=0),
    "recall": lambda t, p: 100 * sk.balanced_accuracy_score(t, p),
    "mcc": sk.matthews_corrcoef,
}


@pytest.fixture(scope="module")
def scored():
    splits = {"validation": made(), "test": made(600, 1), "blind": made(30, 2, known=False)}
    losses = {"validation": 0.5, "test": 0.7}
    train = np.array([2] * 5 + [0] * 4)
    return splits, score_predictions(splits, losses, headline_metric="f1", train_targets=train, micro=True)


def test_scored_figures(scored):
    splits, parts = scored
    truth, predicted = splits["test"].targets, splits["test"].predicted
    ours = parts["metrics"]["test"]
    assert list(parts["metrics"]) == ["validation", "test"]  # what has no truth has no figures
    for name, statistic in STATISTICS.items():
        assert ours[name]["value"] == pytest.approx(statistic(truth, predicted))
        assert ours[name]["low"] < ours[name]["value"] < ours[name]["high"] and ours[name]["examples"] == 600
    interval = stats.binomtest(int((truth == predicted).sum()), 600).proportion_ci(method="wilson")
    assert ours["accuracy"] == {
        "value": pytest.approx(100 * np.mean(truth == predicted)),
        "low": pytest.approx(100 * interval.low),
        "high": pytest.approx(100 * interval.high),
        "unit": "percent",
        "examples": 600,
    }
    assert ours["precision_micro"] == ours["recall_micro"] == ours["accuracy"]
    assert ours["loss"]["value"] == 0.7 and parts["metrics"]["validation"]["loss"]["value"] == 0.5
    assert {ours[name].get("average") for name in ("f1", "precision", "recall")} == {"macro"}
    report = sk.classification_report(truth, predicted, target_names=LABELS, output_dict=True)
    assert list(parts["per_class"]["test"]) == [*LABELS, "macro avg", "weighted avg"]
    for label, found in parts["per_class"]["test"].items():
        assert {column.replace("f1-score", "f1"): v for column, v in report[label].items()} == pytest.approx(
            {column: found[column] for column in ("precision", "recall", "f1", "support")}
        )
        for column in ("precision", "recall", "f1"):
            assert found[f"{column}_low"] < found[column] < found[f"{column}_high"]
        assert isinstance(found["support"], int)
    matrix = sk.confusion_matrix(truth, predicted).tolist()
    assert parts["confusion"]["test"] == {"labels": LABELS, "matrix": matrix}


def test_headline_and_baseline(scored):
    splits, parts = scored
    truth = splits["test"].targets
    always = np.full(600, 2)
    assert parts["baseline"]["test"]["name"] == "majority class of the training data (<b>no</b>)"
    trivial = parts["baseline"]["test"]["metrics"]
    assert trivial["accuracy"]["value"] == pytest.approx(100 * np.mean(truth == 2))
    assert trivial["f1"]["value"] == pytest.approx(100 * sk.f1_score(truth, always, average="macro", zero_division=0))
    top = parts["headline"]
    assert (top["split"], top["metric"], top["baseline"]) == ("test", "f1", trivial["f1"]["value"])
    assert top["value"] == parts["metrics"]["test"]["f1"]["value"] and top["low"] < top["value"] < top["high"]


def test_without_training_the_baseline_is_the_split_itself():
    split = made()
    parts = score_predictions({"test": split}, {"test": 0.5}, headline_metric="accuracy", train_targets=None)
    counts = np.bincount(split.targets)
    assert parts["baseline"]["test"]["name"] == f"majority class of test ({LABELS[counts.argmax()]})"
    assert parts["headline"]["baseline"] == pytest.approx(100 * counts.max() / 300)


def test_nothing_known_is_scored():
    parts = score_predictions({"test": made(known=False)}, {}, headline_metric="accuracy", train_targets=None)
    assert parts.pop("headline") is None
    assert parts == {name: {} for name in ("metrics", "per_class", "confusion", "groups", "baseline")}


def test_a_metric_may_have_another_name():
    names = {"recall": "unweighted_average_recall"}
    options = {"headline_metric": names["recall"], "train_targets": None, "names": names}
    found = score_predictions({"test": made()}, {"test": 0.5}, **options)
    recall = sk.recall_score(made().targets, made().predicted, average="macro")
    assert found["headline"]["value"] == pytest.approx(100 * recall) and "recall" not in found["metrics"]["test"]
    assert found["headline"]["baseline"] == pytest.approx(100 / 3)
    assert set(found["groups"]["test"]["genre"]["slate"]) == {"accuracy", "unweighted_average_recall"}


def test_groups(scored):
    splits, parts = scored
    right = splits["test"].targets == splits["test"].predicted
    found = parts["groups"]["test"]["genre"]
    assert list(found) == ["fiction", "slate", "travel"]
    for place, value in enumerate(found):
        accuracy = found[value]["accuracy"]
        assert accuracy["value"] == pytest.approx(100 * right[place::3].mean()) and accuracy["examples"] == 200
        assert accuracy["low"] < accuracy["value"] < accuracy["high"]


def test_a_split_of_one_class_only():
    split = made(6, targets=np.zeros(6, int), logits=np.tile(np.array([3, 1, 0], np.float32), (6, 1)), groups={})
    parts = score_predictions({"test": split}, {"test": 0.5}, headline_metric="accuracy", train_targets=np.array([1]))
    assert parts["metrics"]["test"]["f1"]["value"] == parts["metrics"]["test"]["accuracy"]["value"] == 100
    nowhere = parts["per_class"]["test"][LABELS[2]]
    assert nowhere.pop("support") == 0 and set(nowhere.values()) == {None}
    found = parts["metrics"]["test"]
    assert found["accuracy"]["low"] < found["accuracy"]["high"] == 100, "six examples say little"
    assert found["f1"]["low"] is found["f1"]["high"] is None, "and nothing of other classes"
    assert parts["groups"] == {}


def test_a_class_may_be_called_as_an_average():
    split = made(6, labels=["macro avg", "b", "c"], groups={})
    parts = score_predictions({"test": split}, {"test": 0.5}, headline_metric="f1", train_targets=None)
    classes = parts["per_class"]["test"]
    assert [*classes] == ["class macro avg", "b", "c", "macro avg", "weighted avg"]
    assert classes["class macro avg"]["support"] == (split.targets == 0).sum() < classes["macro avg"]["support"] == 6


def test_predictions_are_written_whole(tmp_path):
    split = made(30)
    assert write_predictions(tmp_path, "test_", split) == {"test_predictions.csv": "test_predictions.csv"}
    rows = rows_of(tmp_path / "test_predictions.csv")
    probabilities, logits = ([f"{kind}_{label}" for label in LABELS] for kind in ("probability", "logit"))
    assert list(rows[0]) == ["id", "premise", "hypothesis", "genre", "truth", "prediction", *probabilities, *logits]
    assert [row["id"] for row in rows] == split.ids and [row["premise"] for row in rows] == split.columns["premise"]
    assert [row["truth"] for row in rows] == [LABELS[i] for i in split.targets]
    assert [row["prediction"] for row in rows] == [LABELS[i] for i in split.logits.argmax(1)]
    for names, expected in ((probabilities, split.probabilities), (logits, split.logits)):
        np.testing.assert_allclose([[float(row[name]) for name in names] for row in rows], expected, atol=5.1e-7)


def test_texts_that_a_spreadsheet_would_run_do_no_harm_and_are_read_back(tmp_path):
    texts = [
        "=HYPERLINK(1)",
        "+cmd|x",
        "-2+3",
        "@SUM(1)",
        "'=quoted",
        "'plain",
        "-5",
        "+1,000.5e3",
        "سلام",
        "- said he",
        "",
    ]
    count = len(texts)
    logits = np.tile(np.array([-3, 1, 0], np.float32), (count, 1))
    split = made(count, logits=logits, targets=None, ids=texts, columns={"=text": texts}, groups={})
    write_predictions(tmp_path, "", split)
    rows = rows_of(tmp_path / "predictions.csv")
    assert [csv_text(row["id"]) for row in rows] == [csv_text(row["'=text"]) for row in rows] == texts
    harmless = [row["id"] for row in rows if row["id"][:1] in ("=", "+", "-", "@")]
    assert harmless == ["-5", "+1,000.5e3"]  # numbers
    assert rows[0]["logit_entailment"] == "-3.000000"


def test_unknown_truth_is_empty(tmp_path):
    write_predictions(tmp_path, "", made(30, known=False))
    rows = rows_of(tmp_path / "predictions.csv")
    assert {row["truth"] for row in rows} == {""} and {row["prediction"] for row in rows} <= set(LABELS)


def test_cards_show_the_surest_errors_first():
    logits = np.array([[9, 0, 0], [0, 3, 0], [0, 0, 5], [0, 4, 0], [1, 0, 0]], np.float32)
    split = made(5, logits=logits, targets=np.array([0, 0, 0, 2, 2]), groups={"genre": list("abcde")})
    cards = error_cards(split, 3)
    shown = [Page(card).text for card in cards]
    assert ["id 2" in shown[0], "id 3" in shown[1], "id 1" in shown[2]] == [True] * 3 and len(cards) == 3
    share = 100 * np.exp(5) / (np.exp(5) + 2)
    assert f"Predicted: <b>no</b> Truth entailment Probabilities <b>no</b> {share:.1f} %" in shown[0]
    assert 'متن 2, "quoted"' in shown[0] and "genre c" in shown[0]
    assert '<p dir="auto">متن 2' in cards[0] and "<script>" not in cards[0] and "<b>" not in cards[0]
    assert error_cards(made(2, logits=logits[:2], targets=np.array([0, 1]), groups={})) == []


def whole(parts, output_dir):
    """A run's results around what was scored."""
    split = {"source": "file a.csv", "examples": 9, "available": 9, "selection": "all", "fingerprint": "0" * 64}
    counts = {"label_counts": dict.fromkeys(LABELS, 3), "skipped": {}}
    argument = {"value": "x", "source": "recipe"}
    return {
        "schema_version": 1,
        "created": "2026-01-01T00:00:00+00:00",
        "task": "persian-nli",
        "script": "run_nli_parsbert.py",
        "command": ["python"],
        "protocol": {"name": "honest", "leaks": False, "demo": False, "notes": []},
        "arguments": {"model": argument},
        "data": {"splits": {"train": split | counts, "test": split | {"skipped": {}}}, "overlaps": []},
        "model": {"name": "x", "architecture": "X", "parameters": {"total": 1, "trainable": 1}},
        **parts,
        "published": [],
        "history": [{"epoch": 1.0, "loss": 1.0}, {"epoch": 1.0, "eval_accuracy": 50.0, "train_accuracy": 60.0}],
        "resources": {"seconds": {"total": 1.0}, **peak_memory()},
        "environment": environment("cpu", 1),
        "warnings": [],
        "files": {},
    }


def test_scored_parts_follow_the_schema(scored, tmp_path):
    facts = json.loads(json.dumps(whole(scored[1], tmp_path), allow_nan=False))
    jsonschema.validate(facts, SCHEMA)
    facts["groups"]["test"]["genre"]["slate"]["accuracy"]["unit"] = "furlongs"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(facts, SCHEMA)


def test_plots(scored, tmp_path):
    facts = whole(scored[1], tmp_path)
    files = draw_plots(facts, tmp_path, references={"accuracy": {"published": {1: 73.4}}})
    assert list(files) == ["class_counts", "loss", "accuracy", "f1_by_class", "validation_confusion", "test_confusion"]
    assert all((tmp_path / path).read_text("utf-8").startswith("<?xml") for path in files.values())
    accuracy = (tmp_path / files["accuracy"]).read_text("utf-8")
    assert all(f">{entry}<" in accuracy for entry in ("training set", "validation", "published"))
    assert ">validation<" not in (tmp_path / files["loss"]).read_text("utf-8"), "it was not evaluated"
    assert "macro avg" not in (tmp_path / files["f1_by_class"]).read_text("utf-8")
    nothing = {"metrics": {}, "per_class": {}, "confusion": {}, "groups": {}, "baseline": {}, "headline": None}
    facts = whole(nothing, tmp_path) | {"history": [], "data": {"splits": {}, "overlaps": []}}
    assert draw_plots(facts, tmp_path) == {}


# Classes of unequal size


TARGETS = np.repeat([0, 1, 2, 3], [1059, 38, 201, 1028])
COUNTS = np.array([1059, 38, 201, 1028])


def test_balanced_is_scikit_learns():
    expected = compute_class_weight("balanced", classes=np.arange(4), y=TARGETS)
    assert class_weights(TARGETS, 4, "balanced") == pytest.approx(expected, rel=1e-12)


def test_sqrt_by_hand():
    roots = 1 / np.sqrt(COUNTS)
    assert class_weights(TARGETS, 4, "sqrt") == pytest.approx(roots / (roots @ COUNTS) * COUNTS.sum(), rel=1e-12)


@pytest.mark.parametrize("how", ["none", "balanced", "sqrt"])
def test_the_mean_weight_of_the_examples_is_one(how):
    weights = class_weights(TARGETS, 4, how)
    assert weights.dtype == np.float64 and weights[TARGETS].mean() == pytest.approx(1)
    assert (np.argsort(weights) == np.argsort(-COUNTS)).all() or how == "none"


@pytest.mark.parametrize("how", ["balanced", "sqrt"])
def test_a_class_without_examples(how):
    weights = class_weights(np.array([0, 0, 0, 2]), 4, how)
    assert weights[[1, 3]].tolist() == [0, 0] and weights[[0, 2]] == pytest.approx(
        class_weights(np.array([0, 0, 0, 1]), 2, how)
    )
    assert class_weights(np.array([0, 2]), 4, "none").tolist() == [1, 1, 1, 1]


def test_keyword_spottings_silence_is_warned_of():
    """51,094 clips, of which 6 are silence: the published weights."""
    counts = [1850] * 10 + [32_588, 6]
    labels = np.repeat(np.arange(12), counts)
    names = [*map(str, range(10)), "_unknown_", "_silence_"]
    sentence = weight_warning(class_weights(labels, 12, "balanced"), names)
    assert sentence.startswith("the class '_silence_' has the weight 710 in the loss") and "\n" not in sentence
    assert weight_warning(class_weights(labels, 12, "none"), names) is None
    assert weight_warning(np.array([1.0, 50.0]), names) is None
    assert "'1' has the weight 51" in weight_warning(np.array([1.0, 50.6]), names)


def test_copies_by_factor():
    """The report's supports: fear 15 times, happiness and surprise 3 times."""
    rows = copied_rows(np.array([0, 1, 2, 1]), {1: 15, 2: 3})
    assert Counter(rows.tolist()) == {0: 1, 1: 15, 2: 3, 3: 15} and (np.diff(rows) >= 0).all()
