"""Brownian motion along steps that are found one by one."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nde.solvers.bound import BoundSDE
from nde.solvers.brownian import (
    BrownianBridge,
    BrownianGrid,
    BrownianIncrement,
    BrownianMotion,
    BrownianTree,
    Levy,
    NoiseSource,
    Seed,
    StretchedTree,
    fresh_seed,
)
from nde.solvers.controller import PID
from nde.solvers.problem import Problem
from nde.solvers.schedule import check_resolution, check_size
from nde.solvers.stochastic import StochasticMethod
from nde.solvers.types import Increment

# Depths of a seed's tree: as a rule, and where times are close or not known yet.
_DEEP, _DEEPEST = 32, 48

# Motions that are asked for one time of each sample.
_Located = BrownianTree | BrownianBridge | StretchedTree


def motion_of(
    problem: Problem, source: NoiseSource | None
) -> BrownianGrid | BrownianMotion:
    """The motion of a problem: that given, or made of a seed.

    A grid where steps are known beforehand and nothing else is asked for.
    """
    if source is None:
        source = fresh_seed()
    if not isinstance(source, (int, Tensor)):
        return source
    if isinstance(problem.controller, PID) or problem.dense:
        return tree_of(problem, source)
    return BrownianGrid(source)


def check_motion(problem: Problem) -> None:
    """Raises ValueError if the motion of adaptive steps does not fit."""
    term, noise = problem.term, problem.noise
    assert isinstance(term, BoundSDE)
    assert noise is not None and not isinstance(noise, BrownianGrid)
    check_size(noise, term.noise_shape)
    if isinstance(noise, StretchedTree):
        return
    if isinstance(noise, (BrownianTree, BrownianBridge)):
        if isinstance(noise, BrownianBridge):
            _check_graph(noise)
        tree = noise.tree if isinstance(noise, BrownianBridge) else noise
        if problem.rows:
            tree.ends(problem.t0, problem.t1)
            check_resolution(tree, _gaps(problem))
    elif problem.rows != 1:
        raise ValueError(
            f"noise ({type(noise).__name__}) is asked for one step of the whole batch "
            "after another, but adaptive steps are each sample's own; pass a "
            "BrownianTree or a seed, or batch='shared'"
        )


def resolution_of(problem: Problem) -> Tensor | float:
    """The shortest step along a motion: a number, or `(rows,)`."""
    noise = problem.noise
    if isinstance(noise, BrownianBridge):
        return noise.tree.resolution
    if isinstance(noise, (BrownianTree, StretchedTree)):
        return noise.resolution
    return 0.0


def tree_of(problem: Problem, seed: Seed) -> StretchedTree:
    """The motion of a solve that was given a seed."""
    term, y0 = problem.term, problem.y0
    assert isinstance(term, BoundSDE)

    def tree(depth: int) -> BrownianTree:
        size = term.noise_shape
        return BrownianTree(seed, 0.0, 1.0, size, y0.dtype, y0.device, tol=2.0**-depth)

    begin, span = problem.t0, problem.t1 - problem.t0
    # Where a sample has no way to go.
    span = torch.where(span > 0, span, 1.0)
    if problem.dense:
        return StretchedTree(tree(_DEEPEST), begin, span)
    close = _gaps(problem) < 2.0 * 2.0**-_DEEP * span
    if not bool(close.any()):
        return StretchedTree(tree(_DEEP), begin, span)
    return StretchedTree(tree(_DEEP), begin, span, tree(_DEEPEST), close)


def _gaps(problem: Problem) -> Tensor:
    """The least time between two that a row lands on: `(rows,)`."""
    times = problem.reads
    if problem.stops is not None:
        times = torch.cat([times, problem.stops.begins], dim=1)
    gaps = times.sort(dim=1).values.diff(dim=1)
    gaps = torch.where(gaps > 0, gaps, torch.inf)
    return gaps.amin(dim=1) if gaps.shape[1] else (problem.t1 - problem.t0)


def _check_graph(bridge: BrownianBridge) -> None:
    ends = (bridge.w, bridge.h)
    graph = any(end is not None and end.requires_grad for end in ends)
    if graph and torch.is_grad_enabled():
        raise ValueError(
            "noise is a BrownianBridge whose w or h requires grad, and adaptive steps "
            "lose it; give the steps and solve with adjoint=Direct(), or detach them"
        )


def motion_between(problem: Problem, start: Tensor, end: Tensor) -> BrownianIncrement:
    """What drives the steps of a problem between times `(rows,)`, whose motion has
    positions."""
    term, noise = problem.term, problem.noise
    assert isinstance(term, BoundSDE)
    assert isinstance(noise, _Located)
    moved = noise.between(noise.at(start), noise.at(end), _asked(problem))
    return _fitted(problem, moved)


def _asked(problem: Problem) -> Levy:
    """What the method asks for."""
    term, stepper = problem.term, problem.stepper
    assert isinstance(term, BoundSDE) and isinstance(stepper, StochasticMethod)
    return stepper.asks(term.noise)


def _fitted(problem: Problem, moved: BrownianIncrement) -> BrownianIncrement:
    """What drives the steps, from what the motion did."""
    term, y = problem.term, problem.y0
    assert isinstance(term, BoundSDE)
    return term.driven(moved.map(lambda part: part.to(device=y.device, dtype=y.dtype)))


class Drive:
    """The motion of a problem, from where its rows stand."""

    def __init__(self, problem: Problem) -> None:
        assert problem.noise is not None
        assert not isinstance(problem.noise, BrownianGrid)
        self._problem, self._levy = problem, _asked(problem)
        self._walk = _walk(problem.noise, problem.t0)

    def over(self, end: Tensor, inc: Increment) -> Increment:
        """An increment of time with the motion from where the rows are to `end`."""
        moved = _fitted(self._problem, self._walk.to(end, self._levy))
        return replace(inc, w=moved.w, levy=moved.levy, area=moved.area)

    def advance(self, accept: Tensor | None = None) -> None:
        """Move the rows, all by default, to the end that was last asked for."""
        self._walk.advance(accept)


class _Placed:
    """Along a motion that has positions: each time is looked up once."""

    def __init__(self, noise: _Located, t: Tensor) -> None:
        self._noise = noise
        self._here = self._there = noise.at(t)

    def to(self, end: Tensor, levy: Levy) -> BrownianIncrement:
        self._there = self._noise.at(end)
        return self._noise.between(self._here, self._there, levy)

    def advance(self, accept: Tensor | None) -> None:
        there = self._there
        self._here = there if accept is None else there.where(accept, self._here)


class _Asked:
    """Along a motion that knows one time for all."""

    def __init__(self, noise: BrownianMotion, t: Tensor) -> None:
        self._noise = noise
        self._here = self._there = float(t[0])

    def to(self, end: Tensor, levy: Levy) -> BrownianIncrement:
        self._there = float(end[0])
        return self._noise.increment(self._here, self._there, levy)

    def advance(self, accept: Tensor | None) -> None:
        if accept is None or bool(accept):
            self._here = self._there


def _walk(noise: BrownianMotion, t: Tensor) -> _Placed | _Asked:
    if isinstance(noise, _Located):
        return _Placed(noise, t)
    return _Asked(noise, t)
