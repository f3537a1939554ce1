"""Pairs from the hub: classes as names, plain files at the resolved commit, and what goes wrong in one sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.legacy.conftest import ROOT
from tests.legacy.hub import Hub, add_parquet_dataset

GLUE, FARSTAIL = "nyu-mll/glue", "azarijafari/FarsTail"
FILE = "data/Train-word.csv"
ROWS = [
    {"premise": "A man sleeps.", "hypothesis": "Someone is asleep.", "label": 0, "idx": 0},
    {"premise": "A man sleeps.", "hypothesis": "He runs.", "label": 2, "idx": 1},
    {"premise": "It rained.", "hypothesis": "It rained at noon.", "label": 1, "idx": 2},
]
NAMES = ["entailment", "neutral", "contradiction"]
PERSIAN_ROWS = [
    {"premise": 'او گفت "نه"، و رفت', "hypothesis": "رفت", "label": "e"},
    {"premise": "یک\nدو", "hypothesis": "سه", "label": "n"},
]
# Prints what a loading gives, or its refusal. A refusal that is no `UserError` is a traceback and fails the test.
LOAD = """
import json, sys
from types import SimpleNamespace
from common.legacy.errors import UserError
from common.legacy.hub import load_rows

settings = json.loads(sys.argv[1])
data = SimpleNamespace(dataset=settings["dataset"], dataset_config=settings.get("config"), dataset_revision=None)
model_arguments = SimpleNamespace(token=None, cache_dir=settings.get("cache_dir"))
try:
    rows, source = load_rows(data, model_arguments, settings["split"], file=settings.get("file"))
    print(json.dumps({"rows": rows, "source": source}))
except UserError as error:
    print(json.dumps({"error": str(error)}))
"""


def load(environment: dict[str, str], dataset: str, split: str = "train", **settings: str) -> dict:
    """The rows and their source, or the error, of a process of its own: the clients read their environment once."""
    arguments = json.dumps({"dataset": dataset, "split": split, **settings})
    command = [sys.executable, "-c", LOAD, arguments]
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """GLUE's MNLI with class labels and a hidden test set, and FarsTail's form: a tab-separated file called csv."""
    import datasets

    root = tmp_path_factory.mktemp("hub")
    features = datasets.Features(
        {
            "premise": datasets.Value("string"),
            "hypothesis": datasets.Value("string"),
            "label": datasets.ClassLabel(names=NAMES),
            "idx": datasets.Value("int32"),
        }
    )
    hidden = [{**row, "label": -1} for row in ROWS]
    splits = {"train": ROWS, "validation_matched": [*ROWS[:2], hidden[2]], "test_matched": hidden}
    made = {name: datasets.Dataset.from_list(rows, features=features) for name, rows in splits.items()}
    add_parquet_dataset(root, GLUE, made, "mnli")
    folder = root / "datasets" / FARSTAIL
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("")
    lines = ["premise\thypothesis\tlabel"]
    for row in PERSIAN_ROWS:
        lines.append("\t".join('"' + cell.replace('"', '""') + '"' for cell in row.values()))
    (folder / FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "data" / "broken.csv").write_text("premise\thypothesis\tlabel\na\tb\n", encoding="utf-8")
    return root


def named(rows: list[dict], labels: list) -> list[dict]:
    return [{**row, "label": label} for row, label in zip(rows, labels)]


def test_classes_come_back_as_names(root, tmp_path):
    with Hub(root) as hub:
        environment = hub.environment(tmp_path)
        truth = [NAMES[row["label"]] for row in ROWS]
        expected = {
            "train": truth,
            "validation_matched": [*truth[:2], None],
            "test_matched": [None] * 3,
        }
        for split, labels in expected.items():
            loaded = load(environment, GLUE, split, config="mnli")
            assert loaded == {
                "rows": named(ROWS, labels),
                "source": f"{GLUE}@{hub.commit('datasets', GLUE)[:12]}, {split}",
            }


def test_a_plain_file_at_the_resolved_commit(root, tmp_path):
    with Hub(root) as hub:
        environment = hub.environment(tmp_path / "home")
        commit = hub.commit("datasets", FARSTAIL)
        first = load(environment, FARSTAIL, file=FILE)
        assert first == {"rows": PERSIAN_ROWS, "source": f"{FARSTAIL}@{commit[:12]}, {FILE}"}
        fetched = [path for _, path in hub.requests if "/resolve/" in path]
        assert fetched and all(path == f"/datasets/{FARSTAIL}/resolve/{commit}/{FILE}" for path in fetched)
        assert all(path.startswith((f"/datasets/{FARSTAIL}/", f"/api/datasets/{FARSTAIL}")) for _, path in hub.requests)
        hub.stop()
        assert load(environment, FARSTAIL, file=FILE) == first, "from the cache"
        sentence = load(environment, FARSTAIL, file="data/Test-word.csv")["error"]
        assert sentence.startswith(f"{FARSTAIL}: the hub cannot be reached and the file 'data/Test-word.csv'")
        assert "--demo" in sentence


def test_plain_files_that_cannot_be_had(root, tmp_path):
    with Hub(root) as hub:
        environment = hub.environment(tmp_path / "home")
        sentence = load(environment, FARSTAIL, file="data/absent.csv")["error"]
        assert sentence == f"{FARSTAIL}: the dataset has no file 'data/absent.csv' at this revision"
        sentence = load(environment, FARSTAIL, file="data/broken.csv")["error"]
        assert sentence.endswith("data/broken.csv: line 2 has 2 cells, the header has 3")
        sentence = load(environment, "nobody/nothing", file=FILE)["error"]
        assert sentence.startswith("nobody/nothing: ") and "no such dataset" in sentence
        hub.fail_with = 503
        sentence = load(hub.environment(tmp_path / "other"), FARSTAIL, file=FILE)["error"]
        assert sentence.startswith(f"{FARSTAIL}: the hub cannot be reached") and "--demo" in sentence


def test_a_plain_file_of_a_local_folder_and_of_a_cache_elsewhere(root, tmp_path):
    with Hub(root) as hub:
        environment = hub.environment(tmp_path / "home")
        folder = str(root / "datasets" / FARSTAIL)
        local = load(environment, folder, file=FILE)
        assert local == {"rows": PERSIAN_ROWS, "source": f"{folder}, {FILE}"} and hub.requests == []
        assert "no such file" in load(environment, folder, file="data/absent.csv")["error"]
        assert load(environment, FARSTAIL, file=FILE, cache_dir=str(tmp_path / "cache"))["rows"] == PERSIAN_ROWS
    kept = [Path(folder) / name for folder, _, names in os.walk(tmp_path) for name in names]
    found = [path.relative_to(tmp_path).parts[0] for path in kept if path.name == Path(FILE).name]
    assert found == ["cache"]
