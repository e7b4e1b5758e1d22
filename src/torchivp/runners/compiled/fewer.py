"""Rows through the compiled loop, of which those that are done are let go."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...autocast import without_autocast
from ...collectives import without_collectives
from ...per_sample.compaction import check_rows_alone, only, plan_for, put_back, refuse_tape, state_of
from ...per_sample.loop import start
from ...per_sample.problem import RowsProblem
from ...per_sample.trajectory import RowTrajectory
from ...plan import Plan
from ...trajectory import Tape
from .. import rows as plain
from ..eager import UNKNOWN, KnownSlope, Run
from ..rows import caught, finished
from .march import COMPILED
from .rows import AtOnce, CompiledState, begun, go_on
from .setup import check

_FEW = 16  # rows: of so few a step costs hardly less than of all of them


@without_autocast
@without_collectives
def run(
    problem: RowsProblem, plan: Plan, *, new_tape: Callable[[], Tape] | None = None, known: KnownSlope = UNKNOWN
) -> Run:
    """What ``rows.run_compacted`` does: whenever half of the rows are done the others go on by themselves, in the same program
    for all sizes of a batch."""
    if not problem.layout.size:  # no numbers, nothing to compile
        return plain.run_compacted(problem, plan, new_tape=new_tape, known=known)
    refuse_tape(new_tape)
    check_rows_alone(problem)
    check(problem, plan, COMPILED.name)
    out = begun(problem, plan, known)
    with caught(plan, out.state):
        start(problem, plan, out.state)
    rest(problem, plan, out, problem)
    out.state.dt = torch.zeros_like(out.state.dt)
    return finished(problem, plan, out, out.state)


def rest(problem: RowsProblem, plan: Plan, out: Run, whole: RowsProblem) -> None:
    """Go on until half of the rows are done; then with the others alone.

    Args:
        whole: the problem of all rows.
    """
    state, all_rows = out.state, problem.layout.rows
    until = all_rows // 2 if all_rows > _FEW else 0
    go_on(problem, plan, out, AtOnce(problem, plan, out), COMPILED, until, whole)
    if not state.alive:
        return
    rows = state.running.nonzero().squeeze(1)
    if len(rows) == 1:  # for which torch would make a program of its own: one that is done comes along
        rows = torch.cat([rows, (rows + 1) % all_rows])
    part = only(problem, rows)
    part_state = part_of(state, rows)
    trajectory = RowTrajectory(part_state.y, part_state.t, out.trajectory.counts[rows])
    rest(part, plan_for(plan, rows, part), Run(part_state, trajectory), whole)
    problem.field.evaluations += part.field.evaluations
    state.codes = state.codes.index_copy(0, rows, part_state.code)
    state.attempts = state.attempts.index_copy(0, rows, part_state.attempted)
    put_back(state, out.trajectory, rows, part_state, trajectory)


def part_of(state: CompiledState, rows: torch.Tensor) -> CompiledState:
    """Where these rows stand."""
    fields = {**vars(state_of(state, rows)), "alive": state.alive}
    return CompiledState(**fields, codes=state.code[rows], attempts=state.attempted[rows])
