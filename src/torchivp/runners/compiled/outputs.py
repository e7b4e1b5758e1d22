"""Values between the steps of a compiled loop, all at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...interpolation import StepPolynomials, of_steps
from .march import Written


class Found(NamedTuple):
    """Outputs: of ``rows [m]``, each its row's output number ``columns [m]``, at times ``t [m]`` in steps ``slots [m]``."""

    rows: Tensor
    columns: Tensor
    slots: Tensor
    t: Tensor
    values: Tensor


def values_at(new: Written, times: Tensor, weights: Tensor) -> Found:
    """The states at those of the times ``[B, T]`` that lie in these steps, row by row.

    Args:
        weights: of the interpolant, ``[P, S]``.
    """
    rows, columns, slots = places(new, times)
    t = times[rows, columns]
    return Found(rows, columns, slots, t, at(new, rows, slots, t, weights))


def ends_of(new: Written) -> Found:
    """The ends of all steps, as outputs; columns count from the first one here."""
    slots, rows = new.accepted.nonzero(as_tuple=True)
    nth = new.accepted.cumsum(0)[slots, rows] - 1
    return Found(rows, nth, slots, new.t1[slots, rows], new.y1[slots, rows])


def ends_in(new: Written, slots: Tensor) -> Found:
    """The ends of these steps, of all rows."""
    rows = torch.arange(new.t.shape[1], device=new.t.device).repeat(len(slots))
    each = slots.repeat_interleave(new.t.shape[1])
    return Found(rows, torch.zeros_like(rows), each, new.t1[each, rows], new.y1[each, rows])


def places(new: Written, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and steps of the times that lie in these steps (their ends included, their starts not)."""
    ends = torch.where(new.accepted, new.t1, -torch.inf).cummax(0).values.T.contiguous()
    slots = torch.searchsorted(ends, times.contiguous())
    inside = (slots < new.steps) & (times > new.t[0].unsqueeze(1))
    rows, columns = inside.nonzero(as_tuple=True)
    return rows, columns, slots[rows, columns]


def at(new: Written, rows: Tensor, slots: Tensor, t: Tensor, weights: Tensor) -> Tensor:
    """States ``[m, D]``; differentiable in everything but the places."""
    if new.k.shape[1] < weights.shape[1]:  # without the slopes of the interpolant only ends of steps are asked for
        return new.y1[slots, rows]
    start, end = new.t[slots, rows], new.t1[slots, rows]
    h = torch.where(end > start, end - start, 1.0)  # 1: of a row that stays where it is
    theta = ((t - start) / h).to(weights.dtype)
    powers = theta.unsqueeze(1) ** torch.arange(1, len(weights) + 1, device=theta.device)
    by_slope = (powers @ weights) * h.unsqueeze(1).to(weights.dtype)
    k = new.k[slots, :, rows]
    moved = torch.einsum("ms,msd->md", by_slope, k.to(weights.dtype))
    inside = new.y0[slots, rows] + moved.to(new.y0.dtype)
    return torch.where((t == end).unsqueeze(1), new.y1[slots, rows], inside)


def polynomials(new: Written, weights: Tensor) -> StepPolynomials:
    """The interpolants of the steps of a single row."""
    t = new.t.squeeze(1)
    return of_steps(t, new.t1.squeeze(1) - t, new.y0.squeeze(1), new.k.squeeze(2), weights)
