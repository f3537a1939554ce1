"""Encoders of the real architecture, at small size: padded batches against batches of one, layers, what is trained."""

import contextlib
import copy
import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification, AutoModelForCTC, set_seed

from common.legacy.speech_encoders import FAMILIES, frame_counts, frames_in, freeze, ignore_padding, keep_layers
from common.legacy.waveforms import SHORTEST_BATCH
from tests.legacy.helpers import message

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTHS = (12_000, 400, 1_999, 3_520, 8_001)
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
ENCODERS = {
    "hubert": ("hubert", {}),
    "distilhubert": ("hubert", {"feat_proj_layer_norm": False}),
    "wav2vec2": ("wav2vec2", {}),
    "hubert-large": ("hubert", LARGE),
    "wav2vec2-large": ("wav2vec2", LARGE),
    "mhubert": ("hubert", {"conv_pos_batch_norm": True}),
    **{family: (family, {}) for family in FAMILIES if family not in ("hubert", "wav2vec2")},
}
GROUP_NORM = [name for name, (_, settings) in ENCODERS.items() if settings is not LARGE]
AUTO = {"": AutoModel, "ForSequenceClassification": AutoModelForAudioClassification, "ForCTC": AutoModelForCTC}


def make(name: str, task: str = "", **settings):
    """A random model in eval mode: seven convolutions of the real kernels and strides, 16 channels wide."""
    kind, own = ENCODERS[name]
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    size |= {"conv_dim": (16,) * 7, "num_labels": 3, "vocab_size": 12, "classifier_proj_size": 16}
    set_seed(1)
    model = AUTO[task].from_config(AutoConfig.for_model(kind, **size | own | settings))
    with torch.no_grad():  # so that outputs differ from clip to clip, and a norm's bias is seen
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.mul_(0.2 / module.weight.std())
            if isinstance(module, torch.nn.GroupNorm | torch.nn.BatchNorm1d):
                module.bias.uniform_(-0.5, 0.5)
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.uniform_(-0.5, 0.5)
    return model.eval()


def batch_of(lengths=LENGTHS, width: int | None = None, seed: int = 0) -> dict:
    random = np.random.default_rng(seed)
    width = width or max(lengths)
    values, mask = torch.zeros(len(lengths), width), torch.zeros(len(lengths), width, dtype=torch.int64)
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
    with torch.no_grad():
        together, worst = output(model, batch), 0.0
        for row, frames in enumerate(frames_in(model, batch).tolist()):
            single = output(model, alone(batch, row))[0]
            own = together[row] if together.ndim == 2 else together[row, :frames]
            assert single.shape == own.shape
            worst = max(worst, float((single - own).abs().max()))
    return worst


# Frames


def test_frames_are_those_that_the_encoder_gives():
    samples = np.array([400, 401, 719, 720, 3_520, 16_000, 16_001, 16_079, 16_080, 160_000])
    model = make("hubert")
    counts = frame_counts(model.config, samples)
    assert counts.dtype == np.int64 and counts.tolist() == [1, 1, 1, 2, 10, 49, 49, 49, 50, 499]
    assert frame_counts(model.config, np.array([0, 9, 10, 399])).tolist() == [0] * 4
    for length, count in zip(samples[:-1].tolist(), counts.tolist()):
        with torch.no_grad():
            assert model(torch.randn(1, length)).last_hidden_state.shape[1] == count
    batch = batch_of((400, 720, 16_000))
    assert frames_in(model, batch).tolist() == [1, 2, 49]
    assert frames_in(model, {"frames": torch.tensor([7]), "attention_mask": None}).tolist() == [7]


# Padding


@pytest.mark.parametrize("task", AUTO)
@pytest.mark.parametrize("name", ["hubert", "distilhubert", "wav2vec2", "hubert-large", "wav2vec2-large"])
def test_a_padded_batch_gives_what_batches_of_one_give(name, task):
    batch, model = batch_of(), make(name, task)
    before = largest_difference(model, batch)
    ignore_padding(model)
    after = largest_difference(model, batch)
    assert after < 1e-5 and (before > 0.05 if name in GROUP_NORM else before < 1e-5)
    with torch.no_grad():
        logits = output(model, batch)
    assert logits.std(0).min() > 1e-3  # so that 1e-5 says something
    # The more of it, the same; and what stands in the padding has no say.
    wider = batch_of(width=20_000)
    wider["input_values"][wider["attention_mask"] == 0] = 3.0
    assert largest_difference(model, wider) < 1e-5


@pytest.mark.parametrize("name", ["mhubert", "wavlm", "unispeech", "unispeech-sat"])
def test_the_other_families(name):
    batch, model = batch_of(), make(name)
    assert largest_difference(model, batch) > 0.1
    ignore_padding(model)
    assert largest_difference(model, batch) < 1e-5


def test_models_whose_states_depend_on_padding_are_refused():
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    for kind, words in (("data2vec-audio", "data2vec-audio"), ("wav2vec2-conformer", "wav2vec2-conformer")):
        model = AutoModel.from_config(AutoConfig.for_model(kind, conv_dim=(8,) * 7, **size))
        assert message(ignore_padding, model).startswith(f"a {words} model cannot be used here; choose HuBERT")
    assert "wav2vec2 model with an adapter" in message(ignore_padding, make("wav2vec2", add_adapter=True))


@pytest.mark.parametrize("name", GROUP_NORM)
def test_without_padding_nothing_changes(name):
    stock, model = make(name), make(name)
    ignore_padding(model)
    clips = batch_of((8_000, 8_000, 8_000))
    masks = [clips, {"input_values": clips["input_values"]}]
    for batch in masks:
        with torch.no_grad():
            assert torch.equal(output(model, batch), output(stock, batch))
        assert model.feature_extractor.conv_layers[0].layer_norm.frames is None  # not row by row
    with torch.no_grad():  # also after a padded batch; and without a mask, all is taken for sound, as in transformers
        padded = batch_of()
        model(**padded)
        unmasked = {"input_values": padded["input_values"]}
        assert torch.equal(output(model, unmasked), output(stock, unmasked))
        assert torch.equal(model(padded["input_values"], padded["attention_mask"])[0], output(model, padded))


def test_gradients_are_those_of_batches_of_one():
    model = make("hubert", "ForSequenceClassification")
    ignore_padding(model)
    batch, ways = batch_of(), []
    for parts in ([batch], [alone(batch, row) for row in range(len(LENGTHS))]):
        model.zero_grad()
        for part in parts:
            output(model, part).pow(2).sum().backward()
        ways.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert ways[0].keys() == ways[1].keys()
    assert ways[0]["hubert.feature_extractor.conv_layers.0.conv.weight"].abs().max() > 1e-3
    for name in ways[0]:
        torch.testing.assert_close(ways[0][name], ways[1][name], rtol=1e-3, atol=1e-4, msg=name)


def test_gradient_checkpointing_computes_the_same_again():
    gradients = []
    for checkpointing in (False, True):
        model = make("hubert")
        ignore_padding(model)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
        model.config.layerdrop = model.config.mask_time_prob = 0.0
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.encoder.layers.requires_grad_(False)
        for layer in model.encoder.layers:
            layer.attention.dropout = 0.0
        output(model, batch_of()).pow(2).sum().backward()
        gradients.append(model.feature_extractor.conv_layers[0].conv.weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_in_lower_precision():
    batch, model = batch_of(), make("hubert")
    ignore_padding(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert largest_difference(model, batch) < 0.2
        with torch.no_grad():
            lower = output(model, batch).float()
    with torch.no_grad():
        exact = output(model, batch)
    frames = frames_in(model, batch).tolist()
    assert 1e-4 < max(float((a[:n] - b[:n]).abs().max()) for a, b, n in zip(lower, exact, frames)) < 0.5


def test_what_is_saved_is_an_ordinary_checkpoint(tmp_path):
    stock, model = make("mhubert", "ForSequenceClassification"), make("mhubert", "ForSequenceClassification")
    ignore_padding(model)
    assert list(model.state_dict()) == list(stock.state_dict())
    model(**batch_of())
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()) and loaded.config.to_diff_dict() == model.config.to_diff_dict()
    single = alone(batch_of(), 3)
    with torch.no_grad():
        assert torch.equal(output(loaded.eval(), single), output(model, single))


def test_copies_and_repeating():
    model = make("hubert")
    ignore_padding(model)
    ignore_padding(model)
    assert len(model._forward_pre_hooks) == 1
    model(**batch_of((400, 8_000)))
    twin = copy.deepcopy(model)
    assert largest_difference(twin, batch_of()) < 1e-5
    with torch.no_grad():  # a copy has its own frames
        twin(**batch_of((500, 600, 700)))
    assert largest_difference(model, batch_of((400, 8_000))) < 1e-5


@contextlib.contextmanager
def process_group(folder: Path) -> Iterator[None]:
    """Of this process alone. What is wrapped inside must be out of use before it ends.

    A wrapper that outlives its group destroys it while it holds Python's lock, which the group's thread may wait for.
    """
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    try:
        yield
    finally:
        gc.collect()
        torch.distributed.destroy_process_group()


def test_several_processes(tmp_path):
    """The wrapper of several processes, which wants a gradient of every parameter at every step."""
    with process_group(tmp_path):
        for name, settings in (("hubert", {}), ("wav2vec2-large", {"use_weighted_layer_sum": True})):
            steps_of_wrapped(make(name, "ForSequenceClassification", **settings))


def steps_of_wrapped(model) -> None:
    ignore_padding(model)
    freeze(model, "none")
    with torch.no_grad():
        expected = output(model, batch_of())
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    with torch.no_grad():
        torch.testing.assert_close(output(wrapped, batch_of()), expected)
    wrapped.train()
    for _ in range(3):
        output(wrapped, batch_of()).sum().backward()


# SpecAugment and short clips


@pytest.mark.parametrize("name", ["hubert", "wav2vec2", "hubert-large"])
def test_short_clips_do_not_stop_training(name):
    """Of 400 samples and more, in a batch as `collate_waveforms` pads it; whatever masks of frames are drawn."""
    with pytest.raises(ValueError, match="mask_length"):
        make(name).train()(**batch_of((400, 3_199)))
    model = make(name, "ForSequenceClassification", mask_time_prob=0.5, mask_time_length=30)
    ignore_padding(model)
    freeze(model, "none")
    model.train()
    for seed, lengths in enumerate([(400,), (400, 3_999), (1_000, 3_000, 400), (719, 2_500), (3_520, 4_000)]):
        set_seed(seed)
        for _ in range(3):
            logits = output(model, batch_of(lengths, width=SHORTEST_BATCH))
            assert torch.isfinite(logits).all()
            logits.sum().backward()
    short = batch_of((400, 1_234), width=SHORTEST_BATCH)
    assert largest_difference(model.eval(), short) < 1e-5


# Layers


@pytest.mark.parametrize("task", ["", "ForSequenceClassification"])
@pytest.mark.parametrize("name", ["hubert", "hubert-large"])
def test_the_first_layers_alone(name, task, tmp_path):
    whole = make(name, task, num_hidden_layers=4)
    cut = copy.deepcopy(whole)
    assert keep_layers(cut, 2) == "the first 2 of 4 layers of the encoder"
    clips = {"input_values": torch.randn(2, 8_000)}
    with torch.no_grad():
        states = whole.base_model(**clips, output_hidden_states=True).hidden_states[2]
        if name == "hubert-large":
            states = whole.base_model.encoder.layer_norm(states)
        torch.testing.assert_close(cut.base_model(**clips).last_hidden_state, states, rtol=0, atol=1e-6)
        expected = output(cut, clips)
    cut.save_pretrained(tmp_path)
    loaded, report = AUTO[task].from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()) and loaded.config.num_hidden_layers == 2
    with torch.no_grad():
        assert torch.equal(output(loaded.eval(), clips), expected)


def test_layers_of_a_weighted_sum(tmp_path):
    model = make("hubert", "ForSequenceClassification", num_hidden_layers=3, use_weighted_layer_sum=True)
    keep_layers(model, 1)
    model.save_pretrained(tmp_path)
    _, report = AutoModelForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()) and model.layer_weights.shape == (2,)


def test_layers_that_are_not_there():
    for count in (3, 0, -1):
        assert message(keep_layers, make("hubert"), count) == f"--layer {count}: the encoder has layers 1 to 2"
    assert keep_layers(make("hubert"), 2) == "the first 2 of 2 layers of the encoder"


# Freezing


def gradients(model, steps: int = 2) -> dict[str, bool]:
    """Of each parameter to be trained, whether it got a gradient at each of some steps in training mode."""
    model.train()
    found = {name: True for name, p in model.named_parameters() if p.requires_grad}
    for step in range(steps):
        set_seed(step)
        model.zero_grad()
        output(model, batch_of()).pow(2).sum().backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                found[name] &= parameter.grad is not None
    return found


@pytest.mark.parametrize(
    "settings", [{}, {"use_weighted_layer_sum": True}, {"mask_time_prob": 0.0, "mask_feature_prob": 0.1}]
)
@pytest.mark.parametrize("name", ["hubert", "hubert-large", "wav2vec2"])
def test_every_trained_parameter_has_a_gradient(name, settings):
    for what in ("none", "convolution", "encoder"):
        model = make(name, "ForSequenceClassification", layerdrop=0.9, **settings)
        ignore_padding(model)
        freeze(model, what)
        found = gradients(model)
        assert found and all(found.values()), [parameter for parameter, got in found.items() if not got]
        base = [parameter for parameter in found if parameter.startswith(model.base_model_prefix)]
        convolutions = [parameter for parameter in base if ".feature_extractor." in parameter]
        assert bool(base) == (what != "encoder") and bool(convolutions) == (what == "none")
        assert {"projector.weight", "classifier.bias"} < found.keys()
        assert (f"{model.base_model_prefix}.masked_spec_embed" in base) == (
            what != "encoder" and not settings.get("mask_feature_prob")
        )


def test_frozen_convolutions_are_those_of_transformers():
    model, stock = make("hubert", "ForCTC"), make("hubert", "ForCTC")
    assert freeze(model, "convolution") == "the convolutions are frozen"
    stock.freeze_feature_encoder()
    expected = [p.requires_grad for p in stock.parameters()]
    assert [p.requires_grad for p in model.parameters()] == expected and not all(expected)
    assert freeze(make("hubert"), "none") == "everything is trained"


def test_a_frozen_encoder_gives_the_same_whatever_a_trainer_does():
    model = make("hubert", "ForSequenceClassification", mask_time_prob=0.5, layerdrop=0.5, hidden_dropout=0.5)
    ignore_padding(model)
    with torch.no_grad():
        expected = model.hubert(**batch_of()).last_hidden_state
    assert freeze(model, "encoder") == "the whole encoder is frozen"
    for twin in (model, copy.deepcopy(model)):
        twin.train()
        assert twin.training and twin.classifier.training and not any(m.training for m in twin.hubert.modules())
        assert torch.equal(twin.hubert(**batch_of()).last_hidden_state, expected)
    other = make("hubert", mask_time_prob=0.5, hidden_dropout=0.5).train()
    assert not torch.allclose(other(**batch_of()).last_hidden_state, expected, atol=0.1)
    freeze(other, "convolution")
    assert other.train().encoder.layers[0].training and not other.feature_extractor.training


def test_the_real_size_has_the_real_number_of_parameters():
    with torch.device("meta"):
        model = AutoModel.from_config(transformers.HubertConfig(num_hidden_layers=2, feat_proj_layer_norm=False))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(23.49e6, rel=1e-3)
