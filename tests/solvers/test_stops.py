"""Times inside the interval that a solve lands on, and jumps of the field."""

import math
from collections.abc import Callable

import pytest
import torch
from gradients import assert_same, check_finite_differences, gradients
from problems import KIND, OSCILLATOR, TimedMLP, column, normal
from torch import Tensor, nn

from nde.solvers import (
    PID,
    Direct,
    FixedSteps,
    ODETerm,
    Recompute,
    Solution,
    StepTo,
    solve,
)

BATCHES = pytest.mark.parametrize("batch", [1, 3])
SIGNS = pytest.mark.parametrize("sign", [1.0, -1.0], ids=["forward", "backward"])
METHODS = pytest.mark.parametrize("method", ["tsit5", "dopri5", "vern7"])
MARKS = [0.1, 0.3, 0.7, 1e-3, 1.7, 4.9]


def controllers(**times: Tensor) -> dict[str, object]:
    return {
        "pid": PID(1e-8, 1e-10, **times),
        "fixed": FixedSteps(0.21, **times),
        "to": StepTo(torch.tensor([0.4, -0.4, 3.0, -3.0]), **times),
    }


KINDS = pytest.mark.parametrize("kind", ["pid", "fixed", "to"])


def ends(sol: Solution, sample: int) -> tuple[set[float], set[float]]:
    """Where a sample's steps begin, and where they end: t + h in the time's dtype."""
    valid = sol.stats.valid[:, sample]
    t, h = sol.stats.t[valid, sample], sol.stats.step[valid, sample]
    back = sol.ts.reshape(-1)[-1] < sol.ts.reshape(-1)[0]
    return set(t.tolist()), set((t - h if back else t + h).tolist())


@KINDS
@BATCHES
@SIGNS
def test_lands_on_each_time(kind: str, batch: int, sign: float, f64: KIND) -> None:
    marks = sign * torch.tensor(MARKS, **f64)
    sol = solve(
        ODETerm(OSCILLATOR.field),
        normal((batch, 2), 0, **f64),
        sign * torch.tensor([0.0, 5.0], **f64),
        controller=controllers(step_t=marks)[kind],
    )
    for sample in range(batch):
        starts, stops = ends(sol, sample)
        assert set(marks.tolist()) <= starts and set(marks.tolist()) <= stops
        assert 5.0 * sign in stops


@KINDS
def test_times_of_each_sample(kind: str, f64: KIND) -> None:
    nan = math.nan
    marks = torch.tensor([[0.3, nan, 2.0], [9.0, 0.5, -1.0], [nan, nan, nan]], **f64)
    sol = solve(
        ODETerm(OSCILLATOR.field),
        normal((3, 2), 0, **f64),
        torch.tensor([0.0, 5.0], **f64),
        controller=controllers(step_t=marks)[kind],
    )
    wanted = [{0.3, 2.0}, {0.5}, set()]
    others = {0.3, 2.0, 0.5}
    for sample, own in enumerate(wanted):
        starts, _ = ends(sol, sample)
        assert own <= starts and not ((others - own) & starts)


def test_landing_costs_no_more_than_the_steps_it_adds(f64: KIND) -> None:
    """A step cut short says nothing against long ones after it."""
    marks = torch.tensor([1.0, 1.0 + 1e-12, 2.0, 2.0 + 1e-9], **f64)
    counts = {}
    for batch in (1, 2):
        for name, times in (("none", None), ("some", marks)):
            sol = solve(
                ODETerm(OSCILLATOR.field),
                normal((batch, 2), 0, **f64),
                torch.tensor([0.0, 9.0], **f64),
                controller=PID(1e-6, 1e-8, step_t=times),
            )
            counts[name] = int((sol.stats.accepted + sol.stats.rejected).max())
        assert counts["some"] <= counts["none"] + 7


class Jumping:
    """Constant slopes that change at given times, and a record of when it was asked."""

    def __init__(self, at: Tensor, sign: float = 1.0) -> None:
        self.at, self.sign, self.calls = at, sign, 0
        self.seen: list[Tensor] = []

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(t.detach().clone().reshape(-1))
        past = (self.sign * column(t) >= self.sign * self.at.to(t)).sum(1, keepdim=True)
        return (1.0 + 10.0 * past.to(y)).expand_as(y)

    def exact(self, t: float) -> float:
        return t + self.sign * 10.0 * sum(
            max(self.sign * (t - a), 0.0) for a in self.at.tolist()
        )


@KINDS
@BATCHES
@SIGNS
@METHODS
def test_a_jump_is_never_seen_from_the_wrong_side(
    kind: str, batch: int, sign: float, method: str, f64: KIND
) -> None:
    """Slopes are constant but for the jumps, so that any wrong look is an error."""
    at = sign * torch.tensor(MARKS, **f64)
    field = Jumping(at, sign)
    ts = sign * torch.tensor([0.0, 0.3, 0.7, 2.0, 5.0], **f64)
    with torch.no_grad():
        sol = solve(
            ODETerm(field),
            torch.zeros(batch, 1, **f64),
            ts,
            method=method,
            controller=controllers(jump_t=at)[kind],
            dense=True,
        )
    assert not set(at.tolist()) & set(torch.cat(field.seen).tolist())
    exact = torch.tensor([field.exact(t) for t in ts.tolist()], **f64)
    torch.testing.assert_close(
        sol.ys[..., 0], exact.expand(batch, -1), rtol=0, atol=1e-12
    )
    assert sol.stats.rejected.sum() == 0
    around = at[1] + torch.tensor([-1e-6, 1e-6], **f64) * sign
    slopes = sol.derivative(around)[0, :, 0].tolist()
    assert slopes == pytest.approx([21.0, 31.0])
    if batch == 1:
        assert sol.stats.evaluations.tolist() == [field.calls]


@SIGNS
@BATCHES
def test_jumps_save_evaluations(sign: float, batch: int, f64: KIND) -> None:
    at = sign * torch.tensor([0.31, 1.234], **f64)
    calls, errors = {}, {}
    for name, times in (("with", at), ("without", None)):
        field = Jumping(at, sign)
        sol = solve(
            ODETerm(field),
            torch.zeros(batch, 1, **f64),
            sign * torch.tensor([0.0, 3.0], **f64),
            controller=PID(1e-8, 1e-8, jump_t=times),
        )
        calls[name] = field.calls
        errors[name] = float((sol.final - field.exact(3.0 * sign)).abs().max())
    assert calls["with"] < calls["without"] / 2
    assert errors["with"] < 1e-12


@BATCHES
@KINDS
def test_jumps_of_each_sample(batch: int, kind: str, f64: KIND) -> None:
    at = torch.tensor([[0.3], [0.5], [math.nan]], **f64)[:batch]

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(column(t) >= at, 11.0, 1.0).to(y).expand_as(y)

    sol = solve(
        ODETerm(field),
        torch.zeros(batch, 1, **f64),
        torch.tensor([0.0, 1.0], **f64),
        controller=controllers(jump_t=at)[kind],
    )
    exact = torch.tensor([[8.0], [6.0], [1.0]], **f64)[:batch]
    torch.testing.assert_close(sol.final, exact, rtol=0, atol=1e-12)


@KINDS
@BATCHES
@SIGNS
def test_jumps_at_both_ends(kind: str, batch: int, sign: float, f64: KIND) -> None:
    """Only the first value, at the start itself, is what the field says there."""
    at = sign * torch.tensor([1.0, 2.0, 3.0], **f64)
    field = Jumping(at, sign)
    with torch.no_grad():
        sol = solve(
            ODETerm(field),
            torch.zeros(batch, 1, **f64),
            sign * torch.tensor([1.0, 3.0], **f64),
            controller=controllers(jump_t=at)[kind],
            dense=True,
        )
    assert torch.cat(field.seen).abs().max() < 3.0
    wanted = torch.full((batch, 1), sign * 32.0, **f64)
    torch.testing.assert_close(sol.final, wanted, rtol=0, atol=1e-12)
    read = sol.evaluate(sol.ts)
    torch.testing.assert_close(read[:, 1], wanted, rtol=0, atol=1e-12)
    assert torch.isfinite(sol.derivative(sol.ts)).all()


@KINDS
@BATCHES
@METHODS
@pytest.mark.parametrize("start", [0.0, -7.3])
def test_jumps_in_float32(
    kind: str, batch: int, method: str, start: float, device: torch.device
) -> None:
    at = torch.tensor([0.1, 0.3, 2.7, 97.3], device=device, dtype=torch.float64)
    field = Jumping(at)
    controller = controllers(jump_t=at)[kind]
    if kind == "pid":
        controller = PID(1e-4, 1e-5, jump_t=at)
    with torch.no_grad():
        sol = solve(
            ODETerm(field),
            torch.zeros(batch, 1, device=device),
            torch.tensor([start, 100.0], device=device),
            method=method,
            controller=controller,
        )
    assert not set(at.float().tolist()) & set(torch.cat(field.seen).tolist())
    assert sol.stats.rejected.sum() == 0
    wanted = field.exact(100.0) - start
    assert sol.final[:, 0].tolist() == pytest.approx([wanted] * batch, rel=5e-5)


@METHODS
@KINDS
@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_gradients_through_jumps(method: str, kind: str, batch: str, f64: KIND) -> None:
    net = TimedMLP(2, seed=3).to(**f64)
    at = torch.tensor([0.25, 0.8], **f64)
    y0, ts = normal((3, 2), 4, **f64), torch.tensor([0.0, 0.25, 0.6, 1.5], **f64)
    if kind == "pid":
        controller: object = PID(1e-11, 1e-12, jump_t=at)
    else:
        controller = controllers(jump_t=at)[kind]

    def loss_of(adjoint: object) -> Callable[[Tensor, nn.Module], Tensor]:
        def loss(y: Tensor, f: nn.Module) -> Tensor:
            def field(t: Tensor, y: Tensor) -> Tensor:
                side = (column(t) >= at).sum(1, keepdim=True)
                return f(t, y) * (1.0 + side) - side * y

            sol = solve(
                ODETerm(field),
                y,
                ts,
                method=method,
                controller=controller,
                adjoint=adjoint,
                batch=batch,
            )
            return (sol.ys**2).sum() + sol.final.sin().sum()

        return loss

    both = [gradients(loss_of(a), y0, net) for a in (Recompute(), Direct())]
    assert_same(*both, rtol=1e-12)
    check_finite_differences(loss_of(Recompute()), y0, net)


@BATCHES
def test_reads_outputs_that_steps_end_at(batch: int, f64: KIND) -> None:
    """Also where a step's start and length, as they are rounded, fall short of one."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        drawn = torch.rand(7, generator=generator, dtype=torch.float64)
        drawn = drawn.mul(8.0).sub(6.0).exp().sort().values
        ts = torch.cat([torch.zeros(1, **f64), drawn.to(**f64)])
        sol = solve(
            ODETerm(lambda t, y: -0.01 * y),
            torch.ones(batch, 1, **f64),
            ts,
            controller=PID(step_t=ts),
        )
        exact = torch.exp(-0.01 * ts).expand(batch, -1)
        assert torch.allclose(sol.ys[..., 0], exact, atol=1e-5)
