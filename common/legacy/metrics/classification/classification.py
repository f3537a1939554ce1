"""Accuracy, F1, precision, recall and Matthews correlation of class predictions, by scikit-learn.

For `evaluate.load("common/legacy/metrics/classification")`, which copies this one file elsewhere and runs it there: it
imports nothing of this project and reads nothing from the network. Its functions are also imported directly.

How classes count that are rare to the point of absence, everywhere alike and without a warning:

- A class that is neither in the truth nor among the predictions has no figures (NaN) and is left out of every mean.
- A class of the truth that is never predicted has precision 0.
- A class that is predicted but not in the truth has precision 0 and F1 0; it has no recall, and is left out of the
  macro recall. That makes the macro recall the unweighted average recall, scikit-learn's balanced accuracy.

Not for several labels an example, and not for choosing a threshold.
"""

import datasets
import evaluate
import numpy as np

DESCRIPTION = """\
Accuracy, F1 (macro, weighted), precision and recall (macro, micro) and Matthews correlation of class predictions, with
precision, recall, F1 and support of every class and the confusion matrix.
"""

INPUTS_DESCRIPTION = """\
Args:
    predictions: the predicted class of each example, 0 to C-1.
    references: the true class of each example, 0 to C-1.
    labels: names of the C classes in that order. Default: "0", "1", ... up to the largest class that occurs.
Returns:
    accuracy; f1, precision, recall (macro: the mean over the classes; this recall is the unweighted average recall);
    f1_weighted (by the number of true examples); precision_micro and recall_micro (with one label an example they are
    the accuracy): all in percent. mcc, the Matthews correlation, -1 to 1.
    per_class: name -> precision, recall, f1 (0 to 1, None where undefined) and support, the number of true examples.
    confusion: counts [C, C], rows the truth, columns the prediction.
"""

CITATION = """\
Pedregosa et al. Scikit-learn: Machine Learning in Python. JMLR 12 (2011).
Matthews. Comparison of the predicted and observed secondary structure of T4 phage lysozyme. BBA 405 (1975).
"""


def class_table(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Precision, recall, F1 (0..1, NaN where undefined) and support of every class, float64 [classes, 4].

    truth, predicted: classes 0..classes-1, int [N], N > 0.
    """
    from sklearn.metrics import precision_recall_fscore_support

    table = precision_recall_fscore_support(truth, predicted, labels=range(classes), zero_division=np.nan)
    table = np.column_stack(table).astype(np.float64)
    never_predicted = np.isnan(table[:, 0]) & (table[:, 3] > 0)
    table[never_predicted, 0] = 0.0
    return table


def confusion_counts(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """int64 [classes, classes]: how often class (row) was taken for class (column)."""
    return np.bincount(np.asarray(truth) * classes + predicted, minlength=classes**2).reshape(classes, classes)


def summary(truth: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, float]:
    """accuracy, f1, precision, recall (macro) and f1_weighted in percent, and mcc in -1..1.

    truth, predicted: classes 0..classes-1, int [N], N > 0. mcc is 0 where truth or prediction never changes.
    """
    from sklearn.metrics import accuracy_score, matthews_corrcoef

    truth, predicted = np.asarray(truth), np.asarray(predicted)
    precision, recall, f1, support = class_table(truth, predicted, classes).T
    constant = np.ptp(truth) == 0 or np.ptp(predicted) == 0
    return {
        "accuracy": 100 * float(accuracy_score(truth, predicted)),
        "f1": 100 * float(np.nanmean(f1)),
        "f1_weighted": 100 * float(np.average(np.nan_to_num(f1), weights=support)),
        "precision": 100 * float(np.nanmean(precision)),
        "recall": 100 * float(np.nanmean(recall)),
        "mcc": 0.0 if constant else float(matthews_corrcoef(truth, predicted)),
    }


class Classification(evaluate.Metric):
    """The functions above as an `evaluate` metric."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html"],
        )

    def _compute(self, predictions: list[int], references: list[int], labels: list[str] | None = None) -> dict:
        """See INPUTS_DESCRIPTION. Raises ValueError without examples and for a class that `labels` does not name."""
        truth, predicted = np.asarray(references), np.asarray(predictions)
        if not len(truth):
            raise ValueError("there are no examples to score")
        if labels is None:
            labels = [str(i) for i in range(max(truth.max(), predicted.max()) + 1)]
        for kind, values in (("references", truth), ("predictions", predicted)):
            wrong = values[(values < 0) | (values >= len(labels))]
            if wrong.size:
                raise ValueError(f"the {kind} have class {wrong[0]}, and the {len(labels)} classes are 0 and up")
        precision, recall, f1, support = class_table(truth, predicted, len(labels)).T
        figures = summary(truth, predicted, len(labels))
        return {
            **figures,
            "precision_micro": figures["accuracy"],
            "recall_micro": figures["accuracy"],
            "per_class": {
                name: {
                    "precision": _or_none(precision[i]),
                    "recall": _or_none(recall[i]),
                    "f1": _or_none(f1[i]),
                    "support": int(support[i]),
                }
                for i, name in enumerate(labels)
            },
            "confusion": confusion_counts(truth, predicted, len(labels)).tolist(),
        }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
