"""What the tests of speech data share: small clips, arguments as the scripts have them, a run that listens."""

import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import soundfile

from common.speech import recordings, settings


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
    return SimpleNamespace(warn=warnings.append, note=notes.append, warnings=warnings, notes=notes)


def load(listener=None, kind: str = "label", checked: bool = True, phases: str = "train validation test", **values):
    """The splits of a source, as the scripts load them."""
    own = ("classes", "names", "corpora", "prepare", "audio")
    options = {name: values.pop(name) for name in own if name in values}
    silent_ok, listener = values.pop("silent_ok", ()), listener or run()
    args = arguments(kind, phases, **{k: str(v) if isinstance(v, Path) else v for k, v in values.items()})
    splits = recordings.load_recordings(args, listener, kind=kind, **options)
    return recordings.check_clips(splits, args, listener, silent_ok) if checked else splits


def labels_of(split) -> dict[str, str]:
    """id -> class."""
    return {row["id"]: split.features["labels"].names[row["labels"]] for row in split}
