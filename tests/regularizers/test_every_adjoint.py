"""One local penalty under every adjoint, and what each cannot give."""

import pytest
import torch
from problems import KIND, TimedMLP, normal
from torch import Tensor

from nde.models import NeuralODE, SolverSettings
from nde.regularizers import (
    ErrorEstimate,
    LocalError,
    LocalPredictedSteps,
    LocalSampling,
    LocalStiffness,
    Regularizer,
    draw,
)
from nde.solvers import (
    PID,
    Backsolve,
    Direct,
    FixedSteps,
    McCallumFoster,
    ODETerm,
    Recompute,
    Reversible,
    SDETerm,
    Solution,
    solve,
)
from nde.solvers.adjoint import Adjoint
from nde.solvers.control import HermiteCubic

# Steps that end at the probes, where Backsolve has to land: all take the same ones.
STEP = 0.125
PROBES = (0.25, 0.5, 0.875)
MAKE = pytest.mark.parametrize(
    "make", [LocalError, LocalStiffness, LocalPredictedSteps]
)
STATE = pytest.mark.parametrize("state", ["detached", "attached"])


def gradients(
    regularizer: Regularizer, adjoint: Adjoint, f64: KIND, method: object = "tsit5"
) -> tuple[Tensor, ...]:
    """Of a task loss and a penalty: in y0 and the weights; the penalty first."""
    net = TimedMLP(3, seed=3, gain=2.0).to(**f64)
    y0 = normal((4, 3), 4, **f64).requires_grad_()
    times = torch.tensor([PROBES], **f64).expand(4, -1)
    sol = solve(
        ODETerm(net),
        y0,
        torch.tensor([0.0, 1.0], **f64),
        method=method,
        controller=FixedSteps(STEP, rtol=1e-6, atol=1e-6),
        adjoint=adjoint,
        probe_times=times,
    )
    value = regularizer(sol, times, sol.probes)
    loss = value + sol.final.square().mean()
    return value.detach(), *torch.autograd.grad(loss, [y0, *net.parameters()])


def close(a: tuple[Tensor, ...], b: tuple[Tensor, ...], rtol: float) -> bool:
    return all(
        bool((x - y).norm() <= rtol * y.norm()) for x, y in zip(a, b, strict=True)
    )


@MAKE
@STATE
def test_one_gradient_of_the_same_penalty(
    state: str, make: type[LocalError], f64: KIND
) -> None:
    regularizer = make(options=LocalSampling(draws=3, state=state))
    want = gradients(regularizer, Direct(), f64)
    for adjoint in (Recompute(), Recompute(states="sqrt")):
        assert close(gradients(regularizer, adjoint, f64), want, 1e-9)
    # The adjoint equation approximates: by its steps, as far as the state is passed.
    fine = Backsolve(controller=FixedSteps(STEP / 8))
    found = gradients(regularizer, fine, f64)
    assert close(found[:1], want[:1], 1e-9)
    assert close(found, want, 1e-4)


@MAKE
@STATE
def test_the_reversible_method_agrees(
    state: str, make: type[LocalError], f64: KIND
) -> None:
    """Under the pair's own method, which every exact adjoint differentiates."""
    method = McCallumFoster("tsit5")
    regularizer = make(options=LocalSampling(draws=3, state=state))
    want = gradients(regularizer, Direct(), f64, method)
    for adjoint in (Recompute(), Reversible()):
        assert close(gradients(regularizer, adjoint, f64, method), want, 1e-8)
    # And is nearly the method that it makes reversible; its stability is another.
    if make is not LocalStiffness:
        assert close(want, gradients(regularizer, Direct(), f64), 0.3)


@pytest.mark.parametrize(
    "adjoint",
    [Direct(), Recompute(), Reversible(), Backsolve()],
    ids=lambda a: type(a).__name__,
)
def test_an_sde_under_every_adjoint(adjoint: Adjoint, f64: KIND) -> None:
    net, y0 = TimedMLP(3, seed=3).to(**f64), normal((4, 3), 4, **f64)
    term = SDETerm(net, lambda t, y: 0.3 + 0.1 * y, interpretation="stratonovich")
    times = torch.tensor([[0.25, 0.5]], **f64).expand(4, -1)
    regularizer = LocalError(options=LocalSampling(draws=2, noise="same"))

    def run(which: Adjoint) -> tuple[Tensor, ...]:
        sol = solve(
            term,
            y0,
            torch.tensor([0.0, 1.0], **f64),
            method="reversible_heun",
            controller=FixedSteps(STEP),
            adjoint=which,
            probe_times=times,
            noise=7,
        )
        value = regularizer(sol, times, sol.probes)
        return value.detach(), *torch.autograd.grad(value, list(net.parameters()))

    want = run(Direct())
    assert want[0] > 0
    assert close(run(adjoint), want, 1e-9)


@pytest.mark.parametrize("kind", ["pair", "heun"])
def test_a_detached_scale_under_reversible_methods(kind: str, f64: KIND) -> None:
    """The way back differentiates the ratio by a place of its own."""
    net, y0 = TimedMLP(3, seed=3, gain=2.0).to(**f64), normal((4, 3), 4, **f64)
    term: ODETerm | SDETerm = ODETerm(net)
    if kind == "heun":
        term = SDETerm(net, lambda t, y: 0.3 * y, interpretation="stratonovich")

    def run(adjoint: Adjoint, scale: str) -> tuple[Tensor, ...]:
        sol = solve(
            term,
            y0,
            torch.tensor([0.0, 1.0], **f64),
            method="reversible_heun" if kind == "heun" else McCallumFoster("tsit5"),
            controller=FixedSteps(STEP, rtol=0.1, error_scale=scale),
            adjoint=adjoint,
            noise=7 if kind == "heun" else None,
        )
        value = ErrorEstimate(scale=scale)(sol, None, None)
        return value.detach(), *torch.autograd.grad(value, list(net.parameters()))

    for scale in ("attached", "detached"):
        want = run(Direct(), scale)
        for adjoint in (Recompute(), Reversible()):
            assert close(run(adjoint, scale), want, 1e-8)
    assert not close(want, run(Direct(), "attached"), 1e-3)


def test_backsolve_refuses_recorded_estimates_and_keeps_no_steps(f64: KIND) -> None:
    net, y0 = TimedMLP(3).to(**f64), normal((4, 3), 4, **f64)

    def run() -> Solution:
        ts = torch.tensor([0.0, 1.0], **f64)
        return solve(ODETerm(net), y0, ts, adjoint=Backsolve())

    with pytest.raises(RuntimeError, match="gradient was asked of error or stiffness"):
        ErrorEstimate()(run(), None, None).backward()
    options = LocalSampling(sampling="biased")
    with pytest.raises(ValueError, match=r"kept no accepted steps.*Recompute\(\)"):
        LocalError(options=options)(run(), None, None)


@pytest.mark.parametrize("adjoint", ["direct", "recompute", "backsolve"])
@pytest.mark.parametrize("control", ["none", "path"])
def test_layers(control: str, adjoint: str, f64: KIND) -> None:
    """With a field that reads a path, as a controlled equation's does."""
    net, y0 = TimedMLP(3, seed=3).to(**f64), normal((4, 3), 4, **f64)

    knots = torch.linspace(0, 1, 6, **f64).expand(4, -1)
    path = HermiteCubic(knots, 0.1 * normal((4, 6, 3), 5, **f64))

    def field(t: Tensor, y: Tensor) -> Tensor:
        # dX/dt of one path for each sample, at times that differ between samples.
        return net(t, y) * (path.derivative(t) if control == "path" else 1.0)

    layer = NeuralODE(
        field,
        solver=SolverSettings(rtol=1e-4, adjoint=adjoint),
        regularizers=[LocalError(weight=10.0), LocalStiffness(weight=0.1)],
    ).to(**f64)
    torch.manual_seed(0)
    out = layer(y0, torch.tensor([0.0, 1.0], **f64))
    (out.penalty + out.final.square().mean()).backward()
    assert net.inner.weight.grad.any()

    def drawn_gradients() -> Tensor:
        torch.manual_seed(0)
        again = layer(y0, torch.tensor([0.0, 1.0], **f64))
        return torch.autograd.grad(again.penalty, net.inner.weight)[0]

    assert torch.equal(drawn_gradients(), drawn_gradients())


def test_two_places_of_one_draw(f64: KIND) -> None:
    """Regularizers of one solve get the probes that each of them drew."""
    net, y0 = TimedMLP(3, seed=3).to(**f64), normal((4, 3), 4, **f64)
    rows = torch.zeros(4, **f64)
    two = LocalError(name="second", options=LocalSampling(draws=2))
    drawn = draw((LocalError(), two), rows, rows + 1)
    sol = solve(
        ODETerm(net),
        y0,
        torch.tensor([0.0, 1.0], **f64),
        controller=PID(rtol=1e-4),
        probe_times=drawn.probe_times,
    )
    found = drawn.penalties(sol)
    for regularizer, first, last in ((LocalError(), 0, 1), (two, 1, 3)):
        want = regularizer(
            sol, drawn.probe_times[:, first:last], sol.probes[:, first:last]
        )
        torch.testing.assert_close(found[regularizer.name], want)
