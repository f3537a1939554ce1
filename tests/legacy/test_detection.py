"""Scores of a detector: against scikit-learn, resampled rows, full enumeration, brute force over all thresholds."""

import json
import math
import os
import subprocess
import sys
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from common.legacy import detection
from common.legacy.detection import (
    HALF,
    by_class,
    choose_threshold,
    confusion,
    detection_metrics,
    parse_rule,
    summary,
    sweep,
    trivial,
)
from common.legacy.metrics.detection.detection import Detection
from tests.legacy.helpers import message

REPOSITORY = Path(__file__).resolve().parents[2]
COSTS = (100.0, 1.0)
AREAS = ("auprc", "roc_auc")


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def made(rows: int, frauds: int, seed: int = 0, digits: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Truth, and probabilities that have to do with it; rounded, so that many are tied within and between classes."""
    random = np.random.default_rng(seed)
    truth = np.zeros(rows, np.int8)
    truth[random.choice(rows, frauds, replace=False)] = 1
    return truth, np.round(1 / (1 + np.exp(2 - random.normal(size=rows) - 2.5 * truth)), digits)


def by_scikit_learn(truth, probabilities, threshold) -> dict[str, float]:
    predicted = probabilities >= threshold
    scores = sk.precision_recall_fscore_support(truth, predicted, average="binary", zero_division=0)
    return {
        "auprc": 100 * sk.average_precision_score(truth, probabilities),
        "roc_auc": 100 * sk.roc_auc_score(truth, probabilities),
        **{name: 100 * score for name, score in zip(("precision", "recall", "f1"), scores)},
        "mcc": sk.matthews_corrcoef(truth, predicted) if len(set(predicted)) == 2 else 0.0,
        "cost": float(np.sum(100 * ((truth == 1) & ~predicted) + 1 * ((truth == 0) & predicted))),
    }


ROWS = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0])), min_size=1, max_size=25)


# Figures


def test_figures_by_hand():
    truth = np.array([1, 0, 1, 1, 0, 0, 0], np.int8)
    probabilities = np.array([0.9, 0.8, 0.6, 0.4, 0.4, 0.2, 0.1])
    found = summary(truth, probabilities, 0.6, costs=(10, 2))
    assert found == pytest.approx(
        {
            # precision where each fraud stands: 1 of 1, 2 of 3, and 3 of 5, as the last one is tied
            "auprc": 100 * (1 + 2 / 3 + 3 / 5) / 3,
            # of the 4 legitimate rows, below each fraud: 4, 3, and 2 and a half
            "roc_auc": 100 * (4 + 3 + 2.5) / 12,
            "precision": 200 / 3,
            "recall": 200 / 3,
            "f1": 200 / 3,
            "mcc": (2 * 3 - 1 * 1) / math.sqrt(3 * 3 * 4 * 4),
            "cost": 10 * 1 + 2 * 1,
            "precision_at_half": 200 / 3,
            "recall_at_half": 200 / 3,
            "f1_at_half": 200 / 3,
            "mcc_at_half": 5 / 12,
            "cost_at_half": 12,
        }
    )
    assert confusion(truth, probabilities, 0.4).tolist() == [[2, 2], [0, 3]], "a row at the threshold is fraud"
    assert "cost" not in summary(truth, probabilities, 0.6)


@settings(deadline=None, max_examples=50)
@given(ROWS, st.sampled_from([0.05, 0.1, 0.3, 0.5, 0.8]))
def test_figures_agree_with_scikit_learn(rows, threshold):
    truth, probabilities = np.array(rows, dtype=float).T
    found = summary(truth, probabilities, threshold, costs=COSTS)
    if 0 < truth.sum() < len(truth):
        expected = by_scikit_learn(truth, probabilities, threshold)
        half = {f"{k}_at_half": v for k, v in by_scikit_learn(truth, probabilities, HALF).items() if k not in AREAS}
        assert found == pytest.approx(expected | half)
    same = Detection()._compute(probabilities, truth.astype(int), threshold)
    assert same.pop("confusion") == confusion(truth, probabilities, threshold).tolist()
    for name, value in same.items():
        assert math.isnan(found[name]) if value is None else found[name] == pytest.approx(value)


def test_cross_entropy_agrees_with_scikit_learn():
    truth, probabilities = made(300, 40, digits=3)
    assert detection.cross_entropy(truth, probabilities) == pytest.approx(sk.log_loss(truth, probabilities))
    surely_wrong = detection.cross_entropy(np.array([1, 0, 1]), np.array([0.0, 1.0, 1.0]))
    assert surely_wrong == pytest.approx(2 / 3 * math.log(1e7), rel=1e-6)
    assert math.isnan(detection.cross_entropy(np.array([]), np.array([])))


def test_what_is_undefined():
    legitimate, fraud = np.zeros(3, np.int8), np.ones(2, np.int8)
    nothing = dict.fromkeys((*AREAS, "precision", "recall", "f1"), math.nan) | {"mcc": 0.0, "cost": 0.0}
    found = summary(legitimate, np.array([0.1, 0.2, 0.3]), 0.4, costs=COSTS)
    np.testing.assert_equal({name: found[name] for name in nothing}, nothing)
    alarm = nothing | {"precision": 0.0, "f1": 0.0, "cost": 1.0}
    found = summary(legitimate, np.array([0.1, 0.2, 0.3]), 0.3, costs=COSTS)
    np.testing.assert_equal({name: found[name] for name in alarm}, alarm)
    missed = {
        "auprc": 100.0,
        "roc_auc": math.nan,
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "mcc": 0.0,
        "cost": 200.0,
    }
    found = summary(fraud, np.array([0.1, 0.2]), 0.4, costs=COSTS)
    np.testing.assert_equal({name: found[name] for name in missed}, missed)
    found = detection_metrics(legitimate, np.array([0.1, 0.2, 0.3]), 0.4, costs=COSTS)
    unknown = {"value": None, "low": None, "high": None, "unit": "percent", "examples": 3}
    assert [found[name] for name in (*AREAS, "precision", "recall", "f1")] == [unknown] * 5
    assert found["cost"] == {"value": 0.0, "low": 0.0, "high": 0.0, "unit": "count", "examples": 3}
    assert by_class(legitimate, np.array([0.1, 0.2, 0.3]), 0.4)["fraud"] == {"support": 0} | dict.fromkeys(
        f"{name}{ending}" for name in ("precision", "recall", "f1") for ending in ("", "_low", "_high")
    )


# Intervals


def drawn_areas(truth, probabilities, resamples: int, seed: int = 0) -> dict[str, np.ndarray]:
    ranking = detection._ranking(truth, probabilities)
    found = [ranking.areas(counts) for counts in detection._resampled(ranking.counts, resamples, seed)]
    return {name: np.concatenate([part[name] for part in found]) for name in AREAS}


def agree(estimates: np.ndarray, exact: dict[float, float]) -> None:
    """The share of every value is its probability, within five standard errors; NaN is a value."""
    values, counts = np.unique(np.round(estimates, 6), return_counts=True)
    found = {str(value): count / len(estimates) for value, count in zip(values, counts)}
    expected: dict[str, float] = {}
    for value, share in exact.items():
        expected[str(np.float64(value))] = expected.get(str(np.float64(value)), 0) + share
    assert found.keys() <= expected.keys()
    for value, share in expected.items():
        error = math.sqrt(share * (1 - share) / len(estimates))
        assert found.get(value, 0) == pytest.approx(share, abs=5 * error + 3 / len(estimates)), value


def exact_areas(weights: np.ndarray, truth: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """scikit-learn's areas where row i stands weights[i] times."""
    rows = np.repeat(np.arange(len(truth)), weights)
    if not truth[rows].any():
        return math.nan, math.nan
    auprc = sk.average_precision_score(truth[rows], probabilities[rows])
    roc = math.nan if truth[rows].all() else sk.roc_auc_score(truth[rows], probabilities[rows])
    return round(100 * auprc, 6), round(100 * roc, 6)


def test_resampled_areas_have_their_exact_distribution():
    # All 5^5 ways to draw 5 of 5 rows, of which a fraud and a legitimate one are tied: rows are drawn one by one.
    truth, probabilities = np.array([1, 0, 1, 0, 0]), np.array([0.9, 0.6, 0.4, 0.4, 0.1])
    exact: list[dict] = [{}, {}]
    of_counts: dict[tuple, tuple] = {}
    for rows in product(range(5), repeat=5):
        counts = tuple(np.bincount(rows, minlength=5))
        if counts not in of_counts:
            of_counts[counts] = exact_areas(np.array(counts), truth, probabilities)
        for shares, value in zip(exact, of_counts[counts]):
            key = "nan" if math.isnan(value) else value
            shares[key] = shares.get(key, 0) + 5**-5
    found = drawn_areas(truth, probabilities, 20_000)
    for name, shares in zip(AREAS, exact):
        agree(found[name], {float(value): share for value, share in shares.items()})


def test_counts_of_rows_are_multinomial():
    # 30 rows in three cells, fraud, legitimate at the same probability and below it: counts are drawn at once.
    sizes = np.array([2, 6, 22])
    truth, probabilities = np.repeat([1, 0, 0], sizes), np.repeat([0.8, 0.8, 0.3], sizes)
    exact: list[dict] = [{}, {}]
    for frauds in range(31):
        for tied in range(31 - frauds):
            below = 30 - frauds - tied
            share = stats.multinomial.pmf([frauds, tied, below], 30, sizes / 30)
            auprc = round(100 * frauds / (frauds + tied), 6) if frauds else math.nan
            roc = round(100 * (below + tied / 2) / (below + tied), 6) if 0 < frauds < 30 else math.nan
            for shares, value in zip(exact, (auprc, roc)):
                key = "nan" if math.isnan(value) else value
                shares[key] = shares.get(key, 0) + share
    found = drawn_areas(truth, probabilities, 20_000)
    for name, shares in zip(AREAS, exact):
        agree(found[name], {float(value): share for value, share in shares.items()})


def drawn_figures(truth, probabilities, resamples: int) -> dict[str, np.ndarray]:
    """What the intervals at a threshold of 0.3 are made of."""
    tables = detection._resampled_tables(confusion(truth, probabilities, 0.3), resamples)
    return drawn_areas(truth, probabilities, resamples) | detection._figures(tables, COSTS)


@pytest.fixture(scope="module", params=[(400, 12, 1), (160, 80, 2)], ids=["few frauds", "half frauds"])
def resampled(request):
    """Rows, scikit-learn's figures of 200 resamples of them, and ours of 4000."""
    rows, frauds, digits = request.param
    truth, probabilities = made(rows, frauds, seed=1, digits=digits)
    random = np.random.default_rng(1)
    draws = [random.integers(rows, size=rows) for _ in range(200)]
    found = [by_scikit_learn(truth[drawn], probabilities[drawn], 0.3) for drawn in draws]
    plain = {name: np.array([row[name] for row in found]) for name in found[0]}
    return plain, drawn_figures(truth, probabilities, 4000)


@pytest.mark.parametrize("name", [*AREAS, "precision", "recall", "f1", "mcc", "cost"])
def test_figures_have_the_distribution_of_resampled_rows(resampled, name):
    plain, ours = resampled
    assert np.isfinite(ours[name]).all() and np.std(ours[name]) > 0
    assert stats.ks_2samp(ours[name], plain[name]).pvalue > 0.02
    assert np.std(ours[name]) == pytest.approx(np.std(plain[name]), rel=0.2)  # four standard errors and more


def test_intervals_are_the_middle_of_the_resamples():
    truth, probabilities = made(3000, 30)
    metrics, drawn = (
        detection_metrics(truth, probabilities, 0.3, costs=COSTS),
        drawn_figures(truth, probabilities, 1000),
    )
    for name, estimates in drawn.items():
        assert [metrics[name]["low"], metrics[name]["high"]] == np.quantile(estimates, [0.025, 0.975]).tolist()
        assert metrics[name]["low"] < metrics[name]["value"] < metrics[name]["high"]
        assert metrics[name]["examples"] == 3000


def test_both_ways_of_drawing_agree(monkeypatch):
    truth, probabilities = made(600, 8, digits=1)
    counts = detection._ranking(truth, probabilities).counts
    assert counts.sum() == 600 and 10 * len(counts) < 600, "drawn as counts"
    means, spreads = [], []
    for copies in (1, 0):
        padded = np.append(counts, np.zeros(0 if copies else 600, np.int64))  # too many cells: drawn row by row
        drawn = np.concatenate(list(detection._resampled(padded, 4000, 0)))[:, : len(counts)]
        assert (drawn.sum(axis=1) == 600).all() and len(drawn) == 4000
        means.append(drawn.mean(axis=0))
        spreads.append(drawn.var(axis=0))
    expected = 600 * counts / 600 * (1 - counts / 600)
    for mean, spread in zip(means, spreads):
        assert mean == pytest.approx(counts, abs=5 * math.sqrt(expected.max() / 4000))
        assert spread == pytest.approx(expected, rel=0.15)


def test_metrics_are_the_summary_with_intervals():
    truth, probabilities = made(2000, 40)
    found = detection_metrics(truth, probabilities, 0.3, costs=COSTS)
    values = summary(truth, probabilities, 0.3, costs=COSTS)
    assert {name: row["value"] for name, row in found.items()} == values
    units = {name: row["unit"] for name, row in found.items()}
    assert {name for name, unit in units.items() if unit == "count"} == {"cost", "cost_at_half"}
    assert {name for name, unit in units.items() if unit == "score"} == {"mcc", "mcc_at_half"}
    assert set(units.values()) == {"percent", "score", "count"}
    assert detection_metrics(truth, probabilities, 0.3, costs=COSTS) == found, "the same seed, the same interval"
    assert not any("cost" in name for name in detection_metrics(truth, probabilities, 0.3, costs=None))


def test_what_is_drawn_does_not_grow_with_the_rows():
    truth, probabilities = made(500, 20)
    few, many = (detection._ranking(np.tile(truth, n), np.tile(probabilities, n)) for n in (1, 400))
    assert len(few.counts) == len(many.counts) <= 3 * 20 + 1 and many.counts.sum() == 200_000


def test_by_class():
    truth, probabilities = made(2000, 200)
    classes = by_class(truth, probabilities, 0.3)
    table = sk.precision_recall_fscore_support(truth, probabilities >= 0.3)
    for index, name in enumerate(("legitimate", "fraud")):
        for row, figure in zip(table, ("precision", "recall", "f1", "support")):
            assert classes[name][figure] == pytest.approx(row[index])
        for figure in ("precision", "recall", "f1"):
            low, high = classes[name][f"{figure}_low"], classes[name][f"{figure}_high"]
            assert low < classes[name][figure] < high
    metrics = detection_metrics(truth, probabilities, 0.3, costs=None)
    assert 100 * classes["fraud"]["recall_low"] == pytest.approx(metrics["recall"]["low"])


# The answer without a model


@pytest.mark.parametrize(("prevalence", "name", "f1"), [(0.002, "never", 0.0), (0.6, "always", 200 * 3 / 13)])
def test_the_trivial_answer(prevalence, name, f1):
    truth = np.repeat([1, 0], [3, 7])
    said, metrics = trivial(truth, prevalence, costs=COSTS)
    values = {key: row["value"] for key, row in metrics.items()}
    assert said == f"{name} fraud, no skill"
    assert (values["auprc"], values["roc_auc"], values["mcc"]) == (pytest.approx(30), 50, 0)
    assert values["f1"] == values["f1_at_half"] == pytest.approx(f1)
    assert values["cost"] == (7 if name == "always" else 300) and metrics["cost"]["unit"] == "count"
    assert trivial(np.zeros(4, int), prevalence)[1]["auprc"]["value"] is None


# Thresholds


def brute_force(truth, probabilities):
    """Frauds found and false alarms of every set of rows that a threshold can cut off, each once."""
    for bound in [math.inf, *sorted(set(probabilities), reverse=True)]:
        called = probabilities >= bound
        yield int((called & (truth == 1)).sum()), int((called & (truth == 0)).sum())


def best_by(rule, truth, probabilities) -> tuple[int, int]:
    """What the best threshold finds, and its alarms: sorted by what the rule wants, then by fewer alarms."""
    frauds, cuts = int(truth.sum()), list(brute_force(truth, probabilities))
    if rule == "f1":
        return min(cuts, key=lambda cut: (-round(2 * cut[0] / (sum(cut) + frauds), 12), cut[1]))
    if rule == "cost":
        return min(cuts, key=lambda cut: (7 * (frauds - cut[0]) + 2 * cut[1], cut[1]))
    wanted = float(rule.removeprefix("recall@"))
    reached = min(wanted, max(found / (found + alarms) for found, alarms in cuts[1:]))
    return min((c for c in cuts[1:] if c[0] / sum(c) >= reached), key=lambda cut: (-cut[0], cut[1]))


@settings(deadline=None, max_examples=120)
@given(ROWS, st.sampled_from(["f1", "cost", "recall@0.5", "recall@0.75", "recall@1"]))
@example([(True, 0.5), (False, 0.5)], "recall@1")
@example([(True, 1.0), (False, 1.0), (False, 1.0), (False, 1.0), (False, 1.0)], "cost")
def test_thresholds_against_brute_force(rows, rule):
    truth, probabilities = np.array(rows, dtype=float).T
    if not truth.any():
        return
    threshold, _ = choose_threshold(truth, probabilities, parse_rule(rule, 7, 2))
    (_, alarms), (_, found) = confusion(truth, probabilities, threshold).tolist()
    assert (found, alarms) == best_by(rule, truth, probabilities)


def test_equally_good_thresholds_give_the_fewest_alarms():
    # F1 is 2 / 3 with the first row alone, and with the first four, two of them alarms
    truth, probabilities = np.array([1, 0, 0, 1]), np.array([0.9, 0.8, 0.7, 0.6])
    assert [sk.f1_score(truth, probabilities >= p) for p in probabilities] == [2 / 3, 1 / 2, 2 / 5, 2 / 3]
    assert choose_threshold(truth, probabilities, parse_rule("f1", 1, 1))[0] == pytest.approx(0.85)
    tie = np.array([0, 0, 0, 1]), probabilities
    assert choose_threshold(*tie, parse_rule("cost", 3, 1))[0] == pytest.approx(0.95), "a miss, or three alarms"
    assert choose_threshold(*tie, parse_rule("cost", 2.1, 0.7))[0] == pytest.approx(0.95), "but for a last digit"
    assert choose_threshold(*tie, parse_rule("cost", 3.1, 1))[0] == pytest.approx(0.3)


def test_a_threshold_lies_halfway_between_probabilities():
    truth, probabilities = np.array([1, 1, 0, 0]), np.array([0.9, 0.6, 0.2, 0.2])
    threshold, how = choose_threshold(truth, probabilities, parse_rule("f1", 1, 1))
    assert threshold == pytest.approx(0.4) and how == "largest F1 on validation (100.00 %)"
    noise = 1e-6 * np.array([-1, -1, 1, 1])
    assert confusion(truth, probabilities + noise, threshold).tolist() == [[2, 0], [0, 2]]


@pytest.mark.parametrize("high", [1.0, 0.5, 1e-30, 5e-324])
def test_neighbouring_floats_are_told_apart(high):
    probabilities = np.array([high, np.nextafter(high, 0)])
    thresholds, found, alarms = sweep(np.array([1, 0]), probabilities)
    assert [(probabilities >= threshold).tolist() for threshold in thresholds] == [
        [False, False],
        [True, False],
        [True, True],
    ]
    assert found.tolist() == [0, 1, 1] and alarms.tolist() == [0, 0, 1]


def test_rules_in_words():
    truth, probabilities = np.array([1, 0, 1, 0, 0]), np.array([0.9, 0.8, 0.7, 0.6, 0.1])
    choose = {rule: choose_threshold(truth, probabilities, parse_rule(rule, 100, 1)) for rule in ("cost", "recall@0.6")}
    assert choose["cost"] == (pytest.approx(0.65), "lowest cost on validation (1: 100 a miss, 1 an alarm)")
    threshold, how = choose["recall@0.6"]
    assert threshold == pytest.approx(0.65)
    assert how == "largest recall on validation with a precision of at least 0.6 (recall 100.00 %, precision 66.67 %)"
    threshold, how = choose_threshold(1 - truth, probabilities, parse_rule("recall@0.9", 1, 1))
    assert threshold == pytest.approx(0.05)
    assert how == "highest precision on validation, where 0.9 is never reached (recall 100.00 %, precision 60.00 %)"
    assert choose_threshold(truth, probabilities, parse_rule("0.3", 1, 1)) == (0.3, "given")
    for rule in ("f1", "cost", "recall@0.9"):
        assert choose_threshold(0 * truth, probabilities, parse_rule(rule, 1, 1)) == (
            0.5,
            "0.5, because no row of validation is fraud",
        )


@pytest.mark.parametrize(
    "text", ["", "F1", "0", "1", "-0.1", "nan", "inf", "recall", "recall@0", "recall@1.1", "f1@0.5"]
)
def test_unknown_rules_are_refused(text):
    sentence = message(parse_rule, text, 1, 1)
    assert sentence.startswith(f"--threshold {text}: must be f1, cost, recall@P") and "between 0 and 1" in sentence


@pytest.mark.parametrize("costs", [(0, 1), (1, 0), (-1, 1), (math.nan, 1), (1, math.inf)])
def test_costs_that_decide_nothing_are_refused(costs):
    assert "both must be above 0" in message(parse_rule, "cost", *costs)


def test_rules_that_are_taken():
    assert parse_rule("recall@1", 2, 3) == detection.ThresholdRule("recall", 1.0, 2, 3)
    assert parse_rule("1e-3", 2, 3).value == 0.001 and parse_rule("f1", 2, 3).kind == "f1"


# The metric for others


def test_the_metric_itself():
    truth, probabilities = made(500, 30)
    result = Detection().compute(predictions=probabilities, references=truth, threshold=0.3)
    expected = by_scikit_learn(truth, probabilities, 0.3)
    assert result.pop("confusion") == sk.confusion_matrix(truth, probabilities >= 0.3).tolist()
    assert result == pytest.approx({name: value for name, value in expected.items() if name != "cost"})


@pytest.mark.parametrize(
    ("references", "predictions", "words"),
    [
        ([], [], "no examples"),
        ([0, 2], [0.1, 0.2], "class 2"),
        ([0, 1], [0.1, 1.5], "1.5, which is no probability"),
        ([0, 1], [0.1, math.nan], "nan, which is no probability"),
    ],
)
def test_what_cannot_be_scored_is_refused(references, predictions, words):
    with pytest.raises(ValueError, match=words):
        Detection()._compute(predictions, references)


LOAD = """
import json, socket, sys

def refuse(*args, **kwargs):
    raise AssertionError("the network was used")

socket.socket.connect = socket.getaddrinfo = refuse
import evaluate
metric = evaluate.load("common/legacy/metrics/detection")
print(json.dumps(metric.compute(predictions=[0.1, 0.9, 0.4, 0.4], references=[0, 1, 1, 0])))
"""


def test_evaluate_loads_the_folder_offline(tmp_path):
    done = subprocess.run(
        # -P: the repository is not on the path, so the copy that evaluate makes has to do without the rest of it.
        [sys.executable, "-P", "-c", LOAD],
        cwd=REPOSITORY,
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["auprc"] == pytest.approx(100 * (1 + 2 / 3) / 2) and result["roc_auc"] == pytest.approx(87.5)
    assert result["confusion"] == [[2, 0], [1, 1]] and result["precision"] == 100


def test_nothing_heavy_is_imported():
    heavy = ("datasets", "evaluate", "keras", "matplotlib", "scipy", "sklearn", "tensorflow", "torch")
    code = f"import sys, common.detection; print([module for module in {heavy} if module in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
