"""What the loop over many rows leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from .._types import Rows
from ..trajectory import Piece
from .problem import RowClock


class AtEnds(NamedTuple):
    """Outputs at ends of steps: of ``rows [n]`` in entry ``knot`` of ``RowTrajectory.knots``, each its row's output number
    ``columns [n]``, at times ``t [n]``."""

    knot: int
    rows: Tensor
    columns: Tensor
    t: Tensor


class InSteps(NamedTuple):
    """Outputs inside steps: the same in entry ``piece`` of ``RowTrajectory.pieces``."""

    piece: int
    rows: Tensor
    columns: Tensor
    t: Tensor


class Values(NamedTuple):
    """Outputs whose values ``[n, D]`` are known, because nobody needs the steps they come from."""

    values: Tensor
    rows: Tensor
    columns: Tensor
    t: Tensor


class RowEvents(NamedTuple):
    """Events found in one step: of event function ``event`` in ``rows [n]`` at times ``t [n]``, in entry ``piece``."""

    event: int
    piece: int
    rows: Tensor
    t: Tensor


class KnownEvents(NamedTuple):
    """Events whose states ``y [n, D]`` are known, because nobody needs the steps they come from."""

    event: int
    rows: Tensor
    t: Tensor
    y: Tensor


@dataclass
class RowTrajectory:
    """The outcome of a loop; its tensors carry the graph a gradient method gave them.

    Attributes:
        end: the last states ``[1, B * D]``; ``end_time``: how far every row came ``[B]``.
        knots: states ``[1, B * D]`` at ends of steps that are outputs of some rows.
        pieces: attempted steps that contain outputs or events of some rows (all of them for dense output).
        outputs: what was asked for and is not at the end.
        events: those found.
        counts: how many outputs every row has so far, ``[B]``.
        held: numbers held by the pieces.
    """

    end: Rows
    end_time: Tensor
    counts: Tensor
    knots: list[Rows] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    outputs: list[AtEnds | InSteps | Values] = field(default_factory=list)
    events: list[RowEvents | KnownEvents] = field(default_factory=list)
    held: int = 0

    def starts(self, t0: Tensor) -> int:
        """How many of the first knots are the start."""
        return sum(isinstance(o, AtEnds) and o.knot == 0 and bool((o.t == t0).all()) for o in self.outputs[:1])

    def add_piece(self, piece: Piece) -> int:
        self.pieces.append(piece)
        self.held += piece.k.numel()
        return len(self.pieces) - 1

    def add_knot(self, y: Rows) -> int:
        self.knots.append(y)
        return len(self.knots) - 1

    def with_times(self, clock: RowClock) -> None:
        """Give the outputs' times their gradients."""
        self.outputs = [o._replace(t=clock.at(o.t, o.rows)) for o in self.outputs]


def at(piece: Piece, rows: Tensor, t: Tensor) -> Tensor:
    """States ``[n, D]`` of ``rows [n]`` at times ``t [n]`` on the polynomials of a piece."""
    span, weights = piece.span, piece.weights
    n = len(span.t)
    start, size = span.t[rows], (span.t1 - span.t)[rows]
    theta = ((t - start) / size).to(weights.dtype if not weights.is_complex() else weights.real.dtype)
    powers = theta.unsqueeze(1) ** torch.arange(1, len(weights) + 1, device=theta.device)
    by_slope = (powers.to(weights.dtype) @ weights) * size.unsqueeze(1).to(weights.dtype)
    k = piece.k.view(len(piece.k), n, -1)[:, rows]
    moved = (by_slope.T.unsqueeze(2) * k).sum(0)
    return piece.y0.view(n, -1)[rows] + moved.to(piece.y0.dtype)
