"""Yoshida's method of order 4 (also Forest's and Ruth's): three leapfrog steps, the second one backwards.

Drift, kick, drift. Order 4, 3 evaluations a step, symplectic, reversible, no error estimate, Hermite interpolant (order 3, 2
evaluations where looked at). The kicks ask inside the step, at 0.676, 0.5 and 0.324; the drifts would ask outside.
Source: Yoshida 1990, Phys. Lett. A 150:262, doi:10.1016/0375-9601(90)90092-3; the weights are exact.
"""

from __future__ import annotations

from .splitting import DRIFT, Splitting, SplittingMethod, of_leapfrogs

_W = 1 / (2 - 2 ** (1 / 3))


class Yoshida4(SplittingMethod):
    """Yoshida's composition of three leapfrog steps, order 4; fixed steps, for systems in two parts.

    Card: drift, kick, drift; order 4; 3 evaluations a step (and one at a start); symplectic and reversible; Hermite interpolant
    of order 3, for 2 more evaluations where somebody looks. For an acceleration a(t, x) all times lie inside the step; the slope
    of q must not depend on the time. ``mclachlan4`` is more accurate at the same cost.

    Source: H. Yoshida, Construction of higher order symplectic integrators (1990), doi:10.1016/0375-9601(90)90092-3.
    """

    splitting = Splitting(order=4, first=DRIFT, weights=of_leapfrogs(_W, 1 - 2 * _W, _W))
