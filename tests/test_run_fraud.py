"""run_fraud.py through `main` and the command line: it learns, test rows stay out of training, and leaks are said."""

import json
import os
import signal
import sys
from pathlib import Path
from unittest import mock

import jsonschema
import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

import run_fraud
from common.demo.fraud import synthetic_cards
from common.errors import exit_status
from tests.helpers import ROOT, finish, plain, read, refused, rows_of, start

SCRIPT = str(ROOT / "run_fraud.py")
QUICK = ["--num_train_epochs", "2", "--batch_size", "64", "--learning_rate", "1e-3", "--no_baselines"]
# Runs the script and says which of the large libraries it has loaded.
LOADED = """
import runpy, sys
try:
    runpy.run_path(sys.argv.pop(1), run_name="__main__")
finally:
    heavy = {"torch", "tensorflow", "datasets", "sklearn", "matplotlib", "evaluate", "transformers", "pandas"}
    print("loaded:", *sorted(heavy & {*sys.modules}))
"""


def quiet(argv: list[str]) -> dict:
    """A run that draws nothing, which is much of the time of a short one."""
    with mock.patch("common.tabular.results.draw_plots", return_value={}):
        return run_fraud.main(argv)


def short(table: Path, out: Path, *more: str) -> dict:
    return quiet(["--train_file", str(table), "--output_dir", str(out), *QUICK, *more])


def deciding(model: Path, table: Path, out: Path) -> list[str]:
    return ["--model", str(model), "--do_predict", "--test_file", str(table), "--output_dir", str(out)]


def predictions(folder: Path, prefix: str = "test_") -> pd.DataFrame:
    return pd.read_csv(folder / f"{prefix}predictions.csv", float_precision="round_trip")


def weights(folder: Path) -> list[np.ndarray]:
    import keras

    return keras.saving.load_model(folder / "model.keras", compile=False).get_weights()


def same(one: Path, other: Path) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


@pytest.fixture(scope="module")
def cards() -> pd.DataFrame:
    """1,500 payments, 90 of them frauds."""
    return pd.DataFrame(synthetic_cards(1_500, 90, seed=3))


@pytest.fixture(scope="module")
def table(cards, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "cards.parquet"
    cards.to_parquet(path)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict, str]:
    """A `--demo` run in a process of its own, that says what it has loaded."""
    home = tmp_path_factory.mktemp("runs")
    environment = plain(home) | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    argv = ["--demo", "--num_train_epochs", "4", "--output_dir", str(home / "demo")]
    said = finish(start([sys.executable, "-c", LOADED, SCRIPT, *argv], home, environment))
    return home / "demo", read(home / "demo" / "results.json"), said


@pytest.fixture(scope="module")
def own(cards, tmp_path_factory) -> tuple[Path, Path, dict]:
    """A table as people have them, in pieces, and a detector trained on it."""
    folder = tmp_path_factory.mktemp("own")
    random = np.random.default_rng(0)
    rows = cards.drop(columns="Class").assign(
        verdict=np.where(cards["Class"] == 1, "stolen", "fine"),
        payment=[f"p{n:05d}" for n in range(1_500)],
        shop=random.choice(["food", "travel", None], 1_500),
        V3=cards["V3"].where(random.random(1_500) > 0.3),
        Time=pd.Timestamp("2024-01-01") + pd.to_timedelta(cards["Time"], unit="s"),
    )
    for name, at in (("train", 0), ("validation", 3), ("test", 4)):
        rows[(np.arange(1_500) % 5 >= at) & (np.arange(1_500) % 5 < (3, 9, 9, 4, 5)[at])].to_csv(
            folder / f"{name}.csv", index=False
        )
    files = ["--validation_file", str(folder / "validation.csv"), "--test_file", str(folder / "test.csv")]
    named = ["--target", "verdict", "--positive", "stolen", "--do_train", "--do_eval", "--do_predict"]
    return folder, folder / "out", short(folder / "train.csv", folder / "out", *files, *named)


# Whole runs


def test_the_demo_learns_and_reports(trained):
    folder, results, said = trained
    jsonschema.validate(results, read(ROOT / "common" / "results.schema.json"))
    head = results["headline"]
    assert (head["split"], head["metric"], head["baseline_name"]) == ("test", "auprc", "never fraud")
    assert head["low"] > 3 * head["baseline"] and "DEMO" in said
    assert results["model"]["parameters"]["total"] == 33_505
    for name in ("model.keras", "columns.json", "report.html", "README.md", "predictions.csv", "train_results.json"):
        assert (folder / name).is_file(), name
    for name in ("loss", "accuracy", "test_precision_recall", "test_confusion"):
        assert (folder / results["files"][name]).stat().st_size > 1_000
    assert {"loss", "eval_loss", "train_accuracy", "eval_accuracy"} <= results["history"][0].keys()
    versions = results["environment"]["versions"].keys()
    assert {"keras", "scikit-learn"} <= versions and versions & {"tensorflow", "tensorflow-cpu"}
    assert results["data"]["splits"]["train"]["label_counts"]["fraud"] == 67


def test_torch_is_never_loaded_and_the_help_loads_nothing_large(trained, tmp_path):
    assert "torch" not in trained[2].split("loaded:")[1] and "tensorflow" in trained[2].split("loaded:")[1]
    said = finish(
        start([sys.executable, "-c", LOADED, SCRIPT, "--help"], tmp_path, plain(tmp_path) | {"PYTHONPATH": str(ROOT)})
    )
    assert said.split("loaded:")[1].split() == [] and "--holdout_share" in said


def test_a_tracker_gets_the_run(table, tmp_path):
    short(table, tmp_path / "out", "--report_to", "tensorboard")
    assert [*(tmp_path / "out").glob("runs/fraud/*tfevents*")]


def test_the_figures_are_scikit_learns_on_the_file_of_predictions(trained):
    folder, results, _ = trained
    rows, found = predictions(folder), results["metrics"]["test"]
    truth, called = rows["truth"] == "fraud", rows["prediction"] == "fraud"
    expected = {
        "auprc": sk.average_precision_score(truth, rows["probability"]),
        "roc_auc": sk.roc_auc_score(truth, rows["probability"]),
        "recall": sk.recall_score(truth, called),
        "f1": sk.f1_score(truth, called),
        "accuracy_at_half": sk.accuracy_score(truth, rows["prediction_at_half"] == "fraud"),
    }
    assert {name: found[name]["value"] / 100 for name in expected} == pytest.approx(expected)
    flat = read(folder / "predict_results.json")
    assert flat["predict_auprc"] == found["auprc"]["value"] and len(rows) == 12_000


def test_the_baselines_stand_beside_the_model(trained):
    """Never fraud is right almost always, and finds nothing: the report's own lesson."""
    baseline = trained[1]["baseline"]["test"]["metrics"]
    assert baseline["accuracy"]["value"] == pytest.approx(100 * (1 - 36 / 12_000)) and baseline["recall"]["value"] == 0
    models = next(table for table in trained[1]["tables"] if table["title"] == "Models on test")
    names = [row[0] for row in models["rows"]]
    assert names == [
        "this model",
        "logistic regression",
        "gradient boosting",
        "isolation forest (no labels)",
        "never fraud",
    ]
    areas = {row[0]: float(row[1].rstrip(" %")) for row in models["rows"]}
    days = next(table for table in trained[1]["tables"] if table["title"].startswith("The 100 likeliest rows"))
    assert days["head"] == ["day", "rows", "alerts", "frauds", "found"] and len(days["rows"]) == 2
    assert areas["gradient boosting"] > areas["isolation forest (no labels)"] > areas["never fraud"]
    averages = trained[1]["per_class"]["test"]
    assert averages["macro avg"]["recall"] == pytest.approx(
        (averages["legitimate"]["recall"] + averages["fraud"]["recall"]) / 2
    )


def test_the_published_protocol_says_in_every_output_that_it_leaks(table, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run_fraud, "ULB", (1_500, 90))
    argv = ["--train_file", str(table), "--output_dir", str(tmp_path / "out"), *QUICK, "--protocol", "published"]
    results = run_fraud.main(argv)
    protocol, printed = results["protocol"], capsys.readouterr().out
    assert (protocol["name"], protocol["leaks"]) == ("published", True)
    worth = next(note for note in protocol["notes"] if "the leak is worth" in note)
    assert "balance alone adds" in worth and "LEAKS" in printed
    for name in ("report.html", "README.md"):
        text = (tmp_path / "out" / name).read_text("utf-8")
        assert "LEAKS" in text and "the leak is worth" in text, name
    assert [row[0] for row in results["tables"][0]["rows"]] == [
        *("leaking test, its real rows", "holdout"),
    ]
    rows = sum(results["data"]["splits"][name]["examples"] for name in ("train", "validation", "test"))
    assert rows > 1.7 * 1_050 and results["data"]["splits"]["holdout"]["examples"] == 450
    shown = predictions(tmp_path / "out", "holdout_")["row"]
    others = pd.concat([predictions(tmp_path / "out", prefix)["row"] for prefix in ("", "test_")])
    assert not set(shown) & set(others)
    texts = [row["setting"] for row in results["published"]]
    assert texts[:2] == ["as it is, the text", "as it is, the table of another run"] and len(texts) == 3
    assert results["arguments"]["calibrate"]["value"] == "none" and {"adasyn_r", "adasyn_g"} <= results["files"].keys()
    assert any("'holdout' was put aside" in note for note in protocol["notes"])


def test_resampled_and_weighted_probabilities_are_those_of_real_rows(table, tmp_path):
    raw = short(table, tmp_path / "raw", "--resample", "oversample", "--calibrate", "none")
    real = short(table, tmp_path / "real", "--resample", "oversample")
    assert same(tmp_path / "raw", tmp_path / "real")
    said, corrected = (predictions(tmp_path / name)["probability"] for name in ("raw", "real"))
    odds = 90 * 0.7 * 0.8 / (1_410 * 0.7 * 0.8)
    np.testing.assert_allclose(corrected, odds * said / (odds * said + 1 - said), rtol=0.02)
    assert real["metrics"]["test"]["auprc"] == raw["metrics"]["test"]["auprc"]
    counts = next(table for table in real["tables"] if table["title"].startswith("Resampling"))["rows"]
    assert counts[1][1] == counts[1][2] == counts[0][1] > counts[0][2]
    settings = ["--class_weights", "balanced", "--loss", "focal", "--lr_scheduler_type", "cosine", "--model", "mlp"]
    others = short(table, tmp_path / "others", *settings, "--calibrate", "isotonic", "--amount_column", "Amount")
    assert 0 < others["metrics"]["test"]["cost"]["value"] < others["baseline"]["test"]["metrics"]["cost"]["value"] * 3
    assert json.loads((tmp_path / "others" / "columns.json").read_text("utf-8"))["calibration"]["said"]


def test_copies_in_the_test_are_said_beside_the_headline(cards, table, tmp_path):
    flipped = cards[:300].assign(Class=1 - cards["Class"][:300], V1=cards["V1"][:300] + 1e-9)
    flipped.to_csv(tmp_path / "flipped.csv", index=False)
    results = short(table, tmp_path / "out", "--test_file", str(tmp_path / "flipped.csv"))
    shared = {tuple(one["between"]): one["examples"] for one in results["data"]["overlaps"]}
    assert sum(count for pair, count in shared.items() if pair[1] == "test") >= 300
    assert any("of test" in warning and "stand in train" in warning for warning in results["warnings"])


# Stopping and resuming

KILLED = """
import os, signal, sys
import run_fraud
from common.tabular import network, trainer
end = None
def kill(self, *arguments):
    if len(self.history) == 1:  # after the work of the second epoch, before its checkpoint
        os.kill(os.getpid(), signal.SIGKILL)
    return end(self, *arguments)
end, trainer.KerasTrainer._end_epoch = trainer.KerasTrainer._end_epoch, kill
run_fraud.main(sys.argv[1:])
"""


def test_killed_and_resumed_is_as_if_never_killed(table, tmp_path, capsys):
    argv = ["--num_train_epochs", "3", "--resample", "smote"]
    short(table, tmp_path / "whole", *argv)
    everything = ["--train_file", str(table), "--output_dir", str(tmp_path / "killed"), *QUICK, *argv]
    environment = plain(tmp_path) | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "KERAS_BACKEND": "tensorflow"}
    environment |= {"TF_ENABLE_ONEDNN_OPTS": "0", "TF_NUM_INTRAOP_THREADS": "1"}
    finish(start([sys.executable, "-c", KILLED, *everything], tmp_path, environment), -signal.SIGKILL)
    again = [*everything, "--resume_from_checkpoint", "auto"]
    for changed, words in (
        (["--learning_rate", "1e-2"], "learning_rate was 0.001, is 0.01"),
        (["--resample", "none"], "resample was smote, is none"),
        (["--class_weights", "balanced"], "class_weights was none, is balanced"),
    ):
        assert words in refused(capsys, run_fraud.main, "run_fraud.py", *again, *changed)
    (state,) = (tmp_path / "killed").glob("checkpoint-*/trainer_state.json")
    earlier, results = read(state)["log_history"][-1]["seconds"], quiet(again)
    times = (
        read(tmp_path / "killed" / "train_results.json")["train_runtime"],
        results["resources"]["seconds"]["training"],
    )
    assert min(times) > earlier > 0 and results["resources"]["seconds"]["total"] > max(times)  # of all parts of the run
    assert same(tmp_path / "whole", tmp_path / "killed")
    assert predictions(tmp_path / "whole").equals(predictions(tmp_path / "killed"))


def test_a_signal_stops_with_a_sentence(table, tmp_path, capsys, monkeypatch):
    from common.tabular import trainer

    end = trainer.KerasTrainer._end_epoch

    def stopping(self, *arguments):
        end(self, *arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(trainer.KerasTrainer, "_end_epoch", stopping)
    status = exit_status(lambda: short(table, tmp_path / "out", "--num_train_epochs", "3"), "run_fraud.py")
    assert status == 128 + signal.SIGTERM and "--resume_from_checkpoint auto" in capsys.readouterr().err
    assert (tmp_path / "out" / "checkpoint-14").is_dir() and not (tmp_path / "out" / "results.json").exists()


# Own tables, and a trained model


def test_a_table_of_text_times_and_missing_cells_trains_at_the_first_try(own):
    _, out, results = own
    columns = read(out / "columns.json")
    assert columns["classes"] == ["fine", "stolen"] and columns["left_out"] == {
        "payment": "text, or numbers with text among them, that hardly ever repeats"
    }
    assert {"shop=food", "shop=(missing)", "V3 is missing"} <= {
        name for about in columns["columns"].values() for name in about["features"]
    }
    assert "missing cells, filled and marked: 'V3', 'shop'" in results["protocol"]["notes"]
    assert predictions(out)["payment"].tolist() == [f"p{n:05d}" for n in range(4, 1_500, 5)]


def test_a_trained_model_decides_as_in_training_a_part_at_a_time(own, tmp_path, monkeypatch):
    folder, out, trained = own
    monkeypatch.setattr("common.tabular.tables.Tables.__init__.__defaults__", (None, 20_000))
    results = quiet(deciding(out, folder / "test.csv", tmp_path / "again"))
    before, after = predictions(out), predictions(tmp_path / "again")
    np.testing.assert_allclose(after.pop("probability"), before.pop("probability"), atol=1e-6)
    assert after.equals(before)
    for name in ("auprc", "f1", "roc_auc"):
        assert results["metrics"]["test"][name]["value"] == pytest.approx(trained["metrics"]["test"][name]["value"])
    given = quiet([*deciding(out, folder / "test.csv", tmp_path / "given"), "--threshold", "0.01"])
    assert "threshold 0.01: given" in given["protocol"]["notes"]
    rows = predictions(tmp_path / "given")
    assert ((rows["prediction"] == "fraud") == (rows["probability"] >= 0.01)).all()


def test_rows_without_truth_are_predicted_and_not_scored(own, tmp_path, capsys):
    folder, out, _ = own
    pd.read_csv(folder / "test.csv").drop(columns="verdict").assign(shop="opera").to_csv(
        tmp_path / "new.csv", index=False
    )
    results = run_fraud.main(deciding(out, tmp_path / "new.csv", tmp_path / "out"))
    assert results["headline"] is None and results["metrics"] == {} and len(predictions(tmp_path / "out")) == 300
    assert "300 rows have a value of shop, or an empty cell, that training had not" in results["warnings"]
    scored = ["--do_eval", "--validation_file", str(tmp_path / "new.csv"), "--output_dir", str(tmp_path / "scored")]
    assert "no column 'verdict'" in refused(capsys, run_fraud.main, "run_fraud.py", "--model", str(out), *scored)


def test_a_part_of_bad_rows_does_not_stop_the_others(own, tmp_path, capsys):
    folder, out, _ = own
    rows = pd.read_csv(folder / "test.csv").astype({"V1": object})
    for name, part in (("0", rows[:100].assign(V1="oops")), ("1", rows[100:])):
        part.to_csv(tmp_path / f"{name}.csv", index=False)
    found = quiet([*deciding(out, tmp_path / "?.csv", tmp_path / "out"), "--on_bad_example", "skip"])
    facts = found["data"]["splits"]["test"]
    assert facts["skipped"] == {"no number to compute with": 100} and facts["examples"] == facts["available"] == 200
    written = predictions(tmp_path / "out")
    assert written["row"].tolist() == [*range(1, 201)] and set(written["file"]) == {str(tmp_path / "1.csv")}
    argv = [*deciding(out, tmp_path / "0.csv", tmp_path / "none"), "--on_bad_example", "skip"]
    said = refused(capsys, run_fraud.main, "run_fraud.py", *argv)
    assert "0.csv: no usable row ({'no number to compute with': 100})" in said
    assert not (tmp_path / "none" / "test_predictions.csv").exists()


def test_other_class_values_are_refused_by_their_row(own, tmp_path, capsys):
    folder, out, _ = own
    other = pd.read_csv(folder / "test.csv")
    other["verdict"] = other["verdict"].str.upper()
    other.to_csv(tmp_path / "upper.csv", index=False)
    argv = deciding(out, tmp_path / "upper.csv", tmp_path / "out")
    said = refused(capsys, run_fraud.main, "run_fraud.py", *argv)
    assert "upper.csv, row 1: verdict holds 'FINE', not 'fine' or 'stolen'" in said
    assert not (tmp_path / "out" / "test_predictions.csv").exists()


def test_rows_with_truth_and_rows_without_are_not_mixed(own, tmp_path, capsys, monkeypatch):
    """Within a part the row is named; a whole part without it would take the scores from all the others."""
    folder, out, _ = own
    rows = pd.read_csv(folder / "test.csv")
    empty = rows.assign(verdict=None)
    for name, parts in (("first", [empty, rows]), ("last", [rows, empty])):
        for at, part in enumerate(parts):
            part.to_csv(tmp_path / f"{name}{at}.csv", index=False)
        argv = deciding(out, tmp_path / f"{name}*.csv", tmp_path / "out")
        said = refused(capsys, run_fraud.main, "run_fraud.py", *argv)
        assert f"{name}1.csv, row 1: from here on verdict is empty, or no longer" in said
        assert not (tmp_path / "out").exists()


def test_names_of_columns_are_no_formulas(table, tmp_path):
    odd = pd.read_parquet(table).rename(columns={"V1": "=1+1"})
    odd.to_parquet(tmp_path / "odd.parquet")
    short(tmp_path / "odd.parquet", tmp_path / "out", "--ignore_columns", "=1+1")
    assert "'=1+1" in predictions(tmp_path / "out")


def test_alerts_by_day_need_a_time(cards, tmp_path, capsys):
    cards.drop(columns="Time").to_parquet(tmp_path / "t.parquet")
    argv = ["--train_file", str(tmp_path / "t.parquet"), "--output_dir", str(tmp_path / "out"), "--alerts_per_day", "9"]
    assert "no column 'Time'" in refused(capsys, run_fraud.main, "run_fraud.py", *argv)


def test_where_the_amount_is_empty_a_missed_fraud_costs_what_the_flag_says(table, tmp_path):
    short(table, tmp_path / "out", "--amount_column", "Amount", "--threshold", "0.999999")
    empty = pd.read_parquet(table).assign(Amount=np.nan)
    empty.to_parquet(tmp_path / "empty.parquet")
    results = quiet([*deciding(tmp_path / "out", tmp_path / "empty.parquet", tmp_path / "more"), "--miss_cost", "5"])
    assert results["metrics"]["test"]["cost"]["value"] == 90 * 5


def test_a_damaged_model_is_one_sentence(own, tmp_path, capsys):
    folder, out, _ = own
    content, columns = (out / "model.keras").read_bytes(), read(out / "columns.json")
    columns["columns"].pop("V1")
    middle = len(content) // 2
    for name, damaged in (
        ("model.keras", content[:middle] + bytes(200) + content[middle + 200 :]),
        ("model.keras", content[:500]),
        ("columns.json", json.dumps(columns).encode()),
        ("columns.json", b"[" * 100_000),
    ):
        model = tmp_path / "model"
        model.mkdir(exist_ok=True)
        for one in ("model.keras", "columns.json"):
            (model / one).write_bytes(damaged if one == name else (out / one).read_bytes())
        argv = deciding(model, folder / "test.csv", tmp_path / "out")
        assert "cannot be loaded" in refused(capsys, run_fraud.main, "run_fraud.py", *argv)


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--threshold", "cost"], "--threshold cost: is chosen in training"),
        (["--resample", "adasyn"], "--resample changes nothing"),
        (["--target", "verdict"], "--target changes nothing"),
        (["--ignore_columns", "V1"], "--ignore_columns changes nothing"),
        (["--model", "cnn"], "must be the folder of a model"),
        (["--do_eval"], "--do_eval and --validation_file need each other"),
        (["--validation_file", "t.csv"], "--do_eval and --validation_file need each other"),
    ],
)
def test_what_changes_nothing_in_a_prediction_is_refused(own, tmp_path, capsys, argv, words):
    folder, out, _ = own
    using = deciding(out, folder / "test.csv", tmp_path / "out")
    assert words in refused(capsys, run_fraud.main, "run_fraud.py", *using, *argv)


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--test_share", "1"], "--test_share 1.0"),
        (["--holdout_share", "0.2"], "--holdout_share changes nothing"),
        (["--holdout_share", "0", "--protocol", "published"], "--holdout_share 0.0: must be from 1e-06"),
        (["--test_share", "0.2", "--test_file", "t.csv"], "--test_share changes nothing"),
        (["--validation_share", "0.2", "--validation_file", "t.csv"], "--validation_share changes nothing"),
        (["--alert_cost", "0"], "--alert_cost 0.0: must be from 1e-12"),
        (["--miss_cost", "1e308"], "--miss_cost 1e+308: must be from 1e-12 to 1e+12"),
        (["--neighbours", "0", "--resample", "smote"], "--neighbours 0: must be from 1"),
        (["--resample_ratio", "nan", "--resample", "smote"], "--resample_ratio nan: must be from 1e-12 to 1"),
        (["--neighbours", "3"], "--neighbours changes nothing"),
        (["--split", "time", "--validation_file", "v.csv", "--test_file", "t.csv"], "--split changes nothing"),
        (["--split_seed", "3", "--split", "time"], "--split_seed changes nothing"),
        (["--early_stopping_threshold", "0.1"], "--early_stopping_threshold changes nothing"),
        (["--max_eval_samples", "9", "--protocol", "published"], "--max_eval_samples changes nothing"),
        (["--protocol", "published", "--split", "time"], "--protocol published resamples"),
        (["--split_seed", "-1"], "--split_seed -1"),
        (["--seed", "-1"], "--seed -1"),
        (["--report_to", "wandb"], "report_to"),
        *((["--threshold", text], f"--threshold {text}: must be") for text in ("f3", "recall@0.9", "1", "0", "nan")),
        (["--model", "forest"], "--model forest"),
        (["--target", "fraud"], "no column 'fraud'"),
        (["--split", "time", "--time_column", "day"], "no column 'day'"),
        (["--ignore_columns", "V1", "Class"], "the target is no feature"),
        (["--amount_column", "Class"], "the target is no feature"),
    ],
)
def test_bad_arguments_are_one_sentence(table, tmp_path, capsys, argv, words):
    given = ["--train_file", str(table), "--output_dir", str(tmp_path / "out"), *argv]
    assert words in refused(capsys, run_fraud.main, "run_fraud.py", *given)


def test_two_processes_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "start it by python" in refused(capsys, run_fraud.main, "run_fraud.py", "--demo")


def test_real_payments(shared_data, tmp_path):
    path = shared_data / "creditcard" / "creditcard_uniform.parquet"
    results = short(path, tmp_path / "out", "--num_train_epochs", "6", "--learning_rate", "3e-4")
    assert results["metrics"]["test"]["auprc"]["value"] > 80 and results["data"]["overlaps"]
    assert len(rows_of(tmp_path / "out" / "test_predictions.csv")) == 2_009
