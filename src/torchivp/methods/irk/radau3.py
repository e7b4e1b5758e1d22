"""Radau IIA of two stages.

Order 3, 2 fully implicit stages, L-stable, stiffly accurate (FSAL), embedded order 2, the interpolant has the slopes at the
start and the nodes (order 3). The estimate compares with the quadrature on 0, 1/3 and 1 that has the weight gamma = 1 / sqrt(6)
at the start (the modulus of the eigenvalues of A), and is smoothed by ``(I - gamma dt J)^-1``, as that of ``radau5``.
Source: Hairer & Wanner, Solving ODEs II, table IV.5.5 and section IV.8, doi:10.1007/978-3-642-05221-7.
"""

from __future__ import annotations

from fractions import Fraction as F

from ..algebraic import square_root
from ..collocation import collocation
from ..implicit_rk import ImplicitRungeKutta

_G = square_root(F(1, 6))

RADAU3 = collocation(3, (F(1, 3), F(1)), b_err=(-_G, F(3, 2) * _G, F(-1, 2) * _G), error_order=3, embedded_order=2)


class Radau3(ImplicitRungeKutta):
    """Radau IIA, order 3(2)."""

    tableau = RADAU3
    smoothing = float(_G)
