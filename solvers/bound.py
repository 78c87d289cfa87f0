"""Terms bound to a state: the user's functions as the engine calls them.

The engine knows one layout, `(rows, dim)` with a time per row. Binding unflattens the
state, reverses time for decreasing `ts`, folds a shared batch into one row, and checks
what the user's functions return.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import pad

from nde.solvers.brownian.increment import BrownianIncrement
from nde.solvers.divergence import given_again, with_rate
from nde.solvers.integral import with_integrand
from nde.solvers.term import (
    Field,
    Function,
    Interpretation,
    Layout,
    Noise,
    ODETerm,
    SDETerm,
    Term,
)
from nde.solvers.transforms import load_forward_mode, transformed


@dataclass(frozen=True)
class BoundODE:
    """An ODE term in engine layout: `f(t (rows,), y (rows, dim)) -> (rows, dim)`."""

    term: ODETerm
    layout: Layout

    @property
    def functions(self) -> tuple[object, ...]:
        """The user's functions."""
        integrand = self.term.integrand
        return (self.term.f,) if integrand is None else (self.term.f, integrand.rate)

    @cached_property
    def f(self) -> Field:
        """The vector field along the engine's time."""
        if self.term.integrand is None:
            forward = self.layout.fit(self.term.f, "f")
        else:
            forward = with_integrand(self.term, self.layout)
        if not self.layout.reverse:
            return forward
        return lambda t, y: -forward(t, y)

    def probe(self, t: Tensor, y: Tensor) -> None:
        """Call the user's function once."""
        self.f(t, y)


@dataclass(frozen=True)
class BoundSDE:
    """An SDE term in engine layout.

    Where the diffusion is a matrix for each sample, G is `(batch, dim of a sample, m)`,
    also where the batch is one row; else `(rows, dim)`. No noise moves the columns that
    the structure hides.
    """

    term: SDETerm
    layout: Layout

    @property
    def noise(self) -> Noise:
        """The kind of noise."""
        return self.term.noise

    @property
    def interpretation(self) -> Interpretation:
        """Ito or Stratonovich."""
        return self.term.interpretation

    @property
    def functions(self) -> tuple[Function, ...]:
        """The user's functions."""
        term = self.term
        both = term.drift, term.diffusion
        return both if term.prior is None else (*both, term.prior)

    @property
    def motions(self) -> int:
        """Brownian motions of each sample that B has."""
        if self.term.noise == "diagonal":
            return self.layout.structure.visible
        return self.term.noise_dim or 1

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Shape of the Brownian motion to draw: `(batch, m)`."""
        mixing = self.term.mixing
        m = self.motions if mixing is None else mixing.shape[1]
        return self.layout.structure.batch, m

    @cached_property
    def f(self) -> Field:
        """The drift."""
        drift, times = self.layout.fit(self.term.drift, "drift"), self.term.correction
        if self.term.prior is not None:
            prior = self.layout.fit(self.term.prior, "prior")
            drift = with_rate(drift, prior, self.g, self.term, self.layout)
        if not times or self.term.noise == "additive":
            return drift
        return lambda t, y: torch.add(drift(t, y), self._own(t, y), alpha=0.5 * times)

    @cached_property
    def g(self) -> Field:
        """The diffusion."""
        if self.term.prior is None:
            return self._diffusion
        return given_again(self._diffusion)

    @property
    def _diffusion(self) -> Field:
        if not self.term.matrix:
            return self.layout.fit(self.term.diffusion, "diffusion")
        matrix, mixing = self._matrix, self.term.mixing
        if mixing is None:
            return matrix
        return lambda t, y: torch.matmul(matrix(t, y), mixing.to(y))

    def driven(self, increment: BrownianIncrement) -> BrownianIncrement:
        """The Brownian motion that drives the steps, from the one that was drawn."""
        if self.term.noise != "diagonal":
            return increment
        mixing = self.term.mixing
        if mixing is not None:
            area, mix = increment.area, mixing.to(increment.w)
            increment = BrownianIncrement(
                increment.w @ mix.T,
                None if increment.levy is None else increment.levy @ mix.T,
                None if area is None else mix @ area @ mix.T,
            )
        hidden = self.layout.structure.hidden
        if not hidden:
            return increment
        assert increment.area is None, "diagonal noise asks for none"
        return increment.map(lambda part: pad(part, (0, hidden)))

    def product(self, g: Tensor, w: Tensor) -> Tensor:
        """g w in engine layout; `w (batch, m)`."""
        shared = self.layout.shared
        if self.term.matrix:
            moved = torch.bmm(g, w.unsqueeze(-1)).squeeze(-1)
            return moved.reshape(1, -1) if shared else moved
        if shared:
            return (self.layout.to_batch(g) * w).reshape(1, -1)
        return g * w

    def outer(self, v: Tensor, w: Tensor) -> Tensor:
        """The gradient of <v, g w> in g, `v (rows, dim)`."""
        wide = self.layout.to_batch(v)
        if self.term.matrix:
            return wide.unsqueeze(-1) * w.unsqueeze(-2)
        return (wide * w).reshape(v.shape)

    def spread(self, g: Tensor) -> Tensor:
        """The size of g w in engine layout, for motions of size 1."""
        if not self.term.matrix:
            return g
        # Its derivative is 0 where g is.
        size: Tensor = torch.linalg.vector_norm(g, dim=-1)
        return size.reshape(1, -1) if self.layout.shared else size

    def moved(self, y: Tensor, g: Tensor, w: Tensor) -> Tensor:
        """y + g w."""
        if self.term.matrix or self.layout.shared:
            return y + self.product(g, w)
        return torch.addcmul(y, g, w)

    def slope(self, t: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The diffusion, and its derivative in y along `v (rows, dim)`.

        Raises RuntimeError where the diffusion has no forward-mode derivative.
        """
        load_forward_mode()
        try:
            with forward_ad.dual_level():
                moving = forward_ad.make_dual(y, v)  # type: ignore[no-untyped-call]
                value = self.g(t, moving)
                g, dg = forward_ad.unpack_dual(value)  # type: ignore[no-untyped-call]
        except (NotImplementedError, RuntimeError) as error:
            error.add_note(
                "The diffusion was differentiated in forward mode; where it cannot be, "
                "use a method without derivatives (milstein_grad_free)"
            )
            raise
        return g, torch.zeros_like(g) if dg is None else dg

    def own_slope(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """A diagonal diffusion, and g_i dg_i/dy_i where an entry depends on its own.

        In reverse mode: at the cost of a call and its derivative.
        """
        if transformed():
            # torch.autograd.grad is closed to what transforms hide.
            value, pull, *_ = torch.func.vjp(partial(self.g, t), y)
            return value, pull(value)[0]
        graph = torch.is_grad_enabled()
        with torch.enable_grad():
            start = y if graph and y.requires_grad else y.detach().requires_grad_()
            g = self.g(t, start)
            if not g.requires_grad:
                return g, torch.zeros_like(g)
            (dg,) = torch.autograd.grad(
                g, start, g, create_graph=graph, materialize_grads=True
            )
        return (g, dg) if graph else (g.detach(), dg)

    def column(self, g: Tensor, j: int) -> Tensor:
        """Column j of a matrix diffusion as a direction `(rows, dim)`."""
        one = g[:, :, j]
        return one.reshape(1, -1) if self.layout.shared else one

    def probe(self, t: Tensor, y: Tensor) -> None:
        """Call the user's functions once."""
        self.f(t, y)
        self.g(t, y)

    def _own(self, t: Tensor, y: Tensor) -> Tensor:
        """sum_j (dg_j/dy) g_j over independent motions: `(rows, dim)`."""
        g = self.g(t, y)
        if self.term.noise == "scalar":
            return self.slope(t, y, g)[1]
        if self.term.matrix:
            total = torch.zeros_like(y)
            for j in range(g.shape[2]):
                _, dg = self.slope(t, y, self.column(g, j))
                total = total + self.column(dg, j)
            return total
        # Of each entry along the motions correlated with its own: a direction for each.
        mixing, hidden = self.term.mixing, self.layout.structure.hidden
        if mixing is None:
            correlation = torch.eye(self.motions, dtype=y.dtype, device=y.device)
        else:
            correlation = torch.matmul(mixing, mixing.T).to(y)
        parts = []
        for i, row in enumerate(pad(correlation, (0, hidden))):
            along = (self.layout.to_batch(g) * row).reshape(y.shape)
            parts.append(self.layout.to_batch(self.slope(t, y, along)[1])[:, i])
        return pad(torch.stack(parts, dim=1), (0, hidden)).reshape(y.shape)

    def _matrix(self, t: Tensor, y: Tensor) -> Tensor:
        layout = self.layout
        state = layout.structure.unflatten(layout.to_batch(y))
        value = layout.call(self.term.diffusion, layout.clock(t), state)
        assert self.term.noise_dim is not None
        return layout.structure.columns(value, self.term.noise_dim, "diffusion")


Bound = BoundODE | BoundSDE


def at_rest(term: Bound, moving: Tensor) -> Bound:
    """A term whose functions are zero in rows that rest, `moving (rows, 1)` False.

    What they give there is dropped, but would come back as 0 times NaN in a gradient.
    """

    def masked(function: Field) -> Field:
        def zero_at_rest(t: Tensor, y: Tensor) -> Tensor:
            value = function(t, y)
            wide = moving.view(-1, *(1,) * (value.ndim - 1))
            return torch.where(wide, value, 0.0)

        return zero_at_rest

    copy = replace(term)
    # They are cached properties: what stands in the instance is what is called.
    vars(copy)["f"] = masked(term.f)
    if isinstance(term, BoundSDE):
        vars(copy)["g"] = masked(term.g)
    return copy


def bind(term: Term, layout: Layout) -> Bound:
    """A term in engine layout."""
    if isinstance(term, ODETerm):
        return BoundODE(term, layout)
    return BoundSDE(term, layout)
