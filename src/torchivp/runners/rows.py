"""The loop over many rows in plain PyTorch: march, and write down what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..autocast import without_autocast
from ..collectives import without_collectives
from ..errors import OutputError
from ..per_sample.compaction import check_rows_alone, only, plan_for, put_back, refuse_tape, state_of
from ..per_sample.events import RowDetector, known_events
from ..per_sample.loop import RowsState, RowsTaken, begin, march, start
from ..per_sample.out_of_steps import name_stiff_rows
from ..per_sample.problem import RowsProblem
from ..per_sample.saving import Wanted
from ..per_sample.stiffness import WatchedRows
from ..per_sample.trajectory import AtEnds, InSteps, RowTrajectory, Values, at
from ..plan import Plan
from ..progress import watched
from ..solution import Status
from ..trajectory import Piece, Start, Tape, TapeEntry
from .eager import UNKNOWN, KnownSlope, Run


@without_autocast
@without_collectives
def run(
    problem: RowsProblem, plan: Plan, *, new_tape: Callable[[], Tape] | None = None, known: KnownSlope = UNKNOWN
) -> Run:
    """Solve every row from its start to its end (or to its first terminal event, or until something fails).

    Args:
        new_tape: makes a tape on which the steps are written down that any row takes.
        known: the slopes at the starts, where they are known already.
    """
    out, state = started(problem, plan, new_tape, known)
    go_on(problem, plan, out, state)
    return finished(problem, plan, out, state)


@without_autocast
@without_collectives
def run_compacted(
    problem: RowsProblem, plan: Plan, *, new_tape: Callable[[], Tape] | None = None, known: KnownSlope = UNKNOWN
) -> Run:
    """The same, but whenever half of the rows are done the others go on by themselves.

    Raises:
        InputError: if the steps are to be written down; if ``f`` cannot do with fewer rows.
    """
    refuse_tape(new_tape)
    check_rows_alone(problem)
    out, state = started(problem, plan, None, known)
    rest(problem, plan, out, state)
    return finished(problem, plan, out, state)


def rest(problem: RowsProblem, plan: Plan, out: Run, state: RowsState) -> None:
    """Go on until half of the rows are done; then with the others alone."""
    go_on(problem, plan, out, state, until=len(state.t) // 2)
    if not state.alive:
        return
    rows = state.running.nonzero().squeeze(1)
    part, part_state = only(problem, rows), state_of(state, rows)
    trajectory = RowTrajectory(part_state.y, part_state.t, out.trajectory.counts[rows])
    rest(part, plan_for(plan, rows, part), Run(part_state, trajectory), part_state)
    problem.field.evaluations += part.field.evaluations
    put_back(state, out.trajectory, rows, part_state, trajectory)


def started(
    problem: RowsProblem, plan: Plan, new_tape: Callable[[], Tape] | None, known: KnownSlope
) -> tuple[Run, RowsState]:
    """A run before its first step."""
    state = begin(problem)
    out = Run(state, first_outputs(problem, plan), None if new_tape is None else new_tape())
    state.slope, state.slope_draws = known
    state.watched = WatchedRows.of(problem, plan)
    with caught(plan, state):
        start(problem, plan, state)
    return out, state


def go_on(problem: RowsProblem, plan: Plan, out: Run, state: RowsState, until: int = 0) -> None:
    """March until only so many rows are left."""
    with caught(plan, state):
        detector = RowDetector(plan.events, problem, state) if plan.events and state.alive else None
        for taken in watched(march(problem, plan, state), problem, plan, state):
            entry = keep(taken, out, plan, state, detector, later=out.tape is not None)
            if out.tape is not None:
                settled = taken.settled()
                out.tape.add(entry, Start(taken.y0, taken.history), Start(settled.y1, settled.history))
            if plan.on_step is not None and state.alive:
                stop = torch.as_tensor(plan.on_step(*as_user(problem, state)), device=state.t.device)
                state.end(stop.bool().reshape(-1).expand(len(state.t)), Status.STOPPED)
            if state.alive <= until:
                taken.hand_on(state)
                return


@contextmanager
def caught(plan: Plan, state: RowsState) -> Iterator[None]:
    """What ends the solve of all rows that are still running."""
    try:
        yield
    except OutputError as error:
        state.fail(state.running, Status.BAD_OUTPUT, error=error)
    except KeyboardInterrupt:
        if not plan.interruptible:
            raise
        state.end(state.running, Status.INTERRUPTED)


def finished(problem: RowsProblem, plan: Plan, out: Run, state: RowsState) -> Run:
    name_stiff_rows(problem, plan, state)
    out.trajectory.end = state.y
    out.counters = counters(problem, state)
    return out


def first_outputs(problem: RowsProblem, plan: Plan) -> RowTrajectory:
    """A trajectory that holds the starts, where they are outputs."""
    none = torch.zeros(problem.layout.rows, dtype=torch.int64, device=problem.layout.device)
    trajectory = RowTrajectory(problem.y0, problem.t0, none)
    if plan.save.start_too:
        everyone = torch.arange(len(none), device=none.device)
        trajectory.outputs.append(AtEnds(trajectory.add_knot(problem.y0), everyone, none, problem.clock(problem.t0)))
        trajectory.counts = none + 1
    return trajectory


def counters(problem: RowsProblem, state: RowsState) -> dict[str, int | Tensor]:
    return {
        "nfe": problem.field.evaluations,
        "attempted": state.attempted,
        "accepted": state.accepted,
        "rejected": state.rejected,
        "replayed": 0,
        "njev": problem.field.counts.jacobians,
        "nlu": problem.field.counts.factorisations,
    }


def as_user(problem: RowsProblem, state: RowsState) -> tuple[Tensor, object]:
    """Times and states for ``on_step``."""
    t = (state.t * problem.direction).view(problem.layout.batch)
    return t, problem.layout.unravel(state.y.detach())


def keep(
    taken: RowsTaken, out: Run, plan: Plan, state: RowsState, detector: RowDetector | None, later: bool
) -> TapeEntry:
    """Write down what the step has to tell: outputs in it and at its ends, events, the piece itself.

    Args:
        later: what lies inside is looked at later, when there is a gradient.
    """
    trajectory, span = out.trajectory, taken.span
    knot = None
    found = [] if detector is None else detector.find(piece_of(taken), len(trajectory.pieces), state)
    piece = trajectory.add_piece(piece_of(taken)) if plan.dense or (found and later) else None
    trajectory.events += [e if later else known_events(e, piece_of(taken), plan.events, taken.problem) for e in found]
    trajectory.end_time = state.t if detector is None else torch.minimum(state.t, detector.stopped)
    wanted = plan.save.in_step(span.t, span.t1, span.taken, trajectory.counts)
    if wanted is not None and detector is not None:
        wanted = wanted.before(detector.stopped)
    if wanted is None:
        return tape_entry(taken, knot, piece)
    trajectory.counts = trajectory.counts + torch.bincount(wanted.rows, minlength=len(span.t))
    at_ends, inside = parted(wanted, span.t1)
    if len(at_ends.rows):
        knot = trajectory.add_knot(state.y)
        trajectory.outputs.append(AtEnds(knot, at_ends.rows, at_ends.columns, taken.time_of(at_ends)))
    if len(inside.rows):
        if piece is None and later:
            piece = trajectory.add_piece(piece_of(taken))
        times = taken.time_of(inside)
        trajectory.outputs.append(
            Values(at(piece_of(taken), inside.rows, times), inside.rows, inside.columns, times)
            if piece is None
            else InSteps(piece, inside.rows, inside.columns, times)
        )
    return tape_entry(taken, knot, piece)


def piece_of(taken: RowsTaken) -> Piece:
    step = taken.look_inside()
    return Piece(taken.timed, taken.y0, step.k, step.weights)


def parted(wanted: Wanted, t1: Tensor) -> tuple[Wanted, Wanted]:
    """The outputs at the ends of the step, and those inside."""
    at_end = wanted.t == t1[wanted.rows]
    return Wanted(*(x[at_end] for x in wanted)), Wanted(*(x[~at_end] for x in wanted))


def tape_entry(taken: RowsTaken, knot: int | None, piece: int | None) -> TapeEntry:
    return TapeEntry(
        taken.span, taken.ready, len(taken.history), taken.looked_into, taken.draws, knot, piece, taken.plan.method,
        taken.step.origin,
    )  # fmt: skip
