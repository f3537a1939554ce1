"""What the tests of the scripts share: a sentence of refusal, files read back, processes started as users do."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from common.legacy.errors import exit_status

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


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
