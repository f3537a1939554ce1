"""What goes into the model: waveforms, or what its frozen part makes of each clip, computed once and kept on disk.

A frozen part in eval mode gives the same for a clip in every epoch. A head that begins by a mean over time (or a linear
layer and then the mean, which is the same in the other order) needs one vector of it, a CTC head one a frame; above
frozen convolutions the encoder needs their output. All processes compute together, each its share.
"""

import hashlib
import importlib.metadata
import json
import logging
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import datasets
import numpy as np
import torch

from common.cache import arrays, shared_map
from common.errors import UserError
from common.models import evaluating
from common.speech.audio import RATE, load_clip
from common.speech.encoders import (
    ALONE,
    MASKED,
    SHORTEST_BATCH,
    SPECTROGRAMS,
    encoder_of,
    frame_counts,
    frames_in,
    main_input,
    sample_counts,
)
from common.speech.heads import PooledClassifier, pool

CLIP = ("path", "audio", "start", "end")  # columns that say what is heard
BLOCK = 4096  # clips; what a killed run has computed of whole blocks is not computed again
SAMPLES_AT_ONCE = 60 * RATE  # of all clips of a batch on a GPU, padding included
# Settings of an encoder that matter in training only, or for a head of transformers.
NOT_USED = ("apply_spec_augment", "classifier_proj_size", "id2label", "label2id", "layerdrop", "pad_token_id")
NOT_USED += ("architectures", "dtype", "problem_type", "transformers_version", "use_weighted_layer_sum", "vocab_size")
LIBRARIES = ("torch", "transformers", "librosa", "soundfile", "soxr")  # the last three make the samples
logger = logging.getLogger(__name__)


@dataclass
class Augmentation:
    """How a training clip is changed at random: a function of (seed, epoch, clip, place in its batch).

    Attributes:
        speed: it is played up to this share faster or slower.
        noise: white noise is added, at this many dB below the clip or up to 20 more; None: none.
        epoch: set at each epoch's begin.
    """

    speed: float
    noise: float | None
    seed: int
    epoch: int = 0

    def __call__(self, samples: np.ndarray, name: str, place: int) -> np.ndarray:
        """Samples like `samples`, float32."""
        import librosa

        random = np.random.default_rng((self.seed, self.epoch, zlib.crc32(name.encode()), place))
        if self.speed:
            rate = round(RATE * random.uniform(1 - self.speed, 1 + self.speed))
            samples = librosa.resample(samples, orig_sr=rate, target_sr=RATE)
        if self.noise is not None:
            loudness = np.sqrt(np.mean(samples**2)) * 10 ** (-random.uniform(self.noise, self.noise + 20) / 20)
            samples = samples + (loudness * random.standard_normal(len(samples))).astype(np.float32)
        return samples


class ClipCollator:
    """Rows of clips -> a batch of what the feature extractor makes of their samples, each clip by itself.

    Args:
        pad_seconds: every clip is cut or padded to this length, and the padding is taken for sound.
    """

    def __init__(self, extractor, pad_seconds: float | None = None, augmentation: Augmentation | None = None):
        self.extractor, self.pad_seconds, self.augmentation = extractor, pad_seconds, augmentation
        self.takes_waves = type(extractor).__name__ == "Wav2Vec2FeatureExtractor"

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        clips = [load_clip(row) for row in rows]
        if self.augmentation:
            places = range(len(rows))
            clips = [
                self.augmentation(clip, f"{row['path']} {row['start']}", place) if row.get("augmented") else clip
                for clip, row, place in zip(clips, rows, places)
            ]
        return self.inputs(clips) | truth_of(rows)

    def inputs(self, clips: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """What the model takes, without truth."""
        settings = {}
        if self.takes_waves:
            width = max(SHORTEST_BATCH, *map(len, clips))
            width = width if self.pad_seconds is None else round(self.pad_seconds * RATE)
            settings = {"padding": "max_length", "max_length": width, "truncation": True}
        if self.takes_waves or "attention_mask" in self.extractor.model_input_names:
            settings["return_attention_mask"] = True
        batch = dict(self.extractor(list(clips), sampling_rate=RATE, return_tensors="pt", **settings))
        if self.pad_seconds is not None:
            batch.pop("attention_mask")
        return batch


class FeatureCollator:
    """Rows of features -> a batch: float32 [B, T, L, H], of the encoder, or [B, T, C], of its convolutions.

    Padded on the right by zeros. With a mask of frames or, as the encoder wants it behind its convolutions, of samples;
    without where one vector is kept of a clip.
    """

    def __init__(self, name: str, pooled: bool, convolutions=None):
        """`convolutions`: the encoder's configuration, if these gave the features."""
        self.name, self.pooled, self.convolutions = name, pooled, convolutions
        self.shortest = 1 if convolutions is None else frame_counts(convolutions, SHORTEST_BATCH)

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        counts = np.array([len(row["features"]) for row in rows])
        features = torch.zeros(len(rows), max(counts.max(), self.shortest), *rows[0]["features"].shape[1:])
        for target, row in zip(features.numpy(), rows):
            target[: len(row["features"])] = row["features"]
        batch = {self.name: features} | truth_of(rows)
        if self.pooled:
            return batch
        width = features.shape[1]
        if self.convolutions is not None:
            counts, width = (sample_counts(self.convolutions, number) for number in (counts, width))
        return batch | {"attention_mask": torch.from_numpy((np.arange(width) < counts[:, None]).astype(np.int64))}


def truth_of(rows: Sequence[dict]) -> dict[str, torch.Tensor]:
    """`labels` of a batch, if known: int64 [B], or [B, L] padded by -100 where each has several."""
    if "labels" not in rows[0]:
        return {}
    labels = [torch.tensor(row["labels"]) for row in rows]
    if labels[0].ndim == 0:
        return {"labels": torch.stack(labels)}
    return {"labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)}


class ClipRows(torch.utils.data.Dataset):
    """The clips of a split as a collator takes them, with their features where these are kept.

    Attributes:
        clips: the data set of the clips, for scoring.
        lengths: int64 [N], samples of each.
    """

    def __init__(self, clips: datasets.Dataset, features=None, of: np.ndarray | None = None, shape: tuple = ()):
        columns = ("labels",) if features is not None else (*CLIP, "labels", "augmented")
        self.clips, self.features, self.of, self.shape = clips, features, of, shape
        self.rows = clips.select_columns([name for name in columns if name in clips.column_names])
        self.lengths = np.round(np.array(clips["seconds"][:], dtype=np.float64) * RATE).astype(np.int64)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, row: int) -> dict:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> list[dict]:
        items = self.rows.__getitems__(rows) if self.rows.column_names else [{} for _ in rows]
        if self.features is not None:
            for item, values in zip(items, arrays(self.features, "features", self.of[rows].tolist())):
                item["features"] = values.reshape(-1, *self.shape)
        return items

    def select(self, rows: np.ndarray) -> "ClipRows":
        """Some of the clips, in that order."""
        return ClipRows(
            self.clips.select(rows), self.features, self.of if self.of is None else self.of[rows], self.shape
        )


class _Part:
    """The frozen part of a model, and what of its output is kept of a clip."""

    def __init__(self, model, kind: str, collator: ClipCollator, storage: str, autocast: torch.dtype | None):
        self.model, self.base, self.kind, self.collator = model, encoder_of(model), kind, collator
        self.storage, self.autocast = np.dtype(storage), autocast
        self.weighted = getattr(model, "layer_weights", None) is not None
        name, config = type(model).__name__, self.base.config
        self.pooling = None
        if kind == "encoder" and isinstance(model, PooledClassifier):
            # A mean, and a choice of a frame, of the sum of layers is the sum of the layers' means; a maximum is not.
            pooling = model.config.pooling
            early = pooling in ("mean", "first") or (pooling == "max" and not self.weighted)
            self.pooling = pooling if early else None
        elif kind == "encoder" and not name.endswith(("ForCTC", "RecurrentCtc")):
            self.pooling = "vector" if name == "ASTForAudioClassification" else "mean"
        layers = config.num_hidden_layers + 1 if self.weighted else 1
        self.shape = (layers, config.hidden_size) if kind == "encoder" else (config.conv_dim[-1],)

    def fingerprint(self) -> str:
        """SHA-256 over the weights and settings that the features depend on."""
        module = self.base if self.kind == "encoder" else self.base.feature_extractor
        used = {k: v for k, v in self.base.config.to_dict().items() if k not in NOT_USED and "dropout" not in k}
        used = {k: v for k, v in used.items() if not k.startswith(("mask_", "ctc_", "_"))}
        kind = [type(self.base).__name__, self.kind, self.pooling, self.weighted, self.base.config._attn_implementation]
        digest = hashlib.sha256(json.dumps([kind, used], sort_keys=True, default=str).encode())
        for name, tensor in module.state_dict().items():
            if name != "masked_spec_embed":  # SpecAugment's
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def of_clips(self, batch: dict[str, list]) -> dict[str, list]:
        """For `map`: the features of a batch of clips, flat."""
        rows = [dict(zip(batch, values)) for values in zip(*batch.values())]
        with ThreadPoolExecutor() as threads:
            clips = list(threads.map(load_clip, rows))
        order = np.argsort([len(clip) for clip in clips], kind="stable").tolist()
        found: list = [None] * len(clips)
        casting = torch.autocast(self.base.device.type, self.autocast, enabled=self.autocast is not None)
        with torch.no_grad(), evaluating(self.base), casting, np.errstate(over="ignore"):
            # One by one on a processor, which is faster without padding, and to the bit the same for any batch.
            alone = self.base.device.type == "cpu"
            groups = [[row] for row in order] if alone else _groups(order, [len(clip) for clip in clips])
            for group in groups:
                for row, values in zip(group, self._of_samples([clips[row] for row in group])):
                    found[row] = values.astype(self.storage)
        for row, values in enumerate(found):
            if not np.isfinite(values).all():
                what = f"its features are beyond what {self.storage} holds"
                raise UserError(f"{rows[row]['path']}: {what}; give --feature_cache float32")
        return {"features": [values.reshape(-1) for values in found]}

    def _of_samples(self, clips: list[np.ndarray]) -> list[np.ndarray]:
        """What is kept of each clip, float32 [T, ...], T = 1 where it is pooled."""
        batch = {name: tensor.to(self.base.device) for name, tensor in self.collator.inputs(clips).items()}
        inputs, mask = batch[main_input(self.model)], batch.get("attention_mask")
        if self.kind == "convolution":
            states = self.base.convolutions(inputs, mask)
        else:
            outputs = self.base(inputs, attention_mask=mask, output_hidden_states=self.weighted)
            layers = outputs.hidden_states if self.weighted else [outputs.last_hidden_state]
            if self.pooling == "vector":
                layers = [outputs.pooler_output[:, None]]
            elif self.pooling is not None:
                layers = [pool(one, self._frames(batch, one), self.pooling)[:, None] for one in layers]
            states = torch.stack(list(layers), dim=2)
        counts = [1] * len(clips) if self.pooling else self._frames(batch, states).tolist()
        return [rows[:count] for rows, count in zip(states.to("cpu", torch.float32).numpy(), counts)]

    def _frames(self, batch: dict, states: torch.Tensor) -> torch.Tensor:
        if self.base.config.model_type in MASKED + ALONE:
            return frames_in(self.model, batch)
        return torch.full(states.shape[:1], states.shape[1], device=states.device)


def _groups(order: list[int], lengths: list[int]) -> list[list[int]]:
    """The rows `order`, shortest first, in groups of at most `SAMPLES_AT_ONCE` with their padding, or of one clip."""
    groups: list[list[int]] = []
    for row in order:
        if groups and (len(groups[-1]) + 1) * lengths[row] <= SAMPLES_AT_ONCE:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def model_inputs(run, model, clips: dict[str, datasets.Dataset], extractor, pad_seconds: float | None = None) -> tuple:
    """What the trainer gets for each split: waveforms, or the features that the frozen part makes of them, once.

    For use inside `run.phase(..., together=True)`, with the model on its device.

    Returns:
        (split -> `ClipRows`, the collator).
    """
    args, training = run.args, run.training_args
    if extractor.sampling_rate != RATE:
        raise UserError(
            f"{args.model}: is made for sound at {extractor.sampling_rate:,} Hz; choose one for {RATE:,} Hz"
        )
    changed = args.augment_speed > 0 or args.augment_noise is not None
    augmentation = Augmentation(args.augment_speed, args.augment_noise, training.seed) if changed else None
    collator = ClipCollator(extractor, pad_seconds, augmentation)
    kind, family = args.freeze, encoder_of(model).config.model_type
    if family in SPECTROGRAMS:  # of one length: 30 s, or as many frames of 10 ms
        longest = getattr(extractor, "chunk_length", None) or extractor.max_length / 100
        for name, part in clips.items():
            if count := sum(seconds > longest for seconds in part["seconds"][:]):
                run.warn(f"{name}: of {count:,} clips only the first {longest:g} s go into a {family} model")
    if kind == "convolution" and (family not in MASKED or changed):
        why = "clips change in every epoch" if changed else f"a {family} model takes no cached ones"
        run.note(f"the frozen convolutions run in every epoch: {why}")
        kind = "none"
    if kind == "none" or args.feature_cache == "off":
        return {
            name: ClipRows(_marked(part) if changed and name == "train" else part) for name, part in clips.items()
        }, collator
    lower = [dtype for dtype, asked in ((torch.bfloat16, training.bf16), (torch.float16, training.fp16)) if asked]
    part = _Part(model, kind, collator, args.feature_cache, lower[0] if lower else None)
    precision = [part.base.device.type, str(part.autocast), torch.get_float32_matmul_precision()]
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    key = {"part": part.fingerprint(), "extractor": extractor.to_dict(), "storage": args.feature_cache}
    key |= {"precision": precision, "versions": versions, "pad": pad_seconds}
    inputs = {name: _with_features(split, part, key, name, run) for name, split in clips.items()}
    convolutions = part.base.config if kind == "convolution" else None
    return inputs, FeatureCollator(main_input(model), part.pooling is not None, convolutions)


def _marked(clips: datasets.Dataset) -> datasets.Dataset:
    return clips.add_column("augmented", [True] * len(clips))


def _with_features(clips: datasets.Dataset, part: _Part, key: dict, name: str, run) -> ClipRows:
    """Features of each different clip once, in blocks; copies and the like share theirs."""
    places: dict[tuple, int] = {}
    heard = zip(*(clips[column][:] for column in ("digest", "start", "end")))
    of = np.array([places.setdefault(clip, len(places)) for clip in heard], dtype=np.int64)
    rows = clips.select_columns([column for column in CLIP if column in clips.column_names])
    rows = rows.select(np.unique(of, return_index=True)[1])
    clips_hash = [hashlib.sha256(repr(clip).encode()).hexdigest() for clip in places]
    features = datasets.Features({"features": datasets.List(datasets.Value(str(part.storage)))})
    settings = {"batched": True, "batch_size": 32, "writer_batch_size": 32, "features": features}
    settings |= {"remove_columns": rows.column_names, "desc": f"features, {name}"}
    blocks = []
    for begin in range(0, len(rows), BLOCK):
        block = range(begin, min(begin + BLOCK, len(rows)))
        of_block = key | {"clips": hashlib.sha256("".join(clips_hash[i] for i in block).encode()).hexdigest()}
        blocks.append(shared_map(rows.select(block), part.of_clips, key=of_block, args=run.args, run=run, **settings))
    whole = datasets.concatenate_datasets(blocks)
    logger.info("features, %s: %s clips, %s MB", name, f"{len(rows):,}", f"{whole.data.nbytes / 1e6:,.1f}")
    return ClipRows(clips, whole.with_format("arrow"), of, part.shape)
