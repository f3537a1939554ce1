"""The command line of every script: dataclasses to flags, their values from all sources, and the help.

A value comes from the command line, else the file of arguments, else the demo (with --demo), else the recipe, else the
default; `Parsed.record` says which. What the flags mean for data, models and training is not decided here.
"""

import argparse
import dataclasses
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from common.legacy.argument_file import as_tokens, read_file
from common.legacy.errors import UserError
from common.legacy.spellings import DROPPED, Spelling, translate

SECRETS = {"token", "hub_token", "push_to_hub_token", "use_auth_token"}
PHASES = ("do_train", "do_eval", "do_predict")
SAMPLING_STRATEGIES = ("random", "sequential", "group_by_length")


def flag(default: Any, help: str, *aliases: str) -> Any:
    """A dataclass field that becomes `--name`, with one line of help and further spellings such as "--dataset_name"."""
    return dataclasses.field(default=default, metadata={"help": help, "aliases": list(aliases)})


@dataclass
class ModelArguments:
    """The model to start from, and how the hub is asked for it."""

    _argument_group_name = "model"

    model: str | None = flag(None, "hub id or local folder of the model to start from", "--model_name_or_path")
    config_name: str | None = flag(None, "hub id or folder of the configuration; unset = the model's own")
    tokenizer_name: str | None = flag(None, "hub id or folder of the tokenizer or processor; unset = the model's own")
    model_revision: str = flag("main", "branch, tag or commit of the model")
    token: str | None = flag(None, "access token for private models and data; unset = the one of `hf auth login`")
    cache_dir: str | None = flag(None, "folder for downloads and prepared data; unset = each library's own cache")
    trust_remote_code: bool = flag(False, "known from official commands; true is refused, remote code is never run")

    def __post_init__(self):
        if self.trust_remote_code:
            raise UserError("--trust_remote_code is refused: code from the hub is never run here; leave the flag out")


@dataclass
class SourceArguments:
    """Where the data come from, how much of them is used, and what happens to earlier results."""

    _argument_group_name = "data"

    demo: bool = flag(False, "built-in synthetic data and a tiny model: no network, done in seconds")
    dataset: str | None = flag(None, "hub id of the data; files, where given, are used instead", "--dataset_name")
    dataset_config: str | None = flag(
        None, "configuration of the hub data; unset = the only one", "--dataset_config_name"
    )
    dataset_revision: str | None = flag(None, "branch, tag or commit of the hub data; unset = its main branch")
    train_file: str | None = flag(None, "your own training data, in a form named above")
    validation_file: str | None = flag(None, "your own validation data")
    test_file: str | None = flag(
        None, "your own test data; given, it is predicted too, unless other phases are asked for"
    )
    max_train_samples: int | None = flag(None, "training examples to use; unset or negative = all")
    max_eval_samples: int | None = flag(
        None, "validation examples to use; unset or negative = all", "--max_validation_samples"
    )
    max_predict_samples: int | None = flag(None, "test examples to use; unset or negative = all", "--max_test_samples")
    sample_seed: int = flag(42, "which examples a max_* flag picks; apart from --seed, so that seeds share examples")
    on_bad_example: Literal["stop", "skip"] = flag("stop", "a broken example ends the run, or is left out and counted")
    overwrite_output_dir: bool = flag(False, "replace an earlier run's results; its checkpoints are removed")

    def __post_init__(self):
        for name in ("max_train_samples", "max_eval_samples", "max_predict_samples"):
            count = getattr(self, name)
            if count == 0:
                raise UserError(f"--{name} 0 leaves no example; give a positive number, or -1 for all of them")
            if count is not None and count < 0:
                setattr(self, name, None)


@dataclass
class DataArguments(SourceArguments):
    """The data, and how they are prepared once for all epochs."""

    preprocessing_num_workers: int | None = flag(None, "threads or processes for preprocessing; unset = all cores")
    overwrite_cache: bool = flag(False, "preprocess again instead of using cached results")

    def __post_init__(self):
        super().__post_init__()
        if self.preprocessing_num_workers is not None and self.preprocessing_num_workers < 1:
            raise UserError("--preprocessing_num_workers must be 1 or more")


@dataclass
class Parsed:
    """What `parse_arguments` returns.

    groups: an instance of each dataclass, training last. record: name -> {"value", "source"}, ready for JSON.
    explicit: names given on the command line or in the file. command: script and argv as given.
    Secrets are masked in record and command.
    """

    groups: tuple
    record: dict[str, dict[str, Any]]
    explicit: set[str]
    command: list[str]

    def settle(self, source: str, **values: Any) -> None:
        """Sets what nobody has chosen: neither the command line nor a file nor the demo. `source` says who does now."""
        for name, value in values.items():
            group = next(group for group in self.groups if hasattr(group, name))
            if name not in self.explicit and self.record[name]["source"] != "demo":
                setattr(group, name, value)
                self.record[name] = {"value": _json_safe(value), "source": source}


def parse_arguments(
    groups: Iterable[type],
    argv: Sequence[str] | None = None,
    *,
    recipe: Mapping[str, Any],
    demo: Mapping[str, Any] | None = None,
    description: str,
    spellings: Mapping[str, str | Spelling] | None = None,
    training: type | Literal["transformers"] = "transformers",
    phases: Sequence[str] = ("do_train", "do_eval"),
) -> Parsed:
    """Parses a script's command line; --help prints and exits with 0.

    groups: the script's dataclasses; every field has a default, and no name occurs twice. training: the last group,
        transformers' TrainingArguments or a dataclass of the script's own (then torch is not imported).
    argv: flags, optionally after one .yaml or .json file of arguments; None = sys.argv[1:].
    phases: what the script does when no phase is asked for; a test file is predicted, too.
    recipe, demo: field name -> value. spellings: older flag -> today's, beside `DROPPED`.
    Raises UserError with one sentence for what the user got wrong, KeyError for a recipe or demo of unknown names.
    """
    argv = [str(token) for token in (sys.argv[1:] if argv is None else argv)]
    # Not sys.argv[0]: tests and the benchmark runner call a script's main(argv) from another program.
    script = Path(sys._getframe(1).f_globals.get("__file__") or sys.argv[0]).name
    own_groups, demo = tuple(groups), demo or {}
    if {"-h", "--help"} & set(argv):
        usage = f"usage: {script} [arguments.yaml] [--flag value ...]"
        _print_help(f"{usage}\n\n{description.strip()}", own_groups, training, recipe, demo)
        sys.exit(0)
    file = argv[0] if argv and argv[0].lower().endswith((".yaml", ".yml", ".json")) else None
    from_file = read_file(file) if file else {}

    from transformers.hf_argparser import HfArgumentParser

    rows = dict(spellings or {})
    on_transformers = training == "transformers"
    if on_transformers:
        from transformers import TrainingArguments as training

        rows = DROPPED | rows
    all_groups = (*own_groups, training)
    names = {field.name for group in all_groups for field in fields(group)}
    if unknown := (recipe.keys() | demo.keys()) - names:
        raise KeyError(f"the recipe or the demo sets {sorted(unknown)}, which no group of arguments has")

    parser = HfArgumentParser(all_groups, allow_abbrev=False, add_help=False, exit_on_error=False)
    known = {option for group in all_groups for field in fields(group) for option in _options(field)}
    given_in_file: dict[str, Any] = {}
    hints = {name: hint for group in all_groups for name, hint in get_type_hints(group).items()}
    for key, value in from_file.items():
        tokens = as_tokens(file, key, value, known | rows.keys(), hints)
        given_in_file |= _parse(parser, names, translate(tokens, rows, known, f"{file}: "), f"{file}: ")
    given = _parse(parser, names, translate(argv[1:] if file else argv, rows, known))

    layers = {"recipe": recipe, "demo": {}, f"file {Path(file or '').name}": given_in_file, "command line": given}
    if {**given_in_file, **given}.get("demo"):
        layers["demo"] = demo
    values = {name: value for layer in layers.values() for name, value in layer.items()}
    sources = {name: source for source, layer in layers.items() for name in layer}
    explicit = given_in_file.keys() | given.keys()

    def derive(name: str, value: Any) -> None:
        if name in names and name not in explicit:
            values[name], sources[name] = value, "derived"

    if not any(values.get(phase) for phase in PHASES):
        for phase in phases:
            derive(phase, True)
        if values.get("test_file") is not None:
            derive("do_predict", True)
    if on_transformers:
        _settle_training(values, explicit, derive)
    instances = tuple(_build(group, values, group is training and on_transformers) for group in all_groups)

    record = {}
    for group in instances:
        default = "library default" if group is instances[-1] and on_transformers else "script default"
        for name in (field.name for field in fields(group)):
            value = getattr(group, name)
            shown = "***" if name in SECRETS and value else _json_safe(value)
            record[name] = {"value": shown, "source": sources.get(name, default)}
    return Parsed(instances, record, set(explicit), [script, *_masked(argv)])


def _settle_training(values: dict[str, Any], explicit: set[str], derive: Callable[[str, Any], None]) -> None:
    """Refuses what TrainingArguments would accept in silence, and sets what follows from the phases and the machine."""
    import torch

    strategy = values.get("train_sampling_strategy", "random")
    if strategy not in SAMPLING_STRATEGIES:
        choices = ", ".join(SAMPLING_STRATEGIES)
        raise UserError(f"--train_sampling_strategy {strategy} is not supported here; choose one of {choices}")
    on_cpu = values.get("use_cpu", False)
    if values.get("fp16") and (on_cpu or not torch.accelerator.is_available()):
        raise UserError("--fp16 needs a GPU; on a CPU leave it out, or use --bf16 --use_cpu")

    keeps_best = "load_best_model_at_end" in explicit and values["load_best_model_at_end"]
    if not (values.get("do_train") and values.get("do_eval")) and not keeps_best:
        derive("load_best_model_at_end", False)
        derive("eval_strategy", "no")
        if not values.get("do_train"):
            derive("save_strategy", "no")
    if values.get("load_best_model_at_end"):
        _align_strategies(values, explicit, derive)
    if on_cpu or not torch.cuda.is_available():
        derive("dataloader_pin_memory", False)
    if "ddp_find_unused_parameters" not in values:
        derive("ddp_find_unused_parameters", False)


def _align_strategies(values: dict[str, Any], explicit: set[str], derive: Callable[[str, Any], None]) -> None:
    """Keeping the best model needs equal evaluation and save strategies: the one not given follows the one given."""
    evaluates, saves = values.get("eval_strategy", "no"), values.get("save_strategy", "steps")
    if "best" in (evaluates, saves) or evaluates == saves:
        return
    if "no" in (evaluates, saves):
        derive("load_best_model_at_end", False)  # asked for all the same, it is refused by TrainingArguments
        return
    leader, follower = ("save", "eval") if "save_strategy" in explicit else ("eval", "save")
    derive(f"{follower}_strategy", saves if leader == "save" else evaluates)
    if f"{leader}_steps" in values:
        derive(f"{follower}_steps", values[f"{leader}_steps"])


def _build(group: type, values: Mapping[str, Any], is_library: bool) -> Any:
    chosen = {field.name: values[field.name] for field in fields(group) if field.name in values}
    if not is_library:
        return group(**chosen)
    try:
        instance = group(**chosen)
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise UserError(f"the training flags are refused: {' '.join(str(error).split())}") from error
    for phase in PHASES:  # TrainingArguments turns do_eval on by itself when an eval_strategy is set
        setattr(instance, phase, bool(values.get(phase)))
    return instance


def _options(field: dataclasses.Field) -> list[str]:
    """The flag's spellings with underscores, today's first; HfArgumentParser adds --no_x to what is true by default."""
    negated = [f"--no_{field.name}"] if field.default is True else []
    aliases = field.metadata.get("aliases", [])
    return [f"--{field.name}", *([aliases] if isinstance(aliases, str) else aliases), *negated]


def _parse(parser: argparse.ArgumentParser, names: Iterable[str], tokens: list[str], where: str = "") -> dict[str, Any]:
    """What the tokens give, and nothing else: no defaults."""
    not_given = argparse.Namespace(**dict.fromkeys(names, dataclasses.MISSING))
    try:
        namespace, extra = parser.parse_known_args(tokens, not_given)
    except argparse.ArgumentError as error:
        name = (error.argument_name or "").split("/")[0]
        raise UserError(f"{where}{name.removeprefix('--') if where else name}: {error.message}") from None
    if extra and where:
        raise UserError(f"{where}{tokens[0].removeprefix('--')}: takes one value, not a list")
    if extra and extra[0].startswith("-"):
        raise UserError(f"unknown flag {extra[0]}; --help lists all flags")
    if extra:
        raise UserError(
            f"{extra[0]!r} follows no flag; only a .yaml or .json file of arguments may, and it comes first"
        )
    return {name: value for name, value in vars(namespace).items() if value is not dataclasses.MISSING}


def _masked(argv: list[str]) -> list[str]:
    shown, follows_secret = [], False
    for token in argv:
        name, equals, _ = token.partition("=")
        is_secret = name.startswith("--") and name[2:].replace("-", "_") in SECRETS
        if is_secret and equals:
            token = f"{name}=***"
        elif follows_secret and not token.startswith("--"):
            token = "***"
        shown.append(token)
        follows_secret = is_secret and not equals
    return shown


def _json_safe(value: Any) -> Any:
    if isinstance(value, Enum):
        return _json_safe(value.value)
    if isinstance(value, Mapping):
        return {str(key): _json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_json_safe(item) for item in value]
    if hasattr(value, "to_dict"):
        return _json_safe(value.to_dict())
    finite = not isinstance(value, float) or abs(value) < float("inf")
    return value if finite and isinstance(value, str | int | float | None) else str(value)


def _print_help(head: str, groups: Iterable[type], training: Any, recipe: Mapping, demo: Mapping) -> None:
    try:
        print(head)
        for group in groups:
            _print_group(group, recipe, demo)
        sys.stdout.flush()  # the script's own flags are there at once; the import below takes seconds
        if training == "transformers":
            from transformers import TrainingArguments as training
        _print_group(training, recipe, demo)
        sys.stdout.flush()
    except BrokenPipeError:  # `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_group(group: type, recipe: Mapping[str, Any], demo: Mapping[str, Any]) -> None:
    width = min(120, shutil.get_terminal_size().columns)
    print(f"\n{getattr(group, '_argument_group_name', 'training (of transformers)')}:")
    hints = get_type_hints(group)
    for field in fields(group):
        has_factory = field.default_factory is not dataclasses.MISSING
        default = recipe.get(field.name, field.default_factory() if has_factory else field.default)
        known = [f"default: {_json_safe(default)}"] if default not in (None, "", []) else []
        known += [f"--demo: {_json_safe(demo[field.name])}"] if field.name in demo else []
        text = field.metadata.get("help", "").replace("%%", "%") + (f" ({'; '.join(known)})" if known else "")
        print(f"  {', '.join(_options(field))} {_metavar(field, hints[field.name])}")
        print(textwrap.fill(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6))


def _metavar(field: dataclasses.Field, hint: Any) -> str:
    """What the help writes after a flag: the choices, or the kind of value."""
    union = get_origin(hint) in (Union, UnionType)
    kind = next(kind for kind in (get_args(hint) if union else [hint]) if kind is not type(None))
    choices = field.metadata.get("choices") or (get_args(kind) if get_origin(kind) is Literal else ())
    if isinstance(kind, type) and issubclass(kind, Enum):
        choices = [member.value for member in kind]
    if choices:
        return "{" + ",".join(map(str, choices)) + "}"
    kind = get_origin(kind) or kind
    return {bool: "[true|false]", int: "N", float: "X", list: "TEXT ...", dict: "JSON"}.get(kind, "TEXT")
