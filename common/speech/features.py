"""What goes into the model: waveforms, or what its frozen part makes of each clip, computed once and kept on disk.

A head that begins by a mean over time (or a linear layer and then the mean, which is the same) needs one vector of a
frozen encoder, a CTC head one a frame; above frozen convolutions the encoder needs their output.
"""

import hashlib
import importlib.metadata
import json
import re
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import datasets
import librosa
import numpy as np
import torch
from safetensors.torch import save

from common.cache import arrays, shared_map
from common.errors import UserError
from common.models import RECOGNIZERS, evaluating
from common.speech.audio import RATE, load_clip
from common.speech.encoders import FIELD, HOP, SHORTEST_BATCH, SPECTROGRAMS, encoder_of, frames_in, takes_mask
from common.speech.heads import pool

CLIP = ["path", "start", "end"]  # columns that say what is heard
BLOCK = 4096  # clips; what a killed run has computed of whole blocks is not computed again
SAMPLES_AT_ONCE = 60 * RATE  # of all clips of a batch on a GPU, padding included
# Settings of an encoder that matter in training only, or for a head of transformers.
NOT_USED = re.compile(
    "_|.*dropout|mask_|ctc_|classifier_|pad_|vocab_|id2label|label2id|layerdrop|apply_spec_augment|architectures|dtype"
    "|problem_type|transformers_version|use_weighted_layer_sum"
)
LIBRARIES = ("torch", "transformers", "librosa", "soundfile", "soxr")  # the last three make the samples


class ClipCollator:
    """Rows of clips -> a batch of what the feature extractor makes of their samples, each clip by itself.

    With `pad_seconds` every clip is cut or padded to this length, and the padding is taken for sound. Rows that have
    `augmented` are played up to the share `speed` faster or slower, by (seed, epoch, clip, place in the batch).
    """

    def __init__(self, extractor, pad_seconds: float | None = None, speed: float = 0.0, seed: int = 0):
        self.extractor, self.pad_seconds, self.speed, self.seed, self.epoch = extractor, pad_seconds, speed, seed, 0

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        clips = [load_clip(row) for row in rows]
        for place, row in enumerate(rows):
            if row.get("augmented"):
                name = f"{row['path']} {row['start']}".encode()
                random = np.random.default_rng((self.seed, self.epoch, zlib.crc32(name), place))
                rate = round(RATE * random.uniform(1 - self.speed, 1 + self.speed))
                clips[place] = librosa.resample(clips[place], orig_sr=rate, target_sr=RATE)
        return self.inputs(clips) | truth_of(rows)

    def inputs(self, clips: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """What the model takes, without truth."""
        settings = {}
        if of_waves := type(self.extractor).__name__ == "Wav2Vec2FeatureExtractor":
            width = max(SHORTEST_BATCH, *map(len, clips))
            width = width if self.pad_seconds is None else round(self.pad_seconds * RATE)
            settings = {"padding": "max_length", "max_length": width, "truncation": True}
        settings["return_attention_mask"] = of_waves
        batch = dict(self.extractor(list(clips), sampling_rate=RATE, return_tensors="pt", **settings))
        if self.pad_seconds is not None:
            batch.pop("attention_mask", None)
        return batch


def collate_features(rows: Sequence[dict], name: str, kind: str) -> dict[str, torch.Tensor]:
    """Rows of features -> a batch, padded on the right by zeros, for the model's input of that name.

    `kind` is what gave them: the "encoder", float32 [B, T, L, H], with a mask of frames; its "convolution"s, [B, T, C],
    with a mask of samples; or the "mean" over the encoder's frames, without a mask.
    """
    counts, convolved = np.array([len(row["features"]) for row in rows]), kind == "convolution"
    width = max(counts.max(), (SHORTEST_BATCH - FIELD) // HOP + 1 if convolved else 1)
    features = torch.zeros(len(rows), width, *rows[0]["features"].shape[1:])
    for target, row in zip(features.numpy(), rows):
        target[: len(row["features"])] = row["features"]
    if convolved:
        counts, width = ((number - 1) * HOP + FIELD for number in (counts, width))
    mask = torch.from_numpy((np.arange(width) < counts[:, None]).astype(np.int64))
    return {name: features} | truth_of(rows) | ({} if kind == "mean" else {"attention_mask": mask})


def truth_of(rows: Sequence[dict]) -> dict[str, torch.Tensor]:
    """`labels` of a batch, if known: int64 [B], or [B, L] padded by -100 where each has several."""
    if "labels" not in rows[0]:
        return {}
    labels = [torch.tensor(row["labels"]) for row in rows]
    several = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_value=-100)
    return {"labels": several(labels) if labels[0].ndim else torch.stack(labels)}


class ClipRows(torch.utils.data.Dataset):
    """The clips of a split as a collator takes them.

    `features` are flat, of shape [T, *shape], and `of`, int64 [N], says whose are whose; None: waveforms are taken.
    `lengths`: int64 [N], samples of each.
    """

    def __init__(self, clips: datasets.Dataset, features=None, of: np.ndarray | None = None, shape: tuple = ()):
        self.clips, self.features, self.shape = clips, features, shape
        self.of = np.arange(len(clips)) if of is None else of
        columns = ["labels"] if features is not None else [*CLIP, "labels", "augmented"]
        self.rows = clips.select_columns([name for name in columns if name in clips.column_names])
        self.lengths = np.round(np.array(clips["seconds"][:], dtype=np.float64) * RATE).astype(np.int64)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitems__(self, rows: list[int]) -> list[dict]:
        items = self.rows.__getitems__(rows) if self.rows.column_names else [{} for _ in rows]
        if self.features is not None:
            for item, values in zip(items, arrays(self.features, "features", self.of[rows].tolist())):
                item["features"] = values.reshape(-1, *self.shape)
        return items

    def select(self, rows: np.ndarray) -> "ClipRows":
        """Some of the clips, in that order."""
        return ClipRows(self.clips.select(rows), self.features, self.of[rows], self.shape)


class _Part:
    """The frozen part of a model (`kind`: "encoder" or "convolution"), and what of its output is kept of a clip."""

    def __init__(self, model, kind: str, collator: ClipCollator, args):
        self.model, self.base, self.kind, self.collator = model, encoder_of(model), kind, collator
        self.storage, training = np.dtype(args.feature_cache), args.training_args
        self.at_once = 0 if self.base.device.type == "cpu" else SAMPLES_AT_ONCE
        self.autocast = torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else None
        self.weighted, config = getattr(model, "layer_weights", None) is not None, self.base.config
        classifier = not type(model).__name__.endswith(RECOGNIZERS)
        # One mean over a clip's frames, which is the same before layers are summed up; else every frame.
        self.pooled = kind == "encoder" and classifier and getattr(model.config, "pooling", "mean") == "mean"
        layers = config.num_hidden_layers + 1 if self.weighted else 1
        self.shape = (layers, config.hidden_size) if kind == "encoder" else (config.conv_dim[-1],)

    def fingerprint(self) -> str:
        """SHA-256 over the weights and settings that the features depend on."""
        base, extractor = self.base, self.collator.extractor.to_dict()
        settings = {k: v for k, v in base.config.to_dict().items() if not NOT_USED.match(k)}
        kind = [type(base).__name__, self.kind, self.pooled, self.weighted, base.config._attn_implementation]
        kind += [base.device.type, str(self.autocast), str(self.storage), torch.get_float32_matmul_precision()]
        kind += [self.collator.pad_seconds, *map(importlib.metadata.version, LIBRARIES)]
        weights = (base if self.kind == "encoder" else base.feature_extractor).state_dict()
        weights = {k: w.cpu().contiguous() for k, w in weights.items() if k != "masked_spec_embed"}  # SpecAugment's
        digest = hashlib.sha256(json.dumps([settings, extractor, kind], sort_keys=True, default=str).encode())
        digest.update(save(weights))
        return digest.hexdigest()

    def of_clips(self, batch: dict[str, list]) -> dict[str, list]:
        """For `map`: the features of clips, flat; on a GPU those of about the same length together."""
        rows = [dict(zip(batch, values)) for values in zip(*batch.values())]
        casting = torch.autocast(self.base.device.type, self.autocast, enabled=self.autocast is not None)
        with ThreadPoolExecutor() as threads, torch.no_grad(), evaluating(self.base), casting:
            clips, found = list(threads.map(load_clip, rows)), {}
            order = sorted(range(len(clips)), key=lambda row: -len(clips[row]))
            while order:
                width = max(len(clips[order[0]]), round(RATE * (self.collator.pad_seconds or 0)))
                count = max(1, self.at_once // width)
                group, order = order[:count], order[count:]
                found |= zip(group, self.of_samples([clips[row] for row in group]))
        with np.errstate(over="ignore"):
            found = [found[row].astype(self.storage).reshape(-1) for row in range(len(clips))]
        if beyond := [row["path"] for row, values in zip(rows, found) if not np.isfinite(values).all()]:
            what = f"its features are beyond what {self.storage} holds"
            raise UserError(f"{beyond[0]}: {what}; give --feature_cache float32")
        return {"features": found}

    def of_samples(self, clips: list[np.ndarray]) -> list[np.ndarray]:
        """What is kept of each clip, float32 [T, *shape], T = 1 where it is pooled."""
        batch = {name: tensor.to(self.base.device) for name, tensor in self.collator.inputs(clips).items()}
        inputs, mask = batch[self.base.main_input_name], batch.get("attention_mask")
        counts = frames_in(self.model, batch)
        if self.kind == "convolution":
            states = self.base.convolutions(inputs, mask)
        else:
            outputs = self.base(inputs, attention_mask=mask, output_hidden_states=self.weighted)
            layers = outputs.hidden_states if self.weighted else [outputs.last_hidden_state]
            if self.pooled:
                whole = self.base.config.model_type in SPECTROGRAMS
                layers = [(one.mean(1) if whole else pool(one, counts, "mean"))[:, None] for one in layers]
                counts = torch.ones_like(counts)
            if type(self.base).__name__ == "ASTModel":
                layers = [outputs.pooler_output[:, None]]
            states = torch.stack(list(layers), dim=2)
        return [rows[:count] for rows, count in zip(states.to("cpu", torch.float32).numpy(), counts.tolist())]

    def of_split(self, clips: datasets.Dataset, fingerprint: str, name: str, run) -> ClipRows:
        """Features of each different clip once, in blocks; copies and the like share theirs."""
        keys = [repr(clip) for clip in zip(*(clips[column][:] for column in ("digest", "start", "end")))]
        first, of = np.unique(keys, return_index=True, return_inverse=True)[1:]
        features = datasets.Features({"features": datasets.List(datasets.Value(str(self.storage)))})
        settings = {"batched": True, "batch_size": 32, "writer_batch_size": 32, "features": features}
        settings |= {"remove_columns": CLIP, "desc": f"features, {name}", "args": run.args, "run": run}
        rows, blocks = clips.select_columns(CLIP), []
        for block in np.split(first, range(BLOCK, len(first), BLOCK)):
            key = {"part": fingerprint, "clips": [keys[row] for row in block]}
            blocks.append(shared_map(rows.select(block), self.of_clips, key=key, **settings))
        return ClipRows(clips, datasets.concatenate_datasets(blocks).with_format("arrow"), of, self.shape)


def model_inputs(run, model, clips: dict[str, datasets.Dataset], extractor, pad_seconds: float | None = None) -> tuple:
    """(split -> `ClipRows` of waveforms, or of what the frozen part makes of them once; their collator).

    For use inside `run.phase(..., together=True)`, with the model on its device.
    """
    args, kind, config = run.args, run.args.freeze, encoder_of(model).config
    collator = ClipCollator(extractor, pad_seconds, args.augment_speed, run.training_args.seed)
    if config.model_type in SPECTROGRAMS:  # of one length: 30 s, or as many frames of 10 ms
        longest = getattr(extractor, "chunk_length", None) or extractor.max_length / 100
        if count := sum(seconds > longest for part in clips.values() for seconds in part["seconds"][:]):
            run.warn(f"of {count:,} clips only the first {longest:g} s go into a {config.model_type} model")
    if kind == "convolution" and (args.augment_speed or not takes_mask(config)):
        why = "clips change in every epoch" if args.augment_speed else f"a {config.model_type} model takes none"
        run.note(f"the output of the frozen convolutions is not kept: {why}")
        kind = "none"
    if kind == "none" or args.feature_cache == "off":
        if args.augment_speed and "train" in clips:
            clips = clips | {"train": clips["train"].add_column("augmented", [True] * len(clips["train"]))}
        return {name: ClipRows(part) for name, part in clips.items()}, collator
    part = _Part(model, kind, collator, args)
    fingerprint = part.fingerprint()
    inputs = {name: part.of_split(split, fingerprint, name, run) for name, split in clips.items()}
    return inputs, partial(collate_features, name=part.base.main_input_name, kind="mean" if part.pooled else kind)
