"""The tape: what the accepted steps of a solve were.

An *entry* is one accepted step of one row. Entries are ragged, so rows that needed few
steps pay for few; they are sorted by step number, then row. A *slot* is an entry that
keeps its interpolant, because something is read inside it.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nde.solvers.brownian import BrownianIncrement
from nde.solvers.motions import Motions
from nde.solvers.problem import Problem
from nde.solvers.stages import Stages
from nde.solvers.transforms import transformed
from nde.solvers.types import Increment, Readable, Status, StepOut


@dataclass(frozen=True)
class Tape:
    """Accepted steps, found without a graph.

    Per entry: `step` its number in its row, `row`, start `t` and length `h` (float64),
    `error`, `stiffness`, `fresh` where it began anew after a jump of the field (None if
    none did); where kept, the state `y (n, dim)` and the `carry` it started
    from. `polynomials (m, 1 + degree, dim)` belong to entries `slots (m,)`. Per row:
    the end state, its carry, the time reached, counts and status, and `channel (rows,)`
    of the event that ended it, -1 without one. `common` if all rows share their times.
    """

    step: Tensor
    row: Tensor
    t: Tensor
    h: Tensor
    fresh: Tensor | None
    error: Tensor
    stiffness: Tensor
    y: Tensor | None
    carry: tuple[Tensor, ...]
    slots: Tensor
    polynomials: Tensor
    y_end: Tensor
    carry_end: tuple[Tensor, ...]
    t_end: Tensor
    accepted: Tensor
    rejected: Tensor
    status: Tensor
    noise: BrownianIncrement | None = None
    common: bool = False
    channel: Tensor | None = None

    @cached_property
    def steps(self) -> int:
        """Most accepted steps of any row."""
        return int(self.step[-1]) + 1 if self.step.numel() else 0

    @cached_property
    def index(self) -> Tensor:
        """Entry of each step of each row `(steps, rows)`; 0 where there is none."""
        return self.grid(torch.arange(self.step.numel(), device=self.step.device))

    @cached_property
    def _cell(self) -> Tensor:
        """Where each entry stands in a flattened grid."""
        return self.step * self.accepted.shape[0] + self.row

    @cached_property
    def valid(self) -> Tensor:
        """Which steps exist `(steps, rows)`."""
        steps = torch.arange(self.steps, device=self.step.device)
        return steps.unsqueeze(1) < self.accepted.unsqueeze(0)

    @cached_property
    def slot(self) -> Tensor:
        """Position among the slots of each entry; -1 where it has none."""
        slot = torch.full_like(self.step, -1)
        slot[self.slots] = torch.arange(self.slots.numel(), device=slot.device)
        return slot

    @cached_property
    def slot_rows(self) -> tuple[Tensor, ...]:
        """For each step, the rows that own a slot."""
        if not self.slots.numel():
            return (self.row[:0],) * self.steps
        counts = torch.bincount(self.step[self.slots], minlength=self.steps).tolist()
        return tuple(torch.split(self.row[self.slots], counts))

    def grid(self, values: Tensor) -> Tensor:
        """Values per entry `(n,)` as `(steps, rows)`, zero where there is none."""
        rows = self.accepted.shape[0]
        flat = values.new_zeros(self.steps * rows).scatter(0, self._cell, values)
        return flat.view(self.steps, rows)

    @cached_property
    def _shown(self) -> Tensor:
        """Entry whose start each row shows the field in each step `(steps, rows)`.

        That of its last step where it rests, of another row's first one if it has none;
        with common times, of the first row that moves.
        """
        if self.common:
            first = self.valid.long().argmax(dim=1, keepdim=True)
            return torch.where(self.valid, self.index, self.index.gather(1, first))
        last = self.index.gather(0, (self.accepted - 1).clamp_min(0).unsqueeze(0))
        other = self.index[0][(self.accepted > 0).long().argmax()]
        rest = torch.where(self.accepted > 0, last, other)
        return torch.where(self.valid, self.index, rest)

    def detached(self) -> Tape:
        """The same without a graph."""
        return replace(
            self,
            error=self.error.detach(),
            stiffness=self.stiffness.detach(),
            polynomials=self.polynomials.detach(),
            y_end=self.y_end.detach(),
            carry_end=tuple(part.detach() for part in self.carry_end),
        )

    def states(self, step: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """State and carry that every row shows the field in a step."""
        assert self.y is not None
        entries = self._shown[step]
        return self.y[entries], tuple(kept[entries] for kept in self.carry)


class HostRecorder:
    """Gathers accepted steps of a single row, known to the host one by one.

    With a graph, error estimates keep theirs.
    """

    def __init__(self, problem: Problem, graph: bool) -> None:
        self._problem, self._graph = problem, graph
        self._reads = sorted(problem.reads[problem.interior].tolist())
        self._met = 0
        self._times: list[tuple[float, float, float, bool]] = []
        self._ratios: list[Tensor] = []
        self._stiffness: list[Tensor] = []
        self._states: list[Tensor] = []
        self._carries: list[tuple[Tensor, ...]] = []
        self._motions = Motions(problem.rows)
        self._slots: list[int] = []
        self._polynomials: list[Tensor] = []

    def add(
        self,
        step: tuple[float, float, float, bool],
        after: float,
        y: Tensor,
        carry: tuple[Tensor, ...],
        inc: Increment,
        out: StepOut,
        ratio: Tensor,
        stages: Stages | None,
    ) -> None:
        """One accepted step: (t, h, error, fresh), its end, its start, its motion."""
        problem, t = self._problem, step[0]
        edge = after if problem.interpolates else t
        passed, self._met = self._met, bisect.bisect_right(self._reads, edge)
        if problem.dense or self._met > passed:
            self._slots.append(len(self._times))
            problem.stepper.extend(problem.term, t, y, inc, stages)
            k = None if out.stages is None else out.stages.all()
            self._polynomials.append(problem.polynomials(y, k))
        self._times.append(step)
        self._stiffness.append(problem.stiffness(y, out))
        if self._graph:
            self._ratios.append(ratio)
        if problem.keep:
            self._states.append(y.detach())
            self._carries.append(tuple(part.detach() for part in carry))
        if problem.keep or problem.keep_motion:
            self._motions.add(inc)

    def finish(
        self,
        y_end: Tensor,
        carry_end: tuple[Tensor, ...],
        t_end: float,
        attempts: int,
        status: Status,
    ) -> Tape:
        """The tape of all that was added."""
        times, problem = self._times, self._problem
        accepted = len(times)
        table = problem.t1.new_tensor([row[:3] for row in times]).reshape(-1, 3)
        fresh = None
        if problem.stops is not None:
            fresh = torch.tensor([row[3] for row in times], dtype=torch.bool)
        count = torch.tensor([accepted, attempts - accepted, int(status)])
        none = y_end[:0]
        return Tape(
            step=torch.arange(accepted),
            row=torch.zeros(accepted, dtype=torch.int64),
            t=table[:, 0],
            h=table[:, 1],
            fresh=fresh,
            error=_joined(self._ratios, table[:, 2].to(y_end.dtype)),
            stiffness=_joined(self._stiffness, y_end.new_zeros(0)),
            y=_joined(self._states, none),
            carry=tuple(torch.cat(part) for part in zip(*self._carries, strict=True)),
            slots=torch.tensor(self._slots, dtype=torch.int64),
            polynomials=_joined(self._polynomials, none.unsqueeze(1)),
            y_end=y_end,
            carry_end=carry_end,
            t_end=problem.t1.new_tensor([t_end]),
            accepted=count[:1],
            rejected=count[1:2],
            status=count[2:],
            noise=self._motions.all(),
        )


def _joined(parts: list[Tensor], without: Tensor) -> Tensor:
    return torch.cat(parts) if parts else without


class Recorder:
    """Gathers attempted steps of a masked loop, and packs the accepted ones.

    `add` only keeps references, so that recording launches nothing; `flush` packs what
    was added, in one go for many steps, and drops the rest.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._attempts: list[tuple[Any, ...]] = []
        self._states: list[Tensor] = []
        self._carries: list[tuple[Tensor, ...]] = []
        self._motions = Motions(problem.rows)
        self._stages: list[Tensor] = []
        self._chunks: list[tuple[Tensor, ...]] = []
        self._kept: list[tuple[Tensor, ...]] = []
        self._slots: list[tuple[Tensor, Tensor, Tensor]] = []
        self._pending = problem.interior
        self.reads_inside = problem.dense or bool(self._pending.any())
        rows = problem.rows
        self.accepted = torch.zeros(rows, dtype=torch.int64, device=problem.y0.device)
        self.rejected = torch.zeros_like(self.accepted)
        self.broken = torch.zeros_like(self.accepted, dtype=torch.bool)

    def add(
        self,
        attempt: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None],
        y: Tensor,
        carry: tuple[Tensor, ...],
        inc: Increment,
        stages: Readable | None,
    ) -> None:
        """One attempt: (t, h, accept, error, stiffness, fresh), what it began at and
        what drove it.

        The stages are copied if something may be read inside.
        """
        self._attempts.append(attempt)
        if self.reads_inside and stages is not None:
            self._stages.append(stages.all())
        if self._problem.keep or self.reads_inside:
            self._states.append(y)
        if self._problem.keep:
            self._carries.append(carry)
        if self._problem.keep or self._problem.keep_motion:
            self._motions.add(inc)

    def flush(self) -> None:
        """Pack the attempts so far."""
        if not self._attempts:
            return
        *given, again = zip(*self._attempts, strict=True)
        t, h, accept, error, stiffness = (torch.stack(column) for column in given)
        moved = h > 0
        accept = accept & moved
        picked = accept.view(-1).nonzero().view(-1)
        step = self.accepted + accept.cumsum(0) - 1
        row = picked % self._problem.rows
        columns: list[Tensor] = [step, t, h, error, stiffness]
        if again[0] is not None:
            columns.append(torch.stack(again))
        step, *numbers = (_pick(column, picked) for column in columns)
        self._chunks.append((step, row, *numbers))
        self.accepted = self.accepted + accept.sum(0)
        refused = moved & ~accept
        self.rejected = self.rejected + refused.sum(0)
        # Whether a row's last rejected step had no finite error.
        count = torch.arange(1, len(error) + 1, device=error.device).unsqueeze(1)
        last = (count * refused).amax(dim=0)
        at = error.gather(0, (last - 1).clamp_min(0).unsqueeze(0)).squeeze(0)
        self.broken = torch.where(last > 0, ~torch.isfinite(at), self.broken)
        if self._problem.keep:
            kept = (self._states, *zip(*self._carries, strict=True))
            self._kept.append(
                tuple(torch.cat(tuple(part)).index_select(0, picked) for part in kept)
            )
        self._motions.pack(picked)
        if self.reads_inside:
            wanted = accept
            if not self._problem.dense:
                # Attempts that were rejected end where the step before them did: what
                # they begin with may lie past a jump, and past what is read there.
                edges = t + h if self._problem.interpolates else t
                edges = torch.where(accept, edges, -torch.inf).cummax(dim=0).values
                wanted = accept & self._hit(edges)
            k, row = wanted.nonzero(as_tuple=True)
            step = self.accepted[row] - accept.flip(0).cumsum(0).flip(0)[k, row]
            if self._problem.stepper.extra_evaluations:
                self._extend(wanted, t, h)
            stages = None
            if self._stages:
                stages = torch.stack(self._stages)[k, :, row].transpose(0, 1)
            states = torch.stack(self._states)[k, row]
            self._slots.append((step, row, self._problem.polynomials(states, stages)))
        self._attempts, self._states = [], []
        self._carries, self._stages = [], []

    def finish(
        self,
        y_end: Tensor,
        carry_end: tuple[Tensor, ...],
        t_end: Tensor,
        status: Tensor,
    ) -> Tape:
        """The tape of all that was flushed."""
        problem, rows = self._problem, self._problem.rows
        step, row, t, h, error, stiffness, *again = (
            torch.cat(column) for column in zip(*self._chunks, strict=True)
        )
        order = torch.argsort(step * rows + row)
        kept = [torch.cat(column)[order] for column in zip(*self._kept, strict=True)]
        slots = step.new_zeros(0)
        polynomials = problem.y0.new_zeros((0, 1, problem.y0.shape[1]))
        if self._slots:
            slot_step, slot_row, polynomials = (
                torch.cat(column) for column in zip(*self._slots, strict=True)
            )
            key = slot_step * rows + slot_row
            slot_order = torch.argsort(key)
            polynomials = polynomials[slot_order]
            slots = torch.searchsorted((step * rows + row)[order], key[slot_order])
        return Tape(
            step=step[order],
            row=row[order],
            t=t[order],
            h=h[order],
            fresh=again[0][order] if again else None,
            error=error[order],
            stiffness=stiffness[order],
            y=kept[0] if kept else None,
            carry=tuple(kept[1:]),
            slots=slots,
            polynomials=polynomials,
            y_end=y_end,
            carry_end=carry_end,
            t_end=t_end,
            accepted=self.accepted,
            rejected=self.rejected,
            status=status,
            noise=self._motions.finish(order, step, row),
        )

    def _extend(self, wanted: Tensor, t: Tensor, h: Tensor) -> None:
        """Add the stages that only the interpolant needs, where an attempt is read."""
        stepper, term = self._problem.stepper, self._problem.term
        # Without a buffer stages are stacked, and all need as many.
        for k in (wanted.any(dim=1) | transformed()).nonzero().view(-1).tolist():
            y = self._states[k]
            workspace = stepper.workspace(y, graph=transformed())
            assert workspace is not None
            workspace.load(self._stages[k])
            inc = Increment(h[k].to(y.dtype).unsqueeze(1))
            stepper.extend(term, t[k], y, inc, workspace)
            self._stages[k] = workspace.all()

    def _hit(self, edges: Tensor) -> Tensor:
        """Which attempts hold a read that was not found before: `(attempts, rows)`.

        `edges`: the ends of what they hold, or for a method without interpolant their
        starts, each of which is a read or beside one.
        """
        shape = edges.shape
        edges = edges.t().contiguous()
        k = torch.searchsorted(edges, self._problem.reads)
        inside = self._pending & (k < edges.shape[1])
        self._pending = self._pending & ~inside
        row, read = inside.nonzero(as_tuple=True)
        hit = torch.zeros(shape, dtype=torch.bool, device=edges.device)
        hit[k[row, read], row] = True
        return hit


def _pick(column: Tensor, picked: Tensor) -> Tensor:
    return column.view(-1).index_select(0, picked)
