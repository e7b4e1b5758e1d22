"""What the loop leaves behind: the states that were asked for, and the steps somebody looks into."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from ._types import Rows, Slopes, Time
from .field import Span
from .methods.base import History


class Piece(NamedTuple):
    """One accepted step with its interpolant.

    Attributes:
        span: its interval (times may be tensors, where they carry gradients).
        y0: state at its start ``[1, D]``.
        k: slopes ``[S, D]``; ``weights [P, S]`` turns them into the step's polynomial.
    """

    span: Span
    y0: Rows
    k: Slopes
    weights: Tensor


class Knot(NamedTuple):
    """An output at a step point: entry ``knot`` of ``Trajectory.knots``."""

    knot: int
    t: Time


class Inside(NamedTuple):
    """An output inside a step: time ``t`` in entry ``piece`` of ``Trajectory.pieces``."""

    piece: int
    t: Time


class Found(NamedTuple):
    """An event found: number of the event function, piece and time."""

    event: int
    piece: int
    t: float


@dataclass
class Trajectory:
    """The outcome of a loop; its tensors carry the graph a gradient method gave them.

    Attributes:
        knots: states ``[1, D]`` at step points that are outputs.
        pieces: the steps that contain outputs or events (all of them for dense output).
        outputs: what was asked for, in the order of time.
        events: the events found, in the order of time.
        end, end_time: the last state, and how far the solve came.
        held: numbers held by the pieces.
    """

    end: Rows
    end_time: float
    knots: list[Rows] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    outputs: list[Knot | Inside] = field(default_factory=list)
    events: list[Found] = field(default_factory=list)
    held: int = 0

    def add_knot(self, t: Time, y: Rows) -> int:
        """A state at a step point that is an output."""
        self.knots.append(y)
        self.outputs.append(Knot(len(self.knots) - 1, t))
        return len(self.knots) - 1

    def add_piece(self, piece: Piece) -> int:
        self.pieces.append(piece)
        self.held += piece.k.numel()
        return len(self.pieces) - 1


class TapeEntry(NamedTuple):
    """One accepted step as a backward pass needs it: enough to take it again, exactly.

    Attributes:
        span: its interval, as floats.
        y0: state at its start.
        history, ready: what the step started from (see ``methods.base.Step``).
        looked_into: the interpolant's extra stages were evaluated.
        knot, piece: numbers of the knot and piece this step became, or None.
    """

    span: Span
    y0: Rows
    history: History
    ready: bool
    looked_into: bool
    knot: int | None
    piece: int | None
