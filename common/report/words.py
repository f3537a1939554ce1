"""The facts of results.json as people read them: numbers, sentences and tables, alike on the page and on the card.

A table is a dictionary with head and rows (of texts and numbers), and perhaps title, note, folded, highlighted (so many
rows). A section is a dictionary with title, text (sentences) and tables.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PureWindowsPath

NAMES = {
    "wer": "word error rate",
    "cer": "character error rate",
    "mcc": "Matthews correlation",
    "auprc": "area under precision-recall",
    "roc_auc": "area under ROC",
    "exact": "exact match",
    "f1": "F1",
    "persian-nli": "Persian NLI",
    "multinli": "MultiNLI",
    "best_exact": "exact match (best threshold)",
    "best_f1": "F1 (best threshold)",
}
PARTS = {"HasAns_": "answerable", "NoAns_": "unanswerable"}  # at the beginning or end of metrics' names
PARTS |= {"_at_half": "at 0.5", "_weighted": "weighted", "_micro": "micro"}
INTERVAL = "95 % interval"


def words(name: str) -> str:
    """A name of results.json in words; one that begins with "_" is a class's (_silence_)."""
    for part, said in PARTS.items():
        if name.startswith(part) or name.endswith(part):
            return f"{words(name.replace(part, ''))} ({said})"
    return NAMES.get(name) or (name if name.startswith("_") else name.replace("_", " ").replace("-", " "))


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def format_value(value: float | None, unit: str = "score") -> str:
    """A number: percent with 2 decimals, counts with separators, seconds as a clock has them, others with 4 digits."""
    if value is None or not math.isfinite(value):
        return "n/a"
    if unit == "percent":
        return f"{value:.2f} %"
    if unit == "count":
        return f"{value:,.0f}" if value == round(value) else f"{value:,.2f}"
    if unit == "seconds":
        minutes, seconds = divmod(round(value), 60)
        if value < 60:
            return f"{1000 * value:.2f} ms" if value < 0.1 else f"{value:.1f} s"
        return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.4g}".rstrip(".")


def format_difference(difference: float, unit: str) -> str:
    """A signed difference of two values; that of two percentages is in points."""
    return f"{'-' if difference < 0 else '+'}{format_value(abs(difference), unit).replace('%', 'points')}"


def interval_text(metric: Mapping) -> str:
    low, high, unit = metric.get("low"), metric.get("high"), metric["unit"]
    return "" if None in (low, high) else f"{format_value(low, unit)} to {format_value(high, unit)}".replace(" %", "")


def fact(value: object) -> str:
    """A number, a text, a metric, or several of them."""
    if isinstance(value, Mapping):
        if "unit" in value:
            interval = interval_text(value)
            return format_value(value["value"], value["unit"]) + (f" ({interval})" if interval else "")
        return ", ".join(f"{words(str(name))} {fact(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(fact, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "n/a"}[value]
    if isinstance(value, float):  # a learning rate as it is written: 2e-05
        return f"{value:.4g}" if abs(value) < 1000 else format_value(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def model_name(results: Mapping) -> str:
    """The hub's id, the last part of a folder's path, or, in the demo, what the model is."""
    name = results["model"]["name"]
    if results["protocol"].get("demo"):
        return f"{results['model']['architecture']} on demo data"
    local = name.count("/") > 1 or "\\" in name or name.startswith((".", "/", "~")) or Path(name).exists()
    return PureWindowsPath(name).name if local else name


def badges(results: Mapping) -> list[tuple[str, bool]]:
    """What every output of the run has to say about it, as (sentence, whether the figures are void)."""
    protocol, found = results["protocol"], []
    if protocol.get("demo"):
        found.append(("DEMO: built-in synthetic data: the figures say nothing about real data", True))
    if protocol["leaks"]:
        start = "LEAKS: published protocol" if protocol["name"] == "published" else "LEAKS"
        cause = "what is tested, its speakers, or rows made from it had a part in training"
        found.append((f"{start}: {cause}: the figures are too good", True))
    elif protocol["name"] == "published":
        found.append(("published protocol: the published procedure, not this script's default", False))
    return found


def headline_sentences(headline: Mapping | None) -> list[str]:
    """The result in words: what the number is, and how it stands to the trivial answer."""
    if headline is None:
        return ["No headline: nothing was evaluated whose truth is known and has the classes that a score needs."]
    unit, baseline, interval = headline["unit"], headline["baseline"], interval_text(headline)
    difference = headline["value"] - baseline
    verdict = "better" if (difference > 0) == headline["higher_is_better"] else "worse"
    if interval and headline["low"] <= baseline <= headline["high"]:
        verdict = "no clear difference: the interval contains the baseline"
    return [
        f"{words(headline['metric'])} on {headline['split']}" + (f", {INTERVAL} {interval}" if interval else ""),
        f"baseline ({headline['baseline_name']}): {format_value(baseline, unit)}; "
        f"difference {format_difference(difference, unit)} ({verdict if difference else 'no better'})",
    ]


def grid(corner: str, rows: Iterable[tuple[str, Mapping]], named: Callable = words, **table) -> dict:
    """A table of facts, from (name, {column: fact}); the intervals of metrics stand in columns of their own.

    named: what makes a column's head of its name.
    """
    rows = list(rows)
    head, lines = [corner], [[str(name)] for name, _ in rows]
    for column in dict.fromkeys(column for _, row in rows for column in row):
        cells = [row.get(column, "") for _, row in rows]
        metrics = [cell if isinstance(cell, Mapping) and "unit" in cell else None for cell in cells]
        texts = [format_value(one["value"], one["unit"]) if one else fact(c) for one, c in zip(metrics, cells)]
        intervals = [interval_text(one) if one else "" for one in metrics]
        for name, found in ((named(str(column)), texts), (INTERVAL, intervals)):
            if found is texts or any(found):
                head.append(name)
                lines = [[*line, cell] for line, cell in zip(lines, found)]
    return {"head": head, "rows": lines, **table}


def pairs(facts: Mapping, **table) -> dict:
    """A table of names and facts."""
    return grid("", ((words(str(name)), {"": value}) for name, value in facts.items()), **table)


def _metrics(results: Mapping) -> Iterator[dict]:
    for split, metrics in results["metrics"].items():
        under, rows = results["baseline"].get(split, {"name": "none", "metrics": {}}), []
        for name, one in metrics.items():
            row = {"value": one, "examples": one.get("examples", ""), "baseline": under["metrics"].get(name, "")}
            rows.append((capital(words(name)) + (f" ({one['average']})" if "average" in one else ""), row))
        yield grid("metric", rows, title=capital(split), note=f"Baseline: {under['name']}.")
        for column, groups in results.get("groups", {}).get(split, {}).items():
            rows = [
                (value, {"examples": max(one.get("examples", 0) for one in found.values()), **found})
                for value, found in groups.items()
            ]
            yield grid(column, rows, title=f"{capital(split)} by {column}")


def _published(results: Mapping) -> Iterator[dict]:
    headline, published = results["headline"], results["published"]
    ours = results["metrics"].get(headline["split"], {}) if headline else {}
    names = dict.fromkeys(name for row in published for name in row["metrics"])
    cells, rows = {"source": ""}, []
    for name in names:
        cells |= {name: ours[name], f"ours minus {name}": ""} if name in ours else {name: ""}
    for row in published:
        rows.append((row["setting"], {"source": row["source"], **row["metrics"]}))
        for name, theirs in row["metrics"].items():
            mine = ours.get(name, {"value": None, "unit": ""})
            if mine["unit"] == theirs["unit"] and None not in (mine["value"], theirs["value"]):
                difference = format_difference(mine["value"] - theirs["value"], mine["unit"])
                rows[-1][1][f"ours minus {name}"] = difference
    if published:
        yield grid("setting", [("this run", cells), *rows], highlighted=1)


def _classes(results: Mapping) -> Iterator[dict]:
    for split, classes in results.get("per_class", {}).items():
        rows = []
        for label, row in classes.items():
            cells = {}
            for column, value in row.items():
                unit = "count" if column == "support" or isinstance(value, int) else "fraction"
                ends = {end: row.get(f"{column}_{end}") for end in ("low", "high")}
                cells |= {} if column.endswith(("_low", "_high")) else {column: {"value": value, "unit": unit, **ends}}
            rows.append((label, cells))
        yield grid("class", rows, title=capital(words(split)))
    for split, found in results.get("confusion", {}).items():
        rows = ((label, dict(zip(found["labels"], counts))) for label, counts in zip(found["labels"], found["matrix"]))
        yield grid("true \\ predicted", rows, str, title=f"{capital(words(split))}: confusion", folded=True)


def _task(results: Mapping) -> Iterator[dict]:
    """The tables of the task, and its facts: by row and column, by name, and the lone ones together."""
    yield from results.get("tables", ())
    lone = {}
    for name, facts in results.get("extra", {}).items():
        if not isinstance(facts, Mapping) or "unit" in facts:
            lone[name] = facts
        elif all(isinstance(row, Mapping) and "unit" not in row for row in facts.values()):
            yield grid("", facts.items(), title=capital(words(name)))
        else:
            yield pairs(facts, title=capital(words(name)))
    if lone:
        yield pairs(lone)


def _data(results: Mapping) -> Iterator[dict]:
    splits, rows = results["data"]["splits"], []
    for name, split in splits.items():
        row = {column: split[column] for column in ("examples", "available", "selection")}
        row["skipped"] = ", ".join(f"{count:,} {reason}" for reason, count in split["skipped"].items()) or "none"
        rows.append((name, row | {"source": split["source"], "fingerprint": split["fingerprint"][:12]}))
    yield grid("split", rows)
    for key in ("label_counts", "statistics"):
        found = {name: split[key] for name, split in splits.items() if split.get(key)}
        names = dict.fromkeys(name for facts in found.values() for name in facts)
        if names:
            said = words if key == "statistics" else str
            rows = ((said(name), {split: facts.get(name, "") for split, facts in found.items()}) for name in names)
            yield grid("", rows, title=capital(words(key)))


def _overlaps(results: Mapping) -> Iterator[str]:
    for overlap in results["data"]["overlaps"]:
        (first, second), key, one = overlap["between"], overlap["key"], overlap["examples"] == 1
        subject = f"{overlap['examples']:,} example{'' if one else 's'} of {second} ({100 * overlap['share']:.2f} %)"
        shared = f"{'is' if one else 'are'} also in" if key == "example" else f"share their {key} with"
        yield f"{subject} {shared} {first}."
    if not results["data"]["overlaps"]:
        yield "Overlap between the splits: looked for, none found."


def _run(results: Mapping) -> Iterator[dict]:
    resources, environment = results["resources"], results["environment"]
    found = {name: {"value": value, "unit": "seconds"} for name, value in resources["seconds"].items()}
    found |= {f"{name}, samples a second": v for name, v in resources.get("samples_per_second", {}).items()}
    for name in ("peak_memory", "peak_gpu_memory"):
        if size := resources[f"{name}_bytes"]:
            found[name] = f"{size / 2**30:.2f} GiB"
    yield pairs(found, title="Time and memory")
    names = ("device", "processes", "platform", "python", "git_commit")
    yield pairs({name: environment[name] for name in names} | environment["versions"], title="Environment")


def sections(results: Mapping) -> dict[str, dict]:
    """What page and card both show, by title and in order; a section without tables is left out."""
    where = f" on {results['headline']['split']}" if results["headline"] else ""
    demo = " This run used demo data, so the two cannot be compared." if results["protocol"].get("demo") else ""
    parts = (
        ("Metrics", _metrics, []),
        ("Published", _published, [f"Ours is this run{where}.{demo}"]),
        ("Classes", _classes, []),
        ("Details", _task, []),
        ("Data", _data, list(_overlaps(results))),
        ("Run", _run, []),
    )
    made = ({"title": title, "text": text, "tables": list(make(results))} for title, make, text in parts)
    return {section["title"]: section for section in made if section["tables"]}


def arguments_table(results: Mapping, shown: Iterable[str]) -> dict:
    """Name, value and source of arguments."""
    rows = []
    for name in shown:
        value, source = (results["arguments"][name][key] for key in ("value", "source"))
        rows.append([name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), source])
    return {"head": ["argument", "value", "source"], "rows": rows}
