"""Which of the rows that have used up their steps are stiff."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..linalg.spectrum import outer_eigenvalues
from ..out_of_steps import ATTEMPTS, ROUNDS, Round, Trial, asked, limited
from ..plan import Plan
from ..solution import Status
from ..span import spread
from ..stiffness import warn_of
from .loop import CODES, RowsState, march
from .problem import RowsProblem
from .tolerance import RowTolerance


def name_stiff_rows(problem: RowsProblem, plan: Plan, state: RowsState) -> None:
    """Rows that are stiff and have used up their steps end with ``STIFF``; warns of them if nobody has warned before."""
    out_of_steps = state.code == CODES.index(Status.MAX_STEPS) if state.failed else None
    if out_of_steps is None or not bool(out_of_steps.any()):
        return
    found = asked(problem, plan, lambda trial: limited(trial, *more_steps(trial, state, out_of_steps)))
    if found is None or not bool(found.any()):
        return
    found = found.to(out_of_steps.device)
    if isinstance(problem.tolerance, RowTolerance) and problem.tolerance.couple:  # what is stiff limits all
        found = out_of_steps
    state.rename(found, Status.STIFF)
    if state.watched is None or not state.watched.warned:
        warn_of(
            plan.method, f"max_steps={plan.max_steps} were used up in {int(found.sum())} of {len(found)} rows by steps"
        )


def more_steps(trial: Trial, state: RowsState, rows: Tensor) -> tuple[Tensor, Iterator[Round]]:
    """The eigenvalues where the rows stand, and some rounds of steps from there, of these rows ``[B]`` only."""
    problem, plan = trial.problem, replace(trial.plan, max_steps=2 * ROUNDS * ATTEMPTS)  # it ends by itself
    y = state.y.detach()
    going = RowsState(
        state.t, y, next_sizes(state, rows), torch.zeros_like(state.accepted), rows, int(rows.sum()), frozen=spread(~rows, y)
    )  # fmt: skip

    def values() -> Tensor:
        return outer_eigenvalues(problem.field, plan.limits.cut(going.t, going.dt, going.frozen), going.y)

    def rounds() -> Iterator[Round]:
        for i in range(1, ROUNDS + 1):
            t, accepted = going.t, going.accepted
            going.history, going.ready, going.slope = (), False, None  # the last step has handed on nothing
            for _ in march(problem, plan, going):
                if going.tries >= i * ATTEMPTS:
                    break
            steps = going.accepted - accepted
            went_on = going.running & (steps > 0)
            yield Round(torch.where(went_on, (going.t - t) / steps, 0).to("cpu", torch.float64), values())

    return values(), rounds()


def next_sizes(state: RowsState, rows: Tensor) -> Tensor:
    """The steps ``[B]`` that these rows would have tried next; 0 for the others."""
    dt = torch.zeros_like(state.t)
    dt[list(state.failed)] = dt.new_tensor([failed.dt for failed in state.failed.values()])
    return torch.where(rows, dt, 0)
