"""The drop-in under ``torch.func.vmap``: each row is a call of its own, with steps of its own."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ...controllers import Controller
from ...field import Field, time_dtype
from ...gradients import Direct
from ...methods import Method
from ...per_sample import solve as per_sample
from ...per_sample.limits import RowLimits
from ...per_sample.saving import RowTimes
from ...per_sample.solution import BatchSolution
from ...plan import Plan
from ...runners import ROW_RUNNERS
from ...runners.eager import Run
from ...state import Layout
from ...transforms import batched
from ...vmapped import all_rows, hidden, rows_in
from . import engine
from .errors import ArgumentError
from .functions import PerturbFunc


@runtime_checkable
class RowSolver(Protocol):
    """What a solver offers that lets rows go their own ways."""

    func: PerturbFunc
    y0: Tensor
    rtol: Any
    atol: Any
    norm: Any
    max_num_steps: int
    runner: str

    @property
    def by_rows(self) -> bool: ...
    @property
    def controller(self) -> Controller: ...
    @property
    def dt(self) -> float | None: ...
    def engine_method(self) -> Method: ...


def check_times(t: Tensor, solver: object) -> None:
    """Raise if times differ from row to row of vmap, and the solver (None: any) takes the same steps for all."""
    if batched(t) and not getattr(solver, "by_rows", False):
        raise ArgumentError(
            "t must not differ from row to row of torch.func.vmap, except in odeint with an adaptive Runge-Kutta method and "
            "without step_t, jump_t, event_fn and callbacks. Take such a method, or loop over the rows."
        )


def of_solver(solver: RowSolver, t: Tensor) -> Tensor | None:
    """A constant that has rows of vmap where anything in the solve has; None if nothing has or the rows step together."""
    return rows_in(solver.func, solver.y0, t, None, solver.rtol, solver.atol) if solver.by_rows else None


class OpenEnds(RowLimits):
    """``f`` is never asked at the very end of a step, as torchdiffeq does not."""

    def _last(self, t1: Tensor) -> Tensor:
        rounded = t1.to(self.layout.real_dtype)
        return torch.nextafter(rounded, torch.full_like(rounded, -torch.inf)).to(t1.dtype)


def integrate(solver: RowSolver, t: Tensor, like: Tensor) -> Tensor:
    """Values ``[T, *y0.shape]`` of a row at its increasing times ``t``."""
    layout = Layout(solver.y0)
    tolerance = engine.tolerance_of(solver.rtol, solver.atol, solver.y0, solver.norm)
    field = Field(solver.func.base_func, layout, broadcast=True)
    problem = all_rows(field, layout.ravel(solver.y0), t.to(time_dtype(t.device)), tolerance, like)
    plan = Plan(
        solver.engine_method(),
        solver.controller,
        OpenEnds(problem.t0, problem.t[:, -1].contiguous(), problem.layout),
        RowTimes(problem.t),
        max_steps=solver.max_num_steps * max(1, len(t) - 1),
        dt=solver.dt,
        **ROW_RUNNERS[solver.runner]._asdict(),
    )
    out = Direct().integrate(problem, plan)
    rows = per_sample.gather(problem, plan, out, None)
    raise_failure(rows, plan, out)
    return hidden(rows, None, like).y


def raise_failure(rows: BatchSolution, plan: Plan, out: Run) -> None:
    """Raise for the first row that failed what torchdiffeq raises."""
    if not rows.success:
        b = rows.failed[0]
        failed = out.state.failed[b]
        raise engine.failure(
            rows.status[b], rows.message, n=plan.max_steps, dt=failed.dt, y=rows.ends.y[b].detach()
        ) from failed.error
