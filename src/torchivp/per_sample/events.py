"""Events row by row: where a function of every row's solution crosses zero."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .._types import Rows
from ..errors import InputError
from ..events import TINY, Event, moved, refuse
from ..trajectory import Piece
from ..transforms import constant, derivatives, recorded
from .dense import RowPolynomials
from .loop import RowsState
from .problem import RowsProblem
from .roots import locate
from .trajectory import KnownEvents, RowEvents, RowTrajectory


def value(event: Event, problem: RowsProblem, t: Tensor, y: Rows) -> Tensor:
    """g of all rows ``[B]`` at times ``t [B]`` (inside the library); differentiable."""
    batch = problem.layout.batch
    g = event.function(problem.field.time(t), problem.layout.unravel(y), *problem.field.args)
    if not isinstance(g, Tensor) or g.shape != batch or g.is_complex() or g.dtype == torch.bool:
        got = f"tensor of shape {tuple(g.shape)} and dtype {g.dtype}" if isinstance(g, Tensor) else type(g).__name__
        raise InputError(
            f"An event function returned a {got}, but with batch_dims={len(batch)} it gets all rows of the batch at once and "
            f"each needs one real number of its own that goes through zero: a tensor of the shape of the batch, "
            f"{tuple(batch)}. Write for example `y[..., 0]`, or reduce what belongs to a row (`y.amin(-1)`); give one Event "
            f"for each of several numbers; of a comparison `a > b` give the difference `a - b`."
        )
    return g.reshape(-1)


class Crossings(NamedTuple):
    """Where the sign of an event function changes between sample points of a step.

    Attributes:
        there: intervals and rows that count, ``[n, B]``.
        t: the ends of the intervals, ``[n + 1, B]``.
        left, right: values there, ``[n, B]`` each.
    """

    there: Tensor
    t: Tensor
    left: Tensor
    right: Tensor

    def brackets(self) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]]:
        """The first interval of each row that has one, then the second ones, ...: rows ``[n]`` with times and values."""
        nth = self.there.cumsum(0)
        for n in range(1, int(nth.max()) + 1):
            here = self.there & (nth == n)
            rows = here.any(0).nonzero().squeeze(1)
            i = here.int().argmax(0)[rows]
            yield rows, (self.t[i, rows], self.t[i + 1, rows], self.left[i, rows], self.right[i, rows])


class RowDetector:
    """Looks for events step by step, in all rows at once.

    Args:
        events: what to look for; their functions get all rows, ``g(t: [B], y: [B, ...]) -> [B]``.
        problem: gives the user's view of times and states.
        state: at the start; an event that is zero there is not found there.

    Attributes:
        stopped: where each row met a terminal event, ``[B]``; inf where it did not.
        before: the values of every event function at the last accepted step of each row, ``[B]``.
    """

    def __init__(self, events: tuple[Event, ...], problem: RowsProblem, state: RowsState):
        self.events = events
        self.problem = problem
        self.stopped = torch.full_like(problem.t0, torch.inf)
        self.before = [self._value(event, state.t, state.y) for event in events]

    @torch.no_grad()
    def _value(self, event: Event, t: Tensor, y: Rows) -> Tensor:
        return value(event, self.problem, t, y).to(t.dtype)

    @torch.no_grad()
    def find(self, piece: Piece, index: int, state: RowsState) -> list[RowEvents]:
        """The events in an attempted step, of the rows that take it, up to the first terminal one of each.

        Of those at the very time of a terminal event none is lost. Rows that meet a terminal one are done.

        Args:
            piece: the step.
            index: the number it will have in the trajectory.
            state: behind the step.
        """
        took = piece.span.moved
        steps = RowPolynomials(piece, took)
        t1 = torch.where(took, piece.span.t1.detach(), steps.t)
        seen: dict[int, tuple[Tensor, list[Tensor]]] = {}
        for n in {event.samples for event in self.events}:
            t = torch.stack([*(steps.t + (t1 - steps.t) * i / n for i in range(n)), t1])
            seen[n] = t, [*steps(t[1:-1]).flatten(1).unsqueeze(1), state.y.detach()]
        crossings = [self._crossings(n, took, *seen[event.samples]) for n, event in enumerate(self.events)]
        if not bool(torch.stack([c.there.any() for c in crossings]).any()):
            return []
        found = [
            RowEvents(number, index, rows, constant(locate(partial(self._along, event, steps, rows), *bracket)))
            for number, event in enumerate(self.events)
            for rows, bracket in crossings[number].brackets()
        ]
        return self._up_to_terminal(found, state)

    def _crossings(self, number: int, took: Tensor, t: Tensor, states: list[Tensor]) -> Crossings:
        event, left = self.events[number], self.before[number]
        there, lefts, rights = [], [], []
        for s, y in zip(t[1:], states):
            right = self._value(event, s, y)
            rising, falling = (left < 0) & (right >= 0), (left > 0) & (right <= 0)
            there.append(took & {0: rising | falling, 1: rising, -1: falling}[event.direction])
            lefts.append(left)
            rights.append(right)
            at_zero = right == 0  # counted here: go on from the far side
            left = torch.where(at_zero & rising, TINY, torch.where(at_zero & falling, -TINY, right))
        self.before[number] = torch.where(took, left, self.before[number])
        return Crossings(torch.stack(there), t, torch.stack(lefts), torch.stack(rights))

    def _along(self, event: Event, steps: RowPolynomials, rows: Tensor, t: Tensor) -> Tensor:
        """g of ``rows [n]`` at times ``t [n]`` in a step."""
        times = steps.t.index_put((rows,), t)
        return self._value(event, times, steps(times).view(1, -1))[rows]

    def _up_to_terminal(self, found: list[RowEvents], state: RowsState) -> list[RowEvents]:
        ended_by = torch.full_like(state.code, -1)
        for e in found:
            if self.events[e.event].terminal:
                first = e.t < self.stopped[e.rows]
                self.stopped[e.rows[first]] = e.t[first]
                ended_by[e.rows[first]] = e.event
        if not any(self.events[e.event].terminal for e in found):
            return found
        state.stop(ended_by >= 0)
        kept = []
        for e in found:
            counts = e.t <= self.stopped[e.rows]
            if self.events[e.event].terminal:
                counts &= ended_by[e.rows] == e.event
            kept.append(e._replace(rows=e.rows[counts], t=e.t[counts]))
        return [e for e in kept if len(e.rows)]


class RowsFound(NamedTuple):
    """All events of one function: ``rows [M]`` with their times ``t [M]`` and states ``y [M, D]``, in the order of time."""

    rows: Tensor
    t: Tensor
    y: Tensor

    def by_row(self, rows: int) -> list[tuple[Tensor, Tensor]]:
        """Times and states of each row."""
        order = self.rows.argsort(stable=True)
        lengths = torch.bincount(self.rows, minlength=rows).tolist()
        return list(zip(self.t[order].split(lengths), self.y[order].split(lengths)))


def read(trajectory: RowTrajectory, events: tuple[Event, ...], problem: RowsProblem) -> list[RowsFound]:
    """The events of each function, differentiable."""
    end = trajectory.end.view(problem.layout.rows, -1)
    nothing = RowsFound(trajectory.counts[:0], trajectory.end_time[:0], end[:0])
    found = [[nothing] for _ in events]
    for e in trajectory.events:
        known = e if isinstance(e, KnownEvents) else known_events(e, trajectory.pieces[e.piece], events, problem)
        found[e.event].append(RowsFound(known.rows, known.t, known.y))
    return [RowsFound(*(torch.cat(x) for x in zip(*parts))) for parts in found]


def ends(
    trajectory: RowTrajectory, events: tuple[Event, ...], found: list[RowsFound], problem: RowsProblem
) -> tuple[Tensor, Tensor]:
    """Where the rows ended: times ``[B]`` and states ``[B, D]``, of some at the terminal event they met."""
    t, y = problem.clock(trajectory.end_time), trajectory.end.view(problem.layout.rows, -1)
    for e in (e for e, event in zip(found, events) if event.terminal):
        t, y = t.index_put((e.rows,), e.t), y.index_put((e.rows,), e.y)
    return t, y


def known_events(found: RowEvents, piece: Piece, events: tuple[Event, ...], problem: RowsProblem) -> KnownEvents:
    """Events with the states there, and the gradients of both.

    Two Newton steps as for a single solve (see ``events.read``), of all rows at once: a row's time moves its own g alone.
    """
    event, rows, t = events[found.event], found.rows, found.t
    here = torch.zeros(problem.layout.rows, dtype=torch.bool, device=t.device).index_fill(0, rows, True)
    steps = RowPolynomials(piece, here)

    def states(s: Tensor) -> Tensor:
        y = steps(steps.t.index_put((rows,), s))
        return torch.where(here.unsqueeze(1), y, y.detach())  # what g makes of the other rows is nobody's business

    def along(s: Tensor) -> Tensor:
        return value(event, problem, steps.t.index_put((rows,), s), states(s).view(1, -1))[rows]

    if not event.at_rest and (recorded() or (torch.is_grad_enabled() and along(t).requires_grad)):
        with torch.no_grad():
            rate = derivatives(lambda s: along(s).sum(), t)[0].detach()
        touches = rate == 0
        t = moved(t, along(t) / torch.where(touches, 1, rate))
        t = moved(t, along(t) / torch.where(touches, 1, derivatives(lambda s: along(s).sum(), t)[0]))
        if bool(touches.any()):
            t = refused(t, touches)
    return KnownEvents(found.event, rows, t, states(t)[rows])


def refused(t: Tensor, touches: Tensor) -> Tensor:
    """Times of which some touch zero without crossing it: they depend on g, but nobody knows how."""

    def check(cotangent: Tensor) -> None:
        used = touches & (cotangent != 0)
        if bool(used.any()):
            refuse(float(t.detach()[used][0]), cotangent[used])

    if recorded():
        check(torch.ones_like(t))
    t.register_hook(check)
    return t
