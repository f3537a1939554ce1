"""run_nli_parsbert.py through `main` and the command line: what the strategies train, and whether figures are right."""

import json
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score

import run_nli_parsbert
from common.legacy.demo_nli import farstail_demo
from common.legacy.pruning import load_pruned
from tests.legacy.hub import Hub
from tests.legacy.scripts import ROOT, TORCHRUN, finish, plain, read, refused, rows_of, start

SCRIPT = str(ROOT / "run_nli_parsbert.py")
QUICK = ["--use_cpu", "--disable_tqdm", "true", "--max_length", "64", "--eval_train_samples", "20"]
FEW = [
    "--max_train_samples",
    "64",
    "--max_eval_samples",
    "40",
    "--max_predict_samples",
    "30",
    "--num_train_epochs",
    "1",
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> dict[str, str]:
    """The built-in data as a user's files, and the tiny model (4 layers) as a user's folder."""
    return farstail_demo(tmp_path_factory.mktemp("data"), "HooshvareLab/bert-base-parsbert-uncased")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    """One whole `--demo` run."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    argv = ["--demo", "--output_dir", str(folder), "--use_cpu", "--disable_tqdm", "true"]
    return folder, run_nli_parsbert.main(argv)


def files(demo: dict, *names: str) -> list[str]:
    return [argument for name in names for argument in (f"--{name}_file", demo[f"{name}_file"])]


def short(demo: dict, out: Path, *more: str) -> dict:
    """A training of a few steps on files."""
    everything = files(demo, "train", "validation", "test")
    return run_nli_parsbert.main(["--model", demo["model"], *everything, "--output_dir", str(out), *QUICK, *FEW, *more])


def weights(folder: Path) -> dict:
    return load_file(folder / "model.safetensors")


def test_demo_learns_and_reports(trained):
    folder, results = trained
    head = results["headline"]
    assert head["split"] == "test" and head["metric"] == "accuracy"
    assert head["low"] > head["baseline"] + 10, "training has to beat the majority class, clearly"
    written = read(folder / "results.json")
    jsonschema.validate(written, read(ROOT / "common" / "legacy" / "results.schema.json"))
    assert written == json.loads(json.dumps(results))
    for name in written["files"].values():
        assert (folder / name).stat().st_size > 0, name
    assert {"hard(hypothesis)", "hard(overlap)"} <= written["groups"]["test"].keys()
    plots = {Path(name).stem for name in written["files"].values() if name.startswith("plots/")}
    assert plots >= {"class_counts", "token_lengths", "word_overlap", "loss", "accuracy", "test_confusion"}
    history = {key for entry in written["history"] for key in entry}
    assert {"eval_train_accuracy", "eval_validation_accuracy", "eval_train_loss", "eval_validation_loss"} <= history


def test_figures_equal_scikit_learns(trained):
    folder, results = trained
    for name, prefix in (("validation", ""), ("test", "test_")):
        rows = rows_of(folder / f"{prefix}predictions.csv")
        truth, said = ([row[column] for row in rows] for column in ("truth", "prediction"))
        metrics = results["metrics"][name]
        assert metrics["accuracy"]["value"] == pytest.approx(100 * accuracy_score(truth, said))
        assert metrics["f1"]["value"] == pytest.approx(100 * f1_score(truth, said, average="macro"))
        labels = ("neutral", "entailment", "contradiction")
        shares = np.array([[float(row[f"probability_{label}"]) for label in labels] for row in rows])
        assert [labels[i] for i in shares.argmax(axis=1)] == said
        assert shares.sum(axis=1) == pytest.approx(1, abs=2e-4)
    hard = [row for row in rows if row["hard(hypothesis)"] == "hard"]
    right = np.mean([row["truth"] == row["prediction"] for row in hard])
    group = results["groups"]["test"]["hard(hypothesis)"]["hard"]["accuracy"]
    assert group["value"] == pytest.approx(100 * right) and group["examples"] == len(hard)


def test_the_saved_model_works_in_a_plain_pipeline(trained):
    from transformers import pipeline

    folder, _ = trained
    classify = pipeline("text-classification", model=str(folder))
    for row in rows_of(folder / "test_predictions.csv")[:20]:
        found = classify({"text": row["premise"], "text_pair": row["hypothesis"]}, top_k=None)
        assert found[0]["label"] == row["prediction"]
        assert found[0]["score"] == pytest.approx(float(row[f"probability_{row['prediction']}"]), abs=1e-3)


# hidden 128, intermediate 256, 4 layers, 3 classes
LAYER = 4 * (128 * 128 + 128) + 128 * 256 + 256 + 256 * 128 + 128 + 4 * 128
POOLER, CLASSIFIER = 128 * 128 + 128, 128 * 3 + 3


@pytest.mark.parametrize(
    ("strategy", "trainable"),
    [
        ("freeze_3", LAYER + POOLER + CLASSIFIER),
        ("last_layer", LAYER + POOLER + CLASSIFIER),
        ("freeze_1", 3 * LAYER + POOLER + CLASSIFIER),
        ("head_only", CLASSIFIER),
    ],
)
def test_frozen_strategies_train_what_they_say(demo, tmp_path, strategy, trainable):
    results = short(demo, tmp_path / "out", "--strategy", strategy)
    assert results["model"]["parameters"]["trainable"] == trainable
    facts = results["extra"]["strategy"]
    assert facts["trainable parameters"] == facts["trainable parameters by formula"] == trainable
    before, after = weights(Path(demo["model"])), weights(tmp_path / "out")
    changed = {name for name in before if not np.array_equal(before[name].numpy(), after[name].numpy())}
    assert sum(before[name].numel() for name in changed) == trainable, "frozen weights stay, all others move"


@pytest.mark.parametrize("strategy", ["freeze_2", "head_only"])
def test_the_cache_changes_nothing(demo, tmp_path, strategy):
    cached = short(demo, tmp_path / "cached", "--strategy", strategy, "--num_train_epochs", "2")
    computed = short(
        demo, tmp_path / "computed", "--strategy", strategy, "--num_train_epochs", "2", "--frozen_cache", "none"
    )
    one, other = weights(tmp_path / "cached"), weights(tmp_path / "computed")
    for name, weight in one.items():
        assert np.abs((weight - other[name]).numpy()).max() < 1e-5, name
    for name in ("validation", "test"):
        values = [r["metrics"][name]["loss"]["value"] for r in (cached, computed)]
        assert values[0] == pytest.approx(values[1], abs=1e-5)


def test_truncated_model_is_an_ordinary_one(demo, tmp_path):
    from transformers import AutoModelForSequenceClassification

    results = short(demo, tmp_path / "out", "--strategy", "first_2")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    total = sum(p.numel() for p in model.parameters())
    whole = results["extra"]["strategy"]["parameters of the whole model"]
    assert model.config.num_hidden_layers == 2 and total == whole - 2 * LAYER
    assert results["model"]["parameters"] == {"total": total, "trainable": total}


@pytest.mark.parametrize("pruning", [("random", "layer"), ("importance", "global")])
def test_pruned_model_is_saved_loaded_and_predicts(demo, tmp_path, pruning):
    from transformers import AutoModelForSequenceClassification

    kind, scope = pruning
    more = ("--strategy", "prune_heads", "--pruning", kind, "--pruning_scope", scope)
    results = short(demo, tmp_path / "out", *more)
    facts = results["extra"]["pruning"]
    lost = 8 * (4 * 128 * 32 + 3 * 32)  # half of 4 layers x 4 heads
    assert facts["before"]["parameters"] - facts["after"]["parameters"] == lost
    model = load_pruned(AutoModelForSequenceClassification, str(tmp_path / "out"))
    assert sum(map(len, model.config.pruned_heads.values())) == 8
    assert sum(p.numel() for p in model.parameters()) == facts["after"]["parameters"]
    argv = ["--do_predict", "--model", str(tmp_path / "out"), *files(demo, "test"), *QUICK]
    again = run_nli_parsbert.main([*argv, "--max_predict_samples", "30", "--output_dir", str(tmp_path / "again")])
    assert again["metrics"]["test"]["accuracy"]["value"] == results["metrics"]["test"]["accuracy"]["value"]
    assert rows_of(tmp_path / "out" / "test_predictions.csv") == rows_of(tmp_path / "again" / "test_predictions.csv")


def test_other_heads_are_another_run(demo, tmp_path, capsys):
    """A checkpoint's weights belong to the heads that were left; other heads have the same shapes."""
    out = tmp_path / "out"
    short(demo, out, "--strategy", "prune_heads")
    argv = [
        "--model",
        demo["model"],
        *files(demo, "train", "validation", "test"),
        "--output_dir",
        str(out),
        *QUICK,
        *FEW,
    ]
    argv += ["--strategy", "prune_heads", "--pruning_seed", "1", "--resume_from_checkpoint", "auto"]
    said = refused(capsys, run_nli_parsbert.main, "run_nli_parsbert.py", *argv)
    assert "pruning_seed was 0, is 1" in said and "another run" in said


def test_learning_rates_by_depth(demo, tmp_path):
    more = ("--learning_rate", "1e-3", "--head_learning_rate", "0", "--layer_decay", "1e-9", "--weight_decay", "0")
    short(demo, tmp_path / "out", *more)
    before, after = weights(Path(demo["model"])), weights(tmp_path / "out")
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    assert moved["classifier.weight"] == 0
    assert moved["bert.encoder.layer.3.output.dense.weight"] > 1e-4
    assert moved["bert.encoder.layer.2.output.dense.weight"] < 1e-6


def test_preprocessing_reaches_the_model_and_not_the_report(demo, tmp_path):
    raw = short(demo, tmp_path / "raw")
    published = short(demo, tmp_path / "published", "--preprocessing", "published")
    tokens = [r["data"]["splits"]["test"]["statistics"]["tokens"] for r in (raw, published)]
    assert tokens[1] < tokens[0], "stop words are gone"
    texts = [[r["premise"] for r in rows_of(tmp_path / n / "test_predictions.csv")] for n in ("raw", "published")]
    assert texts[0] == texts[1]
    kept = short(demo, tmp_path / "kept", "--preprocessing", "published", "--remove_stop_words", "false")
    assert kept["data"]["splits"]["test"]["statistics"]["tokens"] > tokens[1]


def test_prediction_without_labels(demo, trained, tmp_path):
    folder, _ = trained
    rows = rows_of(folder / "test_predictions.csv")[:7]
    lines = [json.dumps({"premise": row["premise"], "hypothesis": row["hypothesis"]}) for row in rows]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    argv = ["--do_predict", "--model", str(folder), "--test_file", str(tmp_path / "pairs.jsonl"), *QUICK]
    results = run_nli_parsbert.main([*argv, "--output_dir", str(tmp_path / "out")])
    assert results["headline"] is None and results["metrics"] == {}
    again = rows_of(tmp_path / "out" / "test_predictions.csv")
    assert [r["prediction"] for r in again] == [r["prediction"] for r in rows] and not any(r["truth"] for r in again)


def test_another_order_of_classes_is_evaluated_right(demo, trained, tmp_path):
    """The same function with its logits in another order, and named so, scores the same."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder, results = trained
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    order = [2, 0, 1]
    names = [model.config.id2label[i].upper() for i in order]
    for tensor in (model.classifier.weight, model.classifier.bias):
        tensor.data = tensor.data[order]
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: i for i, name in enumerate(names)}
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "model")
    argv = ["--do_predict", "--model", str(tmp_path / "model"), *files(demo, "test"), *QUICK]
    again = run_nli_parsbert.main([*argv, "--output_dir", str(tmp_path / "out")])
    assert again["metrics"]["test"]["accuracy"] == results["metrics"]["test"]["accuracy"]
    assert again["metrics"]["test"]["f1"]["value"] == pytest.approx(results["metrics"]["test"]["f1"]["value"])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--strategy", "freeze_5"], ("freeze_5", "4 layers")),
        (["--strategy", "freeze"], ("freeze_9",)),
        (["--strategy", "nothing"], ("head_only", "prune_heads")),
        (["--strategy", "prune_heads", "--pruned_share", "0.9"], ("90%", "smaller share")),
        (["--strategy", "prune_heads", "--pruned_share", "1"], ("--pruned_share",)),
        (["--premise_column", "nonsense"], ("'nonsense'", "'premise'")),
        (["--head_learning_rate", "-1"], ("--head_learning_rate",)),
        (["--label_order", "n,e,n"], ("--label_order", "twice")),
        (["--do_eval", "--strategy", "first_2"], ("--strategy first_2", "training")),
        (["--task_name", "mnli"], ("--task_name mnli", "run_mnli_lora.py")),
        (["--language", "de"], ("--language de", "Persian")),
        (["--max_length", "4"], ("--max_length 4",)),
        (["--metric_for_best_model", "accuracy"], ("validation_accuracy",)),
        (["--validation_file", "missing.csv"], ("missing.csv", "no such file")),
    ],
)
def test_bad_arguments_are_one_sentence(demo, tmp_path, capsys, argv, words):
    out = tmp_path / "out"
    everything = ["--model", demo["model"], *files(demo, "train", "validation", "test"), "--output_dir", str(out)]
    said = refused(capsys, run_nli_parsbert.main, "run_nli_parsbert.py", *everything, *QUICK, *FEW, *argv)
    assert all(word in said for word in words), said
    assert not list(out.glob("checkpoint-*")) and not (out / "results.json").exists()


def test_bad_data_are_one_sentence(demo, tmp_path, capsys):
    def with_rows(*rows: dict) -> str:
        path = tmp_path / "bad.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        return refused(
            capsys,
            run_nli_parsbert.main,
            "run_nli_parsbert.py",
            *["--model", demo["model"], *files(demo, "train"), "--validation_file", str(path), *QUICK, *FEW],
            *["--output_dir", str(tmp_path / "out")],
        )

    good = {"premise": "a b", "hypothesis": "a", "label": "e"}
    said = with_rows(good, {**good, "label": "maybe"})
    assert "bad.jsonl" in said and "row 2" in said and "'maybe'" in said and "--on_bad_example skip" in said
    said = with_rows(good, {**good, "hypothesis": " "})
    assert "row 2" in said and "hypothesis is empty" in said
    said = with_rows({**good, "label": 1})
    assert "--label_order" in said


def test_training_needs_two_classes(demo, tmp_path, capsys):
    rows = [{"premise": "a b", "hypothesis": "a", "label": "e"}] * 3
    (tmp_path / "one.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    argv = ["--model", demo["model"], "--train_file", str(tmp_path / "one.jsonl"), *files(demo, "validation"), *QUICK]
    argv += ["--output_dir", str(tmp_path / "out")]
    said = refused(capsys, run_nli_parsbert.main, "run_nli_parsbert.py", *argv)
    assert "one.jsonl" in said and "'entailment'" in said and "two or more" in said


def test_a_trained_model_gets_texts_prepared_as_in_training(demo, tmp_path, capsys):
    short(demo, tmp_path / "trained", "--preprocessing", "published", "--remove_stop_words", "false")
    card = (tmp_path / "trained" / "README.md").read_text("utf-8")
    assert "prepared as in training" in card and 'model="' + str(tmp_path / "trained") in card
    argv = ["--do_predict", "--model", str(tmp_path / "trained"), *files(demo, "test"), *QUICK]
    argv += ["--max_predict_samples", "30", "--output_dir", str(tmp_path / "out")]
    said = refused(capsys, run_nli_parsbert.main, "run_nli_parsbert.py", *argv)
    flags = said.partition("give ")[2]
    assert flags == "--normalize true --remove_stop_words false --stem false --remove_zwnj true"
    again = run_nli_parsbert.main([*argv, *flags.split()])
    assert rows_of(tmp_path / "out" / "test_predictions.csv") == rows_of(tmp_path / "trained" / "test_predictions.csv")
    assert again["published"] == [], "what was trained is not known here"
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert str(tmp_path / "trained") in card and 'model="' + str(tmp_path / "out") not in card, (
        "no model is saved there"
    )


def test_flags_of_official_examples(demo, tmp_path, capsys):
    official = ["--language", "fa", "--train_language", "fa", "--do_lower_case", "--use_fast_tokenizer", "true"]
    official += ["--ignore_mismatched_sizes", "--label_column_name", "label", "--max_seq_length", "32"]
    arguments = short(demo, tmp_path / "out", *official, "--evaluation_strategy", "no")["arguments"]
    assert (arguments["max_length"]["value"], arguments["label_column"]["value"]) == (32, "label")
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 7, notes


def test_generic_class_names_need_an_order(demo, trained, tmp_path, capsys):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder, results = trained
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    names = [model.config.id2label[i] for i in range(3)]
    model.config.id2label = {i: f"LABEL_{i}" for i in range(3)}
    model.config.label2id = {f"LABEL_{i}": i for i in range(3)}
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "model")
    argv = ["--do_predict", "--model", str(tmp_path / "model"), *files(demo, "test"), *QUICK]
    argv += ["--output_dir", str(tmp_path / "out")]
    said = refused(capsys, run_nli_parsbert.main, "run_nli_parsbert.py", *argv)
    assert "LABEL_0" in said and "--label_order" in said
    again = run_nli_parsbert.main([*argv, "--label_order", ",".join(names)])
    assert again["metrics"]["test"]["accuracy"] == results["metrics"]["test"]["accuracy"]


# As users type it


@pytest.fixture(scope="module")
def hub_root(tmp_path_factory, demo) -> Path:
    """FarsTail's form and a tiny ParsBERT under their real ids."""
    root = tmp_path_factory.mktemp("hub")
    folder = root / "datasets" / "azarijafari" / "FarsTail" / "data"
    folder.mkdir(parents=True)
    (folder.parent / "README.md").write_text("")
    for name, split in (("Train", "train"), ("Val", "validation"), ("Test", "test")):
        lines = Path(demo[f"{split}_file"]).read_text("utf-8").splitlines(keepends=True)
        (folder / f"{name}-word.csv").write_text("".join(lines), encoding="utf-8")
    model = root / "models" / "HooshvareLab" / "bert-base-parsbert-uncased"
    model.mkdir(parents=True)
    for file in Path(demo["model"]).iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    return root


def test_the_published_experiment_as_typed(hub_root, tmp_path):
    with Hub(hub_root) as hub:
        environment = hub.environment(tmp_path / "home") | {"CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, SCRIPT, *FEW, "--strategy", "last_layer"]
        finish(start(command, tmp_path, environment))
        asked = {path for _, path in hub.requests}
    allowed = ("HooshvareLab/bert-base-parsbert-uncased", "azarijafari/FarsTail")
    assert asked and not [path for path in asked if not any(name in path for name in allowed)], asked
    results = read(tmp_path / "outputs" / "nli" / "results.json")
    assert results["data"]["splits"]["train"]["available"] == 3000
    assert results["published"][0]["metrics"]["accuracy"]["value"] == 65.0


def test_two_processes_give_what_one_gives(demo, tmp_path):
    everything = ["--model", demo["model"], *files(demo, "train", "validation", "test"), *QUICK, *FEW]
    everything += ["--strategy", "freeze_2", "--max_grad_norm", "0"]
    one = [sys.executable, SCRIPT, *everything, "--per_device_train_batch_size", "8", "--output_dir", "one"]
    two = [*TORCHRUN, SCRIPT, *everything, "--per_device_train_batch_size", "4", "--output_dir", "two"]
    for command in (one, two):
        finish(start(command, tmp_path, plain(tmp_path)))
    results = [read(tmp_path / name / "results.json") for name in ("one", "two")]
    assert [r["environment"]["processes"] for r in results] == [1, 2]
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, weight in a.items():
        assert np.abs((weight - b[name]).numpy()).max() < 1e-4, name
    assert results[0]["metrics"]["test"]["loss"]["value"] == pytest.approx(
        results[1]["metrics"]["test"]["loss"]["value"], abs=1e-4
    )
