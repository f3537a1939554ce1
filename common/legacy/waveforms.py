"""Batches of waveforms as a speech encoder takes them: decoded when they are needed, normalised, padded to the longest.

Each clip is normalised by itself, as the model's feature extractor does it (test: equal to the extractor's own), and
padded by zeros afterwards. Decoding is `common.legacy.audio`; what keeps padding out of the scores is `speech_encoders`.
"""

import numpy as np

from common.legacy.audio import RATE, decode

# SpecAugment masks 10 frames at once and wants at least as many: this is 12, at 20 ms each.
SHORTEST_BATCH = 4000  # samples


class Waveforms:
    """N clips ready to be batched by `collate_waveforms`; a `torch.utils.data.Dataset` of (self, row).

    Attributes:
        examples: the recordings, for scoring.
        targets: int64 [N], the class of each clip; or N int64 arrays, the labels of its transcript; None without truth.
        lengths: int64 [N], samples of each clip, from its duration: good for a sampler, and perhaps a few samples off.
    """

    def __init__(self, recordings, extractor, *, targets=None):
        """Nothing is decoded.

        Args:
            recordings: N examples of speech, a `common.legacy.recordings.Recordings`.
            extractor: the model's feature extractor, one that gives waveforms (`Wav2Vec2FeatureExtractor`).
        """
        self.examples, self.extractor, self.targets = recordings, extractor, targets
        self.lengths = np.round(recordings.seconds * RATE).astype(np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> tuple["Waveforms", int]:
        return self, row

    def waveform(self, row: int) -> np.ndarray:
        """The samples of a clip as the extractor gives them, float32 [T]; raises `BadAudio`."""
        examples = self.examples
        begin, end = float(examples.begins[row]), float(examples.ends[row])
        samples = decode(examples.audio[row], examples.ids[row], begin=begin, end=end)
        if not self.extractor.do_normalize:
            return samples
        return self.extractor.zero_mean_unit_var_norm([samples], None)[0]  # the whole call takes 50 times as long


def collate_waveforms(items: list[tuple[Waveforms, int]]) -> dict:
    """A batch as tensors, padded on the right, by zeros.

    `input_values` [B, T] float32 and `attention_mask` [B, T] int64, T at least `SHORTEST_BATCH`; `row` [B] and, if
    known, `targets`: [B], or [B, L] padded by -100.
    """
    import torch

    data = items[0][0]
    rows = np.array([row for _, row in items])
    waveforms = [data.waveform(row) for row in rows]
    counts = np.array([len(waveform) for waveform in waveforms])
    width = max(SHORTEST_BATCH, counts.max())
    values = np.zeros((len(rows), width), dtype=np.float32)
    for target, waveform in zip(values, waveforms):
        target[: len(waveform)] = waveform
    batch = {
        "input_values": torch.from_numpy(values),
        "attention_mask": torch.from_numpy((np.arange(width) < counts[:, None]).astype(np.int64)),
        "row": torch.from_numpy(rows),
    }
    if data.targets is not None:
        batch["targets"] = targets_of(data.targets, rows)
    return batch


def targets_of(targets, rows: np.ndarray):
    """The targets of examples `rows` as a tensor: [B], or [B, L] padded by -100 where each is a list of labels."""
    import torch

    if isinstance(targets, np.ndarray):
        return torch.from_numpy(targets[rows])
    chosen = [torch.from_numpy(targets[row]) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=-100)
