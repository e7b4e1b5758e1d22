"""McLachlan's method of order 4: five pairs of first-order steps and their adjoints, with small error constants.

Kick, drift, kick. Order 4, 5 evaluations a step (the kick at the end is that of the next step), symplectic, reversible, no error
estimate, Hermite interpolant (order 3). The kicks ask inside the step, at 0, 2/5, 3/10, 7/10, 3/5 and 1; two of the drifts would
ask outside.
Source: McLachlan 1995, SIAM J. Sci. Comput. 16:151, doi:10.1137/0916010; Hairer, Lubich, Wanner, Geometric Numerical
Integration, V.3, doi:10.1007/3-540-30666-8; the weights are exact.
"""

from __future__ import annotations

from math import sqrt

from .splitting import KICK, Splitting, SplittingMethod

_ROOT = sqrt(19)
_B1, _B2, _B3, _B4, _B5 = (
    (14 - _ROOT) / 108,
    (-23 - 20 * _ROOT) / 270,
    1 / 5,
    (-2 + 10 * _ROOT) / 135,
    (146 + 5 * _ROOT) / 540,
)  # of the adjoint steps; those of the steps between them run the other way
_OUTER, _NEXT, _INNER = _B1, _B5 + _B2, _B4 + _B3


class McLachlan4(SplittingMethod):
    """McLachlan's composition of five pairs of steps, order 4; fixed steps, for systems in two parts.

    Card: kick, drift, kick; order 4; 5 evaluations a step (and one at a start); symplectic and reversible; Hermite interpolant
    of order 3, free for x'' = a(t, x). All times of kicks lie inside the step; the slope of q must not depend on the time.
    On a Kepler orbit its error is a tenth of that of ``yoshida4`` at the same number of evaluations.

    Source: R. I. McLachlan, On the numerical integration of ordinary differential equations by symmetric composition methods
    (1995), doi:10.1137/0916010.
    """

    splitting = Splitting(
        order=4,
        first=KICK,
        weights=(_OUTER, 0.4, _NEXT, -0.1, _INNER, 0.4, _INNER, -0.1, _NEXT, 0.4, _OUTER),
    )
