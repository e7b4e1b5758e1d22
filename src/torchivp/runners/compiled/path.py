"""What a backward pass has to know of a compiled solve."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...problem import Problem
from ...trajectory import Piece, Series, TapeEntry
from .march import Loop, Part, Written, up_to, written
from .outputs import Found, ends_in
from .program import Record
from .step import Where


class Pieces(NamedTuple):
    """Steps that somebody looks into later: their ``slots [n]`` in a call of the loop, starts ``y0 [n, B, D]``, and slopes
    ``k [n, S, B, D]``."""

    slots: Tensor
    y0: Tensor
    k: Tensor

    @classmethod
    def of(cls, new: Written, slots: Tensor) -> Pieces:
        return cls(slots, new.y0[slots], new.k[slots])


class Path:
    """The calls of a loop, with what was found in each of them.

    Args:
        undoes: the backward pass computes the states where the steps begin, so that none of them are kept.
        series: it takes the steps again, from the starts of calls of so many of them.

    Attributes:
        kept: the starts of calls, where steps are taken again.
        parts: the calls; where steps are undone without states, but for those where a series of calls ended.
        found: the outputs in them; ``looked``: which of their steps were looked into; ``pieces``: those that somebody looks into
            later, if any.
        entries: the steps, where somebody looked at them one by one.
    """

    def __init__(self, undoes: bool = False, series: Series | None = None):
        self.undoes, self.restarts = undoes, False
        self.most = None if series is None else series.steps
        self.kept: Any = None if series is None else series.tape()
        self.parts: list[Part] = []
        self.found: list[Found | None] = []
        self.looked: list[list[bool]] = []
        self.pieces: list[Pieces | None] = []
        self.entries: list[TapeEntry] = []

    def add(self, part: Part, found: Found | None, looked: list[bool], pieces: Pieces | None = None) -> None:
        part = part._replace(restarts=part.restarts or self.restarts)
        self.restarts = part.restarts and not part.steps  # nothing of a call without a step is kept
        if not part.steps:
            return
        if self.kept is not None:
            part = self.without_states(part)
        if self.undoes:
            part = part._replace(record=part.record.times)
            if not part.restarts:
                self.parts[-1] = self.parts[-1]._replace(end=None)
        self.parts.append(part)
        self.found.append(found)
        self.looked.append(looked)
        self.pieces.append(pieces)

    def note(self, loop: Loop, part: Part, entries: dict[int, TapeEntry], looked: list[bool], until: Tensor) -> None:
        """A call whose steps were looked at one by one.

        Args:
            entries: of its steps, by slot; ``looked``: which of them were looked into.
            until: so many slots count, of every row ``[B]``.
        """
        part = up_to(part, until)
        new = written(loop, part)
        knots, pieces = (
            torch.tensor(
                [slot for slot, entry in entries.items() if getattr(entry, name) is not None], dtype=torch.int64
            )
            for name in ("knot", "piece")
        )
        self.entries += entries.values()
        self.add(part, ends_in(new, knots), looked, Pieces.of(new, pieces) if len(pieces) else None)

    def attach(self, problem: Problem, trajectory: Any, weights: Tensor, values: Tensor, y0: Tensor, k: Tensor) -> None:
        """Put a gradient on the knots and pieces of a trajectory that these entries made.

        Args:
            weights: of the interpolant.
            values: states at the knots, ``[n * B, D]``; ``y0``, ``k``: starts and slopes of the pieces.
        """
        starts = trajectory.starts(problem.t0)
        trajectory.knots[:starts] = [problem.y0] * starts
        knots = [entry.knot for entry in self.entries if entry.knot is not None]
        for knot, value in zip(knots, values.split(problem.layout.rows)):
            trajectory.knots[knot] = value.reshape(1, -1)
        pieces = [entry for entry in self.entries if entry.piece is not None]
        for entry, begins, slopes in zip(pieces, y0.flatten(1).split(1), k.flatten(2)):
            trajectory.pieces[entry.piece] = Piece(problem.timed(entry.span), begins, slopes, weights)

    def without_states(self, part: Part) -> Part:
        """The part with its times alone; where it began is kept as the tape says."""
        record: Record = part.record
        first = ((y[0] for y in record.ys), (k[0, 0] for k in record.ks), (x[0] for x in record.past))
        self.kept.add(len(self.parts), Where(*(tuple(x.clone() for x in xs) for xs in first)), None)
        accepted, tries, t, t1 = (x[: part.steps].clone() for x in record.times[:4])
        return part._replace(record=Record(accepted, tries, t, t1, (), ()), end=None)
