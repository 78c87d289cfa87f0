"""Expectations on a torus without noise: of one SDE exactly, of the steps of a method.

Where drift and diffusion are 2 pi periodic in the state, so is the expectation of a
periodic function of it, as a function of the start: a few Fourier modes hold it. The
exact one solves the backward Kolmogorov equation. That of a method follows step by step
from the end, each step averaged over nodes in place of random numbers. Nothing is
sampled, so all of an error is the method's bias, seen from every start at once.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from sde_paths import bound, one_step
from torch import Tensor

from nde.solvers import SDETerm
from nde.solvers.brownian import Levy
from nde.solvers.stochastic import StochasticMethod
from nde.solvers.types import Increment

F64 = {"dtype": torch.float64}
# (t, points (rows, dim), increment) to the points after a step.
Transition = Callable[[float, Tensor, Increment], Tensor]


def grid(side: int, dim: int) -> Tensor:
    """The points of a torus that carry a function, `(side ** dim, dim)`."""
    line = torch.arange(side, **F64) * (2 * math.pi / side)
    return torch.cartesian_prod(*[line] * dim).reshape(-1, dim)


def waves(side: int) -> Tensor:
    """The wave numbers of an odd number of points on a circle, in order of the FFT."""
    return torch.fft.fftfreq(side, 1 / side, **F64).round()


def at(values: Tensor, points: Tensor) -> Tensor:
    """What a function `(side,)` or `(side, side)` on the grid is at `points`."""
    # The waves -k of a real function are those of k, conjugated: they are left out.
    modes = torch.fft.rfftn(values, norm="forward")
    modes[..., 1:] *= 2
    numbers = waves(len(values))
    if values.ndim == 2:
        angles = points[:, :1] * numbers
        modes = torch.complex(angles.cos(), angles.sin()) @ modes
    angles = points[:, -1:] * numbers[: modes.shape[-1]]
    return (modes.real * angles.cos() - modes.imag * angles.sin()).sum(-1)


def gradient(values: Tensor) -> Tensor:
    """The derivatives of a function on the grid, `(dim, *values.shape)`."""
    modes, numbers = torch.fft.fftn(values), waves(len(values))
    parts = []
    for i in range(values.ndim):
        along = numbers.reshape([-1 if k == i else 1 for k in range(values.ndim)])
        parts.append(torch.fft.ifftn(1j * along * modes).real)
    return torch.stack(parts)


def generated(term: SDETerm, t: float, values: Tensor) -> Tensor:
    """The generator of an SDE applied to a function on the grid."""
    points, time = grid(len(values), values.ndim), torch.tensor(t, **F64)
    f, g = term.drift(time, points), term.diffusion(time, points)
    if term.noise == "diagonal":
        g = torch.diag_embed(g)
    elif term.noise == "scalar":
        g = g.unsqueeze(-1)
    f = f.T.reshape(-1, *values.shape)
    columns = g.permute(2, 1, 0).reshape(g.shape[2], *f.shape)
    slope = gradient(values)
    total = (f * slope).sum(0)
    if term.interpretation == "stratonovich":
        for column in columns:
            once = (column * slope).sum(0)
            total = total + 0.5 * (column * gradient(once)).sum(0)
        return total
    bend = torch.stack([gradient(part) for part in slope])
    for column in columns:
        total = total + 0.5 * torch.einsum("i...,j...,ij...", column, column, bend)
    return total


def exact_mean(term: SDETerm, end: Tensor, t1: float) -> Tensor:
    """E phi(X(t1)) from every start on the grid at time 0, for phi = `end` on it.

    du/dt = -(generator of `term`) u backwards from t1 (Kloeden and Platen, *Numerical
    Solution of SDEs*, 2.4), by the classical Runge-Kutta method. Its steps are as short
    as the highest waves ask for.
    """
    steps = math.ceil(t1 * max(200, len(end) ** 2 / 2))
    h, u = t1 / steps, end
    for j in range(steps, 0, -1):
        t = j * h
        k1 = generated(term, t, u)
        k2 = generated(term, t - h / 2, u + h / 2 * k1)
        k3 = generated(term, t - h / 2, u + h / 2 * k2)
        k4 = generated(term, t - h, u + h * k3)
        u = u + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return u


def method_mean(
    take: Transition, end: Tensor, t1: float, steps: int, motions: int, levy: Levy
) -> Tensor:
    """E phi(X_h(t1)) over equal steps, otherwise like `exact_mean`."""
    h, u = t1 / steps, end
    inc, weights = increments(h, end.numel(), motions, levy)
    points = grid(len(end), end.ndim).repeat_interleave(len(weights), dim=0)
    for j in reversed(range(steps)):
        after = at(u, take(j * h, points, inc))
        u = (after.reshape(-1, len(weights)) @ weights).reshape(end.shape)
    return u


def own(method: StochasticMethod, term: SDETerm) -> Transition:
    """A step of a method whose state is all that it remembers."""

    def take(t: float, points: Tensor, inc: Increment) -> Tensor:
        return one_step(method, bound(term, points), points, t, inc).y1

    return take


def leaping(method: StochasticMethod, term: SDETerm) -> Transition:
    """A step of the reversible Heun method: points (state, second state)."""

    def take(t: float, points: Tensor, inc: Increment) -> Tensor:
        y, twin = points.chunk(2, -1)
        bound_term = bound(term, y)
        carry = method.start(bound_term, torch.tensor(t, **F64), twin)
        out = method.step(bound_term, t, y, inc, carry, None)
        return torch.cat((out.y1, out.carry[-1]), -1)

    return take


def logarithmic(method: StochasticMethod, term: SDETerm) -> Transition:
    """A step of a method for positive states, of which the points are logarithms."""

    def take(t: float, points: Tensor, inc: Increment) -> Tensor:
        y = points.exp()
        return one_step(method, bound(term, y), y, t, inc).y1.log()

    return take


def increments(
    h: float, repeats: int, motions: int, levy: Levy
) -> tuple[Increment, Tensor]:
    """Nodes of W, H and A in rows, all of them `repeats` times; and their weights.

    Averages are exact for products of W, H and A up to size h^(7/2), with A of size h.
    The variance of A given W is Levy's: h (h + |W|^2) / 12.
    """
    if levy == "space-time":
        nodes, weights = gaussian(2 * motions)
        w, tilt = nodes.chunk(2, -1)
        tilt = tilt.repeat(repeats, 1) * math.sqrt(h / 12)
        return Increment(h, w.repeat(repeats, 1) * math.sqrt(h), tilt), weights
    nodes, weights = gaussian(motions)
    w = nodes * math.sqrt(h)
    if levy == "none":
        return Increment(h, w.repeat(repeats, 1)), weights
    assert motions == 2
    spread = ((h * (h + w.square().sum(-1))) / 12).sqrt()
    both = torch.cat((spread, -spread)).reshape(-1, 1, 1)
    area = both * torch.tensor([[0.0, 1.0], [-1.0, 0.0]], **F64)
    inc = Increment(h, w.repeat(2 * repeats, 1), None, area.repeat(repeats, 1, 1))
    return inc, weights.repeat(2) / 2


def gaussian(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights for `count` independent N(0, 1), exact to degree 7.

    A product of Gauss' rules; in four dimensions one of fewer nodes, with all signs
    and orders of (a, 0, 0, 0), (b, b, 0, 0) and (c, c, c, c), and the origin: the
    moments give 1 / c^2 + 2 / b^2 = 1, 4 / a^2 = 1 / c^2, 12 / b^4 - 6 / b^2 = -1 / 2.
    """
    if count < 4:
        side, mass = np.polynomial.hermite_e.hermegauss(4)
        nodes = [*itertools.product(side, repeat=count)]
        share = [math.prod(p) for p in itertools.product(mass, repeat=count)]
        weights = torch.tensor(share, **F64)
        return torch.tensor(nodes, **F64), weights / weights.sum()
    assert count == 4
    q = (3 - math.sqrt(3)) / 12
    r = 1 - 2 * q
    b, c, a = q**-0.5, r**-0.5, 2 * r**-0.5
    kinds = (((a, 0, 0, 0), 4 / a**6), ((b, b, 0, 0), 1 / (2 * b**6)))
    found: dict[tuple[float, ...], float] = {}
    for kind, weight in (*kinds, ((c, c, c, c), 1 / (16 * c**6))):
        for order in set(itertools.permutations(kind)):
            for signs in itertools.product((1, -1), repeat=4):
                pairs = zip(signs, order, strict=True)
                found[tuple(s * x if x else 0.0 for s, x in pairs)] = weight
    found[0.0, 0.0, 0.0, 0.0] = 1 - sum(found.values())
    return torch.tensor([*found], **F64), torch.tensor([*found.values()], **F64)
