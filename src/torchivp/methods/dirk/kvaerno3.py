"""The 3/2 pair of Kvaerno.

Order 3, 4 stages (the first explicit), both solutions stiffly accurate, the propagated one L-stable, FSAL, embedded order
2, Hermite interpolant (order 3).
Source: Kvaerno 2004, doi:10.1023/B:BITN.0000046811.70614.38; formulas as in diffrax. The paper prints gamma with
11 digits; here it is the root of 6 g^3 - 18 g^2 + 9 g - 1.
"""

from __future__ import annotations

from ..algebraic import root
from ..diagonal_rk import DiagonalRungeKutta
from ..tableau import Row, Tableau

_G = root((6, -18, 9, -1), near=0.43586652150)
_B_HAT: Row = ((-4 * _G**2 + 6 * _G - 1) / (4 * _G), (1 - 2 * _G) / (4 * _G), _G, 0)
_A42 = -1 / ((24 * _G - 12) * _G)
_A43 = (-6 * _G**2 + 6 * _G - 1) / (6 * _G - 3)
_B: Row = (1 - _A42 - _A43 - _G, _A42, _A43, _G)

KVAERNO3 = Tableau(
    order=3,
    c=(0, 2 * _G, 1, 1),
    a=((), (_G, _G), _B_HAT[:3], _B),
    b=_B,
    b_err=tuple(b - b_hat for b, b_hat in zip(_B, _B_HAT)),
    error_order=3,
    embedded_order=2,
)


class Kvaerno3(DiagonalRungeKutta):
    """Kvaerno's pair, order 3(2)."""

    tableau = KVAERNO3
