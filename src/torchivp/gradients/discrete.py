"""``gradient="discrete"``: the exact gradient of the computed solution, by taking the accepted steps again.

The forward pass runs without autograd and keeps, for every accepted step, its start. The backward pass takes the steps
again from last to first, one small graph at a time (of a single step, or of several small ones): the memory of that graph
instead of all, and no graph of rejected steps or of the step-size control.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import InputError
from ..plan import Plan
from ..problem import Problem
from ..runners.eager import Run
from ..trajectory import Series, Tape
from . import checkpoints, replay
from .base import Gradient, nothing_to_do


@dataclass(frozen=True)
class Discrete(Gradient):
    """The exact gradient of the computed solution, by taking the accepted steps again, backwards.

    Args:
        every: keep the start of every ``every``-th step, or ``"sqrt"``: of about the square root of their number. What lies
            between is computed once more in the backward pass. 1 keeps all.
        checkpoints: keep at most so many starts, however many steps there are; what is missing is computed again by the
            binomial schedule, several times where it must be.

    Raises:
        InputError: for settings that make no sense.

    Example:
        >>> torchivp.solve(f, y0, t, gradient=torchivp.gradients.Discrete(every="sqrt"))
    """

    every: int | str = 1
    checkpoints: int | None = None

    def __post_init__(self) -> None:
        counts = isinstance(self.every, int) and self.every >= 1
        if not (counts or self.every == "sqrt"):
            raise InputError(f"every={self.every!r} is no distance between checkpoints. Give 1, 2, 3, ... or 'sqrt'.")
        if self.checkpoints is not None and self.checkpoints < 1:
            raise InputError(f"checkpoints={self.checkpoints}: at least one is needed to start from. Give 1, 2, 3, ...")
        if self.checkpoints is not None and self.every != 1:
            raise InputError(
                f"every={self.every!r} and checkpoints={self.checkpoints} both say which states to keep. Give one of them."
            )

    def integrate(self, problem: Problem, plan: Plan) -> Run:
        if plan.with_gradient is not None and not nothing_to_do():
            out = plan.with_gradient(problem, plan, series=self.series())
            if out is not None:
                return out
        return replay.integrate(problem, plan, self.new_tape())

    def new_tape(self) -> Callable[[], Tape]:
        """Makes the tape that these settings ask for."""
        if self.checkpoints is not None:
            number = self.checkpoints
            return lambda: checkpoints.at_most(number)
        if isinstance(self.every, int):
            stride = self.every
            return lambda: checkpoints.every(stride)
        return checkpoints.square_root

    def series(self) -> Series | None:
        """What these settings ask of a runner that takes many steps at once; None: to keep all starts."""
        if self.checkpoints is not None:
            return checkpoints.series_at_most(self.checkpoints)
        if isinstance(self.every, int):
            return None if self.every == 1 else checkpoints.series_every(self.every)
        return checkpoints.series_square_root()
