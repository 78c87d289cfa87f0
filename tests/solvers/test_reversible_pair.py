"""The reversible pair of a Runge-Kutta method: order, cost, where it comes apart."""

import math
import warnings

import pytest
import torch
from problems import KIND, column
from torch import Tensor

from nde.solvers import (
    ODE_METHODS,
    PID,
    Event,
    FixedSteps,
    McCallumFoster,
    ODETerm,
    Reversible,
    SDETerm,
    SolveError,
    solve,
)
from nde.solvers.bound import bind
from nde.solvers.state import structure_of
from nde.solvers.term import Layout
from nde.solvers.types import Increment


def driven(t: Tensor, y: Tensor) -> Tensor:
    """Depends on time, does not contract."""
    turned = torch.stack((y[:, 1], -y[:, 0]), -1)
    return turned * (1.0 + 0.5 * torch.sin(3.0 * column(t))) + 0.2 * torch.cos(y)


def relaxing(t: Tensor, y: Tensor) -> Tensor:
    """Contracts at rate 1 to y = 1."""
    return 1.0 - y


# On this problem tsit5 alone converges with order 6.
ORDERS = {"euler": (1, 16), "ralston": (2, 16), "rk4": (4, 16), "tsit5": (5, 4)}


@pytest.mark.parametrize("coupling", [1.0, 0.999, 0.5])
@pytest.mark.parametrize("base", ORDERS)
def test_order_is_that_of_the_base(base: str, coupling: float, f64: KIND) -> None:
    order, steps = ORDERS[base]
    y0, ts = torch.tensor([[1.0, 0.5]], **f64), torch.tensor([0.0, 1.0], **f64)
    exact = solve(
        ODETerm(driven), y0, ts, method="dop853", controller=PID(1e-13, 1e-13)
    )
    errors = []
    for n in (steps, 4 * steps):
        sol = solve(
            ODETerm(driven),
            y0,
            ts,
            method=McCallumFoster(base, coupling),
            controller=FixedSteps(1 / n),
        )
        errors.append((sol.final - exact.final).norm().item())
    found = math.log(errors[0] / errors[1], 4)
    assert order - 0.2 < found < order + (1.0 if base == "tsit5" else 0.2)


@pytest.mark.parametrize("rows", ["one length", "a length for each"])
def test_steps_of_length_zero_rest(rows: str, f64: KIND) -> None:
    y, z = torch.tensor([[1.0, 0.5], [0.3, 2.0]], **f64), torch.ones(2, 2, **f64)
    term = bind(ODETerm(driven), Layout(structure_of(y), False, False, False, None))
    method = McCallumFoster("tsit5", 0.5)
    t = torch.zeros(2, dtype=torch.float64, device=y.device)
    carry = (driven(t, z), z)
    stages = method.workspace(y, graph=False)
    if rows == "one length":
        rest = method.step(term, 0.0, y, Increment(0.0), carry, stages)
        moving = []
    else:
        h = torch.tensor([[0.0], [0.1]], **f64)
        rest = method.step(term, t, y, Increment(h), carry, stages)
        moving = [1]
    kept = [i for i in range(2) if i not in moving]
    assert torch.equal(rest.y1[kept], y[kept])
    assert torch.equal(rest.carry[1][kept], z[kept])
    assert all(bool((rest.y1[i] != y[i]).all()) for i in moving)


@pytest.mark.parametrize("base", ["rk4", "bosh3", "tsit5", "dop853"])
@pytest.mark.parametrize("batch", [1, 3])
def test_evaluations_are_those_made(base: str, batch: int, f64: KIND) -> None:
    calls = 0

    def counted(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return driven(t, y)

    y0 = torch.tensor([[1.0, 0.5]], **f64).repeat(batch, 1)
    ts = torch.tensor([0.0, 0.3, 1.0], **f64)
    fixed = [FixedSteps(0.1)]
    for controller in fixed if base == "rk4" else [*fixed, PID(1e-4, 1e-6)]:
        calls = 0
        sol = solve(
            ODETerm(counted),
            y0,
            ts,
            method=McCallumFoster(base),
            controller=controller,
        )
        # One call may look at the field before any step.
        assert calls - sol.stats.evaluations.max().item() in (0, 1)
        assert sol.stats.accepted.min() > 1


def test_adaptive_steps_end_at_reads(f64: KIND) -> None:
    y0 = torch.tensor([[1.0, 0.5], [0.2, -1.0]], **f64)
    ts = torch.tensor([[0.0, 0.31, 1.0, 2.0], [0.0, 0.7, 0.9, 1.9]], **f64)
    close = {"controller": PID(1e-8, 1e-10)}
    pair = solve(ODETerm(driven), y0, ts, method=McCallumFoster("tsit5"), **close)
    exact = solve(ODETerm(driven), y0, ts, method="dop853", **close)
    assert (pair.ys - exact.ys).abs().max() < 3e-7
    back = solve(
        ODETerm(driven), pair.final, ts.flip(1), method=McCallumFoster("tsit5"), **close
    )
    assert (back.final - y0).abs().max() < 3e-7


@pytest.mark.parametrize(("coupling", "steps"), [(0.99, 2000), (0.9, 200), (0.5, 50)])
@pytest.mark.parametrize("batch", [1, 2])
def test_adaptive_steps_keep_the_pair_together(
    coupling: float, steps: int, batch: int, f64: KIND
) -> None:
    """The estimate of the base alone let an error of 1e-6 grow to one of order 1."""
    y0, ts = torch.full((batch, 1), 3.0, **f64), torch.tensor([0.0, 20.0], **f64)
    sol = solve(
        ODETerm(relaxing),
        y0,
        ts,
        method=McCallumFoster("tsit5", coupling),
        controller=PID(1e-6, 1e-9),
    )
    assert (sol.final - 1.0).abs().max() < 1e-5
    assert sol.stats.accepted.max() < steps


def test_the_estimate_is_that_of_the_base_where_nothing_contracts(f64: KIND) -> None:
    y0, ts = torch.tensor([[1.0, 0.5]], **f64), torch.tensor([0.0, 1.0], **f64)
    ratios = [
        solve(
            ODETerm(driven), y0, ts, method=method, controller=FixedSteps(1 / 32)
        ).stats.error_estimate
        for method in ("tsit5", McCallumFoster("tsit5"))
    ]
    assert torch.allclose(*ratios, rtol=0.2)


@pytest.mark.parametrize("base", ["ralston", "rk4", "tsit5"])
@pytest.mark.parametrize("coupling", [0.99, 0.9])
def test_stability_is_where_the_pair_comes_apart(
    base: str, coupling: float, f64: KIND
) -> None:
    method = McCallumFoster(base, coupling)
    limit = method.stability
    assert limit is not None
    radii = []
    for factor in (0.95, 1.1):
        # A step on y' = -y from y = 1, z = 0 in one row, from y = 0, z = 1 in another.
        y, z = torch.eye(2, **f64).split(1, dim=1)
        term = bind(
            ODETerm(lambda t, y: -y),
            Layout(structure_of(y), False, False, False, None),
        )
        stages = method.workspace(y, graph=False)
        out = method.step(term, 0.0, y, Increment(factor * limit), (-z, z), stages)
        matrix = torch.cat([out.y1, out.carry[1]], dim=1)
        radii.append(torch.linalg.eigvals(matrix).abs().max().item())
    assert radii[0] < 1.0 < radii[1]
    assert McCallumFoster(base, 1.0).stability is None
    assert McCallumFoster(base, 0.01).stability == ODE_METHODS[base].stability


def test_given_steps_that_tear_the_pair_apart_are_told(f64: KIND) -> None:
    y0 = torch.tensor([[3.0], [1.0 + 1e-9]], **f64)
    ts = torch.tensor([0.0, 20.0], **f64)

    def solved(coupling: float, step: float) -> None:
        solve(
            ODETerm(relaxing),
            y0,
            ts,
            method=McCallumFoster("rk4", coupling),
            controller=FixedSteps(step),
        )

    message = r"'mccallum_foster\(rk4\)' differ by .*lower coupling=0.999, shorten"
    with pytest.warns(UserWarning, match=message) as found:
        solved(0.999, 0.5)
    assert len(found) == 1 and found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solved(0.5, 0.5)


def test_rows_without_steps_are_not_apart(f64: KIND) -> None:
    nan = float("nan")
    y0 = torch.tensor([[1.0, 0.5], [7.0, -9.0]], **f64)
    ts = torch.tensor([[0.0, 0.5, 1.0], [0.0, nan, nan]], **f64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for controller in (FixedSteps(0.1), PID(1e-3, 1e-6)):
            sol = solve(
                ODETerm(driven),
                y0,
                ts,
                method=McCallumFoster("tsit5"),
                controller=controller,
            )
            assert torch.equal(sol.final[1], y0[1])


def test_explain_names_the_pair_held_at_its_limit(f64: KIND) -> None:
    sol = solve(
        ODETerm(relaxing),
        torch.full((1, 1), 3.0, **f64),
        torch.tensor([0.0, 20.0], **f64),
        method=McCallumFoster("tsit5", 0.9),
        controller=PID(1e-4, 1e-6),
    )
    (finding,) = sol.explain().findings
    assert finding.cause == "stiffness" and finding.share > 0.8
    assert finding.advice.startswith("a coupling below 0.9, or method 'tsit5'")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "tsit"}, r"base must name .* got 'tsit'; did you mean 'tsit5'\?"),
        ({"base": "leapfrog"}, r"base must name an explicit Runge-Kutta .*'leapfrog'"),
        ({"base": None}, r"base must name .* got None \(methods: "),
        ({"coupling": 0.0}, r"coupling must be a number above 0 .* got 0.0"),
        ({"coupling": 1.5}, r"coupling must be .* at most 1 .* got 1.5"),
        ({"coupling": float("nan")}, r"coupling must be .* got nan"),
        ({"coupling": True}, r"coupling must be a number .* got True"),
        ({"coupling": "0.9"}, r"coupling must be a number .* got '0.9'"),
    ],
)
def test_refused_pairs(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        McCallumFoster(**options)  # type: ignore[arg-type]


REFUSED = {
    "a jump": (
        {"controller": FixedSteps(0.1, jump_t=(0.5,)), "adjoint": Reversible()},
        r"'mccallum_foster\(tsit5\)' calls f at both ends .*jump_t, or step_t",
    ),
    "an event": (
        {"events": [Event(lambda t, y: y[:, 0])]},
        r"interpolants, and method 'mccallum_foster\(tsit5\)' has none; use method "
        r"'tsit5' with adjoint=Recompute\(\)",
    ),
    "dense": ({"dense": True}, r"dense=True .*'mccallum_foster\(tsit5\)' has no way"),
    "no estimate": (
        {"method": McCallumFoster("rk4")},
        r"McCallumFoster\('rk4'\) has no error estimate .* or a base of .*tsit5",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_options(case: str, f64: KIND) -> None:
    options, message = REFUSED[case]

    def never(t: Tensor, y: Tensor) -> Tensor:
        raise AssertionError("work had begun")

    options = {"method": McCallumFoster("tsit5"), **options}
    ts = torch.tensor([0.0, 1.0], **f64)
    with pytest.raises(ValueError, match=message):
        solve(ODETerm(never), torch.ones(2, 2, **f64), ts, **options)


def test_not_for_sdes(f64: KIND) -> None:
    term = SDETerm(driven, driven, interpretation="stratonovich")
    ts = torch.tensor([0.0, 1.0], **f64)
    with pytest.raises(
        ValueError, match=r"method McCallumFoster.* not known for an SDE"
    ):
        solve(term, torch.ones(2, 2, **f64), ts, method=McCallumFoster("tsit5"))


@pytest.mark.parametrize("coupling", [1.0, 0.999])
def test_pairs_that_short_steps_hold_together_say_why(
    coupling: float, f64: KIND
) -> None:
    message = rf"max_steps.*apart: lower coupling={coupling:g}, use method 'tsit5' with"
    with pytest.raises(SolveError, match=message):
        solve(
            ODETerm(relaxing),
            torch.full((1, 1), 3.0, **f64),
            torch.tensor([0.0, 30.0], **f64),
            method=McCallumFoster("tsit5", coupling),
            controller=PID(1e-6, 1e-9),
            max_steps=1000,
        )
