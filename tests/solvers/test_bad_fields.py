"""What a field returns or raises: checked on the first call, and never broadcast."""

import pytest
import torch
from fields import ones, times
from problems import DECAY, KIND
from torch import Tensor, nn

from nde.solvers import (
    ODETerm,
    SolveError,
    solve,
)


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


def test_module_fields_report_like_functions(f64: KIND) -> None:
    class Broken(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return DECAY.field(t, y)[:, :1]

    with pytest.raises(ValueError, match=r"\(4, 1\).*\(4, 2\)"):
        solve(ODETerm(Broken()), ones(**f64), times(0, 1, **f64))


def test_a_field_that_returns_its_state_itself(f64: KIND) -> None:
    y0, ts = ones(**f64), times(0, 1, **f64)
    got = solve(ODETerm(lambda t, y: y), y0, ts).final
    torch.testing.assert_close(got, torch.e * y0, rtol=5e-3, atol=0)
    assert (y0 == 1).all()
