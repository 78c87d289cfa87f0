"""Symplectic methods: order, energy over long times, reversal, and what they refuse."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from gradients import assert_same, check_finite_differences, gradients
from problems import KIND, TimedMLP, column, normal
from torch import Tensor, nn

from nde.solvers import (
    PID,
    Direct,
    FixedSteps,
    ODETerm,
    Recompute,
    SolveError,
    Status,
    solve,
)
from nde.solvers.bound import bind
from nde.solvers.methods import SYMPLECTIC_METHODS
from nde.solvers.state import structure_of
from nde.solvers.term import Layout
from nde.solvers.types import Increment

Pair = tuple[Tensor, Tensor]
ORDERS = {"semi_implicit_euler": 1, "leapfrog": 2}
METHODS = pytest.mark.parametrize("method", ORDERS)
BATCHES = pytest.mark.parametrize("batch", ["per_sample", "shared"])
BOTH = [Recompute(), Direct()]
ADJOINTS = pytest.mark.parametrize("adjoint", BOTH, ids=["recompute", "direct"])


def q_exact(t: Tensor) -> Tensor:
    return t.sin() + 0.3 * t


def p_exact(t: Tensor) -> Tensor:
    return (2 * t).cos()


def driven(t: Tensor, state: Pair) -> Pair:
    """Nonlinear, with time in both halves, made for the two functions above."""
    q, p = state
    t = column(t)
    dq = p**3 - p_exact(t) ** 3 + t.cos() + 0.3
    dp = q_exact(t).sin() - q.sin() - 2 * (2 * t).sin()
    return dq, dp


def pendulum(t: Tensor, state: Pair) -> Pair:
    return state[1], -state[0].sin()


def starts(count: int, **kind: object) -> Pair:
    return normal((count, 2), 0, **kind), normal((count, 2), 1, **kind)


def test_all_are_measured_here() -> None:
    assert set(ORDERS) == set(SYMPLECTIC_METHODS)


@METHODS
@BATCHES
@pytest.mark.parametrize("own", [False, True], ids=["common", "own times"])
def test_order(method: str, batch: str, own: bool, f64: KIND) -> None:
    """On a grid whose steps differ, cut by uneven outputs."""
    if own and batch == "shared":
        pytest.skip("a shared batch has no times of its own")
    ts = torch.tensor([0.0, 0.35, 2.0], **f64)
    y0 = (torch.zeros(2, 1, **f64), torch.ones(2, 1, **f64))
    if own:
        ts = torch.stack((ts, 0.9 * ts))
    counts, errors = (64, 128, 256), []
    for count in counts:
        sol = solve(
            ODETerm(driven),
            y0,
            ts,
            method=method,
            controller=FixedSteps(2 / count),
            batch=batch,
        )
        q, p = (part[..., 0] for part in sol.ys)
        q_off, p_off = (q - q_exact(ts)).abs(), (p - p_exact(ts)).abs()
        errors.append(max(q_off.max().item(), p_off.max().item()))
    slope = np.polyfit(np.log(1 / np.array(counts)), np.log(errors), 1)[0]
    assert slope == pytest.approx(ORDERS[method], abs=0.15)


def energies(method: str, step: float, **kind: object) -> Tensor:
    """Error of a pendulum's energy at 101 times of ten thousand steps."""
    y0 = (torch.full((1, 1), 1.5, **kind), torch.zeros(1, 1, **kind))
    with torch.no_grad():
        q, p = solve(
            ODETerm(pendulum),
            y0,
            torch.linspace(0, 10_000 * step, 101, **kind),
            method=method,
            controller=FixedSteps(step),
            max_steps=10_000,
        ).ys
    energy = (p**2 / 2 - q.cos())[0, :, 0]
    return (energy - energy[0]).abs()


@METHODS
def test_energy_does_not_drift(method: str, f64: KIND) -> None:
    """Nor does it grow over ten thousand steps; it scales with the order."""
    error = energies(method, 0.1, **f64)
    early, late = error[1:26].max(), error[-25:].max()
    assert late < 1.3 * early
    assert error.max() < {"semi_implicit_euler": 0.1, "leapfrog": 3e-3}[method]
    if method == "leapfrog":
        return
    finer = energies(method, 0.05, **f64)
    assert 0.4 < finer.max() / error.max() < 0.6


@pytest.mark.parametrize(("method", "step"), [("heun", 0.1), ("rk4", 0.3)])
def test_energy_of_others_drifts(method: str, step: float, f64: KIND) -> None:
    """What the test above would see if there were something to see."""
    error = energies(method, step, **f64)
    assert error[-25:].max() > 2.5 * error[1:26].max()
    assert error.max() > 2 * energies("leapfrog", step, **f64).max()


def test_leapfrog_keeps_angular_momentum(f64: KIND) -> None:
    """Of Kepler's problem, to rounding, on an orbit of eccentricity 0.5."""

    def kepler(t: Tensor, state: Pair) -> Pair:
        q, p = state
        return p, -q / torch.linalg.vector_norm(q, dim=-1, keepdim=True) ** 3

    y0 = (torch.tensor([[0.5, 0.0]], **f64), torch.tensor([[0.0, 3**0.5]], **f64))
    ts = torch.linspace(0, 60, 21, **f64)
    for method in ORDERS:
        q, p = solve(
            ODETerm(kepler), y0, ts, method=method, controller=FixedSteps(0.03)
        ).ys
        momentum = q[..., 0] * p[..., 1] - q[..., 1] * p[..., 0]
        torch.testing.assert_close(
            momentum, torch.full_like(momentum, 0.75**0.5), rtol=1e-12, atol=0
        )


@BATCHES
def test_leapfrog_runs_back_to_its_start(batch: str, f64: KIND) -> None:
    y0, there = starts(3, **f64), torch.tensor([0.0, 20.0], **f64)
    options = {"method": "leapfrog", "controller": FixedSteps(0.1), "batch": batch}
    end = solve(ODETerm(pendulum), y0, there, **options)
    back = solve(ODETerm(pendulum), end.final, there.flip(0), **options)
    assert (end.final[0] - y0[0]).abs().min() > 1e-3
    for found, wanted in zip(back.final, y0, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)


@METHODS
@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 4), (0, 2)])
def test_a_shared_batch_is_its_samples(
    method: str, shape: tuple[int, ...], f64: KIND
) -> None:
    """One row holds q and p of one sample after the other."""
    y0 = [normal(shape, 0, **f64), normal(shape, 1, **f64)]
    ts = torch.tensor([0.0, 0.5, 0.7], **f64)

    def field(t: Tensor, state: list[Tensor]) -> list[Tensor]:
        assert isinstance(state, list) and state[0].shape == shape
        return [state[1] ** 3, -state[0].sin()]

    options = {"method": method, "controller": FixedSteps(0.1)}
    apart = solve(ODETerm(field), y0, ts, **options)
    tied = solve(ODETerm(field), y0, ts, batch="shared", **options)
    for one, other in zip(apart.ys, tied.ys, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=0)


@METHODS
def test_a_step_of_no_length_is_the_identity(method: str, f64: KIND) -> None:
    state = starts(3, **f64)
    for shared in (False, True):
        layout = Layout(structure_of(state), shared, False)
        term, y = bind(ODETerm(pendulum), layout), layout.to_engine(state, "y0")
        stepper, t = SYMPLECTIC_METHODS[method], torch.zeros(layout.rows, **f64)
        carry = stepper.start(term, t, y)
        for time, inc in (
            (t, Increment(torch.zeros(layout.rows, 1, **f64))),
            (0.0, Increment(0.0)),
        ):
            out = stepper.step(term, time, y, inc, carry, None)
            assert torch.equal(out.y1, y)
            assert [x.shape for x in out.carry] == [x.shape for x in carry]


@METHODS
def test_intervals_and_probes_of_each_sample(method: str, f64: KIND) -> None:
    """Rows that end after 0, 2 and 13 steps are what they are alone."""
    ts = torch.tensor([[0.0, 0.0], [0.0, 0.2], [0.0, 1.3]], **f64)
    y0, steps = starts(3, **f64), FixedSteps(0.1)
    sol = solve(ODETerm(pendulum), y0, ts, method=method, controller=steps)
    assert sol.stats.accepted.tolist() == [0, 2, 13]
    for i in range(3):
        alone = solve(
            ODETerm(pendulum),
            (y0[0][i : i + 1], y0[1][i : i + 1]),
            ts[i : i + 1],
            method=method,
            controller=steps,
        )
        assert alone.stats.evaluations[0] == sol.stats.evaluations[i]
        for one, many in zip(alone.ys, sol.ys, strict=True):
            torch.testing.assert_close(one[0], many[i], rtol=1e-13, atol=1e-14)

    probes = torch.tensor([[0.05], [0.3], [0.57]], **f64)
    probed = solve(
        ODETerm(pendulum),
        y0,
        torch.tensor([0.0, 1.0], **f64),
        method=method,
        controller=steps,
        probe_times=probes,
    )
    direct = solve(
        ODETerm(pendulum),
        y0,
        torch.cat((0 * probes, probes, probes**0), dim=1),
        method=method,
        controller=steps,
    )
    for found, wanted in zip(probed.probes, direct.ys, strict=True):
        torch.testing.assert_close(found[:, 0], wanted[:, 1], rtol=1e-13, atol=1e-14)


@METHODS
@BATCHES
def test_evaluations_are_counted_exactly(method: str, batch: str, f64: KIND) -> None:
    calls = []

    def field(t: Tensor, state: Pair) -> Pair:
        calls.append(None)
        return pendulum(t, state)

    with torch.no_grad():
        sol = solve(
            ODETerm(field),
            starts(2, **f64),
            torch.tensor([0.0, 1.0], **f64),
            method=method,
            controller=FixedSteps(0.1),
            batch=batch,
        )
    wanted = {"semi_implicit_euler": 20, "leapfrog": 21}[method]
    assert sol.stats.evaluations.tolist() == [wanted] * 2
    assert len(calls) == wanted


def test_a_field_that_reuses_its_result(f64: KIND) -> None:
    kept = (torch.empty(3, 2, **f64), torch.empty(3, 2, **f64))

    def field(t: Tensor, state: Pair) -> Pair:
        for buffer, value in zip(kept, pendulum(t, state), strict=True):
            buffer.copy_(value)
        return kept

    y0, ts = starts(3, **f64), torch.tensor([0.0, 1.0], **f64)
    for method in ORDERS:
        options = {"method": method, "controller": FixedSteps(0.1)}
        with torch.no_grad():
            sol = solve(ODETerm(field), y0, ts, **options)
        want = solve(ODETerm(pendulum), y0, ts, **options)
        assert torch.equal(sol.final[0], want.final[0])
        assert torch.equal(sol.final[1], want.final[1])


class Halves(nn.Module):
    """A separable field of two networks."""

    def __init__(self) -> None:
        super().__init__()
        self.drift, self.kick = TimedMLP(2, seed=1), TimedMLP(2, seed=2)

    def forward(self, t: Tensor, state: Pair) -> Pair:
        return self.drift(t, state[1]), self.kick(t, state[0])


@METHODS
@pytest.mark.parametrize("kind", ["per_sample", "shared", "own times", "decreasing"])
def test_gradients(method: str, kind: str, f64: KIND) -> None:
    """Both adjoints agree, and with finite differences."""
    net, y0 = Halves().to(**f64), normal((3, 4), 0, **f64)
    ts = torch.tensor([0.0, 0.21, 0.5, 1.4], **f64)
    if kind == "own times":
        ends = torch.tensor([0.33, 1.0, 1.7], **f64)
        ts = torch.stack([0 * ends, ends / 3, ends, ends], dim=1)
    elif kind == "decreasing":
        ts = -ts

    def loss(adjoint: object) -> Callable[[Tensor, nn.Module], Tensor]:
        def value(y: Tensor, f: nn.Module) -> Tensor:
            sol = solve(
                ODETerm(f),
                (y[:, :2], y[:, 2:]),
                ts,
                method=method,
                controller=FixedSteps(0.11),
                batch="shared" if kind == "shared" else "per_sample",
                adjoint=adjoint,
            )
            (q, p), (q1, p1) = sol.ys, sol.final
            return (q * (1 + p)).sin().sum() + (q1**2 + p1.cos()).sum()

        return value

    assert_same(*(gradients(loss(a), y0, net) for a in BOTH), rtol=1e-12)
    check_finite_differences(loss(Recompute()), y0, net)


@METHODS
@ADJOINTS
def test_a_failing_row_stops_alone(method: str, adjoint: object, f64: KIND) -> None:
    weight = torch.ones(2, requires_grad=True, **f64)

    def field(t: Tensor, state: Pair) -> Pair:
        q, p = state
        odd = (torch.arange(3, device=q.device) == 1)[:, None]
        late = odd & (column(t) > 0.5)
        return p * weight, torch.where(late, torch.full_like(q, torch.nan), -q)

    y0, ts = starts(3, **f64), torch.tensor([0.0, 0.2, 1.0], **f64)
    options = {"method": method, "controller": FixedSteps(0.05), "adjoint": adjoint}
    with pytest.raises(SolveError, match="finite"):
        solve(ODETerm(field), y0, ts, **options)
    sol = solve(ODETerm(field), y0, ts, throw=False, **options)
    assert sol.status.tolist() == [0, int(Status.NON_FINITE_FIELD), 0]
    q, p = sol.ys
    assert q[1, :2].isfinite().all() and q[1, 2].isnan().all()
    assert p[[0, 2]].isfinite().all()
    (gradient,) = torch.autograd.grad(q[[0, 2]].sum() + q[1, 1].sum(), weight)
    assert gradient.isfinite().all() and gradient.abs().min() > 0


@METHODS
@pytest.mark.parametrize(
    ("state", "seen"),
    [
        (lambda y: y, "one tensor"),
        (lambda y: (y, y, y), "a tuple with 3 tensors"),
        (lambda y: {"q": y, "p": y}, "a dict with 2 tensors"),
        (lambda y: (y, (y,)), None),
        (lambda y: (y, y[:, :1]), r"\(3, 2\) float64 and \(3, 1\) float64"),
        (lambda y: (y, y + 0j), r"\(3, 2\) float64 and \(3, 2\) complex128"),
    ],
    ids=["tensor", "three", "dict", "nested", "shapes", "dtypes"],
)
def test_states_that_are_no_pair_are_refused(
    method: str, state: Callable[[Tensor], object], seen: str | None, f64: KIND
) -> None:
    y0, ts = state(torch.ones(3, 2, **f64)), torch.tensor([0.0, 1.0], **f64)
    text = f"'{method}'.*needs y0 = \\(q, p\\).*got {seen or 'a tuple'}"
    with pytest.raises(ValueError, match=text):
        solve(
            ODETerm(lambda t, y: y), y0, ts, method=method, controller=FixedSteps(0.1)
        )


@METHODS
def test_other_refusals(method: str, f64: KIND) -> None:
    y0, ts = starts(3, **f64), torch.tensor([0.0, 1.0], **f64)
    with pytest.raises(ValueError, match=f"'{method}' has no error.*tsit5"):
        solve(ODETerm(pendulum), y0, ts, method=method, controller=PID())
    with pytest.raises(ValueError, match=f"dense.*'{method}'.*probe_times"):
        solve(
            ODETerm(pendulum),
            y0,
            ts,
            method=method,
            controller=FixedSteps(0.1),
            dense=True,
        )
