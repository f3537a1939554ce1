"""The stand-in against the clients it stands in for, each in a process of its own as a script would run.

The errors of an unreachable or unknown id are pinned down here too: what the scripts turn into one sentence is what
these libraries raise, and a new release of them that raises something else must show.
"""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.hub import Hub, add_parquet_dataset

MODEL, DATASET = "bert-base-uncased", "rajpurkar/squad_v2"
SQUAD_ROWS = [
    {
        "id": "1",
        "title": "Rivers",
        "context": "The Karun is the longest river of Iran.",
        "question": "Which river is the longest of Iran?",
        "answers": {"text": ["The Karun", "Karun"], "answer_start": [0, 4]},
    },
    {
        "id": "2",
        "title": "Rivers",
        "context": "The Karun is the longest river of Iran.",
        "question": "Which river is the longest of Norway?",
        "answers": {"text": [], "answer_start": []},
    },
]

# Every program prints one line of json. `attempt` gives the classes, outermost first, of what a call raised, and the
# seconds it slept between retries. It does not sleep them: that these waits end is asserted, not sat through.
ATTEMPT = """
import json, sys, time
slept = []
time.sleep = slept.append
def attempt(call, *arguments, **options):
    slept.clear()
    try:
        call(*arguments, **options)
    except Exception as error:
        classes = [kind.__name__ for kind in type(error).__mro__[:-2]]
        cause = type(error.__cause__).__name__
        return {"classes": classes, "cause": cause, "message": str(error), "slept": sum(slept)}
"""
LOAD_MODEL = """
from transformers import AutoModel, AutoTokenizer
tokenizer, model = AutoTokenizer.from_pretrained(sys.argv[1]), AutoModel.from_pretrained(sys.argv[1])
weights = model.embeddings.word_embeddings.weight
print(json.dumps({"ids": tokenizer("a river").input_ids, "weights": weights.flatten().tolist()}))
"""
LOAD_DATASET = """
import datasets, huggingface_hub
pinned = huggingface_hub.resolve_revision(sys.argv[1], repo_type="dataset").resolved
splits = datasets.load_dataset(sys.argv[1], revision=sys.argv[2] if len(sys.argv) > 2 else pinned)
rows = {name: rows.to_list() for name, rows in splits.items()}
print(json.dumps({"rows": rows, "features": str(splits["train"].features), "commit": pinned}))
"""
NOT_FOUND = """
from datasets import load_dataset
from transformers import AutoConfig, AutoTokenizer
print(json.dumps({
    "model": attempt(AutoConfig.from_pretrained, "nobody/no-such-model"),
    "tokenizer": attempt(AutoTokenizer.from_pretrained, "nobody/no-such-model"),
    "dataset": attempt(load_dataset, "nobody/no-such-set"),
    "model revision": attempt(AutoConfig.from_pretrained, "bert-base-uncased", revision="no-such-branch"),
    "dataset revision": attempt(load_dataset, "rajpurkar/squad_v2", revision="no-such-branch"),
}))
"""
UNREACHABLE = """
from datasets import load_dataset
from huggingface_hub import resolve_revision
from transformers import AutoConfig
print(json.dumps({
    "revision": attempt(resolve_revision, "bert-base-uncased"),
    "model": attempt(AutoConfig.from_pretrained, "bert-base-uncased"),
    "dataset": attempt(load_dataset, "rajpurkar/squad_v2"),
}))
"""


def run(hub: Hub, home: Path, program: str, *arguments: str, **variables: str) -> dict:
    """What the program printed. A program that hangs fails its test instead of holding up the whole run."""
    command, environment = [sys.executable, "-c", ATTEMPT + program, *arguments], hub.environment(home) | variables
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    import datasets
    from transformers import BertConfig, BertModel, BertTokenizerFast

    root = tmp_path_factory.mktemp("hub")
    folder = root / "models" / MODEL
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "river"]) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=7, **sizes)).save_pretrained(folder)

    text = datasets.Value("string")
    answers = datasets.Sequence({"text": text, "answer_start": datasets.Value("int32")})
    features = dict.fromkeys(("id", "title", "context", "question"), text) | {"answers": answers}
    rows = datasets.Dataset.from_list(SQUAD_ROWS, features=datasets.Features(features))
    add_parquet_dataset(root, DATASET, {"train": rows, "validation": rows.select([1])}, config_name="squad_v2")
    return root


@pytest.fixture
def hub(root):
    with Hub(root) as hub:
        yield hub


def ask(url: str, method: str = "GET", data: bytes | None = None, **headers: str) -> tuple[int, dict, bytes]:
    request = urllib.request.Request(url, method=method, data=data, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def test_files_ranges_and_listings(hub):
    url = f"{hub.url}/{MODEL}/resolve/main/vocab.txt"
    content = (hub.root / "models" / MODEL / "vocab.txt").read_bytes()
    status, headers, body = ask(url)
    assert (status, body, headers["X-Repo-Commit"]) == (200, content, hub.commit("models", MODEL))
    assert ask(url, "HEAD")[1]["Content-Length"] == str(len(content)) and ask(url, "HEAD")[2] == b""
    assert [ask(url, Range=f"bytes={span}")[::2] for span in ("3-5", "3-", "3-9999")] == [
        (206, content[3:6]),
        (206, content[3:]),
        (206, content[3:]),
    ]
    assert ask(url, Range="bytes=9999-")[0] == 416
    about = json.loads(ask(f"{hub.url}/api/datasets/{DATASET}/revision/refs%2Fconvert%2Fparquet")[2])
    assert about["id"] == DATASET and about["sha"] == hub.commit("datasets", DATASET)
    assert {"rfilename": "squad_v2/train-00000-of-00001.parquet"} in about["siblings"]
    tree = f"{hub.url}/api/datasets/{DATASET}/tree/main"
    assert [entry["path"] for entry in json.loads(ask(tree)[2])] == ["README.md", "squad_v2"]
    assert len(json.loads(ask(f"{tree}?recursive=true")[2])) == 4
    found = ask(
        f"{hub.url}/api/datasets/{DATASET}/paths-info/main", "POST", b"paths=README.md&paths=absent&expand=false"
    )
    assert [entry["path"] for entry in json.loads(found[2])] == ["README.md"]
    assert hub.requests[0] == ("GET", f"/{MODEL}/resolve/main/vocab.txt")


@pytest.mark.parametrize(
    "path, code",
    [
        (f"/{MODEL}/resolve/main/absent.json", "EntryNotFound"),
        (f"/api/models/{MODEL}/tree/main/absent", "EntryNotFound"),
        ("/nobody/nothing/resolve/main/config.json", "RepoNotFound"),
        ("/api/datasets/rajpurkar", "RepoNotFound"),  # an owner is not a repository
        (f"/{MODEL}/resolve/main/../../../outside.txt", "EntryNotFound"),
        (f"/{MODEL}/resolve/main/..%2F..%2F..%2Foutside.txt", "EntryNotFound"),
        ("/%2e%2e/resolve/main/outside.txt", "RepoNotFound"),
        (f"/{MODEL}/resolve/closed/config.json", "RevisionNotFound"),
        ("/api/agent-harnesses", "EntryNotFound"),
    ],
)
def test_what_is_not_there_and_what_lies_outside(hub, path, code):
    hub.unknown_revisions = {"closed"}
    (hub.root.parent / "outside.txt").write_text("not to be served")
    (hub.root / "outside.txt").write_text("not to be served")
    status, headers, body = ask(hub.url + path)
    assert (status, headers["X-Error-Code"], body) == (404, code, b"")


def test_the_commit_follows_the_files(tmp_path):
    folder = tmp_path / "models" / "someone" / "small"
    folder.mkdir(parents=True)
    with Hub(tmp_path) as hub:
        (folder / "config.json").write_text("{}")
        before = hub.commit("models", "someone/small")
        (folder / "config.json").write_text('{"model_type": "bert"}')
        assert before != hub.commit("models", "someone/small") and len(before) == 40


def test_a_model_loads_by_its_plain_id(hub, tmp_path):
    from transformers import AutoModel

    loaded = run(hub, tmp_path, LOAD_MODEL, MODEL)
    kept = AutoModel.from_pretrained(hub.root / "models" / MODEL).embeddings.word_embeddings.weight
    assert loaded == {"ids": [2, 5, 6, 3], "weights": kept.flatten().tolist()}
    assert all(path.startswith((f"/{MODEL}/", f"/api/models/{MODEL}")) for _, path in hub.requests)


def test_a_data_set_loads_by_its_id(hub, tmp_path):
    """With the commit as `revision` and the download count off, nothing but the data set is asked for."""
    loaded = run(hub, tmp_path, LOAD_DATASET, DATASET, HF_UPDATE_DOWNLOAD_COUNTS="0")
    assert loaded["rows"] == {"train": SQUAD_ROWS, "validation": SQUAD_ROWS[1:]}
    assert "'answer_start': List(Value('int32'))" in loaded["features"]
    assert loaded["commit"] == hub.commit("datasets", DATASET)
    assert all(path.startswith((f"/datasets/{DATASET}/", f"/api/datasets/{DATASET}")) for _, path in hub.requests)


def test_requests_to_other_hosts_are_seen_and_refused(hub, tmp_path):
    """Stock `load_dataset` counts the download elsewhere and asks the viewer; the stand-in is their proxy."""
    assert run(hub, tmp_path, LOAD_DATASET, DATASET, "main")["rows"]["train"] == SQUAD_ROWS
    abroad = [path for _, path in hub.requests if not path.startswith("/")]
    assert "s3.amazonaws.com:443" in abroad and any("datasets-server." in path for path in abroad)


def test_unknown_ids_and_revisions(hub, tmp_path):
    hub.unknown_revisions = {"no-such-branch"}
    errors = run(hub, tmp_path, NOT_FOUND)
    for name in ("model", "tokenizer"):
        assert errors[name]["classes"][0] == "OSError" and errors[name]["cause"] == "RepositoryNotFoundError"
        assert errors[name]["message"].startswith("nobody/no-such-model is not a local folder and is not a valid model")
    assert errors["model revision"]["cause"] == "RevisionNotFoundError"
    assert errors["model revision"]["message"].startswith("no-such-branch is not a valid git identifier")
    assert errors["dataset"]["classes"][0] == errors["dataset revision"]["classes"][0] == "DatasetNotFoundError"
    assert errors["dataset"]["message"].startswith("Dataset 'nobody/no-such-set' doesn't exist on the Hub")
    assert errors["dataset revision"]["message"].startswith("Revision 'no-such-branch' doesn't exist for dataset")
    assert all(error["slept"] == 0 for error in errors.values())


def test_offline_is_an_error_at_once(hub, tmp_path):
    errors = run(hub, tmp_path, UNREACHABLE, HF_HUB_OFFLINE="1")
    assert errors["revision"]["classes"][0] == "RevisionResolutionError"
    assert errors["model"]["classes"][0] == "OSError" and errors["dataset"]["classes"][0] == "ConnectionError"
    assert all(error["slept"] == 0 for error in errors.values()) and hub.requests == []


def test_an_ailing_hub_is_an_error(hub, tmp_path):
    hub.fail_with, hub.retry_after = 503, None
    errors = run(hub, tmp_path, UNREACHABLE)
    assert errors["revision"]["classes"] == ["RevisionResolutionError", "Exception"]  # no OSError
    assert errors["model"]["classes"][0] == "OSError" and errors["model"]["cause"] == "LocalEntryNotFoundError"
    assert errors["dataset"]["classes"][0] == "FileNotFoundError"
    assert "Couldn't find 'rajpurkar/squad_v2' on the Hugging Face Hub either" in errors["dataset"]["message"]
    assert [error["slept"] for error in errors.values()] == [0, 23, 23]


def test_a_stopped_hub_is_an_error_and_no_hang(hub, tmp_path):
    hub.stop()
    errors = run(hub, tmp_path, UNREACHABLE)
    assert errors["revision"]["classes"][0] == "RevisionResolutionError"
    assert errors["model"]["classes"][0] == "OSError" and errors["model"]["cause"] == "LocalEntryNotFoundError"
    assert errors["model"]["message"].startswith("We couldn't connect to 'http://127.0.0.1:")
    assert errors["dataset"]["classes"][:2] == ["ConnectionError", "OSError"]
    assert errors["dataset"]["message"].startswith("Couldn't reach 'rajpurkar/squad_v2' on the Hub")
    assert [error["slept"] for error in errors.values()] == [0, 23, 23]
