"""The built-in sound: trees like those of the real corpora, the same on every run, and something to learn in each.

What can be learnt is shown by cheap probes on what the frozen tiny encoders compute, clip by clip.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.legacy.demo_speech import KEYWORDS, asr_demo, emotion_demo, keyword_demo

ROOT = Path(__file__).resolve().parents[2]
DEMOS = {  # with the models of the scripts
    "keyword_demo": (keyword_demo, "ntu-spml/distilhubert"),
    "asr_demo": (asr_demo, "ntu-spml/distilhubert"),
    "emotion_demo": (emotion_demo, "facebook/hubert-base-ls960"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, dict[str, str]]:
    """demo -> what it returned."""
    root = tmp_path_factory.mktemp("demo")
    return {name: make(root / name, architecture) for name, (make, architecture) in DEMOS.items()}


@pytest.fixture(scope="module")
def frames_of(folders):
    """(demo, sound) -> frames [T, H] of its frozen encoder, from a batch of one."""
    import torch
    from transformers import AutoFeatureExtractor, AutoModel

    models = {name: AutoModel.from_pretrained(made["model"]).eval() for name, made in folders.items()}
    extractors = {name: AutoFeatureExtractor.from_pretrained(made["model"]) for name, made in folders.items()}

    def compute(demo: str, sound: np.ndarray) -> torch.Tensor:
        inputs = extractors[demo](sound, sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            return models[demo](**inputs).last_hidden_state[0]

    return compute


@pytest.fixture(scope="module")
def words(folders) -> dict[str, list[Path]]:
    """split -> the clips of the keyword demo."""
    root = Path(folders["keyword_demo"]["data"])
    lists = {split: (root / f"{split}_list.txt").read_text().split() for split in ("validation", "testing")}
    clips = {split: [root / name for name in names] for split, names in lists.items()}
    everything = [path for path in sorted(root.glob("*/*.wav")) if path.parent.name != "_background_noise_"]
    return clips | {"training": [path for path in everything if path not in {*clips["validation"], *clips["testing"]}]}


@pytest.fixture(scope="module")
def acted(folders) -> dict[str, np.ndarray]:
    """name of a clip of the emotion demo -> its samples."""
    sounds = {}
    for gender in ("female", "male"):
        with zipfile.ZipFile(Path(folders["emotion_demo"]["data"], f"{gender}.zip")) as file:
            for name in file.namelist():
                assert name.startswith(f"{gender}/{gender[0].upper()}")
                sounds[Path(name).stem], _ = soundfile.read(io.BytesIO(file.read(name)), dtype="float32")
    return sounds


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_files_are_the_same_in_another_process_and_others_with_another_seed(tmp_path, monkeypatch):
    small = {
        "KEYWORD_SPEAKERS": {"training": 2, "validation": 1, "testing": 1},
        "UTTERANCES": {"train-clean-100": (2, 3), "dev-clean": (1, 2)},
        "ACTORS": {"F": 2, "M": 2},
        "CLIPS": {"N": (4, 4), "F": (2, 2)},
    }
    program = (
        "import json, sys; from common.legacy import demo_speech; vars(demo_speech).update(json.loads(sys.argv[1]))\n"
    )
    calls = [f"demo_speech.{name}({str(tmp_path / name)!r}, {demo[1]!r})\n" for name, demo in DEMOS.items()]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", program + "".join(calls), json.dumps(small)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300)
    for name, value in small.items():
        monkeypatch.setattr(f"common.legacy.demo_speech.{name}", value)
    for name, (make, architecture) in DEMOS.items():
        make(tmp_path / "again" / name, architecture)
        make(tmp_path / "other" / name, architecture, seed=1)
        first = digests(tmp_path / name)
        assert len(first) > 4 and first == digests(tmp_path / "again" / name)
        of_the_seed = {digest for file, digest in first.items() if not file.endswith(".json")}
        assert not of_the_seed & set(digests(tmp_path / "other" / name).values())


@pytest.mark.parametrize("demo", DEMOS)
def test_sound_is_16_kHz_mono_16_bit_and_not_clipped(folders, demo):
    root = Path(folders[demo]["data"])
    files = [path for path in root.rglob("*") if path.suffix in {".wav", ".flac"}][::10]
    if demo == "emotion_demo":
        with zipfile.ZipFile(root / "male.zip") as file:
            files = [io.BytesIO(file.read(name)) for name in file.namelist()[::20]]
    assert len(files) > 5
    for file in files:
        with soundfile.SoundFile(file) as sound:
            assert (sound.samplerate, sound.channels, sound.subtype) == (16_000, 1, "PCM_16")
            assert 0.1 < np.abs(sound.read()).max() < 0.95


# Keywords


def test_clips_are_named_as_in_speech_commands_and_speakers_are_in_one_split(words):
    speakers = {split: {path.name.split("_nohash_")[0] for path in clips} for split, clips in words.items()}
    assert {split: len(codes) for split, codes in speakers.items()} == {"training": 20, "validation": 6, "testing": 8}
    for split, codes in speakers.items():
        for code in codes:
            assert len(code) == 8 and int(code, 16) >= 0
            # The rule of the data set's README, with whole numbers: a tenth each, by the SHA-1 of the speaker.
            bucket = int(hashlib.sha1(code.encode()).hexdigest(), 16) % 134_217_728 / 134_217_727 * 100
            assert split == ("validation" if bucket < 10 else "testing" if bucket < 20 else "training")
    assert {split: len(clips) for split, clips in words.items()} == {"training": 360, "validation": 72, "testing": 96}


def test_other_words_outnumber_the_keywords_and_there_is_noise_for_silence(folders, words):
    counts = Counter(path.parent.name if path.parent.name in KEYWORDS else "other" for path in words["training"])
    assert counts.pop("other") == 240
    assert set(counts.values()) == {30} and len(counts) == 4
    lengths = [soundfile.info(path).frames for path in words["training"]]
    assert max(lengths) == 16_000 and 0.1 < np.mean(np.array(lengths) < 16_000) < 0.3 and min(lengths) > 9_000
    noises = sorted(Path(folders["keyword_demo"]["data"], "_background_noise_").glob("*.wav"))
    assert len(noises) == 3 and all(soundfile.info(path).duration == 12 for path in noises)


def test_keywords_can_be_told_by_a_linear_head_on_the_mean_frame(words, frames_of):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def data(split: str) -> tuple[np.ndarray, list[str]]:
        clips = words[split][::2] if split == "training" else words[split]
        vectors = [frames_of("keyword_demo", soundfile.read(path, dtype="float32")[0]).mean(0) for path in clips]
        return np.stack(vectors), [path.parent.name if path.parent.name in KEYWORDS else "?" for path in clips]

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(*data("training"))
    vectors, labels = data("testing")
    assert np.mean(np.array(labels) == "?") < 0.7 < 0.9 < probe.score(vectors, labels)
    assert balanced_accuracy_score(labels, probe.predict(vectors)) > 0.85


# Transcripts


def utterances(root: Path) -> list[tuple[Path, str]]:
    """(sound, transcript) of every utterance below `root`."""
    lines = [(path, line) for path in sorted(root.rglob("*.trans.txt")) for line in path.read_text().splitlines()]
    return [(path.parent / f"{line.split(' ')[0]}.flac", line.partition(" ")[2]) for path, line in lines]


def test_utterances_are_named_as_in_librispeech_and_speakers_are_in_one_subset(folders):
    root = Path(folders["asr_demo"]["data"])
    subsets = {path.name: utterances(path) for path in root.iterdir()}
    assert {name: len(found) for name, found in subsets.items()} == {
        "train-clean-100": 150,
        "dev-clean": 40,
        "test-clean": 40,
    }
    everything = [entry for found in subsets.values() for entry in found]
    assert {path for path, _ in everything} == set(root.rglob("*.flac"))
    for path, _ in everything:
        speaker, chapter, _ = path.stem.split("-")
        assert path.parent.parts[-2:] == (speaker, chapter)
    speakers = [{path.parts[-3] for path, _ in found} for found in subsets.values()]
    assert sum(map(len, speakers)) == len(set.union(*speakers)) == 25
    texts = [text for _, text in everything]
    assert len(set(texts)) == len(texts)
    assert set("".join(texts)) == set(" AEHINORSTU")
    seconds = np.array([soundfile.info(path).duration for path, _ in everything])
    assert 1.2 < seconds.min() < 2 < seconds.mean() < 4 < seconds.max() < 6


def test_letters_can_be_recognised_by_a_linear_head_on_each_frame(folders, frames_of):
    import jiwer
    import torch
    from torch.nn.functional import ctc_loss
    from torch.nn.utils.rnn import pad_sequence

    characters = " AEHINORSTU"
    root = Path(folders["asr_demo"]["data"])
    data = {
        subset: [
            (frames_of("asr_demo", soundfile.read(path, dtype="float32")[0]).clone(), text)
            for path, text in utterances(root / subset)[:100]
        ]
        for subset in ("train-clean-100", "test-clean")
    }
    train, steps = data["train-clean-100"], 300
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = torch.nn.Linear(train[0][0].shape[1], len(characters) + 1)
        optimizer = torch.optim.AdamW(head.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, steps)
        for step in range(steps):
            batch = [train[(step * 8 + at) % len(train)] for at in range(8)]
            scores = head(pad_sequence([frames for frames, _ in batch])).log_softmax(-1)
            targets = [torch.tensor([characters.index(letter) + 1 for letter in text]) for _, text in batch]
            lengths = [torch.tensor([len(item) for item in items]) for items in ([f for f, _ in batch], targets)]
            optimizer.zero_grad()
            ctc_loss(scores, torch.cat(targets), *lengths).backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        spoken = []
        for frames, _ in data["test-clean"]:
            best = torch.unique_consecutive(head(frames).argmax(-1)).tolist()
            spoken.append("".join(characters[at - 1] for at in best if at))
    assert jiwer.wer([text for _, text in data["test-clean"]], spoken) < 0.5


# Emotions


def test_clips_are_named_as_in_shemo_and_fear_is_rare(acted):
    clips = Counter(name[3] for name in acted)
    assert set(clips) == set("AFHNSW") and 280 <= len(acted) <= 320
    assert clips["F"] == min(clips.values()) < 0.05 * len(acted)
    assert clips["N"] == max(clips.values()) and 0.6 < (clips["N"] + clips["A"]) / len(acted) < 0.8
    actors = {emotion: {name[:3] for name in acted if name[3] == emotion} for emotion in clips}
    assert {emotion: len(found) for emotion, found in actors.items()} == {
        "A": 20,
        "F": 6,
        "H": 9,
        "N": 20,
        "S": 14,
        "W": 9,
    }
    assert Counter(actor[0] for actor in actors["N"]) == {"F": 8, "M": 12}
    for actor, emotion in {(name[:3], name[3]) for name in acted}:  # numbered from 1 for each
        numbers = sorted(int(name[4:]) for name in acted if name[:4] == actor + emotion)
        assert numbers == list(range(1, len(numbers) + 1))
    seconds = np.array([len(sound) for sound in acted.values()]) / 16_000
    assert 0.9 < seconds.min() < 1.5 < seconds.mean() < 2.5 < seconds.max() < 6


def test_emotions_of_other_speakers_can_be_told_by_a_linear_head_on_the_mean_frame(acted, frames_of):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import recall_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names = list(acted)
    vectors = np.stack([frames_of("emotion_demo", sound[:24_000]).mean(0) for sound in acted.values()])
    labels = np.array([name[3] for name in names])
    folds = StratifiedGroupKFold(4, shuffle=True, random_state=0)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced"))
    speakers = [name[:3] for name in names]
    predicted = cross_val_predict(probe, vectors, labels, groups=speakers, cv=folds)
    assert np.mean(labels == "N") < 0.4 < 0.6 < np.mean(predicted == labels) < 0.95
    assert recall_score(labels, predicted, average="macro") > 0.45
