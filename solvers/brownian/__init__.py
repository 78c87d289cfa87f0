"""Brownian motion."""

from nde.solvers.brownian.grid import BrownianGrid, Seed, fresh_seed

__all__ = ["BrownianGrid", "Seed", "fresh_seed"]
