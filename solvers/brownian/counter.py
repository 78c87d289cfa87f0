"""Random numbers that are functions of a counter: keys in, normals out, no state."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nde.solvers.brownian.seed import Seed


def _signed(word: int) -> int:
    """The int64 of the same 64 bits."""
    return word - (1 << 64) if word >> 63 else word


# The increment and the multipliers of SplitMix64 (Steele, Lea, Flood 2014).
_STRIDE = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)
# Another stride, so that a node and a coordinate are never counted alike: the
# multiplier of MMIX (Knuth).
_LANE = _signed(0x5851F42D4C957F2D)


def mix(z: Tensor) -> Tensor:
    """The bijection of SplitMix64 on the 64 bits of each element, in place."""
    # Integers wrap in torch, but `>>` copies the sign: the mask makes it logical.
    scratch = torch.empty_like(z)
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        torch.bitwise_right_shift(z, shift, out=scratch)
        z.bitwise_xor_(scratch.bitwise_and_((1 << (64 - shift)) - 1)).mul_(factor)
    torch.bitwise_right_shift(z, 31, out=scratch)
    return z.bitwise_xor_(scratch.bitwise_and_((1 << 33) - 1))


def sample_keys(seed: Seed, batch: int, device: torch.device) -> Tensor:
    """A key `(batch,)` for each sample, from (seed, position) or its own seed."""
    if isinstance(seed, Tensor):
        return mix(mix(seed.to(device, copy=True)).bitwise_xor_(_LANE))
    root = mix(torch.tensor(seed, dtype=torch.int64, device=device))
    count = torch.arange(1, batch + 1, dtype=torch.int64, device=device)
    return mix(count.mul_(_STRIDE).add_(root))


def subkeys(keys: Tensor, index: Tensor) -> Tensor:
    """A key for each (key, index): int64 tensors that broadcast together."""
    return mix(keys + index * _STRIDE)


def normals(keys: Tensor, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two independent standard normals for each key and each of `size` coordinates.

    `keys (..., )` int64; returns two tensors `(..., size)`, in float64 if that is
    `dtype` and float32 else: the same 64 bits of the same hash, through Box and Muller,
    so that devices and precisions agree to their rounding. Normals end at 6.6 sigma.
    """
    lanes = torch.arange(1, size + 1, dtype=torch.int64, device=keys.device)
    bits = mix(keys.unsqueeze(-1) + lanes * _LANE)
    half = bits.unsqueeze(-1).view(torch.int32)
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    # Half a unit off zero, and without the sign bit: small numbers keep all their
    # digits in float32, which the tail of the normal law needs.
    radius = (half[..., 1] & 0x7FFFFFFF).to(kind)
    radius.add_(0.5).mul_(2.0**-31).log_().mul_(-2.0).sqrt_()
    angle = half[..., 0].to(kind).mul_(math.pi * 2.0**-31)
    cosine = torch.cos(angle).mul_(radius)
    return cosine, angle.sin_().mul_(radius)
