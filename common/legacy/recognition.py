"""Transcripts judged: error rates with intervals, the baseline, groups, the files, the worst errors, the plots.

What `common.legacy.classification` is for classes. Not for making transcripts (`common.legacy.decoding`) nor for how errors are
counted (`common.legacy.metrics.wer`), whose module is imported where it is used, because `evaluate` loads torch.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from common.legacy import plotting, report
from common.legacy.files import write_csv
from common.legacy.metrics import ratio_interval
from common.legacy.results import headline, metric, plain_metric

BASELINE = "empty transcript"
BIN_SECONDS = (0.25, 0.5, 1, 2, 3, 5, 10, 15, 20, 30, 60, 120, 300, 600, 1800, 3600)
MOST_BINS = 7  # more would be drawn with slanted, shortened names


@dataclass
class Transcriptions:
    """What a model heard in the N utterances of one split, and what is known of them.

    Attributes:
        ids: name of each utterance.
        hypotheses: N transcripts of the model.
        references: N true ones, normalised like the training texts, maybe empty; None where they are unknown.
        seconds: float [N].
        columns: name -> N values, which are shown; the error rate of each value is reported.
        speakers: like a column; "" where unknown.
    """

    ids: list[str]
    hypotheses: list[str]
    references: list[str] | None
    seconds: np.ndarray
    columns: dict[str, list[str]] = field(default_factory=dict)
    speakers: list[str] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def known(self) -> dict[str, list[str]]:
        """The columns, the speaker first."""
        return self.columns if self.speakers is None else {"speaker": self.speakers, **self.columns}

    @cached_property
    def alignments(self) -> list[list[tuple[str, int, int, int, int]]]:
        """How the words of each hypothesis come out of its reference, see `common.legacy.metrics.wer`."""
        from common.legacy.metrics.wer.wer import alignments

        return list(alignments(self.references, self.hypotheses))

    @cached_property
    def words(self) -> np.ndarray:
        """int64 [N, 4]: hits, substitutions, deletions, insertions of words."""
        from common.legacy.metrics.wer.wer import counted

        return np.array([counted(alignment) for alignment in self.alignments], dtype=np.int64).reshape(-1, 4)

    @cached_property
    def characters(self) -> np.ndarray:
        """int64 [N, 4]: the same of characters."""
        from common.legacy.metrics.wer.wer import edit_counts

        return edit_counts(self.references, self.hypotheses, "character")

    def errors(self, row: int) -> Iterator[tuple[str, str]]:
        """(word of the reference or "", word of the hypothesis or "") in order, of one utterance; equal ones too."""
        said, heard = self.references[row].split(), self.hypotheses[row].split()
        for _, begin, end, first, last in self.alignments[row]:
            for place in range(max(end - begin, last - first)):
                yield said[begin + place] if begin < end else "", heard[first + place] if first < last else ""


def score(kept: tuple[np.ndarray, ...], dataset, *, tokenizer) -> dict[str, float]:
    """wer and cer in percent of one evaluation, for `common.legacy.trainer.Head`; none where there is no text to compare with.

    kept: the best label of every frame, int32 [N, T], and how many frames each clip has, int [N]; the truth is
    `dataset.examples.texts`.
    """
    from common.legacy.decoding import greedy, to_texts
    from common.legacy.metrics.wer.wer import edit_counts, summary

    ids, frames = kept
    if dataset.examples.texts is None:
        return {}
    heard = to_texts(tokenizer, greedy(ids, frames, tokenizer.pad_token_id))
    found = summary(*(edit_counts(dataset.examples.texts, heard, unit) for unit in ("word", "character")))
    return {name: found[name] for name in ("wer", "cer") if found[name] is not None}


def _rate(errors: np.ndarray, of: np.ndarray) -> dict:
    """Errors [N] per 100 of what was said [N], with its interval; no value where nothing was said."""
    low, high = (None if end is None else 100 * end for end in ratio_interval(errors, of))
    value = 100 * float(errors.sum()) / float(of.sum()) if of.any() else None
    return {"value": value, "low": low, "high": high, "unit": "percent", "examples": len(errors)}


def _figures(words: np.ndarray, characters: np.ndarray) -> dict[str, dict]:
    said, errors = words[:, :3].sum(axis=1), words[:, 1:]
    kinds = ("substitutions", "deletions", "insertions")
    return {
        "wer": _rate(errors.sum(axis=1), said),
        "cer": _rate(characters[:, 1:].sum(axis=1), characters[:, :3].sum(axis=1)),
        **{kind: _rate(count, said) for kind, count in zip(kinds, errors.T)},
        "utterances_without_error": metric(errors.sum(axis=1) == 0, "percent", scale=100),
    }


def judge(splits: dict[str, Transcriptions], measured: dict[str, dict[str, float]]) -> dict:
    """The parts of results.json about scores: headline, metrics, per_class, confusion, groups, baseline.

    Splits without truth are left out; the headline is the word error rate of the last one in which anything is said.
    `measured` maps a split to the metrics of its evaluation, of which the loss is taken. The baseline is an empty
    transcript of everything: each word is a deletion. per_class and confusion are empty.
    """
    parts: dict = {name: {} for name in ("metrics", "per_class", "confusion", "groups", "baseline")}
    top = None
    for name, split in splits.items():
        if split.references is None:
            continue
        loss = next(value for key, value in measured[name].items() if key.endswith("_loss"))
        parts["metrics"][name] = _figures(split.words, split.characters) | {"loss": plain_metric(loss, "nats")}
        groups = {column: _by_value(split, values) for column, values in split.known.items() if _tells(values)}
        if groups:
            parts["groups"][name] = groups
        if split.words[:, :3].any():
            nothing = [np.zeros_like(counts) for counts in (split.words, split.characters)]
            for counts, ours in zip(nothing, (split.words, split.characters)):
                counts[:, 2] = ours[:, :3].sum(axis=1)
            trivial = {
                measure: plain_metric(figure["value"], "percent") for measure, figure in _figures(*nothing).items()
            }
            parts["baseline"][name] = {"name": BASELINE, "metrics": trivial}
            top = headline(parts["metrics"], parts["baseline"], name, "wer", higher_is_better=False)
    return {"headline": top, **parts}


def _tells(values: list[str]) -> bool:
    """Whether a column divides the utterances into groups: not all in one, nor nearly each in its own."""
    return 1 < len(set(values)) <= len(values) / 2


def _by_value(split: Transcriptions, values: list[str]) -> dict[str, dict]:
    """value -> word error rate of its utterances, the values in order."""
    names, of = np.unique(values, return_inverse=True)
    said, errors = split.words[:, :3].sum(axis=1), split.words[:, 1:].sum(axis=1)
    return {str(name) or "unknown": {"wer": _rate(errors[of == i], said[of == i])} for i, name in enumerate(names)}


# Files


def write_transcriptions(output_dir: Path, prefix: str, transcriptions: Transcriptions) -> dict[str, str]:
    """Writes PREFIXpredictions.csv, a row an utterance in the order of the data; returns its name for results.json.

    id, seconds, what is known, reference, hypothesis; then wer in percent (empty where nothing is said), the counts of
    errors, and the alignment, all empty where the truth is unknown. The alignment is the reference with errors in
    braces: "the {cat>cap} sat {+on} {-mat}" says that "cap" was heard for "cat", "on" was added and "mat" is missing.
    """
    known = transcriptions.known
    truth = transcriptions.references or [""] * len(transcriptions)
    columns = (transcriptions.ids, transcriptions.seconds, *known.values(), truth, transcriptions.hypotheses)
    rows = (
        (identity, f"{seconds:.3f}", *texts, *_judged_row(transcriptions, row))
        for row, (identity, seconds, *texts) in enumerate(zip(*columns))
    )
    header = ["id", "seconds", *known, "reference", "hypothesis"]
    name = f"{prefix}predictions.csv"
    write_csv(output_dir / name, [*header, "wer", "substitutions", "deletions", "insertions", "alignment"], rows)
    return {name: name}


def _judged_row(transcriptions: Transcriptions, row: int) -> list[object]:
    if transcriptions.references is None:
        return [""] * 5
    hits, substitutions, deletions, insertions = transcriptions.words[row].tolist()
    said, errors = hits + substitutions + deletions, substitutions + deletions + insertions
    rate = f"{100 * errors / said:.2f}" if said else ""
    signs = [
        said
        if said == heard
        else f"{{{said}>{heard}}}"
        if said and heard
        else f"{{-{said}}}"
        if said
        else f"{{+{heard}}}"
        for said, heard in transcriptions.errors(row)
    ]
    return [rate, substitutions, deletions, insertions, " ".join(signs)]


def worst(transcriptions: Transcriptions, count: int = 20) -> list[int]:
    """The rows with the most word errors, most first; of equally many, the higher rate first. None without an error.

    By number and not by rate, or the first ones would all be clips of one word.
    """
    if transcriptions.references is None:
        return []
    errors, said = transcriptions.words[:, 1:].sum(axis=1), transcriptions.words[:, :3].sum(axis=1)
    order = np.lexsort((said, -errors))[:count]
    return [int(row) for row in order if errors[row]]


def error_cards(
    transcriptions: Transcriptions, count: int = 20, *, players: Mapping[int, str] | None = None
) -> list[str]:
    """The utterances of `worst` as HTML: what was said and heard, with the words that differ marked.

    players: row -> HTML that plays the utterance; rows without one are shown without.
    """
    cards = []
    for row in worst(transcriptions, count):
        hits, substitutions, deletions, insertions = transcriptions.words[row].tolist()
        errors, said = substitutions + deletions + insertions, hits + substitutions + deletions
        kinds = {"replaced": substitutions, "missing": deletions, "added": insertions}
        rows = [
            ("Errors", ", ".join(f"{number:,} {kind}" for kind, number in kinds.items() if number)),
            *((name, values[row]) for name, values in transcriptions.known.items()),
            ("Seconds", f"{transcriptions.seconds[row]:.1f}"),
            ("Id", transcriptions.ids[row]),
        ]
        wrong, extra = set(), set()
        for _, begin, end, first, last in (one for one in transcriptions.alignments[row] if one[0] != "equal"):
            wrong.update(range(begin, end))
            extra.update(range(first, last))
        body = (players or {}).get(row, "")
        body += _marked("Reference", transcriptions.references[row], wrong, "gold")
        body += _marked("Transcript", transcriptions.hypotheses[row], extra, "predicted")
        title = f"{errors:,} error{'s' if errors > 1 else ''} in {said:,} word{'s' if said != 1 else ''}"
        cards.append(report.card(title, rows, body))
    return cards


def _marked(name: str, text: str, words: set[int], kind: str) -> str:
    """A named text with some of its words marked, as `report.text_block`."""
    if not text:
        return f'<p class="soft">{name}: empty</p>'
    places = enumerate(re.finditer(r"\S+", text))
    spans = [(place.start(), place.end(), kind) for number, place in places if number in words]
    return f'<p class="soft">{name}</p>{report.marked_text(text, spans)}'


# Plots


def most_confused(transcriptions: Transcriptions, count: int = 12) -> dict[str, int]:
    """What most often goes wrong: "cat \u2192 cap", "mat missing" or "on added" -> in how many utterances it does."""
    found: Counter[str] = Counter()
    for row in np.flatnonzero(transcriptions.words[:, 1:].any(axis=1)):
        pairs = {(said, heard) for said, heard in transcriptions.errors(row) if said != heard}
        found.update(
            f"{said} \u2192 {heard}" if said and heard else f"{said} missing" if said else f"{heard} added"
            for said, heard in sorted(pairs)
        )
    return dict(found.most_common(count))


def rates_by_length(transcriptions: Transcriptions) -> dict[str, dict]:
    """Length in words, as in "2-4 s (120)" with the number of utterances -> their word error rate as a metric."""
    seconds = transcriptions.seconds
    width = next((w for w in BIN_SECONDS if np.quantile(seconds, 0.98) < w * MOST_BINS), BIN_SECONDS[-1])
    bins = np.minimum(seconds // width, MOST_BINS - 1)  # the last one is open
    said, errors = transcriptions.words[:, :3].sum(axis=1), transcriptions.words[:, 1:].sum(axis=1)
    rates = {}
    for number in np.unique(bins):
        here = bins == number
        end = f"-{(number + 1) * width:g} s" if seconds[here].max() < (number + 1) * width else " s and more"
        rates[f"{number * width:g}{end} ({here.sum():,})"] = _rate(errors[here], said[here])
    return rates


def draw_plots(
    results: dict,
    transcriptions: Mapping[str, Transcriptions],
    output_dir: Path,
    *,
    seconds: Mapping[str, np.ndarray],
    losses: Mapping[str, str],
    rates: Mapping[str, str],
) -> dict[str, str]:
    """Draws what the report shows; returns file names for results.json.

    Durations of every split (`seconds`: name -> float [N], the training data too); losses and word error rates while
    training (`losses`, `rates`: legend entry -> key of the history, {"validation": "eval_validation_wer"}); and of each
    of the evaluated `transcriptions` the word error rate by length and the most confused words.
    """
    folder, drawn = output_dir / "plots", []
    groups = {name: values for name, values in seconds.items() if len(values)}
    if groups:
        path = folder / "durations.png"
        drawn.append(plotting.histogram(None, path, title="Durations", xlabel="seconds", groups=groups))
    if results["history"]:
        for name, title, series in (("loss", "Loss", losses), ("wer", "Word error rate (%)", rates)):
            drawn.append(plotting.curves(results["history"], folder / f"{name}.png", title=title, series=series))
    for name, split in transcriptions.items():
        if split.references is None or not len(split):
            continue
        by_length = {length: rate for length, rate in rates_by_length(split).items() if rate["value"] is not None}
        drawn.append(
            plotting.grouped_bars(
                {length: {"WER": rate["value"]} for length, rate in by_length.items()},
                folder / f"{name}_wer_by_length.png",
                title=f"Word error rate by length ({name}; utterances in brackets)",
                ylabel="WER (%)",
                low_high={length: {"WER": (rate["low"], rate["high"])} for length, rate in by_length.items()},
            )
        )
        confused = most_confused(split)
        if confused:
            path, title = folder / f"{name}_confused_words.png", f"Most confused words ({name})"
            drawn.append(plotting.class_counts({"": confused}, path, title=title))
    return {path.stem: str(path.relative_to(output_dir)) for path in drawn}
