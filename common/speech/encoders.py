"""Speech encoders of transformers, alone or in a model: a clip's states without its batch, its frames, freezing."""

import math

import numpy as np
import torch
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutputWithPooling

from common.errors import UserError
from common.models import replaced

MASKED = ("hubert", "wav2vec2", "wavlm", "unispeech", "unispeech-sat")  # a mask keeps the padding out of their layers
ALONE = ("data2vec-audio", "sew", "sew-d", "wav2vec2-conformer")  # these see it, mask or not
SPECTROGRAMS = ("audio-spectrogram-transformer", "whisper")  # whole spectrograms of one size
FIELD, HOP = 400, 320  # samples that a frame of 20 ms is made of, and from one to the next
SHORTEST_BATCH = 4000  # samples: 12 frames of 20 ms; SpecAugment masks 10 at once and wants at least as many
SQUEEZED = 1000  # samples: 2 frames, of which SEW makes one


def encoder_of(model):
    """The encoder of a model with a head, or the model itself; raises `UserError` for other families."""
    base = model.encoder if type(model).__name__ == "WhisperForAudioClassification" else model.base_model
    families = MASKED + ALONE + SPECTROGRAMS
    adapted = getattr(base, "adapter", None) is not None  # convolutions above the layers, which see the padding
    if adapted or base.config.model_type not in families:
        kind = f"a {base.config.model_type} model{' with an adapter' if adapted else ''}"
        raise UserError(f"{kind} cannot be used here; choose one of {', '.join(families)}")
    return base


def frame_counts(config, samples: np.ndarray | torch.Tensor):
    """Frames of clips of so many samples: one per 320 samples (20 ms), from the 400th on; int64 of the same kind."""
    config = getattr(config, "encoder", config)
    if math.prod(getattr(config, "conv_stride", ())) != HOP:
        needed = f"does not give a frame every 20 ms; choose one of {', '.join(MASKED)}"
        raise UserError(f"a {config.model_type} model {needed}")
    return (samples - FIELD) // HOP + 1


def frames_in(model, batch: dict) -> torch.Tensor:
    """Each clip's own frames, int64 [B], in a batch for the model, of whatever kind (see `prepare_encoder`)."""
    base, mask = encoder_of(model), batch.get("attention_mask")
    inputs = batch[base.main_input_name]
    counts = torch.full(inputs.shape[:1], inputs.shape[1], device=inputs.device) if mask is None else mask.sum(-1)
    of_samples = inputs.ndim == 2 or (inputs.ndim == 3 and base.config.model_type in MASKED)
    return frame_counts(base.config, counts) if of_samples else counts


def takes_mask(config) -> bool:
    """Whether a mask keeps padding out of its layers: not of mHuBERT's batch norm before the positions."""
    return config.model_type in MASKED and not getattr(config, "conv_pos_batch_norm", False)


def prepare_encoder(model) -> None:
    """Makes the states of a clip independent of the batch it is in, and the encoder take what it gave before; in place.

    Convolutions with a group norm (HuBERT base), and encoders without a mask, run clip by clip. Given [B, T, L, H], the
    encoder gives these states of L layers back; given [B, T, C] and a mask of samples, it goes on behind convolutions.
    """
    base = encoder_of(model)
    if isinstance(base, _ClipEncoder):
        return
    # The class changes, modules do not: names, devices and hooks stay. transformers knows a class by its full name.
    kind = type(base)
    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    base.__class__ = type(kind.__name__, (_ClipEncoder, kind), named)


class _ClipEncoder:
    """In front of an encoder's own class, see `prepare_encoder`."""

    def forward(self, inputs=None, attention_mask=None, **settings):
        inputs = settings.pop(self.main_input_name, inputs)
        if inputs.ndim == 4:
            layers = inputs.unbind(2)
            return BaseModelOutputWithPooling(layers[-1], pooler_output=layers[-1][:, 0], hidden_states=layers)
        if takes_mask(self.config):
            states = inputs if inputs.ndim == 3 else self.convolutions(inputs, attention_mask)
            with replaced([(self, "feature_extractor", torch.nn.Identity())]):
                return super().forward(states.transpose(1, 2), attention_mask=attention_mask, **settings)
        if self.config.model_type in SPECTROGRAMS or attention_mask is None:
            return super().forward(inputs, **settings)
        return self._alone(inputs, attention_mask.sum(-1).tolist(), settings)

    def convolutions(self, inputs: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """[B, T, C] of waveforms: what `forward` takes instead of these."""
        if mask is None or self.config.feat_extract_norm != "group" or bool(mask.all()):
            return self.feature_extractor(inputs).transpose(1, 2)
        width = frame_counts(self.config, inputs.shape[1])
        rows = [self.feature_extractor(clip[None, :count]) for clip, count in zip(inputs, mask.sum(-1).tolist())]
        return torch.cat([functional.pad(row, (0, width - row.shape[2])) for row in rows]).transpose(1, 2)

    def _alone(self, inputs: torch.Tensor, lengths: list[int], settings: dict) -> BaseModelOutputWithPooling:
        shortest = SHORTEST_BATCH if self.training else SQUEEZED
        clips = [functional.pad(clip[:length], (0, max(0, shortest - length))) for clip, length in zip(inputs, lengths)]
        parts = [super(_ClipEncoder, self).forward(clip[None], **settings) for clip in clips]

        def together(states) -> torch.Tensor:
            return torch.nn.utils.rnn.pad_sequence([of_clip[0] for of_clip in states], batch_first=True)

        layers = zip(*(part.hidden_states or () for part in parts))
        last = together(part.last_hidden_state for part in parts)
        return BaseModelOutputWithPooling(last, hidden_states=tuple(map(together, layers)) or None)


def freeze(model, what: str) -> None:
    """Freezes the "convolution"s, the whole "encoder" or "none" of it; what is left gets gradients at every step."""
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
