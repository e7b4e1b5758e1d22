"""The gradient of a compiled solve of whose steps few starts were kept: a call of its loop is made again before it is gone
through backwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .compile import program_of
from .counting import count, evaluations
from .gradient import Outcome
from .march import Loop, Part
from .path import Path
from .program import new_record
from .retake import Retake, make_retake
from .step import Form, Where


class RetakenOutcome(Outcome):
    """An ``Outcome`` of steps that are taken again."""

    def rewound(self, held: Sequence[Tensor]) -> Iterator[Part]:
        again = Again(self.loop, self.path, held, self.counters)
        for number, start in self.path.kept.rewind(again):
            yield again.take(number, start)


class Again:
    """Makes calls of a loop again.

    Args:
        loop, path: of the solve; ``held``: the tensors that ``f`` holds.
        counters: of the solve.
    """

    def __init__(self, loop: Loop, path: Path, held: Sequence[Tensor], counters: dict[str, Any]):
        self.loop, self.path, self.held, self.counters = loop, path, [x.detach() for x in held], counters
        self.record: Any = None

    def take(self, number: int, start: Where) -> Part:
        """A call with all that it wrote down (until the next one is made again)."""
        part, n = self.path.parts[number], self.path.parts[number].steps
        batch = part.record.accepted.shape[1:]
        if self.record is None:
            self.record = new_record(self.loop.form, batch, start.ys, start.past)
        for times, known in zip(self.record.times[:4], part.record):
            times[:n] = known
        asked = evaluations(self.loop.form, n, [False] * n, True, part.opened)
        self.counters["replayed"] += asked
        count(self.loop.field, asked)
        with torch.no_grad():
            end = self.program()(torch.tensor([n, part.restarts]), start, self.record, part.fixed, self.held)
        return part._replace(record=self.record, end=end)

    def onwards(self, number: int, start: Where, following: int) -> Where:
        """The start of the following call from that of this one."""
        end: Where = self.take(number, start).end
        return afresh(self.loop.form, end) if self.path.parts[following].restarts else end

    def program(self) -> Retake:
        pure, form = self.loop.seen.pure, self.loop.form
        program: Retake = program_of(pure, ("retake", form), "gradient", lambda: make_retake(form, pure))
        return program


def afresh(form: Form, at: Where) -> Where:
    """The same without a past, as in ``past.past_of``."""
    lines = [y.expand(form.past, *y.shape).clone() for y in at.ys] if form.past else []
    times = [torch.full_like(x, torch.nan) for x in at.past[len(lines) :]]
    return at._replace(past=(*lines, *times))
