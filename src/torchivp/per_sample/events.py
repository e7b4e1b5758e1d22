"""Events row by row: where a function of every row's solution crosses zero."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..events import Event
from ..trajectory import Piece
from .loop import RowsState, RowsTaken
from .problem import RowsProblem
from .trajectory import RowEvents


class RowDetector:
    """Looks for events step by step, in all rows at once.

    Args:
        events: what to look for; their functions get all rows, ``g(t: [B], y: [B, ...]) -> [B]``.
        problem: gives the user's view of times and states.
        state: at the start.

    Attributes:
        stopped: where each row met a terminal event, ``[B]``; inf where it did not.
    """

    def __init__(self, events: tuple[Event, ...], problem: RowsProblem, state: RowsState):
        self.stopped: Tensor = torch.full_like(problem.t0, torch.inf)
        raise InputError("events= with batch_dims= is on its way. Solve the rows one by one.")

    def find(self, taken: RowsTaken, piece: Piece, index: int, state: RowsState) -> list[RowEvents]:
        """The events in an attempted step, of the rows that take it, up to the first terminal one of each."""
        return []
