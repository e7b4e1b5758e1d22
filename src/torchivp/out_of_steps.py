"""Why a solve has used up its steps: whether its problem is stiff. Asked when it is over, so that it costs no other solve."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .autocast import without_autocast
from .collectives import without_collectives
from .linalg.spectrum import outer_eigenvalues
from .loop import LoopState, march
from .methods.stability import explicit_tableau, outgrows
from .methods.tableau import Tableau
from .plan import Plan
from .problem import Problem
from .randomness import random_state_kept
from .solution import Status
from .stiffness import warn_of
from .transforms import recorded

ROUNDS, ATTEMPTS = 3, 12
_AS_LONG = 0.6  # of the steps that stability allows, where it is what limits them (docs/design/stiffness.md)


class Trial(NamedTuple):
    """A problem and a plan of their own for steps of which nothing is left, and the tableau of the plan's method."""

    problem: Any
    plan: Plan
    tableau: Tableau


class Round(NamedTuple):
    """Some more steps.

    Attributes:
        size: their mean size, ``[B]`` on the CPU; 0 for rows that did not go on.
        values: eigenvalues ``[B, m]`` of the Jacobian where they ended.
    """

    size: Tensor
    values: Tensor


_CPU = torch.device("cpu")  # whatever the default device is


def why_out_of_steps(problem: Problem, plan: Plan, state: LoopState) -> Status:
    """``STIFF`` or ``MAX_STEPS``; warns if nobody has warned before."""
    found = asked(problem, plan, lambda trial: limited(trial, *more_steps(trial, state)))
    if found is None or not bool(found):
        return Status.MAX_STEPS
    if state.steering is None or not state.steering.warned:
        warn_of(plan.method, f"max_steps={plan.max_steps} were used up by steps")
    return Status.STIFF


@without_autocast
@without_collectives
@torch.no_grad()
def asked(problem: Problem, plan: Plan, question: Callable[[Trial], Tensor]) -> Tensor | None:
    """The answer to a question that takes more steps; None if nobody can say, or if the solve was allowed fewer of them than the
    answer takes. Neither counts nor random numbers move."""
    tableau = explicit_tableau(plan.method)
    if (
        tableau is None
        or plan.max_steps < ROUNDS * ATTEMPTS
        or not (plan.watch_stiffness and plan.controller.adaptive)
        or recorded()
    ):
        return None
    alone = replace(problem.frozen(), field=problem.field.with_args(problem.field.args))
    trial = Trial(alone, replace(plan, max_steps=ATTEMPTS, watch=None, watch_stiffness=False), tableau)
    try:
        with random_state_kept(problem.layout.device):
            return question(trial)
    except Exception:  # the solve has ended, and what f objects to now is no reason to lose it
        return None
    except KeyboardInterrupt:
        if not plan.interruptible:
            raise
        return None


def limited(trial: Trial, values: Tensor, rounds: Iterable[Round]) -> Tensor:
    """Whether stability has limited the steps in every round, by the eigenvalues at both of its ends: ``[B]``.

    Single steps say nothing: stability lets steps grow and fail in turns, and there are steps of any length where a solution
    changes its pace.

    Args:
        values: eigenvalues where the first round begins.
    """
    found = torch.ones(len(values), dtype=torch.bool, device=_CPU)
    for size, after in rounds:
        for at in (values, after):
            found &= outgrows(trial.tableau, at * (size / _AS_LONG).unsqueeze(1)).any(1)
        if not bool(found.any()):
            break
        values = after
    return found


def more_steps(trial: Trial, state: LoopState) -> tuple[Tensor, Iterator[Round]]:
    """The eigenvalues where a solve stands, and some rounds of steps from there."""
    problem, plan = trial.problem, trial.plan
    going = LoopState(state.t, state.y.detach(), state.dt)

    def values() -> Tensor:
        return outer_eigenvalues(problem.field, plan.limits.cut(going.t, going.dt), going.y)

    def rounds() -> Iterator[Round]:
        for _ in range(ROUNDS):
            t, accepted, going.budget_from, going.status = going.t, going.accepted, going.attempted, Status.RUNNING
            for _ in march(problem, plan, going):
                pass
            steps = going.accepted - accepted
            if not steps or going.status is not Status.MAX_STEPS:
                yield Round(torch.zeros(1, dtype=torch.float64, device=_CPU), first)
                return
            mean = (going.t - t) / steps
            yield Round(torch.tensor([mean], dtype=torch.float64, device=_CPU), values())

    first = values()
    return first, rounds()
