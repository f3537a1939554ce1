"""Transcripts scored: error rates with intervals, the baseline, groups, the files, the worst errors, the plots.

What `common.classification` is for classes. How errors are counted is `common.metrics.wer`.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from markupsafe import Markup

from common.errors import write_csv, write_json
from common.metrics.intervals import ratio_interval
from common.metrics.wer.wer import alignments, counted, edit_counts
from common.report import page, plots
from common.results import headline, metric, plain_metric
from common.speech.results import groups_of, known_of, player, seconds_of_splits

BASELINE = "empty transcript"
BIN_SECONDS = (0.25, 0.5, 1, 2, 3, 5, 10, 15, 20, 30, 60, 120, 300, 600, 1800, 3600)
MOST_BINS = 7  # more would be drawn with slanted, shortened names


@dataclass
class Transcriptions:
    """The transcripts of a model for the N utterances of one split, and what is known of them.

    Attributes:
        ids: name of each utterance.
        hypotheses: N transcripts of the model.
        references: N true ones, normalised like the training texts, maybe empty; None where they are unknown.
        seconds: float [N].
        columns: name -> N values, which are shown; the error rate of each value is reported.
    """

    ids: list[str]
    hypotheses: list[str]
    references: list[str] | None
    seconds: np.ndarray
    columns: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def alignments(self) -> list[list[tuple[str, int, int, int, int]]]:
        """How the words of each hypothesis come out of its reference, see `common.metrics.wer`."""
        return list(alignments(self.references, self.hypotheses))

    @cached_property
    def words(self) -> np.ndarray:
        """int64 [N, 4]: hits, substitutions, deletions, insertions of words."""
        return np.array([counted(alignment) for alignment in self.alignments], dtype=np.int64).reshape(-1, 4)

    @cached_property
    def characters(self) -> np.ndarray:
        """int64 [N, 4]: the same of characters."""
        return edit_counts(self.references, self.hypotheses, "character")

    def errors(self, row: int) -> Iterator[tuple[str, str]]:
        """(word of the reference or "", word of the hypothesis or "") in order, of one utterance; equal ones too."""
        reference, hypothesis = self.references[row].split(), self.hypotheses[row].split()
        for _, begin, end, first, last in self.alignments[row]:
            for at in range(max(end - begin, last - first)):
                yield reference[begin + at] if begin < end else "", hypothesis[first + at] if first < last else ""


def transcriptions_of(clips, texts: list[str]) -> Transcriptions:
    """The transcripts of a split (`datasets.Dataset`), with what is known of its clips beside them."""
    references = clips["text"][:] if "text" in clips.column_names else None
    columns = known_of(clips, ("speaker",)) | groups_of(clips)
    return Transcriptions(clips["id"][:], texts, references, np.array(clips["seconds"][:]), columns)


def _rate(errors: np.ndarray, of: np.ndarray) -> dict:
    """Errors [N] per 100 reference words [N], with its interval; no value where there is none."""
    low, high = (None if end is None else 100 * end for end in ratio_interval(errors, of))
    value = 100 * float(errors.sum()) / float(of.sum()) if of.any() else None
    return {"value": value, "low": low, "high": high, "unit": "percent", "examples": len(errors)}


def _metrics(words: np.ndarray, characters: np.ndarray) -> dict[str, dict]:
    of, errors = words[:, :3].sum(axis=1), words[:, 1:]
    kinds = ("substitutions", "deletions", "insertions")
    return {
        "wer": _rate(errors.sum(axis=1), of),
        "cer": _rate(characters[:, 1:].sum(axis=1), characters[:, :3].sum(axis=1)),
        **{kind: _rate(count, of) for kind, count in zip(kinds, errors.T)},
        "utterances_without_error": metric(errors.sum(axis=1) == 0, "percent", scale=100),
    }


def score_transcripts(splits: Mapping[str, Transcriptions], losses: Mapping[str, float]) -> dict:
    """The parts of results.json about scores: headline, metrics, groups, baseline.

    Splits without truth are left out; the headline is the word error rate of the last one with a reference word. The
    baseline is an empty transcript of everything: each word is a deletion.
    """
    parts: dict = {name: {} for name in ("metrics", "groups", "baseline")}
    top = None
    for name, split in splits.items():
        if split.references is None:
            continue
        parts["metrics"][name] = _metrics(split.words, split.characters) | {"loss": plain_metric(losses[name], "nats")}
        of, errors = split.words[:, :3].sum(axis=1), split.words[:, 1:].sum(axis=1)
        groups = {}
        for column, values in split.columns.items():
            names, which = np.unique([value or "unknown" for value in values], return_inverse=True)
            if 1 < len(names) <= len(values) / 2:  # not all in one group, nor nearly each in its own
                rows = [which == i for i in range(len(names))]
                groups[column] = {str(n): {"wer": _rate(errors[r], of[r])} for n, r in zip(names, rows)}
        if groups:
            parts["groups"][name] = groups
        if of.any():
            nothing = [np.zeros_like(counts) for counts in (split.words, split.characters)]
            for counts, ours in zip(nothing, (split.words, split.characters)):
                counts[:, 2] = ours[:, :3].sum(axis=1)
            trivial = {measure: plain_metric(one["value"], "percent") for measure, one in _metrics(*nothing).items()}
            parts["baseline"][name] = {"name": BASELINE, "metrics": trivial}
            top = headline(parts["metrics"], parts["baseline"], name, "wer", higher_is_better=False)
    return {"headline": top, **parts}


# Files


def write_transcriptions(output_dir: Path, prefix: str, split: Transcriptions) -> dict[str, str]:
    """Writes PREFIXpredictions.csv, a row an utterance in the order of the data; returns its name for results.json.

    id, seconds, what is known, reference, hypothesis; then wer in percent (empty where the reference is), the counts of
    errors, and the alignment, all empty where the truth is unknown. The alignment is the reference with errors in
    braces: "the {cat>cap} sat {+on} {-mat}" has "cap" in the place of "cat", "on" added and "mat" missing.
    """
    truth = split.references or [""] * len(split)
    rows = (
        (identity, f"{seconds:.3f}", *texts, *_scores(split, row))
        for row, (identity, seconds, *texts) in enumerate(
            zip(split.ids, split.seconds, *split.columns.values(), truth, split.hypotheses)
        )
    )
    header = ["id", "seconds", *split.columns, "reference", "hypothesis"]
    name = f"{prefix}predictions.csv"
    write_csv(output_dir / name, [*header, "wer", "substitutions", "deletions", "insertions", "alignment"], rows)
    return {name: name}


def _scores(split: Transcriptions, row: int) -> list[object]:
    if split.references is None:
        return [""] * 5
    hits, substitutions, deletions, insertions = split.words[row].tolist()
    of, errors = hits + substitutions + deletions, substitutions + deletions + insertions
    forms = {(True, True): "{{{}>{}}}", (True, False): "{{-{}}}", (False, True): "{{+{1}}}"}
    signs = [
        true if true == ours else forms[bool(true), bool(ours)].format(true, ours) for true, ours in split.errors(row)
    ]
    return [f"{100 * errors / of:.2f}" if of else "", substitutions, deletions, insertions, " ".join(signs)]


def worst(split: Transcriptions, count: int = 20) -> list[int]:
    """The rows with the most word errors, most first; of equally many, the higher rate first. None without an error.

    By number and not by rate, or the first ones would all be clips of one word.
    """
    if split.references is None:
        return []
    errors, of = split.words[:, 1:].sum(axis=1), split.words[:, :3].sum(axis=1)
    return [int(row) for row in np.lexsort((of, -errors))[:count] if errors[row]]


def error_cards(split: Transcriptions, players: Mapping[int, str] = {}) -> list[str]:
    """The utterances of `worst` as HTML, with the words that differ marked; `players`: row -> HTML that plays it."""
    cards = []
    for row in worst(split):
        hits, substitutions, deletions, insertions = split.words[row].tolist()
        errors, of = substitutions + deletions + insertions, hits + substitutions + deletions
        kinds = {"replaced": substitutions, "missing": deletions, "added": insertions}
        rows = [
            ("Errors", ", ".join(f"{number:,} {kind}" for kind, number in kinds.items() if number)),
            *((name, values[row] or "unknown") for name, values in split.columns.items()),
            ("Seconds", f"{split.seconds[row]:.1f}"),
            ("Id", split.ids[row]),
        ]
        wrong, extra = set(), set()
        for _, begin, end, first, last in (one for one in split.alignments[row] if one[0] != "equal"):
            wrong.update(range(begin, end))
            extra.update(range(first, last))
        body = Markup(players.get(row, ""))
        body += _marked("Reference", split.references[row], wrong, "gold")
        body += _marked("Transcript", split.hypotheses[row], extra, "predicted")
        title = f"{errors:,} error{'s' if errors > 1 else ''} in {of:,} word{'s' if of != 1 else ''}"
        cards.append(page.card(title, rows, body))
    return cards


def _marked(name: str, text: str, words: set[int], kind: str) -> Markup:
    """A named text with some of its words marked."""
    if not text:
        return Markup('<p class="soft">{}: empty</p>').format(name)
    places = enumerate(re.finditer(r"\S+", text))
    spans = [(place.start(), place.end(), kind) for number, place in places if number in words]
    return Markup('<p class="soft">{}</p>{}').format(name, page.marked_text(text, spans))


# Plots


def most_confused(split: Transcriptions, count: int = 12) -> dict[str, int]:
    """What most often goes wrong: "cat \u2192 cap", "mat missing" or "on added" -> in how many utterances it does."""
    found: Counter[str] = Counter()
    for row in np.flatnonzero(split.words[:, 1:].any(axis=1)):
        pairs = {(true, ours) for true, ours in split.errors(row) if true != ours}
        found.update(
            f"{true} \u2192 {ours}" if true and ours else f"{true} missing" if true else f"{ours} added"
            for true, ours in sorted(pairs)
        )
    return dict(found.most_common(count))


def rates_by_length(split: Transcriptions) -> dict[str, dict]:
    """Length in words, as in "2-4 s (120)" with the number of utterances -> their word error rate as a metric."""
    seconds = split.seconds
    width = next((w for w in BIN_SECONDS if np.quantile(seconds, 0.98) < w * MOST_BINS), BIN_SECONDS[-1])
    bins = np.minimum(seconds // width, MOST_BINS - 1)  # the last one is open
    of, errors = split.words[:, :3].sum(axis=1), split.words[:, 1:].sum(axis=1)
    rates = {}
    for number in np.unique(bins):
        here = bins == number
        end = f"-{(number + 1) * width:g} s" if seconds[here].max() < (number + 1) * width else " s and more"
        rates[f"{number * width:g}{end} ({here.sum():,})"] = _rate(errors[here], of[here])
    return rates


def draw_plots(
    history: Sequence[dict], splits: Mapping[str, Transcriptions], seconds: Mapping[str, np.ndarray], folder: Path
) -> list[Path]:
    """Durations of every split (`seconds`: name -> float [N]), losses and word error rates while training, and of each
    evaluated split the word error rate by length and the most confused words."""
    drawn = [plots.histogram(None, folder / "durations", title="Durations", xlabel="seconds", groups=seconds)]
    if history:
        losses = {"train": "loss", "training set": "train_loss", "validation": "eval_loss"}
        rates = {name: key.replace("loss", "wer") for name, key in losses.items() if name != "train"}
        drawn.append(plots.curves(history, folder / "loss", title="Loss", series=losses))
        drawn.append(plots.curves(history, folder / "wer", title="Word error rate (%)", series=rates))
    for name, split in splits.items():
        if split.references is None:
            continue
        rates = {length: rate for length, rate in rates_by_length(split).items() if rate["value"] is not None}
        labels = {"title": f"Word error rate by length ({name}; utterances in brackets)", "ylabel": "WER (%)"}
        bars = {length: {"WER": rate["value"]} for length, rate in rates.items()}
        ends = {length: {"WER": (rate["low"], rate["high"])} for length, rate in rates.items()}
        drawn.append(plots.grouped_bars(bars, folder / f"{name}_wer_by_length", low_high=ends, **labels))
        if confused := most_confused(split):
            title = f"Most confused words ({name})"
            drawn.append(plots.class_counts({"": confused}, folder / f"{name}_confused_words", title=title))
    return drawn


def write_transcripts(results: dict, transcriptions: dict, paths: dict, splits, tokenizer, run) -> tuple:
    """Writes predictions, the times of their words where asked for, and plots; (files, error cards, their title)."""
    from common.speech.decoding import word_times

    files = {}
    for name, prefix in (("validation", ""), ("test", "test_")):
        if name not in transcriptions:
            continue
        files |= write_transcriptions(run.output_dir, prefix, transcriptions[name])
        if run.args.timestamps:
            rows = zip(transcriptions[name].ids, *paths[name])
            content = [{"id": i, "text": text, "chunks": word_times(tokenizer, path)} for i, text, path in rows]
            files[f"{prefix}predictions.json"] = f"{prefix}predictions.json"
            write_json(run.output_dir / f"{prefix}predictions.json", content)
    drawn = draw_plots(results["history"], transcriptions, seconds_of_splits(splits), run.output_dir / "plots")
    files |= {path.stem: str(path.relative_to(run.output_dir)) for path in drawn}
    if not results["headline"]:
        return files, [], ""
    name = results["headline"]["split"]
    players = {row: player(splits[name], row) for row in worst(transcriptions[name])}
    return files, error_cards(transcriptions[name], players), "Most errors"
