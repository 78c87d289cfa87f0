"""`odeint_event`: an event's time and state, with what they depend on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nde.compat.torchdiffeq.integrate import Func, odeint
from nde.compat.torchdiffeq.packing import State, packing_of
from nde.compat.torchdiffeq.until_event import Nearest

# Keeps a rate of zero, where the solution touches the event, from dividing.
_LEAST_RATE = 1e-12


def odeint_event(
    func: Func,
    y0: State,
    t0: Tensor,
    *,
    event_fn: Callable[[Tensor, State], Tensor],
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> tuple[Tensor, State]:
    """Solve until an event, whose time and state are differentiable.

    By the implicit function theorem, in y0, t0, and whatever func and event_fn use.

    Args:
        func, y0, event_fn: as for `odeint`; `t0` has one element.
        reverse_time: go backward from t0.
        odeint_interface: `odeint`, `odeint_adjoint`, or what is called alike; `kwargs`
            go there.

    Returns:
        The time of the event, and the states where the solve began and ended,
        `(2, *y0.shape)` or a tuple of such. Raises as `odeint`.
    """
    start = t0.reshape(-1)
    t = torch.cat([start, start.detach() + (-1.0 if reverse_time else 1.0)])
    found: Tensor
    found, solution = odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)
    if not torch.is_grad_enabled():
        return found, solution
    packing = packing_of(y0, direct=False)
    tensor = isinstance(solution, Tensor)
    end = packing.pack(solution[-1] if tensor else tuple(s[-1] for s in solution))
    nearest = Nearest(event_fn, t[0].detach(), _detached(y0))
    moved, end = _moving(packing.field(func), packing.unpack, nearest, found, end)
    state = packing.unpack(end)
    if tensor:
        return moved, torch.cat([solution[:-1], state.unsqueeze(0)])
    return moved, tuple(
        torch.cat([path[:-1], last.unsqueeze(0)])
        for path, last in zip(solution, state, strict=True)
    )


def _moving(
    field: Callable[[Tensor, Tensor], Tensor],
    unpack: Callable[[Tensor], State],
    nearest: Nearest,
    found: Tensor,
    end: Tensor,
) -> tuple[Tensor, Tensor]:
    """Time and state of an event that depend on where the solution would be then.

    `end (1, n)` is the state at the constant time `found`, with its graph.
    """
    clock = found.detach().to(end.dtype.to_real())
    with torch.no_grad():
        slope = field(clock, end.detach())
    t = clock.clone().requires_grad_()
    y = end.detach().requires_grad_()
    along_t, along_y = torch.autograd.grad(
        nearest(t, unpack(y)), (t, y), allow_unused=True
    )
    rate = torch.zeros_like(clock)
    if along_t is not None:
        rate = rate + along_t
    if along_y is not None:
        rate = rate + (along_y.conj() * slope).sum().real
    value = nearest(clock, unpack(end))
    shift = (value.detach() - value) / (rate + _LEAST_RATE)
    return found.detach() + shift.to(found.dtype), end + slope * shift


def _detached(y0: State) -> State:
    if isinstance(y0, Tensor):
        return y0.detach()
    return tuple(part.detach() for part in y0)
