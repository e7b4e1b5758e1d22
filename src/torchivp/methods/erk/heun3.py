"""Heun's method of order 3.

Order 3, 3 stages, not FSAL, no error estimate, Hermite interpolant (order 3).
Source: Heun 1900, Z. Math. Phys. 45:23; Hairer, Norsett, Wanner, Solving ODEs I, table II.1.1,
doi:10.1007/978-3-540-78862-1; the same tableau as torchdiffeq's ``heun3``.
"""

from __future__ import annotations

from fractions import Fraction as F

from ..explicit_rk import ExplicitRungeKutta
from ..tableau import Tableau

HEUN3 = Tableau(
    order=3,
    c=(0, F(1, 3), F(2, 3)),
    a=((), (F(1, 3),), (0, F(2, 3))),
    b=(F(1, 4), 0, F(3, 4)),
)


class Heun3(ExplicitRungeKutta):
    """Heun's method, order 3; fixed steps."""

    tableau = HEUN3
