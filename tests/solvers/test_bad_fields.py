"""What a field returns or raises: checked on the first call, and never broadcast."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from fields import decay, ones, times
from problems import DECAY, KIND
from torch import Tensor, nn

from nde.solvers import (
    FixedSteps,
    ODETerm,
    SolveError,
    solve,
)


@pytest.mark.parametrize(
    ("field", "error", "words"),
    [
        (lambda t, y: None, TypeError, "None"),
        (lambda t, y: 1.0, TypeError, "float"),
        (lambda t, y: np.ones((4, 2)), TypeError, "ndarray"),
        (lambda t, y: (y,), TypeError, "tuple"),
        (lambda t, y: {"a": y}, TypeError, "dict"),
        (lambda t, y: y.sum(), ValueError, r"\(\).*\(4, 2\)"),
        (lambda t, y: y[:1], ValueError, r"\(1, 2\).*\(4, 2\)"),
        (lambda t, y: y[:, :1], ValueError, r"\(4, 1\).*\(4, 2\)"),
        (lambda t, y: y[:, 0], ValueError, r"\(4,\).*\(4, 2\)"),
        (lambda t, y: torch.cat((y, y), -1), ValueError, r"\(4, 4\).*\(4, 2\)"),
        (lambda t, y: y.T, ValueError, r"\(2, 4\).*\(4, 2\)"),
        (lambda t, y: y[None], ValueError, r"\(1, 4, 2\).*\(4, 2\)"),
        (lambda t, y: y.float(), TypeError, "float32.*float64"),
        (lambda t, y: y + 0j, TypeError, "complex"),
        (lambda t, y: y.long(), TypeError, "int64"),
    ],
    ids=[
        "none",
        "number",
        "numpy",
        "tuple",
        "dict",
        "0-dim",
        "one row",
        "one column",
        "vector",
        "wide",
        "transposed",
        "extra axis",
        "float32",
        "complex",
        "int",
    ],
)
@pytest.mark.parametrize(
    "options",
    [{}, {"method": "euler", "controller": FixedSteps(0.5)}, {"batch": "shared"}],
    ids=["tsit5", "euler", "shared"],
)
def test_wrong_field_output(
    field: Callable[[Tensor, Tensor], object],
    error: type[Exception],
    words: str,
    options: dict[str, object],
    f64: KIND,
) -> None:
    with pytest.raises(error, match=words):
        solve(ODETerm(field), ones(**f64), times(0, 1, **f64), **options)


def test_wrong_nested_field_output(f64: KIND) -> None:
    y0 = {"a": ones(**f64), "b": ones(**f64)}
    for field in (
        lambda t, y: {"a": y["a"]},
        lambda t, y: (y["a"], y["b"]),
        lambda t, y: {"a": y["a"], "c": y["b"]},
        lambda t, y: y["a"],
        lambda t, y: {"a": y["a"], "b": y["b"][:1]},
    ):
        with pytest.raises((TypeError, ValueError), match=r"\bf\b"):
            solve(ODETerm(field), y0, times(0, 1, **f64))


def test_a_shape_that_changes_later_is_caught(f64: KIND) -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return y[:1] if t.max() > 0.5 else y

    with pytest.raises((ValueError, SolveError), match=r"\(1, 2\)"):
        solve(ODETerm(field), ones(**f64), times(0, 1, **f64))


@pytest.mark.parametrize("raised", [ZeroDivisionError, KeyboardInterrupt, KeyError])
@pytest.mark.parametrize("grad", [False, True])
def test_the_users_exception_passes(
    raised: type[BaseException], grad: bool, f64: KIND
) -> None:
    """O48, O78: unwrapped, and the next solve works."""
    thrown = raised("mine")

    def field(t: Tensor, y: Tensor) -> Tensor:
        if t.max() > 0.3:
            raise thrown
        return -y

    y0 = ones(**f64).requires_grad_(grad)
    with pytest.raises(raised) as caught:
        solve(ODETerm(field), y0, times(0, 1, **f64))
    assert caught.value is thrown and caught.value.__cause__ is None
    assert torch.is_grad_enabled()
    solve(ODETerm(decay), y0, times(0, 1, **f64))


def test_module_fields_report_like_functions(f64: KIND) -> None:
    class Broken(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return DECAY.field(t, y)[:, :1]

    with pytest.raises(ValueError, match=r"\(4, 1\).*\(4, 2\)"):
        solve(ODETerm(Broken()), ones(**f64), times(0, 1, **f64))
