"""Steps of a compiled loop taken again from where the first of them began, at the times that were written down, as one function
of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from .backward import picked
from .program import Record, kept, known, opened
from .pure import Pure
from .step import Fixed, Form, State, Taken, Where, chosen, next_slope, slopes

Retake = Callable[..., Where]
"""``retake(way, start, record, fixed, held)``, see ``make_retake``"""


def make_retake(form: Form, pure: Pure) -> Retake:
    """``retake(way, start, record, fixed, held)``: where the rows are behind some steps; the states, slopes and pasts that these
    begin with are written down. ``way``: as for ``make_backward``; ``record`` knows the times.
    """

    def retake(way: Tensor, start: Where, record: Record, fixed: Fixed, held: State) -> Where:
        leaves, steps = len(start.ys), way[0]
        there = slopes(form, pure, fixed, held, record.t[0], start.ys)
        ks = tuple(torch.where(way[1] != 0, new, old) for new, old in zip(there, start.ks))

        def more(i: Tensor, *now: Tensor) -> Tensor:
            return i < steps

        def opens(i: Tensor, *now: Tensor) -> Tensor:
            return (i < steps) & ~known(now[-1])

        def turn(form: Form) -> Callable[..., tuple[Tensor, ...]]:
            def once(i: Tensor, *now: Tensor) -> tuple[Tensor, ...]:
                at = Where(tuple(now[:leaves]), tuple(now[leaves : 2 * leaves]), tuple(now[2 * leaves :]))
                after, taken = again(form, pure, fixed, held, picked(record.times, i.reshape(1)), at)
                record.write_states(i, taken)
                return (i + 1, *after.ys, *after.ks, *after.past)

            return once

        now: Sequence[Tensor] = (torch.zeros_like(steps), *(x.clone() for x in (*start.ys, *ks, *start.past)))
        if form.opening is not None:
            now = kept(opens, turn(opened(form)), tuple(now))
        _, *end = while_loop(more, turn(replace(form, unroll=1)), tuple(now))
        return Where(tuple(end[:leaves]), tuple(end[leaves : 2 * leaves]), tuple(end[2 * leaves :]))

    return retake


def again(form: Form, pure: Pure, fixed: Fixed, held: State, times: Record, at: Where) -> tuple[Where, Taken]:
    """A step, of the rows that took it."""
    accepted = times.accepted
    t1 = torch.where(accepted, times.t1, times.t)
    fixed = fixed if form.within is None else form.within(form, fixed, times.t, t1)
    step = form.stages(form, pure, fixed, held, t1, t1 - times.t, at.ys, at.ks, past=at.past)
    k1 = next_slope(form, pure, fixed, held, t1, step)
    after = Where(
        chosen(accepted, step.end, at.ys),
        chosen(accepted, k1, at.ks),
        chosen(accepted.unsqueeze(0), step.past, at.past),
    )
    return after, Taken(accepted, times.t, t1, at.ys, step.slopes, at.past, ())
