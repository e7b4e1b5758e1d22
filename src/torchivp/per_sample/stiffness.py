"""Rows watched for stiffness: as ``stiffness.Watched`` does with one problem, and the device is waited for no more often."""

from __future__ import annotations

import torch
from torch import Tensor

from ..methods.base import Step
from ..methods.stability import Twins
from ..plan import Plan
from ..stiffness import CALM_LOOKS, STIFF, STIFF_LOOKS, Watched, warn_of
from .problem import RowsProblem


class WatchedRows:
    """Warns once, where an explicit method solves rows that are stiff.

    Args:
        rows: how many there are.

    Attributes:
        stiff, calm: looks ``[B]`` that found a row stiff, with few others between them, and those others.
    """

    BEGIN, EVERY = Watched.BEGIN, Watched.EVERY

    def __init__(self, twins: Twins, rows: int, device: torch.device):
        self.twins = twins
        self.stiff = self.calm = torch.zeros(rows, dtype=torch.int64, device=device)
        self.warned = False

    @classmethod
    def of(cls, problem: RowsProblem, plan: Plan) -> WatchedRows | None:
        """For rows that are solved by this plan; None if their steps do not tell."""
        twins = Twins.of(plan.method) if plan.watch_stiffness and plan.controller.adaptive else None
        return None if twins is None or twins.late else cls(twins, problem.layout.rows, problem.layout.device)

    def looks(self, tries: int) -> bool:
        """Whether it looks at the attempt with this number."""
        return not self.warned and tries > self.BEGIN and tries % self.EVERY == 0

    def look(self, problem: RowsProblem, step: Step, accepted: Tensor) -> Tensor:
        """Which rows ``[B]`` have been stiff for a while; those count that accept the step."""
        scale = problem.tolerance.scale(step.y1.detach())
        stiff = (self.twins.stiffness_of_rows(step.k, scale, len(accepted)) > STIFF) & accepted
        calm = accepted & ~stiff
        self.calm = torch.where(stiff, 0, self.calm + calm)
        self.stiff = torch.where(calm & (self.calm >= CALM_LOOKS), 0, self.stiff + stiff)
        return self.stiff >= STIFF_LOOKS

    def of_rows(self, rows: Tensor) -> WatchedRows:
        """The same for some of the rows ``[n]``, which go on alone."""
        fewer = WatchedRows(self.twins, len(rows), rows.device)
        fewer.stiff, fewer.calm, fewer.warned = self.stiff[rows], self.calm[rows], self.warned
        return fewer

    def warn(self, plan: Plan, number: int, of: int) -> None:
        """Say that so many rows are."""
        self.warned = True
        warn_of(plan.method, f"for a while now {number} of {of} rows, which go on, have been taking steps")
