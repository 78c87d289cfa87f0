"""Whether each entry of a diagonal diffusion depends on its own entry of the state.

Methods of strong order 1 and more take it so. Where it does not, they are of order 0.5
on a grid. But steps that are chosen by their own W have a sum of W^2 that is no longer
the time they take, and then the terms by which such methods err add up: Milstein's, for
dy_1 = dW_1 and dy_2 = y_1 dW_2, to a tenth of the solution at any tolerance. Others
estimate no error at all there.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from nde.solvers.bound import BoundSDE
from nde.solvers.methods import methods_for
from nde.solvers.problem import Problem
from nde.solvers.stochastic import StochasticMethod
from nde.solvers.transforms import in_every_member
from nde.solvers.trial import on_trial

# How far entries are moved, as a fraction of them.
_MOVE = 1e-3

# What counts as rounding: units in the last place of a value, and so many times what
# moves of no more than one `_LITTLE`-th of the move change.
_ROUNDING = 8.0
_LITTLE = 32
_LITTLE_MOVES = 8
# Parts of the move that have to show a dependence as well.
_AGAIN = (0.9, 0.75, 0.6)


class DependentNoise(ValueError):
    """A diagonal diffusion whose entries depend on each other, where they may not."""


def check_own_noise(problem: Problem) -> int:
    """Move some of the entries at a time, and see whether others' noise changes.

    At the initial state, and beside it at a time inside of the interval, for a
    dependence may fade in and out. Returns how often that called the diffusion:
    never where the method does not mind. Raises `DependentNoise` where it changed;
    warns where the diffusion raises beside the initial state.
    """
    term, y0 = problem.term, problem.y0.detach()
    if not (_minds(problem) and isinstance(term, BoundSDE)):
        return 0
    flat = term.layout.to_batch(y0)
    up = torch.arange(flat.shape[1], device=y0.device) % 3 > 0
    aside = torch.where(up, 1.1, 0.9).to(flat.dtype) * flat + _MOVE * (flat == 0)
    noise = _Noise(term, problem.start_time, y0.shape)
    later, found = _Noise(term, problem.inner_time, y0.shape), None
    with on_trial((term.term.diffusion,), y0.device):
        try:
            found = _dependent(noise, flat)
            if found is None:
                found = _dependent(later, aside)
        except Exception as error:
            # At the state itself the solve will meet it, and tell.
            if noise.calls + later.calls > 1:
                _warn_unchecked(problem, error, "beside the initial state")
    if found is not None:
        raise DependentNoise(
            f"{_words(problem, term, found)}; along steps of its choice it would not "
            f"converge to the {term.interpretation} solution, or see no error. "
            f"{_advice(term)}"
        )
    return noise.calls + later.calls


def check_own_noise_later(problem: Problem, t: Tensor, y: Tensor) -> None:
    """The same at the states `y` where rows ended, at `t (rows,)`, with a warning: the
    solution is there, but not to be trusted."""
    term, found = problem.term, None
    if not (_minds(problem) and isinstance(term, BoundSDE)):
        return
    with on_trial((term.term.diffusion,), y.device):
        try:
            noise = _Noise(term, t.to(y.dtype), y.shape)
            found = _dependent(noise, term.layout.to_batch(y.detach()))
        except Exception as error:
            if bool(in_every_member(torch.isfinite(y)).all()):
                _warn_unchecked(problem, error, "beside where the solve ended")
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


class _Noise:
    """The diffusion at one time, of states `(batch, dim)`; counts its calls."""

    def __init__(self, term: BoundSDE, now: Tensor, shape: torch.Size) -> None:
        self.calls = 0
        self._term, self._now, self._shape = term, now, shape

    def __call__(self, flat: Tensor) -> Tensor:
        self.calls += 1
        layout = self._term.layout
        value = layout.to_batch(self._term.g(self._now, flat.reshape(self._shape)))
        # A copy: the diffusion may return the same tensor at every call.
        return value[:, : layout.structure.visible].clone()


def _dependent(noise: _Noise, flat: Tensor) -> int | None:
    """An entry whose noise depends on others, None if none seems to.

    Rounding of intermediates may show others too: but as much for little moves, or not
    at every move. A dependence shows at each, in proportion to it.
    """
    before, eps = noise(flat), torch.finfo(flat.dtype).eps
    rounding = _ROUNDING * eps * before.abs()
    if _any((noise(flat) - before).abs() > rounding):
        return None  # It is random.

    def others(share: Tensor | float) -> Tensor:
        moved = torch.where(flat == 0, share, flat * (1 + share))
        return _of_others(noise, flat, moved, before)

    other = others(_MOVE)
    if not _any(other > rounding):
        return None
    for factor in _AGAIN:
        other = torch.fmin(other, others(factor * _MOVE))
    number = torch.arange(flat.shape[1], device=flat.device)
    least = torch.zeros_like(before)
    for turn in range(_LITTLE_MOVES):
        part = ((number * 7 + turn * 11) % 33 - 16).to(flat.dtype)
        least = torch.fmax(least, others(_MOVE / (16 * _LITTLE) * part))
    # Of all samples: in one of them rounding may be the same by chance.
    least = least.amax(dim=0, keepdim=True)
    found = other > rounding + _ROUNDING * least
    return int(_known(found).any(0).nonzero()[0]) if _any(found) else None


def _of_others(noise: _Noise, flat: Tensor, moved: Tensor, before: Tensor) -> Tensor:
    """The most that each entry changes where its own stays the same: `(batch, width)`.

    Entry i moves in those calls in which i + 1 has a binary digit of 1. Of two entries
    one moves where the other rests, or rests in some of the calls in which that moves:
    so its noise is compared in the calls in which it rests with that before, and in
    those in which it moves with the first of them.
    """
    width = before.shape[1]
    number = torch.arange(1, flat.shape[1] + 1, device=flat.device)
    first, seen = before, torch.zeros_like(number[:width], dtype=torch.bool)
    most = torch.zeros_like(before)
    for digit in range(width.bit_length()):
        moves = (number >> digit & 1).bool()
        value, own = noise(torch.where(moves, moved, flat)), moves[:width]
        first = torch.where(own & ~seen, value, first)
        seen = seen | own
        most = torch.fmax(most, (value - torch.where(own, first, before)).abs())
    return most


def _known(condition: Tensor) -> Tensor:
    """Where it holds for some member, if there is a vmapped ensemble of them."""
    return ~in_every_member(~condition)


def _any(condition: Tensor) -> bool:
    return bool(_known(condition).any())


def _warn_unchecked(problem: Problem, error: Exception, where: str) -> None:
    reason = str(error).partition("\n")[0]
    warnings.warn(
        f"method {problem.stepper.name!r} adapts steps if each entry of the diffusion "
        "depends on its own entry of the state, which could not be checked: the "
        f"diffusion raised {type(error).__name__}({reason!r}) {where}. Let it take "
        "states near those of the solution",
        stacklevel=3,
    )


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
