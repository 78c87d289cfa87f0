"""The search space of a sweep, as the command line has it."""

import pytest

from nde.training.config_file import ConfigError
from nde.training.space import Between, OneOf, parse_space


def test_ranges_and_lists() -> None:
    space = parse_space(
        [
            "optim.lr=1e-4..1e-1,log",
            "model.layers=1..3",
            "model.dropout = 0..0.5",
            "model.hidden=16,32",
            "optim.clip=null,1.0",
            "model.name=lsde",
        ]
    )
    assert space == {
        "optim.lr": Between(1e-4, 0.1, log=True),
        "model.layers": Between(1, 3),
        "model.dropout": Between(0, 0.5),
        "model.hidden": OneOf((16, 32)),
        "optim.clip": OneOf((None, 1.0)),
        "model.name": OneOf(("lsde",)),
    }
    assert isinstance(space["model.layers"], Between) and space["model.layers"].whole
    assert isinstance(space["model.dropout"], Between)
    assert not space["model.dropout"].whole


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("optim.lr", "expected section.key="),
        ("lr=1..2", "expected section.key="),
        ("optim.lr=", "expected section.key="),
        ("optim.lr=a..2", "expected a number, got 'a'"),
        ("optim.lr=true..2", "expected a number, got True"),
        ("optim.lr=2..1", "LOW below HIGH, got 2..1"),
        ("optim.lr=0..1,log", "above 0, got 0"),
        ("optim.lr=1..2,linear", "expected log"),
    ],
)
def test_refusals(text: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_space([text])
    assert f"--space {text}" in str(caught.value) and word in str(caught.value)


def test_nothing_and_twice() -> None:
    with pytest.raises(ConfigError, match="nothing to search"):
        parse_space([])
    with pytest.raises(ConfigError, match="optim.lr has a space already"):
        parse_space(["optim.lr=1..2", "optim.lr=3,4"])
