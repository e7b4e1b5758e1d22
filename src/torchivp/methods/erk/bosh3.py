"""The 3(2) pair of Bogacki and Shampine.

Order 3, 4 stages, FSAL, embedded order 2, Hermite interpolant (order 3, free).
Source: Bogacki & Shampine 1989, doi:10.1016/0893-9659(89)90079-7; digits as in SciPy's RK23 (exact).
"""

from __future__ import annotations

from fractions import Fraction as F

from ..explicit_rk import ExplicitRungeKutta
from ..tableau import Tableau

BOSH3 = Tableau(
    order=3,
    c=(0, F(1, 2), F(3, 4), 1),
    a=((), (F(1, 2),), (0, F(3, 4)), (F(2, 9), F(1, 3), F(4, 9))),
    b=(F(2, 9), F(1, 3), F(4, 9), 0),
    b_err=(F(2, 9) - F(7, 24), F(1, 3) - F(1, 4), F(4, 9) - F(1, 3), F(-1, 8)),
    error_order=3,
    embedded_order=2,
)


class Bosh3(ExplicitRungeKutta):
    """Bogacki and Shampine's pair, order 3(2)."""

    tableau = BOSH3
