"""The differentiable inputs of a solve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..collectives import watch
from ..errors import OutputError
from ..field import Field
from ..plan import Plan
from ..problem import Problem
from ..runners.eager import UNKNOWN, KnownSlope
from ..state import flatten, unflatten
from .closure import probe, reachable, requiring_grad
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

    def for_backward_solve(self, field: Field, tensors: Sequence[Tensor]) -> tuple[Field, list[Tensor]]:
        """The field with its inputs from saved ones, and those inputs besides y0 and the times."""
        wrt = self.as_f_uses_them(tensors)
        _, _, leaves, _ = self.split([tensors[0], *wrt])
        given = wrt if self.times is None else wrt[1:]
        return field.with_args(unflatten(flatten(field.args)[1], leaves)), given

    def in_order(
        self, at_y0: Tensor, at_times: Tensor | None, given: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """Gradients in the order of ``tensors``; ``grads`` are those of the ``given`` that require grad."""
        found = iter(grads)
        of_given = [next(found) if x.requires_grad else None for x in given]
        return [at_y0, *([] if self.times is None else [at_times]), *of_given]


def find_inputs(problem: Problem, plan: Plan) -> tuple[Inputs, KnownSlope]:
    """What to differentiate, and the slope at the start (where ``f`` shows what it uses, and what it leaves behind)."""
    leaves = flatten(problem.field.args)[0]
    places = [i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.requires_grad]
    known = UNKNOWN
    closed: list[Tensor] = []
    extra: list[Tensor] = []
    moving: list[nn.Module] = []
    if plan.limits.anything_left(problem.t0):
        objects = list(reachable(problem.field.f))
        watched = Watched(objects, problem.layout.device)
        try:
            span = plan.limits.cut(problem.t0, math.inf)
            with watch(plan.steps_vary, taken_again=True):
                args = [leaves[i] for i in places]
                slope, closed, extra = probe(problem.field, span, problem.finite_start(), args, requiring_grad(objects))
        except OutputError:  # the solve meets it again and reports it with its time
            problem.field.evaluations = 0
        else:
            moving, problem.field.draws = watched.moved(), watched.draws()
            known = KnownSlope(slope, watched.random if problem.field.draws else None)
    return Inputs(problem.y0, problem.clock.times, leaves, places, closed + extra, closed, moving), known
