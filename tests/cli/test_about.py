"""What the program says of itself: a first configuration, its schema, versions."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml

from nde import __version__
from nde.cli import main
from nde.models import ModelName
from nde.training.config import REGULARIZERS, Config
from nde.training.config_file import merge, read_config_file


def test_init_writes_every_default_with_a_comment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nde.yaml"
    assert main(["init", "-o", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    text = path.read_text()
    tree = read_config_file(path)
    assert merge(tree, []) == Config()
    assert merge(tree, []).model_dump() == Config().model_dump()
    assert all(len(line) <= 88 for line in text.splitlines())
    lines = text.splitlines()
    for section, keys in tree.items():
        head = next(i for i, x in enumerate(lines) if x.startswith(f"{section}:"))
        assert lines[head - 1].startswith("# "), section
        for key in keys:
            (place,) = (
                number
                for number, line in enumerate(lines)
                if re.match(rf"  {key}:", line) and _section(lines, number) == section
            )
            assert lines[place - 1].startswith("  # "), (section, key)
    for name in (*get_args(ModelName), *REGULARIZERS):
        assert re.search(rf"\b{name}\b", text), name


def _section(lines: list[str], place: int) -> str:
    return next(x for x in lines[place::-1] if re.match(r"\w", x)).partition(":")[0]


def test_init_on_stdout_and_refusals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "-q"]) == 0
    assert Config.model_validate(yaml.safe_load(capsys.readouterr().out)) == Config()
    kept = tmp_path / "mine.yaml"
    kept.write_text("model: {hidden: 8}\n")
    for path, word in (
        (kept, "is kept"),
        (tmp_path / "c.toml", "c.yaml"),
        (tmp_path / "none" / "c.yaml", "does not exist"),
    ):
        assert main(["init", "-o", str(path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert str(path.parent) in line and word in line
    assert kept.read_text() == "model: {hidden: 8}\n"


def test_the_schema_knows_what_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"].endswith("2020-12/schema")
    assert set(schema["properties"]) == set(Config.model_fields)
    assert schema["additionalProperties"] is False
    named = schema["properties"]["regularizers"]["propertyNames"]["enum"]
    assert named == list(REGULARIZERS)
    for section in set(Config.model_fields) - {"regularizers"}:
        kind = type(getattr(Config(), section))
        found = schema["$defs"][kind.__name__]
        assert found["additionalProperties"] is False
        assert set(found["properties"]) == set(kind.model_fields)
    models = schema["$defs"]["ModelConfig"]["properties"]["name"]["enum"]
    assert models == list(get_args(ModelName))
    assert schema["$defs"]["OptimConfig"]["properties"]["lr"]["exclusiveMinimum"] == 0


def test_env(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"nde {__version__}" in lines and f"torch {torch.__version__}" in lines
    assert main(["env", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["versions"]["torch"] == torch.__version__
    assert tree["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
