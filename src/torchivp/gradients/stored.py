"""The stored solution, read from its end to its start."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import torch

from .._types import Rows
from ..field import Field
from ..methods import Method
from ..runners.eager import Run
from ..trajectory import Piece
from .replay import Again, tape_of

Pieces = Callable[[Field], Iterator[Piece]]
"""The pieces of a solution from last to first, given the field they can be computed again with."""


def from_pieces(out: Run) -> Pieces:
    """Pieces that were kept."""
    pieces = [Piece(p.span, p.y0.detach(), p.k.detach(), p.weights) for p in out.trajectory.pieces]
    return lambda field: reversed(pieces)


def from_tape(out: Run, method: Method) -> Pieces:
    """Pieces that are computed again, from the starts that were kept."""
    tape = tape_of(out)

    def pieces(field: Field) -> Iterator[Piece]:
        again = Again(method, field)
        for entry, start in tape.rewind(again):
            step = again.take(entry._replace(looked_into=True), start)
            yield Piece(entry.span, start.y, step.k, step.weights)

    return pieces


class Stored:
    """The solution as a function of time, for times that go back and forth a little, but back on the whole.

    Args:
        pieces: from last to first.
    """

    def __init__(self, pieces: Iterator[Piece]):
        self.pieces = pieces
        self.held: deque[Piece] = deque()

    def __call__(self, t: float) -> Rows:
        """The state ``[1, D]`` at the time ``t`` (as inside the forward solve)."""
        while not self.held or t < self.held[0].span.t:
            piece = next(self.pieces, None)
            if piece is None:
                break
            self.held.appendleft(piece)
        return value(next((p for p in self.held if t <= p.span.t1), self.held[-1]), t)

    def forget_after(self, t: float) -> None:
        """Nobody will ask for times after ``t`` any more."""
        while len(self.held) > 1 and self.held[-1].span.t >= t:
            self.held.pop()


def value(piece: Piece, t: float) -> Rows:
    """The polynomial of a piece at the time ``t``, ``[1, D]``."""
    start, size = float(piece.span.t), piece.span.size
    theta, w = (t - start) / size, piece.weights
    powers = torch.tensor([[theta**p for p in range(1, len(w) + 1)]], dtype=w.dtype, device=w.device)
    rows = powers @ w @ piece.k.to(w.dtype)
    return torch.add(piece.y0, rows.to(piece.y0.dtype), alpha=size)
