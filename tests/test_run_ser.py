"""run_ser.py through `main`: segments and copies, the published protocol, figures, other corpora."""

import contextlib
import io
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import datasets
import jsonschema
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

import run_ser
from common.speech.emotions import loss_sentence
from common.speech.results import by_recording
from tests.helpers import ROOT, read, refused, rows_of

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = ["--use_cpu", "--disable_tqdm", "true", "--eval_train_samples", "8", "--preprocessing_num_workers", "1"]
EMOTIONS = ["anger", "fear", "happiness", "neutral", "sadness", "surprise"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    """A `--demo` run in segments, with copies."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    argv = ["--demo", "--output_dir", str(folder), *QUICK, "--num_train_epochs", "6", "--segment_seconds", "1"]
    return folder, run_ser.main([*argv, "--copies", "fear=3", "happy=2"])


@pytest.fixture(scope="module")
def demo(trained) -> list[str]:
    """Flags for the built-in data and model, as a user's own."""
    (model,) = (path.parent for path in (trained[0] / "demo").glob("*/config.json"))
    return ["--model", str(model), "--data_dir", read(trained[0] / "results.json")["arguments"]["data_dir"]["value"]]


@pytest.fixture(scope="module")
def clips(trained) -> list[Path]:
    """The files of the built-in data."""
    return sorted(Path(row["path"]) for row in rows_of(trained[0] / "recordings.csv"))


def figures(folder: Path, prefix: str, labels: list[str]):
    rows = rows_of(folder / f"{prefix}predictions.csv")
    truth = np.array([labels.index(row["truth"]) for row in rows])
    return rows, truth, np.array([[float(row[f"probability_{label}"]) for label in labels] for row in rows])


def test_demo_learns_and_reports(trained):
    folder, results = trained
    head = results["headline"]
    assert (head["split"], head["metric"]) == ("test", "unweighted_average_recall")
    assert head["value"] > head["baseline"] + 10
    written = read(folder / "results.json")
    jsonschema.validate(written, read(ROOT / "common" / "results.schema.json"))
    for name in written["files"].values():
        assert (folder / name).stat().st_size > 0, name
    plots = {Path(name).stem for name in written["files"].values() if name.startswith("plots/")}
    assert plots >= {"class_counts", "class_counts_as_trained_on", "durations", "spectrograms"}
    assert plots >= {"loss", "accuracy", "recall", "f1_by_class", "test_confusion"}
    assert (folder / "plots" / "spectrograms.svg").read_text("utf-8").count("happiness") == 1
    assert any("the validation loss was lowest at epoch" in note for note in written["protocol"]["notes"])
    table = rows_of(folder / "recordings.csv")
    assert list(table[0]) == ["gender", "speaker", "label", "utterance", "split", "seconds", "path"]
    examples = {name: split["examples"] for name, split in written["data"]["splits"].items()}
    assert len(table) == sum(examples.values()) and {row["gender"] for row in table} == {"female", "male"}
    assert written["data"]["overlaps"] == [], "no speaker in two splits"


def test_recordings_are_counted_and_scored_not_segments(trained):
    folder, results = trained
    examples = {name: split["examples"] for name, split in results["data"]["splits"].items()}
    for name, prefix in (("validation", ""), ("test", "test_")):
        rows, truth, shares = figures(folder, prefix, EMOTIONS)
        assert len(rows) == len({row["id"] for row in rows}) == examples[name]
        found = results["metrics"][name]
        expected = 100 * balanced_accuracy_score(truth, shares.argmax(axis=1))
        assert found["unweighted_average_recall"]["value"] == pytest.approx(expected)
        assert found["roc_auc"]["value"] == pytest.approx(roc_auc_score(truth, shares, multi_class="ovr"), abs=1e-3)
        area = results["per_class"][name]["anger"]["roc_auc"]
        assert area == pytest.approx(roc_auc_score(truth == 0, shares[:, 0]), abs=1e-3)
    flat = read(folder / "all_results.json")
    assert flat["train_samples"] > examples["train"], "segments"


def test_the_code_of_the_card_classifies(trained, monkeypatch):
    """The pipeline hears a whole recording, the run its segments: with one of them they are the same."""
    folder, _ = trained
    monkeypatch.chdir(folder.parent)
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)[1]
    assert "import common.speech.heads" in code
    paths = {row["utterance"]: row["path"] for row in rows_of(folder / "recordings.csv")}
    rows = [row for row in rows_of(folder / "test_predictions.csv") if float(row["seconds"]) < 1.9]
    for row in rows[:2]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code.replace("clip.wav", paths[row["id"]]), {})
        for answer in eval(printed.getvalue()):
            assert answer["score"] == pytest.approx(float(row[f"probability_{answer['label']}"]), abs=1e-4)


def test_the_published_protocol_says_that_it_leaks(demo, tmp_path):
    out = tmp_path / "out"
    argv = [*demo, *QUICK, "--output_dir", str(out), "--protocol", "published", "--segment_seconds", "1"]
    argv += ["--copies", "fear=3", "--freeze", "encoder", "--num_train_epochs", "1", "--learning_rate", "1e-2"]
    results = run_ser.main([*argv, "--class_weights", "balanced", "--pooling", "max", "--max_train_samples", "60"])
    assert results["protocol"]["name"] == "published" and results["protocol"]["leaks"]
    notes = " ".join(results["protocol"]["notes"])
    for words in ("the same speakers are in training and test", "segments of one recording", "copies of one recording"):
        assert words in notes
    assert "each clip, also for testing, is cut or padded to 1 s; padding counts as sound" in notes
    assert {overlap["key"] for overlap in results["data"]["overlaps"]} >= {"speaker", "utterance"}
    assert "LEAKS" in (out / "report.html").read_text("utf-8") and "LEAKS" in (out / "README.md").read_text("utf-8")
    assert len(rows_of(out / "test_predictions.csv")) == results["data"]["splits"]["test"]["examples"]
    assert any(name.startswith("class weights (balanced)") for name in results["extra"])
    assert results["arguments"]["test_share"] == {"value": 0.2, "source": "protocol of the report"}


def test_the_published_supports(tmp_path):
    """Fear x 15, happiness x 3, surprise x 3 of the report's segments, then a fifth by class: 132, 152, 141."""
    from common.speech.splits import split_rows

    segments = {"A": 1314, "F": 44, "H": 253, "N": 1520, "S": 670, "W": 235}  # 5 x the supports of run 2, about
    labels = np.repeat(np.arange(6), [*segments.values()])
    count = len(labels)
    columns = {"id": [f"{i}" for i in range(count)], "recording": [f"{i}" for i in range(count)], "labels": labels}
    columns |= {"start": [0.0] * count, "end": [5.0] * count, "seconds": [5.0] * count, "speaker": [None] * count}
    clips = datasets.Dataset.from_dict(columns).cast_column("labels", datasets.ClassLabel(names=EMOTIONS))
    args = SimpleNamespace(segment_seconds=5.0, max_seconds=20.0)
    args.copies = ["fear=15", "happiness=3", "surprised=3"]
    copied = run_ser.cut_and_copied(clips, "train", args)
    rows = split_rows(copied, "random", {"train": 0.7, "validation": 0.1, "test": 0.2}, 42)
    found = np.bincount(copied.select(rows["test"])["labels"][:], minlength=6).tolist()
    assert found[1:3] == [132, 152] and found[5] == 141 and len(rows["test"]) == round(len(copied) / 5)


def test_another_corpus_and_predictions(trained, demo, clips, tmp_path):
    """EMO-DB's names: F is happiness there, and W anger; then a folder of clips without classes."""
    folder = tmp_path / "wav"
    folder.mkdir()
    for number, clip in enumerate(clips[:40]):
        shutil.copy(clip, folder / f"{number // 5 + 3:02d}a0{number % 5 + 1}{'FWNT'[number % 4]}a.wav")
    argv = ["--model", demo[1], "--data_dir", str(folder), *QUICK, "--freeze", "encoder", "--max_steps", "1"]
    argv += ["--eval_strategy", "no", "--save_strategy", "no", "--test_share", "0.3", "--validation_share", "0.3"]
    results = run_ser.main([*argv, "--head", "standard", "--output_dir", str(tmp_path / "emodb")])
    assert [*results["data"]["splits"]["train"]["label_counts"]] == ["anger", "happiness", "neutral", "sadness"]
    assert results["data"]["splits"]["train"]["source"].endswith("(emodb)")
    unknown = tmp_path / "calls"
    unknown.mkdir()
    shutil.copy(clips[0], unknown / "call.wav")
    argv = ["--do_predict", "--model", str(trained[0]), "--test_file", str(unknown), *QUICK]
    results = run_ser.main([*argv, "--output_dir", str(tmp_path / "calls-out")])
    (row,) = rows_of(tmp_path / "calls-out" / "test_predictions.csv")
    assert results["headline"] is None and row["truth"] == "" and row["prediction"] in EMOTIONS


def test_a_model_that_calls_its_classes_otherwise(trained, clips, tmp_path):
    """As published ones do: ang, hap; or LABEL_0, with --label_order."""
    table, found = tmp_path / "t.csv", []
    said = {"A": "angry", "F": "fear", "N": "neutral"}
    rows = [f"{clip},{said[clip.stem[3]]}" for clip in clips if clip.stem[3] in said]
    table.write_text("\n".join(["path,emotion", *rows]))
    for names in (EMOTIONS, ["ang", "fea", "hap", "neu", "sad", "sur"], [f"LABEL_{i}" for i in range(6)]):
        model, out = tmp_path / names[0], str(tmp_path / f"out-{names[0]}")
        shutil.copytree(trained[0], model)
        config = read(model / "config.json") | {"id2label": dict(enumerate(names))}
        (model / "config.json").write_text(json.dumps(config | {"label2id": {n: i for i, n in enumerate(names)}}))
        order = ["--label_order", ",".join(EMOTIONS)] if names[0] == "LABEL_0" else []
        argv = ["--do_predict", "--model", str(model), "--test_file", str(table), *QUICK, *order, "--output_dir", out]
        found.append(run_ser.main([*argv, "--max_predict_samples", "30"]))
    assert found[0]["headline"] and found[0]["per_class"] == found[1]["per_class"] == found[2]["per_class"]


def test_refusals(trained, demo, clips, tmp_path, capsys):
    base = [*demo, "--output_dir", str(tmp_path / "out"), *QUICK]
    for flags, words in {
        ("--segment_seconds", "0.5"): "--segment_seconds and --max_seconds must be 1 or more",
        ("--copies", "fear"): "--copies fear: give classes, each once, with whole numbers up to 999, as in fear=15",
        ("--copies", "fear=99999999999"): "with whole numbers up to 999",
        ("--copies", "fear=2", "fearful=3"): "--copies fearful=3: give classes, each once",
        ("--copies", "boredom=2"): "as in fear=15; there are anger, fear, happiness",
        ("--head", "standard", "--pooling", "max"): "--pooling max: the standard head takes the mean",
        (
            "--protocol",
            "published",
            "--split",
            "speaker",
        ): "--protocol published splits --data_dir or --dataset by itself",
    }.items():
        assert words in refused(capsys, run_ser.main, "run_ser.py", *base, *flags)
    own = ["--model", str(trained[0]), *demo[2:], "--output_dir", str(tmp_path / "out"), *QUICK]
    for used in ([], ["--do_predict"]):
        sentence = refused(capsys, run_ser.main, "run_ser.py", *own, "--pooling", "max", *used)
        assert "has its own, which stays" in sentence
    (tmp_path / "calls").mkdir()
    shutil.copy(clips[0], tmp_path / "calls/call.wav")
    untrained = ["--do_predict", *base[:2], *base[4:], "--test_file", str(tmp_path / "calls")]
    assert "has no trained classification head" in refused(capsys, run_ser.main, "run_ser.py", *untrained)
    files = ["--train_file", str(tmp_path / "calls"), "--validation_file", str(tmp_path / "calls")]
    for flags in (["--split", "random"], ["--test_share", "0.2"], ["--split_seed", "1"]):
        sentence = refused(capsys, run_ser.main, "run_ser.py", *base[:2], *base[4:], *files, *flags)
        assert sentence.startswith(f"{flags[0]} is for one source")


def test_scores_of_recordings_are_means_of_their_segments():
    columns = {
        "id": ["b#1", "a", "b#2"],
        "recording": ["b", "a", "b"],
        "start": [0.0, 0.0, 1.0],
        "end": [1.0, 2.0, None],
    }
    clips = datasets.Dataset.from_dict(columns | {"seconds": [1.0, 2.0, 0.5], "labels": [1, 0, 1]})
    logits = np.array([[0.0, 0.0], [2.0, -1.0], [5.0, 0.0]])
    whole, found = by_recording(clips, logits)
    assert whole["id"][:] == ["b", "a"] and whole["seconds"][:] == [1.5, 2.0] and whole["labels"][:] == [1, 0]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(found), [(shares[0] + shares[2]) / 2, shares[1]])


def test_the_sentence_on_the_loss():
    rows = [{"epoch": e, "eval_loss": loss} for e, loss in enumerate([1.0, 0.5, 0.75], start=1)]
    assert loss_sentence(rows) == "the validation loss was lowest at epoch 2 (0.5000), and has risen by 0.25 since"
    assert loss_sentence(rows[:2]) == "the validation loss was lowest at epoch 2 (0.5000), the last"
    assert loss_sentence([*rows[:2], {"epoch": 3, "eval_loss": 0.50001}]).endswith("has risen by 1e-05 since")
    assert loss_sentence([*rows[:2], {"epoch": 3, "eval_loss": 0.5}]).endswith("at epoch 3 (0.5000), the last")
    assert loss_sentence([{"epoch": 1, "loss": 0.5}]) is None
