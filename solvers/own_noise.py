"""Whether each entry of a diagonal diffusion depends on its own entry of the state.

Methods of strong order 1 and more take it so. Where it does not, they are of order 0.5
on a grid. But steps that are chosen by their own W have a sum of W^2 that is no longer
the time they take, and then the terms by which such methods err add up: Milstein's, for
dy_1 = dW_1 and dy_2 = y_1 dW_2, to a tenth of the solution at any tolerance. Others
estimate no error at all there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nde.solvers.bound import BoundSDE
from nde.solvers.methods import SDE_METHODS
from nde.solvers.problem import Problem
from nde.solvers.stochastic import StochasticMethod
from nde.solvers.transforms import in_every_member

# How far entries are moved, as a fraction of them, and what counts as rounding.
_MOVE = 1e-3
_ROUNDING = 64.0


def check_own_noise(problem: Problem) -> int:
    """Move half of the entries at a time, and see whether others' noise changes.

    Returns how often that called the diffusion: never where the method does not mind.
    Raises ValueError where it changed.
    """
    term, method = problem.term, problem.stepper
    if not (isinstance(term, BoundSDE) and isinstance(method, StochasticMethod)):
        return 0
    width = term.layout.structure.visible
    minds = term.interpretation in method.own_noise and term.noise == "diagonal"
    if not minds or width < 2 or not problem.rows:
        return 0
    device = problem.y0.device
    with (
        torch.no_grad(),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
    ):
        return _check(problem, term, width)


def _check(problem: Problem, term: BoundSDE, width: int) -> int:
    layout, y, now = term.layout, problem.y0.detach(), problem.start_time
    flat = layout.to_batch(y)

    def noise(entries: Tensor) -> Tensor:
        # A copy: the diffusion may return the same tensor at every call.
        return layout.to_batch(term.g(now, entries.reshape(y.shape)))[:, :width].clone()

    before = noise(flat)
    slack = _ROUNDING * torch.finfo(y.dtype).eps * before.abs().amax(1, keepdim=True)
    if _any((noise(flat) - before).abs() > slack):
        return 2  # It is random.
    moved = torch.where(flat == 0, _MOVE, flat * (1 + _MOVE))
    number, calls = torch.arange(flat.shape[1], device=y.device), 2
    # Two entries differ in a binary digit of their numbers.
    for digit in range((width - 1).bit_length()):
        for value in (0, 1):
            stay = (number >> digit & 1) == value
            change = (noise(torch.where(stay, flat, moved)) - before).abs()
            other = (change > slack) & stay[:width]
            calls += 1
            if _any(other):
                _refuse(problem, int(_known(other).any(0).nonzero()[0]))
    return calls


def _known(condition: Tensor) -> Tensor:
    """Where it holds for some member, if there is a vmapped ensemble of them."""
    return ~in_every_member(~condition)


def _any(condition: Tensor) -> bool:
    return bool(_known(condition).any())


def _refuse(problem: Problem, entry: int) -> None:
    term, name = problem.term, problem.stepper.name
    assert isinstance(term, BoundSDE)
    kind = term.interpretation
    free = [
        other
        for other, method in SDE_METHODS.items()
        if method.error_order is not None
        and kind in method.interpretations
        and "diagonal" in method.noises
        and kind not in method.own_noise
    ]
    raise ValueError(
        f"method {name!r} adapts steps if each entry of the diffusion depends on its "
        f"own entry of the state, but entry {entry} depends on others too; along steps "
        f"of its choice it would not converge to the {kind} solution, or see no error. "
        f"Use method {', '.join(free)}, or FixedSteps(step)"
    )
