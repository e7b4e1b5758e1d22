"""Steps of a method with something around them, in a compiled loop: a projection behind them, a chord through them, times just
inside."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...methods.tableau import Row
from .diagonal import Behind
from .explicit import advanced, moved
from .pure import Pure
from .step import Fixed, Form, Opening, Stages, State, asked_at, at_end, next_slope, slopes, wide


class Manner(NamedTuple):
    """What is around the steps of a method.

    Attributes:
        line: one more slope stands in front of those of the method.
        end: ``end(form, fixed, held, t1, h, ys, y1, rests)``: the slopes in front, and where the step ends instead of ``y1``.
        slope: ``slope(inner, pure, fixed, held, t1, step)``: what the next step begins with, from the step with its new end.
        at_end: the method's own slope at the end of a step stays one.
        looks_inside: the interpolant is that of the method.
    """

    line: bool
    end: Callable[..., tuple[list[State], State]]
    slope: Callable[..., State]
    at_end: bool
    looks_inside: bool


@dataclass(frozen=True)
class Around:
    """A method with something around it, as the tableau of a form.

    Attributes:
        inner: the form of the method alone.
        manner: what is around it.
    """

    inner: Form
    manner: Manner

    @property
    def base(self) -> Any:
        """The tableau of the method."""
        return self.inner.tableau

    @property
    def b(self) -> Row:
        return (*[0] * self.manner.line, *self.base.b)

    @property
    def b_err(self) -> Row | None:
        return self._behind(self.base.b_err)

    @property
    def b_err_lower(self) -> Row | None:
        return self._behind(getattr(self.base, "b_err_lower", None))

    @property
    def at_end(self) -> tuple[int, ...]:
        places = at_end(self.inner, False) if self.manner.at_end else ()
        return tuple(i + self.manner.line for i in places)

    @property
    def fsal(self) -> bool:
        return bool(self.at_end)

    @property
    def shown(self) -> int | None:
        """How many slopes the interpolant is made of; None: all."""
        return getattr(self.base, "shown", None) if self.manner.looks_inside else 1

    def _behind(self, weights: Row | None) -> Row | None:
        return None if weights is None else (*[0] * self.manner.line, *weights)


def around(form: Form, manner: Manner) -> Form:
    """The form with something around its steps."""
    inner = form if manner.looks_inside else replace(form, looks_inside=False, inside=(0, 0))
    return replace(
        form,
        tableau=Around(inner, manner),
        stages=around_stages,
        opening=None if form.opening is None else Opening(around_opening, form.opening.asks),
        back=None if form.back is None else around_back,
        undo=None,
        lead=1 if manner.line else form.lead,
        inside=inner.inside,
    )


def around_stages(
    form: Form, pure: Pure, fixed: Fixed, held: State, t1: Tensor, h: Tensor, ys: State, ks: State, rests: bool = False,
    past: State = (),
) -> Stages:  # fmt: skip
    """A step of the method, and what is around it."""
    return taken_by(form.tableau.inner.stages, form, pure, fixed, held, t1, h, ys, ks, rests, past)


def around_opening(
    form: Form, pure: Pure, fixed: Fixed, held: State, t1: Tensor, h: Tensor, ys: State, ks: State, rests: bool = False,
    past: State = (),
) -> Stages:  # fmt: skip
    """The same of the first steps."""
    return taken_by(form.tableau.inner.opening.stages, form, pure, fixed, held, t1, h, ys, ks, rests, past)


def taken_by(
    stages: Callable[..., Stages], form: Form, pure: Pure, fixed: Fixed, held: State, t1: Tensor, h: Tensor, ys: State, ks: State,
    rests: bool, past: State,
) -> Stages:  # fmt: skip
    inner, manner = form.tableau.inner, form.tableau.manner
    step = stages(inner, pure, fixed, held, t1, h, ys, ks, rests, past=past)
    lines, end = manner.end(form, fixed, held, t1, h, ys, step.end, rests)
    known = [ks, *lines, *step.slopes[inner.lead :]] if lines else step.slopes
    slope = manner.slope(inner, pure, fixed, held, t1, step._replace(end=end))
    return step._replace(slopes=known, end=end, slope=slope)


def around_back(
    form: Form, pure: Pure, fixed: Fixed, held: State, exchange: Callable[[State], State], wanted: State, t1: Tensor, h: Tensor,
    ys: State, found: list[State], behind: Behind,
) -> tuple[State, State, State]:  # fmt: skip
    """What ``diagonal_back`` does, through what is around the step before."""
    inner, manner = form.tableau.inner, form.tableau.manner
    first = 2 if manner.line else 0
    own = found[first:]

    def rest(ys: State, known: list[State], some: State) -> tuple[State, State, list[State]]:
        all_held = exchange(some)
        y1 = moved(h, ys, inner.tableau.b, known[inner.lead :], rests=True)
        lines, end = manner.end(form, fixed, all_held, t1, h, ys, y1, True)
        k1 = manner.slope(inner, pure, fixed, all_held, t1, Stages(known, end))
        return tuple(end), tuple(k1), [tuple(x) for x in lines]

    vjp = torch.func.vjp(rest, tuple(ys), [tuple(k) for k in own], list(wanted))[1]
    in_front = [tuple(x) for x in behind.slopes[1:first]]
    at_ys, at_slopes, at_held = vjp((tuple(behind.end), tuple(behind.k1), in_front))
    every: list[State] = [tuple(a + b for a, b in zip(*pair)) for pair in zip(at_slopes, behind.slopes[first:])]
    none = tuple(torch.zeros_like(y) for y in ys)
    before = inner.back(inner, pure, fixed, held, exchange, wanted, t1, h, ys, own, Behind(none, none, every))
    at_start = behind.slopes[0] if first else none
    return (
        tuple(a + b for a, b in zip(at_ys, before[0])),
        tuple(a + b for a, b in zip(at_start, before[1])),
        tuple(a + b for a, b in zip(at_held, before[2])),
    )


def onto_manifold(
    form: Form, fixed: Fixed, held: State, t1: Tensor, h: Tensor, ys: State, y1: State, rests: bool
) -> tuple[list[State], State]:
    """The way onto the manifold, and where it leads."""
    onto: Any = form.onto
    there = onto(t1, [y.to(dtype) for y, dtype in zip(y1, form.dtypes)], held)
    back = tuple((x.to(y.dtype) - y) / wide(size_of(h), y) for x, y in zip(there, y1))
    return [back], tuple(advanced(h, y, k, rests) for y, k in zip(y1, back))


def along_chord(
    form: Form, fixed: Fixed, held: State, t1: Tensor, h: Tensor, ys: State, y1: State, rests: bool
) -> tuple[list[State], State]:
    """The slope of the straight line through both ends."""
    return [tuple((end - y) / wide(size_of(h), y) for y, end in zip(ys, y1))], y1


def size_of(h: Tensor) -> Tensor:
    """The step size; 1 of a step that moves nothing."""
    return torch.where(h == 0, 1.0, h)


def slope_there(inner: Form, pure: Pure, fixed: Fixed, held: State, t1: Tensor, step: Stages) -> State:
    """Asked for where the step ends."""
    return slopes(inner, pure, fixed, held, t1, step.end)


def slope_behind(inner: Form, pure: Pure, fixed: Fixed, held: State, t1: Tensor, step: Stages) -> State:
    """Asked for just after the end of the step; at the end of all just before it."""
    t = torch.where(t1 < fixed.end, beside(t1, math.inf, inner.time_dtype), beside(t1, -math.inf, inner.time_dtype))
    return asked_at(inner, pure, fixed, held, t, step.end)


def just_inside(form: Form, fixed: Fixed, t: Tensor, t1: Tensor) -> Fixed:
    """The same for a step in which ``f`` is never asked at its very ends."""
    first, last = beside(t, math.inf, form.time_dtype), beside(t1, -math.inf, form.time_dtype)
    return fixed._replace(bounds=torch.stack((first, last, fixed.sign, fixed.max_steps)))


def beside(t: Tensor, towards: float, dtype: torch.dtype) -> Tensor:
    """The next number of this dtype."""
    t = t.to(dtype)
    return torch.nextafter(t, torch.full_like(t, towards)).to(torch.float64)


ONTO = Manner(True, onto_manifold, slope_there, at_end=False, looks_inside=True)
CHORD = Manner(True, along_chord, next_slope, at_end=True, looks_inside=False)
INSIDE = Manner(
    False, lambda form, fixed, held, t1, h, ys, y1, rests: ([], y1), slope_behind, at_end=False, looks_inside=True
)
