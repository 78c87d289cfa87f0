"""Ctrl-C and termination, noticed between steps instead of in the middle of one.

SIGUSR1 is what batch systems send ahead of the end of the time they grant.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class Stopped(Exception):
    """The run was asked to stop; `code` is the exit code of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.code = 128 + number


class StopRequest:
    """While entered, the first SIGINT, SIGTERM or SIGUSR1 only sets a flag.

    `check` raises `Stopped` at a place of the caller's choice; a second one of the same
    kind raises `KeyboardInterrupt` where it hits. Outside the main thread signals stay
    as they are.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._before: dict[int, signal.Handlers] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                before = signal.signal(number, self._note)
                # None stands for a handler that was not installed from Python.
                self._before[number] = before or signal.SIG_DFL  # type: ignore[assignment]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._number == number:
            raise KeyboardInterrupt
        self._number = self._number or number

    def check(self) -> None:
        """Raise `Stopped` if a signal has arrived."""
        if self._number is not None:
            raise Stopped(self._number)
