"""What a frozen speech encoder makes of each clip, computed once and kept on disk.

A frozen encoder in eval mode gives the same for a clip in every epoch. A head that begins by a mean over time (or a
linear layer and then the mean, which is the same in the other order) needs one vector of it, a CTC head one a frame.
Sampler, batches, padding and the random numbers of the dropout above stay what they are, so training has the same
result as without (to rounding: other neighbours in a batch are another padding).

Not for encoders of which anything is trained; who freezes them is `speech_encoders.freeze`. For texts: `frozen`.
"""

import functools
import hashlib
import importlib.metadata
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutput

from common.legacy.cache import MappedDataset, cached_files
from common.legacy.frozen import NOT_COMPUTED
from common.legacy.speech_encoders import encoder_of, frame_counts, frames_in, ignore_padding
from common.legacy.speech_heads import PooledClassifier, RecurrentCtc, pool
from common.legacy.temporarily import evaluating, replaced
from common.legacy.waveforms import SHORTEST_BATCH, Waveforms, collate_waveforms, targets_of

SAMPLES_AT_ONCE = 60 * 16_000  # of all clips of a batch, padding included
# Settings of an encoder that matter in training only, or for a head of transformers.
NOT_USED = {"apply_spec_augment", "classifier_proj_size", "layerdrop", "use_weighted_layer_sum", "vocab_size"}
NOT_USED |= NOT_COMPUTED | {"pad_token_id"}
LIBRARIES = ("torch", "transformers", "soundfile", "soxr")  # the last two make the samples


class FrozenSpeech:
    """The frozen encoder of a model: transformers' `...ForSequenceClassification` or `...ForCTC`, or a head of ours.

    Attributes:
        model: the model itself, unwrapped.
        pooling: how the frames of a clip become the one vector that the head needs; None: it needs every frame.
        weighted: whether it needs the hidden states of all layers.
    """

    def __init__(self, model):
        self.model, self._base = model, encoder_of(model)
        self._ours = isinstance(model, (PooledClassifier, RecurrentCtc))
        if isinstance(model, PooledClassifier):
            self.pooling = model.config.pooling if model.pools_early else None
        elif isinstance(model, RecurrentCtc) or type(model).__name__.endswith("ForCTC"):
            self.pooling = None
        elif type(model).__name__.endswith("ForSequenceClassification"):
            self.pooling = "mean"
        else:
            raise ValueError(f"a {type(model).__name__} is not one of these heads")
        self.weighted = getattr(model, "layer_weights", None) is not None
        ignore_padding(model)

    def forward(self, model, inputs: dict):
        """The output of `model` for a batch: of cached `features`, as `collate_features` gives, or of waveforms.

        `model` is the model, or what DDP or autocast has made of it. For features the encoder is passed by, during the
        call only, and the rest of the model is as it is.
        """
        if "features" not in inputs:
            return model(**inputs)
        if self._ours:
            return model(features=inputs["features"], frames=inputs["frames"])
        states = inputs["features"] if self.pooling is None else inputs["features"].unsqueeze(1)  # a clip of one frame
        with replaced([(self.model, self.model.base_model_prefix, _Given(self._base, self.weighted))]):
            return model(input_values=states)

    def features(self, inputs: dict) -> list[np.ndarray]:
        """What the head needs of each clip of a batch of waveforms, float32, without gradient and in eval mode.

        Each [H], or [T, H] for every one of the clip's own frames; where layers are weighted [L, H] or [T, L, H], with
        the hidden states of all of them from the input of the first one on.
        """
        with torch.no_grad(), evaluating(self._base):
            outputs = self._base(**inputs, output_hidden_states=self.weighted)
            frames = frames_in(self.model, inputs)
            layers = outputs.hidden_states if self.weighted else (outputs.last_hidden_state,)
            if self.pooling is not None:
                layers = [pool(states, frames, self.pooling) for states in layers]
            states = torch.stack(layers, dim=-2) if self.weighted else layers[0]
        found = states.to("cpu", torch.float32).numpy()
        return list(found) if self.pooling is not None else [rows[:n] for rows, n in zip(found, frames.tolist())]

    @property
    def device(self) -> torch.device:
        """Where the model is, and its features are computed."""
        return next(self._base.parameters()).device

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one vector, or of one frame: (H,), or (L, H) where layers are weighted."""
        config = self._base.config
        return (config.num_hidden_layers + 1, config.hidden_size) if self.weighted else (config.hidden_size,)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that the features depend on, by name: the encoder but for the vector that SpecAugment masks by."""
        return {k: v for k, v in self._base.state_dict(keep_vars=True).items() if k != "masked_spec_embed"}

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the weights and settings that the features depend on; computed once, since these are frozen."""
        config = self._base.config
        used = {k: v for k, v in config.to_dict().items() if k not in NOT_USED and "dropout" not in k}
        used = {k: v for k, v in used.items() if not k.startswith(("mask_", "ctc_"))}
        kind = type(self._base).__name__, self.pooling, self.weighted, config._attn_implementation
        digest = hashlib.sha256(json.dumps([kind, used], sort_keys=True, default=str).encode())
        for name, tensor in self.tensors().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def agrees(self, inputs: dict) -> bool:
        """Whether the whole model gives the same logits for waveforms and for their features."""
        with torch.no_grad(), evaluating(self.model):
            frames = frames_in(self.model, inputs)
            expected = self.model(**inputs)["logits"]
            features = [torch.from_numpy(rows).to(self.device) for rows in self.features(inputs)]
            features = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
            found = self.forward(self.model, {"features": features, "frames": frames})["logits"]
        if expected.ndim == 3:  # what stands behind a clip's own frames is not used
            own = torch.arange(found.shape[1], device=found.device) < frames[:, None]
            expected, found = expected[:, : found.shape[1]][own], found[own]
        return expected.shape == found.shape and torch.allclose(expected, found, 1e-3, 1e-4)


class _Given(torch.nn.Module):
    """Stands for the encoder, as which it is called: gives back the hidden states that it is given."""

    def __init__(self, encoder: torch.nn.Module, weighted: bool):
        super().__init__()
        self.encoder, self.weighted = encoder, weighted  # the encoder: DDP wants to find its buffers at every call

    def forward(self, states, **_) -> BaseModelOutput:  # [B, T, H] or [B, T, L, H]
        if not self.weighted:
            return BaseModelOutput(last_hidden_state=states)
        return BaseModelOutput(last_hidden_state=states[:, :, -1], hidden_states=states.unbind(2))


class CachedFeatures(MappedDataset):
    """The features of N clips, ready to be batched by `collate_features`; a data set of (self, row).

    A copy in another process (a data loader's worker) maps the same file.

    Attributes:
        lengths, examples, targets: as in the waveforms: the sampler makes the same batches of them.
        features: [N, ...] in any order, or [frames of all clips, ...]; memory-mapped.
        begin: int64 [N], where the clip's features begin.
        frames: int64 [N], of each clip, also where one vector is kept of all of them.
        pooled: whether it is.
        shortest: frames that a batch has at least, as it has of waveforms: dropout draws as many random numbers.
    """

    def __init__(self, inputs: Waveforms, arrays: dict[str, np.ndarray], pooled: bool, shortest: int):
        self.lengths, self.examples, self.targets = inputs.lengths, inputs.examples, inputs.targets
        self.features, self.pooled, self.shortest = arrays["features"], pooled, shortest
        self.begin, self.frames = np.array(arrays["begin"]), np.array(arrays["frames"])


def collate_features(items: list[tuple[CachedFeatures, int]]) -> dict:
    """A batch as tensors: `features` float32, [B, ...] of pooled clips, else [B, T, ...], padded on the right by zeros.

    Beside these: `frames` [B], `row` [B] and, if known, `targets` as of waveforms. Clips whose features could not be
    kept are collated by `collate_waveforms`.
    """
    data = items[0][0]
    if isinstance(data, Waveforms):
        return collate_waveforms(items)
    rows = np.array([row for _, row in items])
    kept, begins, frames = data.features.view(np.ndarray), data.begin[rows], data.frames[rows]  # a map itself is slower
    if data.pooled:
        features = torch.from_numpy(kept[begins].astype(np.float32, copy=False))
    else:
        features = torch.zeros(len(rows), max(data.shortest, frames.max()), *kept.shape[1:])
        for target, begin, count in zip(features.numpy(), begins, frames):
            target[:count] = kept[begin : begin + count]
    batch = {"features": features, "frames": torch.from_numpy(frames), "row": torch.from_numpy(rows)}
    if data.targets is not None:
        batch["targets"] = targets_of(data.targets, rows)
    return batch


class _Unusable(Exception):
    """Why features are of no use, in words."""


def features_of(
    inputs: Waveforms,
    frozen: FrozenSpeech,
    root: Path,
    *,
    batch_size: int,
    autocast: torch.dtype | None = None,
    storage: str = "float32",
    progress: str | None = None,
    overwrite: bool = False,
    workers: int | None = None,
) -> CachedFeatures | str:
    """The features that `frozen` gives for `inputs`: from the cache at `root`, or computed on the model's device.

    For use before a `Trainer` gets the model, which may wrap its forward pass. How much is going to be computed, and
    kept where, is printed before (stderr).

    Args:
        batch_size: clips computed at once, or fewer, as far as `SAMPLES_AT_ONCE` allows.
        autocast: the lower precision that training uses, if any.
        storage: `float32`, or `float16` for half the space and a relative error of 5e-4.
        progress: what the progress bar is called; None: no bar, nothing printed.
        overwrite: compute anew.
        workers: threads that decode the next batches meanwhile; None: one a core.

    Returns:
        The data set, or why there is none, in words: the encoder is trained, or there is no place for them.
    """
    trained = [name for name, tensor in frozen.tensors().items() if tensor.requires_grad]
    if trained:
        return f"{trained[0]} belongs to what would be cached, and is trained"
    pooled, dtype, config = frozen.pooling is not None, np.dtype(storage), frozen.model.config
    vectors = len(inputs) if pooled else int(frame_counts(config, inputs.lengths).sum())  # about
    size = vectors * int(np.prod(frozen.shape)) * dtype.itemsize

    def batch_of(rows: np.ndarray) -> dict:
        batch = collate_waveforms([inputs[row] for row in rows])
        return {name: batch[name] for name in ("input_values", "attention_mask")}

    def moved(batch: dict) -> dict:
        return {name: tensor.to(frozen.device) for name, tensor in batch.items()}

    def build(folder: Path) -> None:
        from tqdm import tqdm

        longest_first = np.argsort(-inputs.lengths, kind="stable")  # so that too little memory shows at once
        if progress is not None:
            amount = f"{vectors:,} {'vectors' if pooled else 'frames'} of {' x '.join(map(str, frozen.shape))} numbers"
            print(f"{progress}: {len(inputs):,} clips, {amount}, {size / 1e6:,.1f} MB in {root}", file=sys.stderr)
        if len(inputs) and not frozen.agrees(moved(batch_of(longest_first[[0, -1]]))):
            raise _Unusable(f"a {type(frozen.model).__name__} cannot go on from cached features")
        casting = torch.autocast(frozen.device.type, autocast, enabled=autocast is not None)
        bar = tqdm(total=len(inputs), desc=progress, unit="clip", disable=progress is None)
        begin, frames, written = np.zeros(len(inputs), np.int64), np.zeros(len(inputs), np.int64), 0
        # Written, not mapped: on a disk that fills up, writing is an error, and touching a map kills the process.
        with (folder / "features.npy").open("wb") as file, casting, bar:
            _write_header(file, (0, *frozen.shape), dtype)
            batches = _batches(longest_first, inputs.lengths, batch_size)
            for rows, batch in zip(batches, _ahead(batch_of, batches, workers or os.cpu_count() or 1)):
                batch = moved(batch)
                frames[rows] = frames_in(frozen.model, batch).cpu()
                for row, found in zip(rows, frozen.features(batch)):
                    with np.errstate(over="ignore"):
                        stored = found.astype(dtype, copy=False)
                    if not np.isfinite(stored).all():
                        raise _Unusable(f"the features of {inputs.examples.ids[row]} are beyond what {storage} holds")
                    file.write(np.ascontiguousarray(stored))
                    begin[row] = written
                    written += 1 if pooled else len(stored)
                bar.update(len(rows))
            _write_header(file, (written, *frozen.shape), dtype)
        np.save(folder / "begin.npy", begin)
        np.save(folder / "frames.npy", frames)

    key = {
        "encoder": frozen.fingerprint,
        "inputs": _fingerprint(inputs),
        "storage": storage,
        "precision": [frozen.device.type, str(autocast), torch.get_float32_matmul_precision()],
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    try:
        arrays = cached_files(key, build, root, size=size, overwrite=overwrite)
    except _Unusable as reason:
        return str(reason)
    except OSError as error:
        return f"cache {root}: {error.strerror or error}"
    return CachedFeatures(inputs, arrays, pooled, int(frame_counts(config, np.array(SHORTEST_BATCH))))


def _write_header(file, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """At the beginning of a .npy file; numpy leaves room there for the first dimension to grow to any number."""
    file.seek(0)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, header)


def _batches(order: np.ndarray, lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """The rows `order`, longest first, in batches of at most `batch_size` clips and `SAMPLES_AT_ONCE` (or one clip)."""
    batches, at = [], 0
    while at < len(order):
        fit = SAMPLES_AT_ONCE // max(1, int(lengths[order[at]]))
        batches.append(order[at : at + min(batch_size, max(1, fit))])
        at += len(batches[-1])
    return batches


def _ahead(make: Callable, items: Iterable, workers: int) -> Iterator:
    """`map(make, items)`, with up to `workers` results being made ahead in threads."""
    with ThreadPoolExecutor(workers) as pool_of_threads:
        waiting = deque()
        for item in items:
            waiting.append(pool_of_threads.submit(make, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _fingerprint(inputs: Waveforms) -> str:
    """SHA-256 over the clips in their order, the part of each that is taken, and what the extractor makes of them."""
    examples, extractor = inputs.examples, inputs.extractor
    if examples.digests is None:
        raise ValueError("recordings whose content is not known: they must be `checked`")
    settings = [type(extractor).__name__, extractor.do_normalize, extractor.sampling_rate, examples.digests]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for part in (examples.begins, examples.ends):
        digest.update(np.ascontiguousarray(part, dtype=np.float64))
    return digest.hexdigest()
