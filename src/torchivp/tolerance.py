"""What "small enough" means: the one definition that controller, first step and events share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._types import PyTree, Rows
from .errors import InputError
from .estimates import combined
from .names import named
from .state import Layout
from .transforms import as_float

Norm = Callable[[Tensor], Tensor]


def rms_norm(x: Tensor) -> Tensor:
    """Root mean square of all entries (0 for an empty tensor)."""
    return torch.linalg.vector_norm(x) / max(1, x.numel()) ** 0.5


def max_norm(x: Tensor) -> Tensor:
    """Largest absolute value (0 for an empty tensor)."""
    return torch.linalg.vector_norm(x, math.inf) if x.numel() else x.new_zeros(()).real


def norm_for(name: str | Callable[[PyTree], Tensor], layout: Layout) -> Norm:
    """The ``norm=`` of the front door: by name, or a function of the scaled error in the form of the state."""
    if callable(name):
        return OfState(name, layout)
    return named("norm", name, {"rms": lambda: rms_norm, "max": lambda: max_norm, "rows": lambda: of_rows_of(layout)})()


@dataclass(frozen=True)
class OfState:
    """A norm of the scaled error in the form of the state.

    Args:
        norm: the user's; layout: of the state.
    """

    norm: Callable[[PyTree], Tensor]
    layout: Layout

    def __call__(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.norm(self.layout.unravel(x)))


def of_rows_of(layout: Layout) -> Norm:
    """The largest root mean square of a row; the first axis of every tensor counts the rows."""
    if not all(shape[:1] == layout.shapes[0][:1] and len(shape) for shape in layout.shapes):
        raise InputError(
            f"norm='rows' takes the first axis of every tensor of y0 for its rows, but these have shapes "
            f"{', '.join(str(tuple(shape)) for shape in layout.shapes)}. Give all the same first axis, or take norm='rms'."
        )
    rows = layout.shapes[0][0]

    def largest(x: Tensor) -> Tensor:
        parts = [part.view(rows, -1) for part in x.view(-1).split(layout.sizes)]
        by_row = torch.cat(parts, dim=1)
        return (torch.linalg.vector_norm(by_row, dim=1) / max(1, by_row.shape[1]) ** 0.5).amax()

    return largest


@dataclass(frozen=True)
class Tolerance:
    """The mixed criterion ``norm(error / (atol + rtol * max(|y0|, |y1|))) <= 1``.

    Args:
        rtol: relative tolerance, a float or ``[1, D]``.
        atol: absolute tolerance in the units of y, a 0-d tensor or ``[1, D]``.
        norm: ``[1, D] -> scalar``; root mean square over all entries unless said otherwise.
    """

    rtol: float | Tensor
    atol: Tensor
    norm: Norm = rms_norm

    def scale(self, *states: Rows) -> Tensor:
        """``atol + rtol * |y|``, with the largest of the states given."""
        size = states[0].abs()
        for y in states[1:]:
            size = torch.maximum(size, y.abs())
        if isinstance(self.rtol, Tensor):
            return torch.addcmul(self.atol, self.rtol, size)
        return torch.add(self.atol, size, alpha=self.rtol)

    def ratio(self, error: Rows, y0: Rows, y1: Rows, lower: Rows | None = None) -> float:
        """Error over tolerance: a step is good enough at 1 or less; nan if ``y1`` overflowed. One host synchronisation.

        Under vmap the worst row speaks for all.

        Args:
            error: the estimate, and ``lower`` the second one of a method that has two (``Step``).
            y0, y1: start and end of the step.
        """
        if torch.is_grad_enabled():
            error, y0, y1 = error.detach(), y0.detach(), y1.detach()
        return as_float(self.ratio_of(error, y0, y1, lower))

    def ratio_of(self, error: Rows, y0: Rows, y1: Rows, lower: Rows | None = None) -> Any:
        """The same as a tensor, without a look at the device."""
        scale = self.scale(y0, y1)
        error = torch.add(error, y1, alpha=0)  # inf * 0 is nan: an infinite y1 would hide behind its own scale
        ratio = self.norm(error / scale)
        return ratio if lower is None else combined(ratio, self.norm(lower.detach() / scale))
