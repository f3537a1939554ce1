"""What a new release of the libraries would break, before users meet it: `make upgrade-check`.

Makes .venv-upgrade with the newest releases of `FREE` and everything else as pinned, runs the tests in it, and says
which files of ours the failures lead to. `--dry_run` only asks pip whether such an environment can be made.
"""

import argparse
import re
import subprocess
import sys
import xml.etree.ElementTree
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-upgrade"
# Those that are tried, and what they bring in versions of their own. torch stays: another one pulls gigabytes.
FREE = {"transformers", "datasets", "peft", "tensorflow", "tensorflow-cpu", "accelerate", "evaluate", "huggingface-hub"}
OURS = re.compile(r"^(?:.*/)?((?:common|benchmarks|tests)/[\w/]+\.py|run_\w+\.py):(\d+)", re.MULTILINE)


def relaxed(text: str) -> str:
    """The lines of a requirements file, those of `FREE` without their version."""
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", "-r"))]
    free = [re.split("[=; ]", line)[0] in FREE for line in lines]
    return "\n".join(re.sub(r"==[^ ;]+", "", line) if newest else line for line, newest in zip(lines, free))


def concerned(report: Path) -> dict[str, list[str]]:
    """File of ours -> the tests that failed in it, from pytest's junit file: the last of our lines in a traceback."""
    found = defaultdict(list)
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        for problem in (*case.findall("failure"), *case.findall("error")):
            places = OURS.findall(problem.text or "")
            product = [place for place in places if not place[0].startswith("tests/")] or places or [("unknown", "")]
            reason = (problem.get("message") or "").splitlines()[:1]
            name = f"{case.get('classname')}::{case.get('name')}"
            found[":".join(product[-1]).rstrip(":")].append(f"{name}: {(reason or [''])[0][:160]}")
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def main(argv: list[str] | None = None) -> int:
    """The exit status: 0 if all tests pass, 1 if some fail; pip's own where it fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry_run", action="store_true", help="ask pip alone, and install nothing")
    options = parser.parse_args(argv)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(FOLDER)], check=True)
    wanted, python = FOLDER / "wanted.txt", str(FOLDER / "bin" / "python")
    wanted.write_text("\n".join(relaxed((ROOT / f"requirements{end}.txt").read_text()) for end in ("", "-dev")) + "\n")
    how = ["--dry-run"] if options.dry_run else ["--quiet"]
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", *how, "-r", str(wanted)]
    status = subprocess.run(pip).returncode
    if status or options.dry_run:
        return status
    frozen = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    names = {line: line.split("==")[0].replace("_", "-") for line in frozen.splitlines()}
    print("newest:", *(line for line, name in names.items() if name in {*FREE, "keras"}))
    report = FOLDER / "report.xml"
    pytest = [python, "-m", "pytest", "-n", "2", "--dist", "worksteal", "--tb", "short", f"--junitxml={report}"]
    status = subprocess.run([*pytest, "-p", "no:cacheprovider"], cwd=ROOT).returncode
    for file, tests in concerned(report).items():
        print(f"\n{file}: {len(tests)} tests fail", *tests[:5], sep="\n  ")
    return status


if __name__ == "__main__":
    sys.exit(main())
