"""The last layer for the first token alone against the whole one: logits, gradients, work; and where it is not used."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForTokenClassification

from common.legacy.encoders import Encoder
from common.legacy.first_token import FirstToken, FirstTokenLayer, quickest_forward
from common.legacy.frozen import FrozenPrefix
from common.legacy.lora import LoraArguments, add_lora
from common.legacy.pruning import prune
from tests.legacy.test_adapting import FAMILIES, tiny_batch, tiny_config, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = torch.tensor([0, 1, 2, 0, 1])
TRAINING = SimpleNamespace(fsdp=None)
HIDDEN, TOKENS, TEXTS = 32, 11, 5  # of the tiny models and their batch


def changed(model, form: str):
    """The model as a strategy makes it."""
    if form == "pruned":
        prune(model, {0: [1], 3: [2, 0, 1]})  # the last layer keeps one head of four
    if form == "lora":
        model = add_lora(model, LoraArguments(target_modules="all-linear", lora_rank=4))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
    return model.eval()


def unpadded(model) -> dict:
    return {name: tensor[:1] for name, tensor in tiny_batch(model).items()}  # the longest of the texts


def learn(model, forward, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits, and the gradient of each parameter that has one."""
    model.zero_grad()
    logits = forward(model, batch)["logits"]
    cross_entropy(logits, LABELS[: len(logits)]).backward()
    return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def whole(model, batch: dict):
    return model(**batch)


def structure(model) -> list:
    return [(name, id(module), module.training) for name, module in model.named_modules()]


# Computing


@pytest.mark.parametrize("form", ["whole", "pruned", "lora"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_are_those_of_the_whole_model(family, attention, form):
    model = changed(tiny_model(family, attn_implementation=attention), form)
    assert model.config._attn_implementation == attention
    before, names, widths = structure(model), list(model.state_dict()), []
    forward = quickest_forward(model, TRAINING)
    assert structure(model) == before
    last = Encoder.of(model).layers[-1]
    linear = last.ffn.lin1 if family == "distilbert" else last.intermediate.dense
    linear.register_forward_hook(lambda _, inputs, output: widths.append(inputs[0].shape[1]))
    for batch in (tiny_batch(model), unpadded(model)):
        expected, gradients = learn(model, whole, batch)
        found, same = learn(model, forward, batch)
        assert widths == [TOKENS, 1]
        widths.clear()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        # All of them: also those of the last layer's query, whose rows for the other tokens have no part in the loss.
        assert gradients.keys() == same.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
        for name, gradient in gradients.items():
            torch.testing.assert_close(same[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
    assert structure(model) == before and list(model.state_dict()) == names


def test_only_keys_and_values_are_of_all_tokens():
    """Counted exactly: multiplications and additions of the two passes, by torch."""
    model = tiny_model("bert", attn_implementation="eager").requires_grad_(False)
    counts = []
    for forward in (whole, FirstToken(model).forward):
        with FlopCounterMode(display=False) as counter:
            forward(model, tiny_batch(model))
        counts.append(counter.get_total_flops())
    intermediate = model.config.intermediate_size
    linear = 2 * HIDDEN**2 + 2 * HIDDEN * intermediate  # query and output projection, feed-forward; of each token
    attention = 2 * TOKENS * HIDDEN  # products of queries and keys, and of what comes of them and values
    assert counts[0] - counts[1] == 2 * TEXTS * (TOKENS - 1) * (linear + attention)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_dropout_is_on_where_the_layer_is_trained(family):
    names = {"bert": ("hidden_dropout_prob", "attention_probs_dropout_prob")}
    rates = names.get(family, ("dropout", "attention_dropout"))
    for rate in rates:
        model = tiny_model(family, **{name: 0.5 if name == rate else 0.0 for name in rates})
        encoder, batch = Encoder.of(model), tiny_batch(model)
        forward = FirstToken(model).forward
        expected = whole(model, batch)["logits"]
        encoder.layers[-1].train()  # nothing else
        found = [forward(model, batch)["logits"] for _ in range(2)]
        assert min((a - b).abs().max() for a, b in ((found[0], found[1]), (found[0], expected))) > 0.01, rate
        encoder.layers[-1].eval()
        torch.testing.assert_close(forward(model, batch)["logits"], expected, rtol=0, atol=1e-5)


def test_dropped_attention_is_as_the_whole_layers():
    """The same share of the same weights, scaled up as there: means over many draws."""
    model = tiny_model("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.3).requires_grad_(False)
    batch = {name: tensor.repeat(400, 1) for name, tensor in unpadded(model).items()}
    attention = Encoder.of(model).layers[-1].attention
    contexts = []
    attention.output.register_forward_hook(lambda _, inputs, output: contexts.append(inputs[0][:, 0]))
    attention.self.train()
    for forward in (whole, FirstToken(model).forward):
        forward(model, batch)
    (mean, spread), (same_mean, same_spread) = ((c.mean(0), c.std(0)) for c in contexts)
    assert spread.min() > 0
    torch.testing.assert_close(same_mean, mean, rtol=0, atol=float(6 * spread.max() / 20))
    torch.testing.assert_close(same_spread, spread, rtol=0.25, atol=0)


def test_the_wrapper_of_several_processes(tmp_path):
    from torch.nn.parallel import DistributedDataParallel

    model = changed(tiny_model("bert"), "lora")
    forward = quickest_forward(model, TRAINING)
    expected, gradients = learn(model, whole, tiny_batch(model))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        found, same = learn(DistributedDataParallel(model), forward, tiny_batch(model))
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert {name.removeprefix("module.") for name in same} == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[f"module.{name}"], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_an_exception_leaves_the_model_whole():
    model = tiny_model("bert")
    before = structure(model)
    batch = tiny_batch(model)
    with pytest.raises((RuntimeError, ValueError)):
        FirstToken(model).forward(model, batch | {"attention_mask": batch["attention_mask"][:, :5]})
    with pytest.raises((TypeError, AttributeError)):
        FirstToken(model).forward(model, {"input_ids": "no tensor"})
    assert structure(model) == before
    assert not any(isinstance(module, FirstTokenLayer) for module in model.modules())


# Where it is not used


def reading_all_tokens(family: str):
    """A classifier of the family whose head reads the mean of all tokens."""
    model = tiny_model(family)
    head = model.classifier.forward
    model.classifier.forward = lambda states: head(states.mean(1, keepdim=True).expand_as(states))
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: tiny_model("deberta-v2"),
        lambda: AutoModelForTokenClassification.from_config(tiny_config("bert")),
        lambda: reading_all_tokens("roberta"),
        lambda: reading_all_tokens("electra"),
        lambda: tiny_model("bert", is_decoder=True),  # its tokens do not see those after them
    ],
)
def test_other_models_go_on_as_they_are(make):
    model = make()
    before = structure(model)
    assert quickest_forward(model, TRAINING) is None
    prefix = FrozenPrefix(model, 2)
    assert quickest_forward(model, TRAINING, prefix) == prefix.forward
    assert structure(model) == before


def test_not_where_layers_gather_their_weights_nor_with_other_attention():
    model = tiny_model("bert")
    assert quickest_forward(model, TRAINING) is not None
    assert quickest_forward(model, SimpleNamespace(fsdp=True)) is None
    model.config._attn_implementation = "flex_attention"
    assert quickest_forward(model, TRAINING) is None
