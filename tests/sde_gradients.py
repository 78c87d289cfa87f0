"""An SDE of each kind of noise with everything that gradients go to."""

from collections.abc import Callable

import torch
from problems import KIND, normal
from sde_problems import PROBLEMS
from torch import Tensor, nn

from nde.solvers import BrownianTree, FixedSteps, SDETerm, Solution, solve

BATCH, STEP = 5, 1 / 16
NAN = float("nan")
# Rows with all times, with fewer, with others, and with none but the first.
RAGGED = (
    (0.0, 0.2, 0.5, 1.0),
    (0.0, 0.3, 0.4, NAN),
    (0.1, 0.4, 0.9, 0.95),
    (0.2, NAN, NAN, NAN),
    (0.0, NAN, 0.1, 0.3),
)
TIMES = {"common": (0.0, 0.21, 0.5, 1.0), "own": RAGGED}
KINDS = ("diagonal", "scalar", "additive", "general", "diagonal mixed", "general mixed")


class Scaled(nn.Module):
    """A problem whose drift and diffusion have parameters, args and a closure."""

    def __init__(self, kind: str, **options: torch.dtype | torch.device) -> None:
        super().__init__()
        noise = kind.removesuffix(" mixed")
        problem = PROBLEMS[noise]
        self.motions = problem.motions
        self.rate = nn.Parameter(torch.tensor([0.7, -0.4], **options))
        self.size = nn.Parameter(torch.tensor(0.6, **options))
        self.shift = normal((2,), 4, **options).requires_grad_()
        mixing = torch.tensor([[1.0, 0.0], [0.6, 0.8]], **options)
        shift = self.shift

        def drift(t: Tensor, y: Tensor, args: Tensor) -> Tensor:
            return problem.drift(t, y) * self.rate + (y * shift).cos() * args

        def diffusion(t: Tensor, y: Tensor, args: Tensor) -> Tensor:
            return self.size * problem.diffusion(t, y)

        self.term = SDETerm(
            drift,
            diffusion,
            noise=noise,
            interpretation="stratonovich",
            noise_dim=problem.noise_dim,
            mixing=mixing if kind.endswith("mixed") else None,
        )

    def path(self, seed: int = 3) -> BrownianTree:
        kind: KIND = {"dtype": self.size.dtype, "device": self.size.device}
        return BrownianTree(seed, 0.0, 1.0, (BATCH, self.motions), **kind)


def nodes(result: Tensor) -> set[str]:
    """Names of the nodes in a graph."""
    queue, seen = [result.grad_fn], set()
    while queue:
        node = queue.pop()
        if node is not None and node not in seen:
            seen.add(node)
            queue.extend(before for before, _ in node.next_functions)
    return {node.name() for node in seen}


def everything(sol: Solution) -> Tensor:
    """Outputs, the last state, and error estimates of steps."""
    weights = torch.linspace(0.5, 1.5, sol.ys.numel(), dtype=sol.ys.dtype)
    loss = (sol.ys * weights.view_as(sol.ys).to(sol.ys.device)).sin().sum()
    stats = sol.stats
    errors = (stats.error_estimate * stats.step)[stats.valid]
    return loss + (sol.final**3).sum() + errors.sum()


def outputs(sol: Solution) -> Tensor:
    return (sol.ys**2).sin().sum() + (sol.final**3).sum()


def found(
    net: Scaled,
    y0: Tensor,
    adjoint: object,
    loss: Callable[[Solution], Tensor] = everything,
    ts: object = TIMES["common"],
    step: float = STEP,
    **options: object,
) -> list[Tensor]:
    """Gradients in y0, args, a closure's tensor and the parameters."""
    y0, args = (
        y0.clone().requires_grad_(),
        torch.full_like(y0[:1], 0.3).requires_grad_(),
    )
    sol = solve(
        net.term,
        y0,
        torch.as_tensor(ts, dtype=torch.float64, device=y0.device),
        adjoint=adjoint,
        args=args,
        **{
            "method": "reversible_heun",
            "controller": FixedSteps(step),
            "noise": net.path(),
            **options,
        },
    )
    return list(
        torch.autograd.grad(loss(sol), (y0, args, net.shift, net.rate, net.size))
    )
