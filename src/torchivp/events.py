"""Events: where a function of the solution crosses zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ._types import PyTree
from .errors import GradientError, InputError, InputTypeError
from .interpolation import StepPolynomials, fit
from .problem import Problem
from .trajectory import Found, Piece, Trajectory
from .transforms import as_float, batched, derivatives, recorded

TINY = 1e-300


@dataclass(frozen=True)
class Event:
    """A function whose zeros along the solution are looked for.

    Args:
        function: ``g(t, y)``, or ``g(t, y, args)`` where ``f`` takes args; returns one number. With ``batch_dims`` it gets all
            rows at once, ``g(t: [*batch], y: [*batch, ...]) -> [*batch]``, one number for each.
        terminal: stop the solve at the first one (with ``batch_dims``: the row that meets it; the others go on).
        direction: +1 for crossings from negative to positive in the direction of the solve, -1 for the others, 0 for all.
        samples: points in each step at which the sign is looked at; crossings that come in pairs between two of them are
            missed.
        at_rest: the function vanishes at a steady state (see ``SteadyState``): its time carries no gradient.

    Example:
        >>> hit = torchivp.Event(lambda t, y: y[0], terminal=True, direction=-1)
        >>> sol = torchivp.solve(f, y0, (0.0, 100.0), events=hit)
        >>> sol.t_events[0], sol.y_events[0]
    """

    function: Callable[..., Tensor]
    terminal: bool = False
    direction: int = 0
    samples: int = 8
    at_rest: bool = False

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError(f"samples={self.samples}: nobody would look for the event. Give a positive number.")
        if not callable(self.function):
            raise InputTypeError(
                f"An event function is a {type(self.function).__name__}, which cannot be called. Give g with g(t, y)."
            )
        if self.direction not in (-1, 0, 1):
            raise InputError(
                f"direction={self.direction} of an event is not known. Give +1 (only upwards), -1 (only downwards), or 0."
            )


@dataclass(frozen=True)
class SteadyState:
    """A terminal event: the solution has come to rest, ``|f| <= atol + rtol * |y|`` (root mean square).

    It costs one evaluation of ``f`` in each step. With ``gradient="implicit"`` the state there is differentiated as a
    solution of ``f = 0``. With ``batch_dims`` every row stops where it has come to rest.

    Args:
        rtol: of the state, in 1 / (unit of t); ten times that of the solve if None. The error of the steps keeps a solution
            from resting much more than that.
        atol: in (unit of y) / (unit of t); the same.

    Example:
        >>> sol = torchivp.solve(f, y0, (0.0, 1e4), events=torchivp.SteadyState(), save="end")
        >>> sol.y[-1], sol.t_events[0]
    """

    rtol: float | None = None
    atol: float | None = None

    def __post_init__(self) -> None:
        given = [x for x in (self.rtol, self.atol) if x is not None]
        if not all(x >= 0 for x in given) or (len(given) == 2 and sum(given) == 0):
            raise InputError(
                f"rtol={self.rtol}, atol={self.atol}: no solution comes to rest more than that. Give positive numbers."
            )

    def as_event(self, problem: Problem) -> Event:
        """The event for one problem."""
        of_solve = problem.tolerance
        rtol = 10 * of_solve.rtol if self.rtol is None else self.rtol
        atol = 10 * of_solve.atol if self.atol is None else torch.full_like(of_solve.atol, self.atol)
        size = replace(of_solve, rtol=rtol, atol=atol)

        def moving(t: Tensor, y: PyTree, *args: PyTree) -> Tensor:
            row = problem.layout.ravel(y)
            slope = problem.field.with_args(args)(t, row)
            problem.field.evaluations += 1
            return (size.norm(slope / size.scale(row)) - 1).view(problem.layout.batch)

        return Event(moving, terminal=True, direction=-1, samples=1, at_rest=True)


def as_events(events: object, problem: Problem) -> tuple[Event, ...]:
    """Events from what the user gave: one or several, ``Event`` or a function (with SciPy's attributes, if any)."""
    if isinstance(events, Event | SteadyState) or callable(events):
        events = (events,)
    if not isinstance(events, Sequence):
        raise InputTypeError(
            f"events is a {type(events).__name__}, which is no event and no list of them. Give Event(g), or a list."
        )
    return tuple(_as_event(e, problem) for e in events)


def _as_event(g: object, problem: Problem) -> Event:
    if isinstance(g, Event):
        return g
    if isinstance(g, SteadyState):
        return g.as_event(problem)
    if not callable(g):
        raise InputTypeError(f"An event is a {type(g).__name__}, which cannot be called. Give Event(g) with g(t, y).")
    direction, terminal = getattr(g, "direction", 0), getattr(g, "terminal", False)
    if not isinstance(terminal, bool) and terminal not in (0, 1):
        raise InputError(
            f"terminal={terminal} of an event function: here a terminal event stops the solve the first time. To stop at the "
            f"n-th, leave terminal out and count in on_step, or go on with `start=` after each."
        )
    return Event(g, bool(terminal), (direction > 0) - (direction < 0))


class Detector:
    """Looks for events step by step.

    Args:
        events: what to look for.
        problem: gives the user's view of times and states.
    """

    def __init__(self, events: tuple[Event, ...], problem: Problem):
        self.events = events
        self.problem = problem
        self.before = [float("nan")] * len(events)

    def value(self, event: Event, t: Tensor, y: Tensor) -> Tensor:
        """g at time ``t`` (inside the library) and row ``y``; 0-d, differentiable."""
        problem = self.problem
        g = event.function(problem.field.time(t), problem.layout.unravel(y.view(1, -1)), *problem.field.args)
        if not isinstance(g, Tensor):
            g = torch.as_tensor(g, dtype=None if isinstance(g, bool | np.bool_) else torch.float64)
        if batched(g):
            raise InputError(
                "An event function differs from row to row of torch.func.vmap, but the rows take their steps together and one "
                "time cannot be the event of all. Loop over the rows, or watch the whole batch as one state (`y.min()`)."
            )
        if g.numel() != 1 or g.is_complex() or g.dtype == torch.bool:
            raise InputError(
                f"An event function returned a tensor of shape {tuple(g.shape)} and dtype {g.dtype}, but a crossing needs "
                f"one real number that goes through zero. Give one Event for each entry, or reduce it, for example with "
                f"`.min()`; of a comparison `a > b` give the difference `a - b`."
            )
        return g.reshape(())

    @torch.no_grad()
    def start(self, t: float, y: Tensor) -> None:
        """The values at the start; an event that is zero there is not found there."""
        self.before = [as_float(self.value(e, torch.tensor(t, dtype=torch.float64), y)) for e in self.events]

    @torch.no_grad()
    def find(self, piece: Piece, index: int, y1: Tensor) -> list[Found]:
        """The events in one accepted step, in the order of time, up to and including the first terminal one.

        Of those at the very time of a terminal event none is lost: it comes last.
        """
        span = piece.span
        piece = Piece(span._replace(t=as_float(span.t), t1=as_float(span.t1)), *piece[1:])
        steps = fit([piece])
        t, t1 = piece.span.t, piece.span.t1
        seen: dict[int, tuple[list[float], list[Tensor]]] = {}
        for n in {event.samples for event in self.events}:
            samples = [t + (t1 - t) * i / n for i in range(1, n)] + [t1]
            seen[n] = samples, [*_at(steps, samples[:-1]), y1]
        found = [
            Found(number, index, when)
            for number, event in enumerate(self.events)
            for when in self._crossings(number, event, steps, t, *seen[event.samples])
        ]
        found.sort(key=lambda e: (e.t, self.events[e.event].terminal))
        for i, e in enumerate(found):
            if self.events[e.event].terminal:
                return found[: i + 1]
        return found

    def _crossings(
        self, number: int, event: Event, steps: StepPolynomials, t: float, samples: list[float], states: list[Tensor]
    ) -> list[float]:
        found, left, g_left = [], t, self.before[number]
        for right, y in zip(samples, states):
            g_right = as_float(self.value(event, torch.tensor(right, dtype=torch.float64), y))
            rising = g_left < 0 <= g_right
            falling = g_left > 0 >= g_right
            if (rising and event.direction >= 0) or (falling and event.direction <= 0):
                found.append(self._locate(event, steps, left, right, g_left, g_right))
            if (rising or falling) and g_right == 0:  # counted here: go on from the far side
                g_right = TINY if rising else -TINY
            g_left = g_right
            left = right
        self.before[number] = g_left
        return found

    def _locate(self, event: Event, steps: StepPolynomials, a: float, b: float, g_a: float, g_b: float) -> float:
        """The crossing in (a, b] on the step's polynomial, to rounding, and not before it.

        A solve that goes on from there starts on the far side and does not find the same crossing again. Regula falsi in
        the Illinois form; every third point halves the bracket, and none is closer to an end than half the tolerance.
        """
        precision, started_negative, side = 4e-16 * max(abs(a), abs(b)), g_a < 0, 0
        for i in range(1, 100):
            if b - a <= precision or g_b == 0:
                break
            middle = (a * g_b - b * g_a) / (g_b - g_a) if i % 3 else 0.5 * (a + b)
            middle = min(max(middle, a + 0.5 * precision), b - 0.5 * precision)
            g = as_float(self.value(event, torch.tensor(middle, dtype=torch.float64), _at(steps, [middle])[0]))
            if g != 0 and (g < 0) == started_negative:
                g_b = 0.5 * g_b if side < 0 else g_b
                a, g_a, side = middle, g, -1
            else:
                g_a = 0.5 * g_a if side > 0 else g_a
                b, g_b, side = middle, g, 1
        return b


def _at(steps: StepPolynomials, times: list[float]) -> tuple[Tensor, ...]:
    """The states ``[1, D]`` at times in a single step."""
    index = torch.zeros(len(times), dtype=torch.int64, device=steps.t0.device)
    return steps(index, steps.t0.new_tensor(times)).split(1)[: len(times)]


def states_at(trajectory: Trajectory, found: Found) -> Tensor:
    """The state ``[1, D]`` at an event, on the polynomial of its step."""
    return torch.cat(_at(fit([trajectory.pieces[found.piece]]), [found.t]))


def read(trajectory: Trajectory, detector: Detector) -> tuple[list[Tensor], list[Tensor]]:
    """Times ``[E]`` and states ``[E, D]`` of the events of each function, differentiable.

    The located time ``s`` is a constant. A Newton step ``t = s - g(s, y(s)) / (dg/dt)`` with a constant denominator puts
    the gradient of the implicit function theorem on it, also with respect to the parameters of g. A second one, from there
    and with a denominator that moves, makes the second and third derivatives right, too.
    """
    device = trajectory.end.device
    times: list[list[Tensor]] = [[] for _ in detector.events]
    states: list[list[Tensor]] = [[] for _ in detector.events]
    for found in trajectory.events:
        steps = fit([trajectory.pieces[found.piece]])
        t, y = _with_gradient(detector, detector.events[found.event], steps, found.t)
        times[found.event].append(t)
        states[found.event].append(y)
    empty = torch.zeros(0, dtype=torch.float64, device=device)
    return (
        [torch.cat(t) if t else empty for t in times],
        [torch.cat(y) if y else trajectory.end[:0] for y in states],
    )


def _with_gradient(detector: Detector, event: Event, steps: StepPolynomials, located: float) -> tuple[Tensor, Tensor]:
    zero = torch.zeros(1, dtype=torch.int64, device=steps.t0.device)
    t = steps.t0.detach().new_tensor(located)

    def along(s: Tensor) -> Tensor:
        s = s.reshape(1)
        return detector.value(event, s[0], steps(zero, s))

    if event.at_rest or not (recorded() or (torch.is_grad_enabled() and along(t).requires_grad)):
        return t.reshape(1), steps(zero, t.reshape(1))
    with torch.no_grad():
        rate = derivatives(along, t)[0].detach()
    if not bool(rate != 0):
        if recorded():
            refuse(located, torch.ones(()))
        t = moved(t, along(t))  # depends on g, but nobody knows how
        t.register_hook(partial(refuse, located))
        return t.reshape(1), steps(zero, t.reshape(1))
    t = moved(t, along(t) / rate)
    t = moved(t, along(t) / derivatives(along, t)[0])
    return t.reshape(1), steps(zero, t.reshape(1))


def moved(t: Tensor, newton: Tensor) -> Tensor:
    """``t`` with the gradient of ``t - newton``."""
    return t - (newton - newton.detach()).to(t.dtype)


def refuse(located: float, cotangent: Tensor) -> None:
    """The gradient of a time that has none; a loss that leaves it out sends zeros."""
    if bool((cotangent != 0).any()):
        raise GradientError(
            f"The event found at t={located:g} touches zero without crossing it (dg/dt = 0), so its time has no gradient. "
            f"Leave its time and state out of the loss (`.detach()`), or choose an event function that crosses zero."
        )
