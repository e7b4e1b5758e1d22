"""The 4/3 pair of Kvaerno.

Order 4, 5 stages (the first explicit), both solutions stiffly accurate, the propagated one L-stable, FSAL, embedded order
3, Hermite interpolant (order 3). Its second stage lies behind the step (c = 1.146): a step that would ask ``f`` past
the end of the solve, or past a stop or jump time, is taken by KenCarp4 instead.
Source: Kvaerno 2004, doi:10.1023/B:BITN.0000046811.70614.38; formulas as in diffrax. The paper prints gamma as
0.5728160625; here it is the root of g^4 - 4 g^3 + 3 g^2 - 2/3 g + 1/24, which makes the method L-stable.
"""

from __future__ import annotations

from fractions import Fraction as F

from ..algebraic import polynomial, root
from ..diagonal_rk import DiagonalRungeKutta
from ..tableau import Row, Tableau
from .kencarp4 import KENCARP4

_G = root((1, -4, 3, F(-2, 3), F(1, 24)), near=0.5728160625)


def _p(*coefficients: int) -> F:
    return polynomial(coefficients, _G)


_Q = _p(12, -6, 1)
_A31 = _p(144, -180, 81, -15, 1) * _G / _Q**2
_A32 = _p(-36, 39, -15, 2) * _G / _Q**2
_A41 = _p(-144, 396, -330, 117, -18, 1) / (12 * _G**2 * _p(12, -9, 2))
_A42 = _p(72, -126, 69, -15, 1) / (12 * _G**2 * _p(3, -1))
_A43 = _p(-6, 6, -1) * _Q**2 / (12 * _G**2 * _p(12, -9, 2) * _p(3, -1))
_A51 = _p(288, -312, 120, -18, 1) / (48 * _G**2 * _p(12, -9, 2))
_A52 = _p(24, -12, 1) / (48 * _G**2 * _p(3, -1))
_A53 = -(_Q**3) / (48 * _G**2 * _p(3, -1) * _p(12, -9, 2) * _p(6, -6, 1))
_A54 = _p(-24, 36, -12, 1) / _p(24, -24, 4)
_B_HAT: Row = (_A41, _A42, _A43, _G, 0)
_B: Row = (_A51, _A52, _A53, _A54, _G)

KVAERNO4 = Tableau(
    order=4,
    c=(0, 2 * _G, _A31 + _A32 + _G, 1, 1),
    a=((), (_G, _G), (_A31, _A32, _G), _B_HAT[:4], _B),
    b=_B,
    b_err=tuple(b - b_hat for b, b_hat in zip(_B, _B_HAT)),
    error_order=4,
    embedded_order=3,
)


class Kvaerno4(DiagonalRungeKutta):
    """Kvaerno's pair, order 4(3)."""

    tableau = KVAERNO4
    at_limits = KENCARP4
