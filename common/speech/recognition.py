"""Transcripts scored, as `common.classification` does it with classes; errors are counted by `common.metrics.wer`."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from common.classification import LOSSES
from common.errors import write_csv, write_json
from common.metrics.intervals import ratio_interval
from common.metrics.wer.wer import KINDS, Alignment, alignments, counted, edit_counts
from common.report import page, plots
from common.results import headline, metric, plain_metric
from common.speech.decoding import word_times
from common.speech.results import groups_of, known_of, player

ERRORS = KINDS[1:]  # substitutions, deletions, insertions


def transcriptions_of(clips, texts: Sequence[str]) -> pd.DataFrame:
    """The transcripts of a split (`datasets.Dataset`), and what is known of its clips.

    Columns: id, seconds, what is known, reference, hypothesis; wer in percent ("" of an empty reference), counts of
    word errors, and the alignment, which is the reference with errors in braces: {cat>cap}, {-mat} missing, {+on}
    added; "" where the truth is unknown. With truth also the counts words, errors, characters and character_errors.
    """
    table = pd.DataFrame({"id": clips["id"][:], "seconds": clips["seconds"][:]})
    table = table.assign(**known_of(clips, ("speaker",)), **groups_of(clips))
    if "text" not in clips.column_names:
        return table.assign(reference="", hypothesis=texts, **dict.fromkeys(("wer", *ERRORS, "alignment"), ""))
    table = table.assign(reference=clips["text"][:], hypothesis=texts)
    aligned = list(alignments(table["reference"], table["hypothesis"]))
    words = np.array([counted(one) for one in aligned], dtype=np.int64).reshape(-1, len(KINDS))
    characters = edit_counts(table["reference"], table["hypothesis"], "character")
    errors, of = words[:, 1:].sum(axis=1), words[:, :3].sum(axis=1)
    table["wer"] = [f"{100 * wrong / said:.2f}" if said else "" for wrong, said in zip(errors, of)]
    table[[*ERRORS]] = words[:, 1:]
    table["alignment"] = [_marked(*row) for row in zip(table["reference"], table["hypothesis"], aligned)]
    table["characters"], table["character_errors"] = characters[:, :3].sum(axis=1), characters[:, 1:].sum(axis=1)
    return table.assign(words=of, errors=errors)


def _marked(reference: str, hypothesis: str, alignment: Alignment) -> str:
    said, written, words = reference.split(), hypothesis.split(), []
    for _, begin, end, first, last in alignment:
        for one, other in itertools.zip_longest(said[begin:end], written[first:last], fillvalue=""):
            error = f"{one}>{other}" if one and other else f"-{one}" if one else f"+{other}"
            words.append(one if one == other else f"{{{error}}}")
    return " ".join(words)


def _rate(table: pd.DataFrame, errors: str = "errors", of: str = "words") -> dict:
    """Errors per 100 of what was said, with its interval; no value where nothing was."""
    low, high = (None if end is None else 100 * end for end in ratio_interval(table[errors], table[of]))
    value = 100 * float(table[errors].sum()) / float(table[of].sum()) if table[of].any() else None
    return {"value": value, "low": low, "high": high, "unit": "percent", "examples": len(table)}


def score_transcripts(splits: Mapping[str, pd.DataFrame], losses: Mapping[str, float]) -> dict:
    """Headline (the word error rate of the last split with a reference word), metrics, groups, baseline, of splits."""
    parts: dict = {name: {} for name in ("metrics", "groups", "baseline")}
    top = None
    for name, table in splits.items():
        if "errors" not in table:
            continue
        rates = {"wer": _rate(table), "cer": _rate(table, "character_errors", "characters")}
        rates |= {kind: _rate(table, kind) for kind in ERRORS}
        rates["utterances_without_error"] = metric(table["errors"].to_numpy() == 0, "percent", scale=100)
        parts["metrics"][name] = rates | {"loss": plain_metric(losses[name], "nats")}
        for column in table.loc[:, "seconds":"reference"].columns[1:-1]:
            values = table[column].replace("", "unknown")
            if 1 < values.nunique() <= len(values) / 2:  # not all in one group, nor nearly each in its own
                groups = {value: {"wer": _rate(part)} for value, part in table.groupby(values)}
                parts["groups"].setdefault(name, {})[column] = groups
        if table["words"].any():
            trivial = {"wer": 100, "cer": 100, "substitutions": 0, "deletions": 100, "insertions": 0}
            trivial["utterances_without_error"] = 100 * (table["words"] == 0).mean()
            trivial = {measure: plain_metric(value, "percent") for measure, value in trivial.items()}
            parts["baseline"][name] = {"name": "empty transcript", "metrics": trivial}
            top = headline(parts["metrics"], parts["baseline"], name, "wer", higher_is_better=False)
    return {"headline": top, **parts}


def write_transcripts(results: dict, tables: Mapping, paths: Mapping, splits, tokenizer, run) -> tuple:
    """Writes predictions, times of words by the `paths` where asked for, plots; (files, error cards, their title)."""
    files = {}
    for name, table in tables.items():
        file = "test_predictions" if name == "test" else "predictions"
        shown = table.loc[:, :"alignment"].assign(seconds=table["seconds"].map("{:.3f}".format))
        write_csv(run.output_dir / f"{file}.csv", shown.columns, shown.itertuples(index=False))
        files[f"{file}.csv"] = f"{file}.csv"
        if run.args.timestamps:
            rows = zip(table["id"], table["hypothesis"], paths[name])
            content = [{"id": i, "text": text, "chunks": word_times(tokenizer, path)} for i, text, path in rows]
            write_json(run.output_dir / f"{file}.json", content)
            files[f"{file}.json"] = f"{file}.json"
    if history := results["history"]:
        rates = {"training set": "train_wer", "validation": "eval_wer"}
        for kind, title, series in (("loss", "Loss", LOSSES), ("wer", "Word error rate (%)", rates)):
            plots.curves(history, run.output_dir / "plots" / kind, title=title, series=series)
            files[kind] = f"plots/{kind}.svg"
    if not results["headline"]:
        return files, [], ""
    name = results["headline"]["split"]
    return files, error_cards(tables[name], lambda row: player(splits[name], row)), "Most errors"


def error_cards(table: pd.DataFrame, play) -> list[str]:
    """The 20 utterances with the most word errors as HTML; of equally many, the higher rate first; `play`: players."""
    cards, wrong = [], table[table["errors"] > 0]
    for row, one in wrong.sort_values(["errors", "words"], ascending=[False, True], kind="stable")[:20].iterrows():
        kinds = zip(("replaced", "missing", "added"), one[[*ERRORS]])
        facts = [("Errors", ", ".join(f"{number:,} {kind}" for kind, number in kinds if number))]
        facts += [(name, value or "unknown") for name, value in one["seconds":"reference"][1:-1].items()]
        facts += [("Seconds", f"{one['seconds']:.1f}"), ("Id", one["id"])]
        texts = {"Reference": one["reference"], "Transcript": one["hypothesis"], "Errors in braces": one["alignment"]}
        body = play(row) + "".join(page.text_block(name, text or "(empty)") for name, text in texts.items())
        cards.append(page.card(f"{one['errors']:,} errors in {one['words']:,} words", facts, body))
    return cards
