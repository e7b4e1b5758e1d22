"""The reversible Heun method."""

from __future__ import annotations

import torch

from .._types import Rows
from ..field import Field
from ..span import Span
from .base import History, Method, Step, second_state
from .explicit_rk import combine
from .two_slopes import trapezoid, trapezoid_back, two_slopes


class ReversibleHeun(Method):
    """Heun's method with a second state ``z`` beside ``y``, at which the slopes are taken; order 2(1).

    Card: order 2; one evaluation a step (and one at a start); adaptive, by the difference to Euler's method; quadratic
    interpolant of order 2. A step is

        z1 = 2 y0 - z0 + dt f(t0, z0),    y1 = y0 + dt / 2 (f(t0, z0) + f(t1, z1)),

    and ``reverse`` solves this for y0 and z0. It has no region of stability beside a piece of the imaginary axis: on decaying
    solutions z and y drift apart over long times, and the step sizes shrink. ``Reversible`` is better there.

    Source: P. Kidger, J. Foster, X. Li, T. Lyons, Efficient and Accurate Gradients for Neural SDEs (2021),
    doi:10.48550/arXiv.2105.13493.
    """

    order = 2
    error_order = 2
    reversible = True
    carries = "the slope at z, z: reversible_heun"

    def needs_slope(self, history: History) -> bool:
        return not history

    def step(self, field: Field, span: Span, y: Rows, history: History) -> Step:
        c = two_slopes(y.dtype, y.device)
        z, slope = second_state(y, history)
        z1 = combine(2 * y - z, c.one, slope, span)
        (end,) = field.times(span, c.end)
        slope1 = field(end, z1).clone()
        return trapezoid(y, torch.cat((slope, slope1)), span, ((span.t1, slope1), (span.t1, z1)))

    def reverse(self, field: Field, span: Span, y1: Rows, history1: History) -> tuple[Rows, History]:
        c = two_slopes(y1.dtype, y1.device)
        z1, slope1 = second_state(y1, history1)
        z = combine(2 * y1 - z1, -c.one, slope1, span)
        slope = field.start_slope(span, z)
        y = trapezoid_back(y1, torch.cat((slope, slope1)), span)
        return y, ((span.t, slope), (span.t, z))
