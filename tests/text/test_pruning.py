"""common/text/pruning.py: against the whole model with the same heads silenced by a hook."""

import copy
import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from common.text.layers import Encoder, Strategy, apply_strategy
from common.text.pruning import load_pruned, measure, prune, pruned_heads, random_heads
from tests.helpers import message
from tests.text.tiny import FAMILIES, logits_of, tiny_batch, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")
HEADS = {0: [1], 1: [0, 3], 3: [0, 1, 2]}  # of 4 layers of 4 heads of size 8
LABELS = torch.tensor([0, 1, 2, 0, 1])
AUTO = AutoModelForSequenceClassification


def projection(model, layer: int) -> torch.nn.Linear:
    """What takes the heads of a layer together."""
    attention = Encoder(model).layers[layer].attention
    return attention.out_lin if model.config.model_type == "distilbert" else attention.output.dense


def silence(model, heads: dict[int, list[int]]) -> None:
    """Heads that say nothing, by a hook: no weight is touched."""
    for layer, lost in heads.items():
        gate = torch.ones(4)
        gate[lost] = 0
        gate = gate.repeat_interleave(projection(model, layer).in_features // 4)
        projection(model, layer).register_forward_pre_hook(lambda _, inputs, gate=gate: (inputs[0] * gate,))


def parameters(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_model_is_the_whole_one_without_these_heads(family, attention):
    whole = tiny_model(family, attn_implementation=attention)
    pruned, batch, unchanged = copy.deepcopy(whole), tiny_batch(whole), logits_of(whole)
    silence(whole, HEADS)
    expected = logits_of(whole)
    assert (unchanged - expected).abs().max() > 0.05
    prune(pruned, HEADS)
    torch.testing.assert_close(logits_of(pruned), expected, rtol=0, atol=1e-5)
    assert parameters(whole) - parameters(pruned) == 6 * (4 * 32 * 8 + 3 * 8)
    for layer, left in enumerate([3, 2, 4, 1]):
        assert projection(pruned, layer).in_features == projection(pruned, layer).weight.shape[1] == 8 * left

    # In eval mode: dropout would draw other numbers for other shapes.
    for model in (whole, pruned):
        model(**batch, labels=LABELS).loss.backward()
    by_name = dict(whole.named_parameters())
    for name, parameter in pruned.named_parameters():
        expected = by_name[name].grad
        if parameter.shape != expected.shape:
            layer = next(n for n in HEADS if f".layer.{n}." in name)
            rows = [8 * head + row for head in range(4) if head not in HEADS[layer] for row in range(8)]
            expected = expected[:, rows] if expected.shape[0] == parameter.shape[0] else expected[rows]
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-5, msg=name)


def test_what_cannot_be_pruned_is_refused():
    model = tiny_model("bert")
    prune(model, HEADS)
    assert "has lost attention heads already" in message(prune, model, {2: [0]})
    assert "deberta-v2" in message(prune, tiny_model("deberta-v2"), {0: [1]})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_model_is_saved_and_loaded(family, tmp_path):
    model = tiny_model(family)
    prune(model, HEADS)
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    stored = json.loads((tmp_path / "one" / "config.json").read_text())["pruned_heads"]
    assert stored == model.config.pruned_heads == {"0": [1], "1": [0, 3], "3": [0, 1, 2]}
    for folder in ("one", "many"):
        loaded = load_pruned(AUTO, tmp_path / folder)
        assert isinstance(loaded, type(model)) and not loaded.training
        torch.testing.assert_close(logits_of(loaded), logits_of(model), rtol=0, atol=0)
        assert pruned_heads(loaded.config) == pruned_heads(model.config)
    loaded.save_pretrained(tmp_path / "again")  # as good as the one that was trained
    config = AutoConfig.from_pretrained(tmp_path / "again")
    again, report = load_pruned(AUTO, tmp_path / "again", config=config, output_loading_info=True)
    assert not any(report.values()) and again.new_weights == []
    assert config.architectures == [type(model).__name__] == [type(again).__name__]
    torch.testing.assert_close(logits_of(again), logits_of(model), rtol=0, atol=0)


def test_a_pruned_model_can_be_truncated(tmp_path):
    model = tiny_model("bert")
    prune(model, HEADS)
    apply_strategy(model, Strategy.parse("first_2"))
    model.save_pretrained(tmp_path)
    loaded = load_pruned(AUTO, tmp_path)
    assert pruned_heads(loaded.config) == {0: [1], 1: [0, 3]}
    torch.testing.assert_close(logits_of(loaded), logits_of(model), rtol=0, atol=0)


def test_what_the_checkpoint_lacks_is_told(tmp_path):
    model = tiny_model("bert")
    for heads in ({}, HEADS):
        prune(model, heads)
        model.bert.save_pretrained(tmp_path)  # without the classifier
        loaded = load_pruned(AUTO, tmp_path, config=AutoConfig.from_pretrained(tmp_path, num_labels=3))
        assert loaded.new_weights == ["classifier.bias", "classifier.weight"]
        loaded.classifier.load_state_dict(model.classifier.state_dict())
        torch.testing.assert_close(logits_of(loaded), logits_of(model), rtol=0, atol=0)


def test_real_weights(minilm, tmp_path):
    whole = AUTO.from_pretrained(minilm, num_labels=3).eval()
    pruned, batch = copy.deepcopy(whole), tiny_batch(whole)
    heads = random_heads(whole.config, 0.5, 42)
    assert {layer: len(lost) for layer, lost in heads.items()} == dict.fromkeys(range(6), 6)
    prune(pruned, heads)
    assert parameters(whole) - parameters(pruned) == 36 * (4 * 384 * 32 + 3 * 32)
    with torch.no_grad():
        for layer, lost in heads.items():
            for head in lost:
                projection(whole, layer).weight[:, 32 * head : 32 * (head + 1)] = 0
    torch.testing.assert_close(logits_of(pruned, batch), logits_of(whole, batch), rtol=0, atol=1e-5)
    pruned.save_pretrained(tmp_path)
    loaded = load_pruned(AUTO, tmp_path)
    torch.testing.assert_close(logits_of(loaded, batch), logits_of(whole, batch), rtol=0, atol=1e-5)


# Choosing


def test_random_choice_is_seeded():
    config = tiny_model("bert").config
    assert random_heads(config, 0.5, 7) == random_heads(config, 0.5, 7)
    assert len({str(random_heads(config, 0.5, seed)) for seed in range(20)}) == 20
    often = np.zeros((4, 4))
    for seed in range(400):
        for layer, lost in random_heads(config, 0.5, seed).items():
            often[layer, lost] += 1
    assert ((often > 150) & (often < 250)).all()  # each head half of the time; 5 standard deviations


def test_the_same_seed_gives_the_heads_that_it_always_gave():
    scores = np.random.default_rng(3).random((4, 4))
    lowest = {layer: sorted(np.argsort(row)[:2].tolist()) for layer, row in enumerate(scores)}
    config = tiny_model("bert").config
    assert random_heads(config, 0.5, 3) == lowest
    assert random_heads(config, 0.5, 3, [2, 0, 2]) == {0: lowest[0], 2: lowest[2]}
    assert {len(lost) for lost in random_heads(config, 0.6, 3).values()} == {2}  # 2.4
    assert {len(lost) for lost in random_heads(config, 0.625, 3).values()} == {3}  # 2.5


@pytest.mark.parametrize("share", [0.9, 0.1])
def test_shares_that_leave_nothing_or_everything(share):
    config = tiny_model("bert").config
    sentence = message(random_heads, config, share, 0)
    assert f"--pruned_share {share}" in sentence and "1 to 3 can go" in sentence
    assert "the layers are 0 to 3" in message(random_heads, config, 0.5, 0, [1, 4])


def test_measure_counts():
    model = tiny_model("distilbert").train()
    batch = {**tiny_batch(model), "labels": LABELS, "length": LABELS}
    measured = measure(model, batch)
    assert measured["parameters"] == parameters(model) and measured["bytes"] == 4 * parameters(model)
    assert measured["milliseconds"] > 0 and all(module.training for module in model.modules())
    assert measure(model.to(torch.bfloat16), batch)["bytes"] == 2 * parameters(model)
