"""The Gauss-Legendre method of two stages.

Order 4, 2 fully implicit stages, A-stable and symplectic (not damped at infinity), no error estimate (fixed steps), the
interpolant is the collocation polynomial (order 2).
Source: Hairer & Wanner, Solving ODEs II, table IV.5.1, doi:10.1007/978-3-642-05221-7.
"""

from __future__ import annotations

from fractions import Fraction as F

from ..algebraic import square_root
from ..collocation import collocation
from ..implicit_rk import ImplicitRungeKutta

_R = square_root(3) / 6

GAUSS4 = collocation(4, (F(1, 2) - _R, F(1, 2) + _R))


class Gauss4(ImplicitRungeKutta):
    """The Gauss-Legendre method of order 4; fixed steps."""

    tableau = GAUSS4
