"""Small random models of every family that is promised, and batches for them."""

import numpy as np
import torch
from transformers import (
    ASTFeatureExtractor,
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForCTC,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
    set_seed,
)

LENGTHS = (12_000, 500, 1_999, 8_001, 8_001)
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
WHISPER = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_layers": 1}
FAMILIES = {
    "hubert": ("hubert", {}),
    "distilhubert": ("hubert", {"feat_proj_layer_norm": False}),
    "mhubert": ("hubert", {"conv_pos_batch_norm": True}),
    "hubert-large": ("hubert", LARGE),
    "wav2vec2": ("wav2vec2", {}),
    "wavlm": ("wavlm", {}),
    "unispeech": ("unispeech", {}),
    "unispeech-sat": ("unispeech-sat", {}),
    "data2vec-audio": ("data2vec-audio", {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5}),
    "sew": ("sew", {}),
    "sew-d": ("sew-d", {"max_position_embeddings": 64, "position_buckets": 16}),
    "conformer": ("wav2vec2-conformer", {}),
    "ast": ("audio-spectrogram-transformer", {"max_length": 128}),
    "whisper": (
        "whisper",
        WHISPER | {"decoder_attention_heads": 4, "decoder_ffn_dim": 48, "max_source_positions": 100},
    ),
}
WAVES = [name for name in FAMILIES if name not in ("ast", "whisper")]
GROUP_NORM = ("hubert", "distilhubert", "mhubert", "wav2vec2", "wavlm", "unispeech", "unispeech-sat")
AUTO = {"": AutoModel, "classes": AutoModelForAudioClassification, "ctc": AutoModelForCTC}


def make(name: str, task: str = "", **settings):
    """A random model in eval mode, its convolutions (if any) of the real kernels and strides, 16 channels wide."""
    kind, own = FAMILIES[name]
    size = {"num_labels": 3, "classifier_proj_size": 16, **({} if kind == "whisper" else SIZE)}
    if name in WAVES:
        size |= {"conv_dim": (16,) * 7, "conv_kernel": (10, 3, 3, 3, 3, 2, 2), "conv_stride": (5, 2, 2, 2, 2, 2, 2)}
        size |= {"num_feat_extract_layers": 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    size |= {} if kind == "audio-spectrogram-transformer" else {"vocab_size": 12, "pad_token_id": 0}
    set_seed(1)
    model = louder(AUTO[task].from_config(AutoConfig.for_model(kind, **size | own | settings)))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.GroupNorm | torch.nn.BatchNorm1d):
                module.bias.uniform_(-0.5, 0.5)
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.uniform_(-0.5, 0.5)
    return model.eval()


def louder(model):
    """So that outputs differ from clip to clip."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.mul_(0.2 / module.weight.std())
    return model


def extractor_of(name: str):
    """A feature extractor as the family has it."""
    special = {
        "ast": lambda: ASTFeatureExtractor(max_length=128),
        "whisper": lambda: WhisperFeatureExtractor(chunk_length=2),
    }
    return special.get(name, lambda: Wav2Vec2FeatureExtractor(do_normalize=True))()


def batch_of(lengths=LENGTHS, width: int | None = None, seed: int = 0) -> dict:
    """Noise with a mask, padded by zeros."""
    random = np.random.default_rng(seed)
    values = torch.zeros(len(lengths), width or max(lengths))
    mask = torch.zeros(values.shape, dtype=torch.int64)
    for i, length in enumerate(lengths):
        values[i, :length] = torch.tensor(random.normal(size=length), dtype=torch.float32)
        mask[i, :length] = 1
    return {"input_values": values, "attention_mask": mask}


def alone(batch: dict, row: int) -> dict:
    length = int(batch["attention_mask"][row].sum())
    return {name: tensor[row : row + 1, :length] for name, tensor in batch.items()}


def output(model, batch: dict, **settings) -> torch.Tensor:
    """States, or logits: [B, ...]."""
    found = model(**batch, **settings)
    return getattr(found, "logits" if "logits" in found else "last_hidden_state")


def largest_difference(model, batch: dict) -> float:
    """Between a clip in the batch and the clip alone, at its own frames."""
    from common.speech.encoders import frames_in

    with torch.no_grad():
        together, worst = output(model, batch), 0.0
        for row, frames in enumerate(frames_in(model, batch).tolist()):
            single = output(model, alone(batch, row))[0]
            own, single = (together[row], single) if together.ndim == 2 else (together[row, :frames], single[:frames])
            worst = max(worst, float((single - own).abs().max()))
    return worst
