"""Attention heads removed for good: which ones, the smaller model, and how it is loaded.

For BERT, RoBERTa, XLM-R, ELECTRA and DistilBERT, whose heads transformers 5 cannot prune any more. The weights are
really cut: a model without half of its heads has less to compute and to store. What was cut stands in the configuration
as `pruned_heads`, {layer: [heads]}, the form that transformers 4 had. Load such a model with `load_pruned`.

Layers and heads are counted from 0. A model is pruned once: one that has lost heads is trained on as it is.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from common.errors import UserError
from common.models import evaluating
from common.text.layers import Encoder

# Of a layer's `attention`: the projections that heads share (inputs, output), and where their number stands.
BERT = (("self.query", "self.key", "self.value"), "output.dense", "self", "num_attention_heads", "all_head_size")
PRUNABLE = dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), BERT)
PRUNABLE["distilbert"] = (("q_lin", "k_lin", "v_lin"), "out_lin", "", "n_heads", "dim")
NOT_OF_THE_MODEL = ("labels", "length")  # entries of a batch


def pruned_heads(config) -> dict[int, list[int]]:
    """layer -> the heads that it has lost, from a configuration; {} for a whole model."""
    lost = {int(layer): heads for layer, heads in (getattr(config, "pruned_heads", None) or {}).items()}
    return {layer: heads for layer, heads in lost.items() if layer < config.num_hidden_layers}  # after truncation


def random_scores(model, seed: int) -> np.ndarray:
    """A random score for each head, float [layers, heads]: the published way to choose."""
    return np.random.default_rng(seed).random((model.config.num_hidden_layers, model.config.num_attention_heads))


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
        float [layers, heads]. The model is left as it was, without gradients.
    """
    import torch

    output, heads = _attention_parts(model.config)[1], model.config.num_attention_heads
    outputs, contexts = [layer.attention.get_submodule(output) for layer in Encoder(model).layers], {}

    def keep(module, inputs):
        contexts[module] = inputs[0] if inputs[0].requires_grad else inputs[0].requires_grad_()

    scores, hooks = np.zeros((len(outputs), heads)), [output.register_forward_pre_hook(keep) for output in outputs]
    try:
        with evaluating(model), torch.enable_grad():
            for batch in batches:
                batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
                inputs = {name: tensor for name, tensor in batch.items() if name not in NOT_OF_THE_MODEL}
                loss = losses(model(**inputs), batch).sum()
                kept = [contexts[output] for output in outputs]
                for of_layer, context, slope in zip(scores, kept, torch.autograd.grad(loss, kept)):
                    by_head = (context * slope).detach().double().unflatten(-1, (heads, -1)).sum(-1).abs()
                    of_layer += by_head.sum((0, 1)).cpu().numpy()
    finally:
        for hook in hooks:
            hook.remove()
    norms = np.linalg.norm(scores, axis=1, keepdims=True)
    return scores / np.where(norms > 0, norms, 1)


def choose_heads(
    scores: np.ndarray, share: float, *, per_layer: bool, layers: Sequence[int] = ()
) -> dict[int, list[int]]:
    """layer -> the heads to prune: a share of the heads of `layers` (none given: of all), the lowest scores first.

    Args:
        scores: float [layers, heads].
        share: above 0 and below 1; the number of heads is rounded to the nearest, halves up.
        per_layer: the same share in every layer; otherwise of all their heads together, leaving every layer its best.

    Raises:
        UserError: no such layer, nothing would be pruned, or every head of a layer.
    """
    if not set(layers) <= set(range(len(scores))):
        raise UserError(f"--pruned_layers {' '.join(map(str, layers))}: the layers are 0 to {len(scores) - 1}")
    layers = sorted(set(layers)) or range(len(scores))
    chosen = np.array(scores[layers])
    if not per_layer:
        chosen[np.arange(len(chosen)), chosen.argmax(axis=1)] = np.inf
    groups = chosen if per_layer else chosen.reshape(1, -1)
    count, most = math.floor(share * groups.shape[1] + 0.5), groups.shape[1] - (1 if per_layer else len(chosen))
    if not 0 < count <= most:
        where = f"each layer's {groups.shape[1]}" if per_layer else f"the {groups.shape[1]}"
        raise UserError(f"--pruned_share {share:g}: is {count} of {where} heads; at least 1 can go, at most {most}")
    lowest = np.zeros(groups.shape, bool)
    np.put_along_axis(lowest, groups.argsort(axis=1, kind="stable")[:, :count], True, axis=1)
    heads = {int(layer): np.flatnonzero(of).tolist() for layer, of in zip(layers, lowest.reshape(chosen.shape))}
    return {layer: found for layer, found in heads.items() if found}


def prune(model, heads: dict[int, list[int]]) -> None:
    """Cuts heads out of a whole model, in place, and notes them in its configuration; before an optimizer is made.

    Raises:
        UserError: a family that cannot be pruned, or a model that has lost heads already.
    """
    import torch
    from transformers.pytorch_utils import prune_linear_layer

    config = model.config
    inputs, output, holder, count, width = _attention_parts(config)
    if pruned_heads(config):
        raise UserError(f"{model.name_or_path}: has lost attention heads already; prune a whole model")
    size = config.hidden_size // config.num_attention_heads
    for layer, lost in heads.items():
        attention = Encoder(model).layers[layer].attention
        left = [head for head in range(config.num_attention_heads) if head not in lost]
        rows = torch.cat([torch.arange(i * size, (i + 1) * size) for i in left]).to(model.device)
        for name, dim in (*((name, 0) for name in inputs), (output, 1)):
            attention.set_submodule(name, prune_linear_layer(attention.get_submodule(name), rows, dim))
        setattr(attention.get_submodule(holder), count, len(left))
        setattr(attention.get_submodule(holder), width, len(rows))
    config.pruned_heads = {str(layer): lost for layer, lost in sorted(heads.items())}


def _attention_parts(config) -> tuple:
    if config.model_type not in PRUNABLE:
        raise UserError(f"heads of a {config.model_type} model cannot be pruned; choose one of {', '.join(PRUNABLE)}")
    return PRUNABLE[config.model_type]


def load_pruned(auto_class, name: str, *, config=None, output_loading_info: bool = False, **settings):
    """`auto_class.from_pretrained(name, **settings)` that also loads a pruned model, from a folder or the hub.

        model = load_pruned(AutoModelForSequenceClassification, "outputs/nli-pruned")

    The model's `new_weights` are the names of those that the checkpoint lacks.
    """
    import torch
    from transformers import AutoConfig

    config = config or AutoConfig.from_pretrained(name)
    heads, kind = pruned_heads(config), auto_class
    if heads:
        with torch.device("meta"):
            whole = type(auto_class.from_config(config))

        class Pruned(whole):
            """Takes the shape of the checkpoint before the library loads its weights."""

            def __init__(self, config, *args, **more):
                config.pruned_heads = {}
                super().__init__(config, *args, **more)
                prune(self, heads)

        kind, Pruned.__name__ = Pruned, whole.__name__  # what the configuration calls it when the model is saved
    model, report = kind.from_pretrained(name, config=config, output_loading_info=True, **settings)
    model.new_weights = sorted(report["missing_keys"])
    return (model, report) if output_loading_info else model


def measure(model, batch: dict) -> dict[str, float]:
    """Parameters, their bytes, and the median of milliseconds for `batch` (tensors by name), without gradients."""
    import torch
    from torch.utils.benchmark import Timer

    inputs = {n: tensor.to(model.device) for n, tensor in batch.items() if n not in NOT_OF_THE_MODEL}
    timer = Timer("model(**inputs)", globals={"model": model, "inputs": inputs}, num_threads=torch.get_num_threads())
    with evaluating(model), torch.inference_mode():
        milliseconds = 1000 * timer.blocked_autorange(min_run_time=0.5).median
    parameters = list(model.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "bytes": sum(p.nbytes for p in parameters),
        "milliseconds": milliseconds,
    }
