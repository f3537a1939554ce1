"""The order of examples: of an epoch, in which batches are of similar length, and of an evaluation."""

from collections.abc import Iterator

import numpy as np
import torch

POOL = 64  # batches that are sorted by length together


def lengths_of(dataset) -> np.ndarray | None:
    """int [N]: how long each example is, from a column "length" or an attribute `lengths`; None where neither is."""
    if "length" in (getattr(dataset, "column_names", None) or ()):
        return np.asarray(dataset["length"][:])
    lengths = getattr(dataset, "lengths", None)
    return None if lengths is None else np.asarray(lengths)


def epoch_order(count: int, seed: int, epoch: int, lengths: np.ndarray | None = None, step_size: int = 1) -> np.ndarray:
    """int [N]: the order of an epoch. With `lengths`, steps are of similar length, and the longest comes first.

    Every 64 steps' worth of a shuffled epoch are sorted by length and cut into steps, which are shuffled. What is left
    over comes last, so that a step is not filled up twice.

    Args:
        step_size: examples of a step, over accumulation and processes.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(count)
    if lengths is None:
        return order
    whole = count - count % step_size
    if whole:  # the longest example is never left over: too little memory shows at once
        at = int(lengths[order].argmax())
        order[[0, at]] = order[[at, 0]]
    pool = POOL * step_size
    sorted_pools = [
        part[np.argsort(lengths[part], kind="stable")]
        for part in np.split(order[:whole], range(pool, whole, pool))
        if len(part)
    ]
    steps = np.concatenate(sorted_pools or [order[:0]]).reshape(-1, step_size)
    steps = steps[random.permutation(len(steps))]
    if len(steps):
        longest = int(lengths[steps].max(axis=1).argmax())
        steps[[0, longest]] = steps[[longest, 0]]
    return np.concatenate([steps.ravel(), order[whole:]])


class EpochSampler(torch.utils.data.Sampler[int]):
    """The order of the epoch that the trainer is in, drawn when it is iterated."""

    def __init__(self, trainer, count: int, lengths: np.ndarray | None):
        self.trainer, self.count, self.lengths = trainer, count, lengths

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        args = self.trainer.args
        seed, epoch = args.seed if args.data_seed is None else args.data_seed, int(self.trainer.state.epoch or 0)
        step_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        if args.train_sampling_strategy == "sequential":
            return iter(range(self.count))
        return iter(epoch_order(self.count, seed, epoch, self.lengths, step_size).tolist())


def evaluation_order(dataset) -> np.ndarray:
    """int [N]: the longest first, so that batches need little padding; the same for every process."""
    lengths = lengths_of(dataset)
    return np.arange(len(dataset)) if lengths is None else np.argsort(-lengths, kind="stable")
