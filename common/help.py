"""--help of every script, printed before the slow imports: what a run does without each flag."""

import dataclasses
import inspect
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from common.errors import quiet_interrupt
from common.training_flags import ALWAYS, CommonTrainingArguments

KINDS = {bool: "[true|false]", int: "N", float: "X"}


def script_of(kind: type) -> Path:
    """The module that defines `kind`; a notebook has no file."""
    return Path(getattr(sys.modules[kind.__module__], "__file__", None) or kind.__name__)


def show_help(
    kind: type,
    argv: Sequence[str] | None = None,
    *,
    recipe: Mapping[str, Any],
    demo: Mapping[str, Any] | None = None,
    variants: Mapping[str, Mapping[Any, Mapping[str, Any]]] | None = None,
    training: type | Literal["transformers"] = "transformers",
    phases: Sequence[str] = ("do_train", "do_eval"),
    **_,
) -> None:
    """With --help or --help_all prints what a run does without each flag, and exits with 0.

    Takes what `parse_arguments` takes, which calls it. A script calls it first, before its slow imports; then it looks
    at the arguments of the process, if that is the script's own, and Ctrl-C is one sentence from then on.
    """
    script = script_of(kind)
    if argv is None and Path(sys.argv[0]).stem == script.stem:
        argv, sys.excepthook = sys.argv[1:], quiet_interrupt
    if not (asked := {"-h", "--help", "--help_all", "--help-all"} & set(argv or ())):
        return
    recipe = {**dict.fromkeys(phases, True), **ALWAYS, **recipe}
    others = {f"--{name} {value}": row for name, cases in (variants or {}).items() for value, row in cases.items()}
    others["--demo"] = demo or {}
    width = min(120, shutil.get_terminal_size().columns)
    sources = [*kind.__mro__[:-2], CommonTrainingArguments if training == "transformers" else training]
    if not {"-h", "--help"} & asked and training == "transformers":
        from transformers import TrainingArguments

        sources.append(TrainingArguments)
    groups, seen = {}, set()
    for group in sources:
        lines = groups.setdefault(getattr(group, "_argument_group_name", group.__name__), [])
        own, hints = inspect.get_annotations(group).keys(), get_type_hints(group)
        for field in (field for field in fields(group) if field.init and field.name in own - seen):
            default = field.default if field.default_factory is MISSING else field.default_factory()
            known = {"default": recipe.get(field.name, default)}
            known |= {other: row[field.name] for other, row in others.items() if field.name in row}
            told = "; ".join(f"{of}: {value}" for of, value in known.items() if value not in (None, "", []))
            text = field.metadata.get("help", "").replace("%%", "%") + f" ({told})" * bool(told)
            lines.append(f"  {', '.join(options_of(field))} {_metavar(hints[field.name])}")
            lines.append(textwrap.fill(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6))
        seen |= own
    groups["training"] = groups.pop("training", [])  # the run's and the trainer's
    head = sys.modules[kind.__module__].__doc__ or ""
    try:
        print(f"usage: {script.name} [arguments.yaml] [--flag value ...]\n\n{head.strip()}")
        for title in (title for title in groups if groups[title]):
            print(f"\n{title}:", *groups[title], sep="\n")
        if sources[-1] is CommonTrainingArguments:
            print("\n--help_all: the other flags of transformers' TrainingArguments, too")
        sys.stdout.flush()
    except BrokenPipeError:  # `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _metavar(hint: Any) -> str:
    """What the help writes after a flag: the choices, or the kind of value."""
    parts = (hint, *get_args(hint))
    choices = next((get_args(part) for part in parts if get_origin(part) is Literal), None)
    kind = next((KINDS[part] for part in parts if part in KINDS), "TEXT")
    return f"{{{','.join(map(str, choices))}}}" if choices else kind + " ..." * (get_origin(hint) is list)


def options_of(field: dataclasses.Field) -> list[str]:
    """The flag's names with underscores; HfArgumentParser adds --no_x to what is true by default."""
    negated = [f"--no_{field.name}"] if field.default is True else []
    aliases = field.metadata.get("aliases", [])
    return [f"--{field.name}", *([aliases] if isinstance(aliases, str) else aliases), *negated]
