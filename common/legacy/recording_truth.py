"""The truth of clips as their source says it: classes by name, and transcripts.

Not for what classes are called in general (`common.legacy.class_names`), nor for how texts are normalised.
"""

import numpy as np

from common.legacy.class_names import NO_GOLD_LABEL, NUMBER, canonical, classes_of_labels, listed
from common.legacy.data import is_unicode
from common.legacy.errors import UserError
from common.legacy.recording_readers import Entries, Reading


def labels_of(entries: Entries, reading: Reading) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """int64 [N], the classes' indices (None: no truth), and their names; clips of no or another class become bad.

    Raises `UserError` where the truth is needed and there is none, or where numbers are not explained.
    """
    labels = None if reading.kind != "label" or reading.truth is False else entries.labels
    distinct = sorted({label for label in labels or () if label and label not in NO_GOLD_LABEL})
    # Folders need not be called by class where no truth is needed.
    doubtful = reading.truth is None and reading.names and not entries.numbered
    if not distinct or (doubtful and not any(canonical(d, reading.classes) in reading.names for d in distinct)):
        if reading.truth and reading.kind == "label":
            remedy = entries.remedies.get("label", "no clip has a label; it may be a hidden test set")
            raise UserError(f"{entries.source}: {remedy}")
        return None, reading.names or ()
    names, index_of = _classes(labels, distinct, entries, reading)
    whose = "" if reading.names is None else " of the training data,"
    for i, label in enumerate(labels):
        if label not in index_of:
            entries.bad.setdefault(i, _label_problem(label, f"the classes{whose} {listed(names)}", entries.numbered))
    return np.array([index_of.get(label, -1) for label in labels], dtype=np.int64), names


def _classes(labels, distinct: list[str], entries: Entries, reading: Reading) -> tuple[tuple[str, ...], dict]:
    """The classes in order, and label -> index for the labels that are right."""
    first = (*(reading.names or ()), *(reading.label_order or entries.order))
    counted = [label for label in distinct if NUMBER.fullmatch(label)] if reading.label_order else []
    classes = reading.classes or dict.fromkeys((*first, *(label for label in distinct if label not in counted)), ())
    if entries.numbered or reading.label_order:
        return classes_of_labels(labels, entries.source, classes, reading.label_order, reading.names)
    meant = {label: canonical(label, classes) for label in distinct}
    if reading.classes:
        found = [label for label in meant.values() if not NUMBER.fullmatch(label)]
        names, _ = classes_of_labels(found, entries.source, classes, None, reading.names)
    else:
        names = reading.names or tuple(name for name in classes if name in meant.values())
    return names, {label: names.index(name) for label, name in meant.items() if name in names}


def _label_problem(label: str, known: str, numbered: bool) -> tuple[str, str]:
    if not label or label in NO_GOLD_LABEL:
        return "no label", "the label is empty"
    if numbered and NUMBER.fullmatch(label):
        return "unknown label", f"the label is the number {label}, for which --label_order has no name"
    return "unknown label", f"the label {label[:60]!r} is not among {known}"


def transcripts_of(entries: Entries, reading: Reading) -> list[str] | None:
    """N transcripts, or None; where they are the truth, clips with an empty one become bad.

    Raises `UserError` where they are needed and there is none.
    """
    told = any(entries.texts or ())
    if reading.kind == "text" and reading.truth and not told:
        remedy = entries.remedies.get("text", "no clip has a transcript; it may be a hidden test set")
        raise UserError(f"{entries.source}: {remedy}")
    if not told or (reading.kind == "text" and reading.truth is False):
        return None
    for i, text in enumerate(entries.texts if reading.kind == "text" else ()):
        if not text:
            entries.bad.setdefault(i, ("empty transcript", "the transcript is empty"))
        elif not is_unicode(text):
            sentence = "the transcript has half a surrogate pair, which is no character"
            entries.bad.setdefault(i, ("transcript is not Unicode", sentence))
    return entries.texts
