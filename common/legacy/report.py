"""`report.html` of a run, one page that needs nothing else, from the facts in results.json and nothing else.

Text from data is escaped where it enters the page: a table cell is escaped unless it is `Html`.
"""

import base64
import html
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.legacy.files import write_bytes
from common.legacy.formats import (
    DATA_HEAD,
    METRIC_HEAD,
    Cell,
    badges,
    class_table,
    confusion_table,
    data_rows,
    environment_rows,
    fact_tables,
    format_argument,
    format_memory,
    format_value,
    group_tables,
    headline_sentences,
    label_table,
    metric_rows,
    overlap_sentences,
    published_sentence,
    published_table,
    statistics_table,
    words,
)

EXCERPT = 700  # characters of a long text that a card shows

STYLE = """
:root{color-scheme:light dark;--ink:#1d2129;--soft:#5b6472;--page:#f6f7f9;--sheet:#fff;--line:#dfe3e8;--accent:#0b62a8;
--good:#0a6b4b;--bad:#a83a00;--changed:#fff3d6;--gold:#bfe3d3;--predicted:#ffd9b0;--both:#cfd4ff}
@media (prefers-color-scheme:dark){:root{--ink:#e4e7eb;--soft:#a0a9b6;--page:#14171b;--sheet:#1d2126;--line:#353b43;
--accent:#6db6f2;--good:#5cd0a3;--bad:#ff9c66;--changed:#453814;--gold:#17543f;--predicted:#6b4013;--both:#3c4388}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,"Segoe UI",Roboto,"Noto Sans",sans-serif}
main{max-width:72rem;margin:0 auto;padding:1.25rem 1rem 3rem;overflow-wrap:anywhere}
h1{font-size:1.7rem;line-height:1.2;margin:0}h2{font-size:1.2rem;margin:2.2rem 0 .6rem}
h3{font-size:1rem;margin:1.2rem 0 .4rem}
p{margin:.35rem 0}.soft,small,figcaption{color:var(--soft)}
pre{font:.875em/1.5 ui-monospace,Menlo,Consolas,monospace}
.badge{display:block;margin:.8rem 0;padding:.7rem 1rem;border-radius:.5rem;background:#fbe3d6;color:#6b1f00;
border-left:.5rem solid #c2410c;font-weight:600}
.badge.quiet{background:var(--sheet);color:var(--ink);border-color:var(--accent)}
.sheet,.scroll,figure,.card{background:var(--sheet);border:1px solid var(--line);border-radius:.6rem}
.sheet{padding:1rem 1.2rem;margin:1rem 0}
.big{font-size:3rem;font-weight:700;line-height:1.1;font-variant-numeric:tabular-nums}
.good{color:var(--good)}.bad{color:var(--bad)}.good,.bad{font-weight:600}
.scroll{overflow-x:auto;margin:.5rem 0}table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{padding:.4rem .75rem;text-align:left;vertical-align:top;overflow-wrap:normal}
tr+tr>*,tbody tr>*{border-top:1px solid var(--line)}thead th{color:var(--soft);font-weight:600;vertical-align:bottom}
tbody th{font-weight:500}.r{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.wide{min-width:14rem;overflow-wrap:anywhere}.changed>*{background:var(--changed)}td small{white-space:nowrap}
.plots{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));align-items:start}
figure{margin:0;padding:.6rem}figure img{display:block;max-width:100%;max-height:34rem;margin:auto;background:#fff;
border-radius:.3rem}figcaption{padding:.5rem .2rem 0;font-size:.9rem}
.cards{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,30rem),1fr));align-items:start}
.card{padding:.8rem 1rem;min-width:0}.card h3{margin:0 0 .4rem}audio{width:100%}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem .8rem;margin:0 0 .5rem}
dt{color:var(--soft)}dd{margin:0;text-align:left}
mark{color:inherit;border-radius:.2rem;padding:0 .1em;background:var(--gold);border-bottom:2px solid var(--good)}
mark.predicted{background:var(--predicted);border-bottom:2px dashed var(--bad)}
mark.both{background:var(--both);border-bottom:2px double currentColor}
pre{margin:.5rem 0;padding:.8rem 1rem;background:var(--sheet);border:1px solid var(--line);border-radius:.6rem;
white-space:pre-wrap;user-select:all;max-height:30rem;overflow-y:auto}
@media (max-width:40rem){th,td{padding:.35rem .45rem}table{font-size:.85rem}h1{font-size:1.4rem}.big{font-size:2.5rem}
.wide{min-width:9rem}}
summary{cursor:pointer;padding:.3rem 0;color:var(--accent)}footer{margin-top:3rem;color:var(--soft);font-size:.9rem}
"""


class Html(str):
    """Text that already is HTML; everything else is escaped on its way into the page."""


def escaped(text: object) -> Html:
    return text if isinstance(text, Html) else Html(html.escape(str(text)))


def _cell(cell: Cell) -> Html:
    return (
        Html("<br>".join([escaped(cell[0]), f"<small>{escaped(cell[1])}</small>"]))
        if isinstance(cell, tuple)
        else escaped(cell)
    )


def _changed(results: dict) -> dict:
    """The arguments that somebody set, on the command line or in a file, or that the demo needs."""
    return {
        name: argument
        for name, argument in results["arguments"].items()
        if not argument["source"].startswith(("recipe", "library default"))
    }


def marked_text(text: str, spans: Iterable[tuple[int, int, str]]) -> Html:
    """Escaped text with its marked character spans, in the direction of its own script.

    A span is (start, end, "gold" or "predicted"); where both kinds overlap the mark is "both". Of a long text about
    700 characters around the spans are kept.
    """
    masks = [0] * len(text)
    for start, end, kind in spans:
        bit = {"gold": 1, "predicted": 2}[kind]
        for at in range(max(start, 0), min(end, len(text))):
            masks[at] |= bit
    pieces = []
    for start, end in _excerpts(text, masks):
        piece = "" if start == 0 else "... "
        while start < end:
            stop = next((at for at in range(start, end) if masks[at] != masks[start]), end)
            shown = html.escape(text[start:stop])
            kind = ("", "gold", "predicted", "both")[masks[start]]
            piece += f'<mark class="{kind}">{shown}</mark>' if kind else shown
            start = stop
        pieces.append(piece)
    if pieces and end < len(text):
        pieces.append("...")
    return Html(f'<p dir="auto">{" ".join(pieces)}</p>')


def _excerpts(text: str, masks: list[int]) -> list[tuple[int, int]]:
    """The parts of a text worth showing, as character ranges: everything, or what lies around the marks' ends."""
    if len(text) <= EXCERPT:
        return [(0, len(text))]
    edges = [at for at in range(len(text) + 1) if (masks[at - 1] if at else 0) != (masks[at] if at < len(text) else 0)]
    ranges: list[tuple[int, int]] = []
    for margin in range(40, EXCERPT + 1, 20):  # wider, until the excerpts are as long as they may be
        ranges = []
        for at in edges or [0]:
            start, end = max(at - margin, 0), min(at + margin, len(text))
            before, after = text.rfind(" ", max(start - 20, 0), start), text.find(" ", end, end + 20)
            start, end = (before + 1 if before >= 0 else start), (after if after >= 0 else end)  # words stay whole
            if ranges and start <= ranges[-1][1] + 5:
                start = ranges.pop()[0]
            ranges.append((start, end))
        if sum(end - start for start, end in ranges) >= EXCERPT - 40:
            break
    return ranges


def card(title: str, rows: list[tuple[str, str]], body: str = "") -> Html:
    """One error to look at: title and rows are escaped here, `body` is HTML (of `marked_text`, or an audio element)."""
    facts = "".join(f'<dt>{escaped(name)}</dt><dd dir="auto">{escaped(text)}</dd>' for name, text in rows)
    facts = f"<dl>{facts}</dl>" if rows else ""
    return Html(f'<article class="card"><h3 dir="auto">{escaped(title)}</h3>{facts}{body}</article>')


def text_block(name: str, text: str) -> Html:
    """A named text in the body of a card, in the direction of its own script; a long one is cut."""
    return Html(f'<p class="soft">{escaped(name)}</p>{marked_text(text, [])}')


def player(sound: bytes, kind: str = "audio/mpeg") -> Html:
    """An element that plays a sound file, whose bytes are in the page, in the body of a card."""
    return Html(f'<audio controls preload="none" src="data:{kind};base64,{base64.b64encode(sound).decode()}"></audio>')


def figure(caption: str, png: bytes) -> Html:
    """A picture, whose bytes are in the page, and what it shows."""
    picture = f'<img alt="{escaped(caption)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    return Html(f"<figure>{picture}<figcaption>{escaped(caption)}</figcaption></figure>")


def html_table(head: Sequence[str], rows: Iterable[Sequence[Cell]], align: str = "", highlighted: int = 0) -> Html:
    """A table in its own scrolling box, its first rows highlighted.

    `align` has a letter a column: l(eft), r(ight: numbers) or w(ide text). Default: one name, then numbers.
    """
    align = align or "l" + "r" * (len(head) - 1)
    classes = [{"l": "", "r": ' class="r"', "w": ' class="wide"'}[letter] for letter in align]
    top = "".join(f'<th scope="col"{c}>{escaped(name)}</th>' for name, c in zip(head, classes))
    top = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    body = ""
    for number, (first, *rest) in enumerate(rows):
        cells = "".join(f'<td{c} dir="auto">{_cell(cell)}</td>' for cell, c in zip(rest, classes[1:]))
        row = '<tr class="changed">' if number < highlighted else "<tr>"
        body += f'{row}<th scope="row"{classes[0]} dir="auto">{_cell(first)}</th>{cells}</tr>'
    return Html(f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>')


def html_page(title: str, body: str, style: str = "") -> bytes:
    """A whole page that needs nothing else: no scripts, nothing from the network, light and dark, wide and narrow."""
    # The policy is the second lock: even text that escaped the escaping could load or run nothing.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
    head = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escaped(title)}</title><style>{STYLE}{style}</style></head>"
    )
    return f"{head}<body><main>{body}</main></body></html>\n".encode("utf-8", "replace")


def _summary(results: dict) -> str:
    model, headline = results["model"], results["headline"]
    total, trainable = model["parameters"]["total"], model["parameters"]["trainable"]
    parameters = f"{total:,} parameters, {trainable:,} trainable ({100 * trainable / max(total, 1):.2f} %)"
    lines = [f"{model['architecture']} · {parameters}", f"{results['script']} · {results['created']}"]
    page = f'<header><h1 dir="auto">{escaped(words(results["task"]))}: {escaped(model["name"])}</h1>'
    page += "".join(f'<p class="soft">{escaped(line)}</p>' for line in lines) + "</header>"
    for sentence, void in badges(results):
        page += f'<p class="badge{"" if void else " quiet"}" role="note">{escaped(sentence)}</p>'
    notes = results["protocol"]["notes"] + results["warnings"]
    number = f'<div class="big">{format_value(headline["value"], headline["unit"])}</div>' if headline else ""
    what, *standing = headline_sentences(headline)
    page += f'<section class="sheet">{number}<p>{escaped(what)}</p>'
    for sentence in standing:
        tone = "good" if "(better)" in sentence else "bad"
        page += f'<p class="{tone}">{escaped(sentence)}</p>'
    page += "</section>"
    if notes:
        page += "<h2>Warnings and notes</h2><ul>" + "".join(f"<li>{escaped(note)}</li>" for note in notes) + "</ul>"
    return page


def _metrics(results: dict) -> str:
    page = "<h2>Metrics</h2>" if results["metrics"] else ""
    for split in results["metrics"]:
        page += f"<h3>{escaped(split)}</h3>" + html_table(METRIC_HEAD, metric_rows(results, split))
        if split in results["baseline"]:
            page += f'<p class="soft">baseline: {escaped(results["baseline"][split]["name"])}</p>'
        page += "".join(html_table(*table) for table in group_tables(results, split))
    return page


def _published(results: dict) -> str:
    if not results["published"]:
        return ""
    head, rows = published_table(results)
    page = f'<h2>Published beside ours</h2><p class="soft">{escaped(published_sentence(results))}</p>'
    return page + html_table(head, rows, "w" + "r" * (len(head) - 1), highlighted=1)


def _facts(results: dict) -> str:
    page = ""
    for title, (head, rows) in fact_tables(results.get("extra", {})):
        table = html_table(head, rows, "" if any(head) else "lw")
        if len(rows) > 10:
            page += f"<details><summary>{escaped(title)} ({len(rows)} rows)</summary>{table}</details>"
        else:
            page += (f"<h3>{escaped(title)}</h3>" if title else "") + table
    return f"<h2>Only in this task</h2>{page}" if page else ""


def _plots(results: dict, output_dir: Path) -> str:
    page = ""
    for name, path in results["files"].items():
        if not path.lower().endswith(".png"):
            continue
        caption = words(Path(name).name.removesuffix(".png")).strip()
        caption = caption[:1].upper() + caption[1:]
        if (output_dir / path).is_file():
            page += figure(caption, (output_dir / path).read_bytes())
        else:
            page += f"<figure><p>{escaped(path)} is missing</p><figcaption>{escaped(caption)}</figcaption></figure>"
    return f'<h2>Plots</h2><div class="plots">{page}</div>' if page else ""


def _classes(results: dict) -> str:
    page = ""
    for split, classes in results.get("per_class", {}).items():
        page += f"<h3>{escaped(split)}: by class</h3>" + html_table(*class_table(classes))
    for split, confusion in results.get("confusion", {}).items():
        page += f"<h3>{escaped(split)}: confusion</h3>" + html_table(*confusion_table(confusion))
    return f"<h2>Classes</h2>{page}" if page else ""


def _errors(cards: Sequence[str], title: str) -> str:
    legend = ""
    if any("<mark " in card for card in cards):
        kinds = (("gold", "gold"), ("predicted", "predicted"), ("both", "both"))
        legend = " ".join(f'<mark class="{kind}">{word}</mark>' for kind, word in kinds)
    return f'<h2>{escaped(title)}</h2><p>{legend}</p><div class="cards">{"".join(cards)}</div>' if cards else ""


def _data(results: dict) -> str:
    splits = results["data"]["splits"]
    page = "<h2>Data</h2>" + html_table(DATA_HEAD, data_rows(results), "lrrwlwl")
    page += "".join(f"<p>{escaped(sentence)}</p>" for sentence in overlap_sentences(results))
    for title, table in (("Labels", label_table(splits)), ("Statistics", statistics_table(splits))):
        page += f"<h3>{title}</h3>{html_table(*table)}" if table else ""
    return page


def _run(results: dict) -> str:
    page = f"<h2>Run it again</h2><pre>{escaped(shlex.join(results['command']))}</pre>"
    changed, arguments = _changed(results), results["arguments"]
    rest = [name for name in arguments if name not in changed]
    order = [*changed, *sorted(rest, key=lambda name: not arguments[name]["source"].startswith("recipe"))]
    rows = [[name, format_argument(arguments[name]["value"]), arguments[name]["source"]] for name in order]
    head = f"{len(changed)} of {len(rows)} arguments differ from the recipe and the library's defaults"
    table = html_table(["argument", "value", "source"], rows, "lwl", highlighted=len(changed))
    return page + f"<details><summary>{head}</summary>{table}</details>"


def _resources(results: dict) -> str:
    resources = results["resources"]
    rows = [[name, format_value(seconds, "seconds")] for name, seconds in resources["seconds"].items()]
    rate = resources.get("samples_per_second", {})
    rows += [[f"{name}, samples a second", format_value(value)] for name, value in rate.items()]
    rows.append(["peak memory", format_memory(resources["peak_memory_bytes"])])
    if resources["peak_gpu_memory_bytes"] is not None:
        rows.append(["peak GPU memory", format_memory(resources["peak_gpu_memory_bytes"])])
    page = "<h2>Resources</h2>" + html_table(["", ""], rows, "lw")
    return page + "<h2>Environment</h2>" + html_table(["", ""], environment_rows(results), "lw")


def write_report(
    results: dict, output_dir: Path, *, error_cards: Sequence[str] = (), error_title: str = "Worst errors"
) -> Path:
    """Writes output_dir/report.html: one page without scripts or anything from the network.

    `results` has the form of results.schema.json; its plots are read from `output_dir`. `error_cards` are made by
    `card`.
    """
    output_dir = Path(output_dir)
    marks = "".join(f"[{sentence.split(':')[0]}] " for sentence, void in badges(results) if void)
    parts = [
        _summary(results),
        _metrics(results),
        _published(results),
        _facts(results),
        _plots(results, output_dir),
        _classes(results),
        _errors(error_cards, error_title),
        _data(results),
        _run(results),
        _resources(results),
        f"<footer>Written by {escaped(results['script'])} from results.json, {escaped(results['created'])}.</footer>",
    ]
    title = f"{marks}{results['script']}: {results['model']['name']}"
    return write_bytes(output_dir / "report.html", html_page(title, "".join(parts)))
