"""How well rare cases are detected: areas under the curves, scores at a threshold, intervals, and choosing thresholds.

A detector gives each of N rows a probability [N] of being the rare, positive class (here: fraud), and `truth` [N] is 1
for that class, 0 for the other. A row is called fraud where its probability is at least the threshold.

What is undefined, everywhere alike: nothing called fraud where there is fraud has precision 0. Without any fraud there
is no recall and neither area; precision and F1 then are 0 if anything is called fraud, and undefined if nothing is.

Not for several classes (`common.legacy.classification`), and only numpy is imported: it is called after every epoch.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.legacy.errors import UserError

CLASSES = ("legitimate", "fraud")
HALF = 0.5
UNITS = {"mcc": "score", "cost": "count"}  # of the others: percent
CELLS = 100_000  # counts drawn at a time: what stays in the processor's cache is fastest


@dataclass(frozen=True)
class ThresholdRule:
    """How a threshold is chosen: the best F1, the largest recall with precision `value`, the least cost; or `value`."""

    kind: Literal["f1", "recall", "cost", "fixed"]
    value: float | None
    miss_cost: float
    alarm_cost: float


def parse_rule(text: str, miss_cost: float, alarm_cost: float) -> ThresholdRule:
    """The rule that "f1", "recall@P" (0 < P <= 1), "cost" or a number between 0 and 1 stands for.

    miss_cost, alarm_cost: of a fraud that is not found, and of a legitimate row called fraud. Raises UserError.
    """
    if not (0 < miss_cost < math.inf and 0 < alarm_cost < math.inf):
        raise UserError(
            f"a missed fraud costs {miss_cost:g} and a false alarm {alarm_cost:g}: both must be above 0, and finite"
        )
    if text in ("f1", "cost"):
        return ThresholdRule(text, None, miss_cost, alarm_cost)
    kind, number = ("recall", text.removeprefix("recall@")) if text.startswith("recall@") else ("fixed", text)
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (0 < value < 1 or (value == 1 and kind == "recall")):
        raise UserError(
            f"--threshold {text}: must be f1, cost, recall@P with a precision P above 0 and up to 1 (as in "
            "recall@0.9), or a number between 0 and 1"
        )
    return ThresholdRule(kind, value, miss_cost, alarm_cost)


def sweep(truth: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every way to divide the rows by a threshold: thresholds, frauds found, false alarms, each [D + 1], N > 0.

    The first threshold calls nothing fraud, the next ones each call one more of the D distinct probabilities so. They
    lie halfway between neighbouring probabilities: on the probability of a row itself, the last digits of the same
    model's arithmetic (another batch size, another machine) would decide whether that row is fraud.
    """
    order = np.argsort(-probabilities, kind="stable")
    falling = probabilities[order]
    ends = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)
    found = np.concatenate([[0], np.cumsum(truth[order], dtype=np.int64)[ends]])
    distinct = falling[ends]
    upper = np.concatenate([[max(1.0, np.nextafter(distinct[0], 2.0))], distinct])
    lower = np.append(distinct, 0.0)
    middle = (upper + lower) / 2
    thresholds = np.where(middle > lower, middle, upper)  # between neighbouring floats there is no middle
    return thresholds, found, np.append(0, ends + 1) - found


def choose_threshold(truth: np.ndarray, probabilities: np.ndarray, rule: ThresholdRule) -> tuple[float, str]:
    """The threshold that is best by `rule` on validation rows, and in words how it was chosen.

    Of thresholds that are equally good the one with the fewest alarms is taken. Where the rule's precision is not
    reached, the highest that is takes its place; without any fraud the threshold is 0.5.
    """
    if rule.kind == "fixed":
        return rule.value, "given"
    if not truth.any():
        return HALF, "0.5, because no row of validation is fraud"
    thresholds, found, alarms = sweep(truth, probabilities)
    figures = _figures(_tables(found, alarms), (rule.miss_cost, rule.alarm_cost))
    recall, precision = figures["recall"], figures["precision"]
    if rule.kind == "f1":
        best = np.argmax(figures["f1"])
        how = f"largest F1 on validation ({figures['f1'][best]:.2f} %)"
    elif rule.kind == "cost":
        cost = figures["cost"]
        best = np.argmax(cost <= cost.min() * (1 + 1e-12))  # sums of the same costs may differ in their last digit
        how = f"lowest cost on validation ({cost[best]:,g}: {rule.miss_cost:g} a miss, {rule.alarm_cost:g} an alarm)"
    else:
        highest = precision.max()
        best = np.argmax(np.where(precision >= min(100 * rule.value, highest), found, -1))
        reached = f"(recall {recall[best]:.2f} %, precision {precision[best]:.2f} %)"
        how = f"largest recall on validation with a precision of at least {rule.value:g} {reached}"
        if highest < 100 * rule.value:
            how = f"highest precision on validation, where {rule.value:g} is never reached {reached}"
    return float(thresholds[best]), how


def _tables(found: np.ndarray, alarms: np.ndarray) -> np.ndarray:
    """Confusion [D + 1, 2, 2] at every threshold of a sweep, whose last one calls everything fraud."""
    return np.stack([alarms[-1] - alarms, alarms, found[-1] - found, found], axis=-1).reshape(-1, 2, 2)


def confusion(truth: np.ndarray, probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """int64 [2, 2]: how many of each class (row) are called legitimate, fraud (column)."""
    return np.bincount(2 * truth.astype(np.int64) + (probabilities >= threshold), minlength=4).reshape(2, 2)


def _figures(tables: np.ndarray, costs: tuple[float, float] | None) -> dict[str, np.ndarray]:
    """precision, recall, F1 (percent), Matthews correlation and cost of confusions [..., 2, 2], each [...]."""
    tables = np.asarray(tables, dtype=np.float64)  # products of integers could overflow
    right, alarms, missed, found = tables[..., 0, 0], tables[..., 0, 1], tables[..., 1, 0], tables[..., 1, 1]
    called, frauds = found + alarms, found + missed
    spread = np.sqrt(called * frauds * (right + alarms) * (right + missed))
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 is NaN: undefined
        figures = {
            "precision": 100 * np.where((called == 0) & (frauds > 0), 0.0, found / called),
            "recall": 100 * (found / frauds),
            "f1": 100 * (2 * found / (called + frauds)),
            "mcc": np.where(spread > 0, (found * right - alarms * missed) / spread, 0.0),
        }
    return figures if costs is None else figures | {"cost": costs[0] * missed + costs[1] * alarms}


@dataclass(frozen=True)
class _Ranking:
    """All that the areas depend on, few numbers where few rows are fraud.

    Attributes:
        counts: rows in each cell, int64 [G + L]: the frauds at each of their G distinct probabilities, then the
            legitimate rows above, at, between and below these, where there are any; from the highest to the lowest.
        above: how many of the L cells are above each probability of a fraud, int64 [G].
        until: the same with the cell at that probability.
    """

    counts: np.ndarray
    above: np.ndarray
    until: np.ndarray

    def areas(self, drawn: np.ndarray) -> dict[str, np.ndarray]:
        """Average precision and area under ROC (percent, each [R]; NaN: undefined) of counts [R, G + L].

        Average precision is scikit-learn's: the mean over the frauds of the precision at their probability.
        """
        scores = len(self.above)
        frauds, legitimate = drawn[:, :scores], drawn[:, scores:]
        found = np.cumsum(frauds, axis=1, dtype=np.float64)
        alarms = np.zeros((len(drawn), legitimate.shape[1] + 1))
        np.cumsum(legitimate, axis=1, out=alarms[:, 1:])
        positive, negative = frauds.sum(axis=1), alarms[:, -1]
        alarms_above, alarms_until = alarms[:, self.above], alarms[:, self.until]
        called = np.maximum(found + alarms_until, 1)  # 0 only where nothing is found, either
        with np.errstate(invalid="ignore"):
            precision = np.einsum("rg,rg->r", frauds, found / called) / positive
            wrong = np.einsum("rg,rg->r", frauds, alarms_above + alarms_until) / 2  # pairs in the wrong order
            roc = 1 - wrong / (positive * negative)
        return {"auprc": 100 * precision, "roc_auc": 100 * roc}


def _ranking(truth: np.ndarray, probabilities: np.ndarray) -> _Ranking:
    positive = truth == 1
    scores, frauds = np.unique(-probabilities[positive], return_counts=True)
    others = -probabilities[~positive]
    place, until = (np.searchsorted(scores, others, side) for side in ("left", "right"))
    places, legitimate = np.unique(place + until, return_counts=True)  # 2 g between two scores, 2 g + 1 at one
    at = 2 * np.arange(len(scores)) + 1
    above, until = (np.searchsorted(places, at, side) for side in ("left", "right"))
    return _Ranking(np.concatenate([frauds, legitimate]), above, until)


def _resampled(counts: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yields counts [R, K] like `counts` [K], of rows drawn with replacement; `resamples` times in all.

    N rows in K cells are one draw from a multinomial distribution, whose time grows with K and not with N. With almost
    as many cells as rows (half of them positive), drawing the rows themselves is faster.
    """
    generator, n, k = np.random.default_rng(seed), counts.sum(), len(counts)
    step = max(1, CELLS // k)
    of = np.repeat(np.arange(k), counts) if 10 * k > n else None
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        if of is None:
            yield generator.multinomial(n, counts / n, size=size)
        else:
            yield np.stack([np.bincount(of[generator.integers(n, size=n)], minlength=k) for _ in range(size)])


def _metric(name: str, value: float, estimates: np.ndarray | None = None, rows: int | None = None) -> dict:
    """A metric as results.json wants it, None where undefined; resamples in which it is undefined are left out."""
    figure = {"value": None, "low": None, "high": None, "unit": UNITS.get(name.removesuffix("_at_half"), "percent")}
    if rows is not None:
        figure["examples"] = rows
    if not math.isnan(value):
        figure["value"] = float(value)
        if estimates is not None:
            figure["low"], figure["high"] = np.nanquantile(estimates, (0.025, 0.975)).tolist()
    return figure


def detection_metrics(
    truth: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    *,
    costs: tuple[float, float] | None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict]:
    """Metrics as results.json has them, each with its 95 % percentile bootstrap interval over the N > 0 rows.

    auprc (average precision) and roc_auc; precision, recall, f1 (of fraud), mcc and, with `costs` (of a missed fraud,
    of a false alarm), the cost of all rows: at `threshold`, and at 0.5 with the ending _at_half.

    The intervals are those of resampled rows, exactly: all that the figures depend on are counts of rows, and the
    counts of rows drawn with replacement are multinomial. The threshold is fixed, not chosen anew in each resample.
    """
    ranking, metrics = _ranking(truth, probabilities), {}
    areas = [ranking.areas(drawn) for drawn in _resampled(ranking.counts, resamples, seed)]
    for name, value in ranking.areas(ranking.counts[None]).items():
        metrics[name] = _metric(name, value[0], np.concatenate([area[name] for area in areas]), len(truth))
    for ending, at in (("", threshold), ("_at_half", HALF)):
        table = confusion(truth, probabilities, at)
        drawn = _figures(_resampled_tables(table, resamples, seed), costs)
        for name, value in _figures(table, costs).items():
            metrics[name + ending] = _metric(name + ending, value, drawn[name], len(truth))
    return metrics


def _resampled_tables(table: np.ndarray, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Confusions [resamples, 2, 2] of rows drawn with replacement."""
    return np.concatenate(list(_resampled(table.ravel(), resamples, seed))).reshape(-1, 2, 2)


def cross_entropy(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean binary cross-entropy in nats, NaN for N = 0; probabilities are kept 1e-7 from 0 and 1, as in Keras."""
    if not len(truth):
        return math.nan
    clipped = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return float(-np.mean(np.log(np.where(truth == 1, clipped, 1 - clipped))))


def by_class(truth: np.ndarray, probabilities: np.ndarray, threshold: float) -> dict[str, dict]:
    """Class -> precision, recall, f1 (0..1, None where undefined) with the ends of their intervals, and support."""
    table = confusion(truth, probabilities, threshold)
    drawn, classes = _resampled_tables(table), {}
    for index, name in enumerate(CLASSES):
        turned = slice(None, None, 1 if index else -1)  # what a confusion says of the other class
        figures, estimates = _figures(table[turned, turned], None), _figures(drawn[:, turned, turned], None)
        classes[name] = {"support": int(table[index].sum())}
        for figure in ("precision", "recall", "f1"):
            found = _metric(figure, figures[figure], estimates[figure])
            for key, ending in (("value", ""), ("low", "_low"), ("high", "_high")):
                classes[name][figure + ending] = None if found[key] is None else found[key] / 100
    return classes


def summary(
    truth: np.ndarray, probabilities: np.ndarray, threshold: float, *, costs: tuple[float, float] | None = None
) -> dict[str, float]:
    """The values of `detection_metrics` without intervals, NaN where undefined: for baselines and while training."""
    ranking = _ranking(truth, probabilities)
    values = {name: float(value[0]) for name, value in ranking.areas(ranking.counts[None]).items()}
    for ending, at in (("", threshold), ("_at_half", HALF)):
        figures = _figures(confusion(truth, probabilities, at), costs)
        values |= {name + ending: float(value) for name, value in figures.items()}
    return values


def trivial(
    truth: np.ndarray, prevalence: float, *, costs: tuple[float, float] | None = None
) -> tuple[str, dict[str, dict]]:
    """Name and metrics of the answer without a model: every row has the probability `prevalence`.

    prevalence: the share of frauds in the training data. Below one half that calls nothing fraud. Without any skill the
    area under precision-recall is the share of frauds in `truth`, and that under ROC one half.
    """
    name = f"{'always' if prevalence >= HALF else 'never'} fraud, no skill"
    values = summary(truth, np.full(len(truth), prevalence), HALF, costs=costs)
    return name, {key: _metric(key, value) for key, value in values.items()}
