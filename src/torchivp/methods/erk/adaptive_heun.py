"""Heun's method with an error estimate of order 1 (as torchdiffeq's ``adaptive_heun``).

Order 2, 2 stages, embedded order 1 (Euler's method with the slope of stage 2), Hermite interpolant (order 2).
Not FSAL: stage 2 is taken at Euler's y1, not at the propagated one.
Source: Runge 1895, doi:10.1007/BF01446807; digits exact.
"""

from __future__ import annotations

from fractions import Fraction as F

from ..explicit_rk import ExplicitRungeKutta
from ..tableau import Tableau

ADAPTIVE_HEUN = Tableau(
    order=2,
    c=(0, 1),
    a=((), (1,)),
    b=(F(1, 2), F(1, 2)),
    b_err=(F(1, 2), F(-1, 2)),
    error_order=2,
    embedded_order=1,
)


class AdaptiveHeun(ExplicitRungeKutta):
    """Heun's method with step-size control, order 2(1)."""

    tableau = ADAPTIVE_HEUN
