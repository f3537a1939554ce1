"""Attention heads removed for good: which ones, the smaller model, and how it is saved and loaded.

For BERT, RoBERTa, XLM-R, ELECTRA and DistilBERT, whose heads transformers 5 cannot prune any more. The weights are
really cut: a model without half of its heads has less to compute and to store. What was cut stands in the configuration
as `pruned_heads`, {layer: [heads]}, the form that transformers 4 had. Load such a model with `load_pruned`.

Layers and heads are counted from 0, and a head's number is always that in the whole model, however often it was pruned.
Not for zeroing weights (sparsity), which saves neither time nor space.
"""

import copy
import inspect
import time
from collections.abc import Callable, Iterable

import numpy as np

from common.legacy.encoders import Encoder
from common.legacy.errors import UserError
from common.legacy.temporarily import evaluating

PRUNABLE = ("bert", "roberta", "xlm-roberta", "electra", "distilbert")


def pruned_heads(config) -> dict[int, list[int]]:
    """layer -> the heads that it has lost, from a configuration; {} for a whole model."""
    return {int(layer): sorted(heads) for layer, heads in (getattr(config, "pruned_heads", None) or {}).items()}


# Choosing


def random_scores(model, seed: int) -> np.ndarray:
    """A random score for each head, float [layers, heads]: the published way to choose. NaN: pruned already."""
    scores = np.random.default_rng(seed).random((len(_attentions(model)), model.config.num_attention_heads))
    for layer, lost in pruned_heads(model.config).items():
        scores[layer, lost] = np.nan
    return scores


def importance(model, batches: Iterable[dict], losses: Callable) -> np.ndarray:
    """How much the loss depends on each head: Michel, Levy and Neubig 2019, "Are Sixteen Heads Really Better than One?"

    The score of a head is the sum, over all tokens, of |context · dLoss/dcontext|, the derivative of the loss by a gate
    on what the head says at that token (as the authors' code has it). Each layer's scores are then divided by their
    L2 norm, as in the paper: gradients of different layers are not on one scale. It matters only where heads of
    different layers are compared.

    Args:
        batches: tensors by name; the model gets those that its `forward` names.
        losses: (model output, batch) -> loss of each example [B], or their sum; not their mean, by which the examples
            of a small batch would count for more.

    Returns:
        float [layers, heads]; NaN: pruned already. The model is left as it was, without gradients.
    """
    import torch

    attentions, config = _attentions(model), model.config
    contexts = {}

    def keep(layer):
        def hook(_, inputs):
            contexts[layer] = inputs[0] if inputs[0].requires_grad else inputs[0].requires_grad_()

        return hook

    scores = np.full((len(attentions), config.num_attention_heads), np.nan)
    left = [_heads_left(config, layer) for layer in range(len(attentions))]
    for layer in range(len(attentions)):
        scores[layer, left[layer]] = 0
    hooks = [a.output.register_forward_pre_hook(keep(layer)) for layer, a in enumerate(attentions)]
    try:
        with evaluating(model), torch.enable_grad():
            for batch in batches:
                batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
                loss = losses(model(**_inputs(model, batch)), batch).sum()
                kept = [contexts[layer] for layer in range(len(attentions))]
                for layer, (context, slope) in enumerate(zip(kept, torch.autograd.grad(loss, kept))):
                    by_head = (context * slope).detach().double().unflatten(-1, (len(left[layer]), -1)).sum(-1).abs()
                    scores[layer, left[layer]] += by_head.sum((0, 1)).cpu().numpy()
    finally:
        for hook in hooks:
            hook.remove()
    norms = np.sqrt(np.nansum(scores**2, axis=1, keepdims=True))
    return scores / np.where(norms > 0, norms, 1)


def choose_heads(scores: np.ndarray, share: float, *, per_layer: bool) -> dict[int, list[int]]:
    """layer -> the heads to prune: a share of the heads, those with the lowest scores.

    Args:
        scores: float [layers, heads]; NaN: not there any more. The share is of those that are.
        share: above 0 and below 1; the number of heads is rounded to the nearest, halves up.
        per_layer: the same share in every layer; otherwise of all heads together, leaving every layer at least one.

    Raises:
        UserError: nothing would be pruned, or every head of a layer.
    """
    left = (~np.isnan(scores)).sum(axis=1)
    most = left - 1
    quota = np.floor(share * (left if per_layer else left.sum()) + 0.5) * np.ones_like(left)
    if (quota > (most if per_layer else most.sum())).any():
        raise UserError(f"pruning {share:.0%} of the heads would leave a layer without any; choose a smaller share")
    if quota.max() < 1:
        where = "a layer" if per_layer else "the model"
        raise UserError(f"pruning {share:.0%} of the heads of {where} is less than one head; choose a larger share")
    order = np.argsort(scores, axis=None, kind="stable")[: left.sum()]  # NaN comes last
    chosen = {layer: [] for layer in range(len(scores))}
    for layer, head in zip(*np.unravel_index(order, scores.shape)):
        taken = len(chosen[layer]) if per_layer else sum(map(len, chosen.values()))
        if taken < quota[layer] and len(chosen[layer]) < most[layer]:
            chosen[int(layer)].append(int(head))
    return {layer: sorted(found) for layer, found in chosen.items() if found}


# Cutting


def prune(model, heads: dict[int, list[int]]) -> None:
    """Cuts heads out of the model, in place, and notes them in its configuration; before an optimizer is made.

    Heads that are gone already stay gone, so pruning twice is pruning the union.

    Raises:
        UserError: no such layer or head, or none would be left in a layer.
    """
    attentions, gone, together = _attentions(model), pruned_heads(model.config), {}
    for layer in sorted(gone.keys() | heads.keys()):
        together[layer] = sorted({*gone.get(layer, ()), *heads.get(layer, ())})
    count = model.config.num_attention_heads
    for layer, lost in together.items():
        if layer not in range(len(attentions)) or not set(lost) <= set(range(count)):
            there = f"the model has {len(attentions)} layers of {count} heads, counted from 0"
            raise UserError(f"heads {lost} of layer {layer} cannot be pruned: {there}")
        if len(lost) == count:
            raise UserError(f"layer {layer} would lose all of its {count} heads; leave every layer at least one")
    for layer, attention in enumerate(attentions):
        before = _heads_left(model.config, layer)
        after = [head for head in before if head not in together.get(layer, ())]
        if after != before:
            rows = attention.rows([before.index(head) for head in after])
            attention.resize(len(after), lambda weight, dim, rows=rows: weight.index_select(dim, rows))
    model.config.pruned_heads = {str(layer): lost for layer, lost in together.items() if lost}


def zero_heads(model, heads: dict[int, list[int]]) -> None:
    """Makes heads say nothing, in place: the model that `prune` makes has the same outputs as this one of full size."""
    import torch

    attentions = _attentions(model)
    for layer, lost in heads.items():
        left = _heads_left(model.config, layer)
        with torch.no_grad():
            attentions[layer].output.weight[:, attentions[layer].rows([left.index(head) for head in lost])] = 0


def full_size(model):
    """A copy of a pruned model with the same outputs that plain transformers loads: lost heads are there, but zero."""
    import torch

    twin = copy.deepcopy(model)
    count = twin.config.num_attention_heads
    for layer, attention in enumerate(_attentions(twin)):
        rows = attention.rows(_heads_left(twin.config, layer))

        def spread(weight, dim, rows=rows, width=count * attention.head_size):
            shape = [width if axis == dim else size for axis, size in enumerate(weight.shape)]
            return torch.zeros(shape, dtype=weight.dtype, device=weight.device).index_copy(dim, rows, weight)

        attention.resize(count, spread)
    twin.config.pruned_heads = {}
    return twin


# Loading


def load_pruned(auto_class, name: str, **kwargs):
    """`auto_class.from_pretrained(name, **kwargs)` that also loads a pruned model, from a folder or the hub.

        model = load_pruned(AutoModelForSequenceClassification, "outputs/nli-pruned")

    Raises:
        UserError: the checkpoint of a pruned model lacks weights; not with `output_loading_info`, which returns what
            is missing, as from_pretrained does.
    """
    from transformers import AutoConfig

    config = kwargs.pop("config", None)
    if config is None:
        hub = {key: kwargs[key] for key in ("revision", "token", "cache_dir", "subfolder") if key in kwargs}
        config, kwargs = AutoConfig.from_pretrained(name, return_unused_kwargs=True, **kwargs)
        kwargs |= hub
    if not pruned_heads(config):
        return auto_class.from_pretrained(name, config=config, **kwargs)
    whole = auto_class._model_mapping[type(config)]

    class Pruned(whole):
        """Takes the shape of the checkpoint before the library loads its weights, from whatever files they are in."""

        def __init__(self, config, *args, **settings):
            heads, config.pruned_heads = pruned_heads(config), {}
            super().__init__(config, *args, **settings)
            prune(self, heads)

    judged_by_caller = kwargs.pop("output_loading_info", False)
    model, report = Pruned.from_pretrained(name, config=config, output_loading_info=True, **kwargs)
    model.__class__ = whole  # its name is what the configuration gets when the model is saved
    if judged_by_caller:
        return model, report
    if report["missing_keys"]:
        first, *_ = missing = sorted(report["missing_keys"])
        raise UserError(f"{name}: {len(missing)} weights of a {whole.__name__} are missing, the first is {first}")
    return model


# Measuring


def measure(model, batch: dict, repeats: int = 20) -> dict[str, float]:
    """Parameters, bytes of them all, and the median of milliseconds for `batch` (tensors by name), without gradients.

    The first runs, a quarter of `repeats` more, are left out: they warm caches up.
    """
    import torch

    inputs = {name: tensor.to(model.device) for name, tensor in _inputs(model, batch).items()}
    wait = torch.cuda.synchronize if model.device.type == "cuda" else lambda: None
    seconds = []
    with evaluating(model), torch.inference_mode():
        for _ in range(repeats + repeats // 4 + 1):
            start = time.perf_counter()
            model(**inputs)
            wait()
            seconds.append(time.perf_counter() - start)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
        "milliseconds": 1000 * float(np.median(seconds[-repeats:])),
    }


# Where the heads are


class _Attention:
    """One layer's attention: the projections that heads share, and the names that their number has in the module."""

    def __init__(self, layer, distilbert: bool):
        if distilbert:
            module = layer.attention
            self.inputs, self.output = (module.q_lin, module.k_lin, module.v_lin), module.out_lin
            self.count_name, self.width_name = "n_heads", "dim"
        else:
            module = layer.attention.self
            self.inputs, self.output = (module.query, module.key, module.value), layer.attention.output.dense
            self.count_name, self.width_name = "num_attention_heads", "all_head_size"
        self.module, self.head_size = module, module.attention_head_size

    def rows(self, places: list[int]):
        """The rows (of the output projection: columns) of the heads at `places`, int [places * head_size]."""
        import torch

        first = torch.tensor(places, dtype=torch.int64, device=self.output.weight.device)[:, None] * self.head_size
        return (first + torch.arange(self.head_size, device=first.device)).flatten()

    def resize(self, count: int, change: Callable) -> None:
        """Gives it `count` heads; `change` makes of a weight and the dimension of its heads the new weight."""
        for linear in self.inputs:
            linear.weight, linear.bias = _changed(linear.weight, change, 0), _changed(linear.bias, change, 0)
            linear.out_features = count * self.head_size
        self.output.weight = _changed(self.output.weight, change, 1)
        self.output.in_features = count * self.head_size
        setattr(self.module, self.count_name, count)
        setattr(self.module, self.width_name, count * self.head_size)


def _changed(parameter, change: Callable, dim: int):
    return type(parameter)(change(parameter.detach(), dim), requires_grad=parameter.requires_grad)


def _attentions(model) -> list[_Attention]:
    encoder, family = Encoder.of(model), model.config.model_type
    if family not in PRUNABLE:
        raise UserError(f"the heads of a {family} model cannot be pruned; choose a model of {', '.join(PRUNABLE)}")
    return [_Attention(layer, family == "distilbert") for layer in encoder.layers]


def _heads_left(config, layer: int) -> list[int]:
    lost = pruned_heads(config).get(layer, [])
    return [head for head in range(config.num_attention_heads) if head not in lost]


def _inputs(model, batch: dict) -> dict:
    return {name: batch[name] for name in inspect.signature(model.forward).parameters if name in batch}
