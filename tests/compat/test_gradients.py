"""Gradients as torchdiffeq gives them, or nearer the truth."""

from typing import Any

import pytest
import torch
from sides import SIDES, Field, start, times
from torch import Tensor, nn

import nde.compat.torchdiffeq as compat

FIXED = {"method": "rk4", "options": {"step_size": 0.01}}
ADAPTIVE = {"rtol": 1e-9, "atol": 1e-9}
T = (0.0, 0.4, 1.0, 2.0)


def gradients(side: Any, function: str, **kwargs: Any) -> list[Tensor]:
    """Of a sum of squares: to y0, t, and the weight."""
    field, y0 = Field(), start(5, 3).requires_grad_()
    t = times(*T, requires_grad=True)
    getattr(side, function)(field, y0, t, **kwargs).square().sum().backward()
    return [y0.grad, t.grad, field.weight.grad]


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return float((a - b).abs().max()) <= tolerance * (1.0 + float(b.abs().max()))


@pytest.mark.parametrize("function", ["odeint", "odeint_adjoint"])
def test_adaptive(function: str) -> None:
    theirs = gradients(SIDES["theirs"], "odeint_adjoint", rtol=1e-10, atol=1e-10)
    for a, b in zip(gradients(compat, function, **ADAPTIVE), theirs, strict=True):
        assert close(a, b, 1e-6)


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "heun3", "rk4"])
@pytest.mark.parametrize("function", ["odeint", "odeint_adjoint"])
def test_fixed_steps_are_differentiated_exactly(function: str, method: str) -> None:
    settings: dict[str, Any] = {"method": method, "options": {"step_size": 0.03}}
    theirs = gradients(SIDES["theirs"], "odeint", **settings)
    ours = gradients(compat, function, **settings)
    assert close(ours[0], theirs[0], 1e-12)
    assert close(ours[2], theirs[2], 1e-12)


@pytest.mark.parametrize("options", [{"step_size": 0.01}, {"step_size": 0.013}])
@pytest.mark.parametrize("function", ["odeint", "odeint_adjoint"])
def test_times_of_fixed_steps_get_the_slope_of_the_solution(
    function: str, options: dict[str, Any]
) -> None:
    (_, exact, _) = gradients(compat, "odeint", **ADAPTIVE)
    (_, found, _) = gradients(compat, function, method="rk4", options=options)
    assert close(found, exact, 1e-2)


def test_cubic_reads_are_differentiable() -> None:
    options = {"step_size": 0.03, "interp": "cubic"}
    exact = gradients(compat, "odeint", **ADAPTIVE)
    for function in ("odeint", "odeint_adjoint"):
        found = gradients(compat, function, method="rk4", options=options)
        for a, b in zip(found, exact, strict=True):
            assert close(a, b, 1e-4)


@pytest.mark.parametrize("kwargs", [ADAPTIVE, FIXED])
def test_second_derivatives_under_odeint(kwargs: dict[str, Any]) -> None:
    found = []
    for side in SIDES.values():
        field, y0 = Field(), start(2, 3).requires_grad_()
        end = side.odeint(field, y0, times(0.0, 1.0), **kwargs)[-1]
        (first,) = torch.autograd.grad(end.square().sum(), y0, create_graph=True)
        first.square().sum().backward()
        found.append((y0.grad, field.weight.grad))
    for theirs, ours in zip(*found, strict=True):
        assert close(ours, theirs, 1e-6)


def test_gradcheck() -> None:
    field = Field(2)

    def solved(y0: Tensor, weight: Tensor) -> Tensor:
        def call(t: Tensor, y: Tensor) -> Tensor:
            return torch.func.functional_call(field, {"weight": weight}, (t, y))

        settings: dict[str, Any] = {"method": "heun3", "options": {"step_size": 0.2}}
        a = compat.odeint(call, y0, times(0.0, 1.0), **settings)
        b = compat.odeint_adjoint(
            call, y0, times(0.0, 1.0), adjoint_params=(weight,), **settings
        )
        return a + b

    weight = field.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(solved, (start(2, 2).requires_grad_(), weight))


def test_tuples_and_parts_of_them() -> None:
    found = []
    for side in SIDES.values():
        field = Field()
        y0 = (start(2, 3).requires_grad_(), start(1).requires_grad_())

        def pair(t: Tensor, y: Any, f: Field = field) -> Any:
            return f(t, y[0]), y[1] * y[0].sum()

        a, _ = side.odeint(pair, y0, times(0.0, 0.5), **ADAPTIVE)
        a[-1].sum().backward()
        found.append((y0[0].grad, field.weight.grad))
    for theirs, ours in zip(*found, strict=True):
        assert close(ours, theirs, 1e-6)


def test_complex_gradients() -> None:
    found = []
    for side in SIDES.values():
        y0 = torch.tensor([1.0 + 0.5j], dtype=torch.complex128, requires_grad=True)
        end = side.odeint(lambda t, y: (1j - 0.2) * y, y0, times(0.0, 1.0), **ADAPTIVE)
        end[-1].real.square().sum().backward()
        found.append(y0.grad)
    assert close(torch.view_as_real(found[1]), torch.view_as_real(found[0]), 1e-6)


class Branches(nn.Module):
    """Uses its parameter only after a while."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -y if t < 0.5 else -self.rate * y


@pytest.mark.parametrize("function", ["odeint", "odeint_adjoint"])
def test_a_parameter_that_the_first_call_leaves_out(function: str) -> None:
    field, t = Branches(), times(0.0, 1.0)
    options = {"jump_t": times(0.5)}
    end = getattr(compat, function)(field, times(1.0), t, options=options)[-1]
    end.sum().backward()
    assert field.rate.grad is not None
    assert close(field.rate.grad, -0.5 * end.detach().sum(), 1e-5)


def test_a_closure_over_what_the_first_call_leaves_out() -> None:
    rate = times(1.0).requires_grad_()
    end = compat.odeint(
        lambda t, y: -y if t < 0.5 else -rate * y,
        times(1.0),
        times(0.0, 1.0),
        options={"jump_t": times(0.5)},
    )[-1]
    end.sum().backward()
    assert rate.grad is not None
    assert close(rate.grad, -0.5 * end.detach(), 1e-5)


def test_only_adjoint_params_get_gradients() -> None:
    field = Field()
    other = times(0.3).requires_grad_()

    def call(t: Tensor, y: Tensor) -> Tensor:
        return field(t, y) + other

    y0 = start(2, 3).requires_grad_()
    found = compat.odeint_adjoint(
        call, y0, times(0.0, 1.0), adjoint_params=field.parameters()
    )
    found.sum().backward()
    assert field.weight.grad is not None and y0.grad is not None
    assert other.grad is None


def test_parameters_without_grad_are_left_out_with_a_warning_for_norms() -> None:
    field = Field()
    field.weight.requires_grad_(False)
    y0 = start(2, 3).requires_grad_()
    options = {"norm": lambda state: state[0].abs().max()}
    with pytest.warns(UserWarning, match="adjoint"):
        found = compat.odeint_adjoint(
            field, y0, times(0.0, 1.0), adjoint_options=options
        )
    found.sum().backward()
    assert field.weight.grad is None and y0.grad is not None


def test_adjoint_settings_are_accepted() -> None:
    y0 = start(2, 3).requires_grad_()
    found = compat.odeint_adjoint(
        Field(),
        y0,
        times(0.0, 1.0),
        options={"norm": lambda y: y.abs().max()},
        adjoint_rtol=1e-3,
        adjoint_atol=1e-3,
        adjoint_method="rk4",
        adjoint_options={"norm": "seminorm", "step_size": 0.1},
    )
    found.sum().backward()
    assert y0.grad is not None


def test_the_adjoint_of_scipy_is_refused() -> None:
    with pytest.raises(ValueError, match="no gradient"):
        compat.odeint_adjoint(Field(), start(3), times(0.0, 1.0), method="scipy_solver")
    with torch.no_grad():
        compat.odeint_adjoint(Field(), start(3), times(0.0, 1.0), method="scipy_solver")


def test_no_graph_without_gradients() -> None:
    for function in (compat.odeint, compat.odeint_adjoint):
        with torch.no_grad():
            found = function(Field(), start(3), times(0.0, 1.0))
        assert not found.requires_grad
        with torch.inference_mode():
            function(Field(), start(3), times(0.0, 1.0))


def test_evaluations_with_gradients_are_theirs() -> None:
    counts = []
    for side in SIDES.values():
        field = Field()
        side.odeint(field, start(5, 3), times(0.0, 1.0), rtol=1e-6, atol=1e-6)
        counts.append(field.calls)
    assert counts[1] <= 1.05 * counts[0]


class Spiral(nn.Module):
    """The neural ODE of torchdiffeq's first example."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 2))
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, mean=0.0, std=0.1)
                nn.init.constant_(layer.bias, val=0.0)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y**3)


@pytest.mark.parametrize("function", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_learning_a_spiral_goes_as_with_theirs(function: str, method: str) -> None:
    matrix = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    t = torch.linspace(0.0, 25.0, 200)
    with torch.no_grad():
        truth = compat.odeint(
            lambda s, y: (y**3) @ matrix, torch.tensor([[2.0, 0.0]]), t
        )
    losses = []
    for side in SIDES.values():
        torch.manual_seed(0)
        field = Spiral()
        optimizer = torch.optim.RMSprop(field.parameters(), lr=1e-3)
        for _ in range(20):
            first = torch.randint(0, 190, (20,))
            batch = torch.stack([truth[first + i] for i in range(10)])
            optimizer.zero_grad()
            found = getattr(side, function)(field, truth[first], t[:10], method=method)
            loss = (found - batch).abs().mean()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert abs(losses[1] - losses[0]) < 1e-3 * losses[0]
