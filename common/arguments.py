"""The command line of every script: dataclasses to flags, their values from all sources, and the help.

A value comes from the command line, else the file of arguments, else the demo (with --demo), else what another flag's
value decides (`variants`), else the recipe, else the default; `record` says which.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from common.errors import UserError, without_secrets
from common.help import options_of, script_of, show_help
from common.legacy_flags import DROPPED, Row, translate
from common.training_flags import PHASES, Values, check_ranges, flag, training_arguments

T = TypeVar("T", bound="Arguments")
SECRETS = {"token", "hub_token", "push_to_hub_token", "use_auth_token"}
FILES = (".yaml", ".yml", ".json")  # of arguments
LIMITS = {"train_file": "max_train_samples", "validation_file": "max_eval_samples", "test_file": "max_predict_samples"}


class Arguments:
    """What every script's arguments have besides its flags.

    training_args: TrainingArguments, or the script's own dataclass. record: name -> {"value", "source"}, for JSON.
    explicit: names given on the command line or in the file. command: script and argv. Secrets are masked in both.
    """

    training_args: Any
    record: dict[str, dict[str, Any]]
    explicit: set[str]
    command: list[str]

    def __post_init__(self):
        """Each dataclass checks its values in its own `__post_init__`, and calls the next one's."""

    def set(self, source: str, **values: Any) -> None:
        """Sets what neither the command line nor a file nor the demo has chosen; `source` says who does now."""
        for name, value in values.items():
            if name not in self.explicit and self.record[name]["source"] != "demo":
                setattr(self if hasattr(self, name) else self.training_args, name, value)
                self.record[name] = {"value": _plain(value), "source": source}


@dataclass
class ModelArguments(Arguments):
    """The model to start from, and how the hub is asked for it."""

    _argument_group_name = "model"

    model: str | None = flag(None, "hub id or local folder of the model to start from", "--model_name_or_path")
    config_name: str | None = flag(None, "hub id or folder of the configuration; unset: the model's own")
    tokenizer_name: str | None = flag(None, "hub id or folder of the tokenizer or processor; unset: the model's own")
    model_revision: str = flag("main", "branch, tag or commit of the model")
    token: str | None = flag(None, "access token for private models and data; unset: the one of `hf auth login`")
    cache_dir: str | None = flag(None, "folder for downloads and prepared data; unset: each library's own cache")
    trust_remote_code: bool = flag(False, "run code that comes with a model from the hub, with your rights")


@dataclass
class DataArguments(Arguments):
    """Where the data come from, how much of them is used, and how they are prepared."""

    _argument_group_name = "data"

    demo: bool = flag(False, "built-in synthetic data and a tiny model: no network, done in seconds")
    dataset: str | None = flag(None, "hub id of the data; files, where given, are used instead", "--dataset_name")
    dataset_config: str | None = flag(None, "configuration of the data; unset: the only one", "--dataset_config_name")
    dataset_revision: str | None = flag(None, "branch, tag or commit of the dataset; unset: its main branch")
    train_file: list[str] = flag([], "your own training data: files, patterns such as data/*.csv, URLs")
    validation_file: list[str] = flag([], "your own validation data")
    test_file: list[str] = flag([], "your own test data")
    max_train_samples: int | None = flag(None, "training examples to use; unset, or own data: all")
    max_eval_samples: int | None = flag(None, "of validation; unset, or own data: all", "--max_validation_samples")
    max_predict_samples: int | None = flag(None, "of test; unset, or own data: all", "--max_test_samples")
    sample_seed: int = flag(42, "which examples a max_* flag picks; apart from --seed, so that seeds share examples")
    on_bad_example: Literal["stop", "skip"] = flag("stop", "a broken example ends the run, or is left out and counted")
    overwrite_cache: bool = flag(False, "prepare the data again instead of using what is in the cache")
    preprocessing_num_workers: int | None = flag(None, "threads that prepare the data; unset: one for each core")

    def __post_init__(self):
        super().__post_init__()
        for name in LIMITS.values():
            count = getattr(self, name)
            if count == 0:
                raise UserError(f"--{name} 0 leaves no example; give a positive number, or -1 for all of them")
            setattr(self, name, None if count is not None and count < 0 else count)


@dataclass
class LabelArguments(Arguments):
    """What tasks with classes have beside; their scripts say in their recipes how much a class counts."""

    _argument_group_name = "classes"

    label_column: str | None = flag(None, "column of the class; unset: label, gold_label, ...", "--label_column_name")
    label_order: str | None = flag(None, "what 0, 1, 2 stand for in data or a checkpoint without names: NAME,NAME,NAME")
    class_weights: Literal["none", "balanced", "sqrt"] = flag(
        "none", "weight of a class in the loss: as scikit-learn's balanced, or its square root"
    )

    def __post_init__(self):
        super().__post_init__()
        if self.label_order is not None and not all(self.order):
            raise UserError(f"--label_order {self.label_order}: must be names with commas between, one for each class")

    @property
    def order(self) -> list[str] | None:
        """`label_order` as names."""
        return self.label_order and [name.strip() for name in self.label_order.split(",")]


@dataclass
class RunArguments(Arguments):
    """How a run begins and ends."""

    _argument_group_name = "training"

    overwrite_output_dir: bool = flag(False, "empty the output folder of an earlier run first")
    early_stopping_patience: int | None = flag(None, "stop after so many evaluations without a better one")
    early_stopping_threshold: float = flag(0.0, "by how much an evaluation must be better to count as such")
    push_predictions: bool = flag(True, "--push_to_hub uploads the predictions, too, which hold texts of your data")


@dataclass
class TaskArguments(RunArguments, DataArguments, ModelArguments):
    """What all scripts on `Trainer` have."""


def parse_arguments(
    kind: type[T],
    argv: Sequence[str] | None = None,
    *,
    recipe: Mapping[str, Any],
    demo: Mapping[str, Any] | None = None,
    legacy: Mapping[str, Row] | None = None,
    variants: Mapping[str, Mapping[Any, Mapping[str, Any]]] | None = None,
    training: type | Literal["transformers"] = "transformers",
    phases: Sequence[str] = ("do_train", "do_eval"),
) -> T:
    """Parses a script's command line into an instance of `kind`; --help prints and exits with 0.

    Args:
        kind: the script's dataclass, which inherits from those above; every field has a default. The module that
            defines it is the script: its name and docstring stand in the help.
        argv: flags, optionally after one .yaml or .json file of arguments; None: those of the process.
        recipe, demo: name -> value. variants: name of a flag -> its value -> name -> value.
        legacy: flags of official examples, beside `DROPPED`.
        training: whose fields `training_args` has: TrainingArguments, or a dataclass (then torch is not imported).
        phases: what the script does when no phase is asked for; a test file is predicted, too.

    Raises:
        UserError: what the user got wrong. KeyError: a recipe, demo or variant of unknown names.
    """
    argv = [str(token) for token in (sys.argv[1:] if argv is None else argv)]
    show_help(kind, argv, recipe=recipe, demo=demo, variants=variants, training=training, phases=phases)
    command, rows = _masked([script_of(kind).name, *argv]), dict(legacy or {})
    file = argv.pop(0) if argv and not argv[0].startswith("-") and argv[0].lower().endswith(FILES) else ""
    from_file = _tokens_of_file(file) if file else []

    from transformers.hf_argparser import HfArgumentParser

    on_transformers = training == "transformers"
    if on_transformers:
        from transformers import TrainingArguments as training

        rows = DROPPED | rows
    every = {field.name: field for field in (*fields(kind), *fields(training)) if field.init}
    parser = HfArgumentParser((kind, training), allow_abbrev=False, add_help=False, exit_on_error=False)
    known = {option for field in every.values() for option in options_of(field)}
    in_file = _parse(parser, every, translate(from_file, rows, known, f"{file}: "), f"{file}: ")
    given = _parse(parser, every, translate(argv, rows, known))

    values = Values(every, in_file.keys() | given.keys())
    in_demo = (demo or {}) if (in_file | given).get("demo") else {}
    values.put("recipe", recipe)
    for name, cases in (variants or {}).items():
        case = {**recipe, **in_demo, **in_file, **given}.get(name, every[name].default)
        values.put(f"variant --{name} {case}", cases.get(case, {}))
    values.put("demo", in_demo)
    values.put(f"file {Path(file).name}", in_file)
    values.put("command line", given)
    _derive(values, recipe, phases)
    check_ranges(values)

    args = kind(**values.of(kind))
    args.training_args = training_arguments(values) if on_transformers else training(**values.of(training))
    args.explicit, args.command, args.record = values.explicit, command, {}
    for group, origin in ((args.training_args, "library" if on_transformers else "script"), (args, "script")):
        for name in (field.name for field in fields(group) if field.init):
            shown = "***" if name in SECRETS and getattr(group, name) else _plain(getattr(group, name))
            args.record[name] = {"value": shown, "source": values.sources.get(name, f"{origin} default")}
    return args


def _derive(values: Values, recipe: Mapping[str, Any], phases: Sequence[str]) -> None:
    """No limit of the recipe for data of the user's own; the phases of the script unless some are given."""
    own = {name for name in (*LIMITS, "data_dir") if name in values.explicit and values[name]}
    if "dataset" in values.explicit and values["dataset"] != recipe.get("dataset"):
        own.add("data_dir")
    for name, limit in LIMITS.items():
        if limit in values and limit not in values.explicit and own & {name, "train_file", "data_dir"}:
            values.put("own data", {limit: None})
    if not any(values.get(phase) for phase in PHASES):
        asked = {"do_predict": True} if values.get("test_file") else {}
        values.derive(**(dict.fromkeys(phases, True) | asked))


def _parse(parser: argparse.ArgumentParser, names: Iterable[str], tokens: list[str], where: str = "") -> dict[str, Any]:
    """What the tokens give, and nothing else: no defaults."""
    home = os.path.expanduser("~")  # shells know what ~ is in `--flag ~/x`, but not in `--flag=~/x`
    tokens = [re.sub(r"\A(--\w+=|)~(?=[/\\])", lambda flag: flag[1] + home, token) for token in tokens]
    try:
        namespace, extra = parser.parse_known_args(tokens, argparse.Namespace(**dict.fromkeys(names)))
    except argparse.ArgumentError as error:
        raise UserError(f"{where}{(error.argument_name or '').split('/')[0]}: {error.message[:200]}") from None
    if extra:
        what = "unknown flag, or one value too many; a file of arguments (.yaml, .json) comes first"
        raise UserError(f"{where}{extra[0]!r}: {what}; see --help")
    found = {name: value for name, value in vars(namespace).items() if value is not None}
    for name, value in found.items():
        texts = [str(item) for item in (value if isinstance(value, list) else [value])]
        if not all(map(str.strip, texts)):
            raise UserError(f"{where}--{name}: its value is empty; give one, or leave the flag out")
        if odd := next((text for text in texts if re.search("[\ud800-\udfff]", text)), None):
            raise UserError(f"{where}--{name} {odd!a:.60}: is not UTF-8; rename the file, or write the value anew")
    return found


def _masked(command: list[str]) -> list[str]:
    """With *** for secrets; the tokens are joined by a character that none can hold."""
    names = "|".join(SECRETS).replace("_", "[-_]")
    text = re.sub(rf"(?<![^\0])(--(?:{names})[=\0])(?!--)[^\0]*", r"\1***", "\0".join(command))
    return without_secrets(text).split("\0")


def _plain(value: Any) -> Any:
    """For JSON: members of enumerations by value, settings as dictionaries, all else as text."""
    text = json.dumps(value, default=lambda item: item.to_dict() if hasattr(item, "to_dict") else str(item))
    return json.loads(without_secrets(text), parse_constant=str)  # results.json takes no NaN


class Loader(yaml.SafeLoader):
    """YAML, in which 5e-5 is a number, as in JSON."""


Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[\d.]+[eE][-+]?\d+"), [*"-+.0123456789"])


def _tokens_of_file(path: str) -> list[str]:
    """A file of arguments as command-line arguments, values as they are written: argparse reads `5e-5`, `no`, `0123`.

    JSON is read as YAML, of which it is a part; a mapping goes on as JSON.
    """

    def refuse(line: int, problem: str):
        raise UserError(f"{path}, line {line + 1}: {problem}")

    try:
        if not Path(path).is_file() or Path(path).stat().st_size > 100_000:
            raise UserError(f"{path}: there is no such file, or it is too large for a file of arguments")
        text = Path(path).read_text("utf-8-sig")
        text = text.replace("\t", " ") if path.lower().endswith(".json") else text
        for event in yaml.parse(text, Loader):  # aliases make small files large
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
                refuse(event.start_mark.line, "aliases and tags are not taken")
        root = yaml.compose(text, Loader)
    except yaml.MarkedYAMLError as error:
        refuse(error.problem_mark.line, error.problem)
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise UserError(f"{path}: {problem}") from None
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: a file of arguments has one `name: value` for each flag, not a bare list or value")
    tokens, names = [], set()
    for key, value in root.value if root else ():
        name, line = str(key.value).lstrip("-").replace("-", "_"), key.start_mark.line
        if name in names:
            refuse(line, f"{name} is given twice")
        names.add(name)
        items = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if isinstance(value, yaml.MappingNode) and name.endswith(("_kwargs", "_config", "deepspeed")):
            try:
                content = yaml.constructor.SafeConstructor().construct_document(value)
            except (yaml.YAMLError, ValueError) as error:
                refuse(line, f"{name}: {' '.join(str(error).split())[:200]}")
            tokens.append(f"--{name}={json.dumps(content, default=str)}")
        elif not all(isinstance(item, yaml.ScalarNode) for item in items):
            refuse(line, f"{name} takes plain values, no nested ones")
        elif len(items) > 1 and name != "report_to":
            tokens += [f"--{name}", *(item.value for item in items)]
        elif items and not items[0].tag.endswith(":null"):
            tokens.append(f"--{name}={','.join(item.value for item in items)}")
    return tokens
