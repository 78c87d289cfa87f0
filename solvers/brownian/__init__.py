"""Brownian motion."""

from nde.solvers.brownian.grid import BrownianGrid, fresh_seed

__all__ = ["BrownianGrid", "fresh_seed"]
