"""torchsde's functions and Brownian motions, on the solvers of this package."""

from nde.compat.torchsde.adjoint import sdeint_adjoint
from nde.compat.torchsde.base import BaseSDE, SDEIto, SDEStratonovich
from nde.compat.torchsde.brownian import BaseBrownian, ReverseBrownian
from nde.compat.torchsde.derived import BrownianPath, BrownianTree
from nde.compat.torchsde.integrate import sdeint
from nde.compat.torchsde.interval import BrownianInterval, brownian_interval_like

__all__ = [
    "BaseBrownian",
    "BaseSDE",
    "BrownianInterval",
    "BrownianPath",
    "BrownianTree",
    "ReverseBrownian",
    "SDEIto",
    "SDEStratonovich",
    "brownian_interval_like",
    "sdeint",
    "sdeint_adjoint",
]
