"""Windows over long recordings, where keywords are said in them, and which words are unknown: worked by hand."""

import datasets
import numpy as np
import pytest

from common.speech.keywords import Spotted, sliding_windows, spotted, task_classes, with_unknown
from tests.helpers import message

NAMES = ("yes", "no", "_silence_")


def recordings(*seconds: float, begin: float = 0.0) -> datasets.Dataset:
    ids = [f"r{i}.wav" for i in range(len(seconds))]
    columns = {"id": ids, "recording": ids, "path": ids, "start": [begin] * len(ids), "end": [None] * len(ids)}
    clips = datasets.Dataset.from_dict(columns | {"seconds": list(seconds)})
    return clips.cast_column("end", datasets.Value("float64"))


def found(windows: datasets.Dataset, *classes: tuple[str, float], threshold: float = 0.5) -> list[Spotted]:
    """What is spotted when the windows are surest of these classes, with these probabilities."""
    probabilities = np.zeros((len(windows), len(NAMES)))
    for row, (name, sure) in enumerate(classes):
        probabilities[row] = (1 - sure) / 2
        probabilities[row, NAMES.index(name)] = sure
    return spotted(windows, probabilities, NAMES, threshold=threshold)


def test_windows_cover_a_long_recording_and_leave_short_ones_whole():
    windows = sliding_windows(recordings(3.1, 2.0, 0.4), 1.0, 0.5)
    assert windows["id"][:] == [*(f"r0.wav@{s:.2f}" for s in (0, 0.5, 1, 1.5, 2, 2.1)), "r1.wav", "r2.wav"]
    assert windows["start"][:] == pytest.approx([0, 0.5, 1, 1.5, 2, 2.1, 0, 0])
    assert windows["end"][:] == pytest.approx([1, 1.5, 2, 2.5, 3, 3.1, 2, 0.4])
    assert windows["recording"][:] == ["r0.wav"] * 6 + ["r1.wav", "r2.wav"]
    assert windows["path"][:] == windows["recording"][:]


def test_the_last_window_is_there_once():
    assert sliding_windows(recordings(3.0), 1.0, 1.0)["start"][:] == [0, 1, 2]
    assert sliding_windows(recordings(2.5), 1.0, 5.0)["start"][:] == [0, 1.5], "hops may leave gaps; the end is there"


@pytest.mark.parametrize(("seconds", "hop"), [(3.1, 0.3), (2.4, 0.2), (60.1, 0.1), (7.0, 0.25), (2.3, 0.1)])
def test_no_window_is_there_twice(seconds, hop):
    windows = sliding_windows(recordings(seconds), 1.0, hop)
    assert len(set(windows["id"][:])) == len(windows) == round((seconds - 1) / hop) + 1
    assert np.diff(windows["start"][:]) == pytest.approx(hop)
    assert windows["end"][:][-1] == pytest.approx(seconds)


def test_a_part_of_a_recording_keeps_its_own_times():
    windows = sliding_windows(recordings(3.0, begin=10.0), 1.0, 1.0)
    assert windows["start"][:] == [10, 11, 12] and windows["end"][:] == [11, 12, 13]
    assert windows["id"][:] == ["r0.wav@0.00", "r0.wav@1.00", "r0.wav@2.00"]


def test_a_keyword_is_where_its_windows_overlap():
    windows = sliding_windows(recordings(3.0), 1.0, 0.25)
    quiet = ("_silence_", 0.9)
    said = found(windows, quiet, ("yes", 0.8), ("yes", 0.95), ("yes", 0.7), *[quiet] * 5)
    assert [(s.recording, s.keyword, s.start, s.end) for s in said] == [("r0.wav", "yes", 0.75, 1.25)]
    assert said[0].score == pytest.approx(0.95)


def test_a_long_run_reaches_from_middle_to_middle():
    windows = sliding_windows(recordings(3.0), 1.0, 0.25)
    (said,) = found(windows, *[("no", 0.9)] * 7, *[("_silence_", 0.9)] * 2)
    assert (said.start, said.end) == (0.5, 2.0)


def test_what_is_not_sure_or_no_keyword_is_not_found():
    windows = sliding_windows(recordings(2.5, 1.0), 1.0, 0.5)
    classes = [("yes", 0.6), ("_silence_", 0.99), ("no", 0.5), ("no", 0.49), ("yes", 0.7)]
    assert [(s.keyword, s.start, s.end) for s in found(windows, *classes)] == [
        ("yes", 0, 1),
        ("no", 1, 2),
        ("yes", 0, 1),
    ]
    assert [s.recording for s in found(windows, *classes, threshold=0.65)] == ["r1.wav"]
    assert found(windows, *classes, threshold=0.71) == []


def test_recordings_and_keywords_are_kept_apart():
    windows = sliding_windows(recordings(1.0, 1.0, 1.0), 1.0, 0.5)
    said = found(windows, ("yes", 0.9), ("yes", 0.8), ("no", 0.7))
    assert [(s.recording, s.keyword) for s in said] == [("r0.wav", "yes"), ("r1.wav", "yes"), ("r2.wav", "no")]


# Unknown words


def labelled(*words: str, split: tuple[str, ...] = ()) -> datasets.Dataset:
    names = sorted({*words})
    columns = {"id": [f"{i}" for i in range(len(words))], "labels": [names.index(word) for word in words]}
    columns |= {"split": list(split)} if split else {}
    dataset = datasets.Dataset.from_dict(columns)
    return dataset.cast_column("labels", datasets.ClassLabel(names=names))


def words_of(clips: datasets.Dataset) -> list[str]:
    return clips.features["labels"].int2str(clips["labels"][:])


def test_other_words_are_unknown():
    clips, left_out = with_unknown(labelled("no", "cat", "yes", "_silence_", "dog"), ["yes", "no"], None, 0)
    assert clips.features["labels"].names == ["yes", "no", "_silence_", "_unknown_"] and left_out == {}
    assert words_of(clips) == ["no", "_unknown_", "yes", "_silence_", "_unknown_"]
    every, _ = with_unknown(labelled("no", "yes"), ["no", "yes"], None, 0)
    assert every.features["labels"].names == ["no", "yes"]
    assert message(with_unknown, labelled("a"), ["b"], None, 0) == (
        "the keywords 'b' are not among the classes of the data, 'a'"
    )


def test_words_in_another_case():
    options = {"usual": ["yes", "no"], "share": None, "seed": 0, "whole_silence": True}
    clips = labelled("YES", "No", "cat")
    for keywords, known in ([], ()), (["yes", "no"], ()), ([], ("yes", "no", "_unknown_")):
        assert words_of(task_classes(clips, keywords=keywords, known=known, **options)[0]) == ["yes", "no", "_unknown_"]


def test_a_share_of_unknown_words_by_split():
    words = ["yes"] * 4 + ["no"] * 2 + ["cat"] * 9 + ["yes"] * 2 + ["cat"] * 5
    split = ["train"] * 15 + ["test"] * 7
    clips, left_out = with_unknown(labelled(*words, split=tuple(split)), ["yes", "no"], 2.0, 7)
    kept = [(where, word) for where, word in zip(clips["split"], words_of(clips)) if word == "_unknown_"]
    assert kept == [("train", "_unknown_")] * 6 + [("test", "_unknown_")] * 2  # twice the mean of 3, and of 1
    assert left_out == {"unknown word above the share": 6}
