"""The algorithm for many rows: attempted steps, one by one, each row with its own time, size and verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._types import Rows
from ..controllers.base import RowMemory
from ..controllers.initial_step import initial_steps
from ..loop import Failed, error_order
from ..methods.base import History, Step
from ..plan import Plan
from ..randomness import Draws, RandomState
from ..solution import Status
from ..span import RowSpan, spread
from ..transforms import constant
from .problem import RowsProblem
from .saving import Wanted
from .stiffness import WatchedRows

CODES = list(Status)
RUNNING = CODES.index(Status.RUNNING)


@dataclass
class RowsState:
    """Where the rows stand; tensors ``[B]`` unless said.

    Between two steps the consumer of ``march`` may change ``y [1, B * D]``; the next step then starts afresh from there.

    Attributes:
        dt: proposed sizes, 0 for rows that are done.
        running, alive: which rows are, and how many.
        ends: which rows ``[B]`` ended together, after how many attempts, and how (a number in ``CODES``).
        tries: attempted steps so far, a number.
        frozen: numbers that no slope moves, ``[1, B * D]``; None: a slope of 0 times dt does that.
        failed: what the failed rows failed at, by row.
        watched: they are, for stiffness.
    """

    t: Tensor
    y: Rows
    dt: Tensor
    accepted: Tensor
    running: Tensor
    alive: int
    ends: list[tuple[Tensor, int, int]] = field(default_factory=list)
    tries: int = 0
    history: History = ()
    ready: bool = False
    slope: Tensor | None = None
    slope_draws: RandomState | None = None
    memory: RowMemory = ()
    frozen: Tensor | None = None
    failed: dict[int, Failed] = field(default_factory=dict)
    watched: WatchedRows | None = None

    @property
    def code(self) -> Tensor:
        """Number of every row's status in ``CODES``."""
        code = torch.full_like(self.accepted, RUNNING)
        for rows, _, number in self.ends:
            code[rows] = number
        return code

    @property
    def attempted(self) -> Tensor:
        attempted = torch.full_like(self.accepted, self.tries)
        for rows, after, _ in self.ends:
            attempted[rows] = after
        return attempted

    @property
    def rejected(self) -> Tensor:
        return self.attempted - self.accepted

    @property
    def status(self) -> Status:
        """Of the whole batch: success, if every row did what it was asked to do; else that of a row which did not."""
        statuses = [CODES[code] for code in self.code.unique().tolist()]
        return next((s for s in statuses if not s.success), Status.SUCCESS)

    def end(self, rows: Tensor, status: Status, freeze: bool = True, number: int | None = None) -> None:
        """These rows ``[B]`` (a mask) are done; they stay where they are.

        Args:
            freeze: their slopes may not be finite, and 0 times such a slope moves a state.
            number: how many they are, if that is known (then all of them were running).
        """
        if number is None:
            rows = rows & self.running
            number = int(rows.sum())
        if number == 0:
            return
        self.ends.append((rows, self.tries, CODES.index(status)))
        self.running = self.running & ~rows
        self.dt = torch.where(self.running, self.dt, 0.0)
        self.alive -= number
        if freeze:
            self.frozen = spread(~self.running, self.y)

    def stop(self, rows: Tensor) -> None:
        """These rows met a terminal event in the step they took, whatever else it brought (their end, the last step allowed)."""
        for row in rows.nonzero().flatten().tolist():
            self.failed.pop(row, None)
        self.end(rows, Status.EVENT)
        self.ends.append((rows, self.tries, CODES.index(Status.EVENT)))

    def rename(self, rows: Tensor, status: Status) -> None:
        """Another status for rows ``[B]`` that have ended, all after the same number of attempts as the newest."""
        self.ends.append((rows, self.tries, CODES.index(status)))

    def fail(
        self, rows: Tensor, status: Status, step: Step | None = None, dt: Tensor | None = None, error: Any = None
    ) -> None:
        """These rows failed."""
        rows = rows & self.running
        self.note_failure(rows, self.dt if dt is None else dt, step, error)
        self.end(rows, status)

    def note_failure(self, rows: Tensor, dt: Tensor, step: Step | None, error: Any = None) -> None:
        """What these rows failed at, of those of which that is not known yet."""
        for row in rows.nonzero().flatten().tolist():
            if row not in self.failed:
                self.failed[row] = Failed(float(self.t[row]), float(dt[row]), _of_row(step, row, len(self.t)), error)


def begin(problem: RowsProblem) -> RowsState:
    """The state before anything is computed."""
    t0, rows = problem.t0, problem.layout.rows
    none = torch.zeros(rows, dtype=torch.int64, device=t0.device)
    everyone = torch.ones(rows, dtype=torch.bool, device=t0.device)
    return RowsState(t0, problem.y0, torch.full_like(t0, math.inf), none, everyone, rows)


@dataclass
class RowsTaken:
    """An attempted step that some rows take, before the loop goes on.

    Attributes:
        span, timed: intervals, without and with the gradients of times; they know which rows go on.
        history, ready: what the step before handed on; ``known`` is the same with the slope at the start.
        y1: the states after it, of the rows that take it and of the others.
    """

    problem: RowsProblem
    plan: Plan
    span: RowSpan
    timed: RowSpan
    y0: Rows
    history: History
    ready: bool
    known: History
    step: Step
    y1: Rows
    draws: Draws = Draws()  # noqa: RUF009 (immutable)
    looked_into: bool = False

    def look_inside(self) -> Step:
        """The step with everything its interpolant needs, of all rows."""
        if not self.looked_into:
            self.step = self.plan.method.dense(self.problem.field, self.timed, self.y0, self.step)
            self.looked_into = True
        return self.step

    def time_of(self, outputs: Wanted) -> Tensor:
        """The times ``[n]`` of outputs in this step, with their gradients."""
        return self.problem.clock.at(outputs.t, outputs.rows)

    def settled(self) -> Step:
        """The step as the rows go on from it."""
        history = self.timed.settle_history(self.step, self.y0, self.known)
        return self.step._replace(y1=self.y1, history=history)

    def hand_on(self, state: RowsState) -> None:
        """What the next step starts from."""
        settled = self.settled()
        unchanged = state.y is self.y1 and not self.plan.limits.at_jump(state.t)
        state.history, state.ready = settled.history if unchanged else (), settled.ready and unchanged


def march(problem: RowsProblem, plan: Plan, state: RowsState) -> Iterator[RowsTaken]:
    """Attempt steps until every row is done; those that any row takes are handed out."""
    while state.alive:
        taken = attempted_step(problem, plan, state)
        if taken is None:
            continue
        state.y = taken.y1
        yield taken
        taken.hand_on(state)


def attempted_step(problem: RowsProblem, plan: Plan, state: RowsState) -> RowsTaken | None:
    """One attempt of all rows; None if no row takes it. One host synchronisation, and one more where a row rejects it."""
    span = plan.limits.cut(state.t, state.dt, state.frozen)
    timed = problem.timed(span)
    before, was_ready = state.history, state.ready
    known = known_slopes(problem, plan, state, timed)
    draws = Draws(state.slope_draws, problem.field.random_state())
    step = plan.method.step(problem.field, timed, state.y, known)
    state.tries += 1
    ratio = constant(error_ratio(problem, plan, state, step))
    verdict = plan.controller.judge_rows(ratio, span.dt, state.memory, error_order(plan.method))
    if isinstance(step.again, Tensor):
        verdict = verdict._replace(dt=torch.where(step.again, state.dt, verdict.dt))
    accepted = verdict.accepted if state.alive == len(ratio) else verdict.accepted & state.running
    ended = accepted & (span.t1 >= plan.limits.end)
    tiny = verdict.dt < plan.limits.tiny
    watched = state.watched if state.watched is not None and state.watched.looks(state.tries) else None
    stiff = () if watched is None else (watched.look(problem, step, accepted),)
    n_accepted, n_ended, n_tiny, *n_stiff = torch.stack((accepted, ended, tiny, *stiff)).sum(1).tolist()
    if watched is not None and n_stiff[0]:
        watched.warn(plan, n_stiff[0], len(ratio))
    proposed = verdict.dt
    if plan.limits.stops is not None:  # a step that was cut to land somewhere says nothing against its proposal
        proposed = torch.where(accepted & (span.t1 < state.t + state.dt), torch.maximum(proposed, state.dt), proposed)
    if plan.controller.min_step > 0:
        proposed = torch.where(state.running, proposed, 0.0)
    state.dt, state.memory = proposed, verdict.memory
    rests = plan.method.carries == "slopes"  # a step of no size moves nothing
    all_taken = n_accepted == (state.alive if rests else len(ratio))
    if n_tiny > len(ratio) - state.alive or not (all_taken or plan.controller.adaptive):
        give_up(plan, state, step, ratio, state.running & ~(accepted | step.again))
    y0 = state.y
    if all_taken:
        state.t = span.t1
    else:
        span, timed = taken_by(accepted, span, timed)
        state.t = torch.where(accepted, span.t1, state.t)
    if n_accepted:
        state.accepted = state.accepted + accepted
        state.slope = None
    if n_ended:
        quiet = step.ready and plan.controller.adaptive  # the error estimate has seen that the slope there is finite
        state.end(ended, Status.SUCCESS, not quiet, n_ended)
    if state.tries >= plan.max_steps:
        state.fail(state.running, Status.MAX_STEPS, step)
    if not n_accepted:
        return None
    if not all_taken and torch.is_grad_enabled() and not bool(torch.isfinite(ratio).all()):
        timed = timed.again()  # what a row was rejected for may have overflowed, and 0 times inf has no gradient
        step = taken_again(problem, plan, timed, y0, known, step)
    y1 = span.choose(step.y1, y0)
    return RowsTaken(problem, plan, span, timed, y0, before, was_ready, known, step, y1, draws)


def taken_again(problem: RowsProblem, plan: Plan, span: RowSpan, y: Rows, known: History, step: Step) -> Step:
    """The same step, with the matrix that it had."""
    field = problem.field
    field.origin = step.origin
    step = plan.method.step(field, span, y, known)
    field.origin = None
    return step


def taken_by(rows: Tensor, span: RowSpan, timed: RowSpan) -> tuple[RowSpan, RowSpan]:
    """Both spans, taken by these rows only."""
    taken = span.taken_by(rows)
    return taken, taken if timed is span else timed._replace(taken=rows, moves=taken.moves)


def give_up(plan: Plan, state: RowsState, step: Step, ratio: Tensor, rejected: Tensor) -> None:
    """Rows fail whose next step would be too small (and those of fixed steps, whose state is not finite)."""
    hopeless = rejected & ~(state.dt >= smallest_step(state.t)) if plan.controller.adaptive else rejected
    if bool(hopeless.any()):
        unsolved = ~torch.as_tensor(step.solved, device=ratio.device).expand(len(ratio))
        state.fail(hopeless & unsolved, Status.NEWTON_FAILED, step)
        finite = torch.isfinite(ratio)
        state.fail(hopeless & finite, Status.STEP_TOO_SMALL, step)
        state.fail(hopeless & ~finite, Status.NONFINITE_SLOPE, step)


def known_slopes(problem: RowsProblem, plan: Plan, state: RowsState, span: RowSpan) -> History:
    """The history a step starts from, with the slopes at the starts first."""
    if state.ready or not plan.method.needs_slope(state.history):
        return state.history
    if state.slope is None:
        state.slope_draws = problem.field.random_state()
        state.slope = problem.field.start_slope(span, state.y)
    return ((span.t, state.slope), *state.history)


def error_ratio(problem: RowsProblem, plan: Plan, state: RowsState, step: Step) -> Tensor:
    """Error over tolerance ``[B]``; of fixed steps 0, or nan where the state is not finite."""
    if step.error is None or not plan.controller.adaptive:
        ratio = torch.where(finite_rows(step.y1, len(state.t)), 0.0, torch.nan).to(torch.float64)
    else:
        ratio = problem.tolerance.ratio(step.error, state.y, step.y1, step.error_lower)  # type: ignore[assignment]
    return torch.where(step.solved, ratio, math.inf) if isinstance(step.solved, Tensor) else ratio


def finite_rows(y: Rows, rows: int) -> Tensor:
    """Which rows hold neither nan nor inf, ``[B]``."""
    return torch.isfinite(y.detach()).view(rows, -1).all(1)


def smallest_step(t: Tensor) -> Tensor:
    """Steps that still move the time."""
    size = t.abs()
    return 4 * (torch.nextafter(size, torch.full_like(size, torch.inf)) - size)


def start(problem: RowsProblem, plan: Plan, state: RowsState) -> None:
    """Everything before the first step: a look at the states, the size of the first steps."""
    problem.field.kept = None
    bad = ~finite_rows(state.y, len(state.t))
    if bool(bad.any()):
        state.fail(bad, Status.NONFINITE_STATE)
        state.y = torch.where(torch.isfinite(state.y), state.y, 0.0)
    state.end(state.t >= plan.limits.end, Status.SUCCESS)
    if not state.alive:
        return
    first_steps(problem, plan, state)
    size = state.dt.clamp(max=plan.controller.max_step).clamp(min=plan.controller.min_step)
    state.dt = torch.where(state.running, torch.maximum(size, smallest_step(state.t)), 0.0)


def first_steps(problem: RowsProblem, plan: Plan, state: RowsState) -> None:
    """Choose ``state.dt``: the user's, or Hairer's (which needs the slopes; they are kept for the step)."""
    if not plan.controller.adaptive:
        state.dt = torch.full_like(state.t, plan.controller.first_step(float(plan.limits.end.max())))
        return
    if plan.dt is not None:
        state.dt = torch.full_like(state.t, plan.dt)
        return
    field, span = problem.field, plan.limits.cut(state.t, torch.where(state.running, torch.inf, 0.0), state.frozen)
    if state.slope is None:
        state.slope_draws = field.random_state()
        state.slope = field.start_slope(problem.timed(span), state.y)
    bad = state.running & ~finite_rows(state.slope, len(state.t))
    if bool(bad.any()):
        nothing = Step(state.y, state.slope, state.slope, None, ())
        state.fail(bad, Status.NONFINITE_SLOPE, nothing, torch.full_like(state.t, math.inf))
    room = (span.t1 - span.t).clamp(max=plan.controller.max_step)
    state.dt = constant(
        initial_steps(field, span, room, state.y, state.slope, error_order(plan.method) - 1, problem.tolerance)
    )


def _of_row(step: Step | None, row: int, rows: int) -> Step | None:
    """The step of a single row, without its history."""
    if step is None:
        return None

    def part(x: Tensor) -> Tensor:
        return x.detach().view(len(x), rows, -1)[:, row]

    error = None if step.error is None else part(step.error)
    return Step(part(step.y1), part(step.k), step.weights, error, ())
