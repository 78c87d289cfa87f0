"""Budgets of kernels and host reads per attempted step.

Kernels are dispatcher calls without views and allocations, the field's own left out,
recording included. The device's policy of looking at the host is forced on the CPU,
where the counts are the same; `-s` prints them.
"""

from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from dispatch import Launches
from problems import column, normal
from torch import Tensor

from nde.solvers import PID, FixedSteps, ODETerm, SDETerm, loop, solve

F64 = {"dtype": torch.float64}
TIGHT = PID(rtol=1e-6, atol=1e-6)


def field(t: Tensor, y: Tensor) -> Tensor:
    return (torch.sin(3 * column(t)) * y).sin() - y


@pytest.fixture
def device_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step as on a device: decisions in tensors, looked at every few steps."""
    monkeypatch.setattr(loop, "CHECK_CPU", loop.CHECK_DEVICE)
    monkeypatch.setattr(loop, "run", loop.run_masked)


@dataclass(frozen=True)
class Cost:
    """Counts per attempted step: the whole solve, and one more step of it."""

    total: float
    marginal: float


def launches(batch: str, span: float, outputs: int, grad: bool) -> Launches:
    y0 = normal((32, 8), 0, **F64).requires_grad_(grad)
    ts = torch.linspace(0, span, outputs, **F64)
    count = Launches()
    with count:
        solve(
            ODETerm(count.field(field)),
            y0,
            ts,
            method="dopri5",
            controller=TIGHT,
            batch=batch,
        )
    return count


def attempts(count: Launches) -> int:
    """Attempted steps: six calls each after at most three to start."""
    return count.field_calls // 6


def cost(short: Launches, long: Launches, what: str) -> Cost:
    def number(count: Launches) -> int:
        calls: Counter[str] = getattr(count, what)
        return calls.total()

    steps = attempts(long)
    assert steps > 90
    more = steps - attempts(short)
    return Cost(number(long) / steps, (number(long) - number(short)) / more)


CASES = pytest.mark.parametrize(
    ("outputs", "grad"), [(2, False), (2, True), (50, True)]
)


def measure(batch: str, outputs: int, grad: bool) -> tuple[Cost, Cost]:
    short = launches(batch, 20.0, outputs, grad)
    long = launches(batch, 100.0, outputs, grad)
    kernels, syncs = (cost(short, long, what) for what in ("kernels", "syncs"))
    print(f"\n{batch}, {outputs} outputs, grad {grad}: kernels {kernels}, {syncs=}")
    for name, calls in long.kernels.most_common(12):
        print(f"    {calls / attempts(long):5.2f} {name}")
    return kernels, syncs


@CASES
def test_per_sample_steps(device_policy: None, outputs: int, grad: bool) -> None:
    kernels, syncs = measure("per_sample", outputs, grad)
    assert kernels.marginal <= 60
    assert kernels.total <= 60
    assert syncs.marginal <= 0.25


@CASES
def test_shared_steps_on_a_device(
    device_policy: None, outputs: int, grad: bool
) -> None:
    """Without a host read per step the controller is made of tensors here too."""
    kernels, syncs = measure("shared", outputs, grad)
    assert kernels.marginal <= 60
    assert syncs.marginal <= 0.25


@CASES
def test_shared_steps_on_the_host(outputs: int, grad: bool) -> None:
    """One read of the error per step, and Python numbers from there."""
    kernels, syncs = measure("shared", outputs, grad)
    assert kernels.marginal <= 35
    assert kernels.total <= 35
    assert syncs.marginal <= 1.01


def test_the_counter_counts() -> None:
    """Against a sequence whose launches are known."""
    x = torch.ones(4, 3)
    with Launches() as count:
        y = torch.add(x, x)  # a kernel
        y.view(12)[2:].unsqueeze(0)  # views
        torch.empty(5)  # an allocation
        y.mul_(2)  # a kernel
        bool(y.any())  # a kernel and a read
        y.nonzero()  # a kernel that reads
        y[y > 100]  # a kernel, and one that reads
    assert count.kernels.total() == 6
    assert count.syncs.total() == 3
    assert count.views.total() >= 3


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_outputs_cost_little_each(batch: str) -> None:
    """A thousand output times are read after the loop in one go."""
    few, many = (launches(batch, 20.0, n, False) for n in (2, 1000))
    assert attempts(few) == attempts(many)
    more = many.kernels.total() - few.kernels.total()
    assert more <= 4 * attempts(few) + 60


def fixed_steps(term_of: object, method: str, count: int) -> Launches:
    launched = Launches()
    y0 = normal((32, 8), 0, **F64)
    ts = torch.tensor([0.0, 1.0], **F64)
    with launched, torch.no_grad():
        solve(
            term_of(launched),
            y0,
            ts,
            method=method,
            controller=FixedSteps(1 / count),
        )
    return launched


@pytest.mark.parametrize(
    ("method", "budget"),
    [
        ("euler", 4),
        ("midpoint", 6),
        ("rk4", 10),
        ("tsit5", 31),
        ("explicit_adams", 7),
        ("implicit_adams", 12),
    ],
)
def test_fixed_grids_never_ask_the_device(method: str, budget: int) -> None:
    short, long = (
        fixed_steps(lambda c: ODETerm(c.field(field)), method, n) for n in (20, 220)
    )
    kernels = (long.kernels.total() - short.kernels.total()) / 200
    print(f"\n{method}: {kernels} kernels a step")
    assert kernels <= budget
    assert long.syncs == short.syncs


@pytest.mark.parametrize(("method", "budget"), [("euler", 4), ("heun", 18)])
def test_noise_is_drawn_in_one_call(method: str, budget: int) -> None:
    interpretation = "ito" if method == "euler" else "stratonovich"

    def term(count: Launches) -> SDETerm:
        return SDETerm(
            count.field(field), count.field(field), interpretation=interpretation
        )

    short, long = (fixed_steps(term, method, n) for n in (20, 220))
    kernels = (long.kernels.total() - short.kernels.total()) / 200
    print(f"\nSDE {method}: {kernels} kernels a step")
    assert kernels <= budget
    assert long.syncs == short.syncs
    assert long.kernels["aten.randn"] + long.kernels["aten.normal_"] <= 1


def test_adaptive_steps_along_a_path(device_policy: None) -> None:
    """A tree is asked once an attempt, and the host looks every few attempts."""
    counts = []
    for rtol in (1e-1, 1e-3):
        count = Launches()

        def noise(t: Tensor, y: Tensor) -> Tensor:
            return 1 + 0.1 * y.sin()

        with count, torch.no_grad():
            sol = solve(
                SDETerm(count.field(field), count.field(noise)),
                normal((32, 8), 0, **F64),
                torch.linspace(0, 4, 9, **F64),
                method="milstein_grad_free",
                controller=PID(rtol, rtol),
                noise=1,
            )
        attempts = int((sol.stats.accepted + sol.stats.rejected).max())
        counts.append((count.kernels.total(), count.syncs.total(), attempts))
    (kernels, syncs, few), (more_kernels, more_syncs, many) = counts
    assert many > few + 100
    kernels, syncs = (
        (after - before) / (many - few)
        for before, after in ((kernels, more_kernels), (syncs, more_syncs))
    )
    print(f"\nadaptive SDE: {kernels} kernels, {syncs} syncs an attempt")
    assert kernels <= 200
    assert syncs <= 0.25


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_device_policy_holds_on_a_device() -> None:
    """Counted on the device itself, where nothing is forced."""
    counts = []
    for span in (20.0, 100.0):
        y0 = normal((32, 8), 0, **F64).cuda()
        ts = torch.tensor([0.0, span], device="cuda", **F64)
        count = Launches()
        with count:
            solve(
                ODETerm(count.field(field)), y0, ts, method="dopri5", controller=TIGHT
            )
        counts.append(count)
    assert cost(*counts, "syncs").marginal <= 0.25
    assert cost(*counts, "kernels").marginal <= 60
