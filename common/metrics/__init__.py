"""Metrics as modules that `evaluate.load` reads, each in a folder of its own, and intervals for all of them."""

from pathlib import Path


def load(name: str):
    """The `evaluate` metric in the folder `name` beside this file: classification, detection, squad_v2 or wer.

    What is computed stays in memory, so that several processes do not meet in a file.
    """
    import evaluate

    return evaluate.load(str(Path(__file__).parent / name), keep_in_memory=True)
