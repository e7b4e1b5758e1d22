"""From the drop-in's normal form to the engine and back: problem, plan, run, values, failures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ...controllers import Controller, Limits
from ...events import Event
from ...failures import message
from ...field import Field, time_dtype
from ...gradients import Direct
from ...interpolation import fit
from ...loop import LoopState
from ...methods import Method
from ...plan import Plan, Watch
from ...problem import Clock, Problem, make_tolerance, may_carry_gradient
from ...runners.eager import Run
from ...saving import GivenTimes, read
from ...solution import Status
from ...state import Layout
from ...tolerance import Tolerance
from ...transforms import as_float
from .errors import (
    FunctionOutputError,
    MaxStepsExceeded,
    NonFiniteState,
    StepUnderflow,
)
from .functions import CALLBACKS, PerturbFunc, null_callback


class Setup(NamedTuple):
    """A solve, ready for the engine."""

    problem: Problem
    plan: Plan


@runtime_checkable
class Solver(Protocol):
    """What the built-in classes offer beside torchdiffeq's own methods."""

    y0: Tensor

    def setup(self, t: Tensor, *, landing: bool = False) -> Setup:
        """The solve over increasing times ``t [T]``; ``landing``: with steps that end at each of them."""

    def setup_event(self, t0: Tensor) -> Setup:
        """The solve from ``t0 [1]`` on, without an end."""


def make_problem(
    func: Callable[..., Any], y0: Tensor, t: Tensor, tolerance: Tolerance, grid: Tensor | None = None
) -> Problem:
    """The engine's problem.

    Args:
        func: in the drop-in's normal form.
        y0: any shape.
        t: increasing, ``[T]``; may require grad.
        tolerance: in rows.
        grid: mesh points that may carry gradients beside ``t``.
    """
    layout = Layout(y0)
    field = Field(func.base_func if isinstance(func, PerturbFunc) else func, layout, broadcast=True)
    times = t.to(time_dtype(y0.device))
    moving = times
    if grid is not None and grid is not t and may_carry_gradient(grid):
        moving = torch.cat([times, grid[1:-1].to(times)])
    clock = Clock(moving.cpu() if may_carry_gradient(moving) else None)
    return Problem(field, layout, layout.ravel(y0), times.detach().tolist(), clock, 1, tolerance)


def tolerance_of(rtol: Any, atol: Any, y0: Tensor, norm: Callable[[Tensor], Any]) -> Tolerance:
    """Numbers, tensors or sequences that broadcast to ``y0``, with a norm of tensors of its shape."""
    shape = y0.shape
    rtol, atol = (x if isinstance(x, int | float) else torch.as_tensor(x) for x in (rtol, atol))
    return make_tolerance(rtol, atol, Layout(y0), lambda row: norm(row.view(shape)))


def no_tolerance(y0: Tensor) -> Tolerance:
    """For steps that do not look at the error."""
    return Tolerance(0.0, torch.zeros((), dtype=Layout(y0).real_dtype, device=y0.device))


def make_plan(
    problem: Problem, method: Method, controller: Controller, *, end: float, stops: Any = (), jumps: Any = (),
    open_ends: bool = False, open_starts: bool = False, **rest: Any,
) -> Plan:  # fmt: skip
    limits = Limits(end, stops, jumps, problem.layout.real_dtype, open_ends, open_starts)
    return Plan(method, controller, limits, GivenTimes(problem.t), max_steps_per_output=True, **rest)


class Callbacks:
    """Hands every attempt to the callbacks that hang on ``func``.

    Args:
        func: in normal form.
        y0: a state, for its layout.
        dtype: of the times.
    """

    def __init__(self, func: PerturbFunc, y0: Tensor, dtype: torch.dtype):
        self.func = func
        self.layout = Layout(y0)
        self.dtype = dtype

    def attempt(self, t: float, y: Tensor, dt: float) -> None:
        self.func.callback_step(self._time(t), self.layout.unravel(y), self._time(dt))

    def accept(self, t: float, y: Tensor, dt: float) -> None:
        self.func.callback_accept_step(self._time(t), self.layout.unravel(y), self._time(dt))

    def reject(self, t: float, y: Tensor, dt: float) -> None:
        self.func.callback_reject_step(self._time(t), self.layout.unravel(y), self._time(dt))

    def _time(self, t: float) -> Tensor:
        return torch.tensor(t, dtype=self.dtype, device=self.layout.device)


def watch(func: Any, y0: Tensor, dtype: torch.dtype) -> Watch | None:
    """None where nobody wants to see the steps."""
    if all(getattr(func, name, null_callback) is null_callback for name in CALLBACKS):
        return None
    return Callbacks(func, y0, dtype)


def integrate(solver: Solver, t: Tensor) -> Tensor:
    """Values ``[T, *y0.shape]`` at increasing times ``t``."""
    problem, plan = solver.setup(t)
    states = read(run(problem, plan).trajectory)[1]
    return problem.layout.unravel(states, lead=(len(t),))


def integrate_until_event(solver: Solver, t0: Tensor, event_fn: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Time ``[]`` and states ``[2, *y0.shape]`` (start and event) of the first sign change of ``event_fn``.

    The time is a constant of the gradient; ``odeint_event`` puts the gradient on it. An event at the very start counts.
    """
    problem, plan = solver.setup_event(t0.reshape(1))
    y0 = solver.y0
    if as_float(event_fn(t0, y0)) == 0:
        return t0.detach(), torch.stack([y0, y0])
    plan = replace(plan, events=(Event(lambda t, y: event_fn(t, y).to(torch.float64), terminal=True),))
    out = run(problem, plan)
    (found,) = out.trajectory.events
    piece = fit([out.trajectory.pieces[found.piece]])
    time = torch.full((1,), found.t, dtype=piece.t0.dtype, device=y0.device)
    state = piece(torch.zeros(1, dtype=torch.int64, device=y0.device), time)
    return time.reshape(()), torch.stack([y0, problem.layout.unravel(state)])


def run(problem: Problem, plan: Plan) -> Run:
    """Solve with autograd through the loop; raise what torchdiffeq raises if that fails."""
    out = Direct().integrate(problem, plan)
    raise_failure(problem, plan, out.state)
    return out


def raise_failure(problem: Problem, plan: Plan, state: LoopState) -> None:
    """Raise if the loop did not do what it was asked to do: torchdiffeq's words first, then what to try."""
    if state.status.success:
        return
    error, text = _FAILURES[state.status]
    said = text.format(n=plan.max_steps, dt=state.dt, y=problem.layout.unravel(state.y.detach()))
    advice = message(problem, plan, state).replace("max_steps", "max_num_steps")
    raise error(f"{said}. {advice}") from (state.failed.error if state.failed else None)


_FAILURES: dict[Status, tuple[type[Exception], str]] = {
    Status.MAX_STEPS: (MaxStepsExceeded, "max_num_steps exceeded ({n}>={n})"),
    Status.STEP_TOO_SMALL: (StepUnderflow, "underflow in dt {dt}"),
    Status.NONFINITE_STATE: (NonFiniteState, "non-finite values in state `y`: {y}"),
    Status.NONFINITE_SLOPE: (NonFiniteState, "non-finite values in the slope or the state"),
    Status.BAD_OUTPUT: (FunctionOutputError, "func returned no slope of its state"),
}

NO_END = math.inf
