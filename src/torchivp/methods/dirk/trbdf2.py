"""TR-BDF2: a trapezoidal step, then one of BDF2, as an ESDIRK method.

Order 2, 3 stages (the first explicit), L-stable, stiffly accurate (FSAL), embedded order 3, Hermite interpolant. The
estimate is smoothed by ``(I - gamma dt J)^-1``, as Hosea and Shampine advise.
Source: Bank et al. 1985, doi:10.1109/TCAD.1985.1270142; Hosea & Shampine 1996, doi:10.1016/0168-9274(95)00115-8.
"""

from __future__ import annotations

from ..algebraic import square_root
from ..diagonal_rk import DiagonalRungeKutta
from ..tableau import Row, Tableau

_G = 1 - square_root(2) / 2
_W = square_root(2) / 4
_B: Row = (_W, _W, 1 - 2 * _W)
_B_HAT: Row = ((1 - _W) / 3, (3 * _W + 1) / 3, _G / 3)

TR_BDF2 = Tableau(
    order=2,
    c=(0, 2 * _G, 1),
    a=((), (_G, _G), _B),
    b=_B,
    b_err=tuple(b - b_hat for b, b_hat in zip(_B, _B_HAT)),
    error_order=3,
    embedded_order=3,
)


class TRBDF2(DiagonalRungeKutta):
    """The trapezoidal rule and BDF2 in one step, order 2(3)."""

    tableau = TR_BDF2
    smoothed = True
