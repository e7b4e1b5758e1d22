"""Where the rows of a batch came to rest, each on its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._types import Rows
from ..errors import GradientError
from ..per_sample.events import ends, read, value
from ..per_sample.loop import CODES
from ..per_sample.problem import RowsProblem
from ..plan import Plan
from ..runners.eager import Run
from .at_rest import Rest


@dataclass(frozen=True)
class RowsRest(Rest):
    """The steady states of all rows, ``t [B]`` and ``y [1, B * D]``.

    Attributes:
        failed: rows that did not get there, ``[B]``.
    """

    t: Tensor
    failed: Tensor

    def check(self, cotangent: Rows) -> None:
        used = (cotangent != 0).view(len(self.failed), -1).any(1) & self.failed
        if bool(used.any()):
            raise GradientError(
                f"The solve of {named_rows(used)} failed on the way to the steady state, and the loss uses where it stopped. "
                f"Leave failed rows out of the loss (`[sol.y[b] for b in range(len(sol)) if sol.status[b].success]`)."
            )


def resting_point(problem: RowsProblem, plan: Plan, out: Run) -> RowsRest | None:
    """The ends of the rows, which have to be at rest there; None if all failed."""
    succeeded = torch.tensor([CODES[code].success for code in out.state.code.tolist()], device=problem.layout.device)
    if not bool(succeeded.any()):
        return None
    found = read(out.trajectory, plan.events, problem)
    t, y = ends(out.trajectory, plan.events, found, problem)
    rest = next(event for event in plan.events if event.at_rest)
    resting = value(rest, problem, t, y.view(1, -1)) <= 0
    for e in (e for e, event in zip(found, plan.events) if event.at_rest):
        resting[e.rows] = True
    moving = succeeded & ~resting
    if bool(moving.any()):
        raise GradientError(
            f"The solve of {named_rows(moving)} ended without coming to rest, so its end is no steady state. Give it more "
            f"time, or a SteadyState with larger tolerances; or take gradient='discrete'."
        )
    return RowsRest(t, y.view(1, -1), ~succeeded)


def put_back(plan: Plan, out: Run, row: Rows) -> None:
    """The ends, and the events there, become the steady states with their gradients."""
    trajectory = out.trajectory
    trajectory.end = out.state.y = row
    y = row.view(len(trajectory.end_time), -1)
    trajectory.events = [e._replace(y=y[e.rows]) if plan.events[e.event].terminal else e for e in trajectory.events]


def named_rows(rows: Tensor) -> str:
    """The rows of a mask ``[B]``, in words."""
    numbers = rows.nonzero().flatten().tolist()
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return f"row{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:8]))}{more}"
