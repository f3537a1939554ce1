"""benchmarks/official*.py: the plain way finds what it shall find, both sides get the same rows, the table says so."""

from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset

from benchmarks import official
from benchmarks.official_ways import DataArguments, answers_by_loops, windows
from common.files import read_files
from common.text.squad import to_questions

CONTEXT = "The museum was founded in 1921 by Anna Berg, and it was closed in 1950 by the town."
ROWS = [
    {"id": "a", "question": "When was it founded?", "answers": {"text": ["1921"], "answer_start": [26]}},
    {"id": "b", "question": "Who closed it?", "answers": {"text": ["the town"], "answer_start": [74]}},
    {"id": "c", "question": "Who bought it?", "answers": {"text": [], "answer_start": []}},
]


def test_windows_are_of_one_length_and_answers_come_back(tiny_tokenizer):
    """The labels of the training windows, taken as what a perfect model says, give the answers."""
    tokenizer = tiny_tokenizer("bert-base-uncased")
    rows = Dataset.from_list([{**row, "context": CONTEXT} for row in ROWS])
    data = DataArguments("", "", "", max_seq_length=32, doc_stride=8)
    train = windows(tokenizer, data, True, rows[:])
    features = Dataset.from_dict(dict(windows(tokenizer, data, False, rows[:])))
    assert {len(ids) for ids in train["input_ids"]} == {32} and len(features) == len(train["input_ids"]) > len(rows)
    scores = np.zeros((2, len(features), 32), dtype=np.float32)
    for scored, name in zip(scores, ("start_positions", "end_positions")):
        scored[np.arange(len(features)), train[name]] = 9
    expected = {row["id"]: (row["answers"]["text"] or [""])[0] for row in ROWS}
    files = answers_by_loops(rows, features, scores, data)
    assert files["predictions"] == expected
    for best in files["nbest_predictions"].values():
        assert sum(one["probability"] for one in best) == pytest.approx(1)


@pytest.mark.parametrize("name", ["qa", "pairs", "keyword, encoder frozen", "asr, encoder frozen", "fraud"])
def test_as_many_different_rows_as_asked_for(tmp_path, name, monkeypatch):
    monkeypatch.setattr(official, "text_encoder", lambda folder: folder)
    case, options = official.CASES[name], SimpleNamespace(rows=None, train_file=None, validation_file=None)
    options.text_model = options.speech_model = "given"
    count = {"qa": 2500, "pairs": 3100, "fraud": 4000}.get(case.task, 400)  # more than the demo has
    flags = official.make_inputs(case._replace(rows=(count // 4, 5)), tmp_path, options, times=4)
    files = dict(zip(flags[::2], flags[1::2]))
    frame = read_files(files["--train_file"])
    assert len(frame) == count // 4 * 4 and len(frame.astype(str).drop_duplicates()) > 0.99 * len(frame)
    assert name == "fraud" or len(read_files(files["--validation_file"])) == 20
    if name == "qa":
        questions = to_questions(frame, "train", False)[0]  # refuses an answer that is not where it says
        words = [len(text.split()) for text in set(questions["context"][:])]
        assert 60 < np.mean(words) < 200 and not all(a["text"] for a in questions["answers"])


def test_the_table():
    sides = {"official": {"wall": 20.0, "cpu": 30, "score": 50, "peak": 2048}}
    sides["ours"] = {"wall": 5.0, "cpu": 10, "score": 51, "peak": 1024}
    rows = [{"case": "qa", "rows": (1000, 500), "goal": goal, **sides} for goal in (2, 4, None)]
    lines = official.table(rows).splitlines()
    assert lines[2] == "| qa | 1,000 + 500 | 20.0 / 5.0 | 30.0 / 10.0 | 3.00 | 2 | 50.0 / 51.0 | 2,048.0 / 1,024.0 |"
    assert "| 4, not met |" in lines[3] and "| 3.00 |  |" in lines[4]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["qa", "pairs", "keyword", "asr", "fraud"])
def test_both_sides_run_with_the_same_flags(tmp_path, task):
    rows = ["3000", "0"] if task == "fraud" else ["16", "8"]
    for row in official.main([task, "--rows", *rows, "--output_dir", str(tmp_path)]):
        for side in ("official", "ours"):
            assert row[side]["wall"] == pytest.approx(sum(row[side]["seconds"].values())) and row[side]["cpu"] > 1
    (one, *_) = official.main([task, "--rows", *rows, "--growth", "1", "2", "--output_dir", str(tmp_path)])
    assert one["peak MiB"] > 100 and (tmp_path / "growth.svg").is_file()
