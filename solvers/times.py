"""Output times: what users give, as the engine reads them."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from nde.solvers.state import State, Structure
from nde.solvers.term import Layout, SDETerm, Term
from nde.solvers.transforms import has_tangent, one_of_members, transformed
from nde.solvers.types import time_dtype


class Array(Protocol):
    """An array of numpy, or what gives one."""

    def __array__(self) -> Any: ...


# As users may give them.
Times = Tensor | Sequence[float] | Sequence[Sequence[float]] | Array


@dataclass(frozen=True)
class UserTimes:
    """Output times as given, with what is not to be read filled in.

    `table (T,)` or `(batch, T)` on the user's device, dtype and graph: times that a
    mask or NaN leaves out repeat the one before, or the first one. `reverse` if they
    decrease.
    """

    table: Tensor
    reverse: bool

    def engine(self, layout: Layout, like: Tensor) -> Tensor:
        """Engine times `(rows, T)`, float64, with their graph."""
        times = self.table.to(device=like.device, dtype=time_dtype(like.device))
        times = -times if self.reverse else times
        return times.expand(layout.rows, -1) if times.ndim == 1 else times


def as_times(ts: Times, y0: State, structure: Structure) -> Tensor:
    """Output times that are listed as numbers as a tensor, in y0's precision and place.

    Tensors as they are. Raises TypeError naming `ts` for what is no table of numbers.
    """
    if isinstance(ts, Tensor):
        return ts
    # Views of arrays that torch does not take, as reversed ones, have a list as well.
    listed = ts.__array__().tolist() if hasattr(ts, "__array__") else ts
    # Of tensors among numbers torch.tensor would lose the graph.
    if isinstance(listed, (list, tuple)) and not _holds_tensors(listed):
        like = structure.flatten(y0, "y0")
        with suppress(TypeError, ValueError, RuntimeError):
            kind = torch.tensor(listed).dtype
            if kind != torch.bool and not kind.is_complex:
                # Not by way of the default precision.
                return torch.tensor(listed, dtype=like.dtype, device=like.device)
    raise TypeError(
        "ts must be a torch.Tensor, or numbers (T,) or (batch, T) in a list, tuple or "
        f"array, got {type(ts).__name__} {reprlib.repr(ts)}; use torch.tensor(ts), or "
        "torch.stack(ts) where it holds tensors"
    )


def _holds_tensors(ts: object) -> bool:
    if isinstance(ts, (list, tuple)):
        return any(map(_holds_tensors, ts))
    return isinstance(ts, Tensor)


def user_times(ts: Tensor, mask: object, batch: int, term: Term) -> UserTimes:
    """Check output times and fill gaps.

    Raises TypeError or ValueError naming `ts` or `ts_mask`.
    """
    if not ts.is_floating_point():
        raise TypeError(f"ts must be floating, got {ts.dtype}; use ts.float()")
    if ts.ndim not in (1, 2):
        raise ValueError(f"ts must be (T,) or (batch, T), got shape {tuple(ts.shape)}")
    if ts.shape[-1] == 0:
        raise ValueError("ts is empty; give at least the time of y0")
    if ts.ndim == 2 and ts.shape[0] != batch:
        raise ValueError(
            f"ts has {ts.shape[0]} rows for a batch of {batch}; pass (T,) or "
            f"({batch}, T)"
        )
    if isinstance(term, SDETerm) and ts.requires_grad:
        raise ValueError(
            "ts requires grad, but the path of an SDE has no derivative in time; pass "
            "ts.detach()"
        )
    if transformed() and (ts.requires_grad or has_tangent(ts)):
        raise ValueError(
            "ts carries derivatives of torch.func or of forward mode, which the solve "
            "would lose; take those in ts by torch.autograd, or pass ts.detach()"
        )
    _check_common("ts", ts)
    if isinstance(mask, Tensor):
        _check_common("ts_mask", mask)
    if mask is None and bool((given := torch.isfinite(ts)).all()):
        return UserTimes(ts, _direction(ts.detach(), given, term))
    given = ~torch.isnan(ts)
    if mask is not None:
        wanted = (batch, ts.shape[-1])
        if (
            not isinstance(mask, Tensor)
            or mask.dtype != torch.bool
            or mask.shape != wanted
        ):
            shown = (
                f"{mask.dtype} of shape {tuple(mask.shape)}"
                if isinstance(mask, Tensor)
                else type(mask).__name__
            )
            raise TypeError(
                f"ts_mask must be a bool tensor of shape {wanted}, True where a time "
                f"counts, got {shown}"
            )
        ts = ts.expand(wanted)
        if bool((mask & ~given).any()):
            raise ValueError("ts is NaN where ts_mask says that it counts")
        given = mask
    if ts.ndim == 1 and not bool(given.all()):
        raise ValueError(
            "ts has NaN entries; in ts of shape (T,) every time must be finite (NaN "
            "pads rows of ts of shape (batch, T))"
        )
    if not bool(torch.isfinite(ts).logical_or(~given).all()):
        raise ValueError("ts has infinite entries; every time must be finite")
    if not bool(given.any(dim=-1).all()):
        row = int((~given.any(dim=-1)).nonzero()[0])
        raise ValueError(f"ts has no time for sample {row}; give it at least one")
    table = _filled(ts, given)
    return UserTimes(table, _direction(table.detach(), given, term))


def _check_common(name: str, value: Tensor) -> None:
    """Raises ValueError for what members of a vmapped ensemble do not share."""
    if one_of_members(value):
        raise ValueError(
            f"{name} is another one in each member of a vmap, but all members take the "
            "same steps; give times per sample as (batch, T), or solve for the members "
            "one by one"
        )


def _filled(ts: Tensor, given: Tensor) -> Tensor:
    """Times with each gap repeating the time before it, or the first one."""
    if bool(given.all()):
        return ts
    place = torch.arange(ts.shape[1], device=ts.device).expand_as(ts)
    last = torch.where(given, place, -1).cummax(dim=1).values
    first = given.long().argmax(dim=1, keepdim=True)
    return ts.gather(1, torch.where(last < 0, first, last))


def _direction(table: Tensor, given: Tensor, term: Term) -> bool:
    """Whether times decrease; ValueError where they do neither."""
    rows = table.reshape(-1, table.shape[-1])
    given = given.reshape(rows.shape)
    gaps = rows.double().diff(dim=1)
    if gaps.numel() and float(gaps.min()) > 0.0:
        return False
    reverse = bool((gaps < 0).any()) and not bool((gaps > 0).any())
    ordered = gaps < 0 if reverse else gaps > 0
    if table.ndim == 2:
        # A sample may repeat its last time as padding, and rest there.
        still = gaps == 0
        ordered = ordered | (still & (rows[:, 1:] == rows[:, -1:]))
        ordered = ordered | ~given[:, 1:] | (still & ~given[:, :-1])
    if not bool(ordered.all()):
        row, index = (~ordered).nonzero()[0].tolist()
        where = (
            f"index {index + 1}" if table.ndim == 1 else f"row {row}, index {index + 1}"
        )
        raise ValueError(
            f"ts must be strictly monotone; the order breaks at {where} "
            f"({rows[row, index]:.6g} to {rows[row, index + 1]:.6g})"
        )
    if reverse and isinstance(term, SDETerm):
        raise ValueError(
            "ts decreases, but an SDETerm is solved forward in time; reverse ts"
        )
    return reverse


def read_times(t: Tensor, name: str, layout: Layout, t0: Tensor, t1: Tensor) -> Tensor:
    """Times to read as engine times, `(rows, k)` or, given so, `(batch, k)`.

    With their graph. Raises TypeError or ValueError if they do not fit or lie outside
    the interval.
    """
    if not isinstance(t, Tensor) or not t.is_floating_point():
        kind = str(t.dtype) if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(f"{name} must be a floating tensor, got {kind}")
    _check_common(name, t)
    batch = layout.structure.batch
    if t.ndim not in (1, 2) or (t.ndim == 2 and t.shape[0] != batch):
        raise ValueError(
            f"{name} has shape {tuple(t.shape)}; pass (k,) or ({batch}, k)"
        )
    times = t.to(device=t0.device, dtype=t0.dtype)
    times = -times if layout.reverse else times
    times = times.expand(layout.rows, -1) if times.ndim == 1 else times
    if layout.shared and times.shape[0] == batch:
        t0, t1 = t0.expand(batch), t1.expand(batch)
    ulp = 4.0 * torch.finfo(t.dtype).eps * torch.maximum(t0.abs(), t1.abs())
    slack = ulp.unsqueeze(1)
    outside = (times < t0.unsqueeze(1) - slack) | (times > t1.unsqueeze(1) + slack)
    if bool((outside | ~torch.isfinite(times)).any()):
        raise ValueError(f"{name} lies outside the interval of the solve, or is NaN")
    return snap(times, t0, t1).contiguous()


def snap(times: Tensor, t0: Tensor, t1: Tensor) -> Tensor:
    """Times `(rows, k)` inside [t0, t1]; what is t1 but for rounding becomes t1.

    Their graph is kept as it is.
    """
    ulp = 8.0 * torch.finfo(t1.dtype).eps * torch.maximum(t0.abs(), t1.abs())
    plain = torch.maximum(times.detach(), t0.unsqueeze(1))
    late = plain > (t1 - ulp).unsqueeze(1)
    plain = torch.where(late & (t1 > t0).unsqueeze(1), t1.unsqueeze(1), plain)
    return plain + (times - times.detach()) if times.requires_grad else plain
