"""What a backward pass has to know of a compiled solve."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .march import Part, Written
from .outputs import Found


class Pieces(NamedTuple):
    """Steps of a single row that somebody looks into later: their ``slots [n]`` in a call of the loop, starts ``y0 [n, D]``, and
    slopes ``k [n, S, D]``."""

    slots: Tensor
    y0: Tensor
    k: Tensor

    @classmethod
    def of(cls, new: Written, slots: Tensor) -> Pieces:
        return cls(slots, new.y0[slots, 0], new.k[slots, :, 0])


class Path:
    """The calls of a loop, with what was found in each of them.

    Args:
        undoes: the backward pass computes the states where the steps begin, so that none of them are kept.

    Attributes:
        parts: the calls; where steps are undone without states, but for those where a series of calls ended.
        found: the outputs in them; ``looked``: which of their steps were looked into; ``pieces``: those that somebody looks into
            later, if any.
    """

    def __init__(self, undoes: bool = False):
        self.undoes = undoes
        self.parts: list[Part] = []
        self.found: list[Found | None] = []
        self.looked: list[list[bool]] = []
        self.pieces: list[Pieces | None] = []

    def add(self, part: Part, found: Found | None, looked: list[bool], pieces: Pieces | None = None) -> None:
        if self.undoes:
            part = part._replace(record=part.record.times)
            if not part.restarts:
                self.parts[-1] = self.parts[-1]._replace(end=None)
        self.parts.append(part)
        self.found.append(found)
        self.looked.append(looked)
        self.pieces.append(pieces)
