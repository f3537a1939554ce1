"""Are two runs different, or is it chance? `python -m benchmarks.compare RUN_A RUN_B`.

RUN_A and RUN_B are output directories of one script, tested on the same data. What they predicted is compared example
by example:

- The interval of the difference B - A is a paired bootstrap: examples are drawn with replacement, for both runs alike.
- p, where an example is right or wrong (accuracy, exact match), is McNemar's exact test: of the examples that only one
  of the two gets right, would a fair coin give A and B shares as unequal? Elsewhere it is the bootstrap's: twice the
  share of drawings in which the difference is 0 or has the other sign.

This says how far the choice of the tested examples may explain the difference, not what another seed of training would
do; and examples count as independent of each other, also where they share a speaker or a text.

    python -m benchmarks.compare outputs/keyword outputs/keyword-sqrt
    python -m benchmarks.compare outputs/qa outputs/qa-minilm --split validation --metric exact --json difference.json

Sources: Bisani and Ney, Bootstrap estimates for confidence intervals (ICASSP 2004); McNemar (Psychometrika 1947).
"""

import argparse
import csv
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np

from common.errors import FORMULA, UserError, exit_status, write_json
from common.report.words import badges, format_difference, format_value, words

CHANCE = 0.05  # from this p on, a difference may be chance
RELIABLE = 2.80  # standard errors: four of five tests find a difference that large (1.96 + 0.84)
DRAWN = 2**20  # numbers drawn at a time
Predictions = list[dict[str, str]]  # the N rows of predictions.csv


# What a metric needs to know of each example: numbers [N, K]


def classes(predictions: Predictions, column: str = "prediction") -> np.ndarray:
    """(true class, predicted class) as numbers, in the order of the names."""
    texts = [(row["truth"], row[column]) for row in predictions]
    return np.unique(texts, return_inverse=True)[1].reshape(-1, 2)


def ranks(predictions: Predictions) -> np.ndarray:
    """(truth, rank): 2k + 1 at the k-th lowest probability of a fraud, 2k between the one before and that one.

    The curve is that of the probabilities, which have many more different values.
    """
    frauds = np.array([row["truth"] == "fraud" for row in predictions])
    probabilities = np.array([float(row["probability"]) for row in predictions])
    marks = np.unique(probabilities[frauds])
    left, right = (np.searchsorted(marks, probabilities, side) for side in ("left", "right"))
    return np.column_stack([frauds, left + right])


def word_errors(predictions: Predictions) -> list:
    """(errors, words of the reference)."""
    kinds = ("substitutions", "deletions", "insertions")
    return [(sum(int(row[kind]) for kind in kinds), len(row["reference"].split())) for row in predictions]


# Figures in percent, each [R], of examples that count as often as `weights` [R, N] say; NaN where undefined


def share(weights: np.ndarray, examples: np.ndarray) -> np.ndarray:
    """The sum of the first column over that of the second: of (errors, words), or of (score, 1) for the mean."""
    part, whole = (weights @ examples).T
    return 100 * part / whole


def by_class(weights: np.ndarray, examples: np.ndarray, name: str, only: int | None = None) -> np.ndarray:
    """The mean of precision, recall or f1 over the classes that have it, or that of the class `only`.

    A class that is there and never predicted has precision 0, as in `common.metrics.classification`.
    """
    numbers = np.arange(examples.max() + 1) if only is None else np.array([only])
    of_class, as_class = (np.equal.outer(column, numbers) for column in examples.T)  # [N, C]
    hits, true, predicted = (weights @ which.astype(float) for which in (of_class & as_class, of_class, as_class))
    found = {"precision": hits / predicted, "recall": hits / true, "f1": 2 * hits / (true + predicted)}[name]
    if name == "precision":
        found = np.where((predicted == 0) & (true > 0), 0.0, found)
    return 100 * np.nansum(found, axis=1) / (~np.isnan(found)).sum(axis=1)


def average_precision(weights: np.ndarray, examples: np.ndarray) -> np.ndarray:
    """The mean over the frauds of the precision at their rank."""
    order = np.argsort(-examples[:, 1])
    truth, falling = examples[order, 0], -examples[order, 1]
    called, frauds = weights[:, order], weights[:, order] * truth
    last = np.searchsorted(falling, falling, "right") - 1  # equal ranks are called fraud together
    precision = np.nan_to_num(frauds.cumsum(axis=1) / called.cumsum(axis=1))[:, last]
    return 100 * (frauds * precision).sum(axis=1) / frauds.sum(axis=1)


@dataclass(frozen=True)
class Measure:
    """A metric of results.json: what it needs of each example, and the figure. binary: an example is right or wrong."""

    examples: Callable[[Predictions], object]
    figure: Callable[[np.ndarray, np.ndarray], np.ndarray]
    higher_is_better: bool = True
    binary: bool = False


THREE = ("precision", "recall", "f1")
FRAUD = 0  # its class: "fraud" stands before "legitimate"
CLASSES = {
    "accuracy": Measure(lambda rows: [(row["truth"] == row["prediction"], 1) for row in rows], share, binary=True),
    **{name: Measure(classes, partial(by_class, name=name)) for name in THREE},
    "unweighted_average_recall": Measure(classes, partial(by_class, name="recall")),
}
DETECTIONS = {
    "auprc": Measure(ranks, average_precision),
    **{
        f"{name}{at}": Measure(partial(classes, column=f"prediction{at}"), partial(by_class, name=name, only=FRAUD))
        for at in ("", "_at_half")
        for name in THREE
    },
}
ANSWERS = {
    "exact": Measure(lambda rows: [(row["exact"], 1) for row in rows], share, binary=True),
    "f1": Measure(lambda rows: [(row["f1"], 1) for row in rows], share),
}
TRANSCRIPTS = {"wer": Measure(word_errors, share, higher_is_better=False)}
MEASURES = {"speech-recognition": TRANSCRIPTS, "question-answering": ANSWERS, "card-fraud": DETECTIONS}  # else CLASSES


def read_results(folder: Path) -> dict:
    """results.json of a finished run that was tested."""
    path = folder / "results.json"
    if not path.is_file():
        what = "the run is not finished, or this is no run's output directory" if folder.is_dir() else "no such folder"
        raise UserError(f"{folder}: no results.json: {what}")
    results = json.loads(path.read_text("utf-8"))
    if results["headline"] is None:
        raise UserError(f"{folder}: nothing to compare: its data have no truth that predictions could be held against")
    return results


def check_comparable(folders: list[Path], both: list[dict], split: str) -> None:
    """Raises UserError unless the two runs were tested on the same data."""
    if both[0]["task"] != both[1]["task"]:
        said = " and ".join(f"{folder} ({found['task']})" for folder, found in zip(folders, both))
        raise UserError(f"{said} are different tasks, which cannot be compared")
    for folder, found in zip(folders, both):
        if split not in found["metrics"]:
            known = ", ".join(found["metrics"])
            raise UserError(f"{folder}: no scores of {split}, which was not evaluated or has no truth; it has: {known}")
    data = [found["data"]["splits"][split] for found in both]
    if data[0]["fingerprint"] != data[1]["fingerprint"]:
        said = " and ".join(
            f"{folder} has {part['examples']:,} examples of {part['source']} (fingerprint {part['fingerprint'][:12]})"
            for folder, part in zip(folders, data)
        )
        raise UserError(f"{split} is different data, which cannot be compared: {said}")


def csv_text(cell: str) -> str:
    """The text that `common.errors.csv_cell` wrote as this cell."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def read_rows(path: Path) -> Predictions:
    """The rows of a file that a run wrote."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; the run's predictions are needed, example by example")
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: csv_text(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def read_predictions(folders: list[Path], split: str) -> list[Predictions]:
    """The predictions of both runs, whose rows are of the same examples."""
    name = "predictions.csv" if split == "validation" else f"{split}_predictions.csv"
    both = [read_rows(folder / name) for folder in folders]
    for number, pair in enumerate(zip_longest(*both, fillvalue={}), start=1):
        known = [tuple(row.get(column) for column in ("id", "truth", "reference")) for row in pair]
        if known[0] != known[1]:
            said = " and ".join(f"{row.get('id', 'missing')} in {folder}" for row, folder in zip(pair, folders))
            raise UserError(f"{name} is not about the same examples: row {number} is {said}")
    return both


def paired_bootstrap(figure: Callable, a: np.ndarray, b: np.ndarray, resamples: int, seed: int) -> tuple:
    """The figure of A, that of B, and B - A in each drawing in which both are defined, of examples a, b [N, K].

    Drawing N examples and counting those of each of U kinds is one draw from a multinomial distribution.
    """
    kinds, counts = np.unique(np.column_stack([a, b]), axis=0, return_counts=True)
    kinds_a, kinds_b = np.split(kinds, 2, axis=1)
    generator, step, drawn = np.random.default_rng(seed), max(1, DRAWN // len(counts)), []
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 is NaN: undefined
        values = [float(figure(counts[None].astype(float), kinds)[0]) for kinds in (kinds_a, kinds_b)]
        for begin in range(0, resamples, step):
            size = min(step, resamples - begin)
            weights = generator.multinomial(len(a), counts / len(a), size=size).astype(float)  # [size, U]
            drawn.append(figure(weights, kinds_b) - figure(weights, kinds_a))
    differences = np.concatenate(drawn)
    return *values, differences[~np.isnan(differences)]


def bootstrap_p(differences: np.ndarray, differing: int) -> float:
    """Two-sided p of drawn differences: how often they are not on the side where most of them are.

    differing: examples that the runs do not do alike. Drawing few of them promises too much: p is at least that of all
    of them speaking for one run where runs are swapped at random.
    """
    rarer = min((differences <= 0).sum(), (differences >= 0).sum())
    return min(1.0, max(2 * float(rarer + 1) / (len(differences) + 1), 2.0 ** (1 - differing)))


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Two-sided exact p of how many examples only A, and only B, gets right."""
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def smallest_lead(differing: int, examples: int) -> float:
    """The smallest difference in percent that McNemar's test does not put down to chance.

    differing: examples that only one of the two runs gets right; it takes 6 of them, all for one run, at least.
    """
    for pairs in range(max(differing, 1), examples + 1):
        for lead in range(2 - pairs % 2, pairs + 1, 2):
            if mcnemar_p((pairs - lead) // 2, (pairs + lead) // 2) < CHANCE:
                return 100 * lead / examples
    return 100.0


def compare(folders: list[Path], *, split: str | None, metric: str | None, resamples: int, seed: int) -> dict:
    """Compares two runs, A and B; split, metric: None for those of A's headline. UserError where that is impossible.

    Returns what --json writes. In percent: a, b, difference (b - a) with its 95 % interval low, high, and detectable,
    the smallest difference that so many examples can show: by McNemar's exact test where that is used, else what
    four of five tests would find. p, and by which test. better: "A", "B" or None where it may be chance. marks: what is
    to be said of each run (demo data, a leaking protocol). sentence.
    """
    if folders[0].resolve() == folders[1].resolve():
        raise UserError(f"{folders[0]}: is compared with itself; give two runs")
    first, _ = both = [read_results(folder) for folder in folders]
    split, metric = split or first["headline"]["split"], metric or first["headline"]["metric"]
    check_comparable(folders, both, split)
    measures = MEASURES.get(first["task"], CLASSES)
    scores = [found["metrics"][split] for found in both]
    known = [name for name in measures if all(score.get(name, {}).get("value") is not None for score in scores)]
    if metric not in known:
        raise UserError(f"{metric}: cannot be compared on {split}; choose --metric among {', '.join(known)}")
    measure, (rows_a, rows_b) = measures[metric], read_predictions(folders, split)
    a, b = np.split(np.array(measure.examples([*rows_a, *rows_b]), dtype=float), 2)  # together: classes get one number
    value_a, value_b, differences = paired_bootstrap(measure.figure, a, b, resamples, seed)
    low, high = np.quantile(differences, (0.025, 0.975)).tolist()
    found = {
        "runs": dict(zip("AB", map(str, folders))),
        "marks": {name: [text for text, void in badges(one) if void] for name, one in zip("AB", both)},
        **{"task": first["task"], "split": split, "metric": metric, "examples": len(a)},
        **{"a": value_a, "b": value_b, "difference": value_b - value_a, "low": low, "high": high},
        **{"detectable": RELIABLE * float(differences.std()), "resamples": resamples, "seed": seed},
    }
    if measure.binary:
        only_a, only_b = int((a > b).sum()), int((a < b).sum())
        test = f"McNemar: right in A alone {only_a:,}, in B alone {only_b:,}"
        detectable = smallest_lead(only_a + only_b, len(a))
        found |= {"p": mcnemar_p(only_a, only_b), "test": test, "detectable": detectable}
    else:
        found |= {"p": bootstrap_p(differences, int((a != b).any(axis=1).sum())), "test": "paired bootstrap"}
    clear = found["p"] < CHANCE and (low > 0 or high < 0)
    found["better"] = ("B" if (low > 0) == measure.higher_is_better else "A") if clear else None
    return found | {"sentence": sentence(found)}


def sentence(found: dict) -> str:
    """The result in plain words."""
    size, low, high, p = abs(found["difference"]), found["low"], found["high"], f"p = {found['p']:.2g}"
    if better := found["better"]:
        low, high = sorted((abs(low), abs(high)))
        said = f"{better} is better by {size:.2f} points [{low:.2f}, {high:.2f}]"
        return f"{said}; the difference is unlikely to be chance ({p})"
    if low == high == 0:
        return f"no difference: every one of the {found['examples']:,} examples counts alike in both runs"
    interval = f"{format_difference(found['difference'], 'percent')} [{low:.2f}, {high:.2f}]"
    detectable = max(found["detectable"], size)  # size was not enough
    limit = f"{found['examples']:,} examples can only show differences of {detectable:.2f} points and more"
    return f"no clear difference: B - A is {interval}, which may be chance ({p}); {limit} between two such runs"


def text_of(found: dict) -> str:
    """What is printed: A and B with what is to be said of them, the difference, the sentence."""
    lines = [f"{words(found['metric'])} on {found['split']}, {found['examples']:,} examples"]
    for name in "AB":
        said = " - ".join([found["runs"][name], *found["marks"][name]])
        lines.append(f"{name:<5}  {format_value(found[name.lower()], 'percent'):>14}  {said}")
    about = f"{found['low']:+.2f} to {found['high']:+.2f}, p = {found['p']:.2g} ({found['test']})"
    lines.append(f"B - A  {format_difference(found['difference'], 'percent'):>14}  95 % interval {about}")
    return "\n".join([*lines, "", found["sentence"]])


def main(argv: list[str] | None = None) -> dict:
    """Compares two runs, prints the result and returns it."""
    parser = argparse.ArgumentParser("python -m benchmarks.compare", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN", help="output directories of two runs, A and B")
    parser.add_argument("--split", help="what to compare on (default: that of A's headline)")
    parser.add_argument("--metric", help="a metric of results.json (default: A's headline)")
    parser.add_argument("--resamples", type=int, default=10_000, help="drawings of the bootstrap (default 10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the drawings (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file, too")
    options = vars(parser.parse_args(argv))
    folders, file = options.pop("runs"), options.pop("json")
    if options["resamples"] < 100:
        raise UserError(f"--resamples {options['resamples']}: an interval needs 100 or more")
    found = compare(folders, **options)
    print(text_of(found))
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, found)
    return found


if __name__ == "__main__":
    sys.exit(exit_status(main, "compare"))
