"""--push_to_hub against a stand-in that takes commits: what is pushed, when, and what is said when it cannot be."""

import base64
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.helpers import ROOT, finish, start

COMMAND = [sys.executable, "-m", "docs.run_texts", "--demo", "--use_cpu", "--max_steps", "2", "--output_dir", "out"]


class Uploads(BaseHTTPRequestHandler):
    """The calls of `create_repo` and `upload_folder`; every file comes inside the commit."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.calls.append(self.path)
        if self.server.refuse:
            return self.answer(403, {"error": "You have no right to create me/texts"})
        if self.path == "/api/repos/create":
            self.server.token = self.headers["Authorization"]
            return self.answer(200, {"url": f"http://{self.headers['Host']}/me/texts"})
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self.answer(200, {"files": modes})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"http://{self.headers['Host']}/me/texts/commit/" + "0" * 40
            return self.answer(200, {"commitUrl": url, "commitOid": "0" * 40, "success": True})
        return self.answer(200, {"errors": [], "warnings": []})  # validation of the card

    def do_GET(self):
        if re.fullmatch(r"/api/models/me/texts(/revision/main)?", self.path):
            return self.answer(200, {"id": "me/texts", "sha": "0" * 40, "siblings": [], "tags": []})
        return self.answer(404, {})

    def answer(self, status: int, content: dict) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Uploads)
    server.files, server.calls, server.token, server.refuse = {}, [], None, False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def environment(hub, tmp_path) -> dict[str, str]:
    import os

    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    address = f"http://127.0.0.1:{hub.server_port}"
    return kept | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}


def test_all_that_the_run_left_behind_is_pushed_last_and_nothing_else(hub, tmp_path):
    pushing = [*COMMAND, "--push_to_hub", "--hub_model_id", "me/texts", "--hub_token", "hf_secret"]
    finish(start([*pushing, "--push_predictions", "false"], tmp_path, environment(hub, tmp_path)))
    out = tmp_path / "out"
    assert hub.token == "Bearer hf_secret"
    assert {"README.md", "results.json", "report.html", "model.safetensors", "config.json"} <= hub.files.keys()
    assert any(name.startswith("plots/") for name in hub.files)
    odd = re.compile(r"checkpoint|^demo|training_args|run\.json|\.run|^runs|prediction")
    assert not [name for name in hub.files if odd.search(name)]
    for name, content in hub.files.items():
        assert b"hf_secret" not in content
        assert content == (out / name).read_bytes(), "what is pushed is what is there at the end"
    assert b"hf_secret" not in b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert b"model-index" in hub.files["README.md"] and b'"me/texts"' in hub.files["README.md"]


def test_a_refused_push_is_one_sentence_and_the_run_is_whole(hub, tmp_path):
    hub.refuse = True
    pushing = [*COMMAND, "--push_to_hub", "--hub_model_id", "me/texts", "--hub_token", "hf_secret"]
    output = finish(start(pushing, tmp_path, environment(hub, tmp_path)), status=2)
    assert "cannot be pushed to the hub" in output and "Traceback" not in output
    assert (tmp_path / "out" / "results.json").is_file() and not hub.files


def test_without_a_token_there_is_no_training(hub, tmp_path):
    pushing = [*COMMAND, "--push_to_hub", "--hub_model_id", "me/texts"]
    output = finish(start(pushing, tmp_path, environment(hub, tmp_path)), status=2)
    assert "token" in output and not (tmp_path / "out").exists() and not hub.calls
