"""A server that has imported what takes long and runs scripts in forks, so that a run takes seconds, not half a minute.

`python -m tests.faults.forks` reads a json object a line: {"script", "argv", "cwd", "environment", "log"} starts a run
and is answered by its pid, {"wait": pid} by its exit status, as `subprocess` gives it.
"""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.helpers import ROOT

HEAVY = ("torch", "datasets", "evaluate", "transformers", "transformers.trainer", "peft", "librosa", "sklearn.metrics")
HEAVY += ("pandas", "matplotlib.figure", "accelerate", "jinja2", "soundfile", "huggingface_hub", "scipy.stats")


class Process:
    """A run of a script in a fork; what it says is in `log`."""

    def __init__(self, server: "ForkServer", pid: int, log: Path):
        self.server, self.pid, self.log, self.status = server, pid, log, None

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """The exit status; minus the signal's number where one ended the process."""
        if self.status is None:
            self.status = self.server.ask({"wait": self.pid})
        return self.status

    def alive(self) -> bool:
        return Path(f"/proc/{self.pid}").exists() and "\nState:\tZ" not in Path(f"/proc/{self.pid}/status").read_text()

    def said(self) -> str:
        return self.log.read_text(errors="replace")


class ForkServer:
    """Context: `start` runs a script as one of its forks."""

    def __init__(self, home: Path):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [sys.executable, "-m", "tests.faults.forks"]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.wait()

    def ask(self, question: dict) -> int:
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, script: str, argv: list[str], cwd: Path, **environment: str) -> Process:
        cwd.mkdir(parents=True, exist_ok=True)
        log = cwd / f"log-{len(list(cwd.glob('log-*')))}.txt"
        log.touch()
        question = {"script": script, "argv": argv, "cwd": str(cwd), "environment": environment, "log": str(log)}
        return Process(self, self.ask(question), log)

    def run(self, script: str, argv: list[str], cwd: Path) -> Process:
        """A run that has ended."""
        process = self.start(script, argv, cwd)
        process.wait()
        return process


def run_script(order: dict) -> None:
    """In the fork: what `python SCRIPT.py ARGV` does."""
    file = os.open(order["log"], os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1), os.dup2(file, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(order["cwd"])
    os.environ.update(order["environment"])
    sys.argv = [f"{order['script']}.py", *order["argv"]]
    status = 1
    try:
        from common.errors import exit_status

        script = importlib.import_module(order["script"])
        status = exit_status(script.main, f"{order['script']}.py")
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


def main() -> None:
    for name in HEAVY:
        importlib.import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
        elif pid := os.fork():
            print(pid, flush=True)
        else:
            run_script(order)


def wait_for(condition, seconds: float = 60) -> None:
    """Until `condition()`; fails after some time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
