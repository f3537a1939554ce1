"""How well frauds are found: thresholds, calibration, scores with intervals, a fraud desk's view, what a leak is worth.

A detector gives each of N rows a probability [N] of fraud. A row is called fraud, an alert, where its probability is at
least the threshold. The scores themselves are those of `common.metrics.detection`.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from common.errors import UserError
from common.metrics.detection.detection import SCORES, confusion_counts, detection_scores, summary
from common.metrics.intervals import auprc_interval, auroc_interval, table_interval, wilson_interval
from common.tabular.columns import Part

HALF = 0.5
UNITS = {"mcc": "score", "cost": "count", "loss": "nats"}  # of the others: percent


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
            gain = 2 * found / (alerts + part.target.sum())
            how = f"largest F1 on validation ({100 * gain.max():.2f} %)"
        elif self.rule == "cost":
            gain = np.cumsum(self.losses(part)[order])[ends] - self.alert_cost * alerts
            how = "lowest cost on validation"
            if gain.max() <= 0:
                return 1.0, "1, because on validation alerts cost more than they save"
        else:
            precision = found / alerts
            reached = min(self.value, precision.max())
            gain = np.where(precision >= reached, found, -1)
            how = f"largest recall on validation with a precision of at least {reached:.4g}"
            how += f" ({self.value:g} is never reached)" if reached < self.value else ""
        last = ends[gain.argmax()]
        return float(falling[last] + np.append(falling, 0.0)[last + 1]) / 2, how


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


def _metric(name: str, value: float, examples: int, ends: tuple = (None, None)) -> dict:
    """A metric as results.json wants it, percent from fractions; None where it is undefined."""
    unit = UNITS.get(name, "percent")
    scale = 100 if unit == "percent" else 1
    known = [None if one is None or np.isnan(one) else scale * float(one) for one in (value, *ends)]
    return dict(zip(("value", "low", "high"), known)) | {"unit": unit, "examples": examples}


def detection_metrics(one: Detections, decision: Decision, alerts: int) -> dict[str, dict]:
    """auprc, roc_auc; precision, recall, f1 (of fraud), mcc and accuracy at the threshold and (_at_half) at 0.5; cost;
    precision and recall of the `alerts` likeliest rows of each day; loss. With 95 % intervals (`metrics.intervals`)."""
    from sklearn.metrics import log_loss

    truth, said, n = one.part.target, one.probabilities, len(one.probabilities)
    auprc, roc_auc = (summary(truth, said)[name] / 100 for name in ("auprc", "roc_auc"))
    ends = auprc_interval(auprc, int(truth.sum())) if truth.any() else (None, None)
    found = {"auprc": _metric("auprc", auprc, n, ends)}
    found["roc_auc"] = _metric("roc_auc", roc_auc, n, auroc_interval(truth, said))
    for ending, at in (("", one.threshold), ("_at_half", HALF)):
        table = confusion_counts(truth, said, at)
        ends, right = zip(*table_interval(table, detection_scores)), np.trace(table) / n
        for name, value, low_high in zip(SCORES, detection_scores(table[None])[0], ends):
            found[name + ending] = _metric(name, value, n, low_high)
        found[f"accuracy{ending}"] = _metric("accuracy", right, n, wilson_interval(right, n))
    found["cost"] = _metric("cost", decision.cost(one.part, said >= one.threshold), n)
    days = alerts_by_day(one, alerts).sum()
    for name, of in (("precision_of_daily_alerts", days["alerts"]), ("recall_of_daily_alerts", days["frauds"])):
        if of:
            found[name] = _metric(name, days["found"] / of, int(of), wilson_interval(days["found"] / of, of))
    return found | {"loss": _metric("loss", log_loss(truth, np.clip(said, 1e-7, 1 - 1e-7), labels=[0, 1]), n)}


def alerts_by_day(one: Detections, most: int) -> pd.DataFrame:
    """rows, alerts, frauds and found, frauds among the alerts, by day from 1 on; no row without a time.

    The alerts of a day are its `most` likeliest rows.
    """
    time = np.full(len(one.probabilities), np.nan) if one.part.time is None else one.part.time
    day = pd.Series((time - np.nanmin(time, initial=np.inf)) // 86_400 + 1, name="day")
    alert = pd.Series(-one.probabilities).groupby(day).rank(method="first") <= most
    counts = {"rows": 1, "alerts": alert, "frauds": one.part.target, "found": alert & (one.part.target == 1)}
    return pd.DataFrame(counts).groupby(day).sum().rename_axis("day")


def leak_worth(leaking: Detections, holdout: Detections) -> tuple[dict, str]:
    """What a leaking test is worth beside a holdout, one model on both: a table, and a sentence.

    Area under precision-recall grows with the share of frauds alone. So real rows are compared with real rows, at the
    holdout's share.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    def auprc(truth: np.ndarray, said: np.ndarray, share: float) -> float:
        weights = np.where(truth == 1, share / truth.mean(), (1 - share) / (1 - truth.mean()))
        return average_precision_score(truth, said, sample_weight=weights)

    truth, said, real = leaking.part.target, leaking.probabilities, leaking.part.real
    share, values = float(holdout.part.target.mean()), {}
    for name, *one in (
        ("leaking test, all rows", truth, said),
        ("leaking test, its real rows", truth[real], said[real]),
        ("holdout", holdout.part.target, holdout.probabilities),
    ):
        values[name] = [*(auprc(*one, wanted) for wanted in (one[0].mean(), 0.5, share)), roc_auc_score(*one)]
    (_, _, at_share, area), (_, at_half, honest, honest_area) = list(values.values())[1:]
    sentence = (
        f"Among real rows, at the holdout's {100 * share:.2f} % of frauds, the leak is worth "
        f"{100 * (at_share - honest):.1f} points of area under precision-recall and {100 * (area - honest_area):.1f} "
        f"under ROC; balance alone adds {100 * (at_half - honest):.1f} to the former."
    )
    head = ["rows", "AUPRC as they are", "at 50 % frauds", f"at {100 * share:.2f} %", "area under ROC"]
    rows = [[name, *(f"{100 * value:.2f}" for value in found)] for name, found in values.items()]
    return {"title": "What the leak is worth (%), one model on", "head": head, "rows": rows}, sentence
