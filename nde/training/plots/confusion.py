"""Confusion matrix: counts, coloured by their share of the true class."""

from collections.abc import Sequence

from torch import Tensor

from nde.training.plots.picture import blank, literal, to_png

# Beyond that many classes the counts would run into one another.
_WRITTEN = 20


def draw_confusion(matrix: Tensor, classes: Sequence[str]) -> bytes:
    """`matrix` `(true, predicted)` of counts, both in the order of `classes`."""
    shares = matrix.double() / matrix.sum(dim=1, keepdim=True).clamp(min=1)
    size = min(3.2 + 0.45 * len(classes), 14.0)
    figure = blank(size + 1.0, size)
    axes = figure.subplots()
    image = axes.imshow(shares.numpy(), vmin=0, vmax=1, cmap="Blues")
    names = [literal(name) for name in classes]
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="both", labelsize="small", length=0)
    if max(len(name) for name in names) > 3:
        axes.tick_params(axis="x", labelrotation=90)
    if len(classes) <= _WRITTEN:
        for i, row in enumerate(matrix.tolist()):
            for j, count in enumerate(row):
                ink = "white" if shares[i, j] > 0.6 else "black" if count else "0.7"
                axes.text(
                    j, i, str(count), ha="center", va="center", color=ink, fontsize=9
                )
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.85)
    return to_png(figure)
