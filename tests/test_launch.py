"""run_qa.py as users start it: real processes, a stand-in for the hub, launchers, and signals in the middle."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.demo.qa import question_answering_demo
from common.demo.tiny_text import tiny_model
from tests.helpers import ROOT, TORCHRUN, finish, hub_rows, plain, start
from tests.hub import Hub, add_parquet_dataset

SCRIPT = str(ROOT / "run_qa.py")
BIN = Path(sys.executable).parent
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
ACCELERATE += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
TRAIN, VALIDATION = 180, 60


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """What the hub has: two tiny models and SQuAD v2's form, under their real ids."""
    import datasets

    root = tmp_path_factory.mktemp("hub")
    made = question_answering_demo(root / "demo", "distilbert-base-uncased")
    splits, texts = {}, []
    for split, count in (("train", TRAIN), ("validation", VALIDATION)):
        rows = hub_rows(made[f"{split}_file"])[:count]
        texts += [row["context"] for row in rows] + [row["question"] for row in rows]
        answers = {"text": [datasets.Value("string")], "answer_start": [datasets.Value("int32")]}
        strings = {name: datasets.Value("string") for name in ("id", "title", "context", "question")}
        splits[split] = datasets.Dataset.from_list(rows, features=datasets.Features({**strings, "answers": answers}))
    add_parquet_dataset(root, "rajpurkar/squad_v2", splits)
    for name in ("distilbert-base-uncased", "xlm-roberta-base"):
        tiny_model(name, texts, root / "models" / name, "question-answering")
    return root


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text("utf-8"))


# The hub


def test_the_published_experiment_as_typed(root, tmp_path):
    """`python run_qa.py --model xlm-roberta-base`, and nothing else; then the same again without a connection."""
    with Hub(root) as hub:
        environment = hub.environment(tmp_path / "home") | {"CUDA_VISIBLE_DEVICES": ""}
        finish(start([sys.executable, SCRIPT, "--model", "xlm-roberta-base"], tmp_path, environment))
        asked = {path for _, path in hub.requests}
        allowed = ("xlm-roberta-base", "rajpurkar/squad_v2")
        assert asked and not [path for path in asked if not any(name in path for name in allowed)], asked
        commits = hub.commit("models", "xlm-roberta-base"), hub.commit("datasets", "rajpurkar/squad_v2")
        hub.stop()
        # The data are in the cache now; so is the model, but evaluating it needs the trained one.
        again = [sys.executable, SCRIPT, "--do_eval", "--model", "outputs/qa", "--output_dir", "offline"]
        finish(start(again, tmp_path, environment))
    results = results_of(tmp_path / "outputs" / "qa")
    assert (
        results["model"]["revision"] == commits[0] and commits[1][:12] in results["data"]["splits"]["train"]["source"]
    )
    assert results["model"]["architecture"] == "XLMRobertaForQuestionAnswering"
    splits = results["data"]["splits"]
    assert splits["train"]["examples"] + splits["tuning"]["examples"] == TRAIN
    assert splits["validation"]["examples"] == VALIDATION
    assert results["arguments"]["max_train_samples"] == {"value": 60000, "source": "recipe"}


@pytest.mark.parametrize(
    "launcher",
    [pytest.param(TORCHRUN, id="torchrun"), pytest.param(ACCELERATE, id="accelerate", marks=pytest.mark.slow)],
)
def test_two_processes_from_the_hub(root, tmp_path, launcher):
    with Hub(root) as hub:
        environment = hub.environment(tmp_path / "home") | {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
        command = [*launcher, SCRIPT, "--model", "xlm-roberta-base", "--use_cpu", "--num_train_epochs", "1"]
        output = finish(start(command, tmp_path, environment))
    results = results_of(tmp_path / "outputs" / "qa")
    assert results["environment"]["processes"] == 2
    rows = (tmp_path / "outputs" / "qa" / "predictions.csv").read_text("utf-8").splitlines()
    assert len(rows) == VALIDATION + 1 and results["metrics"]["validation"]["f1"]["examples"] == VALIDATION
    steps = json.loads((tmp_path / "outputs" / "qa" / "trainer_state.json").read_text("utf-8"))["global_step"]
    windows = results["data"]["splits"]["train"]["statistics"]["windows"]
    assert steps == -(-windows // 16), "two processes of 8 make steps of 16"
    assert output.count("report: ") == 1, "only the main process speaks"


def test_unknown_and_unreachable_ids(root, tmp_path):
    with Hub(root) as hub:
        environment = hub.environment(tmp_path / "home")
        unknown = finish(start([sys.executable, SCRIPT, "--model", "nobody/nothing"], tmp_path, environment), status=2)
        assert "nobody/nothing" in unknown and "Traceback" not in unknown
        hub.fail_with = 503
        began = time.monotonic()
        other = hub.environment(tmp_path / "other home")
        down = finish(start([sys.executable, SCRIPT, "--output_dir", "down"], tmp_path, other), status=2)
        assert "distilbert-base-uncased: the hub cannot be reached" in down and "Traceback" not in down
        assert "use --demo, or give local files" in down
        assert time.monotonic() - began < 60
    assert not (tmp_path / "outputs").exists() and not (tmp_path / "down").exists()


def test_a_launch_that_runs_as_one_process_is_refused(tmp_path):
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", SCRIPT, "--demo"]
    process = start(command, tmp_path, plain(tmp_path))
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 0 and "torchrun --nproc_per_node" in output
    assert not (tmp_path / "outputs").exists()


# Signals


def train(folder: Path, *more: str) -> list[str]:
    common = [
        "--demo",
        "--use_cpu",
        "--output_dir",
        str(folder),
        "--max_train_samples",
        "600",
        "--max_eval_samples",
        "40",
    ]
    epochs = ["--eval_strategy", "epoch", "--save_strategy", "epoch", "--num_train_epochs", "4", "--logging_steps", "5"]
    return [SCRIPT, *common, *epochs, *more]


def stop_in_the_middle(process: subprocess.Popen, folder: Path, number: int) -> str:
    """Sends the signal once the first epoch's checkpoint is there: training is then in its second epoch."""
    deadline = time.monotonic() + 120
    while not list(folder.glob("checkpoint-*/checksums.json")):
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    return process.communicate(timeout=120)[0]


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A run that nobody stops."""
    folder = tmp_path_factory.mktemp("straight")
    finish(start([sys.executable, *train(folder / "run")], folder, plain(folder)))
    return folder / "run"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_stopped_and_resumed_gives_the_same_weights(tmp_path, straight, number):
    stopped = tmp_path / "stopped"
    process = start([sys.executable, *train(stopped)], tmp_path, plain(tmp_path))
    said = stop_in_the_middle(process, stopped, number)
    assert process.returncode == 128 + number, said[-3000:]
    assert "--resume_from_checkpoint auto" in said and "Traceback" not in said
    assert not (stopped / "results.json").exists() and list(stopped.glob("checkpoint-*"))
    if number == signal.SIGINT:  # from here on the same
        return
    refused = finish(start([sys.executable, *train(stopped)], tmp_path, plain(tmp_path)), status=2)
    assert "--resume_from_checkpoint auto" in refused
    finish(start([sys.executable, *train(stopped, "--resume_from_checkpoint", "auto")], tmp_path, plain(tmp_path)))
    assert (straight / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()
    assert (straight / "predictions.json").read_bytes() == (stopped / "predictions.json").read_bytes()


@pytest.mark.slow
def test_two_processes_stopped_and_resumed(tmp_path):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    finish(start([*TORCHRUN, *train(straight)], tmp_path, plain(tmp_path)))
    process = start([*TORCHRUN, *train(stopped)], tmp_path, plain(tmp_path))
    said = stop_in_the_middle(process, stopped, signal.SIGTERM)
    assert process.returncode != 0 and "--resume_from_checkpoint auto" in said
    assert not (stopped / "results.json").exists()
    finish(start([*TORCHRUN, *train(stopped, "--resume_from_checkpoint", "auto")], tmp_path, plain(tmp_path)))
    assert (straight / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()


# The command line itself


def test_help_shows_the_task_first(tmp_path):
    output = finish(start([sys.executable, SCRIPT, "--help"], tmp_path, plain(tmp_path)))
    order = [
        output.index(flag)
        for flag in ("python run_qa.py --demo", "--null_threshold", "--dataset", "--gradient_accumulation_steps")
    ]
    assert order == sorted(order)


def test_demo_asks_the_network_for_nothing(root, tmp_path):
    with Hub(root) as hub:
        command = [
            sys.executable,
            SCRIPT,
            "--demo",
            "--max_steps",
            "3",
            "--use_cpu",
            "--do_train",
            "--do_eval",
            "--do_predict",
        ]
        finish(start(command, tmp_path, hub.environment(tmp_path / "home")))
        assert hub.requests == []
    assert (tmp_path / "outputs" / "demo" / "qa" / "test_predictions.csv").exists()
