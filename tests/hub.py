"""A stand-in for the model hub on 127.0.0.1: real ids, real requests, no network.

It speaks the part of the protocol that huggingface-hub, transformers and datasets use to read, and remembers what it
was asked, so that a test can say what a script fetched - or that it fetched nothing. It is not a hub: every repository
has one commit, every revision answers the same files, and nobody can write, log in or be throttled.
"""

import functools
import hashlib
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    import datasets

ROUTE = re.compile(
    r"/(?P<api>api/)?(?P<kind>models/|datasets/)?(?P<repo_id>[^/]+(?:/[^/]+)?)"
    r"(?:/(?P<verb>revision|tree|resolve|paths-info)/(?P<revision>[^/]+)(?:/(?P<file>.*))?)?"
)
# What a developer's shell may hold and a run against the stand-in must not see: tokens, caches, offline switches.
FOREIGN_VARIABLES = re.compile(r"(HF|HUGGING_?FACE|TRANSFORMERS|DATASETS)_.*|.*_PROXY", re.IGNORECASE)


@functools.lru_cache(maxsize=4096)
def _blob_id(path: Path, size: int, modified: int) -> str:
    """git's id of the file, which is also the hub's ETag; size and modification time are here to key the cache."""
    digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def blob_id(path: Path) -> str:
    return _blob_id(path, path.stat().st_size, path.stat().st_mtime_ns)


def commit_of(repository: Path) -> str:
    """40 hex digits that change with any file of the repository, and with nothing else."""
    files = sorted(path for path in repository.rglob("*") if path.is_file())
    lines = [f"{blob_id(path)} {path.relative_to(repository).as_posix()}\n" for path in files]
    return hashlib.sha1("".join(lines).encode(), usedforsecurity=False).hexdigest()


class Hub:
    """Serves `root/models/[owner/]name/...` and `root/datasets/[owner/]name/...` while the context is open.

    - `requests`: (method, path) of everything asked so far, in order; hosts other than this one appear in full
      ("CONNECT", "example.org:443"), because `environment` makes the stand-in the proxy to the rest of the world.
    - `fail_with`: a status that every answer shall have, 503 for example.
    - `retry_after`: the seconds such an answer asks the client to wait; None sends no such header. No environment
      variable bounds the clients' back-off (1 + 2 + 4 + 8 + 8 s a file); 0, which they read as 1 s, keeps tests short.
    - `unknown_revisions`: branches, tags or commits that shall not exist.
    - `renamed`: old id -> the id that answers for it, by a redirect: {"squad": "rajpurkar/squad"}.
    """

    def __init__(self, root: Path):
        self.root = Path(root)
        self.requests: list[tuple[str, str]] = []
        self.fail_with: int | None = None
        self.retry_after: int | None = 0
        self.unknown_revisions: set[str] = set()
        self.renamed: dict[str, str] = {}

    def __enter__(self) -> "Hub":
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        # The default poll of 0.5 s would be waited for by every test that leaves the context.
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> None:
        """Leaves the port: from here on connections are refused. A second call does nothing."""
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """A whole environment for a subprocess: this hub, an empty cache in `home`, and no way to any other host."""
        kept = {name: value for name, value in os.environ.items() if not FOREIGN_VARIABLES.fullmatch(name)}
        return kept | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HTTP_PROXY": self.url,
            "HTTPS_PROXY": self.url,
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def commit(self, kind: str, repo_id: str) -> str:
        """The commit that every revision of a repository resolves to; `kind` is "models" or "datasets"."""
        return commit_of(self.root / kind / repo_id)


class FailsAfter(list):
    """The requests of a hub that after some of them answers with `status`, or not at all."""

    def __init__(self, hub: "Hub", count: int, status: int | None):
        self.hub, self.count, self.status = hub, count, status

    def append(self, request) -> None:
        super().append(request)
        if len(self) > self.count and self.status:
            self.hub.fail_with, self.hub.retry_after = self.status, 0
        elif len(self) == self.count + 1:
            threading.Thread(target=self.hub.stop).start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *arguments):
        self.hub = hub
        super().__init__(*arguments)

    def log_message(self, *_) -> None:
        """Tests read `Hub.requests`; a line on stderr for each of them would only bury their output."""

    def answer(self) -> None:
        self.hub.requests.append((self.command, self.path))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.hub.fail_with is not None:
            wait = {} if self.hub.retry_after is None else {"Retry-After": str(self.hub.retry_after)}
            return self.send(self.hub.fail_with, headers=wait)
        url = urlsplit(self.path)
        match = ROUTE.fullmatch(url.path) if self.path.startswith("/") else None  # another host's path is absolute
        if match is None or (match["api"] and not match["kind"]) or not (match["api"] or match["verb"] == "resolve"):
            return self.refuse("EntryNotFound")
        if match["repo_id"] in self.hub.renamed:
            old = f"/{match['kind'] or ''}{match['repo_id']}"
            new = f"/{match['kind'] or ''}{self.hub.renamed[match['repo_id']]}"
            return self.send(307, headers={"Location": self.path.replace(old, new, 1)})
        repository = self.inside(self.hub.root / (match["kind"] or "models/"), match["repo_id"])
        if repository is None or not any(path.is_file() for path in repository.glob("*")):  # an owner has no files
            return self.refuse("RepoNotFound")
        commit = commit_of(repository)
        if unquote(match["revision"] or "") in self.hub.unknown_revisions:
            return self.refuse("RevisionNotFound")
        target = self.inside(repository, match["file"] or "")
        if match["verb"] == "paths-info":
            found = [self.inside(repository, path) for path in parse_qs(body.decode()).get("paths", [])]
            return self.send_json([entry(repository, path) for path in found if path is not None], commit)
        if target is None or (match["verb"] == "resolve") != target.is_file():
            return self.refuse("EntryNotFound", commit)
        if match["verb"] == "resolve":
            return self.send_file(target, commit)
        if match["verb"] == "tree":
            recursive = parse_qs(url.query).get("recursive", ["false"])[0].lower() in ("true", "1")
            listed = sorted(target.rglob("*") if recursive else target.glob("*"))
            return self.send_json([entry(repository, path) for path in listed], commit)
        files = sorted(path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file())
        about = {"id": unquote(match["repo_id"]), "sha": commit, "siblings": [{"rfilename": name} for name in files]}
        about |= {"private": False, "disabled": False, "gated": False, "tags": [], "downloads": 0, "likes": 0}
        return self.send_json(about | {"lastModified": "2024-01-01T00:00:00.000Z"}, commit)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_CONNECT = answer

    @staticmethod
    def inside(folder: Path, path: str) -> Path | None:
        """`folder/path` where it exists. Steps upwards are refused; links that a test has laid are followed."""
        steps = unquote(path).split("/") if path else []
        if any(step in ("", ".", "..") or "\\" in step or "\0" in step for step in steps):
            return None
        found = folder.joinpath(*steps)
        return found if found.exists() else None

    def refuse(self, code: str, commit: str | None = None) -> None:
        self.send(404, headers={"X-Error-Code": code} | ({"X-Repo-Commit": commit} if commit else {}))

    def send_json(self, content: object, commit: str) -> None:
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json", "X-Repo-Commit": commit})

    def send_file(self, path: Path, commit: str) -> None:
        content = path.read_bytes()
        headers = {"ETag": f'"{blob_id(path)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self.send(200, content, headers)
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if first > last:
            return self.send(416, headers={"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self.send(206, content[first : last + 1], headers)

    def send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def entry(repository: Path, path: Path) -> dict[str, str | int]:
    """One file or folder as the hub's listings describe it."""
    name = path.relative_to(repository).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "size": 0, "oid": commit_of(path)}
    return {"type": "file", "path": name, "size": path.stat().st_size, "oid": blob_id(path)}


def add_parquet_dataset(
    root: Path, repo_id: str, splits: "dict[str, datasets.Dataset]", config_name: str = "default"
) -> Path:
    """Lays a data set under `root` as the hub keeps one: a parquet file a split and a README that names them.

    Returns the repository's folder. The features (class labels, sequences) travel in the parquet files' metadata.
    """
    repository = Path(root) / "datasets" / repo_id
    (repository / config_name).mkdir(parents=True, exist_ok=True)
    card = ["---", "configs:", f"- config_name: {config_name}", "  data_files:"]
    for split, rows in splits.items():
        file = f"{config_name}/{split}-00000-of-00001.parquet"
        rows.to_parquet(str(repository / file))
        card += [f"  - split: {split}", f"    path: {file}"]
    (repository / "README.md").write_text("\n".join([*card, "---", ""]), encoding="utf-8")
    return repository


def add_superb_keywords(root: Path, splits: "dict[str, datasets.Dataset]") -> Path:
    """Lays SUPERB's ks under `root` as the hub's converter does: `ks/SPLIT/0000.parquet`, and no README.

    Returns the repository's folder.
    """
    repository = Path(root) / "datasets" / "s3prl" / "superb"
    repository.mkdir(parents=True)
    (repository / ".gitattributes").write_text("*.parquet filter=lfs diff=lfs merge=lfs -text\n")
    for split, rows in splits.items():
        folder = repository / "ks" / split
        folder.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(str(folder / "0000.parquet"))
    return repository


def add_librispeech(root: Path, splits: dict[str, list[tuple[str, str]]]) -> Path:
    """Lays `openslr/librispeech_asr` under `root`, its configuration clean: split -> (flac file, transcript) each.

    Returns the repository's folder. Columns and folders are those of the hub, and the sound is in the parquet files.
    """
    import datasets

    columns = {"file": datasets.Value("string"), "audio": datasets.Audio(sampling_rate=16_000, decode=False)}
    columns |= {"text": datasets.Value("string"), "speaker_id": datasets.Value("int64")}
    features = datasets.Features(columns | {"chapter_id": datasets.Value("int64"), "id": datasets.Value("string")})
    repository = Path(root) / "datasets" / "openslr" / "librispeech_asr"
    card = ["---", "configs:", "- config_name: clean", "  data_files:"]
    for split, clips in splits.items():
        rows = []
        for path, text in ((Path(path), text) for path, text in clips):
            speaker, chapter, _ = path.stem.split("-")
            audio = {"bytes": path.read_bytes(), "path": path.name}
            row = {"file": path.name, "audio": audio, "text": text, "id": path.stem}
            rows.append(row | {"speaker_id": int(speaker), "chapter_id": int(chapter)})
        folder = repository / "clean" / split
        folder.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows).cast(features).to_parquet(str(folder / "0000.parquet"))
        card += [f"  - split: {split}", f"    path: clean/{split}/*.parquet"]
    (repository / "README.md").write_text("\n".join([*card, "---", ""]), encoding="utf-8")
    return repository
