"""The configuration explained: as a JSON Schema, and as a file to begin from."""

import json
import textwrap
from typing import Any

import yaml

from nde.training.config import REGULARIZERS, Config
from nde.training.config_file import to_tree

_WIDTH = 88


def json_schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12, of every key, for editors and other programs."""
    schema = Config.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Configuration of nde train"
    # The names are checked by code, which a schema cannot hold.
    schema["properties"]["regularizers"]["propertyNames"] = {"enum": [*REGULARIZERS]}
    return schema


def commented_yaml() -> str:
    """All keys with their defaults and a comment each, as a configuration file."""
    schema = json_schema()
    sections = schema["properties"]
    lines = _comment(
        "For nde train --config FILE. These are the defaults: keep the keys that you "
        "change. Flags and --set win over this file.",
        "",
    )
    for section, keys in to_tree(Config()).items():
        named = sections[section].get("$ref", "").rpartition("/")[2]
        kind = schema["$defs"].get(named, sections[section])
        lines += ["", *_comment(kind.get("description", ""), "")]
        if "properties" not in kind:
            lines += [*_comment(_choices({"enum": [*REGULARIZERS]}), "")]
            lines += [f"{section}: {json.dumps(keys)}"]
            continue
        lines += [f"{section}:"]
        for key, value in keys.items():
            about = kind["properties"][key]
            told = f"{about.get('description', '')} {_choices(about)}"
            lines += _comment(told, "  ")
            written = yaml.safe_dump({key: value}, sort_keys=False).rstrip()
            lines += [textwrap.indent(written, "  ")]
    return "\n".join(lines) + "\n"


def _choices(about: dict[str, Any]) -> str:
    found = about.get("enum", [])
    return f"One of {', '.join(map(str, found))}." if found else ""


def _comment(text: str, indent: str) -> list[str]:
    prefix = f"{indent}# "
    words = " ".join(text.split())
    return textwrap.wrap(words, _WIDTH, initial_indent=prefix, subsequent_indent=prefix)
