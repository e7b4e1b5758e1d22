"""Straight lines between the steps of a method."""

from __future__ import annotations

from .._types import Rows
from ..field import Field
from ..span import Span
from .base import History, Method, Step


class Chord(Method):
    """Another method with linear interpolation between its step points (what ``interp="linear"`` asks for)."""

    def __init__(self, method: Method):
        self.base = method
        self.order = method.order
        self.carries = method.carries
        self.uses_jacobian = method.uses_jacobian

    def needs_slope(self, history: History) -> bool:
        return self.base.needs_slope(history)

    def step(self, field: Field, span: Span, y: Rows, history: History) -> Step:
        return self.base.step(field, span, y, history)

    def dense(self, field: Field, span: Span, y: Rows, step: Step) -> Step:
        return step._replace(k=span.rate(step.y1 - y), weights=y.new_ones(1, 1))
