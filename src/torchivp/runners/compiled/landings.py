"""Times to land on: every attempt looks at all that the loop has, so that of a fine grid it gets those that come next."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MOST, _LEAST = 1024, 8


class Landings:
    """
    Args:
        times: as in ``Fixed``, in order behind the end.
        unroll: the loop makes so many attempts before it sees that it has made enough.

    Attributes:
        attempts: so many may be made before the loop has to be given the next times.
    """

    def __init__(self, times: Tensor, unroll: int):
        self.times, self.end, self.others = times, times[..., :1], times[..., 1:].contiguous()
        rows = times[..., 0].numel()
        few = max(_LEAST, round(_MOST / math.sqrt(rows)))
        self.room = few + unroll - 1
        self.attempts = few if self.others.shape[-1] > self.room else 2**40

    def ahead(self, t: Tensor) -> Tensor:
        """The end, and those behind ``t [*batch]``, as many as there is room for, ``[*batch, 1 + room]``."""
        last = self.others.shape[-1] - 1
        if last < self.room:
            return self.times
        first = torch.searchsorted(self.others, t.unsqueeze(-1), right=True)
        at = first + torch.arange(self.room, device=t.device)
        return torch.cat((self.end, torch.where(at > last, math.inf, self.others.gather(-1, at.clamp(max=last)))), -1)
