"""A solve as one node of the graph, whose backward pass is a way back of ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
        ctx.save_for_backward(*inputs)
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
        # Gradients that will be differentiated again are no tensors of the term.
        given = tuple(None if grad is None else grad.detach() for grad in grads)
        used = (way.problem.y0, *way.captured.tensors)
        with torch.no_grad(), own(device), _without_hooks(used):
            try:
                y_grad = way.back(given, totals)
            finally:
                # If it failed, then because of a change.
                _check_unchanged(way.captured, ctx.versions, totals)
            results = (y_grad, *way.captured.completed(totals))
        if asked_again:
            # A second derivative asks through one of these, or through `grads`.
            inputs = [*ctx.saved_tensors, *(grad for grad in grads if grad is not None)]
            results = tuple(
                None if result is None else _Final.apply(result, *inputs)  # type: ignore[no-untyped-call]
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
    def forward(ctx: Any, grad: Tensor, *inputs: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "a second derivative was asked of a solve whose backward pass records no "
            "graph, as adjoint=Recompute() (the default), Reversible() and Backsolve() "
            "do; solve with adjoint=Direct()"
        )


@contextmanager
def _without_hooks(tensors: Sequence[Tensor]) -> Iterator[None]:
    """While the steps of a way back pull gradients to these, their hooks are not run.

    They are when the gradient of the whole solve reaches them.
    """
    found = (getattr(tensor, "_backward_hooks", None) for tensor in tensors)
    kept = [(hooks, dict(hooks)) for hooks in found if hooks]
    for hooks, _ in kept:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, items in kept:
            hooks.update(items)


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
