"""Kutta's 3/8 rule: what torchdiffeq calls ``rk4``.

Order 4, 4 stages, not FSAL, no error estimate, Hermite interpolant (order 3).
Source: Kutta 1901, Z. Math. Phys. 46:435; Hairer, Norsett, Wanner, Solving ODEs I, table II.1.2,
doi:10.1007/978-3-540-78862-1. Its error constants are smaller than those of the classic method (``rk4_classic``).
"""

from __future__ import annotations

from fractions import Fraction as F

from ..explicit_rk import ExplicitRungeKutta
from ..tableau import Tableau

RK4_38 = Tableau(
    order=4,
    c=(0, F(1, 3), F(2, 3), 1),
    a=((), (F(1, 3),), (F(-1, 3), 1), (1, -1, 1)),
    b=(F(1, 8), F(3, 8), F(3, 8), F(1, 8)),
)


class RK4(ExplicitRungeKutta):
    """Kutta's 3/8 rule, order 4; fixed steps."""

    tableau = RK4_38
