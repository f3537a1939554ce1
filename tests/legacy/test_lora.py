"""common/lora.py: exact counts, products of matrices computed by hand, stock peft, and plain models as references."""

import copy
import importlib.util
import json
import math
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, RobertaConfig, RobertaForSequenceClassification
from transformers.quantizers.quantizers_utils import should_convert_module

from common.legacy.adapter_folder import SavedAdapter, fingerprint
from common.legacy.arguments import parse_arguments
from common.legacy.encoders import Encoder
from common.legacy.errors import UserError
from common.legacy.lora import (
    LoraArguments,
    add_lora,
    class_names,
    combine,
    load_adapter,
    merge,
    quantization,
    reloaded,
)
from common.legacy.modeling import count_parameters
from common.legacy.pruning import prune
from tests.legacy.distributed_worker import Stop, history_of, make_model, state_of, train_resumable
from tests.legacy.helpers import message

CLASSES = ["neutral", "entailment", "contradiction"]
FAMILIES = ("Bert", "Roberta", "XLMRoberta", "DistilBert")
SIZE = {"vocab_size": 60, "max_position_embeddings": 40, "pad_token_id": 0}
BERT_SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
DISTIL_SIZE = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}
KINDS = [
    *((family, {}) for family in FAMILIES),
    ("Bert", {"use_dora": True, "target_modules": "all-linear"}),
    ("Roberta", {"use_rslora": True, "lora_alpha": 3}),
    ("DistilBert", {"use_dora": True, "use_rslora": True, "lora_alpha": 3, "target_modules": "lin1"}),
]
BATCH = {
    "input_ids": torch.randint(3, 60, (4, 9), generator=torch.Generator().manual_seed(0)),
    "attention_mask": torch.ones(4, 9, dtype=torch.long),
}


@pytest.fixture(scope="module", autouse=True)
def quiet_and_one_thread():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pretrained(family: str, folder: Path, seed: int = 0, **size) -> Path:
    """A checkpoint of masked language modelling: without classifier, and for BERT without pooler."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(
        **{**SIZE, **(DISTIL_SIZE if family == "DistilBert" else BERT_SIZE), **size}
    )
    model = getattr(transformers, f"{family}ForMaskedLM")(config)
    with torch.no_grad():  # the usual 0.02 leaves all logits next to nothing
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    return {family: pretrained(family, root / family.lower()) for family in FAMILIES}


def fresh(base: Path, classes=CLASSES, seed: int = 1):
    """A plain classifier whose head (and pooler, if it has one) is random."""
    torch.manual_seed(seed)
    return AutoModelForSequenceClassification.from_pretrained(base, id2label=dict(enumerate(classes))).eval()


def trained(model, seed: int = 2, **flags):
    """`model` with a new adapter none of whose parts is at its start: B is not zero, the classifier is not a copy."""
    adapted = add_lora(model, LoraArguments(**{"lora_rank": 4, **flags}))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return adapted.eval()


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(**BATCH).logits


def saved(model, folder: Path) -> Path:
    model.save_pretrained(str(folder))
    return folder


def trainable(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def updated(model) -> set[str]:
    """Full names in the plain model of the modules that have an update."""
    ends = ".lora_A.default.weight"
    names = (name for name, _ in model.named_parameters() if name.endswith(ends))
    return {name.removeprefix("base_model.model.").removesuffix(ends) for name in names}


# Arguments


def test_flags():
    @dataclass
    class Training:
        seed: int = 0

    argv = ["--lora_r", "8", "--lora-target-modules", "query,key", "--combine", "a:1", "b:c:-0.5", "--use_dora"]
    arguments, _ = parse_arguments([LoraArguments], argv, recipe={}, description="", training=Training).groups
    assert (arguments.lora_rank, arguments.target_modules, arguments.use_dora) == (8, "query,key", True)
    assert arguments.weighted_adapters() == [("a", 1.0), ("b:c", -0.5)]
    arguments, _ = parse_arguments([LoraArguments], [], recipe={}, description="", training=Training).groups
    assert arguments.weighted_adapters() == [] and arguments.lora_alpha is None


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"lora_rank": 0}, "--lora_rank must be 1 or more"),
        ({"lora_alpha": 0}, "--lora_alpha must be 1 or more"),
        ({"lora_dropout": 1.0}, "--lora_dropout must be 0 or more, and less than 1"),
        ({"adapter": "a", "combine": ["b:1"]}, "give one of them"),
        ({"reset_classifier": True}, "--reset_classifier needs --adapter"),
        ({"merge": True, "load_in_4bit": True}, "without --load_in_4bit"),
        ({"combine": ["a:1", "b"]}, "--combine b: is not a folder, a colon and a number"),
        ({"combine": ["a:1", "b:much"]}, "--combine b:much: is not"),
        ({"combine": ["a:1", ":2"]}, "--combine :2: is not"),
        ({"combine": ["a:nan"]}, "--combine a:nan: is not"),
        ({"combine": ["a:1", "b:-1"]}, "must add up to more than 0"),
    ],
    ids=str,
)
def test_refused_flags(flags, sentence):
    assert sentence in message(LoraArguments, **flags)


def test_settings_of_a_new_adapter_beside_an_old_one():
    given = {"adapter", "lora_rank"}
    assert "leave out --lora_rank" in message(LoraArguments(adapter="a").check_given, given)
    assert message(LoraArguments(combine=["a:1"]).check_given, {"use_dora"}).startswith("--combine")
    LoraArguments(adapter="a").check_given({"adapter", "merge"})
    LoraArguments().check_given({"lora_rank"})


# New adapters


def test_parameters_of_roberta_large():
    config = RobertaConfig(
        vocab_size=50265,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=514,
        type_vocab_size=1,
        num_labels=3,
    )
    with torch.device("meta"):
        model = RobertaForSequenceClassification(config)
    assert count_parameters(model) == {"total": 355_362_819, "trainable": 355_362_819}
    adapted = add_lora(model, LoraArguments())
    assert adapted.get_nb_trainable_parameters() == (4_198_403, 359_561_222)
    assert count_parameters(adapted) == {"total": 359_561_222, "trainable": 4_198_403}
    update, classifier = 24 * 2 * 32 * (1024 + 1024), 1024 * 1024 + 1024 + 1024 * 3 + 3
    assert update + classifier == 4_198_403
    assert 355_362_819 + update + classifier == 359_561_222  # the classifier twice: frozen original, trained copy


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_trained(bases, family):
    model = fresh(bases[family])
    encoder = Encoder.of(model)
    adapted = add_lora(model, LoraArguments(lora_rank=4))
    whole = {"Bert": {"classifier", "bert.pooler"}, "DistilBert": {"classifier", "pre_classifier"}}
    whole = whole.get(family, {"classifier"})
    names = {name.removeprefix("base_model.model.") for name in trainable(adapted)}
    query_and_value = ("q_lin", "v_lin") if family == "DistilBert" else ("query", "value")
    assert all(".lora_" in n or any(n.startswith(f"{m}.modules_to_save.default.") for m in whole) for n in names)
    assert {n.split(".modules_to_save")[0] for n in names if ".lora_" not in n} == whole
    assert len(updated(adapted)) == 4 and all(name.endswith(query_and_value) for name in updated(adapted))
    outside = dict(encoder.head) | ({"pooler": encoder.pooler} if encoder.pooler is not None else {})
    copies = [m.modules_to_save["default"] for m in outside.values() if hasattr(m, "modules_to_save")]
    counted = [p.numel() for part in copies for p in part.parameters()]
    plain = {"Bert": 32 * 32 + 32 + 32 * 3 + 3}.get(family, 32 * 32 + 32 + 32 * 3 + 3)
    assert count_parameters(adapted)["trainable"] == 2 * 2 * 4 * (32 + 32) + plain
    assert sum(counted) in (plain, 0)  # the parts were taken before peft wrapped them


@pytest.mark.parametrize("family", FAMILIES)
def test_all_linear_is_all_of_the_layers_and_nothing_else(bases, family):
    model = fresh(bases[family])
    stack = {m for m in Encoder.of(model).stack.modules() if isinstance(m, torch.nn.Linear)}
    expected = {name for name, module in model.named_modules() if module in stack}
    adapted = add_lora(model, LoraArguments(target_modules="all-linear", lora_rank=2))
    assert len(expected) == 12 and updated(adapted) == expected


def test_dense_is_never_the_classifiers(bases):
    for family in ("Bert", "Roberta"):  # bert.pooler.dense, classifier.dense
        adapted = add_lora(fresh(bases[family]), LoraArguments(target_modules="dense, attention.self.key"))
        assert len(updated(adapted)) == 2 * 4
        assert all(".layer." in name for name in updated(adapted))


def test_unknown_target_modules(bases):
    model = fresh(bases["Roberta"])
    before = state_of(model)
    for name in ("q_proj", "classifier", "out_proj", "classifier.dense", "uery", "LayerNorm", ""):
        sentence = message(add_lora, model, LoraArguments(target_modules=f"query,{name}"))
        assert f"--target_modules {name}: the layers of roberta have no such module" in sentence
        assert "only dense, key, query, value" in sentence
    assert model.state_dict().keys() == before.keys()


def test_a_pruned_base_gets_no_adapter(bases):
    model = fresh(bases["Bert"])
    prune(model, {0: [0]})
    assert "has lost attention heads" in message(add_lora, model, LoraArguments())


def test_encoders_of_another_structure():
    model = transformers.AlbertForSequenceClassification(
        transformers.AlbertConfig(vocab_size=60, embedding_size=8, **BERT_SIZE)
    )
    assert "albert" in message(add_lora, model, LoraArguments())


def test_scaling(bases):
    def of(**flags):
        adapted = add_lora(fresh(bases["Roberta"]), LoraArguments(lora_rank=4, **flags))
        return adapted.get_base_model().roberta.encoder.layer[0].attention.self.query.scaling["default"]

    assert of() == 1.0
    assert of(lora_alpha=6) == 1.5
    assert of(use_rslora=True) == 8 / 2
    assert of(use_rslora=True, lora_alpha=6) == 6 / 2


def test_a_new_adapter_changes_nothing_yet(bases):
    for flags in ({}, {"use_dora": True}, {"use_rslora": True}):
        model = fresh(bases["Bert"])
        before = logits(model)
        adapted = add_lora(model, LoraArguments(**flags)).eval()
        torch.testing.assert_close(logits(adapted), before, rtol=0, atol=1e-5)


# Saved and loaded


@pytest.mark.parametrize(("family", "flags"), KINDS, ids=str)
def test_an_adapter_scores_the_same_on_a_fresh_base(tmp_path, bases, family, flags):
    """The fresh base has another random classifier, and BERT's another random pooler."""
    adapted = trained(fresh(bases[family]), **flags)
    expected, folder = logits(adapted), saved(adapted, tmp_path / "adapter")
    base = fresh(bases[family], seed=5)
    assert (logits(base) - expected).abs().max() > 0.1
    torch.testing.assert_close(logits(load_adapter(base, folder, trainable=False)), expected, rtol=0, atol=1e-6)
    again = reloaded(AutoModelForSequenceClassification, str(bases[family]), folder)
    torch.testing.assert_close(logits(again), expected, rtol=0, atol=1e-6)
    assert [again.config.id2label[index] for index in range(3)] == CLASSES and not again.training
    stock = peft.PeftModel.from_pretrained(fresh(bases[family], seed=6), str(folder)).eval()
    torch.testing.assert_close(logits(stock), expected, rtol=0, atol=1e-6)


def test_adapters_of_stock_peft(tmp_path, bases):
    """Without our facts; BERT's pooler is not in them, so the base must have one."""
    base = tmp_path / "base"
    fresh(bases["Bert"]).save_pretrained(base)
    torch.manual_seed(3)
    adapted = peft.get_peft_model(fresh(base), peft.LoraConfig(task_type="SEQ_CLS", r=3, init_lora_weights=False))
    folder = saved(adapted.eval(), tmp_path / "adapter")
    assert class_names(folder) is None
    loaded = load_adapter(fresh(base, seed=5), folder, trainable=False)
    torch.testing.assert_close(logits(loaded), logits(adapted), rtol=0, atol=1e-6)
    assert "does not say what its classes are" in message(
        reloaded, AutoModelForSequenceClassification, str(base), folder
    )


def test_going_on_trains_the_same_parts(tmp_path, bases):
    adapted = trained(fresh(bases["Bert"]))
    folder = saved(adapted, tmp_path / "adapter")
    further = load_adapter(fresh(bases["Bert"], seed=5), folder, trainable=True)
    assert trainable(further) == trainable(adapted) and further.training
    assert trainable(load_adapter(fresh(bases["Bert"]), folder, trainable=False)) == set()
    further.eval()
    torch.testing.assert_close(logits(further), logits(adapted), rtol=0, atol=1e-6)
    again = saved(further, tmp_path / "again")
    first, second = (json.loads((f / "adapter_config.json").read_text()) for f in (folder, again))
    assert first["modules_to_save"] == second["modules_to_save"] and len(set(first["modules_to_save"])) == 3
    assert (again / "adapter_facts.json").read_text() == (folder / "adapter_facts.json").read_text()


def test_saving_asks_nobody(tmp_path, bases, monkeypatch):
    model = fresh(bases["Bert"])
    model.name_or_path = "somebody/some-model"
    adapted = trained(model)
    monkeypatch.setattr(peft.utils.save_and_load, "check_file_exists_on_hf_hub", lambda *_: pytest.fail("asked"))
    saved(adapted, tmp_path / "adapter")


# Classes


def test_the_classes_keep_the_adapters_order(tmp_path, bases):
    adapted = trained(fresh(bases["Roberta"]))
    folder = saved(adapted, tmp_path / "adapter")
    assert class_names(folder) == CLASSES
    for here in (sorted(CLASSES), CLASSES, [f"LABEL_{index}" for index in range(3)]):
        model = fresh(bases["Roberta"], classes=here)
        loaded = load_adapter(model, folder, trainable=False)
        assert [loaded.config.id2label[index] for index in range(3)] == CLASSES
        assert loaded.config.label2id == {name: index for index, name in enumerate(CLASSES)}
        torch.testing.assert_close(logits(loaded), logits(adapted), rtol=0, atol=1e-6)


def test_generic_classes_of_an_adapter_say_nothing(tmp_path, bases):
    folder = saved(trained(fresh(bases["Roberta"], [f"LABEL_{index}" for index in range(3)])), tmp_path / "adapter")
    loaded = load_adapter(fresh(bases["Roberta"]), folder, trainable=False)
    assert [loaded.config.id2label[index] for index in range(3)] == CLASSES


def test_other_classes(tmp_path, bases):
    folder = saved(trained(fresh(bases["Roberta"])), tmp_path / "adapter")
    model = fresh(bases["Roberta"], classes=["a", "b", "neutral"])
    before = state_of(model)
    sentence = message(load_adapter, model, folder, trainable=True)
    assert f"its classes are {', '.join(CLASSES)}, not a, b, neutral" in sentence and "--reset_classifier" in sentence
    sentence = message(load_adapter, fresh(bases["Roberta"], ["a", "b"]), folder, trainable=True)
    assert f"is for 3 classes ({', '.join(CLASSES)}), not for 2 (a, b)" in sentence and "--reset_classifier" in sentence
    assert model.state_dict().keys() == before.keys() and model.config.id2label[0] == "a"  # as it was


@pytest.mark.parametrize("family", FAMILIES)
def test_a_second_task_with_other_classes(tmp_path, bases, family):
    first = trained(fresh(bases[family]))
    folder = saved(first, tmp_path / "adapter")
    model = fresh(bases[family], classes=["yes", "no"], seed=5)
    head = {name: state_of(module) for name, module in Encoder.of(model).head.items()}
    second = load_adapter(model, folder, trainable=True, reset_classifier=True)
    weights = [peft.get_peft_model_state_dict(each) for each in (first, second)]
    of_head = tuple(f"base_model.model.{name}." for name in head)
    assert weights[0].keys() == weights[1].keys() and any(name.startswith(of_head) for name in weights[0])
    for name, weight in weights[1].items():
        if name.startswith(of_head):
            module, _, rest = name.removeprefix("base_model.model.").partition(".")
            assert torch.equal(weight, head[module][rest])
        else:  # the update, and BERT's pooler
            assert torch.equal(weight, weights[0][name])
    assert logits(second).shape == (4, 2)
    assert class_names(saved(second, tmp_path / "second")) == ["yes", "no"]
    assert trainable(second) == trainable(first)


# The right base


def test_a_moved_base_is_the_same(tmp_path, bases):
    adapted = trained(fresh(bases["Bert"]))
    folder = saved(adapted, tmp_path / "adapter")
    moved = tmp_path / "elsewhere"
    shutil.copytree(bases["Bert"], moved)
    loaded = load_adapter(fresh(moved, seed=5), folder, trainable=False)
    torch.testing.assert_close(logits(loaded), logits(adapted), rtol=0, atol=1e-6)


@pytest.mark.parametrize("facts", [True, False])
@pytest.mark.parametrize(
    ("family", "size", "misfit"),
    [
        ("Bert", {"hidden_size": 16}, "(4, 32) in the adapter, (4, 16) in the model"),
        ("Bert", {"num_hidden_layers": 1}, "nothing in the model"),
        ("Bert", {"num_hidden_layers": 3}, "nothing in the adapter"),
        ("Roberta", {}, "nothing in the model"),
        ("DistilBert", {}, "nothing in the model"),
    ],
    ids=str,
)
def test_another_base(tmp_path, bases, family, size, misfit, facts):
    folder = saved(trained(fresh(bases["Bert"])), tmp_path / "adapter")
    if not facts:
        (folder / "adapter_facts.json").unlink()
    model = fresh(pretrained(family, tmp_path / "other", **size))
    before = state_of(model)
    sentence = message(load_adapter, model, folder, trainable=True)
    assert "is an adapter for another base model" in sentence and misfit in sentence
    assert str(bases["Bert"]) in sentence and str(tmp_path / "other") in sentence
    assert model.state_dict().keys() == before.keys()
    assert "another base" in message(load_adapter, model, folder, trainable=True, reset_classifier=True)


def test_another_base_of_the_same_shape(tmp_path, bases):
    adapted = trained(fresh(bases["Bert"]))
    folder = saved(adapted, tmp_path / "adapter")
    other = fresh(pretrained("Bert", tmp_path / "other", seed=9))
    assert "its updates belong to other weights" in message(load_adapter, other, folder, trainable=False)
    merged = merge(adapted)  # the same model, but for what an update has changed
    assert "its updates belong to other weights" in message(load_adapter, merged, folder, trainable=False)


def test_the_fingerprint_is_of_the_frozen_weights(bases):
    model = fresh(bases["Bert"])
    before = fingerprint(model)
    assert fingerprint(fresh(bases["Bert"], seed=5)) == before  # another classifier, another pooler
    assert fingerprint(trained(model, use_dora=True).get_base_model()) == before
    changed = fresh(bases["Bert"])
    for name, parameter in changed.named_parameters():
        if "embeddings" in name or "layer" in name:
            original = parameter.data
            parameter.data = original + 1e-3
            assert fingerprint(changed) != before, name
            parameter.data = original
    assert fingerprint(changed) == before


def test_names_decide_where_there_is_no_fingerprint(tmp_path, bases):
    """Adapters of other programs, or a base in another precision."""

    def named(name: str):
        model = fresh(bases["Roberta"])
        model.name_or_path = name
        return model

    adapted = trained(named("roberta-base"))
    folder = saved(adapted, tmp_path / "adapter")
    in_half = load_adapter(named("FacebookAI/roberta-base").to(torch.bfloat16), folder, trainable=False)
    torch.testing.assert_close(logits(in_half).float(), logits(adapted), rtol=0, atol=0.05)
    assert "another base" in message(load_adapter, named("org/other").to(torch.bfloat16), folder, trainable=False)
    (folder / "adapter_facts.json").unlink()
    for name in ("roberta-base", "FacebookAI/roberta-base", str(bases["Roberta"]), "/models/snapshots/1a2b"):
        loaded = load_adapter(named(name), folder, trainable=False)
        torch.testing.assert_close(logits(loaded), logits(adapted), rtol=0, atol=1e-6)
    sentence = message(load_adapter, named("org/other"), folder, trainable=False)
    assert "another base model (roberta-base) than --model org/other" in sentence


# Folders that are no adapter


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_folders_that_are_no_adapter(tmp_path, bases):
    def refusal(folder):
        return message(load_adapter, fresh(bases["Bert"]), folder, trainable=False)

    good = saved(trained(fresh(bases["Bert"])), tmp_path / "good")

    def spoiled(name: str) -> Path:
        return Path(shutil.copytree(good, tmp_path / name))

    assert "no such folder" in refusal(tmp_path / "nowhere")
    assert "a whole model, to be given as --model" in refusal(bases["Bert"])
    (tmp_path / "empty").mkdir()
    assert "has no adapter_config.json, so it is no adapter" in refusal(tmp_path / "empty")
    folder = spoiled("pickled")
    (folder / "adapter_model.safetensors").unlink()
    assert "has no adapter_model.safetensors: it is not whole" in refusal(folder)
    torch.save({}, folder / "adapter_model.bin")
    assert "adapter_model.bin is not loaded; save it anew" in refusal(folder)
    folder = spoiled("other")
    edit(folder / "adapter_config.json", peft_type="LOHA")
    assert "is an adapter of another kind (LOHA)" in refusal(folder)
    folder = spoiled("cut")
    whole = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in refusal(folder)
    folder = spoiled("half")
    (folder / "adapter_config.json").write_text("{")
    assert "cannot be read" in refusal(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_without_classifier(tmp_path, bases, family):
    """As trained without modules_to_save: peft itself would load it and leave the classifier random."""
    targets = ["q_lin", "v_lin"] if family == "DistilBert" else ["query", "value"]
    settings = peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    folder = saved(peft.get_peft_model(fresh(bases[family]), settings), tmp_path / "adapter")
    assert all("lora" in name for name in load_file(folder / "adapter_model.safetensors"))
    sentence = message(load_adapter, fresh(bases[family]), folder, trainable=True)
    assert "is an adapter without classifier (classifier." in sentence and "--reset_classifier" in sentence
    second = load_adapter(fresh(bases[family]), folder, trainable=True, reset_classifier=True)
    assert any("classifier.modules_to_save" in name for name in trainable(second))


# Adding up


def updates(model) -> dict[str, torch.Tensor]:
    """The update of each module, in float64, from the matrices alone."""
    found = {}
    for name, module in model.get_base_model().named_modules():
        if hasattr(module, "lora_A"):
            a, b = (part["default"].weight.detach().double() for part in (module.lora_A, module.lora_B))
            found[name] = b @ a
    return found


THREE = [
    ({"lora_rank": 4, "lora_alpha": 7}, 7 / 4, 0.7),
    ({"lora_rank": 2}, 1.0, -0.4),
    ({"lora_rank": 9, "lora_alpha": 5, "use_rslora": True}, 5 / 3, 1.2),
]


@pytest.fixture(scope="module")
def three(bases, tmp_path_factory):
    """family -> (folder, model, scaling, weight) of adapters with ranks and scalings of their own."""
    root, made = tmp_path_factory.mktemp("three"), {}

    def get(family: str):
        if family not in made:
            made[family] = []
            for number, (flags, scaling, weight) in enumerate(THREE):
                model = trained(fresh(bases[family], seed=number), seed=10 + number, **flags)
                made[family].append((saved(model, root / family / str(number)), model, scaling, weight))
        return made[family]

    return get


def weighted(three) -> list[tuple[Path, float]]:
    return [(folder, weight) for folder, _, _, weight in three]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sum_of_updates(bases, three, family):
    adapters = three(family)
    found = combine(fresh(bases[family], seed=7), weighted(adapters), trainable=False)
    plain = fresh(bases[family], seed=7)
    total = sum(weight for *_, weight in adapters)
    by_hand = plain.state_dict()
    for name in updates(found):
        by_hand[f"{name}.weight"] += sum(w * scaling * updates(m)[name] for _, m, scaling, w in adapters).float()
    files = [load_file(folder / "adapter_model.safetensors") for folder, *_ in adapters]
    for name in (n for n in files[0] if "lora_" not in n):
        mean = sum(w * file[name].double() for file, (*_, w) in zip(files, adapters)) / total
        by_hand[name.removeprefix("base_model.model.")] = mean.float()
    plain.load_state_dict(by_hand)
    expected = logits(plain)
    torch.testing.assert_close(logits(found), expected, rtol=0, atol=2e-5)
    assert all((logits(model) - expected).abs().max() > 0.05 for _, model, _, _ in adapters)
    torch.testing.assert_close(logits(merge(found)), expected, rtol=0, atol=2e-5)


def test_the_sum_of_updates_module_by_module(bases, three):
    adapters = three("Roberta")
    found = combine(fresh(bases["Roberta"]), weighted(adapters), trainable=False)
    for name, product in updates(found).items():
        module = found.get_base_model().get_submodule(name)
        assert module.r["default"] == 4 + 2 + 9 and module.scaling["default"] == 1
        expected = sum(w * scaling * updates(model)[name] for _, model, scaling, w in adapters)
        torch.testing.assert_close(product, expected, rtol=0, atol=1e-6)
        of_peft = sum(
            w * model.get_base_model().get_submodule(name).get_delta_weight("default") for _, model, _, w in adapters
        )
        torch.testing.assert_close(product.float(), of_peft, rtol=0, atol=1e-5)


def test_a_sum_is_an_adapter_like_any_other(tmp_path, bases, three):
    adapters = three("Bert")
    found = combine(fresh(bases["Bert"]), weighted(adapters), trainable=True)
    assert found.training and trainable(found) == trainable(adapters[0][1])
    expected, folder = logits(found.eval()), saved(found, tmp_path / "sum")
    loaded = load_adapter(fresh(bases["Bert"], seed=8), folder, trainable=False)
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=1e-6)
    assert class_names(folder) == CLASSES
    alone = combine(fresh(bases["Bert"]), [(adapters[0][0], 1.0)], trainable=False)
    torch.testing.assert_close(logits(alone), logits(adapters[0][1]), rtol=0, atol=1e-5)
    halves = combine(fresh(bases["Bert"]), [(adapters[0][0], 0.5)] * 2, trainable=False)
    torch.testing.assert_close(logits(halves), logits(adapters[0][1]), rtol=0, atol=1e-5)


def test_adapters_that_do_not_add_up(tmp_path, bases, three):
    good = three("Bert")[0][0]

    def refusal(model, folder=None, classes=CLASSES):
        folder = folder or saved(model, tmp_path / "other")
        return message(combine, fresh(bases["Bert"], classes), [(good, 1.0), (folder, 1.0)], trainable=False)

    sentence = refusal(trained(fresh(bases["Bert"]), use_dora=True))
    assert "was made with use_dora" in sentence and "cannot be added" in sentence
    assert "in the same order" in refusal(trained(fresh(bases["Bert"], sorted(CLASSES))))
    assert "its classes are a, b, c" in refusal(trained(fresh(bases["Bert"], ["a", "b", "c"])))
    assert "is for 2 classes (a, b), not for 3" in refusal(trained(fresh(bases["Bert"], ["a", "b"])))
    sentence = refusal(trained(fresh(bases["Bert"]), target_modules="key,value"))
    assert "its updates are of key, value, those of" in sentence and "of query, value;" in sentence
    other = pretrained("Bert", tmp_path / "base", seed=9)
    assert "another base model" in refusal(trained(fresh(other)))
    without = Path(shutil.copytree(good, tmp_path / "without"))
    weights = load_file(good / "adapter_model.safetensors")
    save_file({n: w for n, w in weights.items() if "classifier" not in n}, without / "adapter_model.safetensors")
    assert "adapter without classifier" in refusal(None, without)
    unknown = Path(shutil.copytree(good, tmp_path / "unknown"))
    (unknown / "adapter_facts.json").unlink()
    assert "its classes are not known" in refusal(None, unknown)
    assert "its classes are" in refusal(None, good, ["a", "b", "c"])
    patterned = Path(shutil.copytree(good, tmp_path / "patterned"))
    edit(patterned / "adapter_config.json", alpha_pattern={"query": 3})
    assert "was made with alpha_pattern" in refusal(None, patterned)


# Merging


@pytest.mark.parametrize(("family", "flags"), KINDS, ids=str)
def test_a_merged_model_is_plain_and_scores_the_same(tmp_path, bases, family, flags):
    plain = fresh(bases[family])
    adapted = trained(copy.deepcopy(plain), **flags)
    expected = logits(adapted)
    assert (expected - logits(plain)).abs().max() > 0.1
    exact = merge(copy.deepcopy(adapted).double())
    torch.testing.assert_close(logits(exact), logits(copy.deepcopy(adapted).double()), rtol=0, atol=1e-12)
    merged = merge(adapted)
    assert type(merged) is type(plain) and merged.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits(again), expected, rtol=0, atol=1e-5)


def test_pipeline_loads_a_merged_model_without_peft(tmp_path, tiny_folder):
    architecture = tiny_folder("bert-base-uncased")
    tokenizer = transformers.AutoTokenizer.from_pretrained(architecture)
    torch.manual_seed(1)
    base = AutoModelForSequenceClassification.from_pretrained(architecture, id2label=dict(enumerate(CLASSES)))
    adapted = trained(base)
    text = {"text": "Who founded the museum?", "text_pair": "Anna Berg founded it."}
    with torch.no_grad():
        shares = adapted(**tokenizer(**text, return_tensors="pt")).logits.softmax(dim=1)[0]
    merge(adapted).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    code = (
        "import sys, json; sys.modules['peft'] = None\n"
        "from transformers import pipeline\n"
        "classify = pipeline('text-classification', sys.argv[1], device='cpu', top_k=None)\n"
        "print(json.dumps(classify(json.loads(sys.argv[2]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), json.dumps(text)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = {entry["label"]: entry["score"] for entry in json.loads(done.stdout.splitlines()[-1])}
    assert found == pytest.approx(dict(zip(CLASSES, shares.tolist())), abs=1e-5)
    assert max(found.values()) - min(found.values()) > 0.01


# 4 bits


@pytest.fixture
def with_bitsandbytes(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: name == "bitsandbytes" or find(name, *rest))


def test_4_bits_need_a_library_and_a_gpu(monkeypatch, with_bitsandbytes):
    assert quantization(LoraArguments()) == {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "needs a CUDA GPU" in message(quantization, LoraArguments(load_in_4bit=True))
    monkeypatch.undo()
    if importlib.util.find_spec("bitsandbytes") is None:
        assert "needs bitsandbytes: pip install" in message(quantization, LoraArguments(load_in_4bit=True))


def test_settings_of_4_bits(monkeypatch, with_bitsandbytes, bases):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    settings = quantization(LoraArguments(load_in_4bit=True))["quantization_config"]
    assert settings.load_in_4bit and not settings.load_in_8bit
    assert settings.bnb_4bit_quant_type == "nf4" and settings.bnb_4bit_use_double_quant
    assert settings.bnb_4bit_compute_dtype == torch.bfloat16
    for family in FAMILIES:  # what is trained whole cannot be held in 4 bits
        model = fresh(bases[family])
        linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        kept = {name for name in linear if not should_convert_module(name, settings.llm_int8_skip_modules)}
        assert kept == {name for name in linear if ".layer." not in name} and len(kept) == 2


def test_training_and_merging_in_4_bits(monkeypatch, bases):
    """The model only says that it is in 4 bits: what is checked is that peft's preparation runs, and no merging."""
    model, prepared = fresh(bases["Bert"]), []
    model.is_loaded_in_4bit = True
    prepare = peft.prepare_model_for_kbit_training

    def noted(model, **settings):
        prepared.append(settings)
        return prepare(model, **settings)

    monkeypatch.setattr(peft, "prepare_model_for_kbit_training", noted)
    adapted = add_lora(model, LoraArguments(lora_rank=2))
    assert prepared == [{"use_gradient_checkpointing": False}]
    assert "without --load_in_4bit" in message(merge, adapted)


# In the Trainer


def lora_run(folder, **settings):
    """`train_resumable` of a BERT with dropout and an adapter."""
    model = add_lora(make_model("labels", dropout=0.1), LoraArguments(lora_rank=3, lora_dropout=0.1))
    return train_resumable(folder, model=model, **settings)


def in_file(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_a_stopped_training_goes_on_as_if_nothing_had_happened(tmp_path):
    whole = lora_run(tmp_path / "whole")
    stopped = lora_run(tmp_path / "parts", stop_at=Stop(6))
    assert stopped.interrupted is not None
    resumed = lora_run(tmp_path / "parts", resume=tmp_path / "parts" / "checkpoint-6")
    assert resumed.interrupted is None and stopped.seen + resumed.seen == whole.seen
    assert history_of(resumed) == history_of(whole)
    ours, theirs = (state_of(trainer.model) for trainer in (resumed, whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    last = [in_file(tmp_path / part / "checkpoint-12") for part in ("parts", "whole")]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[1])


def test_the_best_model_has_its_own_adapter_and_classifier(tmp_path):
    trainer = lora_run(tmp_path, peak=4)
    assert trainer.state.best_global_step == 4
    best, last = (in_file(tmp_path / f"checkpoint-{step}") for step in (4, 12))
    held = peft.get_peft_model_state_dict(trainer.model)
    assert held.keys() == best.keys()
    assert {"lora_A", "lora_B", "classifier", "pooler"} == {
        part for part in ("lora_A", "lora_B", "classifier", "pooler") if any(part in name for name in best)
    }
    assert all(torch.equal(held[name], best[name]) for name in best)
    assert all(not torch.equal(best[name], last[name]) for name in best)
    trainer.save_run({})
    for folder in (tmp_path, tmp_path / "checkpoint-4"):
        assert class_names(folder) == ["LABEL_0", "LABEL_1", "LABEL_2"]
        loaded = load_adapter(make_model("labels"), folder, trainable=False)
        assert all(torch.equal(weight, best[n]) for n, weight in peft.get_peft_model_state_dict(loaded).items())


def test_training_leaves_the_base_alone(tmp_path):
    before = fingerprint(make_model("labels"))
    trainer = lora_run(tmp_path)
    assert fingerprint(trainer.model.get_base_model()) == before
    assert SavedAdapter.read(tmp_path / "checkpoint-12").facts["base"]["weights"] == before
    assert math.isfinite(trainer.state.log_history[-1]["train_loss"])
    with pytest.raises(UserError, match="no such folder"):
        class_names(tmp_path / "checkpoint-5")
