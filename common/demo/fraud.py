"""Built-in card payments for run_fraud.py --demo and for measuring time: synthetic, a function of the seed alone, with
the columns, ranges and class sizes of the ULB set. Not for measuring how well frauds are found.
"""

from pathlib import Path

import numpy as np

DEVIATIONS = np.geomspace(1.95, 0.33, 28)  # of V1 to V28, as of a principal component analysis
# Kinds of fraud: share, {component: shift in standard deviations}. What shows one kind hides another (V4, V7, V14), so
# that a line cannot divide them all; the last kind hardly shows.
KINDS = (
    (0.40, {14: -9.0, 12: -8.0, 17: -9.0, 10: -7.0, 4: 4.0, 11: 5.0}),
    (0.25, {3: -6.0, 7: -8.0, 1: -5.0, 16: -6.0, 14: -5.0}),
    (0.25, {4: -5.0, 7: 7.0, 14: 5.0, 21: 8.0, 9: 5.0}),
    (0.10, {4: 0.8, 14: -0.9, 19: 0.7, 26: 0.6}),
)


def synthetic_cards(rows: int = 40_000, frauds: int = 120, seed: int = 0) -> dict[str, np.ndarray]:
    """Columns Time (seconds), V1 to V28, Amount, float64 [rows], and Class, int64 [rows], 1 = fraud; sorted by Time."""
    random = np.random.default_rng(seed)
    classes, time = np.zeros(rows, dtype=np.int64), np.sort(random.integers(0, 2 * 24 * 3600, rows))
    classes[random.choice(rows, frauds, replace=False)] = 1
    components = random.lognormal(0, 0.3, (rows, 1)) * random.standard_t(5, (rows, len(DEVIATIONS)))  # heavy tails
    kinds = random.choice(len(KINDS), frauds, p=[share for share, _ in KINDS])
    for row, kind in zip(np.flatnonzero(classes), kinds):
        shifts = KINDS[kind][1]
        components[row, np.array([*shifts]) - 1] += random.uniform(0.4, 1.5) * np.array([*shifts.values()])
    amounts = random.lognormal(3.1, 1.6, rows).clip(max=25_691.16)
    named = {f"V{at}": np.round(column, 6) for at, column in enumerate((components * DEVIATIONS).T, start=1)}
    return {"Time": time.astype(float), **named, "Amount": np.round(amounts, 2), "Class": classes}


def fraud_demo(folder: Path) -> str:
    """Writes `synthetic_cards()` as folder/creditcard.parquet; returns its path."""
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(synthetic_cards()).to_parquet(folder / "creditcard.parquet")
    return str(folder / "creditcard.parquet")
