"""What the frozen first layers of an encoder compute, computed once and kept on disk.

Frozen layers in eval mode give the same hidden states for an example in every epoch. All processes compute them
together, each its share, and the layers above get them as their input. Sampler, batches, padding and the random numbers
of the dropout above stay what they are, so training has the same result as without (to rounding: other neighbours in a
batch are another padding). Where the head reads the first token alone, the last layer goes on with that one behind its
attention, and below the head there is one vector an example.
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


class FrozenPrefix:
    """The embeddings and the first layers of a model with a head.

    Attributes:
        kept: 1 where they are all there is below the head, and it reads the first token alone; None: all tokens.
        for_states, always: what is replaced in the model that gets states, and at every call, for `models.replaced`.
    """

    def __init__(self, model, layers: int, first_token: bool):
        encoder = Encoder(model)
        self.model, self.base, stack, name = model, encoder.base, encoder.stack, encoder.attribute
        whole, last = layers == len(encoder.layers), getattr(encoder.layers[-1], "attention", None)
        self.kept = 1 if whole and first_token else None
        self.below = [(stack, name, encoder.layers[:layers])]
        self.below += [(*norm, torch.nn.Identity()) for norm in encoder.norms]
        # The modules stay in the model, where DDP wants to find them: the embeddings give back what they are given.
        given = (self.base.embeddings, "forward", lambda input_ids=None, inputs_embeds=None, *_, **__: inputs_embeds)
        self.for_states = [given, (stack, name, encoder.layers[layers:])]
        # What stands between embeddings and layers (ELECTRA's projection) has been computed as well.
        if hasattr(self.base, "embeddings_project"):
            self.for_states.append((self.base, "embeddings_project", torch.nn.Identity()))
        self.always = []
        if first_token and not whole and hasattr(last, "output"):
            all_tokens = last.output.forward
            self.always = [(last.output, "forward", lambda *states: all_tokens(*(state[:, :1] for state in states)))]

    def states(self, inputs: dict) -> torch.Tensor:
        """The hidden states [B, L, H], without gradient and in eval mode, of a batch of token ids."""
        with torch.no_grad(), evaluating(self.base), replaced(self.below):
            return self.base(**inputs).last_hidden_state

    def fingerprint(self) -> str:
        """SHA-256 over what the states depend on: the weights that are not trained, and the configuration."""
        digest = hashlib.sha256(self.model.config.to_json_string().encode())
        for name, tensor in self.base.state_dict(keep_vars=True).items():
            if not tensor.requires_grad:  # one at a time: a large model is not held twice
                digest.update(save({name: tensor.detach().cpu().contiguous()}))
        return digest.hexdigest()

    def agrees(self, inputs: dict) -> bool:
        """Whether the whole model gives the same for token ids and for their states.

        Not so where the upper layers need to know which layer they are (DeBERTa's convolution follows the first one),
        or where the head reads more than is kept.
        """
        with torch.no_grad(), evaluating(self.model):
            expected = self.model(**inputs).logits
            mask = inputs["attention_mask"][:, : self.kept]
            given = {"inputs_embeds": self.states(inputs)[:, : self.kept], "attention_mask": mask}
            with skipped(self, given):
                found = self.model(**given).logits
        return expected.shape == found.shape and torch.allclose(expected, found, 1e-3, 1e-4)


def skipped(prefix: FrozenPrefix | None, batch: dict) -> contextlib.AbstractContextManager:
    """Within it the model takes a batch of states (`inputs_embeds` [B, L, H]) for what its first layers gave.

    For a batch of token ids these layers work; afterwards the model is whole again.
    """
    given = prefix.for_states if prefix and "inputs_embeds" in batch else []
    return replaced([*given, *prefix.always]) if prefix else contextlib.nullcontext()


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

    For use before a `Trainer` gets the model, which may wrap its forward pass.

    Args:
        layers: how many layers are frozen together with the embeddings; None: nothing can be kept.
        inputs: split -> data set of tokens. collator: `DataCollatorWithPadding`.
        args: with frozen_cache (float32; float16: half the space, a relative error of 5e-4; none).

    Returns:
        (data sets by split, their collator, the `FrozenPrefix` or None).
    """
    if layers is None:
        return inputs, collator, None
    names = [n for n in collator.tokenizer.model_input_names if n in next(iter(inputs.values())).column_names]
    prefix = _working_prefix(model, layers, next(iter(inputs.values())).select_columns(names), collator)
    settings = args.training_args
    if prefix is None:
        kind = type(model).__name__
        run.warn(f"the frozen part is computed in every epoch: a {kind} cannot go on from the states of its layers")
    elif settings.gradient_checkpointing:  # which computes layers again when they are whole
        prefix.always = []
    if prefix is None or args.frozen_cache == "none":
        return inputs, collator, prefix
    lower = torch.bfloat16 if settings.bf16 else torch.float16 if settings.fp16 else None
    key = {
        "prefix": [layers, prefix.kept, prefix.fingerprint()],
        "storage": args.frozen_cache,
        "precision": [model.device.type, str(lower), torch.get_float32_matmul_precision(), torch.__version__],
    }
    size = settings.per_device_eval_batch_size

    def compute(batch: dict) -> dict:
        rows, states = [dict(zip(batch, values)) for values in zip(*batch.values())], {}
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
        for part in (order[at : at + size] for at in range(0, len(order), size)):
            tokens = collator([rows[i] for i in part]).to(model.device)
            with torch.autocast(model.device.type, lower, enabled=lower is not None):
                found = prefix.states(tokens).float().cpu().numpy().astype(args.frozen_cache)
            there = tokens["attention_mask"].cpu().numpy().astype(bool)
            states |= {i: one[mask][: prefix.kept].ravel() for i, one, mask in zip(part, found, there)}
        return {"states": [states[i] for i in range(len(rows))]}

    made, parts = {}, []
    for split, dataset in inputs.items():
        tokens, before = dataset.select_columns(names), sum(map(len, parts))
        states = shared_map(
            tokens,
            compute,
            key=key | {"inputs": fingerprint(tokens)},
            args=args,
            run=run,
            batched=True,
            batch_size=4 * size,  # sorted by length among themselves; all in memory
            writer_batch_size=4 * size,
            remove_columns=names,
            features=Features({"states": List(Value(args.frozen_cache))}),
            desc=f"frozen part, {split}",
        )
        parts.append(states)
        known = [column for column in ("length", "labels") if column in dataset.column_names]
        made[split] = dataset.select_columns(known).add_column("row", np.arange(len(dataset)) + before)
    return made, StatesCollator(concatenate_datasets(parts), model.config.hidden_size, collator), prefix


def _working_prefix(model, layers: int, tokens, collator) -> FrozenPrefix | None:
    """The prefix from whose states the model can go on, if there is one."""
    lengths = np.array([len(ids) for ids in tokens["input_ids"][:64]])
    batch = collator([tokens[int(i)] for i in (lengths.argmin(), lengths.argmax())]).to(model.device)
    for first_token in (True, False):
        with contextlib.suppress(Exception):  # whatever a model raises that gets states where it expects tokens
            prefix = FrozenPrefix(model, layers, first_token)
            if prefix.agrees(batch):
                return prefix
    return None
