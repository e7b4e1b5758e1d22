"""The explicit midpoint rule.

Order 2, 2 stages, not FSAL, no error estimate, Hermite interpolant (order 2).
Source: Runge 1895, doi:10.1007/BF01446807; Hairer, Norsett, Wanner, Solving ODEs I, table II.1.1.
"""

from __future__ import annotations

from fractions import Fraction as F

from ..explicit_rk import ExplicitRungeKutta
from ..tableau import Tableau

MIDPOINT = Tableau(
    order=2,
    c=(0, F(1, 2)),
    a=((), (F(1, 2),)),
    b=(0, 1),
)


class Midpoint(ExplicitRungeKutta):
    """The explicit midpoint rule, order 2; fixed steps."""

    tableau = MIDPOINT
