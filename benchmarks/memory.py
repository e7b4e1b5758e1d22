"""Counts the bytes of tensors that are alive at once."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Meter(TorchDispatchMode):
    """Inside, every storage that an operation makes counts from then until it is freed; what was there before does not.

    What an operation needs inside itself and frees again is not seen.

    Attributes:
        alive, peak: bytes, now and at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for x in tree_leaves((args, kwargs)):
            if isinstance(x, Tensor):
                self._see(x, new=False)
        out = func(*args, **kwargs)
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                self._see(x, new=True)
        return out

    def _see(self, x: Tensor, new: bool) -> None:
        storage = x.untyped_storage()
        key = storage._cdata
        if key in self.seen:
            return
        size = storage.nbytes() if new else 0

        def gone(_: Any) -> None:
            del self.seen[key]
            self.alive -= size

        self.seen[key] = weakref.ref(storage, gone)
        self.alive += size
        self.peak = max(self.peak, self.alive)


def checked() -> float:
    """The meter on a known case, what it counts over what is there: a hundred results that a graph keeps, and after the
    backward pass one gradient."""
    x = torch.zeros(1_000, requires_grad=True)
    with Meter() as meter:
        y = x
        for _ in range(100):
            y = y.sin()
        kept = meter.alive
        y.sum().backward()
        del y
    return (kept + meter.alive) / (101 * 4_000)
