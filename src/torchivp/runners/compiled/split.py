"""Steps that are implicit in one part of ``f`` and explicit in the other (IMEX), in a compiled loop.

The iterations are those of ``diagonal``, of the first part; behind the slopes of all stages lie those of the second one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from ...methods import Method
from ...methods.explicit_rk import interpolant_weights
from ...methods.tableau import Row, Tableau, hermite
from ...problem import Problem
from .derivatives import flat, leaves_of
from .diagonal import Behind, Course, iterated, row, serving, settled, started, tables_of, tail
from .pure import Beside, Pure
from .step import Fixed, Form, Part, Stages, State, slope_at_end, slopes, weighted


@dataclass(frozen=True)
class SplitTableau:
    """A tableau and its explicit companion, as the tableau of a form.

    Attributes:
        base: with the interpolant of both.
        parts: of ``f``, as they were traced: the implicit one and the other.
    """

    base: Tableau
    parts: tuple[Beside, ...] = ()

    each_attempt = True  # has a Jacobian

    @property
    def b(self) -> Row:
        return self.base.b

    @property
    def b_err(self) -> Row | None:
        return self.base.b_err

    @property
    def at_end(self) -> tuple[int, ...]:
        return (len(self.b),) if self.base.dense is not None and self.base.dense.c else ()


def is_split(problem: Problem, method: Method) -> bool:
    """Whether the method takes the two parts of ``f`` apart."""
    return getattr(method, "companion", None) is not None and problem.field.parts() is not None


def split_tableau(method: Any) -> SplitTableau:
    tableau = method.tableau
    return SplitTableau(replace(tableau, dense=tableau.dense or hermite(method.companion)))


def split_weights(method: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Of the interpolant, ``[P, S]``."""
    dense: Any = split_tableau(method).base.dense
    return interpolant_weights(dense, dtype, device)


def split_tables(method: Any, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """As ``diagonal.tables_of``, with columns ``[S, 2 S]`` for the slopes of both parts."""
    a, guess, nodes = tables_of(method, dtype, device)
    other = torch.zeros_like(a)
    for i, weights in enumerate(method.companion.a):
        other[i, :i] = torch.tensor([float(x) for x in weights], dtype=torch.float64)
    return torch.cat((a, other), 1), torch.cat((guess, torch.zeros_like(guess)), 1), nodes


def split_parts(method: Any) -> tuple[Part, ...]:
    tableau = method.tableau
    return (Part(0, tableau.stages, float(tableau.a[1][1]), float(max(tableau.c)), fsal=False),)


class SplitCourse(Course):
    """A ``Course`` through the stages of the implicit part, with the slopes of the other part behind those.

    Args:
        other: the explicit part, with what it holds; the rest is of the implicit part.
    """

    def __init__(self, other: tuple[Pure, State], *implicit: Any):
        super().__init__(*implicit)
        self.other = other

    def of_other(self, t: Tensor, z: Tensor) -> Tensor:
        """The slope of the explicit part, ``[*batch, n]``."""
        pure, held = self.other
        return flat(slopes(self.form, pure, self.fixed, held, t, leaves_of(z, self.ys)), self.batch)

    def begins(self, slope: Tensor) -> Tensor:
        second = self.of_other(self.t1 - self.h, self.y)
        return torch.cat((super().begins(slope - second), super().begins(second)))

    def with_others(self, k: Tensor, stage: Tensor, x: Tensor, settled: Tensor) -> Tensor:
        found = self.of_other(self.time(stage), self.state(stage, k, x))
        numbers = torch.arange(len(k), device=x.device).reshape(-1, *[1] * x.dim())
        return torch.where(settled & (numbers == stage + len(self.nodes)), found, k)


def split_stages(
    form: Form, pure: Pure, fixed: Fixed, held: State, t1: Tensor, h: Tensor, ys: State, ks: State, rests: bool = False,
    past: State = (),
) -> Stages:  # fmt: skip
    """A step that ends at ``t1``. Its slopes are the sums; before them lie that at the start and those of the explicit part."""
    implicit, other = form.tableau.parts
    mine = (form, implicit.pure, fixed, implicit.own(held), t1, h, ys)
    course = SplitCourse((other.pure, other.own(held)), *mine)
    matrix = serving(course, past)
    solve = course.solver(t1 - h, ys) if matrix is None else matrix.solve
    found = iterated(course, started(course, course.begins(flat(ks, course.batch))), lambda stage, z: solve)
    first, second = found.k.tensor_split(2)
    total = first + second
    known: list[State] = [leaves_of(x, ys) for x in total.unbind(0)]
    end, extra = tail(form, pure, fixed, held, t1, h, ys, known)
    error = leaves_of(course.size * weighted(form.tableau.b_err, total.unbind(0)), ys)
    before = [ks, *(leaves_of(x, ys) for x in second.unbind(0))]
    slope = extra[0] if extra else None
    step = Stages([*before, *known, *extra], end, error, found.rows[4] == 0, found.numbers[2], slope)
    return step if matrix is None else settled(step, matrix, found)


def split_back(
    form: Form, pure: Pure, fixed: Fixed, held: State, exchange: Callable[[State], State], wanted: State, t1: Tensor, h: Tensor,
    ys: State, found: list[State], behind: Behind,
) -> tuple[State, State, State]:  # fmt: skip
    """What ``diagonal_back`` does, of both parts."""
    implicit, other = form.tableau.parts
    stages, lead, batch = len(form.tableau.b), form.lead, h.dim()
    course = SplitCourse((other.pure, other.own(held)), form, implicit.pure, fixed, implicit.own(held), t1, h, ys)

    def rest(ys: State, known: list[State], some: State) -> tuple[State, State, list[State]]:
        end, extra = tail(form, pure, fixed, exchange(some), t1, h, ys, known)
        k1 = slope_at_end(form, pure, fixed, exchange(some), t1, end, [*known, *extra])
        return tuple(end), tuple(k1), [tuple(x) for x in extra]

    total = [tuple(x) for x in found[lead : lead + stages]]
    vjp = torch.func.vjp(rest, tuple(ys), total, list(wanted))[1]
    at_ys, at_total, at_held = vjp(
        (tuple(behind.end), tuple(behind.k1), [tuple(x) for x in behind.slopes[lead + stages :]])
    )
    second = torch.stack([flat(x, batch) for x in found[1:lead]])
    k = torch.cat((torch.stack([flat(x, batch) for x in total]) - second, second))
    at_sum = torch.stack([flat(a, batch) + flat(b, batch) for a, b in zip(at_total, behind.slopes[lead:])])
    numbers = torch.arange(len(k), device=h.device).reshape(-1, *[1] * (batch + 1))

    def explicit(t: Tensor, z: Tensor, some: State) -> Tensor:
        return flat(slopes(form, other.pure, fixed, other.own(exchange(some)), t, leaves_of(z, ys)), batch)

    def more(stage: Tensor, *rest: Tensor) -> Tensor:
        return stage > 0

    def once(stage: Tensor, at_y: Tensor, at_k: Tensor, *at_held: Tensor) -> tuple[Tensor, ...]:
        z, t = course.state(stage, k, row(k, stage)), course.time(stage)
        by_other, some_other = torch.func.vjp(partial(explicit, t), z, list(wanted))[1](row(at_k, stage + stages))
        multiplier = course.transposed_at(stage, z)(row(at_k, stage) + course.gamma_h * by_other)

        def slope(z: Tensor, some: State) -> Tensor:
            return course.slope(stage, z, implicit.own(exchange(some)))

        by_own, some_own = torch.func.vjp(slope, z, list(wanted))[1](multiplier)
        at_z = by_own + by_other
        weights = row(course.a, stage).reshape(-1, *[1] * (batch + 1))
        through = (numbers == stage) | (numbers == stage + stages)
        return (
            stage - 1,
            at_y + at_z,
            torch.where(through, 0.0, at_k) + weights * (course.size * at_z),
            *(a + b + c for a, b, c in zip(at_held, some_own, some_other)),
        )

    start = (course.last(), flat(at_ys, batch), torch.cat((at_sum, at_sum)), *at_held)
    _, at_y, at_k, *at_held = while_loop(more, once, start)
    at_slope = at_k[0]
    vjp = torch.func.vjp(partial(explicit, t1 - h), course.y, list(wanted))[1]
    by_first, some_first = vjp(at_k[stages] - at_slope)
    held_too = tuple(a + b for a, b in zip(at_held, some_first))
    return leaves_of(at_y + by_first, ys), leaves_of(at_slope, ys), held_too
