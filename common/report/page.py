"""`report.html` of a run: one page without scripts or anything from the network, from results.json, plots and cards."""

import base64
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from common.errors import write_bytes
from common.report import words

EXCERPT = 700  # characters of a long text that a card shows
UNITS = r"( ?(%|ms|s|GiB|points)| (min|h) \d+ (s|min)| to -?[\d.,]+)?"
NUMBER = re.compile(rf"|n/a|[-+]?\d[\d.,]*(e-?\d+)?{UNITS}")


def marked_text(text: str, spans: Iterable[tuple[int, int, str]] = ()) -> Markup:
    """Escaped text with its marked character spans, in the direction of its own script.

    A span is (start, end, "gold" or "predicted"); where both kinds overlap the mark is "both". Of a long text about
    700 characters around the ends of the spans are kept.
    """
    masks = [0] * len(text)
    for start, end, kind in spans:
        for at in range(max(start, 0), min(end, len(text))):
            masks[at] |= {"gold": 1, "predicted": 2}[kind]
    edges = [at for at in range(1, len(text)) if masks[at - 1] != masks[at]]
    margin = EXCERPT // max(2 * len(edges), 1) if len(text) > EXCERPT else len(text)
    pieces = []
    for start, end in pairwise([0, *edges, len(text)]):
        before = text[start:end][:margin] if start or not edges else ""
        after = text[start:end][-margin:] if end < len(text) else ""
        cut = len(before) + len(after) < end - start
        shown = f"{before.rsplit(' ', 1)[0]} ... {after.split(' ', 1)[-1]}" if cut else text[start:end]
        kind = ("", "gold", "predicted", "both")[masks[start]] if text else ""
        pieces.append(Markup('<mark class="{}">{}</mark>').format(kind, shown) if kind else shown)
    return Markup('<p dir="auto">{}</p>').format(Markup("").join(pieces))


def card(title: str, rows: Sequence[tuple[str, object]], body: str = "") -> Markup:
    """One error to look at; `body` is of `marked_text`, `text_block` or `player`, everything else is escaped here."""
    facts = Markup("").join(Markup('<dt>{}</dt><dd dir="auto">{}</dd>').format(*row) for row in rows)
    return Markup('<article><h3 dir="auto">{}</h3><dl>{}</dl>{}</article>').format(title, facts, Markup(body))


def text_block(name: str, text: str) -> Markup:
    """A named text in the body of a card; a long one is cut."""
    return Markup('<p class="soft">{}</p>{}').format(name, marked_text(text))


def player(sound: bytes, kind: str = "audio/mpeg") -> Markup:
    """An element that plays a sound file, whose bytes are in the page, in the body of a card."""
    return Markup(
        f'<audio controls preload="none" src="data:{kind};base64,{base64.b64encode(sound).decode()}"></audio>'
    )


def write_page(path: Path, title: str, sections: Iterable[Mapping], **context) -> Path:
    """Writes a page of sections as in `words`, which may also have code, plots and cards (HTML), and files (links).

    Columns of numbers are aligned right. context: void (marks before the window's title), about, badges, number,
    sentences, tone, notes, footer.
    """
    laid_out = [{**section, "tables": map(_aligned, section.get("tables", ()))} for section in sections]
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    page = environment.get_template("page.html").render(title=title, sections=laid_out, **context)
    return write_bytes(path, page.encode("utf-8", "replace"))


def _aligned(table: Mapping) -> dict:
    """The table with its cells as texts, and a class for each column: r(ight) for numbers, long for long texts."""
    rows, classes = [[words.fact(cell) for cell in row] for row in table["rows"]], []
    for cells in zip(*rows):
        longest = max(map(len, cells))
        classes.append("r" if longest and all(map(NUMBER.fullmatch, cells)) else "long" if longest > 24 else "")
    return {**table, "rows": rows, "classes": classes or [""] * len(table["head"])}


def svg(file: Path) -> Markup:
    """A plot as it stands in a page: without what comes before its element."""
    text = file.read_text("utf-8")
    return Markup(text[text.index("<svg") :])


def write_report(results: Mapping, output_dir: Path, *, error_cards: Sequence = (), error_title: str = "") -> Path:
    """Writes output_dir/report.html of results (results.schema.json); its plots are read from `output_dir`.

    error_cards: of `card`, in a section of their own; its title.
    """
    model, headline, arguments = results["model"], results["headline"], results["arguments"]
    total, trainable = model["parameters"]["total"], model["parameters"]["trainable"]
    given = [name for name, one in arguments.items() if one["source"].startswith(("command line", "file"))]
    rest = sorted(arguments.keys() - {*given}, key=lambda name: ("default" in arguments[name]["source"], name))
    title = f"{len(given)} of {len(arguments)} arguments were given"
    table = words.arguments_table(results, [*given, *rest])
    table |= {"title": title, "folded": True, "highlighted": len(given)}
    plots = dict.fromkeys(path for path in results["files"].values() if path.endswith(".svg"))
    there = {path.name for path in output_dir.iterdir() if path.is_file() and not path.name.startswith(".")}
    files = sorted({*there, *results["files"].values(), "results.json"} - {"report.html"})  # some are written later
    sections = words.sections(results)
    data, run = sections.pop("Data"), sections.pop("Run")
    shown = [
        *sections.values(),
        {"title": "Plots", "plots": [svg(output_dir / path) for path in plots]},
        {"title": error_title or "Worst errors", "cards": error_cards},
        data,
        {"title": "Files", "files": files},
        {**run, "code": shlex.join(results["command"]), "tables": [table, *run["tables"]]},
    ]
    sentences, badges = words.headline_sentences(headline), words.badges(results)
    void = "".join(f"[{sentence.split(':')[0]}] " for sentence, void in badges if void)
    share = f"{total:,} parameters, {trainable:,} trainable ({100 * trainable / max(total, 1):.2f} %)"
    return write_page(
        output_dir / "report.html",
        f"{words.capital(words.words(results['task']))}: {words.model_name(results)}",
        [section for section in shown if any(section.get(kind) for kind in ("tables", "plots", "cards", "files"))],
        about=[f"{model['architecture']} · {share}", f"{results['script']} · {results['created']}"],
        badges=badges,
        void=void,
        number=words.format_value(headline["value"], headline["unit"]) if headline else "",
        sentences=sentences,
        tone="" if void else "good" if "(better)" in sentences[-1] else "bad",  # what is void is not green
        notes=results["protocol"]["notes"] + results["warnings"],
        footer=f"Written by {results['script']} from results.json, {results['created']}.",
    )
