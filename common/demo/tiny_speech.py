"""Tiny speech encoders with random weights and feature extractors of their own, for the scripts' `--demo` and tests.

The real architectures, so that the Auto classes load them like real checkpoints. Those on waveforms keep the real
convolutions' kernels and strides (a frame of 25 ms every 20 ms), narrow; where the stack has the form of HuBERT's, they
begin as a filter bank, so that a head alone learns something. A function of the arguments alone, byte for byte.
"""

import json
import math
import re
from pathlib import Path

from common.errors import UserError
from common.speech.audio import RATE

HEADS = {"none": "AutoModel", "audio-classification": "AutoModelForAudioClassification", "ctc": "AutoModelForCTC"}
CHANNELS = 42  # of every convolution: ten filters need 40, and two are constant; the real ones have 512
HIDDEN = 64
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "|")  # the first ids of the real vocabularies; | is the space
FREQUENCIES = (250.0, 500, 800, 1150, 1600, 2200, 2900, 3900, 5000, 6500)  # Hz, of the filter bank
GAIN = 7.0  # of the filters, so that speech is loud enough for GELU(x) + GELU(-x) to be near the magnitude of x
# No dropout, no SpecAugment: equal runs can be told equal to the last digit.
OFF = ("attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout", "hidden_dropout", "layerdrop")
LARGE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
MASKED = {"return_attention_mask": True}  # group norm sees the padding anyway, so those models know no mask
# Word of a model id -> model type, its settings, those of the feature extractor; the longest word that is there counts.
TWINS: dict[str, tuple[str, dict, dict]] = {
    "distilhubert": ("hubert", {"feat_proj_layer_norm": False}, {"do_normalize": False}),
    "hubert": ("hubert", {}, {}),
    "hubert-large": ("hubert", LARGE, MASKED),
    "hubert-xlarge": ("hubert", LARGE, MASKED),
    "wav2vec2": ("wav2vec2", {}, {}),
    "wav2vec2-large-lv60": ("wav2vec2", LARGE, MASKED),
    "wav2vec2-large-xlsr": ("wav2vec2", LARGE, MASKED),
    "wav2vec2-xls-r": ("wav2vec2", LARGE, MASKED),
    "wav2vec2-conformer": ("wav2vec2-conformer", {"conv_bias": True, "feat_extract_norm": "layer"}, MASKED),
    "wavlm": ("wavlm", {}, {}),
    "unispeech-sat": ("unispeech-sat", {}, {}),
    "data2vec-audio": ("data2vec-audio", {}, MASKED),
    "sew": ("sew", {}, {}),
    "sew-d": ("sew-d", {}, {}),
    "ast": ("audio-spectrogram-transformer", {"max_length": 204, "patch_size": 16, "num_mel_bins": 128}, {}),
    "whisper": ("whisper", {}, {}),
    "w2v-bert": ("wav2vec2-bert", {"conv_depthwise_kernel_size": 5}, {}),
}
FILTERED = ("hubert", "wav2vec2", "wavlm", "unispeech-sat")


def twin_of(architecture: str) -> str:
    """The key of `TWINS` for a model id such as `facebook/hubert-base-ls960`, or a `UserError`."""
    name = architecture.rstrip("/").split("/")[-1].lower().replace("_", "-")
    for family in sorted(TWINS, key=len, reverse=True):
        if re.search(rf"(?<![a-z]){family}(?![a-z])", name):
            return family
    raise UserError(
        f"--demo has no tiny twin of the speech model {architecture!r}; choose one with {', '.join(sorted(TWINS))} in "
        "its name, such as hubert-base-ls960"
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

    `architecture` is a model id (see `twin_of`), `head` a key of `HEADS`, `labels` the names of the classes for audio
    classification, `vocabulary` the characters for CTC, to which `SPECIAL_TOKENS` are added in front; only a folder
    with a vocabulary has a tokenizer. The caller's random state is left alone.
    """
    import torch
    import transformers

    kind, own, extracting = TWINS[twin_of(architecture)]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokens = (*SPECIAL_TOKENS, *vocabulary) if vocabulary else ()
    config = _tiny_config(kind, own, labels, len(tokens), layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, HEADS[head]).from_config(config)
    if kind in FILTERED:
        _write_filter_bank(model.base_model.feature_extractor.conv_layers)
    model.save_pretrained(folder)
    _extractor(kind, config, extracting).save_pretrained(folder)
    if tokens:
        path = folder / "vocab.json"
        path.write_text(json.dumps({token: at for at, token in enumerate(tokens)}, ensure_ascii=False), "utf-8")
        transformers.Wav2Vec2CTCTokenizer(str(path)).save_pretrained(folder)
    return folder


def _extractor(kind: str, config, settings: dict):
    import transformers

    if kind == "audio-spectrogram-transformer":
        return transformers.ASTFeatureExtractor(max_length=config.max_length)
    if kind == "whisper":
        return transformers.WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=4)
    if kind == "wav2vec2-bert":
        return transformers.SeamlessM4TFeatureExtractor()
    return transformers.Wav2Vec2FeatureExtractor(
        sampling_rate=RATE, **{"do_normalize": True, "return_attention_mask": False, **settings}
    )


def _tiny_config(kind: str, own: dict, labels: tuple[str, ...], tokens: int, layers: int):
    from transformers import AutoConfig

    sizes = {"hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_hidden_layers": layers}
    sizes |= {
        "num_attention_heads": 4,
        "classifier_proj_size": HIDDEN,
        "mask_time_prob": 0.0,
        **dict.fromkeys(OFF, 0.0),
    }
    if kind == "whisper":
        sizes = {"d_model": HIDDEN, "encoder_layers": layers, "decoder_layers": 1, "encoder_attention_heads": 4}
        sizes |= {"encoder_ffn_dim": 2 * HIDDEN, "decoder_ffn_dim": HIDDEN, "decoder_attention_heads": 4}
        sizes |= {"max_source_positions": 200, "num_mel_bins": 80, "dropout": 0.0, "classifier_proj_size": HIDDEN}
    elif kind == "audio-spectrogram-transformer":
        sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    elif kind in ("sew", "sew-d"):
        sizes |= {"squeeze_factor": 2, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    elif kind != "wav2vec2-bert":
        # Kernels and strides are the configuration's own.
        sizes |= {"conv_dim": [CHANNELS] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
        sizes |= {"feat_extract_norm": "group", "conv_bias": False, "do_stable_layer_norm": False}
    if labels:
        sizes |= {"id2label": dict(enumerate(labels)), "label2id": {name: at for at, name in enumerate(labels)}}
    return AutoConfig.for_model(kind, **(sizes | own | ({"vocab_size": tokens} if tokens else {})))


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
        filters = torch.cat([filters, -filters]) if number <= 3 else filters
        filters = torch.cat([filters, -filters], dim=1) if 1 <= number <= 3 else filters
        with torch.no_grad():
            layer.conv.weight.zero_()
            layer.conv.weight[: filters.shape[0], : filters.shape[1]] = filters
            if layer.conv.bias is not None:
                # Two loud constant channels keep a layer norm from setting every moment to one loudness; its scale
                # undoes what they do to the others. Soft ones in the last: loud ones would hide pauses from a head.
                loud = 30.0 if number < 6 else 0.3
                layer.conv.bias.zero_()
                layer.conv.bias[-2:] = torch.tensor([loud, -loud])
                layer.layer_norm.weight.fill_(loud * math.sqrt(2 / CHANNELS))
