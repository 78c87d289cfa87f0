"""ODE solves that go wrong on their way, one entry for each case of the catalogue.

`test_reliability_inputs.py` has those that are refused before. O57, O61, O62, O72 and
O79 stand in its table, O71 and O73 in `test_states.py`.
"""

from collections.abc import Callable

import pytest
import torch
from fields import after_half, decay, ones, times
from problems import KIND
from torch import Tensor

from nde.solvers import (
    PID,
    Event,
    FixedSteps,
    ODETerm,
    SolveError,
    Status,
    solve,
)

NAN, INF = float("nan"), float("inf")
FIELD, STATE = Status.NON_FINITE_FIELD, Status.NON_FINITE_STATE
UNDERFLOW = Status.STEP_UNDERFLOW
Options = dict[str, object]
# No method sees a pole between its stages: about one tolerance in seven steps over it,
# under any controller. This one does not.
TIGHT = PID(rtol=1e-6, atol=1e-9)
MODES: dict[str, Options] = {
    "tsit5": {"method": "tsit5"},
    "tsit5-shared": {"method": "tsit5", "batch": "shared"},
    "tight": {"method": "tsit5", "controller": TIGHT},
    "tight-shared": {"method": "tsit5", "batch": "shared", "controller": TIGHT},
    "rk4": {"method": "rk4", "controller": FixedSteps(0.05)},
    "euler-shared": {
        "method": "euler",
        "controller": FixedSteps(0.05),
        "batch": "shared",
    },
}
ADAPTIVE, FIXED = ("tsit5", "tsit5-shared"), ("rk4", "euler-shared")
EVERY = ADAPTIVE + FIXED
POLES = ("tight", "tight-shared", *FIXED)


def column(t: Tensor) -> Tensor:
    """Times as the last axis of a state `(4, 2)` takes them."""
    return t.reshape(-1, 1).expand(t.numel(), 2)


def pole(t: Tensor, y: Tensor) -> Tensor:
    return (1.0 / (1.0 - column(t))).expand(4, 2)


def stiff(t: Tensor, y: Tensor) -> Tensor:
    return -1e8 * (y - column(t).cos())


# Name, field, end of the interval, modes, statuses, where it stops, what is said.
FAILING = [
    ("O44-nan", lambda t, y: y * NAN, 1, EVERY, {FIELD}, (0, 0), "field was not"),
    ("O45-nan-later", after_half(NAN), 1, ADAPTIVE, {FIELD}, (0.49, 0.51), "field was"),
    ("O46-fixed", after_half(NAN), 1, FIXED, {FIELD}, (0.44, 0.51), "field was"),
    ("O47-inf-later", after_half(INF), 1, ADAPTIVE, {FIELD}, (0.49, 0.51), "field was"),
    ("O47-fixed", after_half(INF), 1, FIXED, {FIELD}, (0.44, 0.51), "field was"),
    ("O49-blow-up", lambda t, y: y**2, 2, ADAPTIVE, {UNDERFLOW}, (0.99, 1.01), "blow"),
    ("O49-growth", lambda t, y: 1e3 * y, 5, ADAPTIVE, {STATE}, (0.6, 0.72), "grew"),
    ("O50-fixed", lambda t, y: y**3, 5, FIXED, {STATE}, (0.4, 1), "grew beyond"),
    ("O51-stiff", stiff, 1, ADAPTIVE, {Status.MAX_STEPS}, (0, 0.01), "may be stiff"),
    ("O52-stiff-fixed", stiff, 9, FIXED, {STATE}, (0.1, 3), "too long for a stiff"),
    (
        "O53-pole",
        pole,
        2,
        POLES,
        {FIELD, UNDERFLOW},
        (0.85, 1.01),
        "field|blow up",
    ),
]


@pytest.mark.parametrize(
    ("field", "end", "options", "statuses", "where", "words"),
    [
        pytest.param(field, end, MODES[mode], *rest, id=f"{name}-{mode}")
        for name, field, end, modes, *rest in FAILING
        for mode in modes
    ],
)
def test_failing(
    field: Callable[[Tensor, Tensor], Tensor],
    end: float,
    options: Options,
    statuses: set[Status],
    where: tuple[float, float],
    words: str,
    f64: KIND,
) -> None:
    """One error that names samples, time, size, step, cause and fix."""
    y0, ts = ones(**f64), times(0, end, **f64)
    options = {"max_steps": 1000, **options}
    with pytest.raises(SolveError, match=words) as caught:
        solve(ODETerm(field), y0, ts, **options)
    error = caught.value
    assert error.status in statuses
    assert error.samples == (0, 1, 2, 3) and error.evaluations[0] > 0
    assert where[0] <= error.times[0] <= where[1]
    text = str(error)
    for word in ("samples 0, 1", f"t={error.times[0]:.6g}", "|y|=", "step", "because"):
        assert word in text
    sol = solve(ODETerm(field), y0, ts, throw=False, **options)
    assert sol.status.tolist() == [int(error.status)] * 4
    assert torch.isfinite(sol.final).all() and sol.ys[:, 1].isnan().all()


def test_step_limits_are_an_error_of_their_own(f64: KIND) -> None:
    """O54: with the time, the steps and the evaluations so far."""
    with pytest.raises(SolveError, match="max_steps was reached") as caught:
        solve(ODETerm(decay), ones(**f64), times(0, 1e3, **f64), max_steps=5)
    assert caught.value.status == Status.MAX_STEPS
    assert 0 < caught.value.times[0] < 1e3
    assert caught.value.evaluations[0] == 2 + 6 * 5


def test_a_small_step_limit_does_not_hide_nan(f64: KIND) -> None:
    """O44: NaN from the start is no question of steps."""
    with pytest.raises(SolveError, match="field was not finite") as caught:
        solve(
            ODETerm(lambda t, y: y * NAN), ones(**f64), times(0, 1, **f64), max_steps=3
        )
    assert caught.value.status == FIELD


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_values_near_the_largest(
    options: Options, dtype: torch.dtype, device: torch.device
) -> None:
    """O68: right; or where the sums of a step overflow, said to be too large."""
    ts = torch.tensor([0.0, 1.0], device=device)
    most = torch.finfo(dtype).max
    for share, held in ((0.03, True), (0.3, False)):
        y0 = torch.full((4, 2), share * most, dtype=dtype, device=device)
        try:
            final = solve(ODETerm(decay), y0, ts, **options).final
        except SolveError as error:
            assert not held and error.status == STATE
            assert "smaller units" in str(error)
        else:
            torch.testing.assert_close(final, y0 / torch.e, rtol=5e-2, atol=0)


@pytest.mark.parametrize("atol", [1e-6, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_subnormal_values(
    batch: str, dtype: torch.dtype, atol: float, device: torch.device
) -> None:
    """O69."""
    y0 = torch.full((4, 2), 1e-3, dtype=dtype, device=device)
    y0 = y0 * torch.finfo(dtype).tiny
    ts = torch.tensor([0.0, 1.0], device=device)
    final = solve(ODETerm(decay), y0, ts, controller=PID(atol=atol), batch=batch).final
    torch.testing.assert_close(final, y0 / torch.e, rtol=2e-2, atol=0)


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_float32_time_far_from_zero(batch: str, device: torch.device) -> None:
    """O70: right where the field does not read t, and a warning in case it does."""
    y0 = torch.ones(4, 2, device=device)
    ts = torch.tensor([1e8, 1e8 + 16], device=device)
    with pytest.warns(UserWarning, match="sees t in the dtype of y0.*1e.08.*float64"):
        final = solve(ODETerm(lambda t, y: -y / 16), y0, ts, batch=batch).final
    torch.testing.assert_close(final, y0 / torch.e, rtol=1e-2, atol=0)
    ts = torch.tensor([1e8, 1e8 + 16], dtype=torch.float64, device=device)
    final = solve(
        ODETerm(lambda t, y: (column(t) - 1e8).cos().expand(4, 2)),
        y0.double(),
        ts,
        batch=batch,
    ).final
    torch.testing.assert_close(
        final - 1, final * 0 + ts.diff().sin(), atol=2e-2, rtol=0
    )


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_complex_states(batch: str, device: torch.device) -> None:
    """O67: y' = i y."""
    y0 = torch.ones(4, 2, dtype=torch.complex128, device=device)
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64, device=device)
    options = {"controller": PID(1e-8, 1e-8), "batch": batch}
    final = solve(ODETerm(lambda t, y: 1j * y), y0, ts, **options).final
    want = torch.exp(torch.tensor(1j, dtype=torch.complex128)).item()
    assert (final - want).abs().max() < 1e-6


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_chattering_ends(options: Options, f64: KIND) -> None:
    """O81: y' = -sign(y) through zero; right as far as the steps go."""
    field = ODETerm(lambda t, y: -y.sign())
    sol = solve(field, ones(**f64), times(0, 2, **f64), throw=False, **options)
    assert (sol.final.abs() < 1e-3).all()
    assert set(sol.status.tolist()) <= {Status.SUCCESS, Status.MAX_STEPS, UNDERFLOW}


def crossing(level: float) -> Event:
    return Event(lambda t, y: y[:, 0] - level)


@pytest.mark.parametrize("controller", [PID(), FixedSteps(0.1)], ids=["pid", "fixed"])
def test_events_that_do_not_happen(controller: object, f64: KIND) -> None:
    """O75: the end of ts bounds the solve. O77: what holds at t0 does not happen."""
    y0, ts = ones(**f64), times(0, 1, **f64)
    for level in (-1.0, 1.0):
        sol = solve(
            ODETerm(decay), y0, ts, events=[crossing(level)], controller=controller
        )
        assert not sol.status.any() and not sol.events.count.any()
        torch.testing.assert_close(sol.final, y0 / torch.e, rtol=1e-2, atol=0)


def test_event_conditions_that_are_nan(f64: KIND) -> None:
    """O76: an error with the time."""
    late = Event(lambda t, y: torch.where(t > 0.5, NAN, 1.0) + 0.0 * y[:, 0])
    with pytest.raises(
        SolveError, match=r"condition of event 0 \(<lambda>\)"
    ) as caught:
        solve(ODETerm(decay), ones(**f64), times(0, 1, **f64), events=[late])
    assert caught.value.status == Status.NON_FINITE_EVENT
    assert caught.value.times[0] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_what_was_reached_is_returned(options: Options, f64: KIND) -> None:
    """O82: with throw=False, and its gradients are finite."""
    weight = torch.ones((), requires_grad=True, **f64)
    field, ts = after_half(NAN), times(0, 0.25, 0.4, 1, **f64)
    sol = solve(
        ODETerm(lambda t, y: weight * field(t, y)),
        ones(**f64),
        ts,
        throw=False,
        **options,
    )
    assert (sol.status == FIELD).all()
    want = torch.exp(-ts[:3]).expand(4, 3)
    torch.testing.assert_close(sol.ys[:, :3, 0], want, rtol=2e-2, atol=1e-3)
    assert sol.ys[:, 3].isnan().all()
    (gradient,) = torch.autograd.grad(sol.ys[:, 1].sum(), weight)
    slope = -0.25 * torch.exp(ts[1].neg()) * 8
    torch.testing.assert_close(gradient, slope, rtol=5e-2, atol=0)


def test_a_fast_start_of_a_long_interval(f64: KIND) -> None:
    """Near t = 0, steps may be far below the resolution of the end."""
    rate = torch.tensor([[1e9], [1.0], [1e3]], **f64)
    y0, ts = torch.zeros(3, 1, **f64), torch.tensor([0.0, 1e6], **f64)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return rate * torch.exp(-rate * t.reshape(-1, 1))

    controller = PID(rtol=1e-6, atol=1e-6)
    sol = solve(ODETerm(field), y0, ts, controller=controller)
    torch.testing.assert_close(sol.final, torch.ones_like(y0), rtol=0, atol=1e-5)
    alone = solve(
        ODETerm(lambda t, y: 1e9 * torch.exp(-1e9 * t[:, None])),
        y0[:1],
        ts,
        controller=controller,
    )
    torch.testing.assert_close(alone.final, torch.ones_like(y0[:1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("border", [0.5, 0.55, 0.61])
def test_every_sample_is_told_its_own_cause(border: float, f64: KIND) -> None:
    """Also where its last attempt was good, after one that was not."""
    y0 = torch.tensor([[1.0], [0.1], [2.0]], **f64)
    sol = solve(
        ODETerm(lambda t, y: torch.where(t[:, None] > border, NAN, 1.0) * y),
        y0,
        torch.tensor([0.0, 2.0], **f64),
        throw=False,
    )
    assert sol.status.tolist() == [FIELD] * 3


def test_a_method_that_magnifies_rounding_warns_earlier() -> None:
    y0, ts = torch.ones(2, 1), torch.tensor([0.0, 10.0])
    asked = {"controller": PID(rtol=1e-5, atol=1e-5)}
    term = ODETerm(lambda t, y: t[:, None].cos() * y)
    solve(term, y0, ts, method="tsit5", **asked)
    with pytest.warns(UserWarning, match=r"rtol=9\.9e-05 is used"):
        sol = solve(term, y0, ts, method="vern6", **asked)
    assert sol.explain().findings[0].cause == "rounding"
