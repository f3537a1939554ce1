"""Results of the scripts on recordings: scores by class and utterance, files, plots, and cards that play the errors.

Not for scores, plots and cards of classes (`common.legacy.classification`) and transcripts (`common.legacy.recognition`) as such.
"""

import io
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from common.legacy import plotting, recognition, report
from common.legacy import results as facts
from common.legacy.audio import RATE, decode
from common.legacy.classification import Predictions, judge
from common.legacy.files import write_json
from common.legacy.model_card import write_model_card
from common.legacy.recognition import Transcriptions
from common.legacy.recordings import Recordings
from common.legacy.task import LOSSES, publish_predictions

UAR = "unweighted_average_recall"
WERS = {"train set": "eval_train_wer", "validation": "eval_validation_wer"}
NUMBERS = ("utterance", "index", "number", "take")  # parts of names that say nothing of a recording
GROUPS = 12  # different values of a column, at most, for results by them
HEARD = 20.0  # seconds of a clip that a card plays at most
AUDIO_USAGE = """\
import librosa
from transformers import pipeline

classifier = pipeline("audio-classification", model="{model}")
waveform, _ = librosa.load("{clip}", sr=16000)  # a path alone would need ffmpeg
print(classifier(waveform, top_k=None))  # every class with its probability
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
    """Metrics over utterances, whose segments' probabilities are averaged; for `common.legacy.trainer.Head`."""
    return {} if dataset.targets is None else utterance_figures(*by_utterance(dataset.examples, kept[0]))


def utterance_figures(recordings: Recordings, logits: np.ndarray) -> dict[str, float]:
    """Accuracy, macro F1 and unweighted average recall, in percent."""
    from common.legacy.metrics.classification.classification import summary

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
    from common.legacy.metrics.classification.classification import summary

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


def draw_durations(
    splits: dict[str, Recordings], output_dir: Path, *, suffix: str = "", words: str = ""
) -> dict[str, str]:
    """Seconds of the recordings by class and split; of those without classes, the distribution."""
    path = output_dir / "plots" / f"durations{suffix}.png"
    if any(np.isnan(part.seconds).any() for part in splits.values()):
        return {}
    if any(part.labels is None for part in splits.values()):
        seconds = np.concatenate([part.seconds for part in splits.values()])
        plotting.histogram(seconds, path, title="Durations", xlabel="seconds")
    else:
        tables: tuple[dict, dict] = {}, {}  # medians, quartiles
        for name, part in splits.items():
            for at, label in enumerate(part.names):
                seconds = part.seconds[part.labels == at]
                low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75]) if len(seconds) else [None] * 3
                for table, value in zip(tables, (middle, (low, high))):
                    table.setdefault(label, {})[name] = value
        texts = {"title": f"Durations by class{words}", "ylabel": "seconds (median, quartiles)"}
        plotting.grouped_bars(tables[0], path, low_high=tables[1], **texts)
    return {path.stem: str(path.relative_to(output_dir))}


def draw_data(whole: dict[str, Recordings], splits: dict[str, Recordings], output_dir: Path) -> dict[str, str]:
    """Durations, classes and genders by split, as recorded and, where they differ, with what is trained on instead."""
    drawn: dict[str, str] = {}
    for suffix, words, parts in (("", "", whole), ("_trained_on", ", as trained on", _trained_on(whole, splits))):
        if suffix and all(len(parts[name]) == len(whole[name]) for name in whole):
            continue
        drawn |= draw_durations(parts, output_dir, suffix=suffix, words=words)
        parts = {name: part for name, part in parts.items() if part.labels is not None}
        if parts:
            found = _draw_counts(parts, output_dir / "plots", suffix, words)
            drawn |= {path.stem: str(path.relative_to(output_dir)) for path in found}
    return drawn


def _trained_on(whole: dict[str, Recordings], splits: dict[str, Recordings]) -> dict[str, Recordings]:
    """The splits, the training data in pieces; the others are scored as whole recordings."""
    return whole | {name: part for name, part in splits.items() if name == "train"}


def _draw_counts(parts: dict[str, Recordings], folder: Path, suffix: str, words: str) -> list[Path]:
    counts = {name: part.label_counts() for name, part in parts.items()}
    labels = next(iter(counts.values()))
    shares = {label: {name: 100 * c[label] / sum(c.values()) for name, c in counts.items()} for label in labels}
    path, title = folder / f"class_counts{suffix}.png", f"Examples by class{words}"
    drawn = [plotting.class_counts(counts, path, title=title)]
    path, title = folder / f"class_shares{suffix}.png", f"Share of each class{words}"
    drawn.append(plotting.grouped_bars(shares, path, title=title, ylabel="% of the split"))
    if all("gender" in part.columns for part in parts.values()):
        found: dict = {}
        for part in [parts["train"]] if suffix else parts.values():
            for gender, label in zip(part.columns["gender"], part.labels):
                by_label = found.setdefault(gender, dict.fromkeys(part.names, 0))
                by_label[part.names[label]] += 1
        path, title = folder / f"gender{suffix}.png", f"Class and gender, {'train' if suffix else 'all splits'}{words}"
        drawn.append(plotting.class_counts(dict(sorted(found.items())), path, title=title))
    return drawn


def pieces_of(whole: dict[str, Recordings], splits: dict[str, Recordings]) -> list[str]:
    """What is trained on, in words, where that is not the recordings that the data of the splits are counted in."""
    if "train" not in splits or len(splits["train"]) == len(whole["train"]):
        return []
    pieces, different = splits["train"], len(set(splits["train"].ids))
    made = f"{len(pieces):,} pieces ({different:,} different ones, the others are copies)"
    return [
        f"trained on {len(whole['train']):,} recordings as {made}; validation and test are counted and scored as whole "
        "recordings"
    ]


def publish_data(
    described: dict, whole: dict[str, Recordings], splits: dict[str, Recordings], output_dir: Path
) -> dict:
    """Writes data.json, which is `described`, and the plots, and prints the counts; returns what data.json holds."""
    described = {**described, "files": draw_data(whole, splits, output_dir)}
    write_json(output_dir / "data.json", described)
    for name, part in whole.items():
        counts = {} if part.labels is None else part.label_counts()
        print(f"{name}: {len(part):,} ({', '.join(f'{label} {count:,}' for label, count in counts.items())})")
    leaks = [f"LEAKS: {sentence}" for sentence in described["leaks"]]
    print(*leaks, *described["notes"], f"data: {output_dir / 'data.json'}", sep="\n")
    return described


def publish_classes(
    results: dict,
    predictions: dict[str, Predictions],
    splits: dict[str, Recordings],
    output_dir: Path,
    *,
    usage: str,
) -> dict:
    """Writes predictions, plots, results.json, report and model card; returns what results.json holds."""
    if "durations" not in results["files"]:
        results["files"] |= draw_durations(splits, output_dir)
    players = {name: partial(player, splits[name]) for name in predictions}
    return publish_predictions(results, predictions, output_dir, usage=usage, players=players)


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
    results = facts.completed(results)
    report.write_report(results, output_dir, error_cards=cards)
    write_model_card(results, output_dir, usage=usage)
    facts.write_results(output_dir, results)
    return results
