"""A file of arguments, YAML or JSON, read into the command-line arguments that say the same."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from common.legacy.errors import UserError
from common.legacy.spellings import suggestion


class _Yaml(yaml.SafeLoader):
    """YAML 1.1 takes 5e-5 for a string; everybody else takes it for a number."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_file(path: str) -> dict[str, Any]:
    """Key -> value of a YAML or JSON file of arguments; YAML's plain values come as they are written, null as None."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = json.loads(text) if path.lower().endswith(".json") else _read_yaml(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON: {error.msg}") from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        raise UserError(f"{path}{f', line {mark.line + 1}' if mark else ''}: not valid YAML: {problem}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: the file of arguments is not text in UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: the file of arguments cannot be read: {error.strerror}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: a file of arguments has one `name: value` for each flag, not a bare list or value")
    return content


def _read_yaml(text: str) -> Any:
    loader = _Yaml(text)
    root = loader.get_single_node()

    def as_written(node: yaml.Node) -> Any:
        # As text: `no` stays a strategy, 0123 a revision, 5e-5 a number for argparse to read.
        if isinstance(node, yaml.ScalarNode):
            return None if node.tag.endswith(":null") else node.value
        if isinstance(node, yaml.SequenceNode):
            return [as_written(item) for item in node.value]
        return loader.construct_object(node, deep=True)

    if isinstance(root, yaml.MappingNode):
        return {str(key.value): as_written(value) for key, value in root.value}
    return {} if root is None else as_written(root)


def as_tokens(file: str, key: str, value: Any, known: Iterable[str], hints: Mapping[str, Any]) -> list[str]:
    """One key of a file of arguments as command-line arguments, so that there is one reader of types and errors."""
    name = key.lstrip("-").replace("-", "_")
    if f"--{name}" not in known:
        bare = {option.removeprefix("--") for option in known}
        raise UserError(f"{file}: unknown key {key!r}{suggestion(name, bare)}")
    if isinstance(value, dict) and "dict" not in str(hints.get(name)):
        raise UserError(f"{file}: {key}: takes one value, not a mapping")
    texts = [v if isinstance(v, str) else json.dumps(v) for v in (value if isinstance(value, list) else [value])]
    if value is None:
        return []
    return [f"--{name}={texts[0]}"] if len(texts) == 1 else [f"--{name}", *texts]
