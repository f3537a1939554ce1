"""The house: imports go down, no circle, scripts that one reads in a sitting, nothing that only POSIX has."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.helpers import ROOT

SCRIPTS = sorted(ROOT.glob("run_*.py"))
MODULES = sorted((ROOT / "common").rglob("*.py"))
DOORS = ("text", "speech", "tabular")
FOLDERS = ("metrics", "report", *DOORS, "demo")
POSIX = {"fcntl", "resource", "pwd", "grp", "termios"}
POSIX_CALLS = {"statvfs", "killpg", "getpgid", "fork", "mkfifo"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, *, at_import_only: bool = False) -> set[str]:
    """The modules that a file imports, from functions too unless `at_import_only`."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = tree.body if at_import_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and not _only_for_types(tree, node):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def _only_for_types(tree: ast.Module, node: ast.AST) -> bool:
    return any(
        isinstance(top, ast.If) and "TYPE_CHECKING" in ast.unparse(top.test) and node in top.body for top in tree.body
    )


def folder_of(module: str) -> str:
    """The folder of `common` that a module is in; "" for the ground."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FOLDERS else ""


GRAPH = {name_of(path): {m for m in imports_of(path) if m in {name_of(p) for p in MODULES}} for path in MODULES}


def test_no_module_imports_itself_by_a_detour():
    list(TopologicalSorter(GRAPH).static_order())  # raises CycleError


@pytest.mark.parametrize("module", GRAPH)
def test_imports_go_down(module):
    own = folder_of(module)
    allowed = {
        "metrics": {"metrics"},
        "report": {"report", "metrics", ""},
        "": {"", "report", "metrics"},
        **{door: {door, "", "report", "metrics"} for door in DOORS},
        "demo": {*FOLDERS, ""},
    }[own]
    assert {folder_of(other) for other in GRAPH[module] - {"common"}} <= allowed, GRAPH[module]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_read_in_one_sitting_and_stands_alone(path):
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    assert text.startswith("# /// script\n"), "the header that `uv run` reads"
    assert len(text.partition("# ///\n")[2].splitlines()) <= 300 and main.end_lineno - main.lineno < 75
    assert not [name for name in imports_of(path) if name.startswith(("run_", "benchmarks", "tests"))]
    if path.name != "run_fraud.py":  # Keras reads its settings when it is imported
        inside = [node for node in ast.walk(main) if isinstance(node, ast.Import | ast.ImportFrom)]
        bases = {ast.unparse(base) for node in tree.body if isinstance(node, ast.ClassDef) for base in node.bases}
        assert not inside and bases & {"FinetuneTrainer", "SpeechTrainer"}, "as official examples: the loss in sight"


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=name_of)
def test_nothing_is_used_that_only_posix_has(path):
    at_import = {name.partition(".")[0] for name in imports_of(path, at_import_only=True)}
    assert not at_import & POSIX
    called = {node.attr for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)}
    assert not called & POSIX_CALLS


def test_modules_are_of_one_topic():
    long = {name_of(path): n for path in MODULES if (n := len(path.read_text("utf-8").splitlines())) > 500}
    assert not long
