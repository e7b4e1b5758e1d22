"""The 2(3) pair of Shampine and Reichelt, the method of MATLAB's ode23s: for crude tolerances.

Order 2, 3 stages, FSAL, one Jacobian and one factorisation a step, L-stable, of order 2 with any matrix in the place of the
Jacobian, embedded order 3, interpolant of order 2 (free).
Source: L. F. Shampine, M. W. Reichelt, The MATLAB ODE Suite (1997), doi:10.1137/S1064827594276424.

The paper's k are ``Gamma^-1`` times ours. With ``d = 1 / (2 + sqrt 2)`` and ``e = 6 + sqrt 2`` it has
``Gamma = d ((1), (-1, 1), (e - 2, -e, 1))``.
"""

from __future__ import annotations

from math import sqrt

from ..rosenbrock_rk import Rosenbrock
from ..rosenbrock_tableau import RosenbrockTableau, between_ends

_D, _E = 1 / (2 + sqrt(2)), 6 + sqrt(2)
# k_1 = u_1 / d, k_2 = (u_1 + u_2) / d, k_3 = (2 u_1 + e u_2 + u_3) / d
_SECOND = (1 / _D, 1 / _D)


class Rosenbrock23(Rosenbrock):
    __doc__ = __doc__

    tableau = RosenbrockTableau(
        order=2,
        gamma=_D,
        c=(0, 0.5, 1),
        a=((), (0.5 / _D,), _SECOND),
        coupling=((), (-1 / _D,), (-2 / _D, -_E / _D)),
        d=(_D, 0, -_D),
        b=(*_SECOND, 0),
        b_err=(-1 / (6 * _D), (2 - _E) / (6 * _D), -1 / (6 * _D)),  # -(k_1 - 2 k_2 + k_3) / 6
        error_order=3,
        embedded_order=3,
        dense=between_ends((*_SECOND, 0), [(0, -1 / (_D * (1 - 2 * _D)), 0)]),
        dense_order=2,
        w_order=2,
    )
