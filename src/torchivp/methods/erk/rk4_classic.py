"""The classic Runge-Kutta method.

Order 4, 4 stages, not FSAL, no error estimate, Hermite interpolant (order 3).
Source: Kutta 1901, Z. Math. Phys. 46:435; Hairer, Norsett, Wanner, Solving ODEs I, table II.1.2,
doi:10.1007/978-3-540-78862-1.
"""

from __future__ import annotations

from fractions import Fraction as F

from ..explicit_rk import ExplicitRungeKutta
from ..tableau import Tableau

RK4_CLASSIC = Tableau(
    order=4,
    c=(0, F(1, 2), F(1, 2), 1),
    a=((), (F(1, 2),), (0, F(1, 2)), (0, 0, 1)),
    b=(F(1, 6), F(1, 3), F(1, 3), F(1, 6)),
)


class RK4Classic(ExplicitRungeKutta):
    """The classic Runge-Kutta method, order 4; fixed steps."""

    tableau = RK4_CLASSIC
