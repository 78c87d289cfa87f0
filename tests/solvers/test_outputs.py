"""Reading a solution: saved, probed and dense values, at times of all or of each."""

import pytest
import torch
from problems import KIND, SPIRAL, TimedMLP, normal

from nde.solvers import (
    PID,
    FixedSteps,
    ODETerm,
    Status,
    solve,
)
from nde.solvers.tableaus import EXPLICIT

ADAPTIVE = ["heun_euler", "bosh3", "dopri5", "tsit5"]
TIGHT = PID(rtol=1e-8, atol=1e-9)
BATCHES = pytest.mark.parametrize("batch", ["per_sample", "shared"])


@BATCHES
def test_outputs_do_not_change_the_steps(batch: str, f64: KIND) -> None:
    y0 = SPIRAL.y0(**f64)
    few = solve(ODETerm(SPIRAL.field), y0, SPIRAL.ts(2, **f64), batch=batch)
    many = solve(
        ODETerm(SPIRAL.field),
        y0,
        SPIRAL.ts(500, **f64),
        batch=batch,
        probe_times=torch.tensor([0.3, 0.1], **f64),
        dense=True,
    )
    assert torch.equal(few.stats.step, many.stats.step)
    assert torch.equal(few.stats.evaluations, many.stats.evaluations)
    assert torch.equal(few.final, many.final)
    assert torch.equal(few.ys[:, -1], many.ys[:, -1])


@pytest.mark.parametrize("method", EXPLICIT)
def test_probes_saved_and_dense_values_agree(method: str, f64: KIND) -> None:
    y0, ts = SPIRAL.y0(**f64), SPIRAL.ts(11, **f64)
    mixed = ts[torch.tensor([7, 2, 10, 0, 5])]
    sol = solve(
        ODETerm(SPIRAL.field),
        y0,
        ts,
        method=method,
        controller=FixedSteps(0.3),
        probe_times=mixed,
        dense=True,
    )
    torch.testing.assert_close(sol.evaluate(ts), sol.ys, rtol=1e-12, atol=1e-13)
    want = sol.ys[:, [7, 2, 10, 0, 5]]
    torch.testing.assert_close(sol.probes, want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("controller", [PID(), FixedSteps(0.3)], ids=["pid", "fixed"])
def test_dense_values_at_times_of_each_sample(controller: object, f64: KIND) -> None:
    y0, ts = SPIRAL.y0(**f64), SPIRAL.ts(11, **f64)
    sol = solve(ODETerm(SPIRAL.field), y0, ts, controller=controller, dense=True)
    rows = ([1, 9], [3, 3], [4, 0])
    each = sol.evaluate(torch.stack([ts[row] for row in rows]))
    for i, row in enumerate(rows):
        torch.testing.assert_close(each[i], sol.ys[i, row], rtol=1e-12, atol=1e-13)


def test_evaluate_without_dense_says_so(f64: KIND) -> None:
    sol = solve(ODETerm(SPIRAL.field), SPIRAL.y0(**f64), SPIRAL.ts(2, **f64))
    with pytest.raises(ValueError, match="dense"):
        sol.evaluate(torch.tensor([0.1], **f64))


@pytest.mark.parametrize("method", ADAPTIVE)
def test_dense_output_is_smooth_and_exact(method: str, f64: KIND) -> None:
    tol = 1e-5 if method == "heun_euler" else 1e-8
    y0, ts = SPIRAL.y0(**f64), SPIRAL.ts(2, **f64)
    sol = solve(
        ODETerm(SPIRAL.field),
        y0,
        ts,
        method=method,
        controller=PID(rtol=tol, atol=tol),
        dense=True,
    )
    fine = SPIRAL.ts(401, **f64)
    got = sol.evaluate(fine)
    torch.testing.assert_close(
        got, SPIRAL.solution(fine, y0), rtol=200 * tol, atol=200 * tol
    )
    # Continuous where two steps meet.
    joints = sol.stats.t[1 : int(sol.stats.accepted.min())].T  # (batch, rows - 1)
    left, right = (sol.evaluate(joints + e) for e in (-1e-9, 1e-9))
    torch.testing.assert_close(left, right, rtol=1e-7, atol=1e-7)


def test_against_scipy(f64: KIND) -> None:
    """A network field with time, tight tolerances, interpolated outputs."""
    integrate = pytest.importorskip("scipy.integrate")
    net = TimedMLP(3, seed=21).to(**f64)
    y0, ts = normal((2, 3), 21, **f64), torch.linspace(0, 4, 33, **f64)
    with torch.no_grad():
        sol = solve(ODETerm(net), y0, ts, method="dopri5", controller=PID(1e-10, 1e-11))

        def flat(t: float, y: object) -> object:
            state = torch.as_tensor(y, **f64)[None]
            return net(torch.tensor(t, **f64), state)[0].cpu().numpy()

        for i in range(2):
            want = integrate.solve_ivp(
                flat,
                (0, 4),
                y0[i].cpu().numpy(),
                method="DOP853",
                t_eval=ts.cpu().numpy(),
                rtol=1e-12,
                atol=1e-13,
            )
            torch.testing.assert_close(
                sol.ys[i], torch.as_tensor(want.y.T.copy(), **f64), rtol=0, atol=2e-8
            )


def test_one_output_time_returns_the_start(f64: KIND) -> None:
    y0 = SPIRAL.y0(**f64)
    sol = solve(ODETerm(SPIRAL.field), y0, torch.tensor([0.7], **f64))
    assert torch.equal(sol.ys, y0[:, None])
    assert torch.equal(sol.final, y0)
    assert sol.stats.accepted.tolist() == [0, 0, 0]
    assert (sol.status == Status.SUCCESS).all()


@pytest.mark.parametrize("controller", [TIGHT, FixedSteps(0.01)], ids=["pid", "fixed"])
def test_every_sample_has_its_own_times(controller: object, f64: KIND) -> None:
    y0 = SPIRAL.y0(**f64)
    ts = torch.tensor([[0.0, 0.1, 2.0], [0.0, 1.0, 1.5], [0.0, 0.01, 0.02]], **f64)
    sol = solve(ODETerm(SPIRAL.field), y0, ts, controller=controller)
    torch.testing.assert_close(sol.ys, SPIRAL.solution(ts, y0), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(sol.ys[:, -1], sol.final)
    assert sol.stats.accepted[2] < sol.stats.accepted[0]
    # A sample's own interval, and nothing beyond it.
    torch.testing.assert_close(
        (sol.stats.step * sol.stats.valid).sum(0), ts[:, -1], rtol=1e-12, atol=0
    )


def test_per_sample_times_equal_separate_solves(f64: KIND) -> None:
    y0 = SPIRAL.y0(**f64)
    ts = torch.tensor([[0.0, 0.1, 2.0], [0.5, 1.0, 1.5], [1.0, 1.01, 1.9]], **f64)
    sol = solve(ODETerm(SPIRAL.field), y0, ts)
    for i in range(3):
        one = solve(ODETerm(SPIRAL.field), y0[i : i + 1], ts[i])
        torch.testing.assert_close(one.ys[0], sol.ys[i], rtol=1e-9, atol=1e-11)
        assert one.stats.evaluations[0] == sol.stats.evaluations[i]


def test_solutions_print_in_a_line(f64: KIND) -> None:
    y0, ts = SPIRAL.y0(**f64), SPIRAL.ts(50, **f64)
    sol = solve(ODETerm(SPIRAL.field), y0, ts, controller=FixedSteps(0.25))
    count = int(sol.stats.accepted[0])
    shown = repr(sol.stats)
    assert shown.startswith(f"Stats({len(y0)} samples: evaluations ")
    assert shown.endswith(f", accepted {count}, rejected 0)")
    assert shown in repr(sol) and "grad_fn" not in repr(sol)
