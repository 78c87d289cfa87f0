"""What the command line says: lines, warnings, a live bar, and the log of the run."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from nde.cli.bar import live_bar
from nde.training.events import EpochEnd, Observer, StepEnd
from nde.training.run_folder import to_json

_log = logging.getLogger("nde.cli")


class _Terminal(logging.Handler):
    """Lines to stdout, doubts to stderr; with `--json` stdout is for the object."""

    def __init__(self, level: int, *, json: bool) -> None:
        super().__init__(level)
        self.json = json

    def emit(self, record: logging.LogRecord) -> None:
        aside = self.json or record.levelno >= logging.WARNING
        # Looked up now: a live bar or a test may have replaced the stream.
        file = sys.stderr if aside else sys.stdout
        _print(self.format(record), file)


def _print(text: str, file: TextIO) -> None:
    """Print, or fall silent once the reader has gone, as in `nde ... | head -1`."""
    try:
        print(text, file=file, flush=True)
    except BrokenPipeError:
        # Everything said from now on goes nowhere, what Python says at exit too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def speak(*, quiet: bool = False, verbose: bool = False, json: bool = False) -> None:
    """Say how much this process says, and where; closes the log of an earlier run."""
    for handler in list(_log.handlers):
        _log.removeHandler(handler)
        handler.close()
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    _log.addHandler(_Terminal(level, json=json))
    _log.setLevel(logging.DEBUG)
    _log.propagate = False


def keep_log(path: Path) -> None:
    """From now on also write every line to the file `path`."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    _log.addHandler(handler)


def note(text: str) -> None:
    """One line of information."""
    _log.info(text)


def warn(text: str) -> None:
    """One line about something doubtful."""
    _log.warning("warning: %s", text)


def complain(text: str, error: Exception | None = None) -> None:
    """The one line of a failure; the trace of `error` only with `--verbose`."""
    if not _log.handlers:
        speak()
    _log.error("error: %s", text)
    if error is not None:
        _log.debug("the run failed here", exc_info=error)


def finish(path: Path, tree: dict[str, Any]) -> None:
    """The last line: the path of the result, or with `--json` the result itself."""
    terminal = next(h for h in _log.handlers if isinstance(h, _Terminal))
    line = str(path)
    if terminal.json:
        line = json.dumps(json.loads(to_json(tree | {"path": line})))
    _print(line, sys.stdout)


def say(text: str) -> None:
    """What a command was asked for, on stdout however little else it says."""
    _print(text, sys.stdout)


def beside(run: str, name: str) -> Path:
    """Path of a result: in the run folder, or next to a bare checkpoint file."""
    path = Path(run)
    return (path if path.is_dir() else path.parent) / name


@contextmanager
def watching(monitor: str) -> Iterator[Observer]:
    """An observer of a training: a live bar on a terminal, else a line per epoch.

    `monitor` is the validation metric to show. CI=true means no terminal.
    """
    terminal = next(h for h in _log.handlers if isinstance(h, _Terminal))
    quiet = terminal.level > logging.INFO
    stream = sys.stderr if terminal.json else sys.stdout
    alive = stream.isatty() and os.environ.get("CI", "").lower() not in ("1", "true")
    if not alive or quiet:
        yield lambda event: _tell(event, monitor)
        return
    level = terminal.level
    # While the bar is on the screen, the lines of the epochs go to the log only.
    terminal.setLevel(logging.WARNING)
    try:
        with live_bar(stream, monitor) as show:

            def observe(event: StepEnd | EpochEnd) -> None:
                show(event)
                _tell(event, monitor)

            yield observe
    finally:
        terminal.setLevel(level)


def _tell(event: StepEnd | EpochEnd, monitor: str) -> None:
    if isinstance(event, StepEnd):
        if event.skipped:
            undone = ", last update undone" if event.undone else ""
            warn(f"step {event.step}: no finite loss, batch skipped{undone}")
        return
    scores = {monitor: event.validation[monitor]}
    scores |= {"accuracy": event.validation["accuracy"]}
    shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    note(
        f"epoch {event.epoch:>3}/{event.epochs}  loss {event.loss:.4f}  "
        f"validation {shown}  evaluations {event.evaluations:.1f}"
        + ("  best" if event.best else "")
    )
