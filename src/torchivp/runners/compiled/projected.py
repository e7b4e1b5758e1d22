"""The projection of steps that end on a manifold, as a pure function of tensors."""

from __future__ import annotations

import torch

from ...errors import NotCompilable
from ...methods import Projected
from ...plan import Plan
from ...problem import Problem
from .compile import refused
from .pure import Beside, Seen, tracer_of


def with_projection(problem: Problem, plan: Plan, seen: Seen) -> tuple[Beside | None, Seen]:
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
    return Beside.of(onto, seen)


_of_state = lambda t, y, project: project(y)  # no def: see pure._call
