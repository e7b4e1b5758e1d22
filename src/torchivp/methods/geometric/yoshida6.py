"""Yoshida's method of order 6 (his solution A): seven leapfrog steps, two of them backwards.

Drift, kick, drift. Order 6, 7 evaluations a step, symplectic, reversible, no error estimate, quintic interpolant (order 5, 6
evaluations where looked at). The kicks ask inside the step, from 0.098 to 0.902; the drifts would ask outside.
Source: Yoshida 1990, Phys. Lett. A 150:262, table 1, doi:10.1016/0375-9601(90)90092-3. He gives 15 digits; these solve his
equations (sum w = 1, sum w^3 = sum w^5 = 0 and one more) to all digits of float64.
"""

from __future__ import annotations

from .splitting import DRIFT, Splitting, SplittingMethod, of_leapfrogs

_W3, _W2, _W1, _W0 = 0.784513610477557263819, 0.235573213359358133685, -1.17767998417887100695, 1.31518632068391121889


class Yoshida6(SplittingMethod):
    """Yoshida's composition of seven leapfrog steps, order 6; fixed steps, for systems in two parts.

    Card: drift, kick, drift; order 6; 7 evaluations a step (and one at a start); symplectic and reversible; quintic interpolant
    of order 5, for 6 more evaluations where somebody looks. For an acceleration a(t, x) all times lie inside the step; the slope
    of q must not depend on the time.

    Source: H. Yoshida, Construction of higher order symplectic integrators (1990), table 1, solution A,
    doi:10.1016/0375-9601(90)90092-3.
    """

    splitting = Splitting(order=6, first=DRIFT, weights=of_leapfrogs(_W3, _W2, _W1, _W0, _W1, _W2, _W3))
