"""common/text/frozen.py: cached states against the whole model: the same logits, the same training."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import DataCollatorWithPadding

from common.models import frozen_modules
from common.text.frozen import FrozenPrefix, frozen_states, skipped
from common.text.layers import Strategy, apply_strategy
from tests.text.tiny import FAMILIES, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")
COUNT = 23


@pytest.fixture
def tokenizer(tiny_tokenizer):
    return tiny_tokenizer("bert-base-uncased")


def inputs_for(tokenizer, family: str = "bert", seed: int = 0) -> Dataset:
    """Random pairs of ids of 3 to 20 tokens, as the tokenizer gives them."""
    random = np.random.default_rng(seed)
    lengths = random.integers(3, 21, COUNT)
    columns = {"input_ids": [random.integers(5, 70, n).tolist() for n in lengths]}
    if family in ("bert", "electra"):
        columns["token_type_ids"] = [[0] * (n // 2) + [1] * (n - n // 2) for n in lengths]
    columns |= {"attention_mask": [[1] * n for n in lengths], "length": lengths}
    return Dataset.from_dict({**columns, "labels": random.integers(0, 3, COUNT)})


def settings(tmp_path, **given):
    training = {"world_size": 1, "process_index": 0, "bf16": False, "fp16": False}
    training |= {"gradient_checkpointing": False, "per_device_eval_batch_size": 4}
    args = {"frozen_cache": "float32", "cache_dir": str(tmp_path), "overwrite_cache": False, **given}
    run = SimpleNamespace(warnings=[])
    run.warn = run.warnings.append
    return SimpleNamespace(**args, training_args=SimpleNamespace(**training)), run


def batches_of(data, collator, size: int = 8):
    """Batches in an order of their own, as a sampler draws them."""
    order = np.random.default_rng(1).permutation(len(data))
    for at in range(0, len(order), size):
        yield collator([data[int(i)] for i in order[at : at + size]])


def loss_of(model, prefix, batch) -> torch.Tensor:
    inputs = {name: tensor for name, tensor in batch.items() if name not in ("labels", "length")}
    with skipped(prefix, batch):
        return cross_entropy(model(**inputs).logits, batch["labels"], reduction="none")


def trained(model, prefix, data, collator, epochs: int = 2) -> torch.Tensor:
    """The weights after some epochs with dropout, with the frozen parts in eval mode, as the trainer has them."""
    torch.manual_seed(3)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    for _ in range(epochs):
        for batch in batches_of(data, collator):
            model.train()
            for module in frozen_modules(model):
                module.eval()
            optimizer.zero_grad()
            loss_of(model, prefix, batch).mean().backward()
            optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


DROPOUT = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}


@pytest.mark.parametrize("strategy", ["freeze_1", "last_layer", "head_only"])
@pytest.mark.parametrize("family", FAMILIES)
def test_training_is_the_same_as_without_the_cache(tmp_path, tokenizer, family, strategy):
    inputs, collator = (
        {"train": inputs_for(tokenizer, family)},
        DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
    )
    more = {"dropout": 0.2, "attention_dropout": 0.2, "seq_classif_dropout": 0.2} if family == "distilbert" else DROPOUT
    weights = {}
    for cache in ("float32", "none"):
        model = tiny_model(family, **more)
        layers = apply_strategy(model, Strategy.parse(strategy))
        args, run = settings(tmp_path, frozen_cache=cache)
        data, batches, prefix = frozen_states(model, layers, inputs, collator, args, run)
        assert run.warnings == []
        weights[cache] = trained(model, prefix, data["train"], batches)
        if cache != "none":
            found = next(batches_of(data["train"], batches))
            expected = next(batches_of(inputs["train"], collator))
            assert prefix.kept == (1 if strategy == "head_only" else None)
            assert found["inputs_embeds"].shape[1] == (prefix.kept or expected["input_ids"].shape[1])
            assert torch.equal(found["labels"], expected["labels"])
    assert (weights["float32"] - trained_start(family, more, strategy)).abs().max() > 0.01
    torch.testing.assert_close(weights["float32"], weights["none"], rtol=0, atol=2e-4)


def trained_start(family, more, strategy) -> torch.Tensor:
    model = tiny_model(family, **more)
    apply_strategy(model, Strategy.parse(strategy))
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def logits(model, prefix, data, collator) -> torch.Tensor:
    found = torch.zeros(len(data), 3)
    with torch.no_grad():
        for at in range(0, len(data), 6):
            batch = collator([data[i] for i in range(at, min(at + 6, len(data)))])
            given = {name: tensor for name, tensor in batch.items() if name not in ("labels", "length")}
            with skipped(prefix, given):
                found[at : at + 6] = model(**given).logits
    return found


@pytest.mark.parametrize("family, strategy", [("camembert", "head_only"), ("xlm-roberta", "freeze_2")])
def test_other_families(tmp_path, tokenizer, family, strategy):
    model = tiny_model(family)
    layers = apply_strategy(model, Strategy.parse(strategy))
    inputs, collator = {"train": inputs_for(tokenizer, family)}, DataCollatorWithPadding(tokenizer)
    args, run = settings(tmp_path)
    data, batches, prefix = frozen_states(model, layers, inputs, collator, args, run)
    assert run.warnings == [] and prefix.kept == (1 if strategy == "head_only" else None)
    expected, found = logits(model, None, inputs["train"], collator), logits(model, prefix, data["train"], batches)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "family, more",
    [
        ("deberta-v2", {"relative_attention": True, "conv_kernel_size": 3, "conv_act": "gelu"}),
        ("rembert", {"input_embedding_size": 20}),
        ("longformer", {"attention_window": 4, "max_position_embeddings": 64}),
        ("gpt2", {"n_embd": 32, "n_layer": 4, "n_head": 4}),
        ("modernbert", {}),
    ],
)
def test_what_cannot_go_on_from_states_is_computed_in_every_epoch(tmp_path, tokenizer, family, more):
    model = tiny_model(family, **more)
    layers = apply_strategy(model, Strategy.parse("freeze_2"))
    inputs, collator = {"train": inputs_for(tokenizer, family)}, DataCollatorWithPadding(tokenizer)
    args, run = settings(tmp_path)
    assert frozen_states(model, layers, inputs, collator, args, run) == (inputs, collator, None)
    (warning,) = run.warnings
    assert "computed in every epoch" in warning and family in warning


def prepared(tmp_path, tokenizer, model, **given):
    args, run = settings(tmp_path, **given)
    layers = apply_strategy(model, Strategy.parse("freeze_2"))
    splits = {"train": inputs_for(tokenizer), "test": inputs_for(tokenizer, seed=1).remove_columns("labels")}
    return frozen_states(model, layers, splits, DataCollatorWithPadding(tokenizer), args, run)


def test_computed_once_and_by_content(tmp_path, tokenizer, monkeypatch):
    data, collator, _ = prepared(tmp_path, tokenizer, tiny_model("bert"))
    row, states = data["train"][3], collator([data["train"][3]])["inputs_embeds"]
    assert states.shape == (1, row["length"], 32) and "labels" not in collator([data["test"][0]])
    copied = pickle.loads(pickle.dumps(collator))  # as a data loader's worker gets it
    assert torch.equal(copied([row])["inputs_embeds"], states)

    monkeypatch.setattr(FrozenPrefix, "states", lambda *_: pytest.fail("computed again"))
    again, collator, _ = prepared(tmp_path, tokenizer, tiny_model("bert"))
    assert torch.equal(collator([again["train"][3]])["inputs_embeds"], states)
    for other in ({"seed": 1}, {"hidden_act": "relu"}):
        with pytest.raises(pytest.fail.Exception, match="computed again"):
            prepared(tmp_path, tokenizer, tiny_model("bert", **other))


def test_half_the_space(tmp_path, tokenizer):
    batches = []
    for kind in ("float32", "float16"):
        data, collator, _ = prepared(tmp_path, tokenizer, tiny_model("bert"), frozen_cache=kind)
        assert collator.states.features["states"].feature.dtype == kind
        batches.append(collator([data["train"][0]])["inputs_embeds"])
    assert batches[1].dtype == torch.float32
    torch.testing.assert_close(batches[1], batches[0], rtol=1e-3, atol=1e-3)
