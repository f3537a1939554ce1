"""The facts of a run, as results.json has them: one schema for all scripts, explained in `results.schema.json`."""

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from common.legacy.files import write_json
from common.legacy.formats import badges
from common.legacy.metrics import bootstrap_interval

SCHEMA_VERSION = 1
PACKAGES = ("torch", "transformers", "datasets", "accelerate", "peft", "tokenizers", "tensorflow", "keras", "numpy")


def metric(values: np.ndarray, unit: str, *, scale: float = 1.0) -> dict:
    """A metric that is the mean of per-example `values` [N] (times `scale`), with its bootstrap interval."""
    if not len(values):
        return {"value": None, "low": None, "high": None, "unit": unit, "examples": 0}
    low, high = bootstrap_interval(values)
    return {
        "value": float(np.mean(values)) * scale,
        "low": float(low) * scale,
        "high": float(high) * scale,
        "unit": unit,
        "examples": len(values),
    }


def plain_metric(value: float, unit: str) -> dict:
    """A metric without an interval."""
    return {"value": float(value), "low": None, "high": None, "unit": unit}


def headline(metrics: dict, baseline: dict, split: str, name: str, *, higher_is_better: bool = True) -> dict:
    """The one number of a run: metric `name` of `split`, with the baseline's beside it."""
    ours = metrics[split][name]
    return {
        "split": split,
        "metric": name,
        **{k: ours[k] for k in ("value", "low", "high", "unit")},
        "baseline_name": baseline[split]["name"],
        "baseline": baseline[split]["metrics"][name]["value"],
        "higher_is_better": higher_is_better,
    }


def published(source: str, setting: str, values: dict[str, float], *, unit: str) -> dict:
    """A reference row to stand beside ours."""
    return {"source": source, "setting": setting, "metrics": {k: plain_metric(v, unit) for k, v in values.items()}}


def of_run(
    parsed, trainer, clock, *, task: str, warnings: list[str], commit: str | None, leaks: list[str] | None = None
) -> dict:
    """The parts of results.json that every run on `Trainer` has in common.

    `commit` is the model's on the hub; `leaks` says how the protocol leaks, if it does.
    """
    from common.legacy.modeling import count_parameters

    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    facts = {"revision": commit, "architecture": type(model).__name__, "parameters": count_parameters(model)}
    where = environment(str(args.device), args.world_size)
    shared = {"task": task, "warnings": warnings, "leaks": leaks}
    return of_any_run(parsed, clock, model=facts, log=trainer.state.log_history, environment=where, **shared)


def of_any_run(
    parsed, clock, *, task: str, model: dict, log: list[dict], environment: dict, warnings: list[str], leaks=None
) -> dict:
    """The parts of results.json that every run has in common, on `Trainer` or not.

    `model` has revision, architecture and parameters (total, trainable); `log` a dictionary for each time that
    something was logged; `leaks` says how the protocol leaks, if it does.
    """
    speeds = {
        k.removesuffix("_samples_per_second"): v for e in log for k, v in e.items() if k.endswith("_samples_per_second")
    }
    return {
        "task": task,
        "script": parsed.command[0],
        "command": parsed.command,
        "protocol": {
            "name": "published" if leaks else "honest",
            "leaks": bool(leaks),
            "demo": bool(parsed.record["demo"]["value"]),
            "notes": leaks or [],
        },
        "arguments": parsed.record,
        "model": {"name": parsed.record["model"]["value"], **model},
        "history": history(log),
        "resources": {"seconds": clock.total(), "samples_per_second": speeds, **peak_memory()},
        "environment": environment,
        "warnings": warnings,
        "files": {"report": "report.html", "model_card": "README.md"},
    }


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
    """The commit of the checkout that this file is in, with "+changes" when it is not clean; None outside one."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10)
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if commit.returncode or changes.returncode:
        return None
    return commit.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def peak_memory() -> dict[str, int | None]:
    """Largest resident size of this process, and largest memory allocated on its GPU (None without one), in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    gpu = None
    torch = sys.modules.get("torch")  # not imported for this: a script without torch has no use for it
    if torch is not None and torch.cuda.is_available():
        gpu = int(torch.cuda.max_memory_allocated())
    return {
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "peak_gpu_memory_bytes": gpu,
    }


def history(log: Iterable[dict]) -> list[dict]:
    """A Trainer's log (or Keras's, one dictionary an epoch) with numbers only; what is not finite becomes null."""
    rows = []
    for entry in log:
        numbers = {k: v for k, v in entry.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        rows.append({k: (v if np.isfinite(v) else None) for k, v in numbers.items()})
    return rows


def completed(results: dict) -> dict:
    """`results` with schema version and time."""
    return {"schema_version": SCHEMA_VERSION, "created": datetime.now(UTC).isoformat(timespec="seconds"), **results}


def write_flat(output_dir: Path, results: dict) -> None:
    """Writes what official examples write, for a run without `Trainer`: metrics by split and together, and the log."""
    together = {}
    for name, prefix in {"train": "train", "validation": "eval", "test": "predict"}.items():
        figures = results["metrics"].get(name, {}).items()
        flat = {f"{prefix}_{metric}": figure["value"] for metric, figure in figures if figure["value"] is not None}
        if name == "train" and results["history"]:
            flat = {"train_loss": results["history"][-1]["loss"], "epoch": results["history"][-1]["epoch"]}
            flat["train_runtime"] = results["resources"]["seconds"]["training"]
            write_json(output_dir / "trainer_state.json", {"log_history": results["history"]})
        if flat:
            write_json(output_dir / f"{prefix}_results.json", flat)
            together |= flat
    write_json(output_dir / "all_results.json", together)


def write_results(output_dir: Path, results: dict) -> None:
    """Writes results.json; the last thing that a run does, so that a results.json stands for a whole run."""
    write_json(output_dir / "results.json", results)
    head = results["headline"]
    for sentence in (sentence for sentence, void in badges(results) if void):
        print(sentence)
    if head is not None:
        unit = " %" if head["unit"] == "percent" else ""
        interval = f" [{head['low']:.2f}, {head['high']:.2f}]" if head["low"] is not None else ""
        print(
            f"{head['split']} {head['metric']}: {head['value']:.2f}{unit}{interval} "
            f"({head['baseline_name']}: {head['baseline']:.2f}{unit})"
        )
    for warning in results["warnings"]:
        print(f"warning: {warning}")
    print(f"report: {output_dir / 'report.html'}")
