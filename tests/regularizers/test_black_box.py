"""Local regularizers of solves by other packages, and of states alone."""

from typing import Any

import pytest
import torch
import torchdiffeq
import torchsde
from problems import TimedMLP, normal
from torch import Tensor, nn

from nde.regularizers import (
    ErrorEstimate,
    LocalError,
    LocalPredictedSteps,
    LocalSampling,
    LocalStiffness,
    PredictedSteps,
    Stiffness,
    draw,
)
from nde.regularizers.base import Draw
from nde.solvers import (
    PID,
    FixedSteps,
    ODETerm,
    ProbedTimes,
    SDETerm,
    Solution,
    StepRecorder,
    TakenStep,
    foreign_solution,
    solve,
)
from nde.solvers.brownian import BrownianTree, FromTorchsde

F64 = {"dtype": torch.float64}
RTOL, ATOL = 1e-5, 1e-6
TS = torch.tensor([0.0, 0.5, 1.4], **F64)
SAMPLING = pytest.mark.parametrize("sampling", ["unbiased", "biased"])


def theirs(
    net: nn.Module, y0: Tensor, drawn: Draw, ts: Tensor = TS, odeint: Any = None
) -> Solution:
    """A solve by torchdiffeq, as its users would regularize it."""
    recorder = StepRecorder(net)
    times = ProbedTimes(ts, drawn.probe_times)
    states = (odeint or torchdiffeq.odeint_adjoint)(
        recorder, y0, times.all, method="dopri5", rtol=RTOL, atol=ATOL
    )
    ys, probes = times.split(states)
    return foreign_solution(
        ODETerm(net),
        ts,
        ys,
        method="dopri5",
        probes=probes,
        steps=recorder.take(),
        rtol=RTOL,
        atol=ATOL,
    )


def drawn_for(*regularizers: Any, ts: Tensor = TS) -> Draw:
    return draw(regularizers, ts[:1], ts[-1:])


def a_net() -> tuple[TimedMLP, Tensor]:
    return TimedMLP(3, seed=3, gain=3.0).to(**F64), normal((4, 3), 4, **F64)


@SAMPLING
@pytest.mark.parametrize("reverse", [False, True])
def test_penalties_are_those_of_our_own_solve(reverse: bool, sampling: str) -> None:
    """From the same places of one solution: values, and gradients of the weights."""
    net, y0 = a_net()
    ts = TS.flip(0) if reverse else TS
    options = LocalSampling(sampling=sampling, draws=3)
    regularizers = (
        LocalError(options=options),
        LocalStiffness(options=options),
        LocalPredictedSteps(options=options),
    )
    torch.manual_seed(0)
    drawn = drawn_for(*regularizers, ts=ts)
    sol = theirs(net, y0, drawn, ts)
    assert len(sol.stats.step) > 5
    own = solve(
        ODETerm(net),
        y0,
        ts,
        method="dopri5",
        controller=PID(rtol=RTOL, atol=ATOL),
        batch="shared",
    )
    torch.manual_seed(1)
    found = drawn.penalties(sol)
    number = torch.arange(len(sol.stats.step))
    for value in found.values():
        assert value > 0
        assert torch.autograd.grad(value, net.inner.weight, retain_graph=True)[0].any()
    for j in number:
        t, h, y = sol.accepted_step(j.reshape(1))
        assert (t <= 1.4).all() and (t >= 0.0).all() and (h > 0).all()
        for one, other in zip(
            sol.embedded_step(t, y, h), own.embedded_step(t, y, h), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
            slopes = [
                torch.autograd.grad(x.sum(), net.inner.weight, retain_graph=True)[0]
                for x in (one, other)
            ]
            torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-14)
    # Their steps are those of this method: the tolerance holds for its estimate.
    errors = []
    for j in number:
        t, h, y = sol.accepted_step(j.reshape(1))
        errors.append(sol.embedded_step(t, y, h)[0].item())
    assert 0.05 < max(errors) < 1.6


@SAMPLING
def test_expected_biased_penalty_is_the_mean_over_their_steps(sampling: str) -> None:
    net, y0 = a_net()
    options = LocalSampling(sampling=sampling, draws=800, average="steps")
    regularizer = LocalError(options=options)
    torch.manual_seed(0)
    drawn = drawn_for(regularizer)
    sol = theirs(net, y0, drawn)
    (value,) = drawn.penalties(sol).values()
    each = []
    for j in range(len(sol.stats.step)):
        t, h, y = sol.accepted_step(torch.tensor([j]))
        each.append((sol.embedded_step(t, y, h)[0] * h).detach())
    every = torch.cat(each)
    slack = 4.5 * every.std() / 800**0.5
    if sampling == "unbiased":
        # Steps from the middle of theirs are others: a sample of about the same.
        slack = 0.5 * every.mean()
    assert (value - every.mean()).abs() < slack


def test_gradients_through_their_adjoint() -> None:
    """The state that a step starts from may carry the gradient of their adjoint."""
    net, _ = a_net()
    for state in ("detached", "attached"):
        regularizer = LocalError(options=LocalSampling(state=state, draws=2))
        torch.manual_seed(0)
        drawn = drawn_for(regularizer)
        found = []
        for odeint in (torchdiffeq.odeint_adjoint, torchdiffeq.odeint):
            y0 = normal((4, 3), 4, **F64).requires_grad_()
            sol = theirs(net, y0, drawn, odeint=odeint)
            (value,) = drawn.penalties(sol).values()
            loss = value + 0.0 * sol.final.sum()
            found.append(torch.autograd.grad(loss, (y0, *net.parameters())))
        assert bool(found[0][0].any()) == (state == "attached")
        for one, other in zip(*found, strict=True):
            assert (one - other).norm() <= 3e-3 * other.norm()
        # Of the weights, the detached state leaves the step alone to differentiate.
        if state == "detached":
            torch.testing.assert_close(found[0][1:], found[1][1:], rtol=1e-9, atol=0)


def test_descent_makes_their_steps_fewer() -> None:
    net, y0 = TimedMLP(3, seed=6, gain=3.0).to(**F64), normal((8, 3), 6, **F64)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    torch.manual_seed(0)
    counts = []
    for _ in range(60):
        drawn = drawn_for(LocalError())
        sol = theirs(net, y0, drawn)
        counts.append(len(sol.stats.step))
        optimizer.zero_grad()
        drawn.total(drawn.penalties(sol), 0.0).backward()
        optimizer.step()
    assert counts[-1] < 0.8 * counts[0]


def test_their_nested_states() -> None:
    net, y0 = a_net()

    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
            out = self.net(t, torch.cat(y, -1))
            return out[:, :1], out[:, 1:]

    torch.manual_seed(0)
    drawn = drawn_for(LocalError())
    flat = theirs(net, y0, drawn)
    nested = theirs(Nested(), (y0[:, :1], y0[:, 1:]), drawn)
    values = []
    for sol in (flat, nested):
        # From the same place, as their norm of nested states is another.
        t, h = drawn.times[0][:, 0], torch.tensor([0.1], **F64)
        y = sol.probes[:, 0] if sol is flat else tuple(p[:, 0] for p in sol.probes)
        values.append(sol.embedded_step(t, y, h)[0])
        assert drawn.penalties(sol)["local-error"] > 0
    torch.testing.assert_close(*values, rtol=1e-2, atol=0)


class Equation(nn.Module):
    """An SDE as torchsde takes it."""

    noise_type = "diagonal"

    def __init__(self, sde_type: str) -> None:
        super().__init__()
        self.sde_type = sde_type
        self.net = TimedMLP(3, seed=3).to(**F64)
        self.size = nn.Parameter(torch.tensor(0.3, **F64))

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(torch.as_tensor(t, **F64), y)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        return self.size + 0.1 * y


def an_sde(
    sde_type: str, drawn: Draw, bm: Any, sdeint: Any = torchsde.sdeint_adjoint
) -> tuple[Equation, Solution]:
    """A solve by torchsde, as its users would regularize it."""
    sde, y0 = Equation(sde_type), normal((4, 3), 4, **F64)
    times = ProbedTimes(TS, drawn.probe_times)
    method = "midpoint" if sde_type == "stratonovich" else "euler"
    states = sdeint(sde, y0, times.all, bm=bm, dt=0.05, method=method)
    ys, probes = times.split(states)
    return sde, foreign_solution(
        SDETerm(sde.f, sde.g, interpretation=sde_type),
        TS,
        ys,
        method="heun" if sde_type == "stratonovich" else "sosri2",
        probes=probes,
        step=0.05,
        rtol=1e-2,
        atol=1e-2,
        noise=FromTorchsde(bm),
    )


def motion() -> torchsde.BrownianInterval:
    return torchsde.BrownianInterval(
        t0=0.0,
        t1=1.4,
        size=(4, 3),
        dtype=torch.float64,
        entropy=1,
        levy_area_approximation="space-time",
    )


@SAMPLING
@pytest.mark.parametrize("noise", ["fresh", "same"])
@pytest.mark.parametrize("sde_type", ["ito", "stratonovich"])
def test_solves_by_torchsde(sde_type: str, noise: str, sampling: str) -> None:
    options = LocalSampling(sampling=sampling, noise=noise, draws=2)
    regularizer = LocalError(options=options)
    torch.manual_seed(0)
    drawn = drawn_for(regularizer)
    sde, sol = an_sde(sde_type, drawn, motion())
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(drawn.penalties(sol)["local-error"])
    assert torch.equal(values[0], values[1]) and values[0] > 0
    if sampling == "unbiased":
        assert torch.equal(values[0], values[2]) == (noise == "same")
    loss = values[0] + sol.final.square().mean()
    for gradient in torch.autograd.grad(loss, list(sde.parameters())):
        assert gradient.isfinite().all() and gradient.any()


@SAMPLING
@pytest.mark.parametrize("average", ["steps", "time"])
def test_steps_of_one_length_are_of_one_importance(average: str, sampling: str) -> None:
    """Also where they do not reach from one output to the next."""
    options = LocalSampling(sampling=sampling, average=average, draws=3)
    torch.manual_seed(0)
    drawn = drawn_for(LocalError(options=options))
    _, sol = an_sde("stratonovich", drawn, motion())
    found = options.steps(sol, drawn.times[0], sol.probes)
    torch.testing.assert_close(found.importance, torch.ones(3, 1, **F64))
    assert (found.h <= 0.05).all() and found.h.max() == 0.05


def test_their_motion_drives_the_step() -> None:
    """Along a motion that both have, a step is that of our solve."""
    tree = BrownianTree(3, 0.0, 1.4, (4, 3), **F64)
    sde, y0 = Equation("stratonovich"), normal((4, 3), 4, **F64)
    term = SDETerm(sde.f, sde.g, interpretation="stratonovich")
    ts = torch.linspace(0, 1.4, 15, **F64)
    own = solve(
        term, y0, ts, method="heun", controller=FixedSteps(0.1, rtol=RTOL), noise=tree
    )
    sol = foreign_solution(
        term, ts, own.ys.transpose(0, 1), method="heun", rtol=RTOL, noise=tree
    )
    for j in range(14):
        t, h, y = sol.accepted_step(torch.tensor([j]))
        error, _ = sol.embedded_step(t, y, h, noise="same")
        # One error of the batch, the RMS of those of its samples.
        want = own.stats.error_estimate[j].square().mean().sqrt()
        torch.testing.assert_close(error, want.reshape(1), rtol=1e-7, atol=0)


def test_states_and_times_are_enough() -> None:
    """Each output but the last begins a step, up to the next one."""
    net, y0 = a_net()
    ts = torch.linspace(0, 1, 6, **F64)
    ys = torchdiffeq.odeint(net, y0, ts, method="rk4")
    sol = foreign_solution(ODETerm(net), ts, ys, method="tsit5")
    torch.testing.assert_close(sol.stats.t[:, 0], ts[:-1])
    torch.testing.assert_close(sol.stats.step[:, 0], ts.diff())
    torch.testing.assert_close(sol.ys, ys.transpose(0, 1))
    torch.testing.assert_close(sol.final, ys[-1])
    value = LocalError(options=LocalSampling(sampling="biased"))(sol, None, None)
    assert torch.autograd.grad(value, net.inner.weight)[0].any()


@pytest.mark.parametrize(
    "make", [ErrorEstimate, Stiffness, PredictedSteps], ids=lambda m: m.__name__
)
def test_global_regularizers_refuse_them(make: Any) -> None:
    net, y0 = a_net()
    sol = theirs(net, y0, drawn_for())
    with pytest.raises(ValueError, match="another solver.*LocalError"):
        make()(sol, None, None)


def test_what_cannot_be_told_is_refused() -> None:
    net, y0 = a_net()
    ys = torch.stack([y0, y0, y0])
    term = ODETerm(net)
    for words, wrong in [
        ("give one", {"steps": [TakenStep(0.0, 0.1, y0)], "step": 0.1}),
        ("step must be > 0, got -1.0", {"step": -1.0}),
        ("steps is empty", {"steps": []}),
        ("steps do not follow", {"steps": [TakenStep(0.0, 0.1, y0)] * 2}),
        ("steps do not follow", {"steps": [TakenStep(1.4, 0.1, y0)]}),
        ("noise is for an SDETerm", {"noise": BrownianTree(1, 0.0, 2.0, (4, 3))}),
        ("not known for an ODETerm", {"method": "rk5"}),
        ("strictly monotone", {"ts": torch.tensor([0.0, 0.0, 1.0])}),
        ("at least two", {"ts": torch.tensor([0.0])}),
    ]:
        arguments = {"ts": TS, "method": "dopri5"} | wrong
        with pytest.raises(ValueError, match=words):
            foreign_solution(term, ys=ys, **arguments)
    with pytest.raises(ValueError, match="draw for t0, t1 of shape"):
        ProbedTimes(TS, torch.zeros(4, 1))
    sde = SDETerm(net, lambda t, y: 0.1 * y)
    sol = foreign_solution(sde, TS, ys, method="milstein")
    options = LocalSampling(sampling="biased", noise="same")
    with pytest.raises(ValueError, match="noise='same'.*foreign_solution"):
        LocalError(options=options)(sol, None, None)


def test_probes_that_are_outputs_are_solved_for_once() -> None:
    """And times keep their graph, in either direction."""
    for sign in (1.0, -1.0):
        ts = (sign * TS).requires_grad_()
        times = ProbedTimes(ts, sign * torch.tensor([0.5, 0.1, 0.5], **F64))
        assert (sign * times.all).tolist() == [0.0, 0.1, 0.5, 1.4]
        assert times.all.requires_grad
        ys, probes = times.split((sign * times.all).reshape(4, 1, 1))
        assert ys.flatten().tolist() == [0.0, 0.5, 1.4]
        assert probes.shape == (1, 3, 1)
        assert probes.flatten().tolist() == [0.5, 0.1, 0.5]
    assert ProbedTimes(TS, None).split(TS)[1] is None
