"""Splits of real sets' speakers and classes; what cannot be divided is said; segments cover every second once."""

import itertools
import warnings

import numpy as np
import pytest

from common.legacy.recordings import Reading, Recordings, describe_splits, read_recordings
from common.legacy.splitting import cut, split_rows, split_words
from tests.legacy.helpers import message

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
EMOTIONS = {"A": ("angry",), "F": ("fearful",), "H": ("happy",), "N": ("neutral",), "S": ("sad",), "W": ("surprised",)}
URDU_NAME = r"S(?P<speaker>(?P<gender>[MF])\d+)_F(?P<utterance>\d+)_(?P<label>[AHNS])\d+"


def made(labels=None, speakers=None, splits=None, seconds=None, **more) -> Recordings:
    """Recordings with these labels, speakers, splits or lengths."""
    count = len(next(v for v in (labels, speakers, splits, seconds) if v is not None))
    ids = [f"u{i}" for i in range(count)]
    return Recordings(
        source="made",
        ids=ids,
        audio=[f"{name}.wav" for name in ids],
        begins=np.zeros(count),
        ends=np.ones(count) if seconds is None else np.array(seconds, dtype=np.float64),
        utterances=ids,
        names=() if labels is None else tuple(f"c{i}" for i in range(max(labels) + 1)),
        labels=None if labels is None else np.array(labels),
        speakers=speakers,
        splits=splits,
        **more,
    )


def check(recordings: Recordings, rows: dict, names=tuple(SHARES)) -> None:
    """Every row is in one split, in order."""
    assert tuple(rows) == names and all((np.diff(found) > 0).all() for found in rows.values())
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(len(recordings)))


def shares_of(recordings: Recordings, rows: dict) -> np.ndarray:
    """[splits, classes]: the share of each class that came into each split."""
    counts = np.array(list(recordings.label_counts().values()))
    return np.stack([np.bincount(recordings.labels[found], minlength=len(counts)) / counts for found in rows.values()])


@pytest.fixture(scope="module")
def shemo(shared_data, tmp_path_factory) -> Recordings:
    path = shared_data / "emotion" / "shemo.json.gz"
    return read_recordings(path, Reading(classes=EMOTIONS, audio_needed=False), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def urdu(shared_data, tmp_path_factory) -> Recordings:
    path, root = shared_data / "emotion" / "urdu_emotion_400.zip", tmp_path_factory.mktemp("cache")
    return read_recordings(path, Reading(classes=EMOTIONS, name_pattern=URDU_NAME), root)


# By speaker


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_the_87_speakers_of_shemo(shemo, seed):
    rows = split_rows(shemo, "speaker", SHARES, seed)
    check(shemo, rows)
    speakers = [{shemo.speakers[i] for i in found} for found in rows.values()]
    assert sum(map(len, speakers)) == 87 == len(set.union(*speakers))
    assert [len(found) / 3000 for found in rows.values()] == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    wanted = np.array([0.8, 0.1, 0.1])[:, None]
    assert np.abs(shares_of(shemo, rows) - wanted).max() < 0.04  # one clip of fear is 0.03
    splits = {name: shemo.take(found) for name, found in rows.items()}
    selection = {name: (len(shemo), "") for name in splits}
    assert describe_splits(splits, selection, {name: {} for name in splits})["overlaps"] == []


def test_the_29_speakers_of_urdu(urdu):
    """Four men speak all of anger, 48, 28, 22 and 2 clips: 22 % and 2 % are the most even that can be."""
    for seed in range(3):
        rows = split_rows(urdu, "speaker", SHARES, seed)
        check(urdu, rows)
        assert not set.intersection(*({urdu.speakers[i] for i in found} for found in rows.values()))
        assert [len(found) / 400 for found in rows.values()] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
        found = shares_of(urdu, rows)
        assert sorted(found[1:, 0]) == pytest.approx([0.02, 0.22])
        assert np.abs(found[:, 1:] - np.array([[0.8], [0.1], [0.1]])).max() < 0.09 and (found > 0).all()


def test_other_shares_and_few_speakers():
    speakers = [f"s{i % 6}" for i in range(600)]  # each says every class equally often
    digits = made([i // 6 % 10 for i in range(600)], speakers)
    for shares, sizes in ((SHARES, [400, 100, 100]), ({"train": 0.5, "test": 0.5, "validation": 0.0}, [300, 300])):
        rows = split_rows(digits, "speaker", shares, 0)
        check(digits, rows, tuple(name for name, share in shares.items() if share))
        assert [len(found) for found in rows.values()] == sizes
    three = made([0, 1] * 3, ["a", "a", "b", "b", "c", "c"])
    assert [len(found) for found in split_rows(three, "speaker", SHARES, 5).values()] == [2, 2, 2]


def test_speaker_splits_depend_on_the_seed_alone(shemo):
    rows = [split_rows(shemo, "speaker", SHARES, seed)["test"].tolist() for seed in (3, 3, 4)]
    assert rows[0] == rows[1] != rows[2]


def test_rare_classes_come_into_every_split_where_they_can():
    """Three of sixty speakers say the rare class: one must go to each split."""
    labels = [0, 1] * 60 + [2] * 3
    speakers = [f"s{i // 2}" for i in range(120)] + ["s7", "s20", "s41"]
    for seed in range(5):
        recordings = made(labels, speakers)
        found = shares_of(recordings, split_rows(recordings, "speaker", SHARES, seed))
        assert (found[:, 2] > 0).all() and np.abs(found[:, :2] - [[0.8], [0.1], [0.1]]).max() < 0.05


def test_speakers_that_cannot_be_divided():
    recordings = made([0, 1, 2] * 4, ["a", "b", "c", "a", "b", "c", "d", "a", "c", "d", "b", "c"])
    sentence = message(split_rows, recordings, "speaker", SHARES, 0)
    assert (
        sentence.startswith("made: the class 'c0' has 2 speakers, and 3 are needed")
        or "'c2' has 1 speakers" in sentence
    )
    assert "--drop_labels" in sentence and "--split stratified" in sentence
    two = made([0, 1, 0, 1], ["a", "a", "b", "b"])
    assert "has 2 speakers, too few for the splits" in message(split_rows, two, "speaker", SHARES, 0)
    unknown = made([0, 1, 0, 1])
    assert "does not say who speaks" in message(split_rows, unknown, "speaker", SHARES, 0)
    assert "--split stratified" in message(split_rows, unknown, "speaker", SHARES, 0)


def test_unknown_speakers_are_somebody_else_each():
    recordings = made([0] * 50 + [1] * 50, [f"s{i % 10}" for i in range(50)] + [""] * 50)
    rows = split_rows(recordings, "speaker", SHARES, 0)
    check(recordings, rows)
    assert [(recordings.labels[found] == 1).sum() for found in rows.values()] == [40, 5, 5]


def test_transcripts_by_speaker():
    recordings = made(speakers=[f"s{i % 40}" for i in range(1000)])
    rows = split_rows(recordings, "speaker", SHARES, 0)
    check(recordings, rows)
    assert [len(found) for found in rows.values()] == [800, 100, 100]
    assert len({recordings.speakers[i] for i in rows["test"]}) == 4


# By utterance


@pytest.mark.parametrize("seed", [0, 42])
def test_stratified(shemo, seed):
    rows = split_rows(shemo, "stratified", SHARES, seed)
    check(shemo, rows)
    assert [len(found) for found in rows.values()] == [2400, 300, 300]
    counts = np.array(list(shemo.label_counts().values()))
    assert np.abs(shares_of(shemo, rows) - [[0.8], [0.1], [0.1]]).max() <= 1 / counts.min()
    assert split_rows(shemo, "stratified", SHARES, seed)["test"].tolist() == rows["test"].tolist()
    assert split_rows(shemo, "stratified", SHARES, seed + 1)["test"].tolist() != rows["test"].tolist()


def test_at_random_without_classes():
    recordings = made(seconds=[1.0] * 115)
    rows = split_rows(recordings, "stratified", SHARES, 0)
    check(recordings, rows)
    assert [len(found) for found in rows.values()] == [91, 12, 12]
    assert (np.diff(rows["train"]) > 1).any()


def test_classes_that_cannot_be_divided():
    recordings = made([0] * 50 + [1] * 49 + [2])
    sentence = message(split_rows, recordings, "stratified", SHARES, 0)
    assert sentence.startswith("made: the class 'c2' has 1 clips, and 3 are needed") and "--drop_labels c2" in sentence
    recordings = made([0] * 500 + [1] * 497 + [2] * 3)
    sentence = message(split_rows, recordings, "stratified", SHARES, 0)
    assert sentence.startswith("made: no clip of the class 'c2', which has 3, comes into the split 'validation'")
    assert "--drop_labels c2" in sentence
    tiny = made([0, 1] * 4)
    assert "8 clips are too few for a split 'validation' of 1" in message(split_rows, tiny, "stratified", SHARES, 0)


# As given


def test_splits_of_the_data():
    recordings = made([0, 1] * 6, splits=["train", "test", "validation"] * 4)
    rows = split_rows(recordings, "given", SHARES, 0)
    check(recordings, rows)
    assert {name: {recordings.splits[i] for i in found} for name, found in rows.items()} == {n: {n} for n in SHARES}
    assert split_words(recordings, "given", SHARES, 0) == "as the data say"
    sentence = message(split_rows, made([0, 1]), "given", SHARES, 0)
    assert "does not say its splits" in sentence and "--split speaker" in sentence


def test_what_the_data_lack_is_taken_from_training():
    speakers = [f"s{i % 30}" for i in range(300)]
    recordings = made(
        [i // 30 % 2 for i in range(300)], speakers, ["test" if i % 30 < 6 else "train" for i in range(300)]
    )
    rows = split_rows(recordings, "given", SHARES, 0)
    check(recordings, rows)
    assert {i % 30 < 6 for i in rows["test"]} == {True} and len(rows["test"]) == 60
    held = {speakers[i] for i in rows["validation"]}
    assert not held & {speakers[i] for i in rows["train"]}
    assert len(rows["validation"]) / 240 == pytest.approx(0.1 / 0.9, abs=0.02), "a ninth of the training data"
    words = split_words(recordings, "given", SHARES, 0)
    assert (
        words
        == "as the data say; validation taken from its training data by speaker, none of whom is in two splits (seed 0)"
    )
    nobody = made([i % 2 for i in range(300)], splits=["train"] * 300)
    rows = split_rows(nobody, "given", SHARES, 0)
    check(nobody, rows)
    assert [len(found) for found in rows.values()] == [240, 30, 30]
    assert "validation and test taken" in split_words(nobody, "given", SHARES, 0)


def test_how_it_was_split_in_words(shemo):
    assert split_words(shemo, "speaker", SHARES, 7) == (
        "by speaker, none of whom is in two splits: train 80 %, validation 10 %, test 10 % (seed 7)"
    )
    shares = {"train": 0.9, "validation": 0.0, "test": 0.1}
    assert (
        split_words(shemo, "stratified", shares, 7)
        == "by utterance, stratified by class: train 90 %, test 10 % (seed 7)"
    )


def test_nothing_is_warned_of(shemo, urdu):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for recordings in (shemo, urdu):
            for how in ("speaker", "stratified"):
                split_rows(recordings, how, SHARES, 0)


# Segments


def test_segments_by_hand():
    recordings = made(labels=[0, 1, 0, 1, 1, 0], seconds=[4.0, 5.0, 5.9, 6.0, 10.0, 11.5], speakers=list("abcdef"))
    segments = cut(recordings, 5.0)
    assert segments.ids == ["u0", "u1", "u2", "u3#1", "u3#2", "u4#1", "u4#2", "u5#1", "u5#2", "u5#3"]
    assert segments.begins.tolist() == [0, 0, 0, 0, 5, 0, 5, 0, 5, 10]
    assert segments.ends.tolist() == [4, 5, 5.9, 5, 6, 5, 10, 5, 10, 11.5]
    assert segments.utterances == ["u0", "u1", "u2", "u3", "u3", "u4", "u4", "u5", "u5", "u5"]
    assert segments.labels.tolist() == [0, 1, 0, 1, 1, 1, 1, 0, 0, 0] and segments.speakers == list("abcddeefff")
    assert segments.audio == [f"{name}.wav" for name in segments.utterances]


def test_segments_cover_every_second_once():
    random = np.random.default_rng(0)
    recordings = made(seconds=random.uniform(0.1, 40, 500))
    recordings.begins = random.uniform(0, 3, 500)
    recordings.ends = recordings.ends + recordings.begins
    for seconds in (1.0, 2.5, 5.0):
        segments = cut(recordings, seconds)
        assert len(set(segments.ids)) == len(segments) and segments.seconds.max() < seconds + 1
        of = dict(zip(recordings.ids, zip(recordings.begins, recordings.ends)))
        for name in recordings.ids:
            rows = [i for i, whole in enumerate(segments.utterances) if whole == name]
            edges = [(segments.begins[i], segments.ends[i]) for i in rows]
            assert edges[0][0] == of[name][0] and edges[-1][1] == of[name][1]
            assert all(left[1] == right[0] for left, right in itertools.pairwise(edges))
            assert len(rows) == 1 or min(end - begin for begin, end in edges) >= 1 - 1e-9


def test_cutting_what_has_no_length(shemo):
    assert "names without sound cannot be cut" in message(cut, shemo, 5.0)
