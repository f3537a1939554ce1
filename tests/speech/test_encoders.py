"""Encoders of the real architectures, at small size: padded batches against batches of one, what is trained."""

import contextlib
import copy
import gc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification, set_seed

from common.speech.encoders import (
    FIELD,
    HOP,
    SHORTEST_BATCH,
    frame_counts,
    frames_in,
    freeze,
    prepare_encoder,
)
from common.speech.training import SpeechTrainer
from tests.helpers import message
from tests.speech.models import (
    AUTO,
    GROUP_NORM,
    SIZE,
    WAVES,
    alone,
    batch_of,
    largest_difference,
    make,
    output,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_frames_are_those_that_the_encoder_gives():
    samples = np.array([400, 401, 719, 720, 3_520, 16_000, 16_001, 16_079, 16_080, 160_000])
    model = make("hubert")
    counts = frame_counts(model.config, samples)
    assert counts.tolist() == [1, 1, 1, 2, 10, 49, 49, 49, 50, 499]
    for length, count in zip(samples[:-1].tolist(), counts.tolist()):
        with torch.no_grad():
            assert model(torch.randn(1, length)).last_hidden_state.shape[1] == count
    assert frames_in(model, batch_of((400, 720, 16_000))).tolist() == [1, 2, 49]
    assert frames_in(model, {"input_values": torch.zeros(2, 720)}).tolist() == [2, 2]
    assert frames_in(model, {"input_values": torch.zeros(2, 7, 1, 32)}).tolist() == [7, 7]


@pytest.mark.parametrize("task", AUTO)
@pytest.mark.parametrize("name", WAVES)
def test_a_padded_batch_gives_what_batches_of_one_give(name, task):
    if task == "" and name not in ("hubert", "mhubert", "sew"):
        pytest.skip("the encoder alone is in the models with a head")
    batch, model = batch_of(), make(name, task)
    stock = largest_difference(model, batch) if name in GROUP_NORM else 1.0
    prepare_encoder(model)
    assert largest_difference(model, batch) < 1e-5 < 0.05 < stock
    with torch.no_grad():
        assert output(model, batch).std(0).mean() > 1e-4  # so that 1e-5 says something
    # The more of it, the same; and what stands in the padding has no say.
    wider = batch_of(width=16_000)
    wider["input_values"][wider["attention_mask"] == 0] = 3.0
    assert largest_difference(model, wider) < 1e-5


def test_other_families_are_refused():
    config = AutoConfig.for_model("bert", vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    assert "a bert model cannot be used here; choose one of hubert" in message(
        prepare_encoder, AutoModel.from_config(config)
    )
    assert "wav2vec2 model with an adapter" in message(prepare_encoder, make("wav2vec2", add_adapter=True))
    config = AutoConfig.for_model("wav2vec2-bert", **SIZE)
    assert "a wav2vec2-bert model cannot be used here" in message(prepare_encoder, AutoModel.from_config(config))


@pytest.mark.parametrize("name", ["hubert", "sew", "conformer"])
def test_without_padding_nothing_changes(name):
    stock, model = make(name), make(name)
    prepare_encoder(model)
    prepare_encoder(model)  # twice is once
    clips = batch_of((8_000, 8_000, 8_000))
    for batch in (clips, {"input_values": clips["input_values"]}):
        with torch.no_grad():
            torch.testing.assert_close(output(model, batch), output(stock, batch), rtol=0, atol=1e-5)
    layers = [
        one(**clips, output_hidden_states=True).hidden_states for one in (stock, model)
    ]  # which transformers collects by the class
    for theirs, ours in zip(*layers, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["hubert", "sew"])
def test_gradients_are_those_of_batches_of_one(name):
    model = make(name, "classes")
    prepare_encoder(model)
    batch, ways = batch_of((9_000, 4_000, 5_000)), []
    for parts in ([batch], [alone(batch, row) for row in range(3)]):
        model.zero_grad()
        for part in parts:
            output(model, part).pow(2).sum().backward()
        ways.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert ways[0].keys() == ways[1].keys() and max(grad.abs().max() for grad in ways[0].values()) > 1e-3
    for parameter in ways[0]:
        torch.testing.assert_close(ways[0][parameter], ways[1][parameter], rtol=1e-3, atol=1e-4, msg=parameter)


@pytest.mark.parametrize("name", ["hubert", "hubert-large", "wav2vec2"])
def test_the_encoder_goes_on_behind_its_convolutions(name):
    for task in ("classes", "ctc"):
        model, batch = make(name, task), batch_of()
        prepare_encoder(model)
        freeze(model, "convolution")
        base = model.base_model
        with torch.no_grad():
            states = base.convolutions(batch["input_values"], batch["attention_mask"])
            frames = frames_in(model, batch)
            states[torch.arange(states.shape[1]) >= frames[:, None]] = 0
            samples = HOP * (frames - 1) + FIELD
            mask = (torch.arange(int(samples.max())) < samples[:, None]).long()
            found = output(model, {"input_values": states, "attention_mask": mask})
            expected = output(model, batch)
        assert frames_in(model, {"input_values": states, "attention_mask": mask}).tolist() == frames.tolist()
        for ours, theirs, count in zip(found, expected, frames.tolist()):
            rows = slice(None) if task == "classes" else slice(count)
            torch.testing.assert_close(ours[rows], theirs[rows], rtol=0, atol=1e-5)
        assert base.feature_extractor is not None and "feature_extractor" in dict(base.named_children())


def test_gradient_checkpointing_computes_the_same_again():
    gradients = []
    for checkpointing in (False, True):
        model = make("hubert", attention_dropout=0.0, hidden_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0)
        prepare_encoder(model)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
        model.config.layerdrop = model.config.mask_time_prob = 0.0
        output(model, batch_of()).pow(2).sum().backward()
        gradients.append(model.feature_extractor.conv_layers[0].conv.weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_what_is_saved_is_an_ordinary_checkpoint(tmp_path):
    stock, model = make("mhubert", "classes"), make("mhubert", "classes")
    prepare_encoder(model)
    assert list(model.state_dict()) == list(stock.state_dict())
    model(**batch_of())
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()) and loaded.config.to_diff_dict() == model.config.to_diff_dict()
    single = alone(batch_of(), 3)
    with torch.no_grad():
        assert torch.equal(output(loaded.eval(), single), output(model, single))


def test_a_copy_is_prepared_too():
    model = make("hubert")
    prepare_encoder(model)
    model(**batch_of((400, 8_000)))
    twin = copy.deepcopy(model)
    assert largest_difference(twin, batch_of()) < 1e-5
    assert largest_difference(model, batch_of((400, 8_000))) < 1e-5


@contextlib.contextmanager
def process_group(folder):
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

    def steps(model) -> None:
        prepare_encoder(model)
        freeze(model, "none")
        with torch.no_grad():
            expected = output(model, batch_of())
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        with torch.no_grad():
            torch.testing.assert_close(output(wrapped, batch_of()), expected)
        wrapped.train()
        for _ in range(2):
            output(wrapped, batch_of()).sum().backward()

    with process_group(tmp_path):
        for name, settings in (("hubert", {}), ("hubert-large", {"use_weighted_layer_sum": True}), ("sew", {})):
            steps(make(name, "classes", **settings))


@pytest.mark.parametrize("name", ["hubert", "hubert-large", "sew"])
def test_short_clips_do_not_stop_training(name):
    """Of 400 samples and more, in a batch as the collator pads it; whatever masks of frames are drawn."""
    model = make(name, "classes", mask_time_prob=0.5, mask_time_length=30)
    prepare_encoder(model)
    freeze(model, "none")
    model.train()
    for seed, lengths in enumerate([(400,), (400, 3_999), (1_000, 3_000, 400), (3_520, 4_000)]):
        set_seed(seed)
        logits = output(model, batch_of(lengths, width=SHORTEST_BATCH))
        assert torch.isfinite(logits).all()
        logits.sum().backward()
    assert largest_difference(model.eval(), batch_of((500, 1_234), width=SHORTEST_BATCH)) < 1e-5


# Freezing, learning rates


@pytest.mark.parametrize(
    "settings", [{}, {"use_weighted_layer_sum": True}, {"mask_time_prob": 0.0, "mask_feature_prob": 0.1}]
)
@pytest.mark.parametrize("name", ["hubert", "hubert-large"])
def test_every_trained_parameter_has_a_gradient(name, settings):
    for what in ("none", "convolution", "encoder"):
        model = make(name, "classes", layerdrop=0.9, **settings)
        prepare_encoder(model)
        freeze(model, what)
        model.train()
        found = {name: True for name, p in model.named_parameters() if p.requires_grad}
        for step in range(2):
            set_seed(step)
            model.zero_grad()
            output(model, batch_of()).pow(2).sum().backward()
            for parameter, tensor in model.named_parameters():
                if tensor.requires_grad:
                    found[parameter] &= tensor.grad is not None
        assert found and all(found.values()), [parameter for parameter, got in found.items() if not got]
        base = [parameter for parameter in found if parameter.startswith(model.base_model_prefix)]
        convolutions = [parameter for parameter in base if ".feature_extractor." in parameter]
        assert bool(base) == (what != "encoder") and bool(convolutions) == (what == "none")
        assert {"projector.weight", "classifier.bias"} < found.keys()
        assert (f"{model.base_model_prefix}.masked_spec_embed" in base) == (
            what != "encoder" and not settings.get("mask_feature_prob")
        )


def test_frozen_convolutions_are_those_of_transformers():
    model, stock = make("hubert", "ctc"), make("hubert", "ctc")
    freeze(model, "convolution")
    stock.freeze_feature_encoder()
    expected = [p.requires_grad for p in stock.parameters()]
    assert [p.requires_grad for p in model.parameters()] == expected and not all(expected)
    assert message(freeze, make("ast"), "convolution") == (
        "--freeze convolution: a audio-spectrogram-transformer model has none; give none or encoder"
    )


def test_the_encoder_has_a_learning_rate_of_its_own():
    model = make("hubert", "classes")
    freeze(model, "convolution")
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    trainer = SimpleNamespace(model=model, args=SimpleNamespace(learning_rate=0.5, weight_decay=0.1))
    trainer.run = SimpleNamespace(args=SimpleNamespace(encoder_learning_rate=0.25))
    trainer.get_decay_parameter_names = lambda model: [name for name in named if "bias" not in name]
    optimizer = torch.optim.AdamW(SpeechTrainer.parameter_groups(trainer))
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(named)
    for name, parameter in named.items():
        rate = 0.25 if name.startswith("hubert.") else 0.5
        assert rates[id(parameter)] == (rate, 0 if "bias" in name else 0.1)
    trainer.run.args.encoder_learning_rate = None
    assert SpeechTrainer.parameter_groups(trainer) is None
