"""The Gauss-Legendre method of three stages.

Order 6, 3 fully implicit stages, A-stable and symplectic (not damped at infinity), no error estimate (fixed steps), the
interpolant is the collocation polynomial (order 3).
Source: Hairer & Wanner, Solving ODEs II, table IV.5.2, doi:10.1007/978-3-642-05221-7.
"""

from __future__ import annotations

from fractions import Fraction as F

from ..algebraic import square_root
from ..collocation import collocation
from ..implicit_rk import ImplicitRungeKutta

_R = square_root(15) / 10

GAUSS6 = collocation(6, (F(1, 2) - _R, F(1, 2), F(1, 2) + _R))


class Gauss6(ImplicitRungeKutta):
    """The Gauss-Legendre method of order 6; fixed steps."""

    tableau = GAUSS6
