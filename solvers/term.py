"""Terms: what is integrated. A user's functions, and the same in the engine's layout.

The engine knows one layout, `(rows, dim)` with a time per row. `bind` fits a term to a
state: it unflattens, reverses time for decreasing `ts`, folds a shared batch into one
row, and checks what the user's function returns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from nde.solvers.state import State, Structure

Noise = Literal["diagonal", "scalar", "additive"]
Interpretation = Literal["ito", "stratonovich"]
# (t, y), or (t, y, args) where the solve has args.
Function = Callable[..., State]
Field = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ODETerm:
    """dy/dt = f(t, y).

    `f(t, y)`, or `f(t, y, args)` if the solve is given args, returns the structure and
    shapes of `y`, whose leading axis is the batch. `t` has the dtype of `y`:
    `(batch,)`, or 0-dim where the whole batch shares its steps (`batch="shared"`, or
    fixed steps on shared `ts`). `f` may use tensors from outside; it always sees the
    whole batch, in order. It must not change `t` or `y` in place. A field that takes
    times of its samples along the wrong axis, `t * y` where `y` is as wide as the batch
    is long, is found out before the solve.

    Raises TypeError if f is not callable.
    """

    f: Function

    def __post_init__(self) -> None:
        _callable("f", self.f)


@dataclass(frozen=True)
class SDETerm:
    """dy = drift(t, y) dt + diffusion(t, y) dW.

    Both are called as the field of an `ODETerm`. `noise`: "diagonal" (diffusion has
    y's shape, one Brownian motion per entry), "scalar" (y's shape, one per sample),
    "additive" (`(batch, dim, noise_dim)` for a state `(batch, dim)`, independent of y).
    `interpretation` "ito" or "stratonovich" must fit the method.

    Raises TypeError or ValueError naming the argument.
    """

    drift: Function
    diffusion: Function
    noise: Noise = "diagonal"
    interpretation: Interpretation = "ito"
    noise_dim: int | None = None

    def __post_init__(self) -> None:
        _callable("drift", self.drift)
        _callable("diffusion", self.diffusion)
        if self.noise not in ("diagonal", "scalar", "additive"):
            raise ValueError(
                f"noise is {self.noise!r}; use 'diagonal', 'scalar' or 'additive'"
            )
        if self.interpretation not in ("ito", "stratonovich"):
            raise ValueError(
                f"interpretation is {self.interpretation!r}; use 'ito' or "
                "'stratonovich'"
            )
        if (self.noise == "additive") != (self.noise_dim is not None) or (
            self.noise_dim is not None and self.noise_dim < 1
        ):
            raise ValueError(
                f"noise_dim is {self.noise_dim} with noise={self.noise!r}; give the "
                "number of Brownian motions for additive noise, and only there"
            )


Term = ODETerm | SDETerm


@dataclass(frozen=True)
class Layout:
    """How the engine's rows stand for the user's batch.

    `shared`: one row for the whole batch. `reverse`: the engine's time is minus the
    user's. `common`: the user's functions see one time for all samples. `args` is what
    they take after time and state, None for nothing.
    """

    structure: Structure
    shared: bool
    reverse: bool
    common: bool = False
    args: Any = None

    @property
    def rows(self) -> int:
        """Rows of the engine's state: samples, or one."""
        return 1 if self.shared else self.structure.batch

    def to_engine(self, state: State, name: str) -> Tensor:
        """State to `(rows, dim)`."""
        flat = self.structure.flatten(state, name)
        return flat.reshape(1, flat.numel()) if self.shared else flat

    def to_batch(self, y: Tensor) -> Tensor:
        """`(rows, dim)` to `(batch, dim of a sample)`."""
        structure = self.structure
        return y.reshape(structure.batch, structure.width) if self.shared else y

    def clock(self, t: Tensor) -> Tensor:
        """Engine time as the user's functions see it.

        One sample is stepped with times that are plain numbers, and a shared batch has
        one time.
        """
        if self.shared and t.ndim:
            t = t[0]
        elif not (t.ndim or self.shared or self.common):
            t = t.unsqueeze(0)
        return -t if self.reverse else t

    def call(self, function: Function, t: Tensor, state: State) -> State:
        """A user's function at user time."""
        if self.args is None:
            return function(t, state)
        return function(t, state, self.args)

    def fit(self, function: Function, name: str) -> Field:
        """A user's function in engine layout; time runs the user's way.

        Called at every stage, so the common state, one real tensor, has a short way.
        """
        structure, shared = self.structure, self.shared
        clock, call = self.clock, self.call

        looked = False

        def watched(t: Tensor, y: Tensor, state: State) -> State:
            nonlocal looked
            t = clock(t)
            if y.is_inference():
                # Such tensors count no versions: one look at the first call.
                if looked:
                    return call(function, t, state)
                looked, kept = True, (t.clone(), y.clone())
                value = call(function, t, state)
                changed = not torch.equal(kept[0], t), not torch.equal(kept[1], y)
            else:
                versions = t._version, y._version
                value = call(function, t, state)
                changed = t._version != versions[0], y._version != versions[1]
            if changed[0] or changed[1]:
                what = "t" if changed[0] else "y"
                raise ValueError(
                    f"{name} changed {what} in place, which would corrupt the "
                    f"solution; work on {what}.clone() or use out-of-place operations"
                )
            return value

        def nested(t: Tensor, y: Tensor) -> Tensor:
            state = structure.unflatten(self.to_batch(y))
            return self.to_engine(watched(t, y, state), name)

        if not structure.single:
            return nested
        leaf = structure.leaves[0]
        shape, dtype = torch.Size((structure.batch, *leaf.shape)), leaf.dtype
        reshapes = shared or len(shape) != 2

        def single(t: Tensor, y: Tensor) -> Tensor:
            value = watched(t, y, y.view(shape) if reshapes else y)
            if (
                type(value) is not Tensor
                or value.shape != shape
                or value.dtype != dtype
            ):
                value = structure.flatten(value, name)
            return value.reshape(y.shape) if reshapes else value

        return single


@dataclass(frozen=True)
class BoundODE:
    """An ODE term in engine layout: `f(t (rows,), y (rows, dim)) -> (rows, dim)`."""

    term: ODETerm
    layout: Layout

    @cached_property
    def f(self) -> Field:
        """The vector field along the engine's time."""
        forward = self.layout.fit(self.term.f, "f")
        if not self.layout.reverse:
            return forward
        return lambda t, y: -forward(t, y)

    def probe(self, t: Tensor, y: Tensor) -> None:
        """Call the user's function once."""
        self.f(t, y)


@dataclass(frozen=True)
class BoundSDE:
    """An SDE term in engine layout."""

    term: SDETerm
    layout: Layout

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Shape of the Brownian motion: `(batch, noise)`."""
        structure = self.layout.structure
        if self.term.noise == "diagonal":
            return structure.batch, structure.width
        return structure.batch, self.term.noise_dim or 1

    @cached_property
    def f(self) -> Field:
        """The drift."""
        return self.layout.fit(self.term.drift, "drift")

    @cached_property
    def g(self) -> Field:
        """The diffusion: `(rows, dim)`, or `(batch, dim, noise_dim)` if additive."""
        if self.term.noise == "additive":
            return self._matrix
        return self.layout.fit(self.term.diffusion, "diffusion")

    def _matrix(self, t: Tensor, y: Tensor) -> Tensor:
        layout = self.layout
        state = layout.structure.unflatten(layout.to_batch(y))
        value = layout.call(self.term.diffusion, layout.clock(t), state)
        width = layout.to_batch(y).shape[1]
        wanted = (layout.structure.batch, width, self.term.noise_dim)
        if not isinstance(value, Tensor) or value.shape != wanted:
            shown = tuple(value.shape) if isinstance(value, Tensor) else type(value)
            raise ValueError(
                f"diffusion returned {shown}; additive noise needs shape {wanted}: "
                "(batch, dim, noise_dim)"
            )
        return value

    def product(self, g: Tensor, w: Tensor) -> Tensor:
        """g dW in engine layout; `w (batch, noise)`."""
        if self.term.noise == "additive":
            moved = torch.bmm(g, w.unsqueeze(-1)).squeeze(-1)
            return moved.reshape(1, -1) if self.layout.shared else moved
        if self.term.noise == "scalar" and self.layout.shared:
            return (self.layout.to_batch(g) * w).reshape(1, -1)
        return g * w.reshape(1, -1) if self.layout.shared else g * w

    def probe(self, t: Tensor, y: Tensor) -> None:
        """Call the user's functions once."""
        self.f(t, y)
        self.g(t, y)


Bound = BoundODE | BoundSDE


def bind(term: Term, layout: Layout) -> Bound:
    """A term in engine layout."""
    if isinstance(term, ODETerm):
        return BoundODE(term, layout)
    return BoundSDE(term, layout)


def _callable(name: str, value: object) -> None:
    if not callable(value):
        raise TypeError(
            f"{name} must be callable as {name}(t, y), got {type(value).__name__}"
        )
