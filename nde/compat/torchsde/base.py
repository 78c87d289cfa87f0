"""SDEs as torchsde's users write them, and the words that describe them."""

from __future__ import annotations

import abc

from torch import nn

NOISE_TYPES = ("diagonal", "scalar", "additive", "general")
SDE_TYPES = ("ito", "stratonovich")


class BaseSDE(abc.ABC, nn.Module):
    """An SDE whose noise and interpretation are checked when it is made.

    Subclasses define `f(t, y)` and `g(t, y)`, and `h(t, y)` for a prior drift; see
    `sdeint`. Raises ValueError for an unknown noise_type or sde_type.
    """

    def __init__(self, noise_type: str, sde_type: str) -> None:
        super().__init__()
        check_types(noise_type, sde_type)
        self.noise_type = noise_type
        self.sde_type = sde_type


class SDEIto(BaseSDE):
    """An SDE in Ito's interpretation."""

    def __init__(self, noise_type: str) -> None:
        super().__init__(noise_type=noise_type, sde_type="ito")


class SDEStratonovich(BaseSDE):
    """An SDE in Stratonovich's interpretation."""

    def __init__(self, noise_type: str) -> None:
        super().__init__(noise_type=noise_type, sde_type="stratonovich")


def check_types(noise_type: object, sde_type: object) -> None:
    """Raises ValueError unless both are known words."""
    if noise_type not in NOISE_TYPES:
        raise ValueError(
            f"noise_type is {noise_type!r}; expected one of {', '.join(NOISE_TYPES)}"
        )
    if sde_type not in SDE_TYPES:
        raise ValueError(
            f"sde_type is {sde_type!r}; expected one of {', '.join(SDE_TYPES)}"
        )
