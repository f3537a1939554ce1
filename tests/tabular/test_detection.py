"""Scores as scikit-learn has them; thresholds against every possible one; calibration, alerts and leaks by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk
from sklearn.isotonic import IsotonicRegression

from common.metrics.intervals import wilson_interval
from common.tabular.columns import Part
from common.tabular.detection import (
    Calibration,
    Detections,
    alerts_by_day,
    choose,
    cost_of,
    detection_metrics,
    leak_worth,
)


def settings(threshold="f1", miss_cost=100.0, alert_cost=1.0, alerts=100) -> SimpleNamespace:
    return SimpleNamespace(threshold=threshold, miss_cost=miss_cost, alert_cost=alert_cost, alerts_per_day=alerts)


def part_of(target, time=None, amount=None, real=None) -> Part:
    target = np.asarray(target, dtype=np.int8)
    none = np.zeros((len(target), 0), dtype=np.float32)
    real = np.ones(len(target), dtype=bool) if real is None else real
    unknown = [np.full(len(target), np.nan) if one is None else one for one in (time, amount)]
    return Part({"source": "t"}, none, target, *unknown, real, pd.DataFrame())


def drawn(rows: int = 3_000, share: float = 0.05, seed: int = 0, apart: float = 2.0) -> Detections:
    """Probabilities with ties, of a detector that is neither blind nor perfect."""
    random = np.random.default_rng(seed)
    target = (random.random(rows) < share).astype(np.int8)
    said = 1 / (1 + np.exp(-(random.standard_normal(rows) + apart * target - 3)))
    amount, time = random.lognormal(3, 1, rows), np.sort(random.random(rows)) * 5 * 86_400 + 1e9
    return Detections(part_of(target, time, amount), np.round(said, 3), 0.21)


def test_values_are_scikit_learns():
    one = drawn()
    truth, said = one.part.target, one.probabilities
    found = detection_metrics(one, settings(alerts=20))
    expected = {"auprc": sk.average_precision_score(truth, said), "roc_auc": sk.roc_auc_score(truth, said)}
    for ending, at in (("", 0.21), ("_at_half", 0.5)):
        called = said >= at
        for name in ("precision", "recall", "f1", "accuracy"):
            expected[name + ending] = getattr(sk, f"{name}_score")(truth, called)
        expected[f"mcc{ending}"] = sk.matthews_corrcoef(truth, called) / 100
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(100 * value), name
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"] and found[name]["examples"] == 3_000
    assert found["loss"]["value"] == pytest.approx(sk.log_loss(truth, np.clip(said, 1e-7, 1 - 1e-7)))
    assert found["mcc"]["unit"] == "score" and found["cost"]["unit"] == "count" and found["loss"]["unit"] == "nats"
    assert found["auprc"]["low"] == 100 * wilson_interval(expected["auprc"], int(truth.sum()))[0]
    missed = one.part.amount[(truth == 1) & (said < 0.21)].sum()
    assert found["cost"]["value"] == pytest.approx(missed + (said >= 0.21).sum())
    flat = cost_of(part_of(truth), said >= 0.21, settings("f1", 7.0, 2.0))
    assert flat == 7 * ((truth == 1) & (said < 0.21)).sum() + 2 * (said >= 0.21).sum()


def test_without_a_class_the_areas_are_undefined():
    for target, undefined in (([0, 0, 0], {"auprc", "roc_auc", "recall"}), ([1, 1, 1], {"roc_auc"})):
        found = detection_metrics(Detections(part_of(target), np.array([0.1, 0.7, 0.9]), 0.5), settings())
        assert {name for name in ("auprc", "roc_auc", "recall") if found[name]["value"] is None} == undefined
        assert not any(name.endswith("daily_alerts") for name in found)


def value_of(args, one: Detections, threshold: float) -> tuple:
    """What a rule wants as large as possible."""
    called, truth = one.probabilities >= threshold, one.part.target
    if args.threshold == "f1":
        return (sk.f1_score(truth, called, zero_division=0),)
    return (-cost_of(one.part, called, args),)


@pytest.mark.parametrize("rule", ["f1", "cost"])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_threshold_is_better_than_the_chosen_one(rule, seed):
    one = drawn(400, 0.15, seed)
    args = settings(rule, 100.0, 5.0)
    threshold, how = choose(one.part, one.probabilities, args)
    every = [*np.unique(one.probabilities), 1.1]
    best = max(value_of(args, one, at) for at in every)
    assert value_of(args, one, threshold) == pytest.approx(best) and "validation" in how
    assert threshold not in one.probabilities  # halfway between two


def test_thresholds_at_the_edges():
    one = Detections(part_of([0, 1, 0, 1]), np.array([0.1, 0.2, 0.3, 0.4]), 0.5)
    assert choose(one.part, one.probabilities, settings("0.3")) == (0.3, "given")
    assert choose(part_of([1, 1, 1, 1]), one.probabilities, settings())[0] == 0.05
    assert choose(one.part, np.full(4, 0.7), settings())[0] == 0.35
    threshold, how = choose(one.part, one.probabilities, settings("cost", 1.0, 50.0))
    assert threshold > 1 and "cost more" in how  # a network says 1.0 of what it is sure of


def test_prior_correction_gives_back_the_share_of_real_rows():
    """A calibrated detector of a balanced set says too much of fraud for the real one, exactly by Bayes's rule."""
    random = np.random.default_rng(0)
    real = part_of(random.random(200_000) < 0.01)
    score = random.standard_normal(200_000) + 2 * real.target
    balanced = 1 / (1 + np.exp(-(2 * score - 2)))  # log odds of two normal clouds, equally large
    train = part_of([0, 1] * 500)
    none = Calibration.fit("none", real, train, np.ones(2), real, None)
    assert np.array_equal(none(balanced), balanced)
    prior = Calibration.fit("prior", real, train, np.ones(2), real, None)(balanced)
    assert prior.mean() == pytest.approx(real.target.mean(), rel=0.05) and balanced.mean() > 5 * prior.mean()
    share = real.target.mean()
    assert Calibration(0.0638)(np.array([0.0, 1.0])).tolist() == [0, 1]  # and no more
    weighted = Calibration.fit("prior", real, real, np.array([1.0, (1 - share) / share]), real, None)(balanced)
    np.testing.assert_allclose(weighted, prior, rtol=1e-9)  # class weights teach the same as copies


def test_isotonic_calibration_is_scikit_learns():
    one, seen = drawn(seed=1), drawn(seed=2)
    found = Calibration.fit("isotonic", one.part, one.part, np.ones(2), seen.part, seen.probabilities)
    reference = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(seen.probabilities, seen.part.target)
    np.testing.assert_allclose(found(one.probabilities), reference.predict(one.probabilities), atol=1e-12)


def test_alerts_day_by_day():
    time = 1_700_006_400 + np.array([80_000, 80_020, 86_399, 86_411, 90_000, 3 * 86_400.0])  # from midnight
    one = Detections(part_of([1, 0, 1, 1, 0, 1], time), np.array([0.9, 0.8, 0.1, 0.3, 0.4, 0.2]), 0.5)
    days = alerts_by_day(one, 2)
    assert list(days) == ["rows", "alerts", "frauds", "found"] and [*days.index] == [1, 2, 4]  # the dates
    assert days.to_numpy(int).tolist() == [[3, 2, 2, 1], [2, 2, 1, 1], [1, 1, 1, 1]]
    found = detection_metrics(one, settings(alerts=2))
    assert found["precision_of_daily_alerts"]["value"] == pytest.approx(100 * 3 / 5)
    assert alerts_by_day(Detections(part_of([1, 0]), np.array([0.1, 0.2]), 0.5), 2).empty


def test_what_a_leak_is_worth_compares_real_rows_at_one_share():
    """The same detector on the same real rows: without a leak it is worth nothing, however balanced the test is."""
    holdout = drawn(20_000, 0.03, 4)
    frauds = np.flatnonzero(holdout.part.target)
    rows = np.concatenate([np.arange(20_000), np.tile(frauds, 30)])
    real = np.arange(len(rows)) < 20_000
    balanced = Detections(part_of(holdout.part.target[rows], real=real), holdout.probabilities[rows], 0.2)
    table, sentence = leak_worth(balanced, holdout)
    assert "worth 0.0 points of area under precision-recall and 0.0 under ROC" in sentence
    cells = {row[0]: list(map(float, row[1:])) for row in table["rows"]}
    assert cells["leaking test, its real rows"] == cells["holdout"]
    honest = cells["holdout"]
    assert honest[1] > honest[0] + 20 and f"balance alone adds {honest[1] - honest[0]:.1f}" in sentence
    assert honest[0] == pytest.approx(
        100 * sk.average_precision_score(holdout.part.target, holdout.probabilities), abs=0.01
    )
    weights = np.where(
        holdout.part.target == 1, 0.5 / holdout.part.target.mean(), 0.5 / (1 - holdout.part.target.mean())
    )
    half = sk.average_precision_score(holdout.part.target, holdout.probabilities, sample_weight=weights)
    assert honest[1] == pytest.approx(100 * half, abs=0.01)
