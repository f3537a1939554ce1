"""In which order examples are drawn: similar lengths together, so that batches need little padding."""

from collections.abc import Iterator

import numpy as np
import torch


class LengthGroupedSampler(torch.utils.data.Sampler[int]):
    """Shuffled examples in batches of similar length; the order depends on seed and epoch only.

    Every `pool` batches of a shuffled epoch are sorted by length, cut into batches, and these are shuffled. The batch
    with the longest example comes first, so that too little memory shows at once.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, pool: int = 64):
        self.lengths, self.batch_size, self.seed, self.pool = np.asarray(lengths), batch_size, seed, pool
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        shuffled = random.permutation(len(self.lengths))
        # A full last batch would need examples twice, so the remainder is set aside first and comes last.
        whole = len(shuffled) - len(shuffled) % self.batch_size
        if whole:  # the longest example is never in the remainder
            at = int(self.lengths[shuffled].argmax())
            shuffled[[0, at]] = shuffled[[at, 0]]
        pools = np.split(shuffled[:whole], range(self.pool * self.batch_size, whole, self.pool * self.batch_size))
        sorted_pools = [pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools if len(pool)]
        batches = np.concatenate(sorted_pools or [shuffled[:0]]).reshape(-1, self.batch_size)
        batches = batches[random.permutation(len(batches))]
        if len(batches):
            longest = int(self.lengths[batches].max(axis=1).argmax())
            batches[[0, longest]] = batches[[longest, 0]]
        return iter(np.concatenate([batches.ravel(), shuffled[whole:]]).tolist())


class InOrder(torch.utils.data.Sampler[int]):
    """Evaluation order: the longest first, so that batches need little padding; the same for every process."""

    def __init__(self, lengths: np.ndarray):
        self.order = np.argsort(-np.asarray(lengths), kind="stable").tolist()

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)
