"""Results of the scripts on recordings: scores by class and utterance, files, plots, and cards that play the errors.

Not for scores, plots and cards of classes (`common.classification`) and transcripts (`common.recognition`) as such.
"""

import io
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from common import plotting, recognition, report
from common import results as facts
from common.audio import RATE, decode
from common.classification import Predictions, draw_plots, error_cards, judge, write_predictions
from common.model_card import write_model_card
from common.recognition import Transcriptions
from common.recordings import Recordings
from common.task import ACCURACIES, LOSSES

UAR = "unweighted_average_recall"
WERS = {"train set": "eval_train_wer", "validation": "eval_validation_wer"}
NUMBERS = ("utterance", "index", "number", "take")  # parts of names that say nothing of a recording
GROUPS = 12  # different values of a column, at most, for results by them
HEARD = 20.0  # seconds of a clip that a card plays at most
AUDIO_USAGE = """\
from transformers import pipeline

classifier = pipeline("audio-classification", model="{model}")
print(classifier("{clip}", top_k=None))  # every class with its probability
"""


def judged_classes(
    splits: dict[str, Recordings], logits: dict[str, np.ndarray], measured: dict, *, headline_metric: str
) -> tuple[dict, dict[str, Predictions]]:
    """The parts of results.json about scores, and the predictions of each evaluated split."""
    predictions = {
        name: Predictions(
            labels=list(splits[name].names),
            logits=found,
            targets=splits[name].labels,
            ids=splits[name].ids,
            columns=shown(splits[name]),
            groups=groups_of(splits[name]),
        )
        for name, found in logits.items()
    }
    train = splits["train"].labels if "train" in splits else None
    return judge(predictions, measured, headline_metric=headline_metric, train_targets=train), predictions


def by_utterance(recordings: Recordings, logits: np.ndarray) -> tuple[Recordings, np.ndarray]:
    """Whole utterances, and for each [C] the logarithm of its segments' mean probabilities, in order of appearance.

    Recordings that are no segments come back as they are, with their logits.
    """
    if recordings.utterances == recordings.ids:
        return recordings, logits
    first = {utterance: row for row, utterance in reversed(list(enumerate(recordings.utterances)))}
    rows = np.array(sorted(first.values()))
    place = {recordings.utterances[row]: at for at, row in enumerate(rows)}
    of = np.array([place[utterance] for utterance in recordings.utterances])
    shares = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    means = np.zeros((len(rows), logits.shape[1]))
    np.add.at(means, of, shares)
    means /= np.bincount(of)[:, None]
    ends = np.zeros(len(rows))
    np.maximum.at(ends, of, recordings.ends)
    whole = recordings.take(rows)
    return replace(whole, ids=whole.utterances, ends=ends), np.log(np.maximum(means, 1e-30))


def utterance_score(kept: tuple[np.ndarray, ...], dataset) -> dict[str, float]:
    """Metrics over utterances, whose segments' probabilities are averaged; for `common.trainer.Head`."""
    return {} if dataset.targets is None else utterance_figures(*by_utterance(dataset.examples, kept[0]))


def utterance_figures(recordings: Recordings, logits: np.ndarray) -> dict[str, float]:
    """Accuracy, macro F1 and unweighted average recall, in percent."""
    from common.metrics.classification.classification import summary

    found = summary(recordings.labels, logits.argmax(axis=1), logits.shape[1])
    return {"accuracy": found["accuracy"], "f1": found["f1"], UAR: found["recall"]}


def groups_of(recordings: Recordings) -> dict[str, list[str]]:
    """The columns with few different values (gender, not the number of a recording), by which results are grouped."""
    columns = {name: values for name, values in recordings.columns.items() if name not in NUMBERS}
    return {name: values for name, values in columns.items() if 1 < len(set(values)) <= GROUPS}


def name_recall(judgement: dict) -> None:
    """Calls the macro recall what the field calls it, in place."""
    baselines = [baseline["metrics"] for baseline in judgement["baseline"].values()]
    for metrics in (*judgement["metrics"].values(), *baselines):
        metrics[UAR] = {key: value for key, value in metrics.pop("recall").items() if key != "average"}
    if judgement["headline"]:
        judgement["headline"]["metric"] = UAR


def by_gender(groups: dict, splits: dict) -> None:
    """Adds the unweighted average recall of each gender to the accuracies by group, in place."""
    from common.metrics.classification.classification import summary

    for name in (n for n in groups if "gender" in groups[n]):
        split, genders = splits[name], np.array(splits[name].groups["gender"])
        for gender, metrics in groups[name]["gender"].items():
            rows = genders == gender
            found = summary(split.targets[rows], split.predicted[rows], len(split.labels))
            metrics[UAR] = facts.plain_metric(found["recall"], "percent") | {"examples": int(rows.sum())}


def shown(recordings: Recordings) -> dict[str, list[str]]:
    """What stands beside a recording's prediction: how long it is and, where known, who speaks."""
    columns = {"seconds": [f"{seconds:.2f}" for seconds in recordings.seconds]}
    return columns | ({"speaker": recordings.speakers} if recordings.speakers is not None else {})


def player(recordings: Recordings, row: int) -> str:
    """HTML that plays a recording, at most `HEARD` seconds of it."""
    import soundfile

    begin, end = recordings.begins[row], min(recordings.ends[row], recordings.begins[row] + HEARD)
    samples = decode(recordings.audio[row], recordings.ids[row], begin=begin, end=end)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="MP3")
    return report.player(buffer.getvalue())


def draw_durations(splits: dict[str, Recordings], output_dir: Path) -> dict[str, str]:
    """Seconds of the training recordings by class, and what every class's share in each split is."""
    folder, name = output_dir / "plots", "train" if "train" in splits else next(iter(splits))
    recordings, drawn = splits[name], []
    if not np.isnan(recordings.seconds).any():
        groups = None
        if recordings.labels is not None:
            seconds, labels = recordings.seconds, recordings.labels
            groups = {label: seconds[labels == i] for i, label in enumerate(recordings.names) if (labels == i).any()}
        texts = {"title": f"Durations ({name})", "xlabel": "seconds"}
        drawn.append(plotting.histogram(recordings.seconds, folder / "durations.png", groups=groups, **texts))
    return {path.stem: str(path.relative_to(output_dir)) for path in drawn}


def draw_data(whole: dict[str, Recordings], splits: dict[str, Recordings], output_dir: Path) -> dict[str, str]:
    """Classes by split and by gender, as recorded and, where they differ, as segments and copies for training."""
    folder, drawn = output_dir / "plots", []
    for suffix, words, parts in (("", "", whole), ("_prepared", ", segments and copies", splits)):
        if suffix and all(len(parts[name]) == len(whole[name]) for name in whole):
            continue
        parts = {name: part for name, part in parts.items() if part.labels is not None}
        counts = {name: part.label_counts() for name, part in parts.items()}
        if not counts:
            continue
        labels = next(iter(counts.values()))
        shares = {label: {name: 100 * c[label] / sum(c.values()) for name, c in counts.items()} for label in labels}
        path, title = folder / f"class_shares{suffix}.png", f"Share of each class{words}"
        drawn.append(plotting.grouped_bars(shares, path, title=title, ylabel="% of the split"))
        if all("gender" in part.columns for part in parts.values()):
            found: dict = {}
            for part in parts.values():
                for gender, label in zip(part.columns["gender"], part.labels):
                    by_label = found.setdefault(gender, dict.fromkeys(part.names, 0))
                    by_label[part.names[label]] += 1
            title = f"Recordings by class and gender{words}"
            drawn.append(plotting.class_counts(found, folder / f"gender{suffix}.png", title=title))
    return {path.stem: str(path.relative_to(output_dir)) for path in drawn}


def publish_classes(
    results: dict,
    predictions: dict[str, Predictions],
    splits: dict[str, Recordings],
    output_dir: Path,
    *,
    usage: str,
) -> dict:
    """Writes predictions, plots, results.json, report and model card; returns what results.json holds."""
    for name, prefix in (("validation", ""), ("test", "test_")):
        if name in predictions:
            results["files"] |= write_predictions(output_dir, prefix, predictions[name])
    results["files"] |= draw_durations(splits, output_dir)
    results["files"] |= draw_plots(results, output_dir, losses=LOSSES, accuracies=ACCURACIES)
    name = results["headline"]["split"] if results["headline"] else None
    cards = error_cards(predictions[name], player=partial(player, splits[name])) if name else []
    return _written(results, output_dir, cards, usage)


def transcribed(recordings: Recordings, texts: list[str]) -> Transcriptions:
    """The transcripts `texts` beside what is known of the recordings."""
    known = {"columns": recordings.columns, "speakers": recordings.speakers}
    return Transcriptions(recordings.ids, texts, recordings.texts, recordings.seconds, **known)


def publish_transcripts(
    results: dict, heard: dict[str, Transcriptions], splits: dict[str, Recordings], output_dir: Path, *, usage: str
) -> dict:
    """What `publish_classes` does, for transcripts; the report plays those with the most errors."""
    for name, prefix in (("validation", ""), ("test", "test_")):
        if name in heard:
            results["files"] |= recognition.write_transcriptions(output_dir, prefix, heard[name])
    seconds = {name: part.seconds for name, part in splits.items()}
    plots = {"seconds": seconds, "losses": LOSSES, "rates": WERS}
    results["files"] |= recognition.draw_plots(results, heard, output_dir, **plots)
    name = results["headline"]["split"] if results["headline"] else None
    players = {row: player(splits[name], row) for row in recognition.worst(heard[name])} if name else {}
    cards = recognition.error_cards(heard[name], players=players) if name else []
    return _written(results, output_dir, cards, usage)


def _written(results: dict, output_dir: Path, cards: list[str], usage: str) -> dict:
    results = facts.completed(results)
    report.write_report(results, output_dir, error_cards=cards)
    write_model_card(results, output_dir, usage=usage)
    facts.write_results(output_dir, results)
    return results
