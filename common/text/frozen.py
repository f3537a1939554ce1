"""What the frozen first layers of an encoder compute, computed once and kept on disk.

Frozen layers in eval mode give the same hidden states for an example in every epoch. All processes compute them
together, each its share, and the layers above get them as their input. Sampler, batches, padding and the random numbers
of the dropout above stay what they are, so training has the same result as without (to rounding: other neighbours in a
batch are another padding). Where the head reads the first token alone, the last layer goes on with that one behind its
attention, and below the head there is one vector an example.
"""

import contextlib
import hashlib
import json

import numpy as np
import torch

from common.cache import arrays, shared_map
from common.data import fingerprint
from common.models import evaluating, replaced
from common.text.layers import Encoder

# Fields of a model's configuration that its layers do not compute with (nor with dropouts, in eval mode).
NOT_COMPUTED = ("_name_or_path", "architectures", "dtype", "id2label", "label2id", "preparation", "problem_type")
SORTED_TOGETHER = 1024  # rows; their batches are of nearly equal length, and every process's share is alike


class FrozenPrefix:
    """The embeddings and the first layers of a model with a head.

    Attributes:
        layers: how many layers belong to the prefix; `whole`: whether these are all.
        first_token: whether the head reads the first token alone.
        for_states, always: what is replaced in the model that gets states, and at every call, for `models.replaced`.
    """

    def __init__(self, model, layers: int, first_token: bool):
        encoder = Encoder.of(model)
        self.model, self.layers, self.first_token = encoder.model, layers, first_token
        self.base, stack, name = encoder.base, encoder.stack, encoder.attribute
        self.whole, last = layers == len(encoder.layers), getattr(encoder.layers[-1], "attention", None)
        self.below = [(stack, name, encoder.layers[:layers])]
        self.below += [(*norm, torch.nn.Identity()) for norm in encoder.norms]
        self.for_states = [
            (self.base, "embeddings", _Given(self.base.embeddings)),
            (stack, name, encoder.layers[layers:]),
        ]
        # What stands between embeddings and layers (ELECTRA's projection) has been computed as well.
        if hasattr(self.base, "embeddings_project"):
            self.for_states.append((self.base, "embeddings_project", torch.nn.Identity()))
        shortened = first_token and not self.whole and hasattr(last, "output")
        self.always = [(last, "output", _FirstToken(last.output))] if shortened else []

    def states(self, inputs: dict) -> torch.Tensor:
        """The hidden states [B, L, H], without gradient and in eval mode, of a batch of token ids."""
        with torch.no_grad(), evaluating(self.base), replaced(self.below):
            return self.base(**inputs).last_hidden_state

    def fingerprint(self) -> str:
        """SHA-256 over what the states depend on: weights that are not trained, and the configuration."""
        config = self.model.config.to_dict()
        used = {k: v for k, v in config.items() if k not in NOT_COMPUTED and "dropout" not in k}
        digest = hashlib.sha256(json.dumps([self.layers, used], sort_keys=True, default=str).encode())
        for name, tensor in self.base.state_dict(keep_vars=True).items():
            if not tensor.requires_grad:
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def agrees(self, inputs: dict) -> bool:
        """Whether the whole model gives the same for token ids and for their states.

        Not so where the upper layers need to know which layer they are (DeBERTa's convolution follows the first one),
        or where the head reads more than is kept.
        """
        kept = 1 if self.whole and self.first_token else None
        with torch.no_grad(), evaluating(self.model):
            expected = self.model(**inputs).logits
            mask = inputs["attention_mask"][:, :kept]
            given = {"inputs_embeds": self.states(inputs)[:, :kept], "attention_mask": mask}
            with skipped(self, given):
                found = self.model(**given).logits
        return expected.shape == found.shape and torch.allclose(expected, found, 1e-3, 1e-4)


def skipped(prefix: FrozenPrefix | None, batch: dict) -> contextlib.AbstractContextManager:
    """Within it the model takes a batch of states (`inputs_embeds` [B, L, H]) for what its first layers gave.

    For a batch of token ids these layers work; afterwards the model is whole again.
    """
    given = prefix.for_states if prefix and "inputs_embeds" in batch else []
    return replaced([*given, *prefix.always]) if prefix else contextlib.nullcontext()


class _Given(torch.nn.Module):
    """Stands for the embeddings: gives back what it is given."""

    def __init__(self, embeddings: torch.nn.Module):
        super().__init__()
        self.embeddings = embeddings  # whose buffers DDP wants to find in the model at every call

    def forward(self, input_ids=None, inputs_embeds=None, *_, **__):
        return inputs_embeds


class _FirstToken(torch.nn.Module):
    """Stands for a module of which the first token's output is enough."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *states):
        return self.module(*(state[:, :1] for state in states))


class FrozenStates(torch.utils.data.Dataset):
    """N examples as states: a row is `inputs_embeds` [L, H] and, where it is known, `labels`.

    Attributes:
        lengths: int64 [N], tokens of each example, also where one vector of it is kept: the batches are the same.
    """

    def __init__(self, inputs, states, place: np.ndarray, width: int):
        self.lengths, self.width, self.place = np.array(inputs["length"][:]), width, place
        self.labels = inputs["labels"][:] if "labels" in inputs.column_names else None
        self.states = states.with_format("arrow")

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitems__(self, rows: list[int]) -> list[dict]:
        found = arrays(self.states, "states", self.place[rows].tolist())
        items = [{"inputs_embeds": states.reshape(-1, self.width)} for states in found]
        for item, row in zip(items, rows):
            item |= {} if self.labels is None else {"labels": self.labels[row]}
        return items

    def __getitem__(self, row: int) -> dict:
        return self.__getitems__([row])[0]


class StatesCollator:
    """A batch of `FrozenStates`: `inputs_embeds` [B, L, H] float32, zeros behind each end, `attention_mask`, `labels`.

    L is what `DataCollatorWithPadding` makes it, so that dropout draws as many random numbers as without the cache.
    """

    def __init__(self, padding: str | bool, max_length: int, multiple: int | None):
        self.fixed = max_length if padding == "max_length" else None
        self.multiple = multiple or 1

    def __call__(self, items: list[dict]) -> dict:
        counts = np.array([len(item["inputs_embeds"]) for item in items])
        longest = int(counts.max())
        width = longest if longest == 1 else self.fixed or -(-longest // self.multiple) * self.multiple
        states = torch.zeros(len(items), width, items[0]["inputs_embeds"].shape[1])
        for target, item in zip(states.numpy(), items):
            target[: len(item["inputs_embeds"])] = item["inputs_embeds"]
        batch = {"inputs_embeds": states, "attention_mask": torch.from_numpy((np.arange(width) < counts[:, None]) * 1)}
        if "labels" in items[0]:
            batch["labels"] = torch.tensor([item["labels"] for item in items])
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
    if isinstance(prefix, str):
        run.warn(f"the frozen part is computed in every epoch: {prefix}")
    elif args.training_args.gradient_checkpointing:  # which computes layers again when they are whole
        prefix.always = []
    if isinstance(prefix, str) or args.frozen_cache == "none":
        return inputs, collator, None if isinstance(prefix, str) else prefix
    settings, width = args.training_args, model.config.hidden_size
    kept = 1 if prefix.whole and prefix.first_token else None
    lower = torch.bfloat16 if settings.bf16 else torch.float16 if settings.fp16 else None
    key = {
        "prefix": prefix.fingerprint(),
        "tokens kept": kept,
        "storage": args.frozen_cache,
        "precision": [model.device.type, str(lower), torch.get_float32_matmul_precision(), torch.__version__],
    }

    def compute(batch: dict) -> dict:
        rows = [dict(zip(batch, values)) for values in zip(*batch.values())]
        tokens = collator(rows).to(model.device)
        with torch.autocast(model.device.type, lower, enabled=lower is not None):
            states = prefix.states(tokens).float().cpu().numpy().astype(args.frozen_cache)
        there = tokens["attention_mask"].cpu().numpy().astype(bool)
        return {"states": [of_one[mask][:kept].ravel() for of_one, mask in zip(states, there)]}

    from datasets import Features, List, Value

    made, size = {}, settings.per_device_eval_batch_size
    for split, dataset in inputs.items():
        lengths = np.array(dataset["length"][:])
        chunks = np.array_split(np.arange(len(dataset)), range(SORTED_TOGETHER, len(dataset), SORTED_TOGETHER))
        order = np.concatenate([chunk[np.argsort(-lengths[chunk], kind="stable")] for chunk in chunks])
        states = shared_map(
            dataset.select_columns(names).select(order),
            compute,
            key=key | {"inputs": fingerprint(dataset.select_columns(names))},
            args=args,
            run=run,
            batched=True,
            batch_size=size,
            writer_batch_size=size,  # a thousand rows of states would be too much memory
            remove_columns=names,
            features=Features({"states": List(Value(args.frozen_cache))}),
            desc=f"frozen part, {split}",
        )
        made[split] = FrozenStates(dataset, states, np.argsort(order), width)
    return made, StatesCollator(collator.padding, collator.max_length, collator.pad_to_multiple_of), prefix


def _working_prefix(model, layers: int, tokens, collator) -> "FrozenPrefix | str":
    """The prefix from whose states the model can go on, or why there is none, in words."""
    kind = type(model).__name__
    if not hasattr(model.base_model, "embeddings"):
        return f"a {kind} has no embeddings of its own that could be passed by"
    lengths = np.array([len(ids) for ids in tokens["input_ids"][:64]])
    batch = collator([tokens[int(i)] for i in (lengths.argmin(), lengths.argmax())]).to(model.device)
    for first_token in (True, False):
        prefix = FrozenPrefix(model, layers, first_token)
        with contextlib.suppress(Exception):  # whatever a model raises that gets states where it expects tokens
            if prefix.agrees(batch):
                return prefix
    return f"a {kind} cannot go on from the states of its first {layers} layers"
