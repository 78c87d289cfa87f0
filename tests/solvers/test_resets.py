"""Events from which a sample goes on with another state."""

import pytest
import torch
from problems import KIND
from torch import Tensor

from nde.solvers import (
    PID,
    Event,
    FixedSteps,
    ODETerm,
    Solution,
    SolveError,
    Status,
    StepTo,
    solve,
)

TIGHT = PID(rtol=1e-9, atol=1e-11)
GRID = torch.linspace(0.0, 10.0, 101, dtype=torch.float64)
CONTROLLERS = {"pid": TIGHT, "fixed": FixedSteps(0.1), "to": StepTo(GRID)}
CONTROLLED = pytest.mark.parametrize(
    "controller", CONTROLLERS.values(), ids=CONTROLLERS
)

# A ball on the ground falls back after its velocity: x'' = -2.
KEEPS = 0.5


def falling(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack((y[:, 1], torch.full_like(y[:, 1], -2.0)), -1)


def height(t: Tensor, y: Tensor) -> Tensor:
    return y[:, 0]


def bounce(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack((torch.zeros_like(y[:, 0]), -KEEPS * y[:, 1]), -1)


def flip(t: Tensor, y: Tensor) -> Tensor:
    """As `bounce`, keeping what is left of the height."""
    return torch.stack((y[:, 0], -KEEPS * y[:, 1]), -1)


BALL, BOUNCE = ODETerm(falling), Event(height, direction=-1, reset=bounce)


def dropped(heights: list[float], **kind: torch.dtype | torch.device) -> Tensor:
    x = torch.tensor(heights, **kind)
    return torch.stack((x, torch.zeros_like(x)), -1)


def bounces(x: float, count: int) -> list[float]:
    """When a ball dropped from x = v^2 / 4 hits the ground."""
    v = 2.0 * x**0.5
    times = [v / 2.0]
    for _ in range(count - 1):
        v *= KEEPS
        times.append(times[-1] + v)
    return times


def ball_at(t: float, x: float) -> list[float]:
    """Height and velocity of a ball dropped from x; just before, at a bounce."""
    hits = [0.0, *bounces(x, 40)]
    number = max(i for i, hit in enumerate(hits) if hit < t or i == 0)
    if number == 0:
        return [x - t * t, -2.0 * t]
    v, s = 2.0 * x**0.5 * KEEPS**number, t - hits[number]
    return [v * s - s * s, v - 2.0 * s]


def dropping(
    heights: list[float],
    end: float,
    f64: KIND,
    event: Event = BOUNCE,
    **options: object,
) -> Solution:
    ts = torch.tensor([0.0, end], **f64)
    options = {"controller": TIGHT} | options
    return solve(BALL, dropped(heights, **f64), ts, events=[event], **options)


def close(found: Tensor, wanted: object, atol: float = 1e-8) -> None:
    wanted = torch.as_tensor(wanted, dtype=found.dtype, device=found.device)
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol, equal_nan=True)


@CONTROLLED
@pytest.mark.parametrize("reset", [bounce, flip])
def test_each_ball_bounces_as_often_as_it_does(
    controller: object, reset: object, f64: KIND
) -> None:
    event = Event(height, direction=-1, reset=reset)
    sol = dropping([1.0, 2.25, 9.0], 2.6, f64, event, controller=controller)
    nan = float("nan")
    assert sol.events.count.tolist() == [3, 1, 0]
    assert sol.status.tolist() == [Status.SUCCESS] * 3
    close(sol.events.time, [bounces(1.0, 3), [1.5, nan, nan], [nan] * 3])
    assert sol.events.index.tolist() == [[0, 0, 0], [0, -1, -1], [-1, -1, -1]]
    close(sol.final, [ball_at(2.6, x) for x in (1.0, 2.25, 9.0)], atol=1e-7)
    assert torch.equal(sol.final, sol.ys[:, -1])


@CONTROLLED
def test_one_sample_and_a_shared_batch(controller: object, f64: KIND) -> None:
    for batch in ("per_sample", "shared"):
        sol = dropping([1.0], 2.4, f64, controller=controller, batch=batch)
        close(sol.events.time[:, :2], [bounces(1.0, 2)])
        close(sol.final, [ball_at(2.4, 1.0)], atol=1e-7)
    # Samples that share their time cannot be reset one by one.
    with pytest.raises(ValueError, match="reset them all; use batch='per_sample'"):
        dropping([1.0, 4.0], 1.5, f64, controller=controller, batch="shared")


@CONTROLLED
@pytest.mark.parametrize("batch", [1, 2])
def test_values_before_and_after_resets(
    controller: object, batch: int, f64: KIND
) -> None:
    starts = [1.0, 2.25][:batch]
    ts = torch.linspace(0.0, 2.4, 8, **f64)
    at = torch.tensor([0.0, 0.49, 1.01, 1.49, 1.51, 1.9, 2.05, 2.4], **f64)
    sol = solve(
        BALL,
        dropped(starts, **f64),
        ts,
        controller=controller,
        events=[BOUNCE],
        dense=True,
        probe_times=at,
    )
    wanted = torch.tensor([[ball_at(t, x) for t in at.tolist()] for x in starts], **f64)
    close(sol.ys, [[ball_at(t, x) for t in ts.tolist()] for x in starts], 1e-7)
    close(sol.evaluate(at), wanted, 1e-7)
    close(sol.probes, wanted, 1e-7)
    slope = torch.stack((wanted[..., 1], torch.full_like(wanted[..., 1], -2.0)), -1)
    close(sol.derivative(at), slope, 1e-6)
    hits = sol.events.time[:, :1]
    around = sol.evaluate(torch.cat([hits, hits + 1e-9], 1))
    v = 2.0 * torch.tensor(starts, **f64).sqrt()
    close(around[:, :, 1], torch.stack((-v, KEEPS * v), 1), 1e-7)


@pytest.mark.parametrize("batch", [1, 2])
@CONTROLLED
def test_resets_in_which_no_event_happens(
    controller: object, batch: int, f64: KIND
) -> None:
    ts = torch.tensor([0.0, 0.3, 0.5], **f64)
    y0 = dropped([1.0, 2.0][:batch], **f64)
    plain = solve(
        BALL,
        y0,
        ts,
        controller=controller,
        events=[Event(height)],
    )
    sol = solve(BALL, y0, ts, controller=controller, events=[BOUNCE])
    assert torch.equal(sol.ys, plain.ys) and sol.ys.shape[1] == 3
    assert sol.events.count.tolist() == [0] * batch


@CONTROLLED
def test_others_are_not_touched(controller: object, f64: KIND) -> None:
    """Bit for bit: sample 1 bounces, the others fly."""
    ts = torch.linspace(0.0, 2.0, 6, **f64)
    y0 = dropped([6.0, 0.7, 7.0], **f64)
    free = solve(
        BALL, y0, ts, controller=controller, events=[Event(lambda t, y: y[:, 0] + 99)]
    )
    sol = solve(BALL, y0, ts, controller=controller, events=[BOUNCE])
    assert sol.events.count.tolist()[0::2] == [0, 0] and sol.events.count[1] == 2
    for found, wanted in ((sol.ys, free.ys), (sol.final, free.final)):
        assert torch.equal(found[0::2], wanted[0::2])
    for name in ("accepted", "rejected", "evaluations"):
        found, wanted = getattr(sol.stats, name), getattr(free.stats, name)
        assert found[0::2].tolist() == wanted[0::2].tolist()


@CONTROLLED
def test_a_terminal_event_beside_a_reset(controller: object, f64: KIND) -> None:
    def slow(t: Tensor, y: Tensor) -> Tensor:
        return 2.3 - t.expand(y.shape[0])

    sol = solve(
        BALL,
        dropped([1.0, 9.0], **f64),
        torch.tensor([0.0, 4.0], **f64),
        controller=controller,
        events=[Event(slow), BOUNCE],
    )
    assert sol.status.tolist() == [Status.EVENT] * 2
    assert sol.events.index[0].tolist() == [1, 1, 0]
    assert sol.events.index[1].tolist() == [0, -1, -1]
    close(sol.events.time[0], [1.0, 2.0, 2.3])
    assert torch.isnan(sol.ys[:, -1]).all()
    close(sol.final, [ball_at(2.3, 1.0), ball_at(2.3, 9.0)], atol=1e-7)


@pytest.mark.parametrize("batch", [1, 2])
@CONTROLLED
@pytest.mark.parametrize("reset", [bounce, flip])
def test_events_that_accumulate(
    controller: object, batch: int, reset: object, f64: KIND
) -> None:
    """A ball dropped from 1 comes to rest at t = 3 after ever more bounces."""
    event = Event(height, direction=-1, reset=reset)
    starts = [1.0, 99.0][:batch]
    options = {"controller": controller, "max_events": 25}
    sol = dropping(starts, 5.0, f64, event, throw=False, **options)
    assert sol.status.tolist() == [Status.MAX_EVENTS, Status.SUCCESS][:batch]
    close(sol.events.time[0, :20], bounces(1.0, 20), atol=1e-6)
    assert sol.final[0].abs().max() < 1e-3
    assert torch.isnan(sol.ys[0, -1]).all()
    with pytest.raises(SolveError, match="max_events was reached") as caught:
        dropping(starts, 5.0, f64, event, **options)
    assert caught.value.status == Status.MAX_EVENTS and caught.value.samples == (0,)
    assert caught.value.times[0] == pytest.approx(3.0, abs=1e-3)


@pytest.mark.parametrize(
    ("allowed", "status"), [(2, Status.SUCCESS), (1, Status.MAX_EVENTS)]
)
def test_as_many_events_as_allowed(allowed: int, status: Status, f64: KIND) -> None:
    sol = dropping([1.0, 9.0], 2.4, f64, max_events=allowed, throw=False)
    assert sol.status.tolist() == [status, Status.SUCCESS]


@CONTROLLED
@pytest.mark.parametrize("batch", [1, 2])
def test_a_reset_at_the_very_end(controller: object, batch: int, f64: KIND) -> None:
    """It has no room to show, whatever the other samples do."""
    starts = [1.0, 0.2][:batch]
    sol = dropping(starts, 1.0, f64, Event(height, reset=flip), controller=controller)
    assert sol.status.tolist() == [Status.SUCCESS] * batch
    close(sol.final[0], [0.0, -2.0])
    close(sol.ys[0, -1], [0.0, -2.0])


@CONTROLLED
def test_a_reset_may_move_the_state_across(controller: object, f64: KIND) -> None:
    """A sawtooth: the condition is far from zero again after each reset."""
    event = Event(
        lambda t, y: y[:, 0] - 1.0, reset=lambda t, y: y - torch.tensor(1.0, **f64)
    )
    rate = torch.tensor([[1.0], [2.0]], **f64)
    sol = solve(
        ODETerm(lambda t, y: rate.expand_as(y)),
        torch.zeros(2, 1, **f64),
        torch.tensor([0.0, 3.3], **f64),
        controller=controller,
        events=[event],
    )
    assert sol.events.count.tolist() == [3, 6]
    close(sol.events.time[1], [0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
    close(sol.final, [[0.3], [0.6]])


@CONTROLLED
def test_backward_in_time(controller: object, f64: KIND) -> None:
    if isinstance(controller, StepTo):
        controller = StepTo(-GRID)
    event = Event(lambda t, y: y[:, 0] + 1.0, reset=lambda t, y: y + 1.0)
    sol = solve(
        ODETerm(lambda t, y: torch.ones_like(y)),
        torch.zeros(2, 1, **f64),
        torch.tensor([0.0, -1.5, -2.5], **f64),
        controller=controller,
        events=[event],
    )
    close(sol.events.time, [[-1.0, -2.0]] * 2)
    close(sol.ys[:, 1:], [[[-0.5], [-0.5]]] * 2)


@CONTROLLED
def test_statistics_of_all_parts(controller: object, f64: KIND) -> None:
    sol = dropping([1.0, 2.25], 2.4, f64, controller=controller)
    stats = sol.stats
    total = torch.where(stats.valid, stats.step, 0.0).sum(0)
    close(total, [2.4, 2.4], atol=1e-12)
    assert stats.accepted.tolist() == stats.valid.sum(0).tolist()
    for sample, hits in enumerate((2, 1)):
        ends = (stats.t + stats.step)[stats.valid[:, sample], sample]
        for time in sol.events.time[sample, :hits]:
            assert (ends - time).abs().min() < 1e-12
    with pytest.raises(ValueError, match="resets"):
        _ = sol.record


def test_what_a_reset_must_return(f64: KIND) -> None:
    event = Event(height, reset=lambda t, y: y[:, :1])
    with pytest.raises(ValueError, match="the reset of event 0 returned shape"):
        dropping([1.0], 2.0, f64, event)
    with pytest.raises(TypeError, match="reset must be callable"):
        Event(height, reset=3.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_inference_mode(batch: str, f64: KIND) -> None:
    with torch.inference_mode():
        sol = dropping([1.0], 2.4, f64, batch=batch)
    close(sol.final, [ball_at(2.4, 1.0)], atol=1e-7)
