"""The metrics as `evaluate` loads them: without a network, from any folder, by several processes at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, socket, sys
import common.metrics.classification.classification, common.metrics.detection
import common.metrics.intervals, common.metrics.squad_v2.squad_v2, common.metrics.wer.wer
heavy = sorted({"datasets", "evaluate", "sklearn", "torch", "jiwer"} & sys.modules.keys())

def refuse(*args, **kwargs):
    raise AssertionError("the network was used")

socket.socket.connect = socket.getaddrinfo = refuse
from common.metrics import load
answers = {"id": "1", "answers": {"text": ["the cat"], "answer_start": [0]}}
squad = {"predictions": [{"id": "1", "prediction_text": "cat", "no_answer_probability": 0.0}], "references": [answers]}
print(json.dumps({
    "heavy": heavy,
    "classification": load("classification").compute(predictions=[0, 1, 1, 2], references=[0, 1, 2, 2]),
    "squad_v2": load("squad_v2").compute(**squad),
    "wer": load("wer").compute(predictions=["the cap", "x"], references=["the cat sat", ""]),
}))
"""


def test_all_are_loaded_offline_by_two_processes_from_another_folder(tmp_path):
    home = {"HF_HOME": str(tmp_path), "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": str(ROOT)}
    settings = {"cwd": tmp_path, "env": {**os.environ, **home}, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", PROGRAM], **settings) for _ in range(2)]
    for process in both:
        found = json.loads(process.communicate(timeout=120)[0].splitlines()[-1])
        assert process.returncode == 0
        assert found["heavy"] == []
        assert found["classification"]["accuracy"] == 75
        assert list(found["classification"]["per_class"]) == ["0", "1", "2", "macro avg", "weighted avg"]
        assert found["squad_v2"]["exact"] == 100
        assert found["wer"]["wer"] == 100 and found["wer"]["words"]["insertions"] == 1
