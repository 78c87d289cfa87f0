"""Local regularizers: what they are worth, and what they differentiate."""

import pytest
import torch
from penalised import ADAPTIVE, END, FIXED, solved
from problems import KIND, TimedMLP, normal
from torch import Tensor

from nde.regularizers import (
    LocalError,
    LocalSampling,
    LocalStiffness,
    draw,
)
from nde.solvers import (
    Direct,
    FixedSteps,
    ODETerm,
    Recompute,
    SDETerm,
    solve,
)

ADJOINTS = pytest.mark.parametrize(
    "adjoint", [Recompute(), Direct()], ids=["recompute", "direct"]
)
SAMPLING = pytest.mark.parametrize("sampling", ["unbiased", "biased"])


@ADJOINTS
@SAMPLING
@pytest.mark.parametrize("make", [LocalError, LocalStiffness])
def test_gradient_against_finite_differences(
    make: type[LocalError] | type[LocalStiffness],
    sampling: str,
    adjoint: Recompute | Direct,
    f64: KIND,
) -> None:
    """With the step and the state it starts from held, as its definition says."""
    net, y0 = TimedMLP(3, seed=3, gain=3.0).to(**f64), normal((4, 3), 4, **f64)
    regularizer = make(options=LocalSampling(sampling=sampling))
    t0, t1 = torch.zeros(4, **f64), torch.full((4,), END, **f64)
    times = regularizer.times(t0, t1)
    assert (times is None) == (sampling == "biased")
    sol = solved(net, y0, f64, adjoint=adjoint, probe_times=times)
    torch.manual_seed(7)
    penalty = regularizer(sol, times, sol.probes)

    def again() -> float:
        # The same solution object: its steps and states stay, the weights move.
        torch.manual_seed(7)
        with torch.no_grad():
            return regularizer(sol, times, sol.probes).item()

    assert again() == pytest.approx(penalty.item(), rel=1e-10)
    parameters = list(net.parameters())
    for index, gradient in enumerate(torch.autograd.grad(penalty, parameters)):
        p = parameters[index]
        direction = normal(tuple(p.shape), 30 + index, **f64)
        kept, found = p.detach().clone(), []
        with torch.no_grad():
            for eps in (1e-5, -1e-5):
                p.copy_(kept + eps * direction)
                found.append(again())
            p.copy_(kept)
        slope = (found[0] - found[1]) / 2e-5
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-5)


def test_the_state_is_detached_unless_asked(f64: KIND) -> None:
    net = TimedMLP(3, seed=3).to(**f64)
    y0 = normal((4, 3), 4, **f64).requires_grad_()
    t0, t1 = torch.zeros(4, **f64), torch.full((4,), END, **f64)
    for state in ("detached", "attached"):
        regularizer = LocalError(options=LocalSampling(state=state))
        times = regularizer.times(t0, t1)
        sol = solved(net, y0, f64, probe_times=times)
        (gradient,) = torch.autograd.grad(
            regularizer(sol, times, sol.probes), y0, allow_unused=True
        )
        if state == "detached":
            assert gradient is None or not gradient.any()
        else:
            assert gradient.abs().max() > 0


def test_decreasing_time(f64: KIND) -> None:
    """Solving backwards is the mirrored problem, its local penalty too."""
    net, y0 = TimedMLP(3, seed=6).to(**f64), normal((4, 3), 7, **f64)
    forward = torch.tensor([0.0, END], **f64)
    times = torch.tensor([[0.2], [0.5], [1.1], [1.35]], **f64)
    regularizer = LocalError()
    mirrored = solve(
        ODETerm(lambda t, y: -net(-t, y)),
        y0,
        forward,
        controller=ADAPTIVE,
        probe_times=times,
    )
    backward = solve(
        ODETerm(net), y0, -forward, controller=ADAPTIVE, probe_times=-times
    )
    torch.testing.assert_close(
        regularizer(backward, -times, backward.probes),
        regularizer(mirrored, times, mirrored.probes),
        rtol=1e-9,
        atol=0,
    )


@SAMPLING
def test_a_doubled_batch_changes_nothing(sampling: str, f64: KIND) -> None:
    net, y0 = TimedMLP(3, seed=7).to(**f64), normal((4, 3), 8, **f64)
    t0, t1 = torch.zeros(4, **f64), torch.full((4,), END, **f64)
    options = LocalSampling(sampling=sampling)
    times = options.times(t0, t1)
    once = solved(net, y0, f64, probe_times=times)
    doubled = None if times is None else times.repeat(2, 1)
    twice = solved(net, y0.repeat(2, 1), f64, probe_times=doubled)
    if sampling == "unbiased":
        found = LocalError(options=options)(twice, doubled, twice.probes)
        want = LocalError(options=options)(once, times, once.probes)
    else:
        number = torch.tensor([0, 1, 2, 1], device=y0.device)
        means = []
        for sol, steps in ((once, number), (twice, number.repeat(2))):
            t, h, y = sol.accepted_step(steps)
            means.append((sol.embedded_step(t, y, h)[0] * h).mean())
        want, found = means
    torch.testing.assert_close(found, want, rtol=1e-9, atol=0)


@ADJOINTS
@SAMPLING
def test_probing_changes_no_step(
    sampling: str, adjoint: Recompute | Direct, f64: KIND
) -> None:
    net, y0 = TimedMLP(3, seed=8).to(**f64), normal((4, 3), 9, **f64)
    t0, t1 = torch.zeros(4, **f64), torch.full((4,), END, **f64)
    drawn = draw((LocalError(options=LocalSampling(sampling=sampling)),), t0, t1)
    assert (drawn.probe_times is None) == (sampling == "biased")
    with_it = solved(net, y0, f64, adjoint=adjoint, probe_times=drawn.probe_times)
    drawn.total(drawn.penalties(with_it), 0.5).backward()
    without = solved(net, y0, f64, adjoint=adjoint)
    assert torch.equal(with_it.ys, without.ys)
    assert torch.equal(with_it.stats.step, without.stats.step)
    assert torch.equal(with_it.stats.evaluations, without.stats.evaluations)


@SAMPLING
def test_a_constant_field_gives_no_nan(sampling: str, f64: KIND) -> None:
    bias = torch.tensor([1.0, -2.0], requires_grad=True, **f64)
    y0 = torch.zeros(3, 2, **f64)
    t0, t1 = torch.zeros(3, **f64), torch.ones(3, **f64)
    options = LocalSampling(sampling=sampling)
    for field in (lambda t, y: bias.expand_as(y), lambda t, y: 0 * bias + 0 * y):
        drawn = draw(
            (LocalError(options=options), LocalStiffness(options=options)), t0, t1
        )
        sol = solve(
            ODETerm(field),
            y0,
            torch.stack((t0[0], t1[0])),
            probe_times=drawn.probe_times,
        )
        total = drawn.total(drawn.penalties(sol), 0.0)
        assert total.isfinite()
        assert torch.autograd.grad(total, bias)[0].isfinite().all()


@SAMPLING
@pytest.mark.parametrize("rate", [-4.0, 2.0])
def test_local_stiffness_is_the_eigenvalue(
    sampling: str, rate: float, f64: KIND
) -> None:
    y0, ts = torch.ones(3, 2, **f64), torch.tensor([0.0, 1.0], **f64)
    factor = torch.tensor(rate, requires_grad=True, **f64)
    regularizer = LocalStiffness(options=LocalSampling(sampling=sampling))
    times = regularizer.times(torch.zeros(3, **f64), torch.ones(3, **f64))
    sol = solve(
        ODETerm(lambda t, y: factor * y),
        y0,
        ts,
        controller=ADAPTIVE,
        probe_times=times,
    )
    found = regularizer(sol, times, sol.probes)
    assert found.item() == pytest.approx(abs(rate) / 3.5068, rel=1e-4)


@SAMPLING
def test_shared_batches_and_nested_states(sampling: str, f64: KIND) -> None:
    """One row of steps for all; the probes are read at one time."""
    net, y0 = TimedMLP(3, seed=9).to(**f64), normal((5, 3), 10, **f64)
    t0, t1 = torch.zeros(1, **f64), torch.full((1,), END, **f64)
    regularizer = LocalError(options=LocalSampling(sampling=sampling))
    values = []
    for nested in (False, True):
        torch.manual_seed(1)
        drawn = draw((regularizer,), t0, t1)
        field = net
        start: object = y0
        if nested:
            start = {"a": y0[:, :1], "b": y0[:, 1:]}

            def field(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
                out = net(t, torch.cat((y["a"], y["b"]), -1))
                return {"a": out[:, :1], "b": out[:, 1:]}

        sol = solve(
            ODETerm(field),
            start,
            torch.tensor([0.0, END], **f64),
            controller=ADAPTIVE,
            batch="shared",
            probe_times=drawn.probe_times,
        )
        torch.manual_seed(2)
        (value,) = drawn.penalties(sol).values()
        values.append(value)
    torch.testing.assert_close(values[0], values[1], rtol=1e-10, atol=0)
    assert torch.autograd.grad(values[1], net.inner.weight)[0].any()


def test_without_gradients_the_biased_draw_says_why(f64: KIND) -> None:
    net, y0 = TimedMLP(3).to(**f64), normal((4, 3), 0, **f64)
    with torch.no_grad():
        sol = solved(net, y0, f64)
    with pytest.raises(ValueError, match="gradient"):
        LocalError(options=LocalSampling(sampling="biased"))(sol, None, None)


@pytest.mark.parametrize(
    ("make", "method", "words"),
    [(LocalError, "rk4", "rk4.*tsit5"), (LocalStiffness, "bosh3", "bosh3.*tsit5")],
)
def test_methods_without_the_estimate_are_refused(
    make: type[LocalError], method: str, words: str, f64: KIND
) -> None:
    net, y0 = TimedMLP(3).to(**f64), normal((4, 3), 0, **f64)
    sol = solved(net, y0, f64, method=method, controller=FIXED)
    regularizer = make(options=LocalSampling(sampling="biased"))
    with pytest.raises(ValueError, match=words):
        regularizer(sol, None, None)


@SAMPLING
def test_sde_steps_use_fresh_noise(sampling: str, f64: KIND) -> None:
    net, y0 = TimedMLP(3).to(**f64), normal((4, 3), 0, **f64)
    term = SDETerm(net, lambda t, y: 0.3 + 0.1 * y, interpretation="stratonovich")
    regularizer = LocalError(options=LocalSampling(sampling=sampling))
    rows = torch.zeros(4, **f64)
    times = regularizer.times(rows, rows + 1)
    sol = solve(
        term,
        y0,
        torch.tensor([0.0, 1.0], **f64),
        method="heun",
        controller=FixedSteps(0.1),
        probe_times=times,
    )
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(regularizer(sol, times, sol.probes))
    assert torch.equal(values[0], values[1])
    assert not torch.isclose(values[0], values[2])
    assert torch.autograd.grad(values[0], net.inner.weight)[0].isfinite().all()
