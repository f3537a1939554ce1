"""`python -m benchmarks.published`: what is run, what is not run again, what is stopped, and what the tables say.

Most runs are of a small script that does as the real ones do (arguments, results.json, checkpoints, signals) without
training anything.
"""

import csv
import dataclasses
import importlib
import json
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import published
from benchmarks.published_figures import matrices, table_figures
from benchmarks.published_lines import lessons_of, lines_of, millions, score
from benchmarks.published_runs import Run, data_arguments, flags_of, same_computation
from benchmarks.published_tables import LESSONS, TABLES, Files, Lesson, Row, Table
from common.errors import exit_status
from tests.helpers import ROOT, message

FAKE = """
import json, os, pathlib, signal, sys, time

argv, given = sys.argv[1:], {}
for at, token in enumerate(argv):
    if token.startswith("--"):
        given[token[2:]] = argv[at + 1] if at + 1 < len(argv) and not argv[at + 1].startswith("--") else ""
folder = pathlib.Path(given["output_dir"])
if "broken" in given:
    print("warming up")
    print("fake.py: error: broken.csv, row 3: is broken", file=sys.stderr)
    print("the launcher says something, too", file=sys.stderr)
    sys.exit(2)
if (folder / "results.json").is_file() and "overwrite_output_dir" not in given:
    sys.exit("not empty")
folder.mkdir(parents=True, exist_ok=True)
begun = (folder / "checkpoint").is_file()
with (folder.parent / "calls.txt").open("a") as calls:
    print(json.dumps([begun, *argv]), file=calls)
if "meet" in given:  # goes on when another one has come, too
    (folder.parent / f"here-{folder.name}").touch()
    while len(list(folder.parent.glob("here-*"))) < 2:
        time.sleep(0.01)
if "wait" in given and not begun:
    def stop(number, frame):
        (folder / "signals").open("a").write("x")
        time.sleep(0.3)  # for a second signal, which must not come
        (folder / "checkpoint").touch()
        sys.exit(128 + number)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    (folder / "waiting").touch()
    while True:
        time.sleep(0.01)
value = float(given["value"]) + float(given.get("seed", 0))
leaks, demo = given.get("protocol") == "published", "demo" in given
one = {"value": value, "low": value - 2, "high": value + 2, "unit": "percent", "examples": 50}
row = {"precision": 0.5, "recall": 0.5, "f1": value / 200, "support": 25, "f1_low": 0.1, "f1_high": 0.9}
results = {
    "script": "fake.py", "command": ["fake.py", *argv], "task": "fake",
    "protocol": {"name": "published" if leaks else "honest", "leaks": leaks, "demo": demo, "notes": []},
    "headline": {"split": "test", "metric": "accuracy", **one},
    "metrics": {"test": {"accuracy": one, "f1": {**one, "value": value - 5, "low": None, "high": None}},
                "untouched": {"accuracy": {**one, "value": value - 20}}},
    "baseline": {"test": {"name": "majority", "metrics": {"accuracy": {"value": 33.0, "unit": "percent"}}}},
    "per_class": {"test": {"yes": row, "no": row}},
    "confusion": {"test": {"labels": ["yes", "no"], "matrix": [[20, 5], [10, 15]]}},
    "history": [{"epoch": e, "loss": 1 / e, "eval_loss": 1.2 / e} for e in (1, 2, 3)],
    "model": {"name": "<b>m</b>", "parameters": {"total": 1_500_000, "trainable": 2_000}},
    "resources": {"seconds": {"total": 61.0}, "peak_memory_bytes": 2**30, "peak_gpu_memory_bytes": None},
}
(folder / "results.json").write_text(json.dumps(results))
(folder / "report.html").write_text("a report")
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Makes the keyword table one of rows that run the small script; returns its rows, to be changed."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE, encoding="utf-8")
    rows = {
        "good": Row("good <row> | of two", ("--value", "80"), {"accuracy": 70, "f1 of yes": 30}),
        "leaky": Row("leaky", ("--value", "90", "--protocol", "published"), {"accuracy": 95.5}, leaks=True),
    }
    references = (("somebody else", {"accuracy": 60}),)
    table = Table(
        "Fake, of a test", "a report", str(script), ("accuracy", "f1", "mcc"), rows, (), references=references
    )
    monkeypatch.setitem(TABLES, "keyword", table)
    for figures in ("table_figures", "matrices"):  # they cost most of the time
        monkeypatch.setattr(f"benchmarks.published_page.{figures}", lambda *_: [])
    monkeypatch.chdir(tmp_path)
    return rows


def run(*argv: str, table: str = "keyword") -> int:
    return published.main([table, "--output_dir", "out", *argv])


def calls(folder: str = "out/keyword") -> list[list]:
    path = Path(folder, "calls.txt")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def csv_rows() -> list[dict]:
    with open("out/table.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# What the tables declare


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_understood_by_its_script(name, tmp_path, capsys):
    table = TABLES[name]
    script = importlib.import_module(table.script.removesuffix(".py"))
    (tmp_path / "occupied").write_text("")
    there = [[]] + [
        [token for flag in {**f.flags, **f.optional} for token in (flag, "some/file")] + list(f.arguments)
        for f in table.files
    ]
    for row in table.rows.values():
        variants = [[*row.arguments, *data] for data in there]
        variants.append(["--demo", *(row.arguments if row.demo is None else row.demo)])
        for argv in variants:
            argv += ["--seed", "1", "--output_dir", str(tmp_path), "--resume_from_checkpoint", "auto"]
            assert exit_status(lambda argv=argv: script.main(argv), table.script) == 2
            said = capsys.readouterr().err.strip().splitlines()[-1]
            assert "is not empty" in said, (argv, said)


def test_every_row_has_the_figures_of_its_report():
    """Some of them, as the reports print them; the tables take all from the scripts."""
    rows = {(name, row): r.published for name, table in TABLES.items() for row, r in table.rows.items()}
    assert rows["ser", "segments"]["accuracy"] == 72.99 and rows["ser", "oversampled"]["recall of fear"] == 92
    assert rows["nli", "prune_heads"]["precision of neutral"] == 90 and rows["nli", "full"]["f1"] == 78.75
    assert rows["mnli", "lora"]["f1 of contradiction"] == 81 and rows["mnli", "lora"]["accuracy"] == 76.05
    assert rows["keyword", "weighted"]["recall"] == 97.10 and rows["asr", "blstm"] == {"wer": 13.37}
    assert rows["qa", "xlm-roberta"]["f1"] == 77.14 and rows["fraud", "none"]["f1_at_half"] == 82.18
    assert rows["fraud", "adasyn"] == rows["fraud", "adasyn-published"]


def test_rows_ask_for_what_their_scripts_default_to_where_the_report_does():
    leaking = {(name, row) for name, t in TABLES.items() for row, r in t.rows.items() if "--protocol" in r.arguments}
    assert leaking == {("ser", "segments-published"), ("ser", "oversampled-published"), ("fraud", "adasyn-published")}
    for lesson in LESSONS:
        assert lesson.leaking[:2] in leaking
        assert lesson.honest[:2] not in leaking or lesson.honest[2] == "holdout"
    figures = {name: {m for r in table.rows.values() for m in r.published} for name, table in TABLES.items()}
    assert all(TABLES[name].metrics[0] in known for name, known in figures.items() if name not in ("persian", "rank"))


def test_files_of_the_shared_data_are_found(shared_data):
    found = {name: data_arguments(shared_data, table) for name, table in TABLES.items()}
    assert all(found.values())
    for arguments in found.values():
        paths = [value for flag, value in pairwise(arguments) if flag.endswith(("_file", "_dir"))]
        assert paths and all(Path(path).exists() for path in paths)
    assert "--test_file" in found["nli"] and "--test_file" not in found["mnli"]


def test_files_are_the_first_way_that_is_there(tmp_path):
    ways = (
        Files({"--a": "x/*.csv", "--b": "x/b/"}, optional={"--c": "c*"}),
        Files({"--a": "y*"}, arguments=("--z", "1")),
    )
    table = Table("", "", "", (), {}, ways)
    assert data_arguments(tmp_path, table) is None
    (tmp_path / "y1").touch()
    assert data_arguments(tmp_path, table) == ["--a", str(tmp_path / "y1"), "--z", "1"]
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "1.csv").touch()
    (tmp_path / "x" / "b").touch()  # a file, where a folder is wanted
    assert data_arguments(tmp_path, table)[-1] == "1"
    (tmp_path / "x" / "b").unlink()
    (tmp_path / "x" / "b").mkdir()
    assert data_arguments(tmp_path, table) == ["--a", str(tmp_path / "x/1.csv"), "--b", str(tmp_path / "x/b")]
    (tmp_path / "c1").touch()
    assert data_arguments(tmp_path, table)[-2:] == ["--c", str(tmp_path / "c1")]
    (tmp_path / "x" / "2.csv").touch()
    assert "fits 1.csv, 2.csv" in message(data_arguments, tmp_path, table)


@pytest.mark.parametrize(
    ("noted", "planned", "same"),
    [
        ("--a 1 --b", "--b --a 1", True),
        ("--a 1 --output_dir x --resume_from_checkpoint auto", "--a 1", True),
        ("--a 1 --output-dir=x --overwrite_output_dir", "--a 1", True),
        ("--learning-rate=1e-3", "--learning_rate 1e-3", True),
        ("--a 1 2", "--a 1", False),
        ("--a 1", "--a 1 --b", False),
        ("--a 1", "--a 2", False),
        ("--a 1 --a 2", "--a 2", True),
        ("--token ***", "--token secret", True),
        ("--max_train_samples -1", "--max_train_samples -1", True),
    ],
)
def test_the_same_computation(noted, planned, same):
    assert same_computation(noted.split(), planned.split()) is same
    assert flags_of(noted.split()).keys() <= {"__a", "__b", "__learning_rate", "__token", "__max_train_samples"}


# Running


def test_rows_are_run_once_and_shown(fake, capsys):
    assert run("--batch", "4", "--flag") == 0
    commands = calls()
    assert [c[1:3] for c in commands] == [["--value", "80"], ["--value", "90"]]
    assert all(
        "--batch" in c and "--flag" in c and c[c.index("--resume_from_checkpoint") + 1] == "auto" for c in commands
    )
    assert "good" in capsys.readouterr().out
    assert run("--flag", "--batch", "4") == 0 and calls() == commands  # finished: not again
    assert [r["ours"] for r in csv_rows() if r["metric"] == "accuracy"] == ["80.0", "90.0", ""]
    assert run() == 1 and calls() == commands  # the results there are of another command
    said = capsys.readouterr().out
    assert "keyword/good other: out/keyword/good: holds results of other arguments" in said
    assert run("--overwrite_output_dir") == 0
    assert [("--overwrite_output_dir" in c, "--resume_from_checkpoint" in c) for c in calls()[2:]] == [
        (True, False)
    ] * 2


def test_a_failing_row_is_shown_and_stops_no_other(fake, capsys):
    fake["good"] = Row("good", ("--broken",), {"accuracy": 70})
    assert run() == 1
    said = capsys.readouterr().out
    assert "keyword/good failed: broken.csv, row 3: is broken" in said
    assert [c[1:3] for c in calls()] == [["--value", "90"]]
    states = {r["row"]: r["state"] for r in csv_rows() if r["row"]}
    assert states == {"good": "failed", "leaky": "finished"}
    assert "broken.csv, row 3: is broken" in Path("out/index.html").read_text("utf-8")
    fake["good"] = Row("good", ("--value", "80"), {"accuracy": 70})
    assert run() == 0 and len(calls()) == 2  # only what failed is run again


def test_two_rows_at_a_time(fake):
    for name in ("good", "leaky"):
        fake[name] = Row(name, ("--value", "80", "--meet"))
    assert run("--jobs", "2") == 0  # each waits for the other
    assert len(calls()) == 2


def test_jobs_share_cores_and_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    shares = [published.environment(slot, 2) for slot in range(2)]
    assert [s["CUDA_VISIBLE_DEVICES"] for s in shares] == ["4,6", "5"]
    assert [s["OMP_NUM_THREADS"] for s in shares] == ["4", "4"]
    assert published.environment(0, 4)["CUDA_VISIBLE_DEVICES"] == "4,5,6"  # too few to share
    assert "OMP_NUM_THREADS" not in published.environment(0, 1)


def test_a_launcher_stands_before_each_script_but_that_on_keras(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    argv = ["qa", "fraud", "--launcher", "accelerate launch --num_processes 8", "--dry_run", "--seeds", "3", "--bf16"]
    assert published.main([*argv, "--output_dir", str(tmp_path / "with space")]) == 0
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    rows = len(TABLES["fraud"].rows)
    assert len(commands) == 2 + rows and not list(tmp_path.iterdir())
    assert commands[0] == [
        *("accelerate", "launch", "--num_processes", "8", "run_qa.py", "--model", "distilbert-base-uncased"),
        *("--bf16", "--seed", "3", "--output_dir", str(tmp_path / "with space/qa/distilbert/seed-3")),
        *("--resume_from_checkpoint", "auto"),
    ]
    assert [command[:2] for command in commands[2:]] == [["python", "run_fraud.py"]] * rows


def test_a_printed_command_is_recognised_when_it_was_run_elsewhere(fake, capsys):
    assert run("--dry_run") == 0
    lines = capsys.readouterr().out.splitlines()
    for line in lines:
        subprocess.run([sys.executable, *shlex.split(line)[1:]], check=True)
    assert run("--report_only") == 0 and len(calls()) == 2
    assert {r["state"] for r in csv_rows() if r["row"]} == {"finished"}


def test_what_cannot_be_run_is_said(fake, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    assert "has the files of none" in message(run, "--data_dir", "data", table="qa")
    assert "no such folder" in message(run, "--data_dir", "nowhere")
    assert "jobs" in message(run, "--jobs", "0")
    assert "'qaa' follows no flag" in message(run, "--demo", "qaa")
    with pytest.raises(SystemExit):
        run(table="qaa")
    (tmp_path / "data" / "creditcard").mkdir()
    (tmp_path / "data" / "creditcard" / "a.csv").touch()
    assert published.main(["qa", "fraud", "--data_dir", "data", "--dry_run"]) == 0
    shown = capsys.readouterr()
    assert "qa: skipped, no squad_v2/*train*.json, squad_v2/*dev*.json in data" in shown.err
    assert (
        len(shown.out.splitlines()) == len(TABLES["fraud"].rows) and "--train_file data/creditcard/a.csv" in shown.out
    )


@pytest.mark.parametrize(
    ("send", "number"),
    [
        pytest.param(os.killpg, signal.SIGINT, id="a terminal", marks=pytest.mark.slow),
        pytest.param(os.kill, signal.SIGTERM, id="a scheduler"),
    ],
)
def test_a_signal_lets_a_script_save_its_state_and_the_next_run_goes_on(fake, tmp_path, send, number):
    program = (
        "import sys; from tests.test_published import *\n"
        "given = {'first': ('--value', '70'), 'slow': ('--value', '80', '--wait'), 'never': ('--value', '90')}\n"
        "rows = {name: Row(name, arguments) for name, arguments in given.items()}\n"
        "TABLES['keyword'] = Table('Fake', '', sys.argv[1], ('accuracy',), rows, ())\n"
        "sys.exit(exit_status(lambda: published.main(['keyword', '--output_dir', 'out']), 'benchmarks.published'))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "fake.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, process_group=0, text=True, stderr=subprocess.PIPE)
    limit = time.monotonic() + 240
    while not Path("out/keyword/slow/waiting").exists():
        assert time.monotonic() < limit and process.poll() is None
        time.sleep(0.02)
    send(process.pid, number)  # to everything in the foreground, or to one process alone
    said = process.communicate(timeout=240)[1]
    assert process.returncode == 128 + number and "the same command goes on" in said
    assert Path("out/keyword/slow/signals").read_text() == "x" and Path("out/keyword/slow/checkpoint").exists()
    states = {r["row"]: r["state"] for r in csv_rows()}
    assert states == {"first": "finished", "slow": "stopped", "never": "not run"}
    subprocess.run(command, env=environment, check=True, timeout=240)
    assert [(c[0], c[2]) for c in calls()] == [(False, "70"), (False, "80"), (True, "80"), (False, "90")]
    assert {r["state"] for r in csv_rows()} == {"finished"}


# What is shown


class Page(HTMLParser):
    """The tags of a page, its addresses and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.addresses, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_nothing_else_and_marks_what_leaks(fake, monkeypatch):
    monkeypatch.setattr("benchmarks.published_page.table_figures", table_figures)
    monkeypatch.setattr("benchmarks.published_page.matrices", matrices)
    assert run() == 0
    page = Page(Path("out/index.html").read_text("utf-8"))
    assert "script" not in page.tags and page.tags.count("figure") == 5
    assert all(a.startswith(("data:", "#", "keyword/")) for a in page.addresses)
    assert all(Path("out", a).is_file() for a in page.addresses if a.startswith("keyword/"))
    assert "good <row> | of two" in page.text and "somebody else" in page.text
    good, leaky, reference = (row for row in csv_rows() if row["metric"] == "accuracy")
    assert (good["ours"], good["low"], good["difference"], good["baseline"]) == ("80.0", "78.0", "10.0", "33.0")
    assert (good["leaks"], leaky["leaks"], leaky["published_leaks"]) == ("False", "True", "True")
    assert (reference["label"], reference["published"], reference["ours"]) == ("somebody else", "60", "")
    by_class = next(row for row in csv_rows() if row["metric"] == "f1 of yes")
    assert (by_class["ours"], by_class["low"], by_class["difference"]) == ("40.0", "10.0", "10.0")
    table = Path("out/table.md").read_text("utf-8")
    assert (
        r"good <row> \| of two | accuracy | 70.00 % | 80.00 % | 78.00 to 82.00 | +10.00 points better | 33.00 %"
        in table
    )
    assert "95.50 % (leaks) | 90.00 % (leaks)" in table and "1.0 min | 1.00 GiB | 1.50 M, 2,000 trained" in table
    widths = {line.count(" | ") for line in table.replace(r"\|", "").splitlines() if line.startswith("| ")}
    assert len(widths) == 1


def test_better_and_worse_only_where_the_interval_says_so(fake):
    fake["lower"] = Row("lower", ("--value", "60"), {"accuracy": 70})
    fake["within"] = Row("within", ("--value", "71"), {"accuracy": 70})
    fake["published leaks"] = Row("incomparable", ("--value", "60"), {"accuracy": 70}, leaks=True)
    assert run() == 0
    lines = [line for line in lines_of("keyword", runs_there()) if line.metric == "accuracy" and line.row]
    verdicts = {line.row: line.verdict for line in lines}
    assert verdicts == {"good": "better", "leaky": "", "lower": "worse", "within": "", "published leaks": ""}


def runs_there() -> list[Run]:
    runs = [
        Run("keyword", name, None, Path("out/keyword", name), [*row.arguments]) for name, row in fake_rows().items()
    ]
    for one in runs:
        one.look()
    return runs


def fake_rows() -> dict[str, Row]:
    return TABLES["keyword"].rows


def test_mean_and_deviation_over_seeds(fake):
    assert run("--seeds", "1", "2", "4") == 0
    line = next(row for row in csv_rows() if row["row"] == "good" and row["metric"] == "accuracy")
    values = [81, 82, 84]
    assert float(line["ours"]) == pytest.approx(statistics.mean(values)) and line["seeds"] == "3"
    assert float(line["sd"]) == pytest.approx(statistics.stdev(values)) and line["low"] == ""
    assert "82.33 % | ± 1.53, 3 seeds | +12.33 points better" in Path("out/table.md").read_text("utf-8")
    page = Page(Path("out/index.html").read_text("utf-8"))
    assert [*dict.fromkeys(a for a in page.addresses if "good" in a)] == [
        f"keyword/good/seed-{n}/report.html" for n in (1, 2, 4)
    ]
    assert run("--seeds", "1", "5") == 0 and len(calls("out/keyword/good")) == 4  # one more seed: one more run


def test_demo_figures_are_not_compared(fake):
    assert run("--demo") == 0
    assert {row["difference"] for row in csv_rows()} == {""} and {row["demo"] for row in csv_rows() if row["row"]} == {
        "True"
    }
    for name in ("index.html", "table.md"):
        assert "DEMO: built-in synthetic data" in Path("out", name).read_text("utf-8")


def test_lessons_put_what_leaks_beside_what_does_not(fake, monkeypatch, capsys):
    keyword = ("keyword", "leaky")
    lessons = (
        Lesson("one", (*keyword, "test"), ("keyword", "good", "test"), ("accuracy", "mcc")),
        Lesson("two", (*keyword, "test"), (*keyword, "untouched"), ("accuracy",)),
    )
    for module in ("benchmarks.published_lines", "benchmarks.published_runs"):
        monkeypatch.setattr(f"{module}.LESSONS", lessons)
    assert run(table="lesson") == 0 and len(calls()) == 2  # a run of two lessons is run once
    found = {lesson.title: scores["accuracy"] for lesson, scores in lessons_of(runs_there()).items()}
    assert [(a.value, b.value) for a, b in found.values()] == [(90, 80), (90, 70)]
    said = capsys.readouterr().out
    assert re.search(r"accuracy +90\.00 % +88\.00 to 92\.00 +80\.00 % .* \+10\.00 points", said)
    assert "Fake, of a test" not in said  # the table was not asked for


def test_a_score_falls_back_to_validation_and_not_further(fake):
    assert run() == 0
    runs = runs_there()[:1]
    runs[0].results["metrics"]["validation"] = runs[0].results["metrics"].pop("test")
    found = score(runs, "test", "accuracy")
    assert (found.value, found.split, found.baseline) == (80, "validation", None)
    assert score(runs, "untouched", "accuracy").value == 60 and score(runs, "test", "mcc") is None
    assert score([], "test", "accuracy") is None


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (999_999, "999,999"), (1_500_000, "1.50 M"), (94_400_000, "94.4 M")]
)
def test_parameters_as_people_say_them(count, text):
    assert millions(count) == text
    assert millions(355_362_819) == "355 M"


def test_rows_that_vary_one_thing_stand_in_one_figure(fake, tmp_path):
    for row, bar in (("good", ("rank 1", "alpha = 1")), ("leaky", ("rank 1", "alpha = 32"))):
        fake[row] = dataclasses.replace(fake[row], bar=bar, minutes=20)
    assert run() == 0
    assert any(
        "rank 1" in str(figure) and "alpha = 32" in str(figure) for figure in table_figures("keyword", runs_there())
    )
    assert "(published: 20.0 min" in (tmp_path / "out" / "table.md").read_text("utf-8")


def test_a_real_script_from_start_to_end(tmp_path, monkeypatch, capsys):
    table = TABLES["keyword"]
    only = {"weighted": table.rows["weighted"]}
    monkeypatch.setitem(TABLES, "keyword", Table(**{**vars(table), "rows": only}))
    monkeypatch.chdir(ROOT)
    argv = ["keyword", "--demo", "--output_dir", str(tmp_path / "out"), "--num_train_epochs", "3"]
    assert published.main(argv) == 0, capsys.readouterr().out
    assert "finished after" in capsys.readouterr().out
    assert published.main(argv) == 0 and "finished after" not in capsys.readouterr().out
    page = Page((tmp_path / "out" / "index.html").read_text("utf-8"))
    assert (tmp_path / "out" / "keyword/weighted/report.html").is_file()
    assert "keyword/weighted/report.html" in page.addresses
