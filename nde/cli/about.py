"""The bodies of `nde init`, `nde schema` and `nde env`: about the program itself."""

import json
from pathlib import Path
from typing import Any

from nde.cli.console import note, say
from nde.training.atomic import write_text
from nde.training.build import choose_device
from nde.training.config_file import ConfigError
from nde.training.describe import commented_yaml, json_schema
from nde.training.environment import describe_environment
from nde.training.run_folder import to_json


def run_init(output: str | None) -> None:
    """Write a configuration of all defaults, explained, to a file or to stdout."""
    if output is None:
        say(commented_yaml().rstrip())
        return
    path = Path(output)
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise ConfigError(f"{path}: what is written is YAML; name it {path.stem}.yaml")
    if path.exists():
        raise ConfigError(f"{path} exists and is kept; choose another name for -o")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent} does not exist; make it, or change -o")
    write_text(path, commented_yaml())
    note(f"train with: nde train DATA --config {path}")
    say(str(path))


def run_schema() -> None:
    """Print the JSON Schema of the configuration."""
    say(to_json(json_schema()).rstrip())


def run_env(*, as_json: bool) -> None:
    """Print versions, machine and device."""
    found: dict[str, Any] = describe_environment(choose_device("auto"))
    # How it was called says nothing here; in env.json of a run it does.
    del found["command"]
    if as_json:
        say(json.dumps(found))
        return
    for name, version in found.pop("versions").items():
        say(f"{name} {version}")
    for name, value in found.items():
        say(f"{name}: {'none' if value is None else value}")
