"""Recording: how loops gather the accepted steps that make a tape."""

from __future__ import annotations

import bisect
from typing import Any

import torch
from torch import Tensor

from nde.solvers.motions import Motions
from nde.solvers.problem import Problem
from nde.solvers.stages import Stages
from nde.solvers.tape import Tape
from nde.solvers.transforms import transformed
from nde.solvers.types import Increment, Readable, Status, StepOut


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
        y: Tensor,
        carry: tuple[Tensor, ...],
        inc: Increment,
        out: StepOut,
        ratio: Tensor,
        stages: Stages | None,
    ) -> None:
        """One accepted step: (t, h, error, fresh), what it began at and what drove
        it."""
        problem, t = self._problem, step[0]
        # Rounded, as the sum is for whoever reads: it may fall short of a stop.
        edge = t + step[1] if problem.interpolates else t
        passed, self._met = self._met, bisect.bisect_right(self._reads, edge)
        if problem.dense or self._met > passed:
            self._slots.append(len(self._times))
            problem.stepper.extend(problem.term, t, y, inc, stages)
            k = None if out.stages is None else out.stages.all()
            self._polynomials.append(problem.polynomials(y, k))
        number = len(self._times)
        self._times.append(step)
        self._stiffness.append(problem.stiffness(y, out))
        if self._graph:
            self._ratios.append(ratio)
        if problem.keep and number % problem.spacing == 0:
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
            spacing=problem.spacing,
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
            kept, few = (self._states, *zip(*self._carries, strict=True)), picked
            if self._problem.spacing > 1:
                few = picked[step % self._problem.spacing == 0]
            self._kept.append(
                tuple(torch.cat(tuple(part)).index_select(0, few) for part in kept)
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
        few = order
        if problem.spacing > 1:
            some = step % problem.spacing == 0
            few = torch.argsort((step * rows + row)[some])
        kept = [torch.cat(column)[few] for column in zip(*self._kept, strict=True)]
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
            spacing=problem.spacing,
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
            dt = h[k].to(y.dtype).unsqueeze(1)
            stepper.extend(term, t[k], y, Increment(dt), workspace)
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
