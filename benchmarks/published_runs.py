"""What `benchmarks.published` runs: the rows of the tables as command lines, and whether results stand for one.

Nothing here starts a script or writes a file.
"""

import json
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.published_tables import LESSONS, TABLES, Files, Table
from common.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
DRIVING = ("--output_dir", "--resume_from_checkpoint", "--overwrite_output_dir")  # say nothing about what is computed


@dataclass
class Run:
    """One command line: a row of a table, with one seed.

    `arguments` are the script's, without those that say where it writes. `state`: finished, not run, running, stopped,
    failed, other (there are results, of another command); `said` is the sentence for a state that needs one.
    """

    table: str
    row: str
    seed: int | None
    folder: Path
    arguments: list[str]
    state: str = "not run"
    said: str = ""
    results: dict | None = None

    @property
    def name(self) -> str:
        return f"{self.table}/{self.row}" + ("" if self.seed is None else f"/seed-{self.seed}")

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    def command(self, launcher: str | None, python: str, *, again: bool = False) -> list[str]:
        """What is run, with paths relative to the working directory; `again` replaces what is in the folder."""
        prefix = shlex.split(launcher) if launcher and TABLES[self.table].launched else [python]
        driving = ["--overwrite_output_dir"] if again else ["--resume_from_checkpoint", "auto"]
        script = os.path.relpath(ROOT / TABLES[self.table].script)
        return [*prefix, script, *self.arguments, "--output_dir", str(self.folder), *driving]

    def look(self) -> None:
        """Reads results.json, if there is one, and says whether it stands for this run."""
        path = self.folder / "results.json"
        self.results = None
        if not path.is_file():
            return
        found = json.loads(path.read_text(encoding="utf-8"))
        if same_computation(found["command"][1:], self.arguments):
            self.state, self.said, self.results = "finished", "", found
        else:
            self.state = "other"
            self.said = (
                f"{self.folder}: holds results of other arguments ({shlex.join(found['command'])}); "
                "give --overwrite_output_dir to run it again, or another --output_dir"
            )


def flags_of(arguments: Iterable[str]) -> dict[str, list[str]]:
    """Flag -> its values, without the flags that say where a run writes and where it goes on."""
    found: dict[str, list[str]] = {}
    values: list[str] = []
    for token in arguments:
        if token.startswith("--"):
            name, equals, value = token.partition("=")
            values = found[name.replace("-", "_")] = [value] if equals else []
        else:
            values.append(token)
    return {name: values for name, values in found.items() if name not in {f.replace("-", "_") for f in DRIVING}}


def same_computation(noted: Iterable[str], planned: Iterable[str]) -> bool:
    """Whether two command lines compute the same, in whichever order; a secret is noted as *** and fits any."""
    noted, planned = flags_of(noted), flags_of(planned)
    return noted.keys() == planned.keys() and all(noted[n] in (planned[n], ["***"]) for n in noted)


def found_files(folder: Path, files: Files) -> list[str] | None:
    """The flags for data that lie in `folder` in this way; None where they do not. UserError: it is not clear which."""
    arguments = []
    for flag, pattern in {**files.flags, **files.optional}.items():
        matches = sorted(folder.glob(pattern))
        if len(matches) > 1:
            raise UserError(f"--data_dir {folder}: {pattern} fits {', '.join(path.name for path in matches)}; keep one")
        if not matches and flag in files.flags:
            return None
        arguments += [flag, str(matches[0])] if matches else []
    return [*arguments, *files.arguments]


def data_arguments(folder: Path, table: Table) -> list[str] | None:
    """The flags for the first way in which the table's data lie in `folder`; None: they are not there."""
    return next((found for files in table.files if (found := found_files(folder, files)) is not None), None)


def planned(options, extra: list[str]) -> tuple[list[Run], list[str]]:
    """The runs that were asked for, each once, and a sentence for each table that cannot be run."""
    names = list(TABLES) if "all" in options.tables else [name for name in options.tables if name in TABLES]
    wanted = [(name, row) for name in names for row in TABLES[name].rows]
    if "lesson" in options.tables:
        wanted += [side[:2] for lesson in LESSONS for side in (lesson.leaking, lesson.honest)]
    runs, missing = [], []
    data: dict[str, list[str] | None] = {}
    for name, row_name in dict.fromkeys(wanted):
        table, row = TABLES[name], TABLES[name].rows[row_name]
        if name not in data:
            data[name] = data_arguments(Path(options.data_dir), table) if options.data_dir else []
            if data[name] is None:
                missing.append(f"{name}: skipped, no {table.layout} in {options.data_dir}")
        if data[name] is None:
            continue
        own = row.demo if options.demo and row.demo is not None else row.arguments
        arguments = [*(["--demo"] if options.demo else []), *own, *data[name], *extra]
        for seed in options.seeds or [None]:
            folder = Path(options.output_dir, name, row_name)
            if seed is None:
                runs.append(Run(name, row_name, seed, folder, arguments))
            else:
                runs.append(Run(name, row_name, seed, folder / f"seed-{seed}", [*arguments, "--seed", str(seed)]))
    return runs, missing
