"""common/adapting.py and common/encoders.py: against parameters counted and named by hand, and against Trainer."""

import copy
import io
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, Trainer, set_seed

from common.legacy.adapting import STRATEGIES, Strategy, apply, learning_rates, parameter_groups, trainable_formula
from common.legacy.encoders import Encoder
from tests.legacy.helpers import message

FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert", "electra")


def tiny_config(family: str, layers: int = 4, **settings):
    """Of odd sizes, so that no two of them can be taken for each other; 4 heads of size 8."""
    if family == "distilbert":
        sizes = {"dim": 32, "hidden_dim": 52, "n_layers": layers, "n_heads": 4}
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 52, "num_hidden_layers": layers, "num_attention_heads": 4}
        sizes |= {"type_vocab_size": 3} | ({"embedding_size": 20} if family == "electra" else {})
    common = {"vocab_size": 71, "max_position_embeddings": 43, "num_labels": 3, "pad_token_id": 1}
    return AutoConfig.for_model(family, **common, **sizes, **settings)


def tiny_model(family: str, layers: int = 4, seed: int = 0, **settings):
    """A random model whose every weight matters: biases and norms are random too."""
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_config(tiny_config(family, layers, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def tiny_batch(model, seed: int = 0) -> dict[str, torch.Tensor]:
    """Five sentences of 3 to 11 tokens, padded, with token types where the model takes them."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([11, 7, 3, 9, 4])
    mask = (torch.arange(11) < lengths[:, None]).long()
    ids = torch.where(mask == 1, torch.randint(5, model.config.vocab_size, (5, 11), generator=random), 1)
    batch = {"input_ids": ids, "attention_mask": mask}
    if model.config.model_type != "distilbert":
        types = min(model.config.type_vocab_size, 2)
        batch["token_type_ids"] = torch.randint(0, types, (5, 11), generator=random) * mask
    return batch


def logits_of(model, batch=None) -> torch.Tensor:
    with torch.no_grad():
        return model(**(batch or tiny_batch(model))).logits


def trained_names(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


# Encoders


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_of_an_encoder_are_all_of_it(family):
    model = tiny_model(family)
    encoder = Encoder.of(model)
    assert len(encoder.layers) == 4
    parts = [*encoder.front, encoder.layers, *encoder.head.values()] + [encoder.pooler] * (encoder.pooler is not None)
    counted = [parameter for part in parts for parameter in part.parameters()]
    assert len(counted) == len(set(counted))
    assert set(counted) == set(model.parameters())
    assert encoder.embeddings is encoder.front[0]
    assert (encoder.pooler is not None) == (family == "bert")


def test_what_all_layers_share_belongs_to_the_front():
    settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 52}
    config = AutoConfig.for_model("deberta-v2", vocab_size=71, relative_attention=True, **settings)
    model = AutoModelForSequenceClassification.from_config(config)
    apply(model, Strategy.parse("freeze_1"))
    trained = trained_names(model)
    assert "deberta.encoder.rel_embeddings.weight" in dict(model.named_parameters()).keys() - trained
    assert any(name.startswith("deberta.encoder.layer.1.") for name in trained)


def test_an_encoder_with_shared_layers_is_refused():
    settings = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 52, "embedding_size": 20}
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("albert", vocab_size=71, **settings))
    assert "albert" in message(apply, model, Strategy("head_only"))


# Strategies as written


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
    assert Strategy.parse(text) == expected
    assert str(expected) == text
    assert expected.kind in STRATEGIES


@pytest.mark.parametrize(
    "text, words",
    [
        ("half", "choose full, freeze_N, last_layer, head_only, first_N, prune_heads"),
        ("", "choose full"),
        ("Full", "choose full"),
        ("freezer", "choose full"),
        ("head_only_3", "choose full"),
        ("freeze", "give a number of layers, as in freeze_9"),
        ("freeze_", "give a number of layers, as in freeze_9"),
        ("freeze_N", "give a number of layers, as in freeze_9"),
        ("freeze_-1", "give a number of layers, as in freeze_9"),
        ("first_1.5", "give a number of layers, as in first_9"),
        ("first_0", "must be 1 or more"),
        ("freeze_00", "must be 1 or more"),
    ],
)
def test_a_strategy_that_is_none_is_refused(text, words):
    sentence = message(Strategy.parse, text)
    assert words in sentence
    assert sentence.startswith(f"--strategy {text}:")


def test_embeddings_are_trained_with_the_last_layer_only():
    assert Strategy.parse("last_layer", train_embeddings=True).train_embeddings
    for text in ("full", "freeze_2", "head_only", "first_2", "prune_heads"):
        assert "last_layer" in message(Strategy.parse, text, train_embeddings=True)


@pytest.mark.parametrize("text", ["freeze_5", "first_5"])
def test_more_layers_than_there_are_are_refused(text):
    assert message(apply, tiny_model("bert"), Strategy.parse(text)) == (
        f"--strategy {text}: the model has only 4 layers"
    )


# What is trained

EMBEDDINGS, LAST, POOLER = "bert.embeddings.", "bert.encoder.layer.3.", "bert.pooler."
CASES = [  # strategy, embeddings trained, prefixes of what is trained, frozen layers, pooler frozen
    ("full", False, ("bert.", "classifier."), None, False),
    ("prune_heads", False, ("bert.", "classifier."), None, False),
    ("first_2", False, ("bert.", "classifier."), None, False),
    ("first_4", False, ("bert.", "classifier."), None, False),
    ("freeze_1", False, (*(f"bert.encoder.layer.{n}." for n in (1, 2, 3)), POOLER, "classifier."), 1, False),
    ("freeze_3", False, (LAST, POOLER, "classifier."), 3, False),
    ("freeze_4", False, (POOLER, "classifier."), 4, False),
    ("last_layer", False, (LAST, POOLER, "classifier."), 3, False),
    ("last_layer", True, (EMBEDDINGS, LAST, POOLER, "classifier."), None, False),
    ("head_only", False, ("classifier.",), 4, True),
]


@pytest.mark.parametrize("text, embeddings, prefixes, frozen_layers, pooler_frozen", CASES)
def test_what_is_trained(text, embeddings, prefixes, frozen_layers, pooler_frozen):
    model = tiny_model("bert")
    adaptation = apply(model, Strategy.parse(text, train_embeddings=embeddings))
    names = [name for name, _ in model.named_parameters()]
    assert trained_names(model) == {name for name in names if name.startswith(prefixes)}
    assert (adaptation.frozen_layers, adaptation.pooler_frozen) == (frozen_layers, pooler_frozen)
    assert ("embeddings" in adaptation.summary) == (embeddings or text.startswith("freeze"))


def test_summaries_name_the_layers():
    def summary(text, **settings):
        return apply(tiny_model("bert"), Strategy.parse(text, **settings)).summary

    assert summary("freeze_3") == "the embeddings and the first 3 of 4 layers are frozen"
    assert summary("first_3") == "only the first 3 of 4 layers are kept; everything is trained"
    assert summary("last_layer") == "only the last of 4 layers and what comes after it are trained"
    assert summary("last_layer", train_embeddings=True).startswith("only the embeddings, the last of 4 layers")
    assert summary("head_only") == "only the classifier is trained"


@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize("text, embeddings", [(case[0], case[1]) for case in CASES])
def test_frozen_parts_compute_the_same_in_training(family, text, embeddings):
    """Whatever calls train(), dropout works in what is trained and nowhere else; a deep copy keeps to itself."""
    model = tiny_model(family, hidden_dropout_prob=0.5) if family != "distilbert" else tiny_model(family, dropout=0.5)
    apply(model.train(), Strategy.parse(text, train_embeddings=embeddings))
    last = Encoder.of(model).layers[-1]
    assert all(module.training == (text not in ("head_only", "freeze_4")) for module in last.modules())
    twin = copy.deepcopy(model)
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    for each in (model, twin, torch.load(stored, weights_only=False)):
        for _ in range(2):
            assert each.eval() is each
            assert not any(module.training for module in each.modules())
            assert each.train() is each
            for module in each.modules():
                own = [parameter.requires_grad for parameter in module.parameters()]
                if own and (all(own) or not any(own)):
                    assert module.training == all(own), module
    if text == "head_only":
        assert model.classifier.training
        for each in (twin, model):
            frozen = Encoder.of(each).layers[0]
            assert frozen.train() is frozen
            hidden = torch.randn(2, 5, 32)
            torch.testing.assert_close(frozen(hidden), frozen(hidden), rtol=0, atol=0)


def test_a_trained_step_moves_what_is_trained_and_nothing_else():
    model = tiny_model("bert")
    apply(model, Strategy.parse("freeze_2"))
    before = copy.deepcopy(model.state_dict())
    groups = parameter_groups(model, learning_rates(model, 1e-2, None, 1.0), 0.1)
    optimizer = torch.optim.AdamW(groups)
    model.train()
    model(**tiny_batch(model), labels=torch.tensor([0, 1, 2, 0, 1])).loss.backward()
    optimizer.step()
    moved = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved == trained_names(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_truncated_model_is_an_ordinary_one(family, tmp_path):
    model = tiny_model(family)
    batch = tiny_batch(model)
    with torch.no_grad():
        expected = model(**batch, output_hidden_states=True).hidden_states[2]
    apply(model, Strategy.parse("first_2"))
    with torch.no_grad():
        found = model(**batch, output_hidden_states=True).hidden_states
    assert len(found) == 3
    torch.testing.assert_close(found[2], expected, rtol=0, atol=0)
    model.save_pretrained(tmp_path)
    assert (
        json.loads((tmp_path / "config.json").read_text())[
            "n_layers" if family == "distilbert" else "num_hidden_layers"
        ]
        == 2
    )
    assert not any(".layer.2." in name for name in load_file(tmp_path / "model.safetensors"))
    loaded, report = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    torch.testing.assert_close(logits_of(loaded, batch), logits_of(model, batch), rtol=0, atol=0)


def test_a_pipeline_loads_a_truncated_model(minilm, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    model = AutoModelForSequenceClassification.from_pretrained(minilm, num_labels=3).eval()
    apply(model, Strategy.parse("first_4"))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pipeline = transformers.pipeline("text-classification", model=str(tmp_path), top_k=None)
    assert len(pipeline.model.bert.encoder.layer) == 4
    pair = {"text": "A man sleeps.", "text_pair": "Nobody is awake."}
    scores = {one["label"]: one["score"] for one in pipeline([pair])[0]}
    expected = logits_of(model, tokenizer(pair["text"], pair["text_pair"], return_tensors="pt")).softmax(-1)[0]
    assert [scores[f"LABEL_{n}"] for n in range(3)] == pytest.approx(expected.tolist(), abs=1e-6)


# Parameter counts


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text, embeddings", [(case[0], case[1]) for case in CASES])
def test_the_formula_counts(family, text, embeddings):
    strategy = Strategy.parse(text, train_embeddings=embeddings)
    model = tiny_model(family)
    before = trainable_formula(copy.deepcopy(model.config), strategy)
    apply(model, strategy)
    counted = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert before == counted
    assert trainable_formula(model.config, strategy) == counted  # the truncated configuration says the same


REAL = {  # what the hub's models have
    "bert-base-uncased": ("bert", {}, 2, 109_483_778),
    "ParsBERT": ("bert", {"vocab_size": 100_000}, 3, 162_843_651),
    "roberta-base": (
        "roberta",
        {"vocab_size": 50_265, "max_position_embeddings": 514, "type_vocab_size": 1},
        3,
        124_647_939,
    ),
    "roberta-large": (
        "roberta",
        {
            "vocab_size": 50_265,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
        3,
        355_362_819,  # as published
    ),
    "distilbert-base-uncased": ("distilbert", {}, 2, 66_955_010),
}


@pytest.mark.parametrize("name", REAL)
def test_the_formula_counts_real_models(name):
    family, sizes, labels, total = REAL[name]
    config = AutoConfig.for_model(family, num_labels=labels, **sizes)
    assert trainable_formula(config, Strategy("full")) == total
    for text in ("full", "freeze_5", "last_layer", "head_only", "first_5"):
        strategy = Strategy.parse(text)
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(copy.deepcopy(config))
        apply(model, strategy)
        counted = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        assert trainable_formula(config, strategy) == counted, text


def test_other_families_have_no_formula():
    assert trainable_formula(AutoConfig.for_model("deberta-v2"), Strategy("full")) is None


# Learning rates


@pytest.mark.parametrize("family", FAMILIES)
def test_learning_rates_fall_towards_the_input(family):
    model = tiny_model(family)
    rates = learning_rates(model, 2e-5, 1e-4, 0.5)
    assert list(rates) == [name for name, _ in model.named_parameters()]
    for name, rate in rates.items():
        layer = next((n for n in range(4) if f".layer.{n}." in name), None)
        if layer is not None:
            expected = 2e-5 * 0.5 ** (3 - layer)
        elif ".embeddings" in name:  # embeddings_project too
            expected = 2e-5 * 0.5**4
        else:
            expected = 2e-5 if ".pooler." in name else 1e-4
            assert ".pooler." in name or name.startswith(("classifier.", "pre_classifier."))
        assert rate == pytest.approx(expected), name


def test_the_head_has_the_base_rate_unless_told_otherwise():
    rates = learning_rates(tiny_model("roberta"), 3e-5, None, 1.0)
    assert set(rates.values()) == {3e-5}
    model = tiny_model("bert")
    apply(model, Strategy.parse("first_2"))
    rates = learning_rates(model, 1.0, None, 0.5)
    assert rates["bert.encoder.layer.1.output.dense.weight"] == 1.0
    assert rates["bert.embeddings.word_embeddings.weight"] == 0.25


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", ["full", "freeze_2", "last_layer", "head_only"])
def test_groups_have_every_trained_parameter_once(family, text):
    model = tiny_model(family)
    apply(model, Strategy.parse(text))
    rates = learning_rates(model, 1e-3, 1e-2, 0.9)
    groups = parameter_groups(model, rates, 0.1)
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    grouped = [name_of[parameter] for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(trained_names(model))
    decaying = set(Trainer.get_decay_parameter_names(None, model))
    for group in groups:
        names = [name_of[parameter] for parameter in group["params"]]
        assert {rates[name] for name in names} == {group["lr"]}
        assert {0.1 if name in decaying else 0.0 for name in names} == {group["weight_decay"]}
        assert names == [name for name in name_of.values() if name in names]  # the model's order
    assert len({(group["lr"], group["weight_decay"]) for group in groups}) == len(groups)
    if text == "full":
        assert {name for name in name_of.values() if name not in decaying} == {
            name for name in name_of.values() if name.endswith("bias") or "norm" in name.lower()
        }


def test_an_optimizer_goes_on_where_it_stopped(tmp_path):
    """Its state finds its parameters again in a model made anew."""

    def start():
        model = tiny_model("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        apply(model, Strategy.parse("freeze_1"))
        return model, torch.optim.AdamW(parameter_groups(model, learning_rates(model, 1e-2, 3e-2, 0.7), 0.1))

    def step(model, optimizer):
        optimizer.zero_grad()
        model.train()(**tiny_batch(model), labels=torch.tensor([0, 1, 2, 0, 1])).loss.backward()
        optimizer.step()

    model, optimizer = start()
    for _ in range(2):
        step(model, optimizer)
    torch.save((model.state_dict(), optimizer.state_dict()), tmp_path / "state.pt")
    step(model, optimizer)
    resumed, another = start()
    weights, state = torch.load(tmp_path / "state.pt")
    resumed.load_state_dict(weights)
    another.load_state_dict(state)
    step(resumed, another)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weight, rtol=0, atol=0, msg=name)
