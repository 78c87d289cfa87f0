"""What drives an extra step of an SDE: the noise of the solve, or fresh noise."""

import math

import pytest
import torch
from problems import KIND, TimedMLP, normal
from torch import Tensor

from nde.regularizers import LocalError, LocalSampling, LocalStiffness
from nde.solvers import (
    PID,
    SDE_METHODS,
    BrownianTree,
    FixedSteps,
    SDETerm,
    Solution,
    solve,
)
from nde.solvers.controller import Controller

GRID, ADAPTIVE = FixedSteps(0.1), PID(rtol=1e-2, atol=1e-2)
BATCH = pytest.mark.parametrize("batch", ["per_sample", "shared"])
METHODS = pytest.mark.parametrize(
    ("method", "interpretation"),
    [("heun", "stratonovich"), ("sosri2", "ito"), ("milstein", "ito")],
)


def an_sde(
    f64: KIND,
    controller: Controller,
    method: str = "heun",
    interpretation: str = "stratonovich",
    probe_times: Tensor | None = None,
    **options: object,
) -> tuple[TimedMLP, Solution]:
    net, y0 = TimedMLP(3, gain=3.0).to(**f64), normal((4, 3), 0, **f64)
    # An entry of its own in each: what some methods adapt their steps by.
    term = SDETerm(net, lambda t, y: 0.3 + 0.1 * y, interpretation=interpretation)
    sol = solve(
        term,
        y0,
        torch.tensor([0.0, 1.0], **f64),
        method=method,
        controller=controller,
        noise=options.pop("noise", 5),
        probe_times=probe_times,
        **options,
    )
    return net, sol


@BATCH
@METHODS
@pytest.mark.parametrize("controller", [GRID, ADAPTIVE], ids=["grid", "pid"])
def test_the_same_noise_repeats_the_steps_of_the_solve(
    controller: Controller, method: str, interpretation: str, batch: str, f64: KIND
) -> None:
    net, sol = an_sde(f64, controller, method, interpretation, batch=batch)
    stats, accepted = sol.stats, sol.record.outcome.tape.accepted
    assert int(accepted.min()) >= 3
    for j in range(int(accepted.min())):
        t, h, y = sol.accepted_step(torch.full_like(accepted, j))
        error, stiffness = sol.embedded_step(t, y, h, noise="same")
        torch.testing.assert_close(
            error.expand(4), stats.error_estimate[j], rtol=1e-7, atol=1e-12
        )
        torch.testing.assert_close(
            stiffness.expand(4), stats.stiffness[j], rtol=1e-6, atol=0, equal_nan=True
        )
        torch.manual_seed(j)
        fresh, _ = sol.embedded_step(t, y, h)
        assert not torch.isclose(fresh, error, rtol=1e-6).any()
    assert torch.autograd.grad(error.sum(), net.inner.weight)[0].any()


@pytest.mark.parametrize(
    "name", [name for name, method in SDE_METHODS.items() if method.error_order]
)
def test_every_method_with_an_estimate_takes_extra_steps(name: str, f64: KIND) -> None:
    """Repeats those of its solve, and differentiates steps with fresh noise."""
    method = SDE_METHODS[name]
    net, y0 = TimedMLP(3, gain=3.0).to(**f64), normal((4, 3), 0, **f64)
    interpretation = method.interpretations[0]
    if "diagonal" in method.noises:
        term = SDETerm(net, lambda t, y: 0.3 + 0.1 * y, interpretation=interpretation)
    else:
        wide = normal((3, 2), 1, **f64)
        term = SDETerm(
            net,
            lambda t, y: wide.expand(len(y), 3, 2),
            noise="additive",
            noise_dim=2,
            interpretation=interpretation,
        )
    ts = torch.tensor([0.0, 0.5], **f64)
    sol = solve(term, y0, ts, method=name, controller=GRID, noise=5)
    stats = sol.stats
    torch.manual_seed(0)
    for j in range(5):
        t, h, y = sol.accepted_step(torch.full((4,), j, device=y0.device))
        if method.first is None:
            # Else steps carry a second state, which an extra one begins anew.
            error, _ = sol.embedded_step(t, y, h, noise="same")
            torch.testing.assert_close(
                error, stats.error_estimate[j], rtol=1e-7, atol=1e-12
            )
        error, _ = sol.embedded_step(t, y, h)
        assert (error > 0).all()
    slopes = torch.autograd.grad(error.sum(), list(net.parameters()))
    assert all(slope.isfinite().all() and slope.any() for slope in slopes)


def test_a_tree_tells_the_noise_over_any_time(f64: KIND) -> None:
    """Also of a grid's solve, where it is part of no step."""
    tree = BrownianTree(3, 0.0, 1.0, (4, 3), **f64)
    net, sol = an_sde(f64, GRID, noise=tree)
    t, h = (torch.full((4,), x, **f64) for x in (0.23, 0.05))
    y = normal((4, 3), 1, **f64)
    first, _ = sol.embedded_step(t, y, h, noise="same")
    torch.testing.assert_close(sol.embedded_step(t, y, h, noise="same")[0], first)
    # A grid that begins there meets the same path.
    other = solve(
        sol.record.problem.term.term,
        y,
        torch.tensor([0.23, 0.28], **f64),
        method="heun",
        controller=FixedSteps(1.0),
        noise=tree,
    )
    torch.testing.assert_close(other.stats.error_estimate[0], first, rtol=1e-7, atol=0)


@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
@pytest.mark.parametrize("controller", [GRID, ADAPTIVE], ids=["grid", "pid"])
def test_penalties_along_the_same_path(
    controller: Controller, sampling: str, f64: KIND
) -> None:
    """They depend on the global generator by the draw of the place alone."""
    options = LocalSampling(sampling=sampling, noise="same")
    regularizer = LocalError(options=options)
    rows = torch.zeros(4, **f64)
    torch.manual_seed(0)
    times = regularizer.times(rows, rows + 1)
    net, sol = an_sde(f64, controller, probe_times=times)
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(regularizer(sol, times, sol.probes))
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2]) == (sampling == "unbiased")
    assert torch.autograd.grad(values[0], net.inner.weight)[0].any()


def test_expected_penalty_with_the_same_noise_is_the_global_mean(f64: KIND) -> None:
    net, sol = an_sde(f64, GRID)
    torch.manual_seed(0)
    options = LocalSampling(sampling="biased", noise="same", draws=400)
    found = options.steps(sol, None, None)
    values = (found.error * found.h).detach()
    want = (sol.stats.error_estimate * sol.stats.step).mean(0)
    spread = values.std(0) / math.sqrt(400)
    assert ((values.mean(0) - want).abs() <= 4.5 * spread).all()


def test_stiffness_along_the_same_path(f64: KIND) -> None:
    net, sol = an_sde(f64, ADAPTIVE, "sosri2", "ito")
    options = LocalSampling(sampling="biased", noise="same")
    torch.manual_seed(0)
    value = LocalStiffness(options=options)(sol, None, None)
    assert value > 0
    assert torch.autograd.grad(value, net.inner.weight)[0].isfinite().all()


def test_a_grid_does_not_know_parts_of_its_steps(f64: KIND) -> None:
    _, sol = an_sde(f64, GRID)
    t, y = torch.full((4,), 0.25, **f64), normal((4, 3), 1, **f64)
    for start, length in ((0.25, 0.1), (0.2, 0.05)):
        t, h = torch.full((4,), start, **f64), torch.full((4,), length, **f64)
        with pytest.raises(ValueError, match="noise='same'.*BrownianTree"):
            sol.embedded_step(t, y, h, noise="same")


def test_unknown_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="noise must be one of"):
        LocalSampling(noise="old")
