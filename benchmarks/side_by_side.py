"""Two ways to do the same thing, measured in one run: they take turns, and what counts is the ratio of the medians."""

import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from common.errors import write_json


def alternate(
    sides: dict[str, Callable], repeats: int, cpu_time: bool, prepare: Callable[[str], list] = lambda name: []
) -> dict[str, list[float]]:
    """Seconds of each side, which take turns: what else the machine does then meets all of them alike.

    `prepare` makes the arguments of a side, untimed. What lives already is hidden from the garbage collector.
    """
    clock = time.process_time if cpu_time else time.perf_counter
    seconds = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            arguments = prepare(name)
            gc.collect()
            gc.freeze()
            start = clock()
            side(*arguments)
            seconds[name].append(clock() - start)
            gc.unfreeze()
    return seconds


def row(part: str, ours: list[float], reference: list[float], count: int, goal: float | None, *, unit: str) -> dict:
    """A row of the table: `unit` ("questions/s") of both sides, from seconds for `count`; no goal: only reported."""
    speeds = [count / statistics.median(seconds) for seconds in (ours, reference)]
    ratio = speeds[0] / speeds[1]
    values = {"part": part, "ours": speeds[0], "reference": speeds[1], "unit": unit, "ratio": ratio}
    target = {"goal": "", "met": None} if goal is None else {"goal": f">= {goal:g}x", "met": ratio >= goal}
    return values | target | {"seconds": {"ours": ours, "reference": reference}}


def table(rows: list[dict]) -> str:
    """The rows in Markdown."""
    lines = ["| part | ours | reference | ratio | goal | met |", "| --- | --- | --- | --- | --- | --- |"]
    for r in rows:
        sides = (f"{r[name]:,.{1 if r[name] < 100 else 0}f} {r['unit']}" for name in ("ours", "reference"))
        met = {True: "yes", False: "NO", None: ""}[r["met"]]
        cells = (r["part"], *sides, f"{r['ratio']:.2f}x", r["goal"], met)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def publish(results: dict, output: Path | None) -> dict:
    """Prints the rows and the checks of {"rows", "checks", "setting"}, writes it all to a json file; returns it."""
    print(table(results["rows"]))
    for part, checks in results["checks"].items():
        print(f"{part}: {checks}")
    if output:
        write_json(output, results)
    return results
