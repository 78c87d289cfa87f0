"""Reversible along pairs of Runge-Kutta methods: exact, and without stored states."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from gradients import assert_same, check_inputs
from problems import KIND, column, normal
from sde_gradients import nodes
from torch import Tensor, nn

from nde.solvers import (
    PID,
    Direct,
    FixedSteps,
    McCallumFoster,
    ODETerm,
    Recompute,
    Reversible,
    Solution,
    Status,
    solve,
)

NAN = float("nan")
BATCH = 4
COMMON = (0.0, 0.3, 0.7, 1.5)
# Rows with all times, with fewer, with others, and with none but the first.
RAGGED = (
    (0.0, 0.3, 0.7, 1.0),
    (0.1, 0.2, 0.4, 1.7),
    (0.0, 0.5, NAN, NAN),
    (0.2, NAN, NAN, NAN),
)
CASES = {"common": COMMON, "own": RAGGED, "shared": COMMON, "single": COMMON}
GRID, ADAPTED = FixedSteps(0.05), PID(1e-3, 1e-5)


class Field(nn.Module):
    """With parameters, a tensor in a closure, and args."""

    def __init__(self, **kind: torch.dtype | torch.device) -> None:
        super().__init__()
        self.a = nn.Parameter(normal((3, 6), 1, **kind))
        self.b = nn.Parameter(normal((6, 2), 2, **kind))
        self.shift = normal((2,), 3, **kind).requires_grad_()
        shift = self.shift

        def f(t: Tensor, y: Tensor, args: dict[str, Tensor]) -> Tensor:
            seen = torch.cat([y, column(t).expand(len(y), 1)], dim=1)
            moved = (seen @ self.a).tanh() @ self.b
            return moved * args["size"] + 0.2 * (y * shift).cos() - 0.2 * y

        self.term = ODETerm(f)


def everything(sol: Solution) -> Tensor:
    """Outputs, the last state, and estimates of error and stiffness."""
    weights = torch.linspace(0.5, 1.5, sol.ys.numel(), dtype=sol.ys.dtype)
    loss = (sol.ys * weights.view_as(sol.ys).to(sol.ys.device)).sin().sum()
    stats, loss = sol.stats, loss + (sol.final**3).sum()
    for values in (stats.error_estimate, 0.1 * stats.stiffness):
        loss = loss + (values * stats.step)[stats.valid].nan_to_num().sum()
    return loss


def found(
    field: Field,
    y0: Tensor,
    adjoint: object,
    times: str = "common",
    method: object = None,
    controller: object = GRID,
    loss: Callable[[Solution], Tensor] = everything,
    moving: bool = False,
) -> list[Tensor]:
    """Gradients in y0, args, what the closure holds, parameters, and times."""
    kind: KIND = {"dtype": y0.dtype, "device": y0.device}
    y0 = (y0[:1] if times == "single" else y0).clone().requires_grad_()
    size = torch.tensor(0.8, **kind, requires_grad=True)
    ts = torch.tensor(CASES[times], **kind, requires_grad=moving)
    sol = solve(
        field.term,
        y0,
        ts,
        method=McCallumFoster() if method is None else method,
        controller=controller,
        adjoint=adjoint,
        args={"size": size},
        batch="shared" if times == "shared" else "per_sample",
    )
    inputs = [y0, size, field.shift, *field.parameters(), *([ts] if moving else [])]
    return [g.nan_to_num() for g in torch.autograd.grad(loss(sol), inputs)]


@pytest.mark.parametrize("times", CASES)
@pytest.mark.parametrize(
    ("base", "coupling"),
    [("euler", 1.0), ("rk4", 0.999), ("bosh3", 0.5), ("tsit5", 0.999), ("tsit5", 0.9)],
)
def test_reversible_equals_direct(
    base: str, coupling: float, times: str, f64: KIND
) -> None:
    field, y0 = Field(**f64), normal((BATCH, 2), 5, **f64)
    method = McCallumFoster(base, coupling)
    grid, adaptive = (GRID,), (GRID, ADAPTED)
    for controller in grid if method.error_order is None else adaptive:
        options = {"times": times, "method": method, "controller": controller}
        for moving in (False, True):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                back = found(field, y0, Reversible(), moving=moving, **options)
            for adjoint in (Direct(), Recompute()):
                wanted = found(field, y0, adjoint, moving=moving, **options)
                assert_same(back, wanted, rtol=1e-10)


def test_two_estimates_of_error(f64: KIND) -> None:
    """Those of dop853; from long steps, so that they are not rounding alone."""
    field, y0 = Field(**f64), 2.0 * normal((BATCH, 2), 5, **f64)
    options = {
        "method": McCallumFoster("dop853", 0.9),
        "controller": FixedSteps(0.7),
        "loss": lambda sol: sol.stats.error_estimate[sol.stats.valid].sum(),
    }
    wanted = found(field, y0, Direct(), **options)
    assert_same(found(field, y0, Reversible(), **options), wanted, rtol=1e-6)


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_finite_differences(batch: str, f64: KIND) -> None:
    method = McCallumFoster("bosh3", 0.9)

    def loss(y0: Tensor, rate: Tensor) -> Tensor:
        sol = solve(
            ODETerm(lambda t, y: (y * rate + column(t)).sin()),
            y0,
            torch.tensor([0.0, 0.4, 1.0], **f64),
            method=method,
            controller=FixedSteps(0.1),
            adjoint=Reversible(),
            batch=batch,
        )
        return everything(sol)

    check_inputs(loss, (normal((3, 2), 1, **f64), torch.tensor([0.7, -1.3], **f64)))


class Pair(NamedTuple):
    """A nested state."""

    left: Tensor
    right: dict[str, Tensor]


def test_nested_states_backward_in_time(f64: KIND) -> None:
    results = []
    for adjoint in (Reversible(), Direct()):
        rate = torch.tensor(0.6, **f64, requires_grad=True)
        left = normal((3, 2, 2), 1, **f64).requires_grad_()
        right = normal((3,), 2, **f64).requires_grad_()

        def f(t: Tensor, y: Pair, rate: Tensor = rate) -> Pair:
            mean = y.left.mean(dim=(1, 2))
            return Pair(
                y.left.cos() * rate, {"a": mean - y.right["a"] * rate, "b": mean}
            )

        sol = solve(
            ODETerm(f),
            Pair(left, {"a": right, "b": right * 2}),
            torch.tensor([1.0, 0.2, -0.5], **f64),
            method=McCallumFoster("tsit5"),
            controller=ADAPTED,
            adjoint=adjoint,
        )
        out = sol.final.left.square().sum() + sol.ys.right["a"].sin().sum()
        out = out + sol.final.right["b"].sum()
        results.append(torch.autograd.grad(out, (left, right, rate)))
    assert_same(*results, rtol=1e-11)


@pytest.mark.parametrize("adjoint", [Reversible(), Recompute()])
def test_single_precision(adjoint: object, device: torch.device) -> None:
    kind: KIND = {"dtype": torch.float32, "device": device}
    field, y0 = Field(**kind), normal((BATCH, 2), 5, **kind)
    wanted = found(field, y0, Direct(), method=McCallumFoster("rk4"))
    back = found(field, y0, adjoint, method=McCallumFoster("rk4"))
    assert_same(back, wanted, rtol=2e-5)


def swinging(
    adjoint: object, coupling: float, steps: int, kind: KIND, batch: int = 2
) -> tuple[Tensor, ...]:
    """Gradients after long swinging on a grid."""
    turn = torch.tensor([[-0.05, -1.0], [1.0, -0.05]], **kind)
    rate = torch.tensor(1.0, **kind, requires_grad=True)
    y0 = normal((batch, 2), 4, **kind).requires_grad_()
    sol = solve(
        ODETerm(lambda t, y: torch.tanh(y @ turn * rate)),
        y0,
        torch.tensor([0.0, 4.0, 10.0], **kind),
        method=McCallumFoster("ralston", coupling),
        controller=FixedSteps(10.0 / steps),
        adjoint=adjoint,
    )
    return torch.autograd.grad(sol.ys.square().sum(), (y0, rate))


@pytest.mark.parametrize(
    ("coupling", "steps"), [(1.0, 300), (0.999, 500), (0.9, 300), (0.5, 100)]
)
@pytest.mark.parametrize("batch", [1, 2])
def test_rounding_of_the_round_trip(
    coupling: float, steps: int, batch: int, device: torch.device
) -> None:
    """Stored pairs keep it small whatever the coupling: without them, 0.9**-300."""
    for dtype, rtol in ((torch.float64, 1e-12), (torch.float32, 1e-3)):
        kind: KIND = {"dtype": dtype, "device": device}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            back = swinging(Reversible(), coupling, steps, kind, batch)
        assert_same(back, swinging(Recompute(), coupling, steps, kind, batch), rtol)


def test_without_stored_pairs_rounding_would_win(
    f64: KIND, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert McCallumFoster("euler", 0.999).spacing == 2998
    assert McCallumFoster("euler", 0.9).spacing == 28
    assert McCallumFoster("euler", 0.01).spacing == 1
    assert McCallumFoster("euler", 1.0).spacing is None
    wanted = swinging(Recompute(), 0.9, 400, f64)
    monkeypatch.setattr(McCallumFoster, "spacing", None)
    with pytest.warns(UserWarning, match=r"walked back to a state that misses"):
        back = swinging(Reversible(), 0.9, 400, f64)
    assert (back[1] - wanted[1]).abs() > 1e-3 * wanted[1].abs()


@pytest.mark.parametrize("batch", [1, 2])
def test_stored_pairs_of_adaptive_steps(batch: int, f64: KIND) -> None:
    """Rows with a number of steps each."""
    results = []
    for adjoint in (Reversible(), Recompute()):
        rate = torch.tensor([[1.0], [5.0]], **f64)[:batch].requires_grad_()
        y0 = torch.tensor([[1.0, 0.3]], **f64).repeat(batch, 1).requires_grad_()

        def f(t: Tensor, y: Tensor, rate: Tensor = rate) -> Tensor:
            return torch.stack([y[:, 1], -y[:, 0].sin()], 1) * rate

        sol = solve(
            ODETerm(f),
            y0,
            torch.tensor([0.0, 2.0, 6.0], **f64),
            method=McCallumFoster("bosh3", 0.6),
            controller=PID(1e-4, 1e-6),
            adjoint=adjoint,
        )
        assert sol.stats.accepted.min() > 20
        loss = sol.ys.square().sum() + sol.stats.error_estimate[sol.stats.valid].sum()
        results.append(torch.autograd.grad(loss, (y0, rate)))
    assert_same(*results, rtol=1e-10)


@pytest.mark.parametrize(("coupling", "warned"), [(0.999, 1), (0.9, 0)])
def test_drift_is_told(coupling: float, warned: int, device: torch.device) -> None:
    """The way back from a contraction expands; pairs stored on it bound that."""
    kind: KIND = {"dtype": torch.float32, "device": device}
    rate = torch.tensor(1.0, **kind, requires_grad=True)
    sol = solve(
        ODETerm(lambda t, y: rate * (1.0 - y)),
        torch.tensor([[1.5, 0.5]], **kind),
        torch.tensor([0.0, 10.0], **kind),
        method=McCallumFoster("rk4", coupling),
        controller=FixedSteps(0.05),
        adjoint=Reversible(),
    )
    assert (sol.final - 1.0).abs().max() < 1e-3
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        sol.final.sum().backward()
    assert len(told) == warned
    assert all("misses that of the way" in str(warning.message) for warning in told)


def test_rows_that_fail_fall_back_on_stored_states(f64: KIND) -> None:
    def f(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        return torch.where(y > 50.0, torch.nan, rate * y * (1.0 + column(t)))

    for controller in (FixedSteps(1 / 16), PID(1e-4, 1e-6)):
        results = []
        for adjoint in (Reversible(), Direct()):
            rate = torch.tensor(1.0, **f64, requires_grad=True)
            y0 = torch.tensor([[1.0, 0.5], [40.0, 2.0]], **f64).requires_grad_()
            sol = solve(
                ODETerm(f),
                y0,
                torch.tensor([0.0, 0.5, 1.0], **f64),
                method=McCallumFoster("tsit5", 0.9),
                controller=controller,
                adjoint=adjoint,
                args=rate,
                throw=False,
            )
            assert sol.status[0] == Status.SUCCESS != sol.status[1]
            out = sol.ys.nan_to_num().square().sum()
            results.append(torch.autograd.grad(out, (y0, rate)))
            if isinstance(adjoint, Reversible):
                assert "_RecomputeBackward" in nodes(sol.ys)
        assert_same(*results, rtol=1e-11)


def test_fields_undefined_beyond_an_end(f64: KIND) -> None:
    """A row that rests must not show the field what it was not asked about."""
    results = []
    for adjoint in (Reversible(), Direct()):
        rate = torch.tensor(0.5, **f64, requires_grad=True)
        y0 = torch.tensor([[1.0], [0.7], [0.2]], **f64).requires_grad_()

        def f(t: Tensor, y: Tensor, rate: Tensor = rate) -> Tensor:
            # Of the rows that end at 0.5 and at once, not defined later or elsewhere.
            late = torch.tensor([9.0, 0.5 + 1e-9, 0.0], **f64)
            some = torch.where((t > late)[:, None], torch.nan, y)
            return torch.where(y == 0.2, torch.nan, rate * some.sin())

        sol = solve(
            ODETerm(f),
            y0,
            torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.5, NAN], [0.0, NAN, NAN]], **f64),
            method=McCallumFoster("rk4", 0.9),
            controller=FixedSteps(0.1),
            adjoint=adjoint,
        )
        results.append(torch.autograd.grad(sol.ys.square().sum(), (y0, rate)))
    assert_same(*results, rtol=1e-11)


def test_only_named_parameters_get_gradients(f64: KIND) -> None:
    field, y0 = Field(**f64), normal((BATCH, 2), 5, **f64)
    sol = solve(
        field.term,
        y0,
        torch.tensor(COMMON, **f64),
        method=McCallumFoster("tsit5"),
        adjoint=Reversible(parameters=(field.a,)),
        args={"size": torch.tensor(0.8, **f64)},
    )
    sol.final.sum().backward()
    assert field.a.grad is not None and bool(field.a.grad.any())
    assert field.b.grad is None and field.shift.grad is None
