"""Edges of a solve: one sample, the last time but for rounding, rows that rest."""

import math

import pytest
import torch
from torch import Tensor

from nde.solvers import (
    BrownianGrid,
    FixedSteps,
    ODETerm,
    Recompute,
    SDETerm,
    solve,
)

F64 = {"dtype": torch.float64}


def test_one_sample_sees_a_time_per_sample() -> None:
    seen = set()

    def field(t: Tensor, y: Tensor) -> Tensor:
        seen.add(tuple(t.shape))
        return -y

    solve(ODETerm(field), torch.ones(1, 2), torch.tensor([0.0, 1.0]))
    assert seen == {(1,)}


@pytest.mark.parametrize("controller", [None, FixedSteps(0.1)])
@pytest.mark.parametrize("batch", [1, 2])
def test_reads_just_before_the_end(controller: FixedSteps | None, batch: int) -> None:
    end = 0.7
    times = [0.0, math.nextafter(end, 0.0)]
    solution = solve(
        ODETerm(lambda t, y: -y),
        torch.ones(batch, 1, **F64),
        torch.tensor([0.0, end], **F64),
        controller=controller,
        dense=True,
    )
    values = solution.evaluate(torch.tensor(times, **F64))
    assert torch.isfinite(values).all()
    slope = solution.derivative(torch.tensor([end], **F64))
    torch.testing.assert_close(slope[:, 0], -solution.final, rtol=1e-2, atol=0)


def test_a_row_without_steps_rests_where_it_is() -> None:
    y0 = torch.tensor([[1.0], [5.0]], requires_grad=True)
    ts = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    solution = solve(ODETerm(lambda t, y: -y), y0, ts, controller=FixedSteps(0.25))
    t, h, y = solution.accepted_step(torch.tensor([0, 0]))
    assert t.tolist() == [0.0, 0.5] and h.tolist() == [0.25, 0.0]
    assert y.tolist() == [[1.0], [5.0]]


def test_a_parameter_changed_before_backward_is_refused() -> None:
    weight = torch.ones((), requires_grad=True)
    solution = solve(
        ODETerm(lambda t, y: weight * y),
        torch.ones(2, 1),
        torch.tensor([0.0, 1.0]),
        adjoint=Recompute(),
    )
    with torch.no_grad():
        weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="changed in place"):
        solution.final.sum().backward()


def test_a_path_of_an_sde_has_no_interpolant() -> None:
    with pytest.raises(ValueError, match="dense"):
        solve(
            SDETerm(lambda t, y: -y, lambda t, y: y),
            torch.ones(2, 1),
            torch.tensor([0.0, 1.0]),
            method="euler",
            controller=FixedSteps(0.1),
            noise=BrownianGrid(0),
            dense=True,
        )
