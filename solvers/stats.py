"""What a solve cost and estimated, per sample."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from nde.solvers.engine import Run
from nde.solvers.term import Layout


class Stats:
    """Counts and estimates of a solve, worked out when first asked for.

    Of the accepted steps there is `(steps, batch)`, first to last, padded with zeros
    where `valid` is false. Error and stiffness estimates are differentiable; step sizes
    are constants.
    """

    def __init__(self, runs: tuple[Run, ...]) -> None:
        self._runs = runs
        self._layout = runs[0].layout
        self._tapes = [run.outcome.tape for run in runs]

    def __repr__(self) -> str:
        counts = [self.evaluations, self.accepted, self.rejected]
        if not counts[0].numel():
            return "Stats(no samples)"
        low = [int(count.min()) for count in counts]
        high = [int(count.max()) for count in counts]
        names = ("evaluations", "accepted", "rejected")
        shown = ", ".join(
            f"{name} {a}" if a == b else f"{name} {a} to {b}"
            for name, a, b in zip(names, low, high, strict=True)
        )
        return f"Stats({counts[0].numel()} samples: {shown})"

    @cached_property
    def evaluations(self) -> Tensor:
        """Vector-field calls `(batch,)`."""
        counts = [self._runs[0].outcome.evaluations]
        # Rows that have ended rest in later runs.
        for run in self._runs[1:]:
            counts.append(torch.where(run.active, run.outcome.evaluations, 0))
        return self._sum(counts)

    @cached_property
    def accepted(self) -> Tensor:
        """Accepted steps `(batch,)`."""
        return self._sum([tape.accepted for tape in self._tapes])

    @cached_property
    def rejected(self) -> Tensor:
        """Rejected steps `(batch,)`."""
        return self._sum([tape.rejected for tape in self._tapes])

    @cached_property
    def t(self) -> Tensor:
        """Starts of the accepted steps."""
        t = self._rows([tape.grid(tape.t) for tape in self._tapes])
        return -t if self._layout.reverse else t

    @cached_property
    def step(self) -> Tensor:
        """Lengths of the accepted steps."""
        return self._rows([tape.grid(tape.h) for tape in self._tapes])

    @cached_property
    def error_estimate(self) -> Tensor:
        """RMS of the embedded error over the tolerance, at most 1 where it decided.

        NaN if the method has no estimate. Of an SDE, high-order methods judge adapted
        steps along another motion than their own, so that a grid of the same steps may
        have other estimates (`nde.solvers.stochastic.estimate`).
        """
        return self._rows([run.outcome.error for run in self._runs])

    @cached_property
    def stiffness(self) -> Tensor:
        """About the largest eigenvalue of the Jacobian.

        NaN if the method has no estimate.
        """
        return self._rows([run.outcome.stiffness for run in self._runs])

    @cached_property
    def valid(self) -> Tensor:
        """Which steps there are."""
        return self._rows([tape.valid for tape in self._tapes])

    def _sum(self, values: list[Tensor]) -> Tensor:
        total = values[0] if len(values) == 1 else torch.stack(values).sum(dim=0)
        return spread(self._layout, total)

    def _rows(self, values: list[Tensor]) -> Tensor:
        joined = values[0] if len(values) == 1 else torch.cat(values)
        return spread(self._layout, joined)


def spread(layout: Layout, value: Tensor) -> Tensor:
    """One entry per row to one per sample, along the last axis."""
    if not layout.shared:
        return value
    return value.expand(*value.shape[:-1], layout.structure.batch)
