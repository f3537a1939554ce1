import itertools
import os
import re
import shutil
import zipfile
from collections import Counter
from functools import partial

import pytest

from common.speech.corpora import EMOTIONS
from common.speech.names import CORPORA, name_pattern
from run_keyword import task_classes
from tests.helpers import message
from tests.speech.clips import labels_of, load, run, write

# What each corpus' own description says of such a name: class, speaker, gender.
NAMES = {
    "shemo": {
        "M05N01.wav": ("neutral", "M05", "male"),
        "F21A12.wav": ("anger", "F21", "female"),
        "F03F02.wav": ("fear", "F03", "female"),
        "M11W10.wav": ("surprise", "M11", "male"),
        "F01H01.wav": ("happiness", "F01", "female"),
        "M44S03.wav": ("sadness", "M44", "male"),
    },
    "emodb": {
        "03a01Fa.wav": ("happiness", "03", "male"),
        "03a01Wa.wav": ("anger", "03", "male"),
        "08b02Aa.wav": ("fear", "08", "female"),
        "11a05Ld.wav": ("boredom", "11", "male"),
        "13b10Ec.wav": ("disgust", "13", "female"),
        "16a07Td.wav": ("sadness", "16", "female"),
        "15a04Nc.wav": ("neutral", "15", "male"),
    },
    "ravdess": {
        "03-01-01-01-01-01-01.wav": ("neutral", "01", "male"),
        "03-01-02-01-01-02-02.wav": ("calm", "02", "female"),
        "03-01-03-02-02-01-03.wav": ("happiness", "03", "male"),
        "03-01-04-01-02-01-04.wav": ("sadness", "04", "female"),
        "03-01-05-01-02-01-05.wav": ("anger", "05", "male"),
        "03-01-06-01-02-02-12.wav": ("fear", "12", "female"),
        "03-02-07-01-02-01-23.wav": ("disgust", "23", "male"),
        "03-01-08-01-02-01-24.wav": ("surprise", "24", "female"),
    },
    "cremad": {
        "1001_DFA_ANG_XX.wav": ("anger", "1001", None),
        "1012_IEO_DIS_HI.wav": ("disgust", "1012", None),
        "1091_WSI_FEA_XX.wav": ("fear", "1091", None),
        "1040_ITH_HAP_X.wav": ("happiness", "1040", None),
        "1040_TAI_NEU_XX.wav": ("neutral", "1040", None),
        "1002_IEO_SAD_LO.wav": ("sadness", "1002", None),
    },
    "savee": {
        "DC/a01.wav": ("anger", "DC", "male"),
        "DC/sa15.wav": ("sadness", "DC", "male"),
        "JE/su02.wav": ("surprise", "JE", "male"),
        "JK_d11.wav": ("disgust", "JK", "male"),
        "KL/f03.wav": ("fear", "KL", "male"),
        "KL/h03.wav": ("happiness", "KL", "male"),
        "KL/n30.wav": ("neutral", "KL", "male"),
    },
    "tess": {
        "OAF_angry/OAF_back_angry.wav": ("anger", "OA", "female"),
        "OAF_neutral/OA_bite_neutral.wav": ("neutral", "OA", "female"),
        "YAF_pleasant_surprised/YAF_bar_ps.wav": ("surprise", "YA", "female"),
        "YAF_sad/YAF_dog_sad.wav": ("sadness", "YA", "female"),
        "YAF_fear/YAF_dog_fear.wav": ("fear", "YA", "female"),
        "YAF_disgust/YAF_dog_disgust.wav": ("disgust", "YA", "female"),
        "YAF_happy/YAF_dog_happy.wav": ("happiness", "YA", "female"),
    },
    "urdu": {
        "Angry/SM1_F10_A010.wav": ("anger", "SM1", "male"),
        "Happy/SF3_F2_H07.wav": ("happiness", "SF3", "female"),
        "Neutral/SM27_F4_N054.wav": ("neutral", "SM27", "male"),
        "Sad/SM4_F33_S033.wav": ("sadness", "SM4", "male"),
    },
}


def train(folder, **options):
    """What is read of a folder, all of it for training."""
    return load(phases="train", train_file=[str(folder)], **options)["train"]


@pytest.mark.parametrize("corpus", NAMES)
def test_corpora_of_emotions(tmp_path, corpus):
    for name in NAMES[corpus]:
        write(tmp_path / name)
    heard = run()
    rows = train(tmp_path, listener=heard, classes=EMOTIONS)
    assert not heard.warnings
    said = labels_of(rows)
    found = {row["id"]: (said[row["id"]], row["speaker"], row["gender"]) for row in rows}
    assert found == NAMES[corpus]
    assert rows.features["labels"].names == sorted({label for label, *_ in found.values()})


def test_letters_apply_only_if_all_names_match_or_the_corpus_is_named(tmp_path):
    for name in (*NAMES["emodb"], "a_stranger.wav"):
        write(tmp_path / name)
    unnamed = {"classes": EMOTIONS}
    assert "nothing says the label of its clips; give a table that does, or folders by class" in message(
        train, tmp_path, **unnamed
    )
    assert "does not match --corpus emodb" in message(train, tmp_path, corpus="emodb", **unnamed)
    skipped = load(phases="train", train_file=[str(tmp_path)], corpus="emodb", on_bad_example="skip", **unnamed)
    assert skipped.facts["train"]["skipped"] == {"name does not match": 1} and len(skipped["train"]) == 7
    assert "no name matches --corpus shemo" in message(train, tmp_path, corpus="shemo", **unnamed)
    assert "choose one of shemo, emodb" in message(train, tmp_path, corpus="berlin", **unnamed)


def test_the_classes_of_a_table_say_more_than_names(tmp_path):
    rows = [f"{write(tmp_path / name)},{name[5]},{'PN'[name[5] == 'N']}" for name in NAMES["emodb"]]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["path,label,valence", *rows]))
    assert {*labels_of(train(table, classes=EMOTIONS)).values()} >= {"anger", "fear"}, "the corpus' own codes"
    found = train(table, classes=EMOTIONS, label_column="valence")
    assert sorted(labels_of(found).values()) == [*"NPPPPPP"] and {*found["speaker"][:]} >= {"03", "08"}
    table.write_text("path,label\n" + "".join(f"{row.split(',')[0]},{i % 2}\n" for i, row in enumerate(rows)))
    assert "the label is the number 0" in message(train, table, classes=EMOTIONS)
    assert {*labels_of(train(table, classes=EMOTIONS, corpus="emodb")).values()} >= {"anger", "fear"}


def test_folders_that_contradict_the_names(tmp_path):
    """A folder that is called by an emotion says more than letters that happen to look like a corpus."""
    for folder, name in (("happy", "DC_h01"), ("angry", "DC_a01"), ("sad", "JK_a02")):
        write(tmp_path / folder / f"{name}.wav")
    folders = {"happy/DC_h01.wav": "happiness", "angry/DC_a01.wav": "anger", "sad/JK_a02.wav": "sadness"}
    assert labels_of(train(tmp_path, classes=EMOTIONS)) == folders
    assert labels_of(train(tmp_path, classes=EMOTIONS, corpus="savee")) == folders


def test_iemocap_given_as_its_folder_of_sessions(tmp_path):
    lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    clips = {"Ses01F_impro01_F000": "neu", "Ses01F_impro01_M001": "fru", "Ses01F_impro01_F002": "xxx"}
    for name, code in clips.items():
        lines.append(f"[6.2901 - 8.2357]\t{name}\t{code}\t[2.5000, 2.5000, 2.5000]")
        lines.append("C-E2:\tNeutral;\t()")
        write(tmp_path / "Session1/sentences/wav/Ses01F_impro01" / f"{name}.wav")
    write(tmp_path / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M099.wav")
    write(tmp_path / "Session1/dialog/wav/Ses01F_impro01.wav", 2.0)
    table = tmp_path / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    table.parent.mkdir(parents=True)
    table.write_text("\n".join(lines))
    options = {"classes": EMOTIONS, "on_bad_example": "skip", "phases": "train"}
    splits = load(train_file=[str(tmp_path)], **options)
    rows = {row["id"]: (row["speaker"], row["gender"]) for row in splits["train"]}
    assert rows == {"Ses01F_impro01_F000": ("Ses01F", "female"), "Ses01F_impro01_M001": ("Ses01M", "male")}
    assert sorted(labels_of(splits["train"]).values()) == ["frustration", "neutral"]
    assert splits.facts["train"]["skipped"] == {"no label": 2}


@pytest.mark.parametrize(
    "paths, classes, speakers, words",
    [
        (["yes/a.wav", "no/b.wav"], "yes no", None, None),
        (["s01/yes/1.wav", "s01/no/1.wav", "s02/yes/1.wav", "s02/no/1.wav"], "yes no", "s01 s02", None),
        (["yes/s01/1.wav", "no/s01/1.wav", "yes/s02/1.wav"], "yes no", "s01 s02", "no, yes are taken for classes; if"),
        (["yes/anna/1.wav", "no/ben/1.wav", "no/anna/1.wav"], "anna ben", None, "anna, ben are taken for classes; if"),
        (["Actor_01/1.wav", "Actor_02/1.wav"], "Actor_01 Actor_02", None, "Actor_01, Actor_02 are taken for classes"),
        (["0/1.wav", "1/1.wav", "9/1.wav"], "0 1 9", None, None),
        (["train/yes/1.wav", "train/no/1.wav"], "yes no", None, None),
        (["YES/1.wav", "yes/2.wav", "yes/3.wav", "no/4.wav"], "yes no", None, None),
        (["yes/x.arrow#1.wav", "no/x.arrow#2#3.wav"], "yes no", None, None),
    ],
)
def test_classes_and_speakers_by_folder(tmp_path, paths, classes, speakers, words):
    for name in paths:
        write(tmp_path / "data" / name)
    heard = run()
    rows = train(tmp_path / "data", listener=heard)
    assert set(labels_of(rows).values()) == set(classes.split())
    assert {*rows["speaker"][:]} == ({None} if speakers is None else {*speakers.split()})
    assert [words in sentence for sentence in heard.warnings] == [True] * bool(words)


def test_known_classes_are_found_in_any_folder(tmp_path):
    for name in ("angry/anna/1.wav", "happy/ben/1.wav", "Happy/anna/2.wav"):
        write(tmp_path / name)
    heard = run()
    rows = train(tmp_path, listener=heard, classes=EMOTIONS)
    assert set(labels_of(rows).values()) == {"anger", "happiness"} and not heard.warnings


def test_a_pattern_says_what_folders_are(tmp_path):
    for name in ("yes/anna/1.wav", "no/ben/1.wav", "no/anna/1.wav"):
        write(tmp_path / name)
    heard = run()
    rows = train(tmp_path, listener=heard, name_pattern="{label}/{speaker}/{index}")
    assert labels_of(rows) == {"yes/anna/1.wav": "yes", "no/ben/1.wav": "no", "no/anna/1.wav": "no"}
    assert sorted(rows["speaker"][:]) == ["anna", "anna", "ben"] and not heard.warnings


def test_patterns():
    assert re.fullmatch(name_pattern("{label}_{speaker}_{index}"), "0_george_12")["speaker"] == "george"
    assert re.fullmatch(name_pattern(r"(?P<label>[a-z]+)\d"), "yes1")["label"] == "yes"
    for text in ("label_speaker", "(?P<label>"):
        assert "is no pattern that names a part" in message(name_pattern, text)


@pytest.mark.parametrize("part", ["session", "male", "reason", "problem", "start", "end", "path", "labels", "part"])
def test_a_pattern_may_call_parts_what_it_likes(tmp_path, part):
    for name in ("yes_a_1", "no_b_2"):
        write(tmp_path / f"{name}.wav")
    for ending in ("", ".wav"):
        rows = train(tmp_path, name_pattern=f"{{label}}_{{{part}}}_{{speaker}}{ending}")
        assert labels_of(rows) == {"no_b_2.wav": "no", "yes_a_1.wav": "yes"} and rows["speaker"][:] == ["2", "1"]
        assert rows["gender"][:] == [None, None] and rows["end"][:] == [None, None]


def test_a_pattern_that_says_the_split(tmp_path):
    for split in ("Train", "dev", "TEST"):
        for word in ("yes", "no"):
            write(tmp_path / split / word / "1.wav")
    options = {"data_dir": tmp_path, "name_pattern": "{split}/{label}/{index}"}
    splits = load(**options)
    assert {name: [*labels_of(split)] for name, split in splits.items()} == {
        part: [f"{split}/no/1.wav", f"{split}/yes/1.wav"]
        for part, split in (("train", "Train"), ("validation", "dev"), ("test", "TEST"))
    }
    write(tmp_path / "spare/yes/1.wav")
    assert "spare/yes/1.wav: the split 'spare' is none of train" in message(load, **options)
    assert "give one of them" in message(load, corpus="emodb", **options)


@pytest.mark.parametrize("name", ["eval", "evaluation"])
def test_evaluation_data_beside_development_data_are_for_testing(tmp_path, name):
    for split in ("train", "dev", name):
        for word in ("yes", "no"):
            write(tmp_path / split / word / "1.wav")
    splits = load(data_dir=tmp_path)
    assert splits["test"]["id"][:] == [f"{name}/no/1.wav", f"{name}/yes/1.wav"]
    (tmp_path / "dev").rename(tmp_path / "test")
    splits = load(data_dir=tmp_path)
    assert splits["validation"]["id"][:] == [f"{name}/no/1.wav", f"{name}/yes/1.wav"] and len(splits["test"]) == 2
    for flag in ("split_seed", "validation_share"):
        assert f"--{flag}: {tmp_path} has splits of its own; leave it out" in message(
            load, data_dir=tmp_path, **{flag: 0.2}
        )


def test_clips_beside_the_folders_of_splits(tmp_path):
    for split, word in itertools.product(("train", "dev"), ("yes", "no")):
        for i in range(5):
            write(tmp_path / split / word / f"{i}.wav")
    write(tmp_path / "extra" / "no" / "1.wav")
    heard = run()
    load(heard, data_dir=tmp_path)
    said = "folders are called by splits, but 1 clips are in none of them, the first extra/no/1.wav"
    assert any(said in warning for warning in heard.warnings)


def test_data_without_a_training_part_for_a_model_that_is_used(tmp_path):
    for split, word in itertools.product(("dev", "test"), ("yes", "no")):
        write(tmp_path / split / word / "1.wav")
    for phase, split in (("validation", "dev"), ("test", "test")):
        found = load(data_dir=tmp_path, phases=phase, names=("yes", "no"))[phase]
        assert found["id"][:] == [f"{split}/no/1.wav", f"{split}/yes/1.wav"]
    shutil.rmtree(tmp_path / "dev")
    assert "no recording is left for validation" in message(load, data_dir=tmp_path, phases="validation")
    (tmp_path / "test").rename(tmp_path / "dev")
    assert "no recording is left for test" in message(load, data_dir=tmp_path, phases="test")


@pytest.mark.parametrize("name", ["{split}/{word}/1.wav", "{word}/{split}/1.wav", "s{split}/{word}/{split}/1.wav"])
def test_folders_by_split(tmp_path, name):
    for split in ("train", "Dev", "test"):
        for word in ("yes", "no"):
            write(tmp_path / name.format(split=split, word=word))
    heard = run()
    splits = load(heard, data_dir=tmp_path)
    assert {part: sorted(labels_of(split).items()) for part, split in splits.items()} == {
        part: [(path, word) for path, word in sorted((name.format(split=split, word=w), w) for w in ("yes", "no"))]
        for part, split in (("train", "train"), ("validation", "Dev"), ("test", "test"))
    }
    assert heard.notes == ["split as the data say"]


def test_spellings_of_one_letter_are_one_class(tmp_path):
    for number, word in enumerate(("\u00c4rger", "A\u0308rger", "Freude")):
        write(tmp_path / str(number) / word / "1.wav")
    assert sorted(labels_of(train(tmp_path)).values()) == ["Freude", "\u00c4rger", "\u00c4rger"]


def test_what_may_be_sound_and_is_not_read_is_said(tmp_path):
    for name in ("yes/1.wav", "up/1.wav"):
        write(tmp_path / name)
    for name in ("no/1.raw", "no/2.raw", "go.zip", "yes/notes.txt", "LICENSE"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    heard = run()
    train(tmp_path, listener=heard)
    assert heard.warnings == ["3 files that end with .raw, .zip are not read, the first go.zip"]


def test_several_corpora_in_one_folder(tmp_path):
    """Speaker 03 of one is not speaker 03 of the other."""
    names = {
        f"{corpus}/{name}": (corpus, *said) for corpus in ("emodb", "ravdess") for name, said in NAMES[corpus].items()
    }
    for name in names:
        write(tmp_path / name)
    heard = run()
    rows = train(tmp_path, listener=heard, classes=EMOTIONS)
    found = {row["id"]: (labels_of(rows)[row["id"]], row["speaker"], row["gender"]) for row in rows}
    assert found == {n: (label, f"{corpus} {who}", gender) for n, (corpus, label, who, gender) in names.items()}
    assert not heard.warnings


def test_links_archives_and_what_is_hidden(tmp_path):
    for word in ("yes", "no"):
        write(tmp_path / "elsewhere" / word / "1.wav")
    data = tmp_path / "data"
    data.mkdir()
    (data / "yes").symlink_to(tmp_path / "elsewhere/yes")
    (data / "no").mkdir()
    (data / "no/1.wav").symlink_to(tmp_path / "elsewhere/no/1.wav")
    (data / "no/loop").symlink_to(data)
    (data / "no/a").mkdir()
    (data / "no/a/first").symlink_to(data / "no")
    (tmp_path / "back").mkdir()
    (data / "no/out").symlink_to(tmp_path / "back")
    (tmp_path / "back/in").symlink_to(data / "no")
    write(data / ".hidden/3.wav")
    write(data / "__MACOSX/yes/4.wav")
    assert set(labels_of(train(data))) == {"yes/1.wav", "no/1.wav"}
    (tmp_path / "zips").mkdir()
    for word in ("yes", "no"):
        with zipfile.ZipFile(tmp_path / f"zips/{word}.zip", "w") as file:
            file.write(tmp_path / "elsewhere" / word / "1.wav", f"{word}/1.wav")
    shutil.make_archive(str(tmp_path / "all"), "gztar", tmp_path / "elsewhere")
    for source in (tmp_path / "zips", tmp_path / "all.tar.gz"):
        assert set(labels_of(train(source)).values()) == {"yes", "no"}
    for number in (1, 2):
        shutil.copytree(tmp_path / "elsewhere", tmp_path / "new" / str(number))
        write(tmp_path / f"new/{number}/yes/1.wav", seed=number)
        shutil.make_archive(str(tmp_path / f"both/words_v0.{number}"), "zip", tmp_path / f"new/{number}")
    assert len(train(tmp_path / "both")) == 4, "names that differ behind a point only"


def test_a_name_that_is_no_utf8(tmp_path):
    for word in ("yes", "no"):
        write(tmp_path / word / "1.wav")
    os.rename(tmp_path / "yes/1.wav", os.fsencode(tmp_path) + b"/yes/m\xfcde.wav")
    assert "/yes/m\\xfcde.wav': the name of this file is not UTF-8; rename it" in message(train, tmp_path)


@pytest.fixture
def commands(tmp_path):
    """A folder like Speech Commands."""
    speakers = [f"{number:08x}" for number in range(40)]
    for speaker in speakers:
        for word in ("yes", "no"):
            write(tmp_path / word / f"{speaker}_nohash_0.wav", 0.1)
    write(tmp_path / "_background_noise_/tap.wav", 10.0)
    return tmp_path


def of_task(rows, whole_silence: bool = False):
    """All words, and the noise in seconds."""
    return task_classes(rows, keywords=["all"], usual=[], whole_silence=whole_silence)


def test_speech_commands_by_list(commands):
    (commands / "validation_list.txt").write_text("yes/00000000_nohash_0.wav\nno/00000000_nohash_0.wav\n")
    (commands / "testing_list.txt").write_text("yes/00000001_nohash_0.wav\nno/00000001_nohash_0.wav\nno/gone.wav\n")
    heard = run()
    splits = load(heard, data_dir=commands, prepare=of_task)
    counts = {name: splits.facts[name]["label_counts"] for name in splits}
    assert counts == {
        "train": {"_silence_": 8, "no": 38, "yes": 38},
        "validation": {"_silence_": 1, "no": 1, "yes": 1},
        "test": {"_silence_": 1, "no": 1, "yes": 1},
    }
    silence = [row for row in splits["train"] if row["id"].startswith("_back")]
    assert [(row["start"], row["end"], row["seconds"]) for row in silence][:2] == [(0.0, 1.0, 1.0), (1.0, 2.0, 1.0)]
    assert any("1 clips of the lists are not there" in sentence for sentence in heard.warnings)
    for options in ({}, {"prepare": partial(of_task, whole_silence=True)}):
        silence = [row for row in load(data_dir=commands, **options)["train"] if row["id"].startswith("_back")]
        assert len(silence) == 1 and silence[0]["end"] is None and silence[0]["seconds"] == 10.0
    assert "nothing says the text of its clips; give a table" in message(load, kind="text", data_dir=commands)


LINES = [
    (".flac", "", "yes/{}.wav"),
    (".wav", "audio/", "yes/{}.wav\r"),
    (".wav", "", "./yes/{}.wav "),
    (".wav", "", "yes\\{}.wav"),
]


@pytest.mark.parametrize("ending, place, line", LINES)
def test_speech_commands_converted_or_below_its_lists(tmp_path, ending, place, line):
    for word in ("yes", "no"):
        for number in range(4):
            write(tmp_path / f"{place}{word}/{number}_nohash_0{ending}")
    write(tmp_path / f"{place}_Background_Noise_/tap.wav", 10.0)
    (tmp_path / "testing_list.txt").write_text(f"{line.format('0_nohash_0')}\n")
    heard = run()
    splits = load(heard, data_dir=tmp_path, prepare=of_task)
    counts = {name: facts["label_counts"] for name, facts in splits.facts.items()}
    assert counts["test"]["yes"] == 1 and not counts["test"]["no"] and counts["test"]["_silence_"] == 1
    assert counts["validation"]["yes"] + counts["validation"]["no"]
    assert not any("are not there" in sentence for sentence in heard.warnings)


def test_speech_commands_without_lists(commands):
    splits = load(data_dir=commands, prepare=of_task)
    people = [{*split["speaker"][:]} - {None} for split in splits.values()]
    assert sum(map(len, people)) == len({*people[0], *people[1], *people[2]}) == 40
    assert all(facts["label_counts"]["_silence_"] for facts in splits.facts.values())


@pytest.fixture
def librispeech(tmp_path):
    for subset, speaker in (("train-clean-100", 19), ("dev-clean", 84), ("test-clean", 61)):
        place = tmp_path / "LibriSpeech" / subset / f"{speaker}/1"
        lines = [f"{speaker}-1-{number:04d} TEXT {number}" for number in range(2)]
        for number in range(2):
            write(place / f"{speaker}-1-{number:04d}.flac")
        (place / f"{speaker}-1.trans.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_librispeech(librispeech):
    splits = load(kind="text", data_dir=librispeech)
    assert {name: (split["id"][:], split["speaker"][:], split["text"][:]) for name, split in splits.items()} == {
        "train": (["19-1-0000", "19-1-0001"], ["19", "19"], ["TEXT 0", "TEXT 1"]),
        "validation": (["84-1-0000", "84-1-0001"], ["84", "84"], ["TEXT 0", "TEXT 1"]),
        "test": (["61-1-0000", "61-1-0001"], ["61", "61"], ["TEXT 0", "TEXT 1"]),
    }
    assert "nothing says the label of its clips" in message(load, data_dir=librispeech)


def test_multilingual_librispeech(tmp_path):
    for split, speaker in (("train", 19), ("dev", 84), ("test", 61)):
        names = [f"{speaker}_1_{number:06d}" for number in range(2)]
        for name in names:
            write(tmp_path / split / "audio" / f"{speaker}/1" / f"{name}.flac")
        (tmp_path / split / "transcripts.txt").write_text("".join(f"{name}\tTEXT\n" for name in names))
    splits = load(kind="text", data_dir=tmp_path)
    assert {name: {*split["speaker"][:]} for name, split in splits.items()} == {
        "train": {"19"},
        "validation": {"84"},
        "test": {"61"},
    }


def test_own_transcripts_like_librispeechs(tmp_path):
    for number in range(3):
        write(tmp_path / f"talk{number}.wav")
    (tmp_path / "my.TRANS.TXT").write_text("talk0\tTAB\n  talk1  BLANKS \ntalk2 x\ntalk3 no clip\n")
    sentence = message(train, tmp_path, kind="text")
    assert f"{tmp_path}/my.TRANS.TXT, talk3: there is a transcript, but no clip; mend it" in sentence
    found = train(tmp_path, kind="text", on_bad_example="skip")
    assert found["text"][:] == ["TAB", "BLANKS", "x"]
    assert found["speaker"][:] == [None] * 3, "names that are not SPEAKER-CHAPTER-NUMBER say nothing of speakers"


def test_clips_or_texts_of_one_name(librispeech):
    place = librispeech / "LibriSpeech/train-clean-100/19/1"
    texts = place / "19-1.trans.txt"
    before = texts.read_text()
    texts.write_text(f"{before}19-1-0000 ANOTHER\n")
    assert f"{texts}: 19-1-0000 has another transcript already" in message(load, kind="text", data_dir=librispeech)
    texts.write_text(f"{before}19-1-0000 TEXT 0\n")  # says the same
    assert len(load(kind="text", data_dir=librispeech)["train"]) == 2
    write(place.parent / "2/19-1-0000.flac")
    sentence = message(load, kind="text", data_dir=librispeech)
    assert "2/19-1-0000.flac: has the name of train-clean-100/19/1/19-1-0000.flac" in sentence


def test_a_list_that_is_a_pipe(librispeech):
    texts = librispeech / "LibriSpeech/train-clean-100/19/1/19-1.trans.txt"
    texts.unlink()
    os.mkfifo(texts)
    assert f"{texts}: is a folder, pipe or device" in message(load, kind="text", data_dir=librispeech)


def test_clips_without_text_and_texts_without_clip(librispeech):
    write(librispeech / "LibriSpeech/train-clean-100/19/1/19-1-0007.flac")
    os.remove(librispeech / "LibriSpeech/train-clean-100/19/1/19-1-0001.flac")
    sentence = message(load, kind="text", data_dir=librispeech)
    assert "19-1-0001: there is a transcript, but no clip (2 clips are unusable" in sentence
    splits = load(kind="text", data_dir=librispeech, on_bad_example="skip")
    assert splits.facts["train"]["skipped"] == {"no such file": 1, "no transcript": 1}


def test_the_29_speakers_of_urdu(shared_data):
    found = load(data_dir=shared_data / "emotion/urdu_emotion_400.zip", classes=EMOTIONS)
    assert sum(len(split) for split in found.values()) == 400
    people = [{*split["speaker"][:]} for split in found.values()]
    assert not people[0] & people[1] and not people[0] & people[2] and not people[1] & people[2]
    assert len({who for split in found.values() for who in split["speaker"][:]}) == 29
    counts = [Counter(labels_of(split).values()) for split in found.values()]
    assert sum(counts, Counter()) == dict.fromkeys(("anger", "happiness", "neutral", "sadness"), 100)
    genders = Counter(one for split in found.values() for one in split["gender"][:])
    assert genders == {"male": 344, "female": 56}


def test_every_corpus_is_tried():
    assert {*CORPORA} == {*NAMES, "iemocap"}


def test_speakers_beside_known_classes(tmp_path):
    for name in ("actor01/angry/1.wav", "angry/actor02/2.wav", "neutral/3.wav", "happy/anna/4.wav"):
        write(tmp_path / name)
    rows = train(tmp_path, classes=EMOTIONS)
    people = {row["id"]: row["speaker"] for row in rows}
    assert [people[f"{name}.wav"] for name in ("actor01/angry/1", "angry/actor02/2")] == ["actor01", "actor02"]
    assert people["neutral/3.wav"] is None and people["happy/anna/4.wav"] is None
