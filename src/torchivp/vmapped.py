"""A problem under ``torch.func.vmap``: one row of many, which are solved at once, each with steps of its own.

The loop is that of a batch, and sees all rows; the user's functions see one, as they are written, with whatever they close
over. In between stand ``expose`` and ``hide`` (``rows_of_vmap``), which derivatives of any kind pass through.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from . import saving
from ._types import PyTree, Rows, VectorField
from .errors import InputError
from .events import Event
from .field import Field
from .methods import Method
from .per_sample import solve as per_sample
from .per_sample.dense import HiddenDense
from .per_sample.problem import RowClock, RowsProblem, forward
from .per_sample.solution import BatchSolution
from .per_sample.tolerance import RowNorm, RowTolerance, of_rows
from .plan import Plan
from .problem import as_times, listed, make_tolerance, may_carry_gradient
from .rows_of_vmap import expose, hide, row_count
from .runners.eager import Run
from .solution import Solution, Status
from .state import Layout, as_state, flatten, tree_map, unflatten
from .tolerance import Norm, Tolerance, rms_norm
from .transforms import batched, under_vmap


def steps_by_rows(method: Method, jump_times: Any) -> bool:
    """Whether the rows can go their own ways."""
    return method.by_rows and (method.carries == "slopes" or not listed(jump_times, "jump_times"))


def rows_in(f: VectorField, y0: PyTree, t: Any, args: PyTree, *more: Any, events: Any = ()) -> Tensor | None:
    """A constant that has rows of vmap wherever anything in the problem has some; None if nothing has.

    What ``f`` and event functions close over cannot be seen: they are asked once, at the start, what comes out.

    Args:
        more: tolerances and whatever else may have rows.
    """
    if not under_vmap():
        return None
    state = as_state(y0)
    layout = Layout(state)
    times = as_times(t, layout.device)
    start, given = times[0].detach().to(layout.real_dtype), () if args is None else (args,)
    functions = [getattr(g, "function", g) for g in (events if isinstance(events, Sequence) else [events])]
    with torch.no_grad():
        seen = [g(start, tree_map(lambda x: x.detach().clone(), state), *given) for g in (f, *functions) if callable(g)]
    return levels_of([state, times, args, *more, *seen])


def levels_of(trees: Sequence[Any]) -> Tensor | None:
    """A zero that has rows at every level of vmap at which a tensor in the trees has some; None if none has."""
    tensors = [x for tree in trees for x in flatten(tree)[0] if isinstance(x, Tensor) and batched(x)]
    marks = [x.detach().new_zeros((), dtype=torch.float32, device="cpu") for x in tensors]
    return torch.stack(marks).sum().detach() if marks else None


class HidingField(Field):
    """The field of all rows around that of one: ``f`` sees a row of vmap, and the loop the slopes of all.

    Args:
        one: the field of one row.
        layout, direction: of all.
        like: where the rows are.
    """

    def __init__(self, one: Field, layout: Layout, direction: Tensor, like: Tensor):
        self.one, self.like = one, like
        super().__init__(one.f, layout, direction, one.args, one.broadcast)

    @property
    def evaluations(self) -> int:
        return self.one.evaluations

    @evaluations.setter
    def evaluations(self, number: int) -> None:
        self.one.evaluations = number

    def with_args(self, args: tuple[PyTree, ...]) -> HidingField:
        new = copy.copy(self)
        new.args, new.one = args, self.one.with_args(args)
        new.linearised, new.kept, new.counts = None, None, self.counts.afresh()
        return new

    def slope(self, f: VectorField, t: Tensor, y: Rows) -> Rows:
        like = self.like
        slope = self.one.slope(f, hide(t, like), hide(y.view(self.layout.rows, 1, -1), like))
        slopes = expose(slope, like).view(1, -1)
        return slopes if self.turn is None else slopes * self.turn

    def ask(self, function: Callable[..., Any], t: Tensor, y: Rows) -> Any:
        like = self.like
        return expose(self.one.ask(function, hide(t, like), hide(y.view(self.layout.rows, 1, -1), like)), like)

    def projected(self, project: Callable[[PyTree], PyTree], y: Rows) -> Rows:
        state = self.one.projected(project, hide(y.view(self.layout.rows, 1, -1), self.like))
        return expose(state, self.like).view(1, -1)


def all_rows(one: Field, y0: Rows, times: Tensor, tolerance: Tolerance, like: Tensor) -> RowsProblem:
    """The problem of all rows, from that of one.

    Args:
        one: its field, in the user's direction of time.
        y0: ``[1, D]``.
        times: the user's, ``[T]``.
        tolerance: ``[1, D]``, or numbers; its norm is one of ``[1, D]``.
    """
    layout = one.layout.of_rows(row_count(like))
    inside, direction = forward(expose(times, like))

    def rows(x: Any) -> Any:
        return expose(x, like).view(1, -1) if isinstance(x, Tensor) and x.dim() else x

    return RowsProblem(
        field=HidingField(one, layout, direction, like),
        layout=layout,
        y0=rows(y0),
        t=inside.detach(),
        clock=RowClock(inside if may_carry_gradient(inside) else None),
        direction=direction,
        tolerance=RowTolerance(rows(tolerance.rtol), rows(tolerance.atol), norm_of_rows(tolerance.norm, layout, like)),
    )


def norm_of_rows(norm: Norm, layout: Layout, like: Tensor) -> RowNorm:
    """A norm of ``[1, D]``, of every row."""
    if norm is rms_norm:
        return of_rows(layout.rows, couple=False)
    return lambda x: expose(torch.as_tensor(norm(hide(x.view(layout.rows, 1, -1), like))), like)


@dataclass(frozen=True)
class UnderVmap:
    """What ``single`` is for one problem and ``per_sample.solve`` for a batch: for a row of vmap.

    Args:
        like: where the rows are.
    """

    like: Tensor

    def pose(
        self, f: VectorField, y0: PyTree, t: Any, args: PyTree, *, rtol: PyTree, atol: PyTree, **unused: Any
    ) -> RowsProblem:
        """The problem of all rows."""
        state = as_state(y0)
        layout = Layout(state)
        field = Field(f, layout, args=() if args is None else (args,))
        times = as_times(t, layout.device)
        return all_rows(field, layout.ravel(state), times, make_tolerance(rtol, atol, layout), self.like)

    def make_plan(self, problem: RowsProblem, *, events: tuple[Event, ...], compact: bool, **rest: Any) -> Plan:
        """The plan of a batch; event functions see one row."""
        if compact:
            raise InputError(
                "compact=True is not for torch.func.vmap, which shows f all rows. Leave vmap out: batch_dims=1."
            )
        return per_sample.make_plan(problem, events=tuple(map(self._hiding, events)), **rest)

    def _hiding(self, event: Event) -> Event:
        if event.at_rest:  # looks at rows already
            return event

        def g(t: Tensor, y: PyTree, *args: PyTree) -> Tensor:
            value = event.function(hide(t, self.like), tree_map(lambda x: hide(x, self.like), y), *args)
            return expose(torch.as_tensor(value), self.like)

        return replace(event, function=g)

    def aside(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def not_started(self, problem: RowsProblem, plan: Plan, status: Status) -> Run:
        return per_sample.not_started(problem, plan, status)

    def gather(self, problem: RowsProblem, plan: Plan, out: Run, through: Callable[..., PyTree] | None) -> Solution:
        """The solution as a row of vmap sees it.

        Raises:
            SolveError: if a row failed (unless ``throw=False``); its ``.solution`` is a BatchSolution of all rows.
            InputError: if rows have different numbers of outputs.
        """
        rows = per_sample.gather(problem, plan, out, None)
        if not plan.interruptible:
            rows.raise_for_status()
        return hidden(rows, through, self.like)


def hidden(rows: BatchSolution, through: Callable[..., PyTree] | None, like: Tensor) -> Solution:
    """One row of a batch, which stands for all of them under vmap."""
    one, outputs = rows.layout.of_a_row(), rows.outputs
    length = alike(rows.lengths.tolist(), "outputs")
    t, y = (hide(x.view(len(rows), length, *x.shape[1:]), like) for x in (outputs.t, outputs.y))
    for times in rows.t_events or []:
        alike([len(x) for x in times], "events")
    return Solution(
        t=t,
        y=one.unravel(y, lead=(length,)) if through is None else saving.apply(through, t, y, one),
        status=common_status(rows.status),
        message=rows.message,
        layout=one,
        resume=None,
        t_events=None if rows.t_events is None else [stacked(x, like) for x in rows.t_events],
        y_events=None if rows.y_events is None else [stacked(x, like) for x in rows.y_events],
        dense=None if rows.dense is None else HiddenDense(rows.dense, like),
        counters={name: int(torch.as_tensor(x).sum()) for name, x in rows.counters.items()},
    )


def alike(numbers: list[int], what: str) -> int:
    """The number that all rows share."""
    if len(set(numbers)) > 1:
        raise InputError(
            f"The rows of torch.func.vmap have {min(numbers)} to {max(numbers)} {what}, and under vmap all rows of a tensor are "
            f"of one length. Leave vmap out and write solve(..., batch_dims=1), which returns them row by row; or save='end'."
        )
    return numbers[0]


def common_status(rows: list[Status]) -> Status:
    """Of the first row that failed, or the one that all share; success where they differ."""
    failed = [status for status in rows if not status.success]
    return (failed or rows)[0] if failed or len(set(rows)) == 1 else Status.SUCCESS


def stacked(rows: Sequence[PyTree], like: Tensor) -> PyTree:
    """States (or times) of all rows as those of a row of vmap."""
    leaves, specs = zip(*(flatten(row) for row in rows))
    return unflatten(specs[0], [hide(torch.stack(x), like) for x in zip(*leaves)])
