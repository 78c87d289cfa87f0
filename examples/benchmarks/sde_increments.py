"""Time of one Brownian increment of a batch, asked step after step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sde_equation import Workload
from sde_variants import HAS_TORCHSDE, SEED, interval, tree
from torch import Tensor
from turns import Action, medians

from nde.solvers import BrownianGrid


def one_after_another(ask: Callable[[float, float], object], steps: int) -> None:
    """Ask for every step of [0, 1], in order."""
    knots = [j / steps for j in range(steps)] + [1.0]
    for ta, tb in zip(knots[:-1], knots[1:], strict=True):
        ask(ta, tb)


def sources(work: Workload) -> dict[str, Action]:
    """What makes the increments of a whole solve, by name; the first is the floor.

    Where the method of `work` asks for an area, so do they all.
    """
    steps, y0 = work.steps, work.y0
    levy: Any = work.levy
    u = levy == "space-time"
    h = torch.full((steps,), work.dt, dtype=torch.float64, device=y0.device)
    t = torch.arange(steps, dtype=torch.float64, device=y0.device) / steps

    def normals() -> None:
        make = torch.Generator(device=y0.device).manual_seed(SEED)
        for _ in range(steps * (2 if u else 1)):
            torch.randn(y0.shape, generator=make, dtype=y0.dtype, device=y0.device)

    def grid() -> Tensor:
        shape = (y0.shape[0], y0.shape[1])
        return BrownianGrid(SEED).increments(h, shape, y0.dtype, levy).w

    def asked() -> None:
        brownian = tree(work)
        one_after_another(lambda ta, tb: brownian.increment(ta, tb, levy), steps)

    found: dict[str, Action] = {
        "normals alone": normals,
        "nde BrownianGrid, all at once": grid,
        "nde BrownianTree, all at once": lambda: tree(work).increments(t, h, levy),
        "nde BrownianTree.increment": asked,
    }
    if not HAS_TORCHSDE:
        return found

    def theirs(dt: float | None) -> None:
        brownian = interval(work, dt)
        one_after_another(lambda ta, tb: brownian(ta, tb, return_U=u), steps)

    found["torchsde BrownianInterval"] = lambda: theirs(None)
    found["torchsde BrownianInterval, dt"] = lambda: theirs(work.dt)
    return found


def table(work: Workload, rounds: int, device: str) -> list[list[str]]:
    """A row for each source, with a head: microseconds an increment, and over the
    floor's."""
    actions = sources(work)
    for action in actions.values():
        action()
    taken = medians(actions, rounds, device)
    floor = next(iter(taken.values()))
    asked = "W and H" if work.levy == "space-time" else "W"
    rows = [["increment of", "by", "us", "x normals"]]
    for name, seconds in taken.items():
        each = f"{1e6 * seconds / work.steps:.1f}"
        rows.append([asked, name, each, f"{seconds / floor:.2f}"])
    return rows
