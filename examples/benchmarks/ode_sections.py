"""Two questions that curves of single solves do not answer.

What does a batch cost whose samples need very different steps, and how many steps does
single precision reject?
"""

from __future__ import annotations

import warnings

import torch
from ode_problems import Field, van_der_pol
from ode_runs import HAS_TORCHDIFFEQ, MAX_STEPS, Counted
from torch import Tensor

from nde.solvers import PID, ODETerm, solve

# Relative and absolute tolerance that a library takes if none is given.
DEFAULTS = {"nde": (1e-3, 1e-6), "torchdiffeq": (1e-7, 1e-9)}

TOLERANCE = 1e-6


def _solve_batch(
    field: Field, y0: Tensor, t1: float, tolerance: float, method: str, batch: str
) -> tuple[Tensor, int, int]:
    """End states, field calls and sample-evaluations of nde."""
    counted = Counted(field)
    solution = solve(
        ODETerm(counted),
        y0,
        torch.tensor([0.0, t1], dtype=y0.dtype),
        method=method,
        controller=PID(rtol=tolerance, atol=tolerance),
        batch=batch,
        max_steps=MAX_STEPS,
    )
    return solution.final, counted.calls, int(solution.stats.evaluations.sum())


@torch.no_grad()
def batch_table(samples: int) -> list[list[str]]:
    """Oscillators with mu log-uniform in 0.5 to 20, to t = 10, at 1e-6."""
    logs = torch.linspace(0.0, 1.0, samples, dtype=torch.float64)
    field, t1 = van_der_pol(0.5 * 40.0**logs), 10.0
    y0 = torch.tensor([[2.0, 0.0]], dtype=torch.float64).repeat(samples, 1)
    exact = _solve_batch(field, y0, t1, 1e-12, "tsit5", "per_sample")[0]
    table = [
        [
            "library",
            "method",
            "steps",
            "field calls",
            "sample-evaluations",
            "median error",
            "max error",
        ]
    ]

    def add(
        library: str, method: str, steps: str, run: tuple[Tensor, int, int]
    ) -> None:
        end, calls, evaluations = run
        error = (end - exact).abs().amax(1)
        cost = [f"{calls:,}", f"{evaluations:,}"]
        errors = [f"{error.median():.1e}", f"{error.max():.1e}"]
        table.append([library, method, steps, *cost, *errors])

    for method in ("tsit5", "dopri5"):
        for batch in ("per_sample", "shared"):
            run = _solve_batch(field, y0, t1, TOLERANCE, method, batch)
            add("nde", method, batch.replace("_", " "), run)
    if HAS_TORCHDIFFEQ:
        from torchdiffeq import odeint

        counted = Counted(field)
        ts = torch.tensor([0.0, t1], dtype=torch.float64)
        end = odeint(counted, y0, ts, rtol=TOLERANCE, atol=TOLERANCE, method="dopri5")[
            -1
        ]
        cost = (counted.calls, counted.calls * samples)
        add("torchdiffeq", "dopri5", "shared", (end, *cost))
    return table


@torch.no_grad()
def float32_table(t1: float) -> list[list[str]]:
    """Steps of y' = A (y - 1) in single precision, eigenvalues -0.1 +- i, from 0.

    The solution stays of size one, while steps come to be limited by stability.
    """
    matrix = torch.tensor([[-0.1, 1.0], [-1.0, -0.1]])
    pull = -matrix.sum(1)
    y0 = torch.zeros(1, 2)
    ts = torch.tensor([0.0, t1])
    table = [["library", "method", "rtol", "atol", "accepted", "rejected", "error"]]

    def field(t: Tensor, y: Tensor) -> Tensor:
        return y @ matrix.T + pull

    def add(
        library: str,
        method: str,
        tolerances: tuple[float, float],
        run: tuple[int, int, Tensor],
    ) -> None:
        accepted, rejected, end = run
        error = f"{(end - 1.0).abs().max():.1e}"
        levels = [f"{tolerance:g}" for tolerance in tolerances]
        table.append([library, method, *levels, str(accepted), str(rejected), error])

    for rtol, atol in DEFAULTS.values():
        for method in ("tsit5", "dopri5"):
            with warnings.catch_warnings():
                # That the tighter tolerances are below rounding is the point here.
                warnings.simplefilter("ignore", UserWarning)
                solution = solve(
                    ODETerm(field),
                    y0,
                    ts,
                    method=method,
                    controller=PID(rtol=rtol, atol=atol),
                    max_steps=MAX_STEPS,
                )
            steps = int(solution.stats.accepted), int(solution.stats.rejected)
            add("nde", method, (rtol, atol), (*steps, solution.final))
        if HAS_TORCHDIFFEQ:
            from torchdiffeq import odeint

            counted = Counted(field)
            end = odeint(counted, y0, ts, rtol=rtol, atol=atol, method="dopri5")[-1]
            steps = counted.accepted, counted.rejected
            add("torchdiffeq", "dopri5", (rtol, atol), (*steps, end))
    return table
