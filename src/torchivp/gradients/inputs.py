"""The differentiable inputs of a solve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..collectives import watch
from ..errors import OutputError
from ..plan import Plan
from ..problem import Problem
from ..state import flatten
from .closure import probe


@dataclass(frozen=True)
class Inputs:
    """The differentiable inputs of a solve.

    Attributes:
        y0: ``[1, D]``.
        times: ``[T]``, if they require grad.
        leaves: all leaves of args; ``places`` are those that require grad.
        closed: the tensors ``f`` closes over.
        held: those of them that one finds by looking at ``f``.
    """

    y0: Tensor
    times: Tensor | None
    leaves: list[Any]
    places: list[int]
    closed: list[Tensor]
    held: list[Tensor]

    @property
    def tensors(self) -> list[Tensor]:
        times = [] if self.times is None else [self.times]
        return [self.y0, *times, *(self.leaves[i] for i in self.places), *self.closed]

    @property
    def wanted(self) -> bool:
        return any(x.requires_grad for x in self.tensors)

    def split(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor | None, list[Any], list[Tensor]]:
        """y0, times, args' leaves and closed-over tensors from new tensors in the order of ``tensors``."""
        y0, *rest = tensors
        times = None if self.times is None else rest.pop(0)
        leaves = list(self.leaves)
        for i in self.places:
            leaves[i] = rest.pop(0)
        return y0, times, leaves, rest


def find_inputs(problem: Problem, plan: Plan) -> tuple[Inputs, Tensor | None]:
    """What to differentiate, and the slope at the start (where ``f`` shows what it uses)."""
    leaves = flatten(problem.field.args)[0]
    places = [i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.requires_grad]
    slope = None
    closed: list[Tensor] = []
    extra: list[Tensor] = []
    if problem.y0.numel() and problem.t0 < plan.limits.end:
        try:
            span = plan.limits.cut(problem.t0, math.inf)
            with watch(plan.steps_vary, taken_again=True):
                slope, closed, extra = probe(problem.field, span, problem.y0, [leaves[i] for i in places])
        except OutputError:  # the solve meets it again and reports it with its time
            problem.field.evaluations = 0
    return Inputs(problem.y0, problem.clock.times, leaves, places, closed + extra, closed), slope
