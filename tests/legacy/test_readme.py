"""The documentation is true: its commands run as typed, and what it names is there.

The commands of every ```bash block run in the order of the text, those about one script in one process and one folder
(several processes would spend most of their time on imports), in front of a stand-in for the hub. What cannot run here
stands in a table below with the reason, and then at least its flags are parsed.
"""

import argparse
import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.legacy import standin
from tests.legacy.hub import Hub
from tests.legacy.scripts import ROOT

TEXTS = ("README.md", "benchmarks/README.md", "jobs/README.md")

# Script or module -> what makes the hub and the files that its commands name.
GROUPS = {
    "run_qa.py": standin.question_answering,
    "run_nli_parsbert.py": standin.persian_inference,
    "run_mnli_lora.py": standin.multi_nli,
    "run_keyword.py": standin.keywords,
    "run_asr.py": standin.recognition,
    "run_ser.py": standin.emotions,
    "run_fraud.py": standin.card_fraud,
    "benchmarks.published": standin.benchmark_runs,
    "benchmarks.compare": standin.benchmark_runs,
}
TOGETHER = {"benchmarks.compare": "benchmarks.published"}  # compares what the other has made

# How a command begins that does not run here -> why.
NOT_RUN = {
    "make ": "installs 3.6 GB, or runs everything, this test included",
    "source ": "the tests have an environment",
    "docker ": "needs Docker",
    "git archive ": "needs Docker",
    "torchrun --nproc_per_node 8 ": "8 GPUs; two processes: tests/test_launch.py",
    "accelerate launch ": "8 GPUs; two processes: tests/test_launch.py",
    "sbatch ": "needs SLURM; tests/test_jobs.py runs the files with stand-ins",
    "kubectl ": "needs Kubernetes; tests/test_jobs.py runs the command in the file",
    "sky ": "needs a cloud; tests/test_jobs.py runs the file",
    "python -m benchmarks.qa_speed": "measures for minutes",
    "python -m benchmarks.nli_speed": "measures for minutes",
    "python -m benchmarks.speech_speed": "measures for minutes",
    "python -m benchmarks.fraud_speed": "measures for minutes",
}
# Whole tables on real data or on 8 GPUs: their commands are printed instead.
DRY_RUN = ("benchmarks.published mnli --seeds", "benchmarks.published ser --launcher")

# Runs the commands that standard input names, each as Python itself would run it as the main program.
RUNNER = """
import json, runpy, shlex, sys
from pathlib import Path

from common.legacy import plotting

def save(figure, path):  # drawing is most of the time of such short runs, and tested elsewhere
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"no picture")
    return path

plotting.save = save
for command in json.load(sys.stdin):
    print("$", shlex.join(command), flush=True)
    status = 0
    try:
        if command[0] == "-c":
            exec(command[1], {})
        elif command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        status = end.code
    if status:
        sys.exit(f"status {status}: {shlex.join(command)}")
"""


def blocks(language: str, name: str) -> list[str]:
    """The fenced blocks of a text, where they stand in a list, too."""
    text = (ROOT / name).read_text("utf-8")
    return [found[1] for found in re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, re.M | re.DOTALL)]


def commands() -> list[str]:
    """All commands of all texts, in order, without comments."""
    lines = [
        line for name in TEXTS for block in blocks("bash", name) for line in block.replace("\\\n", " ").split("\n")
    ]
    typed = [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines]
    return [line for line in typed if line]


def begins(command: str) -> str | None:
    return next((prefix for prefix in NOT_RUN if command.startswith(prefix)), None)


def target(command: str) -> str | None:
    """The script or module that `python ...` runs."""
    words = shlex.split(command)
    name = words[2] if words[1:2] == ["-m"] else (words[1:2] or [""])[0]
    return name if words[0] == "python" and name in GROUPS else None


def test_every_command_is_known():
    """Each runs here or stands in the table, and nothing stands in the table without need."""
    typed = commands()
    assert len(typed) > 30, "or the blocks are not found any more"
    assert [command for command in typed if not target(command) and not begins(command)] == []
    assert {target(command) for command in typed} - {None} == GROUPS.keys()
    unused = [words for words in DRY_RUN if not any(words in command for command in typed)]
    assert unused == []


@pytest.mark.parametrize("name", [name for name in GROUPS if name not in TOGETHER])
def test_the_commands_run(name, tmp_path):
    """As typed, one after the other, in one folder; each leaves results where it was told to."""
    here, root = tmp_path / "here", tmp_path / "hub"
    here.mkdir()
    root.mkdir()
    for path in ROOT.iterdir():
        if path.suffix == ".py" or path.name in ("common", "benchmarks"):
            (here / path.name).symlink_to(path)
    GROUPS[name](root, here)
    typed = [command for command in commands() if name in (target(command), TOGETHER.get(target(command)))]
    typed = list(dict.fromkeys(typed))
    lines = [shlex.split(f"{c} --dry_run" if any(words in c for words in DRY_RUN) else c)[1:] for c in typed]
    if name == "run_ser.py":  # the text loads what run_ser.py saves
        lines += [["-c", block] for text in TEXTS for block in blocks("python", text)]
    with Hub(root) as hub:
        env = hub.environment(tmp_path / "home") | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        env |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
        ran = subprocess.run(
            [sys.executable, "-c", RUNNER],
            cwd=here,
            env=env,
            input=json.dumps(lines),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        assert [path for method, path in hub.requests if method == "CONNECT"] == [], "another host was asked"
    assert ran.returncode == 0, ran.stdout[-4000:]
    for line in lines:
        if "--output_dir" in line:
            folder = here / line[line.index("--output_dir") + 1]
            whole = "data.json" if "--data_only" in line else "results.json"
            assert (folder / whole).is_file(), (shlex.join(line), ran.stdout[-2000:])


# What does not run here


class Understood(Exception):
    """Everything was parsed."""


def parse_script(monkeypatch, script: str, flags: list[str]) -> None:
    def reached(*_, **__):
        raise Understood

    module = importlib.import_module(Path(script).stem)
    monkeypatch.setattr(module, "prepare_output_dir", reached)
    with pytest.raises(Understood):
        module.main([*flags, "--use_cpu"])


def parse_module(monkeypatch, name: str, flags: list[str]) -> None:
    parse = argparse.ArgumentParser.parse_args

    def reached(parser, *arguments):
        parse(parser, *arguments)
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", reached)
    with pytest.raises(Understood):
        importlib.import_module(name).main(flags)


def launched(words: list[str]) -> tuple[str, list[str]]:
    """Script and flags of a launcher's command, which the launcher itself has parsed."""
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        parsed = get_args_parser().parse_args(words[1:])
    else:
        from accelerate.commands.launch import launch_command_parser

        parsed = launch_command_parser().parse_args(words[2:])
    return parsed.training_script, parsed.training_script_args


@pytest.mark.parametrize("command", dict.fromkeys(command for command in commands() if begins(command)))
def test_what_does_not_run_is_parsed(monkeypatch, command):
    words = shlex.split(command)
    if words[0] in ("torchrun", "accelerate"):
        parse_script(monkeypatch, *launched(words))
    elif words[0] == "python":
        parse_module(monkeypatch, words[2], words[3:])
    elif words[0] == "make":
        check_target(words[1])
    else:
        subprocess.run(["bash", "-n"], input=command, text=True, check=True)


def check_target(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv")
    assert re.search(rf"^{re.escape(name)}:", makefile, re.M), name


# What the texts name


def in_code(name: str) -> list[str]:
    """What stands in backticks or is linked, fenced blocks left out."""
    text = re.sub(r"^ *```.*?^ *```", "", (ROOT / name).read_text("utf-8"), flags=re.M | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text) + re.findall(r"\]\(([^)#]+)\)", text)


@pytest.mark.parametrize("name", TEXTS)
def test_files_and_targets_are_there(name):
    for said in in_code(name):
        if re.fullmatch(r"run_\w+\.py|(?:common|docs|jobs|benchmarks|tests)/[\w./-]*", said):
            assert (ROOT / said).exists(), said
        elif found := re.fullmatch(r"make (\w+)", said):
            check_target(found[1])
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text("utf-8"))
    for link in links:
        assert ((ROOT / name).parent / link).exists(), link
    assert links or name != "README.md"


@pytest.mark.parametrize("name", TEXTS)
def test_modules_and_their_parts_are_there(name):
    for said in in_code(name):
        for module, part in re.findall(r"\b((?:common|benchmarks)(?:\.[a-z_]+)+)(\([a-z])?", said):
            names = module.split(".")
            folder = ROOT.joinpath(*names[:-1])
            if (folder / f"{names[-1]}.py").is_file() or (folder / names[-1] / "__init__.py").is_file():
                continue
            assert f"\ndef {names[-1]}(" in folder.with_suffix(".py").read_text("utf-8"), (module, part)


def test_every_module_of_common_has_its_line():
    """In the table of README.md, once each, and nothing that is not there."""
    text = (ROOT / "README.md").read_text("utf-8")
    (rows,) = re.findall(r"^\| module \| topic \|\n\|---\|---\|\n((?:\|.*\n)+)", text, re.M)
    listed = [name for row in rows.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    there = {
        path.stem for path in (ROOT / "common").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert sorted(listed) == sorted(there - {"__init__"})


def sources() -> list[Path]:
    return [*ROOT.glob("run_*.py"), *(ROOT / "common").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]


def test_flags_exist():
    """Every --flag that the texts name is one of a script, of Trainer, or of a launcher."""
    from accelerate.commands.launch import launch_command_parser
    from torch.distributed.run import get_args_parser
    from transformers import TrainingArguments

    known = set(TrainingArguments.__dataclass_fields__) | {"help"}
    for parser in (launch_command_parser(), get_args_parser()):
        known |= {option.lstrip("-").replace("-", "_") for option in parser._option_string_actions}
    for path in sources():
        text = path.read_text("utf-8")
        known |= set(re.findall(r"^    (\w+): ", text, re.M)) | set(re.findall(r"\"--(\w+)\"", text))
    for name in TEXTS:
        said = {flag for code in in_code(name) for flag in re.findall(r"(?<![\w-])--([a-z]\w*)", code)}
        assert said - known == set(), name


def sentences() -> str:
    """All strings of the code, with ... where something is filled in."""
    found = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_the_sentences_are_what_the_scripts_say():
    text = (ROOT / "README.md").read_text("utf-8")
    (rows,) = re.findall(r"^\| the sentence \| what to do \|\n\|---\|---\|\n((?:\|.*\n)+)", text, re.M)
    said, code = [row.split("`")[1] for row in rows.splitlines()], sentences()
    assert len(said) >= 8
    for sentence in said:
        pattern = ".*".join(re.escape(part) for part in sentence.split("..."))
        assert re.search(pattern, code), sentence


@pytest.mark.parametrize("name", ["report", "table"])
def test_pictures_are_small(name):
    path = ROOT / "docs" / f"{name}.png"
    assert path.read_bytes().startswith(b"\x89PNG") and os.path.getsize(path) < 200_000
    assert f"docs/{name}.png" in (ROOT / "README.md").read_text("utf-8")
