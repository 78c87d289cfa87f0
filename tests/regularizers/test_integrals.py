"""TayNODE, RNODE and the learned scale against closed forms, and their gradients."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from gradients import check_finite_differences
from problems import KIND, TimedMLP, column, normal
from torch import Tensor, nn

from nde.models import ControlledODE, LayerOutput, NeuralODE, NeuralSDE, SolverSettings
from nde.regularizers import (
    AdaptiveJacobian,
    AnyRegularizer,
    ErrorEstimate,
    IntegralRegularizer,
    JacobianNorm,
    KineticEnergy,
    LocalError,
    TaylorDerivative,
)
from nde.solvers.control import HermiteCubic
from nde.solvers.term import Field

TIGHT = SolverSettings(rtol=1e-10, atol=1e-11)
NAMES = ["kinetic", "jacobian", "taylor-2", "taylor-3", "adaptive-jacobian"]


def make(name: str, f64: KIND) -> IntegralRegularizer:
    torch.manual_seed(0)
    return {
        "kinetic": KineticEnergy(),
        "jacobian": JacobianNorm(),
        "taylor-2": TaylorDerivative(2),
        "taylor-3": TaylorDerivative(3),
        "adaptive-jacobian": AdaptiveJacobian().to(**f64),
    }[name]


def penalties(
    field: Field,
    y0: object,
    ts: Tensor,
    regularizers: Sequence[AnyRegularizer],
    solver: SolverSettings = TIGHT,
) -> dict[str, Tensor]:
    out: LayerOutput = NeuralODE(field, solver=solver, regularizers=regularizers)(
        y0, ts
    )
    return out.terms


def moving(t: Tensor, y: Tensor) -> Tensor:
    """y' = sin(w t) y with w = 2; its derivatives are (s' + s^2) y and so on."""
    return torch.sin(2.0 * column(t)) * y


def _derivative(order: int, t: Tensor) -> Tensor:
    s, c = torch.sin(2 * t), torch.cos(2 * t)
    second = 2 * c + s**2
    # d/dt of (s' + s^2) y.
    third = -4 * s + 4 * s * c + second * s
    return second if order == 2 else third


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_taylor_of_a_field_that_moves_in_time(
    order: int, batch: str, f64: KIND
) -> None:
    y0, ts = normal((3, 2), 0, **f64), torch.tensor([0.0, 0.4, 1.7], **f64)
    solver = SolverSettings(rtol=1e-10, atol=1e-11, batch=batch)  # type: ignore[arg-type]
    regularizer = TaylorDerivative(order)  # type: ignore[arg-type]
    found = penalties(moving, y0, ts, [regularizer], solver)[f"taylor-{order}"]
    t = torch.linspace(0.0, 1.7, 4001, **f64)
    size = torch.exp((1 - torch.cos(2 * t)) / 2)  # y / y0
    rate = (_derivative(order, t) * size).square()
    want = y0.square().mean() * torch.trapezoid(rate, t)
    assert found.item() == pytest.approx(want.item(), rel=1e-5)


@pytest.mark.parametrize("order", [2, 3])
def test_taylor_of_a_linear_field(order: int, f64: KIND) -> None:
    """y = exp(At) y0, whose derivatives are A^K y; times and lengths per sample."""
    a, y0 = normal((3, 3), 1, **f64), normal((2, 3), 2, **f64)
    ts = torch.tensor([[0.0, 1.0], [0.5, 2.0]], **f64)
    regularizer = TaylorDerivative(order)  # type: ignore[arg-type]
    found = penalties(lambda t, y: y @ a.T, y0, ts, [regularizer])
    power, want = torch.linalg.matrix_power(a, order), 0.0
    for start, (t0, t1) in zip(y0, ts, strict=True):
        t = torch.linspace(0.0, float(t1 - t0), 2001, **f64)
        states = torch.linalg.matrix_exp(t[:, None, None] * a) @ start
        rate = (states @ power.T).square().mean(1)
        want += torch.trapezoid(rate, t).item() / 2
    assert found[f"taylor-{order}"].item() == pytest.approx(want, rel=1e-5)


def test_taylor_sees_the_slope_of_a_control_path(f64: KIND) -> None:
    """y' = X(t): the second derivative is X'(t), for every sample its own."""
    times = torch.tensor([0.0, 0.7, 1.1, 2.0], **f64).expand(2, 4)
    path = HermiteCubic(times, normal((2, 4, 2), 3, **f64))
    layer = NeuralODE(
        lambda t, y, x: x, solver=TIGHT, regularizers=[TaylorDerivative(2)]
    )
    ts = torch.tensor([0.0, 2.0], **f64)
    found = layer(torch.zeros(2, 2, **f64), ts, path=path).terms["taylor-2"]
    t = torch.linspace(0.0, 2.0, 4001, **f64)
    slopes = torch.stack([path.derivative(one) for one in t])
    want = torch.trapezoid(slopes.square().mean((1, 2)), t).item()
    assert found.item() == pytest.approx(want, rel=1e-3)


@pytest.mark.parametrize("end", [1.5, -1.5])
def test_kinetic_energy_of_a_decay(end: float, f64: KIND) -> None:
    """On y' = -y over [0, T]: (1 - exp(-2 T)) / 4 times the mean square of y0."""
    y0, ts = normal((3, 4), 4, **f64), torch.tensor([0.0, end], **f64)
    found = penalties(lambda t, y: -y, y0, ts, [KineticEnergy()])["kinetic"]
    want = y0.square().mean().item() * abs(1 - math.exp(-2 * end)) / 4
    assert found.item() == pytest.approx(want, rel=1e-8)


@dataclass(frozen=True)
class Fixed:
    """A regularizer with the noise that it is given."""

    inner: IntegralRegularizer
    sign: tuple[float, ...]
    name: str = "jacobian"
    weight: float = 1.0

    def noise(self, like: Tensor) -> Tensor:
        return torch.tensor(self.sign).to(like).expand_as(like)

    def rate(
        self, field: Field, t: Tensor, y: Tensor, slope: Tensor, noise: Tensor | None
    ) -> Tensor:
        return self.inner.rate(field, t, y, slope, noise)


def signs(dim: int) -> Iterator[tuple[float, ...]]:
    yield from product((1.0, -1.0), repeat=dim)


def test_jacobian_norm_of_a_linear_field(f64: KIND) -> None:
    """The mean over all signs is |A|_F^2 T / dim exactly; also of a nested state."""
    a, ts = normal((3, 3), 5, **f64), torch.tensor([0.0, 0.7], **f64)

    def nested(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        z = torch.cat([y["a"], y["b"].flatten(1)], dim=1) @ a.T
        return {"a": z[:, :1], "b": z[:, 1:].unsqueeze(1)}

    y0 = {"a": normal((2, 1), 6, **f64), "b": normal((2, 1, 2), 7, **f64)}
    found = [
        penalties(nested, y0, ts, [Fixed(JacobianNorm(), sign)])["jacobian"]
        for sign in signs(3)
    ]
    want = a.square().sum().item() * 0.7 / 3
    assert torch.stack(found).mean().item() == pytest.approx(want, rel=1e-9)
    assert torch.stack(found).std() > 0.1 * want


def test_a_complex_state_counts_as_pairs_of_real_numbers(f64: KIND) -> None:
    """z' = i w z turns pairs by w: |J eps|^2 / 2 is w^2, the third derivative w^3 z."""
    z0 = torch.tensor([[1.0 + 2.0j], [0.5 - 1.0j]], dtype=torch.complex128)
    z0, ts = z0.to(f64["device"]), torch.tensor([0.0, 1.3], **f64)
    every = [KineticEnergy(), JacobianNorm(), TaylorDerivative(3)]
    found = penalties(lambda t, z: 0.8j * z, z0, ts, every)
    size = z0.abs().square().mean().item() / 2
    want = [0.5 * 0.8**2 * size, 0.8**2, 0.8**6 * size]
    for value, one in zip(found.values(), want, strict=True):
        assert value.item() == pytest.approx(1.3 * one, rel=1e-8)


def test_jacobian_norm_along_a_curved_path(f64: KIND) -> None:
    """y' = y^2 entry by entry: J = diag(2 y), y = y0 / (1 - y0 t); any signs do."""
    y0, ts = torch.tensor([[0.3, -0.5]], **f64), torch.tensor([0.0, 1.2], **f64)
    found = penalties(lambda t, y: y * y, y0, ts, [JacobianNorm()])["jacobian"]
    # int 4 y^2 dt = 4 (y(T) - y0), as y^2 is the slope.
    want = (4 * (y0 / (1 - 1.2 * y0) - y0)).mean().item()
    assert found.item() == pytest.approx(want, rel=1e-8)


def test_noise_is_signs_fixed_over_a_solve(f64: KIND) -> None:
    met: list[Tensor] = []

    class Spied(JacobianNorm):
        def rate(
            self,
            field: Field,
            t: Tensor,
            y: Tensor,
            slope: Tensor,
            noise: Tensor | None,
        ) -> Tensor:
            assert noise is not None
            met.append(noise)
            return super().rate(field, t, y, slope, noise)

    torch.manual_seed(1)
    y0, ts = normal((50, 4), 8, **f64), torch.tensor([0.0, 1.0], **f64)
    penalties(lambda t, y: -y, y0, ts, [Spied()])
    assert len(met) > 7
    assert all(noise is met[0] for noise in met)
    assert met[0].abs().unique().tolist() == [1.0]
    # 200 signs have a mean of deviation 0.07.
    assert abs(met[0].mean().item()) < 0.29
    penalties(lambda t, y: -y, y0, ts, [Spied()])
    assert not torch.equal(met[-1], met[0])


def test_the_learned_scale(f64: KIND) -> None:
    """int r / (2 s^2) + log s dt, least where s^2 is the mean square r of J eps."""
    rates = torch.tensor([2.0, -0.5], **f64)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return rates * y * (1 + column(t))

    torch.manual_seed(2)
    regularizer = AdaptiveJacobian(width=8).to(**f64)
    y0, ts = normal((3, 2), 9, **f64), torch.tensor([0.0, 1.0], **f64)
    found = penalties(field, y0, ts, [regularizer])["adaptive-jacobian"]
    t = torch.linspace(0.0, 1.0, 2001, **f64)
    r = rates.square().mean() * (1 + t) ** 2
    scale = regularizer.scale(t)
    want = torch.trapezoid(0.5 * r / scale.square() + scale.log(), t)
    torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-8)

    coarse = SolverSettings(method="rk4", step=0.25)
    layer = NeuralODE(field, solver=coarse, regularizers=[regularizer])
    learned = dict(layer.named_parameters())
    assert "learned_regularizers.0.outer.bias" in learned
    optimizer = torch.optim.Adam(learned.values(), lr=0.04)
    least = torch.trapezoid(0.5 + 0.5 * r.log(), t).item()
    for _ in range(80):
        loss = layer(y0, ts).penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert least < loss.item() < least + 0.01
    assert want.item() > least + 0.1
    error = (regularizer.scale(t) / r.sqrt()).log().abs().max()
    assert error < 0.15


@pytest.mark.parametrize("adjoint", ["recompute", "direct", "backsolve"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_against_finite_differences(
    name: str, adjoint: str, f64: KIND
) -> None:
    fixed = adjoint != "backsolve"
    solver = SolverSettings(
        step=0.2 if fixed else "adaptive",
        rtol=1e-10,
        atol=1e-11,
        adjoint=adjoint,  # type: ignore[arg-type]
    )
    ts, regularizer = torch.tensor([0.0, 1.0], **f64), make(name, f64)

    def loss(y0: Tensor, net: nn.Module) -> Tensor:
        torch.manual_seed(3)
        return penalties(net, y0, ts, [regularizer], solver)[name]

    net, y0 = TimedMLP(3, seed=4).to(**f64), normal((3, 3), 10, **f64)
    check_finite_differences(loss, y0, net, 1e-5 if fixed else 1e-4)
    for parameter in getattr(regularizer, "parameters", list)():
        (gradient,) = torch.autograd.grad(loss(y0, net), parameter)
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
@pytest.mark.parametrize("adjoint", ["recompute", "direct", "backsolve"])
def test_the_solution_is_the_same_with_and_without(
    adjoint: str, batch: str, f64: KIND
) -> None:
    """All of them at once, beside others that look at the solve itself."""
    net, y0 = TimedMLP(3, gain=3.0).to(**f64), normal((5, 3), 11, **f64)
    ts = torch.tensor([0.0, 1.4], **f64)
    every = [make(name, f64) for name in NAMES]
    others = [] if adjoint == "backsolve" else [ErrorEstimate(), LocalError()]
    solver = SolverSettings(adjoint=adjoint, batch=batch)  # type: ignore[arg-type]
    found = []
    for regularizers in (others, [*every, *others]):
        torch.manual_seed(5)
        layer = NeuralODE(net, solver=solver, regularizers=regularizers)
        found.append(layer(y0, ts))
    without, with_it = found
    assert torch.equal(without.ys, with_it.ys)
    assert torch.equal(without.solution.stats.step, with_it.solution.stats.step)
    assert set(with_it.terms) == {*NAMES, *(one.name for one in others)}
    if others:
        assert torch.equal(without.terms["error"], with_it.terms["error"])
    off = NeuralODE(net, solver=solver, regularizers=every).eval()(y0, ts)
    assert (off.penalty.item(), off.terms, off.solution.integral) == (0.0, {}, None)
    assert torch.equal(off.ys, without.ys)


def test_a_layer_that_reads_a_series(f64: KIND) -> None:
    torch.manual_seed(6)
    layer = ControlledODE(2, 4, regularizers=[make(name, f64) for name in NAMES]).to(
        **f64
    )
    path = HermiteCubic(torch.linspace(0, 1, 5, **f64), normal((3, 5, 2), 12, **f64))
    out = layer(path, torch.tensor([0.0, 1.0], **f64))
    assert out.weights == dict.fromkeys(NAMES, 1.0)
    torch.testing.assert_close(out.penalty, torch.stack(list(out.terms.values())).sum())
    out.penalty.backward()
    # The map to the first state and the whole field, and the scale.
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert layer.initial.weight.grad.abs().max() > 0


def test_descent_on_the_third_derivative_saves_evaluations(f64: KIND) -> None:
    net, y0 = TimedMLP(3, seed=6, gain=3.0).to(**f64), normal((8, 3), 6, **f64)
    layer = NeuralODE(net, regularizers=[TaylorDerivative(3)])
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    counts = []
    for _ in range(25):
        out = layer(y0, torch.tensor([0.0, 1.4], **f64))
        counts.append(out.solution.stats.evaluations.double().mean().item())
        optimizer.zero_grad()
        out.penalty.backward()
        optimizer.step()
    assert counts[-1] < 0.8 * counts[0]


def test_what_is_refused(f64: KIND) -> None:
    with pytest.raises(ValueError, match="order must be 2 or 3, got 4"):
        TaylorDerivative(4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="width"):
        AdaptiveJacobian(width=0)
    for kind in (KineticEnergy, JacobianNorm, AdaptiveJacobian):
        with pytest.raises(ValueError, match="weight"):
            kind(weight=-1.0)
    torch.manual_seed(0)
    layer = NeuralSDE(2, 4, regularizers=[KineticEnergy()]).to(**f64)
    path = HermiteCubic(torch.linspace(0, 1, 5, **f64), normal((3, 5, 2), 12, **f64))
    with pytest.raises(ValueError, match=r"\['kinetic'\] are integrals.*SDE.*'error'"):
        layer(path, torch.tensor([0.0, 1.0], **f64))
    y0, ts = normal((2, 3), 13, **f64), torch.tensor([0.0, 1.0], **f64)
    with pytest.raises(ValueError, match="share a name"):
        penalties(moving, y0, ts, [KineticEnergy(), KineticEnergy(2.0)])
    with pytest.raises(TypeError, match="is no regularizer"):
        penalties(moving, y0, ts, [3])  # type: ignore[list-item]
