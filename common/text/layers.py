"""How much of a pre-trained encoder is trained: where its parts are, strategies, learning rates by depth.

A frozen part gets no gradients, and the trainer keeps it in eval mode: it computes the same at every step, so that what
it computes can be kept (`frozen`). Heads are cut by `pruning`, adapters are `lora`.
"""

import re
from dataclasses import dataclass

from common.errors import UserError

STRATEGIES = {
    "full": "everything is trained",
    "freeze_N": "the embeddings and the first N layers are frozen",
    "last_layer": "only the last layer, the pooler and the classifier are trained",
    "head_only": "only the classifier is trained",
    "first_N": "only the first N layers are kept; everything is trained",
    "prune_heads": "a share of the attention heads is removed; everything is trained",
}


@dataclass(frozen=True)
class Encoder:
    """The parts of a model with a head, which may be wrapped by peft.

    Attributes:
        model: the model itself, unwrapped.
        base: its encoder without the head, such as `model.bert`.
        stack: the module that holds the layers, such as `model.bert.encoder`, under the name `attribute`.
        pooler: what comes between the last layer and the head inside `base`, or None (RoBERTa, DistilBERT).
        head: the modules outside of `base` by name: what is new when a pre-trained encoder gets a head.
    """

    model: object
    base: object
    stack: object
    attribute: str
    pooler: object | None
    head: dict[str, object]

    @property
    def layers(self):
        """The layers, a `torch.nn.ModuleList`; the first one is next to the embeddings."""
        return getattr(self.stack, self.attribute)

    @property
    def norms(self) -> list[tuple]:
        """(owner, name) of norms behind the last layer, as Megatron, XLM-R XL, ModernBERT and GPT-2 have."""
        if hasattr(self.stack, "rel_embeddings"):  # DeBERTa's norm is for its relative positions
            return []
        owners = {id(owner): owner for owner in (self.base, self.stack)}.values()
        return [(owner, n) for owner in owners for n, m in owner.named_children() if type(m).__name__.endswith("Norm")]

    @property
    def front(self) -> list:
        """What works before the layers or for all of them, and is frozen with the embeddings."""
        apart = [self.stack, self.layers, self.pooler, *(getattr(*norm) for norm in self.norms)]
        beside = [*self.base.children(), *([] if self.stack is self.base else self.stack.children())]
        return [module for module in beside if not any(module is other for other in apart)]

    @classmethod
    def of(cls, model) -> "Encoder":
        """The parts of `model`; raises `UserError` where its layers do not stand in one list, each with own weights."""
        import torch

        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        base, config = model.base_model, model.config
        lists = [n for n, m in base.named_modules() if isinstance(m, torch.nn.ModuleList)]
        lists = [name for name in lists if len(base.get_submodule(name)) == config.num_hidden_layers]
        if base is model or not lists or config.is_encoder_decoder:
            raise UserError(
                f"this model ({config.model_type}) does not have its layers in one list as BERT has; train it whole "
                "(--strategy full, --method full or lora), or choose a BERT, RoBERTa, XLM-R, ELECTRA, DistilBERT, ..."
            )
        stack, _, attribute = lists[0].rpartition(".")
        head = {name: module for name, module in model.named_children() if module is not base}
        return cls(model, base, base.get_submodule(stack), attribute, getattr(base, "pooler", None), head)


# Strategies


@dataclass(frozen=True)
class Strategy:
    """What of an encoder is trained.

    Attributes:
        kind: a key of `STRATEGIES`.
        count: the N of freeze_N and first_N; None for the others.
        train_embeddings: train the embeddings beside the last layer.
    """

    kind: str
    count: int | None = None
    train_embeddings: bool = False

    @classmethod
    def parse(cls, text: str, *, train_embeddings: bool = False) -> "Strategy":
        """The strategy as a user writes it, such as `freeze_9`; raises `UserError`."""
        counted = re.fullmatch(r"(freeze|first)(?:_(.*))?", text)
        kind = f"{counted[1]}_N" if counted else text
        if kind not in STRATEGIES:
            raise UserError(f"--strategy {text}: choose {', '.join(STRATEGIES)} (N: how many layers, as in freeze_9)")
        if counted and not re.fullmatch("0*[1-9][0-9]*", counted[2] or ""):
            raise UserError(f"--strategy {text}: give a number of layers, 1 or more, as in {counted[1]}_9")
        if train_embeddings and kind != "last_layer":
            raise UserError(f"--train_embeddings belongs to --strategy last_layer, not to {text}")
        return cls(kind, int(counted[2]) if counted else None, train_embeddings)

    def __str__(self) -> str:
        return self.kind if self.count is None else self.kind.replace("N", str(self.count))


def apply_strategy(model, strategy: Strategy, *, new_pooler: bool = False) -> int | None:
    """Truncates the model or freezes parts of it, in place.

    Truncation changes the configuration too, so that the saved model is an ordinary one. The heads of `prune_heads`
    are cut by `pruning`. Norms behind the last layer are trained unless everything but the head is frozen.

    Args:
        new_pooler: the checkpoint has no pooler (masked language models), so that head_only trains it with the head.

    Returns:
        How many layers are frozen together with the embeddings; None where the embeddings are trained.

    Raises:
        UserError: more layers than the model has, or layers that are not in one list.
    """
    if strategy.kind in ("full", "prune_heads"):
        return None
    encoder = Encoder.of(model)
    layers = len(encoder.layers)
    if strategy.count is not None and strategy.count > layers:
        raise UserError(f"--strategy {strategy}: the model has only {layers} layers")
    if strategy.kind == "first_N":
        _truncate(encoder, strategy.count)
        return None
    count = {"freeze_N": strategy.count, "last_layer": layers - 1, "head_only": layers}[strategy.kind]
    frozen = [*([] if strategy.train_embeddings else encoder.front), *encoder.layers[:count]]
    if strategy.kind == "head_only":
        frozen += [getattr(*norm) for norm in encoder.norms]
        frozen += [encoder.pooler] if encoder.pooler is not None and not new_pooler else []
    for module in frozen:
        module.requires_grad_(False)
    return None if strategy.train_embeddings else count


def _truncate(encoder: Encoder, count: int) -> None:
    del encoder.layers[count:]
    config = encoder.model.config
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:count]
    if getattr(config, "pruned_heads", None):
        config.pruned_heads = {n: heads for n, heads in config.pruned_heads.items() if int(n) < count}


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
    encoder = Encoder.of(model)
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
