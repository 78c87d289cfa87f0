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

from dataclasses import dataclass
from operator import itemgetter
from typing import Literal

import torch
from torch import Tensor

from nde.regularizers.solver_cost import require_error, require_stiffness
from nde.regularizers.weight import Weight, check_weight
from nde.solvers import Solution
from nde.solvers.state import State, map_tensors

Sampling = Literal["unbiased", "biased"]


@dataclass(frozen=True)
class LocalSampling:
    """Where and how the extra steps are taken.

    `sampling`: "unbiased" draws times uniform over the interval, "biased" draws one of
    the accepted steps and starts where it did. `draws` steps per solve. `step`
    "accepted" takes the accepted step that holds the time, "initial" Hairer's initial
    step; both are constants, clipped to the end. `k1` "attached" or "frozen";
    `state` "detached" or "attached" (unbiased only).

    Raises ValueError naming the option.
    """

    sampling: Sampling = "unbiased"
    draws: int = 1
    step: Literal["accepted", "initial"] = "accepted"
    k1: Literal["attached", "frozen"] = "attached"
    state: Literal["detached", "attached"] = "detached"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("sampling", ("unbiased", "biased")),
            ("step", ("accepted", "initial")),
            ("k1", ("attached", "frozen")),
            ("state", ("detached", "attached")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {allowed}, got {getattr(self, name)!r}"
                )
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
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Error, stiffness and length `(draws, rows)` of the extra steps."""
        results = [
            self._one(solution, *start)
            for start in self._starts(solution, times, states)
        ]
        error, stiffness, h = zip(*results, strict=True)
        return torch.stack(error), torch.stack(stiffness), torch.stack(h)

    def _starts(
        self, solution: Solution, times: Tensor | None, states: State | None
    ) -> list[tuple[Tensor, Tensor, State]]:
        if times is None:
            accepted = solution.record.outcome.tape.accepted
            starts = []
            for _ in range(self.draws):
                u = torch.rand(accepted.shape, device=accepted.device)
                number = (u * accepted).long().clamp_max(accepted - 1).clamp_min(0)
                starts.append(solution.accepted_step(number))
            return starts
        return [
            (t, solution.step_at(t), map_tensors(itemgetter((slice(None), i)), states))
            for i, t in enumerate(times.unbind(1))
        ]

    def _one(
        self, solution: Solution, t: Tensor, h: Tensor, y: State
    ) -> tuple[Tensor, Tensor, Tensor]:
        if self.state == "detached":
            y = map_tensors(torch.Tensor.detach, y)
        if self.step == "initial":
            h = solution.first_step(t, y)
        error, stiffness = solution.embedded_step(t, y, h, self.k1)
        return error, stiffness, h.to(error.dtype)


@dataclass(frozen=True)
class LocalError:
    """Local error of extra steps: the mean of E h over draws and samples.

    E is the tolerance-normalised error estimate, h the step, a constant. `options`
    say where the steps are taken. Raises ValueError for a method without an error
    estimate.
    """

    weight: Weight = 1.0
    options: LocalSampling = LocalSampling()
    name: str = "local-error"

    def __post_init__(self) -> None:
        check_weight(self.weight)

    def times(self, t0: Tensor, t1: Tensor) -> Tensor | None:
        return self.options.times(t0, t1)

    def __call__(
        self, solution: Solution, times: Tensor | None, states: State | None
    ) -> Tensor:
        require_error(solution)
        error, _, h = self.options.steps(solution, times, states)
        return (error * h).mean()


@dataclass(frozen=True)
class LocalStiffness:
    """Stiffness of extra steps: the mean of S / s over draws and samples.

    S estimates the largest eigenvalue of the Jacobian, s is the method's extent of
    stability. Raises ValueError for a method without the estimate.
    """

    weight: Weight = 1.0
    options: LocalSampling = LocalSampling()
    name: str = "local-stiffness"

    def __post_init__(self) -> None:
        check_weight(self.weight)

    def times(self, t0: Tensor, t1: Tensor) -> Tensor | None:
        return self.options.times(t0, t1)

    def __call__(
        self, solution: Solution, times: Tensor | None, states: State | None
    ) -> Tensor:
        size = require_stiffness(solution)
        _, stiffness, _ = self.options.steps(solution, times, states)
        return stiffness.mean() / size
