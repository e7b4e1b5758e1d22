"""The implicit Euler method.

Order 1, 1 implicit stage, L-stable, FSAL, no error estimate (fixed steps), Hermite interpolant.
Source: Hairer & Wanner, Solving ODEs II, section IV.3, doi:10.1007/978-3-642-05221-7.
"""

from __future__ import annotations

from ..diagonal_rk import DiagonalRungeKutta
from ..tableau import Tableau

IMPLICIT_EULER = Tableau(
    order=1,
    c=(0, 1),
    a=((), (0, 1)),
    b=(0, 1),
)


class ImplicitEuler(DiagonalRungeKutta):
    """The implicit Euler method, order 1; fixed steps."""

    tableau = IMPLICIT_EULER
