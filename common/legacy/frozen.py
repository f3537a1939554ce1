"""What the frozen first layers of an encoder compute, computed once and kept on disk.

Frozen layers in eval mode give the same hidden states for an example in every epoch. They are computed in one pass,
memory-mapped, and given to the layers above as their input; sampler, batches, padding and the random numbers of the
dropout above stay what they are, so training has the same result as without (to rounding: other neighbours in a batch
are another padding). Below the head there is one vector an example: the first token's, which is all that a
classification head reads.

Not for layers that are trained, or whose dropout is on; who freezes them is not decided here.
"""

import functools
import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from common.legacy.cache import MappedDataset, cached_files
from common.legacy.encoders import Encoder
from common.legacy.pair_inputs import PairInputs, collate_pairs
from common.legacy.temporarily import evaluating, replaced

# Fields of a model's configuration that its layers do not compute with; some are set when it is saved or trained.
# Dropouts are none either, since the layers are in eval mode.
NOT_COMPUTED = {"_name_or_path", "architectures", "bos_token_id", "dtype", "eos_token_id", "id2label", "label2id"}
NOT_COMPUTED |= {"problem_type", "transformers_version", "use_cache"}


class FrozenPrefix:
    """The embeddings and the first layers of a model with a head, which may be wrapped by peft.

    Attributes:
        model: the model itself, unwrapped.
        layers: how many layers belong to the prefix.
        whole: whether these are all, so that only the first token's state is needed above.
    """

    def __init__(self, model, layers: int):
        encoder = Encoder.of(model)
        if not 0 <= layers <= len(encoder.layers):
            raise ValueError(f"{layers} of {len(encoder.layers)} layers")
        self.model, self.layers, self.whole = encoder.model, layers, layers == len(encoder.layers)
        self._base, self._stack = encoder.base, encoder.stack
        self._below, above = encoder.layers[:layers], encoder.layers[layers:]
        # What stands between embeddings and layers (ELECTRA's projection) has been computed as well.
        self._given = [(encoder.base, "embeddings", _Given(encoder.embeddings)), (encoder.stack, "layer", above)]
        if hasattr(encoder.base, "embeddings_project"):
            self._given.append((encoder.base, "embeddings_project", torch.nn.Identity()))
        self._apart = [*above, *([encoder.pooler] if encoder.pooler is not None else [])]

    def forward(self, model, inputs: dict):
        """The output of `model` for a batch, of cached states `inputs_embeds` [B, L, H] or of token ids.

        `model` is the model, or what peft, DDP or autocast has made of it. Where states are given, embeddings and
        layers of the prefix are passed by during the call only; before and after it the model is whole.
        """
        if "inputs_embeds" not in inputs:
            return model(**inputs)
        with replaced(self._given):
            return model(**inputs)

    def states(self, inputs: dict) -> torch.Tensor:
        """The hidden states [B, L, H], without gradient and in eval mode, of a batch of token ids."""
        with torch.no_grad(), evaluating(self._base), replaced([(self._stack, "layer", self._below)]):
            return self._base(**inputs).last_hidden_state

    @property
    def device(self) -> torch.device:
        """Where the model is, and its states are computed."""
        return next(self._base.parameters()).device

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that the states depend on, by name: what the encoder has but for the layers above and the pooler."""
        apart = {id(t) for module in self._apart for t in (*module.parameters(), *module.buffers())}
        return {name: t for name, t in self._base.state_dict(keep_vars=True).items() if id(t) not in apart}

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the weights and settings that the states depend on; computed once, since these are frozen."""
        config = self.model.config.to_dict()
        used = {k: v for k, v in config.items() if k not in NOT_COMPUTED and "dropout" not in k}
        kind = type(self.model).__name__, self.layers, self.model.config._attn_implementation
        digest = hashlib.sha256(json.dumps([kind, used], sort_keys=True, default=str).encode())
        for name, tensor in self.tensors().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def agrees(self, inputs: dict) -> bool:
        """Whether the whole model gives the same for token ids and for their states.

        Not so where the upper layers need to know which layer they are (DeBERTa's convolution follows the first one),
        or where a head reads more than the first token.
        """
        with torch.no_grad(), evaluating(self.model):
            outputs = self.model(**inputs).to_tuple()
            given = {"inputs_embeds": self.states(inputs), "attention_mask": inputs["attention_mask"]}
            if self.whole:
                given = {name: tensor[:, :1] for name, tensor in given.items()}
            found = self.forward(self.model, given).to_tuple()
        return all(a.shape == b.shape and torch.allclose(a, b, 1e-3, 1e-4) for a, b in zip(outputs, found, strict=True))


class _Disagreement(Exception):
    """See `FrozenPrefix.agrees`."""


class _Given(torch.nn.Module):
    """Stands for the embeddings, whose first two arguments it has: gives back what it is given."""

    def __init__(self, embeddings: torch.nn.Module):
        super().__init__()
        self.embeddings = embeddings  # whose buffers DDP wants to find in the model at every call

    def forward(self, input_ids=None, inputs_embeds=None, *_, **__):
        return inputs_embeds


class CachedStates(MappedDataset):
    """The states of N examples, ready to be batched by `collate_states`; a data set of (self, row).

    A copy in another process (a data loader's worker) maps the same file.

    Attributes:
        lengths: int64 [N], tokens of each example as in the inputs, also where only one vector of it is kept: the
            sampler makes the same batches of them as without the cache.
        examples, targets: as in the inputs.
        states: [tokens of all examples, H], or [N, H] if only the first token's are kept; memory-mapped.
        begin: int64 [N + 1]: the states of example i are `states[begin[i]:begin[i + 1]]`.
    """

    width = PairInputs.width  # a batch is padded as the pairs are: dropout draws as many random numbers

    def __init__(self, inputs: PairInputs, states: np.ndarray, begin: np.ndarray, whole: bool):
        self.lengths, self.examples, self.targets = inputs.lengths, inputs.examples, inputs.targets
        self.pad_to, self.pad_to_multiple_of = inputs.pad_to, inputs.pad_to_multiple_of
        self.states, self.begin, self.whole = states, begin, whole


def collate_states(items: list[tuple[CachedStates, int]]) -> dict:
    """A batch as tensors: `inputs_embeds` [B, L, H] float32, padded on the right by zeros, and `attention_mask` [B, L].

    Beside these: `row` [B] and, if known, `targets` [B]. L is 1 where only the first token's state is kept. Pairs whose
    states could not be kept are collated by `collate_pairs`.
    """
    data = items[0][0]
    if isinstance(data, PairInputs):
        return collate_pairs(items)
    rows = np.array([row for _, row in items])
    width = 1 if data.whole else data.width(rows)
    counts = data.begin[rows + 1] - data.begin[rows]
    kept = data.states.view(np.ndarray)  # a map's own slices are slower
    states = torch.empty(len(rows), width, kept.shape[1])
    for target, begin, count in zip(states.numpy(), data.begin[rows], counts):
        target[:count] = kept[begin : begin + count]
        target[count:] = 0
    batch = {
        "inputs_embeds": states,
        "attention_mask": torch.from_numpy((np.arange(width) < counts[:, None]).astype(np.int64)),
        "row": torch.from_numpy(rows),
    }
    if data.targets is not None:
        batch["targets"] = torch.from_numpy(data.targets[rows])
    return batch


def states_of(
    inputs: PairInputs,
    prefix: FrozenPrefix,
    root: Path,
    *,
    batch_size: int,
    autocast: torch.dtype | None = None,
    storage: str = "float32",
    progress: str | None = None,
    overwrite: bool = False,
) -> CachedStates | str:
    """The states that `prefix` gives for `inputs`: from the cache at `root`, or computed on the model's device.

    For use before a `Trainer` gets the model, which may wrap its forward pass.

    Args:
        batch_size: examples computed at once.
        autocast: the lower precision that training uses, if any.
        storage: `float32`, or `float16` for half the space and a relative error of 5e-4.
        progress: what the progress bar is called; None: no bar.
        overwrite: compute anew.

    Returns:
        The data set, or why there is none, in words: part of the prefix is trained, the model cannot go on from
        cached states, or there is no place for them.
    """
    trained = [name for name, tensor in prefix.tensors().items() if tensor.requires_grad]
    if trained:
        return f"{trained[0]} belongs to what would be cached, and is trained"
    counts = np.ones_like(inputs.lengths) if prefix.whole else inputs.lengths
    begin = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    longest_first = np.argsort(-inputs.lengths, kind="stable")  # so that too little memory shows at once
    shape, dtype = (int(begin[-1]), prefix.model.config.hidden_size), np.dtype(storage)

    def batch_of(rows: np.ndarray) -> dict:
        batch = collate_pairs([inputs[row] for row in rows])
        return {k: v.to(prefix.device) for k, v in batch.items() if k not in ("row", "targets")}

    def build(folder: Path) -> None:
        from tqdm import tqdm

        if len(inputs) and not prefix.agrees(batch_of(longest_first[[0, -1]])):
            raise _Disagreement
        casting = torch.autocast(prefix.device.type, autocast, enabled=autocast is not None)
        bar = tqdm(total=len(inputs), desc=progress, unit="pair", disable=progress is None)
        # Written, not mapped: on a disk that fills up, writing is an error, and touching a map kills the process.
        with (folder / "states.npy").open("wb") as file, casting, bar:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(file, header)
            start = file.tell()
            for at in range(0, len(inputs), batch_size):
                rows = longest_first[at : at + batch_size]
                states = prefix.states(batch_of(rows)).to("cpu", torch.float32).numpy().astype(dtype, copy=False)
                for row, state in zip(rows, states):
                    file.seek(start + int(begin[row]) * shape[1] * dtype.itemsize)
                    file.write(np.ascontiguousarray(state[: counts[row]]))
                bar.update(len(rows))

    key = {
        "prefix": prefix.fingerprint,
        "inputs": _fingerprint(inputs),
        "first token only": prefix.whole,
        "storage": storage,
        "precision": [prefix.device.type, str(autocast), torch.get_float32_matmul_precision()],
        "versions": _versions(),
    }
    try:
        size = shape[0] * shape[1] * dtype.itemsize
        states = cached_files(key, build, root, size=size, overwrite=overwrite)["states"]
    except _Disagreement:
        return f"a {type(prefix.model).__name__} cannot go on from the states of its first {prefix.layers} layers"
    except OSError as error:
        return f"cache {root}: {error.strerror or error}"
    return CachedStates(inputs, states, begin, prefix.whole)


def _fingerprint(inputs: PairInputs) -> str:
    """SHA-256 over the tokens of each pair as they are after truncation; not their padding, which changes nothing."""
    digest = hashlib.sha256(repr(inputs.template).encode())
    for tokens, spans in zip(inputs.tokens, (inputs.first, inputs.second)):
        digest.update(np.diff(spans).astype(np.int64))
        ids = np.asarray(tokens.ids)
        for begin, end in spans:
            digest.update(ids[begin:end])
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__}
