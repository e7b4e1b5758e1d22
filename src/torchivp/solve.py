"""The front door."""

from __future__ import annotations

import numbers
import reprlib
from collections.abc import Callable
from types import NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import events as event_module
from . import saving
from ._types import PyTree, VectorField
from .controllers import Controller, Limits
from .errors import InputError, InputTypeError
from .failures import message
from .gradients import GRADIENTS, Gradient
from .interpolation import DenseSolution, fit
from .loop import LoopState
from .methods import Method
from .methods.table import choose_method
from .names import choose, named
from .plan import Plan, choose_controller
from .precision import warn_of_rounding
from .problem import Problem, as_times, make_problem
from .runners import RUNNERS
from .runners.eager import Run, not_started
from .solution import Resume, Solution, Status
from .trajectory import Trajectory


def solve(
    f: VectorField,
    y0: PyTree,
    t: Any,
    args: PyTree = None,
    *,
    method: str | Method | type[Method] = "tsit5",
    rtol: PyTree = 1e-5,
    atol: PyTree = 1e-7,
    dt: float | None = None,
    controller: Controller | None = None,
    max_steps: int = 100_000,
    save: str | Callable[..., PyTree] = "t",
    dense: bool = False,
    events: Any = (),
    stop_times: Any = (),
    jump_times: Any = (),
    gradient: str | Gradient | type[Gradient] = "discrete",
    runner: str = "eager",
    progress: bool = False,
    on_step: Callable[[float, PyTree], object] | None = None,
    throw: bool = True,
    start: Solution | None = None,
) -> Solution:
    """Solve dy/dt = f(t, y), y(t[0]) = y0.

    Args:
        f: ``f(t, y)``, or ``f(t, y, args)`` when ``args`` is given. Gets ``t`` as a 0-d tensor in y's real dtype and returns
            the slope: the structure, shapes and dtypes of ``y0``.
        y0: the state at ``t[0]``: a tensor of any shape, any float or complex dtype; a pytree of them (dict, list, tuple,
            dataclass); a number, a NumPy array, or a list of numbers. None with ``start``.
        t: times at which to save the solution, strictly increasing or decreasing, the first one being the start:
            ``(t0, t1)``, any sequence, a 1-D tensor (which may require grad), or a number T for ``(0, T)``.
        args: a pytree handed to ``f`` (and to event functions); its tensors get gradients.
        method: a name (see ``torchivp.methods.METHODS``) or an instance.
        rtol, atol: relative and absolute tolerance of the local error of a step: numbers, tensors that broadcast to y0,
            or trees like it. ``atol`` is in the units of y. Choose them 100 times tighter than the error you want at the end.
        dt: the first step of an adaptive method, the step size of a fixed one (the times ``t`` are its grid without it).
        controller: ``torchivp.PID(...)``, or ``torchivp.FixedSteps(...)`` for any method.
        max_steps: largest number of attempted steps.
        save: ``'t'`` (at the given times), ``'steps'`` (at every step), ``'end'``, or a function ``save(t, y)`` of the
            state at the given times.
        dense: keep what is needed to evaluate the solution anywhere: ``sol(t)``.
        events: an ``Event`` or a list of them.
        stop_times: times to land on exactly.
        jump_times: times at which ``f`` jumps: the solve lands there and asks ``f`` just before and just after.
        gradient: ``'discrete'`` (the exact gradient of the computed solution, in little memory), ``'direct'`` (the same by
            autograd through the loop), ``'adjoint'`` (the continuous adjoint), ... (see ``torchivp.gradients``); or one with
            settings, such as ``torchivp.gradients.Discrete(every="sqrt")``.
        runner: ``'eager'``.
        progress: show a bar on stderr (needs tqdm).
        on_step: called with the time and the state after every accepted step; a true return value stops the solve.
        throw: raise SolveError if the solve fails; otherwise return what was computed, marked by its status. With
            ``throw=False``, Ctrl-C returns the part done.
        start: a solution to go on from: with its last state, its step size and its past (a multistep method uses the
            slopes of its past, a reversible one its second state: ``f`` must be the same).

    Returns:
        Solution: ``.t``, ``.y`` with a leading time axis, ``.status``, ``.stats``, ...

    Raises:
        InputError, InputTypeError: for arguments that make no sense (before anything is computed).
        SolveError: if the solve fails and ``throw``; its ``.solution`` holds the part done.

    Example:
        >>> import torch, torchivp
        >>> sol = torchivp.solve(lambda t, y: -y, torch.ones(3), (0.0, 1.0))
        >>> sol.y[-1]
    """
    check_types(controller=controller, dt=dt, max_steps=max_steps, on_step=on_step, start=start)
    chosen = choose_method(method)
    problem = pose(f, y0, t, args, rtol, atol, start, chosen.carries)
    save_as, through = saving.choose(save, problem.t)
    plan = make_plan(
        problem,
        method=chosen,
        controller=controller,
        dt=None if dt is None else float(dt),
        stop_times=stop_times,
        jump_times=jump_times,
        save=save_as,
        dense=dense,
        events=event_module.as_events(events, problem),
        max_steps=max_steps,
        on_step=on_step,
        progress=progress,
        interruptible=not throw,
    )
    warn_of_rounding(problem, plan, rtol, atol)
    differentiate = choose("gradient", gradient, Gradient, GRADIENTS)
    named("runner", runner, RUNNERS)
    try:
        out = differentiate.integrate(problem, plan)
    except KeyboardInterrupt:  # before the first step
        if throw:
            raise
        out = not_started(problem, plan, Status.INTERRUPTED)
    solution = gather(problem, plan, out, through)
    return solution.raise_for_status() if throw else solution


_WANTED: dict[str, tuple[Any, str, str]] = {
    "controller": ((Controller, NoneType), "is no controller", "torchivp.PID(...) or torchivp.FixedSteps(dt=...)"),
    "dt": ((numbers.Real, NoneType), "is no step size", "a number, in the units of t"),
    "max_steps": (numbers.Integral, "does not count", "a whole number"),
    "on_step": ((Callable, NoneType), "cannot be called", "a function on_step(t, y)"),
    "start": ((Solution, NoneType), "is no solution to go on from", "what `solve` returned"),
}


def check_types(**arguments: object) -> None:
    """Arguments that are no data: of the right kind, or an error that names it."""
    for name, value in arguments.items():
        kind, problem, instead = _WANTED[name]
        if not isinstance(value, kind):
            got = f"{name} is a {type(value).__name__} ({reprlib.repr(value)})"
            raise InputTypeError(f"{got}, which {problem}. Give {instead}.")


def pose(
    f: VectorField, y0: PyTree, t: Any, args: PyTree, rtol: PyTree, atol: PyTree, start: Solution | None, carries: str
) -> Problem:
    """The problem, or the rest of one that was solved in part (with its history, if the method carries the same)."""
    if start is None:
        return make_problem(f, y0, t, args, rtol=rtol, atol=atol)
    if y0 is not None:
        raise InputError(
            "start= continues a solution from its own last state. Write `solve(f, None, t, start=solution)`."
        )
    resume = start.resume.seen_by(carries)
    now = resume.t * resume.direction
    times = as_times(t, start.layout.device)
    if isinstance(t, int | float) or getattr(t, "ndim", 1) == 0 or len(times) == 1:
        times = torch.cat([times.new_tensor([now]), times[-1:]]) if float(times[-1].detach()) != now else times[-1:]
    check_goes_on(times.detach().tolist(), now, resume.direction)
    return make_problem(f, start.layout.unravel(resume.y), times, args, rtol=rtol, atol=atol, resume=resume)


def check_goes_on(times: list[float], now: float, direction: int) -> None:
    """A continued solve goes the way it went, from where it stopped."""
    turns = len(times) > 1 and (times[1] - times[0]) * direction < 0
    if turns or any(direction * x < direction * now for x in times):
        way = "forwards" if direction > 0 else "backwards"
        raise InputError(
            f"The solution given as start= ran {way} to t={now:g}, and t asks for {times[0]:g} to {times[-1]:g}, which is "
            f"behind it. Give times from {now:g} on; to go back, solve from `solution.y[-1]` instead."
        )


def make_plan(
    problem: Problem,
    *,
    method: Method,
    controller: Controller | None,
    dt: float | None,
    stop_times: Any,
    jump_times: Any,
    **rest: Any,
) -> Plan:
    """Everything a solve is made of, checked to fit together."""
    chosen = choose_controller(method, controller, dt)
    if dt is not None and not 0 < dt < float("inf"):
        raise InputError(f"dt={dt} is no step size. Give a positive number in the units of t; the direction follows t.")
    if rest["max_steps"] < 1:
        raise InputError(f"max_steps={rest['max_steps']} allows no step at all. Give a positive number.")
    times = [problem.t0, *(t for t in problem.t if t > problem.t0)]
    limits = Limits(
        end=times[-1],
        stops=_inside(stop_times, "stop_times", problem),
        jumps=_inside(jump_times, "jump_times", problem),
        dtype=problem.layout.real_dtype,
        grid=chosen.grid(times),
        start=problem.t0,
    )
    return Plan(method=method, controller=chosen, limits=limits, dt=dt, **rest)


def _inside(times: Any, name: str, problem: Problem) -> list[float]:
    """Stop or jump times as the loop counts them; those outside the interval do no harm."""
    times = [x * problem.direction for x in _listed(times, name)]
    if any(x != x for x in times):
        raise InputError(f"{name} holds nan. Give finite times, in the units of t.")
    return [x for x in times if x >= problem.t0]


def _listed(times: Any, name: str) -> list[float]:
    if isinstance(times, Tensor):
        times = times.detach().cpu()
    try:
        if times is None:
            raise TypeError
        return np.asarray(times, dtype=float).reshape(-1).tolist()
    except (TypeError, ValueError):
        raise InputTypeError(
            f"{name} is {reprlib.repr(times)}, which does not read as times. Give a number, a sequence of numbers, or a tensor."
        ) from None


def gather(problem: Problem, plan: Plan, out: Run, through: Callable[..., PyTree] | None) -> Solution:
    """The solution from what the loop left: outputs, events, dense output, counters, and where to go on."""
    state, trajectory, layout = out.state, out.trajectory, problem.layout
    t_events = y_events = None
    if plan.events:
        t_events, y_events = event_module.read(trajectory, event_module.Detector(plan.events, problem))
    ended_at_event = state.status is Status.EVENT
    times, states = saving.read(trajectory, end_too=plan.save.end_too and not ended_at_event)
    if ended_at_event and t_events is not None and y_events is not None:
        number = trajectory.events[-1].event
        times, states = torch.cat([times, t_events[number][-1:]]), torch.cat([states, y_events[number][-1:]])
    times = times * problem.direction
    return Solution(
        t=times,
        y=layout.unravel(states, lead=(len(times),))
        if through is None
        else saving.apply(through, times, states, layout),
        status=state.status,
        message=message(problem, plan, state, trajectory.end_time),
        t_events=None if t_events is None else [t * problem.direction for t in t_events],
        y_events=None if y_events is None else [layout.unravel(y, lead=(len(y),)) for y in y_events],
        dense=_dense(problem, trajectory) if plan.dense else None,
        resume=resume_at_event(problem, state, times, states)
        if ended_at_event
        else resume_point(problem, plan, state, out.recorded),
        layout=layout,
        counters=out.counters,
    )


def resume_at_event(problem: Problem, state: LoopState, times: Tensor, states: Tensor) -> Resume:
    """Where ``start=`` goes on after the event that ended the solve: afresh."""
    t = float(times[-1].detach()) * problem.direction
    return Resume(t, states[-1:], state.dt, (), (), problem.direction)


def resume_point(problem: Problem, plan: Plan, state: LoopState, recorded: bool) -> Resume:
    """Where ``start=`` goes on: after the last step."""
    past = state.history[1:] if state.ready else state.history
    return Resume(state.t, state.y, state.dt, past, state.memory, problem.direction, recorded, plan.method.carries)


def _dense(problem: Problem, trajectory: Trajectory) -> DenseSolution:
    steps = fit(trajectory.pieces) if trajectory.pieces else None
    return DenseSolution(steps, problem.y0, (problem.t0, trajectory.end_time), problem.direction)
