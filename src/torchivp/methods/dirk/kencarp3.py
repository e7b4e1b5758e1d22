"""ARK3(2)4L[2]SA of Kennedy and Carpenter: an ESDIRK pair with an explicit companion.

Order 3, 4 stages (the first explicit), L-stable, stiffly accurate (FSAL), embedded order 2, Hermite interpolant (order 3;
the paper's is of order 2). With a ``torchivp.Split`` field, the non-stiff part is taken explicitly (IMEX).
Source: Kennedy & Carpenter 2003, doi:10.1016/S0168-9274(02)00138-1; the rationals, as in diffrax, hold 24 digits.
"""

from __future__ import annotations

from fractions import Fraction as F

from ..diagonal_rk import DiagonalRungeKutta
from ..tableau import Row, Tableau

_G = F(1767732205903, 4055673282236)
_B: Row = (
    F(1471266399579, 7840856788654),
    F(-4482444167858, 7529755066697),
    F(11266239266428, 11593286722821),
    _G,
)
_B_HAT: Row = (
    F(2756255671327, 12835298489170),
    F(-10771552573575, 22201958757719),
    F(9247589265047, 10645013368117),
    F(2193209047091, 5459859503100),
)

KENCARP3 = Tableau(
    order=3,
    c=(0, 2 * _G, F(3, 5), 1),
    a=((), (_G, _G), (F(2746238789719, 10658868560708), F(-640167445237, 6845629431997), _G), _B),
    b=_B,
    b_err=tuple(b - b_hat for b, b_hat in zip(_B, _B_HAT)),
    error_order=3,
    embedded_order=2,
)

COMPANION = Tableau(
    order=3,
    c=KENCARP3.c,
    a=(
        (),
        (2 * _G,),
        (F(5535828885825, 10492691773637), F(788022342437, 10882634858940)),
        (
            F(6485989280629, 16251701735622),
            F(-4246266847089, 9704473918619),
            F(10755448449292, 10357097424841),
        ),
    ),
    b=_B,
    b_err=KENCARP3.b_err,
    error_order=3,
    embedded_order=2,
)


class KenCarp3(DiagonalRungeKutta):
    """Kennedy and Carpenter's pair, order 3(2)."""

    tableau = KENCARP3
    companion = COMPANION
