"""Times, steps and statistics of a solve."""

import pytest
import torch
from problems import DECAY, KIND, PROBLEMS, SPIRAL, Problem, column
from torch import Tensor

from nde.solvers import (
    PID,
    FixedSteps,
    ODETerm,
    Solution,
    SolveError,
    Status,
    solve,
)
from nde.solvers.tableaus import EXPLICIT

ADAPTIVE = ["heun_euler", "bosh3", "dopri5", "tsit5"]
TIGHT = PID(rtol=1e-8, atol=1e-9)
BATCHES = pytest.mark.parametrize("batch", ["per_sample", "shared"])


def check_invariants(sol: Solution, t0: Tensor, t1: Tensor) -> None:
    """What holds for the statistics of every successful solve."""
    stats = sol.stats
    batch = len(sol.status)
    assert stats.valid.dtype == torch.bool
    assert torch.equal(stats.valid.sum(0), stats.accepted)
    rows = torch.arange(len(stats.valid), device=t0.device)[:, None]
    assert torch.equal(stats.valid, rows < stats.accepted), "not left-aligned"
    for name in ("t", "step", "error_estimate", "stiffness"):
        values = getattr(stats, name)
        assert values.shape == stats.valid.shape == (len(stats.valid), batch)
        padding = values[~stats.valid]
        assert (padding == 0).all() or padding.isnan().all(), name
    for name in ("evaluations", "accepted", "rejected"):
        counter = getattr(stats, name)
        assert counter.shape == (batch,) and counter.dtype == torch.int64
        assert (counter >= 0).all()

    span = (t1 - t0).expand(batch)
    torch.testing.assert_close(
        (stats.step * stats.valid).sum(0).abs(), span.abs(), rtol=1e-12, atol=1e-14
    )
    # Each step starts where the last one ended, the first at t0.
    torch.testing.assert_close(stats.t[0], t0.expand(batch), rtol=0, atol=0)
    signed = torch.where(span < 0, -1.0, 1.0) * stats.step.abs()
    ends = stats.t + signed
    joined = (ends[:-1] - stats.t[1:])[stats.valid[1:]]
    assert joined.numel() == 0 or joined.abs().max() < 1e-12 * (1 + span.abs().max())
    estimates = stats.error_estimate[stats.valid]
    assert estimates.isnan().all() or ((estimates >= 0) & (estimates <= 1)).all()


@BATCHES
@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_adaptive_solutions(
    problem: Problem, method: str, batch: str, f64: KIND
) -> None:
    tol = 1e-5 if method == "heun_euler" else 1e-7
    y0, ts = problem.y0(**f64), problem.ts(9, **f64)
    sol = solve(
        ODETerm(problem.field),
        y0,
        ts,
        method=method,
        controller=PID(rtol=tol, atol=tol),
        batch=batch,
    )
    torch.testing.assert_close(
        sol.ys, problem.solution(ts, y0), rtol=100 * tol, atol=100 * tol
    )
    assert torch.equal(sol.ys[:, 0], y0)
    torch.testing.assert_close(sol.ys[:, -1], sol.final)
    assert (sol.status == Status.SUCCESS).all()
    check_invariants(sol, ts[0], ts[-1])


@pytest.mark.parametrize("method", EXPLICIT)
@BATCHES
def test_fixed_grids(method: str, batch: str, f64: KIND) -> None:
    """A uniform grid from t0 with the last step cut short."""
    y0, ts = SPIRAL.y0(**f64), torch.tensor([0.0, 0.33, 1.0], **f64)
    sol = solve(
        ODETerm(SPIRAL.field),
        y0,
        ts,
        method=method,
        controller=FixedSteps(0.3, rtol=1.0, atol=1.0),
        batch=batch,
    )
    assert sol.stats.accepted.tolist() == [4] * 3
    assert sol.stats.rejected.tolist() == [0] * 3
    torch.testing.assert_close(
        sol.stats.step[:, 0], torch.tensor([0.3, 0.3, 0.3, 0.1], **f64)
    )
    check_invariants(sol, ts[0], ts[-1])
    has_error = EXPLICIT[method].b_error is not None
    assert sol.stats.error_estimate[sol.stats.valid].isnan().all() != has_error
    has_stiffness = EXPLICIT[method].stiffness_pair is not None
    assert sol.stats.stiffness[sol.stats.valid].isnan().all() != has_stiffness


@pytest.mark.parametrize("step", [0.1, 0.2, 1 / 3, 1e-2])
def test_no_sliver_remains_on_a_fixed_grid(step: float, device: torch.device) -> None:
    """Ten times 0.1 is ten steps, whatever the rounding, in either precision."""
    for dtype in (torch.float32, torch.float64):
        y0 = torch.ones(2, 1, dtype=dtype, device=device)
        ts = torch.tensor([0.0, 1.0], dtype=dtype, device=device)
        sol = solve(ODETerm(DECAY.field), y0, ts, controller=FixedSteps(step))
        assert sol.stats.accepted.tolist() == [round(1 / step)] * 2


def test_a_step_longer_than_the_interval_is_one_step(f64: KIND) -> None:
    y0, ts = SPIRAL.y0(**f64), torch.tensor([0.0, 0.2], **f64)
    sol = solve(ODETerm(SPIRAL.field), y0, ts, method="rk4", controller=FixedSteps(5.0))
    assert sol.stats.accepted.tolist() == [1] * 3
    assert (sol.stats.step[0] == 0.2).all()


@pytest.mark.parametrize("end", [0.1, 1.0, 1.7, 1e-5, 300.0])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_the_end_is_hit_exactly(end: float, method: str, f64: KIND) -> None:
    """No overshoot: the field is never called beyond the end time."""
    latest = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        latest.append(t.max().item())
        return torch.sin(column(t)) - y

    ts = torch.tensor([0.0, end], **f64)
    y0 = torch.ones(2, 1, **f64)
    sol = solve(ODETerm(field), y0, ts, method=method, max_steps=50000)
    assert max(latest) <= end
    check_invariants(sol, ts[0], ts[1])
    last = sol.stats.accepted[0] - 1
    assert (sol.stats.t[last, 0] + sol.stats.step[last, 0]).item() == pytest.approx(
        end, rel=1e-15
    )


@BATCHES
def test_no_step_is_a_sliver(batch: str, f64: KIND) -> None:
    """The last steps share the remainder: none is tiny beside its neighbour."""
    for end in torch.linspace(0.5, 3.0, 23).tolist():
        y0, ts = SPIRAL.y0(**f64), torch.tensor([0.0, end], **f64)
        sol = solve(ODETerm(SPIRAL.field), y0, ts, batch=batch)
        for i in range(3):
            steps = sol.stats.step[sol.stats.valid[:, i], i]
            if len(steps) > 2:
                assert steps[-1] > 0.04 * steps[-2]


@pytest.mark.parametrize("controller", [TIGHT, FixedSteps(0.01)], ids=["pid", "fixed"])
@BATCHES
def test_time_runs_backwards(controller: object, batch: str, f64: KIND) -> None:
    y1 = SPIRAL.solution(SPIRAL.ts(2, **f64), SPIRAL.y0(**f64))[:, -1]
    ts = SPIRAL.ts(7, **f64).flip(0)
    sol = solve(ODETerm(SPIRAL.field), y1, ts, controller=controller, batch=batch)
    want = SPIRAL.solution(ts, SPIRAL.y0(**f64))
    torch.testing.assert_close(sol.ys, want, rtol=1e-6, atol=1e-6)
    if isinstance(controller, PID):
        check_invariants(sol, ts[0], ts[-1])
    assert (sol.stats.t[0] == SPIRAL.t1).all()


@pytest.mark.parametrize("method", EXPLICIT)
@BATCHES
def test_evaluations_are_counted_right(method: str, batch: str, f64: KIND) -> None:
    calls = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        calls.append(None)
        return SPIRAL.field(t, y)

    adaptive = method in ADAPTIVE
    y0, ts = SPIRAL.y0(**f64)[:1], SPIRAL.ts(5, **f64)
    for controller in [FixedSteps(0.1)] + [PID()] * adaptive:
        calls.clear()
        with torch.no_grad():
            sol = solve(
                ODETerm(field),
                y0,
                ts,
                method=method,
                controller=controller,
                batch=batch,
            )
        # The host may look at the end of a batch some steps late; the count may not.
        counted = sol.stats.evaluations.item()
        attempts = (sol.stats.accepted + sol.stats.rejected).item()
        per_step = EXPLICIT[method].evaluations
        extra = len(EXPLICIT[method].extra_c) * sol.stats.accepted.item()
        assert attempts * per_step <= counted <= attempts * per_step + 4 + extra
        assert counted <= len(calls)
        if controller == FixedSteps(0.1) or f64["device"] == torch.device("cpu"):
            assert len(calls) <= counted + 1


def test_step_counts_are_those_of_scipy(f64: KIND) -> None:
    """dopri5 under the I-controller works as hard as scipy's RK45, within a tenth."""
    integrate = pytest.importorskip("scipy.integrate")
    y0, ts = SPIRAL.y0(**f64)[:1], torch.tensor([0.0, 12.0], **f64)
    for tol in (1e-4, 1e-6, 1e-8):
        sol = solve(
            ODETerm(SPIRAL.field),
            y0,
            ts,
            method="dopri5",
            controller=PID(rtol=tol, atol=tol),
        )
        want = integrate.solve_ivp(
            lambda t, y: SPIRAL.field(
                torch.tensor(t, **f64), torch.as_tensor(y, **f64)[None]
            )[0].cpu(),
            (0, 12),
            y0[0].cpu().numpy(),
            rtol=tol,
            atol=tol,
        )
        assert sol.stats.evaluations.item() <= 1.1 * want.nfev + 6


def test_rejections_are_counted(f64: KIND) -> None:
    """A sudden change makes the controller step back."""

    def jump(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(column(t) > 1.0, 50 * torch.cos(40 * column(t)), -y)

    y0, ts = torch.ones(2, 1, **f64), torch.tensor([0.0, 2.0], **f64)
    sol = solve(ODETerm(jump), y0, ts, controller=PID(rtol=1e-5, atol=1e-5))
    assert (sol.stats.rejected > 0).all()
    check_invariants(sol, ts[0], ts[1])


def test_the_first_step_can_be_given(f64: KIND) -> None:
    y0, ts = SPIRAL.y0(**f64), SPIRAL.ts(2, **f64)
    sol = solve(ODETerm(SPIRAL.field), y0, ts, controller=PID(first_step=1e-3))
    torch.testing.assert_close(sol.stats.step[0], torch.full((3,), 1e-3, **f64))
    own = solve(ODETerm(SPIRAL.field), y0, ts, controller=PID())
    assert (own.stats.step[0] > 1e-3).all()
    assert (own.stats.evaluations < sol.stats.evaluations).any()


def test_factor_limits_bound_the_change(f64: KIND) -> None:
    y0, ts = SPIRAL.y0(**f64), torch.tensor([0.0, 10.0], **f64)
    sol = solve(
        ODETerm(SPIRAL.field), y0, ts, controller=PID(first_step=1e-4, factor_max=2.0)
    )
    for i in range(3):
        h = sol.stats.step[sol.stats.valid[:, i], i]
        assert (h[1:] / h[:-1]).max() <= 2 + 1e-9


def test_max_steps_stops_the_solve(f64: KIND) -> None:
    y0, ts = SPIRAL.y0(**f64), torch.tensor([0.0, 0.1, 100.0], **f64)
    with pytest.raises(SolveError, match="max_steps") as caught:
        solve(ODETerm(SPIRAL.field), y0, ts, max_steps=20)
    assert caught.value.status == Status.MAX_STEPS
    sol = solve(ODETerm(SPIRAL.field), y0, ts, max_steps=20, throw=False)
    assert (sol.status == Status.MAX_STEPS).all()
    assert (sol.stats.accepted + sol.stats.rejected <= 20).all()
    assert sol.ys[:, 1].isfinite().all() and sol.ys[:, 2].isnan().all()


def test_finished_samples_stop_costing_steps(f64: KIND) -> None:
    """The count of a sample that ended early does not grow with the others'."""
    y0 = SPIRAL.y0(**f64)
    ts = torch.tensor([[0.0, 0.01], [0.0, 20.0], [0.0, 0.5]], **f64)
    sol = solve(ODETerm(SPIRAL.field), y0, ts)
    assert sol.stats.accepted[0] < sol.stats.accepted[2] < sol.stats.accepted[1]
    assert sol.stats.evaluations[0] <= 4 + 6 * 4
