"""What the loop leaves behind: the states that were asked for, and the steps somebody looks into."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from ._types import Rows, Slopes, Time
from .methods.base import History, Method, Step
from .randomness import Draws
from .span import Span


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
        known: times ``[T]`` and states ``[T, D]`` of all outputs, where a compiled loop gave them at once.
        polynomials: the same for dense output.
    """

    end: Rows
    end_time: float
    knots: list[Rows] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    outputs: list[Knot | Inside] = field(default_factory=list)
    events: list[Found] = field(default_factory=list)
    held: int = 0
    known: tuple[Any, Tensor] | None = None
    polynomials: Any = None

    def starts(self, t0: float) -> int:
        """How many of the first knots are the start."""
        return sum(isinstance(o, Knot) and o.t == t0 for o in self.outputs)

    def with_times(self, clock: Callable[[float], Time]) -> None:
        """Give the outputs' times their gradients."""
        self.outputs = [o._replace(t=clock(o.t)) for o in self.outputs]

    def add_knot(self, t: Time, y: Rows) -> int:
        """A state at a step point that is an output."""
        self.knots.append(y)
        self.outputs.append(Knot(len(self.knots) - 1, t))
        return len(self.knots) - 1

    def add_piece(self, piece: Piece) -> int:
        self.pieces.append(piece)
        self.held += piece.k.numel()
        return len(self.pieces) - 1


class Start(NamedTuple):
    """What a step starts from: the state ``[1, D]``, and the history that ``Method.step`` takes."""

    y: Rows
    history: History


class TapeEntry(NamedTuple):
    """One accepted step as a backward pass needs it: with its start enough to take it again, exactly.

    Attributes:
        span: its interval, as floats.
        ready: the newest slope of its history is the one at its start; otherwise it has to be evaluated.
        past: how many entries of history it started with.
        looked_into: the interpolant's extra stages were evaluated.
        draws: state of the random generators, where ``f`` draws from them.
        knot, piece: numbers of the knot and piece this step became, or None.
        method: took it; ``origin``: of the matrix it iterated with, if that was kept from step to step.
    """

    span: Span
    ready: bool
    past: int
    looked_into: bool
    draws: Draws
    knot: int | None
    piece: int | None
    method: Method
    origin: Any = None


@runtime_checkable
class StepsAgain(Protocol):
    """Takes accepted steps again, in either direction, without a graph."""

    def onwards(self, entry: TapeEntry, start: Start, following: TapeEntry) -> Start:
        """The start of the following step from that of this one."""

    def undo(self, entry: TapeEntry, end: Start) -> Start:
        """Its start from its end; of reversible methods."""


class Tape(ABC):
    """The accepted steps of a solve, to be read from the last to the first.

    Attributes:
        entries: in the order of time.
        drift: how far from the true ones, relatively, states came out that were computed backwards; known after ``rewind``.
    """

    def __init__(self) -> None:
        self.entries: list[TapeEntry] = []
        self.drift = 0.0

    def add(self, entry: TapeEntry, start: Start, end: Start) -> None:
        """Write down the next accepted step, which leads from ``start`` to ``end``."""
        self.keep(len(self.entries), entry, start, end)
        self.entries.append(entry)

    @abstractmethod
    def keep(self, number: int, entry: TapeEntry, start: Start, end: Start) -> None:
        """Keep what it takes to come back to ``start``."""

    @abstractmethod
    def rewind(self, again: StepsAgain) -> Iterator[tuple[TapeEntry, Start]]:
        """The steps with their starts, last first."""


class Series(NamedTuple):
    """How to keep fewer starts than steps where many steps are taken at once.

    Attributes:
        steps: so many are taken again at once; ``tape``: makes the tape that keeps starts of such series.
    """

    steps: int
    tape: Callable[[], Tape]


def carried(step: Step, entry: TapeEntry) -> History:
    """The history that a step hands on to the next one, which is ``entry``."""
    known = step.history if entry.ready or not step.ready else step.history[1:]
    return known[: entry.past]
