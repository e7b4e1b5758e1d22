"""Heun's method: the explicit trapezoidal rule.

Order 2, 2 stages, not FSAL, no error estimate, Hermite interpolant (order 2).
Source: Runge 1895, doi:10.1007/BF01446807; the same tableau as torchdiffeq's ``heun2``.
"""

from __future__ import annotations

from fractions import Fraction as F

from ..explicit_rk import ExplicitRungeKutta
from ..tableau import Tableau

HEUN2 = Tableau(
    order=2,
    c=(0, 1),
    a=((), (1,)),
    b=(F(1, 2), F(1, 2)),
)


class Heun2(ExplicitRungeKutta):
    """The explicit trapezoidal rule, order 2; fixed steps."""

    tableau = HEUN2
