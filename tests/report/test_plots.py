"""Plots are whole SVG files that follow light and dark, whatever the numbers and names are."""

import math
import subprocess
import sys
import warnings
import xml.etree.ElementTree as xml

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from common.report import plots
from tests.helpers import ROOT

NAN = math.nan
NAMES = ["_silence_", "شادی", "$5 and $", "<b>", "a very long label that goes on and on and on", "", "日本語"]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def drawn(path) -> list[str]:
    """The texts of a plot, after checking that it is whole, the only file, and has no colour of one mode alone."""
    assert path.suffix == ".svg" and [file.name for file in path.parent.iterdir()] == [path.name]
    source = path.read_text("utf-8")
    root = xml.fromstring(source)
    width, height = (float(root.get(name).removesuffix("pt")) for name in ("width", "height"))
    assert 250 < width < 1000 and 200 < height < 1000
    assert f": light-dark({plots.INK}, {plots.DARK[0]})" in source and "color-scheme:light dark" in source
    for color in (plots.INK, plots.GRID, *plots.PALETTE):
        assert source.count(f": {color}") == source.count(f": light-dark({color}, ")
    assert "#ffffff" not in source.replace("fill: #ffffff; text-anchor", ""), "the ground is the page's"
    return ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize(
    ("values", "groups", "cutoff", "said"),
    [
        (np.arange(20, 420), {}, 384, ["max length: 8.75 % beyond", "all (400)"]),
        ([1.5], {}, None, ["all (1)"]),
        ([3, 3, 3], {}, 3, ["max length: 0.00 % beyond"]),
        ([], {}, None, ["all (0)"]),
        ([*range(5000), 10**9], {}, 384, ["all (5,001)"]),
        (None, {"one": [1.0, 2.5], "_none_": [], "شادی": [1]}, 2, ["one (2)", "_none_ (0)", "شادی (1)"]),
        (None, {name: [1, 2, 3] for name in NAMES}, 2, ["$5 and $ (3)"]),
    ],
)
def test_histogram(tmp_path, values, groups, cutoff, said):
    options = {"title": "Lengths", "xlabel": "tokens", "cutoff": cutoff, "cutoff_label": "max length", "groups": groups}
    texts = drawn(plots.histogram(values, tmp_path / "plots" / "lengths.png", **options))
    assert "Lengths" in texts and set(said) <= set(texts), texts


def test_curves_by_epoch_and_step_with_published_values(tmp_path):
    history = [{"step": i, "epoch": i / 10, "loss": 1 / i} for i in range(1, 90)]
    history += [{"step": 50, "epoch": 5.0, "eval_loss": 1.0}, {"step": 90, "epoch": 9.0, "eval_loss": None}]
    history += [{"step": 90, "epoch": 9.0, "train_loss": 77.0, "total_flos": 1.0}]
    series = {"train": "loss", "validation": "eval_loss", "whole": "train_loss"}
    published = {"published": {1: 0.7, 2: 0.6}}
    texts = drawn(plots.curves(history, tmp_path / "loss", title="Loss", series=series, references=published))
    assert {"train", "validation", "published", "epoch"} <= set(texts) and "whole" not in texts
    assert "stroke-dasharray" in (tmp_path / "loss.svg").read_text()
    assert "step" in drawn(plots.curves(history, tmp_path / "loss", title="Loss", series=series, x="step"))
    assert "train" not in drawn(plots.curves([], tmp_path / "loss", title="Loss", series=series))


@pytest.mark.parametrize(
    ("table", "low_high", "said"),
    [
        (
            {"all": {"EM": 61.0, "F1": 70.0}, "unanswerable": {"EM": 60.0}},
            {"all": {"EM": (59.0, 63.0), "F1": None}},
            ["EM", "F1", "unanswerable"],
        ),
        ({"all": {"EM": NAN, "F1": None}}, {}, ["all"]),
        ({"all": {"EM": 0.0, "F1": 61.04}, "none": {}}, {}, ["0.0", "61.0", "none"]),
        ({}, {}, ["Scores"]),
        ({name: dict.fromkeys(NAMES, 0.5) for name in NAMES}, {}, ["$5 and $", "日本語", "a very long label that..."]),
        ({"a": {"": 0.9}, "b": {"": 0.2}}, {"a": {"": (0.95, 0.99)}}, ["b"]),
    ],
)
def test_grouped_bars(tmp_path, table, low_high, said):
    options = {"title": "Scores", "ylabel": "percent", "low_high": low_high}
    texts = drawn(plots.grouped_bars(table, tmp_path / "scores", **options))
    assert set(said) <= set(texts), texts


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"train": {"yes": 4000, "_silence_": 6, "none": 0}, "test": {"yes": 260}}, ["4,000", "6", "260", "examples"]),
        ({"train": dict.fromkeys(NAMES, 10)}, ["10", "examples", "شادی"]),
        ({"train": {f"class {i}": i + 1 for i in range(40)}, "test": {}}, ["class 39"]),
        ({"train": {"only": 0}}, ["only"]),
        ({}, ["Classes"]),
    ],
)
def test_class_counts(tmp_path, counts, said):
    assert set(said) <= set(drawn(plots.class_counts(counts, tmp_path / "counts", title="Classes")))


def test_lines_with_marks(tmp_path):
    series, marks = {"F1": (np.linspace(-5, 5, 300), np.arange(300))}, {"best: 0.5": 0.5, "$x$: 1": 1}
    labels = {"title": "Score by threshold", "xlabel": "null threshold", "ylabel": "F1", "marks": marks}
    texts = drawn(plots.lines(series, tmp_path / "at", **labels))
    assert {"F1", "best: 0.5", "$x$: 1", "null threshold"} <= set(texts)
    assert drawn(plots.lines({"F1": ([-math.inf, 0.5, math.inf], [1, 2, NAN])}, tmp_path / "at", **labels))


@pytest.mark.parametrize("labels", [NAMES, ["one"], [f"class {i}" for i in range(20)]])
def test_confusion_matrix(tmp_path, labels):
    matrix = np.arange(len(labels) ** 2).reshape(len(labels), len(labels)).tolist()
    texts = drawn(plots.confusion_matrix(labels, matrix, tmp_path / "confusion", title="Confusion"))
    assert {"predicted", "true", f"{matrix[-1][-1]:,}"} - set(texts) <= {"0"} and "0" not in texts


def test_of_many_classes_there_are_no_figures_and_only_some_names(tmp_path):
    labels = [f"class {i}" for i in range(100)]
    texts = drawn(plots.confusion_matrix(labels, np.full((100, 100), 7), tmp_path / "confusion", title="Confusion"))
    assert "class 3" in texts and "class 4" not in texts and "7" not in texts


def test_precision_recall(tmp_path):
    generator = np.random.default_rng(0)
    truth = (generator.random(600) < 0.05).astype(int)
    models = {"this model": np.clip(0.4 * truth + 0.5 * generator.random(600), 0, 1), "_other_": generator.random(600)}
    texts = drawn(plots.precision_recall(truth, models, tmp_path / "a", title="A curve"))
    scores = [average_precision_score(truth, scores) for scores in models.values()]
    assert {f"this model (AP = {scores[0]:.2f})", f"_other_ (AP = {scores[1]:.2f})", "recall", "precision"} <= set(
        texts
    )


def test_scatter(tmp_path):
    groups = {"یک": np.zeros((5, 2)), "_b_": np.ones((3, 2))}
    assert {"یک", "_b_"} <= set(drawn(plots.scatter(groups, tmp_path / "points", title="PCA", xlabel="1", ylabel="2")))


def test_the_same_numbers_give_the_same_file_and_pyplot_draws_nothing(tmp_path):
    first, second = (
        plots.histogram([1, 2, 3], tmp_path / name / "h", title="t", xlabel="x").read_bytes() for name in "ab"
    )
    assert first == second
    program = "import sys; from common.report import plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
