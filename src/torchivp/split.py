"""A slope in two parts: one that is stiff, and the rest."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ._types import PyTree
from .errors import InputTypeError
from .state import flatten, unflatten


class Split:
    """``f(t, y) = implicit(t, y) + explicit(t, y)``, to be used as ``f`` of any solve.

    The methods ``kencarp3``, ``kencarp4`` and ``kencarp5`` take the first part implicitly and the second explicitly (IMEX):
    they differentiate and iterate the first part alone. Every other method takes the sum, as do all under ``torch.func.vmap``.

    Args:
        implicit: the stiff part, ``f(t, y)`` or ``f(t, y, args)``. Gets and returns what any ``f`` does.
        explicit: the rest, the same. Best cheap and smooth, for it limits the steps as it does those of an explicit method.

    Raises:
        InputTypeError: if a part cannot be called.

    Example:
        >>> f = torchivp.Split(implicit=lambda t, y: -1000 * y, explicit=lambda t, y: torch.cos(t) * y)
        >>> sol = torchivp.solve(f, torch.ones(3), (0.0, 1.0), method="kencarp4")

    Source: Kennedy & Carpenter 2003, doi:10.1016/S0168-9274(02)00138-1.
    """

    def __init__(self, implicit: Any, explicit: Any):
        for name, part in (("implicit", implicit), ("explicit", explicit)):
            if not callable(part):
                raise InputTypeError(
                    f"The {name} part of a Split is a {type(part).__name__}, which cannot be called. Give a function f(t, y)."
                )
        self.implicit = implicit
        self.explicit = explicit

    def __call__(self, t: Any, y: PyTree, *args: Any) -> PyTree:
        """The sum of both."""
        first, spec = flatten(self.implicit(t, y, *args))
        first = [x.clone() if isinstance(x, Tensor) else x for x in first]  # the other part may return the same buffer
        second, _ = flatten(self.explicit(t, y, *args))
        return unflatten(spec, [a + b for a, b in zip(first, second)])
