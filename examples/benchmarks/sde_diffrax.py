"""diffrax on the SDE of the speed benchmark: compiled, with the same weights.

Its `VirtualBrownianTree` is what gradients need; `UnsafeBrownianPath` draws, and goes
forward alone. Milstein's method differentiates the diffusion of the batch as one state,
which takes hundreds of gigabytes here, and it has no method like `srk` for Ito
equations: both have no row. JAX runs where it runs by default.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
from sde_equation import Workload
from sde_variants import SEED
from torch import Tensor, nn
from turns import Action

HAS_DIFFRAX = importlib.util.find_spec("diffrax") is not None

SOLVERS = {"euler": "Euler", "heun": "Heun", "reversible_heun": "ReversibleHeun"}


def _weights(net: nn.Sequential) -> list[np.ndarray]:
    """The tensors of an MLP of one hidden layer, matrices to be multiplied from the
    right."""
    values: list[Tensor] = [p.detach().cpu() for p in net.parameters()]
    return [value.numpy().T for value in values]


def _path(name: str, work: Workload) -> Any:
    import diffrax
    import jax

    shape = jax.ShapeDtypeStruct(tuple(work.y0.shape), "float32")
    key = jax.random.PRNGKey(SEED)
    if name == "unsafe":
        return diffrax.UnsafeBrownianPath(shape, key)
    return diffrax.VirtualBrownianTree(0.0, 1.0, 0.5 * work.dt, shape, key)


def end_state(work: Workload, noise: str) -> Any:
    """A function of y0 and the weights of both networks to the state at the end."""
    import diffrax
    import jax
    import jax.numpy as jnp
    import lineax

    def net(y: Any, weights: Any) -> Any:
        first, shift, second, last = weights
        return jnp.tanh(y @ first + shift) @ second + last

    def drift(t: Any, y: Any, args: Any) -> Any:
        return net(y, args[0])

    def diffusion(t: Any, y: Any, args: Any) -> Any:
        return lineax.DiagonalLinearOperator(jax.nn.sigmoid(net(y, args[1])))

    solver = getattr(diffrax, SOLVERS[work.method])()
    adjoint = (
        diffrax.ForwardMode()
        if noise == "unsafe"
        else diffrax.RecursiveCheckpointAdjoint()
    )

    def run(y0: Any, args: Any) -> Any:
        noisy = diffrax.ControlTerm(diffusion, _path(noise, work))
        return diffrax.diffeqsolve(
            diffrax.MultiTerm(diffrax.ODETerm(drift), noisy),
            solver,
            0.0,
            1.0,
            work.dt,
            y0,
            args,
            adjoint=adjoint,
            # One more where the steps end a rounding before 1.
            max_steps=work.steps + 1,
        ).ys[-1]

    return run


def actions(work: Workload, backward: bool) -> dict[str, Action]:
    """Compiled solves by name of the noise; none for methods that it lacks."""
    if work.method not in SOLVERS:
        return {}
    import jax
    import jax.numpy as jnp

    y0 = jnp.asarray(work.y0.cpu().numpy())
    nets = (work.equation.drift, work.equation.size)
    args = tuple([jnp.asarray(value) for value in _weights(net)] for net in nets)

    def action(noise: str) -> Action:
        run = end_state(work, noise)
        if backward:
            run = jax.grad(
                lambda y, a, end=run: jnp.sum(end(y, a) ** 2), argnums=(0, 1)
            )
        compiled = jax.jit(run)
        return lambda: jax.block_until_ready(compiled(y0, args))

    return {
        noise: action(noise)
        for noise in (("tree",) if backward else ("unsafe", "tree"))
    }
