"""The 5/4 pair of Kvaerno.

Order 5, 7 stages (the first explicit), both solutions stiffly accurate, the propagated one L-stable, FSAL, embedded order
4, Hermite interpolant (order 3). Its third stage lies behind the step (c = 1.230): a step that would ask ``f`` past
the end of the solve, or past a stop or jump time, is taken by KenCarp5 instead.
Source: Kvaerno 2004, doi:10.1023/B:BITN.0000046811.70614.38; digits as in diffrax (17 of them), gamma = 0.26.
"""

from __future__ import annotations

from fractions import Fraction as F

from ..diagonal_rk import DiagonalRungeKutta
from ..tableau import Row, Tableau
from .kencarp5 import KENCARP5

_G = F(26, 100)
_B_HAT: Row = (
    F("0.13855640231268224"),
    0,
    F("-0.04245337201752043"),
    F("0.02446657898003141"),
    F("0.61943039072480676"),
    _G,
    0,
)
_B: Row = (
    F("0.13659751177640291"),
    0,
    F("-0.05496908796538376"),
    F("-0.04118626728321046"),
    F("0.62993304899016403"),
    F("0.06962479448202728"),
    _G,
)

KVAERNO5 = Tableau(
    order=5,
    c=(0, F(52, 100), F("1.230333209967908"), F("0.8957659843500759"), F("0.43639360985864756"), 1, 1),
    a=(
        (),
        (_G, _G),
        (F(13, 100), F("0.84033320996790809"), _G),
        (F("0.22371961478320505"), F("0.47675532319799699"), F("-0.06470895363112615"), _G),
        (F("0.16648564323248321"), F("0.10450018841591720"), F("0.03631482272098715"), F("-0.13090704451073998"), _G),
        _B_HAT[:6],
        _B,
    ),
    b=_B,
    b_err=tuple(b - b_hat for b, b_hat in zip(_B, _B_HAT)),
    error_order=5,
    embedded_order=4,
)


class Kvaerno5(DiagonalRungeKutta):
    """Kvaerno's pair, order 5(4)."""

    tableau = KVAERNO5
    at_limits = KENCARP5
