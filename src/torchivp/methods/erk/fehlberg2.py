"""Fehlberg's 1(2) pair, propagating the solution of order 2 (as torchdiffeq does).

Order 2, 3 stages, embedded order 1, Hermite interpolant (order 2).
Not FSAL: the last stage is taken at the embedded solution (1/256, 255/256, 0), not at the propagated one.
Source: Fehlberg 1969, NASA TR R-315; digits exact.
"""

from __future__ import annotations

from fractions import Fraction as F

from ..explicit_rk import ExplicitRungeKutta
from ..tableau import Tableau

FEHLBERG2 = Tableau(
    order=2,
    c=(0, F(1, 2), 1),
    a=((), (F(1, 2),), (F(1, 256), F(255, 256))),
    b=(F(1, 512), F(255, 256), F(1, 512)),
    b_err=(F(-1, 512), 0, F(1, 512)),
    error_order=2,
    embedded_order=1,
)


class Fehlberg2(ExplicitRungeKutta):
    """Fehlberg's pair, order 2(1)."""

    tableau = FEHLBERG2
