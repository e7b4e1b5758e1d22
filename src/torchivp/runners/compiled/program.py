"""The whole loop as one function of tensors, for torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from .attempt import attempt
from .pure import Pure
from .starting import started
from .step import TIMES, Carry, Fixed, Form, State, Taken, in_totals, slopes_written


class Record(NamedTuple):
    """Accepted steps written down one after the other: ``[slots, *batch]`` (``tries [slots]``), of the state's tensors
    ``[slots, *batch, ...]``, of their slopes ``[slots, stages, *batch, ...]``, of the past ``[slots, M, *batch, ...]``, and the
    marks of their matrices ``[slots, 3, *batch]`` (``kept.Keep``)."""

    accepted: Tensor
    tries: Tensor
    t: Tensor
    t1: Tensor
    ys: tuple[Tensor, ...]
    ks: tuple[Tensor, ...]
    past: tuple[Tensor, ...] = ()
    keep: tuple[Tensor, ...] = ()

    def write(self, slot: Tensor, tries: Tensor, taken: Taken) -> None:
        """In place: the loop touches one slot, not all of them."""
        at = (slot.reshape(1),)
        self.accepted.index_put_(at, taken.accepted.unsqueeze(0))
        self.tries.index_put_(at, tries.reshape(1))
        self.t.index_put_(at, taken.t.unsqueeze(0))
        self.t1.index_put_(at, taken.t1.unsqueeze(0))
        self.write_states(slot, taken)

    def write_states(self, slot: Tensor, taken: Taken) -> None:
        """Those, the slopes and the past alone."""
        at = (slot.reshape(1),)
        for i, y in enumerate(self.ys):
            y.index_put_(at, taken.ys[i].unsqueeze(0))
        for i, k in enumerate(self.ks):
            k.index_put_(at, torch.stack([stage[i] for stage in taken.stages[: k.shape[1]]]).unsqueeze(0))
        for x, line in zip((*self.past, *self.keep), (*taken.past, *taken.keep)):
            x.index_put_(at, line.unsqueeze(0))

    @property
    def times(self) -> Record:
        """The same without states, slopes and past."""
        return Record(self.accepted, self.tries, self.t, self.t1, (), ())

    def first(self, n: int) -> Record:
        """The first ``n`` slots."""
        return Record(
            self.accepted[:n], self.tries[:n], self.t[:n], self.t1[:n], tuple(y[:n] for y in self.ys),
            tuple(k[:n] for k in self.ks), tuple(x[:n] for x in self.past), tuple(x[:n] for x in self.keep),
        )  # fmt: skip


def new_record(form: Form, batch: Sequence[int], ys: State, past: State = ()) -> Record:
    """Room for the steps to come; only what is written to becomes memory."""
    n, device = form.slots + form.unroll, ys[0].device  # the last turn may begin in the last slot
    stages = slopes_written(form)
    if form.slopes == TIMES:
        ys, past = (), ()
    return Record(
        torch.empty(n, *batch, dtype=torch.bool, device=device),
        torch.empty(n, dtype=torch.int64, device=device),
        torch.empty(n, *batch, dtype=torch.float64, device=device),
        torch.empty(n, *batch, dtype=torch.float64, device=device),
        tuple(torch.empty(n, *y.shape, dtype=y.dtype, device=device) for y in ys),
        tuple(torch.empty(n, stages, *y.shape, dtype=y.dtype, device=device) for y in ys if stages),
        tuple(torch.empty(n, *x.shape, dtype=x.dtype, device=device) for x in past),
        (torch.empty(n, 3, *batch, dtype=torch.float64, device=device),) if form.keeps and form.slopes > TIMES else (),
    )


Program = Callable[..., Carry]
"""``program(carry, fixed, held, record)``, see ``make_program``"""


def make_program(form: Form, pure: Pure) -> Program:
    """``program(carry, fixed, held, record)``: attempt steps until no row is running, the record is full, or ``carry.until``
    attempts were made."""

    def program(start: Carry, fixed: Fixed, held: State, record: Record | None) -> Carry:
        start = started(form, pure, fixed, held, start)
        shape = len(start.ys), len(start.past)

        def goes_on(*now: Tensor) -> Tensor:
            return now[0][0] != 0

        def opens(*now: Tensor) -> Tensor:
            return goes_on(*now) & ~known(now[-1])

        def turn(form: Form) -> Callable[..., tuple[Tensor, ...]]:
            def once(*now: Tensor) -> tuple[Tensor, ...]:
                at = put_together(now, *shape)
                for _ in range(form.unroll):
                    before = at
                    at, taken = attempt(form, pure, fixed, held, before)
                    if record is not None:
                        record.write(before.slot, at.tries, taken)
                room = at.tries < at.until
                if record is not None:
                    room = room & (at.slot < form.slots)
                totals = in_totals(at.go & room, *at.totals[1:].unbind(0))
                return (totals, at.rows, *at.ys, *at.ks, *at.past, *at.keep)

            return once

        now: Sequence[Tensor] = (start.totals, start.rows, *start.ys, *start.ks, *start.past, *start.keep)
        if form.opening is not None:
            now = kept(opens, turn(opened(form)), tuple(now))
        return put_together(while_loop(goes_on, turn(form), tuple(now)), *shape)

    return program


def kept(
    goes_on: Callable[..., Tensor], turn: Callable[..., tuple[Tensor, ...]], start: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """A loop whose result is computed with, also if it makes no turn: it then returns its inputs, whose memory inductor takes for
    free by then, unless somebody needs them."""
    turns = goes_on(*start)
    return tuple(torch.where(turns, new, old) for new, old in zip(while_loop(goes_on, turn, start), start))


def opened(form: Form) -> Form:
    """The form of the first steps."""
    return form if form.opening is None else replace(form, stages=form.opening.stages, unroll=1)


def known(times: Tensor) -> Tensor:
    """Whether the past with these times is long enough."""
    return torch.isfinite(times).all()


def put_together(tensors: Sequence[Tensor], leaves: int, lines: int) -> Carry:
    """A carry from its tensors, so many of which are the state's and the past's."""
    totals, rows, *rest = tensors
    ys, ks, past, keep = (tuple(rest[a:b]) for a, b in pairwise((0, leaves, 2 * leaves, 2 * leaves + lines, len(rest))))
    return Carry(totals, rows, ys, ks, past, keep)
