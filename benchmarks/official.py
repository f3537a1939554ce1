"""The official examples' way and ours, end to end, on the same rows with the same flags, in one table.

    python -m benchmarks.official
    python -m benchmarks.official qa --rows 1000 500 --turns 3 --bf16
    python -m benchmarks.official pairs --train_file train.csv --validation_file dev.csv --text_model DIR
    python -m benchmarks.official all --growth 1 4 16

Both sides are processes of their own with empty caches, measured from their start to the last file, and take turns.
Without files and models of yours: built-in data, random encoders. Flags that are not below go to both sides, with their
values behind an equals sign. `benchmarks/README.md` says more.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from common.errors import write_csv, write_json

ROOT = Path(__file__).resolve().parent.parent
TEXT = "--eval_strategy no --save_strategy epoch --do_train --do_eval"
QA = f"--max_seq_length 384 --doc_stride 128 --version_2_with_negative --null_score_diff_threshold 0 {TEXT}"
PAIRS = f"--max_seq_length 128 --per_device_train_batch_size 32 --learning_rate 2e-5 {TEXT}"
AUDIO = "--eval_strategy epoch --save_strategy epoch --save_total_limit 2 --load_best_model_at_end --do_train --do_eval"
WORDS, TEXTS = (f"{AUDIO} --metric_for_best_model {metric}" for metric in ("accuracy", "wer --greater_is_better false"))
FRAUD = "--per_device_train_batch_size 32 --learning_rate 1e-4"


class Case(NamedTuple):
    """A row of the table: a task of `official_ways`, our script, how many rows, the flags of both sides and of each."""

    task: str
    script: str
    metric: str
    goal: float | None  # times fewer CPU seconds than the official way
    rows: tuple[int, int]  # of training and validation
    flags: str
    ours: str = ""
    official: str = ""


CASES = {
    "qa": Case("qa", "run_qa.py", "f1", 3, (250, 125), f"{QA} --num_train_epochs 1"),
    "pairs": Case(
        "pairs", "run_mnli_lora.py", "accuracy", 2, (500, 250), f"{PAIRS} --num_train_epochs 1", "--method full"
    ),
    "pairs, head only": Case(
        task="pairs",
        script="run_mnli_lora.py",
        metric="accuracy",
        goal=10,
        rows=(500, 250),
        flags=f"{PAIRS} --num_train_epochs 5",
        ours="--method freeze",
        official="--freeze encoder",
    ),
    "keyword, encoder trained": Case(
        "keyword", "run_keyword.py", "accuracy", None, (48, 24), f"{WORDS} --num_train_epochs 2 --freeze convolution"
    ),
    "keyword, encoder frozen": Case(
        "keyword", "run_keyword.py", "accuracy", 10, (48, 24), f"{WORDS} --num_train_epochs 10 --freeze encoder"
    ),
    "asr, encoder frozen": Case(
        "asr", "run_asr.py", "wer", None, (24, 12), f"{TEXTS} --num_train_epochs 3 --freeze encoder"
    ),
    "fraud": Case(
        "fraud", "run_fraud.py", "auprc", 2, (20_000, 0), f"{FRAUD} --num_train_epochs 10", "--baselines false"
    ),
}


# Data and models


def make_inputs(case: Case, folder: Path, options, times: int = 1) -> list[str]:
    """Writes rows and a random model into `folder`, unless the user has some; the flags that name them."""
    train, validation = (count * times for count in options.rows or case.rows)
    if case.task == "fraud":
        from common.demo.fraud import synthetic_cards

        columns = synthetic_cards(train, max(60, train // 300))
        rows = zip(*(column.tolist() for column in columns.values()))
        return ["--train_file", options.train_file or str(write_csv(folder / "cards.csv", list(columns), rows))]
    made, model = {"qa": questions, "pairs": pairs}.get(case.task, clips)(folder / "demo", case.task)
    model = (options.text_model if case.task in ("qa", "pairs") else options.speech_model) or model
    flags = ["--model_name_or_path", str(model), "--train_file", options.train_file]
    flags += ["--validation_file", options.validation_file]
    for at, count, rows in ((3, train, made["train"]), (5, validation, made["validation"])):
        rows = [copy_of(rows[number % len(rows)], number // len(rows), folder) for number in range(count)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        if flags[at] is None and case.task == "qa":
            flags[at] = str(folder / f"{at}.jsonl")
            Path(flags[at]).write_text(lines, encoding="utf-8")
        elif flags[at] is None:
            flags[at] = str(write_csv(folder / f"{at}.csv", list(rows[0]), [list(row.values()) for row in rows]))
    return flags


def copy_of(row: dict, number: int, folder: Path) -> dict:
    """The row; for a further copy another one of about its length: a number before its text, a softer sound."""
    mark = f"({number}) "
    if number == 0:
        return row
    if "premise" in row:
        return {**row, "premise": mark + row["premise"]}
    if "context" in row:
        starts = [start + len(mark) for start in row["answers"]["answer_start"]]
        answers = {**row["answers"], "answer_start": starts}
        return {**row, "id": f"{row['id']}-{number}", "context": mark + row["context"], "answers": answers}
    import soundfile

    sound, rate = soundfile.read(row["path"])
    path = folder / f"{number}-{Path(row['path']).parent.name}-{Path(row['path']).stem}.wav"
    soundfile.write(path, sound / (1 + number / 16), rate)
    return {**row, "path": str(path)}


def questions(folder: Path, _) -> tuple[dict, Path]:
    """Questions on texts of about 150 words, as SQuAD's are: four paragraphs of the demo each."""
    from common.demo.qa import question_answering_demo

    made, rows = question_answering_demo(folder, "bert-base"), {"train": [], "validation": []}
    for split, found in rows.items():
        for article in json.loads(Path(made[f"{split}_file"]).read_text("utf-8"))["data"]:
            before, context = 0, " ".join(paragraph["context"] for paragraph in article["paragraphs"])
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    starts = [before + answer["answer_start"] for answer in question["answers"]]
                    answers = {"text": [answer["text"] for answer in question["answers"]], "answer_start": starts}
                    row = {"id": question["id"], "title": article["title"], "question": question["question"]}
                    found.append({**row, "context": context, "answers": answers})
                before += len(paragraph["context"]) + 1
    return rows, text_encoder(made["model"])


def pairs(folder: Path, _) -> tuple[dict, Path]:
    from common.demo.nli import mnli_demo

    made, rows = mnli_demo(folder, "bert-base"), {}
    for split in ("train", "validation"):
        lines = [json.loads(line) for line in Path(made[f"{split}_file"]).read_text("utf-8").splitlines()]
        rows[split] = [{name: line[name] for name in ("premise", "hypothesis", "label")} for line in lines]
    return rows, text_encoder(made["model"])


def text_encoder(folder: str) -> Path:
    """A random BERT of 6 layers, 384 wide, in the place of the demo's: what takes time is the model."""
    from transformers import AutoConfig, BertConfig, BertModel

    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    BertModel(BertConfig(vocab_size=AutoConfig.from_pretrained(folder).vocab_size, **sizes)).save_pretrained(folder)
    return Path(folder)


def clips(folder: Path, task: str) -> tuple[dict, Path]:
    """The demo's clips, so that the first rows are of all classes, and a random encoder like DistilHuBERT."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    from common.demo.speech import asr_demo, keyword_demo

    data, rows = Path((keyword_demo if task == "keyword" else asr_demo)(folder)["data_dir"]), {}
    held = set((data / "validation_list.txt").read_text().split()) if task == "keyword" else ()
    for split, subset in {"train": "train-clean-100", "validation": "dev-clean"}.items():
        if task == "keyword":
            found = sorted(data.glob("[!_]*/*.wav"), key=lambda path: path.name)
            found = [path for path in found if (f"{path.parent.name}/{path.name}" in held) == (split == "validation")]
            rows[split] = [{"path": str(path), "label": path.parent.name} for path in found]
        else:
            files = sorted(data.glob(f"{subset}/*/*/*.trans.txt"))
            lines = [(file, *line.split(" ", 1)) for file in files for line in file.read_text("utf-8").splitlines()]
            rows[split] = [{"path": str(f.parent / f"{name}.flac"), "transcript": text} for f, name, text in lines]
    config = HubertConfig(num_hidden_layers=2, feat_proj_layer_norm=False, layerdrop=0.0, mask_time_prob=0.0)
    HubertModel(config).save_pretrained(folder / "encoder")
    Wav2Vec2FeatureExtractor().save_pretrained(folder / "encoder")
    return rows, folder / "encoder"


# Measuring


def measured(side: str, case: Case, flags: list[str], folder: Path) -> dict:
    """Runs a side into an empty `folder`: seconds of the clock and of all its processes, by phase; MiB; the score."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "run" if side == "official" else folder).mkdir(parents=True)
    program = [case.script] if side == "ours" else ["-m", "benchmarks.official_ways", case.task]
    command = [sys.executable, *program, *flags, "--output_dir", str(folder / "run")]
    caches = {"XDG_CACHE_HOME": str(folder / "cache"), "HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}
    with (folder / "log.txt").open("w") as log:
        begin = time.perf_counter()
        output = {"stdout": log, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | caches, **output)
        _, status, usage = os.wait4(process.pid, 0)
        found = {"wall": time.perf_counter() - begin, "cpu": usage.ru_utime + usage.ru_stime}
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(f"{' '.join(command)}: failed; see {folder / 'log.txt'}")
    if side == "ours":
        results = json.loads((folder / "run" / "results.json").read_text("utf-8"))
        seconds, split = results["resources"]["seconds"], "test" if case.task == "fraud" else "validation"
        found["score"] = results["metrics"][split][case.metric]["value"]
        total = seconds.pop("total")
        seconds["other"] = total - sum(seconds.values())
    else:
        told = json.loads((folder / "run" / "official.json").read_text())
        found["score"], seconds = told["scores"][case.metric], told["seconds"]
    seconds = {"start": found["wall"] - sum(seconds.values()), **seconds}
    return {**found, "peak": usage.ru_maxrss / 1024, "seconds": seconds}


def side_by_side(name: str, options, more: list[str]) -> dict:
    """A row of the table: both sides in turns, of each the turn in the middle."""
    case, folder = CASES[name], options.output_dir / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "inputs").mkdir(parents=True)
    inputs, turns = make_inputs(case, folder / "inputs", options), {"official": [], "ours": []}
    for _, (side, of_side) in itertools.product(range(options.turns), turns.items()):
        flags = [*inputs, *case.flags.split(), *getattr(case, side).split(), *more]
        of_side.append(measured(side, case, flags, folder / side))
    row = {side: sorted(found, key=lambda turn: turn["cpu"])[len(found) // 2] for side, found in turns.items()}
    for side, found in row.items():
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in found["seconds"].items())
        print(f"{name}, {side}: {parts}", flush=True)
    return {"case": name, "rows": options.rows or case.rows, "goal": case.goal, "turns": turns, **row}


def table(rows: list[dict]) -> str:
    """In Markdown; two figures in a cell are official / ours."""
    head = ["task", "rows", "wall s", "CPU s", "CPU ratio", "goal", "score", "peak MiB"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        sides, ratio = (row["official"], row["ours"]), row["official"]["cpu"] / row["ours"]["cpu"]
        both = {key: " / ".join(f"{side[key]:,.1f}" for side in sides) for key in ("wall", "cpu", "score", "peak")}
        goal = "" if row["goal"] is None else f"{row['goal']:g}{'' if ratio >= row['goal'] else ', not met'}"
        count = " + ".join(f"{count:,}" for count in row["rows"] if count)
        lines.append([row["case"], count, both["wall"], both["cpu"], f"{ratio:.2f}", goal, both["score"], both["peak"]])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def growth(name: str, options, more: list[str]) -> list[dict]:
    """Ours with so many times the rows: training with its evaluation, then evaluating the trained model alone."""
    case, rows = CASES[name], []
    for times in options.growth:
        folder = options.output_dir / "growth" / f"{name} {times}"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "inputs").mkdir(parents=True)
        inputs = make_inputs(case, folder / "inputs", options, times)
        whole = measured("ours", case, [*inputs, *case.flags.split(), *case.ours.split(), *more], folder / "trained")
        row = {"task": name, "times": times, "wall s": whole["wall"], "CPU s": whole["cpu"], "peak MiB": whole["peak"]}
        if case.task != "fraud":
            flags = ["--do_eval", "--model", str(folder / "trained" / "run"), *inputs[4:], *more]
            alone = measured("ours", case, flags, folder / "evaluated")
            row |= {"evaluation CPU s": alone["cpu"], "evaluation peak MiB": alone["peak"]}
        rows.append(row)
        print(
            ", ".join(f"{key} {value if key == 'task' else f'{value:,.0f}'}" for key, value in row.items()), flush=True
        )
    return rows


def draw_growth(rows: list[dict], path: Path) -> Path:
    """Seconds and memory as multiples of those of the fewest rows: what grows as the rows do is the thin diagonal."""
    from matplotlib.ticker import StrMethodFormatter

    from common.report.plots import PALETTE, SOFT, new_figure, save

    figure, axes = new_figure("What grows with the rows", "times the rows", "times the first")
    by_task = itertools.groupby(rows, key=lambda row: row["task"])
    for colour, (name, points) in zip(itertools.cycle(PALETTE), by_task):
        points = list(points)
        for key, style in {"CPU s": "-", "peak MiB": ":"}.items():
            heights = [point[key] / points[0][key] for point in points]
            axes.plot([point["times"] for point in points], heights, style, color=colour, label=f"{name}, {key}")
    times = sorted({row["times"] for row in rows})
    axes.plot(times, [count / times[0] for count in times], color=SOFT, linewidth=0.8, label="as the rows")
    for scale, axis in ((axes.set_xscale, axes.xaxis), (axes.set_yscale, axes.yaxis)):
        scale("log", base=2)
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xticks(times)
    return save(figure, path)


def main(argv: list[str] | None = None) -> list[dict]:
    """Measures and prints what was asked for; returns what official.json, or growth.json, in the folder holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = sorted({case.task for case in CASES.values()})
    parser.add_argument("tasks", nargs="*", default="all", choices=["all", *tasks])
    parser.add_argument("--rows", type=int, nargs=2, metavar=("TRAIN", "VALIDATION"), help="instead of each task's own")
    parser.add_argument("--turns", type=int, default=1, help="of each side (default 1)")
    parser.add_argument("--train_file", help="jsonl (questions), csv with premise, hypothesis, label, or path and ...")
    parser.add_argument("--validation_file", help="likewise; both are used whole")
    parser.add_argument("--text_model", help="folder of a BERT-like encoder")
    parser.add_argument("--speech_model", help="folder of a HuBERT-like encoder")
    parser.add_argument(
        "--growth", type=int, nargs="+", metavar="TIMES", help="measure ours alone, with times the rows"
    )
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/official"))
    options, more = parser.parse_known_args(argv)
    options.output_dir = options.output_dir.absolute()
    names = [name for name, case in CASES.items() if "all" in options.tasks or case.task in options.tasks]
    if options.growth:
        rows = [row for name in names for row in growth(name, options, more)]
        draw_growth(rows, options.output_dir / "growth.svg")
    else:
        rows = [side_by_side(name, options, more) for name in names]
        print(table(rows))
    write_json(options.output_dir / ("growth.json" if options.growth else "official.json"), rows)
    return rows


if __name__ == "__main__":
    main()
