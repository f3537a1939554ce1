"""The lines of a published table: a figure of a row, published and ours, as numbers and as people read them.

From results.json of the runs. Nothing is computed that is not there, but differences, and mean and standard deviation
over seeds.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.published_runs import Run
from benchmarks.published_tables import LESSONS, TABLES, Lesson
from common.report.words import format_difference, format_value, interval_text, words

LOWER_IS_BETTER = ("wer", "cer", "loss")
HEAD = [
    "row",
    "metric",
    "published",
    "ours",
    "95 % interval",
    "difference",
    "baseline",
    "time",
    "memory",
    "parameters",
]
LESSON_HEAD = ["metric", "leaking", "95 % interval", "honest", "95 % interval", "too good by"]


@dataclass(frozen=True)
class Score:
    """A metric of finished runs that differ in their seed only: with an interval if it is one, else with `sd`."""

    value: float
    unit: str
    low: float | None
    high: float | None
    sd: float | None
    seeds: int
    split: str
    baseline: float | None
    leaks: bool
    demo: bool

    @property
    def text(self) -> str:
        return format_value(self.value, self.unit)

    @property
    def spread(self) -> str:
        """The interval, or the standard deviation, in words."""
        if self.seeds == 1:
            return interval_text({"low": self.low, "high": self.high, "unit": self.unit})
        deviation = "" if self.sd is None else f"± {format_value(self.sd, self.unit)}, "
        return f"{deviation}{self.seeds} seeds".replace(" %", "")

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """Of the bar that shows how sure the value is: the interval, or one standard deviation to each side."""
        return (self.low, self.high) if self.sd is None else (self.value - self.sd, self.value + self.sd)


def split_of(results: dict, wanted: str) -> str:
    """The split to report: validation where the run has not the wanted one."""
    return "validation" if wanted == "test" and wanted not in results["metrics"] else wanted


def metric_of(results: dict, split: str, metric: str) -> dict | None:
    """The metric, or that of a class, with its interval and the baseline's value; None where it is not known."""
    if " of " in metric:
        column, _, name = metric.partition(" of ")
        row = results.get("per_class", {}).get(split, {}).get(name, {})
        ends = {"value": row.get(column), "low": row.get(f"{column}_low"), "high": row.get(f"{column}_high")}
        found = {name: None if value is None else 100 * value for name, value in ends.items()}
        return None if found["value"] is None else {**found, "unit": "percent", "baseline": None}
    found = results["metrics"].get(split, {}).get(metric)
    if found is None or found["value"] is None:
        return None
    under = results["baseline"].get(split, {}).get("metrics", {}).get(metric, {})
    return {"low": None, "high": None, **found, "baseline": under.get("value")}


def score(runs: Sequence[Run], wanted_split: str, metric: str) -> Score | None:
    """The metric of the runs that are finished; None where none of them has it."""
    known = []
    for run in runs:
        if run.results is not None:
            split = split_of(run.results, wanted_split)
            if (found := metric_of(run.results, split, metric)) is not None:
                known.append((found, split, run.results["protocol"]))
    if not known:
        return None
    values = [found["value"] for found, _, _ in known]
    under = [found["baseline"] for found, _, _ in known if found["baseline"] is not None]
    (first, split, _), alone = known[0], len(known) == 1
    return Score(
        statistics.fmean(values),
        first["unit"],
        first["low"] if alone else None,
        first["high"] if alone else None,
        None if alone else statistics.stdev(values),
        len(known),
        split,
        statistics.fmean(under) if under else None,
        any(protocol["leaks"] for _, _, protocol in known),
        any(protocol["demo"] for _, _, protocol in known),
    )


@dataclass(frozen=True)
class Line:
    """One metric of one row; `first` of its row, which also shows what the row cost. `row` is "" for a reference."""

    table: str
    row: str
    label: str
    metric: str
    published: float | None
    published_leaks: bool
    score: Score | None
    runs: Sequence[Run]
    first: bool

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.results is not None]

    @property
    def difference(self) -> float | None:
        """Ours minus the published figure; None where one of them is missing, or ours is of demo data."""
        known = self.published is not None and self.score is not None and not self.score.demo
        return self.score.value - self.published if known else None

    @property
    def verdict(self) -> str:
        """better or worse; nothing where the published figure is within our interval, or one of the two leaks."""
        low, high = self.score.ends if self.score else (None, None)
        leaks = self.published_leaks or (self.score is not None and self.score.leaks)
        if self.difference is None or leaks or low is None or low <= self.published <= high:
            return ""
        return "better" if (self.difference < 0) == (self.metric in LOWER_IS_BETTER) else "worse"

    @property
    def state(self) -> str:
        """What to say instead of a figure."""
        states = [run.state for run in self.runs if run.results is None]
        return next((s for s in ("failed", "other", "stopped", "not run") if s in states), "") if self.runs else ""

    def cost(self) -> dict[str, float | int | None]:
        """Seconds (mean over seeds), peak memory (largest), parameters."""
        facts = [run.results for run in self.finished]
        gpu = [f["resources"]["peak_gpu_memory_bytes"] for f in facts]
        return {
            "seconds": statistics.fmean(f["resources"]["seconds"]["total"] for f in facts),
            "peak_memory_bytes": max(f["resources"]["peak_memory_bytes"] for f in facts),
            "peak_gpu_memory_bytes": None if None in gpu else max(gpu),
            **facts[0]["model"]["parameters"],
        }

    def cells(self) -> list[str]:
        """As people read it, in the order of `HEAD`, without the row."""
        ours, published = self.score, "" if self.published is None else format_value(self.published, "percent")
        cells = [
            words(self.metric),
            f"{published} (leaks)" if published and self.published_leaks else published,
            self.state if ours is None else f"{ours.text} (leaks)" if ours.leaks else ours.text,
            "" if ours is None else ours.spread,
            ""
            if self.difference is None
            else f"{format_difference(self.difference, 'percent')} {self.verdict}".strip(),
            "" if ours is None or ours.baseline is None else format_value(ours.baseline, ours.unit),
        ]
        if not (self.first and self.finished):
            return [*cells, "", "", ""]
        cost = self.cost()
        memory, size = gigabytes(cost["peak_memory_bytes"]), millions(cost["total"])
        if cost["peak_gpu_memory_bytes"] is not None:
            memory += f", GPU {gigabytes(cost['peak_gpu_memory_bytes'])}"
        if cost["trainable"] != cost["total"]:
            size += f", {millions(cost['trainable'])} trained"
        time = format_value(cost["seconds"], "seconds")
        if (minutes := TABLES[self.table].rows[self.row].minutes) is not None:
            time += f" (published: {format_value(60 * minutes, 'seconds')})"
        return [*cells, time, memory, size]


def gigabytes(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def millions(count: int) -> str:
    """A number of parameters as people say it."""
    if count < 1_000_000:
        return f"{count:,}"
    return f"{count / 1e6:.{max(0, 2 - int(math.log10(count / 1e6)))}f} M"


def runs_of(runs: Sequence[Run], table: str, row: str) -> list[Run]:
    return [run for run in runs if (run.table, run.row) == (table, row)]


def lines_of(table: str, runs: Sequence[Run], *, classes: bool = False) -> list[Line]:
    """The lines of the rows that have runs, then the references; or, with `classes`, those of F1 by class alone."""
    declared, lines = TABLES[table], []
    for name, row in declared.rows.items():
        if not (own := runs_of(runs, table, name)):
            continue
        metrics = [m for m in row.published if " of " in m] if classes else declared.metrics
        scores = {metric: score(own, declared.split, metric) for metric in metrics}
        if any(scores.values()):  # what neither has is left out
            metrics = [metric for metric in metrics if scores[metric] or metric in row.published]
        elif not classes:
            metrics = [metric for metric in metrics if metric in row.published] or metrics[:1]
        for at, metric in enumerate(metrics):
            figure = row.published.get(metric)
            leaks = row.leaks and figure is not None
            lines.append(Line(table, name, row.label, metric, figure, leaks, scores[metric], own, at == 0))
    if lines and not classes:
        for label, figures in declared.references:
            for at, (metric, figure) in enumerate(figures.items()):
                lines.append(Line(table, "", label, metric, figure, False, None, (), at == 0))
    return lines


def lessons_of(runs: Sequence[Run]) -> dict[Lesson, dict[str, tuple[Score | None, Score | None]]]:
    """Of every lesson whose runs are among these, by metric: the leaking score and the honest one."""
    found = {}
    for lesson in LESSONS:
        sides = [(runs_of(runs, table, row), split) for table, row, split in (lesson.leaking, lesson.honest)]
        if all(own for own, _ in sides):
            found[lesson] = {m: tuple(score(own, split, m) for own, split in sides) for m in lesson.metrics}
    return found


def lesson_cells(metric: str, leaking: Score | None, honest: Score | None) -> list[str]:
    """A line of a lesson as people read it, in the order of `LESSON_HEAD`."""
    sides = [text for side in (leaking, honest) for text in ((side.text, side.spread) if side else ("no figure", ""))]
    gap = format_difference(leaking.value - honest.value, leaking.unit) if leaking and honest else ""
    return [words(metric), *sides, gap]
