"""The stored solution, read from its end to its start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .._types import Rows
from ..field import Field, time_dtype
from ..problem import Clock
from ..runners.eager import Run
from ..trajectory import Piece
from .replay import Again, tape_of


class Pieces(NamedTuple):
    """The pieces of a solution.

    Attributes:
        times: where they begin.
        read: gives them from last to first, from the field they can be computed again with.
        kept: all of them from first to last, if they were kept.
    """

    times: list[float]
    read: Callable[[Field], Iterator[Piece]]
    kept: list[Piece] | None = None


def from_pieces(out: Run) -> Pieces:
    """Pieces that were kept."""
    pieces = [Piece(p.span, p.y0.detach(), p.k.detach(), p.weights) for p in out.trajectory.pieces]
    return Pieces([float(p.span.t) for p in pieces], lambda field: reversed(pieces), pieces)


def from_tape(out: Run) -> Pieces:
    """Pieces that are computed again, from the starts that were kept."""
    tape = tape_of(out)

    def read(field: Field) -> Iterator[Piece]:
        again = Again(field, Clock(None))
        for entry, start in tape.rewind(again):
            step = again.take(entry._replace(looked_into=True), start)
            yield Piece(entry.span, start.y, step.k, step.weights)

    return Pieces([float(entry.span.t) for entry in tape.entries], read)


class Stored:
    """The solution as a function of time, one piece after the other from its end to its start.

    Args:
        pieces: from last to first.
    """

    def __init__(self, pieces: Iterator[Piece]):
        self.pieces = pieces
        self.piece = next(pieces)

    def __call__(self, t: Tensor | float) -> Rows:
        """The state ``[1, D]`` at the time ``t`` (as inside the forward solve) in the piece at hand."""
        return value(self.piece, t)

    def came_to(self, t: float) -> None:
        """From here on, earlier times are asked for."""
        while t <= self.piece.span.t:
            following = next(self.pieces, None)
            if following is None:
                return
            self.piece = following


def value(piece: Piece, t: Tensor | float) -> Rows:
    """The polynomial of a piece at the time ``t``, ``[1, D]``."""
    start, size, w = float(piece.span.t), piece.span.size, piece.weights
    theta = (torch.as_tensor(t, dtype=time_dtype(w.device), device=w.device) - start) / size
    powers = (theta ** torch.arange(1, len(w) + 1, device=w.device)).to(w.dtype).unsqueeze(0)
    rows = powers @ w @ piece.k.to(w.dtype)
    return torch.add(piece.y0, rows.to(piece.y0.dtype), alpha=size)
