"""What goes into the model: features against waveforms for every family and head, the cache, augmentation."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import soundfile
import torch

from common.models import evaluating
from common.speech import features
from common.speech.encoders import frames_in, freeze, prepare_encoder
from common.speech.features import ClipCollator, model_inputs
from common.speech.heads import PooledClassifier, RecurrentCtc
from tests.helpers import message
from tests.speech.models import FAMILIES, extractor_of, louder, make

pytestmark = pytest.mark.usefixtures("one_thread")
SECONDS = (0.75, 0.1, 0.5, 0.5, 0.3, 1.2)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> datasets.Dataset:
    """Eight rows of six files: one is there twice, and of one a part."""
    folder, random = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for i, seconds in enumerate(SECONDS):
        soundfile.write(folder / f"{i}.wav", 0.3 * random.normal(size=round(16_000 * seconds)), 16_000)
    files = [0, 1, 2, 3, 4, 5, 2, 5]
    parts = [(0.0, None)] * 7 + [(0.25, 0.75)]
    lengths = [SECONDS[i] for i in files[:7]] + [0.5]
    columns = {"id": [f"{i}" for i in range(8)], "path": [str(folder / f"{i}.wav") for i in files]}
    columns |= {"start": [start for start, _ in parts], "end": [end for _, end in parts], "seconds": lengths}
    return datasets.Dataset.from_dict(columns | {"labels": [0, 1, 2, 0, 1, 2, 2, 0], "digest": [f"{i}" for i in files]})


def run_of(cache: Path, **settings) -> SimpleNamespace:
    training = SimpleNamespace(seed=0, bf16=False, fp16=False, world_size=1, process_index=0)
    defaults = {"freeze": "encoder", "feature_cache": "float32", "augment_speed": 0.0}
    args = SimpleNamespace(cache_dir=str(cache), overwrite_cache=False, training_args=training)
    vars(args).update(defaults | settings)
    notes = []
    return SimpleNamespace(args=args, training_args=training, warn=notes.append, note=notes.append, notes=notes)


def inputs_of(model, clips, run, name: str = "hubert", pad_seconds: float | None = None):
    prepare_encoder(model)
    freeze(model, run.args.freeze)
    inputs, collator = model_inputs(run, model, {"train": clips}, extractor_of(name), pad_seconds)
    return inputs["train"], collator


def logits_of(model, rows, collator, chosen=(3, 0, 6, 7, 1, 2, 3)) -> tuple[list[torch.Tensor], dict]:
    """The logits of some clips, each at its own frames, and the batch."""
    batch = collator(rows.__getitems__(list(chosen)))
    assert batch.pop("labels").tolist() == [rows.clips["labels"][i] for i in chosen]
    with torch.no_grad(), evaluating(model):
        found = model(**batch)["logits"]
        counts = frames_in(model, batch).tolist() if found.ndim == 3 else [None] * len(chosen)
    return [logits[:count] for logits, count in zip(found, counts)], batch


def assert_same(ours, theirs, tolerance: float = 1e-5) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


def pooled(pooling: str, weighted: bool):
    return louder(PooledClassifier.around(make("hubert"), "abc", pooling=pooling, weighted=weighted)).eval()


def recurrent(weighted: bool, layers: int):
    settings = {"vocab_size": 9, "recurrent_size": 10, "recurrent_layers": layers}
    return louder(RecurrentCtc.around(make("hubert"), weighted=weighted, **settings)).eval()


MODELS = {f"{name}, classes": (name, lambda name=name: make(name, "classes")) for name in FAMILIES}
for _name in ("hubert", "hubert-large", "sew", "data2vec-audio", "conformer"):
    MODELS[f"{_name}, ctc"] = _name, lambda name=_name: make(name, "ctc")
MODELS["mixture of transformers"] = "hubert", lambda: make("hubert", "classes", use_weighted_layer_sum=True)
for _pooling in ("mean", "max", "first"):
    for _weighted in (False, True):
        MODELS[f"{_pooling}, {_weighted}"] = "hubert", lambda p=_pooling, w=_weighted: pooled(p, w)
for _weighted in (False, True):
    MODELS[f"blstm, {_weighted}"] = "hubert", lambda w=_weighted: recurrent(w, 2)


@pytest.mark.parametrize("model", MODELS)
def test_features_give_what_waveforms_give(model, clips, tmp_path):
    name, build = MODELS[model]
    model = build()
    waves, collator = inputs_of(model, clips, run_of(tmp_path, feature_cache="off"), name)
    expected, batch = logits_of(model, waves, collator)
    assert "attention_mask" in batch or name in ("ast", "whisper")
    rows, collator = inputs_of(model, clips, run_of(tmp_path), name)
    found, batch = logits_of(model, rows, collator)
    assert_same(found, expected)
    frames = max(map(len, expected)) if expected[0].ndim == 2 else 1
    every_frame = getattr(model.config, "pooling", "mean") != "mean"
    assert batch[next(iter(batch))].ndim == 4 and (every_frame or batch[next(iter(batch))].shape[1] == frames)
    assert rows.features.data.num_rows == 7  # eight rows, of which two are the same part of the same file
    assert np.std([float(one.float().mean()) for one in expected]) > 1e-5
    assert np.array_equal(rows.lengths, waves.lengths) and rows.lengths[0] == 12_000


@pytest.mark.parametrize("name", ["hubert", "hubert-large"])
def test_the_output_of_frozen_convolutions_is_kept(name, clips, tmp_path):
    for task in ("classes", "ctc"):
        model = make(name, task)
        waves, collator = inputs_of(model, clips, run_of(tmp_path, freeze="convolution", feature_cache="off"), name)
        expected, _ = logits_of(model, waves, collator)
        rows, collator = inputs_of(model, clips, run_of(tmp_path, freeze="convolution"), name)
        found, batch = logits_of(model, rows, collator)
        assert_same(found, expected)
        assert batch["input_values"].shape[2] == 16 and batch["attention_mask"].shape[1] > 10_000
        with torch.no_grad():  # short batches are long enough for SpecAugment
            short = collator(rows.__getitems__([1]))
            short.pop("labels")
            model.config.mask_time_prob = 0.5
            assert short["input_values"].shape[1] == 12 and model.train()(**short).logits.isfinite().all()
    run = run_of(tmp_path, freeze="convolution")
    assert inputs_of(make("sew", "classes"), clips, run, "sew")[0].features is None
    assert run.notes == ["the output of the frozen convolutions is not kept: a sew model takes none"]


def test_half_the_space(clips, tmp_path):
    model = make("hubert", "ctc")
    whole, collator = inputs_of(model, clips, run_of(tmp_path))
    half, _ = inputs_of(model, clips, run_of(tmp_path, feature_cache="float16"))
    assert half.features.data.nbytes < 0.6 * whole.features.data.nbytes
    assert_same(logits_of(model, half, collator)[0], logits_of(model, whole, collator)[0], 0.02)
    with torch.no_grad():
        model.hubert.encoder.layers[-1].final_layer_norm.weight.fill_(1e5)
    assert "its features are beyond what float16 holds; give --feature_cache float32" in message(
        inputs_of, model, clips, run_of(tmp_path, feature_cache="float16")
    )


def test_what_is_kept_is_used_again_where_nothing_differs(clips, tmp_path, monkeypatch):
    computed = []
    compute = features._Part.of_clips
    monkeypatch.setattr(
        features._Part, "of_clips", lambda part, batch: computed.append(len(batch["path"])) or compute(part, batch)
    )
    model = make("hubert", "classes")
    inputs_of(model, clips, run_of(tmp_path))
    inputs_of(
        make("hubert", "classes", hidden_dropout=0.3), clips.shuffle(0).flatten_indices().sort("id"), run_of(tmp_path)
    )
    assert computed == [7]
    with torch.no_grad():
        model.hubert.encoder.layers[0].final_layer_norm.bias[3] += 1e-3
    inputs_of(model, clips, run_of(tmp_path))
    inputs_of(make("hubert", "classes"), clips, run_of(tmp_path), pad_seconds=1.0)
    inputs_of(pooled("max", False), clips, run_of(tmp_path))
    assert computed == [7] * 4
    inputs_of(make("hubert", "classes"), clips.select(range(3)), run_of(tmp_path))
    assert computed == [7] * 4 + [3]


def test_a_killed_run_keeps_its_whole_blocks(clips, tmp_path, monkeypatch):
    """Blocks of two clips; the third is never finished, as when the process is killed in it."""
    monkeypatch.setattr(features, "BLOCK", 2)
    compute, computed = features._Part.of_clips, []

    def killed(part, batch):
        if len(computed) == 2:
            raise KeyboardInterrupt
        computed.append(batch["path"])
        return compute(part, batch)

    monkeypatch.setattr(features._Part, "of_clips", killed)
    with pytest.raises(KeyboardInterrupt):
        inputs_of(make("hubert", "classes"), clips, run_of(tmp_path))
    monkeypatch.setattr(features._Part, "of_clips", lambda part, batch: computed.append(0) or compute(part, batch))
    rows, collator = inputs_of(make("hubert", "classes"), clips, run_of(tmp_path))
    assert computed[2:] == [0, 0]
    shutil.rmtree(tmp_path)
    expected, _ = inputs_of(make("hubert", "classes"), clips, run_of(tmp_path))
    model = make("hubert", "classes")
    prepare_encoder(model)
    assert_same(logits_of(model, rows, collator)[0], logits_of(model, expected, collator)[0], 0)


def test_processes_share_the_work(clips, tmp_path):
    """Each of three computes the parts that are not there, all read the same."""
    model, found = make("hubert", "ctc"), []
    for process in (1, 0, 2):
        run = run_of(tmp_path)
        run.training_args.world_size, run.training_args.process_index = 3, process
        rows, collator = inputs_of(model, clips, run)
        found.append(logits_of(model, rows, collator)[0])
    alone, _ = inputs_of(model, clips, run_of(tmp_path / "alone"))
    for one in found:
        assert_same(one, logits_of(model, alone, collator)[0], 0)


def test_batches_as_on_a_gpu_give_the_same(clips, tmp_path):
    """A batch holds 1.7 s: the longest clips first, padding included."""
    model, run, columns = make("hubert", "ctc"), run_of(tmp_path), {name: clips[name][:] for name in features.CLIP}
    rows, _ = inputs_of(model, clips, run)

    def batches(pad_seconds: float | None) -> tuple[list, list]:
        part, sizes = features._Part(model, "encoder", ClipCollator(extractor_of("hubert"), pad_seconds), run.args), []
        assert part.at_once == 0, "on a processor one by one"
        compute, part.at_once = part.of_samples, round(1.7 * 16_000)
        part.of_samples = lambda group: sizes.append([len(clip) / 16_000 for clip in group]) or compute(group)
        return sizes, part.of_clips(columns)["features"]

    sizes, found = batches(None)
    assert sizes == [[1.2], [0.75, 0.5], [0.5, 0.5, 0.5], [0.3, 0.1]]
    for row, states in enumerate(found):
        np.testing.assert_allclose(states, rows.__getitems__([row])[0]["features"].reshape(-1), rtol=0, atol=1e-5)
    assert [len(group) for group in batches(0.8)[0]] == [1, 2, 2, 2, 1], "all are 0.8 s, but the first is loaded whole"


# Waveforms


def test_the_collator_is_the_feature_extractor(clips):
    extractor = extractor_of("hubert")
    batch = ClipCollator(extractor)([clips[1], clips[4]])
    samples = [soundfile.read(clips[i]["path"], dtype="float32")[0] for i in (1, 4)]
    expected = extractor(samples, sampling_rate=16_000, padding=True, return_tensors="pt", return_attention_mask=True)
    assert torch.equal(batch["input_values"], expected["input_values"])
    assert torch.equal(batch["attention_mask"].long(), expected["attention_mask"].long())
    assert batch["labels"].tolist() == [1, 1]
    short = ClipCollator(extractor)([clips[1]])
    assert short["input_values"].shape == (1, 4_000) and short["attention_mask"].sum() == 1_600
    padded = ClipCollator(extractor, pad_seconds=0.5)([clips[0], clips[1]])
    assert padded["input_values"].shape == (2, 8_000) and "attention_mask" not in padded
    assert (padded["input_values"][1, 1_600:] == 0).all() and abs(
        float(padded["input_values"][1, :1_600].std()) - 1
    ) < 0.01


def test_lists_of_labels_are_padded(clips):
    rows = [clips[1] | {"labels": [4, 5, 6]}, clips[4] | {"labels": [7]}]
    assert ClipCollator(extractor_of("hubert"))(rows)["labels"].tolist() == [[4, 5, 6], [7, -100, -100]]
    assert "labels" not in ClipCollator(extractor_of("hubert"))([{k: v for k, v in clips[1].items() if k != "labels"}])


def test_augmentation_is_the_same_again_and_another_each_epoch(clips):
    extractor = extractor_of("hubert")
    extractor.do_normalize = False
    collator = ClipCollator(extractor, speed=0.1, seed=3)
    rows = [clips[0] | {"augmented": True}, clips[0] | {"augmented": True}, clips[0] | {"augmented": None}]
    first, again = collator(rows), collator(rows)
    assert torch.equal(first["input_values"], again["input_values"])
    lengths = first["attention_mask"].sum(1).tolist()
    assert lengths[0] != lengths[1] and lengths[2] == 12_000  # two copies, and a clip that is evaluated
    assert all(12_000 / 1.11 < length < 12_000 / 0.89 for length in lengths)
    plain = soundfile.read(clips[0]["path"], dtype="float32")[0]
    np.testing.assert_allclose(first["input_values"][2, :12_000], plain, atol=1e-6)
    collator.epoch = 1
    assert collator(rows)["attention_mask"].sum(1).tolist()[:2] != lengths[:2]


def test_only_training_clips_are_changed(clips, tmp_path):
    run = run_of(tmp_path, freeze="convolution", augment_speed=0.2)
    model = make("hubert", "classes")
    prepare_encoder(model)
    freeze(model, "convolution")
    inputs, collator = model_inputs(run, model, {"train": clips, "validation": clips}, extractor_of("hubert"))
    assert run.notes == ["the output of the frozen convolutions is not kept: clips change in every epoch"]
    lengths = {n: collator(rows.__getitems__([0, 5]))["attention_mask"].sum(1).tolist() for n, rows in inputs.items()}
    assert lengths["validation"] == [12_000, 19_200] and lengths["train"][0] != 12_000
