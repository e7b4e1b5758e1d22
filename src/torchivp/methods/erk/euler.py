"""Euler's method.

Order 1, 1 stage, not FSAL, no error estimate, Hermite interpolant (order 1).
Source: Euler 1768; Hairer, Norsett, Wanner, Solving ODEs I, I.7, doi:10.1007/978-3-540-78862-1.
"""

from __future__ import annotations

from ..explicit_rk import ExplicitRungeKutta
from ..tableau import Tableau

EULER = Tableau(order=1, c=(0,), a=((),), b=(1,))


class Euler(ExplicitRungeKutta):
    """Euler's method, order 1; fixed steps."""

    tableau = EULER
