"""Keywords in long recordings: windows that slide over them, and what the windows' scores say was heard when.

Not for clips that hold one word, which are classified whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.legacy.recordings import Recordings


@dataclass(frozen=True)
class Spotted:
    """A keyword that was heard: in which recording, from when to when (seconds), and the best window's probability."""

    recording: str
    keyword: str
    start: float
    end: float
    score: float


def sliding_windows(recordings: Recordings, seconds: float, hop: float) -> Recordings:
    """Windows of `seconds`, `hop` seconds apart, over each recording that is longer than two of them.

    Shorter recordings stay whole. The last window ends where its recording ends; `utterances` has the recording's id.
    """
    rows, begins, ends, ids = [], [], [], []
    for row, (begin, length) in enumerate(zip(recordings.begins, recordings.seconds)):
        if length <= 2 * seconds:
            starts = np.zeros(1)
        else:
            count = int(np.ceil((length - seconds) / hop - 1e-6))  # not a hair before the last one
            starts = np.append(hop * np.arange(count), length - seconds)
        rows += [row] * len(starts)
        begins += (begin + starts).tolist()
        whole = len(starts) == 1
        ends += (begin + (starts + (length if whole else seconds))).tolist()
        ids += [recordings.ids[row] if whole else f"{recordings.ids[row]}@{start:.2f}" for start in starts]
    windows = recordings.take(np.array(rows, dtype=np.int64))
    utterances = [recordings.ids[row] for row in rows]
    return replace(windows, ids=ids, begins=np.array(begins), ends=np.array(ends), utterances=utterances)


def spotted(
    windows: Recordings, probabilities: np.ndarray, names: Sequence[str], *, threshold: float, ignored: Sequence[str]
) -> list[Spotted]:
    """What was heard, by recording and time.

    Windows that follow each other and are surest of the same keyword, with at least `threshold`, are one occurrence. It
    is where all of them overlap; of a longer run, from the middle of the first to that of the last.

    Args:
        windows: of `sliding_windows`, those of a recording together and in order.
        probabilities: [N, C], of the classes `names`.
        ignored: classes that are no keyword (silence, unknown words).
    """
    best, found = probabilities.argmax(axis=1), []
    sure = probabilities.max(axis=1) >= threshold
    heard = [names[c] if sure[i] and names[c] not in ignored else None for i, c in enumerate(best)]
    first = 0
    for last in range(len(windows)):
        follows = last + 1 < len(windows) and windows.utterances[last + 1] == windows.utterances[first]
        if follows and heard[last + 1] == heard[first]:
            continue
        if heard[first] is not None:
            score = float(probabilities[first : last + 1, best[first]].max())
            start, end = _extent(windows.begins[first : last + 1], windows.ends[first : last + 1])
            found.append(Spotted(windows.utterances[first], heard[first], start, end, score))
        first = last + 1
    return found


def _extent(begins: np.ndarray, ends: np.ndarray) -> tuple[float, float]:
    start, end = float(begins[-1]), float(ends[0])
    return (start, end) if start < end else (float((begins[0] + ends[0]) / 2), float((begins[-1] + ends[-1]) / 2))
