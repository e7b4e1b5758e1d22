"""Where a solve came to rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .._types import Rows, Time
from ..errors import GradientError
from ..events import Detector, states_at
from ..plan import Plan
from ..problem import Problem
from ..runners.eager import Run
from ..span import OneSpan
from ..trajectory import Piece


@dataclass(frozen=True)
class Rest:
    """A steady state: time (inside the library) and state."""

    t: Time
    y: Rows

    def check(self, cotangent: Rows) -> None:
        """Raise for a cotangent of what is no steady state."""
        return


def resting_point(problem: Problem, plan: Plan, out: Run) -> Rest | None:
    """The end of the solve, which has to be at rest there; None if the solve failed."""
    if not out.state.status.success:
        return None
    trajectory = out.trajectory
    if trajectory.events and plan.events[trajectory.events[-1].event].at_rest:
        return Rest(trajectory.events[-1].t, states_at(trajectory, trajectory.events[-1]))
    t, y = trajectory.end_time, trajectory.end
    rest = next(event for event in plan.events if event.at_rest)
    if not float(Detector((rest,), problem).value(rest, torch.tensor(t, dtype=torch.float64), y)) <= 0:
        raise GradientError(
            f"The solve ended at t={problem.direction * t:g} without coming to rest, so its end is no steady state. Give it "
            f"more time, or a SteadyState with larger tolerances; or take gradient='discrete'."
        )
    return Rest(t, y)


def put_back(plan: Plan, out: Run, row: Rows) -> None:
    """The end, and the event there, become the steady state with its gradient."""
    trajectory = out.trajectory
    trajectory.end = out.state.y = row
    if trajectory.events:
        last = trajectory.events[-1]
        still = Piece(
            OneSpan(last.t, last.t + 1.0, size=1.0), row, torch.zeros_like(row.detach()), row.detach().new_ones(1, 1)
        )
        trajectory.pieces.append(still)
        trajectory.events[-1] = last._replace(piece=len(trajectory.pieces) - 1)
