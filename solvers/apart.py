"""Whether the two states of a reversible method still stand for the same solution."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from nde.solvers.arithmetic import clock
from nde.solvers.bound import BoundSDE
from nde.solvers.brownian.increment import BrownianIncrement
from nde.solvers.problem import Problem
from nde.solvers.stochastic.estimate import generic
from nde.solvers.stochastic.method import root
from nde.solvers.tape import Tape
from nde.solvers.transforms import in_every_member, worst_member
from nde.solvers.types import Increment, Status, Step

# Of the state: the distance from which a solution is worthless, or is looked at.
_APART = 0.5

# Of a step: what the second state may change in it.
_CHANGED = 0.5


def warn_if_apart(problem: Problem, tape: Tape) -> int:
    """One warning if the states of a pair have nothing to do with each other at t1.

    Returns how often that called the functions of the term: never where the method has
    no second state, or where that is near the first.

    A distance of half the state is told for an ODE. For an SDE it is told where it
    matters: in a step of reversible Heun a distance d that changes its sign from step
    to step cancels to first order. Along linear equations the states may be ten times
    their size apart where the solution is right to 0.2 %. So a step from the pair at
    the end is compared with one from the first state alone. Averaged over samples,
    for a path alone may be small, or far from its second state, by chance.
    """
    advice = problem.stepper.if_apart
    good = (tape.status == Status.SUCCESS) & (tape.accepted > 0)
    if advice is None or not problem.y0.numel():
        return 0
    visible = problem.term.layout.visible
    y0, y, z = visible(problem.y0.detach()), tape.y_end, tape.carry_end[-1].detach()
    size = torch.maximum(y0.abs(), visible(y).abs()).amax(dim=1)
    apart = visible(y - z).abs().amax(dim=1).where(good, 0.0)
    if bool(in_every_member(~(apart > _APART * size)).all()):
        return 0
    what, calls = "", 0
    if isinstance(problem.term, BoundSDE):
        change, motion, calls = _changes(problem, problem.term, tape, y, z)
        rounding = torch.finfo(y.dtype).eps ** 0.5 * size
        change, motion = (
            part.where(good, 0.0).sum() for part in (change, motion + rounding)
        )
        if bool(in_every_member(change <= _CHANGED * motion)):
            return calls
        share = float(worst_member((change / motion).nan_to_num(torch.inf)))
        what = f", and a step by {share:.1e} of its length with them"
    worst = float(worst_member((apart / size).nan_to_num(0.0)).amax())
    warnings.warn(
        f"the two states of method {problem.stepper.name!r} differ by {worst:.1e} of "
        f"their size{what}, so the solution is wrong: {advice}",
        stacklevel=4,
    )
    return calls


@torch.no_grad()
def _changes(
    problem: Problem, term: BoundSDE, tape: Tape, y: Tensor, z: Tensor
) -> tuple[Tensor, Tensor, int]:
    """What the second state changes in a step, how long that is, and calls for it.

    Both `(rows,)`, of a step of the average length of the solve that ends where it did.
    """
    method, (t, length) = problem.stepper, _last(problem, tape)
    w = generic(t, length, y.new_zeros(term.noise_shape)) * root(length)
    drawn = BrownianIncrement(w.to(y.dtype).expand(term.noise_shape))
    inc = Increment(length, term.driven(drawn).w)
    devices = [y.device] if y.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        alone = method.start(term, clock(t, y), y)
        clean = method.step(term, t, y, inc, alone, None).y1
        pair = method.start(term, clock(t, y), z)
        mixed = method.step(term, t, y, inc, pair, None).y1
    size = [
        term.layout.visible(part).abs().amax(dim=1)
        for part in (mixed - clean, clean - y)
    ]
    return size[0], size[1], 4


def _last(problem: Problem, tape: Tape) -> tuple[Step, Step]:
    """Start and length of a step to t1, of the average length of the solve."""
    count = tape.accepted.clamp_min(1)
    if problem.common:
        end = float(problem.t1[0])
        mean = (end - float(problem.t0[0])) / int(count.amax())
        return end - mean, mean
    h = (problem.t1 - problem.t0) / count
    return problem.t1 - h, h.to(problem.y0.dtype).unsqueeze(1)
