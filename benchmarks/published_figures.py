"""The figures that compare the runs of `benchmarks.published`: bars, loss curves in one plot, confusion matrices."""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from markupsafe import Markup

from benchmarks.published_lines import Line, lessons_of, lines_of, split_of
from benchmarks.published_runs import Run
from benchmarks.published_tables import TABLES
from common.report.page import svg
from common.report.plots import confusion_matrix, curves, grouped_bars
from common.report.words import words

CURVES = 7  # colours that can be told apart


def table_figures(table: str, runs: Sequence[Run]) -> list[Markup]:
    """Bars and loss curves of a table, from the runs that are finished (of several seeds, the first one's curves)."""
    lines = [line for line in lines_of(table, runs) if line.score]
    if not lines:
        return []
    unit = "percent" if lines[0].score.unit == "percent" else ""
    figures = [figure for figure in (_published_bars(lines, unit), _metric_bars(lines, unit)) if figure]
    if series := _losses({line.row: line.finished[0] for line in lines}):
        said = "Loss by epoch; one run a row, lower is better."
        history = [{"epoch": x, f"{name} loss": y} for name, points in series.items() for x, y in points]
        keys = {name: f"{name} loss" for name in series}
        figures.append(_drawn(said, lambda path: curves(history, path, title="Loss by epoch", series=keys)))
    return figures


def matrices(table: str, runs: Sequence[Run]) -> list[Markup]:
    """The confusion matrix of each row, in one size, to stand side by side."""
    figures = []
    for line in lines_of(table, runs):
        if line.first and line.finished:
            results = line.finished[0].results
            split = split_of(results, TABLES[table].split)
            if confusion := results.get("confusion", {}).get(split):
                labels, matrix = confusion["labels"], confusion["matrix"]
                draw = partial(confusion_matrix, labels, matrix, title=line.row)
                figures.append(_drawn(f"{line.label}: {split}", draw))
    return figures


def lesson_figures(runs: Sequence[Run]) -> list[Markup]:
    """Bars of what leaks beside what does not, one figure a lesson."""
    figures = []
    for lesson, scores in lessons_of(runs).items():
        known = {metric: pair for metric, pair in scores.items() if all(pair)}
        if known:
            bars = {words(m): {"leaking": a.value, "honest": b.value} for m, (a, b) in known.items()}
            ends = {words(m): {"leaking": a.ends, "honest": b.ends} for m, (a, b) in known.items()}
            draw = partial(grouped_bars, bars, title=lesson.title, ylabel="percent", low_high=ends)
            figures.append(_drawn("What the leak adds is the step from one bar to the next.", draw))
    return figures


def _drawn(caption: str, draw: Callable[[Path], Path]) -> Markup:
    with tempfile.TemporaryDirectory() as folder:
        return svg(draw(Path(folder, "figure"))) + Markup('<figcaption class="note">{}</figcaption>').format(caption)


def _published_bars(lines: list[Line], unit: str) -> Markup | None:
    """The main metric of each row, published and ours; of a table of one row, its metrics."""
    main = [line for line in lines if line.metric == lines[0].metric]
    shown = main if len(main) > 1 else lines
    if all(line.published is None for line in shown):
        return None
    bars, ends = {}, {}
    for line in shown:
        name = line.row if len(main) > 1 else words(line.metric)
        bars[name] = {"published": line.published, "ours": line.score.value}
        ends[name] = {"ours": line.score.ends}
    title = f"{words(lines[0].metric)}, published and ours" if len(main) > 1 else "published and ours"
    title += " (DEMO)" if any(line.score.demo for line in shown) else ""
    draw = partial(grouped_bars, bars, title=title, ylabel=unit, low_high=ends)
    said = "Ours with its 95 % interval, or one standard deviation over seeds."
    leaking = [line.row for line in shown if line.published_leaks or line.score.leaks]
    return _drawn(f"{said} A leak is in a figure of: {', '.join(leaking)}." if leaking else said, draw)


def _metric_bars(lines: list[Line], unit: str) -> Markup | None:
    """All metrics, ours, a colour a row; or the main metric by what the rows vary, where the table says it."""
    rows, main = TABLES[lines[0].table].rows, lines[0].metric
    places = [(rows[line.row].bar, line.score) for line in lines if line.metric == main and rows[line.row].bar]
    if places:
        table, ends = {}, {}
        for (group, bar), found in places:
            table.setdefault(group, {})[bar], ends.setdefault(group, {})[bar] = found.value, found.ends
        draw = partial(grouped_bars, table, title=words(main), ylabel=unit, low_high=ends)
        return _drawn("With the 95 % interval, or one standard deviation over seeds to each side.", draw)
    if len({line.row for line in lines}) < 2 or len({line.metric for line in lines}) < 2:
        return None
    bars: dict[str, dict[str, float]] = {}
    ends: dict[str, dict[str, tuple]] = {}
    for line in lines:
        bars.setdefault(words(line.metric), {})[line.row] = line.score.value
        ends.setdefault(words(line.metric), {})[line.row] = line.score.ends
    title = "Our runs by metric" + (" (DEMO)" if any(line.score.demo for line in lines) else "")
    draw = partial(grouped_bars, bars, title=title, ylabel=unit, low_high=ends)
    return _drawn("Ours alone: every metric of the table, a colour a row.", draw)


def _losses(runs: dict[str, Run]) -> dict[str, list[tuple[float, float]]]:
    """Legend entry -> (epoch, loss): on validation, and in training too where few runs leave room for it."""
    series = {}
    for row, run in runs.items():
        kinds = {"validation": "eval_loss", **({"training": "loss"} if 2 * len(runs) <= CURVES else {})}
        for kind, key in kinds.items():
            points = [(e.get("epoch", e.get("step")), e[key]) for e in run.results["history"] if e.get(key) is not None]
            if points:
                series[f"{row}, {kind}"] = points
    return dict(list(series.items())[:CURVES])
