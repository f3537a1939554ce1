import csv
import json
import os
import zipfile

import datasets
import pandas as pd
import pytest
import soundfile

from common.speech.audio import load_clip
from common.speech.tables import located
from tests.helpers import message
from tests.speech.clips import labels_of, load, run, sound, write

TEXTS = {"a.wav": 'he said "no', "b.wav": "yes, sir", "c.wav": "where?"}


def table(path, rows: list[dict], delimiter: str = ","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
        writer = csv.DictWriter(
            file, list(rows[0]), delimiter=delimiter, quoting=quoting, quotechar=None if delimiter == "\t" else '"'
        )
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows_of(splits, name: str = "train") -> dict[str, tuple]:
    return {os.path.basename(row["path"]): (row["text"], row["speaker"]) for row in splits[name]}


def text(path, **options):
    return load(kind="text", phases="train", train_file=[str(path)], **options)


@pytest.fixture
def clips(tmp_path):
    for name in TEXTS:
        write(tmp_path / "clips" / name)
    return tmp_path


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet", "csv.gz"])
def test_every_format_of_table(clips, ending):
    rows = [{"path": f"clips/{name}", "sentence": said, "client_id": name[0] * 3} for name, said in TEXTS.items()]
    path = clips / f"table.{ending}"
    if ending in ("csv", "tsv"):
        table(path, rows, "\t" if ending == "tsv" else ",")
    elif ending == "csv.gz":
        pd.DataFrame(rows).to_csv(path, index=False)
    elif ending == "parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        pd.DataFrame(rows).to_json(path, orient="records", lines=ending == "jsonl")
    assert rows_of(text(path)) == {name: (said, name[0] * 3) for name, said in TEXTS.items()}


def test_columns_as_given(clips):
    rows = [{"wo": f"clips/{name}", "was": said, "text": "no", "wer": "x"} for name, said in TEXTS.items()]
    path = table(clips / "table.csv", rows)
    sentence = message(text, path)
    assert "no column for the path; it has wo, was, text, wer" in sentence and "--audio_column" in sentence
    found = text(path, audio_column="wo", text_column="was", speaker_column="wer")
    assert rows_of(found) == {name: (said, "x") for name, said in TEXTS.items()}
    assert "no column 'wob'" in message(text, path, audio_column="wob")
    assert "no column for the label" in message(load, train_file=[str(path)], phases="train", audio_column="wo")


def test_several_tables_and_one_for_each_split(clips):
    rows = [{"path": f"clips/{name}", "text": said} for name, said in TEXTS.items()]
    first, second, third = (table(clips / f"{i}.csv", [row]) for i, row in enumerate(rows))
    files = {"train_file": [str(first), str(second)], "validation_file": [str(third)]}
    splits = load(kind="text", phases="train validation", **files)
    assert {n: list(rows_of(splits, n)) for n in splits} == {"train": ["a.wav", "b.wav"], "validation": ["c.wav"]}
    globbed = text(clips / "[01].csv")
    assert list(rows_of(globbed)) == ["a.wav", "b.wav"]
    assert "there is no validation data" in message(load, kind="text", train_file=[str(first)])


@pytest.mark.parametrize(
    "cell",
    [
        "clips/a.wav",
        "clips\\a.wav",
        "clips/a",
        "a",
        "a.WAV",
        "clips/a.mp3",
        "{folder}/clips/a.wav",
        "clips/A.Wav",
    ],
)
def test_paths_as_people_write_them(clips, cell):
    (place,) = located([cell.format(folder=clips)], [clips])
    assert os.path.samefile(place, clips / "clips/a.wav")


def test_letters_that_another_system_composes_otherwise(clips):
    (clips / "clips" / "e\u0301.wav").touch()  # as macOS writes it
    (place,) = located(["clips/\u00e9.wav"], [clips])
    assert place == str(clips / "clips" / "e\u0301.wav")


def test_where_clips_of_tables_are(clips, monkeypatch):
    (clips / "meta").mkdir()
    monkeypatch.chdir(clips.parent)
    found = located([f"{clips.name}/clips/a.wav", "a.wav", "gone.wav"], [clips, clips / "meta", clips])
    assert [os.path.relpath(one, clips) for one in found] == ["clips/a.wav", "clips/a.wav", "gone.wav"]
    assert "x" * 300 in located(["x" * 300], [clips])[0]


def test_rows_without_a_clip_are_counted(clips):
    rows = [{"path": path, "text": "x"} for path in ("clips/a.wav", "clips/gone.wav", "", "clips/b.wav")]
    path = table(clips / "table.csv", rows)
    sentence = message(text, path)
    assert (
        f"{path}, row 2: {clips}/clips/gone.wav: no such file (2 clips are unusable: 1 no such file, 1 no audio)"
        in sentence
    ), sentence
    found = text(path, on_bad_example="skip")
    assert found.facts["train"]["skipped"] == {"no such file": 1, "no audio": 1}
    assert found.facts["train"]["examples"] == 2


def test_empty_transcripts_are_bad_where_there_is_truth(clips):
    rows = [{"path": f"clips/{name}", "text": said} for name, said in zip(TEXTS, ("x", "\u200b", ""))]
    path = table(clips / "table.csv", rows)
    assert "table.csv, row 2: nothing in the transcript is spoken" in message(text, path)
    found = text(path, on_bad_example="skip")
    assert found["train"]["text"][:] == ["x"] and found.facts["train"]["skipped"] == {"empty transcript": 2}


def test_two_transcripts_and_the_same_row_twice(clips):
    said = [("a", "one"), ("a", "two"), ("b", "three"), ("b", "three")]
    path = table(clips / "table.csv", [{"path": f"clips/{name}.wav", "text": text} for name, text in said])
    heard = run()
    found = text(path, listener=heard)
    assert found.facts["train"]["skipped"] == {"row is there twice": 1} and len(found["train"]) == 3
    sentence = "1 clips are there more than once, with different labels or transcripts, such as"
    assert f"{sentence} {path}, row 1" in heard.warnings
    path = table(clips / "labels.csv", [{"path": f"clips/{c}.wav", "label": said} for c, said in ("ax", "ay", "bx")])
    heard = run()
    load(heard, phases="train", train_file=[str(path)])
    assert f"{sentence} {path}, row 1" in heard.warnings


def test_parts_of_long_files(tmp_path):
    samples = sound(10.0)
    soundfile.write(tmp_path / "talk.wav", samples, 16_000)
    parts = [("0.5", "2.25", "one"), ("2.0", "4.0", "two"), ("9.5", "10.02", "end")]
    rows = [{"audio": "talk.wav", "start": a, "end": b, "text": said} for a, b, said in parts]
    found = text(table(tmp_path / "stm.csv", rows))
    loaded = list(found["train"])
    assert [(row["start"], row["seconds"], row["text"]) for row in loaded] == [
        (0.5, 1.75, "one"),
        (2.0, 2.0, "two"),
        (9.5, 0.5, "end"),
    ]
    assert (load_clip(loaded[0]) == soundfile.read(tmp_path / "talk.wav", dtype="float32")[0][8_000:36_000]).all()
    hours = (4.0 - 0.5 + 0.5) / 3600  # where parts overlap, they count once
    assert found.facts["train"]["statistics"]["hours"] == pytest.approx(hours, abs=1e-4)
    for start, end, words in (
        ("10.5", "11", "part ends after"),
        ("3", "2", "the end after"),
        ("x", "2", "seconds"),
        ("1", "x", "seconds"),
    ):
        broken = table(tmp_path / "bad.csv", [*rows, {"audio": "talk.wav", "start": start, "end": end, "text": "x"}])
        assert words in message(text, broken) and "bad.csv, row 4" in message(text, broken)
    for row, part in (
        ({"offset": 1, "duration": 2.5}, (1.0, 3.5)),
        ({"offset": None, "duration": 2.5}, (0.0, 2.5)),
        ({"end": 2.5}, (0.0, 2.5)),
        ({"start": 2.5}, (2.5, None)),
        ({"start_ms": 1000, "end_ms": 3500}, (1.0, 3.5)),
        ({"Start_Sec": 1, "duration_ms": 500}, (1.0, 1.5)),
        ({"begin_time": 1, "end_time": 2}, (1.0, 2.0)),
        ({"tmin": 1, "tmax": 2}, (1.0, 2.0)),
        ({"onset": 1, "offset": 2}, (1.0, 2.0)),
    ):
        (tmp_path / "nemo.jsonl").write_text(json.dumps({"audio": "talk.wav", "text": "x", **row}))
        assert [(row["start"], row["end"]) for row in text(tmp_path / "nemo.jsonl")["train"]] == [part]


def test_times_of_what_clips_were_cut_from(clips):
    """Rows of AMI and GigaSpeech have sound of their own, and where in the meeting it was; in a table that is said."""
    sound = {"bytes": write(clips / "a.wav", 3.0).read_bytes(), "path": "a.wav"}
    rows = [{"audio": sound, "text": "x", "begin_time": 60.0 + i, "end_time": 63.0 + i} for i in range(2)]
    datasets.Dataset.from_list(rows).to_parquet(clips / "ami.parquet")
    heard = run()
    found = text(clips / "ami.parquet", listener=heard)["train"]
    assert found["seconds"][:] == [3.0] * 2 and found["end"][:] == [None] * 2
    assert [words for words in heard.warnings if words.startswith("times are not used")]
    rows = [{"audio": sound, "text": "x", "begin_time": i, "end_time": i + 1.5} for i in range(3)]
    datasets.Dataset.from_list(rows).to_parquet(clips / "parts.parquet")
    assert "row 3: its part ends after the clip" in message(text, clips / "parts.parquet"), "one alone is a mistake"
    path = table(clips / "t.csv", [{"path": "a.wav", "text": "x", "start": 60, "end": 63}])
    assert "at 3.00 s; if these are times of what it was cut from, remove their columns" in message(text, path)


def test_a_duration_without_a_start_is_only_the_length(clips):
    rows = [{"path": f"clips/{name}", "text": said, "duration": 99.0} for name, said in TEXTS.items()]
    assert text(table(clips / "table.csv", rows))["train"]["end"][:] == [None] * 3


@pytest.mark.parametrize("column", ["split", "SET"])
def test_a_column_of_splits(tmp_path, column):
    rows = []
    for i, split in enumerate(("train", "train", "dev", "test-other")):
        write(tmp_path / f"{i}.wav")
        rows.append({"path": f"{i}.wav", "label": "yn"[i % 2], column: split})
    path = table(tmp_path / "table.csv", rows)
    splits = load(data_dir=path)
    found = {name: [*labels_of(split).values()] for name, split in splits.items()}
    assert found == {"train": ["y", "n"], "validation": ["y"], "test": ["n"]}
    table(path, [*rows, {**rows[0], column: "spare"}])
    assert "row 5: the split 'spare' is none of train" in message(load, data_dir=path)


def test_numbers_of_tables_need_to_be_explained(clips):
    rows = [{"path": f"clips/{name}", "label": i % 2} for i, name in enumerate(TEXTS)]
    path, options = table(clips / "table.csv", rows), {"phases": "train"}
    assert "table.csv, row 1: the label is the number 0" in message(load, train_file=[str(path)], **options)
    found = load(train_file=[str(path)], label_order="no,yes", **options)["train"]
    assert labels_of(found) == {"clips/a.wav": "no", "clips/b.wav": "yes", "clips/c.wav": "no"}


@pytest.mark.parametrize("header", [None, "id|text|normalized"])
@pytest.mark.parametrize("cell", ["LJ001-{}", "wavs/LJ001-{}.wav"])
def test_lj_speech(tmp_path, header, cell):
    lines = [header] if header else []
    for number, texts in enumerate(["In 1465|In fourteen sixty-five", 'a "quote|', "plain"]):
        write(tmp_path / "wavs" / f"LJ001-{number}.wav")
        lines.append(f"{cell.format(number)}|{texts}")
    write(tmp_path / "wavs/LJ001-9.wav")
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    expected = {"LJ001-0": "In fourteen sixty-five", "LJ001-1": 'a "quote', "LJ001-2": "plain"}
    for source in (tmp_path, tmp_path / "metadata.csv"):
        heard = run()
        found = text(source, listener=heard)["train"]
        assert dict(zip(found["id"][:], found["text"][:])) == expected
        unused = [sentence for sentence in heard.warnings if "1 clips beside it have no row" in sentence]
        assert len(unused) == (source == tmp_path)


def test_several_folders_like_lj_speechs(tmp_path):
    for reader in ("anna", "ben"):
        for number in range(2):
            write(tmp_path / reader / "wavs" / f"{reader}_{number}.wav")
        lines = [f"{reader}_{number}|No. {number}|number {number}\n" for number in range(2)]
        (tmp_path / reader / "metadata.csv").write_text("".join(["id|text|normalised\n", *lines]), "utf-8-sig")
    tables = [str(tmp_path / reader / "metadata.csv") for reader in ("anna", "ben")]
    expected = {f"{reader}_{n}": f"number {n}" for reader in ("anna", "ben") for n in range(2)}
    for source in ([str(tmp_path)], tables):
        found = load(kind="text", phases="train", train_file=source)["train"]
        assert dict(zip(found["id"][:], found["text"][:])) == expected


@pytest.mark.parametrize("columns", ["audio|text|speaker", "text|audio|speaker", "speaker|text|wav_filename"])
def test_a_table_with_bars_and_named_columns_is_not_taken_for_lj_speech(tmp_path, columns):
    cells = dict(zip(("audio", "wav_filename", "text", "speaker"), ("a.wav", "a.wav", "first words", "s1")))
    write(tmp_path / "a.wav")
    (tmp_path / "clips.csv").write_text(f"{columns}\n{'|'.join(map(cells.get, columns.split('|')))}\n")
    found = text(tmp_path / "clips.csv")["train"]
    assert found["text"][:] == ["first words"] and found["speaker"][:] == ["s1"]


def common_voice(folder, names=("train", "dev", "test", "validated", "other")):
    for i, name in enumerate(names):
        rows = []
        for speaker in range(2 if "train" in names else 5):
            write(folder / "clips" / f"cv_{i}_{speaker}.mp3", 0.5)
            rows.append({"client_id": f"{name}{speaker}", "path": f"cv_{i}_{speaker}.mp3", "sentence": f'«{name}» "x'})
            rows[-1] |= {"up_votes": "2", "gender": "male_masculine" if speaker else "female_feminine"}
        table(folder / f"{name}.tsv", rows, "\t")


def test_common_voice_as_published(tmp_path):
    common_voice(tmp_path / "cv-corpus-1/xx")
    write(tmp_path / "cv-corpus-1/xx/clips/nobody.mp3", 0.5)
    heard = run()
    splits = load(heard, kind="text", data_dir=tmp_path)
    assert {name: split["speaker"][:] for name, split in splits.items()} == {
        "train": ["train0", "train1"],
        "validation": ["dev0", "dev1"],
        "test": ["test0", "test1"],
    }
    assert splits["train"]["text"][:] == ['«train» "x'] * 2 and splits["train"]["gender"][:] == ["female", "male"]
    assert heard.notes == ["split as the data say"]
    assert [sentence for sentence in heard.warnings if "5 clips beside it have no row" in sentence]
    files = {"train_file": [str(tmp_path / "cv-corpus-1/xx/other.tsv")]}
    assert load(kind="text", phases="train", **files)["train"]["speaker"][:] == ["other0", "other1"]


@pytest.mark.parametrize("kind", ["label", "text"])
def test_a_list_is_no_truth(clips, kind):
    rows = [{"path": f"clips/{name}", kind: said if name == "a.wav" else [said]} for name, said in TEXTS.items()]
    pd.DataFrame(rows).to_json(clips / "t.jsonl", orient="records", lines=True)
    sentence = message(load, kind=kind, phases="train", train_file=[str(clips / "t.jsonl")])
    assert f"t.jsonl, row 2: the {kind} must be one text, not ['yes, sir']" in sentence


@pytest.mark.parametrize("said, meant", [("male", "male"), ("F", "female"), ("Female", "female"), ("mujer", "mujer")])
def test_what_tables_say_of_a_gender(clips, said, meant):
    rows = [{"path": f"clips/{name}", "text": "x", "gender": said * (name == "a.wav")} for name in TEXTS]
    assert text(table(clips / "table.csv", rows))["train"]["gender"][:] == [meant, None, None]


@pytest.mark.parametrize("cell", [["a.wav"], {"array": [0.0] * 9999}])
def test_what_is_no_path(clips, cell):
    (clips / "t.jsonl").write_text(json.dumps({"audio": cell, "text": "x"}))
    sentence = message(text, clips / "t.jsonl")
    assert "t.jsonl, row 1: the path must be one text, not" in sentence and len(sentence) < 300
    pd.DataFrame({"audio": [b"RIFF" * 9999], "text": ["x"]}).to_parquet(clips / "t.parquet")
    assert "the path must be one text, not b'RIFF" in message(text, clips / "t.parquet")


def test_rows_that_name_files_that_are_not_there(clips):
    sound = {"bytes": None, "path": "elsewhere/a.wav"}
    datasets.Dataset.from_dict({"audio": [sound], "text": ["x"]}).to_parquet(clips / "t.parquet")
    assert f"{clips}/t.parquet, row 1: elsewhere/a.wav: no such file" in message(text, clips / "t.parquet")


def test_rows_without_sound(clips):
    sound = {"bytes": (clips / "clips/a.wav").read_bytes()}
    for empty in (None, {"bytes": b""}):
        dataset = datasets.Dataset.from_dict({"audio": [empty, sound], "text": ["x", "y"]})
        dataset.to_parquet(clips / "t.parquet")
        assert "t.parquet, row 1: " in (sentence := message(text, clips / "t.parquet"))
        assert "its row has no sound" in sentence
        found = text(clips / "t.parquet", on_bad_example="skip")
        assert found["train"]["text"][:] == ["y"] and found.facts["train"]["skipped"] == {"no audio": 1}


def test_common_voice_with_its_validated_clips_alone(tmp_path):
    common_voice(tmp_path, ("validated", "other"))
    splits = load(kind="text", data_dir=tmp_path, phases="train", split="random")
    assert splits["train"]["speaker"][0].startswith("validated")


def test_one_table_over_folders_of_splits(tmp_path):
    rows = [{"file_name": f"{split}/{i}.wav", "text": "x"} for split in ("train", "dev", "test") for i in range(2)]
    for row in rows[1:]:
        write(tmp_path / row["file_name"])
    path = table(tmp_path / "metadata.csv", rows)
    splits = load(kind="text", data_dir=tmp_path, on_bad_example="skip")
    expected = {
        "train": ["train/1.wav"],
        "validation": ["dev/0.wav", "dev/1.wav"],
        "test": ["test/0.wav", "test/1.wav"],
    }
    assert {name: split["id"][:] for name, split in splits.items()} == expected
    write(tmp_path / "more.wav")
    table(path, [*rows[1:], {"file_name": "more.wav", "text": "x"}])
    heard = run()
    load(heard, kind="text", data_dir=tmp_path)
    assert heard.notes == ["split at random (split_seed 42)"]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_audio_folder_with_metadata(tmp_path, ending):
    for split in ("train", "dev", "test"):
        rows = []
        for name in ("a", "b", "c"):
            write(tmp_path / split / f"{name}.wav")
            rows.append({"file_name": f"{name}.wav", "label": "x" if name == "a" else "y"})
        if ending == "csv":
            table(tmp_path / split / "metadata.csv", rows[:2])
        else:
            pd.DataFrame(rows[:2]).to_parquet(tmp_path / split / "metadata.parquet")
    heard = run()
    splits = load(heard, data_dir=tmp_path)
    assert {name: sorted(labels_of(split).values()) for name, split in splits.items()} == {
        "train": ["x", "y"],
        "validation": ["x", "y"],
        "test": ["x", "y"],
    }
    assert any("3 clips beside it have no row" in sentence for sentence in heard.warnings)


@pytest.mark.parametrize(
    "split, expected", [("train[1:]", "bc"), ("train[:1]+test[2:]", "ac"), ("train+test", "abcabc")]
)
def test_slices_of_splits(clips, split, expected):
    contents = [{"bytes": (clips / "clips" / name).read_bytes(), "path": name} for name in TEXTS]
    for name in ("train", "test"):
        datasets.Dataset.from_dict({"audio": contents, "text": [*TEXTS.values()]}).to_parquet(
            clips / f"hub/{name}.parquet"
        )
    found = load(kind="text", phases="train", dataset=str(clips / "hub"), train_split_name=split)["train"]
    assert found["text"][:] == [TEXTS[f"{letter}.wav"] for letter in expected]
    for row, letter in zip(found, expected):
        assert (load_clip(row) == soundfile.read(clips / f"clips/{letter}.wav", dtype="float32")[0]).all()


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("from_file", [True, False])
def test_sound_in_the_data_set_stays_where_it_is(clips, typed, from_file):
    contents = [{"bytes": (clips / "clips" / name).read_bytes(), "path": name} for name in TEXTS]
    features = datasets.Features({"audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    features["label"] = datasets.ClassLabel(names=["zulu", "alpha"])
    rows = {"audio": contents, "label": [1, 0, 1], "speaker_id": [7, 8, 7]}
    features["speaker_id"] = datasets.Value("int64")
    (clips / "hub").mkdir()
    dataset = datasets.Dataset.from_dict(rows, features=features)
    dataset = dataset.cast_column("audio", datasets.Audio()) if typed else dataset
    dataset.to_parquet(clips / "hub/train.parquet")
    source = {"train_file": [str(clips / "hub/train.parquet")]} if from_file else {"dataset": str(clips / "hub")}
    found = load(phases="train", **source)["train"]
    assert [*labels_of(found).values()] == ["alpha", "zulu", "alpha"] and found["speaker"][:] == ["7", "8", "7"]
    assert "audio" not in found.column_names
    for row, name in zip(found, TEXTS):
        assert (load_clip(row) == soundfile.read(clips / "clips" / name, dtype="float32")[0]).all()


def test_a_zipped_table_is_no_folder(clips):
    path = table(clips / "table.csv", [{"path": str(clips / "clips" / n), "text": t} for n, t in TEXTS.items()])
    with zipfile.ZipFile(clips / "table.zip", "w") as file:
        file.write(path, "table.csv")
    assert len(text(clips / "table.zip")["train"]) == 3
