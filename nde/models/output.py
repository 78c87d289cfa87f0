"""What a layer returns, and the solve with regularizers that all layers share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nde.models.settings import SolverSettings
from nde.regularizers import AnyRegularizer, apply
from nde.solvers import FixedSteps, Solution, solve
from nde.solvers.brownian import Seed
from nde.solvers.precision import raised
from nde.solvers.state import State
from nde.solvers.term import SDETerm, Term


@dataclass(frozen=True, eq=False)
class LayerOutput:
    """States along a solve, and the price of the solve.

    `ys` at the output times, leaves `(batch, T, ...)`; `final` at each sample's own
    last time; `penalty` 0-dim, the weighted sum of the regularizers, zero without any
    and outside training mode; `penalties` each value by name, unweighted and detached,
    `terms` the same with their graphs, and `weights` what each was multiplied with;
    `solution` as the solver gave it, whose state may be a transform of `ys`, and whose
    `ts` are those solved for: others than asked for where a regularizer moves them.
    """

    ys: State
    final: State
    penalty: Tensor
    penalties: dict[str, Tensor]
    terms: dict[str, Tensor]
    weights: dict[str, float]
    solution: Solution


def integrate(
    term: Term,
    y0: State,
    ts: Tensor,
    *,
    settings: SolverSettings,
    regularizers: Sequence[AnyRegularizer],
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
            regularizer that the method or equation cannot serve.
    """
    assert settings.method is not None
    controller = settings.controller()
    # Under autocast a layer's first state is in low precision, which solves refuse.
    y0 = raised(y0)
    one_row = ts.ndim == 1 and (
        settings.batch == "shared" or isinstance(controller, FixedSteps)
    )
    applied = apply(regularizers, y0, ts, one_row=one_row) if regularizers else None
    if applied is not None and applied.draw.error_scale is not None:
        controller = replace(controller, error_scale=applied.draw.error_scale)
    solution = solve(
        term if applied is None else applied.beside(term),
        y0,
        ts if applied is None else applied.ts,
        method=settings.method,
        controller=controller,
        adjoint=settings.gradients(),
        batch=settings.batch,
        noise=seed if isinstance(term, SDETerm) else None,
        probe_times=None if applied is None else applied.probe_times,
        max_steps=settings.max_steps,
    )
    terms = {} if applied is None else applied.penalties(solution)
    weights = {} if applied is None else applied.weights(progress)
    zero = torch.zeros((), device=ts.device)
    parts = [weights[name] * value for name, value in terms.items()]
    return LayerOutput(
        ys=solution.ys,
        final=solution.final,
        penalty=torch.stack(parts).sum() if parts else zero,
        penalties={name: value.detach() for name, value in terms.items()},
        terms=terms,
        weights=weights,
        solution=solution,
    )
