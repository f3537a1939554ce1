"""run_keyword.py through `main`: it learns, figures are right, the card's code works, clips and flags of all kinds."""

import contextlib
import csv
import io
import re
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support
from sklearn.utils.class_weight import compute_class_weight

import run_keyword
from tests.helpers import ROOT, read, refused, rows_of

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = ["--use_cpu", "--disable_tqdm", "true", "--eval_train_samples", "8", "--preprocessing_num_workers", "1"]
FEW = ["--max_train_samples", "48", "--max_eval_samples", "16", "--max_predict_samples", "16"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    """A `--demo` run."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    argv = ["--demo", "--output_dir", str(folder), *QUICK, "--num_train_epochs", "9", "--eval_strategy", "steps"]
    return folder, run_keyword.main([*argv, "--save_strategy", "steps", "--eval_steps", "50", "--save_steps", "50"])


@pytest.fixture(scope="module")
def model(trained) -> str:
    """The tiny encoder, as a user's folder."""
    (folder,) = (path.parent for path in (trained[0] / "demo").glob("*/config.json"))
    return str(folder)


@pytest.fixture(scope="module")
def tree(trained) -> Path:
    """The built-in data: a tree like Speech Commands'."""
    return trained[0] / "demo" / "speech_commands"


def short(model: str, tree: Path, out: Path, *more: str) -> dict:
    """A training of one epoch."""
    argv = ["--model", model, "--data_dir", str(tree), "--output_dir", str(out), *QUICK, *FEW, "--num_train_epochs"]
    argv += ["1", "--eval_strategy", "epoch", "--save_strategy", "epoch", "--learning_rate", "1e-2"]
    return run_keyword.main([*argv, "--per_device_train_batch_size", "16", "--warmup_steps", "0", *more])


def logits_of(path: Path) -> np.ndarray:
    rows = rows_of(path)
    return np.array([[float(row[name]) for name in row if name.startswith("logit_")] for row in rows])


def test_demo_learns_and_reports(trained, tree):
    folder, results = trained
    head = results["headline"]
    assert (head["split"], head["metric"]) == ("test", "accuracy") and head["low"] > head["baseline"] + 10
    written = read(folder / "results.json")
    jsonschema.validate(written, read(ROOT / "common" / "results.schema.json"))
    for name in written["files"].values():
        assert (folder / name).stat().st_size > 0, name
    plots = {Path(name).stem for name in written["files"].values() if name.startswith("plots/")}
    assert plots >= {"class_counts", "loss", "accuracy", "metrics", "f1_by_class", "test_confusion"}
    curves = (folder / "plots" / "metrics.svg").read_text("utf-8")
    assert all(name in curves for name in ("accuracy", "precision, micro", "precision, macro", "recall, macro"))
    evaluated = [row["step"] for row in written["history"] if "eval_recall_micro" in row]
    last = max(row["step"] for row in written["history"])
    assert evaluated == [*range(50, last, 50), last], "at its end, too"
    assert any("train_accuracy" in row for row in written["history"])
    labels = [*written["confusion"]["test"]["labels"]]
    assert labels == ["yes", "no", "stop", "go", "_silence_", "_unknown_"]
    assert written["data"]["overlaps"] == [], "no speaker and no clip in two splits"
    assert any("the encoder is frozen, as published" in note for note in written["protocol"]["notes"])
    without = written["extra"]["without _silence_"]["test"]
    rows = [row for row in rows_of(folder / "test_predictions.csv") if row["truth"] != "_silence_"]
    right = np.mean([row["truth"] == row["prediction"] for row in rows])
    assert without["examples"] == len(rows) and without["accuracy"] == f"{100 * right:.2f} %"
    counts = written["data"]["splits"]["train"]["label_counts"]
    truth = np.repeat(np.arange(6), [counts[label] for label in labels])
    expected = dict(zip(labels, compute_class_weight("balanced", classes=np.arange(6), y=truth)))
    assert written["extra"]["class weights (balanced)"] == pytest.approx(expected, abs=1e-4)
    wrong = sum(row["truth"] != row["prediction"] for row in rows_of(folder / "test_predictions.csv"))
    assert (folder / "report.html").read_text("utf-8").count("<audio") == min(wrong, 20), "errors can be played"


def test_figures_equal_scikit_learns(trained):
    folder, results = trained
    for name, prefix in (("validation", ""), ("test", "test_")):
        rows = rows_of(folder / f"{prefix}predictions.csv")
        truth, predicted = ([row[column] for row in rows] for column in ("truth", "prediction"))
        found = results["metrics"][name]
        for average, ending in (("macro", ""), ("micro", "_micro")):
            scores = precision_recall_fscore_support(truth, predicted, average=average, zero_division=0)
            for metric, score in zip(("precision", "recall"), scores):
                assert found[f"{metric}{ending}"]["value"] == pytest.approx(100 * score), (name, metric, average)


def test_the_loss_is_weighted_as_torchs(trained):
    import torch

    folder, results = trained
    weights = results["extra"]["class weights (balanced)"]
    truth = torch.tensor([[*weights].index(row["truth"]) for row in rows_of(folder / "test_predictions.csv")])
    logits = torch.tensor(logits_of(folder / "test_predictions.csv"))
    loss = torch.nn.functional.cross_entropy(logits, truth, weight=torch.tensor([*weights.values()]).double())
    assert results["metrics"]["test"]["loss"]["value"] == pytest.approx(loss.item(), abs=1e-3)


def test_the_code_of_the_card_gives_the_same_predictions(trained, tree, monkeypatch):
    folder, _ = trained
    monkeypatch.chdir(folder.parent)  # the card does not say where the folder of the model is
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)[1]
    assert "audio-classification" in code and "common" not in code
    rows = [row for row in rows_of(folder / "test_predictions.csv") if "#" not in row["id"]]
    for row in rows[:: len(rows) // 3]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code.replace("clip.wav", str(tree / row["id"])), {})  # what a reader of the card would run
        found = {answer["label"]: answer["score"] for answer in eval(printed.getvalue())}
        for label, score in found.items():
            assert score == pytest.approx(float(row[f"probability_{label}"]), abs=1e-4)


def test_the_cache_changes_nothing_and_batches_change_no_score(model, tree, tmp_path):
    common = ["--keywords", "yes", "no", "--layer", "weighted", "--whole_silence", "--class_weights", "none"]
    cached = short(model, tree, tmp_path / "cached", *common)
    short(model, tree, tmp_path / "off", *common, "--feature_cache", "off", "--per_device_eval_batch_size", "5")
    ours, theirs = (logits_of(tmp_path / name / "test_predictions.csv") for name in ("cached", "off"))
    np.testing.assert_allclose(ours, theirs, atol=2e-4)
    assert not any(name.startswith("class weights") for name in cached["extra"])
    used = [
        "--do_predict",
        "--whole_silence",
        "--model",
        str(tmp_path / "cached"),
        "--data_dir",
        str(tree),
        *QUICK,
        *FEW,
    ]
    again = run_keyword.main([*used, "--output_dir", str(tmp_path / "again")])
    assert again["metrics"]["test"]["accuracy"] == cached["metrics"]["test"]["accuracy"]
    np.testing.assert_allclose(ours, logits_of(tmp_path / "again" / "test_predictions.csv"), atol=1e-5)


def test_a_command_of_the_official_example_trains_the_encoder(model, tree, tmp_path, capsys):
    official = ["--freeze_feature_encoder", "--max_length_seconds", "1", "--attention_mask", "False"]
    official += ["--mask_time_prob", "0.1"]
    own = ["--encoder_learning_rate", "1e-4", "--augment_speed", "0.1"]
    results = short(model, tree, tmp_path / "out", *official, *own, "--do_train")
    assert results["arguments"]["freeze"]["value"] == "convolution"
    trained = results["model"]["parameters"]
    assert trained["total"] / 2 < trained["trainable"] < trained["total"]
    assert "note: --freeze_feature_encoder is --freeze=convolution today" in capsys.readouterr().err
    implied = short(model, tree, tmp_path / "implied", "--mask_time_prob", "0.1", "--do_train", "--max_steps", "1")
    assert implied["arguments"]["freeze"] == {"value": "none", "source": "--mask_time_prob is for a trained encoder"}


def test_own_words_with_the_built_in_model(tree, tmp_path):
    rows = [(str(clip), word) for word in ("yes", "no", "tree") for clip in sorted((tree / word).glob("*.wav"))[:12]]
    for name, part in (("train", rows[::2]), ("dev", rows[1::2])):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("path", "label"), *part])
    argv = ["--demo", "--train_file", str(tmp_path / "train.csv"), "--validation_file", str(tmp_path / "dev.csv")]
    results = run_keyword.main([*argv, *QUICK, "--max_steps", "1", "--output_dir", str(tmp_path / "out")])
    assert [*results["data"]["splits"]["train"]["label_counts"]] == ["no", "tree", "yes"]
    assert results["arguments"]["keywords"]["value"] == []


def test_refusals(trained, model, tree, tmp_path, capsys):
    base = ["--model", model, "--data_dir", str(tree), "--output_dir", str(tmp_path / "out"), *QUICK]
    for flags, words in {
        ("--augment_speed", "nan"): "--augment_speed nan: must be a finite number",
        ("--encoder_learning_rate", "-1"): "--encoder_learning_rate -1.0: must be 0 or more",
        ("--layer", "6"): "--layer: invalid choice: '6'",
        ("--keywords", "perhaps"): "the keywords 'perhaps' are not among the classes",
        ("--keywords", "_unknown_", ","): "--keywords _unknown_ ,: names no word",
        ("--mask_time_prob", "1.5"): "--mask_time_prob 1.5: must be from 0 up to 1",
        ("--freeze", "encoder", "--augment_speed", "0.1"): "--augment_speed: has no effect on a frozen encoder",
    }.items():
        assert words in refused(capsys, run_keyword.main, "run_keyword.py", *base, *flags)
    for word in ("dog", "cat"):
        shutil.copytree(tree / "yes", tmp_path / "other" / word)
    used = ["--do_eval", "--model", str(trained[0]), *base[2:], "--keywords", "yes"]
    sentence = refused(capsys, run_keyword.main, "run_keyword.py", *used)
    assert "--keywords: a model that is only used has its words" in sentence
    argv = ["--do_eval", "--model", str(trained[0]), "--validation_file", str(tmp_path / "other"), *QUICK]
    sentence = refused(capsys, run_keyword.main, "run_keyword.py", *argv, "--output_dir", str(tmp_path / "out"))
    assert "the label 'cat' is not among the classes 'yes', 'no', 'stop', 'go', '_silence_', '_unknown_'" in sentence
    assert not (tmp_path / "out" / "results.json").exists()


def test_the_words_of_a_model_that_is_used(trained, model, tree, tmp_path, capsys):
    """A table says which words are said, others are unknown; folders may be called anything."""
    clips = {word: sorted((tree / word).glob("*.wav"))[:3] for word in ("yes", "no", "tree")}
    table, used = tmp_path / "t.csv", ["--do_predict", "--model", str(trained[0]), *QUICK]
    used += ["--overwrite_output_dir", "--output_dir", str(tmp_path / "out"), "--test_file"]

    def write_table(*words: str) -> str:
        said = [f"{clip},{name}" for name, own in zip(words, clips.values()) for clip in own]
        table.write_text("\n".join(["path,label", *said]))
        return str(table)

    counts = run_keyword.main([*used, write_table("YES", "No", "tree")])["data"]["splits"]["test"]["label_counts"]
    assert counts == {"yes": 3, "no": 3, "stop": 0, "go": 0, "_silence_": 0, "_unknown_": 3}
    sentence = refused(capsys, run_keyword.main, "run_keyword.py", *used, write_table("oui", "non", "arbre"))
    assert "t.csv, row 1: the label 'oui' is not among the classes 'yes'" in sentence
    for word in ("inbox", "archive"):
        shutil.copytree(tree / "yes", tmp_path / "clips" / word)
    results = run_keyword.main([*used, str(tmp_path / "clips")])
    assert results["headline"] is None
    untrained = ["--do_predict", "--model", model, *QUICK, *used[-4:], str(tmp_path / "clips")]
    assert "has no trained classification head" in refused(capsys, run_keyword.main, "run_keyword.py", *untrained)


def test_a_word_that_is_given_twice(model, tree, tmp_path):
    results = short(model, tree, tmp_path / "out", "--keywords", "yes,no", "YES", "--max_steps", "1")
    assert [*results["data"]["splits"]["train"]["label_counts"]] == ["YES", "no", "_silence_", "_unknown_"]
