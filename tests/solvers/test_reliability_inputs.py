"""Bad and odd inputs of an ODE solve, one entry for each case of the catalogue.

`test_reliability_runs.py` has the cases in which a solve goes wrong on its way. Cases
that are about another library's call form, and where they are held here:

| case | there | here |
|---|---|---|
| O57 | a 0-dim state works | refused: the leading axis is the batch |
| O61 | a function that is no module needs its parameters named | they are found |
| O62 | a named parameter without gradient | `args` without gradient |
| O72 | options without a method | a controller without a method |
| O79 | `method=None` is the default | refused with the names |

O20, O21, O71 and O73 are in `test_states.py`, with more of their kind.
"""

from collections import OrderedDict, namedtuple
from collections.abc import Callable

import numpy as np
import pytest
import torch
from fields import decay, ones, times
from problems import KIND
from torch import Tensor

from nde.solvers import PID, FixedSteps, ODETerm, SDETerm, solve

NAN, INF = float("nan"), float("inf")
RK4 = {"method": "rk4", "controller": FixedSteps(0.1)}
Call = Callable[[KIND], object]
Pair = namedtuple("Pair", "left right")


def of(
    f: Callable[..., object] = decay,
    y0: Callable[[KIND], object] = lambda kind: ones(**kind),
    ts: Callable[[KIND], object] = lambda kind: times(0, 1, **kind),
    **options: object,
) -> Call:
    """A solve of y' = -y from ones on [0, 1], but for what is given."""
    return lambda kind: solve(ODETerm(f), y0(kind), ts(kind), **options)


def start(value: float) -> Callable[[KIND], Tensor]:
    def y0(kind: KIND) -> Tensor:
        y = ones(**kind)
        y[2, 1] = value
        return y

    return y0


def at(*values: float) -> Callable[[KIND], Tensor]:
    return lambda kind: times(*values, **kind)


def cast(dtype: torch.dtype) -> Callable[[KIND], Tensor]:
    return lambda kind: torch.ones(4, 2, dtype=dtype, device=kind["device"])


def tolerance(**given: object) -> Call:
    return lambda kind: of(controller=PID(**given))(kind)


REFUSED = [
    ("O01-nan-start", of(y0=start(NAN)), ValueError, r"y0 has 1 NaN .*of 8"),
    ("O02-inf-start", of(y0=start(INF)), ValueError, r"y0 has 1 infinite .*of 8"),
    ("O02-minus-inf", of(y0=start(-INF)), ValueError, r"y0 has 1 infinite .*of 8"),
    ("O03-fixed-steps", of(y0=start(NAN), **RK4), ValueError, r"y0 has 1 NaN"),
    ("O04-order", of(ts=at(0, 1, 0.5)), ValueError, r"ts .*index 2 \(1 to 0.5\)"),
    ("O04-turn", of(ts=at(1, 0, 0.5)), ValueError, r"ts .*index \d"),
    ("O05-nothing-else", of(ts=at(1, 1)), ValueError, r"ts .*index 1 \(1 to 1\)"),
    ("O05-repeat", of(ts=at(0, 0.5, 0.5, 1)), ValueError, r"ts .*index 2 \(0.5 to 0"),
    ("O07-no-times", of(ts=at()), ValueError, "ts is empty"),
    ("O08-table", of(ts=lambda k: torch.zeros(3, 2, **k)), ValueError, "ts has 3 rows"),
    (
        "O08-3-axes",
        of(ts=lambda k: torch.zeros(4, 2, 1, **k)),
        ValueError,
        r"ts .*4, 2",
    ),
    ("O09-words", of(ts=lambda k: ["a", "b"]), TypeError, r"ts .*list \['a', 'b'\]"),
    ("O09-ragged", of(ts=lambda k: [[0.0], [1.0, 2.0]]), TypeError, "ts .*list"),
    ("O09-bools", of(ts=lambda k: (False, True)), TypeError, "ts .*tuple"),
    ("O09-number", of(ts=lambda k: 1.0), TypeError, "ts .*float 1.0"),
    ("O09-none", of(ts=lambda k: None), TypeError, "ts .*NoneType"),
    (
        "O09-graph",
        of(ts=lambda k: [0.0, torch.ones((), requires_grad=True)]),
        TypeError,
        "ts .*torch.stack",
    ),
    ("O09-empty", of(ts=lambda k: []), ValueError, "ts is empty"),
    ("O09-nan", of(ts=lambda k: [0.0, NAN]), ValueError, "ts has NaN"),
    ("O09-rows", of(ts=lambda k: np.zeros((3, 2))), ValueError, "ts has 3 rows"),
    ("O10-integers", of(ts=lambda k: torch.tensor([0, 1])), TypeError, "ts .*int64"),
    ("O11-nan", of(ts=at(0, NAN, 1)), ValueError, "ts has NaN"),
    ("O12-inf", of(ts=at(0, INF)), ValueError, "ts has infinite"),
    ("O12-minus-inf", of(ts=at(-INF, 0)), ValueError, "ts has infinite"),
    ("O13-int-start", of(y0=cast(torch.int64)), TypeError, r"y0 .*int64.*float\(\)"),
    ("O14-bool-start", of(y0=cast(torch.bool)), TypeError, r"y0 .*bool.*float\(\)"),
    ("O15-number", of(y0=lambda k: 1.0), TypeError, "y0 .*got float"),
    ("O16-numpy", of(y0=lambda k: np.ones((4, 2))), TypeError, "y0 .*got ndarray"),
    (
        "O17-numbers",
        of(y0=lambda k: [[1.0]]),
        TypeError,
        r"y0\[0\]\[0\].*float",
    ),
    ("O18-float16", of(y0=cast(torch.float16)), TypeError, "y0 is .*float16.*coarse"),
    (
        "O19-bfloat16",
        of(y0=cast(torch.bfloat16)),
        TypeError,
        "y0 .*bfloat16.*coarse",
    ),
    ("O22-float32-field", of(lambda t, y: y.float()), TypeError, "f .*32.*float64"),
    (
        "O23-float64-field",
        of(lambda t, y: y.double(), y0=cast(torch.float32)),
        TypeError,
        "f .*float64.*float32",
    ),
    (
        "O24-zero",
        tolerance(rtol=0.0, atol=0.0),
        ValueError,
        "rtol and atol .*both be 0",
    ),
    ("O25-rtol", tolerance(rtol=-1e-3), ValueError, "rtol must be .*>= 0, got -0.001"),
    ("O26-rtol-nan", tolerance(rtol=NAN), ValueError, "rtol .*nan"),
    ("O26-rtol-inf", tolerance(rtol=INF), ValueError, "rtol .*inf"),
    ("O27-atol", tolerance(atol=-1e-6), ValueError, "atol must be .*>= 0, got -1e-06"),
    ("O27-atol-nan", tolerance(atol=NAN), ValueError, "atol .*nan"),
    (
        "O29-shape",
        tolerance(rtol=torch.ones(3)),
        ValueError,
        r"rtol .*\(3,\).*\(4, 2\)",
    ),
    ("O30-method", of(method="dopri55"), ValueError, "'dopri55'.*dopri5.*bosh3|dopri5"),
    ("O31-option", of(rtol=1e-3), TypeError, "rtol"),
    ("O32-negative", lambda k: FixedSteps(-0.1), ValueError, "step .*> 0, got -0.1"),
    ("O32-first", lambda k: PID(first_step=-0.1), ValueError, "first_step .*got -0.1"),
    ("O33-zero", lambda k: FixedSteps(0.0), ValueError, "step .*> 0, got 0.0"),
    ("O34-nan", lambda k: FixedSteps(NAN), ValueError, "step .*> 0, got nan"),
    ("O57-0-dim", of(y0=lambda k: torch.ones((), **k)), ValueError, r"y0 .*y0\[None\]"),
    ("O58-none", of(y0=lambda k: None), TypeError, "y0 .*None"),
    ("O58-empty", of(y0=lambda k: ()), ValueError, "y0 is empty"),
    (
        "O59-mixed",
        of(y0=lambda k: (ones(**k), ones(**k).float())),
        TypeError,
        "y0 mixes .*float32.*float64",
    ),
    (
        "O60-part-missing",
        of(lambda t, y: (y[0],), y0=lambda k: (ones(**k), ones(**k))),
        ValueError,
        "f returned a tuple of 1 .*tuple of 2",
    ),
    ("O79-no-method", of(method=None), (TypeError, ValueError), "method.*None"),
    ("O80-field", of(5), TypeError, "f must be callable .*int"),
]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [pytest.param(*case[1:], id=case[0]) for case in REFUSED],
)
def test_refused(call: Call, error: type[Exception], words: str, f64: KIND) -> None:
    """Before any step, naming the argument, the value and what to do."""
    with pytest.raises(error, match=words):
        call(f64)


def test_unknown_methods_are_told_the_names(f64: KIND) -> None:
    """O30."""
    with pytest.raises(ValueError) as caught:
        of(method="nonesuch")(f64)
    for name in ("tsit5", "dopri5", "bosh3", "rk4"):
        assert name in str(caught.value)


RETURNED = [
    ("O37-0-dim", lambda t, y: y.sum(), ValueError, r"f .*\(\).*\(4, 2\)"),
    ("O37-number", lambda t, y: 1.0, TypeError, "f .*float"),
    ("O38-column", lambda t, y: y[:, :1], ValueError, r"f .*\(4, 1\).*\(4, 2\)"),
    ("O39-wide", lambda t, y: torch.cat((y, y), 1), ValueError, r"f .*\(4, 4\)"),
    ("O39-vector", lambda t, y: y[:, 0], ValueError, r"f .*\(4,\).*\(4, 2\)"),
    ("O39-transposed", lambda t, y: y.T, ValueError, r"f .*\(2, 4\).*\(4, 2\)"),
    ("O39-extra-axis", lambda t, y: y[None], ValueError, r"f .*\(1, 4, 2\)"),
    ("O40-row", lambda t, y: y[:1], ValueError, r"f .*\(1, 2\).*\(4, 2\)"),
    ("O41-none", lambda t, y: None, TypeError, "f returned None.*return"),
    ("O42-tuple", lambda t, y: (y,), TypeError, "f .*tuple.*tensor"),
    ("O42-dict", lambda t, y: {"a": y}, TypeError, "f .*dict.*tensor"),
    ("O42-numpy", lambda t, y: np.ones((4, 2)), TypeError, "f .*ndarray"),
    ("O43-complex", lambda t, y: y + 0j, TypeError, "f .*complex128.*float64"),
    ("O43-int", lambda t, y: y.long(), TypeError, "f .*int64.*float64"),
]


@pytest.mark.parametrize(
    ("field", "error", "words"),
    [pytest.param(*case[1:], id=case[0]) for case in RETURNED],
)
@pytest.mark.parametrize(
    "options",
    [{}, {"method": "euler", "controller": FixedSteps(0.5)}, {"batch": "shared"}],
    ids=["tsit5", "euler", "shared"],
)
def test_what_a_field_returns(
    field: Callable[[Tensor, Tensor], object],
    error: type[Exception],
    words: str,
    options: dict[str, object],
    f64: KIND,
) -> None:
    """Nothing is broadcast or cast."""
    with pytest.raises(error, match=words) as caught:
        of(field, **options)(f64)
    assert "first call of the solve" in "".join(caught.value.__notes__)


def pair(kind: KIND) -> Pair:
    return Pair(ones(**kind), ones(**kind))


def named(kind: KIND) -> OrderedDict[str, Tensor]:
    return OrderedDict(b=ones(**kind), a=ones(**kind))


RIGHT = [
    ("O09-list", of(ts=lambda k: [0.0, 1.0]), Tensor),
    ("O09-rows", of(ts=lambda k: [[0.0, 1.0]] * 4), Tensor),
    ("O09-tuple", of(ts=lambda k: (0, 1)), Tensor),
    ("O09-array", of(ts=lambda k: np.array([0.0, 1.0])), Tensor),
    ("O09-view", of(ts=lambda k: np.array([1.0, 0.0])[::-1]), Tensor),
    ("O09-array32", of(ts=lambda k: np.array([0, 1], dtype=np.float32)), Tensor),
    ("O17-list", of(lambda t, y: [-y[0]], y0=lambda k: [ones(**k)]), list),
    ("O17-tuple", of(lambda t, y: (-y[0],), y0=lambda k: (ones(**k),)), tuple),
    ("O17-namedtuple", of(lambda t, y: Pair(-y.left, -y.right), y0=pair), Pair),
    (
        "O17-ordereddict",
        of(lambda t, y: {"a": -y["a"], "b": -y["b"]}, y0=named),
        OrderedDict,
    ),
    ("O35-long-step", of(method="rk4", controller=FixedSteps(50.0)), Tensor),
    ("O72-controller", of(controller=PID(rtol=1e-6)), Tensor),
    ("O74-backwards", of(lambda t, y: y, ts=at(1, 0)), Tensor),
]


@pytest.mark.parametrize(
    ("call", "kind"), [pytest.param(*case[1:], id=case[0]) for case in RIGHT]
)
def test_right(call: Call, kind: type, f64: KIND) -> None:
    """y' = -y over one unit of time, in the structure of y0."""
    final = call(f64).final
    assert isinstance(final, kind) and (kind is Tensor or type(final) is kind)
    leaves = final.values() if isinstance(final, dict) else final
    for leaf in [final] if isinstance(final, Tensor) else leaves:
        torch.testing.assert_close(leaf, ones(**f64) / torch.e, rtol=2e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_listed_times_take_the_precision_of_the_state(
    dtype: torch.dtype, device: torch.device
) -> None:
    """S09: also for an SDE; the times come back as a tensor."""
    y0 = torch.ones(4, 2, dtype=dtype, device=device)
    real = y0.abs().dtype
    sde = SDETerm(lambda t, y: -y, lambda t, y: 0.1 * y)
    listed, made = (
        [
            solve(term, y0, ts, **options)
            for term, options in (
                (ODETerm(lambda t, y: -y), {}),
                (sde, {"method": "euler", "controller": FixedSteps(0.1), "noise": 1}),
            )
        ]
        for ts in ([0, 0.3, 1], torch.tensor([0, 0.3, 1], dtype=real, device=device))
    )
    for one, other in zip(listed, made, strict=True):
        assert one.ts.dtype == real and one.ts.device == y0.device
        assert torch.equal(one.ts, other.ts) and torch.equal(one.ys, other.ys)


def test_one_time_is_the_start(f64: KIND) -> None:
    """O06."""
    sol = of(ts=at(0.3))(f64)
    assert torch.equal(sol.ys, ones(**f64)[:, None])
    assert not sol.stats.accepted.any()


def test_a_grid_of_too_many_steps_is_refused_first(f64: KIND) -> None:
    """O36: neither memory nor time is spent on 10^12 steps."""
    calls = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        calls.append(None)
        return -y

    with pytest.raises(ValueError, match=r"step=1e-12 .*999999999\d+ .*max_steps=4096"):
        of(field, method="rk4", controller=FixedSteps(1e-12))(f64)
    assert not calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tolerances_below_roundoff(dtype: torch.dtype, device: torch.device) -> None:
    """O28: one warning with the least that the dtype resolves, which is then used."""
    y0 = torch.ones(4, 2, dtype=dtype, device=device)
    ts = torch.tensor([0.0, 1.0], device=device)
    with pytest.warns(UserWarning, match=r"rtol=1e-20.*resolves.*rtol=.*is used"):
        sol = solve(ODETerm(decay), y0, ts, controller=PID(rtol=1e-20, atol=0.0))
    torch.testing.assert_close(sol.final, y0 / torch.e, rtol=1e-5, atol=0)


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
@pytest.mark.parametrize("method", ["tsit5", "bosh3", "dop853"])
@pytest.mark.parametrize(
    "atol", [0.0, torch.tensor([1e-6, 0.0])], ids=["number", "tensor"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_entry_of_zero_without_absolute_tolerance(
    dtype: torch.dtype, atol: object, method: str, batch: str, device: torch.device
) -> None:
    """O24: 0 / 0 is no error."""
    y0 = torch.tensor([[1.0, 0.0]] * 2, dtype=dtype, device=device)
    ts = torch.tensor([0.0, 1.0], device=device)
    control = PID(atol=atol)
    options = {"method": method, "batch": batch, "controller": control}
    final = solve(ODETerm(decay), y0, ts, **options).final
    torch.testing.assert_close(final, y0 / torch.e, rtol=5e-3, atol=0)
    final = solve(ODETerm(lambda t, y: y * 0 + 1), 0 * y0, ts, **options).final
    torch.testing.assert_close(final, torch.ones_like(y0), rtol=5e-3, atol=0)


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
@pytest.mark.parametrize("controller", [PID(), FixedSteps(0.1)], ids=["pid", "fixed"])
@pytest.mark.parametrize(
    "shape", [(0, 3), (5, 0), (0,)], ids=["O55-batch", "O56-size", "O55-scalars"]
)
def test_empty_states(
    shape: tuple[int, ...], controller: object, batch: str, f64: KIND
) -> None:
    y0 = torch.ones(shape, **f64).requires_grad_()
    sol = of(y0=lambda k: y0, controller=controller, batch=batch)(f64)
    assert sol.ys.shape == (shape[0], 2, *shape[1:]) and sol.final.shape == shape
    assert sol.status.shape == shape[:1] and not sol.status.any()


def test_tensors_that_a_plain_function_uses_get_gradients(f64: KIND) -> None:
    """O61, O62: found without being named; what needs none gets none."""
    rate = torch.ones((), requires_grad=True, **f64)
    fixed = torch.ones((), **f64)
    sol = of(lambda t, y, args: -rate * args * y, args=fixed)(f64)
    sol.final.sum().backward()
    torch.testing.assert_close(rate.grad, -8 / torch.e * fixed, rtol=1e-2, atol=0)
    assert fixed.grad is None
