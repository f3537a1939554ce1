"""Transcripts scored: figures against jiwer, intervals around them, files read back, cards, plots."""

import re
from types import SimpleNamespace

import datasets
import jiwer
import numpy as np
import pytest

from common.speech.recognition import error_cards, score_transcripts, transcriptions_of, write_transcripts
from tests.helpers import rows_of

LOSS = {"test": 0.5}
WORDS = ["THE", "CAT", "SAT", "ON", "A", "MAT", "<B>", "کتاب"]
ERRORS = ["substitutions", "deletions", "insertions"]


def few(references, hypotheses, **columns):
    count = len(hypotheses)
    facts = {"id": [f"id {i}" for i in range(count)], "seconds": [1.0] * count, **columns}
    facts |= {} if references is None else {"text": references}
    return transcriptions_of(datasets.Dataset.from_dict(facts), hypotheses)


def made(count=120, seed=0, known=True):
    random = np.random.default_rng(seed)
    references, hypotheses = [], []
    for _ in range(count):
        words = random.choice(WORDS, size=random.integers(1, 12)).tolist()
        references.append(" ".join(words))
        heard = [random.choice(WORDS) if random.random() < 0.2 else word for word in words if random.random() < 0.9]
        hypotheses.append(" ".join(heard))
    columns = {"speaker": ["anna", None, "ben"] * (count // 3), "gender": ["female", "male"] * (count // 2)}
    columns |= {"take": [f'"{i}"' for i in range(count)], "seconds": random.uniform(0.5, 9, size=count)}
    return few(references if known else None, hypotheses, **columns)


@pytest.fixture(scope="module")
def scored():
    splits = {"validation": made(), "test": made(240, 1), "blind": made(30, 2, known=False)}
    return splits, score_transcripts(splits, {"validation": 0.5, "test": 0.7, "blind": None})


def test_scored_figures(scored):
    splits, parts = scored
    ours = parts["metrics"]["test"]
    assert list(parts["metrics"]) == ["validation", "test"]  # what has no truth has no figures
    texts = splits["test"]["reference"].tolist(), splits["test"]["hypothesis"].tolist()
    output = jiwer.process_words(*texts)
    said = sum(len(text.split()) for text in texts[0])
    expected = {"wer": output.wer, "cer": jiwer.cer(*texts)}
    expected |= {kind: getattr(output, kind) / said for kind in ERRORS}
    expected["utterances_without_error"] = np.mean([one == other for one, other in zip(*texts)])
    for name, value in expected.items():
        assert ours[name]["value"] == pytest.approx(100 * value)
        assert ours[name]["low"] < ours[name]["value"] < ours[name]["high"] and ours[name]["examples"] == 240
        assert ours[name]["unit"] == "percent"
    assert ours["loss"] == {"value": 0.7, "low": None, "high": None, "unit": "nats"}


def test_headline_and_baseline(scored):
    _, parts = scored
    top, ours = parts["headline"], parts["metrics"]["test"]["wer"]
    assert (top["split"], top["metric"], top["higher_is_better"]) == ("test", "wer", False)
    assert {name: top[name] for name in ("value", "low", "high")} == {k: ours[k] for k in ("value", "low", "high")}
    assert (top["baseline_name"], top["baseline"]) == ("empty transcript", 100)
    values = {name: figure["value"] for name, figure in parts["baseline"]["test"]["metrics"].items()}
    assert values == {"wer": 100, "cer": 100, "deletions": 100} | dict.fromkeys(
        ("substitutions", "insertions", "utterances_without_error"), 0
    )


def test_groups(scored):
    splits, parts = scored
    found, split = parts["groups"]["test"], splits["test"]
    assert list(found) == ["speaker", "gender"]  # not the number of the take, which is another in every row
    assert list(found["speaker"]) == ["anna", "ben", "unknown"]
    for place, name in enumerate(("anna", "unknown", "ben")):
        wer, texts = found["speaker"][name]["wer"], [split[c].tolist()[place::3] for c in ("reference", "hypothesis")]
        assert wer["value"] == pytest.approx(100 * jiwer.wer(*texts))
        assert wer["examples"] == 80 and wer["low"] < wer["value"] < wer["high"]


def test_nothing_to_score():
    empty = {name: {} for name in ("metrics", "groups", "baseline")}
    assert score_transcripts({"test": made(12, known=False)}, {"test": None}) == {"headline": None, **empty}
    silent = score_transcripts({"test": few(["", ""], ["NOISE", ""])}, LOSS)
    assert silent["headline"] is None and silent["baseline"] == silent["groups"] == {}
    nothing = {"value": None, "low": None, "high": None}
    assert silent["metrics"]["test"]["wer"] == nothing | {"unit": "percent", "examples": 2}
    assert silent["metrics"]["test"]["utterances_without_error"]["value"] == 50


def test_silence_among_speech_counts():
    parts = score_transcripts({"test": few(["", "A B C D", "A"], ["X", "A B C D", "A"])}, LOSS)
    metrics, baseline = parts["metrics"]["test"], parts["baseline"]["test"]["metrics"]
    assert metrics["wer"]["value"] == metrics["insertions"]["value"] == 20
    assert baseline["wer"]["value"] == 100 and baseline["utterances_without_error"]["value"] == pytest.approx(100 / 3)


def written(table, folder) -> list[dict]:
    run = SimpleNamespace(output_dir=folder, args=SimpleNamespace(timestamps=False))
    clips = {"test": datasets.Dataset.from_dict({"seconds": table["seconds"]})}
    files, _, _ = write_transcripts({"history": [], "headline": None}, {"test": table}, {}, clips, None, run)
    assert files["test_predictions.csv"] == "test_predictions.csv"
    return rows_of(folder / "test_predictions.csv")


def test_transcriptions_are_written_whole(tmp_path):
    table = made(30)
    rows = written(table, tmp_path)
    header = ["id", "seconds", "speaker", "gender", "reference", "hypothesis", "wer", *ERRORS, "alignment"]
    assert list(rows[0]) == header
    for name in ("id", "speaker", "reference", "hypothesis"):
        assert [row[name] for row in rows] == table[name].tolist()
    np.testing.assert_allclose([float(row["seconds"]) for row in rows], table["seconds"], atol=5.1e-4)
    for row in rows:
        output = jiwer.process_words(row["reference"], row["hypothesis"])
        assert float(row["wer"]) == pytest.approx(100 * output.wer, abs=0.0051)
        assert [int(row[kind]) for kind in ERRORS] == [getattr(output, kind) for kind in ERRORS]


def test_alignment_in_one_cell():
    references = ["THE CAT SAT MAT", "", "A", "HE IS", "THE CAT SAT MAT"]
    table = few(references, ["THE CAP SAT ON", "X Y", "", "HE IS", "OH CAT SAT ON IT THE MAT"])
    marked = ["THE {CAT>CAP} SAT {MAT>ON}", "{+X} {+Y}", "{-A}", "HE IS", "{THE>OH} CAT SAT {+ON} {+IT} {+THE} MAT"]
    assert table["alignment"].tolist() == marked
    assert table["wer"].tolist()[:4] == ["50.00", "", "100.00", "0.00"]


def test_without_truth_only_hypotheses(tmp_path):
    table = made(30, known=False)
    rows = written(table, tmp_path)
    assert {row[name] for row in rows for name in ("reference", "wer", *ERRORS, "alignment")} == {""}
    assert [row["hypothesis"] for row in rows] == table["hypothesis"].tolist()


def test_cards():
    """The worst have the most errors: 4; then 2 in 1 word, 2 in 2; then 1."""
    table = few(
        ["<A>", "من کتاب را خواندم D", "A B", "FINE", "A"],
        ["", "X Y", "X Y", "FINE", "A B C"],
        gender=["<i>", "m", "m", "m", "m"],
    )
    cards = error_cards(table, lambda row: f"<audio {row}>")
    assert [int(re.search(r"<audio (\d)>", card)[1]) for card in cards] == [1, 4, 2, 0]
    assert "2 errors in 1 words" in cards[1] and "2 added" in cards[1] and "A {+B} {+C}" in cards[1]
    assert '<dd dir="auto">&lt;i&gt;</dd>' in cards[3] and "(empty)" in cards[3] and "{-&lt;A&gt;}" in cards[3]
