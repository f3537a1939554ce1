"""Tiny speech encoders with random weights and feature extractors of their own, for the scripts' `--demo` and tests.

The real architectures with the real convolutions' kernels and strides (a frame of 25 ms every 20 ms), but narrow. The
convolutions begin as a filter bank, so that a head alone learns. A function of the architecture alone, byte for byte.
"""

import math
from pathlib import Path

from common.errors import UserError
from common.speech.audio import RATE

CHANNELS = 42  # of every convolution: ten filters need 40, and two are constant
HIDDEN = 64
FREQUENCIES = (250.0, 500, 800, 1150, 1600, 2200, 2900, 3900, 5000, 6500)  # Hz, of the filter bank
GAIN = 7.0  # of the filters, so that speech is loud enough for GELU(x) + GELU(-x) to be near the magnitude of x
OFF = ("attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout", "hidden_dropout", "layerdrop")
OFF += ("mask_time_prob",)
TYPES = ("wav2vec2-conformer", "wav2vec2", "wavlm", "unispeech-sat", "data2vec-audio", "hubert")  # parts of model ids
LAYER_NORMED = ("hubert-large", "hubert-xlarge", "conformer", "lv60", "xlsr", "xls-r", "data2vec")  # likewise


def tiny_speech_model(architecture: str, folder: Path) -> Path:
    """Writes a tiny random encoder like the model id `architecture`, and its feature extractor, into `folder`."""
    import torch
    from transformers import AutoConfig, AutoModel, Wav2Vec2FeatureExtractor

    name = architecture.lower().replace("_", "-")
    kind = next((kind for kind in TYPES if kind in name), None)
    if kind is None:
        raise UserError(f"--demo has no tiny twin of the speech model {architecture!r}, only of {', '.join(TYPES)}")
    whole = "distil" not in name
    masked = any(part in name for part in LAYER_NORMED)  # group norm sees the padding anyway, so those know no mask
    settings = {"feat_extract_norm": "layer" if masked else "group", "conv_bias": masked}
    settings |= {"do_stable_layer_norm": masked, "feat_proj_layer_norm": whole}
    sizes = {"hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"classifier_proj_size": HIDDEN, "conv_dim": [CHANNELS] * 7, **dict.fromkeys(OFF, 0.0)}
    sizes |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModel.from_config(AutoConfig.for_model(kind, **sizes | settings))
    _write_filter_bank(model.feature_extractor.conv_layers)
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=whole, return_attention_mask=masked).save_pretrained(folder)
    return Path(folder)


def _write_filter_bank(convolutions) -> None:
    """Starts the convolutions as ten band-pass filters of 60 samples, rectified and averaged over a frame.

    The first three layers hand the samples on unchanged, each a pair of channels x and -x, as GELU(x) - GELU(-x) = x;
    the fourth has sines and cosines under a Hann window, with both signs, whose GELUs add up to about the magnitude;
    the fifth has magnitudes, their rises and falls; the last two average.
    """
    import torch

    samples, bands = convolutions[0].conv.stride[0], len(FREQUENCIES)  # samples that a step hands on
    for number, layer in enumerate(convolutions):
        taps = layer.conv.kernel_size[0]
        if number == 0:
            filters = torch.eye(samples, taps)[:, None]
        elif number < 3:  # those of two neighbouring steps
            filters = torch.eye(2 * samples, taps * samples).unflatten(1, (taps, samples)).transpose(1, 2)
            samples *= 2
        elif number == 3:
            places = torch.arange(samples * taps)
            window = torch.hann_window(len(places))
            angles = 2 * math.pi / RATE * torch.tensor(FREQUENCIES)[:, None] * places
            waves = torch.cat([angles.cos(), angles.sin()]) * window * (GAIN / window.sum())
            filters = waves.reshape(2 * bands, taps, samples).transpose(1, 2)
        elif number == 4:
            magnitudes = torch.eye(bands).repeat(1, 4)[:, :, None]
            shapes = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [-1, 0, 1], [1, 0, -1]])
            filters = torch.cat([magnitudes * shape for shape in shapes])
        else:
            filters = torch.eye(3 * bands)[:, :, None].expand(-1, -1, taps) / taps
        filters = torch.cat([filters, -filters]) if number <= 3 else filters
        filters = torch.cat([filters, -filters], dim=1) if 1 <= number <= 3 else filters
        with torch.no_grad():
            layer.conv.weight.zero_()
            layer.conv.weight[: filters.shape[0], : filters.shape[1]] = filters
            if layer.conv.bias is not None:
                # Two loud constant channels keep a layer norm from setting every moment to one loudness.
                loud = 30.0 if number < 6 else 0.3
                layer.conv.bias.zero_()
                layer.conv.bias[-2:] = torch.tensor([loud, -loud])
                layer.layer_norm.weight.fill_(loud * math.sqrt(2 / CHANNELS))
