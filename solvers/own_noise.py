"""Whether each entry of a diagonal diffusion depends on its own entry of the state.

Methods of strong order 1 and more take it so. Where it does not, they are of order 0.5
on a grid. But steps that are chosen by their own W have a sum of W^2 that is no longer
the time they take, and then the terms by which such methods err add up: Milstein's, for
dy_1 = dW_1 and dy_2 = y_1 dW_2, to a tenth of the solution at any tolerance. Others
estimate no error at all there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from nde.solvers.bound import BoundSDE
from nde.solvers.methods import methods_for
from nde.solvers.problem import Problem
from nde.solvers.stochastic import StochasticMethod
from nde.solvers.transforms import in_every_member

# How far entries are moved, as a fraction of them, and what counts as rounding.
_MOVE = 1e-3
_ROUNDING = 8.0


class DependentNoise(ValueError):
    """A diagonal diffusion whose entries depend on each other, where they may not."""


def check_own_noise(problem: Problem) -> int:
    """Move half of the entries at a time, and see whether others' noise changes.

    At the initial state thoroughly, and beside it once. Returns how often that called
    the diffusion: never where the method does not mind. Raises `DependentNoise` where
    it changed.
    """
    term, y0 = problem.term, problem.y0.detach()
    if not (_minds(problem) and isinstance(term, BoundSDE)):
        return 0
    flat = term.layout.to_batch(y0)
    up = torch.arange(flat.shape[1], device=y0.device) % 3 > 0
    aside = 0.1 * (1.0 + flat.abs()) * torch.where(up, 1.0, -1.0).to(flat.dtype)
    with _quiet(y0.device):
        start = problem.start_time
        return _check(problem, term, start, y0, True) + _check(
            problem, term, start, (flat + aside).reshape(y0.shape), False
        )


def check_own_noise_later(problem: Problem, t: Tensor, y: Tensor) -> None:
    """The same once at the states `y` where rows ended, at `t (rows,)`.

    Raises `DependentNoise` after all: the solve cannot be trusted.
    """
    term = problem.term
    if _minds(problem) and isinstance(term, BoundSDE):
        with _quiet(y.device):
            _check(problem, term, t.to(y.dtype), y.detach(), False)


def _minds(problem: Problem) -> bool:
    """Whether the method asks that much of the diffusion."""
    term, method = problem.term, problem.stepper
    if not (isinstance(term, BoundSDE) and isinstance(method, StochasticMethod)):
        return False
    minds = term.interpretation in method.own_noise and term.noise == "diagonal"
    return minds and term.layout.structure.visible > 1 and problem.rows > 0


@contextmanager
def _quiet(device: torch.device) -> Iterator[None]:
    """Without gradients, and as if no random numbers had been drawn."""
    devices = [device] if device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        yield


def _check(
    problem: Problem, term: BoundSDE, now: Tensor, y: Tensor, thorough: bool
) -> int:
    layout, width = term.layout, term.layout.structure.visible
    flat = layout.to_batch(y)

    def noise(entries: Tensor) -> Tensor:
        # A copy: the diffusion may return the same tensor at every call.
        return layout.to_batch(term.g(now, entries.reshape(y.shape)))[:, :width].clone()

    before = noise(flat)
    slack = _ROUNDING * torch.finfo(y.dtype).eps * before.abs()
    if _any((noise(flat) - before).abs() > slack):
        return 2  # It is random.
    moved = torch.where(flat == 0, _MOVE, flat * (1 + _MOVE))
    number, calls = torch.arange(flat.shape[1], device=y.device), 2
    # Two entries differ in a binary digit of their numbers.
    digits = range((width - 1).bit_length()) if thorough else range(1)
    for digit in digits:
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
        for other, method in methods_for(term.term).items()
        if method.error_order is not None and kind not in method.own_noise
    ]
    raise DependentNoise(
        f"method {name!r} adapts steps if each entry of the diffusion depends on its "
        f"own entry of the state, but entry {entry} depends on others too; along steps "
        f"of its choice it would not converge to the {kind} solution, or see no error. "
        f"Use method {', '.join(free)}, or steps of fixed length"
    )
