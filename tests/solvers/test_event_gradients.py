"""Gradients through events and resets, against finite differences."""

from collections.abc import Callable

import pytest
import torch
from gradients import check_inputs
from problems import KIND, TimedMLP, normal
from torch import Tensor, nn

from nde.solvers import (
    PID,
    Direct,
    Event,
    FixedSteps,
    ODETerm,
    Recompute,
    Status,
    StepTo,
    solve,
)

TIGHT = PID(rtol=1e-11, atol=1e-12)
GRID = torch.linspace(0.0, 3.0, 31, dtype=torch.float64)
CONTROLLERS = {"pid": TIGHT, "fixed": FixedSteps(0.1), "to": StepTo(GRID)}
CONTROLLED = pytest.mark.parametrize(
    "controller", CONTROLLERS.values(), ids=CONTROLLERS
)
ADJOINTS = pytest.mark.parametrize(
    "adjoint", [Recompute(), Direct()], ids=["recompute", "direct"]
)
BATCHES = pytest.mark.parametrize("batch", ["per_sample", "shared"])


def method_for(controller: object) -> str:
    """Long steps of a fixed grid need a high order to be as exact."""
    return "tsit5" if isinstance(controller, PID) else "vern7"


def oscillate(t: Tensor, y: Tensor, args: dict[str, Tensor]) -> Tensor:
    return torch.stack((y[:, 1], -args["k"] * y[:, 0]), -1)


def level(t: Tensor, y: Tensor, args: dict[str, Tensor]) -> Tensor:
    return y[:, 0] - args["level"] - 0.1 * t


def shrink(t: Tensor, y: Tensor, args: dict[str, Tensor]) -> Tensor:
    """Back to the far side of the level, slower, by an amount that depends on time."""
    x = y[:, 0] + args["jump"]
    return torch.stack((x, args["loss"] * y[:, 1] * (1 + t).cos()), -1)


@CONTROLLED
@ADJOINTS
@BATCHES
def test_time_and_state_of_a_terminal_event(
    controller: object, adjoint: object, batch: str, f64: KIND
) -> None:
    y0 = torch.tensor([[1.0, 0.2], [1.3, -0.1], [1.1, 0.9]], **f64)
    ts = torch.tensor([0.0, 0.5, 3.0], **f64)

    def loss(y: Tensor, k: Tensor, threshold: Tensor) -> Tensor:
        sol = solve(
            ODETerm(oscillate),
            y,
            ts,
            args={"k": k, "level": threshold},
            method=method_for(controller),
            controller=controller,
            adjoint=adjoint,
            batch=batch,
            events=[Event(level)],
        )
        assert (sol.status == Status.EVENT).all()
        time = sol.events.time[:, 0]
        return (time**2).sum() + (sol.final[:, 1] * time).sum() + sol.ys[:, 1].sum()

    check_inputs(loss, [y0, torch.tensor(1.3, **f64), torch.tensor(0.2, **f64)])


@CONTROLLED
@ADJOINTS
@BATCHES
def test_through_resets(
    controller: object, adjoint: object, batch: str, f64: KIND
) -> None:
    """To everything that the field, the condition and the reset use."""
    y0 = torch.tensor([[1.0, 0.2], [1.1, -0.1], [-1.0, 0.0]], **f64)
    y0 = y0[:1] if batch == "shared" else y0
    ts = torch.tensor([0.0, 0.7, 1.4, 2.1], **f64)
    at = torch.tensor([0.33, 1.21, 1.9], **f64)

    def loss(y: Tensor, *values: Tensor) -> Tensor:
        sol = solve(
            ODETerm(oscillate),
            y,
            ts,
            args=dict(zip(("k", "level", "jump", "loss"), values, strict=True)),
            method=method_for(controller),
            controller=controller,
            adjoint=adjoint,
            batch=batch,
            events=[Event(level, direction=-1, reset=shrink)],
            dense=True,
            probe_times=at,
        )
        assert sol.events.count[0] >= 1 and sol.events.count.tolist()[2:] in ([], [0])
        met = sol.events.index >= 0
        out = (sol.events.time[met] ** 2).sum() + (sol.ys**2).sum()
        return out + sol.final.sin().sum() + sol.evaluate(at).sum() + sol.probes.sum()

    values = [torch.tensor(x, **f64) for x in (2.5, 0.2, 0.8, 0.7)]
    check_inputs(loss, [y0, *values])


@pytest.mark.parametrize("controller", [TIGHT, FixedSteps(0.1)], ids=["pid", "fixed"])
@ADJOINTS
def test_modules_in_field_condition_and_reset(
    controller: object, adjoint: object, f64: KIND
) -> None:
    field, condition = TimedMLP(2, seed=1).to(**f64), TimedMLP(2, seed=2).to(**f64)
    change = nn.Linear(2, 2).to(**f64)
    with torch.no_grad():
        change.weight.copy_(normal((2, 2), 5, **f64))
        change.bias.copy_(normal((2,), 6, **f64))
    y0 = normal((4, 2), 3, **f64)
    ts = torch.tensor([0.0, 1.0, 2.5], **f64)
    modules = nn.ModuleList([field, condition, change])
    names = [name for name, _ in modules.named_parameters()]

    def loss(y: Tensor, *parameters: Tensor) -> Tensor:
        swapped = dict(zip(names, parameters, strict=True))
        part = [
            {n.split(".", 1)[1]: p for n, p in swapped.items() if n[0] == str(i)}
            for i in range(3)
        ]

        def call(i: int) -> Callable[..., Tensor]:
            return lambda *a: torch.func.functional_call(modules[i], part[i], a)

        sol = solve(
            ODETerm(call(0)),
            y,
            ts,
            method=method_for(controller),
            controller=controller,
            adjoint=adjoint,
            events=[
                Event(
                    lambda t, y: call(1)(t, y)[:, 0] + 1.5 * (t - 0.9),
                    direction=1,
                    reset=lambda t, y: call(2)(y) + t[:, None],
                )
            ],
        )
        assert sol.events.count.min() >= 1
        met = sol.events.index >= 0
        return (sol.ys**2).sum() + sol.events.time[met].sum()

    check_inputs(loss, [y0, *(p.detach() for p in modules.parameters())])


@CONTROLLED
@ADJOINTS
@pytest.mark.parametrize("reset", [None, lambda t, y: -0.5 * y + t[:, None]])
def test_times_per_sample(
    controller: object, adjoint: object, reset: object, f64: KIND
) -> None:
    """An event moves with the start; where none happens, the end moves the state."""
    ts = torch.tensor([[0.0, 0.6, 2.3], [0.1, 0.3, 0.5], [0.3, 1.9, 2.7]], **f64)
    y0 = torch.tensor([[0.3], [0.2], [0.5]], **f64)
    event = Event(lambda t, y: y[:, 0] - 1.0 - 0.1 * t, reset=reset)

    def loss(y: Tensor, times: Tensor) -> Tensor:
        sol = solve(
            ODETerm(lambda t, y: y * (1 + 0.3 * t[:, None].sin())),
            y,
            times,
            method=method_for(controller),
            controller=controller,
            adjoint=adjoint,
            events=[event],
        )
        met, seen = sol.events.index >= 0, torch.isfinite(sol.ys)
        assert met[:, 0].tolist() == [True, False, True]
        return sol.events.time[met].sum() + (sol.ys[seen] ** 2).sum() + sol.final.sum()

    check_inputs(loss, [y0, ts])


@ADJOINTS
def test_a_condition_without_derivative(adjoint: object, f64: KIND) -> None:
    """Its time is a constant; the state there has its own gradient all the same."""
    y0 = torch.tensor([[0.5], [0.25]], **f64, requires_grad=True)
    sol = solve(
        ODETerm(lambda t, y: y),
        y0,
        torch.tensor([0.0, 3.0], **f64),
        controller=TIGHT,
        adjoint=adjoint,
        events=[Event(lambda t, y: (y[:, 0].detach() - 1.0).sign())],
    )
    (gradient,) = torch.autograd.grad(sol.final.sum() + sol.events.time.sum(), y0)
    torch.testing.assert_close(gradient, 1.0 / y0.detach(), rtol=1e-8, atol=0)


@ADJOINTS
@CONTROLLED
def test_other_samples_do_not_spoil_gradients(
    controller: object, adjoint: object, f64: KIND
) -> None:
    """Condition and reset have infinite derivatives at the sample that rests."""
    scale = torch.tensor(1.0, **f64, requires_grad=True)
    y0 = torch.tensor([[0.5, 0.0], [0.0, 0.0]], **f64, requires_grad=True)
    event = Event(
        lambda t, y: scale * y.square().sum(1).sqrt() - 1.0,
        reset=lambda t, y: y * scale / y.square().sum(1, keepdim=True).sqrt() / 4,
    )
    sol = solve(
        ODETerm(lambda t, y: y),
        y0,
        torch.tensor([0.0, 2.0], **f64),
        controller=controller,
        adjoint=adjoint,
        events=[event],
    )
    assert sol.events.count.tolist() == [1, 0]
    loss = sol.final.sum() + sol.events.time[0].sum()
    for gradient in torch.autograd.grad(loss, [y0, scale]):
        assert torch.isfinite(gradient).all() and gradient.abs().max() > 0
