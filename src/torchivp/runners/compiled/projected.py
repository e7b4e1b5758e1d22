"""Steps that end on a manifold, in a compiled loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...errors import NotCompilable
from ...methods import Projected
from ...methods.tableau import Row
from ...plan import Plan
from ...problem import Problem
from .compile import refused
from .explicit import advanced
from .pure import Pure, tracer_of
from .step import Fixed, Form, Stages, State, wide


@dataclass(frozen=True)
class Projection:
    """A method with a projection behind it, as the tableau of a form: in front of its slopes stands the way onto the manifold.

    Attributes:
        base: tableau of the method; ``stages`` takes its step.
        asks, inside: as in ``Form``, of the method.
    """

    base: Any
    stages: Callable[..., Stages]
    asks: int
    inside: tuple[int, int]

    @property
    def b(self) -> Row:
        return 1, *self.base.b

    @property
    def b_err(self) -> Row | None:
        return None if self.base.b_err is None else (0, *self.base.b_err)

    @property
    def b_err_lower(self) -> Row | None:
        lower = getattr(self.base, "b_err_lower", None)
        return None if lower is None else (0, *lower)


def projected_stages(
    form: Form, pure: Pure, fixed: Fixed, held: State, t1: Tensor, h: Tensor, ys: State, ks: State, rests: bool = False,
    past: State = (),
) -> Stages:  # fmt: skip
    """A step of the method, and the way onto the manifold."""
    projection: Projection = form.tableau
    onto: Any = form.onto
    base = replace(form, tableau=projection.base, lead=0)
    step = projection.stages(base, pure, fixed, held, t1, h, ys, ks, rests)
    there = onto(t1, [y.to(dtype) for y, dtype in zip(step.end, form.dtypes)], fixed.manifold)
    size = torch.where(h == 0, 1.0, h)
    back = tuple((x.to(y.dtype) - y) / wide(size, y) for x, y in zip(there, step.end))
    y1 = tuple(advanced(h, y, k, rests) for y, k in zip(step.end, back))
    return Stages([ks, back, *step.slopes], y1)


def manifold_of(problem: Problem, plan: Plan) -> tuple[Pure | None, tuple[Tensor, ...]]:
    """The projection as it was traced, and the tensors that it holds; of a method without one None.

    Raises:
        NotCompilable: if it cannot be traced.
    """
    if not isinstance(plan.method, Projected):
        return None, ()
    project, layout = plan.method.manifold, problem.layout
    t = torch.zeros((), dtype=torch.float64, device=layout.device)
    with refused("runner='compiled' does not go with this projection: "), torch.no_grad():
        seen = tracer_of(project)(_of_state, t, layout.unravel(problem.finite_start().detach()), (project,))
    if [x.shape for x in seen.slopes] != list(layout.shapes):
        raise NotCompilable(
            f"runner='compiled' needs a projection that returns a state like the one it gets, but this one returned shapes "
            f"{[tuple(x.shape) for x in seen.slopes]} for {[tuple(x) for x in layout.shapes]}. Return such a state."
        )
    if any(x.requires_grad for x in seen.held):
        raise NotCompilable(
            "runner='compiled' has no gradients by what a projection holds. Detach those tensors, or write runner='eager'."
        )
    return seen.pure, tuple(seen.held)


_of_state = lambda t, y, project: project(y)  # no def: see pure._call
