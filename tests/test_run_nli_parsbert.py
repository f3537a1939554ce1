"""run_nli_parsbert.py through `main` and the command line: what it leaves behind, strategies, what it refuses."""

import json
import sys
from pathlib import Path

import jsonschema
import pytest
import torch
import transformers
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, classification_report
from transformers import AutoModelForSequenceClassification

import run_nli_parsbert
from common.demo.nli import farstail_demo
from common.text.pruning import load_pruned, pruned_heads
from tests.helpers import ROOT, TORCHRUN, finish, plain, read, refused, rows_of, start
from tests.hub import Hub

pytestmark = pytest.mark.usefixtures("one_thread")
SCRIPT = str(ROOT / "run_nli_parsbert.py")
QUICK = ["--use_cpu", "--max_length", "64", "--per_device_train_batch_size", "8", "--learning_rate", "1e-3"]
TWO_HUNDRED = ["--max_eval_samples", "200", "--max_predict_samples", "200"]
FEW = ["--max_train_samples=48", "--max_eval_samples=40", "--max_predict_samples=30", "--num_train_epochs=1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    """A `--demo` run on half of the pairs."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    less = ["--max_train_samples", "1600", "--per_device_train_batch_size", "16", "--num_train_epochs", "2"]
    return folder, run_nli_parsbert.main(["--demo", "--output_dir", str(folder), "--use_cpu", *less, *TWO_HUNDRED])


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> dict[str, str]:
    """The built-in data as a user's files, and the tiny model (4 layers) as a user's folder."""
    return farstail_demo(tmp_path_factory.mktemp("data"), "bert-base")


def files(demo: dict, *names: str) -> list[str]:
    return [argument for name in names for argument in (f"--{name}_file", demo[f"{name}_file"])]


def short(demo: dict, out: Path, *more: str) -> dict:
    """A training of a few steps on files."""
    argv = ["--model", demo["model"], *files(demo, "train", "validation", "test"), "--output_dir", str(out)]
    return run_nli_parsbert.main([*argv, *QUICK, *FEW, *more])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


# What a run leaves behind


def test_demo_learns_and_reports(trained):
    folder, results = trained
    head = results["headline"]
    assert (head["split"], head["metric"]) == ("test", "accuracy")
    assert head["low"] > head["baseline"] + 10, "training has to beat the majority class, clearly"
    written = read(folder / "results.json")
    jsonschema.validate(written, read(ROOT / "common" / "results.schema.json"))
    for name in written["files"].values():
        assert (folder / name).stat().st_size > 0, name
    plots = {Path(name).stem for name in written["files"].values() if name.startswith("plots/")}
    assert plots >= {"class_counts", "token_lengths", "loss", "test_confusion", "vectors_after"}
    assert {"eval_accuracy", "eval_loss", "loss"} <= {key for entry in written["history"] for key in entry}
    assert [table["title"] for table in written["tables"]][:1] == ["First and last pairs (train)"]
    assert not written["published"], "these are not the published data"
    assert {"train_results.json", "eval_results.json", "predict_results.json"} <= {
        path.name for path in folder.iterdir()
    }


def test_figures_equal_scikit_learns(trained):
    folder, results = trained
    for name, prefix in (("validation", ""), ("test", "test_")):
        rows = rows_of(folder / f"{prefix}predictions.csv")
        truth, predicted = [row["truth"] for row in rows], [row["prediction"] for row in rows]
        assert results["metrics"][name]["accuracy"]["value"] == pytest.approx(100 * accuracy_score(truth, predicted))
        table = classification_report(truth, predicted, output_dict=True, zero_division=0)
        for label, row in results["per_class"][name].items():
            assert row["f1"] == pytest.approx(table[label]["f1-score"]) and row["support"] == table[label]["support"]
        logits = torch.tensor([[float(v) for k, v in row.items() if k.startswith("logit_")] for row in rows])
        shares = [[float(v) for k, v in row.items() if k.startswith("probability_")] for row in rows]
        torch.testing.assert_close(logits.softmax(-1), torch.tensor(shares), rtol=0, atol=2e-6)


def test_the_saved_model_works_in_a_plain_pipeline(trained):
    folder, _ = trained
    rows = rows_of(folder / "test_predictions.csv")[:5]
    pipeline = transformers.pipeline("text-classification", model=str(folder), top_k=None)
    for row in rows:
        scores = {
            one["label"]: one["score"] for one in pipeline({"text": row["premise"], "text_pair": row["hypothesis"]})
        }
        for label, score in scores.items():
            assert float(row[f"probability_{label}"]) == pytest.approx(score, abs=1e-4)


# A trained model used again


def test_the_same_figures_whatever_the_data_call_the_classes(trained, demo, tmp_path):
    folder, results = trained
    text = Path(demo["test_file"]).read_text("utf-8").splitlines()
    names = {"e": "Entailment", "n": "NEUTRAL", "c": "contradiction"}
    lines = [text[0], *(f"{line[:-1]}{names[line[-1]]}" for line in text[1:])]
    (tmp_path / "spelt.csv").write_text("\n".join(lines), encoding="utf-8")
    argv = ["--do_predict", "--model", str(folder), *TWO_HUNDRED, "--test_file"]
    again = run_nli_parsbert.main(
        [*argv, str(tmp_path / "spelt.csv"), "--output_dir", str(tmp_path / "a"), "--use_cpu"]
    )
    assert again["metrics"]["test"]["accuracy"] == results["metrics"]["test"]["accuracy"]
    assert again["arguments"]["max_length"] == {"value": 64, "source": f"remembered with {folder}"}

    (tmp_path / "unknown.csv").write_text("\n".join(line.rpartition(",")[0] for line in text), encoding="utf-8")
    blind = run_nli_parsbert.main(
        [*argv, str(tmp_path / "unknown.csv"), "--output_dir", str(tmp_path / "b"), "--use_cpu"]
    )
    assert blind["headline"] is None and not blind["metrics"]
    for row, other in zip(*(rows_of(tmp_path / name / "test_predictions.csv") for name in "ab"), strict=True):
        assert row | {"truth": ""} == other


def test_generic_class_names_need_an_order(trained, demo, tmp_path, capsys):
    folder, results = trained
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    names = [model.config.id2label[i] for i in range(3)]
    model.config.id2label = {i: f"LABEL_{i}" for i in range(3)}
    model.save_pretrained(tmp_path / "model")
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "model")
    argv = ["--do_predict", "--model", str(tmp_path / "model"), *files(demo, "test"), "--use_cpu"]
    argv += ["--output_dir", str(tmp_path / "out"), *TWO_HUNDRED]
    said = refused(capsys, run_nli_parsbert.main, "run_nli_parsbert.py", *argv)
    assert "LABEL_0" in said and "--label_order" in said
    again = run_nli_parsbert.main([*argv, "--label_order", ",".join(names)])
    assert again["metrics"]["test"]["accuracy"] == results["metrics"]["test"]["accuracy"]


def test_preparation_is_remembered_and_can_be_overridden(demo, tmp_path):
    short(demo, tmp_path / "m", "--preprocessing", "published", "--lower_case", "--max_length", "20")
    remembered = read(tmp_path / "m" / "config.json")["preparation"]
    steps = ["remove_stop_words", "remove_zwnj", "normalize"]
    assert remembered == {"max_length": 20, "lower_case": True, "preprocessing": steps}
    argv = [
        "--do_predict",
        "--model",
        str(tmp_path / "m"),
        *files(demo, "test"),
        "--max_predict_samples",
        "20",
        "--use_cpu",
    ]
    used = run_nli_parsbert.main([*argv, "--output_dir", str(tmp_path / "used")])
    assert {name: used["arguments"][name]["value"] for name in remembered} == remembered
    raw = run_nli_parsbert.main(
        [*argv, "--output_dir", str(tmp_path / "raw"), "--preprocessing", "raw", "--max_length", "64"]
    )
    assert raw["arguments"]["preprocessing"]["value"] == [] and raw["arguments"]["max_length"]["value"] == 64
    logits = [[row["logit_neutral"] for row in rows_of(tmp_path / n / "test_predictions.csv")] for n in ("used", "raw")]
    assert logits[0] != logits[1]
    table = used["tables"][0]
    assert (
        table["head"][-2:] == ["prepared premise", "prepared hypothesis"] and table["rows"][0][1] != table["rows"][0][4]
    )


# Strategies


@pytest.mark.parametrize("strategy", ["freeze_2", "head_only"])
def test_the_cache_changes_nothing(demo, tmp_path, strategy):
    for cache in ("float32", "none"):
        results = short(demo, tmp_path / cache, "--strategy", strategy, "--frozen_cache", cache)
        assert results["warnings"] == [] and results["extra"]["strategy"]["strategy"] == strategy
    a, b, start_of = weights(tmp_path / "float32"), weights(tmp_path / "none"), weights(Path(demo["model"]))
    moved = {name for name in a if not torch.equal(a[name], start_of[name])}
    assert moved and all(name.startswith("classifier.") for name in moved) == (strategy == "head_only")
    for name, weight in a.items():
        torch.testing.assert_close(weight, b[name], rtol=0, atol=2e-4, msg=name)


def test_a_pruned_model_is_saved_loaded_and_predicts(demo, tmp_path):
    results = short(demo, tmp_path / "p", "--strategy", "prune_heads", "--pruned_layers", "0")
    pruning = results["extra"]["pruning"]
    assert pruning["layers"] == [0] and pruning["after"]["parameters"] < pruning["before"]["parameters"]
    loaded = load_pruned(AutoModelForSequenceClassification, tmp_path / "p")
    assert {layer: len(heads) for layer, heads in pruned_heads(loaded.config).items()} == {0: 2}
    argv = [
        "--do_predict",
        "--model",
        str(tmp_path / "p"),
        *files(demo, "test"),
        "--max_predict_samples",
        "30",
        "--use_cpu",
    ]
    again = run_nli_parsbert.main([*argv, "--output_dir", str(tmp_path / "again")])
    assert again["metrics"]["test"]["loss"]["value"] == pytest.approx(
        results["metrics"]["test"]["loss"]["value"], abs=1e-4
    )
    assert "load_pruned" in (tmp_path / "p" / "README.md").read_text("utf-8")


def test_rates_and_weights_reach_the_optimizer_and_the_loss(demo, tmp_path):
    rates = ["--head_learning_rate", "1e-2", "--class_weights", "balanced"]
    results = short(demo, tmp_path, *rates, "--lr_scheduler_type", "constant")
    optimizer = torch.load(next(tmp_path.glob("checkpoint-*")) / "optimizer.pt")
    assert {group["lr"] for group in optimizer["param_groups"]} == {1e-2, 1e-3}
    assert results["arguments"]["class_weights"]["value"] == "balanced"


# Refusals


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--strategy", "half"], "choose full, freeze_N"),
        (["--strategy", "freeze_9"], "only 4 layers"),
        (["--train_embeddings"], "belongs to --strategy last_layer"),
        (["--pruned_layers", "0"], "--pruned_layers belongs to --strategy prune_heads, not to full"),
        (["--strategy", "prune_heads", "--pruned_share", "0"], "--pruned_share 0.0: must be from 1e-06 to"),
        (["--strategy", "prune_heads", "--pruning_seed", "-1"], "--pruning_seed -1: must be from 0 to"),
        (["--preprocessing", "lemmatize"], "--preprocessing lemmatize: choose raw, published"),
        (["--max_length", "4"], "leaves no room"),
        (["--label_order", "a,,b"], "--label_order a,,b"),
        (["--language", "en"], "this script is for Persian"),
        (["--do_eval", "--strategy", "full"], "--strategy is for training"),
        (["--do_eval", "--head_learning_rate", "1"], "--head_learning_rate is for training"),
        (["--metric_for_best_model", "recal"], "not one of loss, accuracy"),
    ],
)
def test_bad_arguments_are_one_sentence(demo, tmp_path, capsys, argv, words):
    given = [
        "--model",
        demo["model"],
        *files(demo, "train", "validation"),
        *QUICK,
        *FEW,
        "--output_dir",
        str(tmp_path / "o"),
    ]
    assert words in refused(capsys, run_nli_parsbert.main, "run_nli_parsbert.py", *given, *argv)


# As users type it


def test_the_published_experiment_as_typed(demo, tmp_path):
    """FarsTail's form and a tiny ParsBERT under their real ids: nothing else is asked for."""
    folder = tmp_path / "hub" / "datasets" / "azarijafari" / "FarsTail" / "data"
    folder.mkdir(parents=True)
    (folder.parent / "README.md").write_text("")
    for name, split in (("Train", "train"), ("Val", "validation"), ("Test", "test")):
        lines = Path(demo[f"{split}_file"]).read_text("utf-8").replace(",", "\t").splitlines(keepends=True)
        (folder / f"{name}-word.csv").write_text("".join(lines), encoding="utf-8")
    model = tmp_path / "hub" / "models" / "HooshvareLab" / "bert-base-parsbert-uncased"
    model.mkdir(parents=True)
    for file in Path(demo["model"]).iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    with Hub(tmp_path / "hub") as hub:
        environment = hub.environment(tmp_path / "home") | {"CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, SCRIPT, *FEW, "--strategy", "last_layer", "--per_device_train_batch_size", "48"]
        finish(start(command, tmp_path, environment))
        asked = {path for _, path in hub.requests}
    allowed = ("HooshvareLab/bert-base-parsbert-uncased", "azarijafari/FarsTail")
    assert asked and not [path for path in asked if not any(name in path for name in allowed)], asked
    results = read(tmp_path / "outputs" / "nli" / "results.json")
    assert results["data"]["splits"]["train"]["available"] == 3000
    assert results["published"][0]["metrics"]["accuracy"]["value"] == 65
    table = next(table for table in results["tables"] if table["title"].startswith("By class"))
    ours = results["per_class"]["test"]["neutral"]
    assert next(row for row in table["rows"] if row[0] == "neutral") == [
        "neutral",
        *(f"{100 * ours[k]:.1f}" for k in ("precision", "recall", "f1")),
        "75",
        "82",
        "78",
    ]
    assert [row[0] for row in table["rows"]][-2:] == ["macro avg", "weighted avg"]


def test_two_processes_give_what_one_gives(demo, tmp_path):
    short(demo, tmp_path / "one", "--strategy", "freeze_2", "--max_grad_norm", "0", "--optim", "sgd")
    argv = [
        "--model",
        demo["model"],
        *files(demo, "train", "validation", "test"),
        *QUICK,
        *FEW,
        "--strategy",
        "freeze_2",
    ]
    argv += [
        "--max_grad_norm",
        "0",
        "--optim",
        "sgd",
        "--per_device_train_batch_size",
        "4",
        "--output_dir",
        str(tmp_path / "two"),
    ]
    finish(start([*TORCHRUN, SCRIPT, *argv], tmp_path, plain(tmp_path)))
    results = [read(tmp_path / name / "results.json") for name in ("one", "two")]
    assert [r["environment"]["processes"] for r in results] == [1, 2]
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, weight in a.items():
        torch.testing.assert_close(weight, b[name], rtol=0, atol=1e-4, msg=name)
    losses = [r["metrics"]["test"]["loss"]["value"] for r in results]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert json.loads((tmp_path / "two" / "results.json").read_text())["data"] == results[1]["data"]
