"""The facts of results.json as people read them: numbers, sentences and rows, alike on the page and on the card."""

import json
import math

METRIC_HEAD = ["metric", "value", "95 % interval", "examples", "baseline"]
DATA_HEAD = ["split", "examples", "available", "selection", "skipped", "source", "fingerprint"]


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
        if value < 60:
            return f"{value:.1f} s"
        return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.4g}".rstrip(".")


def format_difference(difference: float, unit: str) -> str:
    """A signed difference of two values; that of two percentages is in points."""
    text = format_value(abs(difference), unit).replace("%", "points")
    return f"{'-' if difference < 0 else '+'}{text}"


def _interval(metric: dict) -> str:
    low, high, unit = metric.get("low"), metric.get("high"), metric["unit"]
    if low is None or high is None:
        return ""
    return f"{format_value(low, unit)} to {format_value(high, unit)}".replace(" %", "")


def words(name: str) -> str:
    return name.replace("_", " ")


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
        found.append((f"{start}: test data took part in training, the figures are too good", True))
    elif published:
        found.append(("published protocol: the published procedure, not this script's default", False))
    return found


def headline_sentences(headline: dict | None) -> list[str]:
    """The result in words: what the number is, and how it stands to the trivial answer."""
    if headline is None:
        return ["Nothing was evaluated: the data have no truth to compare with."]
    unit, value, baseline = headline["unit"], headline["value"], headline["baseline"]
    interval = _interval(headline)
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
        rows.append([words(name), format_value(metric["value"], metric["unit"]), _interval(metric), examples, baseline])
    return rows


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
