"""The facts of results.json as people read them: numbers, sentences and rows, alike on the page and on the card."""

import json
import math
from collections.abc import Mapping

Cell = str | tuple[str, str]  # what a cell of a table says, or that and its small print
Table = tuple[list[str], list[list[Cell]]]  # head and rows; the first cell of a row is its name

METRIC_HEAD = ["metric", "value", "95 % interval", "examples", "baseline"]
DATA_HEAD = ["split", "examples", "available", "selection", "skipped", "source", "fingerprint"]
NAMES = {
    "wer": "word error rate",
    "cer": "character error rate",
    "mcc": "Matthews correlation",
    "auprc": "area under precision-recall",
    "roc_auc": "area under ROC",
    "mcc_at_half": "Matthews correlation at 0.5",
}


def format_value(value: float | None, unit: str = "score") -> str:
    """A number as people read it: percent with 2 decimals, counts with separators, the rest with 4 digits."""
    if value is None or not math.isfinite(value):
        return "n/a"
    if unit == "percent":
        return f"{value:.2f} %"
    if unit == "count":
        return f"{value:,.0f}" if value == round(value) else f"{value:,.2f}"
    if unit == "seconds":
        minutes, seconds = divmod(round(value), 60)
        if value < 0.1:
            return f"{1000 * value:.2f} ms"
        if value < 60:
            return f"{value:.1f} s"
        return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.4g}".rstrip(".")


def format_difference(difference: float, unit: str) -> str:
    """A signed difference of two values; that of two percentages is in points."""
    text = format_value(abs(difference), unit).replace("%", "points")
    return f"{'-' if difference < 0 else '+'}{text}"


def interval_text(metric: dict) -> str:
    low, high, unit = metric.get("low"), metric.get("high"), metric["unit"]
    if low is None or high is None:
        return ""
    return f"{format_value(low, unit)} to {format_value(high, unit)}".replace(" %", "")


def words(name: str) -> str:
    if name in NAMES or name.startswith("_"):  # _silence_ is a class's name
        return NAMES.get(name, name)
    return name.replace("_at_half", " at 0.5").replace("_", " ")


def format_memory(size: int | None) -> str:
    if size is None:
        return "n/a"
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"


def format_argument(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def badges(results: dict) -> list[tuple[str, bool]]:
    """What every output of the run has to say about it, as (sentence, whether the figures are void)."""
    protocol = results["protocol"]
    published = protocol["name"] == "published"
    demo = ("DEMO: built-in synthetic data: the figures say nothing about real data", True)
    found = [demo] if protocol.get("demo") else []
    if protocol["leaks"]:
        start = "LEAKS: published protocol" if published else "LEAKS"
        cause = "what is tested, its speakers, or rows made from it had a part in training"
        found.append((f"{start}: {cause}: the figures are too good", True))
    elif published:
        found.append(("published protocol: the published procedure, not this script's default", False))
    return found


def headline_sentences(headline: dict | None) -> list[str]:
    """The result in words: what the number is, and how it stands to the trivial answer."""
    if headline is None:
        return ["No headline: nothing was evaluated whose truth is known and has the classes that a figure needs."]
    unit, value, baseline = headline["unit"], headline["value"], headline["baseline"]
    interval = interval_text(headline)
    what = f"{words(headline['metric'])} on {headline['split']}" + (f", 95 % interval {interval}" if interval else "")
    gain = (value - baseline) * (1 if headline["higher_is_better"] else -1)
    verdict = "better" if gain > 0 else "worse" if gain < 0 else "no better"
    if interval and headline["low"] <= baseline <= headline["high"]:
        verdict = "no clear difference: the interval contains the baseline"
    standing = f"baseline ({headline['baseline_name']}): {format_value(baseline, unit)}; difference "
    return [what, standing + f"{format_difference(value - baseline, unit)} ({verdict})"]


def overlap_sentences(results: dict) -> list[str]:
    """One sentence for each overlap between two splits."""
    sentences = []
    for overlap in results["data"]["overlaps"]:
        (first, second), key, examples = overlap["between"], overlap["key"], overlap["examples"]
        subject = f"{examples:,} example{'s' if examples != 1 else ''} of {second} ({100 * overlap['share']:.2f} %)"
        shares = f"{'are' if examples != 1 else 'is'} also in" if key == "example" else f"share their {key} with"
        sentences.append(f"{subject} {shares} {first}.")
    return sentences or ["Overlap between the splits: looked for, none found."]


def metric_rows(results: dict, split: str) -> list[list[str]]:
    """One row a metric of a split: name, value, 95 % interval, examples, the trivial answer's value."""
    under = results["baseline"].get(split, {}).get("metrics", {})
    rows = []
    for name, metric in results["metrics"][split].items():
        examples = f"{metric['examples']:,}" if "examples" in metric else ""
        baseline = format_value(under[name]["value"], under[name]["unit"]) if name in under else ""
        what = words(name) + (f" ({metric['average']})" if "average" in metric else "")
        rows.append([what, format_value(metric["value"], metric["unit"]), interval_text(metric), examples, baseline])
    return rows


def group_tables(results: dict, split: str) -> list[Table]:
    """One table a column of groups of a split: a row a value, its examples, and its metrics with intervals."""
    tables = []
    for column, groups in results.get("groups", {}).get(split, {}).items():
        names = list(dict.fromkeys(name for metrics in groups.values() for name in metrics))
        rows = []
        for value, metrics in groups.items():
            examples = max(metric["examples"] for metric in metrics.values())
            cells = [(format_value(m["value"], m["unit"]), interval_text(m)) for m in metrics.values()]
            rows.append([value, f"{examples:,}", *cells])
        tables.append(([column, "examples", *map(words, names)], rows))
    return tables


def class_table(classes: dict) -> Table:
    """The report by class of one split; the interval of a column is its small print."""
    columns = list(dict.fromkeys(column for row in classes.values() for column in row))
    columns = [c for c in columns if not (c.endswith(("_low", "_high")) and c.rsplit("_", 1)[0] in columns)]
    rows = []
    for name, row in classes.items():
        cells: list[Cell] = [name]
        for column in columns:
            unit = "count" if isinstance(row.get(column), int) or column == "support" else "fraction"
            text = format_value(row.get(column), unit)
            ends = {end: row.get(f"{column}_{end}") for end in ("low", "high")}
            interval = interval_text({**ends, "unit": unit})
            cells.append((text, interval) if interval else text)
        rows.append(cells)
    return ["class", *map(words, columns)], rows


def confusion_table(confusion: dict) -> Table:
    """The counts of one split, rows the truth; their share of the row is the small print."""
    rows = []
    for name, counts in zip(confusion["labels"], confusion["matrix"]):
        whole = max(sum(counts), 1)
        rows.append([name, *((f"{count:,}", f"{100 * count / whole:.1f} %") for count in counts)])
    return ["true \\ predicted", *confusion["labels"]], rows


def _in_unit(metric: dict, unit: str) -> float | None:
    """A published value in our unit, where one is percent and the other a fraction."""
    factor = {("percent", "fraction"): 0.01, ("fraction", "percent"): 100}.get((metric["unit"], unit), 1)
    return None if metric["value"] is None else metric["value"] * factor


def published_table(results: dict) -> Table:
    """This run in the first row, the published ones below; small print: source, and ours minus the published value."""
    rows, headline = results["published"], results["headline"]
    ours = results["metrics"].get(headline["split"], {}) if headline else {}
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    units = {name: next(row["metrics"][name]["unit"] for row in rows if name in row["metrics"]) for name in names}
    units |= {name: ours[name]["unit"] for name in names if name in ours}
    mine = [format_value(ours[name]["value"], units[name]) if name in ours else "" for name in names]
    lines: list[list[Cell]] = [["this run", *mine]]
    for row in rows:
        cells: list[Cell] = [(row["setting"], row["source"])]
        for name in names:
            value = _in_unit(row["metrics"][name], units[name]) if name in row["metrics"] else None
            text = "" if value is None else format_value(value, units[name])
            if value is not None and ours.get(name, {}).get("value") is not None:
                text = (text, format_difference(ours[name]["value"] - value, units[name]))
            cells.append(text)
        lines.append(cells)
    return ["setting", *map(words, names)], lines


def published_sentence(results: dict) -> str:
    """How to read `published_table`."""
    where = f" on {results['headline']['split']}" if results["headline"] else ""
    demo = " This run used demo data, so the two cannot be compared." if results["protocol"].get("demo") else ""
    return f"Beside a published value: ours{where} minus that value.{demo}"


def label_table(splits: dict) -> Table | None:
    """Examples by label and split, with their share of the split; None where no split counts labels."""
    counted = {name: split.get("label_counts", {}) for name, split in splits.items()}
    rows = []
    for label in dict.fromkeys(label for counts in counted.values() for label in counts):
        shares = [(counts.get(label, 0), max(sum(counts.values()), 1)) for counts in counted.values()]
        rows.append([label, *(f"{count:,} ({100 * count / whole:.1f} %)" for count, whole in shares)])
    return (["label", *splits], rows) if rows else None


def statistics_table(splits: dict) -> Table | None:
    """The splits' own numbers; None where there are none."""
    known = [split.get("statistics", {}) for split in splits.values()]
    names = dict.fromkeys(name for statistics in known for name in statistics)
    rows = [[words(name), *(_fact(s[name]) if name in s else "" for s in known)] for name in names]
    return (["", *splits], rows) if rows else None


def _fact(fact: object) -> str:
    """A number, a text, a metric, or several of them, as people read it."""
    if isinstance(fact, Mapping):
        if {"value", "unit"} <= fact.keys():
            interval = interval_text(fact)
            return format_value(fact["value"], fact["unit"]) + (f" ({interval})" if interval else "")
        return ", ".join(f"{words(str(name))} {_fact(value)}" for name, value in fact.items())
    if isinstance(fact, list | tuple):
        return ", ".join(map(_fact, fact)) or "none"
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    if isinstance(fact, int):
        return f"{fact:,}"
    if isinstance(fact, float):  # a learning rate as it is written: 2e-05
        return f"{fact:.4g}" if abs(fact) < 1000 else format_value(fact)
    return "n/a" if fact is None else str(fact)


def _fact_cell(fact: object) -> Cell:
    """As `_fact`, but the interval of a metric is small print."""
    if isinstance(fact, Mapping) and {"value", "unit"} <= fact.keys() and (interval := interval_text(fact)):
        return format_value(fact["value"], fact["unit"]), interval
    return _fact(fact)


def fact_tables(extra: dict) -> list[tuple[str, Table]]:
    """What only one task has, as titled tables: facts by row and column, facts by name, and one for the lone facts."""
    tables, lone = [], []
    for name, facts in extra.items():
        if not isinstance(facts, Mapping) or {"value", "unit"} <= facts.keys():
            lone.append([words(name), _fact(facts)])
            continue
        inner = list(facts.values())
        if inner and all(isinstance(row, Mapping) and not {"value", "unit"} <= row.keys() for row in inner):
            columns = list(dict.fromkeys(column for row in inner for column in row))
            rows = [
                [words(str(n)), *(_fact_cell(row[c]) if c in row else "" for c in columns)] for n, row in facts.items()
            ]
            tables.append((words(name), (["", *map(words, columns)], rows)))
        else:
            tables.append((words(name), (["", ""], [[words(str(n)), _fact(value)] for n, value in facts.items()])))
    return [("", (["", ""], lone)), *tables] if lone else tables


def data_rows(results: dict) -> list[list[str]]:
    """One row a split: name, examples used, available, how they were selected, skipped, source, short fingerprint."""
    rows = []
    for name, split in results["data"]["splits"].items():
        skipped = ", ".join(f"{count:,} {reason}" for reason, count in split["skipped"].items()) or "none"
        sizes = [f"{split['examples']:,}", f"{split['available']:,}"]
        rows.append([name, *sizes, split["selection"], skipped, split["source"], split["fingerprint"][:12]])
    return rows


def environment_rows(results: dict) -> list[list[str]]:
    """What the run ran on: (name, value) rows."""
    environment = results["environment"]
    rows = [[name, str(environment[name])] for name in ("device", "processes", "platform", "python")]
    rows.append(["git commit", environment["git_commit"] or "not a git checkout"])
    return rows + [[name, version] for name, version in environment["versions"].items()]
