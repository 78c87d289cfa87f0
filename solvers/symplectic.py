"""Symplectic methods for separable systems: a pair (q, p) moved by turns.

q' = a(t, p) and p' = b(t, q), as Hamilton's equations of H = T(p) + V(q) are: f returns
both, and a step uses one half of each value. Such steps are canonical maps, so that the
energy wavers over long times and does not drift, as long as the steps are equal. Steps
are not read inside: fixed grids are cut at the times of output, so give these evenly.
Steps are not adapted, and rest exactly.

Hairer, Lubich, Wanner, *Geometric Numerical Integration*, I.1.2 and VI.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nde.solvers.arithmetic import along, clock, later
from nde.solvers.bound import Bound
from nde.solvers.stages import Stages
from nde.solvers.state import Structure
from nde.solvers.types import Increment, Step, StepOut


@dataclass(frozen=True)
class SemiImplicitEuler:
    """p1 = p0 + h b(t0, q0), then q1 = q0 + h a(t1, p1): order 1.

    Two calls of f a step, as each needs what the other gave. Stable on an oscillation
    of frequency w for h w < 2.
    """

    name: str = "semi_implicit_euler"
    error_order: int | None = None
    has_stiffness: bool = False
    stability: float | None = None
    has_interpolant: bool = False
    gains: tuple[float, float, float] = (0.0, 1.0, 0.0)
    noise: float = 0.0
    extra_evaluations: int = 0
    if_apart: str | None = None
    start_evaluations: int = 0

    def evaluations(self, steps: Tensor) -> Tensor:
        return steps * 2

    def interpolant(self, k: Tensor) -> Tensor:
        raise AssertionError("a symplectic step is not read inside")

    def extend(
        self, term: Bound, t: Step, y: Tensor, inc: Increment, stages: Stages | None
    ) -> None:
        pass

    def workspace(self, y: Tensor, graph: bool) -> Stages | None:
        return None

    def start(self, term: Bound, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return ()

    def step(
        self,
        term: Bound,
        t: Step,
        y: Tensor,
        inc: Increment,
        carry: tuple[Tensor, ...],
        stages: Stages | None,
    ) -> StepOut:
        h = inc.dt
        q, p = _halves(term, y)
        p1 = along(p, _halves(term, term.f(clock(t, y), y))[1], h)
        k = term.f(clock(later(t, h), y), _whole(q, p1, y))
        q1 = along(q, _halves(term, k)[0], h)
        return StepOut(
            y1=_whole(q1, p1, y), error=None, stiffness=None, carry=(), stages=None
        )


@dataclass(frozen=True)
class Leapfrog:
    """Stormer and Verlet's method, kick, drift, kick: order 2, reversible in time.

    p' = p0 + h/2 b(t0, q0), q1 = q0 + h a(t0 + h/2, p'), p1 = p' + h/2 b(t1, q1).
    The last kick's b begins the next step: two calls of f a step, and one before the
    first. Stable on an oscillation of frequency w for h w < 2.
    """

    name: str = "leapfrog"
    error_order: int | None = None
    has_stiffness: bool = False
    stability: float | None = None
    has_interpolant: bool = False
    gains: tuple[float, float, float] = (0.0, 1.0, 0.0)
    noise: float = 0.0
    extra_evaluations: int = 0
    if_apart: str | None = None
    start_evaluations: int = 1

    def evaluations(self, steps: Tensor) -> Tensor:
        return steps * 2

    def interpolant(self, k: Tensor) -> Tensor:
        raise AssertionError("a symplectic step is not read inside")

    def extend(
        self, term: Bound, t: Step, y: Tensor, inc: Increment, stages: Stages | None
    ) -> None:
        pass

    def workspace(self, y: Tensor, graph: bool) -> Stages | None:
        return None

    def start(self, term: Bound, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        # A copy: the field may return the same tensor at every call.
        kick = _halves(term, term.f(t.to(y.dtype), y))[1].clone()
        return (_by_rows(kick, y),)

    def step(
        self,
        term: Bound,
        t: Step,
        y: Tensor,
        inc: Increment,
        carry: tuple[Tensor, ...],
        stages: Stages | None,
    ) -> StepOut:
        h, half = inc.dt, 0.5 * inc.dt
        q, p = _halves(term, y)
        between = along(p, carry[0].reshape(p.shape), half)
        drift = term.f(clock(later(t, half), y), _whole(q, between, y))
        q1 = along(q, _halves(term, drift)[0], h)
        kick = term.f(clock(later(t, h), y), _whole(q1, between, y))
        kick = _halves(term, kick)[1].clone()
        return StepOut(
            y1=_whole(q1, along(between, kick, half), y),
            error=None,
            stiffness=None,
            carry=(_by_rows(kick, y),),
            stages=None,
        )


def check_pair(name: str, structure: Structure) -> None:
    """ValueError unless the state is a pair of tensors alike."""
    skeleton, leaves = structure.skeleton, structure.leaves
    if isinstance(skeleton, (tuple, list)) and list(skeleton) == [0, 1]:
        if leaves[0] == leaves[1]:
            return
        shapes = [(structure.batch, *leaf.shape) for leaf in leaves]
        dtypes = [str(leaf.dtype).removeprefix("torch.") for leaf in leaves]
        got = f"{shapes[0]} {dtypes[0]} and {shapes[1]} {dtypes[1]}"
    elif isinstance(skeleton, int):
        got = "one tensor"
    else:
        got = f"a {type(skeleton).__name__} with {len(leaves)} tensors in all"
    raise ValueError(
        f"method {name!r} moves q and p by turns and needs y0 = (q, p), two tensors of "
        f"one shape and dtype, got {got}; pass such a pair, and an f(t, (q, p)) that "
        "returns (dq, dp) with dq independent of q and dp of p"
    )


def _halves(term: Bound, y: Tensor) -> tuple[Tensor, Tensor]:
    """The parts q and p `(batch, width)` of every sample."""
    samples = term.layout.to_batch(y)
    q, p = samples.tensor_split(2, dim=1)
    return q, p


def _whole(q: Tensor, p: Tensor, like: Tensor) -> Tensor:
    """`(rows, dim)` of q and p."""
    return torch.cat([q, p], dim=1).view(like.shape)


def _by_rows(part: Tensor, y: Tensor) -> Tensor:
    return part.reshape(y.shape[0], y.shape[1] // 2)
