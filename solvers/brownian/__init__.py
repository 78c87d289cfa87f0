"""Brownian motion."""

from nde.solvers.brownian.grid import BrownianGrid, Seed, fresh_seed
from nde.solvers.brownian.increment import BrownianIncrement, Levy
from nde.solvers.brownian.tree import BrownianTree, Position

__all__ = [
    "BrownianGrid",
    "BrownianIncrement",
    "BrownianTree",
    "Levy",
    "Position",
    "Seed",
    "fresh_seed",
]
