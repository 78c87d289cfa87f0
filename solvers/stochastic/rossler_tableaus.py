"""Coefficients of Rossler's stochastic Runge-Kutta methods."""

from __future__ import annotations

from dataclasses import dataclass

Row = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SRITableau:
    """A method for diagonal and scalar noise of Ito equations.

    Stages `H0_i = y + h sum a0_ij f_j + X2 sum b0_ij g_j` of the drift at `c0` and
    `H1_i = y + h sum a1_ij f_j + sqrt(h) sum b1_ij g_j` of the diffusion at `c1`; the
    result adds `h sum alpha_i f_i` and `sum (beta1_i W + beta2_i X1 + beta3_i X2 +
    beta4_i X3) g_i` with X1 = (W^2 - h) / (2 sqrt(h)), X2 the mean of W over the step,
    X3 = (W^3 - 3 W h) / (6 h). `drift_error` are the weights of the error's drift part,
    `stiff` whether the last two drift stages lie at equal time.
    """

    a0: tuple[Row, ...]
    a1: tuple[Row, ...]
    b0: tuple[Row, ...]
    b1: tuple[Row, ...]
    c0: Row
    c1: Row
    alpha: Row
    beta1: Row
    beta2: Row
    beta3: Row
    beta4: Row
    drift_error: Row
    stiff: bool = False


@dataclass(frozen=True, kw_only=True)
class SRATableau:
    """A method for additive noise.

    Stages `H_i = y + h sum a_ij f_j + X2 sum b_ij g_j` of the drift at `c0`, with the
    diffusion at `c1`; the result adds `h sum alpha_i f_i` and `sum (beta1_i W +
    beta2_i X2) g_i`, names as above.
    """

    a: tuple[Row, ...]
    b: tuple[Row, ...]
    c0: Row
    c1: Row
    alpha: Row
    beta1: Row
    beta2: Row
    drift_error: Row
    stiff: bool = False


def against_euler(alpha: Row) -> Row:
    """Weights of the difference to Euler's step."""
    return (alpha[0] - 1.0, *alpha[1:])


# Rossler, *Runge-Kutta methods for the strong approximation of solutions of stochastic
# differential equations* (2010), SRIW1; its third and fourth drift stages are the
# first, or not used.
SRIW1 = SRITableau(
    a0=((), (3 / 4,)),
    a1=((), (1 / 4,), (1.0, 0.0), (1 / 4, 0.0)),
    b0=((), (3 / 2,)),
    b1=((), (1 / 2,), (-1.0, 0.0), (-5.0, 3.0, 1 / 2)),
    c0=(0.0, 3 / 4),
    c1=(0.0, 1 / 4, 1.0, 1 / 4),
    alpha=(1 / 3, 2 / 3),
    beta1=(-1.0, 4 / 3, 2 / 3, 0.0),
    beta2=(-1.0, 4 / 3, -1 / 3, 0.0),
    beta3=(2.0, -4 / 3, -2 / 3, 0.0),
    beta4=(-2.0, 5 / 3, -2 / 3, 1.0),
    drift_error=against_euler((1 / 3, 2 / 3)),
)

# The same paper, SRA1.
SRA1 = SRATableau(
    a=((), (3 / 4,)),
    b=((), (3 / 2,)),
    c0=(0.0, 3 / 4),
    c1=(1.0, 0.0),
    alpha=(1 / 3, 2 / 3),
    beta1=(1.0, 0.0),
    beta2=(-1.0, 1.0),
    drift_error=against_euler((1 / 3, 2 / 3)),
)

# Rackauckas and Nie, *Stability-optimized high order methods and stiffness detection
# for pathwise stiff stochastic differential equations* (2020); digits as in
# StochasticDiffEq.jl.
_ALPHA = (
    -0.15036858140642623,
    0.7545275856696072,
    0.686995463807979,
    -0.2911544680711602,
)
SOSRI2 = SRITableau(
    a0=(
        (),
        (0.13804532298278663,),
        (0.5818361298250374, 0.4181638701749618),
        (0.4670018408674211, 0.8046204792187386, -0.27162232008616016),
    ),
    a1=(
        (),
        (0.45605532163856893,),
        (0.7555807846451692, 0.24441921535482677),
        (0.6981181143266059, 0.3453277086024727, -0.04344582292908241),
    ),
    b0=(
        (),
        (0.08852381537667678,),
        (1.0317752458971061, 0.4563552922077882),
        (1.73078280444124, -0.46089678470929774, -0.9637509618944188),
    ),
    b1=(
        (),
        (0.6753186815412179,),
        (-0.07452812525785148, -0.49783736486149366),
        (-0.5591906709928903, 0.022696571806569924, -0.8984927888368557),
    ),
    c0=(0.0, 0.13804532298278663, 1.0, 1.0),
    c1=(0.0, 0.45605532163856893, 1.0, 1.0),
    alpha=_ALPHA,
    beta1=(
        -0.45315689727309133,
        0.8330937231303951,
        0.3792843195533544,
        0.24077885458934192,
    ),
    beta2=(
        -0.4994383733810986,
        0.9181786186154077,
        -0.25613778661003145,
        -0.16260245862427797,
    ),
    beta3=(
        1.4531568972730915,
        -0.8330937231303933,
        -0.3792843195533583,
        -0.24077885458934023,
    ),
    beta4=(
        -0.4976090683622265,
        0.9148155835648892,
        -1.4102107084476505,
        0.9930041932449877,
    ),
    drift_error=against_euler(_ALPHA),
    stiff=True,
)

_ADDITIVE_ALPHA = (0.4999999999999998, -0.9683897375354181, 1.4683897375354185)
SOSRA2 = SRATableau(
    a=((), (1.0,), (0.9511849235504364, 0.04881507644956362)),
    b=((), (0.7686101171003622,), (0.43886792994934987, 0.7490415909204886)),
    c0=(0.0, 1.0, 1.0),
    c1=(0.0, 1.0, 1.0),
    alpha=_ADDITIVE_ALPHA,
    beta1=(0.0, 0.92438032145683, 0.07561967854316998),
    beta2=(1.0, -0.8169981105823436, -0.18300188941765633),
    drift_error=against_euler(_ADDITIVE_ALPHA),
    stiff=True,
)
