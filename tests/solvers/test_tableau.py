"""Tableau identities, order conditions, interpolants and stability limits."""

import math
from collections.abc import Iterator
from dataclasses import replace

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


def nodes(tree: Tree) -> int:
    return 1 + sum(map(nodes, tree))


def density(tree: Tree) -> int:
    return nodes(tree) * math.prod(map(density, tree))


def trees(order: int) -> Iterator[Tree]:
    """All rooted trees of `order` nodes."""
    return forests(order - 1, order - 1)


def forests(total: int, largest: int) -> Iterator[Tree]:
    """Sorted collections of trees of `total` nodes, none above `largest`."""
    if total == 0:
        yield ()
        return
    found = set()
    for size in range(1, min(total, largest) + 1):
        for tree in trees(size):
            for rest in forests(total - size, size):
                found.add(tuple(sorted((tree, *rest))))
    yield from sorted(found)


ALL_TREES = [tree for order in range(1, 6) for tree in trees(order)]


def matrix(tableau: ButcherTableau) -> np.ndarray:
    a = np.zeros((tableau.stages, tableau.stages))
    for i, row in enumerate(tableau.a, start=1):
        a[i, :i] = row
    return a


def weights_of(tree: Tree, a: np.ndarray) -> np.ndarray:
    """What a tree asks of each stage: prod over subtrees of A times theirs."""
    out = np.ones(len(a))
    for child in tree:
        out = out * (a @ weights_of(child, a))
    return out


def defects(tableau: ButcherTableau, b: np.ndarray, order: int) -> dict[Tree, float]:
    """b . Phi(tree) - 1 / gamma(tree) for every tree up to `order`."""
    a = matrix(tableau)
    return {
        tree: float(b @ weights_of(tree, a)) - 1 / density(tree)
        for tree in ALL_TREES
        if nodes(tree) <= order
    }


def dense_weights(tableau: ButcherTableau, theta: float) -> np.ndarray:
    powers = theta ** np.arange(1, len(tableau.dense[0]) + 1)
    return np.asarray(tableau.dense) @ powers


def largest_stable(tableau: ButcherTableau) -> float:
    """Where |R(-x)| first exceeds 1, R(z) = 1 + z b (1 - z A)^-1 1."""
    a, b, ones = matrix(tableau), np.asarray(tableau.b), np.ones(tableau.stages)
    coefficients = [1.0]
    power = ones
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


def test_there_are_seventeen_conditions_up_to_order_five() -> None:
    counts = [sum(nodes(tree) == order for tree in ALL_TREES) for order in range(1, 6)]
    assert counts == [1, 1, 2, 4, 9]


def test_the_promised_methods_are_there() -> None:
    adaptive = {"heun_euler", "bosh3", "dopri5", "tsit5"}
    assert {x.name for x in EXPLICIT.values() if x.b_error} == adaptive
    assert set(EXPLICIT) == adaptive | {"euler", "midpoint", "heun", "rk4"}
    with_pair = {x.name for x in EXPLICIT.values() if x.stiffness_pair}
    assert with_pair == {"dopri5", "tsit5"}


@TABLEAUS
def test_rows_sum_to_nodes_and_weights_to_one(tableau: ButcherTableau) -> None:
    np.testing.assert_allclose(matrix(tableau).sum(1), tableau.c, rtol=0, atol=4e-15)
    assert math.fsum(tableau.b) == pytest.approx(1, abs=4e-15)
    assert tableau.c[0] == 0


@TABLEAUS
def test_order_conditions(tableau: ButcherTableau) -> None:
    for tree, defect in defects(tableau, np.asarray(tableau.b), tableau.order).items():
        assert abs(defect) < 5e-14, tree


@TABLEAUS
def test_order_is_not_understated(tableau: ButcherTableau) -> None:
    if tableau.order < 5:
        found = defects(tableau, np.asarray(tableau.b), tableau.order + 1)
        assert max(map(abs, found.values())) > 1e-4


@PAIRS
def test_error_row(tableau: ButcherTableau) -> None:
    """The embedded solution is of the order below the error's own order."""
    assert tableau.b_error is not None and tableau.error_order is not None
    assert math.fsum(tableau.b_error) == pytest.approx(0, abs=4e-15)
    hat = np.asarray(tableau.b) - np.asarray(tableau.b_error)
    found = defects(tableau, hat, tableau.error_order)
    for tree, defect in found.items():
        if nodes(tree) < tableau.error_order:
            assert abs(defect) < 5e-14, tree
    # And of no higher order, or the estimate would vanish faster than promised.
    assert max(map(abs, found.values())) > 1e-5


@PAIRS
def test_error_row_scale(tableau: ButcherTableau) -> None:
    """Hairer's pair, not two thirds of it: the size of E decides every lambda."""
    first = {
        "heun_euler": 1 / 2,
        "bosh3": 5 / 72,
        "dopri5": 71 / 57600,
        "tsit5": 0.00178001105222577714,
    }
    assert tableau.b_error is not None
    assert abs(tableau.b_error[0]) == pytest.approx(first[tableau.name], rel=1e-14)


@TABLEAUS
def test_first_same_as_last(tableau: ButcherTableau) -> None:
    claims = {"bosh3", "dopri5", "tsit5"}
    assert tableau.fsal == (tableau.name in claims)
    if tableau.fsal:
        assert tableau.c[-1] == 1
        assert (*tableau.a[-1], 0.0) == tuple(tableau.b)


@TABLEAUS
def test_stiffness_pair_shares_its_time(tableau: ButcherTableau) -> None:
    if tableau.stiffness_pair is not None:
        i, j = tableau.stiffness_pair
        assert i != j
        assert tableau.c[i] == tableau.c[j] == 1


@TABLEAUS
def test_interpolant_ends_in_the_step(tableau: ButcherTableau) -> None:
    np.testing.assert_allclose(dense_weights(tableau, 1.0), tableau.b, atol=1e-13)
    assert not dense_weights(tableau, 0.0).any()


@TABLEAUS
@pytest.mark.parametrize("theta", [0.1, 0.35, 0.5, 0.8])
def test_interpolant_order_conditions(tableau: ButcherTableau, theta: float) -> None:
    a, b = matrix(tableau), dense_weights(tableau, theta)
    assert tableau.dense_order >= tableau.order - 1
    for tree in ALL_TREES:
        if nodes(tree) <= tableau.dense_order:
            want = theta ** nodes(tree) / density(tree)
            assert b @ weights_of(tree, a) == pytest.approx(want, abs=2e-13), tree


@TABLEAUS
def test_interpolant_starts_with_the_field(tableau: ButcherTableau) -> None:
    """dy/dtheta at 0 is h f(y0), so neighbouring steps join smoothly under FSAL."""
    slope = np.asarray(tableau.dense)[:, 0]
    if tableau.order > 1:
        np.testing.assert_allclose(slope, np.eye(tableau.stages)[0], atol=1e-13)


@TABLEAUS
def test_stability_limit(tableau: ButcherTableau) -> None:
    known = {
        "dopri5": 3.3066,
        "tsit5": 3.5068,
        "bosh3": 2.5128,
        "heun_euler": 2.0,
        "heun": 2.0,
        "midpoint": 2.0,
        "euler": 2.0,
        "rk4": 2.7853,
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
        {"stiffness_pair": (3, 2)},
        {"dense": ((1.0,), (0.0,), (0.0,), (0.0,))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_wrong_number_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="bosh3"):
        replace(EXPLICIT["bosh3"], **change)
