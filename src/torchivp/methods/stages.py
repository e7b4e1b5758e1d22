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
    """

    def __init__(self, first: Rows, most: int):
        self.k: Slopes = first
        self.buffer: Slopes | None = None
        if first.numel() >= _LARGE and not torch.is_grad_enabled() and not recorded():  # nobody looks back
            self.buffer = first.new_empty(most, first.shape[1])
            self.buffer[0] = first[0]
            self.k = self.buffer[:1]

    def add(self, slope: Rows) -> None:
        if self.buffer is None:
            self.k = torch.cat((self.k, slope))
        else:
            s = len(self.k)
            self.buffer[s] = slope[0]
            self.k = self.buffer[: s + 1]
