"""Times a solve must land on: the end, stop times, jump times, a fixed grid."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from ..span import OneSpan, Span

_STRETCH = 1 + 1e-8  # a step that ends this close before a limit goes all the way: no crumbs


class Limits:
    """Cuts proposed steps where the solve has to land.

    Args:
        end: end of the solve (may be inf where only an event ends it).
        stops: times to land on.
        jumps: times where ``f`` jumps: land there, ask ``f`` just before and just after, never across.
        dtype: real dtype in which ``f`` sees the time.
        open_ends, open_starts: never ask ``f`` at the very end, or start, of any step (as if ``f`` jumped there).
        grid: points of a fixed grid. One that differs by rounding alone from a time above gives way to it.
        start: start of the solve; ``f`` is not asked before it, whatever the rounding of times to ``dtype``.
    """

    def __init__(
        self,
        end: float,
        stops: Iterable[float] = (),
        jumps: Iterable[float] = (),
        dtype: torch.dtype = torch.float64,
        open_ends: bool = False,
        open_starts: bool = False,
        grid: Iterable[float] = (),
        start: float = -math.inf,
    ):
        self.end = end
        self.jumps = frozenset(t for t in jumps if t <= end)
        landings = sorted({t for t in (*stops, *self.jumps) if t < end} | {end})
        self.landings = landings
        points = sorted(t for t in grid if t < end)
        self.stops = sorted(set(points) - set(_beside(points, landings)) | set(landings))
        self.dtype = dtype
        self.open_ends = open_ends
        self.open_starts = open_starts
        self.start = start

    def cut(self, t: float, dt: float) -> Span:
        """The span of a step of size ``dt`` from ``t``, or of the shorter one to the next limit."""
        stop = self.stops[bisect_right(self.stops, t)]
        return self.span(t, stop if t + dt * _STRETCH >= stop else t + dt)

    def span(self, t: float, t1: float) -> Span:
        """The span of a step from ``t`` to ``t1``."""
        bound = self.landings[bisect_right(self.landings, t)]
        return OneSpan(t, t1, self._last(t1), self._first(t), t1 - t, bound)

    def up_to(self, end: float) -> Limits:
        """The same limits with an earlier end."""
        return Limits(
            end, self.landings, self.jumps, self.dtype, self.open_ends, self.open_starts, self.stops, self.start
        )

    def anything_left(self, t: float) -> bool:
        return t < self.end

    def is_jump(self, t: float) -> bool:
        return t in self.jumps

    def _last(self, t1: float) -> float | None:
        if self.open_ends or t1 in self.jumps:
            return before(t1, self.dtype)
        return not_past(t1, self.dtype) if t1 == self.end else None

    def _first(self, t: float) -> float | None:
        if self.open_starts or t in self.jumps:
            return after(t, self.dtype)
        return not_before(t, self.dtype) if t == self.start else None


def _beside(points: Sequence[float], landings: Iterable[float]) -> Iterator[float]:
    """Those of the sorted points that are within rounding of one of the landings."""
    for x in filter(math.isfinite, landings):
        near = 8 * math.ulp(x)
        yield from points[bisect_left(points, x - near) : bisect_right(points, x + near)]


def not_past(t: float, dtype: torch.dtype) -> float | None:
    """The latest time of this dtype that is not past ``t``; None if ``t`` itself is one."""
    if dtype == torch.float64 or not math.isfinite(t):
        return None
    return before(t, dtype) if rounded(t, dtype) > t else None


def not_before(t: float, dtype: torch.dtype) -> float | None:
    """The earliest time of this dtype that is not before ``t``; None if ``t`` itself is one."""
    last = not_past(-t, dtype)
    return None if last is None else -last


def before(t: float, dtype: torch.dtype) -> float:
    """The latest time of this dtype before ``t``."""
    return neighbour(rounded(t, dtype), -math.inf, dtype)


def after(t: float, dtype: torch.dtype) -> float:
    """The earliest time of this dtype after ``t``."""
    return neighbour(rounded(t, dtype), math.inf, dtype)


_NUMPY = {torch.float64: np.float64, torch.float32: np.float32, torch.float16: np.float16}


def rounded(t: float, dtype: torch.dtype) -> float:
    return float(_NUMPY[dtype](t)) if dtype in _NUMPY else torch.tensor(t, dtype=dtype).item()


def neighbour(t: float, direction: float, dtype: torch.dtype) -> float:
    """The next number of this dtype after ``t`` in the direction given."""
    if dtype in _NUMPY:
        return float(np.nextafter(_NUMPY[dtype](t), _NUMPY[dtype](direction)))
    info = torch.finfo(dtype)  # bfloat16
    return rounded(t + math.copysign(info.eps * max(abs(t), info.tiny), direction), dtype)
