"""docs/run_texts.py, the example of an eighth script: short, of the family, and as good as the seven."""

import csv
import json
import os
import re
import signal
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score

from common.legacy.errors import exit_status
from common.legacy.trainer import FinetuneTrainer
from docs import run_texts
from tests.legacy.scripts import ROOT, finish, plain, read, refused, rows_of, start

SCHEMA = read(ROOT / "common" / "legacy" / "results.schema.json")
QUICK = ["--use_cpu", "--disable_tqdm", "true", "--max_length", "32", "--learning_rate", "1e-3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    """One whole `--demo` run."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    argv = ["--demo", "--output_dir", str(folder), "--use_cpu", "--disable_tqdm", "true"]
    return folder, run_texts.main(argv)


@pytest.fixture(scope="module")
def model(trained) -> str:
    """The tiny model of the demo as a user's folder; it has a head for three classes."""
    (folder,) = (path.parent for path in (trained[0] / "demo").glob("*/config.json"))
    return str(folder)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """60 different texts of two classes, in columns of a user's own, as a user's csv file."""
    things, places = (
        ("wagon", "mirror", "gate", "desk", "clock"),
        ("Paris", "Rome", "Berlin", "Vienna", "London", "Madrid"),
    )
    rows = [
        (f"The {thing} stands in {place}, {word}", kind)
        for thing in things
        for place in places
        for word, kind in (("made of iron", "metal"), ("made of wood", "wooden"))
    ]
    path = tmp_path_factory.mktemp("table") / "things.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("body", "kind"), *rows])
    return path


COLUMNS = ["--text_column", "body", "--label_column", "kind"]


def weights(folder: Path) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in load_file(folder / "model.safetensors").items()}


def test_it_is_short_and_one_of_the_family():
    example = ROOT / "docs" / "run_texts.py"
    assert len(example.read_text("utf-8").splitlines()) < 150
    phases = {}
    for script in (*sorted(ROOT.glob("run_*.py")), example):
        main = script.read_text("utf-8").partition("\ndef main(")[2].partition("\n\n\n")[0]
        phases[script.name] = re.findall(r"^ +# (Arguments|Data|Preprocessing|Model|Training|Results)$", main, re.M)
    assert len(phases) == 8
    assert set(map(tuple, phases.values())) == {("Arguments", "Data", "Preprocessing", "Model", "Training", "Results")}


def test_the_guide_is_short_and_names_what_there_is():
    guide = (ROOT / "docs" / "NEW_TASK.md").read_text("utf-8")
    lines = (ROOT / "docs" / "run_texts.py").read_text("utf-8").splitlines()
    assert len(guide.splitlines()) <= 60
    for module in re.findall(r"`common\.(\w+)", guide):
        assert (ROOT / "common" / f"{module}.py").is_file() or (ROOT / "common" / module).is_dir(), module
    pointers = re.findall(r"lines? (\d+)(?:-(\d+))?, `([^`]+)`", guide)
    assert len(pointers) >= 6
    for first, last, text in pointers:
        assert text in "\n".join(lines[int(first) - 1 : int(last or first)]), f"{text} is not in lines {first}-{last}"


def test_demo_learns_and_reports(trained):
    folder, results = trained
    head = results["headline"]
    assert (head["split"], head["metric"]) == ("test", "accuracy")
    assert head["low"] > head["baseline"] + 5, "training has to beat the majority class"
    assert "of the training data" in head["baseline_name"]
    written = read(folder / "results.json")
    jsonschema.validate(written, SCHEMA)
    assert written == json.loads(json.dumps(results))
    for name in written["files"].values():
        assert (folder / name).stat().st_size > 0, name
    plots = {Path(name).stem for name in written["files"].values() if name.startswith("plots/")}
    assert plots >= {"class_counts", "loss", "accuracy", "f1_by_class", "test_confusion"}
    seconds = [*written["resources"]["seconds"]]
    assert seconds == ["data", "preprocessing", "model", "training", "results", "total"]
    card = (folder / "README.md").read_text("utf-8")
    assert "pipeline_tag: text-classification" in card and str(folder) in card


def test_figures_equal_scikit_learns(trained):
    folder, results = trained
    for name, prefix in (("validation", ""), ("test", "test_")):
        rows = rows_of(folder / f"{prefix}predictions.csv")
        truth, said = ([row[column] for row in rows] for column in ("truth", "prediction"))
        metrics = results["metrics"][name]
        assert metrics["accuracy"]["value"] == pytest.approx(100 * accuracy_score(truth, said))
        assert metrics["f1"]["value"] == pytest.approx(100 * f1_score(truth, said, average="macro"))
        assert metrics["accuracy"]["low"] < metrics["accuracy"]["value"] < metrics["accuracy"]["high"]


def test_as_a_user_types_it(model, table, tmp_path):
    """One csv file, of which a tenth is held out; then new texts without classes, in a plain pipeline, too."""
    environment = plain(tmp_path) | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "docs.run_texts", "--model", model, "--train_file", str(table), *COLUMNS, *QUICK]
    finish(start([*command, "--output_dir", "out", "--num_train_epochs", "10"], tmp_path, environment))
    results = read(tmp_path / "out" / "results.json")
    jsonschema.validate(results, SCHEMA)
    counts = {name: split["examples"] for name, split in results["data"]["splits"].items()}
    assert counts == {"train": 54, "validation": 6} and results["data"]["overlaps"] == []
    assert results["script"] == "run_texts.py" and results["headline"]["split"] == "validation"
    assert sum(results["data"]["splits"]["train"]["label_counts"].values()) == 54
    rows, given = rows_of(tmp_path / "out" / "predictions.csv"), rows_of(table)
    assert len(rows) == 6
    for row in rows:
        assert {"body": row["text"], "kind": row["truth"]} == given[int(row["id"]) - 1], "the id is the row's number"
    assert results["metrics"]["validation"]["accuracy"]["value"] == 100, "one word says it all"

    from transformers import pipeline

    new = tmp_path / "new.jsonl"
    new.write_text("\n".join(json.dumps({"body": row["body"]}) for row in given[:9]), encoding="utf-8")
    argv = ["--do_predict", "--model", str(tmp_path / "out"), "--test_file", str(new), *COLUMNS, *QUICK]
    results = run_texts.main([*argv, "--output_dir", str(tmp_path / "said")])
    jsonschema.validate(results, SCHEMA)
    assert results["headline"] is None and results["metrics"] == {}
    classify = pipeline("text-classification", model=str(tmp_path / "out"), device="cpu")
    for row in rows_of(tmp_path / "said" / "test_predictions.csv"):
        found = classify(row["text"])[0]
        assert found["label"] == row["prediction"] == given[int(row["id"]) - 1]["kind"] and not row["truth"]
        assert found["score"] == pytest.approx(float(row[f"probability_{found['label']}"]), abs=1e-3)


def test_data_set_of_the_hub(model, table, tmp_path):
    """As the hub's: parquet files by split, classes as positions with names."""
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["wooden", "metal"])}
    )
    rows = [{"text": row["body"], "label": features["label"].str2int(row["kind"])} for row in rows_of(table)]
    for split, part in (("train", rows[:40]), ("test", rows[40:])):
        (tmp_path / "things").mkdir(exist_ok=True)
        datasets.Dataset.from_list(part, features=features).to_parquet(tmp_path / "things" / f"{split}.parquet")
    argv = ["--model", model, "--dataset", str(tmp_path / "things"), *QUICK, "--num_train_epochs", "1"]
    results = run_texts.main([*argv, "--cache_dir", str(tmp_path / "cache"), "--output_dir", str(tmp_path / "out")])
    splits = results["data"]["splits"]
    assert {name: split["examples"] for name, split in splits.items()} == {"train": 36, "validation": 4, "test": 20}
    assert splits["test"]["label_counts"] == {"metal": 10, "wooden": 10}
    assert "1 : 9 at random" in splits["validation"]["source"] and "at random" not in splits["test"]["source"]


def test_stopped_and_resumed_is_as_if_never_stopped(model, table, tmp_path, monkeypatch, capsys):
    argv = ["--model", model, "--train_file", str(table), *COLUMNS, *QUICK, "--num_train_epochs", "2"]
    run_texts.main([*argv, "--output_dir", str(tmp_path / "straight")])
    steps, step = [], FinetuneTrainer.training_step

    def stopping(self, *args, **kwargs):
        steps.append(self.state.global_step)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(FinetuneTrainer, "training_step", stopping)
    stopped = ["--output_dir", str(tmp_path / "stopped")]
    assert exit_status(lambda: run_texts.main([*argv, *stopped]), "run_texts.py") == 128 + signal.SIGTERM
    assert not (tmp_path / "stopped" / "results.json").exists()
    resumed = [*argv, *stopped, "--resume_from_checkpoint", "auto"]
    said = refused(capsys, run_texts.main, "run_texts.py", *resumed, "--max_length", "16")
    assert "belongs to another run" in said and "max_length was 32, is 16" in said
    run_texts.main(resumed)
    assert steps == list(range(14)), "each step once"
    one, other = (weights(tmp_path / name) for name in ("straight", "stopped"))
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--text_column", "nonsense"], ("things.csv", "'nonsense'", "'body'")),
        (["--label_column", "nonsense"], ("things.csv", "'nonsense'", "'kind'")),
        (["--validation_file", "{bad}"], ("bad.csv", "row 2", "--on_bad_example skip")),
        (["--validation_file", "{bad}", "--on_bad_example", "skip"], ("'other'", "'metal', 'wooden'")),
        (["--do_predict"], ("--test_file", "--dataset")),
        (["--do_eval"], ("'metal'", "'entailment'")),
        (["--max_train_samples", "1"], ("two classes",)),
    ],
)
def test_what_is_wrong_is_one_sentence(model, table, tmp_path, capsys, argv, words):
    bad = tmp_path / "bad.csv"
    bad.write_text("body,kind\nA gate,metal\n,metal\nA desk,other\n", encoding="utf-8")
    everything = ["--model", model, "--train_file", str(table), *COLUMNS, *QUICK, "--output_dir", str(tmp_path / "out")]
    said = refused(capsys, run_texts.main, "run_texts.py", *everything, *(a.format(bad=bad) for a in argv))
    assert all(word in said for word in words), said
    assert not (tmp_path / "out" / "results.json").exists()


def test_skipped_texts_are_counted(model, table, tmp_path):
    rows = table.read_text("utf-8").splitlines()
    (tmp_path / "gaps.csv").write_text("\n".join([*rows[:21], ",metal", "A gate,", *rows[21:41]]), encoding="utf-8")
    argv = ["--model", model, "--train_file", str(table), "--test_file", str(tmp_path / "gaps.csv"), *COLUMNS, *QUICK]
    argv += ["--on_bad_example", "skip", "--num_train_epochs", "1", "--output_dir", str(tmp_path / "out")]
    split = run_texts.main(argv)["data"]["splits"]["test"]
    assert (split["examples"], split["skipped"]) == (40, {"empty cell": 2})
    ids = [int(row["id"]) for row in rows_of(tmp_path / "out" / "test_predictions.csv")]
    assert ids == [*range(1, 21), *range(23, 43)]
