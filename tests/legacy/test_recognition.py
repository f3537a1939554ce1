"""Transcripts judged: figures against jiwer, intervals against plain resampling, files read back, cards, plots."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jiwer
import jsonschema
import numpy as np
import pytest
from PIL import Image

from common.legacy import results
from common.legacy.metrics import bootstrap_statistic
from common.legacy.recognition import (
    Transcriptions,
    draw_plots,
    error_cards,
    judge,
    most_confused,
    rates_by_length,
    score,
    worst,
    write_transcriptions,
)
from common.legacy.report import write_report
from common.legacy.transcripts import encode, make_processor
from tests.legacy.test_report import Page

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "common" / "legacy" / "results.schema.json").read_text())
LOSS = {"eval_loss": 0.5, "eval_runtime": 1.0}
WORDS = ["THE", "CAT", "SAT", "ON", "A", "MAT", "<B>", "کتاب"]


def made(count=120, seed=0, known=True, **changes):
    random = np.random.default_rng(seed)
    references, hypotheses = [], []
    for _ in range(count):
        words = random.choice(WORDS, size=random.integers(1, 12)).tolist()
        references.append(" ".join(words))
        heard = [random.choice(WORDS) if random.random() < 0.2 else word for word in words if random.random() < 0.9]
        hypotheses.append(" ".join(heard))
    facts = {
        "ids": [f"id {i}" for i in range(count)],
        "hypotheses": hypotheses,
        "references": references if known else None,
        "seconds": random.uniform(0.5, 9, size=count),
        "columns": {"gender": ["female", "male"] * (count // 2), "take": [f'"{i}"' for i in range(count)]},
        "speakers": ["anna", "", "ben"] * (count // 3),
    }
    return Transcriptions(**facts | changes)


def few(references, hypotheses, **changes):
    count = len(references)
    facts = {"seconds": np.ones(count), "columns": {}, "speakers": None, "ids": [f"id {i}" for i in range(count)]}
    return Transcriptions(references=references, hypotheses=hypotheses, **facts | changes)


def test_nothing_heavy_is_imported():
    heavy = ("datasets", "evaluate", "jiwer", "torch", "transformers", "matplotlib")
    code = f"import sys, common.recognition; print([module for module in {heavy} if module in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_score_decodes_what_is_kept(tmp_path):
    from transformers import Wav2Vec2FeatureExtractor

    tokenizer = make_processor(list("ACEHST"), Wav2Vec2FeatureExtractor(), tmp_path).tokenizer
    references, heard = ["THE CAT", "SEAT", "A"], ["THE CAST", "SEAT", ""]
    ids = np.full((3, 20), -100, np.int32)
    frames = np.array([20, 9, 3])
    for row, labels in enumerate(encode(tokenizer, heard)):
        spread = np.zeros(frames[row], np.int32)
        spread[np.arange(len(labels)) * 2] = labels  # blanks between
        ids[row, : frames[row]] = spread
    ids[1, 9:] = 5  # what a longer clip of the batch left behind
    dataset = SimpleNamespace(examples=SimpleNamespace(texts=references))
    found = score((ids, frames), dataset, tokenizer=tokenizer)
    expected = {"wer": 100 * jiwer.wer(references, heard), "cer": 100 * jiwer.cer(references, heard)}
    assert found == pytest.approx(expected) and found["wer"] == 50
    assert score((ids, frames), SimpleNamespace(examples=SimpleNamespace(texts=None)), tokenizer=tokenizer) == {}
    nothing = SimpleNamespace(examples=SimpleNamespace(texts=["", "", ""]))
    assert score((ids, frames), nothing, tokenizer=tokenizer) == {}


@pytest.fixture(scope="module")
def judged():
    splits = {"validation": made(), "test": made(240, 1), "blind": made(30, 2, known=False)}
    measured = {"validation": LOSS, "test": {"predict_loss": 0.7}, "blind": {}}
    return splits, judge(splits, measured)


def test_judged_figures(judged):
    splits, parts = judged
    split, ours = splits["test"], parts["metrics"]["test"]
    assert list(parts["metrics"]) == ["validation", "test"]  # what has no truth has no figures
    output = jiwer.process_words(split.references, split.hypotheses)
    said = sum(len(text.split()) for text in split.references)
    expected = {
        "wer": output.wer,
        "cer": jiwer.cer(split.references, split.hypotheses),
        "substitutions": output.substitutions / said,
        "deletions": output.deletions / said,
        "insertions": output.insertions / said,
        "utterances_without_error": np.mean([a == b for a, b in zip(split.references, split.hypotheses)]),
    }
    assert {name: ours[name]["value"] for name in expected} == pytest.approx(
        {name: 100 * value for name, value in expected.items()}
    )
    for name in expected:
        assert ours[name]["low"] < ours[name]["value"] < ours[name]["high"] and ours[name]["examples"] == 240
        assert ours[name]["unit"] == "percent"
    assert ours["loss"] == {"value": 0.7, "low": None, "high": None, "unit": "nats"}
    assert parts["per_class"] == parts["confusion"] == {}


def test_intervals_are_those_of_resampled_utterances(judged):
    splits, parts = judged
    texts = np.array([splits["test"].references, splits["test"].hypotheses]).T
    low, high = bootstrap_statistic(lambda t: 100 * jiwer.wer(t[:, 0].tolist(), t[:, 1].tolist()), texts, resamples=100)
    ours = parts["metrics"]["test"]["wer"]
    # The ends of an interval from 100 resamples are uncertain by some 7 % of its width each.
    assert (ours["low"], ours["high"]) == pytest.approx((low, high), abs=0.2 * (high - low))


def test_headline_and_baseline(judged):
    _, parts = judged
    top, ours = parts["headline"], parts["metrics"]["test"]["wer"]
    assert top == {
        "split": "test",
        "metric": "wer",
        **{name: ours[name] for name in ("value", "low", "high", "unit")},
        "baseline_name": "empty transcript",
        "baseline": 100.0,
        "higher_is_better": False,
    }
    values = {name: figure["value"] for name, figure in parts["baseline"]["test"]["metrics"].items()}
    assert values == {
        "wer": 100,
        "cer": 100,
        "substitutions": 0,
        "deletions": 100,
        "insertions": 0,
        "utterances_without_error": 0,
    }


def test_groups(judged):
    splits, parts = judged
    found, split = parts["groups"]["test"], splits["test"]
    assert list(found) == ["speaker", "gender"]  # not the number of the take, which is another in every row
    assert list(found["speaker"]) == ["unknown", "anna", "ben"]
    for place, name in enumerate(("anna", "unknown", "ben")):
        wer = found["speaker"][name]["wer"]
        assert wer["value"] == pytest.approx(100 * jiwer.wer(split.references[place::3], split.hypotheses[place::3]))
        assert wer["examples"] == 80 and wer["low"] < wer["value"] < wer["high"]


def test_nothing_to_judge():
    empty = {name: {} for name in ("metrics", "per_class", "confusion", "groups", "baseline")}
    assert judge({"test": made(12, known=False)}, {"test": {}}) == {"headline": None, **empty}
    silent = judge({"test": few(["", ""], ["NOISE", ""])}, {"test": LOSS})
    assert silent["headline"] is None and silent["baseline"] == silent["groups"] == {}
    assert silent["metrics"]["test"]["wer"] == {
        "value": None,
        "low": None,
        "high": None,
        "unit": "percent",
        "examples": 2,
    }
    assert silent["metrics"]["test"]["utterances_without_error"]["value"] == 50


def test_silence_among_speech_counts():
    parts = judge({"test": few(["", "A B C D", "A"], ["X", "A B C D", "A"])}, {"test": LOSS})
    metrics, baseline = parts["metrics"]["test"], parts["baseline"]["test"]["metrics"]
    assert metrics["wer"]["value"] == metrics["insertions"]["value"] == 20
    assert baseline["wer"]["value"] == 100 and baseline["utterances_without_error"]["value"] == pytest.approx(100 / 3)


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_transcriptions_are_written_whole(tmp_path):
    split = made(30)
    assert write_transcriptions(tmp_path, "test_", split) == {"test_predictions.csv": "test_predictions.csv"}
    rows = read(tmp_path / "test_predictions.csv")
    errors = ["substitutions", "deletions", "insertions"]
    header = ["id", "seconds", "speaker", "gender", "take", "reference", "hypothesis", "wer", *errors, "alignment"]
    assert list(rows[0]) == header
    for name, column in (("id", split.ids), ("reference", split.references), ("hypothesis", split.hypotheses)):
        assert [row[name] for row in rows] == column
    assert [row["speaker"] for row in rows] == split.speakers and rows[3]["take"] == '"3"'
    np.testing.assert_allclose([float(row["seconds"]) for row in rows], split.seconds, atol=5.1e-4)
    for row in rows:
        output = jiwer.process_words(row["reference"], row["hypothesis"])
        assert float(row["wer"]) == pytest.approx(100 * output.wer, abs=0.0051)
        assert [int(row[kind]) for kind in errors] == [getattr(output, kind) for kind in errors]


def test_alignment_in_one_cell(tmp_path):
    references = ["THE CAT SAT MAT", "", "A", "HE IS"]
    hypotheses = ["THE CAP SAT ON", "X Y", "", "HE IS"]
    write_transcriptions(tmp_path, "", few(references, hypotheses))
    rows = read(tmp_path / "predictions.csv")
    assert [row["alignment"] for row in rows] == ["THE {CAT>CAP} SAT {MAT>ON}", "{+X} {+Y}", "{-A}", "HE IS"]
    assert [row["wer"] for row in rows] == ["50.00", "", "100.00", "0.00"]
    split = few(["THE CAT SAT MAT"], ["OH CAT SAT ON IT THE MAT"])
    write_transcriptions(tmp_path, "", split)
    assert read(tmp_path / "predictions.csv")[0]["alignment"] == "{THE>OH} CAT SAT {+ON} {+IT} {+THE} MAT"


def test_without_truth_only_what_was_heard(tmp_path):
    split = made(30, known=False)
    write_transcriptions(tmp_path, "", split)
    rows = read(tmp_path / "predictions.csv")
    empty = ("reference", "wer", "substitutions", "deletions", "insertions", "alignment")
    assert {row[name] for row in rows for name in empty} == {""}
    assert [row["hypothesis"] for row in rows] == split.hypotheses
    assert worst(split) == error_cards(split) == []


def test_the_worst_have_most_errors():
    split = few(["A", "A B C D", "A B", "A B C", "A"], ["X", "X Y", "X Y", "A B C", "A B C"])
    assert worst(split) == [1, 4, 2, 0]  # 4 errors; 2 errors in 1 word, then in 2; 1 error
    assert worst(split, 2) == [1, 4]


def test_cards():
    references = ["THE <B> CAT CAT", "من کتاب را خواندم", "A", "FINE"]
    hypotheses = ["THE CAT CAR", "من کباب خواندم", "", "FINE"]
    split = few(references, hypotheses, columns={"gender": ["<i>", "", "", ""]}, speakers=["s1", "s2", "s3", "s4"])
    cards = error_cards(split, players={0: '<audio controls src="data:,"></audio>', 3: "<b>no</b>"})
    assert len(cards) == 3
    pages = [Page(card) for card in cards]
    assert "2 errors in 4 words" in pages[0].text and "1 replaced, 1 missing" in pages[0].text
    assert "speaker s1 gender <i>" in pages[0].text and "Id id 0" in pages[0].text and "Seconds 1.0" in pages[0].text
    assert "<audio controls" in cards[0] and "<audio" not in "".join(cards[1:]) and "<b>no" not in "".join(cards)
    assert '<mark class="gold">&lt;B&gt;</mark> CAT <mark class="gold">CAT</mark></p>' in cards[0]
    assert '<p dir="auto">THE CAT <mark class="predicted">CAR</mark></p>' in cards[0]
    assert '<p dir="auto">من <mark class="gold">کتاب</mark> <mark class="gold">را</mark> خواندم</p>' in cards[1]
    assert '<p dir="auto">من <mark class="predicted">کباب</mark> خواندم</p>' in cards[1]
    assert "1 error in 1 word " in pages[2].text + " " and "Transcript: empty" in pages[2].text


def test_most_confused():
    references = ["THE CAT SAT", "THE CAT SAT", "CAT CAT", "A", ""]
    split = few(references, ["THE CAP SAT", "CAT SAT", "CAP CAP", "A", "UM"])
    # CAT twice in the third utterance counts once
    assert most_confused(split) == {"CAT → CAP": 2, "THE missing": 1, "UM added": 1}
    assert list(most_confused(split, 1)) == ["CAT → CAP"]
    assert most_confused(few(["A"], ["A"])) == {}


def test_rates_by_length():
    seconds = np.array([0.1, 0.9, 1.0, 5.5, 80.0])
    split = few(["A", "A B C", "A B", "A", "A A"], ["B", "A B C", "A X", "A", "A"], seconds=seconds)
    rates = rates_by_length(split)
    assert {name: rate["value"] for name, rate in rates.items()} == {
        "0-15 s (4)": pytest.approx(200 / 7),
        "75-90 s (1)": 50,
    }
    many = few(["A"] * 100, ["A"] * 99 + ["B"], seconds=np.array([2.5] * 50 + [6.5] * 49 + [100]))
    rates = rates_by_length(many)
    assert {name: rate["value"] for name, rate in rates.items()} == {
        "2-3 s (50)": 0,
        "6 s and more (50)": 2,
    }
    assert sum(rate["examples"] for rate in rates_by_length(made(60)).values()) == 60


def whole(parts):
    """A run's results around what was judged."""
    split = {"source": "a.csv", "examples": 9, "available": 9, "selection": "all", "fingerprint": "0" * 64}
    return results.completed(
        {
            "task": "speech-recognition",
            "script": "run_asr.py",
            "command": ["python"],
            "protocol": {"name": "honest", "leaks": False, "demo": False, "notes": []},
            "arguments": {"model": {"value": "x", "source": "recipe"}},
            "data": {"splits": {"train": split | {"skipped": {}}, "test": split | {"skipped": {}}}, "overlaps": []},
            "model": {"name": "x", "architecture": "X", "parameters": {"total": 1, "trainable": 1}},
            **parts,
            "published": [],
            "history": [{"epoch": 1.0, "loss": 1.0}, {"epoch": 1.0, "eval_validation_wer": 50.0}],
            "resources": {"seconds": {"total": 1.0}, **results.peak_memory()},
            "environment": results.environment("cpu", 1),
            "warnings": [],
            "files": {},
        }
    )


def test_judged_parts_follow_the_schema_and_make_a_page(judged, tmp_path):
    splits, parts = judged
    silent = judge({"test": few(["", ""], ["NOISE", ""])}, {"test": LOSS})
    for judgement, cards in ((parts, error_cards(splits["test"], 3)), (silent, [])):
        facts = json.loads(json.dumps(whole(judgement), allow_nan=False))
        jsonschema.validate(facts, SCHEMA)
        page = Page(write_report(facts, tmp_path, error_cards=cards).read_text("utf-8"))
        assert "Classes" not in page.text and "utterances without error" in page.text
    facts["metrics"]["test"]["wer"]["unit"] = "furlongs"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(facts, SCHEMA)


def test_plots_are_pictures(judged, tmp_path):
    splits, parts = judged
    series = {"losses": {"train": "loss"}, "rates": {"validation": "eval_validation_wer"}}
    seconds = {name: split.seconds for name, split in splits.items()} | {"none": np.array([])}
    files = draw_plots(whole(parts), splits, tmp_path, seconds=seconds, **series)
    each = [f"{split}_{plot}" for split in ("validation", "test") for plot in ("wer_by_length", "confused_words")]
    assert list(files) == ["durations", "loss", "wer", *each]
    for path in files.values():
        with Image.open(tmp_path / path) as image:
            assert image.format == "PNG" and np.asarray(image.convert("L")).min() < 120
    nothing = judge({}, {})
    assert draw_plots(whole(nothing) | {"history": []}, {}, tmp_path, seconds={}, **series) == {}
    silent = {"test": few(["", ""], ["", ""])}
    assert list(draw_plots(whole(nothing) | {"history": []}, silent, tmp_path, seconds={}, **series)) == [
        "test_wer_by_length"
    ]
