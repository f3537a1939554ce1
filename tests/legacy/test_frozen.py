"""Cached states against the whole model: the same logits, the same training; keys, processes, disks.

The last layer for the first token alone: `test_first_token.py`; here that cached states change nothing there either.
"""

import dataclasses
import errno
import os
import pickle
import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, set_seed

from common.legacy import frozen
from common.legacy.first_token import FirstToken
from common.legacy.frozen import CachedStates, FrozenPrefix, collate_states, states_of
from common.legacy.pair_inputs import PairInputs, collate_pairs
from common.legacy.pair_task import states_or_inputs
from common.legacy.run import StopRequest
from common.legacy.samplers import LengthGroupedSampler
from common.legacy.text import tokenize_once
from common.legacy.trainer import FinetuneTrainer, Head
from tests.legacy.conftest import TEXTS
from tests.legacy.distributed_worker import history_of, make_arguments, state_of

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS, HIDDEN = 4, 32
FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "electra")
TOKENIZERS = {"electra": "bert", "deberta-v2": "bert"}  # whose tokenizer stands for that of another family


@pytest.fixture
def pairs(tiny_tokenizer, tmp_path):
    """A function that makes N random pairs for a family of models: some truncated, memory-mapped."""

    def make(family: str = "bert", count: int = 23, seed: int = 0, max_length: int = 22, truth=True, **settings):
        family = TOKENIZERS.get(family, family)
        tokenizer = tiny_tokenizer(f"{family}-base" if "roberta" in family else f"{family}-base-uncased")
        random = np.random.default_rng(seed)
        words = " ".join(TEXTS).split()
        texts = [[" ".join(random.choice(words, random.integers(1, 9))) for _ in range(count)] for _ in range(2)]
        first, second = (tokenize_once(tokenizer, side, tmp_path / "tokens", overwrite=False) for side in texts)
        targets = random.integers(0, 3, count) if truth else None
        inputs = PairInputs(tokenizer, first, second, max_length=max_length, targets=targets, **settings)
        inputs.examples, inputs.vocabulary = texts, (len(tokenizer), tokenizer.pad_token_id)
        return inputs

    return make


def model_for(inputs: PairInputs, family: str = "bert", *, task="SequenceClassification", **settings):
    """A random model, in training mode; its weights are larger than usual so that its logits differ."""
    size = dict(zip(("vocab_size", "pad_token_id"), inputs.vocabulary), num_labels=3, max_position_embeddings=48)
    if family == "distilbert":
        size |= {"dim": HIDDEN, "n_layers": LAYERS, "n_heads": 4, "hidden_dim": 48}
    else:
        size |= {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 48}
        size |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "type_vocab_size": 2}
    if family == "electra":
        size["embedding_size"] = 16
    set_seed(3)
    config = transformers.AutoConfig.for_model(family, **{**size, **settings})
    model = getattr(transformers, f"AutoModelFor{task}").from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)
    return model.train()


def freeze(model, layers: int):
    """Freezes the first layers and what is below, for good: no gradient, eval mode whatever is said to the model."""
    base = model.base_model
    stack = getattr(base, "encoder", None) or base.transformer
    parts = [base.embeddings, *stack.layer[:layers]]
    parts += [base.embeddings_project] if hasattr(base, "embeddings_project") else []
    for part in parts:
        part.requires_grad_(False)
        part.eval()
        part.train = lambda mode=True, part=part: part
    return model


def logits_of(model, inputs, data, collate, forward=None) -> torch.Tensor:
    """[N, 3], by batches of 5 in the order of the data, in eval mode."""
    model.eval()
    found = []
    for at in range(0, len(data), 5):
        batch = collate([data[row] for row in range(at, min(at + 5, len(data)))])
        assert batch.pop("row").tolist() == list(range(at, min(at + 5, len(data))))
        batch.pop("targets", None)
        with torch.no_grad():
            found.append((forward or (lambda model, inputs: model(**inputs)))(model, batch)["logits"])
    return torch.cat(found)


def cached(inputs, model, layers, root, **settings) -> tuple[CachedStates, FrozenPrefix]:
    prefix = FrozenPrefix(model, layers)
    data = states_of(inputs, prefix, root, **{"batch_size": 6, **settings})
    assert isinstance(data, CachedStates), data
    return data, prefix


def structure(model) -> list:
    return [(name, id(module), module.training) for name, module in model.named_modules()]


# Computing


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_gives_the_same_from_cached_states(family, attention, pairs, tmp_path):
    inputs = pairs(family)
    assert len(set(inputs.lengths[:5])) > 2 and (inputs.pair_lengths > inputs.lengths).any()
    model = model_for(inputs, family, attn_implementation=attention).requires_grad_(False)  # in training mode
    expected = logits_of(model, inputs, inputs, collate_pairs)
    assert expected.std(0).min() > 1e-2  # so that 1e-5 says something
    model.train()
    before, names = structure(model), list(model.state_dict())
    for layers in range(LAYERS + 1):
        data, prefix = cached(inputs, model, layers, tmp_path / "cache")
        assert structure(model) == before and list(model.state_dict()) == names
        found = logits_of(model, inputs, data, collate_states, prefix.forward)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        # Batches of token ids pass through all of it.
        found = logits_of(model, inputs, inputs, collate_states, prefix.forward)
        assert torch.equal(found, expected)
        model.train()
        assert structure(model) == before


@pytest.mark.parametrize("padding", [{}, {"pad_to": 36}, {"pad_to_multiple_of": 8}])
def test_batches_are_padded_and_sampled_as_pairs_are(pairs, tmp_path, padding):
    inputs = pairs(**padding)
    model = freeze(model_for(inputs), LAYERS)
    rows = [7, 0, 3, 19]
    expected = collate_pairs([inputs[row] for row in rows])
    for layers in (2, LAYERS):
        data, _ = cached(inputs, model, layers, tmp_path)
        assert len(data) == len(inputs) and data.examples is inputs.examples and data.targets is inputs.targets
        samples = [list(LengthGroupedSampler(d.lengths, 4, seed=1)) for d in (inputs, data)]
        assert samples[0] == samples[1]
        batch = collate_states([data[row] for row in rows])
        assert set(batch) == {"inputs_embeds", "attention_mask", "row", "targets"}
        assert torch.equal(batch["row"], expected["row"]) and torch.equal(batch["targets"], expected["targets"])
        assert batch["inputs_embeds"].dtype == torch.float32
        if layers == LAYERS:
            assert batch["inputs_embeds"].shape == (4, 1, HIDDEN) and batch["attention_mask"].tolist() == [[1]] * 4
        else:
            assert batch["inputs_embeds"].shape == (*expected["input_ids"].shape, HIDDEN)
            assert torch.equal(batch["attention_mask"], expected["attention_mask"])
            assert not batch["inputs_embeds"][expected["attention_mask"] == 0].any()


def test_without_truth_and_without_examples(pairs, tmp_path):
    for count in (0, 1):
        inputs = pairs(count=count, truth=False)
        data, _ = cached(inputs, freeze(model_for(pairs()), 2), 2, tmp_path)
        assert len(data) == count and data.states.shape == (int(inputs.lengths.sum()), HIDDEN)
    assert "targets" not in collate_states([data[0]])


def test_precision(pairs, tmp_path):
    inputs = pairs()
    model = freeze(model_for(inputs), 2).eval()
    exact, _ = cached(inputs, model, 2, tmp_path)
    half, _ = cached(inputs, model, 2, tmp_path, storage="float16")
    lower, _ = cached(inputs, model, 2, tmp_path, autocast=torch.bfloat16)
    assert half.states.dtype == np.float16 and half.states.nbytes * 2 == exact.states.nbytes
    np.testing.assert_allclose(half.states, exact.states, rtol=1e-3, atol=1e-6)
    assert np.array_equal(half.states, exact.states.astype(np.float16))
    difference = np.abs(lower.states - exact.states).max()
    assert lower.states.dtype == np.float32 and 1e-4 < difference < 0.5
    batch = collate_pairs([inputs[4]])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        ids = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        expected = model.bert(**ids, output_hidden_states=True).hidden_states[2][0].float()
    np.testing.assert_allclose(collate_states([lower[4]])["inputs_embeds"][0], expected, rtol=0, atol=0.05)
    assert collate_states([half[4]])["inputs_embeds"].dtype == torch.float32


def test_what_cannot_go_on_from_states_is_told(pairs, tmp_path):
    inputs = pairs()
    forms = [
        (model_for(inputs, "deberta-v2", conv_kernel_size=3), 2, "DebertaV2ForSequenceClassification"),  # layer 0's
        (model_for(inputs, task="TokenClassification"), LAYERS, "BertForTokenClassification"),  # reads every token
    ]
    for model, layers, name in forms:
        reason = states_of(inputs, FrozenPrefix(model.requires_grad_(False), layers), tmp_path, batch_size=6)
        assert reason == f"a {name} cannot go on from the states of its first {layers} layers"
        assert list((tmp_path).glob("*.npy")) == []
    cached(inputs, model, LAYERS - 1, tmp_path)
    cached(inputs, model_for(inputs, "deberta-v2").requires_grad_(False), 2, tmp_path)
    # Trained, it would be another at every step.
    model = freeze(model_for(inputs, "electra"), 2)
    model.electra.embeddings_project.requires_grad_(True)
    reason = states_of(inputs, FrozenPrefix(model, 2), tmp_path, batch_size=6)
    assert reason == "embeddings_project.weight belongs to what would be cached, and is trained"
    with pytest.raises(ValueError):
        FrozenPrefix(model, LAYERS + 1)


def test_an_exception_leaves_the_model_whole(pairs, tmp_path):
    model = freeze(model_for(pairs()), 2)
    before = structure(model)
    prefix = FrozenPrefix(model, 2)
    with pytest.raises((TypeError, AttributeError)):
        prefix.forward(model, {"inputs_embeds": "no tensor"})
    with pytest.raises((TypeError, AttributeError)):
        prefix.states({"input_ids": "no tensor"})
    assert structure(model) == before


@pytest.mark.parametrize("whole", [True, False])
def test_wrapped_models(pairs, tmp_path, whole):
    """By peft, and by the wrapper of several processes: gradients of what is trained as without the cache."""
    import peft
    from torch.nn.parallel import DistributedDataParallel

    inputs = pairs()
    layers = LAYERS if whole else LAYERS - 1
    settings = {"target_modules": ["pooler.dense"]} if whole else {"layers_to_transform": [LAYERS - 1]}
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_dropout=0.0, init_lora_weights=False, **settings)
    everywhere = peft.get_peft_model(model_for(inputs), peft.LoraConfig(task_type="SEQ_CLS", r=4))
    reason = states_of(inputs, FrozenPrefix(everywhere, layers), tmp_path, batch_size=6)
    assert "lora_A" in reason and reason.endswith("is trained")
    model = peft.get_peft_model(model_for(inputs), lora).eval()
    data, prefix = cached(inputs, model, layers, tmp_path)
    expected = logits_of(model, inputs, inputs, collate_pairs)
    torch.testing.assert_close(
        logits_of(model, inputs, data, collate_states, prefix.forward), expected, rtol=0, atol=1e-5
    )
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped, gradients = DistributedDataParallel(model), []
        for collate, source in ((collate_pairs, inputs), (collate_states, data)):
            batch = collate([source[row] for row in range(8)])
            targets = batch.pop("targets")
            del batch["row"]
            model.zero_grad()
            cross_entropy(prefix.forward(wrapped, batch)["logits"], targets).backward()
            gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    finally:
        torch.distributed.destroy_process_group()
    assert gradients[0].keys() == gradients[1].keys() and max(g.abs().max() for g in gradients[0].values()) > 0.01
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=1e-5)


# Training


def train(model, folder, training, validation, forward=None) -> FinetuneTrainer:
    head = Head(
        targets=("targets",),
        losses=lambda output, batch: cross_entropy(output["logits"], batch["targets"], reduction="none"),
        keep=lambda output, batch: (output["logits"],),
        score=lambda kept, data: {"accuracy": float((kept[0].argmax(1) == data.targets).mean())},
        has_truth=lambda batch: "targets" in batch,
    )
    arguments = make_arguments(
        folder,
        num_train_epochs=2,
        learning_rate=0.05,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch",
        save_strategy="epoch",
        max_grad_norm=1.0,
    )
    set_seed(11)
    trainer = FinetuneTrainer(
        head=head,
        stop=StopRequest(),
        model=model,
        args=arguments,
        train_dataset=training,
        eval_dataset=validation,
        data_collator=collate_states,
        forward=forward,
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("shortened", [False, True])
@pytest.mark.parametrize("layers", [2, LAYERS])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_training_is_the_same_as_without_the_cache(family, layers, shortened, pairs, tmp_path):
    """Of a whole last layer, and of one that is computed for the first token only."""
    training, validation = pairs(family, 30), pairs(family, 13, seed=1)
    model = freeze(model_for(training, family), layers)
    forward = FirstToken(model).forward if shortened else None
    plain = train(model, tmp_path / "plain", training, validation, forward)
    model = freeze(model_for(training, family), layers)
    start = state_of(model)
    data, prefix = cached(training, model, layers, tmp_path / "cache")
    fewer = cached(validation, model, layers, tmp_path / "cache")[0]
    forward = FirstToken(model, prefix).forward if shortened else prefix.forward
    with_cache = train(model, tmp_path / "cached", data, fewer, forward)
    # Logs: every loss, gradient norm and metric of every step.
    logs = history_of(plain), history_of(with_cache)
    assert len(logs[0]) == len(logs[1]) == 10
    for a, b in zip(*logs):
        assert a == pytest.approx(b, abs=1e-5)
    # Weights, of which those above have moved and those below have not.
    expected, found = state_of(plain.model), state_of(model)
    assert found.keys() == expected.keys() == start.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5, msg=name)
    fixed = prefix.tensors()
    moved = {name for name in start if not torch.equal(start[name], found[name])}
    assert any("classifier" in name for name in moved) and (layers == LAYERS or any(".3." in name for name in moved))
    assert not {name for name in moved if name.split(".", 1)[1] in fixed}
    # The next random number is the same: as many were drawn.
    assert torch.equal(
        *(torch.load(p, weights_only=False)["cpu"] for p in sorted(tmp_path.glob("*/*-8/rng_state.pth")))
    )
    # A checkpoint is a whole model, which goes on from the same states.
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "cached" / "checkpoint-8").requires_grad_(
        False
    )
    assert state_of(saved).keys() == start.keys()
    logits = logits_of(model, validation, validation, collate_pairs)
    torch.testing.assert_close(logits_of(saved, validation, validation, collate_pairs), logits, rtol=0, atol=1e-6)
    again = FrozenPrefix(saved, layers)
    again.states = None  # not to be computed again
    data = states_of(validation, again, tmp_path / "cache", batch_size=6)
    torch.testing.assert_close(
        logits_of(saved, validation, data, collate_states, again.forward), logits, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_what_the_scripts_get(family, pairs, tmp_path):
    """Of a known family the last layer is for the first token only, cached or not; of another it is whole."""
    inputs, validation = pairs(family), pairs(family, count=9, seed=1)
    training = SimpleNamespace(bf16=False, fp16=False, fsdp=None, disable_tqdm=True, process_index=0)
    training.per_device_eval_batch_size = 6
    data, model_args = SimpleNamespace(overwrite_cache=False), SimpleNamespace(cache_dir=str(tmp_path))
    widths = []
    for layers, cache in ((2, "float32"), (None, "float32"), (2, "none"), (LAYERS, "float32")):
        model = freeze(model_for(inputs, family), 2 if layers is None else layers).eval()
        if family != "bert":
            model.requires_grad_(True)  # so that nothing is cached
        model.base_model.encoder.layer[-1].output.register_forward_hook(
            lambda *given: widths.append(given[1][0].shape[1])
        )
        expected = logits_of(model, validation, validation, collate_pairs)
        splits = {"train": inputs, "validation": validation}
        task = SimpleNamespace(frozen_cache=cache)
        fed, forward, reason = states_or_inputs(model, layers, splits, task, data, model_args, training)
        used = family == "bert" and layers is not None and cache != "none"
        assert all(isinstance(split, CachedStates) == used for split in fed.values()), reason
        assert (forward is None) == (family != "bert")
        widths.clear()
        found = logits_of(model, validation, fed["validation"], collate_states, forward)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        if family != "bert":
            assert min(widths) > 1
        else:
            assert set(widths) == (set() if used and layers == LAYERS else {1})


# Keeping


def test_computed_once_and_by_content(pairs, tmp_path):
    """What changes the states is another entry; what does not is none."""
    inputs = pairs()
    model = freeze(model_for(inputs), 2)
    root = tmp_path / "cache"

    def entries(*, inputs=inputs, model=model, layers=2, **settings) -> int:
        cached(inputs, model, layers, root, **settings)
        return len(list(root.iterdir()))

    def changed(part: str):
        other = freeze(model_for(inputs), 2)
        with torch.no_grad():
            other.get_parameter(part).view(-1)[3] += 0.01
        return other

    assert entries() == 1
    same = [
        {},
        {"inputs": pairs()},
        {"model": freeze(model_for(inputs), 2)},
        {"model": freeze(model_for(inputs, hidden_dropout_prob=0.3, id2label={0: "a", 1: "b", 2: "c"}), 2)},
        {"batch_size": 1},
        {"inputs": pairs(truth=False, pad_to=40)},
        *({"model": changed(name)} for name in ("bert.encoder.layer.2.output.dense.weight", "bert.pooler.dense.bias")),
        {"model": changed("classifier.weight")},
    ]
    for settings in same:
        assert entries(**settings) == 1, settings
    others = [
        *(
            {"model": changed(f"bert.{name}")}
            for name in ("embeddings.LayerNorm.bias", "embeddings.word_embeddings.weight")
        ),
        *({"model": changed(f"bert.encoder.layer.{n}.attention.self.query.bias")} for n in (0, 1)),
        {"layers": 1},
        {"model": freeze(model_for(inputs, hidden_act="relu"), 2)},
        {"model": freeze(model_for(inputs, num_attention_heads=2), 2)},
        {"model": freeze(model_for(inputs, layer_norm_eps=1e-6), 2)},
        {"model": freeze(model_for(inputs, attn_implementation="eager"), 2)},
        {"inputs": pairs(seed=1)},
        {"inputs": pairs(count=22)},
        {"inputs": pairs(max_length=20)},
        {"inputs": pairs(max_length=46)},
        {"storage": "float16"},
        {"autocast": torch.bfloat16},
    ]
    for number, settings in enumerate(others):
        assert entries(**settings) == number + 2, settings
    another = pairs()  # one token
    ids = np.array(another.tokens[0].ids)
    ids[another.first[4, 0]] += 1
    another.tokens = (dataclasses.replace(another.tokens[0], ids=ids), another.tokens[1])
    shifted = pairs(max_length=46)  # the same tokens in the same order, one of them in another pair
    assert shifted.first[0, 1] == shifted.first[1, 0] and np.diff(shifted.first[0]) > 1
    shifted.first[0, 1] = shifted.first[1, 0] = shifted.first[0, 1] - 1
    shifted.lengths[:2] += [-1, 1]
    others += [{"inputs": another}, {"inputs": shifted}]
    assert [entries(**settings) for settings in others[-2:]] == [len(others), len(others) + 1]
    swapped = pairs()
    swapped.tokens, swapped.first, swapped.second = swapped.tokens[::-1], swapped.second, swapped.first
    assert entries(inputs=swapped) == len(others) + 2
    assert entries(inputs=pairs(max_length=47)) == len(others) + 2  # cuts nothing, as 46 did not


def test_the_second_time_nothing_is_computed(pairs, tmp_path, monkeypatch):
    inputs = pairs()
    model = freeze(model_for(inputs), 2)
    first, _ = cached(inputs, model, 2, tmp_path)
    calls = []
    states = FrozenPrefix.states
    monkeypatch.setattr(FrozenPrefix, "states", lambda *arguments: calls.append(1) or states(*arguments))
    model.forward = None
    second, _ = cached(inputs, model, 2, tmp_path)
    del model.forward
    assert not calls and second.states.filename == first.states.filename and isinstance(second.states, np.memmap)
    cached(inputs, model, 2, tmp_path, overwrite=True)
    assert len(calls) == 1 + 4  # one to see whether it agrees, and 23 examples by six


def test_weights_are_hashed_once_for_all_splits(pairs, tmp_path, monkeypatch):
    prefix = FrozenPrefix(freeze(model_for(pairs()), 2), 2)
    first = prefix.fingerprint
    monkeypatch.setattr(hashlib := frozen.hashlib, "sha256", None)
    assert prefix.fingerprint == first and hashlib.sha256 is None


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError("out of memory"), OSError(errno.ENOSPC, "No space")])
def test_what_is_interrupted_leaves_nothing(pairs, tmp_path, monkeypatch, stop):
    inputs, root = pairs(), tmp_path / "cache"
    model = freeze(model_for(inputs), 2)
    before = structure(model)
    states, calls = FrozenPrefix.states, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 4:
            assert sum(p.stat().st_size for p in root.rglob("states.npy")) > 1000  # half of it is there
            raise stop
        return states(*arguments)

    monkeypatch.setattr(FrozenPrefix, "states", interrupted)
    if isinstance(stop, OSError):
        reason = states_of(inputs, FrozenPrefix(model, 2), root, batch_size=6)
        assert reason == f"cache {root}: No space"
    else:
        with pytest.raises(stop if isinstance(stop, type) else type(stop)):
            states_of(inputs, FrozenPrefix(model, 2), root, batch_size=6)
    assert list(root.iterdir()) == [] and structure(model) == before
    assert len(cached(inputs, model, 2, root)[0].states) == inputs.lengths.sum()


def test_a_disk_that_is_full_while_it_is_written(pairs):
    """A real one: /dev/full takes no byte, and its error is a reason, not the end of the process."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    inputs = pairs()
    prefix = FrozenPrefix(freeze(model_for(inputs), 2), 2)
    real = Path.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Path, "open", lambda p, *a, **k: real(Path("/dev/full") if p.name == "states.npy" else p, *a, **k)
        )
        reason = states_of(inputs, prefix, Path(os.environ["XDG_CACHE_HOME"]) / "full", batch_size=6)
    assert reason.endswith("full: No space left on device")


def test_too_little_space_is_seen_before_anything_is_computed(pairs, tmp_path, monkeypatch):
    inputs = pairs()
    prefix = FrozenPrefix(freeze(model_for(inputs), 2), 2)
    needed = int(inputs.lengths.sum()) * HIDDEN * 4
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(FrozenPrefix, "states", None)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, 5 * 10**9 + needed - 1))
    reason = states_of(inputs, prefix, tmp_path / "cache", batch_size=6)
    assert reason == f"cache {tmp_path / 'cache'}: 0.0 GB are needed, and 5.0 GB are free"
    assert list((tmp_path / "cache").iterdir()) == []


def test_worker_processes_map_the_same_file(pairs, tmp_path):
    inputs = pairs(count=400)
    data, _ = cached(inputs, freeze(model_for(inputs), 1), 1, tmp_path)
    packed = pickle.dumps(data)
    assert data.states.nbytes > 700_000 and len(packed) < 100_000
    copy = pickle.loads(packed)
    assert isinstance(copy.states, np.memmap) and copy.states.filename == data.states.filename
    batches = [range(at, at + 40) for at in range(0, 400, 40)]
    settings = {"batch_sampler": batches, "collate_fn": collate_states}
    here = torch.utils.data.DataLoader(data, **settings)
    there = torch.utils.data.DataLoader(data, num_workers=1, multiprocessing_context="spawn", **settings)
    count = 0
    for a, b in zip(here, there, strict=True):
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        count += len(a["row"])
    assert count == 400


def test_the_progress_bar_is_for_one_process(pairs, tmp_path, capsys):
    model = freeze(model_for(pairs()), 2)
    cached(pairs(), model, 2, tmp_path / "a")
    assert capsys.readouterr().err == ""
    cached(pairs(), model, 2, tmp_path / "b", progress="states of train")
    assert "states of train: 100%" in capsys.readouterr().err
