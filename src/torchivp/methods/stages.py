"""The slopes of a step, stage by stage."""

from __future__ import annotations

import torch

from .._types import Rows, Slopes
from ..transforms import recorded

_LARGE = (
    2_000  # numbers in a state from which a buffer costs less than copies of all slopes so far (docs/design/speed.md)
)


class Stages:
    """Slopes that become more; ``k [s, D]`` holds those so far.

    Args:
        first: the slope at the start.
        most: how many there will be.

    Attributes:
        owned: the slopes are copies that nobody else writes into.
    """

    def __init__(self, first: Rows, most: int):
        self.k: Slopes = first
        self.owned = first.numel() >= _LARGE and not torch.is_grad_enabled() and not recorded()  # nobody looks back
        if self.owned:
            self.buffer = first.new_empty(most, first.shape[1])
            self.places = self.buffer.split(1)
            self.places[0].copy_(first)
            self.k = self.places[0]

    def add(self, slope: Rows) -> None:
        if self.owned:
            s = len(self.k)
            self.places[s].copy_(slope)
            self.k = self.buffer[: s + 1]
        else:
            self.k = torch.cat((self.k, slope))

    def kept(self, newest: Rows) -> Rows:
        """The newest slope, kept over later calls of ``f``: it may return one buffer every time."""
        return self.places[len(self.k) - 1] if self.owned else newest.clone()
