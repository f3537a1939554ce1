"""common/dropout.py: its rates counted, its attention against one written out, and what it leaves alone."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from common.legacy.dropout import STEPS, attention, dropout, quick_dropout
from tests.legacy.distributed_worker import Sentences, make_trainer, state_of

ON_CPU = SimpleNamespace(device=torch.device("cpu"), torch_compile=False)
COUNT = 400_000


def within(found: float, expected: float, trials: int) -> bool:
    """Less than five standard deviations from what is expected of a share."""
    return abs(found - expected) < 5 * (expected * (1 - expected) / trials) ** 0.5


# Single values


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_each_of_four_neighbours_is_dropped_as_often_as_asked(p):
    torch.manual_seed(1)
    dropped = (dropout(torch.ones(COUNT), p) == 0).double().reshape(-1, 4)
    assert all(within(float(share), p, COUNT // 4) for share in dropped.mean(dim=0))
    for gap in (1, 2, 3, 4, 5):  # whatever the neighbours do
        one, other = dropped.flatten()[:-gap], dropped.flatten()[gap:]
        assert within(float((one * other).mean()), p * p, COUNT - gap)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
def test_what_is_kept_is_scaled_to_keep_the_mean(p):
    torch.manual_seed(2)
    values = torch.rand(COUNT // 40, 40) + 1
    out = dropout(values, p)
    scale = (out / values)[out != 0]
    rate = round(p * STEPS) / STEPS
    torch.testing.assert_close(scale, torch.full_like(scale, 1 / (1 - rate)), rtol=1e-6, atol=0)
    assert abs(rate - p) < 1e-5 and abs(float(out.mean() / values.mean()) - 1) < 0.01


def test_the_gradient_goes_where_the_value_went():
    values = torch.rand(7, 5, requires_grad=True)
    out = dropout(values, 0.5)
    out.sum().backward()
    assert 0 < (out == 0).sum() < 35
    torch.testing.assert_close(values.grad, (out / values).detach())


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3, 5), (0, 4)])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_any_shape_and_type(shape, kind):
    torch.manual_seed(0)
    out = dropout(torch.ones(shape, dtype=kind), 0.25)
    assert out.shape == shape and out.dtype == kind
    assert set(out.flatten().tolist()) <= {0.0, float(torch.tensor(4 / 3, dtype=kind))}


def test_in_place_and_a_view():
    values = torch.ones(4, 6)
    out = dropout(values, 0.5, inplace=True)
    assert out is values and (values == 0).any()
    turned = dropout(torch.ones(50, 60).T, 0.5)
    assert turned.shape == (60, 50) and within(float((turned == 0).double().mean()), 0.5, 3000)


def test_the_random_state_is_pytorchs():
    before = torch.random.get_rng_state()
    first, second = dropout(torch.ones(1000), 0.5), dropout(torch.ones(1000), 0.5)
    torch.random.set_rng_state(before)
    assert torch.equal(dropout(torch.ones(1000), 0.5), first) and not torch.equal(first, second)


# Attention


def written_out(query, key, value, mask, p, scale, seed):
    """Attention in float64, query by query, with the masks that `dropout` draws after `seed`."""
    torch.manual_seed(seed)
    noise = dropout(torch.ones(*query.shape[:-1], key.shape[-2]), p).double()
    query, key, value = query.double(), key.double(), value.double()
    out = torch.zeros(*query.shape[:-1], value.shape[-1], dtype=torch.float64)
    for b, h, i in torch.cartesian_prod(*(torch.arange(n) for n in query.shape[:3])).tolist():
        scores = (key[b, h] @ query[b, h, i]) * scale
        if mask is not None:
            seen = mask.expand(*query.shape[:-1], key.shape[-2])[b, h, i]
            scores = scores.masked_fill(~seen, -torch.inf) if seen.dtype == torch.bool else scores + seen
        shares = scores.exp() / scores.exp().sum()
        out[b, h, i] = ((shares * noise[b, h, i])[:, None] * value[b, h]).sum(dim=0)
    return out


def parts(queries: int = 5) -> list[torch.Tensor]:
    torch.manual_seed(3)
    return [torch.randn(2, 3, n, 4, requires_grad=True) for n in (queries, 6, 6)]


def some_mask(kind: str) -> torch.Tensor | None:
    seen = torch.arange(6) < torch.tensor([6, 4])[:, None, None, None]  # [2, 1, 1, 6]
    return {"none": None, "bool": seen, "float": torch.randn(2, 3, 5, 6), "added": (~seen).float() * -1e30}[kind]


@pytest.mark.parametrize("kind", ["none", "bool", "float", "added"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_is_what_it_says(kind, scale):
    tensors, mask, rate = parts(), some_mask(kind), round(0.25 * STEPS) / STEPS
    expected = written_out(*tensors, mask, rate, scale or 0.5, seed=4)
    gradients = torch.autograd.grad(expected.square().sum(), tensors)
    torch.manual_seed(4)
    found = attention(*tensors, attn_mask=mask, dropout_p=0.25, scale=scale)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    for gradient, wanted in zip(torch.autograd.grad(found.square().sum(), tensors), gradients):
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["none", "bool", "float"])
def test_the_mean_over_many_masks_is_attention_without_dropout(kind):
    tensors, mask = parts(), some_mask(kind)
    with torch.no_grad():
        mean = sum(attention(*tensors, attn_mask=mask, dropout_p=0.1) for _ in range(3000)) / 3000
    torch.testing.assert_close(mean, functional.scaled_dot_product_attention(*tensors, mask), rtol=0, atol=0.05)


@pytest.mark.parametrize("kind", ["none", "bool", "float"])
def test_with_autocast_the_type_is_that_of_pytorch(kind):
    tensors, mask = parts(), some_mask(kind)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(*tensors, attn_mask=mask, dropout_p=0.25)
        stock = functional.scaled_dot_product_attention(*tensors, mask, 0.25)
    assert found.dtype == stock.dtype == torch.bfloat16
    torch.manual_seed(4)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(*tensors, attn_mask=mask, dropout_p=0.25)
    expected = written_out(*tensors, mask, 0.25, 0.5, seed=4)
    torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0.05)


def test_a_query_that_sees_nothing_gives_numbers():
    assert attention(*parts(), attn_mask=torch.zeros(1, 1, 1, 6, dtype=torch.bool), dropout_p=0.1).isfinite().all()


# What it leaves alone


def test_what_has_no_dropout_is_pytorchs():
    values, (query, key, value), mask = torch.rand(50), parts(6), some_mask("bool")
    assert not dropout(values, 1.0).any()
    state = torch.random.get_rng_state()
    assert torch.equal(dropout(values, 0.5, training=False), values) and torch.equal(dropout(values, 0.0), values)
    for settings in ({}, {"is_causal": True}, {"attn_mask": mask}, {"scale": 0.2}):
        expected = functional.scaled_dot_product_attention(query, key, value, **settings)
        assert torch.equal(attention(query, key, value, **settings), expected)
    grouped = attention(query, key[:, :1], value[:, :1], dropout_p=0.0, enable_gqa=True)
    assert grouped.shape == query.shape
    assert torch.equal(torch.random.get_rng_state(), state)


def test_other_devices_keep_theirs():
    assert dropout(torch.ones(3, device="meta"), 0.5).device.type == "meta"
    ours = torch.nn.Dropout(0.5)
    for args in (
        SimpleNamespace(device=torch.device("cuda"), torch_compile=False),
        SimpleNamespace(device=torch.device("cpu"), torch_compile=True),
    ):
        torch.manual_seed(5)
        with quick_dropout(args):
            found = ours(torch.ones(99))
        torch.manual_seed(5)
        assert torch.equal(found, ours(torch.ones(99)))


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_a_rate_that_is_none_is_refused_as_by_pytorch(p):
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
        dropout(torch.ones(3), p)


# Models


class Drawn(TorchDispatchMode):
    """Notes the names of the operations that draw random numbers."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if any(word in name for word in ("random", "bernoulli", "dropout")):
            self.names.add(name)
        return func(*args, **(kwargs or {}))


def tiny(family: str, implementation: str):
    from transformers import AutoModel

    torch.manual_seed(6)
    return AutoModel.from_config(tiny_config(family), attn_implementation=implementation).train()


def tiny_config(family: str):
    from transformers import BertConfig, DistilBertConfig, HubertConfig, RobertaConfig

    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    if family == "hubert":
        convolutions = {"conv_dim": (8,), "conv_stride": (5,), "conv_kernel": (10,), "num_feat_extract_layers": 1}
        positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "layerdrop": 0.0}
        return HubertConfig(**size, **convolutions, **positions, apply_spec_augment=False)
    if family == "distilbert":
        return DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=32)
    kind = {"bert": BertConfig, "roberta": RobertaConfig}[family]
    return kind(vocab_size=50, max_position_embeddings=40, **size)


def batch_of(family: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    if family == "hubert":
        return {
            "input_values": torch.randn(2, 200),
            "attention_mask": torch.arange(200)[None] < torch.tensor([[200], [150]]),
        }
    return {
        "input_ids": torch.randint(3, 50, (2, 12)),
        "attention_mask": torch.arange(12)[None] < torch.tensor([[12], [9]]),
    }


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "hubert"])
def test_no_mask_of_a_model_is_pytorchs(family, implementation):
    model, batch = tiny(family, implementation), batch_of(family)
    with Drawn() as stock:
        model(**batch)
    with Drawn() as quick, quick_dropout(ON_CPU):
        found = model(**batch).last_hidden_state
        found.sum().backward()
    assert stock.names & {"bernoulli_", "native_dropout"} and quick.names == {"random_"}
    with Drawn() as after:
        model(**batch)
    assert after.names == stock.names  # and nothing stays
    model.eval()
    with torch.no_grad(), quick_dropout(ON_CPU):
        evaluated = model(**batch).last_hidden_state
    assert torch.equal(evaluated, model(**batch).last_hidden_state) and not torch.equal(evaluated, found)


def test_recomputed_activations_get_the_same_masks():
    batch, gradients = batch_of("bert"), []
    for recomputed in (False, True):
        model = tiny("bert", "sdpa")
        if recomputed:
            model.gradient_checkpointing_enable()
        torch.manual_seed(8)
        with quick_dropout(ON_CPU):
            model(**batch).last_hidden_state.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients)


def test_the_trainer_trains_with_it(tmp_path):
    with Drawn() as drawn:
        trainer = make_trainer(tmp_path, "labels", train=Sentences(16), dropout=0.5, per_device_train_batch_size=8)
        before = state_of(trainer.model)
        trainer.train()
    assert "random_" in drawn.names and not drawn.names & {"bernoulli_", "native_dropout", "dropout"}
    assert any(not torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())
