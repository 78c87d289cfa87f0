"""Backsolve for ODEs: what it nears as tolerances shrink, alone, and what it costs."""

import gc
import math
from collections.abc import Callable

import pytest
import torch
from gradients import assert_same, check_inputs
from problems import KIND, TimedMLP, column, normal
from torch import Tensor, nn

from nde.solvers import (
    PID,
    Backsolve,
    Direct,
    FixedSteps,
    ODETerm,
    Solution,
    Status,
    StepTo,
    solve,
)

NAN = math.nan
TIMES = {
    "per_sample": [[0.0, 0.5, 1.3, 3.0], [0.2, 0.9, NAN, NAN], [1.0, NAN, 2.0, 5.0]],
    "padded": [[1.0, NAN, NAN, NAN], [0.0, 0.1, 0.2, 2.5], [3.0, 2.0, 1.5, NAN]],
    "common": [0.0, 1.1, 1.2, 3.0],
    "backward": [3.0, 2.9, 1.0, -1.0],
}
TIMES["padded"][2] = [0.5, 2.0, 3.5, NAN]


class Lively(nn.Module):
    """A field of parameters, `args` and a closure, which turns and is driven."""

    def __init__(self, **kind: torch.dtype | torch.device) -> None:
        super().__init__()
        self.net = TimedMLP(2, seed=3, gain=1.5).to(**kind)
        self.turn = torch.tensor(2.0, **kind).requires_grad_()

    def field(self, t: Tensor, y: Tensor, push: Tensor) -> Tensor:
        turned = torch.stack((y[:, 1], -y[:, 0]), -1) * self.turn
        return self.net(t, y) + turned + push * torch.sin(3.0 * column(t))


def found(
    adjoint: object, ts: Tensor, kind: KIND, rtol: float = 1e-6, **options: object
) -> list[Tensor]:
    """Gradients in y0, args, the closure and the parameters."""
    lively = Lively(**kind)
    y0 = normal((3, 2), 1, **kind)[: options.pop("samples", 3)].requires_grad_()
    push = torch.tensor(0.7, **kind).requires_grad_()
    options.setdefault("controller", PID(rtol, 1e-2 * rtol))
    sol = solve(
        ODETerm(lambda *given: lively.field(*given)),
        y0,
        ts,
        adjoint=adjoint,
        args=push,
        **options,
    )
    weight = normal((3, 4, 2), 2, **kind)[: len(y0)]
    loss = (sol.ys * weight).sum() + sol.final.square().sum()
    inputs = [y0, push, lively.turn, *lively.net.parameters()]
    return list(torch.autograd.grad(loss, inputs))


def distance(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Of all gradients together, relative."""
    off = sum((x - y).square().sum() for x, y in zip(found, wanted, strict=True))
    return float((off / sum(y.square().sum() for y in wanted)).sqrt())


SHAPES = {
    "per sample": ("per_sample", {}),
    "padded": ("padded", {}),
    "common": ("common", {}),
    "backward": ("backward", {}),
    "shared": ("common", {"batch": "shared"}),
    "one sample": ("common", {"samples": 1}),
    "rk23": ("common", {"method": "bosh3"}),
    "eighth order": ("common", {"method": "dop853"}),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_nears_the_exact_gradient(shape: str, f64: KIND) -> None:
    times, options = SHAPES[shape]
    ts = torch.tensor(TIMES[times], **f64)
    exact = found(Direct(), ts, f64, 1e-12, **{**options, "method": "vern9"})
    assert all(bool(part.any()) for part in exact)
    errors = [
        distance(found(Backsolve(), ts, f64, rtol, **options), exact)
        for rtol in (1e-4, 1e-6, 1e-8)
    ]
    assert errors[0] < 3e-3
    assert errors[1] < 0.1 * errors[0] and errors[2] < 0.1 * errors[1], errors


GRIDS = {
    "fixed": (FixedSteps(0.02), Backsolve()),
    "to": (StepTo(torch.linspace(0.0, 3.0, 151)), Backsolve()),
    "fixed back": (PID(1e-8, 1e-10), Backsolve(controller=FixedSteps(0.02))),
    "adaptive back": (FixedSteps(0.02), Backsolve(controller=PID(1e-8, 1e-10))),
    "another method": (
        FixedSteps(0.02),
        Backsolve(method="rk4", controller=FixedSteps(0.005)),
    ),
}


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
@pytest.mark.parametrize("grid", GRIDS)
def test_grids(grid: str, batch: str, f64: KIND) -> None:
    ts = torch.tensor(TIMES["common"], **f64)
    controller, adjoint = GRIDS[grid]
    exact = found(Direct(), ts, f64, 1e-12, method="vern9")
    near = found(adjoint, ts, f64, controller=controller, batch=batch)
    assert distance(near, exact) < 1e-6


def test_decay_has_the_gradient_of_the_formula(f64: KIND) -> None:
    """y = y0 exp(-k t), with a rate for each sample."""
    rate = torch.tensor([[0.5], [2.0], [1.0]], **f64).requires_grad_()
    y0 = torch.tensor([[1.0], [-2.0], [3.0]], **f64).requires_grad_()
    ts = torch.tensor([[0.0, 0.5, 1.0], [0.3, 2.0, NAN], [0.0, 1.0, 2.0]], **f64)
    sol = solve(
        ODETerm(lambda t, y: -rate * y),
        y0,
        ts,
        controller=PID(1e-10, 1e-12),
        adjoint=Backsolve(),
    )
    in_rate, in_y0 = torch.autograd.grad(sol.ys.sum(), [rate, y0])
    span = (ts - ts[:, :1]).nan_to_num(nan=1.7)
    decay = torch.exp(-rate * span)
    assert torch.allclose(in_y0, decay.sum(1, keepdim=True), rtol=1e-8)
    exact = (-span * decay * y0).sum(1, keepdim=True)
    assert torch.allclose(in_rate, exact, rtol=1e-8)


def test_probes_and_methods_that_are_read_at_their_steps(f64: KIND) -> None:
    """Outputs, probes of each sample and repeated times, also without interpolant."""
    probes = torch.tensor([[0.3, 1.1, 0.0], [2.9, 0.31, 3.0], [0.3, 0.3, 1.7]], **f64)
    ts = torch.tensor([0.0, 1.1, 3.0], **f64)
    stiffness = torch.tensor(2.0, **f64).requires_grad_()

    def gradients(method: str, adjoint: object) -> list[Tensor]:
        q, p = (normal((3, 1), seed, **f64).requires_grad_() for seed in (5, 6))
        sol = solve(
            ODETerm(lambda t, y: (y[1], -stiffness * y[0].sin())),
            (q, p),
            ts,
            method=method,
            controller=FixedSteps(0.006),
            adjoint=adjoint,
            probe_times=probes,
        )
        weight = normal((3, 6, 1), 7, **f64)
        loss = (torch.cat([sol.ys[0], sol.probes[0]], 1) * weight).sum()
        return list(torch.autograd.grad(loss + sol.ys[1].sum(), [q, p, stiffness]))

    exact = gradients("vern7", Direct())
    for method in ("leapfrog", "rk4"):
        back = Backsolve(method="rk4", controller=FixedSteps(0.01))
        assert distance(gradients(method, back), exact) < 4e-5


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_complex_and_nested_states(batch: str, f64: KIND) -> None:
    turn = torch.tensor(1.0 + 0.5j, device=f64["device"], dtype=torch.complex128)
    turn.requires_grad_()
    parts = normal((2, 3, 2), 3, **f64).requires_grad_()

    def field(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"z": 1j * turn * y["z"] - 0.1 * y["z"] ** 2, "x": -y["z"].real * y["x"]}

    def gradients(adjoint: object, controller: PID) -> list[Tensor]:
        y0 = {"z": torch.view_as_complex(parts), "x": parts[..., 0]}
        ts = torch.tensor([0.0, 0.5, 1.0], **f64)
        sol = solve(
            ODETerm(field), y0, ts, controller=controller, adjoint=adjoint, batch=batch
        )
        loss = sol.ys["z"].abs().square().sum() + sol.final["x"].sum()
        return list(torch.autograd.grad(loss, [parts, turn]))

    atol = {"z": torch.tensor(1e-11, **f64), "x": 1e-10}
    near = gradients(Backsolve(), PID(1e-9, atol))
    assert_same(near, gradients(Direct(), PID(1e-11, 1e-12)), rtol=1e-7)


@pytest.mark.parametrize("times", [[0.0, 0.4, 1.0], [[0.0, 0.4, 1.0], [0.3, 0.8, 1.5]]])
def test_gradients_of_times(times: list[object], f64: KIND) -> None:
    net = TimedMLP(2, seed=4).to(**f64)
    y0, weight = normal((2, 2), 8, **f64), normal((2, 3, 2), 9, **f64)

    def loss(ts: Tensor) -> Tensor:
        sol = solve(
            ODETerm(net), y0, ts, controller=PID(1e-12, 1e-13), adjoint=Backsolve()
        )
        return (sol.ys * weight).sum()

    check_inputs(loss, [torch.tensor(times, **f64)])


def test_a_neighbour_changes_nothing(f64: KIND) -> None:
    """Bit by bit, whatever the other sample does, how long it takes, and how often it
    is read."""

    def first(speed: float, middle: float, end: float) -> Tensor:
        rate = torch.tensor([[1.0], [speed]], **f64).requires_grad_()
        y0 = torch.tensor([[1.0, 0.5], [0.2, 1.0]], **f64).requires_grad_()
        ts = torch.tensor([[0.0, 1.0, 2.0], [0.0, middle, end]], **f64)

        def field(t: Tensor, y: Tensor) -> Tensor:
            return rate * torch.stack((y[:, 1], -y[:, 0]), -1) - 0.1 * y**3

        sol = solve(ODETerm(field), y0, ts, adjoint=Backsolve())
        grads = torch.autograd.grad(sol.ys.square().sum(), [y0, rate])
        assert all(bool(grad.any()) for grad in grads)
        return torch.cat([grad[0] for grad in grads])

    plain = first(1.0, 1.0, 2.0)
    assert torch.equal(first(40.0, 0.5, 3.0), plain)
    assert torch.equal(first(40.0, NAN, 0.1), plain)


class Counted:
    """A field that counts its calls."""

    def __init__(self, field: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.field, self.calls = field, 0
        self.shapes: set[int] = set()

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        self.shapes.add(t.ndim)
        return self.field(t, y)


def back_calls(
    field: Callable[[Tensor, Tensor], Tensor], kind: KIND, **options: object
) -> int:
    counted = Counted(field)
    y0 = torch.ones(2, 1, **kind).requires_grad_()
    ts = options.pop("ts", torch.tensor([0.0, 1.0, 2.0], **kind))
    sol = solve(ODETerm(counted), y0, ts, **{"adjoint": Backsolve(), **options})
    forward = counted.calls
    sol.final.sum().backward()
    return counted.calls - forward


def test_parameters_have_no_say_in_the_steps(f64: KIND) -> None:
    """The integrand of `idle` swings fast; state and gradient know nothing of it."""
    idle = torch.zeros((), **f64).requires_grad_()
    plain = torch.zeros((), **f64).requires_grad_()

    def swinging(t: Tensor, y: Tensor) -> Tensor:
        return -y + 1e3 * idle * torch.sin(300.0 * column(t))

    calls = back_calls(swinging, f64)
    assert calls == back_calls(lambda t, y: -y + plain, f64)
    # 6 for each step and its first stage once more; 3 to begin each of 2 intervals.
    assert calls <= 2 * 3 + 7 * 8


def test_steps_go_on_from_output_to_output(f64: KIND) -> None:
    """Between near outputs one step does, once the first interval showed its length."""
    rate = torch.tensor(1.0, **f64).requires_grad_()
    ts = torch.linspace(0.0, 2.0, 41, **f64)
    # For each interval: a beginning, six stages, and the first one once more.
    assert back_calls(lambda t, y: -rate * y, f64, ts=ts) <= 8 * 40 + 20


def test_method_and_controller_of_its_own(f64: KIND) -> None:
    """Four stages at each of 2 x 10 steps."""
    rate = torch.tensor(1.0, **f64).requires_grad_()
    back = Backsolve(method="rk4", controller=FixedSteps(0.1))
    # One more to look for tensors that were not captured.
    assert back_calls(lambda t, y: -rate * y, f64, adjoint=back) == 4 * 20 + 1
    assert back_calls(lambda t, y: -y, f64, adjoint=back) == 4 * 20 + 1
    loose, tight = (
        back_calls(lambda t, y: -y, f64, adjoint=Backsolve(controller=PID(rtol, rtol)))
        for rtol in (1e-3, 1e-9)
    )
    assert tight > 2 * loose


def test_goes_back_only_from_what_is_used(f64: KIND) -> None:
    counted = Counted(lambda t, y: -y)
    y0 = torch.ones(2, 1, **f64).requires_grad_()
    ts = torch.linspace(0.0, 2.0, 3, **f64)
    sol = solve(
        ODETerm(counted), y0, ts, controller=FixedSteps(0.1), adjoint=Backsolve()
    )
    forward = counted.calls
    sol.ys[:, 1].sum().backward()
    assert counted.calls - forward == 6 * 10 + 1
    assert torch.allclose(y0.grad, torch.exp(-ts[1]).expand(2, 1))


def test_the_field_sees_the_same_kind_of_time_both_ways(f64: KIND) -> None:
    y0 = torch.ones(2, 1, **f64).requires_grad_()
    for controller, ndim in ((None, 0), (PID(), 1)):
        counted = Counted(lambda t, y: -y)
        adjoint = Backsolve(controller=controller)
        ts = torch.tensor([0.0, 1.0], **f64)
        solve(
            ODETerm(counted), y0, ts, controller=FixedSteps(0.1), adjoint=adjoint
        ).final.sum().backward()
        assert counted.shapes == {ndim}


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(
    "controller", [FixedSteps(0.01), PID(max_step=0.01)], ids=["fixed", "pid"]
)
def test_keeps_no_states(controller: object, samples: int, f64: KIND) -> None:
    """Fewer tensors of a state's size than there are steps, at any time."""
    net, calls = TimedMLP(50).to(**f64), 0
    alive: list[int] = []

    def count() -> int:
        tensors = (x for x in gc.get_objects() if type(x) is Tensor)
        return sum(x.numel() >= y0.numel() for x in tensors)

    def field(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls % 300 == 0:
            alive.append(count() - others)
        return net(t, y)

    y0 = normal((samples, 50), 1, **f64).requires_grad_()
    ts = torch.tensor([0.0, 2.0], **f64)
    gc.collect()
    others = count()
    sol = solve(ODETerm(field), y0, ts, controller=controller, adjoint=Backsolve())
    sol.final.sum().backward()
    assert len(alive) >= 8
    # Those of a step and of its graph; of 100 and 200 steps alike.
    assert max(alive) < 150 < int(sol.stats.accepted.min()) == 200


def lost(adjoint: object, kind: KIND, **options: object) -> Solution:
    """y' = k y^2, which the first sample does not survive."""
    rate = torch.tensor([[1.0], [0.1]], **kind).requires_grad_()
    y0 = torch.ones(2, 1, **kind).requires_grad_()
    ts = torch.tensor([0.0, 0.5, 2.0], **kind)
    sol = solve(
        ODETerm(lambda t, y: rate * y * y), y0, ts, adjoint=adjoint, throw=False
    )
    return sol, rate, y0


def test_samples_that_fail_leave_the_others_exact(f64: KIND) -> None:
    (near, rate, y0), (exact, rate1, y1) = (
        lost(adjoint, f64) for adjoint in (Backsolve(), Direct())
    )
    assert near.status.tolist()[1] == Status.SUCCESS != near.status.tolist()[0]
    for sol in (near, exact):
        sol.ys[1].sum().backward()
    assert torch.isfinite(y0.grad).all()
    assert torch.allclose(y0.grad[1], y1.grad[1], rtol=1e-5)
    assert torch.allclose(rate.grad[1], rate1.grad[1], rtol=1e-3)


def test_a_gradient_that_is_not_finite_stays_with_its_sample(f64: KIND) -> None:
    net, y0 = TimedMLP(2).to(**f64), normal((2, 2), 1, **f64).requires_grad_()
    ts = torch.tensor([0.0, 1.0], **f64)
    sol = solve(ODETerm(net), y0, ts, adjoint=Backsolve())
    factor = torch.tensor([[1.0], [NAN]], **f64)
    (sol.final * factor).sum().backward()
    assert torch.isfinite(y0.grad[0]).all() and bool(y0.grad[0].any())
    assert torch.isnan(y0.grad[1]).all()
    assert all(torch.isnan(p.grad).all() for p in net.parameters())
