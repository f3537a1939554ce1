"""The facts of results.json as people read them, alike on the page, on the card and in the terminal."""

import math
from collections.abc import Mapping
from pathlib import Path

NAMES = {"wer": "word error rate", "cer": "character error rate", "mcc": "Matthews correlation", "f1": "F1"}
NAMES |= {"auprc": "area under precision-recall", "roc_auc": "area under ROC", "exact": "exact match"}
PARTS = {"best_": "best threshold", "HasAns_": "answerable", "NoAns_": "unanswerable"}  # at an end of a name
PARTS |= {"_at_half": "at 0.5", "_weighted": "weighted", "_micro": "micro"}


def words(name: str) -> str:
    """A name of results.json in words; one that begins with "_" is a class's (_silence_)."""
    for part, said in PARTS.items():
        if name.startswith(part) or name.endswith(part):
            return f"{words(name.replace(part, ''))} ({said})"
    return NAMES.get(name) or (name if name.startswith("_") else name.replace("_", " ").replace("-", " "))


def format_value(value: float | None, unit: str = "score") -> str:
    """A number: percent with 2 decimals, counts with separators, seconds or minutes, others with 4 digits."""
    if value is None or not math.isfinite(value):
        return "n/a"
    if unit == "percent":
        return f"{value:.2f} %"
    if unit == "count":
        return f"{value:,.2f}".removesuffix(".00")
    if unit == "seconds":
        return f"{value:.3g} s" if value < 60 else f"{value / 60:,.1f} min"
    return f"{value:,.0f}" if abs(value) >= 999.95 else f"{value:#.4g}"


def format_difference(difference: float, unit: str) -> str:
    """A signed difference of two values; that of two percentages is in points."""
    return f"{'-' if difference < 0 else '+'}{format_value(abs(difference), unit).replace('%', 'points')}"


def interval_text(metric: Mapping) -> str:
    low, high, unit = metric.get("low"), metric.get("high"), metric["unit"]
    return "" if None in (low, high) else f"{format_value(low, unit)} to {format_value(high, unit)}".replace(" %", "")


def fact(value: object) -> str:
    """A number, a text, a metric, or several of them."""
    if isinstance(value, Mapping) and "unit" in value:
        return f"{format_value(value['value'], value['unit'])} ({interval_text(value)})".removesuffix(" ()")
    if isinstance(value, Mapping):
        return ", ".join(f"{words(str(name))} {fact(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(fact, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "n/a"}[value]
    if isinstance(value, float):  # a learning rate as it is written: 2e-05
        return f"{value:.4g}" if abs(value) < 1000 else format_value(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def model_name(results: Mapping) -> str:
    """The hub's id, the name of a folder, or, in the demo, what the model is."""
    if results["protocol"].get("demo"):
        return f"{results['model']['architecture']} on demo data"
    name = results["model"]["name"]
    return Path(name).resolve().name if Path(name).exists() else name


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
        f"{words(headline['metric'])} on {headline['split']}" + (f", 95 % interval {interval}" if interval else ""),
        f"baseline ({headline['baseline_name']}): {format_value(baseline, unit)}; "
        f"difference {format_difference(difference, unit)} ({verdict if difference else 'no better'})",
    ]
