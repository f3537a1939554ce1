"""Which rows of a table are for training, validation and test: by chance with equal shares of the classes, or by time.

Not for reading tables (`common.legacy.tables`), nor for recordings, which have speakers (`common.legacy.splitting`).
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from common.legacy.errors import UserError
from common.legacy.table_cells import few
from common.legacy.tables import Table

How = Literal["stratified", "time"]


def split_table(
    table: Table, how: How, shares: Mapping[str, float], seed: int, time_column: str | None
) -> dict[str, np.ndarray]:
    """Part -> its rows (positions in `table`, int64); every row is in one part, and both classes are in every part.

    Args:
        how: "stratified": at random, with the classes in equal shares; rows ascending. "time": a part is what comes
            last, in order of time, cut between two rows of different times that are nearest to the share.
        shares: in the order they are cut off: {"test": 0.3, "validation": 0.2} is 30 % of all rows, then 20 % of the
            rest. What is left is "train", which comes first in what is returned. A part of share 0 is left out.
        time_column: what "time" goes by; None: the order of the rows.

    Raises:
        UserError: a part that would be empty or without one of the classes, or no such column.
    """
    shares = {name: share for name, share in shares.items() if share > 0}
    parts = _by_time(table, shares, time_column) if how == "time" else _at_random(table, shares, seed)
    for name, rows in parts.items():
        positive = np.count_nonzero(table.target[rows])
        if positive in (0, len(rows)):
            lacking = "positive (fraud)" if positive == 0 else "legitimate"
            raise UserError(
                f"{table.source}: no {lacking} row among the {len(rows):,} of the part {name!r}; choose other shares"
                + (", or --split stratified" if how == "time" else "")
            )
    return parts


def _at_random(table: Table, shares: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    from sklearn.model_selection import train_test_split

    left, parts = np.arange(len(table)), {}
    for name, share in shares.items():
        size, target = round(share * len(left)), table.target[left]
        if not 2 <= size <= len(left) - 2 or np.bincount(target, minlength=2).min() < 2:
            raise UserError(
                f"{table.source}: {len(left):,} rows, of which {np.count_nonzero(target):,} are positive (fraud), are "
                f"too few for a part {name!r} of {100 * share:g} % with both classes; give more rows or a file for it"
            )
        left, parts[name] = train_test_split(left, test_size=size, stratify=target, random_state=seed)
    return {"train": np.sort(left), **{name: np.sort(rows) for name, rows in parts.items()}}


def _by_time(table: Table, shares: Mapping[str, float], time_column: str | None) -> dict[str, np.ndarray]:
    if time_column is None:
        times = order = np.arange(len(table))
    elif time_column in table.columns:
        times = table.features[:, table.columns.index(time_column)]
        order = np.argsort(times, kind="stable")
    else:
        raise UserError(
            f"{table.source}: no column {time_column!r} to split by; it has {few(table.columns)}; name yours with "
            "--time_column, or give --split stratified"
        )
    changes = np.flatnonzero(np.diff(times[order])) + 1  # the first row of every new time
    end, parts = len(order), {}
    for name, share in shares.items():
        changes = changes[changes < end]
        if not len(changes):
            raise UserError(
                f"{table.source}: no two rows of different times are left to cut the part {name!r} off; give a file "
                "for it, or --split stratified"
            )
        begin = int(changes[np.argmin(np.abs(changes - (end - round(share * end))))])
        parts[name], end = order[begin:end], begin
    return {"train": order[:end], **parts}
