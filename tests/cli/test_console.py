"""The live bar on a terminal, and plain lines everywhere else."""

import io

import pytest

from nde.cli import console
from nde.cli.console import speak, watching
from nde.training.events import EpochEnd, StepEnd

STEP = StepEnd(
    epoch=1,
    step=1,
    steps=4,
    loss=1.25,
    penalties={},
    weights={},
    shares={},
    evaluations=23.5,
    gradient_norm=1.0,
    lr=0.1,
    skipped=False,
)
EPOCH = EpochEnd(
    epoch=1,
    epochs=2,
    loss=1.5,
    evaluations=23.5,
    lr=0.1,
    skipped=0,
    validation={"log_loss": 0.75, "accuracy": 0.625},
    validation_evaluations=23.0,
    best=True,
)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> str:
    monkeypatch.setattr("sys.stdout", stream)
    speak()
    with watching("log_loss") as observe:
        for event in (STEP, EPOCH, STEP):
            observe(event)
    return stream.getvalue()


def test_live_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    text = shown(monkeypatch, Terminal())
    for word in ("epoch 1/2", "loss 1.2500", "log_loss 0.7500", "evaluations 23.5"):
        assert word in text
    assert "validation" not in text


@pytest.mark.parametrize("ci", [None, "true"])
def test_plain_lines_without_one(
    monkeypatch: pytest.MonkeyPatch, ci: str | None
) -> None:
    if ci is None:
        monkeypatch.delenv("CI", raising=False)
        text = shown(monkeypatch, io.StringIO())
    else:
        monkeypatch.setenv("CI", ci)
        text = shown(monkeypatch, Terminal())
    (line,) = text.splitlines()
    assert line == (
        "epoch   1/2  loss 1.5000  validation log_loss 0.7500, accuracy 0.6250  "
        "evaluations 23.5  best"
    )


def test_one_metric_is_not_told_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    speak()
    with watching("accuracy") as observe:
        observe(EPOCH)
    assert stream.getvalue().count("accuracy") == 1


def test_errors_are_said_without_being_asked_to_speak(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console._log.handlers.clear()
    console.complain("no")
    assert capsys.readouterr().err == "error: no\n"
