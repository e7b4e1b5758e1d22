"""ARK5(4)8L[2]SA of Kennedy and Carpenter: an ESDIRK pair with an explicit companion.

Order 5, 8 stages (the first explicit), L-stable, stiffly accurate (FSAL), embedded order 4, Hermite interpolant (order 3,
as the paper's). With a ``torchivp.Split`` field, the non-stiff part is taken explicitly (IMEX).
Source: Kennedy & Carpenter 2003, doi:10.1016/S0168-9274(02)00138-1; the rationals, as in diffrax, hold 24 digits, but
for -4269925059573/7827059040719 in row 7, which holds 12: that entry is computed from its node 3/5, and then all order conditions
hold to 24 digits.
"""

from __future__ import annotations

from fractions import Fraction as F

from ..diagonal_rk import DiagonalRungeKutta
from ..tableau import Row, Tableau

_G = F(41, 200)
_B: Row = (
    F(-872700587467, 9133579230613),
    0,
    0,
    F(22348218063261, 9555858737531),
    F(-1143369518992, 8141816002931),
    F(-39379526789629, 19018526304540),
    F(32727382324388, 42900044865799),
    _G,
)
_B_HAT: Row = (
    F(-975461918565, 9796059967033),
    0,
    0,
    F(78070527104295, 32432590147079),
    F(-548382580838, 3424219808633),
    F(-33438840321285, 15594753105479),
    F(3629800801594, 4656183773603),
    F(4035322873751, 18575991585200),
)
_A7: Row = (
    F(1020004230633, 5715676835656),
    0,
    F(25762820946817, 25263940353407),
    F(-2161375909145, 9755907335909),
    F(-211217309593, 5846859502534),
)

KENCARP5 = Tableau(
    order=5,
    c=(
        0,
        F(41, 100),
        F(2935347310677, 11292855782101),
        F(1426016391358, 7196633302097),
        F(92, 100),
        F(24, 100),
        F(3, 5),
        1,
    ),
    a=(
        (),
        (_G, _G),
        (F(41, 400), F(-567603406766, 11931857230679), _G),
        (F(683785636431, 9252920307686), 0, F(-110385047103, 1367015193373), _G),
        (
            F(3016520224154, 10081342136671),
            0,
            F(30586259806659, 12414158314087),
            F(-22760509404356, 11113319521817),
            _G,
        ),
        (
            F(218866479029, 1489978393911),
            0,
            F(638256894668, 5436446318841),
            F(-1179710474555, 5321154724896),
            F(-60928119172, 8023461067671),
            _G,
        ),
        (*_A7, F(3, 5) - sum(_A7) - _G, _G),
        _B,
    ),
    b=_B,
    b_err=tuple(b - b_hat for b, b_hat in zip(_B, _B_HAT)),
    error_order=5,
    embedded_order=4,
)

COMPANION = Tableau(
    order=5,
    c=KENCARP5.c,
    a=(
        (),
        (F(41, 100),),
        (F(367902744464, 2072280473677), F(677623207551, 8224143866563)),
        (F(1268023523408, 10340822734521), 0, F(1029933939417, 13636558850479)),
        (
            F(14463281900351, 6315353703477),
            0,
            F(66114435211212, 5879490589093),
            F(-54053170152839, 4284798021562),
        ),
        (
            F(14090043504691, 34967701212078),
            0,
            F(15191511035443, 11219624916014),
            F(-18461159152457, 12425892160975),
            F(-281667163811, 9011619295870),
        ),
        (
            F(19230459214898, 13134317526959),
            0,
            F(21275331358303, 2942455364971),
            F(-38145345988419, 4862620318723),
            F(-1, 8),
            F(-1, 8),
        ),
        (
            F(-19977161125411, 11928030595625),
            0,
            F(-40795976796054, 6384907823539),
            F(177454434618887, 12078138498510),
            F(782672205425, 8267701900261),
            F(-69563011059811, 9646580694205),
            F(7356628210526, 4942186776405),
        ),
    ),
    b=_B,
    b_err=KENCARP5.b_err,
    error_order=5,
    embedded_order=4,
)


class KenCarp5(DiagonalRungeKutta):
    """Kennedy and Carpenter's pair, order 5(4)."""

    tableau = KENCARP5
    companion = COMPANION
