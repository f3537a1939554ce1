"""Windows over long recordings, and what their scores say was heard when: cases worked by hand."""

import numpy as np
import pytest

from common.legacy.recordings import Recordings
from common.legacy.spotting import Spotted, sliding_windows, spotted

NAMES = ("yes", "no", "_silence_")


def recordings(*seconds: float, begins: tuple[float, ...] | None = None) -> Recordings:
    ids = [f"r{i}.wav" for i in range(len(seconds))]
    starts = np.array(begins or [0.0] * len(seconds))
    return Recordings("here", ids, ids, starts, starts + np.array(seconds), ids, NAMES)


def heard(windows: Recordings, *classes: tuple[str, float], threshold: float = 0.5) -> list[Spotted]:
    """What is spotted when the windows are surest of these classes, with these probabilities."""
    probabilities = np.zeros((len(windows), len(NAMES)))
    for row, (name, sure) in enumerate(classes):
        probabilities[row] = (1 - sure) / 2
        probabilities[row, NAMES.index(name)] = sure
    return spotted(windows, probabilities, NAMES, threshold=threshold, ignored=("_silence_",))


def test_windows_cover_a_long_recording_and_leave_short_ones_whole():
    windows = sliding_windows(recordings(3.1, 2.0, 0.4), 1.0, 0.5)
    assert windows.ids == [*(f"r0.wav@{s:.2f}" for s in (0, 0.5, 1, 1.5, 2, 2.1)), "r1.wav", "r2.wav"]
    assert windows.begins == pytest.approx([0, 0.5, 1, 1.5, 2, 2.1, 0, 0])
    assert windows.ends == pytest.approx([1, 1.5, 2, 2.5, 3, 3.1, 2, 0.4])
    assert windows.utterances == ["r0.wav"] * 6 + ["r1.wav", "r2.wav"]
    assert windows.audio == windows.utterances


def test_the_last_window_is_there_once():
    assert sliding_windows(recordings(3.0), 1.0, 1.0).begins.tolist() == [0, 1, 2]
    assert sliding_windows(recordings(2.5), 1.0, 5.0).begins.tolist() == [0, 1.5], (
        "hops may leave gaps; the end is heard"
    )


@pytest.mark.parametrize(("seconds", "hop"), [(3.1, 0.3), (2.4, 0.2), (60.1, 0.1), (7.0, 0.25), (2.3, 0.1)])
def test_no_window_is_there_twice(seconds, hop):
    windows = sliding_windows(recordings(seconds), 1.0, hop)
    assert len(set(windows.ids)) == len(windows) == round((seconds - 1) / hop) + 1
    assert np.diff(windows.begins) == pytest.approx(hop)
    assert windows.ends[-1] == pytest.approx(seconds)


def test_a_part_of_a_recording_keeps_its_own_times():
    windows = sliding_windows(recordings(3.0, begins=(10.0,)), 1.0, 1.0)
    assert windows.begins.tolist() == [10, 11, 12] and windows.ends.tolist() == [11, 12, 13]
    assert windows.ids == ["r0.wav@0.00", "r0.wav@1.00", "r0.wav@2.00"]


def test_a_keyword_is_where_its_windows_overlap():
    windows = sliding_windows(recordings(3.0), 1.0, 0.25)
    quiet = ("_silence_", 0.9)
    said = heard(windows, quiet, ("yes", 0.8), ("yes", 0.95), ("yes", 0.7), *[quiet] * 5)
    assert [(s.recording, s.keyword, s.start, s.end) for s in said] == [("r0.wav", "yes", 0.75, 1.25)]
    assert said[0].score == pytest.approx(0.95)


def test_a_long_run_reaches_from_middle_to_middle():
    windows = sliding_windows(recordings(3.0), 1.0, 0.25)
    (said,) = heard(windows, *[("no", 0.9)] * 7, *[("_silence_", 0.9)] * 2)
    assert (said.start, said.end) == (0.5, 2.0)


def test_what_is_not_sure_or_no_keyword_is_not_heard():
    windows = sliding_windows(recordings(2.5, 1.0), 1.0, 0.5)
    classes = [("yes", 0.6), ("_silence_", 0.99), ("no", 0.5), ("no", 0.49), ("yes", 0.7)]
    assert [(s.keyword, s.start, s.end) for s in heard(windows, *classes)] == [
        ("yes", 0, 1),
        ("no", 1, 2),
        ("yes", 0, 1),
    ]
    assert [s.recording for s in heard(windows, *classes, threshold=0.65)] == ["r1.wav"]
    assert heard(windows, *classes, threshold=0.71) == []


def test_recordings_and_keywords_are_kept_apart():
    windows = sliding_windows(recordings(1.0, 1.0, 1.0), 1.0, 0.5)
    said = heard(windows, ("yes", 0.9), ("yes", 0.8), ("no", 0.7))
    assert [(s.recording, s.keyword) for s in said] == [("r0.wav", "yes"), ("r1.wav", "yes"), ("r2.wav", "no")]
