"""Brownian motion: on a grid in one draw, or at any times."""

from nde.solvers.brownian.area import levy_area
from nde.solvers.brownian.grid import BrownianGrid, fresh_seed
from nde.solvers.brownian.increment import BrownianIncrement, Levy
from nde.solvers.brownian.seed import Seed
from nde.solvers.brownian.tree import BrownianTree, Position

__all__ = [
    "BrownianGrid",
    "BrownianIncrement",
    "BrownianTree",
    "Levy",
    "Position",
    "Seed",
    "fresh_seed",
    "levy_area",
]
