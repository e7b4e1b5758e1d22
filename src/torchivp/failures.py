"""What went wrong, for people: when, how, where in the state, and what to try."""

from __future__ import annotations

import math

import torch

from .loop import Failed, LoopState
from .plan import Plan
from .problem import Problem
from .solution import Status
from .transforms import worst


def message(problem: Problem, plan: Plan, state: LoopState, end: float | None = None) -> str:
    """One line for a solve that worked, three parts for one that did not.

    Args:
        end: where it ended, if not at the end of its last step.
    """
    if state.failed is None:
        return f"{state.status.value} (t={problem.direction * (state.t if end is None else end):g})."
    return _EXPLAIN[state.status](problem, plan, state, state.failed) + _reversible(plan, state.status)


def _reversible(plan: Plan, status: Status) -> str:
    """What is unstable because it can be undone: a word on it, where it may be the reason."""
    if not plan.method.reversible or status not in (Status.MAX_STEPS, Status.STEP_TOO_SMALL, Status.NONFINITE_SLOPE):
        return ""
    return (
        f" Or {plan.method!r} is unstable here, as reversible methods are where solutions are drawn together fast (stiff, "
        f"damped or chaotic problems): take a plain method, such as 'tsit5', with gradient='discrete'."
    )


def _where(problem: Problem, failed: Failed) -> str:
    size = f" with step size {failed.dt:.3g}" if 0 < failed.dt < math.inf else ""
    return f"at t={problem.direction * failed.t:.9g}{size}"


def _worst(problem: Problem, state: LoopState, failed: Failed) -> str:
    """The entry whose error was furthest from its tolerance in the last attempt."""
    if failed.step is None or failed.step.error is None or not failed.step.error.numel():
        return ""
    ratio = worst(failed.step.error.abs() / problem.tolerance.scale(state.y, failed.step.y1))
    entry = problem.layout.describe(ratio == ratio.max())
    return f"; the largest error is that of {entry}" if bool(torch.isfinite(ratio).all()) else ""


def _max_steps(problem: Problem, plan: Plan, state: LoopState, failed: Failed) -> str:
    unit = "in one output interval" if plan.max_steps_per_output else "in all"
    return (
        f"max_steps={plan.max_steps} attempted steps {unit} were used up {_where(problem, failed)} "
        f"({state.accepted} accepted, {state.rejected} rejected{_worst(problem, state, failed)}). Loosen rtol and atol, "
        f"raise max_steps, or check whether the problem is stiff or its solution runs away there."
    )


def _stiff(problem: Problem, plan: Plan, state: LoopState, failed: Failed) -> str:
    return (
        f"The problem is stiff, and max_steps={plan.max_steps} attempted steps of {plan.method!r} were used up "
        f"{_where(problem, failed)} ({state.accepted} accepted, {state.rejected} rejected): they are as long as the method is "
        f"stable, not as accuracy would allow. Write method='kvaerno5' or 'rodas5p' (implicit), or method='auto'."
    )


def _step_too_small(problem: Problem, plan: Plan, state: LoopState, failed: Failed) -> str:
    return (
        f"The step became too small for the precision of the time {_where(problem, failed)}: the tolerance cannot be met"
        f"{_worst(problem, state, failed)}. The solution may have a singularity there, or f a jump (name it in jump_times), "
        f"or the tolerance is below what {problem.layout.dtype} can hold (loosen rtol and atol, or use float64)."
    )


def _nonfinite_slope(problem: Problem, plan: Plan, state: LoopState, failed: Failed) -> str:
    bad = worst(~torch.isfinite(state.y))
    if failed.step is not None:
        bad = bad | worst((~torch.isfinite(failed.step.k)).any(dim=0) | ~torch.isfinite(failed.step.y1))
    entries = f" in {problem.layout.describe(bad)}" if bool(bad.any()) else ""
    return (
        f"f or the state became nan or inf {_where(problem, failed)}{entries}. Check f near that time (a division by zero, a "
        f"log or square root of something negative, an overflow); a smaller first step `dt` may keep the solve inside its "
        f"domain."
    )


def _newton_failed(problem: Problem, plan: Plan, state: LoopState, failed: Failed) -> str:
    less = "Loosen rtol and atol (the iteration stops at a hundredth of them)" if plan.controller.adaptive else (
        "Take a smaller dt, or loosen rtol and atol (the iteration stops at a hundredth of them)"
    )  # fmt: skip
    return (
        f"Newton's iteration for the stages of {plan.method!r} did not converge {_where(problem, failed)}. {less}, and check "
        f"whether f is smooth there (name its jumps in jump_times) and gives the same numbers for the same state."
    )


def _nonfinite_state(problem: Problem, plan: Plan, state: LoopState, failed: Failed) -> str:
    bad = problem.layout.describe(~torch.isfinite(problem.y0), state="y0")
    return (
        f"y0 holds nan or inf in {bad} at t={problem.direction * failed.t:g}, so there is nothing to start from. "
        f"Check what y0 is computed from, for example with `torch.isfinite(y0).all()`."
    )


def _bad_output(problem: Problem, plan: Plan, state: LoopState, failed: Failed) -> str:
    return f"{failed.error} (This happened {_where(problem, failed)}.)"


_EXPLAIN = {
    Status.MAX_STEPS: _max_steps,
    Status.STIFF: _stiff,
    Status.STEP_TOO_SMALL: _step_too_small,
    Status.NONFINITE_SLOPE: _nonfinite_slope,
    Status.NONFINITE_STATE: _nonfinite_state,
    Status.NEWTON_FAILED: _newton_failed,
    Status.BAD_OUTPUT: _bad_output,
}
