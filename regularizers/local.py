"""Local regularizers: one extra step of the solver at a random time.

Pal, Edelman, Rackauckas, *Locally Regularized Neural Differential Equations*, ICML
2023. They need the state at a time and nothing else from the solve, so they work with
any adjoint.

The defaults differ from the published code, which starts from Hairer's initial step and
holds the first stage constant. Its step is so short that the penalty vanishes beside
any task loss, and a constant first stage breaks sum_i b_tilde_i = 0, so that the
gradient is not that of the error estimate: 58 to 900 times too long where the estimate
is about 0.1, at a cosine of 0.3 to 0.6. `step="initial", k1="frozen"` reproduces it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nde.regularizers.measure import Measure, steps_of
from nde.regularizers.serving import (
    check_scale,
    require_error,
    require_stiffness,
    warn_of_rounding,
)
from nde.regularizers.weight import Weight, check_weight
from nde.solvers import Solution
from nde.solvers.controller import ErrorScale
from nde.solvers.extra_step import StepNoise
from nde.solvers.state import State, map_tensors

Sampling = Literal["unbiased", "biased"]
Average = Literal["steps", "time"]


class ExtraSteps(NamedTuple):
    """Error, stiffness, length and importance of extra steps: `(draws, rows)` each."""

    error: Tensor
    stiffness: Tensor
    h: Tensor
    importance: Tensor


@dataclass(frozen=True)
class LocalSampling:
    """Where and how the extra steps are taken.

    Args:
        sampling: "unbiased" draws times uniform over the interval, of each sample its
            own unless the batch shares its steps (a method without interpolant, of an
            SDE, then lands on them); "biased" draws one of the accepted steps, which
            the adjoint has to keep, and starts where it did.
        draws: steps per solve.
        step: "accepted" takes the accepted step that holds the time, "initial" Hairer's
            initial step (ODE); both are constants, clipped to the end.
        k1: the first stage, "attached" to the graph or "frozen".
        state: where a step starts, "detached" or "attached" (unbiased only).
        average: what the mean of many draws approaches: "steps" that over accepted
            steps, as of a global regularizer, "time" that over the interval. None is
            "time" for unbiased and "steps" for biased draws; the other one gives draws
            their importance, h over the mean of all steps or the inverse.
        scale: whether atol + rtol |y|, by which errors are divided, passes gradients,
            "attached" or "detached"; None as in the solve.
        noise: what drives the step of an SDE: "fresh" noise from torch's generator, or
            the "same" that drove the solve over that time. Where fixed steps have
            drawn it on their grid, only accepted steps have it.

    Raises:
        ValueError: naming the argument.
    """

    sampling: Sampling = "unbiased"
    draws: int = 1
    step: Literal["accepted", "initial"] = "accepted"
    k1: Literal["attached", "frozen"] = "attached"
    state: Literal["detached", "attached"] = "detached"
    average: Average | None = None
    scale: ErrorScale | None = None
    noise: StepNoise = "fresh"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("sampling", ("unbiased", "biased")),
            ("step", ("accepted", "initial")),
            ("k1", ("attached", "frozen")),
            ("state", ("detached", "attached")),
            ("average", ("steps", "time", None)),
            ("noise", ("fresh", "same")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {allowed}, got {getattr(self, name)!r}"
                )
        check_scale(self.scale)
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, got {self.draws}")
        if self.state == "attached" and self.sampling == "biased":
            raise ValueError(
                "state='attached' needs sampling='unbiased': recorded steps carry no "
                "gradient"
            )

    def times(self, t0: Tensor, t1: Tensor) -> Tensor | None:
        """Uniform times `(rows, draws)`; None where recorded steps are drawn."""
        if self.sampling == "biased":
            return None
        u = torch.rand(t0.shape[0], self.draws, dtype=t0.dtype, device=t0.device)
        return t0.unsqueeze(1) + (t1 - t0).unsqueeze(1) * u

    def steps(
        self, solution: Solution, times: Tensor | None, states: State | None
    ) -> ExtraSteps:
        """Take the extra steps from the times and states drawn."""
        results = [
            self._one(solution, *start)
            for start in self._starts(solution, times, states)
        ]
        return ExtraSteps(*map(torch.stack, zip(*results, strict=True)))

    def _starts(
        self, solution: Solution, times: Tensor | None, states: State | None
    ) -> list[tuple[Tensor, Tensor, State]]:
        """Times, lengths of the accepted steps that hold them, and states."""
        if times is None:
            accepted = solution.record.outcome.tape.accepted
            starts = []
            for _ in range(self.draws):
                u = torch.rand(accepted.shape, device=accepted.device)
                number = (u * accepted).long().clamp_max(accepted - 1).clamp_min(0)
                starts.append(solution.accepted_step(number))
            return starts
        return [
            (
                t,
                solution.whole_step_at(t),
                map_tensors(itemgetter((slice(None), i)), states),
            )
            for i, t in enumerate(times.unbind(1))
        ]

    def _one(
        self, solution: Solution, t: Tensor, whole: Tensor, y: State
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if self.state == "detached":
            y = map_tensors(torch.Tensor.detach, y)
        if self.step == "initial":
            h = solution.first_step(t, y)
        else:
            h = solution.clipped(t, whole)
        error, stiffness = solution.embedded_step(
            t, y, h, self.k1, scale=self.scale, noise=self.noise
        )
        importance = self._importance(solution, whole).to(error.dtype)
        return error, stiffness, h.to(error.dtype), importance

    def _importance(self, solution: Solution, whole: Tensor) -> Tensor:
        """How much a draw counts for that the mean of many be the one asked for."""
        drawn = "time" if self.sampling == "unbiased" else "steps"
        if self.average in (None, drawn):
            return torch.ones_like(whole)
        tape = solution.record.outcome.tape
        share = whole * tape.accepted / tape.grid(tape.h).sum(dim=0)
        if self.average == "steps":
            share = 1.0 / share
        # A sample that has nowhere to go has no step to count.
        return torch.where(whole > 0, share, 0.0)


@dataclass(frozen=True)
class LocalError:
    """Local error of extra steps: by default the mean of E h over draws and samples.

    E is the tolerance-normalised error estimate, h the step, a constant. `options` say
    where the steps are taken, `measure` what one counts for, as for `ErrorEstimate`.
    Warns where E is mostly rounding. Raises ValueError for a method without an error
    estimate.
    """

    weight: Weight = 1.0
    options: LocalSampling = LocalSampling()
    name: str = "local-error"
    measure: Measure = Measure()

    def __post_init__(self) -> None:
        check_weight(self.weight)

    def times(self, t0: Tensor, t1: Tensor) -> Tensor | None:
        return self.options.times(t0, t1)

    def __call__(
        self, solution: Solution, times: Tensor | None, states: State | None
    ) -> Tensor:
        require_error(solution)
        warn_of_rounding(solution)
        steps = self.options.steps(solution, times, states)
        return (steps.importance * self.measure.of(steps.error, steps.h)).mean()


@dataclass(frozen=True)
class LocalStiffness:
    """Stiffness of extra steps: by default the mean of S / s over draws and samples.

    S estimates the largest eigenvalue of the Jacobian, s is the method's extent of
    stability. `options`, `measure` as for `LocalError`. Raises ValueError for a method
    without the estimate.
    """

    weight: Weight = 1.0
    options: LocalSampling = LocalSampling()
    name: str = "local-stiffness"
    measure: Measure = Measure(with_h=False)

    def __post_init__(self) -> None:
        check_weight(self.weight)

    def times(self, t0: Tensor, t1: Tensor) -> Tensor | None:
        return self.options.times(t0, t1)

    def __call__(
        self, solution: Solution, times: Tensor | None, states: State | None
    ) -> Tensor:
        size = require_stiffness(solution)
        steps = self.options.steps(solution, times, states)
        value = self.measure.of(steps.stiffness / size, steps.h)
        return (steps.importance * value).mean()


@dataclass(frozen=True)
class LocalPredictedSteps:
    """Steps of a solve at the tolerance, from extra steps: the mean of T E^(1/q) / h.

    An estimate of what `PredictedSteps` sums up, with T the length of the interval and
    q the power of h in the error estimate; over draws and samples. `options`
    as for `LocalError`; the average is always that over time. Warns and raises as
    `LocalError`, and ValueError for options that average over steps.
    """

    weight: Weight = 1.0
    options: LocalSampling = LocalSampling()
    name: str = "local-predicted-steps"

    def __post_init__(self) -> None:
        check_weight(self.weight)
        if self.options.average == "steps":
            raise ValueError(
                "average='steps' in options: steps per time are averaged over time; "
                "leave it out"
            )

    def times(self, t0: Tensor, t1: Tensor) -> Tensor | None:
        return self.options.times(t0, t1)

    def __call__(
        self, solution: Solution, times: Tensor | None, states: State | None
    ) -> Tensor:
        order = require_error(solution)
        warn_of_rounding(solution)
        options = replace(self.options, average="time")
        steps = options.steps(solution, times, states)
        span = _span(solution).to(steps.h.dtype)
        # A step of length zero has no error to be worth a step.
        rate = torch.where(steps.h > 0, span / steps.h, 0.0)
        return (steps.importance * rate * steps_of(steps.error, order)).mean()


def _span(solution: Solution) -> Tensor:
    """Time that each row passed `(rows,)`."""
    run = solution.record
    return run.outcome.tape.t_end - run.problem.t0
