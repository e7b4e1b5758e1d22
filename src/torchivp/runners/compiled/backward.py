"""The steps of a compiled loop taken again, from last to first, as one function of tensors: the exact gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from .diagonal import Behind
from .program import Record, kept, known, opened
from .pure import Pure
from .step import Fixed, Form, State, next_slope, slopes, stage_count, wide
from .times import added, within


class Adjoint(NamedTuple):
    """Derivatives of the loss: by state ``ys`` and slope ``ks`` where a step begins, by the tensors that ``f`` holds, by the
    lines of the past (see ``Carry``), and by the user's times ``[*batch, T + 1]``, if these are wanted (see ``columns_of``)."""

    ys: tuple[Tensor, ...]
    ks: tuple[Tensor, ...]
    held: tuple[Tensor, ...]
    past: tuple[Tensor, ...] = ()
    times: tuple[Tensor, ...] = ()


def nothing_behind(form: Form, ys: State, wanted: State, times: State = ()) -> Adjoint:
    """The derivatives ``ys`` by the last state, and none by what comes with it."""
    none = (torch.zeros_like(y) for y in ys)
    lines = (y.new_zeros(form.past, *y.shape) for y in ys if form.past)
    return Adjoint(tuple(ys), tuple(none), tuple(torch.zeros_like(x) for x in wanted), tuple(lines), tuple(times))


class Given(NamedTuple):
    """Derivatives by what was written down: the states where the steps begin ``[slots, *batch, ...]``, and all slopes
    ``[slots, stages, *batch, ...]``."""

    ys: tuple[Tensor, ...]
    ks: tuple[Tensor, ...]


Backward = Callable[..., Adjoint]
"""``backward(way, adjoint, given, record, fixed, held, columns)``, see ``make_backward``"""


def make_backward(form: Form, pure: Pure, wanted: tuple[int, ...], from_slope: bool = True) -> Backward:
    """``backward(way, adjoint, given, record, fixed, held, columns)``: from behind some steps to before the first of them.

    ``way`` is int64: the number of steps, and whether the slope at their start was asked for. ``columns``: of starts and ends of
    the steps (see ``columns_of``), where gradients of times are wanted.

    Args:
        wanted: numbers of the held tensors whose gradients are wanted.
        from_slope: go on from that slope to the state it was asked at.
    """

    def backward(
        way: Tensor,
        behind: Adjoint,
        given: Given | None,
        record: Record,
        fixed: Fixed,
        held: State,
        columns: tuple[Tensor, ...] = (),
    ) -> Adjoint:
        put_together = partial(adjoint_of, behind)

        def more(i: Tensor, *now: Tensor) -> Tensor:
            return i > 0

        def settled(i: Tensor, *now: Tensor) -> Tensor:
            return (i > 0) & known(record.past[-1].index_select(0, (i - 1).clamp(min=0).reshape(1)))

        def turn(form: Form) -> Callable[..., tuple[Tensor, ...]]:
            def once(i: Tensor, *now: Tensor) -> tuple[Tensor, ...]:
                at, adjoint = (i - 1).reshape(1), put_together(now)
                here = tuple(x.index_select(0, at)[0] for x in columns)
                before = step_back(
                    form, pure, wanted, adjoint, picked(given, at), picked(record, at), fixed, held, here
                )
                return (i - 1, *(x.contiguous() for part in before for x in part))

            return once

        now: Sequence[Tensor] = (way[0].clone(), *(x.clone() for part in behind for x in part))
        if form.opening is not None:
            now = kept(more, turn(opened(form)), kept(settled, turn(form), tuple(now)))
        else:
            now = while_loop(more, turn(form), tuple(now))
        before = put_together(now[1:])
        if not from_slope:
            return before
        start = tuple(y[0] for y in record.ys)
        return through_slope(
            form, pure, wanted, before, way[1] != 0, record.t[0], start, fixed, held, tuple(x[0] for x in columns[:1])
        )

    return backward


def adjoint_of(like: Adjoint, tensors: Sequence[Tensor]) -> Adjoint:
    """An adjoint from its tensors."""
    ends = list(accumulate(len(part) for part in like))
    return Adjoint(*(tuple(tensors[i:j]) for i, j in zip((0, *ends), ends)))


def through_slope(
    form: Form,
    pure: Pure,
    wanted: Sequence[int],
    behind: Adjoint,
    asked: Tensor,
    t: Tensor,
    start: State,
    fixed: Fixed,
    held: State,
    columns: tuple[Tensor, ...] = (),
) -> Adjoint:
    """The same where the slope at the ``start`` is a function of the state there, if it was ``asked`` for.

    Args:
        columns: that of the time there, where gradients of times are wanted.
    """

    def slope(ys: State, some: State, moments: State) -> tuple[Tensor, ...]:
        there, *first = moments or (t,)
        limits = (*first, fixed.last) if first else ()
        return slopes(form, pure, within(fixed, limits), exchanged(held, wanted, some), there, ys)

    past: list[Any] = [x.sum(0) for x in behind.past] or [0.0] * len(behind.ys)  # at a start its lines are the state
    moments = (t, fixed.first) if behind.times else ()
    vjp = torch.func.vjp(slope, tuple(start), [held[i] for i in wanted], moments)[1]
    at_ys, at_held, at_moments = vjp(tuple(torch.where(asked, k, 0.0) for k in behind.ks))
    return Adjoint(
        tuple(torch.where(asked, a + b + c, a) for a, b, c in zip(behind.ys, at_ys, past)),
        tuple(torch.where(asked, 0.0, k) for k in behind.ks),
        tuple(torch.where(asked, a + b, a) for a, b in zip(behind.held, at_held)),
        tuple(torch.where(asked, 0.0, x) for x in behind.past),
        added(behind.times, columns * len(at_moments), at_moments),
    )


def exchanged(held: State, wanted: Sequence[int], some: State) -> list[Tensor]:
    """The held tensors with ``some`` in the places ``wanted``."""
    out = list(held)
    for i, x in zip(wanted, some):
        out[i] = x
    return out


def picked(stacked: Any, at: Tensor) -> Any:
    """The entries of one slot."""
    if stacked is None:
        return None
    return type(stacked)(
        *(
            tuple(x.index_select(0, at)[0] for x in part) if isinstance(part, tuple) else part.index_select(0, at)[0]
            for part in stacked
        )
    )


def step_back(
    form: Form,
    pure: Pure,
    wanted: Sequence[int],
    behind: Adjoint,
    given: Given | None,
    taken: Record,
    fixed: Fixed,
    held: State,
    columns: tuple[Tensor, ...] = (),
) -> Adjoint:
    """The derivatives where a step begins, from those where it ends; rows that did not take it keep theirs.

    Args:
        columns: those of its start and its end, where gradients of times are wanted.
    """
    accepted = taken.accepted
    ends = taken.t, torch.where(accepted, taken.t1, taken.t)
    fixed = fixed if form.within is None else form.within(form, fixed, *ends)
    moments = (*ends, fixed.first, fixed.last) if behind.times else ()
    leaves = len(behind.ys)

    lines, times = taken.past[:leaves], taken.past[leaves:]
    taken_lines = accepted.unsqueeze(0)

    def again(
        ys: State, ks: State, lines: State, some: State, moments: State
    ) -> tuple[State, State, list[State], State]:
        (t, t1), now, all_held = moments[:2] or ends, within(fixed, moments[2:]), exchanged(held, wanted, some)
        step = form.stages(form, pure, now, all_held, t1, t1 - t, ys, ks, rests=form.by_rows, past=(*lines, *times))
        k1 = next_slope(form, pure, now, all_held, t1, step)
        return tuple(step.end), tuple(k1), [tuple(k) for k in step.slopes], tuple(step.past[: len(lines)])

    def where(rows: Tensor, xs: State) -> tuple[Tensor, ...]:
        return tuple(torch.where(wide(rows, x), x, 0.0) for x in xs)

    at_stages: list[State] = [
        tuple(
            given.ks[i][s] if given is not None and form.slopes > s else torch.zeros_like(y)
            for i, y in enumerate(taken.ys)
        )
        for s in range(stage_count(form))
    ]
    some, at_end = [held[i] for i in wanted], Behind(where(accepted, behind.ys), where(accepted, behind.ks), at_stages)
    at_lines: State = ()
    at_moments: State = ()
    if form.back is None:
        vjp = torch.func.vjp(again, taken.ys, slopes_at_start(taken), lines, some, moments)[1]
        at_ys, at_ks, at_lines, at_held, at_moments = vjp((*at_end, where(taken_lines, behind.past)))
    else:
        found = [tuple(k[s] for k in taken.ks) for s in range(stage_count(form))]
        exchange = partial(exchanged, held, wanted)
        t, t1 = ends
        at_ys, at_ks, at_held = form.back(form, pure, fixed, held, exchange, some, t1, t1 - t, taken.ys, found, at_end)
    kept, kept_ks = where(~accepted, behind.ys), where(~accepted, behind.ks)
    direct = given.ys if given is not None else (0.0,) * leaves
    return Adjoint(
        tuple(a + b + c for a, b, c in zip(at_ys, kept, direct)),
        tuple(a + b for a, b in zip(at_ks, kept_ks)),
        tuple(total + new for total, new in zip(behind.held, at_held)),
        tuple(a + b for a, b in zip(at_lines, where(~taken_lines, behind.past))),
        added(behind.times, columns * 2, at_moments),
    )


def slopes_at_start(taken: Record) -> tuple[Tensor, ...]:
    return tuple(k[0] for k in taken.ks)
