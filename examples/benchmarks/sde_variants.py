"""Who solves the SDE of the speed benchmark, how, and by which Brownian motion.

torchsde has no Brownian motion that just draws: `Drawn` is the cheapest it can be
given, valid for a solve that goes forward once. Its `BrownianInterval` is as `sdeint`
makes it by default, but for a seed, or with the step told beforehand, as its
documentation advises.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from sde_equation import Workload
from torch import Tensor

from nde.solvers import (
    BrownianGrid,
    BrownianTree,
    Direct,
    FixedSteps,
    Recompute,
    SDETerm,
    solve,
)

HAS_TORCHSDE = importlib.util.find_spec("torchsde") is not None

SEED = 7

# An initial state to the state at the end.
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Variant:
    """A way to solve; `noise` is what drives it."""

    solver: str
    noise: str
    run: Run

    @property
    def name(self) -> str:
        """Solver and noise."""
        return f"{self.solver}, {self.noise}"


class Drawn:
    """A Brownian motion for torchsde that draws each increment when it is asked.

    Asked for one interval after another, forward, it has the right law.
    """

    def __init__(self, y0: Tensor, levy: str = "none", seed: int = SEED) -> None:
        self.shape, self.levy_area_approximation = y0.shape, levy
        self.kind: dict[str, Any] = {"dtype": y0.dtype, "device": y0.device}
        self.generator = torch.Generator(device=y0.device).manual_seed(seed)

    def __call__(
        self, ta: Tensor | float, tb: Tensor | float, return_U: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        h = float(tb) - float(ta)
        w = self._normal(math.sqrt(h))
        if not return_U:
            return w
        # U is the integral of W less its start: h (W / 2 + H).
        return w, h * w.mul(0.5).add_(self._normal(math.sqrt(h / 12.0)))

    def _normal(self, deviation: float) -> Tensor:
        drawn = torch.randn(self.shape, generator=self.generator, **self.kind)
        return drawn.mul_(deviation)


def interval(work: Workload, dt: float | None, entropy: int = SEED) -> Any:
    """torchsde's BrownianInterval for a problem, which may know the step."""
    import torchsde

    return torchsde.BrownianInterval(
        0.0,
        1.0,
        size=tuple(work.y0.shape),
        dtype=work.y0.dtype,
        device=work.y0.device,
        entropy=entropy,
        dt=dt,
        levy_area_approximation=work.levy,
    )


def tree(work: Workload) -> BrownianTree:
    """nde's BrownianTree for a problem."""
    size = (work.y0.shape[0], work.y0.shape[1])
    return BrownianTree(SEED, 0.0, 1.0, size, device=work.y0.device)


def ours(
    work: Workload, noise: Callable[[], Any], adjoint: Direct | Recompute | None = None
) -> Run:
    """A solve with nde."""
    term = SDETerm(
        work.equation.f, work.equation.g, interpretation=work.equation.sde_type
    )

    def run(y0: Tensor) -> Tensor:
        return solve(
            term,
            y0,
            work.ts,
            method=work.method,
            controller=FixedSteps(work.dt),
            adjoint=adjoint,
            noise=noise(),
            max_steps=work.steps,
        ).final

    return run


def theirs(work: Workload, noise: Callable[[], Any], adjoint: bool = False) -> Run:
    """A solve with torchsde, backpropagating through the solver or by its adjoint."""
    import torchsde

    integrate = torchsde.sdeint_adjoint if adjoint else torchsde.sdeint

    def run(y0: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return integrate(
                work.equation,
                y0,
                work.ts,
                bm=noise(),
                method=work.method,
                dt=work.dt,
            )[-1]

    return run


def variants(work: Workload, backward: bool) -> list[Variant]:
    """All ways to solve a problem, those of nde first."""

    def grid() -> BrownianGrid:
        return BrownianGrid(SEED)

    if backward:
        found = [
            Variant("nde direct", "grid", ours(work, grid, Direct())),
            Variant("nde recompute", "grid", ours(work, grid, Recompute())),
        ]
    else:
        found = [
            Variant("nde", "grid", ours(work, grid)),
            Variant("nde", "tree", ours(work, lambda: tree(work))),
        ]
    if not HAS_TORCHSDE:
        return found
    noises: dict[str, Callable[[], Any]] = {
        "interval": lambda: interval(work, None),
        "interval, dt": lambda: interval(work, work.dt),
    }
    for name, noise in noises.items():
        found.append(Variant("torchsde", name, theirs(work, noise)))
    drawn = theirs(work, lambda: Drawn(work.y0, work.levy))
    found.append(Variant("torchsde", "drawn", drawn))
    if backward:
        for name, noise in noises.items():
            found.append(
                Variant("torchsde adjoint", name, theirs(work, noise, adjoint=True))
            )
    return found
