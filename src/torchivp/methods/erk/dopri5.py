"""The 5(4) pair of Dormand and Prince, with Shampine's error weights.

Order 5, 7 stages, FSAL, embedded order 4, interpolant of order 4 (free).
Source: Dormand & Prince 1980, doi:10.1016/0771-050X(80)90013-3; error weights and interpolant: Shampine 1986,
doi:10.1090/S0025-5718-1986-0815836-3. The weights are those of torchdiffeq and diffrax; SciPy's RK45 has the authors'
own. The interpolant is ``contd5`` of Hairer's dopri5.f, doi:10.1007/978-3-540-78862-1; at the middle of the step it is
torchdiffeq's ``DPS_C_MID``. All digits are exact.
"""

from __future__ import annotations

from fractions import Fraction as F

from ..explicit_rk import ExplicitRungeKutta
from ..tableau import DenseOutput, Row, Tableau, c1_weights

_B: Row = (F(35, 384), 0, F(500, 1113), F(125, 192), F(-2187, 6784), F(11, 84), 0)
_B_HAT: Row = (F(1951, 21600), 0, F(22642, 50085), F(451, 720), F(-12231, 42400), F(649, 6300), F(1, 60))
_BUMP: Row = (
    F(-12715105075, 11282082432),
    0,
    F(87487479700, 32700410799),
    F(-10690763975, 1880347072),
    F(701980252875, 199316789632),
    F(-1453857185, 822651844),
    F(69997945, 29380423),
)

DOPRI5 = Tableau(
    order=5,
    c=(0, F(1, 5), F(3, 10), F(4, 5), F(8, 9), 1, 1),
    a=(
        (),
        (F(1, 5),),
        (F(3, 40), F(9, 40)),
        (F(44, 45), F(-56, 15), F(32, 9)),
        (F(19372, 6561), F(-25360, 2187), F(64448, 6561), F(-212, 729)),
        (F(9017, 3168), F(-355, 33), F(46732, 5247), F(49, 176), F(-5103, 18656)),
        _B[:6],
    ),
    b=_B,
    b_err=tuple(b - b_hat for b, b_hat in zip(_B, _B_HAT)),
    error_order=5,
    embedded_order=4,
    dense=DenseOutput(order=4, weights=c1_weights(_B, end=6, bumps=[_BUMP])),
)


class Dopri5(ExplicitRungeKutta):
    """Dormand and Prince's pair, order 5(4)."""

    tableau = DOPRI5
