"""What every Brownian motion here can be asked, and one with its time reversed."""

from __future__ import annotations

import abc
from typing import Any

import torch

Device = torch.device | str


class BaseBrownian(abc.ABC):
    """A Brownian motion called for its increment from `ta` to `tb`.

    With `return_U=True` also for U, the integral of W_s - W_ta, with `return_A=True`
    for the Levy area A, both None where it has none.
    """

    @abc.abstractmethod
    def __call__(
        self, ta: Any, tb: Any = None, return_U: bool = False, return_A: bool = False
    ) -> Any: ...

    @abc.abstractmethod
    def __repr__(self) -> str: ...

    @property
    @abc.abstractmethod
    def dtype(self) -> torch.dtype:
        """Of the increments."""

    @property
    @abc.abstractmethod
    def device(self) -> Device:
        """Of the increments."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of the increments."""

    @property
    @abc.abstractmethod
    def levy_area_approximation(self) -> str:
        """'none', 'space-time' (it gives U), 'davie' or 'foster' (U and A)."""

    def size(self) -> tuple[int, ...]:
        """`shape`."""
        return self.shape


class ReverseBrownian(BaseBrownian):
    """A motion read against time: asked for [ta, tb] it gives what it does on
    [-tb, -ta], without a change of sign."""

    def __init__(self, base_brownian: BaseBrownian) -> None:
        self.base_brownian = base_brownian

    def __call__(
        self, ta: Any, tb: Any = None, return_U: bool = False, return_A: bool = False
    ) -> Any:
        return self.base_brownian(-tb, -ta, return_U=return_U, return_A=return_A)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_brownian={self.base_brownian})"

    @property
    def dtype(self) -> torch.dtype:
        """Of the increments."""
        return self.base_brownian.dtype

    @property
    def device(self) -> Device:
        """Of the increments."""
        return self.base_brownian.device

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the increments."""
        return self.base_brownian.shape

    @property
    def levy_area_approximation(self) -> str:
        """That of the motion."""
        return self.base_brownian.levy_area_approximation
