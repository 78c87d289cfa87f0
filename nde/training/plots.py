"""The picture of a training: loss and function evaluations over the epochs."""

import io
from collections.abc import Sequence
from pathlib import Path

from nde.training.atomic import write_bytes
from nde.training.events import EpochEnd


def plot_training(path: Path, epochs: Sequence[EpochEnd], best: int) -> None:
    """Draw losses, validation accuracy and function evaluations to a PNG.

    `best` is the number of the epoch whose weights were kept.
    """
    # The object interface leaves the caller's backend and open figures alone.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    x = [epoch.epoch for epoch in epochs]
    mark = "o" if len(x) < 3 else None
    figure = Figure(figsize=(6.4, 7.2), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    top.plot(x, [e.loss for e in epochs], marker=mark, label="training loss")
    top.plot(
        x,
        [e.validation["log_loss"] for e in epochs],
        marker=mark,
        label="validation log loss",
    )
    top.set_ylabel("loss")
    top.set_ylim(0, 1.05 * top.get_ylim()[1])
    middle.plot(
        x,
        [e.validation["accuracy"] for e in epochs],
        marker=mark,
        color="C1",
        label="validation accuracy",
    )
    middle.set_ylabel("accuracy")
    middle.set_ylim(0, 1.02)
    bottom.plot(
        x, [e.evaluations for e in epochs], marker=mark, label="training, forward"
    )
    bottom.set_ylabel("function evaluations\nper series")
    bottom.set_ylim(0, 1.2 * bottom.get_ylim()[1])
    bottom.set_xlabel("epoch")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (top, middle, bottom):
        axes.axvline(best, color="0.6", linestyle=":", label="kept weights")
        axes.grid(alpha=0.25)
        axes.legend(loc="best", frameon=False, fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_bytes(path, buffer.getvalue())
