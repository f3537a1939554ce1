"""Speech encoders of transformers: a clip's states without its batch, frames, layers, freezing, learning rates.

All of it in place, on an encoder or on a model with a head; what is saved is an ordinary checkpoint of transformers.
"""

import contextlib
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutputWithPooling

from common.errors import UserError
from common.models import replaced

MASKED = ("hubert", "wav2vec2", "wavlm", "unispeech", "unispeech-sat")  # a mask keeps the padding out of their layers
ALONE = ("data2vec-audio", "sew", "sew-d", "wav2vec2-conformer", "wav2vec2-bert")  # these see it, mask or not
SPECTROGRAMS = ("audio-spectrogram-transformer", "whisper")  # whole spectrograms of one size
SHORTEST_BATCH = 4000  # samples: 12 frames of 20 ms; SpecAugment masks 10 at once and wants at least as many
SQUEEZED = 1000  # samples: 2 frames, of which SEW makes one
FREEZE = {
    "none": "everything is trained",
    "convolution": "the convolutions are frozen",
    "encoder": "the whole encoder is frozen",
}


def encoder_of(model):
    """The encoder of a model with a head, or the model itself; raises `UserError` for other families."""
    base = model.encoder if type(model).__name__ == "WhisperForAudioClassification" else model.base_model
    adapted = getattr(base, "adapter", None) is not None  # convolutions above the layers, which look into the padding
    if adapted or base.config.model_type not in MASKED + ALONE + SPECTROGRAMS:
        raise UserError(
            f"a {base.config.model_type} model{' with an adapter' if adapted else ''} cannot be used here; choose one "
            f"of {', '.join(MASKED + ALONE + SPECTROGRAMS)}"
        )
    return base


def frame_counts(config, samples: np.ndarray | torch.Tensor):
    """Frames of clips of so many samples: one per 320 samples (20 ms), from the 400th on; int64 of the same kind.

    Args:
        config: of an encoder of waveforms or of w2v-bert, or of a model around one.
    """
    config = getattr(config, "encoder", config)
    if config.model_type == "wav2vec2-bert":  # two frames of 25 ms, 10 ms apart, are one
        return ((samples - 400) // 160 + 1) // 2
    if not hasattr(config, "conv_kernel"):
        raise UserError(
            f"a {config.model_type} model does not give a frame every 20 ms; choose one of {', '.join(MASKED)}"
        )
    for kernel, stride in zip(config.conv_kernel, config.conv_stride):
        samples = (samples - kernel) // stride + 1
    return samples * (samples > 0)


def sample_counts(config, frames: np.ndarray) -> np.ndarray:
    """The fewest samples that give so many frames behind the convolutions."""
    for kernel, stride in reversed(list(zip(config.conv_kernel, config.conv_stride))):
        frames = (frames - 1) * stride + kernel
    return frames


def frames_in(model, batch: dict) -> torch.Tensor:
    """Each clip's own frames, int64 [B], in a batch for the model, of whatever kind (see `prepare_encoder`)."""
    inputs, mask = batch[main_input(model)], batch.get("attention_mask")
    counts = torch.full(inputs.shape[:1], inputs.shape[1], device=inputs.device) if mask is None else mask.sum(-1)
    of_samples = inputs.ndim == 2 or (inputs.ndim == 3 and encoder_of(model).config.model_type in MASKED)
    return frame_counts(model.config, counts) if of_samples else counts


def main_input(model) -> str:
    """What the model calls its input: input_values or input_features."""
    return encoder_of(model).main_input_name


# A clip's states without its batch


def prepare_encoder(model) -> None:
    """Makes the states of a clip independent of the batch it is in, and the encoder take what it gave before; in place.

    The first convolution of HuBERT base, DistilHuBERT and wav2vec2 base is followed by a group norm over time, padding
    and all; here it is over the clip's own frames, as in a batch of one (so is the batch norm before the positions
    that some have). The families of `ALONE` run once for each length in the batch. Given [B, T, L, H], the encoder
    gives these states of L layers back; given [B, T, C] and a mask of samples, those of `MASKED` go on behind their
    convolutions.
    """
    base = encoder_of(model)
    if isinstance(base, _ClipEncoder):
        return
    # Classes change, modules do not: names, devices and hooks stay. transformers knows a class by its full name.
    kind = type(base)
    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    base.__class__ = type(kind.__name__, (_ClipEncoder, kind), named)
    if base.config.model_type in MASKED:
        stock = {torch.nn.GroupNorm: _GroupNorm, torch.nn.BatchNorm1d: _BatchNorm}
        for norm in _norms(base):
            if type(norm) in stock:
                norm.__class__ = stock[type(norm)]


def _norms(base) -> tuple:
    """The norms over time: behind the first convolution, and before the positions; None where there is none."""
    first = base.feature_extractor.conv_layers[0] if hasattr(base.feature_extractor, "conv_layers") else None
    return getattr(first, "layer_norm", None), getattr(base.encoder.pos_conv_embed, "batch_norm", None)


class _ClipEncoder:
    """In front of an encoder's own class, see `prepare_encoder`."""

    def forward(self, inputs=None, attention_mask=None, **settings):
        inputs = settings.pop(self.main_input_name, inputs)
        if inputs.ndim == 4:
            layers = inputs.unbind(2)
            return BaseModelOutputWithPooling(layers[-1], pooler_output=layers[-1][:, 0], hidden_states=layers)
        if self.config.model_type in MASKED:
            return self._masked(inputs, attention_mask, settings)
        if self.config.model_type in SPECTROGRAMS or attention_mask is None:
            return super().forward(inputs, **settings)
        return self._alone(inputs, attention_mask.sum(-1), settings)

    def _masked(self, inputs, mask, settings):
        self._note_lengths(mask)
        behind = (
            replaced([(self, "feature_extractor", _Given(inputs))]) if inputs.ndim == 3 else contextlib.nullcontext()
        )
        with behind:
            return super().forward(inputs, attention_mask=mask, **settings)

    def _note_lengths(self, mask: torch.Tensor | None) -> None:
        # Kept until the next batch, since gradient checkpointing computes the norms once more in the backward pass.
        lengths = None if mask is None or bool(mask.all()) else mask.sum(-1)
        convolved, positioned = _norms(self)
        if isinstance(convolved, _GroupNorm):
            kernel, stride = self.config.conv_kernel[0], self.config.conv_stride[0]
            convolved.frames = None if lengths is None else ((lengths - kernel) // stride + 1).tolist()
        if isinstance(positioned, _BatchNorm):
            positioned.frames = None if lengths is None else frame_counts(self.config, lengths)

    def convolutions(self, inputs: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """[B, T, C] of waveforms: what `forward` takes instead of these."""
        self._note_lengths(mask)
        return self.feature_extractor(inputs).transpose(1, 2)

    def _alone(self, inputs, lengths, settings):
        parts, rows = [], []
        for length in lengths.unique().tolist():
            rows.append(torch.nonzero(lengths == length).squeeze(1))
            shortest = SHORTEST_BATCH if self.training else SQUEEZED
            own = inputs[rows[-1], :length]
            own = functional.pad(own, (0, max(0, shortest - length))) if inputs.ndim == 2 else own
            parts.append(super().forward(own, **settings))
        order = torch.cat(rows).argsort()

        def together(states: Sequence[torch.Tensor]) -> torch.Tensor:
            width = states[-1].shape[1]
            return torch.cat([functional.pad(one, (0, 0, 0, width - one.shape[1])) for one in states])[order]

        hidden = zip(*(part.hidden_states for part in parts)) if parts[0].hidden_states is not None else None
        return BaseModelOutputWithPooling(
            together([part.last_hidden_state for part in parts]),
            hidden_states=hidden and tuple(together(layer) for layer in hidden),
        )


class _Given(torch.nn.Module):
    """Stands for the convolutions: gives [B, C, T] of what they gave before, [B, T, C]."""

    def __init__(self, states: torch.Tensor):
        super().__init__()
        self.states = states

    def forward(self, _) -> torch.Tensor:
        return self.states.transpose(1, 2)


class _GroupNorm(torch.nn.GroupNorm):
    """Over the first `frames[i]` of row i alone, and zero behind them; None: over all."""

    frames: list[int] | None = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:  # [B, C, T]
        if self.frames is None:
            return super().forward(inputs)
        # Row by row is to the bit what a batch of one gives, and faster than sums under a mask (twice, without
        # gradient); of split, unlike slices of the batch, the backward pass is one copy.
        rows = [
            functional.pad(super(_GroupNorm, self).forward(row[..., :count]), (0, row.shape[-1] - count))
            for row, count in zip(inputs.split(1), self.frames, strict=True)
        ]
        return torch.cat(rows)


class _BatchNorm(torch.nn.BatchNorm1d):
    """Zero behind the first `frames[i]` of row i, as what the convolution over them pads by is."""

    frames: torch.Tensor | None = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:  # [B, C, T]
        outputs = super().forward(inputs)
        if self.frames is None:
            return outputs
        behind = torch.arange(outputs.shape[-1], device=outputs.device) >= self.frames[:, None]
        return outputs.masked_fill(behind[:, None], 0)


# Layers, freezing, learning rates


def keep_layers(model, count: int) -> None:
    """Removes all layers above the first `count`, in place, in the configuration too; raises `UserError`.

    Where the layers are normalised at the end (wav2vec2 large), that norm stays, on top of the last layer kept.
    """
    base = encoder_of(model)
    layers = getattr(base, "encoder", base).layers
    if not 1 <= count <= len(layers):
        raise UserError(f"--layer {count}: the encoder has layers 1 to {len(layers)}")
    del layers[count:]
    base.config.num_hidden_layers = count


def freeze(model, what: str) -> None:
    """Settles what of the encoder is trained, in place; the trainer keeps what is frozen in eval mode.

    Every parameter left to be trained gets a gradient at every step, as training on several processes demands: no
    layers are dropped at random, and the vector that SpecAugment puts in the place of frames is trained only where it
    does so.

    Args:
        what: a key of `FREEZE`.
    """
    base = encoder_of(model)
    config = base.config
    if what == "convolution" and not hasattr(base, "feature_extractor"):
        raise UserError(f"--freeze convolution: a {config.model_type} model has none; give none or encoder")
    if what == "convolution":
        base.feature_extractor.requires_grad_(False)
    if what == "encoder":
        base.requires_grad_(False)
    if hasattr(base, "masked_spec_embed"):
        config.layerdrop = 0.0
        shortest = int(frame_counts(config, np.array(SHORTEST_BATCH)))
        config.mask_time_length = min(config.mask_time_length, shortest)
        if not (getattr(config, "apply_spec_augment", True) and config.mask_time_prob > 0):
            base.masked_spec_embed.requires_grad_(False)
    if getattr(config, "do_stable_layer_norm", False) and getattr(model, "layer_weights", None) is not None:
        base.encoder.layer_norm.requires_grad_(False)  # a sum of the layers passes it by


def set_encoder_rate(optimizer: torch.optim.Optimizer, model, rate: float) -> None:
    """Gives the encoder's parameters a learning rate of their own, in groups of their own; before the first step."""
    own = {id(parameter) for parameter in encoder_of(model).parameters()}
    groups = []
    for group in optimizer.param_groups:
        for ours, settings in ((False, {}), (True, {"lr": rate})):
            chosen = [parameter for parameter in group["params"] if (id(parameter) in own) == ours]
            groups += [{**group, **settings, "params": chosen}] if chosen else []
    optimizer.param_groups[:] = groups
