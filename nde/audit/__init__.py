"""Audits of what a model computes: are its gradients right?"""

from nde.audit.check import check_gradients
from nde.audit.report import AdjointCheck, DirectionCheck, GradientReport

__all__ = ["AdjointCheck", "DirectionCheck", "GradientReport", "check_gradients"]
