"""The shapes everything inside the library agrees on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxtyping import Inexact
from torch import Tensor

Rows = Inexact[Tensor, "1 D"]
"""The state inside the library: one row of D numbers."""

BackwardRow = Inexact[Tensor, "1 E"]
"""A row of a backward solve: the adjoint, and whatever is integrated along with it."""

Slopes = Inexact[Tensor, "S D"]
"""The stage slopes of one step."""

if TYPE_CHECKING:
    Time = Any  # which of the two is decided once per solve, not by type
else:
    Time = float | Tensor
    """A time inside the library: a float, or a 0-d float64 tensor where times carry gradients."""

PyTree = Any
VectorField = Callable[..., PyTree]
