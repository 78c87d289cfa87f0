"""`sdeint_adjoint`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from nde.compat.torchsde.integrate import prepare, refuse_unknown
from nde.compat.torchsde.methods import ADJOINT_METHOD, METHODS
from nde.solvers import Recompute, Reversible


def sdeint_adjoint(
    sde: Any,
    y0: Tensor,
    ts: Any,
    bm: Any = None,
    method: str | None = None,
    adjoint_method: str | None = None,
    dt: Any = 1e-3,
    adaptive: bool = False,
    adjoint_adaptive: bool = False,
    rtol: Any = 1e-5,
    adjoint_rtol: Any = 1e-5,
    atol: Any = 1e-4,
    adjoint_atol: Any = 1e-4,
    dt_min: Any = 1e-5,
    options: dict[str, Any] | None = None,
    adjoint_options: dict[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
    names: dict[str, str] | None = None,
    logqp: bool = False,
    extra: bool = False,
    extra_solver_state: Sequence[Tensor] | None = None,
    **unused_kwargs: Any,
) -> Any:
    """`sdeint` with the memory of its states alone, by repeating steps backward.

    With adjoint_method "adjoint_reversible_heun" not even these are kept, but walked
    back to. Gradients go to y0 and `adjoint_params`, by default the parameters of sde;
    no second derivatives, and none through `extra` and `extra_solver_state`. The other
    `adjoint_*` are accepted and have no effect. Returns and raises as `sdeint`;
    ValueError too if sde is no module and `adjoint_params` are not given.
    """
    refuse_unknown("sdeint_adjoint", unused_kwargs)
    if adjoint_params is None and not isinstance(sde, nn.Module):
        raise ValueError(
            "sde is no nn.Module that could be asked for its parameters; name those "
            "that need gradients as adjoint_params, () if there are none"
        )
    if adjoint_method not in (None, ADJOINT_METHOD, *METHODS):
        raise ValueError(
            f"adjoint_method {adjoint_method!r} is not known; methods: "
            f"{', '.join((*METHODS, ADJOINT_METHOD))}"
        )
    if adjoint_method == ADJOINT_METHOD and method != "reversible_heun":
        raise ValueError(
            f"adjoint_method {ADJOINT_METHOD!r} goes with method 'reversible_heun', "
            f"got {method!r}"
        )
    for name, value in (
        ("adjoint_rtol", adjoint_rtol),
        ("adjoint_atol", adjoint_atol),
    ):
        if isinstance(value, Tensor) and value.requires_grad:
            raise ValueError(f"{name} must not require grad; pass {name}.detach()")
    if adjoint_params is None:
        adjoint_params = sde.parameters()
    if extra_solver_state is not None:
        extra_solver_state = tuple(part.detach() for part in extra_solver_state)
    job = prepare(
        sde,
        y0,
        ts,
        bm,
        method,
        {"dt": dt, "rtol": rtol, "atol": atol, "dt_min": dt_min},
        adaptive,
        options,
        names,
        logqp,
        extra_solver_state,
    )
    wanted = tuple(p for p in adjoint_params if p.requires_grad)
    reversible = adjoint_method == ADJOINT_METHOD
    return job.run((Reversible if reversible else Recompute)(wanted), extra)
