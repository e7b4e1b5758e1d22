"""Collocation: the Runge-Kutta method whose step is the polynomial that obeys the equation at given nodes.

Source: Hairer, Norsett, Wanner, Solving ODEs I, section II.7, doi:10.1007/978-3-540-78862-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from .tableau import DenseOutput, Number, Row, Tableau


def integrals(nodes: Sequence[Fraction]) -> tuple[Row, ...]:
    """Integrals from 0 to theta of the Lagrange polynomials: row p - 1 has the factors of ``theta**p``, one for each node."""
    columns = []
    for i, node in enumerate(nodes):
        product = [Fraction(1)]  # of (x - other) / (node - other), lowest power first
        for other in (*nodes[:i], *nodes[i + 1 :]):
            shifted = [Fraction(0), *product]
            product = [(s - other * p) / (node - other) for s, p in zip(shifted, [*product, Fraction(0)])]
        columns.append([p / (n + 1) for n, p in enumerate(product)])
    return tuple(zip(*columns))


def collocation(order: int, nodes: Sequence[Fraction], **estimate: Any) -> Tableau:
    """The tableau with these nodes, behind a first stage at the start that weighs nothing.

    Args:
        order: of the quadrature on the nodes.
        estimate: what ``Tableau`` takes about an error estimate.
    """
    weights = integrals(nodes)

    def at(theta: Fraction | int) -> Row:
        powers = [Fraction(theta) ** p for p in range(1, len(nodes) + 1)]
        return (0, *(sum(x * w for x, w in zip(powers, column)) for column in zip(*weights)))

    dense = DenseOutput(order=len(nodes), weights=tuple((0, *row) for row in weights))
    return Tableau(order=order, c=(0, *nodes), a=((), *map(at, nodes)), b=at(1), dense=dense, **estimate)


def combined(weights: Sequence[Number], rows: Sequence[Row]) -> Row:
    """``sum_i weights[i] * rows[i]``."""
    return tuple(sum(w * x for w, x in zip(weights, column)) for column in zip(*rows))
