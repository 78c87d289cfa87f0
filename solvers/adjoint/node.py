"""A solve as one node of the graph, whose backward pass is a way back of ours."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from nde.solvers.adjoint.captured import Captured
from nde.solvers.adjoint.forward import evaluations
from nde.solvers.adjoint.outcome import Outcome
from nde.solvers.precision import own
from nde.solvers.problem import Problem
from nde.solvers.tape import Tape

# Gradients in the end state, polynomials, error and stiffness estimates of a solve.
Grads = tuple[Tensor | None, ...]


class WayBack(Protocol):
    """How gradients get from what a solve gave to what it began with."""

    @property
    def problem(self) -> Problem:
        """The solve."""

    @property
    def tape(self) -> Tape:
        """The steps that were found."""

    @property
    def captured(self) -> Captured:
        """Which tensors get gradients besides y0."""

    def back(self, grads: Grads, totals: list[Tensor | None]) -> Tensor:
        """The gradient in y0; those of captured tensors are added to `totals`."""


class Node(torch.autograd.Function):
    """What the nodes of all adjoints do; each has a name of its own in the graph.

    The way back runs in the precision of the solve, also where backward() is called
    inside an autocast region: the fields know by themselves what they ran in.
    """

    @staticmethod
    def forward(ctx: Any, way: WayBack, *inputs: Tensor) -> tuple[Tensor, ...]:
        tape = way.tape
        ctx.way = way
        ctx.versions = [tensor._version for tensor in way.captured.tensors]
        ctx.set_materialize_grads(False)
        # Fresh tensors: an output that the node itself holds would never be freed.
        return (
            tape.y_end.clone(),
            tape.polynomials.clone(),
            tape.grid(tape.error),
            tape.grid(tape.stiffness),
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        way: WayBack = ctx.way
        asked_again, device = torch.is_grad_enabled(), way.tape.y_end.device
        totals: list[Tensor | None] = [None] * len(way.captured.tensors)
        with torch.no_grad(), own(device):
            try:
                y_grad = way.back(grads, totals)
            finally:
                # If it failed, then because of a change.
                _check_unchanged(way.captured, ctx.versions, totals)
            results = (y_grad, *way.captured.completed(totals))
        if asked_again:
            leaf = torch.zeros((), device=device, requires_grad=True)
            results = tuple(
                None if result is None else _Final.apply(result, leaf)  # type: ignore[no-untyped-call]
                for result in results
            )
        return (None, *results)


def outcome_of(node: type[Node], way: WayBack) -> Outcome:
    """A solve that was found, with gradients by its way back."""
    y_end, polynomials, error, stiffness = node.apply(  # type: ignore[no-untyped-call]
        way, way.problem.y0, *way.captured.tensors
    )
    return Outcome(
        tape=way.tape,
        y_end=y_end,
        polynomials=polynomials,
        evaluations=evaluations(way.problem, way.tape),
        graph=(error, stiffness),
    )


class _Final(torch.autograd.Function):
    """A gradient that cannot be differentiated again."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, leaf: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "a second derivative was asked of a solve whose backward pass records no "
            "graph, as adjoint=Recompute() (the default), Reversible() and Backsolve() "
            "do; solve with adjoint=Direct()"
        )


def _check_unchanged(
    captured: Captured, versions: list[int], totals: list[Tensor | None]
) -> None:
    """RuntimeError if a tensor that got a gradient is not as it was in the solve."""
    for tensor, version, total in zip(captured.tensors, versions, totals, strict=True):
        if total is not None and tensor._version != version:
            raise RuntimeError(
                "a tensor that the term uses was changed in place between the solve "
                "and its backward pass, which repeats the steps; call backward() "
                "before the optimizer's step, or solve with adjoint=Direct()"
            )
