"""Attention heads removed for good: which ones, the smaller model, and how it is loaded.

For BERT, RoBERTa, XLM-R, ELECTRA and DistilBERT, whose heads transformers 5 cannot prune any more. The weights are
really cut: a model without half of its heads has less to compute and to store. What was cut stands in the configuration
as `pruned_heads`, {layer: [heads]}, the form that transformers 4 had. Load such a model with `load_pruned`.

Layers and heads are counted from 0, and a head's number is always that in the whole model, however often it was pruned.
"""

import time
from collections.abc import Callable, Iterable

import numpy as np

from common.errors import UserError
from common.models import evaluating
from common.text.layers import Encoder

# Of a layer's `attention`: the projections that heads share (inputs, output), and where their number stands.
BERT = (("self.query", "self.key", "self.value"), "output.dense", "self", "num_attention_heads", "all_head_size")
PRUNABLE = dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), BERT)
PRUNABLE["distilbert"] = (("q_lin", "k_lin", "v_lin"), "out_lin", "", "n_heads", "dim")


def pruned_heads(config) -> dict[int, list[int]]:
    """layer -> the heads that it has lost, from a configuration; {} for a whole model."""
    return {int(layer): sorted(heads) for layer, heads in (getattr(config, "pruned_heads", None) or {}).items()}


def heads_left(config, layer: int) -> list[int]:
    """The heads that a layer still has."""
    lost = pruned_heads(config).get(layer, [])
    return [head for head in range(config.num_attention_heads) if head not in lost]


def random_scores(model, seed: int) -> np.ndarray:
    """A random score for each head, float [layers, heads]: the published way to choose. NaN: pruned already."""
    config = model.config
    scores = np.random.default_rng(seed).random((config.num_hidden_layers, config.num_attention_heads))
    for layer, lost in pruned_heads(config).items():
        scores[layer, lost] = np.nan
    return scores


def importance(model, batches: Iterable[dict], losses: Callable) -> np.ndarray:
    """How much the loss depends on each head: Michel, Levy and Neubig 2019, "Are Sixteen Heads Really Better than One?"

    The score of a head is the sum, over all tokens, of |context · dLoss/dcontext|, the derivative of the loss by a gate
    on what the head says at that token (as the authors' code has it). Each layer's scores are then divided by their
    L2 norm, as in the paper: gradients of different layers are not on one scale. It matters only where heads of
    different layers are compared.

    Args:
        batches: tensors by name: what the model takes, and `labels`.
        losses: (model output, batch) -> loss of each example [B]; not their mean, by which the examples of a small
            batch would count for more.

    Returns:
        float [layers, heads]; NaN: pruned already. The model is left as it was, without gradients.
    """
    import torch

    output = _attention_parts(model.config)[1]
    outputs, contexts = [layer.attention.get_submodule(output) for layer in Encoder.of(model).layers], {}

    def keep(layer):
        def hook(_, inputs):
            contexts[layer] = inputs[0] if inputs[0].requires_grad else inputs[0].requires_grad_()

        return hook

    scores = np.full((len(outputs), model.config.num_attention_heads), np.nan)
    left = [heads_left(model.config, layer) for layer in range(len(outputs))]
    for layer, heads in enumerate(left):
        scores[layer, heads] = 0
    hooks = [output.register_forward_pre_hook(keep(layer)) for layer, output in enumerate(outputs)]
    try:
        with evaluating(model), torch.enable_grad():
            for batch in batches:
                batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
                inputs = {name: tensor for name, tensor in batch.items() if name not in ("labels", "length")}
                loss = losses(model(**inputs), batch).sum()
                kept = [contexts[layer] for layer in range(len(outputs))]
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
        scores: float [layers, heads]; NaN: not to be chosen. The share is of the others.
        share: above 0 and below 1; the number of heads is rounded to the nearest, halves up.
        per_layer: the same share in every layer; otherwise of all heads together, leaving every layer at least one.

    Raises:
        UserError: nothing would be pruned, or every head of a layer.
    """
    left = (~np.isnan(scores)).sum(axis=1)
    most = np.maximum(left - 1, 0)
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


def prune(model, heads: dict[int, list[int]]) -> None:
    """Cuts heads out of the model, in place, and notes them in its configuration; before an optimizer is made.

    Heads that are gone already stay gone, so pruning twice is pruning the union.

    Raises:
        UserError: a family that cannot be pruned, no such layer or head, or none would be left in a layer.
    """
    import torch
    from transformers.pytorch_utils import prune_linear_layer

    config, together = model.config, pruned_heads(model.config)
    inputs, output, holder, count, width = _attention_parts(config)
    for layer, lost in heads.items():
        if layer not in range(config.num_hidden_layers) or not set(lost) <= set(range(config.num_attention_heads)):
            there = f"the model has {config.num_hidden_layers} layers of {config.num_attention_heads} heads, from 0"
            raise UserError(f"heads {lost} of layer {layer} cannot be pruned: {there}")
        together[layer] = sorted({*together.get(layer, ()), *lost})
        if len(together[layer]) == config.num_attention_heads:
            raise UserError(f"layer {layer} would lose all of its heads; leave every layer at least one")
    size = config.hidden_size // config.num_attention_heads
    for layer in heads:
        attention = Encoder.of(model).layers[layer].attention
        left = [i for i, head in enumerate(heads_left(config, layer)) if head not in together[layer]]
        rows = torch.cat([torch.arange(i * size, (i + 1) * size) for i in left]).to(model.device)
        for name, dim in (*((name, 0) for name in inputs), (output, 1)):
            attention.set_submodule(name, prune_linear_layer(attention.get_submodule(name), rows, dim))
        setattr(attention.get_submodule(holder), count, len(left))
        setattr(attention.get_submodule(holder), width, len(rows))
    config.pruned_heads = {str(layer): lost for layer, lost in sorted(together.items()) if lost}


def _attention_parts(config) -> tuple:
    if config.model_type not in PRUNABLE:
        raise UserError(f"heads of a {config.model_type} model cannot be pruned; choose one of {', '.join(PRUNABLE)}")
    return PRUNABLE[config.model_type]


def load_pruned(auto_class, name: str, *, output_loading_info: bool = False, **settings):
    """`auto_class.from_pretrained(name, **settings)` that also loads a pruned model, from a folder or the hub.

        model = load_pruned(AutoModelForSequenceClassification, "outputs/nli-pruned")

    The model's `new_weights` are the names of those that the checkpoint lacks.
    """
    import torch
    from transformers import AutoConfig

    if (config := settings.pop("config", None)) is None:
        hub = {key: settings[key] for key in ("revision", "token", "cache_dir", "subfolder") if key in settings}
        config, settings = AutoConfig.from_pretrained(name, return_unused_kwargs=True, **settings)
        settings |= hub
    heads, settings = pruned_heads(config), {**settings, "config": config, "output_loading_info": True}
    if not heads:
        model, report = auto_class.from_pretrained(name, **settings)
    else:
        with torch.device("meta"):
            whole = type(auto_class.from_config(config))

        class Pruned(whole):
            """Takes the shape of the checkpoint before the library loads its weights."""

            def __init__(self, config, *args, **more):
                config.pruned_heads = {}
                super().__init__(config, *args, **more)
                prune(self, heads)

        Pruned.__name__ = whole.__name__  # what the configuration calls it when the model is saved
        model, report = Pruned.from_pretrained(name, **settings)
    model.new_weights = sorted(report["missing_keys"])
    return (model, report) if output_loading_info else model


def measure(model, batch: dict, repeats: int = 20) -> dict[str, float]:
    """Parameters, bytes of them all, and the median of milliseconds for `batch` (tensors by name), without gradients.

    The first runs, a quarter of `repeats` more, are left out: they warm caches up.
    """
    import torch

    inputs = {n: tensor.to(model.device) for n, tensor in batch.items() if n not in ("labels", "length")}
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
