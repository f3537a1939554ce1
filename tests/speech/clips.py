"""What the tests of speech data share: small clips, arguments as the scripts have them, a run that listens."""

import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import soundfile

from common.speech import settings
from common.speech.recordings import load_recordings
from common.speech.splits import describe_splits
from common.speech.transcripts import Normalization


def sound(seconds: float = 0.2, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """float32 [samples] of a tone in noise, different for every seed."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(0, 0.05, len(time))
    return (0.3 * np.sin(2 * np.pi * (200 + seed % 50) * time) + noise).astype(np.float32)


def write(path: Path, seconds: float = 0.2, seed: int | None = None, rate: int = 16_000, **options) -> Path:
    """A clip; by default its content is that of its name alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(str(path).encode()) if seed is None else seed
    soundfile.write(path, sound(seconds, rate, seed), rate, **options)
    return path


def arguments(kind: str = "label", phases: str = "train validation test", **values):
    """Parsed arguments of a script with classes or with transcripts."""
    group = settings.ClassArguments if kind == "label" else settings.TextArguments
    args = group(**values)
    asked = {
        f"do_{'eval' if name == 'validation' else 'predict' if name == 'test' else name}" for name in phases.split()
    }
    names = ("do_train", "do_eval", "do_predict")
    args.training_args = SimpleNamespace(**{n: n in asked for n in names}, world_size=1, process_index=0)
    args.explicit = {*values, *asked}
    return args


def run() -> SimpleNamespace:
    """A run that keeps what it is told."""
    warnings, notes = [], []
    told = {"warn": warnings.append, "note": notes.append, "describe": lambda splits: None}
    return SimpleNamespace(**told, warnings=warnings, notes=notes)


def load(listener=None, kind: str = "label", phases: str = "train validation test", **values):
    """The splits of a source, as the scripts load them."""
    own = ("classes", "names", "prepare")
    options, listener = {name: values.pop(name) for name in own if name in values}, listener or run()
    options["rules"] = Normalization("keep", "keep") if kind == "text" else None
    args = arguments(kind, phases, **{k: str(v) if isinstance(v, Path) else v for k, v in values.items()})
    splits = load_recordings(args, listener, **options)
    describe_splits(splits, listener)
    return splits


def labels_of(split) -> dict[str, str]:
    """id -> class."""
    return {row["id"]: split.features["labels"].names[row["labels"]] for row in split}
