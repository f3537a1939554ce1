"""The page and the model card say what results.json says, whole and escaped, and warn exactly when they should."""

import copy
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest
import yaml

from common.legacy import plotting
from common.legacy.formats import format_difference, format_value
from common.legacy.model_card import write_model_card
from common.legacy.report import card, marked_text, text_block, write_report

SCHEMA = Path(__file__).parents[2] / "common" / "legacy" / "results.schema.json"
HOSTILE = "<script>alert(1)</script>"
QUOTED = """5726'" onload="x|y"""
VOID = {"meta", "img", "br", "link", "input", "hr"}


def metric(value, low=None, high=None, examples=5000, unit="percent"):
    return {"value": value, "low": low, "high": high, "unit": unit, "examples": examples}


def split(examples, available, counts):
    return {
        "source": "rajpurkar/squad_v2 revision 3ffb306",
        "examples": examples,
        "available": available,
        "selection": f"{examples} drawn at random with seed 42, in the order of the file",
        "fingerprint": "9b74c9897bac770ffc029102a200c5de" * 2,
        "label_counts": counts,
        "skipped": {"answer not in the context": 12} if examples > 10000 else {},
        "statistics": {"windows": examples + 337, "longest question in tokens": 61, "windows_an_example": 1.0613},
    }


@pytest.fixture
def results():
    """A question answering run as run_qa.py leaves it."""
    validation = {
        "exact": metric(63.83, 62.48, 65.19),
        "f1": metric(67.214, 65.92, 68.51),
        "HasAns_exact": metric(59.1572, 57.21, 61.09, 2468),
        "HasAns_f1": metric(66.0118, 64.22, 67.85, 2468),
        "NoAns_exact": metric(68.3854, 66.58, 70.19, 2532),
        "best_f1": metric(67.4031),
        "loss": metric(1.21345, unit="nats"),
    }
    baseline = {"exact": metric(50.64), "f1": metric(50.64), "HasAns_exact": metric(0.0), "NoAns_exact": metric(100.0)}
    recipe = {
        "num_train_epochs": 3.0,
        "per_device_train_batch_size": 8,
        "weight_decay": 1e-4,
        "max_length": 512,
        "stride": 128,
    }
    arguments = {name: {"value": value, "source": "recipe"} for name, value in recipe.items()}
    arguments |= {
        "adam_beta1": {"value": 0.9, "source": "library default"},
        "model": {"value": "distilbert-base-uncased", "source": "command line"},
        "dataset": {"value": "rajpurkar/squad_v2", "source": "command line"},
        "learning_rate": {"value": 2e-5, "source": "file quick.yaml"},
        "output_dir": {"value": "/home/somebody/outputs/qa", "source": "command line"},
    }
    history = [{"step": 50 * i, "epoch": 0.05 * i, "loss": 3 / (1 + 0.1 * i)} for i in range(1, 61)]
    history += [{"step": 1000 * i, "epoch": float(i), "eval_loss": 1.5 / i + 0.6} for i in (1, 2, 3)]
    return {
        "schema_version": 1,
        "task": "question-answering",
        "script": "run_qa.py",
        "created": "2025-11-03T09:14:22Z",
        "command": ["python", "run_qa.py", "--model", "distilbert-base-uncased", "--train_file", "my data.json"],
        "headline": {
            "split": "validation",
            "metric": "f1",
            "value": 67.214,
            "low": 65.92,
            "high": 68.51,
            "unit": "percent",
            "baseline_name": "every question unanswerable",
            "baseline": 50.64,
            "higher_is_better": True,
        },
        "protocol": {"name": "honest", "leaks": False, "demo": False, "notes": []},
        "arguments": arguments,
        "data": {
            "splits": {
                "train": split(60000, 130319, {"answerable": 39966, "unanswerable": 20034}),
                "validation": split(5000, 11873, {"answerable": 2468, "unanswerable": 2532}),
            },
            "overlaps": [{"between": ["train", "validation"], "key": "context", "examples": 31, "share": 0.0062}],
        },
        "model": {
            "name": "distilbert-base-uncased",
            "architecture": "DistilBertForQuestionAnswering",
            "parameters": {"total": 66364418, "trainable": 66364418},
        },
        "metrics": {"validation": validation},
        "per_class": {
            "validation": {
                "answerable": {"precision": 0.7012, "recall": 0.91, "f1": 1.0, "support": 2468},
                "unanswerable": {"precision": None, "recall": 0.6839, "f1": 0.7, "support": 2532},
            }
        },
        "confusion": {
            "validation": {"labels": ["answerable", "unanswerable"], "matrix": [[1840, 628], [801, 1731]]},
        },
        "baseline": {"validation": {"name": "every question unanswerable", "metrics": baseline}},
        "published": [
            {
                "source": "BERT-base, the authors",
                "setting": "whole data, 2 epochs",
                "metrics": {"exact": metric(73.7), "f1": metric(0.763, unit="fraction")},
            }
        ],
        "history": history,
        "resources": {
            "seconds": {"data": 12.4, "preprocessing": 48.03, "model": 3.3, "training": 5021.9, "total": 5160.7},
            "samples_per_second": {"training": 35.84, "evaluation": 211.7},
            "peak_memory_bytes": 5476083302,
            "peak_gpu_memory_bytes": None,
        },
        "environment": {
            "python": "3.11.9",
            "platform": "Linux-6.1-x86_64",
            "device": "NVIDIA H200",
            "processes": 1,
            "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
            "git_commit": "0f3c2ab+changes",
        },
        "warnings": ["31 validation questions share their context with training questions."],
        "files": {"predictions": "predictions.csv", "loss_curves": "plots/loss_curves.png"},
        "extra": {"null_threshold": {"best_f1": -0.43}},
    }


@pytest.fixture
def classes(results):
    """A run that predicts classes, with groups, intervals by class, and facts of its task."""
    results["task"] = "persian-nli"
    results["metrics"] = {
        "test": {"f1": {**metric(76.46, 74.29, 78.4, 1564), "average": "macro"}, "mcc": metric(0.6472)}
    }
    results["metrics"]["test"]["mcc"]["unit"] = "score"
    results["headline"] |= {"split": "test", "value": 76.46, "low": 74.29, "high": 78.4}
    results["baseline"] = {"test": {"name": "majority class", "metrics": {"f1": metric(16.99)}}}
    rows = {"استلزام": (0.7472, 0.7803, 0.7634, 0.734, 0.791, 519), "neutral": (0.0, None, None, None, None, 0)}
    columns = ("precision", "recall", "f1", "f1_low", "f1_high", "support")
    results["per_class"] = {"test": {label: dict(zip(columns, row)) for label, row in rows.items()}}
    results["confusion"] = {"test": {"labels": [*rows], "matrix": [[405, 135], [0, 0]]}}
    groups = {"easy": {"accuracy": metric(78.15, 75.61, 80.92, 865)}, "hard": {"accuracy": metric(74.39, examples=699)}}
    results["groups"] = {"test": {"hard(overlap)": groups}}
    results["published"] = [{"source": "the report", "setting": "full", "metrics": {"f1": metric(78.75)}}]
    latency = metric(0.0871, unit="seconds")
    results["extra"] = {
        "reason": "frozen layers learn nothing",
        "share": metric(1.1676, 1.1, 1.2),
        "strategy": {
            "name": "prune_heads",
            "rates": [2e-5, 1e-4],
            "cached": True,
            "best": {"at_epoch": 3, "loss": 0.5},
        },
        "pruning": {"before": {"parameters": 162843651, "latency": latency}, "after": {"parameters": 148664067}},
        "heads": {str(layer): [layer, 9] if layer else [] for layer in range(12)},
    }
    return results


def hostile(results):
    """The same run with text from data that wants out of its cell."""
    results = copy.deepcopy(results)
    results["model"]["name"] = HOSTILE
    results["warnings"].append(HOSTILE)
    results["command"].append(QUOTED)
    results["arguments"]["train_file"] = {"value": HOSTILE, "source": QUOTED}
    results["data"]["splits"]["train"]["label_counts"][HOSTILE] = 3
    results["data"]["splits"]["train"]["skipped"][QUOTED] = 3
    results["data"]["splits"]["train"]["source"] = f"file {HOSTILE}"
    results["per_class"]["validation"][HOSTILE] = {"f1": 0.5}
    results["confusion"]["validation"] = {"labels": [HOSTILE, QUOTED], "matrix": [[0, 0], [1, 2]]}
    results["published"][0] |= {"setting": HOSTILE, "source": HOSTILE}
    results["files"][QUOTED] = "plots/'\" onerror=.png"
    results["extra"] = {HOSTILE: QUOTED, QUOTED: {HOSTILE: [HOSTILE]}, "x": {HOSTILE: {QUOTED: HOSTILE}}}
    results["groups"] = {"validation": {HOSTILE: {QUOTED: {"accuracy": metric(1.0)}}}}
    results["headline"]["baseline_name"] = HOSTILE
    return results


class Page(HTMLParser):
    """Checks that every tag is closed in order, and keeps the text, the tags and the attributes."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(source)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def page(results, folder, **options):
    return Page(write_report(results, folder, **options).read_text(encoding="utf-8"))


def test_the_sample_follows_the_schema(results):
    jsonschema.validate(results, json.loads(SCHEMA.read_text()))
    jsonschema.validate(hostile(results), json.loads(SCHEMA.read_text()))


def test_the_sample_of_classes_follows_the_schema(classes):
    jsonschema.validate(classes, json.loads(SCHEMA.read_text()))


def test_page_is_whole_and_self_contained(results, tmp_path):
    plotting.curves(results["history"], tmp_path / "plots/loss_curves.png", title="Loss", series={"train": "loss"})
    cards = [card("5726", [("question", "Who?")], marked_text("the answer", [(4, 10, "gold")]))]
    found = page(results, tmp_path, error_cards=cards)
    assert "script" not in found.tags and "link" not in found.tags
    for name, value in found.attributes:
        assert not name.startswith("on")
        assert name not in {"src", "href"} or value.startswith("data:image/png;base64,")
    assert "img" in found.tags and "Loss curves" in found.text
    assert "http" not in re.sub(r"http-equiv", "", (tmp_path / "report.html").read_text())
    assert [path.name for path in tmp_path.iterdir()].count("report.html") == 1
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("writer", ["report", "card"])
def test_every_metric_is_there(results, tmp_path, writer):
    if writer == "report":
        text = page(results, tmp_path).text
    else:
        text = write_model_card(results, tmp_path, usage="pass").read_text()
    text = text.replace("\\", "")
    for name, measured in results["metrics"]["validation"].items():
        assert name.replace("_", " ") in text
        for key in ("value", "low", "high"):
            if measured[key] is not None:
                assert format_value(measured[key], measured["unit"]).removesuffix(" %") in text
    assert "67.21 %" in text and "65.92 to 68.51" in text and "+16.57 points (better)" in text
    assert "baseline (every question unanswerable): 50.64 %" in text
    assert "31 examples of validation (0.62 %) share their context with train." in text
    assert results["warnings"][0] in text
    assert "60,000" in text and "130,319" in text and "12 answer not in the context" in text
    assert "9b74c9897bac" in text and "NVIDIA H200" in text and "2.13.0" in text


def test_facts_of_the_page(results, tmp_path):
    text = page(results, tmp_path).text
    assert "76.30 % -9.09 points" in text  # a published fraction beside our percent
    assert "1 h 23 min" in text and "48.0 s" in text and "5.10 GiB" in text and "35.84" in text
    assert "python run_qa.py --model distilbert-base-uncased --train_file 'my data.json'" in text
    assert "4 of 10 arguments differ" in text
    assert text.index("learning_rate") < text.index("num_train_epochs") < text.index("adam_beta1")
    assert "39,966 (66.6 %)" in text and "60,337" in text
    assert "1,840 74.6 %" in text
    assert "0.7012 0.9100 1.000 2,468" in text and "n/a" in text
    assert "plots/loss_curves.png is missing" in text


@pytest.mark.parametrize("demo", [False, True])
@pytest.mark.parametrize(
    ("name", "leaks"), [("honest", False), ("honest", True), ("published", False), ("published", True)]
)
def test_badges_only_when_they_should(results, tmp_path, demo, name, leaks):
    results["protocol"] = {"name": name, "leaks": leaks, "demo": demo, "notes": ["a note on the protocol"]}
    text = page(results, tmp_path).text
    readme = write_model_card(results, tmp_path, usage="pass").read_text()
    for found in (text, readme):
        assert ("DEMO: built-in synthetic data" in found) == demo
        start = "LEAKS: published protocol" if name == "published" else "LEAKS"
        assert (
            (f"{start}: what is tested, its speakers, or rows made from it had a part" in found)
            == ("LEAKS" in found)
            == leaks
        )
        assert ("published protocol" in found) == (name == "published")
        assert "a note on the protocol" in found
    front = yaml.safe_load(readme.split("---\n")[1])
    assert ("demo" in front["tags"]) == demo and ("leaking-evaluation" in front["tags"]) == leaks
    assert ("base_model" in front) == ("datasets" in front) == (not demo)


def test_classes_on_the_page(classes, tmp_path):
    text = page(classes, tmp_path).text
    assert "f1 (macro) 76.46 % 74.29 to 78.40 1,564 16.99 %" in text
    assert "hard(overlap) examples accuracy easy 865 78.15 % 75.61 to 80.92 hard 699 74.39 %" in text
    assert "class precision recall f1 support استلزام 0.7472 0.7803 0.7634 0.7340 to 0.7910 519" in text
    assert "neutral 0.000 n/a n/a 0 " in text  # no interval where there is no value
    assert "true \\ predicted استلزام neutral استلزام 405 75.0 % 135 25.0 % neutral 0 0.0 % 0 0.0 %" in text
    assert "this run 76.46 % full the report 78.75 % -2.29 points" in text


def test_classes_on_the_card(classes, tmp_path):
    readme = write_model_card(classes, tmp_path, usage="pass").read_text()
    assert yaml.safe_load(readme.split("---\n")[1])["metrics"] == ["f1", "matthews_correlation"]
    for line in (
        "| f1 (macro) | 76.46 % | 74.29 to 78.40 | 1,564 | 16.99 % |",
        "| easy | 865 | 78.15 % (75.61 to 80.92) |",
        "| استلزام | 0.7472 | 0.7803 | 0.7634 (0.7340 to 0.7910) | 519 |",
        "| true \\\\ predicted | استلزام | neutral |",
        "| استلزام | 405 (75.0 %) | 135 (25.0 %) |",
        "| full (the report) | 78.75 % (-2.29 points) |",
        "| before | 162,843,651 | 87.10 ms |",
        "| reason | frozen layers learn nothing |",
    ):
        assert line in readme.splitlines()


def test_facts_of_one_task_are_tables(classes, tmp_path):
    found = page(classes, tmp_path)
    assert "reason frozen layers learn nothing share 1.17 % (1.10 to 1.20)" in found.text
    strategy = "strategy name prune_heads rates 2e-05, 0.0001 cached yes best at epoch 3, loss 0.5"
    assert strategy in found.text
    assert "pruning parameters latency before 162,843,651 87.10 ms after 148,664,067" in found.text
    assert "heads (12 rows) 0 none 1 1, 9 2 2, 9" in found.text
    assert found.tags.count("details") == 2  # the arguments, and the one table that is long
    assert "Only in this task" not in page(classes | {"extra": {}}, tmp_path).text


def test_text_from_data_stays_text(results, tmp_path):
    cards = [card(HOSTILE, [(HOSTILE, QUOTED)], marked_text(HOSTILE, [(1, 7, "predicted")]))]
    found = page(hostile(results), tmp_path, error_cards=cards, error_title=HOSTILE)
    assert "script" not in found.tags
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert found.text.count(HOSTILE) >= 10 and QUOTED in found.text
    readme = write_model_card(hostile(results), tmp_path, usage="print('```')").read_text()
    assert "<script" not in readme.replace("\\<", "")
    assert "````python\nprint('```')\n````" in readme
    for line in readme.splitlines():
        if line.startswith("|"):
            cells = len(re.findall(r"(?<!\\)\|", line)) - 1
            assert cells in (2, 3, 5, 7), line


def test_broken_characters_do_not_stop_the_page(results, tmp_path):
    results["warnings"].append("half a surrogate \ud83d")
    assert "half a surrogate ?" in page(results, tmp_path).text


def test_a_bare_run(results, tmp_path):
    for key in ("per_class", "confusion", "extra"):
        del results[key]
    results |= {"headline": None, "metrics": {}, "baseline": {}, "warnings": [], "history": [], "files": {}}
    results["data"] = {"splits": {}, "overlaps": []}
    text = page(results, tmp_path).text
    assert "No headline" in text and "looked for, none found" in text
    assert "Warnings" not in text and "Classes" not in text and "Plots" not in text and "Worst errors" not in text
    assert "No headline" in write_model_card(results, tmp_path, usage="pass").read_text()


@pytest.mark.parametrize(
    ("value", "low", "baseline", "higher", "verdict"),
    [
        (60.0, 58.0, 50.0, True, "+10.00 points (better)"),
        (40.0, 38.0, 50.0, True, "-10.00 points (worse)"),
        (40.0, 38.0, 50.0, False, "-10.00 points (better)"),
        (51.0, 49.0, 50.0, True, "+1.00 points (no clear difference: the interval contains the baseline)"),
    ],
)
def test_verdict(results, tmp_path, value, low, baseline, higher, verdict):
    results["headline"] |= {"value": value, "low": low, "high": value + 2, "baseline": baseline}
    results["headline"]["higher_is_better"] = higher
    assert verdict in page(results, tmp_path).text


def test_model_card_front_matter(results, tmp_path):
    (tmp_path / "README.md").write_text("an older card")
    readme = write_model_card(
        results, tmp_path, usage="from transformers import AutoModelForQuestionAnswering"
    ).read_text()
    assert readme.startswith("---\n") and "an older card" not in readme
    assert yaml.safe_load(readme.split("---\n")[1]) == {
        "library_name": "transformers",
        "pipeline_tag": "question-answering",
        "base_model": "distilbert-base-uncased",
        "datasets": ["rajpurkar/squad_v2"],
        "metrics": ["exact_match", "f1"],
        "tags": ["question-answering"],
    }
    assert "```python\nfrom transformers import AutoModelForQuestionAnswering\n```" in readme
    assert "learning\\_rate | 2e-05 | file quick.yaml" in readme and "adam" not in readme
    assert "/home/" not in readme


def test_model_card_keeps_local_paths_out(results, tmp_path):
    results["model"]["name"] = str(tmp_path)
    results["arguments"]["dataset"]["value"] = str(tmp_path / "train.json")
    results["data"]["splits"]["train"]["source"] = f"file {tmp_path}/train.json"
    readme = write_model_card(results, tmp_path, usage="pass").read_text()
    front = yaml.safe_load(readme.split("---\n")[1])
    assert "base_model" not in front and "datasets" not in front
    assert str(tmp_path) not in readme.replace("\\", "") and "file train.json" in readme


def test_marks():
    shown = marked_text("in Paris & Rome", [(3, 8, "gold"), (3, 15, "predicted"), (0, 0, "gold")])
    assert shown == ('<p dir="auto">in <mark class="both">Paris</mark><mark class="predicted"> &amp; Rome</mark></p>')
    assert marked_text("", []) == '<p dir="auto"></p>'
    assert marked_text("abc", [(2, 99, "gold")]) == '<p dir="auto">ab<mark class="gold">c</mark></p>'
    assert text_block("<i>", "متن <b>") == ('<p class="soft">&lt;i&gt;</p><p dir="auto">متن &lt;b&gt;</p>')
    persian = marked_text("پایتخت ایران تهران است", [(13, 18, "gold")])
    assert '<mark class="gold">تهران</mark>' in persian and 'dir="auto"' in persian


@pytest.mark.parametrize("at", [0, 1500, 2990])
def test_long_text_is_cut_around_the_marks(at):
    text = "".join(f"{i % 10000:04d} " for i in range(600))
    shown = Page(marked_text(text, [(at, at + 4, "gold")])).text
    assert text[at : at + 4] in shown and 600 < len(shown) < 800 and "..." in shown
    both = Page(marked_text(text, [(at, at + 4, "gold"), (2000, 2004, "predicted")])).text
    assert text[at : at + 4] in both and "0400" in both and len(both) < 850
    everything = Page(marked_text(text, [(0, len(text), "gold")])).text
    assert everything.startswith("0000") and everything.endswith("0599") and len(everything) < 850
    unmarked = Page(marked_text(text, [])).text
    assert unmarked.startswith("0000") and unmarked.endswith("...") and len(unmarked) < 750


def test_numbers():
    assert format_value(71.2345, "percent") == "71.23 %"
    assert format_value(0.97091, "fraction") == "0.9709" and format_value(1.0, "fraction") == "1.000"
    assert format_value(284807, "count") == "284,807" and format_value(1234.5, "score") == "1,234"
    assert format_value(None) == format_value(float("nan")) == "n/a"
    assert format_value(0.01234, "seconds") == "12.34 ms" and format_value(0.1, "seconds") == "0.1 s"
    assert format_value(59.96, "seconds") == "60.0 s" and format_value(3723, "seconds") == "1 h 02 min"
    assert format_difference(-0.021, "fraction") == "-0.02100" and format_difference(3, "percent") == "+3.00 points"
    assert html.unescape(card("a & b", [])) == '<article class="card"><h3 dir="auto">a & b</h3></article>'
