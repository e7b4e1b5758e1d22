"""The steps of a compiled loop undone and differentiated, from last to first, as one function of tensors: nothing but their times
was written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from .backward import Adjoint, Given, adjoint_of, picked, step_back, through_slope
from .program import Record
from .pure import Pure
from .step import Fixed, Form, State, Where, chosen

UndoneBackward = Callable[..., tuple[Where, Adjoint]]
"""``backward(way, end, behind, given, record, fixed, held)``, see ``make_undoing``"""


def make_undoing(form: Form, pure: Pure, wanted: tuple[int, ...]) -> UndoneBackward:
    """``backward(way, end, behind, given, record, fixed, held)``: what ``make_backward`` does, and where the first step began,
    from where the last one ended; of the record only the times are read.

    Args:
        wanted: numbers of the held tensors whose gradients are wanted.
    """

    def backward(
        way: Tensor, end: Where, behind: Adjoint, given: Given | None, record: Record, fixed: Fixed, held: State
    ) -> tuple[Where, Adjoint]:
        leaves, lines = len(end.ys), len(end.past)

        def put_together(now: Sequence[Tensor]) -> tuple[Where, Adjoint]:
            here, rest = now[: 2 * leaves + lines], now[2 * leaves + lines :]
            at = Where(tuple(here[:leaves]), tuple(here[leaves : 2 * leaves]), tuple(here[2 * leaves :]))
            return at, adjoint_of(behind, rest)

        def more(i: Tensor, *now: Tensor) -> Tensor:
            return i > 0

        def once(i: Tensor, *now: Tensor) -> tuple[Tensor, ...]:
            slot = (i - 1).reshape(1)
            here, now_behind = put_together(now)
            taken = begun(form, pure, fixed, held, picked(record, slot), here)
            before = step_back(form, pure, wanted, now_behind, picked(given, slot), taken, fixed, held)
            start = *taken.ys, *(k[0] for k in taken.ks), *taken.past
            return (i - 1, *start, *(x.contiguous() for part in before for x in part))

        now = (way[0].clone(), *(x.clone() for part in (*end, *behind) for x in part))
        start, before = put_together(while_loop(more, once, now)[1:])
        asked = way[1] != 0
        return start, through_slope(form, pure, wanted, before, asked, record.t[0], start.ys, fixed, held)

    return backward


def begun(form: Form, pure: Pure, fixed: Fixed, held: State, taken: Record, end: Where) -> Record:
    """The step with where it began; rows that did not take it are where they were."""
    rows = taken.accepted
    t1 = torch.where(rows, taken.t1, taken.t)
    undo: Any = form.undo
    start: Where = undo(form, pure, fixed, held, taken.t, t1, t1 - taken.t, end)
    ks = chosen(rows, start.ks, end.ks)
    past = chosen(rows.unsqueeze(0), start.past, end.past)
    return taken._replace(ys=chosen(rows, start.ys, end.ys), ks=tuple(k.unsqueeze(0) for k in ks), past=past)
