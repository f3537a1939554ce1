"""The runs of `benchmarks.published` as people compare them: on the terminal, table.md, table.csv and index.html."""

import os
import shlex
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.published_figures import lesson_figures, matrices, table_figures
from benchmarks.published_lines import HEAD, LESSON_HEAD, Line, lesson_cells, lessons_of, lines_of
from benchmarks.published_runs import Run
from benchmarks.published_tables import TABLES
from common.legacy.files import write_bytes, write_csv
from common.legacy.formats import Cell
from common.legacy.report import Html, escaped, html_page, html_table

DEMO = "DEMO: built-in synthetic data: the figures say nothing about real data"
FILES = "on files of your own: they compare with the published figures as far as the data do"
LEAKING = (
    "what is marked with leaks is too good: what is tested, its speakers, or rows made from it had a part in training"
)
LESSON = "What leaks, beside what does not"
# A row of several lines reads as one; on a narrow page its name stays in view.
STYLE = """
.runs tr:has(>th:empty)>*{border-top:0;padding-top:0}.runs td:nth-child(2){min-width:8rem}
.runs th[scope=row]{min-width:9rem;max-width:16rem}.runs thead .r{white-space:normal}
.plots{margin:1rem 0;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr))}
section{margin-top:2.5rem}.matrices{grid-template-columns:repeat(auto-fill,minmax(min(100%,21rem),1fr))}
nav{display:flex;flex-wrap:wrap;gap:.5rem;margin:1rem 0}nav a{padding:.2rem .8rem;border:1px solid var(--line);
border-radius:1rem;background:var(--sheet);text-decoration:none}a{color:var(--accent)}.leak{color:var(--bad)}
@media (max-width:40rem){.runs th:first-child{position:sticky;left:0;background:var(--sheet);min-width:7rem;
max-width:8.5rem;border-right:1px solid var(--line)}}
"""
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
        write_bytes(folder / "index.html", _page(runs, folder, tables, notes)),
    ]


# Text


def _flat(cells: Iterable[Cell]) -> list[str]:
    return [f"{cell[0]} ({cell[1]})" if isinstance(cell, tuple) else cell for cell in cells]


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
            rows = [[label, *_flat(line.cells())] for label, line in zip(label, lines)]
            title = f"{TABLES[name].title} ({TABLES[name].source})"
            sections.append((title, HEAD, rows))
    for lesson, scores in lessons_of(runs).items():
        rows = [_flat(lesson_cells(metric, *pair)) for metric, pair in scores.items()]
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


def _page(runs: Sequence[Run], folder: Path, tables: Sequence[str], notes: Sequence[str]) -> bytes:
    done = sum(run.results is not None for run in runs)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    body = f'<header><h1>Published beside ours</h1><p class="soft">{done} of {len(runs)} runs · {now}</p></header>'
    for remark in [*_remarks(runs), *notes]:
        quiet = "" if remark == DEMO or " failed: " in remark else " quiet"
        body += f'<p class="badge{quiet}" role="note">{escaped(remark)}</p>'
    lessons = _lessons(runs)
    shown = {name: lines for name in tables if (lines := lines_of(name, runs))}
    links = {name: TABLES[name].title.split(",")[0] for name in shown} | ({"lesson": LESSON} if lessons else {})
    body += "<nav>" + "".join(f'<a href="#{name}">{escaped(title)}</a>' for name, title in links.items()) + "</nav>"
    for name, lines in shown.items():
        table, own = TABLES[name], [run for run in runs if run.table == name]
        body += f'<section id="{name}"><h2>{escaped(table.title)}</h2>'
        body += "".join(
            f'<p class="soft">{escaped(text)}</p>' for text in (f"Published: {table.source}.", table.note) if text
        )
        body += _runs_table(lines, folder)
        if classes := lines_of(name, runs, classes=True):
            body += f"<details><summary>F1 by class</summary>{_runs_table(classes, folder)}</details>"
        for kind, figures in (("plots", table_figures(name, runs)), ("plots matrices", matrices(name, runs))):
            body += f'<div class="{kind}">{"".join(figures)}</div>' if figures else ""
        commands = "\n".join(shlex.join(run.command(None, "python")) for run in own)
        body += f"<details><summary>Commands</summary><pre>{escaped(commands)}</pre></details></section>"
    body += lessons + "<footer>Written by benchmarks.published from the results.json of every run.</footer>"
    marks = "[DEMO] " if DEMO in _remarks(runs) else ""
    return html_page(f"{marks}Published beside ours", body, STYLE)


def _runs_table(lines: Sequence[Line], folder: Path) -> str:
    rows = []
    for line in lines:
        metric, published, ours, spread, difference, *rest = map(_marked, line.cells())
        if line.verdict:
            tone = "good" if line.verdict == "better" else "bad"
            difference = Html(f'<span class="{tone}">{escaped(difference)}</span>')
        rows.append([_name(line, folder), metric, published, ours, spread, difference, *rest])
    return f'<div class="runs">{html_table(HEAD, rows, "ll" + "r" * (len(HEAD) - 2))}</div>'


def _marked(cell: Cell) -> Cell:
    """The mark of what leaks is seen."""
    return (cell[0], Html(f'<span class="leak">{escaped(cell[1])}</span>')) if cell[1:] == ("leaks",) else cell


def _name(line: Line, folder: Path) -> Cell:
    """What the row is, linked to the reports of its runs."""
    if not line.first:
        return ""
    links = []
    for run in line.finished:
        address = escaped(os.path.relpath(run.folder / "report.html", folder))
        text = line.label if run.seed is None else f"seed {run.seed}"
        links.append(Html(f'<a href="{address}">{escaped(text)}</a>'))
    if not links:
        return (line.label, "published only") if not line.row else line.label
    return links[0] if line.finished[0].seed is None else (line.label, Html(" ".join(links)))


def _lessons(runs: Sequence[Run]) -> str:
    page = ""
    for lesson, scores in lessons_of(runs).items():
        rows = [list(map(_marked, lesson_cells(metric, *pair))) for metric, pair in scores.items()]
        page += f"<h3>{escaped(lesson.title)}</h3>{html_table(LESSON_HEAD, rows)}"
    if not page:
        return ""
    said = (
        "The same model and data. What differs is when examples were cut, copied or made: before the split, or after "
        "it, in training data alone. The leaking split of emotions is by utterance, too, the honest one by speaker."
    )
    figures = f'<div class="plots">{"".join(lesson_figures(runs))}</div>'
    return f'<section id="lesson"><h2>{LESSON}</h2><p class="soft">{said}</p>{page}{figures}</section>'
