"""One problem through the compiled loop."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...autocast import without_autocast
from ...collectives import without_collectives
from ...controllers import PID
from ...interpolation import StepPolynomials, of_steps
from ...loop import LoopState, TakenStep, smallest_step, start
from ...methods.base import History, Step
from ...out_of_steps import why_out_of_steps
from ...per_sample.loop import CODES
from ...plan import Plan
from ...problem import Problem
from ...progress import watched
from ...saving import EveryStep, GivenTimes
from ...solution import Status
from ...trajectory import Series, Start, Tape, TapeEntry
from .. import eager
from ..eager import UNKNOWN, KnownSlope, Run, caught, counters, keep, not_started, watch_for_events
from .attached import attach
from .counting import count, count_systems, evaluations, looked_into, not_counted, slope_at_end
from .march import COMPILED, Kind, Loop, Part, Written, loop_for, refuse_lost_gradient, written
from .origins import Origins
from .outputs import Found, ends_of, polynomials, values_at
from .past import carries, handed_on, history_at
from .path import Path, Pieces
from .setup import bare, carry_of, check, fixed_of, goes_back, slopes_for, weights_of
from .step import ALL, Carry, at_end
from .times import timed
from .undone import StartCheck


def run(
    problem: Problem,
    plan: Plan,
    *,
    new_tape: Callable[[], Tape] | None = None,
    known: KnownSlope = UNKNOWN,
    kind: Kind = COMPILED,
) -> Run:
    """What ``eager.run`` does, in compiled calls of many steps."""
    if not problem.layout.size:  # no numbers, nothing to compile
        return eager.run(problem, plan, new_tape=new_tape, known=known)
    check(problem, plan, kind.name)
    out = begun(problem, plan, known)
    out.tape = None if new_tape is None else new_tape()
    step_by_step = out.tape is not None or bool(plan.events) or plan.one_by_one
    writer = StepByStep(problem, plan, out) if step_by_step else AtOnce(problem, plan, out)
    solve(problem, plan, out, writer, kind)
    return out


def with_gradient(
    problem: Problem, plan: Plan, check_start: StartCheck | None = None, series: Series | None = None
) -> Run | None:
    """The same with the gradient of ``discrete``, backwards in compiled calls, too; None if that cannot be.

    Args:
        check_start: the states are computed backwards, as ``reversible`` does it, and this looks at those that are known.
        series: the steps are taken again, so many at a time.
    """
    check(problem, plan, COMPILED.name)
    if not goes_back(problem, plan, check_start is not None, series is not None) or (
        problem.resume is not None and problem.resume.history
    ):
        return None
    writer: AtOnce | StepByStep
    with torch.no_grad():
        frozen = problem.frozen()
        out = begun(frozen, plan, UNKNOWN)
        path = Path(check_start is not None, series)
        writer = StepByStep(frozen, plan, out, path) if plan.events else AtOnce(frozen, plan, out, path)
        solve(frozen, plan, out, writer, COMPILED)
    attach(problem, writer, path, out, weights_of(problem, plan), check_start)
    return out


def begun(problem: Problem, plan: Plan, known: KnownSlope) -> Run:
    out = not_started(problem, plan, Status.RUNNING)
    out.state.slope, out.state.slope_draws = known
    return out


@without_autocast
@without_collectives
def solve(problem: Problem, plan: Plan, out: Run, writer: AtOnce | StepByStep, kind: Kind) -> None:
    """From start to end."""
    state = out.state
    with caught(plan, state):
        begin(problem, plan, state)
        writer.start()
        if state.status is Status.RUNNING and not plan.limits.anything_left(state.t):
            state.status = Status.SUCCESS
        if state.status is Status.RUNNING:
            follow(problem, plan, out, writer, kind)
    writer.finish()
    out.counters = counters(problem, state)


def begin(problem: Problem, plan: Plan, state: LoopState) -> None:
    """What ``loop.start`` does, as far as the compiled loop does not do it: it looks at the state and chooses the first step."""
    goes_on = plan.method.reversible and problem.resume is not None and bool(problem.resume.history)
    fixed = not plan.controller.adaptive
    if plan.events or fixed or goes_on or not state.y.numel() or not plan.limits.anything_left(state.t):
        start(problem, plan, state)
        if goes_on:  # with a slope of its own
            state.slope = state.history[0][1]
        return
    given = plan.dt
    if problem.resume is not None:
        state.history, state.memory = problem.resume.history, problem.resume.memory
        given = problem.resume.dt if given is None and math.isfinite(problem.resume.dt) else given
    least = max(plan.controller.min_step, smallest_step(state.t))
    state.dt = math.nan if given is None else max(min(given, plan.controller.max_step), least)


def follow(problem: Problem, plan: Plan, out: Run, writer: AtOnce | StepByStep, kind: Kind) -> None:
    """Call after call of the loop."""
    state, trajectory = out.state, out.trajectory
    writer.loop = loop = loop_for(
        problem, plan, kind, writes=writer.wanted, slopes=writer.slopes, looks_inside=writer.looks_inside
    )
    loop.most = None if writer.path is None else writer.path.most
    refuse_lost_gradient(problem, loop)

    def parts() -> Iterator[Part]:
        for part in march(loop, problem, plan, state):
            before = state.attempted
            writer.take(part)
            if counts_between_outputs(plan):
                state.budget_from = begun_at(part, plan.save.t, state.budget_from)
            if state.status is not Status.EVENT:
                read_back(problem, plan, loop, state, part.end)
                trajectory.end, trajectory.end_time = state.y, state.t
            goes_on = state.status not in (Status.EVENT, Status.SUCCESS) and not plan.limits.is_jump(state.t)
            attempts = state.attempted - before
            count(problem.field, evaluations(loop.form, attempts, writer.looked, goes_on, part.opened))
            count_systems(problem.field, loop.form, attempts, part.steps)
            if state.status is Status.EVENT:
                return
            yield part

    for _ in watched(parts(), problem, plan, state):
        pass
    if loop.missed:
        warn = getattr(getattr(bare(plan.method), "converged", None), "missed", lambda: None)
        warn()


def march(loop: Loop, problem: Problem, plan: Plan, state: LoopState) -> Iterator[Part]:
    """The calls of the loop, from jump to jump: there ``f`` is asked afresh. Where it must not be asked at a landing at all, the
    calls end at all of them."""
    limits, restarts = plan.limits, True
    bounds = limits.stops if limits.open_ends and not limits.open_starts else sorted(limits.jumps)
    while state.status is Status.RUNNING:
        ahead = bisect_right(bounds, state.t)
        end = min([*bounds[ahead : ahead + 1], limits.end])
        at_end = torch.tensor([end], dtype=torch.float64)
        budget = replace(plan, max_steps=plan.max_steps + state.budget_from) if state.budget_from else plan
        fixed = fixed_of(problem, budget, loop.leaves, at_end, limits._first(state.t), limits._last(end))
        asks = int(state.slope is None) + int(math.isnan(state.dt))
        for part in loop.march(carry_of(problem, plan, loop.leaves, state, state.slope), fixed, restarts, asks):
            yield part
            state.slope = loop.leaves.rows(part.end.ks).reshape(1, -1)
        restarts = limits.is_jump(state.t)
        if restarts:
            state.slope, state.history, state.ready = None, (), False


def counts_between_outputs(plan: Plan) -> bool:
    """Whether attempts are counted from output to output, of which there are several."""
    limited = plan.max_steps_per_output and plan.controller.adaptive and plan.max_steps < 2**30
    return limited and len(plan.save.t) > 2


def begun_at(part: Part, times: list[float], before: int) -> int:
    """How many attempts had been made when the newest of the outputs at these increasing ``times`` was met.

    Args:
        before: the same before the call.
    """
    if not part.steps:
        return before
    ends = part.record.t1[: part.steps].flatten().tolist()
    newest = bisect_right(times, ends[-1]) - 1
    if newest < 0 or times[newest] <= float(part.record.t[0]):
        return before
    tries = int(part.record.tries[bisect_left(ends, times[newest])])
    return int(part.end.attempted) - int(part.end.tries) + tries


def read_back(problem: Problem, plan: Plan, loop: Loop, state: LoopState, at: Carry) -> None:
    """The state as the eager runner would have it."""
    t, dt, code, attempted, accepted, *memory = at.rows.flatten().tolist()
    status = CODES[int(code)]
    if status is Status.MAX_STEPS and attempted - state.budget_from < plan.max_steps:
        status = Status.RUNNING  # the last step met an output, behind which attempts are counted anew
    failed = status not in (Status.RUNNING, Status.SUCCESS)
    if failed and not attempted:  # the eager runner says what is wrong with the start
        state.dt = math.inf
        start(problem, plan, state)
        return
    state.t, state.dt, state.attempted, state.accepted = t, dt, int(attempted), int(accepted)
    state.rejected = state.attempted - state.accepted
    state.memory = tuple(memory[: min(2, state.accepted)])
    state.y = loop.leaves.rows(at.ys).reshape(1, -1)
    slopes = history_at(loop.form, loop.leaves, at, t)
    if state.accepted and (carries(loop.form) or at_end(loop.form, False)):
        state.history, state.ready = slopes, not loop.form.hands_on
    if status is Status.MAX_STEPS:
        status = why_out_of_steps(problem, plan, state)
    if failed and not plan.controller.adaptive:
        state.dt = math.inf if status is Status.MAX_STEPS else plan.limits.cut(t, dt).dt
        status = status if state.accepted or bool(torch.isfinite(state.y).all()) else Status.NONFINITE_STATE
    if failed:
        state.fail(status, tried_again(problem, plan, state, slopes, status))
    elif state.t >= plan.limits.end:
        state.status = Status.SUCCESS


def tried_again(problem: Problem, plan: Plan, state: LoopState, history: History, status: Status) -> Step:
    """The attempt a solve failed at, for its message."""
    size = state.dt
    if status is Status.NONFINITE_SLOPE and isinstance(plan.controller, PID):
        size /= plan.controller.min_factor  # that of the attempt, which a shorter one may not show
    out_of_steps = status in (Status.MAX_STEPS, Status.STIFF)  # else this one had a Jacobian, and was none of the steps
    with not_counted(problem.field, jacobians=out_of_steps):
        return plan.method.step(problem.field, plan.limits.cut(state.t, size), state.y, history)


class AtOnce:
    """Outputs and interpolants of many steps at once, where nobody needs the steps themselves.

    Args:
        path: of a backward pass that follows.
    """

    def __init__(self, problem: Problem, plan: Plan, out: Run, path: Path | None = None):
        self.plan, self.trajectory, self.layout = plan, out.trajectory, problem.layout
        given, device = isinstance(plan.save, GivenTimes), problem.layout.device
        inside = problem.t[1:-1] if given else []  # the start is known, and the end is where the loop stops
        self.times = torch.tensor([inside], dtype=torch.float64, device=device) if inside else None
        self.end = problem.t[-1] if given and problem.t[-1] > problem.t[0] else None
        self.looks_inside = plan.dense or bool(inside)
        self.reads = self.looks_inside or isinstance(plan.save, EveryStep)
        self.wanted, self.path = path is not None or self.reads, path
        self.slopes = slopes_for(plan, self.looks_inside, self.reads, path is not None and not path.undoes)
        self.weights = weights_of(problem, plan)
        self.loop: Any = None
        self.found: list[Found | None] = []
        self.pieces: list[StepPolynomials] = []

    def start(self) -> None:
        self.starts = len(self.trajectory.knots)

    def take(self, part: Part) -> None:
        found, pieces, n = None, None, part.steps
        self.looked = [self.plan.dense] * n
        if self.reads and n:
            new = written(self.loop, part)
            found = self.look(new)
            pieces = Pieces.of(new, torch.arange(n)) if self.plan.dense and self.path is not None else None
        self.found.append(found)
        if self.path is not None:
            self.path.add(part, found, self.looked, pieces)

    def look(self, new: Written) -> Found | None:
        """Outputs and interpolants of some steps."""
        if self.plan.dense:
            self.pieces.append(polynomials(new, self.weights))
        if self.times is not None:
            found = values_at(new, self.times, self.weights)
            if not self.plan.dense:
                self.looked = looked_into(new.steps, found, new.t1)
            return found
        return ends_of(new) if isinstance(self.plan.save, EveryStep) else None

    def finish(self) -> None:
        trajectory = self.trajectory
        found = [x for x in self.found if x is not None]
        first = torch.tensor([o.t for o in trajectory.outputs], dtype=torch.float64, device=self.layout.device)
        self.ends_too = self.end is not None and trajectory.end_time == self.end
        last, end = (first.new_tensor([trajectory.end_time]), trajectory.end)
        n = int(self.ends_too)
        states = torch.cat([*trajectory.knots, *(x.values for x in found), end[:n]])
        trajectory.known = torch.cat([first, *(x.t for x in found), last[:n]]), states
        if self.pieces:
            columns = zip(*((p.t0, p.dt, p.coefficients) for p in self.pieces))
            trajectory.polynomials = StepPolynomials(*(torch.cat(x) for x in columns))

    def attach(self, problem: Problem, values: Tensor, y0: Tensor, k: Tensor) -> None:
        """The same numbers with a gradient."""
        trajectory = self.trajectory
        last = [trajectory.end] if self.ends_too else []
        times = timed(problem.clock, trajectory.known[0])
        trajectory.known = times, torch.cat([*[problem.y0] * self.starts, values, *last])
        if self.pieces:
            begins = trajectory.polynomials.t0
            t0, t1 = (
                timed(problem.clock, t)
                for t in (begins, torch.cat([begins[1:], begins.new_tensor([trajectory.end_time])]))
            )
            trajectory.polynomials = of_steps(t0, t1 - t0, y0.squeeze(1), k.squeeze(2), self.weights)


@dataclass
class Retaken(TakenStep):
    """A step whose slopes and weights are those of plain PyTorch, where that will take it again for its gradient: the loop wrote
    down other ones."""

    def look_inside(self) -> Step:
        if not self.looked_into:
            field, known = self.problem.field, self.history
            with not_counted(field):
                if not self.ready:
                    known = ((self.span.t, field.start_slope(self.span, self.y0)), *known)
                self.step = self.method.step(field, self.span, self.y0, known)._replace(y1=self.step.y1)
            self.looked_into = True
        return self.step


class StepByStep:
    """The bookkeeping of the eager runner, step by step: events, and tapes for other gradients.

    Args:
        path: of a backward pass of the compiled loop's own, which follows.
    """

    wanted = looks_inside = True
    slopes = ALL

    def __init__(self, problem: Problem, plan: Plan, out: Run, path: Path | None = None):
        self.problem, self.plan, self.out, self.path = problem, plan, out, path
        self.loop: Any = None
        self.following: tuple[History, bool] = (), False
        self.origins = Origins()

    def start(self) -> None:
        self.looked: list[bool] = []
        self.detector = watch_for_events(self.problem, self.plan, self.out.state)

    def take(self, part: Part) -> None:
        state, plan, new = self.out.state, self.plan, written(self.loop, part)
        shown = getattr(self.loop.form.tableau, "shown", None)
        weights = weights_of(self.problem, plan)[:, :shown]
        self.looked = []
        entries: list[TapeEntry] = []
        state.history, state.ready = ((), False) if part.restarts else self.following
        before = int(part.end.attempted) - int(part.end.tries)  # attempts on the way to the first call of this series
        numbers = zip(new.t.flatten().tolist(), new.t1.flatten().tolist(), new.tries.tolist())
        kind = Retaken if self.out.tape is not None and plan.method.weights_depend_on_times else TakenStep
        handed = (
            handed_on(self.loop, part, new.t1.flatten().tolist()) if carries(self.loop.form) else [None] * new.steps
        )
        steps = zip(numbers, new.y0, new.y1, new.k.squeeze(2), handed)
        for n, ((t, t1, tries), y0, y1, k, after) in enumerate(steps):
            span = plan.limits.span(t, t1)
            taken = kind(
                self.problem, plan, span, self.problem.timed(span), y0, state.history, state.ready,
                Step(y1, k[:shown], weights, None, (), origin=self.origins.of(self.loop.form, part.record, n, span, y0, k)),
                plan.method, looked_into=kind is TakenStep,
            )  # fmt: skip
            state.t, state.y, state.dt = t1, y1, t1 - t
            state.attempted, state.accepted = before + tries, state.accepted + 1
            state.rejected = state.attempted - state.accepted
            entry = keep(taken, self.out.trajectory, plan, state, self.detector)
            looked = entry.piece is not None or plan.dense or self.detector is not None
            slope = slope_at_end(self.loop.form, k, looked)
            following, ready = after or (((t1, slope.clone()),) if len(slope) else (), len(slope) > 0)
            if self.out.tape is not None:
                self.out.tape.add(entry._replace(looked_into=looked), Start(y0, state.history), Start(y1, following))
            state.history, state.ready = self.following = following, ready
            self.looked.append(looked)
            entries.append(entry)
            if state.status is Status.EVENT:
                break
        if self.path is not None:
            self.path.note(self.loop, part, dict(enumerate(entries)), self.looked, torch.tensor([len(entries)]))

    def attach(self, problem: Problem, values: Tensor, y0: Tensor, k: Tensor) -> None:
        """The same numbers with a gradient."""
        self.out.trajectory.with_times(problem.clock)
        if self.path is not None:
            self.path.attach(problem, self.out.trajectory, weights_of(self.problem, self.plan), values, y0, k)

    def finish(self) -> None:
        pass
