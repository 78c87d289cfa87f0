"""Events that end a sample: when they happen, which one, and when none does."""

import math

import pytest
import torch
from problems import KIND, OSCILLATOR
from torch import Tensor

from nde.solvers import (
    PID,
    Event,
    FixedSteps,
    ODETerm,
    SolveError,
    Status,
    StepTo,
    solve,
)

TIGHT = PID(rtol=1e-10, atol=1e-12)
GRID = torch.linspace(0.0, 10.0, 301, dtype=torch.float64)
CONTROLLERS = {"pid": TIGHT, "fixed": FixedSteps(0.02), "to": StepTo(GRID)}
CONTROLLED = pytest.mark.parametrize(
    "controller", CONTROLLERS.values(), ids=CONTROLLERS
)
BATCHES = pytest.mark.parametrize("batch", [1, 3])

OSCILLATE = ODETerm(OSCILLATOR.field)


def grow(t: Tensor, y: Tensor) -> Tensor:
    return torch.ones_like(y)


def first(t: Tensor, y: Tensor) -> Tensor:
    return y[:, 0]


def oscillating(count: int, **kind: torch.dtype | torch.device) -> Tensor:
    """States at the angles 0, 0.3, ... of the unit circle: zero at pi / 2 + angle."""
    angle = 0.3 * torch.arange(count, **kind)
    return torch.stack((angle.cos(), angle.sin()), -1)


def span(end: float, **kind: torch.dtype | torch.device) -> Tensor:
    return torch.tensor([0.0, end], **kind)


def close(found: Tensor, wanted: list[float] | Tensor, atol: float = 1e-8) -> None:
    wanted = torch.as_tensor(wanted, dtype=found.dtype, device=found.device)
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


@BATCHES
@CONTROLLED
def test_zero_crossing_of_each_sample(
    controller: object, batch: int, f64: KIND
) -> None:
    y0 = oscillating(batch, **f64)
    sol = solve(
        OSCILLATE, y0, span(9.0, **f64), controller=controller, events=[Event(first)]
    )
    times = [math.pi / 2 + 0.3 * i for i in range(batch)]
    assert sol.events is not None
    close(sol.events.time[:, 0], times)
    assert sol.events.time.shape == (batch, 1)
    assert sol.events.index.tolist() == [[0]] * batch
    assert sol.events.count.tolist() == [1] * batch
    assert sol.status.tolist() == [Status.EVENT] * batch
    close(sol.final, [[0.0, -1.0]] * batch)
    assert torch.isnan(sol.ys[:, 1]).all() and torch.equal(sol.ys[:, 0], y0)


@CONTROLLED
def test_a_shared_batch_ends_together(controller: object, f64: KIND) -> None:
    y0 = oscillating(3, **f64).flip(0)
    sol = solve(
        OSCILLATE,
        y0,
        span(9.0, **f64),
        controller=controller,
        events=[Event(first)],
        batch="shared",
    )
    close(sol.events.time, [[math.pi / 2]] * 3)
    close(sol.final[:, 0], [math.sin(0.6), math.sin(0.3), 0.0])
    assert sol.status.tolist() == [Status.EVENT] * 3


@CONTROLLED
def test_the_first_of_several_events_wins(controller: object, f64: KIND) -> None:
    events = [
        Event(lambda t, y: y[:, 0] - 2.0),
        Event(lambda t, y: 1.5 - t.expand(y.shape[0])),
        Event(lambda t, y: y[:, 0] - 3.0),
    ]
    y0 = torch.tensor([[1.0], [0.0], [-9.0]], **f64)
    sol = solve(
        ODETerm(grow), y0, span(3.0, **f64), controller=controller, events=events
    )
    close(sol.events.time[:, 0], [1.0, 1.5, 1.5])
    assert sol.events.index.tolist() == [[0], [1], [1]]


def test_of_equal_events_the_first_in_the_list_happens(f64: KIND) -> None:
    events = [Event(lambda t, y: y[:, 0] - 1.0), Event(lambda t, y: y[:, 0] - 1.0)]
    sol = solve(
        ODETerm(grow), torch.zeros(2, 1, **f64), span(3.0, **f64), events=events
    )
    assert sol.events.index.tolist() == [[0], [0]]


@CONTROLLED
@pytest.mark.parametrize(
    ("direction", "angles"), [(0, 0.5), (-1, 0.5), (1, 1.5)], ids=["both", "down", "up"]
)
def test_direction(
    controller: object, direction: int, angles: float, f64: KIND
) -> None:
    sol = solve(
        OSCILLATE,
        oscillating(2, **f64),
        span(9.0, **f64),
        controller=controller,
        events=[Event(first, direction=direction)],
    )
    close(sol.events.time[:, 0], [angles * math.pi, angles * math.pi + 0.3])


@CONTROLLED
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_zero_where_the_solve_begins_does_not_fire(
    controller: object, sign: float, f64: KIND
) -> None:
    y0 = torch.tensor([[0.0, sign]], **f64)
    sol = solve(
        OSCILLATE, y0, span(5.0, **f64), controller=controller, events=[Event(first)]
    )
    close(sol.events.time, [[math.pi]])


def test_zero_at_the_start_and_again_within_the_first_step(f64: KIND) -> None:
    """A stone thrown up: an exact method crosses its whole flight in one step."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack((y[:, 1], torch.full_like(y[:, 1], -2.0)), -1)

    sol = solve(
        ODETerm(field),
        torch.tensor([[0.0, 1.0], [0.0, 2.0]], **f64),
        span(5.0, **f64),
        controller=PID(first_step=5.0),
        events=[Event(first)],
    )
    close(sol.events.time, [[1.0], [2.0]], atol=1e-10)


@CONTROLLED
def test_decreasing_times(controller: object, f64: KIND) -> None:
    """Directions are those in which the solve proceeds."""
    if isinstance(controller, StepTo):
        controller = StepTo(GRID - 9.0)
    for direction in (0, 1):
        sol = solve(
            OSCILLATE,
            oscillating(2, **f64),
            torch.tensor([0.0, -9.0], **f64),
            controller=controller,
            events=[Event(first, direction=direction)],
        )
        angle = (-1.5 if direction else -0.5) * math.pi
        close(sol.events.time, [[angle], [angle + 0.3]])


@CONTROLLED
def test_dict_states_and_args(controller: object, f64: KIND) -> None:
    def field(t: Tensor, y: dict[str, Tensor], args: dict[str, Tensor]) -> dict:
        return {"x": y["v"], "v": -args["k"] * y["x"]}

    def condition(t: Tensor, y: dict[str, Tensor], args: dict[str, Tensor]) -> Tensor:
        return (y["x"] - args["level"])[:, 0]

    y0 = {"x": torch.ones(2, 1, **f64), "v": torch.zeros(2, 1, **f64)}
    args = {"k": torch.tensor(4.0, **f64), "level": torch.tensor(0.5, **f64)}
    sol = solve(
        ODETerm(field),
        y0,
        span(9.0, **f64),
        controller=controller,
        args=args,
        events=[Event(condition)],
    )
    close(sol.events.time, [[math.pi / 6]] * 2, atol=1e-7)
    close(sol.final["x"], [[0.5]] * 2, atol=1e-7)


@pytest.mark.parametrize("method", ["tsit5", "bosh3", "vern7", "dop853", "rk4"])
@pytest.mark.parametrize("samples", [0, 3])
def test_float32_and_every_kind_of_interpolant(
    method: str, samples: int, device: torch.device
) -> None:
    kind = {"dtype": torch.float32, "device": device}
    dtypes = set()

    def condition(t: Tensor, y: Tensor) -> Tensor:
        dtypes.update({t.dtype, y.dtype})
        return y[:, 0]

    sol = solve(
        OSCILLATE,
        oscillating(2, **kind),
        span(9.0, **kind),
        method=method,
        controller=FixedSteps(0.05) if method == "rk4" else PID(1e-5, 1e-6),
        events=[Event(condition, samples=samples)],
        dense=True,
    )
    close(sol.events.time[:, 0], [math.pi / 2, math.pi / 2 + 0.3], atol=1e-4)
    assert dtypes == {torch.float32}
    assert sol.events.time.dtype == torch.float64
    assert sol.final.dtype == torch.float32


@CONTROLLED
@pytest.mark.parametrize("batch", [1, 2])
def test_two_changes_within_one_step(controller: object, batch: int, f64: KIND) -> None:
    """Positive only for t in (0.61, 0.67), which the ends of long steps do not see."""
    if isinstance(controller, PID):
        controller = PID(first_step=0.5)
    else:
        controller = FixedSteps(0.5)

    def condition(t: Tensor, y: Tensor) -> Tensor:
        return (y[:, 0] - 0.61) * (0.67 - y[:, 0])

    y0 = torch.zeros(batch, 1, **f64)
    for samples, count in ((0, 0), (15, 1)):
        sol = solve(
            ODETerm(grow),
            y0,
            span(1.0, **f64),
            controller=controller,
            events=[Event(condition, samples=samples)],
        )
        assert sol.events.count.tolist() == [count] * batch
    close(sol.events.time, [[0.61]] * batch)


@CONTROLLED
@pytest.mark.parametrize("end", [1.0, 0.7, 2.9])
@pytest.mark.parametrize("batch", [1, 2])
def test_exactly_at_the_end(
    controller: object, end: float, batch: int, f64: KIND
) -> None:
    sol = solve(
        ODETerm(grow),
        torch.zeros(batch, 1, **f64),
        span(end, **f64),
        controller=controller,
        events=[Event(lambda t, y: t.expand(y.shape[0]) - end)],
    )
    assert sol.status.tolist() == [Status.EVENT] * batch
    close(sol.events.time, [[end]] * batch, atol=1e-15)
    close(sol.ys[:, -1], [[end]] * batch, atol=1e-12)


@CONTROLLED
def test_an_event_that_never_happens(controller: object, f64: KIND) -> None:
    events = [Event(lambda t, y: y[:, 0] + 1.0)]
    y0 = torch.zeros(2, 1, **f64)
    sol = solve(
        ODETerm(grow), y0, span(2.0, **f64), controller=controller, events=events
    )
    assert sol.status.tolist() == [Status.SUCCESS] * 2
    assert torch.isnan(sol.events.time).all() and sol.events.count.tolist() == [0, 0]
    assert sol.events.index.tolist() == [[-1], [-1]]
    close(sol.ys[:, -1], [[2.0]] * 2, atol=1e-12)
    assert torch.equal(sol.final, sol.ys[:, -1])


def log_of(t: Tensor, y: Tensor) -> Tensor:
    """No number beyond y = 1, and never zero before."""
    return (1.0 - y[:, 0]).sqrt() + 1.0


@CONTROLLED
@pytest.mark.parametrize("batch", [1, 3])
def test_a_condition_that_is_no_number(
    controller: object, batch: int, f64: KIND
) -> None:
    y0 = torch.tensor([[0.0], [-1.0], [-9.0]], **f64)[:batch]
    far = Event(lambda t, y: y[:, 0] - 99.0)
    arguments = {"controller": controller, "events": [far, Event(log_of)]}
    message = r"the condition of event 1 \(log_of\) was not finite"
    with pytest.raises(SolveError, match=message) as caught:
        solve(ODETerm(grow), y0, span(3.0, **f64), **arguments)
    assert caught.value.status == Status.NON_FINITE_EVENT
    assert caught.value.samples == (0, 1)[:batch]
    sol = solve(ODETerm(grow), y0, span(3.0, **f64), throw=False, **arguments)
    bad = Status.NON_FINITE_EVENT
    assert sol.status.tolist() == [bad, bad, Status.SUCCESS][:batch]
    close(sol.final[:2, 0], [1.0, 1.0][:batch])
    assert (sol.events.count == 0).all() and torch.isnan(sol.events.time).all()


def test_the_condition_that_is_no_number_is_named_in_later_runs(f64: KIND) -> None:
    """After a reset, and where the batch has one time and an event each sample."""
    y0, ts = torch.tensor([[0.0], [-0.5]], **f64), span(3.0, **f64)
    back = Event(lambda t, y: y[:, 0] - 0.5, reset=lambda t, y: y + 0.1)
    message = r"sample 0 .* the condition of event 1 \(log_of\) was not finite"
    with pytest.raises(SolveError, match=message):
        solve(ODETerm(grow), y0, ts, events=[back, Event(log_of)])
    far = Event(lambda t, y: y[:, 0] - 99.0)
    with pytest.raises(SolveError, match=r"event 1 \(log_of\) was not finite"):
        solve(ODETerm(grow), y0, ts, events=[far, Event(log_of)], batch="shared")


def test_a_root_before_the_condition_stops_being_a_number(f64: KIND) -> None:
    def condition(t: Tensor, y: Tensor) -> Tensor:
        return (1.0 - y[:, 0]).log() + 1.0

    sol = solve(
        ODETerm(grow),
        torch.zeros(1, 1, **f64),
        span(3.0, **f64),
        controller=FixedSteps(3.0),
        events=[Event(condition)],
    )
    close(sol.events.time, [[1.0 - math.exp(-1.0)]], atol=1e-10)


@pytest.mark.parametrize(
    "condition",
    [
        lambda t, y: y,
        lambda t, y: y[0, 0],
        lambda t, y: 1.0,
        lambda t, y: y[:, 0] > 0.5,
        lambda t, y: None,
    ],
)
def test_what_a_condition_must_return(condition: object, f64: KIND) -> None:
    events = [Event(first), Event(condition)]
    with pytest.raises(ValueError, match=r"event 1 returned .* shape \(2,\)"):
        solve(ODETerm(grow), torch.ones(2, 1, **f64), span(1.0, **f64), events=events)
