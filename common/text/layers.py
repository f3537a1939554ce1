"""How much of a pre-trained encoder is trained: where its parts are, strategies, learning rates by depth.

A frozen part gets no gradients, and the trainer keeps it in eval mode: it computes the same at every step, so that what
it computes can be kept (`frozen`). Heads are cut by `pruning`, adapters are `lora`.
"""

import re
from typing import NamedTuple

from common.errors import UserError

STRATEGIES = {
    "full": "everything is trained",
    "freeze_N": "the embeddings and the first N layers are frozen",
    "last_layer": "only the last layer, the pooler and the classifier are trained",
    "head_only": "only the classifier is trained",
    "first_N": "only the first N layers are kept; everything is trained",
    "prune_heads": "a share of the attention heads is removed; everything is trained",
}


class Encoder:
    """The parts of a model with a head.

    Attributes:
        base: the model's encoder without the head, such as `model.bert`.
        stack: the module that holds the layers, such as `model.bert.encoder`, under the name `attribute`.
        layers: a `torch.nn.ModuleList`; the first one is next to the embeddings.
        pooler: what comes between the last layer and the head inside `base`, or None (RoBERTa, DistilBERT).
        norms: (owner, name) of norms behind the last layer, as Megatron, XLM-R XL, ModernBERT and GPT-2 have.
        front: what works before the layers or for all of them, and is frozen with the embeddings.

    Raises:
        UserError: the layers do not stand in one list, each with its own weights.
    """

    def __init__(self, model):
        import torch

        self.base, config = model.base_model, model.config
        lists = [n for n, m in self.base.named_modules() if isinstance(m, torch.nn.ModuleList)]
        lists = [name for name in lists if len(self.base.get_submodule(name)) == config.num_hidden_layers]
        if self.base is model or not lists or config.is_encoder_decoder:
            raise UserError(
                f"this model ({config.model_type}) does not have its layers in one list as BERT has; train it whole "
                "(--strategy full, --method full or lora), or choose a BERT, RoBERTa, XLM-R, ELECTRA, DistilBERT, ..."
            )
        stack, _, self.attribute = lists[0].rpartition(".")
        self.stack, self.pooler = self.base.get_submodule(stack), getattr(self.base, "pooler", None)
        self.layers = getattr(self.stack, self.attribute)
        owners = [self.base] if self.stack is self.base else [self.base, self.stack]
        parts = [(owner, name, module) for owner in owners for name, module in owner.named_children()]
        norms = [part for part in parts if type(part[2]).__name__.endswith("Norm")]
        norms = [] if hasattr(self.stack, "rel_embeddings") else norms  # DeBERTa's is for its relative positions
        behind = [self.stack, self.layers, self.pooler, *(norm for *_, norm in norms)]
        self.norms = [(owner, name) for owner, name, _ in norms]
        self.front = [module for *_, module in parts if not any(module is other for other in behind)]


# Strategies


class Strategy(NamedTuple):
    """What of an encoder is trained: a key of `STRATEGIES`, and the N of freeze_N and first_N."""

    kind: str
    count: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Strategy":
        """The strategy as a user writes it, such as `freeze_9`; raises `UserError`."""
        if counted := re.fullmatch("(freeze|first)_(0*[1-9][0-9]*)", text):
            return cls(f"{counted[1]}_N", int(counted[2]))
        if text not in STRATEGIES or text.endswith("_N"):
            known = ", ".join(STRATEGIES)
            raise UserError(f"--strategy {text}: choose {known} (N: how many layers, 1 or more, as in freeze_9)")
        return cls(text)


def apply_strategy(
    model, strategy: Strategy, *, train_embeddings: bool = False, new_pooler: bool = False
) -> int | None:
    """Truncates the model or freezes parts of it, in place.

    Truncation changes the configuration too, so that the saved model is an ordinary one. The heads of `prune_heads`
    are cut by `pruning`. Norms behind the last layer are trained unless everything but the head is frozen.

    Args:
        train_embeddings: train the embeddings beside the last layer.
        new_pooler: the checkpoint has no pooler (masked language models), so that head_only trains it with the head.

    Returns:
        How many layers are frozen together with the embeddings; None where the embeddings are trained.

    Raises:
        UserError: more layers than the model has, or layers that are not in one list.
    """
    if strategy.kind in ("full", "prune_heads"):
        return None
    encoder, config = Encoder(model), model.config
    layers = len(encoder.layers)
    if (strategy.count or 0) > layers:
        text = strategy.kind.replace("N", str(strategy.count))
        raise UserError(f"--strategy {text}: the model has only {layers} layers")
    if strategy.kind == "first_N":
        del encoder.layers[strategy.count :]
        config.num_hidden_layers = strategy.count
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[: strategy.count]
        return None
    count = {"freeze_N": strategy.count, "last_layer": layers - 1, "head_only": layers}[strategy.kind]
    frozen = [*([] if train_embeddings else encoder.front), *encoder.layers[:count]]
    if strategy.kind == "head_only":
        frozen += [getattr(*norm) for norm in encoder.norms]
        frozen += [encoder.pooler] if encoder.pooler is not None and not new_pooler else []
    for module in frozen:
        module.requires_grad_(False)
    return None if train_embeddings else count


# Learning rates


def parameter_groups(
    model, base_rate: float, head_rate: float | None, layer_decay: float, weight_decay: float, decaying: list[str]
) -> list[dict]:
    """The trainable parameters in groups for AdamW, with a rate that is lower towards the input.

    Howard and Ruder 2018, "discriminative fine-tuning": of L layers, layer l (from 0) gets
    base_rate · layer_decay^(L-1-l), the embeddings base_rate · layer_decay^L, the pooler base_rate and the head
    `head_rate` (None: base_rate too). Groups and parameters stand in the model's order, the same in every run, by which
    a saved optimizer finds its parameters again.

    Args:
        decaying: names of the parameters that decay by `weight_decay`; biases and norms do not.
    """
    encoder = Encoder(model)
    parts = [(base_rate, encoder.base), *((base_rate * layer_decay ** len(encoder.layers), m) for m in encoder.front)]
    parts += [(base_rate * layer_decay**above, layer) for above, layer in enumerate(reversed(encoder.layers))]
    rates = {parameter: rate for rate, module in parts for parameter in module.parameters()}  # the last one holds
    head_rate = base_rate if head_rate is None else head_rate
    groups = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = rates.get(parameter, head_rate), weight_decay if name in decaying else 0.0
            groups.setdefault(key, []).append(parameter)
    return [{"params": found, "lr": rate, "weight_decay": decay} for (rate, decay), found in groups.items()]
