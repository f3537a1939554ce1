"""Tiny speech encoders for `--demo`: the real architectures and settings, as the Auto classes know them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from common.legacy.errors import UserError
from common.legacy.tiny_speech import FREQUENCIES, speech_twin_of, tiny_speech_model

# As in the repositories' own config.json and preprocessor_config.json.
REAL = {
    "ntu-spml/distilhubert": ("hubert", {"feat_proj_layer_norm": False}, "group", False, False),
    "facebook/hubert-base-ls960": ("hubert", {"feat_proj_layer_norm": True}, "group", True, False),
    "facebook/wav2vec2-base": ("wav2vec2", {}, "group", True, False),
    "facebook/hubert-large-ll60k": ("hubert", {"feat_proj_layer_norm": True}, "layer", True, True),
}
LABELS = ("yes", "no", "_unknown_")


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(int(16_000 * seconds)) / 16_000).astype(np.float32)


@pytest.mark.parametrize("architecture", REAL)
def test_the_twin_is_the_real_architecture(architecture, tmp_path):
    import torch
    from transformers import AutoFeatureExtractor, AutoModel

    model_type, settings, norm, normalized, mask = REAL[architecture]
    state = torch.random.get_rng_state()
    folder = tiny_speech_model(architecture, tmp_path / "tiny", layers=3)
    assert torch.equal(state, torch.random.get_rng_state())

    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    config = model.config
    assert (config.model_type, config.num_hidden_layers, config.feat_extract_norm) == (model_type, 3, norm)
    assert (config.conv_bias, config.do_stable_layer_norm) == (norm == "layer", norm == "layer")
    assert all(getattr(config, name) == value for name, value in settings.items())
    assert list(config.conv_kernel) == [10, 3, 3, 3, 3, 2, 2] and list(config.conv_stride) == [5, 2, 2, 2, 2, 2, 2]
    assert sum(parameter.numel() for parameter in model.parameters()) < 200_000

    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    assert (extractor.sampling_rate, extractor.do_normalize) == (16_000, normalized)
    inputs = extractor([tone(300), tone(300, 0.5)], sampling_rate=16_000, padding=True, return_tensors="pt")
    assert ("attention_mask" in inputs) == mask
    with torch.no_grad():
        assert model(**inputs).last_hidden_state.shape == (2, 49, config.hidden_size)
        assert model(torch.zeros(1, 400)).last_hidden_state.shape[1] == 1  # 25 ms are one frame


@pytest.mark.parametrize("architecture", REAL)
def test_equal_runs_are_equal_while_training(architecture, tmp_path):
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tiny_speech_model(architecture, tmp_path)).train()
    sound = torch.from_numpy(tone(440))[None]
    assert torch.equal(model(sound).last_hidden_state, model(sound).last_hidden_state)


def test_a_classifier_has_its_names_and_works_in_a_pipeline(tmp_path):
    from transformers import AutoModelForAudioClassification, pipeline

    folder = tiny_speech_model("ntu-spml/distilhubert", tmp_path, "audio-classification", labels=LABELS)
    model, report = AutoModelForAudioClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    assert model.config.id2label == dict(enumerate(LABELS)) and model.config.label2id["_unknown_"] == 2
    found = pipeline("audio-classification", model=str(folder), device="cpu")(tone(500), top_k=None)
    assert {entry["label"] for entry in found} == set(LABELS)


def test_a_recogniser_has_a_vocabulary_and_works_in_a_pipeline(tmp_path):
    from transformers import AutoModelForCTC, AutoProcessor, pipeline

    vocabulary = ("A", "B", "'")
    folder = tiny_speech_model("facebook/wav2vec2-base", tmp_path, "ctc", vocabulary=vocabulary)
    model, report = AutoModelForCTC.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    processor = AutoProcessor.from_pretrained(folder)
    assert processor.feature_extractor.do_normalize
    assert model.config.vocab_size == len(processor.tokenizer.get_vocab()) == 8
    assert model.config.pad_token_id == processor.tokenizer.pad_token_id == 0
    assert json.loads((folder / "vocab.json").read_text(encoding="utf-8"))["B"] == 6
    assert processor.tokenizer("AB A'").input_ids == [5, 6, 4, 5, 7]
    recognise = pipeline("automatic-speech-recognition", model=str(folder), device="cpu")
    assert set(recognise({"array": tone(500), "sampling_rate": 16_000})) == {"text"}


@pytest.mark.parametrize("architecture", ["facebook/hubert-base-ls960", "facebook/hubert-large-ll60k"])
def test_the_convolutions_are_a_filter_bank(architecture, tmp_path):
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tiny_speech_model(architecture, tmp_path))
    # Half a second of the tone and half a second of silence, so that no norm over the clip can hide the loudness.
    clips = [torch.from_numpy(np.concatenate([tone(hertz, 0.5), np.zeros(8000)]).astype("f4")) for hertz in FREQUENCIES]
    with torch.no_grad():
        bands = model.feature_extractor(torch.stack(clips))[:, : len(FREQUENCIES)]
    loud, silent = bands[:, :, 5:20].mean(-1), bands[:, :, 30:45].mean(-1)
    assert loud.argmax(1).tolist() == list(range(len(FREQUENCIES)))
    assert (loud.diagonal() > 3 * loud.sum(1) / len(FREQUENCIES)).all()
    assert (loud.diagonal() > silent.diagonal() + 0.2).all()


def test_the_files_depend_on_the_seed_alone(tmp_path):
    def digests(name: str, seed: int) -> dict[str, str]:
        folder = tiny_speech_model("ntu-spml/distilhubert", tmp_path / name, "ctc", seed, vocabulary=("A", "B"))
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}

    first, again, other = digests("a", 0), digests("b", 0), digests("c", 1)
    assert first == again
    assert {name for name in first if first[name] != other[name]} == {"model.safetensors"}


@pytest.mark.parametrize(
    "name, large, projected",
    [
        ("models/HuBERT-base/", False, True),
        ("distilhubert", False, False),
        ("facebook/hubert-xlarge-ll60k", True, True),
        ("TencentGameMate/chinese-hubert-base", False, True),
        ("facebook/wav2vec2-large-xlsr-53", True, True),
        ("m3hrdadfi/wav2vec2_base_shemo", False, True),
    ],
)
def test_the_family_is_read_from_the_name(name, large, projected):
    twin = speech_twin_of(name)
    assert (twin.layer_norm, twin.projection_norm) == (large, projected)
    assert twin.model_type == ("wav2vec2" if "wav2vec2" in name else "hubert")


@pytest.mark.parametrize("name", ["openai/whisper-tiny", "microsoft/wavlm-base", "bert-base-uncased", "xhuberty"])
def test_a_name_without_a_twin_is_one_sentence(name):
    with pytest.raises(UserError, match=r"distilhubert.*wav2vec2") as caught:
        speech_twin_of(name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_is_written_for_an_unknown_name(tmp_path):
    with pytest.raises(UserError):
        tiny_speech_model("gpt2", Path(tmp_path, "x"))
    assert not Path(tmp_path, "x").exists()
