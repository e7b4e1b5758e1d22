"""The size of the first step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._types import Rows
from ..field import Field, time_dtype
from ..span import OneSpan, RowSpan, Span, spread
from ..tolerance import Tolerance
from ..transforms import as_float


@torch.no_grad()
def initial_steps(
    field: Field, span: RowSpan, room: Tensor, y: Rows, slope: Rows, order: int, tolerance: Tolerance
) -> Tensor:
    """The same for the rows of a batch, ``[B]``, each from its own numbers; one evaluation of ``f`` for all."""
    if y.numel() == 0:
        return room
    y, slope = y.detach(), slope.detach()
    scale = tolerance.scale(y)

    def size(x: Rows) -> Tensor:
        return tolerance.norm(x / scale).to(torch.float64)

    d0, d1 = size(y), size(slope)
    usable = (d0 >= 1e-5) & (d1 >= 1e-5) & torch.isfinite(d0) & torch.isfinite(d1)
    h0 = torch.minimum(torch.where(usable, 0.01 * d0 / d1, 1e-6), room)
    last = span.t1 if span.last is None else torch.minimum(span.last, span.t1)
    inside = RowSpan(span.t, span.t + h0, h0, spread(h0, y), last, span.first, span.frozen)
    (probe_time,) = field.times(inside, torch.zeros(1, dtype=time_dtype(y.device), device=y.device))
    d2 = size(field(probe_time, inside.advance(y, slope)).detach() - slope) / h0  # forward mode reaches into no_grad
    steepest = torch.maximum(d1, d2)
    usable = (steepest > 1e-15) & torch.isfinite(steepest)
    h1 = torch.where(usable, (0.01 / steepest) ** (1 / (order + 1)), (h0 * 1e-3).clamp(min=1e-6))
    return torch.minimum(torch.minimum(100 * h0, h1), room)


@torch.no_grad()
def initial_step(
    field: Field, span: Span, room: float, y: Rows, slope: Rows, order: int, tolerance: Tolerance
) -> float:
    """Hairer's first step, from the sizes of y, its slope and its curvature. Costs one evaluation of ``f``.

    Args:
        field: the vector field.
        span: from the start of the solve to the first time it lands on.
        room: the largest step allowed; the probe stays inside it.
        y: state at the start.
        slope: ``f`` there.
        order: order of the error estimate (one less than the method's error order).
        tolerance: what is small.

    Source: E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, section II.4,
    doi:10.1007/978-3-540-78862-1.
    """
    if y.numel() == 0:
        return room
    y, slope = y.detach(), slope.detach()
    scale = tolerance.scale(y)
    d0, d1 = as_float(tolerance.norm(y / scale)), as_float(tolerance.norm(slope / scale))
    h0 = 0.01 * d0 / d1 if 1e-5 <= d0 < math.inf and 1e-5 <= d1 < math.inf else 1e-6
    h0 = min(h0, room)
    last = span.t1 if span.last is None else span.last  # h0 rounded to the state's dtype may lie behind the end
    inside = OneSpan(span.t, span.t + h0, last, span.first)
    (probe_time,) = field.times(inside, torch.zeros(1, dtype=time_dtype(y.device), device=y.device))
    probe = field(probe_time, y + h0 * slope)
    d2 = as_float(tolerance.norm((probe - slope) / scale)) / h0
    steepest = max(d1, d2)
    if not 1e-15 < steepest < math.inf:
        h1 = max(1e-6, h0 * 1e-3)
    else:
        h1 = (0.01 / steepest) ** (1 / (order + 1))
    return min(100 * h0, h1, room)
