"""`Solution.explain`: each cause is found where it was put, and not next to it."""

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from problems import DECAY, OSCILLATOR, column
from torch import Tensor

from nde.solvers import (
    ODE_METHODS,
    PID,
    SDE_METHODS,
    Event,
    Explanation,
    FixedSteps,
    ODETerm,
    SDETerm,
    Solution,
    solve,
)

F64 = torch.float64
Field = Callable[[Tensor, Tensor], Tensor]


def van_der_pol(mu: float | Tensor) -> Field:
    return lambda t, y: torch.stack(
        [y[:, 1], mu * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], dim=1
    )


def prothero_robinson(rate: float) -> Field:
    return lambda t, y: -rate * (y - column(t).cos())


def lorenz(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind(1)
    return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], dim=1)


def switch(*times: float) -> Field:
    """A slope that changes sign at a time of each sample's own."""
    at = torch.tensor(times, dtype=F64)[:, None]
    return lambda t, y: torch.where(column(t) < at, 1.0, -2.0) + column(t).cos() + 0 * y


def square_wave(t: Tensor, y: Tensor) -> Tensor:
    return (3 * column(t) + 0.1).sin().sign() - y


def corner(t: Tensor, y: Tensor) -> Tensor:
    return (column(t) - 1.3).abs() - y


def bump(t: Tensor, y: Tensor) -> Tensor:
    """Smooth, but narrow."""
    return 10 / torch.cosh(((column(t) - 5) / 0.1).clamp(-50, 50)) ** 2 - y


def chirp(t: Tensor, y: Tensor) -> Tensor:
    fast = 100 * torch.exp(-10 * column(t))
    return fast * fast.cos() - 0.1 * y


def state(*rows: tuple[float, ...], dtype: torch.dtype = F64) -> Tensor:
    return torch.tensor(rows, dtype=dtype)


def run(
    f: Field, y0: Tensor, t1: float, rtol: float, method: str = "tsit5", **options: Any
) -> Solution:
    solver = {
        name: options.pop(name)
        for name in ("batch", "max_steps", "events", "throw")
        if name in options
    }
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*resolves.*")
        return solve(
            ODETerm(f),
            y0,
            torch.tensor([0.0, t1], dtype=F64),
            method=method,
            controller=PID(rtol=rtol, atol=options.pop("atol", rtol * 1e-3), **options),
            **{"max_steps": 100_000, "throw": False, **solver},
        )


def causes(told: Explanation) -> list[str]:
    return [finding.cause for finding in told.findings]


OSC = OSCILLATOR.field
ONE, TWO = state((0.0,)), state((2.0, 0.0))
TURN = state((1.0, 0.0))


@dataclass(frozen=True)
class Case:
    """A problem and the first thing to be said of it."""

    name: str
    cause: str
    f: Field
    y0: Tensor
    t1: float
    rtol: float
    methods: tuple[str, ...] = ("tsit5", "dop853")
    options: dict[str, Any] = field(default_factory=dict)


CASES = [
    Case("vdp-100", "stiffness", van_der_pol(100.0), TWO, 10.0, 1e-6),
    Case("vdp-1000", "stiffness", van_der_pol(1000.0), TWO, 1.0, 1e-3, ("dopri5",)),
    Case("robinson", "stiffness", prothero_robinson(1000.0), ONE, 3.0, 1e-3),
    Case("robinson-fine", "tolerance", prothero_robinson(50.0), ONE, 3.0, 1e-9),
    Case("oscillator", "tolerance", OSC, TURN, 60.0, 1e-3, ("tsit5", "dopri8")),
    Case("oscillator-fine", "tolerance", OSC, TURN, 60.0, 1e-8),
    Case("lorenz", "tolerance", lorenz, state((1.0, 1.0, 1.0)), 10.0, 1e-6),
    Case("vdp-1", "tolerance", van_der_pol(1.0), TWO, 20.0, 1e-6),
    Case("bump", "tolerance", bump, ONE, 20.0, 1e-6),
    Case("bosh3", "unknown", OSC, TURN, 60.0, 1e-3, ("bosh3", "cash_karp")),
    Case("short", "cheap", OSC, TURN, 1.0, 1e-3),
    Case("decay", "cheap", DECAY.field, state((1.0,)), 2.0, 1e-4),
    Case("switch", "kink", switch(0.3), ONE, 2.0, 1e-3),
    Case("switch-fine", "kink", switch(0.3), ONE, 2.0, 1e-9),
    Case("square", "kink", square_wave, ONE, 10.0, 1e-6),
    Case("square-rough", "kink", square_wave, ONE, 10.0, 1e-3),
    Case("corner", "kink", corner, ONE, 2.0, 1e-6),
    Case("single", "rounding", OSC, TURN.float(), 60.0, 1e-7),
    Case("single-rough", "tolerance", OSC, TURN.float(), 60.0, 1e-4),
    Case("chirp", "transient", chirp, ONE, 100.0, 1e-6),
    Case(
        "stops",
        "stops",
        OSC,
        TURN,
        20.0,
        1e-3,
        options={"step_t": torch.linspace(0.0, 20.0, 101, dtype=F64)},
    ),
    Case("max-step", "max_step", OSC, TURN, 20.0, 1e-3, options={"max_step": 0.05}),
    Case(
        "wide-max-step",
        "tolerance",
        OSC,
        TURN,
        40.0,
        1e-6,
        ("tsit5",),
        {"max_step": 2.0},
    ),
    Case("first-step", "start", OSC, TURN, 2.0, 1e-3, options={"first_step": 1e-14}),
]
TABLE = [
    pytest.param(case, method, id=f"{case.name}-{method}")
    for case in CASES
    for method in case.methods
]


@pytest.mark.parametrize(("case", "method"), TABLE)
def test_first_finding(case: Case, method: str) -> None:
    solution = run(case.f, case.y0, case.t1, case.rtol, method, **case.options)
    told = solution.explain()
    assert causes(told)[0] == case.cause, str(told)
    first = told.findings[0]
    assert first.samples == (0,) and first.share > 0.4
    assert sum(finding.share for finding in told.findings) <= 1.0 + 1e-6
    assert "nan" not in str(told)


def test_stiffness_says_how_stiff() -> None:
    told = run(prothero_robinson(1000.0), ONE, 3.0, 1e-3).explain()
    evidence = told.findings[0].evidence
    assert 0.9 < evidence["load"] < 1.1
    assert abs(evidence["stiffness"] - 1000.0) < 100.0


@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("method", ["tsit5", "dop853", "bosh3"])
def test_kinks_are_located(method: str, rtol: float) -> None:
    kinks = run(switch(0.3), ONE, 2.0, rtol, method).explain().findings
    found = next(f for f in kinks if f.cause == "kink")
    assert abs(found.evidence["t"] - 0.3) <= 0.5 * found.evidence["width"]
    assert found.evidence["kinks"] == 1


def test_every_kink_of_several() -> None:
    found = run(square_wave, ONE, 10.0, 1e-6).explain().findings[0]
    assert found.evidence["kinks"] == 9
    assert "9 in all" in found.text
    shown = re.search(r"jump_t=torch.tensor\(\[(.*), \.\.\.\]\)", found.advice)
    assert shown
    for number, text in enumerate(shown[1].split(", "), start=1):
        assert abs(float(text) - (number * math.pi - 0.1) / 3) < 1e-3


def test_kinks_at_times_of_each_samples_own() -> None:
    one = run(switch(0.3, 0.7, 1.1), torch.zeros(3, 1, dtype=F64), 2.0, 1e-6)
    found = one.explain().findings[0]
    assert found.cause == "kink" and found.samples == (0, 1, 2)
    assert "(batch, k)" in found.advice
    same = run(switch(0.7, 0.7, 0.7), torch.zeros(3, 1, dtype=F64), 2.0, 1e-6)
    assert "jump_t=torch.tensor([0.7" in same.explain().findings[0].advice


def test_the_advice_about_kinks_helps() -> None:
    at = torch.tensor([0.3], dtype=F64)
    before = run(switch(0.3), ONE, 20.0, 1e-6)
    after = run(switch(0.3), ONE, 20.0, 1e-6, jump_t=at)
    spent = before.explain().findings[0].share * float(before.stats.evaluations)
    saved = float(before.stats.evaluations - after.stats.evaluations)
    assert "kink" not in causes(after.explain())
    assert 0.7 * spent < saved < 1.5 * spent


def test_backward_times() -> None:
    ts = torch.tensor([2.0, 0.0], dtype=F64)
    told = solve(ODETerm(switch(0.3)), ONE, ts, controller=PID(1e-6, 1e-9)).explain()
    found = told.findings[0]
    assert found.cause == "kink"
    assert abs(found.evidence["t"] - 0.3) <= 0.5 * found.evidence["width"]


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_one_slow_sample(batch: str) -> None:
    mu = torch.tensor([1.0, 1.0, 1.0, 200.0, 1.0, 1.0], dtype=F64)
    solution = run(van_der_pol(mu), TWO.expand(6, 2), 10.0, 1e-3, batch=batch)
    told = solution.explain()
    if batch == "shared":
        assert causes(told) == ["stiffness", "shared"]
        assert told.findings[0].samples == tuple(range(6))
        return
    assert causes(told)[:2] == ["slow_sample", "stiffness"]
    slow, stiff = told.findings[:2]
    assert slow.samples == stiff.samples == (3,)
    count = solution.stats.accepted + solution.stats.rejected
    assert slow.share == pytest.approx(1 - float(count.sum()) / (6 * int(count.max())))


def test_samples_alike_wait_for_none() -> None:
    told = run(OSC, TURN.expand(4, 2), 60.0, 1e-6).explain()
    assert causes(told) == ["tolerance"]


@pytest.mark.parametrize("rtol", [1e-5, 1e-8])
def test_looser_tolerances_cost_what_was_said(rtol: float) -> None:
    told = run(OSC, TURN, 100.0, rtol).explain().findings[0]
    after = float(run(OSC, TURN, 100.0, 10 * rtol).stats.evaluations)
    assert abs(told.evidence["calls_looser"] / after - 1) < 0.15


def test_a_warned_tolerance_is_rounding() -> None:
    with pytest.warns(UserWarning, match="resolves"):
        solution = solve(
            ODETerm(OSC),
            TURN.float(),
            torch.tensor([0.0, 60.0]),
            controller=PID(rtol=1e-8, atol=1e-9),
        )
    found = solution.explain().findings[0]
    assert found.cause == "rounding" and "float64" in found.advice


def test_failures_come_first() -> None:
    blow_up = run(lambda t, y: y * y, state((0.1,), (1.0,)), 2.0, 1e-3).explain()
    first = blow_up.findings[0]
    assert first.cause == "failure" and first.samples == (1,)
    assert abs(first.evidence["t"] - 1.0) < 0.01
    stiff = run(van_der_pol(1000.0), TWO, 3.0, 1e-3, max_steps=300).explain()
    assert causes(stiff)[:2] == ["failure", "stiffness"]


def test_resets() -> None:
    def fall(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[:, 1], torch.full_like(y[:, 1], -9.8)], dim=1)

    bounce = Event(
        lambda t, y: y[:, 0],
        direction=-1,
        reset=lambda t, y: torch.stack([y[:, 0], -y[:, 1]], dim=1),
    )
    y0 = state((1.0, 0.0), (2.0, 0.0))
    solution = run(fall, y0, 20.0, 1e-3, events=[bounce])
    assert len(solution.runs) > 5
    assert causes(solution.explain())[0] == "restarts"


ODE_NAMES = list(ODE_METHODS)


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
@pytest.mark.parametrize("name", ODE_NAMES)
def test_every_method(name: str, batch: str) -> None:
    y0: Any = (torch.ones(3, 1), torch.zeros(3, 1))
    term = ODETerm(lambda t, y: (y[1], -y[0]))
    controllers: list[Any] = [FixedSteps(0.1)]
    if ODE_METHODS[name].error_order is not None:
        controllers.append(PID())
    for controller in controllers:
        for graph in (False, True):
            with torch.set_grad_enabled(graph):
                ts = torch.linspace(0, 3, 5)
                told = solve(
                    term,
                    y0,
                    ts,
                    method=name,
                    controller=controller,
                    batch=batch,  # type: ignore[arg-type]
                ).explain()
            assert str(told).startswith(f"{name}, 3 samples")
            expected = isinstance(controller, FixedSteps)
            assert ("fixed_steps" in causes(told)) == expected


def test_fixed_steps() -> None:
    def fixed(f: Field, step: float, method: str, **options: Any) -> Explanation:
        ts = torch.tensor([0.0, 1.0], dtype=F64)
        controller = FixedSteps(step, **options)
        done = solve(ODETerm(f), ONE, ts, method=method, controller=controller)
        return done.explain()

    unstable = fixed(prothero_robinson(100.0), 0.04, "tsit5")
    assert set(causes(unstable)) == {"fixed_steps", "stiffness"}
    assert causes(fixed(prothero_robinson(10.0), 0.04, "tsit5")) == ["fixed_steps"]
    cut = fixed(DECAY.field, 0.04, "rk4")
    assert "does not estimate the error" in cut.findings[0].text
    marks = torch.linspace(0.0, 1.0, 41, dtype=F64)
    stops = fixed(DECAY.field, 0.04, "rk4", step_t=marks)
    assert "stops" in causes(stops)


@pytest.mark.parametrize("name", list(SDE_METHODS))
def test_sdes(name: str) -> None:
    kind, noise = SDE_METHODS[name].interpretations[0], SDE_METHODS[name].noises[0]
    additive = noise == "additive"
    term = SDETerm(
        lambda t, y: -y,
        lambda t, y: torch.full((2, 1, 1), 0.1) if additive else 0.1 * y,
        noise=noise,
        interpretation=kind,
        noise_dim=1 if additive else None,
    )
    ts = torch.linspace(0, 1, 31)
    controller = FixedSteps(0.04)
    done = solve(term, torch.ones(2, 1), ts, method=name, controller=controller)
    told = done.explain()
    assert causes(told) == ["fixed_steps", "outputs"]
    assert told.findings[1].evidence["steps_without"] == 25
    assert "nan" not in str(told)


def test_no_samples_and_no_steps() -> None:
    assert causes(run(OSC, torch.zeros(0, 2), 1.0, 1e-3).explain()) == ["cheap"]
    ts = torch.zeros(1, 2, dtype=F64)
    still = solve(ODETerm(DECAY.field), state((1.0,)), ts)
    assert causes(still.explain()) == ["cheap"]


def test_no_field_calls_and_a_table(device: torch.device) -> None:
    calls = 0

    def counted(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return square_wave(t, y)

    solution = run(counted, torch.zeros(2, 1, dtype=F64, device=device), 10.0, 1e-6)
    before = calls
    told = solution.explain()
    assert calls == before
    lines = str(told).splitlines()
    assert lines[0].startswith("tsit5, 2 samples; per sample: calls ")
    assert re.fullmatch(r" \d\d%  kink +\S.*", lines[1])
    assert lines[2].strip().startswith("-> jump_t=")
