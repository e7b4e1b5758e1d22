"""From the drop-in's normal form to the engine and back: problem, plan, run, values, failures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..._types import Rows, Time
from ...controllers import Controller, Limits
from ...errors import InputTypeError, NotCompilable
from ...events import Event
from ...failures import message
from ...field import Field, time_dtype
from ...gradients import Direct, Discrete
from ...interpolation import fit
from ...loop import LoopState
from ...methods import Method
from ...names import named
from ...plan import Plan, Watch
from ...problem import Clock, Problem, make_tolerance, may_carry_gradient
from ...runners import RUNNERS
from ...runners.eager import Run
from ...saving import GivenTimes, read
from ...solution import Status
from ...state import Layout
from ...tolerance import Norm, Tolerance, max_norm
from ...tolerance import rms_norm as rms_norm_of_rows
from ...transforms import as_float
from .errors import (
    EventNotFound,
    FunctionOutputError,
    MaxStepsExceeded,
    NonFiniteState,
    NotSolved,
    StepUnderflow,
)
from .functions import CALLBACKS, PerturbFunc, null_callback
from .norms import linf_norm, rms_norm


class Setup(NamedTuple):
    """A solve, ready for the engine."""

    problem: Problem
    plan: Plan


@runtime_checkable
class Solver(Protocol):
    """What the built-in classes offer beside torchdiffeq's own methods."""

    y0: Tensor

    @property
    def in_engine(self) -> bool:
        """The engine may take the steps: no subclass has put anything of its own in the place of ours."""

    def setup(self, t: Tensor, *, landing: bool = False) -> Setup:
        """The solve over increasing times ``t [T]``; ``landing``: with steps that end at each of them."""

    def setup_event(self, t0: Tensor) -> Setup:
        """The solve from ``t0 [1]`` on, without an end."""


def is_overridden(solver: object, base: type, *names: str) -> bool:
    """Whether the class of ``solver`` has another method than ``base`` under one of the names."""
    return any(getattr(type(solver), name) is not getattr(base, name) for name in names)


def check_runner(solver: object, runner: Any) -> None:
    """Raise for a runner that nobody knows, and where the engine's runners do not run the loop."""
    named("options['runner']", runner, RUNNERS)
    if RUNNERS[runner] is not RUNNERS["eager"] and not getattr(solver, "in_engine", False):
        raise NotCompilable(
            f"options['runner']={runner!r}, but {type(solver).__name__} takes its steps itself. Leave it out, or take one of the "
            f"built-in methods, such as 'dopri5'."
        )


def refuse_abstract(solver: object, base: type, name: str) -> None:
    """Raise where a class lacks the method that every solver of its kind must define."""
    if not is_overridden(solver, base, name):
        raise InputTypeError(
            f"{type(solver).__name__} has no {name}. Define it in your class: {base.__name__} has none."
        )


class EventField(Field):
    """A field whose event functions see the time in a dtype of their own (torchdiffeq: float64); ``f`` does not.

    Args:
        dtype: of the time that event functions see.
        rest: of ``Field``.
    """

    def __init__(self, *rest: Any, dtype: torch.dtype, **more: Any):
        super().__init__(*rest, **more)
        self.dtype = dtype

    def __call__(self, t: Tensor, y: Rows) -> Rows:
        return super().__call__(t.to(self.layout.real_dtype), y)

    def time(self, t: Time) -> Tensor:
        time = t if isinstance(t, Tensor) else torch.full((), t, dtype=torch.float64)
        return (time * self.direction).to(dtype=self.dtype, device=self.layout.device)


def make_problem(
    func: Callable[..., Any], y0: Tensor, t: Tensor, tolerance: Tolerance, moving: Sequence[Tensor] = (),
    event_times: torch.dtype | None = None,
) -> Problem:  # fmt: skip
    """The engine's problem.

    Args:
        func: in the drop-in's normal form.
        y0: any shape.
        t: increasing, ``[T]``; may require grad.
        tolerance: in rows.
        moving: other times that the solve lands on and that may carry gradients, between the first and the last of ``t``.
        event_times: dtype of the time that event functions get; the state's if None.
    """
    layout = Layout(y0)
    f = func.base_func if isinstance(func, PerturbFunc) else func
    field = Field(f, layout, broadcast=True)
    if event_times is not None:
        field = EventField(f, layout, broadcast=True, dtype=event_times)
    times = t.to(time_dtype(y0.device))
    asked = any(may_carry_gradient(x) for x in moving)
    known = torch.cat([times, *(x.to(times) for x in moving)]) if asked else times
    clock = Clock(known.cpu() if may_carry_gradient(known) else None)
    sign = getattr(func, "time_sign", 1)  # for messages: the field already turns the time round
    return Problem(field, layout, layout.ravel(y0), times.detach().tolist(), clock, sign, tolerance)


_OF_ROWS: dict[Any, Norm] = {rms_norm: rms_norm_of_rows, linf_norm: max_norm}  # those that do not care for shapes


def tolerance_of(rtol: Any, atol: Any, y0: Tensor, norm: Callable[[Tensor], Any]) -> Tolerance:
    """Numbers, tensors or sequences that broadcast to ``y0``, with a norm of tensors of its shape."""
    shape = y0.shape
    rtol, atol = (x if isinstance(x, int | float) else torch.as_tensor(x) for x in (rtol, atol))
    if isinstance(rtol, int | float) and rtol < 0:  # torchdiffeq computes with it: the tolerance is below atol
        positive = tolerance_of(-rtol, atol, y0, norm)
        return replace(positive, rtol=-positive.rtol)
    return make_tolerance(rtol, atol, Layout(y0), norm_of_rows(norm, shape))


def norm_of_rows(norm: Callable[[Tensor], Any], shape: torch.Size) -> Norm:
    """The norm of tensors of this shape as one of rows."""
    return _OF_ROWS.get(norm) or (lambda row: norm(row.view(shape)))


def no_tolerance(y0: Tensor) -> Tolerance:
    """For steps that do not look at the error."""
    return Tolerance(0.0, torch.zeros((), dtype=Layout(y0).real_dtype, device=y0.device))


def make_plan(
    problem: Problem, method: Method, controller: Controller, *, end: float, stops: Any = (), jumps: Any = (),
    open_ends: bool = False, open_starts: bool = False, runner: str = "eager", **rest: Any,
) -> Plan:  # fmt: skip
    chosen = named("options['runner']", runner, RUNNERS)
    limits = Limits(end, stops, jumps, problem.layout.real_dtype, open_ends, open_starts)
    return Plan(
        method, controller, limits, GivenTimes(problem.t), max_steps_per_output=True, **chosen._asdict(), **rest
    )


class Callbacks:
    """Hands every attempt to the callbacks.

    Args:
        callbacks: one for each of ``CALLBACKS``.
        y0: a state, for its layout.
        dtype: of the times.
    """

    def __init__(self, callbacks: Sequence[Callable[..., Any]], y0: Tensor, dtype: torch.dtype):
        self.on_attempt, self.on_accept, self.on_reject = callbacks
        self.layout = Layout(y0)
        self.dtype = dtype

    def attempt(self, t: float, y: Tensor, dt: float) -> None:
        self.on_attempt(self._time(t), self.layout.unravel(y), self._time(dt))

    def accept(self, t: float, y: Tensor, dt: float) -> None:
        self.on_accept(self._time(t), self.layout.unravel(y), self._time(dt))

    def reject(self, t: float, y: Tensor, dt: float) -> None:
        self.on_reject(self._time(t), self.layout.unravel(y), self._time(dt))

    def _time(self, t: float) -> Tensor:
        return torch.tensor(t, dtype=self.dtype, device=self.layout.device)


def watch(solver: Any, dtype: torch.dtype) -> Watch | None:
    """The callbacks of ``solver.func`` that the solver supports; None where nobody wants to see the steps."""
    asked = [getattr(solver.func, name, null_callback) for name in CALLBACKS]
    supported = solver.valid_callbacks()
    heard = [call if name in supported else null_callback for name, call in zip(CALLBACKS, asked)]
    if all(call is null_callback for call in heard):
        return None
    return Callbacks(heard, solver.y0, dtype)


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
    if not out.trajectory.events:
        raise EventNotFound(
            f"No event was found up to t={problem.direction * out.state.t:g}, the largest time that {y0.dtype} can hold "
            f"(torchdiffeq: underflow in dt). Check the event function."
        )
    (found,) = out.trajectory.events
    piece = fit([out.trajectory.pieces[found.piece]])
    time = torch.full((1,), found.t, dtype=piece.t0.dtype, device=y0.device)
    state = piece(torch.zeros(1, dtype=torch.int64, device=y0.device), time)
    return time.reshape(()), torch.stack([y0, problem.layout.unravel(state)])


def run(problem: Problem, plan: Plan) -> Run:
    """Solve with autograd through the loop (or its equal, where the loop is compiled); raise what torchdiffeq raises if that
    fails."""
    out = (Direct() if plan.with_gradient is None else Discrete()).integrate(problem, plan)
    raise_failure(problem, plan, out.state)
    return out


def raise_failure(problem: Problem, plan: Plan, state: LoopState) -> None:
    """Raise if the loop did not do what it was asked to do: torchdiffeq's words first, then what to try."""
    if state.status.success:
        return
    y = problem.layout.unravel(state.y.detach())
    error = failure(state.status, message(problem, plan, state), n=plan.max_steps, dt=state.dt, y=y)
    raise error from (state.failed.error if state.failed else None)


def failure(status: Status, advice: str, **numbers: Any) -> Exception:
    """What to raise.

    Args:
        advice: what happened and what to try, in our words.
        numbers: for torchdiffeq's: ``n`` (of steps), ``dt``, ``y``.
    """
    error, text = _FAILURES[status]
    return error(f"{text.format(**numbers)}. {advice.replace('max_steps', 'max_num_steps')}")


_FAILURES: dict[Status, tuple[type[Exception], str]] = {
    Status.MAX_STEPS: (MaxStepsExceeded, "max_num_steps exceeded ({n}>={n})"),
    Status.STEP_TOO_SMALL: (StepUnderflow, "underflow in dt {dt}"),
    Status.NONFINITE_STATE: (NonFiniteState, "non-finite values in state `y`: {y}"),
    Status.NONFINITE_SLOPE: (NonFiniteState, "non-finite values in the slope or the state"),
    Status.NEWTON_FAILED: (NotSolved, "an implicit stage was not found"),
    Status.BAD_OUTPUT: (FunctionOutputError, "func returned no slope of its state"),
}

NO_END = math.inf


def last_time(y0: Tensor) -> float:
    """The end of a solve that only an event stops: steps may grow up to what the state's dtype can hold.

    The sixteenth of float64's range leaves room for sums of times.
    """
    return min(torch.finfo(y0.real.dtype).max, torch.finfo(torch.float64).max / 16)
