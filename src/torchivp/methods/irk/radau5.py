"""Radau IIA of three stages.

Order 5, 3 fully implicit stages, L-stable, stiffly accurate (FSAL), embedded order 3, the interpolant is the collocation
polynomial (order 3). Its equations of 3 D numbers fall apart into real ones of D and complex ones of D. The estimate is
that of radau5.f: it has the slope at the start with the weight gamma, the real eigenvalue of A, and is smoothed by
``(I - gamma dt J)^-1``.
Source: Hairer & Wanner, Solving ODEs II, table IV.5.6 and section IV.8, doi:10.1007/978-3-642-05221-7.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction as F

from ..algebraic import root, square_root
from ..collocation import collocation, combined
from ..implicit_rk import ImplicitRungeKutta

_S = square_root(6)
_G = root((60, -36, 9, -1), near=0.27)
_PAIR = collocation(5, ((4 - _S) / 10, (4 + _S) / 10, F(1)))
_E = ((-13 - 7 * _S) / 3, (-13 + 7 * _S) / 3, F(-1, 3))  # factors of the stages' distances from the start, over gamma

RADAU5 = replace(
    _PAIR,
    b_err=(_G, *(_G * x for x in combined(_E, _PAIR.a[1:])[1:])),
    error_order=4,
    embedded_order=3,
)


class Radau5(ImplicitRungeKutta):
    """Radau IIA, order 5(3)."""

    tableau = RADAU5
    smoothing = float(_G)
