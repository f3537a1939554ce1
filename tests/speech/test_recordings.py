import itertools
import json
import os
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import soundfile

from common.speech import audio
from common.speech.corpora import EMOTIONS
from common.speech.splits import cut_segments, hours, recordings_table
from tests.helpers import message
from tests.speech.clips import arguments, labels_of, load, run, sound, write


def folder(path, words="yes no", count=10, speakers=0):
    """Clips of words; with speakers, as SPEAKER/WORD/n.wav."""
    for word, number in itertools.product(words.split(), range(count)):
        below = f"s{number % speakers:02d}/{word}" if speakers else word
        write(path / below / f"{number}.wav")
    return path


def test_what_a_row_has(tmp_path):
    folder(tmp_path, count=12, speakers=6)
    splits = load(data_dir=tmp_path)
    assert list(splits) == ["train", "validation", "test"]
    split = splits["train"]
    assert {"id", "recording", "path", "start", "end", "seconds", "speaker", "gender", "labels", "digest"} == {
        *split.column_names
    }
    row = split[0]
    assert row["id"] == row["recording"] and row["start"] == 0.0 and row["end"] is None and row["seconds"] == 0.2
    assert row["path"] == str(tmp_path / row["id"]) and row["id"].startswith(f"{row['speaker']}/")
    facts = splits.facts["train"]
    assert facts["source"] == str(tmp_path) and facts["available"] == facts["examples"] == len(split)
    assert facts["label_counts"] == dict(Counter(labels_of(split).values())) and facts["skipped"] == {}
    assert facts["statistics"]["speakers"] == len({*split["speaker"][:]}) and not splits.overlaps
    assert facts["statistics"]["hours"] == pytest.approx(len(split) * 0.2 / 3600, abs=1e-4)
    assert splits.facts["train"]["fingerprint"] == load(data_dir=tmp_path).facts["train"]["fingerprint"]


def test_the_fingerprint_is_that_of_what_is_heard_not_of_where_it_is(tmp_path):
    first, second = folder(tmp_path / "a"), tmp_path / "b"
    shutil.copytree(first, second)
    assert load(data_dir=first).facts["test"]["fingerprint"] == load(data_dir=second).facts["test"]["fingerprint"]
    changed = load(data_dir=second)["test"][0]["path"]
    write(changed := second.joinpath(changed), 0.2, seed=99)
    assert load(data_dir=first).facts["test"]["fingerprint"] != load(data_dir=second).facts["test"]["fingerprint"]


def test_samples_are_drawn_after_the_split(tmp_path):
    folder(tmp_path, count=20)
    splits = load(data_dir=tmp_path, max_train_samples=5, max_eval_samples=99, split="random")
    assert [len(split) for split in splits.values()] == [5, 4, 4]
    assert splits.facts["train"]["available"] == 32 and "at random" in splits.facts["train"]["selection"]
    assert splits.facts["validation"]["selection"] == "all 4"


def test_how_one_source_is_split(tmp_path):
    folder(tmp_path, count=12, speakers=6)
    heard = run()
    splits = load(heard, data_dir=tmp_path)
    assert heard.notes == ["split by speaker, none of whom is in two splits (split_seed 42)"] and not splits.overlaps
    heard = run()
    splits = load(heard, data_dir=tmp_path, split="random", split_seed=1)
    assert heard.notes == ["split at random (split_seed 1)"]
    assert {shared["key"] for shared in splits.overlaps} == {"speaker"}
    flat = folder(tmp_path / "flat")
    assert "does not say who speaks" in message(load, data_dir=flat, split="speaker")
    heard = run()
    load(heard, data_dir=flat)
    assert [one for one in heard.warnings if one.startswith("speakers are not known")]


def test_parts_of_one_file_are_in_one_split(tmp_path):
    rows = []
    for talk, part in itertools.product(range(12), range(5)):
        write(tmp_path / f"{talk}.wav", 5.0) if not part else None
        rows.append(f"{talk}.wav,{part},{part + 1},x")
    (tmp_path / "t.csv").write_text("\n".join(["path,start,end,text", *rows]))
    heard = run()
    splits = load(heard, kind="text", data_dir=tmp_path / "t.csv")
    assert heard.notes == ["split by file, none of which is in two splits (split_seed 42)"]
    files = [{*split["path"][:]} for split in splits.values()]
    assert sum(map(len, files)) == 12 and all(split["speaker"][0] is None for split in splits.values())


def test_what_the_data_do_not_give_is_taken_from_their_training_data(tmp_path):
    for split in ("train", "test"):
        folder(tmp_path / split, count=10, speakers=5)
    heard = run()
    splits = load(heard, data_dir=tmp_path)
    assert all(path.startswith("train/") for path in splits["validation"]["id"][:] + splits["train"]["id"][:])
    assert len(splits["test"]) == 20 and len(splits["validation"]) + len(splits["train"]) == 20
    assert heard.notes[0].startswith("split as the data say; validation taken from the training data by speaker")
    assert not {*splits["train"]["speaker"][:]} & {*splits["validation"]["speaker"][:]}


def test_phases_and_sources(tmp_path):
    path = str(folder(tmp_path / "a"))
    assert list(load(data_dir=path, phases="test")) == ["test"]
    assert list(load(train_file=[path], phases="train")) == ["train"]
    assert "give --validation_file" in message(load, train_file=[path], phases="train validation")
    assert "there are no data: give --data_dir" in message(load)
    assert "split by itself" in message(arguments, data_dir=path, train_file=[path])
    assert "--test_share 0.7: must lie between" in message(arguments, test_share=0.7)
    assert "cannot be read as one" in message(load, train_file=[path, path], phases="train")
    args = arguments(phases="train validation test", train_file=[path], validation_file=[path])
    args.explicit.discard("do_predict")  # where nobody asked for a test, files without one are enough
    from common.speech.recordings import load_recordings

    assert list(load_recordings(args, run())) == ["train", "validation"]


def test_classes_of_other_splits(tmp_path):
    train, test = folder(tmp_path / "train", "yes no"), folder(tmp_path / "test", "no maybe")
    heard = run()
    splits = load(heard, train_file=[str(train)], test_file=[str(test)], phases="train test")
    assert splits["train"].features["labels"].names == splits["test"].features["labels"].names == ["maybe", "no", "yes"]
    assert "test has clips of maybe, of which training has none: they cannot be learned" in heard.warnings
    sentence = message(load, train_file=[str(folder(tmp_path / "one", "yes", 3))], phases="train")
    assert "nothing says the label of its clips" in sentence  # a folder that all are in tells nothing
    for word in ("yes", "no"):
        write(tmp_path / "few" / word / "1.wav")
    assert "all training clips are of the class 'yes'" in message(
        load, train_file=[str(tmp_path / "few")], drop_labels=["no"], phases="train"
    )


def test_dropped_classes_are_counted(tmp_path):
    folder(tmp_path, "Yes no maybe", 5)
    splits = load(data_dir=tmp_path, drop_labels=["MAYBE"])
    assert splits.facts["train"]["skipped"] == {"class dropped (maybe)": 5}
    assert splits["train"].features["labels"].names == ["Yes", "no"]
    assert "there is no such class, only Yes, maybe, no" in message(load, data_dir=tmp_path, drop_labels=["never"])
    path = write(tmp_path / "no" / "x.wav")
    assert "only unknown" in message(load, test_file=[str(path)], phases="test", drop_labels=["never"])


def test_test_data_without_truth(tmp_path):
    train, test = folder(tmp_path / "train"), tmp_path / "test"
    for i in range(3):
        write(test / f"{i}.wav")
    splits = load(train_file=[str(train)], test_file=[str(test)], phases="train test")
    assert "labels" not in splits["test"].column_names and "label_counts" not in splits.facts["test"]
    for sub in ("inbox", "archive"):  # folders that are not called by class
        write(test / sub / "1.wav")
    used = load(test_file=[str(test)], phases="test", names=("yes", "no"))["test"]
    assert "labels" not in used.column_names and len(used) == 5
    write(test / "yes" / "1.wav")
    assert "is not among the classes 'yes', 'no'" in message(
        load, test_file=[str(test)], phases="test", names=("yes", "no")
    ) or "the label is empty" in message(load, test_file=[str(test)], phases="test", names=("yes", "no"))
    texts = load(kind="text", test_file=[str(test)], phases="test")["test"]
    assert "text" not in texts.column_names
    table = tmp_path / "t.csv"
    said = {("YES", "no"): ["yes", "no"], ("0", "1"): ["yes", "no"], ("oui", "non"): "the label 'oui' is not among"}
    for words, expected in said.items():  # whose classes are meant as such
        table.write_text("".join(["path,label\n", *(f"test/{i}.wav,{word}\n" for i, word in enumerate(words))]))
        options = {"test_file": [str(table)], "phases": "test", "names": ("yes", "no"), "label_order": "yes,no"}
        found = message(load, **options) if "oui" in words else [*labels_of(load(**options)["test"]).values()]
        assert found == expected or expected in found
    assert "nothing says the text of its clips" in message(load, kind="text", train_file=[str(train)], phases="train")


def test_one_recording_to_be_heard(tmp_path):
    path = write(tmp_path / "call.wav", 3.0)
    split = load(kind="text", test_file=[str(path)], phases="test")["test"]
    assert split["path"][:] == [str(path)] and split["seconds"][:] == [3.0]


def test_several_recordings_and_patterns(tmp_path):
    a, b = (str(write(tmp_path / name, 1.0)) for name in ("x/1.wav", "y/1.wav"))
    for given in ([a, b], [f"{tmp_path}/*/1.wav", a]):
        split = load(kind="text", test_file=given, phases="test")["test"]
        assert split["path"][:] == [a, b] and split["id"][:] == ["x/1.wav", "y/1.wav"]
    (tmp_path / "t.csv").write_text(f"path\n{a}\n")
    shutil.make_archive(str(tmp_path / "x"), "zip", tmp_path / "x")
    for given in ([a, f"{tmp_path}/t.csv"], [f"{tmp_path}/x.zip"] * 2, [str(tmp_path), a], [f"{tmp_path}/t.csv", a]):
        assert "cannot be read as one; put" in message(load, kind="text", test_file=given, phases="test")
    address = message(load, kind="text", test_file=["https://a.b/c.wav"], phases="test")
    assert "https://a.b/c.wav: no such file; fetch it first: only tables may be at addresses" in address
    missing = message(load, kind="text", test_file=[f"{tmp_path}/*.mp3"], phases="test")
    assert f"{tmp_path}/*.mp3: no file has such a name" in missing


def test_splits_that_a_file_for_one_split_has(tmp_path):
    for split in ("train", "test"):
        folder(tmp_path / split, count=2)
    heard = run()
    load(heard, train_file=[str(tmp_path)], phases="train")
    assert any("has clips of several splits, all of which are train data here" in one for one in heard.warnings)


def test_length_limits_of_transcribed_clips(tmp_path):
    lines = ["path,text"]
    for i, seconds in enumerate((0.5, 1.0, 2.0, 4.0)):
        write(tmp_path / f"{i}.wav", seconds)
        lines.append(f"{i}.wav,x")
    table = tmp_path / "t.csv"
    table.write_text("\n".join(lines))
    splits = load(kind="text", train_file=[str(table)], phases="train", min_seconds=0.8, max_seconds=3.0)
    assert splits["train"]["seconds"][:] == [1.0, 2.0]
    assert splits.facts["train"]["skipped"] == {"shorter or longer than asked for": 2}
    assert "no usable recording" in message(load, kind="text", train_file=[str(table)], phases="train", max_seconds=0)


def broken(tmp_path):
    """A folder with whole clips and one of every kind of bad ones."""
    path = folder(tmp_path / "data")
    content = write(tmp_path / "cut.flac", 3.0).read_bytes()
    (path / "yes/cut.flac").write_bytes(content[: len(content) // 2])
    (path / "yes/pointer.wav").write_text("version https://git-lfs.github.com/spec/v1\n")
    (path / "yes/empty.wav").write_bytes(b"")
    write(path / "yes/short.wav", 0.01)
    soundfile.write(path / "no/silent.wav", np.zeros(16_000, np.float32), 16_000)
    return path


def test_bad_clips_stop_the_run_or_are_counted_once(tmp_path):
    path = broken(tmp_path)
    sentence = message(load, data_dir=path)
    assert sentence.startswith(f"{path}/no/silent.wav: is silent") and sentence.endswith(
        "mend it or pass --on_bad_example skip"
    )
    splits = load(data_dir=path, on_bad_example="skip", split="random")
    skipped = sum((Counter(facts["skipped"]) for facts in splits.facts.values()), Counter())
    assert skipped == {"truncated": 1, "Git LFS pointer": 1, "cannot be decoded": 1, "too short": 1, "silent": 1}
    assert sum(map(len, splits.values())) == 20
    (path / "no").rename(path / "_silence_")
    allowed = load(data_dir=path, on_bad_example="skip", split="random")
    assert sum(map(len, allowed.values())) == 21
    test = {"test_file": [str(path / "_silence_/silent.wav")], "phases": "test"}
    assert "is silent" in message(load, kind="text", **test) and len(load(**test)["test"]) == 1


def test_two_processes_share_the_decoding(tmp_path):
    """Each computes its part of the clips, and both have all of it."""
    path = folder(tmp_path / "data", count=6)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", WORKER, str(path)]
    both = [subprocess.Popen([*command, str(i)], env=environment, stdout=subprocess.PIPE, text=True) for i in range(2)]
    first, second = (json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in both)
    assert first["facts"] == second["facts"] and first["facts"]["train"]["examples"] == 8
    alone = load(data_dir=path)
    assert {name: facts["fingerprint"] for name, facts in alone.facts.items()} == {
        name: facts["fingerprint"] for name, facts in first["facts"].items()
    }
    if first["decoded"] and second["decoded"]:  # a slow start of one leaves all to the other
        assert len(first["decoded"]) + len(second["decoded"]) == 12


WORKER = """
import json, sys
from common.speech import audio, recordings, splits as splits_module
from tests.speech.clips import arguments, run

decoded, original = [], audio.examine
audio.examine = lambda path: decoded.append(path) or original(path)
args = arguments(data_dir=sys.argv[1])
args.training_args.world_size, args.training_args.process_index = 2, int(sys.argv[2])
splits = recordings.load_recordings(args, run())
splits_module.describe_splits(splits, run())
print(json.dumps({"decoded": decoded, "facts": splits.facts}))
"""


def test_kinds_that_ffmpeg_reads_are_never_left_out_silently(tmp_path, monkeypatch):
    path = folder(tmp_path / "data")
    for i in range(3):
        (path / f"yes/{i}.m4a").write_bytes(b"\0\0\0\x1cftypM4A " + bytes(50))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    sentence = message(load, data_dir=path)
    assert "0.m4a: is of a kind that ffmpeg alone reads; install ffmpeg" in sentence
    assert "(3 clips are unusable: 3 needs ffmpeg)" in sentence
    splits = load(data_dir=path, on_bad_example="skip")
    assert splits.facts["train"]["skipped"] == {"needs ffmpeg": 3}


def test_clips_are_decoded_once_and_remembered(tmp_path, monkeypatch):
    path, decoded = folder(tmp_path / "data", count=4), []
    original = audio.examine
    monkeypatch.setattr(audio, "examine", lambda path: decoded.append(path) or original(path))
    options = {"data_dir": path, "cache_dir": str(tmp_path / "cache")}
    first = load(**options)
    assert sorted(decoded) == sorted(path for split in first.values() for path in split["path"][:])
    again = load(**options)
    assert len(decoded) == 8 and again.facts == first.facts
    write(path / "yes/1.wav", 0.3, seed=1)
    assert load(**options).facts != first.facts and len(decoded) == 16


def test_a_long_file_is_decoded_once_for_all_its_parts(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "talk.wav", sound(5.0), 16_000)
    rows = [f"talk.wav,{i},{i + 1},x{i}" for i in range(5)]
    (tmp_path / "t.csv").write_text("\n".join(["path,start,end,text", *rows]))
    decoded, original = [], audio.examine
    monkeypatch.setattr(audio, "examine", lambda path: decoded.append(path) or original(path))
    split = load(kind="text", train_file=[str(tmp_path / "t.csv")], phases="train")["train"]
    assert len(split) == 5 and len(decoded) == 1 and len({*split["digest"][:]}) == 1


def test_what_splits_share(tmp_path):
    train, valid = folder(tmp_path / "a"), folder(tmp_path / "b")
    shutil.copy(train / "yes/0.wav", valid / "yes/copy.wav")
    shutil.copy(train / "no/0.wav", train / "yes/also_no.wav")
    heard = run()
    splits = load(heard, train_file=[str(train)], validation_file=[str(valid)], phases="train validation")
    assert splits.overlaps == [
        {"between": ["train", "validation"], "key": "clip", "examples": 1, "share": 1 / 21},  # not all of one name
    ]
    assert "1 clips of validation (5%) are in train, too" in heard.warnings
    assert any("1 clips are there more than once, with different labels" in sentence for sentence in heard.warnings)
    heard = run()
    load(heard, train_file=[str(train)], validation_file=[str(train)], phases="train validation")
    assert "21 clips of validation (100%) are in train, too" in heard.warnings


def test_copies_in_one_split_are_said(tmp_path):
    """As the archive of RAVDESS that holds its folder twice."""
    shutil.copytree(folder(tmp_path / "a", count=5), tmp_path / "b")
    heard = run()
    load(heard, train_file=[str(tmp_path)], phases="train")
    said = "10 clips are copies of others, and count as often as they are there, such as"
    assert [words for words in heard.warnings if words.startswith(said)]


def test_what_is_done_before_the_split(tmp_path):
    for i, word in itertools.product(range(6), ("yes", "no")):
        write(tmp_path / word / f"{i}.wav", 4.0)
    found = load(data_dir=tmp_path, prepare=lambda rows: cut_segments(rows, 2.0), split="random")
    assert sum(map(len, found.values())) == 24
    assert {shared["key"] for shared in found.overlaps} == {"utterance"}  # what the published protocol does


def test_copies_and_overlapping_parts_count_once(tmp_path):
    for word in ("yes", "no"):
        write(tmp_path / word / "1.wav", 3.6)
    split = load(train_file=[str(tmp_path)], phases="train")["train"]
    assert hours(split) == pytest.approx(0.002) and hours(split.select([0, 0, 1, 1, 1])) == pytest.approx(0.002)
    parts = split.select([0, 0, 0, 1]).remove_columns(["start", "seconds"])
    parts = parts.add_column("start", [0.0, 0.5, 2.0, 3.0]).add_column("seconds", [1.5, 0.25, 1.0, 0.5])
    assert hours(parts) == pytest.approx((1.5 + 1.0 + 0.5) / 3600)


def test_the_table_of_all_recordings(tmp_path):
    for name in ("M01A01", "M01N01", "F02N07"):
        write(tmp_path / f"{name}.wav", 0.5)
    splits = load(train_file=[str(tmp_path)], phases="train", classes=EMOTIONS)
    header, rows = recordings_table(splits)
    assert header == ["gender", "speaker", "label", "utterance", "split", "seconds", "path"]
    assert sorted(rows)[0] == ["female", "F02", "neutral", "F02N07.wav", "train", 0.5, str(tmp_path / "F02N07.wav")]
    assert len(rows) == 3


def test_nothing_to_read(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "has no clip; sound ends with one of .wav" in message(load, data_dir=tmp_path / "empty")
    assert "no such file" in message(load, data_dir=tmp_path / "gone.csv")
    (tmp_path / "notes.txt").write_text("x")
    assert "cannot read '.txt'" in message(load, data_dir=tmp_path / "notes.txt")
