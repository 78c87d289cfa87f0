"""Options, callbacks, warnings and errors as torchdiffeq has them."""

import inspect
import warnings
from typing import Any

import pytest
import torch
from sides import SIDES, Field, start, times
from torch import Tensor, nn

import nde.compat.torchdiffeq as compat
from nde.solvers import SolveError

ENDS = (0.0, 1.0)


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


@pytest.mark.parametrize(
    "name", ["odeint", "odeint_adjoint", "odeint_event", "odeint_dense"]
)
def test_signatures_are_theirs(name: str) -> None:
    theirs, ours = (
        inspect.signature(getattr(side, name)).parameters for side in SIDES.values()
    )
    assert list(ours) == list(theirs)
    for key, parameter in theirs.items():
        assert ours[key].kind == parameter.kind
        if not callable(parameter.default):
            assert ours[key].default == parameter.default


class HeardSteps(nn.Module):
    """A field that writes down what its callback hears."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.heard: list[tuple[str, float, float, tuple[int, ...]]] = []

    def forward(self, t: Tensor, y: Any) -> Any:
        if isinstance(y, tuple):
            return tuple(-part * torch.cos(8.0 * t) * self.rate for part in y)
        return -y * torch.cos(8.0 * t) * self.rate

    def _note(self, kind: str, t0: Tensor, y0: Any, dt: Tensor) -> None:
        assert t0.shape == dt.shape == () and t0.dtype == dt.dtype == torch.float64
        shape = y0[0].shape if isinstance(y0, tuple) else y0.shape
        self.heard.append((kind, float(t0), float(dt), tuple(shape)))

    def callback_step(self, t0: Tensor, y0: Any, dt: Tensor) -> None:
        self._note("step", t0, y0, dt)


class Heard(HeardSteps):
    """With all callbacks."""

    def callback_accept_step(self, t0: Tensor, y0: Any, dt: Tensor) -> None:
        self._note("accept", t0, y0, dt)

    def callback_reject_step(self, t0: Tensor, y0: Any, dt: Tensor) -> None:
        self._note("reject", t0, y0, dt)


@pytest.mark.parametrize("ends", [ENDS, (1.0, 0.0)])
@pytest.mark.parametrize("tupled", [False, True])
@pytest.mark.parametrize("function", ["odeint", "odeint_adjoint"])
def test_callbacks_hear_of_every_step(
    function: str, tupled: bool, ends: tuple[float, float]
) -> None:
    both = []
    for side in SIDES.values():
        field, y0 = Heard(), start(2, 3)
        getattr(side, function)(
            field,
            (y0, y0[0]) if tupled else y0,
            times(*ends),
            options={"first_step": 0.4},
            rtol=1e-5,
            atol=1e-5,
        )
        both.append(field.heard)
    theirs, ours = both
    kinds = [kind for kind, *_ in ours]
    assert kinds[0::2] == ["step"] * (len(kinds) // 2)
    assert set(kinds[1::2]) == {"accept", "reject"}
    for told, judged in zip(ours[0::2], ours[1::2], strict=True):
        assert told[1:] == judged[1:]
    assert ours[0][1] == ends[0] and ours[0][3] == (2, 3)
    assert all(dt > 0.0 for _, _, dt, _ in ours)
    # Error estimates differ, and with them the steps after the first.
    assert len(ours) > 4
    for a, b in zip(theirs[:2], ours[:2], strict=True):
        assert a[0] == b[0] and a[3] == b[3]
        assert a[1:3] == pytest.approx(b[1:3], rel=1e-6)


@pytest.mark.parametrize("function", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("ends", [(0.0, 0.35, 1.0), (1.0, 0.35, 0.0)])
def test_callbacks_under_fixed_steps(function: str, ends: tuple[float, ...]) -> None:
    both = []
    for side in SIDES.values():
        field = HeardSteps()
        options = {"step_size": 0.1}
        found = getattr(side, function)(
            field, start(2), times(*ends), method="rk4", options=options
        )
        both.append(field.heard)
        if side is compat:
            found.sum().backward()
            assert field.heard == both[1]
    theirs, ours = both
    assert len(ours) == len(theirs) == 10
    for a, b in zip(theirs, ours, strict=True):
        assert a[0] == b[0] and a[1:3] == pytest.approx(b[1:3])


def test_adjoint_callbacks_hear_of_repeated_steps() -> None:
    class Adjoint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rate = nn.Parameter(torch.ones(()))
            self.begun: list[float] = []
            self.forward_steps: list[float] = []

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -self.rate * y

        def callback_accept_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
            self.forward_steps.append(float(t0))

        def callback_step_adjoint(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
            self.begun.append(float(t0))

    field = Adjoint()
    compat.odeint_adjoint(field, torch.ones(2), times(*ENDS)).sum().backward()
    assert field.begun == field.forward_steps[::-1] and field.begun


def test_callbacks_that_a_method_does_not_call() -> None:
    for side in SIDES.values():
        with pytest.warns(UserWarning, match="callback"):
            side.odeint(Heard(), start(2), times(*ENDS), method="euler")


@pytest.mark.parametrize("method", ["dopri5", "rk4", "implicit_adams"])
def test_unknown_options_warn(method: str) -> None:
    for side in SIDES.values():
        with pytest.warns(UserWarning, match="frist_step"):
            side.odeint(
                decay, start(2), times(*ENDS), method=method, options={"frist_step": 1}
            )


def test_options_are_left_as_they_are() -> None:
    options = {"first_step": 0.1, "norm": lambda y: y.abs().max()}
    before = dict(options)
    compat.odeint(decay, start(2), times(*ENDS), options=options)
    assert options == before


@pytest.mark.parametrize(
    "options",
    [
        {"first_step": 0.01},
        {"first_step": torch.tensor(0.01)},
        {"safety": 0.7, "ifactor": 3.0, "dfactor": 0.5},
        {"max_step": 0.02},
        {"min_step": 1e-3},
        {"dtype": torch.float32},
        {"step_t": torch.tensor([0.3, 0.6])},
        {"step_t": [0.3], "jump_t": [0.6]},
        {"norm": lambda y: y.abs().max()},
    ],
)
@pytest.mark.parametrize("ends", [ENDS, (1.0, 0.0)])
def test_adaptive_options(options: dict[str, Any], ends: tuple[float, float]) -> None:
    field, y0, t = Field(), start(2, 3), times(*ends)
    exact = compat.odeint(field, y0, t, rtol=1e-11, atol=1e-11)
    found = compat.odeint(field, y0, t, options=options)
    assert torch.allclose(found, exact, atol=1e-5)


def test_steps_are_bounded_and_land() -> None:
    field = Heard()
    options = {"max_step": 0.06, "first_step": 0.5, "step_t": times(0.3, 0.61)}
    compat.odeint(field, start(2), times(*ENDS), options=options)
    begins = {t for kind, t, *_ in field.heard if kind == "accept"}
    assert {0.3, 0.61} <= begins
    assert max(dt for _, _, dt, _ in field.heard) <= 0.06


def test_the_shortest_step_is_taken_whatever_its_error() -> None:
    for side in SIDES.values():
        calls = []

        def stiff(t: Tensor, y: Tensor, c: Any = calls) -> Tensor:
            c.append(1)
            return torch.cos(50.0 * t) * torch.ones_like(y)

        side.odeint(stiff, start(1), times(*ENDS), options={"min_step": 0.1})
        assert len(calls) < 150


def test_a_jump_is_landed_on() -> None:
    def jumps(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t < 0.5, 1.0, -3.0) * torch.ones_like(y)

    calls = []

    def counted(t: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return jumps(t, y)

    options = {"jump_t": times(0.5)}
    for ends, value in ((ENDS, -1.0), ((1.0, 0.0), 1.0)):
        found = compat.odeint(counted, times(0.0), times(*ends), options=options)
        assert abs(float(found[-1]) - value) < 1e-9
    assert len(calls) < 120


def test_the_norm_sees_the_state() -> None:
    seen = set()

    def norm(state: Any) -> Any:
        seen.add(tuple(part.shape for part in state))
        return max(part.abs().max() for part in state)

    y0 = (start(2, 3), start(4))
    compat.odeint(lambda t, y: (-y[0], y[1]), y0, times(*ENDS), options={"norm": norm})
    assert seen == {(torch.Size([2, 3]), torch.Size([4]))}


def test_a_norm_that_leaves_a_part_out() -> None:
    def field(t: Tensor, y: Any) -> Any:
        return -y[0], torch.cos(200.0 * t) * torch.ones_like(y[1])

    both = []
    for options in ({}, {"norm": lambda y: y[0].square().mean().sqrt()}):
        calls = []

        def counted(t: Tensor, y: Any, c: Any = calls) -> Any:
            c.append(1)
            return field(t, y)

        compat.odeint(counted, (start(2), start(2)), times(*ENDS), options=options)
        both.append(len(calls))
    assert both[1] < both[0] / 3


@pytest.mark.parametrize(
    "tolerances",
    [
        {"rtol": times(1e-4, 1e-8, 1e-6), "atol": times(1e-9, 1e-3, 1e-6)},
        {"rtol": torch.tensor(1e-6), "atol": torch.tensor(1e-6)},
    ],
)
def test_tolerances_that_are_tensors(tolerances: dict[str, Any]) -> None:
    field, y0, t = Field(), start(2, 3), times(*ENDS)
    exact = compat.odeint(field, y0, t)
    assert torch.allclose(compat.odeint(field, y0, t, **tolerances), exact, atol=1e-2)


def test_a_tolerance_for_each_member() -> None:
    def field(t: Tensor, y: Any) -> Any:
        return torch.cos(50.0 * t) * torch.ones_like(y[0]), -y[1]

    counts = []
    for rtol in ((1e-8, 1e-8), (1e3, 1e-8)):
        calls = []

        def counted(t: Tensor, y: Any, c: Any = calls) -> Any:
            c.append(1)
            return field(t, y)

        y0 = (start(2), start(3))
        compat.odeint(counted, y0, times(*ENDS), rtol=rtol, atol=(1e-8, 1e-8))
        counts.append(len(calls))
    assert counts[1] < counts[0] / 3


def failing(t: Tensor, y: Tensor) -> Tensor:
    return torch.where(t > 0.5, torch.nan, y)


Y = torch.ones(2, dtype=torch.float64)
BAD: dict[str, tuple[type[Exception], tuple[Any, ...], dict[str, Any]]] = {
    "t a list": (AssertionError, (decay, Y, [0.0, 1.0]), {}),
    "t of integers": (TypeError, (decay, Y, torch.tensor([0, 1])), {}),
    "t 2-D": (AssertionError, (decay, Y, times(*ENDS)[None]), {}),
    "t in no order": (AssertionError, (decay, Y, times(0.0, 1.0, 0.5)), {}),
    "t with a repeat": (AssertionError, (decay, Y, times(0.0, 1.0, 1.0)), {}),
    "y0 a list": (AssertionError, (decay, [Y], times(*ENDS)), {}),
    "y0 a number": (AssertionError, (decay, 1.0, times(*ENDS)), {}),
    "y0 NaN": (AssertionError, (decay, Y * torch.nan, times(*ENDS)), {}),
    "y0 empty": (ValueError, (decay, (), times(*ENDS)), {}),
    "method": (ValueError, (decay, Y, times(*ENDS)), {"method": "nonesuch"}),
    "two grids": (
        ValueError,
        (decay, Y, times(*ENDS)),
        {
            "method": "rk4",
            "options": {"step_size": 0.1, "grid_constructor": lambda f, y, t: t},
        },
    ),
    "a grid elsewhere": (
        AssertionError,
        (decay, Y, times(*ENDS)),
        {"method": "rk4", "options": {"grid_constructor": lambda f, y, t: t + 1.0}},
    ),
    "interp": (
        ValueError,
        (decay, Y, times(0.0, 0.5, 1.0)),
        {"method": "rk4", "options": {"interp": "quintic"}},
    ),
    "max_num_steps": (
        AssertionError,
        (decay, Y, times(*ENDS)),
        {"options": {"max_num_steps": 2}},
    ),
    "field NaN": (AssertionError, (failing, Y, times(*ENDS)), {}),
    "blow-up": (AssertionError, (lambda t, y: y**2, Y, times(0.0, 2.0)), {}),
    "step_t and jump_t": (
        ValueError,
        (decay, Y, times(*ENDS)),
        {"options": {"step_t": times(0.5), "jump_t": times(0.5)}},
    ),
    "rtol too short": (
        AssertionError,
        (lambda t, y: y, (Y, Y), times(*ENDS)),
        {"rtol": (1e-3,)},
    ),
    "rtol with grad": (
        AssertionError,
        (decay, Y, times(*ENDS)),
        {"rtol": torch.tensor(1e-3, requires_grad=True)},
    ),
    "event and three times": (
        ValueError,
        (decay, Y, times(0.0, 0.5, 1.0)),
        {"event_fn": lambda t, y: y[0]},
    ),
    "event without step_size": (
        AssertionError,
        (decay, Y, times(*ENDS)),
        {"event_fn": lambda t, y: y[0] - 0.5, "method": "rk4"},
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_they_refuse_is_refused_with_the_same_type(case: str) -> None:
    kind, arguments, kwargs = BAD[case]
    for side in SIDES.values():
        with pytest.raises(kind):
            side.odeint(*arguments, **kwargs)


@pytest.mark.parametrize(
    ("kind", "message", "y0", "kwargs"),
    [
        (ValueError, "step_size", Y, {"method": "rk4", "options": {"step_size": 0.0}}),
        (ValueError, "step_size", Y, {"method": "rk4", "options": {"step_size": -1}}),
        (ValueError, "takes", Y, {"method": "rk4", "options": {"step_size": 1e-12}}),
        (ValueError, "rtol", Y, {"rtol": -1.0}),
        (ValueError, "implicit_euler.*dopri5", Y, {"method": "implicit_euler"}),
        (TypeError, "y0", Y.long(), {}),
        (ValueError, "events", Y, {"method": "scipy_solver", "event_fn": decay}),
    ],
)
def test_more_is_refused(
    kind: type[Exception], message: str, y0: Tensor, kwargs: dict[str, Any]
) -> None:
    with pytest.raises(kind, match=message):
        compat.odeint(decay, y0, times(*ENDS), **kwargs)


def test_infinite_times_are_refused() -> None:
    for last in (torch.inf, torch.nan):
        with pytest.raises(AssertionError):
            compat.odeint(decay, Y, times(0.0, last))


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_errors_say_what_happened(method: str) -> None:
    with pytest.raises(compat.SolveFailed, match="non-finite.*t=0") as info:
        compat.odeint(failing, Y, torch.linspace(0, 1, 11).double(), method=method)
    assert isinstance(info.value, SolveError) and info.value.times[0] <= 0.5


def test_a_field_of_the_wrong_shape() -> None:
    for field in (
        lambda t, y: y.sum(),
        lambda t, y: y.unsqueeze(1),
        lambda t, y: torch.cat([y, y]),
    ):
        with pytest.raises(ValueError, match="shape"):
            compat.odeint(field, Y, times(*ENDS), method="euler")
    with pytest.raises(AssertionError, match="shapes"):
        compat.odeint(lambda t, y: (y[0],), (Y, Y), times(*ENDS))
    with pytest.raises(TypeError, match="None"):
        compat.odeint(lambda t, y: None, Y, times(*ENDS))


def test_the_adjoint_needs_parameters() -> None:
    for side in SIDES.values():
        with pytest.raises(ValueError, match="nn.Module"):
            side.odeint_adjoint(decay, Y, times(*ENDS))
        with pytest.raises(ValueError, match="adjoint_options"):
            side.odeint_adjoint(
                Field(2),
                Y,
                times(*ENDS),
                method="dopri5",
                adjoint_method="rk4",
                options={"first_step": 0.1},
            )
    with pytest.raises(ValueError, match="adjoint_method"):
        compat.odeint_adjoint(Field(2), Y, times(*ENDS), adjoint_method="nonesuch")


def test_dense_output_refuses_other_methods_and_times() -> None:
    with pytest.raises(AssertionError):
        compat.odeint_dense(decay, Y, 0.0, 1.0, method="rk4")
    with pytest.raises(ValueError, match="outside"):
        compat.odeint_dense(decay, Y, 0.0, 1.0)(1.5)


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "tsit5", "bosh3"])
def test_float32_at_default_tolerances_is_silent(method: str) -> None:
    """A tolerance that float32 does not resolve is raised, whatever the method."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ys = compat.odeint(decay, Y.float(), times(*ENDS).float(), method=method)
    wide = compat.odeint(decay, Y, times(*ENDS), method=method)
    torch.testing.assert_close(ys.double(), wide.double(), rtol=3e-5, atol=1e-6)
