"""The projection of steps that end on a manifold, as a pure function of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import NotCompilable
from ...methods import Projected
from ...plan import Plan
from ...problem import Problem
from .compile import refused
from .pure import Pure, Seen, held_too, tracer_of


@dataclass(frozen=True)
class Onto:
    """A projection that finds what it holds among the tensors that ``f`` holds.

    Args:
        project: as it was traced.
        places: of what it holds.
    """

    project: Pure
    places: tuple[int, ...]

    def __call__(self, t: Tensor, ys: Sequence[Tensor], held: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return self.project(t, ys, [held[i] for i in self.places])


def with_projection(problem: Problem, plan: Plan, seen: Seen) -> tuple[Onto | None, Seen]:
    """The projection as it was traced (of a method without one None), and ``f`` with what the projection holds besides.

    Raises:
        NotCompilable: if it cannot be traced.
    """
    if not isinstance(plan.method, Projected):
        return None, seen
    project, layout = plan.method.manifold, problem.layout
    t = torch.zeros((), dtype=torch.float64, device=layout.device)
    with refused("runner='compiled' does not go with this projection: "), torch.no_grad():
        onto = tracer_of(project)(_of_state, t, layout.unravel(problem.finite_start().detach()), (project,))
    if [x.shape for x in onto.slopes] != list(layout.shapes):
        raise NotCompilable(
            f"runner='compiled' needs a projection that returns a state like the one it gets, but this one returned shapes "
            f"{[tuple(x.shape) for x in onto.slopes]} for {[tuple(x) for x in layout.shapes]}. Return such a state."
        )
    places, seen = held_too(seen, onto.held)
    return Onto(onto.pure, places), seen


_of_state = lambda t, y, project: project(y)  # no def: see pure._call
