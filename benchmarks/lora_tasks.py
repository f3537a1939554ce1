"""Two tasks with LoRA: what the first one loses when the second is learnt, and which way loses least (report 004).

    python -m benchmarks.lora_tasks --first a_train.jsonl a_dev.jsonl --second b_train.jsonl b_dev.jsonl
    python -m benchmarks.lora_tasks --demo

The tasks have the same classes. Trained are an adapter for each alone, one for both together, and one for the second
task after the first one's was merged into the model; the adapters of each alone are also added up, half of each. What
is not listed below is passed on to run_mnli_lora.py (--model, --lora_rank, --seed, ...).
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import run_mnli_lora
from common.errors import UserError, exit_status, write_csv
from common.report.words import format_value, interval_text

GENRES = (("fiction", "government"), ("telephone", "travel"))  # of the built-in pairs: the first task, the second
DEMO = ("--learning_rate", "1e-3", "--max_length", "64", "--warmup_steps", "0.1")


def demo_tasks(folder: Path) -> tuple[str, list[list[str]]]:
    """A tiny model, and [training file, evaluation file] of two tasks from the built-in pairs: two genres each."""
    from common.demo.nli import mnli_demo

    made, tasks = mnli_demo(folder, "roberta-base"), [[], []]
    for split in ("train_file", "validation_file"):
        lines = Path(made[split]).read_text(encoding="utf-8").splitlines()
        for number, genres in enumerate(GENRES):
            path = folder / f"task-{number + 1}-{split}.jsonl"
            path.write_text("\n".join(line for line in lines if json.loads(line)["genre"] in genres), encoding="utf-8")
            tasks[number].append(str(path))
    return made["model"], tasks


def main(argv: list[str] | None = None) -> int:
    """Runs the stages; prints accuracy of both tasks after each, and writes it to table.csv."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lora_tasks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name in ("first", "second"):
        parser.add_argument(f"--{name}", nargs=2, metavar=("TRAIN", "DEV"), help=f"files of the {name} task")
    parser.add_argument("--demo", action="store_true", help="built-in pairs and a tiny model")
    parser.add_argument("--output_dir", default="outputs/lora-tasks", help="a folder a stage; replaced if it is there")
    options, extra = parser.parse_known_args(argv)
    folder = Path(options.output_dir)
    if not options.demo and not (options.first and options.second):
        raise UserError("give --first and --second, each with a training and an evaluation file, or --demo")
    tasks = [options.first, options.second]
    if options.demo:
        folder.mkdir(parents=True, exist_ok=True)
        model, tasks = demo_tasks(folder)
        extra = ["--model", model, *DEMO, *extra]
    (first, first_dev), (second, second_dev) = tasks

    def run(stage: str, *arguments: str) -> tuple[str, dict]:
        """The stage's name, and what results.json says: the first task is its validation set, the second its test."""
        own = ["--method", "lora", "--load_best_model_at_end", "false", "--output_dir", str(folder / stage)]
        own += ["--validation_file", first_dev, "--test_file", second_dev, "--overwrite_output_dir"]
        return stage, run_mnli_lora.main([*extra, *own, *arguments])

    alone = [
        run("first alone", "--train_file", first, "--merge"),
        run("second alone", "--train_file", second),
    ]
    halves = [f"{folder / stage}:0.5" for stage, _ in alone]
    stages = [
        *alone,
        run("first merged, then second", "--train_file", second, "--model", str(folder / "first alone" / "merged")),
        run("half of each adapter", "--do_eval", "--do_predict", "--combine", *halves),
        run("both together", "--train_file", first, second),
    ]
    shutil.rmtree(folder / "first alone" / "merged")
    head, rows = ["stage", "first task", "95 % interval", "second task", "95 % interval"], []
    for stage, results in stages:
        found = [results["metrics"][split]["accuracy"] for split in ("validation", "test")]
        rows.append([stage, *(text for m in found for text in (format_value(m["value"], m["unit"]), interval_text(m)))])
    for cells in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(cells)} |")
    stored = alone[0][1]["extra"]["method"]
    size, whole = (stored[f"bytes for 100 tasks{words}"] for words in ("", ", all of it trained"))
    print(f"bytes for 100 tasks: {size:,} with adapters, {whole:,} all of it trained")
    print(f"table: {write_csv(folder / 'table.csv', head, rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, "benchmarks.lora_tasks"))
