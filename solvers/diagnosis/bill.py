"""What a solve spent, and what is said about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nde.solvers.controller import PID
from nde.solvers.diagnosis.limits import limits_of
from nde.solvers.engine import Run

if TYPE_CHECKING:
    from nde.solvers.stats import Stats

# No sample attempts more steps: nothing to save. An automatic start takes four or five
# steps to its full length, an oscillator 20 for a period at rtol=1e-6.
CHEAP = 20

# Share of a row's attempts from which on it is named as a sample concerned.
_CONCERNED = 0.1


@dataclass(frozen=True)
class Finding:
    """One reason for the cost of a solve.

    `cause` is one of "failure", "slow_sample", "stiffness", "kink", "rounding",
    "tolerance", "unknown" (tolerance or stiffness: the method has no estimate),
    "transient", "stops", "outputs", "max_step", "start", "restarts", "fixed_steps",
    "shared", "cheap". `samples` are those concerned, `share` what it explains of the
    samples' attempted steps that the batch paid for (of failures: those of the samples
    that failed, whatever the cause); remarks have a share of 0. `evidence` are the
    numbers, `text` says them, `advice` names the setting to change.
    """

    cause: str
    samples: tuple[int, ...]
    share: float
    evidence: Mapping[str, float]
    text: str
    advice: str


class Bill:
    """What a solve spent, per row, on the CPU."""

    def __init__(self, runs: Sequence[Run], status: Tensor, stats: Stats) -> None:
        self.runs, self.status, self.stats = runs, status, stats
        layout = runs[0].layout
        self.problem = runs[0].problem
        self.shared = layout.shared
        self.batch = layout.structure.batch
        self.rows = self.problem.rows
        self.sign = -1.0 if layout.reverse else 1.0
        self.all = tuple(range(self.batch))
        adaptive = isinstance(self.problem.controller, PID) and self.rows > 0
        self.limits = [limits_of(run) for run in runs] if adaptive else []
        tapes = [run.outcome.tape for run in runs]
        totals = [(tape.accepted + tape.rejected).cpu().double() for tape in tapes]
        self.total = torch.stack(totals).sum(dim=0)
        self.rejected = torch.stack([tape.rejected.cpu() for tape in tapes]).sum(dim=0)
        # Finished rows rest, but are evaluated while others go on.
        self.paid = self.rows * sum(float(x.max()) if len(x) else 0.0 for x in totals)

    def spent(self, cause: str) -> Tensor:
        """Attempts per row."""
        return torch.stack([part.bill[cause] for part in self.limits]).sum(dim=0)

    def share(self, attempts: Tensor) -> float:
        return min(float(attempts.sum()) / self.paid, 1.0) if self.paid else 0.0

    def samples(self, rows: Tensor) -> tuple[int, ...]:
        """Samples of the rows marked."""
        if self.shared:
            return self.all if bool(rows.any()) else ()
        return tuple(rows.nonzero().view(-1).tolist())

    def concerned(self, attempts: Tensor) -> tuple[int, ...]:
        return self.samples(attempts > _CONCERNED * self.total.clamp_min(1.0))

    def of(self, name: str, where: str) -> Tensor:
        """Values of a column of `Limits` at the steps marked by another."""
        return torch.cat(
            [getattr(part, name)[getattr(part, where)] for part in self.limits]
        )


def named(samples: Sequence[int], batch: int) -> str:
    if len(samples) == batch and batch > 1:
        return "all samples"
    shown = ", ".join(map(str, samples[:5])) + (", ..." if len(samples) > 5 else "")
    if len(samples) == 1:
        return f"sample {shown}"
    return f"{len(samples)} samples ({shown})"


def median(values: Tensor) -> float:
    return float(values.double().median()) if values.numel() else float("nan")


def number(value: float | Tensor) -> float:
    return float(value.double().median()) if isinstance(value, Tensor) else value
