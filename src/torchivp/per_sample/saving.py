"""What to keep of the rows: given times, every step, or the end."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .trajectory import AtEnds, InSteps, RowTrajectory, Values, at


class Wanted(NamedTuple):
    """Outputs in one step: ``rows [n]`` with their output numbers ``columns [n]`` and times ``t [n]``."""

    rows: Tensor
    columns: Tensor
    t: Tensor

    def before(self, t: Tensor) -> Wanted:
        """Those before times ``t [B]``."""
        return Wanted(*(x[self.t < t[self.rows]] for x in self))


class RowTimes:
    """Outputs at the times asked for; those at the ends of the rows are read from where these ended.

    Args:
        t: increasing times ``[B, T]``; the first ones are the starts.
    """

    start_too = True

    def __init__(self, t: Tensor):
        self.inside = t[:, 1:-1].contiguous()

    def in_step(self, t: Tensor, t1: Tensor, taken: Tensor | None, counts: Tensor) -> Wanted | None:
        """The outputs of the rows that take a step from ``t`` to ``t1 [B]``; None if there are none."""
        if self.inside.shape[1] == 0:
            return None
        before = torch.searchsorted(self.inside, t.unsqueeze(1), right=True).squeeze(1)
        after = torch.searchsorted(self.inside, t1.unsqueeze(1), right=True).squeeze(1)
        number = after - before if taken is None else torch.where(taken, after - before, 0)
        total = int(number.sum())
        if total == 0:
            return None
        everyone = torch.arange(len(t), device=t.device)
        rows = everyone.repeat_interleave(number)
        nth = torch.arange(total, device=t.device) - (number.cumsum(0) - number)[rows]
        columns = before[rows] + nth
        return Wanted(rows, columns + 1, self.inside[rows, columns])


class RowSteps:
    """Outputs at every step point of each row."""

    start_too = True

    def in_step(self, t: Tensor, t1: Tensor, taken: Tensor | None, counts: Tensor) -> Wanted | None:
        moved = t1 > t
        rows = (moved if taken is None else moved & taken).nonzero().squeeze(1)
        return Wanted(rows, counts[rows], t1[rows])


class RowEnds:
    """One output for each row: where it ended."""

    start_too = False

    def in_step(self, t: Tensor, t1: Tensor, taken: Tensor | None, counts: Tensor) -> Wanted | None:
        return None


RowSave = RowTimes | RowSteps | RowEnds


class Outputs(NamedTuple):
    """The outputs of all rows, one row after the other.

    Attributes:
        lengths: how many each row has, ``[B]``.
        t: times ``[M]``; ``y``: states ``[M, D]``.
    """

    lengths: Tensor
    t: Tensor
    y: Tensor


def read(trajectory: RowTrajectory, extra: list[Values]) -> Outputs:
    """The outputs of a trajectory, row by row and in the order of time.

    Args:
        extra: others, such as the ends of the rows that have reached them.
    """
    rows_in_all = len(trajectory.end_time)
    parts = [
        (o.rows, o.columns, o.t, value_of(trajectory, o, rows_in_all))
        for o in [*trajectory.outputs, *extra]
        if len(o.rows)
    ]
    if not parts:
        empty = trajectory.end.view(rows_in_all, -1)[:0]
        return Outputs(torch.zeros_like(trajectory.counts), trajectory.end_time[:0], empty)
    rows, columns, t, y = (torch.cat(x) for x in zip(*parts))
    order = (rows * (int(columns.max()) + 1) + columns).argsort()
    return Outputs(torch.bincount(rows, minlength=rows_in_all), t[order], y[order])


def value_of(trajectory: RowTrajectory, output: AtEnds | InSteps | Values, rows: int) -> Tensor:
    """The states ``[n, D]`` of outputs."""
    if isinstance(output, Values):
        return output.values
    if isinstance(output, AtEnds):
        return trajectory.knots[output.knot].view(rows, -1)[output.rows]
    return at(trajectory.pieces[output.piece], output.rows, output.t)
