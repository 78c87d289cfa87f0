"""A second, slow Runge-Kutta implementation in plain autograd, to check the first.

It takes the accepted times and steps as given numbers and repeats the steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nde.solvers.tableau import ButcherTableau


@dataclass(frozen=True)
class Step:
    """One step: `y1 (batch, dim)`, `error (batch,)` and `stiffness (batch,)`."""

    y1: Tensor
    error: Tensor
    stiffness: Tensor


def rms(x: Tensor) -> Tensor:
    return x.square().mean(-1).sqrt()


def take_step(
    tableau: ButcherTableau,
    f: Callable[[Tensor, Tensor], Tensor],
    t: Tensor,
    y: Tensor,
    h: Tensor,
    rtol: float,
    atol: float,
) -> Step:
    """One explicit step from `t (batch,)` by `h (batch,)`, errors per sample."""
    k: list[Tensor] = []
    inputs: list[Tensor] = []
    for c, row in zip(tableau.c, ((), *tableau.a), strict=True):
        move = sum((w * ki for w, ki in zip(row, k, strict=True)), torch.zeros_like(y))
        inputs.append(y + h[:, None] * move)
        k.append(f(t + c * h, inputs[-1]))
    y1 = y + h[:, None] * sum(w * ki for w, ki in zip(tableau.b, k, strict=True))
    nan = torch.full_like(t, torch.nan)
    error, stiffness = nan, nan
    if tableau.b_error is not None:
        raw = h[:, None] * sum(w * ki for w, ki in zip(tableau.b_error, k, strict=True))
        error = rms(raw / (atol + rtol * torch.maximum(y.abs(), y1.abs())))
    if tableau.stiffness_pair is not None:
        i, j = tableau.stiffness_pair
        stiffness = rms(k[i] - k[j]) / rms(inputs[i] - inputs[j])
    return Step(y1, error, stiffness)


@dataclass(frozen=True)
class Replay:
    """`ys (rows + 1, batch, dim)`, `errors` and `stiffness (rows, batch)`."""

    ys: Tensor
    errors: Tensor
    stiffness: Tensor


def replay(
    tableau: ButcherTableau,
    f: Callable[[Tensor, Tensor], Tensor],
    y0: Tensor,
    times: Tensor,
    steps: Tensor,
    valid: Tensor,
    rtol: float,
    atol: float,
) -> Replay:
    """All recorded steps, `times` and `steps (rows, batch)`, differentiable."""
    ys, errors, stiffness = [y0], [], []
    for t, h, real in zip(times, steps, valid, strict=True):
        # A finished sample stands still; its row is given a harmless length so that
        # no division by zero enters the graph.
        safe = torch.where(real, h, torch.ones_like(h) * 1e-3)
        out = take_step(tableau, f, t, ys[-1], safe, rtol, atol)
        ys.append(torch.where(real[:, None], out.y1, ys[-1]))
        errors.append(torch.where(real, out.error, torch.zeros_like(h)))
        stiffness.append(torch.where(real, out.stiffness, torch.zeros_like(h)))
    return Replay(torch.stack(ys), torch.stack(errors), torch.stack(stiffness))
