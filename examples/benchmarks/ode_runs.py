"""One solve of one problem by nde, torchdiffeq or SciPy, and what it cost."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from ode_problems import IVP, Field
from scipy.integrate import DOP853, RK45, solve_ivp
from torch import Tensor

from nde.solvers import PID, ODETerm, solve
from nde.solvers.methods import ODE_METHODS

HAS_TORCHDIFFEQ = importlib.util.find_spec("torchdiffeq") is not None

# What others call the methods that they share with nde.
TORCHDIFFEQ = {
    "heun_euler": "adaptive_heun",
    "fehlberg2": "fehlberg2",
    "bosh3": "bosh3",
    "dopri5": "dopri5",
    "dopri8": "dopri8",
}
SCIPY = {"RK45": RK45, "DOP853": DOP853}

# Absolute over relative tolerance, for everybody.
ATOL = 1e-2

# No step is given up for their number.
MAX_STEPS = 2_000_000

# The reference is not known better than this.
FLOOR = 1e-13

Gains = tuple[float, float, float]


@dataclass(frozen=True)
class Run:
    """What a solve reached and cost; `error` as `error_at_end` has it."""

    problem: str
    library: str
    method: str
    rtol: float
    error: float
    evaluations: int
    accepted: int
    rejected: int


class Counted:
    """A field that counts its calls, and the steps that torchdiffeq tells it of."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self.calls = self.accepted = self.rejected = 0

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return self.field(t, y)

    def callback_accept_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        self.accepted += 1

    def callback_reject_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        self.rejected += 1


def adaptive_methods() -> list[str]:
    """Names of nde's ODE methods that adapt their steps."""
    return [name for name, m in ODE_METHODS.items() if m.error_order is not None]


def reaches(method: str, rtol: float) -> bool:
    """Whether a tolerance is worth trying: low orders would take too many steps."""
    order = ODE_METHODS[method].error_order
    return order is not None and math.log10(rtol) >= -2.5 * order - 1e-9


def for_numpy(field: Field) -> Callable[[float, np.ndarray], np.ndarray]:
    """A field of one sample, as SciPy calls it."""

    def rate(t: float, y: np.ndarray) -> np.ndarray:
        time = torch.tensor(t, dtype=torch.float64)
        return field(time, torch.from_numpy(y).unsqueeze(0)).squeeze(0).numpy()

    return rate


@cache
def reference(problem: IVP) -> tuple[np.ndarray, float]:
    """The state at t1 by DOP853 at its tightest, and the solution's largest entry."""
    tight = solve_ivp(
        for_numpy(problem.field),
        (problem.t0, problem.t1),
        problem.start,
        method="DOP853",
        rtol=1e-13,
        atol=1e-14,
    )
    assert tight.success, tight.message
    return tight.y[:, -1], float(np.abs(tight.y).max())


def error_at_end(problem: IVP, end: np.ndarray) -> float:
    """Largest error at t1 over the largest entry of the solution, floored."""
    exact, scale = reference(problem)
    return max(float(np.abs(end - exact).max()) / scale, FLOOR)


@torch.no_grad()
def run_nde(problem: IVP, method: str, rtol: float, gains: Gains | None = None) -> Run:
    """A solve with nde; `gains` replace the controller's own."""
    controller = PID(rtol=rtol, atol=ATOL * rtol)
    if gains is not None:
        p, i, d = gains
        controller = PID(rtol, ATOL * rtol, pcoeff=p, icoeff=i, dcoeff=d)
    solution = solve(
        ODETerm(problem.field),
        problem.y0(),
        torch.tensor([problem.t0, problem.t1], dtype=torch.float64),
        method=method,
        controller=controller,
        max_steps=MAX_STEPS,
    )
    stats = solution.stats
    return Run(
        problem.name,
        "nde",
        method,
        rtol,
        error_at_end(problem, solution.final[0].numpy()),
        int(stats.evaluations.sum()),
        int(stats.accepted.sum()),
        int(stats.rejected.sum()),
    )


@torch.no_grad()
def run_torchdiffeq(problem: IVP, method: str, rtol: float) -> Run:
    """A solve with torchdiffeq, by its own name of a method."""
    from torchdiffeq import odeint

    counted = Counted(problem.field)
    ts = torch.tensor([problem.t0, problem.t1], dtype=torch.float64)
    end = odeint(counted, problem.y0(), ts, rtol=rtol, atol=ATOL * rtol, method=method)[
        -1, 0
    ]
    return Run(
        problem.name,
        "torchdiffeq",
        method,
        rtol,
        error_at_end(problem, end.numpy()),
        counted.calls,
        counted.accepted,
        counted.rejected,
    )


def run_scipy(problem: IVP, method: str, rtol: float) -> Run:
    """A solve with SciPy."""
    done = solve_ivp(
        for_numpy(problem.field),
        (problem.t0, problem.t1),
        problem.start,
        method=method,
        rtol=rtol,
        atol=ATOL * rtol,
    )
    assert done.success, done.message
    accepted = len(done.t) - 1
    # Two evaluations choose the first step; rejections are not reported.
    attempts = (done.nfev - 2) // SCIPY[method].n_stages
    return Run(
        problem.name,
        "scipy",
        method,
        rtol,
        error_at_end(problem, done.y[:, -1]),
        done.nfev,
        accepted,
        attempts - accepted,
    )


def run_all(
    problem: IVP, methods: list[str], rtols: list[float], gains: Gains | None = None
) -> list[Run]:
    """Every method of `methods` at every tolerance, and what others have to match."""
    runs = []
    for rtol in rtols:
        for method in methods:
            if not reaches(method, rtol):
                continue
            runs.append(run_nde(problem, method, rtol, gains))
            if HAS_TORCHDIFFEQ and method in TORCHDIFFEQ:
                name = TORCHDIFFEQ[method]
                try:
                    runs.append(run_torchdiffeq(problem, name, rtol))
                except AssertionError as error:
                    # It ends solves that it cannot finish with assertions.
                    print(f"torchdiffeq {name}, {problem.name}, {rtol:g}: {error}")
        runs.extend(run_scipy(problem, method, rtol) for method in SCIPY)
    return runs


def equal_error_ratio(ours: list[Run], theirs: list[Run]) -> float:
    """Evaluations of ours over theirs at the same achieved error.

    Each library's runs of one problem make a curve, straight between runs on
    logarithmic axes. The ratio is the geometric mean over the errors that both curves
    span; NaN if they have none in common.
    """
    curves = []
    for runs in (ours, theirs):
        points = sorted((math.log(r.error), math.log(r.evaluations)) for r in runs)
        curves.append(np.array(points).reshape(-1, 2).T)
    if min(curve.shape[1] for curve in curves) < 2:
        return math.nan
    low = max(curve[0, 0] for curve in curves)
    high = min(curve[0, -1] for curve in curves)
    if not low < high:
        return math.nan
    errors = np.linspace(low, high, 33)
    a, b = (np.interp(errors, curve[0], curve[1]) for curve in curves)
    return float(np.exp((a - b).mean()))
