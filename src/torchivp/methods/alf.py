"""The asynchronous leapfrog method."""

from __future__ import annotations

import torch

from .._types import Rows
from ..field import Field
from ..span import Span
from .base import History, Method, Step
from .explicit_rk import combine
from .two_slopes import trapezoid, trapezoid_back, two_slopes


class ALF(Method):
    """The midpoint rule with a velocity ``v`` beside ``y``, reflected at the slope in the middle; order 2(1).

    Card: order 2; one evaluation a step (and one at a start); adaptive, by the difference to Euler's method; quadratic
    interpolant of order 2. A step is

        u = f(t0 + dt / 2, y0 + dt / 2 v0),    v1 = 2 u - v0,    y1 = y0 + dt / 2 (v0 + v1) = y0 + dt u,

    and ``reverse`` solves this for y0 and v0. The error estimate ``dt (u - v0)`` is the difference to Euler's step
    ``y0 + dt v0`` (the authors' code takes half of it). Undamped: damping costs an order. It has no region of stability beside a
    piece of the imaginary axis.

    Source: J. Zhuang, N. C. Dvornek, S. Tatikonda, J. S. Duncan, MALI (2021),
    doi:10.48550/arXiv.2102.04668; the method: U. Mutze (2013), doi:10.48550/arXiv.1311.6602.
    """

    order = 2
    error_order = 2
    reversible = True
    carries = "the velocity: alf"

    def needs_slope(self, history: History) -> bool:
        return not history

    def step(self, field: Field, span: Span, y: Rows, history: History) -> Step:
        velocity = history[0][1]  # at a start the slope
        c = two_slopes(y.dtype, y.device)
        velocity1 = _reflected(field, span, combine(y, c.half, velocity, span), velocity)
        return trapezoid(y, torch.cat((velocity, velocity1)), span, ((span.t1, velocity1),))

    def reverse(self, field: Field, span: Span, y1: Rows, history1: History) -> tuple[Rows, History]:
        velocity1 = history1[0][1]
        c = two_slopes(y1.dtype, y1.device)
        velocity = _reflected(field, span, combine(y1, -c.half, velocity1, span), velocity1)
        return trapezoid_back(y1, torch.cat((velocity, velocity1)), span), ((span.t, velocity),)


def _reflected(field: Field, span: Span, middle: Rows, velocity: Rows) -> Rows:
    """The velocity on the other side of the slope in the middle of the step."""
    (t,) = field.times(span, two_slopes(middle.dtype, middle.device).middle)
    return 2 * field(t, middle) - velocity
