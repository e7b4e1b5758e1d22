"""The differentiable inputs of a solve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..collectives import watch
from ..errors import OutputError
from ..plan import Plan
from ..problem import Problem
from ..runners.eager import UNKNOWN, KnownSlope
from ..state import flatten
from .closure import probe
from .side_effects import Watched


@dataclass(frozen=True)
class Inputs:
    """The differentiable inputs of a solve.

    Attributes:
        y0: ``[1, D]``.
        times: ``[T]``, if they require grad.
        leaves: all leaves of args; ``places`` are those that require grad.
        closed: the tensors ``f`` closes over.
        held: those of them that one finds by looking at ``f``.
        moving: modules in ``f`` whose buffers an evaluation changes.
    """

    y0: Tensor
    times: Tensor | None
    leaves: list[Any]
    places: list[int]
    closed: list[Tensor]
    held: list[Tensor]
    moving: list[nn.Module] = field(default_factory=list)

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

    def as_f_uses_them(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The inputs besides y0 for a backward pass, from saved ones: new leaves, but for the very objects that ``f`` closes
        over."""
        return [*(x.detach().requires_grad_() for x in tensors[1 : len(tensors) - len(self.closed)]), *self.closed]


def find_inputs(problem: Problem, plan: Plan) -> tuple[Inputs, KnownSlope]:
    """What to differentiate, and the slope at the start (where ``f`` shows what it uses, and what it leaves behind)."""
    leaves = flatten(problem.field.args)[0]
    places = [i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.requires_grad]
    known = UNKNOWN
    closed: list[Tensor] = []
    extra: list[Tensor] = []
    moving: list[nn.Module] = []
    if problem.t0 < plan.limits.end:
        watched = Watched(problem.field)
        try:
            span = plan.limits.cut(problem.t0, math.inf)
            with watch(plan.steps_vary, taken_again=True):
                slope, closed, extra = probe(problem.field, span, problem.y0, [leaves[i] for i in places])
        except OutputError:  # the solve meets it again and reports it with its time
            problem.field.evaluations = 0
        else:
            moving, problem.field.draws = watched.moved(), watched.draws()
            known = KnownSlope(slope, watched.random if problem.field.draws else None)
    return Inputs(problem.y0, problem.clock.times, leaves, places, closed + extra, closed, moving), known
