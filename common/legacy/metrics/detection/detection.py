"""Average precision, area under ROC, precision, recall, F1 and Matthews correlation of a detector, by scikit-learn.

For `evaluate.load("common/legacy/metrics/detection")`, which copies this one file elsewhere and runs it there: it imports
nothing of this project and reads nothing from the network.

What is undefined is None: without any positive example there is no recall and neither area, and without any negative
one no area under ROC. Precision is 0 where nothing is predicted as positive and something is; with neither, precision
and F1 are None.

Not for several classes, and not for choosing a threshold.
"""

import datasets
import evaluate
import numpy as np

DESCRIPTION = """\
How well rare positive examples are found: the areas under the precision-recall curve (average precision) and the ROC
curve of the probabilities, and precision, recall, F1 and Matthews correlation at a threshold.
"""

INPUTS_DESCRIPTION = """\
Args:
    predictions: the probability of each example to be positive, 0 to 1.
    references: 1 for a positive example, 0 for another.
    threshold: an example is predicted as positive where its probability is at least this. Default: 0.5.
Returns:
    auprc (average precision), roc_auc, precision, recall, f1 (of the positive class): in percent, None where undefined.
    mcc, the Matthews correlation, -1 to 1; 0 where truth or prediction never changes.
    confusion: counts [2, 2], rows the truth (0, 1), columns the prediction.
"""

CITATION = """\
Pedregosa et al. Scikit-learn: Machine Learning in Python. JMLR 12 (2011).
Saito and Rehmsmeier. The precision-recall plot is more informative than the ROC plot when evaluating binary classifiers
on imbalanced datasets. PLOS ONE 10 (2015).
"""


class Detection(evaluate.Metric):
    """scikit-learn's figures of a detector as an `evaluate` metric."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html"],
        )

    def _compute(self, predictions: list[float], references: list[int], threshold: float = 0.5) -> dict:
        """See INPUTS_DESCRIPTION. Raises ValueError without examples, and for what is no probability or class."""
        from sklearn import metrics

        truth, probabilities = np.asarray(references), np.asarray(predictions, dtype=np.float64)
        if not len(truth):
            raise ValueError("there are no examples to score")
        wrong = truth[(truth != 0) & (truth != 1)]
        if wrong.size:
            raise ValueError(f"the references have class {wrong[0]}, and the classes are 0 and 1")
        wrong = probabilities[~((probabilities >= 0) & (probabilities <= 1))]
        if wrong.size:
            raise ValueError(f"the predictions have {wrong[0]}, which is no probability")
        predicted = (probabilities >= threshold).astype(np.int64)
        positive, called = bool(truth.any()), bool(predicted.any())
        scores = metrics.precision_recall_fscore_support(truth, predicted, average="binary", zero_division=0)
        precision, recall, f1 = (100 * float(score) for score in scores[:3])
        constant = np.ptp(truth) == 0 or np.ptp(predicted) == 0
        return {
            "auprc": 100 * float(metrics.average_precision_score(truth, probabilities)) if positive else None,
            "roc_auc": 100 * float(metrics.roc_auc_score(truth, probabilities)) if np.ptp(truth) else None,
            "precision": precision if positive or called else None,
            "recall": recall if positive else None,
            "f1": f1 if positive or called else None,
            "mcc": 0.0 if constant else float(metrics.matthews_corrcoef(truth, predicted)),
            "confusion": metrics.confusion_matrix(truth, predicted, labels=[0, 1]).tolist(),
        }
