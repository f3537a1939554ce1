"""The last layer of an encoder for the first token alone, which is all that the head of a sequence classifier reads.

Its keys and values are those of all tokens; query, output projection and feed-forward are computed for one. Logits and
gradients are the same (to rounding), at about a sixth of that layer's work. In training, dropout draws fewer random
numbers than for the whole layer, so a run with it and one without are two samples of the same training.

For BERT, RoBERTa, XLM-R, ELECTRA and DistilBERT, whose weights stay where they are; other models go on as they are.
"""

import functools
import os
import sys
from collections.abc import Callable

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from common.legacy.encoders import Encoder
from common.legacy.frozen import FrozenPrefix
from common.legacy.temporarily import evaluating, replaced

FAMILIES = ("bert", "roberta", "xlm-roberta", "electra", "distilbert")


class FirstTokenLayer(torch.nn.Module):
    """Stands for `layer`, a part of it as before: hidden states [B, L, H] -> those of the first token [B, 1, H]."""

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states, attention_mask=None, *_, **__):
        layer, attention, first = self.layer, self.layer.attention, hidden_states[:, :1]
        if attention_mask is not None:
            attention_mask = attention_mask[..., :1, :]  # [B, 1, L, L], of which the first token's row
        if hasattr(attention, "self"):
            query, key, value = attention.self.query, attention.self.key, attention.self.value
            context = _attend(attention.self, query(first), key(hidden_states), value(hidden_states), attention_mask)
            return layer.feed_forward_chunk(attention.output(context, first))
        query, key, value = attention.q_lin, attention.k_lin, attention.v_lin  # DistilBERT
        context = _attend(attention, query(first), key(hidden_states), value(hidden_states), attention_mask)
        states = layer.sa_layer_norm(attention.out_lin(context) + first)
        return layer.output_layer_norm(layer.ffn.ff_chunk(states) + states)


def _attend(module, query, key, value, mask) -> torch.Tensor:
    """What the library's attention gives for `query` [B, 1, D]; D is less than H where heads have been pruned."""
    eager = sys.modules[type(module).__module__].eager_attention_forward
    attention = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, eager)
    heads = (x.unflatten(-1, (-1, module.attention_head_size)).transpose(1, 2) for x in (query, key, value))
    dropout = module.dropout.p if module.training else 0.0
    return attention(module, *heads, mask, dropout=dropout, scaling=module.scaling)[0].flatten(2)


class FirstToken:
    """Calls a model, which may be wrapped by peft, with its last layer for the first token only.

    Attributes:
        model: the model itself, unwrapped.
        prefix: its first layers, where a batch has their cached states instead of token ids; or None.
    """

    def __init__(self, model, prefix: FrozenPrefix | None = None):
        encoder = Encoder.of(model)
        self.model, self.prefix, self._stack = encoder.model, prefix, encoder.stack
        self._last = FirstTokenLayer(encoder.layers[-1])

    def forward(self, model, inputs: dict):
        """The output of `model` for a batch; `model` is the model, or what peft, DDP or autocast has made of it.

        The last layer is replaced during the call only; before and after it the model is whole.
        """
        shortened = functools.partial(self._shortened, model)
        return shortened(**inputs) if self.prefix is None else self.prefix.forward(shortened, inputs)

    def _shortened(self, model, **inputs):
        layers = self._stack.layer  # those above the cached states, of which there may be none
        with replaced([(layers, str(len(layers) - 1), self._last)] if len(layers) else []):
            return model(**inputs)

    def agrees(self) -> bool:
        """Whether the logits are those of the whole model, for two short texts, with and without padding.

        Not so where the head reads other tokens, too, or where a token does not see those after it.
        """
        device = next(self.model.parameters()).device
        ids = torch.arange(16, device=device).reshape(2, 8) % self.model.config.vocab_size
        mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3], device=device)
        with torch.no_grad(), evaluating(self.model):
            for inputs in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": mask}):
                whole, found = self.model(**inputs).logits, self._shortened(self.model, **inputs).logits
                if whole.shape != found.shape or not torch.allclose(whole, found, 1e-2, 1e-3):
                    return False
        return True


def quickest_forward(model, training, prefix: FrozenPrefix | None = None) -> Callable | None:
    """The `forward` of a trainer of `model`: with its last layer for the first token only, where that is the same.

    Elsewhere that of `prefix`, whose states have been cached, or None for the model's own; also with FSDP, where a
    layer gathers its weights when it is called itself. For use before a `Trainer` gets the model, which may wrap its
    forward pass.

    Args:
        training: the `TrainingArguments`.
    """
    known = model.config.model_type in FAMILIES and model.config._attn_implementation in ("eager", "sdpa")
    divided = training.fsdp or os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if known and not divided and (shortened := FirstToken(model, prefix)).agrees():
        return shortened.forward
    return prefix.forward if prefix is not None else None
