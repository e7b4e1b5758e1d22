"""The algorithm: accepted steps, one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ._types import Rows
from .controllers import Verdict, initial_step
from .controllers.base import Memory
from .methods.base import History, Method, Step
from .plan import Plan
from .problem import Problem
from .randomness import Draws, RandomState
from .solution import Status
from .span import Span
from .stiffness import Steering, Taken, steering
from .transforms import as_float, worst


@dataclass(frozen=True)
class Failed:
    """The attempt a solve failed at: enough for a message that helps."""

    t: float
    dt: float
    step: Step | None = None
    error: Exception | None = None


@dataclass
class LoopState:
    """Where a solve stands.

    Between two steps the consumer of ``march`` may change ``y``; the next step then starts afresh from there.
    """

    t: float
    y: Rows
    dt: float
    history: History = ()
    ready: bool = False
    slope: Tensor | None = None
    slope_draws: RandomState | None = None
    last: Step | None = None
    memory: Memory = ()
    attempted: int = 0
    accepted: int = 0
    rejected: int = 0
    budget_from: int = 0
    status: Status = Status.RUNNING
    failed: Failed | None = None
    sizes: list[tuple[float, Tensor]] = field(default_factory=list)
    steering: Steering | None = None

    def fail(self, status: Status, step: Step | None = None, error: Exception | None = None) -> None:
        self.status, self.failed = status, Failed(self.t, self.dt, step, error)


@dataclass
class TakenStep:
    """An accepted step, before the loop goes on."""

    problem: Problem
    plan: Plan
    span: Span
    timed: Span
    y0: Rows
    history: History
    ready: bool
    step: Step
    method: Method
    draws: Draws = Draws()  # noqa: RUF009 (immutable)
    looked_into: bool = False

    def look_inside(self) -> Step:
        """The step with everything its interpolant needs."""
        if not self.looked_into:
            self.step = self.method.dense(self.problem.field, self.timed, self.y0, self.step)
            self.looked_into = True
        return self.step


def march(problem: Problem, plan: Plan, state: LoopState) -> Iterator[TakenStep]:
    """Take accepted steps from ``state.t`` to the end; how it ended stands in ``state.status``."""
    while state.status is Status.RUNNING and state.t < plan.limits.end:
        taken = accepted_step(problem, plan, state)
        if taken is None:
            return
        state.t, state.y = taken.span.t1, taken.step.y1
        yield taken
        unchanged = state.y is taken.step.y1
        state.history = taken.step.history if unchanged else ()
        state.ready = taken.step.ready and unchanged
    if state.status is Status.RUNNING:
        state.status = Status.SUCCESS


def accepted_step(problem: Problem, plan: Plan, state: LoopState) -> TakenStep | None:
    """Attempt steps until one is good enough; None (and a status) if that is not to be."""
    steer = state.steering = state.steering or steering(plan)
    field, method = problem.field, steer.method
    if plan.limits.is_jump(state.t):
        state.history, state.ready = (), False
    span = plan.limits.cut(state.t, state.dt)
    history = known_slopes(problem, method, state, span)
    while state.attempted - state.budget_from < plan.max_steps:
        timed = problem.timed(span)
        if plan.watch is not None:
            plan.watch.attempt(state.t, state.y, state.dt if math.isfinite(state.dt) else span.dt)
        draws = Draws(state.slope_draws, field.random_state())
        step = method.step(field, timed, state.y, history)
        state.attempted += 1
        state.last = step
        verdict, ratio = judge(problem, plan, state, span, step, method)
        if plan.watch is not None:
            (plan.watch.accept if verdict.accepted else plan.watch.reject)(state.t, state.y, span.dt)
        if step.again:
            state.rejected += 1
            continue
        if not (step.solved or plan.controller.adaptive):
            state.dt = span.dt
            state.fail(Status.NEWTON_FAILED, step)
            return None
        landed = span.t1 < state.t + state.dt
        if verdict.accepted:
            state.accepted += 1
            state.slope, state.memory = None, verdict.memory
            state.dt = max(verdict.dt, state.dt) if landed else verdict.dt
            state.dt *= steer.after(Taken(field, span.dt, step, state.y))
            return TakenStep(problem, plan, span, timed, state.y, state.history, state.ready, step, method, draws)
        state.rejected += 1
        state.dt = verdict.dt
        if not state.dt >= smallest_step(state.t):
            state.fail(blame(step, ratio), step)
            return None
        span = plan.limits.cut(state.t, state.dt)
    state.fail(Status.STIFF if steer.stiff else Status.MAX_STEPS, state.last)
    return None


def known_slopes(problem: Problem, method: Method, state: LoopState, span: Span) -> History:
    """The history a step starts from, with the slope at its start first."""
    if (state.ready and span.first is None) or not method.needs_slope(state.history):
        return state.history
    if state.slope is None:
        state.slope_draws = problem.field.random_state()
        state.slope = problem.field.start_slope(problem.timed(span), state.y)
    state.history, state.ready = state.history[1:] if state.ready else state.history, False
    return ((problem.clock(state.t), state.slope), *state.history)


def judge(
    problem: Problem, plan: Plan, state: LoopState, span: Span, step: Step, method: Method
) -> tuple[Verdict, float]:
    """The controller's verdict. With an error estimate it costs the one host synchronisation of the step."""
    if step.error is None or not plan.controller.adaptive:
        state.sizes.append((span.t1, size(step.y1)))
        return plan.controller.judge(0.0, state.dt, state.memory, 1), 0.0
    lower = step.error_lower
    ratio = problem.tolerance.ratio(step.error, state.y, step.y1, lower) if step.solved else math.inf
    return plan.controller.judge(ratio, span.dt, state.memory, step.error_order or error_order(method)), ratio


def blame(step: Step, ratio: float) -> Status:
    """Why no step is small enough."""
    if not step.solved:
        return Status.NEWTON_FAILED
    return Status.STEP_TOO_SMALL if math.isfinite(ratio) else Status.NONFINITE_SLOPE


def error_order(method: Method) -> int:
    return method.error_order or method.order


def size(y: Rows) -> Tensor:
    """Largest entry; nan or inf as soon as one entry is. Stays on the device."""
    y = y.detach()
    return torch.linalg.vector_norm(y, math.inf) if y.numel() else y.new_zeros(()).real


def all_finite(y: Tensor) -> bool:
    return not as_float((~torch.isfinite(y)).any())


def start(problem: Problem, plan: Plan, state: LoopState) -> None:
    """Everything before the first step: the past of a resumed solve, a look at the state, the size of the first step."""
    problem.field.kept = None
    if problem.resume is not None:
        state.history, state.memory = problem.resume.history, problem.resume.memory
    if not plan.controller.adaptive:
        state.dt = plan.controller.first_step(plan.limits.end)
        state.sizes.append((state.t, size(state.y)))
    elif not all_finite(state.y):
        state.fail(Status.NONFINITE_STATE)
    elif state.t < plan.limits.end:
        first_step(problem, plan, state)
        state.dt = max(min(state.dt, plan.controller.max_step), plan.controller.min_step, smallest_step(state.t))


def smallest_step(t: float) -> float:
    """A step that still moves the time."""
    return 4 * math.ulp(t)


def first_step(problem: Problem, plan: Plan, state: LoopState) -> None:
    """Choose ``state.dt``: the user's, a resumed solve's, or Hairer's (which needs the slope; it is kept for the step)."""
    resumed = math.inf if problem.resume is None else problem.resume.dt
    if plan.dt is not None or math.isfinite(resumed):
        state.dt = resumed if plan.dt is None else plan.dt
        return
    field, span = problem.field, plan.limits.cut(state.t, math.inf)
    if state.slope is None:
        state.slope_draws = field.random_state()
    slope = field.start_slope(problem.timed(span), state.y) if state.slope is None else state.slope
    if not all_finite(slope):
        state.fail(Status.NONFINITE_SLOPE, Step(state.y, slope, slope, None, ()))
        return
    state.slope = slope
    room = min(span.dt, plan.controller.max_step)
    state.dt = initial_step(field, span, room, state.y, slope, error_order(plan.method) - 1, problem.tolerance)


def first_bad_step(plan: Plan, state: LoopState) -> int | None:
    """Fixed steps: read the device's record of sizes, once. The number of the first step (0: y0) that is not finite."""
    if not (plan.check_finite and state.sizes and state.status.success):
        return None
    bad = ~torch.isfinite(worst(torch.stack([size for _, size in state.sizes])))
    return int(bad.nonzero()[0]) if bool(bad.any()) else None
