"""Arguments that fields, conditions and resets take, and the gradients to them."""

from collections.abc import Callable

import pytest
import torch
from gradients import assert_same, check_inputs
from problems import KIND, column, normal
from torch import Tensor

from nde.solvers import (
    PID,
    BrownianGrid,
    Direct,
    Event,
    FixedSteps,
    ODETerm,
    Recompute,
    SDETerm,
    solve,
)

TIGHT = PID(rtol=1e-11, atol=1e-12)
BOTH = [Recompute(), Direct()]
ADJOINTS = pytest.mark.parametrize("adjoint", BOTH, ids=["recompute", "direct"])
CONTROLLED = pytest.mark.parametrize(
    "controller", [TIGHT, FixedSteps(0.1)], ids=["pid", "fixed"]
)
METHODS = pytest.mark.parametrize("method", ["tsit5", "vern7"])


@CONTROLLED
@ADJOINTS
@METHODS
@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_tensors_in_nested_args(
    controller: object, adjoint: object, method: str, batch: str, f64: KIND
) -> None:
    """Also those that only later calls use."""
    y0, ts = normal((3, 2), 0, **f64), torch.tensor([0.0, 0.5, 1.5], **f64)

    def field(t: Tensor, y: Tensor, args: dict) -> Tensor:
        out = args["a"] * y.cos() + args["rest"][0] * column(t)
        if bool((t > 0.7).any()):
            late = (column(t) - 0.7).clamp_min(0) ** 6
            out = out + args["rest"][1]["late"] * y * late
        assert args["name"] == "x" and args["rest"][1]["none"] is None
        return out

    def loss(y: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        args = {"a": a, "rest": [b, {"late": c, "none": None}], "name": "x"}
        sol = solve(
            ODETerm(field),
            y,
            ts,
            args=args,
            method=method,
            controller=controller,
            adjoint=adjoint,
            batch=batch,
        )
        return (sol.ys**2).sum() + sol.final.sin().sum()

    check_inputs(loss, [y0, *(normal((2,), i, **f64) for i in (1, 2, 3))])


@ADJOINTS
@METHODS
def test_a_field_of_a_tensor_and_of_what_is_computed_from_it(
    adjoint: object, method: str, f64: KIND
) -> None:
    """Each has its own part in the gradient, through args or a closure."""
    y0, ts = normal((3, 2), 0, **f64), torch.tensor([0.0, 1.0], **f64)

    def loss(y: Tensor, w: Tensor, v: Tensor) -> Tensor:
        twice, deep = (w * v).tanh(), (w + v).exp()
        pair = [deep.sin(), (w, deep)]
        sol = solve(
            ODETerm(lambda t, y, args: w * y.sin() - twice * y + args[0] - args[1][1]),
            y,
            ts,
            args=pair,
            method=method,
            controller=FixedSteps(0.1),
            adjoint=adjoint,
        )
        return (sol.final**2).sum() + twice.sum()

    check_inputs(loss, [y0, normal((2,), 1, **f64), normal((2,), 2, **f64)])


@CONTROLLED
@ADJOINTS
def test_conditions_and_resets_take_args(
    controller: object, adjoint: object, f64: KIND
) -> None:
    def loss(y: Tensor, rate: Tensor, level: Tensor, back: Tensor) -> Tensor:
        sol = solve(
            ODETerm(lambda t, y, args: args[0] * y),
            y,
            torch.tensor([0.0, 1.6], **f64),
            args=(rate, level, back),
            method="vern7",
            controller=controller,
            adjoint=adjoint,
            events=[
                Event(
                    lambda t, y, args: y[:, 0] - args[1],
                    reset=lambda t, y, args: y * args[2],
                )
            ],
        )
        assert sol.events.count.tolist() == [2, 1]
        met = sol.events.index >= 0
        return sol.final.sum() + (sol.events.time[met] ** 2).sum()

    y0 = torch.tensor([[1.0], [0.5]], **f64)
    check_inputs(loss, [y0, *(torch.tensor(x, **f64) for x in (1.1, 1.5, 0.5))])


@pytest.mark.parametrize(
    ("method", "interpretation"),
    [("euler", "ito"), ("heun", "stratonovich")],
)
@pytest.mark.parametrize("noise", ["diagonal", "scalar", "additive"])
def test_sde_terms(method: str, interpretation: str, noise: str, f64: KIND) -> None:
    y0, ts = normal((4, 2), 0, **f64), torch.tensor([0.0, 0.4, 1.0], **f64)
    a, b = normal((2,), 1, **f64), normal((2,), 2, **f64)

    def diffusion(t: Tensor, y: Tensor, args: dict) -> Tensor:
        if noise == "additive":
            return args["b"].diag().expand(4, 2, 2)
        return args["b"] * y.cos()

    term = SDETerm(
        lambda t, y, args: args["a"] * y.sin(),
        diffusion,
        noise=noise,  # type: ignore[arg-type]
        interpretation=interpretation,  # type: ignore[arg-type]
        noise_dim=2 if noise == "additive" else None,
    )

    def loss_of(adjoint: object) -> Callable[..., Tensor]:
        def loss(y: Tensor, a: Tensor, b: Tensor) -> Tensor:
            sol = solve(
                term,
                y,
                ts,
                args={"a": a, "b": b},
                method=method,
                controller=FixedSteps(0.1),
                adjoint=adjoint,
                noise=BrownianGrid(3),
            )
            return (sol.ys**2).sum()

        return loss

    found = []
    for adjoint in BOTH:
        leaves = [x.clone().requires_grad_() for x in (y0, a, b)]
        found.append(torch.autograd.grad(loss_of(adjoint)(*leaves), leaves))
    assert_same(*found, rtol=1e-12)
    check_inputs(loss_of(Recompute()), [y0, a, b])


def _missing(t: Tensor, y: Tensor) -> Tensor:
    return -y


def _wrong_shape(t: Tensor, y: Tensor, args: object) -> Tensor:
    return y * t


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("moving", [True, False])
@pytest.mark.parametrize("method", ["tsit5", "vern7", "rk4"])
@pytest.mark.parametrize("events", [True, False])
def test_the_note_of_a_failing_first_call(
    grad: bool, moving: bool, method: str, events: bool, f64: KIND
) -> None:
    ts = torch.tensor([[0.0, 1.0]] * 3, **f64, requires_grad=moving)
    for field, kind in ((_missing, TypeError), (_wrong_shape, RuntimeError)):
        with torch.set_grad_enabled(grad), pytest.raises(kind) as caught:
            solve(
                ODETerm(field),
                torch.ones(3, 2, **f64),
                ts,
                args=1.0,
                method=method,
                controller=FixedSteps(0.5) if method == "rk4" else PID(),
                events=[Event(lambda t, y, args: y[:, 0])] if events else (),
            )
        (note,) = caught.value.__notes__
        assert "first call of the solve" in note and "args are passed third" in note
        assert "t is of shape (3,), one per sample" in note and "(3, 2)" in note


def test_no_note_on_a_later_failure(f64: KIND) -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        if float(t.reshape(-1)[0]) > 0.5:
            raise RuntimeError("too late")
        return -y

    ts = torch.tensor([0.0, 1.0], **f64)
    with pytest.raises(RuntimeError, match="too late") as caught:
        solve(ODETerm(field), torch.ones(3, 2, **f64), ts)
    assert not getattr(caught.value, "__notes__", [])
