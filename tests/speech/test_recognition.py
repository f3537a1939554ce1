"""Transcripts scored: figures against jiwer, intervals against plain resampling, files read back, cards, plots."""

import csv
import re

import jiwer
import numpy as np
import pytest

from common.speech.recognition import (
    Transcriptions,
    draw_plots,
    error_cards,
    most_confused,
    rates_by_length,
    score_transcripts,
    worst,
    write_transcriptions,
)

LOSS = {"test": 0.5}
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
        "columns": {
            "speaker": ["anna", "", "ben"] * (count // 3),
            "gender": ["female", "male"] * (count // 2),
            "take": [f'"{i}"' for i in range(count)],
        },
    }
    return Transcriptions(**facts | changes)


def few(references, hypotheses, **changes):
    count = len(references)
    facts = {"seconds": np.ones(count), "columns": {}, "ids": [f"id {i}" for i in range(count)]}
    return Transcriptions(references=references, hypotheses=hypotheses, **facts | changes)


@pytest.fixture(scope="module")
def scored():
    splits = {"validation": made(), "test": made(240, 1), "blind": made(30, 2, known=False)}
    return splits, score_transcripts(splits, {"validation": 0.5, "test": 0.7, "blind": None})


def test_scored_figures(scored):
    splits, parts = scored
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


def test_headline_and_baseline(scored):
    _, parts = scored
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


def test_groups(scored):
    splits, parts = scored
    found, split = parts["groups"]["test"], splits["test"]
    assert list(found) == ["speaker", "gender"]  # not the number of the take, which is another in every row
    assert list(found["speaker"]) == ["anna", "ben", "unknown"]
    for place, name in enumerate(("anna", "unknown", "ben")):
        wer = found["speaker"][name]["wer"]
        assert wer["value"] == pytest.approx(100 * jiwer.wer(split.references[place::3], split.hypotheses[place::3]))
        assert wer["examples"] == 80 and wer["low"] < wer["value"] < wer["high"]


def test_nothing_to_score():
    empty = {name: {} for name in ("metrics", "groups", "baseline")}
    assert score_transcripts({"test": made(12, known=False)}, {"test": None}) == {"headline": None, **empty}
    silent = score_transcripts({"test": few(["", ""], ["NOISE", ""])}, LOSS)
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
    parts = score_transcripts({"test": few(["", "A B C D", "A"], ["X", "A B C D", "A"])}, LOSS)
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
    assert [row["speaker"] for row in rows] == split.columns["speaker"] and rows[3]["take"] == '"3"'
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


def test_without_truth_only_hypotheses(tmp_path):
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
    split = few(references, hypotheses, columns={"speaker": ["s1", "s2", "s3", ""], "gender": ["<i>", "", "", ""]})
    cards = error_cards(split, players={0: '<audio controls src="data:,"></audio>', 3: "<b>no</b>"})
    assert len(cards) == 3
    texts = [" ".join(re.sub("<[^>]*>", " ", card).split()) for card in cards]
    assert "2 errors in 4 words" in texts[0] and "1 replaced, 1 missing" in texts[0]
    assert "speaker s1 gender &lt;i&gt;" in texts[0] and "Id id 0" in texts[0] and "Seconds 1.0" in texts[0]
    assert "<audio controls" in cards[0] and "<audio" not in "".join(cards[1:]) and "<b>no" not in "".join(cards)
    assert '<mark class="gold">&lt;B&gt;</mark> CAT <mark class="gold">CAT</mark></p>' in cards[0]
    assert '<p dir="auto">THE CAT <mark class="predicted">CAR</mark></p>' in cards[0]
    assert '<p dir="auto">من <mark class="gold">کتاب</mark> <mark class="gold">را</mark> خواندم</p>' in cards[1]
    assert '<p dir="auto">من <mark class="predicted">کباب</mark> خواندم</p>' in cards[1]
    assert "1 error in 1 word " in texts[2] + " " and "Transcript: empty" in texts[2]


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


def test_plots_are_drawn(scored, tmp_path):
    splits, _ = scored
    history = [{"epoch": 1.0, "loss": 1.0}, {"epoch": 1.0, "eval_wer": 50.0, "eval_loss": 2.0}]
    drawn = draw_plots(history, splits, {name: split.seconds for name, split in splits.items()}, tmp_path)
    each = [f"{split}_{plot}" for split in ("validation", "test") for plot in ("wer_by_length", "confused_words")]
    assert [path.stem for path in drawn] == ["durations", "loss", "wer", *each]
    assert all("<svg" in path.read_text("utf-8") for path in drawn)
    silent = {"test": few(["", ""], ["", ""])}
    assert [path.stem for path in draw_plots([], silent, {}, tmp_path)] == ["durations", "test_wer_by_length"]
