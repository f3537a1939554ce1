"""Results of a detector: figures and curves against scikit-learn, files read back, what the cards say, whole files."""

import csv
import json
import subprocess
import sys
import warnings
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sk

from common.legacy import plotting, results
from common.legacy.detection import confusion, detection_metrics, sweep, trivial
from common.legacy.detection_results import Detections, _corners, draw_plots, error_cards, judge, write_predictions
from common.legacy.files import whole_file
from tests.legacy.test_report import Page

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "common" / "legacy" / "results.schema.json").read_text())
CLASSES = ["legitimate", "fraud"]
COSTS = (100.0, 1.0)
PARTS = ("metrics", "per_class", "confusion", "groups", "baseline")


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def made(rows=4000, frauds=60, seed=0, **changes) -> Detections:
    random = np.random.default_rng(seed)
    truth = np.zeros(rows, np.int8)
    truth[random.choice(rows, frauds, replace=False)] = 1
    probabilities = 1 / (1 + np.exp(6 - 2 * random.normal(size=rows) - 6 * truth))
    facts = {
        "ids": np.arange(1, rows + 1),
        "truth": truth,
        "probabilities": probabilities,
        "columns": {"Time": np.arange(rows) * 60.0, "Amount": np.round(random.exponential(80, rows), 2)},
        "threshold": 0.3,
    }
    return Detections(**facts | changes)


def judgement(splits, **changes):
    losses = dict.fromkeys(splits, 0.05)
    settings = {"train_truth": np.repeat([0, 1], [998, 2]), "headline_split": "test", "costs": COSTS}
    return judge(splits, losses, **settings | changes)


# Scores


def test_every_split_with_truth_is_judged():
    splits = {"validation": made(seed=1), "test": made(), "blind": made(truth=None)}
    parts = judgement(splits)
    assert list(parts) == ["headline", *PARTS] and parts["groups"] == {}
    assert all(list(parts[name]) == ["validation", "test"] for name in ("metrics", "per_class", "baseline"))
    test = splits["test"]
    found = dict(parts["metrics"]["test"])
    assert found.pop("loss") == {"value": 0.05, "low": None, "high": None, "unit": "nats"}
    assert found == detection_metrics(test.truth, test.probabilities, 0.3, costs=COSTS)
    for key, threshold in (("test", 0.3), ("test, threshold 0.5", 0.5)):
        matrix = sk.confusion_matrix(test.truth, test.probabilities >= threshold).tolist()
        assert parts["confusion"][key] == {"labels": CLASSES, "matrix": matrix}
    fraud = parts["per_class"]["test"]["fraud"]
    assert fraud["recall"] == pytest.approx(found["recall"]["value"] / 100) and fraud["support"] == 60
    assert list(parts["per_class"]["test"]) == CLASSES


def test_the_headline_is_the_area_of_its_split():
    splits = {"validation": made(seed=1), "test": made()}
    parts = judgement(splits, headline_split="validation")
    auprc = parts["metrics"]["validation"]["auprc"]
    assert parts["headline"] == {
        "split": "validation",
        "metric": "auprc",
        **{key: auprc[key] for key in ("value", "low", "high", "unit")},
        "baseline_name": "never fraud, no skill",
        "baseline": pytest.approx(100 * 60 / 4000),
        "higher_is_better": True,
    }


def test_the_baseline_knows_the_training_data_or_the_split_itself():
    test = made(10, 8)
    by_training, alone = judgement({"test": test}), judgement({"test": test}, train_truth=None)
    assert by_training["baseline"]["test"]["name"] == "never fraud, no skill"
    assert alone["baseline"]["test"]["name"] == "always fraud, no skill"
    name, metrics = trivial(test.truth, 0.8, costs=COSTS)
    assert alone["baseline"]["test"] == {"name": name, "metrics": metrics}


def test_without_truth_or_fraud_there_is_no_headline():
    parts = judgement({"test": made(truth=None)})
    assert parts == {"headline": None} | {name: {} for name in PARTS}
    parts = judgement({"test": made(truth=np.zeros(4000, np.int8))})
    assert parts["headline"] is None and parts["metrics"]["test"]["auprc"]["value"] is None
    assert parts["confusion"]["test"]["matrix"][1] == [0, 0]


def whole(parts, splits):
    """A run's results around what was judged."""
    facts = {"source": "file a.csv", "examples": 9, "available": 9, "selection": "all", "fingerprint": "0" * 64}
    counts = {
        name: {"legitimate": int((split.truth == 0).sum()), "fraud": int(split.truth.sum())}
        for name, split in splits.items()
        if split.truth is not None
    }
    described = {name: facts | {"skipped": {}, "label_counts": counts.get(name, {})} for name in splits}
    return results.completed(
        {
            "task": "card-fraud",
            "script": "run_fraud.py",
            "command": ["python"],
            "protocol": {"name": "honest", "leaks": False, "demo": False, "notes": []},
            "arguments": {"model": {"value": "cnn", "source": "recipe"}},
            "data": {"splits": described, "overlaps": []},
            "model": {"name": "cnn", "architecture": "Sequential", "parameters": {"total": 1, "trainable": 1}},
            **parts,
            "published": [],
            "history": [{"epoch": float(i), "loss": 1 / i, "eval_loss": 1 / i, "eval_auprc": 9.0} for i in (1, 2)],
            "resources": {"seconds": {"total": 1.0}, **results.peak_memory()},
            "environment": results.environment("cpu", 1),
            "warnings": [],
            "files": {},
        }
    )


@pytest.mark.parametrize("test", [made(), made(3, 0), made(2, 2)], ids=["both classes", "no fraud", "only fraud"])
def test_judged_parts_follow_the_schema(test):
    splits = {"test": test}
    facts = json.loads(json.dumps(whole(judgement(splits), splits), allow_nan=False))
    jsonschema.validate(facts, SCHEMA)
    facts["baseline"]["test"]["metrics"]["auprc"]["unit"] = "furlongs"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(facts, SCHEMA)


# The file of predictions


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def chunks(split: Detections, size: int):
    for start in range(0, len(split), size):
        rows = slice(start, start + size)
        columns = {name: values[rows] for name, values in split.columns.items()}
        truth = None if split.truth is None else split.truth[rows]
        yield Detections(split.ids[rows], truth, split.probabilities[rows], columns, split.threshold)


def test_predictions_are_read_back_exactly(tmp_path):
    split = made(1000, 30)
    assert write_predictions(tmp_path, "test_", [split]) == {"test_predictions.csv": "test_predictions.csv"}
    rows = read(tmp_path / "test_predictions.csv")
    assert list(rows[0]) == ["id", "Time", "Amount", "truth", "prediction", "prediction_at_half", "probability"]
    assert [int(row["id"]) for row in rows] == split.ids.tolist()
    assert [float(row["Amount"]) for row in rows] == split.columns["Amount"].tolist()
    assert [float(row["probability"]) for row in rows] == split.probabilities.tolist(), "to the last digit"
    assert [row["truth"] for row in rows] == [CLASSES[i] for i in split.truth]
    called = {"prediction": split.probabilities >= 0.3, "prediction_at_half": split.probabilities >= 0.5}
    for name, fraud in called.items():
        assert [row[name] for row in rows] == [CLASSES[i] for i in fraud.astype(int)]
    assert 0 < called["prediction_at_half"].sum() < called["prediction"].sum()


def test_chunks_make_the_same_file(tmp_path):
    split = made(1000, 30)
    write_predictions(tmp_path, "whole_", [split])
    write_predictions(tmp_path, "parts_", chunks(split, 64))
    assert (tmp_path / "whole_predictions.csv").read_bytes() == (tmp_path / "parts_predictions.csv").read_bytes()


def test_unknown_truth_is_empty_and_texts_are_kept(tmp_path):
    names = ['quoted "a", b', "متن\nline", "-1"]
    split = Detections(names, None, np.array([0.1, 0.3, 1e-12]), {'of "whom", when': np.array(names[::-1])}, 0.3)
    write_predictions(tmp_path, "", [split])
    rows = read(tmp_path / "predictions.csv")
    assert [row["id"] for row in rows] == names and [row['of "whom", when'] for row in rows] == names[::-1]
    assert [row["truth"] for row in rows] == [""] * 3
    assert [row["prediction"] for row in rows] == ["legitimate", "fraud", "legitimate"], "at the threshold is fraud"
    assert [float(row["probability"]) for row in rows] == [0.1, 0.3, 1e-12]


def test_the_file_grows_while_it_is_hidden(tmp_path):
    """No chunk waits in memory for the next one, and nothing stands under the file's name until all are written."""
    sizes = []

    def watched():
        for part in chunks(made(), 1000):
            sizes.append([path.stat().st_size for path in tmp_path.iterdir()])
            assert not (tmp_path / "predictions.csv").exists()
            yield part

    write_predictions(tmp_path, "", watched())
    assert [len(found) for found in sizes] == [1] * 4 and sorted(sizes) == sizes
    assert sizes[-1][0] > 3000 * 40 * 0.9
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError("no space")])
def test_a_failed_chunk_leaves_the_old_file(tmp_path, stop):
    def failing():
        yield made(100, 3)
        raise stop

    (tmp_path / "predictions.csv").write_text("old")
    with pytest.raises(stop if isinstance(stop, type) else type(stop)):
        write_predictions(tmp_path, "", failing())
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_whole_file_is_new_or_old(tmp_path):
    path = tmp_path / "file"
    with whole_file(path) as partial:
        partial.write_text("first")
        assert not path.exists() and partial.parent == tmp_path and partial.name.startswith(".")
    assert path.read_text() == "first"
    with pytest.raises(ZeroDivisionError), whole_file(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


# Cards


def test_cards_show_the_surest_errors():
    truth = np.array([1, 1, 1, 0, 0, 0, 1, 0])
    probabilities = np.array([0.2, 0.01, 0.9, 0.5, 0.99, 0.3, 0.1, 0.29])
    features = np.zeros((8, 7))
    features[1, [2, 5, 0, 3, 6]] = [-7.26, 3, 1, -0.5, 0.1]
    split = Detections(np.arange(10, 18), truth, probabilities, {"Amount": np.array([1.5] * 7 + [9])}, 0.3)
    cards = [Page(card).text for card in error_cards(split, features, [f"V{i}" for i in range(7)], count=2)]
    assert len(cards) == 4
    assert "Missed fraud" in cards[0] and "0.01 (threshold 0.3)" in cards[0] and "Id 11" in cards[0]
    assert "V2 -7.3, V5 +3.0, V0 +1.0, V3 -0.5, V6 +0.1" in cards[0] and "Amount 1.5" in cards[0]
    assert "Missed fraud" in cards[1] and "Id 16" in cards[1]
    assert "False alarm" in cards[2] and "Id 14" in cards[2] and "0.99" in cards[2]
    assert "False alarm" in cards[3] and "Id 13" in cards[3]
    everything = error_cards(split, features, list("abcdefg"))
    assert len(everything) == 6, "0.3 is an alarm, 0.29 is none"
    assert error_cards(Detections([1], None, np.array([0.5]), {}, 0.3), features[:1], list("abcdefg")) == []


def test_cards_escape_what_they_show():
    split = Detections(["<b>id</b>"], np.array([0]), np.array([0.9]), {"<i>": np.array(["<script>"])}, 0.3)
    (card,) = error_cards(split, np.ones((1, 1)), ["<u>"])
    assert not any(tag in card for tag in ("<b>", "<i>", "<u>", "<script>")) and "&lt;script&gt;" in card


# Plots


@pytest.fixture
def drawn(monkeypatch) -> dict[str, tuple]:
    """Plot's name -> what was drawn, instead of drawing it."""
    found: dict[str, tuple] = {}
    for name in ("lines", "histogram", "threshold_curve", "class_counts", "curves", "confusion_matrix"):

        def kept(*values, path=None, **more):
            path = next(value for value in values if isinstance(value, Path))
            found[path.stem] = values, more
            return path

        monkeypatch.setattr(plotting, name, kept)
    return found


def area(x, y):
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))


def test_curves_are_those_of_scikit_learn(drawn, tmp_path):
    test = made(probabilities=np.round(made().probabilities, 2))
    other = np.round(made(seed=5, truth=test.truth).probabilities, 3)
    splits = {"test": test}
    draw_plots(whole(judgement(splits), splits), splits, {"test": {"trees": other}}, tmp_path)
    for place, probabilities in enumerate((test.probabilities, other)):
        name, (x, y) = list(drawn["test_roc"][0][0].items())[place]
        roc = 100 * sk.roc_auc_score(test.truth, probabilities)
        assert area(x, y) == pytest.approx(roc / 100) and name == f"{('this model', 'trees')[place]}: {roc:.2f} %"
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
        name, (recall, precision) = list(drawn["test_precision_recall"][0][0].items())[place]
        expected = sk.average_precision_score(test.truth, probabilities)
        steps = np.diff(recall, prepend=0)
        assert np.sum(steps * precision) == pytest.approx(expected) and name.endswith(f"{100 * expected:.2f} %")
        known = set(zip(*(np.round(part, 9) for part in sk.precision_recall_curve(test.truth, probabilities)[:2])))
        assert {(round(p, 9), round(r, 9)) for p, r in zip(precision, recall)} <= known
        assert len(recall) < 2 * 60 + 2
    for at, (recall, precision) in zip((0.3, 0.5), drawn["test_precision_recall"][1]["points"].values()):
        (_, wrong), (missed, found) = confusion(test.truth, test.probabilities, at)
        assert (recall, precision) == (found / (found + missed), found / (found + wrong))


def test_corners_lose_nothing():
    split = made(300, 40)
    _, found, alarms = sweep(split.truth, split.probabilities)
    few, at = _corners(found, alarms)
    assert len(few) < len(found) / 2
    assert (
        np.interp(np.arange(alarms[-1]) + 0.5, at, few).tolist()
        == np.interp(np.arange(alarms[-1]) + 0.5, alarms, found).tolist()
    )


def test_figures_by_threshold(drawn, tmp_path):
    at = np.linspace(0, 1, 1001)  # so that many rows are exactly at a threshold
    splits = {"test": made(probabilities=at[(1000 * made().probabilities).astype(int)])}
    draw_plots(whole(judgement(splits), splits), splits, {}, tmp_path)
    thresholds, series = drawn["test_by_threshold"][0][:2]
    assert drawn["test_by_threshold"][1]["marks"] == {"chosen": 0.3, "half": 0.5}
    assert (thresholds[0], thresholds[-1], len(thresholds)) == (0, 1, 1001)
    assert list(series) == ["precision", "recall", "F1"]
    truth, probabilities = splits["test"].truth, splits["test"].probabilities
    for place in (0, 1, 17, 300, 500, 950):
        called = probabilities >= thresholds[place]
        scores = sk.precision_recall_fscore_support(truth, called, average="binary")[:3]
        assert [values[place] for values in series.values()] == pytest.approx([100 * score for score in scores])
    assert probabilities.max() < 1 and np.isnan(series["precision"][-1]) and series["F1"][-1] == 0


def test_calibration_bins_hold_equally_many_frauds(drawn, tmp_path):
    # 41 frauds in 4 bins, which begin at the 11th, 21st and 31st, and legitimate rows in three of them
    frauds = np.arange(1, 42) / 50
    legitimate = np.repeat([0.001, 0.25, 0.45], [989, 30, 10])
    truth = np.repeat([1, 0], [len(frauds), len(legitimate)])
    split = Detections(np.arange(len(truth)), truth, np.concatenate([frauds, legitimate]), {}, 0.3)
    splits = {"test": split}
    draw_plots(whole(judgement(splits), splits), splits, {}, tmp_path)
    (mean, share), more = drawn["test_calibration"][0][0]["this model"], drawn["test_calibration"][1]
    assert share == pytest.approx([10 / 999, 10 / 40, 10 / 20, 11 / 11])
    assert mean[0] == pytest.approx((0.001 * 989 + frauds[:10].sum()) / 999) and mean[3] == frauds[30:].mean()
    assert more["diagonal"] and more["logarithmic"]
    one = Detections(np.arange(2), np.array([1, 0]), np.array([0.5, 0.5]), {}, 0.3)
    draw_plots(whole(judgement({"test": one}), {"test": one}), {"test": one}, {}, tmp_path)
    assert [part.tolist() for part in drawn["test_calibration"][0][0]["this model"]] == [[0.5], [0.5]]


def test_counts_before_and_after_resampling(drawn, tmp_path):
    splits = {"test": made()}
    facts = whole(judgement(splits), splits)
    before, after = {"legitimate": 900, "fraud": 3}, {"legitimate": 900, "fraud": 897}
    draw_plots(facts, splits, {}, tmp_path, before=before, after=after)
    assert drawn["resampling"][0][0] == {"before resampling": before, "after resampling": after}
    assert drawn["class_counts"][0][0] == {"test": {"legitimate": 3940, "fraud": 60}}
    scores = drawn["test_scores"][1]
    assert [len(part) for part in scores["groups"].values()] == [3940, 60] and scores["cutoff"] == 0.3
    drawn.clear()
    draw_plots(facts, splits, {}, tmp_path)
    assert "resampling" not in drawn


CURVES = ("precision_recall", "roc", "scores", "calibration", "by_threshold")


@pytest.mark.parametrize(
    ("test", "kinds"),
    [(made(), CURVES), (made(3, 1), CURVES), (made(3, 0), ("scores",))],
    ids=["both classes", "one fraud", "no fraud"],
)
def test_plots_are_pictures(test, kinds, tmp_path):
    splits = {"test": test, "blind": made(5, 1, truth=None)}
    files = draw_plots(whole(judgement(splits), splits), splits, {}, tmp_path)
    names = [f"test_{kind}" for kind in (*kinds, "confusion", "at_half_confusion")]
    assert list(files) == ["class_counts", "loss", "auprc", *names]
    for path in files.values():
        with Image.open(tmp_path / path) as image:
            assert image.format == "PNG" and np.asarray(image.convert("L")).min() < 120


def test_nothing_judged_is_nothing_drawn(tmp_path):
    splits = {"blind": made(truth=None)}
    facts = whole(judgement(splits), splits) | {"history": []}
    assert draw_plots(facts, splits, {}, tmp_path) == {}


USED = """
import sys
import numpy as np
from pathlib import Path
from common.legacy.detection_results import Detections, draw_plots, error_cards, judge, write_predictions

heavy = ("datasets", "evaluate", "matplotlib", "pandas", "pyarrow", "sklearn", "tensorflow", "torch", "transformers")
print([name for name in heavy if name in sys.modules])
split = Detections(np.arange(4), np.array([1, 1, 1, 1]), np.array([0.1, 0.2, 0.3, 0.9]), {}, 0.5)
parts = judge({"test": split}, {"test": 1.0}, train_truth=None, headline_split="test", costs=(1.0, 1.0))
write_predictions(Path(sys.argv[1]), "", [split])
facts = {**parts, "data": {"splits": {}}, "history": []}
draw_plots(facts, {"test": split}, {}, Path(sys.argv[1]))
error_cards(split, np.ones((4, 1)), ["a"])
print([name for name in heavy if name in sys.modules and name not in ("matplotlib", "pandas", "pyarrow")])
"""


def test_torch_is_never_loaded_and_nothing_heavy_at_once(tmp_path):
    done = subprocess.run([sys.executable, "-c", USED, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]
