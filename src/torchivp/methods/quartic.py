"""An interpolant of order 4 for stiffly accurate methods whose stages are of order 2."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from .tableau import DenseOutput, Number, Row, Tableau, c1_weights


def quartic(tableau: Tableau) -> DenseOutput:
    """Hermite's cubic plus ``theta**2 * (1 - theta)**2 * sum_s bump[s] * k[s]``, with the smallest bump that makes it of order 4.

    With ``A c = c^2 / 2`` the conditions are five: moments 0 with 1, c and c^2, 1/4 with c^3, and 1/12 with ``A c^2``.
    """
    c = tableau.c
    squares = tuple(x * x for x in c)
    after = tuple(sum(a * x for a, x in zip(row, squares)) for row in tableau.a)
    rows: list[Row] = [(1,) * len(c), c, squares, tuple(x**3 for x in c), after]
    gram = [[_dot(x, y) for y in rows] for x in rows]
    factors = solved(gram, [0, 0, 0, Fraction(1, 4), Fraction(1, 12)])
    bump = tuple(_dot(factors, column) for column in zip(*rows))
    return DenseOutput(order=4, weights=c1_weights(tableau.b, tableau.stages - 1, bumps=[bump]))


def solved(matrix: Sequence[Sequence[Number]], right: Sequence[Number]) -> list[Number]:
    """x with ``matrix x = right``, exactly, of a positive definite matrix."""
    rows = [[Fraction(x) for x in (*row, b)] for row, b in zip(matrix, right)]
    for i, pivot in enumerate(rows):
        for j, row in enumerate(rows):
            if j != i:
                factor = row[i] / pivot[i]
                rows[j] = [x - factor * p for x, p in zip(row, pivot)]
    return [row[-1] / row[i] for i, row in enumerate(rows)]


def _dot(x: Sequence[Number], y: Sequence[Number]) -> Number:
    return sum(a * b for a, b in zip(x, y))
