"""What the scripts on recordings leave behind: scores by recording, plots of the data, players of the errors."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import datasets
import librosa
import numpy as np
import pandas as pd
import soundfile
from matplotlib.figure import Figure
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from common.classification import Predictions, write_classes
from common.report import page, plots
from common.results import plain_metric
from common.speech.audio import RATE, load_clip
from common.speech.splits import with_columns

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


def predictions_of(clips: datasets.Dataset, logits: np.ndarray, labels: list[str]) -> Predictions:
    """The predictions of a split, with what is known of its clips beside them."""
    columns = {"seconds": [f"{seconds:.2f}" for seconds in clips["seconds"][:]]} | known_of(clips, ("speaker",))
    targets = labels_of(clips) if "labels" in clips.column_names else None
    return Predictions(labels, logits, targets, clips["id"][:], columns, groups_of(clips))


def known_of(clips: datasets.Dataset, names: Iterable[str]) -> dict[str, list[str]]:
    """Columns of texts that are not empty throughout; "" where unknown."""
    found = {name: [value or "" for value in clips[name][:]] for name in names if name in clips.column_names}
    return {name: values for name, values in found.items() if any(values)}


def groups_of(clips: datasets.Dataset) -> dict[str, list[str]]:
    """The columns with few different values (gender, not the number of a recording), by which results are grouped."""
    found = known_of(clips, (name for name in clips.column_names if name not in (*OWN, *NUMBERS)))
    return {name: values for name, values in found.items() if 1 < len(set(values)) <= GROUPS}


def by_recording(clips: datasets.Dataset, logits: np.ndarray) -> tuple[datasets.Dataset, np.ndarray]:
    """Whole recordings, in order of appearance, and for each [C] the logarithm of its segments' mean probabilities."""
    of, ends = clips["recording"][:], np.array(clips["start"][:]) + np.array(clips["seconds"][:])
    rows = pd.DataFrame({"first": range(len(of)), "end": ends}).groupby(of, sort=False)
    means = pd.DataFrame(softmax(logits.astype(np.float64), axis=1)).groupby(of, sort=False).mean()
    whole, ends = clips.select(rows["first"].min()), rows["end"].max()
    columns = {"id": [*ends.index], "end": ends.tolist(), "seconds": (ends - whole["start"][:]).tolist()}
    return with_columns(whole, columns), np.log(np.maximum(means.to_numpy(), 1e-30))


def player(clips: datasets.Dataset, row: int) -> str:
    """HTML that plays a clip, at most `PLAYED` seconds of it."""
    clip = clips[int(row)]
    buffer, end = io.BytesIO(), clip["start"] + min(clip["seconds"], PLAYED)
    soundfile.write(buffer, load_clip(clip | {"end": end}), RATE, format="MP3")
    return page.player(buffer.getvalue())


def shapes_table(batch: Mapping, outputs: Mapping) -> dict:
    """For the report: what goes into the model and comes out of it, of one batch."""
    shapes = {name: tensor.shape for name, tensor in batch.items()} | {"logits": outputs["logits"].shape}
    rows = [[name, " x ".join(map(str, shape))] for name, shape in shapes.items()]
    return {"title": "Shapes of a batch", "head": ["tensor", "shape"], "rows": rows}


def add_roc_auc(scores: dict, predictions: Mapping) -> None:
    """Adds the area under ROC of each class against the rest (fractions), and their mean, in place."""
    for name, rows in scores["per_class"].items():
        split, areas = predictions[name], []
        for number, label in enumerate(split.labels):
            truth, rows[label]["roc_auc"] = split.targets == number, None
            if 0 < truth.sum() < len(truth):
                rows[label]["roc_auc"] = float(roc_auc_score(truth, split.probabilities[:, number]))
                areas.append(rows[label]["roc_auc"])
        if areas:
            scores["metrics"][name]["roc_auc"] = plain_metric(np.mean(areas), "score") | {"average": "macro"}
            scores["baseline"][name]["metrics"]["roc_auc"] = plain_metric(0.5, "score")


def write_clips(results: dict, predictions: Mapping, clips: Mapping, output_dir: Path, drawn: Iterable[Path]) -> tuple:
    """`classification.write_classes`, with players, beside the plots `drawn` already."""
    played = clips[results["headline"]["split"]] if results["headline"] else None
    files, *cards = write_classes(results, predictions, output_dir, player=lambda row: player(played, row))
    return files | {path.stem: str(path.relative_to(output_dir)) for path in drawn}, *cards


def draw_spectrograms(clips: datasets.Dataset, folder: Path) -> Path:
    """Mel spectrograms (dB) of the first clip of each class."""
    labels = labels_of(clips).tolist()
    chosen = {clips.features["labels"].names[label]: labels.index(label) for label in sorted({*labels})}
    figure = Figure(figsize=(6, 1.7 * len(chosen) + 0.4), layout="constrained", facecolor="none")
    for axes, (name, row) in zip(figure.subplots(len(chosen), squeeze=False).ravel(), chosen.items()):
        power = librosa.feature.melspectrogram(y=load_clip(clips[row]), sr=RATE, n_mels=64)
        librosa.display.specshow(librosa.power_to_db(power, ref=np.max), sr=RATE, x_axis="time", y_axis="mel", ax=axes)
        axes.set_title(plots.plain(name), loc="left", fontsize=11, color=plots.INK)
        axes.set(xlabel="", ylabel="")
    return plots.save(figure, folder / "spectrograms")
