"""Many rows through the compiled loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...autocast import without_autocast
from ...collectives import without_collectives
from ...controllers import PID
from ...methods.base import Step
from ...per_sample.events import RowDetector
from ...per_sample.loop import CODES, RUNNING, RowsState, RowsTaken, begin, start
from ...per_sample.problem import RowsProblem
from ...per_sample.saving import RowSteps, RowTimes
from ...per_sample.trajectory import AtEnds, RowTrajectory, Values
from ...plan import Plan
from ...progress import watched
from ...solution import Status
from ...trajectory import Series, Start, Tape, TapeEntry
from .. import rows as plain
from ..eager import UNKNOWN, KnownSlope, Run
from ..rows import caught, finished, first_outputs, keep
from .attached import attach
from .counting import count, count_systems, evaluations, looked_into, not_counted, slope_at_end
from .march import COMPILED, Kind, Loop, Part, loop_for, refuse_lost_gradient, written
from .origins import Origins
from .outputs import ends_of, values_at
from .past import carries, handed_on, history_at
from .path import Path
from .setup import carry_of, check, fixed_of, goes_back, slopes_for, weights_of
from .step import ALL, MAX_STEPS, NONFINITE, SUCCESS, Carry
from .undone import StartCheck

TAKEN = [CODES.index(s) for s in (Status.SUCCESS, Status.EVENT, Status.MAX_STEPS)]


@dataclass
class CompiledState(RowsState):
    """Where the rows stand, as the compiled loop says.

    Attributes:
        codes, attempts: status and attempted steps of every row, ``[B]``; what stands in ``ends`` came later and counts.
    """

    codes: Tensor | None = None
    attempts: Tensor | None = None

    @property
    def code(self) -> Tensor:
        code = torch.full_like(self.accepted, RUNNING) if self.codes is None else self.codes.clone()
        for rows, _, number in self.ends:
            code[rows] = number
        return code

    @property
    def attempted(self) -> Tensor:
        attempted = torch.zeros_like(self.accepted) if self.attempts is None else self.attempts.clone()
        for rows, after, _ in self.ends:
            attempted[rows] = after
        return attempted

    def rename(self, rows: Tensor, status: Status) -> None:
        self.codes = torch.where(rows, CODES.index(status), self.code)


def run(
    problem: RowsProblem,
    plan: Plan,
    *,
    new_tape: Callable[[], Tape] | None = None,
    known: KnownSlope = UNKNOWN,
    kind: Kind = COMPILED,
) -> Run:
    """What ``rows.run`` does, in compiled calls of many steps."""
    if not problem.layout.size:  # no numbers, nothing to compile
        return plain.run(problem, plan, new_tape=new_tape, known=known)
    check(problem, plan, kind.name)
    out = begun(problem, plan, known)
    out.tape = None if new_tape is None else new_tape()
    step_by_step = out.tape is not None or bool(plan.events) or plan.dense
    writer = StepByStep(problem, plan, out) if step_by_step else AtOnce(problem, plan, out)
    solve(problem, plan, out, writer, kind)
    return finished(problem, plan, out, out.state)


def with_gradient(
    problem: RowsProblem, plan: Plan, check_start: StartCheck | None = None, series: Series | None = None
) -> Run | None:
    """The same with the gradient of ``discrete``, backwards in compiled calls, too; None if that cannot be.

    Args:
        check_start: the states are computed backwards, as ``reversible`` does it, and this looks at those that are known.
        series: the steps are taken again, so many at a time.
    """
    check(problem, plan, COMPILED.name)
    if not goes_back(problem, plan, check_start is not None, series is not None):
        return None
    writer: AtOnce | StepByStep
    with torch.no_grad():
        frozen: Any = problem.frozen()
        out = begun(frozen, plan, UNKNOWN)
        path = Path(check_start is not None, series)
        step_by_step = bool(plan.events) or plan.dense
        writer = StepByStep(frozen, plan, out, path) if step_by_step else AtOnce(frozen, plan, out, path)
        solve(frozen, plan, out, writer, COMPILED)
        out = finished(frozen, plan, out, out.state)
    trajectory = out.trajectory
    trajectory.with_times(problem.clock)
    if trajectory.knots:
        trajectory.knots[0] = problem.y0
    attach(problem, writer, path, out, weights_of(problem, plan), check_start)
    return out


def begun(problem: RowsProblem, plan: Plan, known: KnownSlope) -> Run:
    state = CompiledState(**vars(begin(problem)))
    state.slope, state.slope_draws = known
    return Run(state, first_outputs(problem, plan))


@without_autocast
@without_collectives
def solve(problem: RowsProblem, plan: Plan, out: Run, writer: AtOnce | StepByStep, kind: Kind) -> None:
    """From the starts to the ends."""
    with caught(plan, out.state):
        start(problem, plan, out.state)
    go_on(problem, plan, out, writer, kind)
    out.state.dt = torch.zeros_like(out.state.dt)


def go_on(
    problem: RowsProblem,
    plan: Plan,
    out: Run,
    writer: AtOnce | StepByStep,
    kind: Kind,
    until: int | None = None,
    whole: RowsProblem | None = None,
) -> None:
    """Call after call of the loop; until only so many rows are left, if that is said.

    Args:
        whole: the problem that this one is a part of.
    """
    state: CompiledState = out.state
    with caught(plan, state):
        if not state.alive:
            return
        writer.start()
        writer.loop = loop = loop_for(
            problem,
            plan,
            kind,
            writes=writer.wanted,
            slopes=writer.slopes,
            looks_inside=writer.looks_inside,
            whole=whole,
        )
        loop.most = None if writer.path is None else writer.path.most
        refuse_lost_gradient(problem, loop)

        def parts() -> Iterator[Part]:
            for part in march(loop, problem, plan, state, until):
                before = int(state.attempted.max())
                writer.take(part)
                writer.read_back(part.end)
                attempts = int(state.attempted.max())
                count(problem.field, evaluations(loop.form, attempts - before, writer.looked, goes_on(state)))
                count_systems(problem.field, loop.form, attempts - before, part.steps)
                yield part

        try:
            for _ in watched(parts(), problem, plan, state):
                pass
        except KeyboardInterrupt:
            state.running = unfinished(plan, state)
            raise
        blame(problem, plan, state)


def unfinished(plan: Plan, state: CompiledState) -> Tensor:
    """The rows ``[B]`` that would go on: between two calls they run, or wait at a jump."""
    code = state.code
    return ((code == RUNNING) | (code == SUCCESS)) & (state.t < plan.limits.end)


def goes_on(state: CompiledState) -> bool:
    """Whether an attempt comes after the last step that any row took."""
    code, attempted = state.code, state.attempted
    last = code[attempted == attempted.max()]  # who failed in the last attempt did not take it
    return bool((code == RUNNING).any() or not (last[:, None] == torch.tensor(TAKEN, device=code.device)).any())


def march(
    loop: Loop, problem: RowsProblem, plan: Plan, state: CompiledState, until: int | None = None
) -> Iterator[Part]:
    """The calls of the compiled loop, part by part: ``f`` is asked afresh where it jumps."""
    limits, least = plan.limits, until or 0
    while state.alive > least:
        end = limits.end
        if limits.jumps is not None:
            ahead = torch.where(limits.jumps > state.t.unsqueeze(1), limits.jumps, torch.inf).amin(1)
            end = torch.minimum(end, ahead)
        if state.slope is None:
            span = limits.cut(state.t, torch.where(state.running, state.dt, 0.0), state.frozen)
            state.slope = problem.field.start_slope(span, state.y)
        fixed = fixed_of(problem, plan, loop.leaves, end, limits._first(state.t), limits._last(end))
        if until is not None:  # at a jump all rows wait for each other
            fixed = fixed._replace(least=(torch.tensor(least if limits.jumps is None else 0, device=end.device),))
        carry = carry_of(problem, plan, loop.leaves, state, state.slope, state.tries)
        state.slope = None
        for part in loop.march(carry, fixed):
            yield part
            if limits.jumps is None and 0 < int((state.code == RUNNING).sum()) <= least:
                state.slope = loop.leaves.rows(part.end.ks).reshape(1, -1)
                break
        state.running = unfinished(plan, state)
        state.alive = int(state.running.sum())
        if state.alive and state.codes is not None:
            state.codes = torch.where(state.running, RUNNING, state.codes)


def read_back(problem: RowsProblem, state: CompiledState, at: Carry) -> None:
    """Sizes, statuses and counters as the loop left them."""
    rows = problem.layout.rows
    state.dt, state.tries = at.dt.reshape(rows), int(at.tries)
    state.memory = tuple(x.reshape(rows) for x in at.memory)
    state.codes, state.attempts = (x.reshape(rows).to(torch.int64) for x in (at.code, at.attempted))


def blame(problem: RowsProblem, plan: Plan, state: CompiledState) -> None:
    """What the rows failed at: the attempt is made again, where their messages can look at it."""
    failures = torch.tensor([not s.success and s is not Status.RUNNING for s in CODES], device=state.t.device)
    rows = failures[state.code]
    if not bool(rows.any()):
        return
    size = state.dt
    if isinstance(plan.controller, PID):
        size = torch.where(state.code == NONFINITE, size / plan.controller.min_factor, size)  # as in single.tried_again
    span = plan.limits.cut(state.t, torch.where(rows, size, 0.0))
    with not_counted(problem.field, jacobians=bool((state.code[rows] == MAX_STEPS).all())):
        history = state.history or ((state.t, problem.field.start_slope(span, state.y)),)
        step = plan.method.step(problem.field, span, state.y, history)
    given = torch.where(state.code == MAX_STEPS, torch.inf, span.dt)  # no step of this size failed
    state.note_failure(rows, state.dt if plan.controller.adaptive else given, step)


class AtOnce:
    """Outputs of many steps at once, where nobody needs the steps themselves.

    Args:
        path: of a backward pass that follows.
    """

    def __init__(self, problem: RowsProblem, plan: Plan, out: Run, path: Path | None = None):
        self.problem, self.plan = problem, plan
        self.state: CompiledState = out.state
        self.trajectory: RowTrajectory = out.trajectory
        self.times = plan.save.inside if isinstance(plan.save, RowTimes) else None
        inside = self.times is not None and self.times.shape[1] > 0
        self.reads = inside or isinstance(plan.save, RowSteps)
        self.wanted, self.looks_inside, self.path = path is not None or self.reads, inside, path
        self.slopes = slopes_for(plan, inside, self.reads, path is not None and not path.undoes)
        self.weights = weights_of(problem, plan)
        self.loop: Any = None

    def start(self) -> None:
        pass

    def take(self, part: Part) -> None:
        found, n = None, part.steps
        self.looked = [False] * n
        if self.reads and n:
            new, counts = written(self.loop, part), self.trajectory.counts
            found = ends_of(new) if self.times is None else values_at(new, self.times, self.weights)
            self.looked = looked_into(n, None if self.times is None else found, new.t1)
            columns = found.columns + (counts[found.rows] if self.times is None else 1)
            self.trajectory.outputs.append(Values(found.values, found.rows, columns, found.t))
            self.trajectory.counts = counts + torch.bincount(found.rows, minlength=len(counts))
        if self.path is not None:
            self.path.add(part, found, self.looked)

    def attach(self, problem: RowsProblem, values: Tensor, *_: Tensor) -> None:
        """The same numbers with a gradient."""
        outputs = self.trajectory.outputs
        parts = iter(values.split([len(o.t) for o in outputs if isinstance(o, Values)]))
        self.trajectory.outputs = [o._replace(values=next(parts)) if isinstance(o, Values) else o for o in outputs]

    def read_back(self, at: Carry) -> None:
        state, layout, loop = self.state, self.problem.layout, self.loop
        read_back(self.problem, state, at)
        if carries(loop.form):
            state.history = history_at(loop.form, loop.leaves, at, at.t.reshape(layout.rows))
        state.t, state.y = at.t.reshape(layout.rows), self.loop.leaves.rows(at.ys).reshape(1, -1)
        state.accepted = at.accepted.reshape(layout.rows).to(torch.int64)
        self.trajectory.end_time = state.t


class StepByStep:
    """The bookkeeping of the eager runner, step by step: events, dense output, tapes for gradients.

    Args:
        path: of a backward pass of the compiled loop's own, which follows.
    """

    wanted = looks_inside = True
    slopes = ALL

    def __init__(self, problem: RowsProblem, plan: Plan, out: Run, path: Path | None = None):
        self.problem, self.plan, self.out, self.path = problem, plan, out, path
        self.loop: Any = None
        self.origins = Origins()

    def start(self) -> None:
        self.looked: list[bool] = []
        events, problem = self.plan.events, self.problem
        self.detector = RowDetector(events, problem, self.out.state) if events else None

    def take(self, part: Part) -> None:
        problem, plan, state, new = self.problem, self.plan, self.out.state, written(self.loop, part)
        weights = weights_of(problem, plan)
        if part.restarts:
            state.history, state.ready = (), False
        self.looked, width = [], problem.layout.size
        entries: dict[int, TapeEntry] = {}
        until = torch.full_like(state.accepted, new.steps)
        later = self.out.tape is not None or self.path is not None
        handed = handed_on(self.loop, part, list(new.t1)) if carries(self.loop.form) else [None] * new.steps
        for n in range(new.steps):
            t, t1 = new.t[n], new.t1[n]
            accepted = new.accepted[n] & state.running
            if self.detector is not None and not bool(accepted.any()):  # only rows that an event had stopped
                continue
            k = new.k[n].reshape(-1, width)
            y0, y1 = state.y, new.y1[n].reshape(1, width)
            span = plan.limits.span(t, t1, state.frozen).taken_by(accepted)
            timed = problem.timed(span)
            origin = self.origins.of(self.loop.form, part.record, n, span, y0, k)
            step = Step(y1, k, weights, None, (), origin=origin)
            known = state.history if self.loop.form.hands_on and state.history else ((timed.t, k[:1]),)
            taken = RowsTaken(
                problem, plan, span, timed, y0, state.history, state.ready, known, step, span.choose(y1, y0),
                looked_into=True,
            )  # fmt: skip
            state.t, state.y = torch.where(accepted, t1, state.t), taken.y1
            state.tries = int(new.tries[n])
            state.accepted = state.accepted + accepted
            outputs = len(self.out.trajectory.outputs)
            entries[n] = entry = keep(taken, self.out, plan, state, self.detector, later)
            until = torch.where(accepted & ~state.running, n + 1, until)
            inside = any(not isinstance(x, AtEnds) for x in self.out.trajectory.outputs[outputs:])
            looked = inside or plan.dense or self.detector is not None
            self.looked.append(looked)
            slope = slope_at_end(self.loop.form, k, looked)
            history, ready = handed[n] or (((t1, slope.clone()),) if len(slope) else (), len(slope) > 0)
            taken.step = step._replace(history=history, ready=ready)
            settled = taken.settled()
            if self.out.tape is not None:
                entry = entry._replace(looked_into=looked)
                self.out.tape.add(entry, Start(taken.y0, taken.history), Start(settled.y1, settled.history))
            state.history, state.ready = settled.history, settled.ready
        if self.path is not None:
            self.path.note(self.loop, part, entries, self.looked, until)

    def attach(self, problem: RowsProblem, values: Tensor, y0: Tensor, k: Tensor) -> None:
        """The same numbers with a gradient."""
        if self.path is not None:
            self.path.attach(problem, self.out.trajectory, weights_of(self.problem, self.plan), values, y0, k)

    def read_back(self, at: Carry) -> None:
        stopped = list(self.out.state.ends)
        read_back(self.problem, self.out.state, at)
        for rows, _, number in stopped:
            at.code.view(-1)[rows] = number  # the loop leaves them out from now on
