"""One problem through the compiled loop."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ...autocast import without_autocast
from ...collectives import without_collectives
from ...errors import OutputError
from ...interpolation import StepPolynomials
from ...loop import LoopState, TakenStep, start
from ...methods.base import Step
from ...methods.explicit_rk import coefficients
from ...per_sample.loop import CODES, RUNNING
from ...plan import Plan
from ...problem import Problem
from ...saving import EndOnly, GivenTimes
from ...solution import Status
from ...span import OneSpan
from ...trajectory import Start, Tape, Trajectory
from ..eager import UNKNOWN, KnownSlope, Run, counters, keep, not_started, watch_for_events
from .march import Loop, Written
from .outputs import polynomials, values_at
from .setup import carry_of, check, fixed_of, rows_of
from .step import SUCCESS, Carry


@without_autocast
@without_collectives
def run(
    problem: Problem, plan: Plan, *, new_tape: Callable[[], Tape] | None = None, known: KnownSlope = UNKNOWN
) -> Run:
    """What ``eager.run`` does, in compiled calls of many steps."""
    check(problem, plan)
    out = not_started(problem, plan, Status.RUNNING)
    state = out.state
    state.slope, state.slope_draws = known
    out.tape = None if new_tape is None else new_tape()
    try:
        start(problem, plan, state)
        if state.status is Status.RUNNING:
            follow(problem, plan, out)
    except OutputError as error:
        state.fail(Status.BAD_OUTPUT, error=error)
    except KeyboardInterrupt:
        if not plan.interruptible:
            raise
        state.status = Status.INTERRUPTED
    out.counters = counters(problem, state)
    return out


def follow(problem: Problem, plan: Plan, out: Run) -> None:
    """From the state before the first step to the end."""
    step_by_step = out.tape is not None or bool(plan.events)
    if step_by_step:
        writer: Any = StepByStep(problem, plan, out)
    else:
        writer = AtOnce(problem, plan, out.trajectory)
    if not plan.limits.anything_left(out.state.t):
        out.state.status = Status.SUCCESS
        writer.finish()
        return
    loop = Loop(problem, plan, writes=writer.wanted, looks_inside=writer.looks_inside)
    for carry, new in march(loop, problem, plan, out.state):
        if new is not None:
            writer.take(new)
        if out.state.status is Status.EVENT:
            break
        read_back(problem, plan, out.state, carry)
        out.trajectory.end, out.trajectory.end_time = out.state.y, out.state.t
    writer.finish()


def march(loop: Loop, problem: Problem, plan: Plan, state: LoopState) -> Iterator[tuple[Carry, Written | None]]:
    """The calls of the compiled loop, part by part: ``f`` is asked afresh where it jumps."""
    limits = plan.limits
    jumps = sorted(limits.jumps)
    while state.status is Status.RUNNING and limits.anything_left(state.t):
        ahead = bisect_right(jumps, state.t)
        end = min([*jumps[ahead : ahead + 1], limits.end])
        span = limits.cut(state.t, end - state.t)
        if state.slope is None:
            state.slope = problem.field.start_slope(span, state.y)
        fixed = fixed_of(problem, plan, loop.form, torch.tensor([end], dtype=torch.float64), limits._first(state.t), limits._last(end))
        yield from loop.march(carry_of(problem, plan, state, state.slope), fixed)
        state.slope = None
        state.history, state.ready = (), False


def read_back(problem: Problem, plan: Plan, state: LoopState, at: Carry) -> None:
    """The loop's state as the eager runner would have it."""
    state.t, state.y = float(at.t), rows_of(problem.layout, at.ys).reshape(1, -1)
    state.dt = float(at.dt)
    state.attempted, state.accepted = int(at.attempted), int(at.accepted)
    state.rejected = state.attempted - state.accepted
    state.memory = tuple(float(x) for x in at.memory)[: min(2, state.accepted)]
    slope = rows_of(problem.layout, at.ks).reshape(1, -1)
    if plan.method.tableau.fsal and state.accepted:  # type: ignore[attr-defined]
        state.history, state.ready = ((state.t, slope),), True
    code = CODES[int(at.code)]
    if code not in (Status.RUNNING, Status.SUCCESS):
        span = plan.limits.cut(state.t, state.dt)
        blamed = plan.method.step(problem.field, span, state.y, ((state.t, slope),))
        problem.field.evaluations -= len(blamed.k) - 1
        state.fail(code, blamed)
    elif state.t >= plan.limits.end:
        state.status = Status.SUCCESS


class AtOnce:
    """Outputs and interpolants of many steps at once, where nobody needs the steps themselves."""

    def __init__(self, problem: Problem, plan: Plan, trajectory: Trajectory):
        self.problem, self.plan, self.trajectory = problem, plan, trajectory
        self.times = torch.tensor([problem.t], dtype=torch.float64) if isinstance(plan.save, GivenTimes) else None
        self.wanted = plan.dense or not isinstance(plan.save, EndOnly)
        self.looks_inside = plan.dense or self.times is not None and len(problem.t) > 2
        self.weights = coefficients(plan.method.tableau, problem.y0.dtype, problem.y0.device).weights  # type: ignore[attr-defined]
        self.t = [torch.as_tensor([o.t], dtype=torch.float64) for o in trajectory.outputs]
        self.y = list(trajectory.knots)
        self.pieces: list[StepPolynomials] = []

    def take(self, new: Written) -> None:
        if not len(new):
            return
        if self.plan.dense:
            self.pieces.append(polynomials(new, self.weights))
        if self.times is None:
            self.t.append(new.t1.squeeze(1))
            self.y.append(new.y1.squeeze(1))
        else:
            found = values_at(new, self.times, self.weights)
            self.t.append(found.t)
            self.y.append(found.values)

    def finish(self) -> None:
        empty = self.problem.y0[:0].detach()
        self.trajectory.known = (
            torch.cat([*self.t, torch.empty(0, dtype=torch.float64)]), torch.cat([*self.y, empty]),
        )  # fmt: skip
        if self.pieces:
            self.trajectory.polynomials = StepPolynomials(
                torch.cat([p.t0 for p in self.pieces]), torch.cat([p.dt for p in self.pieces]),
                torch.cat([p.coefficients for p in self.pieces]),
            )  # fmt: skip


class StepByStep:
    """The bookkeeping of the eager runner, step by step: events, and tapes for gradients."""

    wanted = True

    def __init__(self, problem: Problem, plan: Plan, out: Run):
        self.problem, self.plan, self.out = problem, plan, out
        self.detector = watch_for_events(problem, plan, out.state)
        self.looks_inside = True
        self.weights = coefficients(plan.method.tableau, problem.y0.dtype, problem.y0.device).weights  # type: ignore[attr-defined]

    def take(self, new: Written) -> None:
        state, plan = self.out.state, self.plan
        fsal = plan.method.tableau.fsal  # type: ignore[attr-defined]
        stages = len(plan.method.tableau.b)  # type: ignore[attr-defined]
        for t, t1, y0, y1, k in zip(new.t.flatten().tolist(), new.t1.flatten().tolist(), new.y0, new.y1, new.k):
            k = k.squeeze(1)
            end_slope = ((t1, k[stages - 1 : stages].clone()),) if fsal else ()
            step = Step(y1, k, self.weights, None, end_slope, ready=fsal)
            span = OneSpan(t, t1, plan.limits._last(t1), plan.limits._first(t), t1 - t)
            taken = TakenStep(
                self.problem, plan, span, self.problem.timed(span), y0, state.history, state.ready, step,
                looked_into=bool(len(k) > stages),
            )  # fmt: skip
            state.t, state.y = t1, y1
            entry = keep(taken, self.out.trajectory, plan, state, self.detector)
            if self.out.tape is not None:
                self.out.tape.add(entry, Start(y0, state.history), Start(y1, end_slope))
            state.history, state.ready = end_slope, fsal
            if state.status is Status.EVENT:
                return

    def finish(self) -> None:
        pass
