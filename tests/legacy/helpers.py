"""What several test modules need: the sentence of a refusal, and SQuAD's nested rows as the hub has them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.legacy.errors import UserError


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
        [sys.executable, "-P", "-c", LOAD, f"common/legacy/metrics/{metric}", json.dumps(inputs)],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "HF_HOME": str(home), "HF_MODULES_CACHE": str(home / "modules")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
