"""Every published table with one command: its rows are run, and ours stand beside the published figures.

    python -m benchmarks.published qa
    python -m benchmarks.published all --demo --jobs 2                  no hub, no data: does everything run?
    python -m benchmarks.published nli mnli --seeds 1 2 3               mean and standard deviation
    python -m benchmarks.published ser --launcher "accelerate launch --num_processes 8" --bf16
    python -m benchmarks.published fraud --data_dir DIR --num_train_epochs 5
    python -m benchmarks.published lesson                               what leaks, beside what does not
    python -m benchmarks.published all --dry_run                        one command a line, to paste into jobs

Give the tables first; what is not listed below is passed on to the scripts. A row that is finished, by the same
command, is not run again; one that was stopped goes on from its checkpoint; one that fails stops no other. Ctrl-C lets
the scripts save their state. At the end: table.md, table.csv and index.html in --output_dir.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from benchmarks.published_page import terminal_tables, write_outputs
from benchmarks.published_runs import Run, planned
from benchmarks.published_tables import TABLES
from common.errors import Interrupted, UserError, exit_status
from common.launch import StopRequest


def last_words(log: Path, script: str) -> str:
    """The sentence with which a script refused, or else the last line of its log."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = [line for line in lines if line.startswith(f"{script}: error: ")]
    return (said or lines or ["it said nothing"])[-1].removeprefix(f"{script}: error: ")


def environment(slot: int, jobs: int) -> dict[str, str]:
    """Of one of several jobs at a time: its share of the cores, and of the GPUs that CUDA_VISIBLE_DEVICES names."""
    found = dict(os.environ)
    if jobs > 1:
        found.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
        gpus = [gpu for gpu in found.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        if len(gpus) >= jobs:
            found["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[slot::jobs])
    return found


def carry_out(runs: list[Run], options, stop: StopRequest) -> None:
    """Runs what is not finished, `options.jobs` at a time, until `stop` is asked for; their states say what became."""
    waiting = [run for run in runs if run.state == "not run" or (run.state == "other" and options.overwrite_output_dir)]
    count, running, told = len(waiting), {}, False
    free = list(range(options.jobs))
    try:
        while waiting or running:
            while waiting and free and stop.signal_number is None:
                run, slot = waiting.pop(0), free.pop(0)
                command = run.command(options.launcher, sys.executable, again=run.state == "other")
                print(
                    f"[{count - len(waiting)}/{count}] {run.name}: {shlex.join(command)}  (log: {run.log})", flush=True
                )
                run.log.parent.mkdir(parents=True, exist_ok=True)
                run.state, run.said = "running", ""
                with run.log.open("w", encoding="utf-8") as log:
                    process = subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=environment(slot, options.jobs),
                        process_group=0,  # or a Ctrl-C would reach it twice, which means: at once, without a checkpoint
                    )
                running[process] = run, slot, time.perf_counter()
            if stop.signal_number is not None and not told:
                told, waiting = True, []
                print("stopping: waiting for the scripts to save their state; once more to end at once", flush=True)
                pass_on(running, stop.signal_number)
            for process in [process for process in running if process.poll() is not None]:
                run, slot, start = running.pop(process)
                free.append(slot)
                ended(run, process.returncode, time.perf_counter() - start, asked=told)
            time.sleep(0.05)
    except Interrupted:
        pass_on(running, signal.SIGINT)
        raise
    finally:  # whatever happens here, no script is left behind
        for process, (run, _, start) in running.items():
            process.wait()
            ended(run, process.returncode, time.perf_counter() - start, asked=True)


def pass_on(processes: Iterable[subprocess.Popen], number: int) -> None:
    """Signals everything that each command has started, as a terminal does."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def ended(run: Run, status: int, seconds: float, *, asked: bool) -> None:
    """Notes and prints what became of a run."""
    run.look()
    if run.state == "finished":
        head = run.results["headline"]
        what = f"{head['split']} {head['metric']} {head['value']:.2f}" if head else "nothing was evaluated"
        print(f"{run.name}: finished after {seconds:.0f} s, {what}", flush=True)
        return
    run.state = "stopped" if asked else "failed"
    run.said = (
        last_words(run.log, Path(TABLES[run.table].script).name) if run.state == "failed" else "goes on when run again"
    )
    print(f"{run.name}: {run.state} after {seconds:.0f} s (status {status}): {run.said}", flush=True)


def command_line(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The options, and what is passed on to the scripts."""
    layout = "".join(f"\n  {name + ':':9}{table.layout}" for name, table in TABLES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.published",
        description=__doc__,
        epilog=f"In --data_dir, * stands for anything and a final / for a folder:{layout}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "tables", nargs="+", metavar="TABLE", choices=[*TABLES, "lesson", "all"], help="; ".join(TABLES)
    )
    parser.add_argument("--output_dir", help="default: outputs/published, with --demo outputs/demo/published")
    parser.add_argument("--demo", action="store_true", help="built-in data and tiny models, no network")
    parser.add_argument("--data_dir", metavar="DIR", help="real files, laid out as below, instead of the hub's data")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="every row with each of these")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="rows at a time (default: 1)")
    parser.add_argument(
        "--launcher",
        metavar="COMMAND",
        help="stands before each script instead of python, but for fraud, which is one process",
    )
    parser.add_argument("--dry_run", action="store_true", help="print all commands, finished or not, and run nothing")
    parser.add_argument("--report_only", action="store_true", help="run nothing, write the tables of what is there")
    parser.add_argument("--overwrite_output_dir", action="store_true", help="replace results of other arguments")
    options, extra = parser.parse_known_args(argv)
    if options.jobs < 1:
        raise UserError("--jobs must be 1 or more")
    if extra and not extra[0].startswith("--"):
        raise UserError(f"{extra[0]!r} follows no flag")
    if options.data_dir and not Path(options.data_dir).is_dir():
        raise UserError(f"--data_dir {options.data_dir}: no such folder")
    options.output_dir = options.output_dir or ("outputs/demo/published" if options.demo else "outputs/published")
    options.seeds = list(dict.fromkeys(options.seeds or []))
    return options, extra


def main(argv: list[str] | None = None) -> int:
    """Runs the tables; 1 if a row failed."""
    options, extra = command_line(argv)
    runs, missing = planned(options, extra)
    for sentence in missing:
        print(sentence, file=sys.stderr)
    if not runs:
        raise UserError(f"--data_dir {options.data_dir}: has the files of none of these tables; see --help")
    if options.dry_run:
        for run in runs:
            print(shlex.join(run.command(options.launcher, "python")))
        return 0
    for run in runs:
        run.look()
    with StopRequest() as stop:
        try:
            if not options.report_only:
                with stop.defer():
                    carry_out(runs, options, stop)
        finally:
            shown = [name for name in TABLES if name in options.tables or "all" in options.tables]
            pages = write_outputs(runs, Path(options.output_dir), shown, notes=missing)
            print(terminal_tables(runs, shown))
            print(f"tables: {', '.join(map(str, pages))}")
    if stop.signal_number is not None:
        again = textwrap.shorten(" ".join(sys.argv[1:] if argv is None else argv), 200)
        raise Interrupted(
            f"stopped; the same command goes on: python -m benchmarks.published {again}", stop.signal_number
        )
    return int(any(run.state in ("failed", "other") for run in runs))


if __name__ == "__main__":
    status: list[int] = []
    sys.exit(exit_status(lambda: status.append(main()), "benchmarks.published") or status[0])
