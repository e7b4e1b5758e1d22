"""The loop in plain PyTorch: march, and write down what was asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import saving
from ..autocast import without_autocast
from ..collectives import without_collectives
from ..errors import InputError, OutputError
from ..events import Detector
from ..loop import LoopState, TakenStep, first_bad_step, march, start
from ..methods.base import Step
from ..out_of_steps import why_out_of_steps
from ..plan import Plan
from ..problem import Problem
from ..progress import watched
from ..randomness import RandomState
from ..solution import Status
from ..trajectory import Found, Inside, Piece, Start, Tape, TapeEntry, Trajectory
from ..transforms import batched

_HOLD = 2**24  # numbers of step polynomials held at once, where nobody needs them later


class KnownSlope(NamedTuple):
    """A slope at the start that was evaluated before the loop, and the state of the random generators before that."""

    slope: Tensor | None
    draws: RandomState | None


UNKNOWN = KnownSlope(None, None)


@dataclass
class Run:
    """A finished loop.

    Attributes:
        state: where it stands, and why (``LoopState``, or ``RowsState`` of many rows).
        trajectory: what it leaves (``Trajectory``, or ``RowTrajectory``).
        tape: the accepted steps, where they are to be taken again.
        counters: as in ``Stats``; a backward pass adds to them when it runs.
        recorded: autograd was watching.
    """

    state: Any
    trajectory: Any
    tape: Tape | None = None
    counters: dict[str, Any] = field(default_factory=dict)
    recorded: bool = field(default_factory=torch.is_grad_enabled)


@without_autocast
@without_collectives
def run(
    problem: Problem, plan: Plan, *, new_tape: Callable[[], Tape] | None = None, known: KnownSlope = UNKNOWN
) -> Run:
    """Solve from start to end (or to the first terminal event, or until ``on_step`` stops, or something fails).

    Args:
        new_tape: makes a tape on which the accepted steps are written down.
        known: the slope at the start, where it is known already.
    """
    out = not_started(problem, plan, Status.RUNNING)
    state, trajectory = out.state, out.trajectory
    state.slope, state.slope_draws = known
    out.tape = None if new_tape is None else new_tape()
    may_fold = not (out.tape is not None or plan.dense or plan.events or torch.is_grad_enabled())
    with caught(plan, state):
        start(problem, plan, state)
        detector = watch_for_events(problem, plan, state)
        for taken in watched(march(problem, plan, state), problem, plan, state):
            entry = keep(taken, trajectory, plan, state, detector)
            if out.tape is not None:
                out.tape.add(entry, Start(taken.y0, taken.history), Start(taken.step.y1, taken.step.history))
            if may_fold and trajectory.held > _HOLD:
                saving.fold(trajectory)
            if plan.on_step is not None and state.status is Status.RUNNING and plan.on_step(*as_user(problem, state)):
                state.status = Status.STOPPED
    if state.status is Status.MAX_STEPS:
        state.status = why_out_of_steps(problem, plan, state)
    bad = first_bad_step(plan, state)
    if bad is not None:
        return run_again_up_to(bad, problem, plan, state, new_tape, known)
    out.counters = counters(problem, state)
    return out


@contextmanager
def caught(plan: Plan, state: LoopState) -> Iterator[None]:
    """What ends a solve from inside."""
    try:
        yield
    except OutputError as error:
        state.fail(Status.BAD_OUTPUT, error=error)
    except KeyboardInterrupt:
        if not plan.interruptible:
            raise
        state.status = Status.INTERRUPTED


def not_started(problem: Problem, plan: Plan, status: Status) -> Run:
    """A run that ended before its first step."""
    state = LoopState(problem.t0, problem.y0, math.inf, status=status)
    trajectory = Trajectory(end=problem.y0, end_time=problem.t0)
    for _ in range(plan.save.at_start(problem.t0)):
        trajectory.add_knot(problem.clock(problem.t0), problem.y0)
    return Run(state, trajectory, None, counters(problem, state))


def counters(problem: Problem, state: LoopState) -> dict[str, int]:
    return {
        "nfe": problem.field.evaluations,
        "attempted": state.attempted,
        "accepted": state.accepted,
        "rejected": state.rejected,
        "replayed": 0,
        "njev": problem.field.counts.jacobians,
        "nlu": problem.field.counts.factorisations,
        "switches": 0 if state.steering is None else state.steering.switches,
    }


def watch_for_events(problem: Problem, plan: Plan, state: LoopState) -> Detector | None:
    if not plan.events or state.status is not Status.RUNNING:
        return None
    detector = Detector(plan.events, problem)
    detector.start(state.t, state.y)
    return detector


def run_again_up_to(
    bad: int,
    problem: Problem,
    plan: Plan,
    state: LoopState,
    new_tape: Callable[[], Tape] | None,
    known: KnownSlope,
) -> Run:
    """Fixed steps look for nan and inf once, at the end. If there are some, solve again, up to the last good step."""
    good = state.sizes[max(0, bad - 1)][0]
    until = replace(plan, limits=plan.limits.up_to(good), on_step=None, progress=False, watch=None, check_finite=False)
    out = run(problem, until, new_tape=new_tape, known=known)
    out.state.dt = state.sizes[bad][0] - good
    at_the_end = Step(state.y, state.y, state.y, None, ())
    out.state.fail(Status.NONFINITE_SLOPE if bad else Status.NONFINITE_STATE, at_the_end)
    out.counters.update(attempted=state.attempted, accepted=max(0, bad - 1))
    return out


def as_user(problem: Problem, state: LoopState) -> tuple[float, object]:
    """Time and state for ``on_step``."""
    if batched(state.y):
        raise InputError(
            "on_step looks at the state after every step, but under torch.func.vmap there is one for each row and no number to "
            "read. Leave on_step out and read the outputs (save='steps'), or solve the whole batch as one state."
        )
    return state.t * problem.direction, problem.layout.unravel(state.y.detach())


def keep(
    taken: TakenStep, trajectory: Trajectory, plan: Plan, state: LoopState, detector: Detector | None
) -> TapeEntry:
    """Write down what the step has to tell: outputs in it and at its end, events, the piece itself."""
    t, t1 = taken.span.t, taken.span.t1
    inside, at_end = plan.save.in_step(t, t1)
    if plan.max_steps_per_output and (inside or at_end):
        state.budget_from = state.attempted
    found: list[Found] = []
    piece = knot = None
    if inside or plan.dense or detector is not None:
        step = taken.look_inside()
        whole = Piece(taken.timed, taken.y0, step.k, step.weights)
        if detector is not None:
            found = detector.find(whole, len(trajectory.pieces), step.y1)
        if inside or plan.dense or found:
            piece = trajectory.add_piece(whole)
    if detector is not None and found and detector.events[found[-1].event].terminal:
        state.status, t1, at_end = Status.EVENT, found[-1].t, False
        inside = [s for s in inside if s < t1]
    clock = taken.problem.clock
    trajectory.outputs += [Inside(piece, clock(s)) for s in inside] if piece is not None else []
    if at_end:
        knot = trajectory.add_knot(taken.timed.t1, taken.step.y1)
    trajectory.events += found
    trajectory.end, trajectory.end_time = taken.step.y1, t1
    return TapeEntry(
        taken.span, taken.ready, len(taken.history), taken.looked_into, taken.draws, knot, piece, taken.method,
        taken.step.origin,
    )  # fmt: skip
