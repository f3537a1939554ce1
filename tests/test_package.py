"""Every way to start without this folder's own environment: the wheel and its commands, uv's headers, the notebooks."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.helpers import ROOT, plain

SCRIPTS = sorted(path.stem for path in ROOT.glob("run_*.py"))
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
HEADER = re.compile(r"^# /// script\n((?:# .*\n)+?)# ///\n")
PACKAGE = ("pyproject.toml", "requirements.txt", "README.md", "LICENSE", "common")


def pins() -> set[str]:
    """The lines of requirements.txt, as headers have them."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return {line.replace(" ; ", "; ").replace('"', "'") for line in lines if line and not line.startswith("#")}


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel unpacked; built from a copy, as the build leaves folders behind."""
    folder = tmp_path_factory.mktemp("package")
    for path in (*map(ROOT.joinpath, PACKAGE), *ROOT.glob("run_*.py")):
        ignored = shutil.ignore_patterns("__pycache__", "legacy")
        shutil.copytree(path, folder / path.name, ignore=ignored) if path.is_dir() else shutil.copy(path, folder)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "."]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if "setuptools" in built.stderr and "No module named" in built.stderr:
        pytest.skip("setuptools is not installed")
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_everything_is_in_one_package(wheel):
    names = {path.relative_to(wheel).as_posix() for path in wheel.rglob("*") if path.is_file()}
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"finetuning_scripts"}
    here = {path.relative_to(ROOT) for path in (ROOT / "common").rglob("*") if path.is_file()}
    kept = {p.as_posix() for p in here if not {"__pycache__", "legacy"} & {*p.parts} and p.suffix != ".pyc"}
    kept |= {f"{script}.py" for script in SCRIPTS}
    assert {f"finetuning_scripts/{name}" for name in kept} <= names
    assert "finetuning_scripts/common/report/page.html" in names
    assert "finetuning_scripts/common/results.schema.json" in names


def test_each_script_is_a_command(wheel):
    """The entry points, in a folder elsewhere, with the wheel alone on the path; another `common` is not in the way."""
    (entries,) = wheel.glob("*.dist-info/entry_points.txt")
    commands = dict(re.findall(r"^(\w+) = finetuning_scripts\.common\.commands:(\w+)$", entries.read_text(), re.M))
    assert commands == {script: script for script in SCRIPTS}
    elsewhere = wheel.parent / "elsewhere"
    (elsewhere / "common").mkdir(parents=True)
    (elsewhere / "common" / "__init__.py").write_text("raise ImportError('the wrong one')")
    for script in SCRIPTS:
        code = f"import sys; sys.argv = ['{script}', '--help']; from finetuning_scripts.common.commands import {script}"
        environment = plain(elsewhere) | {"PYTHONPATH": str(wheel)}
        command = [sys.executable, "-c", f"{code}; sys.exit({script}())"]
        ran = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0 and ran.stdout.startswith(f"usage: {script}"), ran.stderr


def test_the_wheel_needs_what_the_requirements_say(wheel):
    (metadata,) = wheel.glob("*.dist-info/METADATA")
    needed = re.findall(r"^Requires-Dist: (.*)$", metadata.read_text(), re.M)
    assert {re.sub(r"[ '\"]", "", line) for line in needed} == {re.sub(r"[ '\"]", "", pin) for pin in pins()}


# uv


@pytest.mark.parametrize("script", SCRIPTS)
def test_uv_gets_the_versions_of_the_requirements(script):
    header = HEADER.match((ROOT / f"{script}.py").read_text("utf-8"))
    content = tomllib.loads(re.sub(r"^# ?", "", header[1], flags=re.M))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert content["requires-python"] == project["requires-python"]
    needed = {*content["dependencies"]}
    assert needed <= pins()
    own = {"run_fraud": "tensorflow"}.get(script, "torch")
    assert any(line.startswith(f"{own}==") for line in needed) and not (
        script == "run_fraud" and "torch" in str(needed)
    )


# Notebooks


def code_of(name: str) -> list[str]:
    """The code cells of a notebook as plain Python: lines that begin with ! go to a shell, as in IPython."""
    cells = json.loads((ROOT / "notebooks" / name).read_text("utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return [re.sub(r"^( *)!(.*)$", r"\1shell(f'''\2''')", text, flags=re.M) for text in code]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_whole(name):
    content = json.loads((ROOT / "notebooks" / name).read_text("utf-8"))
    assert content["nbformat"] == 4 and len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in content["cells"])
    for text in code_of(name):
        compile(text, name, "exec")


SHORT = {
    "text.ipynb": "--max_steps 2 --max_train_samples 64 --max_eval_samples 16",
    "speech.ipynb": "--max_steps 2 --max_train_samples 32",
    "tables.ipynb": "--num_train_epochs 1 --max_train_samples 2000 --baselines false",
}
# The scripts run in this process, which saves the imports of another one.
RUN = """
import json, runpy, shlex, sys

def shell(command):
    print("$", command, flush=True)
    python, *sys.argv = shlex.split(command)
    assert python == sys.executable
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, end.code

space = {"shell": shell}
for text in json.load(sys.stdin):
    exec(text, space)
"""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name != "text.ipynb" else ()) for name in NOTEBOOKS]
)
def test_a_notebook_runs_top_to_bottom(name, tmp_path):
    for path in (*ROOT.glob("run_*.py"), ROOT / "common"):
        (tmp_path / path.name).symlink_to(path)
    environment = plain(tmp_path / "home") | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    environment |= {"SMALL": SHORT[name], "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    settings = {"cwd": tmp_path, "env": environment, "input": json.dumps(code_of(name)), "text": True}
    ran = subprocess.run([sys.executable, "-c", RUN], capture_output=True, timeout=600, **settings)
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-4000:]
    results = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/*/results.json")]
    assert len(results) == 3, "demo, own data, predictions"
