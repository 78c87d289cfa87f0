"""SciPy's integrators, on host memory and without gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nde.compat.torchdiffeq.failure import InvalidInput

if TYPE_CHECKING:
    from nde.compat.torchdiffeq.integrate import Job


@torch.no_grad()
def scipy_solve(
    field: Callable[[Tensor, Tensor], Tensor], y0: Tensor, t: Tensor, job: Job
) -> Tensor:
    """States at `t`, `(batch, T, ...)`, by `options["solver"]` of `solve_ivp`."""
    from scipy.integrate import solve_ivp  # type: ignore[import-untyped]

    def call(time: float, flat: Any) -> Any:
        now = torch.tensor(time, dtype=job.packing.real, device=y0.device)
        y = torch.as_tensor(flat, dtype=y0.dtype, device=y0.device).view(y0.shape)
        return field(now, y).reshape(-1).cpu().numpy()

    options = job.options
    limits = {
        name: float(options[name])
        for name in ("min_step", "max_step")
        if name in options
    }
    tolerances = {}
    for name, value in (("rtol", job.rtol), ("atol", job.atol)):
        tolerance = job.packing.tolerance(name, value)
        if isinstance(tolerance, Tensor):
            tolerance = tolerance.expand(y0.shape).reshape(-1).cpu().numpy()
        tolerances[name] = tolerance
    times = t.detach().cpu().double().numpy()
    found = solve_ivp(
        call,
        t_span=[times[0], times[-1]],
        y0=y0.detach().reshape(-1).cpu().numpy(),
        t_eval=times,
        method=options.get("solver", "LSODA"),
        **tolerances,
        **limits,
    )
    if not found.success:
        raise InvalidInput(f"scipy_solver stopped early: {found.message}")
    ys = torch.tensor(found.y.T, dtype=y0.dtype, device=y0.device)
    return ys.view(len(t), *y0.shape).transpose(0, 1)
