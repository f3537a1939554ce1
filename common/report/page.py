"""`report.html` of a run: one page without scripts or anything from the network, laid out in page.html."""

import base64
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from common.errors import write_bytes
from common.report import words

NUMBER = re.compile(r"|n/a|[-+]?\d[\d.,e-]*( (%|s|min|h|GiB|points|to|\(?-?[\d.,]+\)?))*")


def marked_text(text: str, spans: Iterable[tuple[int, int, str]] = ()) -> Markup:
    """Escaped text with its marked character spans, in the direction of its own script.

    A span is (start, end, "gold" or "predicted"); where both kinds overlap the mark is "both".
    """
    kinds = [""] * len(text)
    for start, end, kind in spans:
        for at in range(max(start, 0), min(end, len(text))):
            kinds[at] = kind if kinds[at] in ("", kind) else "both"
    pieces = []
    for kind, run in groupby(range(len(text)), kinds.__getitem__):
        piece = "".join(text[at] for at in run)
        pieces.append(Markup('<mark class="{}">{}</mark>').format(kind, piece) if kind else piece)
    return Markup('<p dir="auto">{}</p>').format(Markup("").join(pieces))


def card(title: str, rows: Sequence[tuple[str, object]], body: str = "") -> Markup:
    """One error to look at; `body` is of `marked_text`, `text_block` or `player`, everything else is escaped here."""
    facts = Markup("").join(Markup('<dt>{}</dt><dd dir="auto">{}</dd>').format(*row) for row in rows)
    return Markup('<article><h3 dir="auto">{}</h3><dl>{}</dl>{}</article>').format(title, facts, Markup(body))


def text_block(name: str, text: str) -> Markup:
    """A named text in the body of a card."""
    return Markup('<p class="soft">{}</p>{}').format(name, marked_text(text))


def player(sound: bytes) -> str:
    """An element that plays an MP3 file, whose bytes are in the page, in the body of a card."""
    coded = base64.b64encode(sound).decode()
    return f'<audio controls preload="none" src="data:audio/mpeg;base64,{coded}"></audio>'


def svg(file: Path) -> Markup:
    """A plot as it stands in a page: without what comes before its element."""
    return Markup("<svg" + file.read_text("utf-8").split("<svg", 1)[1])


def _grid(corner: str, rows: Mapping[str, Mapping], named: Callable = str) -> tuple[list, list]:
    """Head and rows of a table of facts by row and column; `named` makes a column's head."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [[name, *(row.get(column, "") for column in columns)] for name, row in rows.items()]
    return [corner, *map(named, columns)], lines


def _kind(value: object) -> str:
    """The class of a column by its first cell: r(ight) for numbers, long for long texts."""
    text = words.fact(value)
    return "r" if NUMBER.fullmatch(text) else "long" if len(text) > 24 else ""


def write_page(path: Path, title: str, sections: Sequence[Mapping] = (), **context) -> Path:
    """Writes a page of sections, each with title, text (sentences), tables, plots and files (links), or of a run.

    A table has head and rows (of texts and numbers), and perhaps title, note, folded. context: about, badges, notes,
    footer; of a run, what `write_report` gives.
    """
    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=folder, autoescape=True, trim_blocks=True, extensions=["jinja2.ext.do"])
    environment.globals |= {"words": words, "grid": _grid, "kind": _kind}
    page = environment.get_template("page.html").render(title=title, sections=sections, **context)
    return write_bytes(path, page.encode("utf-8", "replace"))


def write_report(results: Mapping, output_dir: Path, *, error_cards: Sequence = (), error_title: str = "") -> Path:
    """Writes output_dir/report.html of results (results.schema.json) and the plots there; error_cards: of `card`."""
    plots = dict.fromkeys(path for path in results["files"].values() if path.endswith(".svg"))
    there = {path.name for path in output_dir.iterdir() if path.is_file() and not path.name.startswith(".")}
    return write_page(
        output_dir / "report.html",
        f"{words.words(results['task'])}: {words.model_name(results)}",
        results=results,
        plots=[svg(output_dir / path) for path in plots],
        cards=error_cards,
        error_title=error_title or "Worst errors",
        files=sorted({*there, *results["files"].values(), "results.json"} - {"report.html"}),  # some come later
        command=shlex.join(results["command"]),
    )
