"""Numbers of the explicit Runge-Kutta methods up to order 4, and the table of all."""

from dataclasses import replace

from nde.solvers.tableau import ButcherTableau
from nde.solvers.tableaus.dop853 import DOP853
from nde.solvers.tableaus.dormand_prince_8 import DOPRI8
from nde.solvers.tableaus.fifth_order import CASH_KARP, DOPRI5, FEHLBERG45, TSIT5
from nde.solvers.tableaus.vern6 import VERN6
from nde.solvers.tableaus.vern7 import VERN7
from nde.solvers.tableaus.vern9 import VERN9

EULER = ButcherTableau(
    name="euler",
    order=1,
    c=(0.0,),
    a=(),
    b=(1.0,),
    dense=((1.0,),),
    dense_order=1,
    stability=2.0,
)

MIDPOINT = ButcherTableau(
    name="midpoint",
    order=2,
    c=(0.0, 1 / 2),
    a=((1 / 2,),),
    b=(0.0, 1.0),
    dense=((1.0, -1.0), (0.0, 1.0)),
    dense_order=2,
    stability=2.0,
)

HEUN = ButcherTableau(
    name="heun",
    order=2,
    c=(0.0, 1.0),
    a=((1.0,),),
    b=(1 / 2, 1 / 2),
    dense=((1.0, -1 / 2), (0.0, 1 / 2)),
    dense_order=2,
    stability=2.0,
)

# As torchdiffeq names it.
HEUN2 = replace(HEUN, name="heun2")

# The embedded solution is Euler's.
HEUN_EULER = ButcherTableau(
    name="heun_euler",
    order=2,
    c=HEUN.c,
    a=HEUN.a,
    b=HEUN.b,
    dense=HEUN.dense,
    dense_order=2,
    stability=2.0,
    b_error=(-1 / 2, 1 / 2),
    error_order=2,
)

# Continuous extension of order 3: Hairer, Norsett, Wanner I, II.6, exercise 2.
RK4 = ButcherTableau(
    name="rk4",
    order=4,
    c=(0.0, 1 / 2, 1 / 2, 1.0),
    a=((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    dense=(
        (1.0, -3 / 2, 2 / 3),
        (0.0, 1.0, -2 / 3),
        (0.0, 1.0, -2 / 3),
        (0.0, -1 / 2, 2 / 3),
    ),
    dense_order=3,
    stability=2.785293563405282,
)

# Bogacki and Shampine 1989; the interpolant is the cubic Hermite polynomial.
BOSH3 = ButcherTableau(
    name="bosh3",
    order=3,
    c=(0.0, 1 / 2, 3 / 4, 1.0),
    a=((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    b=(2 / 9, 1 / 3, 4 / 9, 0.0),
    b_error=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
    dense=(
        (1.0, -4 / 3, 5 / 9),
        (0.0, 1.0, -2 / 3),
        (0.0, 4 / 3, -8 / 9),
        (0.0, -1.0, 1.0),
    ),
    dense_order=3,
    stability=2.5127453266183286,
    error_order=3,
)

# Ralston 1962, of least truncation error; the embedded solution is Euler's.
RALSTON = ButcherTableau(
    name="ralston",
    order=2,
    c=(0.0, 2 / 3),
    a=((2 / 3,),),
    b=(1 / 4, 3 / 4),
    b_error=(-3 / 4, 3 / 4),
    dense=((1.0, -3 / 4), (0.0, 3 / 4)),
    dense_order=2,
    stability=2.0,
    error_order=2,
)

# Fehlberg 1969, RK1(2), advancing the solution of order 2.
FEHLBERG2 = ButcherTableau(
    name="fehlberg2",
    order=2,
    c=(0.0, 1 / 2, 1.0),
    a=((1 / 2,), (1 / 256, 255 / 256)),
    b=(1 / 512, 255 / 256, 1 / 512),
    b_error=(-1 / 512, 0.0, 1 / 512),
    dense=((1.0, -511 / 512), (0.0, 255 / 256), (0.0, 1 / 512)),
    dense_order=2,
    stability=2.007843137254902,
    error_order=2,
)

# Heun 1900; the interpolant is the cubic Hermite polynomial, for f(t1, y1).
HEUN3 = ButcherTableau(
    name="heun3",
    order=3,
    c=(0.0, 1 / 3, 2 / 3),
    a=((1 / 3,), (0.0, 2 / 3)),
    b=(1 / 4, 0.0, 3 / 4),
    extra_c=(1.0,),
    extra_a=((1 / 4, 0.0, 3 / 4),),
    dense=(
        (1.0, -5 / 4, 1 / 2),
        (0.0, 0.0, 0.0),
        (0.0, 9 / 4, -3 / 2),
        (0.0, -1.0, 1.0),
    ),
    dense_order=3,
    stability=2.5127453266183286,
)

# Shu and Osher 1988; the interpolant is the cubic Hermite polynomial, for f(t1, y1).
SSPRK3 = ButcherTableau(
    name="ssprk3",
    order=3,
    c=(0.0, 1.0, 1 / 2),
    a=((1.0,), (1 / 4, 1 / 4)),
    b=(1 / 6, 1 / 6, 2 / 3),
    extra_c=(1.0,),
    extra_a=((1 / 6, 1 / 6, 2 / 3),),
    dense=(
        (1.0, -3 / 2, 2 / 3),
        (0.0, 1 / 2, -1 / 3),
        (0.0, 2.0, -4 / 3),
        (0.0, -1.0, 1.0),
    ),
    dense_order=3,
    stability=2.5127453266183286,
)

# Kutta 1901, the 3/8 rule; its four stages determine the extension of order 3.
RK4_38 = ButcherTableau(
    name="rk4_38",
    order=4,
    c=(0.0, 1 / 3, 2 / 3, 1.0),
    a=((1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    b=(1 / 8, 3 / 8, 3 / 8, 1 / 8),
    dense=(
        (1.0, -15 / 8, 1.0),
        (0.0, 15 / 8, -3 / 2),
        (0.0, 3 / 8, 0.0),
        (0.0, -3 / 8, 1 / 2),
    ),
    dense_order=3,
    stability=2.785293563405282,
)

EXPLICIT: dict[str, ButcherTableau] = {
    tableau.name: tableau
    for tableau in (
        EULER,
        MIDPOINT,
        HEUN,
        HEUN2,
        HEUN3,
        SSPRK3,
        RK4,
        RK4_38,
        HEUN_EULER,
        RALSTON,
        FEHLBERG2,
        BOSH3,
        FEHLBERG45,
        CASH_KARP,
        DOPRI5,
        TSIT5,
        VERN6,
        VERN7,
        DOPRI8,
        DOP853,
        VERN9,
    )
}
