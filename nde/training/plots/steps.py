"""Step length and error estimate along time, a line for each series."""

import numpy as np

from nde.training.plots.picture import blank, to_png
from nde.training.step_trace import StepTrace


def draw_steps(trace: StepTrace) -> bytes:
    """The accepted steps of `trace`; errors only where the method estimates them."""
    from matplotlib.collections import LineCollection

    unit = f" ({trace.unit})" if trace.unit else ""
    figure = blank(6.4, 5.6 if trace.estimates else 3.2)
    panels = figure.subplots(2 if trace.estimates else 1, 1, sharex=True, squeeze=False)
    top, bottom = panels[0, 0], panels[-1, 0]
    lines = []
    for start, end in trace.runs():
        t, h = trace.t[start:end], trace.step[start:end]
        # Flat over each step, so that a line ends where its series ends.
        corners = np.column_stack([t, t + h]).ravel()
        lines.append(np.column_stack([corners, np.repeat(h, 2)]))
    alpha = max(0.15, min(0.8, 6 / max(len(lines), 1)))
    top.add_collection(LineCollection(lines, colors="C0", alpha=alpha, linewidths=1.2))
    top.autoscale_view()
    top.set_ylabel(f"length of the step{unit}")
    if trace.estimates:
        top.set_yscale("log")
        middle = trace.t + trace.step / 2
        seen = trace.error > 0
        bottom.plot(
            middle[seen],
            trace.error[seen],
            color="C1",
            marker=".",
            markersize=4,
            linestyle="none",
            alpha=max(alpha, 0.3),
        )
        bottom.axhline(1.0, color="0.4", linestyle=":", label="tolerance")
        bottom.set_yscale("log")
        bottom.set_ylabel("error estimate\nover the tolerance")
        bottom.legend(loc="best", frameon=False, fontsize="small")
    else:
        top.set_ylim(0, 1.2 * top.get_ylim()[1])
    bottom.set_xlabel(f"time since the start of the series{unit}")
    for axes in panels[:, 0]:
        axes.grid(alpha=0.25)
    return to_png(figure)
