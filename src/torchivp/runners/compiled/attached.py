"""The gradient put on what a compiled solve left behind."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...problem import Problem
from ..eager import Run
from .gradient import Outcome
from .path import Path
from .retaken import RetakenOutcome
from .undone import StartCheck, UndoneOutcome


def attach(
    problem: Problem, writer: Any, path: Path, out: Run, weights: Tensor, check_start: StartCheck | None = None
) -> None:
    """Put the gradient on what a solve left.

    Args:
        problem: with gradients.
        writer: of its trajectory, which ``attach`` changes; ``path``: what it noted.
        weights: of the interpolant.
        check_start: the steps are undone, and this looks at where they begin.
    """
    end = out.state.y
    if writer.loop is None:  # no step was taken
        values, end, y0, k = end[:0], problem.y0, end[:0], end[:0].reshape(0, 0, 1)
    else:
        outcome = outcome_of(problem, writer.loop, path, end, weights, check_start)
        outcome.counters = out.counters
        if not (problem.y0.requires_grad or outcome.times or outcome.wanted):
            return
        values, end, y0, k = outcome.attached()
        out.recorded = True
    out.trajectory.end = out.state.y = end
    writer.attach(problem, values, y0, k)


def outcome_of(
    problem: Problem, loop: Any, path: Path, end: Tensor, weights: Tensor, check_start: StartCheck | None
) -> Outcome:
    if check_start is not None:
        return UndoneOutcome(problem, loop, path, end, weights, check_start)
    kind = Outcome if path.kept is None else RetakenOutcome
    return kind(problem, loop, path, end, weights)
