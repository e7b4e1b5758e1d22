"""Runge-Kutta coefficients as data: exact numbers, no behaviour.

The dataclasses compare and hash by identity, so that a tableau is a cheap key of a cache.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

Number = Fraction | float | int
Row = tuple[Number, ...]


@dataclass(frozen=True, eq=False)
class DenseOutput:
    """The polynomial a step leaves behind: ``y0 + dt * sum_p theta**p * sum_s weights[p-1][s] * k[s]``.

    Args:
        order: order of the polynomial for every theta in [0, 1] (global order, as for the method itself).
        c: nodes of the extra stages that only the dense output needs (empty if it is free).
        a: their rows; row i has one entry for each stage of the method and each extra stage before it.
        weights: P rows (powers theta^1 .. theta^P) of S entries (stages of the method, then the extra ones). Sum over
            the stages in float64: those of dopri8 reach 3300 and cancel (docs/design/dopri8-dense.md).
    """

    order: int
    weights: tuple[Row, ...]
    c: Row = ()
    a: tuple[Row, ...] = ()

    def end_slope(self, b: Row) -> int | None:
        """Which of the extra stages is the slope at the end of the step, where the weights ``b`` lead, if one is."""
        return next((i for i, row in enumerate(self.a) if row[: len(b)] == b and not any(row[len(b) :])), None)


@dataclass(frozen=True, eq=False)
class Tableau:
    """Butcher tableau of a Runge-Kutta method whose first stage is the slope at the start.

    An implicit method without such a stage gets one of weight 0: its first guess, and what its interpolant begins with.

    Args:
        order: order p of the propagated solution (weights ``b``).
        c: s nodes, ``c[0] == 0``.
        a: s rows, zeros at their ends left out: row i has i entries in an explicit method (row 0 is empty), i + 1 in a
            diagonally implicit one, up to s in a fully implicit one.
        b: s weights of the propagated solution.
        b_err: s weights of the error estimate, ``b - b_hat``; None for a method without one.
        b_err_lower: s weights of a second estimate, of lower order; the sizes of the two are combined (``estimates.combined``)
            into one error of an order that ``b`` has but ``b - b_err`` has not.
        error_order: the exponent the step-size controller divides by (``ratio ** (-1 / error_order)``);
            one more than the order of the lower of the two solutions, or that of the combined error.
        embedded_order: order of ``b_hat = b - b_err``; None without an error estimate.
        dense: the interpolant; None means cubic Hermite (see ``hermite``).
    """

    order: int
    c: Row
    a: tuple[Row, ...]
    b: Row
    b_err: Row | None = None
    error_order: int | None = None
    embedded_order: int | None = None
    dense: DenseOutput | None = None
    b_err_lower: Row | None = None

    @property
    def stages(self) -> int:
        return len(self.b)

    @property
    def fsal(self) -> bool:
        """First same as last: the last stage is the slope at the end of the step (of implicit ones: stiffly accurate)."""
        last = (*self.a[-1], *(0,) * (self.stages - len(self.a[-1])))
        return self.stages > 1 and self.c[-1] == 1 and last == tuple(self.b)


def numbers(text: str) -> Row:
    """Exact numbers from their digits: ``"1/3 0 0.25"``. A fraction may go over the end of a line."""
    return tuple(Fraction(x) for x in re.sub(r"\s*/\s*", "/", text).split())


def rows(text: str) -> tuple[Row, ...]:
    """Rows of exact numbers, with an empty line between one and the next."""
    return tuple(numbers(paragraph) for paragraph in text.strip().split("\n\n"))


def c1_weights(b: Row, end: int, bumps: Sequence[Row] = ()) -> tuple[Row, ...]:
    """Weights of an interpolant that meets the values and the slopes at both ends of the step, whatever the bumps.

    It is cubic Hermite plus ``theta**2 * (1 - theta)**2 * sum_m theta**m * sum_s bumps[m][s] * k[s]``.

    Args:
        b: weights of the solution at theta = 1, one for each of the S stages (0 for those of the interpolant).
        end: index of the stage that is the slope at the end; stage 0 is the slope at the start.
        bumps: rows of S entries; they carry the order beyond Hermite's.
    """
    first = tuple(int(s == 0) for s in range(len(b)))
    last = tuple(int(s == end) for s in range(len(b)))
    rows = [
        first,
        tuple(3 * x - 2 * f0 - f1 for x, f0, f1 in zip(b, first, last)),
        tuple(-2 * x + f0 + f1 for x, f0, f1 in zip(b, first, last)),
        *[(0,) * len(b)] * len(bumps),
    ]
    for m, bump in enumerate(bumps):
        for power, factor in ((m + 1, 1), (m + 2, -2), (m + 3, 1)):  # theta^2 - 2 theta^3 + theta^4
            rows[power] = tuple(x + factor * v for x, v in zip(rows[power], bump))
    return tuple(rows)


def hermite(tableau: Tableau) -> DenseOutput:
    """Cubic Hermite dense output from both ends' values and slopes (order 3, or the method's if lower).

    A method that is not FSAL gets its end slope as one extra stage.
    """
    order = min(3, tableau.order)
    if tableau.fsal:
        return DenseOutput(order=order, weights=c1_weights(tableau.b, tableau.stages - 1))
    return DenseOutput(order=order, weights=c1_weights((*tableau.b, 0), tableau.stages), c=(1,), a=(tuple(tableau.b),))
