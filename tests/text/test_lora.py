"""common/text/lora.py: exact counts, products of matrices computed by hand, stock peft and plain models."""

import copy
import json
from types import SimpleNamespace

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

from common.models import count_parameters
from common.text.arguments import LoraArguments
from common.text.layers import Encoder
from common.text.lora import (
    FACTS,
    SavedAdapter,
    add_lora,
    combine,
    fingerprint,
    is_adapter,
    trained_and_stored,
)
from tests.helpers import message
from tests.text.tiny import logits_of, tiny_batch, tiny_model, trained_names

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = ["neutral", "entailment", "contradiction"]
FAMILIES = ("bert", "roberta", "distilbert")
KINDS = [
    *((family, {}) for family in FAMILIES),
    ("bert", {"use_dora": True, "target_modules": ["all-linear"]}),
    ("roberta", {"use_rslora": True, "lora_alpha": 3, "lora_bias": "all"}),
    ("distilbert", {"target_modules": ["lin1"], "init_lora_weights": "gaussian"}),
    ("gpt2", {"target_modules": ["c_attn"]}),
    ("modernbert", {"target_modules": ["all-linear"]}),
]
ARGS = SimpleNamespace(token=None, cache_dir=None)


def fresh(family: str = "bert", seed: int = 1, **settings):
    """A plain classifier: always the same encoder, with a head (and a pooler) of its own by `seed`."""
    more = {"n_embd": 32, "n_layer": 4, "n_head": 4} if family == "gpt2" else {}
    model, encoder = (
        tiny_model(family, seed=seed, **{**more, **settings}),
        tiny_model(family, seed=0, **more).base_model,
    )
    if model.config.num_hidden_layers == 4:
        weights = {name: w for name, w in encoder.state_dict().items() if "pooler" not in name}
        model.base_model.load_state_dict(weights, strict=False)
    if model.config.num_labels == 3:
        model.config.id2label = dict(enumerate(CLASSES))
    return model


def trained(model, seed: int = 2, **flags):
    """`model` with a new adapter none of whose parts is at its start: B is not zero, the classifier is not a copy."""
    adapted = add_lora(model, LoraArguments(**{"lora_rank": 4, **flags}))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return adapted.eval()


def saved(model, folder) -> SavedAdapter:
    model.save_pretrained(str(folder))
    return SavedAdapter.read(str(folder), ARGS)


def updated(model) -> set[str]:
    """Full names in the plain model of the modules that have an update."""
    ends = ".lora_A.default.weight"
    names = (name for name, _ in model.named_parameters() if name.endswith(ends))
    return {name.removeprefix("base_model.model.").removesuffix(ends) for name in names}


# Flags


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"adapter": "a", "combine": ["b:1"]}, "give one of them"),
        ({"combine": ["a:1", "b:-1"]}, "must add up to more than 0"),
        ({"combine": ["a"]}, "is not a folder, a colon and a number"),
        ({"combine": ["a:x"]}, "is not a folder, a colon and a number"),
        ({"combine": ["a:nan"]}, "is not a folder, a colon and a number"),
    ],
)
def test_refused_flags(flags, words):
    assert words in message(LoraArguments, **flags)


def test_adapters_with_weights():
    assert LoraArguments(combine=["C:\\a:0.5", "b:-0.25"]).weighted_adapters() == [("C:\\a", 0.5), ("b", -0.25)]
    assert LoraArguments(adapter="a").weighted_adapters() == [("a", 1.0)]
    assert LoraArguments().weighted_adapters() == []
    for given in (["query,key", "value"], ["query, key,", "value"]):
        assert LoraArguments(target_modules=given).target_modules == ["query", "key", "value"]


# New adapters


def test_parameters_of_roberta_large():
    config = RobertaConfig(
        vocab_size=50_265,
        max_position_embeddings=514,
        type_vocab_size=1,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_labels=3,
    )
    with torch.device("meta"):
        model = RobertaForSequenceClassification(config)
        whole = count_parameters(model)
        assert whole == {"total": 355_362_819, "trainable": 355_362_819}
        model = add_lora(model, LoraArguments())
    assert count_parameters(model) == {"total": 359_561_222, "trainable": 4_198_403}
    facts = trained_and_stored(whole["total"], model)
    assert facts["trainable share"] == pytest.approx(0.011676, abs=1e-6)
    assert facts["bytes for 100 tasks"] == 4 * (355_362_819 + 100 * 4_198_403)
    assert facts["bytes for 100 tasks, all of it trained"] == 400 * 355_362_819


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_trained(family):
    model = fresh(family)
    heads = {"bert": ("classifier", "bert.pooler"), "roberta": ("classifier",)}
    heads["distilbert"] = ("pre_classifier", "classifier")
    adapted = trained(model)
    names = {name.removeprefix("base_model.model.") for name in trained_names(adapted)}
    whole = {name for name in names if "lora_" not in name}
    assert {name.partition(".modules_to_save.")[0] for name in whole} == set(heads[family])
    last = {name.rpartition(".")[2] for name in updated(adapted)}
    assert last == ({"q_lin", "v_lin"} if family == "distilbert" else {"query", "value"})
    assert len(updated(adapted)) == 2 * 4
    assert {name.rpartition(".")[2] for name in updated(trained(tiny_model("mpnet")))} == {"q", "v"}


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
def test_all_linear_is_all_of_the_layers_and_nothing_else(family):
    model = fresh(family)
    encoder = Encoder(model)
    base = next(name for name, module in model.named_modules() if module is encoder.layers)
    linear = {f"{base}.{n}" for n, m in encoder.layers.named_modules() if isinstance(m, torch.nn.Linear)}
    assert updated(trained(model, target_modules=["all-linear"])) == linear
    assert updated(trained(fresh(family), target_modules=["all-linear", linear.pop()])) >= linear


def test_dense_is_never_the_classifiers():
    assert all(".layer." in name for name in updated(trained(fresh("roberta"), target_modules=["dense"])))


def test_what_gets_no_adapter():
    for odd in ("q_lin", "word_embeddings", "classifier", "layer.9.attention.self.query"):
        sentence = message(add_lora, fresh("bert"), LoraArguments(target_modules=["query", odd]))
        assert f"--target_modules {odd}: there is no such module" in sentence and "key, query" in sentence
    assert "c_attn" in message(add_lora, fresh("gpt2"), LoraArguments(target_modules=["query"]))


@pytest.mark.parametrize(
    "flags, scaling",
    [({}, 1), ({"lora_alpha": 8}, 2), ({"use_rslora": True}, 4), ({"init_lora_weights": "orthogonal"}, 1)],
)
def test_scaling_and_a_new_adapter_changes_nothing_yet(flags, scaling):
    model = fresh("bert")
    expected = logits_of(model)
    adapted = add_lora(model, LoraArguments(lora_rank=4, **flags)).eval()
    module = adapted.get_submodule("base_model.model.bert.encoder.layer.0.attention.self.query")
    assert module.scaling["default"] == scaling
    torch.testing.assert_close(logits_of(adapted, tiny_batch(model)), expected, rtol=0, atol=1e-5)


# Saved adapters


@pytest.mark.parametrize("family, flags", KINDS)
def test_an_adapter_scores_the_same_on_a_fresh_base(tmp_path, family, flags):
    model = fresh(family)
    model.config.preparation = {"lower_case": True}
    adapted, batch = trained(model, **flags), tiny_batch(model)
    adapter = saved(adapted, tmp_path)
    assert list(adapter.id2label.values()) == CLASSES and adapter.facts["preparation"] == {"lower_case": True}
    assert is_adapter(str(tmp_path)) and not is_adapter("roberta-base") and not is_adapter(None)
    again = adapter.apply(fresh(family, seed=9), trainable=False)
    torch.testing.assert_close(logits_of(again, batch), logits_of(adapted, batch), rtol=0, atol=1e-5)
    assert not trained_names(again) and not again.training
    going_on = SavedAdapter.read(str(tmp_path), ARGS).apply(fresh(family, seed=9), trainable=True)
    assert trained_names(going_on) == trained_names(trained(fresh(family), **flags))
    merged = again.merge_and_unload(safe_merge=True)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(logits_of(merged, batch), logits_of(adapted, batch), rtol=0, atol=1e-4)


def test_adapters_of_stock_peft_have_no_names(tmp_path):
    model = fresh("bert")
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    adapted = peft.get_peft_model(model, config).eval()
    torch.nn.init.normal_(
        adapted.get_submodule("base_model.model.bert.encoder.layer.0.attention.self.query").lora_B.default.weight
    )
    adapted.save_pretrained(str(tmp_path))
    adapter = SavedAdapter.read(str(tmp_path), ARGS)
    assert adapter.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    batch, again = tiny_batch(model), adapter.apply(fresh("bert"), trainable=False)
    torch.testing.assert_close(logits_of(again, batch), logits_of(adapted, batch), rtol=0, atol=1e-5)


def test_an_adapter_whose_classifier_was_not_saved_is_refused(tmp_path):
    """As stock peft's of BART and T5, whose head has another name: a random one would take its place."""
    saved(trained(fresh("bert")), tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    save_file({name: w for name, w in weights.items() if ".lora_" in name}, tmp_path / "adapter_model.safetensors")
    (tmp_path / FACTS).unlink()
    assert "has no trained classifier" in message(lambda: SavedAdapter.read(str(tmp_path), ARGS).id2label)


def test_saving_asks_nobody(tmp_path, monkeypatch):
    import socket

    adapted = trained(fresh("bert"))
    adapted.get_base_model().name_or_path = adapted.peft_config["default"].base_model_name_or_path = "some/model"
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was used"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("the network was used"))
    adapted.save_pretrained(str(tmp_path))


def test_what_does_not_fit_is_refused(tmp_path):
    adapter = saved(trained(fresh("bert")), tmp_path / "a")
    sentence = message(adapter.apply, fresh("bert", num_labels=4), trainable=False)
    assert "a classifier for other classes" in sentence and "--merge" in sentence
    assert "another base model" in message(adapter.apply, fresh("roberta"), trainable=False)
    assert "another base model" in message(adapter.apply, fresh("bert", layers=3), trainable=False)
    assert "another base model" in message(adapter.apply, tiny_model("bert", seed=7), trainable=False)
    weights = load_file(tmp_path / "a" / "adapter_model.safetensors")
    without = {name: weight for name, weight in weights.items() if "classifier" not in name}
    save_file(without, tmp_path / "a" / "adapter_model.safetensors")
    adapter = SavedAdapter.read(str(tmp_path / "a"), ARGS)
    assert "no trained classifier" in message(adapter.apply, fresh("bert"), trainable=False)


def test_the_fingerprint_is_of_the_frozen_weights():
    model = fresh("bert")
    before = fingerprint(model)
    assert before == fingerprint(fresh("bert", seed=8)), "another head"
    assert fingerprint(trained(model, target_modules=["all-linear"]).get_base_model()) == before
    assert fingerprint(tiny_model("bert", seed=7)) != before
    assert fingerprint(trained(fresh("bert")).merge_and_unload()) != before


def test_folders_that_are_no_adapter(tmp_path):
    def read(folder):
        return message(SavedAdapter.read, str(folder), ARGS)

    assert "no such folder" in read(tmp_path / "none" / "of" / "these")
    (tmp_path / "empty").mkdir()
    assert "has no adapter_config.json" in read(tmp_path / "empty")
    fresh("bert").save_pretrained(tmp_path / "model")
    assert "a whole model is given as --model" in read(tmp_path / "model")
    saved(trained(fresh("bert")), tmp_path / "a")
    config = tmp_path / "a" / "adapter_config.json"
    good = config.read_text()
    for kind in ("IA3", "ADALORA"):
        config.write_text(json.dumps(json.loads(good) | {"peft_type": kind, "total_step": 9}))
        assert f"another kind ({kind})" in read(tmp_path / "a")
    config.write_text("{")
    assert "cannot be read" in read(tmp_path / "a")
    config.write_text(good)
    facts = tmp_path / "a" / FACTS
    for damaged in ("{", "[1]", '"classes"', '{"classes": 3}'):
        facts.write_text(damaged)
        assert "cannot be read" in read(tmp_path / "a"), damaged
    facts.unlink()
    (tmp_path / "a" / "adapter_model.safetensors").write_bytes(b"x" * 99)
    assert "cannot be read" in read(tmp_path / "a")
    (tmp_path / "a" / "adapter_model.safetensors").rename(tmp_path / "a" / "adapter_model.bin")
    assert "has no adapter_model.safetensors" in read(tmp_path / "a")


# Sums


@pytest.fixture
def three(tmp_path):
    """Adapters of different ranks and scalings."""
    flags = ({}, {"lora_rank": 2, "lora_alpha": 6}, {"lora_rank": 3, "use_rslora": True, "lora_alpha": 2})
    return [saved(trained(fresh("bert"), seed=i, **one), tmp_path / str(i)) for i, one in enumerate(flags)]


def test_the_sum_of_updates(three):
    weights = [0.5, 0.75, -0.25]
    merged = [copy.deepcopy(a).apply(fresh("bert"), trainable=False).merge_and_unload() for a in three]
    together = combine(fresh("bert"), three, weights, trainable=False)
    assert together.peft_config["default"].r == 9
    found, plain = dict(together.merge_and_unload().named_parameters()), dict(fresh("bert").named_parameters())
    each = [dict(model.named_parameters()) for model in merged]
    for name, base in plain.items():
        if name.startswith(("classifier.", "bert.pooler.")):
            expected = sum(w * one[name] for w, one in zip(weights, each)) / sum(weights)
        else:
            expected = base + sum(w * (one[name] - base) for w, one in zip(weights, each))
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-5, msg=name)


def test_a_sum_is_an_adapter_like_any_other(tmp_path, three):
    together, batch = combine(fresh("bert"), three, [1, 1, 1], trainable=True), tiny_batch(fresh("bert"))
    assert trained_names(together) == trained_names(trained(fresh("bert")))
    again = saved(together.eval(), tmp_path / "sum").apply(fresh("bert", seed=9), trainable=False)
    torch.testing.assert_close(logits_of(again, batch), logits_of(together, batch), rtol=0, atol=1e-5)


def test_a_sum_has_updates_where_its_adapters_have(tmp_path):
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], layers_to_transform=[0])
    adapter = saved(peft.get_peft_model(fresh("bert"), config), tmp_path)
    together = combine(fresh("bert"), [adapter, adapter], [0.5, 0.5], trainable=False)
    assert updated(together) == {"bert.encoder.layer.0.attention.self.query"}


def test_adapters_that_do_not_add_up(tmp_path, three):
    def refused(adapted) -> str:
        other = saved(adapted, tmp_path / "other")
        return message(combine, fresh("bert"), [three[0], other], [1.0, 1.0], trainable=False)

    model = fresh("bert")
    model.config.id2label = dict(enumerate(CLASSES[::-1]))
    assert "has other classes or modules" in refused(trained(model))
    assert "has other classes or modules" in refused(trained(fresh("bert"), target_modules=["key", "value"]))
    assert "no plain product of two matrices" in refused(trained(fresh("bert"), use_dora=True))
    changed = trained(fresh("bert"))
    changed.peft_config["default"].init_lora_weights = "pissa"  # the base lost what the update had at its start
    assert "no plain product of two matrices" in refused(changed)
    assert "another base model" in refused(trained(tiny_model("bert", seed=7, id2label=dict(enumerate(CLASSES)))))


def test_facts_stand_beside_the_adapter(tmp_path):
    saved(trained(fresh("bert")), tmp_path)
    facts = json.loads((tmp_path / FACTS).read_text())
    assert facts["classes"] == CLASSES and facts["base"] == fingerprint(fresh("bert"))
    assert not (tmp_path / "config.json").exists(), "transformers would take the folder for a whole model"
    assert AutoModelForSequenceClassification  # what loads the base
