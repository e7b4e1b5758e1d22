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

from .._types import Rows, Time
from ..autocast import without_autocast
from ..errors import GradientError, InputError
from ..field import Field
from ..per_sample.problem import RowsProblem
from ..plan import Plan
from ..problem import Problem
from ..runners.eager import Run
from . import at_rest, rows_at_rest
from .at_rest import Rest
from .base import Gradient, nothing_to_do, refuse_reverse_transforms
from .closure import check_all_seen, check_still_held
from .direct import Direct
from .inputs import Inputs, find_inputs
from .once import first_derivative_only
from .rows_at_rest import named_rows
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
        if plan.dense or plan.save.start_too:
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
        frozen, kind = problem.frozen(), rows_at_rest if isinstance(problem, RowsProblem) else at_rest
        with torch.no_grad():
            out = plan.run(frozen, plan, known=known)
            rest = kind.resting_point(frozen, plan, out)
        if rest is not None:
            kind.put_back(
                plan, out, _AtRest.apply(Resting(problem, inputs, rest, out.counters), rest.y, *inputs.tensors)
            )
        return out


@dataclass(frozen=True)
class Resting:
    """What the backward pass needs to know."""

    problem: Problem
    inputs: Inputs
    rest: Rest
    counters: dict[str, int]

    @without_autocast
    def gradients(self, y: Rows, cotangent: Rows, tensors: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients of ``inputs.tensors``: those of y0 and the times vanish."""
        problem, inputs = self.problem, self.inputs
        check_still_held(problem.field.f, inputs.held)
        self.rest.check(cotangent)
        field, given = inputs.for_backward_solve(problem.field, tensors)
        params = [x for x in given if x.requires_grad]
        with no_side_effects(field, inputs.moving):
            slope, leaf = evaluate(field, params, self.rest.t, y)
            multiplier = solve_transposed(slope, leaf, cotangent, problem.layout.rows)
            grads = torch.autograd.grad(slope, params, -multiplier, allow_unused=True, retain_graph=True)
        self.counters["replayed"] += field.evaluations
        at_times = None if inputs.times is None else torch.zeros_like(inputs.times)
        return inputs.in_order(torch.zeros_like(y), at_times, given, grads)


def evaluate(field: Field, params: Sequence[Tensor], t: Time, y: Rows) -> tuple[Rows, Rows]:
    """The slope at a time inside the library, with its graph, and the leaf ``y`` that it was computed from."""
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        slope = field(field.time(t), y)
    if slope.requires_grad:
        check_all_seen([slope], [y, *params], t)
    return slope, y


def solve_transposed(slope: Rows, y: Rows, cotangent: Rows, rows: int) -> Rows:
    """``x`` with ``x . df/dy = cotangent``, row by row: the slope of a row depends on its own state alone."""
    size = y.shape[1] // rows
    if size > _LARGEST or y.is_complex():
        raise GradientError(
            f"gradient='implicit' factorises the Jacobian of f, for real states of at most {_LARGEST} numbers; this one has "
            f"{size} of {y.dtype}. Take gradient='discrete'."
        )
    eye = torch.eye(size, dtype=y.dtype, device=y.device)
    jacobian = torch.autograd.grad(
        slope, y, eye.repeat(1, rows).unsqueeze(1), is_grads_batched=True, retain_graph=True
    )[0]  # [D, 1, B * D]: one entry of the slope at a time, in all rows
    cotangents = cotangent.view(rows, size)
    used = (cotangents != 0).any(1).view(rows, 1, 1)
    transposed = torch.where(used, jacobian.view(size, rows, size).permute(1, 2, 0), eye)
    solution, singular = torch.linalg.solve_ex(transposed, cotangents)
    if bool(singular.any()):
        which = "" if rows == 1 else f" of {named_rows(singular != 0)}"
        raise GradientError(
            f"The Jacobian of f at the steady state{which} is singular: the steady state is not isolated (a conserved "
            f"quantity, perhaps), so it also depends on y0. Take gradient='discrete'."
        )
    return solution.reshape(1, -1)


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
