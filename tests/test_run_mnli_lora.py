"""run_mnli_lora.py through `main` and the command line: three methods, and adapters that keep what they promise."""

import json
import sys
from pathlib import Path

import datasets
import jsonschema
import peft
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score
from transformers import AutoModelForSequenceClassification

import run_mnli_lora
from common.demo.nli import LABELS, mnli_demo
from tests.helpers import ROOT, TORCHRUN, finish, plain, read, refused, rows_of, start
from tests.hub import Hub, add_parquet_dataset

pytestmark = pytest.mark.usefixtures("one_thread")
SCRIPT = str(ROOT / "run_mnli_lora.py")
QUICK = ["--use_cpu", "--max_length", "64", "--learning_rate", "1e-2", "--per_device_train_batch_size", "8"]
FEW = ["--max_train_samples=64", "--max_eval_samples=40", "--max_predict_samples=30", "--num_train_epochs=1"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> dict[str, str]:
    """The built-in data as a user's files, and the tiny model (2 layers) as a user's folder."""
    return mnli_demo(tmp_path_factory.mktemp("data"), "roberta-base")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    """A `--demo` run on half of the pairs, with the callback on."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    less = ["--max_train_samples", "1600", "--per_device_train_batch_size", "16", "--num_train_epochs", "2"]
    less += ["--max_eval_samples", "200", "--max_predict_samples", "200"]
    return folder, run_mnli_lora.main(["--demo", "--output_dir", str(folder), "--use_cpu", *less])


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, demo) -> tuple[Path, dict]:
    """A short LoRA run, with a merged model."""
    folder = tmp_path_factory.mktemp("runs") / "lora"
    return folder, short(demo, folder, "--merge", "--lower_case", "false")


def files(demo: dict, *names: str) -> list[str]:
    return [argument for name in names for argument in (f"--{name}_file", demo[f"{name}_file"])]


def short(demo: dict, out: Path, *more: str, model: bool = True) -> dict:
    """A training of a few steps on files."""
    argv = [*files(demo, "train", "validation", "test"), "--output_dir", str(out), *QUICK, *FEW]
    return run_mnli_lora.main([*argv, *(["--model", demo["model"]] if model else []), *more])


def used(demo: dict, out: Path, *more: str) -> dict:
    """What is there already, on the test pairs of the short trainings."""
    limits = ["--max_predict_samples", "30", "--use_cpu", "--overwrite_output_dir"]
    return run_mnli_lora.main(["--do_predict", *files(demo, "test"), "--output_dir", str(out), *limits, *more])


def scores(results: dict) -> tuple[float, float]:
    test = results["metrics"]["test"]
    return test["accuracy"]["value"], pytest.approx(test["loss"]["value"], abs=1e-4)


# Three methods


def test_demo_learns_and_reports(trained):
    folder, results = trained
    head = results["headline"]
    assert (head["split"], head["metric"]) == ("test", "accuracy")
    assert head["low"] > head["baseline"] + 5, "training has to beat the majority class"
    written = read(folder / "results.json")
    jsonschema.validate(written, read(ROOT / "common" / "results.schema.json"))
    for name in written["files"].values():
        assert (folder / name).stat().st_size > 0, name
    assert set(written["metrics"]) == {"validation", "test"} and "genre" in written["groups"]["test"]
    rows = rows_of(folder / "test_predictions.csv")
    right = accuracy_score([row["truth"] for row in rows], [row["prediction"] for row in rows])
    assert results["metrics"]["test"]["accuracy"]["value"] == pytest.approx(100 * right)


def test_the_callback_evaluates_the_training_set_and_changes_nothing(trained, demo, tmp_path):
    _, results = trained
    epochs = [entry for entry in results["history"] if "train_accuracy" in entry]
    assert [entry["epoch"] for entry in epochs] == [1.0, 2.0]
    for name, flag in (("with", "true"), ("without", "false")):
        short(demo, tmp_path / name, "--method", "full", "--eval_training_set", flag)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("with", "without"))
    assert all(torch.equal(weight, b[name]) for name, weight in a.items())


def test_the_method_decides_model_and_learning_rate(demo, tmp_path):
    results = short(demo, tmp_path, "--method", "freeze")
    start_of, ends = load_file(Path(demo["model"]) / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    moved = {name for name in ends if not torch.equal(ends[name], start_of[name])}
    assert moved and all(name.startswith("classifier.") for name in moved) and results["warnings"] == []
    facts = results["extra"]["method"]
    counts = results["model"]["parameters"]
    assert facts["trainable parameters"] == counts["trainable"] < facts["parameters"] == counts["total"]
    frozen = counts["total"] - counts["trainable"]
    assert facts["bytes for 100 tasks"] == 4 * (frozen + 100 * counts["trainable"])
    for method, row in run_mnli_lora.METHODS.items():
        args = parsed("--method", method)
        assert (args.model, args.training_args.learning_rate) == (row["model"], row["learning_rate"])


def parsed(*argv: str):
    layers = {"recipe": run_mnli_lora.RECIPE, "variants": {"method": run_mnli_lora.METHODS}, "demo": run_mnli_lora.DEMO}
    settings = {**layers, "legacy": run_mnli_lora.LEGACY}
    return run_mnli_lora.parse_arguments(run_mnli_lora.MultiNliArguments, list(argv), **settings)


def test_flags_of_official_examples():
    args = parsed("--task_name", "rte", "--max_seq_length", "99", "--do_lower_case", "false")
    assert (args.dataset, args.dataset_config, args.max_length, args.lower_case) == ("nyu-mll/glue", "rte", 99, False)
    args = parsed("--text_column_names", "a,b")
    assert (args.premise_column, args.hypothesis_column) == ("a", "b")
    args = parsed("--language", "de")
    assert (args.dataset, args.dataset_config, args.max_train_samples) == ("facebook/xnli", "de", None)


def test_pairs_are_no_longer_than_the_model_takes(demo, tmp_path):
    few = ["--max_train_samples", "8", "--max_eval_samples", "2", "--max_predict_samples", "2"]
    results = short(demo, tmp_path, "--max_length", "600", "--pad_to_max_length", "--method", "full", *few)
    assert any("512 tokens" in warning and "--max_length 600" in warning for warning in results["warnings"])


# Adapters


def test_an_adapter_is_small_whole_and_merged(adapter, demo, tmp_path):
    folder, results = adapter
    assert not (folder / "model.safetensors").exists() and (folder / "adapter_model.safetensors").exists()
    base = AutoModelForSequenceClassification.from_pretrained(demo["model"])
    stock = peft.PeftModel.from_pretrained(base, str(folder)).eval()
    assert list(read(folder / "adapter_facts.json")["classes"]) == [base.config.id2label[i] for i in range(3)]
    merged = results["extra"]["merged"]
    assert merged["largest difference of a logit"] < 1e-4
    assert merged["merged"]["parameters"] == merged["base"]["parameters"] - results["model"]["parameters"]["trainable"]
    plain_model = AutoModelForSequenceClassification.from_pretrained(folder / "merged").eval()
    ids = torch.tensor([[0, 9, 8, 2, 2, 7, 6, 2]])
    with torch.no_grad():
        torch.testing.assert_close(stock(input_ids=ids).logits, plain_model(input_ids=ids).logits, rtol=0, atol=1e-4)
    again = used(demo, tmp_path, "--model", str(folder / "merged"))
    assert scores(again) == scores(results)
    assert again["arguments"]["lower_case"] == {"value": False, "source": f"remembered with {folder / 'merged'}"}


@pytest.mark.parametrize("flag", ["--adapter", "--model"])
def test_an_adapter_scores_as_it_was_trained(adapter, demo, tmp_path, flag):
    folder, results = adapter
    again = used(demo, tmp_path, flag, str(folder))
    assert scores(again) == scores(results)
    values = {
        name: again["arguments"][name]["value"] for name in ("method", "lora_rank", "lora_alpha", "lower_case", "model")
    }
    assert values == {"method": "lora", "lora_rank": 32, "lora_alpha": 32, "lower_case": False, "model": demo["model"]}
    assert "AutoPeftModel" in (tmp_path / "README.md").read_text("utf-8")


def test_a_foreign_adapter_needs_an_order(adapter, demo, tmp_path, capsys):
    folder, results = adapter
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for file in folder.glob("adapter_*"):
        (foreign / file.name).write_bytes(file.read_bytes())
    (foreign / "adapter_facts.json").unlink()
    weights = load_file(
        foreign / "adapter_model.safetensors"
    )  # trained elsewhere, with the classes the other way round
    for name in (name for name in weights if "classifier.out_proj" in name):
        weights[name] = weights[name].flip(0).contiguous()
    from safetensors.torch import save_file

    save_file(weights, foreign / "adapter_model.safetensors")
    given = [
        "--do_predict",
        "--adapter",
        str(foreign),
        *files(demo, "test"),
        "--output_dir",
        str(tmp_path / "o"),
        "--use_cpu",
    ]
    said = refused(capsys, run_mnli_lora.main, "run_mnli_lora.py", *given)
    assert "LABEL_0, LABEL_1, LABEL_2" in said and "--label_order" in said
    said = refused(capsys, run_mnli_lora.main, "run_mnli_lora.py", *given, "--label_order", "joy,anger,fear")
    assert "--label_order" in said
    again = used(
        demo, tmp_path / "o", "--adapter", str(foreign), "--label_order", ",".join(LABELS[::-1]), "--max_length", "64"
    )
    assert scores(again) == scores(results)


def test_going_on_from_an_adapter_and_from_a_merged_one_with_other_classes(adapter, demo, tmp_path):
    folder, _ = adapter
    short(demo, tmp_path / "on", "--adapter", str(folder), model=False)
    before, after = (load_file(path / "adapter_model.safetensors") for path in (folder, tmp_path / "on"))
    assert before.keys() == after.keys() and any(not torch.equal(before[name], after[name]) for name in before)
    rows = [json.loads(line) for line in Path(demo["train_file"]).read_text("utf-8").splitlines()]
    two = "".join(json.dumps({**row, "label": "yes" if row["label"] == "entailment" else "no"}) + "\n" for row in rows)
    (tmp_path / "two.jsonl").write_text(two)
    argv = ["--model", str(folder / "merged"), "--output_dir", str(tmp_path / "two"), *QUICK, *FEW]
    argv += ["--train_file", str(tmp_path / "two.jsonl"), "--validation_file", str(tmp_path / "two.jsonl")]
    results = run_mnli_lora.main(argv)
    assert list(results["per_class"]["validation"])[:2] == ["no", "yes"]
    assert read(tmp_path / "two" / "adapter_facts.json")["classes"] == ["no", "yes"]


def test_a_sum_of_adapters_is_written_and_used(adapter, demo, tmp_path):
    folder, results = adapter
    both = used(demo, tmp_path / "sum", "--combine", f"{folder}:0.25", f"{folder}:0.75")
    assert scores(both) == scores(results)
    assert read(tmp_path / "sum" / "adapter_config.json")["r"] == 64
    assert str(tmp_path / "sum") in both["extra"].get("usage", "") or (tmp_path / "sum" / "tokenizer.json").exists()
    assert scores(used(demo, tmp_path / "again", "--adapter", str(tmp_path / "sum"))) == scores(results)


def test_resumed_training_ends_where_a_straight_one_does(demo, tmp_path):
    straight = short(demo, tmp_path / "a", "--num_train_epochs", "2", "--save_total_limit", "9")
    for name in ("checkpoint-8",):
        target = tmp_path / "b" / name
        target.mkdir(parents=True)
        for file in (tmp_path / "a" / name).iterdir():
            (target / file.name).write_bytes(file.read_bytes())
    (tmp_path / "b" / "run.json").write_text((tmp_path / "a" / "run.json").read_text())
    more = ["--num_train_epochs", "2", "--save_total_limit", "9", "--resume_from_checkpoint", "auto"]
    resumed = short(demo, tmp_path / "b", *more)
    assert scores(resumed) == scores(straight)
    a, b = (load_file(tmp_path / name / "adapter_model.safetensors") for name in "ab")
    assert all(torch.equal(weight, b[name]) for name, weight in a.items())


# Refusals


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--method", "full", "--lora_rank", "4"], "--lora_rank belongs to --method lora"),
        (["--method", "lora", "--do_predict"], "--method lora needs an adapter where nothing is trained"),
        (["--lora_rank", "0"], "--lora_rank 0: must be from 1 to"),
        (["--lora_alpha", "0"], "--lora_alpha 0: must be from 1 to"),
        (["--lora_dropout", "1"], "--lora_dropout 1.0: must be from 0 to"),
        (
            ["--target_modules", "query", "valeu"],
            "valeu: there is no such module; a roberta model has dense, key",
        ),
        (["--init_lora_weights", "orthogonal", "--lora_rank", "3"], "takes no such adapter: Orthogonal init"),
        (["--combine", "x"], "is not a folder, a colon and a number"),
        (["--train_language", "fr"], "--language"),
        (["--do_regression"], "not for scores"),
    ],
)
def test_bad_arguments_are_one_sentence(demo, tmp_path, capsys, argv, words):
    given = ["--model", demo["model"], *files(demo, "train", "validation", "test"), *QUICK, *FEW]
    given += ["--output_dir", str(tmp_path / "o")]
    assert words in refused(capsys, run_mnli_lora.main, "run_mnli_lora.py", *given, *argv)


def test_adapters_that_do_not_fit(adapter, demo, tmp_path, capsys):
    folder, _ = adapter
    argv = [
        "--adapter",
        str(folder),
        *files(demo, "train", "validation"),
        *QUICK,
        *FEW,
        "--output_dir",
        str(tmp_path / "o"),
    ]
    assert "leave out --lora_rank" in refused(capsys, run_mnli_lora.main, "run_mnli_lora.py", *argv, "--lora_rank", "4")
    twice = refused(capsys, run_mnli_lora.main, "run_mnli_lora.py", *argv, "--model", str(folder))
    assert f"--model {folder}: is an adapter itself" in twice
    other = mnli_demo(tmp_path / "other", "bert-base")["model"]
    said = refused(capsys, run_mnli_lora.main, "run_mnli_lora.py", *argv, "--model", other)
    assert f"was trained on another base model ({demo['model']}) than --model {other}" in said


def test_an_encoder_without_a_classifier_predicts_nothing(tiny_folder, tmp_path, capsys):
    (tmp_path / "pairs.csv").write_text("premise,hypothesis\nIt rains.,It pours.\n")
    argv = ["--model", str(tiny_folder("bert-base-uncased")), "--test_file", str(tmp_path / "pairs.csv")]
    argv += ["--do_predict", "--use_cpu", "--output_dir", str(tmp_path / "o")]
    assert "has no trained classification head" in refused(capsys, run_mnli_lora.main, "run_mnli_lora.py", *argv)


def test_the_card_of_an_adapter_has_whatever_names_classes_have(demo, tmp_path):
    rows = [{"premise": f"p{i}", "hypothesis": f"{{h}} {i}", "label": ("{0}", "$x")[i % 2]} for i in range(8)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["--model", demo["model"], "--train_file", str(file), "--validation_file", str(file), *QUICK]
    run_mnli_lora.main([*argv, "--num_train_epochs", "1", "--output_dir", str(tmp_path / "o")])
    card = (tmp_path / "o" / "README.md").read_text("utf-8")
    assert "classes = ['$x', '{0}']" in card and "'p0', '{h} 0'" in card


# As users type it


def test_the_published_experiment_as_typed(demo, tmp_path):
    """`python run_mnli_lora.py`, and nothing else, with a hub that has masked language models and GLUE's form."""
    text, labels = datasets.Value("string"), datasets.ClassLabel(names=list(LABELS))
    features = datasets.Features({"premise": text, "hypothesis": text, "label": labels, "idx": datasets.Value("int32")})
    splits = {}
    wanted = {"train": ("train", 96), "validation_matched": ("validation", 45), "validation_mismatched": ("test", 36)}
    for name, (file, count) in (wanted | {"test_matched": ("test", 9)}).items():
        lines = Path(demo[f"{file}_file"]).read_text("utf-8").splitlines()[:count]
        rows = [
            {k: v for k, v in json.loads(line).items() if k in features} | {"idx": i} for i, line in enumerate(lines)
        ]
        rows = [{**row, "label": -1 if name.startswith("test") else labels.str2int(row["label"])} for row in rows]
        splits[name] = datasets.Dataset.from_list(rows, features=features)
    root = tmp_path / "hub"
    add_parquet_dataset(root, "nyu-mll/glue", splits, "mnli")
    model = root / "models" / "roberta-large"
    model.mkdir(parents=True)
    for file in Path(demo["model"]).iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    config = {k: v for k, v in read(model / "config.json").items() if k not in ("id2label", "label2id")}
    (model / "config.json").write_text(json.dumps(config | {"architectures": ["RobertaForMaskedLM"]}))
    with Hub(root) as hub:
        environment = hub.environment(tmp_path / "home") | {"CUDA_VISIBLE_DEVICES": ""}
        finish(start([sys.executable, SCRIPT], tmp_path, environment))
        asked = {path for _, path in hub.requests}
    allowed = ("roberta-large", "nyu-mll/glue")
    assert asked and not [path for path in asked if not any(name in path for name in allowed)], asked
    results = read(tmp_path / "outputs" / "mnli" / "results.json")
    counts = {name: split["examples"] for name, split in results["data"]["splits"].items()}
    assert counts == {"train": 96, "validation": 45, "test": 36}
    assert results["arguments"]["model"] == {"value": "roberta-large", "source": "variant --method lora"}
    assert results["published"][0]["metrics"]["accuracy"]["value"] == 76.05
    table = next(table for table in results["tables"] if table["title"].startswith("By class"))
    assert table["rows"][0][4:] == ["87", "71", "78"]


def test_two_processes(demo, tmp_path):
    everything = ["--max_grad_norm", "0", "--optim", "sgd", "--eval_training_set"]
    short(demo, tmp_path / "one", *everything)
    argv = ["--model", demo["model"], *files(demo, "train", "validation", "test"), *QUICK, *FEW, *everything]
    argv += ["--per_device_train_batch_size", "4", "--output_dir", str(tmp_path / "two")]
    finish(start([*TORCHRUN, SCRIPT, *argv], tmp_path, plain(tmp_path)))
    results = [read(tmp_path / name / "results.json") for name in ("one", "two")]
    assert [r["environment"]["processes"] for r in results] == [1, 2]
    a, b = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    for name, weight in a.items():
        torch.testing.assert_close(weight, b[name], rtol=0, atol=1e-4, msg=name)
    shown = [next(row["train_loss"] for row in r["history"] if "train_accuracy" in row) for r in results]
    assert shown[0] == pytest.approx(shown[1], abs=1e-4)
