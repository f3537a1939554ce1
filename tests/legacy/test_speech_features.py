"""Cached features against the whole model: the same logits, the same training; keys, processes, disks."""

import copy
import errno
import os
import pickle
import shutil
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, ctc_loss
from transformers import HubertConfig, HubertForCTC, HubertForSequenceClassification, Wav2Vec2FeatureExtractor, set_seed

from common.legacy import speech_features
from common.legacy.run import StopRequest
from common.legacy.samplers import LengthGroupedSampler
from common.legacy.speech_encoders import frames_in, freeze, ignore_padding
from common.legacy.speech_features import CachedFeatures, FrozenSpeech, collate_features, features_of
from common.legacy.speech_heads import PooledClassifier, RecurrentCtc
from common.legacy.trainer import FinetuneTrainer, Head
from common.legacy.waveforms import Waveforms, collate_waveforms
from tests.legacy.distributed_worker import history_of, make_arguments, state_of
from tests.legacy.test_speech_encoders import make, process_group
from tests.legacy.test_speech_heads import LABELS, SIZE, SMALL, encoder, louder
from tests.legacy.test_waveforms import recordings

pytestmark = pytest.mark.usefixtures("one_thread")
LAYERS, HIDDEN = 2, 32
LENGTHS = (8_000, 400, 1_999, 5_001, 3_520, 7_000, 8_000, 2_400, 640, 6_400, 4_321)


def clips(targets="classes", normalise: bool = True, **settings) -> Waveforms:
    random = np.random.default_rng(3)
    found = recordings(**{"lengths": LENGTHS, **settings})
    known = {
        "classes": random.integers(0, 3, len(found)),
        "labels": [random.integers(1, 9, n).astype(np.int64) for n in random.integers(0, 4, len(found))],
        None: None,
    }
    return Waveforms(found, Wav2Vec2FeatureExtractor(do_normalize=normalise), targets=known[targets])


def stock_classifier(weighted: bool = False, **settings):
    set_seed(1)
    config = HubertConfig(**SIZE | settings, use_weighted_layer_sum=weighted, classifier_proj_size=16, num_labels=3)
    return louder(HubertForSequenceClassification(config))


def stock_ctc():
    set_seed(1)
    return louder(HubertForCTC(HubertConfig(**SIZE, vocab_size=9)))


def pooled(pooling: str, weighted: bool = False):
    return louder(PooledClassifier.around(encoder(), LABELS, pooling=pooling, weighted=weighted, classifier_size=16))


def ctc(weighted: bool = False, **settings):
    return louder(RecurrentCtc.around(encoder(), vocab_size=9, weighted=weighted, **SMALL | settings))


# name -> (model, shape of the features of a clip of T frames, of all layers or of the last one)
MODELS = {
    "stock": (stock_classifier, "vector"),
    "stock, weighted": (lambda: stock_classifier(True), "vector, layers"),
    "wav2vec2, weighted": (
        lambda: make("wav2vec2-large", "ForSequenceClassification", use_weighted_layer_sum=True),
        "vector, layers",
    ),
    "mean": (lambda: pooled("mean"), "vector"),
    "mean, weighted": (lambda: pooled("mean", True), "vector, layers"),
    "max": (lambda: pooled("max"), "vector"),
    "max, weighted": (lambda: pooled("max", True), "frames, layers"),
    "first": (lambda: pooled("first"), "vector"),
    "first, weighted": (lambda: pooled("first", True), "vector, layers"),
    "attention": (lambda: pooled("attention"), "frames"),
    "attention, weighted": (lambda: pooled("attention", True), "frames, layers"),
    "stock CTC": (stock_ctc, "frames"),
    "wav2vec2 CTC": (lambda: make("wav2vec2", "ForCTC"), "frames"),
    "blstm": (ctc, "frames"),
    "blstm, weighted": (lambda: ctc(True), "frames, layers"),
    "linear, weighted": (lambda: ctc(True, recurrent_layers=0), "frames, layers"),
}


def frozen_model(name: str):
    model = MODELS[name][0]()
    ignore_padding(model)
    if getattr(model, "layer_weights", None) is not None:
        with torch.no_grad():
            model.layer_weights.copy_(torch.tensor([0.5, -1.0, 1.0]))
    freeze(model, "encoder")
    return model.train()


def cached(inputs, model, root, **settings) -> tuple[CachedFeatures, FrozenSpeech]:
    frozen = FrozenSpeech(model)
    data = features_of(inputs, frozen, root, **{"batch_size": 4, "workers": 1, **settings})
    assert isinstance(data, CachedFeatures), data
    return data, frozen


def logits_of(model, data, forward=None, size: int = 4) -> list[torch.Tensor]:
    """Of each clip, [C] or [T, V] at its own frames; by batches in the order of the data, in eval mode."""
    model.eval()
    found = []
    for at in range(0, len(data), size):
        rows = range(at, min(at + size, len(data)))
        batch = collate_features([data[row] for row in rows])
        assert batch.pop("row").tolist() == list(rows)
        batch.pop("targets", None)
        with torch.no_grad():
            logits = (forward or (lambda model, inputs: model(**inputs)))(model, batch)["logits"]
        counts = frames_in(model, batch).tolist()
        found += [row if row.ndim == 1 else row[:n] for row, n in zip(logits, counts, strict=True)]
    return found


def structure(model) -> list:
    return [(name, id(module), module.training) for name, module in model.named_modules()]


# Computing


@pytest.mark.parametrize("name", MODELS)
def test_the_model_gives_the_same_from_cached_features(name, tmp_path):
    inputs, model = clips(None), frozen_model(name)
    expected = logits_of(model, inputs)
    model.train()
    before, names = structure(model), list(model.state_dict())
    data, frozen = cached(inputs, model, tmp_path)
    assert structure(model) == before and list(model.state_dict()) == names
    kind = MODELS[name][1]
    one_frame = (LAYERS + 1, HIDDEN) if "layers" in kind else (HIDDEN,)
    count = len(inputs) if "vector" in kind else sum(data.frames)
    assert data.features.shape == (count, *one_frame) and data.features.dtype == np.float32
    assert isinstance(data.features, np.memmap) and data.pooled == ("vector" in kind)
    found = logits_of(model, data, frozen.forward)
    assert len(found) == len(inputs) and torch.cat([row.flatten() for row in found]).std() > 0.02
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    # Batches of waveforms pass through all of it.
    for a, b in zip(logits_of(model, inputs, frozen.forward), expected, strict=True):
        assert torch.equal(a, b)
    model.train()
    assert structure(model) == before


def test_features_are_means_over_a_clips_own_frames(tmp_path):
    """Against the encoder on each clip alone; and the output is of the same kind as without."""
    inputs, model = clips(), stock_classifier().requires_grad_(False).train()  # no matter in which mode it is
    data, frozen = cached(inputs, model, tmp_path)
    assert model.hubert.training
    model.eval()
    for row in range(len(inputs)):
        values = torch.from_numpy(inputs.waveform(row))[None]
        with torch.no_grad():
            states = model.hubert(values).last_hidden_state[0]
        batch = collate_features([data[row]])
        assert batch["frames"].tolist() == [len(states)]
        torch.testing.assert_close(batch["features"][0], states.mean(0), rtol=0, atol=1e-5)
    outputs = [frozen.forward(model, part) for part in ({"features": batch["features"]}, {"input_values": values})]
    assert type(outputs[0]) is type(outputs[1]) and outputs[0].keys() == outputs[1].keys()


@pytest.mark.parametrize("name", ["stock", "stock CTC", "stock, weighted", "attention, weighted"])
def test_batches_are_sampled_and_padded_as_waveforms_are(name, tmp_path):
    """In any order of clips; padded to as many frames as the waveforms would be, by zeros."""
    inputs, model = clips("labels" if "CTC" in name else "classes"), frozen_model(name)
    data, _ = cached(inputs, model, tmp_path)
    assert len(data) == len(inputs) and data.examples is inputs.examples and data.targets is inputs.targets
    samples = [list(LengthGroupedSampler(d.lengths, 4, seed=1)) for d in (inputs, data)]
    assert samples[0] == samples[1]
    for rows in ([7, 0, 3], [1, 8], [2]):
        expected = collate_waveforms([inputs[row] for row in rows])
        batch = collate_features([data[row] for row in rows])
        assert set(batch) == {"features", "frames", "row", "targets"} and batch["features"].dtype == torch.float32
        assert torch.equal(batch["row"], expected["row"]) and torch.equal(batch["targets"], expected["targets"])
        assert torch.equal(batch["frames"], frames_in(model, expected))
        if not data.pooled:
            with torch.no_grad():
                states = model.base_model(expected["input_values"]).last_hidden_state
            assert batch["features"].shape[:2] == states.shape[:2]
            behind = torch.arange(states.shape[1]) >= batch["frames"][:, None]
            assert behind.any() and not batch["features"][behind].any() and batch["features"][~behind].all(-1).any()


def test_without_clips_and_with_one(tmp_path):
    for name in ("stock", "stock CTC"):
        for count in (0, 1):
            data, _ = cached(clips(None, lengths=LENGTHS[:count]), frozen_model(name), tmp_path)
            assert len(data) == count and data.features.shape[1:] == (HIDDEN,)
        assert "targets" not in collate_features([data[0]])


def test_precision(tmp_path):
    inputs, model = clips(), frozen_model("stock CTC")
    exact, _ = cached(inputs, model, tmp_path)
    half, _ = cached(inputs, model, tmp_path, storage="float16")
    lower, _ = cached(inputs, model, tmp_path, autocast=torch.bfloat16)
    assert half.features.dtype == np.float16 and half.features.nbytes * 2 == exact.features.nbytes
    assert np.array_equal(half.features, exact.features.astype(np.float16))
    difference = np.abs(lower.features - exact.features).max()
    assert lower.features.dtype == np.float32 and 1e-4 < difference < 0.5
    assert collate_features([half[4]])["features"].dtype == torch.float32
    with torch.no_grad():
        model.hubert.encoder.layers[-1].final_layer_norm.weight.fill_(1e6)
    reason = features_of(inputs, FrozenSpeech(model), tmp_path, batch_size=4, storage="float16")
    assert reason == "the features of clip 0 are beyond what float16 holds"
    assert len(list(tmp_path.iterdir())) == 3


def test_what_cannot_be_cached_is_told(tmp_path, monkeypatch):
    inputs, model = clips(), frozen_model("stock")
    model.hubert.encoder.layers[1].attention.q_proj.bias.requires_grad_(True)
    reason = features_of(inputs, FrozenSpeech(model), tmp_path, batch_size=4)
    assert reason == "encoder.layers.1.attention.q_proj.bias belongs to what would be cached, and is trained"
    model = frozen_model("stock")
    monkeypatch.setattr(speech_features, "pool", lambda states, frames, how: states.mean(1))  # over padding, too
    reason = features_of(inputs, FrozenSpeech(model), tmp_path, batch_size=4)
    assert reason == "a HubertForSequenceClassification cannot go on from cached features"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="HubertModel"):
        FrozenSpeech(encoder())
    unchecked = clips()
    unchecked.examples.digests = None
    with pytest.raises(ValueError, match="checked"):
        features_of(unchecked, FrozenSpeech(frozen_model("mean")), tmp_path, batch_size=4)


def test_an_exception_leaves_the_model_whole():
    model = frozen_model("stock")
    before = structure(model)
    frozen = FrozenSpeech(model)
    with pytest.raises((TypeError, AttributeError)):
        frozen.forward(model, {"features": "no tensor"})
    with pytest.raises(RuntimeError):
        frozen.forward(model, {"features": torch.zeros(2, HIDDEN + 1)})
    with pytest.raises((TypeError, AttributeError)):
        frozen.features({"input_values": "no tensor"})
    assert structure(model) == before


def test_long_clips_are_computed_in_smaller_batches(tmp_path, monkeypatch):
    seen = []
    features = FrozenSpeech.features

    def noted(self, inputs):
        seen.append(tuple(inputs["input_values"].shape))
        return features(self, inputs)

    monkeypatch.setattr(FrozenSpeech, "features", noted)
    monkeypatch.setattr(speech_features, "SAMPLES_AT_ONCE", 16_000)
    cached(clips(None), frozen_model("stock"), tmp_path / "a", workers=3)
    assert seen[1:] == [(2, 8_000), (2, 7_000), (3, 5_001), (4, 4_000)]
    seen.clear()
    monkeypatch.setattr(speech_features, "SAMPLES_AT_ONCE", 1)
    cached(clips(None), frozen_model("stock"), tmp_path / "b")
    assert seen[1:] == [(1, max(4_000, n)) for n in sorted(LENGTHS, reverse=True)]


@pytest.mark.parametrize("name", ["stock", "stock, weighted", "stock CTC", "attention", "blstm"])
def test_several_processes(name, tmp_path):
    """The wrapper of several processes: gradients of what is trained as without the cache."""
    inputs, model = clips(None), frozen_model(name).eval()
    data, frozen = cached(inputs, model, tmp_path / "cache")
    with process_group(tmp_path):
        gradients = gradients_of_wrapped(model, frozen, inputs, data)
    assert gradients[0].keys() == gradients[1].keys() and max(g.abs().max() for g in gradients[0].values()) > 0.01
    for parameter, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][parameter], gradient, rtol=1e-4, atol=1e-5)


def gradients_of_wrapped(model, frozen: FrozenSpeech, *sources) -> list[dict[str, torch.Tensor]]:
    wrapped, gradients = torch.nn.parallel.DistributedDataParallel(model), []
    for source in sources:
        for _ in range(2):  # DDP complains at the second step
            batch = collate_features([source[row] for row in range(8)])
            del batch["row"]
            model.zero_grad()
            logits = frozen.forward(wrapped, batch)["logits"]
            own = torch.arange(logits.shape[1]) < frames_in(model, batch)[:, None] if logits.ndim == 3 else ...
            logits[own].pow(2).mean().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    return gradients


# Training


def head_for(model) -> Head:
    def losses(output, batch):
        if output["logits"].ndim == 2:
            return cross_entropy(output["logits"], batch["targets"], reduction="none")
        scores, lengths = output["logits"].log_softmax(-1).transpose(0, 1), (batch["targets"] >= 0).sum(1)
        targets = batch["targets"].clamp(min=0)
        found = ctc_loss(scores, targets, frames_in(model, batch), lengths, reduction="none", zero_infinity=True)
        return found / lengths.clamp(min=1)

    return Head(
        targets=("targets",),
        losses=losses,
        keep=lambda output, batch: (output["logits"].flatten(1)[:, :3].contiguous(),),
        score=lambda kept, data: {"mean": float(kept[0].mean())},
        has_truth=lambda batch: "targets" in batch,
    )


def train(model, folder, training, validation, forward=None) -> FinetuneTrainer:
    arguments = make_arguments(
        folder,
        num_train_epochs=2,
        learning_rate=0.05,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=2,
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch",
        save_strategy="epoch",
        max_grad_norm=1.0,
    )
    set_seed(11)
    trainer = FinetuneTrainer(
        head=head_for(model),
        stop=StopRequest(),
        model=model,
        args=arguments,
        train_dataset=training,
        eval_dataset=validation,
        data_collator=collate_features,
        forward=forward,
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("name", ["stock", "stock, weighted", "stock CTC", "attention, weighted", "blstm"])
def test_training_is_the_same_as_without_the_cache(name, tmp_path):
    kind = "labels" if MODELS[name][1].startswith("frames") and "attention" not in name else "classes"
    training, validation = clips(kind), clips(kind, seed=1, lengths=LENGTHS[:5])
    plain = train(frozen_model(name), tmp_path / "plain", training, validation)
    model = frozen_model(name)
    start = state_of(model)
    data, frozen = cached(training, model, tmp_path / "cache")
    fewer, _ = cached(validation, model, tmp_path / "cache")
    with_cache = train(model, tmp_path / "cached", data, fewer, frozen.forward)
    # Logs: every loss, gradient norm and metric of every step.
    logs = history_of(plain), history_of(with_cache)
    assert len(logs[0]) == len(logs[1]) == 6
    for a, b in zip(*logs):
        assert a == pytest.approx(b, abs=1e-4, rel=1e-4)
    # Weights, of which those of the head have moved and those of the encoder have not.
    expected, found = state_of(plain.model), state_of(model)
    assert found.keys() == expected.keys() == start.keys()
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=1e-5, msg=key)
    moved = {key for key in start if not torch.equal(start[key], found[key])}
    assert moved and not any(key.startswith(model.base_model_prefix) for key in moved)
    assert ("layer_weights" in moved) == ("weighted" in name)
    # The next random number is the same: as many were drawn.
    states = [torch.load(p, weights_only=False)["cpu"] for p in sorted(tmp_path.glob("*/*-4/rng_state.pth"))]
    assert len(states) == 2 and torch.equal(*states)
    # A checkpoint is a whole model, which goes on from the same features.
    saved = type(model).from_pretrained(tmp_path / "cached" / "checkpoint-4").requires_grad_(False)
    again = FrozenSpeech(saved)
    again.features = None  # not to be computed again
    data = features_of(validation, again, tmp_path / "cache", batch_size=4)
    for a, b in zip(logits_of(saved, data, again.forward), logits_of(model, validation), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


# Keeping


def test_computed_once_and_by_content(tmp_path):
    """What changes the features is another entry; what does not is none."""

    def entries(*, inputs=None, model=None, **settings) -> int:
        cached(inputs or clips(), model or frozen_model("stock"), tmp_path, **settings)
        return len(list(tmp_path.iterdir()))

    def changed(part: str, name: str = "stock"):
        other = frozen_model(name)
        with torch.no_grad():
            other.get_parameter(part).view(-1)[3] += 0.01
        return other

    def configured(**settings):
        model = stock_classifier(**settings)
        freeze(model, "encoder")
        return model

    def with_examples(**fields) -> Waveforms:
        inputs = clips()
        return Waveforms(replace(inputs.examples, **fields), inputs.extractor)

    assert entries() == 1
    same = [
        {},
        {"inputs": clips(None)},
        {"batch_size": 1},
        {"workers": 2},
        {"model": PooledClassifier.around(frozen_model("stock").hubert, LABELS)},  # another head on the same encoder
        {"model": configured(hidden_dropout=0.3, layerdrop=0.2, mask_time_prob=0.5, id2label={0: "a", 1: "b", 2: "c"})},
        {"inputs": with_examples(ids=[f"other {i}" for i in range(len(LENGTHS))])},
        *({"model": changed(part)} for part in ("hubert.masked_spec_embed", "projector.weight", "classifier.weight")),
    ]
    for settings in same:
        assert entries(**settings) == 1, settings
    convolution = "hubert.feature_extractor.conv_layers.0"
    begins, ends = np.zeros(len(LENGTHS)), np.array(LENGTHS) / 16_000
    begins[3] = 0.01
    digests = clips().examples.digests
    others = [
        {"model": changed(f"{convolution}.conv.weight")},
        {"model": changed(f"{convolution}.layer_norm.bias")},
        {"model": changed("hubert.feature_projection.projection.weight")},
        {"model": changed("hubert.encoder.pos_conv_embed.conv.parametrizations.weight.original1")},
        *({"model": changed(f"hubert.encoder.layers.{n}.attention.q_proj.weight")} for n in (0, 1)),
        {"model": configured(num_hidden_layers=1)},
        {"model": configured(hidden_act="relu")},
        {"model": configured(attn_implementation="eager")},
        {"model": frozen_model("stock, weighted")},
        {"model": frozen_model("max")},
        {"model": frozen_model("first")},
        {"model": frozen_model("stock CTC")},
        {"inputs": clips(normalise=False)},
        {"inputs": clips(seed=1)},
        {"inputs": clips(lengths=LENGTHS[:-1])},
        {"inputs": with_examples(begins=begins)},
        {"inputs": with_examples(ends=ends - 0.01 * (np.arange(len(LENGTHS)) == 5))},
        {"inputs": with_examples(digests=digests[::-1])},
        {"storage": "float16"},
        {"autocast": torch.bfloat16},
    ]
    for number, settings in enumerate(others):
        assert entries(**settings) == number + 2, settings


def test_the_second_time_nothing_is_computed(tmp_path, monkeypatch):
    inputs, model = clips(), frozen_model("stock CTC")
    first, _ = cached(inputs, model, tmp_path)
    calls = []
    features = FrozenSpeech.features
    monkeypatch.setattr(FrozenSpeech, "features", lambda *arguments: calls.append(1) or features(*arguments))
    second, _ = cached(inputs, copy.deepcopy(model), tmp_path)
    assert not calls and second.features.filename == first.features.filename
    cached(inputs, model, tmp_path, overwrite=True)
    assert len(calls) == 1 + 3  # one to see whether it agrees, and 11 clips by four


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError("out of memory"), OSError(errno.ENOSPC, "No space")])
def test_what_is_interrupted_leaves_nothing(tmp_path, monkeypatch, stop):
    inputs, model, root = clips(), frozen_model("stock CTC"), tmp_path / "cache"
    before = structure(model)
    features, calls = FrozenSpeech.features, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 4:
            assert sum(p.stat().st_size for p in root.rglob("features.npy")) > 1000  # half of it is there
            raise stop
        return features(*arguments)

    monkeypatch.setattr(FrozenSpeech, "features", interrupted)
    frozen = FrozenSpeech(model)
    if isinstance(stop, OSError):
        assert features_of(inputs, frozen, root, batch_size=4) == f"cache {root}: No space"
    else:
        with pytest.raises(stop if isinstance(stop, type) else type(stop)):
            features_of(inputs, frozen, root, batch_size=4)
    assert list(root.iterdir()) == [] and structure(model) == before
    assert len(cached(inputs, model, root)[0]) == len(inputs)


def test_a_clip_that_cannot_be_decoded_ends_it(tmp_path):
    inputs = clips()
    inputs.examples.audio[2] = {"array": np.zeros(0, np.float32), "sampling_rate": 16_000}
    with pytest.raises(Exception, match=r"^clip 2: "):
        features_of(inputs, FrozenSpeech(frozen_model("stock")), tmp_path / "cache", batch_size=2)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_disk_that_is_full_while_it_is_written():
    """A real one: /dev/full takes no byte, and its error is a reason, not the end of the process."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    frozen, real = FrozenSpeech(frozen_model("stock")), Path.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Path, "open", lambda p, *a, **k: real(Path("/dev/full") if p.name == "features.npy" else p, *a, **k)
        )
        reason = features_of(clips(), frozen, Path(os.environ["XDG_CACHE_HOME"]) / "full", batch_size=4)
    assert reason.endswith("full: No space left on device")


def test_too_little_space_is_seen_before_anything_is_computed(tmp_path, monkeypatch):
    inputs = clips()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(FrozenSpeech, "features", None)
    for name in ("stock", "stock CTC"):
        vectors = len(LENGTHS) if name == "stock" else sum((n - 80) // 320 for n in LENGTHS)
        needed = vectors * HIDDEN * 4
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, 5 * 10**9 + needed - 1))  # noqa: B023
        reason = features_of(inputs, FrozenSpeech(frozen_model(name)), tmp_path / "cache", batch_size=4)
        assert reason == f"cache {tmp_path / 'cache'}: 0.0 GB are needed, and 5.0 GB are free"
        assert list((tmp_path / "cache").iterdir()) == []


def test_worker_processes_map_the_same_file(tmp_path):
    for name in ("stock CTC", "stock"):
        data, _ = cached(clips("classes"), frozen_model(name), tmp_path)
        data.examples = None
        packed = pickle.dumps(data)
        assert len(packed) < 3_000 and (data.pooled or data.features.nbytes > 10_000)
        copied = pickle.loads(packed)
        assert isinstance(copied.features, np.memmap) and copied.features.filename == data.features.filename
        settings = {"batch_sampler": [[3, 1, 2], [0, 10]], "collate_fn": collate_features}
        here = list(torch.utils.data.DataLoader(data, **settings))
        there = list(torch.utils.data.DataLoader(copied, num_workers=1, **settings))
        for a, b in zip(here, there, strict=True):
            assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_what_is_going_to_be_computed_is_said_before(tmp_path, capsys):
    cached(clips(), frozen_model("stock"), tmp_path)
    assert capsys.readouterr().err.count("clip") == 0
    cached(clips(), frozen_model("stock CTC"), tmp_path, progress="features, train")
    said = capsys.readouterr().err
    frames = sum((n - 80) // 320 for n in LENGTHS)
    line = f"features, train: 11 clips, {frames} frames of 32 numbers, {frames * 128 / 1e6:.1f} MB in {tmp_path}\n"
    assert said.startswith(line) and "features, train: 100%" in said and "11/11" in said
    cached(clips(), frozen_model("stock CTC"), tmp_path, progress="features, train")
    assert capsys.readouterr().err == ""
    cached(clips(), frozen_model("stock, weighted"), tmp_path, progress="features, train")
    assert "11 clips, 11 vectors of 3 x 32 numbers, 0.0 MB" in capsys.readouterr().err


def test_batches_are_made_ahead_in_their_order():
    made = []

    def make(number):
        time.sleep(0.002 * (number % 3))
        made.append(number)
        return number

    found = []
    for number in speech_features._ahead(make, range(10), 3):
        found.append(number)
        assert len(made) <= number + 5
    assert found == list(range(10)) and sorted(made) == found
