"""``gradient="implicit"``: the gradient of a steady state, by the implicit function theorem.

At a steady state ``f(y, p) = 0`` the way there does not matter: ``dy/dp = -(df/dy)^-1 df/dp``, and y0 has no influence.

Source: S. G. Krantz, H. R. Parks, The implicit function theorem (2013), doi:10.1007/978-1-4614-5981-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._types import Rows
from ..autocast import without_autocast
from ..errors import GradientError, InputError
from ..events import Detector, states_at
from ..plan import Plan
from ..problem import Problem
from ..runners.eager import Run
from ..span import OneSpan
from ..trajectory import Piece
from .backsolve import Linearised
from .base import Gradient, nothing_to_do, refuse_reverse_transforms
from .closure import check_still_held
from .direct import Direct
from .inputs import Inputs, find_inputs
from .once import first_derivative_only
from .side_effects import no_side_effects

_LARGEST = 2_000  # numbers in a state whose Jacobian is still formed and factorised


@dataclass(frozen=True)
class Implicit(Gradient):
    """The gradient of a steady state with respect to args and parameters, in the memory of one evaluation.

    Raises:
        InputError: in ``solve``, without a ``SteadyState`` among the events, or if more than the end is saved.
        GradientError: if the solve did not come to rest, or the steady state is not isolated.

    Example:
        >>> rest = torchivp.SteadyState()
        >>> sol = torchivp.solve(f, y0, (0.0, 1e4), args, events=rest, save="end", gradient="implicit")
        >>> sol.y[-1]
    """

    def integrate(self, problem: Problem, plan: Plan) -> Run:
        if not any(event.at_rest for event in plan.events):
            raise InputError(
                "gradient='implicit' is the gradient of a steady state, and no event stops the solve at one. Write "
                "events=torchivp.SteadyState(), or take gradient='discrete'."
            )
        if plan.dense or not plan.save.end_too or plan.save.at_start(problem.t0):
            raise InputError(
                "gradient='implicit' is the gradient of the steady state alone, not of the way there. Write save='end' without "
                "dense=True, or take gradient='discrete'."
            )
        if nothing_to_do():
            refuse_reverse_transforms(self)
            return Direct().integrate(problem, plan)
        inputs, known = find_inputs(problem, plan)
        if not inputs.wanted:
            return plan.run(problem, plan, known=known)
        frozen = problem.frozen()
        with torch.no_grad():
            out = plan.run(frozen, plan, known=known)
            if out.state.status.success:
                t, y = resting_point(frozen, plan, out)
        if out.state.status.success:
            put_back(out, _AtRest.apply(Resting(problem, inputs, t, out.counters), y, *inputs.tensors))
        return out


def resting_point(problem: Problem, plan: Plan, out: Run) -> tuple[float, Rows]:
    """Time and state at the end of the solve, which has to be at rest there."""
    trajectory = out.trajectory
    if trajectory.events and plan.events[trajectory.events[-1].event].at_rest:
        return trajectory.events[-1].t, states_at(trajectory, trajectory.events[-1])
    t, y = trajectory.end_time, trajectory.end
    rest = next(event for event in plan.events if event.at_rest)
    if not float(Detector((rest,), problem).value(rest, torch.tensor(t, dtype=torch.float64), y)) <= 0:
        raise GradientError(
            f"The solve ended at t={problem.direction * t:g} without coming to rest, so its end is no steady state. Give it "
            f"more time, or a SteadyState with larger tolerances; or take gradient='discrete'."
        )
    return t, y


def put_back(out: Run, row: Rows) -> None:
    """The end, and the event there, become the steady state with its gradient."""
    trajectory = out.trajectory
    trajectory.end = out.state.y = row
    if trajectory.events:
        last = trajectory.events[-1]
        still = Piece(
            OneSpan(last.t, last.t + 1.0, size=1.0), row, torch.zeros_like(row.detach()), row.detach().new_ones(1, 1)
        )
        trajectory.pieces.append(still)
        trajectory.events[-1] = last._replace(piece=len(trajectory.pieces) - 1)


@dataclass(frozen=True)
class Resting:
    """What the backward pass needs to know."""

    problem: Problem
    inputs: Inputs
    t: float
    counters: dict[str, int]

    @without_autocast
    def gradients(self, y: Rows, cotangent: Rows, tensors: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients of ``inputs.tensors``: those of y0 and the times vanish."""
        problem, inputs = self.problem, self.inputs
        check_still_held(problem.field.f, inputs.held)
        field, given = inputs.for_backward_solve(problem.field, tensors)
        params = [x for x in given if x.requires_grad]
        with no_side_effects(field, inputs.moving):
            slope, leaf = Linearised(field, params).evaluate(field.time(self.t) * field.direction, y)
            multiplier = solve_transposed(slope, leaf, cotangent)
            grads = torch.autograd.grad(slope, params, -multiplier, allow_unused=True, retain_graph=True)
        self.counters["replayed"] += field.evaluations
        at_times = None if inputs.times is None else torch.zeros_like(inputs.times)
        return inputs.in_order(torch.zeros_like(y), at_times, given, grads)


def solve_transposed(slope: Rows, y: Rows, cotangent: Rows) -> Rows:
    """``x`` with ``x . df/dy = cotangent``."""
    size = y.shape[1]
    if size > _LARGEST or y.is_complex():
        raise GradientError(
            f"gradient='implicit' factorises the Jacobian of f, for real states of at most {_LARGEST} numbers; this one has "
            f"{size} of {y.dtype}. Take gradient='discrete'."
        )
    eye = torch.eye(size, dtype=y.dtype, device=y.device).unsqueeze(1)
    jacobian = torch.autograd.grad(slope, y, eye, is_grads_batched=True, retain_graph=True)[0].squeeze(1)
    try:
        return torch.linalg.solve(jacobian.T, cotangent.reshape(-1)).view(1, size)
    except RuntimeError:  # torch.linalg.LinAlgError is one
        raise GradientError(
            "The Jacobian of f at the steady state is singular: the steady state is not isolated (a conserved quantity, "
            "perhaps), so it also depends on y0. Take gradient='discrete'."
        ) from None


class _AtRest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, resting: Resting, y: Rows, *tensors: Tensor) -> Tensor:
        ctx.resting = resting
        ctx.save_for_backward(y, *tensors)
        return y.detach()

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        y, *tensors = ctx.saved_tensors
        return (None, None, *ctx.resting.gradients(y, cotangent, tensors))
