"""Class predictions judged: figures against scikit-learn, intervals against plain resampling, files read back."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sk

from common.legacy import results
from common.legacy.classification import (
    PAIR_USAGE,
    Predictions,
    count_intervals,
    draw_plots,
    error_cards,
    judge,
    score,
    write_predictions,
)
from common.legacy.metrics import bootstrap_interval, bootstrap_statistic
from common.legacy.metrics.classification.classification import confusion_counts
from tests.legacy.test_report import Page

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "common" / "legacy" / "results.schema.json").read_text())
LABELS = ["entailment", "خنثی", "<b>no</b>"]
LOSS = {"eval_loss": 0.5, "eval_runtime": 1.0}


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


def test_nothing_heavy_is_imported_for_the_usage():
    heavy = ("datasets", "evaluate", "sklearn", "torch", "transformers", "matplotlib")
    code = f"import sys, common.classification; print([module for module in {heavy} if module in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_score_takes_the_truth_from_the_data_set():
    predictions = made()
    found = score((predictions.logits,), SimpleNamespace(targets=predictions.targets))
    truth, predicted = predictions.targets, predictions.logits.argmax(1)
    assert found["accuracy"] == pytest.approx(100 * sk.accuracy_score(truth, predicted))
    assert found["f1"] == pytest.approx(100 * sk.f1_score(truth, predicted, average="macro"))
    assert list(found) == ["accuracy", "f1", "f1_weighted", "precision", "recall", "mcc"]
    assert score((predictions.logits,), SimpleNamespace(targets=None)) == {}


def test_score_knows_classes_that_never_occur():
    logits = np.array([[2, 1, 0, 0], [0, 1, 0, 0]], np.float32)
    assert score((logits,), SimpleNamespace(targets=np.array([0, 0])))["accuracy"] == 50


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
def resampled():
    """400 examples in unequal classes, and each statistic of 150 resamples of them, scikit-learn computing it."""
    random = np.random.default_rng(4)
    targets = random.choice(3, size=400, p=[0.7, 0.2, 0.1])
    logits = random.normal(size=(400, 3)) + np.eye(3)[targets]
    rows = {name: [] for name in (*STATISTICS, "per_class_f1")}

    def statistic(truth, predicted):
        for name, function in STATISTICS.items():
            rows[name].append(function(truth, predicted))
        rows["per_class_f1"].append(sk.f1_score(truth, predicted, average=None))
        return rows["f1"][-1]

    low, high = bootstrap_statistic(statistic, targets, logits.argmax(1), resamples=150)
    plain = {name: np.quantile(values, [0.025, 0.975], axis=0) for name, values in rows.items()}
    assert plain["f1"].tolist() == [low, high]
    return confusion_counts(targets, logits.argmax(1), 3), plain


@pytest.mark.parametrize("name", [*STATISTICS, "per_class_f1"])
def test_intervals_agree_with_resampled_examples(resampled, name):
    counts, plain = resampled
    fast, again = (count_intervals(counts, resamples=20_000, seed=seed)[name] for seed in (0, 1))
    # The ends of an interval from 150 resamples are themselves uncertain: by 5 % of its width each.
    width = plain[name][1] - plain[name][0]
    assert (np.abs(fast - plain[name]) < 0.18 * width).all()
    assert (np.abs(fast - again) < 0.03 * width).all() and not (fast == again).all()


@pytest.mark.filterwarnings("error")
def test_intervals_of_extreme_counts():
    # Of two examples, one right and one wrong; class 2 is nowhere, and every resample lacks something.
    found = count_intervals(np.array([[1, 1, 0], [0, 0, 0], [0, 0, 0]]))
    assert found["f1"].tolist() == [0, 100] and found["recall"].tolist() == [0, 100] and found["mcc"].tolist() == [0, 0]
    assert np.isnan(found["per_class_f1"][:, 2]).all() and found["per_class_f1"][:, :2].tolist() == [[0, 0], [1, 0]]
    # b is never predicted: its precision is 0 in every resample, and that of a is the share of its examples
    found = count_intervals(np.array([[8, 0], [8, 0]]))
    assert 10 < found["precision"][0] < 20 and 30 < found["precision"][1] < 40
    # No example is drawn and no product overflows: n, 1e11, hits 7, true (4, 6), predicted (5, 5) tenths of it
    many = count_intervals(np.array([[3, 1], [2, 4]]) * 10**10)
    assert many["mcc"] == pytest.approx([(10 * 7 - 50) / math.sqrt(48 * 50)] * 2, rel=1e-4)
    assert many["f1"] == pytest.approx([50 * (6 / 9 + 8 / 11)] * 2, rel=1e-4)


@pytest.fixture(scope="module")
def judged():
    splits = {"validation": made(), "test": made(600, 1), "blind": made(30, 2, known=False)}
    measured = {"validation": LOSS, "test": {"predict_loss": 0.7}, "blind": {}}
    train = np.array([2] * 5 + [0] * 4)
    return splits, judge(splits, measured, headline_metric="f1", train_targets=train)


def test_judged_figures(judged):
    splits, parts = judged
    truth, predicted = splits["test"].targets, splits["test"].predicted
    ours = parts["metrics"]["test"]
    assert list(parts["metrics"]) == ["validation", "test"]  # what has no truth has no figures
    for name, statistic in STATISTICS.items():
        assert ours[name]["value"] == pytest.approx(statistic(truth, predicted))
        assert ours[name]["low"] < ours[name]["value"] < ours[name]["high"] and ours[name]["examples"] == 600
    low, high = bootstrap_interval(truth == predicted)
    assert ours["accuracy"] == {
        "value": pytest.approx(100 * np.mean(truth == predicted)),
        "low": pytest.approx(100 * low),
        "high": pytest.approx(100 * high),
        "unit": "percent",
        "examples": 600,
    }
    assert ours["loss"]["value"] == 0.7 and parts["metrics"]["validation"]["loss"]["value"] == 0.5
    assert {ours[name].get("average") for name in ("f1", "precision", "recall")} == {"macro"}
    report = sk.classification_report(truth, predicted, target_names=LABELS, output_dict=True)
    for label in LABELS:
        found = parts["per_class"]["test"][label]
        assert {column.replace("f1-score", "f1"): v for column, v in report[label].items()} == pytest.approx(
            {column: found[column] for column in ("precision", "recall", "f1", "support")}
        )
        assert found["f1_low"] < found["f1"] < found["f1_high"] and isinstance(found["support"], int)
    matrix = sk.confusion_matrix(truth, predicted).tolist()
    assert parts["confusion"]["test"] == {"labels": LABELS, "matrix": matrix}


def test_headline_and_baseline(judged):
    splits, parts = judged
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
    parts = judge({"test": split}, {"test": LOSS}, headline_metric="accuracy", train_targets=None)
    counts = np.bincount(split.targets)
    assert parts["baseline"]["test"]["name"] == f"majority class of test ({LABELS[counts.argmax()]})"
    assert parts["headline"]["baseline"] == pytest.approx(100 * counts.max() / 300)


def test_nothing_known_is_nothing_judged():
    parts = judge({"test": made(known=False)}, {"test": {}}, headline_metric="accuracy", train_targets=None)
    assert parts.pop("headline") is None
    assert parts == {name: {} for name in ("metrics", "per_class", "confusion", "groups", "baseline")}


def test_groups(judged):
    splits, parts = judged
    right = splits["test"].targets == splits["test"].predicted
    found = parts["groups"]["test"]["genre"]
    assert list(found) == ["fiction", "slate", "travel"]
    for place, value in enumerate(found):
        accuracy = found[value]["accuracy"]
        assert accuracy["value"] == pytest.approx(100 * right[place::3].mean()) and accuracy["examples"] == 200
        assert accuracy["low"] < accuracy["value"] < accuracy["high"]


def test_a_split_of_one_class_only():
    split = made(6, targets=np.zeros(6, int), logits=np.tile(np.array([3, 1, 0], np.float32), (6, 1)), groups={})
    parts = judge({"test": split}, {"test": LOSS}, headline_metric="accuracy", train_targets=np.array([1]))
    assert parts["metrics"]["test"]["f1"]["value"] == parts["metrics"]["test"]["accuracy"]["value"] == 100
    nowhere = parts["per_class"]["test"][LABELS[2]]
    assert nowhere == dict.fromkeys(("precision", "recall", "f1", "f1_low", "f1_high")) | {"support": 0}
    assert parts["groups"] == {}


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_predictions_are_written_whole(tmp_path):
    split = made(30)
    assert write_predictions(tmp_path, "test_", split) == {"test_predictions.csv": "test_predictions.csv"}
    rows = read(tmp_path / "test_predictions.csv")
    probabilities = [f"probability_{label}" for label in LABELS]
    assert list(rows[0]) == ["id", "premise", "hypothesis", "genre", "truth", "prediction", *probabilities]
    assert [row["id"] for row in rows] == split.ids and [row["premise"] for row in rows] == split.columns["premise"]
    assert [row["truth"] for row in rows] == [LABELS[i] for i in split.targets]
    assert [row["prediction"] for row in rows] == [LABELS[i] for i in split.logits.argmax(1)]
    written = np.array([[float(row[name]) for name in probabilities] for row in rows])
    np.testing.assert_allclose(written, split.probabilities, atol=5.1e-5)
    assert all(len(row[name]) == 6 for row in rows for name in probabilities)


def test_unknown_truth_is_empty(tmp_path):
    write_predictions(tmp_path, "", made(30, known=False))
    rows = read(tmp_path / "predictions.csv")
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
    """A run's results around what was judged."""
    split = {"source": "file a.csv", "examples": 9, "available": 9, "selection": "all", "fingerprint": "0" * 64}
    counts = {"label_counts": dict.fromkeys(LABELS, 3), "skipped": {}}
    argument = {"value": "x", "source": "recipe"}
    return results.completed(
        {
            "task": "persian-nli",
            "script": "run_nli_parsbert.py",
            "command": ["python"],
            "protocol": {"name": "honest", "leaks": False, "demo": False, "notes": []},
            "arguments": {"model": argument},
            "data": {"splits": {"train": split | counts, "test": split | {"skipped": {}}}, "overlaps": []},
            "model": {"name": "x", "architecture": "X", "parameters": {"total": 1, "trainable": 1}},
            **parts,
            "published": [],
            "history": [{"epoch": 1.0, "loss": 1.0}, {"epoch": 1.0, "eval_validation_accuracy": 50.0}],
            "resources": {"seconds": {"total": 1.0}, **results.peak_memory()},
            "environment": results.environment("cpu", 1),
            "warnings": [],
            "files": {},
        }
    )


def test_judged_parts_follow_the_schema(judged, tmp_path):
    facts = json.loads(json.dumps(whole(judged[1], tmp_path), allow_nan=False))
    jsonschema.validate(facts, SCHEMA)
    facts["groups"]["test"]["genre"]["slate"]["accuracy"]["unit"] = "furlongs"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(facts, SCHEMA)


def test_plots_are_pictures(judged, tmp_path):
    facts = whole(judged[1], tmp_path)
    series = {"losses": {"train": "loss"}, "accuracies": {"validation": "eval_validation_accuracy"}}
    files = draw_plots(facts, tmp_path, **series)
    assert list(files) == ["class_counts", "loss", "accuracy", "f1_by_class", "validation_confusion", "test_confusion"]
    for path in files.values():
        with Image.open(tmp_path / path) as image:
            assert image.format == "PNG" and np.asarray(image.convert("L")).min() < 120
    nothing = {"metrics": {}, "per_class": {}, "confusion": {}, "groups": {}, "baseline": {}, "headline": None}
    facts = whole(nothing, tmp_path) | {"history": [], "data": {"splits": {}, "overlaps": []}}
    assert draw_plots(facts, tmp_path, **series) == {}


def test_the_usage_of_the_card_runs_as_it_stands(tiny_folder, tmp_path, capsys):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    names = dict(enumerate(LABELS))
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_folder("bert-base-uncased"), num_labels=3, id2label=names, label2id={name: i for i, name in names.items()}
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder("bert-base-uncased"))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pair = "موزه را «بستند» it's", 'It "was" closed in 1921.'
    exec(PAIR_USAGE.format(model=tmp_path, first=pair[0], second=pair[1]), {})
    printed = eval(capsys.readouterr().out.strip().splitlines()[-1])
    with torch.no_grad():
        shares = model(**tokenizer(*pair, return_tensors="pt")).logits.softmax(1)[0]
    assert {row["label"]: row["score"] for row in printed} == pytest.approx(
        dict(zip(LABELS, shares.tolist())), abs=1e-5
    )
