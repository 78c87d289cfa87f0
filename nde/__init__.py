"""Neural differential equations in PyTorch: solvers that show what they did."""

__version__ = "0.1.0"
