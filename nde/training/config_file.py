"""Sources of a configuration, merged: defaults < file < flags and `--set`.

An unknown key, a wrong type or a value out of bounds is one `ConfigError` line with
the dotted key, and the nearest known name where there is one.
"""

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from nde.data import unknown_name
from nde.training.config import Config

# A plain value, or a section of them, as YAML, TOML and JSON give it.
Tree = dict[str, Any]


class ConfigError(ValueError):
    """A configuration that cannot be used: one line with the key and the fix."""


class _Loader(yaml.SafeLoader):
    """YAML with the numbers of version 1.2.

    Version 1.1 reads 100:10 as a sexagesimal 6010 and 1e-3 as text.
    """


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def read_config_file(path: Path) -> Tree:
    """The tree in a YAML, TOML or JSON file, by its suffix."""
    kind = path.suffix.lower()
    try:
        text = path.read_text(encoding="utf-8")
        if kind in (".yaml", ".yml"):
            tree = _parse_yaml(text)
        elif kind == ".toml":
            tree = tomllib.loads(text)
        elif kind == ".json":
            tree = json.loads(text)
        else:
            raise ConfigError(
                f"{path}: unknown kind of configuration; "
                "expected .yaml, .yml, .toml or .json"
            )
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except (yaml.YAMLError, tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: {reason}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected sections of keys, got {tree!r:.40}")
    return tree


def parse_assignment(text: str) -> tuple[str, Any]:
    """`section.key=value` as the dotted key and the value, read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or "." not in key:
        raise ConfigError(f"--set {text}: expected section.key=value")
    try:
        return key.strip(), _parse_yaml(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: {' '.join(str(error).split())}") from None


def parse_regularizer(text: str) -> tuple[str, str]:
    """`NAME=weight` of the command line as a dotted key and the weight."""
    name, equals, weight = text.partition("=")
    if not equals:
        raise ConfigError(f"--regularizer {text}: expected NAME=weight")
    return f"regularizers.{name.strip()}", weight.strip()


def merge(file: Mapping[str, Any], assignments: Iterable[tuple[str, Any]]) -> Config:
    """Defaults, then `file`, then dotted `assignments` in order; validated.

    Raises `ConfigError`.
    """
    tree: Tree = {
        section: dict(keys) if isinstance(keys, Mapping) else keys
        for section, keys in file.items()
    }
    for dotted, value in assignments:
        section, _, key = dotted.partition(".")
        keys = tree.setdefault(section, {})
        if not isinstance(keys, dict):
            raise ConfigError(f"{section}: expected a section of keys, got {keys!r}")
        keys[key] = value
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        keys = _by_key(error.errors())
        more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
        raise ConfigError(_one_line(keys[0]) + more) from None


def to_tree(config: Config) -> Tree:
    """The configuration as plain containers, every key present."""
    tree: Tree = config.model_dump(mode="json")
    return tree


def to_yaml(config: Config) -> str:
    """The configuration as YAML that `read_config_file` reads back to the same."""
    text: str = yaml.safe_dump(to_tree(config), sort_keys=False)
    return text


def _parse_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader


def _by_key(details: Sequence[ErrorDetails]) -> list[list[ErrorDetails]]:
    """What is wrong with each key: one thing, or one for each kind that it may be."""
    found: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for detail in details:
        found.setdefault(detail["loc"][:2], []).append(detail)
    return list(found.values())


def _one_line(details: Sequence[ErrorDetails]) -> str:
    detail = details[0]
    if len(details) > 1 and len({other["loc"] for other in details}) > 1:
        dotted = ".".join(str(part) for part in detail["loc"][:2])
        kinds = " or ".join(other["msg"].lower() for other in details)
        return f"{dotted}: {kinds}, got {detail['input']!r}"
    path = [str(part) for part in detail["loc"]]
    dotted = ".".join(path)
    if detail["type"] == "extra_forbidden":
        section: type[BaseModel] = Config
        for part in path[:-1]:
            kind = section.model_fields[part].annotation
            assert isinstance(kind, type) and issubclass(kind, BaseModel)
            section = kind
        prefix = "".join(f"{part}." for part in path[:-1])
        known = [prefix + name for name in section.model_fields]
        return unknown_name("configuration key", dotted, known)
    if detail["type"] == "literal_error":
        known = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        return unknown_name(dotted, str(detail["input"]), known)
    if detail["type"] == "value_error":
        return f"{dotted}: {detail['ctx']['error']}"
    return f"{dotted}: {detail['msg'].lower()}, got {detail['input']!r}"
