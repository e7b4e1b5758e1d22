"""The random generators that ``f`` may draw from (dropout): their states, written down and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor


class RandomState(NamedTuple):
    """The states of torch's global generators: the CPU's, and that of one CUDA device."""

    cpu: Tensor
    cuda: Tensor | None
    device: torch.device

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), cuda, device)

    def put_back(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)

    def is_now(self) -> bool:
        """Whether nothing was drawn since."""
        now = RandomState.now(self.device)
        cuda_same = self.cuda is None or now.cuda is None or torch.equal(self.cuda, now.cuda)
        return cuda_same and torch.equal(self.cpu, now.cpu)


class Draws(NamedTuple):
    """States before the slope at the start of a step and before its stages; None where ``f`` draws nothing."""

    slope: RandomState | None = None
    stages: RandomState | None = None


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """The generators go on afterwards as if nothing had been drawn inside."""
    state = RandomState.now(device)
    try:
        yield
    finally:
        state.put_back()
