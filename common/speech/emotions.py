"""Emotions: segments and copies of recordings, their scores put together again, what the report shows of the data."""

import re

import pandas as pd

from common.classification import score_predictions
from common.data import label_counts
from common.errors import UserError, write_csv
from common.labels import canonical
from common.report import plots
from common.speech.corpora import EMOTIONS
from common.speech.results import add_roc_auc, by_recording, draw_spectrograms, labels_of, predictions_of, write_clips
from common.speech.splits import recordings_table

UAR = "unweighted_average_recall"


def copy_factors(copies: list[str], names: list[str]) -> dict[int, int]:
    """Class -> how often each of its clips is there, of `--copies fear=15`; raises `UserError`."""
    factors = {}
    for part in copies:
        name, _, factor = part.partition("=")
        name = canonical(name, EMOTIONS)
        if not re.fullmatch(r"[1-9]\d{0,2}", factor) or name not in names or names.index(name) in factors:
            form = "give classes, each once, with whole numbers up to 999, as in fear=15"
            raise UserError(f"--copies {part}: {form}; there are {', '.join(names)}")
        factors[names.index(name)] = int(factor)
    return factors


def scored(clips: dict, outputs: dict, losses: dict, labels: list[str], run) -> tuple:
    """(The scores for results.json, predictions, the clips that these are of): by recording."""
    predictions, wholes = {}, dict(clips)
    for name, output in outputs.items():
        logits = output.predictions
        if run.args.protocol == "honest":
            wholes[name], logits = by_recording(clips[name], logits)
        predictions[name] = predictions_of(wholes[name], logits, labels)
    targets = labels_of(clips["train"]) if "train" in clips else None
    options = {"headline_metric": UAR, "train_targets": targets, "names": {"recall": UAR}}
    scores = score_predictions(predictions, losses, **options)
    add_roc_auc(scores, predictions)
    return scores, predictions, wholes


def beside_published(scores: dict, published: tuple | None) -> list[dict]:
    """A table of precision, recall and F1 by class; `published`: of each, percentages by class and averages as text."""
    if published is None or not scores["headline"]:
        return []
    ours, head = scores["per_class"][scores["headline"]["split"]], ["class", "support"]
    lines = [[name, f"{row['support']:,}"] for name, row in ours.items()]
    for name, values in zip(("precision", "recall", "f1"), published):
        head += [f"{name}, ours", f"{name}, published"]
        for line, row, value in zip(lines, ours.values(), values.split()):
            line += [f"{100 * row[name]:.0f} %" if row[name] is not None else "n/a", f"{value} %"]
    return [{"title": "Classes beside the published ones", "head": head, "rows": lines}]


def loss_sentence(history: list[dict]) -> str | None:
    """When the validation loss was lowest, and how far it has risen since; None where there is none."""
    losses = {row["epoch"]: row["eval_loss"] for row in history if row.get("eval_loss") is not None}
    if not losses:
        return None
    epoch, last = min(reversed(losses), key=losses.get), [*losses][-1]
    since = f", and has risen by {losses[last] - losses[epoch]:.2g} since" if last != epoch else ", the last"
    return f"the validation loss was lowest at epoch {epoch:.3g} ({losses[epoch]:.4f}){since}"


def write_emotions(results: dict, predictions: dict, wholes: dict, clips: dict, splits, run) -> tuple:
    """Writes predictions, recordings.csv and plots; returns files, error cards and their title."""
    folder, drawn = run.output_dir / "plots", []
    if sentence := loss_sentence(results["history"]):
        results["protocol"]["notes"].append(sentence)
    if results["history"]:
        options = {"series": {"training set": f"train_{UAR}", "validation": f"eval_{UAR}"}}
        drawn.append(plots.curves(results["history"], folder / "recall", title="Unweighted average recall", **options))
    if "train" in clips:
        drawn.append(draw_spectrograms(splits["train"], folder))
    if any(len(clips[name]) > len(splits[name]) for name in clips):
        counts = {name: label_counts(part) or {} for name, part in clips.items()}
        title = "Segments and copies by class"
        drawn.append(plots.class_counts(counts, folder / "class_counts_as_trained_on", title=title))
    head, rows = recordings_table(splits)
    write_csv(run.output_dir / "recordings.csv", head, rows)
    durations = pd.DataFrame(rows, columns=head).fillna({"label": "unknown"}).groupby("label")["seconds"]
    options = {"title": "Durations", "xlabel": "seconds", "groups": dict(durations.apply(list))}
    drawn.append(plots.histogram(None, folder / "durations", **options))
    files, *cards = write_clips(results, predictions, wholes, run.output_dir, drawn)
    return files | {"recordings": "recordings.csv"}, *cards
