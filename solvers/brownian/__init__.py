"""Brownian motion: on a grid in one draw, or at any times."""

from nde.solvers.brownian.adapter import FromTorchsde
from nde.solvers.brownian.area import levy_area
from nde.solvers.brownian.bridge import BrownianBridge
from nde.solvers.brownian.grid import BrownianGrid, fresh_seed
from nde.solvers.brownian.increment import BrownianIncrement, Levy, stacked
from nde.solvers.brownian.motion import BrownianMotion
from nde.solvers.brownian.seed import Seed
from nde.solvers.brownian.source import NoiseSource
from nde.solvers.brownian.stretched import StretchedTree
from nde.solvers.brownian.tree import BrownianTree, Position

__all__ = [
    "BrownianBridge",
    "BrownianGrid",
    "BrownianIncrement",
    "BrownianMotion",
    "BrownianTree",
    "FromTorchsde",
    "Levy",
    "NoiseSource",
    "Position",
    "Seed",
    "StretchedTree",
    "fresh_seed",
    "levy_area",
    "stacked",
]
