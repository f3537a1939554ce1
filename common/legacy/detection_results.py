"""Results of a detector: scores by split, the file of predictions, the plots, and cards of the surest errors.

Not for making predictions, nor for the figures themselves (`common.legacy.detection`). pyarrow and matplotlib are imported
where they are used.
"""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.legacy import plotting, report
from common.legacy.detection import CLASSES, HALF, by_class, confusion, detection_metrics, summary, sweep, trivial
from common.legacy.files import whole_file
from common.legacy.results import headline, plain_metric

HEADLINE = "auprc"
AT_HALF = f", threshold {HALF}"  # what the name of a split gets for its second confusion
STEPS = 1_000  # thresholds of a plot
IN_BIN = 10  # frauds in a bin of the calibration curve, at least
FARTHEST = 5  # columns on a card


@dataclass
class Detections:
    """What a detector says of N rows, and what is known of them.

    Attributes:
        ids: N names or numbers of the rows.
        truth: 1 for fraud, 0 for legitimate, int [N]; None where it is unknown.
        probabilities: of fraud, float64 [N].
        columns: name -> N values to show beside the prediction.
        threshold: a row is called fraud where its probability is at least this.
    """

    ids: list | np.ndarray
    truth: np.ndarray | None
    probabilities: np.ndarray
    columns: dict[str, np.ndarray]
    threshold: float

    def __len__(self) -> int:
        return len(self.probabilities)


def judge(
    splits: dict[str, Detections],
    losses: dict[str, float],
    *,
    train_truth: np.ndarray | None,
    headline_split: str,
    costs: tuple[float, float],
) -> dict:
    """The parts of results.json about scores: headline, metrics, per_class, confusion, groups, baseline.

    Splits without truth are left out. There is no headline where `headline_split` has no truth, or no fraud, without
    which its area under precision-recall is undefined. `losses`: cross-entropy of each split. The baseline gives every
    row the share of frauds in `train_truth` (the training data's classes before resampling), or, where nothing was
    trained (None), in the split itself. `costs`: of a missed fraud, of a false alarm.
    """
    parts: dict = {name: {} for name in ("metrics", "per_class", "confusion", "groups", "baseline")}
    for name, split in splits.items():
        if split.truth is None:
            continue
        rows = split.truth, split.probabilities
        metrics = detection_metrics(*rows, split.threshold, costs=costs)
        parts["metrics"][name] = metrics | {"loss": plain_metric(losses[name], "nats")}
        parts["per_class"][name] = by_class(*rows, split.threshold)
        for key, threshold in ((name, split.threshold), (name + AT_HALF, HALF)):
            matrix = confusion(*rows, threshold).tolist()
            parts["confusion"][key] = {"labels": list(CLASSES), "matrix": matrix}
        prevalence = float(np.mean(split.truth if train_truth is None else train_truth))
        baseline, figures = trivial(split.truth, prevalence, costs=costs)
        parts["baseline"][name] = {"name": baseline, "metrics": figures}
    top = None
    if parts["metrics"].get(headline_split, {}).get(HEADLINE, {}).get("value") is not None:
        top = headline(parts["metrics"], parts["baseline"], headline_split, HEADLINE)
    return {"headline": top, **parts}


def write_predictions(output_dir: Path, prefix: str, parts: Iterable[Detections]) -> dict[str, str]:
    """Writes PREFIXpredictions.csv, a row a row of the data, part by part; returns its name for results.json.

    id, what is shown, truth (empty where unknown), prediction, prediction_at_half, and the probability of fraud in
    full, so that another threshold can be tried on the file itself. The file is whole or not there. All parts have the
    columns of the first; without any part the file has no rows and no header.
    """
    from pyarrow.csv import CSVWriter, WriteOptions

    name, writer = f"{prefix}predictions.csv", None
    with whole_file(output_dir / name) as partial, partial.open("wb") as file:
        for part in parts:
            table = _prediction_table(part)
            if writer is None:
                header = io.StringIO(newline="")
                csv.writer(header, lineterminator="\n").writerow(table.column_names)  # pyarrow would quote all of it
                file.write(header.getvalue().encode())
                writer = CSVWriter(file, table.schema, write_options=WriteOptions(include_header=False))
            writer.write_table(table)
        if writer is not None:
            writer.close()
    return {name: name}


def _prediction_table(part: Detections):
    """The rows of a part as a pyarrow table."""
    import pyarrow

    classes = pyarrow.array(CLASSES)

    def named(fraud: np.ndarray):
        return classes.take(pyarrow.array(fraud.astype(np.int8)))

    unknown = pyarrow.nulls(len(part), classes.type)
    columns = {
        "id": part.ids,
        **part.columns,
        "truth": unknown if part.truth is None else named(part.truth),
        "prediction": named(part.probabilities >= part.threshold),
        "prediction_at_half": named(part.probabilities >= HALF),
        "probability": part.probabilities,
    }
    return pyarrow.table({name: pyarrow.array(values) for name, values in columns.items()})


def error_cards(detections: Detections, features: np.ndarray, columns: list[str], count: int = 10) -> list[str]:
    """The worst errors as HTML: `count` missed frauds, the least suspected first, then false alarms, the surest first.

    features: standardised, float [N, F], of the F `columns`; a card shows those that are farthest from their mean.
    """
    if detections.truth is None:
        return []
    fraud, probabilities = detections.truth == 1, detections.probabilities
    called = probabilities >= detections.threshold
    missed, alarms = np.flatnonzero(fraud & ~called), np.flatnonzero(~fraud & called)
    cards = []
    for kind, rows, order in (
        ("Missed fraud", missed, probabilities[missed]),
        ("False alarm", alarms, -probabilities[alarms]),
    ):
        for row in rows[np.argsort(order, kind="stable")[:count]]:
            farthest = np.argsort(-np.abs(features[row]), kind="stable")[:FARTHEST]
            facts = [
                ("Probability of fraud", f"{probabilities[row]:.4g} (threshold {detections.threshold:.4g})"),
                *((name, f"{values[row]}") for name, values in detections.columns.items()),
                ("Id", f"{detections.ids[row]}"),
                (
                    "Farthest from the mean (standard deviations)",
                    ", ".join(f"{columns[c]} {features[row, c]:+.1f}" for c in farthest),
                ),
            ]
            cards.append(report.card(kind, facts))
    return cards


def draw_plots(
    results: dict,
    splits: dict[str, Detections],
    others: dict[str, dict[str, np.ndarray]],
    output_dir: Path,
    *,
    before: Mapping[str, int] | None = None,
    after: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """Draws what the report shows; returns file names for results.json.

    Examples by class and split, and `before` and `after` resampling (class -> rows; None: nothing was resampled), loss
    and AUPRC while training; of each split with truth the scores by class and the confusion at both thresholds, and, if
    it has both classes, precision-recall and ROC curves, the calibration, and precision, recall and F1 by threshold.

    Args:
        others: split -> name of another model -> its probabilities [N], for curves beside those of the model.
    """
    folder, drawn = output_dir / "plots", []
    counts = {name: split.get("label_counts", {}) for name, split in results["data"]["splits"].items()}
    if any(counts.values()):
        drawn.append(plotting.class_counts(counts, folder / "class_counts.png", title="Examples by class"))
    if before and after:
        table = {"before resampling": before, "after resampling": after}
        drawn.append(plotting.class_counts(table, folder / "resampling.png", title="Resampling"))
    if results["history"]:
        series = {"train": "loss", "validation": "eval_loss"}
        drawn.append(plotting.curves(results["history"], folder / "loss.png", title="Loss", series=series))
        series, title = {"validation": "eval_auprc"}, "Area under precision-recall (%)"
        drawn.append(plotting.curves(results["history"], folder / "auprc.png", title=title, series=series))
    for name, split in splits.items():
        if split.truth is not None:
            drawn += _draw_split(name, split, others.get(name, {}), folder)
    for name, found in results["confusion"].items():
        split, half, _ = name.partition(AT_HALF)
        path = folder / f"{split}_{'at_half_' if half else ''}confusion.png"
        title = f"Confusion{f' at {HALF}' if half else ''} ({split})"  # short: the picture is narrow
        drawn.append(plotting.confusion_matrix(found["labels"], found["matrix"], path, title=title))
    return {path.stem: str(path.relative_to(output_dir)) for path in drawn}


def _draw_split(name: str, split: Detections, others: Mapping[str, np.ndarray], folder: Path) -> list[Path]:
    """The pictures of one split; curves only where it has both classes."""
    truth, threshold = split.truth, split.threshold
    groups = {kind: split.probabilities[truth == index] for index, kind in enumerate(CLASSES)}
    scores = plotting.histogram(
        None,
        folder / f"{name}_scores.png",
        title=f"Probability of fraud by class ({name})",
        xlabel="probability of fraud",
        cutoff=threshold,
        cutoff_label=f"threshold {threshold:.4g}",
        groups=groups,
    )
    if not all(map(len, groups.values())):
        return [scores]
    models = {"this model": split.probabilities, **others}
    recalls, rocs = {}, {}
    for model, probabilities in models.items():
        values = summary(truth, probabilities, threshold)
        found, alarms = _corners(*sweep(truth, probabilities)[1:])
        recall = found / found[-1]
        recalls[f"{model}: {values['auprc']:.2f} %"] = recall[1:], found[1:] / (found + alarms)[1:]
        rocs[f"{model}: {values['roc_auc']:.2f} %"] = alarms / alarms[-1], recall
    marks = {}
    for at in (threshold, HALF):
        (_, wrong), (missed, hits) = confusion(truth, split.probabilities, at)
        if hits:
            marks[f"threshold {at:.4g}"] = hits / (hits + missed), hits / (hits + wrong)
    thresholds, figures = _by_threshold(truth, split.probabilities)
    return [
        plotting.lines(
            recalls,
            folder / f"{name}_precision_recall.png",
            title=f"Precision-recall, average precision ({name})",
            xlabel="recall",
            ylabel="precision",
            points=marks,
        ),
        plotting.lines(
            rocs,
            folder / f"{name}_roc.png",
            title=f"ROC, area under it ({name})",
            xlabel="false alarms per legitimate row",
            ylabel="recall",
            diagonal=True,
        ),
        scores,
        plotting.lines(
            {model: _calibration(truth, probabilities) for model, probabilities in models.items()},
            folder / f"{name}_calibration.png",
            title=f"Calibration ({name})",
            xlabel="mean probability of fraud",
            ylabel="share of frauds",
            diagonal=True,
            logarithmic=True,
        ),
        plotting.threshold_curve(
            thresholds,
            figures,
            folder / f"{name}_by_threshold.png",
            title=f"Precision, recall and F1 by threshold ({name})",
            xlabel="threshold",
            ylabel="percent",
            marks={"chosen": threshold, "half": HALF},
        ),
    ]


def _corners(found: np.ndarray, alarms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A sweep without the points on horizontal lines of the ROC curve, which are almost all where frauds are rare."""
    steps = np.diff(found, append=found[-1] + 1) > 0
    kept = steps | np.roll(steps, 1)  # before and after each fraud; the first and the last
    return found[kept], alarms[kept]


def _calibration(truth: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean probability and share of frauds of rows in bins of equally many frauds.

    In bins of equally many rows, where one in 600 is fraud, all but the last would have next to none.
    """
    scores = probabilities[truth == 1]
    bins = min(max(len(scores) // IN_BIN, 1), IN_BIN)
    edges = np.unique(np.quantile(scores, np.arange(1, bins) / bins))
    of = np.searchsorted(edges, probabilities, "right")
    rows = np.bincount(of, minlength=len(edges) + 1)
    with np.errstate(invalid="ignore"):  # nothing is below the first bound
        return np.bincount(of, probabilities, len(rows)) / rows, np.bincount(of, truth, len(rows)) / rows


def _by_threshold(truth: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Precision, recall and F1 (percent; precision NaN where nothing is called fraud) at evenly spaced thresholds."""
    thresholds = np.linspace(0, 1, STEPS + 1)
    order = np.sort(probabilities), np.sort(probabilities[truth == 1])
    called, found = (len(part) - np.searchsorted(part, thresholds) for part in order)
    frauds = len(order[1])
    with np.errstate(invalid="ignore"):
        figures = found / called, found / frauds, 2 * found / (called + frauds)
    return thresholds, {name: 100 * values for name, values in zip(("precision", "recall", "F1"), figures)}
