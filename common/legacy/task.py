"""What scripts on `Trainer` do alike around a training: which sets are evaluated, under which names, with which loss;
and what scripts on classes leave behind.

Not the tasks themselves, nor what pairs of sentences (`common.legacy.pair_task`) or recordings (`common.legacy.speech_task`) share.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from common.legacy import report
from common.legacy import results as facts
from common.legacy.classification import Predictions, draw_plots, error_cards, score, write_predictions
from common.legacy.data import choose
from common.legacy.model_card import write_model_card

PREFIX = {"train": "train", "validation": "eval", "test": "predict"}  # as in official examples
LOSSES = {"train": "loss", "train set": "eval_train_loss", "validation": "eval_validation_loss"}
ACCURACIES = {"train set": "eval_train_accuracy", "validation": "eval_validation_accuracy"}


class Sample:
    """Some examples of a data set, as a data set of its own; the rows ascending."""

    def __init__(self, dataset, rows: np.ndarray):
        self.dataset, self.rows = dataset, rows
        self.lengths = dataset.lengths[rows]
        targets = dataset.targets
        self.targets = targets[rows] if isinstance(targets, np.ndarray) else targets and [targets[i] for i in rows]

    @property
    def examples(self):
        """The examples behind the rows (`Pairs`, `Recordings`)."""
        return self.dataset.examples.take(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int):
        return self.dataset[int(self.rows[i])]


def evaluated_sets(inputs: Mapping[str, object], train_samples: int, seed: int) -> dict[str, object]:
    """What is evaluated while training: validation, and a sample of the training set for its curve."""
    if "validation" not in inputs:
        return {}
    sets = {"validation": inputs["validation"]}
    if "train" in inputs and train_samples:
        rows, _ = choose(len(inputs["train"]), train_samples, seed)
        sets["train"] = Sample(inputs["train"], rows)
    return sets


def classification_head(smoothing: float, class_weights: np.ndarray | None = None):
    """Cross entropy over logits [B, C], and the logits kept for scoring; a `common.legacy.trainer.Head`.

    With `class_weights` [C] the loss is the mean weighted by each example's class, as that of torch's
    `CrossEntropyLoss(weight)`, but over all examples of a step.
    """
    import torch

    from common.legacy.trainer import Head

    def losses(output: dict, batch: dict) -> torch.Tensor:
        logits = output["logits"].float()
        return torch.nn.functional.cross_entropy(logits, batch["targets"], reduction="none", label_smoothing=smoothing)

    table = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)

    def weights(batch: dict) -> torch.Tensor:
        targets = batch["targets"]
        return table.to(targets.device)[targets]

    return Head(
        targets=("targets",),
        losses=losses,
        keep=lambda output, batch: (output["logits"].float(),),
        score=score,
        has_truth=lambda batch: "targets" in batch,
        weights=None if table is None else weights,
    )


def publish_predictions(
    results: dict,
    predictions: Mapping[str, Predictions],
    output_dir: Path,
    *,
    usage: str,
    players: Mapping[str, Callable[[int], str]] | None = None,
) -> dict:
    """Writes predictions, plots, report, model card and, last, results.json; returns what results.json holds.

    Args:
        usage: Python code that loads the model.
        players: split -> what gives the HTML that plays one of its examples (`classification.error_cards`).
    """
    for name, prefix in (("validation", ""), ("test", "test_")):
        if name in predictions:
            results["files"] |= write_predictions(output_dir, prefix, predictions[name])
    results["files"] |= draw_plots(results, output_dir, losses=LOSSES, accuracies=ACCURACIES)
    results = facts.completed(results)
    name = results["headline"]["split"] if results["headline"] else None
    cards = error_cards(predictions[name], player=(players or {}).get(name)) if name else []
    report.write_report(results, output_dir, error_cards=cards)
    write_model_card(results, output_dir, usage=usage)
    facts.write_results(output_dir, results)
    return results
