"""Heads against hand-made references: pooling, weighted layers, LSTMs clip by clip; saving, loading, pipelines."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import (
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForCTC,
    HubertConfig,
    HubertForCTC,
    HubertForSequenceClassification,
    HubertModel,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
    pipeline,
    set_seed,
)

import run_asr
from common.speech.encoders import frames_in, freeze
from common.speech.heads import PooledClassifier, RecurrentCtc
from tests.helpers import message
from tests.speech.models import LENGTHS, SIZE, alone, batch_of, largest_difference, louder, make

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = SIZE | {"conv_dim": (16,) * 7}
LABELS = ("calm", "angry", "sad")
SMALL = {"recurrent_size": 10}


def encoder(**settings):
    set_seed(1)
    return louder(HubertModel(HubertConfig(**SIZE | settings))).eval()


def classifier(pooling: str = "mean", weighted: bool = False, **settings) -> PooledClassifier:
    """In eval mode, with statistics in its norm and other weights of the layers than equal ones."""
    model = louder(PooledClassifier.around(encoder(), LABELS, pooling=pooling, weighted=weighted, **settings))
    with torch.no_grad():
        model.norm.running_mean.uniform_(-0.5, 0.5)
        model.norm.running_var.uniform_(0.5, 2)
        if weighted:
            model.layer_weights.copy_(torch.tensor([0.3, -1.0, 1.2]))
    return model.eval()


def recurrent(weighted: bool = False, **settings) -> RecurrentCtc:
    model = louder(RecurrentCtc.around(encoder(), vocab_size=9, weighted=weighted, **SMALL | settings))
    with torch.no_grad():
        for parameter in model.recurrent.parameters():
            parameter.mul_(5)
        if weighted:
            model.layer_weights.copy_(torch.tensor([0.3, -1.0, 1.2]))
    return model.eval()


MODELS = {
    **{
        f"{pooling}, weighted {weighted}": (classifier, pooling, weighted)
        for pooling in ("mean", "max", "first")
        for weighted in (False, True)
    },
    "blstm": (recurrent, False),
    "blstm, weighted": (recurrent, True),
}


def states_of(model, clip: dict) -> np.ndarray:
    """What a head gets of one clip alone, [T, H], by numpy."""
    with torch.no_grad():
        layers = model.encoder(**clip, output_hidden_states=True).hidden_states
    layers = [layer[0].double().numpy() for layer in layers]
    if not model.config.weighted:
        return layers[-1]
    shares = np.exp(model.layer_weights.detach().double().numpy())
    return sum(share * layer for share, layer in zip(shares / shares.sum(), layers))


# What they compute


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "max", "first"])
def test_pooled_classifier_is_what_is_published(pooling, weighted):
    model, batch = classifier(pooling, weighted), batch_of()
    with torch.no_grad():
        found = model(**batch)
    weights = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    for row in range(len(LENGTHS)):
        states = states_of(model, alone(batch, row))
        pooled = {"mean": states.mean(0), "max": states.max(0), "first": states[0]}[pooling]
        norm = (pooled - weights["norm.running_mean"]) / np.sqrt(weights["norm.running_var"] + 1e-5)
        norm = norm * weights["norm.weight"] + weights["norm.bias"]
        hidden = np.maximum(weights["projector.weight"] @ norm + weights["projector.bias"], 0)
        logits = weights["classifier.weight"] @ hidden + weights["classifier.bias"]
        np.testing.assert_allclose(found.logits[row], logits, rtol=1e-4, atol=1e-4)
    assert found["logits"].shape == (len(LENGTHS), 3) and found.logits.std(0).min() > 0.01
    assert (
        model.projector.out_features == 256 and model.dropout.p == 0.1 and isinstance(model.norm, torch.nn.BatchNorm1d)
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_recurrent_ctc_clip_by_clip(weighted):
    """The same as one two-layer LSTM of torch on each clip alone, forwards from its start, backwards from its end."""
    model, batch = recurrent(weighted), batch_of()
    with torch.no_grad():
        found, counts = model(**batch), frames_in(model, batch).tolist()
        for row, frames in enumerate(counts):
            states = torch.tensor(states_of(model, alone(batch, row)), dtype=torch.float32)[None]
            expected = model.lm_head(model.recurrent(model.projector(states))[0])
            torch.testing.assert_close(found.logits[row, :frames], expected[0], rtol=0, atol=1e-5)
    assert counts == [37, 1, 5, 24, 24] and found.logits.shape == (5, 37, 9)
    assert largest_difference(model, batch) < 1e-5 < found.logits.std()


def test_superbs_recurrent_head_has_its_size():
    with torch.device("meta"):
        model = RecurrentCtc.around(HubertModel(HubertConfig(**SIZE)), vocab_size=32)
    head = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("encoder."))
    lstm = sum(2 * 4 * (1024 * below + 1024 * 1024 + 2 * 1024) for below in (1024, 2048))
    assert head == (32 * 1024 + 1024) + lstm + (2048 * 32 + 32)
    assert model.dropout.p == model.recurrent.dropout == 0.2


def test_dropout_stands_behind_the_recurrent_layers():
    model = recurrent(head_dropout=1.0).train()
    model.lm_head.reset_parameters()
    logits = model(**alone(batch_of(), 0)).logits
    torch.testing.assert_close(logits, model.lm_head.bias.expand_as(logits))


def test_without_recurrent_layers_it_is_the_linear_head_of_transformers():
    stock = louder(HubertForCTC(HubertConfig(**SIZE, vocab_size=9))).eval()
    model = RecurrentCtc.around(stock.hubert, vocab_size=9, recurrent_layers=0, head_dropout=0.0)
    model.lm_head.load_state_dict(stock.lm_head.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(**batch_of()).logits, stock(**batch_of()).logits)
    weighted = louder(RecurrentCtc.around(encoder(), vocab_size=9, recurrent_layers=0, weighted=True)).eval()
    clip = alone(batch_of(), 0)
    with torch.no_grad():
        expected = weighted.lm_head(torch.tensor(states_of(weighted, clip), dtype=torch.float32))
        torch.testing.assert_close(weighted(**clip).logits[0], expected, rtol=0, atol=1e-5)
        assert not torch.allclose(weighted(**clip).logits, weighted.lm_head(weighted.encoder(**clip)[0]), atol=1e-2)


def test_weighted_layers_are_those_of_transformers():
    """The mean of the weighted sum, by `use_weighted_layer_sum` with the identity for a head."""
    stock = HubertForSequenceClassification(
        HubertConfig(**SIZE, use_weighted_layer_sum=True, classifier_proj_size=32, num_labels=32)
    )
    model = PooledClassifier.around(stock.hubert, LABELS, weighted=True).eval()
    assert torch.equal(model.layer_weights, stock.layer_weights)
    with torch.no_grad():
        for layer in (stock.projector, stock.classifier):
            torch.nn.init.eye_(layer.weight)
        stock.layer_weights.copy_(torch.tensor([2.0, 0.5, -1.0]))
        model.layer_weights.copy_(stock.layer_weights)
        pooled = []
        model.norm.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0]))
        model(**batch_of())
        torch.testing.assert_close(pooled[0], stock.eval()(**batch_of()).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_score_of_a_clip_does_not_depend_on_its_batch(name):
    build, *how = MODELS[name]
    model = build(*how)
    assert largest_difference(model, batch_of()) < 1e-5
    wider = batch_of(width=16_000)
    with torch.no_grad():
        wide, usual = model(**wider).logits, model(**batch_of()).logits
        wide = wide[:, : usual.shape[1]] if usual.ndim == 3 else wide
        unmasked = model(input_values=alone(batch_of(), 4)["input_values"])
    for row, frames in enumerate(frames_in(model, wider).tolist()):
        own = slice(None) if usual.ndim == 2 else slice(frames)
        torch.testing.assert_close(wide[row, own], usual[row, own], rtol=0, atol=1e-5)
    torch.testing.assert_close(unmasked.logits, model(**alone(batch_of(), 4)).logits)


# Training


def test_a_training_batch_of_one():
    """It has no variance: normalised as in eval mode, and leaves the statistics alone."""
    model = classifier()
    clip = alone(batch_of(), 0)
    expected = model(**clip).logits
    before = copy.deepcopy(model.norm.state_dict())
    model.training, model.dropout.p = True, 0.0  # but for the encoder
    found = model(**clip).logits
    torch.testing.assert_close(found, expected)
    assert all(torch.equal(model.norm.state_dict()[name], tensor) for name, tensor in before.items())
    found.sum().backward()
    assert model.norm.weight.grad.abs().max() > 0
    # Two are a batch, normalised by its own mean and variance.
    batch = batch_of((9_000, 9_000))
    model(**batch)
    with torch.no_grad():
        states = model.encoder(**batch).last_hidden_state.mean(1)
    assert model.norm.num_batches_tracked == before["num_batches_tracked"] + 1
    expected = 0.9 * before["running_mean"] + 0.1 * states.mean(0)
    torch.testing.assert_close(model.norm.running_mean, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_every_trained_parameter_has_a_gradient(name):
    build, *how = MODELS[name]
    for what in ("none", "encoder"):
        model = build(*how)
        freeze(model, what)
        model.train()(**batch_of()).logits.pow(2).sum().backward()
        found = {name: p.grad is not None for name, p in model.named_parameters() if p.requires_grad}
        assert all(found.values()), [parameter for parameter, got in found.items() if not got]
        assert ("layer_weights" in found) == bool(how[-1])
        assert any(name.startswith("encoder.") for name in found) == (what != "encoder")


def test_in_lower_precision():
    for model in (classifier("max", True), recurrent(True)):
        with torch.no_grad():
            exact = model(**batch_of()).logits
        freeze(model, "none")
        model.train()
        with torch.autocast("cpu", torch.bfloat16):
            model(**batch_of()).logits.float().sum().backward()
            with torch.no_grad():
                lower = model.eval()(**batch_of()).logits.float()
        difference = (lower - exact)[0].abs().max()
        assert 1e-4 < difference < 0.3 and torch.isfinite(lower).all()


# Saving and loading


@pytest.mark.parametrize("name", MODELS)
def test_saved_and_loaded(name, tmp_path):
    build, *how = MODELS[name]
    model = build(*how)
    model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    auto = AutoModelForAudioClassification if isinstance(model, PooledClassifier) else AutoModelForCTC
    loaded = auto.from_pretrained(tmp_path)
    assert type(loaded) is type(model) and not loaded.training
    model.config.encoder.dtype = loaded.config.encoder.dtype  # as in transformers, it is known of what was loaded
    assert loaded.config.to_diff_dict() == model.config.to_diff_dict()
    assert loaded.encoder.config is loaded.config.encoder and loaded.encoder.config._attn_implementation == "sdpa"
    with torch.no_grad():
        assert torch.equal(loaded(**batch_of()).logits, model(**batch_of()).logits)
    if isinstance(model, PooledClassifier):
        assert loaded.config.id2label == dict(enumerate(LABELS)) and loaded.config.label2id["sad"] == 2


def test_around_a_pretrained_encoder(tmp_path):
    """Its weights stay, the head is new and the same for the same seed; what is saved is loaded."""
    encoder(num_hidden_layers=3).save_pretrained(tmp_path / "encoder")
    made = []
    for _ in range(2):
        pretrained = AutoModel.from_pretrained(tmp_path / "encoder")
        before = {name: tensor.clone() for name, tensor in pretrained.state_dict().items()}
        set_seed(4)
        model = PooledClassifier.around(pretrained, LABELS, pooling="max", classifier_size=7)
        assert model.encoder is pretrained and model.encoder.config._attn_implementation == "sdpa"
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.encoder.state_dict().items())
        made.append(model)
    assert all(torch.equal(a, b) for a, b in zip(made[0].parameters(), made[1].parameters()))
    assert made[0].projector.weight.shape == (7, 32) and made[0].projector.weight.std() > 0.01
    model.eval().save_pretrained(tmp_path / "saved")
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path / "saved")
    assert loaded.config.encoder.num_hidden_layers == 3
    with torch.no_grad():
        assert torch.equal(loaded(**batch_of()).logits, model(**batch_of()).logits)


def test_heads_are_for_some_families_only():
    for name in ("ast", "whisper"):
        assert "transformers' own head only: give --head standard" in message(
            PooledClassifier.around, make(name, "classes"), LABELS
        )


# Pipelines


def vocabulary(folder) -> Wav2Vec2CTCTokenizer:
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCD"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    return Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))


@pytest.mark.parametrize("ours", [False, True])
def test_pipeline_for_classification(ours, tmp_path):
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    stock = louder(HubertForSequenceClassification(HubertConfig(**SIZE, **labels)))
    model = (classifier() if ours else stock).eval()
    model.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(tmp_path)
    sound = batch_of((9_000,))["input_values"][0].numpy()
    found = pipeline("audio-classification", str(tmp_path))({"array": sound, "sampling_rate": 16_000}, top_k=None)
    values = torch.tensor(Wav2Vec2FeatureExtractor()(sound, sampling_rate=16_000).input_values[0])[None]
    with torch.no_grad():
        expected = functional.softmax(model(values).logits[0], -1).tolist()
    assert {entry["label"]: entry["score"] for entry in found} == pytest.approx(dict(zip(LABELS, expected)), abs=1e-5)


@pytest.mark.parametrize("ours", [False, True])
def test_pipeline_for_recognition(ours, tmp_path):
    tokenizer = vocabulary(tmp_path)
    stock = louder(HubertForCTC(HubertConfig(**SIZE, vocab_size=9, pad_token_id=0)))
    model = (recurrent() if ours else stock).eval()
    model.save_pretrained(tmp_path)
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(tmp_path)
    sound = batch_of((32_000,))["input_values"][0].numpy()
    found = pipeline("automatic-speech-recognition", str(tmp_path))({"array": sound, "sampling_rate": 16_000})
    values = torch.tensor(extractor(sound, sampling_rate=16_000).input_values[0])[None]
    with torch.no_grad():
        expected = tokenizer.decode(model(values).logits[0].argmax(-1).tolist(), skip_special_tokens=False)
    assert found["text"] == expected and len(expected) > 2
    args = SimpleNamespace(model=str(tmp_path), tokenizer_name=None, config_name=None, token=None, cache_dir=None)
    args.trust_remote_code, args.model_revision = False, "main"
    assert run_asr.trained_processor(args).tokenizer.get_vocab() == tokenizer.get_vocab()
