"""run_mnli_lora.py through `main` and the command line: three methods, and adapters that keep what they promise."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score

import run_mnli_lora
from common.legacy.demo_nli import mnli_demo
from tests.legacy.hub import Hub, add_parquet_dataset
from tests.legacy.scripts import ROOT, TORCHRUN, finish, plain, read, refused, rows_of, start

SCRIPT = str(ROOT / "run_mnli_lora.py")
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
RATE = ["--learning_rate", "1e-2", "--per_device_train_batch_size", "8"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> dict[str, str]:
    """The built-in data as a user's files, and the tiny model (2 layers) as a user's folder."""
    return mnli_demo(tmp_path_factory.mktemp("data"), "roberta-base")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    """One whole `--demo` run."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    argv = ["--demo", "--output_dir", str(folder), "--use_cpu", "--disable_tqdm", "true"]
    return folder, run_mnli_lora.main(argv)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, demo) -> tuple[Path, dict]:
    """A short LoRA run, with a merged model."""
    folder = tmp_path_factory.mktemp("runs") / "lora"
    return folder, short(demo, folder, "--method", "lora", "--merge")


def files(demo: dict, *names: str) -> list[str]:
    return [argument for name in names for argument in (f"--{name}_file", demo[f"{name}_file"])]


def short(demo: dict, out: Path, *more: str) -> dict:
    """A training of a few steps on files."""
    everything = ["--model", demo["model"], *files(demo, "train", "validation", "test"), "--output_dir", str(out)]
    return run_mnli_lora.main([*everything, *QUICK, *FEW, *RATE, *more])


def evaluated(demo: dict, out: Path, *more: str) -> dict:
    """An evaluation on the short runs' pairs."""
    argv = [
        "--do_eval",
        *files(demo, "validation", "test"),
        *QUICK,
        "--max_eval_samples",
        "40",
        "--output_dir",
        str(out),
    ]
    return run_mnli_lora.main([*argv, "--max_predict_samples", "30", *more])


def test_demo_learns_and_reports(trained):
    folder, results = trained
    head = results["headline"]
    assert (head["split"], head["metric"]) == ("test", "accuracy")
    assert head["low"] > head["baseline"] + 5, "training has to beat the majority class"
    written = read(folder / "results.json")
    jsonschema.validate(written, read(ROOT / "common" / "legacy" / "results.schema.json"))
    for name in written["files"].values():
        assert (folder / name).stat().st_size > 0, name
    assert set(written["metrics"]) == {"validation", "test"} and "genre" in written["groups"]["test"]
    for name, prefix in (("validation", ""), ("test", "test_")):
        rows = rows_of(folder / f"{prefix}predictions.csv")
        right = accuracy_score([r["truth"] for r in rows], [r["prediction"] for r in rows])
        assert results["metrics"][name]["accuracy"]["value"] == pytest.approx(100 * right)
    epochs = [entry for entry in written["history"] if "eval_train_accuracy" in entry]
    assert len(epochs) == 5, "the training set is evaluated after each epoch"


def test_method_decides_model_and_learning_rate(demo, tmp_path):
    arguments = short(demo, tmp_path / "out", "--method", "full")["arguments"]
    assert arguments["learning_rate"] == {"value": 0.01, "source": "command line"}
    argv = ["--model", demo["model"], *files(demo, "train", "validation"), *QUICK, *FEW]
    results = run_mnli_lora.main([*argv, "--method", "freeze", "--output_dir", str(tmp_path / "freeze")])
    assert results["arguments"]["learning_rate"] == {"value": 1e-3, "source": "recipe of --method freeze"}
    assert set(results["metrics"]) == {"validation"}, "files without a test file need none"
    before, after = (load_file(Path(f) / "model.safetensors") for f in (demo["model"], tmp_path / "freeze"))
    changed = {name for name in before if not np.array_equal(before[name].numpy(), after[name].numpy())}
    assert changed and all(name.startswith("classifier.") for name in changed)
    head = 128 * 128 + 128 + 128 * 3 + 3
    assert results["model"]["parameters"]["trainable"] == head


def test_adapter_is_small_whole_and_loaded_again(adapter, demo):
    folder, results = adapter
    update = 2 * 2 * 32 * (128 + 128)  # layers x (query, value) x rank x (in + out)
    head = 128 * 128 + 128 + 128 * 3 + 3
    parameters = results["model"]["parameters"]
    assert parameters["trainable"] == update + head
    assert results["extra"]["method"]["trainable share"] == parameters["trainable"] / parameters["total"]
    again = results["extra"]["loaded again from disk"]
    assert again["largest difference of a logit"] < 1e-4 and again["same predictions"] == 1
    saved = load_file(folder / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == update + head, "adapter and classifier, nothing else"
    assert any(tensor.abs().max() > 0 for name, tensor in saved.items() if "lora_B" in name)


def test_merged_model_needs_no_peft(adapter):
    folder, results = adapter
    assert results["extra"]["merged"]["largest difference of a logit"] < 1e-5
    rows = rows_of(folder / "test_predictions.csv")[:10]
    program = """
import json, sys
sys.modules["peft"] = sys.modules["common"] = None  # importing either is an error
from transformers import pipeline
classify = pipeline("text-classification", model=sys.argv[1])
found = [classify(pair) for pair in json.loads(sys.argv[2])]
print(json.dumps(found))
"""
    pairs = json.dumps([{"text": r["premise"].lower(), "text_pair": r["hypothesis"].lower()} for r in rows])
    command = [sys.executable, "-c", program, str(folder / "merged"), pairs]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    for answer, row in zip(found, rows):
        assert answer["label"] == row["prediction"]
        assert answer["score"] == pytest.approx(float(row[f"probability_{row['prediction']}"]), abs=1e-3)


def test_adapter_evaluated_as_model_and_as_adapter(adapter, demo, tmp_path):
    folder, results = adapter
    for name, flags in (("a", ["--model", str(folder)]), ("b", ["--adapter", str(folder)])):
        again = evaluated(demo, tmp_path / name, *flags)
        for split in ("validation", "test"):
            assert again["metrics"][split]["accuracy"] == results["metrics"][split]["accuracy"]
        assert rows_of(tmp_path / name / "test_predictions.csv") == rows_of(folder / "test_predictions.csv")


def test_an_adapter_that_is_only_used(adapter, demo, tmp_path, capsys):
    folder, _ = adapter
    rows = rows_of(folder / "test_predictions.csv")
    pairs = [{"premise": row["premise"], "hypothesis": row["hypothesis"]} for row in rows]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    argv = ["--do_predict", "--model", str(folder), "--test_file", str(tmp_path / "pairs.jsonl"), *QUICK]
    results = run_mnli_lora.main([*argv, "--merge", "--output_dir", str(tmp_path / "out")])
    assert results["extra"]["merged"]["largest difference of a logit"] < 1e-5, "pairs without classes can be compared"
    said = [row["prediction"] for row in rows_of(tmp_path / "out" / "test_predictions.csv")]
    assert said == [row["prediction"] for row in rows]
    assert results["arguments"]["adapter"]["value"] == str(folder) and results["published"] == []
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert f'PeftModel.from_pretrained(base, "{folder}")' in card and pairs[0]["premise"].lower() in card
    argv = ["--do_eval", *files(demo, "validation"), *QUICK, "--output_dir", str(tmp_path / "no")]
    for more, words in (
        (["--adapter", str(folder), "--reset_classifier"], ("--reset_classifier", "--do_train")),
        (["--model", str(folder), "--method", "full"], (str(folder), "is an adapter", "--method lora")),
    ):
        said = refused(capsys, run_mnli_lora.main, "run_mnli_lora.py", *argv, *more)
        assert all(word in said for word in words), said


def test_a_whole_model_is_evaluated_without_a_method(adapter, demo, tmp_path):
    folder, results = adapter
    again = evaluated(demo, tmp_path / "out", "--model", str(folder / "merged"))
    assert again["metrics"]["test"]["accuracy"] == results["metrics"]["test"]["accuracy"]
    assert again["arguments"]["method"]["value"] == "full" and again["published"] == []
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "PeftModel" not in card and f'model="{folder / "merged"}"' in card


def test_official_command(demo, tmp_path, capsys):
    official = ["--task_name", "MNLI", "--do_lower_case", "false", "--use_fast_tokenizer", "--max_seq_length", "32"]
    arguments = short(demo, tmp_path / "out", "--method", "freeze", *official)["arguments"]
    assert (arguments["lower_case"]["value"], arguments["max_length"]["value"]) == (False, 32)
    assert "--task_name has no effect" in capsys.readouterr().err


def test_going_on_from_an_adapter(adapter, demo, tmp_path):
    folder, _ = adapter
    more = short(demo, tmp_path / "more", "--adapter", str(folder), "--learning_rate", "0")
    assert evaluated(demo, tmp_path / "a", "--adapter", str(folder))["metrics"]["test"]["loss"][
        "value"
    ] == pytest.approx(more["metrics"]["test"]["loss"]["value"], abs=1e-5), (
        "at a learning rate of 0 it is where the first one ended"
    )
    rows = [json.loads(line) for line in Path(demo["train_file"]).read_text("utf-8").splitlines()[:64]]
    for row in rows:
        row["label"] = {"entailment": "yes"}.get(row["label"], "no")
    (tmp_path / "two.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    argv = ["--adapter", str(folder), "--train_file", str(tmp_path / "two.jsonl"), *QUICK, *RATE]
    argv += ["--validation_file", str(tmp_path / "two.jsonl"), "--num_train_epochs", "1"]
    second = run_mnli_lora.main([*argv, "--reset_classifier", "--output_dir", str(tmp_path / "second")])
    assert [*second["per_class"]["validation"]] == ["no", "yes"]
    assert second["extra"]["loaded again from disk"]["same predictions"] == 1


def test_combining_adapters(adapter, demo, tmp_path):
    folder, results = adapter
    same = evaluated(demo, tmp_path / "same", "--combine", f"{folder}:0.25", f"{folder}:0.75")
    assert same["metrics"]["test"]["loss"]["value"] == pytest.approx(
        results["metrics"]["test"]["loss"]["value"], abs=1e-5
    )
    half = evaluated(demo, tmp_path / "half", "--combine", f"{folder}:0.5")
    assert abs(half["metrics"]["test"]["loss"]["value"] - results["metrics"]["test"]["loss"]["value"]) > 1e-4


def test_resumed_adapter_training_ends_where_a_straight_one_does(demo, tmp_path):
    argv = ("--num_train_epochs", "2")
    short(demo, tmp_path / "straight", *argv)
    short(demo, tmp_path / "resumed", *argv)
    for name in ("results.json", "adapter_model.safetensors"):
        (tmp_path / "resumed" / name).unlink()
    last = max(int(p.name[11:]) for p in (tmp_path / "resumed").glob("checkpoint-*"))
    first = tmp_path / "resumed" / f"checkpoint-{last // 2}"
    assert first.is_dir()
    short(demo, tmp_path / "resumed", *argv, "--resume_from_checkpoint", str(first))
    one, other = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("straight", "resumed"))
    assert one.keys() == other.keys() and all(np.array_equal(one[n].numpy(), other[n].numpy()) for n in one)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--method", "full", "--merge"], ("--merge", "--method lora")),
        (["--method", "adapter"], ("lora",)),
        (["--target_modules", "nothing"], ("nothing", "query")),
        (["--lora_rank", "0"], ("--lora_rank",)),
        (["--do_eval", "--merge"], ("--merge", "--adapter or --combine")),
        (["--do_eval", "--method", "lora"], ("--method lora", "--adapter or --combine")),
        (["--task_name", "qqp"], ("--task_name qqp", "MultiNLI")),
        (["--language", "de"], ("--language de", "English")),
        (["--adapter", "missing"], ("missing", "no such folder")),
        (["--combine", "missing"], ("--combine missing",)),
        (["--load_in_4bit"], ("--load_in_4bit", "bitsandbytes")),
        (["--train_file", "missing.csv"], ("missing.csv", "no such file")),
    ],
)
def test_bad_arguments_are_one_sentence(demo, tmp_path, capsys, argv, words):
    out = tmp_path / "out"
    everything = ["--model", demo["model"], *files(demo, "train", "validation"), "--output_dir", str(out)]
    said = refused(capsys, run_mnli_lora.main, "run_mnli_lora.py", *everything, *QUICK, *FEW, *argv)
    assert all(word in said for word in words), said
    assert not out.exists()


def test_adapters_that_do_not_fit(adapter, demo, tmp_path, capsys):
    folder, _ = adapter
    other = mnli_demo(tmp_path / "other", "roberta-base", seed=1)
    argv = [*files(demo, "train", "validation"), *QUICK, *FEW, "--output_dir", str(tmp_path / "out")]
    said = refused(
        capsys, run_mnli_lora.main, "run_mnli_lora.py", *argv, "--model", other["model"], "--adapter", str(folder)
    )
    assert "another base model" in said
    rows = [{"premise": "a", "hypothesis": "b", "label": label} for label in ("yes", "no")]
    (tmp_path / "two.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    two = ["--train_file", str(tmp_path / "two.jsonl"), "--validation_file", str(tmp_path / "two.jsonl"), *QUICK]
    two += ["--adapter", str(folder), "--output_dir", str(tmp_path / "out")]
    said = refused(capsys, run_mnli_lora.main, "run_mnli_lora.py", *two)
    assert "--reset_classifier" in said and "no, yes" in said
    evaluating = ["--do_eval", "--adapter", str(folder), "--validation_file", str(tmp_path / "two.jsonl"), *QUICK]
    said = refused(capsys, run_mnli_lora.main, "run_mnli_lora.py", *evaluating, "--output_dir", str(tmp_path / "out"))
    assert said.startswith(f"{folder}: was trained for 3 classes"), "the adapter was, not its base"
    bare = tmp_path / "bare"
    bare.mkdir()
    saved = load_file(folder / "adapter_model.safetensors")
    from safetensors.torch import save_file

    save_file({n: t for n, t in saved.items() if "lora_" in n}, bare / "adapter_model.safetensors")
    (bare / "adapter_config.json").write_bytes((folder / "adapter_config.json").read_bytes())
    said = refused(capsys, run_mnli_lora.main, "run_mnli_lora.py", *argv, "--adapter", str(bare))
    assert "adapter without classifier" in said


# As users type it


@pytest.fixture(scope="module")
def hub_root(tmp_path_factory, demo) -> Path:
    """GLUE's MNLI, with class labels, and tiny RoBERTas under their real ids."""
    import datasets

    root = tmp_path_factory.mktemp("hub")
    labels = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    text = datasets.Value("string")
    features = datasets.Features({"premise": text, "hypothesis": text, "label": labels, "idx": datasets.Value("int32")})
    splits = {}
    for name, file, count in (
        ("train", "train", 96),
        ("validation_matched", "validation", 45),
        ("validation_mismatched", "test", 36),
        ("test_matched", "test", 9),
    ):
        rows = [json.loads(line) for line in Path(demo[f"{file}_file"]).read_text("utf-8").splitlines()[:count]]
        hidden = name.startswith("test")
        rows = [
            {
                "premise": row["premise"],
                "hypothesis": row["hypothesis"],
                "label": -1 if hidden else labels.str2int(row["label"]),
                "idx": i,
            }
            for i, row in enumerate(rows)
        ]
        splits[name] = datasets.Dataset.from_list(rows, features=features)
    add_parquet_dataset(root, "nyu-mll/glue", splits, "mnli")
    for name in ("roberta-base", "roberta-large"):
        model = root / "models" / name
        model.mkdir(parents=True)
        for file in Path(demo["model"]).iterdir():
            (model / file.name).write_bytes(file.read_bytes())
        config = read(model / "config.json")  # as of a masked language model: no classes
        config |= {"architectures": ["RobertaForMaskedLM"]}
        for key in ("id2label", "label2id"):
            config.pop(key, None)
        (model / "config.json").write_text(json.dumps(config))
    return root


def test_the_published_experiment_as_typed(hub_root, tmp_path):
    """`python run_mnli_lora.py`, and nothing else."""
    with Hub(hub_root) as hub:
        environment = hub.environment(tmp_path / "home") | {"CUDA_VISIBLE_DEVICES": ""}
        finish(start([sys.executable, SCRIPT], tmp_path, environment))
        asked = {path for _, path in hub.requests}
    allowed = ("roberta-large", "nyu-mll/glue")
    assert asked and not [path for path in asked if not any(name in path for name in allowed)], asked
    results = read(tmp_path / "outputs" / "mnli" / "results.json")
    counts = {name: split["examples"] for name, split in results["data"]["splits"].items()}
    assert counts == {"train": 96, "validation": 45, "test": 36}
    assert results["arguments"]["model"] == {"value": "roberta-large", "source": "recipe of --method lora"}
    assert results["published"][0]["metrics"]["accuracy"]["value"] == 76.05
    assert results["extra"]["loaded again from disk"]["same predictions"] == 1


@pytest.mark.parametrize("method", ["full", "lora"])
def test_two_processes(demo, tmp_path, method):
    everything = ["--model", demo["model"], *files(demo, "train", "validation", "test"), *QUICK, *FEW]
    everything += ["--method", method, "--learning_rate", "1e-3", "--max_grad_norm", "0"]
    one = [sys.executable, SCRIPT, *everything, "--per_device_train_batch_size", "8", "--output_dir", "one"]
    two = [*TORCHRUN, SCRIPT, *everything, "--per_device_train_batch_size", "4", "--output_dir", "two"]
    for command in (one, two):
        finish(start(command, tmp_path, plain(tmp_path)))
    results = [read(tmp_path / name / "results.json") for name in ("one", "two")]
    assert [r["environment"]["processes"] for r in results] == [1, 2]
    losses = [r["metrics"]["test"]["loss"]["value"] for r in results]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
