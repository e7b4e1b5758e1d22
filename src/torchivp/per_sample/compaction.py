"""Some of the rows of a problem as a problem of their own: what is left to do once most rows are done."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .._types import PyTree, Rows, VectorField
from ..errors import InputError, OutputError
from ..field import Field
from ..plan import Plan
from ..state import flatten, unflatten
from .limits import RowLimits
from .loop import RowsState
from .problem import RowsProblem
from .saving import RowSave, RowTimes, value_of
from .tolerance import of_rows
from .trajectory import RowTrajectory, Values


def only(problem: RowsProblem, rows: Tensor) -> RowsProblem:
    """The problem of these rows ``[n]``."""
    n = len(rows)
    layout = problem.layout.of_a_row().of_rows(n)
    args = tuple(of_args(x, rows, problem.layout.rows) for x in problem.field.args)
    times = problem.clock.times
    tolerance: Any = problem.tolerance
    field = Fewer(problem.field, layout, problem.direction[rows], args)
    field.kept = None if problem.field.kept is None else problem.field.kept.of_rows(rows, field)
    return replace(
        problem,
        field=field,
        layout=layout,
        y0=numbers_of(problem.y0, rows, problem.layout.rows),
        t=problem.t[rows],
        clock=problem.clock.with_times(None if times is None else times[rows]),
        direction=problem.direction[rows],
        tolerance=replace(
            tolerance,
            rtol=numbers_of(tolerance.rtol, rows, problem.layout.rows),
            atol=numbers_of(tolerance.atol, rows, problem.layout.rows),
            norm=of_rows(n, tolerance.couple, tolerance.name),
        ),
    )


class Fewer(Field):
    """The field of some rows: ``f`` gets their states and what ``args`` hold for them."""

    def __init__(self, whole: Field, layout: Any, direction: Tensor, args: tuple[PyTree, ...]):
        super().__init__(whole.f, layout, direction, args, whole.broadcast)
        self.draws, self.jacobian, self.counts = whole.draws, whole.jacobian, whole.counts
        self.autocast, self.autocast_dtypes = whole.autocast, whole.autocast_dtypes

    def slope(self, f: VectorField, t: Tensor, y: Rows) -> Rows:
        try:
            return super().slope(f, t, y)
        except (RuntimeError, IndexError, OutputError) as error:
            raise InputError(f"{_CLOSURE.format(n=self.layout.rows)} (It said: {error})") from error


def numbers_of(x: Any, rows: Tensor, of: int) -> Any:
    """What a row of numbers ``[1, B * D]`` holds for these rows; a number for all stays what it is."""
    return x if not isinstance(x, Tensor) or x.dim() == 0 else x.view(of, -1)[rows].view(1, -1)


def of_args(args: PyTree, rows: Tensor, of: int) -> PyTree:
    """What ``args`` hold for these rows: entries of the tensors with an axis of B in front; the others are shared."""
    leaves, spec = flatten(args)
    each = [isinstance(x, Tensor) and x.dim() > 0 and x.shape[0] == of for x in leaves]
    return unflatten(spec, [x[rows] if own else x for x, own in zip(leaves, each)])


def refuse_tape(new_tape: Any) -> None:
    """Raise if the steps are to be written down, for a gradient that takes them again."""
    if new_tape is not None:
        raise InputError(
            "compact=True keeps no steps to take again, which gradients other than 'direct' need. Write gradient='direct', or "
            "wrap the solve in torch.no_grad(), or leave compact out."
        )


def check_rows_alone(problem: RowsProblem) -> None:
    """Raise unless ``f`` says of half of the rows alone what it says of them among all."""
    half = torch.arange((problem.layout.rows + 1) // 2, device=problem.layout.device)
    part = only(problem, half)
    with torch.no_grad():
        whole = problem.field(problem.field.time(problem.t0), problem.y0)
        alone = part.field(part.field.time(part.t0), part.y0)
    problem.field.evaluations += 1
    expected = numbers_of(whole, half, problem.layout.rows)
    if not torch.allclose(alone, expected, rtol=1e-3, atol=1e-6, equal_nan=True):
        raise InputError(f"{_CLOSURE.format(n=len(half))} (Its slopes of these rows alone were others than among all.)")


_CLOSURE = (
    "compact=True hands f the rows that are not done yet, and f failed when it got {n} of them. It may close over tensors that "
    "hold something for each row: give these as `args` (tensors with the rows in front) and write f(t, y, args), or leave "
    "compact out."
)


def plan_for(plan: Plan, rows: Tensor, part: RowsProblem) -> Plan:
    """The plan for these rows."""
    limits = plan.limits
    fewer: RowLimits = copy.copy(limits)
    for name in ("start", "end", "stops", "bounds", "jumps", "tiny", "last_at_end", "first_at_start"):
        value = getattr(limits, name)
        setattr(fewer, name, None if value is None else value[rows].contiguous())
    fewer.layout, fewer.like = part.layout, limits.like[:, : part.layout.size]
    return replace(plan, limits=fewer, save=save_of(plan.save, part))


def save_of(save: RowSave, part: RowsProblem) -> RowSave:
    return RowTimes(part.t) if isinstance(save, RowTimes) else save


def state_of(state: RowsState, rows: Tensor) -> RowsState:
    """Where these rows stand, all of which are running."""
    of = len(state.t)
    return RowsState(
        t=state.t[rows],
        y=numbers_of(state.y, rows, of),
        dt=state.dt[rows],
        accepted=state.accepted[rows],
        running=state.running[rows],
        alive=len(rows),
        tries=state.tries,
        history=tuple((state.t[rows], numbers_of(x, rows, of)) for _, x in state.history),
        ready=state.ready,
        slope=None if state.slope is None else numbers_of(state.slope, rows, of),
        slope_draws=state.slope_draws,
        memory=tuple(x[rows] for x in state.memory),
        watched=None if state.watched is None else state.watched.of_rows(rows),
    )


def put_back(state: RowsState, trajectory: RowTrajectory, rows: Tensor, part: RowsState, did: RowTrajectory) -> None:
    """Write down in the whole what these rows did by themselves."""
    of = len(state.t)
    state.t = state.t.index_copy(0, rows, part.t)
    state.y = state.y.view(of, -1).index_copy(0, rows, part.y.view(len(rows), -1)).view(1, -1)
    state.dt = state.dt.index_copy(0, rows, part.dt)
    state.accepted = state.accepted.index_copy(0, rows, part.accepted)
    state.running = state.running.index_copy(0, rows, part.running)
    state.alive, state.tries = part.alive, part.tries
    if state.watched is not None and part.watched is not None:
        state.watched.warned = part.watched.warned
    for mask, after, code in part.ends:
        whole = torch.zeros_like(state.running)
        whole[rows] = mask
        state.ends.append((whole, after, code))
    state.failed.update((int(rows[b]), failed) for b, failed in part.failed.items())
    trajectory.outputs += [replace_rows(o, did, rows) for o in did.outputs]
    trajectory.end_time = trajectory.end_time.index_copy(0, rows, did.end_time)
    trajectory.counts = trajectory.counts.index_copy(0, rows, did.counts)


def replace_rows(output: Any, did: RowTrajectory, rows: Tensor) -> Values:
    """An output as one of the whole, its value known."""
    return Values(value_of(did, output, len(rows)), rows[output.rows], output.columns, output.t)
