"""The loop in plain PyTorch: march, and write down what was asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .. import saving
from ..autocast import without_autocast
from ..collectives import without_collectives
from ..errors import OutputError
from ..events import Detector
from ..loop import LoopState, TakenStep, first_bad_step, march, start
from ..methods.base import Step
from ..plan import Plan
from ..problem import Problem
from ..progress import watched
from ..solution import Status
from ..trajectory import Found, Inside, Piece, TapeEntry, Trajectory

_HOLD = 2**24  # numbers of step polynomials held at once, where nobody needs them later


@dataclass
class Run:
    """A finished loop.

    Attributes:
        state: where it stands, and why.
        trajectory: what it leaves.
        tape: the accepted steps, if they are to be taken again.
        counters: as in ``Stats``; a backward pass adds to them when it runs.
    """

    state: LoopState
    trajectory: Trajectory
    tape: list[TapeEntry] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)


@without_autocast
@without_collectives
def run(problem: Problem, plan: Plan, *, keep_tape: bool = False, slope: Tensor | None = None) -> Run:
    """Solve from start to end (or to the first terminal event, or until ``on_step`` stops, or something fails).

    Args:
        keep_tape: write down the accepted steps so that they can be taken again.
        slope: the slope at the start, where it is known already.
    """
    out = not_started(problem, plan, Status.RUNNING)
    state, trajectory = out.state, out.trajectory
    state.slope = slope
    may_fold = not (keep_tape or plan.dense or plan.events or torch.is_grad_enabled())
    try:
        start(problem, plan, state)
        detector = watch_for_events(problem, plan, state)
        for taken in watched(march(problem, plan, state), problem, plan, state):
            entry = keep(taken, trajectory, plan, state, detector)
            if keep_tape:
                out.tape.append(entry)
            if may_fold and trajectory.held > _HOLD:
                saving.fold(trajectory)
            if plan.on_step is not None and state.status is Status.RUNNING and plan.on_step(*as_user(problem, state)):
                state.status = Status.STOPPED
    except OutputError as error:
        state.fail(Status.BAD_OUTPUT, error=error)
    except KeyboardInterrupt:
        if not plan.interruptible:
            raise
        state.status = Status.INTERRUPTED
    bad = first_bad_step(plan, state)
    if bad is not None:
        return run_again_up_to(bad, problem, plan, state, keep_tape, slope)
    out.counters = counters(problem, state)
    return out


def not_started(problem: Problem, plan: Plan, status: Status) -> Run:
    """A run that ended before its first step."""
    state = LoopState(problem.t0, problem.y0, math.inf, status=status)
    trajectory = Trajectory(end=problem.y0, end_time=problem.t0)
    for _ in range(plan.save.at_start(problem.t0)):
        trajectory.add_knot(problem.clock(problem.t0), problem.y0)
    return Run(state, trajectory, [], counters(problem, state))


def counters(problem: Problem, state: LoopState) -> dict[str, int]:
    return {
        "nfe": problem.field.evaluations,
        "attempted": state.attempted,
        "accepted": state.accepted,
        "rejected": state.rejected,
        "replayed": 0,
    }


def watch_for_events(problem: Problem, plan: Plan, state: LoopState) -> Detector | None:
    if not plan.events or state.status is not Status.RUNNING:
        return None
    detector = Detector(plan.events, problem)
    detector.start(state.t, state.y)
    return detector


def run_again_up_to(
    bad: int, problem: Problem, plan: Plan, state: LoopState, keep_tape: bool, slope: Tensor | None
) -> Run:
    """Fixed steps look for nan and inf once, at the end. If there are some, solve again, up to the last good step."""
    good = state.sizes[max(0, bad - 1)][0]
    until = replace(plan, limits=plan.limits.up_to(good), on_step=None, progress=False, watch=None, check_finite=False)
    out = run(problem, until, keep_tape=keep_tape, slope=slope)
    out.state.dt = state.sizes[bad][0] - good
    at_the_end = Step(state.y, state.y, state.y, None, ())
    out.state.fail(Status.NONFINITE_SLOPE if bad else Status.NONFINITE_STATE, at_the_end)
    out.counters.update(attempted=state.attempted, accepted=max(0, bad - 1))
    return out


def as_user(problem: Problem, state: LoopState) -> tuple[float, object]:
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
    return TapeEntry(taken.span, taken.y0, taken.history, taken.ready, taken.looked_into, knot, piece)
