"""Tableau identities, order conditions, interpolants and stability limits."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from nde.solvers.tableaus import EXPLICIT, ButcherTableau

# A rooted tree is the sorted tuple of its subtrees; the single node is ().
Tree = tuple  # type: ignore[type-arg]

TABLEAUS = pytest.mark.parametrize("tableau", EXPLICIT.values(), ids=EXPLICIT)
PAIRS = pytest.mark.parametrize(
    "tableau",
    [x for x in EXPLICIT.values() if x.b_error is not None],
    ids=[x.name for x in EXPLICIT.values() if x.b_error is not None],
)

EPS = float(np.finfo(float).eps)


def rounding(tableau: ButcherTableau, dense: bool = False) -> float:
    """How far rounded coefficients may miss a condition: EPS times products of them.

    Those of vern6 reach 176 in b, 207 in a and 1e5 in dense, and cancel.
    """
    if tableau.name == "vern6":
        return 5e-10
    return 1e-12 if dense and tableau.extra_c else 5e-14


@cache
def nodes(tree: Tree) -> int:
    return 1 + sum(map(nodes, tree))


@cache
def density(tree: Tree) -> int:
    return nodes(tree) * math.prod(map(density, tree))


def trees(order: int) -> tuple[Tree, ...]:
    """All rooted trees of `order` nodes."""
    return forests(order - 1, order - 1)


@cache
def forests(total: int, largest: int) -> tuple[Tree, ...]:
    """Sorted collections of trees of `total` nodes, none above `largest`."""
    if total == 0:
        return ((),)
    found = {
        tuple(sorted((tree, *rest)))
        for size in range(1, min(total, largest) + 1)
        for tree in trees(size)
        for rest in forests(total - size, size)
    }
    return tuple(sorted(found))


def trees_up_to(order: int) -> Iterator[Tree]:
    """All rooted trees of at most `order` nodes, small ones first."""
    for size in range(1, order + 1):
        yield from trees(size)


@cache
def matrix(tableau: ButcherTableau) -> np.ndarray:
    """All stages, the extra ones last."""
    rows = (*tableau.a, *tableau.extra_a)
    a = np.zeros((len(rows) + 1, len(rows) + 1))
    for i, row in enumerate(rows, start=1):
        a[i, :i] = row
    return a


@cache
def weights_of(tree: Tree, tableau: ButcherTableau) -> np.ndarray:
    """What a tree asks of each stage: prod over subtrees of A times theirs."""
    a = matrix(tableau)
    return math.prod((a @ weights_of(x, tableau) for x in tree), start=np.ones(len(a)))


def padded(weights: tuple[float, ...], tableau: ButcherTableau) -> np.ndarray:
    """Weights of the stages of a step, with zeros for the extra stages."""
    return np.append(weights, np.zeros(len(tableau.extra_c)))


def defects(
    tableau: ButcherTableau, b: np.ndarray, order: int, theta: float = 1.0
) -> dict[Tree, float]:
    """b . Phi(tree) - theta^nodes / gamma(tree) for every tree up to `order`."""
    return {
        tree: float(b @ weights_of(tree, tableau))
        - theta ** nodes(tree) / density(tree)
        for tree in trees_up_to(order)
    }


def dense_weights(tableau: ButcherTableau, theta: float) -> np.ndarray:
    powers = theta ** np.arange(1, len(tableau.dense[0]) + 1)
    return np.asarray(tableau.dense) @ powers


def largest_stable(tableau: ButcherTableau) -> float:
    """Where |R(-x)| first exceeds 1, R(z) = 1 + z b (1 - z A)^-1 1."""
    a, b = matrix(tableau), padded(tableau.b, tableau)
    coefficients, power = [1.0], np.ones(len(b))
    for _ in range(tableau.stages):
        coefficients.append(float(b @ power))
        power = a @ power

    def unstable(x: float) -> bool:
        return abs(np.polynomial.polynomial.polyval(-x, coefficients)) > 1 + 1e-12

    x = next(x for x in np.arange(0.01, 20, 0.01) if unstable(x))
    low, high = x - 0.01, x
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if unstable(middle) else (middle, high)
    return low


def rounding_of_sums(rows: np.ndarray) -> np.ndarray:
    """A bound on the rounding errors in the sums of rows."""
    return 4 * EPS * (1 + np.abs(rows).sum(1))


def power_in_h(tableau: ButcherTableau, row: tuple[float, ...]) -> int:
    """Order in h of the estimate of an error row: its first tree that is not zero."""
    for order in range(1, tableau.order + 1):
        found = [
            abs(padded(row, tableau) @ weights_of(x, tableau)) for x in trees(order)
        ]
        if max(found) > 5e-6:
            return order
        assert max(found) < rounding(tableau), order
    raise AssertionError("an estimate that sees no error")


def test_number_of_conditions() -> None:
    counts = [len(trees(order)) for order in range(1, 11)]
    assert counts == [1, 1, 2, 4, 9, 20, 48, 115, 286, 719]


def test_the_promised_methods_are_there() -> None:
    with_pair = {"dopri5", "tsit5", "vern6", "vern7", "dopri8", "dop853", "vern9"}
    low = {"heun_euler", "ralston", "fehlberg2", "bosh3", "fehlberg45", "cash_karp"}
    fixed = {"euler", "midpoint", "heun", "heun2", "heun3", "ssprk3", "rk4", "rk4_38"}
    assert {x.name for x in EXPLICIT.values() if x.b_error} == low | with_pair
    assert set(EXPLICIT) == low | with_pair | fixed
    assert {x.name for x in EXPLICIT.values() if x.stiffness_pair} == with_pair
    assert {x.name for x in EXPLICIT.values() if x.b_error_coarse} == {"dop853"}
    assert all(name == tableau.name for name, tableau in EXPLICIT.items())


@TABLEAUS
def test_rows_sum_to_nodes_and_weights_to_one(tableau: ButcherTableau) -> None:
    a, c = matrix(tableau), np.array((*tableau.c, *tableau.extra_c))
    assert (np.abs(a.sum(1) - c) <= rounding_of_sums(a)).all()
    b = np.asarray(tableau.b)
    assert abs(math.fsum(b) - 1) <= rounding_of_sums(b[None])
    assert tableau.c[0] == 0


@TABLEAUS
def test_order_conditions(tableau: ButcherTableau) -> None:
    found = defects(tableau, padded(tableau.b, tableau), tableau.order)
    for tree, defect in found.items():
        assert abs(defect) < rounding(tableau), tree


@TABLEAUS
def test_order_is_not_understated(tableau: ButcherTableau) -> None:
    found = defects(tableau, padded(tableau.b, tableau), tableau.order + 1)
    assert max(map(abs, found.values())) > 5e-7


@PAIRS
def test_error_row(tableau: ButcherTableau) -> None:
    """The estimate sees the error of an embedded solution of the order below."""
    assert tableau.b_error is not None
    row = np.asarray(tableau.b_error)
    assert abs(math.fsum(row)) <= rounding_of_sums(row[None])
    power = power_in_h(tableau, tableau.b_error)
    if tableau.b_error_coarse is None:
        assert tableau.error_order == power
    else:
        # Of e^2 / sqrt(e^2 + 0.01 c^2), where c is the larger for small steps.
        coarse = power_in_h(tableau, tableau.b_error_coarse)
        assert (power, coarse) == (6, 4)
        assert tableau.error_order == 2 * power - coarse


@PAIRS
def test_error_row_scale(tableau: ButcherTableau) -> None:
    """Hairer's pair, not two thirds of it: the size of E decides every lambda."""
    first = {
        "heun_euler": 1 / 2,
        "ralston": 3 / 4,
        "fehlberg2": 1 / 512,
        "bosh3": 5 / 72,
        "fehlberg45": 1 / 360,
        "cash_karp": 277 / 64512,
        "dopri5": 71 / 57600,
        "tsit5": 0.00178001105222577714,
        "vern6": 0.008623404282200854,
        "vern7": 0.002547011879931045,
        "dopri8": 0.012194277465176748,
        "dop853": 0.01312004499419488,
        "vern9": 0.005357988290444578,
    }
    assert tableau.b_error is not None
    assert abs(tableau.b_error[0]) == pytest.approx(first[tableau.name], rel=1e-14)
    if tableau.b_error_coarse is not None:
        coarse = tableau.b[0] - 0.2440944881889764
        assert tableau.b_error_coarse[0] == pytest.approx(coarse, rel=1e-14)


@TABLEAUS
def test_first_same_as_last(tableau: ButcherTableau) -> None:
    claims = {"bosh3", "dopri5", "tsit5", "vern6", "dopri8", "dop853"}
    assert tableau.fsal == (tableau.name in claims)
    if tableau.fsal:
        assert tableau.c[-1] == 1
        assert (*tableau.a[-1], 0.0) == tuple(tableau.b)


@TABLEAUS
def test_stiffness_pair_shares_its_time(tableau: ButcherTableau) -> None:
    if tableau.stiffness_pair is not None:
        i, j = tableau.stiffness_pair
        assert tableau.c[i] == tableau.c[j] == 1
        # Two states at one time, or there is nothing to compare.
        a = matrix(tableau)
        assert np.abs(a[i] - a[j]).max() > 1e-2


@TABLEAUS
def test_interpolant_ends_in_the_step(tableau: ButcherTableau) -> None:
    miss = dense_weights(tableau, 1.0) - padded(tableau.b, tableau)
    assert (np.abs(miss) <= rounding_of_sums(np.asarray(tableau.dense))).all()
    assert not dense_weights(tableau, 0.0).any()


@TABLEAUS
@pytest.mark.parametrize("theta", [0.1, 0.35, 0.5, 0.8])
def test_interpolant_order_conditions(tableau: ButcherTableau, theta: float) -> None:
    assert tableau.order - 1 <= tableau.dense_order <= tableau.order
    weights = dense_weights(tableau, theta)
    found = defects(tableau, weights, tableau.dense_order, theta)
    for tree, defect in found.items():
        assert abs(defect) < rounding(tableau, dense=True), tree


@TABLEAUS
def test_interpolant_starts_with_the_field(tableau: ButcherTableau) -> None:
    """dy/dtheta at 0 is h f(y0), so neighbouring steps join smoothly under FSAL."""
    slope = np.asarray(tableau.dense)[:, 0]
    if tableau.order > 1:
        np.testing.assert_allclose(slope, np.eye(len(slope))[0], atol=1e-13)


@TABLEAUS
def test_interpolant_ends_with_the_field(tableau: ButcherTableau) -> None:
    """Where a stage is f(t1, y1), dy/dtheta at 1 is h times it."""
    b, a = padded(tableau.b, tableau), matrix(tableau)
    ends = np.flatnonzero((a == b).all(1))
    assert len(ends) == (tableau.fsal or bool(tableau.extra_c))
    if len(ends):
        terms = np.asarray(tableau.dense) * np.arange(1, len(tableau.dense[0]) + 1)
        miss = terms.sum(1) - np.eye(len(terms))[ends[0]]
        assert (np.abs(miss) <= rounding_of_sums(terms)).all()


@TABLEAUS
def test_stability_limit(tableau: ButcherTableau) -> None:
    known = {
        "euler": 2.0,
        "midpoint": 2.0,
        "heun": 2.0,
        "heun2": 2.0,
        "heun_euler": 2.0,
        "ralston": 2.0,
        "fehlberg2": 2.0078,
        "heun3": 2.5128,
        "ssprk3": 2.5128,
        "bosh3": 2.5128,
        "rk4": 2.7853,
        "rk4_38": 2.7853,
        "fehlberg45": 3.6777,
        "cash_karp": 3.7344,
        "dopri5": 3.3066,
        "tsit5": 3.5068,
        "vern6": 4.8553,
        "vern7": 4.6400,
        "dopri8": 5.1666,
        "dop853": 6.3937,
        "vern9": 4.4762,
    }
    limit = largest_stable(tableau)
    assert limit == pytest.approx(known[tableau.name], abs=1e-4)
    assert tableau.stability == pytest.approx(limit, abs=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"b": (0.5, 0.25, 0.5, 0.0)},
        {"c": (0.0, 0.5, 0.7, 1.0)},
        {"b_error": (0.1, 0.0, 0.0, 0.0)},
        {"b_error_coarse": (0.1, 0.0, 0.0, 0.0)},
        {"stiffness_pair": (3, 2)},
        {"extra_c": (0.5,)},
        {"dense": ((1.0,), (0.0,), (0.0,), (0.0,))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_wrong_number_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="bosh3"):
        replace(EXPLICIT["bosh3"], **change)
