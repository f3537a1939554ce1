"""Encoders of waveforms (HuBERT, DistilHuBERT, wav2vec2): the score of a clip without its batch, layers, freezing.

All of it in place, on the encoder or on a model with a head; what is saved is an ordinary checkpoint of transformers.
The heads themselves are `speech_heads`; frozen encoders that run once are `speech_features`.
"""

import numpy as np
import torch
from torch.nn import functional

from common.legacy.adapting import keep_frozen_in_eval
from common.legacy.errors import UserError
from common.legacy.waveforms import SHORTEST_BATCH

# Of the families that take waveforms, those whose states are a clip's own: the convolutions over positions of Data2Vec,
# and the layers of the Conformer, look into the padding behind it.
FAMILIES = ("hubert", "wav2vec2", "wavlm", "unispeech", "unispeech-sat")
FREEZE = {
    "none": "everything is trained",
    "convolution": "the convolutions are frozen",
    "encoder": "the whole encoder is frozen",
}


def encoder_of(model):
    """The encoder of a model with a head, or the model itself; raises `UserError` for other families."""
    base = model.base_model
    adapted = getattr(base, "adapter", None) is not None  # convolutions above the layers; these look behind it, too
    if adapted or base.config.model_type not in FAMILIES:
        raise UserError(
            f"a {base.config.model_type} model{' with an adapter' if adapted else ''} cannot be used here; choose "
            "HuBERT, DistilHuBERT, wav2vec2, WavLM or UniSpeech"
        )
    return base


# Frames


def frame_counts(config, samples: np.ndarray) -> np.ndarray:
    """Frames of clips of so many samples, int64: one per 320 samples (20 ms), from the 400th sample on.

    Args:
        config: of an encoder, or of a model around one.
    """
    config, counts = getattr(config, "encoder", config), np.asarray(samples, dtype=np.int64)
    for kernel, stride in zip(config.conv_kernel, config.conv_stride):
        counts = (counts - kernel) // stride + 1
    return np.maximum(counts, 0)


def frames_in(model, batch: dict) -> torch.Tensor:
    """Frames of each clip of a batch, int64 [B]: of waveforms with their mask, or of cached features."""
    if "frames" in batch:
        return batch["frames"]
    return encoder_of(model)._get_feat_extract_output_lengths(batch["attention_mask"].sum(-1))


# Padding


def ignore_padding(model) -> None:
    """Makes what the encoder gives for a clip independent of the batch it is in, in place.

    The first convolution of HuBERT base, DistilHuBERT and wav2vec2 base is followed by a group norm with one group a
    channel, whose statistics are over time, padding and all: the more padding, the other the clip's hidden states
    (even with an attention mask). Here they are over the clip's own frames, as in a batch of one. The rest of the
    encoder ignores padding by itself, given an attention mask; without one, or where nothing is padded, all is as in
    transformers. The same for the batch norm before the positions that some have (mHuBERT-147), in eval mode.
    """
    base = encoder_of(model)
    stock = {torch.nn.GroupNorm: _GroupNorm, torch.nn.BatchNorm1d: _BatchNorm}
    norms = [norm for norm in _norms(base) if type(norm) in stock]
    for norm in norms:
        norm.__class__ = stock[type(norm)]  # not a new module: names, devices and hooks stay
    if norms:
        base.register_forward_pre_hook(_note_frames, with_kwargs=True)


def _norms(base) -> tuple:
    """The norms over time: behind the first convolution, and before the positions; None where there is none."""
    first = base.feature_extractor.conv_layers[0]
    return getattr(first, "layer_norm", None), getattr(base.encoder.pos_conv_embed, "batch_norm", None)


def _note_frames(base, arguments: tuple, named: dict) -> None:
    """Before the encoder runs: tells its norms how many frames are the clips' own.

    They keep it until the next batch, since gradient checkpointing computes them once more in the backward pass.
    """
    mask = named.get("attention_mask", arguments[1] if len(arguments) > 1 else None)
    samples = None if mask is None or bool(mask.all()) else mask.sum(-1)
    convolved, positioned = _norms(base)
    if isinstance(convolved, _GroupNorm):
        kernel, stride = base.config.conv_kernel[0], base.config.conv_stride[0]
        convolved.frames = None if samples is None else ((samples - kernel) // stride + 1).tolist()
    if isinstance(positioned, _BatchNorm):
        positioned.frames = None if samples is None else base._get_feat_extract_output_lengths(samples)


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


# Layers


def keep_layers(model, count: int) -> str:
    """Removes all layers above the first `count`, in place; a phrase for results.

    The configuration is changed too, so that the saved model is an ordinary one. Where the layers are normalised at
    the end (wav2vec2 large), that norm stays, on top of the last layer kept.

    Raises:
        UserError: there are not so many layers, or none is asked for.
    """
    base = encoder_of(model)
    layers = base.encoder.layers
    before = len(layers)
    if not 1 <= count <= before:
        raise UserError(f"--layer {count}: the encoder has layers 1 to {before}")
    del layers[count:]
    base.config.num_hidden_layers = count
    if getattr(model, "layer_weights", None) is not None:
        model.layer_weights = torch.nn.Parameter(model.layer_weights.detach()[: count + 1].clone())
    return f"the first {count} of {before} layers of the encoder"


# Freezing


def freeze(model, what: str) -> str:
    """Settles what of the encoder is trained, in place; a phrase for results.

    Every parameter left to be trained gets a gradient at every step, as training on several processes demands: no
    layers are dropped at random (`layerdrop`, which would also lack in a weighted sum of layers), and the vector that
    SpecAugment puts in the place of frames is trained only where it does so.

    Args:
        what: a key of `FREEZE`. `encoder` also keeps it in eval mode, whatever a trainer does: no dropout, no
            SpecAugment, and the same output for a clip in every epoch.
    """
    base = encoder_of(model)
    config = base.config
    config.layerdrop = 0.0
    config.mask_time_length = min(config.mask_time_length, int(frame_counts(config, np.array(SHORTEST_BATCH))))
    if what != "none":
        base.feature_extractor._freeze_parameters()
    if what == "encoder":
        base.requires_grad_(False)
    masks = config.apply_spec_augment and config.mask_time_prob > 0
    if hasattr(base, "masked_spec_embed") and not masks:
        base.masked_spec_embed.requires_grad_(False)
    if config.do_stable_layer_norm and getattr(model, "layer_weights", None) is not None:
        base.encoder.layer_norm.requires_grad_(False)  # a sum of the layers passes it by
    keep_frozen_in_eval(base)
    return FREEZE[what]
