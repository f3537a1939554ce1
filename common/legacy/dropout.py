"""Dropout on processors, where PyTorch's own is up to half of a training step.

PyTorch draws a random number for each value that may be dropped, one after another. Here one 64-bit number of the
same generator decides for four values: each is dropped where its 16 bits are below `p`, rounded to a multiple of 2^-16.
What is kept is scaled for that, so that the mean stays exact. Attention with dropout has no fused kernel on processors;
it is computed as PyTorch computes it then, but for the masks.

Random numbers come from PyTorch's state alone: checkpoints have it, and recomputed activations get the same masks. But
they are others than those of PyTorch's dropout: a run with it and one without are two samples of the same training.
"""

import contextlib
import math

import torch
from torch.nn import functional
from torch.nn.functional import dropout as stock_dropout
from torch.nn.functional import scaled_dot_product_attention as stock_attention

from common.legacy.temporarily import replaced

STEPS = 2**16  # that a probability is a multiple of


def quick_dropout(args) -> contextlib.AbstractContextManager:
    """Within it, `torch.nn.functional` has this module's functions, also in backward passes, which may recompute.

    Args:
        args: the `TrainingArguments`; a compiled model keeps PyTorch's dropout, which is compiled with it.
    """
    if args.device.type != "cpu" or args.torch_compile:
        return contextlib.nullcontext()
    ours = {"dropout": dropout, "scaled_dot_product_attention": attention}
    return replaced((functional, name, function) for name, function in ours.items())


def dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """`torch.nn.functional.dropout`, of which it takes the errors and what is not on the processor."""
    if not training or not _takes(input, p):
        return stock_dropout(input, p, training, inplace)
    noise = _noise(input, p)
    return input.mul_(noise) if inplace else input * noise


def attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
) -> torch.Tensor:
    """`torch.nn.functional.scaled_dot_product_attention`, which goes on with what has no dropout.

    Where a query may see no key at all, it sees all of them alike (PyTorch: the result is 0).
    """
    if is_causal or enable_gqa or not _takes(query, dropout_p):
        settings = {"is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
        return stock_attention(query, key, value, attn_mask, dropout_p, **settings)
    query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = query @ key.transpose(-2, -1)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        lowest = torch.finfo(scores.dtype).min
        attn_mask = torch.zeros(attn_mask.shape, dtype=scores.dtype).masked_fill_(~attn_mask, lowest)
    if attn_mask is not None:
        scores = scores + attn_mask
    shares = functional.softmax(scores, -1)
    return (shares * _noise(shares, dropout_p)) @ value


def _takes(values: torch.Tensor, p: float) -> bool:
    return values.device.type == "cpu" and values.is_floating_point() and 0 < round(p * STEPS) < STEPS


def _noise(values: torch.Tensor, p: float) -> torch.Tensor:
    """Of the shape and type of `values`: 0 with probability `p`, else what makes the mean 1."""
    dropped = round(p * STEPS)
    drawn = torch.empty(math.ceil(values.numel() / 4), dtype=torch.int64).random_(-(2**63), None)
    bits = drawn.view(torch.int16)[: values.numel()].view(values.shape)  # -2^15 to 2^15 - 1
    noise = torch.empty(values.shape, dtype=values.dtype)
    torch.ge(bits, dropped - STEPS // 2, out=noise)
    return noise.mul_(STEPS / (STEPS - dropped))
