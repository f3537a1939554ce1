"""Tiny speech encoders with random weights and feature extractors of their own, for the scripts' `--demo` and tests.

The real architectures, so that the Auto classes load them like real checkpoints: the seven convolutions of the real
kernels and strides (a frame of 25 ms every 20 ms), narrow, and a small transformer. Nothing was trained; the
convolutions begin as a filter bank, so that a head alone learns something. A function of the arguments alone: the same
files, byte for byte, on every run.
"""

import json
import math
import re
from pathlib import Path
from typing import NamedTuple

from common.legacy.audio import RATE
from common.legacy.errors import UserError

HEADS = {
    "none": "AutoModel",
    "audio-classification": "AutoModelForAudioClassification",
    "ctc": "AutoModelForCTC",
}
CHANNELS = 42  # of every convolution: ten filters need 40, and two are constant; the real ones have 512
HIDDEN = 64
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "|")  # the first ids of the real vocabularies; | is the space
FREQUENCIES = (250.0, 500, 800, 1150, 1600, 2200, 2900, 3900, 5000, 6500)  # Hz, of the filter bank
GAIN = 7.0  # of the filters, so that speech is loud enough for GELU(x) + GELU(-x) to be near the magnitude of x


class SpeechTwin(NamedTuple):
    """The architecture that stands in for a family of pre-trained encoders, with the settings of its repositories."""

    model_type: str
    layer_norm: bool = False  # layer norm in every convolution (the large ones), or group norm in the first alone
    projection_norm: bool = True
    do_normalize: bool = True
    attention_mask: bool = False  # group norm sees the padding anyway, so those models were trained without a mask


LARGE = {"layer_norm": True, "attention_mask": True}
TWINS = {
    "distilhubert": SpeechTwin("hubert", projection_norm=False, do_normalize=False),
    "hubert": SpeechTwin("hubert"),
    "hubert-large": SpeechTwin("hubert", **LARGE),
    "hubert-xlarge": SpeechTwin("hubert", **LARGE),
    "wav2vec2": SpeechTwin("wav2vec2"),
    "wav2vec2-large-lv60": SpeechTwin("wav2vec2", **LARGE),
    "wav2vec2-large-xlsr": SpeechTwin("wav2vec2", **LARGE),
    "wav2vec2-xls-r": SpeechTwin("wav2vec2", **LARGE),
}


def speech_twin_of(architecture: str) -> SpeechTwin:
    """The tiny stand-in for a model id such as `facebook/hubert-base-ls960`, or a `UserError`.

    The family is looked for as whole words of the id's last part, the longest name first.
    """
    name = architecture.rstrip("/").split("/")[-1].lower().replace("_", "-")
    for family in sorted(TWINS, key=len, reverse=True):
        if re.search(rf"(?<![a-z]){family}(?![a-z])", name):
            return TWINS[family]
    raise UserError(
        f"--demo has no tiny twin of the speech model {architecture!r}; choose one with "
        f"{', '.join(sorted(TWINS))} in its name, such as hubert-base-ls960"
    )


def tiny_speech_model(
    architecture: str,
    folder: Path,
    head: str = "none",
    seed: int = 0,
    labels: tuple[str, ...] = (),
    vocabulary: tuple[str, ...] = (),
    layers: int = 2,
) -> Path:
    """Writes a tiny random encoder of the architecture and its feature extractor into `folder`.

    `architecture` is a model id (see `speech_twin_of`), `head` a key of `HEADS`, `labels` the names of the classes for
    audio classification, `vocabulary` the characters for CTC, to which `SPECIAL_TOKENS` are added in front; only a
    folder with a vocabulary has a tokenizer. The folder has the layout of the real repositories. The caller's random
    state is left alone.
    """
    import torch
    import transformers

    twin = speech_twin_of(architecture)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokens = (*SPECIAL_TOKENS, *vocabulary) if vocabulary else ()
    config = _tiny_config(twin, labels, len(tokens), layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, HEADS[head]).from_config(config)
    _write_filter_bank(model.base_model.feature_extractor.conv_layers)
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(
        sampling_rate=RATE, do_normalize=twin.do_normalize, return_attention_mask=twin.attention_mask
    ).save_pretrained(folder)
    if tokens:
        path = folder / "vocab.json"
        path.write_text(json.dumps({token: at for at, token in enumerate(tokens)}, ensure_ascii=False), "utf-8")
        transformers.Wav2Vec2CTCTokenizer(str(path)).save_pretrained(folder)
    return folder


def _tiny_config(twin: SpeechTwin, labels: tuple[str, ...], tokens: int, layers: int):
    from transformers import AutoConfig

    # No dropout, no SpecAugment: equal runs can be told equal to the last digit.
    off = ("attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout", "hidden_dropout")
    settings = dict.fromkeys((*off, "layerdrop", "mask_time_prob"), 0.0)
    if twin.model_type == "hubert":
        settings["feat_proj_layer_norm"] = twin.projection_norm
    if labels:
        settings |= {"id2label": dict(enumerate(labels)), "label2id": {name: at for at, name in enumerate(labels)}}
    if tokens:
        settings["vocab_size"] = tokens
    return AutoConfig.for_model(
        twin.model_type,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=4,
        conv_dim=[CHANNELS] * 7,  # kernels and strides are the configuration's own
        feat_extract_norm="layer" if twin.layer_norm else "group",
        conv_bias=twin.layer_norm,
        do_stable_layer_norm=twin.layer_norm,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        classifier_proj_size=HIDDEN,
        **settings,
    )


def _write_filter_bank(convolutions) -> None:
    """Starts the convolutions as ten band-pass filters of 60 samples, rectified and averaged over a frame.

    A wholly random stack of seven layers hands on little of what was said: behind it a linear head finds 64 to 70 % of
    the demo's keywords, about the share of the most frequent class, behind this one 98 to 100 %. Here the first three
    layers hand the samples on unchanged, each a pair of channels x and -x, as GELU(x) - GELU(-x) = x; the fourth has
    sines and cosines under a Hann window, again with both signs, whose GELUs add up to about the magnitude; the fifth
    has the magnitudes, their rises and their falls, the last two average.
    """
    import torch

    samples = convolutions[0].conv.stride[0]  # that a step hands on
    bands = len(FREQUENCIES)
    for number, layer in enumerate(convolutions):
        taps = layer.conv.kernel_size[0]
        if number == 0:
            filters = torch.eye(samples, taps)[:, None]
        elif number < 3:  # those of two neighbouring steps
            filters = torch.zeros(2 * samples, samples, taps)
            for tap in range(2):
                filters[tap * samples : (tap + 1) * samples, :, tap] = torch.eye(samples)
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
        _write(layer, filters, from_pairs=1 <= number <= 3, to_pairs=number <= 3, last=number == 6)


def _write(layer, filters, from_pairs: bool, to_pairs: bool, last: bool) -> None:
    """Sets a convolution to the filters [outputs, inputs, taps], and channels that they leave over to zero."""
    import torch

    if to_pairs:
        filters = torch.cat([filters, -filters])
    if from_pairs:
        filters = torch.cat([filters, -filters], dim=1)
    outputs, inputs, _ = filters.shape
    with torch.no_grad():
        layer.conv.weight.zero_()
        layer.conv.weight[:outputs, :inputs] = filters
        if layer.conv.bias is not None:
            # Two loud constant channels keep a layer norm from setting every moment to one loudness; its scale undoes
            # what they do to the others. Soft ones in the last: loud ones would hide pauses from a linear head.
            loud = 0.3 if last else 30.0
            layer.conv.bias.zero_()
            layer.conv.bias[-2:] = torch.tensor([loud, -loud])
            layer.layer_norm.weight.fill_(loud * math.sqrt(2 / CHANNELS))
