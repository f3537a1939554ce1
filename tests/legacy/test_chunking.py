"""common.legacy.chunking: pieces that together are the whole, heard by a recogniser that knows what it should have heard."""

import numpy as np
import pytest

from common.legacy.chunking import FRAME, chunked, joined
from common.legacy.decoding import greedy
from common.legacy.recordings import Recordings

RATE = 16_000


def recordings(*seconds: float, begin: float = 0.0) -> Recordings:
    ids = [f"talk{i}" for i in range(len(seconds))]
    begins = np.full(len(seconds), begin)
    return Recordings("test", ids, [f"{name}.wav" for name in ids], begins, begins + np.array(seconds), ids)


def frames_of(seconds: float) -> int:
    """As HuBERT has them: 400 samples each, one every 320."""
    return (round(seconds * RATE) - 400) // 320 + 1


def listen(chunks: Recordings) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N, T] that say which moment of its recording a frame is, padded by -100; frames [N]."""
    counts = np.array([frames_of(seconds) for seconds in chunks.seconds])
    found = np.full((len(chunks), counts.max()), -100)
    for labels, begin, count in zip(found, chunks.begins, counts):
        labels[:count] = round(begin / FRAME) + np.arange(count)
    return found, counts


@pytest.mark.parametrize(
    ("length", "overlap"), [(20.0, 4.0), (6.0, 2.0), (3.0, 0.5), (1.01, 0.33), (4.0, 1.96), (0.5, 0.04)]
)
@pytest.mark.parametrize("begin", [0.0, 2.5])
def test_joined_chunks_are_the_whole(length, overlap, begin):
    seconds = (47.3, 0.7, 20.0, 20.01, 36.0, 36.02, 123.456, 19.99)
    whole = recordings(*seconds, begin=begin)
    chunks, believed = chunked(whole, length, overlap)
    assert chunks.seconds.max() <= length + 4 * FRAME
    paths = joined(chunks, believed, *listen(chunks))
    assert len(paths) == len(whole)
    for path, length_of in zip(paths, seconds):
        expected = round(begin / FRAME) + np.arange(frames_of(length_of))
        assert np.array_equal(path, expected), "every moment once, in order, none of the padding"


def test_the_ends_of_chunks_are_not_believed():
    chunks, believed = chunked(recordings(50.0), 20.0, 4.0)
    assert chunks.begins.tolist() == [0, 16, 32] and chunks.ends.tolist() == [20, 36, 50]
    found, counts = listen(chunks)
    edges = 95  # frames, just below half of the overlap
    for number, (labels, count) in enumerate(zip(found, counts)):
        labels[: edges if number else 0] = -7
        labels[count - edges if number < 2 else count : count] = -7
    (path,) = joined(chunks, believed, found, counts)
    assert np.array_equal(path, np.arange(frames_of(50.0)))


def test_scores_are_joined_as_labels_are():
    chunks, believed = chunked(recordings(11.0, 2.0), 4.0, 1.0)
    found, counts = listen(chunks)
    scores = np.stack([found, -found], axis=-1)
    for one, two in zip(joined(chunks, believed, found, counts), joined(chunks, believed, scores, counts)):
        assert np.array_equal(two, np.stack([one, -one], axis=-1))


def test_short_recordings_are_chunks_of_their_own():
    whole = recordings(3.0, 20.0, 0.5)
    chunks, believed = chunked(whole, 20.0, 4.0)
    assert chunks.ids == chunks.utterances == whole.ids and believed[:, 0].tolist() == [0, 0, 0]
    assert np.array_equal(chunks.ends, whole.ends)


def test_chunks_of_several_recordings_have_different_ids():
    chunks, _ = chunked(recordings(30.0, 30.0), 10.0, 2.0)
    assert len(set(chunks.ids)) == len(chunks) == 8
    assert sorted(set(chunks.utterances)) == ["talk0", "talk1"]


def test_a_letter_on_a_seam_is_heard_once():
    """Collapsing comes after joining: a label that lasts over a seam is one letter, not two."""
    chunks, believed = chunked(recordings(30.0), 10.0, 2.0)
    found, counts = listen(chunks)
    seam = round(9.0 / FRAME)
    letters = np.where(np.abs(found - seam) <= 3, 5, 0)
    (path,) = joined(chunks, believed, letters, counts)
    assert greedy(path[None], np.array([len(path)]), 0) == [[5]]
