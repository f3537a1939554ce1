"""run_fraud.py through `main` and the command line: it learns, test rows stay out of training, and leaks are said."""

import contextlib
import io
import os
import re
import signal
import sys
from pathlib import Path
from unittest import mock

import jsonschema
import numpy as np
import pandas
import pytest
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    f1_score,
    log_loss,
    matthews_corrcoef,
    precision_score,
    recall_score,
    roc_auc_score,
)
from sklearn.utils.class_weight import compute_class_weight

import run_fraud
from common.legacy.demo_fraud import synthetic_cards
from common.legacy.errors import exit_status
from tests.legacy.hub import Hub
from tests.legacy.scripts import ROOT, TORCHRUN, finish, plain, read, refused, rows_of, start

SCRIPT = str(ROOT / "run_fraud.py")
QUICK = ["--num_train_epochs", "2", "--batch_size", "64", "--learning_rate", "1e-3", "--no_baselines"]
AT_THRESHOLD = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
# Runs the script and says which of the large libraries it has loaded.
LOADED = """
import runpy, sys
try:
    runpy.run_path(sys.argv.pop(1), run_name="__main__")
finally:
    print("loaded:", *sorted({"torch", "tensorflow", "evaluate", "accelerate"} & {*sys.modules}))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    """One whole `--demo` run, in a process that says what it has loaded."""
    home = tmp_path_factory.mktemp("runs")
    environment = plain(home) | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", LOADED, SCRIPT, "--demo", "--output_dir", str(home / "demo")]
    said = finish(start(command, home, environment))
    (home / "said.txt").write_text(said, encoding="utf-8")
    return home / "demo", read(home / "demo" / "results.json")


@pytest.fixture(scope="module")
def cards(tmp_path_factory) -> pandas.DataFrame:
    """1,500 payments, 90 of them frauds, with a few exact copies."""
    return pandas.DataFrame(synthetic_cards(1_500, 90, seed=3))


@pytest.fixture(scope="module")
def table(cards, tmp_path_factory) -> Path:
    return written(cards, tmp_path_factory.mktemp("data") / "cards.parquet")


@pytest.fixture(scope="module")
def three(cards, tmp_path_factory) -> dict[str, Path]:
    """The payments as three csv files with a target of words; the columns of the test file are in another order."""
    folder = tmp_path_factory.mktemp("three")
    rows = cards.rename(columns={"Class": "verdict"}).assign(verdict=np.where(cards["Class"] == 1, "stolen", "fine"))
    at = np.arange(len(rows)) % 5
    parts = {"train": rows[at < 3], "validation": rows[at == 3], "test": rows[at == 4][[*rows.columns[::-1]]]}
    return {name: written(part, folder / f"{name}.csv") for name, part in parts.items()}


@pytest.fixture(scope="module")
def detector(three, tmp_path_factory) -> tuple[Path, dict]:
    """A short training on the three files."""
    folder = tmp_path_factory.mktemp("runs") / "detector"
    named = ["--target", "verdict", "--positive", "stolen"]
    return folder, short(three["train"], folder, *named, *files(three, "validation", "test"))


@pytest.fixture(scope="module")
def honest(table, tmp_path_factory) -> tuple[Path, dict]:
    """A short training with ADASYN, cut from one table."""
    folder = tmp_path_factory.mktemp("runs") / "honest"
    return folder, short(table, folder, "--resample", "adasyn")


@pytest.fixture(scope="module")
def leaking(table, tmp_path_factory) -> tuple[Path, dict]:
    """The same by the published protocol, with baselines, pictures and all."""
    folder = tmp_path_factory.mktemp("runs") / "leaking"
    argv = ["--train_file", str(table), "--output_dir", str(folder), *QUICK[:-1], "--protocol", "published"]
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
        results = run_fraud.main(argv)
    (folder / "said.txt").write_text(printed.getvalue(), encoding="utf-8")
    return folder, results


def written(rows: pandas.DataFrame, path: Path) -> Path:
    rows.to_parquet(path, index=False) if path.suffix == ".parquet" else rows.to_csv(path, index=False)
    return path


def changed(cards: pandas.DataFrame, column: str, value, row: int | None = None) -> pandas.DataFrame:
    rows = cards.astype({column: object})
    rows.loc[slice(None) if row is None else row - 1, column] = value
    return rows


def files(three: dict, *names: str) -> list[str]:
    return [argument for name in names for argument in (f"--{name}_file", str(three[name]))]


def without_plots(argv: list[str]) -> dict:
    """A run that draws nothing, which is much of the time of a short one; whole runs show that drawing works."""
    with mock.patch("run_fraud.draw_plots", return_value={}):
        return run_fraud.main(argv)


def short(table: Path, out: Path, *more: str) -> dict:
    """A training of two epochs."""
    return without_plots(["--train_file", str(table), "--output_dir", str(out), *QUICK, *more])


def used(model: Path, out: Path, *more: str) -> dict:
    """A model that is only used."""
    return without_plots(["--model", str(model), "--output_dir", str(out), *more])


def weights(folder: Path) -> list[np.ndarray]:
    import keras

    return keras.saving.load_model(folder / "model.keras", compile=False).get_weights()


def same(one: Path, other: Path) -> bool:
    """Whether two runs have the same weights, bit for bit."""
    return all(np.array_equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def detections(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids, truth 0/1, probabilities) of a file of predictions."""
    found = pandas.read_csv(path, float_precision="round_trip")
    return found["id"].to_numpy(), (found["truth"] == "fraud").to_numpy(), found["probability"].to_numpy()


# Whole runs


def test_demo_learns_and_reports(trained):
    folder, results = trained
    head = results["headline"]
    assert (head["split"], head["metric"]) == ("test", "auprc")
    assert head["baseline"] < 1 and head["low"] > head["baseline"] + 30, "beyond the share of frauds, clearly"
    jsonschema.validate(results, read(ROOT / "common" / "legacy" / "results.schema.json"))
    for name in results["files"].values():
        assert (folder / name).stat().st_size > 0, name
    names = ["train_results", "eval_results", "predict_results", "all_results", "trainer_state", "detector", "run"]
    assert all(read(folder / f"{name}.json") for name in names) and (folder / "model.keras").is_file()
    plots = {Path(name).stem for name in results["files"].values() if name.startswith("plots/")}
    kinds = ("precision_recall", "roc", "scores", "calibration", "by_threshold", "confusion", "at_half_confusion")
    assert plots == {"class_counts", "loss", "auprc", *(f"{p}_{k}" for p in ("test", "validation") for k in kinds)}
    assert len(results["history"]) == 12 and {"loss", "eval_loss", "eval_auprc"} <= results["history"][-1].keys()
    assert results["protocol"]["leaks"] is False and results["environment"]["processes"] == 1
    assert results["model"]["parameters"] == {"total": 29_345, "trainable": 29_153}
    assert len(results["extra"]["layers"]) == 12 and results["published"] == [], "not the ULB set"
    assert {name: part["examples"] for name, part in results["data"]["splits"].items()} == {
        "train": 22_400,
        "validation": 5_600,
        "test": 12_000,
    }
    shared = {tuple(found["between"]): found["examples"] for found in results["data"]["overlaps"]}
    assert shared["train", "test"] > 0, "exact copies across parts are reported"
    report = (folder / "report.html").read_text("utf-8")
    assert "Missed fraud" in report and "LEAKS" not in report and "models on test" in report
    said = (folder.parent / "said.txt").read_text("utf-8")
    assert "Total params: 29,345" in said and "epoch 12 of 12: loss" in said and "test auprc:" in said


def test_torch_is_never_loaded(trained):
    said = (trained[0].parent / "said.txt").read_text("utf-8")
    assert "loaded: tensorflow\n" in said


def test_help_loads_nothing_large(tmp_path):
    environment = plain(tmp_path) | {"PYTHONPATH": str(ROOT)}
    said = finish(start([sys.executable, "-c", LOADED, SCRIPT, "--help"], tmp_path, environment))
    assert said.endswith("loaded:\n") and "--resample {none,adasyn,oversample,undersample}" in said
    for name in ("--target", "--protocol", "--threshold", "--num_devices", "--train_file", "--num_train_epochs"):
        assert f"\n  {name}" in said


@pytest.mark.parametrize("run", ["trained", "leaking"])
def test_figures_equal_scikit_learns(run, request):
    folder, results = request.getfixturevalue(run)
    threshold = results["extra"]["decision"]["threshold"]
    assert 0 < threshold < 1 and threshold != 0.5 and read(folder / "detector.json")["threshold"] == threshold
    for split, found in results["metrics"].items():
        prefix = "" if split == "validation" else f"{split}_"
        _, truth, probabilities = detections(folder / f"{prefix}predictions.csv")
        assert found["auprc"]["value"] == pytest.approx(100 * average_precision_score(truth, probabilities))
        assert found["roc_auc"]["value"] == pytest.approx(100 * roc_auc_score(truth, probabilities))
        assert found["loss"]["value"] == pytest.approx(log_loss(truth, probabilities.clip(1e-7, 1 - 1e-7)), abs=1e-6)
        for ending, at, key in (("", threshold, split), ("_at_half", 0.5, f"{split}, threshold 0.5")):
            called = probabilities >= at
            for name, score in AT_THRESHOLD.items():
                assert found[f"{name}{ending}"]["value"] == pytest.approx(100 * score(truth, called, zero_division=0))
            assert found[f"mcc{ending}"]["value"] == pytest.approx(matthews_corrcoef(truth, called))
            (_, alarms), (missed, _) = matrix = confusion_matrix(truth, called)
            assert found[f"cost{ending}"]["value"] == 100 * missed + alarms
            assert results["confusion"][key]["matrix"] == matrix.tolist()
        rows = rows_of(folder / f"{prefix}predictions.csv")
        for column, at in (("prediction", threshold), ("prediction_at_half", 0.5)):
            assert [row[column] == "fraud" for row in rows] == (probabilities >= at).tolist()
        assert [*rows[0]] == ["id", "Time", "Amount", "truth", "prediction", "prediction_at_half", "probability"]


def test_baselines_stand_beside_the_model(trained):
    from sklearn.linear_model import LogisticRegression

    folder, results = trained
    rows = results["extra"]["models on test"]
    assert [*rows] == ["this model", "logistic regression", "gradient boosting"]
    assert rows["this model"]["auprc"] == results["metrics"]["test"]["auprc"]
    cards = pandas.read_parquet(folder / "demo" / "creditcard.parquet")
    ids, truth, _ = detections(folder / "test_predictions.csv")
    dev, _, _ = detections(folder / "predictions.csv")
    assert (cards["Class"].to_numpy()[ids - 1] == truth).all() and not {*ids} & {*dev}, "ids are rows of the file"
    train = cards.drop(index=[*ids - 1, *dev - 1])
    x, y = train.drop(columns="Class"), train["Class"]
    model = LogisticRegression(max_iter=1000).fit((x - x.mean()) / x.std(ddof=0), y)
    test = cards.iloc[ids - 1].drop(columns="Class")
    found = model.predict_proba((test - x.mean()) / x.std(ddof=0))[:, 1]
    expected = 100 * average_precision_score(truth, found)
    assert rows["logistic regression"]["auprc"]["value"] == pytest.approx(expected, abs=0.05)
    assert all(figures["auprc"]["low"] > 20 for figures in rows.values())
    facts = read(folder / "detector.json")
    assert facts["mean"] == pytest.approx(x.mean().tolist()) and facts["scale"] == pytest.approx(x.std(ddof=0).tolist())


@pytest.mark.parametrize("run", ["trained", "detector"])
def test_the_code_of_the_card_gives_the_same_probabilities(run, request, tmp_path, three):
    folder, _ = request.getfixturevalue(run)
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)[1]
    assert "common" not in code and "new.csv" in code
    ids, _, expected = detections(folder / "test_predictions.csv")
    new = three["test"]
    if run == "trained":
        new = written(pandas.read_parquet(folder / "demo" / "creditcard.parquet").iloc[ids - 1], tmp_path / "new.csv")
    scope, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code.replace("new.csv", str(new)), scope)  # what a reader of the card would run
    np.testing.assert_allclose(scope["probabilities"], expected, atol=1e-5)
    assert "[" in printed.getvalue()


def test_the_same_directory_twice_is_refused(trained, capsys):
    folder, _ = trained
    before = (folder / "results.json").read_bytes()
    said = refused(capsys, run_fraud.main, "run_fraud.py", "--demo", "--output_dir", str(folder))
    assert "is not empty" in said and "--overwrite_output_dir" in said
    assert (folder / "results.json").read_bytes() == before


# Nothing of the test is seen in training, or it is said


def test_other_test_rows_leave_the_weights_as_they_are(honest, cards, tmp_path):
    folder, results = honest
    counts = results["extra"]["resampling"]
    assert counts["before"] == results["data"]["splits"]["train"]["label_counts"]
    assert counts["after"]["legitimate"] == counts["before"]["legitimate"] and counts["after"]["fraud"] > 700
    changed = cards.copy()
    test = detections(folder / "test_predictions.csv")[0] - 1
    changed.iloc[test, :30] = changed.iloc[test, :30].to_numpy()[::-1] * 3 + 1
    short(written(changed, tmp_path / "changed.parquet"), tmp_path / "out", "--resample", "adasyn")
    assert same(folder, tmp_path / "out")
    one, other = (read(path / "detector.json") for path in (folder, tmp_path / "out"))
    assert one == other, "scaling and threshold know nothing of them, either"
    assert (folder / "predictions.csv").read_bytes() == (tmp_path / "out" / "predictions.csv").read_bytes()
    found = [detections(path / "test_predictions.csv")[2] for path in (folder, tmp_path / "out")]
    assert np.abs(found[0] - found[1]).max() > 0.1


def test_published_protocol_says_that_it_leaks(leaking, honest):
    folder, results = leaking
    jsonschema.validate(read(folder / "results.json"), read(ROOT / "common" / "legacy" / "results.schema.json"))
    assert results["protocol"] == {"name": "published", "leaks": True, "notes": results["protocol"]["notes"]} | {
        key: value for key, value in results["protocol"].items() if key not in ("name", "leaks", "notes")
    }
    assert results["arguments"]["resample"] == {"value": "adasyn", "source": "the published protocol"}
    for name in ("said.txt", "report.html", "README.md"):
        text = (folder / name).read_text("utf-8")
        assert "LEAKS" in text, name
    assert "leaking-evaluation" in (folder / "README.md").read_text("utf-8")
    splits = results["data"]["splits"]
    assert [*splits] == ["train", "validation", "test", "untouched"]
    untouched, test = splits["untouched"], honest[1]["data"]["splits"]["test"]
    assert untouched["fingerprint"] == test["fingerprint"] and untouched["label_counts"] == test["label_counts"]
    ids = [
        detections(path)[0].tolist()
        for path in (folder / "untouched_predictions.csv", honest[0] / "test_predictions.csv")
    ]
    assert ids[0] == ids[1]
    rest = {name: splits[name]["examples"] for name in ("train", "validation", "test")}
    after = sum(results["extra"]["resampling"]["after"].values())
    assert sum(rest.values()) == after and rest["test"] == round(0.3 * after)
    table = results["extra"]["what the leak is worth: the same model on"]
    leaks, honestly = table.values()
    assert leaks["auprc"] == results["metrics"]["test"]["auprc"]
    assert honestly["auprc"] == results["metrics"]["untouched"]["auprc"]
    assert leaks["precision"]["value"] > honestly["precision"]["value"] + 5, "the lesson"
    assert f"{honestly['auprc']['value']:.2f} % there" in results["protocol"]["notes"][1]
    assert {"models on test", "models on untouched"} <= {*results["extra"]}


def test_published_protocol_never_saw_the_untouched_rows(leaking, cards, tmp_path):
    folder, _ = leaking
    changed = cards.copy()
    untouched = detections(folder / "untouched_predictions.csv")[0] - 1
    changed.iloc[untouched, :30] = changed.iloc[untouched, :30].to_numpy()[::-1] * 3 + 1
    short(written(changed, tmp_path / "changed.parquet"), tmp_path / "out", "--protocol", "published")
    assert same(folder, tmp_path / "out")
    assert (folder / "test_predictions.csv").read_bytes() == (tmp_path / "out" / "test_predictions.csv").read_bytes()


def test_published_sizes_without_untouched_rows(table, cards, tmp_path):
    limits = ["--max_eval_samples", "50", "--max_predict_samples", "60"]
    results = short(
        table,
        tmp_path / "out",
        "--protocol",
        "published",
        "--untouched_share",
        "0",
        "--resample",
        "oversample",
        *limits,
    )
    splits, legitimate = results["data"]["splits"], int((cards["Class"] == 0).sum())
    assert results["extra"]["resampling"]["after"] == {"legitimate": legitimate, "fraud": legitimate}
    whole, rest = 2 * legitimate, 2 * legitimate - round(0.3 * 2 * legitimate)
    assert splits["train"]["examples"] == rest - round(0.2 * rest) and whole == 2 * legitimate
    assert [splits[name]["examples"] for name in ("validation", "test")] == [50, 60], "limits hold here, too"
    assert [*splits] == ["train", "validation", "test"] and results["protocol"]["leaks"]
    assert "--untouched_share 0" in results["protocol"]["notes"][1]


# Recipes


def test_random_undersampling_and_the_other_model(table, tmp_path):
    argv = ["--resample", "undersample", "--resample_ratio", "0.5", "--model", "mlp"]
    results = short(table, tmp_path / "out", *argv)
    counts = results["extra"]["resampling"]
    assert counts["after"]["fraud"] / counts["after"]["legitimate"] == pytest.approx(0.5, abs=0.01)
    assert results["data"]["splits"]["train"]["label_counts"] == counts["before"], "what the part has, before"
    assert read(tmp_path / "out" / "detector.json")["kind"] == "mlp"
    layers = [layer["type"] for layer in results["extra"]["layers"].values()]
    assert "Dense" in layers and "Conv1D" not in layers


def test_class_weights_reach_the_trainer_and_a_threshold_is_given(table, tmp_path, monkeypatch):
    from common.legacy.keras_trainer import KerasTrainer

    given, initialise = {}, KerasTrainer.__init__

    def noting(self, *args, **kwargs):
        given.update(kwargs)
        initialise(self, *args, **kwargs)

    monkeypatch.setattr(KerasTrainer, "__init__", noting)
    results = short(table, tmp_path / "out", "--model", "mlp", "--class_weights", "balanced", "--threshold", "0.3")
    assert results["extra"]["decision"] == {"threshold": 0.3, "how it was chosen": "given"}
    assert read(tmp_path / "out" / "detector.json")["threshold"] == 0.3
    y = given["train"][1]
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=y)
    assert given["class_weights"][1] / given["class_weights"][0] == pytest.approx(expected[1] / expected[0])
    assert expected[1] / expected[0] > 10


def test_early_stopping_and_the_best_epoch(table, tmp_path):
    # A learning rate at which it does not get better for ever.
    argv = ["--num_train_epochs", "12", "--learning_rate", "0.05", "--model", "mlp", "--early_stopping_patience", "2"]
    results = short(table, tmp_path / "out", *argv)
    scores = [row["eval_auprc"] for row in results["history"]]
    best = int(np.argmax(scores))
    assert len(scores) == best + 3 < 12 and max(scores[best + 1 :]) <= scores[best]
    assert results["metrics"]["validation"]["auprc"]["value"] == pytest.approx(scores[best])
    argv = ["--num_train_epochs", str(len(scores)), *argv[2:-2], "--load_best_model_at_end"]
    again = short(table, tmp_path / "again", *argv)
    assert [row["eval_auprc"] for row in again["history"]] == scores and same(tmp_path / "out", tmp_path / "again")


def test_thresholds_are_the_best_on_validation(honest, table, tmp_path):
    folder, _ = honest
    _, truth, probabilities = detections(folder / "predictions.csv")
    candidates = np.unique(probabilities)
    called = [probabilities >= at for at in candidates]
    precision = np.array([precision_score(truth, rows) for rows in called])
    recall = np.array([recall_score(truth, rows) for rows in called])
    cost = np.array([7 * (truth & ~rows).sum() + 3 * (~truth & rows).sum() for rows in called])
    best = {
        "f1": max(f1_score(truth, rows) for rows in called),
        "recall@0.8": recall[precision >= 0.8].max() if (precision >= 0.8).any() else None,
        "cost": min(cost.min(), 7 * truth.sum()),
    }
    from common.legacy.detection import choose_threshold, parse_rule

    for text, figure in best.items():
        at, _ = choose_threshold(truth, probabilities, parse_rule(text, 7, 3))
        rows = probabilities >= at
        measured = {"f1": f1_score(truth, rows), "recall@0.8": recall_score(truth, rows)}
        measured["cost"] = 7 * (truth & ~rows).sum() + 3 * (~truth & rows).sum()
        if figure is not None:
            assert measured[text] == pytest.approx(figure), text
    prices = ["--threshold", "cost", "--miss_cost", "7", "--alarm_cost", "3"]
    results = short(table, tmp_path / "cost", "--resample", "adasyn", *prices)
    assert results["metrics"]["validation"]["cost"]["value"] == best["cost"]
    assert same(folder, tmp_path / "cost"), "how the threshold is chosen has no part in training"


def test_split_by_time(cards, tmp_path):
    shuffled = cards.sample(frac=1, random_state=0)
    results = short(written(shuffled, tmp_path / "t.csv"), tmp_path / "out", "--split", "time", "--model", "mlp")
    time = shuffled["Time"].to_numpy()
    test, dev = (detections(tmp_path / "out" / name)[0] - 1 for name in ("test_predictions.csv", "predictions.csv"))
    train = np.setdiff1d(np.arange(len(time)), [*test, *dev])
    assert len(train) == results["data"]["splits"]["train"]["examples"]
    assert time[train].max() < time[dev].min() and time[dev].max() < time[test].min()
    assert len(test) / len(time) == pytest.approx(0.3, abs=0.02) and "by Time" in str(results["data"]["splits"])


def test_copies_can_be_dropped(cards, tmp_path):
    doubled = pandas.concat([cards, cards.iloc[:200]])
    path = written(doubled, tmp_path / "doubled.parquet")
    argv = [
        "--model",
        "mlp",
        "--max_train_samples",
        "9999",
        "--max_eval_samples",
        "9999",
        "--max_predict_samples",
        "9999",
    ]
    results = short(path, tmp_path / "out", "--drop_duplicates", *argv)
    data = results["data"]
    assert data["overlaps"] == [] and not any(
        s["statistics"]["exact copies of other rows"] for s in data["splits"].values()
    )
    kept = len(doubled.drop_duplicates())
    assert sum(split["examples"] for split in data["splits"].values()) == kept < len(doubled)
    assert data["splits"]["train"]["skipped"] == {"exact copy of an earlier row": len(doubled) - kept}
    ids = np.concatenate([detections(tmp_path / "out" / f"{p}predictions.csv")[0] for p in ("", "test_")])
    assert not doubled.iloc[ids - 1].duplicated().any()


# Stopping and resuming


@pytest.fixture(scope="module")
def straight(table, tmp_path_factory) -> tuple[Path, list[str]]:
    """Three epochs without interruption, and the flags."""
    folder, argv = tmp_path_factory.mktemp("runs") / "straight", ["--num_train_epochs", "3", "--resample", "oversample"]
    short(table, folder, *argv)
    return folder, argv


def test_stopped_and_resumed_is_as_if_never_stopped(straight, table, tmp_path, monkeypatch, capsys):
    from common.legacy.keras_trainer import _Follower

    whole, argv = straight
    steps, count = [], _Follower.on_train_batch_end

    def stopping(self, batch, logs=None):
        count(self, batch, logs)
        steps.append(self.step)
        if len(steps) == 3 and len(self.trainer.history) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    argv = [*argv, "--steps_per_execution", "16"]  # of 24 steps an epoch
    monkeypatch.setattr(_Follower, "on_train_batch_end", stopping)
    stopped = tmp_path / "stopped"
    assert exit_status(lambda: short(table, stopped, *argv), "run_fraud.py") == 128 + signal.SIGTERM
    said = capsys.readouterr().err
    assert "--resume_from_checkpoint auto" in said and not (stopped / "results.json").exists()
    assert len([*stopped.glob("checkpoint-*")]) == 1 and not (stopped / "model.keras").exists()
    again = ["--train_file", str(table), "--output_dir", str(stopped), *QUICK, *argv]
    said = refused(capsys, run_fraud.main, "run_fraud.py", *again)
    assert "is not empty and holds checkpoint-" in said and "--resume_from_checkpoint auto" in said
    again += ["--resume_from_checkpoint", "auto"]
    for changed, words in (
        (["--class_weights", "balanced"], "class_weights was none, is balanced"),
        (["--learning_rate", "1e-2"], "learning_rate was 0.001, is 0.01"),
        (["--resample", "none"], "training data was"),
        (["--model", "mlp"], "model was cnn, is mlp"),
        (["--seed", "1"], "seed was 42, is 1"),
    ):
        said = refused(capsys, run_fraud.main, "run_fraud.py", *again, *changed)
        assert "belongs to another run" in said and words in said
    without_plots(again)
    assert same(whole, stopped)
    assert (whole / "test_predictions.csv").read_bytes() == (stopped / "test_predictions.csv").read_bytes()
    one, other = (read(folder / "results.json")["history"] for folder in (whole, stopped))
    assert len(one) == len(other) == 3 and [r["eval_auprc"] for r in one] == [r["eval_auprc"] for r in other]


KILLED = """
import os, signal, sys
import run_fraud
from common.legacy.keras_trainer import KerasTrainer
end = KerasTrainer.end_epoch
def kill(self, *arguments):
    if len(self.history) == 1:  # after the work of the second epoch, before its checkpoint
        os.kill(os.getpid(), signal.SIGKILL)
    return end(self, *arguments)
KerasTrainer.end_epoch = kill
run_fraud.main(sys.argv[1:])
"""


def test_killed_and_resumed_is_as_if_never_killed(straight, table, tmp_path):
    whole, argv = straight
    everything = ["--train_file", str(table), "--output_dir", str(tmp_path / "killed"), *QUICK, *argv]
    environment = plain(tmp_path) | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    finish(start([sys.executable, "-c", KILLED, *everything], tmp_path, environment), -signal.SIGKILL)
    without_plots([*everything, "--resume_from_checkpoint", "auto"])
    assert same(whole, tmp_path / "killed")


def test_large_batches_are_resumed_alike(straight, table, tmp_path):
    """They have other kernels, which TensorFlow chooses when it is loaded: every run is a process of its own."""
    argv = ["--train_file", str(table), *QUICK, *straight[1], "--per_device_train_batch_size", "256", "--output_dir"]
    environment = plain(tmp_path) | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    script = [sys.executable, str(ROOT / "run_fraud.py"), *argv]
    finish(start([*script, "whole"], tmp_path, environment), 0)
    finish(start([sys.executable, "-c", KILLED, *argv, "killed"], tmp_path, environment), -signal.SIGKILL)
    assert not (tmp_path / "killed" / "results.json").exists()
    finish(start([*script, "killed", "--resume_from_checkpoint", "auto"], tmp_path, environment), 0)
    assert same(tmp_path / "whole", tmp_path / "killed")


# A trained model is used


def test_own_files_with_names_for_the_classes(detector, three):
    folder, results = detector
    test = pandas.read_csv(three["test"])
    _, truth, _ = detections(folder / "test_predictions.csv")
    assert truth.tolist() == (test["verdict"] == "stolen").tolist()
    assert {n: s["examples"] for n, s in results["data"]["splits"].items()} == {
        "train": 900,
        "validation": 300,
        "test": 300,
    }
    facts = read(folder / "detector.json")
    assert (facts["target"], facts["positive"]) == ("verdict", "stolen")
    assert facts["columns"][:2] == ["Time", "V1"] and len(facts["columns"]) == 30


def test_a_trained_model_decides_as_in_training(detector, three, tmp_path):
    folder, results = detector
    again = used(folder, tmp_path / "both", "--do_eval", "--do_predict", *files(three, "validation", "test"))
    for name, prefix in (("validation", ""), ("test", "test_")):
        one, other = (rows_of(path / f"{prefix}predictions.csv") for path in (folder, tmp_path / "both"))
        assert [r["prediction"] for r in one] == [r["prediction"] for r in other]
        assert [float(r["probability"]) for r in one] == pytest.approx(
            [float(r["probability"]) for r in other], abs=1e-6
        )
        for metric in ("auprc", "roc_auc", "f1", "mcc_at_half", "cost"):
            assert again["metrics"][name][metric] == results["metrics"][name][metric]
    jsonschema.validate(
        read(tmp_path / "both" / "results.json"), read(ROOT / "common" / "legacy" / "results.schema.json")
    )
    assert not (tmp_path / "both" / "model.keras").exists()
    assert f'"{folder}/model.keras"' in (tmp_path / "both" / "README.md").read_text("utf-8"), "where the model is"


def test_rows_without_truth_a_part_at_a_time(detector, three, tmp_path):
    folder, _ = detector
    expected = detections(folder / "test_predictions.csv")[2]
    rows = pandas.read_csv(three["test"]).drop(columns="verdict")
    copies = 300
    many = written(pandas.concat([rows] * copies), tmp_path / "new.csv")
    assert len(rows) * copies > 65_536, "more than one part"
    results = used(folder, tmp_path / "out", "--do_predict", "--test_file", str(many))
    ids, _, found = detections(tmp_path / "out" / "test_predictions.csv")
    assert ids.tolist() == [*range(1, len(rows) * copies + 1)]
    np.testing.assert_allclose(found, np.tile(expected, copies), atol=1e-6)
    assert {row["truth"] for row in rows_of(tmp_path / "out" / "test_predictions.csv")} == {""}
    split = results["data"]["splits"]["test"]
    assert split["examples"] == len(found) and results["headline"] is None and results["metrics"] == {}
    jsonschema.validate(
        read(tmp_path / "out" / "results.json"), read(ROOT / "common" / "legacy" / "results.schema.json")
    )


def test_a_bad_cell_ends_the_run_and_leaves_nothing(detector, three, tmp_path, capsys):
    lines = three["test"].read_text("utf-8").splitlines()
    assert lines[0].startswith("verdict,Amount,V28")
    lines[7] = ",".join([lines[7].split(",")[0], "lots", *lines[7].split(",")[2:]])
    lines[9] = ",".join([lines[9].split(",")[0], "1e300", *lines[9].split(",")[2:]])  # bad for nobody but float32
    bad = tmp_path / "bad.csv"
    bad.write_text("\n".join(lines), encoding="utf-8")
    argv = ["--do_predict", "--model", str(detector[0]), "--test_file", str(bad), "--output_dir", str(tmp_path / "out")]
    said = refused(capsys, run_fraud.main, "run_fraud.py", *argv)
    assert "Amount holds 'lots' in row 7:" in said and "--on_bad_example skip" in said
    assert not [*tmp_path.glob("out/*")]
    results = without_plots([*argv, "--on_bad_example", "skip"])
    assert results["data"]["splits"]["test"]["skipped"] == {"not a number": 1}
    ids, _, probabilities = detections(tmp_path / "out" / "test_predictions.csv")
    assert ids.tolist() == [*range(1, 7), *range(8, 301)] and np.isfinite(probabilities).all()


def test_training_alone_without_bad_rows(cards, tmp_path):
    bad = changed(changed(cards, "V3", None, 12), "Amount", "inf", 13)
    path = written(bad, tmp_path / "bad.csv")
    argv = ["--do_train", "--on_bad_example", "skip", "--model", "mlp"]
    results = short(path, tmp_path / "out", *argv)
    assert results["headline"] is None and results["metrics"] == {} and (tmp_path / "out" / "model.keras").is_file()
    assert not [*(tmp_path / "out").glob("*predictions.csv")]
    splits = results["data"]["splits"]
    assert splits["train"]["skipped"] == {"empty cell": 1, "infinite cell": 1}
    assert sum(split["examples"] for split in splits.values()) == len(cards) - 2


# Hubs, devices, processes


def test_the_published_experiment_as_typed(cards, tmp_path):
    """`python run_fraud.py`, but for the number of epochs."""
    repository = tmp_path / "hub" / "datasets" / "David-Egea" / "Creditcard-fraud-detection"
    repository.mkdir(parents=True)
    written(cards, repository / "creditcard.csv")
    with Hub(tmp_path / "hub") as hub:
        environment = hub.environment(tmp_path / "home") | {"CUDA_VISIBLE_DEVICES": ""}
        said = finish(start([sys.executable, SCRIPT, "--num_train_epochs", "2"], tmp_path, environment))
        asked = {path for _, path in hub.requests}
        commit = hub.commit("datasets", "David-Egea/Creditcard-fraud-detection")
    assert asked and not [path for path in asked if "David-Egea/Creditcard-fraud-detection" not in path], asked
    results = read(tmp_path / "outputs" / "fraud" / "results.json")
    splits = results["data"]["splits"]
    assert {name: split["examples"] for name, split in splits.items()} == {"train": 840, "validation": 210, "test": 450}
    assert all(commit[:12] in split["source"] for split in splits.values())
    arguments = {name: fact["value"] for name, fact in results["arguments"].items()}
    assert (arguments["model"], arguments["learning_rate"], arguments["resample"]) == ("cnn", 1e-4, "none")
    assert (arguments["per_device_train_batch_size"], arguments["split"]) == (32, "stratified")
    assert results["arguments"]["protocol"] == {"value": "honest", "source": "script default"}
    assert [row["metrics"]["f1_at_half"]["value"] for row in results["published"]] == [82.18, 99.963]
    assert "test auprc:" in said and "LEAKS" not in said


def test_the_set_of_openml(cards, tmp_path, monkeypatch):
    import sklearn.datasets
    from sklearn.utils import Bunch

    asked = []
    frame = cards.drop(columns="Time").assign(Class=cards["Class"].astype(str).astype("category"))
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", lambda **a: (asked.append(a), Bunch(frame=frame))[1])
    argv = ["--dataset", "openml:1597", "--split", "time", "--output_dir", str(tmp_path / "out"), *QUICK]
    results = without_plots([*argv, "--model", "mlp", "--cache_dir", str(tmp_path)])
    assert asked[0]["data_id"] == 1597 and asked[0]["data_home"] == str(tmp_path)
    splits = results["data"]["splits"]
    assert splits["test"]["source"] == "openml:1597" and "by order of rows" in splits["test"]["selection"]
    test, dev = (detections(tmp_path / "out" / name)[0] for name in ("test_predictions.csv", "predictions.csv"))
    assert test.tolist() == [*range(1500 - len(test) + 1, 1501)] and dev.max() == test.min() - 1
    assert len(read(tmp_path / "out" / "detector.json")["columns"]) == 29 and len(results["published"]) == 2


def test_two_devices(table, tmp_path):
    argv = ["--train_file", str(table), *QUICK, "--num_devices", "2", "--output_dir", "two"]
    said = finish(start([sys.executable, SCRIPT, *argv], tmp_path, plain(tmp_path) | {"CUDA_VISIBLE_DEVICES": ""}))
    results = read(tmp_path / "two" / "results.json")
    assert results["environment"]["devices"] == "cpu:0, cpu:1" if "devices" in results["environment"] else said
    steps = -(-results["data"]["splits"]["train"]["examples"] // (2 * 64))
    assert [row["step"] for row in results["history"]] == [steps, 2 * steps], "each device has a batch of its own"
    assert (tmp_path / "two" / "model.keras").is_file()


def test_two_processes_are_refused(table, tmp_path):
    argv = [SCRIPT, "--train_file", str(table), *QUICK, "--output_dir", "two"]
    said = finish(start([*TORCHRUN, *argv], tmp_path, plain(tmp_path)), 1)
    assert "run_fraud.py: error: one process uses all GPUs" in said and "--num_devices" in said
    assert f'File "{SCRIPT}"' not in said and not (tmp_path / "two").exists()


# What is wrong


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.rename(columns={"Class": "label"}), ("no column 'Class'", "--target")),
        (lambda t: t.assign(Class=0), ("none of the 1,500 rows is positive", "--positive")),
        (lambda t: t.assign(Class=1), ("every one of the 1,500 rows is positive",)),
        (lambda t: changed(t, "V3", "abroad"), ("V3 holds 'abroad' in row 1:", "--ignore_columns V3")),
        (lambda t: changed(t, "V3", None, 12), ("V3 is empty or NaN in row 12;", "--on_bad_example skip")),
        (lambda t: changed(t, "V3", "nan", 12), ("V3 is empty or NaN in row 12;",)),
        (lambda t: changed(t, "Amount", "inf", 13), ("Amount is infinite in row 13;",)),
        (lambda t: t.assign(V5=2.5), ("'V5' has the same value", "--ignore_columns V5")),
        (lambda t: t.assign(Class=t["Class"] + 1), ("target Class holds '1', '2'", "row 27", "--positive")),
        (lambda t: t[["V1", "V2", "V3", "Class"]], ("--model cnn: needs 7 columns", "--model mlp")),
        (lambda t: t[t["Class"] == 0][:50].assign(Class=[1] + [0] * 49), ("too few",)),
        (lambda t: t[:0], ("no rows",)),
    ],
    ids=["target", "legitimate", "fraud", "text", "empty", "nan", "infinite", "constant", "1, 2", "few", "one", "none"],
)
def test_bad_tables_are_one_sentence(cards, tmp_path, capsys, change, words):
    path = written(change(cards), tmp_path / "bad.csv")
    argv = ["--train_file", str(path), *QUICK, "--output_dir", str(tmp_path / "out")]
    said = refused(capsys, run_fraud.main, "run_fraud.py", *argv)
    assert all(word in said for word in words), said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--tresh", "0.3"], ("unknown flag --tresh",)),
        (["--treshold", "0.3"], ("--treshold", "--threshold")),
        (["--resample", "smote"], ("--resample", "adasyn")),
        (["--threshold", "recall@2"], ("--threshold recall@2",)),
        (["--threshold", "1.5"], ("--threshold 1.5",)),
        (["--miss_cost", "-1"], ("-1", "above 0")),
        (["--test_share", "1"], ("--test_share 1",)),
        (["--validation_share", "0"], ("--validation_share 0",)),
        (["--resample_ratio", "2"], ("--resample_ratio 2",)),
        (["--untouched_share", "0.2"], ("--untouched_share", "--protocol published")),
        (["--protocol", "published", "--resample", "none"], ("--protocol published", "--resample none")),
        (["--protocol", "published", "--split", "time"], ("--protocol published", "--split time")),
        (["--protocol", "published", "--untouched_share", "0", "--test_file", "t.csv"], ("--test_file",)),
        (["--num_train_epochs", "0"], ("--num_train_epochs 0",)),
        (["--learning_rate", "-1"], ("--learning_rate -1",)),
        (["--num_devices", "0"], ("--num_devices 0",)),
        (["--model", "resnet"], ("--model resnet", "cnn and mlp")),
        (["--do_predict", "--test_file", "t.csv"], ("without --do_train", "folder")),
        (["--do_predict", "--model", "missing"], ("--do_predict", "--test_file")),
        (["--do_predict", "--model", "missing", "--test_file", "t.csv"], ("--model missing", "model.keras")),
        (
            ["--do_eval", "--model", "m", "--validation_file", "v.csv", "--max_eval_samples", "3"],
            ("--max_eval_samples",),
        ),
        (["--ignore_columns", "V77"], ("'V77'", "--ignore_columns")),
        (["--train_file", "missing.csv"], ("missing.csv", "no such file")),
        (["--train_file", "cards.xlsx"], ("cards.xlsx",)),
    ],
)
def test_bad_arguments_are_one_sentence(table, tmp_path, capsys, argv, words):
    argv = ["--train_file", str(table), *QUICK, "--output_dir", str(tmp_path / "out"), *argv]
    said = refused(capsys, run_fraud.main, "run_fraud.py", *argv)
    assert all(word in said for word in words), said
    assert not (tmp_path / "out").exists()


def test_data_and_models_that_are_not_there(detector, three, tmp_path, capsys):
    out = ["--output_dir", str(tmp_path / "out")]
    said = refused(capsys, run_fraud.main, "run_fraud.py", *out)
    assert "David-Egea/Creditcard-fraud-detection" in said and "cannot be reached" in said and "--demo" in said
    said = refused(capsys, run_fraud.main, "run_fraud.py", "--dataset", "openml:cards", *out)
    assert "openml:1597" in said
    other = tmp_path / "other"
    other.mkdir()
    for name in ("model.keras", "detector.json"):
        (other / name).write_bytes((detector[0] / name).read_bytes())
    using = ["--do_predict", "--test_file", str(three["test"]), "--model", str(other), *out]
    facts = (other / "detector.json").read_text("utf-8")
    (other / "detector.json").write_text(facts.replace("card-fraud", "keyword"), encoding="utf-8")
    assert "the task keyword" in refused(capsys, run_fraud.main, "run_fraud.py", *using)
    (other / "config.json").write_text("{}", encoding="utf-8")
    (other / "detector.json").unlink()
    assert "holds no detector.json" in refused(capsys, run_fraud.main, "run_fraud.py", *using)
    lacking = written(pandas.read_csv(three["test"]).drop(columns=["V3", "V9"]), tmp_path / "lacking.csv")
    using = ["--do_predict", "--test_file", str(lacking), "--model", str(detector[0]), *out]
    assert "no column 'V3', 'V9'" in refused(capsys, run_fraud.main, "run_fraud.py", *using)
    argv = ["--train_file", str(three["train"]), "--test_file", str(lacking), *QUICK, *out]
    argv += ["--target", "verdict", "--positive", "stolen"]
    assert "no column 'V3', 'V9'" in refused(capsys, run_fraud.main, "run_fraud.py", *argv)
    assert not [*tmp_path.glob("out/*")]


def test_thousands_of_columns(tmp_path):
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(200, 3_000)).round(3)
    rows = pandas.DataFrame(rows, columns=[f"c{number}" for number in range(3_000)])
    rows["Class"] = (rows["c0"] > 0.8).astype(int)
    results = short(written(rows, tmp_path / "wide.csv"), tmp_path / "out", "--model", "mlp")
    assert results["metrics"]["test"]["auprc"]["value"] > 0
    assert len(read(tmp_path / "out" / "detector.json")["columns"]) == 3_000


# Real payments


def test_real_payments(shared_data, tmp_path):
    path = shared_data / "creditcard" / "creditcard_uniform.parquet"
    if not path.is_file():
        pytest.skip(f"no real payments at {path}")
    argv = ["--train_file", str(path), "--output_dir", str(tmp_path / "out"), *QUICK[:4], "--learning_rate", "1e-3"]
    results = without_plots(argv)
    assert results["data"]["splits"]["test"]["label_counts"] == {"legitimate": 1_861, "fraud": 148}
    for figures in results["extra"]["models on test"].values():
        assert figures["auprc"]["low"] > 75
