"""The solutions of many rows as functions of time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .._types import Rows
from ..errors import InputError
from ..interpolation import DenseSolution, StepPolynomials
from ..rows_of_vmap import expose, hide
from ..trajectory import Piece
from ..transforms import as_float, batched, worst


@dataclass(frozen=True)
class RowsDense:
    """Callable ``t [B, J] -> [B, J, D]``, times as the user has them.

    Attributes:
        t0, dt, until: starts and sizes of the attempted steps, and how far the rows have come with them, ``[B, N]``.
        coefficients: ``[N, P + 1, B, D]``: ``y(t0 + theta * dt) = sum_p theta^p * c_p``.
        bounds: first and last time of every row, ``[B]`` each (inside the library).
        direction: -1 for the rows whose times decrease.
    """

    t0: Tensor
    dt: Tensor
    until: Tensor
    coefficients: Tensor
    bounds: tuple[Tensor, Tensor]
    direction: Tensor

    def __call__(self, t: Tensor) -> Tensor:
        inside = t.to(self.until.dtype) * self.direction.unsqueeze(1)
        first, last = self.bounds
        slack = 4 * torch.finfo(t.dtype).eps * torch.maximum(first.abs(), last.abs())
        outside = (inside < (first - slack).unsqueeze(1)) | (inside > (last + slack).unsqueeze(1))
        if as_float(outside.any()):
            row = int(worst(outside.any(1)).nonzero()[0])
            asked = as_float(torch.where(outside, t, -torch.inf)[row].amax())
            ends = sorted(float(b[row].detach() * self.direction[row]) for b in self.bounds)
            raise InputError(
                f"The solution of row {row} was asked for at t={asked:g}, but it is known on "
                f"[{ends[0]:g}, {ends[1]:g}] only. Solve over a longer interval, or ask inside this one."
            )
        return self.at(inside)

    def at(self, inside: Tensor) -> Tensor:
        """The same at times as inside the library, unchecked."""
        rows = torch.arange(len(inside), device=inside.device).unsqueeze(1)
        inside = inside.to(self.until.dtype)
        step = place(self.until, inside.detach()).clamp(max=self.until.shape[1] - 1)
        step = torch.minimum(step, self.until.argmax(1, keepdim=True))
        theta = (inside - self.t0.gather(1, step)) / torch.where(self.dt == 0, 1, self.dt).gather(1, step)
        theta = theta.to(self.coefficients.real.dtype).unsqueeze(2)
        c = self.coefficients.transpose(0, 1)  # [P + 1, N, B, D]
        y = c[-1][step, rows]
        for c_p in c[:-1].flip(0):
            y = c_p[step, rows] + y * theta
        return y

    def of_row(self, b: int) -> DenseSolution:
        """The solution of row ``b`` alone: the steps that it took."""
        until = self.until[b]
        took = torch.cat([until[:1] > self.bounds[0][b].detach(), until[1:] > until[:-1]])
        c = self.coefficients[:, :, b]
        steps = StepPolynomials(self.t0[b][took], self.dt[b][took], c[took]) if bool(took.any()) else None
        ends = (float(self.bounds[0][b]), float(self.bounds[1][b]))
        return DenseSolution(steps, c[0, :1], ends, int(self.direction[b]))

    def map(self, f: Callable[[Tensor], Tensor]) -> RowsDense:
        tensors = {name: f(getattr(self, name)) for name in ("t0", "dt", "until", "coefficients", "direction")}
        return replace(self, bounds=(f(self.bounds[0]), f(self.bounds[1])), **tensors)


@dataclass(frozen=True)
class HiddenDense:
    """The solution of one row of vmap as a function of time: callable ``t [J] -> [J, D]``.

    Args:
        rows: the solutions of all.
        like: where the rows are.
    """

    rows: RowsDense
    like: Tensor

    def __call__(self, t: Tensor) -> Tensor:
        return hide(self.rows(expose(t, self.like)), self.like)

    def map(self, f: Callable[[Tensor], Tensor]) -> HiddenDense:
        return replace(self, rows=self.rows.map(f))


def place(until: Tensor, t: Tensor) -> Tensor:
    """How many entries of ``until [B, N]`` (increasing) lie before ``t [B, J]``."""
    if batched(t):  # its memory has another order than searchsorted wants
        return (until.unsqueeze(1) < t.unsqueeze(2)).sum(2)
    return torch.searchsorted(until, t.contiguous())


def dense_of(pieces: list[Piece], y0: Rows, bounds: tuple[Tensor, Tensor], direction: Tensor) -> RowsDense:
    """From the pieces of all attempted steps (none for a solve of no length)."""
    rows = len(direction)
    if not pieces:
        start = bounds[0].unsqueeze(1)
        return RowsDense(start, torch.zeros_like(start), start, y0.view(1, 1, rows, -1), bounds, direction)
    t0 = torch.stack([p.span.t for p in pieces], dim=1)
    t1 = torch.stack([p.span.t1 for p in pieces], dim=1)
    taken = torch.stack([p.span.moved for p in pieces], dim=1)
    until = torch.where(taken, t1.detach(), -torch.inf).cummax(1).values
    coefficients = [coefficients_of(p, rows) for p in pieces]
    return RowsDense(t0, t1 - t0, until.contiguous(), torch.stack(coefficients), bounds, direction)


def coefficients_of(piece: Piece, rows: int) -> Tensor:
    """``[P + 1, B, D]``: ``y(t0 + theta * dt) = sum_p theta^p * c_p`` in the step of each row."""
    higher = (piece.weights @ piece.k.to(piece.weights.dtype)).to(piece.y0.dtype).view(len(piece.weights), rows, -1)
    size = (piece.span.t1 - piece.span.t).to(piece.y0.dtype).view(1, rows, 1)
    moved = piece.span.moved.view(1, rows, 1)
    return torch.cat(
        [piece.y0.view(1, rows, -1), torch.where(moved, higher * size, 0)]
    )  # a rejected step may have overflowed


class RowPolynomials:
    """The solutions of the rows in one attempted step: callable ``t [..., B] -> [..., B, D]``.

    Args:
        piece: the step.
        here: the rows it is about, ``[B]``; the others stay at its start, which a time ``t [B]`` for all has to respect.

    Attributes:
        t: where the rows start, ``[B]``, without gradient.
    """

    def __init__(self, piece: Piece, here: Tensor):
        self.t = piece.span.t.detach()
        self.t0, dt = piece.span.t, piece.span.t1 - piece.span.t
        self.dt = torch.where(here, dt, 1)
        start, *higher = coefficients_of(piece, len(here))
        self.coefficients = [start, *(torch.where(here.unsqueeze(1), c, 0) for c in higher)]

    def __call__(self, t: Tensor) -> Tensor:
        *lower, y = self.coefficients
        theta = ((t - self.t0) / self.dt).to(y.real.dtype).unsqueeze(-1)
        y = y.expand(*theta.shape[:-1], -1)
        for c in reversed(lower):
            y = c + y * theta
        return y
