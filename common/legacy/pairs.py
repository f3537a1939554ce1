"""Labelled pairs of texts (premise, hypothesis) from any table, with classes known by name, never by position.

Not for what classes are called (`common.legacy.class_names`), how pairs become inputs (`common.legacy.pair_inputs`), nor for other
tasks' rows.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from common.legacy.class_names import NO_GOLD_LABEL, NUMBER, Classes, classes_of_labels, listed
from common.legacy.data import is_unicode, overlap, read_rows, require_columns
from common.legacy.errors import UserError
from common.legacy.examples import Examples

# Where the parts of a pair are found by themselves, the first name that is there; compared without case.
COLUMNS = {
    "premise": ("premise", "sentence1", "sentence_a", "text_a", "text1", "sent1"),
    "hypothesis": ("hypothesis", "sentence2", "sentence_b", "text_b", "text2", "sent2"),
    "label": ("gold_label", "label_text", "label", "labels", "entailment_label", "class"),
}
ID_COLUMNS = ("id", "pairid", "pair_id", "uid", "guid", "idx", "index")
# FarsTail's last two say with 1 where a model that sees the hypothesis alone, or the overlap alone, is wrong.
GROUP_COLUMNS = {
    "genre": {},
    "hard(hypothesis)": {"0": "easy", "1": "hard"},
    "hard(overlap)": {"0": "easy", "1": "hard"},
}
WORD = re.compile(r"[\w\u200c\u0300-\u036f\u064b-\u0652]+")  # with the zero-width non-joiner and marks inside words


@dataclass
class Pairs(Examples):
    """N pairs of texts.

    Attributes:
        ids, premises, hypotheses: N strings.
        labels: int64 [N], index into `names`; None: truth unknown.
        names: the classes, in label order.
        groups: column -> value of each pair, for reporting by subset (`GROUP_COLUMNS`, where they are there).
        source: where they come from, for messages and results.
        skipped: reason -> how many pairs were left out.
    """

    what = "pairs"
    ids: list[str]
    premises: list[str]
    hypotheses: list[str]
    labels: np.ndarray | None
    names: tuple[str, ...]
    groups: dict[str, list[str]]
    source: str
    skipped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: np.ndarray) -> "Pairs":
        """The pairs at `indices`."""
        return replace(
            self,
            ids=[self.ids[i] for i in indices],
            premises=[self.premises[i] for i in indices],
            hypotheses=[self.hypotheses[i] for i in indices],
            labels=None if self.labels is None else self.labels[indices],
            groups={name: [values[i] for i in indices] for name, values in self.groups.items()},
        )

    def rows(self) -> Iterator[tuple]:
        """(id, premise, hypothesis, name of the class or None) for fingerprints."""
        labels = [None] * len(self) if self.labels is None else [self.names[i] for i in self.labels]
        return zip(self.ids, self.premises, self.hypotheses, labels)

    def statistics(self) -> dict[str, float]:
        """How many different premises there are."""
        return {"premises": len(set(self.premises))}


def describe_splits(splits: dict[str, Pairs], selection: dict[str, tuple[int, str]], statistics: dict) -> dict:
    """results.json's `data`: every split, and the premises and examples that splits share.

    `selection` and `statistics` have, by split, what `Pairs.describe` takes.
    """
    premises = {name: pairs.premises for name, pairs in splits.items()}
    examples = {name: zip(pairs.premises, pairs.hypotheses) for name, pairs in splits.items()}
    return {
        "splits": {name: pairs.describe(*selection[name], **statistics[name]) for name, pairs in splits.items()},
        "overlaps": overlap(premises, "premise") + overlap(examples, "example"),
    }


# Reading


def read_pairs(path: str | Path, **settings) -> Pairs:
    """The pairs of a csv, tsv, json, jsonl or parquet file; `settings` as for `pairs_from_rows`."""
    return pairs_from_rows(read_rows(path), str(path), **settings)


def pairs_from_rows(
    rows: list[dict],
    source: str,
    *,
    classes: Classes,
    truth: bool | None,
    skip_bad: bool,
    columns: Mapping[str, str | None] | None = None,
    label_order: tuple[str, ...] | None = None,
    names: tuple[str, ...] | None = None,
) -> Pairs:
    """Pairs of rows with a premise, a hypothesis and, maybe, a label.

    Rows whose gold label is `-` or -1 are left out and counted, always. The ids are those of the rows, where they are
    all different, else the number of the row, from 1.

    Args:
        classes: name -> its other spellings, of the classes that are known; their order is that of the labels. Labels
            without any of these names are classes of the user's own, in alphabetical order.
        truth: True: labels are needed; None: taken where there are any.
        skip_bad: bad pairs are counted and left out; otherwise the first one is an error.
        columns: "premise", "hypothesis" and "label" -> the column's name, where it is not to be found by itself.
        label_order: the names that the labels 0, 1, 2, ... stand for.
        names: the classes, in order, that there may be: those of the training data. None: those that are found.

    Raises:
        UserError: a missing column, a bad pair, an unknown label or numbers that nobody has explained.
    """
    found = _columns(rows, source, columns or {}, label_needed=bool(truth))
    cells = {part: [row.get(column) for row in rows] for part, column in found.items()}
    labels = _label_texts(cells.get("label", []), source)
    told = any(label not in (None, "", *NO_GOLD_LABEL) for label in labels)
    if truth and not told:
        raise UserError(f"{source}: no row has a label in the column {found['label']!r}; it may be a hidden test set")
    labels = labels if told else None
    whose = "" if names is None else " of the training data,"
    names, index_of = classes_of_labels(labels, source, classes, label_order, names) if told else (names or (), {})
    kept, skipped = _checked(
        cells["premise"], cells["hypothesis"], labels, index_of, f"the classes{whose} {listed(names)}", source, skip_bad
    )
    if not kept:
        raise UserError(f"{source}: no usable pair" + (f" ({skipped})" if skipped else ""))
    groups = {
        column: [words.get(value, value) for value in _texts([row.get(column) for row in rows])]
        for column, words in GROUP_COLUMNS.items()
        if any(column in row for row in rows)
    }
    everything = Pairs(
        ids=_ids(rows),
        premises=cells["premise"],
        hypotheses=cells["hypothesis"],
        labels=np.array([index_of.get(label, -1) for label in labels], dtype=np.int64) if told else None,
        names=tuple(names),
        groups=groups,
        source=source,
        skipped=skipped,
    )
    return everything.take(np.array(kept)) if skipped else everything


def _columns(rows: list[dict], source: str, given: Mapping[str, str | None], *, label_needed: bool) -> dict[str, str]:
    """ "premise", "hypothesis" and, where there is one, "label" -> the column's name in these rows."""
    there = list(dict.fromkeys(name for row in rows for name in row))  # rows of json need not all have the same ones
    require_columns(there, [name for name in given.values() if name], source)
    folded = {name.casefold(): name for name in reversed(there)}
    found = {}
    for part, known in COLUMNS.items():
        found[part] = given.get(part) or next((folded[name] for name in known if name in folded), None)
        if found[part] is None and (part != "label" or label_needed):
            raise UserError(
                f"{source}: no column for the {part}; it has {listed(there)} and is searched for {listed(known)}; "
                f"name yours with --{part}_column"
            )
    return {part: column for part, column in found.items() if column is not None}


def _ids(rows: list[dict]) -> list[str]:
    folded = {name.casefold(): name for name in reversed(rows[0])}
    for name in (folded[known] for known in ID_COLUMNS if known in folded):
        ids = _texts([row.get(name) for row in rows])
        if all(ids) and len(set(ids)) == len(ids):
            return ids
    return [str(number) for number in range(1, len(rows) + 1)]


def _texts(values: list) -> list[str]:
    return ["" if value is None else str(value) for value in values]


def _label_texts(values: list, source: str) -> list[str | None]:
    """Labels as text, None for null cells; numbers with nothing behind their point are written without it."""
    for number, value in enumerate(values, start=1):
        if isinstance(value, list | dict):
            raise UserError(f"{source}: row {number}: the label must be a name or a number, not {value!r:.60}")
    text_of = {value: str(value).strip() for value in set(values)}
    text_of = {value: str(int(float(t))) if NUMBER.fullmatch(t) else t for value, t in text_of.items()}
    return [None if value is None or value != value else text_of[value] for value in values]


def _checked(premises, hypotheses, labels, index_of, known: str, source: str, skip_bad: bool) -> tuple[list[int], dict]:
    """The rows to keep, and reason -> how many were left out; the first bad one stops the run without `skip_bad`."""
    kept, skipped = [], {}
    for i, texts in enumerate(zip(premises, hypotheses)):
        if labels is not None and labels[i] in NO_GOLD_LABEL:
            skipped["no gold label"] = skipped.get("no gold label", 0) + 1
            continue
        problem = _text_problem(*texts)
        if not problem and labels is not None and labels[i] not in index_of:
            problem = _label_problem(labels[i], known)
        if not problem:
            kept.append(i)
            continue
        reason, sentence = problem
        if not skip_bad:
            raise UserError(f"{source}: row {i + 1}: {sentence}; mend it or pass --on_bad_example skip")
        skipped[reason] = skipped.get(reason, 0) + 1
    return kept, skipped


def _text_problem(premise: object, hypothesis: object) -> tuple[str, str] | None:
    """The reason (to count) and the sentence (to say) of what is wrong with the texts of a pair, or None."""
    for part, text in (("premise", premise), ("hypothesis", hypothesis)):
        if text is None or (isinstance(text, str) and not text.strip()):
            return f"empty {part}", f"the {part} is empty"
        if not isinstance(text, str):
            return f"{part} of a wrong type", f"the {part} must be text, not {text!r:.60}"
        if not is_unicode(text):
            return f"{part} is not Unicode", f"the {part} has half a surrogate pair, which is no character"
    return None


def _label_problem(label: str | None, known: str) -> tuple[str, str]:
    if not label:
        return "no label", "the label is empty"
    if NUMBER.fullmatch(label):
        return "unknown label", f"the label is the number {label}, for which --label_order has no name"
    return "unknown label", f"the label {label[:60]!r} is not among {known}"


# Statistics


@lru_cache(maxsize=1024)
def _words(text: str) -> frozenset[str]:
    return frozenset(WORD.findall(unicodedata.normalize("NFC", text).casefold()))


def word_overlap(pairs: Pairs) -> np.ndarray:
    """float64 [N]: the share of the hypothesis's words, each counted once, that the premise has; 0 without words."""
    shares = np.zeros(len(pairs))
    for i, (premise, hypothesis) in enumerate(zip(pairs.premises, pairs.hypotheses)):
        words = _words(hypothesis)
        shares[i] = len(words & _words(premise)) / max(len(words), 1)
    return shares
