"""Neural differential equations in PyTorch: solvers that show their work, and models on them."""

__version__ = "0.1.0"
