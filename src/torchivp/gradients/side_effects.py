"""What taking steps again must not do twice: move running statistics, draw random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..field import Field
from ..randomness import RandomState, random_state_kept


class Watched:
    """Remembers how things stand before an evaluation of ``f``, to see what it leaves behind.

    Args:
        objects: what ``f`` is made of.
        device: of the state.
    """

    def __init__(self, objects: Iterable[Any], device: torch.device):
        self.random = RandomState.now(device)
        self.versions = [
            (module, {name: (b, b._version) for name, b in module._buffers.items() if b is not None})
            for module in objects
            if isinstance(module, nn.Module) and module._buffers
        ]

    def draws(self) -> bool:
        """Whether random numbers were drawn since."""
        return not self.random.is_now()

    def moved(self) -> list[nn.Module]:
        """The modules with buffers that changed since. (A BatchNorm's statistics do not show it, its counter does.)"""
        return [
            module
            for module, versions in self.versions
            if any(module._buffers.get(name) is not b or b._version != v for name, (b, v) in versions.items())
        ]


@contextmanager
def no_side_effects(field: Field, moving: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, ``f`` may be evaluated any number of times: the buffers of its ``moving`` modules (the running statistics of a
    BatchNorm) and the random generators are as before afterwards."""
    before = [(module, name, b, b.detach().clone()) for module in moving for name, b in _buffers(module)]
    with ExitStack() as stack:
        if field.draws:
            stack.enter_context(random_state_kept(field.layout.device))
        try:
            yield
        finally:
            with torch.no_grad():
                for module, name, buffer, value in before:
                    module._buffers[name] = buffer.copy_(value)


def _buffers(module: Any) -> list[tuple[str, Tensor]]:
    return [(name, b) for name, b in module._buffers.items() if b is not None]
