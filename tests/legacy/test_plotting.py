"""Plots are real pictures of a sensible size, whatever the numbers and names are."""

import math
import warnings

import numpy as np
import pytest
from PIL import Image

from common.legacy import plotting

NAN = math.nan
NAMES = ["_silence_", "شادی", "$5 and $", "<b>", "a very long label that goes on and on and on", ""]


def picture(path):
    """The picture as an array, after checking that it is a whole PNG and the only file."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert 600 <= image.width <= 2400 and 500 <= image.height <= 2400
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels[0, 0] == 255).all()  # a white ground
    assert pixels.min() < 120  # something is drawn
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    return pixels


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(
    ("values", "groups", "cutoff"),
    [
        (np.random.default_rng(0).integers(20, 400, 999), None, 384),
        ([1.5], None, None),
        ([3, 3, 3], None, 3),
        ([], None, 5),
        ([NAN, 1, NAN], None, 7),
        ([*range(5000), 10**9], None, 384),
        (None, {"one": [1.0, 2.5], "_none_": [], "شادی": [NAN]}, 2),
        (None, {}, None),
        (None, {name: [1, 2, 3] for name in NAMES}, 2),
        (None, {"a": [0.0, 0.5, 1.0], "خنثی": [0.25, NAN], "none": []}, None),
    ],
)
def test_histogram(tmp_path, values, groups, cutoff):
    path = tmp_path / "plot.png"
    options = {"cutoff": cutoff, "cutoff_label": "max length" if cutoff == 384 else None, "groups": groups}
    assert plotting.histogram(values, path, title="Lengths", xlabel="tokens", **options) == path
    picture(path)


def test_shares_by_group_are_shown_in_tenths(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    edges = []
    plain = Axes.hist
    monkeypatch.setattr(Axes, "hist", lambda axes, x, bins, **rest: edges.append(bins) or plain(axes, x, bins, **rest))
    options = {"title": "Overlap", "xlabel": "share of words"}
    groups = {"a": [0.3] * 2000, "b": [1.0], "c": [0.5]}  # the one at 1 is beyond the 99.9th percentile
    picture(plotting.histogram(None, tmp_path / "plot.png", groups=groups, **options))
    assert [bins.tolist() for bins in edges] == [[i / 10 for i in range(11)]] * 3
    edges.clear()
    picture(plotting.histogram(None, tmp_path / "plot.png", groups=groups | {"d": [1.5]}, **options))
    assert all(len(bins) > 11 for bins in edges)  # no shares


@pytest.mark.parametrize(
    "history",
    [
        [{"step": i, "epoch": i / 10, "loss": 1 / i} for i in range(1, 90)] + [{"epoch": 3.0, "eval_loss": 1.0}],
        [{"step": 1, "epoch": 1.0, "loss": 2.0}],
        [{"step": 1, "epoch": 1.0, "loss": NAN, "eval_loss": None}, {"step": 2, "loss": 1.0}],
        [],
    ],
)
def test_curves(tmp_path, history):
    series = {"train": "loss", "validation": "eval_loss"}
    picture(plotting.curves(history, tmp_path / "plot.png", title="Loss", series=series))


def test_curves_shows_every_series(tmp_path):
    history = [{"epoch": float(i), "a_loss": i, "b_loss": 2 * i} for i in range(4)]
    both = picture(plotting.curves(history, tmp_path / "plot.png", title="", series={"a": "a_loss", "b": "b_loss"}))
    for color in plotting.PALETTE[:2]:
        wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (both == wanted).all(axis=2).sum() > 50


@pytest.mark.parametrize(
    ("table", "low_high", "baseline"),
    [
        (
            {"all": {"EM": 61.0, "F1": 70.0}, "unanswerable": {"EM": 60.0}},
            {"all": {"EM": (59.0, 63.0), "F1": None}},
            {"all": {"EM": 50.0}, "unanswerable": {"EM": NAN}},
        ),
        ({"all": {"EM": NAN, "F1": None}}, None, None),
        ({"all": {"EM": 0.0, "F1": NAN}, "none": {}}, None, None),
        ({}, None, None),
        ({name: dict.fromkeys(NAMES, 0.5) for name in NAMES}, None, None),
    ],
)
def test_grouped_bars(tmp_path, table, low_high, baseline):
    options = {"title": "Scores", "ylabel": "percent", "low_high": low_high, "baseline": baseline}
    picture(plotting.grouped_bars(table, tmp_path / "plot.png", **options))


@pytest.mark.parametrize(
    "counts",
    [
        {"train": {"yes": 4000, "_silence_": 6, "none": 0}, "test": {"yes": 260}},
        {"train": dict.fromkeys(NAMES, 10)},
        {"train": {f"class {i}": i + 1 for i in range(40)}, "test": {}},
        {"train": {"only": 0}},
        {"train": {}},
        {},
    ],
)
def test_class_counts(tmp_path, counts):
    picture(plotting.class_counts(counts, tmp_path / "plot.png", title="Classes"))


@pytest.mark.parametrize(
    ("thresholds", "scores", "marks"),
    [
        ([*np.linspace(-5, 5, 300), 1e6, -math.inf, math.inf, NAN], range(304), {"best": 0.5, "far": 1e6, "$x$": 1}),
        ([0.5], [70], {"best": 0.5}),
        ([1, 1, 1], [1, NAN, 1], {"none": NAN}),
        ([], [], {}),
        ([-math.inf], [3], {"best": -math.inf}),
    ],
)
def test_threshold_curve(tmp_path, thresholds, scores, marks):
    options = {"title": "Score by threshold", "xlabel": "null threshold", "ylabel": "F1", "marks": marks}
    picture(plotting.threshold_curve(thresholds, {"F1": list(scores)}, tmp_path / "plot.png", **options))


@pytest.mark.parametrize("labels", [NAMES, ["one"], [], [f"class {i}" for i in range(20)]])
def test_confusion_matrix(tmp_path, labels):
    matrix = np.arange(len(labels) ** 2).reshape(len(labels), len(labels)).tolist()
    picture(plotting.confusion_matrix(labels, matrix, tmp_path / "plot.png", title="Confusion"))
