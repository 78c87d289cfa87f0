"""Whether a field reads a time per sample as such, where a mistake would go unseen.

Where a state has as many entries along its last axis as the batch has samples, `t * y`
broadcasts `t (batch,)` along the wrong one without a word.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nde.solvers.bound import BoundSDE
from nde.solvers.problem import Problem
from nde.solvers.term import Field

# Rounding that a sample may show because of what others were given.
_ROUNDING = 16.0


def check_clock(problem: Problem) -> int:
    """Compare every other sample before and after the times of the rest are changed.

    Returns how often that called the field: never where broadcasting would raise, else
    twice, or three times if it is random, which ends the check. Raises ValueError if
    those samples changed.
    """
    layout, rows = problem.term.layout, problem.rows
    alike = any(leaf.shape[-1:] == (rows,) for leaf in layout.structure.leaves)
    if layout.shared or problem.common or rows < 2 or not alike:
        return 0
    functions = {"f": problem.term.f}
    if isinstance(problem.term, BoundSDE):
        functions = {"drift": problem.term.f, "diffusion": problem.term.g}
    device = problem.y0.device
    devices = [device] if device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        return max(_check(problem, name, f) for name, f in functions.items())


def _check(problem: Problem, name: str, field: Field) -> int:
    y, t0, rows = problem.y0.detach(), problem.t0, problem.rows
    number = torch.arange(rows, device=y.device)
    others = number % 2 == 1
    apart = t0 + (problem.t1 - t0) * torch.where(others, number / rows, 0.0)

    def kept(t: Tensor) -> Tensor:
        # A copy: the field may return the same tensor at every call.
        return field(t.to(y.dtype), y)[~others].clone()

    before, after = kept(t0), kept(apart)
    slack = _ROUNDING * torch.finfo(y.dtype).eps
    size = float(before.abs().nan_to_num(posinf=0.0).amax())
    if torch.allclose(before, after, slack, slack * size, equal_nan=True):
        return 2
    if not torch.allclose(before, kept(t0), 0.0, 0.0, equal_nan=True):
        return 3
    raise ValueError(
        f"{name} gives a sample other values when only the times of other samples "
        f"change. t has shape ({rows},), one time per sample, and was probably "
        f"broadcast along the last axis of the state, which has {rows} entries too; "
        "write t[:, None], with one None for each axis after the batch. If samples are "
        "meant to depend on each other, solve with batch='shared'"
    )
