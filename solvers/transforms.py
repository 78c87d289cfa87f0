"""Solves inside of `torch.func` transforms and forward-mode differentiation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C._functorch import (
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


def in_every_member(condition: Tensor) -> Tensor:
    """Where a condition holds in all members of a vmapped ensemble, as a plain tensor.

    What decides about steps and samples is one for all of them.
    """
    while is_functorch_wrapped_tensor(condition):
        inner = get_unwrapped(condition)
        if is_batchedtensor(condition):
            inner = inner.all(dim=maybe_get_bdim(condition))
        condition = inner
    return condition


def mapped(value: Tensor) -> bool:
    """Whether a tensor has a value for each member of an ensemble."""
    while is_functorch_wrapped_tensor(value):
        if is_batchedtensor(value):
            return True
        value = get_unwrapped(value)
    return False
