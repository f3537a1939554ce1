"""Emotions: segments and copies of recordings, their scores put together again, what the report shows of the data."""

import re

import datasets

from common.classification import copied_rows, oversampled_rows, score_predictions
from common.errors import UserError, write_csv, write_json
from common.labels import canonical
from common.report import plots
from common.speech.corpora import EMOTIONS
from common.speech.results import (
    add_roc_auc,
    by_recording,
    draw_data,
    draw_spectrograms,
    labels_of,
    loss_sentence,
    predictions_of,
    write_clips,
)
from common.speech.splits import cut_segments, recordings_table, shorten

UAR = "unweighted_average_recall"


def cut_and_copied(clips: datasets.Dataset, name: str, args) -> datasets.Dataset:
    """The segments of a split's recordings; of training data also the copies, and of long ones only the beginning."""
    timed = None not in clips["seconds"][:]
    if args.segment_seconds and timed:
        clips = cut_segments(clips, args.segment_seconds)
    if name != "train":
        return clips
    clips = shorten(clips, args.max_seconds) if timed else clips
    if args.oversample:
        return clips.select(oversampled_rows(labels_of(clips), args.oversample, args.split_seed))
    return clips.select(copied_rows(labels_of(clips), copy_factors(args.copies, clips.features["labels"].names)))


def copy_factors(copies: list[str], names: list[str]) -> dict[int, int]:
    """Class -> how often each of its clips is there, of `--copies fear=15`; raises `UserError`."""
    factors = {}
    for part in copies:
        name, _, factor = part.partition("=")
        if not re.fullmatch(r"[1-9]\d{0,2}", factor):
            raise UserError(f"--copies {part}: must be a class and a whole number up to 999, as in fear=15")
        if (name := canonical(name, EMOTIONS)) not in names:
            raise UserError(f"--copies {part}: there is no such class, only {', '.join(names)}")
        if names.index(name) in factors:
            raise UserError(f"--copies {part}: names the class {name} twice; give each class once")
        factors[names.index(name)] = int(factor)
    return factors


def scored(clips: dict, outputs: dict, losses: dict, labels: list[str], run) -> tuple:
    """(The scores for results.json, predictions, the clips that these are of, further facts): by recording."""
    honest, predictions, wholes, by_segment = run.args.protocol == "honest", {}, {}, {}
    for name, output in outputs.items():
        found = output.predictions
        segments = predictions_of(clips[name], found, labels)
        wholes[name], found = by_recording(clips[name], found) if honest else (clips[name], found)
        predictions[name] = predictions_of(wholes[name], found, labels)
        if len(wholes[name]) < len(clips[name]) and segments.targets is not None:
            right = 100 * (segments.predicted == segments.targets).mean()
            by_segment[name] = {"segments": len(clips[name]), "accuracy": f"{right:.2f} %"}
    targets = labels_of(clips["train"]) if "train" in clips else None
    options = {"headline_metric": UAR, "train_targets": targets, "names": {"recall": UAR}}
    scores = score_predictions(predictions, losses, **options)
    add_roc_auc(scores, predictions)
    return scores, predictions, wholes, {"scored by segment": by_segment} if by_segment else {}


def tables_of(splits, scores: dict, published: tuple | None) -> list[dict]:
    """The first and last recordings; precision, recall and F1 by class, the published ones beside ours.

    Args:
        published: of each, the percentages by class and then their averages, in one text.
    """
    head, rows = recordings_table(splits)
    shown = rows if len(rows) <= 10 else [*rows[:5], *rows[-5:]]
    tables = [{"title": f"The first and last of {len(rows):,} recordings", "head": head, "rows": shown}]
    if published is None or not scores["headline"]:
        return tables
    ours, head = scores["per_class"][scores["headline"]["split"]], ["class", "support"]
    lines = [[name, f"{row['support']:,}"] for name, row in ours.items()]
    for name, values in zip(("precision", "recall", "f1"), published):
        head += [f"{name}, ours", f"{name}, published"]
        for line, row, value in zip(lines, ours.values(), values.split()):
            line += [f"{100 * row[name]:.0f} %" if row[name] is not None else "n/a", f"{value} %"]
    return [*tables, {"title": "Classes beside the published ones", "head": head, "rows": lines}]


def write_emotions(results: dict, predictions: dict, wholes: dict, clips: dict, splits, run) -> tuple:
    """Writes predictions, recordings.csv and plots; returns files, error cards and their title."""
    folder, drawn = run.output_dir / "plots", []
    if sentence := loss_sentence(results["history"]):
        results["protocol"]["notes"].append(sentence)
    if results["history"]:
        series = {"training set": f"train_{UAR}", "validation": f"eval_{UAR}"}
        title = "Unweighted average recall"
        drawn.append(plots.curves(results["history"], folder / "recall", title=title, series=series))
    if "train" in clips:
        drawn.append(draw_spectrograms(splits["train"], folder))
    if any(len(clips[name]) > len(splits[name]) for name in clips):
        drawn += draw_data(clips, folder, ", as trained on")
    write_csv(run.output_dir / "recordings.csv", *recordings_table(splits))
    files, *cards = write_clips(results, predictions, wholes, splits, run.output_dir, drawn)
    return files | {"recordings": "recordings.csv"}, *cards


def publish_data(splits, run) -> dict:
    """--data_only: writes data.json, recordings.csv and the plots, prints the counts; returns what data.json has."""
    run.describe(splits)
    content = {**run.data, "leaks": run.leak_sentences, "notes": run.notes + run.warnings}
    if run.is_main:
        run.output_dir.mkdir(parents=True, exist_ok=True)
        drawn = draw_data(splits, run.output_dir / "plots")
        recordings = write_csv(run.output_dir / "recordings.csv", *recordings_table(splits))
        content["files"] = {path.stem: str(path.relative_to(run.output_dir)) for path in (*drawn, recordings)}
        path = write_json(run.output_dir / "data.json", content)
        for name, facts in splits.facts.items():
            counts = ", ".join(f"{label} {count:,}" for label, count in facts.get("label_counts", {}).items())
            print(f"{name}: {facts['examples']:,} ({counts})")
        print(*(f"LEAKS: {sentence}" for sentence in run.leak_sentences), *run.notes, f"data: {path}", sep="\n")
    return content
