"""Speech Commands as it is published, in small: official lists, the hash rule, noise as silence, unknown words."""

import re
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import soundfile

from common.legacy.recordings import Reading, read_recordings
from common.legacy.speech_commands import speakers_of, split_of, with_unknown
from tests.legacy.helpers import message

RATE = 16_000
SPEAKERS = ["0a7c2a8d", "bb05582b", "ca4d5368", "0fa1e7a9", "b97c9f77", "67961766"]
NOISE = {"running_tap.wav": 61.5, "white_noise.wav": 12.0, "few.wav": 4.0, "short.wav": 0.5}


def write(path: Path, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(round(seconds * RATE), 0.1), RATE)


@pytest.fixture
def tree(tmp_path) -> Path:
    """v0.02's layout: words of six speakers, lists, noise, and what else lies there."""
    root = tmp_path / "speech_commands_v0.02"
    for number, word in enumerate(("yes", "no", "bed", "tree", "wow")):
        for speaker in SPEAKERS:
            write(root / word / f"{speaker}_nohash_{number % 2}.wav", 0.1)
    for name, seconds in NOISE.items():
        write(root / "_background_noise_" / name, seconds)
    (root / "_background_noise_" / "README.md").write_text("about noise")
    (root / "validation_list.txt").write_text("yes/bb05582b_nohash_0.wav\nno/bb05582b_nohash_1.wav\n")
    (root / "testing_list.txt").write_text("bed/ca4d5368_nohash_0.wav\nwow/none_nohash_0.wav\n")
    (root / "LICENSE").write_text("CC BY 4.0")
    return tmp_path


def test_the_hash_rule_gives_the_official_test_set(shared_data, tmp_path):
    """The clips are of the official test archive, so all their speakers are in the test set."""
    words = read_recordings(shared_data / "keywords" / "speech_commands_v2_480.zip", Reading(), tmp_path)
    speakers = set(words.speakers) - {""}
    assert len(speakers) == 88 and {split_of(speaker) for speaker in speakers} == {"test"}


def test_the_hash_rule_divides_80_10_10():
    counts = Counter(split_of(f"{i:08x}") for i in range(20_000))
    assert counts["train"] / 20_000 == pytest.approx(0.8, abs=0.01)
    assert counts["validation"] / 20_000 == pytest.approx(0.1, abs=0.01)


def test_words_with_the_official_lists(tree):
    read = read_recordings(tree, Reading(), tree)
    words = read.take(np.flatnonzero(~np.char.startswith(read.ids, "_")))
    assert set(read.names) == {"yes", "no", "bed", "tree", "wow", "_silence_"} and len(words) == 30
    split = dict(zip(words.ids, words.splits))
    assert [name for name, s in split.items() if s == "validation"] == [
        "no/bb05582b_nohash_1.wav",
        "yes/bb05582b_nohash_0.wav",
    ]
    assert [name for name, s in split.items() if s == "test"] == ["bed/ca4d5368_nohash_0.wav"]
    assert [words.names[i] for i in words.labels] == [name.split("/")[0] for name in words.ids]
    assert words.speakers == [PurePosixPath(name).name[:8] for name in words.ids]
    assert (words.begins == 0).all() and words.seconds == pytest.approx(np.full(30, 0.1))


def test_words_by_the_hash_rule(tree):
    for name in ("validation", "testing"):
        (tree / "speech_commands_v0.02" / f"{name}_list.txt").unlink()
    read = read_recordings(tree, Reading(), tree)
    of = {who: {s for s, speaker in zip(read.splits, read.speakers) if speaker == who} for who in SPEAKERS}
    assert all(splits == {split_of(who)} for who, splits in of.items())
    # These are of the official test set.
    assert [of[who] for who in ("ca4d5368", "0fa1e7a9", "b97c9f77", "67961766")] == [{"test"}] * 4


def test_noise_is_silence_second_by_second(tree):
    read = read_recordings(tree, Reading(), tree)
    silence = read.take(np.flatnonzero(read.labels == read.names.index("_silence_")))
    assert len(silence) == 61 + 12 + 4 + 1 and set(silence.speakers) == {""} and len(set(silence.ids)) == len(silence)
    for name, seconds in NOISE.items():
        windows = silence.take(np.array([i for i, place in enumerate(silence.audio) if place.endswith(name)]))
        count = max(int(seconds), 1)
        assert windows.begins.tolist() == list(range(count))
        assert windows.ends.tolist() == [min(i + 1.0, seconds) for i in range(count)]
        # By time: no second, nor its neighbour but one, is in two splits.
        assert [split for i, split in enumerate(windows.splits) if i == 0 or windows.splits[i - 1] != split] == (
            ["train", "validation", "test"] if count >= 3 else ["train"]
        )
        held = Counter(windows.splits)
        assert held["validation"] == held["test"] == (0 if count < 3 else max(round(count / 10), 1))
    assert read.utterances == read.ids


def test_broken_noise_is_left_out_like_any_clip(tree):
    (tree / "speech_commands_v0.02" / "_background_noise_" / "white_noise.wav").write_text("no sound")
    assert "white_noise.wav: cannot be decoded" in message(read_recordings, tree, Reading(), tree)
    read = read_recordings(tree, Reading(skip_bad=True), tree)
    assert read.skipped == {"cannot be decoded": 1} and read.label_counts()["_silence_"] == 66


def test_speakers_of_names():
    names = ["0a7c2a8d_nohash_0", "bed_ca4d5368_nohash_12", "1099", "x_nohash"]
    assert speakers_of(names) == ["0a7c2a8d", "ca4d5368", "", ""]
    assert speakers_of(["1099", "a_b_1"]) is None


@pytest.mark.parametrize("share, kept", [(None, 16), (1.0, 5), (0.5, 2), (0.0, 0), (9.0, 16)])
def test_other_words_are_unknown(tree, share, kept):
    read = read_recordings(tree, Reading(), tree)
    known = with_unknown(read, ("no", "yes"), share, 7)
    assert known.names == ("no", "yes", "_silence_", "_unknown_")
    of = {name: name.split("/")[0] for name in read.ids}
    for name, label in zip(known.ids, known.labels):
        word = "_silence_" if of[name].startswith("_") else of[name]
        assert known.names[label] == (word if word in ("no", "yes", "_silence_") else "_unknown_")
    unknown = [split for split, label in zip(known.splits, known.labels) if known.names[label] == "_unknown_"]
    # 5 of each keyword are for training, 1 for validation, none for test: a share of the mean keyword, split by split.
    assert Counter(unknown)["train"] == min(17, kept if share is not None else 17) or share in (None, 9.0)
    others = len(known) - len(unknown)
    assert others == 12 + 78 and len(read) - len(known) == sum(known.skipped.values())
    again = with_unknown(read, ("no", "yes"), share, 7)
    assert again.ids == known.ids
    if share == 1.0:
        assert with_unknown(read, ("no", "yes"), share, 8).ids != known.ids
        assert Counter(unknown) == {"train": 5} and known.skipped == {"unknown word above the share": 13}


def test_keywords_that_are_not_there_and_no_unknown_words(tree):
    read = read_recordings(tree, Reading(), tree)
    assert "the keywords 'stop' are not among its classes, '_silence_', 'bed'" in message(
        with_unknown, read, ("stop", "yes"), 1.0, 0
    )
    everything = with_unknown(read, tuple(name for name in read.names if name != "_silence_"), 1.0, 0)
    assert "_unknown_" not in everything.names and len(everything) == len(read) and everything.skipped == {}
    clips = read.take(np.flatnonzero(read.labels != read.names.index("_silence_")))
    clips = clips.relabelled(tuple(name for name in read.names if name != "_silence_"))
    clips.splits = None
    without = with_unknown(clips, ("no", "yes"), 2.0, 0)
    assert without.names == ("no", "yes", "_unknown_") and without.label_counts() == {
        "no": 6,
        "yes": 6,
        "_unknown_": 12,
    }
    assert not re.search("silence", " ".join(without.ids))


def test_unknown_of_the_real_test_archive(shared_data, tmp_path):
    words = read_recordings(shared_data / "keywords" / "speech_commands_v2_480.zip", Reading(), tmp_path)
    known = with_unknown(words, ("stop", "go"), 1.0, 0)
    assert known.label_counts() == {"stop": 40, "go": 40, "_silence_": 40, "_unknown_": 40}
    assert known.skipped == {"unknown word above the share": 8 * 40 + 40 - 40}
