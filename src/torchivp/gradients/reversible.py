"""``gradient="reversible"``: the exact gradient of the computed solution, in memory that does not grow with the steps.

Nothing is kept of a step but its interval. The backward pass computes the start of every step from its end, which a
reversible method can do to rounding, and takes the step again from there, as ``discrete`` does.

Source: S. McCallum, J. Foster, Efficient, accurate and stable gradients for neural ODEs (2024), doi:10.48550/arXiv.2410.11648.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..errors import InputError
from ..plan import Plan
from ..problem import Problem
from ..runners.eager import Run
from ..trajectory import Start, StepsAgain, Tape, TapeEntry
from . import replay
from .base import Gradient, nothing_to_do
from .drift import check_drift, relative


@dataclass(frozen=True)
class Reversible(Gradient):
    """The exact gradient of the computed solution; the states are computed backwards by the reversible method.

    Raises:
        InputError: in ``solve``, for a method that is not reversible.
        GradientError: in the backward pass, where y0 comes out further from the stored one than ``rtol`` (and than rounding
            explains): the steps could not be taken back.

    Example:
        >>> torchivp.solve(f, y0, t, method=torchivp.methods.Reversible("tsit5"), gradient="reversible")
    """

    def integrate(self, problem: Problem, plan: Plan) -> Run:
        if not plan.method.reversible:
            raise InputError(
                f"gradient='reversible' computes the steps backwards, which {plan.method!r} cannot do. Write "
                f"method=torchivp.methods.Reversible('tsit5'), 'reversible_heun' or 'alf', or take gradient='discrete'."
            )
        rtol = float(torch.as_tensor(problem.tolerance.rtol).max()) if plan.controller.adaptive else 0.0
        if plan.with_gradient is not None and not nothing_to_do():
            out = plan.with_gradient(problem, plan, partial(check_start, rtol))
            if out is not None:
                return out
        return replay.integrate(problem, plan, lambda: EndOnly(rtol))


class EndOnly(Tape):
    """Keeps the end of the last step, and of those after which the method started afresh (at jumps).

    Args:
        rtol: of the solve (0 for fixed steps); decides how far the start may come out from the stored one.
    """

    def __init__(self, rtol: float):
        super().__init__()
        self.rtol = rtol
        self.ends: dict[int, Start] = {}
        self.first: Start | None = None

    def keep(self, number: int, entry: TapeEntry, start: Start, end: Start) -> None:
        if self.first is None:
            self.first = start
        elif entry.past:  # the step before has handed its end on
            del self.ends[number - 1]
        self.ends[number] = end

    def rewind(self, again: StepsAgain) -> Iterator[tuple[TapeEntry, Start]]:
        start: Start | None = None
        for number in reversed(range(len(self.entries))):
            entry = self.entries[number]
            end = self.ends.get(number, start)
            if end is None:
                raise IndexError(number)
            start = again.undo(entry, end)
            known = self._known(number, entry)
            if known is not None:
                each, last = entry.span.each, self.ends[len(self.entries) - 1]
                what = "A state" if number else "y0"
                off = check_start(self.rtol, each(start.y), each(known.y), each(last.y), what)
                self.drift = max(self.drift, off)
                start = known
            yield entry, start

    def _known(self, number: int, entry: TapeEntry) -> Start | None:
        """The stored start of a step, where there is one: of the first step, and where the method started afresh."""
        if number == 0:
            return self.first
        return None if entry.past else Start(self.ends[number - 1].y, ())


def check_start(rtol: float, computed: Tensor, known: Tensor, last: Tensor, what: str) -> float:
    """How far, relatively, a state came out that was computed backwards.

    Args:
        rtol: of the solve.
        computed, known, last: the state as it was computed, as it should be, and at the end of the solve, ``[B, D]``.
        what: names it.

    Raises:
        GradientError: if that is more than the solution is exact, with room for rounding errors that have grown.
    """
    off = relative(computed - known, known, last, dim=1).amax()
    most = min(0.5, max(rtol, 10 * torch.finfo(known.dtype).eps ** 0.5))
    check_drift(off, most, what)
    return float(off)
