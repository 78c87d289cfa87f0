"""What a layer returns, and the solve with regularizers that all layers share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nde.models.settings import SolverSettings
from nde.regularizers import Regularizer, draw
from nde.solvers import FixedSteps, Solution, solve
from nde.solvers.brownian import Seed
from nde.solvers.precision import raised
from nde.solvers.state import State, structure_of
from nde.solvers.term import SDETerm, Term


@dataclass(frozen=True, eq=False)
class LayerOutput:
    """States along a solve, and the price of the solve.

    `ys` at the output times, leaves `(batch, T, ...)`; `final` at each sample's own
    last time; `penalty` 0-dim, the weighted sum of the regularizers, zero without any
    and outside training mode; `penalties` each value by name, unweighted and detached;
    `solution` as the solver gave it, whose state may be a transform of `ys`.
    """

    ys: State
    final: State
    penalty: Tensor
    penalties: dict[str, Tensor]
    solution: Solution


def integrate(
    term: Term,
    y0: State,
    ts: Tensor,
    *,
    settings: SolverSettings,
    regularizers: Sequence[Regularizer],
    seed: Seed | None = None,
    progress: float = 0.0,
) -> LayerOutput:
    """Solve `term` and weigh what it cost.

    Args:
        term: what to solve.
        y0: initial state, leaves `(batch, ...)`.
        ts: output times, `(T,)` or `(batch, T)`.
        settings: completed by `for_ode` or `for_sde`.
        regularizers: applied to this solve.
        seed: of the Brownian motion, or `(batch,)` one for each sample; None draws one
            from torch's generator.
        progress: done part of the training in [0, 1], for the regularizers' weights.

    Raises:
        ValueError, TypeError, SolveError: as `nde.solvers.solve`, and ValueError from a
            regularizer that the method cannot serve.
    """
    assert settings.method is not None
    controller = settings.controller()
    # Under autocast a layer's first state is in low precision, which solves refuse.
    y0 = raised(y0)
    drawn = None
    if regularizers:
        one_row = ts.ndim == 1 and (
            settings.batch == "shared" or isinstance(controller, FixedSteps)
        )
        batch = 1 if one_row else structure_of(y0).batch
        t0, t1 = ts[..., 0].expand(batch), ts[..., -1].expand(batch)
        drawn = draw(regularizers, t0.double(), t1.double())
        if drawn.error_scale is not None:
            controller = replace(controller, error_scale=drawn.error_scale)
    solution = solve(
        term,
        y0,
        ts,
        method=settings.method,
        controller=controller,
        adjoint=settings.gradients(),
        batch=settings.batch,
        noise=seed if isinstance(term, SDETerm) else None,
        probe_times=None if drawn is None else drawn.probe_times,
        max_steps=settings.max_steps,
    )
    if drawn is None:
        penalty, penalties = torch.zeros((), device=ts.device), {}
    else:
        penalties = drawn.penalties(solution)
        penalty = drawn.total(penalties, progress)
    return LayerOutput(
        ys=solution.ys,
        final=solution.final,
        penalty=penalty,
        penalties={name: value.detach() for name, value in penalties.items()},
        solution=solution,
    )
