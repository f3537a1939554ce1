"""Every script with --demo, one after the other, and one table: `python -m benchmarks.demo`.

The data are synthetic and the models tiny: the table shows that everything runs and learns, nothing about real data.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("run_ser", "run_nli_parsbert", "run_asr", "run_keyword", "run_qa", "run_mnli_lora", "run_fraud")


def run_demo(script: str, output_dir: Path) -> list[str]:
    """Runs one script with --demo; its row of the table: task, metric, baseline, result, seconds."""
    log = output_dir.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, f"{script}.py", "--demo", "--output_dir", str(output_dir), "--overwrite_output_dir"]
    print(f"{' '.join(command[1:])}  (log: {log})", flush=True)
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        status = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT).returncode
    seconds = f"{time.perf_counter() - start:.0f}"
    if status:
        return [script, f"failed with status {status}, see {log}", "", "", seconds]
    results = json.loads((output_dir / "results.json").read_text(encoding="utf-8"))
    head = results["headline"]
    unit = " %" if head["unit"] == "percent" else ""
    baseline = f"{head['baseline']:.2f}{unit} ({head['baseline_name']})"
    interval = f" [{head['low']:.2f}, {head['high']:.2f}]" if head.get("low") is not None else ""
    return [
        results["task"],
        f"{head['split']} {head['metric']}",
        baseline,
        f"{head['value']:.2f}{unit}{interval}",
        seconds,
    ]


def main() -> int:
    """Runs all demos; exit status 1 if one failed."""
    present = [script for script in SCRIPTS if (ROOT / f"{script}.py").is_file()]
    rows = [run_demo(script, Path("outputs/demo") / script) for script in present]
    table = [["task", "metric", "baseline", "result [95 % interval]", "seconds"], *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    print()
    for number, row in enumerate(table):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))
    print("\nSynthetic data and tiny models: this shows that everything runs and learns, nothing about real data.")
    print(f"Reports: {', '.join(f'outputs/demo/{script}/report.html' for script in present)}")
    return int(any("failed" in row[1] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
