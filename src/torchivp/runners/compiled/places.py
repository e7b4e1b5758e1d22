"""Where the arguments and results of a traced graph come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Place(NamedTuple):
    """Where an argument or a result of the traced graph comes from.

    Attributes:
        kind: ``t``, ``y`` (number ``i`` of the state's tensors), ``size`` (axis ``axis`` of it), ``held`` (number ``i`` of the
            tensors that ``f`` closes over or gets as args), ``out`` (number ``i`` of what the graph computes), or ``number``
            (``i`` itself: a whole number that ``f`` closes over).
    """

    kind: str
    i: int = 0
    axis: int = 0

    def pick(self, t: Tensor, ys: Sequence[Tensor], held: Sequence[Tensor], out: Sequence[Tensor] = ()) -> Any:
        if self.kind == "t":
            return t
        if self.kind == "number":
            return self.i
        if self.kind == "size":
            return ys[self.i].shape[self.axis]
        return {"y": ys, "held": held, "out": out}[self.kind][self.i]
