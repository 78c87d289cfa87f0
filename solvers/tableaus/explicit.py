"""Numbers of the explicit Runge-Kutta methods; nothing else lives here."""

from nde.solvers.tableau import ButcherTableau

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

# Dormand and Prince 1980; error row of Hairer's DOPRI5; interpolant of Shampine 1986.
DOPRI5 = ButcherTableau(
    name="dopri5",
    order=5,
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    a=(
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    b_error=(
        71 / 57600,
        0.0,
        -71 / 16695,
        71 / 1920,
        -17253 / 339200,
        22 / 525,
        -1 / 40,
    ),
    dense=(
        (
            1.0,
            -8048581381 / 2820520608,
            8663915743 / 2820520608,
            -12715105075 / 11282082432,
        ),
        (0.0, 0.0, 0.0, 0.0),
        (
            0.0,
            131558114200 / 32700410799,
            -68118460800 / 10900136933,
            87487479700 / 32700410799,
        ),
        (
            0.0,
            -1754552775 / 470086768,
            14199869525 / 1410260304,
            -10690763975 / 1880347072,
        ),
        (
            0.0,
            127303824393 / 49829197408,
            -318862633887 / 49829197408,
            701980252875 / 199316789632,
        ),
        (
            0.0,
            -282668133 / 205662961,
            2019193451 / 616988883,
            -1453857185 / 822651844,
        ),
        (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
    ),
    dense_order=4,
    stability=3.3065678926349813,
    error_order=5,
    stiffness_pair=(6, 5),
)


def _quartic(scale: float, roots: tuple[float, float]) -> tuple[float, ...]:
    """scale * theta^2 (theta - r)(theta - s) as coefficients of theta^1..theta^4."""
    r, s = roots
    return (0.0, scale * r * s, -scale * (r + s), scale)


def _quartic_monic(scale: float, p: float, q: float) -> tuple[float, ...]:
    """scale * theta^2 (theta^2 + p theta + q)."""
    return (0.0, scale * q, scale * p, scale)


# Tsitouras 2011, with its free interpolant in the factored form of the paper.
TSIT5 = ButcherTableau(
    name="tsit5",
    order=5,
    c=(0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    a=(
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (
            5.325864828439257,
            -11.748883564062828,
            7.4955393428898365,
            -0.09249506636175525,
        ),
        (
            5.86145544294642,
            -12.92096931784711,
            8.159367898576159,
            -0.071584973281401,
            -0.02826905039406838,
        ),
        (
            0.09646076681806523,
            0.01,
            0.4798896504144996,
            1.379008574103742,
            -3.290069515436081,
            2.324710524099774,
        ),
    ),
    b=(
        0.09646076681806523,
        0.01,
        0.4798896504144996,
        1.379008574103742,
        -3.290069515436081,
        2.324710524099774,
        0.0,
    ),
    b_error=(
        0.00178001105222577714,
        0.0008164344596567469,
        -0.007880878010261995,
        0.1447110071732629,
        -0.5823571654525552,
        0.45808210592918697,
        -1 / 66,
    ),
    dense=(
        (
            1.0530884977290216 * 1.3299890189751412 * 0.7139816917074209,
            -1.0530884977290216
            * (0.7139816917074209 + 1.3299890189751412 * 1.4364028541716351),
            1.0530884977290216 * (1.4364028541716351 + 1.3299890189751412),
            -1.0530884977290216,
        ),
        _quartic_monic(0.1017, -2.1966568338249754, 1.2949852507374631),
        _quartic_monic(2.490627285651252793, -2.38535645472061657, 1.57803468208092486),
        _quartic(-16.54810288924490272, (1.21712927295533244, 0.61620406037800089)),
        _quartic(47.37952196281928122, (1.203071208372362603, 0.658047292653547382)),
        _quartic(-34.87065786149660974, (1.2, 2 / 3)),
        _quartic(2.5, (1.0, 0.6)),
    ),
    dense_order=4,
    stability=3.5068469938049023,
    error_order=5,
    stiffness_pair=(6, 5),
)

EXPLICIT: dict[str, ButcherTableau] = {
    tableau.name: tableau
    for tableau in (
        EULER,
        MIDPOINT,
        HEUN,
        RK4,
        HEUN_EULER,
        BOSH3,
        DOPRI5,
        TSIT5,
    )
}
