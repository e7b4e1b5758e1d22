"""The whole loop as one function of tensors, for torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from .pure import Pure
from .step import Carry, Fixed, Form, State, Taken, attempt

_PARTS = Carry._fields


class Record(NamedTuple):
    """Accepted steps written down one after the other: ``[slots, *batch]`` (``tries [slots]``), of the state's tensors ``[slots, *batch, ...]``, of
    their slopes ``[slots, stages, *batch, ...]``."""

    accepted: Tensor
    tries: Tensor
    t: Tensor
    t1: Tensor
    ys: tuple[Tensor, ...]
    ks: tuple[Tensor, ...]

    def write(self, slot: Tensor, tries: Tensor, taken: Taken) -> None:
        """In place: the loop touches one slot, not all of them."""
        at = (slot.reshape(1),)
        self.accepted.index_put_(at, taken.accepted.unsqueeze(0))
        self.tries.index_put_(at, tries.reshape(1))
        self.t.index_put_(at, taken.t.unsqueeze(0))
        self.t1.index_put_(at, taken.t1.unsqueeze(0))
        for i, y in enumerate(self.ys):
            y.index_put_(at, taken.ys[i].unsqueeze(0))
        for i, k in enumerate(self.ks):
            k.index_put_(at, torch.stack([stage[i] for stage in taken.stages[: k.shape[1]]]).unsqueeze(0))

    def first(self, n: int) -> Record:
        """The first ``n`` slots."""
        return Record(
            self.accepted[:n], self.tries[:n], self.t[:n], self.t1[:n], tuple(y[:n] for y in self.ys),
            tuple(k[:n] for k in self.ks),
        )  # fmt: skip


Program = Callable[[Carry, Fixed, State, "Record | None", Tensor], Carry]


def make_program(form: Form, pure: Pure) -> Program:
    """``program(carry, fixed, held, record, until)``: attempt steps until no row is running, the record is full, or ``until``
    attempts were made."""

    def program(start: Carry, fixed: Fixed, held: State, record: Record | None, until: Tensor) -> Carry:
        tensors, put_together = flat(start)

        def more(*now: Tensor) -> Tensor:
            return now[0].clone()

        def once(*now: Tensor) -> tuple[Tensor, ...]:
            at = put_together(now)
            after, taken = attempt(form, pure, fixed, held, at)
            room = after.tries < until
            if record is not None:
                record.write(at.slot, after.tries, taken)
                room = room & (after.slot < form.slots)
            return tuple(flat(after._replace(go=after.go & room))[0])

        return put_together(while_loop(more, once, tuple(x.clone() for x in tensors)))

    return program


def flat(carry: Carry) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Carry]]:
    """The tensors of a carry, and how they are put together again."""
    widths = [len(part) if isinstance(part, tuple) else None for part in carry]
    tensors = list(chain.from_iterable(part if isinstance(part, tuple) else (part,) for part in carry))

    def put_together(given: Sequence[Tensor]) -> Carry:
        parts, i = [], 0
        for width in widths:
            parts.append(given[i] if width is None else tuple(given[i : i + width]))
            i += 1 if width is None else width
        return Carry(*parts)

    return tensors, put_together
