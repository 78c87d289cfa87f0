"""`odeint_adjoint`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nde.compat.torchdiffeq.integrate import Func, prepare
from nde.compat.torchdiffeq.options import METHODS, SCIPY
from nde.compat.torchdiffeq.packing import State
from nde.solvers import Recompute


def odeint_adjoint(
    func: Func,
    y0: State,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[[Tensor, State], Tensor] | None = None,
    adjoint_rtol: Any = None,
    adjoint_atol: Any = None,
    adjoint_method: str | None = None,
    adjoint_options: dict[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    """`odeint` with the memory of its states alone, by repeating steps backward.

    Gradients go to y0, t and `adjoint_params`, by default the parameters of func; no
    second derivatives. The other `adjoint_*` are accepted and have no effect. Returns
    and raises as `odeint`; ValueError too if func is no module and `adjoint_params` are
    not given.
    """
    if adjoint_params is None and not isinstance(func, nn.Module):
        raise ValueError(
            "func is no nn.Module that could be asked for its parameters; name those "
            "that need gradients as adjoint_params, () if there are none"
        )
    if adjoint_method is None:
        adjoint_method = method
    if adjoint_method != method and options is not None and adjoint_options is None:
        raise ValueError(
            "adjoint_method is not method, so adjoint_options cannot be taken from "
            "options; give adjoint_options too"
        )
    if adjoint_method is not None and adjoint_method not in METHODS:
        raise ValueError(
            f"adjoint_method {adjoint_method!r} is not known; methods: {METHODS}"
        )
    if adjoint_params is None:
        assert isinstance(func, nn.Module)
        given = tuple(_parameters(func))
    else:
        given = tuple(adjoint_params)
    parameters = tuple(p for p in given if p.requires_grad)
    norm = (adjoint_options or {}).get("norm")
    if len(parameters) < len(given) and callable(norm):
        warnings.warn(
            "adjoint_params holds a tensor that does not require grad; it gets none",
            stacklevel=2,
        )
    job = prepare(func, y0, t, rtol, atol, method, options, event_fn)
    wanted = parameters or job.y0.requires_grad or job.t.requires_grad
    if job.method == SCIPY and wanted and torch.is_grad_enabled():
        raise ValueError(
            "scipy_solver has no gradient; solve under torch.no_grad(), or use another "
            "method"
        )
    return job.run(Recompute(parameters))


def _parameters(module: nn.Module) -> Iterable[Tensor]:
    """Parameters, which a replica of DataParallel holds as plain attributes."""
    if not getattr(module, "_is_replica", False):
        return module.parameters()
    return (
        value
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and value.requires_grad
    )
