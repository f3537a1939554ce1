"""What the built-in data of every `--demo` have in common: the same bytes on every run, others for another seed."""

import hashlib
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PERSIAN = "HooshvareLab/bert-base-parsbert-uncased"
DEMOS = [  # of which module the function makes the data, for models of every kind of tokenizer
    ("demo_qa", "question_answering_demo", "distilbert-base-uncased"),
    ("demo_qa", "question_answering_demo", "xlm-roberta-base"),
    ("demo_nli", "mnli_demo", "roberta-base"),
    ("demo_nli", "farstail_demo", PERSIAN),
]


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_everything_is_the_same_in_another_process(tmp_path):
    program = (
        "import importlib, sys; from pathlib import Path\n"
        "for at, demo in enumerate(sys.argv[2:]):\n"
        "    module, function, model = demo.split(',')\n"
        "    getattr(importlib.import_module(f'common.{module}'), function)(Path(sys.argv[1], str(at)), model)"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / hash_seed), *map(",".join, DEMOS)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        for hash_seed in ("1", "2")
    ]
    assert [process.wait(timeout=300) for process in running] == [0, 0]
    first = digests(tmp_path / "1")
    assert len(first) >= len(DEMOS) * 7
    assert first == digests(tmp_path / "2")


@pytest.mark.parametrize("demo", [DEMOS[0], *DEMOS[2:]], ids=lambda demo: demo[1])
def test_another_seed_gives_other_data_and_other_weights(demo, tmp_path):
    module, function, model = demo
    make = getattr(importlib.import_module(f"common.{module}"), function)
    first, other = make(tmp_path / "0", model), make(tmp_path / "1", model, seed=1)
    assert set(first) == {"model", "train_file", "validation_file", "test_file"}
    for name in ("train_file", "validation_file", "test_file"):
        assert Path(first[name]).read_bytes() != Path(other[name]).read_bytes()
    weights = [Path(made["model"], "model.safetensors").read_bytes() for made in (first, other)]
    assert weights[0] != weights[1]
