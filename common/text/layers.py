"""What a pre-trained encoder takes, and how much of it is trained: its parts, strategies, the head's learning rate."""

import re
from collections.abc import Callable
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


def fit_to_model(tokenizer, model, max_length: int, warn: Callable[[str], None]) -> int:
    """How many tokens inputs may have; makes the tokenizer give no token types that the model does not have."""
    longest, types = tokenizer.model_max_length, None
    for path, table in model.named_modules():
        name = path.rpartition(".")[2]
        if name in ("position_embeddings", "embed_positions", "wpe") and hasattr(table, "weight"):
            first = 0 if table.padding_idx is None else table.padding_idx + 1  # RoBERTa's begin behind the padding
            longest = min(longest, len(table.weight) - getattr(table, "offset", first))  # the offset is BART's
        elif name == "token_type_embeddings":
            types = table
    if longest < max_length:
        warn(f"inputs have up to {longest} tokens, the most that this model takes, not --max_length {max_length}")
    if "token_type_ids" in tokenizer.model_input_names and types is not None and len(types.weight) < 2:
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
        warn("the tokenizer gives token types that this model does not have; they are left out")
    return min(longest, max_length)


class Encoder:
    """The parts of a model with a head; raises `UserError` where its layers do not stand in one list.

    Attributes:
        base: the model's encoder without the head, such as `model.bert`.
        stack: the module that holds the `layers`, such as `model.bert.encoder`, under the name `attribute`.
        pooler: what comes between the last layer and the head inside `base`, or None (RoBERTa, DistilBERT).
        norms: those behind the last layer, as Megatron, XLM-R XL, ModernBERT and GPT-2 have.
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
        parts = [] if hasattr(self.stack, "rel_embeddings") else [*self.base.children(), *self.stack.children()]
        self.norms = [part for part in parts if type(part).__name__.endswith("Norm")]  # DeBERTa's is for positions


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
    """Truncates the model or freezes parts of it, in place; the heads of `prune_heads` are cut by `pruning`.

    `new_pooler`: the checkpoint has none (masked language models), so that head_only trains it with the head.

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
    pooler = [] if encoder.pooler is None else [encoder.pooler]
    trained = [*encoder.layers[count:], *pooler, *encoder.norms]
    if strategy.kind == "head_only":
        trained = pooler if new_pooler else []
    encoder.base.requires_grad_(False)
    for module in [*trained, encoder.base.embeddings] if train_embeddings else trained:
        module.requires_grad_(True)
    return None if train_embeddings else count


def parameter_groups(model, rate: float, head_rate: float, weight_decay: float, decaying: list[str]) -> list[dict]:
    """The trainable parameters in groups for AdamW: the head's learn at `head_rate`, the encoder's at `rate`.

    Those whose names are in `decaying` decay by `weight_decay`. Groups and parameters stand in the model's order, the
    same in every run, by which a saved optimizer finds its parameters again.
    """
    encoder, groups = {*model.base_model.parameters()}, {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = rate if parameter in encoder else head_rate, weight_decay if name in decaying else 0.0
            groups.setdefault(key, []).append(parameter)
    return [{"params": found, "lr": lr, "weight_decay": decay} for (lr, decay), found in groups.items()]
