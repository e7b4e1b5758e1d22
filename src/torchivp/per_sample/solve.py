"""From the arguments of the front door to a batch of problems, and from what the loop left to its solution."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._types import PyTree, VectorField
from ..controllers import Controller
from ..errors import InputError
from ..failures import message
from ..loop import LoopState
from ..methods import Method
from ..names import named
from ..plan import Plan, choose_controller
from ..problem import Clock, Problem, listed
from ..runners import ROW_RUNNERS
from ..runners.eager import Run
from ..runners.rows import counters, first_outputs
from ..saving import chosen as chosen_save
from ..solution import Status
from ..tolerance import Tolerance
from .dense import dense_of
from .limits import RowLimits, padded
from .loop import CODES, RowsState, begin
from .problem import RowsProblem, make_rows_problem
from .saving import RowEnds, RowSteps, RowTimes, read
from .solution import BatchSolution, RowEnd
from .trajectory import RowTrajectory, Values


def pose(
    f: VectorField,
    y0: PyTree,
    t: Any,
    args: PyTree,
    *,
    rtol: PyTree,
    atol: PyTree,
    start: Any,
    carries: str,
    batch_dims: int,
    couple: bool,
) -> RowsProblem:
    """The problems."""
    if start is not None:
        raise InputError("start= goes on from a single solution. Solve the rest of the batch from `solution.y[:, -1]`.")
    return make_rows_problem(f, y0, t, args, batch_dims=batch_dims, couple=couple, rtol=rtol, atol=atol)


def make_plan(
    problem: RowsProblem,
    *,
    method: Method,
    controller: Controller | None,
    dt: float | None,
    stop_times: Any,
    jump_times: Any,
    save: str | Callable[..., PyTree],
    runner: str,
    **rest: Any,
) -> Plan:
    """Everything a solve of many rows is made of, checked to fit together."""
    chosen = choose_controller(method, controller, dt)
    jumps = listed(jump_times, "jump_times")
    check_fits(method, jumps, dt)
    limits = RowLimits(
        problem.t0,
        problem.t[:, -1].contiguous(),
        problem.layout,
        stops=joined(both_ways(listed(stop_times, "stop_times"), problem), grid_of(chosen, problem)),
        jumps=both_ways(jumps, problem),
    )
    return Plan(
        method=method,
        controller=chosen,
        limits=limits,
        dt=dt,
        save=chosen_save(save, {"t": lambda: RowTimes(problem.t), "steps": RowSteps, "end": RowEnds}),
        run=named("runner", runner, ROW_RUNNERS),
        **rest,
    )


def check_fits(method: Method, jumps: list[float], dt: float | None) -> None:
    """Raise for what rows with steps of their own cannot do."""
    if not method.by_rows:
        raise InputError(
            f"{method!r} mixes slopes of several steps, whose sizes differ from row to row. With batch_dims take a Runge-Kutta "
            f"method such as 'tsit5', or solve the whole batch as one state (batch_dims=0)."
        )
    if jumps and method.carries != "slopes":
        raise InputError(
            f"{method!r} starts afresh at every jump, which rows reach at different steps. With batch_dims take a Runge-Kutta "
            f"method, or leave jump_times out."
        )
    if dt is not None and not 0 < dt < math.inf:
        raise InputError(f"dt={dt} is no step size. Give a positive number in the units of t; the direction follows t.")


def not_started(problem: RowsProblem, plan: Plan, status: Status) -> Run:
    """A run that ended before its first step."""
    state = begin(problem)
    state.end(state.running, status)
    return Run(state, first_outputs(problem, plan), None, counters(problem, state))


def both_ways(times: list[float], problem: RowsProblem) -> Tensor | None:
    """Times for all rows as each counts them, increasing: ``[B, K]``."""
    if not times:
        return None
    return (problem.t0.new_tensor(times) * problem.direction.unsqueeze(1)).sort(dim=1).values


def grid_of(controller: Controller, problem: RowsProblem) -> Tensor | None:
    """The points of every row's fixed grid."""
    if controller.adaptive:
        return None
    times = problem.t.tolist()
    if all(row == times[0] for row in times):
        grid = padded([controller.grid(times[0])], problem.t0)
        return None if grid is None else grid.expand(len(times), -1)
    return padded([controller.grid(row) for row in times], problem.t0)


def joined(*times: Tensor | None) -> Tensor | None:
    given = [x for x in times if x is not None]
    return torch.cat(given, dim=1) if given else None


def gather(problem: RowsProblem, plan: Plan, out: Run, through: Callable[..., Any] | None) -> BatchSolution:
    """The solution from what the loop left."""
    state, trajectory, layout = out.state, out.trajectory, problem.layout
    outputs = read(trajectory, last_outputs(problem, plan, state, trajectory))
    outputs = outputs._replace(t=outputs.t * problem.direction.repeat_interleave(outputs.lengths))
    messages = {b: message_of(problem, plan, state, b) for b in state.failed}
    code = state.code
    for number, status in enumerate(CODES):
        rows = [] if status.success else (code == number).nonzero().flatten().tolist()
        messages.update((b, f"{status.value}.") for b in rows if b not in messages)
    bounds = (problem.clock(problem.t0), trajectory.end_time)
    return BatchSolution(
        codes=code,
        message=summary(len(code), messages),
        messages=messages,
        layout=layout,
        outputs=outputs,
        ends=RowEnd(trajectory.end_time, trajectory.end.view(layout.rows, -1), state.dt),
        direction=problem.direction,
        dense=dense_of(trajectory.pieces, problem.y0, bounds, problem.direction) if plan.dense else None,
        counters=out.counters,
        through=through,
    )


def last_outputs(problem: RowsProblem, plan: Plan, state: RowsState, trajectory: RowTrajectory) -> list[Values]:
    """The outputs that are where the rows ended: of those that reached their last time, or of all."""
    if isinstance(plan.save, RowSteps):
        return []
    reached = state.code == CODES.index(Status.SUCCESS)
    if isinstance(plan.save, RowEnds):
        reached = torch.ones_like(reached)
    elif problem.t.shape[1] == 1:
        return []
    rows = reached.nonzero().squeeze(1)
    columns = torch.full_like(rows, problem.t.shape[1] - 1)
    times = problem.clock.at(trajectory.end_time[rows], rows)
    return [Values(trajectory.end.view(len(reached), -1)[rows], rows, columns, times)]


def message_of(problem: RowsProblem, plan: Plan, state: RowsState, b: int) -> str:
    """What happened to a row that failed, as a solve of it alone would say."""
    failed = state.failed[b]
    width = problem.layout.width
    layout = problem.layout.of_a_row()

    def part(x: Tensor) -> Tensor:
        return x[:, b * width : (b + 1) * width] if x.dim() else x

    tolerance = problem.tolerance
    rtol = part(tolerance.rtol) if isinstance(tolerance.rtol, Tensor) else tolerance.rtol
    direction = int(problem.direction[b])
    alone = Problem(
        problem.field, layout, part(problem.y0), problem.t[b].tolist(), Clock(None), direction,
        Tolerance(rtol, part(tolerance.atol)),
    )  # fmt: skip
    stands = LoopState(
        float(state.t[b]), part(state.y), failed.dt, attempted=int(state.attempted[b]), accepted=int(state.accepted[b]),
        rejected=int(state.rejected[b]), status=CODES[int(state.code[b])], failed=failed,
    )  # fmt: skip
    return message(alone, plan, stands)


def summary(n: int, messages: dict[int, str], what: str = "row") -> str:
    """How it went, with what the first rows failed at."""
    if not messages:
        return f"All {n} {what}s did what they were asked to do."
    first = [f"{what} {b}: {messages[b]}" for b in sorted(messages)[:3]]
    more = f"\n... and {len(messages) - 3} more (see `.messages`)." if len(messages) > 3 else ""
    numbers = ", ".join(map(str, sorted(messages)[:20])) + (", ..." if len(messages) > 20 else "")
    return f"{len(messages)} of {n} {what}s failed ({numbers}); the others finished.\n" + "\n".join(first) + more
