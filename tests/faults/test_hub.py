"""A hub that fails in the middle, cuts downloads off, or asks to wait: one sentence, soon; the command then runs."""

import random
import sys
import time
from pathlib import Path

import pytest

import tests.hub
from tests import standin
from tests.faults import COUNT
from tests.helpers import ROOT, finish, start
from tests.hub import FailsAfter, Hub

pytestmark = pytest.mark.slow
COMMAND = [sys.executable, str(ROOT / "run_qa.py"), "--use_cpu", "--max_steps", "1", "--max_eval_samples", "8"]
COMMAND += ["--overwrite_output_dir", "--max_length", "64", "--stride", "16"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    (root / "here").mkdir()
    standin.question_answering(root, root / "here")
    return root


def run(hub: Hub, folder: Path) -> str:
    """What the command says; it ends with 0, or with 2 and one sentence, within two minutes."""
    begin = time.monotonic()
    process = start(COMMAND, folder, hub.environment(folder / "home") | {"CUDA_VISIBLE_DEVICES": ""})
    said = process.communicate(timeout=240)[0]
    sentences = [line for line in said.splitlines() if line.startswith("run_qa.py: error: ")]
    assert "Traceback" not in said and (process.returncode, len(sentences)) in {(0, 0), (2, 1)}, said[-3000:]
    assert time.monotonic() - begin < 200
    return sentences[0] if sentences else ""


def succeeds(hub: Hub, folder: Path) -> None:
    finish(start(COMMAND, folder, hub.environment(folder / "home") | {"CUDA_VISIBLE_DEVICES": ""}))
    assert (folder / "outputs" / "qa" / "results.json").is_file()


@pytest.fixture(scope="module")
def requests(root, tmp_path_factory) -> int:
    """How many requests a whole run makes."""
    with Hub(root) as hub:
        succeeds(hub, tmp_path_factory.mktemp("whole"))
        return len(hub.requests)


@pytest.mark.parametrize("status", [503, 429, 401, None])
def test_down_in_the_middle(root, requests, tmp_path, status):
    points = random.Random(str(status))
    for attempt in range(max(1, COUNT // 6)):
        with Hub(root) as hub:
            hub.requests = FailsAfter(hub, points.randrange(requests), status)
            run(hub, tmp_path / str(attempt))
        with Hub(root) as hub:
            succeeds(hub, tmp_path / str(attempt))


@pytest.mark.parametrize("ending", [".parquet", ".safetensors", "config.json"])
def test_half_a_download(root, tmp_path, monkeypatch, ending):
    """The connection ends in the middle of a file, every time; then the hub is well again."""
    whole, cut = tests.hub._Handler.send_file, []

    def half(self, path, commit):
        if not path.name.endswith(ending) or self.command != "GET":
            return whole(self, path, commit)
        cut.append(path)
        content = path.read_bytes()
        self.send_response(200)
        for name, value in {"ETag": f'"{tests.hub.blob_id(path)}"', "X-Repo-Commit": commit}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.close_connection = True

    with Hub(root) as hub:
        monkeypatch.setattr(tests.hub._Handler, "send_file", half)
        assert run(hub, tmp_path) and cut
        monkeypatch.setattr(tests.hub._Handler, "send_file", whole)
        succeeds(hub, tmp_path)


def test_a_limit_of_requests(root, tmp_path):
    """429 with `Retry-After` now and then: the clients wait and go on, or one sentence says it; later all is well."""

    class Limited(list):
        def append(self, request):
            super().append(request)
            hub.fail_with, hub.retry_after = (429, 1) if len(self) % 9 == 8 else (None, 0)

    with Hub(root) as hub:
        hub.requests = Limited()
        assert (said := run(hub, tmp_path)) == "" or "429" in said or "Too Many Requests" in said
        hub.requests, hub.fail_with = [], None
        succeeds(hub, tmp_path)
