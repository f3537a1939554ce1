"""What the documentation's commands name, made small: repositories of the hub under their real ids, a user's files.

Each function takes the folder of a `tests.hub.Hub` and the folder where the commands are typed. The models are tiny
and random and there is hardly any data, so nothing is learnt: this is for seeing that commands run.
"""

import csv
import io
import json
import shutil
import tarfile
import wave
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from tests.helpers import hub_rows
from tests.hub import add_librispeech, add_parquet_dataset, add_superb_keywords

RATE = 16_000
SENTENCES = ("THE SUN", "A ROSE", "HE RUNS", "SO SOON")
EMOTIONS = {"A": ("anger", 330.0), "N": ("neutral", 170.0), "S": ("sadness", 110.0)}
PARSBERT = "HooshvareLab/bert-base-parsbert-uncased"


def question_answering(hub: Path, here: Path) -> None:
    """SQuAD v2, DistilBERT, XLM-R; train.json, dev.json, questions.json (without answers), qa.yaml."""
    import datasets

    from common.demo.qa import question_answering_demo
    from common.demo.tiny_text import tiny_model

    made = question_answering_demo(hub / "made", "distilbert-base-uncased")
    splits, texts = {}, []
    for split, name, articles in (("train", "train", 4), ("validation", "dev", 1), ("test", "questions", 1)):
        content = json.loads(Path(made[f"{split}_file"]).read_text("utf-8"))
        content["data"] = content["data"][:articles]
        (here / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        rows = hub_rows(here / f"{name}.json") if split != "test" else []
        texts += [row["context"] for row in rows] + [row["question"] for row in rows]
        answers = {"text": [datasets.Value("string")], "answer_start": [datasets.Value("int32")]}
        strings = {column: datasets.Value("string") for column in ("id", "title", "context", "question")}
        if rows:
            features = datasets.Features({**strings, "answers": answers})
            splits[split] = datasets.Dataset.from_list(rows, features=features)
    add_parquet_dataset(hub, "rajpurkar/squad_v2", splits)
    for name in ("distilbert-base-uncased", "xlm-roberta-base"):
        tiny_model(name, texts, hub / "models" / name, "question-answering")
    (here / "qa.yaml").write_text("learning_rate: 2e-5\nmax_train_samples: 40\n")


def persian_inference(hub: Path, here: Path) -> None:
    """FarsTail and a ParsBERT of 12 layers; train.csv, dev.csv, test.csv."""
    from common.demo.nli import farstail_demo
    from common.demo.tiny_text import tiny_model

    made = farstail_demo(hub / "made", PARSBERT)
    data = hub / "datasets" / "azarijafari" / "FarsTail" / "data"
    data.mkdir(parents=True)
    (data.parent / "README.md").write_text("")
    for split, there, name in (("train", "Train", "train"), ("validation", "Val", "dev"), ("test", "Test", "test")):
        with Path(made[f"{split}_file"]).open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))[:25]
        write_csv(data / f"{there}-word.csv", *rows, delimiter="\t")
        write_csv(here / f"{name}.csv", *rows)
    texts = [cell for row in rows for cell in row[:2]]
    tiny_model(PARSBERT, texts, hub / "models" / PARSBERT, "none", layers=12)


def multi_nli(hub: Path, here: Path) -> None:
    """GLUE's MNLI, roberta-base and roberta-large; train.csv, dev.csv, dev.jsonl."""
    import datasets

    from common.demo.nli import mnli_demo
    from common.demo.tiny_text import tiny_model

    made = mnli_demo(hub / "made", "roberta-base")
    labels, text = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"]), datasets.Value("string")
    features = datasets.Features({"premise": text, "hypothesis": text, "label": labels})
    splits, texts = {}, []
    sizes = {"train": 64, "validation_matched": 24, "validation_mismatched": 24}
    for (name, count), split in zip(sizes.items(), ("train", "validation", "test")):
        lines = Path(made[f"{split}_file"]).read_text("utf-8").splitlines()[:count]
        rows = [{column: json.loads(line)[column] for column in features} for line in lines]
        texts += [row["premise"] for row in rows] + [row["hypothesis"] for row in rows]
        splits[name] = datasets.Dataset.from_list(rows, features=features)
        if split == "validation":
            (here / "dev.jsonl").write_text("\n".join(lines), encoding="utf-8")
        if split != "test":
            cells = [(row["premise"], row["hypothesis"], row["label"]) for row in rows]
            write_csv(
                here / f"{'dev' if split == 'validation' else split}.csv", ("premise", "hypothesis", "label"), *cells
            )
    add_parquet_dataset(hub, "nyu-mll/glue", splits, "mnli")
    for name in ("roberta-base", "roberta-large"):
        tiny_model(name, texts, hub / "models" / name, "none")


def keywords(hub: Path, here: Path) -> None:
    """SUPERB's ks and DistilHuBERT; speech_commands_v0.02.tar.gz, digits.zip with names like the FSDD's, clips/."""
    import datasets

    import run_keyword

    speech_model(hub, "ntu-spml/distilhubert")
    names = [*run_keyword.WORDS, "_silence_", "_unknown_"]
    sound = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features({"audio": sound, "label": datasets.ClassLabel(names=names)})
    splits = {}
    for split, count in (("train", 3), ("validation", 1), ("test", 1)):
        rows = []
        for label, name in enumerate(names):
            for take in range(count):
                content = tone(200 * 1.2**label, 1.0, seed=take)
                rows.append({"audio": {"bytes": content, "path": f"{name}{take}.wav"}, "label": label})
        made = datasets.Dataset.from_list(rows, features=features)
        splits[split] = made.cast_column("audio", datasets.Audio(sampling_rate=RATE, decode=False))
    add_superb_keywords(hub, splits)

    words = [*run_keyword.WORDS, "cat", "tree"]
    clips, lists = {}, {"validation": [], "testing": []}
    for at, word in enumerate(words):
        for speaker, split in enumerate(("training", "training", "training", "validation", "testing")):
            name = f"{word}/0000000{speaker}_nohash_0.wav"
            clips[name] = tone(200 * 1.2**at, 0.8, seed=speaker)
            lists.get(split, []).append(name)
    clips |= {f"{split}_list.txt": "".join(f"{name}\n" for name in found).encode() for split, found in lists.items()}
    clips["_background_noise_/tap.wav"] = tone(90, 5.0, seed=0)
    with tarfile.open(here / "speech_commands_v0.02.tar.gz", "w:gz") as archive:
        for name, content in clips.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with zipfile.ZipFile(here / "digits.zip", "w") as archive:
        for digit in range(10):
            for number, speaker in enumerate(("george", "jackson", "lucas", "nicolas", "theo", "yweweler")):
                archive.writestr(f"{digit}_{speaker}_0.wav", tone(150 * 1.25**digit, 0.5, seed=number))
    (here / "clips").mkdir()
    for name, seconds in (("short", 1.0), ("long", 3.0)):
        (here / "clips" / f"{name}.wav").write_bytes(tone(200, seconds, seed=1))


def recognition(hub: Path, here: Path) -> None:
    """LibriSpeech and DistilHuBERT; train.csv, dev.csv, and talks/, one of them of 45 seconds."""
    import soundfile

    speech_model(hub, "ntu-spml/distilhubert")
    clips: dict[str, list[tuple[str, str]]] = {}
    for speaker, (split, count) in enumerate((("train.100", 4), ("validation", 2), ("test", 2)), start=100):
        folder, clips[split] = here / "speech" / split, []
        folder.mkdir(parents=True)
        for number in range(count):
            path = folder / f"{speaker}-{speaker}-{number:04d}.flac"
            samples = samples_of(150 + 20 * number, 1.0, number)
            soundfile.write(path, samples, RATE)
            clips[split].append((str(path), SENTENCES[number % len(SENTENCES)]))
    add_librispeech(hub, clips)
    for name, split in (("train", "train.100"), ("dev", "validation")):
        write_csv(here / f"{name}.csv", ("path", "transcript"), *clips[split])
    (here / "talks").mkdir()
    for name, seconds in (("short", 3.0), ("long", 45.0)):
        (here / "talks" / f"{name}.wav").write_bytes(tone(200, seconds, seed=1))


def emotions(hub: Path, here: Path) -> None:
    """The corrected ShEMO and HuBERT; shemo/ with ShEMO's names."""
    import datasets

    speech_model(hub, "facebook/hubert-base-ls960")
    rows = []
    for gender in "FM":
        (here / "shemo" / gender).mkdir(parents=True)
        for speaker in range(1, 6):
            for letter, (emotion, pitch) in EMOTIONS.items():
                name = f"{gender}{speaker:02d}{letter}01.wav"
                content = tone(pitch * (1 + (gender == "F")), 1.0, seed=speaker)
                (here / "shemo" / gender / name).write_bytes(content)
                row = {"audio": {"bytes": content, "path": name}, "speaker_id": name[:3], "emotion": emotion}
                rows.append(row | {"gender": "female" if gender == "F" else "male", "transcript": "سلام", "ipa": "s"})
    text = datasets.Value("string")
    sound = {"bytes": datasets.Value("binary"), "path": text}
    features = datasets.Features(dict.fromkeys(rows[0], text) | {"audio": sound})
    table = datasets.Dataset.from_list(rows, features=features).cast_column("audio", datasets.Audio(RATE))
    add_parquet_dataset(hub, "aliyzd95/modified_shemo", {"train": table})


def card_fraud(hub: Path, here: Path) -> None:
    """The card data as a csv file; payments.csv with an id and a country, and new.csv without the target."""
    from common.demo.fraud import synthetic_cards

    cards = synthetic_cards(rows=600, frauds=60)
    data = hub / "datasets" / "David-Egea" / "Creditcard-fraud-detection"
    data.mkdir(parents=True)
    (data / "README.md").write_text("")
    write_columns(data / "creditcard.csv", cards)
    ours = {"id": np.arange(600), "country": np.array(["DE", "IR"] * 300)}
    payments = ours | {name: column for name, column in cards.items() if name not in ("Time", "Class")}
    write_columns(here / "payments.csv", payments | {"is_fraud": cards["Class"]})
    write_columns(here / "new.csv", {name: column[:50] for name, column in payments.items()})


# Small things that several of them need


def speech_model(hub: Path, name: str) -> None:
    from common.demo.tiny_speech import tiny_speech_model

    made = tiny_speech_model(name, hub / "made-model")
    shutil.copytree(made, hub / "models" / name)


def samples_of(pitch: float, seconds: float, seed: int) -> np.ndarray:
    """A harmonic sound with some noise: float64 [samples] at `RATE`."""
    random, times = np.random.default_rng(seed), np.arange(int(RATE * seconds)) / RATE
    sound = sum(np.sin(2 * np.pi * pitch * n * times) / n for n in range(1, 4))
    return 0.2 * sound + 0.01 * random.standard_normal(len(times))


def tone(pitch: float, seconds: float, seed: int) -> bytes:
    """`samples_of` as a wav file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples_of(pitch, seconds, seed) * 32_000).astype("<i2").tobytes())
    return buffer.getvalue()


def write_csv(path: Path, *rows: Iterable, delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


def write_columns(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    write_csv(path, columns, *zip(*(column.tolist() for column in columns.values())))
