"""Training with one local penalty costs as much less under every way to a gradient."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
import torchdiffeq
from problems import TimedMLP, normal
from torch import Tensor, nn

from nde.regularizers import Draw, LocalError, draw
from nde.solvers import (
    PID,
    Backsolve,
    Direct,
    McCallumFoster,
    ODETerm,
    ProbedTimes,
    Recompute,
    Reversible,
    Solution,
    StepRecorder,
    foreign_solution,
    solve,
)

F64 = {"dtype": torch.float64}
TS = torch.tensor([0.0, 1.0], **F64)
RTOL = 1e-6
PAIR = McCallumFoster("dopri5")

# (net, y0, what was drawn) to the solve.
Run = Callable[[TimedMLP, Tensor, Draw], Solution]


def ours(adjoint: object, method: object = "dopri5") -> Run:
    def run(net: TimedMLP, y0: Tensor, drawn: Draw) -> Solution:
        return solve(
            ODETerm(net),
            y0,
            TS,
            method=method,
            controller=PID(RTOL, RTOL),
            adjoint=adjoint,
            probe_times=drawn.probe_times,
        )

    return run


def theirs(net: TimedMLP, y0: Tensor, drawn: Draw) -> Solution:
    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.net(t, y)

    recorder, times = StepRecorder(Field()), ProbedTimes(TS, drawn.probe_times)
    states = torchdiffeq.odeint_adjoint(
        recorder, y0, times.all, method="dopri5", rtol=RTOL, atol=RTOL
    )
    ys, probes = times.split(states)
    return foreign_solution(
        ODETerm(net),
        TS,
        ys,
        method="dopri5",
        probes=probes,
        steps=recorder.take(),
        rtol=RTOL,
        atol=RTOL,
    )


def steps(net: TimedMLP, method: object) -> float:
    """Steps that a solve from new places takes."""
    y0 = normal((32, 2), 9, **F64)
    with torch.no_grad():
        sol = solve(ODETerm(net), y0, TS, method=method, controller=PID(RTOL, RTOL))
    return float(sol.stats.accepted.double().mean())


def trained(run: Run, weight: float, method: object) -> float:
    """Steps after a training to turn places by a quarter, and the error left."""
    net = TimedMLP(2, seed=3, gain=3.0).to(**F64)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    torch.manual_seed(0)
    one = run is theirs
    for iteration in range(60):
        y0 = normal((16, 2), 20 + iteration % 4, **F64)
        target = torch.stack([-y0[:, 1], y0[:, 0]], dim=1)
        t0, t1 = (t.expand(1 if one else 16) for t in TS)
        drawn = draw([LocalError(weight=weight)], t0, t1)
        sol = run(net, y0, drawn)
        loss = (sol.final - target).square().mean()
        penalty = drawn.total(drawn.penalties(sol), 0.5) if weight else 0.0
        optimiser.zero_grad()
        (loss + penalty).backward()
        optimiser.step()
    return steps(net, method)


@cache
def ratio(way: str) -> float:
    """Steps with the penalty over those without."""
    run, method = WAYS[way]
    return trained(run, 10.0, method) / trained(run, 0.0, method)


WAYS: dict[str, tuple[Run, object]] = {
    "direct": (ours(Direct()), "dopri5"),
    "recompute": (ours(Recompute()), "dopri5"),
    "backsolve": (ours(Backsolve()), "dopri5"),
    "reversible": (ours(Reversible(), PAIR), "dopri5"),
    "torchdiffeq": (theirs, "dopri5"),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", [name for name in WAYS if name != "direct"])
def test_the_same_reduction(way: str) -> None:
    assert ratio("direct") < 0.75
    assert ratio(way) == pytest.approx(ratio("direct"), abs=0.1)


def test_a_step_from_where_one_landed_is_the_next() -> None:
    """Not the one that was cut to end there, whose error says little."""
    net, y0 = TimedMLP(2, seed=3, gain=3.0).to(**F64), normal((16, 2), 20, **F64)
    torch.manual_seed(0)
    drawn = draw([LocalError()], *(t.expand(16) for t in TS))
    sol = ours(Backsolve())(net, y0, drawn)
    at = drawn.probe_times
    assert at is not None
    begins = (sol.stats.t - at[:, 0]).abs() < 1e-12
    assert torch.all((begins & sol.stats.valid).sum(dim=0) == 1)
    wanted = (sol.stats.step * begins).sum(dim=0)
    torch.testing.assert_close(sol.step_at(at[:, 0]), wanted)
