"""Nystroem's classical method of order 4 for second-order equations.

Order 4, 3 evaluations a step, not FSAL, no error estimate, Hermite interpolant (order 3).
Source: Nystroem 1925; Hairer, Norsett, Wanner, Solving ODEs I, table II.14.2, doi:10.1007/978-3-540-78862-1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..._types import Rows
from ...field import Field
from ...partitioned import SECOND_ORDER
from ...span import Span
from ..base import History, Method, Step
from .hermite import interpolants


class RKN4(Method):
    """Nystroem's method of order 4 for x'' = a(t, x); fixed steps, for ``SecondOrder`` without velocities.

    Card: order 4; 3 evaluations a step (rk4 needs 4); Hermite interpolant of order 3, whose slope at the end is the first of the
    next step. Not symplectic: accurate over a few periods, where a symplectic method is faithful over many. With
    k1 = a(t, x), k2 = a(t + dt / 2, x + dt / 2 v + dt^2 / 8 k1), k3 = a(t + dt, x + dt v + dt^2 / 2 k2) a step is

        x1 = x + dt v + dt^2 / 6 (k1 + 2 k2),    v1 = v + dt / 6 (k1 + 4 k2 + k3).

    Source: E. J. Nystroem (1925); E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, table II.14.2,
    doi:10.1007/978-3-540-78862-1.
    """

    order = 4
    needs = SECOND_ORDER

    def step(self, field: Field, span: Span, y: Rows, history: History) -> Step:
        slope, second = history[0][1], field.layout.in_second
        drift, k1 = torch.where(second, 0, slope), torch.where(second, slope, 0)
        middle, end = field.times(span, interpolants(y.dtype, y.device).halfway)

        def towards(t: Tensor, k: Rows) -> Rows:
            """The drift after a kick ``k`` of size dt: x' = v, so that accelerations are slopes of it."""
            return span.advance(drift, field.drift(t, k))

        k2 = field.kick(middle, span.advance(y, towards(middle, k1 / 4) / 2))
        k3 = field.kick(end, span.advance(y, towards(end, k2 / 2)))
        mean = towards(end, (k1 + 2 * k2) / 6) + (k1 + 4 * k2 + k3) / 6
        return Step(span.advance(y, mean), torch.cat((slope, mean)), self.interpolant(y.dtype, y.device), None, ())

    def interpolant(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The weights of its interpolant, ``[P, S]``."""
        return interpolants(dtype, device).cubic

    def dense(self, field: Field, span: Span, y: Rows, step: Step) -> Step:
        """The slope at the end, which the next step need not ask for again."""
        (end,) = field.times(span, interpolants(y.dtype, y.device).end)
        slope = field(end, step.y1)
        return step._replace(k=torch.cat((step.k, slope)), history=((span.t1, slope),), ready=True)
