"""Configuration: defaults, order of sources, file kinds, and refusals in one line."""

import inspect
import json
from dataclasses import fields
from pathlib import Path

import pytest

from nde.models import SolverSettings, build_classifier
from nde.training.config import (
    Config,
    ModelConfig,
    SolverConfig,
)
from nde.training.config_file import (
    ConfigError,
    merge,
    parse_assignment,
    parse_regularizer,
    read_config_file,
    to_tree,
    to_yaml,
)


def test_every_option_of_the_models_and_their_solver_is_a_key() -> None:
    options = inspect.signature(build_classifier).parameters
    told_otherwise = {"channels", "classes", "solver", "regularizers"}
    assert set(ModelConfig.model_fields) == set(options) - told_otherwise
    for key in set(ModelConfig.model_fields) - {"name"}:
        assert getattr(ModelConfig(), key) == options[key].default, key
    settings = {field.name for field in fields(SolverSettings)}
    # A series has times of its own, so a batch of them cannot share its steps.
    assert set(SolverConfig.model_fields) == settings - {"batch"}


def test_later_sources_win() -> None:
    file = {"optim": {"lr": 0.5, "clip": 2.0}}
    config = merge(file, [("optim.lr", 0.25), ("optim.lr", 0.125)])
    assert (config.optim.lr, config.optim.clip) == (0.125, 2.0)
    assert config.optim.schedule == Config().optim.schedule
    assert file == {"optim": {"lr": 0.5, "clip": 2.0}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.yaml", "optim: {lr: 1e-4}\nregularizers: {error: 100:10}\n"),
        ("c.toml", "[optim]\nlr = 1e-4\n[regularizers]\nerror = '100:10'\n"),
        ("c.json", '{"optim": {"lr": 1e-4}, "regularizers": {"error": "100:10"}}'),
    ],
)
def test_files(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    config = merge(read_config_file(path), [])
    assert config.optim.lr == 1e-4
    # YAML 1.1 would read 100:10 as the sexagesimal 6010.
    assert config.regularizers == {"error": "100:10"}


def test_written_configuration_reads_back_the_same(tmp_path: Path) -> None:
    config = merge(
        {},
        [
            ("data.channels", ["a", "1:2"]),
            ("data.label", "yes"),
            ("optim.lr", 1e-7),
            parse_regularizer("local-error=100:10"),
            parse_regularizer("stiffness=0.1"),
        ],
    )
    path = tmp_path / "config.resolved.yaml"
    path.write_text(to_yaml(config))
    assert merge(read_config_file(path), []) == config
    json.dumps(to_tree(config), allow_nan=False)


@pytest.mark.parametrize(
    ("file", "assignments", "words"),
    [
        ({"optim": {"lrr": 1}}, [], ["'optim.lrr'", "did you mean 'optim.lr'"]),
        ({"optimm": {"lr": 1}}, [], ["'optimm'", "did you mean 'optim'"]),
        ({}, [("optimm.lr", 1)], ["'optimm'", "did you mean 'optim'"]),
        ({}, [("model.name", "lnsd")], ["model", "'lnsd'", "did you mean 'lnsde'"]),
        ({}, [("model.readout", "ends")], ["did you mean 'end'"]),
        ({}, [("optim.schedule", "cosin")], ["optim.schedule", "'cosine'"]),
        ({}, [("data.drop_protocol", "row")], ["did you mean 'rows'"]),
        ({}, [("data.drop_rate", 1.0)], ["data.drop_rate", "1.0"]),
        ({}, [("optim.lr", -1)], ["optim.lr", "greater than 0", "-1"]),
        ({}, [("optim.lr", float("nan"))], ["optim.lr", "nan"]),
        ({}, [("train.epochs", "many")], ["train.epochs", "'many'"]),
        ({}, [("train.epochs", 0), ("optim.lr", 0)], ["and 1 more"]),
        ({"optim": 3}, [], ["optim", "3"]),
        (
            {},
            [("regularizers.local-eror", 1)],
            ["regularizer", "did you mean 'local-error'"],
        ),
        ({}, [("regularizers.error", "a")], ["weight of error", "'a'"]),
        ({}, [("regularizers.error", "1:0")], ["weight of error", "'1:0'"]),
        ({}, [("regularizers.error", -1)], ["weight of error", "-1"]),
        ({}, [("regularizers.taylor-4", 1)], ["did you mean 'taylor-"]),
        (
            {},
            [("regularizers.kinetic", "auto:nfe=2")],
            ["weight of kinetic", "ratio", "'auto:nfe=2'"],
        ),
        ({}, [("regularizers.steer", "1:0.5")], ["steer", "part of", "'1:0.5'"]),
        ({}, [("regularizers.steer-gaussian", 1.0)], ["between 0 and 1", "1.0"]),
    ],
)
def test_refusals_are_one_line(
    file: dict[str, object], assignments: list[tuple[str, object]], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        merge(file, assignments)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("c.yaml", "optim: [", "c.yaml"),
        ("c.yaml", "- 1", "sections"),
        ("c.toml", "x", "c.toml"),
        ("c.json", "{", "c.json"),
        ("c.ini", "", ".yaml"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, text: str, word: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_config_file(path)
    assert word in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="no such"):
        read_config_file(tmp_path / "none.yaml")


def test_assignments() -> None:
    assert parse_assignment("optim.lr=1e-3") == ("optim.lr", 1e-3)
    assert parse_assignment("data.channels=[a, b]") == ("data.channels", ["a", "b"])
    assert parse_assignment("optim.clip=null") == ("optim.clip", None)
    for text in ("optim.lr", "lr=1", "a.b=["):
        with pytest.raises(ConfigError, match="--set"):
            parse_assignment(text)
    with pytest.raises(ConfigError, match="--regularizer"):
        parse_regularizer("error")


def test_weights_keep_their_shortest_text() -> None:
    texts = {
        "error": (" 100 : 10.0", "100:10"),
        "jacobian": ("1e-2", 0.01),
        "taylor-3": ("0.50, warmup=0.1", "0.5,warmup=0.1"),
        "kinetic": ("auto:nfe=0.60,of=81.0", "auto:nfe=0.6,of=81"),
        "adaptive-jacobian": ("auto:share=0.30", "auto:share=0.3"),
        "steer": ("0.25", 0.25),
    }
    given = [(f"regularizers.{name}", text) for name, (text, _) in texts.items()]
    config = merge({}, given)
    assert config.regularizers == {name: short for name, (_, short) in texts.items()}
    assert merge(to_tree(config), []) == config


def test_a_step_is_a_number_or_adaptive() -> None:
    assert merge({}, [("solver.step", "adaptive")]).solver.step == "adaptive"
    assert merge({}, [("solver.step", "0.25")]).solver.step == 0.25
    for wrong in ("adaptve", -1.0):
        with pytest.raises(ConfigError, match="^solver.step: .* or .*'adaptive'"):
            merge({}, [("solver.step", wrong)])
