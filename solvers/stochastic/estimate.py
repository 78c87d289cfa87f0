"""What a step is judged by: its own motion, or one that it does not see.

A step that is kept because its W was small, or drawn anew because it was large, is one
of a sum of steps whose W is no longer normal. Terms that a method neglects because
their mean is zero, such as those with W^4 - 6 h W^2 + 3 h^2, then have one: of order
h^2 in a step and h in all, whatever the order of the method. Methods of order 1 do not
mind, as long as W and -W are treated alike. Those of higher order are judged, where
steps are adapted, along a motion that is a function of time alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nde.solvers.arithmetic import along, clock, later
from nde.solvers.bound import BoundSDE
from nde.solvers.stochastic.method import root
from nde.solvers.types import Increment, Step


@dataclass(frozen=True)
class Corrections:
    """What a step adds to one of lower order.

    `drift` and `noise (rows, dim)`. `sizes` gives the standard deviations of the parts
    of `noise`, in units of sqrt(h), with signs that do not matter. The step set out
    from `y`, where the drift was `f` and the diffusion `g`.
    """

    drift: Tensor
    noise: Tensor
    sizes: Callable[[], Sequence[Tensor]]
    y: Tensor
    f: Tensor
    g: Tensor


# (term, t, increment, corrections) to the error estimate of a step.
Estimate = Callable[[BoundSDE, Step, Increment, Corrections], Tensor]


def own(term: BoundSDE, t: Step, inc: Increment, added: Corrections) -> Tensor:
    """The corrections themselves."""
    return added.noise + added.drift


def unseen(term: BoundSDE, t: Step, inc: Increment, added: Corrections) -> Tensor:
    """Half of how much the drift changes along another motion, by a call of it, and the
    standard deviation of the noise's corrections.

    Or a quarter of the corrections, if more: that refuses steps of which the other
    motion does not tell that they leave where they are stable, but few others.
    """
    assert inc.w is not None
    h, width = inc.dt, root(inc.dt)
    motion = (generic(t, h, inc.w) * width).expand_as(inc.w)
    ahead = term.moved(along(added.y, added.f, h), added.g, motion)
    change = term.f(clock(later(t, h), added.y), ahead) - added.f
    error = change.abs() * (0.5 * h)
    for size in added.sizes():
        error = error + size.abs() * width
    return torch.maximum(error, own(term, t, inc, added).abs() / 4.0)


def generic(t: Step, h: Step, w: Tensor) -> Tensor:
    """Numbers of size 1, in place of what `w (batch, m)` is in units of sqrt(h).

    They differ between motions and from step to step, so that no part of a diffusion
    stays hidden behind others; and are a function of times alone, so that steps are
    not chosen by the path. Shaped `(m,)`, or `(rows, m)` where rows have their times.
    """
    number = torch.arange(1.0, w.shape[1] + 1.0, dtype=torch.float64, device=w.device)
    if isinstance(h, float):
        assert isinstance(t, float)
        phase = number * (1.0 + t / (h or 1.0))
    else:
        assert isinstance(t, Tensor)
        length = h.to(number.dtype)
        phase = number * (1.0 + t.unsqueeze(1) / torch.where(length > 0, length, 1.0))
    sign = torch.cos(phase * _GOLDEN).sign()
    return (sign * (1.0 + 0.3 * torch.cos(phase * _SILVER))).to(w.dtype)


# Angles in ratios to a turn that no small integers come near.
_GOLDEN = math.pi * (3.0 - math.sqrt(5.0))
_SILVER = 2.0 * math.pi * (math.sqrt(2.0) - 1.0)


def other_motion(term: BoundSDE, t: Step, inc: Increment) -> Tensor | None:
    """A motion beside W to weigh a change in g by, for general noise.

    (g(y + g W) - g(y)) W / 2 knows nothing of the commutators of a diffusion, which W
    alone does not excite; another direction for the second W does.
    """
    if term.noise != "general":
        return None
    assert inc.w is not None
    return (generic(t, inc.dt, inc.w) * root(inc.dt)).expand_as(inc.w)


def crossed(
    term: BoundSDE, change: Tensor, t: Step, inc: Increment, error: Tensor
) -> Tensor:
    """An error estimate, and for general noise that of half a change in g along
    another motion.

    Sizes are added: parts that are odd and even in W, of which the sum would be small
    for one sign of W, must not make steps of that sign longer. What a method neglects
    would have a mean.
    """
    other = other_motion(term, t, inc)
    if other is None:
        return error
    return error.abs() + term.product(change, 0.5 * other).abs()
