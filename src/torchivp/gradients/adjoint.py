"""``gradient="adjoint"``: the continuous adjoint, one solve backwards in time.

The gradient of the differential equation, not of the computed solution: it differs from it by the solver's error, and the
state is solved again on the way back. One solve runs from the last output to the first; it lands on every output, adds its
cotangent, takes up the stored state, and goes on with its step size. Parameter gradients are a quadrature beside the state:
the error norm does not look at them.

Source: R. T. Q. Chen et al., Neural Ordinary Differential Equations (2018), doi:10.48550/arXiv.1806.07366; the norm:
P. Kidger, R. T. Q. Chen, T. Lyons, "Hey, that's not an ODE" (2021), doi:10.48550/arXiv.2009.09457.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import saving
from .._types import Rows
from ..autocast import without_autocast
from ..controllers import Limits
from ..errors import GradientError, InputError, SolveError
from ..failures import message
from ..field import Field
from ..loop import LoopState, march, start
from ..plan import Plan
from ..problem import Clock, Problem
from ..runners.eager import Run, run
from ..state import Layout
from ..tolerance import Norm, Tolerance
from ..trajectory import Knot
from ..transforms import recorded, reverse_transformed
from . import direct
from .closure import check_all_seen, check_still_held
from .inputs import Inputs, find_inputs
from .once import first_derivative_only


def integrate(problem: Problem, plan: Plan) -> Run:
    """Solve without autograd; the outputs get the adjoint's gradient."""
    if recorded() or not torch.is_grad_enabled():
        if reverse_transformed() and torch.is_grad_enabled():
            raise GradientError(
                "gradient='adjoint' solves backwards in a backward pass of its own, which torch.func.grad, vjp and jacrev cannot "
                "look into. Write gradient='discrete' (or 'direct'), or differentiate with torch.autograd.grad."
            )
        return direct.integrate(problem, plan)
    inputs, slope = find_inputs(problem, plan)
    if not inputs.wanted:
        return run(problem, plan, slope=slope)
    if plan.dense or plan.events:
        raise InputError(
            "gradient='adjoint' differentiates the outputs of a solve, not its dense output or its events. "
            "Write gradient='discrete'."
        )
    with torch.no_grad():
        out = run(replace(problem, y0=problem.y0.detach(), clock=Clock(None)), plan, slope=slope)
        times, states = saving.read(out.trajectory, end_too=True)
    attach(problem, plan, inputs, out, times.tolist(), states)
    return out


def attach(problem: Problem, plan: Plan, inputs: Inputs, out: Run, times: list[float], states: Tensor) -> None:
    """Turn every output into a state with the adjoint's gradient."""
    trajectory = out.trajectory
    whole = [problem.t0, *times] if times[0] != problem.t0 else times
    if whole is not times:
        states = torch.cat([problem.y0.detach(), states])
    adjoint = Adjoint(problem, plan, inputs, whole, out.counters)
    rows = list(_Adjoint.apply(adjoint, states, *inputs.tensors).split(1))
    trajectory.end, out.state.y = rows[-1], rows[-1]
    skip = len(whole) - len(times)
    trajectory.knots = rows
    trajectory.outputs = [Knot(i + skip, problem.clock(o.t)) for i, o in enumerate(trajectory.outputs)]
    trajectory.pieces = []


@dataclass(frozen=True)
class Adjoint:
    """What the backward pass of a solve needs to know."""

    problem: Problem
    plan: Plan
    inputs: Inputs
    times: list[float]
    counters: dict[str, int]

    @without_autocast
    def gradients(self, states: Tensor, cotangents: Tensor, tensors: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients of ``inputs.tensors``, from the outputs ``[T, D]`` and their cotangents ``[T, D]``."""
        problem, inputs = self.problem, self.inputs
        check_still_held(problem.field.f, inputs.held)
        first = 1 if inputs.times is None else 2
        n_closed = len(inputs.closed)
        given = [*tensors[first : len(tensors) - n_closed], *inputs.closed]  # f uses the very objects it closes over
        wanted = [x.requires_grad for x in given]
        params = [x for x, w in zip(given, wanted) if w]
        field = problem.field.with_args(problem.field.args)
        back = solve_back(
            field,
            self.times,
            states,
            cotangents,
            params,
            tolerance_for=lambda layout: tolerance_of_adjoint(problem.tolerance, layout, problem.y0.shape[1]),
            plan_for=self._plan,
            check=True,
        )
        at_times = None
        if inputs.times is not None:
            at_times = time_gradients(field, self.times, states, cotangents, back.at_start)
            at_times = _at_user_times(at_times, self.times, inputs.times)
        self.counters["replayed"] += field.evaluations
        self.counters["backward_attempted"] = self.counters.get("backward_attempted", 0) + back.attempted
        grads = iter(back.params)
        of_params = [next(grads) if w else None for w in wanted]
        return [back.at_start + cotangents[:1], *([] if at_times is None else [at_times]), *of_params]

    def _plan(self, problem: Problem) -> Plan:
        """The same method and control, backwards: landing on every output (and on the points of a fixed grid)."""
        plan = self.plan
        limits = Limits(
            problem.t[-1],
            stops=[*problem.t, *(-x for x in plan.limits.stops)],
            jumps=[-x for x in plan.limits.jumps],
            dtype=problem.layout.real_dtype,
            start=problem.t0,
        )
        return Plan(plan.method, plan.controller, limits, saving.EndOnly(), max_steps=plan.max_steps)


def _at_user_times(at: Tensor, times: list[float], user: Tensor) -> Tensor:
    """Gradients of the outputs' times as gradients of the user's (a solve that stopped early reached fewer)."""
    place = {t: i for i, t in enumerate(user.detach().tolist())}
    out = torch.zeros_like(user)
    for t, g in zip(times, at):
        if t in place:
            out[place[t]] += g.to(out)
    return out


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, adjoint: Adjoint, states: Tensor, *tensors: Tensor) -> Tensor:
        ctx.adjoint = adjoint
        ctx.save_for_backward(states, *tensors)
        return states.detach()

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, cotangents: Tensor) -> tuple[Tensor | None, ...]:
        states, *tensors = ctx.saved_tensors
        return (None, None, *ctx.adjoint.gradients(states, cotangents, tensors))


@dataclass(frozen=True)
class Back:
    """Result of the backward solve.

    Attributes:
        at_start: the adjoint ``[1, D]`` at the first time, before the cotangent of the first output is added.
        params: gradients of the parameters.
        attempted: steps.
    """

    at_start: Rows
    params: list[Tensor]
    attempted: int


def solve_back(
    field: Field,
    times: Sequence[float],
    states: Tensor,
    cotangents: Tensor,
    params: Sequence[Tensor],
    *,
    tolerance_for: Callable[[Layout], Tolerance],
    plan_for: Callable[[Problem], Plan],
    check: bool = False,
) -> Back:
    """One solve from ``times[-1]`` back to ``times[0]``.

    The state is ``(y, adjoint, *parameter gradients)``, its layout a tuple of ``[1, D]``, ``[1, D]`` and the parameters'
    shapes; the problem handed to ``plan_for`` runs in the negated times.

    Args:
        field: the forward field; ``times`` are as it counts them inside, increasing.
        states, cotangents: outputs and their cotangents ``[T, D]``.
        params: tensors the gradient is wanted for; ``field`` must use these very tensors.
        tolerance_for, plan_for: choose tolerance and pieces.
        check: raise if ``f`` turns out to use tensors that are not among ``params``.

    Raises:
        SolveError: if the backward solve fails.
    """
    if len(times) == 1:
        return Back(torch.zeros_like(states), [torch.zeros_like(p) for p in params], 0)
    augmented = _augmented(field, params, check)
    example = (states[-1:], cotangents[-1:], *(torch.zeros_like(p) for p in params))
    layout = Layout(example)
    problem = Problem(
        field=Field(augmented, layout, direction=-1),
        layout=layout,
        y0=layout.ravel(example),
        t=[-t for t in reversed(times)],
        clock=Clock(None),
        direction=-1,
        tolerance=tolerance_for(layout),
    )
    plan = plan_for(problem)
    landings = {-t: i for i, t in enumerate(times)}
    state = LoopState(problem.t0, problem.y0, math.inf)
    with torch.no_grad():
        start(problem, plan, state)
        for _ in march(problem, plan, state):
            i = landings.get(state.t)
            if i:  # at the first time there is nothing to go on to
                _, adjoint, *grads = layout.unravel(state.y)
                state.y = layout.ravel((states[i : i + 1], adjoint + cotangents[i : i + 1], *grads))
    if not state.status.success:
        raise SolveError(f"The adjoint's backward solve failed. {message(problem, plan, state)}")
    _, at_start, *of_params = layout.unravel(state.y)
    return Back(at_start, of_params, state.attempted)


def _augmented(field: Field, params: Sequence[Tensor], check: bool) -> Callable[[Tensor, Any], Any]:
    """``(t, (y, a, ...)) -> (f, -a df/dy, -a df/dp ...)``, with ``t`` as the forward field counts inside."""

    def augmented(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        y, adjoint, *_ = state
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            slope = field(t * field.direction if field.direction < 0 else t, y)
        if not slope.requires_grad:
            return (slope, torch.zeros_like(y), *(torch.zeros_like(p) for p in params))
        if check:
            check_all_seen([slope], [y, *params], t)
        grads = torch.autograd.grad(slope, (y, *params), -adjoint, allow_unused=True, retain_graph=True)
        return (slope.detach(), *(torch.zeros_like(x) if g is None else g for g, x in zip(grads, (y, *params))))

    return augmented


@torch.no_grad()
def time_gradients(field: Field, times: Sequence[float], states: Tensor, cotangents: Tensor, at_start: Rows) -> Tensor:
    """Gradients ``[T]`` of the times: an output moves along the flow, a later start takes a piece of it away."""
    slopes = [field(field.time(t), y) for t, y in zip(times, states.split(1))]
    moved = [torch.sum((c.conj() * k).real) for c, k in zip(cotangents.split(1), slopes)]
    moved[0] = -torch.sum((at_start.conj() * slopes[0]).real)
    return torch.stack(moved)


def tolerance_of_adjoint(tolerance: Tolerance, layout: Layout, size: int) -> Tolerance:
    """The forward tolerance for state and adjoint; the parameters' quadrature is outside the norm."""

    def widen(tol: Tensor) -> Tensor:
        return tol if tol.dim() == 0 else torch.cat([tol, tol, tol.new_ones(1, layout.size - 2 * size)], dim=1)

    rtol = widen(tolerance.rtol) if isinstance(tolerance.rtol, Tensor) else tolerance.rtol
    return Tolerance(rtol, widen(tolerance.atol), seminorm(tolerance.norm, size))


def seminorm(norm: Norm, size: int) -> Norm:
    """The larger of the norms of the state and of the adjoint."""

    def of_state_and_adjoint(row: Tensor) -> Tensor:
        y, adjoint = norm(row[:, :size]), norm(row[:, size : 2 * size])
        return torch.maximum(torch.as_tensor(y), torch.as_tensor(adjoint))

    return of_state_and_adjoint
