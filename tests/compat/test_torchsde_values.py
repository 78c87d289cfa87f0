"""`sdeint` against torchsde along the same Brownian motion, and its gradients."""

import math
from typing import Any

import pytest
import torch
import torchsde
from sde_gradients import nodes
from sde_sides import BATCH, DT, F64, TS, Equation, interval, motions, start
from torch import Tensor

import nde.compat.torchsde as compat

STRATONOVICH = ("heun", "midpoint", "euler_heun", "log_ode", "reversible_heun")
# Method, interpretation, options.
METHODS = [
    ("euler", "ito", None),
    ("milstein", "ito", None),
    ("milstein", "ito", {"grad_free": True}),
    ("milstein", "stratonovich", None),
    *((name, "stratonovich", None) for name in STRATONOVICH),
]
NOISES = ("diagonal", "scalar", "additive", "general")
CASES = [
    (*case, noise)
    for case in METHODS
    for noise in NOISES
    if case[0] != "milstein" or noise != "general"
] + [("srk", "ito", None, "additive")]


def both(sde: Equation, bm: Any, **kwargs: Any) -> tuple[Any, Any]:
    """What torchsde and this package return, each with a motion made by `bm`."""
    return tuple(
        side.sdeint(sde, start(), TS, bm=bm(), dt=DT, **kwargs)
        for side in (torchsde, compat)
    )


def assert_same(theirs: Any, ours: Any) -> None:
    if isinstance(theirs, Tensor):
        assert ours.is_contiguous() and ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        return
    assert isinstance(theirs, (tuple, list)) and len(ours) == len(theirs)
    for one, other in zip(theirs, ours, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("logqp", [False, True])
@pytest.mark.parametrize(("method", "kind", "options", "noise"), CASES)
def test_values(
    method: str, kind: str, options: dict[str, bool] | None, noise: str, logqp: bool
) -> None:
    sde = Equation(noise, kind)
    m = motions(noise) + (1 if logqp and noise == "diagonal" else 0)
    # Each package's motion drives both; torchsde's remembers what it was asked.
    for side in (torchsde, compat):
        theirs, ours = both(
            sde,
            lambda side=side: interval(m, side),
            method=method,
            options=options,
            logqp=logqp,
            extra=True,
        )
        assert_same(theirs, ours)


@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
def test_srk_converges_to_the_same_path(noise: str) -> None:
    sde, bm = Equation(noise, "ito"), interval(motions(noise))
    distances = []
    for dt in (1 / 8, 1 / 64):
        theirs, ours = (
            side.sdeint(sde, start(), TS, bm=bm, dt=dt, method="srk")
            for side in (torchsde, compat)
        )
        distances.append(float((theirs - ours).abs().max().detach()))
    # Order 1.5 between methods would shrink it 22 times.
    assert distances[1] < distances[0] / 8


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("kind", ["ito", "stratonovich"])
def test_methods_by_default(kind: str, noise: str) -> None:
    bm, sde = interval(motions(noise)), Equation(noise, kind)
    want = {"ito": "srk", "stratonovich": "midpoint"}[kind]
    if (kind, noise) == ("ito", "general"):
        want = "euler"
    named = compat.sdeint(sde, start(), TS, bm=bm, dt=DT, method=want)
    assert torch.equal(compat.sdeint(sde, start(), TS, bm=bm, dt=DT), named)


def gradients(sde: Equation, function: Any, **kwargs: Any) -> list[Tensor]:
    y0 = start().requires_grad_()
    bm = interval(motions(sde.noise_type))
    ys = function(sde, y0, TS, bm=bm, dt=DT, **kwargs)
    loss = sum(part.sin().sum() for part in (ys if isinstance(ys, tuple) else (ys,)))
    return list(torch.autograd.grad(loss, (y0, sde.drift, sde.size)))


@pytest.mark.parametrize(
    ("kind", "noise", "method"),
    [
        ("ito", "diagonal", "milstein"),
        ("ito", "general", "euler"),
        ("stratonovich", "scalar", "midpoint"),
        ("stratonovich", "additive", "heun"),
        ("stratonovich", "general", "log_ode"),
        ("stratonovich", "general", "reversible_heun"),
    ],
)
def test_gradients_are_those_of_the_steps(kind: str, noise: str, method: str) -> None:
    sde = Equation(noise, kind)
    theirs = gradients(sde, torchsde.sdeint, method=method)
    for function in (compat.sdeint, compat.sdeint_adjoint):
        assert_same(theirs, gradients(sde, function, method=method))


def test_gradients_of_their_reversible_adjoint() -> None:
    sde = Equation("diagonal", "stratonovich")
    names = {"method": "reversible_heun", "adjoint_method": "adjoint_reversible_heun"}
    theirs = gradients(sde, torchsde.sdeint_adjoint, **names)
    assert_same(theirs, gradients(sde, compat.sdeint_adjoint, **names))
    ys = compat.sdeint_adjoint(sde, start(), TS, dt=DT, **names)
    assert "_ReversibleBackward" in nodes(ys)


@pytest.mark.parametrize("noise", ["diagonal", "general"])
def test_gradients_of_the_divergence(noise: str) -> None:
    sde = Equation(noise, "stratonovich")
    m = motions(noise) + (noise == "diagonal")
    grads = []
    for function in (torchsde.sdeint, compat.sdeint, compat.sdeint_adjoint):
        _, kl = function(
            sde, start(), TS, bm=interval(m), dt=DT, method="heun", logqp=True
        )
        assert kl.shape == (len(TS) - 1, BATCH)
        grads.append(torch.autograd.grad(kl.sum(), (sde.drift, sde.size)))
    assert_same(grads[0], grads[1])
    assert_same(grads[0], grads[2])


def test_only_adjoint_params_get_gradients() -> None:
    sde = Equation("diagonal", "ito")
    ys = compat.sdeint_adjoint(
        sde, start(), TS, dt=DT, method="euler", adjoint_params=(sde.drift,)
    )
    ys.sum().backward()
    assert sde.drift.grad is not None and sde.size.grad is None


def test_divergence_is_known_and_finite_without_noise() -> None:
    class Shift(compat.SDEIto):
        size = 0.5

        def f(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.ones_like(y)

        def g(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.full_like(y, self.size)

        def h(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.full_like(y, 1.0 if self.size == 0.0 else 0.0)

    sde = Shift("diagonal")
    _, kl = sde_divergence(sde)
    # |u|^2 / 2 with u = 1 / 0.5 in three channels, over steps of 1/4.
    torch.testing.assert_close(kl, torch.full_like(kl, 3 * 0.5 * 4.0 / 4))
    sde.size = 0.0
    _, none = sde_divergence(sde)
    assert torch.equal(none, torch.zeros_like(none))


def sde_divergence(sde: Any) -> Any:
    # As many channels as the state, which torchsde refuses.
    bm = interval(motions("diagonal"))
    return compat.sdeint(sde, start(), TS, bm=bm, dt=DT, logqp=True)


@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general"])
def test_a_solve_goes_on_from_its_extra_state(noise: str) -> None:
    sde, bm = Equation(noise, "stratonovich"), interval(motions(noise))
    options: dict[str, Any] = {"bm": bm, "dt": DT, "method": "reversible_heun"}
    whole, end = compat.sdeint(sde, start(), TS, extra=True, **options)
    first, middle = compat.sdeint(sde, start(), TS[:3], extra=True, **options)
    second, last = compat.sdeint(
        sde, first[-1], TS[2:], extra=True, extra_solver_state=middle, **options
    )
    assert_same(whole, torch.cat([first, second[1:]]))
    assert_same(end, last)
    fresh = compat.sdeint(sde, first[-1], TS[2:], **options)
    assert not torch.allclose(fresh, second)
    again, _ = compat.sdeint_adjoint(
        sde, first[-1], TS[2:], extra=True, extra_solver_state=middle, **options
    )
    assert_same(second, again)
    assert torch.autograd.grad(whole.sum(), sde.size)[0].isfinite().all()


def test_the_extra_state_is_the_last_step_s_where_states_are_apart() -> None:
    """Beside a warning of it, which looks at further steps."""

    class Contracting(compat.SDEStratonovich):
        def f(self, t: Tensor, y: Tensor) -> Tensor:
            return -16.0 * y

        def g(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.ones_like(y)

    with pytest.warns(UserWarning, match="two states"):
        ours, theirs = both(
            Contracting("diagonal"),
            lambda: interval(motions("diagonal")),
            method="reversible_heun",
            extra=True,
        )
    assert_same(ours[1], theirs[1])


def test_outputs_off_the_grid_have_their_variance() -> None:
    class Walk(compat.SDEIto):
        def f(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.zeros_like(y)

        def g(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.ones_like(y)

    count, t = 40_000, 39 / 128
    bm = compat.BrownianInterval(0.0, 1.0, (count, 1), entropy=5, **F64)
    ys = compat.sdeint(
        Walk("diagonal"),
        torch.zeros(count, 1, **F64),
        [0.0, t, 1.0],
        bm=bm,
        dt=1 / 8,
        method="euler",
    )
    error = t * math.sqrt(2.0 / count)
    assert abs(float(ys[1].var()) - t) < 4 * error
    torch.testing.assert_close(ys[1], bm(0.0, t), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["defined", "joint", "products", "joint products"])
@pytest.mark.parametrize("noise", NOISES)
def test_whatever_functions_are_defined(noise: str, kind: str) -> None:
    whole = Equation(noise, "stratonovich")

    class Parts:
        noise_type, sde_type = noise, "stratonovich"

    def product(t: Tensor, y: Tensor, v: Tensor) -> Tensor:
        g = whole.g(t, y)
        return g * v if noise == "diagonal" else torch.bmm(g, v.unsqueeze(2)).squeeze(2)

    parts: Any = Parts()
    if kind == "joint":
        parts.f_and_g = lambda t, y: (whole.f(t, y), whole.g(t, y))
    elif kind == "products":
        parts.f, parts.g_prod = whole.f, product
    elif kind == "joint products":
        parts.f_and_g_prod = lambda t, y, v: (whole.f(t, y), product(t, y, v))
    else:
        parts.slope, parts.spread = whole.f, whole.g
    names = {"drift": "slope", "diffusion": "spread"} if kind == "defined" else None
    bm = interval(motions(noise))
    for method in ("heun", "log_ode"):
        want = compat.sdeint(whole, start(), TS, bm=bm, dt=DT, method=method)
        got = compat.sdeint(
            parts, start(), TS, bm=bm, dt=DT, method=method, names=names
        )
        assert_same(want.detach(), got.detach())


def test_a_prior_by_another_name() -> None:
    sde = Equation("diagonal", "ito")
    bm = interval(motions("diagonal"))
    options: dict[str, Any] = {"bm": bm, "dt": DT, "logqp": True}
    want = compat.sdeint(sde, start(), TS, **options)
    sde.old = sde.h
    got = compat.sdeint(sde, start(), TS, names={"prior_drift": "old"}, **options)
    assert_same(want, got)


def test_the_seed_of_torch_gives_the_path() -> None:
    sde = Equation("diagonal", "ito")
    paths = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        paths.append(compat.sdeint(sde, start(), TS, dt=DT))
    assert torch.equal(paths[0], paths[1])
    assert not torch.allclose(paths[0], paths[2])


@pytest.mark.parametrize("make", [torchsde, compat])
@pytest.mark.parametrize(
    ("method", "kind", "noise"),
    [
        ("euler", "ito", "diagonal"),
        ("srk", "ito", "scalar"),
        ("midpoint", "stratonovich", "general"),
        ("reversible_heun", "stratonovich", "diagonal"),
    ],
)
def test_adaptive_steps(make: Any, method: str, kind: str, noise: str) -> None:
    """Nearer to fine fixed steps along the same motion as the tolerance shrinks."""
    sde = Equation(noise, kind)
    motion = make.BrownianInterval(
        t0=0.0,
        t1=1.0,
        size=(BATCH, motions(noise)),
        entropy=3,
        levy_area_approximation="space-time",
        **F64,
    )
    exact = compat.sdeint(sde, start(), TS, bm=motion, method=method, dt=2.0**-9)
    errors = []
    for tol in (1e-1, 1e-3):
        got = compat.sdeint(
            sde,
            start(),
            TS,
            bm=motion,
            method=method,
            dt=0.25,
            adaptive=True,
            rtol=tol,
            atol=tol,
        )
        errors.append(float((got - exact).detach().square().mean().sqrt()))
    assert 0 < errors[1] < 0.4 * errors[0]


def test_adaptive_gradients() -> None:
    sde = Equation("diagonal", "ito")
    got = []
    for function in (compat.sdeint, compat.sdeint_adjoint):
        motion = compat.BrownianInterval(
            t0=0.0,
            t1=1.0,
            size=(BATCH, motions("diagonal")),
            entropy=3,
            levy_area_approximation="space-time",
            **F64,
        )
        ys = function(sde, start(), TS, bm=motion, method="srk", adaptive=True, dt=0.1)
        got.append(torch.autograd.grad(ys.square().sum(), list(sde.parameters())))
    for one, other in zip(*got, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
