"""Proof of a Rosenbrock tableau: the order conditions of all rooted trees, in the tableau's own numbers.

In the form ``k_i = f(y0 + dt sum_j alpha_ij k_j) + dt J sum_j gamma_ij k_j`` a method is of order p when ``sum_i b_i Phi_i(tree)
== 1 / gamma(tree)`` for every rooted tree of at most p nodes, where a node with one branch takes ``alpha + gamma`` and one with
several takes ``alpha``. With any matrix in the place of J (a W-method) nodes with one branch are of two kinds, one of which takes
``alpha`` and the other ``gamma``; the sum vanishes for trees that have one of the second kind.

Source: E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, section IV.7, doi:10.1007/978-3-642-05221-7.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod
from typing import NamedTuple

from .order_conditions import Tree, density, rooted_trees, size
from .rosenbrock_tableau import RosenbrockTableau
from .tableau import Row

Matrix = tuple[tuple[Fraction, ...], ...]
Weights = tuple[Fraction, ...]


class Standard(NamedTuple):
    """A tableau in the form with products ``J k``: full matrices, and what turns weights over its ``k`` into theirs."""

    alpha: Matrix
    gamma: Matrix

    def weights(self, row: Row) -> Weights:
        """Weights over the slopes of this form, from those over the tableau's ``k``."""
        return tuple(
            sum((Fraction(w) * line[j] for w, line in zip(row, self.gamma)), Fraction(0))
            for j in range(len(self.gamma))
        )


def standard(tableau: RosenbrockTableau) -> Standard:
    """``gamma = (1 / gamma - C)^-1`` and ``alpha = a gamma``, exactly."""
    s, diagonal = tableau.stages, Fraction(tableau.gamma)
    gamma = [[Fraction(0)] * s for _ in range(s)]
    for i, row in enumerate(tableau.coupling):  # forward substitution, column by column
        for j in range(i + 1):
            known = sum((Fraction(row[m]) * gamma[m][j] for m in range(j, i)), Fraction(int(i == j)))
            gamma[i][j] = diagonal * known
    lower = tuple(tuple(line) for line in gamma)
    alpha = tuple(
        tuple(sum((Fraction(x) * lower[m][j] for m, x in enumerate(row)), Fraction(0)) for j in range(s))
        for row in tableau.a
    )
    return Standard(alpha, lower)


def solution_residuals(tableau: RosenbrockTableau, order: int) -> list[float]:
    """Largest violation of the conditions of order 1, 2, .., ``order`` by the propagated solution."""
    return residuals(standard(tableau), [tableau.b], order)


def embedded_residuals(tableau: RosenbrockTableau, order: int) -> list[float]:
    """The same of ``b - b_err``."""
    weights = tuple(Fraction(b) - Fraction(e) for b, e in zip(tableau.b, tableau.b_err))
    return residuals(standard(tableau), [weights], order)


def dense_residuals(tableau: RosenbrockTableau, order: int) -> list[float]:
    """The same of the interpolant, over all powers of theta."""
    form, worst = standard(tableau), [0.0] * order
    phis = elementary_weights(form, order)
    for tree, phi in phis.items():
        nodes = size(tree)
        for power in range(1, max(nodes, len(tableau.dense)) + 1):
            row = form.weights(tableau.dense[power - 1]) if power <= len(tableau.dense) else ()
            wanted = Fraction(1, density(tree)) if power == nodes else Fraction(0)
            worst[nodes - 1] = max(worst[nodes - 1], abs(float(_dot(row, phi) - wanted)))
    return worst


def residuals(form: Standard, rows: Sequence[Row], order: int) -> list[float]:
    """Largest violation by the solutions with these weights over the tableau's ``k``."""
    worst = [0.0] * order
    weights = [form.weights(row) for row in rows]
    for tree, phi in elementary_weights(form, order).items():
        off = max(abs(float(_dot(w, phi) - Fraction(1, density(tree)))) for w in weights)
        worst[size(tree) - 1] = max(worst[size(tree) - 1], off)
    return worst


def elementary_weights(form: Standard, order: int) -> dict[Tree, Weights]:
    """``Phi_i(tree)`` with the exact Jacobian."""
    s = len(form.alpha)
    both = tuple(tuple(a + g for a, g in zip(*lines)) for lines in zip(form.alpha, form.gamma))
    phi: dict[Tree, Weights] = {}
    for nodes in range(1, order + 1):
        for tree in rooted_trees(nodes):
            matrix = both if len(tree) == 1 else form.alpha
            phi[tree] = tuple(prod(_dot(matrix[i], phi[branch]) for branch in tree) + Fraction(0) for i in range(s))
    return phi


def w_residuals(tableau: RosenbrockTableau, order: int) -> list[float]:
    """Largest violation of the conditions of order 1, 2, .., ``order`` with any matrix in the place of the Jacobian."""
    form = standard(tableau)
    weights, worst = form.weights(tableau.b), [0.0] * order
    ways: dict[Tree, list[tuple[bool, Weights]]] = {}  # by tree: has it a node of the second kind, and Phi
    for nodes in range(1, order + 1):
        for tree in rooted_trees(nodes):
            ways[tree] = list(_ways(form, tree, ways))
            for second, phi in ways[tree]:
                wanted = Fraction(0) if second else Fraction(1, density(tree))
                worst[nodes - 1] = max(worst[nodes - 1], abs(float(_dot(weights, phi) - wanted)))
    return worst


def _ways(form: Standard, tree: Tree, below: dict[Tree, list[tuple[bool, Weights]]]) -> list[tuple[bool, Weights]]:
    """All colourings of a tree."""
    one = (Fraction(1),) * len(form.alpha)
    found = [(False, one)]
    for branch in tree:
        found = [
            (x or y, tuple(p * _dot(line, q) for p, line in zip(phi, form.alpha)))
            for x, phi in found
            for y, q in below[branch]
        ]
    if len(tree) == 1:
        found += [(True, tuple(_dot(line, q) for line in form.gamma)) for _, q in below[tree[0]]]
    return found


def _dot(x: Sequence[Fraction], y: Sequence[Fraction]) -> Fraction:
    return sum((a * b for a, b in zip(x, y)), Fraction(0))
