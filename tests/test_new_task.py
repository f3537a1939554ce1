"""docs/run_texts.py, the example of an eighth script: short, and as good as the seven."""

import csv
import json
import re
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.metrics import accuracy_score, f1_score

from docs import run_texts
from tests.helpers import ROOT, read, refused, rows_of

QUICK = ["--use_cpu", "--disable_tqdm", "true", "--max_length", "32", "--learning_rate", "1e-3"]
COLUMNS = ["--text_column", "body", "--label_column", "kind"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    """One whole `--demo` run."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    argv = ["--demo", "--do_train", "--do_eval", "--do_predict", "--output_dir", str(folder), "--use_cpu"]
    return folder, run_texts.main(argv)


@pytest.fixture(scope="module")
def model(trained) -> str:
    """The tiny model of the demo as a user's folder."""
    return str(next((trained[0] / "demo").glob("*/config.json")).parent)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """60 different texts of two classes, in columns of a user's own, as a user's csv file."""
    things = [("wagon", "Paris"), ("mirror", "Rome"), ("gate", "Berlin"), ("desk", "Vienna"), ("clock", "Madrid")]
    rows = [
        (f"The {thing} stands in {place}, number {n}, {word}", kind)
        for thing, place in things
        for n in range(6)
        for word, kind in (("made of iron", "metal"), ("made of wood", "wooden"))
    ]
    path = tmp_path_factory.mktemp("table") / "things.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("body", "kind"), *rows])
    return path


def test_the_guide_names_what_there_is():
    guide, script = ((ROOT / "docs" / name).read_text("utf-8") for name in ("NEW_TASK.md", "run_texts.py"))
    assert len(script.splitlines()) < 150
    assert re.findall(r"^ *.*# (\d)\. ", script, re.M) == ["1", "2", "3", "4"] == re.findall(r"^(\d)\. ", guide, re.M)
    for dotted in re.findall(r"`(common(?:\.\w+)+)`", guide):
        module, _, name = dotted.rpartition(".")
        assert hasattr(__import__(module, fromlist=[name]), name), dotted


def test_the_demo_beats_its_baseline_and_its_figures_are_scikit_learns(trained):
    folder, results = trained
    written = read(folder / "results.json")
    jsonschema.validate(written, read(ROOT / "common" / "results.schema.json"))
    assert written == json.loads(json.dumps(results))
    assert results["headline"]["low"] > results["headline"]["baseline"] + 5
    for name in written["files"].values():
        assert (folder / name).stat().st_size > 0, name
    for split, prefix in (("validation", ""), ("test", "test_")):
        rows = rows_of(folder / f"{prefix}predictions.csv")
        truth, said = ([row[column] for row in rows] for column in ("truth", "prediction"))
        metrics = results["metrics"][split]
        assert metrics["accuracy"]["value"] == pytest.approx(100 * accuracy_score(truth, said))
        assert metrics["f1"]["value"] == pytest.approx(100 * f1_score(truth, said, average="macro"))
    assert read(folder / "eval_results.json")["eval_accuracy"] == results["metrics"]["validation"]["accuracy"]["value"]


def test_own_files_and_a_stopped_run(model, table, tmp_path):
    argv = ["--model", model, "--train_file", str(table), "--validation_file", str(table), *COLUMNS, *QUICK]
    argv += ["--num_train_epochs", "2", "--save_strategy", "steps", "--save_steps", "5", "--output_dir"]
    run_texts.main([*argv, str(tmp_path / "whole")])
    run_texts.main([*argv, str(tmp_path / "part")])
    for name in ("checkpoint-15", "checkpoint-16"):  # as if it had been killed
        shutil.rmtree(tmp_path / "part" / name, ignore_errors=True)
    (tmp_path / "part" / "results.json").unlink()
    results = run_texts.main([*argv, str(tmp_path / "part"), "--resume_from_checkpoint", "auto"])
    whole, part = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "part"))
    assert all(np.array_equal(whole[name], part[name]) for name in whole)
    assert results["data"]["splits"]["train"]["label_counts"] == {"metal": 30, "wooden": 30}
    assert results["data"]["overlaps"][0]["share"] == 1


def test_mistakes_are_one_sentence(capsys, model, table, tmp_path):
    main, argv = run_texts.main, ["--model", model, "--output_dir", str(tmp_path / "out"), *QUICK]
    sentence = refused(capsys, main, "run_texts.py", *argv, "--train_file", str(table), "--validation_file", str(table))
    assert "no column 'text', 'label'" in sentence and "'body', 'kind'" in sentence
    bad = tmp_path / "bad.csv"
    bad.write_text('body,kind\nIron,metal\n"  ",metal\nWood,wooden\n')
    files = ["--train_file", str(bad), "--validation_file", str(table), *COLUMNS]
    assert f"{bad}, row 2: the text is empty" in refused(capsys, main, "run_texts.py", *argv, *files)
    results = main([*argv, *files, "--on_bad_example", "skip"])
    assert results["data"]["splits"]["train"]["skipped"] == {"empty text": 1}
