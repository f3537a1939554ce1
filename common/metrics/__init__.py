"""Metrics, those that scripts load as modules for `evaluate.load` in folders of their own; and intervals for all."""

from pathlib import Path


def load(name: str):
    """The `evaluate` metric in the folder `name` beside this file: classification, squad_v2 or wer.

    What is computed stays in memory, so that several processes do not meet in a file.
    """
    import evaluate

    return evaluate.load(str(Path(__file__).parent / name), keep_in_memory=True)
