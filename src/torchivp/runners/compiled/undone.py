"""The gradient of a compiled solve whose steps are undone: the calls of its loop, gone through backwards in compiled calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ...problem import Problem
from .backward import Adjoint
from .compile import program_of
from .gradient import Outcome
from .march import Loop, Part
from .path import Path, Pieces
from .step import Where
from .undo import UndoneBackward, make_undoing

StartCheck = Callable[[Tensor, Tensor, Tensor, str], object]
"""``check(computed, known, last, what)``: whether a state that was computed backwards is the known one, all ``[B, D]``; ``last``
is that at the end of the solve, ``what`` the name of the computed one."""


class UndoneOutcome(Outcome):
    """An ``Outcome`` of steps that are undone.

    Args:
        check_start: looks at the states that the method started afresh from.
    """

    def __init__(self, problem: Problem, loop: Loop, path: Path, end: Tensor, weights: Tensor, check_start: StartCheck):
        super().__init__(problem, loop, path, end, weights)
        self.check_start = check_start
        self.last = loop.leaves.rows(loop.leaves.of(end))

    def asked(self, number: int, goes_on: bool) -> int:
        return super().asked(number, goes_on) + len(self.path.looked[number]) * self.loop.form.asks

    def through(
        self,
        number: int,
        part: Part,
        cotangent: Tensor,
        pieces: Pieces | None,
        at: Any,
        behind: Adjoint,
        held: Sequence[Tensor],
    ) -> tuple[Any, Adjoint]:
        if part.end is not None:
            at = Where(part.end.ys, part.end.ks, part.end.past)
        given, behind = self.given(number, part, cotangent, pieces, behind)
        at, behind = self.undoing()(self.way(part), at, behind, given, part.record, part.fixed, held)
        if part.restarts:
            rows = self.loop.leaves.rows
            before = self.path.parts[number - 1].end.ys if number else self.loop.leaves.of(self.problem.y0)
            self.check_start(rows(at.ys), rows(before), self.last, "A state" if number else "y0")
        return at, behind

    def undoing(self) -> UndoneBackward:
        pure, form = self.loop.seen.pure, self.loop.form
        key = ("undone", form, self.wanted)
        program: UndoneBackward = program_of(pure, key, "gradient", lambda: make_undoing(form, pure, self.wanted))
        return program
