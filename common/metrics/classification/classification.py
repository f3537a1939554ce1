"""Accuracy, precision, recall, F1 and Matthews correlation of class predictions, from their confusion matrix.

As scikit-learn's, with these rules for classes that are rare to the point of absence, and without warnings:

- A class that is neither in the truth nor among the predictions has no scores (NaN) and is left out of every mean.
- A class of the truth that is never predicted has precision 0.
- A class that is predicted but not in the truth has precision and F1 0, and no recall. That makes the macro recall the
  unweighted average recall, scikit-learn's balanced accuracy.
"""

import numpy as np

INPUTS = """\
Args:
    predictions, references: classes, 0 to C-1. labels: their names. Default: "0", "1", ... up to the largest class.
Returns:
    What `summary` does; precision_micro and recall_micro (with one label an example they are the accuracy).
    per_class: name, or "macro avg" and "weighted avg" -> precision, recall, f1 (0 to 1, None where undefined) and
    support, the number of true examples. confusion: counts [C, C], rows the truth, columns the prediction.
"""
SCORES = ("precision", "recall", "f1")
AVERAGES = ("macro avg", "weighted avg")


def confusion_counts(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """int64 [classes, classes]: how often a class (row) was taken for another (column); both int [N], 0 and up."""
    return np.bincount(np.asarray(truth) * classes + predicted, minlength=classes**2).reshape(classes, classes)


def class_scores(tables: np.ndarray) -> np.ndarray:
    """float64 [R, C + 2, 3]: precision, recall, F1 (0..1) of each class, then their macro and weighted averages.

    tables: confusion matrices [R, C, C], counts or shares.
    """
    tables = np.asarray(tables, dtype=np.float64)
    hits, true, predicted = tables.diagonal(axis1=1, axis2=2), tables.sum(axis=2), tables.sum(axis=1)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: undefined
        precision = np.where((predicted == 0) & (true > 0), 0.0, hits / predicted)
        scores = np.stack([precision, hits / true, 2 * hits / (true + predicted)], axis=2)
    known = ~np.isnan(scores)
    filled, weights = np.where(known, scores, 0), true[:, :, None]
    macro, weighted = filled.sum(axis=1) / known.sum(axis=1), (filled * weights).sum(axis=1) / weights.sum(axis=1)
    return np.concatenate([scores, macro[:, None], weighted[:, None]], axis=1)


def matthews(tables: np.ndarray) -> np.ndarray:
    """float64 [R]: Matthews correlation of confusion matrices [R, C, C]; 0 where truth or prediction never changes."""
    tables = np.asarray(tables, dtype=np.float64)  # products of integers could overflow
    whole, true, predicted = tables.sum(axis=(1, 2)), tables.sum(axis=2), tables.sum(axis=1)
    covariance = whole * np.trace(tables, axis1=1, axis2=2) - (true * predicted).sum(axis=1)
    spread = np.sqrt((whole**2 - (true**2).sum(axis=1)) * (whole**2 - (predicted**2).sum(axis=1)))
    return np.divide(covariance, spread, out=np.zeros(len(tables)), where=spread > 0)


def summary(truth: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, float]:
    """accuracy, f1, precision, recall (macro), f1_weighted in percent, and mcc (-1 to 1); classes int [N], N > 0."""
    counts = confusion_counts(truth, predicted, classes)[None]
    (precision, recall, f1), (_, _, f1_weighted) = 100 * class_scores(counts)[0, -2:]
    scores = {"accuracy": 100 * np.mean(np.asarray(truth) == predicted), "f1": f1, "f1_weighted": f1_weighted}
    scores |= {"precision": precision, "recall": recall, "mcc": matthews(counts)[0]}
    return {name: float(value) for name, value in scores.items()}


if __name__.startswith("evaluate_modules"):  # loaded by `evaluate`, whose import takes seconds, and not by ours
    import datasets
    import evaluate

    class Classification(evaluate.Metric):
        """The functions above as an `evaluate` metric."""

        def _info(self) -> evaluate.MetricInfo:
            number = datasets.Value("int64")
            features = datasets.Features(predictions=number, references=number)
            return evaluate.MetricInfo(__doc__, "", features, inputs_description=INPUTS)

        def _compute(self, predictions: list[int], references: list[int], labels: list[str] | None = None) -> dict:
            """See INPUTS. Raises ValueError without examples or for classes that `labels` lacks."""
            truth, predicted = np.asarray(references), np.asarray(predictions)
            labels = labels or [str(i) for i in range(max(truth.max(), predicted.max()) + 1)]
            for kind, values in (("references", truth), ("predictions", predicted)):
                if (wrong := values[(values < 0) | (values >= len(labels))]).size:
                    raise ValueError(f"the {kind} have class {wrong[0]}, and the {len(labels)} classes are 0 and up")
            counts, found = confusion_counts(truth, predicted, len(labels)), summary(truth, predicted, len(labels))
            rows = zip([*labels, *AVERAGES], class_scores(counts[None])[0], [*counts.sum(axis=1), *[len(truth)] * 2])
            found |= {"precision_micro": found["accuracy"], "recall_micro": found["accuracy"], "per_class": {}}
            for name, row, support in rows:
                scores = {key: None if np.isnan(value) else float(value) for key, value in zip(SCORES, row)}
                found["per_class"][name] = scores | {"support": int(support)}
            return found | {"confusion": counts.tolist()}
