"""Every kind of source gives the same recordings; what is wrong with one is a sentence, or counted; nothing is lost."""

import csv
import gzip
import io
import json
import pickle
import re
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.legacy.recording_tables import HubAudio
from common.legacy.recordings import Reading, describe_splits, read_recordings, recordings_of_rows
from tests.legacy.helpers import message

RATE = 16_000
EMOTIONS = {"anger": ("A", "angry"), "happiness": ("H", "happy"), "neutral": ("N",), "sadness": ("S", "sad")}
SHEMO = {**EMOTIONS, "surprise": ("W", "surprised"), "fear": ("F", "fearful")}
SHEMO_NAME = r"(?P<speaker>(?P<gender>[MF])\d{2})(?P<label>[AFHNSW])(?P<utterance>\d+)"
URDU_NAME = r"S(?P<speaker>(?P<gender>[MF])\d+)_F(?P<utterance>\d+)_(?P<label>[AHNS])\d+"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def clip(path: Path, seconds: float = 0.1, seed: int = 0, rate: int = RATE) -> Path:
    """A file of faint noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))
    soundfile.write(path, noise, rate)
    return path


def write_table(path: Path, rows: list[dict]) -> Path:
    """The rows in the format that the path's ending says."""
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix in (".json", ".jsonl"):
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) if path.suffix == ".jsonl" else f"[{','.join(lines)}]", encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def classes(recordings) -> list[str]:
    return [recordings.names[i] for i in recordings.labels]


def flaw(skipped: str, starts: str, path, reading: dict, root: Path, left: int):
    """The run stops with a sentence, or `skip_bad` leaves exactly one clip out, under this reason; returns the rest."""
    sentence = message(read_recordings, path, Reading(**reading), root)
    assert starts in sentence and sentence.endswith("; mend it or pass --on_bad_example skip")
    rest = read_recordings(path, Reading(**reading, skip_bad=True), root)
    assert rest.skipped == {skipped: 1} and len(rest) == left and len(rest.left_out) == 1
    assert rest.left_out[0][1] == sentence.removesuffix("; mend it or pass --on_bad_example skip")
    assert rest.left_out[0][0] not in rest.ids or skipped == "id is there twice"
    return rest


# Real data


def test_digits_of_fsdd(shared_data, root):
    path = shared_data / "keywords" / "fsdd_recordings.tar.xz"
    digits = read_recordings(path, Reading(name_pattern="{label}_{speaker}_{index}"), root)
    assert len(digits) == 3000 and digits.names == tuple("0123456789") and set(digits.label_counts().values()) == {300}
    assert set(Counter(digits.speakers).values()) == {500} and len(set(digits.speakers)) == 6
    assert digits.seconds.sum() / 60 == pytest.approx(21.87, abs=0.01) and digits.source == str(path)
    for i in range(0, 3000, 97):
        digit, speaker, index = Path(digits.ids[i]).stem.split("_")
        assert (classes(digits)[i], digits.speakers[i], digits.columns["index"][i]) == (digit, speaker, index)
        info = soundfile.info(digits.audio[i])
        assert digits.seconds[i] == pytest.approx(info.frames / info.samplerate) and info.name.endswith(digits.ids[i])
    # In the order of a user's names, and by the classes of the training data.
    order = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    named = read_recordings(path, Reading(name_pattern="{label}_{speaker}_{index}", label_order=tuple(order)), root)
    assert named.names == tuple(order) and named.labels.tolist() == digits.labels.tolist()


def test_speech_commands_as_plain_class_folders(shared_data, root):
    path = shared_data / "keywords" / "speech_commands_v2_480.zip"
    words = read_recordings(path, Reading(), root)
    keywords = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]
    assert words.names == ("_silence_", "_unknown_", *sorted(keywords))
    assert set(words.label_counts().values()) == {40} and words.splits is None and (words.seconds == 1).all()
    assert classes(words) == [name.split("/")[0] for name in words.ids]
    assert len(set(words.speakers) - {""}) == 88
    assert {name for name, who in zip(classes(words), words.speakers) if not who} == {"_silence_"}


def test_lj_speech(shared_data, root):
    path = shared_data / "asr" / "ljspeech_excerpt.zip"
    read = read_recordings(path, Reading(kind="text"), root)
    with zipfile.ZipFile(path) as archive:
        lines = [line.split("|") for line in archive.read("metadata.csv").decode().splitlines()]
        infos = [soundfile.info(io.BytesIO(archive.read(f"wavs/{name}.flac"))) for name, *_ in lines]
    assert read.ids == [name for name, *_ in lines] and read.texts == [normalised for *_, normalised in lines]
    assert read.seconds == pytest.approx([info.frames / info.samplerate for info in infos]) and read.labels is None
    assert read.speakers is None and read.names == ()
    table = Path(read.audio[0]).parents[1] / "metadata.csv"
    assert read_recordings(table, Reading(kind="text"), root).texts == read.texts, "the table itself"
    assert read_recordings(path, Reading(kind="text", truth=False), root).texts is None


def test_urdu_emotions_by_folder_and_name(shared_data, root):
    path = shared_data / "emotion" / "urdu_emotion_400.zip"
    urdu = read_recordings(path, Reading(classes=EMOTIONS, name_pattern=URDU_NAME), root)
    assert urdu.label_counts() == dict.fromkeys(EMOTIONS, 100) and len(set(urdu.speakers)) == 29
    assert Counter(urdu.columns["gender"]) == {"M": 344, "F": 56} and set(urdu.columns) == {"gender", "utterance"}
    assert all(who[0] == gender for who, gender in zip(urdu.speakers, urdu.columns["gender"]))
    by_folder = read_recordings(path, Reading(classes=EMOTIONS), root)
    assert by_folder.labels.tolist() == urdu.labels.tolist() and by_folder.speakers is None
    own = read_recordings(path, Reading(), root)
    assert own.names == ("Angry", "Happy", "Neutral", "Sad") and own.labels.tolist() == urdu.labels.tolist()


def test_shemo_is_known_without_sound(shared_data, root):
    emotion = shared_data / "emotion"
    listed = read_recordings(emotion / "shemo.json.gz", Reading(classes=SHEMO, audio_needed=False), root)
    named = Reading(classes=SHEMO, audio_needed=False, name_pattern=SHEMO_NAME)
    zipped = read_recordings(emotion / "shemo_transcript.zip", named, root)
    counts = {"anger": 1042, "happiness": 203, "neutral": 1160, "sadness": 362, "surprise": 201, "fear": 32}
    for shemo in (listed, zipped):
        assert shemo.label_counts() == counts and tuple(counts) == shemo.names and len(set(shemo.speakers)) == 87
        assert np.isnan(shemo.seconds).all() and shemo.audio == [None] * 3000
        assert "hours" not in shemo.describe(3000, "all")["statistics"]
    assert Counter(listed.columns["gender"]) == {"male": 1737, "female": 1263}
    assert Counter(zipped.columns["gender"]) == {"M": 1737, "F": 1263}
    facts = json.loads(gzip.decompress((emotion / "shemo.json.gz").read_bytes()))
    assert listed.texts == [facts[name]["transcript"].strip() for name in listed.ids]
    by_name = dict(zip((Path(name).stem for name in zipped.ids), classes(zipped)))
    assert by_name == dict(zip(listed.ids, classes(listed)))
    table = write_table(root / "names.csv", [{"file": f"{name}.wav"} for name in facts])
    from_names = read_recordings(table, named, root)
    assert from_names.label_counts() == counts and len(from_names.columns["utterance"]) == 3000
    assert "there is no file" in message(read_recordings, table, Reading(classes=SHEMO, name_pattern=SHEMO_NAME), root)


# Trees


def test_librispeech(tmp_path, root):
    texts = {"19-198-0000": "NORTHANGER ABBEY", "19-198-0001": "THIS LITTLE WORK", "26-495-0000": "HE WAS"}
    subsets = {"19-198-0000": "train-clean-100", "19-198-0001": "train-clean-100", "26-495-0000": "dev-other"}
    tree = tmp_path / "LibriSpeech"
    (tree / "x").mkdir(parents=True)
    (tree / "SPEAKERS.TXT").write_text("; about")
    for i, (name, text) in enumerate(texts.items()):
        speaker, chapter, _ = name.split("-")
        folder = tree / subsets[name] / speaker / chapter
        clip(folder / f"{name}.flac", 0.1 * (i + 1))
        with (folder / f"{speaker}-{chapter}.trans.txt").open("a") as file:
            file.write(f"{name} {text}\n")
    read = read_recordings(tmp_path, Reading(kind="text"), root)
    assert dict(zip(read.ids, read.texts)) == texts and read.ids[-1] == "19-198-0001"  # dev comes before train
    assert dict(zip(read.ids, read.speakers)) == {name: name.split("-")[0] for name in texts}
    assert dict(zip(read.ids, read.columns["subset"])) == subsets
    assert dict(zip(read.ids, read.splits))["26-495-0000"] == "validation" and read.splits.count("train") == 2
    assert read.seconds == pytest.approx([0.3, 0.1, 0.2])
    one = read_recordings(tree / "dev-other", Reading(kind="text"), root)
    assert one.ids == ["26-495-0000"] and one.splits is None and one.columns == {}
    assert "has transcripts, and no classes" in message(read_recordings, tree, Reading(), root)
    (tree / "dev-other/26/495/26-495.trans.txt").write_text("26-495-0000 HE WAS\n26-495-0001 GONE\n26-495-0002\n")
    clip(tree / "dev-other/26/495/26-495-0002.flac")
    both = read_recordings(tree, Reading(kind="text", skip_bad=True), root)
    assert both.skipped == {"missing file": 1, "empty transcript": 1} and both.ids == read.ids
    assert dict(both.left_out)["26-495-0001"].endswith(
        "26-495.trans.txt: 26-495-0001: there is a transcript, but no clip beside it"
    )


def test_class_folders_below_splits(tmp_path, root):
    for i, (split, label) in enumerate([("train", "no"), ("train", "yes"), ("Dev", "yes"), ("test", "no")]):
        clip(tmp_path / "all" / split / label / "deep" / f"{i}.wav", 0.1 * (i + 1))
    (tmp_path / "all" / "README.md").write_text("about")
    read = read_recordings(tmp_path, Reading(classes={"yes": (), "no": ()}), root)
    assert read.splits == ["validation", "test", "train", "train"] and read.names == ("yes", "no")
    assert classes(read) == ["yes", "no", "no", "yes"], "the known folder, not the one below it"
    assert read.ids[0] == "Dev/yes/deep/2.wav" and read.seconds[0] == pytest.approx(0.3)
    held = read_recordings(
        tmp_path / "all" / "train", Reading(names=("no", "yes"), classes={"no": (), "yes": ()}), root
    )
    assert held.splits is None and classes(held) == ["no", "yes"]


def test_folders_by_split_are_no_classes(tmp_path, root):
    for name in ("train/1.wav", "test/2.wav"):
        clip(tmp_path / name)
    read = read_recordings(tmp_path, Reading(truth=None), root)
    assert read.labels is None and read.splits == ["test", "train"]


def test_folders_that_are_no_classes(tmp_path, root):
    for name in ("a/1.wav", "b/2.wav"):
        clip(tmp_path / name)
    assert read_recordings(tmp_path, Reading(truth=None), root).names == ("a", "b")
    for truth in (None, False):
        unknown = read_recordings(tmp_path, Reading(truth=truth, names=("no", "yes")), root)
        assert unknown.labels is None and unknown.names == ("no", "yes") and len(unknown) == 2
    sentence = message(read_recordings, tmp_path, Reading(names=("no", "yes")), root)
    assert "a/1.wav: the label 'a' is not among the classes of the training data, 'no', 'yes'" in sentence
    flat = tmp_path / "a"
    assert "the clips are not in folders by class" in message(read_recordings, flat, Reading(), root)
    assert read_recordings(flat, Reading(truth=None), root).labels is None
    single = read_recordings(flat / "1.wav", Reading(truth=False), root)
    assert single.ids == ["1.wav"] and single.seconds == pytest.approx([0.1])
    clip(tmp_path / "3.wav")
    flaw("no label", "3.wav: the label is empty", tmp_path, {}, root, 2)


def test_archives_in_a_folder(tmp_path, root):
    for name in ("F01A01", "M05N01"):
        clip(tmp_path / "made" / f"{name}.wav")
        with zipfile.ZipFile(tmp_path / f"{'male' if name[0] == 'M' else 'female'}.zip", "w") as archive:
            archive.write(tmp_path / "made" / f"{name}.wav", f"inner/{name}.wav")
    for path in (tmp_path / "made").iterdir():
        path.unlink()
    (tmp_path / "made").rmdir()
    read = read_recordings(tmp_path, Reading(classes=SHEMO, name_pattern=SHEMO_NAME), root)
    assert read.ids == ["female/F01A01.wav", "male/M05N01.wav"] and classes(read) == ["anger", "neutral"]
    assert read.speakers == ["F01", "M05"] and read.columns == {"gender": ["F", "M"], "utterance": ["01", "01"]}


def test_audio_folder_with_metadata(tmp_path, root):
    rows = [{"file_name": f"clips/{i}.wav", "transcription": f"text {i}", "gender": "MF"[i % 2]} for i in range(4)]
    for split in ("", "train", "test"):
        for row in rows:
            clip(tmp_path / ("one" if not split else "two") / split / row["file_name"])
        write_table(tmp_path / ("one" if not split else "two") / split / "metadata.csv", rows)
    one = read_recordings(tmp_path / "one", Reading(kind="text"), root)
    assert one.texts == [row["transcription"] for row in rows] and one.ids == [row["file_name"] for row in rows]
    assert one.columns == {"gender": ["M", "F", "M", "F"]} and one.splits is None
    two = read_recordings(tmp_path / "two", Reading(kind="text"), root)
    assert two.splits == ["test"] * 4 + ["train"] * 4 and two.texts == one.texts * 2
    assert two.ids[4] == "train/clips/0.wav" and two.audio[4] == str(tmp_path / "two/train/clips/0.wav")
    (tmp_path / "two/train/clips/1.wav").unlink()
    place = f"{tmp_path / 'two/train/metadata.csv'}: row 2: there is no file {tmp_path / 'two/train/clips/1.wav'}"
    flaw("missing file", place, tmp_path / "two", {"kind": "text"}, root, 7)


# File names


def test_patterns(tmp_path, root):
    for name in ("yes_anna_1.wav", "no_bo_2.wav"):
        clip(tmp_path / name)
    for pattern in ("{label}_{speaker}_{take}", r"(?P<label>\w+?)_(?P<speaker>\w+)_(?P<take>\d)"):
        read = read_recordings(tmp_path, Reading(name_pattern=pattern), root)
        assert (
            classes(read) == ["no", "yes"] and read.speakers == ["bo", "anna"] and read.columns == {"take": ["2", "1"]}
        )
    spoken = read_recordings(tmp_path, Reading(kind="text", name_pattern="{text}_{speaker}_{take}"), root)
    assert spoken.texts == ["no", "yes"] and spoken.labels is None
    clip(tmp_path / "maybe.wav")
    sentence = "maybe.wav: the name 'maybe' does not match --name_pattern {label}_{speaker}_{take}"
    rest = flaw("name does not match", sentence, tmp_path, {"name_pattern": "{label}_{speaker}_{take}"}, root, 2)
    assert rest.names == ("no", "yes")
    for pattern, words in (("yes", "names no part"), ("(?P<label>[", "not a pattern"), ("{a}_{a}", "not a pattern")):
        assert words in message(read_recordings, tmp_path, Reading(name_pattern=pattern), root)


def test_name_and_folder_must_agree(tmp_path, root):
    for name in ("male/Angry/M1_A.wav", "female/sad/F2_S.wav", "male/Happy/M1_N.wav"):
        clip(tmp_path / name)
    reading = {"classes": EMOTIONS, "name_pattern": "{speaker}_{label}"}
    sentence = "Happy/M1_N.wav: its name says the class 'N', the data say 'Happy'"
    rest = flaw("name and label disagree", sentence, tmp_path, reading, root, 2)
    assert classes(rest) == ["sadness", "anger"] and rest.speakers == ["F2", "M1"]


@pytest.mark.parametrize("label, emotion", [("05", "anger"), ("03", "neutral")])
def test_numbers_in_names_are_names(tmp_path, root, label, emotion):
    clip(tmp_path / f"03-01-{label}.wav")
    known = {"anger": ("05",), "neutral": ("03",)}
    read = read_recordings(tmp_path, Reading(classes=known, name_pattern="{a}-{speaker}-{label}"), root)
    assert classes(read) == [emotion]
    assert classes(read_recordings(tmp_path, Reading(name_pattern="{a}-{speaker}-{label}"), root)) == [label]


# Tables


@pytest.fixture
def table(tmp_path) -> list[dict]:
    """Rows about four clips beside them."""
    for i in range(4):
        clip(tmp_path / "clips" / f"{i}.wav", 0.1 * (i + 1), seed=i)
    return [
        {
            "path": f"clips/{i}.wav",
            "emotion": ["sad", "happy"][i % 2],
            "sentence": f"sentence {i}",
            "client_id": f"s{i // 2}",
            "split": ["train", "train", "dev", "test"][i],
            "gender": "MF"[i % 2],
            "note": f"all different {i}",
            "language": "fa",
            "duration": 9.0,
        }
        for i in range(4)
    ]


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_format_of_table(tmp_path, root, table, ending):
    path = write_table(tmp_path / f"table.{ending}", table)
    read = read_recordings(path, Reading(classes=EMOTIONS), root)
    assert classes(read) == ["sadness", "happiness"] * 2 and read.names == ("happiness", "sadness")
    assert read.ids == [row["path"] for row in table] and read.texts == [row["sentence"] for row in table]
    assert read.speakers == ["s0", "s0", "s1", "s1"] and read.splits == ["train", "train", "validation", "test"]
    assert read.columns == {"gender": ["M", "F", "M", "F"]}
    assert read.seconds == pytest.approx([0.1, 0.2, 0.3, 0.4]), "a duration without a begin says nothing new"
    assert read.audio == [str(tmp_path / row["path"]) for row in table]
    assert read_recordings(path, Reading(kind="text"), root).labels is None
    without_training = write_table(tmp_path / f"held.{ending}", table[2:])
    assert read_recordings(without_training, Reading(), root).splits is None
    subsets = write_table(
        tmp_path / f"subsets.{ending}", [{**row, "split": f"room {i // 2}"} for i, row in enumerate(table)]
    )
    other = read_recordings(subsets, Reading(), root)
    assert other.splits is None and len(other) == 4, "a column of that name about something else"


def test_columns_as_given(tmp_path, root, table):
    renamed = [
        {"clip": row["path"], "feeling": row["emotion"], "who": row["client_id"], "id": "abcd"[i]}
        for i, row in enumerate(table)
    ]
    path = write_table(tmp_path / "t.csv", renamed)
    sentence = message(read_recordings, path, Reading(), root)
    assert sentence.startswith(f"{path}: no column for the audio; it has 'clip', 'feeling', 'who', 'id'")
    sentence = message(read_recordings, path, Reading(columns={"audio": "clip"}), root)
    assert "no column for the label" in sentence and sentence.endswith("name yours with --label_column")
    columns = {"audio": "clip", "label": "feeling", "speaker": "who", "text": None}
    read = read_recordings(path, Reading(columns=columns), root)
    assert classes(read) == [row["emotion"] for row in table] and read.ids == list("abcd") and read.texts is None
    assert read.speakers == [row["client_id"] for row in table]
    assert "no column 'x'" in message(read_recordings, path, Reading(columns={"audio": "x"}), root)


@pytest.mark.parametrize("second", [{"end": 2.5}, {"duration": 1.5}])
def test_parts_of_long_files(tmp_path, root, second):
    clip(tmp_path / "long.wav", 3.0)
    rows = [
        {"path": "long.wav", "text": "a", "start": 0, **dict.fromkeys(second, 1.0)},
        {"path": "long.wav", "text": "b", "start": 1, **second},
    ]
    path = write_table(
        tmp_path / "t.json", [*rows, {"path": "long.wav", "text": "c", "start": 2.5, **dict.fromkeys(second)}]
    )
    read = read_recordings(path, Reading(kind="text"), root)
    assert read.begins.tolist() == [0, 1, 2.5] and read.ends == pytest.approx([1, 2.5, 3.0])
    assert len(set(read.ids)) == 3
    late = write_table(tmp_path / "late.json", [*rows, {**rows[0], "start": 3.5, **dict.fromkeys(second, 4.0)}])
    flaw("part beyond the end", "long.wav: the part ends at", late, {"kind": "text"}, root, 2)
    short = write_table(tmp_path / "short.json", [*rows, {**rows[0], "start": 1.0, "end": 1.02, "duration": 0.02}])
    flaw("too short", "long.wav: is too short: 20 ms; encoders need 25 ms", short, {"kind": "text"}, root, 2)
    words = write_table(tmp_path / "words.json", [*rows, {**rows[0], "start": "soon"}])
    flaw("part without numbers", "row 3: the part 'soon' to", words, {"kind": "text"}, root, 2)
    early = write_table(tmp_path / "early.json", [*rows, {**rows[0], "start": -1}])
    flaw("part without numbers", "row 3: the part begins at -1 s, before", early, {"kind": "text"}, root, 2)


def test_numbers_of_tables_need_to_be_explained(tmp_path, root, table):
    path = write_table(tmp_path / "t.csv", [{**row, "emotion": i % 2} for i, row in enumerate(table)])
    assert "--label_order" in message(read_recordings, path, Reading(), root)
    read = read_recordings(path, Reading(classes=EMOTIONS, label_order=("sad", "angry")), root)
    assert read.names == ("anger", "sadness") and classes(read) == ["sadness", "anger"] * 2
    own = read_recordings(path, Reading(label_order=("yes", "no")), root)
    assert own.names == ("yes", "no") and own.labels.tolist() == [0, 1, 0, 1]
    path = write_table(tmp_path / "two.csv", [{**row, "emotion": i % 3} for i, row in enumerate(table)])
    flaw("unknown label", "row 3: the label is the number 2", path, {"label_order": ("yes", "no")}, root, 3)


@pytest.mark.parametrize(
    "kind, change, reason, sentence",
    [
        ("text", {"sentence": "  "}, "empty transcript", "row 2: the transcript is empty"),
        ("text", {"sentence": "\ud800"}, "transcript is not Unicode", "row 2: the transcript has half a surrogate"),
        ("label", {"emotion": None}, "no label", "row 2: the label is empty"),
        ("label", {"emotion": "-"}, "no label", "row 2: the label is empty"),
        ("label", {"emotion": "bored"}, "unknown label", "row 2: the label 'bored' is not among the classes 'ha"),
        ("label", {"path": "clips/7.wav"}, "missing file", "row 2: there is no file "),
        ("label", {"path": ""}, "no audio", "row 2: the cell 'path' is empty"),
        ("label", {"split": "extra"}, "unknown split", "row 2: the split 'extra' is none of 'train'"),
        ("label", {"id": "i0"}, "id is there twice", "row 2: the id 'i0' is that of "),
        ("label", {"path": "text.wav"}, "cannot be decoded", "text.wav"),
    ],
)
def test_bad_rows_stop_the_run_or_are_counted(tmp_path, root, table, kind, change, reason, sentence):
    (tmp_path / "text.wav").write_text("this is no sound")
    rows = [{**row, "id": f"i{i}"} for i, row in enumerate(table)]
    rows[1] |= change
    path = write_table(tmp_path / "t.json", rows)
    classes_known = {"happiness": ("happy",), "sadness": ("sad",)}
    reading = {"kind": kind, "classes": classes_known if kind == "label" else {}}
    rest = flaw(reason, sentence, path, reading, root, 3)
    assert rest.ids == ["i0", "i2", "i3"] and rest.speakers == ["s0", "s1", "s1"]
    assert rest.texts == [f"sentence {i}" for i in (0, 2, 3)] and rest.seconds == pytest.approx([0.1, 0.3, 0.4])
    if kind == "label":
        assert classes(rest) == ["sadness", "sadness", "happiness"]


def test_sources_with_nothing_to_read(tmp_path, root, table):
    (tmp_path / "t.txt").write_text("x")
    for path, words in (
        (tmp_path / "none", "none: no such file"),
        (tmp_path / "t.txt", "cannot read '.txt'"),
        (tmp_path / "empty", "has no clip; sound ends with"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert words in message(read_recordings, path, Reading(), root)
    for kind, column in (("label", "emotion"), ("text", "sentence")):
        path = write_table(tmp_path / f"{kind}.csv", [{**row, column: ""} for row in table])
        assert "hidden test set" in message(read_recordings, path, Reading(kind=kind), root)
        hidden = read_recordings(path, Reading(kind=kind, truth=None, names=("a", "b")), root)
        assert hidden.labels is None and hidden.names == ("a", "b") and len(hidden) == 4
    path = write_table(tmp_path / "all_bad.json", [{**row, "path": "x.wav"} for row in table])
    assert "no usable recording ({'missing file': 4}); the first: " in message(
        read_recordings, path, Reading(skip_bad=True), root
    )
    (tmp_path / "bad.json.gz").write_bytes(b"no gzip")
    assert "not a readable gzip file" in message(read_recordings, tmp_path / "bad.json.gz", Reading(), root)


# Rows of a hub


def hub_dataset(tmp_path: Path, names=("no", "yes")):
    """A data set on disk as the hub's: sound as bytes, classes as positions."""
    import datasets

    rows = {
        "file": [f"/cache/{i}a_nohash_0.wav" for i in range(4)],
        "audio": [
            {"bytes": clip(tmp_path / f"{i}.wav", 0.1 * (i + 1), i).read_bytes(), "path": f"{i}a_nohash_0.wav"}
            for i in range(4)
        ],
        "label": [1, 0, 1, -1],
    }
    features = datasets.Features(
        {
            "file": datasets.Value("string"),
            "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "label": datasets.ClassLabel(names=list(names)),
        }
    )
    made = datasets.Dataset.from_dict(rows, features=features)
    made.save_to_disk(str(tmp_path / "saved"))
    return datasets.load_from_disk(str(tmp_path / "saved")), rows


@pytest.mark.parametrize("as_audio", [True, False])
def test_hub_rows_stay_where_they_are(tmp_path, as_audio):
    import datasets

    dataset, rows = hub_dataset(tmp_path)
    dataset = dataset.cast_column("audio", datasets.Audio(decode=as_audio)) if as_audio else dataset
    read = recordings_of_rows(dataset, "some/set", Reading(skip_bad=True))
    assert classes(read) == ["yes", "no", "yes"] and read.names == ("no", "yes") and read.skipped == {"no label": 1}
    assert read.left_out == [("3a_nohash_0.wav", "some/set: row 4: the label is empty")]
    assert read.seconds == pytest.approx([0.1, 0.2, 0.3]) and read.speakers == ["0a", "1a", "2a"]
    assert isinstance(read.audio, HubAudio) and [read.audio[i] for i in range(3)] == rows["audio"][:3]
    some = read.take(np.array([2, 2, 0]))
    assert [clip["bytes"] for clip in some.audio] == [rows["audio"][i]["bytes"] for i in (2, 2, 0)]
    sent = pickle.loads(pickle.dumps(some))
    assert list(sent.audio) == list(some.audio) and len(pickle.dumps(read)) < 10_000

    class Untouched:
        def __getitem__(self, row):
            raise AssertionError("fetched")

    read.audio.dataset = Untouched()
    assert len(read.take(np.array([1])).audio) == 1
    assert classes(recordings_of_rows(dataset.select([2, 0]), "s", Reading(names=("yes", "no")))) == ["yes", "yes"]


def test_hub_digits_are_names(tmp_path):
    dataset, _ = hub_dataset(tmp_path, names=("7", "3"))
    read = recordings_of_rows(dataset.select(range(3)), "digits", Reading())
    assert read.names == ("7", "3") and classes(read) == ["3", "7", "3"]


def test_parquet_with_sound(tmp_path, root):
    dataset, rows = hub_dataset(tmp_path)
    dataset.select(range(3)).to_parquet(str(tmp_path / "t.parquet"))
    read = read_recordings(tmp_path / "t.parquet", Reading(), root)
    assert isinstance(read.audio, HubAudio) and list(read.audio) == rows["audio"][:3]
    assert classes(read) == ["yes", "no", "yes"] and read.ids == [f"{i}a_nohash_0.wav" for i in range(3)]


def test_arrays_in_rows():
    rows = [{"audio": {"array": [0.5] * n, "sampling_rate": 8000}, "label": "x", "id": n} for n in (4000, 8000)]
    read = recordings_of_rows(rows, "rows", Reading())
    assert read.seconds.tolist() == [0.5, 1.0] and read.ids == ["4000", "8000"] and read.audio[0] is rows[0]["audio"]


# Sound


def test_checked_listens_once_to_every_clip(tmp_path, root, table, monkeypatch):
    import common.legacy.recordings

    rows = [{**row, "start": begin, "end": begin + 0.05} for row in table for begin in (0.0, 0.05)]
    read = read_recordings(write_table(tmp_path / "t.json", rows), Reading(), root)
    heard = []

    def counted(audio, names, *arguments, **settings):
        heard.append(names)
        return examine(audio, names, *arguments, **settings)

    examine = common.recordings.examine
    monkeypatch.setattr(common.legacy.recordings, "examine", counted)
    assert read.digests is None
    checked = read.checked(root, skip_bad=False, workers=1, progress=None)
    assert heard == [[str(tmp_path / row["path"]) for row in table]]
    assert checked.ids == read.ids and checked.ends.tolist() == read.ends.tolist()
    assert checked.digests[::2] == checked.digests[1::2] and len(set(checked.digests)) == 4
    assert checked.take(np.array([7])).digests == checked.digests[7:]


def test_silence_and_broken_sound(tmp_path, root):
    for label in ("_silence_", "yes"):
        clip(tmp_path / label / "good.wav")
        soundfile.write(tmp_path / label / "zeros.wav", np.zeros(RATE), RATE)
    listening = {"workers": 1, "progress": None}
    read = read_recordings(tmp_path, Reading(), root)
    assert len(read) == 4
    sentence = message(read.checked, root, skip_bad=False, silent_ok=("_silence_",), **listening)
    assert str(tmp_path / "yes/zeros.wav") in sentence and sentence.endswith("--on_bad_example skip")
    ok = read.checked(root, skip_bad=True, silent_ok=("_silence_",), **listening)
    assert ok.ids == ["_silence_/good.wav", "_silence_/zeros.wav", "yes/good.wav"] and ok.skipped == {"silent": 1}
    assert read.checked(root, skip_bad=True, **listening).skipped == {"silent": 2}
    unknown = read_recordings(tmp_path, Reading(truth=False), root)
    assert len(unknown.checked(root, skip_bad=False, silent_ok=("_silence_",), **listening)) == 4
    good = (tmp_path / "yes/good.wav").read_bytes()
    (tmp_path / "yes/zeros.wav").unlink()
    clip(tmp_path / "yes/broken.flac", 2.0)
    whole = (tmp_path / "yes/broken.flac").read_bytes()
    (tmp_path / "yes/broken.flac").write_bytes(whole[: len(whole) // 2])
    broken = read_recordings(tmp_path, Reading(skip_bad=True), root)
    broken = broken.checked(root, skip_bad=True, silent_ok=("_silence_",), **listening)
    assert broken.ids == ok.ids and len(broken.left_out) == 1 and broken.left_out[0][0] == "yes/broken.flac"
    assert (tmp_path / "yes/good.wav").read_bytes() == good


# The rest


def test_taking_and_relabelling(tmp_path, root, table):
    read = read_recordings(write_table(tmp_path / "t.csv", table), Reading(), root)
    chosen = np.array([3, 0, 0])
    some, rows = read.take(chosen), list(read.rows())
    assert list(some.rows()) == [rows[i] for i in chosen] and len(some) == 3
    assert some.columns == {"gender": ["F", "M", "M"]} and some.splits == ["test", "train", "train"]
    assert some.utterances == some.ids and some.seconds.tolist() == read.seconds[chosen].tolist()
    turned = read.relabelled(("happy", "angry", "sad"))
    assert classes(turned) == classes(read) and turned.label_counts() == {"happy": 2, "angry": 0, "sad": 2}
    assert "the classes 'happy' are not among 'sad'" in message(read.relabelled, ("sad",))


def test_what_is_said_of_splits(tmp_path, root, table):
    clip(tmp_path / "clips" / "3.wav", 0.1, seed=0)  # the sound of the first one
    read = read_recordings(write_table(tmp_path / "t.csv", table), Reading(), root)
    read = read.checked(root, skip_bad=False, workers=1, progress=None)
    splits = {"train": read.take(np.array([0, 1, 1])), "test": read.take(np.array([1, 2, 3]))}
    selection = {"train": (4, "some"), "test": (3, "all 3")}
    described = describe_splits(splits, selection, {"train": {"copies": 1}, "test": {}})
    train = described["splits"]["train"]
    assert train["examples"] == 3 and train["available"] == 4 and train["label_counts"] == {"happy": 2, "sad": 1}
    assert train["statistics"] == pytest.approx(
        {"speakers": 1, "hours": 0.0001, "longest": 0.2, "shortest": 0.1, "copies": 1}
    )
    assert described["overlaps"] == [
        {"between": ["train", "test"], "key": key, "examples": count, "share": pytest.approx(count / 3)}
        for key, count in (("speaker", 1), ("utterance", 1), ("clip", 2))
    ]
    assert json.loads(json.dumps(described)) and re.fullmatch("[0-9a-f]{64}", train["fingerprint"])
    later = read.take(np.array([0]))
    later.begins, later.ids, later.utterances, later.speakers = later.begins + 0.05, ["x"], ["x"], [""]
    apart = describe_splits({"train": splits["train"], "test": later}, selection, {"train": {}, "test": {}})
    assert apart["overlaps"] == [], "another part of the same file"
    for split in splits.values():
        split.speakers, split.digests = None, None
    keys = [found["key"] for found in describe_splits(splits, selection, {"train": {}, "test": {}})["overlaps"]]
    assert keys == ["utterance"], "nobody is nobody else"
