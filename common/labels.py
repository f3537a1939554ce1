"""Classes known by name: what labels in data and the classes of a checkpoint are called, and in which order.

What 0, 1 and 2 stand for differs between data sets and between checkpoints; taking one order for another's costs no
error, only the accuracy. So numbers and generic names are refused until somebody says what they mean.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence

import datasets
import numpy as np
import pandas as pd

from common.data import Splits, label_counts
from common.errors import UserError
from common.files import listed, where

NO_GOLD_LABEL = ("-", "-1")  # SNLI's and MultiNLI's annotators disagreed; the sets are published with these rows
NUMBER = re.compile(r"([-+]?\d+)(\.0*)?")
SCORE = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)? ?%?")
INVISIBLE = "".join(c for c in map(chr, range(0x10000)) if c.isspace() or unicodedata.category(c) in ("Cc", "Cf"))
UNNAMED, GENERIC_NAME = re.compile(r"LABEL_\d+"), re.compile(r"((LABEL|CLASS)[_ ]?)?\d+", re.IGNORECASE)
Known = Mapping[str, Sequence[str]]  # class -> its other spellings; the order is that of the ids


def tidy(label: object) -> str:
    """A label as text: characters composed, without white space and what is invisible at its ends."""
    return unicodedata.normalize("NFC", str(label)).strip(INVISIBLE)


def canonical(label: str, known: Known, letters: bool = True) -> str:
    """The known name of a label, in whatever spelling (a letter only if `letters`); of an unknown class as it is."""
    label = tidy(label)
    folded = label.casefold()
    spelt = (name for name, others in known.items() if folded in (name.casefold(), *(o.casefold() for o in others)))
    return next(spelt, label) if letters or len(label) > 1 else label


def are_known(labels: Iterable[str], known: Known) -> bool:
    """Whether labels are of the known classes: all of them, or some beside all of these (the others are mistakes)."""
    names = {canonical(label, known) for label in labels}
    return names <= known.keys() or (bool(known) and names >= known.keys())


def all_canonical(labels: Collection[str], known: Known) -> list[str]:
    """The known names of labels; letters count where all labels are known: the n of n and p is not neutral's."""
    letters = are_known(labels, known)
    return [canonical(label, known, letters) for label in labels]


def in_order(label_order: Sequence[str], known: Known) -> list[str]:
    """The names of `--label_order`, as known; raises `UserError` for a class that it names twice."""
    names = all_canonical(label_order, known)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"--label_order {','.join(label_order)}: names the class {twice!r} twice; give each class once")
    return names


def encode_labels(
    frame: pd.DataFrame,
    column: str,
    *,
    known: Known = {},  # noqa: B006 never changed
    label_order: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> tuple[np.ndarray | None, datasets.ClassLabel | None, dict[int, tuple[str, str | None]]]:
    """The labels of a column of `read_files`, by name.

    Known classes (`are_known`) have the order of `known`; others that of the file's schema, of `label_order` (the names
    that the labels 0, 1, 2, ... stand for), or of the alphabet. There may be no others than `names`, in that order:
    those of the training data. None: those that are found.

    Returns:
        ids int64 [N] (-1 where there is none), the feature, and what `files.without_bad` needs to know of bad rows; ids
        are None if no row has a label (a hidden test set).

    Raises:
        UserError: numbers that nobody has explained, or scores.
    """
    texts = _texts(frame, column)
    first: dict[str, int] = {}  # label -> the row where it stands first
    for i, text in enumerate(texts):
        if text and text not in NO_GOLD_LABEL:
            first.setdefault(text, i)
    if not first:
        return None, datasets.ClassLabel(names=list(names)) if names else None, {}
    if len(first) > 1000:
        what = f"{frame.attrs['source']}: the column {column!r} has {len(first):,} different labels"
        raise UserError(f"{what}; name the column of the classes")
    order, schema = in_order(label_order or (), known), frame.attrs.get("label_names", {}).get(column)
    hidden = frame[column].isna().to_numpy() & bool(schema)  # what a schema counts as -1
    if order and any(NUMBER.fullmatch(name) for name in schema or ()):
        schema = None
    numbers = [] if schema else _checked_numbers(frame, first, order, known)
    meant = {n: order[int(n)] for n in numbers if n.isdecimal() and len(n) < 10 and int(n) < len(order)}
    words, spelt = [text for text in first if text not in numbers], {name.casefold(): name for name in order}
    ours = {*order} <= known.keys() and are_known(names or schema or [*words, *meant.values()], known)
    for word in words:
        name = canonical(word, known, letters=ours)
        meant[word] = spelt.setdefault(name.casefold(), name)  # case does not make another class
    if names is None:
        ranked = [canonical(name, known, ours) for name in schema] if schema else [*order, *sorted({*meant.values()})]
        there = {*ranked} if schema else {*meant.values()}
        names = [name for name in dict.fromkeys(known if ours else ranked) if name in there]
    id_of = {name.casefold(): i for i, name in enumerate(names)}
    ids = np.array([id_of.get(meant.get(text, "").casefold(), -1) for text in texts], dtype=np.int64)
    problems = {i: _problem(texts[i], names, hidden[i]) for i in np.flatnonzero(ids < 0).tolist()}
    return ids, datasets.ClassLabel(names=list(names)), problems


def _texts(frame: pd.DataFrame, column: str) -> list[str]:
    """Labels as text, "" for missing ones; numbers with nothing behind their point are written without it."""
    texts = []
    for i, value in enumerate(frame[column].tolist()):
        if isinstance(value, list | dict | bytes):
            raise UserError(f"{where(frame, i)}: the label must be a name or a number, not {value!r:.60}")
        text = "" if value is None or value != value else tidy(value)
        number = NUMBER.fullmatch(text)
        texts.append(number[1] if number else text)
    return texts


def _checked_numbers(frame, first: dict[str, int], order: list[str], known: Known) -> list[str]:
    """The labels that are whole numbers, where these may be; refuses scores."""
    numbers = [text for text in first if NUMBER.fullmatch(text)]
    if score := next((text for text in first if SCORE.fullmatch(text) and text not in numbers), None):
        remedy = "make classes of the scores first, or name another column"
        raise UserError(f"{where(frame, first[score])}: the label {score[:40]} is a score, not a class; {remedy}")
    if numbers and not order:
        raise UserError(
            f"{where(frame, first[numbers[0]])}: the label is the number {numbers[0][:40]}, which says nothing about "
            "its class; give --label_order with the names that 0, 1, ... stand for, such as "
            f"--label_order {','.join(known) or 'first,second'}"
        )
    return numbers


def _problem(text: str, names: Sequence[str], hidden: bool) -> tuple[str, str | None]:
    if hidden or text in NO_GOLD_LABEL:
        return "no gold label", None
    if not text:
        return "no label", "the label is empty"
    return "unknown label", f"the label {text[:60]!r} is not among the classes {listed(names)}"


def class_names_of(
    id2label: Mapping[int, str], checkpoint: str, names: Sequence[str], *, known: Known, label_order=None
) -> list[str]:
    """The classes of the model `checkpoint`, in its own order, named as in the data.

    `names`: the data's classes; each must be one of the model's, which may have more than a small file shows. Raises
    `UserError`: nameless classes (LABEL_0, ...) without as many names in `label_order`, or other classes.
    """
    labels = [label for _, label in sorted((int(i), str(label)) for i, label in id2label.items())]
    if _generic(labels, names):
        if label_order is None or len(label_order) != len(labels):
            raise UserError(
                f"{checkpoint}: calls its {len(labels)} classes {', '.join(labels[:10])}, which does not say what they "
                "mean; give --label_order with a name for each, in this order, such as "
                f"--label_order {','.join(names or known) or 'first,second'}"
            )
        labels = in_order(label_order, known)
    same = {name.casefold(): name for name in names}
    found = [same.get(name.casefold(), name) for name in all_canonical(labels, known)]
    if len({*found}) < len(found) or not {*names} <= {*found}:
        raise UserError(
            f"{checkpoint}: was trained for {len(labels)} classes, {listed(labels)}, but the data have {len(names)}, "
            f"{listed(names)}; choose a model for these classes, or a pre-trained one without a classification head"
        )
    return found


def align_with_checkpoint(
    splits: Splits,
    id2label: Mapping[int, str] | None,
    checkpoint: str,
    *,
    known: Known,
    label_order=None,
    training: bool,
) -> Splits:
    """The splits with "labels" counted in the order of the classes that the model was trained for, if it was.

    `id2label`: its classes; None: it is no trained classifier. In `training` a model for other classes gets a new
    head, and the data's order stays. Raises `UserError` as `class_names_of`, else.
    """
    labelled = {name: split for name, split in splits.items() if "labels" in split.features}
    names = list(dict.fromkeys(name for split in labelled.values() for name in split.features["labels"].names))
    if id2label is None or (training and len(id2label) != len(names)):
        return splits
    try:
        found = class_names_of(id2label, checkpoint, names, known=known, label_order=label_order)
    except UserError:
        if not training or _generic([*map(str, id2label.values())], names):
            raise
        return splits
    for name, split in labelled.items():
        position = [found.index(label) for label in split.features["labels"].names]
        ids = [position[old] if old is not None and old >= 0 else -1 for old in split["labels"][:]]
        feature = datasets.ClassLabel(names=found)
        splits[name] = split.remove_columns("labels").add_column("labels", ids, feature=feature)
        if counts := label_counts(splits[name]):
            splits.facts[name]["label_counts"] = counts
    return splits


def _generic(labels: Sequence[str], names: Sequence[str]) -> bool:
    """Whether classes are nameless: LABEL_0, ..., or numbers that are not the data's names, as of spoken digits."""
    unnamed = all(UNNAMED.fullmatch(label) for label in labels)
    return unnamed or (all(GENERIC_NAME.fullmatch(label) for label in labels) and not {*names} <= {*labels})
