"""The first step size of an adaptive solve, per sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nde.solvers.bound import Bound, BoundSDE
from nde.solvers.brownian import BrownianIncrement
from nde.solvers.stochastic.estimate import generic
from nde.solvers.tolerances import Tolerances

EVALUATIONS = 1


def initial_step(
    term: Bound,
    t: Tensor,
    y: Tensor,
    k: Tensor,
    span: Tensor,
    tolerances: Tolerances,
    order: float,
) -> Tensor:
    """Step sizes `(rows,)` float64 from `y` at `t (rows,)` with derivative `k`.

    Hairer, Norsett, Wanner, *Solving ODEs I*, II.4, p. 169; `order` is the power of h
    in the error estimate, `span (rows,)` the length of the interval.
    """
    d0, d1 = tolerances.of(y, y), tolerances.of(k, y)
    small = (d0 < 1e-5) | (d1 < 1e-5)
    guess = torch.where(small, 1e-6, 0.01 * d0 / d1.clamp_min(1e-30))
    guess = torch.nan_to_num(guess, nan=1e-6, posinf=1e-6).to(t.dtype)
    guess = torch.minimum(guess, span)
    ahead = torch.addcmul(y, guess.to(y.dtype).unsqueeze(1), k)
    change = term.f((t + guess).to(y.dtype), ahead) - k
    d2 = tolerances.of(change, y) / guess
    steepest = torch.maximum(d1.to(d2.dtype), d2)
    # Not `pow`, which rounds by the size of the batch.
    step = ((0.01 / steepest.clamp_min(1e-30)).log() / order).exp()
    flat = (guess * 1e-3).clamp_min(1e-6)
    step = torch.where(steepest <= 1e-15, flat, step)
    # Without an absolute tolerance a state of 0 makes any slope look infinitely steep.
    step = torch.maximum(step, 1e-3 * guess)
    step = torch.nan_to_num(step, nan=1e-6, posinf=1e-6)
    return torch.minimum(torch.minimum(100.0 * guess, step), span)


def noisy_step(
    term: BoundSDE,
    t: Tensor,
    y: Tensor,
    step: Tensor,
    tolerances: Tolerances,
) -> Tensor:
    """A step of about the length `step (rows,)`, shorter where the noise asks for it.

    By what a step neglects of the noise, the change of the diffusion along it, with
    motions at about one standard deviation.
    """
    now, length = t.to(y.dtype), step.to(y.dtype).unsqueeze(1)
    w = term.driven(BrownianIncrement(y.new_ones(term.noise_shape))).w
    w = (w * generic(t, length, w)) * length.sqrt()
    g = term.g(now, y)
    change = term.spread(term.g(now, term.moved(y, g, w)) - g)
    change = change * (length.sqrt() * math.sqrt(0.5))
    error = tolerances.of(change, y).to(step.dtype)
    # Of noise that varies smoothly the error grows as h.
    shrink = 0.5 / error.clamp_min(1e-30)
    shrink = torch.nan_to_num(shrink.clamp_max(1.0), nan=1e-3)
    return step * shrink
