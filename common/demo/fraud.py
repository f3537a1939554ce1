"""Built-in card payments for run_fraud.py --demo and for measuring time: synthetic, a function of the seed alone, with
the columns, ranges and class sizes of the ULB set. Not for measuring how well frauds are found.
"""

from pathlib import Path

import numpy as np

COMPONENTS = 28  # V1 to V28, as of a principal component analysis: each with less variance than the one before
DEVIATIONS = np.geomspace(1.95, 0.33, COMPONENTS)
SECONDS = 2 * 24 * 3600
BY_HOUR = np.array([4, 2, 2, 2, 1, 2, 2, 4, 6, 8, 8, 8, 8, 8, 8, 8, 8, 8, 9, 9, 9, 9, 8, 6], dtype=np.float64)
COPIES, COPIED_FRAUDS = 0.004, 0.04  # shares that are exact copies of other rows
# Kinds of fraud: share, {component: shift in standard deviations}, spread. What shows one kind hides another (V4, V7,
# V14), so that a line cannot divide them all; the last kind hardly shows.
KINDS = (
    (0.40, {14: -9.0, 12: -8.0, 17: -9.0, 10: -7.0, 4: 4.0, 11: 5.0}, 1.8),
    (0.25, {3: -6.0, 7: -8.0, 1: -5.0, 16: -6.0, 14: -5.0}, 1.8),
    (0.25, {4: -5.0, 7: 7.0, 14: 5.0, 21: 8.0, 9: 5.0}, 1.5),
    (0.10, {4: 0.8, 14: -0.9, 19: 0.7, 26: 0.6}, 0.8),
)
DRIFT = 0.5  # share of its shift that a kind loses by the end of the two days: frauds adapt
UNUSUAL, MISLABELLED = 0.0003, 0.02  # legitimate rows half like a fraud; frauds legitimate by every sign


def synthetic_cards(rows: int = 40_000, frauds: int = 120, seed: int = 0) -> dict[str, np.ndarray]:
    """Columns Time (seconds), V1 to V28, Amount, float64 [rows], and Class, int64 [rows], 1 = fraud; sorted by Time."""
    random = np.random.default_rng(seed)
    parts = _payments(rows - frauds, 0, COPIES, random), _payments(frauds, 1, COPIED_FRAUDS, random)
    table, classes = np.concatenate(parts), np.repeat([0, 1], [rows - frauds, frauds])
    order = np.argsort(table[:, 0], kind="stable")
    names = ["Time", *(f"V{number + 1}" for number in range(COMPONENTS)), "Amount"]
    return {name: table[order, at] for at, name in enumerate(names)} | {"Class": classes[order]}


def fraud_demo(folder: Path) -> str:
    """Writes `synthetic_cards()` as folder/creditcard.parquet; returns its path."""
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(synthetic_cards()).to_parquet(folder / "creditcard.parquet")
    return str(folder / "creditcard.parquet")


def _payments(count: int, fraud: int, copied: float, random: np.random.Generator) -> np.ndarray:
    """float64 [count, 30] of one class; a share of them are copies."""
    rows = count - round(copied * count)
    by_hour = BY_HOUR + 4 * fraud  # thieves sleep less
    hours = random.choice(48, size=rows, p=np.tile(by_hour, 2) / by_hour.sum() / 2)
    time = np.floor(3600 * (hours + random.random(rows)))
    # Heavy tails, and what is large in one component is often large in others.
    size = random.lognormal(0, 0.3, (rows, 1)) / np.exp(0.3**2)
    components = size * random.standard_t(5, (rows, COMPONENTS)) / np.sqrt(5 / 3)
    shares = np.cumsum([share for share, _, _ in KINDS])
    kind = random.permutation(np.searchsorted(shares, (np.arange(rows) + 0.5) / rows))
    if fraud:
        amount = random.lognormal(2.6, 2.0, rows).clip(max=2_500)
        amount[random.random(rows) < 0.2] = 1
        shown = random.random(rows) >= MISLABELLED
        components *= np.where(shown, np.array([spread for _, _, spread in KINDS])[kind], 1)[:, None]
        strength = shown * random.uniform(0.6, 1.5, rows) * (1 - DRIFT * time / SECONDS)
    else:
        amount = random.lognormal(3.1, 1.6, rows).clip(max=25_691.16)
        strength = 0.5 * (random.random(rows) < UNUSUAL)
    centres = np.zeros((len(KINDS), COMPONENTS))
    for at, (_, shifts, _) in enumerate(KINDS):
        centres[at, np.array(list(shifts)) - 1] = list(shifts.values())
    amount[random.random(rows) < 0.01] = 0
    # Rounded: the last bits of exponentials differ between processors.
    components = np.round((components + strength[:, None] * centres[kind]) * DEVIATIONS, 6)
    made = np.column_stack([time, components, np.round(amount, 2)])
    return np.concatenate([made, made[random.choice(rows, count - rows, replace=False)]])
