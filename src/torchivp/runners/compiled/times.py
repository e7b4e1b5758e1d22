"""Gradients of the user's times: which of them the ends of steps move with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...per_sample.problem import RowClock
from ...problem import Clock
from .step import Fixed


def columns_of(clock: Clock | RowClock, t: Tensor) -> Tensor:
    """The numbers of the user's times that times of the loop ``t [n, B]`` move with: the one a step landed on, else the start
    (none, ``T``, where a solve goes on from another one)."""
    times: Any = clock.times
    values = torch.atleast_2d(times.detach()).to(t.device).contiguous()
    number = values.shape[1]
    at = torch.searchsorted(values, t.T.contiguous()).clamp(max=number - 1)
    others = 0 if getattr(clock, "moves_with_start", True) else number
    return torch.where(values.gather(1, at) == t.T, at, others).T


def timed(clock: Clock, t: Tensor) -> Tensor:
    """Times ``[n]`` of a single problem with their gradients."""
    if clock.times is None:
        return t
    times = torch.cat([clock.times, clock.times.new_zeros(1)]).to(t.device)
    moves = times[columns_of(clock, t.unsqueeze(1)).squeeze(1)]
    return t + (moves - moves.detach())


def within(fixed: Fixed, limits: Sequence[Tensor]) -> Fixed:
    """With other first and last times at which ``f`` may be asked, if there are any: a time that is cut to one of these moves
    with the end of the step there."""
    return fixed._replace(bounds=torch.stack([*limits, *fixed.bounds[2:]])) if limits else fixed


def added(totals: Sequence[Tensor], columns: Sequence[Tensor], amounts: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Totals by the user's times ``[*batch, T + 1]``, if they are wanted, with these amounts ``[*batch]`` in their columns."""
    out = []
    for total in totals:
        for column, amount in zip(columns, amounts):
            total = total.scatter_add(-1, column.unsqueeze(-1), amount.unsqueeze(-1))
        out.append(total)
    return tuple(out)
