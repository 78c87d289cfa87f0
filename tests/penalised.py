"""The solve that the tests of regularizers penalise."""

import torch
from problems import KIND
from torch import Tensor, nn

from nde.solvers import PID, Direct, FixedSteps, ODETerm, Recompute, Solution, solve

RTOL, ATOL = 1e-4, 1e-5
ADAPTIVE, FIXED = PID(rtol=RTOL, atol=ATOL), FixedSteps(0.13, rtol=RTOL, atol=ATOL)
END = 1.4


def solved(
    net: nn.Module,
    y0: Tensor,
    f64: KIND,
    *,
    method: str = "tsit5",
    controller: PID | FixedSteps = ADAPTIVE,
    adjoint: Recompute | Direct | None = None,
    batch: str = "per_sample",
    probe_times: Tensor | None = None,
) -> Solution:
    return solve(
        ODETerm(net),
        y0,
        torch.tensor([0.0, END], **f64),
        method=method,
        controller=controller,
        adjoint=adjoint,
        batch=batch,
        probe_times=probe_times,
    )
