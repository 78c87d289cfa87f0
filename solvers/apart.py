"""Whether the two states of a reversible method still stand for the same solution."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from nde.solvers.arithmetic import along, clock, later
from nde.solvers.bound import BoundSDE
from nde.solvers.brownian.increment import BrownianIncrement
from nde.solvers.problem import Problem
from nde.solvers.stochastic.estimate import generic
from nde.solvers.stochastic.method import root
from nde.solvers.tape import Tape
from nde.solvers.transforms import in_every_member, worst_member
from nde.solvers.types import Status, Step

# Of the state: the distance from which a solution is worthless, or is looked at.
_APART = 0.5

# Of a motion: what the second state may change in it.
_CHANGED = 0.5

# Of the state: what is little where drift or diffusion move it by that in all.
_LITTLE = 0.1


def warn_if_apart(problem: Problem, tape: Tape) -> int:
    """One warning if the states of a pair have nothing to do with each other at t1.

    Returns how often that called the functions of the term: never where the method has
    no second state, or where that is near the first.

    A distance of half the state is told for an ODE, for an SDE where it matters. In
    steps of reversible Heun the distance d = y - z changes its sign from step to step,
    so that y moves by means of the field at z = y - d and at its mirror y + d, from
    which what is linear in d cancels to first order: along linear equations the states
    may be ten times their size apart where the solution is right to 0.2 %. Where fields
    bend, those means are others than the fields at y, however short the steps. So these
    are compared, and a step from the pair with one from the first state alone, for what
    is left of d beyond first order. Summed over samples, for a path alone may be small,
    or far from its second state, by chance.
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
        changes, calls = _changes(problem, problem.term, tape, size)
        harm = None
        for name, parts in changes.items():
            change, motion = (part.where(good, 0.0).sum() for part in parts)
            if not bool(in_every_member(change <= _CHANGED * motion)):
                floor = torch.finfo(motion.dtype).tiny
                share = (change / motion.clamp_min(floor)).nan_to_num(torch.inf)
                harm = name.format(f"{float(worst_member(share)):.1e}")
                break
        if harm is None:
            return calls
        what = f", and {harm} with them"
    worst = float(worst_member((apart / size).nan_to_num(0.0)).amax())
    warnings.warn(
        f"the two states of method {problem.stepper.name!r} differ by {worst:.1e} of "
        f"their size{what}, so the solution is wrong: {advice}",
        stacklevel=4,
    )
    return calls


@torch.no_grad()
def _changes(
    problem: Problem, term: BoundSDE, tape: Tape, size: Tensor
) -> tuple[dict[str, tuple[Tensor, Tensor]], int]:
    """What the second state changes in motions, and how long these are, each `(rows,)`,
    by what to say of it, and calls for that.

    Of a step of reversible Heun, of the average length of the solve, that ends where it
    did, and of what drift and diffusion contribute to one. Their changes do not
    count where all along the solve they would move the state, of `size (rows,)`, by
    little of that.
    """
    y, z = tape.y_end, tape.carry_end[-1].detach()
    (t, h), mirror = _last(problem, tape), 2.0 * y - z
    drawn = generic(t, h, y.new_zeros(term.noise_shape)) * root(h)
    drawn = drawn.to(y.dtype).expand(term.noise_shape)
    w = term.driven(BrownianIncrement(drawn)).w
    now, then, rest = clock(t, y), clock(later(t, h), y), torch.zeros_like(y)

    def motion(at: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return along(rest, term.f(at, state), h), term.product(term.g(at, state), w)

    devices = [y.device] if y.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        one, other, across = (motion(now, state) for state in (y, z, mirror))
        clean = motion(then, y + one[0] + one[1])
        mixed = motion(then, mirror + other[0] + other[1])

    def longest(part: Tensor) -> Tensor:
        return term.layout.visible(part).abs().amax(dim=1)

    rounding = torch.finfo(y.dtype).eps ** 0.5
    found = {}
    part = (h if isinstance(h, float) else h.squeeze(1)) / (problem.t1 - problem.t0)
    for name, k, share in (("drift", 0, part), ("diffusion", 1, part.sqrt())):
        # What of the means is rounding is in proportion to the fields away from y.
        away = rounding * longest(other[k].abs() + across[k].abs())
        found[f"the {name} by {{}} of its size"] = (
            longest(0.5 * (other[k] + across[k]) - one[k]),
            longest(one[k]) + _LITTLE * share.to(y.dtype) * size + away,
        )
    step = 0.5 * (one[0] + one[1] + clean[0] + clean[1])
    change = 0.5 * (other[0] + other[1] + mixed[0] + mixed[1]) - step
    found["a step by {} of its length"] = (
        longest(change),
        longest(step) + rounding * size,
    )
    return found, 5


def _last(problem: Problem, tape: Tape) -> tuple[Step, Step]:
    """Start and length of a step to t1, of the average length of the solve."""
    count = tape.accepted.clamp_min(1)
    if problem.common:
        end = float(problem.t1[0])
        mean = (end - float(problem.t0[0])) / int(count.amax())
        return end - mean, mean
    h = (problem.t1 - problem.t0) / count
    return problem.t1 - h, h.to(problem.y0.dtype).unsqueeze(1)
