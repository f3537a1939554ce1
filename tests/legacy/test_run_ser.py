"""run_ser.py through `main` and the command line: who is heard where, segments, heads, the leaking protocol."""

import csv
import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

import run_ser
from common.legacy import plotting
from common.legacy.errors import Interrupted
from common.legacy.tiny_speech import tiny_speech_model
from tests.legacy.hub import Hub, add_parquet_dataset
from tests.legacy.scripts import ROOT, TORCHRUN, finish, plain, read, refused, rows_of, start

SCRIPT = str(ROOT / "run_ser.py")
QUIET = ["--use_cpu", "--disable_tqdm", "true"]
QUICK = [*QUIET, "--learning_rate", "1e-3", "--num_train_epochs", "1", "--logging_steps", "50"]
QUICK += ["--eval_train_samples", "0"]
THREE = ["--validation_share", "0.2", "--test_share", "0.2"]
LETTERS = {"A": ("anger", 330.0), "N": ("neutral", 170.0), "S": ("sadness", 110.0)}
UAR = "unweighted_average_recall"


def clip(pitch: float, seconds: float, seed: int) -> np.ndarray:
    """A harmonic sound with some noise."""
    random, times = np.random.default_rng(seed), np.arange(int(16_000 * seconds)) / 16_000
    pitch *= random.uniform(0.9, 1.1)
    sound = sum(np.sin(2 * np.pi * pitch * n * times + random.uniform(0, 6)) / n for n in range(1, 6))
    return 0.2 * sound + 0.01 * random.normal(size=len(times))


@pytest.fixture(scope="module")
def shemo(tmp_path_factory) -> Path:
    """60 clips of 10 speakers in three emotions, named like ShEMO's, in one folder for each gender; 0.6 to 2.4 s."""
    folder = tmp_path_factory.mktemp("shemo")
    for gender in "FM":
        (folder / gender).mkdir()
        for speaker in range(1, 6):
            for at, (letter, (_, pitch)) in enumerate(LETTERS.items()):
                for number in (1, 2):
                    seed = 100 * speaker + 10 * at + number + 1000 * (gender == "F")
                    name = f"{gender}{speaker:02d}{letter}{number:02d}.wav"
                    seconds = 0.6 + 0.2 * ((speaker + 3 * at + 5 * number) % 10)
                    soundfile.write(folder / gender / name, clip(pitch * (1 + (gender == "F")), seconds, seed), 16_000)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A HuBERT of 2 small layers, as a user's folder; not trained."""
    return str(tiny_speech_model("facebook/hubert-base-ls960", tmp_path_factory.mktemp("model") / "hubert"))


@pytest.fixture(autouse=True)
def quick_plots(monkeypatch):
    """Saving a plot is most of a short run: the shared runs, made before this is in force, save theirs."""

    def save(figure, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no picture")
        return path

    monkeypatch.setattr(plotting, "save", save)


@pytest.fixture(scope="module")
def short(shemo, model):
    """(folder of the output, more flags) -> results of a training of one epoch on `shemo`."""

    def train(out: Path, *more: str) -> dict:
        return run_ser.main(
            ["--data_dir", str(shemo), "--model", model, *THREE, *QUICK, "--output_dir", str(out), *more]
        )

    return train


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    """One whole `--demo` run."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    return folder, run_ser.main(["--demo", "--output_dir", str(folder), *QUIET])


@pytest.fixture(scope="module")
def whole(tmp_path_factory, short) -> tuple[Path, dict]:
    """A short training of everything, scored by segments of a second."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, short(folder, "--segment_seconds", "1", "--oversample", "1", "--max_train_samples", "20")


def looked(out: Path, *argv: str) -> dict:
    """What `--data_only` finds."""
    found = run_ser.main(["--data_only", *argv, "--output_dir", str(out)])
    assert found == read(out / "data.json")
    return found


def counts_of(described: dict) -> Counter:
    splits = described["splits"].values()
    return sum((Counter(split["label_counts"]) for split in splits), Counter())


def predictions_of(folder: Path, prefix: str = "test_") -> tuple[list[str], np.ndarray]:
    """Ids and probabilities."""
    rows = rows_of(folder / f"{prefix}predictions.csv")
    shares = [[float(v) for name, v in row.items() if name.startswith("probability_")] for row in rows]
    return [row["id"] for row in rows], np.array(shares)


# The demo


@pytest.mark.filterwarnings("ignore:y_pred contains classes")  # which a gender lacks
def test_demo_learns_and_reports(trained):
    folder, results = trained
    head = results["headline"]
    assert (head["split"], head["metric"]) == ("test", UAR)
    assert head["low"] > head["baseline"] + 10, "training has to beat the majority class"
    written = read(folder / "results.json")
    jsonschema.validate(written, read(ROOT / "common" / "legacy" / "results.schema.json"))
    for name in (*written["files"].values(), "all_results.json", "model.safetensors", "preprocessor_config.json"):
        assert (folder / name).stat().st_size > 0, name
    assert written["protocol"]["demo"] and not written["protocol"]["leaks"] and written["published"] == []
    assert written["data"]["overlaps"] == [], "no speaker is in two splits"
    heard = []
    for name, prefix in (("validation", ""), ("test", "test_")):
        rows = rows_of(folder / f"{prefix}predictions.csv")
        assert len(rows) == written["data"]["splits"][name]["examples"] > 30
        truth, said = [row["truth"] for row in rows], [row["prediction"] for row in rows]
        metrics = written["metrics"][name]
        assert metrics[UAR]["value"] == pytest.approx(100 * balanced_accuracy_score(truth, said))
        assert metrics["accuracy"]["value"] == pytest.approx(100 * accuracy_score(truth, said))
        assert metrics["f1"]["value"] == pytest.approx(100 * f1_score(truth, said, average="macro"))
        heard.append({row["speaker"] for row in rows})
        for gender, found in written["groups"][name].get("gender", {}).items():
            own = [(t, s) for t, s, row in zip(truth, said, rows) if row["gender"] == gender]
            assert found[UAR]["value"] == pytest.approx(100 * balanced_accuracy_score(*zip(*own, strict=True)))
            assert found[UAR]["examples"] == len(own)
    assert not heard[0] & heard[1]
    assert "gender" in written["groups"]["test"], "women and men are tested"
    page = (folder / "report.html").read_text("utf-8")
    assert page.count("<audio") == len([row for row in rows if row["truth"] != row["prediction"]][:20]) > 0
    assert len([entry for entry in written["history"] if f"eval_train_{UAR}" in entry]) == 20


def test_the_documented_call(trained, monkeypatch, tmp_path, capsys):
    """The code of the model card is run on a clip of the test data."""
    folder, _ = trained
    row = rows_of(folder / "test_predictions.csv")[0]
    archive, name = row["id"].split("/")
    with zipfile.ZipFile(folder / f"demo/shemo/{archive}.zip") as file:
        (tmp_path / "clip.wav").write_bytes(file.read(next(n for n in file.namelist() if n.endswith(name))))
    code = re.search("```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)[1]
    assert "import common.legacy.speech_heads" in code
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(compile(code, "README.md", "exec"), {})
    found = {entry["label"]: entry["score"] for entry in eval(capsys.readouterr().out)}
    assert len(found) == 6
    for label, share in found.items():
        assert share == pytest.approx(float(row[f"probability_{label}"]), abs=2e-4)


# Heads, layers, freezing


@pytest.mark.parametrize(
    "argv",
    [
        ["--freeze", "none", "--pooling", "max", "--layer", "1"],
        ["--freeze", "convolution", "--pooling", "mean", "--layer", "weighted"],
        ["--freeze", "encoder", "--pooling", "first", "--layer", "1"],
        ["--freeze", "encoder", "--pooling", "attention", "--layer", "weighted"],
        ["--freeze", "encoder", "--head", "standard", "--layer", "weighted"],
        ["--freeze", "none", "--head", "standard"],
    ],
    ids=" ".join,
)
def test_every_head_is_trained_saved_and_loaded(short, shemo, model, tmp_path, argv):
    results = short(tmp_path / "out", *argv)
    total, trainable = (results["model"]["parameters"][name] for name in ("total", "trainable"))
    frozen = argv[1]
    assert trainable == total if frozen == "none" else 0 < trainable < total
    before, after = load_file(Path(model) / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    start = "hubert." if "standard" in argv else "encoder."
    encoder = {name: value for name, value in after.items() if name.startswith(start)}
    layers = {name.split("layers.")[1].split(".")[0] for name in encoder if "encoder.layers." in name}
    assert len(layers) == (1 if argv[-1] == "1" else 2)
    changed = {n for n, value in encoder.items() if not np.array_equal(before[n.removeprefix(start)], value)}
    if frozen == "encoder":
        assert not changed
    else:
        convolution = {name for name in encoder if "feature_extractor" in name}
        assert changed - convolution and bool(changed & convolution) == (frozen == "none")
    argv = ["--do_eval", "--model", str(tmp_path / "out"), "--data_dir", str(shemo), *THREE, *QUIET]
    again = run_ser.main([*argv, "--per_device_eval_batch_size", "1", "--output_dir", str(tmp_path / "again")])
    ids, shares = predictions_of(tmp_path / "again", "")
    same, expected = predictions_of(tmp_path / "out", "")
    assert ids == same and np.abs(shares - expected).max() <= 2e-4, "one clip at a time, from disk"
    assert again["metrics"]["validation"]["loss"]["value"] == pytest.approx(
        results["metrics"]["validation"]["loss"]["value"], abs=1e-4
    )
    card = (tmp_path / "again" / "README.md").read_text("utf-8")
    assert ("common.legacy.speech_heads" in card) == (
        "standard" not in results["model"]["architecture"] and start == "encoder."
    )


def test_a_standard_head_needs_only_transformers(short, shemo, tmp_path):
    short(tmp_path / "out", "--head", "standard", "--freeze", "encoder")
    row = rows_of(tmp_path / "out" / "test_predictions.csv")[0]
    program = """
import json, sys
sys.modules["common"] = None  # importing it is an error
import soundfile
from transformers import pipeline
samples, rate = soundfile.read(sys.argv[2], dtype="float32")
print(json.dumps(pipeline("audio-classification", model=sys.argv[1])(samples, top_k=None)))
"""
    command = [sys.executable, "-c", program, str(tmp_path / "out"), str(shemo / row["id"])]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    for answer in json.loads(ended.stdout.splitlines()[-1]):
        assert answer["score"] == pytest.approx(float(row[f"probability_{answer['label']}"]), abs=2e-4)


def test_cache_or_not_is_the_same(short, tmp_path):
    argv = ["--freeze", "encoder", "--num_train_epochs", "2", "--per_device_train_batch_size", "7"]
    cached, live = (short(tmp_path / how, *argv, "--feature_cache", how) for how in ("float32", "off"))
    assert cached["data"]["splits"]["train"]["examples"] % 7 == 1, "the last batch is of one clip"
    assert [run["extra"]["method"]["features computed once"] for run in (cached, live)] == [True, False]
    one, other = (load_file(tmp_path / how / "model.safetensors") for how in ("float32", "off"))
    assert one.keys() == other.keys()
    assert max(float((one[name] - other[name]).abs().max()) for name in one if one[name].is_floating_point()) < 1e-4
    assert np.abs(predictions_of(tmp_path / "float32")[1] - predictions_of(tmp_path / "off")[1]).max() <= 2e-4


def test_a_trained_head_is_not_replaced_unasked(whole, shemo, tmp_path, capsys):
    argv = ["--model", str(whole[0]), "--data_dir", str(shemo), *THREE, *QUICK, "--output_dir", str(tmp_path / "out")]
    said = refused(capsys, run_ser.main, "run_ser.py", *argv, "--pooling", "max")
    assert "--pooling" in said and "has a head" in said
    more = run_ser.main([*argv, "--learning_rate", "0", "--segment_seconds", "1"])
    assert more["metrics"]["test"]["loss"]["value"] == pytest.approx(
        whole[1]["metrics"]["test"]["loss"]["value"], abs=0.1
    ), "at a learning rate of 0 it is nearly where the first one ended (its norm goes on counting)"


# Segments and copies


def test_segments_and_copies_are_for_training_alone(whole, shemo):
    folder, results = whole
    splits = results["data"]["splits"]
    rows = rows_of(folder / "test_predictions.csv")
    assert len(rows) == splits["test"]["examples"] == len({row["id"] for row in rows})
    assert not any("#" in row["id"] for row in rows), "one row an utterance"
    assert results["metrics"]["test"]["accuracy"]["examples"] == len(rows)
    seconds = [soundfile.info(shemo / row["id"]).duration for row in rows]
    expected = sum(max(int(length), 1) for length in seconds)  # a rest is heard with the segment before it
    assert results["extra"]["scored by segment"]["test"]["segments"] == expected > len(rows)
    assert splits["train"]["examples"] == 20 and read(folder / "train_results.json")["train_samples"] > 30
    (note,) = [note for note in results["protocol"]["notes"] if note.startswith("trained on 20 recordings as ")]
    pieces = int(re.search(r"as (\d+) pieces", note)[1])
    assert (
        pieces == read(folder / "train_results.json")["train_samples"] and note in (folder / "report.html").read_text()
    )
    assert results["data"]["overlaps"] == []
    assert {f"{kind}_trained_on" for kind in ("durations", "class_counts", "class_shares", "gender")} <= set(
        results["files"]
    )


def test_utterance_scores_are_means_over_segments(whole, shemo):
    """Each segment of a test utterance through the model by itself, from its own samples."""
    import torch
    from transformers import AutoFeatureExtractor

    from common.legacy.speech_heads import load_speech_model

    folder, _ = whole
    model, extractor = load_speech_model(str(folder)), AutoFeatureExtractor.from_pretrained(folder)
    row = max(rows_of(folder / "test_predictions.csv"), key=lambda row: float(row["seconds"]))
    samples, rate = soundfile.read(shemo / row["id"], dtype="float32")
    count = max(int(len(samples) // rate) + (len(samples) % rate >= rate), 1)
    assert count >= 2 and len(samples) % rate < rate, "the rest is less than a second, and heard with the last one"
    ends = [*range(rate, count * rate, rate), len(samples)]
    parts = [samples[begin:end] for begin, end in zip([0, *ends], ends)]
    with torch.no_grad():
        inputs = [extractor(part, sampling_rate=rate, return_tensors="pt").input_values for part in parts]
        shares = torch.stack([model(values)["logits"].softmax(-1)[0] for values in inputs]).mean(0)
    for at, label in model.config.id2label.items():
        assert shares[at].item() == pytest.approx(float(row[f"probability_{label}"]), abs=2e-4)


# The published protocol


@pytest.mark.parametrize("pieces", [[], ["--segment_seconds", "1", "--oversample", "1"]], ids=["plain", "pieces"])
def test_published_protocol_is_marked_everywhere(short, shemo, tmp_path, capsys, pieces, monkeypatch):
    out, described = tmp_path / "out", []
    original = run_ser.describe_splits
    monkeypatch.setattr(run_ser, "describe_splits", lambda *a: described.append(a[0]) or original(*a))
    few = ["--drop_labels", "sadness", "--freeze", "encoder", "--validation_share", "0.1"]
    capsys.readouterr()
    short(out, "--protocol", "published", *few, *pieces)
    assert "LEAKS: " in capsys.readouterr().out
    results = read(out / "results.json")
    assert results["protocol"]["name"] == "published" and results["protocol"]["leaks"] is True
    assert 'role="note">LEAKS: ' in (out / "report.html").read_text("utf-8")
    card = (out / "README.md").read_text("utf-8")
    assert "> **LEAKS: " in card and "- leaking-evaluation" in card
    shared = {(*found["between"], found["key"]): found["examples"] for found in results["data"]["overlaps"]}
    notes = results["protocol"]["notes"]
    rows = rows_of(out / "test_predictions.csv")
    assert shared["train", "test", "speaker"] == len(rows), "nobody in the test data is new"
    assert (("train", "test", "utterance") in shared) == bool(pieces)
    assert len([note for note in notes if "training and test data" in note]) == (2 if pieces else 0)
    if not pieces:
        assert all(Counter(row["truth"] for row in rows)[label] == 4 for label in ("anger", "neutral"))
        assert {row["id"] for row in rows} <= {f"{p.parent.name}/{p.name}" for p in shemo.rglob("*.wav")}
    else:
        assert any("#" in row["id"] for row in rows), "every piece is scored for itself"
        ids = {name: [i.partition("#")[0] for i in part.ids] for name, part in described[0].items()}
        twice = sum(utterance in ids["train"] for utterance in ids["test"])
        assert shared["train", "test", "utterance"] == twice > 0 and len(ids["test"]) == len(rows)
    looked(tmp_path / "data", "--data_dir", str(shemo), "--protocol", "published", *pieces)
    assert capsys.readouterr().out.count("LEAKS: ") >= 1
    assert read(tmp_path / "data" / "data.json")["leaks"]


# Every form of data


def test_folders_archives_and_tables_say_the_same(shemo, tmp_path):
    expected = looked(tmp_path / "folder", "--data_dir", str(shemo))
    assert counts_of(expected) == {"anger": 20, "neutral": 20, "sadness": 20} and expected["overlaps"] == []
    assert set(expected["files"]) == {"durations", "class_counts", "class_shares", "gender"}
    zips = tmp_path / "zips"
    zips.mkdir()
    for gender in "FM":
        with zipfile.ZipFile(zips / f"{gender}.zip", "w") as file:
            for path in sorted((shemo / gender).iterdir()):
                file.write(path, path.name)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        for path in sorted(shemo.rglob("*.wav")):
            file.write(path, f"shemo/{path.parent.name}/{path.name}")
    paths = sorted(shemo.rglob("*.wav"))
    facts = [
        {"path": str(p), "speaker": p.stem[:3], "label": LETTERS[p.stem[3]][0], "gender": p.stem[0]} for p in paths
    ]
    with (tmp_path / "clips.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, facts[0])
        writer.writeheader()
        writer.writerows(facts)
    others = [{"who": f["speaker"], "clip": f["path"], "mood": f["label"]} for f in facts]
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, others)), encoding="utf-8")
    classes = tmp_path / "classes"
    for fact in facts:
        (classes / fact["label"]).mkdir(parents=True, exist_ok=True)
        os.link(fact["path"], classes / fact["label"] / Path(fact["path"]).name)
    columns = ["--audio_column", "clip", "--label_column", "mood", "--speaker_column", "who"]
    named = "(?P<speaker>...).(?P<take>..)"
    for name, argv in {
        "zips": ["--data_dir", str(zips)],
        "zip": ["--data_dir", str(tmp_path / "all.zip")],
        "csv": ["--data_dir", str(tmp_path / "clips.csv")],
        "jsonl": ["--data_dir", str(tmp_path / "clips.jsonl"), *columns],
        "classes": ["--data_dir", str(classes), "--name_pattern", named],
        "pattern": ["--data_dir", str(shemo), "--name_pattern", "(?P<speaker>(?P<gender>.)..)(?P<label>.)(?P<take>..)"],
    }.items():
        found = looked(tmp_path / f"out-{name}", *argv)
        assert counts_of(found) == counts_of(expected), name
        assert found["overlaps"] == [] and "by speaker" in found["notes"][0], name
        hours = [split["statistics"]["hours"] for split in found["splits"].values()]
        assert sum(hours) == pytest.approx(sum(s["statistics"]["hours"] for s in expected["splits"].values()), abs=2e-4)
        assert [s["statistics"]["speakers"] for s in found["splits"].values()] == [8, 1, 1], name


def test_who_speaks_decides_the_split(shemo, tmp_path, capsys):
    classes = tmp_path / "classes"
    for at, path in enumerate(sorted(shemo.rglob("*.wav"))):
        folder = classes / LETTERS[path.stem[3]][0]
        folder.mkdir(parents=True, exist_ok=True)
        os.link(path, folder / f"{at}.wav")
    found = looked(tmp_path / "auto", "--data_dir", str(classes))
    assert "by utterance" in found["notes"][0] and any("speakers are not known" in note for note in found["notes"])
    said = refused(capsys, run_ser.main, "run_ser.py", "--data_only", "--data_dir", str(classes), "--split", "speaker")
    assert "does not say who speaks" in said and "--split stratified" in said
    strata = looked(tmp_path / "strata", "--data_dir", str(shemo), "--split", "stratified", "--test_share", "0.3")
    assert set(strata["splits"]["test"]["label_counts"].values()) == {6}, "classes keep their shares"
    assert {found["key"] for found in strata["overlaps"]} == {"speaker"}
    given = [
        {"path": str(p), "label": LETTERS[p.stem[3]][0], "split": "test" if p.stem[1:3] == "05" else "train"}
        for p in sorted(shemo.rglob("*.wav"))
    ]
    (tmp_path / "given.jsonl").write_text("\n".join(map(json.dumps, given)), encoding="utf-8")
    found = looked(tmp_path / "given", "--data_dir", str(tmp_path / "given.jsonl"))
    assert "as the data say" in found["notes"][0] and found["splits"]["test"]["examples"] == 12


def test_training_and_test_files(shemo, model, tmp_path):
    rows = [{"file": str(p), "emotion": LETTERS[p.stem[3]][0]} for p in sorted(shemo.rglob("*.wav"))]
    for name, part in (("train", rows[:36]), ("validation", rows[36:48])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)), encoding="utf-8")
    calls = tmp_path / "calls"
    calls.mkdir()
    for at, row in enumerate(rows[48:]):
        os.link(row["file"], calls / f"call{at}.wav")
    argv = ["--train_file", str(tmp_path / "train.jsonl"), "--validation_file", str(tmp_path / "validation.jsonl")]
    argv += ["--test_file", str(calls), "--model", model, *QUICK, "--freeze", "encoder", "--class_weights", "balanced"]
    argv += ["--audio_column_name", "file", "--label_column_name", "emotion"]
    results = run_ser.main([*argv, "--output_dir", str(tmp_path / "out")])
    assert set(results["metrics"]) == {"validation"} and results["published"] == []
    assert results["extra"]["class weights (balanced)"] == {"anger": 1.0, "neutral": 1.0, "sadness": 1.0}
    rows = rows_of(tmp_path / "out" / "test_predictions.csv")
    assert len(rows) == 12 and {row["truth"] for row in rows} == {""}


def test_predicting_with_a_trained_model(whole, shemo, tmp_path):
    folder, _ = whole
    known = dict(zip(*predictions_of(folder)))
    name = max(known, key=lambda name: soundfile.info(shemo / name).frames)
    long = tmp_path / "long.flac"
    soundfile.write(long, np.concatenate([soundfile.read(shemo / name)[0]] * 9), 16_000)
    argv = ["--do_predict", "--model", str(folder), "--segment_seconds", "1", *QUIET]
    for what in (shemo / name, long):
        out = tmp_path / what.stem
        more = [*argv, "--test_file", str(what), "--output_dir", str(out)]
        if what == long:  # a new process knows nothing of the head
            finish(start([sys.executable, SCRIPT, *more], tmp_path, plain(tmp_path)))
        else:
            run_ser.main(more)
        ids, shares = predictions_of(out)
        assert ids == [what.name] and read(out / "results.json")["headline"] is None
        assert shares.sum() == pytest.approx(1, abs=1e-3)
        if what != long:
            assert np.abs(shares[0] - known[name]).max() <= 2e-4
        card = (out / "README.md").read_text("utf-8")
        assert "No headline" in card and str(folder) in card
    again = run_ser.main([*argv, "--test_file", str(shemo), "--output_dir", str(tmp_path / "all")])
    assert again["metrics"]["test"]["accuracy"]["examples"] == 60, "names that say the class are judged by it"
    ids, shares = predictions_of(tmp_path / "all")
    assert max(np.abs(shares[ids.index(name)] - expected).max() for name, expected in known.items()) <= 2e-4


def test_real_names_without_sound(shared_data, tmp_path, capsys):
    """ShEMO's 3,000 names: its transcripts' archive, its table, and a csv made of that."""
    emotion = shared_data / "emotion"
    facts = json.loads(gzip.decompress((emotion / "shemo.json.gz").read_bytes()))
    with (tmp_path / "names.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "speaker_id", "gender", "emotion"])
        writer.writerows([name, row["speaker_id"], row["gender"], row["emotion"]] for name, row in facts.items())
    counts = {"neutral": 1160, "anger": 1042, "sadness": 362, "happiness": 203, "surprise": 201, "fear": 32}
    found = {}
    for at, source in enumerate((emotion / "shemo_transcript.zip", tmp_path / "names.csv")):
        found[at] = looked(tmp_path / str(at), "--data_dir", str(source))
        assert counts_of(found[at]) == counts and found[at]["overlaps"] == []
        assert set(found[at]["files"]) == {"class_counts", "class_shares", "gender"}, "without sound no durations"
        for split, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
            assert found[at]["splits"][split]["examples"] == pytest.approx(3000 * share, rel=0.05)
            assert all(found[at]["splits"][split]["label_counts"].values())
        assert sum(split["statistics"]["speakers"] for split in found[at]["splits"].values()) == 87
    argv = ["--data_dir", str(emotion / "shemo.json.gz")]
    leaking = looked(tmp_path / "published", *argv, "--protocol", "published", "--oversample", "0.5")
    assert {entry["key"] for entry in leaking["overlaps"]} == {"speaker", "utterance"}
    argv = ["--data_only", *argv, "--segment_seconds", "5", "--output_dir", str(tmp_path / "no")]
    assert "names without sound cannot be cut" in refused(capsys, run_ser.main, "run_ser.py", *argv)


def test_real_urdu_clips(shared_data, model, tmp_path):
    """A few clips of the Urdu set, with the names' own scheme; its test is on speakers that were not heard."""
    pattern = r"(?P<speaker>S(?P<gender>[MF])\d+)_F\d+_(?P<label>[AHNS])\d+"
    with zipfile.ZipFile(shared_data / "emotion" / "urdu_emotion_400.zip") as file:
        few = [n for n in sorted(file.namelist()) if re.search(r"/S[MF]([1-9]|1[0-5])_F\d_", n) and n.endswith(".ogg")]
        for name in few:
            file.extract(name, tmp_path / "urdu")
    found = looked(tmp_path / "look", "--data_dir", str(tmp_path / "urdu"), "--name_pattern", pattern)
    assert sum(counts_of(found).values()) == len(few) and found["overlaps"] == []
    assert set(counts_of(found)) == {"anger", "happiness", "neutral", "sadness"}
    argv = ["--data_dir", str(tmp_path / "urdu"), "--name_pattern", pattern, "--model", model, *QUICK]
    argv += ["--max_train_samples", "24", "--freeze", "encoder", "--output_dir", str(tmp_path / "out")]
    results = run_ser.main([*argv, *THREE])
    assert results["published"] == [] and results["data"]["overlaps"] == []
    rows = rows_of(tmp_path / "out" / "test_predictions.csv")
    assert all(re.search(f"/{row['speaker']}_", row["id"]) and row["speaker"][1] in "MF" for row in rows)


# Stopping and going on


def test_stopped_and_resumed_is_the_same(short, tmp_path):
    argv = ["--num_train_epochs", "2", "--save_strategy", "steps", "--save_steps", "3", "--oversample", "1"]
    argv += ["--eval_strategy", "steps", "--eval_steps", "3", "--warmup_steps", "0", "--max_seconds", "1"]
    argv += ["--max_train_samples", "14", "--max_eval_samples", "4", "--max_predict_samples", "4"]
    argv += ["--per_device_train_batch_size", "4"]
    short(tmp_path / "straight", *argv)
    out = tmp_path / "stopped"

    def stop():
        while not (out / "checkpoint-3").is_dir():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(Interrupted, match="--resume_from_checkpoint auto"):
        short(out, *argv)
    assert not (out / "results.json").exists()
    short(out, *argv, "--resume_from_checkpoint", "auto")
    one, other = (load_file(folder / "model.safetensors") for folder in (tmp_path / "straight", out))
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
    assert predictions_of(out)[1].tolist() == predictions_of(tmp_path / "straight")[1].tolist()


def test_results_are_not_overwritten(whole, shemo, model, capsys):
    argv = ["--data_dir", str(shemo), "--model", model, *QUICK, "--output_dir", str(whole[0])]
    said = refused(capsys, run_ser.main, "run_ser.py", *argv)
    assert "--overwrite_output_dir" in said


# What is refused, and what is left out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--segment_seconds", "0.1"], ("--segment_seconds", "1 or more")),
        (["--oversample", "1.5"], ("--oversample", "up to 1")),
        (["--max_seconds", "0"], ("--max_seconds",)),
        (["--test_share", "0.7"], ("--test_share", "0.5")),
        (["--layer", "0"], ("--layer", "weighted")),
        (["--layer", "99"], ("99", "2")),
        (["--pooling", "sum"], ("--pooling", "sum")),
        (["--drop_labels", "joy"], ("joy", "'anger'")),
        (["--drop_labels", "anger", "sadness"], ("'neutral'", "two or more")),
        (["--protocol", "published", "--split", "speaker"], ("--protocol published", "--split")),
        (["--protocol", "published", "--train_file", "x.csv"], ("--protocol published", "files")),
        (["--do_eval", "--data_dir", "missing"], ("missing", "no such file")),
        (["--do_eval"], ("head", "--do_train")),
        (["--name_pattern", "{speaker}-{label}"], ("no name matches", "{speaker}-{label}")),
        (["--name_pattern", "(?P<speaker>M..)(?P<label>.)(?P<index>..)"], ("does not match", "--on_bad_example skip")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments_are_one_sentence(shemo, model, tmp_path, capsys, argv, words):
    out = tmp_path / "out"
    everything = ["--data_dir", str(shemo), "--model", model, *QUICK, "--output_dir", str(out), *argv]
    said = refused(capsys, run_ser.main, "run_ser.py", *everything)
    assert all(word in said for word in words), said
    assert not (out / "results.json").exists() and not list(out.glob("*.safetensors"))


def test_data_that_cannot_be_split(shemo, tmp_path, capsys):
    def link(folder: str, *patterns: str) -> str:
        (tmp_path / folder).mkdir()
        for path in {path for pattern in patterns for path in shemo.rglob(pattern)}:
            os.link(path, tmp_path / folder / path.name)
        return str(tmp_path / folder)

    for source, more, words in (
        (link("two", "M01*.wav", "M02*.wav"), [], ("2 speakers", "--split stratified")),
        (link("rare", "*A*.wav", "*N*.wav", "M01S01.wav"), [], ("'sadness'", "1 speakers", "--drop_labels sadness")),
        (str(tmp_path / "rare"), ["--split", "stratified"], ("'sadness'", "1 clips", "--drop_labels sadness")),
    ):
        argv = ["--data_only", "--data_dir", source, *more, "--output_dir", str(tmp_path / "out")]
        said = refused(capsys, run_ser.main, "run_ser.py", *argv)
        assert all(word in said for word in words), said
    without = looked(tmp_path / "without", "--data_dir", str(tmp_path / "rare"), "--drop_labels", "sadness")
    assert set(counts_of(without)) == {"anger", "neutral"}
    skipped = [split["skipped"] for split in without["splits"].values()]
    assert {"class dropped (sadness)": 1} in skipped


def test_bad_sound_is_one_sentence_or_counted(shemo, model, tmp_path, capsys):
    good = tmp_path / "good"
    good.mkdir()
    for path in shemo.rglob("*.wav"):
        os.link(path, good / path.name)
    sound = clip(200.0, 1.0, 0)

    def wav(samples, rate=16_000, **more) -> bytes:
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, rate, format="WAV", **more)
        return buffer.getvalue()

    bad = {
        "M08A01": (b"not a sound at all", "cannot be decoded"),
        "M08A02": (wav(np.zeros(16_000)), "silent"),
        "M08A03": (wav(np.zeros(0)), "no samples"),
        "M08A04": (wav(sound[:1]), "too short"),
        "M08A05": (b"", "M08A05"),
    }
    fine = {"M08N01": wav(sound, subtype="PCM_U8"), "M08N02": wav(np.stack([sound] * 6, 1), 96_000)}
    argv = ["--data_dir", str(good), "--model", model, *THREE, *QUICK, "--freeze", "encoder"]
    argv += ["--output_dir", str(tmp_path / "out")]
    for name, (content, words) in bad.items():
        (good / f"{name}.wav").write_bytes(content)
        said = refused(capsys, run_ser.main, "run_ser.py", *argv, "--split", "stratified", "--split_seed", "1")
        assert f"{name}.wav" in said and words in said and "--on_bad_example skip" in said, said
        (good / f"{name}.wav").unlink()
    assert not (tmp_path / "out" / "results.json").exists()
    for name, content in [*((name, content) for name, (content, _) in bad.items()), *fine.items()]:
        (good / f"{name}.wav").write_bytes(content)
    (good / "readme.wav").write_bytes(wav(sound))
    named = ["--name_pattern", run_ser.SHEMO, "--on_bad_example", "skip"]
    results = run_ser.main([*argv, *named])
    splits = results["data"]["splits"].values()
    assert sum(split["examples"] for split in splits) == 62
    # What headers tell is counted before the split, in each of them; the rest where it would have been.
    reasons = Counter(reason for split in splits for reason in split["skipped"])
    assert sum(max(s["skipped"].get(r, 0) for s in splits) for r in reasons) == 6, reasons
    assert reasons["name does not match"] == 3


# As users type it


@pytest.fixture(scope="module")
def hub_root(tmp_path_factory, shemo, model) -> Path:
    """The corrected ShEMO on the hub, one split, and a tiny HuBERT under its real id."""
    import datasets

    root = tmp_path_factory.mktemp("hub")
    rows = [
        {
            "audio": {"bytes": path.read_bytes(), "path": path.name},
            "speaker_id": path.stem[:3],
            "gender": "female" if path.stem[0] == "F" else "male",
            "emotion": LETTERS[path.stem[3]][0],
            "transcript": "سلام",
            "ipa": "selam",
        }
        for path in sorted(shemo.rglob("*.wav"))
    ]
    emotions = datasets.ClassLabel(names=["anger", "fear", "happiness", "neutral", "sadness", "surprise"])
    text = datasets.Value("string")
    sound = {"bytes": datasets.Value("binary"), "path": text}
    for repo_id, emotion in (("aliyzd95/modified_shemo", text), ("someone/classes", emotions)):
        features = datasets.Features(dict.fromkeys(rows[0], text) | {"audio": sound, "emotion": emotion})
        table = datasets.Dataset.from_list(rows, features=features).cast_column("audio", datasets.Audio(16_000))
        add_parquet_dataset(root, repo_id, {"train": table})
    target = root / "models" / "facebook" / "hubert-base-ls960"
    target.mkdir(parents=True)
    for file in Path(model).iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return root


def test_the_published_experiment_as_typed(hub_root, tmp_path):
    """`python run_ser.py`, and then the same on another repository with numbered classes."""
    with Hub(hub_root) as hub:
        environment = hub.environment(tmp_path / "home") | {"CUDA_VISIBLE_DEVICES": ""}
        finish(start([sys.executable, SCRIPT], tmp_path, environment))
        asked = {path for _, path in hub.requests}
        more = ["--dataset_name", "someone/classes", "--split", "stratified", "--data_only", "--output_dir", "look"]
        finish(start([sys.executable, SCRIPT, *more], tmp_path, environment))
    allowed = ("facebook/hubert-base-ls960", "aliyzd95/modified_shemo")
    assert asked and not [path for path in asked if not any(name in path for name in allowed)], asked
    results = read(tmp_path / "outputs" / "ser" / "results.json")
    assert counts_of(results["data"]) == {"anger": 20, "neutral": 20, "sadness": 20}
    assert results["data"]["overlaps"] == [] and "by speaker" in results["protocol"]["notes"][0]
    assert results["arguments"]["split"] == {"value": "speaker", "source": "this set has one split only"}
    assert results["arguments"]["learning_rate"]["value"] == 1e-5
    assert results["model"]["revision"] and "gender" in results["files"]
    assert [row["metrics"].get("accuracy", {}).get("value") for row in results["published"]] == [74.0, None]
    looked_at = read(tmp_path / "look" / "data.json")
    assert counts_of(looked_at) == {"anger": 20, "neutral": 20, "sadness": 20} and "durations" in looked_at["files"]


def test_two_processes(shemo, model, tmp_path):
    everything = ["--data_dir", str(shemo), "--model", model, *THREE, *QUICK, "--max_grad_norm", "0"]
    everything += ["--freeze", "encoder", "--head", "standard", "--segment_seconds", "1", "--oversample", "1"]
    one = [sys.executable, SCRIPT, *everything, "--per_device_train_batch_size", "8", "--output_dir", "one"]
    two = [*TORCHRUN, SCRIPT, *everything, "--per_device_train_batch_size", "4", "--output_dir", "two"]
    for command in (one, two):
        finish(start(command, tmp_path, plain(tmp_path)))
    results = [read(tmp_path / name / "results.json") for name in ("one", "two")]
    assert [r["environment"]["processes"] for r in results] == [1, 2]
    (ids, shares), (same, others) = predictions_of(tmp_path / "one"), predictions_of(tmp_path / "two")
    assert ids == same and np.abs(shares - others).max() < 1e-3
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert max(float((weights[0][n] - weights[1][n]).abs().max()) for n in weights[0]) < 1e-4
