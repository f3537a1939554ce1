"""The page and the model card say what results.json says, whole and escaped, and warn exactly when they should."""

import copy
import re
from urllib.parse import unquote

import jsonschema
import pytest
import yaml

from common.report import plots
from common.report.card import write_model_card
from common.report.page import card, marked_text, player, text_block, write_report
from common.report.words import fact, format_difference, format_value, words
from tests.report.helpers import SCHEMA, Page, metric

HOSTILE = "<script>alert(1)</script>"
QUOTED = """5726'" onload="x|y"""


@pytest.fixture
def folder(results, tmp_path):
    """The run's directory, with its one plot."""
    plots.curves(results["history"], tmp_path / "plots" / "loss_curves", title="Loss", series={"train": "loss"})
    return tmp_path


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
    results["files"][QUOTED] = "models/'\" onerror=.bin"
    results["extra"] = {HOSTILE: QUOTED, QUOTED: {HOSTILE: [HOSTILE]}, "x": {HOSTILE: {QUOTED: HOSTILE}}}
    results["groups"] = {"validation": {HOSTILE: {QUOTED: {"accuracy": metric(1.0)}}}}
    results["headline"]["baseline_name"] = HOSTILE
    return results


def page(results, folder, **options):
    return Page(write_report(results, folder, **options).read_text(encoding="utf-8"))


def test_the_samples_follow_the_schema(results):
    jsonschema.validate(results, SCHEMA)
    jsonschema.validate(hostile(results), SCHEMA)
    results["tables"][0]["rows"][0][0] = {"no": "cell"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(results, SCHEMA)


def test_the_sample_of_classes_follows_the_schema(classes):
    jsonschema.validate(classes, SCHEMA)


def test_page_is_whole_and_self_contained(results, folder):
    cards = [card("5726", [("question", "Who?")], marked_text("the answer", [(4, 10, "gold")]) + player(b"sound"))]
    found = page(results, folder, error_cards=cards)
    assert not {"script", "link", "img"} & {*found.tags} and found.tags.count("svg") == 1
    for name, value in found.attributes:
        assert not name.startswith("on")
        assert name != "src" or value.startswith("data:audio/mpeg;base64,")
    written = (folder / "report.html").read_text("utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in written
    assert found.text.count("gold predicted both") == 1, "what the marks mean"
    assert not list(folder.rglob(".*")), "nothing half-written"


def test_every_section_is_in_the_bar_and_every_file_is_linked(results, folder):
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "a b#.json").write_text("{}")
    results["files"]["again"] = results["files"]["loss_curves"]
    found = page(results, folder)
    links = [value for name, value in found.attributes if name == "href"]
    headings = [value for name, value in found.attributes if name == "id" and re.fullmatch(r"s\d+", value)]
    assert links[: len(headings)] == [f"#{heading}" for heading in headings] and len(headings) == 8
    files = [unquote(link) for link in links[len(headings) :]]
    assert files == ["a b#.json", "model.safetensors", "plots/loss_curves.svg", "predictions.csv", "results.json"]
    assert found.tags.count("svg") == 1, "one plot once"
    titles = "Metrics Published Classes Details Plots Data Files Run"
    assert titles in found.text


def test_numbers_are_aligned_right_and_intervals_have_a_column(results, folder):
    page(results, folder)
    written = (folder / "report.html").read_text("utf-8")
    for row in (
        '<td class="r" dir="auto">67.21 %</td><td class="r" dir="auto">65.92 to 68.51</td>',
        '<td class="r" dir="auto">1,012</td><td class="" dir="auto">n/a</td>',
        '<td class="r" dir="auto">48 s</td>',
    ):
        assert row in written, row


@pytest.mark.parametrize("writer", ["report", "card"])
def test_every_metric_is_there(results, folder, writer):
    if writer == "report":
        text = page(results, folder).text
    else:
        text = write_model_card(results, folder, usage="pass").read_text("utf-8")
    text = text.replace("\\", "")
    for name, measured in results["metrics"]["validation"].items():
        assert words(name) in text
        for key in ("value", "low", "high"):
            if measured[key] is not None:
                assert format_value(measured[key], measured["unit"]).removesuffix(" %") in text
    assert "67.21 %" in text and "65.92 to 68.51" in text and "+16.57 points (better)" in text
    assert "baseline (every question unanswerable): 50.64 %" in text
    assert results["warnings"][0] in text


def test_the_page_shows_the_data_and_the_machine(results, folder):
    text = page(results, folder).text
    assert "validation and train share contexts: 31 of validation (0.62 %)." in text
    assert "60,000" in text and "130,319" in text and "answer not in the context 12" in text
    assert "9b74c9897bac" in text and "NVIDIA H200" in text and "2.13.0" in text
    assert "First and last questions" in text and "چه کسی آن را ساخت؟" in text and "as they were read" in text


def test_facts_of_the_page(results, folder):
    text = page(results, folder).text
    assert text.startswith("question answering: distilbert-base-uncased") and "exact match (answerable)" in text
    assert "83.7 min" in text and "48 s" in text and "5.10 GiB" in text and "35.84" in text
    assert "python run_qa.py --model distilbert-base-uncased --train_file 'my data.json'" in text
    assert "4 of 10 arguments were given" in text
    assert text.index("learning_rate") < text.index("num_train_epochs") < text.index("adam_beta1")
    assert "split answerable unanswerable train 39,966 20,034 validation 2,468 2,532" in text and "60,337" in text
    assert "0.7012 0.9100 1.000 2,468" in text and "n/a" in text
    assert "this run 63.83 % (62.48 to 65.19) 67.21 % (65.92 to 68.51)" in text
    assert "whole data, 2 epochs (BERT-base, the authors) 73.70 % 0.7630" in text


def test_what_the_demo_needs_was_not_given(results, folder):
    results["arguments"]["per_device_train_batch_size"]["source"] = "demo"
    results["arguments"]["stride"]["source"] = "method lora"
    assert "4 of 10 arguments were given" in page(results, folder).text


@pytest.mark.parametrize("demo", [False, True])
@pytest.mark.parametrize(
    ("name", "leaks"), [("honest", False), ("honest", True), ("published", False), ("published", True)]
)
def test_badges_only_when_they_should(results, folder, demo, name, leaks):
    results["protocol"] = {"name": name, "leaks": leaks, "demo": demo, "notes": ["a note on the protocol"]}
    text = page(results, folder).text
    written = (folder / "report.html").read_text("utf-8")
    readme = write_model_card(results, folder, usage="pass").read_text("utf-8")
    for found in (text, readme):
        assert ("DEMO: built-in synthetic data" in found) == demo
        start = "LEAKS: published protocol" if name == "published" else "LEAKS"
        said = f"{start}: what is tested, its speakers, or rows made from it had a part" in found
        assert said == ("LEAKS" in found) == leaks
        assert ("published protocol" in found) == (name == "published")
        assert "a note on the protocol" in found
    assert ('<p class="good">' in written) == (not demo and not leaks), "what is void is not green"
    assert ("[LEAKS" in written) == leaks
    front = front_matter(readme)
    assert ("demo" in front["tags"]) == demo and ("leaking-evaluation" in front["tags"]) == leaks
    assert ("base_model" in front) == ("datasets" in front) == ("license" in front) == (not demo)


def front_matter(readme: str) -> dict:
    return yaml.safe_load(readme.split("---\n")[1])


def test_classes_on_the_page(classes, folder):
    text = page(classes, folder).text
    assert text.startswith("persian nli: ")
    assert "F1 (macro) 76.46 % 74.29 to 78.40 1,564 16.99 %" in text
    easy, hard = "easy 78.15 % (75.61 to 80.92)", "hard 74.39 %"
    assert f"test by hard(overlap) hard(overlap) accuracy {easy} {hard}" in text
    assert "class precision recall F1 support استلزام 0.7472 0.7803 0.7634 (0.7340 to 0.7910) 519" in text
    assert "neutral 0.000 n/a n/a 0 " in text  # no interval where there is no value
    assert "this run 76.46 % (74.29 to 78.40) full (the report) 78.75 %" in text


def test_averages_stand_below_the_classes(classes, folder):
    row = {"precision": 0.4, "recall": 0.5, "f1": 0.6, "support": 519}
    classes["per_class"]["test"] |= {"macro avg": row, "weighted avg": row}
    text = page(classes, folder).text
    assert text.index("neutral 0.000") < text.index("macro avg 0.4000 0.5000 0.6000 519 weighted avg 0.4000")


def test_classes_on_the_card(classes, folder):
    readme = write_model_card(classes, folder, usage="pass").read_text("utf-8")
    assert front_matter(readme)["metrics"] == ["f1", "matthews_correlation"]
    assert "| test | F1 | 76.46 % (74.29 to 78.40) |" in readme.splitlines()


def test_facts_of_one_task_are_tables(classes, folder):
    found = page(classes, folder)
    assert "reason frozen layers learn nothing share 1.17 % (1.10 to 1.20)" in found.text
    strategy = "strategy name prune_heads rates 2e-05, 0.0001 cached yes best at epoch 3, loss 0.5"
    assert strategy in found.text
    assert "pruning before parameters 162,843,651, latency 0.0871 s after parameters 148,664,067" in found.text
    assert "heads 0 none 1 1, 9 2 2, 9" in found.text
    assert "Details" not in page(classes | {"extra": {}, "tables": []}, folder).text


def test_text_from_data_stays_text(results, folder):
    cards = [card(HOSTILE, [(HOSTILE, QUOTED)], marked_text(HOSTILE, [(1, 7, "predicted")]))]
    results["tables"][0] |= {"title": HOSTILE, "head": [HOSTILE, QUOTED, "", ""], "note": HOSTILE}
    found = page(hostile(results), folder, error_cards=cards, error_title=HOSTILE)
    assert "script" not in found.tags
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert found.text.count(HOSTILE) >= 10 and QUOTED in found.text
    readme = write_model_card(hostile(results), folder, usage="pass").read_text("utf-8")
    assert "<script" not in readme.replace("\\<", "").split("---\n", 2)[2]
    tables = re.findall(r"(?:^\|.*\n)+", readme, re.MULTILINE)
    assert len(tables) == 2
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


def test_broken_characters_do_not_stop_the_page(results, folder):
    results["warnings"].append("half a surrogate \ud83d")
    assert "half a surrogate ?" in page(results, folder).text
    write_model_card(results, folder, usage="pass")


def test_a_bare_run(results, tmp_path):
    for key in ("per_class", "confusion", "extra", "tables"):
        del results[key]
    results |= {"headline": None, "metrics": {}, "baseline": {}, "warnings": [], "history": [], "files": {}}
    results |= {"data": {"splits": {}, "overlaps": []}, "published": []}
    text = page(results, tmp_path).text
    assert "No headline" in text
    for absent in ("Warnings", "Metrics", "Published", "Classes", "Details", "Plots", "Worst errors", "Data"):
        assert absent not in text
    readme = write_model_card(results, tmp_path, usage="pass").read_text("utf-8")
    assert "No headline" in readme and "model-index" not in front_matter(readme)


@pytest.mark.parametrize(
    ("value", "low", "baseline", "higher", "verdict"),
    [
        (60.0, 58.0, 50.0, True, "+10.00 points (better)"),
        (40.0, 38.0, 50.0, True, "-10.00 points (worse)"),
        (40.0, 38.0, 50.0, False, "-10.00 points (better)"),
        (50.0, None, 50.0, False, "+0.00 points (no better)"),
        (51.0, 49.0, 50.0, True, "+1.00 points (no clear difference: the interval contains the baseline)"),
    ],
)
def test_verdict(results, folder, value, low, baseline, higher, verdict):
    results["headline"] |= {"value": value, "low": low, "high": low and value + 2, "baseline": baseline}
    results["headline"]["higher_is_better"] = higher
    assert verdict in page(results, folder).text


def test_model_card_front_matter(results, folder):
    (folder / "README.md").write_text("an older card")
    usage = "from transformers import AutoModelForQuestionAnswering"
    readme = write_model_card(results, folder, usage=usage).read_text("utf-8")
    assert readme.startswith("---\n") and "an older card" not in readme
    front = front_matter(readme)
    (index,) = front.pop("model-index")
    assert front == {
        "library_name": "transformers",
        "pipeline_tag": "question-answering",
        "base_model": "distilbert-base-uncased",
        "datasets": ["rajpurkar/squad_v2"],
        "language": "en",
        "license": "apache-2.0",
        "metrics": ["exact_match", "f1"],
        "tags": ["question-answering"],
    }
    assert index["name"] == "distilbert-base-uncased, question-answering"
    (result,) = index["results"]
    assert result["task"]["type"] == "question-answering"
    assert result["dataset"]["type"] == "rajpurkar/squad_v2" and result["dataset"]["split"] == "validation"
    assert result["metrics"][1] == {
        "type": "f1",
        "value": 67.214,
        "name": "F1 in percent (95 % interval 65.92 to 68.51)",
    }
    assert f"```python\n{usage}\n```" in readme
    assert "learning\\_rate | 2e-05 | file quick.yaml" in readme and "adam" not in readme
    assert "/home/" not in readme


def test_the_hub_reads_the_card(results, folder):
    from huggingface_hub import ModelCard

    card = ModelCard.load(write_model_card(results, folder, usage="pass"))
    assert [one.metric_value for one in card.data.eval_results] == [63.83, 67.214]
    assert card.data.model_name == "distilbert-base-uncased, question-answering"


def test_own_data_and_an_adapter(results, folder):
    results["arguments"]["dataset"]["value"] = None
    (folder / "adapter_config.json").write_text("{}")
    front = front_matter(write_model_card(results, folder, usage="pass").read_text("utf-8"))
    assert front["library_name"] == "peft" and "datasets" not in front and "language" not in front
    assert front["model-index"][0]["results"][0]["dataset"]["type"] == "own-data"


@pytest.mark.parametrize("name", ["{}", "{}/"])
def test_folders_of_this_machine_stay_out(results, folder, name):
    results["model"]["name"] = results["arguments"]["model"]["value"] = name.format(folder)
    results["arguments"]["dataset"]["value"] = str(folder / "train.json")
    results["data"]["splits"]["train"]["source"] = f"file {folder}/train.json"
    usage = f'pipeline(model="{folder}/qa")'
    readme = write_model_card(results, folder, usage=usage).read_text("utf-8")
    front = front_matter(readme)
    assert "base_model" not in front and "datasets" not in front and "license" not in front
    plain = readme.replace("\\", "")
    assert str(folder.parent) not in plain
    assert f"# {folder.name}, question answering" in plain and 'pipeline(model="qa")' in plain
    assert page(results, folder).text.startswith(f"question answering: {folder.name}")


def test_marks():
    shown = marked_text("in Paris & Rome", [(3, 8, "gold"), (3, 15, "predicted"), (0, 0, "gold")])
    assert shown == '<p dir="auto">in <mark class="both">Paris</mark><mark class="predicted"> &amp; Rome</mark></p>'
    assert marked_text("", []) == '<p dir="auto"></p>'
    assert marked_text("abc", [(2, 99, "gold")]) == '<p dir="auto">ab<mark class="gold">c</mark></p>'
    both = card("x", [], player(b"sound") + "".join([text_block("said", "<b>"), text_block("heard", "b")]))
    assert both.count("<audio") == 1 and both.count('<p dir="auto">') == 2 and "&lt;p" not in both
    assert text_block("<i>", "متن <b>") == '<p class="soft">&lt;i&gt;</p><p dir="auto">متن &lt;b&gt;</p>'
    persian = marked_text("پایتخت ایران تهران است", [(13, 18, "gold")])
    assert '<mark class="gold">تهران</mark>' in persian and 'dir="auto"' in persian


def test_numbers():
    assert format_value(71.2345, "percent") == "71.23 %"
    assert format_value(0.97091, "fraction") == "0.9709" and format_value(1.0, "fraction") == "1.000"
    assert format_value(284807, "count") == "284,807" and format_value(1234.5) == "1,234"
    assert format_value(999.99) == "1,000"
    assert format_value(None) == format_value(float("nan")) == "n/a"
    assert format_value(0.01234, "seconds") == "0.0123 s" and format_value(3723, "seconds") == "62.0 min"
    assert fact(None) == "n/a" and fact([1200, True]) == "1,200, yes" and fact({}) == fact([]) == "none"
    assert format_difference(-0.021, "fraction") == "-0.02100" and format_difference(3, "percent") == "+3.00 points"
    assert card("a & b", []) == '<article><h3 dir="auto">a &amp; b</h3><dl></dl></article>'
