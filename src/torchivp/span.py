"""The interval of one step: of a single row, or of many rows that each have their own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ._types import Rows, Slopes, Time

if TYPE_CHECKING:
    from .methods.base import History, Step

_SLACK = 1e-6  # of a step: times are rounded to the dtype of the state


class OneSpan(NamedTuple):
    """The interval of one step of a single row.

    Attributes:
        t: start.
        t1: end; floats, or 0-d float64 tensors where times carry gradients.
        last: the latest time at which ``f`` may be asked in this step (before a jump, or the last representable
            time of the state's dtype that is not past the end); None where ``t1`` itself is fine.
        first: the earliest such time (just after a jump); None where ``t`` itself is fine.
        size: ``t1 - t`` as a float, also where the times are tensors.
        bound: the next time that the solve has to land on: no node of a step may lie behind it.
    """

    t: Time
    t1: Time
    last: float | None = None
    first: float | None = None
    size: float = math.nan
    bound: float = math.inf

    @property
    def dt(self) -> Time:
        return self.t1 - self.t

    @property
    def begins(self) -> float:
        """``t`` without gradient."""
        return _number(self.t)

    @property
    def length(self) -> float:
        """``dt`` without gradient."""
        return self.size

    def advance(self, y: Rows, slope: Slopes) -> Slopes:
        """``y + dt * slope``. Times that carry gradients give the same numbers, to the last bit."""
        y1 = torch.add(y, slope, alpha=self.size)
        if isinstance(self.dt, Tensor):
            y1 = y1 + (self.dt - self.dt.detach()).to(y.real.dtype) * slope
        return y1

    def increment(self, y: Rows, weights: Tensor, k: Tensor) -> Rows:
        """``dt * weights @ k``, without gradient (``y`` only lends its shape)."""
        return torch.addmm(y.detach(), weights, k.detach(), beta=0, alpha=self.size)

    def moved_by(self, slope: Rows) -> Rows:
        """``dt * slope``, without gradient by times."""
        return slope * self.size

    def rate(self, change: Rows) -> Rows:
        """``change / dt``."""
        return change / self.dt

    def everywhere(self, x: Any) -> Any:
        """``x`` for each row: here itself."""
        return x

    def reaches(self, node: float) -> Any:
        """Whether ``t + node * dt`` lies inside of what the solve covers (of each row)."""
        return self.size * (node + _SLACK) <= self.bound - _number(self.t)

    def sizes(self, y: Rows) -> Any:
        """``dt`` as a factor of states ``[B, D]`` in the dtype of ``y``: here one number."""
        return self.dt.to(y.real.dtype) if isinstance(self.dt, Tensor) else self.dt

    def scale(self, slope: Rows) -> Rows:
        """``dt * slope``."""
        return self.sizes(slope) * slope

    def each(self, y: Rows) -> Tensor:
        """The states in a row of numbers, ``[B, D]``: here one."""
        return y

    def again(self) -> OneSpan:
        """The span with which an accepted step is taken again."""
        return self

    def settle(self, step: Step, y0: Rows, history: History) -> Step:
        """The step as the loop goes on from it."""
        return step

    def settle_back(self, y: Rows, history: History, y1: Rows, history1: History) -> tuple[Rows, History]:
        """The start of a step, from where ``Method.reverse`` says that it began and from its end."""
        return y, history

    def times(self, from_end: Tensor) -> Tensor:
        """``t1 + (c - 1) * dt`` for ``c - 1 [s]``, never outside of what ``first`` and ``last`` allow."""
        times = from_end * self.dt + self.t1
        if self.last is not None or self.first is not None:
            limited = times.detach().clamp(min=self.first, max=self.last)
            times = times + (limited - times.detach()) if isinstance(self.dt, Tensor) else limited
        return times

    def start(self) -> Time:
        """When to ask ``f`` for the slope at the start (just after it, where ``f`` jumps)."""
        if self.first is None:
            return self.t
        return self.t + (self.first - self.t.detach()) if isinstance(self.t, Tensor) else self.first

    def ahead(self, fraction: float, least: float) -> float:
        """A time inside the span, behind its start by this fraction of it, but at least by ``least`` of the start's size."""
        t, last = _number(self.start()), _number(self.t1) if self.last is None else self.last
        return max(t, min(t + max(fraction * self.size, least * abs(t)), last))

    def closed(self) -> OneSpan:
        """The span that says where it ends: times counted from its end may be rounded to before its start."""
        first = _number(self.t) if self.first is None else self.first
        last = _number(self.t1) if self.last is None else self.last
        return self._replace(first=first, last=last)


class RowSpan(NamedTuple):
    """The intervals of one attempted step of B rows, each of its own size (0 for rows that are done).

    Attributes:
        t, t1: starts and ends, float64 ``[B]``; ``dt``: their differences.
        size: ``dt`` for every number of the state, ``[1, B * D]`` in its dtype, without gradient.
        last, first: the latest and earliest times at which ``f`` may be asked, ``[B]`` (or None: anywhere).
        frozen: numbers of rows that are done: they stay what they are, whatever ``f`` says; None: no row is.
        taken: rows that go on from the end of the step ``[B]``; None: all that are not done, or not known yet.
        moves: the same for every number of the state, ``[1, B * D]``.
        timed: the times carry gradients.
        bound: the next times that the rows have to land on, ``[B]``; None: anywhere.
    """

    t: Tensor
    t1: Tensor
    dt: Tensor
    size: Tensor
    last: Tensor | None = None
    first: Tensor | None = None
    frozen: Tensor | None = None
    taken: Tensor | None = None
    moves: Tensor | None = None
    timed: bool = False
    bound: Tensor | None = None

    @property
    def begins(self) -> Tensor:
        return self.t.detach()

    @property
    def length(self) -> Tensor:
        return self.dt.detach()

    def with_times(self, t: Tensor, t1: Tensor) -> RowSpan:
        """The same span with times that carry gradients."""
        return self._replace(t=t, t1=t1, dt=t1 - t, timed=True)

    @property
    def moved(self) -> Tensor:
        """The rows that get anywhere with the step, ``[B]``."""
        moved = self.t1.detach() > self.t.detach()
        return moved if self.taken is None else moved & self.taken

    def taken_by(self, rows: Tensor) -> RowSpan:
        """The same step, taken by these rows ``[B]`` only."""
        return self._replace(taken=rows, moves=spread(rows, self.size))

    def advance(self, y: Rows, slope: Slopes) -> Slopes:
        y1 = torch.addcmul(y, slope, self.size)
        if self.timed:
            y1 = y1 + spread(self.dt - self.dt.detach(), y) * slope
        return y1 if self.frozen is None else torch.where(self.frozen, y, y1)

    def increment(self, y: Rows, weights: Tensor, k: Tensor) -> Rows:
        return torch.mm(weights, k.detach()) * self.size

    def moved_by(self, slope: Rows) -> Rows:
        return slope * self.size

    def rate(self, change: Rows) -> Rows:
        still = self.size == 0
        rate = change / torch.where(still, 1, spread(self.dt, change) if self.timed else self.size)
        return torch.where(still, 0, rate)

    def everywhere(self, x: Any) -> Tensor:
        """``[B]``."""
        return torch.full(self.t.shape, x, device=self.t.device)

    def reaches(self, node: float) -> Tensor:
        inside = torch.ones_like(self.t, dtype=torch.bool)
        return inside if self.bound is None else self.dt.detach() * (node + _SLACK) <= self.bound - self.t.detach()

    def sizes(self, y: Rows) -> Tensor:
        """``[B, 1]``."""
        return self.dt.to(y.real.dtype).unsqueeze(1)

    def scale(self, slope: Rows) -> Rows:
        return slope * (spread(self.dt, slope) if self.timed else self.size)

    def choose(self, after: Rows, before: Rows) -> Rows:
        """What holds after the step in rows that take it, what held before in the others."""
        return after if self.moves is None else torch.where(self.moves, after, before)

    def each(self, y: Rows) -> Tensor:
        return y.view(len(self.t), -1)

    def again(self) -> RowSpan:
        """The span with which a step is taken again: rows that did not take it stay where they are. What they were rejected for
        may have overflowed, and 0 times inf has no gradient."""
        if self.taken is None or self.moves is None:
            return self
        stay = ~self.moves
        return self._replace(
            t1=torch.where(self.taken, self.t1, self.t),
            dt=torch.where(self.taken, self.dt, 0),
            size=torch.where(self.moves, self.size, 0),
            frozen=stay if self.frozen is None else self.frozen | stay,
        )

    def settle(self, step: Step, y0: Rows, history: History) -> Step:
        """The step as the rows go on from it: those that do not take it keep their state and their history."""
        return step._replace(y1=self.choose(step.y1, y0), history=self.settle_history(step, y0, history))

    def settle_history(self, step: Step, y0: Rows, history: History) -> History:
        """One that has become longer (a reversible method's second state) held ``y0`` before."""
        if self.moves is None:
            return step.history
        before = [x for _, x in history] + [y0] * len(step.history)
        return tuple((t, self.choose(x, old)) for (t, x), old in zip(step.history, before))

    def settle_back(self, y: Rows, history: History, y1: Rows, history1: History) -> tuple[Rows, History]:
        """The starts of the rows: those that did not take the step are where they were."""
        return self.choose(y, y1), tuple((t, self.choose(x, x1)) for (t, x), (_, x1) in zip(history, history1))

    def times(self, from_end: Tensor) -> Tensor:
        times = torch.addcmul(self.t1, from_end.unsqueeze(1), self.dt)
        if self.last is None and self.first is None:
            return times
        limited = times.detach().clamp(min=self.first, max=self.last)
        return times + (limited - times.detach()) if self.timed else limited

    def start(self) -> Tensor:
        if self.first is None:
            return self.t
        limited = torch.maximum(self.t.detach(), self.first)
        return self.t + (limited - self.t.detach()) if self.timed else limited

    def ahead(self, fraction: float, least: float) -> Tensor:
        t, t1 = self.start().detach(), self.t1.detach()
        size = torch.maximum(fraction * (t1 - t), least * t.abs())
        return torch.maximum(t, torch.minimum(t + size, t1 if self.last is None else torch.minimum(t1, self.last)))

    def closed(self) -> RowSpan:
        t, t1 = self.t.detach(), self.t1.detach()
        first = t if self.first is None else torch.maximum(t, self.first)
        return self._replace(first=first, last=t1 if self.last is None else torch.minimum(t1, self.last))


if TYPE_CHECKING:
    Span = Any  # which of the two is decided once per solve, not by type
else:
    Span = OneSpan | RowSpan


def spread(x: Tensor, y: Rows) -> Tensor:
    """A number for each row ``[B]`` as one for each number of the state ``[1, B * D]``; booleans stay booleans."""
    if x.dtype not in (y.dtype, torch.bool):
        x = x.to(y.dtype)
    return (
        x.unsqueeze(1).expand(-1, y.shape[1] // len(x)).reshape(1, -1)
    )  # repeat_interleave wakes all threads for nothing


def _number(t: Time) -> float:
    return float(t.detach()) if isinstance(t, Tensor) else t
