"""What the frozen first layers of an encoder compute, computed once and kept on disk.

Frozen layers in eval mode give the same hidden states for an example in every epoch. All processes compute them
together, each its share, and the layers above get them as their input. Sampler, batches, padding and the random numbers
of the dropout above stay what they are, so training has the same result as without (to rounding: other neighbours in a
batch are another padding). For a head that reads the first token alone, one vector an example is kept.
"""

import contextlib
import hashlib

import numpy as np
import torch
from datasets import Features, List, Value, concatenate_datasets
from safetensors.torch import save
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from common.cache import arrays, shared_map
from common.data import fingerprint
from common.models import evaluating, replaced
from common.text.layers import Encoder

# Models that can go on from the states of their layers, and whose heads read the first token alone.
FAMILIES = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")


class FrozenPrefix:
    """The embeddings and the first layers of a model with a head.

    Attributes:
        kept: how many tokens' states the rest of the model reads: 1 where only the head is left; None: all of them.
        for_states, always: what is replaced in the model that gets states, and at every call, for `models.replaced`.
    """

    def __init__(self, model, layers: int):
        encoder = Encoder(model)
        self.model, self.base, stack, name = model, encoder.base, encoder.stack, encoder.attribute
        self.kept = 1 if layers == len(encoder.layers) else None
        self.below = (stack, name, encoder.layers[:layers])
        # The modules stay in the model, where DDP wants to find them: the embeddings give back what they are given.
        given = (self.base.embeddings, "forward", lambda input_ids=None, inputs_embeds=None, *_, **__: inputs_embeds)
        self.for_states = [given, (stack, name, encoder.layers[layers:])]
        if hasattr(self.base, "embeddings_project"):  # ELECTRA's, which has been computed as well
            self.for_states.append((self.base, "embeddings_project", torch.nn.Identity()))
        self.always, last = [], getattr(encoder.layers[-1], "attention", None)
        if self.kept is None and hasattr(last, "output"):  # behind its attention the first token alone goes on
            whole = last.output.forward
            self.always = [(last.output, "forward", lambda *states: whole(*(state[:, :1] for state in states)))]

    def states(self, inputs: dict) -> torch.Tensor:
        """The hidden states [B, L, H], without gradient and in eval mode, of a batch of token ids."""
        with torch.no_grad(), evaluating(self.base), replaced([self.below]):
            return self.base(**inputs).last_hidden_state

    def fingerprint(self) -> str:
        """SHA-256 over what the states depend on: the weights that are not trained, and the configuration."""
        digest = hashlib.sha256(self.model.config.to_json_string().encode())
        for name, tensor in self.base.state_dict(keep_vars=True).items():
            if not tensor.requires_grad:  # one at a time: a large model is not held twice
                digest.update(save({name: tensor.detach().cpu().contiguous()}))
        return digest.hexdigest()


def skipped(prefix: FrozenPrefix | None, batch: dict) -> contextlib.AbstractContextManager:
    """Within it the model takes a batch of states (`inputs_embeds` [B, L, H]) for what its first layers gave."""
    if prefix is None:
        return contextlib.nullcontext()
    return replaced([*(prefix.for_states if "inputs_embeds" in batch else []), *prefix.always])


class StatesCollator:
    """A batch of rows as states: `inputs_embeds` [B, L, H] float32, zeros behind each end, `attention_mask`, `labels`.

    L is what the tokens' collator makes it, so that dropout draws as many random numbers as without the cache.
    """

    def __init__(self, states, width: int, tokens):
        self.states, self.width, self.tokens = states.with_format("arrow"), width, tokens

    def __call__(self, rows: list[dict]) -> dict:
        found = arrays(self.states, "states", [row["row"] for row in rows])
        found = [torch.tensor(states, dtype=torch.float32).reshape(-1, self.width) for states in found]
        states, counts = pad_sequence(found, batch_first=True), torch.tensor([len(one) for one in found])
        if (longest := states.shape[1]) > 1:
            multiple = self.tokens.pad_to_multiple_of or 1
            fixed = self.tokens.max_length if self.tokens.padding == "max_length" else None
            states = pad(states, (0, 0, 0, (fixed or -(-longest // multiple) * multiple) - longest))
        batch = {"inputs_embeds": states, "attention_mask": (torch.arange(states.shape[1]) < counts[:, None]).long()}
        if "labels" in rows[0]:
            batch["labels"] = torch.tensor([row["labels"] for row in rows])
        return batch


def frozen_states(model, layers: int | None, inputs: dict, collator, args, run) -> tuple:
    """What the trainer gets: the inputs, or the states that the first frozen layers make of them; by all processes.

    Args:
        layers: how many layers are frozen together with the embeddings; None: nothing can be kept.
        args: with frozen_cache (float16 has a relative error of 5e-4).

    Returns (data sets by split, their collator, the `FrozenPrefix` or None).
    """
    if layers is None:
        return inputs, collator, None
    if model.config.model_type not in FAMILIES:
        run.warn(f"the frozen part of a {model.config.model_type} model is computed in every epoch: no cache knows it")
        return inputs, collator, None
    prefix, settings = FrozenPrefix(model, layers), args.training_args
    if settings.gradient_checkpointing:  # which computes layers again when they are whole
        prefix.always = []
    if args.frozen_cache == "none":
        return inputs, collator, prefix
    names = [n for n in collator.tokenizer.model_input_names if n in next(iter(inputs.values())).column_names]
    lower = torch.bfloat16 if settings.bf16 else torch.float16 if settings.fp16 else None
    key = {
        "prefix": [layers, prefix.kept, prefix.fingerprint()],
        "storage": args.frozen_cache,
        "precision": [model.device.type, str(lower), torch.get_float32_matmul_precision(), torch.__version__],
    }

    def compute(batch: dict) -> dict:
        tokens = collator([dict(zip(batch, values)) for values in zip(*batch.values())]).to(model.device)
        with torch.autocast(model.device.type, lower, enabled=lower is not None):
            found = prefix.states(tokens).float().cpu().numpy().astype(args.frozen_cache)
        there = tokens["attention_mask"].cpu().numpy().astype(bool)
        return {"states": [states[mask][: prefix.kept].ravel() for states, mask in zip(found, there)]}

    made, parts = {}, []
    for split, dataset in inputs.items():
        by_length, before = np.argsort(dataset["length"], kind="stable"), sum(map(len, parts))
        tokens = dataset.select_columns(names).select(by_length)
        states = shared_map(
            tokens,
            compute,
            key=key | {"inputs": fingerprint(tokens)},
            args=args,
            run=run,
            batched=True,
            batch_size=settings.per_device_eval_batch_size,
            writer_batch_size=4 * settings.per_device_eval_batch_size,
            remove_columns=names,
            features=Features({"states": List(Value(args.frozen_cache))}),
            desc=f"frozen part, {split}",
        )
        parts.append(states)
        known = [column for column in ("length", "labels") if column in dataset.column_names]
        made[split] = dataset.select_columns(known).add_column("row", np.argsort(by_length) + before)
    return made, StatesCollator(concatenate_datasets(parts), model.config.hidden_size, collator), prefix
