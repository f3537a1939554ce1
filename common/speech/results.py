"""What the scripts on recordings leave behind: scores by recording, plots of the data, players of the errors."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import datasets
import numpy as np

from common.report import page, plots
from common.speech.audio import RATE, load_clip

GROUPS = 12  # different values of a column, at most, for results by them
NUMBERS = ("utterance", "index", "number", "take")  # parts of names that say nothing of a recording
OWN = ("id", "recording", "path", "audio", "start", "end", "seconds", "speaker", "labels", "text", "digest", "split")
PLAYED = 20.0  # seconds of a clip that a card plays at most
USAGE = """\
import librosa
from transformers import pipeline
{imports}
model = pipeline("{task}", model="{model}")
waveform, _ = librosa.load("clip.wav", sr=16000)  # a path alone would need ffmpeg
print(model(waveform{settings}))
"""


def usage(model, task: str, args, settings: str = "") -> str:
    """Python code that loads the model of a run in a plain pipeline."""
    own = model.config.model_type in ("pooled-speech-classifier", "recurrent-ctc")
    imports = "\nimport common.speech.heads  # of the training scripts: pipeline knows this head by it\n" if own else ""
    name = args.training_args.output_dir if args.training_args.do_train else args.model
    return USAGE.format(imports=imports, task=task, model=name, settings=settings)


def labels_of(clips: datasets.Dataset) -> np.ndarray:
    """int64 [N]: the classes."""
    return np.array(clips["labels"][:], dtype=np.int64)


def predictions_of(clips: datasets.Dataset, logits: np.ndarray, labels: list[str]):
    """The predictions of a split, with what is known of its clips beside them (`classification.Predictions`)."""
    from common.classification import Predictions

    columns = {"seconds": [f"{seconds:.2f}" for seconds in clips["seconds"][:]]} | known_of(clips, ("speaker",))
    targets = labels_of(clips) if "labels" in clips.column_names else None
    return Predictions(labels, logits, targets, clips["id"][:], columns, groups_of(clips))


def seconds_of_splits(splits: Mapping[str, datasets.Dataset]) -> dict[str, np.ndarray]:
    """Split -> float64 [N]: the length of each clip."""
    return {name: np.array(clips["seconds"][:], dtype=np.float64) for name, clips in splits.items()}


def known_of(clips: datasets.Dataset, names: Iterable[str]) -> dict[str, list[str]]:
    """Columns of texts that are not empty throughout; "" where unknown."""
    found = {name: [value or "" for value in clips[name][:]] for name in names if name in clips.column_names}
    return {name: values for name, values in found.items() if any(values)}


def groups_of(clips: datasets.Dataset) -> dict[str, list[str]]:
    """The columns with few different values (gender, not the number of a recording), by which results are grouped."""
    found = known_of(clips, (name for name in clips.column_names if name not in (*OWN, *NUMBERS)))
    return {name: values for name, values in found.items() if 1 < len(set(values)) <= GROUPS}


def by_recording(clips: datasets.Dataset, logits: np.ndarray) -> tuple[datasets.Dataset, np.ndarray]:
    """Whole recordings, in order of appearance, and for each [C] the logarithm of its segments' mean probabilities.

    The id is the recording's, the segments' seconds are summed up to their last end.
    """
    first, of = np.unique(clips["recording"][:], return_index=True, return_inverse=True)[1:]
    shares = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    means = np.zeros((len(first), logits.shape[1]))
    np.add.at(means, of, shares / shares.sum(axis=1, keepdims=True))
    ends, order = np.zeros(len(first)), np.argsort(first)
    seconds = np.array(clips["start"][:]) + np.array(clips["seconds"][:])
    np.maximum.at(ends, of, seconds)
    whole = clips.select(first[order])
    columns = {"id": whole["recording"][:], "end": ends[order].tolist()}
    columns["seconds"] = (ends[order] - np.array(whole["start"][:])).tolist()
    whole = whole.remove_columns(list(columns))
    for name, values in columns.items():
        whole = whole.add_column(name, values)
    return whole, np.log(np.maximum(means[order] / np.bincount(of)[order, None], 1e-30))


def player(clips: datasets.Dataset, row: int) -> str:
    """HTML that plays a clip, at most `PLAYED` seconds of it."""
    import soundfile

    clip = clips[int(row)]
    buffer, end = io.BytesIO(), clip["start"] + min(clip["seconds"], PLAYED)
    soundfile.write(buffer, load_clip(clip | {"end": end}), RATE, format="MP3")
    return page.player(buffer.getvalue())


def loss_sentence(history: Iterable[Mapping]) -> str | None:
    """When the validation loss was lowest, and how far it has risen since; None where there are no two of it."""
    key = "eval_loss"
    points = [(row["epoch"], row[key]) for row in history if row.get(key) is not None and "epoch" in row]
    if len(points) < 2:
        return None
    (epoch, lowest), last = min(points, key=lambda point: point[1]), points[-1][1]
    since = "and has not risen since" if last == lowest else f"and has risen by {last - lowest:.4f} since"
    return f"the validation loss was lowest at epoch {epoch:.3g} ({lowest:.4f}) {since}"


def shapes_table(batch: Mapping, outputs: Mapping) -> dict:
    """For the report: what goes into the model and comes out of it, of one batch."""
    shapes = {name: tensor.shape for name, tensor in batch.items()} | {"logits": outputs["logits"].shape}
    rows = [[name, " x ".join(map(str, shape))] for name, shape in shapes.items()]
    return {"title": "Shapes of a batch", "head": ["tensor", "shape"], "rows": rows}


def add_roc_auc(scores: dict, predictions: Mapping) -> None:
    """Adds the area under ROC of each class against the rest (fractions, with intervals), and their mean, in place."""
    from sklearn.metrics import roc_auc_score

    from common.metrics.intervals import auroc_interval
    from common.results import plain_metric

    for name, rows in scores["per_class"].items():
        split, areas = predictions[name], []
        for number, label in enumerate(split.labels):
            truth, shares = split.targets == number, split.probabilities[:, number]
            area = float(roc_auc_score(truth, shares)) if 0 < truth.sum() < len(truth) else None
            low, high = auroc_interval(truth, shares)
            rows[label] |= {"roc_auc": area, "roc_auc_low": low, "roc_auc_high": high}
            areas += [] if area is None else [area]
        if areas:
            scores["metrics"][name]["roc_auc"] = plain_metric(np.mean(areas), "score") | {"average": "macro"}
            scores["baseline"][name]["metrics"]["roc_auc"] = plain_metric(0.5, "score")


def write_classes(
    results: dict, predictions: Mapping, clips: Mapping, splits: Mapping, output_dir: Path, drawn: Iterable[Path]
) -> tuple:
    """Writes predictions and plots, of results and data, beside those `drawn` already; returns (files, error cards).

    Args:
        clips: split -> what the predictions are of. splits: split -> its recordings.
    """
    from common.classification import draw_plots, error_cards, write_predictions

    files: dict[str, str] = {}
    for name, prefix in (("validation", ""), ("test", "test_")):
        if name in predictions:
            files |= write_predictions(output_dir, prefix, predictions[name])
    drawn = [*drawn, *draw_data(splits, output_dir / "plots")]
    files |= draw_plots(results, output_dir) | {path.stem: str(path.relative_to(output_dir)) for path in drawn}
    if not results["headline"]:
        return files, []
    name = results["headline"]["split"]
    return files, error_cards(predictions[name], player=lambda row: player(clips[name], row))


# Plots


def draw_data(splits: Mapping[str, datasets.Dataset], folder: Path, words: str = "") -> list[Path]:
    """Durations, shares of the classes, and classes by gender, by split; `words` are added to titles and file names."""
    suffix, splits = words.replace(",", "").replace(" ", "_"), dict(splits)
    drawn, timed = [], {name: part for name, part in splits.items() if None not in part["seconds"][:]}
    classed = {name: part for name, part in splits.items() if "labels" in part.column_names}
    if len(classed) < len(splits):
        groups = {name: np.array(part["seconds"][:]) for name, part in timed.items()}
        labels = {"title": f"Durations{words}", "xlabel": "seconds"}
        drawn.append(plots.histogram(None, folder / f"durations{suffix}", groups=groups, **labels))
    if not classed:
        return drawn
    names = next(iter(classed.values())).features["labels"].names
    quartiles: dict[str, dict] = {}
    for split, part in timed.items() if len(classed) == len(splits) else ():
        seconds, labels = np.array(part["seconds"][:]), labels_of(part)
        for number, label in enumerate(names):
            own = seconds[labels == number]
            quartiles.setdefault(label, {})[split] = np.quantile(own, [0.25, 0.5, 0.75]) if len(own) else None
    if quartiles:
        middle = {k: {s: None if q is None else q[1] for s, q in row.items()} for k, row in quartiles.items()}
        ends = {k: {s: None if q is None else (q[0], q[2]) for s, q in row.items()} for k, row in quartiles.items()}
        labels = {"title": f"Durations by class{words}", "ylabel": "seconds (median, quartiles)"}
        drawn.append(plots.grouped_bars(middle, folder / f"durations{suffix}", low_high=ends, **labels))
    counts = {split: np.bincount(part["labels"][:], minlength=len(names)) for split, part in classed.items()}
    by_name = {split: dict(zip(names, count.tolist())) for split, count in counts.items()}
    drawn.append(plots.class_counts(by_name, folder / f"class_counts{suffix}", title=f"Examples by class{words}"))
    shares = {n: {s: 100 * c[i] / max(c.sum(), 1) for s, c in counts.items()} for i, n in enumerate(names)}
    labels = {"title": f"Share of each class{words}", "ylabel": "% of the split"}
    drawn.append(plots.grouped_bars(shares, folder / f"class_shares{suffix}", **labels))
    genders: dict[str, dict[str, int]] = {}
    for part in classed.values():
        for gender, label in zip(known_of(part, ("gender",)).get("gender", ()), part["labels"][:]):
            of_gender = genders.setdefault(gender or "unknown", dict.fromkeys(names, 0))
            of_gender[names[label]] += 1
    if genders:
        title = f"Class and gender{words}"
        drawn.append(plots.class_counts(dict(sorted(genders.items())), folder / f"gender{suffix}", title=title))
    return drawn


def draw_spectrograms(clips: datasets.Dataset, folder: Path) -> Path:
    """Mel spectrograms (dB) of one clip of each class, the one of median length."""
    import librosa
    from matplotlib.figure import Figure

    names = clips.features["labels"].names
    seconds, labels = np.array(clips["seconds"][:]), labels_of(clips)
    rows = {name: np.flatnonzero(labels == number) for number, name in enumerate(names)}
    chosen = {name: own[np.argsort(seconds[own])[len(own) // 2]] for name, own in rows.items() if len(own)}
    figure = Figure(figsize=(8, 1.7 * ((len(chosen) + 1) // 2) + 0.4), layout="constrained", facecolor="none")
    panels = figure.subplots((len(chosen) + 1) // 2, 2, squeeze=False).ravel()
    for axes, (name, row) in zip(panels, chosen.items()):
        power = librosa.feature.melspectrogram(y=load_clip(clips[int(row)]), sr=RATE, n_mels=64)
        librosa.display.specshow(librosa.power_to_db(power, ref=np.max), sr=RATE, x_axis="time", y_axis="mel", ax=axes)
        axes.set_title(plots.plain(name), loc="left", fontsize=11, color=plots.INK)
        axes.set(xlabel="", ylabel="")
    for axes in panels[len(chosen) :]:
        axes.set_axis_off()
    return plots.save(figure, folder / "spectrograms")
