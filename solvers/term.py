"""Terms: the user's functions, and how a state lies in the engine's layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from nde.solvers.state import State, Structure

Noise = Literal["diagonal", "scalar", "additive", "general"]
Interpretation = Literal["ito", "stratonovich"]
# (t, y), or (t, y, args) where the solve has args.
Function = Callable[..., State]
Field = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Integrand:
    """What to integrate along the solution of an ODE.

    `rate(field, t, y, slope)` returns `(batch, width)`. It sees the state flat:
    `y (batch, dim)`, its slope f(t, y) likewise, complex numbers as pairs of real ones,
    and `field(t, y)` is f for such states, to be called or differentiated at others.
    `t` is as f gets it.

    Raises TypeError if rate is not callable, ValueError for a width below 1.
    """

    rate: Callable[[Field, Tensor, Tensor, Tensor], Tensor]
    width: int = 1

    def __post_init__(self) -> None:
        _callable("rate", self.rate, "field, t, y, slope")
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")


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

    With an `integrand` the solve also integrates that, by the same method and with
    gradients by the same adjoint: `Solution.integral (batch, T, width)`, from ts[0] on,
    negative where time runs backward and the rate is positive. Neither the steps nor
    the states change, also where the rate is not finite, which the integral is from
    there on. Statistics count calls of f with its rate as one evaluation.

    Raises TypeError if f is not callable.
    """

    f: Function
    integrand: Integrand | None = None

    def __post_init__(self) -> None:
        _callable("f", self.f)


@dataclass(frozen=True)
class SDETerm:
    """dy = drift(t, y) dt + diffusion(t, y) dB.

    Both are called as the field of an `ODETerm`.

    Args:
        drift: returns the structure and shapes of y.
        diffusion: returns, for noise that is "diagonal" (one Brownian motion per entry
            of y) or "scalar" (one per sample), the structure and shapes of y; for
            "general", and for "additive", which must not depend on y (or the solve
            refuses it), leaves of shape `(batch, ..., noise_dim)`.
        noise: see `diffusion`.
        interpretation: "ito" or "stratonovich". It must fit the method, but for
            additive noise, where both are the same.
        noise_dim: number of Brownian motions of additive and general noise.
        mixing: B = mixing W for a standard Brownian motion W, `(noise, k)` with a row
            for each motion in B, on the state's device. Rows have length 1, so that
            mixing @ mixing.T is the correlation of B; with additive and general noise
            they may have any.
        prior: drift `h(t, y)` of another SDE of the same diffusion and interpretation,
            called as `drift`. Then `Solution.path_kl (batch, T)` is (1/2) int |u|^2 dt
            from ts[0] on, with g u = drift - h; its expectation over paths is the
            Kullback-Leibler divergence of this equation's law from the prior's (Li et
            al. 2020, *Scalable gradients for stochastic differential equations*, eq.
            10; torchsde's documentation leaves out the half). What `to` adds to both
            drifts cancels. A matrix g takes the shortest u that brings g u nearest to
            the difference; whether that lies in its range is not asked. Where a row of
            g is zero and the drifts differ in it, the divergence is infinite from then
            on. Costs an evaluation of h with each of the drift, and one of the
            diffusion where the method asks for none at that stage.

    Raises TypeError or ValueError naming the argument.
    """

    drift: Function
    diffusion: Function
    noise: Noise = "diagonal"
    interpretation: Interpretation = "ito"
    noise_dim: int | None = None
    mixing: Tensor | None = None
    prior: Function | None = None
    # What conversion adds to the drift: so many times (1/2) sum_j (dg_j/dy) g_j.
    correction: int = 0

    def __post_init__(self) -> None:
        _callable("drift", self.drift)
        _callable("diffusion", self.diffusion)
        if self.prior is not None:
            _callable("prior", self.prior)
        if self.noise not in get_args(Noise):
            raise ValueError(
                f"noise is {self.noise!r}; use 'diagonal', 'scalar', 'additive' or "
                "'general'"
            )
        if self.interpretation not in get_args(Interpretation):
            raise ValueError(
                f"interpretation is {self.interpretation!r}; use 'ito' or "
                "'stratonovich'"
            )
        if self.matrix != (self.noise_dim is not None) or (
            self.noise_dim is not None and self.noise_dim < 1
        ):
            raise ValueError(
                f"noise_dim is {self.noise_dim} with noise={self.noise!r}; give the "
                "number of Brownian motions for additive and general noise, and only "
                "there"
            )
        if self.mixing is not None:
            self._check_mixing(self.mixing)

    @property
    def matrix(self) -> bool:
        """Whether the diffusion is a matrix for each sample."""
        return self.noise in ("additive", "general")

    def to(self, interpretation: Interpretation) -> SDETerm:
        """The same equation in the other interpretation.

        Its drift is the drift here plus (Stratonovich to Ito) or minus (1/2) sum_j
        (dg_j/dy) g_j, with derivatives of the diffusion by forward-mode automatic
        differentiation: one for scalar noise, none for additive, and one for each
        entry of y, or each Brownian motion, for diagonal or general noise.
        """
        if interpretation == self.interpretation:
            return self
        sign = 1 if interpretation == "ito" else -1
        return replace(
            self, interpretation=interpretation, correction=self.correction + sign
        )

    def _check_mixing(self, mixing: object) -> None:
        if not isinstance(mixing, Tensor) or not mixing.is_floating_point():
            shown = mixing.dtype if isinstance(mixing, Tensor) else type(mixing)
            raise TypeError(f"mixing must be a floating tensor, got {shown}")
        if mixing.ndim != 2 or self.noise == "scalar":
            raise ValueError(
                f"mixing has shape {tuple(mixing.shape)} with noise={self.noise!r}; "
                "give a matrix (noise, k), for noise of more than one Brownian motion"
            )
        if self.noise_dim is not None and mixing.shape[0] != self.noise_dim:
            raise ValueError(
                f"mixing has {mixing.shape[0]} rows for noise_dim={self.noise_dim}; "
                "give one for each Brownian motion"
            )
        length = torch.linalg.vector_norm(mixing.detach(), dim=1)
        if not self.matrix and bool(((length - 1.0).abs() > 1e-4).any()):
            raise ValueError(
                f"rows of mixing have lengths {length.tolist()}; with diagonal noise "
                "each must be 1 (the Cholesky factor of a correlation matrix), and "
                "sizes belong into the diffusion"
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

    def visible(self, y: Tensor) -> Tensor:
        """`(rows, dim)` without what the structure hides."""
        if not self.structure.hidden:
            return y
        seen = self.to_batch(y)[:, : self.structure.visible]
        return seen.reshape(1, seen.numel()) if self.shared else seen

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


def _callable(name: str, value: object, arguments: str = "t, y") -> None:
    if not callable(value):
        raise TypeError(
            f"{name} must be callable as {name}({arguments}), got "
            f"{type(value).__name__}"
        )
