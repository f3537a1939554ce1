"""How well frauds are found: thresholds, calibration, scores with intervals, a fraud desk's view, what a leak is worth.

A row is called fraud, an alert, where its probability is at least the threshold.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from common.metrics.detection import SCORES, confusion_counts, detection_scores, summary
from common.metrics.intervals import auroc_interval, table_interval, wilson_interval
from common.tabular.columns import Part

HALF = 0.5
UNITS = {"mcc": "score", "cost": "count", "loss": "nats"}  # of the others: percent


@dataclass
class Detections:
    """What a detector says of a part, and from which probability on a row is called fraud."""

    part: Part
    probabilities: np.ndarray
    threshold: float


def _losses(part: Part, args) -> np.ndarray:
    """float64 [N]: what it costs not to find a row: its amount, or --miss_cost; a legitimate one costs nothing."""
    return part.target * np.where(np.isnan(part.amount), args.miss_cost, part.amount)


def cost_of(part: Part, called: np.ndarray, args) -> float:
    """Of all rows, if those in the mask are called fraud: every alert costs (--alert_cost), every missed fraud too."""
    return float(_losses(part, args)[~called].sum() + args.alert_cost * called.sum())


def choose(part: Part, probabilities: np.ndarray, args) -> tuple[float, str]:
    """The threshold that is best on validation rows by --threshold (f1, cost; a number is taken), and how in words.

    Of equally good ones that with the fewest alerts; halfway between two probabilities, since on one of them the last
    digits of another machine's arithmetic would decide whether that row is fraud.
    """
    if args.threshold not in ("f1", "cost"):
        return float(args.threshold), "given"
    order = np.argsort(-probabilities, kind="stable")
    falling = probabilities[order]
    ends = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)  # the last row of each probability
    if args.threshold == "f1":
        gain = 2 * np.cumsum(part.target[order])[ends] / (ends + 1 + part.target.sum())
        how = f"largest F1 on validation ({100 * gain.max():.2f} %)"
    else:
        gain = np.cumsum(_losses(part, args)[order])[ends] - args.alert_cost * (ends + 1)
        how = "lowest cost on validation"
    if gain.max() <= 0:
        return math.nextafter(1, 2), "above 1, because on validation alerts cost more than they save"
    last = ends[gain.argmax()]
    return float(falling[last] + np.append(falling, 0.0)[last + 1]) / 2, how


@dataclass
class Calibration:
    """From what a model says to the probability of fraud among real rows: resampling and class weights teach another
    share of frauds. "prior" corrects the odds by Bayes's rule, "isotonic" learns the shares from validation rows."""

    odds: float = 1.0
    said: list[float] | None = None
    real: list[float] | None = None

    @classmethod
    def fit(cls, method: str, real: Part, train: Part, weights: np.ndarray, validation: Part, said) -> "Calibration":
        """real: training rows before resampling; train, weights: those trained on, and their classes' weights; said:
        float64 [validation rows], what the model says of them."""
        if method == "isotonic":
            from sklearn.isotonic import IsotonicRegression

            fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(said, validation.target)
            return cls(1.0, fitted.X_thresholds_.tolist(), fitted.y_thresholds_.tolist())
        legitimate, fraud = np.bincount(real.target, minlength=2) / np.bincount(train.target, minlength=2) / weights
        return cls(float(fraud / legitimate) if method == "prior" else 1.0)

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        if self.said:
            return np.interp(probabilities, self.said, self.real)
        if self.odds == 1:  # bit for bit
            return probabilities
        return self.odds * probabilities / (self.odds * probabilities + (1 - probabilities))


def _metric(name: str, value: float, examples: int, ends: tuple = (None, None)) -> dict:
    """A metric as results.json wants it, percent from fractions; None where it is undefined."""
    unit = UNITS.get(name, "percent")
    scale = 100 if unit == "percent" else 1
    value, low, high = (None if one is None or np.isnan(one) else scale * float(one) for one in (value, *ends))
    return {"value": value, "low": low, "high": high, "unit": unit, "examples": examples}


def detection_metrics(one: Detections, args) -> dict[str, dict]:
    """auprc, roc_auc; precision, recall, f1 (of fraud), mcc and accuracy at the threshold and (_at_half) at 0.5; cost;
    precision of the --alerts_per_day likeliest rows; loss. With 95 % intervals (`metrics.intervals`)."""
    from sklearn.metrics import log_loss

    truth, said, n = one.part.target, one.probabilities, len(one.probabilities)
    auprc, roc_auc = (summary(truth, said)[name] / 100 for name in ("auprc", "roc_auc"))
    ends = wilson_interval(auprc, int(truth.sum())) if truth.any() else (None, None)
    found = {"auprc": _metric("auprc", auprc, n, ends)}
    found["roc_auc"] = _metric("roc_auc", roc_auc, n, auroc_interval(truth, said))
    for ending, at in (("", one.threshold), ("_at_half", HALF)):
        table = confusion_counts(truth, said, at)
        ends, right = zip(*table_interval(table, detection_scores)), np.trace(table) / n
        for name, value, low_high in zip(SCORES, detection_scores(table[None])[0], ends):
            found[name + ending] = _metric(name, value, n, low_high)
        found[f"accuracy{ending}"] = _metric("accuracy", right, n, wilson_interval(right, n))
    found["cost"] = _metric("cost", cost_of(one.part, said >= one.threshold, args), n)
    days = alerts_by_day(one, args.alerts_per_day).sum()
    if days["alerts"]:
        share, of = days["found"] / days["alerts"], int(days["alerts"])
        found["precision_of_daily_alerts"] = _metric("precision", share, of, wilson_interval(share, of))
    return found | {"loss": _metric("loss", log_loss(truth, np.clip(said, 1e-7, 1 - 1e-7), labels=[0, 1]), n)}


def alerts_by_day(one: Detections, most: int) -> pd.DataFrame:
    """By day from 1 on: rows, alerts (the `most` likeliest), frauds, and found, frauds among the alerts; no row without
    a time."""
    day = pd.Series(one.part.time // 86_400, name="day")
    day += 1 - day.min()
    alert = pd.Series(-one.probabilities).groupby(day).rank(method="first") <= most
    counts = {"rows": 1, "alerts": alert, "frauds": one.part.target, "found": alert & (one.part.target == 1)}
    return pd.DataFrame(counts).groupby(day).sum()


def leak_worth(leaking: Detections, holdout: Detections) -> tuple[dict, str]:
    """What a leaking test is worth beside a holdout, one model on both: a table, and a sentence. Precision depends on
    the share of frauds, so real rows are compared with real rows, at the holdout's share."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    share, rows = float(holdout.part.target.mean()), []
    for name, one in (("leaking test, its real rows", leaking), ("holdout", holdout)):
        truth, said = one.part.target[one.part.real], one.probabilities[one.part.real]
        weights = [np.where(truth == 1, of / truth.mean(), (1 - of) / (1 - truth.mean())) for of in (share, 0.5)]
        areas = [100 * average_precision_score(truth, said, sample_weight=of) for of in weights]
        rows.append([name, *areas, 100 * roc_auc_score(truth, said)])
    (_, leaky, _, leaky_area), (_, honest, balanced, area) = rows
    sentence = (
        f"Among real rows, at the holdout's {100 * share:.2f} % of frauds, the leak is worth {leaky - honest:.1f} "
        f"points of area under precision-recall and {leaky_area - area:.1f} under ROC; balance alone adds "
        f"{balanced - honest:.1f} to the former."
    )
    head = ["rows", f"AUPRC at {100 * share:.2f} % frauds", "AUPRC at 50 %", "area under ROC"]
    cells = [[name, *(f"{area:.2f}" for area in areas)] for name, *areas in rows]
    return {"title": "What the leak is worth (%), one model on", "head": head, "rows": cells}, sentence
