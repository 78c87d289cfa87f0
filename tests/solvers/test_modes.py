"""Solves where gradients are off, and inside of torch's own checkpoints."""

from typing import Any

import pytest
import torch
from gradients import assert_same
from problems import KIND, normal
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nde.solvers import (
    PID,
    Backsolve,
    Direct,
    FixedSteps,
    ODETerm,
    Recompute,
    Reversible,
    SDETerm,
    Solution,
    solve,
)

KINDS: dict[str, dict[str, Any]] = {
    "adaptive": {"controller": PID(1e-5, 1e-7)},
    "fixed": {"method": "rk4", "controller": FixedSteps(0.125)},
    "sde": {"method": "reversible_heun", "controller": FixedSteps(0.125)},
    "adaptive sde": {"method": "reversible_heun", "controller": PID(1e-2, 1e-2)},
}
CASES = [
    (kind, adjoint)
    for kind in KINDS
    for adjoint in (Direct(), Recompute(), Reversible(), Backsolve())
    if kind.endswith("sde") or isinstance(adjoint, Direct | Recompute)
]


class Model:
    """Drift and diffusion with weights of their own."""

    def __init__(self, f64: KIND) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2)).to(**f64)
        self.size = nn.Parameter(torch.tensor([0.3, 0.2], **f64))
        self.ts = torch.tensor([0.0, 0.4, 1.0], **f64)
        self.y0 = normal((3, 2), 1, **f64)

    def solve(self, kind: str, adjoint: Any, y0: Tensor) -> Solution:
        options = dict(KINDS[kind])
        if not kind.endswith("sde"):
            term: Any = ODETerm(lambda t, y: self.net(y))
        else:
            options["noise"] = 2
            term = SDETerm(
                lambda t, y: self.net(y),
                lambda t, y: self.size * y.sin(),
                interpretation="stratonovich",
            )
        return solve(term, y0, self.ts, adjoint=adjoint, **options)

    def leaves(self, kind: str) -> list[Tensor]:
        own = [self.size] if kind.endswith("sde") else []
        return [*self.net.parameters(), *own]


@pytest.mark.parametrize(("kind", "adjoint"), CASES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(kind: str, adjoint: Any, mode: Any, f64: KIND) -> None:
    model = Model(f64)
    wanted = model.solve(kind, adjoint, model.y0.clone().requires_grad_())
    with mode():
        found = model.solve(kind, adjoint, model.y0)
    assert wanted.ys.requires_grad and not found.ys.requires_grad
    assert torch.equal(found.ys, wanted.ys.detach())
    assert torch.equal(found.stats.accepted, wanted.stats.accepted)


@pytest.mark.parametrize("adjoint", [Direct(), Recompute()])
def test_inference_tensors_in_a_solve_without_gradients(
    adjoint: Any, f64: KIND
) -> None:
    model = Model(f64)
    with torch.inference_mode():
        y0 = model.y0.clone()
        inside = model.solve("adaptive", adjoint, y0).ys
    assert y0.is_inference()
    with torch.no_grad():
        assert torch.equal(model.solve("adaptive", adjoint, y0).ys, inside)


@pytest.mark.parametrize(("kind", "adjoint"), CASES)
@pytest.mark.parametrize("reentrant", [False, True])
def test_inside_of_a_checkpoint(
    kind: str, adjoint: Any, reentrant: bool, f64: KIND
) -> None:
    """The solve is repeated in the backward pass, and differentiated there."""
    model = Model(f64)

    def loss(y0: Tensor) -> Tensor:
        solution = model.solve(kind, adjoint, y0.tanh())
        return solution.ys.sin().sum() + solution.final.square().sum()

    def gradients(inside: bool) -> list[Tensor]:
        y0 = model.y0.clone().requires_grad_()
        value = checkpoint(loss, y0, use_reentrant=reentrant) if inside else loss(y0)
        leaves = [y0, *model.leaves(kind)]
        for leaf in leaves:
            leaf.grad = None
        # Reentrant checkpoints give gradients to `.grad` alone.
        value.backward()
        return [leaf.grad for leaf in leaves if leaf.grad is not None]

    assert_same(gradients(True), gradients(False), rtol=1e-14)
    assert len(gradients(True)) == 1 + len(model.leaves(kind))
