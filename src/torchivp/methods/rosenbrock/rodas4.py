"""The stiffly accurate 4(3) pair of Hairer and Wanner.

Order 4, 6 stages, one Jacobian and one factorisation a step, L-stable, embedded order 3, interpolant of order 3 (free).
Source: E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, section IV.7, doi:10.1007/978-3-642-05221-7 (the
code RODAS); digits of the transformed coefficients as in OrdinaryDiffEqRosenbrock.
"""

from __future__ import annotations

from fractions import Fraction as F

from ..rosenbrock_rk import Rosenbrock
from ..rosenbrock_tableau import RosenbrockTableau, between_ends

_LAST = (1.221224509226641, 6.019134481288629, 12.53708332932087, -0.6878860361058950)


class Rodas4(Rosenbrock):
    __doc__ = __doc__

    tableau = RosenbrockTableau(
        order=4,
        gamma=F(1, 4),
        c=(0, F("0.386"), F("0.21"), F("0.63"), 1, 1),
        a=(
            (),
            (F("1.544"),),
            (0.9466785280815826, 0.2557011698983284),
            (3.314825187068521, 2.896124015972201, 0.9986419139977817),
            _LAST,
            (*_LAST, 1),
        ),
        coupling=(
            (),
            (F("-5.6688"),),
            (-2.430093356833875, -0.2063599157091915),
            (-0.1073529058151375, -9.594562251023355, -20.47028614809616),
            (7.496443313967647, -10.24680431464352, -33.99990352819905, 11.70890893206160),
            (8.083246795921522, -7.981132988064893, -31.52159432874371, 16.31930543123136, -6.058818238834054),
        ),
        d=(F(1, 4), F("-0.1043"), F("0.1035"), F("-0.0362"), 0, 0),
        b=(*_LAST, 1, 1),
        b_err=(0, 0, 0, 0, 0, 1),
        error_order=4,
        embedded_order=3,
        dense=between_ends(
            (*_LAST, 1, 1),
            [
                (10.12623508344586, -7.487995877610167, -34.80091861555747, -7.992771707568823, 1.025137723295662, 0),
                (-0.6762803392801253, 6.087714651680015, 16.43084320892478, 24.76722511418386, -6.594389125716872, 0),
            ],
        ),
        dense_order=3,
    )
