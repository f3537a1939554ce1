"""Data sets from the hub, against a stand-in: names for positions, plain files, old ids, and one sentence for failures.

What is loaded, is loaded in processes of their own: the clients read their environment once.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from tests.helpers import ROOT
from tests.hub import FailsAfter, Hub, add_librispeech, add_parquet_dataset

GLUE, FARSTAIL, SQUAD = "nyu-mll/glue", "azarijafari/FarsTail", "rajpurkar/squad"
SPEECH, SUPERB = "openslr/librispeech_asr", "s3prl/superb"
FILE = "data/Train-word.csv"
NAMES = ["entailment", "neutral", "contradiction"]
ROWS = [
    {"premise": "A man sleeps.", "hypothesis": "Someone is asleep.", "label": 0, "idx": 0},
    {"premise": "A man sleeps.", "hypothesis": "He runs.", "label": 2, "idx": 1},
    {"premise": "It rained.", "hypothesis": "It rained at noon.", "label": 1, "idx": 2},
]
QUESTION = {"id": "q1", "question": "Who?", "context": "Anna.", "answers": {"text": ["Anna"], "answer_start": [0]}}
PERSIAN_ROWS = [
    {"premise": 'او گفت "نه"، و رفت', "hypothesis": "رفت", "label": "e"},
    {"premise": "یک\nدو", "hypothesis": "سه", "label": "n"},
]
# Prints what loadings give, or their refusals. A refusal that is no `UserError` is a traceback and fails the test.
LOAD = """
import json, sys, time
from types import SimpleNamespace
from common.data import load_splits
from common.files import where
from common.errors import UserError
from common.hub import load_frame, load_split, resolved

def load(dataset=None, split="train", folder=None, file=None, sound=False, model=None, **given):
    if model:
        return {"commit": resolved("model", model, None, None)[1]}
    args = dict(dataset_config=None, dataset_revision=None, token=None, cache_dir=None, trust_remote_code=False)
    args = SimpleNamespace(**{**args, "dataset": dataset, **given})
    if file:  # as a script does
        import datasets

        args.training_args = SimpleNamespace(do_train=True, do_eval=False, do_predict=False)
        args.train_file = args.validation_file = args.test_file = []
        args.max_train_samples, args.sample_seed = None, 0
        made = load_splits(args, lambda frame, split: (datasets.Dataset.from_pandas(frame, preserve_index=False), {}),
                           hub_splits={"train": file})
        return {"rows": made["train"].to_list(), "source": made.facts["train"]["source"]}
    if sound:
        rows, source = load_split(args, split, folder=folder)
        return {"features": str(rows.features), "bytes": len(rows[0]["audio"]["bytes"]), "source": source}
    frame = load_frame(args, split)
    return {"rows": json.loads(frame.to_json(orient="records")), "where": where(frame, 1), **frame.attrs}

answers = []
for asked in json.loads(sys.argv[1]):
    began = time.monotonic()
    try:
        answers.append(load(**asked))
    except UserError as error:
        answers.append({"error": str(error), "seconds": time.monotonic() - began})
print(json.dumps(answers))
"""


def load(environment: dict[str, str], *asked: dict) -> list[dict]:
    """What each of the loadings gives in one process: rows, source and classes, or the error."""
    command = [sys.executable, "-c", LOAD, json.dumps(asked)]
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """GLUE's MNLI with classes and a hidden test set, SQuAD, sound, and FarsTail: tab-separated, but called csv."""
    root = tmp_path_factory.mktemp("hub")
    columns = {"premise": datasets.Value("string"), "hypothesis": datasets.Value("string")}
    features = datasets.Features(columns | {"label": datasets.ClassLabel(names=NAMES), "idx": datasets.Value("int32")})
    hidden = [{**row, "label": -1} for row in ROWS]
    splits = {"train": ROWS, "validation_matched": [*ROWS[:2], hidden[2]], "test_matched": hidden}
    made = {name: datasets.Dataset.from_list(rows, features=features) for name, rows in splits.items()}
    add_parquet_dataset(root, GLUE, made, "mnli")
    add_parquet_dataset(root, SQUAD, {"train": datasets.Dataset.from_list([QUESTION] * 2)})
    (root / "7-8-9.flac").write_bytes(b"flac" * 25)
    sound = add_librispeech(root, {"train.100": [(str(root / "7-8-9.flac"), "TEXT")]})
    folder = root / "datasets" / SUPERB
    shutil.copytree(sound / "clean" / "train.100", folder / "ks" / "train")  # as the hub's converter lays it
    (folder / ".gitattributes").touch()
    (root / "models" / "google-bert" / "bert-base-uncased").mkdir(parents=True)
    (root / "models" / "google-bert" / "bert-base-uncased" / "config.json").write_text("{}")
    folder = root / "datasets" / FARSTAIL
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("")
    lines = ["premise\thypothesis\tlabel"]
    for row in PERSIAN_ROWS:
        lines.append("\t".join('"' + cell.replace('"', '""') + '"' for cell in row.values()))
    (folder / FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "data" / "broken.csv").write_text("premise\thypothesis\tlabel\na\tb\n", encoding="utf-8")
    return root


MNLI = {"dataset": GLUE, "dataset_config": "mnli"}
ONLINE = {
    "train": {**MNLI, "split": "train"},
    "validation": {**MNLI, "split": "validation_matched"},
    "hidden": {**MNLI, "split": "test_matched"},
    "no split": {**MNLI, "split": "validation"},
    "old id": {"dataset": "squad"},
    "file": {"dataset": FARSTAIL, "file": FILE},
    "model": {"model": "bert-base-uncased"},
    "file, cache_dir": {"dataset": FARSTAIL, "file": FILE, "cache_dir": "CACHE"},
    "no file": {"dataset": FARSTAIL, "file": "data/absent.csv"},
    "bad file": {"dataset": FARSTAIL, "file": "data/broken.csv"},
    "sound": {"dataset": SPEECH, "split": "train.100", "dataset_config": "clean", "sound": True},
    "folder": {"dataset": SUPERB, "folder": "ks", "sound": True},
    "nobody": {"dataset": "nobody/nothing"},
    "no revision": {"dataset": SQUAD, "dataset_revision": "gone"},
    "no id": {"dataset": "a/b/c"},
}
STOPPED = {
    "model": {"model": "bert-base-uncased"},
    "old id": {"dataset": "squad"},
    "file": {"dataset": FARSTAIL, "file": FILE},
    "another file": {"dataset": FARSTAIL, "file": "data/Test-word.csv"},
    "unknown": {"dataset": "nobody/nothing"},
}
UNREACHABLE = "the hub cannot be reached and this dataset is not in the local cache; use --demo, or give local files"


@pytest.fixture(scope="module")
def served(root, tmp_path_factory) -> dict:
    """All loadings while the hub answers, and then, with what is in the cache, after it has stopped."""
    home = tmp_path_factory.mktemp("home")
    with Hub(root) as hub:
        hub.unknown_revisions = {"gone"}
        hub.renamed = {"squad": SQUAD, "bert-base-uncased": "google-bert/bert-base-uncased"}
        environment = hub.environment(home / "home")
        asked = json.loads(json.dumps(list(ONLINE.values())).replace("CACHE", str(home / "cache")))
        online = dict(zip(ONLINE, load(environment, *asked)))
        requests = list(hub.requests)
        hub.stop()
        stopped = dict(zip(STOPPED, load(environment, *STOPPED.values())))
        pinned = {
            name: f"{name}@{hub.commit('datasets', name)[:12]}" for name in (GLUE, SQUAD, FARSTAIL, SPEECH, SUPERB)
        }
        model = hub.commit("models", "google-bert/bert-base-uncased")
    return {"model": model, "online": online, "stopped": stopped, "requests": requests, "pinned": pinned, "home": home}


def test_classes_come_back_as_names(served):
    labels = {"train": [NAMES[row["label"]] for row in ROWS], "validation": [NAMES[0], NAMES[2], None]}
    for name, split in (("train", "train"), ("validation", "validation_matched"), ("hidden", "test_matched")):
        found, source = served["online"][name], f"{served['pinned'][GLUE]}, {split}"
        assert found["rows"] == [{**row, "label": is_} for row, is_ in zip(ROWS, labels.get(name, [None] * 3))]
        assert found["label_names"] == {"label": NAMES} and found["source"] == source
        assert found["where"] == f"{source}, row 2"
    sentence = served["online"]["no split"]["error"]
    assert sentence.startswith(f'{GLUE}: this dataset cannot be loaded: Unknown split "validation".')
    assert sentence.endswith("Should be one of ['train', 'validation_matched', 'test_matched'].")


def test_an_id_without_a_namespace_online_and_from_the_cache(served):
    found = served["online"]["old id"]
    assert found["rows"] == [QUESTION] * 2 and found["source"] == f"{served['pinned'][SQUAD]}, train"
    assert served["stopped"]["old id"] == found


def test_the_commit_of_a_model_online_and_from_the_cache(served):
    assert served["online"]["model"] == served["stopped"]["model"] == {"commit": served["model"]}


def test_a_plain_file_at_the_resolved_commit(served):
    found, online, pinned = served["online"]["file"], served["online"], served["pinned"][FARSTAIL]
    assert found == {"rows": PERSIAN_ROWS, "source": f"{pinned}, {FILE}"}
    assert served["stopped"]["file"] == found == online["file, cache_dir"]
    assert [path.parent.name for path in (served["home"] / "cache").rglob("Train-word.csv")] == ["data"]
    lost = "the dataset has no file {!r} at this revision, or the hub cannot be reached; use --demo, or give"
    assert online["no file"]["error"].startswith(f"{FARSTAIL}: {lost.format('data/absent.csv')}")
    assert online["bad file"]["error"] == f"{pinned}, data/broken.csv: line 2 has 2 cells, the header has 3"
    sentence = served["stopped"]["another file"]["error"]
    assert sentence.startswith(f"{FARSTAIL}: {lost.format('data/Test-word.csv')}")


def test_nothing_but_the_data_set_is_asked_for(served):
    names = [f"datasets/{name}" for name in (*served["pinned"], "squad", "nobody/nothing")]
    names += ["models/bert-base-uncased", "models/google-bert/bert-base-uncased"]
    for _, path in served["requests"]:
        assert path.startswith(tuple(f"{prefix}{name}" for prefix in ("/", "/api/") for name in names)), path
    fetched = [path for _, path in served["requests"] if f"/datasets/{FARSTAIL}/resolve/" in path]
    assert fetched and all(served["pinned"][FARSTAIL].split("@")[1] in path for path in fetched)


def test_sound_stays_as_it_is_stored(served):
    for name, source in (
        ("sound", f"{served['pinned'][SPEECH]}, train.100"),
        ("folder", f"{served['pinned'][SUPERB]}, train"),
    ):
        found = served["online"][name]
        assert found["bytes"] == 100 and "decode=False" in found["features"] and found["source"] == source


def test_what_is_not_there_is_one_sentence(served):
    online = {name: answer.get("error") for name, answer in served["online"].items()}
    nobody = "nobody/nothing: no such folder, and the hub has no such dataset, or it is private or gated: ask for "
    nobody += "access on its page, and give --token"
    assert online["nobody"] == nobody
    assert online["no revision"] == f"{SQUAD}: the dataset has no revision 'gone'"
    assert online["no id"].startswith("a/b/c: no such folder, and the hub has no such dataset")
    assert served["stopped"]["unknown"]["error"].startswith(f"nobody/nothing: {UNREACHABLE}")


def test_a_hub_that_fails_or_is_out_of_reach_is_one_sentence_soon(root, tmp_path):
    with Hub(root) as hub:
        hub.fail_with, hub.retry_after = 503, None
        (answer,) = load(hub.environment(tmp_path / "failing"), {"dataset": SQUAD})
        assert answer["error"].startswith(f"{SQUAD}: {UNREACHABLE}") and answer["seconds"] < 10
        hub.stop()
        environment = hub.environment(tmp_path / "stopped")
        (answer,) = load(environment, {"dataset": SQUAD})
        assert answer["error"].startswith(f"{SQUAD}: {UNREACHABLE}") and answer["seconds"] < 10


@pytest.mark.parametrize("status", [429, 403, 500])
def test_a_hub_that_fails_after_its_first_answer_is_one_sentence(root, tmp_path, status):
    with Hub(root) as hub:
        hub.requests = FailsAfter(hub, 1, status)
        (answer,) = load(hub.environment(tmp_path), {"dataset": SQUAD})
        assert answer["error"].startswith(f"{SQUAD}: {UNREACHABLE}"), answer


def test_a_token_that_the_hub_does_not_take(root, tmp_path):
    """Expired or wrong: the hub answers 401 whatever is asked; of other characters: no header can hold it."""
    refused = f"{SQUAD}: the hub takes no such token; log in anew with `hf auth login`, or mend --token or HF_TOKEN"
    with Hub(root) as hub:
        hub.fail_with, hub.retry_after = 401, None
        (answer,) = load(hub.environment(tmp_path), {"dataset": SQUAD, "token": "hf_expired"})
        assert answer["error"] == refused
        hub.fail_with = None
        for token in ("hf_…", "two\nlines"):
            (answer,) = load(hub.environment(tmp_path), {"dataset": SQUAD, "token": token})
            assert answer["error"] == refused


def test_a_dataset_that_cannot_be_used_says_why(tmp_path):
    for name, content in (("two/a/r", "a\n1\n2\n"), ("two/b/r", "a\n1\n"), ("broken/train", "a,b\n1,2\n1,2,3\n")):
        (tmp_path / "datasets/o" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "datasets/o" / f"{name}.csv").write_text(content)
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/*.csv\n" for name in "ab")
    (tmp_path / "datasets/o/two/README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    (tmp_path / "datasets/o/broken/README.md").write_text("")
    asked = [{"dataset": "o/two"}, {"dataset": "o/broken"}, {"dataset": "o/two", "dataset_config": "a"}]
    with Hub(tmp_path) as hub:
        two, broken, empty = load(hub.environment(tmp_path / "home"), *asked[:2], {**asked[2], "split": "train[5:1]"})
    assert "Config name is missing. Please pick one among the available configs: ['a', 'b']" in two["error"]
    assert "Expected 2 fields in line 3, saw 3" in broken["error"]
    assert empty["error"].endswith(", train[5:1]: has no rows")


def test_offline_by_choice_a_local_folder_still_loads(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    found, refused = load(environment, {"dataset": str(folder)}, {"dataset": SQUAD})
    assert found["rows"] == ROWS and found["source"] == f"{folder}, train"
    assert refused["error"].startswith(f"{SQUAD}: {UNREACHABLE}")
