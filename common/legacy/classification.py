"""Class predictions judged: scores with intervals, the baseline, groups, the files, the surest errors, the plots.

An example is an id, a class, logits and a few texts to show, so that pairs of sentences and recordings fit alike.
Not for making predictions: the logits come from the Trainer, in the order of the data set. The metric's own module is
imported where it is used, because `evaluate` loads torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from common.legacy import plotting, report
from common.legacy.files import write_csv
from common.legacy.results import headline, metric, plain_metric

# How the published scripts load such a model; a format string, so that braces are doubled.
PAIR_USAGE = """\
from transformers import pipeline

classifier = pipeline("text-classification", model="{model}")
pair = {{"text": {first!r}, "text_pair": {second!r}}}
print(classifier(pair, truncation=True, top_k=None))  # every label with its probability
"""
MACRO = ("f1", "precision", "recall")


@dataclass
class Predictions:
    """What a model says of the N examples of one split, and what is known of them.

    Attributes:
        labels: names of the C classes, in the order of the logits.
        logits: float [N, C].
        targets: the true classes, int [N]; None where they are unknown.
        ids: name of each example.
        columns: name -> N texts to show beside the prediction.
        groups: name -> N values; the accuracy of the examples of each value is reported.
    """

    labels: list[str]
    logits: np.ndarray
    targets: np.ndarray | None
    ids: list[str]
    columns: dict[str, list[str]]
    groups: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.logits)

    @cached_property
    def predicted(self) -> np.ndarray:
        """int64 [N]."""
        return self.logits.argmax(axis=1)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """float64 [N, C]: the softmax of the logits."""
        shares = np.exp(self.logits.astype(np.float64) - self.logits.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)


def score(kept: tuple[np.ndarray, ...], dataset) -> dict[str, float]:
    """Metrics of one evaluation, for `common.legacy.trainer.Head`: `kept` is (logits [N, C],), the truth `dataset.targets`."""
    from common.legacy.metrics.classification.classification import summary

    (logits,) = kept
    return {} if dataset.targets is None else summary(dataset.targets, logits.argmax(axis=1), logits.shape[1])


def count_intervals(counts: np.ndarray, *, resamples: int = 1000, seed: int = 0) -> dict[str, np.ndarray]:
    """95 % bootstrap intervals of all that is computed from a confusion matrix [C, C].

    The matrix of N examples drawn with replacement is one draw from a multinomial distribution, so that no examples
    are drawn and time does not grow with N. Returns [2] (low, high) each for f1, f1_weighted, precision, recall in
    percent and mcc, and [2, C] for per_class_f1 in 0..1, NaN for a class that is neither true nor predicted.
    """
    n, classes = counts.sum(), len(counts)
    drawn = np.random.default_rng(seed).multinomial(n, counts.ravel() / n, size=resamples)
    n, drawn = float(n), drawn.reshape(-1, classes, classes).astype(np.float64)  # products of integers could overflow
    hits, true, predicted = drawn.diagonal(axis1=1, axis2=2), drawn.sum(axis=2), drawn.sum(axis=1)  # [resamples, C]
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: undefined, as in the metric
        f1, recall = 2 * hits / (true + predicted), hits / true
        precision = np.where((predicted == 0) & (true > 0), 0.0, hits / predicted)
    covariance = n * hits.sum(axis=1) - (true * predicted).sum(axis=1)
    spread = np.sqrt((n**2 - (true**2).sum(axis=1)) * (n**2 - (predicted**2).sum(axis=1)))
    estimates = {
        "f1": 100 * np.nanmean(f1, axis=1),
        "f1_weighted": 100 * (np.nan_to_num(f1) * true).sum(axis=1) / n,
        "precision": 100 * np.nanmean(precision, axis=1),
        "recall": 100 * np.nanmean(recall, axis=1),
        "mcc": np.divide(covariance, spread, out=np.zeros(resamples), where=spread > 0),
    }
    ends = (0.025, 0.975)
    found = {name: np.quantile(values, ends) for name, values in estimates.items()}
    occurs = counts.sum(axis=0) + counts.sum(axis=1) > 0
    found["per_class_f1"] = np.full((2, classes), np.nan)
    found["per_class_f1"][:, occurs] = np.nanquantile(f1[:, occurs], ends, axis=0)
    return found


def _figure(name: str, value: float, low_high: np.ndarray | None = None, examples: int | None = None) -> dict:
    """A metric other than the accuracy as results.json wants it."""
    figure = plain_metric(value, "score" if name == "mcc" else "percent")
    if low_high is not None:
        figure |= {"low": float(low_high[0]), "high": float(low_high[1]), "examples": examples}
    return figure | ({"average": "macro"} if name in MACRO else {})


def _score_table(predictions: Predictions) -> tuple[dict, dict, np.ndarray]:
    """Metrics with intervals, the report by class, and the confusion matrix of a split with truth."""
    from common.legacy.metrics.classification.classification import class_table, confusion_counts, summary

    truth, predicted, labels = predictions.targets, predictions.predicted, predictions.labels
    counts = confusion_counts(truth, predicted, len(labels))
    intervals = count_intervals(counts)
    figures = summary(truth, predicted, len(labels))
    metrics = {"accuracy": metric(predicted == truth, "percent", scale=100)}
    metrics |= {
        name: _figure(name, value, intervals[name], len(truth)) for name, value in figures.items() if name in intervals
    }
    columns = ("precision", "recall", "f1", "support", "f1_low", "f1_high")
    table = np.column_stack([class_table(truth, predicted, len(labels)), *intervals["per_class_f1"]])
    by_class = {}
    for label, row in zip(labels, table):
        by_class[label] = {column: None if np.isnan(value) else float(value) for column, value in zip(columns, row)}
        by_class[label]["support"] = int(by_class[label]["support"])
    return metrics, by_class, counts


def judge(
    splits: dict[str, Predictions],
    measured: dict[str, dict[str, float]],
    *,
    headline_metric: str,
    train_targets: np.ndarray | None,
) -> dict:
    """The parts of results.json about scores: headline, metrics, per_class, confusion, groups, baseline.

    Splits without truth are left out; the headline is `headline_metric` of the last one with truth. `measured` maps a
    split to the metrics of its evaluation, of which the loss is taken. The baseline is always the most frequent class
    of `train_targets` (the true classes of the training data, in the order of the labels), or, where nothing was
    trained (None), that of the split itself, which then is an upper bound of what always saying one class can reach.
    """
    from common.legacy.metrics.classification.classification import summary

    parts: dict = {name: {} for name in ("metrics", "per_class", "confusion", "groups", "baseline")}
    known = [name for name, predictions in splits.items() if predictions.targets is not None]
    for name in known:
        predictions = splits[name]
        labels, truth = predictions.labels, predictions.targets
        parts["metrics"][name], parts["per_class"][name], counts = _score_table(predictions)
        loss = next(value for key, value in measured[name].items() if key.endswith("_loss"))
        parts["metrics"][name]["loss"] = plain_metric(loss, "nats")
        parts["confusion"][name] = {"labels": labels, "matrix": counts.tolist()}
        if predictions.groups:
            right = predictions.predicted == truth
            parts["groups"][name] = {column: _by_group(right, v) for column, v in predictions.groups.items()}
        classes, where = (truth, name) if train_targets is None else (train_targets, "the training data")
        majority = int(np.bincount(classes, minlength=len(labels)).argmax())
        trivial = summary(truth, np.full_like(truth, majority), len(labels))
        parts["baseline"][name] = {
            "name": f"majority class of {where} ({labels[majority]})",
            "metrics": {measure: _figure(measure, value) for measure, value in trivial.items()},
        }
    top = headline(parts["metrics"], parts["baseline"], known[-1], headline_metric) if known else None
    return {"headline": top, **parts}


def _by_group(right: np.ndarray, values: list[str]) -> dict[str, dict]:
    """value -> accuracy of its examples, the values in order."""
    names, of = np.unique(values, return_inverse=True)
    return {str(value): {"accuracy": metric(right[of == i], "percent", scale=100)} for i, value in enumerate(names)}


def write_predictions(output_dir: Path, prefix: str, predictions: Predictions) -> dict[str, str]:
    """Writes PREFIXpredictions.csv, a row an example in the order of the data; returns its name for results.json.

    id, what is shown, truth (empty where unknown), prediction, and the probability of each class.
    """
    shown = {**predictions.columns, **predictions.groups}
    labels = predictions.labels
    truth = [""] * len(predictions) if predictions.targets is None else [labels[i] for i in predictions.targets]
    shares = ([f"{share:.4f}" for share in row] for row in predictions.probabilities.tolist())
    texts = (predictions.ids, *shown.values(), truth, [labels[i] for i in predictions.predicted])
    rows = ((*row, *probabilities) for *row, probabilities in zip(*texts, shares))
    header = ["id", *shown, "truth", "prediction", *(f"probability_{label}" for label in labels)]
    name = f"{prefix}predictions.csv"
    write_csv(output_dir / name, header, rows)
    return {name: name}


def error_cards(predictions: Predictions, count: int = 20, *, player: Callable[[int], str] | None = None) -> list[str]:
    """The worst errors as HTML: wrong, and the surest of it first; `player` gives the HTML that plays an example."""
    wrong = np.flatnonzero(predictions.predicted != predictions.targets)
    shares, labels = predictions.probabilities, predictions.labels
    cards = []
    for i in wrong[np.argsort(-shares[wrong].max(axis=1), kind="stable")[:count]]:
        order = np.argsort(-shares[i], kind="stable")[:5]
        rows = [
            ("Truth", labels[predictions.targets[i]]),
            ("Probabilities", ", ".join(f"{labels[c]} {100 * shares[i, c]:.1f}\u00a0%" for c in order)),
            *((name, values[i]) for name, values in predictions.groups.items()),
            ("Id", predictions.ids[i]),
        ]
        body = player(int(i)) if player else ""
        body += "".join(report.text_block(name, texts[i]) for name, texts in predictions.columns.items())
        cards.append(report.card(f"Predicted: {labels[predictions.predicted[i]]}", rows, body))
    return cards


def draw_plots(
    results: dict, output_dir: Path, *, losses: Mapping[str, str], accuracies: Mapping[str, str]
) -> dict[str, str]:
    """Draws what the report shows, from what `judge` found; returns file names for results.json.

    Examples by class and split, losses and accuracies while training, F1 of every class with intervals, and of every
    evaluated split the confusion matrix. `losses` and `accuracies` map a legend entry to the key of the history that it
    shows, as in {"train": "loss", "validation": "eval_validation_loss"}.
    """
    folder, drawn = output_dir / "plots", []
    counts = {name: split.get("label_counts", {}) for name, split in results["data"]["splits"].items()}
    if any(counts.values()):
        drawn.append(plotting.class_counts(counts, folder / "class_counts.png", title="Examples by class"))
    if results["history"]:
        for name, series in (("loss", losses), ("accuracy", accuracies)):
            path = folder / f"{name}.png"
            drawn.append(plotting.curves(results["history"], path, title=name.capitalize(), series=series))
    if results["per_class"]:
        labels = list(dict.fromkeys(label for split in results["per_class"].values() for label in split))

        def table(value) -> dict:
            by_split = results["per_class"].items()
            return {label: {name: value(split[label]) for name, split in by_split} for label in labels}

        drawn.append(
            plotting.grouped_bars(
                table(lambda row: row["f1"]),
                folder / "f1_by_class.png",
                title="F1 by class",
                ylabel="F1",
                low_high=table(lambda row: (row["f1_low"], row["f1_high"])),
            )
        )
    for name, confusion in results["confusion"].items():
        path, title = folder / f"{name}_confusion.png", f"Confusion ({name})"
        drawn.append(plotting.confusion_matrix(confusion["labels"], confusion["matrix"], path, title=title))
    return {path.stem: str(path.relative_to(output_dir)) for path in drawn}
