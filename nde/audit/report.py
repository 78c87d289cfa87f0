"""What an audit of gradients found, and its table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Row = tuple[str, ...]


@dataclass(frozen=True)
class AdjointCheck:
    """One adjoint beside `Direct` in float64.

    error: greatest over the tensors of |g - direct| / |direct|, in the Euclidean norm,
        where |direct| counts as at least a thousandth of that of all tensors together;
        nan if it was refused.
    worst: name of the tensor with that error.
    tolerance: the error it may have.
    seconds, peak_bytes: of value and gradient, see `nde.audit.memory`.
    note: why it was refused, what it warned of, or that its steps are not those of
        `Direct`; else empty.
    """

    name: str
    chosen: bool
    error: float
    worst: str
    tolerance: float
    seconds: float
    peak_bytes: int
    note: str = ""
    refused: bool = False

    @property
    def passed(self) -> bool:
        """Whether it ran and its error is within the tolerance."""
        return not self.refused and self.error <= self.tolerance

    @property
    def verdict(self) -> str:
        """ "right", "WRONG" or "refused"."""
        return "refused" if self.refused else "right" if self.passed else "WRONG"


@dataclass(frozen=True)
class DirectionCheck:
    """Gradient of `Direct` along a random direction beside finite differences.

    All relative to the root of the sum of squares of gradient times direction, which is
    what a directional derivative comes to when nothing cancels.

    error: |finite difference - gradient|, the steps of the solve held fixed.
    uncertainty: estimated error of that finite difference.
    moving_steps, moving_uncertainty: the same with the steps free to change, as they do
        when the solve is repeated: what it leaves out to take steps for constants. It
        is no error of the gradient; nan where steps are fixed anyway.
    tolerance: the error it may have, or 20 times the uncertainty if that is more.
    """

    error: float
    uncertainty: float
    moving_steps: float
    moving_uncertainty: float
    tolerance: float

    @property
    def tells(self) -> bool:
        """Whether the finite difference is good enough to find a mistake."""
        return self.uncertainty <= 1e-4

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong as far as the finite difference can tell."""
        limit = max(self.tolerance, 20 * self.uncertainty)
        return not self.tells or self.error <= limit

    @property
    def verdict(self) -> str:
        """ "right", "WRONG" or "unclear"."""
        return "unclear" if not self.tells else "right" if self.passed else "WRONG"


@dataclass(frozen=True)
class GradientReport:
    """Outcome of `check_gradients`; `str()` is a table.

    value: of the loss in float64.
    tensors: how many, and numbers: how many entries they have together.
    adjoints: `Direct` first.
    left_out: penalties that the directions are without, whose gradient is not that of
        their value.
    """

    value: float
    tensors: int
    numbers: int
    adjoints: tuple[AdjointCheck, ...]
    directions: tuple[DirectionCheck, ...]
    left_out: tuple[str, ...] = ()

    @property
    def chosen(self) -> AdjointCheck:
        """The adjoint that was asked about."""
        return next(check for check in self.adjoints if check.chosen)

    @property
    def passed(self) -> bool:
        """Whether the chosen adjoint agrees with `Direct`, and it with differences."""
        return self.chosen.passed and all(check.passed for check in self.directions)

    @property
    def summary(self) -> str:
        """One line."""
        unclear = self.directions and not any(check.tells for check in self.directions)
        if not self.chosen.passed:
            text = (
                f"WRONG: {self.chosen.name} is {self.chosen.error:.1e} away from "
                f"direct in {self.chosen.worst}"
            )
        elif not self.passed:
            worst = max(c.error for c in self.directions if not c.passed)
            text = f"WRONG: direct is {worst:.1e} away from finite differences"
        else:
            text = f"the gradients of {self.chosen.name} are right"
            if unclear:
                text += " as far as direct is: finite differences cannot tell"
        return f"{text} (tensors: {self.tensors}, numbers in them: {self.numbers})"

    def adjoint_rows(self) -> list[Row]:
        """Cells of the table of adjoints, its head first."""
        rows: list[Row] = [("adjoint", "error", "allowed", "seconds", "peak MiB", "")]
        base = self.adjoints[0]
        for check in self.adjoints:
            name = f"{check.name} *" if check.chosen else check.name
            if check.refused:
                rows.append((name, "", "", "", "", "refused"))
                continue
            rows.append(
                (
                    name,
                    "reference" if check is base else f"{check.error:.1e}",
                    "" if check is base else f"{check.tolerance:.0e}",
                    f"{check.seconds:.4f} ({check.seconds / base.seconds:.2f}x)",
                    f"{check.peak_bytes / 2**20:.3f} "
                    f"({check.peak_bytes / max(base.peak_bytes, 1):.2f}x)",
                    "" if check is base else check.verdict,
                )
            )
        return rows

    def direction_rows(self) -> list[Row]:
        """Cells of the table of directions, its head first."""
        rows: list[Row] = [("direction", "error", "uncertainty", "if steps move", "")]
        for number, check in enumerate(self.directions, 1):
            moving = f"{check.moving_steps:.0e} (+-{check.moving_uncertainty:.0e})"
            rows.append(
                (
                    str(number),
                    f"{check.error:.1e}",
                    f"{check.uncertainty:.1e}",
                    moving if math.isfinite(check.moving_steps) else "-",
                    check.verdict,
                )
            )
        return rows

    def notes(self) -> list[str]:
        """What to know besides: refusals and warnings of adjoints."""
        told = [f"{check.name}: {check.note}" for check in self.adjoints if check.note]
        if self.directions and self.left_out:
            names = ", ".join(self.left_out)
            told.append(f"directions are without {names}, which is no plain gradient")
        return told

    def __str__(self) -> str:
        tables = [_aligned(self.adjoint_rows())]
        if self.directions:
            tables.append(_aligned(self.direction_rows()))
        return "\n\n".join([*tables, "\n".join([*self.notes(), self.summary])])


def _aligned(rows: Sequence[Row]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0])]
        cells += [c.rjust(w) for c, w in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
