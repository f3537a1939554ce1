"""The parts of results.json that all runs have in common; one schema for all scripts, in `results.schema.json`."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from common.metrics.intervals import mean_interval

SCHEMA_VERSION = 1
PACKAGES = (
    *("torch", "transformers", "datasets", "accelerate", "peft", "tokenizers"),
    *("tensorflow", "tensorflow-cpu", "keras", "scikit-learn", "librosa", "numpy", "pandas"),
)


def metric(values: np.ndarray, unit: str, *, scale: float = 1.0) -> dict:
    """A metric that is the mean of per-example `values` [N] in 0..1 (times `scale`), with its 95 % interval."""
    if not len(values):
        return {"value": None, "low": None, "high": None, "unit": unit, "examples": 0}
    low, high = mean_interval(values)
    value = float(np.mean(values)) * scale
    return {"value": value, "low": low * scale, "high": high * scale, "unit": unit, "examples": len(values)}


def plain_metric(value: float, unit: str) -> dict:
    """A metric without an interval."""
    return {"value": float(value), "low": None, "high": None, "unit": unit}


def headline(metrics: dict, baseline: dict, split: str, name: str, *, higher_is_better: bool = True) -> dict:
    """The one number of a run: metric `name` of `split`, with the baseline's beside it."""
    ours = metrics[split][name]
    return {
        "split": split,
        "metric": name,
        **{key: ours[key] for key in ("value", "low", "high", "unit")},
        "baseline_name": baseline[split]["name"],
        "baseline": baseline[split]["metrics"][name]["value"],
        "higher_is_better": higher_is_better,
    }


def published(source: str, setting: str, values: dict[str, float], *, unit: str = "percent") -> dict:
    """A reference row to stand beside ours."""
    return {"source": source, "setting": setting, "metrics": {k: plain_metric(v, unit) for k, v in values.items()}}


def environment(device: str, processes: int) -> dict:
    """Python, platform, device, processes, versions of the installed packages, git commit of the scripts."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device": device,
        "processes": processes,
        "versions": versions,
        "git_commit": git_commit(),
    }


def git_commit() -> str | None:
    """The commit of the scripts' checkout, with "+changes" when it is not clean; None where they are installed."""

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # an environment may lie in another project's checkout
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def peak_memory() -> dict[str, int | None]:
    """Largest resident size of this process, and largest memory allocated on its GPU (None without one), in bytes."""
    try:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    except ImportError:  # Windows
        import psutil

        peak = psutil.Process().memory_info().peak_wset
    torch = sys.modules.get("torch")  # not imported for this: a script without torch has no use for it
    on_gpu = torch is not None and torch.cuda.is_available()
    return {
        "peak_memory_bytes": peak,
        "peak_gpu_memory_bytes": int(torch.cuda.max_memory_allocated()) if on_gpu else None,
    }


def history(log: Iterable[dict]) -> list[dict]:
    """A Trainer's log (or Keras's, one dictionary an epoch) with numbers only; what is not finite becomes null."""
    rows = []
    for entry in log:
        numbers = {k: v for k, v in entry.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        rows.append({k: (v if np.isfinite(v) else None) for k, v in numbers.items()})
    return rows


def final_metrics(results: dict) -> dict[str, float]:
    """What trackers get at the end: final_SPLIT_METRIC, and the ends of its interval."""
    return {
        f"final_{split}_{name}{end}": metric[key]
        for split, metrics in results["metrics"].items()
        for name, metric in metrics.items()
        for key, end in (("value", ""), ("low", "_low"), ("high", "_high"))
        if metric.get(key) is not None
    }


def print_headline(results: dict, output_dir: Path) -> None:
    """What a run prints at its end: the headline with its interval, warnings, and where the report is."""
    from common.report.words import badges

    for sentence in (sentence for sentence, void in badges(results) if void):
        print(sentence)
    if (head := results["headline"]) is not None:
        unit = " %" if head["unit"] == "percent" else ""
        interval = f" [{head['low']:.2f}, {head['high']:.2f}]" if head["low"] is not None else ""
        baseline = f"{head['baseline_name']}: {head['baseline']:.2f}{unit}"
        print(f"{head['split']} {head['metric']}: {head['value']:.2f}{unit}{interval} ({baseline})")
    for warning in results["warnings"]:
        print(f"warning: {warning}")
    print(f"report: {output_dir / 'report.html'}")
