"""Attention heads removed for good: which ones, the smaller model, and how it is loaded.

For BERT, RoBERTa, XLM-R, ELECTRA and DistilBERT, whose heads transformers 5 cannot prune any more. What was cut stands
in the configuration as `pruned_heads`, {layer: [heads]}, as in transformers 4. Layers and heads are counted from 0. A
model is pruned once: one that has lost heads is trained on as it is.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.benchmark import Timer
from transformers import AutoConfig
from transformers.pytorch_utils import prune_linear_layer

from common.errors import UserError
from common.models import evaluating
from common.text.layers import Encoder

# Of a layer's `attention`: the projections that heads share (inputs, output), and where their number stands.
BERT = (("self.query", "self.key", "self.value"), "output.dense", "self", "num_attention_heads", "all_head_size")
PRUNABLE = dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), BERT)
PRUNABLE["distilbert"] = (("q_lin", "k_lin", "v_lin"), "out_lin", "", "n_heads", "dim")


def pruned_heads(config) -> dict[int, list[int]]:
    """layer -> the heads that it has lost, from a configuration; {} for a whole model."""
    lost = {int(layer): heads for layer, heads in (getattr(config, "pruned_heads", None) or {}).items()}
    return {layer: heads for layer, heads in lost.items() if layer < config.num_hidden_layers}  # after truncation


def random_heads(config, share: float, seed: int, layers: Sequence[int] = ()) -> dict[int, list[int]]:
    """layer -> the heads to prune: the same share of each of `layers` (none given: of all), at random as published.

    Raises `UserError` where there is no such layer, nothing would be pruned, or every head of a layer.
    """
    total, heads = config.num_hidden_layers, config.num_attention_heads
    if not set(layers) <= set(range(total)):
        raise UserError(f"--pruned_layers {' '.join(map(str, layers))}: the layers are 0 to {total - 1}")
    count = math.floor(share * heads + 0.5)
    if not 0 < count < heads:
        raise UserError(f"--pruned_share {share:g}: is {count} of each layer's {heads} heads; 1 to {heads - 1} can go")
    order = np.random.default_rng(seed).random((total, heads)).argsort(axis=1)
    return {layer: sorted(order[layer, :count].tolist()) for layer in sorted(set(layers)) or range(total)}


def prune(model, heads: dict[int, list[int]]) -> None:
    """Cuts heads out of a model, in place, and notes them in its configuration; before an optimizer is made.

    Raises `UserError` for a family that cannot be pruned, and for a model that has lost heads already.
    """
    config = model.config
    if config.model_type not in PRUNABLE:
        raise UserError(f"heads of a {config.model_type} model cannot be pruned; choose one of {', '.join(PRUNABLE)}")
    if pruned_heads(config):
        raise UserError(f"{model.name_or_path}: has lost attention heads already; prune a whole model")
    inputs, output, holder, count, width = PRUNABLE[config.model_type]
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


def load_pruned(auto_class, name: str, *, config=None, output_loading_info: bool = False, **settings):
    """`auto_class.from_pretrained(name, **settings)` that also loads a pruned model, from a folder or the hub.

    The model's `new_weights` are the names of those that the checkpoint lacks.
    """
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
    inputs = {name: tensor.to(model.device) for name, tensor in batch.items() if name not in ("labels", "length")}
    timer = Timer("model(**inputs)", globals={"model": model, "inputs": inputs}, num_threads=torch.get_num_threads())
    with evaluating(model), torch.inference_mode():
        milliseconds = 1000 * timer.blocked_autorange(min_run_time=0.5).median
    parameters, size = (sum(column) for column in zip(*((p.numel(), p.nbytes) for p in model.parameters())))
    return {"parameters": parameters, "bytes": size, "milliseconds": milliseconds}
