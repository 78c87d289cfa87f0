"""Signatures as torchsde has them, and every bad input refused by name."""

import inspect
from typing import Any

import pytest
import torch
import torchsde
from sde_sides import BATCH, DIM, DT, F64, TS, Equation, interval, start
from torch import Tensor, nn

import nde.compat.torchsde as compat
from nde.compat.torchsde.integrate import prepare
from nde.solvers import PID, SolveError


def test_every_public_name() -> None:
    public = {
        name
        for name, value in vars(torchsde).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == set(compat.__all__)


@pytest.mark.parametrize("name", compat.__all__)
def test_signatures_are_theirs(name: str) -> None:
    theirs, ours = (
        inspect.signature(getattr(side, name)).parameters for side in (torchsde, compat)
    )
    if name == "BaseBrownian":
        theirs, ours = (
            inspect.signature(side.BaseBrownian.__call__).parameters
            for side in (torchsde, compat)
        )
    assert list(ours) == list(theirs)
    for key, parameter in theirs.items():
        assert ours[key].kind == parameter.kind
        assert ours[key].default == parameter.default


@pytest.mark.parametrize(
    "name", ["BrownianInterval", "BrownianPath", "BrownianTree", "ReverseBrownian"]
)
def test_attributes_are_theirs(name: str) -> None:
    theirs, ours = (getattr(side, name) for side in (torchsde, compat))
    assert {a for a in dir(theirs) if not a.startswith("_")} <= set(dir(ours))
    assert issubclass(ours, compat.BaseBrownian)
    call, other = (
        list(inspect.signature(side.__call__).parameters.items())
        for side in (theirs, ours)
    )
    assert [(k, p.default) for k, p in call] == [(k, p.default) for k, p in other]


@pytest.mark.parametrize("base", ["SDEIto", "SDEStratonovich", "BaseSDE"])
def test_base_classes(base: str) -> None:
    for side in (torchsde, compat):
        words = ("diagonal", "ito") if base == "BaseSDE" else ("diagonal",)
        made = getattr(side, base)(*words)
        assert isinstance(made, nn.Module) and made.noise_type == "diagonal"
        assert made.sde_type == ("ito" if base != "SDEStratonovich" else "stratonovich")
        with pytest.raises(ValueError, match="diagonall"):
            getattr(side, base)("diagonall", *words[1:])


class Changed(Equation):
    """An SDE of whose functions some are others."""

    def __init__(self, noise: str = "diagonal", kind: str = "ito", **f: Any) -> None:
        super().__init__(noise, kind)
        for name, function in f.items():
            setattr(self, name, function)


def solved(sde: Any = None, **changes: Any) -> Any:
    arguments: dict[str, Any] = {"y0": start(), "ts": TS, "dt": DT}
    return compat.sdeint(Changed() if sde is None else sde, **(arguments | changes))


def counted() -> Any:
    """A diffusion whose shape changes after a few calls."""
    calls = []

    def g(t: Tensor, y: Tensor) -> Tensor:
        calls.append(t)
        return torch.ones_like(y if len(calls) < 8 else y[:, :1])

    return g


class Bare:
    """An SDE with nothing but what it is given."""

    def __init__(self, **parts: Any) -> None:
        for name, value in parts.items():
            setattr(self, name, value)


def late(t: Tensor, y: Tensor) -> Tensor:
    return torch.where(t > 0.5, torch.nan, 1.0) * torch.ones_like(y)


def column(t: Tensor, y: Tensor) -> Tensor:
    return y[:, :1]


NAN = start().clone().fill_diagonal_(torch.nan)
ITO = {"noise_type": "diagonal", "sde_type": "ito"}
FG = {"f": lambda t, y: -y, "g": lambda t, y: torch.ones_like(y)}
# Case of the project's list, SDE, arguments, error, words of it.
CASES: list[tuple[str, Any, dict[str, Any], type[Exception], str]] = [
    ("S01", None, {"y0": NAN}, ValueError, "y0"),
    ("S02", None, {"y0": start()[0]}, ValueError, r"y0 .*\(batch, d\)"),
    ("S02", None, {"y0": [0.0]}, ValueError, "y0"),
    ("S03", None, {"y0": torch.ones(4, 3, dtype=torch.int64)}, TypeError, "y0.*int64"),
    ("S04", None, {"ts": [0.0, 1.0, 0.5]}, ValueError, "ts.*index 2"),
    ("S05", None, {"ts": [0.0, 1.0, 1.0]}, ValueError, "ts.*index 2"),
    ("S07", None, {"ts": [1.0, 0.0]}, ValueError, "ts.*-t"),
    ("S08", None, {"ts": [0.0, torch.nan]}, ValueError, "ts.*NaN"),
    ("ts", None, {"ts": []}, ValueError, "ts"),
    ("ts", None, {"ts": 1.0}, ValueError, "ts"),
    ("ts", None, {"ts": TS.view(1, -1)}, ValueError, "ts"),
    ("ts", None, {"ts": TS.clone().requires_grad_()}, ValueError, "ts.*grad"),
    ("S10", None, {"method": "eulr"}, ValueError, "eulr.*euler, milstein"),
    ("S10", None, {"method": "adjoint_reversible_heun"}, ValueError, "adjoint_method"),
    ("S11", None, {"method": "heun"}, ValueError, "use euler, milstein, srk"),
    (
        "S12",
        Changed(kind="stratonovich"),
        {"method": "euler"},
        ValueError,
        "use milstein, euler_heun, heun, midpoint, log_ode, reversible_heun",
    ),
    ("S13", Changed("general"), {"method": "srk"}, ValueError, "diagonal or scalar"),
    ("S14", Bare(**FG, sde_type="ito"), {}, ValueError, "noise_type"),
    ("S14", Bare(**FG, noise_type="diagonal"), {}, ValueError, "sde_type"),
    ("S15", Bare(**FG, sde_type="ito", noise_type="x"), {}, ValueError, "diagonal, sc"),
    ("S15", Bare(**FG, sde_type="x", noise_type="scalar"), {}, ValueError, "ito, str"),
    ("S16", Bare(**ITO, f=FG["f"]), {}, ValueError, "no diffusion: define one of g"),
    ("S16", Bare(**ITO, g=FG["g"]), {}, ValueError, "no drift: define f"),
    ("S17", Changed(g=Equation("general", "ito").g), {}, ValueError, r"\(4, 3, 2\)"),
    ("S17", Changed("general", g=FG["g"]), {}, ValueError, r"\(4, 3\).*noise"),
    ("S18", Changed(f=column), {}, ValueError, r"drift has shape \(4, 1\).*\(4, 3\)"),
    ("S19", Changed(g=lambda t, y: None), {}, TypeError, "diffusion returned None"),
    ("S19", Changed(f=lambda t, y: None), {}, TypeError, "drift returned None"),
    ("S20", Changed(g=counted()), {}, ValueError, r"diffusion.*\(4, 1\)"),
    (
        "S21",
        Changed("scalar", g=Equation("general", "ito").g),
        {},
        ValueError,
        "2 chan",
    ),
    ("S22", None, {"bm": interval(3, size=(5, 3))}, ValueError, "batch size 5.*4"),
    ("S23", None, {"bm": interval(2)}, ValueError, "2 motions.*3"),
    ("S24", None, {"bm": interval(3, t1=0.5)}, ValueError, r"\[0.0, 0.5\].*1.0"),
    (
        "S24",
        None,
        {"bm": interval(3, torchsde, t1=0.5)},
        ValueError,
        r"\[0.0, 0.5\].*1.0",
    ),
    ("bm", None, {"bm": interval(3, size=(3,))}, ValueError, r"bm.*\(batch, m\)"),
    ("bm", None, {"bm": 7}, TypeError, "bm"),
    (
        "S26",
        None,
        {"bm": interval(3, levy_area_approximation="none")},
        ValueError,
        "srk needs Levy areas.*'space-time'",
    ),
    (
        "S26",
        Changed("general", "stratonovich"),
        {
            "bm": interval(2, torchsde, levy_area_approximation="space-time"),
            "method": "log_ode",
        },
        ValueError,
        "log_ode needs Levy areas.*'foster'",
    ),
    ("S27", None, {"dt": -0.1}, ValueError, "dt must be > 0"),
    ("S28", None, {"dt": 0.0}, ValueError, "dt must be > 0"),
    ("S29", None, {"dt": torch.nan}, ValueError, "dt must be > 0"),
    ("dt", None, {"dt": torch.ones((), requires_grad=True)}, ValueError, "dt.*grad"),
    ("dt", None, {"dt": 1e-12}, ValueError, "max_steps"),
    ("S32", Changed(f=late), {}, SolveError, "stopped at t=0.4375.*field"),
    (
        "S33",
        Changed(g=lambda t, y: y**3),
        {"y0": start() + 10.0, "method": "euler", "bm": interval(3)},
        SolveError,
        "stopped at t=.*explode",
    ),
    ("S35", None, {"adaptive": True, "rtol": 0.0, "atol": 0.0}, ValueError, "tol"),
    ("S38", None, {"step": 0.1}, TypeError, "'step'"),
    ("S40", Bare(**ITO, **FG), {"logqp": True}, ValueError, "define h"),
    ("S40", Bare(**ITO, **FG), {"logqp": True}, AttributeError, "define h"),
    ("names", None, {"names": {"drif": "f"}}, ValueError, "drif.*drift"),
    ("names", None, {"names": {"drift": "slope"}}, ValueError, "slope"),
    ("extra", None, {"extra_solver_state": (start(),)}, ValueError, "carries none"),
    (
        "extra",
        Changed(kind="stratonovich"),
        {"extra_solver_state": (start(),), "method": "reversible_heun"},
        ValueError,
        "f, g and z",
    ),
    (
        "additive",
        Bare(
            noise_type="additive",
            sde_type="ito",
            f=FG["f"],
            g=lambda t, y: y.unsqueeze(-1),
        ),
        {"method": "euler"},
        ValueError,
        "depends on y.*noise_type='general'",
    ),
    (
        "products",
        Bare(
            noise_type="general",
            sde_type="ito",
            f=FG["f"],
            g_prod=lambda t, y, v: v[:, :1] * y,
        ),
        {},
        ValueError,
        "pass bm",
    ),
]


@pytest.mark.parametrize(
    ("sde", "changes", "error", "words"),
    [case[1:] for case in CASES],
    ids=[f"{case[0]}-{number}" for number, case in enumerate(CASES)],
)
def test_bad_inputs(
    sde: Any, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        solved(sde, **changes)


def test_s06_one_time() -> None:
    y0 = start()
    for ts in ([0.3], torch.tensor([0.3])):
        assert torch.equal(solved(ts=ts), y0.unsqueeze(0))
    ys, kl = solved(ts=[0.3], logqp=True)
    assert torch.equal(ys[0], y0) and kl.shape == (0, BATCH)


def test_s09_and_s41_forms_of_ts() -> None:
    sde = Changed()
    bm = interval(DIM)
    want = solved(sde, ts=torch.tensor([0.0, 1.0], **F64), bm=bm)
    for ts in ([0, 1.0], (0.0, 1), torch.tensor([0, 1])):
        assert torch.equal(solved(sde, ts=ts, bm=bm), want)
    single = solved(sde.float(), y0=start().float(), ts=TS)
    assert single.dtype == torch.float32


def test_s25_bm_of_another_dtype() -> None:
    for side in (torchsde, compat):
        ys = solved(bm=interval(DIM, side, dtype=torch.float32))
        assert ys.dtype == torch.float64


def test_s30_and_s31_steps_that_do_not_fit() -> None:
    calls: list[float] = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        calls.append(float(t))
        return -y

    for dt, steps in ((5.0, 1), (torch.inf, 1), (torch.tensor(0.4), 3)):
        calls.clear()
        ys = solved(Changed(f=f), ts=[0.0, 1.0], dt=dt, method="euler")
        assert ys.shape == (2, BATCH, DIM)
        assert len({t for t in calls if t < 1.0}) == steps


@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general"])
def test_s37_empty_batch(noise: str) -> None:
    assert solved(Changed(noise), y0=start()[:0]).shape == (len(TS), 0, DIM)


def test_s39_an_adjoint_without_parameters() -> None:
    sde = Bare(**ITO, **FG)
    with pytest.raises(ValueError, match="adjoint_params"):
        compat.sdeint_adjoint(sde, start(), TS, dt=DT)
    y0 = start().requires_grad_()
    ys = compat.sdeint_adjoint(sde, y0, TS, dt=DT, adjoint_params=())
    (grad,) = torch.autograd.grad(ys[-1].sum(), y0)
    assert 0.2 < float(grad.mean()) < 0.5


def test_methods_of_the_adjoint() -> None:
    sde = Equation("diagonal", "stratonovich")
    with pytest.raises(ValueError, match="eulr"):
        compat.sdeint_adjoint(sde, start(), TS, dt=DT, adjoint_method="eulr")
    with pytest.raises(ValueError, match="reversible_heun"):
        compat.sdeint_adjoint(
            sde, start(), TS, dt=DT, adjoint_method="adjoint_reversible_heun"
        )
    with pytest.raises(TypeError, match="'step'"):
        compat.sdeint_adjoint(sde, start(), TS, dt=DT, step=1.0)


def test_options_that_are_unknown_warn() -> None:
    with pytest.warns(UserWarning, match="gradfree"):
        solved(method="milstein", options={"gradfree": True})
    with pytest.raises(ValueError, match="milstein with grad_free"):
        solved(Changed("general"), method="milstein", options={"grad_free": True})


def test_milstein_takes_general_noise() -> None:
    assert solved(Changed("general"), method="milstein").isfinite().all()


def test_adaptive_steps_as_they_are_asked_for() -> None:
    numbers = {"dt": 0.1, "rtol": 1e-2, "atol": 1e-3, "dt_min": 1e-4}
    job = prepare(
        Changed(), start(), TS, None, None, numbers, True, None, None, False, None
    )
    assert job.controller == PID(rtol=1e-2, atol=1e-3, min_step=1e-4, first_step=0.1)


def test_s34_a_drift_that_is_lost_on_the_way() -> None:
    def late(t: Tensor, y: Tensor) -> Tensor:
        assert t.ndim == 0
        return torch.where(t >= 0.5, torch.nan, -y)

    with pytest.raises(SolveError, match=r"stopped at t=0\.(4[89]|5).*field"):
        solved(Changed(f=late), adaptive=True, rtol=1e-2, atol=1e-2)


def test_s36_a_tolerance_out_of_reach() -> None:
    with pytest.raises(SolveError, match=r"stopped at t=.*step"):
        solved(adaptive=True, rtol=1e-8, atol=1e-8, dt_min=1e-3)


def test_adaptive_steps_of_noise_that_they_would_spoil() -> None:
    crossed = Changed(g=lambda t, y: 1 + 0.1 * y.flip(1))
    with pytest.raises(ValueError, match="method srk cannot adapt.*'euler'"):
        solved(crossed, adaptive=True, method="srk", rtol=1e-2, atol=1e-2)
    again = solved(crossed, adaptive=True, method="euler", rtol=1e-1, atol=1e-1)
    assert again.isfinite().all()


def test_numbers_are_named() -> None:
    with pytest.raises(TypeError, match="rtol must be a number, got str"):
        solved(adaptive=True, rtol="a")
    with pytest.raises(ValueError, match="dt_min must be >= 0"):
        solved(adaptive=True, dt_min=-1.0)
