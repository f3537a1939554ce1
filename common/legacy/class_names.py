"""Classes known by name: what labels in data and the classes of a checkpoint are called, and in which order.

What 0, 1 and 2 stand for differs between data sets and between checkpoints; taking one order for another's costs no
error, only the accuracy. So numbers and generic names are refused until somebody says what they mean.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from common.legacy.errors import UserError

NO_GOLD_LABEL = ("-", "-1")  # SNLI's and MultiNLI's annotators disagreed; the sets are published with these rows
NUMBER = re.compile(r"-?\d+(\.0+)?")
GENERIC_NAME = re.compile(r"LABEL_\d+")
Classes = Mapping[str, tuple[str, ...]]
Examples = TypeVar("Examples")  # `common.legacy.examples.Examples`


def listed(names: Iterable[str]) -> str:
    """Names for a message."""
    return ", ".join(map(repr, names))


def canonical(label: str, classes: Classes) -> str:
    """The known name of a label, in whatever spelling; a label of an unknown class as it is."""
    folded = label.strip().casefold()
    known = (n for n, spellings in classes.items() if folded in (n.casefold(), *(s.casefold() for s in spellings)))
    return next(known, label.strip())


def in_order(label_order: Iterable[str], classes: Classes) -> list[str]:
    """The known names of `label_order`; raises `UserError` for a class that it names twice."""
    names = [canonical(name, classes) for name in label_order]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"--label_order {','.join(label_order)}: names the class {twice!r} twice; give each class once")
    return names


def classes_of_labels(
    labels: list[str | None], source: str, classes: Classes, label_order, names
) -> tuple[tuple, dict]:
    """The classes in order, and label -> its class's index for the labels that are right."""
    distinct = dict.fromkeys(label for label in labels if label and label not in NO_GOLD_LABEL)
    numbers = [label for label in distinct if NUMBER.fullmatch(label)]
    if numbers and label_order is None:
        raise UserError(
            f"{source}: row {labels.index(numbers[0]) + 1}: the label is the number {numbers[0]}, which says nothing "
            "about its class; give --label_order with the names that 0, 1, ... stand for, such as "
            f"--label_order {','.join(classes)}"
        )
    order = in_order(label_order or (), classes)
    meant = {label: canonical(label, classes) for label in distinct if label not in numbers}
    meant |= {number: order[int(number)] for number in numbers if 0 <= int(number) < len(order)}
    if names is None:
        there = set(meant.values())
        # Where all known classes are there, a name beside them is a mistake; otherwise the classes are others.
        known = there <= classes.keys() or there >= classes.keys()
        names = [name for name in dict.fromkeys(classes if known else [*order, *sorted(there)]) if name in there]
    index = {name: i for i, name in enumerate(names)}
    return tuple(names), {label: index[name] for label, name in meant.items() if name in index}


def classes_of_checkpoint(
    id2label: Mapping[int, str],
    checkpoint: str,
    names: tuple[str, ...],
    *,
    classes: Classes,
    label_order: tuple[str, ...] | None,
) -> tuple[str, ...]:
    """The classes of a model that has a classification head, in its own order, named as in the data.

    Args:
        id2label: from the model's configuration.
        checkpoint: what it is called, for messages.
        names: the data's classes; each must be one of the model's. The model may have more than a small file shows.
        classes, label_order: as for `pairs_from_rows`; the order is used for a model that calls its own LABEL_0, ...

    Raises:
        UserError: nameless classes without `label_order`, a `label_order` of another length, or other classes.
    """
    labels = [label for _, label in sorted((int(i), str(label)) for i, label in id2label.items())]
    if all(GENERIC_NAME.fullmatch(label) for label in labels):
        if label_order is None:
            raise UserError(
                f"{checkpoint}: calls its classes {', '.join(labels)}, which does not say what they mean; give "
                f"--label_order with their names in this order, such as --label_order {','.join(names or classes)}"
            )
        if len(label_order) != len(labels):
            raise UserError(
                f"{checkpoint}: has {len(labels)} classes, but --label_order names {len(label_order)}: "
                f"{listed(label_order)}"
            )
        labels = in_order(label_order, classes)
    found = [canonical(label, classes) for label in labels]
    same = {name.casefold(): name for name in names}
    found = [name if name in names else same.get(name.casefold(), name) for name in found]
    others = [name for name in names if name not in found]
    if others:
        raise UserError(
            f"{checkpoint}: was trained for {len(labels)} classes, {listed(labels)}, but the data have {len(names)}, "
            f"{listed(names)}; choose a model for these classes, or a pre-trained one without a classification head"
        )
    return tuple(found)


def in_order_of(
    trained_for: Mapping[int, str] | None,
    splits: dict[str, Examples],
    checkpoint: str,
    *,
    classes: Classes,
    label_order: tuple[str, ...] | None,
    training: bool,
) -> dict[str, Examples]:
    """The splits with labels counted in the order of the classes that the model was trained for, if it was.

    Args:
        trained_for: the model's classes by index; None: it is no trained classifier.
        checkpoint, classes, label_order: as for `classes_of_checkpoint`.

    Raises:
        UserError: it was trained for other classes and will not be trained, or calls its own LABEL_0, ...
    """
    names = splits["train"].names if "train" in splits else max((s.names for s in splits.values()), key=len)
    other_head = training and trained_for is not None and len(trained_for) != len(names)  # it will be replaced
    if trained_for is not None and not other_head:
        names = classes_of_checkpoint(trained_for, checkpoint, names, classes=classes, label_order=label_order)
    return {name: split.relabelled(names) for name, split in splits.items()}
