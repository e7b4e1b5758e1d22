"""What plain PyTorch would have noticed on the way: whether a compiled solve that used up its steps is stiff."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import torch

from ...loop import LoopState, march
from ...methods.stability import Twins
from ...plan import Plan
from ...problem import Problem
from ...solution import Status
from ...stiffness import Watched
from .counting import not_counted

_STEPS = 24


class AtOnce(Watched):
    """Looks at every step from the first one on."""

    BEGIN, EVERY = 0, 1


@torch.no_grad()
def why_out_of_steps(problem: Problem, plan: Plan, state: LoopState) -> Status:
    """``STIFF`` or ``MAX_STEPS``: some more steps in plain PyTorch, which are not kept, tell."""
    twins = Twins.of(plan.method) if plan.watch_stiffness and plan.controller.adaptive else None
    if twins is None:
        return Status.MAX_STEPS
    watched = AtOnce(plan.method, twins)
    going_on = replace(state, status=Status.RUNNING, steering=watched, budget_from=state.attempted)
    with not_counted(problem.field):
        for _ in islice(march(problem, plan, going_on), _STEPS):
            if watched.stiff:
                break
    return Status.STIFF if watched.stiff else Status.MAX_STEPS
