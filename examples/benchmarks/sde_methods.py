"""Which methods for SDEs each package has, and which adapt their steps."""

from __future__ import annotations

import torch

from nde.solvers import PID, SDE_METHODS, SDETerm, solve

# torchsde 0.2.6 (its `settings.METHODS` and options). It adapts steps of any method,
# by a whole step beside two halves: three times the evaluations.
TORCHSDE = {
    "euler": "euler",
    "milstein": "milstein",
    "milstein_grad_free": "milstein, grad_free=True",
    "srk": "srk",
    "euler_heun": "euler_heun",
    "heun": "heun",
    "midpoint": "midpoint",
    "reversible_heun": "reversible_heun",
    "log_ode": "log_ode",
}

# diffrax 0.7.2. Its SRA1 is `srk` for additive noise alone.
DIFFRAX = {
    "euler": "Euler",
    "milstein": "ItoMilstein, StratonovichMilstein",
    "srk": "SRA1",
    "euler_heun": "EulerHeun",
    "heun": "Heun",
    "midpoint": "Midpoint",
    "reversible_heun": "ReversibleHeun",
    "sea": "SEA",
    "shark": "ShARK",
    "general_shark": "GeneralShARK",
    "spark": "SPaRK",
    "slow_rk": "SlowRK",
}
# Those that have an error estimate, which its PID controller asks for.
DIFFRAX_ADAPTS = {"srk", "heun", "midpoint", "reversible_heun", "shark", "spark"}


def adapts(method: str) -> bool:
    """Whether nde solves a small equation by the method with steps of its choice."""
    wanted = SDE_METHODS[method]
    matrix = "diagonal" not in wanted.noises
    term = SDETerm(
        lambda t, y: -y,
        lambda t, y: torch.full((*y.shape, 1) if matrix else y.shape, 0.1).to(y),
        noise="additive" if matrix else "diagonal",
        noise_dim=1 if matrix else None,
        interpretation=wanted.interpretations[0],
    )
    y0, ts = torch.ones(1, 1), torch.tensor([0.0, 0.1])
    try:
        solve(term, y0, ts, method=method, controller=PID(rtol=0.1, atol=0.1))
    except ValueError:
        return False
    return True


def methods_table() -> list[list[str]]:
    """A row for each method of nde, with a head."""
    rows = [["method", "nde estimates", "nde adapts", "torchsde", "diffrax (adapts)"]]
    for name, method in SDE_METHODS.items():
        estimates = "-" if method.error_order is None else f"h^{method.error_order:g}"
        theirs = DIFFRAX.get(name, "-")
        if name in DIFFRAX_ADAPTS:
            theirs = f"{theirs} (yes)"
        steps = "yes" if adapts(name) else "no"
        rows.append([name, estimates, steps, TORCHSDE.get(name, "-"), theirs])
    return rows
