"""Brownian motion."""

from nde.solvers.brownian.grid import BrownianGrid, Seed, fresh_seed
from nde.solvers.brownian.increment import BrownianIncrement, Levy

__all__ = ["BrownianGrid", "BrownianIncrement", "Levy", "Seed", "fresh_seed"]
