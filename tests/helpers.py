"""What many tests share: sentences of refusal, files read back, processes started as users do, rows of the hub."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import UserError, exit_status

ROOT = Path(__file__).resolve().parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def message(action, *arguments, **options) -> str:
    """The sentence of the `UserError` that `action` raises: one line."""
    with pytest.raises(UserError) as caught:
        action(*arguments, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def hub_rows(squad_file: str | Path) -> list[dict]:
    """The questions of a SQuAD json file as rows with the hub's columns."""
    return [
        {
            "id": question["id"],
            "title": article["title"],
            "context": paragraph["context"],
            "question": question["question"],
            "answers": {key: [answer[key] for answer in question["answers"]] for key in ("text", "answer_start")},
        }
        for article in json.loads(Path(squad_file).read_text("utf-8"))["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


LOAD = """
import json, socket, sys

def refuse(*args, **kwargs):
    raise AssertionError("the network was used")

socket.socket.connect = socket.getaddrinfo = refuse
import evaluate
metric = evaluate.load(sys.argv[1])
print(json.dumps(metric.compute(**json.loads(sys.argv[2]))))
"""


def evaluate_offline(metric: str, home: Path, **inputs) -> dict:
    """What the metric in the folder common/metrics/`metric` computes when `evaluate` loads it without a network."""
    done = subprocess.run(
        # -P: the repository is not on the path, so the copy that evaluate makes has to do without the rest of it.
        [sys.executable, "-P", "-c", LOAD, f"common/metrics/{metric}", json.dumps(inputs)],
        cwd=Path(__file__).resolve().parent.parent,
        env={**os.environ, "HF_HOME": str(home), "HF_MODULES_CACHE": str(home / "modules")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def refused(capsys, main: Callable, script: str, *argv: str) -> str:
    """The one sentence with which the script refuses these arguments, with status 2."""
    capsys.readouterr()
    status = exit_status(lambda: main(list(argv)), script)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"{script}: ")]
    assert status == 2 and len(lines) == 1, (status, lines)
    return lines[0].removeprefix(f"{script}: error: ")


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def rows_of(path: Path) -> list[dict]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def start(command: list[str], cwd: Path, environment: dict[str, str]) -> subprocess.Popen:
    cwd.mkdir(parents=True, exist_ok=True)
    environment = {**environment, "XDG_CACHE_HOME": str(cwd / "cache"), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen, status: int = 0) -> str:
    output = process.communicate(timeout=240)[0]
    assert process.returncode == status, output[-4000:]
    return output


def plain(home: Path) -> dict[str, str]:
    """An environment without a hub."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
