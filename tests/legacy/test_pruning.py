"""common/pruning.py: against the whole model with the same heads silenced by a hook, and gates put in by hand."""

import copy
import json
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForSequenceClassification

from common.legacy.adapting import Strategy, apply, trainable_formula
from common.legacy.encoders import Encoder
from common.legacy.pruning import (
    choose_heads,
    full_size,
    importance,
    load_pruned,
    measure,
    prune,
    pruned_heads,
    random_scores,
    zero_heads,
)
from tests.legacy.helpers import message
from tests.legacy.test_adapting import FAMILIES, logits_of, tiny_batch, tiny_model

HEADS = {0: [1], 1: [0, 3], 3: [2, 0, 1]}  # of 4 layers of 4 heads of size 8
LABELS = torch.tensor([0, 1, 2, 0, 1])


def projection(model, layer: int) -> torch.nn.Linear:
    """What takes the heads of a layer together."""
    attention = Encoder.of(model).layers[layer].attention
    return attention.out_lin if model.config.model_type == "distilbert" else attention.output.dense


def silence(model, heads: dict[int, list[int]]) -> None:
    """Heads that say nothing, by a hook: no weight is touched."""
    for layer, lost in heads.items():
        gate = torch.ones(4)
        gate[lost] = 0
        gate = gate.repeat_interleave(projection(model, layer).in_features // 4)
        projection(model, layer).register_forward_pre_hook(lambda _, inputs, gate=gate: (inputs[0] * gate,))


def losses(output, batch) -> torch.Tensor:
    return cross_entropy(output.logits, batch["target"], reduction="none")


def parameters(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# Cutting


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_model_is_the_whole_one_without_these_heads(family, attention):
    whole = tiny_model(family, attn_implementation=attention)
    assert whole.config._attn_implementation == attention
    pruned, zeroed, batch = copy.deepcopy(whole), copy.deepcopy(whole), tiny_batch(whole)
    unchanged = logits_of(whole)
    silence(whole, HEADS)
    expected = logits_of(whole)
    assert (unchanged - expected).abs().max() > 0.05
    prune(pruned, HEADS)
    zero_heads(zeroed, HEADS)
    for model in (pruned, zeroed, full_size(pruned)):
        torch.testing.assert_close(logits_of(model), expected, rtol=0, atol=1e-5)
    assert parameters(whole) - parameters(pruned) == 6 * (4 * 32 * 8 + 3 * 8)
    assert parameters(full_size(pruned)) == parameters(zeroed) == parameters(whole)

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


@pytest.mark.parametrize("family", FAMILIES)
def test_the_attention_knows_its_size(family):
    model = tiny_model(family)
    prune(model, HEADS)
    for layer, left in enumerate([3, 2, 4, 1]):
        output, attention = projection(model, layer), Encoder.of(model).layers[layer].attention
        if family == "distilbert":
            assert (attention.n_heads, attention.dim) == (left, 8 * left)
        else:
            assert (attention.self.num_attention_heads, attention.self.all_head_size) == (left, 8 * left)
        assert output.in_features == output.weight.shape[1] == 8 * left
        with torch.no_grad():
            settings = {"output_attentions": True}
            model.set_attn_implementation("eager")
            assert model(**tiny_batch(model), **settings).attentions[layer].shape[1] == left
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert all(linear.weight.shape == (linear.out_features, linear.in_features) for linear in linears)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_pruning_twice_prunes_the_union(family):
    once, twice = tiny_model(family), tiny_model(family)
    prune(once, HEADS)
    prune(twice, {1: [3], 3: [2]})
    prune(twice, {0: [1], 1: [0, 3], 3: [0, 1]})  # numbers of the whole model, one of them gone already
    prune(twice, {})
    assert pruned_heads(once.config) == pruned_heads(twice.config) == {0: [1], 1: [0, 3], 3: [0, 1, 2]}
    for name, weight in once.state_dict().items():
        torch.testing.assert_close(twice.state_dict()[name], weight, rtol=0, atol=0, msg=name)
    zero_heads(once, {3: [3], 2: [2]})
    whole = tiny_model(family)
    silence(whole, {**HEADS, 3: [0, 1, 2, 3], 2: [2]})
    torch.testing.assert_close(logits_of(once), logits_of(whole), rtol=0, atol=1e-5)


def test_what_is_frozen_or_of_another_type_stays_so():
    model = tiny_model("bert").to(torch.bfloat16)
    apply(model, Strategy.parse("freeze_2"))
    prune(model, HEADS)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    frozen = ("bert.embeddings.", "bert.encoder.layer.0.", "bert.encoder.layer.1.")
    for each in (model, full_size(model)):
        for name, parameter in each.named_parameters():
            assert parameter.requires_grad != name.startswith(frozen), name
    assert full_size(model).dtype == torch.bfloat16


def test_the_formula_knows_pruned_heads():
    model = tiny_model("roberta")
    prune(model, HEADS)
    assert trainable_formula(model.config, Strategy("prune_heads")) == parameters(model)
    apply(model, Strategy.parse("freeze_1"))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trainable_formula(model.config, Strategy.parse("freeze_1")) == trained


def test_a_pruned_model_can_be_truncated(tmp_path):
    model = tiny_model("bert")
    prune(model, HEADS)
    expected = trainable_formula(model.config, Strategy.parse("first_2"))
    apply(model, Strategy.parse("first_2"))
    assert parameters(model) == expected
    model.save_pretrained(tmp_path)
    loaded = load_pruned(AutoModelForSequenceClassification, tmp_path)
    torch.testing.assert_close(logits_of(loaded), logits_of(model), rtol=0, atol=0)


def test_what_cannot_be_pruned_is_refused():
    model = tiny_model("bert")
    assert "layer 2 would lose all of its 4 heads" in message(prune, model, {2: [0, 1, 2, 3]})
    assert "heads [4] of layer 0" in message(prune, model, {0: [4]})
    assert "heads [0] of layer 4" in message(prune, model, {4: [0]})
    prune(model, {2: [0, 1]})
    assert "layer 2 would lose all of its 4 heads" in message(prune, model, {1: [1], 2: [2, 3]})
    assert pruned_heads(model.config) == {2: [0, 1]}
    assert projection(model, 1).in_features == 32  # a refusal leaves the model alone
    settings = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 52}
    deberta = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model("deberta-v2", vocab_size=71, **settings)
    )
    assert "deberta-v2" in message(prune, deberta, {0: [1]})


# Saving and loading


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
        loaded = load_pruned(AutoModelForSequenceClassification, tmp_path / folder)
        assert type(loaded) is type(model)
        assert not loaded.training
        torch.testing.assert_close(logits_of(loaded), logits_of(model), rtol=0, atol=0)
        assert pruned_heads(loaded.config) == pruned_heads(model.config)
    loaded.save_pretrained(tmp_path / "again")  # as good as the one that was trained
    again, report = load_pruned(
        AutoModelForSequenceClassification,
        tmp_path / "again",
        config=AutoConfig.from_pretrained(tmp_path / "again"),
        output_loading_info=True,
    )
    assert not any(report.values())
    assert again.config.architectures == [type(model).__name__]
    torch.testing.assert_close(logits_of(again), logits_of(model), rtol=0, atol=0)


def test_plain_transformers_loads_it_in_full_size(tmp_path):
    model = tiny_model("bert")
    prune(model, HEADS)
    expected = logits_of(model)
    full_size(model).save_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained
    for load in (plain, partial(load_pruned, AutoModelForSequenceClassification)):
        torch.testing.assert_close(logits_of(load(tmp_path)), expected, rtol=0, atol=1e-5)
    assert pruned_heads(model.config)  # it was a copy
    torch.testing.assert_close(logits_of(model), expected, rtol=0, atol=0)


def test_a_whole_model_is_loaded_plainly(tmp_path):
    model = tiny_model("bert")
    model.config.pruned_heads = {}  # as transformers 4 wrote it
    model.save_pretrained(tmp_path)
    loaded = load_pruned(AutoModelForSequenceClassification, tmp_path, num_labels=3, dtype=torch.float64)
    assert loaded.dtype == torch.float64
    torch.testing.assert_close(logits_of(loaded).float(), logits_of(model), rtol=0, atol=1e-5)


def test_missing_weights_are_refused_or_reported(tmp_path):
    model = tiny_model("bert")
    prune(model, HEADS)
    model.bert.save_pretrained(tmp_path)  # without the classifier
    sentence = message(load_pruned, AutoModelForSequenceClassification, tmp_path, num_labels=3)
    assert "2 weights of a BertForSequenceClassification are missing, the first is classifier.bias" in sentence
    loaded, report = load_pruned(AutoModelForSequenceClassification, tmp_path, num_labels=3, output_loading_info=True)
    assert report["missing_keys"] == {"classifier.bias", "classifier.weight"}
    loaded.classifier.load_state_dict(model.classifier.state_dict())
    torch.testing.assert_close(logits_of(loaded), logits_of(model), rtol=0, atol=0)


def test_real_weights(minilm, tmp_path):
    whole = AutoModelForSequenceClassification.from_pretrained(minilm, num_labels=3).eval()
    pruned, zeroed, batch = copy.deepcopy(whole), copy.deepcopy(whole), tiny_batch(whole)
    heads = choose_heads(random_scores(whole, 42), 0.5, per_layer=True)
    assert {layer: len(lost) for layer, lost in heads.items()} == dict.fromkeys(range(6), 6)
    prune(pruned, heads)
    zero_heads(zeroed, heads)
    expected = logits_of(zeroed, batch)
    torch.testing.assert_close(logits_of(pruned, batch), expected, rtol=0, atol=1e-5)
    assert (logits_of(whole, batch) - expected).abs().max() > 1e-3
    assert parameters(whole) - parameters(pruned) == 36 * (4 * 384 * 32 + 3 * 32)
    pruned.save_pretrained(tmp_path)
    torch.testing.assert_close(
        logits_of(load_pruned(AutoModelForSequenceClassification, tmp_path), batch), expected, rtol=0, atol=1e-5
    )


# Choosing


def test_random_choice_is_seeded():
    model = tiny_model("bert")
    scores = random_scores(model, 7)
    assert scores.shape == (4, 4)
    np.testing.assert_array_equal(random_scores(model, 7), scores)
    chosen = [choose_heads(random_scores(model, seed), 0.5, per_layer=False) for seed in range(20)]
    assert len({str(one) for one in chosen}) == 20
    assert {sum(map(len, one.values())) for one in chosen} == {8}
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
    assert choose_heads(scores, 9 / 12, per_layer=False) == {0: [1, 2, 3], 1: [1, 2, 3], 2: [0, 1, 3]}
    assert choose_heads(scores, 0.1, per_layer=False) == {2: [0]}  # 1.2 heads
    assert choose_heads(np.arange(12.0).reshape(4, 3), 0.5, per_layer=True) == {n: [0, 1] for n in range(4)}  # 1.5


@pytest.mark.parametrize("share, per_layer", [(1.0, True), (0.9, True), (1.0, False), (0.8, False), (1.5, False)])
def test_no_layer_loses_all_heads(share, per_layer):
    sentence = message(choose_heads, np.random.default_rng(0).random((3, 4)), share, per_layer=per_layer)
    assert "without any" in sentence and f"{share:.0%}" in sentence


@pytest.mark.parametrize("share, per_layer", [(0.0, True), (0.1, True), (0.0, False), (0.04, False), (-0.5, True)])
def test_a_share_of_no_head_is_refused(share, per_layer):
    assert "less than one head" in message(choose_heads, np.zeros((3, 4)), share, per_layer=per_layer)


@pytest.mark.parametrize("per_layer", [True, False])
def test_a_pruned_model_is_pruned_further(per_layer):
    model = tiny_model("bert")
    prune(model, {0: [1, 2], 1: [0, 3], 2: [0, 1], 3: [2, 3]})
    scores = random_scores(model, 3)
    assert np.isnan(scores).sum() == 8
    batch = {**tiny_batch(model), "target": LABELS}
    assert (np.isnan(importance(model, [batch], losses)) == np.isnan(scores)).all()
    heads = choose_heads(scores, 0.5, per_layer=per_layer)
    assert sum(map(len, heads.values())) == 4
    prune(model, heads)
    assert sum(map(len, pruned_heads(model.config).values())) == 12


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
    inputs = {name: tensor for name, tensor in batch.items() if name != "target"}
    losses(model(**inputs), batch).sum().backward()
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    return torch.stack([gate.grad.abs().sum((0, 1)) for gate in gates]).numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_importance_is_the_slope_by_gates(family):
    model = tiny_model(family)
    batches = [{**tiny_batch(model, seed), "target": LABELS} for seed in range(3)]
    expected = sum(gated(model, batch) for batch in batches)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(importance(model, batches, losses), expected, rtol=1e-3)
    cut = [{name: tensor[at : at + 1] for name, tensor in batch.items()} for batch in batches for at in range(5)]
    np.testing.assert_allclose(importance(model, cut, losses), expected, rtol=1e-3)  # however it is cut into batches


def test_importance_finds_the_head_that_matters():
    for head in range(4):
        model = tiny_model("bert")
        zero_heads(model, {layer: [h for h in range(4) if h != head] for layer in range(4)})
        scores = importance(model, [{**tiny_batch(model), "target": LABELS}], losses)
        np.testing.assert_allclose(scores, np.eye(4)[[head] * 4], atol=1e-6)
        chosen = choose_heads(scores, 0.75, per_layer=True)
        assert all(head not in lost for lost in chosen.values())


def test_importance_leaves_the_model_as_it_was():
    model = tiny_model("bert")
    apply(model, Strategy.parse("head_only"))  # without a parameter to derive by, too
    model.train()
    modes = [module.training for module in model.modules()]
    batch = {**tiny_batch(model), "target": LABELS, "row": torch.arange(5)}
    random_state = torch.get_rng_state()
    first = importance(model, [batch], losses)
    np.testing.assert_array_equal(importance(model, iter([batch]), losses), first)  # without dropout
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in model.modules()] == modes
    assert any(modes) and not all(modes)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    whole = tiny_model("bert")
    np.testing.assert_allclose(importance(whole, [batch], losses), first, rtol=1e-4)
    assert all(parameter.grad is None for parameter in whole.parameters())
    with pytest.raises(ZeroDivisionError):
        importance(whole, [batch], lambda *_: 1 / 0)
    assert not any(module._forward_pre_hooks for module in whole.modules())


# Measuring


def test_measure_counts():
    model = tiny_model("distilbert").train()
    batch = {**tiny_batch(model), "target": LABELS}
    seen = []
    hook = model.register_forward_pre_hook(lambda _, inputs, named: seen.append(set(named)), with_kwargs=True)
    measured = measure(model, batch, repeats=3)
    hook.remove()
    assert {frozenset(names) for names in seen} == {frozenset(tiny_batch(model))}  # not the target
    assert measured["parameters"] == parameters(model)
    assert measured["bytes"] == 4 * parameters(model)
    assert measured["milliseconds"] > 0
    assert all(module.training for module in model.modules())
    prune(model, HEADS)
    assert measure(model.to(torch.bfloat16), batch, repeats=1)["bytes"] == 2 * parameters(model)
