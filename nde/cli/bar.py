"""The live bar of a training on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from nde.training.events import EpochEnd, Observer, StepEnd


@contextmanager
def live_bar(stream: TextIO, monitor: str) -> Iterator[Observer]:
    """Show epoch, loss, the validation metric `monitor` and function evaluations."""
    progress = Progress(
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(bar_width=None),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn(f"{monitor} {{task.fields[score]}}"),
        TextColumn("evaluations {task.fields[evaluations]}"),
        TimeRemainingColumn(compact=True),
        console=Console(file=stream),
        expand=True,
    )
    task = progress.add_task("", epoch="", loss="-", score="-", evaluations="-")

    def show(event: StepEnd | EpochEnd) -> None:
        if isinstance(event, EpochEnd):
            progress.update(
                task,
                epoch=f"{event.epoch}/{event.epochs}",
                score=f"{event.validation[monitor]:.4f}",
            )
        else:
            progress.update(
                task,
                completed=event.step,
                total=event.steps,
                loss=f"{event.loss:.4f}",
                evaluations=f"{event.evaluations:.1f}",
            )

    with progress:
        yield show
