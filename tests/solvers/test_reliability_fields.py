"""Fields that misbehave in ways other than their numbers, and what must not matter."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from fields import decay, ones, times
from problems import KIND
from torch import Tensor

from nde.solvers import (
    PID,
    Direct,
    FixedSteps,
    ODETerm,
    Recompute,
    Status,
    solve,
)

NAN = float("nan")
MODES: dict[str, dict[str, object]] = {
    "dopri5": {"method": "dopri5"},
    "shared": {"batch": "shared"},
    "euler": {"method": "euler", "controller": FixedSteps(0.05)},
}
EVERY_MODE = pytest.mark.parametrize("options", MODES.values(), ids=MODES)
ADJOINTS = pytest.mark.parametrize(
    "adjoint", [Recompute(), Direct()], ids=["recompute", "direct"]
)


@pytest.mark.parametrize(
    "raised",
    [
        pytest.param(ZeroDivisionError, id="O48-error"),
        pytest.param(KeyError, id="O48-key"),
        pytest.param(KeyboardInterrupt, id="O78-interrupt"),
    ],
)
@pytest.mark.parametrize("grad", [False, True])
@EVERY_MODE
def test_the_users_exception_passes(
    options: dict[str, object], grad: bool, raised: type[BaseException], f64: KIND
) -> None:
    """Unwrapped, with its traceback; and the next solve works."""
    thrown = raised("mine")

    def field(t: Tensor, y: Tensor) -> Tensor:
        if t.max() > 0.3:
            raise thrown
        return -y

    y0, ts = ones(**f64).requires_grad_(grad), times(0, 1, **f64)
    with pytest.raises(raised) as caught:
        solve(ODETerm(field), y0, ts, **options)
    assert caught.value is thrown and caught.value.__cause__ is None
    assert caught.traceback[-1].name == "field"
    assert torch.is_grad_enabled()
    final = solve(ODETerm(decay), y0, ts, **options).final
    torch.testing.assert_close(final, y0 / torch.e, rtol=5e-2, atol=0)


def changes_y(t: Tensor, y: Tensor) -> Tensor:
    return y.mul_(-1.0)


def changes_t(t: Tensor, y: Tensor) -> Tensor:
    t.add_(1.0)
    return -y


@pytest.mark.parametrize(
    ("field", "what"),
    [
        pytest.param(changes_y, "y", id="O63-O64-state"),
        pytest.param(changes_t, "t", id="O63-O64-time"),
    ],
)
@pytest.mark.parametrize("ends", [(0, 1), (1, 0)], ids=["forward", "backward"])
@pytest.mark.parametrize("quiet", [False, True], ids=["plain", "inference"])
@EVERY_MODE
def test_in_place_changes_are_refused(
    options: dict[str, object],
    quiet: bool,
    ends: tuple[float, float],
    field: Callable[[Tensor, Tensor], Tensor],
    what: str,
    f64: KIND,
) -> None:
    """O66 too: y0 is left alone."""
    with torch.inference_mode(quiet):
        y0, ts = ones(**f64), times(*ends, **f64)
        with pytest.raises(ValueError, match=f"f changed {what} in place.*clone"):
            solve(ODETerm(field), y0, ts, **options)
        assert (y0 == 1).all() and torch.equal(ts, times(*ends, **f64))


@pytest.mark.parametrize("method", ["tsit5", "dopri5", "bosh3", "dop853", "rk4"])
def test_a_field_that_reuses_its_buffer(method: str, f64: KIND) -> None:
    """O65: the answer of a field that returns the same tensor at each call."""
    buffer = torch.empty(4, 2, **f64)
    controller = FixedSteps(0.1) if method == "rk4" else PID()
    options = {"method": method, "controller": controller}

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.neg(y, out=buffer)

    y0, ts = ones(**f64), times(0, 0.3, 1, **f64)
    with torch.no_grad():
        got = solve(ODETerm(field), y0, ts, **options)
        want = solve(ODETerm(decay), y0, ts, **options)
    assert torch.equal(got.ys, want.ys)
    got.ys.zero_()
    assert (y0 == 1).all(), "the result aliases y0"


@pytest.mark.parametrize("shape", [(3, 3), (3, 2, 3)])
@pytest.mark.parametrize("ends", [(0, 1), (1, 0)], ids=["forward", "backward"])
def test_times_along_the_wrong_axis_are_refused(
    ends: tuple[float, float], shape: tuple[int, ...], f64: KIND
) -> None:
    """As many samples as entries: broadcasting would not raise."""
    y0, ts = torch.ones(shape, **f64), times(*ends, **f64)
    with pytest.raises(ValueError, match=r"f gives .*\(3,\).*t\[:, None\].*shared"):
        solve(ODETerm(lambda t, y: -y * t), y0, ts)
    wide = (3,) + (1,) * (len(shape) - 1)
    sol = solve(ODETerm(lambda t, y: -y * t.view(wide)), y0, ts)
    assert sol.stats.evaluations.unique().numel() == 1
    assert not solve(ODETerm(lambda t, y: -y * t), y0, ts, batch="shared").status.any()


def test_checking_times_is_counted_and_leaves_random_fields_alone(f64: KIND) -> None:
    calls = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        calls.append(None)
        return -y

    for width in (2, 3):
        calls.clear()
        sol = solve(ODETerm(field), torch.ones(3, width, **f64), times(0, 1, **f64))
        assert sol.stats.evaluations.tolist() == [len(calls)] * 3
    options = {"method": "rk4", "controller": FixedSteps(0.1)}
    ts = times(0, 1, **f64).expand(3, 2)
    noisy = ODETerm(lambda t, y: torch.rand_like(y) - y)
    draws = []
    for width in (3, 3):
        torch.manual_seed(0)
        draws.append(solve(noisy, torch.ones(3, width, **f64), ts, **options).final)
    assert torch.equal(*draws)


@ADJOINTS
@pytest.mark.parametrize(
    "options",
    [{}, {"method": "bosh3"}, {"method": "rk4", "controller": FixedSteps(0.1)}],
    ids=["tsit5", "bosh3", "rk4"],
)
def test_a_sample_that_fails_at_once_spoils_no_gradient(
    options: dict[str, object], adjoint: object, f64: KIND
) -> None:
    """O82: NaN at t0 in one sample, and the parameter that all share."""
    rate = torch.full((), 0.7, **f64).requires_grad_()
    y0 = torch.tensor([[2.0], [-1.0], [3.0]], **f64).requires_grad_()
    ts = times(0, 0.5, 1, **f64).requires_grad_()

    def field(t: Tensor, y: Tensor) -> Tensor:
        return -rate * y.sqrt() ** 2

    options = {**options, "adjoint": adjoint}
    sol = solve(ODETerm(field), y0, ts, throw=False, **options)
    assert sol.status.tolist() == [0, int(Status.NON_FINITE_FIELD), 0]
    assert torch.equal(sol.final[1], y0[1])
    loss = sol.final.sum() + sol.ys[[0, 2]].sum()
    got = torch.autograd.grad(loss, (rate, y0, ts))
    good = y0.detach()[[0, 2]].requires_grad_()
    alone = solve(ODETerm(field), good, ts, **options)
    want = torch.autograd.grad(alone.final.sum() + alone.ys.sum(), (rate, good, ts))
    torch.testing.assert_close(got[0], want[0])
    torch.testing.assert_close(got[1][[0, 2]], want[1])
    assert got[1][1] == 1.0
    torch.testing.assert_close(got[2], want[2])


@ADJOINTS
@pytest.mark.parametrize("method", ["euler", "midpoint"])
def test_a_field_that_is_nan_where_a_sample_ended(
    method: str, adjoint: object, f64: KIND
) -> None:
    """It stays as it is, and spoils no gradient of those that go on."""
    rate = torch.full((), 0.7, **f64).requires_grad_()
    y0 = torch.ones(2, 1, **f64).requires_grad_()
    ts = torch.tensor([[0.0, 0.5], [0.0, 2.0]], **f64)
    options = {"method": method, "controller": FixedSteps(0.05), "adjoint": adjoint}
    last = torch.tensor([0.49, 9.0], **f64)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return -rate * torch.where(t > last, NAN, 1.0)[:, None] * y

    got, want = [], []
    for f, out in ((field, got), (lambda t, y: -rate * y, want)):
        final = solve(ODETerm(f), y0, ts, **options).final
        out.extend((final, *torch.autograd.grad(final.sum(), (rate, y0))))
    torch.testing.assert_close(got, want)


@ADJOINTS
@pytest.mark.parametrize("method", ["tsit5", "rk4", "euler"])
def test_a_field_that_is_nan_for_a_sample_without_steps(
    method: str, adjoint: object, f64: KIND
) -> None:
    rate = torch.full((), 0.7, **f64).requires_grad_()
    y0 = torch.tensor([[-1.0], [1.0]], **f64).requires_grad_()
    ts = torch.tensor([[0.3, 0.3], [0.0, 1.0]], **f64)
    options = {"method": method, "adjoint": adjoint}
    if method != "tsit5":
        options["controller"] = FixedSteps(0.05)
    field = ODETerm(lambda t, y: -rate * y.sqrt() ** 2)
    final = solve(field, y0, ts, **options).final
    got = torch.autograd.grad(final.sum(), (rate, y0))
    assert final[0] == -1.0 and got[1][0] == 1.0
    good = y0.detach()[1:].requires_grad_()
    alone = solve(field, good, ts[1:], **options).final
    want = torch.autograd.grad(alone.sum(), (rate, good))
    torch.testing.assert_close((final[1:], got[0], got[1][1:]), (alone, *want))


def test_checks_survive_python_optimisation() -> None:
    """No check is an assert."""
    code = (
        "import torch\n"
        "from nde.solvers import *\n"
        "y, ts = torch.ones(4, 2), torch.tensor([0., 1.])\n"
        "calls = [\n"
        "    lambda: solve(ODETerm(lambda t, y: y[:1]), y, ts),\n"
        "    lambda: solve(ODETerm(lambda t, y: y.mul_(2)), y, ts),\n"
        "    lambda: solve(ODETerm(lambda t, y: y), y * float('nan'), ts),\n"
        "    lambda: solve(ODETerm(lambda t, y: y), y, ts[[1, 1]]),\n"
        "    lambda: solve(ODETerm(lambda t, y: y), y, ts, method='nonesuch'),\n"
        "    lambda: PID(rtol=-1.0), lambda: FixedSteps(0.0),\n"
        "]\n"
        "for call in calls:\n"
        "    try:\n"
        "        call()\n"
        "    except ValueError:\n"
        "        print('refused')\n"
        "try:\n"
        "    solve(ODETerm(lambda t, y: y * y), y, 2 * ts)\n"
        "except SolveError as error:\n"
        "    print(error.status.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-O", "-c", code], capture_output=True, text=True, check=False
    )
    want = ["refused"] * 7 + ["STEP_UNDERFLOW"]
    assert done.stdout.split() == want, done.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@EVERY_MODE
def test_global_settings_do_not_matter(
    options: dict[str, object], dtype: torch.dtype, device: torch.device
) -> None:
    """Neither the default dtype nor the state of the random generator."""
    y0 = torch.ones(4, 2, dtype=dtype, device=device)
    ts = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64, device=device)
    state = torch.get_rng_state()
    first = solve(ODETerm(decay), y0, ts, **options)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    torch.set_default_dtype(torch.float64)
    try:
        second = solve(ODETerm(decay), y0, ts, **options)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(first.ys, second.ys)
    assert first.ys.dtype == second.ys.dtype == dtype
