"""The leapfrog method of Stoermer and Verlet.

Kick, drift, kick (velocity Verlet). Order 2, 1 evaluation a step (the kick at the end is that of the next step), symplectic,
reversible, no error estimate, Hermite interpolant (order 2). Asks inside the step only.
Source: Hairer, Lubich, Wanner, Geometric numerical integration illustrated by the Stoermer-Verlet method (2003),
Acta Numerica 12:399, doi:10.1017/S0962492902000144.
"""

from __future__ import annotations

from .splitting import KICK, Splitting, SplittingMethod


class Leapfrog(SplittingMethod):
    """The leapfrog (Stoermer-Verlet) method, order 2; fixed steps, for systems in two parts.

    Card: kick, drift, kick: ``p += dt / 2 g``, ``q += dt f``, ``p += dt / 2 g``; order 2; one evaluation a step (and one at a
    start); symplectic and reversible; Hermite interpolant of order 2.

    Source: E. Hairer, C. Lubich, G. Wanner, Acta Numerica 12 (2003), doi:10.1017/S0962492902000144.
    """

    splitting = Splitting(order=2, first=KICK, weights=(0.5, 1.0, 0.5))
