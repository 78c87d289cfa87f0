"""Initial value problems for comparing ODE solvers.

A1 to E5 are the nonstiff DETEST problems (T. E. Hull, W. H. Enright, B. M. Fellen,
A. E. Sedgwick, "Comparing numerical methods for ordinary differential equations", SIAM
J. Numer. Anal. 9, 1972), unscaled, on [0, 20]. The others: the Lorenz and Brusselator
systems, the Pleiades of Hairer, Norsett and Wanner, *Solving ODEs I*, and the Van der
Pol oscillator, which its parameter makes stiff.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Field = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class IVP:
    """y' = field(t, y) from `y0` at `t0` to `t1`.

    `field` takes `t` 0-dim or `(batch,)` and `y (batch, dim)`, float64.
    """

    name: str
    field: Field
    start: tuple[float, ...]
    t1: float = 20.0
    t0: float = 0.0

    def y0(self) -> Tensor:
        """The starting state, `(1, dim)`."""
        return torch.tensor([self.start], dtype=torch.float64)


def _stack(*parts: Tensor) -> Tensor:
    return torch.stack(parts, dim=-1)


def _scalar(rate: Field) -> Field:
    """A field of one component, which gets `t` in a shape that meets `y (batch, 1)`."""
    return lambda t, y: rate(t.reshape(-1, 1), y)


def _predator_prey(t: Tensor, y: Tensor) -> Tensor:
    a, b = y.unbind(-1)
    return _stack(2.0 * (a - a * b), a * b - b)


def _chemical(t: Tensor, y: Tensor) -> Tensor:
    a, b, _ = y.unbind(-1)
    return _stack(-a, a - b * b, b * b)


def _torus(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    r = torch.hypot(a, b)
    return _stack(-b - a * c / r, a - b * c / r, a / r)


def _euler_body(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    return _stack(b * c, -a * c, -0.51 * a * b)


def linear(rows: list[list[float]] | Tensor) -> Field:
    """y' = A y."""
    matrix = torch.as_tensor(rows, dtype=torch.float64)
    return lambda t, y: y @ matrix.T


def _decay_chain(rates: list[float]) -> Field:
    """Substance i decays into substance i + 1; the last one stays."""
    rate = torch.tensor(rates, dtype=torch.float64)
    return linear(torch.diag(torch.cat([-rate, rate.new_zeros(1)])) + rate.diag(-1))


def _diffusion(n: int) -> Field:
    """Second differences on n points, zero beyond both ends."""
    ones = torch.ones(n, dtype=torch.float64)
    return linear(torch.diag(-2.0 * ones) + ones[1:].diag(1) + ones[1:].diag(-1))


# Sun and five outer planets: positions, then velocities, planet by planet.
_GRAVITY, _SUN = 2.95912208286, 1.00000597682
_PLANETS = torch.tensor(
    (
        0.000954786104043,
        0.000285583733151,
        0.0000437273164546,
        0.0000517759138449,
        0.00000277777777778,
    ),
    dtype=torch.float64,
)
_PLANETS_START = (
    *(3.42947415189, 3.35386959711, 1.35494901715),
    *(6.64145542550, 5.97156957878, 2.18231499728),
    *(11.2630437207, 14.6952576794, 6.27960525067),
    *(-30.1552268759, 1.65699966404, 1.43785752721),
    *(-21.1238353380, 28.4465098142, 15.3882659679),
    *(-0.557160570446, 0.505696783289, 0.230578543901),
    *(-0.415570776342, 0.365682722812, 0.169143213293),
    *(-0.325325669158, 0.189706021964, 0.0877265322780),
    *(-0.0240476254170, -0.287659532608, -0.117219543175),
    *(-0.176860753121, -0.216393453025, -0.0148647893090),
)


def _attraction(x: Tensor, mass: Tensor) -> Tensor:
    """sum_k m_k (x_k - x_j) / |x_k - x_j|^3 for bodies `x (batch, bodies, space)`."""
    apart = x.unsqueeze(1) - x.unsqueeze(2)
    square = apart.square().sum(-1)
    # A body does not pull itself: its own distance of 0 becomes infinite.
    cube = square.masked_fill(square == 0.0, math.inf).pow(1.5)
    return (apart * (mass / cube).unsqueeze(-1)).sum(2)


def _planets(t: Tensor, y: Tensor) -> Tensor:
    x, v = y.unflatten(-1, (2, 5, 3)).unbind(1)
    pull = x / x.square().sum(-1, keepdim=True).pow(1.5)
    mass = _PLANETS.unsqueeze(-1)
    # The sun is the origin, so that what the other planets do to it is subtracted.
    others = (mass * pull).sum(1, keepdim=True) - mass * pull
    force = _attraction(x, _PLANETS) - others - (_SUN + mass) * pull
    return torch.cat([v, _GRAVITY * force], dim=1).flatten(1)


def _orbit(t: Tensor, y: Tensor) -> Tensor:
    x, v = y[..., :2], y[..., 2:]
    return torch.cat([v, -x / x.square().sum(-1, keepdim=True).pow(1.5)], dim=-1)


def _kepler(name: str, eccentricity: float) -> IVP:
    e = eccentricity
    return IVP(name, _orbit, (1.0 - e, 0.0, 0.0, math.sqrt((1.0 + e) / (1.0 - e))))


def _bessel(t: Tensor, y: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    s = t.reshape(-1) + 1.0
    return _stack(v, -v / s - (1.0 - 0.25 / s**2) * x)


def _duffing(t: Tensor, y: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return _stack(v, x**3 / 6.0 - x + 2.0 * torch.sin(2.78535 * t.reshape(-1)))


def _falling(t: Tensor, y: Tensor) -> Tensor:
    v = y[..., 1]
    return _stack(v, 0.032 - 0.4 * v * v)


def _pursuit(t: Tensor, y: Tensor) -> Tensor:
    v = y[..., 1]
    return _stack(v, torch.sqrt(1.0 + v * v) / (25.0 - t.reshape(-1)))


def van_der_pol(mu: float | Tensor) -> Field:
    """x'' = mu (1 - x^2) x' - x, one mu or one per sample."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        x, v = y.unbind(-1)
        return _stack(v, mu * (1.0 - x * x) * v - x)

    return field


def _lorenz(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    return _stack(10.0 * (b - a), a * (28.0 - c) - b, a * b - 8.0 / 3.0 * c)


def _brusselator(t: Tensor, y: Tensor) -> Tensor:
    a, b = y.unbind(-1)
    return _stack(1.0 + a * a * b - 4.0 * a, 3.0 * a - a * a * b)


_STARS = torch.arange(1.0, 8.0, dtype=torch.float64)
_STARS_START = (
    *(3.0, 3.0, 3.0, -3.0, -1.0, 2.0, -3.0, 0.0, 2.0, 0.0, -2.0, -4.0, 2.0, 4.0),
    *(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.25, 0.0, 1.0, 1.75, 0.0, -1.5, 0.0),
)


def _pleiades(t: Tensor, y: Tensor) -> Tensor:
    x, v = y.unflatten(-1, (2, 7, 2)).unbind(1)
    return torch.cat([v, _attraction(x, _STARS)], dim=1).flatten(1)


def _unit(n: int) -> tuple[float, ...]:
    return (1.0, *(0.0 for _ in range(n - 1)))


PROBLEMS = {
    problem.name: problem
    for problem in (
        IVP("A1", _scalar(lambda t, y: -y), (1.0,)),
        IVP("A2", _scalar(lambda t, y: -0.5 * y**3), (1.0,)),
        IVP("A3", _scalar(lambda t, y: y * torch.cos(t)), (1.0,)),
        IVP("A4", _scalar(lambda t, y: 0.25 * y * (1.0 - 0.05 * y)), (1.0,)),
        IVP("A5", _scalar(lambda t, y: (y - t) / (y + t)), (4.0,)),
        IVP("B1", _predator_prey, (1.0, 3.0)),
        IVP("B2", linear([[-1, 1, 0], [1, -2, 1], [0, 1, -1]]), (2.0, 0.0, 1.0)),
        IVP("B3", _chemical, (1.0, 0.0, 0.0)),
        IVP("B4", _torus, (3.0, 0.0, 0.0)),
        IVP("B5", _euler_body, (0.0, 1.0, 1.0)),
        IVP("C1", _decay_chain([1.0] * 9), _unit(10)),
        IVP("C2", _decay_chain([float(i) for i in range(1, 10)]), _unit(10)),
        IVP("C3", _diffusion(10), _unit(10)),
        IVP("C4", _diffusion(51), _unit(51)),
        IVP("C5", _planets, _PLANETS_START),
        *(_kepler(f"D{i}", 0.2 * i - 0.1) for i in range(1, 6)),
        IVP("E1", _bessel, (0.6713967071418030, 0.09540051444747446)),
        IVP("E2", van_der_pol(1.0), (2.0, 0.0)),
        IVP("E3", _duffing, (0.0, 0.0)),
        IVP("E4", _falling, (30.0, 0.0)),
        IVP("E5", _pursuit, (0.0, 0.0)),
        IVP("lorenz", _lorenz, (1.0, 0.0, 0.0), 3.0),
        IVP("vdp1", van_der_pol(1.0), (2.0, 1.0)),
        IVP("vdp10", van_der_pol(10.0), (2.0, 0.0)),
        IVP("vdp100", van_der_pol(100.0), (2.0, 0.0), 90.0),
        IVP("pleiades", _pleiades, _STARS_START, 3.0),
        IVP("brusselator", _brusselator, (1.5, 3.0)),
    )
}
