"""The same states as torchdiffeq, of every shape, by every method."""

from typing import Any

import pytest
import torch
from sides import SIDES, Field, both, start, times
from torch import Tensor

import nde.compat.torchdiffeq as compat
from nde.solvers import PID, ODETerm, solve

ADAPTIVE = ["dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun"]
SAME_STEPS = ["euler", "midpoint", "heun2", "heun3", "rk4"]
ADAMS = ["explicit_adams", "implicit_adams", "fixed_adams"]


def largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


@pytest.mark.parametrize("ends", [(0.0, 0.4, 1.1, 2.0), (2.0, 1.1, 0.4, 0.0)])
@pytest.mark.parametrize("method", [*ADAPTIVE, "tsit5"])
def test_adaptive_methods_meet_their_tolerance(
    method: str, ends: tuple[float, ...]
) -> None:
    field, y0, t = Field(), start(5, 3), times(*ends)
    low = method in ("fehlberg2", "adaptive_heun")
    tolerance = 1e-5 if low else 1e-8
    found = compat.odeint(field, y0, t, rtol=tolerance, atol=tolerance, method=method)
    exact = compat.odeint(field, y0, t, rtol=1e-12, atol=1e-12, method="dopri5")
    assert found.shape == (4, 5, 3)
    assert found.is_contiguous()
    assert torch.equal(found[0], y0)
    assert largest(found, exact) < 1e3 * tolerance


@pytest.mark.parametrize(
    "options",
    [
        None,
        {"step_size": 0.07},
        {"step_size": 0.07, "interp": "cubic"},
        {"step_size": 0.05, "perturb": True},
        {"grid_constructor": lambda f, y0, t: torch.cat([t[:1], t[:1] + 0.3, t[1:]])},
        {"step_size": 50.0},
    ],
)
@pytest.mark.parametrize("method", SAME_STEPS)
def test_fixed_steps_are_the_same(method: str, options: dict[str, Any] | None) -> None:
    def make() -> tuple[Any, ...]:
        return Field(), start(5, 3), times(0.0, 0.5, 0.9, 1.0, 2.0)

    theirs, ours = both("odeint", make, method=method, options=options)
    assert largest(theirs, ours) < 1e-12


@pytest.mark.parametrize("options", [None, {"step_size": 0.07}])
@pytest.mark.parametrize("method", SAME_STEPS)
def test_fixed_steps_back_in_time(method: str, options: dict[str, Any] | None) -> None:
    def make() -> tuple[Any, ...]:
        return Field(), start(5, 3), times(2.0, 1.4, 0.5)

    theirs, ours = both("odeint", make, method=method, options=options)
    assert largest(theirs, ours) < 1e-12


@pytest.mark.parametrize("method", ADAMS)
def test_adams_methods(method: str) -> None:
    field, y0, t = Field(), start(5, 3), times(0.0, 1.0, 2.0)
    exact = compat.odeint(field, y0, t, rtol=1e-12, atol=1e-12)
    errors = [
        largest(
            exact,
            compat.odeint(field, y0, t, method=method, options={"step_size": size}),
        )
        for size in (0.02, 0.01)
    ]
    assert errors[1] < 1e-5
    assert errors[0] / errors[1] > 12.0


@pytest.mark.parametrize("method", SAME_STEPS)
@pytest.mark.parametrize("options", [None, {"step_size": 0.1}])
def test_as_many_evaluations_on_a_grid(
    method: str, options: dict[str, Any] | None
) -> None:
    counts = []
    for side in SIDES.values():
        field = Field()
        t = torch.linspace(0.0, 2.0, 9, dtype=torch.float64)
        side.odeint(field, start(5, 3), t, method=method, options=options)
        counts.append(field.calls)
    # One more finds out which tensors need gradients.
    assert counts[1] <= counts[0] + 1


def lorenz(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind()
    return torch.stack([10.0 * (b - a), a * (28.0 - c) - b, a * b - 8.0 / 3.0 * c])


def van_der_pol(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[1], 5.0 * (1.0 - y[0] ** 2) * y[1] - y[0]])


def orbit(t: Tensor, y: Tensor) -> Tensor:
    return torch.cat([y[2:], -y[:2] / y[:2].square().sum() ** 1.5])


PROBLEMS = {
    "lorenz": (lorenz, (1.0, 1.0, 1.0), 3.0),
    "van der pol": (van_der_pol, (2.0, 0.0), 10.0),
    "orbit": (orbit, (0.5, 0.0, 0.0, 1.73), 7.0),
    "decay": (lambda t, y: -y, (1.0, 2.0), 5.0),
}


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "dopri8"])
def test_no_more_evaluations_for_the_same_error(method: str) -> None:
    spent = torch.zeros(2)
    for field, y0, end in PROBLEMS.values():
        state, t = times(*y0), times(0.0, end)
        term = ODETerm(lambda s, y, f=field: f(s[0], y[0]).unsqueeze(0))
        strict = PID(rtol=1e-13, atol=1e-13)
        exact = solve(
            term, state[None], t, method="vern9", controller=strict, max_steps=10**5
        ).final[0]
        for tolerance in (1e-4, 1e-6, 1e-8):
            counts, errors = [], []
            calls: list[int] = []

            def counted(s: Tensor, y: Tensor, f: Any = field, c: Any = calls) -> Tensor:
                c.append(1)
                return f(s, y)

            for side in SIDES.values():
                found = side.odeint(
                    counted, state, t, rtol=tolerance, atol=tolerance, method=method
                )
                counts.append(len(calls))
                calls.clear()
                errors.append(largest(found[-1], exact))
            spent += torch.tensor(counts, dtype=spent.dtype)
            assert counts[1] <= 1.1 * counts[0] or errors[1] < errors[0]
    assert spent[1] <= 1.05 * spent[0]


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (2, 1, 2, 2)])
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_states_of_any_shape(shape: tuple[int, ...], method: str) -> None:
    def make() -> tuple[Any, ...]:
        return lambda t, y: -y * t, start(*shape), times(0.0, 1.0, 2.0)

    theirs, ours = both("odeint", make, method=method)
    assert ours.shape == theirs.shape == (3, *shape)
    assert largest(theirs, ours) < 1e-6


@pytest.mark.parametrize("shape", [(0, 3), (5, 0)])
def test_states_without_entries(shape: tuple[int, ...]) -> None:
    y0 = torch.zeros(shape)
    assert compat.odeint(lambda t, y: -y, y0, torch.tensor([0.0, 1.0])).shape == (
        2,
        *shape,
    )


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
@pytest.mark.parametrize("ends", [(0.0, 0.5, 2.0), (2.0, 0.5, 0.0)])
def test_tuples(method: str, ends: tuple[float, ...]) -> None:
    def field(t: Tensor, y: Any) -> Any:
        a, b, c = y
        assert t.ndim == 0 and a.shape == (2, 3) and b.shape == ()
        return [-a * t, b.cos() + c.sum(), torch.ones_like(c) * b]

    def make() -> tuple[Any, ...]:
        y0 = (start(2, 3), torch.tensor(0.3, dtype=torch.float64), start(1, 2, 1))
        return field, y0, times(*ends)

    theirs, ours = both("odeint", make, method=method)
    assert isinstance(ours, tuple)
    for a, b in zip(theirs, ours, strict=True):
        assert a.shape == b.shape
        assert largest(a, b) < (1e-5 if method == "dopri5" else 1e-12)


def test_tuples_of_two_dtypes_are_of_the_larger() -> None:
    def make() -> tuple[Any, ...]:
        y0 = (torch.ones(2), torch.ones(3, dtype=torch.float64))
        return lambda t, y: (-y[0], -y[1]), y0, times(0.0, 1.0)

    theirs, ours = both("odeint", make)
    assert [a.dtype for a in theirs] == [b.dtype for b in ours]


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_complex_states(method: str) -> None:
    calls: list[int] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        assert not t.is_complex()
        calls.append(1)
        return 2.0j * y

    counts = []
    for side in SIDES.values():
        y0 = torch.tensor([1.0, 1.0j], dtype=torch.complex128)
        found = side.odeint(field, y0, times(0.0, 0.01, 0.02, 3.0), method=method)
        counts.append((found, len(calls)))
        calls.clear()
    (theirs, most), (ours, count) = counts
    assert ours.dtype == theirs.dtype
    assert largest(theirs, ours) < (1e-6 if method == "dopri5" else 1e-12)
    assert count <= 1.05 * most


def test_complex_tuples() -> None:
    def make() -> tuple[Any, ...]:
        y0 = (torch.tensor([1.0j, 2.0], dtype=torch.complex128), times(1.0))
        return lambda t, y: (1.0j * y[0], -y[1]), y0, times(0.0, 1.0)

    theirs, ours = both("odeint", make, rtol=(1e-6, 1e-7), atol=(1e-6, 1e-8))
    for a, b in zip(theirs, ours, strict=True):
        assert b.dtype == torch.complex128
        assert largest(a, b) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clock", [torch.float32, torch.float64])
def test_dtypes_of_state_and_time(dtype: torch.dtype, clock: torch.dtype) -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        assert t.dtype == dtype
        return -y * t

    y0, t = start(3, dtype=dtype), torch.tensor([0.0, 1.0], dtype=clock)
    for method in ("dopri5", "rk4"):
        assert compat.odeint(field, y0, t, method=method).dtype == dtype


def test_a_field_of_another_dtype_is_cast() -> None:
    y0, t = torch.ones(2), torch.tensor([0.0, 1.0])
    found = compat.odeint(lambda t, y: -y.double(), y0, t)
    assert found.dtype == torch.float32


def test_float32_at_default_tolerances_takes_few_steps_and_does_not_warn() -> None:
    calls = []

    def decay(t: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return torch.stack([y[1], -y[0]])

    t = torch.tensor([0.0, 100.0])
    with torch.no_grad():
        found = compat.odeint(decay, torch.tensor([1.0, 0.0]), t)
    assert abs(float(found[-1, 0] - torch.cos(t[-1]))) < 1e-3
    assert len(calls) < 30_000


def test_one_time_is_the_initial_state() -> None:
    y0 = start(2, 3)
    for method in ("dopri5", "rk4", "scipy_solver"):
        found = compat.odeint(Field(), y0, times(0.7), method=method)
        assert torch.equal(found, y0.unsqueeze(0))


def test_the_initial_state_is_left_alone() -> None:
    y0 = start(2, 3)
    before = y0.clone()
    found = compat.odeint(lambda t, y: -y, y0, times(0.0, 1.0))
    found.zero_()
    assert torch.equal(y0, before)


@pytest.mark.parametrize("solver", ["LSODA", "RK45", "DOP853"])
def test_scipy(solver: str) -> None:
    pytest.importorskip("scipy")
    t = times(0.0, 0.5, 1.0)
    for y0 in (start(2, 3), start(3)):
        exact = compat.odeint(Field(), y0, t)
        found = compat.odeint(
            Field(), y0, t, method="scipy_solver", options={"solver": solver}
        )
        assert not found.requires_grad
        assert largest(found, exact) < 1e-5


def test_scipy_back_in_time_with_tuples() -> None:
    pytest.importorskip("scipy")
    y0 = (start(2, 3), start(1))
    t = times(1.0, 0.5, 0.0)

    def field(s: Tensor, y: Any) -> Any:
        return -y[0] * s, y[1]

    exact = compat.odeint(field, y0, t)
    found = compat.odeint(field, y0, t, method="scipy_solver")
    for a, b in zip(found, exact, strict=True):
        assert largest(a, b) < 1e-5


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "tsit5", "bosh3"])
def test_dense_output(method: str) -> None:
    field, y0 = Field(), start(2, 3)
    for ends in ((0.0, 2.0), (2.0, 0.0)):
        path = compat.odeint_dense(
            field, y0, *map(torch.as_tensor, times(*ends)), method=method, rtol=1e-9
        )
        t = times(ends[0], 0.3, 1.7) if ends[0] == 0 else times(ends[0], 1.7, 0.3)
        exact = compat.odeint(field, y0, t, rtol=1e-11, atol=1e-11)
        assert path(t[1]).shape == y0.shape
        assert largest(path(t), exact) < 1e-6
        assert torch.equal(path(t[1]), path(t)[1])


def test_dense_output_is_theirs_and_differentiable() -> None:
    def make() -> tuple[Any, ...]:
        return Field(), start(2, 3), torch.tensor(0.0), torch.tensor(2.0)

    theirs, ours = both("odeint_dense", make)
    for t in (0.1, 0.9, 1.9):
        assert largest(theirs(torch.tensor(t)), ours(torch.tensor(t))) < 1e-5
    y0 = start(2, 3).requires_grad_()
    t = times(0.7, requires_grad=True)
    path = compat.odeint_dense(Field(), y0, 0.0, 1.0)
    path(t).sum().backward()
    assert y0.grad is not None and t.grad is not None
    with torch.no_grad():
        slope = Field()(t[0], path(t)[0]).sum()
    assert float((t.grad[0] - slope).detach().abs()) < 1e-5


def test_dense_output_of_a_tuple() -> None:
    y0 = (start(2), start(3))
    path = compat.odeint_dense(lambda t, y: (-y[0], y[1]), y0, 0.0, 1.0)
    a, b = path(0.5)
    assert largest(a, y0[0] * torch.tensor(-0.5).exp()) < 1e-6
    assert b.shape == (3,)
