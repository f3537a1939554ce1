"""common.legacy.ctc against transformers' own loss, against every alignment summed by hand, and what is kept of a batch."""

import itertools

import numpy as np
import pytest
import torch
from transformers import AutoModelForCTC, AutoProcessor

from common.legacy.ctc import ctc_head, every_score, searched
from common.legacy.decoding import greedy
from common.legacy.speech_encoders import ignore_padding
from common.legacy.tiny_speech import tiny_speech_model

LETTERS = tuple("ABCDE'")
LENGTHS = (9000, 16000, 12345)


@pytest.fixture(scope="module", params=["hubert", "wav2vec2-large-lv60"])
def recogniser(request, tmp_path_factory):
    """(Model in eval mode, its tokenizer)."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny_speech_model(request.param, folder, head="ctc", vocabulary=LETTERS)
    model = AutoModelForCTC.from_pretrained(folder, ctc_loss_reduction="mean", ctc_zero_infinity=True).eval()
    ignore_padding(model)
    return model, AutoProcessor.from_pretrained(folder).tokenizer


def batch_of(lengths, texts, tokenizer, seed=0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    waves = [torch.randn(length, generator=generator) for length in lengths]
    labels = [torch.tensor(tokenizer(text).input_ids) for text in texts]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_values": pad(waves, batch_first=True),
        "attention_mask": pad([torch.ones(n, dtype=torch.int64) for n in lengths], batch_first=True),
        "targets": pad(labels, batch_first=True, padding_value=-100),
    }


def outputs_of(model, batch: dict):
    with torch.no_grad():
        return model(input_values=batch["input_values"], attention_mask=batch["attention_mask"])


def own_loss(model, batch: dict) -> float:
    names = ("input_values", "attention_mask")
    with torch.no_grad():
        return model(**{name: batch[name] for name in names}, labels=batch["targets"]).loss.item()


def test_loss_is_that_of_transformers(recogniser):
    model, tokenizer = recogniser
    head, texts = ctc_head(model, tokenizer), ("ABE A", "DEAD BED", "A")
    batch = batch_of(LENGTHS, texts, tokenizer)
    found = head.losses(outputs_of(model, batch), batch)
    assert found.shape == (3,) and found.min() > 0.1
    assert found.mean().item() == pytest.approx(own_loss(model, batch), rel=1e-5), "a batch: the mean of its utterances"
    for i, length in enumerate(LENGTHS):
        alone = {name: values[i : i + 1] for name, values in batch.items()}
        alone = {name: alone[name][:, :length] for name in ("input_values", "attention_mask")} | {
            "targets": alone["targets"][:, : len(texts[i])]
        }
        assert found[i].item() == pytest.approx(own_loss(model, alone), rel=1e-4), "one utterance, without its batch"


def test_loss_sums_up_all_alignments():
    """Four frames, three labels (0 the blank), written out."""

    class Tokenizer:
        pad_token_id = 0

    frames, labels = 4, [1, 2]
    logits = torch.randn(1, frames, 3, generator=torch.Generator().manual_seed(1))
    batch = {"targets": torch.tensor([labels]), "frames": torch.tensor([frames])}
    found = ctc_head(None, Tokenizer).losses({"logits": logits}, batch)
    shares = torch.softmax(logits[0], -1).double().numpy()
    total = 0.0
    for path in itertools.product(range(3), repeat=frames):
        if greedy(np.array([path]), np.array([frames]), 0) == [labels]:
            total += np.prod([shares[at, label] for at, label in enumerate(path)])
    assert found.item() == pytest.approx(-np.log(total) / len(labels), rel=1e-5)


def test_transcripts_that_cannot_be_have_no_loss_and_no_gradient(recogniser):
    model, tokenizer = recogniser
    head = ctc_head(model, tokenizer)
    batch = batch_of((16000, 4000), ("BED", "ABCDE" * 20), tokenizer)
    output = outputs_of(model, batch)
    output["logits"].requires_grad_()
    losses = head.losses(output, batch)
    losses.sum().backward()
    assert losses[1] == 0 and losses[0] > 0
    gradient = output["logits"].grad
    assert torch.isfinite(gradient).all() and not gradient[1].any() and gradient[0].any()


def test_no_loss_of_frames_behind_the_clip(recogniser):
    model, tokenizer = recogniser
    head = ctc_head(model, tokenizer)
    batch = batch_of(LENGTHS, ("ABE", "BED", "A"), tokenizer)
    output = outputs_of(model, batch)
    before = head.losses(output, batch)
    frames = head.keep(output, batch)[1]
    for logits, count in zip(output["logits"], frames):
        logits[count:] = torch.randn_like(logits[count:]) * 10
    assert torch.equal(head.losses(output, batch), before)


def test_what_is_kept_is_small_and_right(recogniser):
    model, tokenizer = recogniser
    head = ctc_head(model, tokenizer)
    batch = batch_of(LENGTHS, ("ABE", "BED", "A"), tokenizer)
    output = outputs_of(model, batch)
    paths, frames = head.keep(output, batch)
    assert paths.dtype == frames.dtype == torch.int32 and paths.shape == output["logits"].shape[:2]
    assert frames.tolist() == [(length - 400) // 320 + 1 for length in LENGTHS]
    assert torch.equal(paths, output["logits"].argmax(-1).int())
    assert head.has_truth(batch) and not head.has_truth({"input_values": 0})


def test_scores_are_kept_whole(recogniser):
    model, tokenizer = recogniser
    batch = batch_of(LENGTHS, ("ABE", "BED", "A"), tokenizer)
    output = outputs_of(model, batch)
    scores, frames = every_score(model)(output, batch)
    assert torch.equal(scores, output["logits"]) and scores.dtype == torch.float32
    assert torch.equal(frames, ctc_head(model, tokenizer).keep(output, batch)[1])


def test_a_search_takes_the_place_of_the_best_labels(recogniser):
    model, tokenizer = recogniser
    batch = batch_of(LENGTHS, ("ABE", "BED", "A"), tokenizer)
    output = outputs_of(model, batch)
    asked = []

    class Decoder:
        def paths(self, scores, frames):
            asked.append((scores, frames))
            return np.full(scores.shape[:2], 3, dtype=np.int32)

    paths, frames = searched(model, Decoder())(output, batch)
    assert (paths == 3).all() and frames.dtype == torch.int32
    ((scores, counts),) = asked
    assert np.array_equal(scores, output["logits"].numpy()) and np.array_equal(counts, frames.numpy())
