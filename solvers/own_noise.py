"""Whether each entry of a diagonal diffusion depends on its own entry of the state.

Methods of strong order 1 and more take it so. Where it does not, they are of order 0.5
on a grid. But steps that are chosen by their own W have a sum of W^2 that is no longer
the time they take, and then the terms by which such methods err add up: Milstein's, for
dy_1 = dW_1 and dy_2 = y_1 dW_2, to a tenth of the solution at any tolerance. Others
estimate no error at all there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
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
    aside = torch.where(up, 1.1, 0.9).to(flat.dtype) * flat + _MOVE * (flat == 0)
    with _quiet(y0.device):
        start = problem.start_time
        found, calls = _dependent(problem, term, start, y0, True)
        if found is None:
            beside = aside.reshape(y0.shape)
            found, more = _dependent(problem, term, start, beside, False)
            calls += more
    if found is not None:
        raise DependentNoise(
            f"{_words(problem, term, found)}; along steps of its choice it would not "
            f"converge to the {term.interpretation} solution, or see no error. "
            f"{_advice(term)}"
        )
    return calls


def check_own_noise_later(problem: Problem, t: Tensor, y: Tensor) -> None:
    """The same once at the states `y` where rows ended, at `t (rows,)`, with a warning:
    the solution is there, but not to be trusted."""
    term = problem.term
    if not (_minds(problem) and isinstance(term, BoundSDE)):
        return
    with _quiet(y.device):
        found, _ = _dependent(problem, term, t.to(y.dtype), y.detach(), False)
    if found is not None:
        warnings.warn(
            f"{_words(problem, term, found)}, seen where the solve ended: it may have "
            f"converged to another than the {term.interpretation} solution. "
            f"{_advice(term)}",
            stacklevel=2,
        )


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


def _dependent(
    problem: Problem, term: BoundSDE, now: Tensor, y: Tensor, thorough: bool
) -> tuple[int | None, int]:
    """An entry that depends on others, None if none seems to; and calls made.

    A diffusion that raises beside the states that it is given is not asked further.
    """
    layout, width = term.layout, term.layout.structure.visible
    flat, calls = layout.to_batch(y), 0

    def noise(entries: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        # A copy: the diffusion may return the same tensor at every call.
        return layout.to_batch(term.g(now, entries.reshape(y.shape)))[:, :width].clone()

    try:
        return _search(noise, flat, width, thorough), calls
    except Exception:
        # At the state itself the solve will meet it, and tell.
        return None, calls


def _search(
    noise: Callable[[Tensor], Tensor], flat: Tensor, width: int, thorough: bool
) -> int | None:
    before, eps = noise(flat), torch.finfo(flat.dtype).eps
    rounding = _ROUNDING * eps * before.abs()
    if _any((noise(flat) - before).abs() > rounding):
        return None  # It is random.
    moved = torch.where(flat == 0, _MOVE, flat * (1 + _MOVE))
    number = torch.arange(flat.shape[1], device=flat.device)
    # Two entries differ in a binary digit of their numbers.
    digits = range((width - 1).bit_length() if thorough else min(width - 1, 2))
    for digit in digits:
        for value in (0, 1):
            stay = (number >> digit & 1) == value
            change = (noise(torch.where(stay, flat, moved)) - before).abs()
            # What is diagonal but for the rounding of intermediates changes a little.
            little = rounding + eps**0.5 * change.amax(dim=1, keepdim=True)
            other = (change > little) & stay[:width]
            if _any(other):
                return int(_known(other).any(0).nonzero()[0])
    return None


def _known(condition: Tensor) -> Tensor:
    """Where it holds for some member, if there is a vmapped ensemble of them."""
    return ~in_every_member(~condition)


def _any(condition: Tensor) -> bool:
    return bool(_known(condition).any())


def _words(problem: Problem, term: BoundSDE, entry: int) -> str:
    return (
        f"method {problem.stepper.name!r} adapts steps if each entry of the diffusion "
        f"depends on its own entry of the state, but entry {entry} of the flattened "
        "state (parts of complex numbers apart) depends on others too"
    )


def _advice(term: BoundSDE) -> str:
    kind = term.interpretation
    free = [
        other
        for other, method in methods_for(term.term).items()
        if method.error_order is not None and kind not in method.own_noise
    ]
    convert = "" if kind != "ito" else ", term.to('stratonovich') with method heun"
    return f"Use method {', '.join(free)}{convert}, or steps of fixed length"
