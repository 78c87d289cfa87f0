"""Adams methods: order on any grid, rest, stability, counts, gradients."""

import importlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from fields import after_half
from gradients import assert_same, check_finite_differences, gradients
from problems import KIND, SPIRAL, TimedMLP, column, normal
from torch import Tensor, nn

from nde.solvers import (
    ODE_METHODS,
    PID,
    Direct,
    FixedSteps,
    ODETerm,
    Recompute,
    Solution,
    SolveError,
    Status,
    solve,
)
from nde.solvers.bound import bind
from nde.solvers.multistep import EXPLICIT_ADAMS, IMPLICIT_ADAMS
from nde.solvers.schedule import schedule
from nde.solvers.state import structure_of
from nde.solvers.term import Layout
from nde.solvers.types import Increment

STEPPERS = {stepper.name: stepper for stepper in (EXPLICIT_ADAMS, IMPLICIT_ADAMS)}
METHODS = pytest.mark.parametrize("method", STEPPERS)
BATCHES = pytest.mark.parametrize("batch", ["per_sample", "shared"])
BOTH = [Recompute(), Direct()]
ADJOINTS = pytest.mark.parametrize("adjoint", BOTH, ids=["recompute", "direct"])


@METHODS
@pytest.mark.parametrize("index", [0, 5])
def test_a_step_of_no_length_is_the_identity(
    method: str, index: int, f64: KIND
) -> None:
    y = SPIRAL.y0(**f64)
    term = bind(ODETerm(SPIRAL.field), Layout(structure_of(y), False, False))
    carry = tuple(normal((3, 2), i, **f64) for i in range(4))
    t, rest = torch.zeros(3, **f64), torch.zeros(3, 1, **f64)
    past = torch.full((3, 3), 0.1, **f64)
    for time, inc in (
        (t, Increment(rest, index=index, past=past)),
        (t, Increment(rest, index=index, past=torch.zeros_like(past))),
        (0.0, Increment(0.0, index=index, past=[0.1, 0.1, 0.1])),
    ):
        out = STEPPERS[method].step(term, time, y, inc, carry, None)
        assert torch.equal(out.y1, y)


def along_knots(knots: list[list[float]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make fixed steps follow the grid of each row, or of all."""
    module = importlib.import_module("nde.solvers.engine")

    def grid(problem, noise):  # type: ignore[no-untyped-def]
        table = problem.t0.new_tensor(knots).t()
        t, h = table[:-1].contiguous(), table.diff(dim=0)
        if problem.common:
            t, h = t.expand(-1, problem.rows), h.expand(-1, problem.rows)
        return schedule(t, h, None, problem.common)

    monkeypatch.setattr(module, "fixed_grid", grid)


def rough(count: int, t1: float, seed: int = 0) -> list[float]:
    """Knots whose distances differ by up to a factor of three, in random order."""
    sizes = np.random.default_rng(seed).uniform(0.5, 1.5, count)
    knots = np.concatenate(([0.0], np.cumsum(sizes)))
    return (knots * (t1 / knots[-1])).tolist()


@METHODS
@pytest.mark.parametrize("own", [False, True], ids=["numbers", "tensors"])
def test_cubic_derivatives_are_integrated_exactly(
    method: str, own: bool, monkeypatch: pytest.MonkeyPatch, f64: KIND
) -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        t = column(t)
        return (4 * t**3 - 3 * t**2 + 1).expand_as(y)

    along_knots([rough(11, 2.0, seed) for seed in range(2 if own else 1)], monkeypatch)
    ts = torch.tensor([0.0, 2.0], **f64)
    ts = ts.expand(2, 2) if own else ts
    y0 = torch.zeros(2, 1, **f64)
    sol = solve(ODETerm(field), y0, ts, method=method, controller=FixedSteps(1.0))
    assert sol.stats.accepted.tolist() == [11, 11]
    torch.testing.assert_close(sol.final, torch.full_like(y0, 10.0), rtol=1e-13, atol=0)


@METHODS
@pytest.mark.parametrize("own", [False, True], ids=["numbers", "tensors"])
def test_order_on_a_rough_grid(
    method: str, own: bool, monkeypatch: pytest.MonkeyPatch, f64: KIND
) -> None:
    """Each count with its own random distances, the output read between knots."""
    y0 = SPIRAL.y0(**f64)
    ts = SPIRAL.ts(501, **f64)
    exact = SPIRAL.solution(ts, y0)
    ts = ts.expand(3, -1) if own else ts
    counts, errors = (100, 200, 400, 800), []
    for count in counts:
        along_knots([rough(count, SPIRAL.t1)] * (3 if own else 1), monkeypatch)
        sol = solve(
            ODETerm(SPIRAL.field), y0, ts, method=method, controller=FixedSteps(1.0)
        )
        errors.append((sol.ys - exact).abs().max().item())
    slope = np.polyfit(np.log(1 / np.array(counts)), np.log(errors), 1)[0]
    assert slope == pytest.approx(4, abs=0.15)


@METHODS
@BATCHES
def test_order_with_a_clipped_last_step(method: str, batch: str, f64: KIND) -> None:
    y0, ts = SPIRAL.y0(**f64), SPIRAL.ts(2, **f64)
    exact = SPIRAL.solution(ts, y0)[:, -1]
    counts, errors = (64, 128, 256), []
    for count in counts:
        steps = FixedSteps(2 / (count - 0.7))
        sol = solve(
            ODETerm(SPIRAL.field), y0, ts, method=method, controller=steps, batch=batch
        )
        assert sol.stats.accepted.tolist() == [count] * 3
        assert (sol.stats.step[-1] < 0.31 * sol.stats.step[0]).all()
        errors.append((sol.final - exact).abs().max().item())
    slope = np.polyfit(np.log(1 / np.array(counts)), np.log(errors), 1)[0]
    assert slope == pytest.approx(4, abs=0.15)


@METHODS
def test_intervals_of_each_sample(method: str, f64: KIND) -> None:
    """Rows that end after 0, 1, 5 and 13 steps are what they are alone."""
    ts = torch.tensor([[0, 0, 0], [0, 0.1, 0.1], [0, 0.3, 0.5], [0, 1, 1.3]], **f64)
    y0 = normal((4, 2), 0, **f64) / 2
    steps, term = FixedSteps(0.1), ODETerm(SPIRAL.field)
    sol = solve(term, y0, ts, method=method, controller=steps)
    assert sol.stats.accepted.tolist() == [0, 1, 5, 13]
    for i in range(4):
        alone = solve(
            term, y0[i : i + 1], ts[i : i + 1], method=method, controller=steps
        )
        assert alone.stats.evaluations[0] == sol.stats.evaluations[i]
        torch.testing.assert_close(alone.ys[0], sol.ys[i], rtol=1e-13, atol=1e-14)


@METHODS
@BATCHES
def test_decreasing_times(method: str, batch: str, f64: KIND) -> None:
    y0, ts = SPIRAL.y0(**f64), SPIRAL.ts(5, **f64)
    there = solve(
        ODETerm(lambda t, y: -SPIRAL.field(-t, y)),
        y0,
        -ts.flip(0),
        method=method,
        controller=FixedSteps(0.07),
        batch=batch,
    )
    back = solve(
        ODETerm(SPIRAL.field),
        y0,
        ts.flip(0),
        method=method,
        controller=FixedSteps(0.07),
        batch=batch,
    )
    torch.testing.assert_close(there.ys, back.ys, rtol=1e-13, atol=1e-14)


@METHODS
@pytest.mark.parametrize("count", [1, 2, 3, 4, 10])
def test_evaluations_are_counted_exactly(method: str, count: int, f64: KIND) -> None:
    calls = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        calls.append(None)
        return -y

    ts = torch.tensor([0.0, 1.0], **f64)
    with torch.no_grad():
        sol = solve(
            ODETerm(field),
            torch.ones(2, 1, **f64),
            ts,
            method=method,
            controller=FixedSteps(1 / count),
        )
    each = 2 if method == "implicit_adams" else 1
    wanted = 1 + 4 * min(count, 3) + each * max(count - 3, 0)
    assert sol.stats.evaluations.tolist() == [wanted] * 2
    assert len(calls) == wanted


@METHODS
def test_the_declared_extent_of_stability(method: str, f64: KIND) -> None:
    """y' = -y: steps a little shorter die out, a little longer ones grow."""
    for factor, dies in ((0.97, True), (1.03, False)):
        step = factor * STEPPERS[method].stability
        sol = solve(
            ODETerm(lambda t, y: -y),
            torch.ones(1, 1, **f64),
            torch.tensor([0.0, 1000 * step], **f64),
            method=method,
            controller=FixedSteps(step),
        )
        assert (sol.final.abs().item() < 1e-3) == dies


@METHODS
def test_a_long_mild_problem_stays_on_its_solution(method: str, f64: KIND) -> None:
    """y' = -(y - cos t) to t = 1000, on whose way high orders diverge."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        return -(y - column(t).cos())

    ts = torch.linspace(0, 1000, 101, **f64)
    sol = solve(
        ODETerm(field),
        torch.full((1, 1), 0.5, **f64),
        ts,
        method=method,
        controller=FixedSteps(0.2),
        max_steps=10_000,
    )
    want = (ts.cos() + ts.sin()) / 2
    torch.testing.assert_close(sol.ys[0, :, 0], want, rtol=0, atol=1e-3)


def test_a_field_that_reuses_its_result(f64: KIND) -> None:
    kept = torch.empty(3, 2, **f64)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return kept.copy_(SPIRAL.field(t, y))

    y0, ts = SPIRAL.y0(**f64), SPIRAL.ts(3, **f64)
    for method in STEPPERS:
        steps = FixedSteps(0.1)
        with torch.no_grad():
            sol = solve(ODETerm(field), y0, ts, method=method, controller=steps)
        want = solve(ODETerm(SPIRAL.field), y0, ts, method=method, controller=steps)
        assert torch.equal(sol.ys, want.ys)


@METHODS
def test_nested_and_complex_states(method: str, f64: KIND) -> None:
    """A turning complex number beside a tensor of any shape."""
    z0 = torch.tensor([1.0 + 0.5j, -2j], dtype=torch.complex128, device=f64["device"])
    y0 = {"z": z0, "x": (normal((2, 2, 2), 0, **f64),)}

    def field(t: Tensor, state: dict[str, object]) -> dict[str, object]:
        return {"z": 1j * state["z"], "x": (-state["x"][0],)}

    ts = torch.tensor([0.0, 1.3], **f64)
    sol = solve(ODETerm(field), y0, ts, method=method, controller=FixedSteps(0.01))
    turned = z0 * torch.exp(torch.tensor(1.3j, dtype=torch.complex128)).item()
    torch.testing.assert_close(sol.final["z"], turned, rtol=1e-7, atol=0)
    decayed = y0["x"][0] * np.exp(-1.3)
    torch.testing.assert_close(sol.final["x"][0], decayed, rtol=1e-7, atol=0)


def test_single_precision(device: torch.device) -> None:
    y0, ts = SPIRAL.y0(device=device), SPIRAL.ts(3, device=device)
    want = SPIRAL.solution(ts, y0)
    for method in STEPPERS:
        for times in (ts, ts.expand(3, 3)):
            sol = solve(
                ODETerm(SPIRAL.field),
                y0,
                times,
                method=method,
                controller=FixedSteps(0.02),
            )
            assert sol.ys.dtype == torch.float32
            torch.testing.assert_close(sol.ys, want, rtol=1e-4, atol=1e-5)


def full_loss(sol: Solution, at: Tensor) -> Tensor:
    weight = torch.linspace(0.5, 1.5, sol.ys.numel(), dtype=sol.ys.dtype)
    loss = (sol.ys * weight.view_as(sol.ys).to(sol.ys.device)).sin().sum()
    return loss + (sol.final**2).sum() + sol.evaluate(at).cos().sum()


@METHODS
@pytest.mark.parametrize("kind", ["per_sample", "shared", "own times", "decreasing"])
def test_gradients(method: str, kind: str, f64: KIND) -> None:
    """Both adjoints agree, and with finite differences."""
    net, y0 = TimedMLP(3, seed=1).to(**f64), normal((3, 3), 0, **f64)
    ts = torch.tensor([0.0, 0.21, 0.5, 1.4], **f64)
    at = torch.tensor([0.07, 0.3], **f64)
    if kind == "own times":
        ends = torch.tensor([0.33, 1.0, 1.7], **f64)
        ts = torch.stack([0 * ends, ends / 3, ends, ends], dim=1)
    elif kind == "decreasing":
        ts, at = -ts, -at

    def loss(adjoint: object) -> Callable[[Tensor, nn.Module], Tensor]:
        def value(y: Tensor, f: nn.Module) -> Tensor:
            sol = solve(
                ODETerm(f),
                y,
                ts,
                method=method,
                controller=FixedSteps(0.11),
                batch="shared" if kind == "shared" else "per_sample",
                adjoint=adjoint,
                dense=True,
            )
            return full_loss(sol, at)

        return value

    assert_same(*(gradients(loss(a), y0, net) for a in BOTH), rtol=1e-12)
    check_finite_differences(loss(Recompute()), y0, net)


@METHODS
@ADJOINTS
def test_a_failing_row_stops_alone(method: str, adjoint: object, f64: KIND) -> None:
    """NaN from t = 0.5 on in one row: the others and all gradients stay finite."""
    weight = torch.ones(2, requires_grad=True, **f64)
    bad = after_half(float("nan"))

    def field(t: Tensor, y: Tensor) -> Tensor:
        odd = (torch.arange(3, device=y.device) == 1)[:, None]
        return torch.where(odd, bad(t, y), -y) * weight

    y0, ts = torch.ones(3, 2, **f64), torch.tensor([0.0, 0.2, 1.0], **f64)
    options = {"method": method, "controller": FixedSteps(0.05), "adjoint": adjoint}
    with pytest.raises(SolveError, match="finite"):
        solve(ODETerm(field), y0, ts, **options)
    sol = solve(ODETerm(field), y0, ts, throw=False, **options)
    assert sol.status.tolist() == [0, int(Status.NON_FINITE_FIELD), 0]
    assert sol.ys[1, :2].isfinite().all() and sol.ys[1, 2].isnan().all()
    want = torch.exp(-ts)[:, None].expand(3, 2)
    torch.testing.assert_close(sol.ys[0], want, rtol=1e-5, atol=0)
    loss = sol.ys[[0, 2]].sum() + sol.ys[1, 1].sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    exact = -2 * (ts * torch.exp(-ts)).sum() - 0.2 * np.exp(-0.2)
    torch.testing.assert_close(gradient, exact.expand(2), rtol=1e-4, atol=0)


@METHODS
def test_steps_are_not_adapted(method: str, f64: KIND) -> None:
    y0, ts = SPIRAL.y0(**f64), SPIRAL.ts(2, **f64)
    with pytest.raises(ValueError, match=f"'{method}' has no error.*tsit5") as caught:
        solve(ODETerm(SPIRAL.field), y0, ts, method=method, controller=PID())
    assert "adams" not in str(caught.value).split("a method of")[1]
    sol = solve(
        ODETerm(SPIRAL.field), y0, ts, method=method, controller=FixedSteps(0.1)
    )
    assert sol.stats.error_estimate.isnan().all()
    assert sol.stats.stiffness.isnan().all()


def test_they_are_known_by_name() -> None:
    for name, stepper in STEPPERS.items():
        assert ODE_METHODS[name] is stepper
