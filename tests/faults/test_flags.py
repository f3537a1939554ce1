"""Every flag of every script with odd values: it is parsed, or refused in one sentence."""

import contextlib
import importlib
import io
import random
import re

import pytest

from common.errors import UserError
from tests.faults import COUNT
from tests.faults.conftest import SCRIPTS

VALUES = [
    "",
    "0",
    "-1",
    "1e30",
    "-1e-30",
    "nan",
    "9" * 400,
    "wörd 🙂",
    "a,b",
    "[1",
    "{",
    "true",
    "none",
    "\t",
    "/",
    "..",
    "=",
    "'",
]
SHARE = min(1.0, COUNT / 30)  # of all pairs of flag and value


class Parsed(Exception):
    """Raised where a script goes on with its arguments."""


@pytest.fixture
def parse(monkeypatch, tmp_path):
    """(script, argv) -> nothing; raises what the script raises until its arguments are parsed."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, argv: list[str]) -> str:
        script, said = importlib.import_module(name), io.StringIO()
        real = script.parse_arguments

        def parsed(*args, **settings):
            real(*args, **settings)
            raise Parsed

        with monkeypatch.context() as patch, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            patch.setattr(script, "parse_arguments", parsed)
            with contextlib.suppress(Parsed):
                script.main(argv)
        return said.getvalue()

    return run


@pytest.mark.parametrize("name", SCRIPTS)
def test_odd_values_of_every_flag(parse, tmp_path, name):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        importlib.import_module(name).main(["--help_all"])
    flags = sorted(set(re.findall(r"^ +(?:-\w, )?(--\w+)", said.getvalue(), re.M)) - {"--help", "--help_all"})
    assert len(flags) > 40
    pairs = [(flag, value) for flag in flags for value in VALUES]
    wrong = []
    for flag, value in random.Random(name).sample(pairs, max(12, round(SHARE * len(pairs)))):
        for argv in ([f"{flag}={value}"], [flag, value], [flag]):
            try:
                parse(name, argv)
            except UserError as error:
                if "\n" in str(error) or not str(error).strip():
                    wrong.append((argv, str(error)[:300]))
            except BaseException as error:
                wrong.append((argv, f"{type(error).__name__}: {str(error)[:300]}"))
    assert not wrong, "\n".join(map(str, wrong[:60]))
    assert not any(tmp_path.iterdir()), "parsing writes nothing"
