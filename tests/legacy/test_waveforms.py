"""Waveforms as inputs against the feature extractor itself, called on whole batches."""

import pickle

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2FeatureExtractor

from common.legacy.audio import BadAudio
from common.legacy.recordings import Recordings
from common.legacy.waveforms import SHORTEST_BATCH, Waveforms, collate_waveforms

LENGTHS = (16_000, 400, 12_345, 5_001, 8_000)


def recordings(lengths=LENGTHS, seed: int = 0, rate: int = 16_000, **known) -> Recordings:
    """Noise of so many samples each, off zero and of different loudness."""
    random = np.random.default_rng(seed)
    clips = [(0.1 + random.normal(0, 0.02 * (1 + i % 5), n)).astype(np.float32) for i, n in enumerate(lengths)]
    ids = [f"clip {i}" for i in range(len(lengths))]
    return Recordings(
        source="noise",
        ids=ids,
        audio=[{"array": clip, "sampling_rate": rate} for clip in clips],
        begins=np.zeros(len(lengths)),
        ends=np.array(lengths) / rate,
        utterances=ids,
        digests=[clip.tobytes().hex()[:64] for clip in clips],
        **known,
    )


@pytest.mark.parametrize("normalise", [True, False])
def test_inputs_are_the_extractors_own(normalise):
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalise, return_attention_mask=True)
    clips = recordings()
    data = Waveforms(clips, extractor)
    for rows in ([0, 1, 2, 3, 4], [3], [4, 1]):
        batch = collate_waveforms([data[row] for row in rows])
        samples = [clips.audio[row]["array"] for row in rows]
        expected = extractor(samples, sampling_rate=16_000, padding=True, return_tensors="pt")
        assert torch.equal(batch["input_values"], expected["input_values"])
        assert torch.equal(batch["attention_mask"], expected["attention_mask"].long())
        assert batch["row"].tolist() == rows and set(batch) == {"input_values", "attention_mask", "row"}
    assert batch["input_values"].dtype == torch.float32
    loudness = [batch["input_values"][i, : LENGTHS[row]].std() for i, row in enumerate(rows)]
    assert loudness == pytest.approx([1, 1], abs=2e-3) if normalise else max(loudness) < 0.2


def test_a_short_batch_is_padded_to_what_spec_augment_wants():
    data = Waveforms(recordings((400, 3_999)), Wav2Vec2FeatureExtractor())
    batch = collate_waveforms([data[0], data[1]])
    assert batch["input_values"].shape == batch["attention_mask"].shape == (2, SHORTEST_BATCH)
    assert batch["attention_mask"].sum(1).tolist() == [400, 3_999]
    assert not batch["input_values"][batch["attention_mask"] == 0].any()
    data = Waveforms(recordings((4_001,)), Wav2Vec2FeatureExtractor())
    assert collate_waveforms([data[0]])["input_values"].shape == (1, 4_001)


def test_a_part_of_a_clip_is_normalised_by_itself():
    clips = recordings((16_000,))
    part = clips.take(np.array([0]))
    part.begins, part.ends = np.array([0.25]), np.array([0.75])
    data = Waveforms(part, Wav2Vec2FeatureExtractor())
    samples = clips.audio[0]["array"][4_000:12_000]
    expected = Wav2Vec2FeatureExtractor()(samples, sampling_rate=16_000).input_values[0]
    assert data.lengths.tolist() == [8_000]
    np.testing.assert_array_equal(collate_waveforms([data[0]])["input_values"][0], expected)


def test_lengths_come_from_durations_and_nothing_is_decoded():
    clips = recordings((400, 4_000, 12_345), rate=8_000)
    clips.audio = None
    data = Waveforms(clips, Wav2Vec2FeatureExtractor())
    assert len(data) == 3 and data.examples is clips
    assert data.lengths.tolist() == [800, 8_000, 24_690] and data.lengths.dtype == np.int64


def test_targets():
    extractor = Wav2Vec2FeatureExtractor()
    classes = Waveforms(recordings(), extractor, targets=np.array([2, 0, 1, 1, 0]))
    batch = collate_waveforms([classes[0], classes[3]])
    assert batch["targets"].tolist() == [2, 1] and batch["targets"].dtype == torch.int64
    labels = [np.array(labels, dtype=np.int64) for labels in ([5, 6, 7], [], [9], [1, 2], [3])]
    transcribed = Waveforms(recordings(), extractor, targets=labels)
    assert collate_waveforms([transcribed[row] for row in (2, 0, 1)])["targets"].tolist() == [
        [9, -100, -100],
        [5, 6, 7],
        [-100, -100, -100],
    ]


def test_worker_processes_decode_the_same():
    data = Waveforms(recordings(), Wav2Vec2FeatureExtractor(), targets=np.arange(5))
    copy = pickle.loads(pickle.dumps(data))
    settings = {"batch_sampler": [[0, 3], [2, 1, 4]], "collate_fn": collate_waveforms}
    here = list(torch.utils.data.DataLoader(data, **settings))
    there = list(torch.utils.data.DataLoader(copy, num_workers=1, **settings))
    assert len(here) == len(there) == 2
    for a, b in zip(here, there):
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_bad_clip_is_named():
    clips = recordings()
    clips.audio[2] = {"array": np.zeros(300, np.float32), "sampling_rate": 16_000}
    data = Waveforms(clips, Wav2Vec2FeatureExtractor())
    with pytest.raises(BadAudio, match=r"^clip 2: "):
        collate_waveforms([data[1], data[2]])
