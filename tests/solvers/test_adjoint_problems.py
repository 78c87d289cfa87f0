"""Gradients of every kind of problem: nested, backward in time, stochastic, chained."""

from collections.abc import Callable

import pytest
import torch
from gradients import assert_same, check_finite_differences, gradients
from problems import KIND, TimedMLP, column, normal
from torch import Tensor, nn

from nde.solvers import (
    PID,
    BrownianGrid,
    Direct,
    FixedSteps,
    ODETerm,
    Recompute,
    SDETerm,
    solve,
)

RTOL, ATOL = 1e-4, 1e-5
ADAPTIVE = PID(rtol=RTOL, atol=ATOL)
FIXED = FixedSteps(0.13, rtol=RTOL, atol=ATOL)
BOTH = [Recompute(), Direct()]
ADJOINTS = pytest.mark.parametrize("adjoint", BOTH, ids=["recompute", "direct"])


@ADJOINTS
@pytest.mark.parametrize("controller", [ADAPTIVE, FIXED], ids=["pid", "fixed"])
def test_decreasing_and_per_sample_times(
    controller: object, adjoint: object, f64: KIND
) -> None:
    """Against the same field with time turned round by hand."""
    net, y0 = TimedMLP(3, seed=10).to(**f64), normal((3, 3), 10, **f64)
    ts = torch.tensor([[1.0, 0.3, -0.4], [2.0, 1.9, 0.0], [0.0, -0.3, -0.9]], **f64)

    def backwards(y: Tensor, f: nn.Module) -> Tensor:
        sol = solve(ODETerm(f), y, ts, controller=controller, adjoint=adjoint)
        return (sol.ys**2).sum()

    def turned(y: Tensor, f: nn.Module) -> Tensor:
        term = ODETerm(lambda t, x: -f(-t, x))
        sol = solve(term, y, -ts, controller=controller, adjoint=adjoint)
        return (sol.ys**2).sum()

    assert_same(gradients(backwards, y0, net), gradients(turned, y0, net), rtol=1e-11)


@ADJOINTS
def test_nested_states(adjoint: object, f64: KIND) -> None:
    """Dicts and tuples of any shapes equal the same numbers in one tensor."""
    net = TimedMLP(7, seed=11).to(**f64)
    flat, ts = normal((4, 7), 11, **f64), torch.tensor([0.0, 0.4, 1.2], **f64)

    def pack(x: Tensor) -> dict[str, object]:
        lead = x.shape[:-1]
        return {"a": x[..., :4].reshape(*lead, 2, 2), "b": (x[..., 4:5], [x[..., 5:]])}

    def unpack(state: dict[str, object]) -> Tensor:
        b, (c,) = state["b"]
        return torch.cat((state["a"].flatten(-2), b, c), -1)

    def nested(y: Tensor, f: nn.Module) -> Tensor:
        def field(t: Tensor, state: dict[str, object]) -> dict[str, object]:
            assert isinstance(state["b"], tuple) and isinstance(state["b"][1], list)
            return pack(f(t, unpack(state)))

        sol = solve(ODETerm(field), pack(y), ts, controller=ADAPTIVE, adjoint=adjoint)
        assert sol.ys["a"].shape == (4, 3, 2, 2)
        assert sol.final["b"][1][0].shape == (4, 2)
        return (unpack(sol.ys) ** 2).sum() + unpack(sol.final).sin().sum()

    def plain(y: Tensor, f: nn.Module) -> Tensor:
        sol = solve(ODETerm(f), y, ts, controller=ADAPTIVE, adjoint=adjoint)
        return (sol.ys**2).sum() + sol.final.sin().sum()

    assert_same(gradients(nested, flat, net), gradients(plain, flat, net), rtol=1e-12)


class SmallSDE(nn.Module):
    """A drift and a diffusion network."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.drift, self.noise = TimedMLP(dim, seed=12), TimedMLP(dim, seed=13)

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        return 0.5 + 0.3 * torch.tanh(self.noise(t, y))


@pytest.mark.parametrize("kind", ["diagonal", "scalar", "additive"])
@pytest.mark.parametrize(
    ("method", "interpretation"), [("euler", "ito"), ("heun", "stratonovich")]
)
def test_sde_gradients(method: str, interpretation: str, kind: str, f64: KIND) -> None:
    net, y0 = SmallSDE(3).to(**f64), normal((4, 3), 14, **f64)
    ts = torch.tensor([0.0, 0.2, 0.5], **f64)

    def diffusion(f: SmallSDE) -> Callable[[Tensor, Tensor], Tensor]:
        if kind != "additive":
            return f.diffusion

        def matrix(t: Tensor, y: Tensor) -> Tensor:
            row = f.diffusion(t, torch.zeros_like(y))
            return torch.stack((row, row.flip(-1)), -1)

        return matrix

    def loss(adjoint: object) -> Callable[[Tensor, nn.Module], Tensor]:
        def value(y: Tensor, f: nn.Module) -> Tensor:
            sol = solve(
                SDETerm(
                    f.drift,
                    diffusion(f),
                    noise=kind,
                    interpretation=interpretation,
                    noise_dim=2 if kind == "additive" else None,
                ),
                y,
                ts,
                method=method,
                controller=FixedSteps(0.05, rtol=RTOL, atol=ATOL),
                noise=BrownianGrid(seed=3),
                adjoint=adjoint,
            )
            out = (sol.ys**2).sum()
            if method == "heun":
                out = out + 1e-3 * (sol.stats.error_estimate * sol.stats.valid).sum()
            return out

        return value

    recomputed, direct = (gradients(loss(a), y0, net) for a in BOTH)
    assert_same(recomputed, direct, rtol=1e-12)
    check_finite_differences(loss(Recompute()), y0, net)


def test_the_state_handed_to_the_field_may_be_changed_later(f64: KIND) -> None:
    """A field that works in place on its own temporaries trains like one that
    does not."""
    net, y0 = TimedMLP(3, seed=15).to(**f64), normal((4, 3), 15, **f64)
    ts = torch.tensor([0.0, 1.0], **f64)

    def in_place(f: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        def field(t: Tensor, y: Tensor) -> Tensor:
            out = f(t, y)
            out.mul_(2.0)
            out -= y
            return out

        return field

    found = []
    for adjoint in BOTH:
        for make in (in_place, lambda f: lambda t, y: f(t, y) * 2 - y):

            def loss(
                y: Tensor,
                f: nn.Module,
                make: Callable[..., object] = make,
                adjoint: object = adjoint,
            ) -> Tensor:
                sol = solve(ODETerm(make(f)), y, ts, controller=FIXED, adjoint=adjoint)
                return (sol.final**2).sum()

            found.append(gradients(loss, y0, net))
    for other in found[1:]:
        assert_same(found[0], other, rtol=1e-12)


@ADJOINTS
def test_time_enters_the_gradient_as_a_number(adjoint: object, f64: KIND) -> None:
    """A coefficient of time alone: y' = a t, so dy(T)/da = T^2 / 2 exactly."""
    a = torch.tensor(0.7, requires_grad=True, **f64)
    y0 = torch.zeros(2, 1, **f64)
    ts = torch.tensor([0.0, 1.5], **f64)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return a * column(t) + torch.zeros_like(y)

    sol = solve(ODETerm(field), y0, ts, adjoint=adjoint)
    (by_a,) = torch.autograd.grad(sol.final.sum(), a)
    assert by_a.item() == pytest.approx(2 * 1.5**2 / 2, rel=1e-12)


@ADJOINTS
def test_two_solves_in_a_row(adjoint: object, f64: KIND) -> None:
    """A solve that starts where another ended equals one solve over both."""
    net, y0 = TimedMLP(3, seed=9).to(**f64), normal((4, 3), 9, **f64)
    steps = FixedSteps(0.125)

    def two(y: Tensor, f: nn.Module) -> Tensor:
        for a, b in ((0.0, 0.5), (0.5, 1.0)):
            ts = torch.tensor([a, b], **f64)
            y = solve(ODETerm(f), y, ts, controller=steps, adjoint=adjoint).final
        return (y**2).sum()

    def one(y: Tensor, f: nn.Module) -> Tensor:
        ts = torch.tensor([0.0, 1.0], **f64)
        sol = solve(ODETerm(f), y, ts, controller=steps, adjoint=adjoint)
        return (sol.final**2).sum()

    assert_same(gradients(two, y0, net), gradients(one, y0, net), rtol=1e-11)
