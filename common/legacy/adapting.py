"""How much of a pre-trained encoder is trained: strategies, parameter counts, learning rates by depth.

A frozen part gets no gradients and stays in eval mode, so that it computes the same function at every step and what it
computes may be cached. Not for choosing and cutting heads (`pruning`), nor for adapters (`lora`).
"""

import functools
import re
from dataclasses import dataclass

from common.legacy.encoders import Encoder
from common.legacy.errors import UserError
from common.legacy.pruning import pruned_heads

STRATEGIES = {
    "full": "everything is trained",
    "freeze_N": "the embeddings and the first N layers are frozen",
    "last_layer": "only the last layer, the pooler and the classifier are trained",
    "head_only": "only the classifier is trained",
    "first_N": "only the first N layers are kept; everything is trained",
    "prune_heads": "a share of the attention heads is removed; everything is trained",
}


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
        if counted and not re.fullmatch("[0-9]+", counted[2] or ""):
            raise UserError(f"--strategy {text}: give a number of layers, as in {counted[1]}_9")
        if counted and int(counted[2]) == 0:
            raise UserError(f"--strategy {text}: the number of layers must be 1 or more")
        if train_embeddings and kind != "last_layer":
            raise UserError(f"--train_embeddings belongs to --strategy last_layer, not to {text}")
        return cls(kind, int(counted[2]) if counted else None, train_embeddings)

    def __str__(self) -> str:
        return self.kind if self.count is None else self.kind.replace("N", str(self.count))

    def trains(self, layers: int) -> tuple[bool, int, bool]:
        """(embeddings, the first layer, pooler) that are trained of an encoder that has `layers` layers in the end.

        freeze_N with all layers leaves the pooler to be trained, which head_only freezes.
        """
        embeddings = self.kind in ("full", "first_N", "prune_heads") or self.train_embeddings
        frozen = {"freeze_N": self.count, "last_layer": layers - 1, "head_only": layers}
        return embeddings, frozen.get(self.kind, 0), self.kind != "head_only"


@dataclass(frozen=True)
class Adaptation:
    """What was done to a model.

    Attributes:
        frozen_layers: how many layers next to the embeddings are frozen together with these, the part whose output is
            the same in every epoch; None where the embeddings are trained.
        pooler_frozen: whether the encoder's pooler, if it has one, is frozen.
        summary: a phrase for results.
    """

    frozen_layers: int | None
    pooler_frozen: bool
    summary: str


def apply(model, strategy: Strategy) -> Adaptation:
    """Truncates the model or freezes parts of it, in place; raises `UserError` for more layers than it has.

    Truncation changes the configuration too, so that the saved model is an ordinary one. The heads of `prune_heads`
    are pruned by `pruning`.
    """
    encoder = Encoder.of(model)
    before = len(encoder.layers)
    if strategy.count is not None and strategy.count > before:
        raise UserError(f"--strategy {strategy}: the model has only {before} layers")
    if strategy.kind == "first_N":
        _truncate(encoder, strategy.count)
    embeddings, first, pooler = strategy.trains(len(encoder.layers))
    frozen = [*([] if embeddings else encoder.front), *list(encoder.layers)[:first]]
    if encoder.pooler is not None and not pooler:
        frozen.append(encoder.pooler)
    for module in frozen:
        module.requires_grad_(False)
    keep_frozen_in_eval(encoder.base)
    words = {
        "freeze_N": f"the embeddings and the first {strategy.count} of {before} layers are frozen",
        "last_layer": f"only the last of {before} layers and what comes after it are trained",
        "first_N": f"only the first {strategy.count} of {before} layers are kept; everything is trained",
    }
    summary = words.get(strategy.kind, STRATEGIES[strategy.kind])
    if strategy.train_embeddings:
        summary = summary.replace("only", "only the embeddings,")
    return Adaptation(None if embeddings else first, not pooler, summary)


def _truncate(encoder: Encoder, count: int) -> None:
    del encoder.layers[count:]
    config = encoder.model.config
    config.num_hidden_layers = count
    if pruned_heads(config):
        config.pruned_heads = {str(n): heads for n, heads in pruned_heads(config).items() if n < count}


def keep_frozen_in_eval(module) -> None:
    """Keeps every part of `module` whose parameters are all frozen in eval mode, whatever a trainer does."""
    trained = [parameter.requires_grad for parameter in module.parameters()]
    if any(trained) or not trained:
        for child in module.children():
            keep_frozen_in_eval(child)
        return
    # On the instances: Trainer calls model.train() at every step, which calls each module's own train(). A partial is
    # copied and pickled with the model, and has the copy's module then; a closure would keep the first one.
    for frozen in module.modules():
        frozen.train = functools.partial(_train_nothing, frozen)
    module.eval()


def _train_nothing(module, mode: bool = True):
    return type(module).train(module, False)


# Parameter counts


def trainable_formula(config, strategy: Strategy) -> int | None:
    """How many parameters a strategy trains of a sequence classifier, from its configuration alone.

    With hidden size H, intermediate size I, vocabulary V, positions P, token types T and C classes, and a linear layer
    from a to b having ab + b parameters:

        embeddings   (V + P + T)·H + 2H (norm); DistilBERT has no T; ELECTRA's have a width of their own, and a linear
                     layer from it to H where it is not H
        each layer   query, key, value, output: 4·(H² + H); norm 2H; H to I, I to H; norm 2H
                     less 4·H·d + 3·d for each pruned head of size d
        pooler       H to H (BERT)
        classifier   H to C; before it H to H (RoBERTa, XLM-R, ELECTRA, DistilBERT)

    None for other families.
    """
    family, hidden = config.model_type, config.hidden_size
    if family not in ("bert", "roberta", "xlm-roberta", "electra", "distilbert"):
        return None
    intermediate = config.hidden_dim if family == "distilbert" else config.intermediate_size
    width = config.embedding_size if family == "electra" else hidden
    token_types = 0 if family == "distilbert" else config.type_vocab_size
    layers = strategy.count if strategy.kind == "first_N" else config.num_hidden_layers

    embeddings = (config.vocab_size + config.max_position_embeddings + token_types) * width + 2 * width
    embeddings += _linear(width, hidden) if width != hidden else 0
    layer = 4 * _linear(hidden, hidden) + _linear(hidden, intermediate) + _linear(intermediate, hidden) + 4 * hidden
    head_size = hidden // config.num_attention_heads
    pruned = pruned_heads(config)
    pooler = _linear(hidden, hidden) if family == "bert" else 0
    classifier = _linear(hidden, config.num_labels) + (_linear(hidden, hidden) if family != "bert" else 0)

    trains_embeddings, first, trains_pooler = strategy.trains(layers)
    trained_layers = range(first, layers)
    lost = sum(len(pruned.get(n, ())) for n in trained_layers) * (4 * hidden * head_size + 3 * head_size)
    encoder = trains_embeddings * embeddings + len(trained_layers) * layer - lost + trains_pooler * pooler
    return encoder + classifier


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


# Learning rates


def learning_rates(model, base_rate: float, head_rate: float | None, layer_decay: float) -> dict[str, float]:
    """Parameter name -> learning rate, lower towards the input: Howard and Ruder 2018, "discriminative fine-tuning".

    Of L layers, layer l (from 0) gets base_rate · layer_decay^(L-1-l), the embeddings base_rate · layer_decay^L, the
    pooler base_rate and the head `head_rate` (None: base_rate too).
    """
    encoder = Encoder.of(model)
    parts = [(base_rate, encoder.base), *((base_rate * layer_decay ** len(encoder.layers), m) for m in encoder.front)]
    parts += [(base_rate * layer_decay**above, layer) for above, layer in enumerate(reversed(encoder.layers))]
    rates = {parameter: rate for rate, module in parts for parameter in module.parameters()}  # the last one holds
    head_rate = base_rate if head_rate is None else head_rate
    return {name: rates.get(parameter, head_rate) for name, parameter in model.named_parameters()}


def parameter_groups(model, rates: dict[str, float], weight_decay: float) -> list[dict]:
    """The trainable parameters in groups for AdamW, one for each pair of learning rate and weight decay.

    Biases and norms do not decay, as with Trainer. Groups and parameters stand in the model's order, the same in every
    run, by which an optimizer's saved state finds its parameters again.

    Args:
        rates: learning rate by parameter name, as `learning_rates` gives.
    """
    import torch
    from transformers.trainer_pt_utils import get_parameter_names

    decaying = set(get_parameter_names(model, [torch.nn.LayerNorm], ["bias", "norm"]))
    groups = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = rates[name], weight_decay if name in decaying else 0.0
            groups.setdefault(key, []).append(parameter)
    return [{"params": found, "lr": rate, "weight_decay": decay} for (rate, decay), found in groups.items()]
