"""Scores by utterance, what is grouped, and plots of data: against cases worked by hand and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from common.legacy import plotting
from common.legacy.classification import Predictions
from common.legacy.recordings import Recordings
from common.legacy.speech_results import (
    UAR,
    by_gender,
    by_utterance,
    draw_data,
    groups_of,
    name_recall,
    pieces_of,
    utterance_figures,
)
from common.legacy.splitting import cut


def clips(ids, seconds, labels=None, **more) -> Recordings:
    labels = None if labels is None else np.array(labels)
    times = np.zeros(len(ids)), np.array(seconds, dtype=np.float64)
    return Recordings("here", list(ids), [None] * len(ids), *times, list(ids), ("low", "high"), labels, **more)


def test_an_utterance_is_the_mean_of_its_segments():
    whole = clips(["b", "a"], [11.0, 4.0], [1, 0], speakers=["S2", "S1"])
    segments = cut(whole, 5)
    assert segments.ids == ["b#1", "b#2", "b#3", "a"]
    shares = np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.7, 0.3]])
    back, logits = by_utterance(segments, np.log(shares) + 3.0)  # logits are shares but for a constant
    assert (back.ids, back.speakers, back.labels.tolist()) == (["b", "a"], ["S2", "S1"], [1, 0])
    assert back.seconds.tolist() == [11.0, 4.0]
    # (.9 + .2 + .1) / 3 = .4, and (.1 + .8 + .9) / 3 = .6: the mean of the logits would say "low" less clearly
    assert np.exp(logits) == pytest.approx(np.array([[0.4, 0.6], [0.7, 0.3]]))


def test_segments_may_stand_in_any_order():
    whole = clips(["a", "b"], [10.0, 10.0], [0, 1])
    segments = cut(whole, 5).take(np.array([3, 0, 2, 1]))
    back, logits = by_utterance(segments, np.log([[0.2, 0.8], [1.0, 1e-40], [0.4, 0.6], [0.5, 0.5]]))
    assert back.ids == ["b", "a"] and np.isfinite(logits).all()
    assert np.exp(logits) == pytest.approx(np.array([[0.3, 0.7], [0.75, 0.25]]))
    assert back.ends.tolist() == [10.0, 10.0]


def test_whole_recordings_keep_their_logits():
    whole, logits = clips(["a", "b", "b"], [1.0, 2.0, 2.0], [0, 1, 1]), np.array([[1.0, 2.0], [3.0, 0.0], [3.0, 0.0]])
    back, same = by_utterance(whole, logits)
    assert back is whole and same is logits, "also copies, which have one id"


def test_figures_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    whole = clips([str(i) for i in range(40)], [1.0] * 40, random.integers(0, 2, 40))
    logits = random.normal(size=(40, 2))
    said = logits.argmax(axis=1)
    found = utterance_figures(whole, logits)
    assert found[UAR] == pytest.approx(100 * balanced_accuracy_score(whole.labels, said))
    assert found["accuracy"] == pytest.approx(100 * accuracy_score(whole.labels, said))
    assert found["f1"] == pytest.approx(100 * f1_score(whole.labels, said, average="macro"))


def test_recall_by_gender():
    truth, said = np.array([0, 0, 1, 1, 0, 0]), np.array([0, 1, 1, 1, 0, 0])
    genders = ["F", "F", "F", "F", "M", "M"]
    split = Predictions(["low", "high"], np.eye(2)[said], truth, list("abcdef"), {}, groups={"gender": genders})
    groups = {"test": {"gender": {"F": {}, "M": {}}, "place": {"here": {}}}, "validation": {"place": {"here": {}}}}
    by_gender(groups, {"test": split})
    assert groups["test"]["gender"]["F"][UAR]["value"] == pytest.approx(75.0)
    assert groups["test"]["gender"]["M"][UAR] == {
        "value": 100.0,
        "low": None,
        "high": None,
        "unit": "percent",
        "examples": 2,
    }, "a class that no M has does not count"


def test_recall_gets_its_name():
    def metrics():
        return {"recall": {"value": 1.0, "average": "macro"}, "f1": {"value": 2.0}}

    judgement = {"metrics": {"test": metrics()}, "baseline": {"test": {"metrics": metrics()}}, "headline": {}}
    judgement["headline"] = {"metric": "recall"}
    name_recall(judgement)
    assert judgement["metrics"]["test"] == {"f1": {"value": 2.0}, UAR: {"value": 1.0}}
    assert judgement["baseline"]["test"]["metrics"][UAR] == {"value": 1.0}
    assert judgement["headline"]["metric"] == UAR


def test_groups_are_columns_of_few_values():
    columns = {
        "gender": ["F", "M"] * 10,
        "utterance": ["1", "2"] * 10,
        "place": ["here"] * 20,
        "name": [str(i) for i in range(20)],
    }
    assert set(groups_of(clips([str(i) for i in range(20)], [1.0] * 20, columns=columns))) == {"gender"}


def test_what_is_trained_on_is_said():
    whole = {"train": clips(["a", "b"], [11.0, 4.0], [1, 0]), "test": clips(["c"], [30.0], [1])}
    segments = cut(whole["train"], 5)
    copied = segments.take(np.array([0, 1, 2, 3, 3]))
    assert pieces_of(whole, {"train": whole["train"], "test": cut(whole["test"], 5)}) == []
    (sentence,) = pieces_of(whole, {"train": copied})
    assert "2 recordings as 5 pieces (4 different ones" in sentence
    assert pieces_of({"test": whole["test"]}, {"test": cut(whole["test"], 5)}) == [], "nothing is trained"


@pytest.fixture
def drawn(monkeypatch) -> dict[str, tuple]:
    """Plot's name -> what was drawn."""
    found: dict[str, tuple] = {}
    for name in ("grouped_bars", "class_counts", "histogram"):
        original = getattr(plotting, name)

        def wrapped(values, path, *, original=original, **more):
            found[path.stem] = values, more
            return original(values, path, **more)

        monkeypatch.setattr(plotting, name, wrapped)
    return found


def test_plots_before_and_after(drawn, tmp_path):
    gender = {"gender": ["M", "F", "M"]}
    train = clips(["a", "b", "c"], [11.0, 4.0, 2.0], [1, 0, 0], columns=gender)
    test = clips(["d", "e"], [30.0, 2.0], [1, 0], columns={"gender": ["F", "F"]})
    whole = {"train": train, "test": test}
    files = draw_data(whole, {"train": cut(train, 5), "test": cut(test, 5)}, tmp_path)
    kinds = ("durations", "class_counts", "class_shares", "gender")
    assert set(files) == {f"{kind}{suffix}" for kind in kinds for suffix in ("", "_trained_on")}
    assert all((tmp_path / path).stat().st_size > 0 for path in files.values())
    assert drawn["durations"][0] == {"low": {"train": 3.0, "test": 2.0}, "high": {"train": 11.0, "test": 30.0}}
    assert drawn["durations"][1]["low_high"]["low"]["train"] == (2.5, 3.5)
    assert drawn["durations_trained_on"][0]["high"] == {"train": 5.0, "test": 30.0}, "5, 5 and 1 second"
    assert drawn["class_counts"][0]["train"] == {"low": 2, "high": 1}
    assert drawn["class_counts_trained_on"][0] == {"train": {"low": 2, "high": 3}, "test": {"low": 1, "high": 1}}
    assert drawn["class_shares"][0]["high"] == pytest.approx({"train": 100 / 3, "test": 50})
    assert drawn["gender"][0] == {"F": {"low": 2, "high": 1}, "M": {"low": 1, "high": 1}}
    assert drawn["gender_trained_on"][0] == {"F": {"low": 1, "high": 0}, "M": {"low": 1, "high": 3}}
    again = draw_data(whole, whole, tmp_path / "same")
    assert set(again) == set(kinds), "what does not change is drawn once"


def test_plots_of_names_and_of_unknown_classes(drawn, tmp_path):
    names = {"train": clips(["a", "b"], [np.nan] * 2, [0, 1])}
    assert set(draw_data(names, names, tmp_path)) == {"class_counts", "class_shares"}, "no seconds, no genders"
    calls = {"test": clips(["a", "b"], [1.0, 2.0])}
    assert set(draw_data(calls, calls, tmp_path)) == {"durations"}
    assert drawn["durations"][0].tolist() == [1.0, 2.0]
