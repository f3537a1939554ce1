"""common/text/layers.py against parameters counted and named by hand."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, Trainer

from common.models import frozen_modules
from common.text.layers import STRATEGIES, Encoder, Strategy, apply_strategy, parameter_groups
from tests.helpers import message
from tests.text.tiny import FAMILIES, logits_of, tiny_batch, tiny_model, trained_names

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_of_an_encoder_are_all_of_it(family):
    model = tiny_model(family)
    encoder = Encoder(model)
    assert len(encoder.layers) == 4
    head = [module for module in model.children() if module is not encoder.base]
    parts = [encoder.base.embeddings, encoder.layers, *head] + [encoder.pooler] * (encoder.pooler is not None)
    parts += [encoder.base.embeddings_project] if family == "electra" else []
    counted = [parameter for part in parts for parameter in part.parameters()]
    assert len(counted) == len(set(counted))
    assert set(counted) == set(model.parameters())
    assert (encoder.pooler is not None) == (family == "bert")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("full", Strategy("full")),
        ("freeze_9", Strategy("freeze_N", 9)),
        ("first_12", Strategy("first_N", 12)),
        ("last_layer", Strategy("last_layer")),
        ("head_only", Strategy("head_only")),
        ("prune_heads", Strategy("prune_heads")),
    ],
)
def test_strategies_are_read(text, expected):
    assert Strategy.parse(text) == expected and expected.kind in STRATEGIES


@pytest.mark.parametrize("text", ["half", "", "freezer", "head_only_3", "freeze", "freeze_N", "freeze_-1", "first_0"])
def test_an_unknown_strategy_is_refused(text):
    sentence = message(Strategy.parse, text)
    assert "choose full, freeze_N" in sentence and "1 or more, as in freeze_9" in sentence


def test_what_does_not_go_together():
    assert "only 4 layers" in message(apply_strategy, tiny_model("bert"), Strategy.parse("freeze_5"))
    assert "this model (albert)" in message(apply_strategy, tiny_model("albert"), Strategy("head_only"))


EMBEDDINGS, LAST, POOLER = "bert.embeddings.", "bert.encoder.layer.3.", "bert.pooler."
CASES = [  # strategy, prefixes of what is trained, layers frozen with the embeddings
    ("full", ("bert.", "classifier."), None),
    ("prune_heads", ("bert.", "classifier."), None),
    ("first_2", ("bert.", "classifier."), None),
    ("freeze_1", (*(f"bert.encoder.layer.{n}." for n in (1, 2, 3)), POOLER, "classifier."), 1),
    ("freeze_4", (POOLER, "classifier."), 4),
    ("last_layer", (LAST, POOLER, "classifier."), 3),
    ("head_only", ("classifier.",), 4),
]


def test_the_embeddings_beside_the_last_layer():
    model = tiny_model("bert")
    assert apply_strategy(model, Strategy("last_layer"), train_embeddings=True) is None
    prefixes = (EMBEDDINGS, LAST, POOLER, "classifier.")
    assert trained_names(model) == {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


@pytest.mark.parametrize("text, prefixes, layers", CASES)
def test_what_is_trained(text, prefixes, layers):
    model = tiny_model("bert")
    assert apply_strategy(model, Strategy.parse(text)) == layers
    assert trained_names(model) == {name for name, _ in model.named_parameters() if name.startswith(prefixes)}
    if layers:
        assert Encoder(model).layers[0] in [m for part in frozen_modules(model) for m in part.modules()]


def test_a_pooler_that_the_checkpoint_lacks_is_trained_with_the_head():
    model = tiny_model("bert")
    apply_strategy(model, Strategy("head_only"), new_pooler=True)
    assert {name.split(".")[0] + "." + name.split(".")[1] for name in trained_names(model)} == {
        "bert.pooler",
        "classifier.weight",
        "classifier.bias",
    }


@pytest.mark.parametrize(
    "family, norm",
    [
        ("megatron-bert", "bert.encoder.ln."),
        ("xlm-roberta-xl", "roberta.encoder.LayerNorm."),
        ("roberta-prelayernorm", "roberta_prelayernorm.LayerNorm."),
        ("modernbert", "model.final_norm."),
        ("gpt2", "transformer.ln_f."),
    ],
)
def test_norms_behind_the_last_layer_are_trained_with_it(family, norm):
    sizes = {"n_embd": 32, "n_layer": 4, "n_head": 4} if family == "gpt2" else {}
    model = tiny_model(family, **sizes)
    apply_strategy(model, Strategy("last_layer"))
    trained = trained_names(model)
    assert any(name.startswith(norm) for name in trained)
    assert not any("embedding" in name or "wte" in name for name in trained)
    model = tiny_model(family, **sizes)
    apply_strategy(model, Strategy("head_only"))
    assert not any(name.startswith(norm) for name in trained_names(model))


def test_what_all_layers_share_is_frozen_with_the_embeddings():
    model = tiny_model("deberta-v2", relative_attention=True)
    apply_strategy(model, Strategy.parse("freeze_1"))
    assert "deberta.encoder.rel_embeddings.weight" in dict(model.named_parameters()).keys() - trained_names(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_truncated_model_is_an_ordinary_one(family, tmp_path):
    model = tiny_model(family)
    batch, layers = tiny_batch(model), Encoder(model).layers
    whole = {name: weight.clone() for name, weight in model.state_dict().items()}
    apply_strategy(model, Strategy.parse("first_2"))
    assert len(layers) == 2
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert again.config.num_hidden_layers == 2
    torch.testing.assert_close(logits_of(again, batch), logits_of(model, batch), rtol=0, atol=0)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() < whole.keys() and all(torch.equal(saved[name], whole[name]) for name in saved)


# Counts, by a formula of the configuration: H hidden, I feed-forward, V vocabulary, P positions, T token types.


def trainable(config, strategy: str) -> int:
    """Of a BERT or RoBERTa; a linear layer from a to b has ab + b."""
    hidden, layers = config.hidden_size, config.num_hidden_layers
    width, square = hidden * config.intermediate_size, hidden * hidden + hidden
    layer = 4 * square + width + config.intermediate_size + width + hidden + 4 * hidden
    embeddings = (config.vocab_size + config.max_position_embeddings + config.type_vocab_size + 2) * hidden
    head = square + config.num_labels * (hidden + 1)  # RoBERTa: dense and out_proj; BERT: the pooler and classifier
    kind = Strategy.parse(strategy)
    if kind.kind == "head_only":
        return head - (square if config.model_type == "bert" else 0)
    trained = {"full": layers, "freeze_N": layers - (kind.count or 0), "last_layer": 1, "first_N": kind.count}
    return trained[kind.kind] * layer + head + (embeddings if kind.kind in ("full", "first_N") else 0)


LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
ROBERTA = {"vocab_size": 50_265, "max_position_embeddings": 514, "type_vocab_size": 1}
REAL = {  # what the hub's models have
    "ParsBERT": ("bert", {"vocab_size": 100_000}, 162_843_651),
    "roberta-base": ("roberta", ROBERTA, 124_647_939),
    "roberta-large": ("roberta", ROBERTA | LARGE, 355_362_819),  # as published
}


@pytest.mark.parametrize("name", REAL)
def test_parameters_of_real_models(name):
    family, sizes, total = REAL[name]
    for strategy in ("full", "freeze_5", "last_layer", "head_only", "first_5"):
        config = AutoConfig.for_model(family, num_labels=3, **sizes)
        expected = trainable(config, strategy)
        assert strategy != "full" or expected == total
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
        apply_strategy(model, Strategy.parse(strategy))
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected, strategy


# Learning rates


def groups_of(model, *rates) -> dict[str, tuple[float, float]]:
    """Name -> (rate, weight decay); every trained parameter once, in the model's order within a group."""
    decaying = Trainer.get_decay_parameter_names(None, model)
    groups = parameter_groups(model, *rates, 0.1, decaying)
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    found = {}
    for group in groups:
        names = [name_of[parameter] for parameter in group["params"]]
        assert names == [name for name in name_of.values() if name in names]
        found |= dict.fromkeys(names, (group["lr"], group["weight_decay"]))
    assert sum(len(group["params"]) for group in groups) == len(found) == len(trained_names(model))
    assert found.keys() == trained_names(model)
    assert all((decay == 0.1) == (name in decaying) for name, (_, decay) in found.items())
    assert {name for name, (_, decay) in found.items() if decay == 0} == {
        name for name in found if name.endswith("bias") or "norm" in name.lower()
    }
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_has_its_own_learning_rate(family):
    model = tiny_model(family)
    encoder = f"{model.base_model_prefix}."
    for name, (rate, _) in groups_of(model, 2e-5, 1e-4).items():
        assert rate == (2e-5 if name.startswith(encoder) else 1e-4), name


def test_rates_of_what_is_trained_alone():
    assert {rate for rate, _ in groups_of(tiny_model("roberta"), 3e-5, 3e-5).values()} == {3e-5}
    model = tiny_model("bert")
    apply_strategy(model, Strategy.parse("freeze_2"))
    rates = groups_of(model, 1.0, 3.0)
    assert rates["bert.encoder.layer.2.output.dense.weight"][0] == 1.0 and rates["classifier.weight"][0] == 3.0
