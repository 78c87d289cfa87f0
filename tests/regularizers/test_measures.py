"""What global regularizers count of a step: powers, logarithms, scales, reductions."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from penalised import ADAPTIVE, ATOL, END, FIXED, RTOL, solved
from problems import KIND, TimedMLP, normal
from reference import take_step
from torch import Tensor

from nde.models import NeuralODE, SolverSettings
from nde.regularizers import (
    ErrorEstimate,
    LocalError,
    LocalPredictedSteps,
    LocalSampling,
    Measure,
    PredictedSteps,
    Stiffness,
    draw,
)
from nde.solvers import PID, Direct, ODETerm, Recompute, Solution, solve
from nde.solvers.tableaus import EXPLICIT

FORMS = [
    Measure(power, with_h, log)
    for power, with_h, log in itertools.product((1, 2), (True, False), (True, False))
]
EACH_FORM = pytest.mark.parametrize(
    "measure",
    FORMS,
    ids=lambda m: f"{m.power}{'-h' * m.with_h}{'-log' * m.log}",
)
REDUCE = pytest.mark.parametrize("reduce", ["mean", "sum", "max"])
PER = pytest.mark.parametrize("per", ["sample", "batch"])
GLOBAL = pytest.mark.parametrize("make", [ErrorEstimate, Stiffness])
SCALE = pytest.mark.parametrize("scale", ["attached", "detached"])
ADJOINTS = pytest.mark.parametrize(
    "adjoint", [Recompute(), Direct()], ids=["recompute", "direct"]
)
Global = ErrorEstimate | Stiffness


def uneven(f64: KIND) -> tuple[TimedMLP, Tensor]:
    """A net, and samples of which one needs more steps than the others."""
    y0 = normal((5, 3), 0, **f64)
    y0[0] *= 5
    return TimedMLP(3, gain=3.0).to(**f64), y0


def counted(measure: Measure, x: float, h: float) -> float:
    value = x**measure.power
    value = math.log(value) if measure.log else value
    return value * h if measure.with_h else value


def by_hand(sol: Solution, make: type[Global], m: Measure, reduce: str, per: str):
    each = []
    for i in range(len(sol.status)):
        values = []
        for j in range(int(sol.stats.accepted[i])):
            x = sol.stats.error_estimate[j, i].item()
            if make is Stiffness:
                x = sol.stats.stiffness[j, i].item() / EXPLICIT["tsit5"].stability
            values.append(counted(m, x, sol.stats.step[j, i].item()))
        each.append(values)
    pooled = [value for values in each for value in values]
    if reduce == "sum":
        return sum(pooled) / len(each)
    of = max if reduce == "max" else lambda values: sum(values) / len(values)
    if per == "batch":
        return of(pooled)
    return sum(map(of, each)) / len(each)


@EACH_FORM
@REDUCE
@PER
@GLOBAL
def test_definition(
    make: type[Global], per: str, reduce: str, measure: Measure, f64: KIND
) -> None:
    net, y0 = uneven(f64)
    with torch.no_grad():
        sol = solved(net, y0, f64)
    assert sol.stats.accepted.unique().numel() > 1
    found = make(reduce=reduce, measure=measure, per=per)(sol, None, None)
    want = by_hand(sol, make, measure, reduce, per)
    assert found.item() == pytest.approx(want, rel=1e-11)


def slope_of(value: Callable[[], float], p: Tensor, direction: Tensor) -> float:
    kept, found = p.detach().clone(), []
    with torch.no_grad():
        for eps in (1e-5, -1e-5):
            p.copy_(kept + eps * direction)
            found.append(value())
        p.copy_(kept)
    return (found[0] - found[1]) / 2e-5


@EACH_FORM
@PER
@REDUCE
@GLOBAL
def test_gradient_against_finite_differences(
    make: type[Global], reduce: str, per: str, measure: Measure, f64: KIND
) -> None:
    net, y0 = TimedMLP(3, seed=1, gain=3.0).to(**f64), normal((5, 3), 1, **f64)
    regularizer = make(reduce=reduce, measure=measure, per=per)

    def penalty() -> Tensor:
        return regularizer(solved(net, y0, f64, controller=FIXED), None, None)

    p = net.inner.weight
    direction = normal(tuple(p.shape), 10, **f64)
    (gradient,) = torch.autograd.grad(penalty(), p)
    slope = slope_of(lambda: penalty().item(), p, direction)
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-5)


@EACH_FORM
@PER
@REDUCE
@GLOBAL
def test_a_doubled_batch_changes_nothing(
    make: type[Global], reduce: str, per: str, measure: Measure, f64: KIND
) -> None:
    net, y0 = uneven(f64)
    regularizer = make(reduce=reduce, measure=measure, per=per)
    results = []
    for start in (y0, y0.repeat(2, 1)):
        found = regularizer(solved(net, start, f64), None, None)
        results.append((found, torch.autograd.grad(found, net.inner.weight)[0]))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-10, atol=0)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-7, atol=1e-11)


@EACH_FORM
@REDUCE
@PER
def test_a_constant_field_gives_no_nan(
    per: str, reduce: str, measure: Measure, f64: KIND
) -> None:
    bias = torch.tensor([1.0, -2.0], requires_grad=True, **f64)
    y0 = torch.zeros(3, 2, **f64)
    t0, t1 = torch.zeros(3, **f64), torch.ones(3, **f64)
    drawn = draw(
        (
            ErrorEstimate(reduce=reduce, measure=measure, per=per),
            Stiffness(reduce=reduce, measure=measure, per=per),
            PredictedSteps(),
            LocalError(measure=measure),
            LocalPredictedSteps(),
        ),
        t0,
        t1,
    )
    sol = solve(
        ODETerm(lambda t, y: bias.expand_as(y)),
        y0,
        torch.tensor([0.0, 1.0], **f64),
        probe_times=drawn.probe_times,
    )
    total = drawn.total(drawn.penalties(sol), 0.0)
    assert total.isfinite()
    assert torch.autograd.grad(total, bias)[0].isfinite().all()


@pytest.mark.parametrize("factor", [1e-3, 10.0])
def test_the_logarithm_needs_no_scale(factor: float, f64: KIND) -> None:
    """On one grid other tolerances move the value by a constant, no gradient."""
    net, y0 = TimedMLP(3, seed=1, gain=3.0).to(**f64), normal((5, 3), 1, **f64)
    regularizer = ErrorEstimate(measure=Measure(with_h=False, log=True))
    found = []
    for scale in (1.0, factor):
        controller = type(FIXED)(0.13, rtol=scale * RTOL, atol=scale * ATOL)
        value = regularizer(solved(net, y0, f64, controller=controller), None, None)
        found.append((value, *torch.autograd.grad(value, net.inner.weight)))
    torch.testing.assert_close(
        found[0][0] - found[1][0], torch.tensor(factor).log().to(found[0][0])
    )
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    "regularizer",
    [
        ErrorEstimate(measure=Measure(with_h=False, log=True)),
        LocalError(measure=Measure(with_h=False, log=True)),
        ErrorEstimate(measure=Measure(power=2, with_h=False), per="batch"),
        ErrorEstimate(scale="detached"),
    ],
    ids=["log", "local log", "squared", "detached"],
)
def test_descent_makes_steps_fewer(
    regularizer: ErrorEstimate | LocalError, f64: KIND
) -> None:
    net, y0 = TimedMLP(3, seed=6, gain=3.0).to(**f64), normal((8, 3), 6, **f64)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    layer = NeuralODE(
        net, solver=SolverSettings(rtol=RTOL, atol=ATOL), regularizers=[regularizer]
    )
    torch.manual_seed(0)
    counts = []
    for _ in range(25):
        out = layer(y0, torch.tensor([0.0, END], **f64))
        counts.append(out.solution.stats.evaluations.double().mean().item())
        optimizer.zero_grad()
        out.penalty.backward()
        optimizer.step()
    assert counts[-1] < 0.8 * counts[0]


@ADJOINTS
@SCALE
@pytest.mark.parametrize("fixed", [False, True], ids=["pid", "fixed"])
def test_the_scale_of_errors_is_a_constant_where_asked(
    fixed: bool, scale: str, adjoint: Recompute | Direct, f64: KIND
) -> None:
    """Against steps of a second implementation, whose scale is a number."""
    net, y0 = TimedMLP(3, seed=2, gain=3.0).to(**f64), normal((5, 3), 2, **f64)
    controller = (
        type(FIXED)(0.13, rtol=0.05, atol=1e-6, error_scale=scale)
        if fixed
        else PID(rtol=0.05, atol=1e-6, error_scale=scale)
    )
    sol = solved(net, y0, f64, controller=controller, adjoint=adjoint)
    found = ErrorEstimate(scale=scale)(sol, None, None)
    y, total = y0, torch.zeros((), **f64)
    stats = sol.stats
    for t, h, real in zip(stats.t, stats.step, stats.valid, strict=True):
        h = torch.where(real, h, 1e-3)
        step = take_step(EXPLICIT["tsit5"], net, t, y, h, 0.05, 1e-6)
        error = step.error
        if scale == "detached":
            size = torch.maximum(y.abs(), step.y1.abs()).detach()
            of = 1e-6 + 0.05 * size
            error = take_step(EXPLICIT["tsit5"], net, t, y, h, 0.0, of).error
        total = total + torch.where(real, error * h / stats.accepted, 0.0).mean()
        y = torch.where(real[:, None], step.y1, y)
    torch.testing.assert_close(found, total, rtol=1e-9, atol=0)
    weights = list(net.parameters())
    for x, w in zip(
        torch.autograd.grad(found, weights),
        torch.autograd.grad(total, weights),
        strict=True,
    ):
        assert (x - w).norm() <= 1e-8 * w.norm()


def test_the_scale_makes_a_difference_and_no_step(f64: KIND) -> None:
    net, y0 = TimedMLP(3, seed=2, gain=3.0).to(**f64), normal((5, 3), 2, **f64)
    gradients, steps = [], []
    for scale in ("attached", "detached"):
        controller = PID(rtol=0.05, atol=1e-6, error_scale=scale)
        sol = solved(net, y0, f64, controller=controller)
        found = ErrorEstimate()(sol, None, None)
        gradients.append(torch.autograd.grad(found, net.inner.weight)[0])
        steps.append(sol.stats.step)
    assert torch.equal(*steps)
    assert (gradients[0] - gradients[1]).norm() > 0.05 * gradients[1].norm()


@pytest.mark.parametrize("step", ["accepted", "initial"])
def test_no_gradient_reaches_a_local_step(step: str, f64: KIND) -> None:
    net, y0 = TimedMLP(3).to(**f64), normal((4, 3), 2, **f64)
    options = LocalSampling(step=step, state="attached", average="steps")
    times = options.times(torch.zeros(4, **f64), torch.full((4,), END, **f64))
    sol = solved(net, y0.requires_grad_(), f64, probe_times=times)
    found = options.steps(sol, times, sol.probes)
    assert found.error.requires_grad
    assert not (found.h.requires_grad or found.importance.requires_grad)


@SCALE
def test_local_steps_choose_their_own_scale(scale: str, f64: KIND) -> None:
    net, y0 = TimedMLP(3, seed=2, gain=3.0).to(**f64), normal((4, 3), 2, **f64)
    t0, t1 = torch.zeros(4, **f64), torch.full((4,), END, **f64)
    regularizer = LocalError(options=LocalSampling(scale=scale))
    times = regularizer.times(t0, t1)
    controller = PID(rtol=0.05, atol=1e-6)
    sol = solved(net, y0, f64, controller=controller, probe_times=times)
    (found,) = torch.autograd.grad(
        regularizer(sol, times, sol.probes), net.inner.weight, retain_graph=True
    )
    t, y = times[:, 0], sol.probes[:, 0].detach()
    h = sol.step_at(t)
    step = take_step(EXPLICIT["tsit5"], net, t, y, h, 0.05, 1e-6)
    error = step.error
    if scale == "detached":
        of = 1e-6 + 0.05 * torch.maximum(y.abs(), step.y1.abs()).detach()
        error = take_step(EXPLICIT["tsit5"], net, t, y, h, 0.0, of).error
    (want,) = torch.autograd.grad((error * h).mean(), net.inner.weight)
    assert (found - want).norm() <= 1e-8 * want.norm()


@pytest.mark.parametrize("make", [ErrorEstimate, PredictedSteps])
def test_errors_recorded_with_another_scale_are_refused(
    make: type[ErrorEstimate], f64: KIND
) -> None:
    net, y0 = TimedMLP(3).to(**f64), normal((4, 3), 2, **f64)
    sol = solved(net, y0, f64, controller=ADAPTIVE)
    with pytest.raises(ValueError, match=r"scale='detached'.*PID\(error_scale="):
        make(scale="detached")(sol, None, None)
    assert make(scale="attached")(sol, None, None) > 0


def test_a_layer_solves_with_the_scale_asked_for(f64: KIND) -> None:
    net, y0 = TimedMLP(3).to(**f64), normal((4, 3), 2, **f64)
    ts = torch.tensor([0.0, 1.0], **f64)

    def layer(*regularizers: ErrorEstimate | PredictedSteps) -> NeuralODE:
        return NeuralODE(
            net, solver=SolverSettings(rtol=0.05), regularizers=regularizers
        )

    for scale in ("attached", "detached"):
        out = layer(ErrorEstimate(scale=scale))(y0, ts)
        tolerances = out.solution.record.problem.tolerances
        assert tolerances.detached == (scale == "detached")
    both = layer(ErrorEstimate(scale="detached"), PredictedSteps(scale="attached"))
    with pytest.raises(ValueError, match="one regularizer has scale='attached'"):
        both(y0, ts)
    layer(ErrorEstimate(scale="detached"), PredictedSteps())(y0, ts)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Measure(power=3), "power must be 1 or 2, got 3"),
        (lambda: Measure(power=True), "power must be 1 or 2, got True"),
        (lambda: Measure(log=1), "log must be True or False, got 1"),
        (lambda: Measure(with_h="no"), "with_h must be True or False, got 'no'"),
        (lambda: ErrorEstimate(per="step"), "per must be 'sample' or 'batch'"),
        (lambda: Stiffness(per="row"), "per must be 'sample' or 'batch'"),
        (lambda: ErrorEstimate(scale="free"), "scale must be 'attached', 'detached'"),
        (lambda: PredictedSteps(scale="free"), "scale must be 'attached', 'detached'"),
        (lambda: LocalSampling(scale="free"), "scale must be 'attached', 'detached'"),
        (lambda: PID(error_scale="free"), "error_scale must be 'attached' or"),
        (lambda: type(FIXED)(0.1, error_scale=None), "error_scale must be 'attached'"),
    ],
)
def test_wrong_options(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
