"""The implicit midpoint rule: the Gauss method of one stage.

Order 2, 1 implicit stage, A-stable and symplectic (not damped at infinity), no error estimate (fixed steps), Hermite
interpolant (one evaluation more where looked at).
Source: Hairer & Wanner, Solving ODEs II, table IV.5.1, doi:10.1007/978-3-642-05221-7.
"""

from __future__ import annotations

from fractions import Fraction as F

from ..diagonal_rk import DiagonalRungeKutta
from ..tableau import Tableau

IMPLICIT_MIDPOINT = Tableau(
    order=2,
    c=(0, F(1, 2)),
    a=((), (0, F(1, 2))),
    b=(0, 1),
)


class ImplicitMidpoint(DiagonalRungeKutta):
    """The implicit midpoint rule, order 2; fixed steps."""

    tableau = IMPLICIT_MIDPOINT
