"""Loss, validation accuracy and function evaluations over the epochs."""

from collections.abc import Sequence

from nde.training.events import EpochEnd
from nde.training.plots.picture import blank, to_png


def draw_learning(epochs: Sequence[EpochEnd], best: int) -> bytes:
    """Learning curves; `best` is the number of the epoch whose weights were kept."""
    from matplotlib.ticker import MaxNLocator

    x = [epoch.epoch for epoch in epochs]
    mark = "o" if len(x) < 3 else None
    figure = blank(6.4, 7.2)
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    top.plot(x, [e.loss for e in epochs], marker=mark, label="training loss")
    top.plot(
        x,
        [e.validation["log_loss"] for e in epochs],
        marker=mark,
        label="validation log loss",
    )
    top.set_ylabel("loss")
    top.set_ylim(min(0, top.get_ylim()[0]), 1.05 * max(0, top.get_ylim()[1]))
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
    bottom.plot(
        x,
        [e.validation_evaluations for e in epochs],
        marker=mark,
        label="validation",
    )
    bottom.set_ylabel("function evaluations\nper series")
    bottom.set_ylim(0, 1.2 * bottom.get_ylim()[1])
    bottom.set_xlabel("epoch")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (top, middle, bottom):
        axes.axvline(best, color="0.6", linestyle=":", label="kept weights")
        axes.grid(alpha=0.25)
        axes.legend(loc="best", frameon=False, fontsize="small")
    return to_png(figure)
