"""Times that every row must land on: its end, stop times, jump times, a fixed grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..controllers.limits import _STRETCH, after, before
from ..span import RowSpan, spread
from ..state import Layout


class RowLimits:
    """Cuts the steps proposed by the rows where these have to land.

    Args:
        start, end: of every row, float64 ``[B]``.
        layout: of the states.
        stops: times to land on, increasing in each row and padded with inf, ``[B, K]``; ends and jumps may be missing.
        jumps: times where ``f`` jumps, the same.
        grid: points of a fixed grid, the same.

    Attributes:
        tiny: steps that are longer do move the time, wherever a row stands, ``[B]``.
    """

    def __init__(
        self,
        start: Tensor,
        end: Tensor,
        layout: Layout,
        stops: Tensor | None = None,
        jumps: Tensor | None = None,
        grid: Tensor | None = None,
    ):
        self.start, self.end, self.layout = start, end, layout
        self.tiny = 8 * torch.finfo(end.dtype).eps * torch.maximum(start.abs(), end.abs()) + torch.finfo(end.dtype).tiny
        self.like = torch.zeros((), dtype=layout.dtype, device=layout.device).expand(1, layout.size)
        self.jumps = jumps
        self.bounds = self._inside(stops, jumps)
        self.stops = self.bounds if grid is None else self._inside(stops, jumps, grid)
        self.last_at_end, self.first_at_start = not_past(end, layout.real_dtype), None
        first = not_past(-start, layout.real_dtype)
        if first is not None:
            self.first_at_start = -first

    def cut(self, t: Tensor, dt: Tensor | float, frozen: Tensor | None = None) -> RowSpan:
        """The spans of steps of size ``dt [B]`` from ``t [B]``, or of the shorter ones to the next limit."""
        stop = self._next(t, self.stops)
        reach = torch.add(t, dt, alpha=_STRETCH) if isinstance(dt, Tensor) else t + dt * _STRETCH
        return self.span(t, torch.where(reach >= stop, stop, t + dt), frozen, stop)

    def span(self, t: Tensor, t1: Tensor, frozen: Tensor | None = None, stop: Tensor | None = None) -> RowSpan:
        """The spans of steps from ``t`` to ``t1 [B]``.

        Args:
            stop: the next limits, where they are known.
        """
        dt = t1 - t
        bound = stop if stop is not None and self.bounds is self.stops else self._next(t, self.bounds)
        return RowSpan(t, t1, dt, spread(dt, self.like), self._last(t1), self._first(t), frozen, bound=bound)

    def anything_left(self, t: Tensor) -> bool:
        return bool((t < self.end).any())

    def at_jump(self, t: Tensor) -> bool:
        """Whether any row stands at a time where ``f`` jumps."""
        return self.jumps is not None and bool((self.jumps == t.unsqueeze(1)).any())

    def _inside(self, *times: Tensor | None) -> Tensor | None:
        """These times and the ends, increasing in each row; None if there are no others."""
        given = [x for x in times if x is not None]
        if not given:
            return None
        start, end = self.start.unsqueeze(1), self.end.unsqueeze(1)
        wanted = torch.cat([end, *given], dim=1)
        return torch.where((wanted > end) | (wanted <= start), torch.inf, wanted).sort(dim=1).values.contiguous()

    def _next(self, t: Tensor, stops: Tensor | None) -> Tensor:
        if stops is None:
            return self.end
        column = torch.searchsorted(stops, t.unsqueeze(1).contiguous(), right=True).clamp(max=stops.shape[1] - 1)
        return torch.minimum(stops.gather(1, column).squeeze(1), self.end)

    def _last(self, t1: Tensor) -> Tensor | None:
        last = None if self.last_at_end is None else torch.where(t1 == self.end, self.last_at_end, torch.inf)
        return self._beside_jump(t1, last, before)

    def _first(self, t: Tensor) -> Tensor | None:
        first = None if self.first_at_start is None else torch.where(t == self.start, self.first_at_start, -torch.inf)
        return self._beside_jump(t, first, after)

    def _beside_jump(
        self, t: Tensor, limit: Tensor | None, beside: Callable[[float, torch.dtype], float]
    ) -> Tensor | None:
        """``limit [B]``, and for rows that stand at a jump the time just beside it."""
        if self.jumps is None:
            return limit
        jumps = (self.jumps == t.unsqueeze(1)).any(1)
        if limit is None:
            limit = torch.full_like(t, torch.inf if beside is before else -torch.inf)
        times = [beside(x, self.layout.real_dtype) for x in t[jumps].tolist()]
        return limit.masked_scatter(jumps, t.new_tensor(times))


def not_past(t: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The latest times of this dtype that are not past ``t [B]``; None if these times themselves are."""
    rounded = t.to(dtype).to(t.dtype)
    past = rounded > t
    if not bool(past.any()):
        return None
    times = [before(x, dtype) for x in t[past].tolist()]
    return rounded.masked_scatter(past, t.new_tensor(times))


def padded(times: Sequence[Sequence[float]], like: Tensor) -> Tensor | None:
    """Times of every row as a tensor ``[B, K]``, padded with inf; None if there are none at all."""
    width = max(map(len, times), default=0)
    if width == 0:
        return None
    return like.new_tensor([[*row, *[float("inf")] * (width - len(row))] for row in times])
