"""`python -m benchmarks.lora_tasks`: which stages are run, from what, and the table. The script is a stand-in."""

import csv

import pytest

from benchmarks import lora_tasks
from tests.helpers import message

FILES = ["--first", "a.jsonl", "a-dev.jsonl", "--second", "b.jsonl", "b-dev.jsonl"]


def test_every_stage_starts_where_it_should_and_scores_both_tasks(tmp_path, monkeypatch, capsys):
    calls = []

    def script(argv: list[str]) -> dict:
        stage = argv[argv.index("--output_dir") + 1].removeprefix(f"{tmp_path}/")
        calls.append((stage, argv))
        (tmp_path / stage / "merged").mkdir(parents=True)
        values = {"validation": 50.0 + len(calls), "test": 60.0 + len(calls)}
        found = {
            n: {"accuracy": {"value": v, "low": v - 1, "high": v + 1, "unit": "percent"}} for n, v in values.items()
        }
        stored = {"bytes for 100 tasks": 90_000, "bytes for 100 tasks, all of it trained": 900_000}
        return {"metrics": found, "extra": {"method": stored}}

    monkeypatch.setattr(lora_tasks.run_mnli_lora, "main", script)
    assert lora_tasks.main([*FILES, "--output_dir", str(tmp_path), "--model", "base", "--seed", "7"]) == 0
    stages = dict(calls)
    assert list(stages) == [
        *("first alone", "second alone", "first merged, then second", "half of each adapter", "both together"),
    ]
    for argv in stages.values():
        text = " ".join(argv)
        assert "--seed 7" in text and "--validation_file a-dev.jsonl --test_file b-dev.jsonl" in text
    given = {stage: argv[argv.index("--overwrite_output_dir") + 1 :] for stage, argv in stages.items()}
    assert given["first alone"] == ["--train_file", "a.jsonl", "--merge"]
    assert given["second alone"] == ["--train_file", "b.jsonl"]
    merged = str(tmp_path / "first alone" / "merged")  # the last --model counts
    assert given["first merged, then second"] == ["--train_file", "b.jsonl", "--model", merged]
    halves = [f"{tmp_path}/first alone:0.5", f"{tmp_path}/second alone:0.5"]
    assert given["half of each adapter"] == ["--do_eval", "--do_predict", "--combine", *halves]
    assert given["both together"] == ["--train_file", "a.jsonl", "b.jsonl"]
    rows = list(csv.reader((tmp_path / "table.csv").open()))
    assert rows[3] == ["first merged, then second", "53.00 %", "52.00 to 54.00", "63.00 %", "62.00 to 64.00"]
    assert "bytes for 100 tasks: 90,000 with adapters, 900,000 all of it trained" in capsys.readouterr().out


def test_both_tasks_must_be_given():
    assert "give --first and --second" in message(lambda: lora_tasks.main(FILES[:3]))
    with pytest.raises(SystemExit):
        lora_tasks.main(["--first", "one.jsonl"])
