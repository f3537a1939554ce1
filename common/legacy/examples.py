"""What examples of all kinds have in common: classes by name, and what results.json says of a part of them.

A base of the dataclasses that hold examples (`Pairs`, `Recordings`, `Questions`); what makes them different is there.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Self

import numpy as np

from common.legacy.class_names import listed
from common.legacy.data import fingerprint
from common.legacy.errors import UserError


class Examples:
    """N examples. A subclass is a dataclass with source (str), skipped (reason -> examples left out), and, if it is for
    classes, names (C of them) and labels (int [N], or None where they are unknown)."""

    what = "examples"  # what they are called in messages

    def rows(self) -> Iterator[tuple]:
        """The content of each example, ready for json, for fingerprints."""
        raise NotImplementedError

    def statistics(self) -> dict[str, float]:
        """Numbers that say what these examples are like, for results.json."""
        return {}

    def label_counts(self) -> dict[str, int] | None:
        """How many examples each class has, in the order of the names; None where that is unknown."""
        if self.labels is None:
            return None
        return dict(zip(self.names, np.bincount(self.labels, minlength=len(self.names)).tolist()))

    def relabelled(self, names: tuple[str, ...]) -> Self:
        """The same examples with labels counted in the order of `names`; `UserError` for a class that is not there."""
        if self.labels is None:
            return replace(self, names=tuple(names))
        missing = [name for name, count in self.label_counts().items() if count and name not in names]
        if missing:
            raise UserError(
                f"{self.source}: the classes {listed(missing)} are not among {listed(names)}; use a model that was "
                f"trained for them, or leave these {self.what} out"
            )
        order = np.array([names.index(name) if name in names else -1 for name in self.names], dtype=np.int64)
        return replace(self, labels=order[self.labels], names=tuple(names))

    def describe(self, available: int, selection: str, **statistics: float) -> dict:
        """What results.json says of a split; `available` and `selection`: of how many, and how, they were chosen."""
        counts = self.label_counts()
        described = {
            "source": self.source,
            "examples": len(self),
            "available": available,
            "selection": selection,
            "fingerprint": fingerprint(self.rows()),
            "skipped": self.skipped,
            "statistics": {**self.statistics(), **statistics},
        }
        return described if counts is None else {**described, "label_counts": counts}
