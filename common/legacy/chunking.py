"""Long recordings transcribed piece by piece: overlapping chunks, of which only the inner frames are believed.

At the ends of a chunk the model hears no context. Not for training data, whose transcripts cannot be cut.
"""

from dataclasses import replace

import numpy as np

from common.legacy.recordings import Recordings

FRAME = 0.02  # seconds from one frame to the next, in all encoders of the HuBERT and wav2vec 2.0 families


def chunked(recordings: Recordings, seconds: float, overlap: float) -> tuple[Recordings, np.ndarray]:
    """Chunks of `seconds`, which share `overlap` seconds with the next one, of recordings longer than one chunk.

    Args:
        seconds, overlap: taken to the next even number of frames.

    Returns:
        (the chunks, whose `utterances` has the recording's id; int64 [N, 2]: the frames of each that are believed, from
        the first to before the last one; the last chunk's end is open, a large number).
    """
    length, shared = (2 * FRAME * round(value / (2 * FRAME)) for value in (seconds, overlap))
    half = round(shared / 2 / FRAME)
    rows, begins, ends, believed, ids = [], [], [], [], []
    for row, (begin, whole) in enumerate(zip(recordings.begins, recordings.seconds)):
        count = 1 if whole <= length else 1 + int(np.ceil((whole - length) / (length - shared)))
        for number in range(count):
            start, last = number * (length - shared), number == count - 1
            rows.append(row)
            begins.append(begin + start)
            ends.append(begin + (whole if last else start + length))
            believed.append((half if number else 0, np.iinfo(np.int32).max if last else round(length / FRAME) - half))
            ids.append(recordings.ids[row] if count == 1 else f"{recordings.ids[row]}@{start:.2f}")
    chunks = recordings.take(np.array(rows, dtype=np.int64))
    utterances = [recordings.ids[row] for row in rows]
    chunks = replace(chunks, ids=ids, begins=np.array(begins), ends=np.array(ends), utterances=utterances)
    return chunks, np.array(believed, dtype=np.int64)


def joined(chunks: Recordings, believed: np.ndarray, found: np.ndarray, frames: np.ndarray) -> list[np.ndarray]:
    """What was found frame by frame for each whole recording, [T] or [T, V], in the order of the recordings.

    Args:
        chunks, believed: of `chunked`.
        found: [N, T] or [N, T, V], the best label, or all scores, of every frame of each chunk; padding behind its
            `frames` [N].
    """
    parts: dict[str, list[np.ndarray]] = {}
    for utterance, (first, last), labels, count in zip(chunks.utterances, believed, found, frames):
        parts.setdefault(utterance, []).append(labels[first : min(last, count)])
    return [np.concatenate(labels) for labels in parts.values()]
