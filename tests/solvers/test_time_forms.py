"""Output times: ragged, per sample, either direction; and gradients to times."""

import math

import pytest
import torch
from gradients import check_inputs
from problems import KIND, OSCILLATOR, QUADRATIC, column
from torch import Tensor

from nde.solvers import (
    PID,
    Direct,
    FixedSteps,
    ODETerm,
    Recompute,
    StepTo,
    solve,
)

NAN = math.nan
TIGHT = PID(rtol=1e-11, atol=1e-12)
GRID = torch.linspace(-3.0, 3.0, 61, dtype=torch.float64)
CONTROLLERS = {"pid": TIGHT, "fixed": FixedSteps(0.1), "to": StepTo(GRID)}
CONTROLLED = pytest.mark.parametrize(
    "controller", CONTROLLERS.values(), ids=CONTROLLERS
)
ADJOINTS = pytest.mark.parametrize(
    "adjoint", [Recompute(), Direct()], ids=["recompute", "direct"]
)
SIGNS = pytest.mark.parametrize("sign", [1.0, -1.0], ids=["forward", "backward"])

# Leading, interior and trailing gaps; one time alone.
RAGGED = [
    [0.0, 0.4, 1.5, NAN, NAN],
    [NAN, 0.2, NAN, 0.9, 2.5],
    [0.3, NAN, NAN, NAN, 0.7],
    [NAN, NAN, 1.1, NAN, NAN],
]


def bell(t: Tensor, y: Tensor) -> Tensor:
    """Elementwise, so that a sample's numbers do not depend on its neighbours."""
    return -2.0 * column(t) * y * y


def method_for(controller: object) -> str:
    """Long steps of a fixed grid need a high order to be as exact."""
    return "tsit5" if isinstance(controller, PID) else "vern7"


def starts(count: int, **kind: torch.dtype | torch.device) -> Tensor:
    return torch.linspace(0.3, 1.2, 2 * count, **kind).reshape(count, 2)


@CONTROLLED
@SIGNS
@pytest.mark.parametrize("masked", [False, True])
def test_ragged_times_are_separate_solves(
    controller: object, sign: float, masked: bool, f64: KIND
) -> None:
    """Bit for bit: each sample takes its own steps and ends at its own end."""
    ts = sign * torch.tensor(RAGGED, **f64)
    given, y0 = ~torch.isnan(ts), starts(4, **f64)
    filler = torch.where(given, ts, 77.0)
    sol = solve(
        ODETerm(bell),
        y0,
        filler if masked else ts,
        ts_mask=given if masked else None,
        controller=controller,
    )
    assert sol.ys.shape == (4, 5, 2)
    for i in range(4):
        own = ts[i][given[i]]
        # Three samples: a single one takes the loop of Python numbers, and as many as
        # the state has entries are called twice more, to see how time is read.
        alone = solve(
            ODETerm(bell), y0[[i] * 3], own.expand(3, -1), controller=controller
        )
        assert torch.equal(sol.ys[i][given[i]], alone.ys[0])
        assert torch.equal(sol.final[i], alone.final[0])
        for name in ("accepted", "rejected", "evaluations"):
            found, wanted = getattr(sol.stats, name), getattr(alone.stats, name)
            if len(own) > 1:
                assert found[i] == wanted[0], name
        # A gap repeats the time before, or the first one.
        seen = -1
        for k in range(5):
            seen = k if given[i, k] else seen
            first = int(given[i].long().argmax())
            assert torch.equal(sol.ys[i, k], sol.ys[i, seen if seen >= 0 else first])


@pytest.mark.parametrize(
    ("ts", "mask", "match"),
    [
        ([0.0, NAN, 1.0], None, "NaN"),
        ([[0.0, 1.0], [NAN, NAN]], None, "no time for sample 1"),
        ([[0.0, 1.0], [0.0, math.inf]], None, "infinite"),
        ([[0.0, 1.0], [0.0, NAN]], [[True, True], [True, True]], "NaN where ts_mask"),
        ([[0.0, 1.0], [1.0, 0.0]], None, "monotone"),
        ([[0.0, NAN, -1.0], [0.0, 1.0, 2.0]], None, "monotone"),
        ([0.0, 1.0], [[True, True]], "ts_mask"),
        ([0.0, 1.0], [[1.0, 1.0]] * 2, "ts_mask"),
        ([[0.0, 1.0]], None, "rows"),
    ],
)
def test_bad_times(ts: list, mask: list | None, match: str, f64: KIND) -> None:
    given = None if mask is None else torch.tensor(mask, device=f64["device"])
    with pytest.raises((TypeError, ValueError), match=match):
        solve(ODETerm(bell), starts(2, **f64), torch.tensor(ts, **f64), ts_mask=given)


def test_a_mask_on_shared_times(f64: KIND) -> None:
    ts = torch.tensor([0.0, 0.5, 1.0], **f64)
    mask = torch.tensor([[True, True, False], [False, True, True]]).to(ts.device)
    sol = solve(ODETerm(bell), starts(2, **f64), ts, ts_mask=mask, controller=TIGHT)
    found = solve(ODETerm(bell), starts(2, **f64)[:1], ts[:2], controller=TIGHT).final
    torch.testing.assert_close(sol.final[:1], found, rtol=1e-10, atol=0)
    assert torch.equal(sol.ys[1, 0], sol.ys[1, 1])


@CONTROLLED
@ADJOINTS
@SIGNS
@pytest.mark.parametrize("form", ["shared", "rows", "ragged", "one_step_for_all"])
def test_gradients_to_times(
    controller: object, adjoint: object, sign: float, form: str, f64: KIND
) -> None:
    shared = torch.tensor([0.2, 0.6, 1.5, 2.2], **f64)
    rows = torch.tensor(
        [[0.2, 0.6, 1.5, 2.2], [0.0, 0.1, 0.3, 1.9], [0.5, 1.0, 1.1, 1.3]], **f64
    )
    ts = sign * (rows if form in ("rows", "ragged") else shared)
    mask = None
    if form == "ragged":
        mask = torch.ones(3, 4, dtype=torch.bool, device=ts.device)
        mask[0, 3] = mask[1, 0] = mask[2, 1] = False
    weights = torch.linspace(0.5, 2.0, 24, **f64).reshape(3, 4, 2)

    def loss(y: Tensor, times: Tensor) -> Tensor:
        sol = solve(
            ODETerm(bell),
            y,
            times,
            ts_mask=mask,
            method=method_for(controller),
            controller=controller,
            adjoint=adjoint,
            batch="shared" if form == "one_step_for_all" else "per_sample",
        )
        return (sol.ys * weights).sum() + (sol.final**3).sum()

    check_inputs(loss, [starts(3, **f64), ts])


def test_gradients_to_times_of_a_method_read_at_its_steps(f64: KIND) -> None:
    def field(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return y[1], -y[0]

    ts = torch.tensor([0.0, 0.4, 1.0], **f64, requires_grad=True)
    one = torch.ones(2, 1, **f64)
    sol = solve(
        ODETerm(field),
        (one, 0 * one),
        ts,
        method="leapfrog",
        controller=FixedSteps(1e-3),
    )
    (gradient,) = torch.autograd.grad(sol.ys[0].sum(), ts)
    wanted = -2 * ts.detach().sin()
    torch.testing.assert_close(gradient[1:], wanted[1:], rtol=1e-5, atol=0)


@CONTROLLED
@pytest.mark.parametrize("batch", ["per_sample", "shared"])
@pytest.mark.parametrize("grad", [True, False])
@SIGNS
def test_values_and_slopes_at_any_time(
    controller: object, batch: str, grad: bool, sign: float, f64: KIND
) -> None:
    """Also at both ends; the slope in t is the field, and so is `derivative`."""
    y0 = QUADRATIC.y0(**f64).requires_grad_(grad)
    sol = solve(
        ODETerm(bell),
        y0,
        sign * torch.tensor([0.0, 1.5], **f64),
        method=method_for(controller),
        controller=controller,
        batch=batch,
        dense=True,
    )
    for t in (
        torch.tensor([0.0, 0.33, 1.1, 1.5], **f64),
        torch.tensor([[0.7, 0.0, 0.2], [1.5, 0.01, 1.4999]], **f64),
    ):
        t = (sign * t).requires_grad_()
        value = sol.evaluate(t)
        exact = QUADRATIC.solution(t, y0).detach()
        torch.testing.assert_close(value.detach(), exact, rtol=1e-8, atol=0)
        slope = -2.0 * t.detach().expand(2, -1).unsqueeze(2) * exact**2
        derivative = sol.derivative(t).detach()
        torch.testing.assert_close(derivative, slope, rtol=1e-6, atol=1e-7)
        (gradient,) = torch.autograd.grad(value.sum(), t)
        wanted = slope.sum(2) if t.ndim == 2 else slope.sum((0, 2))
        torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", ["tsit5", "vern7", "dop853"])
def test_slopes_have_the_dtype_of_the_state(method: str, device: torch.device) -> None:
    y0, ts = torch.ones(2, 1, device=device), torch.tensor([0.0, 1.0], device=device)
    sol = solve(ODETerm(bell), y0, ts, method=method, dense=True)
    at = torch.tensor([0.5], device=device)
    assert sol.evaluate(at).dtype == sol.derivative(at).dtype == torch.float32


@CONTROLLED
@ADJOINTS
@pytest.mark.parametrize("batch", ["per_sample", "shared"])
@pytest.mark.parametrize("ragged", [True, False])
def test_a_solution_drives_another_equation(
    controller: object, adjoint: object, batch: str, ragged: bool, f64: KIND
) -> None:
    """Gradients reach what the first solve started from and used."""
    if ragged and batch == "shared":
        return
    ts = torch.tensor([0.0, 0.8, 2.0], **f64)
    if ragged:
        ts = torch.tensor([[NAN, 0.0, 2.0], [0.5, 1.0, 1.5], [0.2, 1.9, NAN]], **f64)
    options = {
        "controller": controller,
        "adjoint": adjoint,
        "batch": batch,
        "method": "vern7",
    }

    def loss(y: Tensor, z: Tensor, k: Tensor, scale: Tensor) -> Tensor:
        first = solve(
            ODETerm(lambda t, y, k: k * OSCILLATOR.field(t, y)),
            y,
            ts,
            args=k,
            dense=True,
            **options,
        )
        path = first.as_path()

        def driven(t: Tensor, z: Tensor) -> Tensor:
            return scale * path.evaluate(t) * z.cos() - 0.3 * path.derivative(t)

        second = solve(ODETerm(driven), z, ts, **options)
        return (second.ys**2).sum() + second.final.sin().sum()

    y, z = starts(3, **f64), starts(3, **f64).flip(0)
    k, scale = torch.tensor(1.3, **f64), torch.tensor(0.7, **f64)
    check_inputs(loss, [y, z, k, scale])


def test_a_path_takes_one_time_of_all_or_one_each(f64: KIND) -> None:
    ts = torch.tensor([0.0, 2.0], **f64)
    sol = solve(ODETerm(bell), starts(2, **f64), ts, controller=TIGHT, dense=True)
    path = sol.as_path()
    both = path.evaluate(torch.tensor([0.3, 1.1], **f64))
    for i, t in enumerate((0.3, 1.1)):
        one = path.evaluate(torch.tensor(t, **f64))
        assert one.shape == (2, 2) and torch.equal(one[i], both[i])
        slope = path.derivative(torch.tensor(t, **f64))
        wanted = -2 * t * one**2
        torch.testing.assert_close(slope, wanted, rtol=1e-7, atol=0)
    plain = solve(ODETerm(bell), starts(2, **f64), ts)
    with pytest.raises(ValueError, match="dense=True"):
        plain.as_path()
    with pytest.raises(ValueError, match="outside the interval"):
        sol.evaluate(torch.tensor([2.1], **f64))
