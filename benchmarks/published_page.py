"""The runs of `benchmarks.published` as people compare them: on the terminal, table.md, table.csv and index.html."""

import os
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.published_figures import lesson_figures, matrices, table_figures
from benchmarks.published_lines import HEAD, LESSON_HEAD, Line, lesson_cells, lessons_of, lines_of
from benchmarks.published_runs import Run
from benchmarks.published_tables import TABLES
from common.errors import write_bytes, write_csv
from common.report.page import write_page

DEMO = "DEMO: built-in synthetic data: the figures say nothing about real data"
FILES = "on files of your own: they compare with the published figures as far as the data do"
LEAKING = (
    "what is marked with leaks is too good: what is tested, its speakers, or rows made from it had a part in training"
)
LESSON = "What leaks, beside what does not"
CSV_HEAD = [
    *("table", "row", "label", "metric", "split", "unit", "published", "published_leaks", "ours", "low", "high", "sd"),
    *("seeds", "difference", "baseline", "leaks", "demo", "seconds", "peak_memory_bytes", "peak_gpu_memory_bytes"),
    *("parameters", "trainable", "state", "report"),
]


def write_outputs(runs: Sequence[Run], folder: Path, tables: Sequence[str], notes: Sequence[str]) -> list[Path]:
    """Writes table.md, table.csv and index.html to `folder`: of these tables, and of the lessons that `runs` teach.

    Args:
        notes: sentences on tables that were left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [line for name in tables for kind in (False, True) for line in lines_of(name, runs, classes=kind)]
    return [
        write_bytes(folder / "table.md", _markdown(runs, tables, notes).encode()),
        write_csv(folder / "table.csv", CSV_HEAD, (_csv_row(line, folder) for line in lines)),
        _page(runs, folder, tables, notes),
    ]


# Text


def terminal_tables(runs: Sequence[Run], tables: Sequence[str]) -> str:
    """All tables, aligned, and what did not run, as the terminal shows it; rows by the names of their folders."""
    parts = []
    for title, head, rows in _sections(runs, tables, short=True):
        cells = [head, *rows]
        widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
        body = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]
        parts.append("\n".join([f"\n{title}", body[0], "  ".join("-" * width for width in widths), *body[1:]]))
    return "\n".join([*parts, *(f"\n{sentence}" for sentence in _remarks(runs))])


def _markdown(runs: Sequence[Run], tables: Sequence[str], notes: Sequence[str]) -> str:
    parts = ["# Published beside ours", *(f"**{sentence}**" for sentence in [*_remarks(runs), *notes])]
    for title, head, rows in _sections(runs, tables, short=False):
        cells = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
        parts += [f"## {title}", "\n".join(f"| {' | '.join(row)} |" for row in cells)]
    return "\n\n".join(parts) + "\n"


def _sections(
    runs: Sequence[Run], tables: Sequence[str], *, short: bool
) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, head, rows) of every table and lesson, as plain text."""
    sections = []
    for name in tables:
        if lines := lines_of(name, runs):
            label = [(line.row or line.label if short else line.label) if line.first else "" for line in lines]
            rows = [[label, *line.cells()] for label, line in zip(label, lines)]
            title = f"{TABLES[name].title} ({TABLES[name].source})"
            sections.append((title, HEAD, rows))
    for lesson, scores in lessons_of(runs).items():
        rows = [lesson_cells(metric, *pair) for metric, pair in scores.items()]
        sections.append((f"{LESSON}. {lesson.title}", LESSON_HEAD, rows))
    return sections


def _remarks(runs: Sequence[Run]) -> list[str]:
    """What all outputs have to say about the runs as a whole, and about each that has no results."""
    protocols = [run.results["protocol"] for run in runs if run.results]
    remarks = [DEMO] if any(protocol["demo"] for protocol in protocols) else []
    if not remarks and any("_file" in flag or flag == "--data_dir" for run in runs for flag in run.arguments):
        remarks.append(FILES)
    if any(protocol["leaks"] for protocol in protocols) or any(TABLES[r.table].rows[r.row].leaks for r in runs):
        remarks.append(LEAKING)
    return remarks + [f"{run.name} {run.state}: {run.said}" for run in runs if run.said]


def _csv_row(line: Line, folder: Path) -> list:
    ours, cost = line.score, line.cost() if line.finished else {}
    facts = ["value", "low", "high", "sd", "seeds"]
    reports = [os.path.relpath(run.folder / "report.html", folder) for run in line.finished]
    return [
        *(line.table, line.row, line.label, line.metric),
        *((ours.split, ours.unit) if ours else ("", "percent")),
        *(line.published, line.published_leaks if line.published is not None else ""),
        *((getattr(ours, fact) for fact in facts) if ours else [""] * len(facts)),
        *(line.difference, ours.baseline if ours else "", ours.leaks if ours else "", ours.demo if ours else ""),
        *(cost.get(n) for n in ("seconds", "peak_memory_bytes", "peak_gpu_memory_bytes", "total", "trainable")),
        *("finished" if line.finished and not line.state else line.state, " ".join(reports)),
    ]


# The page


def _page(runs: Sequence[Run], folder: Path, tables: Sequence[str], notes: Sequence[str]) -> Path:
    done = sum(run.results is not None for run in runs)
    sections = [section for name in tables if (section := _table_section(name, runs, folder))]
    if lessons := lessons_of(runs):
        said = (
            "The same model and data. What differs is when examples were cut, copied or made: before the split, or "
            "after it, in training data alone. The leaking split of emotions is by utterance, ours by speaker."
        )
        found = [
            {
                "title": lesson.title,
                "head": LESSON_HEAD,
                "rows": [lesson_cells(metric, *pair) for metric, pair in scores.items()],
            }
            for lesson, scores in lessons.items()
        ]
        sections.append({"title": LESSON, "text": [said], "tables": found, "plots": lesson_figures(runs)})
    remarks = [*_remarks(runs), *notes]
    return write_page(
        folder / "index.html",
        "Published beside ours",
        sections,
        about=[f"{done} of {len(runs)} runs · {datetime.now(UTC).isoformat(timespec='seconds')}"],
        badges=[(remark, remark == DEMO or " failed: " in remark) for remark in remarks],
        footer="Written by benchmarks.published from the results.json of every run.",
    )


def _table_section(name: str, runs: Sequence[Run], folder: Path) -> dict | None:
    """A table with its classes, figures, commands, and links to the reports of its runs."""
    if not (lines := lines_of(name, runs)):
        return None
    table, own = TABLES[name], [run for run in runs if run.table == name]
    rows = [[line.label if line.first else "", *line.cells()] for line in lines]
    tables = [{"head": HEAD, "rows": rows, "note": table.note}]
    if classes := lines_of(name, runs, classes=True):
        rows = [[line.label if line.first else "", *line.cells()] for line in classes]
        tables.append({"title": "By class", "head": HEAD, "rows": rows, "folded": True})
    commands = [[run.name, shlex.join(run.command(None, "python"))] for run in own]
    tables.append({"title": "Commands", "head": ["row", "command"], "rows": commands, "folded": True})
    return {
        "title": table.title,
        "text": [f"Published: {table.source}."],
        "tables": tables,
        "plots": [*table_figures(name, runs), *matrices(name, runs)],
        "files": [os.path.relpath(run.folder / "report.html", folder) for run in own if run.results],
    }
