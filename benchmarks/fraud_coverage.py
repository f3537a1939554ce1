"""How often the 95 % intervals of run_fraud.py hold the true value: simulated, where the true value is known.

    python -m benchmarks.fraud_coverage
    python -m benchmarks.fraud_coverage --draws 500 --rows 100000

Detectors give normal scores: a good one, one that is nearly perfect, and one that finds half of the frauds at once and
the others hardly. Every draw is a test set of its own, with as many frauds as the head of the column says.
"""

import argparse
from collections import defaultdict

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score
from tqdm import tqdm

from common.metrics.detection import detection_scores
from common.tabular.columns import Part
from common.tabular.detection import Detections, detection_metrics

SCORES = ("auprc", "roc_auc", "precision", "recall", "f1", "mcc", "accuracy")
FRAUDS = (20, 50, 150, 500)
# What is added to the score of a fraud: (share of the frauds, by how many standard deviations).
DETECTORS = {"good": [(1.0, 3.5)], "nearly perfect": [(1.0, 6.0)], "mixed": [(0.5, 6.0), (0.5, 1.0)]}
POPULATION = 400_000  # scores of each class, for the true values


def scores_of(frauds: int, legitimate: int, kinds: list, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(truth, probability) of rows of both classes."""
    shares, shifts = zip(*kinds)
    scores = random.standard_normal(frauds + legitimate)
    scores[:frauds] += random.choice(shifts, frauds, p=shares)
    return np.repeat([1, 0], [frauds, legitimate]).astype(np.int8), 1 / (1 + np.exp(3 - scores))


def true_values(kinds: list, share: float, threshold: float) -> dict[str, float]:
    """Of infinitely many rows of which `share` are frauds, as nearly as `POPULATION` scores of each class tell."""
    truth, said = scores_of(POPULATION, POPULATION, kinds, np.random.default_rng(1))
    weights = np.where(truth == 1, share, 1 - share)
    called = said >= threshold
    table = np.array([[weights[(truth == row) & (called == column)].sum() for column in (0, 1)] for row in (0, 1)])
    areas = [average_precision_score(truth, said, sample_weight=weights), roc_auc_score(truth, said)]
    right = np.trace(table) / table.sum()
    values = [*areas, *detection_scores(table[None])[0], right]
    return {name: value if name == "mcc" else 100 * value for name, value in zip(SCORES, values)}


def coverage(frauds: int, rows: int, kinds: list, draws: int, progress: tqdm) -> dict[str, float]:
    """Score -> percent of the draws whose interval holds the true value."""
    threshold, random, held = 0.5, np.random.default_rng(frauds), defaultdict(int)
    truth = true_values(kinds, frauds / rows, threshold)
    args = argparse.Namespace(miss_cost=100.0, alert_cost=1.0, alerts_per_day=100)
    for _ in range(draws):
        target, said = scores_of(frauds, rows - frauds, kinds, random)
        none = np.zeros((rows, 0), dtype=np.float32)
        part = Part({}, none, target, *[np.full(rows, np.nan)] * 2, np.ones(rows, dtype=bool), pd.DataFrame())
        found = detection_metrics(Detections(part, said, threshold), args)
        for name in SCORES:
            held[name] += found[name]["low"] - 1e-9 <= truth[name] <= found[name]["high"] + 1e-9
        progress.update()
    return {name: 100 * held[name] / draws for name in SCORES}


def main(argv: list[str] | None = None) -> dict[str, dict[int, list[float]]]:
    """Prints a table; returns score -> frauds -> coverage (percent) of each detector."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200, help="test sets a cell (default 200)")
    parser.add_argument("--rows", type=int, default=10_000, help="of a test set (default 10,000)")
    options = parser.parse_args(argv)
    table: dict = {name: {frauds: [] for frauds in FRAUDS} for name in SCORES}
    with tqdm(total=len(DETECTORS) * len(FRAUDS) * options.draws, disable=None) as progress:
        for kinds in DETECTORS.values():
            for frauds in FRAUDS:
                for name, percent in coverage(frauds, options.rows, kinds, options.draws, progress).items():
                    table[name][frauds].append(percent)
    print(f"coverage in %, {', '.join(DETECTORS)}; {options.rows:,} rows, {options.draws} draws a cell")
    print("| score | " + " | ".join(f"{frauds} frauds" for frauds in FRAUDS) + " |\n|---|" + "---|" * len(FRAUDS))
    for name, cells in table.items():
        print(
            f"| {name} | " + " | ".join(", ".join(f"{value:.0f}" for value in cell) for cell in cells.values()) + " |"
        )
    return table


if __name__ == "__main__":
    main()
