"""Between a solve and its solve backwards: outputs and events go in and come out with a gradient, and the inputs get theirs.

What ``adjoint``, ``interpolated`` and ``gauss`` share; each says which ``System`` is integrated.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import saving
from .._types import PyTree, Rows
from ..autocast import without_autocast
from ..controllers import Limits
from ..errors import InputError
from ..events import states_at
from ..methods import Method
from ..methods.table import choose_method
from ..plan import Plan, choose_controller
from ..problem import Problem, make_tolerance
from ..runners.eager import Run
from ..solution import Status
from ..span import OneSpan
from ..tolerance import Tolerance
from ..trajectory import Knot, Piece, Tape
from .backsolve import Linearised, Outputs, System, solve_back, time_gradients
from .base import Gradient, nothing_to_do, refuse_reverse_transforms
from .closure import check_still_held
from .direct import Direct
from .inputs import Inputs, find_inputs
from .once import first_derivative_only
from .side_effects import no_side_effects


@dataclass(frozen=True)
class BackwardGradient(Gradient):
    """Settings of a gradient by a backward solve; None: those of the forward solve.

    Args:
        method: of the backward solve.
        rtol, atol: of the backward solve, for the adjoint (and the state) as for the forward state.
    """

    method: str | Method | type[Method] | None = None
    rtol: PyTree = None
    atol: PyTree = None

    @abstractmethod
    def system(self, linear: Linearised, y: Rows, kept: Any) -> System:
        """What to integrate.

        Args:
            linear: the forward field.
            y: a state, for its size and dtype.
            kept: what ``kept`` returned.
        """

    def kept(self, out: Run, plan: Plan) -> Any:
        """What the backward solve needs of the forward run besides its outputs."""
        return None

    def forward_plan(self, plan: Plan) -> Plan:
        """The plan of the forward solve."""
        return plan

    def new_tape(self) -> Callable[[], Tape] | None:
        """What to write down in the forward solve."""
        return None

    def integrate(self, problem: Problem, plan: Plan) -> Run:
        """Solve without autograd; the outputs and events get the gradient of the backward solve."""
        self.check(plan)
        if nothing_to_do():
            refuse_reverse_transforms(self)
            return Direct().integrate(problem, plan)
        inputs, known = find_inputs(problem, plan)
        if not inputs.wanted:
            return plan.run(problem, plan, known=known)
        if plan.dense:
            raise InputError(
                f"gradient={type(self).__name__.lower()!r} differentiates outputs and events, not dense output. Name the times "
                f"in `t`, or write gradient='discrete'."
            )
        frozen = problem.frozen()
        with torch.no_grad():
            out = plan.run(frozen, self.forward_plan(plan), new_tape=self.new_tape(), known=known)
            attached = Attached(problem, out)
            kept = self.kept(out, plan)
        backward = Backward(self, problem, plan, inputs, out.counters, attached.times, kept)
        attached.put_back(list(_Backward.apply(backward, attached.states, *inputs.tensors).split(1)))
        return out

    def check(self, plan: Plan) -> None:
        """Raise if the backward solve cannot use the forward method."""
        if self.method is None and plan.method.carries != "slopes":
            raise InputError(
                f"gradient={type(self).__name__.lower()!r} solves backwards with the forward method, and {plan.method!r} cannot "
                f"take an integral along. Name another one, {type(self).__name__}(method='tsit5'), or write "
                f"gradient='discrete'."
            )

    def stops(self, kept: Any) -> list[float]:
        """Where else the backward solve has to land, as the forward solve counts time."""
        return []

    def backward_plan(self, plan: Plan, problem: Problem, kept: Any) -> Plan:
        """The same method and control, backwards: landing on every output (and on the points of a fixed grid)."""
        method = plan.method if self.method is None else choose_method(self.method)
        same = plan.controller.adaptive == method.adaptive or not plan.controller.adaptive
        controller = plan.controller if same else choose_controller(method, None, None)
        limits = Limits(
            problem.t[-1],
            stops=[*problem.t, *(-x for x in plan.limits.stops), *(-x for x in self.stops(kept))],
            jumps=[-x for x in plan.limits.jumps],
            dtype=problem.layout.real_dtype,
            start=problem.t0,
        )
        return Plan(method, controller, limits, saving.EndOnly(), max_steps=plan.max_steps, run=plan.run)

    def tolerance_for(self, problem: Problem) -> Tolerance:
        """Of the adjoint, as for a state."""
        forward = problem.tolerance
        if self.rtol is None and self.atol is None:
            return forward
        rtol = forward.rtol if self.rtol is None else self.rtol
        atol = forward.atol if self.atol is None else self.atol
        return make_tolerance(rtol, atol, problem.layout, forward.norm)


class Attached:
    """The outputs and events of a run as points the backward solve starts from, and their way back into the run.

    Attributes:
        times: of the points, increasing; the start is the first one.
        states: ``[T, D]``.
    """

    def __init__(self, problem: Problem, out: Run):
        self.problem, self.out = problem, out
        trajectory = out.trajectory
        times, states = saving.read(trajectory, end_too=out.state.status is not Status.EVENT)
        found = {problem.t0: problem.y0.detach()}
        found.update((event.t, states_at(trajectory, event)) for event in trajectory.events)
        found.update(zip(times.tolist(), states.split(1)))
        self.times = sorted(found)
        self.states = torch.cat([found[t] for t in self.times])

    @torch.no_grad()
    def put_back(self, rows: list[Tensor]) -> None:
        """Every output becomes a knot, every event a piece: a straight line through its state along the flow."""
        trajectory, problem = self.out.trajectory, self.problem
        number = {t: i for i, t in enumerate(self.times)}
        trajectory.pieces = []
        for i, event in enumerate(trajectory.events):
            row = rows[number[event.t]]
            slope = problem.field.with_args(problem.field.args)(problem.field.time(event.t), row.detach())
            span = OneSpan(event.t, event.t + 1.0, size=1.0)
            trajectory.events[i] = event._replace(piece=len(trajectory.pieces))
            trajectory.pieces.append(Piece(span, row, slope, slope.real.new_ones(1, 1).to(slope)))
        trajectory.outputs = [Knot(number[float(o.t)], problem.clock(o.t)) for o in trajectory.outputs]
        trajectory.knots = rows
        trajectory.end = self.out.state.y = rows[-1]


@dataclass(frozen=True)
class Backward:
    """What the backward pass of a solve needs to know."""

    how: BackwardGradient
    problem: Problem
    plan: Plan
    inputs: Inputs
    counters: dict[str, int]
    times: list[float]
    kept: Any

    @without_autocast
    def gradients(self, states: Tensor, cotangents: Tensor, tensors: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients of ``inputs.tensors``, from the outputs ``[T, D]`` and their cotangents ``[T, D]``."""
        problem, inputs = self.problem, self.inputs
        check_still_held(problem.field.f, inputs.held)
        field, given = inputs.for_backward_solve(problem.field, tensors)
        params = [x for x in given if x.requires_grad]
        outputs = Outputs(self.times, states, cotangents)
        with no_side_effects(field, inputs.moving):
            linear = Linearised(field, params)
            system = self.how.system(linear, problem.y0.detach(), self.kept)
            back = solve_back(system, outputs, self.how.tolerance_for(problem), self._plan)
            at_times = None
            if inputs.times is not None:
                at_times = time_gradients(field, outputs, back.at_start)
                at_times = _at_user_times(at_times, self.times, inputs.times)
        self.counters["replayed"] += field.evaluations
        self.counters["backward_attempted"] = self.counters.get("backward_attempted", 0) + back.attempted
        return inputs.in_order(back.at_start + cotangents[:1], at_times, given, back.params)

    def _plan(self, backward: Problem) -> Plan:
        """As the settings have it; but an equation that is unstable backwards has to show it soon."""
        plan = self.how.backward_plan(self.plan, backward, self.kept)
        return replace(plan, max_steps=min(plan.max_steps, 1_000 + 50 * self.counters["attempted"]))


def _at_user_times(at: Tensor, times: list[float], user: Tensor) -> Tensor:
    """Gradients of the outputs' times as gradients of the user's (a solve that stopped early reached fewer)."""
    place = {t: i for i, t in enumerate(user.detach().tolist())}
    out = torch.zeros_like(user)
    for t, g in zip(times, at):
        if t in place:
            out[place[t]] += g.to(out)
    return out


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backward: Backward, states: Tensor, *tensors: Tensor) -> Tensor:
        ctx.pass_back = backward
        ctx.save_for_backward(states, *tensors)
        return states.detach()

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, cotangents: Tensor) -> tuple[Tensor | None, ...]:
        states, *tensors = ctx.saved_tensors
        return (None, None, *ctx.pass_back.gradients(states, cotangents, tensors))
