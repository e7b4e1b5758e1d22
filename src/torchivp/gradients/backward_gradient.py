"""Between a solve and its solve backwards: outputs and events go in and come out with a gradient, and the inputs get theirs.

What ``adjoint``, ``interpolated`` and ``gauss`` share; each says which ``System`` is integrated.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import saving
from .._types import PyTree, Rows
from ..controllers import Controller, Limits
from ..errors import InputError
from ..events import states_at
from ..methods import Method
from ..methods.table import choose_method
from ..per_sample.problem import RowsProblem
from ..plan import Plan, choose_controller
from ..problem import Problem, make_tolerance
from ..runners.eager import Run
from ..solution import Status
from ..span import OneSpan
from ..tolerance import Tolerance
from ..trajectory import Knot, Piece, Tape
from .backsolve import Linearised, Outputs, System, solve_back, time_gradients
from .backward_pass import BackwardPass, Found
from .base import Gradient, nothing_to_do, refuse_reverse_transforms
from .direct import Direct
from .inputs import find_inputs
from .row_backward import RowBackward
from .row_systems import RowSystem


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

    @abstractmethod
    def row_system(self) -> type[RowSystem]:
        """What to integrate for the rows of a batch.

        Raises:
            InputError: for settings that only a single solve has.
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
        backward = PASSES[type(problem)](self, problem, plan, inputs)
        with torch.no_grad():
            out = plan.run(problem.frozen(), self.forward_plan(plan), new_tape=self.new_tape(), known=known)
        backward.attach(out)
        return out

    def check(self, plan: Plan) -> None:
        """Raise if the backward solve cannot use the forward method."""
        method = plan.method if self.method is None else choose_method(self.method)
        if method.needs or (self.method is None and method.carries != "slopes"):
            raise InputError(
                f"gradient={type(self).__name__.lower()!r} solves backwards with {method!r}, which cannot take an "
                f"integral along. Name another one, {type(self).__name__}(method='tsit5'), or write "
                f"gradient='discrete'."
            )

    def stops(self, kept: Any) -> list[float]:
        """Where else the backward solve has to land, as the forward solve counts time."""
        return []

    def pieces(self, plan: Plan) -> tuple[Method, Controller]:
        """Method and controller of the backward solve."""
        method = plan.method if self.method is None else choose_method(self.method)
        same = plan.controller.adaptive == method.adaptive or not plan.controller.adaptive
        return method, plan.controller if same else choose_controller(method, None, None)

    def backward_plan(self, plan: Plan, problem: Problem, kept: Any) -> Plan:
        """The same method and control, backwards: landing on every output (and on the points of a fixed grid)."""
        method, controller = self.pieces(plan)
        limits = Limits(
            problem.t[-1],
            stops=[*problem.t, *(-x for x in plan.limits.stops), *(-x for x in self.stops(kept))],
            jumps=[-x for x in plan.limits.jumps],
            dtype=problem.layout.real_dtype,
            start=problem.t0,
        )
        return Plan(
            method,
            controller,
            limits,
            saving.EndOnly(),
            max_steps=plan.max_steps,
            run=plan.run,
        )

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

    def put_back(self, states: Tensor) -> None:
        """Every output becomes a knot, every event a piece: a straight line through its state along the flow."""
        trajectory, problem = self.out.trajectory, self.problem
        rows = list(states.split(1))
        number = {t: i for i, t in enumerate(self.times)}
        trajectory.pieces = []
        for i, event in enumerate(trajectory.events):
            row = rows[number[event.t]]
            with torch.no_grad():
                slope = problem.field.with_args(problem.field.args)(problem.field.time(event.t), row.detach())
            span = OneSpan(event.t, event.t + 1.0, size=1.0)
            trajectory.events[i] = event._replace(piece=len(trajectory.pieces))
            trajectory.pieces.append(Piece(span, row, slope, slope.real.new_ones(1, 1).to(slope)))
        times = [float(o.t) for o in trajectory.outputs] if trajectory.known is None else trajectory.known[0].tolist()
        trajectory.outputs = [Knot(number[t], problem.clock(t)) for t in times]
        trajectory.knots, trajectory.known = rows, None
        trajectory.end = self.out.state.y = rows[-1]


class Backward(BackwardPass):
    """The backward pass of a single solve."""

    problem: Problem

    def keep(self, out: Run) -> Attached:
        attached = Attached(self.problem, out)
        self.times = attached.times
        self.kept = self.how.kept(out, self.plan)
        return attached

    def solve(self, linear: Linearised, states: Tensor, cotangents: Tensor) -> Found:
        problem, user_times = self.problem, self.inputs.times
        outputs = Outputs(self.times, states, cotangents)
        system = self.how.system(linear, problem.y0.detach(), self.kept)
        method, _ = self.how.pieces(self.plan)
        steps_back = None if self.plan.steps_back is None else self.plan.steps_back(linear.field)
        if steps_back is not None:
            system = system.for_runner(steps_back, method) or system
        back = solve_back(system, outputs, self.how.tolerance_for(problem), self._plan)
        at_times = None
        if user_times is not None:
            at_times = time_gradients(linear.field, outputs, back.at_start)
            at_times = _at_user_times(at_times, self.times, user_times)
        return Found(back.at_start + cotangents[:1], at_times, back.params, back.attempted)

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


PASSES: dict[type[Problem], type[BackwardPass]] = {Problem: Backward, RowsProblem: RowBackward}
