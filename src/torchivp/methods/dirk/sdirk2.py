"""The SDIRK method of two stages of Alexander.

Order 2, 2 implicit stages, L-stable, stiffly accurate (FSAL), Hermite interpolant. The embedded solution is of order 2 as
well: the quadrature of order 3 on the slopes at the start, at the first stage and at the end. The estimate is smoothed by
``(I - gamma dt J)^-1``, without which it would be large where the problem is stiff.
Source: Alexander 1977, doi:10.1137/0714068; gamma = 1 - sqrt(2) / 2; the estimate is our own.
"""

from __future__ import annotations

from fractions import Fraction as F

from ..algebraic import square_root
from ..diagonal_rk import DiagonalRungeKutta
from ..tableau import Row, Tableau

_G = 1 - square_root(2) / 2
_B: Row = (0, 1 - _G, _G)
_MIDDLE = 1 / (6 * _G * (1 - _G))  # the weight at gamma of a quadrature on 0, gamma and 1
_B_HAT: Row = (F(1, 2) - _MIDDLE * (1 - _G), _MIDDLE, F(1, 2) - _MIDDLE * _G)

SDIRK_2 = Tableau(
    order=2,
    c=(0, _G, 1),
    a=((), (0, _G), _B),
    b=_B,
    b_err=tuple(b - b_hat for b, b_hat in zip(_B, _B_HAT)),
    error_order=3,
    embedded_order=2,
)


class SDIRK2(DiagonalRungeKutta):
    """Alexander's method of order 2."""

    tableau = SDIRK_2
    smoothed = True
