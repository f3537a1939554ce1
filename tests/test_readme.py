"""The documentation is true: its commands run, and what it names is there.

The commands about one script run in the order of the texts, in one process and one folder (several processes would
spend most of their time on imports), in front of a stand-in for the hub, for one epoch on a few examples. What cannot
run here stands in a table below with the reason.
"""

import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import standin
from tests.helpers import ROOT
from tests.hub import Hub

DOCS = [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]
TEXTS = ["README.md", *DOCS, "jobs/README.md"]

# Script -> what makes the hub and the files that its commands name.
GROUPS = {
    "run_qa.py": standin.question_answering,
    "run_nli_parsbert.py": standin.persian_inference,
    "run_mnli_lora.py": standin.multi_nli,
    "run_keyword.py": standin.keywords,
    "run_asr.py": standin.recognition,
    "run_ser.py": standin.emotions,
    "run_fraud.py": standin.card_fraud,
}
# How a command begins, or what is in it, that does not run here -> why.
NOT_RUN = {
    "make ": "installs everything, or runs everything, this test included",
    "source ": "the tests have an environment",
    "python -m venv ": "the same",
    ".venv/bin/": "the same",
    "pip install ": "tests/test_package.py builds the wheel",
    "run_qa --demo": "tests/test_package.py runs the command of the wheel",
    "uv run ": "tests/test_package.py compares the headers with requirements.txt",
    "docker ": "needs Docker",
    "export ": "changes a shell",
    "cp ": "copies a file",
    "python run_qa.py --demo": "tests/test_demo_qa.py",
    "python -m docs.run_texts ": "tests/test_new_task.py",
    "python -m common.cache": "tests/test_cache.py",
    "--language_model": "needs a package that is not installed; tests/speech/test_decoding.py",
    "torchrun ": "8 GPUs; two processes: tests/test_launch.py",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun ": "8 processes: tests/faults/test_scale.py",
    "accelerate launch ": "8 GPUs; two processes: tests/test_launch.py",
    "hf jobs ": "tests/test_jobs.py",
    "python -m benchmarks.compare ": "tests/test_compare.py",
}
# The commands that standard input names, each as Python itself would run it as the main program.
RUNNER = """
import json, runpy, shlex, sys
from pathlib import Path

from common.report import plots

def save(figure, path, **_):  # drawing is most of the time of such short runs, and tested elsewhere
    path = Path(path).with_suffix(".svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>')
    return path

plots.save = save
for command in json.load(sys.stdin):
    print("$", shlex.join(command), flush=True)
    status = 0
    try:
        if command[0] == "-c":
            exec(command[1], {})
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
    """The different commands of all texts, in order, without comments."""
    lines = [
        line for name in TEXTS for block in blocks("bash", name) for line in block.replace("\\\n", " ").split("\n")
    ]
    typed = [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines]
    return list(dict.fromkeys(line for line in typed if line))


def reason(command: str) -> str | None:
    """The row of `NOT_RUN` that a command is in."""
    return next((key for key in NOT_RUN if command.startswith(key) or (key[:2] == "--" and key in command)), None)


def test_every_command_is_known():
    """Each runs here or stands in the table, and nothing stands in the table without need."""
    typed = commands()
    assert len(typed) > 30, "or the blocks are not found any more"
    run = [command for command in typed if not reason(command)]
    assert {command.split()[0] for command in run} == {"python"}
    assert {command.split()[1] for command in run} == GROUPS.keys()
    assert {reason(command) for command in typed} - {None} == NOT_RUN.keys()


@pytest.mark.parametrize("script", GROUPS)
def test_the_commands_run(script, tmp_path):
    """One after the other, in one folder; each leaves results where it was told to."""
    here, root = tmp_path / "here", tmp_path / "hub"
    here.mkdir()
    root.mkdir()
    for path in (*ROOT.glob("run_*.py"), ROOT / "common"):
        (here / path.name).symlink_to(path)
    GROUPS[script](root, here)
    lines = [shlex.split(c)[1:] for c in commands() if c.split()[:2] == ["python", script] and not reason(c)]
    asked = {"--do_eval", "--do_predict"}
    quick = ["--num_train_epochs", "1"]
    lines = [line if asked & {*line} else line + quick for line in lines]
    owner = {"run_ser.py": "speech", "run_nli_parsbert.py": "pruning"}.get(script)
    lines += [["-c", block] for name in DOCS for block in blocks("python", name) if owner and f".{owner}" in block]
    with Hub(root) as hub:
        env = hub.environment(tmp_path / "home") | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        env |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", RUNNER]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": 900}
        ran = subprocess.run(command, cwd=here, env=env, input=json.dumps(lines), **pipes)
        assert [path for method, path in hub.requests if method == "CONNECT"] == [], "another host was asked"
    assert ran.returncode == 0, ran.stdout[-4000:]
    for line in lines:
        if "--output_dir" in line:
            folder = here / line[line.index("--output_dir") + 1]
            assert (folder / "results.json").is_file(), (shlex.join(line), ran.stdout[-2000:])


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith(("torchrun", "accelerate"))])
def test_what_does_not_run_is_parsed(monkeypatch, command):
    class Understood(Exception):
        pass

    def reached(*_, **__):
        raise Understood

    words = shlex.split(command)
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        parsed = get_args_parser().parse_args(words[1:])
    else:
        from accelerate.commands.launch import launch_command_parser

        parsed = launch_command_parser().parse_args(words[2:])
    module = importlib.import_module(Path(parsed.training_script).stem)
    monkeypatch.setattr(module, "start_run", reached)
    with pytest.raises(Understood):
        module.main(parsed.training_script_args)


# What the texts name


def in_code(name: str) -> list[str]:
    """What stands in backticks, fenced blocks left out."""
    text = re.sub(r"^ *```.*?^ *```", "", (ROOT / name).read_text("utf-8"), flags=re.M | re.DOTALL)
    return re.findall(r"`([^`]+)`", text)


@pytest.mark.parametrize("name", TEXTS)
def test_files_links_modules_and_targets_are_there(name):
    makefile = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv")
    for said in in_code(name):
        if re.fullmatch(r"(?:run_\w+\.py|(?:common|docs|jobs|benchmarks|tests|notebooks)/[\w./-]*)", said):
            assert any((folder / said).exists() for folder in (ROOT, ROOT / "docs")) or said == "run_mine.py", said
        for target in re.findall(r"^make ([\w./]+)$", said):
            assert re.search(rf"^{re.escape(target)}:", makefile, re.M), said
        for module in re.findall(r"^(?:python -m )?((?:common|benchmarks)(?:\.\w+)+)$", said):
            path = ROOT.joinpath(*module.split("."))
            inside = path.parent.with_suffix(".py")
            found = path.is_dir() or path.with_suffix(".py").is_file()
            assert found or re.search(rf"^(?:def|class) {path.name}\b", inside.read_text("utf-8"), re.M), said
    for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text("utf-8")):
        assert ((ROOT / name).parent / link).exists(), link


def test_flags_exist():
    """Every --flag that the texts name is one of a script, of Trainer, of a launcher, or of another program's."""
    from accelerate.commands.launch import launch_command_parser
    from torch.distributed.run import get_args_parser
    from transformers import TrainingArguments

    known = set(TrainingArguments.__dataclass_fields__) | {"help", "help_all", "array", "build_arg"}
    for parser in (launch_command_parser(), get_args_parser()):
        known |= {option.lstrip("-").replace("-", "_") for option in parser._option_string_actions}
    for path in (*ROOT.glob("run_*.py"), *(ROOT / "common").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")):
        text = path.read_text("utf-8")
        known |= set(re.findall(r"^    (\w+): ", text, re.M)) | set(re.findall(r"\"--(\w+)\"", text))
    for name in TEXTS:
        said = {flag for code in in_code(name) for flag in re.findall(r"(?<![\w-])--([a-z][\w-]*)", code)}
        assert {flag for flag in said if flag.replace("-", "_") not in known and not flag.endswith("_")} == set(), name


def test_the_readme_is_short_and_its_table_is_filled_by_script():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 90
    rows = [line for line in text.splitlines() if line.startswith("| `run_")]
    assert sorted(re.findall(r"`(run_\w+\.py)`", "".join(rows))) == sorted(path.name for path in ROOT.glob("run_*.py"))
