"""One problem: from the arguments of the front door to what the loop needs, and from what the loop left to the solution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import events as event_module
from . import saving
from ._types import PyTree, VectorField
from .controllers import Controller, Limits
from .errors import InputError
from .failures import message
from .interpolation import DenseSolution, fit
from .loop import LoopState
from .methods import Method
from .names import named
from .partitioned import check_form
from .plan import Plan, choose_controller
from .problem import Problem, as_times, listed, make_problem
from .runners import RUNNERS
from .runners.eager import Run, not_started
from .solution import Resume, Solution, Status
from .trajectory import Trajectory
from .transforms import as_float

__all__ = ["gather", "make_plan", "not_started", "pose"]


def pose(
    f: VectorField,
    y0: PyTree,
    t: Any,
    args: PyTree,
    *,
    rtol: PyTree,
    atol: PyTree,
    start: Solution | None,
    carries: str,
    batch_dims: int,
    couple: bool,
    norm: str | Callable[[PyTree], Tensor],
) -> Problem:
    """The problem, or the rest of one that was solved in part (with its history, if the method carries the same)."""
    if couple:
        raise InputError("couple=True is about the rows of a batch. Say how many axes count them: batch_dims=1.")
    if start is None:
        return make_problem(f, y0, t, args, rtol=rtol, atol=atol, norm=norm)
    if y0 is not None:
        raise InputError(
            "start= continues a solution from its own last state. Write `solve(f, None, t, start=solution)`."
        )
    if start.resume is None:
        raise InputError(
            "The solution given as start= is one of the rows of torch.func.vmap, each of which has come to its time with steps "
            "of its own. Solve on from its last state: `solve(f, start.y[-1], t)`."
        )
    resume = start.resume.seen_by(carries)
    now = resume.t * resume.direction
    times = as_times(t, start.layout.device)
    if isinstance(t, int | float) or getattr(t, "ndim", 1) == 0 or len(times) == 1:
        times = torch.cat([times.new_tensor([now]), times[-1:]]) if float(times[-1].detach()) != now else times[-1:]
    check_goes_on(times.detach().tolist(), now, resume.direction)
    return make_problem(f, start.layout.unravel(resume.y), times, args, rtol=rtol, atol=atol, norm=norm, resume=resume)


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
    save: str | Callable[..., PyTree],
    runner: str,
    compact: bool,
    **rest: Any,
) -> Plan:
    """Everything a solve is made of, checked to fit together."""
    if compact:
        raise InputError("compact=True is about the rows of a batch. Say how many axes count them: batch_dims=1.")
    method = method.suited(smallest(problem.tolerance.rtol), problem.layout.width)
    chosen = choose_controller(method, controller, dt)
    check_switching(method, chosen)
    if dt is not None and not 0 < dt < float("inf"):
        raise InputError(f"dt={dt} is no step size. Give a positive number in the units of t; the direction follows t.")
    if rest["max_steps"] < 1:
        raise InputError(f"max_steps={rest['max_steps']} allows no step at all. Give a positive number.")
    t0 = problem.t0
    times = [t0, *(t for t in problem.t if t > t0)]
    limits = Limits(
        end=times[-1],
        stops=_inside(stop_times, "stop_times", problem),
        jumps=_inside(jump_times, "jump_times", problem),
        dtype=problem.layout.real_dtype,
        grid=chosen.grid(times),
        start=problem.t0,
    )
    check_form(problem, limits, method.needs, method.timeless_drift, repr(method))
    return Plan(
        method=method,
        controller=chosen,
        limits=limits,
        dt=dt,
        save=saving.choose(save, problem.t),
        watch_stiffness=True,
        **named("runner", runner, RUNNERS)._asdict(),
        **rest,
    )


def smallest(rtol: float | Tensor) -> float:
    """The tightest of all relative tolerances."""
    return -as_float((-rtol).amax()) if isinstance(rtol, Tensor) else float(rtol)


def check_switching(method: Method, controller: Controller) -> None:
    """Raise where nobody could see that a method should become another one."""
    if method.members is not None and not controller.adaptive:
        raise InputError(
            f"{method!r} switches between methods by what the sizes of the steps tell, and {controller!r} fixes them. Leave the "
            f"controller out, or name one method."
        )


def _inside(times: Any, name: str, problem: Problem) -> list[float]:
    """Stop or jump times as the loop counts them; those outside the interval do no harm."""
    times = [x * problem.direction for x in listed(times, name)]
    if any(x != x for x in times):
        raise InputError(f"{name} holds nan. Give finite times, in the units of t.")
    return [x for x in times if x >= problem.t0]


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
    steps = fit(trajectory.pieces) if trajectory.pieces else trajectory.polynomials
    return DenseSolution(steps, problem.y0, (problem.t0, trajectory.end_time), problem.direction)
