"""Neural differential equations in PyTorch: solvers that show what they did."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nde.audit import check_gradients

__version__ = "0.1.0"
__all__ = ["check_gradients"]


def __getattr__(name: str) -> object:
    # Only now: `import nde` loads no torch, which `nde --help` counts on.
    if name == "check_gradients":
        from nde.audit import check_gradients

        return check_gradients
    raise AttributeError(f"module 'nde' has no attribute {name!r}")
