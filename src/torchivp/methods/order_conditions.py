"""Proof of a Runge-Kutta tableau: the order conditions of all rooted trees, in the tableau's own numbers.

A method has order p when ``sum_s b[s] * Phi_s(tree) == 1 / gamma(tree)`` for every rooted tree of at most p nodes. An
interpolant has order q when ``sum_s w_s(theta) * Phi_s(tree) == theta**r / gamma(tree)`` for every tree of r <= q
nodes, as polynomials in theta. Fractions give exact residuals, decimals and floats give them up to rounding.

A tree is the sorted tuple of the subtrees at its root: ``()`` is the single node, ``((), ())`` a root with two leaves.

Source: Butcher 1963, doi:10.1017/S1446788700027932; Hairer, Norsett, Wanner, Solving ODEs I, II.2 and II.6,
doi:10.1007/978-3-540-78862-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any

from .tableau import DenseOutput, Tableau

Tree = tuple[Any, ...]  # of trees; run-time type checkers cannot follow an alias that names itself
Number = Any  # a fraction, a decimal, a float: all numbers of a tableau of one kind, and whole ones
Row = Sequence[Number]


@cache
def rooted_trees(nodes: int) -> tuple[Tree, ...]:
    """All rooted trees with that many nodes: 1, 1, 2, 4, 9, 20, 48, 115, 286, ... of them."""
    if nodes == 1:
        return ((),)
    found = {
        tuple(sorted((*tree, branch)))
        for n in range(1, nodes)
        for branch in rooted_trees(n)
        for tree in rooted_trees(nodes - n)
    }
    return tuple(sorted(found))


def size(tree: Tree) -> int:
    """Number of nodes: the order of the condition that the tree stands for."""
    return 1 + sum(size(branch) for branch in tree)


def density(tree: Tree) -> int:
    """gamma: the product of the sizes of all subtrees."""
    return size(tree) * prod(density(branch) for branch in tree)


def elementary_weights(a: Sequence[Row], max_nodes: int) -> dict[Tree, list[Number]]:
    """``Phi_s(tree)`` for every stage s and every tree of at most ``max_nodes`` nodes.

    Args:
        a: rows of the tableau, zeros at their ends left out.
    """
    phi: dict[Tree, list[Number]] = {}
    grown: dict[Tree, list[Number]] = {}  # the tree hung below a new root
    for nodes in range(1, max_nodes + 1):
        for tree in rooted_trees(nodes):
            phi[tree] = [prod(grown[branch][s] for branch in tree) for s in range(len(a))]
            grown[tree] = [_dot(row, phi[tree]) for row in a]
    return phi


def residuals(a: Sequence[Row], weights: Row, order: int) -> list[float]:
    """Largest violation of the conditions of order 1, 2, .., ``order`` by ``y0 + dt * sum_s weights[s] * k[s]``.

    Args:
        a: rows of the tableau, zeros at their ends left out.
        weights: one weight for each stage.
        order: up to which the trees are tried; there are 486 trees up to order 9. High orders take decimals: fractions grow.

    Returns:
        ``order`` numbers; the method is of order p when the first p of them vanish.

    Example:
        >>> residuals(a=((), (Fraction(1, 2),)), weights=(0, 1), order=3)  # the midpoint rule is of order 2
        [0.0, 0.0, 0.16666666666666666]
    """
    worst = [0.0] * order
    for tree, phi in elementary_weights(a, order).items():
        gamma = density(tree)
        error = _dot(weights, phi) * gamma - 1
        worst[size(tree) - 1] = max(worst[size(tree) - 1], abs(float(error)) / gamma)
    return worst


def solution_residuals(tableau: Tableau, order: int) -> list[float]:
    """``residuals`` of the propagated solution."""
    return residuals(tableau.a, tableau.b, order)


def embedded_residuals(tableau: Tableau, order: int) -> list[float]:
    """``residuals`` of the solution ``b - b_err`` that the error estimate compares with.

    Raises:
        ValueError: for a tableau without an error estimate.
    """
    if tableau.b_err is None:
        raise ValueError(
            "This tableau has no error estimate (b_err is None), so there is no embedded solution to check. Give it a "
            "b_err, or call solution_residuals."
        )
    return residuals(tableau.a, tuple(b - e for b, e in zip(tableau.b, tableau.b_err)), order)


def dense_residuals(tableau: Tableau, dense: DenseOutput, order: int) -> list[float]:
    """Largest violation by the interpolant, over all trees of each order and all powers of theta.

    Args:
        tableau: of the method.
        dense: its interpolant (``tableau.dense``, or ``hermite(tableau)`` where that is None).
        order: as in ``residuals``.
    """
    a = (*tableau.a, *dense.a)
    worst = [0.0] * order
    for tree, phi in elementary_weights(a, order).items():
        nodes, gamma = size(tree), density(tree)
        for power, weights in enumerate(dense.weights, start=1):
            error = _dot(weights, phi) * gamma - int(power == nodes)
            worst[nodes - 1] = max(worst[nodes - 1], abs(float(error)) / gamma)
        if nodes > len(dense.weights):  # the power theta**nodes is missing altogether
            worst[nodes - 1] = max(worst[nodes - 1], 1 / gamma)
    return worst


def _dot(x: Sequence[Number], y: Sequence[Number]) -> Number:
    """``sum_i x[i] * y[i]``; rows of a tableau are shorter than the list of stages."""
    total: Number = 0
    for x_i, y_i in zip(x, y):
        total += x_i * y_i
    return total
