"""Differential equation solvers that return what they did: `solve` and its parts."""

from nde.solvers.adjoint import Backsolve, Direct, Recompute, Reversible
from nde.solvers.brownian import BrownianGrid, BrownianTree
from nde.solvers.controller import PID, FixedSteps, StepTo
from nde.solvers.diagnosis import Explanation, Finding
from nde.solvers.ensemble import Ensemble
from nde.solvers.foreign import (
    ProbedTimes,
    StepRecorder,
    TakenStep,
    foreign_solution,
)
from nde.solvers.methods import ODE_METHODS, SDE_METHODS
from nde.solvers.reversible_pair import McCallumFoster
from nde.solvers.solution import Solution
from nde.solvers.solve import solve
from nde.solvers.stats import Stats
from nde.solvers.tableau import ButcherTableau
from nde.solvers.term import Integrand, ODETerm, SDETerm
from nde.solvers.types import SolveError, Status
from nde.solvers.watch import Event

__all__ = [
    "ODE_METHODS",
    "PID",
    "SDE_METHODS",
    "Backsolve",
    "BrownianGrid",
    "BrownianTree",
    "ButcherTableau",
    "Direct",
    "Ensemble",
    "Event",
    "Explanation",
    "Finding",
    "FixedSteps",
    "Integrand",
    "McCallumFoster",
    "ODETerm",
    "ProbedTimes",
    "Recompute",
    "Reversible",
    "SDETerm",
    "Solution",
    "SolveError",
    "Stats",
    "Status",
    "StepRecorder",
    "StepTo",
    "TakenStep",
    "foreign_solution",
    "solve",
]
