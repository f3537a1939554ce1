"""common/text/pruning.py: against the whole model with the same heads silenced by a hook, and gates put in by hand."""

import copy
import json

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForSequenceClassification

from common.text.layers import Encoder, Strategy, apply_strategy
from common.text.pruning import choose_heads, importance, load_pruned, measure, prune, pruned_heads, random_scores
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


def losses(output, batch) -> torch.Tensor:
    return cross_entropy(output.logits, batch["labels"], reduction="none")


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
    for action, *given in ((prune, {0: [1]}), (importance, [], losses)):
        assert "deberta-v2" in message(action, tiny_model("deberta-v2"), *given)


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
    heads = choose_heads(random_scores(whole, 42), 0.5, per_layer=True)
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
    model = tiny_model("bert")
    scores = random_scores(model, 7)
    assert scores.shape == (4, 4)
    np.testing.assert_array_equal(random_scores(model, 7), scores)
    chosen = [choose_heads(random_scores(model, seed), 0.5, per_layer=False) for seed in range(20)]
    assert len({str(one) for one in chosen}) == 20
    often = np.zeros((4, 4))
    for seed in range(400):
        for layer, lost in choose_heads(random_scores(model, seed), 0.5, per_layer=True).items():
            often[layer, lost] += 1
    assert ((often > 150) & (often < 250)).all()  # each head half of the time; 5 standard deviations


def test_the_lowest_scores_are_chosen():
    scores = np.array([[4.0, 1, 3, 2], [8, 7, 6, 5], [0.1, 0.2, 0.4, 0.3]])
    assert choose_heads(scores, 0.5, per_layer=True) == {0: [1, 3], 1: [2, 3], 2: [0, 1]}
    assert choose_heads(scores, 0.25, per_layer=False) == {2: [0, 1, 3]}
    assert choose_heads(scores, 0.5, per_layer=False) == {0: [1, 2, 3], 2: [0, 1, 3]}  # each layer keeps its best
    assert choose_heads(scores, 0.1, per_layer=False) == {2: [0]}  # 1.2 heads
    assert choose_heads(np.arange(12.0).reshape(4, 3), 0.5, per_layer=True) == {n: [0, 1] for n in range(4)}  # 1.5
    for per_layer in (True, False):
        assert choose_heads(scores, 0.5, per_layer=per_layer, layers=[0]) == {0: [1, 3]}


@pytest.mark.parametrize("share, per_layer", [(0.9, True), (0.8, False), (0.1, True), (0.04, False)])
def test_shares_that_leave_nothing_or_everything(share, per_layer):
    scores = np.random.default_rng(0).random((3, 4))
    sentence = message(choose_heads, scores, share, per_layer=per_layer)
    assert f"--pruned_share {share}" in sentence and f"at most {3 if per_layer else 9}" in sentence
    assert "the layers are 0 to 2" in message(choose_heads, scores, 0.5, per_layer=per_layer, layers=[1, 3])


# Importance


def gated(model, batch) -> np.ndarray:
    """The scores by their definition: a gate on every head at every token, all 1, and the loss derived by it."""
    gates, hooks = [], []
    for layer in range(4):
        gate = torch.ones(*batch["input_ids"].shape, 4, requires_grad=True)
        gates.append(gate)

        def hook(_, inputs, gate=gate):
            return (inputs[0] * gate.repeat_interleave(8, dim=-1),)

        hooks.append(projection(model, layer).register_forward_pre_hook(hook))
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    losses(model(**inputs), batch).sum().backward()
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    return torch.stack([gate.grad.abs().sum((0, 1)) for gate in gates]).numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_importance_is_the_slope_by_gates(family):
    model = tiny_model(family)
    batches = [{**tiny_batch(model, seed), "labels": LABELS} for seed in range(3)]
    expected = sum(gated(model, batch) for batch in batches)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(importance(model, batches, losses), expected, rtol=1e-3)
    cut = [{name: tensor[at : at + 1] for name, tensor in batch.items()} for batch in batches for at in range(5)]
    np.testing.assert_allclose(importance(model, cut, losses), expected, rtol=1e-3)  # however it is cut into batches


def test_importance_leaves_the_model_as_it_was():
    model = tiny_model("bert")
    apply_strategy(model, Strategy("head_only"))  # without a parameter to derive by, too
    model.train()
    batch, random_state = {**tiny_batch(model), "labels": LABELS}, torch.get_rng_state()
    first = importance(model, [batch], losses)
    np.testing.assert_array_equal(importance(model, iter([batch]), losses), first)  # without dropout
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(ZeroDivisionError):
        importance(model, [batch], lambda *_: 1 / 0)
    silence(model, {layer: [0, 1, 3] for layer in range(4)})  # hooks of ours only: the head that matters is found
    np.testing.assert_allclose(importance(model, [batch], losses).argmax(axis=1), [2] * 4)


def test_measure_counts():
    model = tiny_model("distilbert").train()
    batch = {**tiny_batch(model), "labels": LABELS, "length": LABELS}
    measured = measure(model, batch)
    assert measured["parameters"] == parameters(model) and measured["bytes"] == 4 * parameters(model)
    assert measured["milliseconds"] > 0 and all(module.training for module in model.modules())
    assert measure(model.to(torch.bfloat16), batch)["bytes"] == 2 * parameters(model)
