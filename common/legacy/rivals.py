"""What a practitioner would take instead of a network on a table: two models of scikit-learn, trained on the same rows.

Their figures stand beside the network's in the report; nothing of them is kept.
"""

from collections.abc import Mapping

import numpy as np

from common.legacy.detection import ThresholdRule, choose_threshold, detection_metrics

COMPARED = ("auprc", "roc_auc", "precision", "recall", "f1", "mcc", "f1_at_half")


def rival_probabilities(
    inputs: Mapping[str, np.ndarray], target: np.ndarray, seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """Part -> name of the model -> probability of the positive class, float64 [N].

    Args:
        inputs: part -> standardised features, float32 [N, F]; the models are trained on "train", whose classes
            `target` is, int [N].
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    models = {
        "logistic regression": LogisticRegression(max_iter=1000),
        # Small trees and steps: with the defaults' 31 leaves a few hundred frauds make it diverge.
        "gradient boosting": HistGradientBoostingClassifier(
            learning_rate=0.05,
            max_iter=200,
            max_leaf_nodes=8,
            l2_regularization=1.0,
            early_stopping=False,
            random_state=seed,
        ),
    }
    models = {name: model.fit(inputs["train"], target) for name, model in models.items()}
    others = [part for part in inputs if part != "train"]
    return {part: {name: m.predict_proba(inputs[part])[:, 1] for name, m in models.items()} for part in others}


def side_by_side(
    metrics: Mapping[str, Mapping[str, dict]],
    truths: Mapping[str, np.ndarray],
    rivals: Mapping[str, Mapping[str, np.ndarray]],
    rule: ThresholdRule,
    costs: tuple[float, float],
) -> dict[str, dict]:
    """Tables for the report, by title: row -> metric -> figure.

    Where there is a part "untouched" beside a leaking "test", the network on both; and on each tested part the network
    and its rivals, whose thresholds are chosen by the same rule on the same validation rows.

    Args:
        metrics: part -> the network's figures.
        truths: part -> its classes, int [N].
        rivals: what `rival_probabilities` found, or nothing.
    """
    ours = {part: {metric: figures[metric] for metric in COMPARED} for part, figures in metrics.items()}
    tables = {}
    if "untouched" in ours:
        titles = {"test, resampled before the split (leaks)": "test", "untouched rows (honest)": "untouched"}
        tables["what the leak is worth: the same model on"] = {title: ours[part] for title, part in titles.items()}
    for part in [part for part in ("test", "untouched") if rivals and part in ours]:
        tables[f"models on {part}"] = rows = {"this model": ours[part]}
        for name, found in rivals[part].items():
            threshold, _ = choose_threshold(truths["validation"], rivals["validation"][name], rule)
            figures = detection_metrics(truths[part], found, threshold, costs=costs)
            rows[name] = {metric: figures[metric] for metric in COMPARED}
    return tables
