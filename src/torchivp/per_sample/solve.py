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
from ..methods import Method
from ..names import named
from ..partitioned import check_form
from ..plan import Plan, choose_controller
from ..problem import listed
from ..runners import COMPACT_RUNNERS, ROW_RUNNERS
from ..runners.eager import Run
from ..runners.rows import counters, first_outputs
from ..saving import chosen as chosen_save
from ..solution import Status
from .dense import dense_of
from .events import RowsFound, ends
from .events import read as read_events
from .failures import messages_of, summary
from .limits import RowLimits, padded
from .loop import CODES, RowsState, begin
from .problem import RowsProblem, make_rows_problem
from .saving import RowEnds, RowSteps, RowTimes, read
from .solution import BatchSolution, RowEnd
from .trajectory import Values


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
    norm: str | Callable[[PyTree], Tensor],
) -> RowsProblem:
    """The problems."""
    if start is not None:
        raise InputError("start= goes on from a single solution. Solve the rest of the batch from `solution.y[:, -1]`.")
    return make_rows_problem(f, y0, t, args, batch_dims=batch_dims, couple=couple, norm=norm, rtol=rtol, atol=atol)


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
    compact: bool = False,
    **rest: Any,
) -> Plan:
    """Everything a solve of many rows is made of, checked to fit together."""
    chosen = choose_controller(method, controller, dt)
    jumps = listed(jump_times, "jump_times")
    check_fits(method, jumps, dt)
    if compact:
        check_compact(problem, **rest)
    limits = RowLimits(
        problem.t0,
        problem.t[:, -1].contiguous(),
        problem.layout,
        stops=both_ways(listed(stop_times, "stop_times"), problem),
        jumps=both_ways(jumps, problem),
        grid=grid_of(chosen, problem),
    )
    check_form(problem, limits, method.needs, method.timeless_drift, repr(method))
    return Plan(
        method=method,
        controller=chosen,
        limits=limits,
        dt=dt,
        save=chosen_save(save, {"t": lambda: RowTimes(problem.t), "steps": RowSteps, "end": RowEnds}),
        watch_stiffness=True,
        **named("runner", runner, COMPACT_RUNNERS if compact else ROW_RUNNERS)._asdict(),
        **rest,
    )


def check_fits(method: Method, jumps: list[float], dt: float | None) -> None:
    """Raise for what rows with steps of their own cannot do."""
    if method.members is not None:
        raise InputError(
            f"{method!r} switches between an explicit and an implicit method, and rows with steps of their own would have to do "
            f"so one by one. With batch_dims name a method ('tsit5', or 'rodas5p' if some rows are stiff), or solve the whole "
            f"batch as one state (batch_dims=0)."
        )
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


def check_compact(problem: RowsProblem, events: Any, dense: bool, on_step: Any, **rest: Any) -> None:
    """Raise for what sees all rows at once."""
    seen = {
        "events": events,
        "dense=True": dense,
        "on_step": on_step,
        "several batch axes": len(problem.layout.batch) > 1,
    }
    named = [name for name, wanted in seen.items() if wanted]
    if named:
        raise InputError(
            f"compact=True lets rows go that are done, and {named[0]} is about all of them. Leave one of the two out."
        )


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
    found = read_events(trajectory, plan.events, problem)
    t, y = ends(trajectory, plan.events, found, problem)
    outputs = read(trajectory, last_outputs(problem, plan, state, trajectory.counts, t, y))
    outputs = outputs._replace(t=outputs.t * problem.direction.repeat_interleave(outputs.lengths))
    messages = messages_of(problem, plan, state)
    events = [as_user(e, problem) for e in found]
    bounds = (problem.clock(problem.t0), trajectory.end_time)
    return BatchSolution(
        codes=state.code,
        message=summary(layout.rows, messages),
        messages=messages,
        layout=layout,
        outputs=outputs,
        ends=RowEnd(trajectory.end_time, y, state.dt),
        direction=problem.direction,
        t_events=[[t for t, _ in rows] for rows in events] if plan.events else None,
        y_events=[[y for _, y in rows] for rows in events] if plan.events else None,
        dense=dense_of(trajectory.pieces, problem.y0, bounds, problem.direction) if plan.dense else None,
        counters=out.counters,
        through=through,
    )


def as_user(found: RowsFound, problem: RowsProblem) -> list[tuple[Tensor, PyTree]]:
    """Times ``[E_b]`` and states ``[E_b, ...]`` of the events of each row."""
    one = problem.layout.of_a_row()
    by_row = zip(found.by_row(problem.layout.rows), problem.direction)
    return [(t * direction, one.unravel(y, lead=(len(y),))) for (t, y), direction in by_row]


def last_outputs(
    problem: RowsProblem, plan: Plan, state: RowsState, counts: Tensor, t: Tensor, y: Tensor
) -> list[Values]:
    """The outputs that are where the rows ended, at ``t [B]`` and ``y [B, D]``: of those that met a terminal event, and of
    those that reached their last time, or of all."""
    wanted = state.code == CODES.index(Status.EVENT)
    if isinstance(plan.save, RowEnds):
        wanted = torch.ones_like(wanted)
    elif isinstance(plan.save, RowTimes) and problem.t.shape[1] > 1:
        wanted = wanted | (state.code == CODES.index(Status.SUCCESS))
    rows = wanted.nonzero().squeeze(1)
    return [Values(y[rows], rows, counts[rows], t[rows])]
