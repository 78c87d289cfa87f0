"""Backsolve for ODEs at its limits: jumps and events, what it refuses, what it warns
of."""

import math
import weakref
from dataclasses import replace

import pytest
import torch
from gradients import assert_same
from problems import KIND, TimedMLP, column, normal
from torch import Tensor, nn

from nde.solvers import (
    PID,
    Backsolve,
    Direct,
    Event,
    FixedSteps,
    ODETerm,
    SolveError,
    Status,
    solve,
)

NAN = math.nan
TIGHT = PID(1e-10, 1e-12)


def decay(kind: KIND, adjoint: object, rate: Tensor, **options: object) -> Tensor:
    """Minus the rate times y, and a cube, which makes the way back miss the way."""
    y0 = torch.ones(2, 1, **kind).requires_grad_()
    sol = solve(
        ODETerm(lambda t, y: -rate * (y + 0.2 * y**3)),
        y0,
        torch.tensor([0.0, 2.0], **kind),
        adjoint=adjoint,
        **options,
    )
    return sol.final.sum()


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
@pytest.mark.parametrize("controller", [TIGHT, FixedSteps(0.005)], ids=["pid", "fixed"])
def test_jumps_of_the_field(controller: object, batch: str, f64: KIND) -> None:
    """The way back takes the jumps of the way there, also where one is an output."""
    jumps = torch.tensor([0.5, 1.0], **f64)
    turn = torch.tensor(2.0, **f64).requires_grad_()

    def field(t: Tensor, y: Tensor) -> Tensor:
        side = torch.where(
            column(t) < 0.5, 1.0, torch.where(column(t) < 1.0, -3.0, 2.0)
        )
        return side.to(y) * turn * torch.stack((y[:, 1], -y[:, 0].sin()), -1)

    def gradients(adjoint: object, controller: object) -> list[Tensor]:
        y0 = normal((2, 2), 1, **f64).requires_grad_()
        ts = torch.tensor([0.0, 0.7, 1.0, 1.5], **f64)
        sol = solve(
            ODETerm(field), y0, ts, controller=controller, adjoint=adjoint, batch=batch
        )
        return list(torch.autograd.grad(sol.ys.square().sum(), [y0, turn]))

    exact = gradients(Direct(), PID(1e-11, 1e-12, jump_t=jumps))
    there = replace(controller, jump_t=jumps)
    for back in (Backsolve(), Backsolve(controller=controller)):
        assert_same(gradients(back, there), exact, rtol=1e-8)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("controller", [TIGHT, FixedSteps(0.05)], ids=["pid", "fixed"])
def test_events_and_resets(controller: object, reset: bool, f64: KIND) -> None:
    """A ball with drag meets the ground, where it stops or bounces; one flies on."""

    def gradients(adjoint: object) -> tuple[list[Tensor], list[int]]:
        pull = torch.tensor(9.8, **f64).requires_grad_()
        bounce = torch.tensor(0.8, **f64).requires_grad_()
        y0 = torch.tensor([[1.0, 0.0], [0.5, 1.0], [9.0, 0.0]], **f64).requires_grad_()

        def fall(t: Tensor, y: Tensor) -> Tensor:
            return torch.stack((y[:, 1], -pull - 0.1 * y[:, 1]), -1)

        def rise(t: Tensor, y: Tensor) -> Tensor:
            return torch.stack((0.0 * y[:, 0], -bounce * y[:, 1]), -1)

        sol = solve(
            ODETerm(fall),
            y0,
            torch.tensor([0.0, 0.2, 0.4, 0.9], **f64),
            method="vern7",
            controller=controller,
            events=[Event(lambda t, y: y[:, 0], reset=rise if reset else None)],
            adjoint=adjoint,
        )
        loss = sol.ys.nan_to_num().square().sum() + sol.final.sum()
        loss = loss + sol.events.time.nan_to_num().sum()
        inputs = [y0, pull, bounce] if reset else [y0, pull]
        return list(torch.autograd.grad(loss, inputs)), sol.status.tolist()

    near, status = gradients(Backsolve())
    exact, _ = gradients(Direct())
    ended = Status.SUCCESS if reset else Status.EVENT
    assert status == [ended, ended, Status.SUCCESS]
    assert_same(near, exact, rtol=1e-7)


def test_tensors_that_depend_on_each_other_count_once(f64: KIND) -> None:
    def gradient(adjoint: object) -> Tensor:
        rate = torch.tensor(0.7, **f64).requires_grad_()
        double = 2.0 * rate
        y0 = torch.ones(2, 1, **f64)
        sol = solve(
            ODETerm(lambda t, y: -rate * y + double * torch.cos(y)),
            y0,
            torch.tensor([0.0, 0.5, 1.0], **f64),
            controller=TIGHT,
            adjoint=adjoint,
        )
        return torch.autograd.grad(sol.ys.sum(), [rate])[0]

    assert_same([gradient(Backsolve())], [gradient(Direct())], rtol=1e-8)


def test_goes_back_again_from_a_graph_that_was_kept(f64: KIND) -> None:
    rate = torch.tensor(1.0, **f64).requires_grad_()
    loss = decay(f64, Backsolve(), rate, controller=TIGHT)
    loss.backward(retain_graph=True)
    once = rate.grad.clone()
    loss.backward()
    assert torch.equal(rate.grad, 2.0 * once) and bool(once != 0.0)


def test_only_named_parameters_get_gradients(f64: KIND) -> None:
    net, y0 = TimedMLP(2).to(**f64), normal((2, 2), 1, **f64)
    adjoint = Backsolve(parameters=(net.inner.weight,))
    solve(
        ODETerm(net), y0, torch.tensor([0.0, 1.0], **f64), adjoint=adjoint
    ).final.sum().backward()
    assert bool(net.inner.weight.grad.any())
    assert net.outer.weight.grad is None and net.inner.bias.grad is None


def test_derivatives_that_are_not_finite_where_no_step_was_taken(f64: KIND) -> None:
    """y' = k sqrt(y): a first step back of the whole interval leaves where that is
    defined, and the last sample, which has no interval, rests where dy'/dk is not."""
    rate = torch.tensor(1.0, **f64).requires_grad_()
    y0 = torch.tensor([[0.05], [1.0], [0.0]], **f64).requires_grad_()
    ts = torch.tensor([[0.0, 2.0], [0.0, 1.0], [0.5, NAN]], **f64)
    back = Backsolve(controller=PID(1e-9, 1e-11, first_step=2.0))
    sol = solve(
        ODETerm(lambda t, y: (rate * y).sqrt()),
        y0,
        ts,
        controller=TIGHT,
        adjoint=back,
    )
    in_y0, in_rate = torch.autograd.grad(sol.final.sum(), [y0, rate])
    # y = (sqrt(y0) + sqrt(k) t / 2)^2
    root, half = y0.detach()[:2].sqrt(), torch.tensor([[1.0], [0.5]], **f64)
    assert torch.allclose(in_y0[:2], 1.0 + half / root, rtol=1e-7)
    assert in_y0[2] == 1.0
    assert torch.allclose(in_rate, ((root + half) * half).sum(), rtol=1e-7)


def test_dense_solutions_where_no_gradient_is_asked(f64: KIND) -> None:
    y0, ts = torch.ones(2, 1, **f64), torch.tensor([0.0, 1.0], **f64)
    sol = solve(ODETerm(lambda t, y: -y), y0, ts, adjoint=Backsolve(), dense=True)
    middle = sol.evaluate(torch.tensor([0.5], **f64))
    assert torch.allclose(middle, (-0.5 * torch.ones(2, 1, 1, **f64)).exp(), rtol=1e-3)


def test_single_precision() -> None:
    """As near as single precision is, at tolerances below it."""

    def gradients(adjoint: object, **kind: torch.dtype) -> list[Tensor]:
        net = TimedMLP(2, gain=1.5).to(**kind)
        y0 = normal((3, 2), 1, **kind).requires_grad_()
        ts = torch.tensor([0.0, 0.7, 1.9], **kind)
        sol = solve(ODETerm(net), y0, ts, controller=PID(1e-5, 1e-6), adjoint=adjoint)
        loss = sol.ys.square().sum()
        return list(torch.autograd.grad(loss, [y0, *net.parameters()]))

    near = gradients(Backsolve(controller=PID(1e-9, 1e-7)), dtype=torch.float32)
    exact = gradients(Direct(), dtype=torch.float64)
    assert_same(near, exact, rtol=1e-4)


def test_an_empty_batch(f64: KIND) -> None:
    net, y0 = TimedMLP(2).to(**f64), torch.zeros(0, 2, **f64).requires_grad_()
    sol = solve(
        ODETerm(net), y0, torch.tensor([0.0, 0.5, 1.0], **f64), adjoint=Backsolve()
    )
    sol.ys.sum().backward()
    assert y0.grad.shape == (0, 2)


class Seen:
    """An observer that notes the times of the way back."""

    def __init__(self) -> None:
        self.back: list[float] = []

    def attempt(self, t: object, y: Tensor, h: object) -> None: ...

    def judge(self, t: object, y: Tensor, h: object, accept: object) -> None: ...

    def replay(self, t: float, y: Tensor, h: float) -> None:
        assert y.shape == (1, 2)
        self.back.append(t)


def test_an_observer_is_told_of_the_way_back(f64: KIND) -> None:
    seen, net = Seen(), TimedMLP(2).to(**f64)
    sol = solve(
        ODETerm(net),
        normal((1, 2), 1, **f64),
        torch.tensor([0.0, 0.45, 1.0], **f64),
        controller=FixedSteps(0.25),
        adjoint=Backsolve(),
        observer=seen,
    )
    sol.final.sum().backward()
    assert seen.back == pytest.approx([1.0, 0.75, 0.5, 0.45, 0.2])


def test_a_way_back_that_leaves_the_way_there_is_warned_of(f64: KIND) -> None:
    """A miss grows by exp(2 rate): by 2e2 where it is small, by 1e8 where not."""
    rate = torch.tensor(3.0, **f64).requires_grad_()
    decay(f64, Backsolve(), rate, controller=PID(1e-6, 1e-8)).backward()
    near, rate.grad = rate.grad, None
    decay(f64, Direct(), rate, controller=PID(1e-11, 1e-12)).backward()
    assert torch.allclose(near, rate.grad, rtol=1e-4)
    fast = torch.tensor(9.0, **f64).requires_grad_()
    loss = decay(f64, Backsolve(), fast, controller=PID(1e-6, 1e-8))
    with pytest.warns(UserWarning, match=r"misses the stored one by \d+ times the tol"):
        loss.backward()


def test_a_way_back_that_ends_early_raises(f64: KIND) -> None:
    rate = torch.tensor(15.0, **f64).requires_grad_()
    loss = decay(f64, Backsolve(), rate, controller=PID(1e-4, 1e-6))
    with pytest.raises(
        SolveError, match=r"backward solve of .* sample 0 at t=0\.\d+ with STEP"
    ) as e:
        loss.backward()
    assert e.value.samples == (0, 1) and 0.0 < e.value.times[0] < 2.0
    assert e.value.status == Status.STEP_UNDERFLOW


def test_statistics_have_no_gradient(f64: KIND) -> None:
    net, y0 = TimedMLP(2).to(**f64), normal((2, 2), 1, **f64)
    sol = solve(ODETerm(net), y0, torch.tensor([0.0, 1.0], **f64), adjoint=Backsolve())
    loss = sol.final.sum() + sol.stats.error_estimate.sum()
    with pytest.raises(RuntimeError, match=r"estimates.*Backsolve\(\).*Recompute\(\)"):
        loss.backward()


def test_parameters_changed_before_the_way_back(f64: KIND) -> None:
    rate = torch.tensor(1.0, **f64).requires_grad_()
    loss = decay(f64, Backsolve(), rate, controller=TIGHT)
    with torch.no_grad():
        rate.add_(0.1)
    with pytest.raises(RuntimeError, match="changed in place between the solve"):
        loss.backward()


def test_a_tensor_that_shows_up_late(f64: KIND) -> None:
    """Its gradient is not lost in silence."""
    late = nn.Linear(2, 2).to(**f64)
    hidden = weakref.ref(late)

    def field(t: Tensor, y: Tensor) -> Tensor:
        net = hidden()
        assert net is not None
        return -y if float(t.max()) < 0.5 else net(y)

    y0 = normal((3, 2), 0, **f64).requires_grad_()
    sol = solve(
        ODETerm(field), y0, torch.tensor([0.0, 1.0], **f64), adjoint=Backsolve()
    )
    with pytest.raises(RuntimeError, match=r"shape \(2, 2\).*Direct\(\)"):
        sol.final.sum().backward()


REFUSED = {
    "a multistep method": (
        {"method": "explicit_adams", "controller": FixedSteps(0.1)},
        Backsolve(),
        ValueError,
        r"explicit Runge-Kutta method, got 'explicit_adams'; .*method='tsit5'",
    ),
    "no error estimate": (
        {},
        Backsolve(method="rk4"),
        ValueError,
        r"method 'rk4', which has no error estimate .*FixedSteps\(step\)",
    ),
    "an unknown method": (
        {},
        Backsolve(method="tsit6"),
        ValueError,
        r"'tsit6' is not known for the way back of Backsolve; did you mean 'tsit5'",
    ),
    "an unknown method, where others would be refused": (
        {},
        Backsolve(method="adams"),
        ValueError,
        r"'adams' is not known .*\(methods: (?!.*(adams|verlet|rk4|midpoint)).*dopri5",
    ),
    "an unknown method on a grid": (
        {},
        Backsolve(method="adams", controller=FixedSteps(0.1)),
        ValueError,
        r"'adams' is not known .*\(methods: (?!.*(adams|verlet)).*rk4",
    ),
    "no controller": (
        {},
        Backsolve(controller=0.1),
        TypeError,
        r"Backsolve\(controller=\.\.\.\) must be PID\(\.\.\.\), .*got 0\.1",
    ),
    "tolerances of another state": (
        {},
        Backsolve(controller=PID(torch.ones(3), 1e-6)),
        ValueError,
        r"rtol has shape \(3,\), which does not broadcast to the state's \(2, 2\)",
    ),
    "a dense solution": (
        {"dense": True},
        Backsolve(),
        ValueError,
        r"dense=True with adjoint=Backsolve\(\).*put the times in ts or probe_times",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str, f64: KIND) -> None:
    options, adjoint, error, message = REFUSED[case]
    y0 = torch.ones(2, 2, **f64).requires_grad_()
    ts = torch.tensor([0.0, 1.0], **f64)
    calls = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        calls.append(t)
        return -y

    with pytest.raises(error, match=message):
        solve(ODETerm(field), y0, ts, adjoint=adjoint, **options)
    # Looked at, but not solved.
    assert all(float(t.max()) < 1.0 for t in calls)
