"""How well frauds are found: thresholds, calibration, scores with intervals, a fraud desk's view, what a leak is worth.

A detector gives each of N rows a probability [N] of fraud. A row is called fraud, an alert, where its probability is at
least the threshold. The scores themselves are those of `common.metrics.detection`.
"""

import math
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from common.metrics.detection.detection import confusion_counts, detection_scores, summary
from common.metrics.intervals import auprc_interval, auroc_interval, table_interval, wilson_interval
from common.tabular.columns import CLASSES, Part

HALF = 0.5
AT_THRESHOLD = ("precision", "recall", "f1", "mcc", "accuracy")
UNITS = {"mcc": "score", "mcc_at_half": "score", "cost": "count", "loss": "nats"}  # of the others: percent


@dataclass
class Detections:
    """What a detector says of a part: the probability of fraud, float64 [N], and from which on a row is called so."""

    part: Part
    probabilities: np.ndarray
    threshold: float


@dataclass(frozen=True)
class Decision:
    """How a threshold is chosen, and what mistakes cost.

    Attributes:
        rule: "f1", the best; "recall", the largest with a precision of `value`; "cost", the least; "fixed", `value`.
        alert_cost: of looking at an alert; miss_cost: of a fraud that is not found, where rows have no amount.
    """

    rule: str
    value: float | None
    miss_cost: float
    alert_cost: float

    @classmethod
    def of(cls, text: str, miss_cost: float, alert_cost: float) -> "Decision":
        """From --threshold: f1, cost, recall@P (0 < P <= 1) or a number between 0 and 1. Raises `UserError`."""
        if not (0 < miss_cost < math.inf and 0 < alert_cost < math.inf):
            raise UserError(f"--miss_cost {miss_cost:g} --alert_cost {alert_cost:g}: both must be above 0, and finite")
        if text in ("f1", "cost"):
            return cls(text, None, miss_cost, alert_cost)
        rule, number = ("recall", text.removeprefix("recall@")) if text.startswith("recall@") else ("fixed", text)
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not (0 < value < 1 or (value == 1 and rule == "recall")):
            raise UserError(
                f"--threshold {text}: must be f1, cost, recall@P with a precision P above 0 and up to 1 (as in "
                "recall@0.9), or a number between 0 and 1"
            )
        return cls(rule, value, miss_cost, alert_cost)

    def losses(self, part: Part) -> np.ndarray:
        """float64 [N]: what each row costs if it is not called fraud."""
        return part.target * (self.miss_cost if part.amount is None else np.nan_to_num(part.amount))

    def cost(self, part: Part, called: np.ndarray) -> float:
        """Of all rows, if those in the mask are called fraud: every alert costs, and so does every missed fraud."""
        return float(self.losses(part)[~called].sum() + self.alert_cost * called.sum())

    def choose(self, part: Part, probabilities: np.ndarray) -> tuple[float, str]:
        """The threshold that is best by the rule on validation rows, and in words how it was chosen.

        Of thresholds that are equally good the one with the fewest alerts is taken. Thresholds lie halfway between
        neighbouring probabilities: on one of them, the last digits of the same model's arithmetic (another batch size,
        another machine) would decide whether that row is fraud.
        """
        if self.rule == "fixed":
            return self.value, "given"
        if not part.target.any():
            return HALF, "0.5, because no row of validation is fraud"
        order = np.argsort(-probabilities, kind="stable")
        falling = probabilities[order]
        ends = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)  # the last row of each probability
        found, alerts = np.cumsum(part.target[order])[ends], ends + 1
        if self.rule == "f1":
            f1 = 2 * found / (alerts + part.target.sum())
            best, how = f1.argmax(), f"largest F1 on validation ({100 * f1.max():.2f} %)"
        elif self.rule == "cost":
            saved = np.cumsum(self.losses(part)[order])[ends] - self.alert_cost * alerts
            best, how = saved.argmax(), "lowest cost on validation"
            if saved[best] <= 0:
                return 1.0, "1, because on validation alerts cost more than they save"
        else:
            precision = found / alerts
            reached = min(self.value, precision.max())
            best = np.where(precision >= reached, found, -1).argmax()
            how = f"largest recall on validation with a precision of at least {reached:.4g}"
            how += f" ({self.value:g} is never reached)" if reached < self.value else ""
        at, below = falling[ends[best]], np.append(falling, 0.0)[ends[best] + 1]
        return float((at + below) / 2 if below < (at + below) / 2 else at), how


@dataclass
class Calibration:
    """From what a model says to the probability of fraud among real rows.

    Resampling and class weights teach a model another share of frauds than the real one: "prior" corrects the odds by
    Bayes's rule, "isotonic" learns the shares from validation rows, with straight lines between known points.
    """

    odds: float = 1.0
    said: list[float] | None = None
    real: list[float] | None = None

    @classmethod
    def fit(
        cls, method: str, real: Part, train: Part, weights: np.ndarray, validation: Part, detector
    ) -> "Calibration":
        """real: the training rows before resampling; train, weights: what was trained on, and its classes' weights."""
        if method == "isotonic":
            from sklearn.isotonic import IsotonicRegression

            fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
            fitted.fit(detector.raw(validation.features), validation.target)
            return cls(1.0, fitted.X_thresholds_.tolist(), fitted.y_thresholds_.tolist())
        legitimate, fraud = np.bincount(real.target, minlength=2) / np.bincount(train.target, minlength=2) / weights
        return cls(float(fraud / legitimate) if method == "prior" else 1.0)

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        if self.said:
            return np.interp(probabilities, self.said, self.real)
        if self.odds == 1:  # bit for bit
            return probabilities
        return self.odds * probabilities / (self.odds * probabilities + 1 - probabilities)


def metric(name: str, value: float, ends: tuple = (None, None), rows: int | None = None) -> dict:
    """A metric as results.json wants it, None where it is undefined."""
    if value is None or math.isnan(value):
        value, ends = None, (None, None)
    found = {"value": value, "low": ends[0], "high": ends[1], "unit": UNITS.get(name, "percent")}
    return found if rows is None else found | {"examples": rows}


def _at_threshold(tables: np.ndarray) -> np.ndarray:
    """float64 [R, 5]: `AT_THRESHOLD`, all but mcc in percent, of confusion matrices [R, 2, 2]."""
    right = np.trace(tables, axis1=1, axis2=2) / tables.sum(axis=(1, 2))
    return np.column_stack([detection_scores(tables), right]) * (100, 100, 100, 1, 100)


def detection_metrics(one: Detections, decision: Decision, alerts: int) -> dict[str, dict]:
    """auprc, roc_auc; precision, recall, f1 (of fraud), mcc and accuracy at the threshold and (_at_half) at 0.5; cost;
    precision and recall of the `alerts` likeliest rows of each day; loss. With 95 % intervals (`metrics.intervals`)."""
    truth, said, n = one.part.target, one.probabilities, len(one.probabilities)
    areas, known = summary(truth, said), 0 < truth.mean() < 1
    ends = (
        {"auprc": auprc_interval(areas["auprc"] / 100, int(truth.sum())), "roc_auc": auroc_interval(truth, said)}
        if known
        else {}
    )
    found = {name: metric(name, areas[name], _percent(ends.get(name)), n) for name in ("auprc", "roc_auc")}
    for ending, at in (("", one.threshold), ("_at_half", HALF)):
        table = confusion_counts(truth, said, at)
        lows, highs = table_interval(table, _at_threshold)
        for name, value, low, high in zip(AT_THRESHOLD, _at_threshold(table[None])[0], lows, highs):
            found[name + ending] = metric(name + ending, float(value), (float(low), float(high)), n)
        right = float(np.trace(table)) / n
        found[f"accuracy{ending}"] = metric("accuracy", 100 * right, _percent(wilson_interval(right, n)), n)
    found["cost"] = metric("cost", decision.cost(one.part, said >= one.threshold), rows=n)
    days = alerts_by_day(one, alerts)
    count, hits, frauds = (sum(day[key] for day in days) for key in ("alerts", "found", "frauds"))
    for name, of in (("precision_of_daily_alerts", count), ("recall_of_daily_alerts", frauds)):
        if of:
            found[name] = metric(name, 100 * hits / of, _percent(wilson_interval(hits / of, of)), of)
    clipped = np.clip(said, 1e-7, 1 - 1e-7)
    return found | {"loss": metric("loss", float(-np.log(np.where(truth == 1, clipped, 1 - clipped)).mean()), rows=n)}


def _percent(ends: tuple | None) -> tuple:
    return (None, None) if ends is None else tuple(100 * end for end in ends)


def alerts_by_day(one: Detections, most: int) -> list[dict]:
    """Day by day (from 1): rows, alerts, frauds, and how many of them the alerts hold; [] without a time.

    The alerts of a day are its `most` likeliest rows.
    """
    if one.part.time is None or np.isnan(one.part.time).any():
        return []
    days, of = np.unique((one.part.time - one.part.time.min()) // 86_400, return_inverse=True)
    order, target = np.lexsort((-one.probabilities, of)), one.part.target  # by day, the likeliest first
    alert = np.zeros(len(of), dtype=bool)
    alert[order] = np.arange(len(of)) - np.searchsorted(of[order], of[order]) < most
    counts = [np.bincount(of, weights).astype(int) for weights in (None, alert, target, alert & (target == 1))]
    names = ("day", "rows", "alerts", "frauds", "found")
    return [dict(zip(names, map(int, row))) for row in zip(days + 1, *counts)]


def by_class(one: Detections) -> dict[str, dict]:
    """Precision, recall, f1 (0..1) and support of both classes, and their macro and weighted averages."""
    from sklearn.metrics import classification_report

    called = (one.probabilities >= one.threshold).astype(int)
    settings = {"target_names": CLASSES, "labels": [0, 1], "output_dict": True, "zero_division": 0}
    report, keys = classification_report(one.part.target, called, **settings), ("precision", "recall", "f1-score")
    return {
        name: {key.removesuffix("-score"): report[name][key] for key in keys}
        | {"support": int(report[name]["support"])}
        for name in (*CLASSES, "macro avg", "weighted avg")
    }


def leak_worth(leaking: Detections, holdout: Detections) -> tuple[dict, str]:
    """What a leaking test is worth beside a holdout, one model on both: a table, and a sentence.

    Area under precision-recall grows with the share of frauds alone. So real rows are compared with real rows, at the
    holdout's share.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    real, share, values = leaking.part.real, float(holdout.part.target.mean()), {}
    for name, one, rows in (
        ("leaking test, all rows", leaking, slice(None)),
        ("leaking test, its real rows", leaking, real),
        ("holdout", holdout, slice(None)),
    ):
        truth, said = one.part.target[rows], one.probabilities[rows]
        values[name] = [average_precision_score(truth, said)]
        for wanted in (0.5, share):
            weights = np.where(truth == 1, wanted / truth.mean(), (1 - wanted) / (1 - truth.mean()))
            values[name].append(average_precision_score(truth, said, sample_weight=weights))
        values[name].append(roc_auc_score(truth, said))
    (_, _, at_share, area), (_, at_half, honest, honest_area) = list(values.values())[1:]
    sentence = (
        f"Among real rows, at the holdout's {100 * share:.2f} % of frauds, the leak is worth "
        f"{100 * (at_share - honest):.1f} points of area under precision-recall and {100 * (area - honest_area):.1f} "
        f"under ROC; balance alone adds {100 * (at_half - honest):.1f} to the former."
    )
    head = ["rows", "AUPRC as they are", "at 50 % frauds", f"at {100 * share:.2f} %", "area under ROC"]
    rows = [[name, *(f"{100 * value:.2f}" for value in found)] for name, found in values.items()]
    return {"title": "What the leak is worth (%), one model on", "head": head, "rows": rows}, sentence
