"""Integrals beside the state: values, gradients, and what they leave alone."""

import math
from collections.abc import Callable

import pytest
import torch
from gradients import check_finite_differences
from problems import KIND, TimedMLP, column, normal
from torch import Tensor, nn

from nde.solvers import (
    PID,
    Backsolve,
    Direct,
    Event,
    FixedSteps,
    Integrand,
    McCallumFoster,
    ODETerm,
    Recompute,
    Reversible,
    SDETerm,
    Solution,
    StepTo,
    solve,
)
from nde.solvers.adjoint import Adjoint
from nde.solvers.state import State
from nde.solvers.term import Field
from nde.solvers.transforms import load_forward_mode

TIGHT = PID(rtol=1e-10, atol=1e-11)


def squares(field: Field, t: Tensor, y: Tensor, slope: Tensor) -> Tensor:
    """|y|^2 and y . f, told apart by their order."""
    return torch.stack([y.square().sum(1), (y * slope).sum(1)], dim=1)


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


@pytest.mark.parametrize("end", [1.5, -1.5])
@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_closed_forms(batch: str, end: float, f64: KIND) -> None:
    """On y' = -y: int |y|^2 = (1 - e^-2t) |y0|^2 / 2, int y . f = -that."""
    y0 = normal((4, 3), 0, **f64)
    ts = torch.tensor([0.0, end / 3, end], **f64)
    sol = solve(
        ODETerm(decay, Integrand(squares, 2)), y0, ts, controller=TIGHT, batch=batch
    )
    assert sol.integral is not None
    assert sol.path_kl is None
    want = y0.square().sum(1)[:, None] * (1 - torch.exp(-2 * ts)) / 2
    torch.testing.assert_close(sol.integral[..., 0], want, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(sol.integral[..., 1], -want, rtol=1e-8, atol=1e-9)


def test_times_of_each_sample(f64: KIND) -> None:
    """int t dt, where every sample has an interval of its own."""
    ts = torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.5, 4.0]], **f64)

    def rate(field: Field, t: Tensor, y: Tensor, slope: Tensor) -> Tensor:
        return column(t).expand(len(y), 1)

    sol = solve(ODETerm(decay, Integrand(rate)), normal((2, 3), 0, **f64), ts)
    assert sol.integral is not None
    want = (ts.square() - ts[:, :1].square()) / 2
    torch.testing.assert_close(sol.integral[..., 0], want, rtol=1e-12, atol=1e-12)


def test_the_flat_field_of_a_nested_complex_state(f64: KIND) -> None:
    def field(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"z": 1j * y["z"], "x": -y["x"]}

    y0 = {"z": normal((2, 2), 1, **f64) + 0.5j, "x": normal((2, 1, 2), 2, **f64)}
    met: list[Tensor] = []

    def rate(flat: Field, t: Tensor, y: Tensor, slope: Tensor) -> Tensor:
        torch.testing.assert_close(flat(t, y), slope)
        met.append(y)
        return slope.square().sum(1, keepdim=True)

    ts = torch.tensor([0.0, 2.0], **f64)
    sol = solve(ODETerm(field, Integrand(rate)), y0, ts, controller=TIGHT)
    assert met[0].shape == (2, 6)
    assert sol.final["z"].is_complex()
    assert sol.integral is not None
    turning = 2.0 * y0["z"].abs().square().sum(1)
    fading = y0["x"].square().sum((1, 2)) * (1 - math.exp(-4.0)) / 2
    torch.testing.assert_close(sol.integral[:, 1, 0], turning + fading)


def _nested(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return y[1], -torch.sin(y[0]) * column(t).cos()


CASES: dict[str, dict[str, object]] = {
    "adaptive": {},
    "dop853": {"method": "dop853"},
    "shared": {"batch": "shared"},
    "direct": {"adjoint": Direct()},
    "backsolve": {"adjoint": Backsolve()},
    "fixed": {"controller": FixedSteps(0.13)},
    "given": {"method": "rk4", "controller": StepTo(torch.linspace(0, 2, 9))},
    "multistep": {"method": "implicit_adams", "controller": FixedSteps(0.1)},
    "pairs": {"method": McCallumFoster("tsit5"), "adjoint": Reversible()},
    "tolerances": {"controller": PID(atol=torch.tensor([1e-3, 1e-5, 1e-7]))},
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_steps_and_states_stay_the_same(case: str, f64: KIND) -> None:
    net, y0 = TimedMLP(3, gain=3.0).to(**f64), normal((5, 3), 3, **f64)
    ts = torch.tensor([0.0, 0.7, 2.0], **f64)
    options = dict(CASES[case])
    found = [
        solve(ODETerm(net, integrand), y0, ts, **options)  # type: ignore[arg-type]
        for integrand in (
            None,
            Integrand(lambda f, t, y, dy: 1e6 * squares(f, t, y, dy), 2),
        )
    ]
    _assert_alike(*found)
    assert found[1].integral is not None
    assert found[0].integral is None


def test_nested_states_stay_the_same(f64: KIND) -> None:
    y0 = (normal((5, 2), 4, **f64), normal((5, 2), 5, **f64))
    ts = torch.tensor([0.0, 3.0], **f64)
    found = [
        solve(ODETerm(_nested, integrand), y0, ts)
        for integrand in (None, Integrand(squares, 2))
    ]
    _assert_alike(*found)


def _assert_alike(without: Solution, with_it: Solution) -> None:
    def leaves(state: State) -> list[Tensor]:
        return [state] if isinstance(state, Tensor) else list(state)

    for x, y in zip(leaves(without.final), leaves(with_it.final), strict=True):
        assert torch.equal(x, y)
    # Interpolants are matrix products, which round by their width.
    for x, y in zip(leaves(without.ys), leaves(with_it.ys), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-13, atol=1e-14)
    assert torch.equal(without.stats.step, with_it.stats.step)
    assert torch.equal(without.stats.rejected, with_it.stats.rejected)
    assert torch.equal(without.stats.evaluations, with_it.stats.evaluations)
    for name in ("error_estimate", "stiffness"):
        pair = (getattr(sol.stats, name) for sol in (without, with_it))
        torch.testing.assert_close(*pair, rtol=0, atol=0, equal_nan=True)


ADJOINTS: dict[str, tuple[Adjoint, float]] = {
    "recompute": (Recompute(), 1e-5),
    "checkpoints": (Recompute(states="log"), 1e-5),
    "direct": (Direct(), 1e-5),
    "backsolve": (Backsolve(controller=TIGHT), 1e-4),
}


@pytest.mark.parametrize("name", ADJOINTS)
def test_gradients_against_finite_differences(name: str, f64: KIND) -> None:
    """Also through a rate that differentiates the field."""
    adjoint, rtol = ADJOINTS[name]
    ts = torch.tensor([0.0, 0.5, 1.2], **f64)
    controller = TIGHT if name == "backsolve" else FixedSteps(0.15)

    load_forward_mode()

    def rate(field: Field, t: Tensor, y: Tensor, slope: Tensor) -> Tensor:
        _, second = torch.func.jvp(lambda z: field(t, z), (y,), (slope,))
        return second.square().sum(1, keepdim=True)

    def loss(y0: Tensor, net: nn.Module) -> Tensor:
        sol = solve(
            ODETerm(net, Integrand(rate)),
            y0,
            ts,
            controller=controller,
            adjoint=adjoint,
        )
        assert sol.integral is not None
        return (sol.integral * torch.tensor([0.0, 2.0, 1.0], **f64)[:, None]).sum()

    net, y0 = TimedMLP(3, seed=1).to(**f64), normal((4, 3), 6, **f64)
    check_finite_differences(loss, y0, net, rtol)


def test_a_reversible_pair_gives_the_gradient_of_its_steps(f64: KIND) -> None:
    net, y0 = TimedMLP(3, seed=1).to(**f64), normal((4, 3), 6, **f64)
    found = []
    for adjoint in (Reversible(), Direct()):
        sol = solve(
            ODETerm(net, Integrand(squares, 2)),
            y0,
            torch.tensor([0.0, 1.0], **f64),
            method=McCallumFoster("tsit5"),
            controller=FixedSteps(0.1),
            adjoint=adjoint,
        )
        assert sol.integral is not None
        found.append(torch.autograd.grad(sol.integral.sum(), list(net.parameters())))
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-11)


def test_a_parameter_of_the_rate_alone(f64: KIND) -> None:
    """Of int w |y|^2 the slope in w is int |y|^2, under every adjoint."""
    y0, ts = normal((4, 3), 7, **f64), torch.tensor([0.0, 1.0], **f64)
    want = (y0.square().sum() * (1 - math.exp(-2.0)) / 2).item()
    for adjoint in (Recompute(), Direct(), Backsolve()):
        w = torch.tensor(2.0, requires_grad=True, **f64)

        def rate(f: Field, t: Tensor, y: Tensor, dy: Tensor, w: Tensor = w) -> Tensor:
            return w * y.square().sum(1, keepdim=True)

        term = ODETerm(decay, Integrand(rate))
        sol = solve(term, y0, ts, controller=TIGHT, adjoint=adjoint)
        assert sol.integral is not None
        sol.integral[:, -1].sum().backward()
        assert w.grad is not None
        assert w.grad.item() == pytest.approx(want, rel=1e-7)


def test_up_to_an_event(f64: KIND) -> None:
    """y = 1 - t reaches 0 at t = 1, where the integral of 2 y stands at 1."""
    event = Event(lambda t, y: y[:, 0])
    sol = solve(
        ODETerm(lambda t, y: -torch.ones_like(y), Integrand(lambda f, t, y, dy: 2 * y)),
        torch.ones(1, 1, **f64),
        torch.tensor([0.0, 0.5], **f64),
        events=[event],
    )
    assert sol.integral is not None
    assert sol.integral[0, :, 0].tolist() == pytest.approx([0.0, 0.75])


Rate = Callable[[Field, Tensor, Tensor, Tensor], Tensor]


@pytest.mark.parametrize(
    ("rate", "error", "words"),
    [
        (lambda f, t, y, dy: y, ValueError, r"rate returned \(2, 3\).*\(2, 1\)"),
        (lambda f, t, y, dy: 3.0, ValueError, "rate returned float"),
        (
            lambda f, t, y, dy: y[:, :1].float(),
            TypeError,
            "rate returned torch.float32",
        ),
    ],
)
def test_rates_that_are_none(
    rate: Rate, error: type[Exception], words: str, f64: KIND
) -> None:
    y0, ts = normal((2, 3), 8, **f64), torch.tensor([0.0, 1.0], **f64)
    with pytest.raises(error, match=words):
        solve(ODETerm(decay, Integrand(rate)), y0, ts)


@pytest.mark.parametrize("controller", [PID(), FixedSteps(0.1)], ids=["pid", "grid"])
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_rate_that_is_not_finite_leaves_the_solve_alone(
    bad: float, controller: PID | FixedSteps, f64: KIND
) -> None:
    y0, ts = normal((2, 3), 8, **f64), torch.tensor([0.0, 0.2, 1.0], **f64)

    def rate(field: Field, t: Tensor, y: Tensor, slope: Tensor) -> Tensor:
        return torch.where(column(t) > 0.7, bad, 1.0).to(y.dtype).expand(len(y), 1)

    found = [
        solve(ODETerm(decay, integrand), y0, ts, controller=controller)
        for integrand in (None, Integrand(rate))
    ]
    assert torch.equal(found[0].final, found[1].final)
    assert found[1].integral is not None
    assert not found[1].integral[:, 2].isfinite().any()
    if isinstance(controller, FixedSteps):
        assert found[1].integral[0, 1].item() == pytest.approx(0.2)


def test_what_has_no_place_for_an_integral(f64: KIND) -> None:
    ts = torch.tensor([0.0, 1.0], **f64)
    pair = (normal((2, 3), 8, **f64), normal((2, 3), 9, **f64))
    term = ODETerm(_nested, Integrand(squares, 2))
    with pytest.raises(ValueError, match="halves of the state"):
        solve(term, pair, ts, method="leapfrog", controller=FixedSteps(0.1))
    bounce = Event(lambda t, y: y[0][:, 0], reset=lambda t, y: y)
    with pytest.raises(ValueError, match="reset would begin it anew"):
        solve(term, pair, ts, events=[bounce])
    with pytest.raises(TypeError, match="rate must be callable as rate"):
        Integrand(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="width"):
        Integrand(squares, 0)
    with pytest.raises(TypeError, match="integrand"):
        SDETerm(decay, decay, integrand=Integrand(squares, 2))  # type: ignore[call-arg]
