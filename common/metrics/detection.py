"""Average precision, area under ROC, and precision, recall, F1 and Matthews correlation of a detector at a threshold.

What is undefined is NaN: without any positive example there is no recall and neither area, without any negative one no
area under ROC. Precision is 0 where nothing is called positive, though something is.

Why precision-recall: Saito and Rehmsmeier, The precision-recall plot is more informative than the ROC plot when
evaluating binary classifiers on imbalanced datasets (PLOS ONE 2015).
"""

import numpy as np

SCORES = ("precision", "recall", "f1", "mcc")


def confusion_counts(truth: np.ndarray, probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """int64 [2, 2]: how many of each class (row: 0, 1) are called negative, positive (column)."""
    called = np.asarray(probabilities) >= threshold
    return np.bincount(2 * np.asarray(truth, dtype=np.int64) + called, minlength=4).reshape(2, 2)


def detection_scores(tables: np.ndarray) -> np.ndarray:
    """float64 [R, 4]: `SCORES` of the positive class, from confusion matrices [R, 2, 2]; precision to F1 in 0..1."""
    (right, alarms), (missed, found) = np.moveaxis(np.asarray(tables, dtype=np.float64), 0, -1)
    called, positive = found + alarms, found + missed
    spread = np.sqrt(called * positive * (right + alarms) * (right + missed))
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 is NaN: undefined
        precision = np.where((called == 0) & (positive > 0), 0.0, found / called)
        mcc = np.where(spread > 0, (found * right - alarms * missed) / spread, 0.0)
        return np.stack([precision, found / positive, 2 * found / (called + positive), mcc], axis=1)


def summary(truth: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> dict[str, float]:
    """auprc, roc_auc, precision, recall, f1 in percent, mcc in -1..1; NaN where undefined. truth 0 or 1 [N], N > 0."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores = detection_scores(confusion_counts(truth, probabilities, threshold)[None])[0] * (100, 100, 100, 1)
    auprc = 100 * average_precision_score(truth, probabilities) if np.any(truth) else np.nan
    roc_auc = 100 * roc_auc_score(truth, probabilities) if np.ptp(truth) else np.nan
    return dict(zip(("auprc", "roc_auc", *SCORES), map(float, (auprc, roc_auc, *scores))))
