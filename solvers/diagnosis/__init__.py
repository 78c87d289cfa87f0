"""Why a solve cost what it did."""

from nde.solvers.diagnosis.bill import Finding
from nde.solvers.diagnosis.explain import Explanation, explain

__all__ = ["Explanation", "Finding", "explain"]
