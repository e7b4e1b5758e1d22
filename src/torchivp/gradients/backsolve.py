"""Gradients by a solve backwards in time: one solve, which lands on every output and takes its cotangent along.

What ``adjoint``, ``interpolated`` and ``gauss`` share. They differ in what is integrated backwards: a ``System``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import saving
from .._types import BackwardRow, PyTree, Rows
from ..autocast import without_autocast
from ..controllers import Limits
from ..errors import GradientError, InputError, SolveError
from ..events import states_at
from ..failures import message
from ..field import Field, Span
from ..loop import LoopState, TakenStep, march, start
from ..methods import Method
from ..methods.table import choose_method
from ..plan import Plan, choose_controller
from ..problem import Clock, Problem, make_tolerance
from ..runners.eager import Run, run
from ..solution import Status
from ..state import flatten, unflatten
from ..tolerance import Tolerance
from ..trajectory import Knot, Piece, Tape
from .base import Gradient, nothing_to_do, refuse_reverse_transforms
from .closure import check_all_seen, check_still_held
from .direct import Direct
from .inputs import Inputs, find_inputs
from .once import first_derivative_only
from .side_effects import no_side_effects


@dataclass(frozen=True)
class Outputs:
    """Where the backward solve lands.

    Attributes:
        times: increasing, as inside the library; the first one is the start.
        states: there, ``[T, D]``.
        cotangents: of these states, ``[T, D]``.
    """

    times: list[float]
    states: Tensor
    cotangents: Tensor


class System(ABC):
    """What is integrated backwards, as one row, and the integrals for the parameters.

    Attributes:
        field: of the rows; counts time as the backward solve does.
    """

    field: Field

    @abstractmethod
    def begin(self, y: Rows, adjoint: Rows) -> BackwardRow:
        """The row at the last output."""

    @abstractmethod
    def land(self, row: BackwardRow, y: Rows, cotangent: Rows) -> BackwardRow:
        """The row at another output, its cotangent added to the adjoint; ``y`` is the stored state there."""

    @abstractmethod
    def adjoint(self, row: BackwardRow) -> Rows:
        """The adjoint ``[1, D]`` in a row."""

    @abstractmethod
    def parameters(self, row: BackwardRow) -> list[Tensor]:
        """The gradients of the parameters, from the last row."""

    @abstractmethod
    def tolerance(self, forward: Tolerance) -> Tolerance:
        """What is small in a row, from what is small in a state."""

    def took(self, taken: TakenStep) -> None:
        """Called after every accepted step."""
        return

    def check(self, rtol: float) -> None:
        """Raise where the backward solve turns out to be worthless; ``rtol`` is 1 for fixed steps."""
        return


class Linearised:
    """The forward field with its vector-Jacobian products.

    Args:
        field: the forward field.
        params: tensors the gradient is wanted for; ``field`` must use these very tensors.
    """

    def __init__(self, field: Field, params: Sequence[Tensor]):
        self.field = field
        self.params = tuple(params)

    def __call__(
        self, t: Tensor, y: Rows, adjoint: Rows, wrt_params: bool = True
    ) -> tuple[Rows, Rows, list[Tensor | None]]:
        """``f``, ``adjoint . df/dy`` and ``adjoint . df/dp`` at the time ``t`` as the forward solve counts it."""
        slope, y = self.evaluate(t, y)
        params = self.params if wrt_params else ()
        if not slope.requires_grad:
            return slope, torch.zeros_like(y), [None] * len(params)
        at_y, *at_params = torch.autograd.grad(slope, (y, *params), adjoint, allow_unused=True, retain_graph=True)
        return slope.detach(), torch.zeros_like(y) if at_y is None else at_y, list(at_params)

    def evaluate(self, t: Tensor, y: Rows) -> tuple[Rows, Rows]:
        """The slope with its graph, and the leaf ``y`` that it was computed from."""
        field = self.field
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            slope = field(t * field.direction if field.direction < 0 else t, y)
        if slope.requires_grad:
            check_all_seen([slope], [y, *self.params], t)
        return slope, y


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
            return run(problem, plan, known=known)
        if plan.dense:
            raise InputError(
                f"gradient={type(self).__name__.lower()!r} differentiates outputs and events, not dense output. Name the times "
                f"in `t`, or write gradient='discrete'."
            )
        frozen = replace(problem, y0=problem.y0.detach(), clock=Clock(None))
        with torch.no_grad():
            out = run(frozen, self.forward_plan(plan), new_tape=self.new_tape(), known=known)
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
        return Plan(method, controller, limits, saving.EndOnly(), max_steps=plan.max_steps)

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
            span = Span(event.t, event.t + 1.0, size=1.0)
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
        wrt = inputs.as_f_uses_them(tensors)
        _, _, leaves, _ = inputs.split([tensors[0], *wrt])
        given = wrt if inputs.times is None else wrt[1:]
        wanted = [x.requires_grad for x in given]
        params = [x for x, w in zip(given, wanted) if w]
        field = problem.field.with_args(unflatten(flatten(problem.field.args)[1], leaves))
        outputs = Outputs(self.times, states, cotangents)
        with no_side_effects(field, inputs.moving):
            linear = Linearised(field, params)
            system = self.how.system(linear, problem.y0.detach(), self.kept)
            back = solve_back(
                system,
                outputs,
                self.how.tolerance_for(problem),
                lambda p: self.how.backward_plan(self.plan, p, self.kept),
            )
            at_times = None
            if inputs.times is not None:
                at_times = time_gradients(field, outputs, back.at_start)
                at_times = _at_user_times(at_times, self.times, inputs.times)
        self.counters["replayed"] += field.evaluations
        self.counters["backward_attempted"] = self.counters.get("backward_attempted", 0) + back.attempted
        grads = iter(back.params)
        of_params = [next(grads) if w else None for w in wanted]
        return [back.at_start + cotangents[:1], *([] if at_times is None else [at_times]), *of_params]


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


@torch.no_grad()
def solve_back(system: System, outputs: Outputs, tolerance: Tolerance, plan_for: Callable[[Problem], Plan]) -> Back:
    """One solve from the last output back to the first.

    Args:
        system: what to integrate.
        outputs: where to land.
        tolerance: what is small in a state.
        plan_for: chooses the pieces for the backward problem, which runs in the negated times.

    Raises:
        SolveError: if the backward solve fails.
        GradientError: if it turns out to be worthless.
    """
    times, states, cotangents = outputs.times, outputs.states.split(1), outputs.cotangents.split(1)
    row = system.begin(states[-1], cotangents[-1])
    if len(times) == 1:
        return Back(torch.zeros_like(states[0]), system.parameters(row), 0)
    problem = Problem(
        field=system.field,
        layout=system.field.layout,
        y0=row,
        t=[-t for t in reversed(times)],
        clock=Clock(None),
        direction=-1,
        tolerance=system.tolerance(tolerance),
    )
    plan = plan_for(problem)
    number = {-t: i for i, t in enumerate(times)}
    state = LoopState(problem.t0, problem.y0, math.inf)
    start(problem, plan, state)
    for taken in march(problem, plan, state):
        system.took(taken)
        i = number.get(state.t)
        if i is not None:
            landed = system.land(state.y, states[i], cotangents[i])
            state.y = landed if i else state.y  # at the first time there is nothing to go on to
    if not state.status.success:
        raise SolveError(
            f"The backward solve of the gradient failed: {message(problem, plan, state)} A solution that is stable forwards may "
            f"be unstable backwards: gradient='discrete' has no such trouble."
        )
    system.check(float(torch.as_tensor(tolerance.rtol).max()) if plan.controller.adaptive else 1.0)
    return Back(system.adjoint(state.y), system.parameters(state.y), state.attempted)


@torch.no_grad()
def time_gradients(field: Field, outputs: Outputs, at_start: Rows) -> Tensor:
    """Gradients ``[T]`` of the times: an output moves along the flow, a later start takes a piece of it away."""
    slopes = [field(field.time(t), y) for t, y in zip(outputs.times, outputs.states.split(1))]
    moved = [torch.sum((c.conj() * k).real) for c, k in zip(outputs.cotangents.split(1), slopes)]
    moved[0] = -torch.sum((at_start.conj() * slopes[0]).real)
    return torch.stack(moved)


class StageIntegral:
    """The integral of ``adjoint . df/dp``, by the method's own weights: a quadrature beside the solve.

    Every evaluation gets a number, which travels through the method as one more entry of the slope. After an accepted step
    the entries say which evaluations its slopes are, and so which integrands count.

    Args:
        params: the integrals are shaped like these.
    """

    def __init__(self, params: Sequence[Tensor]):
        self.totals = [torch.zeros_like(p) for p in params]
        self.integrands: dict[int, list[Tensor | None]] = {}
        self.count = 0

    def note(self, integrands: list[Tensor | None]) -> float:
        """Number of these integrands."""
        self.count += 1
        self.integrands[self.count] = integrands
        return float(self.count)

    def took(self, taken: TakenStep) -> None:
        """Add up an accepted step; let go of integrands that no later step can use."""
        step = taken.step
        weights = step.weights.detach().sum(0)[: len(step.k)].real
        rows = torch.cat([step.k, *(slope for _, slope in step.history)])
        unused = weights.new_zeros(len(rows) - len(weights))
        numbers = torch.stack([rows[:, -1].real.to(torch.float64), torch.cat([weights, unused]).to(torch.float64)])
        entries = [(round(abs(tag)), weight) for tag, weight in numbers.T.tolist()]
        for tag, weight in entries:
            if weight:
                add_up(self.totals, self.integrands[tag], taken.span.size * weight)
        self.integrands = {tag: self.integrands[tag] for tag, _ in entries}


def add_up(totals: list[Tensor], integrands: Sequence[Tensor | None], weight: float) -> None:
    """Add ``weight * integrands`` to the totals, in place."""
    pairs = [(x, g) for x, g in zip(totals, integrands) if g is not None]
    if pairs:
        torch._foreach_add_([x for x, _ in pairs], [g for _, g in pairs], alpha=weight)


def check_drift(drift: Tensor | float, most: float, what: str) -> None:
    """Raise if ``what``, a state that was computed backwards, is further than ``most`` (relatively) from the stored one."""
    drift = float(drift)
    if not drift <= most:
        raise GradientError(
            f"{what}, computed backwards from the end of the solve, came out {drift:.2g} (relatively) away from the stored one "
            f"(more than {most:.2g}): the equation is unstable backwards, and so the gradient would be worthless. Write "
            f"gradient='discrete', which does not compute the solution backwards."
        )
