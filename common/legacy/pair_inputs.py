"""Pairs of texts as inputs of an encoder: truncated to fit, put together a batch at a time, padded to its longest.

Texts are tokenised once and kept as flat arrays of integers (`common.legacy.text`); a batch is assembled when it is needed.
The tokens are those that a fast tokenizer gives for the pair with `truncation=True` (test: token for token).
"""

import numpy as np

from common.legacy.errors import UserError
from common.legacy.text import PairTemplate, TokenLists


class PairInputs:
    """N pairs ready to be batched by `collate_pairs`; a `torch.utils.data.Dataset` of (self, row).

    Attributes:
        examples: what the pairs were made of, for scoring.
        targets: int64 [N], the class of each pair; None without truth.
        lengths: int64 [N], tokens of each pair with special tokens, after truncation.
        pair_lengths: int64 [N], before it.
        first, second: begin and end in the flat tokens of the first and second texts, int64 [N, 2].
    """

    def __init__(
        self,
        tokenizer,
        first: TokenLists,
        second: TokenLists,
        *,
        max_length: int,
        examples: object = None,
        targets: np.ndarray | None = None,
        pad_to: int | None = None,
        pad_to_multiple_of: int | None = None,
    ):
        """Cuts every pair to `max_length` tokens, the longer text first (the tokenizer's `truncation=True`).

        Args:
            first, second: tokens of the N first and the N second texts.
            pad_to: pad every batch to this length instead of to its longest pair.

        Raises:
            UserError: `max_length` leaves no room beside the special tokens.
        """
        self.template = PairTemplate.of(tokenizer)
        room = max_length - self.template.specials
        if room < 2:
            raise UserError(
                f"--max_length {max_length} leaves no room for two texts beside {self.template.specials} special tokens"
            )
        self.tokens = first, second
        self.examples, self.targets = examples, targets
        self.pad_id, self.max_length = tokenizer.pad_token_id or 0, max_length
        self.pad_to, self.pad_to_multiple_of = pad_to, pad_to_multiple_of
        counts = first.counts, second.counts
        kept = _longest_first(*counts, room)
        self.pair_lengths = counts[0] + counts[1] + self.template.specials
        self.lengths = kept[0] + kept[1] + self.template.specials
        keeps_end = tokenizer.truncation_side == "left"
        begin = [t.begin[:-1] + (c - k if keeps_end else 0) for t, c, k in zip(self.tokens, counts, kept)]
        self.first, self.second = (np.column_stack([b, b + k]) for b, k in zip(begin, kept))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> tuple["PairInputs", int]:
        return self, row

    def statistics(self) -> dict[str, int]:
        """For results.json: tokens, and pairs that were cut."""
        return {"tokens": int(self.lengths.sum()), "cut": int((self.lengths < self.pair_lengths).sum())}

    def width(self, rows: np.ndarray) -> int:
        """The padded length of a batch of pairs `rows`."""
        if self.pad_to:
            return self.pad_to
        multiple = self.pad_to_multiple_of or 1
        return -(-int(self.lengths[rows].max()) // multiple) * multiple


def _longest_first(first: np.ndarray, second: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens of each text stay, int [N] each: the longer is cut to the shorter's length, then both alike."""
    short, long = np.minimum(first, second), np.maximum(first, second)
    long = np.where(short + long > room, np.maximum(short, room - short), long)
    both = short + long > room
    short, long = np.where(both, room // 2, short), np.where(both, room - room // 2, long)
    swapped = first > second
    return np.where(swapped, long, short), np.where(swapped, short, long)


def collate_pairs(items: list[tuple[PairInputs, int]]) -> dict:
    """A batch as tensors, padded on the right.

    `input_ids`, `attention_mask` and, where the model has them, `token_type_ids`, all [B, L]; `row` [B] and, if known,
    `targets` [B].
    """
    import torch

    pairs = items[0][0]
    rows = np.array([row for _, row in items])
    width, template = pairs.width(rows), pairs.template
    input_ids = np.full((len(rows), width), pairs.pad_id, dtype=np.int64)
    types = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        texts = (t.ids[a:b] for t, (a, b) in zip(pairs.tokens, (pairs.first[row], pairs.second[row])))
        parts = (template.before, next(texts), template.between, next(texts), template.after)
        at = 0
        for number, tokens in enumerate(parts):
            input_ids[i, at : at + len(tokens)] = tokens
            if template.types is not None:
                types[i, at : at + len(tokens)] = template.types[number]
            at += len(tokens)
    batch = {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy((np.arange(width) < pairs.lengths[rows, None]).astype(np.int64)),
        "row": torch.from_numpy(rows),
    }
    if template.types is not None:
        batch["token_type_ids"] = torch.from_numpy(types)
    if pairs.targets is not None:
        batch["targets"] = torch.from_numpy(pairs.targets[rows])
    return batch
