"""What all pictures share: a figure without global state, safe names, a PNG."""

import io
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LONGEST = 24


def blank(width: float, height: float) -> "Figure":
    """An empty figure of that size in inches.

    It belongs to nobody else: the caller's backend and open figures stay alone.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def to_png(figure: "Figure") -> bytes:
    """The figure as a PNG."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Names come from the data and may be in any script; boxes are no failure.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def literal(name: str) -> str:
    """A name from the data that matplotlib shows as it is, shortened if long."""
    short = name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
    # A pair of dollar signs would be read as a formula.
    return short.replace("$", r"\$")
