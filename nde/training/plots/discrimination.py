"""ROC and precision-recall curves beside one another."""

from collections.abc import Sequence

from nde.training.class_curves import ClassCurves
from nde.training.plots.picture import blank, literal, to_png

# More classes than that are lines without names: no palette tells them apart.
_NAMED = 10


def draw_discrimination(curves: Sequence[ClassCurves]) -> bytes:
    """The curves of every class in `curves`, at least one, against the rest."""
    figure = blank(10.0, 5.6 if len(curves) > 1 else 4.6)
    left, right = figure.subplots(1, 2)
    named = len(curves) <= _NAMED
    for number, curve in enumerate(curves):
        style = {"color": f"C{number}"} if named else {"color": "C0", "alpha": 0.35}
        name = literal(curve.name)
        # The number first: a label with an underscore in front would not be shown.
        left.plot(
            curve.false_positives,
            curve.true_positives,
            label=f"{curve.auroc:.3f}  {name}" if named else None,
            **style,
        )
        right.plot(
            curve.recall,
            curve.precision,
            # From higher recall down: the area below is the average precision.
            drawstyle="steps-post",
            label=f"{curve.average_precision:.3f}  {name}" if named else None,
            **style,
        )
    if not named:
        for axes, areas in (
            (left, [curve.auroc for curve in curves]),
            (right, [curve.average_precision for curve in curves]),
        ):
            label = f"{sum(areas) / len(areas):.3f}  mean of {len(areas)} classes"
            axes.plot([], [], color="C0", label=label)
    left.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="0.500  guessing")
    if len(curves) == 1:
        share = curves[0].share
        label = f"{share:.3f}  guessing"
        right.axhline(share, color="0.6", linestyle=":", label=label)
    left.set_title("ROC", fontsize="medium")
    left.set_xlabel("false positive rate")
    left.set_ylabel("true positive rate")
    right.set_title("precision and recall", fontsize="medium")
    right.set_xlabel("recall")
    right.set_ylabel("precision")
    for axes, title in ((left, "area"), (right, "average precision")):
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.grid(alpha=0.25)
        axes.legend(title=title, frameon=False, fontsize="small", loc="best")
    return to_png(figure)
