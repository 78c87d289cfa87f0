"""Reliability diagram: accuracy over confidence, and how many series there are."""

from nde.training.calibration import BINS, Calibration
from nde.training.plots.picture import blank, to_png


def draw_reliability(calibration: Calibration) -> bytes:
    """The bins of `calibration`, with their counts below and the error in the title."""
    figure = blank(5.2, 5.8)
    top, bottom = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]}
    )
    width = 1 / BINS
    left = [k * width for k in calibration.place]
    bars = {"width": width, "align": "edge", "edgecolor": "white"}
    top.bar(left, calibration.accuracy, color="C0", alpha=0.7, label="accuracy", **bars)
    top.plot([0, 1], [0, 1], color="0.2", linestyle=":", label="perfect")
    top.plot(
        calibration.confidence,
        calibration.accuracy,
        color="C3",
        marker="o",
        linestyle="none",
        label="at the mean confidence",
    )
    top.set_ylabel("accuracy")
    top.set_ylim(0, 1.02)
    title = f"expected calibration error {calibration.error:.3f}"
    top.set_title(title, fontsize="medium")
    top.legend(loc="upper left", frameon=False, fontsize="small")
    shown = bottom.bar(left, calibration.count, color="0.6", **bars)
    bottom.bar_label(shown, fontsize="small")
    bottom.margins(y=0.25)
    bottom.set_ylabel("series")
    bottom.set_xlabel("confidence (probability of the predicted class)")
    bottom.set_xlim(0, 1)
    for axes in (top, bottom):
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    return to_png(figure)
