"""The trapezoidal rule.

Order 2, 1 implicit stage behind an explicit one, A-stable (not damped at infinity), FSAL, no error estimate (fixed
steps), Hermite interpolant.
Source: Hairer & Wanner, Solving ODEs II, section IV.3, doi:10.1007/978-3-642-05221-7.
"""

from __future__ import annotations

from fractions import Fraction as F

from ..diagonal_rk import DiagonalRungeKutta
from ..tableau import Tableau

TRAPEZOID = Tableau(
    order=2,
    c=(0, 1),
    a=((), (F(1, 2), F(1, 2))),
    b=(F(1, 2), F(1, 2)),
)


class Trapezoid(DiagonalRungeKutta):
    """The trapezoidal rule, order 2; fixed steps."""

    tableau = TRAPEZOID
