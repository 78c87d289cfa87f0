"""Tableaus: data only."""

from nde.solvers.tableau import ButcherTableau
from nde.solvers.tableaus.explicit import EXPLICIT

__all__ = ["EXPLICIT", "ButcherTableau"]
