"""Built-in card payments of run_fraud.py, so that `--demo` runs without a network and learns.

Synthetic throughout, with the columns, ranges and class sizes of the ULB set ("Credit Card Fraud Detection"); a
function of the seed alone. Also at the full size of that set, for measuring time and memory; not for measuring how well
frauds are found.
"""

from pathlib import Path

import numpy as np

COMPONENTS = 28  # V1 to V28, as of a principal component analysis: each with less variance than the one before
DEVIATIONS = np.geomspace(1.95, 0.33, COMPONENTS)
TAIL = 5  # degrees of freedom of Student's t
SECONDS = 2 * 24 * 3600
BY_HOUR = np.array([4, 2, 2, 2, 1, 2, 2, 4, 6, 8, 8, 8, 8, 8, 8, 8, 8, 8, 9, 9, 9, 9, 8, 6], dtype=np.float64)
LARGEST_AMOUNT = 25_691.16
COPIES, COPIED_FRAUDS = 0.004, 0.04  # shares that are exact copies of other rows

# Kinds of fraud: their share, {component: shift in standard deviations}, spread beside that of legitimate payments.
# What shows one kind hides another (V4, V7, V14), so that a line cannot divide them all; the last kind hardly shows.
KINDS = (
    (0.40, {14: -9.0, 12: -8.0, 17: -9.0, 10: -7.0, 4: 4.0, 11: 5.0}, 1.8),
    (0.25, {3: -6.0, 7: -8.0, 1: -5.0, 16: -6.0, 14: -5.0}, 1.8),
    (0.25, {4: -5.0, 7: 7.0, 14: 5.0, 21: 8.0, 9: 5.0}, 1.5),
    (0.10, {4: 0.8, 14: -0.9, 19: 0.7, 26: 0.6}, 0.8),
)
DRIFT = 0.5  # share of its shift that a kind loses by the end of the two days: frauds adapt
UNUSUAL = 0.0003  # of the legitimate payments, half like a fraud
MISLABELLED = 0.02  # of the frauds, legitimate by every sign


def synthetic_cards(rows: int = 40_000, frauds: int = 120, seed: int = 0) -> dict[str, np.ndarray]:
    """Columns Time, V1 to V28, Amount (float64 [rows]) and Class (int64 [rows], 1 = fraud), sorted by Time.

    Time is in whole seconds, over two days with their nights; V1 to V28 have falling standard deviations and heavy
    tails; Amount has cents and is sometimes 0. Frauds are of several kinds, one of them hidden among the legitimate
    rows, and come closer to these in the course of time. A few rows are exact copies, as in the real set.
    """
    generator = np.random.default_rng(seed)
    legitimate = _with_copies(_legitimate, rows - frauds, COPIES, generator)
    fraud = _with_copies(_fraud, frauds, COPIED_FRAUDS, generator)
    table = np.concatenate([legitimate, fraud])
    order = np.argsort(table[:, 0], kind="stable")
    names = ["Time", *(f"V{number + 1}" for number in range(COMPONENTS)), "Amount"]
    columns = {name: table[order, at] for at, name in enumerate(names)}
    return columns | {"Class": (order >= len(legitimate)).astype(np.int64)}


def fraud_demo(folder: Path) -> dict[str, str]:
    """Writes `synthetic_cards()` as folder/creditcard.parquet; returns its path as the script's argument train_file."""
    import pyarrow
    import pyarrow.parquet

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "creditcard.parquet"
    pyarrow.parquet.write_table(pyarrow.table(synthetic_cards()), path, compression="zstd")
    return {"train_file": str(path)}


def _with_copies(make, rows: int, share: float, generator: np.random.Generator) -> np.ndarray:
    """float64 [rows, columns] of make(rows, generator); the given share of them are copies."""
    copies = round(share * rows)
    made = make(rows - copies, generator)
    return np.concatenate([made, made[generator.choice(len(made), copies, replace=False)]])


def _legitimate(rows: int, generator: np.random.Generator) -> np.ndarray:
    time, amount = _times(rows, BY_HOUR, generator), generator.lognormal(3.1, 1.6, rows)
    amount[generator.random(rows) < 0.006] = 0
    components = _components(rows, generator)
    unusual = np.flatnonzero(generator.random(rows) < UNUSUAL)
    components[unusual] += 0.5 * _shifts(generator.integers(len(KINDS), size=len(unusual)))
    return _table(time, components, amount)


def _fraud(rows: int, generator: np.random.Generator) -> np.ndarray:
    time = _times(rows, BY_HOUR + 4, generator)  # thieves sleep less
    amount = generator.lognormal(2.6, 2.0, rows).clip(max=2_500)
    amount[generator.random(rows) < 0.2] = 1
    amount[generator.random(rows) < 0.05] = 0
    parts = np.cumsum([share for share, _, _ in KINDS])
    kind = generator.permutation(np.searchsorted(parts, (np.arange(rows) + 0.5) / rows))
    strength = generator.uniform(0.6, 1.5, rows) * (1 - DRIFT * time / SECONDS)
    spread = np.array([spread for _, _, spread in KINDS])[kind]
    shown = generator.random(rows) >= MISLABELLED
    components = _components(rows, generator) * np.where(shown, spread, 1)[:, None]
    return _table(time, components + (shown * strength)[:, None] * _shifts(kind), amount)


def _times(rows: int, by_hour: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """float64 [rows]: whole seconds, as many in each hour of the day as by_hour [24] says."""
    hours = generator.choice(48, size=rows, p=np.tile(by_hour, 2) / by_hour.sum() / 2)
    return np.floor(3600 * (hours + generator.random(rows)))


def _components(rows: int, generator: np.random.Generator) -> np.ndarray:
    """float64 [rows, COMPONENTS] in standard deviations: uncorrelated, but large in one is often large in others."""
    size = generator.lognormal(0, 0.3, (rows, 1)) / np.exp(0.3**2)
    return size * generator.standard_t(TAIL, (rows, COMPONENTS)) / np.sqrt(TAIL / (TAIL - 2))


def _shifts(kind: np.ndarray) -> np.ndarray:
    """float64 [rows, COMPONENTS] of int [rows]: where the kinds of fraud lie, in standard deviations."""
    centres = np.zeros((len(KINDS), COMPONENTS))
    for row, (_, shifts, _) in enumerate(KINDS):
        centres[row, np.array(list(shifts)) - 1] = list(shifts.values())
    return centres[kind]


def _table(time: np.ndarray, components: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """Rounded: the last bits of exponentials differ between processors."""
    components = np.round(components * DEVIATIONS, 6)
    return np.column_stack([time, components, np.round(amount, 2).clip(max=LARGEST_AMOUNT)])
