"""Adjoints for SDEs: Reversible against Direct, Backsolve against what it nears."""

import warnings
from dataclasses import replace

import pytest
import torch
from gradients import assert_same, check_inputs
from problems import KIND, column, normal
from sde_gradients import (
    BATCH,
    KINDS,
    RAGGED,
    STEP,
    TIMES,
    Scaled,
    everything,
    found,
    outputs,
)
from torch import Tensor

from nde.solvers import (
    PID,
    Backsolve,
    BrownianGrid,
    BrownianTree,
    Direct,
    FixedSteps,
    Reversible,
    SDETerm,
    Solution,
    Status,
    solve,
)


@pytest.mark.parametrize("times", ["common", "own", "shared"])
@pytest.mark.parametrize("kind", KINDS)
def test_reversible_equals_direct(kind: str, times: str, f64: KIND) -> None:
    net, y0 = Scaled(kind, **f64), normal((BATCH, 2), 1, **f64)
    options = {"batch": "shared"} if times == "shared" else {}
    ts = TIMES.get(times, TIMES["common"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = found(net, y0, Reversible(), ts=ts, **options)
    assert_same(back, found(net, y0, Direct(), ts=ts, **options), rtol=1e-10)


@pytest.mark.parametrize("times", ["common", "own", "shared", "single"])
@pytest.mark.parametrize("kind", ["diagonal", "scalar", "general mixed"])
def test_reversible_with_adaptive_steps(kind: str, times: str, f64: KIND) -> None:
    """And a divergence from a prior, whose columns go back with the state."""
    net = Scaled(kind, **f64)
    net.term = replace(net.term, prior=lambda t, y, args: net.rate * y)
    y0 = normal((1 if times == "single" else BATCH, 2), 1, **f64)
    options = {
        "ts": TIMES.get(times, TIMES["common"]),
        "controller": PID(rtol=1e-2, atol=1e-3),
        "noise": 7,
        "loss": lambda sol: everything(sol) + sol.path_kl.tanh().sum(),
        "batch": "shared" if times == "shared" else "per_sample",
        "paths": None if times == "own" else 2,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = found(net, y0, Reversible(), **options)
    assert_same(back, found(net, y0, Direct(), **options), rtol=1e-10)


def between(sol: Solution) -> Tensor:
    """Outputs, and the path inside of steps, where every step has one."""
    times = torch.tensor([0.22, 0.27], dtype=sol.ys.dtype, device=sol.ys.device)
    return outputs(sol) + sol.evaluate(times).sin().sum()


def test_backsolve_with_adaptive_steps(f64: KIND) -> None:
    """And a dense solution."""
    net, y0 = Scaled("diagonal", **f64), normal((BATCH, 2), 1, **f64)
    apart = []
    for rtol in (1e-1, 1e-2, 1e-3):
        options = {
            "ts": (0.0, 0.3, 0.6),
            "controller": PID(rtol=rtol, atol=rtol / 10),
            "noise": 7,
            "method": "heun",
            "dense": True,
        }
        pair = [
            found(net, y0, adjoint, loss=between, **options)
            for adjoint in (Backsolve(), Direct())
        ]
        back, direct = (torch.cat([x.flatten() for x in grads]) for grads in pair)
        apart.append(float((back - direct).norm() / direct.norm()))
    assert 0.0 < apart[2] < 0.2 * apart[0] and apart[2] < 2e-3, apart


@pytest.mark.parametrize("given", ["drawn", "whole", "single"])
def test_reversible_with_other_noise_and_rows(given: str, f64: KIND) -> None:
    """Converted terms, probes, one sample, and a grid that draws its own noise."""
    net = Scaled("diagonal", **f64)
    ito = net.term.to("ito")
    term = replace(ito, interpretation="stratonovich")
    batch = 1 if given == "single" else BATCH
    ts = torch.tensor([0.0, 1.0], **f64)
    probes = torch.tensor([0.7, 0.2, 1.0], **f64)

    def solved(adjoint: object) -> list[Tensor]:
        y0 = normal((batch, 2), 1, **f64).requires_grad_()
        sol = solve(
            term,
            y0,
            ts,
            method="reversible_heun",
            controller=FixedSteps(2.0 if given == "whole" else STEP),
            adjoint=adjoint,
            args=torch.tensor(0.3, **f64),
            noise=BrownianGrid(5),
            probe_times=probes,
        )
        loss = (sol.probes**2).sum() + sol.final.sin().sum()
        return list(torch.autograd.grad(loss, (y0, net.rate, net.size)))

    assert_same(solved(Reversible()), solved(Direct()), rtol=1e-10)


@pytest.mark.parametrize("kind", ["diagonal", "general"])
@pytest.mark.parametrize("batch", ["per_sample", "shared"])
@pytest.mark.parametrize("adjoint", [Reversible(), Backsolve(), Direct()])
def test_no_samples(adjoint: object, batch: str, kind: str, f64: KIND) -> None:
    y0, net = torch.ones(0, 2, **f64, requires_grad=True), Scaled(kind, **f64)
    sol = solve(
        net.term,
        y0,
        torch.tensor([0.0, 0.5, 1.0], **f64),
        method="reversible_heun",
        controller=FixedSteps(STEP),
        adjoint=adjoint,
        batch=batch,
        args=torch.tensor(0.3, **f64),
    )
    assert sol.ys.shape == (0, 3, 2)
    sol.ys.sum().backward()
    assert y0.grad is not None and y0.grad.shape == (0, 2)


def test_reversible_against_finite_differences(f64: KIND) -> None:
    net, ts = Scaled("general", **f64), torch.tensor(TIMES["common"], **f64)

    def loss(y0: Tensor, args: Tensor) -> Tensor:
        sol = solve(
            net.term,
            y0,
            ts,
            method="reversible_heun",
            controller=FixedSteps(STEP),
            adjoint=Reversible(),
            args=args,
            noise=net.path(),
        )
        return everything(sol)

    check_inputs(loss, (normal((BATCH, 2), 1, **f64), normal((BATCH, 2), 2, **f64)))


@pytest.mark.parametrize("times", ["common", "own", "adaptive"])
@pytest.mark.parametrize("adjoint", [Reversible(), Backsolve()])
def test_a_failing_sample_spoils_no_gradient(
    adjoint: object, times: str, f64: KIND
) -> None:
    """It blows up; before, its outputs have gradients, as those of the others do."""
    rate = torch.tensor(0.9, **f64, requires_grad=True)
    ts = torch.tensor([0.0, 0.25, 1.0], **f64)
    ts = ts.repeat(3, 1) if times == "own" else ts
    controller = PID(1e-3, 1e-4) if times == "adaptive" else FixedSteps(STEP)
    term = SDETerm(
        lambda t, y: rate * y.sqrt() * y * column(t).exp(),
        lambda t, y: 0.1 * y,
        interpretation="stratonovich",
    )

    def solved(adjoint: object) -> tuple[Tensor, ...]:
        y0 = torch.tensor([[1.0], [900.0], [0.5]], **f64, requires_grad=True)
        sol = solve(
            term,
            y0,
            ts,
            method="reversible_heun",
            controller=controller,
            adjoint=adjoint,
            noise=BrownianTree(2, 0.0, 1.0, (3, 1), **f64),
            throw=False,
        )
        assert (sol.status == Status.SUCCESS).tolist() == [True, False, True]
        good = sol.ys[sol.status == Status.SUCCESS]
        return torch.autograd.grad((good**2).sum(), (rate, y0))

    back, wanted = solved(adjoint), solved(Direct())
    assert bool(torch.isfinite(wanted[0]))
    assert_same(back, wanted, rtol=1e-10)


@pytest.mark.parametrize("adjoint", [Reversible(), Backsolve()])
def test_rows_at_rest_spoil_no_gradient(adjoint: object, f64: KIND) -> None:
    """Functions may not be defined where a sample that takes no step begins."""
    rate = torch.tensor(0.6, **f64, requires_grad=True)
    ts = torch.tensor(RAGGED, **f64)
    seen: list[Tensor] = []

    def drift(t: Tensor, y: Tensor) -> Tensor:
        seen.append(torch.cat([column(t), y], dim=1).detach())
        return rate * (20.0 - y).sqrt() * (2.0 - column(t))

    def solved(adjoint: object) -> tuple[tuple[Tensor, ...], Tensor]:
        y0 = normal((BATCH, 2), 1, **f64)
        y0[3] = 50.0
        y0.requires_grad_()
        sol = solve(
            SDETerm(drift, lambda t, y: 0.4 * y, interpretation="stratonovich"),
            y0,
            ts,
            method="reversible_heun",
            controller=FixedSteps(1 / 64),
            adjoint=adjoint,
            noise=BrownianTree(4, 0.0, 1.0, (BATCH, 2), **f64),
        )
        forward = torch.cat(seen)
        seen.clear()
        return torch.autograd.grad(outputs(sol), (rate, y0)), forward

    back, forward = solved(adjoint)
    if isinstance(adjoint, Reversible):
        # Every call on the way back is one that was made before, to rounding.
        exactly = "donot_use_mm_for_euclid_dist"
        apart = torch.cdist(torch.cat(seen), forward, compute_mode=exactly)
        assert float(apart.amin(dim=1).amax()) < 1e-10
    exact = isinstance(adjoint, Reversible)
    assert_same(back, solved(Direct())[0], rtol=1e-10 if exact else 0.02)


def test_a_way_back_that_is_lost_warns(device: torch.device) -> None:
    """Contraction forward is growth backward: rounding comes to the front."""
    kind: KIND = {"dtype": torch.float32, "device": device}
    term = SDETerm(
        lambda t, y: -y + 0.1 * y.sin(),
        lambda t, y: 0.1 * torch.ones_like(y),
        interpretation="stratonovich",
    )

    def solved(end: float, adjoint: object) -> tuple[Tensor, list[str]]:
        y0 = torch.ones(3, 2, **kind, requires_grad=True)
        sol = solve(
            term,
            y0,
            torch.tensor([0.0, end], **kind),
            method="reversible_heun",
            controller=FixedSteps(1 / 128),
            noise=BrownianGrid(1),
            adjoint=adjoint,
        )
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            (grad,) = torch.autograd.grad(sol.final.sum(), y0)
        told = [str(w.message) for w in seen]
        return grad, [text for text in told if "Reversible" in text]

    for end, near in ((2.0, 1e-4), (13.0, 1e-2)):
        wanted, _ = solved(end, Direct())
        back, told = solved(end, Reversible())
        lost = float((back - wanted).norm() / wanted.norm())
        assert (lost < near) == (end == 2.0), lost
        assert len(told) == (end == 13.0), told
    assert "misses that of the way" in told[0] and "use adjoint=Recompute()" in told[0]


def test_backsolve_begins_anew_at_outputs(f64: KIND) -> None:
    """What it walks back to is set right where the solution is stored."""
    net, y0 = Scaled("diagonal", **f64), normal((BATCH, 2), 1, **f64)
    ts = torch.tensor([0.0, 0.25, 0.5, 1.0], **f64)
    passed: dict[float, Tensor] = {}

    class Observer:
        def attempt(self, t: float, y: Tensor, h: float) -> None:
            pass

        judge = attempt

        def replay(self, t: float, y: Tensor, h: float) -> None:
            passed[t] = y

    sol = solve(
        net.term,
        y0.requires_grad_(),
        ts,
        method="heun",
        controller=FixedSteps(1 / 8),
        adjoint=Backsolve(),
        args=torch.tensor(0.3, **f64),
        noise=net.path(),
        observer=Observer(),
    )
    sol.final.sum().backward()
    for k, t in enumerate(ts.tolist()[1:-1], start=1):
        assert torch.equal(passed[t], sol.ys[:, k])
    assert not torch.equal(passed[0.0], y0) and torch.allclose(passed[0.0], y0, 0.1)


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("diagonal", "heun"),
        ("general", "heun"),
        ("additive", "shark"),
        ("additive Ito", "euler"),
        ("diagonal converted", "midpoint"),
    ],
)
@pytest.mark.parametrize("times", ["common", "own"])
def test_backsolve_nears_the_gradient(
    kind: str, method: str, times: str, f64: KIND
) -> None:
    net, y0 = Scaled(kind.split()[0], **f64), normal((BATCH, 2), 1, **f64)
    if kind.endswith(("Ito", "converted")):
        net.term = replace(net.term, interpretation="ito")
    if kind.endswith("converted"):
        net.term = net.term.to("stratonovich")
    options = {"ts": TIMES[times], "loss": outputs, "method": method}
    apart = []
    for steps in (8, 32, 128):
        pair = [
            found(net, y0, adjoint, step=1 / steps, **options)
            for adjoint in (Backsolve(), Direct())
        ]
        back, direct = (torch.cat([x.flatten() for x in grads]) for grads in pair)
        apart.append(float((back - direct).norm() / direct.norm()))
    assert 0.0 < apart[2] < 0.35 * apart[0] and apart[2] < 6e-3, apart
