"""Ralston's method: the two-stage method of order 2 with the smallest error bound.

Order 2, 2 stages, not FSAL, no error estimate, Hermite interpolant (order 2).
Source: Ralston 1962, doi:10.1090/S0025-5718-1962-0150954-0.
"""

from __future__ import annotations

from fractions import Fraction as F

from ..explicit_rk import ExplicitRungeKutta
from ..tableau import Tableau

RALSTON = Tableau(
    order=2,
    c=(0, F(2, 3)),
    a=((), (F(2, 3),)),
    b=(F(1, 4), F(3, 4)),
)


class Ralston(ExplicitRungeKutta):
    """Ralston's method, order 2."""

    tableau = RALSTON
