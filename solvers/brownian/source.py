"""What a solve takes as the noise of an SDE."""

from __future__ import annotations

from nde.solvers.brownian.grid import BrownianGrid
from nde.solvers.brownian.motion import BrownianMotion
from nde.solvers.brownian.seed import Seed

# A motion, a draw on the steps of a grid, or the seed of what fits the solve.
NoiseSource = BrownianGrid | BrownianMotion | Seed
