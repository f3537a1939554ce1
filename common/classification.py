"""Class predictions: scores with intervals, baseline, groups, files, surest errors, plots; classes of unequal size.

An example is an id, a class, logits and a few texts to show, so that pairs of sentences and recordings fit alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from common.errors import write_csv
from common.metrics.classification.classification import (
    AVERAGES,
    SCORES,
    class_scores,
    confusion_counts,
    matthews,
    summary,
)
from common.metrics.intervals import table_interval
from common.results import headline, metric, plain_metric

LARGE = 50.0
LOSSES = {"train": "loss", "training set": "train_loss", "validation": "eval_loss"}
ACCURACIES = {"training set": "train_accuracy", "validation": "eval_accuracy"}


@dataclass
class Predictions:
    """What a model says of the N examples of one split, and what is known of them.

    Attributes:
        labels: names of the C classes, in the order of the logits.
        logits: float [N, C].
        targets: the true classes, int [N]; None where they are unknown.
        ids: name of each example.
        columns: name -> N texts to show beside the prediction.
        groups: name -> N values; the examples of each value are scored on their own, too.
    """

    labels: list[str]
    logits: np.ndarray
    targets: np.ndarray | None
    ids: Sequence[str]
    columns: dict[str, Sequence[str]] = field(default_factory=dict)
    groups: dict[str, Sequence[str]] = field(default_factory=dict)

    @cached_property
    def predicted(self) -> np.ndarray:
        """int64 [N]."""
        return self.logits.argmax(axis=1)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """float64 [N, C]: the softmax of the logits."""
        shares = np.exp(self.logits.astype(np.float64) - self.logits.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)


def score_predictions(
    splits: Mapping[str, Predictions],
    losses: Mapping[str, float],
    *,
    headline_metric: str,
    train_targets: np.ndarray | None,
    micro: bool = False,
    names: Mapping[str, str] = {},
) -> dict:
    """The parts of results.json about scores: headline, metrics, per_class, confusion, groups, baseline.

    Args:
        splits: those without truth are left out; the headline is `headline_metric` of the last one with truth.
        losses: split -> mean cross-entropy (nats).
        train_targets: the true classes of the training data, whose most frequent one is the baseline; None where
            nothing was trained: that of the split itself, an upper bound of what always saying one class can reach.
        micro: also precision_micro and recall_micro, which with one label an example are the accuracy.
        names: what metrics are called instead, such as {"recall": "unweighted_average_recall"}.
    """
    more = ("precision_micro", "recall_micro") if micro else ()
    parts: dict = {name: {} for name in ("metrics", "per_class", "confusion", "groups", "baseline")}
    for name, split in splits.items():
        if split.targets is None:
            continue
        truth, labels, right = split.targets, split.labels, split.predicted == split.targets
        counts = confusion_counts(truth, split.predicted, len(labels))
        (low, high), mcc_ends = table_interval(counts, class_scores), table_interval(counts, matthews)
        ends = {key: 100 * np.array([low[-2, i], high[-2, i]]) for i, key in enumerate(SCORES)}  # of the macro averages
        ends |= {"f1_weighted": 100 * np.array([low[-1, 2], high[-1, 2]]), "mcc": mcc_ends}
        scores = _scores(truth, split.predicted, len(labels))
        for key, (lower, upper) in ends.items():
            scores[key] |= {"low": _known(lower), "high": _known(upper), "examples": len(truth)}
        accuracy = metric(right, "percent", scale=100)
        scores |= dict.fromkeys(("accuracy", *more), accuracy)
        parts["metrics"][name] = _named(scores, names) | {"loss": plain_metric(losses[name], "nats")}
        rows = zip(class_scores(counts[None])[0], low, high, [*counts.sum(axis=1).tolist(), *[len(truth)] * 2])
        own = [f"class {label}" if label in AVERAGES else label for label in labels]
        parts["per_class"][name] = {label: _class_row(*row) for label, row in zip([*own, *AVERAGES], rows)}
        parts["confusion"][name] = {"labels": labels, "matrix": counts.tolist()}
        for column, values in split.groups.items():
            groups = parts["groups"].setdefault(name, {})[column] = {}
            for value in np.unique(values):
                of = np.asarray(values) == value
                alone = _named(_scores(truth[of], split.predicted[of], len(labels)), names)
                alone["accuracy"] = metric(right[of], "percent", scale=100)
                groups[str(value)] = {key: alone[key] for key in ("accuracy", headline_metric)}
        classes, where = (truth, name) if train_targets is None else (train_targets, "the training data")
        majority = int(np.bincount(classes, minlength=len(labels)).argmax())
        trivial = _scores(truth, np.full_like(truth, majority), len(labels))
        trivial |= dict.fromkeys(more, trivial["accuracy"])
        said = f"majority class of {where} ({labels[majority]})"
        parts["baseline"][name] = {"name": said, "metrics": _named(trivial, names)}
    known = list(parts["metrics"])
    top = headline(parts["metrics"], parts["baseline"], known[-1], headline_metric) if known else None
    return {"headline": top, **parts}


def _scores(truth: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, dict]:
    """The summary of `common.metrics.classification` as results.json wants it, without intervals."""
    found = {}
    for name, value in summary(truth, predicted, classes).items():
        macro = {"average": "macro"} if name in SCORES else {}
        found[name] = plain_metric(value, "score" if name == "mcc" else "percent") | macro
    return found


def _named(scores: dict, names: Mapping[str, str]) -> dict:
    return {
        names.get(name, name): {k: v for k, v in one.items() if k != "average" or name not in names}
        for name, one in scores.items()
    }


def _class_row(values: np.ndarray, low: np.ndarray, high: np.ndarray, support: int) -> dict:
    row = {}
    for name, *three in zip(SCORES, values, low, high):
        row |= {f"{name}{end}": _known(value) for end, value in zip(("", "_low", "_high"), three)}
    return row | {"support": support}


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def write_classes(
    results: Mapping,
    predictions: Mapping[str, Predictions],
    output_dir: Path,
    *,
    references: Mapping[str, Mapping] = {},
    player: Callable[[int], str] | None = None,
) -> tuple[dict[str, str], list[str], str]:
    """Writes the predictions of every split, and plots: what `write` of `Run.finish` gives back.

    references: as for `draw_plots`. player: as for `error_cards`, of the split in the headline.
    """
    files, head = draw_plots(results, output_dir, references=references), results["headline"]
    for name, split in predictions.items():
        files |= write_predictions(output_dir, "test_" if name == "test" else "", split)
    return files, error_cards(predictions[head["split"]], player=player) if head else [], "The surest errors"


def write_predictions(output_dir: Path, prefix: str, predictions: Predictions) -> dict[str, str]:
    """Writes PREFIXpredictions.csv, a row an example in the order of the data; returns its name for results.json.

    id, what is shown, truth (empty where unknown), prediction, the probability of each class and its logit.
    """
    shown, labels = {**predictions.columns, **predictions.groups}, predictions.labels
    truth = [""] * len(predictions.ids) if predictions.targets is None else [labels[i] for i in predictions.targets]
    numbers = np.concatenate([predictions.probabilities, predictions.logits], axis=1)
    texts = zip(predictions.ids, *shown.values(), truth, [labels[i] for i in predictions.predicted])
    rows = ((*row, *(f"{number:.6f}" for number in line)) for row, line in zip(texts, numbers.tolist()))
    columns = [f"{kind}_{label}" for kind in ("probability", "logit") for label in labels]
    name = f"{prefix}predictions.csv"
    write_csv(output_dir / name, ["id", *shown, "truth", "prediction", *columns], rows)
    return {name: name}


def error_cards(predictions: Predictions, count: int = 20, *, player: Callable[[int], str] | None = None) -> list[str]:
    """The worst errors as HTML: wrong, and the surest of it first; `player` gives the HTML that plays an example."""
    from common.report import page

    wrong = np.flatnonzero(predictions.predicted != predictions.targets)
    shares, labels, cards = predictions.probabilities, predictions.labels, []
    for i in wrong[np.argsort(-shares[wrong].max(axis=1), kind="stable")[:count]]:
        order = np.argsort(-shares[i], kind="stable")[:5]
        rows = [
            ("Truth", labels[predictions.targets[i]]),
            ("Probabilities", ", ".join(f"{labels[c]} {100 * shares[i, c]:.1f}\u00a0%" for c in order)),
            *((name, values[i]) for name, values in predictions.groups.items()),
            ("Id", predictions.ids[i]),
        ]
        body = player(int(i)) if player else ""
        body += "".join(page.text_block(name, texts[i]) for name, texts in predictions.columns.items())
        cards.append(page.card(f"Predicted: {labels[predictions.predicted[i]]}", rows, body))
    return cards


def draw_plots(results: Mapping, output_dir: Path, *, references: Mapping[str, Mapping] = {}) -> dict[str, str]:
    """Draws what every report on classes shows; returns file names for results.json.

    Examples by class and split, loss and accuracy while training, F1 of every class with intervals, and the confusion
    of every evaluated split. references: "loss" or "accuracy" -> legend entry -> {epoch: published value}, dashed.
    """
    from common.report import plots
    from common.report.words import words

    folder = output_dir / "plots"
    counts = {
        name: split["label_counts"] for name, split in results["data"]["splits"].items() if split.get("label_counts")
    }
    drawn = [plots.class_counts(counts, folder / "class_counts", title="Examples by class")] if counts else []
    for name, series in (("loss", LOSSES), ("accuracy", ACCURACIES)) if results["history"] else ():
        shown = {"series": series, "references": references.get(name, {}), "title": name.capitalize()}
        drawn.append(plots.curves(results["history"], folder / name, **shown))
    table, ends = {}, {}
    for split, classes in results["per_class"].items():
        for label, row in classes.items():
            if label in AVERAGES:
                continue
            table.setdefault(label, {})[words(split)] = row["f1"]
            ends.setdefault(label, {})[words(split)] = row["f1_low"], row["f1_high"]
    if table:
        drawn.append(plots.grouped_bars(table, folder / "f1_by_class", low_high=ends, title="F1 by class", ylabel="F1"))
    for name, confusion in results["confusion"].items():
        drawn.append(
            plots.confusion_matrix(**confusion, path=folder / f"{name}_confusion", title=f"Confusion: {words(name)}")
        )
    return {path.stem: str(path.relative_to(output_dir)) for path in drawn}


def class_weights(labels: np.ndarray, classes: int, how: Literal["none", "balanced", "sqrt"]) -> np.ndarray:
    """float64 [classes]: weights whose mean over the examples is 1; 0 for a class without examples (but for "none").

    Args:
        labels: int [N], 0 to classes - 1.
        how: "balanced": inverse to the class's count, as scikit-learn's; "sqrt": the square root of that.
    """
    counts = np.bincount(labels, minlength=classes).astype(float)
    sizes = {"none": np.ones(classes), "balanced": counts, "sqrt": np.sqrt(counts)}
    with np.errstate(divide="ignore"):
        weights = np.where((counts > 0) | (how == "none"), 1 / sizes[how], 0.0)
    return weights * counts.sum() / (weights @ counts)


def weights_by_class(run, train, labels: Sequence[str]):
    """float32 tensor [C]: what --class_weights gives each class in the loss; 1 where nothing is trained.

    `train`: a data set with a column "labels", or None. The weights go into the results, a large one is warned about.
    """
    import torch

    how = run.args.class_weights
    if train is None or how == "none":
        return torch.ones(len(labels))
    weights = class_weights(np.array(train["labels"][:]), len(labels), how)
    if warning := weight_warning(weights, labels):
        run.warn(warning)
    run.extra[f"class weights ({how})"] = dict(zip(labels, weights.round(4).tolist()))
    return torch.tensor(weights, dtype=torch.float32)


def weight_warning(weights: np.ndarray, names: Sequence[str]) -> str | None:
    """A sentence where a weight is so large that a few examples decide what is learned; None otherwise."""
    largest = int(np.argmax(weights))
    if weights[largest] <= LARGE:
        return None
    return (
        f"the class {names[largest]!r} has the weight {weights[largest]:,.0f} in the loss: each of its few examples "
        "counts like that many; --class_weights sqrt is milder"
    )


def copied_rows(labels: np.ndarray, factors: Mapping[int, int]) -> np.ndarray:
    """Rows, ascending, each as often as the factor of its class says (1 where none is given); labels: int [N]."""
    return np.repeat(np.arange(len(labels)), [factors.get(int(label), 1) for label in labels])
