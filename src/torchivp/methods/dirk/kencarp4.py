"""ARK4(3)6L[2]SA of Kennedy and Carpenter: an ESDIRK pair with an explicit companion.

Order 4, 6 stages (the first explicit), L-stable, stiffly accurate (FSAL), embedded order 3, Hermite interpolant (order 3,
as the paper's). With a ``torchivp.Split`` field, the non-stiff part is taken explicitly (IMEX).
Source: Kennedy & Carpenter 2003, doi:10.1016/S0168-9274(02)00138-1; rationals as in diffrax (those of the companion hold
24 digits).
"""

from __future__ import annotations

from fractions import Fraction as F

from ..diagonal_rk import DiagonalRungeKutta
from ..tableau import Row, Tableau

_G = F(1, 4)
_B: Row = (F(82889, 524892), 0, F(15625, 83664), F(69875, 102672), F(-2260, 8211), _G)
_B_HAT: Row = (
    F(4586570599, 29645900160),
    0,
    F(178811875, 945068544),
    F(814220225, 1159782912),
    F(-3700637, 11593932),
    F(61727, 225920),
)

KENCARP4 = Tableau(
    order=4,
    c=(0, F(1, 2), F(83, 250), F(31, 50), F(17, 20), 1),
    a=(
        (),
        (_G, _G),
        (F(8611, 62500), F(-1743, 31250), _G),
        (F(5012029, 34652500), F(-654441, 2922500), F(174375, 388108), _G),
        (F(15267082809, 155376265600), F(-71443401, 120774400), F(730878875, 902184768), F(2285395, 8070912), _G),
        _B,
    ),
    b=_B,
    b_err=tuple(b - b_hat for b, b_hat in zip(_B, _B_HAT)),
    error_order=4,
    embedded_order=3,
)

COMPANION = Tableau(
    order=4,
    c=KENCARP4.c,
    a=(
        (),
        (F(1, 2),),
        (F(13861, 62500), F(6889, 62500)),
        (
            F(-116923316275, 2393684061468),
            F(-2731218467317, 15368042101831),
            F(9408046702089, 11113171139209),
        ),
        (
            F(-451086348788, 2902428689909),
            F(-2682348792572, 7519795681897),
            F(12662868775082, 11960479115383),
            F(3355817975965, 11060851509271),
        ),
        (
            F(647845179188, 3216320057751),
            F(73281519250, 8382639484533),
            F(552539513391, 3454668386233),
            F(3354512671639, 8306763924573),
            F(4040, 17871),
        ),
    ),
    b=_B,
    b_err=KENCARP4.b_err,
    error_order=4,
    embedded_order=3,
)


class KenCarp4(DiagonalRungeKutta):
    """Kennedy and Carpenter's pair, order 4(3)."""

    tableau = KENCARP4
    companion = COMPANION
