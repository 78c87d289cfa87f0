"""Solves inside of `torch.func` transforms and forward-mode differentiation."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache

import torch
from torch import Tensor
from torch._C._functorch import (
    TransformType,
    get_interpreter_stack,
    get_unwrapped,
    is_batchedtensor,
    is_functorch_wrapped_tensor,
    maybe_get_bdim,
)
from torch.autograd import forward_ad


def transformed() -> bool:
    """Whether a transform (grad, vjp, jvp, vmap) or a level of dual numbers is on.

    Then derivatives, or members of an ensemble, hide in tensors that do not say so.
    """
    functorch: bool = torch._C._are_functorch_transforms_active()
    return functorch or forward_ad._current_level >= 0


def outside() -> AbstractContextManager[object]:
    """A context whose operations no transform sees, as draws that all members share."""
    context: AbstractContextManager[object] = torch._C._DisableFuncTorch()
    return context


def in_every_member(condition: Tensor) -> Tensor:
    """Where a condition holds in all members of a vmapped ensemble, as a plain tensor.

    What decides about steps and samples is one for all of them.
    """
    return _over_members(condition, torch.all)


def worst_member(error: Tensor) -> Tensor:
    """The greatest of the members' errors, or NaN where one is, as a plain tensor."""
    return _over_members(error, torch.amax)


def least_member(step: Tensor) -> Tensor:
    """The least of the members' steps, as a plain tensor."""
    return _over_members(step, torch.amin)


def _over_members(value: Tensor, reduce: Callable[..., Tensor]) -> Tensor:
    while is_functorch_wrapped_tensor(value):
        inner = get_unwrapped(value)
        if is_batchedtensor(value):
            inner = reduce(inner, dim=maybe_get_bdim(value))
        value = inner
    # A step size is a constant, also forward.
    return value.detach()


def has_tangent(value: Tensor) -> bool:
    """Whether a tensor carries a derivative of forward mode."""
    if forward_ad._current_level < 0:
        return False
    return forward_ad.unpack_dual(value).tangent is not None  # type: ignore[no-untyped-call]


def one_of_members(value: Tensor) -> bool:
    """Whether each member of a vmapped ensemble has its own in a tensor."""
    while is_functorch_wrapped_tensor(value):
        if is_batchedtensor(value):
            return True
        value = get_unwrapped(value)
    return False


def in_vmap() -> bool:
    """Whether a level of vmap is on, whose members stand in one tensor."""
    levels = get_interpreter_stack() or ()
    return any(level.key() == TransformType.Vmap for level in levels)


@cache
def load_forward_mode() -> None:
    """Make a first dual number, for which torch compiles what it deprecates itself."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)
        one = torch.ones(())
        forward_ad.make_dual(one, one)  # type: ignore[no-untyped-call]
